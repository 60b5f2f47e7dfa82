//! `walcast doctor`: looks at a database as `walcast serve` would, and says what it finds. Changes nothing.
//!
//! In reading order: [`Report`] and its parts in `report`; `server` (server, role, connection, slot,
//! publications), `table` (one published table), `policy` (how one policy is decided), `lookup` (the tables that
//! policies look things up in), `channels` (private channels); `text` (the report for people), `size` (sizes in it).

mod channels;
mod lookup;
mod policy;
mod report;
mod server;
mod size;
mod table;
mod text;

use std::io::IsTerminal as _;

use anyhow::{Result, bail};
use clap::Args;
use walcast_catalog::survey::{self, Survey};

use crate::database::catalog_settings;
use crate::settings::{DatabaseSettings, Environment, Flags, ReplicationSettings, copy_bytes_max};

pub use report::{
    Asked, ChannelPolicy, ChannelRights, ChannelRole, Channels, Columns, Decided, Fact, Finding, LookedUp,
    LookupReport, PolicyReport, Report, RoleReport, RowSecurity, Rows, Severity, TableReport,
};
pub use text::Colours;
pub(crate) use text::wrapped;

/// Options of `walcast doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorOptions {
    /// The database settings are all it needs.
    #[command(flatten)]
    pub settings: Flags,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints the report; an error where something stands in the way of serving.
#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub async fn run(options: &DoctorOptions, environment: &Environment) -> Result<()> {
    let database = DatabaseSettings::load(&options.settings, environment)?;
    let replication = ReplicationSettings::load(&options.settings, environment)?;
    let copy_bytes_max = copy_bytes_max(&options.settings, environment)?;
    let report = examine(&database, &replication, copy_bytes_max).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let colours = Colours::wanted(std::io::stdout().is_terminal(), environment);
        print!("{}", report.text(colours));
    }
    if !report.can_serve {
        bail!("something stands in the way of serving this database");
    }
    Ok(())
}

/// Looks at the database. `copy_bytes_max` is how much the copies of looked-up tables may take.
///
/// # Errors
/// Only where the settings themselves can not be used; what is wrong with the database is in the report.
pub async fn examine(
    database: &DatabaseSettings,
    replication: &ReplicationSettings,
    copy_bytes_max: usize,
) -> Result<Report> {
    let settings = catalog_settings(database, &replication.publications)?;
    let mut report = Report {
        can_serve: true,
        database: database.connection.to_string(),
        facts: Vec::new(),
        findings: Vec::new(),
        tables: Vec::new(),
        lookups: Vec::new(),
        channels: None,
    };
    match survey::take(&settings, &replication.slot).await {
        Ok(survey) => {
            server::examine(&survey, &replication.slot, &mut report);
            server::examine_connection(&database.connection, &mut report).await;
            report.tables = tables(&survey, &replication.publications);
            lookup::examine(&survey, copy_bytes_max, &mut report);
            channels::examine(&survey, &mut report);
        }
        Err(error) => {
            let obstacles = error.0.iter();
            report.findings.extend(obstacles.map(|one| Finding::new(Severity::Obstacle, one.to_string())));
        }
    }
    report.findings.sort_by_key(|finding| finding.severity);
    let obstructed = report.all_findings().any(|finding| finding.severity == Severity::Obstacle);
    report.can_serve = !obstructed;
    Ok(report)
}

fn tables(survey: &Survey, publications: &[String]) -> Vec<TableReport> {
    let mut tables: Vec<_> = survey.snapshot.tables.values().collect();
    tables.sort_by(|one, other| (&one.schema, &one.name).cmp(&(&other.schema, &other.name)));
    tables.into_iter().map(|table| table::examine(table, survey, publications)).collect()
}
