//! Rows of `realtime.messages` as broadcasts (docs/protocol.md §6.5).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_pgoutput::{Cell, PgTimestamp, Relation, Tuple};
use walcast_wire::Encoding;

use super::State;
use super::window::HeldMessages;
use crate::broadcast::user_fanout;
use crate::command::{Fanout, FromLog};
use crate::latency::age_of;
use crate::relief::{BroadcastRules, Relief};
use crate::topic::{Privacy, TopicKey};
use crate::transaction::{Change, RowChange};

/// Bytes of messages that are on their way to the shards at once.
const OUTGOING_BYTES_MAX: usize = 4 << 20;

/// Where the columns of a message stand in the log's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageColumns {
    topic: usize,
    event: usize,
    payload: usize,
    binary_payload: usize,
    private: usize,
    id: usize,
}

/// The table of messages as the log last described it, or one of its partitions.
#[derive(Default)]
pub(super) struct MessageTable(Option<(Arc<Relation>, Result<MessageColumns, Skipped>)>);

/// Why a row is not broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Skipped {
    #[error("the table has no column {0}, or it is not published")]
    NoColumn(&'static str),
    #[error("its {0} is null")]
    Null(&'static str),
    #[error("its payload and its binary_payload are null")]
    NoPayload,
    #[error("its topic or event is too long for the 255 bytes that a binary message has for each")]
    NoFrame,
    #[error("its {0} can not be read")]
    Unreadable(&'static str),
    #[error("its payload has {bytes} bytes, at most {limit} are broadcast (limits.payload_bytes_max)")]
    TooLarge { bytes: usize, limit: usize },
}

/// The table itself, as a publication via the root of its partitions names it, or one of the partitions: a day's
/// `messages_YYYY_MM_DD`, or the default one.
pub(super) fn is_message_table(relation: &Relation) -> bool {
    relation.namespace == "realtime"
        && match relation.name.strip_prefix("messages") {
            Some("" | "_default") => true,
            Some(rest) => is_day(rest.as_bytes()),
            None => false,
        }
}

/// `_YYYY_MM_DD`.
fn is_day(text: &[u8]) -> bool {
    text.len() == 11
        && text.iter().enumerate().all(|(index, byte)| match index {
            0 | 5 | 8 => *byte == b'_',
            _ => byte.is_ascii_digit(),
        })
}

impl MessageTable {
    /// The columns of a table of messages; `None` for any other table.
    fn columns(&mut self, relation: &Arc<Relation>) -> Option<Result<MessageColumns, Skipped>> {
        if let Some((known, columns)) = &self.0
            && Arc::ptr_eq(known, relation)
        {
            return Some(*columns);
        }
        if !is_message_table(relation) {
            return None;
        }
        let columns = MessageColumns::of(relation);
        self.0 = Some((Arc::clone(relation), columns));
        Some(columns)
    }
}

impl MessageColumns {
    fn of(relation: &Relation) -> Result<Self, Skipped> {
        let find = |name: &'static str| {
            relation.columns.iter().position(|column| column.name == name).ok_or(Skipped::NoColumn(name))
        };
        Ok(MessageColumns {
            topic: find("topic")?,
            event: find("event")?,
            payload: find("payload")?,
            // Tables that were made long ago do not have it.
            binary_payload: find("binary_payload").unwrap_or(usize::MAX),
            private: find("private")?,
            id: find("id")?,
        })
    }

    /// The broadcast that a row stands for.
    fn fanout(
        &self,
        row: &Tuple,
        limit: usize,
        rules: &BroadcastRules,
        commit_time: PgTimestamp,
    ) -> Result<Fanout, Skipped> {
        let text = |place: usize, name: &'static str| match row.cell(place) {
            Some(Cell::Text(text)) => std::str::from_utf8(text).map_err(|_| Skipped::Unreadable(name)),
            Some(Cell::Null) => Err(Skipped::Null(name)),
            _ => Err(Skipped::Unreadable(name)),
        };
        let topic = text(self.topic, "topic")?;
        let event = text(self.event, "event")?;
        let private = match text(self.private, "private")? {
            "t" => true,
            "f" => false,
            _ => return Err(Skipped::Unreadable("private")),
        };
        let id = text(self.id, "id")?;
        let (encoding, payload) = match (row.cell(self.payload), row.cell(self.binary_payload)) {
            (Some(Cell::Text(json)), _) => (Encoding::Json, Cow::Borrowed(json)),
            (_, Some(Cell::Text(bytes))) => {
                let bytes = bytea(bytes).ok_or(Skipped::Unreadable("binary_payload"))?;
                (Encoding::Binary, Cow::Owned(bytes))
            }
            _ => return Err(Skipped::NoPayload),
        };
        if payload.len() > limit {
            return Err(Skipped::TooLarge { bytes: payload.len(), limit });
        }
        let topic = TopicKey::new(format!("realtime:{topic}").into(), Privacy::of(private));
        let age = || age_of(commit_time);
        let relief = Relief::of_message(rules, &topic, (event, encoding, &payload), age);
        let fanout = user_fanout(topic, event, Some(id), encoding, &payload, relief);
        if fanout.v1.is_none() && fanout.v2.is_none() {
            return Err(Skipped::NoFrame);
        }
        Ok(fanout)
    }
}

