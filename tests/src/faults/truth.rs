//! What PostgreSQL's log says, read from a replication slot that nobody but this reads.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio_postgres::Client;
use walcast_pgoutput::{Cell, Decoder, Message, Oid, OldTuple, Relation, Tuple};

/// The slot's name.
const SLOT: &str = "truth";

/// A row, by column, as text.
pub(super) type Row = BTreeMap<String, Option<String>>;

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// What tells a change from every other one: writers number their changes, and never use an `id` twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) table: String,
    pub(super) kind: Kind,
    pub(super) id: i64,
    /// The writer's number; a DELETE has none.
    pub(super) seq: Option<i64>,
}

/// A change that is accounted for.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: Key,
    /// Where its transaction committed.
    pub(super) commit_lsn: u64,
    /// The new row; the old one of a DELETE.
    pub(super) row: Row,
}

/// Everything since the slot was made, in commit order.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// The changes of tables that are accounted for.
    pub(super) changes: Vec<Change>,
    by_key: HashMap<Key, usize>,
    /// By room and person: from which commit on they are members, or not.
    memberships: HashMap<(String, String), Vec<(u64, bool)>>,
    /// Where each mark was committed.
    marks: HashMap<i64, u64>,
    /// When each transaction was committed (microseconds since 1970), and where.
    times: Vec<(i64, u64)>,
}

impl Truth {
    /// Makes the slot: what is committed from now on is the truth.
    pub(super) async fn begin(client: &Client) -> Result<()> {
        client.query_one("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&SLOT]).await?;
        Ok(())
    }

    /// Reads the log, and who was a member before it began.
    pub(super) async fn read(client: &Client, members: &[(String, String)]) -> Result<Truth> {
        let mut truth = Truth::default();
        for member in members {
            truth.memberships.insert(member.clone(), vec![(0, true)]);
        }
        let sql = "select data from pg_logical_slot_peek_binary_changes($1, null, null,
            'proto_version', '1', 'publication_names', 'truth')";
        let mut decoder = Decoder::new(1);
        let mut relations: HashMap<Oid, Relation> = HashMap::new();
        let mut commit_lsn = 0;
        for line in client.query(sql, &[&SLOT]).await.context("the truth can not be read")? {
            let bytes: Vec<u8> = line.get(0);
            match decoder.decode(Bytes::from(bytes))?.message {
                Message::Begin { final_lsn, commit_time, .. } => {
                    commit_lsn = final_lsn.0;
                    truth.times.push((commit_time.unix_microseconds(), commit_lsn));
                }
                Message::Relation(relation) => {
                    relations.insert(relation.oid, relation);
                }
                Message::Insert { relation, new } => {
                    truth.note(&relations, relation, Kind::Insert, &new, commit_lsn)?;
                }
                Message::Update { relation, new, .. } => {
                    truth.note(&relations, relation, Kind::Update, &new, commit_lsn)?;
                }
                Message::Delete { relation, old: OldTuple::Full(old) | OldTuple::Key(old) } => {
                    truth.note(&relations, relation, Kind::Delete, &old, commit_lsn)?;
                }
                _ => {}
            }
        }
        Ok(truth)
    }

    fn note(
        &mut self,
        relations: &HashMap<Oid, Relation>,
        relation: Oid,
        kind: Kind,
        tuple: &Tuple,
        commit_lsn: u64,
    ) -> Result<()> {
        let relation = relations.get(&relation).context("a row of an unknown table")?;
        let row = row(relation, tuple)?;
        let number = |column: &str| -> Result<i64> {
            let text = row.get(column).and_then(Option::as_deref).with_context(|| format!("no {column}"))?;
            Ok(text.parse()?)
        };
        match relation.name.as_str() {
            "members" => {
                let value = |column: &str| row[column].clone().unwrap_or_default();
                let history = self.memberships.entry((value("room"), value("person"))).or_default();
                history.push((commit_lsn, kind != Kind::Delete));
            }
            "marks" => {
                self.marks.insert(number("id")?, commit_lsn);
            }
            _ => {
                let table = relation.name.clone();
                let seq = if kind == Kind::Delete { None } else { Some(number("seq")?) };
                let key = Key { table, kind, id: number("id")?, seq };
                self.push(Change { key, commit_lsn, row })?;
            }
        }
        Ok(())
    }

