//! Who may see the rows of one table: grants and policies of one role, put together as PostgreSQL does
//! (PostgreSQL docs, "Row Security Policies").

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use walcast_pgoutput::{Oid, PgTimestamp};

use crate::constants::{self, ChannelSettings, Judged, Settings, Values};
use crate::copies::{self, CopyNeed};
use crate::evaluate::{Scope, any_of, evaluate_condition};
use crate::expression::Expression;
use crate::finder::{self, Found};
use crate::keys::{self, Key};
use crate::members::MembersAt;
use crate::operation::{Comparison, Operation, Stop};
use crate::parse::{Compiler, Names, Surroundings};
use crate::planning::{self, Constants};
use crate::refusal::{Refusal, refusal};
use crate::row::{Datum, RowImage};
use crate::schema::{Policy, PolicyCommand, Role, Snapshot, Table};
use crate::value::Value;
use crate::verdict::Verdict;

/// The rules of one table for one role, shared by all its sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Plan {
    rules: Arc<Rules>,
    explanation: Arc<[Explanation]>,
    /// The SQL that mends what raises.
    mend: Option<Arc<str>>,
    not_copied: Arc<[Oid]>,
}

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
    /// walcast itself. PostgreSQL may be asked about single values all the same, such as letters outside
    /// ASCII in `lower()`.
    Process,
    /// walcast itself, with look-ups in copies of these tables (`schema.name`).
    Members(Vec<String>),
    /// PostgreSQL, unless the parts that walcast understands hide the row.
    Oracle(Vec<Unsupported>),
}

/// A sub-expression that is left to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unsupported {
    /// Its SQL text.
    pub expression: String,
    /// What walcast does not decide about it.
    pub reason: String,
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
    /// Reading the table raises an error for the role, whatever the row; see [`Plan::error`].
    Raises,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Rules {
    table: Oid,
    role: Oid,
    role_name: String,
    readable: Vec<bool>,
    access: Access,
    restrictive: Vec<Expression>,
    permissive: Vec<Expression>,
    /// The constant sub-expressions, by slot.
    slots: Vec<Expression>,
    foreign: Vec<String>,
    question: String,
    /// What PostgreSQL is told of who asks where that makes no difference.
    anybody: Arc<str>,
    /// The columns that the question reads.
    asked_columns: Vec<usize>,
    /// Whether PostgreSQL may be asked although every copy is there.
    may_ask: bool,
    /// Whether it takes PostgreSQL to know which rows raise, so that nothing is decided without it.
    only_oracle: bool,
    /// Whether a part is left to PostgreSQL. That may raise although the other parts admit the row, be it while it is
    /// planned, so that no row is shown without asking.
    leaves_a_part: bool,
    /// The error that every row raises.
    raises: Option<String>,
    copies: Vec<CopyNeed>,
}

impl Plan {
    /// Puts together grants and policies of `role` on `table`.
    pub fn compile(table: &Table, role: &Role, snapshot: &Snapshot) -> Plan {
        Plan::compile_for(Judged::Rows, table, role, snapshot)
    }

    /// The same for `realtime.messages`, whose policies find the settings of a channel, too (docs/protocol.md §8.4).
    /// [`Plan::bind_channel`] gives these their values.
    pub fn compile_for_channel(table: &Table, role: &Role, snapshot: &Snapshot) -> Plan {
        Plan::compile_for(Judged::Channel, table, role, snapshot)
    }

