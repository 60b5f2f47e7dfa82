-- The publication by which the log carries messages from the database to walcast: every INSERT, under the name of the
-- partitioned table.
DO $publication$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'walcast_messages') THEN
        CREATE PUBLICATION walcast_messages WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
        WHERE p.pubname = 'walcast_messages' AND r.prrelid = 'realtime.messages'::regclass
    ) THEN
        ALTER PUBLICATION walcast_messages ADD TABLE realtime.messages;
    END IF;
EXCEPTION WHEN insufficient_privilege OR wrong_object_type OR invalid_parameter_value THEN
    RAISE NOTICE 'realtime.messages is not in the publication walcast_messages: %', SQLERRM;
END
$publication$;
