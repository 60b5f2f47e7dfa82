//! One policy as a plan of its own, to tell how it is decided and whether it is the one that decided.

use walcast_pgoutput::Oid;
use walcast_policy::schema::{Policy, PolicyCommand, Privileges, Role, Snapshot, Table};
use walcast_policy::{Access, Plan};

/// Whether the policy decides who sees a row.
pub(crate) fn is_for_reading(policy: &Policy) -> bool {
    matches!(policy.command, PolicyCommand::All | PolicyCommand::Select) && policy.using.is_some()
}

/// The plan that `policy` alone makes for `role`; `None` where it is not for that role or not for reading.
///
/// Its verdict is what the policy's condition comes to: a restrictive policy is taken as if it were
/// permissive, since there is no other that could admit a row.
pub(crate) fn plan(table: &Table, policy: &Policy, role: &Role, snapshot: &Snapshot) -> Option<Plan> {
    let alone = Table {
        policies: vec![Policy { permissive: true, ..policy.clone() }],
        row_security: true,
        force_row_security: true,
        ..table.clone()
    };
    let plan = Plan::compile(&alone, role, snapshot);
    matches!(plan.access(), Access::ByPolicy | Access::Raises).then_some(plan)
}

/// The plan of `policy` for those whom it is for, whoever they are.
pub(crate) fn plan_for_anybody(table: &Table, policy: &Policy, snapshot: &Snapshot) -> Option<Plan> {
    let everything = |table: &Table| Privileges { selectable: vec![true; table.columns.len()] };
    let looked_up = snapshot.lookups.iter().map(|(oid, found)| (*oid, everything(&found.table)));
    let function_schemas =
        snapshot.functions.keys().filter_map(|name| Some(name.split_once('.')?.0.to_owned()));
    let table_schemas = snapshot.lookups.values().map(|found| found.table.schema.clone());
    let reader = Role {
        oid: Oid::default(),
        name: String::new(),
        bypasses_row_security: false,
        acts_as: policy.roles.iter().copied().collect(),
        privileges: looked_up.chain([(table.oid, everything(table))]).collect(),
        executes: snapshot.functions.values().flatten().map(|function| function.oid).collect(),
        schemas: function_schemas.chain(table_schemas).chain([table.schema.clone()]).collect(),
    };
    plan(table, policy, &reader, snapshot)
}