    fn compile_for(judged: Judged, table: &Table, role: &Role, snapshot: &Snapshot) -> Plan {
        let readable = match role.privileges.get(&table.oid) {
            Some(privileges) if role.schemas.contains(&table.schema) => privileges.selectable.clone(),
            _ => vec![false; table.columns.len()],
        };
        let policies = applicable(table, role);
        let access = access(table, role, &readable, &policies);
        let policies = if access == Access::ByPolicy { policies } else { Vec::new() };
        let mut rules = Rules {
            table: table.oid,
            role: role.oid,
            role_name: role.name.clone(),
            readable,
            access,
            restrictive: Vec::new(),
            permissive: Vec::new(),
            slots: Vec::new(),
            foreign: Vec::new(),
            question: combined(&policies),
            anybody: serde_json::json!({ "role": role.name }).to_string().into(),
            asked_columns: asked_columns(table, &policies),
            may_ask: false,
            only_oracle: false,
            leaves_a_part: false,
            raises: None,
            copies: Vec::new(),
        };
        let surroundings = Surroundings {
            table: Some(table),
            snapshot,
            role,
            definer: false,
            names: Names::Qualified,
            depth: 0,
        };
        let mut compiler = Compiler::new(surroundings, judged, table.oid);
        let mut explanation = Vec::with_capacity(policies.len());
        let mut foregone = false;
        for (policy, using) in &policies {
            let mut expression = compiler.policy(using);
            let parts_before = parts(&expression);
            if constants::fold(&mut expression).is_err() {
                expression = Expression::Oracle;
                compiler.unsupported.push(Unsupported {
                    expression: (*using).to_owned(),
                    reason: "a part of it has the same error for every row".to_owned(),
                });
            }
            foregone |= parts(&expression) < parts_before;
            if leave_equal_to_themselves(&mut expression) {
                compiler.unsupported.push(Unsupported {
                    expression: (*using).to_owned(),
                    reason: "a setting is compared with itself, which not every PostgreSQL can plan"
                        .to_owned(),
                });
            }
            constants::hoist(&mut expression, &mut rules.slots);
            finder::attach(&mut expression);
            let looks_up = tables_of(&expression, snapshot);
            if policy.permissive {
                rules.permissive.push(expression);
            } else {
                rules.restrictive.push(expression);
            }
            let unsupported = std::mem::take(&mut compiler.unsupported);
            explanation.push(explain(policy, unsupported, looks_up));
        }
        // PostgreSQL keeps the policies of a table from the last name to the first, and what raises in one counts
        // only where none before it holds. Among restrictive ones the order makes no difference.
        rules.permissive.reverse();
        let everything = Expression::Literal(Some(Value::Bool(true)));
        let mut counting = policies.clone();
        if rules.permissive.contains(&everything) {
            // Next to `USING (true)` no other permissive policy is ever looked at.
            rules.permissive = vec![everything];
            counting.retain(|(policy, _)| !policy.permissive);
        }
        for expression in rules.permissive.iter().chain(&rules.restrictive) {
            rules.may_ask |= expression.may_ask();
            rules.leaves_a_part |= leaves_a_part(expression);
            copies::collect(expression, &mut rules.copies);
        }
        let refused = refusal(&counting, role, snapshot, &mut vec![table.oid], &mut foregone);
        rules.foreign = compiler.foreign;
        // PostgreSQL does not check the privileges for what literals have made superfluous.
        rules.only_oracle = compiler.only_oracle || (refused.is_some() && foregone);
        rules.may_ask |= rules.only_oracle;
        if let Some(refused) = refused.as_ref().filter(|_| foregone) {
            for (one, (_, using)) in explanation.iter_mut().zip(&policies) {
                let unsupported =
                    Unsupported { expression: (*using).to_owned(), reason: refused.error.clone() };
                one.decided = DecidedBy::Oracle(vec![unsupported]);
            }
        }
        // PostgreSQL finds a recursion while it puts the policies together, before it looks at privileges.
        let (raises, mend) = match (compiler.raises, refused.filter(|_| !foregone)) {
            (Some(error), _) => (Some(error), None),
            (None, Some(Refusal { error, mend })) => (Some(error), Some(mend.into())),
            (None, None) => (None, None),
        };
        rules.raises = raises;
        if rules.raises.is_some() {
            rules.access = Access::Raises;
        }
        let mut not_copied = compiler.not_copied;
        not_copied.sort_unstable_by_key(|oid| oid.0);
        not_copied.dedup();
        Plan { rules: Arc::new(rules), explanation: explanation.into(), mend, not_copied: not_copied.into() }
    }

    /// The columns the role may SELECT, by index into [`Table::columns`].
    pub fn readable(&self) -> &[bool] {
        &self.rules.readable
    }

    /// What the role may see before any policy is asked.
    pub fn access(&self) -> Access {
        self.rules.access
    }

    /// The error that the role gets whatever the row, for [`Access::Raises`].
    pub fn error(&self) -> Option<&str> {
        self.rules.raises.as_deref()
    }

    /// The SQL that mends [`Plan::error`], where some does.
    pub fn mend(&self) -> Option<&str> {
        self.mend.as_deref()
    }

    /// The copies in which it looks things up.
    pub fn copies(&self) -> &[CopyNeed] {
        &self.rules.copies
    }

    /// The tables of [`Snapshot::lookups`] that PostgreSQL is asked about because there is no copy of them.
    pub fn not_copied(&self) -> &[Oid] {
        &self.not_copied
    }

    /// SQL that only PostgreSQL can evaluate, over claims and settings only; its values go to [`Plan::bind`].
    pub fn foreign_constants(&self) -> &[String] {
        &self.rules.foreign
    }