    fn push(&mut self, change: Change) -> Result<()> {
        if self.by_key.insert(change.key.clone(), self.changes.len()).is_some() {
            bail!("the writers made the same change twice: {change:?}");
        }
        self.changes.push(change);
        Ok(())
    }

    /// Where a change stands among [`changes`](Self::changes).
    pub(super) fn place(&self, key: &Key) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// The place of the first change that commits behind this position.
    pub(super) fn behind(&self, lsn: u64) -> usize {
        self.changes.partition_point(|change| change.commit_lsn <= lsn)
    }

    /// Where the log ended at this time (microseconds since 1970).
    pub(super) fn at(&self, time: i64) -> u64 {
        self.times.iter().rev().find(|(committed, _)| *committed <= time).map_or(0, |(_, lsn)| *lsn)
    }

    /// Where a mark was committed.
    pub(super) fn mark(&self, id: i64) -> Result<u64> {
        self.marks.get(&id).copied().with_context(|| format!("the log has no mark {id}"))
    }

    /// Whether somebody is a member of a room at any, and at all, of the moments from one commit to another (both
    /// transactions included).
    pub(super) fn membership(&self, room: &str, person: &str, from: u64, to: u64) -> Membership {
        let Some(history) = self.memberships.get(&(room.to_owned(), person.to_owned())) else {
            return Membership { sometimes: false, always: false };
        };
        let before = history.partition_point(|(lsn, _)| *lsn <= from);
        let at_first = before > 0 && history[before - 1].1;
        let mut membership = Membership { sometimes: at_first, always: at_first };
        for (lsn, is_member) in &history[before..] {
            if *lsn > to {
                break;
            }
            membership.sometimes |= is_member;
            membership.always &= is_member;
        }
        membership
    }
}

/// Whether somebody was a member of a room for some time, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) sometimes: bool,
    pub(super) always: bool,
}

fn row(relation: &Relation, tuple: &Tuple) -> Result<Row> {
    relation
        .columns
        .iter()
        .zip(tuple.cells())
        .map(|(column, cell)| {
            let value = match cell {
                Cell::Null => None,
                Cell::Text(text) => Some(String::from_utf8(text.to_vec())?),
                Cell::Unchanged | Cell::Binary(_) => bail!("the column {} is not in the log", column.name),
            };
            Ok((column.name.clone(), value))
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A log of these changes in which a person is a member of room 1 from and to certain commits.
    pub(in crate::faults) fn log(changes: Vec<Change>, person: &str, history: &[(u64, bool)]) -> Truth {
        let mut truth = Truth::default();
        truth.memberships.insert(("1".to_owned(), person.to_owned()), history.to_vec());
        for change in changes {
            truth.push(change).expect("each change is another one");
        }
        truth
    }

    #[test]
    fn a_membership_is_known_for_any_stretch_of_the_log() {
        let truth = log(Vec::new(), "ana", &[(10, true), (20, false), (30, true)]);
        let of = |from, to| {
            let Membership { sometimes, always } = truth.membership("1", "ana", from, to);
            (sometimes, always)
        };
        assert_eq!(of(5, 9), (false, false));
        assert_eq!(of(5, 10), (true, false));
        assert_eq!(of(10, 19), (true, true));
        assert_eq!(of(15, 20), (true, false));
        assert_eq!(of(20, 29), (false, false));
        assert_eq!(of(30, 99), (true, true));
        assert_eq!(truth.membership("2", "ana", 0, 99), Membership { sometimes: false, always: false });
    }
}
