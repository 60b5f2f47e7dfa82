//! What has to be in place before changes can flow, checked in the order in which a user would mend it: the log's
//! level, the publications, the slot; and the command that starts the flow.

use std::time::Duration;

use walcast_pgoutput::Lsn;

use crate::error::ReplicationError;
use crate::query::{QueryError, Row};
use crate::refusal;
use crate::server_error::ServerError;
use crate::sql_text::{identifier, literal};
use crate::startup::Session;

/// The output plugin whose messages `walcast-pgoutput` decodes. It is part of every PostgreSQL since 10.
const PLUGIN: &str = "pgoutput";

/// From this version on `wal_level` may say `replica` and rise to logical with the first slot.
const WAL_LEVEL_RISES_BY_ITSELF: u32 = 190_000;

/// From this version on a slot can follow a failover to a standby (`FAILOVER` of `CREATE_REPLICATION_SLOT`).
const FAILOVER_SINCE: u32 = 170_000;

/// Which cluster and database answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct System {
    /// Unique to a cluster since its `initdb`.
    pub(crate) identifier: String,
    /// How far its log is flushed.
    pub(crate) position: Lsn,
    pub(crate) timeline: u32,
    pub(crate) database: String,
}

/// A slot that is ready to stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadySlot {
    /// Changes committed after this position come.
    pub(crate) confirmed: Lsn,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

/// Where a slot that is ready comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was there, as it should be.
    Found,
    /// There was none, and it was made just now.
    Missing,
    /// PostgreSQL had invalidated the one that was there; it was made anew.
    Invalidated,
    /// The one that was there was dropped on request; it was made anew.
    Renewed,
}

/// The server's settings that matter to a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    /// None when the server waits for ever.
    pub(crate) wal_sender_timeout: Option<Duration>,
    /// Whether a slot that is made here can follow a failover.
    pub(crate) failover: bool,
}

impl Session {
    /// `IDENTIFY_SYSTEM`.
    pub(crate) async fn identify_system(&mut self) -> Result<System, ReplicationError> {
        let rows = self.query("IDENTIFY_SYSTEM").await;
        let rows = rows.map_err(|error| error.during("identify itself"))?;
        let unreadable = || ReplicationError::protocol(format!("IDENTIFY_SYSTEM answered {rows:?}"));
        let Some([Some(system), Some(timeline), Some(position), Some(database), ..]) =
            rows.first().map(Vec::as_slice)
        else {
            return Err(unreadable());
        };
        Ok(System {
            identifier: system.clone(),
            position: position.parse().map_err(|_| unreadable())?,
            timeline: timeline.parse().map_err(|_| unreadable())?,
            database: database.clone(),
        })
    }

    /// Where timeline `newer` has left the timeline `older`, directly or over others (`TIMELINE_HISTORY`). The beginning of
    /// the log where it never was on that.
    pub(crate) async fn timeline_switch(&mut self, newer: u32, older: u32) -> Result<Lsn, ReplicationError> {
        let rows = self.query(&format!("TIMELINE_HISTORY {newer}")).await;
        let rows = rows.map_err(|error| error.during("tell the history of its timeline"))?;
        let history = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
        let history = history
            .ok_or_else(|| ReplicationError::protocol(format!("TIMELINE_HISTORY answered {rows:?}")))?;
        Ok(switch_from(history, older).unwrap_or(Lsn::ZERO))
    }

