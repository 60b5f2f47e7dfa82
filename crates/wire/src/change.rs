//! A row change as clients get it: the `data` object, encoded once, and the push around it (docs/protocol.md §4).

use std::io::Write as _;

use crate::binding_id::BindingId;
use crate::frame::Frame;
use crate::position::Position;
use crate::reference::Ref;
use crate::serializer::Serializer;
use crate::server_message::Envelope;
use crate::timestamp::write_timestamp;
use crate::value::{Shape, encode_string, encode_value};

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It came.
    Insert,
    /// It changed.
    Update,
    /// It went.
    Delete,
}

impl ChangeKind {
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Insert => "INSERT",
            ChangeKind::Update => "UPDATE",
            ChangeKind::Delete => "DELETE",
        }
    }
}

/// Name and type of a column, as `columns` lists them.
#[derive(Clone, Copy, Debug)]
pub struct ColumnHead<'a> {
    /// The column's name.
    pub name: &'a str,
    /// `pg_type.typname` of its type: `int4`, `_int4` for an array, the name of an enum or domain.
    pub type_name: &'a str,
}

/// One column of a row. A column the log does not carry is not listed at all.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The column's name.
    pub name: &'a str,
    /// How its text becomes JSON.
    pub shape: &'a Shape,
    /// The value in PostgreSQL's text format; `None` for NULL.
    pub text: Option<&'a str>,
}

/// A change reduced to what one set of receivers may see.
#[derive(Clone, Copy, Debug)]
pub struct ChangeBody<'a> {
    /// The table's schema.
    pub schema: &'a str,
    /// The table's name.
    pub table: &'a str,
    /// What happened.
    pub kind: ChangeKind,
    /// When the transaction committed, in microseconds since 1970-01-01 00:00 UTC.
    pub commit_time_unix_us: i64,
    /// Where it stands in the log.
    pub position: Position,
    /// Whether this is a row that was there before, in a snapshot (docs/protocol.md §5.8).
    pub snapshot: bool,
    /// The columns, in table order.
    pub columns: &'a [ColumnHead<'a>],
    /// The new row; `None` reads as a row without columns. Not sent for a DELETE.
    pub record: Option<&'a [Field<'a>]>,
    /// The old row; `None` reads as a row without columns. Not sent for an INSERT.
    pub old_record: Option<&'a [Field<'a>]>,
    /// Why receivers see less than the row (docs/protocol.md §4.4), such as [`NO_PRIMARY_KEY`].
    pub errors: Option<&'a str>,
}

/// The error of an INSERT or UPDATE on a table without a primary key.
pub const NO_PRIMARY_KEY: &str = "Error 400: Bad Request, no primary key";
/// The error of an INSERT or UPDATE whose primary key the role may not SELECT.
pub const UNAUTHORIZED: &str = "Error 401: Unauthorized";
/// The error of a change that is too large to be sent whole.
pub const PAYLOAD_TOO_LARGE: &str = "Error 413: Payload Too Large";

/// Of a change that is too large, the columns whose JSON text has at most so many bytes are still sent.
const KEPT_VALUE_BYTES_MAX: usize = 64;

