-- The named roles, and whose privileges each has: row security asks the same of a policy's roles.
SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls,
    ARRAY(SELECT other.oid FROM pg_roles AS other WHERE pg_has_role(r.oid, other.oid, 'USAGE'))
FROM pg_roles AS r
WHERE r.rolname = ANY ($1::text[])
