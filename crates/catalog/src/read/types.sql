-- The given types and everything they are made of. A type is an array only where its element says so:
-- int2vector has an element, too, but another text form.
WITH RECURSIVE needed(oid) AS (
    SELECT DISTINCT unnest($1::oid[])
    UNION
    SELECT part.oid
    FROM needed
    JOIN pg_type AS t ON t.oid = needed.oid
    CROSS JOIN LATERAL (
        SELECT e.oid FROM pg_type AS e WHERE e.oid = t.typelem AND e.typarray = t.oid
        UNION ALL
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL
        SELECT a.atttypid FROM pg_attribute AS a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.rngsubtype FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
    ) AS part
)
SELECT t.oid, t.typname, n.nspname, t.typtype, t.typbasetype, element.oid, element.typdelim,
    ARRAY(SELECT e.enumlabel::text FROM pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
    ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    ),
    ARRAY(
        SELECT a.atttypid FROM pg_attribute AS a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    )
FROM needed
JOIN pg_type AS t ON t.oid = needed.oid
JOIN pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_type AS element ON element.oid = t.typelem AND element.typarray = t.oid
