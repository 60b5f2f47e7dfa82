-- The policies in the order of their names. A whole-row reference leaves no trace in pg_depend, but the
-- stored expression has it as attribute number 0; one inside a sub-select counts too, which errs on the
-- safe side. pg_depend does not tell USING from WITH CHECK, the stored expression does. Built-in functions are
-- pinned and have no entry in pg_depend. The table itself is among what is read where a sub-select names it.
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
    coalesce(p.polqual::text ~ ':varattno 0 ', false),
    reading.tables, reading.columns,
    ARRAY(
        SELECT DISTINCT f.oid
        FROM pg_depend AS d
        JOIN pg_proc AS f ON f.oid = d.refobjid AND f.pronamespace <> 'pg_catalog'::regnamespace
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
            AND p.polqual::text ~ (':(func|aggfno|winfno)id ' || f.oid || ' ')
        ORDER BY 1
    )
FROM pg_policy AS p
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(place.relation ORDER BY place), '{}') AS tables,
        coalesce(array_agg(place.number ORDER BY place), '{}') AS columns
    FROM (
        SELECT DISTINCT d.refobjid, d.refobjsubid::int2
        FROM pg_depend AS d
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass
            AND p.polqual::text ~ (':relid ' || d.refobjid || ' ')
    ) AS place(relation, number)
) AS reading
WHERE p.polrelid = ANY ($1::oid[])
ORDER BY p.polrelid, p.polname