    /// Refuses a log that does not carry logical changes, and reads what else the stream must know.
    pub(crate) async fn check_server(&mut self) -> Result<ServerFacts, ReplicationError> {
        let sql = "SELECT pg_catalog.current_setting('wal_level'), \
                   pg_catalog.current_setting('server_version_num'), \
                   (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'), \
                   pg_catalog.pg_is_in_recovery()";
        let rows = self.query(sql).await.map_err(|error| error.during("show its settings"))?;
        let mut values = rows.into_iter().next().unwrap_or_default().into_iter();
        let mut next = || values.next().flatten().unwrap_or_default();
        let (wal_level, version, timeout, standby) = (next(), next(), next(), next());
        let version: u32 = version.parse().unwrap_or_default();
        if wal_level != "logical" && version < WAL_LEVEL_RISES_BY_ITSELF {
            return Err(ReplicationError::WalLevel { current: wal_level });
        }
        let milliseconds: u64 = timeout.parse().unwrap_or_default();
        Ok(ServerFacts {
            wal_sender_timeout: (milliseconds > 0).then(|| Duration::from_millis(milliseconds)),
            failover: version >= FAILOVER_SINCE && standby == "f",
        })
    }

    /// Refuses when one of the publications is not there. Without this the stream would start and break at the
    /// first change.
    pub(crate) async fn check_publications(
        &mut self,
        publications: &[String],
        database: &str,
    ) -> Result<(), ReplicationError> {
        let wanted: Vec<String> = publications.iter().map(|name| literal(name)).collect();
        let sql = format!(
            "SELECT wanted FROM pg_catalog.unnest(ARRAY[{}]::text[]) AS wanted WHERE NOT EXISTS \
             (SELECT FROM pg_catalog.pg_publication WHERE pubname = wanted)",
            wanted.join(", ")
        );
        let rows = self.query(&sql).await.map_err(|error| error.during("list publications"))?;
        let names: Vec<String> = rows.into_iter().flatten().flatten().map(|name| identifier(&name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(ReplicationError::MissingPublications { names, database: database.to_owned() })
    }

    /// Finds the slot, or makes it. One that PostgreSQL has invalidated is of no use any more and is made anew, as is any
    /// with `renew`. `unusable` is why an earlier connection began to make it anew, and becomes why this one does.
    pub(crate) async fn ready_slot(
        &mut self,
        slot: &str,
        database: &str,
        facts: &ServerFacts,
        renew: bool,
        unusable: &mut Option<Origin>,
    ) -> Result<ReadySlot, ReplicationError> {
        let (found, seen) = match self.find_slot(slot).await? {
            None if renew => (false, Origin::Renewed),
            None => (false, Origin::Missing),
            Some(found) => match found.check(slot, database)? {
                Usable::At(confirmed) if !renew => {
                    return Ok(ReadySlot { confirmed, origin: unusable.unwrap_or(Origin::Found) });
                }
                Usable::At(_) => (true, Origin::Renewed),
                Usable::Never => (true, Origin::Invalidated),
            },
        };
        let origin = *unusable.get_or_insert(seen);
        if found {
            self.drop_slot(slot, origin).await?;
        }
        tracing::info!(
            slot,
            "creating the replication slot; PostgreSQL waits for running transactions to end first"
        );
        match self.query(&create_command(slot, facts.failover)).await {
            Ok(rows) => {
                let position = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
                let confirmed = position.and_then(|text| text.parse().ok()).ok_or_else(|| {
                    ReplicationError::protocol(format!("CREATE_REPLICATION_SLOT answered {rows:?}"))
                })?;
                Ok(ReadySlot { confirmed, origin })
            }
            // Somebody was faster with the same name.
            Err(QueryError::Refused(error)) if error.code == "42710" => match self.find_slot(slot).await? {
                Some(found) => match found.check(slot, database)? {
                    Usable::At(confirmed) => Ok(ReadySlot { confirmed, origin }),
                    Usable::Never => Err(ReplicationError::SlotLost { slot: slot.to_owned() }),
                },
                None => Err(refusal::of_slot_creation(slot, error)),
            },
            Err(QueryError::Refused(error)) => Err(refusal::of_slot_creation(slot, error)),
            Err(QueryError::Broken(error)) => Err(error),
        }
    }

    async fn drop_slot(&mut self, slot: &str, origin: Origin) -> Result<(), ReplicationError> {
        tracing::error!(
            code = "ReplicationSlotLost",
            slot,
            ?origin,
            "the replication slot is dropped and made anew; changes that it has not delivered are lost"
        );
        match self.query(&format!("DROP_REPLICATION_SLOT {}", identifier(slot))).await {
            Ok(_) => Ok(()),
            // It is gone already.
            Err(QueryError::Refused(error)) if error.code == "42704" => Ok(()),
            Err(QueryError::Refused(error)) => Err(refusal::of_stream(slot, error)),
            Err(QueryError::Broken(error)) => Err(error),
        }
    }

    /// `START_REPLICATION`; afterwards the session is in COPY BOTH mode and takes no more queries.
    pub(crate) async fn start_replication(
        &mut self,
        slot: &str,
        from: Lsn,
        publications: &[String],
    ) -> Result<(), ReplicationError> {
        self.send_query(&start_command(slot, from, publications)).await?;
        let mut refused = None;
        loop {
            let frame = self.socket.frame().await?;
            match frame.tag() {
                // CopyBothResponse: a format byte and a count of columns, which say nothing for replication.
                b'W' => return Ok(()),
                b'E' => refused = Some(ServerError::parse(&frame.into_body())),
                b'Z' => break,
                b'N' | b'S' => {}
                tag => {
                    return Err(ReplicationError::protocol(format!(
                        "message '{}' in answer to START_REPLICATION",
                        tag.escape_ascii()
                    )));
                }
            }
        }
        let error = refused.unwrap_or_default();
        match refusal::of_stream(slot, error) {
            ReplicationError::SlotInUse { slot, .. } => {
                let pid = self.find_slot(&slot).await.ok().flatten().and_then(|found| found.active_pid);
                Err(ReplicationError::SlotInUse { slot, pid })
            }
            other => Err(other),
        }
    }

    async fn find_slot(&mut self, slot: &str) -> Result<Option<FoundSlot>, ReplicationError> {
        let sql = format!(
            "SELECT plugin, database, active_pid, confirmed_flush_lsn, wal_status \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            literal(slot)
        );
        let rows = self.query(&sql).await.map_err(|error| error.during("list replication slots"))?;
        Ok(rows.into_iter().next().map(FoundSlot::from))
    }
}

/// A row of `pg_replication_slots`. A physical slot has neither plugin nor database.
#[derive(Debug, Default)]
struct FoundSlot {
    plugin: Option<String>,
    database: Option<String>,
    active_pid: Option<i32>,
    confirmed: Option<Lsn>,
    wal_status: Option<String>,
}

/// Whether a slot of ours can be read.
#[derive(Debug, PartialEq, Eq)]
enum Usable {
    /// From this position on.
    At(Lsn),
    /// PostgreSQL has invalidated it.
    Never,
}

impl From<Row> for FoundSlot {
    fn from(row: Row) -> Self {
        let mut values = row.into_iter();
        let mut next = || values.next().flatten();
        FoundSlot {
            plugin: next(),
            database: next(),
            active_pid: next().and_then(|text| text.parse().ok()),
            confirmed: next().and_then(|text| text.parse().ok()),
            wal_status: next(),
        }
    }
}

impl FoundSlot {
    fn check(self, slot: &str, database: &str) -> Result<Usable, ReplicationError> {
        let mismatch = |found: String, expected: &str| {
            Err(ReplicationError::SlotMismatch {
                slot: slot.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        match self.plugin.as_deref() {
            None => return mismatch("a physical slot".to_owned(), "a logical one"),
            Some(PLUGIN) => {}
            Some(other) => return mismatch(format!("a slot of plugin {other}"), "one of plugin pgoutput"),
        }
        let of = self.database.unwrap_or_default();
        if of != database {
            return mismatch(
                format!("a slot of database {}", identifier(&of)),
                &format!("one of database {}", identifier(database)),
            );
        }
        // 'unreserved' may still be rescued by reading on; 'lost' never.
        let lost = self.wal_status.as_deref() == Some("lost");
        if self.active_pid.is_some() {
            return Err(ReplicationError::SlotInUse { slot: slot.to_owned(), pid: self.active_pid });
        }
        if lost {
            return Ok(Usable::Never);
        }
        // Without a confirmed position the slot is being created by somebody who will hold it.
        match self.confirmed {
            Some(confirmed) => Ok(Usable::At(confirmed)),
            None => Err(ReplicationError::SlotInUse { slot: slot.to_owned(), pid: None }),
        }
    }
}

/// The position behind a timeline in a history file: one line for each, with number, position and reason.
fn switch_from(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number: u32 = words.next()?.parse().ok()?;
        let position = words.next()?.parse().ok()?;
        (number == timeline).then_some(position)
    })
}

/// Up to PostgreSQL 16 the words without parentheses, which all versions have.
fn create_command(slot: &str, failover: bool) -> String {
    let options = if failover { "(SNAPSHOT 'nothing', FAILOVER true)" } else { "NOEXPORT_SNAPSHOT" };
    format!("CREATE_REPLICATION_SLOT {} LOGICAL {PLUGIN} {options}", identifier(slot))
}

/// The publications are a list of SQL names inside one text value, so they are quoted twice.
fn start_command(slot: &str, from: Lsn, publications: &[String]) -> String {
    let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}, messages 'true')",
        identifier(slot),
        literal(&names.join(","))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> FoundSlot {
        FoundSlot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("app".to_owned()),
            active_pid: None,
            confirmed: Some(Lsn(7)),
            wal_status: Some("reserved".to_owned()),
        }
    }

