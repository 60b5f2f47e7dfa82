//! One entry of `postgres_changes` in a join: what it asks for, its id, and how the join reply repeats it
//! (docs/protocol.md §3.3, §3.5, §5.1).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::binding_id::BindingId;
use crate::change::ChangeKind;
use crate::filter::{self, Condition, FilterSyntaxError};
use crate::json_text;
use crate::position::{ParsePositionError, Position};

/// One entry of `postgres_changes`. The join itself never fails on what an entry says: a wrong one is answered with a
/// `system` message after the join. Two are equal when the client wrote the same, but for an `id`.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The object as the client sent it, but for an `id` of its own.
    pub raw: Arc<str>,
    /// The id under which changes for this binding are pushed.
    pub id: BindingId,
    /// What is asked for, or why that can not be understood; the error's text is the `system` message.
    pub target: Result<BindingTarget, BindingError>,
}

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
    /// Whether an UPDATE that takes a row out of filter or policies is to be told as its DELETE, and one that brings it
    /// in as its INSERT. Upstream knows no such key.
    pub visibility: bool,
    /// Whether the client wants to know the position from which on it gets every change (docs/protocol.md §5.7).
    pub resume: bool,
    /// The client has got what stands up to here, and wants what it has missed since (docs/protocol.md §5.7).
    pub since: Option<Position>,
    /// The client first wants the rows that it may see now (docs/protocol.md §5.8).
    pub snapshot: bool,
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
    /// A switch of this name is no boolean.
    #[error("Error parsing `{0}` params: expected true or false")]
    Switch(&'static str),
    /// `since` is no position.
    #[error("Error parsing `since` params: {error}, in {binding}")]
    Since {
        /// What is wrong with it.
        error: ParsePositionError,
        /// The object.
        binding: String,
    },
    /// `snapshot` together with something that it does not go with.
    #[error("Error parsing `snapshot` params: {problem}, in {binding}")]
    Snapshot {
        /// What is wrong with it.
        problem: &'static str,
        /// The object.
        binding: String,
    },
    /// Neither schema nor table, one of them or the filter is not a string, or a filter without a table.
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}"
    )]
    NoParameters(String),
}

impl Binding {
    /// Reads the text of one JSON object. It fails on anything else, on nesting deeper than 127 levels, and on numbers
    /// and strings that JSON can spell but not mean (`1e999`, half a surrogate pair).
    pub fn parse(object_text: &str) -> Result<Self, serde_json::Error> {
        let object: Map<String, Value> = serde_json::from_str(object_text)?;
        let raw = json_text::without_members(object_text, &["id"]).unwrap_or_else(|| object_text.to_owned());
        let (id, target) = (BindingId::of(&object), BindingTarget::of(&object, &raw));
        Ok(Binding { raw: Arc::from(raw), id, target })
    }

    /// The object in two parts, for whoever keeps many bindings: the first is the same text for all that differ in the
    /// value of their filter only, the second is that value. [`Binding::of_parts`] puts them together.
    ///
    /// The second has no NUL in it; it is empty where there is nothing to cut off. `since` is in neither: it is a matter of
    /// the join, and nobody else's is the same.
    pub fn into_parts(self) -> (Arc<str>, String) {
        let Binding { raw, target, .. } = self;
        // What can not be understood is repeated verbatim in the error.
        let since = target.as_ref().ok().and_then(|target| target.since);
        let raw = match since.and_then(|_| json_text::without_members(&raw, &["since"])) {
            Some(without) => Arc::from(without),
            None => raw,
        };
        let object = target.ok().and_then(|_| serde_json::from_str::<Map<String, Value>>(&raw).ok());
        let filter = object.as_ref().and_then(|object| object.get("filter")?.as_str());
        match filter.and_then(|filter| filter.split_at_checked(filter.find('.')? + 1)) {
            Some((start, value)) if !value.contains('\0') => {
                let common = json_text::with_members(&raw, &[("filter", &json_text::quoted(start))]);
                (Arc::from(common), value.to_owned())
            }
            _ => (raw, String::new()),
        }
    }

    /// A binding with the id and the target of the one that these are [the parts](Binding::into_parts) of.
    pub fn of_parts(common: &str, value: &str) -> Result<Self, serde_json::Error> {
        if value.is_empty() {
            return Binding::parse(common);
        }
        let object: Map<String, Value> = serde_json::from_str(common)?;
        let start = object.get("filter").and_then(Value::as_str).unwrap_or_default();
        let filter = json_text::quoted(&format!("{start}{value}"));
        Binding::parse(&json_text::with_members(common, &[("filter", &filter)]))
    }

