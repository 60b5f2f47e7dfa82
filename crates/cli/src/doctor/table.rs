//! One published table: what its rows are open to, what the log tells of them, what is likely not meant.

use std::fmt::Write as _;

use walcast_catalog::identifier;
use walcast_catalog::survey::{Survey, TableFacts};
use walcast_policy::schema::{Identity, Role, Table};
use walcast_policy::{Access, Plan};

use super::policy::{Subject, identifiers};
use super::report::{Columns, Finding, RoleReport, RowSecurity, Rows, Severity, TableReport};

/// Looks at one table.
pub(super) fn examine(table: &Table, survey: &Survey, publications: &[String]) -> TableReport {
    let unknown = TableFacts::default();
    let facts = survey.tables.get(&table.oid).unwrap_or(&unknown);
    let subject = Subject { table, facts, survey, publications };
    let known: Vec<&Role> = subject.known_roles().collect();
    let roles: Vec<RoleReport> = known.iter().map(|role| role_report(table, role, survey)).collect();
    let mut findings = subject.key_findings();
    findings.extend(subject.row_security_finding(&roles));
    findings.extend(known.iter().filter_map(|role| subject.key_not_readable(role)));
    if table.row_security {
        findings.extend(subject.raising());
        findings.extend(subject.policy_findings());
        findings.extend(subject.deletes_finding());
    }
    findings.sort_by_key(|finding| finding.severity);
    TableReport {
        schema: table.schema.clone(),
        name: table.name.clone(),
        row_security: match (table.row_security, table.force_row_security) {
            (false, _) => RowSecurity::Off,
            (true, false) => RowSecurity::On,
            (true, true) => RowSecurity::Forced,
        },
        replica_identity: subject.replica_identity(),
        deletes: subject.deletes(),
        roles,
        policies: subject.policies().filter_map(|policy| subject.report(policy)).collect(),
        findings,
    }
}

fn role_report(table: &Table, role: &Role, survey: &Survey) -> RoleReport {
    let plan = Plan::compile(table, role, &survey.snapshot);
    let readable = plan.readable();
    let names = || {
        let columns = table.columns.iter().zip(readable);
        columns.filter(|(_, readable)| **readable).map(|(column, _)| column.name.clone()).collect()
    };
    RoleReport {
        role: role.name.clone(),
        columns: if !readable.contains(&true) {
            Columns::None
        } else if readable.contains(&false) {
            Columns::Some(names())
        } else {
            Columns::Every
        },
        rows: match plan.access() {
            Access::Nothing => Rows::None,
            Access::Raises => Rows::Error,
            Access::Everything => Rows::Every,
            Access::ByPolicy => Rows::ByPolicy,
        },
    }
}

