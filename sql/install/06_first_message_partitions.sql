-- The partitions of yesterday, today and three days ahead, and a default one, so that no message is ever
-- refused because a partition is missing. The latter has the name of a day that never comes: the janitor of
-- Supabase Realtime reads every partition's name as a date.
DO $partitions$
DECLARE
    today date := (pg_catalog.now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF (SELECT relkind FROM pg_catalog.pg_class WHERE oid = 'realtime.messages'::regclass) <> 'p' THEN
        RAISE NOTICE 'realtime.messages is not partitioned and is left as it is';
        RETURN;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'realtime.messages'::regclass
            AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'
    ) THEN
        CREATE TABLE realtime.messages_9999_12_31 PARTITION OF realtime.messages DEFAULT;
        COMMENT ON TABLE realtime.messages_9999_12_31 IS 'Made by walcast.';
        ALTER TABLE realtime.messages_9999_12_31 ENABLE ROW LEVEL SECURITY;
    END IF;
    PERFORM walcast.make_messages_partition(today + ahead) FROM pg_catalog.generate_series(-1, 3) AS ahead;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'realtime.messages belongs to somebody else and gets no partitions: %', SQLERRM;
END
$partitions$;
