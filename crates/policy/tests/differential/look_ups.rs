//! Whole policies with look-ups against PostgreSQL itself: every row of every table of a world, for every role
//! and claims, before and after changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Claims, json};
use tokio_postgres::Client;
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_pgoutput::{Oid, PgTimestamp};
use walcast_policy::schema::{Snapshot, Table};
use walcast_policy::{
    Access, BoundPlan, DecidedBy, Found, Key, Members, MembersAt, Moment, Oracle as _, Plan, RowImage,
    TableCopy, Verdict,
};
use walcast_testkit::Database;

use super::harness::{datum, message, quoted, texts};
use super::mirror;
use super::world::{FOUNDATION, ROLES};

/// The values of a row, as PostgreSQL prints them.
pub(crate) type Row = Vec<Option<String>>;

/// The rows of each table by `k`, which is the first column.
pub(crate) type Rows = BTreeMap<Oid, BTreeMap<i64, Row>>;

/// A private database in which one world follows the other.
pub(crate) struct Stage {
    pub(crate) client: Client,
    catalog: Arc<Catalog>,
    claims: Vec<Claims>,
    /// `now()` of the transaction in which PostgreSQL is asked.
    now: PgTimestamp,
    _database: Database,
}

/// What was compared.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) decisions: u64,
    /// Those that the plans leave to PostgreSQL.
    pub(crate) asked: u64,
    /// Rows that are visible, by what the plans say themselves.
    pub(crate) visible: u64,
    /// Those in which PostgreSQL raised an error.
    pub(crate) raised: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.decisions += other.decisions;
        self.asked += other.asked;
        self.visible += other.visible;
        self.raised += other.raised;
    }
}

/// How the policies of a table are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// All of it by the plan.
    InProcess,
    /// Some of it by PostgreSQL.
    Left,
    /// Not at all: whoever reads the table gets an error.
    Raises,
}

/// One plan with one set of claims.
struct Bound {
    table: Arc<Table>,
    role: &'static str,
    claims: usize,
    plan: BoundPlan,
    keys: Option<Vec<Key>>,
    explanation: String,
    /// What it said of each row before the changes at hand.
    before: BTreeMap<i64, Verdict>,
}

/// What PostgreSQL says of the rows of a table.
enum Truth {
    /// All rows raise.
    Raises(String),
    Each {
        visible: BTreeSet<i64>,
        raising: BTreeMap<i64, String>,
    },
}

/// A world in the database, with the plans of all its tables and the copies they need.
pub(crate) struct Scene<'a> {
    stage: &'a Stage,
    snapshot: Arc<Snapshot>,
    bound: Vec<Bound>,
    pub(crate) members: Members,
    pub(crate) rows: Rows,
    pub(crate) differences: Vec<String>,
    pub(crate) tally: Tally,
}

impl Stage {
    pub(crate) async fn start(name: &str) -> Stage {
        let database = walcast_testkit::database(name).await;
        let client = database.client().await;
        for (role, attribute) in ROLES.iter().map(|role| (*role, "")).chain([
            ("lookup_definer", ""),
            ("lookup_team", ""),
            ("lookup_bypass", "BYPASSRLS"),
        ]) {
            let role = format!(
                "DO $$ BEGIN CREATE ROLE {role} NOLOGIN {attribute}; \
                 EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$"
            );
            client.batch_execute(&role).await.unwrap();
        }
        // Others may be about the same in the same cluster.
        let prepare = "SELECT pg_advisory_lock(20240229); GRANT lookup_team TO lookup_member; \
             ALTER ROLE lookup_bypass BYPASSRLS; SELECT pg_advisory_unlock(20240229); \
             SET TimeZone = 'UTC'; SET client_min_messages = error; SET max_stack_depth = '200kB'; SET jit = off";
        client.batch_execute(prepare).await.unwrap();
        client.batch_execute(FOUNDATION).await.unwrap();
        let mut settings = CatalogSettings::new(database.url().parse().unwrap());
        settings.publications = vec!["worlds".to_owned()];
        settings.lookup_publication = None;
        settings.pool_size = 1;
        let catalog = Catalog::connect(settings).await.unwrap();
        for role in ROLES {
            catalog.role(role).await.unwrap();
        }
        let now = "SELECT (extract(epoch FROM now() - '2000-01-01 00:00:00+00') * 1000000)::bigint";
        let now = texts(&client, now).await.unwrap()[0][0].as_deref().unwrap().parse().unwrap();
        Stage { client, catalog, claims: claims(), now: PgTimestamp(now), _database: database }
    }

