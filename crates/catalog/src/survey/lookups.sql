-- How large the given relations are, by the statistics of the last ANALYZE: rows, and for each column its number and
-- the bytes of an average value. reltuples is -1 where there are no statistics yet; pg_stats shows those columns only
-- that this role may read.
SELECT c.oid, nullif(c.reltuples, -1)::bigint, stats.numbers, stats.widths
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(a.attnum ORDER BY a.attnum), '{}') AS numbers,
        coalesce(array_agg(coalesce(
            (
                SELECT max(s.avg_width) FROM pg_stats AS s
                WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
            ),
            CASE WHEN a.attlen > 0 THEN a.attlen ELSE 16 END
        )::int ORDER BY a.attnum), '{}') AS widths
    FROM pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS stats
WHERE c.oid = ANY ($1::oid[])
