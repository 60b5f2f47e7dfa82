-- The names of the given roles.
SELECT r.rolname::text FROM pg_roles AS r WHERE r.oid = ANY ($1::oid[]) ORDER BY 1
