//! One entry of `postgres_changes` in a join: what it asks for, its id, and how the join reply repeats it
//! (docs/protocol.md §3.3, §3.5, §5.1).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::change::ChangeKind;
use crate::filter::{self, Condition, FilterSyntaxError};
use crate::json_text;

/// One entry of `postgres_changes`. The join itself never fails on what an entry says: a wrong one is answered with a
/// `system` message after the join.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The object as the client sent it, but for an `id` of its own.
    pub raw: Arc<str>,
    /// The id under which changes for this binding are pushed.
    pub id: BindingId,
    /// What is asked for, or why that can not be understood; the error's text is the `system` message.
    pub target: Result<BindingTarget, BindingError>,
}

/// The number of a binding in the join reply and in `ids` of later pushes: a hash of its object, 1 to 2^27-1. Equal
/// objects have equal ids, whatever the order of their keys, in every process and version. Never 0, which clients take
/// for missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingId(u32);

/// Which changes a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindingTarget {
    /// The kinds of change.
    pub event: BindingEvent,
    /// The schemas.
    pub schema: NamePattern,
    /// The tables.
    pub table: NamePattern,
    /// Conditions on the row, all of which must hold; none when empty.
    pub filter: Vec<Condition>,
    /// The columns to send beside the primary key, sorted and without repetition; `None` for all.
    pub select: Option<Vec<String>>,
}

/// The kinds of change a binding asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingEvent {
    /// `*`, and whatever is none of the others.
    All,
    /// One kind.
    Only(ChangeKind),
}

/// A schema or table as a binding names it. Names are compared exactly; `_` and `%` are ordinary characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// `*`
    Any,
    /// This name only, case-sensitive.
    Exact(String),
}

/// A binding that can not be understood. The text is the `system` message (docs/protocol.md §3.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The filter does not follow the grammar.
    #[error(transparent)]
    Filter(#[from] FilterSyntaxError),
    /// `select` is not a list.
    #[error(
        "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]"
    )]
    Select,
    /// `select` together with `*`.
    #[error(
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    )]
    SelectOnWildcard,
    /// Neither schema nor table, one of them or the filter is not a string, or a filter without a table.
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}"
    )]
    NoParameters(String),
}

impl Binding {
    /// Reads the text of one JSON object; `None` when it is not an object (or nested beyond all reason).
    pub fn parse(object_text: &str) -> Option<Self> {
        let object: Map<String, Value> = serde_json::from_str(object_text).ok()?;
        let raw = json_text::without_members(object_text, &["id"])?;
        Some(Binding {
            id: BindingId::of(&object),
            target: BindingTarget::of(&object, &raw),
            raw: Arc::from(raw),
        })
    }

    /// The object as the client sent it, plus `id`.
    pub fn echo(&self) -> String {
        json_text::with_members(&self.raw, &[("id", &self.id.to_string())])
    }
}

/// The response of a successful join: every binding in the client's order, verbatim, plus its id
/// (docs/protocol.md §3.3). The key is there also without bindings.
pub fn join_reply(bindings: &[Binding]) -> String {
    let echoes: Vec<String> = bindings.iter().map(Binding::echo).collect();
    format!("{{\"postgres_changes\":[{}]}}", echoes.join(","))
}

impl BindingId {
    const BITS: u32 = 27;

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// An `id` the client sent with the object does not count: it may be the one of an earlier reply.
    fn of(object: &Map<String, Value>) -> Self {
        let mut hash = StableHash::new();
        hash.object(object.iter().filter(|(key, _)| *key != "id"));
        let bits = hash.finish();
        let folded = (bits ^ (bits >> Self::BITS) ^ (bits >> (2 * Self::BITS))) & ((1 << Self::BITS) - 1);
        BindingId(u32::try_from(folded).unwrap_or(1).max(1))
    }
}

