//! The operations that are strict: with a NULL operand the result is NULL, and evaluation never gets here.
//!
//! Each has the meaning of PostgreSQL's function for exactly the types it was resolved for
//! (see [`crate::resolve`]); what a value makes uncertain is left to PostgreSQL as [`Stop::Ask`].

mod arithmetic;
mod document;
mod list;
mod moment;
mod number;
mod text;

use std::borrow::Cow;
use std::cmp::Ordering;

use smallvec::SmallVec;

pub(crate) use self::document::Document;
pub(crate) use self::list::List;
pub(crate) use self::moment::Moment;
pub(crate) use self::number::Number;
pub(crate) use self::text::{Text, without_blanks};

use self::arithmetic::{absolute, arithmetic, negate};
use self::text::{left, like, right, split_part, substring};
use crate::array::Array;
use crate::cast::Cast;
use crate::json::Json;
use crate::pattern;
use crate::value::{Kind, Value};

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    /// PostgreSQL raises this error.
    Failed(String),
    /// Only PostgreSQL knows.
    Ask,
    /// The row image lacks this column.
    Missing(usize),
}

/// Operands, none of them NULL.
pub(crate) type Operands<'a> = SmallVec<[Value<'a>; 3]>;

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An arithmetic operator with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A strict operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Compare(Comparison),
    /// On numbers of the kind of the result.
    Arithmetic(Arithmetic, Kind),
    Negate(Kind),
    Absolute(Kind),
    Number(Number),
    Moment(Moment),
    Text(Text),
    List(List),
    Document(Document),
    Concatenate,
    Lower,
    Upper,
    Length,
    /// `left(text, integer)`.
    Left,
    /// `right(text, integer)`.
    Right,
    /// `split_part(text, text, integer)`.
    SplitPart,
    /// `starts_with(text, text)`.
    StartsWith,
    /// `strpos(text, text)`.
    Position,
    /// `replace(text, text, text)`.
    Replace,
    /// `substr(text, integer [, integer])`.
    Substring,
    Like {
        insensitive: bool,
    },
    /// `~` or `~*` with a pattern known beforehand.
    Matches(pattern::Expression),
    /// `->` or `->>` with a key.
    JsonField {
        as_text: bool,
    },
    /// `->` or `->>` with a position.
    JsonElement {
        as_text: bool,
    },
    /// `#>` or `#>>`.
    JsonPath {
        as_text: bool,
    },
    JsonContains,
    /// `?`
    JsonHas,
    /// `?|`
    JsonHasAny,
    /// `?&`
    JsonHasAll,
    JsonTypeof,
    JsonArrayLength,
    /// All elements of `jsonb_array_elements_text`, as an array.
    JsonElementTexts,
    ArrayContains,
    ArrayOverlaps,
    /// `array_length(array, integer)`.
    ArrayLength,
    Cardinality,
    Cast(Cast),
}

impl Comparison {
    pub(crate) fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }

    /// Whether only equality matters, not order.
    pub(crate) fn is_equality(self) -> bool {
        matches!(self, Comparison::Equal | Comparison::NotEqual)
    }
}

impl Operation {
    /// Whether some operands leave the answer to PostgreSQL.
    pub(crate) fn may_ask(&self) -> bool {
        match self {
            Operation::Arithmetic(_, kind) => *kind == Kind::Numeric,
            Operation::Lower | Operation::Upper | Operation::Like { insensitive: true } => true,
            Operation::Number(number) => number.may_ask(),
            Operation::Moment(moment) => moment.may_ask(),
            Operation::Text(text) => text.may_ask(),
            Operation::List(list) => list.may_ask(),
            Operation::Document(document) => document.may_ask(),
            Operation::Matches(expression) => !expression.is_total(),
            Operation::Cast(cast) => cast.may_ask(),
            _ => false,
        }
    }

    /// Whether some operands raise.
    pub(crate) fn may_fail(&self) -> bool {
        match self {
            Operation::Arithmetic(..)
            | Operation::Negate(_)
            | Operation::Absolute(_)
            | Operation::SplitPart
            | Operation::Substring
            | Operation::Like { .. }
            | Operation::JsonArrayLength
            | Operation::JsonElementTexts => true,
            Operation::Number(number) => number.may_fail(),
            Operation::Moment(moment) => moment.may_fail(),
            Operation::Text(text) => text.may_fail(),
            Operation::List(list) => list.may_fail(),
            Operation::Document(document) => document.may_fail(),
            Operation::Cast(cast) => cast.may_fail(),
            _ => false,
        }
    }

