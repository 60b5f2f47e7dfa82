//! Messages to bytes, as `pgoutput` writes them: for property tests, generators and fuzzing.

use bytes::{BufMut, Bytes};

use crate::decode::Decoded;
use crate::lsn::{Lsn, PgTimestamp, Xid};
use crate::message::{Message, OldTuple};
use crate::relation::Relation;
use crate::tuple::{Cell, Tuple};

/// The bytes of a message in a protocol version: what [`crate::Decoder`] of that version reads back.
///
/// Where `decoded.xid` is given the message is one inside a stream. Below version 4 a `StreamAbort` loses
/// its `aborted`. Strings end at their first zero byte, which PostgreSQL has in no name; counts and lengths
/// beyond what the format holds are cut to it.
pub fn encode(decoded: &Decoded, version: u32) -> Bytes {
    let mut out = Vec::new();
    match &decoded.message {
        Message::Relation(_)
        | Message::Type { .. }
        | Message::Insert { .. }
        | Message::Update { .. }
        | Message::Delete { .. }
        | Message::Truncate { .. }
        | Message::Message { .. } => write_content(&decoded.message, decoded.xid, &mut out),
        envelope => write_envelope(envelope, version, &mut out),
    }
    out.into()
}

fn write_envelope(message: &Message, version: u32, out: &mut Vec<u8>) {
    match message {
        Message::Begin { final_lsn, commit_time, xid } => {
            out.put_u8(b'B');
            out.put_u64(final_lsn.0);
            out.put_i64(commit_time.0);
            out.put_u32(xid.0);
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.put_slice(b"C\0");
            write_place(*commit_lsn, *end_lsn, *commit_time, out);
        }
        Message::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(commit_lsn.0);
            write_string(name, out);
        }
        Message::StreamStart { xid, first_segment } => {
            out.put_u8(b'S');
            out.put_u32(xid.0);
            out.put_u8(u8::from(*first_segment));
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
            out.put_u8(b'c');
            out.put_u32(xid.0);
            out.put_u8(0);
            write_place(*commit_lsn, *end_lsn, *commit_time, out);
        }
        Message::StreamAbort { xid, subtransaction, aborted } => {
            out.put_u8(b'A');
            out.put_u32(xid.0);
            out.put_u32(subtransaction.0);
            if let (Some(point), 4..) = (aborted, version) {
                out.put_u64(point.lsn.0);
                out.put_i64(point.time.0);
            }
        }
        two_phase => write_two_phase(two_phase, out),
    }
}

fn write_two_phase(message: &Message, out: &mut Vec<u8>) {
    match message {
        Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, global_id } => {
            out.put_u8(b'b');
            write_place(*prepare_lsn, *end_lsn, *prepare_time, out);
            write_names(*xid, global_id, out);
        }
        Message::Prepare { prepare_lsn, end_lsn, prepare_time, xid, global_id } => {
            out.put_slice(b"P\0");
            write_place(*prepare_lsn, *end_lsn, *prepare_time, out);
            write_names(*xid, global_id, out);
        }
        Message::CommitPrepared { commit_lsn, end_lsn, commit_time, xid, global_id } => {
            out.put_slice(b"K\0");
            write_place(*commit_lsn, *end_lsn, *commit_time, out);
            write_names(*xid, global_id, out);
        }
        Message::RollbackPrepared {
            prepare_end_lsn,
            rollback_end_lsn,
            prepare_time,
            rollback_time,
            xid,
            global_id,
        } => {
            out.put_slice(b"r\0");
            write_place(*prepare_end_lsn, *rollback_end_lsn, *prepare_time, out);
            out.put_i64(rollback_time.0);
            write_names(*xid, global_id, out);
        }
        Message::StreamPrepare { prepare_lsn, end_lsn, prepare_time, xid, global_id } => {
            out.put_slice(b"p\0");
            write_place(*prepare_lsn, *end_lsn, *prepare_time, out);
            write_names(*xid, global_id, out);
        }
        // The other kinds are written by the callers.
        _ => {}
    }
}

