//! Operations on arrays (PostgreSQL docs, "Array Functions and Operators").
//!
//! Some functions take NULL for what it is: an element to look for, an array that is empty. Their operands that
//! may be NULL come inside arrays of one element, because a strict operation never sees a NULL of its own.

use std::borrow::Cow;

use crate::array::Array;
use crate::operation::{Operands, Stop, array, integer, length, text};
use crate::value::Value;

/// A strict operation on arrays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum List {
    /// `array[integer]`.
    Element,
    /// `array_position(array, element)`; both inside arrays.
    Position,
    /// `array || element`; both inside arrays.
    Append,
    /// `element || array`; both inside arrays.
    Prepend,
    /// `array || array`; both inside arrays.
    Concatenate,
    /// `array_lower(array, integer)`.
    Lower,
    /// `array_upper(array, integer)`.
    Upper,
    /// `array_ndims(array)`.
    Dimensions,
    /// `array_to_string(text[], text)`. It passes over NULLs, as `concat` and `concat_ws` do.
    Join,
    /// `string_to_array(text, text)`.
    Split,
}

impl List {
    pub(super) fn may_ask(&self) -> bool {
        // Arrays of several dimensions.
        matches!(self, List::Append | List::Prepend | List::Concatenate)
    }

    pub(super) fn may_fail(&self) -> bool {
        matches!(self, List::Position) || self.may_ask()
    }

    pub(super) fn is_stable(&self) -> bool {
        *self == List::Join
    }

    pub(super) fn apply<'a>(&self, operands: Operands<'a>) -> Result<Option<Value<'a>>, Stop> {
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or(Stop::Ask)?;
        if *self == List::Dimensions {
            let dimensions = array(first)?.dimensions.len();
            return Ok((dimensions > 0).then(|| length(dimensions)));
        }
        let second = operands.next().ok_or(Stop::Ask)?;
        match self {
            List::Element => Ok(element(array(first)?, integer(&second)?)),
            List::Position => match inside(first)? {
                None => Ok(None),
                Some(found) => position(array(found)?.as_ref(), array(second)?.as_ref()),
            },
            List::Lower | List::Upper => {
                let dimension = usize::try_from(integer(&second)?.wrapping_sub(1)).unwrap_or(usize::MAX);
                Ok(array(first)?.dimensions.get(dimension).map(|(lower, length)| {
                    let upper = i64::from(*lower) + i64::from(*length) - 1;
                    Value::Int(if *self == List::Lower { i64::from(*lower) } else { upper })
                }))
            }
            List::Append | List::Prepend | List::Concatenate => self.combined(first, second),
            List::Join => {
                let array = array(first)?;
                let elements: Result<Vec<Cow<'_, str>>, Stop> =
                    array.elements.iter().flatten().map(|element| text(element.borrow())).collect();
                Ok(Some(Value::Text(Cow::Owned(elements?.join(&text(second)?)))))
            }
            List::Split => Ok(Some(split(&text(first)?, &text(second)?))),
            List::Dimensions => Err(Stop::Ask),
        }
    }

    fn combined<'a>(&self, left: Value<'a>, right: Value<'a>) -> Result<Option<Value<'a>>, Stop> {
        let (left, right) = (inside(left)?, inside(right)?);
        let made = |array: Array| Ok(Some(Value::Array(Cow::Owned(array))));
        match self {
            List::Append => made(joined(list(left)?, Array::of(vec![right]))?),
            List::Prepend => {
                let mut array = joined(Array::of(vec![left]), list(right.clone())?)?;
                // The lower bound is that of the array.
                if let Some(Value::Array(old)) = &right
                    && let (Some(new), Some(old)) = (array.dimensions.first_mut(), old.dimensions.first())
                {
                    new.0 = old.0;
                }
                made(array)
            }
            _ => match (left, right) {
                (None, None) => Ok(None),
                (Some(one), None) | (None, Some(one)) => Ok(Some(one)),
                (left, right) => made(joined(list(left)?, list(right)?)?),
            },
        }
    }
}

/// What an operand inside an array is.
fn inside(carrier: Value<'_>) -> Result<Option<Value<'static>>, Stop> {
    array(carrier)?.into_owned().elements.pop().ok_or(Stop::Ask)
}

/// NULL is an empty array to what is added to it.
fn list(value: Option<Value<'static>>) -> Result<Array, Stop> {
    match value {
        None => Ok(Array::default()),
        Some(Value::Array(array)) => Ok(array.into_owned()),
        Some(_) => Err(Stop::Ask),
    }
}

/// The elements of both, with the lower bound of the first that has any.
fn joined(left: Array, right: Array) -> Result<Array, Stop> {
    match (left.dimensions.as_slice(), right.dimensions.as_slice()) {
        (_, []) => Ok(left),
        ([], _) => Ok(right),
        ([(lower, left_length)], [(_, right_length)]) => {
            let length = left_length.checked_add(*right_length).ok_or(Stop::Ask)?;
            lower.checked_add(length).ok_or(Stop::Ask)?;
            let dimensions = vec![(*lower, length)];
            let elements = left.elements.into_iter().chain(right.elements).collect();
            Ok(Array { dimensions, elements })
        }
        _ => Err(Stop::Ask),
    }
}

fn element(array: Cow<'_, Array>, subscript: i64) -> Option<Value<'_>> {
    let [(lower, _)] = array.dimensions.as_slice() else { return None };
    let at = usize::try_from(subscript.checked_sub(i64::from(*lower))?).ok()?;
    match array {
        Cow::Borrowed(array) => array.elements.get(at)?.as_ref().map(Value::borrow),
        Cow::Owned(mut array) => {
            if at < array.elements.len() {
                array.elements.swap_remove(at)
            } else {
                None
            }
        }
    }
}

/// The subscript of the first element that is not distinct from the wanted one.
fn position<'a>(array: &Array, wanted: &Array) -> Result<Option<Value<'a>>, Stop> {
    let wanted = wanted.elements.first().ok_or(Stop::Ask)?;
    let lower = match array.dimensions.as_slice() {
        [] => return Ok(None),
        [(lower, _)] => i64::from(*lower),
        _ => {
            let message = "searching for elements in multidimensional arrays is not supported";
            return Err(Stop::Failed(message.to_owned()));
        }
    };
    for (at, element) in array.elements.iter().enumerate() {
        let same = match (element, wanted) {
            (None, None) => true,
            (Some(element), Some(wanted)) => element.equals(wanted).ok_or(Stop::Ask)?,
            _ => false,
        };
        if same {
            let at = i64::try_from(at).map_err(|_| Stop::Ask)?;
            return Ok(Some(Value::Int(lower + at)));
        }
    }
    Ok(None)
}

fn split<'a>(whole: &str, separator: &str) -> Value<'a> {
    let part = |part: &str| Some(Value::Text(Cow::Owned(part.to_owned())));
    let parts = match (whole, separator) {
        ("", _) => Vec::new(),
        (whole, "") => vec![part(whole)],
        (whole, separator) => whole.split(separator).map(part).collect(),
    };
    Value::Array(Cow::Owned(Array::of(parts)))
}
