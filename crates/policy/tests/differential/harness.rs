//! One table with a column of every kind, policies on it, and both answers: the plan's and PostgreSQL's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Claims, json};
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_pgoutput::PgTimestamp;
use walcast_policy::schema::{Snapshot, Table};
use walcast_policy::{BoundPlan, Datum, DecidedBy, MembersAt, Oracle as _, Plan, RowImage, Verdict};
use walcast_testkit::Database;

use super::look_ups::Row;

pub(crate) const ROLE: &str = "policy_reader";

/// The claims of [`claims`] that are not of the types that policies expect.
const MALFORMED: usize = 2;

/// The moment that `now()` stands still at, for both.
const NOW: PgTimestamp = PgTimestamp(762_525_296_789_012);

/// How to ask for the moment, and what stands for it where it stands still: a function that the planner does not
/// compute beforehand, as it does not compute `now()`.
const MOMENTS: &[(&str, &str)] = &[
    ("statement_timestamp()", "auth.frozen_now()"),
    ("transaction_timestamp()", "auth.frozen_now()"),
    (" now()", " auth.frozen_now()"),
    ("(now()", "(auth.frozen_now()"),
    ("[now()", "[auth.frozen_now()"),
    ("CURRENT_TIMESTAMP", "auth.frozen_now()"),
    ("CURRENT_DATE", "(auth.frozen_now())::date"),
    ("LOCALTIMESTAMP", "(auth.frozen_now())::timestamp"),
    ("LOCALTIME", "(auth.frozen_now())::time"),
];

/// The functions of Supabase, in the forms they have had.
const FUNCTIONS: &str = r"
CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
  select
  coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
CREATE FUNCTION auth.old_uid() RETURNS uuid LANGUAGE sql STABLE AS $$
  select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid;
$$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$
  select
  coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
  )::text
$$;
CREATE FUNCTION auth.email() RETURNS text LANGUAGE sql STABLE AS $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
  )::text
$$;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$
  select
    coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;
CREATE FUNCTION auth.team() RETURNS text STABLE RETURN (auth.jwt() -> 'app_metadata') ->> 'team';
CREATE FUNCTION auth.volatile_uid() RETURNS uuid LANGUAGE sql VOLATILE AS $$ select auth.uid() $$;
CREATE FUNCTION auth.procedural_uid() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ begin return auth.uid(); end $$;
CREATE FUNCTION auth.owner_name() RETURNS name LANGUAGE sql STABLE SECURITY DEFINER AS $$ select current_user $$;
CREATE FUNCTION auth.frozen_now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
  begin return '2024-02-29 12:34:56.789012+00'; end $$;
CREATE FUNCTION auth.is_listed() RETURNS boolean LANGUAGE sql STABLE AS $$
  select auth.role() in ('anon', 'editor') and (auth.role(), 1) not in (('anon', 2), ('editor', 1)) $$;
CREATE FUNCTION auth.is_like() RETURNS boolean LANGUAGE sql STABLE AS $$
  select auth.role() like 'an%' or auth.email() not like '%!_%' escape '!' and auth.role() similar to '(a|b)%' $$;
CREATE FUNCTION auth.is_recent() RETURNS boolean LANGUAGE sql STABLE AS $$
  select date '2020-01-01' < current_date
    and now() between timestamptz '2020-01-01 00:00+00' and now() + interval '1 day'
    and extract(year from localtimestamp) > 2000 $$;
CREATE FUNCTION auth.initial() RETURNS text LANGUAGE sql STABLE AS $$
  select left(trim(both ' ' from auth.role()) || trim(auth.role()), 1) $$;
CREATE FUNCTION auth.level() RETURNS numeric LANGUAGE sql STABLE AS $$
  select (auth.jwt() -> 'app_metadata' ->> 'level')::int * 1.5 $$;
