//! `realtime.messages`: its policies for reading and for writing, and whatever these reach.

use std::sync::Arc;

use futures_util::try_join;
use rustc_hash::FxHashSet;
use tokio_postgres::Client;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Policy, Role, Snapshot, Table};

use super::{Content, Scope, complete, names, reach, rows};
use crate::error::CatalogError;
use crate::fingerprint::Watch;
use crate::publication::MESSAGES_OPTIONS;
use crate::quoting::identifier;

/// Whether the log that walcast reads carries the rows of `realtime.messages` (docs/protocol.md §6.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessagesInLog {
    /// It does.
    Carried,
    /// There is no such table.
    #[default]
    NoTable,
    /// No publication that the stream reads has the table.
    NotPublished,
}

/// What a look found of `realtime.messages`.
#[derive(Default)]
pub(crate) struct ChannelLook {
    /// `None` where there is no such relation.
    found: Option<Found>,
    /// Whether the stream has its rows.
    pub(crate) in_log: MessagesInLog,
    /// What the look depended on.
    pub(crate) watch: Watch,
    /// The statement that walcast's publication of it is due.
    pub(crate) due: Option<String>,
}

struct Found {
    content: Content,
    table: Oid,
    writing: Vec<Policy>,
    facts: Facts,
}

/// What a check has to know beside the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    flaw: Option<String>,
    has_binary_payload: bool,
    usual: bool,
    inserters: FxHashSet<Oid>,
}

/// `realtime.messages`, ready for plans.
#[derive(Debug)]
pub(crate) struct Messages {
    /// Everything that its policies reach; its only table is this one, with the policies for reading.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The table with the policies for reading.
    pub(crate) reading: Arc<Table>,
    /// The table with those for writing in their place.
    pub(crate) writing: Arc<Table>,
    facts: Facts,
}

impl Messages {
    /// Why it can not be used, as a clause.
    pub(crate) fn flaw(&self) -> Option<&str> {
        self.facts.flaw.as_deref()
    }

    /// Whether every check of a role that `before` knew has the answer it had then.
    pub(crate) fn answers_as(&self, before: &Messages) -> bool {
        let (now, then) = (&*self.snapshot, &*before.snapshot);
        let same_role = |(name, role): (&String, &Arc<Role>)| {
            now.roles.get(name) == Some(role)
                && self.facts.inserters.contains(&role.oid) == before.facts.inserters.contains(&role.oid)
        };
        let same_facts = self.facts.flaw == before.facts.flaw && self.facts.usual == before.facts.usual;
        same_facts
            && self.reading == before.reading
            && self.writing == before.writing
            && now.lookups == then.lookups
            && now.types == then.types
            && now.functions == then.functions
            && now.search_path == then.search_path
            && then.roles.iter().all(same_role)
    }

    /// The table as if it had this policy alone, for everybody, and `roles` might write to it.
    pub(crate) fn with_only(&self, policy: &Policy, roles: &[&Role]) -> Messages {
        let alone = |table: &Table| {
            let policies = vec![Policy { permissive: true, roles: Vec::new(), ..policy.clone() }];
            Arc::new(Table { policies, ..table.clone() })
        };
        let mut facts = self.facts.clone();
        facts.inserters.extend(roles.iter().map(|role| role.oid));
        let snapshot = Arc::clone(&self.snapshot);
        Messages { snapshot, reading: alone(&self.reading), writing: alone(&self.writing), facts }
    }

    /// Whether it can hold bytes.
    pub(crate) fn has_binary_payload(&self) -> bool {
        self.facts.has_binary_payload
    }

    /// Whether nothing but grants and policies stands in the way of an INSERT: no column, trigger or constraint of
    /// somebody's own.
    pub(crate) fn is_usual(&self) -> bool {
        self.facts.usual
    }

    /// Whether the role has INSERT on the columns of a probe.
    pub(crate) fn may_insert(&self, role: Oid) -> bool {
        self.facts.inserters.contains(&role)
    }
}

