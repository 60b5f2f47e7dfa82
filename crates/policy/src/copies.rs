//! Which copies of tables a plan looks things up in.

use walcast_pgoutput::Oid;

use crate::expression::Expression;
use crate::look_up::Source;

/// A copy that a plan needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyNeed {
    /// The table.
    pub table: Oid,
    /// The columns that are read, by number, ascending.
    pub columns: Vec<i16>,
    /// The sets of columns by whose values rows are looked for.
    pub indexes: Vec<Vec<i16>>,
}

/// Adds what the look-ups in an expression need.
pub(crate) fn collect(expression: &Expression, needs: &mut Vec<CopyNeed>) {
    let mut tables = Vec::new();
    collect_sources(expression, &mut tables, needs);
    collect_columns(expression, &tables, needs);
}

fn collect_sources(expression: &Expression, tables: &mut Vec<(usize, Oid)>, needs: &mut Vec<CopyNeed>) {
    if let Expression::LookUp(look_up) = expression {
        let found = look_up.finder.as_ref().map_or(&[][..], |(finder, _)| finder.sources());
        for source in look_up.sources.iter().chain(found) {
            tables.push((source.id, source.table));
            add_source(source, needs);
        }
    }
    for child in expression.children() {
        collect_sources(child, tables, needs);
    }
}

fn add_source(source: &Source, needs: &mut Vec<CopyNeed>) {
    let need = of(source.table, needs);
    let index: Vec<i16> = source.probe.iter().map(|(column, _)| *column).collect();
    for &column in &index {
        add_column(column, need);
    }
    if !index.is_empty() && !need.indexes.contains(&index) {
        need.indexes.push(index);
    }
}

fn collect_columns(expression: &Expression, tables: &[(usize, Oid)], needs: &mut Vec<CopyNeed>) {
    if let Expression::Member { source, column, .. } = expression
        && let Some((_, table)) = tables.iter().find(|(id, _)| id == source)
    {
        add_column(*column, of(*table, needs));
    }
    for child in expression.children() {
        collect_columns(child, tables, needs);
    }
}

fn of(table: Oid, needs: &mut Vec<CopyNeed>) -> &mut CopyNeed {
    let place = needs.iter().position(|need| need.table == table).unwrap_or_else(|| {
        needs.push(CopyNeed { table, columns: Vec::new(), indexes: Vec::new() });
        needs.len() - 1
    });
    &mut needs[place]
}

fn add_column(column: i16, need: &mut CopyNeed) {
    if let Err(place) = need.columns.binary_search(&column) {
        need.columns.insert(place, column);
    }
}