CREATE FUNCTION auth.doubled(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ begin return $1 || $1; end $$;
GRANT USAGE ON SCHEMA auth TO policy_reader;
";

const TABLE: &str = r#"
CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN public.shout AS text CHECK (value = upper(value));
CREATE COLLATION public.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE public.samples (
  id integer PRIMARY KEY,
  b boolean, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision, n numeric,
  t text, tc text COLLATE "C", tn text COLLATE public.caseless, v varchar(12), c char(5), nm name, dom public.shout,
  u uuid, d date, tm time, ts timestamp, tz timestamptz, iv interval, j jsonb, by bytea, m public.mood,
  ai integer[], at text[], au uuid[], am public.mood[], net inet, rng int4range, js json
);
ALTER TABLE public.samples ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON public.samples TO policy_reader;
CREATE PUBLICATION samples FOR TABLE public.samples;
"#;

/// Rows that meet the edges of the types; the columns in the order of the table.
const ROWS: &str = r#"
INSERT INTO public.samples VALUES
(1, true, 1, 2, 3, 1.5, 2.25, 3.10, 'alice', 'alice', 'Alice', 'bob', 'ab', 'alice', 'LOUD',
 '0d8b1f4e-0000-4000-8000-00000000000a', '2024-02-29', '12:30', '2024-02-29 12:30:00.5', '2024-02-29 12:30:00+02',
 '1 day 02:00', '{"a": 1, "b": {"c": [1, 2.0, "x"]}, "t": "alice", "ok": true}', '\xdead', 'ok',
 '{1,2,3}', '{a,"b c",NULL}', '{0d8b1f4e-0000-4000-8000-00000000000a}', '{ok,happy}', '10.0.0.1', '[1,5)', '{"a" : 1, "b":{"c": [1, 2.0, "x"]},"t":"al\u0069ce", "ok":true, "a":1.0e0 }'),
(2, false, -1, 0, -3, 0, '-0', 0.00, '', '', '', '', '', '', '',
 '00000000-0000-0000-0000-000000000000', '2000-01-01', '00:00', '2000-01-01', '2000-01-01 00:00+00',
 '0', '[1, "a", null, {"a": 1}]', '', 'sad', '{}', '{}', '{}', '{}', '::1', 'empty', ' [1, "a", null, {"a": 1}]'),
(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(4, true, 32767, 2147483647, 9223372036854775807, 'Infinity', 'NaN', 'NaN', 'Zürich', 'Zürich', 'ZÜRICH', '50%_\', 'x y',
 'Zed', 'ZED', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'infinity', '24:00', 'infinity', 'infinity',
 '1 year 2 mons', '"alice"', '\x00ff', 'happy', '{NULL,2147483647}', '{"NULL","a,b","q\"uote"}', '{NULL}', '{NULL,sad}',
 '10.0.0.0/8', '(,)', '"alice"'),
(5, false, -32768, -2147483648, -9223372036854775808, '-1e-30', 1e300, '-12345678901234567890.12345678901234567890',
 'a%b', 'A', 'a%B', 'INDIGO', 'a', 'current', 'A', '0d8b1f4e-0000-4000-8000-00000000000b', '0044-03-15 BC',
 '23:59:59.999999', '0044-03-15 00:00 BC', '1969-12-31 23:59:59.999999+00', '-1 mons +30 days', 'null', '\x61', 'ok',
 '{{1,2},{3,4}}', '{{a,b}}', NULL, NULL, '10.1.2.3', '[2,2]', 'null'),
(6, true, 7, 42, 100, 3.14, 0.1, 100, '42', '42', '42', '42', '42', '42', '42',
 '0d8b1f4e-0000-4000-8000-00000000000a', '2024-12-31', '08:00', '2024-12-31 23:59:59', '2024-12-31 23:59:59+00',
 '30 days', '{"a": "1", "tags": ["x", "y"], "n": 1.50, "owner": "0d8b1f4e-0000-4000-8000-00000000000a", "none": null}',
 '\xdeadbeef', 'sad', '[2:3]={42,7}', '{x,y}', '{0d8b1f4e-0000-4000-8000-00000000000b}', '{sad}', NULL, NULL, '{"a": "1", "tags": ["x", "y"], "n": 1.50, "none": null, "z": "\u0000"}'),
(7, NULL, 0, 1, 1, 1, 1, 1.0, 'true', 'true', 'TRUE', 'x', 'true', 'postgres', 'X',
 NULL, NULL, '08:00', NULL, '2024-06-30 00:00+00', '00:00:00.000001', '1.0', '\x', NULL, '{1}', '{true}', NULL, NULL, NULL, NULL, '1.0'),
(8, false, 2, 3, 4, 2, 0.5, 0.5, 'item I', 'ITEM', 'item i', ' pad ', 'I', 'policy_reader', 'ÄÖ',
 '0d8b1f4e-0000-4000-8000-00000000000b', '2024-03-31', '02:30', '2024-03-31 02:30', '2024-03-31 01:30+00',
 '1 mon', '[]', '\xff', 'happy', '{3,3,1}', '{alice,bob}', '{0d8b1f4e-0000-4000-8000-00000000000a,NULL}', '{}', NULL, NULL, '[]');
"#;

/// The same expression decided twice.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) expression: String,
    pub(crate) row: i32,
    pub(crate) claims: usize,
    pub(crate) plan: Verdict,
    /// What PostgreSQL says, or the error it raises.
    pub(crate) postgres: Result<bool, String>,
    /// Whether a part of the expression is left to PostgreSQL.
    pub(crate) left: bool,
}

impl Decision {
    /// Whether the plan may say what it says where PostgreSQL says what it says.
    pub(crate) fn agrees(&self) -> bool {
        match (&self.plan, &self.postgres) {
            (Verdict::Visible, Ok(true))
            | (Verdict::Hidden, Ok(false))
            | (Verdict::Failed(_), Err(_))
            | (Verdict::Ask, _) => true,
            // A part that was not needed may raise.
            (Verdict::Hidden, Err(_)) => self.left,
            _ => false,
        }
    }
}

/// What PostgreSQL 14 does not know.
const SINCE_15: [&str; 2] = ["regexp_like(t, 'a')", "n::numeric(2,-1) = 0"];

pub(crate) struct Harness {
    pub(crate) client: Client,
    catalog: Arc<Catalog>,
    rows: BTreeMap<i32, Vec<Option<String>>>,
    pub(crate) claims: Vec<Claims>,
    _database: Database,
}

impl Harness {
    pub(crate) async fn start(name: &str) -> Harness {
        let database = walcast_testkit::database(name).await;
        let client = database.client().await;
        let role = format!(
            "DO $$ BEGIN CREATE ROLE {ROLE} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$"
        );
        client.batch_execute(&role).await.unwrap();
        client.batch_execute("SET TimeZone = 'UTC'; SET client_min_messages = error").await.unwrap();
        for sql in [FUNCTIONS, TABLE, ROWS] {
            client.batch_execute(sql).await.unwrap();
        }
        let mut settings = CatalogSettings::new(database.url().parse().unwrap());
        settings.publications = vec!["samples".to_owned()];
        settings.pool_size = 1;
        let catalog = Catalog::connect(settings).await.unwrap();
        catalog.role(ROLE).await.unwrap();
        let rows = texts(&client, "SELECT * FROM public.samples ORDER BY id").await.unwrap();
        let rows = rows.into_iter().map(|row| (row[0].as_deref().unwrap().parse().unwrap(), row)).collect();
        Harness { client, catalog, rows, claims: claims(), _database: database }
    }

    /// The table as the catalog has it now, with every policy.
    pub(crate) async fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.refresh().await.unwrap()
    }

    pub(crate) fn row(&self, id: i32) -> RowImage<'_> {
        RowImage { values: self.rows[&id].iter().map(|text| datum(text.as_deref())).collect() }
    }

    pub(crate) fn row_ids(&self) -> Vec<i32> {
        self.rows.keys().copied().collect()
    }

    /// Those of some expressions that PostgreSQL knows in this version.
    pub(crate) async fn known(&self, mut expressions: Vec<String>) -> Vec<String> {
        let version = texts(&self.client, "SHOW server_version_num").await.unwrap();
        if version[0][0].as_deref().unwrap() < "150000" {
            expressions.retain(|expression| !SINCE_15.contains(&&**expression));
        }
        expressions
    }

    /// Decides each expression for every row and each of the claims. Expressions that PostgreSQL refuses
    /// in a policy are passed over, and their errors returned.
    pub(crate) async fn decide(&self, expressions: &[String]) -> (Vec<Decision>, Vec<String>) {
        let mut refused = Vec::new();
        let mut names = BTreeMap::new();
        let create = |index: usize, expression: &str| {
            format!("CREATE POLICY p{index:05} ON public.samples FOR SELECT USING ({expression})")
        };
        let all: Vec<String> =
            expressions.iter().enumerate().map(|(index, expression)| create(index, expression)).collect();
        // All at once is quicker, and good for all that are valid.
        let valid = self.client.batch_execute(&all.join(";\n")).await.is_ok();
        for (index, expression) in expressions.iter().enumerate() {
            let made = if valid { Ok(()) } else { self.client.batch_execute(&all[index]).await };
            match made {
                Ok(()) => drop(names.insert(format!("p{index:05}"), expression.clone())),
                Err(error) => refused.push(format!("{expression}: {}", message(&error))),
            }
        }
        let snapshot = self.snapshot().await;
        let table = snapshot.table("public", "samples").unwrap();
        let mut decisions = Vec::new();
        for policy in &table.policies {
            let alone = Table { policies: vec![policy.clone()], ..(**table).clone() };
            let plan = Plan::compile(&alone, &snapshot.roles[ROLE], &snapshot);
            let using = policy.using.as_deref().unwrap();
            for claims in 0..self.claims.len() {
                let Some(bound) = self.bind(&plan, claims).await else { continue };
                let truth = self.truth(using, claims).await;
                for (id, mut postgres) in truth {
                    let row = self.row(id);
                    let verdict = bound.evaluate(&row, NOW, MembersAt::none());
                    let may_raise = claims == MALFORMED && verdict == Verdict::Visible;
                    if postgres == Ok(true) && (may_raise || matches!(verdict, Verdict::Failed(_))) {
                        // What is only asked for its value is planned otherwise than the condition of a query.
                        postgres = self.as_condition(using, claims, id).await;
                    }
                    check_missing(&bound, &row, &verdict, using);
                    decisions.push(Decision {
                        expression: names[&policy.name].clone(),
                        row: id,
                        claims,
                        plan: verdict,
                        postgres,
                        left: plan.explanation().iter().any(|one| one.decided != DecidedBy::Process),
                    });
                }
            }
        }
        let drops: Vec<String> =
            names.keys().map(|name| format!("DROP POLICY {name} ON public.samples")).collect();
        self.client.batch_execute(&drops.join(";\n")).await.unwrap();
        (decisions, refused)
    }

    async fn bind(&self, plan: &Plan, claims: usize) -> Option<BoundPlan> {
        let claims = &self.claims[claims];
        let text: Arc<str> = claims.to_string().into();
        let foreign = self.catalog.constants(ROLE, &text, plan.foreign_constants()).await.ok()?;
        Some(plan.bind(claims, &text, &foreign))
    }

    /// What PostgreSQL makes of the expression for each row, as the role and with the claims.
    async fn truth(&self, using: &str, claims: usize) -> Vec<(i32, Result<bool, String>)> {
        let using = frozen(using);
        let query = |only: &str| {
            format!("SELECT id, coalesce((\n{using}\n), false)::text FROM public.samples {only} ORDER BY id")
        };
        let is_true = |row: &[Option<String>]| row[1].as_deref() == Some("true");
        let mut found = Vec::new();
        if let Ok(rows) = self.ask(claims, &query("")).await {
            for row in rows {
                found.push((row[0].as_deref().unwrap().parse().unwrap(), Ok(is_true(&row))));
            }
            return found;
        }
        for id in self.row_ids() {
            let answer = self.ask(claims, &query(&format!("WHERE id = {id}"))).await;
            found.push((id, answer.map(|rows| is_true(&rows[0]))));
        }
        found
    }

    /// Whether the row is found where the expression is the condition of the query.
    async fn as_condition(&self, using: &str, claims: usize, id: i32) -> Result<bool, String> {
        let row = format!("(SELECT * FROM public.samples WHERE id = {id} OFFSET 0) AS samples");
        let rows = self.ask(claims, &format!("SELECT id FROM {row} WHERE (\n{}\n)", frozen(using))).await?;
        Ok(!rows.is_empty())
    }

    /// What PostgreSQL answers with the claims.
    async fn ask(&self, claims: usize, query: &str) -> Result<Vec<Row>, String> {
        let claims = &self.claims[claims];
        let text = |name: &str| claims[name].as_str().unwrap_or("").to_owned();
        let begin = format!(
            "BEGIN; SELECT set_config('request.jwt.claims', {}, true), set_config('request.jwt.claim.sub', {}, true), \
             set_config('request.jwt.claim.role', {}, true), set_config('request.jwt.claim.email', {}, true)",
            quoted(&claims.to_string()),
            quoted(&text("sub")),
            quoted(&text("role")),
            quoted(&text("email")),
        );
        // One round trip; the first row is that of the settings.
        let answer = texts(&self.client, &format!("{begin}; {query}; ROLLBACK")).await;
        if answer.is_err() {
            self.client.batch_execute("ROLLBACK").await.unwrap();
        }
        answer.map(|rows| rows.into_iter().skip(1).collect())
    }
}

