-- Which of the names given as schema and name are relations of any kind.
SELECT wanted.schema, wanted.name, c.oid
FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
JOIN pg_namespace AS n ON n.nspname = wanted.schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name::name
