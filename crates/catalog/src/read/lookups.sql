-- The given relations ($1), each with what stands in the way of a copy that is kept current from the log, and with
-- the statement on walcast's own publication ($4) that is due. $2 are the publications that the stream reads, $3
-- those whose tables are served.
--
-- A table that is served in part only, by a row filter or without some of the statements, must not join walcast's own
-- publication: its subscribers would see the rest of it, too. One without replica identity must not, since
-- PostgreSQL would refuse UPDATE and DELETE on it. Since PostgreSQL 18 the latter goes for a generated identity.
-- What pg_publication_tables and pg_publication_rel do not have in every version is read through to_jsonb.
WITH member AS MATERIALIZED (
    SELECT c.oid, p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
        to_jsonb(t) ->> 'rowfilter' IS NULL AS every_row,
        to_jsonb(r) ->> 'prattrs' IS NOT NULL AS some_columns,
        r.oid IS NOT NULL AS by_name
    FROM pg_publication_tables AS t
    JOIN pg_publication AS p ON p.pubname = t.pubname
    JOIN pg_namespace AS n ON n.nspname = t.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
    LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = c.oid
    WHERE t.pubname = ANY ($2::text[]) AND c.oid = ANY ($1::oid[])
), carried AS (
    SELECT oid, bool_or(some_columns) AS some_columns,
        bool_or(pubinsert AND every_row) AND bool_or(pubupdate AND every_row)
            AND bool_or(pubdelete AND every_row) AND bool_or(pubtruncate AND every_row) AS as_a_whole,
        bool_or(pubname = ANY ($3::text[])) AS served,
        bool_or(by_name AND pubname = $4::text) AS own
    FROM member GROUP BY oid
), described AS (
    SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS quoted,
        CASE c.relreplident
            WHEN 'f' THEN true
            WHEN 'n' THEN false
            WHEN 'i' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident)
            ELSE EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
        END AS identified,
        EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
        ) AS generates,
        EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid) AS has_children
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($1::oid[])
), judged AS (
    SELECT d.*, coalesce(m.own, false) AS own, coalesce(m.as_a_whole, false) AS as_a_whole,
        CASE
            WHEN d.nspname IN ('pg_catalog', 'information_schema') THEN 'it belongs to PostgreSQL'
            WHEN d.relkind = 'v' THEN 'it is a view'
            WHEN d.relkind = 'm' THEN 'it is a materialized view'
            WHEN d.relkind = 'f' THEN 'it is a foreign table'
            WHEN d.relkind = 'p' THEN 'it is partitioned'
            WHEN d.relkind <> 'r' THEN 'it is no table'
            WHEN d.relpersistence = 't' THEN 'it is temporary'
            WHEN d.relpersistence <> 'p' THEN 'it is unlogged'
            WHEN d.relispartition THEN 'it is a partition'
            WHEN d.has_children THEN 'it has child tables'
            WHEN NOT d.identified THEN 'it has no replica identity'
            WHEN d.generates THEN 'it has generated columns, which the log leaves out'
            WHEN m.some_columns THEN 'a publication leaves out some of its columns'
            WHEN m.as_a_whole THEN NULL
            WHEN m.served THEN 'the publications leave out some of its rows or statements'
            WHEN m.own THEN format('publication %I leaves out some statements', $4::text)
            WHEN $4::text IS NULL THEN 'the log does not carry it'
            WHEN NOT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = $4::text)
                THEN format('the log does not carry it: CREATE PUBLICATION %I; and restart walcast', $4::text)
            WHEN NOT ($4::text = ANY ($2::text[]))
                THEN format('the log does not carry it: publication %I is younger than what the replication slot '
                    'has yet to deliver; restart walcast', $4::text)
        END AS obstacle
    FROM described AS d
    LEFT JOIN carried AS m ON m.oid = d.oid
)
SELECT oid, nspname, relname, relowner, relrowsecurity, relforcerowsecurity, relreplident, obstacle,
    CASE
        WHEN own AND NOT identified THEN format('ALTER PUBLICATION %I DROP TABLE %s;', $4::text, quoted)
        WHEN obstacle IS NULL AND NOT as_a_whole
            THEN format('ALTER PUBLICATION %I ADD TABLE %s;', $4::text, quoted)
    END,
    hashtextextended(concat_ws(' ', relnamespace, (
        SELECT string_agg(concat_ws(' ', p.oid, p.xmin, r.oid, r.xmin, (
            -- The schemas of FOR TABLES IN SCHEMA.
            SELECT string_agg(d.objid::text, ' ' ORDER BY d.objid) FROM pg_depend AS d
            WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
                AND d.classid <> 'pg_publication_rel'::regclass
        )), ',' ORDER BY p.oid)
        FROM member AS m
        JOIN pg_publication AS p ON p.pubname = m.pubname
        LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = m.oid
        WHERE m.oid = judged.oid
    )), 0),
    relfilenode::int8,
    hashtextextended((
        SELECT string_agg(concat_ws(' ', a.attnum, a.xmin), ',' ORDER BY a.attnum)
        FROM pg_attribute AS a WHERE a.attrelid = judged.oid AND a.attnum > 0
    ), 0)
FROM judged