/// An expression for whoever reads without row security, since the rows must all be there to be judged, at the moment
/// that stands still.
fn frozen(using: &str) -> String {
    let mut using = using.replace("CURRENT_USER", &format!("'{ROLE}'::name"));
    for (moment, frozen) in MOMENTS {
        using = using.replace(moment, frozen);
    }
    using
}

pub(crate) fn datum(text: Option<&str>) -> Datum<'_> {
    text.map_or(Datum::Null, Datum::Text)
}

/// With any column missing the plan says the same, asks for that column, or gives up; it never guesses.
fn check_missing(bound: &BoundPlan, row: &RowImage<'_>, full: &Verdict, using: &str) {
    for column in 0..row.values.len() {
        let mut partial = row.clone();
        partial.values[column] = Datum::Missing;
        let verdict = bound.evaluate(&partial, NOW, MembersAt::none());
        let fits = verdict == *full
            || verdict == Verdict::Missing { column }
            || matches!((full, &verdict), (Verdict::Failed(_), Verdict::Failed(_)))
            || matches!(full, Verdict::Failed(_) | Verdict::Ask) && verdict == Verdict::Hidden;
        assert!(fits, "{using}: {full:?} with all columns, {verdict:?} without {column}");
    }
}

/// The texts that PostgreSQL prints.
pub(crate) async fn texts(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let messages = client.simple_query(sql).await.map_err(|error| message(&error))?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

pub(crate) fn message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn claims() -> Vec<Claims> {
    vec![
        json!({
            "sub": "0d8b1f4e-0000-4000-8000-00000000000a", "role": "authenticated", "email": "alice@example.org",
            "app_metadata": { "team": "42", "teams": ["x", "42", null, 7], "level": 3 }
        }),
        json!({ "role": "anon", "app_metadata": { "teams": [] } }),
        json!({ "sub": "nobody", "role": "authenticated", "app_metadata": { "team": null, "teams": "x", "level": "3" } }),
    ]
}
