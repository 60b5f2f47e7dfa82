//! Keys that a row must have to be visible or to match: what audiences are found by.
//!
//! Only types whose text says all there is of a value take part: then equal values have equal texts in
//! the log, and a hash table does what a comparison would.

use std::sync::Arc;

use crate::cast::{Cast, uuid_text};
use crate::constants::Values;
use crate::expression::Expression;
use crate::finder::Finder;
use crate::look_up::{Form, LookUp};
use crate::operation::{Comparison, Operation};
use crate::value::{Kind, Value};

/// What a row must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A value in a column.
    Column {
        /// Index into [`crate::schema::Table::columns`].
        column: usize,
        /// The value as PostgreSQL prints it.
        value: Box<str>,
    },
    /// A value among those that a look-up finds for the row.
    Member {
        /// Finds them.
        finder: Arc<Finder>,
        /// The value as the finder has it.
        value: Box<[u8]>,
    },
}

impl Key {
    /// How much work it is to find audiences by these keys: the fewer the better, and columns before look-ups.
    pub fn cost(keys: &[Key]) -> usize {
        keys.iter().map(|key| if matches!(key, Key::Column { .. }) { 1 } else { 4 }).sum()
    }
}

/// Keys one of which the row has wherever all of `conjuncts` are true; `None` where none are known. An
/// empty list: they are never all true.
pub(crate) fn of_all<'a>(
    conjuncts: impl IntoIterator<Item = &'a Expression>,
    constants: &Values,
) -> Option<Vec<Key>> {
    conjuncts.into_iter().filter_map(|one| of(one, constants)).min_by_key(|keys| Key::cost(keys))
}

/// Keys one of which the row has wherever one of `disjuncts` is true.
pub(crate) fn of_any<'a>(
    disjuncts: impl IntoIterator<Item = &'a Expression>,
    constants: &Values,
) -> Option<Vec<Key>> {
    let mut all: Vec<Key> = Vec::new();
    for disjunct in disjuncts {
        for key in of(disjunct, constants)? {
            if !all.contains(&key) {
                all.push(key);
            }
        }
    }
    Some(all)
}

fn of(expression: &Expression, constants: &Values) -> Option<Vec<Key>> {
    match expression {
        Expression::And(operands) => of_all(operands, constants),
        Expression::Or(operands) => of_any(operands, constants),
        Expression::IsTruth { operand, truth: true } | Expression::Apart(operand) => of(operand, constants),
        Expression::Body { arguments, body } => {
            // Where an argument raises, PostgreSQL is asked whatever the body says.
            let sound =
                |one: &Expression| matches!(one, Expression::Constant(slot) if constants.get(*slot).is_ok());
            if arguments.iter().all(sound) { of(body, constants) } else { None }
        }
        Expression::Literal(_) | Expression::Constant(_) => match known(expression, constants)? {
            Known::Null | Known::Value(Value::Bool(false)) => Some(Vec::new()),
            Known::Value(_) => None,
        },
        Expression::Call(Operation::Compare(Comparison::Equal), operands) => match operands.as_slice() {
            [Expression::LookUp(look_up), _] | [_, Expression::LookUp(look_up)]
                if matches!(look_up.form, Form::Scalar { .. }) =>
            {
                member(look_up, constants)
            }
            [left, right] => equality(left, right, constants).or_else(|| equality(right, left, constants)),
            _ => None,
        },
        Expression::Quantified {
            all: false,
            operation: Operation::Compare(Comparison::Equal),
            operand,
            array,
        } => of_elements(operand, array, constants),
        Expression::LookUp(look_up) if !matches!(look_up.form, Form::Scalar { .. }) => {
            member(look_up, constants)
        }
        _ => None,
    }
}

/// Whoever a look-up holds for is among those that its finder finds.
fn member(look_up: &LookUp, constants: &Values) -> Option<Vec<Key>> {
    if matches!(look_up.form, Form::Quantified { all: true, .. }) {
        return None;
    }
    let (finder, value) = look_up.finder.as_ref()?;
    match known(value, constants)? {
        Known::Null => Some(Vec::new()),
        Known::Value(value) => {
            let value = finder.bytes_of(&value);
            Some(value.into_iter().map(|value| Key::Member { finder: Arc::clone(finder), value }).collect())
        }
    }
}

/// `column = value`. A comparison with NULL is never true.
fn equality(column: &Expression, value: &Expression, constants: &Values) -> Option<Vec<Key>> {
    let (column, kind) = compared_column(column)?;
    match known(value, constants)? {
        Known::Null => Some(Vec::new()),
        Known::Value(value) => Some(vec![Key::Column { column, value: text(&kind, &value)? }]),
    }
}

/// `column = ANY (array)`.
fn of_elements(column: &Expression, array: &Expression, constants: &Values) -> Option<Vec<Key>> {
    let (column, kind) = compared_column(column)?;
    let mut all = Vec::new();
    let mut add = |value: &Value<'_>| {
        let key = Key::Column { column, value: text(&kind, value)? };
        if !all.contains(&key) {
            all.push(key);
        }
        Some(())
    };
    if let Expression::ArrayOf(elements) = array {
        for element in elements {
            if let Known::Value(value) = known(element, constants)? {
                add(&value)?;
            }
        }
        return Some(all);
    }
    match known(array, constants)? {
        Known::Null => {}
        Known::Value(Value::Array(array)) => {
            for value in array.elements.iter().flatten() {
                add(value)?;
            }
        }
        Known::Value(_) => return None,
    }
    Some(all)
}

/// The column that is compared, and as what: itself, or its text.
fn compared_column(expression: &Expression) -> Option<(usize, Kind)> {
    match expression {
        Expression::Column { index, kind } => is_exact(kind).then(|| (*index, kind.clone())),
        Expression::Call(
            Operation::Cast(Cast::ToText | Cast::UuidToText | Cast::LabelToText(_)),
            operands,
        ) => match operands.as_slice() {
            // The cast of a boolean is `true`, its text in the log is `t`.
            [Expression::Column { index, kind }] if is_exact(kind) && *kind != Kind::Bool => {
                Some((*index, Kind::Text))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether equal values of the type always have the same text.
fn is_exact(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Bool
            | Kind::Int2
            | Kind::Int4
            | Kind::Int8
            | Kind::Text
            | Kind::Name
            | Kind::Uuid
            | Kind::Enum(_)
    )
}

/// What is known of a literal or constant before there is a row.
enum Known<'a> {
    Null,
    Value(Value<'a>),
}

fn known<'a>(expression: &'a Expression, constants: &'a Values) -> Option<Known<'a>> {
    let value = match expression {
        Expression::Literal(value) => value.as_ref().map(Value::borrow),
        Expression::Constant(slot) => constants.get(*slot).ok()?,
        _ => return None,
    };
    Some(value.map_or(Known::Null, Known::Value))
}

fn text(kind: &Kind, value: &Value<'_>) -> Option<Box<str>> {
    Some(match (kind, value) {
        (Kind::Bool, Value::Bool(value)) => if *value { "t" } else { "f" }.into(),
        (Kind::Int2 | Kind::Int4 | Kind::Int8, Value::Int(value)) => value.to_string().into(),
        (Kind::Text | Kind::Name, Value::Text(value)) => value.as_ref().into(),
        (Kind::Uuid, Value::Uuid(value)) => uuid_text(*value).into(),
        (Kind::Enum(labels), Value::Label(place)) => labels.texts.get(*place)?.as_str().into(),
        _ => return None,
    })
}