impl Subject<'_> {
    fn row_security_finding(&self, roles: &[RoleReport]) -> Option<Finding> {
        let table = self.sql_name();
        if !self.table.row_security {
            let bypasses = |name: &str| {
                self.survey.roles.iter().any(|role| role.name == name && role.bypasses_row_security)
            };
            let open: Vec<_> = roles
                .iter()
                .filter(|role| role.rows == Rows::Every && !bypasses(&role.role))
                .map(|role| role.role.as_str())
                .collect();
            let who = if open.is_empty() { "every role with a grant".to_owned() } else { open.join(", ") };
            let mut sentence = format!("published without row-level security: {who} gets every row");
            let policies: Vec<String> = self.policies().map(|one| format!("\"{}\"", one.name)).collect();
            if !policies.is_empty() {
                let _ = write!(sentence, ", and policy {} decides nothing", policies.join(", "));
            }
            let mend = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;");
            return Some(Finding::new(Severity::Danger, sentence).mended_by(mend));
        }
        let shut: Vec<String> = roles
            .iter()
            .filter(|role| role.rows == Rows::None && role.columns != Columns::None)
            .map(|role| role.role.clone())
            .collect();
        if shut.is_empty() {
            return None;
        }
        // A grant without a policy is how a role is kept out on purpose, as long as somebody is let in.
        let somebody = self.policies().any(|policy| policy.permissive);
        let severity = if somebody { Severity::Note } else { Severity::Warning };
        let sentence = format!("no policy for SELECT is for {}, so the grant shows no row", shut.join(", "));
        let mend = format!("CREATE POLICY \"…\" ON {table} FOR SELECT TO {} USING (…);", identifiers(&shut));
        Some(Finding::new(severity, sentence).mended_by(mend))
    }

    fn key_findings(&self) -> Vec<Finding> {
        let table = self.sql_name();
        let mut findings = Vec::new();
        if !self.table.has_primary_key() {
            let sentence =
                "no primary key: INSERT and UPDATE reach clients as an error in the place of the row";
            let mend = format!("ALTER TABLE {table} ADD PRIMARY KEY (…);");
            findings.push(Finding::new(Severity::Warning, sentence).mended_by(mend));
        }
        let changes = |publication: &walcast_catalog::survey::Publication| {
            publication.publishes.iter().any(|statement| matches!(*statement, "update" | "delete"))
        };
        if !self.facts.identified && self.survey.publications.iter().any(changes) {
            let sentence =
                "no replica identity: PostgreSQL refuses UPDATE and DELETE while the table is published";
            let mend = format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
            findings.push(Finding::new(Severity::Warning, sentence).mended_by(mend));
        }
        findings
    }

    /// A role that may read columns, and not all of the key, gets errors.
    fn key_not_readable(&self, role: &Role) -> Option<Finding> {
        let privileges = role.privileges.get(&self.table.oid)?;
        let readable = |index: usize| privileges.selectable.get(index).copied().unwrap_or(false);
        if !(0..self.table.columns.len()).any(readable) {
            return None;
        }
        let columns = self.table.columns.iter().enumerate();
        let missing: Vec<_> = columns
            .filter(|(index, column)| column.primary_key && !readable(*index))
            .map(|(_, column)| identifier(&column.name))
            .collect();
        if missing.is_empty() {
            return None;
        }
        let (role, missing) = (&role.name, missing.join(", "));
        let sentence = format!(
            "{role} may not SELECT {missing} of the primary key: it gets an error in the place of every row"
        );
        let mend = format!("GRANT SELECT ({missing}) ON {} TO {};", self.sql_name(), identifier(role));
        Some(Finding::new(Severity::Warning, sentence).mended_by(mend))
    }

    fn replica_identity(&self) -> String {
        let columns = self.table.columns.iter().filter(|column| column.identity);
        let names: Vec<_> = columns.map(|column| column.name.as_str()).collect();
        let names = names.join(", ");
        match self.table.identity {
            Identity::Full => "full".to_owned(),
            Identity::Nothing => "nothing".to_owned(),
            Identity::Default if names.is_empty() => "default, without a primary key to use".to_owned(),
            Identity::Default => format!("primary key ({names})"),
            Identity::Index => format!("index ({names})"),
        }
    }

    fn deletes(&self) -> String {
        let sentence = if !self.facts.identified {
            "PostgreSQL refuses DELETE while the table is published"
        } else if !self.table.row_security {
            "a DELETE reaches every subscriber with a grant"
        } else if self.table.identity == Identity::Full {
            "a DELETE is judged on the old row, and shows its primary key"
        } else if self.key_decides() {
            "a DELETE is judged on the key, which is all that the policies read"
        } else {
            "a DELETE is delivered only where the key decides, since the log has nothing else of the old row"
        };
        sentence.to_owned()
    }

    /// Whether the policies read nothing beyond the replica identity.
    fn key_decides(&self) -> bool {
        let carried = |number: &i16| {
            self.table.columns.iter().any(|column| column.identity && column.number == *number)
        };
        self.policies().all(|policy| !policy.whole_row && policy.columns.iter().all(carried))
    }

    fn deletes_finding(&self) -> Option<Finding> {
        let lost = self.facts.identified && self.table.identity != Identity::Full && !self.key_decides();
        lost.then(|| {
            let sentence =
                "deletes are not delivered to those for whom a policy has to read more than the key";
            let mend = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", self.sql_name());
            Finding::new(Severity::Note, sentence).mended_by(mend)
        })
    }
}
