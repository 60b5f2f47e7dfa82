-- What a snapshot does not know of its tables: the owner, whether PostgreSQL accepts UPDATE and DELETE, the columns
-- that the log carries, and those that are generated. Which columns a publication has is known since version 15;
-- generated ones may be among them since version 18.
SELECT c.oid, pg_get_userbyid(c.relowner)::text,
    CASE c.relreplident
        WHEN 'f' THEN true
        WHEN 'n' THEN false
        WHEN 'i' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident)
        ELSE EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
    END,
    ARRAY(
        SELECT a.attnum FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)
            AND EXISTS (
                SELECT FROM pg_publication_tables AS t
                WHERE t.pubname = ANY ($2::text[]) AND t.schemaname = n.nspname AND t.tablename = c.relname
                    AND coalesce(to_jsonb(t) -> 'attnames' ? a.attname::text, true)
            )
        ORDER BY a.attnum
    ),
    ARRAY(
        SELECT a.attnum FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated <> ''
        ORDER BY a.attnum
    )
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::oid[])
