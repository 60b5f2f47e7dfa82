//! Functions outside `pg_catalog`: the body of one that is written in SQL stands in place of its call, so that
//! `auth.uid()` and `is_member(room)` are known by what they say, not by their names.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Query, Visit, Visitor};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::{Compiler, Fault, Names, Parameter, Surroundings, TEXT_MAX, here, single, tokens};
use crate::constants::{self, Values};
use crate::expression::{Expression, Setting, built_in_type};
use crate::look_up::Several;
use crate::resolve::{self, Typed};
use crate::schema::{Function, Role, Volatility};
use crate::value::Kind;

/// Functions that call functions that call functions … are left to PostgreSQL below this depth.
const DEPTH_MAX: usize = 8;

/// The body of a function.
pub(super) enum Body {
    /// `RETURN expression`, or `SELECT expression`.
    Expression(Box<Expr>),
    /// A query over tables.
    Query(Box<Query>),
}

impl<'a> Compiler<'a> {
    pub(super) fn user_function(
        &mut self,
        parsed: &Expr,
        name: &str,
        arguments: &[&Expr],
        null_is_false: bool,
    ) -> Result<Typed, Fault> {
        let arguments = arguments.iter().map(|one| self.typed(one)).collect::<Result<Vec<_>, _>>()?;
        let function = self.function_named(name, arguments.len())?;
        let declared = self.kind_of(function.returns, name)?;
        let constant = arguments.iter().all(|typed| typed.expression.is_constant());
        match self.inlined(name, function, &declared, arguments, null_is_false) {
            Err(_)
                if function.volatility == Volatility::Immutable
                    && constant
                    && self.surroundings.depth == 0
                    && reads_arguments_only(&function.body) =>
            {
                Ok(self.foreign(parsed, declared))
            }
            outcome => outcome,
        }
    }

