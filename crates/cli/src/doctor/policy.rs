//! How one policy is decided, and what it needs that may not be there.

use std::collections::{BTreeMap, BTreeSet};

use walcast_catalog::survey::{RelationRead, Survey, TableFacts};
use walcast_catalog::{identifier, qualified};
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Policy, Role, Snapshot, Table};
use walcast_policy::{Access, DecidedBy, Plan};

use super::report::{Asked, Decided, Finding, LookedUp, PolicyReport, Severity};
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

    /// How `policy` is decided: for each of the known roles that it is for, since what they may look up differs.
    pub(super) fn report(&self, policy: &Policy) -> Option<PolicyReport> {
        let snapshot = &self.survey.snapshot;
        let mut plans: Vec<Plan> = self
            .known_roles()
            .filter_map(|role| single_policy::plan(self.table, policy, role, snapshot))
            .filter(|plan| plan.access() == Access::ByPolicy)
            .collect();
        if plans.is_empty() {
            plans.push(single_policy::plan_for_anybody(self.table, policy, snapshot)?);
        }
        let mut asked_per_change: Vec<Asked> = Vec::new();
        let mut asked_at_join: Vec<String> = Vec::new();
        let mut needs: BTreeMap<Oid, BTreeSet<i16>> = BTreeMap::new();
        for plan in &plans {
            for explanation in plan.explanation() {
                let DecidedBy::Oracle(unsupported) = &explanation.decided else { continue };
                let asked = unsupported
                    .iter()
                    .map(|one| Asked { expression: one.expression.clone(), because: one.reason.clone() });
                asked.for_each(|one| push_new(&mut asked_per_change, one));
            }
            plan.foreign_constants().iter().cloned().for_each(|sql| push_new(&mut asked_at_join, sql));
            for need in plan.copies() {
                needs.entry(need.table).or_default().extend(&need.columns);
            }
        }
        let decided = if !asked_per_change.is_empty() {
            Decided::Oracle
        } else if !needs.is_empty() {
            Decided::Members
        } else if policy.columns.is_empty() && !policy.whole_row {
            Decided::Constants
        } else {
            Decided::Process
        };
        let name_of = |oid: &Oid| snapshot.roles.values().find(|role| role.oid == *oid);
        Some(PolicyReport {
            name: policy.name.clone(),
            permissive: policy.permissive,
            roles: policy.roles.iter().filter_map(name_of).map(|role| role.name.clone()).collect(),
            using: policy.using.clone().unwrap_or_default(),
            decided,
            looks_up: looked_up(&needs, snapshot),
            asked_at_join,
            asked_per_change,
        })
    }

    /// The roles that tokens are likely to name.
    pub(super) fn known_roles(&self) -> impl Iterator<Item = &'a Role> {
        let survey = self.survey;
        survey.roles.iter().filter_map(|role| Some(&**survey.snapshot.roles.get(&role.name)?))
    }

    /// Roles that get an error from every read of the table, unless a finding about what is read tells of it.
    pub(super) fn raising(&self) -> Vec<Finding> {
        let told = |error: &str, role: &str| {
            self.facts.relations_read.iter().any(|read| {
                error == format!("permission denied for table {}", read.name)
                    && read.unreadable_to.iter().any(|one| one == role)
            })
        };
        let mut findings = Vec::new();
        for role in self.known_roles() {
            let plan = Plan::compile(self.table, role, &self.survey.snapshot);
            let Some(error) = plan.error().filter(|error| !told(error, &role.name)) else { continue };
            let sentence = format!(
                "{} gets an error from every read, {error}, so nothing is delivered to it",
                role.name
            );
            let finding = Finding::new(Severity::Warning, sentence);
            findings.push(match plan.mend() {
                Some(mend) => finding.mended_by(mend),
                None => finding,
            });
        }
        findings
    }

    /// What there is to say of the policies.
    pub(super) fn policy_findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            self.policies().filter_map(|policy| self.columns_not_logged(policy)).collect();
        for read in &self.facts.relations_read {
            findings.extend(relation_findings(read));
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

    /// The publication as SQL names it, where there is only one that can be meant.
    fn publication(&self) -> Option<String> {
        match self.publications {
            [only] => Some(identifier(only)),
            _ => None,
        }
    }
}

/// What is looked up, by the names of the tables.
pub(super) fn looked_up(needs: &BTreeMap<Oid, BTreeSet<i16>>, snapshot: &Snapshot) -> Vec<LookedUp> {
    let of = |(oid, numbers): (&Oid, &BTreeSet<i16>)| {
        let table = &snapshot.lookups.get(oid)?.table;
        let columns = table.columns.iter().filter(|column| numbers.contains(&column.number));
        Some(LookedUp {
            table: format!("{}.{}", table.schema, table.name),
            columns: columns.map(|column| column.name.clone()).collect(),
        })
    };
    let mut found: Vec<LookedUp> = needs.iter().filter_map(of).collect();
    found.sort_by(|one, other| one.table.cmp(&other.table));
    found
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, one: T) {
    if !list.contains(&one) {
        list.push(one);
    }
}

/// Roles for whom the policy fails on what it reads, or finds nothing there.
fn relation_findings(read: &RelationRead) -> Vec<Finding> {
    let mut findings = Vec::new();
    let relation = qualified(&read.schema, &read.name);
    if !read.unreadable_to.is_empty() {
        let sentence = format!(
            "policy \"{}\" reads {}.{}, which {} may not SELECT: every read is an error for them, so nothing of the table \
             is delivered to them",
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
