//! From SQL text, as `pg_get_expr` prints policies, to typed expressions. The one module that
//! names sqlparser.
//!
//! A boolean operand that is not understood becomes [`Expression::Oracle`], so that the operands next to it
//! can still hide a row; the reason is kept for the operator to read.

mod body;
mod clauses;
mod construct;
mod foreign;
mod literals;
mod look_up;
mod references;
mod rules;
mod scope;
mod syntax;
mod tokens;
mod type_name;

use std::borrow::Cow;

use sqlparser::ast::{
    BinaryOperator, Expr, FunctionArguments, Ident, ObjectName, Query, UnaryOperator, Value as SqlValue,
};
use sqlparser::tokenizer::Token;
use walcast_pgoutput::Oid;

pub use self::clauses::{Clauses, clauses};
use self::foreign::known_setting;
pub(crate) use self::literals::decides_by_literals;
use self::look_up::{Quantifier, selected_set};
pub use self::references::{References, references};
use self::scope::{Level, identifier};
use self::syntax::{arguments, infix, literal, operands, single};
use crate::array::Array;
use crate::constants::{self, Judged};
use crate::expression::{Expression, Setting};
use crate::operation::{Comparison, Operation};
use crate::plan::Unsupported;
use crate::resolve::{self, Infix, Typed};
use crate::schema::{Collation, Role, Snapshot, Table};
use crate::value::{Kind, Value};

/// Whose expression it is, and where the names in it are looked up.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The table whose row is judged; `None` where its columns are not in scope.
    pub(crate) table: Option<&'a Table>,
    pub(crate) snapshot: &'a Snapshot,
    /// As whom it runs.
    pub(crate) role: &'a Role,
    /// Whether that is the owner of a SECURITY DEFINER function, not the subscriber's role.
    pub(crate) definer: bool,
    pub(crate) names: Names<'a>,
    /// How many functions this is the body of a body of.
    pub(crate) depth: usize,
}

/// How a name without a schema is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names<'a> {
    /// PostgreSQL wrote the text: only what is in `pg_catalog` has no schema.
    Qualified,
    /// Somebody else did: in these schemas, in their order.
    SearchPath(&'a [String]),
}

/// Compiles texts of one plan.
pub(crate) struct Compiler<'a> {
    surroundings: Surroundings<'a>,
    /// What is judged, which says what settings there are.
    judged: Judged,
    /// The sub-selects around the expression, the innermost last.
    levels: Vec<Level<'a>>,
    /// What a function is called with, in its body.
    parameters: Vec<Parameter>,
    /// The tables whose policies are being compiled, in one query of PostgreSQL's.
    active: Vec<Oid>,
    /// The functions whose bodies are being compiled.
    calling: Vec<Oid>,
    sources: usize,
    /// Whether NULL means the same as false for the next expression.
    null_is_false: bool,
    /// The SQL of foreign constants found so far.
    pub(crate) foreign: Vec<String>,
    /// What was left to PostgreSQL so far.
    pub(crate) unsupported: Vec<Unsupported>,
    /// The error that whoever reads the table gets, whatever is in the row.
    pub(crate) raises: Option<String>,
    /// Whether it takes PostgreSQL to know which rows raise.
    pub(crate) only_oracle: bool,
    /// The tables that something would be looked up in, were there copies of them.
    pub(crate) not_copied: Vec<Oid>,
}

/// A value by which a function is called, with the name that its body has for it.
struct Parameter {
    function: String,
    name: String,
    value: Typed,
}

/// What stands in the way of compiling an expression: itself, or something below it.
enum Fault {
    Here(String),
    Below(Unsupported),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Fault::Here(reason)
    }
}

impl From<Unsupported> for Fault {
    fn from(unsupported: Unsupported) -> Self {
        Fault::Below(unsupported)
    }
}

fn here<T>(reason: &str) -> Result<T, Fault> {
    Err(Fault::Here(reason.to_owned()))
}

impl<'a> Compiler<'a> {
    /// For the policies of `active`.
    pub(crate) fn new(surroundings: Surroundings<'a>, judged: Judged, active: Oid) -> Self {
        Compiler {
            surroundings,
            judged,
            levels: Vec::new(),
            parameters: Vec::new(),
            active: vec![active],
            calling: Vec::new(),
            sources: 0,
            null_is_false: false,
            foreign: Vec::new(),
            unsupported: Vec::new(),
            raises: None,
            only_oracle: false,
            not_copied: Vec::new(),
        }
    }

