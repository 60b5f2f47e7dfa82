//! What a subscriber should know of bindings that are accepted and yet do not deliver all that they name:
//! one sentence each, with the SQL that mends it.

use walcast_policy::schema::{Identity as ReplicaIdentity, Role, Table};
use walcast_policy::{Access, Plan};
use walcast_wire::{BindingEvent, ChangeKind};

use crate::settings::Deletes;

/// A wildcard may mean hundreds of tables, but nobody reads hundreds of sentences at each join.
const SENTENCES_MAX: usize = 20;

/// The sentences for one channel, each once.
#[derive(Debug, Default)]
pub(crate) struct Notices(Vec<String>);

/// One table that a binding means, for one role.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) table: &'a Table,
    pub(crate) role: &'a Role,
    pub(crate) plan: &'a Plan,
    pub(crate) event: BindingEvent,
    /// Whether rows that come into sight or go out of it are to be told of.
    pub(crate) visibility: bool,
}

impl Notices {
    /// Adds what there is to say of one table of a binding.
    pub(crate) fn add(&mut self, subject: Subject<'_>, deletes: Deletes) {
        let silence = subject.silence(deletes);
        let partly = || [subject.private_deletes(deletes), subject.blind_visibility()];
        let sentences = if silence.is_some() { [silence, None] } else { partly() };
        for sentence in sentences.into_iter().flatten() {
            self.push(sentence);
        }
    }

    fn push(&mut self, sentence: String) {
        if self.0.len() < SENTENCES_MAX && !self.0.contains(&sentence) {
            self.0.push(sentence);
        }
    }

    pub(crate) fn into_sentences(self) -> Vec<String> {
        self.0
    }
}

impl Subject<'_> {
    /// Grants or policies admit the role to no row at all, or raise, whatever its claims say.
    fn silence(&self, deletes: Deletes) -> Option<String> {
        let rows = self.event.includes(ChangeKind::Insert) || self.event.includes(ChangeKind::Update);
        let reads = self.plan.readable().contains(&true);
        // Deletes that nobody judges reach even those who may not see the row, if they may see any.
        let keys = reads && self.event.includes(ChangeKind::Delete) && !self.judges_deletes(deletes);
        if !matches!(self.plan.access(), Access::Nothing | Access::Raises) || (keys && !rows) {
            return None;
        }
        let (table, role) = (self.table_name(), quoted(&self.role.name));
        let kept = if keys { "nothing but DELETE" } else { "nothing" };
        if let Some(error) = self.plan.error() {
            let sentence = format!(
                "Role {role} gets an error from every read of {table}, {error}, so {kept} of it is delivered."
            );
            return Some(match self.plan.mend() {
                Some(mend) => format!("{sentence} To receive changes: {mend}"),
                None => sentence,
            });
        }
        if !reads {
            let schema = quoted(&self.table.schema);
            return Some(format!(
                "Role {role} may not SELECT from {table}, so nothing of it is delivered. To receive changes: \
                 GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {table} TO {role};"
            ));
        }
        Some(format!(
            "Row-level security is on for {table} and no permissive policy for SELECT is for role {role}, so \
             {kept} of it is delivered. To receive changes: CREATE POLICY \"…\" ON {table} FOR SELECT TO {role} USING (…);"
        ))
    }

    /// Deletes of the table can not all be judged by what the log carries of the old row.
    fn private_deletes(&self, deletes: Deletes) -> Option<String> {
        let judged = self.plan.access() == Access::ByPolicy && self.event.includes(ChangeKind::Delete);
        if !judged || self.table.identity == ReplicaIdentity::Full || !self.judges_deletes(deletes) {
            return None;
        }
        let table = self.table_name();
        Some(format!(
            "DELETE on {table} is delivered only where its key columns suffice to decide who may see the row: \
             row-level security is on and the log does not carry the old row. To receive deletes: \
             ALTER TABLE {table} REPLICA IDENTITY FULL;"
        ))
    }

    /// Rows that leave and enter are asked for, and the log does not carry what it takes to tell.
    fn blind_visibility(&self) -> Option<String> {
        if !self.visibility || self.table.identity == ReplicaIdentity::Full {
            return None;
        }
        let table = self.table_name();
        Some(format!(
            "visibility on {table} has no effect: the log does not carry the old row of an UPDATE, so that nobody can \
             tell which rows leave and enter. To receive these events: ALTER TABLE {table} REPLICA IDENTITY FULL;"
        ))
    }

    /// Whether a DELETE goes only to those who could see the row.
    fn judges_deletes(&self, deletes: Deletes) -> bool {
        deletes == Deletes::Private || self.table.identity == ReplicaIdentity::Full
    }

    fn table_name(&self) -> String {
        format!("{}.{}", quoted(&self.table.schema), quoted(&self.table.name))
    }
}

/// `name` as a quoted identifier (PostgreSQL docs, "Identifiers and Key Words").
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