fn write_content(message: &Message, xid: Option<Xid>, out: &mut Vec<u8>) {
    let start = |letter: u8, out: &mut Vec<u8>| {
        out.put_u8(letter);
        if let Some(xid) = xid {
            out.put_u32(xid.0);
        }
    };
    match message {
        Message::Relation(relation) => {
            start(b'R', out);
            write_relation(relation, out);
        }
        Message::Type { oid, namespace, name } => {
            start(b'Y', out);
            out.put_u32(oid.0);
            write_namespace(namespace, out);
            write_string(name, out);
        }
        Message::Insert { relation, new } => {
            start(b'I', out);
            out.put_u32(relation.0);
            write_tuple(b'N', new, out);
        }
        Message::Update { relation, old, new } => {
            start(b'U', out);
            out.put_u32(relation.0);
            if let Some(old) = old {
                write_old_tuple(old, out);
            }
            write_tuple(b'N', new, out);
        }
        Message::Delete { relation, old } => {
            start(b'D', out);
            out.put_u32(relation.0);
            write_old_tuple(old, out);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            start(b'T', out);
            out.put_u32(u32::try_from(relations.len()).unwrap_or(u32::MAX));
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            for relation in relations {
                out.put_u32(relation.0);
            }
        }
        Message::Message { transactional, lsn, prefix, content } => {
            start(b'M', out);
            out.put_u8(u8::from(*transactional));
            out.put_u64(lsn.0);
            write_string(prefix, out);
            write_counted(content, out);
        }
        // The other kinds are written by the callers.
        _ => {}
    }
}

fn write_relation(relation: &Relation, out: &mut Vec<u8>) {
    out.put_u32(relation.oid.0);
    write_namespace(&relation.namespace, out);
    write_string(&relation.name, out);
    out.put_u8(relation.identity.letter());
    let count = u16::try_from(relation.columns.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for column in relation.columns.iter().take(usize::from(count)) {
        out.put_u8(u8::from(column.key));
        write_string(&column.name, out);
        out.put_u32(column.type_oid.0);
        out.put_i32(column.type_modifier);
    }
}

fn write_old_tuple(old: &OldTuple, out: &mut Vec<u8>) {
    match old {
        OldTuple::Key(tuple) => write_tuple(b'K', tuple, out),
        OldTuple::Full(tuple) => write_tuple(b'O', tuple, out),
    }
}

fn write_tuple(letter: u8, tuple: &Tuple, out: &mut Vec<u8>) {
    out.put_u8(letter);
    let count = u16::try_from(tuple.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for cell in tuple.cells().take(usize::from(count)) {
        match cell {
            Cell::Null => out.put_u8(b'n'),
            Cell::Unchanged => out.put_u8(b'u'),
            Cell::Text(value) => {
                out.put_u8(b't');
                write_counted(value, out);
            }
            Cell::Binary(value) => {
                out.put_u8(b'b');
                write_counted(value, out);
            }
        }
    }
}

fn write_place(lsn: Lsn, end_lsn: Lsn, time: PgTimestamp, out: &mut Vec<u8>) {
    out.put_u64(lsn.0);
    out.put_u64(end_lsn.0);
    out.put_i64(time.0);
}

fn write_names(xid: Xid, global_id: &str, out: &mut Vec<u8>) {
    out.put_u32(xid.0);
    write_string(global_id, out);
}

fn write_namespace(namespace: &str, out: &mut Vec<u8>) {
    write_string(if namespace == "pg_catalog" { "" } else { namespace }, out);
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    let text = text.split('\0').next().unwrap_or_default();
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn write_counted(bytes: &[u8], out: &mut Vec<u8>) {
    const LENGTH_MAX: usize = i32::MAX as usize;
    let bytes = &bytes[..bytes.len().min(LENGTH_MAX)];
    out.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
    out.put_slice(bytes);
}
