//! Operations that make or change `jsonb`, and access to `json`, which is kept as it was written
//! (PostgreSQL docs, "JSON Functions and Operators").

use std::borrow::Cow;

use crate::cast;
use crate::datetime;
use crate::json::{Json, raw};
use crate::numeric::Unreadable;
use crate::operation::{Operands, Stop, array, integer, json, text};
use crate::value::{Kind, Value};

/// A strict operation on documents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Document {
    /// `jsonb || jsonb`.
    Concatenate,
    /// `jsonb - text`.
    RemoveKey,
    /// `jsonb - integer`.
    RemoveElement,
    /// `to_jsonb` of a value of this kind.
    From(Kind),
    /// `jsonb_build_object` of values, NULLs being JSON's, under these keys.
    Object(Vec<String>),
    /// `jsonb_build_array` likewise.
    Array,
    /// `json -> key`, or `->>`.
    RawField { as_text: bool },
    /// `json -> position`, or `->>`.
    RawElement { as_text: bool },
    /// `json #> path`, or `#>>`.
    RawPath { as_text: bool },
}

impl Document {
    pub(super) fn may_ask(&self) -> bool {
        self.is_access() || *self == Document::Concatenate
    }

    pub(super) fn may_fail(&self) -> bool {
        self.is_access()
            || matches!(self, Document::Concatenate | Document::RemoveKey | Document::RemoveElement)
    }

    /// Whether PostgreSQL calls it stable, for the output functions that it uses.
    pub(super) fn is_stable(&self) -> bool {
        matches!(self, Document::From(_) | Document::Object(_) | Document::Array)
    }

    fn is_access(&self) -> bool {
        use Document::{RawElement, RawField, RawPath};
        matches!(self, RawField { .. } | RawElement { .. } | RawPath { .. })
    }

    pub(super) fn apply<'a>(&self, operands: Operands<'a>) -> Result<Option<Value<'a>>, Stop> {
        let made = |json: Json| Ok(Some(Value::Json(Cow::Owned(json))));
        match self {
            Document::Object(keys) => {
                let values: Result<Vec<Json>, Stop> = operands.into_iter().map(owned).collect();
                return made(Json::object(keys.iter().cloned().zip(values?).collect()));
            }
            Document::Array => {
                let values: Result<Vec<Json>, Stop> = operands.into_iter().map(owned).collect();
                return made(Json::Array(values?));
            }
            _ => {}
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or(Stop::Ask)?;
        if let Document::From(kind) = self {
            return made(from(kind, first)?);
        }
        let second = operands.next().ok_or(Stop::Ask)?;
        match self {
            Document::Concatenate => made(concatenate(owned(first)?, owned(second)?)?),
            Document::RemoveKey => made(remove_key(owned(first)?, &text(second)?)?),
            Document::RemoveElement => made(remove_element(owned(first)?, integer(&second)?)?),
            Document::RawField { as_text } => {
                let key = text(second)?;
                access(&text(first)?, *as_text, |json| raw::field(json, &key))
            }
            Document::RawElement { as_text } => {
                let position = integer(&second)?;
                access(&text(first)?, *as_text, |json| raw::element(json, position))
            }
            Document::RawPath { as_text } => {
                let path = array(second)?;
                let mut steps = Vec::with_capacity(path.elements.len());
                for step in &path.elements {
                    let Some(step) = step else { return Ok(None) };
                    steps.push(text(step.borrow())?);
                }
                access(&text(first)?, *as_text, |json| raw::path(json, &steps))
            }
            _ => Err(Stop::Ask),
        }
    }
}

fn owned(value: Value<'_>) -> Result<Json, Stop> {
    json(value).map(Cow::into_owned)
}

/// `json` may hold what `jsonb` and we do not read.
fn access<'a>(
    document: &str,
    as_text: bool,
    find: impl FnOnce(&str) -> Result<Option<&str>, Unreadable>,
) -> Result<Option<Value<'a>>, Stop> {
    // PostgreSQL reads the whole of it, and refuses some escapes then.
    if document.contains("\\u") && Json::read(document).is_err() {
        return Err(Stop::Ask);
    }
    let found = find(document).map_err(|_| Stop::Ask)?;
    let Some(found) = found else { return Ok(None) };
    let found =
        if as_text { raw::to_sql_text(found).map_err(|_| Stop::Ask)? } else { Some(found.to_owned()) };
    Ok(found.map(|text| Value::Text(Cow::Owned(text))))
}

fn from(kind: &Kind, value: Value<'_>) -> Result<Json, Stop> {
    let zoned = *kind == Kind::TimestampTz;
    Ok(match (kind, value) {
        (_, Value::Json(json)) => json.into_owned(),
        (_, Value::Bool(value)) => Json::Bool(value),
        (_, Value::Int(value)) => Json::Number(value.into()),
        (_, Value::Numeric(value)) if value.is_finite() => Json::Number(value),
        (_, Value::Numeric(value)) => Json::String(value.to_text()),
        (_, Value::Text(text)) => Json::String(text.into_owned()),
        (_, Value::Uuid(value)) => Json::String(cast::uuid_text(value)),
        (_, Value::Date(date)) => Json::String(datetime::date_text(date)),
        (_, Value::Timestamp(moment)) => Json::String(datetime::iso_timestamp_text(moment, zoned)),
        (Kind::Enum(labels), Value::Label(at)) => {
            Json::String(labels.texts.get(at).cloned().ok_or(Stop::Ask)?)
        }
        _ => return Err(Stop::Ask),
    })
}

fn concatenate(left: Json, right: Json) -> Result<Json, Stop> {
    let elements = |json: Json| match json {
        Json::Array(elements) => elements,
        scalar => vec![scalar],
    };
    Ok(match (left, right) {
        (Json::Object(mut left), Json::Object(right)) => {
            left.extend(right);
            Json::object(left)
        }
        // Objects next to something else: versions differ.
        (Json::Object(_), _) | (_, Json::Object(_)) => return Err(Stop::Ask),
        (left, right) => {
            let mut all = elements(left);
            all.extend(elements(right));
            Json::Array(all)
        }
    })
}

fn failed<T>(message: &str) -> Result<T, Stop> {
    Err(Stop::Failed(message.to_owned()))
}

fn remove_key(json: Json, key: &str) -> Result<Json, Stop> {
    Ok(match json {
        Json::Object(fields) => Json::Object(fields.into_iter().filter(|(name, _)| name != key).collect()),
        Json::Array(elements) => {
            let is_key = |json: &Json| matches!(json, Json::String(string) if string == key);
            Json::Array(elements.into_iter().filter(|element| !is_key(element)).collect())
        }
        _ => return failed("cannot delete from scalar"),
    })
}

fn remove_element(json: Json, position: i64) -> Result<Json, Stop> {
    match json {
        Json::Array(mut elements) => {
            let length = i64::try_from(elements.len()).map_err(|_| Stop::Ask)?;
            let position = if position < 0 { position + length } else { position };
            if let Ok(at) = usize::try_from(position)
                && at < elements.len()
            {
                elements.remove(at);
            }
            Ok(Json::Array(elements))
        }
        Json::Object(_) => failed("cannot delete from object using integer index"),
        _ => failed("cannot delete from scalar"),
    }
}