    fn refusal(found: FoundSlot) -> String {
        found.check("s", "app").unwrap_err().to_string()
    }

    #[test]
    fn publications_are_quoted_as_names_and_again_as_text() {
        let publications = ["plain".to_owned(), "o'd\"d".to_owned()];
        assert_eq!(
            start_command("s", Lsn(0x16_B374_D848), &publications),
            "START_REPLICATION SLOT \"s\" LOGICAL 16/B374D848 (proto_version '1', publication_names \
             '\"plain\",\"o''d\"\"d\"', messages 'true')"
        );
    }

    #[test]
    fn a_history_tells_where_each_timeline_was_left() {
        let history = "1\t0/A000198\tbefore 2000-01-01\n\n2\t0/B000000\tno recovery target specified\n";
        assert_eq!(switch_from(history, 1), Some(Lsn(0xA00_0198)));
        assert_eq!(switch_from(history, 2), Some(Lsn(0xB00_0000)));
        assert_eq!((switch_from(history, 3), switch_from("# 1 x", 1)), (None, None));
    }

    #[test]
    fn an_idle_slot_of_ours_is_used_again() {
        assert_eq!(found().check("s", "app").unwrap(), Usable::At(Lsn(7)));
    }

    #[test]
    fn a_slot_of_ours_that_postgresql_has_invalidated_is_useless_but_no_obstacle() {
        let lost = Some("lost".to_owned());
        assert_eq!(FoundSlot { wal_status: lost, ..found() }.check("s", "app").unwrap(), Usable::Never);
    }

    #[test]
    fn a_slot_that_can_follow_a_failover_is_made_so() {
        assert_eq!(
            create_command("s", false),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        );
        assert!(create_command("s", true).ends_with("(SNAPSHOT 'nothing', FAILOVER true)"));
    }

    #[test]
    fn a_slot_that_is_not_ours_to_use_is_refused_with_the_reason() {
        assert!(refusal(FoundSlot { plugin: None, ..found() }).contains("physical"));
        let wal2json = Some("wal2json".to_owned());
        assert!(refusal(FoundSlot { plugin: wal2json, ..found() }).contains("plugin wal2json"));
        let other = Some("shop".to_owned());
        assert!(refusal(FoundSlot { database: other, ..found() }).contains("database \"shop\""));
        assert!(refusal(FoundSlot { active_pid: Some(42), ..found() }).contains("pg_terminate_backend(42)"));
    }
}