    /// The one function with this name, `schema.name`, and so many arguments.
    pub(super) fn function_named(&mut self, name: &str, arguments: usize) -> Result<&'a Function, String> {
        let snapshot = self.surroundings.snapshot;
        let overloads = snapshot.functions.get(name).map_or(&[][..], Vec::as_slice);
        let mut fitting = overloads.iter().filter(|function| function.arguments.len() == arguments);
        let (Some(function), None) = (fitting.next(), fitting.next()) else {
            return Err(format!("the function {name} is not known or has several forms"));
        };
        // What PostgreSQL wrote needs no looking up, and so no right on the schema.
        let by_text = self.surroundings.names != Names::Qualified;
        let schema = name.split_once('.').map_or("", |(schema, _)| schema);
        if by_text && !self.surroundings.role.schemas.contains(schema) {
            self.only_oracle = true;
            return Err(format!("permission denied for schema {schema}"));
        }
        if !self.surroundings.role.executes.contains(&function.oid) {
            self.only_oracle = true;
            return Err(format!("permission denied for function {name}"));
        }
        Ok(function)
    }

    pub(super) fn kind_of(&self, oid: walcast_pgoutput::Oid, name: &str) -> Result<Kind, String> {
        let types = &self.surroundings.snapshot.types;
        built_in_type(oid)
            .or_else(|| Some(Kind::of(types, oid)))
            .filter(|kind| !matches!(kind, Kind::Opaque(_)))
            .ok_or_else(|| format!("a type of the function {name}"))
    }

    fn inlined(
        &mut self,
        name: &str,
        function: &'a Function,
        declared: &Kind,
        arguments: Vec<Typed>,
        null_is_false: bool,
    ) -> Result<Typed, Fault> {
        if function.returns_set {
            return Err(Fault::Here(format!("the function {name} returns a set")));
        }
        let any_null = function.strict.then(|| {
            Expression::Or(
                arguments.iter().map(|one| Expression::IsNull(Box::new(one.expression.clone()))).collect(),
            )
        });
        let failing = failing(&arguments);
        let literal = arguments.iter().all(|one| matches!(one.expression, Expression::Literal(_)));
        let (typed, plain) = self.in_body(name, function, arguments, |compiler, body| {
            let plain =
                matches!(&body, Body::Expression(parsed) if parsed.visit(&mut Selecting).is_continue());
            let typed = match body {
                Body::Expression(parsed) => compiler.typed_as(&parsed, null_is_false)?,
                Body::Query(query) => compiler.value_select(&query, Several::Chooses)?,
            };
            let untyped = typed.kind == Kind::Untyped;
            Ok((if untyped { resolve::cast(typed, declared)? } else { typed }, plain))
        })?;
        // PostgreSQL puts the body in place of the call, and then knows of the arguments only what the body reads.
        // It computes one that is IMMUTABLE of literals ahead of time.
        let inlined = plain && !function.security_definer && function.search_path.is_none()
            || (literal && function.volatility == Volatility::Immutable);
        if typed.kind != *declared {
            let (declared, found) = (declared.sql_name(), typed.kind.sql_name());
            return Err(Fault::Here(format!("the function {name} returns {declared}, not {found}")));
        }
        let typed = if failing.is_empty() || (inlined && !function.strict) {
            typed
        } else {
            let body = Box::new(typed.expression);
            Typed { expression: Expression::Body { arguments: failing, body }, ..typed }
        };
        let typed = match any_null {
            Some(Expression::Or(tests)) if !tests.is_empty() => {
                let branches = vec![(Expression::Or(tests), Expression::Literal(None))];
                Typed {
                    expression: Expression::Case { branches, otherwise: Box::new(typed.expression) },
                    ..typed
                }
            }
            _ => typed,
        };
        Ok(if inlined {
            typed
        } else {
            let expression = unfolded(typed.expression);
            let is_test = typed.kind == Kind::Bool && !expression.is_constant();
            Typed { expression: if is_test { expression.apart() } else { expression }, ..typed }
        })
    }

    /// Compiles something of a function's body as its call runs it: a query of its own, with the function's
    /// privileges and names.
    pub(super) fn in_body<T>(
        &mut self,
        name: &str,
        function: &'a Function,
        arguments: Vec<Typed>,
        compile: impl FnOnce(&mut Self, Body) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let fault = |reason: &str| Fault::Here(format!("the function {name} {reason}"));
        if function.volatility == Volatility::Volatile {
            return Err(fault("is VOLATILE"));
        }
        if function.language != "sql" {
            return Err(fault(&format!("is written in {}", function.language)));
        }
        if function.variadic || function.has_settings {
            return Err(fault("has settings of its own or any number of arguments"));
        }
        if self.surroundings.depth >= DEPTH_MAX || self.calling.contains(&function.oid) {
            return Err(fault("is called too deep inside others or by itself"));
        }
        let role = if function.security_definer { self.owner(function)? } else { self.surroundings.role };
        let parameters = self.parameters_of(name, function, arguments)?;
        let body = body(&function.body).map_err(|reason| fault(&format!("can not be read: {reason}")))?;
        let path = function.search_path.as_deref().unwrap_or(&self.surroundings.snapshot.search_path);
        let inner = Surroundings {
            table: None,
            snapshot: self.surroundings.snapshot,
            role,
            definer: self.surroundings.definer || function.security_definer,
            names: if function.resolved { Names::Qualified } else { Names::SearchPath(path) },
            depth: self.surroundings.depth + 1,
        };
        let outer = std::mem::replace(&mut self.surroundings, inner);
        let levels = std::mem::take(&mut self.levels);
        let parameters = std::mem::replace(&mut self.parameters, parameters);
        let active = std::mem::take(&mut self.active);
        let (left_before, foreign_before) = (self.unsupported.len(), self.foreign.len());
        self.calling.push(function.oid);
        let compiled = compile(self, body);
        self.calling.pop();
        self.surroundings = outer;
        self.levels = levels;
        self.parameters = parameters;
        self.active = active;
        let left = (self.unsupported.len() > left_before).then(|| self.unsupported.swap_remove(left_before));
        self.unsupported.truncate(left_before);
        match (compiled, left) {
            (Ok(compiled), None) => Ok(compiled),
            (Err(Fault::Below(unsupported)), _) | (Ok(_), Some(unsupported)) => {
                self.foreign.truncate(foreign_before);
                Err(fault(&format!("has {}", unsupported.reason)))
            }
            (Err(Fault::Here(reason)), _) => {
                self.foreign.truncate(foreign_before);
                Err(fault(&format!("has {reason}")))
            }
        }
    }

    fn owner(&self, function: &Function) -> Result<&'a Role, Fault> {
        let snapshot = self.surroundings.snapshot;
        let found = snapshot.roles.values().find(|role| role.oid == function.owner);
        found.map_or_else(|| here("a function whose owner is not known"), |role| Ok(&**role))
    }

    fn parameters_of(
        &self,
        name: &str,
        function: &Function,
        arguments: Vec<Typed>,
    ) -> Result<Vec<Parameter>, Fault> {
        let own_name = name.rsplit('.').next().unwrap_or(name);
        let overloads = self.surroundings.snapshot.functions.get(name).map_or(0, Vec::len);
        let mut parameters = Vec::with_capacity(arguments.len());
        for (place, (argument, oid)) in arguments.into_iter().zip(&function.arguments).enumerate() {
            let kind = self.kind_of(*oid, name)?;
            if overloads > 1 && argument.kind != kind {
                // One with default values for more arguments may fit better.
                return Err(Fault::Here(format!("the function {name} has several forms")));
            }
            let value = resolve::argument(argument, &kind)?;
            let parameter = function.argument_names.get(place).cloned().unwrap_or_default();
            parameters.push(Parameter { function: own_name.to_owned(), name: parameter, value });
        }
        Ok(parameters)
    }
}