impl ChangeBody<'_> {
    /// The JSON text of `data`. When it would be longer than `record_bytes_max` bytes, it says [`PAYLOAD_TOO_LARGE`] and
    /// its rows keep only the columns with short values that are not NULL.
    pub fn encode(&self, record_bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.estimated_bytes().min(record_bytes_max.saturating_add(1024)));
        if self.write(&mut out, Columns::AllWithin(record_bytes_max)) {
            return out;
        }
        out.clear();
        let truncated = ChangeBody { errors: Some(PAYLOAD_TOO_LARGE), ..*self };
        truncated.write(&mut out, Columns::Short);
        out
    }

    /// Writes `data`; false when it became too long on the way, and then it is not complete.
    fn write(&self, out: &mut Vec<u8>, columns: Columns) -> bool {
        out.extend_from_slice(b"{\"schema\":");
        encode_string(self.schema, out);
        out.extend_from_slice(b",\"table\":");
        encode_string(self.table, out);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(self.kind.as_str().as_bytes());
        out.extend_from_slice(b"\",\"commit_timestamp\":\"");
        write_timestamp(self.commit_time_unix_us, out);
        out.extend_from_slice(b"\",\"position\":\"");
        // Writing into memory does not fail.
        let _ = write!(out, "{}", self.position);
        out.push(b'"');
        if self.snapshot {
            out.extend_from_slice(b",\"snapshot\":true");
        }
        out.extend_from_slice(b",\"columns\":");
        self.write_columns(out);
        let rows = [
            (&b",\"record\":"[..], self.record, self.kind != ChangeKind::Delete),
            (&b",\"old_record\":"[..], self.old_record, self.kind != ChangeKind::Insert),
        ];
        for (key, row, sent) in rows {
            if sent {
                out.extend_from_slice(key);
                if !write_row(row.unwrap_or_default(), columns, out) {
                    return false;
                }
            }
        }
        match self.errors {
            None => out.extend_from_slice(b",\"errors\":null}"),
            Some(error) => {
                out.extend_from_slice(b",\"errors\":[");
                encode_string(error, out);
                out.extend_from_slice(b"]}");
            }
        }
        columns.fits(out)
    }

    fn write_columns(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"name\":");
            encode_string(column.name, out);
            out.extend_from_slice(b",\"type\":");
            encode_string(column.type_name, out);
            out.push(b'}');
        }
        out.push(b']');
    }

    /// About what the JSON will take when little has to be escaped.
    fn estimated_bytes(&self) -> usize {
        let columns: usize =
            self.columns.iter().map(|column| column.name.len() + column.type_name.len() + 22).sum();
        let rows = [self.record, self.old_record].into_iter().flatten().flatten();
        let values: usize = rows.map(|field| field.name.len() + field.text.map_or(4, str::len) + 8).sum();
        200 + self.schema.len() + self.table.len() + columns + values
    }
}

/// Which columns of a row are written.
#[derive(Clone, Copy)]
enum Columns {
    /// All, as long as the whole text stays within so many bytes.
    AllWithin(usize),
    /// Those that are short and not NULL.
    Short,
}

impl Columns {
    fn fits(self, out: &[u8]) -> bool {
        match self {
            Columns::AllWithin(bytes_max) => out.len() <= bytes_max,
            Columns::Short => true,
        }
    }
}

