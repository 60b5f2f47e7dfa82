//! Privileges that it takes to run into policies: PostgreSQL checks them before the first row.

use walcast_pgoutput::Oid;

use crate::parse::decides_by_literals;
use crate::plan::{applicable, is_bound, may_select};
use crate::schema::{Function, Policy, Role, Snapshot, Types, Volatility};

/// The error of a role that lacks a privilege on what the policies read or call.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// PostgreSQL's message.
    pub(crate) error: String,
    /// The GRANT that is missing.
    pub(crate) mend: String,
}

/// What the role lacks first, if anything. `active` are the tables whose policies are gone
/// through, that of `policies` first; `foregone`: whether literals may have made superfluous what it is about.
pub(crate) fn refusal(
    policies: &[(&Policy, &str)],
    role: &Role,
    snapshot: &Snapshot,
    active: &mut Vec<Oid>,
    foregone: &mut bool,
) -> Option<Refusal> {
    let functions =
        || snapshot.functions.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)));
    for (policy, using) in policies {
        let foregone_before = *foregone;
        // The planner knows the value of an IMMUTABLE function of literals, too.
        let is_immutable = |oid: &Oid| {
            functions().any(|(_, one)| one.oid == *oid && one.volatility == Volatility::Immutable)
        };
        *foregone |= decides_by_literals(using) || policy.calls.iter().any(is_immutable);
        for oid in &policy.calls {
            let denied = functions().find(|(_, one)| one.oid == *oid && !role.executes.contains(oid));
            if let Some((name, function)) = denied {
                return Some(may_not_execute(name, function, role, &snapshot.types));
            }
        }
        for reading in &policy.readings {
            // A policy that reads its own table is an endless recursion, which is found before privileges are.
            let recursion = active.first() == Some(&reading.table);
            let Some(found) = snapshot.lookups.get(&reading.table).filter(|_| !recursion) else { continue };
            if !may_select(&found.table, role, &reading.columns) {
                let name = qualified(&found.table.schema, &found.table.name);
                return Some(Refusal {
                    error: format!("permission denied for table {}", found.table.name),
                    mend: format!("GRANT SELECT ON {name} TO {};", quoted(&role.name)),
                });
            }
            if is_bound(&found.table, role) && !active.contains(&reading.table) {
                active.push(reading.table);
                let refused = refusal(&applicable(&found.table, role), role, snapshot, active, foregone);
                if refused.is_some() {
                    return refused;
                }
            }
        }
        *foregone = foregone_before;
    }
    None
}

fn may_not_execute(name: &str, function: &Function, role: &Role, types: &Types) -> Refusal {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    let arguments: Option<Vec<String>> = function
        .arguments
        .iter()
        .map(|oid| types.get(*oid).map(|found| qualified(&found.schema, &found.name)))
        .collect();
    // A name alone will do where it has no other form.
    let arguments = arguments.map(|arguments| format!("({})", arguments.join(", "))).unwrap_or_default();
    Refusal {
        error: format!("permission denied for function {name}"),
        mend: format!(
            "GRANT EXECUTE ON FUNCTION {}{arguments} TO {};",
            qualified(schema, name),
            quoted(&role.name)
        ),
    }
}

fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// `name` as a quoted identifier (PostgreSQL docs, "Identifiers and Key Words").
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