    /// Whether PostgreSQL's function is only stable, so that its planner does not compute it beforehand.
    pub(crate) fn is_stable(&self) -> bool {
        match self {
            Operation::Moment(moment) => moment.is_stable(),
            Operation::List(list) => list.is_stable(),
            Operation::Document(document) => document.is_stable(),
            Operation::Cast(cast) => cast.is_stable(),
            _ => false,
        }
    }

    /// Applies it. `Ok(None)` is NULL.
    pub(crate) fn apply<'a>(&self, operands: Operands<'a>) -> Result<Option<Value<'a>>, Stop> {
        match self {
            Operation::Number(number) => return number.apply(&operands).map(Some),
            Operation::Moment(moment) => return moment.apply(&operands),
            Operation::Text(text) => return text.apply(operands).map(Some),
            Operation::List(list) => return list.apply(operands),
            Operation::Document(document) => return document.apply(operands),
            _ => {}
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or(Stop::Ask)?;
        match self {
            Operation::Negate(kind) => return negate(kind, first).map(Some),
            Operation::Absolute(kind) => return absolute(kind, first).map(Some),
            Operation::Cast(cast) => return cast.apply(first),
            Operation::Lower | Operation::Upper | Operation::Length => {
                return self.on_text(&text(first)?).map(Some);
            }
            Operation::Matches(expression) => {
                return expression
                    .matches(&text(first)?)
                    .map(|found| Some(Value::Bool(found)))
                    .ok_or(Stop::Ask);
            }
            Operation::JsonTypeof | Operation::JsonArrayLength | Operation::JsonElementTexts => {
                return self.on_json(json(first)?.as_ref()).map(Some);
            }
            Operation::Cardinality => {
                return Ok(Some(length(array(first)?.elements.len())));
            }
            _ => {}
        }
        let second = operands.next().ok_or(Stop::Ask)?;
        match self {
            Operation::Compare(comparison) => compare(*comparison, &first, &second).map(Some),
            Operation::Arithmetic(operator, kind) => arithmetic(*operator, kind, first, second).map(Some),
            Operation::JsonField { .. } | Operation::JsonElement { .. } | Operation::JsonPath { .. } => {
                self.json_access(json(first)?, &second)
            }
            Operation::JsonContains => Ok(Some(Value::Bool(json(first)?.contains(json(second)?.as_ref())))),
            Operation::JsonHas => Ok(Some(Value::Bool(json(first)?.has(&text(second)?)))),
            Operation::JsonHasAny => {
                Ok(Some(json_has(json(first)?.as_ref(), array(second)?.as_ref(), false)))
            }
            Operation::JsonHasAll => Ok(Some(json_has(json(first)?.as_ref(), array(second)?.as_ref(), true))),
            Operation::ArrayContains => answer(array(first)?.contains(array(second)?.as_ref())),
            Operation::ArrayOverlaps => answer(array(first)?.overlaps(array(second)?.as_ref())),
            Operation::ArrayLength => {
                let dimension = usize::try_from(integer(&second)?.wrapping_sub(1)).unwrap_or(usize::MAX);
                let array = array(first)?;
                Ok(array.dimensions.get(dimension).map(|(_, length)| Value::Int(i64::from(*length))))
            }
            _ => self.on_texts(&text(first)?, second, operands.next()).map(Some),
        }
    }

    fn on_text(&self, text: &str) -> Result<Value<'static>, Stop> {
        let owned = |text: Option<String>| text.map(|text| Value::Text(Cow::Owned(text))).ok_or(Stop::Ask);
        match self {
            Operation::Lower => owned(pattern::lower(text)),
            Operation::Upper => owned(pattern::upper(text)),
            _ => Ok(length(text.chars().count())),
        }
    }

    fn on_texts<'a>(
        &self,
        first: &str,
        second: Value<'a>,
        third: Option<Value<'a>>,
    ) -> Result<Value<'a>, Stop> {
        let third = || third.ok_or(Stop::Ask);
        let owned = |text: String| Value::Text(Cow::Owned(text));
        Ok(match self {
            Operation::Left => owned(left(first, integer(&second)?)),
            Operation::Right => owned(right(first, integer(&second)?)),
            Operation::Substring => {
                let count = match third() {
                    Ok(count) => Some(integer(&count)?),
                    Err(_) => None,
                };
                owned(substring(first, integer(&second)?, count)?)
            }
            Operation::Concatenate => owned(format!("{first}{}", text(second)?)),
            Operation::SplitPart => owned(split_part(first, &text(second)?, integer(&third()?)?)?),
            Operation::Replace => {
                let from = text(second)?;
                let to = text(third()?)?;
                owned(if from.is_empty() { first.to_owned() } else { first.replace(&*from, &to) })
            }
            Operation::StartsWith => Value::Bool(first.starts_with(&*text(second)?)),
            Operation::Position => {
                let found = first.find(&*text(second)?);
                length(found.map_or(0, |at| first[..at].chars().count() + 1))
            }
            Operation::Like { insensitive } => Value::Bool(like(first, &text(second)?, *insensitive)?),
            _ => return Err(Stop::Ask),
        })
    }

    fn on_json(&self, json: &Json) -> Result<Value<'static>, Stop> {
        if *self == Operation::JsonTypeof {
            return Ok(Value::Text(Cow::Borrowed(json.type_name())));
        }
        let counting = *self == Operation::JsonArrayLength;
        let Json::Array(elements) = json else {
            let what = if matches!(json, Json::Object(_)) { "a non-array" } else { "a scalar" };
            let purpose = if counting { "get array length of" } else { "extract elements from" };
            return Err(Stop::Failed(format!("cannot {purpose} {what}")));
        };
        if counting {
            return Ok(length(elements.len()));
        }
        let texts = elements
            .iter()
            .map(|element| element.to_sql_text().map(|text| Value::Text(Cow::Owned(text))))
            .collect();
        Ok(Value::Array(Cow::Owned(Array::of(texts))))
    }

    fn json_access<'a>(&self, json: Cow<'a, Json>, key: &Value<'a>) -> Result<Option<Value<'a>>, Stop> {
        let (found, as_text) = match self {
            Operation::JsonField { as_text } => {
                let Value::Text(key) = key else { return Err(Stop::Ask) };
                (project(json, |json| json.field(key)), *as_text)
            }
            Operation::JsonElement { as_text } => {
                let position = integer(key)?;
                (project(json, |json| json.element(position)), *as_text)
            }
            Operation::JsonPath { as_text } => (json_path(json, key)?, *as_text),
            _ => return Err(Stop::Ask),
        };
        Ok(match found {
            None => None,
            Some(found) if as_text => found.to_sql_text().map(|text| Value::Text(Cow::Owned(text))),
            Some(found) => Some(Value::Json(found)),
        })
    }
}

