-- Tables with policies for reading that are in none of the given publications ($1). What belongs to an extension, or
-- to PostgreSQL, is not meant, nor is the table of private channels; $2 are tables that are known to be there for look-ups.
SELECT n.nspname::text, c.relname::text
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.oid <> ALL ($2::oid[])
    AND (n.nspname, c.relname) <> ('realtime', 'messages')
    AND EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polcmd IN ('*', 'r'))
    AND NOT EXISTS (
        SELECT FROM pg_publication_tables AS t
        WHERE t.pubname = ANY ($1::text[]) AND t.schemaname = n.nspname AND t.tablename = c.relname
    )
    AND NOT EXISTS (
        SELECT FROM pg_publication_tables AS t
        JOIN pg_namespace AS m ON m.nspname = t.schemaname
        JOIN pg_class AS part ON part.relnamespace = m.oid AND part.relname = t.tablename
        WHERE t.pubname = ANY ($1::text[]) AND c.relkind = 'p'
            AND c.oid IN (SELECT relid FROM pg_partition_ancestors(part.oid))
    )
    AND NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY 1, 2
