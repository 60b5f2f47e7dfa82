//! What the doctor says, as data: the text and the JSON are two forms of it.

use serde::Serialize;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing stands in the way of `walcast serve`.
    pub can_serve: bool,
    /// The database that was looked at, without its password.
    pub database: String,
    /// What was looked at beside the tables, label and description, in order.
    pub facts: Vec<Fact>,
    /// What there is to say of the database as a whole.
    pub findings: Vec<Finding>,
    /// The published tables, by name.
    pub tables: Vec<TableReport>,
    /// The tables that their policies look things up in, by name.
    pub lookups: Vec<LookupReport>,
    /// Private channels; `None` where there can be none.
    pub channels: Option<Channels>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is: `server`, `role`, `connection`, `slot`, `publication`, `catalog`, `channels`.
    pub about: &'static str,
    /// How it is.
    pub is: String,
}

/// Something to know or to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub sentence: String,
    /// The SQL that mends it, where there is one that can be given.
    pub mend: Option<String>,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// walcast can not serve.
    Obstacle,
    /// Data is open to more people than is likely meant.
    Danger,
    /// Something will not work as people expect.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Obstacle => "obstacle",
            Severity::Danger => "danger",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

impl Finding {
    /// A finding with nothing to run.
    pub(super) fn new(severity: Severity, sentence: impl Into<String>) -> Self {
        Finding { severity, sentence: sentence.into(), mend: None }
    }

    /// The same with the SQL that mends it.
    pub(super) fn mended_by(self, sql: impl Into<String>) -> Self {
        Finding { mend: Some(sql.into()), ..self }
    }
}

/// One published table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether policies decide who sees a row.
    pub row_security: RowSecurity,
    /// What the log carries of an old row.
    pub replica_identity: String,
    /// What that means for deletes.
    pub deletes: String,
    /// What each role may read.
    pub roles: Vec<RoleReport>,
    /// The policies for reading.
    pub policies: Vec<PolicyReport>,
    /// What there is to say of it.
    pub findings: Vec<Finding>,
}

/// A table that policies look things up in.
#[derive(Clone, Debug, Serialize)]
pub struct LookupReport {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether walcast keeps a copy of it, current from the log; where it does not, PostgreSQL is asked.
    pub copied: bool,
    /// The columns of the copy.
    pub columns: Vec<String>,
    /// Its rows, by the statistics of PostgreSQL's.
    pub rows: Option<i64>,
    /// What the copy may take of `changes.copy_bytes_max`, estimated.
    pub bytes: Option<i64>,
    /// What there is to say of it.
    pub findings: Vec<Finding>,
}

/// Private channels: what the policies of `realtime.messages` allow.
#[derive(Clone, Debug, Serialize)]
pub struct Channels {
    /// What each role may do.
    pub roles: Vec<ChannelRole>,
    /// The policies for reading and sending.
    pub policies: Vec<ChannelPolicy>,
    /// What there is to say of them.
    pub findings: Vec<Finding>,
}

/// What one role may do on private channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelRole {
    /// The role.
    pub role: String,
    /// To receive.
    pub reads: ChannelRights,
    /// To send.
    pub sends: ChannelRights,
}

/// On which private channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelRights {
    /// On none.
    Nothing,
    /// On those that the policies say.
    ByPolicy,
    /// On all.
    Everything,
    /// On none: every check is an error.
    Error,
}

/// How one policy of `realtime.messages` is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelPolicy {
    /// Its name.
    pub name: String,
    /// `read` or `send`.
    pub action: &'static str,
    /// The condition that counts for it, as PostgreSQL writes it.
    pub condition: String,
    /// What is asked of PostgreSQL; nothing where walcast decides.
    pub asked: Vec<Asked>,
}

/// Row-level security of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowSecurity {
    /// Everybody with a grant sees every row.
    Off,
    /// Policies decide, except for the owner.
    On,
    /// Policies decide for the owner, too.
    Forced,
}

/// What one role may read of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoleReport {
    /// The role.
    pub role: String,
    /// The columns it may SELECT.
    pub columns: Columns,
    /// The rows it sees.
    pub rows: Rows,
}

/// Columns of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Columns {
    /// All of them.
    Every,
    /// None, and so no row either.
    None,
    /// These.
    Some(Vec<String>),
}

/// Rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// None.
    None,
    /// None: reading the table is an error.
    Error,
    /// Those that the policies admit.
    ByPolicy,
    /// All of them.
    Every,
}

/// How one policy is decided.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyReport {
    /// Its name.
    pub name: String,
    /// Whether it is PERMISSIVE.
    pub permissive: bool,
    /// The roles it is for; none means PUBLIC.
    pub roles: Vec<String>,
    /// Its condition, as PostgreSQL writes it.
    pub using: String,
    /// Who decides it.
    pub decided: Decided,
    /// In which tables it looks something up in process.
    pub looks_up: Vec<LookedUp>,
    /// What is asked of PostgreSQL once for each set of claims, at the join.
    pub asked_at_join: Vec<String>,
    /// What is asked of PostgreSQL for each change, unless the rest hides the row.
    pub asked_per_change: Vec<Asked>,
}

/// Who decides a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decided {
    /// The claims alone: it reads no column.
    Constants,
    /// walcast, for each change.
    Process,
    /// walcast, for each change, with look-ups in copies of other tables.
    Members,
    /// PostgreSQL, for each change that the parts known to walcast do not hide.
    Oracle,
}

/// A table that a policy looks something up in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LookedUp {
    /// `schema.name`.
    pub table: String,
    /// The columns that it reads.
    pub columns: Vec<String>,
}

/// A sub-expression that is asked of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Its SQL.
    pub expression: String,
    /// What walcast does not decide about it.
    pub because: String,
}

impl Report {
    /// The findings about the database and about every table, whether published or looked up.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        let of_tables = self.tables.iter().flat_map(|table| &table.findings);
        let of_lookups = self.lookups.iter().flat_map(|table| &table.findings);
        let of_channels = self.channels.iter().flat_map(|channels| &channels.findings);
        self.findings.iter().chain(of_tables).chain(of_lookups).chain(of_channels)
    }
}