    /// The object as the client sent it, plus `id`.
    pub fn echo(&self) -> String {
        json_text::with_members(&self.raw, &[("id", &self.id.to_string())])
    }
}

// Everything else follows from the text.
impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for Binding {}

impl Hash for Binding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

/// The response of a successful join: every binding in the client's order, verbatim, plus its id
/// (docs/protocol.md §3.3). The key is there also without bindings.
pub fn join_reply(bindings: &[Binding]) -> String {
    let echoes: Vec<String> = bindings.iter().map(Binding::echo).collect();
    format!("{{\"postgres_changes\":[{}]}}", echoes.join(","))
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
                (NamePattern::of(schema.unwrap_or(default_schema)), NamePattern::of(table.unwrap_or("*")))
            }
        };
        let filter = filter::parse_filter(filter.unwrap_or(""))?;
        let select = selection(object.get("select"))?;
        if select.is_some() && (schema == NamePattern::Any || table == NamePattern::Any) {
            return Err(BindingError::SelectOnWildcard);
        }
        let switch = |name| match object.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(wanted)) => Ok(*wanted),
            Some(_) => Err(BindingError::Switch(name)),
        };
        let (visibility, resume) = (switch("visibility")?, switch("resume")?);
        let since = match object.get("since") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some),
            Some(_) => Err(ParsePositionError),
        };
        let since =
            since.map_err(|error| BindingError::Since { error, binding: description(object, raw) })?;
        let event = BindingEvent::of(object.get("event"));
        let snapshot = switch("snapshot")?;
        let problem = if !snapshot {
            None
        } else if since.is_some() {
            Some("a binding has either `since` or `snapshot`")
        } else if !event.includes(ChangeKind::Insert) {
            Some("its rows come as INSERTs, for which the binding does not ask")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(BindingError::Snapshot { problem, binding: description(object, raw) });
        }
        Ok(BindingTarget { event, schema, table, filter, select, visibility, resume, since, snapshot })
    }
}

