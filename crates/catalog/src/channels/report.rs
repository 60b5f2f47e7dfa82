//! How the policies of `realtime.messages` are decided, for `walcast doctor`.

use walcast_policy::schema::{Policy, Privileges, Role};
use walcast_policy::{Access, DecidedBy};

use super::ChannelAction;
use super::plans::{compile, may_read, may_write};
use crate::read::Messages;

/// What there is to say of private channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelReport {
    /// Why the table can not be used, as a clause.
    pub flaw: Option<String>,
    /// Whether policies decide at all.
    pub row_security: bool,
    /// The SQL that has the log carry the table, where it does not.
    pub due: Option<String>,
    /// The policies for reading and for writing, in the order of their names.
    pub policies: Vec<ChannelPolicyReport>,
    /// What the roles may do.
    pub roles: Vec<ChannelRoleReport>,
}

/// One policy for one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPolicyReport {
    /// What it is for.
    pub action: ChannelAction,
    /// Its name.
    pub name: String,
    /// The condition that counts for the action.
    pub condition: String,
    /// Why PostgreSQL is asked, sub-expression and reason; empty where walcast decides.
    pub asked: Vec<(String, String)>,
}

/// What a role may do with private channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRoleReport {
    /// Its name.
    pub role: String,
    /// To receive.
    pub read: ChannelAccess,
    /// To send.
    pub write: ChannelAccess,
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelAccess {
    /// Nothing is allowed: a grant is missing, or there is no policy.
    Nothing,
    /// The policies.
    ByPolicy,
    /// Everything is allowed: policies do not bind the role.
    Everything,
    /// Every check is an error.
    Raises,
}

/// Puts the report together for `roles`.
pub(crate) fn report(messages: &Messages, roles: &[String], due: Option<String>) -> ChannelReport {
    let known: Vec<&Role> =
        roles.iter().filter_map(|name| Some(&**messages.snapshot.roles.get(name)?)).collect();
    let actions = [(ChannelAction::Read, &messages.reading), (ChannelAction::Write, &messages.writing)];
    let policies = actions
        .iter()
        .flat_map(|(action, table)| table.policies.iter().map(|policy| (*action, policy)))
        .map(|(action, policy)| of_policy(messages, action, policy, &known));
    let roles = known.iter().map(|role| ChannelRoleReport {
        role: role.name.clone(),
        read: access(messages, role, ChannelAction::Read),
        write: access(messages, role, ChannelAction::Write),
    });
    ChannelReport {
        flaw: messages.flaw().map(str::to_owned),
        row_security: messages.reading.row_security,
        due,
        policies: policies.collect(),
        roles: roles.collect(),
    }
}

fn access(messages: &Messages, role: &Role, action: ChannelAction) -> ChannelAccess {
    let granted = match action {
        ChannelAction::Read => may_read(messages, role),
        ChannelAction::Write => may_write(messages, role),
    };
    if !granted {
        return ChannelAccess::Nothing;
    }
    match compile(messages, role, action).access() {
        Access::Nothing => ChannelAccess::Nothing,
        Access::Everything => ChannelAccess::Everything,
        Access::ByPolicy => ChannelAccess::ByPolicy,
        Access::Raises => ChannelAccess::Raises,
    }
}

/// Somebody with this role's memberships whom nothing but policies binds.
fn bound(role: &Role, messages: &Messages) -> Role {
    let mut role = role.clone();
    role.bypasses_row_security = false;
    role.schemas.insert(messages.reading.schema.clone());
    let selectable = vec![true; messages.reading.columns.len()];
    role.privileges.insert(messages.reading.oid, Privileges { selectable });
    role
}

/// A policy as those of the known roles run into it that it is for; which of its parts are compiled may differ. Where
/// it is for none of them, as they would.
fn of_policy(
    messages: &Messages,
    action: ChannelAction,
    policy: &Policy,
    roles: &[&Role],
) -> ChannelPolicyReport {
    let is_for =
        |role: &&&Role| policy.roles.is_empty() || policy.roles.iter().any(|oid| role.acts_as.contains(oid));
    let meant: Vec<&Role> = roles.iter().filter(is_for).copied().collect();
    let is_for_known = !meant.is_empty();
    let roles: &[&Role] = if is_for_known { &meant } else { roles };
    let only = messages.with_only(policy, roles);
    let mut asked: Vec<(String, String)> = Vec::new();
    let mut ask = |expression: &str, reason: String| {
        let one = (expression.to_owned(), reason);
        if !asked.contains(&one) {
            asked.push(one);
        }
    };
    for role in roles {
        let plan = compile(&only, &bound(role, messages), action);
        if let Some(error) = plan.error().filter(|_| is_for_known) {
            ask(policy.using.as_deref().unwrap_or_default(), format!("{} gets an error: {error}", role.name));
        }
        for explanation in plan.explanation() {
            match &explanation.decided {
                DecidedBy::Process => {}
                DecidedBy::Members(tables) => ask(
                    policy.using.as_deref().unwrap_or_default(),
                    format!("a look-up in {}", tables.join(", ")),
                ),
                DecidedBy::Oracle(unsupported) => {
                    for one in unsupported {
                        ask(&one.expression, one.reason.clone());
                    }
                }
            }
        }
        let foreign = plan.foreign_constants().iter();
        foreign.for_each(|sql| ask(sql, "a function that only PostgreSQL computes".to_owned()));
    }
    if action == ChannelAction::Write && !messages.is_usual() {
        ask("INSERT", "a trigger, constraint or column that the table usually has not".to_owned());
    }
    ChannelPolicyReport {
        action,
        name: policy.name.clone(),
        condition: policy.using.clone().unwrap_or_default(),
        asked,
    }
}
