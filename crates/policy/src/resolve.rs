//! From operators, functions and casts on typed operands to operations: what PostgreSQL's catalog would
//! choose for exactly these types. An `Err` says why a construct is left to PostgreSQL.

mod arithmetic;
mod document;
mod function;
mod list;
mod moment;
mod pattern;

pub(crate) use self::arithmetic::Modifier;
pub(crate) use self::arithmetic::{absolute, complement, negate, plus, shorten};
pub(crate) use self::document::subscripted_document;
pub(crate) use self::function::function;
pub(crate) use self::list::element;
pub(crate) use self::moment::{extract, make_interval};

use self::arithmetic::arithmetic;
use self::document::{json_access, json_path};
use self::moment::is_utc;
use self::pattern::{pattern_match, regex};

use crate::cast::Cast;
use crate::expression::Expression;
use crate::json::raw;
use crate::numeric::Unreadable;
use crate::operation::{Arithmetic, Comparison, Operation};
use crate::schema::Collation;
use crate::value::{Kind, Value};

/// An expression with its type, and for text the strictest collation of what went into it.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    pub(crate) expression: Expression,
    pub(crate) kind: Kind,
    /// `None` where only literals and functions went in: the database's default applies unless the
    /// other operand has one.
    pub(crate) collation: Option<Collation>,
}

/// Why a construct is not compiled.
pub(crate) type Reason = String;

/// An operator between two operands, freed from how the parser names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Infix {
    Compare(Comparison),
    Arithmetic(Arithmetic),
    Bits(Bits),
    Concatenate,
    Like {
        insensitive: bool,
        negated: bool,
    },
    Match {
        insensitive: bool,
        negated: bool,
    },
    StartsWith,
    /// `->` and `->>`
    Access {
        as_text: bool,
    },
    /// `#>` and `#>>`
    AccessPath {
        as_text: bool,
    },
    Contains,
    ContainedBy,
    Overlaps,
    Has,
    HasAny,
    HasAll,
}

/// An operator on the bits of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

impl Typed {
    pub(crate) fn new(expression: Expression, kind: Kind) -> Typed {
        Typed { expression, kind, collation: None }
    }

    pub(crate) fn literal(value: Option<Value<'static>>, kind: Kind) -> Typed {
        Typed::new(Expression::Literal(value), kind)
    }

    pub(crate) fn boolean(expression: Expression) -> Typed {
        Typed::new(expression, Kind::Bool)
    }

    fn collated(mut self, collation: Option<Collation>) -> Typed {
        self.collation = collation;
        self
    }

    /// The same value as an operand of type `kind`: literals without a type take it, nothing else changes.
    fn settled(self, kind: &Kind) -> Result<Typed, Reason> {
        match (&self.kind, &self.expression) {
            (Kind::Untyped, Expression::Literal(value)) => {
                let value = match value {
                    Some(Value::Text(text)) => Some(read_literal(kind, text)?),
                    _ => None,
                };
                Ok(Typed::literal(value, kind.clone()))
            }
            _ => Ok(self),
        }
    }

    /// As an operand of a text function: text as it is, `bpchar` without its blanks.
    fn into_text(self) -> Result<Typed, Reason> {
        let settled = self.settled(&Kind::Text)?;
        match settled.kind {
            Kind::Text => Ok(settled),
            Kind::Char | Kind::Name => cast(settled, &Kind::Text),
            other => Err(format!("text was expected, not {}", other.sql_name())),
        }
    }

    fn expect(self, kind: &Kind) -> Result<Typed, Reason> {
        let settled = self.settled(kind)?;
        if settled.kind == *kind {
            Ok(settled)
        } else {
            Err(format!("{} was expected, not {}", kind.sql_name(), settled.kind.sql_name()))
        }
    }
}

/// A value as the argument of a function that wants this type: what PostgreSQL converts silently and without
/// loss.
pub(crate) fn argument(typed: Typed, kind: &Kind) -> Result<Typed, Reason> {
    let settled = typed.settled(kind)?;
    let wider = settled.kind.is_integer()
        && kind.is_integer()
        && settled.kind.integer_range().1 <= kind.integer_range().1;
    if wider {
        return Ok(Typed { kind: kind.clone(), ..settled });
    }
    if *kind == Kind::Text { settled.into_text() } else { settled.expect(kind) }
}

/// Reads a literal of a type at compile time.
pub(crate) fn read_literal(kind: &Kind, text: &str) -> Result<Value<'static>, Reason> {
    let checked = if *kind == Kind::Json { raw::check(text) } else { Ok(()) };
    let read = checked.and_then(|()| kind.read(text).map(Value::into_owned));
    read.map_err(|unreadable| match unreadable {
        Unreadable::Invalid(message) => message,
        Unreadable::Unsure => format!("the literal '{text}' of type {}", kind.sql_name()),
    })
}

