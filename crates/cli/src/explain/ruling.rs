//! A row put to plans, and to PostgreSQL where they can not tell; as the engine does for a change.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use walcast_pgoutput::PgTimestamp;
use walcast_policy::schema::{Policy, Role, Snapshot, Table};
use walcast_policy::{
    Access, CopyNeed, MembersAt, Oracle, OracleError, Plan, Question, RowImage, Verdict, clauses,
};

use super::{ClauseAnswer, Junction, PolicyAnswer, single_policy};

/// Who asks for the row.
pub(super) struct Claimant {
    pub(super) role: String,
    pub(super) value: Value,
    json: Arc<str>,
}

impl Claimant {
    /// The claims of a token as JSON text.
    pub(super) fn parse(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).context("--claims must be a JSON object")?;
        let role = value.get("role").and_then(Value::as_str).context(
            "--claims must be a JSON object with a text `role`, such as {\"role\":\"authenticated\",\"sub\":\"…\"}",
        )?;
        Ok(Claimant { role: role.to_owned(), json: json.into(), value })
    }
}

/// What a policy, or all of them together, says of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// The condition is true.
    Yes,
    /// It is false or NULL.
    No,
    /// Evaluating it is this error; that counts as a no.
    Raises(String),
    /// It could not be decided, for this reason; that counts as a no.
    Undecided(String),
}

/// Who found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decider {
    /// walcast.
    Process,
    /// PostgreSQL.
    Oracle,
}

/// An answer with its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ruling {
    /// What it comes to.
    pub says: Says,
    /// Who found out.
    pub decided_by: Decider,
    /// The tables, as `schema.name`, in whose copies something was looked up.
    pub looked_up: Vec<String>,
}

impl Ruling {
    fn asked(says: Says) -> Self {
        Ruling { says, decided_by: Decider::Oracle, looked_up: Vec::new() }
    }
}

/// One row before one set of claims.
#[derive(Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) oracle: &'a dyn Oracle,
    pub(super) members: MembersAt<'a>,
    pub(super) table: &'a Table,
    pub(super) row: &'a RowImage<'a>,
    pub(super) claimant: &'a Claimant,
    /// What `now()` is.
    pub(super) now: PgTimestamp,
}

impl Bench<'_> {
    /// What a plan says.
    pub(super) async fn rule(&self, plan: &Plan, snapshot: &Snapshot) -> Ruling {
        let Claimant { role, value, json } = self.claimant;
        let foreign = match plan.foreign_constants() {
            [] => Ok(Vec::new()),
            expressions => self.oracle.constants(role, json, expressions).await,
        };
        let foreign = match foreign {
            Ok(foreign) => foreign,
            Err(error) => return Ruling::asked(undecided(&error)),
        };
        let bound = plan.bind(value, json, &foreign);
        let says = match (bound.evaluate(self.row, self.now, self.members), bound.question()) {
            (Verdict::Visible, _) => Says::Yes,
            (Verdict::Hidden, _) => Says::No,
            (Verdict::Failed(reason), _) => Says::Raises(reason),
            (Verdict::Missing { column }, _) => Says::Undecided(self.missing(column)),
            (Verdict::Ask, None) => Says::Undecided("there is nothing to ask".to_owned()),
            (Verdict::Ask, Some(expression)) => {
                return Ruling::asked(self.ask(expression).await);
            }
        };
        let name = |need: &CopyNeed| {
            let found = &snapshot.lookups.get(&need.table)?.table;
            Some(format!("{}.{}", found.schema, found.name))
        };
        let looked_up = plan.copies().iter().filter_map(name).collect();
        Ruling { says, decided_by: Decider::Process, looked_up }
    }

    /// What each policy says that is for the role, permissive ones first.
    pub(super) async fn policies(&self, role: &Role, snapshot: &Snapshot) -> Vec<PolicyAnswer> {
        let mut answers = Vec::new();
        for policy in self.table.policies.iter().filter(|policy| single_policy::is_for_reading(policy)) {
            let Some(plan) = single_policy::plan(self.table, policy, role, snapshot) else { continue };
            let ruling = self.rule(&plan, snapshot).await;
            let apart = match plan.access() {
                Access::Raises => None,
                _ => policy.using.as_deref().and_then(clauses),
            };
            let joined_by = apart.as_ref().map(|one| if one.all { Junction::And } else { Junction::Or });
            let mut clauses = Vec::new();
            for sql in apart.into_iter().flat_map(|one| one.texts) {
                let alone = Policy { using: Some(sql.clone()), ..policy.clone() };
                let Some(plan) = single_policy::plan(self.table, &alone, role, snapshot) else { continue };
                clauses.push(ClauseAnswer { sql, ruling: self.rule(&plan, snapshot).await });
            }
            let (policy, permissive) = (policy.name.clone(), policy.permissive);
            answers.push(PolicyAnswer { policy, permissive, ruling, clauses, joined_by });
        }
        answers.sort_by_key(|answer| !answer.permissive);
        answers
    }

    async fn ask(&self, expression: &str) -> Says {
        let Bench { table, row, claimant, .. } = *self;
        let question = Question { role: &claimant.role, table, rows: std::slice::from_ref(row), expression };
        let claims = [Arc::clone(&claimant.json)];
        match self.oracle.decide(question, &claims).await.map(|mut answers| answers.pop()?.pop()) {
            Ok(Some(Ok(true))) => Says::Yes,
            Ok(Some(Ok(false))) => Says::No,
            Ok(Some(Err(error))) | Err(error) => undecided(&error),
            Ok(None) => Says::Undecided("the database gave no answer".to_owned()),
        }
    }

    fn missing(&self, column: usize) -> String {
        let name = self.table.columns.get(column).map_or("?", |column| &column.name);
        format!("the decision needs column \"{name}\", which the log does not carry")
    }
}

