//! From what a client asks for to what the matcher can look up: bindings are resolved against the catalog.

use std::sync::{Arc, Mutex};

use rustc_hash::{FxHashMap, FxHashSet};
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Role, Snapshot, Table};
use walcast_policy::{
    Access, BoundPlan, CopyNeed, Filter, FilterCondition, FilterError, FilterOperator, FilterValue, Oracle,
    OracleError, Plan,
};
use walcast_wire::{Binding, BindingEvent, BindingId, BindingTarget, Condition, ConditionValue, Operator};

use crate::notice::{Notices, Subject};
use crate::settings::Deletes;

/// Reasons remembered so that each is logged once; beyond this the memory starts anew.
const TOLD_MAX: usize = 1_000;

/// Who a socket or channel is, as its verified token says.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The PostgreSQL role.
    pub role: Arc<str>,
    /// The claims.
    pub claims: Arc<serde_json::Value>,
    /// The claims as JSON text, as they were signed.
    pub claims_json: Arc<str>,
}

impl Identity {
    /// The `sub` claim, where it is a text.
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(serde_json::Value::as_str)
    }
}

/// One binding on one table, ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) table: Oid,
    /// Its place among those of the join.
    pub(crate) binding: usize,
    pub(crate) id: BindingId,
    pub(crate) event: BindingEvent,
    pub(crate) filter: Filter,
    pub(crate) plan: BoundPlan,
    /// Indices of the columns that the subscriber is shown.
    pub(crate) columns: Box<[usize]>,
    /// May the role read every column of the primary key (docs/protocol.md §4.4, error 401)?
    pub(crate) reads_key: bool,
    /// Whether it is to be told of rows that an UPDATE takes out of its sight or brings into it: it asked for that, and
    /// has a sight that rows can leave.
    pub(crate) visibility: bool,
    /// Where it is to begin with the rows that are there.
    pub(crate) snapshot: Option<SnapshotWanted>,
}

/// Which rows a binding begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotWanted {
    /// The filter as SQL.
    pub(crate) filter: Option<String>,
}

/// What resolving a channel's bindings gives.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) placements: Vec<Placement>,
    /// What the client should know, one sentence each.
    pub(crate) notices: Vec<String>,
    /// The catalog this holds for.
    pub(crate) snapshot_version: u64,
}

impl Resolved {
    /// The copies that its plans look things up in.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &CopyNeed> {
        self.placements.iter().flat_map(|placement| placement.plan.copies())
    }
}

/// The bindings can not be subscribed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscribeError {
    /// The client's fault: the text of the `system` message (docs/protocol.md §3.5).
    #[error("{0}")]
    Refused(String),
    /// PostgreSQL could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

/// Compiled plans, shared by all sockets of one role on one table.
#[derive(Default)]
pub(crate) struct PlanCache {
    known: Mutex<KnownPlans>,
}

#[derive(Default)]
struct KnownPlans {
    plans: FxHashMap<(Oid, Arc<str>), CachedPlan>,
    /// Tables without a copy, and why, that the operator was told of.
    told: FxHashSet<(Oid, String)>,
}

struct CachedPlan {
    table: Arc<Table>,
    role: Arc<Role>,
    snapshot: Arc<Snapshot>,
    plan: Plan,
}

impl CachedPlan {
    fn holds_for(&self, table: &Arc<Table>, role: &Arc<Role>, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot, snapshot)
            || ((Arc::ptr_eq(&self.table, table) || self.table == *table)
                && (Arc::ptr_eq(&self.role, role) || self.role == *role)
                && self.snapshot.compiles_as(snapshot))
    }
}

impl PlanCache {
    fn plan(&self, table: &Arc<Table>, role: &Arc<Role>, snapshot: &Arc<Snapshot>) -> Plan {
        let key = (table.oid, Arc::from(role.name.as_str()));
        // A poisoned lock means that a compilation panicked; the map itself is whole.
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(cached) = known.plans.get(&key).filter(|cached| cached.holds_for(table, role, snapshot)) {
            return cached.plan.clone();
        }
        let plan = Plan::compile(table, role, snapshot);
        for reason in plan.explanation() {
            tracing::debug!(table = %table.name, role = %role.name, ?reason, "policy compiled");
        }
        known.tell_of_no_copies(&plan, snapshot);
        let (table, role, snapshot) = (Arc::clone(table), Arc::clone(role), Arc::clone(snapshot));
        known.plans.insert(key, CachedPlan { table, role, snapshot, plan: plan.clone() });
        plan
    }
}

