//! Constants: sub-expressions that read only the role, the claims and other settings of a session.
//!
//! They are taken out of a plan into slots and evaluated once for each set of claims, so that two
//! subscribers with the same values in the slots are one audience.

use std::borrow::Cow;

use walcast_pgoutput::PgTimestamp;

use crate::evaluate::{Outcome, Scope, evaluate};
use crate::expression::{Expression, Setting};
use crate::members::MembersAt;
use crate::operation::Stop;
use crate::row::RowImage;
use crate::value::{Kind, Value};

/// What the session that reads for a subscriber would have set.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    /// `current_user`.
    pub(crate) role: &'a str,
    /// `request.jwt.claims`.
    pub(crate) claims_json: &'a str,
    /// The same, parsed.
    pub(crate) claims: &'a serde_json::Value,
    /// One value for each foreign constant, in PostgreSQL's text format.
    pub(crate) foreign: &'a [Option<String>],
    /// What is set besides while a channel is judged; `None` for the rows of a table.
    pub(crate) channel: Option<ChannelSettings<'a>>,
}

/// The settings that only policies of channels find (docs/protocol.md §8.4).
#[derive(Clone, Copy, Debug)]
pub struct ChannelSettings<'a> {
    /// `realtime.topic`: the topic without `realtime:`.
    pub topic: &'a str,
    /// `request.headers`: a JSON object.
    pub headers: &'a str,
}

/// The settings that sessions have for what is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Rows of a table: the claims.
    Rows,
    /// A channel: the claims and [`ChannelSettings`].
    Channel,
}

/// The expression for `current_setting(name, missing_ok)`, where what is asked for determines it.
pub(crate) fn current_setting(name: &str, missing_ok: bool, judged: Judged) -> Option<Expression> {
    Some(Expression::Setting(match name {
        "realtime.topic" if judged == Judged::Channel => Setting::Topic,
        "request.headers" if judged == Judged::Channel => Setting::Headers,
        "request.jwt.claims" => Setting::Claims,
        "request.jwt.claim.sub" => Setting::Claim("sub"),
        "request.jwt.claim.role" => Setting::Claim("role"),
        "request.jwt.claim.email" => Setting::Claim("email"),
        "request.jwt.claim" if missing_ok => Setting::Unset,
        _ => return None,
    }))
}

/// The value of a setting, as whoever speaks to PostgreSQL for a subscriber sets it: the setting of a
/// claim that is missing is empty, because a setting never becomes NULL again in its session.
pub(crate) fn setting_value<'a>(setting: &Setting, settings: Settings<'a>) -> Option<Cow<'a, str>> {
    Some(match setting {
        Setting::Claims => Cow::Borrowed(settings.claims_json),
        Setting::Role => Cow::Borrowed(settings.role),
        Setting::Unset => return None,
        Setting::Topic => Cow::Borrowed(settings.channel?.topic),
        Setting::Headers => Cow::Borrowed(settings.channel?.headers),
        Setting::Claim(name) => match settings.claims.get(name) {
            None | Some(serde_json::Value::Null) => Cow::Borrowed(""),
            Some(serde_json::Value::String(text)) => Cow::Borrowed(text),
            Some(other) => Cow::Owned(other.to_string()),
        },
    })
}

/// Replaces what literals alone decide by its value.
///
/// As PostgreSQL's planner does, an AND with a false literal, an OR with a true one and an operation on a
/// NULL literal are replaced too, whatever else is in them, and so is what a literal decides of NULLIF,
/// COALESCE and CASE. The error is one that a sub-expression of
/// literals alone raises: PostgreSQL raises it while planning, even where evaluation would never get there.
pub(crate) fn fold(expression: &mut Expression) -> Result<(), Stop> {
    let is_fixed = |expression: &Expression| {
        expression.is_constant() && !expression.reads_settings() && !is_stable(expression)
    };
    // What a CASE or COALESCE of literals does not reach is not evaluated.
    let is_lazy = matches!(expression, Expression::Case { .. } | Expression::Coalesce(_));
    if !(is_lazy && is_fixed(expression)) {
        for child in expression.children_mut() {
            fold(child)?;
        }
    }
    if let Some(simpler) = foregone(expression) {
        *expression = simpler;
    }
    if is_fixed(expression) {
        *expression = Expression::Literal(constant_value(expression, None)?);
    }
    Ok(())
}