/// The collation that two operands share; an error where it decides even equality.
fn shared_collation(left: &Typed, right: &Typed) -> Result<Option<Collation>, Reason> {
    let shared = match (left.collation, right.collation) {
        (None, other) | (other, None) => other,
        (Some(left), Some(right)) if left == right => Some(left),
        (Some(left), Some(right)) if [left, right].contains(&Collation::Nondeterministic) => {
            Some(Collation::Nondeterministic)
        }
        _ => Some(Collation::Locale),
    };
    if shared == Some(Collation::Nondeterministic) {
        return Err("a nondeterministic collation".to_owned());
    }
    Ok(shared)
}

/// Both operands with the types of each other's literals.
fn settle_both(left: Typed, right: Typed) -> Result<(Typed, Typed), Reason> {
    let both_open = left.kind == Kind::Untyped && right.kind == Kind::Untyped;
    let (left_kind, right_kind) =
        if both_open { (Kind::Text, Kind::Text) } else { (left.kind.clone(), right.kind.clone()) };
    Ok((left.settled(&right_kind)?, right.settled(&left_kind)?))
}

/// Two numbers of unlike types as the wider one, as PostgreSQL converts them where nobody wrote a cast.
fn common_numbers(left: Typed, right: Typed) -> Result<(Typed, Typed), Reason> {
    let width = |kind: &Kind| match kind {
        integer if integer.is_integer() => Some(0),
        Kind::Numeric => Some(1),
        Kind::Float8 => Some(2),
        _ => None,
    };
    match (width(&left.kind), width(&right.kind)) {
        (Some(a), Some(b)) if a < b => Ok((cast(left, &right.kind)?, right)),
        (Some(a), Some(b)) if a > b => {
            let right = cast(right, &left.kind)?;
            Ok((left, right))
        }
        _ => Ok((left, right)),
    }
}

/// Two operands made comparable: same values in the same representation, with their common collation.
fn comparable(left: Typed, right: Typed, ordered: bool) -> Result<(Expression, Expression), Reason> {
    let (left, right) = settle_both(left, right)?;
    let (left, right) = common_numbers(left, right)?;
    let collation = shared_collation(&left, &right)?;
    let pair = (&left.kind, &right.kind);
    let by_text = match pair {
        (Kind::Array(element), _) if ordered || **element == Kind::Char => {
            return Err(format!("comparing {} with {}", left.kind.sql_name(), right.kind.sql_name()));
        }
        (Kind::Jsonb, _) if ordered => return Err("the order of jsonb values".to_owned()),
        (Kind::Opaque(_) | Kind::Untyped | Kind::Json, _) => {
            return Err(format!("comparing {}", left.kind.sql_name()));
        }
        (Kind::Text, Kind::Text) | (Kind::Char, Kind::Char) => true,
        (Kind::Name | Kind::Text, Kind::Name | Kind::Text) => left.kind != right.kind || ordered,
        (a, b) if a == b => false,
        (a, b) if a.is_integer() && b.is_integer() => false,
        (Kind::Float4 | Kind::Float8, Kind::Float4 | Kind::Float8)
        | (
            Kind::Date | Kind::Timestamp | Kind::TimestampTz,
            Kind::Date | Kind::Timestamp | Kind::TimestampTz,
        ) => false,
        (a, b) => return Err(format!("comparing {} with {}", a.sql_name(), b.sql_name())),
    };
    if by_text && ordered && collation != Some(Collation::Bytes) {
        return Err("the order of text under its collation".to_owned());
    }
    if left.kind == Kind::Char {
        return Ok((cast(left, &Kind::Text)?.expression, cast(right, &Kind::Text)?.expression));
    }
    Ok((left.expression, right.expression))
}

