-- The functions with the given oids and the given names, with every overload of their names, and what the bodies
-- that PostgreSQL has parsed read and call. Built-in ones are pinned and have no entry in pg_depend.
WITH named AS (
    SELECT f.pronamespace, f.proname FROM pg_proc AS f WHERE f.oid = ANY ($1::oid[])
    UNION
    SELECT n.oid, wanted.name::name
    FROM unnest($2::text[], $3::text[]) AS wanted(schema, name)
    JOIN pg_namespace AS n ON n.nspname = wanted.schema
)
SELECT n.nspname, f.proname, f.oid, f.proowner, f.proargtypes::oid[],
    ARRAY(
        SELECT coalesce(f.proargnames[mode.place::int], '')
        FROM unnest(coalesce(f.proargmodes, array_fill('i'::"char", ARRAY[f.pronargs::int])))
            WITH ORDINALITY AS mode(letter, place)
        WHERE mode.letter IN ('i', 'b', 'v')
        ORDER BY mode.place
    ),
    f.prorettype, f.proretset, f.provariadic <> 0, coalesce(f.proconfig, '{}'), l.lanname, f.provolatile,
    f.proisstrict, f.prosecdef, f.prosqlbody IS NOT NULL,
    coalesce(pg_get_function_sqlbody(f.oid), f.prosrc),
    ARRAY(
        SELECT DISTINCT d.refobjid FROM pg_depend AS d
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
            AND f.prosqlbody IS NOT NULL
    ),
    ARRAY(
        SELECT DISTINCT d.refobjid FROM pg_depend AS d
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass
            AND f.prosqlbody IS NOT NULL
    )
FROM named
JOIN pg_proc AS f USING (pronamespace, proname)
JOIN pg_namespace AS n ON n.oid = f.pronamespace
JOIN pg_language AS l ON l.oid = f.prolang
WHERE f.prokind <> 'p' AND n.nspname <> 'pg_catalog'
ORDER BY n.nspname, f.proname, f.oid
