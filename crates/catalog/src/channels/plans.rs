//! The policies of `realtime.messages`, compiled once for each role and decided over a probe row.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use walcast_pgoutput::PgTimestamp;
use walcast_policy::channel::{ChannelExtension, ChannelRequest, ChannelRights, ProbeRow};
use walcast_policy::schema::{Privileges, Role};
use walcast_policy::{ChannelSettings, MembersAt, Plan, Verdict};

use super::ChannelAction;
use crate::read::Messages;

/// The plans of one state of the catalog.
#[derive(Default)]
pub(crate) struct Plans(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// What the plans were made of.
    messages: Option<Arc<Messages>>,
    plans: FxHashMap<(String, ChannelAction), Plan>,
}

impl Plans {
    /// The rights, or `None` where only PostgreSQL can tell.
    pub(crate) fn decide(
        &self,
        messages: &Arc<Messages>,
        action: ChannelAction,
        request: &ChannelRequest,
        extensions: &[ChannelExtension],
    ) -> Option<ChannelRights> {
        let role = messages.snapshot.roles.get(&*request.role)?;
        // PostgreSQL refuses such text.
        if request.topic.contains('\0') || request.headers.contains('\0') {
            return None;
        }
        match action {
            ChannelAction::Read if !may_read(messages, role) => return None,
            ChannelAction::Write if !messages.is_usual() => return None,
            ChannelAction::Write if !may_write(messages, role) => return Some(ChannelRights::default()),
            ChannelAction::Read | ChannelAction::Write => {}
        }
        let plan = self.plan(messages, role, action);
        let channel = ChannelSettings { topic: &request.topic, headers: &request.headers };
        let bound = plan.bind_channel(&request.claims, &request.claims_json, channel);
        let now = now();
        let mut rights = ChannelRights::default();
        for &extension in extensions {
            let probe = ProbeRow::new(&request.topic, extension, now);
            match bound.evaluate(&probe.image(&messages.reading), now, MembersAt::none()) {
                Verdict::Visible => *right(&mut rights, extension) = true,
                Verdict::Hidden => {}
                // What fails is asked as well: PostgreSQL has the words for it.
                Verdict::Ask | Verdict::Missing { .. } | Verdict::Failed(_) => return None,
            }
        }
        Some(rights)
    }

    fn plan(&self, messages: &Arc<Messages>, role: &Role, action: ChannelAction) -> Plan {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.messages.as_ref().is_some_and(|before| Arc::ptr_eq(before, messages)) {
            *kept = Kept { messages: Some(Arc::clone(messages)), plans: FxHashMap::default() };
        }
        let key = (role.name.clone(), action);
        kept.plans.entry(key).or_insert_with(|| compile(messages, role, action)).clone()
    }
}

/// The plan of a role. For writing, the right to INSERT stands in the place of that to SELECT.
pub(super) fn compile(messages: &Messages, role: &Role, action: ChannelAction) -> Plan {
    match action {
        ChannelAction::Read => Plan::compile_for_channel(&messages.reading, role, &messages.snapshot),
        ChannelAction::Write => {
            let mut role = role.clone();
            let insertable = vec![messages.may_insert(role.oid); messages.writing.columns.len()];
            role.privileges.insert(messages.writing.oid, Privileges { selectable: insertable });
            Plan::compile_for_channel(&messages.writing, &role, &messages.snapshot)
        }
    }
}

/// The field of an extension.
pub(super) fn right(rights: &mut ChannelRights, extension: ChannelExtension) -> &mut bool {
    match extension {
        ChannelExtension::Broadcast => &mut rights.broadcast,
        ChannelExtension::Presence => &mut rights.presence,
    }
}

/// Whether the role may SELECT the ids of probes.
pub(super) fn may_read(messages: &Messages, role: &Role) -> bool {
    let table = &messages.reading;
    let selectable = role.privileges.get(&table.oid).zip(table.column_index("id"));
    role.schemas.contains(&table.schema)
        && selectable.is_some_and(|(found, id)| found.selectable.get(id).copied().unwrap_or(false))
}

/// Whether the role may INSERT probes.
pub(super) fn may_write(messages: &Messages, role: &Role) -> bool {
    role.schemas.contains(&messages.writing.schema) && messages.may_insert(role.oid)
}

fn now() -> PgTimestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_microseconds(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
