-- The policies of a table ($1) that one command ($2, as in polcmd) runs into, in the order of their names, each with
-- the expression that counts for it: what is true of the rows read, or of a row inserted. See policies.sql for what
-- is read off the stored expression.
WITH counting AS (
    SELECT p.*, CASE WHEN $2::"char" = 'a' THEN coalesce(p.polwithcheck, p.polqual) ELSE p.polqual END AS expression
    FROM pg_policy AS p
    WHERE p.polrelid = $1::oid AND p.polcmd IN ('*', $2::"char")
)
SELECT p.polrelid, p.polname, 'r'::"char", p.polpermissive,
    array_remove(p.polroles, 0::oid),
    pg_get_expr(p.expression, p.polrelid),
    ARRAY(
        SELECT DISTINCT d.refobjsubid::int2
        FROM pg_depend AS d
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid <> 0
        ORDER BY 1
    ),
    coalesce(p.expression::text ~ ':varattno 0 ', false),
    reading.tables, reading.columns,
    ARRAY(
        SELECT DISTINCT f.oid
        FROM pg_depend AS d
        JOIN pg_proc AS f ON f.oid = d.refobjid AND f.pronamespace <> 'pg_catalog'::regnamespace
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
            AND p.expression::text ~ (':(func|aggfno|winfno)id ' || f.oid || ' ')
        ORDER BY 1
    )
FROM counting AS p
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(place.relation ORDER BY place), '{}') AS tables,
        coalesce(array_agg(place.number ORDER BY place), '{}') AS columns
    FROM (
        SELECT DISTINCT d.refobjid, d.refobjsubid::int2
        FROM pg_depend AS d
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass
            AND p.expression::text ~ (':relid ' || d.refobjid || ' ')
    ) AS place(relation, number)
) AS reading
ORDER BY p.polname