/// Why the policies together say what they say, in one sentence.
pub(super) fn reason(together: &Says, policies: &[PolicyAnswer]) -> String {
    let names = |permissive: bool, says: fn(&Says) -> bool| -> Vec<String> {
        let fitting = policies.iter().filter(|one| one.permissive == permissive && says(&one.ruling.says));
        fitting.map(|one| format!("\"{}\"", one.policy)).collect()
    };
    match together {
        Says::Yes => {
            let admitting = names(true, |says| *says == Says::Yes);
            format!("{} admits it", listed("policy", "policies", &admitting))
        }
        Says::Undecided(reason) => format!("it can not be decided: {reason}"),
        Says::Raises(reason) => format!("it is an error for PostgreSQL: {reason}"),
        Says::No => match names(false, |says| *says == Says::No).as_slice() {
            [] => "no policy admits it".to_owned(),
            refusing => {
                format!("{} refuses it", listed("restrictive policy", "restrictive policies", refusing))
            }
        },
    }
}

fn listed(one: &str, many: &str, names: &[String]) -> String {
    format!("{} {}", if names.len() == 1 { one } else { many }, names.join(" and "))
}

fn undecided(error: &OracleError) -> Says {
    match error {
        OracleError::Raised { .. } => Says::Raises(error.to_string()),
        OracleError::Disconnected(_) | OracleError::Unavailable(_) => Says::Undecided(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, permissive: bool, says: Says) -> PolicyAnswer {
        let ruling = Ruling { says, decided_by: Decider::Process, looked_up: Vec::new() };
        PolicyAnswer { policy: name.to_owned(), permissive, ruling, clauses: Vec::new(), joined_by: None }
    }

    #[test]
    fn the_policies_that_decided_are_named() {
        let policies = [
            policy("own", true, Says::Yes),
            policy("team", true, Says::No),
            policy("calm", false, Says::No),
            policy("short", false, Says::Yes),
        ];
        assert_eq!(reason(&Says::No, &policies), "restrictive policy \"calm\" refuses it");
        assert_eq!(reason(&Says::Yes, &policies[..2]), "policy \"own\" admits it");
        assert_eq!(reason(&Says::No, &policies[1..2]), "no policy admits it");
    }

    #[test]
    fn claims_without_a_role_are_refused() {
        for json in ["{}", "[]", "{\"role\":7}", "no json"] {
            let error = Claimant::parse(json).err().unwrap();
            assert!(error.to_string().starts_with("--claims must be a JSON object"), "{error}");
        }
    }
}