    /// Sets up a world from its SQL.
    pub(crate) async fn scene(&self, sql: &str) -> Scene<'_> {
        let made = self.client.batch_execute(sql).await;
        made.unwrap_or_else(|error| panic!("{}\n{sql}", message(&error)));
        let mut scene = Scene {
            stage: self,
            snapshot: Arc::default(),
            bound: Vec::new(),
            members: Members::default(),
            rows: Rows::new(),
            differences: Vec::new(),
            tally: Tally::default(),
        };
        scene.snapshot = self.catalog.refresh().await.unwrap();
        self.client.batch_execute("BEGIN").await.unwrap();
        scene.read_rows().await;
        scene.bind().await;
        scene
    }

    /// Ends a scene.
    pub(crate) async fn clear(&self) {
        self.client.batch_execute("ROLLBACK").await.unwrap();
    }
}

impl Scene<'_> {
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        let mut tables: Vec<_> = self.snapshot.tables.values().cloned().collect();
        tables.sort_by_key(|table| table.oid.0);
        tables
    }

    pub(crate) fn client(&self) -> &Client {
        &self.stage.client
    }

    /// How the policies of `posts` are decided for the first role.
    pub(crate) fn decided(&self) -> Decided {
        let posts = self.snapshot.table("public", "posts").unwrap();
        let plan = Plan::compile(posts, &self.snapshot.roles[ROLES[0]], &self.snapshot);
        let left = plan.explanation().iter().any(|one| matches!(one.decided, DecidedBy::Oracle(_)));
        match plan.access() {
            Access::Raises => Decided::Raises,
            _ if left => Decided::Left,
            _ => Decided::InProcess,
        }
    }

    async fn read_rows(&mut self) {
        for table in self.tables() {
            let all = format!("SELECT * FROM {}.{}", table.schema, table.name);
            let rows = texts(&self.stage.client, &all).await.unwrap();
            let by_k = rows.into_iter().map(|row| (k_of(&row), row)).collect();
            self.rows.insert(table.oid, by_k);
        }
    }

    async fn bind(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        for table in self.tables() {
            for role in ROLES {
                let plan = Plan::compile(&table, &snapshot.roles[*role], &snapshot);
                self.copy(&plan);
                let explanation = match plan.error() {
                    Some(error) => format!("raises {error}"),
                    None => format!("{:?} {:?}", plan.access(), plan.explanation()),
                };
                for (number, claims) in self.stage.claims.iter().enumerate() {
                    let text: Arc<str> = claims.to_string().into();
                    let foreign = plan.foreign_constants();
                    let Ok(foreign) = self.stage.catalog.constants(role, &text, foreign).await else {
                        continue;
                    };
                    let bound = plan.bind(claims, &text, &foreign);
                    self.bound.push(Bound {
                        table: Arc::clone(&table),
                        role,
                        claims: number,
                        keys: bound.keys(),
                        plan: bound,
                        explanation: explanation.clone(),
                        before: BTreeMap::new(),
                    });
                }
            }
        }
    }

    /// Makes the copies that a plan needs.
    fn copy(&mut self, plan: &Plan) {
        for need in plan.copies() {
            let table = &self.snapshot.lookups[&need.table].table;
            let known = self.members.get(need.table).map(|copy| copy.columns().to_vec()).unwrap_or_default();
            if !need.columns.iter().all(|column| known.contains(column))
                || self.members.get(need.table).is_none()
            {
                // All plans share a copy; of the indexes none is lost, since all are added below.
                let wanted: Vec<i16> = known.iter().chain(&need.columns).copied().collect();
                let mut copy = TableCopy::new(table, &self.snapshot.types, &wanted);
                for row in self.rows[&need.table].values() {
                    let values: Vec<_> = mirror::copied(table, copy.columns(), row);
                    copy.insert(&values);
                }
                self.members.insert(need.table, copy);
            }
            for index in &need.indexes {
                self.members.add_index(need.table, index);
            }
        }
    }

    /// Compares every decision at the moment after the changes, and those of the moment before with what was
    /// decided then.
    pub(crate) async fn compare(&mut self, changed_from: Option<&Rows>) {
        let mut bound = std::mem::take(&mut self.bound);
        for one in &mut bound {
            if let Some(rows) = changed_from {
                self.compare_before(one, &rows[&one.table.oid]);
            }
            self.compare_after(one).await;
        }
        self.bound = bound;
    }

    fn compare_before(&mut self, bound: &Bound, rows: &BTreeMap<i64, Row>) {
        let mut found = Vec::new();
        for (k, row) in rows {
            let image = image(row);
            let members = self.members.at(Moment::Before);
            let verdict = judged(bound, &image, self.stage.now, members, &mut found);
            self.tally.decisions += 1;
            let then = &bound.before[k];
            let same = *then == verdict
                || matches!(
                    (then, &verdict),
                    (Verdict::Ask, _) | (_, Verdict::Ask) | (Verdict::Failed(_), Verdict::Failed(_))
                );
            if !same {
                found.push(format!("row {k} {row:?}: {verdict:?} looking back, {then:?} at the time"));
            }
            if verdict == Verdict::Visible && !has_key(bound, &image, self.stage.now, members) {
                found.push(format!("row {k} {row:?}: visible looking back, but found by no key"));
            }
        }
        self.note(bound, found);
    }

    async fn compare_after(&mut self, bound: &mut Bound) {
        let table = Arc::clone(&bound.table);
        let rows = &self.rows[&table.oid];
        let truth = self.stage.truth(bound, rows).await;
        let mut found = Vec::new();
        let mut tally = std::mem::take(&mut self.tally);
        bound.before.clear();
        for (k, row) in rows {
            let image = image(row);
            let members = self.members.at(Moment::After);
            let verdict = judged(bound, &image, self.stage.now, members, &mut found);
            let postgres = match &truth {
                Truth::Raises(error) => Err(error),
                Truth::Each { visible, raising } => match raising.get(k) {
                    Some(error) => Err(error),
                    None => Ok(visible.contains(k)),
                },
            };
            tally.decisions += 1;
            tally.asked += u64::from(verdict == Verdict::Ask);
            tally.visible += u64::from(verdict == Verdict::Visible);
            tally.raised += u64::from(postgres.is_err());
            let agrees = match (&verdict, &postgres) {
                (Verdict::Ask, _)
                | (Verdict::Visible, Ok(true))
                // In which order PostgreSQL goes through AND depends on what it takes the operands to cost.
                | (Verdict::Hidden | Verdict::Failed(_), Ok(false) | Err(_)) => true,
                _ => false,
            };
            if !agrees {
                found.push(format!("row {k} {row:?}: {verdict:?}, but {postgres:?}"));
            }
            if verdict == Verdict::Visible && !has_key(bound, &image, self.stage.now, members) {
                found.push(format!("row {k} {row:?}: visible, but found by no key of {:?}", bound.keys));
            }
            bound.before.insert(*k, verdict);
        }
        self.tally = tally;
        self.note(bound, found);
    }

    fn note(&mut self, bound: &Bound, found: Vec<String>) {
        if found.is_empty() {
            return;
        }
        let Bound { table, role, claims, explanation, .. } = bound;
        let mut text = format!(
            "{}.{} for {role} with {}, {explanation}",
            table.schema, table.name, self.stage.claims[*claims]
        );
        for policy in &table.policies {
            let _ = write!(
                text,
                "\n  policy {} {:?} permissive {} of {:?}: {}",
                policy.name,
                policy.command,
                policy.permissive,
                policy.roles,
                policy.using.as_deref().unwrap_or("")
            );
        }
        for one in found {
            let _ = write!(text, "\n  {one}");
        }
        self.differences.push(text);
    }
}

