-- The functions that policies for reading call. Built-in ones are pinned and have no entry in pg_depend.
SELECT p.polrelid, p.polname::text, n.nspname::text, f.proname::text, pg_get_function_identity_arguments(f.oid),
    f.provolatile = 'v'
FROM pg_policy AS p
JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc AS f ON f.oid = d.refobjid
JOIN pg_namespace AS n ON n.oid = f.pronamespace
WHERE p.polrelid = ANY ($1::oid[]) AND p.polcmd IN ('*', 'r')
ORDER BY p.polrelid, p.polname, n.nspname, f.proname, f.oid
