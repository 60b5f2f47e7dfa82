//! Look-ups: sub-selects over copied tables, as nested loops with an index wherever an equality allows one.

use std::ops::ControlFlow;
use std::sync::Arc;

use smallvec::SmallVec;
use walcast_pgoutput::Oid;

use crate::evaluate::{Outcome, Scope, evaluate, evaluate_condition};
use crate::expression::Expression;
use crate::finder::Finder;
use crate::members::CopiedRow;
use crate::operation::{Comparison, Operands, Operation, Stop};
use crate::value::{Kind, Value};

/// A look-up that would read more rows than this is PostgreSQL's to make: it may know a better way.
const ROWS_MAX: usize = 20_000;

/// A sub-select. Nothing in it can raise, so that the order of evaluation does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LookUp {
    /// The tables, in the order in which they are gone through.
    pub(crate) sources: Vec<Source>,
    pub(crate) form: Form,
    /// How the claims for which it holds are found; see [`crate::finder`].
    pub(crate) finder: Option<(Arc<Finder>, Box<Expression>)>,
    /// The constants that it reads, by slot, once they are hoisted.
    pub(crate) constants: Box<[usize]>,
}

/// One table of a sub-select.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    /// By which [`Expression::Member`] names it; no two of a plan have the same.
    pub(crate) id: usize,
    pub(crate) table: Oid,
    /// Columns by number, ascending, and the values that they must have.
    pub(crate) probe: Vec<(i16, Expression)>,
    /// The equalities that the probe was made of: they hold for every row that it finds.
    pub(crate) equalities: Vec<Expression>,
    /// What must hold beside them as soon as there is a row of this table and of those before it.
    pub(crate) conditions: Vec<Expression>,
}

/// What is asked of the rows of a sub-select.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// `EXISTS (…)`.
    Exists,
    /// `operand operation ANY (SELECT output …)`, or ALL.
    Quantified { all: bool, operation: Operation, operand: Box<Expression>, output: Box<Expression> },
    /// The value of its only row, NULL without one.
    Scalar { output: Box<Expression>, several: Several },
    /// `SELECT count(*) …`.
    Count,
}

/// What a sub-select that stands for a value does where it has several rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Several {
    /// It never has.
    Never,
    /// It takes one of them, PostgreSQL alone knows which.
    Chooses,
    /// It raises.
    Raises,
    /// It raises unless they are all the same.
    RaisesIfDistinct,
}

/// A row of a source, with those of the sources before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    parent: Option<&'a Frame<'a>>,
    source: usize,
    row: CopiedRow<'a>,
}

impl<'a> Frame<'a> {
    /// The row of a source.
    pub(crate) fn find(&self, source: usize) -> Option<CopiedRow<'a>> {
        let mut frame = self;
        while frame.source != source {
            frame = frame.parent?;
        }
        Some(frame.row)
    }
}

impl LookUp {
    /// Puts the tables in an order in which as many as possible are found through values known by then.
    pub(crate) fn new(tables: Vec<(usize, Oid)>, conjuncts: Vec<Expression>, form: Form) -> LookUp {
        LookUp { sources: in_order(tables, conjuncts), form, finder: None, constants: Box::default() }
    }

    /// Whether there is never more than one combination of rows: each table is looked up by its primary key.
    pub(crate) fn is_unique(&self, primary_key: impl Fn(Oid) -> Vec<i16>) -> bool {
        self.sources.iter().all(|source| {
            let key = primary_key(source.table);
            let probed = |column: &i16| source.probe.iter().any(|(probed, _)| probed == column);
            !key.is_empty() && key.iter().all(probed)
        })
    }

    /// The tables and conditions that [`LookUp::new`] was made of.
    pub(crate) fn into_parts(self) -> (Vec<(usize, Oid)>, Vec<Expression>) {
        let tables = self.sources.iter().map(|source| (source.id, source.table)).collect();
        let conjuncts = self.sources.into_iter().flat_map(|source| [source.equalities, source.conditions]);
        (tables, conjuncts.flatten().collect())
    }

    /// Everything that must hold of a combination of rows.
    pub(crate) fn conjuncts(&self) -> impl Iterator<Item = &Expression> {
        self.sources.iter().flat_map(|source| source.equalities.iter().chain(&source.conditions))
    }

    /// Whether its own operation may raise.
    pub(crate) fn may_fail(&self) -> bool {
        match &self.form {
            Form::Quantified { operation, .. } => operation.may_fail(),
            Form::Scalar { several, .. } => matches!(several, Several::Raises | Several::RaisesIfDistinct),
            Form::Exists | Form::Count => false,
        }
    }

