//! Bytes to messages.

use bytes::Bytes;

use crate::cursor::{Cursor, DecodeError, Fault};
use crate::lsn::{Oid, Xid};
use crate::message::{AbortPoint, Message, OldTuple};
use crate::relation::{Relation, RelationColumn, ReplicaIdentity};
use crate::tuple::{Slot, Tuple};

/// The first protocol version in which transactions may be streamed while they run.
const STREAMING: u32 = 2;
/// The first protocol version in which prepared transactions are announced.
const TWO_PHASE: u32 = 3;
/// The first protocol version in which `StreamAbort` may carry where and when.
const PARALLEL: u32 = 4;

/// Decodes the messages of one `START_REPLICATION`, in their order.
///
/// It remembers one thing: whether the stream is between `StreamStart` and `StreamStop`, where messages
/// carry the id of their (sub)transaction. Make a new one for a new connection.
#[derive(Clone, Debug)]
pub struct Decoder {
    protocol_version: u32,
    inside_stream: bool,
}

/// A message, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Inside a streamed transaction, the transaction or subtransaction that the message belongs to;
    /// else `None`: it is that of the last `Begin`.
    pub xid: Option<Xid>,
    /// The message.
    pub message: Message,
}

impl Decoder {
    /// A decoder for the `proto_version` that `START_REPLICATION` asked for, 1 to 4.
    pub fn new(protocol_version: u32) -> Self {
        Decoder { protocol_version, inside_stream: false }
    }

    /// Decodes what one `XLogData` carried. Rows share `bytes`; names are copied.
    ///
    /// # Errors
    /// Where and how the message departs from what `pgoutput` writes. The decoder is then as before.
    pub fn decode(&mut self, bytes: Bytes) -> Result<Decoded, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        // Offsets of values are kept in 32 bits.
        if u32::try_from(cursor.left()).is_err() {
            return Err(cursor.fault(Fault::TooLong(cursor.left())));
        }
        let kind = cursor.u8("the letter of a message")?;
        self.check_place(kind, &cursor)?;
        let decoded = match kind {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => {
                let xid = if self.inside_stream { Some(cursor.xid()?) } else { None };
                let message = read_content(kind, &mut cursor)?;
                Decoded { xid, message }
            }
            _ => Decoded { xid: None, message: self.read_envelope(kind, &mut cursor)? },
        };
        cursor.finish()?;
        match decoded.message {
            Message::StreamStart { .. } => self.inside_stream = true,
            Message::StreamStop => self.inside_stream = false,
            _ => {}
        }
        Ok(decoded)
    }

    /// Whether a message of this kind exists in the version, and may come here.
    fn check_place(&self, kind: u8, cursor: &Cursor) -> Result<(), DecodeError> {
        let since = match kind {
            b'B' | b'C' | b'O' | b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => 1,
            b'S' | b'E' | b'c' | b'A' => STREAMING,
            b'b' | b'P' | b'K' | b'r' | b'p' => TWO_PHASE,
            _ => u32::MAX,
        };
        if self.protocol_version < since {
            let version = self.protocol_version;
            return Err(cursor.fault_at(0, Fault::UnknownKind { version }));
        }
        let in_place = match kind {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' | b'O' => true,
            b'E' => self.inside_stream,
            _ => !self.inside_stream,
        };
        if in_place {
            return Ok(());
        }
        let inside_stream = self.inside_stream;
        Err(cursor.fault_at(0, Fault::Misplaced { inside_stream }))
    }

    /// The rest of a message that opens or closes a transaction or a piece of one.
    fn read_envelope(&self, kind: u8, cursor: &mut Cursor) -> Result<Message, DecodeError> {
        Ok(match kind {
            b'B' => Message::Begin {
                final_lsn: cursor.lsn("the position of the commit")?,
                commit_time: cursor.time("the commit time")?,
                xid: cursor.xid()?,
            },
            b'C' => {
                cursor.flags(0, "flags of 0")?;
                Message::Commit {
                    commit_lsn: cursor.lsn("the position of the commit")?,
                    end_lsn: cursor.lsn("the position behind the commit")?,
                    commit_time: cursor.time("the commit time")?,
                }
            }
            b'O' => Message::Origin {
                commit_lsn: cursor.lsn("the position of the commit at the origin")?,
                name: cursor.string("the origin's name")?,
            },
            b'S' => Message::StreamStart {
                xid: cursor.xid()?,
                first_segment: cursor.flags(1, "0 or 1 for the first segment")? == 1,
            },
            b'E' => Message::StreamStop,
            b'c' => {
                let xid = cursor.xid()?;
                cursor.flags(0, "flags of 0")?;
                Message::StreamCommit {
                    xid,
                    commit_lsn: cursor.lsn("the position of the commit")?,
                    end_lsn: cursor.lsn("the position behind the commit")?,
                    commit_time: cursor.time("the commit time")?,
                }
            }
            b'A' => Message::StreamAbort {
                xid: cursor.xid()?,
                subtransaction: cursor.xid()?,
                aborted: self.read_abort_point(cursor)?,
            },
            _ => read_two_phase(kind, cursor)?,
        })
    }

    /// The version alone does not tell: `streaming 'on'` leaves it out in version 4 as well.
    fn read_abort_point(&self, cursor: &mut Cursor) -> Result<Option<AbortPoint>, DecodeError> {
        if self.protocol_version < PARALLEL || cursor.left() == 0 {
            return Ok(None);
        }
        Ok(Some(AbortPoint {
            lsn: cursor.lsn("the position of the abort")?,
            time: cursor.time("the abort time")?,
        }))
    }
}