/// The value of a `bytea` from its text in either format (PostgreSQL docs, "Binary Data Types").
fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if let Some(digits) = text.strip_prefix(b"\\x") {
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
        return if rest.is_empty() { bytes.collect() } else { None };
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'\\', [b'\\', behind @ ..]) => {
                bytes.push(b'\\');
                behind
            }
            (b'\\', [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', behind @ ..]) => {
                bytes.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                behind
            }
            (b'\\', _) => return None,
            (byte, behind) => {
                bytes.push(byte);
                behind
            }
        };
    }
    Some(bytes)
}

impl State {
    /// Broadcasts a change where it is a new row of the table of messages.
    pub(super) async fn message(&mut self, change: &Change, commit_time: PgTimestamp) {
        let RowChange::Insert { new } = &change.row else { return };
        let Some(columns) = self.message_table.columns(&change.relation) else { return };
        let limit = self.matcher.settings.payload_bytes_max;
        let rules = &self.matcher.settings.broadcast_rules;
        match columns.and_then(|columns| columns.fanout(new, limit, rules, commit_time)) {
            Ok(fanout) => {
                let fanout = Arc::new(fanout);
                if self.window.is_empty() {
                    self.send_message(&fanout, commit_time).await;
                } else {
                    self.window.hold_message(fanout, commit_time);
                }
            }
            Err(reason) => {
                self.matcher.counters.skipped_messages.fetch_add(1, Relaxed);
                let value = |column: fn(&MessageColumns) -> usize| {
                    let cell = columns.ok().and_then(|columns| new.cell(column(&columns)));
                    match cell {
                        Some(Cell::Text(text)) => String::from_utf8_lossy(text).into_owned(),
                        _ => "null".to_owned(),
                    }
                };
                let (id, topic) = (value(|columns| columns.id), value(|columns| columns.topic));
                // As debug texts: they are whatever somebody has inserted.
                tracing::warn!(
                    code = "UnableToBroadcastChanges", ?id, ?topic, %reason,
                    "a row of realtime.messages was not broadcast"
                );
            }
        }
    }

    /// Puts a message behind what is on its way to the shards.
    async fn send_message(&mut self, fanout: &Arc<Fanout>, commit_time: PgTimestamp) {
        self.matcher.counters.database_broadcasts.fetch_add(1, Relaxed);
        self.outgoing_since.get_or_insert(commit_time);
        self.outgoing_bytes += fanout.bytes();
        for outgoing in &mut self.outgoing {
            outgoing.push(FromLog::Message(Arc::clone(fanout)));
        }
        if self.outgoing_bytes >= OUTGOING_BYTES_MAX {
            self.flush().await;
        }
    }

