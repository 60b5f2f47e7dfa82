//! A log: rows of one table in transactions, as `pgoutput` writes them.

use bytes::Bytes;
use walcast_pgoutput::{
    Cell, Decoded, Lsn, Message, Oid, PgTimestamp, Relation, RelationColumn, ReplicaIdentity, Tuple, Xid,
};

use crate::fixture::TABLE;

pub(crate) const COLUMNS: [&str; 3] = ["id", "owner", "body"];
const TEXT: Oid = Oid(25);

/// The `sub` of a person.
pub(crate) fn person(number: usize) -> String {
    format!("person {number:05}")
}

/// Of the decoder.
pub(crate) const PROTOCOL_VERSION: u32 = 4;

/// So many rows, so many in each transaction; row n is of person n.
pub(crate) fn transactions(rows: usize, batch: usize) -> Vec<Bytes> {
    let mut messages = vec![message(Message::Relation(relation()))];
    for first in (0..rows).step_by(batch) {
        let place = 0x0100_0000 + first as u64 * 0x100;
        let (final_lsn, commit_time) = (Lsn(place), PgTimestamp(800_000_000_000_000));
        // There are fewer transactions than 2^32.
        let xid = Xid(u32::try_from(1_000 + first).unwrap_or(u32::MAX));
        messages.push(message(Message::Begin { final_lsn, commit_time, xid }));
        for row in first..(first + batch).min(rows) {
            let (id, owner) = (row.to_string(), person(row));
            let body = format!("Message {row}, about as long as what people write to each other.");
            let cells = [&id, &owner, &body].map(|cell| Cell::Text(cell.as_bytes()));
            messages.push(message(Message::Insert { relation: TABLE, new: Tuple::from_cells(cells) }));
        }
        messages.push(message(Message::Commit {
            commit_lsn: final_lsn,
            end_lsn: Lsn(place + 0x80),
            commit_time,
        }));
    }
    messages
}

fn message(message: Message) -> Bytes {
    walcast_pgoutput::encode::encode(&Decoded { xid: None, message }, PROTOCOL_VERSION)
}

fn relation() -> Relation {
    let column = |(index, name): (usize, &&str)| RelationColumn {
        name: (*name).to_owned(),
        type_oid: TEXT,
        type_modifier: -1,
        key: index == 0,
    };
    Relation {
        oid: TABLE,
        namespace: "public".to_owned(),
        name: "notes".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: COLUMNS.iter().enumerate().map(column).collect(),
    }
}