/// Looks at `realtime.messages`; the caller has opened the transaction with [`super::BEGIN`].
pub(crate) async fn look(
    client: &Client,
    scope: Scope<'_>,
    publication: Option<&str>,
) -> Result<ChannelLook, CatalogError> {
    let (search_path, found) = try_join!(
        async { client.query_one("SELECT current_setting('walcast.search_path')", &[]).await },
        async {
            client
                .query_opt(include_str!("channel.sql"), &[&publication, &scope.roles, &scope.streamed])
                .await
        },
    )?;
    let relation_names = (vec!["realtime".to_owned()], vec!["messages".to_owned()]);
    let mut watch = Watch { relation_names, ..Watch::default() };
    let Some(row) = found else { return Ok(ChannelLook { watch, ..ChannelLook::default() }) };
    let oid = Oid(row.try_get(0)?);
    let (is_table, lacking): (bool, Vec<String>) = (row.try_get(7)?, row.try_get(8)?);
    let flaw = match lacking.as_slice() {
        _ if !is_table => Some("it is no table".to_owned()),
        [] => None,
        lacking => Some(format!("it lacks the usual {}", lacking.join(", "))),
    };
    let (published, exists): (bool, bool) = (row.try_get(11)?, row.try_get(14)?);
    let in_log = if row.try_get(15)? { MessagesInLog::Carried } else { MessagesInLog::NotPublished };
    let due = publication.filter(|_| !published && is_table).map(|own| publish(own, exists));
    let facts = Facts {
        flaw,
        has_binary_payload: row.try_get(9)?,
        usual: row.try_get(10)?,
        inserters: row.try_get::<_, Vec<u32>>(12)?.into_iter().map(Oid).collect(),
    };
    let parts: Vec<u32> = row.try_get(13)?;
    let tables = rows::tables(std::slice::from_ref(&row))?;

    let policies = include_str!("channel_policies.sql");
    let (select, insert) = (b'r'.cast_signed(), b'a'.cast_signed());
    let (reading, writing) = try_join!(async { client.query(policies, &[&oid.0, &select]).await }, async {
        client.query(policies, &[&oid.0, &insert]).await
    },)?;
    let reading = rows::policies(&reading)?.remove(&oid).unwrap_or_default();
    let writing = rows::policies(&writing)?.remove(&oid).unwrap_or_default();
    let search_path = names::search_path(search_path.try_get(0)?);
    let reached = reach::follow_policies(client, oid, (&reading, &writing), &search_path).await?;
    // Its look-ups are left to PostgreSQL, so nothing has to be published for them.
    let scope = Scope { own: None, ..scope };
    let mut content = Box::pin(complete(client, scope, tables, reached, search_path)).await?;
    watch.add(std::mem::take(&mut content.watch));
    watch.relations.push(oid.0);
    watch.relations.extend(parts);
    Ok(ChannelLook { found: Some(Found { content, table: oid, writing, facts }), in_log, watch, due })
}

/// The statement that has the log carry messages.
fn publish(publication: &str, exists: bool) -> String {
    let publication = identifier(publication);
    if exists {
        format!("ALTER PUBLICATION {publication} ADD TABLE realtime.messages;")
    } else {
        format!("CREATE PUBLICATION {publication} FOR TABLE realtime.messages {MESSAGES_OPTIONS};")
    }
}

impl ChannelLook {
    /// What there is now: the very same as `before` where nothing differs.
    pub(crate) fn after(self, before: Option<&Arc<Messages>>) -> Option<Arc<Messages>> {
        let Found { content, table, writing, facts } = self.found?;
        let none = Arc::default();
        let snapshot = content.after(before.map_or(&none, |before| &before.snapshot));
        let reading = Arc::clone(snapshot.tables.get(&table)?);
        let writing = Arc::new(Table { policies: writing, ..(*reading).clone() });
        if let Some(before) = before
            && Arc::ptr_eq(&before.snapshot, &snapshot)
            && before.writing == writing
            && before.facts == facts
        {
            return Some(Arc::clone(before));
        }
        Some(Arc::new(Messages { snapshot, reading, writing, facts }))
    }
}
