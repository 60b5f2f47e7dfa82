//! Each message by its bytes, as PostgreSQL 15 sent them; origins and binary values after the docs, "Logical Replication Message Formats".

use bytes::Bytes;

use crate::encode::encode;
use crate::{
    Cell, Decoded, Decoder, Lsn, Message, Oid, OldTuple, PgTimestamp, Relation, RelationColumn,
    ReplicaIdentity, Tuple, Xid,
};

/// Bytes from hexadecimal digits; spaces only separate.
pub(crate) fn bytes(hexadecimal: &str) -> Bytes {
    let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The bytes decode to the message, and the message encodes to the bytes.
#[track_caller]
pub(crate) fn check(version: u32, hexadecimal: &str, message: Message) {
    let decoded = Decoder::new(version).decode(bytes(hexadecimal)).unwrap();
    assert_eq!(decoded, Decoded { xid: None, message });
    assert_eq!(encode(&decoded, version), bytes(hexadecimal));
}

pub(crate) fn text(value: &str) -> Cell<'_> {
    Cell::Text(value.as_bytes())
}

pub(crate) const NOTES: Oid = Oid(0x400a);

pub(crate) fn notes() -> Relation {
    Relation {
        oid: NOTES,
        namespace: "public".to_owned(),
        name: "f".to_owned(),
        identity: ReplicaIdentity::Full,
        columns: vec![
            RelationColumn { name: "id".to_owned(), type_oid: Oid(23), type_modifier: -1, key: true },
            RelationColumn { name: "note".to_owned(), type_oid: Oid(25), type_modifier: -1, key: true },
        ],
    }
}

pub(crate) const NOTES_RELATION: &str = "0000400a 7075626c696300 6600 66 0002 \
    01 696400 00000017 ffffffff 01 6e6f746500 00000019 ffffffff";

#[test]
fn begin() {
    check(
        1,
        "42 0000000001534ca8 000303d393444acd 000002da",
        Message::Begin {
            final_lsn: Lsn(0x0153_4ca8),
            commit_time: PgTimestamp(0x0003_03d3_9344_4acd),
            xid: Xid(0x2da),
        },
    );
}

#[test]
fn commit() {
    check(
        1,
        "43 00 0000000001534ca8 0000000001534ee8 000303d393444acd",
        Message::Commit {
            commit_lsn: Lsn(0x0153_4ca8),
            end_lsn: Lsn(0x0153_4ee8),
            commit_time: PgTimestamp(0x0003_03d3_9344_4acd),
        },
    );
}

#[test]
fn origin() {
    check(
        1,
        "4f 00000000000000ff 656c736577686572 6500",
        Message::Origin { commit_lsn: Lsn(0xff), name: "elsewhere".to_owned() },
    );
}

#[test]
fn relation() {
    check(1, &format!("52 {NOTES_RELATION}"), Message::Relation(notes()));
}

#[test]
fn an_empty_namespace_is_pg_catalog() {
    let mut relation = notes();
    relation.namespace = "pg_catalog".to_owned();
    relation.columns.clear();
    check(1, "52 0000400a 00 6600 66 0000", Message::Relation(relation));
}

#[test]
fn type_name() {
    check(
        1,
        "59 00004001 7075626c696300 6d6f6f6400",
        Message::Type { oid: Oid(0x4001), namespace: "public".to_owned(), name: "mood".to_owned() },
    );
}

#[test]
fn insert_with_null() {
    check(
        1,
        "49 00004003 4e 0004 74 00000001 32 74 00000001 62 74 00000002 6f6b 6e",
        Message::Insert {
            relation: Oid(0x4003),
            new: Tuple::from_cells([text("2"), text("b"), text("ok"), Cell::Null]),
        },
    );
}

#[test]
fn insert_with_binary_values() {
    check(
        1,
        "49 00004003 4e 0002 62 00000004 00000002 62 00000000",
        Message::Insert {
            relation: Oid(0x4003),
            new: Tuple::from_cells([Cell::Binary(&[0, 0, 0, 2]), Cell::Binary(&[])]),
        },
    );
}

#[test]
fn update_without_old_row_and_with_an_unchanged_value() {
    check(
        1,
        "55 00004003 4e 0004 74 00000001 31 74 00000001 63 6e 75",
        Message::Update {
            relation: Oid(0x4003),
            old: None,
            new: Tuple::from_cells([text("1"), text("c"), Cell::Null, Cell::Unchanged]),
        },
    );
}

#[test]
fn update_with_old_key() {
    check(
        1,
        "55 00004003 4b 0004 74 00000001 32 6e 6e 6e 4e 0004 74 00000001 35 74 00000001 62 74 00000002 6f6b 6e",
        Message::Update {
            relation: Oid(0x4003),
            old: Some(OldTuple::Key(Tuple::from_cells([text("2"), Cell::Null, Cell::Null, Cell::Null]))),
            new: Tuple::from_cells([text("5"), text("b"), text("ok"), Cell::Null]),
        },
    );
}

#[test]
fn update_with_old_row() {
    check(
        1,
        "55 0000400a 4f 0002 74 00000001 31 74 00000001 6e 4e 0002 74 00000001 31 6e",
        Message::Update {
            relation: NOTES,
            old: Some(OldTuple::Full(Tuple::from_cells([text("1"), text("n")]))),
            new: Tuple::from_cells([text("1"), Cell::Null]),
        },
    );
}

#[test]
fn delete_by_key() {
    check(
        1,
        "44 00004003 4b 0004 74 00000001 35 6e 6e 6e",
        Message::Delete {
            relation: Oid(0x4003),
            old: OldTuple::Key(Tuple::from_cells([text("5"), Cell::Null, Cell::Null, Cell::Null])),
        },
    );
}

#[test]
fn delete_of_a_whole_row() {
    check(
        1,
        "44 0000400a 4f 0002 74 00000001 31 6e",
        Message::Delete { relation: NOTES, old: OldTuple::Full(Tuple::from_cells([text("1"), Cell::Null])) },
    );
}

#[test]
fn truncate_of_several_tables() {
    check(
        1,
        "54 00000002 03 00004003 0000400a",
        Message::Truncate { relations: vec![Oid(0x4003), NOTES], cascade: true, restart_identity: true },
    );
    check(
        1,
        "54 00000001 01 00004003",
        Message::Truncate { relations: vec![Oid(0x4003)], cascade: true, restart_identity: false },
    );
}

#[test]
fn logical_messages() {
    check(
        1,
        "4d 01 0000000001534ca8 70726500 00000005 68656c6c6f",
        Message::Message {
            transactional: true,
            lsn: Lsn(0x0153_4ca8),
            prefix: "pre".to_owned(),
            content: Bytes::from_static(b"hello"),
        },
    );
    check(
        1,
        "4d 00 0000000001534f20 6e6f7700 00000001 78",
        Message::Message {
            transactional: false,
            lsn: Lsn(0x0153_4f20),
            prefix: "now".to_owned(),
            content: Bytes::from_static(b"x"),
        },
    );
}

#[test]
fn rows_share_the_bytes_of_their_message() {
    let message = bytes("49 0000400a 4e 0001 74 00000004 726f7731");
    let range = message.as_ptr_range();
    let decoded = Decoder::new(1).decode(message.clone()).unwrap();
    let Message::Insert { new, .. } = &decoded.message else {
        panic!("{decoded:?}");
    };
    let Some(Cell::Text(value)) = new.cell(0) else {
        panic!("{new:?}");
    };
    assert_eq!(value, b"row1");
    assert!(range.contains(&value.as_ptr()));
}