    /// How each policy that applies is decided; empty unless the policies decide.
    pub fn explanation(&self) -> &[Explanation] {
        &self.explanation
    }

    /// The plan for one set of claims: `claims` parsed from `claims_json`, and one value for each of
    /// [`Plan::foreign_constants`], in PostgreSQL's text format.
    pub fn bind(
        &self,
        claims: &serde_json::Value,
        claims_json: &Arc<str>,
        foreign: &[Option<String>],
    ) -> BoundPlan {
        self.bind_settings(claims, claims_json, foreign, None)
    }

    /// The plan of [`Plan::compile_for_channel`] for one set of claims and one channel. Foreign constants have
    /// no value here: where one decides, the verdict is [`Verdict::Ask`].
    pub fn bind_channel(
        &self,
        claims: &serde_json::Value,
        claims_json: &Arc<str>,
        channel: ChannelSettings<'_>,
    ) -> BoundPlan {
        self.bind_settings(claims, claims_json, &[], Some(channel))
    }

    fn bind_settings(
        &self,
        claims: &serde_json::Value,
        claims_json: &Arc<str>,
        foreign: &[Option<String>],
        channel: Option<ChannelSettings<'_>>,
    ) -> BoundPlan {
        let settings = Settings { role: &self.rules.role_name, claims_json, claims, foreign, channel };
        let mut own = Own { constants: Values::new(&self.rules.slots, settings), claims_json: None };
        if self.rules.may_ask(&own.constants) || !self.rules.copies.is_empty() {
            own.claims_json = Some(Box::new(Arc::clone(claims_json)));
        }
        let is_own = !own.constants.is_none() || own.claims_json.is_some();
        BoundPlan { rules: Arc::clone(&self.rules), own: is_own.then(|| Box::new(own)) }
    }
}

/// A plan with the values of one set of claims. Two are equal when they decide every row equally, so it
/// is the key of an audience. There is one for each person, so it has nothing that can be told from the rest.
#[derive(Clone, Debug)]
pub struct BoundPlan {
    rules: Arc<Rules>,
    /// `None` where there is nothing of its own.
    own: Option<Box<Own>>,
}

/// What a plan has of the claims.
#[derive(Clone, Debug)]
struct Own {
    /// What the slots came to.
    constants: Values,
    /// `None` where PostgreSQL is never asked.
    claims_json: Option<Box<Arc<str>>>,
}

impl BoundPlan {
    /// Judges one row image at the moment `now`, the commit of its transaction. Look-ups are made in `members`;
    /// where a copy is not there, PostgreSQL is to be asked.
    pub fn evaluate(&self, row: &RowImage<'_>, now: PgTimestamp, members: MembersAt<'_>) -> Verdict {
        self.evaluate_with(row, now, members, None)
    }

    /// As [`BoundPlan::evaluate`], with what has been found already for this very row and these members.
    pub fn evaluate_with(
        &self,
        row: &RowImage<'_>,
        now: PgTimestamp,
        members: MembersAt<'_>,
        found: Option<&Found>,
    ) -> Verdict {
        let rules = &self.rules;
        match rules.access {
            Access::Nothing => Verdict::Hidden,
            Access::Everything => Verdict::Visible,
            Access::Raises => Verdict::Failed(rules.raises.clone().unwrap_or_default()),
            Access::ByPolicy => {
                let constants = self.constants();
                let scope = Scope { row, now, constants, settings: None, members, frame: None, found };
                self.judge(&scope)
            }
        }
    }

    /// The boolean SQL over the row that settles a [`Verdict::Ask`]; `None` when none is ever given.
    pub fn question(&self) -> Option<&str> {
        (self.may_ask() || !self.rules.copies.is_empty()).then_some(&self.rules.question)
    }

    /// The columns that the question reads, by index into [`Table::columns`]: all where it reads the row as a whole.
    pub fn asked_columns(&self) -> &[usize] {
        &self.rules.asked_columns
    }

    /// The copies in which it looks things up.
    pub fn copies(&self) -> &[CopyNeed] {
        &self.rules.copies
    }

    /// The name of the role whose plan it is.
    pub fn role(&self) -> &str {
        &self.rules.role_name
    }

    /// The columns the role may SELECT, by index into [`Table::columns`].
    pub fn readable(&self) -> &[bool] {
        &self.rules.readable
    }

    /// The claims as JSON text, for the oracle; where the plan has no [question](Self::question), the role alone.
    pub fn claims_json(&self) -> &Arc<str> {
        let own = self.own.as_ref().and_then(|own| own.claims_json.as_deref());
        own.unwrap_or(&self.rules.anybody)
    }