/// Whether PostgreSQL's planner does not compute it, for a function in it that is only stable.
fn is_stable(expression: &Expression) -> bool {
    let own = match expression {
        Expression::Call(operation, _) | Expression::Quantified { operation, .. } => operation.is_stable(),
        _ => false,
    };
    own || expression.children().into_iter().any(is_stable)
}

/// What an expression is worth because of the literals in it.
fn foregone(expression: &Expression) -> Option<Expression> {
    let null = Expression::Literal(None);
    let truth = |value: bool| Expression::Literal(Some(Value::Bool(value)));
    match expression {
        Expression::And(operands) => operands.contains(&truth(false)).then(|| truth(false)),
        Expression::Or(operands) => operands.contains(&truth(true)).then(|| truth(true)),
        Expression::Call(_, operands) => operands.contains(&null).then_some(null),
        // What is compared with NULL is not equal to it.
        Expression::NullIf(left, right) if **left == null || **right == null => Some((**left).clone()),
        // What may raise has not.
        Expression::Body { arguments, body } => {
            let fixed = arguments.iter().all(|argument| matches!(argument, Expression::Literal(_)));
            fixed.then(|| (**body).clone())
        }
        Expression::Coalesce(operands) => {
            let left: Vec<&Expression> = operands.iter().filter(|operand| **operand != null).collect();
            match left.first() {
                None => Some(null),
                Some(Expression::Literal(value)) => Some(Expression::Literal(value.clone())),
                // Of a COALESCE with one operand left the planner estimates nothing: it stays one.
                Some(_) if left.len() < operands.len() => {
                    Some(Expression::Coalesce(left.into_iter().cloned().collect()))
                }
                Some(_) => None,
            }
        }
        Expression::Case { branches, otherwise } => {
            let mut left =
                branches.iter().filter(|(condition, _)| *condition != null && *condition != truth(false));
            match left.next() {
                None => Some((**otherwise).clone()),
                Some((condition, result)) if *condition == truth(true) => Some(result.clone()),
                Some(_) => None,
            }
        }
        _ => None,
    }
}

/// Replaces every largest sub-expression that reads settings, and neither the row nor the clock, by a slot.
pub(crate) fn hoist(expression: &mut Expression, slots: &mut Vec<Expression>) {
    if !(expression.is_constant() && expression.reads_settings()) {
        for child in expression.children_mut() {
            hoist(child, slots);
        }
        return;
    }
    let slot = slots.iter().position(|known| known == expression).unwrap_or_else(|| {
        slots.push(expression.clone());
        slots.len() - 1
    });
    *expression = Expression::Constant(slot);
}

