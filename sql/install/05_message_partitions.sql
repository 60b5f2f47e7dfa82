-- One partition of realtime.messages for each day, in UTC. Walcast calls these functions every few hours; see
-- "janitor" in docs/operations.md.
DO $schema$
BEGIN
    IF pg_catalog.to_regnamespace('walcast') IS NULL THEN
        CREATE SCHEMA walcast;
    END IF;
END
$schema$;

-- Makes the partition of a day: 'made', 'there', or 'default' where rows of that day are in the default partition
-- already, which then keeps the whole day. Writers of the table are not kept waiting: the new table is attached, which
-- takes no lock that an INSERT conflicts with, except on the default partition.
CREATE OR REPLACE FUNCTION walcast.make_messages_partition(day date) RETURNS text
LANGUAGE plpgsql SET search_path = ''
AS $function$
DECLARE
    partition text := pg_catalog.to_char(day, '"messages_"YYYY_MM_DD');
    owner name := (
        SELECT pg_catalog.pg_get_userbyid(relowner) FROM pg_catalog.pg_class WHERE oid = 'realtime.messages'::regclass
    );
BEGIN
    IF pg_catalog.to_regclass('realtime.' || partition) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    EXECUTE pg_catalog.format('CREATE TABLE realtime.%I (LIKE realtime.messages INCLUDING ALL)', partition);
    EXECUTE pg_catalog.format('COMMENT ON TABLE realtime.%I IS %L', partition, 'Made by walcast.');
    -- Whoever names the partition itself does not pass the policies of the table.
    EXECUTE pg_catalog.format('ALTER TABLE realtime.%I ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE pg_catalog.format(
        'ALTER TABLE realtime.messages ATTACH PARTITION realtime.%I FOR VALUES FROM (%L) TO (%L)',
        partition, day::timestamp, (day + 1)::timestamp
    );
    IF owner <> CURRENT_USER THEN
        EXECUTE pg_catalog.format('ALTER TABLE realtime.%I OWNER TO %I', partition, owner);
    END IF;
    RETURN 'made';
EXCEPTION
    WHEN check_violation THEN
        RETURN 'default';
    -- Somebody else has made it in between.
    WHEN duplicate_table OR unique_violation THEN
        RETURN 'there';
END
$function$;

-- Drops one partition whose day is before the given one, and says which; NULL where there is none left.
CREATE OR REPLACE FUNCTION walcast.drop_messages_partition(before date) RETURNS text
LANGUAGE plpgsql SET search_path = ''
AS $function$
DECLARE
    partition text;
BEGIN
    SELECT c.relname INTO partition
    FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = pg_catalog.to_regclass('realtime.messages')
        AND c.relnamespace = pg_catalog.to_regnamespace('realtime')
        AND c.relname ~ '^messages_\d{4}_\d{2}_\d{2}$'
        AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
        AND pg_catalog.translate(pg_catalog.right(c.relname, 10), '_', '-') < pg_catalog.to_char(before, 'YYYY-MM-DD')
    ORDER BY c.relname
    LIMIT 1;
    IF partition IS NOT NULL THEN
        EXECUTE pg_catalog.format('DROP TABLE realtime.%I', partition);
    END IF;
    RETURN partition;
END
$function$;

-- Deletes what the default partition holds of the time before a day, a thousand rows at most; says how many.
CREATE OR REPLACE FUNCTION walcast.delete_default_messages(before date) RETURNS bigint
LANGUAGE plpgsql SET search_path = ''
AS $function$
DECLARE
    partition regclass;
    deleted bigint := 0;
BEGIN
    SELECT c.oid INTO partition
    FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = pg_catalog.to_regclass('realtime.messages')
        AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT';
    IF partition IS NOT NULL THEN
        EXECUTE pg_catalog.format(
            'DELETE FROM %1$s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE inserted_at < %2$L LIMIT 1000))',
            partition, before::timestamp
        );
        GET DIAGNOSTICS deleted = ROW_COUNT;
    END IF;
    RETURN deleted;
END
$function$;

-- Nobody but walcast calls them.
REVOKE ALL ON FUNCTION walcast.make_messages_partition(date), walcast.drop_messages_partition(date),
    walcast.delete_default_messages(date) FROM PUBLIC;
