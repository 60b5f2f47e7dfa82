//! Sub-selects over other tables.

use sqlparser::ast::{
    Expr, FunctionArguments, JoinConstraint, JoinOperator, LimitClause, Query, Select, SelectItem, SetExpr,
    TableFactor, TableWithJoins, Value as SqlValue,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use walcast_pgoutput::Oid;

use super::body::{Body, failing};
use super::scope::{Level, Scoped, identifier};
use super::syntax::operands;
use super::{Compiler, Fault, arguments, here, single};
use crate::expression::Expression;
use crate::look_up::{Form, LookUp, Several};
use crate::operation::Comparison;
use crate::resolve::{self, Infix, Typed};
use crate::schema::LookupTable;
use crate::value::{Kind, Value};

/// How a value is compared with those of a sub-select.
#[derive(Clone, Copy)]
pub(super) struct Quantifier {
    /// `ALL`, not `ANY` or `IN`.
    pub(super) all: bool,
    pub(super) operator: Infix,
    pub(super) null_is_false: bool,
}

/// A sub-select, compiled.
pub(super) struct Selected {
    pub(super) tables: Vec<(usize, Oid)>,
    pub(super) conjuncts: Vec<Expression>,
    /// The one column that it selects, where that was asked for.
    pub(super) output: Option<Typed>,
    /// Columns that are selected and do not matter, except that they may not be had by everybody.
    pub(super) read: Vec<Expression>,
    /// Whether all columns are.
    pub(super) reads_all: bool,
}

/// What of a sub-select matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Whether it has rows.
    Rows,
    /// The values of its one column, in any order and as often as they like.
    Values,
    /// The value in its only row.
    Value,
}

