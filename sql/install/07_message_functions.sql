-- What policies and triggers call (docs/protocol.md §6.5). A function that somebody else made is left as it is.
DO $functions$
DECLARE
    wanted record;
    found regprocedure;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        -- One SELECT without settings of its own, so that PostgreSQL and walcast put it in place of its call.
        ('realtime.topic()', $definition$
CREATE OR REPLACE FUNCTION realtime.topic() RETURNS text
LANGUAGE sql STABLE
AS $body$ SELECT nullif(current_setting('realtime.topic', true), '')::text $body$
        $definition$),

        ('realtime.send(jsonb, text, text, boolean)', $definition$
CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
RETURNS void LANGUAGE plpgsql SET search_path = ''
AS $body$
DECLARE
    id uuid := pg_catalog.gen_random_uuid();
    moment timestamp := pg_catalog.clock_timestamp() AT TIME ZONE 'UTC';
BEGIN
    IF pg_catalog.jsonb_typeof(payload) <> 'object' THEN
        RAISE EXCEPTION 'the payload must be a JSON object, not %', pg_catalog.jsonb_typeof(payload);
    END IF;
    -- Policies on INSERT may read it.
    PERFORM pg_catalog.set_config('realtime.topic', topic, true);
    INSERT INTO realtime.messages (id, topic, extension, event, payload, private, inserted_at, updated_at)
    VALUES (
        id, topic, 'broadcast', event, pg_catalog.jsonb_build_object('id', id) || payload, private, moment, moment
    );
EXCEPTION WHEN OTHERS THEN
    -- What is announced must not fail for the announcement.
    RAISE WARNING 'WarnSendingBroadcastMessage: %', SQLERRM;
END
$body$
        $definition$),

        ('realtime.send_binary(bytea, text, text, boolean)', $definition$
CREATE OR REPLACE FUNCTION realtime.send_binary(payload bytea, event text, topic text, private boolean DEFAULT true)
RETURNS void LANGUAGE plpgsql SET search_path = ''
AS $body$
DECLARE
    moment timestamp := pg_catalog.clock_timestamp() AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_catalog.set_config('realtime.topic', topic, true);
    INSERT INTO realtime.messages (topic, extension, event, binary_payload, private, inserted_at, updated_at)
    VALUES (topic, 'broadcast', event, payload, private, moment, moment);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'WarnSendingBroadcastMessage: %', SQLERRM;
END
$body$
        $definition$),

        ('realtime.broadcast_changes(text, text, text, text, text, record, record, text)', $definition$
CREATE OR REPLACE FUNCTION realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record,
    level text DEFAULT 'ROW'
)
RETURNS void LANGUAGE plpgsql SET search_path = ''
AS $body$
BEGIN
    IF level = 'STATEMENT' THEN
        RAISE EXCEPTION 'function can only be triggered for each row, not for each statement';
    END IF;
    IF operation IS NULL OR operation NOT IN ('INSERT', 'UPDATE', 'DELETE') THEN
        RAISE EXCEPTION 'Unexpected operation type: %', operation;
    END IF;
    PERFORM realtime.send(
        pg_catalog.jsonb_build_object(
            'record', CASE WHEN operation <> 'DELETE' THEN pg_catalog.to_jsonb(new) END,
            'old_record', CASE WHEN operation <> 'INSERT' THEN pg_catalog.to_jsonb(old) END,
            'operation', operation, 'table', table_name, 'schema', table_schema
        ),
        event_name, topic_name
    );
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'Failed to process the row: %', SQLERRM;
END
$body$
        $definition$)
    ) AS listed(signature, definition) LOOP
        found := pg_catalog.to_regprocedure(wanted.signature);
        IF found IS NOT NULL AND pg_catalog.obj_description(found, 'pg_proc') IS DISTINCT FROM 'Made by walcast.' THEN
            RAISE NOTICE '% exists already and is left as it is', wanted.signature;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE wanted.definition;
            EXECUTE pg_catalog.format('COMMENT ON FUNCTION %s IS %L', wanted.signature, 'Made by walcast.');
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE '% is left as it is: %', wanted.signature, SQLERRM;
        END;
    END LOOP;
END
$functions$;
