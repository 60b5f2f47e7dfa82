//! Random functions.

use std::fmt::Write as _;

use super::expressions::Drawing;
use super::{Of, Table, attempt, roles};
use crate::dice::Dice;

/// A function that policies and other functions call.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) arguments: Vec<Of>,
    pub(crate) returns: Of,
    pub(crate) set: bool,
    /// The first table that it may read.
    pub(crate) floor: usize,
    /// Whether it reads with the privileges of whoever sees everything.
    pub(crate) sees_all: bool,
}

impl Function {
    /// A function that may call those before it, and the statements that make it.
    pub(crate) fn draw(
        number: usize,
        tables: &[Table],
        before: &[Function],
        dice: &mut Dice,
    ) -> (Function, String) {
        let set = dice.percent(20);
        let returns = *dice.one(&[Of::Bool, Of::Bool, Of::Bool, Of::Uuid, Of::Int, Of::Text, Of::Rank]);
        let returns = if set && returns == Of::Bool { Of::Int } else { returns };
        let arguments: Vec<Of> = (0..dice.below(3))
            .map(|_| *dice.one(&[Of::Int, Of::Uuid, Of::Text, Of::Rank, Of::Bool]))
            .collect();
        let mut names: Vec<String> = Vec::new();
        for place in 0..arguments.len() {
            // Some are called as columns are.
            let name = match dice.below(4) {
                0 => String::new(),
                1 => dice.word(&["room", "person", "team", "role", "id"]).to_owned(),
                _ => format!("p{place}"),
            };
            names.push(if names.contains(&name) { format!("q{place}") } else { name });
        }
        let (definer, owner) = (dice.percent(50), *dice.one(&["", "", "lookup_definer", "lookup_owner"]));
        let sees_all = definer && owner.is_empty();
        let floor = if sees_all { 0 } else { dice.below(tables.len().min(4)) };
        let path = if dice.percent(45) {
            Some(dice.word(&["''", "public", "side, public", "\"$user\", public"]))
        } else {
            None
        };
        let parsed = dice.percent(30);
        let qualified = parsed || path == Some("''") || dice.percent(40);
        let plpgsql = !parsed && !set && dice.percent(5);

        let function = format!("f{number}");
        let mut drawing = Drawing::new(tables, before, floor, dice);
        drawing.prefix = if qualified { "public." } else { "" };
        for (place, (name, of)) in names.iter().zip(&arguments).enumerate() {
            if !name.is_empty() {
                let qualify = drawing.dice.percent(20);
                let text = if qualify { format!("{function}.{name}") } else { name.clone() };
                drawing.parameters.push((text, *of));
            }
            drawing.parameters.push((format!("${}", place + 1), *of));
        }
        let query = if returns == Of::Bool && drawing.dice.percent(40) {
            format!("SELECT {}", drawing.membership_test())
        } else if set || returns != Of::Bool && drawing.dice.percent(50) {
            drawing.select_values(returns, 1, !set)
        } else if returns == Of::Bool {
            format!("SELECT {}", drawing.condition(2))
        } else {
            format!("SELECT {}", drawing.value(returns, 1))
        };
        let query = if returns == Of::Rank && !query.contains(" FROM ") {
            format!("SELECT ({})::public.rank", &query["SELECT ".len()..])
        } else {
            query
        };
        let dice = drawing.dice;
        let body = if plpgsql {
            format!("LANGUAGE plpgsql AS $body$ BEGIN RETURN ({query}); END $body$")
        } else if parsed && !query.contains(" FROM ") && dice.percent(50) {
            format!("RETURN {}", &query["SELECT ".len()..])
        } else if parsed {
            format!("BEGIN ATOMIC {query}; END")
        } else {
            format!("LANGUAGE sql AS $body$ {query} $body$")
        };
        // One that is IMMUTABLE and reads tables or claims is computed whenever PostgreSQL plans.
        let constant = !["FROM", "auth.", "current_user", "now()", "f0", "f1", "f2", "f3", "f4"]
            .iter()
            .any(|read| query.contains(read));
        let volatility = match dice.below(20) {
            0 => "VOLATILE",
            1..10 if constant => "IMMUTABLE",
            _ => "STABLE",
        };
        let strict = if dice.percent(20) { " STRICT" } else { "" };
        let definer = if definer { " SECURITY DEFINER" } else { "" };
        let set_path = path.map(|path| format!(" SET search_path = {path}")).unwrap_or_default();
        let declared: Vec<String> =
            names.iter().zip(&arguments).map(|(name, of)| format!("{name} {}", of.sql())).collect();
        let of_set = if set { "SETOF " } else { "" };
        let mut text = attempt(&format!(
            "CREATE FUNCTION public.{function}({}) RETURNS {of_set}{} {volatility}{strict}{definer}{set_path} {body}",
            declared.join(", "),
            returns.sql()
        ));
        let types: Vec<&str> = arguments.iter().map(|of| of.sql()).collect();
        let signature = format!("public.{function}({})", types.join(", "));
        if !owner.is_empty() {
            text += &attempt(&format!("ALTER FUNCTION {signature} OWNER TO {owner}"));
        }
        if dice.percent(10) {
            let roles = roles(dice);
            text += &attempt(&format!(
                "REVOKE ALL ON FUNCTION {signature} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {signature} TO {roles}"
            ));
        }
        if dice.percent(8) {
            let mut decoy = String::new();
            let _ = write!(
                decoy,
                "CREATE FUNCTION side.{function}({}) RETURNS {of_set}{} STABLE LANGUAGE sql AS $body$ SELECT NULL::{} $body$",
                types.join(", "),
                returns.sql(),
                returns.sql()
            );
            text += &attempt(&decoy);
        }
        (Function { name: function, arguments, returns, set, floor, sees_all }, text)
    }
}