/// The rest of a message about a prepared transaction.
fn read_two_phase(kind: u8, cursor: &mut Cursor) -> Result<Message, DecodeError> {
    if kind == b'b' {
        return Ok(Message::BeginPrepare {
            prepare_lsn: cursor.lsn("the position of the prepare")?,
            end_lsn: cursor.lsn("the position behind the prepare")?,
            prepare_time: cursor.time("the prepare time")?,
            xid: cursor.xid()?,
            global_id: cursor.string("the transaction's global identifier")?,
        });
    }
    cursor.flags(0, "flags of 0")?;
    Ok(match kind {
        b'P' => Message::Prepare {
            prepare_lsn: cursor.lsn("the position of the prepare")?,
            end_lsn: cursor.lsn("the position behind the prepare")?,
            prepare_time: cursor.time("the prepare time")?,
            xid: cursor.xid()?,
            global_id: cursor.string("the transaction's global identifier")?,
        },
        b'K' => Message::CommitPrepared {
            commit_lsn: cursor.lsn("the position of the commit")?,
            end_lsn: cursor.lsn("the position behind the commit")?,
            commit_time: cursor.time("the commit time")?,
            xid: cursor.xid()?,
            global_id: cursor.string("the transaction's global identifier")?,
        },
        b'r' => Message::RollbackPrepared {
            prepare_end_lsn: cursor.lsn("the position behind the prepare")?,
            rollback_end_lsn: cursor.lsn("the position behind the rollback")?,
            prepare_time: cursor.time("the prepare time")?,
            rollback_time: cursor.time("the rollback time")?,
            xid: cursor.xid()?,
            global_id: cursor.string("the transaction's global identifier")?,
        },
        // `check_place` lets no other letter than `p` come here.
        _ => Message::StreamPrepare {
            prepare_lsn: cursor.lsn("the position of the prepare")?,
            end_lsn: cursor.lsn("the position behind the prepare")?,
            prepare_time: cursor.time("the prepare time")?,
            xid: cursor.xid()?,
            global_id: cursor.string("the transaction's global identifier")?,
        },
    })
}

/// The rest of a message that belongs into a transaction.
fn read_content(kind: u8, cursor: &mut Cursor) -> Result<Message, DecodeError> {
    Ok(match kind {
        b'R' => Message::Relation(read_relation(cursor)?),
        b'Y' => Message::Type {
            oid: cursor.oid("the type's oid")?,
            namespace: read_namespace(cursor)?,
            name: cursor.string("the type's name")?,
        },
        b'I' => {
            let relation = cursor.oid("the table's oid")?;
            expect_letter(cursor, b'N', "'N' before the new row")?;
            let new = read_tuple(cursor)?;
            Message::Insert { relation, new }
        }
        b'U' => {
            let relation = cursor.oid("the table's oid")?;
            let old = match cursor.message().get(cursor.offset()) {
                Some(b'K' | b'O') => Some(read_old_tuple(cursor)?),
                _ => None,
            };
            expect_letter(cursor, b'N', "'K' or 'O' before the old row or 'N' before the new one")?;
            let new = read_tuple(cursor)?;
            Message::Update { relation, old, new }
        }
        b'D' => Message::Delete { relation: cursor.oid("the table's oid")?, old: read_old_tuple(cursor)? },
        b'T' => read_truncate(cursor)?,
        // `decode` lets no other letter than `M` come here.
        _ => {
            let transactional = cursor.flags(1, "flags of 0 or 1")? == 1;
            let lsn = cursor.lsn("the position of the logical message")?;
            let prefix = cursor.string("the logical message's prefix")?;
            let content = cursor.counted("the logical message's content")?;
            let content = cursor.message().slice(content);
            Message::Message { transactional, lsn, prefix, content }
        }
    })
}

