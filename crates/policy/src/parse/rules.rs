//! What the role may read of a table that something is looked up in: privileges, and the policies of that table.

use sqlparser::ast::Ident;

use super::look_up::Selected;
use super::scope::{Level, Scoped, identifier};
use super::{Compiler, Fault, Names};
use crate::expression::Expression;
use crate::look_up::reads_source;
use crate::plan;
use crate::schema::Table;

impl<'a> Compiler<'a> {
    /// What the policies of a table let the role see of it, as conditions on a row.
    pub(super) fn row_security(&mut self, scoped: &Scoped<'a>) -> Result<Vec<Expression>, Fault> {
        let (table, role) = (scoped.table, self.surroundings.role);
        if !plan::is_bound(table, role) {
            return Ok(Vec::new());
        }
        if self.active.contains(&table.oid) {
            return Err(self.recursion(table));
        }
        let policies = plan::applicable(table, role);
        let own = Scoped { alias: table.name.clone(), own_name: true, ..scoped.clone() };
        let level = Level { tables: vec![own], merged: Vec::new() };
        let levels = std::mem::replace(&mut self.levels, vec![level]);
        let parameters = std::mem::take(&mut self.parameters);
        let (outer_table, names) = (self.surroundings.table.take(), self.surroundings.names);
        self.surroundings.names = Names::Qualified;
        self.active.push(table.oid);
        let (mut permissive, mut conditions) = (Vec::new(), Vec::new());
        for (policy, using) in policies {
            let expression = self.policy(using);
            if policy.permissive { permissive.push(expression) } else { conditions.push(expression) }
        }
        self.active.pop();
        self.levels = levels;
        self.parameters = parameters;
        self.surroundings.table = outer_table;
        self.surroundings.names = names;
        conditions.push(Expression::Or(permissive));
        Ok(conditions)
    }

    /// A table whose policies are being gone through is read by them, for which PostgreSQL has an error.
    pub(super) fn recursion(&mut self, table: &Table) -> Fault {
        let message = format!("infinite recursion detected in policy for relation \"{}\"", table.name);
        if self.surroundings.depth == 0 {
            self.raises = Some(message.clone());
        }
        Fault::Here(message)
    }

    /// The table whose policies are being compiled, where it goes by this name.
    pub(super) fn judged_table(&self, parts: &[Ident]) -> Option<&'a Table> {
        let [schema, name] = parts else { return None };
        let table = self.surroundings.snapshot.table(&identifier(schema), &identifier(name))?;
        (self.active.contains(&table.oid) && plan::is_bound(table, self.surroundings.role)).then_some(table)
    }

    /// In the body of a function: whether the role may read what the sub-select reads of a table. Outside, whoever
    /// lacks a privilege gets an error whatever the row, which the plan knows of itself.
    pub(super) fn check_privileges(&mut self, scoped: &Scoped<'a>, selected: &Selected) -> Result<(), Fault> {
        let (table, role) = (scoped.table, self.surroundings.role);
        if self.surroundings.depth == 0 {
            return Ok(());
        }
        let mut columns = Vec::new();
        let output = selected.output.as_ref().map(|output| &output.expression);
        for expression in selected.conjuncts.iter().chain(output).chain(&selected.read) {
            columns_of(expression, scoped.id, &mut columns);
        }
        if selected.reads_all {
            columns.extend(table.columns.iter().map(|column| column.number));
        }
        let by_text = self.surroundings.names != Names::Qualified;
        let usable = !by_text || role.schemas.contains(&table.schema);
        if usable && plan::may_select(table, role, &columns) {
            return Ok(());
        }
        Err(Fault::Here(format!("permission denied for table {}", table.name)))
    }
}

fn columns_of(expression: &Expression, source: usize, columns: &mut Vec<i16>) {
    if let Expression::Member { source: of, column, .. } = expression
        && *of == source
    {
        columns.push(*column);
    }
    if reads_source(expression, source) {
        for child in expression.children() {
            columns_of(child, source, columns);
        }
    }
}
