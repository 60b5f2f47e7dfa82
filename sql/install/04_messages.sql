-- realtime.messages: messages from the database, and the table whose policies say what a private channel allows.
-- What is there already is left as it is. What is made here says so in its comment; uninstalling goes by that.
DO $schema$
DECLARE
    api_role name;
BEGIN
    -- Asked first, since even IF NOT EXISTS wants the right to create a schema.
    IF pg_catalog.to_regnamespace('realtime') IS NULL THEN
        CREATE SCHEMA realtime;
        COMMENT ON SCHEMA realtime IS 'Made by walcast.';
        REVOKE ALL ON SCHEMA realtime FROM PUBLIC;
        -- Here and below only for what is made in this run: what an administrator has revoked since stays revoked.
        FOR api_role IN
            SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')
        LOOP
            EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA realtime TO %I', api_role);
        END LOOP;
    END IF;
END
$schema$;

DO $messages$
DECLARE
    api_role name;
BEGIN
    IF pg_catalog.to_regclass('realtime.messages') IS NOT NULL THEN
        IF pg_catalog.obj_description('realtime.messages'::regclass, 'pg_class') IS DISTINCT FROM 'Made by walcast.' THEN
            RAISE NOTICE 'realtime.messages exists already and is left as it is';
        END IF;
        RETURN;
    END IF;
    CREATE TABLE realtime.messages (
        topic text NOT NULL,
        extension text NOT NULL,
        payload jsonb,
        event text,
        private boolean DEFAULT false,
        -- In UTC whatever the session's time zone is, as partitions and replays are.
        updated_at timestamp without time zone NOT NULL DEFAULT (pg_catalog.now() AT TIME ZONE 'UTC'),
        inserted_at timestamp without time zone NOT NULL DEFAULT (pg_catalog.now() AT TIME ZONE 'UTC'),
        id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
        binary_payload bytea,
        PRIMARY KEY (id, inserted_at),
        CONSTRAINT messages_one_payload CHECK (payload IS NULL OR binary_payload IS NULL)
    ) PARTITION BY RANGE (inserted_at);
    COMMENT ON TABLE realtime.messages IS 'Made by walcast.';
    ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
    -- For replays: the newest messages of a topic.
    CREATE INDEX messages_inserted_at_topic_index ON realtime.messages (inserted_at DESC, topic)
        WHERE extension = 'broadcast' AND private IS TRUE;
    -- Policies decide which rows; without any, none.
    FOR api_role IN
        SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')
    LOOP
        EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE ON realtime.messages TO %I', api_role);
    END LOOP;
END
$messages$;
