-- The tables of the publications. The view resolves FOR ALL TABLES, FOR TABLES IN SCHEMA and
-- publish_via_partition_root: it lists the root or the leaves, as the stream will name them.
SELECT c.oid, n.nspname, c.relname, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.relreplident
FROM (
    SELECT DISTINCT schemaname, tablename FROM pg_publication_tables WHERE pubname = ANY ($1::text[])
) AS published
JOIN pg_namespace AS n ON n.nspname = published.schemaname
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = published.tablename
