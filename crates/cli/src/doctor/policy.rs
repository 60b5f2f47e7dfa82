//! How one policy is decided, and what it needs that may not be there.

use walcast_catalog::survey::{RelationRead, Survey, TableFacts};
use walcast_catalog::{identifier, qualified};
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Policy, Table};
use walcast_policy::{DecidedBy, Unsupported};

use super::report::{Asked, Decided, Finding, PolicyReport, Severity};
use crate::explain::single_policy;

/// A table that is looked at, with all that is known of it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) table: &'a Table,
    pub(super) facts: &'a TableFacts,
    pub(super) survey: &'a Survey,
    pub(super) publications: &'a [String],
}

impl<'a> Subject<'a> {
    /// The table as SQL names it.
    pub(super) fn sql_name(&self) -> String {
        qualified(&self.table.schema, &self.table.name)
    }

    /// The policies that decide who sees a row.
    pub(super) fn policies(&self) -> impl Iterator<Item = &'a Policy> {
        self.table.policies.iter().filter(|policy| single_policy::is_for_reading(policy))
    }

    /// How `policy` is decided.
    pub(super) fn report(&self, policy: &Policy) -> Option<PolicyReport> {
        let plan = single_policy::plan_for_anybody(self.table, policy, &self.survey.snapshot)?;
        let (decided, asked_per_change) = match &plan.explanation().first()?.decided {
            DecidedBy::Process if policy.columns.is_empty() && !policy.whole_row => {
                (Decided::Constants, Vec::new())
            }
            DecidedBy::Process | DecidedBy::Members(_) => (Decided::Process, Vec::new()),
            DecidedBy::Oracle(unsupported) => {
                let asked = |one: &Unsupported| Asked {
                    expression: one.expression.clone(),
                    because: one.reason.clone(),
                };
                (Decided::Oracle, unsupported.iter().map(asked).collect())
            }
        };
        let name_of = |oid: &Oid| self.survey.snapshot.roles.values().find(|role| role.oid == *oid);
        Some(PolicyReport {
            name: policy.name.clone(),
            permissive: policy.permissive,
            roles: policy.roles.iter().filter_map(name_of).map(|role| role.name.clone()).collect(),
            using: policy.using.clone().unwrap_or_default(),
            decided,
            asked_at_join: plan.foreign_constants().to_vec(),
            asked_per_change,
        })
    }

    /// What there is to say of the policies.
    pub(super) fn policy_findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            self.policies().filter_map(|policy| self.columns_not_logged(policy)).collect();
        for read in &self.facts.relations_read {
            findings.extend(relation_findings(read));
            if !read.published {
                findings.push(self.not_published(read));
            }
        }
        for called in self.facts.functions_called.iter().filter(|called| called.volatile) {
            let name = format!("{}({})", qualified(&called.schema, &called.name), called.arguments);
            let sentence = format!(
                "policy \"{}\" calls {name}, which is VOLATILE: PostgreSQL is asked for every change, whatever the \
                 function returned before; declare it STABLE if all it does is read",
                called.policy
            );
            let mend = format!("ALTER FUNCTION {name} STABLE;");
            findings.push(Finding::new(Severity::Warning, sentence).mended_by(mend));
        }
        findings
    }

    /// The policy reads what the log does not have, so that no change can be decided by it.
    fn columns_not_logged(&self, policy: &Policy) -> Option<Finding> {
        let is_missing = |index: &usize| {
            let read = policy.whole_row || policy.columns.contains(&self.table.columns[*index].number);
            read && !self.facts.logged.get(*index).copied().unwrap_or(false)
        };
        let missing: Vec<usize> = (0..self.table.columns.len()).filter(is_missing).collect();
        let first = *missing.first()?;
        let names: Vec<_> =
            missing.iter().map(|index| identifier(&self.table.columns[*index].name)).collect();
        let (policy_name, names) = (&policy.name, names.join(", "));
        let withheld = "so changes that it must decide are withheld";
        if !self.facts.generated.get(first).copied().unwrap_or(false) {
            let sentence = format!(
                "policy \"{policy_name}\" reads {names}, which the publication leaves out, {withheld}"
            );
            let finding = Finding::new(Severity::Warning, sentence);
            let table = self.sql_name();
            return Some(match self.publication() {
                Some(publication) => finding.mended_by(format!(
                    "ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE \
                     {table};"
                )),
                None => finding,
            });
        }
        let sentence = format!(
            "policy \"{policy_name}\" reads the generated column {names}, which the log does not carry, {withheld}: \
             write the policy over the columns that it is generated from"
        );
        let mend = format!("ALTER POLICY {} ON {} USING (…);", identifier(policy_name), self.sql_name());
        Some(Finding::new(Severity::Warning, sentence).mended_by(mend))
    }

    fn not_published(&self, read: &RelationRead) -> Finding {
        let sentence = format!(
            "policy \"{}\" reads {}.{}, which is not published: the log does not tell when it changes",
            read.policy, read.schema, read.name
        );
        let finding = Finding::new(Severity::Note, sentence);
        match self.publication() {
            Some(publication) => finding.mended_by(format!(
                "ALTER PUBLICATION {publication} ADD TABLE {};",
                qualified(&read.schema, &read.name)
            )),
            None => finding,
        }
    }

    /// The publication as SQL names it, where there is only one that can be meant.
    fn publication(&self) -> Option<String> {
        match self.publications {
            [only] => Some(identifier(only)),
            _ => None,
        }
    }
}

/// Roles for whom the policy fails on what it reads, or finds nothing there.
fn relation_findings(read: &RelationRead) -> Vec<Finding> {
    let mut findings = Vec::new();
    let relation = qualified(&read.schema, &read.name);
    if !read.unreadable_to.is_empty() {
        let sentence = format!(
            "policy \"{}\" reads {}.{}, which {} may not SELECT: PostgreSQL raises an error, so nothing that it must \
             decide is delivered to them",
            read.policy,
            read.schema,
            read.name,
            read.unreadable_to.join(", ")
        );
        let mend = format!("GRANT SELECT ON {relation} TO {};", identifiers(&read.unreadable_to));
        findings.push(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    if !read.hidden_from.is_empty() {
        let sentence = format!(
            "policy \"{}\" reads {}.{}, of which row-level security shows nothing to {}: there it finds no row",
            read.policy,
            read.schema,
            read.name,
            read.hidden_from.join(", ")
        );
        let mend = format!(
            "CREATE POLICY \"…\" ON {relation} FOR SELECT TO {} USING (…);",
            identifiers(&read.hidden_from)
        );
        findings.push(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    findings
}

/// Names as SQL lists them.
pub(super) fn identifiers(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| identifier(name)).collect();
    quoted.join(", ")
}
