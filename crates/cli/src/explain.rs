//! `walcast explain`: who would get the INSERT of a row, and which policy decided.
//!
//! The same plans and the same oracle as those of the server, over a row that somebody wrote down. In
//! reading order: [`explain()`] and what it answers, `row` (the row as the log would carry it), `copies` (of tables
//! that are looked up), `ruling` (plans and oracle), `single_policy` (one policy as a plan), `text` (the answers for
//! people).

mod copies;
mod row;
mod ruling;
pub(crate) mod single_policy;
mod text;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use walcast_catalog::survey;
use walcast_catalog::{Catalog, identifier, qualified};
use walcast_pgoutput::PgTimestamp;
use walcast_policy::schema::{Role, Snapshot, Table};
use walcast_policy::{Access, Oracle as _, Plan, RowImage};

use crate::database::catalog_settings;
use crate::doctor::Colours;
use crate::settings::{DatabaseSettings, Environment, Flags, ReplicationSettings, copy_bytes_max};
use copies::Copies;
use row::WrittenRow;
use ruling::{Bench, Claimant};

pub use ruling::{Decider, Ruling, Says};

/// Options of `walcast explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainOptions {
    /// The database settings are all it needs.
    #[command(flatten)]
    pub settings: Flags,
    /// The row and who asks for it.
    #[command(flatten)]
    pub request: Request,
    /// Print the answers as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is to be explained.
#[derive(Args, Clone, Debug)]
pub struct Request {
    /// The table, as `schema.name`; the schema `public` may be left out.
    #[arg(long, value_name = "TABLE")]
    pub table: String,
    /// The row, as a JSON object: strings as PostgreSQL reads them, columns that are left out are NULL.
    #[arg(long, value_name = "JSON")]
    pub row: String,
    /// The claims of a token, as a JSON object with `role`; may be given more than once.
    #[arg(long, value_name = "JSON", required = true)]
    pub claims: Vec<String>,
}

/// Who gets the row.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// What there is to know whoever asks.
    pub remarks: Vec<String>,
    /// One answer for each of the claims, in their order.
    pub answers: Vec<Answer>,
}

/// Whether one subscriber gets the row.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The claims as they were given.
    pub claims: Value,
    /// Whether the INSERT is delivered.
    pub delivered: bool,
    /// Why, in one sentence.
    pub because: String,
    /// What each policy for reading says that is for this role.
    pub policies: Vec<PolicyAnswer>,
    /// Columns that the role may not read: they are not sent.
    pub hidden_columns: Vec<String>,
}

/// What one policy says of the row.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyAnswer {
    /// Its name.
    pub policy: String,
    /// Whether it is PERMISSIVE: one of these must admit the row, and no other may refuse it.
    pub permissive: bool,
    /// What its condition comes to, and who found out.
    #[serde(flatten)]
    pub ruling: Ruling,
    /// The operands of the AND or OR that it is, where it is one; empty where it raises as a whole.
    pub clauses: Vec<ClauseAnswer>,
    /// How they are joined.
    pub joined_by: Option<Junction>,
}

/// What one operand of a policy says of the row, taken by itself.
#[derive(Clone, Debug, Serialize)]
pub struct ClauseAnswer {
    /// Its SQL.
    pub sql: String,
    /// What it comes to, and who found out.
    #[serde(flatten)]
    pub ruling: Ruling,
}

/// How the operands of a policy are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Junction {
    /// Every one must hold.
    And,
    /// One must hold.
    Or,
}

/// Prints who gets the row.
#[expect(clippy::print_stdout, reason = "the answers are the command's output")]
pub async fn run(options: &ExplainOptions, environment: &Environment) -> Result<()> {
    let database = DatabaseSettings::load(&options.settings, environment)?;
    let replication = ReplicationSettings::load(&options.settings, environment)?;
    let copy_bytes_max = copy_bytes_max(&options.settings, environment)?;
    let explanation = explain(&database, &replication, copy_bytes_max, &options.request).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        let colours = Colours::wanted(std::io::stdout().is_terminal(), environment);
        print!("{}", explanation.text(colours));
    }
    Ok(())
}

/// Decides the row for each of the claims, as the server would. `copy_bytes_max` is how much the copies of looked-up
/// tables may take.
///
/// # Errors
/// The database can not be reached, the table is not published, or what was given can not be read.
pub async fn explain(
    database: &DatabaseSettings,
    replication: &ReplicationSettings,
    copy_bytes_max: usize,
    request: &Request,
) -> Result<Explanation> {
    let mut settings = catalog_settings(database, &replication.publications)?;
    settings.read_only = true;
    let survey = survey::take(&settings, &replication.slot).await?;
    let catalog = Catalog::connect(settings).await?;
    let table = published(&catalog.snapshot(), &request.table, &replication.publications)?;
    let written = WrittenRow::parse(&request.row, &table)?;
    let logged = survey.tables.get(&table.oid).map(|facts| facts.logged.clone()).unwrap_or_default();
    let values = catalog
        .as_logged(&table, &written.image(None))
        .await
        .map_err(|error| anyhow!("PostgreSQL can not read --row as a row of {}: {error}", request.table))?;
    let written = WrittenRow::from_values(values);
    let row = written.image(Some(&logged));
    let oracle = Arc::clone(&catalog);
    let mut copies = Copies::new(oracle, copy_bytes_max, database.statement_timeout);
    let mut answers = Vec::with_capacity(request.claims.len());
    for claims in &request.claims {
        let claimant = Claimant::parse(claims)?;
        answers.push(answer(&catalog, &mut copies, &table, &row, claimant).await?);
    }
    let remarks = remarks(&table, &logged);
    Ok(Explanation { schema: table.schema.clone(), table: table.name.clone(), remarks, answers })
}

