-- realtime.messages, where it exists, with what a check of a private channel has to know of it. $1 is walcast's
-- publication of it, $2 the roles, $3 the publications that the stream reads.
--
-- An INSERT of a probe row may fail for other reasons than a policy: triggers, rules, constraints. Where there may be
-- such, only PostgreSQL can say whether a role may write. Partitions may have triggers of their own.
WITH messages AS (
    SELECT c.* FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'realtime' AND c.relname = 'messages'
), parts AS MATERIALIZED (
    SELECT tree.relid FROM messages CROSS JOIN LATERAL pg_partition_tree(messages.oid) AS tree
), usual(name, type) AS (
    VALUES ('topic', 'text'), ('extension', 'text'), ('payload', 'jsonb'), ('event', 'text'), ('private', 'boolean'),
        ('updated_at', 'timestamp without time zone'), ('inserted_at', 'timestamp without time zone'), ('id', 'uuid'),
        ('binary_payload', 'bytea')
), columns AS MATERIALIZED (
    SELECT a.attname, a.attnum, usual.name IS NOT NULL AS usual, pg_get_expr(d.adbin, d.adrelid) AS preset
    FROM messages
    JOIN pg_attribute AS a ON a.attrelid = messages.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN usual ON usual.name = a.attname AND usual.type = format_type(a.atttypid, NULL)
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
)
SELECT m.oid, 'realtime', m.relname, m.relowner, m.relrowsecurity, m.relforcerowsecurity, m.relreplident,
    m.relkind IN ('r', 'p'),
    ARRAY(
        SELECT usual.name FROM usual
        WHERE usual.name <> 'binary_payload' AND NOT EXISTS (
            SELECT FROM columns WHERE columns.usual AND columns.attname = usual.name
        )
    ),
    EXISTS (SELECT FROM columns WHERE columns.usual AND columns.attname = 'binary_payload'),
    (SELECT bool_and(usual) FROM columns)
        AND EXISTS (SELECT FROM columns WHERE attname = 'private' AND preset = 'false')
        AND NOT EXISTS (
            SELECT FROM pg_trigger AS t
            WHERE t.tgrelid IN (SELECT relid FROM parts) AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                AND t.tgtype::int & 4 = 4
        )
        AND NOT EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = m.oid)
        AND NOT EXISTS (
            SELECT FROM pg_constraint AS o
            WHERE o.conrelid IN (SELECT relid FROM parts) AND o.contype NOT IN ('p', 'n') AND NOT (
                o.contype = 'c' AND o.conkey <@ ARRAY(
                    SELECT a.attnum FROM pg_attribute AS a
                    WHERE a.attrelid = o.conrelid AND a.attname IN ('payload', 'binary_payload')
                )
            )
        ),
    EXISTS (
        SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
        WHERE r.prrelid = m.oid AND p.pubname = $1::text
    ),
    ARRAY(
        SELECT r.oid FROM pg_roles AS r
        WHERE r.rolname = ANY ($2::text[])
            AND (
                SELECT bool_and(has_column_privilege(r.oid, m.oid, columns.attnum, 'INSERT')) FROM columns
                WHERE columns.attname IN ('topic', 'extension', 'inserted_at', 'updated_at')
            )
        ORDER BY r.oid
    ),
    ARRAY(SELECT relid::oid FROM parts ORDER BY 1),
    EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = $1::text),
    EXISTS (
        SELECT FROM pg_publication_tables AS t
        JOIN pg_publication AS p ON p.pubname = t.pubname AND p.pubinsert
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE t.pubname = ANY ($3::text[]) AND c.oid IN (SELECT relid FROM parts)
    )
FROM messages AS m