/// Writes a row as an object; gives up with false as soon as the text is too long.
fn write_row(fields: &[Field<'_>], columns: Columns, out: &mut Vec<u8>) -> bool {
    let mut separator = b'{';
    for field in fields {
        let field_start = out.len();
        out.push(separator);
        encode_string(field.name, out);
        out.push(b':');
        let value_start = out.len();
        match field.text {
            Some(text) => encode_value(field.shape, text, out),
            None => out.extend_from_slice(b"null"),
        }
        let dropped = field.text.is_none() || out.len() - value_start > KEPT_VALUE_BYTES_MAX;
        if dropped && matches!(columns, Columns::Short) {
            out.truncate(field_start);
            continue;
        }
        if !columns.fits(out) {
            return false;
        }
        separator = b',';
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    true
}

/// The push of a change to one channel: `ids` of the bindings it matches, and the encoded `data`
/// (docs/protocol.md §4.1). `data` is the result of [`ChangeBody::encode`].
pub fn change_frame(serializer: Serializer, topic: &str, ids: &[BindingId], data: &[u8]) -> Frame {
    let envelope = Envelope {
        serializer,
        join_ref: &Ref::NULL,
        reference: &Ref::NULL,
        topic,
        event: "postgres_changes",
    };
    envelope.frame(data.len() + 10 * ids.len() + 20, |out| {
        out.extend_from_slice(b"{\"ids\":[");
        for (index, id) in ids.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(itoa::Buffer::new().format(id.get()).as_bytes());
        }
        out.extend_from_slice(b"],\"data\":");
        out.extend_from_slice(data);
        out.push(b'}');
    })
}

/// The push of a change to a channel that joined without `config`: the event is the kind of change, the payload is the
/// bare `data` (docs/protocol.md §3.8).
pub fn legacy_change_frame(serializer: Serializer, topic: &str, kind: ChangeKind, data: &[u8]) -> Frame {
    let envelope =
        Envelope { serializer, join_ref: &Ref::NULL, reference: &Ref::NULL, topic, event: kind.as_str() };
    envelope.frame(data.len(), |out| out.extend_from_slice(data))
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::Lsn;

    use super::*;

    const NO_LIMIT: usize = usize::MAX;
    const COLUMNS: &[ColumnHead<'_>] =
        &[ColumnHead { name: "id", type_name: "int4" }, ColumnHead { name: "details", type_name: "text" }];

    fn field<'a>(name: &'a str, text: Option<&'a str>) -> Field<'a> {
        Field { name, shape: &Shape::Text, text }
    }

    fn change(kind: ChangeKind) -> ChangeBody<'static> {
        ChangeBody {
            schema: "public",
            table: "t",
            kind,
            commit_time_unix_us: 1_787_307_072_345_678,
            position: Position { commit_lsn: Lsn(0x16B_3748), index: 3 },
            snapshot: false,
            columns: COLUMNS,
            record: None,
            old_record: None,
            errors: None,
        }
    }

    fn encoded(body: &ChangeBody<'_>, record_bytes_max: usize) -> String {
        String::from_utf8(body.encode(record_bytes_max)).unwrap()
    }

    const HEAD: &str = r#""commit_timestamp":"2026-08-21T10:11:12.345Z","position":"0/16B3748:3","columns":[{"name":"id","type":"int4"},{"name":"details","type":"text"}]"#;

    #[test]
    fn each_kind_of_change_has_exactly_its_keys() {
        let new = [field("id", Some("a")), field("details", None)];
        let old = [field("id", Some("b"))];
        let row = r#"{"id":"a","details":null}"#;
        for (kind, rows) in [
            (ChangeKind::Insert, format!(r#""record":{row}"#)),
            (ChangeKind::Update, format!(r#""record":{row},"old_record":{{"id":"b"}}"#)),
            (ChangeKind::Delete, r#""old_record":{"id":"b"}"#.to_owned()),
        ] {
            let body = ChangeBody { record: Some(&new), old_record: Some(&old), ..change(kind) };
            let head = format!(r#"{{"schema":"public","table":"t","type":"{}",{HEAD}"#, kind.as_str());
            assert_eq!(encoded(&body, NO_LIMIT), format!(r#"{head},{rows},"errors":null}}"#));
        }
    }

    #[test]
    fn a_row_of_a_snapshot_is_marked() {
        let new = [field("id", Some("a"))];
        let body = ChangeBody { record: Some(&new), snapshot: true, ..change(ChangeKind::Insert) };
        let head = HEAD.replace(",\"columns\"", ",\"snapshot\":true,\"columns\"");
        let expected = format!(
            r#"{{"schema":"public","table":"t","type":"INSERT",{head},"record":{{"id":"a"}},"errors":null}}"#
        );
        assert_eq!(encoded(&body, NO_LIMIT), expected);
    }

    #[test]
    fn rows_and_columns_are_empty_but_never_null_in_an_error_row() {
        let body = ChangeBody { columns: &[], errors: Some(UNAUTHORIZED), ..change(ChangeKind::Update) };
        let expected = r#"{"schema":"public","table":"t","type":"UPDATE","commit_timestamp":"2026-08-21T10:11:12.345Z","position":"0/16B3748:3","columns":[],"record":{},"old_record":{},"errors":["Error 401: Unauthorized"]}"#;
        assert_eq!(encoded(&body, NO_LIMIT), expected);
    }

    #[test]
    fn a_change_of_exactly_the_limit_is_whole_and_one_byte_more_is_not() {
        let new = [field("id", Some("a")), field("details", None)];
        let body = ChangeBody { record: Some(&new), ..change(ChangeKind::Insert) };
        let whole = encoded(&body, NO_LIMIT);
        assert_eq!(encoded(&body, whole.len()), whole);
        let truncated = encoded(&body, whole.len() - 1);
        assert!(
            truncated.ends_with(r#""record":{"id":"a"},"errors":["Error 413: Payload Too Large"]}"#),
            "{truncated}"
        );
    }

    #[test]
    fn a_change_that_is_too_large_keeps_its_columns_and_short_values() {
        let (fits, long) = ("x".repeat(62), "x".repeat(63));
        let huge = "x".repeat(5_000_000);
        let new = [
            field("huge", Some(&huge)),
            field("fits", Some(&fits)),
            field("long", Some(&long)),
            field("nothing", None),
        ];
        let old = [field("long", Some(&long))];
        let body = ChangeBody { record: Some(&new), old_record: Some(&old), ..change(ChangeKind::Update) };
        let truncated = encoded(&body, 1_048_576);
        let rows = format!(r#""record":{{"fits":"{fits}"}},"old_record":{{}}"#);
        assert_eq!(
            truncated,
            format!(
                r#"{{"schema":"public","table":"t","type":"UPDATE",{HEAD},{rows},"errors":["Error 413: Payload Too Large"]}}"#
            )
        );
    }

    #[test]
    fn names_are_escaped() {
        let columns = [ColumnHead { name: "a\"b", type_name: "_int4" }];
        let record = [field("a\"b", Some("c\nd"))];
        let body = ChangeBody {
            schema: "s \\",
            table: "é,.\t",
            columns: &columns,
            record: Some(&record),
            ..change(ChangeKind::Insert)
        };
        let value: serde_json::Value = serde_json::from_slice(&body.encode(NO_LIMIT)).unwrap();
        assert_eq!((value["schema"].as_str(), value["table"].as_str()), (Some("s \\"), Some("é,.\t")));
        assert_eq!(value["record"]["a\"b"], "c\nd");
        assert_eq!(value["columns"][0]["name"], "a\"b");
    }

    #[test]
    fn the_push_lists_ids_as_integers_and_has_null_references() {
        let ids: Vec<_> = [r#"{"table":"t"}"#, r#"{"table":"u"}"#]
            .map(|json| crate::Binding::parse(json).unwrap().id)
            .into();
        let frame = change_frame(Serializer::V2, "realtime:room1", &ids, br#"{"type":"INSERT"}"#);
        let expected = format!(
            r#"[null,null,"realtime:room1","postgres_changes",{{"ids":[{},{}],"data":{{"type":"INSERT"}}}}]"#,
            ids[0], ids[1]
        );
        assert_eq!(frame.payload()[..], *expected.as_bytes());
        let frame = change_frame(Serializer::V1, "realtime:room1", &ids[..1], b"{}");
        let expected = format!(
            r#"{{"event":"postgres_changes","payload":{{"ids":[{}],"data":{{}}}},"ref":null,"topic":"realtime:room1"}}"#,
            ids[0]
        );
        assert_eq!(frame.payload()[..], *expected.as_bytes());
    }

    #[test]
    fn the_old_form_has_the_kind_as_event_and_the_bare_data() {
        let frame =
            legacy_change_frame(Serializer::V1, "realtime:public:t", ChangeKind::Delete, br#"{"a":1}"#);
        let expected = br#"{"event":"DELETE","payload":{"a":1},"ref":null,"topic":"realtime:public:t"}"#;
        assert_eq!(frame.payload()[..], expected[..]);
    }
}
