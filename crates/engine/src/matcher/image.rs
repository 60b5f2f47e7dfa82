//! A change as the matcher judges and shows it: its tuples aligned to the catalog's columns.

use std::sync::Arc;

use walcast_pgoutput::{Cell, OldTuple, Relation, Tuple};
use walcast_policy::schema::{Snapshot, Table, Type, TypeKind, Types};
use walcast_policy::{Datum, RowImage};
use walcast_wire::{ChangeKind, Shape};

use crate::transaction::{NewValue, RowChange};

/// A table as the log and the catalog describe it together.
pub(super) struct BoundRelation {
    pub(super) table: Arc<Table>,
    /// By column of the catalog: its index in the log's tuples.
    tuple_index: Vec<Option<usize>>,
    /// By column of the catalog: is it part of the key that old tuples carry?
    key: Vec<bool>,
    /// By column of the catalog: how its values look in JSON.
    pub(super) shapes: Vec<Shape>,
    /// By column of the catalog: `pg_type.typname`.
    pub(super) type_names: Vec<String>,
    /// Whether the log and the catalog have the same name and columns, of the same types. A column that a
    /// publication leaves out is a difference, too.
    pub(super) agrees: bool,
}

impl BoundRelation {
    pub(super) fn new(relation: &Relation, table: &Arc<Table>, snapshot: &Snapshot) -> Self {
        let types = &snapshot.types;
        let found = |column: &walcast_policy::schema::Column| {
            relation.columns.iter().position(|logged| logged.name == column.name)
        };
        let tuple_index: Vec<_> = table.columns.iter().map(found).collect();
        let known = |logged: &walcast_pgoutput::RelationColumn| {
            table
                .columns
                .iter()
                .any(|column| column.name == logged.name && column.type_oid == logged.type_oid)
        };
        BoundRelation {
            key: tuple_index
                .iter()
                .map(|index| index.is_some_and(|index| relation.columns[index].key))
                .collect(),
            shapes: table.columns.iter().map(|column| shape_of(types, types.get(column.type_oid))).collect(),
            type_names: table
                .columns
                .iter()
                .map(|column| types.get(column.type_oid).map_or_else(String::new, |found| found.name.clone()))
                .collect(),
            agrees: relation.name == table.name
                && relation.columns.iter().all(known)
                && tuple_index.iter().all(Option::is_some),
            tuple_index,
            table: Arc::clone(table),
        }
    }

    /// Whether the new row may have one of these values in its column, as far as its bytes say. True where there is none.
    pub(super) fn may_have(&self, change: &RowChange, wanted: &[(usize, Box<str>)]) -> bool {
        if matches!(change, RowChange::Delete { .. } | RowChange::Truncate) {
            return true;
        }
        wanted.iter().any(|(column, value)| {
            let left = self.logged(*column).and_then(|column| change.new_value(column));
            left.is_none_or(|left| left == NewValue::Text(value.as_bytes()))
        })
    }

    /// Where a column of the catalog stands in the log's tuples.
    pub(super) fn logged(&self, column: usize) -> Option<usize> {
        self.tuple_index.get(column).copied().flatten()
    }

    fn row<'a>(&self, tuple: &'a Tuple) -> RowImage<'a> {
        let values = self
            .tuple_index
            .iter()
            .map(|index| match index.and_then(|index| tuple.cell(index)) {
                Some(Cell::Null) => Datum::Null,
                Some(Cell::Text(text)) => std::str::from_utf8(text).map_or(Datum::Missing, Datum::Text),
                Some(Cell::Unchanged | Cell::Binary(_)) | None => Datum::Missing,
            })
            .collect();
        RowImage { values }
    }

    /// An old tuple of key columns: the others stand in the log as NULL but are not.
    fn key_row<'a>(&self, tuple: &'a Tuple) -> RowImage<'a> {
        self.key_of(&self.row(tuple))
    }

    /// A row's columns that are part of the key.
    fn key_of<'a>(&self, row: &RowImage<'a>) -> RowImage<'a> {
        let kept = |(&value, &key): (&Datum<'a>, &bool)| if key { value } else { Datum::Missing };
        RowImage { values: row.values.iter().zip(&self.key).map(kept).collect() }
    }
}

/// One change with its images.
pub(super) struct ChangeImages<'a> {
    pub(super) kind: ChangeKind,
    /// The row after the change; `None` for DELETE.
    pub(super) new: Option<RowImage<'a>>,
    /// The row before it, as far as the log has it; `None` for INSERT.
    pub(super) old: Option<RowImage<'a>>,
    /// Whether `old` is the whole row.
    pub(super) old_is_full: bool,
    /// Whether `old` is from the log, and not the key of an UPDATE that left it as it was.
    old_is_logged: bool,
}