/// The columns of `select`: elements that are no strings are dropped, and none left means no selection.
fn selection(select: Option<&Value>) -> Result<Option<Vec<String>>, BindingError> {
    let names = match select {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(BindingError::Select),
    };
    let mut names: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
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
        write!(out, "[event: {}, schema: {}, table: {}, filters: [", self.event, self.schema, self.table)?;
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
        let kind = kinds.into_iter().find(|kind| name.eq_ignore_ascii_case(kind.as_str()));
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
        if name == "*" { NamePattern::Any } else { NamePattern::Exact(name.to_owned()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(json: &str) -> Binding {
        Binding::parse(json).unwrap()
    }

    fn target(json: &str) -> BindingTarget {
        binding(json).target.unwrap()
    }

    fn refusal(json: &str) -> String {
        binding(json).target.unwrap_err().to_string()
    }

    #[test]
    fn the_join_reply_repeats_each_binding_verbatim_plus_its_id() {
        let sent = r#"{ "event": "*", "schema":"public","table":"t" }"#;
        let bindings = [binding(sent), binding("{}"), binding(sent)];
        let (id, empty) = (bindings[0].id, bindings[1].id);
        let first = format!(r#"{{ "event": "*", "schema":"public","table":"t" ,"id":{id}}}"#);
        let expected = format!(r#"{{"postgres_changes":[{first},{{"id":{empty}}},{first}]}}"#);
        assert_eq!(join_reply(&bindings), expected);
        assert_eq!(join_reply(&[]), r#"{"postgres_changes":[]}"#);
    }

    #[test]
    fn an_id_the_client_sends_is_replaced_and_does_not_count() {
        let with_id = binding(r#"{"id":"x","schema":"public","filter":null,"id":5}"#);
        let without = binding(r#"{"schema":"public","filter":null}"#);
        assert_eq!(with_id.id, without.id);
        assert_eq!(with_id.echo(), without.echo());
        assert_eq!(with_id.echo().matches("\"id\"").count(), 1);
    }

    #[test]
    fn schema_and_table_have_the_defaults_of_the_protocol() {
        for (json, schema, table) in [
            (r#"{"schema":"s","table":"t"}"#, "s", "t"),
            (r#"{"schema":"s"}"#, "s", "*"),
            (r#"{"table":"t"}"#, "public", "t"),
            (r#"{"schema":"*","table":"*"}"#, "*", "*"),
            (r#"{"schema":"*"}"#, "*", "*"),
        ] {
            let target = target(json);
            assert_eq!(
                (target.schema.to_string(), target.table.to_string()),
                (schema.to_owned(), table.to_owned())
            );
        }
    }

    #[test]
    fn names_are_compared_exactly_and_underscores_are_no_wildcards() {
        let target = target(r#"{"schema":"*","table":"user_data"}"#);
        assert!(target.schema.matches("anything"));
        assert!(target.table.matches("user_data"));
        assert!(!target.table.matches("userXdata") && !target.table.matches("USER_DATA"));
    }

    #[test]
    fn events_are_read_in_any_letter_case_and_anything_else_is_all() {
        for (event, shown) in [
            ("\"insert\"", "INSERT"),
            ("\"Update\"", "UPDATE"),
            ("\"DELETE\"", "DELETE"),
            ("\"*\"", "*"),
            ("\"TRUNCATE\"", "*"),
            ("null", "*"),
            ("7", "*"),
        ] {
            let target = target(&format!(r#"{{"schema":"s","event":{event}}}"#));
            assert_eq!(target.event.to_string(), shown);
        }
        assert!(BindingEvent::All.includes(ChangeKind::Delete));
        assert!(!BindingEvent::Only(ChangeKind::Insert).includes(ChangeKind::Delete));
    }

    #[test]
    fn parameters_that_say_nothing_or_the_wrong_type_are_refused_and_shown() {
        for json in [
            "{}",
            r#"{"event":"*"}"#,
            r#"{"schema":7}"#,
            r#"{"schema":null,"table":"t"}"#,
            r#"{"schema":"s","table":null}"#,
            r#"{"schema":"s","table":"t","filter":null}"#,
            r#"{"schema":"s","table":"t","filter":["id=eq.1"]}"#,
            r#"{"schema":"s","filter":"id=eq.1"}"#,
            r#"{"filter":"id=eq.1"}"#,
        ] {
            let expected = format!(
                "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {json}"
            );
            assert_eq!(refusal(json), expected);
        }
        assert!(refusal(r#"{"user_token":"secret"}"#).ends_with("to subscribe to: <redacted>"));
    }

    #[test]
    fn select_is_a_list_of_names_on_one_table() {
        let select = |json: &str| target(&format!(r#"{{"schema":"s","table":"t","select":{json}}}"#)).select;
        assert_eq!(select(r#"["b",1,"a",null,"b"]"#), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((select("[]"), select("[1]"), select("null")), (None, None, None));
        let expected = "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]";
        for wrong in ["\"a,b\"", "{}", "1", "true"] {
            assert_eq!(refusal(&format!(r#"{{"schema":"s","table":"t","select":{wrong}}}"#)), expected);
        }
        let expected = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
        for json in [r#"{"schema":"s","select":["a"]}"#, r#"{"schema":"*","table":"t","select":["a"]}"#] {
            assert_eq!(refusal(json), expected);
        }
        assert!(binding(r#"{"schema":"*","select":[]}"#).target.is_ok());
    }

    #[test]
    fn since_is_a_position_and_no_part_of_what_bindings_have_alike() {
        let plain = binding(r#"{"schema":"s","table":"t","filter":"a=eq.1"}"#);
        let text = r#"{"schema":"s","since":"0/16B3748:3","table":"t","filter":"a=eq.1"}"#;
        let since = binding(text);
        assert_eq!(since.target.as_ref().unwrap().since.unwrap().to_string(), "0/16B3748:3");
        assert_eq!(since.id, plain.id, "frames are shared with those who have not been away");
        assert_eq!(since.echo(), text.replace("1\"}", &format!("1\",\"id\":{}}}", since.id)));
        assert_eq!(since.into_parts(), plain.into_parts());
        assert_eq!(target(r#"{"schema":"s","since":null}"#).since, None);
        for wrong in ["\"16B3748\"", "7", "\"\"", "{}"] {
            let json = format!(r#"{{"schema":"s","since":{wrong}}}"#);
            let expected = "Error parsing `since` params: expected a position as changes carry it, such as \"0/16B3748:3\", in ";
            assert_eq!(refusal(&json), format!("{expected}{json}"));
        }
    }

    #[test]
    fn resume_is_true_or_false() {
        let resume = |json: &str| target(&format!(r#"{{"schema":"s","resume":{json}}}"#)).resume;
        assert_eq!((resume("true"), resume("false"), resume("null")), (true, false, false));
        let expected = "Error parsing `resume` params: expected true or false";
        assert_eq!(refusal(r#"{"schema":"s","resume":1}"#), expected);
    }

    #[test]
    fn snapshot_goes_with_inserts_and_without_since() {
        let snapshot = |json: &str| target(&format!(r#"{{"schema":"s","snapshot":{json}}}"#)).snapshot;
        assert_eq!((snapshot("true"), snapshot("false"), snapshot("null")), (true, false, false));
        assert!(target(r#"{"schema":"s","snapshot":true,"event":"insert"}"#).snapshot);
        for (json, expected) in [
            (r#"{"schema":"s","snapshot":1}"#, "expected true or false".to_owned()),
            (
                r#"{"schema":"s","snapshot":true,"since":"0/1:0"}"#,
                r#"a binding has either `since` or `snapshot`, in {"schema":"s","snapshot":true,"since":"0/1:0"}"#
                    .to_owned(),
            ),
            (
                r#"{"schema":"s","snapshot":true,"event":"DELETE"}"#,
                r#"its rows come as INSERTs, for which the binding does not ask, in {"schema":"s","snapshot":true,"event":"DELETE"}"#
                    .to_owned(),
            ),
        ] {
            assert_eq!(refusal(json), format!("Error parsing `snapshot` params: {expected}"));
        }
        let (plain, asked) = (binding(r#"{"schema":"s"}"#), binding(r#"{"schema":"s","snapshot":true}"#));
        assert_eq!(plain.id, asked.id, "live changes are shared with those who have asked for none");
    }

    #[test]
    fn visibility_is_true_or_false_and_another_binding() {
        let visibility = |json: &str| target(&format!(r#"{{"schema":"s","visibility":{json}}}"#)).visibility;
        assert_eq!((visibility("true"), visibility("false"), visibility("null")), (true, false, false));
        assert!(!target(r#"{"schema":"s"}"#).visibility);
        for wrong in ["\"true\"", "1", "[]", "{}"] {
            let refusal = refusal(&format!(r#"{{"schema":"s","visibility":{wrong}}}"#));
            assert_eq!(refusal, "Error parsing `visibility` params: expected true or false");
        }
        let (plain, asked) = (binding(r#"{"schema":"s"}"#), binding(r#"{"schema":"s","visibility":true}"#));
        assert_ne!(plain.id, asked.id);
        assert_eq!(asked.echo(), format!(r#"{{"schema":"s","visibility":true,"id":{}}}"#, asked.id));
    }

    #[test]
    fn bindings_that_differ_in_the_value_of_their_filter_have_a_part_in_common_and_come_back_from_both() {
        let room = |room: &str| {
            let filter = json_text::quoted(&format!("room=eq.{room}"));
            binding(&format!(r#"{{"schema":"s", "filter":{filter},"table":"t","event":"INSERT"}}"#))
        };
        assert_eq!(room("1").into_parts().0, room("a \"quoted\" é.").into_parts().0);
        assert_eq!(room("1").into_parts().1, "1");
        for whole in [
            room("1"),
            room(""),
            room("a \"quoted\" é, with a comma"),
            room("with a \0"),
            binding(r#"{"table":"t","filter":"a=not.in.(1,2),b=eq.3","visibility":true,"extra":[1.50]}"#),
            binding(r#"{"table":"t","filter":"a=eq.1","select":["a"],"filter":"b=eq.2"}"#),
            binding(r#"{"table":"t","filter":"","id":7}"#),
            binding(r#"{"table":"t","filter":"wrong"}"#),
            binding(r#"{ "schema":7 , "filter":"a=eq.1"}"#),
            binding("{}"),
        ] {
            let (common, value) = whole.clone().into_parts();
            assert!(!value.contains('\0'));
            let again = Binding::of_parts(&common, &value).unwrap();
            assert_eq!((again.id, again.target), (whole.id, whole.target));
        }
    }

    #[test]
    fn a_wrong_filter_is_the_bindings_error() {
        let message = refusal(r#"{"schema":"s","table":"t","filter":"wrong"}"#);
        assert_eq!(message, "Error parsing `filter` params: [\"wrong\"]");
    }

    #[test]
    fn a_target_is_shown_as_the_error_messages_of_the_protocol_show_it() {
        let shown = target(r#"{"event":"INSERT","schema":"public"}"#).to_string();
        assert_eq!(shown, "[event: INSERT, schema: public, table: *, filters: [], select: nil]");
        let shown =
            target(r#"{"table":"t","filter":"a=eq.1,b=not.in.(x,\"y z\")","select":["b","a"]}"#).to_string();
        let expected = r#"[event: *, schema: public, table: t, filters: [{"a", "eq", "1", false}, {"b", "in", "{x,\"y z\"}", true}], select: ["a", "b"]]"#;
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_object_is_no_binding() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        for json in ["", "7", "[]", "\"a\"", "null", "{} {}", r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, &deep] {
            assert!(Binding::parse(json).is_err(), "{json}");
        }
    }
}
