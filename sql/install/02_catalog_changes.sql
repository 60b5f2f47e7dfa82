-- Tells walcast of changes to policies, grants and tables at their very place in the log, so that they take
-- effect between the right two transactions. Without this walcast finds out by polling, some seconds later.
DO $schema$
BEGIN
    -- Asked first, since even IF NOT EXISTS wants the right to create a schema.
    IF pg_catalog.to_regnamespace('walcast') IS NULL THEN
        CREATE SCHEMA walcast;
    END IF;
END
$schema$;

CREATE OR REPLACE FUNCTION walcast.announce_catalog_change() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $function$
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() WHERE NOT is_temporary
        ) THEN
            RETURN;
        END IF;
    ELSIF TG_TAG LIKE 'DROP %' THEN
        -- sql_drop has said so, and knows what was temporary.
        RETURN;
    ELSIF EXISTS (
        SELECT FROM pg_catalog.pg_event_trigger_ddl_commands()
        HAVING pg_catalog.count(*) > 0 AND pg_catalog.bool_and(schema_name IS NOT DISTINCT FROM 'pg_temp')
    ) THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.pg_logical_emit_message(true, 'walcast.ddl', TG_TAG);
EXCEPTION WHEN OTHERS THEN
    -- A notice must never stand in the way of the change it tells of.
    RAISE WARNING 'walcast could not announce %: %', TG_TAG, SQLERRM;
END
$function$;

-- Event triggers belong to superusers; elsewhere walcast goes on polling.
DO $triggers$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'walcast_ddl') THEN
        CREATE EVENT TRIGGER walcast_ddl ON ddl_command_end
            EXECUTE FUNCTION walcast.announce_catalog_change();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'walcast_drop') THEN
        CREATE EVENT TRIGGER walcast_drop ON sql_drop
            EXECUTE FUNCTION walcast.announce_catalog_change();
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no event trigger: %; catalog changes are found by polling', SQLERRM;
END
$triggers$;
