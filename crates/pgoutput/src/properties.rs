//! What holds of every message and of any bytes at all.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::encode::encode;
use crate::{
    AbortPoint, Cell, Decoded, Decoder, Lsn, Message, Oid, OldTuple, PgTimestamp, Relation, RelationColumn,
    ReplicaIdentity, Tuple, Xid,
};

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn time() -> impl Strategy<Value = PgTimestamp> {
    any::<i64>().prop_map(PgTimestamp)
}

fn xid() -> impl Strategy<Value = Xid> {
    any::<u32>().prop_map(Xid)
}

fn oid() -> impl Strategy<Value = Oid> {
    any::<u32>().prop_map(Oid)
}

/// Any text that PostgreSQL can hold: everything but the zero byte, and no name is empty.
fn name() -> impl Strategy<Value = String> {
    "[^\0]{1,12}"
}

/// A cell that owns its bytes.
#[derive(Clone, Debug)]
enum OwnedCell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let value = || vec(any::<u8>(), 0..20);
    let cell = prop_oneof![
        Just(OwnedCell::Null),
        Just(OwnedCell::Unchanged),
        value().prop_map(OwnedCell::Text),
        value().prop_map(OwnedCell::Binary),
    ];
    vec(cell, 0..8).prop_map(|cells| {
        Tuple::from_cells(cells.iter().map(|cell| match cell {
            OwnedCell::Null => Cell::Null,
            OwnedCell::Unchanged => Cell::Unchanged,
            OwnedCell::Text(value) => Cell::Text(value),
            OwnedCell::Binary(value) => Cell::Binary(value),
        }))
    })
}

fn old_tuple() -> impl Strategy<Value = OldTuple> {
    prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full),]
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column =
        (name(), oid(), any::<i32>(), any::<bool>()).prop_map(|(name, type_oid, type_modifier, key)| {
            RelationColumn { name, type_oid, type_modifier, key }
        });
    let namespace = prop_oneof![Just("pg_catalog".to_owned()), name()];
    (oid(), namespace, name(), identity, vec(column, 0..6)).prop_map(
        |(oid, namespace, name, identity, columns)| Relation { oid, namespace, name, identity, columns },
    )
}

/// A message that belongs into a transaction.
fn content() -> impl Strategy<Value = Message> {
    prop_oneof![
        relation().prop_map(Message::Relation),
        (oid(), name(), name()).prop_map(|(oid, namespace, name)| Message::Type { oid, namespace, name }),
        (oid(), tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (oid(), option::of(old_tuple()), tuple()).prop_map(|(relation, old, new)| Message::Update {
            relation,
            old,
            new
        }),
        (oid(), old_tuple()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (vec(oid(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| {
                Message::Truncate { relations, cascade, restart_identity }
            }
        ),
        (any::<bool>(), lsn(), name(), vec(any::<u8>(), 0..30)).prop_map(
            |(transactional, lsn, prefix, content)| Message::Message {
                transactional,
                lsn,
                prefix,
                content: content.into(),
            }
        ),
    ]
}

/// A message that opens or closes a transaction, outside of streams.
fn envelope() -> impl Strategy<Value = Message> {
    prop_oneof![
        (lsn(), time(), xid()).prop_map(|(final_lsn, commit_time, xid)| Message::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, commit_time)| Message::Commit {
            commit_lsn,
            end_lsn,
            commit_time
        }),
        (lsn(), name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
        (xid(), any::<bool>()).prop_map(|(xid, first_segment)| Message::StreamStart { xid, first_segment }),
        (xid(), lsn(), lsn(), time()).prop_map(|(xid, commit_lsn, end_lsn, commit_time)| {
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time }
        }),
        (xid(), xid(), option::of((lsn(), time()))).prop_map(|(xid, subtransaction, aborted)| {
            Message::StreamAbort {
                xid,
                subtransaction,
                aborted: aborted.map(|(lsn, time)| AbortPoint { lsn, time }),
            }
        }),
        (0..5, lsn(), lsn(), time(), time(), xid(), name()).prop_map(two_phase),
    ]
}

fn two_phase(
    (kind, lsn, end_lsn, time, rollback_time, xid, global_id): (
        i32,
        Lsn,
        Lsn,
        PgTimestamp,
        PgTimestamp,
        Xid,
        String,
    ),
) -> Message {
    match kind {
        0 => Message::BeginPrepare { prepare_lsn: lsn, end_lsn, prepare_time: time, xid, global_id },
        1 => Message::Prepare { prepare_lsn: lsn, end_lsn, prepare_time: time, xid, global_id },
        2 => Message::CommitPrepared { commit_lsn: lsn, end_lsn, commit_time: time, xid, global_id },
        3 => Message::RollbackPrepared {
            prepare_end_lsn: lsn,
            rollback_end_lsn: end_lsn,
            prepare_time: time,
            rollback_time,
            xid,
            global_id,
        },
        _ => Message::StreamPrepare { prepare_lsn: lsn, end_lsn, prepare_time: time, xid, global_id },
    }
}

/// A decoder between `StreamStart` and `StreamStop` if asked for.
fn decoder(version: u32, inside_stream: bool) -> Decoder {
    let mut decoder = Decoder::new(version);
    if inside_stream {
        decoder.decode(Bytes::from_static(b"S\0\0\0\x01\x01")).unwrap();
    }
    decoder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_is_encoded_decodes_to_the_same(message in prop_oneof![content(), envelope()]) {
        let sent = Decoded { xid: None, message };
        let received = Decoder::new(4).decode(encode(&sent, 4)).unwrap();
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn inside_a_stream_too(message in content(), xid in xid(), version in 2..=4u32) {
        let sent = Decoded { xid: Some(xid), message };
        let received = decoder(version, true).decode(encode(&sent, version)).unwrap();
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn a_message_cut_short_is_refused_within_its_bounds(
        message in prop_oneof![content(), envelope()],
        cut in any::<prop::sample::Index>(),
    ) {
        // The one message that may end in two places is left whole.
        let may_be_shorter = matches!(message, Message::StreamAbort { .. });
        let whole = encode(&Decoded { xid: None, message }, 4);
        let cut = cut.index(whole.len());
        let result = Decoder::new(4).decode(whole.slice(..cut));
        match result {
            Ok(_) => prop_assert!(may_be_shorter && cut == 9),
            Err(error) => prop_assert!(error.offset <= cut, "{}", error),
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        message in prop_oneof![content(), envelope()],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        version in 1..=4u32,
        inside_stream: bool,
    ) {
        let mut bytes = encode(&Decoded { xid: None, message }, version).to_vec();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let length = bytes.len();
        if let Err(error) = decoder(version, inside_stream && version > 1).decode(bytes.into()) {
            prop_assert!(error.offset <= length);
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn bytes_that_decode_encode_to_the_same(
        letter in prop::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec()),
        rest in vec(prop_oneof![Just(0u8), Just(1), any::<u8>(), prop::sample::select(b"NKOntub".to_vec())], 0..40),
    ) {
        let bytes: Bytes = [vec![letter], rest].concat().into();
        if let Ok(decoded) = Decoder::new(4).decode(bytes.clone()) {
            let spelled_out = matches!(&decoded.message,
                Message::Relation(Relation { namespace, .. }) | Message::Type { namespace, .. }
                    if namespace == "pg_catalog");
            prop_assert!(spelled_out || encode(&decoded, 4) == bytes, "{:?}", decoded);
        }
    }
}