fn read_relation(cursor: &mut Cursor) -> Result<Relation, DecodeError> {
    /// Flags, the zero byte of an empty name, the type's oid and modifier.
    const COLUMN_BYTES_MIN: u64 = 1 + 1 + 4 + 4;

    let oid = cursor.oid("the table's oid")?;
    let namespace = read_namespace(cursor)?;
    let name = cursor.string("the table's name")?;
    let start = cursor.offset();
    let letter = cursor.u8("the replica identity")?;
    let identity = ReplicaIdentity::from_letter(letter).ok_or_else(|| {
        let expected = "a replica identity of d, n, f or i";
        cursor.fault_at(start, Fault::Unexpected { expected, found: letter })
    })?;
    let count = cursor.u16("the number of columns")?;
    cursor.require(u64::from(count) * COLUMN_BYTES_MIN, "that many columns")?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        columns.push(RelationColumn {
            key: cursor.flags(1, "the column's flags, 0 or 1")? == 1,
            name: cursor.string("the column's name")?,
            type_oid: cursor.oid("the column's type")?,
            type_modifier: cursor.i32("the column's type modifier")?,
        });
    }
    Ok(Relation { oid, namespace, name, identity, columns })
}

fn read_namespace(cursor: &mut Cursor) -> Result<String, DecodeError> {
    let namespace = cursor.string("the schema's name")?;
    if namespace.is_empty() {
        return Ok("pg_catalog".to_owned());
    }
    Ok(namespace)
}

fn read_truncate(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let count = cursor.u32("the number of tables")?;
    let flags = cursor.flags(0b11, "TRUNCATE's flags, 0 to 3")?;
    cursor.require(u64::from(count) * 4, "that many tables")?;
    let relations = (0..count).map(|_| cursor.oid("a table's oid")).collect::<Result<Vec<Oid>, _>>()?;
    Ok(Message::Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 })
}

fn read_old_tuple(cursor: &mut Cursor) -> Result<OldTuple, DecodeError> {
    let start = cursor.offset();
    let expected = "'K' or 'O' before the old row";
    match cursor.u8(expected)? {
        b'K' => read_tuple(cursor).map(OldTuple::Key),
        b'O' => read_tuple(cursor).map(OldTuple::Full),
        found => Err(cursor.fault_at(start, Fault::Unexpected { expected, found })),
    }
}

fn read_tuple(cursor: &mut Cursor) -> Result<Tuple, DecodeError> {
    let count = cursor.u16("the number of values")?;
    // The least a value takes is its letter.
    cursor.require(u64::from(count), "that many values")?;
    let mut slots = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let start = cursor.offset();
        let expected = "a value's letter, n, u, t or b";
        slots.push(match cursor.u8(expected)? {
            b'n' => Slot::Null,
            b'u' => Slot::Unchanged,
            b't' => Slot::text(cursor.counted("a value in text")?),
            b'b' => Slot::binary(cursor.counted("a value in binary")?),
            found => return Err(cursor.fault_at(start, Fault::Unexpected { expected, found })),
        });
    }
    Ok(Tuple { data: cursor.message().clone(), slots: slots.into_boxed_slice() })
}

fn expect_letter(cursor: &mut Cursor, letter: u8, expected: &'static str) -> Result<(), DecodeError> {
    let start = cursor.offset();
    let found = cursor.u8(expected)?;
    if found == letter {
        return Ok(());
    }
    Err(cursor.fault_at(start, Fault::Unexpected { expected, found }))
}