impl<'a> ChangeImages<'a> {
    /// The images of a change of a row; `None` where there is no row to show.
    pub(super) fn new(relation: &BoundRelation, change: &'a RowChange) -> Option<Self> {
        Some(match change {
            RowChange::Insert { new } => ChangeImages {
                kind: ChangeKind::Insert,
                new: Some(relation.row(new)),
                old: None,
                old_is_full: false,
                old_is_logged: false,
            },
            RowChange::Update { old, new } => {
                let mut new = relation.row(new);
                let old_is_logged = old.is_some();
                let (old, old_is_full) = match old {
                    Some(OldTuple::Full(old)) => (relation.row(old), true),
                    Some(OldTuple::Key(old)) => (relation.key_row(old), false),
                    // The identity did not change, so its values are the new row's.
                    None => (relation.key_of(&new), false),
                };
                // An unchanged TOASTed value is not in the new tuple but is in a full old one.
                for (value, &before) in new.values.iter_mut().zip(&old.values) {
                    if *value == Datum::Missing {
                        *value = before;
                    }
                }
                let (new, old) = (Some(new), Some(old));
                ChangeImages { kind: ChangeKind::Update, new, old, old_is_full, old_is_logged }
            }
            RowChange::Delete { old } => {
                let (old, old_is_full) = match old {
                    OldTuple::Full(old) => (relation.row(old), true),
                    OldTuple::Key(old) => (relation.key_row(old), false),
                };
                let (new, old) = (None, Some(old));
                ChangeImages { kind: ChangeKind::Delete, new, old, old_is_full, old_is_logged: true }
            }
            RowChange::Truncate => return None,
        })
    }

    /// The row as an UPDATE found it, where the log carries the whole of it.
    pub(super) fn row_before(&self) -> Option<&RowImage<'a>> {
        self.old.as_ref().filter(|_| self.old_is_full && self.kind == ChangeKind::Update)
    }

    /// What the log says of the row as an UPDATE found it: all of it, or its key where that changed.
    pub(super) fn logged_before(&self) -> Option<&RowImage<'a>> {
        self.old.as_ref().filter(|_| self.old_is_logged && self.kind == ChangeKind::Update)
    }

    /// The image that decides who gets the change: the new row, or for DELETE the old one.
    pub(super) fn judged(&self) -> &RowImage<'a> {
        const NOTHING: &RowImage<'static> = &RowImage { values: Vec::new() };
        self.new.as_ref().or(self.old.as_ref()).unwrap_or(NOTHING)
    }
}

/// How a type's values look in JSON (docs/protocol.md §4.5).
pub(super) fn shape_of(types: &Types, found: Option<&Type>) -> Shape {
    let Some(found) = found else { return Shape::Text };
    match &found.kind {
        TypeKind::Base => Shape::of_type_name(&found.name),
        TypeKind::Enum { .. } | TypeKind::Range => Shape::Text,
        TypeKind::Domain { base } => shape_of(types, types.get(*base)),
        TypeKind::Array { element, delimiter } => {
            let element = Box::new(shape_of(types, types.get(*element)));
            Shape::Array { element, delimiter: *delimiter }
        }
        TypeKind::Composite { fields } => Shape::Composite(
            fields.iter().map(|(name, field)| (name.clone(), shape_of(types, types.get(*field)))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::{Oid, RelationColumn, ReplicaIdentity};

    use super::*;
    use crate::fixture::{TABLE, snapshot};

    #[test]
    fn a_row_is_passed_over_only_where_its_bytes_say_another_value() {
        let snapshot = snapshot(1, &["id", "body"], None);
        // The log has the columns in another order.
        let column = |name: &str| RelationColumn {
            name: name.to_owned(),
            type_oid: Oid(25),
            type_modifier: -1,
            key: name == "id",
        };
        let relation = Relation {
            oid: TABLE,
            namespace: "public".to_owned(),
            name: "notes".to_owned(),
            identity: ReplicaIdentity::Default,
            columns: ["body", "id"].map(column).into(),
        };
        let bound = BoundRelation::new(&relation, &snapshot.tables[&TABLE], &snapshot);
        let wanted = [(1, "mine".into()), (1, "ours".into())];
        let row = |body| Tuple::from_cells([body, Cell::Text(b"mine")]);
        let inserted = |body| bound.may_have(&RowChange::Insert { new: row(body) }, &wanted);
        let updated = |body| bound.may_have(&RowChange::Update { old: None, new: row(body) }, &wanted);
        for may_have in
            [inserted(Cell::Text(b"ours")), updated(Cell::Text(b"mine")), updated(Cell::Unchanged)]
        {
            assert!(may_have);
        }
        for may_have in [inserted(Cell::Text(b"yours")), inserted(Cell::Null), updated(Cell::Text(b"yours"))]
        {
            assert!(!may_have);
        }
        let deleted = RowChange::Delete { old: OldTuple::Full(row(Cell::Text(b"yours"))) };
        assert!(bound.may_have(&deleted, &wanted) && bound.may_have(&RowChange::Truncate, &wanted));
        assert!(!bound.may_have(&RowChange::Insert { new: row(Cell::Text(b"mine")) }, &[]));
    }
}