impl KnownPlans {
    /// Policies that PostgreSQL decides for want of a copy are slow, not silent: a matter for the operator alone.
    fn tell_of_no_copies(&mut self, plan: &Plan, snapshot: &Snapshot) {
        for oid in plan.not_copied() {
            let Some(found) = snapshot.lookups.get(oid) else { continue };
            let reason = found.obstacle.clone().unwrap_or_default();
            if self.told.len() >= TOLD_MAX {
                self.told.clear();
            }
            if self.told.insert((*oid, reason.clone())) {
                tracing::warn!(
                    code = "LookupNotCopied", schema = %found.table.schema, table = %found.table.name, reason,
                    "policies that look something up here are decided by the database, which is slower"
                );
            }
        }
    }
}

/// Resolves a channel's bindings against the catalog as it is now; see [`resolve_in`].
pub(crate) async fn resolve(
    bindings: &[Binding],
    identity: &Identity,
    oracle: &dyn Oracle,
    plans: &PlanCache,
    deletes: Deletes,
) -> Result<Resolved, SubscribeError> {
    resolve_in(oracle.snapshot(), bindings, identity, oracle, plans, deletes).await
}

/// Resolves a channel's bindings against a state of the catalog, or a newer one where only that knows the
/// role. A binding that is wrong refuses all of them, as the reference server does (docs/protocol.md §3.5).
pub(crate) async fn resolve_in(
    mut snapshot: Arc<Snapshot>,
    bindings: &[Binding],
    identity: &Identity,
    oracle: &dyn Oracle,
    plans: &PlanCache,
    deletes: Deletes,
) -> Result<Resolved, SubscribeError> {
    let mut resolver = None;
    let mut placements = Vec::new();
    let mut notices = Notices::default();
    for (place, binding) in bindings.iter().enumerate() {
        let target = binding.target.as_ref().map_err(|error| SubscribeError::Refused(error.to_string()))?;
        if resolver.is_none() {
            if !snapshot.roles.contains_key(&*identity.role) {
                snapshot = oracle.role(&identity.role).await.map_err(|error| refused(target, &error))?;
            }
            let role = snapshot
                .roles
                .get(&*identity.role)
                .ok_or_else(|| exception(target, &format!("role \"{}\" does not exist", identity.role)))?;
            resolver = Some(Resolver {
                snapshot: Arc::clone(&snapshot),
                role: Arc::clone(role),
                identity,
                oracle,
                plans,
                bound: FxHashMap::default(),
            });
        }
        let Some(resolver) = resolver.as_mut() else {
            continue;
        };
        let tables: Vec<_> =
            snapshot.tables.values().filter(|table| target_matches(target, table)).cloned().collect();
        if tables.is_empty() {
            return Err(SubscribeError::Refused(format!(
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for \
                 the given connect parameters: {target}"
            )));
        }
        for table in tables {
            let (placement, plan) = resolver.place(place, binding, target, &table).await?;
            let Placement { event, visibility, .. } = placement;
            let subject = Subject { table: &table, role: &resolver.role, plan: &plan, event, visibility };
            notices.add(subject, deletes);
            placements.push(placement);
        }
    }
    let notices = notices.into_sentences();
    Ok(Resolved { placements, notices, snapshot_version: snapshot.version })
}

struct Resolver<'a> {
    snapshot: Arc<Snapshot>,
    role: Arc<Role>,
    identity: &'a Identity,
    oracle: &'a dyn Oracle,
    plans: &'a PlanCache,
    bound: FxHashMap<Oid, (Plan, BoundPlan)>,
}