/// Breaks at the first sub-select.
struct Selecting;

impl Visitor for Selecting {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

/// What a function comes to that PostgreSQL calls and does not put in place of its call. Its planner does not know
/// a value that literals decide in there: it decides nothing of what is around the call.
fn unfolded(body: Expression) -> Expression {
    let mut folded = body.clone();
    if constants::fold(&mut folded).is_err() || !matches!(folded, Expression::Literal(_)) {
        return body;
    }
    // Settings are not known to it either.
    let never = Expression::IsNull(Box::new(Expression::Setting(Setting::Role)));
    Expression::Case { branches: vec![(never, Expression::Literal(None))], otherwise: Box::new(folded) }
}

/// Whether a function that is declared IMMUTABLE seems to be so. Many are not: they read tables or the claims, and
/// then a value must not be kept.
fn reads_arguments_only(body: &str) -> bool {
    let body = body.to_ascii_lowercase();
    let others = ["from", "perform", "execute", "current", "session", "setting", "auth.", "now("];
    !others.iter().any(|other| body.contains(other))
}

/// The arguments that may raise.
pub(super) fn failing(arguments: &[Typed]) -> Vec<Expression> {
    let failing = arguments.iter().filter(|one| one.expression.may_fail(Values::NONE));
    failing.map(|one| one.expression.clone()).collect()
}

/// Reads the body of an SQL function: one SELECT, or RETURN, perhaps in BEGIN ATOMIC.
fn body(text: &str) -> Result<Body, String> {
    if text.len() > TEXT_MAX {
        return Err("a text of this length".to_owned());
    }
    let mut parser = tokens::parser(text)?;
    let is_word = |parser: &Parser<'_>, expected: &str| matches!(&parser.peek_token().token, Token::Word(word) if word.value.eq_ignore_ascii_case(expected));
    let atomic = is_word(&parser, "begin");
    if atomic {
        parser.next_token();
        parser.next_token();
    }
    let body = if is_word(&parser, "return") {
        parser.next_token();
        Body::Expression(Box::new(parser.parse_expr().map_err(|error| error.to_string())?))
    } else {
        let query = parser.parse_query().map_err(|error| error.to_string())?;
        match single(&query) {
            Some(expression) => Body::Expression(Box::new(expression.clone())),
            None => Body::Query(query),
        }
    };
    let _ended = parser.consume_token(&Token::SemiColon);
    if atomic && is_word(&parser, "end") {
        parser.next_token();
    }
    if parser.peek_token() != Token::EOF {
        return Err("more than one statement".to_owned());
    }
    Ok(body)
}