impl fmt::Display for BindingId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl BindingTarget {
    fn of(object: &Map<String, Value>, raw: &str) -> Result<Self, BindingError> {
        let no_parameters = || BindingError::NoParameters(description(object, raw));
        let name = |key| match object.get(key) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.as_str())),
            Some(_) => Err(no_parameters()),
        };
        let (schema, table, filter) = (name("schema")?, name("table")?, name("filter")?);
        let (schema, table) = match (schema, table) {
            (None, None) => return Err(no_parameters()),
            (Some(_), None) if filter.is_some() => return Err(no_parameters()),
            (schema, table) => {
                let default_schema = if table.is_some() { "public" } else { "*" };
                (
                    NamePattern::of(schema.unwrap_or(default_schema)),
                    NamePattern::of(table.unwrap_or("*")),
                )
            }
        };
        let filter = filter::parse_filter(filter.unwrap_or(""))?;
        let select = selection(object.get("select"))?;
        if select.is_some() && (schema == NamePattern::Any || table == NamePattern::Any) {
            return Err(BindingError::SelectOnWildcard);
        }
        Ok(BindingTarget {
            event: BindingEvent::of(object.get("event")),
            schema,
            table,
            filter,
            select,
        })
    }
}

/// The columns of `select`: elements that are no strings are dropped, and none left means no selection.
fn selection(select: Option<&Value>) -> Result<Option<Vec<String>>, BindingError> {
    let names = match select {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(BindingError::Select),
    };
    let mut names: Vec<String> = names
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(if names.is_empty() { None } else { Some(names) })
}

/// How an object is shown in an error: shortened, and not at all when it holds a token.
fn description(object: &Map<String, Value>, raw: &str) -> String {
    const BYTES_MAX: usize = 500;
    if object.contains_key("user_token") || object.contains_key("auth_token") {
        return "<redacted>".to_owned();
    }
    json_text::shortened(raw, BYTES_MAX)
}

/// The parameters as the messages of docs/protocol.md §3.5 show them:
/// `[event: INSERT, schema: public, table: t, filters: [], select: nil]`.
impl fmt::Display for BindingTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "[event: {}, schema: {}, table: {}, filters: [",
            self.event, self.schema, self.table
        )?;
        for (index, condition) in self.filter.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(out, "{separator}{condition}")?;
        }
        match &self.select {
            None => out.write_str("], select: nil]"),
            Some(names) => write!(out, "], select: {}]", filter::dump_list(names)),
        }
    }
}

impl BindingEvent {
    fn of(event: Option<&Value>) -> Self {
        let name = event.and_then(Value::as_str).unwrap_or("*");
        let kinds = [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete];
        let kind = kinds
            .into_iter()
            .find(|kind| name.eq_ignore_ascii_case(kind.as_str()));
        kind.map_or(BindingEvent::All, BindingEvent::Only)
    }

    /// Whether a change of this kind is asked for.
    pub fn includes(self, kind: ChangeKind) -> bool {
        match self {
            BindingEvent::All => true,
            BindingEvent::Only(only) => only == kind,
        }
    }
}

impl fmt::Display for BindingEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            BindingEvent::All => "*",
            BindingEvent::Only(kind) => kind.as_str(),
        })
    }
}

impl NamePattern {
    fn of(name: &str) -> Self {
        if name == "*" {
            NamePattern::Any
        } else {
            NamePattern::Exact(name.to_owned())
        }
    }

    /// Whether this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Any => true,
            NamePattern::Exact(exact) => exact == name,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            NamePattern::Any => "*",
            NamePattern::Exact(name) => name,
        })
    }
}

/// FNV-1a over a JSON value, the keys of objects in sorted order. Written here because clients see the result: it must
/// not change with a dependency, a seed, or serde_json's choice of map.
struct StableHash(u64);

impl StableHash {
    fn new() -> Self {
        StableHash(0xCBF2_9CE4_8422_2325)
    }

    fn object<'a>(&mut self, entries: impl Iterator<Item = (&'a String, &'a Value)>) {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(key, _)| *key);
        self.bytes(b"{");
        for (key, value) in entries {
            self.text(key);
            self.value(value);
        }
        self.bytes(b"}");
    }

    /// The depth is bounded by the JSON parser that made the value.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(true) => self.bytes(b"t"),
            Value::Bool(false) => self.bytes(b"f"),
            Value::Number(number) => {
                self.bytes(b"0");
                self.text(&number.to_string());
            }
            Value::String(text) => {
                self.bytes(b"\"");
                self.text(text);
            }
            Value::Array(elements) => {
                self.bytes(b"[");
                elements.iter().for_each(|element| self.value(element));
                self.bytes(b"]");
            }
            Value::Object(object) => self.object(object.iter()),
        }
    }

    /// With its length in front, so that no two lists of texts look the same.
    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        mixed ^ (mixed >> 33)
    }
}
