//! Functions outside `pg_catalog`: the body of one that is written in SQL stands in place of its call, so that
//! `auth.uid()` and `is_member(room)` are known by what they say, not by their names.

use sqlparser::ast::{Expr, Query};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::{Compiler, Fault, Names, Parameter, Surroundings, TEXT_MAX, here, single, tokens};
use crate::expression::{Expression, built_in_type};
use crate::resolve::{self, Typed};
use crate::schema::{Function, Role, Volatility};
use crate::value::Kind;

/// Functions that call functions that call functions … are left to PostgreSQL below this depth.
const DEPTH_MAX: usize = 8;

/// The body of a function.
pub(super) enum Body {
    /// `RETURN expression`, or `SELECT expression`.
    Expression(Expr),
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
                if function.volatility == Volatility::Immutable && constant && self.parameters.is_empty() =>
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

    fn kind_of(&self, oid: walcast_pgoutput::Oid, name: &str) -> Result<Kind, String> {
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
        let typed = self.in_body(name, function, arguments, |compiler, body| {
            let typed = match body {
                Body::Expression(parsed) => compiler.typed_as(&parsed, null_is_false)?,
                Body::Query(query) => compiler.scalar_select(&query)?,
            };
            Ok(if typed.kind == Kind::Untyped { resolve::cast(typed, declared)? } else { typed })
        })?;
        if typed.kind != *declared {
            let (declared, found) = (declared.sql_name(), typed.kind.sql_name());
            return Err(Fault::Here(format!("the function {name} returns {declared}, not {found}")));
        }
        Ok(match any_null {
            Some(Expression::Or(tests)) if !tests.is_empty() => {
                let branches = vec![(Expression::Or(tests), Expression::Literal(None))];
                Typed {
                    expression: Expression::Case { branches, otherwise: Box::new(typed.expression) },
                    ..typed
                }
            }
            _ => typed,
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
        if self.surroundings.depth >= DEPTH_MAX {
            return Err(fault("is called too deep inside others"));
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
        let compiled = compile(self, body);
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
        let mut parameters = Vec::with_capacity(arguments.len());
        for (place, (argument, oid)) in arguments.into_iter().zip(&function.arguments).enumerate() {
            let value = resolve::argument(argument, &self.kind_of(*oid, name)?)?;
            let parameter = function.argument_names.get(place).cloned().unwrap_or_default();
            parameters.push(Parameter { function: own_name.to_owned(), name: parameter, value });
        }
        Ok(parameters)
    }
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
        Body::Expression(parser.parse_expr().map_err(|error| error.to_string())?)
    } else {
        let query = parser.parse_query().map_err(|error| error.to_string())?;
        match single(&query) {
            Some(expression) => Body::Expression(expression.clone()),
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
