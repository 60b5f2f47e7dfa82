//! A row change as clients get it: the `data` object, encoded once, and the push around it (docs/protocol.md §4).

use crate::binding::BindingId;
use crate::frame::Frame;
use crate::json_text;
use crate::reference::Ref;
use crate::serializer::Serializer;
use crate::server_message::Envelope;
use crate::value::{self, Shape};

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
        let truncated = ChangeBody {
            errors: Some(PAYLOAD_TOO_LARGE),
            ..*self
        };
        truncated.write(&mut out, Columns::Short);
        out
    }

    /// Writes `data`; false when it became too long on the way, and then it is not complete.
    fn write(&self, out: &mut Vec<u8>, columns: Columns) -> bool {
        out.extend_from_slice(b"{\"schema\":");
        json_text::write_string(self.schema, out);
        out.extend_from_slice(b",\"table\":");
        json_text::write_string(self.table, out);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(self.kind.as_str().as_bytes());
        out.extend_from_slice(b"\",\"commit_timestamp\":\"");
        write_timestamp(self.commit_time_unix_us, out);
        out.extend_from_slice(b"\",\"columns\":");
        self.write_columns(out);
        let rows = [
            (&b",\"record\":"[..], self.record, self.kind != ChangeKind::Delete),
            (
                &b",\"old_record\":"[..],
                self.old_record,
                self.kind != ChangeKind::Insert,
            ),
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
                json_text::write_string(error, out);
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
            json_text::write_string(column.name, out);
            out.extend_from_slice(b",\"type\":");
            json_text::write_string(column.type_name, out);
            out.push(b'}');
        }
        out.push(b']');
    }

    /// About what the JSON will take when little has to be escaped.
    fn estimated_bytes(&self) -> usize {
        let columns: usize = self
            .columns
            .iter()
            .map(|column| column.name.len() + column.type_name.len() + 22)
            .sum();
        let rows = [self.record, self.old_record].into_iter().flatten().flatten();
        let values: usize = rows
            .map(|field| field.name.len() + field.text.map_or(4, str::len) + 8)
            .sum();
        160 + self.schema.len() + self.table.len() + columns + values
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
        json_text::write_string(field.name, out);
        out.push(b':');
        let value_start = out.len();
        match field.text {
            Some(text) => value::encode_value(field.shape, text, out),
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
    let envelope = Envelope {
        serializer,
        join_ref: &Ref::NULL,
        reference: &Ref::NULL,
        topic,
        event: kind.as_str(),
    };
    envelope.frame(data.len(), |out| out.extend_from_slice(data))
}

/// `2026-08-21T10:11:12.345Z`: UTC, always exactly milliseconds, what is finer cut off.
fn write_timestamp(unix_us: i64, out: &mut Vec<u8>) {
    let milliseconds = unix_us.div_euclid(1000);
    let (days, in_day) = (
        milliseconds.div_euclid(86_400_000),
        milliseconds.rem_euclid(86_400_000),
    );
    let (year, month, day) = civil_date(days);
    if year < 0 {
        out.push(b'-');
    }
    write_padded(year.abs(), 4, out);
    let parts = [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', in_day / 3_600_000, 2),
        (b':', in_day / 60_000 % 60, 2),
        (b':', in_day / 1000 % 60, 2),
        (b'.', in_day % 1000, 3),
    ];
    for (separator, number, digits) in parts {
        out.push(separator);
        write_padded(number, digits, out);
    }
    out.push(b'Z');
}

fn write_padded(number: i64, digits: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number);
    out.extend(std::iter::repeat_n(b'0', digits.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar. Years are counted from March,
/// which puts the leap day at their end, in eras of the 400 years after which the calendar repeats.
fn civil_date(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_MARCH_0000: i64 = 719_468;
    let shifted = days + DAYS_FROM_MARCH_0000;
    let (era, day_of_era) = (shifted.div_euclid(DAYS_PER_ERA), shifted.rem_euclid(DAYS_PER_ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}
