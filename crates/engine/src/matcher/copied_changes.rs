//! Changes of the log as changes of a copy: the columns of one found among those of the other.

use std::sync::Arc;

use walcast_pgoutput::{Cell, Oid, OldTuple, Relation, Tuple};
use walcast_policy::schema::Table;
use walcast_policy::{CopyChange, CopyDamaged, Datum, Members, TableCopy};

use crate::transaction::RowChange;

/// Where the columns of a copy stand in the tuples of a relation of the log.
pub(super) struct CopiedColumns {
    relation: Arc<Relation>,
    tuple_index: Vec<usize>,
}

impl CopiedColumns {
    /// The error: the log does not carry a column of the copy, as one that both know by the same name and type.
    pub(super) fn new(relation: &Arc<Relation>, table: &Table, copy: &TableCopy) -> Result<Self, String> {
        let place = |number: &i16| {
            let column = table.columns.iter().find(|column| column.number == *number)?;
            relation
                .columns
                .iter()
                .position(|logged| logged.name == column.name && logged.type_oid == column.type_oid)
        };
        let tuple_index: Option<Vec<usize>> = copy.columns().iter().map(place).collect();
        let missing = || "the log does not carry its columns as the catalog has them".to_owned();
        Ok(CopiedColumns { relation: Arc::clone(relation), tuple_index: tuple_index.ok_or_else(missing)? })
    }

    /// Whether this is of the relation as the log describes it.
    pub(super) fn is_of(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation)
    }

    /// Applies one change to the copy of the table.
    pub(super) fn apply(
        &self,
        change: &RowChange,
        table: Oid,
        members: &mut Members,
    ) -> Result<(), CopyDamaged> {
        match change {
            RowChange::Insert { new } => members.apply(table, CopyChange::Insert(&self.values(new))),
            RowChange::Update { old, new } => {
                let old = old.as_ref().map(|old| self.values(old.tuple()));
                members.apply(table, CopyChange::Update { old: old.as_deref(), new: &self.values(new) })
            }
            RowChange::Delete { old: OldTuple::Key(old) | OldTuple::Full(old) } => {
                members.apply(table, CopyChange::Delete(&self.values(old)))
            }
            RowChange::Truncate => members.apply(table, CopyChange::Truncate),
        }
    }

    fn values<'a>(&self, tuple: &'a Tuple) -> Vec<Datum<'a>> {
        let value = |&index: &usize| match tuple.cell(index) {
            Some(Cell::Null) => Datum::Null,
            Some(Cell::Text(text)) => std::str::from_utf8(text).map_or(Datum::Missing, Datum::Text),
            Some(Cell::Unchanged | Cell::Binary(_)) | None => Datum::Missing,
        };
        self.tuple_index.iter().map(value).collect()
    }
}
