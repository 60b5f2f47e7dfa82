-- The policies in the order of their names. A whole-row reference leaves no trace in pg_depend, but the
-- stored expression has it as attribute number 0; one inside a sub-select counts too, which errs on the
-- safe side.
SELECT p.polrelid, p.polname, p.polcmd, p.polpermissive,
    array_remove(p.polroles, 0::oid),
    pg_get_expr(p.polqual, p.polrelid),
    ARRAY(
        SELECT DISTINCT d.refobjsubid::int2
        FROM pg_depend AS d
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid <> 0
        ORDER BY 1
    ),
    coalesce(p.polqual::text ~ ':varattno 0 ', false)
FROM pg_policy AS p
WHERE p.polrelid = ANY ($1::oid[])
ORDER BY p.polrelid, p.polname
