-- Each publication that was asked for, whether it exists or not.
SELECT wanted.name, p.oid IS NOT NULL,
    (SELECT count(*) FROM pg_publication_tables AS t WHERE t.pubname = p.pubname),
    coalesce(p.pubinsert, false), coalesce(p.pubupdate, false), coalesce(p.pubdelete, false),
    coalesce(p.pubtruncate, false)
FROM unnest($1::text[]) WITH ORDINALITY AS wanted(name, place)
LEFT JOIN pg_publication AS p ON p.pubname = wanted.name
ORDER BY wanted.place