    /// The expressions in it.
    pub(crate) fn children(&self) -> Vec<&Expression> {
        let mut children = Vec::new();
        for source in &self.sources {
            children.extend(source.probe.iter().map(|(_, value)| value));
            children.extend(&source.equalities);
            children.extend(&source.conditions);
        }
        match &self.form {
            Form::Exists | Form::Count => {}
            Form::Scalar { output, .. } => children.push(output),
            Form::Quantified { operand, output, .. } => children.extend([&**operand, &**output]),
        }
        children.extend(self.finder.iter().map(|(_, value)| &**value));
        children
    }

    /// As [`LookUp::children`], to be changed.
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Expression> {
        let mut children = Vec::new();
        for source in &mut self.sources {
            children.extend(source.probe.iter_mut().map(|(_, value)| value));
            children.extend(&mut source.equalities);
            children.extend(&mut source.conditions);
        }
        match &mut self.form {
            Form::Exists | Form::Count => {}
            Form::Scalar { output, .. } => children.push(output),
            Form::Quantified { operand, output, .. } => children.extend([&mut **operand, &mut **output]),
        }
        children.extend(self.finder.iter_mut().map(|(_, value)| &mut **value));
        children
    }

    /// Makes it.
    pub(crate) fn evaluate<'a>(&'a self, scope: &Scope<'a>) -> Outcome<'a> {
        let failed = |slot: &usize| scope.constants.get(*slot).is_err();
        if self.constants.iter().any(failed) {
            // Whether PostgreSQL gets to a constant that raises depends on how it goes about the sub-select.
            return Err(Stop::Ask);
        }
        match &self.form {
            Form::Exists => self.exists(scope),
            Form::Quantified { all, operation, operand, output } => {
                let operand = evaluate(operand, scope).map_err(|stop| match stop {
                    // PostgreSQL gets to it where there are rows, or before it knows.
                    Stop::Failed(_) => Stop::Ask,
                    other => other,
                })?;
                self.quantified(*all, operation, operand.as_ref(), output, scope)
            }
            Form::Scalar { output, several } => self.scalar(output, *several, scope),
            Form::Count => {
                let mut count = 0;
                self.walk(scope, &mut |_| {
                    count += 1;
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(Some(Value::Int(count)))
            }
        }
    }

    fn exists<'a>(&'a self, scope: &Scope<'a>) -> Outcome<'a> {
        if let Some((finder, value)) = &self.finder
            && let Some(found) = scope.found
        {
            let value = evaluate(value, scope)?;
            if let Some(holds) = found.holds(finder, value.as_ref()) {
                return Ok(Some(Value::Bool(holds)));
            }
        }
        let mut found = false;
        self.walk(scope, &mut |_| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(Some(Value::Bool(found)))
    }

    fn quantified<'a>(
        &'a self,
        all: bool,
        operation: &Operation,
        operand: Option<&Value<'_>>,
        output: &Expression,
        scope: &Scope<'a>,
    ) -> Outcome<'a> {
        let (mut null, mut settled) = (false, false);
        self.walk(scope, &mut |scope| {
            let (Some(operand), Some(element)) = (operand, evaluate(output, scope)?) else {
                null = true;
                return Ok(ControlFlow::Continue(()));
            };
            let operands = Operands::from_iter([operand.borrow(), element]);
            Ok(match operation.apply(operands)? {
                Some(Value::Bool(value)) if value != all => {
                    settled = true;
                    ControlFlow::Break(())
                }
                Some(Value::Bool(_)) => ControlFlow::Continue(()),
                None => {
                    null = true;
                    ControlFlow::Continue(())
                }
                Some(_) => return Err(Stop::Ask),
            })
        })?;
        Ok(match (settled, null) {
            (true, _) => Some(Value::Bool(!all)),
            (false, true) => None,
            (false, false) => Some(Value::Bool(all)),
        })
    }

    fn scalar<'a>(&'a self, output: &Expression, several: Several, scope: &Scope<'a>) -> Outcome<'a> {
        let mut found: Option<Option<Value<'static>>> = None;
        self.walk(scope, &mut |scope| {
            if found.is_some() {
                return Err(match several {
                    Several::Raises => Stop::Failed(
                        "more than one row returned by a subquery used as an expression".to_owned(),
                    ),
                    _ => Stop::Ask,
                });
            }
            found = Some(evaluate(output, scope)?.map(Value::into_owned));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found.flatten())
    }

    fn walk<'a>(&'a self, scope: &Scope<'a>, visit: &mut Visit<'_>) -> Result<(), Stop> {
        let mut rows_left = ROWS_MAX;
        walk(&self.sources, scope, &mut rows_left, visit).map(drop)
    }
}

/// What is done with a combination of rows for which every condition holds.
pub(crate) type Visit<'v> = dyn FnMut(&Scope<'_>) -> Result<ControlFlow<()>, Stop> + 'v;

