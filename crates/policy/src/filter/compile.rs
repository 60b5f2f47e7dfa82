//! From conditions to expressions, questions and checks.

use std::borrow::Cow;

use crate::array::Array;
use crate::expression::Expression;
use crate::filter::{Condition, Conditions, FilterCondition, FilterError, FilterOperator, FilterValue};
use crate::operation::Comparison;
use crate::resolve::{self, Infix, Typed};
use crate::schema::{Column, Table, Type, TypeKind, Types};
use crate::value::{Kind, Value};

/// The most elements of `in` (`docs/protocol.md` §5.2).
const LIST_MAX: usize = 100;

/// Compiles the conditions of one filter; with the SQL that says the same of a row.
pub(super) fn conditions(
    table: &Table,
    types: &Types,
    written: Vec<FilterCondition>,
) -> Result<(Conditions, String), FilterError> {
    let mut compiled = Conditions {
        table: table.oid,
        all: Vec::with_capacity(written.len()),
        question: None,
        checks: Vec::new(),
        check_is_regex: Vec::new(),
    };
    let mut questions = Vec::with_capacity(written.len());
    for condition in written {
        let column = table
            .columns
            .get(condition.column)
            .ok_or_else(|| invalid(format!("invalid column for filter {}", condition.column)))?;
        let base = types
            .base(column.type_oid)
            .ok_or_else(|| invalid(format!("failed to lookup type for column {}", column.name)))?;
        let subject = Subject {
            column,
            index: condition.column,
            kind: Kind::of(types, column.type_oid),
            base,
            is_domain: base.oid != column.type_oid,
        };
        let compiled_condition = subject.compile(condition.operator, &condition.value)?;
        let mut expression = compiled_condition.expression;
        let mut sql = compiled_condition.sql;
        if condition.negated {
            expression = expression.negated();
            sql = format!("(NOT {sql})");
        }
        for (check, is_regex) in compiled_condition.checks {
            if !compiled.checks.contains(&check) {
                compiled.checks.push(check);
                compiled.check_is_regex.push(is_regex);
            }
        }
        compiled.all.push(Condition { column: condition.column, expression });
        questions.push(sql);
    }
    let sql = questions.join(" AND ");
    if compiled.all.iter().any(|condition| condition.expression.may_ask()) {
        compiled.question = Some(sql.clone());
    }
    Ok((compiled, sql))
}

fn invalid(message: String) -> FilterError {
    FilterError::Invalid(message)
}

/// The left side of a condition.
struct Subject<'a> {
    column: &'a Column,
    index: usize,
    kind: Kind,
    base: &'a Type,
    is_domain: bool,
}

/// A condition before `not.`.
struct Compiled {
    expression: Expression,
    sql: String,
    /// What PostgreSQL must accept, and whether that is a regular expression.
    checks: Vec<(String, bool)>,
}