impl Stage {
    /// Which rows of a table the role sees with the claims.
    async fn truth(&self, bound: &Bound, rows: &BTreeMap<i64, Row>) -> Truth {
        let name = format!("{}.{}", bound.table.schema, bound.table.name);
        let mut visible = BTreeSet::new();
        let mut raising = BTreeMap::new();
        if let Ok(found) = self.as_role(bound, &format!("SELECT k FROM {name}")).await {
            visible.extend(found.iter().map(k_of));
            return Truth::Each { visible, raising };
        }
        // What raises for a row that is not there raises for all.
        if let Err(error) = self.as_role(bound, &of_row(&name, -1)).await {
            return Truth::Raises(error);
        }
        for k in rows.keys() {
            match self.as_role(bound, &of_row(&name, *k)).await {
                Ok(found) => visible.extend(found.iter().map(k_of)),
                Err(error) => drop(raising.insert(*k, error)),
            }
        }
        Truth::Each { visible, raising }
    }

    async fn as_role(&self, bound: &Bound, query: &str) -> Result<Vec<Row>, String> {
        let claims = &self.claims[bound.claims];
        let text = |name: &str| match &claims[name] {
            Claims::Null => String::new(),
            Claims::String(text) => text.clone(),
            other => other.to_string(),
        };
        let sql = format!(
            "SAVEPOINT asked; SET LOCAL ROLE {}; DO $do$ BEGIN \
             PERFORM set_config('request.jwt.claims', {}, true), set_config('request.jwt.claim.sub', {}, true), \
             set_config('request.jwt.claim.role', {}, true), set_config('request.jwt.claim.email', {}, true); END $do$; \
             {query}; ROLLBACK TO asked; RELEASE asked",
            bound.role,
            quoted(&claims.to_string()),
            quoted(&text("sub")),
            quoted(&text("role")),
            quoted(&text("email")),
        );
        let answer = texts(&self.client, &sql).await;
        if answer.is_err() {
            self.client.batch_execute("ROLLBACK TO asked; RELEASE asked").await.unwrap();
        }
        answer
    }
}

