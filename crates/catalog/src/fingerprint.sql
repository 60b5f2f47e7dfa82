-- A number that changes whenever a new look at the catalog would see something else. Every row of the
-- catalog that matters goes in by the transaction that wrote it last (xmin); what has no such row (views,
-- what other catalogs rename inside an expression) goes in by its content. XOR needs no order.
WITH published AS MATERIALIZED (
    SELECT c.oid, c.xmin
    FROM (
        SELECT DISTINCT schemaname, tablename FROM pg_publication_tables WHERE pubname = ANY ($1::text[])
    ) AS listed
    JOIN pg_namespace AS n ON n.nspname = listed.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = listed.tablename
), policy AS MATERIALIZED (
    SELECT p.oid, p.xmin, pg_get_expr(p.polqual, p.polrelid) AS expression
    FROM pg_policy AS p JOIN published ON published.oid = p.polrelid
), called AS (
    SELECT DISTINCT f.pronamespace, f.proname
    FROM policy AS p
    JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc AS f ON f.oid = d.refobjid
), facts(fact) AS (
    SELECT concat_ws(' ', 'table', oid, xmin) FROM published
    UNION ALL
    SELECT concat_ws(' ', 'column', attrelid, attnum, a.xmin)
    FROM pg_attribute AS a JOIN published ON published.oid = a.attrelid WHERE attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'index', indexrelid, i.xmin)
    FROM pg_index AS i JOIN published ON published.oid = i.indrelid
    UNION ALL
    SELECT concat_ws(' ', 'policy', oid, xmin, expression) FROM policy
    UNION ALL
    SELECT concat_ws(' ', 'function', f.oid, f.xmin) FROM called JOIN pg_proc AS f USING (pronamespace, proname)
    UNION ALL
    SELECT concat_ws(' ', 'type', t.oid, t.xmin) FROM pg_type AS t WHERE t.oid = ANY ($2::oid[])
    UNION ALL
    SELECT concat_ws(' ', 'label', e.oid, e.xmin) FROM pg_enum AS e WHERE e.enumtypid = ANY ($2::oid[])
    UNION ALL
    SELECT concat_ws(' ', 'field', a.attrelid, a.attnum, a.xmin)
    FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid
    WHERE t.oid = ANY ($2::oid[]) AND t.typtype = 'c' AND a.attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'schema', n.oid, n.xmin) FROM pg_namespace AS n WHERE n.nspname !~ '^pg_(toast_)?temp_'
    UNION ALL
    SELECT concat_ws(' ', 'role', r.oid, r.rolsuper, r.rolinherit, r.rolbypassrls, r.rolname) FROM pg_roles AS r
    UNION ALL
    SELECT concat_ws(' ', 'member', m.roleid, m.member, m.grantor, m.xmin) FROM pg_auth_members AS m
)
SELECT concat_ws(' ', count(*), bit_xor(hashtextextended(fact, 0))) FROM facts