    /// Compiles the text of a boolean expression, of which only the truth counts. What is left to PostgreSQL is
    /// in [`Compiler::unsupported`].
    pub(crate) fn policy(&mut self, text: &str) -> Expression {
        match parse(text) {
            Ok(parsed) => self.condition(&parsed, true),
            Err(reason) => self.leave(Unsupported { expression: text.to_owned(), reason }),
        }
    }

    fn leave(&mut self, unsupported: Unsupported) -> Expression {
        self.unsupported.push(unsupported);
        Expression::Oracle
    }

    /// A boolean expression; `null_is_false` where it does not matter which of the two it is.
    fn condition(&mut self, parsed: &Expr, null_is_false: bool) -> Expression {
        match parsed {
            Expr::Nested(inner) => self.condition(inner, null_is_false),
            Expr::BinaryOp { op: BinaryOperator::And, .. } => {
                let all = operands(parsed, true).into_iter();
                Expression::And(all.map(|one| self.condition(one, null_is_false)).collect())
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } => {
                let all = operands(parsed, false).into_iter();
                Expression::Or(all.map(|one| self.condition(one, null_is_false)).collect())
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.condition(expr, false).negated(),
            other => match self.typed_as(other, null_is_false) {
                Ok(Typed { expression, kind: Kind::Bool, .. }) => expression,
                Ok(typed) => self.leave(Unsupported {
                    expression: other.to_string(),
                    reason: format!("a condition of type {}", typed.kind.sql_name()),
                }),
                Err(unsupported) => self.leave(unsupported),
            },
        }
    }

    fn boolean(&mut self, parsed: &Expr) -> Typed {
        Typed::boolean(self.condition(parsed, false))
    }

    fn typed(&mut self, parsed: &Expr) -> Result<Typed, Unsupported> {
        self.typed_as(parsed, false)
    }

    fn typed_as(&mut self, parsed: &Expr, null_is_false: bool) -> Result<Typed, Unsupported> {
        self.null_is_false = null_is_false;
        self.lower(parsed).map_err(|fault| match fault {
            Fault::Here(reason) => Unsupported { expression: parsed.to_string(), reason },
            Fault::Below(unsupported) => unsupported,
        })
    }

    fn lower(&mut self, parsed: &Expr) -> Result<Typed, Fault> {
        let null_is_false = std::mem::take(&mut self.null_is_false);
        match parsed {
            Expr::Nested(inner) => Ok(self.typed_as(inner, null_is_false)?),
            Expr::Identifier(name) => self.column(&[], name),
            Expr::CompoundIdentifier(names) => match names.split_last() {
                Some((name, qualifiers)) => self.column(qualifiers, name),
                None => here("an empty name"),
            },
            Expr::Value(value) => match &value.value {
                SqlValue::Placeholder(name) => self.numbered_parameter(name),
                literal_value => Ok(literal(literal_value)?),
            },
            Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. }
            | Expr::UnaryOp { op: UnaryOperator::Not, .. } => Ok(self.boolean(parsed)),
            Expr::BinaryOp { left, op, right } => {
                if let Some(compared) = self.rows(left, op, right)? {
                    return Ok(compared);
                }
                let operator = infix(op)?;
                let (left, right) = (self.typed(left)?, self.typed(right)?);
                Ok(resolve::infix(operator, left, right)?)
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(resolve::negate(self.typed(expr)?)?),
            Expr::IsNull(operand) => Ok(Typed::boolean(self.is_null(operand)?)),
            Expr::IsNotNull(operand) => Ok(Typed::boolean(self.is_null(operand)?.negated())),
            Expr::IsTrue(operand) => Ok(self.is_truth(operand, true)),
            Expr::IsNotTrue(operand) => Ok(Typed::boolean(self.is_truth(operand, true).expression.negated())),
            Expr::IsFalse(operand) => Ok(self.is_truth(operand, false)),
            Expr::IsNotFalse(operand) => {
                Ok(Typed::boolean(self.is_truth(operand, false).expression.negated()))
            }
            Expr::IsUnknown(operand) => {
                Ok(Typed::boolean(Expression::IsNull(Box::new(self.condition(operand, false)))))
            }
            Expr::IsNotUnknown(operand) => {
                Ok(Typed::boolean(Expression::IsNull(Box::new(self.condition(operand, false))).negated()))
            }
            Expr::IsDistinctFrom(left, right) => {
                Ok(resolve::distinct(self.typed(left)?, self.typed(right)?)?)
            }
            Expr::IsNotDistinctFrom(left, right) => {
                let distinct = resolve::distinct(self.typed(left)?, self.typed(right)?)?;
                Ok(Typed::boolean(distinct.expression.negated()))
            }
            Expr::AnyOp { left, compare_op, right, .. } => {
                self.quantified((false, null_is_false), left, compare_op, right)
            }
            Expr::AllOp { left, compare_op, right } => {
                self.quantified((true, null_is_false), left, compare_op, right)
            }
            Expr::Cast { expr, data_type, format: None, .. } => {
                let (kind, modifier) =
                    type_name::kind_and_modifier(data_type, &self.surroundings.snapshot.types)?;
                let cast = resolve::cast(self.typed(expr)?, &kind)?;
                Ok(modifier.map_or(Ok(cast.clone()), |modifier| resolve::shorten(cast, modifier))?)
            }
            Expr::Collate { expr, collation } => self.collate(expr, collation),
            Expr::AtTimeZone { timestamp, time_zone } => {
                let zone = self.typed(time_zone)?;
                Ok(resolve::at_time_zone(self.typed(timestamp)?, &zone)?)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let branches = conditions.iter().map(|when| (&when.condition, &when.result)).collect();
                self.case(operand.as_deref(), branches, else_result.as_deref())
            }
            Expr::Array(array) if array.elem.iter().all(|one| !matches!(one, Expr::Array(_))) => {
                let (elements, sample) = resolve::alternatives(self.all(&array.elem)?)?;
                let kind = Kind::Array(Box::new(sample.kind));
                Ok(Typed { expression: Expression::ArrayOf(elements), kind, collation: sample.collation })
            }
            Expr::Function(function) => self.function(parsed, function, null_is_false),
            Expr::Substring { expr, substring_from: Some(from), substring_for, .. } => {
                let mut arguments = vec![self.typed(expr)?, self.typed(from)?];
                if let Some(count) = substring_for {
                    arguments.push(self.typed(count)?);
                }
                Ok(resolve::function("substring", arguments)?)
            }
            Expr::Position { expr, r#in } => {
                Ok(resolve::function("strpos", vec![self.typed(r#in)?, self.typed(expr)?])?)
            }
            Expr::Subquery(query) => match single(query) {
                Some(selected) => {
                    let typed = self.typed(selected)?;
                    Ok(self.apart(typed))
                }
                None => self.scalar_select(query),
            },
            Expr::InSubquery { expr, subquery, negated } => {
                self.in_select(expr, subquery, *negated, null_is_false)
            }
            Expr::Exists { subquery, negated } => {
                let exists = self.exists(subquery)?;
                Ok(if *negated { Typed::boolean(exists.expression.negated()) } else { exists })
            }
            other => self.construct(other),
        }
    }

    /// What a sub-select without tables comes to. Within another one it makes no difference.
    fn apart(&self, typed: Typed) -> Typed {
        let counts = self.levels.is_empty() && (typed.expression.is_constant() || typed.kind == Kind::Bool);
        if counts { Typed { expression: typed.expression.apart(), ..typed } } else { typed }
    }

    fn all(&mut self, parsed: &[Expr]) -> Result<Vec<Typed>, Unsupported> {
        parsed.iter().map(|one| self.typed(one)).collect()
    }

    fn is_null(&mut self, operand: &Expr) -> Result<Expression, Unsupported> {
        Ok(Expression::IsNull(Box::new(self.typed(operand)?.expression)))
    }

    fn is_truth(&mut self, operand: &Expr, truth: bool) -> Typed {
        let operand = Box::new(self.condition(operand, false));
        Typed::boolean(Expression::IsTruth { operand, truth })
    }

    fn quantified(
        &mut self,
        (all, null_is_false): (bool, bool),
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
    ) -> Result<Typed, Fault> {
        let operator = infix(operator)?;
        if let Some(query) = selected_set(right) {
            let quantifier = Quantifier { all, operator, null_is_false };
            return self.quantified_select(quantifier, left, query);
        }
        let operand = self.typed(left)?;
        let array = self.typed(right)?;
        Ok(resolve::quantified(all, operator, operand, array)?)
    }

    fn collate(&mut self, operand: &Expr, collation: &ObjectName) -> Result<Typed, Fault> {
        let name = collation.0.last().and_then(|part| part.as_ident()).map(|name| name.value.as_str());
        if !matches!(name, Some("C" | "POSIX")) {
            return Err(Fault::Here(format!("the collation {collation}")));
        }
        let mut typed = self.typed(operand)?;
        typed.collation = Some(Collation::Bytes);
        Ok(typed)
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        branches: Vec<(&Expr, &Expr)>,
        otherwise: Option<&Expr>,
    ) -> Result<Typed, Fault> {
        let operand = operand.map(|operand| self.typed(operand)).transpose()?;
        let mut conditions = Vec::with_capacity(branches.len());
        let mut results = Vec::with_capacity(branches.len() + 1);
        for (condition, result) in branches {
            conditions.push(match &operand {
                None => self.condition(condition, true),
                Some(operand) => {
                    let equal = Infix::Compare(Comparison::Equal);
                    resolve::infix(equal, operand.clone(), self.typed(condition)?)?.expression
                }
            });
            results.push(self.typed(result)?);
        }
        results.push(match otherwise {
            Some(otherwise) => self.typed(otherwise)?,
            None => Typed::literal(None, Kind::Untyped),
        });
        let (mut results, sample) = resolve::alternatives(results)?;
        let otherwise = Box::new(results.pop().unwrap_or(Expression::Literal(None)));
        let branches = conditions.into_iter().zip(results).collect();
        Ok(Typed { expression: Expression::Case { branches, otherwise }, ..sample })
    }

    fn function(
        &mut self,
        parsed: &Expr,
        function: &sqlparser::ast::Function,
        null_is_false: bool,
    ) -> Result<Typed, Fault> {
        let plain = function.over.is_none()
            && function.filter.is_none()
            && function.null_treatment.is_none()
            && function.within_group.is_empty();
        let names: Vec<&Ident> = function.name.0.iter().filter_map(|part| part.as_ident()).collect();
        if !plain || names.len() != function.name.0.len() {
            return here("this function call");
        }
        if let FunctionArguments::Subquery(query) = &function.args {
            return self.array_of_select(&names, query);
        }
        if matches!(names.as_slice(), [name] if name.value == "make_interval") {
            return self.make_interval(&function.args);
        }
        let arguments = arguments(&function.args)?;
        match names.as_slice() {
            [name] if matches!(function.args, FunctionArguments::None) => self.keyword(&name.value),
            [name] => {
                match (self.built_in(parsed, &identifier(name), &arguments), self.function_in_path(name)) {
                    (Err(Fault::Here(_)), Some(function)) => {
                        self.user_function(parsed, &function, &arguments, null_is_false)
                    }
                    (Ok(_), Some(_)) => here("a function whose name one of PostgreSQL's own has"),
                    (outcome, _) => outcome,
                }
            }
            [schema, name] if identifier(schema) == "pg_catalog" => {
                self.built_in(parsed, &identifier(name), &arguments)
            }
            [schema, name] => {
                let name = format!("{}.{}", identifier(schema), identifier(name));
                self.user_function(parsed, &name, &arguments, null_is_false)
            }
            _ => here("this function"),
        }
    }

    /// The functions without parentheses.
    fn keyword(&mut self, name: &str) -> Result<Typed, Fault> {
        let now = Typed::new(Expression::Now, Kind::TimestampTz);
        match name.to_ascii_uppercase().as_str() {
            "CURRENT_USER" | "CURRENT_ROLE" | "USER" => {
                let name = if self.surroundings.definer {
                    Expression::Literal(Some(Value::Text(self.surroundings.role.name.clone().into())))
                } else {
                    Expression::Setting(Setting::Role)
                };
                let mut role = Typed::new(name, Kind::Name);
                role.collation = Some(Collation::Bytes);
                Ok(role)
            }
            "CURRENT_TIMESTAMP" => Ok(now),
            "LOCALTIMESTAMP" => Ok(resolve::cast(now, &Kind::Timestamp)?),
            "CURRENT_DATE" => Ok(resolve::cast(now, &Kind::Date)?),
            "LOCALTIME" => Ok(resolve::cast(now, &Kind::Time)?),
            _ => Err(Fault::Here(format!("{name} depends on the session"))),
        }
    }

    fn built_in(&mut self, parsed: &Expr, name: &str, arguments: &[&Expr]) -> Result<Typed, Fault> {
        let mut typed = Vec::with_capacity(arguments.len());
        for argument in arguments {
            typed.push(self.typed(argument)?);
        }
        match name {
            "coalesce" => {
                let (operands, sample) = resolve::alternatives(typed)?;
                return Ok(Typed { expression: Expression::Coalesce(operands), ..sample });
            }
            "greatest" | "least" => return Ok(resolve::extreme(name == "greatest", typed)?),
            "nullif" => {
                let pair: Result<[Typed; 2], _> = typed.try_into();
                let Ok([left, right]) = pair else { return here("NULLIF of other than two") };
                return Ok(resolve::nullif(left, right)?);
            }
            "current_setting" => {
                if let Some(setting) = known_setting(&typed, self.judged) {
                    return Ok(Typed::new(setting, Kind::Text));
                }
            }
            _ => {}
        }
        let constant = typed.iter().all(|typed| typed.expression.is_constant());
        let kinds: Vec<Kind> = typed
            .iter()
            .map(|typed| if typed.kind == Kind::Untyped { Kind::Text } else { typed.kind.clone() })
            .collect();
        match constants::foreign_function(name, &kinds) {
            Some(kind) if constant && self.is_same_outside(parsed) => Ok(self.foreign(parsed, kind)),
            _ => Ok(resolve::function(name, typed)?),
        }
    }

    fn in_select(
        &mut self,
        operand: &Expr,
        query: &Query,
        negated: bool,
        null_is_false: bool,
    ) -> Result<Typed, Fault> {
        let operator = Infix::Compare(Comparison::Equal);
        let null_is_false = null_is_false && !negated;
        let quantifier = Quantifier { all: false, operator, null_is_false };
        let found = self.quantified_select(quantifier, operand, query)?;
        Ok(if negated { Typed::boolean(found.expression.negated()) } else { found })
    }

    fn array_of_select(&mut self, names: &[&Ident], query: &Query) -> Result<Typed, Fault> {
        if !matches!(names, [name] if name.value.eq_ignore_ascii_case("array")) {
            return here("this function of a sub-select");
        }
        let elements = match single(query) {
            Some(selected) => self.element_texts(selected)?,
            None => None,
        };
        elements.map_or_else(|| here("an array of a sub-select"), Ok)
    }

    /// `jsonb_array_elements_text(…)` as an array, where the selected expression is that; no rows of NULL.
    fn element_texts(&mut self, selected: &Expr) -> Result<Option<Typed>, Fault> {
        let Expr::Function(function) = selected else { return Ok(None) };
        if function.name.to_string() != "jsonb_array_elements_text" {
            return Ok(None);
        }
        let arguments = arguments(&function.args)?;
        let [argument] = arguments.as_slice() else { return Ok(None) };
        let json = self.typed(argument)?;
        if json.kind != Kind::Jsonb {
            return here("elements of another type than jsonb");
        }
        let kind = Kind::Array(Box::new(Kind::Text));
        let elements = Expression::Call(Operation::JsonElementTexts, vec![json.expression]);
        let none = Expression::Literal(Some(Value::Array(Cow::Owned(Array::default()))));
        Ok(Some(self.apart(Typed::new(Expression::Coalesce(vec![elements, none]), kind))))
    }
}

/// Longer texts are left to PostgreSQL: their syntax trees would be deeper than a stack should be.
const TEXT_MAX: usize = 64 * 1024;

fn parse(text: &str) -> Result<Expr, String> {
    if text.len() > TEXT_MAX {
        return Err("a text of this length".to_owned());
    }
    let mut parser = tokens::parser(text)?;
    let parsed = parser.parse_expr().map_err(|error| error.to_string())?;
    if parser.peek_token() == Token::EOF { Ok(parsed) } else { Err("text after the expression".to_owned()) }
}