/// `left operator right`.
pub(crate) fn infix(operator: Infix, left: Typed, right: Typed) -> Result<Typed, Reason> {
    match operator {
        Infix::Compare(comparison) => {
            let (left, right) = comparable(left, right, !comparison.is_equality())?;
            Ok(Typed::boolean(Expression::Call(Operation::Compare(comparison), vec![left, right])))
        }
        Infix::Arithmetic(operator) => arithmetic(operator, left, right),
        Infix::Concatenate => concatenate(left, right),
        Infix::Bits(bits) => arithmetic::bits(bits, left, right),
        Infix::Like { insensitive, negated } => {
            let operation = Operation::Like { insensitive };
            Ok(negated_if(negated, pattern_match(operation, left, right)?))
        }
        Infix::Match { insensitive, negated } => Ok(negated_if(negated, regex(insensitive, left, right)?)),
        Infix::StartsWith => pattern_match(Operation::StartsWith, left, right),
        Infix::Access { as_text } => json_access(as_text, left, right),
        Infix::AccessPath { as_text } => json_path(as_text, left, right),
        Infix::Contains => contains(left, right),
        Infix::ContainedBy => contains(right, left),
        Infix::Overlaps => {
            let (left, right) = same_arrays(left, right)?;
            Ok(predicate(Operation::ArrayOverlaps, left, right))
        }
        Infix::Has => {
            Ok(predicate(Operation::JsonHas, left.expect(&Kind::Jsonb)?, right.expect(&Kind::Text)?))
        }
        Infix::HasAny | Infix::HasAll => {
            let any = operator == Infix::HasAny;
            let operation = if any { Operation::JsonHasAny } else { Operation::JsonHasAll };
            let keys = right.expect(&Kind::Array(Box::new(Kind::Text)))?;
            Ok(predicate(operation, left.expect(&Kind::Jsonb)?, keys))
        }
    }
}

/// Of two texts, a text and something else, two arrays or an array and an element, two `jsonb`.
fn concatenate(left: Typed, right: Typed) -> Result<Typed, Reason> {
    if matches!(left.kind, Kind::Array(_)) || matches!(right.kind, Kind::Array(_)) {
        return list::concatenate(left, right);
    }
    let is_json = |typed: &Typed| typed.kind == Kind::Jsonb;
    let is_open = |typed: &Typed| typed.kind == Kind::Untyped;
    if (is_json(&left) && (is_json(&right) || is_open(&right))) || (is_open(&left) && is_json(&right)) {
        return document::concatenate(left, right);
    }
    let is_text = |typed: &Typed| matches!(typed.kind, Kind::Text | Kind::Untyped);
    if !is_text(&left) && !is_text(&right) {
        return Err(format!("{} || {}", left.kind.sql_name(), right.kind.sql_name()));
    }
    let as_text = |typed: Typed| {
        let settled = typed.settled(&Kind::Text)?;
        cast(settled, &Kind::Text)
    };
    let (left, right) = (as_text(left)?, as_text(right)?);
    let collation = shared_collation(&left, &right)?;
    let operands = vec![left.expression, right.expression];
    Ok(Typed::new(Expression::Call(Operation::Concatenate, operands), Kind::Text).collated(collation))
}

fn predicate(operation: Operation, left: Typed, right: Typed) -> Typed {
    Typed::boolean(Expression::Call(operation, vec![left.expression, right.expression]))
}

fn negated_if(negated: bool, typed: Typed) -> Typed {
    if negated { Typed::boolean(typed.expression.negated()) } else { typed }
}

fn contains(left: Typed, right: Typed) -> Result<Typed, Reason> {
    let (left, right) = settle_both(left, right)?;
    if left.kind == Kind::Jsonb && right.kind == Kind::Jsonb {
        return Ok(predicate(Operation::JsonContains, left, right));
    }
    let (left, right) = same_arrays(left, right)?;
    Ok(predicate(Operation::ArrayContains, left, right))
}

fn same_arrays(left: Typed, right: Typed) -> Result<(Typed, Typed), Reason> {
    let (left, right) = settle_both(left, right)?;
    shared_collation(&left, &right)?;
    match (&left.kind, &right.kind) {
        (Kind::Array(a), Kind::Array(b)) if a == b && **a != Kind::Char => Ok((left, right)),
        (a, b) => Err(format!("containment of {} and {}", a.sql_name(), b.sql_name())),
    }
}

/// `operand operator ANY (array)`, or ALL.
pub(crate) fn quantified(all: bool, operator: Infix, operand: Typed, array: Typed) -> Result<Typed, Reason> {
    let Kind::Array(element) = array.kind.clone() else {
        return Err(format!("ANY or ALL of {}", array.kind.sql_name()));
    };
    if *element == Kind::Char || operand.kind == Kind::Char {
        return Err("ANY or ALL of character".to_owned());
    }
    // Resolved against a stand-in for the element; only the operation is kept.
    let stand_in = Typed::new(Expression::Literal(None), (*element).clone()).collated(array.collation);
    let operand = operand.settled(&element)?;
    let resolved = infix(operator, operand.clone(), stand_in)?;
    let (negated, call) = match resolved.expression {
        Expression::Not(inner) => (true, *inner),
        other => (false, other),
    };
    let Expression::Call(operation, _) = call else { return Err("this use of ANY or ALL".to_owned()) };
    if matches!(operation, Operation::Matches(_)) {
        return Err("regular expressions from an array".to_owned());
    }
    // `x NOT LIKE ANY (…)` is `NOT (x LIKE ALL (…))`.
    let quantified = Expression::Quantified {
        all: all != negated,
        operation,
        operand: Box::new(operand.expression),
        array: Box::new(array.expression),
    };
    Ok(Typed::boolean(if negated { quantified.negated() } else { quantified }))
}

