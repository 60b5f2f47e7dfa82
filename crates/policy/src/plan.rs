//! Who may see the rows of one table: grants and policies of one role, put together as PostgreSQL does.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use walcast_pgoutput::{Oid, PgTimestamp};

use crate::row::{Datum, RowImage};
use crate::schema::{Policy, PolicyCommand, Role, Snapshot, Table};
use crate::verdict::Verdict;

/// The rules of one table for one role, shared by all its sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Plan(Arc<Rules>);

/// How one policy is decided, for the operator to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The policy's name.
    pub policy: String,
    /// Whether it is PERMISSIVE.
    pub permissive: bool,
    /// Who decides it.
    pub decided: DecidedBy,
}

/// Who decides a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// walcast itself.
    Process,
    /// PostgreSQL, where the parts that walcast understands do not settle it.
    Oracle(Vec<Unsupported>),
}

/// A sub-expression that is left to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unsupported {
    /// Its SQL text.
    pub expression: String,
    /// Why walcast does not decide it.
    pub reason: String,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Rules {
    table: Oid,
    role: Oid,
    readable: Vec<bool>,
    access: Access,
    question: Option<String>,
    columns: Vec<usize>,
    explanation_count: usize,
}

/// What the role may see before any policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// No column may be selected, or row security is on and no permissive policy applies: no row is visible.
    Nothing,
    /// Row security is off or does not bind the role: every row is visible.
    Everything,
    /// The policies decide.
    ByPolicy,
}

impl Plan {
    /// Puts together grants and policies of `role` on `table`.
    pub fn compile(table: &Table, role: &Role, _snapshot: &Snapshot) -> Plan {
        let readable = match role.privileges.get(&table.oid) {
            Some(privileges) => privileges.selectable.clone(),
            None => vec![false; table.columns.len()],
        };
        let policies: Vec<&Policy> = applicable(table, role);
        let access = access(table, role, &readable, &policies);
        let columns = (0..table.columns.len())
            .filter(|index| {
                let number = table.columns[*index].number;
                policies
                    .iter()
                    .any(|policy| policy.whole_row || policy.columns.contains(&number))
            })
            .collect();
        Plan(Arc::new(Rules {
            table: table.oid,
            role: role.oid,
            readable,
            access,
            question: (access == Access::ByPolicy).then(|| combined(&policies)),
            columns,
            explanation_count: 0,
        }))
    }

    /// The columns the role may SELECT, by index into [`Table::columns`].
    pub fn readable(&self) -> &[bool] {
        &self.0.readable
    }

    /// What the role may see before any policy is asked.
    pub fn access(&self) -> Access {
        self.0.access
    }

    /// SQL that only PostgreSQL can evaluate, over claims and settings only; its values go to [`Plan::bind`].
    pub fn foreign_constants(&self) -> &[String] {
        &[]
    }

    /// How each policy is decided.
    pub fn explanation(&self) -> &[Explanation] {
        &[]
    }

    /// The plan for one set of claims. `foreign` has one value for each of [`Plan::foreign_constants`].
    pub fn bind(
        &self,
        _claims: &serde_json::Value,
        claims_json: &Arc<str>,
        _foreign: &[Option<String>],
    ) -> BoundPlan {
        BoundPlan(Arc::new(Bound { rules: self.0.clone(), claims_json: claims_json.clone() }))
    }
}

/// A plan with the values of one set of claims. Two are equal when they decide every row equally, so it
/// is the key of an audience. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BoundPlan(Arc<Bound>);

#[derive(Debug)]
struct Bound {
    rules: Arc<Rules>,
    claims_json: Arc<str>,
}

impl BoundPlan {
    /// Judges one row image at the moment `now`.
    pub fn evaluate(&self, row: &RowImage<'_>, _now: PgTimestamp) -> Verdict {
        let rules = &self.0.rules;
        match rules.access {
            Access::Nothing => Verdict::Hidden,
            Access::Everything => Verdict::Visible,
            Access::ByPolicy => rules
                .columns
                .iter()
                .find(|column| row.get(**column) == Datum::Missing)
                .map_or(Verdict::Ask, |column| Verdict::Missing { column: *column }),
        }
    }

    /// The boolean SQL over the row that settles a [`Verdict::Ask`]; `None` when none is ever given.
    pub fn question(&self) -> Option<&str> {
        self.0.rules.question.as_deref()
    }

    /// The claims as JSON text, for the oracle.
    pub fn claims_json(&self) -> &Arc<str> {
        &self.0.claims_json
    }

    fn asked_claims(&self) -> Option<&str> {
        self.question().map(|_| &*self.0.claims_json)
    }
}

impl PartialEq for BoundPlan {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.rules == other.0.rules && self.asked_claims() == other.asked_claims())
    }
}

impl Eq for BoundPlan {}

impl Hash for BoundPlan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.rules.hash(state);
        self.asked_claims().hash(state);
    }
}

fn applicable<'a>(table: &'a Table, role: &Role) -> Vec<&'a Policy> {
    table
        .policies
        .iter()
        .filter(|policy| matches!(policy.command, PolicyCommand::All | PolicyCommand::Select))
        .filter(|policy| {
            policy.roles.is_empty() || policy.roles.iter().any(|oid| role.acts_as.contains(oid))
        })
        .filter(|policy| policy.using.is_some())
        .collect()
}

fn access(table: &Table, role: &Role, readable: &[bool], policies: &[&Policy]) -> Access {
    let owns = role.acts_as.contains(&table.owner) && !table.force_row_security;
    if !readable.contains(&true) {
        Access::Nothing
    } else if !table.row_security || role.bypasses_row_security || owns {
        Access::Everything
    } else if policies.iter().any(|policy| policy.permissive) {
        Access::ByPolicy
    } else {
        Access::Nothing
    }
}

fn combined(policies: &[&Policy]) -> String {
    let texts = |permissive: bool| {
        policies
            .iter()
            .filter(move |policy| policy.permissive == permissive)
            .filter_map(|policy| policy.using.as_deref())
            .map(|text| format!("({text})"))
    };
    let mut parts: Vec<String> = texts(false).collect();
    parts.push(format!("({})", texts(true).collect::<Vec<_>>().join(" OR ")));
    parts.join(" AND ")
}