impl Resolver<'_> {
    async fn place(
        &mut self,
        place: usize,
        binding: &Binding,
        target: &BindingTarget,
        table: &Arc<Table>,
    ) -> Result<(Placement, Plan), SubscribeError> {
        let (plan, bound) = self.bound_plan(target, table).await?;
        let readable = plan.readable();
        let may_read = |name: &str| {
            table.column_index(name).filter(|&index| readable.get(index).copied().unwrap_or(false))
        };
        let mut conditions = Vec::with_capacity(target.filter.len());
        for condition in &target.filter {
            let column = may_read(&condition.column).ok_or_else(|| {
                exception(target, &format!("invalid column for filter {}", condition.column))
            })?;
            conditions.push(filter_condition(column, condition));
        }
        for name in target.select.iter().flatten() {
            if may_read(name).is_none() {
                return Err(exception(target, &format!("invalid column for select {name}")));
            }
        }
        let types = &self.snapshot.types;
        let wrong = |error: FilterError| with_exception(target, &error.to_string());
        let snapshot = if target.snapshot {
            let filter = Filter::sql(table, types, conditions.clone()).map_err(wrong)?;
            Some(SnapshotWanted { filter })
        } else {
            None
        };
        let filter = Filter::compile(table, types, conditions).map_err(wrong)?;
        for (index, check) in filter.checks().iter().enumerate() {
            match self.oracle.check_expression(check).await {
                Ok(()) => {}
                Err(error @ OracleError::Raised { .. }) => {
                    return Err(with_exception(target, &filter.refusal(index, &error).to_string()));
                }
                Err(OracleError::Disconnected(reason) | OracleError::Unavailable(reason)) => {
                    return Err(SubscribeError::Unavailable(reason));
                }
            }
        }
        let shown = |index: &usize| {
            let column = &table.columns[*index];
            let selected = target.select.as_ref().is_none_or(|select| select.contains(&column.name));
            readable.get(*index).copied().unwrap_or(false) && (selected || column.primary_key)
        };
        let reads_key = table
            .columns
            .iter()
            .enumerate()
            .all(|(index, column)| !column.primary_key || readable.get(index).copied().unwrap_or(false));
        let selective = !target.filter.is_empty() || plan.access() == Access::ByPolicy;
        let placement = Placement {
            table: table.oid,
            binding: place,
            id: binding.id,
            event: target.event,
            filter: filter.checked(),
            plan: bound,
            columns: (0..table.columns.len()).filter(shown).collect(),
            reads_key,
            // Otherwise an UPDATE is shown as an error, to all (docs/protocol.md §4.4).
            snapshot,
            visibility: target.visibility && selective && reads_key && table.has_primary_key(),
        };
        Ok((placement, plan))
    }

    async fn bound_plan(
        &mut self,
        target: &BindingTarget,
        table: &Arc<Table>,
    ) -> Result<(Plan, BoundPlan), SubscribeError> {
        if let Some(found) = self.bound.get(&table.oid) {
            return Ok(found.clone());
        }
        let plan = self.plans.plan(table, &self.role, &self.snapshot);
        let Identity { role, claims, claims_json } = self.identity;
        let foreign = match plan.foreign_constants() {
            [] => Vec::new(),
            expressions => self
                .oracle
                .constants(role, claims_json, expressions)
                .await
                .map_err(|error| refused(target, &error))?,
        };
        let bound = plan.bind(claims, claims_json, &foreign);
        self.bound.insert(table.oid, (plan.clone(), bound.clone()));
        Ok((plan, bound))
    }
}

fn target_matches(target: &BindingTarget, table: &Table) -> bool {
    target.schema.matches(&table.schema) && target.table.matches(&table.name)
}

fn filter_condition(column: usize, condition: &Condition) -> FilterCondition {
    let operator = match condition.operator {
        Operator::Eq => FilterOperator::Eq,
        Operator::Neq => FilterOperator::Neq,
        Operator::Lt => FilterOperator::Lt,
        Operator::Lte => FilterOperator::Lte,
        Operator::Gt => FilterOperator::Gt,
        Operator::Gte => FilterOperator::Gte,
        Operator::In => FilterOperator::In,
        Operator::Like => FilterOperator::Like,
        Operator::Ilike => FilterOperator::Ilike,
        Operator::Is => FilterOperator::Is,
        Operator::Match => FilterOperator::Match,
        Operator::Imatch => FilterOperator::Imatch,
        Operator::IsDistinct => FilterOperator::IsDistinct,
    };
    let value = match &condition.value {
        ConditionValue::One(value) => FilterValue::One(value.clone()),
        ConditionValue::List(values) => FilterValue::List(values.clone()),
    };
    FilterCondition { column, operator, negated: condition.negated, value }
}

fn refused(target: &BindingTarget, error: &OracleError) -> SubscribeError {
    match error {
        OracleError::Raised { code, message } => {
            let refused = FilterError::Refused { code: code.clone(), message: message.clone() };
            with_exception(target, &refused.to_string())
        }
        OracleError::Disconnected(reason) | OracleError::Unavailable(reason) => {
            SubscribeError::Unavailable(reason.clone())
        }
    }
}

fn exception(target: &BindingTarget, message: &str) -> SubscribeError {
    with_exception(target, &format!("ERROR P0001 (raise_exception) {message}"))
}

fn with_exception(target: &BindingTarget, exception: &str) -> SubscribeError {
    SubscribeError::Refused(format!(
        "Unable to subscribe to changes with given parameters. An exception happened so please check your \
         connect parameters: {target}. Exception: {exception}"
    ))
}