/// The sub-select that stands for a set to the right of ANY or ALL.
pub(super) fn selected_set(right: &Expr) -> Option<&Query> {
    match right {
        Expr::Nested(inner) => selected_set(inner),
        Expr::Subquery(query) => Some(query),
        Expr::Function(function) => match &function.args {
            // `ARRAY(SELECT …)`: the elements are the values.
            FunctionArguments::Subquery(query)
                if function.name.to_string().eq_ignore_ascii_case("array") && !is_array_already(query) =>
            {
                Some(query)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether the sub-select needs no table, so that it is an expression like any other.
fn is_array_already(query: &Query) -> bool {
    single(query).is_some()
}

impl<'a> Compiler<'a> {
    /// `EXISTS (query)`.
    pub(super) fn exists(&mut self, query: &Query) -> Result<Typed, Fault> {
        let Selected { tables, conjuncts, .. } = self.select(query, Wanted::Rows)?;
        let (tables, conjuncts) = flattened(tables, conjuncts);
        Ok(Typed::boolean(look_up(tables, conjuncts, Form::Exists)?))
    }

    /// `(query)` as a value.
    pub(super) fn scalar_select(&mut self, query: &Query) -> Result<Typed, Fault> {
        let distinct = matches!(&*query.body, SetExpr::Select(select) if select.distinct.is_some());
        self.value_select(
            query,
            match (is_limited_to_one(query), distinct) {
                (true, _) => Several::Chooses,
                (false, true) => Several::RaisesIfDistinct,
                (false, false) => Several::Raises,
            },
        )
    }

    /// The value of a query's row; `several`: what happens where there are more.
    pub(super) fn value_select(&mut self, query: &Query, several: Several) -> Result<Typed, Fault> {
        if let Some(select) = counts_rows(query) {
            let mut rows = query.clone();
            *rows.body = SetExpr::Select(Box::new(select));
            let Selected { tables, conjuncts, .. } = self.select(&rows, Wanted::Rows)?;
            return Ok(Typed::new(look_up(tables, conjuncts, Form::Count)?, Kind::Int8));
        }
        let Selected { tables, conjuncts, output, .. } = self.select(query, Wanted::Value)?;
        let Some(output) = output else { return here("a sub-select of other than one column") };
        let form = Form::Scalar { output: Box::new(output.expression), several };
        let mut expression = look_up(tables, conjuncts, form)?;
        if let Expression::LookUp(look_up) = &mut expression
            && look_up.is_unique(|table| self.primary_key(table))
            && let Form::Scalar { several, .. } = &mut look_up.form
        {
            *several = Several::Never;
        }
        Ok(Typed { expression, kind: output.kind, collation: output.collation })
    }

    fn primary_key(&self, table: Oid) -> Vec<i16> {
        let columns = self.surroundings.snapshot.lookups.get(&table).map(|found| &found.table.columns);
        columns
            .into_iter()
            .flatten()
            .filter(|column| column.primary_key)
            .map(|column| column.number)
            .collect()
    }

    /// `operand operator ANY (query)` or ALL; `IN` is `= ANY`.
    pub(super) fn quantified_select(
        &mut self,
        quantifier: Quantifier,
        operand: &Expr,
        query: &Query,
    ) -> Result<Typed, Fault> {
        let Quantifier { all, operator, null_is_false } = quantifier;
        if let Some(selected) = single(query)
            && !self.calls_set(selected)
        {
            let operand = self.typed(operand)?;
            let compared = if let Some(array) = self.element_texts(selected)? {
                resolve::quantified(all, operator, operand, array)?
            } else {
                let selected = self.typed(selected)?;
                resolve::infix(operator, operand, selected)?
            };
            return Ok(self.apart(compared));
        }
        let operand = self.typed(operand)?;
        let Selected { tables, mut conjuncts, output, .. } = self.select(query, Wanted::Values)?;
        let Some(output) = output else { return here("a sub-select of other than one column") };
        let resolved = resolve::infix(operator, operand, output)?.expression;
        if !all && null_is_false {
            conjuncts.push(resolved);
            let (tables, conjuncts) = flattened(tables, conjuncts);
            return Ok(Typed::boolean(look_up(tables, conjuncts, Form::Exists)?));
        }
        let (operation, operand, output) = match resolved {
            Expression::Call(operation, operands) => match <[Expression; 2]>::try_from(operands) {
                Ok([operand, output]) => (operation, Box::new(operand), Box::new(output)),
                Err(_) => return here("this comparison with a sub-select"),
            },
            _ => return here("this comparison with a sub-select"),
        };
        let form = Form::Quantified { all, operation, operand, output };
        Ok(Typed::boolean(look_up(tables, conjuncts, form)?))
    }

    fn select(&mut self, query: &Query, wanted: Wanted) -> Result<Selected, Fault> {
        let left_before = self.unsupported.len();
        let selected = self.select_any(query, wanted);
        // Only a sub-select of which everything is understood is of use.
        if self.unsupported.len() > left_before {
            let first = self.unsupported.swap_remove(left_before);
            self.unsupported.truncate(left_before);
            return selected.and(Err(Fault::Below(first)));
        }
        selected
    }

    fn select_any(&mut self, query: &Query, wanted: Wanted) -> Result<Selected, Fault> {
        if let Some(call) = single(query) {
            return match self.set_of(call, wanted)? {
                Some(selected) => Ok(selected),
                None => here("a sub-select without a table"),
            };
        }
        let select = plain(query, wanted)?;
        let depth = self.levels.len();
        let outcome = self.select_from(select, wanted, query.order_by.is_some());
        self.levels.truncate(depth);
        outcome
    }

    fn select_from(&mut self, select: &Select, wanted: Wanted, orders: bool) -> Result<Selected, Fault> {
        let mut level = Level { tables: Vec::new(), merged: Vec::new() };
        let mut selected = Selected {
            tables: Vec::new(),
            conjuncts: Vec::new(),
            output: None,
            read: Vec::new(),
            // In ORDER BY may stand any column.
            reads_all: orders,
        };
        let mut on = Vec::new();
        let joins = select.from.iter().any(|from| !from.joins.is_empty());
        if joins && select.from.len() > 1 && self.surroundings.names != super::Names::Qualified {
            // The names in ON see the tables of their join only.
            return here("joins next to other tables in a text with unqualified names");
        }
        for from in &select.from {
            self.from(from, &mut level, &mut selected, &mut on)?;
        }
        let tables = level.tables.clone();
        self.levels.push(level);
        for condition in on.into_iter().chain(&select.selection) {
            for one in operands(condition, true) {
                selected.conjuncts.push(self.condition(one, true));
            }
        }
        if wanted == Wanted::Rows {
            for item in &select.projection {
                match item {
                    SelectItem::UnnamedExpr(Expr::Value(_)) => {}
                    SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
                    | SelectItem::ExprWithAlias {
                        expr: expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)),
                        ..
                    } => selected.read.push(self.typed(expr)?.expression),
                    SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => selected.reads_all = true,
                    _ => return here("an EXISTS that selects more than columns"),
                }
            }
        } else {
            let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] =
                select.projection.as_slice()
            else {
                return here("a sub-select of other than one column");
            };
            selected.output = Some(self.typed(expr)?);
        }
        self.levels.pop();
        for scoped in &tables {
            self.check_privileges(scoped, &selected)?;
            let mut rules = self.row_security(scoped)?;
            selected.conjuncts.append(&mut rules);
        }
        let fails = selected.conjuncts.iter().any(Expression::may_fail_by_row)
            || selected.output.as_ref().is_some_and(|output| output.expression.may_fail_by_row());
        if fails {
            return here("a sub-select in which something may raise");
        }
        Ok(selected)
    }

    /// A table with its joins.
    fn from<'q>(
        &mut self,
        from: &'q TableWithJoins,
        level: &mut Level<'a>,
        selected: &mut Selected,
        on: &mut Vec<&'q Expr>,
    ) -> Result<(), Fault> {
        let begin = level.tables.len();
        self.table(&from.relation, level, selected, on)?;
        for join in &from.joins {
            let (JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::CrossJoin(constraint)) = &join.join_operator
            else {
                return here("an outer join");
            };
            let joined_before = level.tables.len();
            self.table(&join.relation, level, selected, on)?;
            match constraint {
                JoinConstraint::On(condition) => on.push(condition),
                JoinConstraint::None => {}
                JoinConstraint::Using(names) => {
                    for name in names {
                        let [part] = name.0.as_slice() else { return here("this join") };
                        let Some(name) = part.as_ident() else { return here("this join") };
                        self.merge(&identifier(name), (begin, joined_before), level, selected)?;
                    }
                }
                JoinConstraint::Natural => return here("a natural join"),
            }
        }
        Ok(())
    }

    /// `USING (name)`: the column on both sides of the join is equal. The tables of the left side lie between two
    /// places of the level, those of the right side behind them.
    fn merge(
        &mut self,
        name: &str,
        (begin, end): (usize, usize),
        level: &mut Level<'a>,
        selected: &mut Selected,
    ) -> Result<(), Fault> {
        let mut sides = Vec::with_capacity(2);
        for tables in [&level.tables[begin..end], &level.tables[end..]] {
            let side = Level { tables: tables.to_vec(), merged: vec![name.to_owned()] };
            self.levels.push(side);
            let column = self.column(&[], &sqlparser::ast::Ident::with_quote('"', name));
            self.levels.pop();
            sides.push(column?);
        }
        let (Some(right), Some(left)) = (sides.pop(), sides.pop()) else { return here("this join") };
        selected.conjuncts.push(resolve::infix(Infix::Compare(Comparison::Equal), left, right)?.expression);
        level.merged.push(name.to_owned());
        Ok(())
    }

    fn table<'q>(
        &mut self,
        factor: &'q TableFactor,
        level: &mut Level<'a>,
        selected: &mut Selected,
        on: &mut Vec<&'q Expr>,
    ) -> Result<(), Fault> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                self.from(table_with_joins, level, selected, on)
            }
            TableFactor::Table { name, alias, args: None, .. } => {
                let bare = alias.as_ref().is_none_or(|alias| alias.columns.is_empty());
                let shown = match alias {
                    Some(alias) => format!("{name} {alias}"),
                    None => name.to_string(),
                };
                // Printing shows whatever else there is.
                if !bare || factor.to_string() != shown {
                    return Err(Fault::Here(format!("a look-up in {factor}")));
                }
                let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).cloned().collect();
                let LookupTable { table, obstacle, .. } = match self.table_named(&parts) {
                    Ok(found) => found,
                    // Where nothing else looks anything up in it, it is not among those to look things up in.
                    Err(reason) => {
                        return self
                            .judged_table(&parts)
                            .map_or(Err(Fault::Here(reason)), |judged| Err(self.recursion(judged)));
                    }
                };
                if let Some(obstacle) = obstacle {
                    self.not_copied.push(table.oid);
                    return Err(Fault::Here(format!(
                        "a look-up in {name}, of which there is no copy: {obstacle}"
                    )));
                }
                self.sources += 1;
                let alias_name = alias.as_ref().map(|alias| identifier(&alias.name));
                level.tables.push(Scoped {
                    id: self.sources,
                    table,
                    own_name: alias_name.is_none(),
                    alias: alias_name.unwrap_or_else(|| table.name.clone()),
                });
                selected.tables.push((self.sources, table.oid));
                Ok(())
            }
            _ => Err(Fault::Here(format!("a look-up in {factor}"))),
        }
    }

    fn calls_set(&self, expression: &Expr) -> bool {
        self.set_function(expression).is_some()
    }

    /// The name of the function that returns a set, where the expression is a call of one.
    fn set_function(&self, expression: &Expr) -> Option<String> {
        let Expr::Function(function) = expression else { return None };
        let parts: Vec<_> = function.name.0.iter().filter_map(|part| part.as_ident()).collect();
        let name = match parts.as_slice() {
            [name] => self.function_in_path(name)?,
            [schema, name] => format!("{}.{}", identifier(schema), identifier(name)),
            _ => return None,
        };
        let overloads = self.surroundings.snapshot.functions.get(&name)?;
        overloads.iter().any(|function| function.returns_set).then_some(name)
    }

    /// `SELECT f(…)` of a function whose body is a query: its rows.
    fn set_of(&mut self, call: &Expr, wanted: Wanted) -> Result<Option<Selected>, Fault> {
        let Some(name) = self.set_function(call) else { return Ok(None) };
        let Expr::Function(parsed) = call else { return Ok(None) };
        if wanted == Wanted::Value {
            return here("a set as a value");
        }
        let mut values = Vec::new();
        for argument in arguments(&parsed.args)? {
            values.push(self.typed(argument)?);
        }
        let function = self.function_named(&name, values.len())?;
        if function.strict && !values.is_empty() {
            return here("a set of a function that is STRICT");
        }
        let failing = failing(&values);
        if failing.iter().any(Expression::may_fail_by_row) {
            return here("a set of a function with an argument that may raise");
        }
        let declared = self.kind_of(function.returns, &name)?;
        let mut selected = self.in_body(&name, function, values, |compiler, body| match body {
            Body::Query(query) => compiler.select(&query, Wanted::Values),
            Body::Expression(_) => here("no table"),
        })?;
        if selected.output.as_ref().is_some_and(|output| output.kind != declared) {
            return here("a set of a function that returns another type than it selects");
        }
        if !failing.is_empty() {
            let body = Box::new(Expression::Literal(Some(Value::Bool(true))));
            selected.conjuncts.push(Expression::Body { arguments: failing, body });
        }
        Ok(Some(selected))
    }
}