/// What the slots of a plan came to for one set of claims. There is one for each person, so that a single text or uuid,
/// which is what most have, takes no more than it must.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Values(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    None,
    /// One slot, and a text in it.
    Text(Box<str>),
    /// One slot, and a uuid in it: its bytes, which are aligned to nothing.
    Uuid([u8; 16]),
    Other(Box<[Outcome<'static>]>),
}

impl Values {
    /// Those of a plan without slots.
    pub(crate) const NONE: &Values = &Values(Repr::None);

    /// The values for one set of claims.
    pub(crate) fn new(slots: &[Expression], settings: Settings<'_>) -> Self {
        let mut values: Vec<_> = slots.iter().map(|slot| constant_value(slot, Some(settings))).collect();
        Values(match &mut values[..] {
            [] => Repr::None,
            [Ok(Some(Value::Text(text)))] => Repr::Text(std::mem::take(text).into()),
            [Ok(Some(Value::Uuid(uuid)))] => Repr::Uuid(uuid.to_be_bytes()),
            _ => Repr::Other(values.into()),
        })
    }

    /// What a slot came to. Of one that is not there only PostgreSQL knows.
    pub(crate) fn get(&self, slot: usize) -> Outcome<'_> {
        match &self.0 {
            Repr::Text(text) if slot == 0 => Ok(Some(Value::Text(Cow::Borrowed(text)))),
            Repr::Uuid(bytes) if slot == 0 => Ok(Some(Value::Uuid(u128::from_be_bytes(*bytes)))),
            Repr::Other(values) => match values.get(slot) {
                Some(Ok(value)) => Ok(value.as_ref().map(Value::borrow)),
                Some(Err(stop)) => Err(stop.clone()),
                None => Err(Stop::Ask),
            },
            Repr::None | Repr::Text(_) | Repr::Uuid(_) => Err(Stop::Ask),
        }
    }

    /// Why a slot has no value, where it has none.
    pub(crate) fn stop(&self, slot: usize) -> Option<&Stop> {
        self.outcomes().get(slot)?.as_ref().err()
    }

    /// Why slots have no value, for each that has none.
    pub(crate) fn stops(&self) -> impl Iterator<Item = &Stop> {
        self.outcomes().iter().filter_map(|outcome| outcome.as_ref().err())
    }

    /// Whether the plan has no slots.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.0, Repr::None)
    }

    /// All of them, unless the only one has a value that is kept otherwise.
    fn outcomes(&self) -> &[Outcome<'static>] {
        match &self.0 {
            Repr::Other(values) => values,
            Repr::None | Repr::Text(_) | Repr::Uuid(_) => &[],
        }
    }
}

fn constant_value(expression: &Expression, settings: Option<Settings<'_>>) -> Outcome<'static> {
    let row = RowImage::default();
    let scope = Scope {
        row: &row,
        now: PgTimestamp::default(),
        constants: Values::NONE,
        settings,
        members: MembersAt::none(),
        frame: None,
        found: None,
    };
    evaluate(expression, &scope).map(|value| value.map(Value::into_owned))
}

/// The type of a built-in function that we leave to PostgreSQL when all its arguments are constant.
///
/// Only functions that read nothing but their arguments and settings: the result is kept as long as the
/// claims are.
pub(crate) fn foreign_function(name: &str, arguments: &[Kind]) -> Option<Kind> {
    let text = Kind::Text;
    match (name, arguments) {
        ("current_setting", [Kind::Text] | [Kind::Text, Kind::Bool])
        | ("md5" | "initcap", [Kind::Text])
        | ("translate" | "regexp_replace", [Kind::Text, Kind::Text, Kind::Text])
        | ("regexp_replace", [Kind::Text, Kind::Text, Kind::Text, Kind::Text]) => Some(text),
        ("string_to_array" | "regexp_split_to_array", [Kind::Text, Kind::Text]) => {
            Some(Kind::Array(Box::new(text)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_to_the_same_whether_there_is_one_or_several() {
        let settings = Settings {
            role: "reader",
            claims_json: "{}",
            claims: &serde_json::json!({}),
            foreign: &[],
            channel: None,
        };
        let of = |outcome: Outcome<'static>| match outcome {
            Ok(value) => Expression::Literal(value),
            Err(_) => Expression::Oracle,
        };
        let (text, uuid) = (Value::Text(Cow::Borrowed("")), Value::Uuid(u128::MAX - 1));
        let outcomes = [Ok(Some(text)), Ok(Some(uuid)), Ok(Some(Value::Int(1))), Ok(None), Err(Stop::Ask)];
        let slots = outcomes.clone().map(of);
        let all = Values::new(&slots, settings);
        for (place, (slot, outcome)) in slots.iter().zip(&outcomes).enumerate() {
            let one = Values::new(std::slice::from_ref(slot), settings);
            assert_eq!((&one.get(0), &all.get(place)), (outcome, outcome));
            assert_eq!((one.stop(0), all.stop(place)), (outcome.as_ref().err(), outcome.as_ref().err()));
            assert_eq!(one.get(1), Err(Stop::Ask), "there is no such slot");
        }
    }
}
