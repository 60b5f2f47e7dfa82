//! Messages of streamed and two-phase transactions by their bytes, as PostgreSQL 15 sent them; what is of
//! version 4 or a change in a subtransaction after the docs, "Logical Replication Message Formats".

use bytes::Bytes;

use crate::encode::encode;
use crate::literals::{NOTES, NOTES_RELATION, bytes, check, notes, text};
use crate::{AbortPoint, Cell, Decoded, Decoder, Lsn, Message, Oid, OldTuple, PgTimestamp, Tuple, Xid};

/// A decoder that has read a `StreamStart`.
pub(crate) fn inside_stream() -> Decoder {
    let mut decoder = Decoder::new(2);
    decoder.decode(bytes("53 000002dd 01")).unwrap();
    decoder
}

/// The bytes decode to the message and back, between `StreamStart` and `StreamStop`.
#[track_caller]
fn check_streamed(hexadecimal: &str, xid: Xid, message: Message) {
    let decoded = inside_stream().decode(bytes(hexadecimal)).unwrap();
    let expected = Decoded { xid: Some(xid), message };
    assert_eq!(decoded, expected);
    assert_eq!(encode(&decoded, 2), bytes(hexadecimal));
}

#[test]
fn a_streamed_transaction() {
    check(2, "53 000002dd 01", Message::StreamStart { xid: Xid(0x2dd), first_segment: true });
    check_streamed(&format!("52 000002dd {NOTES_RELATION}"), Xid(0x2dd), Message::Relation(notes()));
    check_streamed(
        "49 000002dd 0000400a 4e 0002 74 00000001 31 74 00000004 726f7731",
        Xid(0x2dd),
        Message::Insert { relation: NOTES, new: Tuple::from_cells([text("1"), text("row1")]) },
    );
    check_streamed(
        "4d 000002dd 01 0000000001541818 70726500 00000009 696e2073747265616d",
        Xid(0x2dd),
        Message::Message {
            transactional: true,
            lsn: Lsn(0x0154_1818),
            prefix: "pre".to_owned(),
            content: Bytes::from_static(b"in stream"),
        },
    );
    check(
        2,
        "63 000002dd 00 000000000154dd40 000000000154dd78 000303d39345eeff",
        Message::StreamCommit {
            xid: Xid(0x2dd),
            commit_lsn: Lsn(0x0154_dd40),
            end_lsn: Lsn(0x0154_dd78),
            commit_time: PgTimestamp(0x0003_03d3_9345_eeff),
        },
    );
}

#[test]
fn every_kind_of_change_carries_its_subtransaction_inside_a_stream() {
    let old = || OldTuple::Full(Tuple::from_cells([text("1")]));
    check_streamed(
        "55 000002de 0000400a 4f 0001 74 00000001 31 4e 0001 6e",
        Xid(0x2de),
        Message::Update { relation: NOTES, old: Some(old()), new: Tuple::from_cells([Cell::Null]) },
    );
    check_streamed(
        "44 000002de 0000400a 4f 0001 74 00000001 31",
        Xid(0x2de),
        Message::Delete { relation: NOTES, old: old() },
    );
    check_streamed(
        "54 000002de 00000001 00 0000400a",
        Xid(0x2de),
        Message::Truncate { relations: vec![NOTES], cascade: false, restart_identity: false },
    );
    check_streamed(
        "59 000002de 00004001 00 6d00",
        Xid(0x2de),
        Message::Type { oid: Oid(0x4001), namespace: "pg_catalog".to_owned(), name: "m".to_owned() },
    );
}

#[test]
fn an_origin_inside_a_stream_carries_no_transaction() {
    let decoded = inside_stream().decode(bytes("4f 00000000000000ff 6100")).unwrap();
    let message = Message::Origin { commit_lsn: Lsn(0xff), name: "a".to_owned() };
    assert_eq!(decoded, Decoded { xid: None, message });
}

#[test]
fn behind_a_stream_messages_carry_no_transaction_again() {
    let mut decoder = inside_stream();
    assert_eq!(decoder.decode(bytes("45")).unwrap().message, Message::StreamStop);
    let decoded = decoder.decode(bytes("49 0000400a 4e 0001 6e")).unwrap();
    assert_eq!(decoded.xid, None);
}

#[test]
fn stream_abort_says_where_and_when_only_in_version_4_and_there_not_always() {
    let abort = |aborted| Message::StreamAbort { xid: Xid(0x2dd), subtransaction: Xid(0x2de), aborted };
    let point = AbortPoint { lsn: Lsn(0x0154_dd40), time: PgTimestamp(5) };
    let long = "41 000002dd 000002de 000000000154dd40 0000000000000005";
    for version in 2..=4 {
        check(version, "41 000002dd 000002de", abort(None));
    }
    check(4, long, abort(Some(point)));
}

#[test]
fn two_phase_transactions() {
    let (xid, global_id) = (Xid(0x2db), "gid1".to_owned());
    let (prepare_lsn, end_lsn, prepare_time) =
        (Lsn(0x0153_4f60), Lsn(0x0153_5058), PgTimestamp(0x0003_03d3_9344_4e77));
    let rest = "0000000001534f60 0000000001535058 000303d393444e77 000002db 6769643100";
    check(
        3,
        &format!("62 {rest}"),
        Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, global_id: global_id.clone() },
    );
    check(
        3,
        &format!("50 00 {rest}"),
        Message::Prepare { prepare_lsn, end_lsn, prepare_time, xid, global_id: global_id.clone() },
    );
    check(
        3,
        &format!("70 00 {rest}"),
        Message::StreamPrepare { prepare_lsn, end_lsn, prepare_time, xid, global_id: global_id.clone() },
    );
    check(
        3,
        "4b 00 0000000001535058 0000000001535090 000303d393444ec1 000002db 6769643100",
        Message::CommitPrepared {
            commit_lsn: Lsn(0x0153_5058),
            end_lsn: Lsn(0x0153_5090),
            commit_time: PgTimestamp(0x0003_03d3_9344_4ec1),
            xid,
            global_id,
        },
    );
    check(
        3,
        "72 00 00000000015351c8 0000000001535200 000303d393444f3d 000303d393444f76 000002dc 6769643200",
        Message::RollbackPrepared {
            prepare_end_lsn: Lsn(0x0153_51c8),
            rollback_end_lsn: Lsn(0x0153_5200),
            prepare_time: PgTimestamp(0x0003_03d3_9344_4f3d),
            rollback_time: PgTimestamp(0x0003_03d3_9344_4f76),
            xid: Xid(0x2dc),
            global_id: "gid2".to_owned(),
        },
    );
}
