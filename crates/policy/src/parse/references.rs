//! What the body of a function names, for the catalog to find.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, FunctionArguments, ObjectName, ObjectNamePart, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::TEXT_MAX;

/// The names in the body of a function, each as its parts (`["public", "members"]`), as PostgreSQL reads them:
/// unquoted ones in lower case. Sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// What stands where a table or view may stand. The name of a WITH query is among them, since a table of the
    /// same name may be meant where it is out of sight.
    pub tables: Vec<Vec<String>>,
    /// What is called.
    pub functions: Vec<Vec<String>>,
}

/// What the body of an SQL function names. A text that can not be parsed names nothing: no plan is made of it
/// either.
pub fn references(body: &str) -> References {
    let mut found = Found::default();
    if body.len() <= TEXT_MAX
        && let Ok(statements) = Parser::parse_sql(&PostgreSqlDialect {}, body)
    {
        // The visitor never stops before the end.
        let _ = statements.visit(&mut found);
    }
    References {
        tables: found.tables.into_iter().collect(),
        functions: found.functions.into_iter().collect(),
    }
}

#[derive(Default)]
struct Found {
    tables: BTreeSet<Vec<String>>,
    functions: BTreeSet<Vec<String>>,
}

impl Visitor for Found {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: None, .. } => self.tables.extend(parts(name)),
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.functions.extend(parts(name));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        // Without parentheses it is a keyword such as CURRENT_USER.
        if let Expr::Function(function) = expr
            && !matches!(function.args, FunctionArguments::None)
        {
            self.functions.extend(parts(&function.name));
        }
        ControlFlow::Continue(())
    }
}

fn parts(name: &ObjectName) -> Option<Vec<String>> {
    let part = |part: &ObjectNamePart| {
        let ident = part.as_ident()?;
        Some(match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_ascii_lowercase(),
        })
    };
    name.0.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(body: &str) -> (String, String) {
        let References { tables, functions } = references(body);
        let listed =
            |names: Vec<Vec<String>>| names.iter().map(|parts| parts.join(".")).collect::<Vec<_>>().join(" ");
        (listed(tables), listed(functions))
    }

    #[test]
    fn tables_and_functions_are_found_wherever_they_stand() {
        for (body, tables, functions) in [
            ("SELECT 1", "", ""),
            ("", "", ""),
            ("SELECT EXISTS (SELECT FROM Members AS m WHERE m.person = auth.UID())", "members", "auth.uid"),
            ("SELECT x FROM \"Odd Schema\".\"T\" JOIN b.c USING (x)", "Odd Schema.T b.c", ""),
            ("SELECT id FROM rooms, LATERAL rooms_of($1) AS r(id)", "rooms", "rooms_of"),
            ("SELECT id FROM auth.rooms_of($1) WITH ORDINALITY", "", "auth.rooms_of"),
            ("SELECT CASE WHEN f(1) THEN (SELECT max(x) FROM t) END FROM u", "t u", "f max"),
            ("SELECT a FROM (SELECT a FROM deep WHERE g()) AS s ORDER BY h(a)", "deep", "g h"),
            ("SELECT $1 IN (SELECT room FROM m1 UNION SELECT room FROM m2)", "m1 m2", ""),
            ("WITH w AS (SELECT * FROM t) SELECT * FROM w", "t w", ""),
            ("SELECT current_user, count(*) OVER (PARTITION BY f(x)) FROM t", "t", "count f"),
            ("SELECT a FROM t; SELECT b FROM u;", "t u", ""),
        ] {
            assert_eq!(named(body), (tables.to_owned(), functions.to_owned()), "{body}");
        }
    }

    #[test]
    fn what_can_not_be_parsed_names_nothing() {
        let long = format!("SELECT a FROM t -- {}", "x".repeat(TEXT_MAX));
        for body in ["BEGIN RETURN EXISTS (SELECT FROM t); END", "SELECT (", &long] {
            assert_eq!(references(body), References::default(), "{body}");
        }
    }
}
