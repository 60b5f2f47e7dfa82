//! How the values of a copied row lie in memory: small, and such that equal values have equal bytes wherever
//! an index is made of them.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::value::{Kind, Value};

/// The bytes of one value.
pub(crate) type CellBytes = SmallVec<[u8; 24]>;

/// How many bytes a value takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Fixed(usize),
    /// The length goes before the bytes, seven bits in each of its own.
    Varying,
}

/// The type of a column as its cells are written: integers, UUIDs and booleans in binary, anything else as the
/// text that PostgreSQL prints.
#[derive(Clone, Debug)]
pub(crate) struct CellType {
    pub(crate) kind: Kind,
}

impl CellType {
    fn width(&self) -> Width {
        match self.kind {
            Kind::Bool => Width::Fixed(1),
            Kind::Int2 => Width::Fixed(2),
            Kind::Int4 => Width::Fixed(4),
            Kind::Int8 => Width::Fixed(8),
            Kind::Uuid => Width::Fixed(16),
            _ => Width::Varying,
        }
    }

    /// Whether equal values always have equal bytes: then an index finds them.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self.kind, Kind::Text | Kind::Name | Kind::Enum(_)) || self.width() != Width::Varying
    }

    /// The bytes of a value that PostgreSQL printed; `None` for what it does not print for this type.
    pub(super) fn of_text(&self, text: &str) -> Option<CellBytes> {
        if self.width() == Width::Varying {
            return Some(CellBytes::from_slice(text.as_bytes()));
        }
        self.of_value(&self.kind.read(text).ok()?)
    }

    /// The bytes of a value, for comparing it with cells of this type. `None`: no cell has this value.
    pub(crate) fn of_value(&self, value: &Value<'_>) -> Option<CellBytes> {
        Some(match (&self.kind, value) {
            (Kind::Bool, Value::Bool(value)) => CellBytes::from_slice(&[u8::from(*value)]),
            (Kind::Int2, Value::Int(value)) => {
                CellBytes::from_slice(&i16::try_from(*value).ok()?.to_le_bytes())
            }
            (Kind::Int4, Value::Int(value)) => {
                CellBytes::from_slice(&i32::try_from(*value).ok()?.to_le_bytes())
            }
            (Kind::Int8, Value::Int(value)) => CellBytes::from_slice(&value.to_le_bytes()),
            (Kind::Uuid, Value::Uuid(value)) => CellBytes::from_slice(&value.to_be_bytes()),
            (Kind::Text | Kind::Name, Value::Text(text)) => CellBytes::from_slice(text.as_bytes()),
            (Kind::Enum(labels), Value::Label(place)) => {
                CellBytes::from_slice(labels.texts.get(*place)?.as_bytes())
            }
            _ => return None,
        })
    }

    /// The value that these bytes are; `None` where they can not be read.
    pub(super) fn value<'a>(&self, bytes: &'a [u8]) -> Option<Value<'a>> {
        match self.kind {
            Kind::Bool => Some(Value::Bool(bytes.first()? != &0)),
            Kind::Int2 => Some(Value::Int(i16::from_le_bytes(bytes.try_into().ok()?).into())),
            Kind::Int4 => Some(Value::Int(i32::from_le_bytes(bytes.try_into().ok()?).into())),
            Kind::Int8 => Some(Value::Int(i64::from_le_bytes(bytes.try_into().ok()?))),
            Kind::Uuid => Some(Value::Uuid(u128::from_be_bytes(bytes.try_into().ok()?))),
            Kind::Text | Kind::Name => Some(Value::Text(Cow::Borrowed(std::str::from_utf8(bytes).ok()?))),
            _ => self.kind.read(std::str::from_utf8(bytes).ok()?).ok(),
        }
    }
}

/// Writes a row: a bit for each column that says whether it is NULL, then the cells that are not.
pub(super) fn write_row(types: &[CellType], cells: &[Option<CellBytes>], out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + types.len().div_ceil(8), 0);
    for (column, cell) in cells.iter().enumerate() {
        if cell.is_none() {
            out[begin + column / 8] |= 1 << (column % 8);
        }
    }
    for (of_type, cell) in types.iter().zip(cells) {
        let Some(cell) = cell else { continue };
        if of_type.width() == Width::Varying {
            write_length(cell.len(), out);
        }
        out.extend_from_slice(cell);
    }
}

/// A row as [`write_row`] wrote it; more bytes may follow.
#[derive(Clone, Copy)]
pub(super) struct RowBytes<'a> {
    pub(super) types: &'a [CellType],
    pub(super) bytes: &'a [u8],
}

impl<'a> RowBytes<'a> {
    /// The bytes of one cell; `None` is NULL.
    pub(super) fn cell(self, column: usize) -> Option<&'a [u8]> {
        if self.is_null(column) {
            return None;
        }
        let mut at = self.types.len().div_ceil(8);
        for before in 0..column {
            at = self.skip(before, at);
        }
        let (begin, end) = self.extent(column, at);
        Some(&self.bytes[begin..end])
    }

    /// How many bytes the row takes.
    pub(super) fn len(self) -> usize {
        (0..self.types.len()).fold(self.types.len().div_ceil(8), |at, column| self.skip(column, at))
    }

    fn is_null(self, column: usize) -> bool {
        self.bytes[column / 8] >> (column % 8) & 1 == 1
    }

    fn skip(self, column: usize, at: usize) -> usize {
        if self.is_null(column) { at } else { self.extent(column, at).1 }
    }

    /// Where the bytes of a cell begin and end that is not NULL and stands at `at`.
    fn extent(self, column: usize, at: usize) -> (usize, usize) {
        match self.types[column].width() {
            Width::Fixed(width) => (at, at + width),
            Width::Varying => {
                let (length, begin) = read_length(self.bytes, at);
                (begin, begin + length)
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn write_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn read_length(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = bytes[at];
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (length, at);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let types: Vec<CellType> =
            ["int4", "text", "uuid", "bool", "text", "numeric", "int2", "int8", "name"]
                .into_iter()
                .map(|name| CellType { kind: Kind::of_base_name(name).unwrap() })
                .collect();
        let long = "x".repeat(20_000);
        let uuid = "0d8b1f4e-0000-4000-8000-00000000000a";
        let texts = [
            Some("-7"),
            None,
            Some(uuid),
            Some("t"),
            Some(long.as_str()),
            Some("1.50"),
            None,
            Some("9"),
            Some(""),
        ];
        let cells: Vec<_> = types
            .iter()
            .zip(texts)
            .map(|(of_type, text)| text.and_then(|text| of_type.of_text(text)))
            .collect();
        let mut bytes = Vec::new();
        write_row(&types, &cells, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"what follows");
        let row = RowBytes { types: &types, bytes: &bytes };
        assert_eq!(row.len(), length);
        for (column, (of_type, text)) in types.iter().zip(texts).enumerate() {
            let value = row.cell(column).map(|cell| of_type.value(cell).unwrap());
            assert_eq!(value, text.map(|text| of_type.kind.read(text).unwrap()), "column {column}");
        }
    }
}
