-- A number that changes whenever a new look at the catalog would see something else. Every row of the
-- catalog that matters goes in by the transaction that wrote it last (xmin); what has no such row (views,
-- what other catalogs rename inside an expression) goes in by its content. XOR needs no order.
--
-- $1 are the publications that are served, $2 those that the stream might read, $3 the types, $4 the relations that
-- are looked up, $5 and $6 names under which relations were looked for, $7 and $8 those of functions.
WITH listed AS MATERIALIZED (
    SELECT t.*, to_jsonb(t) AS content FROM pg_publication_tables AS t WHERE t.pubname = ANY ($2::text[])
), relation AS MATERIALIZED (
    SELECT c.oid, c.xmin
    FROM (SELECT DISTINCT schemaname, tablename FROM listed WHERE pubname = ANY ($1::text[])) AS served
    JOIN pg_namespace AS n ON n.nspname = served.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = served.tablename
    UNION
    SELECT c.oid, c.xmin FROM pg_class AS c WHERE c.oid = ANY ($4::oid[])
), policy AS MATERIALIZED (
    SELECT p.oid, p.xmin, pg_get_expr(p.polqual, p.polrelid) AS expression,
        pg_get_expr(p.polwithcheck, p.polrelid) AS checked
    FROM pg_policy AS p JOIN relation ON relation.oid = p.polrelid
), facts(fact) AS (
    SELECT concat_ws(' ', 'search_path', current_setting('walcast.search_path'))
    UNION ALL
    SELECT concat_ws(' ', 'listed', content) FROM listed
    UNION ALL
    SELECT concat_ws(' ', 'publication', p.oid, p.xmin) FROM pg_publication AS p WHERE p.pubname = ANY ($2::text[])
    UNION ALL
    SELECT concat_ws(' ', 'member', m.oid, m.xmin)
    FROM pg_publication_rel AS m
    JOIN pg_publication AS p ON p.oid = m.prpubid
    JOIN relation ON relation.oid = m.prrelid
    WHERE p.pubname = ANY ($2::text[])
    UNION ALL
    -- The schemas of FOR TABLES IN SCHEMA, which are in a catalog that PostgreSQL 14 does not have.
    SELECT concat_ws(' ', 'part', d.classid, d.objid)
    FROM pg_depend AS d
    JOIN pg_publication AS p ON d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
    WHERE p.pubname = ANY ($2::text[])
    UNION ALL
    SELECT concat_ws(' ', 'table', oid, xmin) FROM relation
    UNION ALL
    SELECT concat_ws(' ', 'column', attrelid, attnum, a.xmin)
    FROM pg_attribute AS a JOIN relation ON relation.oid = a.attrelid WHERE attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'index', indexrelid, i.xmin)
    FROM pg_index AS i JOIN relation ON relation.oid = i.indrelid
    UNION ALL
    SELECT concat_ws(' ', 'child', i.inhparent, i.inhrelid) FROM pg_inherits AS i JOIN relation ON relation.oid = i.inhparent
    UNION ALL
    SELECT concat_ws(' ', 'policy', oid, xmin, expression, checked) FROM policy
    UNION ALL
    SELECT concat_ws(' ', 'trigger', t.oid, t.xmin)
    FROM pg_trigger AS t JOIN relation ON relation.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT concat_ws(' ', 'constraint', o.oid, o.xmin)
    FROM pg_constraint AS o JOIN relation ON relation.oid = o.conrelid
    UNION ALL
    SELECT concat_ws(' ', 'preset', d.oid, d.xmin)
    FROM pg_attrdef AS d JOIN relation ON relation.oid = d.adrelid
    UNION ALL
    SELECT concat_ws(' ', 'function', f.oid, f.xmin)
    FROM unnest($7::text[], $8::text[]) AS wanted(schema, name)
    JOIN pg_namespace AS n ON n.nspname = wanted.schema
    JOIN pg_proc AS f ON f.pronamespace = n.oid AND f.proname = wanted.name::name
    UNION ALL
    SELECT concat_ws(' ', 'named', c.oid, wanted.schema, wanted.name)
    FROM unnest($5::text[], $6::text[]) AS wanted(schema, name)
    JOIN pg_namespace AS n ON n.nspname = wanted.schema
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name::name
    UNION ALL
    SELECT concat_ws(' ', 'type', t.oid, t.xmin) FROM pg_type AS t WHERE t.oid = ANY ($3::oid[])
    UNION ALL
    SELECT concat_ws(' ', 'label', e.oid, e.xmin) FROM pg_enum AS e WHERE e.enumtypid = ANY ($3::oid[])
    UNION ALL
    SELECT concat_ws(' ', 'field', a.attrelid, a.attnum, a.xmin)
    FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid
    WHERE t.oid = ANY ($3::oid[]) AND t.typtype = 'c' AND a.attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'schema', n.oid, n.xmin) FROM pg_namespace AS n WHERE n.nspname !~ '^pg_(toast_)?temp_'
    UNION ALL
    SELECT concat_ws(' ', 'role', r.oid, r.rolsuper, r.rolinherit, r.rolbypassrls, r.rolname) FROM pg_roles AS r
    UNION ALL
    SELECT concat_ws(' ', 'granted', m.roleid, m.member, m.grantor, m.xmin) FROM pg_auth_members AS m
)
SELECT concat_ws(' ', count(*), bit_xor(hashtextextended(fact, 0))) FROM facts