/// Goes through the combinations of rows for which every condition holds, until told to stop.
pub(crate) fn walk(
    sources: &[Source],
    scope: &Scope<'_>,
    rows_left: &mut usize,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, Stop> {
    let Some((source, rest)) = sources.split_first() else { return visit(scope) };
    let mut columns: SmallVec<[i16; 4]> = SmallVec::new();
    let mut values: SmallVec<[Value<'_>; 4]> = SmallVec::new();
    for (column, value) in &source.probe {
        let Some(value) = evaluate(value, scope)? else { return Ok(ControlFlow::Continue(())) };
        columns.push(*column);
        values.push(value);
    }
    let rows = scope.members.rows(source.table, &columns, &values).ok_or(Stop::Ask)?;
    let mut open = None;
    'rows: for row in rows {
        *rows_left = rows_left.checked_sub(1).ok_or(Stop::Ask)?;
        let frame = Frame { parent: scope.frame, source: source.id, row };
        let inner = Scope { frame: Some(&frame), ..*scope };
        let mut undecided = None;
        for condition in &source.conditions {
            match evaluate_condition(condition, &inner) {
                Ok(Some(true)) => {}
                Ok(_) => continue 'rows,
                Err(missing @ Stop::Missing(_)) => return Err(missing),
                // Nothing in here raises, but for texts that we can not read.
                Err(Stop::Failed(_)) => return Err(Stop::Ask),
                Err(Stop::Ask) => undecided = Some(Stop::Ask),
            }
        }
        if undecided.is_some() {
            open = undecided;
        } else if walk(rest, &inner, rows_left, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    match open {
        Some(stop) => Err(stop),
        None => Ok(ControlFlow::Continue(())),
    }
}

/// The constants that an expression reads, by slot.
pub(crate) fn slots_of(expression: &Expression, slots: &mut Vec<usize>) {
    if let Expression::Constant(slot) = expression
        && !slots.contains(slot)
    {
        slots.push(*slot);
    }
    for child in expression.children() {
        slots_of(child, slots);
    }
}

/// The tables in the order in which they are gone through, each with its conditions.
pub(crate) fn in_order(mut tables: Vec<(usize, Oid)>, mut conjuncts: Vec<Expression>) -> Vec<Source> {
    let ids: Vec<usize> = tables.iter().map(|(id, _)| *id).collect();
    let mut open: Vec<usize> = ids;
    let mut sources = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let probes = tables.iter().map(|(id, _)| probe(*id, &open, &conjuncts));
        let (place, probed) = probes
            .enumerate()
            .reduce(|best, other| if other.1.len() > best.1.len() { other } else { best })
            .unwrap_or_default();
        let (id, table) = tables.remove(place);
        open.retain(|&other| other != id);
        let (mut probe, mut equalities, mut conditions, mut later) =
            (probed, Vec::new(), Vec::new(), Vec::new());
        for (place, conjunct) in conjuncts.into_iter().enumerate() {
            if probe.iter().any(|probed| probed.conjunct == place) {
                equalities.push(conjunct);
            } else if open.iter().all(|&source| !reads_source(&conjunct, source)) {
                conditions.push(conjunct);
            } else {
                later.push(conjunct);
            }
        }
        conjuncts = later;
        probe.sort_by_key(|probed| probed.column);
        let probe = probe.into_iter().map(|probed| (probed.column, probed.value)).collect();
        sources.push(Source { id, table, probe, equalities, conditions });
    }
    sources
}

/// A column whose value is known before there is a row.
struct Probed {
    column: i16,
    value: Expression,
    /// The place of the equality that says so.
    conjunct: usize,
}

/// The columns of a source whose values are known before there is a row of it; `open` are the sources that
/// have no row yet.
fn probe(source: usize, open: &[usize], conjuncts: &[Expression]) -> Vec<Probed> {
    let mut probe: Vec<Probed> = Vec::new();
    for (conjunct, one) in conjuncts.iter().enumerate() {
        let Some((left, right)) = equality(one) else { continue };
        for (column, value) in [(left, right), (right, left)] {
            let Expression::Member { source: of, column, kind } = column else { continue };
            let known = *of == source && !open.iter().any(|&source| reads_source(value, source));
            if known && is_exact(kind) && probe.iter().all(|other| other.column != *column) {
                probe.push(Probed { column: *column, value: value.clone(), conjunct });
                break;
            }
        }
    }
    probe
}

/// The sides of `left = right`.
pub(crate) fn equality(conjunct: &Expression) -> Option<(&Expression, &Expression)> {
    match conjunct {
        Expression::Call(Operation::Compare(Comparison::Equal), operands) => match operands.as_slice() {
            [left, right] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an index finds equal values of the type.
pub(crate) fn is_exact(kind: &Kind) -> bool {
    crate::members::CellType { kind: kind.clone() }.is_exact()
}

/// Whether the expression reads a row of this source.
pub(crate) fn reads_source(expression: &Expression, source: usize) -> bool {
    match expression {
        Expression::Member { source: of, .. } => *of == source,
        other => other.children().into_iter().any(|child| reads_source(child, source)),
    }
}
