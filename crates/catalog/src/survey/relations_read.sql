-- The other tables that policies for reading look into, and which of the given roles fail there: those without the
-- privilege on what is read raise an error, those without a policy find nothing.
WITH bound AS (
    SELECT p.oid AS policy, r.oid AS role, r.rolname
    FROM pg_policy AS p
    CROSS JOIN pg_roles AS r
    WHERE p.polrelid = ANY ($1::oid[]) AND r.rolname = ANY ($3::text[]) AND NOT (r.rolsuper OR r.rolbypassrls)
        AND EXISTS (
            SELECT FROM unnest(p.polroles) AS named(oid)
            WHERE named.oid = 0 OR pg_has_role(r.oid, nullif(named.oid, 0), 'USAGE')
        )
), seen AS (
    SELECT p.oid AS policy, p.polrelid, p.polname, d.refobjid AS relation,
        array_remove(array_agg(DISTINCT d.refobjsubid), 0) AS columns
    FROM pg_policy AS p
    JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.polrelid
    WHERE p.polrelid = ANY ($1::oid[]) AND p.polcmd IN ('*', 'r')
    GROUP BY p.oid, d.refobjid
)
SELECT seen.polrelid, seen.polname::text, n.nspname::text, c.relname::text,
    EXISTS (
        SELECT FROM pg_publication_tables AS t
        WHERE t.pubname = ANY ($2::text[]) AND t.schemaname = n.nspname AND t.tablename = c.relname
    ),
    ARRAY(
        SELECT bound.rolname::text FROM bound
        WHERE bound.policy = seen.policy AND NOT CASE
            WHEN seen.columns = '{}' THEN has_any_column_privilege(bound.role, c.oid, 'SELECT')
            ELSE (
                SELECT bool_and(has_column_privilege(bound.role, c.oid, number::int2, 'SELECT'))
                FROM unnest(seen.columns) AS number
            )
        END
        ORDER BY 1
    ),
    ARRAY(
        SELECT bound.rolname::text FROM bound
        WHERE bound.policy = seen.policy AND c.relrowsecurity
            AND (c.relforcerowsecurity OR NOT pg_has_role(bound.role, c.relowner, 'USAGE'))
            AND NOT EXISTS (
                SELECT FROM pg_policy AS q, unnest(q.polroles) AS named(oid)
                WHERE q.polrelid = c.oid AND q.polcmd IN ('*', 'r') AND q.polpermissive
                    AND (named.oid = 0 OR pg_has_role(bound.role, nullif(named.oid, 0), 'USAGE'))
            )
        ORDER BY 1
    )
FROM seen
JOIN pg_class AS c ON c.oid = seen.relation AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY seen.polrelid, seen.polname, n.nspname, c.relname
