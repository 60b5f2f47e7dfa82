-- Which of the given functions the named roles may execute.
SELECT r.oid, array_agg(f.oid ORDER BY f.oid)
FROM pg_roles AS r
CROSS JOIN pg_proc AS f
WHERE r.rolname = ANY ($1::text[]) AND f.oid = ANY ($2::oid[]) AND has_function_privilege(r.oid, f.oid, 'EXECUTE')
GROUP BY r.oid
