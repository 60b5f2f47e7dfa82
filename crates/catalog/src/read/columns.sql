-- The live columns. An index may INCLUDE columns that are no part of its key, and a deferrable index
-- identifies nothing. Generated columns are computed by whoever holds the row; the log has no old value.
-- Catalog columns that not every version has are read through to_jsonb.
SELECT a.attrelid, a.attname, a.attnum, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod),
    CASE
        WHEN a.attcollation = 0 THEN 'bytes'
        WHEN NOT co.collisdeterministic THEN 'nondeterministic'
        WHEN co.collprovider = 'b' THEN 'bytes'
        WHEN co.collprovider = 'c' AND co.collcollate IN ('C', 'POSIX') THEN 'bytes'
        WHEN co.collprovider = 'd' AND db.by_bytes THEN 'bytes'
        ELSE 'locale'
    END,
    coalesce(a.attnum = ANY ((pk.indkey::int2[])[0 : pk.indnkeyatts - 1]), false),
    CASE c.relreplident
        WHEN 'f' THEN a.attgenerated = ''
        WHEN 'd' THEN pk.indimmediate AND a.attnum = ANY ((pk.indkey::int2[])[0 : pk.indnkeyatts - 1])
        WHEN 'i' THEN a.attnum = ANY ((ri.indkey::int2[])[0 : ri.indnkeyatts - 1])
        ELSE false
    END IS TRUE
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_index AS pk ON pk.indrelid = c.oid AND pk.indisprimary
LEFT JOIN pg_index AS ri ON ri.indrelid = c.oid AND ri.indisreplident
LEFT JOIN pg_collation AS co ON co.oid = a.attcollation
CROSS JOIN (
    SELECT CASE coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
        WHEN 'b' THEN true
        WHEN 'c' THEN d.datcollate IN ('C', 'POSIX')
        ELSE false
    END AS by_bytes
    FROM pg_database AS d WHERE d.datname = current_database()
) AS db
WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