/// The sub-select as an expression.
fn look_up(tables: Vec<(usize, Oid)>, conjuncts: Vec<Expression>, form: Form) -> Result<Expression, Fault> {
    if tables.is_empty() {
        return here("a sub-select without a table");
    }
    Ok(Expression::LookUp(Box::new(LookUp::new(tables, conjuncts, form))))
}

/// An EXISTS among the conditions of another is a join of both: how often a row is found does not matter.
fn flattened(
    mut tables: Vec<(usize, Oid)>,
    conjuncts: Vec<Expression>,
) -> (Vec<(usize, Oid)>, Vec<Expression>) {
    let mut flat = Vec::with_capacity(conjuncts.len());
    let mut open = conjuncts;
    while let Some(conjunct) = open.pop() {
        match conjunct {
            Expression::And(operands) => open.extend(operands),
            Expression::Or(mut operands) if operands.len() == 1 => open.extend(operands.pop()),
            Expression::LookUp(inner) if inner.form == Form::Exists => {
                let (inner_tables, inner_conjuncts) = inner.into_parts();
                tables.extend(inner_tables);
                open.extend(inner_conjuncts);
            }
            other => flat.push(other),
        }
    }
    flat.reverse();
    (tables, flat)
}

/// The select of a query that has nothing but tables, conditions and what it selects, as far as more than
/// that would matter.
fn plain(query: &Query, wanted: Wanted) -> Result<&Select, Fault> {
    let SetExpr::Select(select) = &*query.body else { return here("a union of sub-selects") };
    let mut bare = empty_query()?;
    bare.body.clone_from(&query.body);
    bare.order_by.clone_from(&query.order_by);
    bare.limit_clause.clone_from(&query.limit_clause);
    let limited = query.limit_clause.as_ref().is_some_and(|limit| match limit {
        LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by } if limit_by.is_empty() => {
            // What asks for one row, or whether there is any, does not mind.
            !(wanted != Wanted::Values && is_positive(limit))
        }
        _ => true,
    });
    let mut simple = empty_select()?;
    simple.projection.clone_from(&select.projection);
    simple.from.clone_from(&select.from);
    simple.selection.clone_from(&select.selection);
    simple.distinct =
        select.distinct.clone().filter(|distinct| *distinct == sqlparser::ast::Distinct::Distinct);
    if limited || bare != *query || simple.to_string() != select.to_string() {
        return here("a sub-select with more than tables and conditions");
    }
    Ok(select)
}