/// Reads one row such that policies are evaluated for no other: an index finds it.
fn of_row(table: &str, k: i64) -> String {
    format!("SET LOCAL enable_seqscan = off; SELECT k FROM {table} WHERE k = {k}")
}

/// What a plan says of a row as the server asks it, which knows already what the index has found; that it says the
/// same without.
fn judged(
    bound: &Bound,
    row: &RowImage<'_>,
    now: PgTimestamp,
    members: MembersAt<'_>,
    differences: &mut Vec<String>,
) -> Verdict {
    let known = Found::default();
    for key in bound.keys.iter().flatten() {
        if let Key::Member { finder, .. } = key {
            known.values(finder, row, now, members, 1 << 20, |_| {});
        }
    }
    let verdict = bound.plan.evaluate_with(row, now, members, Some(&known));
    let without = bound.plan.evaluate(row, now, members);
    if verdict != without && without != Verdict::Ask {
        differences.push(format!("{row:?}: {verdict:?} by what was found, {without:?} without"));
    }
    verdict
}

fn has_key(bound: &Bound, row: &RowImage<'_>, now: PgTimestamp, members: MembersAt<'_>) -> bool {
    let Some(keys) = &bound.keys else { return true };
    keys.iter().any(|key| match key {
        Key::Column { column, value } => row.get(*column) == datum(Some(value)),
        Key::Member { finder, value } => {
            let mut found = false;
            let all = finder.values(row, now, members, 1 << 20, |bytes| found |= *bytes == **value);
            found || !all
        }
    })
}

fn k_of(row: &Row) -> i64 {
    row[0].as_deref().unwrap().parse().unwrap()
}

pub(crate) fn image(row: &Row) -> RowImage<'_> {
    RowImage { values: row.iter().map(|text| datum(text.as_deref())).collect() }
}

fn claims() -> Vec<Claims> {
    vec![
        json!({
            "sub": "0d8b1f4e-0000-4000-8000-00000000000a", "role": "member", "number": 3, "word": "a"
        }),
        json!({ "sub": "0d8b1f4e-0000-4000-8000-00000000000b", "role": "admin", "number": 2, "word": "lookup_reader" }),
        json!({ "role": "anon" }),
        json!({ "sub": "nobody", "role": "member", "number": "x" }),
        json!({ "sub": "0d8b1f4e-0000-4000-8000-00000000000c", "number": 5, "word": null }),
    ]
}