    /// Sends those of a window's messages that stand behind no more than so many of its changes.
    pub(super) async fn send_messages(&mut self, messages: &mut HeldMessages, changes: usize) {
        while let Some((fanout, commit_time)) = messages.take(changes) {
            self.send_message(&fanout, commit_time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::{Oid, RelationColumn, ReplicaIdentity};

    use super::*;

    fn relation(namespace: &str, name: &str, columns: &[&str]) -> Arc<Relation> {
        let column = |name: &&str| RelationColumn {
            name: (*name).to_owned(),
            type_oid: Oid(25),
            type_modifier: -1,
            key: false,
        };
        Arc::new(Relation {
            oid: Oid(1),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        })
    }

    const COLUMNS: [&str; 6] = ["id", "private", "topic", "binary_payload", "event", "payload"];

    /// The outcome for a row of these columns; `None` is NULL.
    fn outcome(row: [Option<&str>; 6]) -> Result<Fanout, Skipped> {
        let cells = row.map(|cell| cell.map_or(Cell::Null, |text| Cell::Text(text.as_bytes())));
        let columns = MessageColumns::of(&relation("realtime", "messages", &COLUMNS)).unwrap();
        columns.fanout(&Tuple::from_cells(cells), 20, &BroadcastRules::default(), PgTimestamp(0))
    }

    #[test]
    fn the_table_and_its_partitions_are_told_from_others_by_their_names() {
        let found = |namespace, name| is_message_table(&relation(namespace, name, &[]));
        for name in ["messages", "messages_2026_11_27", "messages_default"] {
            assert!(found("realtime", name), "{name}");
            assert!(!found("public", name), "{name}");
        }
        for name in
            ["messages_", "messages_2026_11_2", "messages_2026_11_277", "messages_a026_11_27", "message"]
        {
            assert!(!found("realtime", name), "{name}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_a_table_without_them_says_which_it_lacks() {
        let id = "7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c";
        let fanout = outcome([Some(id), Some("t"), Some("a:b"), None, Some("e"), Some("{}")]).unwrap();
        assert_eq!((&*fanout.topic.topic, fanout.topic.privacy), ("realtime:a:b", Privacy::Private));
        assert!(fanout.id.is_some());
        let fanout = outcome([Some(id), Some("f"), Some("a"), Some("\\x00ff"), Some("e"), None]).unwrap();
        assert_eq!(fanout.topic.privacy, Privacy::Public);
        assert!(fanout.v1.is_none() && fanout.v2.unwrap().payload().ends_with(&[0, 0xFF]));
        let other = relation("realtime", "messages", &["id", "topic"]);
        assert_eq!(MessageColumns::of(&other).unwrap_err(), Skipped::NoColumn("event"));
    }

    #[test]
    fn a_row_that_can_not_be_broadcast_says_why() {
        let row = [Some("7"), Some("t"), Some("a"), None, Some("e"), Some("{}")];
        for (place, name) in [(0, "id"), (1, "private"), (2, "topic"), (4, "event")] {
            let mut row = row;
            row[place] = None;
            assert_eq!(outcome(row).map(drop), Err(Skipped::Null(name)));
        }
        let with = |place: usize, cell: Option<&'static str>| {
            let mut row = row;
            row[place] = cell;
            outcome(row).map(drop)
        };
        assert_eq!(with(5, None), Err(Skipped::NoPayload));
        assert_eq!(
            with(5, Some("\"12345678901234567890\"")),
            Err(Skipped::TooLarge { bytes: 22, limit: 20 })
        );
        assert_eq!(with(1, Some("perhaps")), Err(Skipped::Unreadable("private")));
        let binary = |text| outcome([Some("7"), Some("t"), Some("a"), Some(text), Some("e"), None]).map(drop);
        assert_eq!(binary("\\x0"), Err(Skipped::Unreadable("binary_payload")));
        assert_eq!(binary("\\x"), Ok(()), "no bytes are bytes");
        let long: &'static str = "e".repeat(256).leak();
        assert_eq!(with(4, Some(long)), Ok(()), "JSON goes out as text then");
        let row = [Some("7"), Some("t"), Some("a"), Some("\\x00"), Some(long), None];
        assert_eq!(outcome(row).map(drop), Err(Skipped::NoFrame));
    }

    #[test]
    fn bytes_are_read_in_both_of_postgresqls_formats() {
        assert_eq!(bytea(b"\\x00fFa0").unwrap(), [0, 0xFF, 0xA0]);
        assert_eq!(bytea(b"a\\\\\\000\\377b").unwrap(), b"a\\\0\xffb");
        for broken in [&b"\\xg0"[..], b"\\x0", b"\\", b"\\400", b"\\08"] {
            assert_eq!(bytea(broken), None);
        }
    }
}
