//! Whom a row is for, found from the row: the values that a claim must have for a look-up to hold.
//!
//! `EXISTS (SELECT FROM members m WHERE m.room = t.room AND m.person = auth.uid())` holds for the persons in
//! the members of the row's room: the look-up without what it reads of claims, and its column `person`.
//! Everybody for whom the look-up holds is among them; whether it does is evaluated afterwards.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::constants::Values;
use crate::evaluate::Scope;
use crate::expression::Expression;
use crate::look_up::{self, Form, LookUp, Source, equality, in_order, is_exact};
use crate::members::{CellBytes, CellType, MembersAt};
use crate::row::RowImage;
use crate::value::{Kind, Value};
use walcast_pgoutput::PgTimestamp;

/// How the claims for which a look-up may hold are found from a row.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Finder {
    sources: Vec<Source>,
    /// The column that is compared with something of the claims.
    source: usize,
    column: i16,
    kind: Kind,
    /// Whether the look-up holds for everybody who is found: nothing else in it is about claims.
    is_exact: bool,
}

/// Up to so many values are gone through one by one: for so few that takes less time than putting them in order.
const UNSORTED_MAX: usize = 16;

/// What finders have found for one row, so that it need not be looked up again for each who was found.
#[derive(Debug, Default)]
pub struct Found(RefCell<Vec<(Arc<Finder>, Vec<CellBytes>)>>);

impl Found {
    /// As [`Finder::values`], and remembers them where that spares look-ups.
    pub fn values(
        &self,
        finder: &Arc<Finder>,
        row: &RowImage<'_>,
        now: PgTimestamp,
        members: MembersAt<'_>,
        limit: usize,
        mut each: impl FnMut(&[u8]),
    ) -> bool {
        let mut found = Vec::with_capacity(UNSORTED_MAX);
        let complete = finder.values(row, now, members, limit, |value| {
            each(value);
            if finder.is_exact {
                found.push(CellBytes::from_slice(value));
            }
        });
        if complete && finder.is_exact {
            if found.len() > UNSORTED_MAX {
                found.sort_unstable();
            }
            self.0.borrow_mut().push((Arc::clone(finder), found));
        }
        complete
    }

    /// Whether the look-up with this finder holds for a value; `None` where nothing was found that tells.
    pub(crate) fn holds(&self, finder: &Arc<Finder>, value: Option<&Value<'_>>) -> Option<bool> {
        let all = self.0.borrow();
        let (_, values) = all.iter().find(|(known, _)| Arc::ptr_eq(known, finder) || known == finder)?;
        let bytes = value.and_then(|value| finder.cell_of(value));
        Some(bytes.is_some_and(|bytes| match values.len() {
            ..=UNSORTED_MAX => values.contains(&bytes),
            _ => values.binary_search(&bytes).is_ok(),
        }))
    }
}

impl Finder {
    /// Calls `each` with the bytes of every value that a claim must have one of, some perhaps twice. `false`: it
    /// can not be told, or they are more than `limit`.
    pub fn values(
        &self,
        row: &RowImage<'_>,
        now: PgTimestamp,
        members: MembersAt<'_>,
        limit: usize,
        mut each: impl FnMut(&[u8]),
    ) -> bool {
        let scope =
            Scope { row, now, constants: Values::NONE, settings: None, members, frame: None, found: None };
        let (mut rows_left, mut left) = (limit.saturating_mul(2).max(64), limit);
        let walked = look_up::walk(&self.sources, &scope, &mut rows_left, &mut |scope| {
            let found = scope.frame.and_then(|frame| frame.find(self.source));
            if let Some(bytes) = found.and_then(|row| row.bytes(self.column)) {
                if left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
                left -= 1;
                each(bytes);
            }
            Ok(ControlFlow::Continue(()))
        });
        matches!(walked, Ok(ControlFlow::Continue(())))
    }

    /// The bytes of a value as [`Finder::values`] has them. `None`: no row has it.
    pub(crate) fn bytes_of(&self, value: &Value<'_>) -> Option<Box<[u8]>> {
        Some(self.cell_of(value)?.into_vec().into_boxed_slice())
    }

    fn cell_of(&self, value: &Value<'_>) -> Option<CellBytes> {
        CellType { kind: self.kind.clone() }.of_value(value)
    }

    /// The sources of its walk.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }
}

/// Gives every look-up its finder, where it has one. After [`crate::constants::hoist`].
pub(crate) fn attach(expression: &mut Expression) {
    for child in expression.children_mut() {
        attach(child);
    }
    if let Expression::LookUp(look_up) = expression {
        look_up.finder = of(look_up).map(|(finder, value)| (Arc::new(finder), Box::new(value)));
        let mut slots = Vec::new();
        look_up.children().into_iter().for_each(|child| look_up::slots_of(child, &mut slots));
        look_up.constants = slots.into();
    }
}

fn of(look_up: &LookUp) -> Option<(Finder, Expression)> {
    if matches!(look_up.form, Form::Count) {
        return None;
    }
    let conditions = || look_up.conjuncts();
    let compared = conditions().find_map(|condition| {
        let (left, right) = equality(condition)?;
        [(left, right), (right, left)].into_iter().find_map(|(column, value)| match (column, value) {
            (Expression::Member { source, column, kind }, Expression::Constant(_)) if is_exact(kind) => {
                Some((*source, *column, kind.clone(), value.clone()))
            }
            _ => None,
        })
    });
    let (source, column, kind, value) = compared?;
    let tables: Vec<_> = look_up.sources.iter().map(|source| (source.id, source.table)).collect();
    if tables.iter().all(|(id, _)| *id != source) {
        return None;
    }
    let free: Vec<_> = conditions().filter(|condition| !condition.reads_settings()).cloned().collect();
    let is_exact = look_up.form == Form::Exists && free.len() + 1 == conditions().count();
    Some((Finder { sources: in_order(tables, free), source, column, kind, is_exact }, value))
}
