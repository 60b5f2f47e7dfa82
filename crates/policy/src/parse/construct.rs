//! Constructs with a syntax of their own: `EXTRACT`, `TRIM`, subscripts, and what PostgreSQL prints in another
//! way than it is written (`IN`, `BETWEEN`, `LIKE`), as the bodies of functions have it.

use sqlparser::ast::{
    AccessExpr, BinaryOperator, CeilFloorKind, DataType, DateTimeField, Expr, FunctionArg, FunctionArgExpr,
    FunctionArgOperator, FunctionArguments, Subscript, TrimWhereField, UnaryOperator, Value as SqlValue,
};

use super::{Compiler, Fault, here, type_name};
use crate::expression::Expression;
use crate::operation::Comparison;
use crate::resolve::{self, Infix, Typed};
use crate::value::{Kind, Value};

const EQUAL: Infix = Infix::Compare(Comparison::Equal);

impl Compiler<'_> {
    pub(super) fn construct(&mut self, parsed: &Expr) -> Result<Typed, Fault> {
        match parsed {
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => Ok(resolve::plus(self.typed(expr)?)?),
            Expr::UnaryOp { op: UnaryOperator::PGAbs, expr } => Ok(resolve::absolute(self.typed(expr)?)?),
            Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr } => {
                Ok(resolve::complement(self.typed(expr)?)?)
            }
            Expr::Extract { field, expr, .. } => Ok(resolve::extract(&field.to_string(), self.typed(expr)?)?),
            Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                Ok(resolve::function("ceil", vec![self.typed(expr)?])?)
            }
            Expr::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                Ok(resolve::function("floor", vec![self.typed(expr)?])?)
            }
            Expr::Trim { expr, trim_where, trim_what, trim_characters } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut arguments = vec![self.typed(expr)?];
                if let Some(what) = trim_what {
                    arguments.push(self.typed(what)?);
                }
                arguments.extend(self.all(trim_characters.as_deref().unwrap_or_default())?);
                Ok(resolve::function(name, arguments)?)
            }
            Expr::TypedString(string) => self.string(&string.data_type, &string.value.value),
            Expr::Interval(interval)
                if interval.leading_field.is_none() && interval.fractional_seconds_precision.is_none() =>
            {
                let Expr::Value(value) = &*interval.value else { return here("this interval") };
                self.string(&DataType::Interval { fields: None, precision: None }, &value.value)
            }
            Expr::Between { expr, negated, low, high } => {
                let operand = self.typed(expr)?;
                let (low, high) = (self.typed(low)?, self.typed(high)?);
                let [least, most] = [Comparison::GreaterOrEqual, Comparison::LessOrEqual].map(Infix::Compare);
                let both = Expression::And(vec![
                    resolve::infix(least, operand.clone(), low)?.expression,
                    resolve::infix(most, operand, high)?.expression,
                ]);
                Ok(Typed::boolean(if *negated { both.negated() } else { both }))
            }
            Expr::InList { expr, list, negated } => {
                let found = self.in_list(expr, list)?;
                Ok(if *negated { Typed::boolean(found.expression.negated()) } else { found })
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                let operator = Infix::Like { insensitive: false, negated: *negated };
                self.like(operator, expr, pattern, escape_char.as_deref())
            }
            Expr::ILike { negated, any: false, expr, pattern, escape_char } => {
                let operator = Infix::Like { insensitive: true, negated: *negated };
                self.like(operator, expr, pattern, escape_char.as_deref())
            }
            Expr::SimilarTo { negated, expr, pattern, escape_char } => {
                let operand = self.typed(expr)?;
                let pattern = self.escaped("similar_to_escape", pattern, escape_char.as_deref())?;
                let operator = Infix::Match { insensitive: false, negated: *negated };
                Ok(resolve::infix(operator, operand, pattern)?)
            }
            Expr::CompoundFieldAccess { root, access_chain } => self.subscripted(root, access_chain),
            _ => here("this construct"),
        }
    }

    /// `make_interval`, whose arguments are named.
    pub(super) fn make_interval(&mut self, arguments: &FunctionArguments) -> Result<Typed, Fault> {
        let FunctionArguments::List(list) = arguments else { return here("this function call") };
        let mut named = Vec::with_capacity(list.args.len());
        for argument in &list.args {
            let FunctionArg::ExprNamed {
                name: Expr::Identifier(name),
                arg: FunctionArgExpr::Expr(value),
                operator: FunctionArgOperator::RightArrow | FunctionArgOperator::Assignment,
            } = argument
            else {
                return here("an argument of make_interval without a name");
            };
            named.push((name.value.clone(), self.typed(value)?));
        }
        Ok(resolve::make_interval(named)?)
    }

    /// `type 'literal'`.
    fn string(&mut self, data_type: &DataType, value: &SqlValue) -> Result<Typed, Fault> {
        let SqlValue::SingleQuotedString(text) = value else { return here("this literal") };
        let literal = Typed::literal(Some(Value::Text(text.clone().into())), Kind::Untyped);
        let kind = type_name::kind(data_type, &self.surroundings.snapshot.types)?;
        Ok(resolve::cast(literal, &kind)?)
    }

    /// Literals are looked through as an array, as PostgreSQL does; one by one they compare the same.
    fn in_list(&mut self, operand: &Expr, list: &[Expr]) -> Result<Typed, Fault> {
        let mut alternatives = Vec::with_capacity(list.len());
        for one in list {
            if !is_literal(one) {
                // Which of them are evaluated, should one of them raise, is PostgreSQL's to say.
                return here("a list of more than literals");
            }
            alternatives.push(self.equal(operand, one)?.expression);
        }
        Ok(Typed::boolean(Expression::Or(alternatives)))
    }

    /// `left = right`, also of rows.
    fn equal(&mut self, left: &Expr, right: &Expr) -> Result<Typed, Fault> {
        let (Expr::Tuple(left), Expr::Tuple(right)) = (left, right) else {
            return Ok(resolve::infix(EQUAL, self.typed(left)?, self.typed(right)?)?);
        };
        if left.len() != right.len() {
            return here("rows of unequal length");
        }
        let mut all = Vec::with_capacity(left.len());
        for (left, right) in left.iter().zip(right) {
            all.push(self.equal(left, right)?.expression);
        }
        Ok(Typed::boolean(Expression::And(all)))
    }

    fn like(
        &mut self,
        operator: Infix,
        operand: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
    ) -> Result<Typed, Fault> {
        let operand = self.typed(operand)?;
        let pattern = match escape {
            None => self.typed(pattern)?,
            Some(_) => self.escaped("like_escape", pattern, escape)?,
        };
        Ok(resolve::infix(operator, operand, pattern)?)
    }

    fn escaped(&mut self, function: &str, pattern: &Expr, escape: Option<&Expr>) -> Result<Typed, Fault> {
        let mut arguments = vec![resolve::cast(self.typed(pattern)?, &Kind::Text)?];
        if let Some(escape) = escape {
            arguments.push(resolve::cast(self.typed(escape)?, &Kind::Text)?);
        }
        Ok(resolve::function(function, arguments)?)
    }

    /// `array[subscript]`, `jsonb['key']`, of a column with its table's name too.
    fn subscripted(&mut self, root: &Expr, chain: &[AccessExpr]) -> Result<Typed, Fault> {
        let dots = chain.iter().take_while(|access| matches!(access, AccessExpr::Dot(_))).count();
        let (dots, subscripts) = chain.split_at(dots);
        let mut found = match root {
            root if dots.is_empty() => self.typed(root)?,
            Expr::Identifier(first) => {
                let mut names = vec![first.clone()];
                for dot in dots {
                    let AccessExpr::Dot(Expr::Identifier(name)) = dot else { return here("this access") };
                    names.push(name.clone());
                }
                self.typed(&Expr::CompoundIdentifier(names))?
            }
            _ => return here("a field of a row"),
        };
        for (at, access) in subscripts.iter().enumerate() {
            let AccessExpr::Subscript(Subscript::Index { index }) = access else {
                return here("a slice of an array");
            };
            let index = self.typed(index)?;
            found = match found.kind {
                Kind::Jsonb => resolve::subscripted_document(found, index)?,
                _ if at == 0 && subscripts.len() == 1 => resolve::element(found, index)?,
                _ => return here("several subscripts"),
            };
        }
        Ok(found)
    }

    /// A comparison of rows, where it is one.
    pub(super) fn rows(
        &mut self,
        left: &Expr,
        operator: &BinaryOperator,
        right: &Expr,
    ) -> Result<Option<Typed>, Fault> {
        match (left, operator, right) {
            (Expr::Tuple(_), BinaryOperator::Eq, Expr::Tuple(_)) => self.equal(left, right).map(Some),
            _ => Ok(None),
        }
    }
}

fn is_literal(parsed: &Expr) -> bool {
    match parsed {
        Expr::Value(_) | Expr::TypedString(_) => true,
        Expr::Nested(inner)
        | Expr::Cast { expr: inner, .. }
        | Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => is_literal(inner),
        Expr::Tuple(all) => all.iter().all(is_literal),
        _ => false,
    }
}