// Resolution makes sure that operands have the right type: the `Ask`s below are never reached by a
// resolved expression, and asking is the one answer that can not be wrong.

fn text(value: Value<'_>) -> Result<Cow<'_, str>, Stop> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(Stop::Ask),
    }
}

fn json(value: Value<'_>) -> Result<Cow<'_, Json>, Stop> {
    match value {
        Value::Json(json) => Ok(json),
        _ => Err(Stop::Ask),
    }
}

fn array(value: Value<'_>) -> Result<Cow<'_, Array>, Stop> {
    match value {
        Value::Array(array) => Ok(array),
        _ => Err(Stop::Ask),
    }
}

fn integer(value: &Value<'_>) -> Result<i64, Stop> {
    match value {
        Value::Int(value) => Ok(*value),
        _ => Err(Stop::Ask),
    }
}

fn length(length: usize) -> Value<'static> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn answer(answer: Option<bool>) -> Result<Option<Value<'static>>, Stop> {
    answer.map(|answer| Some(Value::Bool(answer))).ok_or(Stop::Ask)
}

fn compare<'a>(comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> Result<Value<'a>, Stop> {
    let holds = if comparison.is_equality() {
        left.equals(right).map(|equal| equal == (comparison == Comparison::Equal))
    } else {
        left.compare(right).map(|ordering| comparison.holds(ordering))
    };
    holds.map(Value::Bool).ok_or(Stop::Ask)
}

fn project(json: Cow<'_, Json>, access: impl Fn(&Json) -> Option<&Json>) -> Option<Cow<'_, Json>> {
    match json {
        Cow::Borrowed(json) => access(json).map(Cow::Borrowed),
        Cow::Owned(json) => access(&json).cloned().map(Cow::Owned),
    }
}

fn json_path<'a>(json: Cow<'a, Json>, path: &Value<'_>) -> Result<Option<Cow<'a, Json>>, Stop> {
    let Value::Array(path) = path else { return Err(Stop::Ask) };
    let mut found = json;
    for step in &path.elements {
        let Some(Value::Text(step)) = step else { return Ok(None) };
        match project(found, |json| json.step(step)) {
            Some(next) => found = next,
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

fn json_has(json: &Json, keys: &Array, all: bool) -> Value<'static> {
    // NULL keys are passed over.
    let mut keys = keys.elements.iter().flatten().map(|key| match key {
        Value::Text(key) => json.has(key),
        _ => false,
    });
    Value::Bool(if all { keys.all(|has| has) } else { keys.any(|has| has) })
}