    /// Keys one of which every row has that the plan does not hide; `None` where there are no such. An empty
    /// list: it hides every row.
    pub fn keys(&self) -> Option<Vec<Key>> {
        let (rules, constants) = (&self.rules, self.constants());
        match rules.access {
            Access::Nothing => Some(Vec::new()),
            Access::Everything | Access::Raises => None,
            Access::ByPolicy if rules.only_oracle => None,
            Access::ByPolicy => {
                let restrictive = keys::of_all(&rules.restrictive, constants);
                let permissive = keys::of_any(&rules.permissive, constants);
                restrictive.into_iter().chain(permissive).min_by_key(|keys| Key::cost(keys))
            }
        }
    }

    /// Every restrictive policy must hold, and one permissive one.
    fn judge(&self, scope: &Scope<'_>) -> Verdict {
        let rules = &self.rules;
        let mut open: Option<Stop> = None;
        if rules.only_oracle {
            return self.ask(scope);
        }
        // The cheap part first: most rows are not for most subscribers.
        let permitted = any_of(&rules.permissive, scope);
        let hidden = |condition: &Result<Option<bool>, Stop>| matches!(condition, Ok(None | Some(false)));
        if hidden(&permitted) {
            return Verdict::Hidden;
        }
        let restricted: Vec<_> = rules.restrictive.iter().map(|one| evaluate_condition(one, scope)).collect();
        if restricted.iter().any(hidden) {
            return Verdict::Hidden;
        }
        for stop in restricted.into_iter().chain([permitted]).filter_map(Result::err) {
            // What fails is not visible, whatever the rest comes to.
            match stop {
                Stop::Failed(message) => return Verdict::Failed(message),
                missing @ Stop::Missing(_) => open = Some(missing),
                Stop::Ask => {
                    open.get_or_insert(Stop::Ask);
                }
            }
        }
        match open {
            None if rules.leaves_a_part => self.ask(scope),
            None => self.planned(scope),
            Some(Stop::Missing(column)) => Verdict::Missing { column },
            Some(_) => self.ask(scope),
        }
    }

    /// Of a row that the policies admit, whether PostgreSQL gets to evaluate them for these claims.
    fn planned(&self, scope: &Scope<'_>) -> Verdict {
        let constants = Constants { slots: &self.rules.slots, values: self.constants() };
        if constants.values.stops().next().is_none() {
            return Verdict::Visible;
        }
        let conditions = || self.rules.restrictive.iter().chain(&self.rules.permissive);
        if let Some(error) = conditions().find_map(|one| planning::raised(one, constants)) {
            return Verdict::Failed(error.to_owned());
        }
        if conditions().any(|one| planning::looks_up_failing(one, constants)) {
            return self.ask(scope);
        }
        Verdict::Visible
    }

    fn ask(&self, scope: &Scope<'_>) -> Verdict {
        let columns = &self.rules.asked_columns;
        let missing = columns.iter().find(|column| scope.row.get(**column) == Datum::Missing);
        missing.map_or(Verdict::Ask, |column| Verdict::Missing { column: *column })
    }

    fn asked_claims(&self) -> Option<&str> {
        self.may_ask().then_some(&**self.claims_json())
    }

    fn may_ask(&self) -> bool {
        self.rules.may_ask(self.constants())
    }

    fn constants(&self) -> &Values {
        self.own.as_ref().map_or(Values::NONE, |own| &own.constants)
    }
}

impl Rules {
    /// Whether PostgreSQL may be asked although every copy is there.
    fn may_ask(&self, constants: &Values) -> bool {
        self.may_ask || constants.stops().any(|stop| *stop == Stop::Ask)
    }
}

impl PartialEq for BoundPlan {
    fn eq(&self, other: &Self) -> bool {
        // The constants first: most plans that are compared have the same rules.
        self.constants() == other.constants()
            && (Arc::ptr_eq(&self.rules, &other.rules) || self.rules == other.rules)
            && self.asked_claims() == other.asked_claims()
    }
}

impl Eq for BoundPlan {}

impl Hash for BoundPlan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The rules of one role on one table hardly ever differ: their names suffice here.
        self.rules.table.hash(state);
        self.rules.role.hash(state);
        self.constants().hash(state);
        self.asked_claims().hash(state);
    }
}

