-- The functions that policies call, with every overload of their names. Built-in ones are pinned and have
-- no entry in pg_depend.
WITH called AS (
    SELECT DISTINCT f.pronamespace, f.proname
    FROM pg_policy AS p
    JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc AS f ON f.oid = d.refobjid
    WHERE p.polrelid = ANY ($1::oid[])
)
SELECT n.nspname, f.proname, f.oid, f.proowner, f.proargtypes::oid[],
    ARRAY(
        SELECT coalesce(f.proargnames[mode.place::int], '')
        FROM unnest(coalesce(f.proargmodes, array_fill('i'::"char", ARRAY[f.pronargs::int])))
            WITH ORDINALITY AS mode(letter, place)
        WHERE mode.letter IN ('i', 'b', 'v')
        ORDER BY mode.place
    ),
    f.prorettype, f.proretset, f.provariadic <> 0, f.proconfig IS NOT NULL, l.lanname, f.provolatile,
    f.proisstrict, f.prosecdef, f.prosqlbody IS NOT NULL,
    coalesce(pg_get_function_sqlbody(f.oid), f.prosrc)
FROM called
JOIN pg_proc AS f USING (pronamespace, proname)
JOIN pg_namespace AS n ON n.oid = f.pronamespace
JOIN pg_language AS l ON l.oid = f.prolang
WHERE f.prokind = 'f'
ORDER BY n.nspname, f.proname, f.oid