/// `left IS DISTINCT FROM right`.
pub(crate) fn distinct(left: Typed, right: Typed) -> Result<Typed, Reason> {
    let (left, right) = comparable(left, right, false)?;
    Ok(Typed::boolean(Expression::IsDistinct(Box::new(left), Box::new(right))))
}

/// `NULLIF(left, right)`.
pub(crate) fn nullif(left: Typed, right: Typed) -> Result<Typed, Reason> {
    let (left, right) = settle_both(left, right)?;
    let (kind, collation) = (left.kind.clone(), left.collation);
    if kind == Kind::Char {
        return Err("NULLIF of character".to_owned());
    }
    let (left, right) = comparable(left, right, false)?;
    Ok(Typed::new(Expression::NullIf(Box::new(left), Box::new(right)), kind).collated(collation))
}

/// Expressions of which one gives the result (COALESCE, CASE, ARRAY): all of one type.
pub(crate) fn alternatives(typed: Vec<Typed>) -> Result<(Vec<Expression>, Typed), Reason> {
    let kind = typed.iter().map(|typed| &typed.kind).find(|kind| **kind != Kind::Untyped);
    let kind = kind.cloned().unwrap_or(Kind::Text);
    let mut sample = Typed::literal(None, kind.clone());
    let mut expressions = Vec::with_capacity(typed.len());
    for one in typed {
        let one = one.expect(&kind)?;
        sample.collation = shared_collation(&sample, &one)?;
        expressions.push(one.expression);
    }
    Ok((expressions, sample))
}

/// `GREATEST` or `LEAST`.
pub(crate) fn extreme(greatest: bool, typed: Vec<Typed>) -> Result<Typed, Reason> {
    let (operands, sample) = alternatives(typed)?;
    comparable(sample.clone(), sample.clone(), true)?;
    if sample.kind == Kind::Char {
        return Err("GREATEST or LEAST of character".to_owned());
    }
    Ok(Typed { expression: Expression::Extreme { greatest, operands }, ..sample })
}

/// `operand::kind`.
pub(crate) fn cast(operand: Typed, kind: &Kind) -> Result<Typed, Reason> {
    if operand.kind == Kind::Untyped {
        return operand.settled(kind);
    }
    let collation = if operand.kind.is_text() { operand.collation } else { None };
    let expression = match Cast::between(&operand.kind, kind)? {
        None => operand.expression,
        Some(cast) => Expression::Call(Operation::Cast(cast), vec![operand.expression]),
    };
    let array = matches!((&operand.kind, kind), (Kind::Array(_), Kind::Array(_)));
    let collation = if array { operand.collation } else { collation };
    Ok(Typed::new(expression, kind.clone()).collated(collation))
}

/// As text by the type's output function, for functions that take any type; each element of an array.
fn as_output(typed: Typed) -> Result<Typed, Reason> {
    let typed = typed.settled(&Kind::Text)?;
    let letter = |expression: Expression, cast: Cast, kind: Kind| {
        Typed::new(Expression::Call(Operation::Cast(cast), vec![expression]), kind)
    };
    let texts = Kind::Array(Box::new(Kind::Text));
    match &typed.kind {
        Kind::Bool => Ok(letter(typed.expression, Cast::BoolToLetter, Kind::Text)),
        Kind::Array(element) if **element == Kind::Bool => {
            Ok(letter(typed.expression, Cast::Elements(Box::new(Cast::BoolToLetter)), texts))
        }
        // With its blanks, which a cast would take away.
        Kind::Char => Ok(Typed { kind: Kind::Text, ..typed }),
        Kind::Array(element) if **element == Kind::Char => Ok(Typed { kind: texts, ..typed }),
        Kind::Array(_) => cast(typed, &texts),
        _ => cast(typed, &Kind::Text),
    }
}

/// `timestamp AT TIME ZONE zone` and back, for UTC only.
pub(crate) fn at_time_zone(moment: Typed, zone: &Typed) -> Result<Typed, Reason> {
    let utc = is_utc(zone);
    let kind = match moment.kind {
        Kind::Timestamp if utc => Kind::TimestampTz,
        Kind::TimestampTz if utc => Kind::Timestamp,
        _ => return Err("a conversion between time zones".to_owned()),
    };
    Ok(Typed::new(moment.expression, kind))
}