fn is_limited_to_one(query: &Query) -> bool {
    let Some(LimitClause::LimitOffset { limit: Some(limit), .. }) = &query.limit_clause else { return false };
    limit.to_string().trim_matches(['(', ')']) == "1"
}

fn is_positive(limit: &Expr) -> bool {
    match limit {
        Expr::Nested(inner) => is_positive(inner),
        Expr::Value(value) => {
            matches!(&value.value, SqlValue::Number(digits, _) if digits.parse().is_ok_and(|count: u64| count > 0))
        }
        _ => false,
    }
}

/// A select of `count(*)` alone, as one of rows.
fn counts_rows(query: &Query) -> Option<Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] =
        select.projection.as_slice()
    else {
        return None;
    };
    let text = expr.to_string().to_ascii_lowercase();
    let unlimited = query.limit_clause.is_none() && query.order_by.is_none() && select.distinct.is_none();
    (unlimited && matches!(text.as_str(), "count(*)" | "count(1)")).then(|| {
        let mut rows = (**select).clone();
        rows.projection = Vec::new();
        rows
    })
}

fn empty_query() -> Result<Query, Fault> {
    let dialect = PostgreSqlDialect {};
    let parsed = Parser::new(&dialect).try_with_sql("SELECT 1").and_then(|mut parser| parser.parse_query());
    parsed.map(|query| *query).map_err(|error| Fault::Here(error.to_string()))
}

fn empty_select() -> Result<Select, Fault> {
    match *empty_query()?.body {
        SetExpr::Select(select) => Ok(*select),
        _ => here("a sub-select"),
    }
}