/// The table that is meant by `name`, with or without quotes.
fn published(snapshot: &Snapshot, name: &str, publications: &[String]) -> Result<Arc<Table>> {
    let is_meant = |table: &&Arc<Table>| {
        let plain = format!("{}.{}", table.schema, table.name);
        let in_public = table.schema == "public" && (name == table.name || name == identifier(&table.name));
        in_public || name == plain || name == qualified(&table.schema, &table.name)
    };
    let mut meant = snapshot.tables.values().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(table), None) => Ok(Arc::clone(table)),
        (Some(_), Some(_)) => {
            bail!("--table {name} may mean several tables: write it with quotes, \"schema\".\"name\"")
        }
        (None, _) => {
            let publication = publications.first().map(String::as_str).unwrap_or_default();
            bail!(
                "table {name} is not published, so nobody gets its changes: check the name, or run ALTER PUBLICATION {} \
                 ADD TABLE {name};",
                identifier(publication)
            )
        }
    }
}

fn remarks(table: &Table, logged: &[bool]) -> Vec<String> {
    let mut remarks = Vec::new();
    if !table.has_primary_key() {
        remarks.push(
            "the table has no primary key: every subscriber gets an error in the place of the row".to_owned(),
        );
    }
    let missing: Vec<_> = table
        .columns
        .iter()
        .zip(logged)
        .filter(|(_, logged)| !**logged)
        .map(|(column, _)| column.name.as_str())
        .collect();
    if !missing.is_empty() {
        remarks.push(format!(
            "the log does not carry {}: neither sent nor seen by policies",
            missing.join(", ")
        ));
    }
    remarks
}

async fn answer(
    catalog: &Catalog,
    copies: &mut Copies,
    table: &Table,
    row: &RowImage<'_>,
    claimant: Claimant,
) -> Result<Answer> {
    let refused = |because: String, claims: Value| Answer {
        claims,
        delivered: false,
        because,
        policies: Vec::new(),
        hidden_columns: Vec::new(),
    };
    let snapshot = match catalog.role(&claimant.role).await {
        Ok(snapshot) => snapshot,
        Err(error) => return Ok(refused(error.to_string(), claimant.value)),
    };
    let role = snapshot.roles.get(&claimant.role).context("the role is gone")?;
    let plan = Plan::compile(table, role, &snapshot);
    if let Some(because) = shut(&plan, role) {
        return Ok(refused(because, claimant.value));
    }
    copies.provide(plan.copies(), &snapshot).await;
    let members = copies.members();
    let bench = Bench { oracle: catalog, members, table, row, claimant: &claimant, now: now()? };
    let hidden = table.columns.iter().zip(plan.readable());
    let hidden_columns: Vec<_> =
        hidden.filter(|(_, readable)| !**readable).map(|(column, _)| column.name.clone()).collect();
    let (ruling, policies) = match plan.access() {
        Access::ByPolicy => (bench.rule(&plan, &snapshot).await, bench.policies(role, &snapshot).await),
        _ => (bench.rule(&plan, &snapshot).await, Vec::new()),
    };
    let because = match plan.access() {
        Access::ByPolicy => ruling::reason(&ruling.says, &policies),
        _ => unbound(table, role),
    };
    let delivered = ruling.says == Says::Yes;
    Ok(Answer { claims: claimant.value, delivered, because, policies, hidden_columns })
}

/// Why no row at all can reach the role, if so.
fn shut(plan: &Plan, role: &Role) -> Option<String> {
    if let Some(error) = plan.error() {
        let sentence = format!("role {} gets an error from every read of the table: {error}", role.name);
        return Some(match plan.mend() {
            Some(mend) => format!("{sentence}; {mend}"),
            None => sentence,
        });
    }
    (plan.access() == Access::Nothing).then(|| {
        if plan.readable().contains(&true) {
            format!("row-level security is on and no permissive policy for SELECT is for role {}", role.name)
        } else {
            format!("role {} may not SELECT from the table", role.name)
        }
    })
}

/// Why row-level security does not bind the role.
fn unbound(table: &Table, role: &Role) -> String {
    if !table.row_security {
        "row-level security is off: every role with a grant gets every row".to_owned()
    } else if role.bypasses_row_security {
        format!("role {} bypasses row-level security", role.name)
    } else {
        format!("role {} acts as the table's owner, whom row-level security does not bind", role.name)
    }
}

fn now() -> Result<PgTimestamp> {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    ensure!(elapsed < i64::MAX as u128, "the clock is beyond what PostgreSQL can count");
    Ok(PgTimestamp::from_unix_microseconds(i64::try_from(elapsed)?))
}