impl Subject<'_> {
    fn compile(&self, operator: FilterOperator, value: &FilterValue) -> Result<Compiled, FilterError> {
        let one = || match value {
            FilterValue::One(literal) => Ok(literal.as_str()),
            FilterValue::List(_) => Err(invalid("a list of values is for the `in` filter only".to_owned())),
        };
        match operator {
            FilterOperator::In => match value {
                FilterValue::List(elements) => self.any_of(elements),
                FilterValue::One(_) => {
                    Err(invalid("`in` filter value must be wrapped by parentheses".to_owned()))
                }
            },
            FilterOperator::Is => self.is(one()?),
            FilterOperator::Like => self.pattern(one()?, "like", "~~"),
            FilterOperator::Ilike => self.pattern(one()?, "ilike", "~~*"),
            FilterOperator::Match => self.pattern(one()?, "match", "~"),
            FilterOperator::Imatch => self.pattern(one()?, "imatch", "~*"),
            FilterOperator::IsDistinct => self.compare(one()?, "IS DISTINCT FROM", resolve::distinct),
            FilterOperator::Eq => self.ordered(one()?, "=", Comparison::Equal),
            FilterOperator::Neq => self.ordered(one()?, "<>", Comparison::NotEqual),
            FilterOperator::Lt => self.ordered(one()?, "<", Comparison::Less),
            FilterOperator::Lte => self.ordered(one()?, "<=", Comparison::LessOrEqual),
            FilterOperator::Gt => self.ordered(one()?, ">", Comparison::Greater),
            FilterOperator::Gte => self.ordered(one()?, ">=", Comparison::GreaterOrEqual),
        }
    }

    fn ordered(&self, literal: &str, sql: &str, comparison: Comparison) -> Result<Compiled, FilterError> {
        self.compare(literal, sql, |left, right| resolve::infix(Infix::Compare(comparison), left, right))
    }

    fn compare(
        &self,
        literal: &str,
        operator: &str,
        resolve: impl FnOnce(Typed, Typed) -> Result<Typed, String>,
    ) -> Result<Compiled, FilterError> {
        let quoted = self.literal(literal)?;
        let resolved = self
            .read(literal)
            .and_then(|value| resolve(self.operand(), Typed::literal(Some(value), self.kind.clone())).ok());
        let known = resolved.is_some() && !self.is_domain;
        Ok(Compiled {
            expression: resolved.map_or(Expression::Oracle, |typed| typed.expression),
            sql: format!("({} {operator} {quoted})", self.name()),
            // Casts the literal, and finds out whether the type has the operator.
            checks: if known { Vec::new() } else { vec![(probe(operator, &quoted), false)] },
        })
    }

    fn any_of(&self, elements: &[String]) -> Result<Compiled, FilterError> {
        if elements.len() > LIST_MAX {
            return Err(invalid(format!("too many values for `in` filter. Maximum {LIST_MAX}")));
        }
        if elements.is_empty() {
            let nothing = Expression::Literal(Some(Value::Bool(false)));
            return Ok(Compiled { expression: nothing, sql: "false".to_owned(), checks: Vec::new() });
        }
        let quoted = elements.iter().map(|one| self.literal(one)).collect::<Result<Vec<_>, _>>()?;
        let choices: Vec<String> = quoted.iter().map(|one| format!("{} = {one}", self.name())).collect();
        let resolved = self.resolve_any_of(elements);
        let known = resolved.is_some() && !self.is_domain;
        Ok(Compiled {
            expression: resolved.unwrap_or(Expression::Oracle),
            sql: format!("({})", choices.join(" OR ")),
            checks: if known {
                Vec::new()
            } else {
                quoted.iter().map(|one| (probe("=", one), false)).collect()
            },
        })
    }

    fn resolve_any_of(&self, elements: &[String]) -> Option<Expression> {
        let values: Vec<Value<'static>> = elements.iter().map(|one| self.read(one)).collect::<Option<_>>()?;
        let equal = Infix::Compare(Comparison::Equal);
        if matches!(self.kind, Kind::Array(_) | Kind::Char) {
            let each = values.into_iter().map(|value| {
                let literal = Typed::literal(Some(value), self.kind.clone());
                resolve::infix(equal, self.operand(), literal).ok().map(|typed| typed.expression)
            });
            return each.collect::<Option<Vec<_>>>().map(Expression::Or);
        }
        let array = Array::of(values.into_iter().map(Some).collect());
        let array = Value::Array(Cow::Owned(array));
        let literal = Typed::literal(Some(array), Kind::Array(Box::new(self.kind.clone())));
        resolve::quantified(false, equal, self.operand(), literal).ok().map(|typed| typed.expression)
    }

    fn is(&self, value: &str) -> Result<Compiled, FilterError> {
        let operand = Box::new(Expression::column(self.index, self.kind.clone()));
        let boolean = |operand| -> Result<Expression, FilterError> {
            if self.kind == Kind::Bool {
                return Ok(operand);
            }
            let type_name = &self.column.sql_type;
            Err(invalid(format!("is {value} filter requires a boolean column, got {type_name}")))
        };
        // A row whose fields are all NULL is NULL, which the text of it does not show directly.
        let composite = matches!(self.base.kind, TypeKind::Composite { .. });
        let expression = match value {
            "null" if composite => Expression::Oracle,
            "null" => Expression::IsNull(operand),
            "true" => boolean(Expression::IsTruth { operand, truth: true })?,
            "false" => boolean(Expression::IsTruth { operand, truth: false })?,
            "unknown" => boolean(Expression::IsNull(operand))?,
            _ => {
                let message = "invalid value for is filter: must be null, true, false, or unknown";
                return Err(invalid(message.to_owned()));
            }
        };
        let sql = format!("({} IS {})", self.name(), value.to_ascii_uppercase());
        Ok(Compiled { expression, sql, checks: Vec::new() })
    }

    fn pattern(&self, pattern: &str, name: &str, operator: &str) -> Result<Compiled, FilterError> {
        let like = matches!(operator, "~~" | "~~*");
        let bytes = self.kind == Kind::Bytea && operator == "~~";
        let text = self.kind.is_text() || self.base.name == "citext";
        if !text && !bytes {
            return Err(invalid(format!(
                "operator {name} requires a text-compatible column type, got {}",
                self.column.sql_type
            )));
        }
        let quoted = quoted(pattern)?;
        let infix = match operator {
            "~~" | "~~*" => Infix::Like { insensitive: operator == "~~*", negated: false },
            _ => Infix::Match { insensitive: operator == "~*", negated: false },
        };
        let literal = Typed::literal(Some(Value::Text(Cow::Owned(pattern.to_owned()))), Kind::Text);
        let resolved = resolve::infix(infix, self.operand(), literal).ok();
        let pattern_type = if bytes { "bytea" } else { "text" };
        let mut checks = Vec::new();
        if bytes {
            checks.push((format!("{quoted}::bytea"), false));
        } else if resolved.is_none() && !like {
            checks.push((format!("(''::text {operator} {quoted}::text)"), true));
        }
        Ok(Compiled {
            expression: resolved.map_or(Expression::Oracle, |typed| typed.expression),
            sql: format!("({} {operator} {quoted}::{pattern_type})", self.name()),
            checks,
        })
    }

    fn operand(&self) -> Typed {
        let mut typed = Typed::new(Expression::column(self.index, self.kind.clone()), self.kind.clone());
        typed.collation = Some(self.column.collation);
        typed
    }

    /// The column in SQL.
    fn name(&self) -> String {
        format!("\"{}\"", self.column.name.replace('"', "\"\""))
    }

    /// A literal as a value, where we read it exactly as PostgreSQL does.
    fn read(&self, literal: &str) -> Option<Value<'static>> {
        let literal = self.completed(literal);
        self.kind.read(&literal).ok().map(Value::into_owned)
    }

    /// A literal in SQL, cast to the column's type. Lengths and precisions are left out where they would
    /// cut the literal off, so that `abc` is not taken for the `char(1)` value `a`.
    fn literal(&self, literal: &str) -> Result<String, FilterError> {
        Ok(format!("{}::{}", quoted(&self.completed(literal))?, self.type_name()))
    }

    /// Bytes are given in hexadecimal, with or without `\x` (`docs/protocol.md` §5.4).
    fn completed<'a>(&self, literal: &'a str) -> Cow<'a, str> {
        let bare = literal.len().is_multiple_of(2) && literal.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.kind == Kind::Bytea && bare { format!("\\x{literal}").into() } else { literal.into() }
    }

    fn type_name(&self) -> String {
        let is_known = |kind: &Kind| !matches!(kind, Kind::Enum(_) | Kind::Opaque(_));
        let built_in = match &self.kind {
            Kind::Array(element) => is_known(element),
            kind => is_known(kind),
        };
        if built_in && !self.is_domain { self.kind.sql_name() } else { self.column.sql_type.clone() }
    }
}

/// SQL that raises where the literal or the operator is not valid for the type.
fn probe(operator: &str, quoted: &str) -> String {
    format!("({quoted} {operator} {quoted})")
}

/// A string literal in SQL.
fn quoted(text: &str) -> Result<String, FilterError> {
    if text.contains('\0') {
        return Err(FilterError::Refused {
            code: "22021".to_owned(),
            message: "invalid byte sequence for encoding \"UTF8\": 0x00".to_owned(),
        });
    }
    let doubled = text.replace('\'', "''");
    Ok(if text.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    })
}
