-- Takes back what walcast installed. The publications and the replication slot stay, since others may read
-- them; to remove these, too, once walcast is stopped:
--   SELECT pg_drop_replication_slot('walcast');
--   DROP PUBLICATION walcast_messages;
--   DROP PUBLICATION walcast_lookups;
--   DROP PUBLICATION supabase_realtime;
DROP EVENT TRIGGER IF EXISTS walcast_drop;
DROP EVENT TRIGGER IF EXISTS walcast_ddl;

-- Of the schema realtime only what says that walcast made it, and what nothing else depends on.
DO $realtime$
DECLARE
    made record;
    rows_left boolean;
BEGIN
    IF pg_catalog.obj_description(pg_catalog.to_regclass('realtime.messages'), 'pg_class') = 'Made by walcast.' THEN
        BEGIN
            DROP TABLE realtime.messages;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE NOTICE 'realtime.messages is left as it is: %', SQLERRM;
        END;
    ELSIF pg_catalog.obj_description(pg_catalog.to_regclass('realtime.messages_9999_12_31'), 'pg_class')
        = 'Made by walcast.'
    THEN
        -- A default partition in somebody else's table, and messages are theirs.
        EXECUTE 'SELECT EXISTS (SELECT FROM realtime.messages_9999_12_31)' INTO rows_left;
        IF rows_left THEN
            RAISE NOTICE 'the partition realtime.messages_9999_12_31 holds messages and is left as it is';
        ELSE
            DROP TABLE realtime.messages_9999_12_31;
        END IF;
    END IF;
    FOR made IN
        SELECT f.oid::regprocedure AS function FROM pg_catalog.pg_proc AS f
        WHERE f.pronamespace = pg_catalog.to_regnamespace('realtime')
            AND pg_catalog.obj_description(f.oid, 'pg_proc') = 'Made by walcast.'
    LOOP
        BEGIN
            EXECUTE pg_catalog.format('DROP FUNCTION %s', made.function);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE NOTICE '% is left as it is: %', made.function, SQLERRM;
        END;
    END LOOP;
    IF pg_catalog.obj_description(pg_catalog.to_regnamespace('realtime'), 'pg_namespace') = 'Made by walcast.' THEN
        BEGIN
            DROP SCHEMA realtime;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE NOTICE 'the schema realtime is left as it is: %', SQLERRM;
        END;
    END IF;
END
$realtime$;

DROP FUNCTION IF EXISTS walcast.delete_default_messages(date);
DROP FUNCTION IF EXISTS walcast.drop_messages_partition(date);
DROP FUNCTION IF EXISTS walcast.make_messages_partition(date);
DROP FUNCTION IF EXISTS walcast.announce_catalog_change();
DROP SCHEMA IF EXISTS walcast;
