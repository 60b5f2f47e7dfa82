-- The named roles, whose privileges each has (row security asks the same of a policy's roles), and which
-- schemas each may use.
SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls,
    ARRAY(SELECT other.oid FROM pg_roles AS other WHERE pg_has_role(r.oid, other.oid, 'USAGE')),
    ARRAY(
        SELECT n.nspname::text FROM pg_namespace AS n
        WHERE n.nspname !~ '^pg_(toast|temp)' AND has_schema_privilege(r.oid, n.oid, 'USAGE')
    )
FROM pg_roles AS r
WHERE r.rolname = ANY ($1::text[])
