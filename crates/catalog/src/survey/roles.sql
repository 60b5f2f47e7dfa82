-- The roles that tokens are likely to name: the given ones, and those that a policy of a published table is for.
-- SET ROLE asks what the role that logged in may do, and since version 16 there is a privilege for it.
SELECT r.rolname::text, r.rolsuper OR r.rolbypassrls, pg_has_role(session_user, r.oid, $3::text)
FROM pg_roles AS r
WHERE r.rolname = ANY ($1::text[]) OR r.oid IN (
    SELECT unnest(p.polroles)
    FROM pg_policy AS p
    JOIN pg_class AS c ON c.oid = p.polrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_publication_tables AS t ON t.schemaname = n.nspname AND t.tablename = c.relname
    WHERE t.pubname = ANY ($2::text[])
)
ORDER BY array_position($1::text[], r.rolname::text), r.rolname
