-- Which columns the named roles may SELECT, in table order. The functions answer NULL for what was dropped
-- a moment ago.
SELECT r.oid, t.oid,
    ARRAY(
        SELECT coalesce(has_column_privilege(r.oid, t.oid, a.attnum, 'SELECT'), false)
        FROM pg_attribute AS a
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    )
FROM pg_roles AS r
CROSS JOIN pg_class AS t
WHERE r.rolname = ANY ($1::text[]) AND t.oid = ANY ($2::oid[])