/// The policies that say which rows the role may SELECT, with their expressions: none without a permissive one, since
/// PostgreSQL does not look at the others then.
pub(crate) fn applicable<'a>(table: &'a Table, role: &Role) -> Vec<(&'a Policy, &'a str)> {
    let policies: Vec<_> = table
        .policies
        .iter()
        .filter(|policy| matches!(policy.command, PolicyCommand::All | PolicyCommand::Select))
        .filter(|policy| policy.roles.is_empty() || policy.roles.iter().any(|oid| role.acts_as.contains(oid)))
        .filter_map(|policy| Some((policy, policy.using.as_deref()?)))
        .collect();
    let permits = policies.iter().any(|(policy, _)| policy.permissive);
    if permits { policies } else { Vec::new() }
}

/// Whether row security binds the role on the table.
pub(crate) fn is_bound(table: &Table, role: &Role) -> bool {
    let owns = role.acts_as.contains(&table.owner) && !table.force_row_security;
    table.row_security && !role.bypasses_row_security && !owns
}

/// Whether the role may SELECT these columns, by number; where there are none, any one of the table.
pub(crate) fn may_select(table: &Table, role: &Role, columns: &[i16]) -> bool {
    let Some(privileges) = role.privileges.get(&table.oid) else { return false };
    let selectable = |number: i16| {
        let index = table.columns.iter().position(|column| column.number == number);
        index.and_then(|index| privileges.selectable.get(index)).copied().unwrap_or(false)
    };
    if columns.is_empty() {
        privileges.selectable.contains(&true)
    } else {
        columns.iter().all(|&number| selectable(number))
    }
}

/// Leaves to PostgreSQL what compares something with itself that is the same for all rows, such as `current_user =
/// current_user`: PostgreSQL 15 raises for some of these while it plans ("cannot cope with variable-free clause").
fn leave_equal_to_themselves(expression: &mut Expression) -> bool {
    if let Expression::Call(Operation::Compare(Comparison::Equal), operands) = expression
        && let [left, right] = operands.as_slice()
        && left == right
        && left.is_constant()
    {
        *expression = Expression::Oracle;
        return true;
    }
    let mut left = false;
    for child in expression.children_mut() {
        left |= leave_equal_to_themselves(child);
    }
    left
}

fn leaves_a_part(expression: &Expression) -> bool {
    matches!(expression, Expression::Oracle) || expression.children().into_iter().any(leaves_a_part)
}

/// How many look-ups, and parts that are left to PostgreSQL, an expression has.
fn parts(expression: &Expression) -> usize {
    let own = matches!(expression, Expression::LookUp(_) | Expression::Oracle);
    usize::from(own) + expression.children().into_iter().map(parts).sum::<usize>()
}

fn access(table: &Table, role: &Role, readable: &[bool], policies: &[(&Policy, &str)]) -> Access {
    if !readable.contains(&true) {
        Access::Nothing
    } else if !is_bound(table, role) {
        Access::Everything
    } else if !policies.is_empty() {
        Access::ByPolicy
    } else {
        Access::Nothing
    }
}

fn combined(policies: &[(&Policy, &str)]) -> String {
    let texts = |permissive: bool| {
        policies
            .iter()
            .filter(move |(policy, _)| policy.permissive == permissive)
            .map(|(_, using)| format!("({using})"))
    };
    let mut parts: Vec<String> = texts(false).collect();
    let mut permissive: Vec<String> = texts(true).collect();
    permissive.reverse();
    parts.push(format!("({})", permissive.join(" OR ")));
    parts.join(" AND ")
}

fn asked_columns(table: &Table, policies: &[(&Policy, &str)]) -> Vec<usize> {
    let read =
        |number: i16| policies.iter().any(|(policy, _)| policy.whole_row || policy.columns.contains(&number));
    (0..table.columns.len()).filter(|index| read(table.columns[*index].number)).collect()
}

fn explain(policy: &Policy, unsupported: Vec<Unsupported>, looks_up: Vec<String>) -> Explanation {
    let decided = if !unsupported.is_empty() {
        DecidedBy::Oracle(unsupported)
    } else if looks_up.is_empty() {
        DecidedBy::Process
    } else {
        DecidedBy::Members(looks_up)
    };
    Explanation { policy: policy.name.clone(), permissive: policy.permissive, decided }
}

/// The tables that an expression looks something up in, by name.
fn tables_of(expression: &Expression, snapshot: &Snapshot) -> Vec<String> {
    let mut needs = Vec::new();
    copies::collect(expression, &mut needs);
    let name = |need: &CopyNeed| {
        let found = snapshot.lookups.get(&need.table)?;
        Some(format!("{}.{}", found.table.schema, found.table.name))
    };
    needs.iter().filter_map(name).collect()
}
