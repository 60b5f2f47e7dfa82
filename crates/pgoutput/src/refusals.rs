//! What is refused, and how the error names it.

use crate::literals::bytes;
use crate::literals_of_streams::inside_stream;
use crate::{Decoder, Fault, Xid};

#[track_caller]
fn refuse(decoder: &mut Decoder, hexadecimal: &str) -> (usize, Fault) {
    let error = decoder.decode(bytes(hexadecimal)).unwrap_err();
    (error.offset, error.fault)
}

#[test]
fn a_hostile_count_is_refused_before_anything_is_allocated() {
    for (message, offset, needed, left) in [
        ("49 0000400a 4e ffff 6e", 8, 0xffff, 1),
        ("52 0000400a 00 00 64 ffff 00", 10, 655_350, 1),
        ("54 ffffffff 00 0000400a", 6, 0x3_ffff_fffc, 4),
        ("49 0000400a 4e 0001 74 7fffffff 61", 13, 0x7fff_ffff, 1),
    ] {
        let (found, fault) = refuse(&mut Decoder::new(1), message);
        assert_eq!(found, offset, "{message}");
        assert!(
            matches!(fault, Fault::Short { needed: n, left: l, .. } if n == needed && l == left),
            "{message}: {fault:?}"
        );
    }
}

#[test]
fn damage_is_named_with_its_place() {
    let mut decoder = Decoder::new(1);
    let mut message = |hexadecimal: &str| decoder.decode(bytes(hexadecimal)).unwrap_err().to_string();
    assert_eq!(
        message("42 0000"),
        "pgoutput message 'B' is damaged at byte 1: expected the position of the commit, 8 more bytes, \
         but only 2 are left"
    );
    assert_eq!(
        message("49 0000400a 4e 0001 78"),
        "pgoutput message 'I' is damaged at byte 8: expected a value's letter, n, u, t or b, found byte 0x78"
    );
    assert_eq!(
        message("49 0000400a 4e 0001 74 ffffffff"),
        "pgoutput message 'I' is damaged at byte 9: expected a value in text, found the length -1"
    );
    assert_eq!(
        message("59 00004001 61ff00 00"),
        "pgoutput message 'Y' is damaged at byte 6: expected the schema's name in UTF-8; \
         connect with client_encoding=UTF8"
    );
    assert_eq!(
        message("59 00004001 6161"),
        "pgoutput message 'Y' is damaged at byte 5: expected the schema's name, but it has no zero byte at its end"
    );
    assert_eq!(
        message("ff"),
        "pgoutput message '\\xff' is damaged at byte 0: no message of protocol version 1 starts so; \
         ask for a version that both sides know"
    );
    assert_eq!(
        message(""),
        "pgoutput message without content is damaged at byte 0: expected the letter of a message, \
         1 more bytes, but only 0 are left"
    );
}

#[test]
fn trailing_bytes_are_refused() {
    let refused = refuse(&mut Decoder::new(1), "49 0000400a 4e 0001 6e 6e6e");
    assert_eq!(refused, (9, Fault::TrailingBytes(2)));
}

#[test]
fn an_abort_point_before_version_4_is_left_over() {
    let abort = "41 000002dd 000002de 000000000154dd40 0000000000000005";
    assert_eq!(refuse(&mut Decoder::new(3), abort), (9, Fault::TrailingBytes(16)));
}

#[test]
fn unknown_letters_and_flags_are_refused() {
    for (message, offset) in [
        ("43 01 0000000000000000 0000000000000000 0000000000000000", 1),
        ("52 0000400a 00 00 7a 0000", 7),
        ("52 0000400a 00 00 64 0001 02 00 00000000 00000000", 10),
        ("49 0000400a 4b 0000", 5),
        ("55 0000400a 58 0000", 5),
        ("55 0000400a 4b 0000 4b 0000", 8),
        ("44 0000400a 4e 0000", 5),
        ("54 00000000 04", 5),
        ("4d 02 0000000000000000 00 00000000", 1),
    ] {
        let (found, fault) = refuse(&mut Decoder::new(1), message);
        assert_eq!(found, offset, "{message}");
        assert!(matches!(fault, Fault::Unexpected { .. }), "{message}: {fault:?}");
    }
}

#[test]
fn messages_of_a_later_version_are_refused() {
    for (version, message) in [(1, "53 00000001 01"), (1, "45"), (2, "62"), (2, "70")] {
        let refused = refuse(&mut Decoder::new(version), message);
        assert_eq!(refused, (0, Fault::UnknownKind { version }), "{message}");
    }
}

#[test]
fn a_message_out_of_place_is_refused_and_leaves_the_decoder_as_it_was() {
    assert_eq!(refuse(&mut Decoder::new(2), "45"), (0, Fault::Misplaced { inside_stream: false }));
    let mut decoder = inside_stream();
    for message in ["53 00000001 01", "42", "43", "63", "41"] {
        assert_eq!(refuse(&mut decoder, message), (0, Fault::Misplaced { inside_stream: true }), "{message}");
    }
    refuse(&mut decoder, "45 00");
    let decoded = decoder.decode(bytes("49 00000001 0000400a 4e 0001 6e")).unwrap();
    assert_eq!(decoded.xid, Some(Xid(1)));
}
