//! Random databases: tables that policies of others look things up in, functions, policies, grants and rows.

mod expressions;
mod functions;

use std::fmt::Write as _;

use super::dice::Dice;
use expressions::Drawing;
use functions::Function;

/// The roles that read; made once, since they belong to the whole cluster.
pub(crate) const ROLES: &[&str] =
    &["lookup_reader", "lookup_member", "lookup_limited", "lookup_owner", "lookup_bypass"];

/// What must be there before the first world.
pub(crate) const FOUNDATION: &str = r"
CREATE PUBLICATION worlds;
CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO PUBLIC;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb
$$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ select auth.jwt() ->> 'role' $$;
";

/// The types that columns have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Uuid,
    Int,
    Big,
    Text,
    Bool,
    Rank,
    Moment,
}

impl Of {
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Of::Uuid => "uuid",
            Of::Int => "integer",
            Of::Big => "bigint",
            Of::Text => "text",
            Of::Bool => "boolean",
            Of::Rank => "public.rank",
            Of::Moment => "timestamptz",
        }
    }

    /// A literal, few enough that rows meet.
    pub(crate) fn literal(self, dice: &mut Dice) -> String {
        match self {
            Of::Uuid => format!("'0d8b1f4e-0000-4000-8000-00000000000{}'", dice.word(&["a", "b", "c", "d"])),
            Of::Int | Of::Big => (1 + dice.below(5)).to_string(),
            Of::Text => {
                let words = ["a", "b", "admin", "member", "3", "", "lookup_reader"];
                format!("'{}'", dice.word(&words))
            }
            Of::Bool => dice.word(&["true", "false"]).to_owned(),
            Of::Rank => format!("'{}'", dice.word(&["guest", "member", "admin"])),
            Of::Moment => format!("'{}-05-06 07:08:09+00'", dice.word(&["1999", "2001", "2999"])),
        }
    }

    fn cast_literal(self, dice: &mut Dice) -> String {
        format!("{}::{}", self.literal(dice), self.sql())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) of: Of,
}

/// A table; the first column is `k`, which tells rows apart and is no key to PostgreSQL.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) schema: &'static str,
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<Column>,
    /// The primary key; where there is none, the replica identity is FULL.
    pub(crate) key: Vec<usize>,
    /// Whether the replica identity is FULL.
    pub(crate) full: bool,
}

impl Table {
    pub(crate) fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// A literal for a column.
    pub(crate) fn value(&self, column: usize, dice: &mut Dice) -> String {
        let nullable = column != 0 && !self.key.contains(&column);
        if nullable && dice.percent(20) {
            return "NULL".to_owned();
        }
        self.columns[column].of.literal(dice)
    }

    /// An INSERT of one row.
    pub(crate) fn insert(&self, k: usize, dice: &mut Dice) -> String {
        let mut values = vec![k.to_string()];
        values.extend((1..self.columns.len()).map(|column| self.value(column, dice)));
        format!("INSERT INTO {} VALUES ({}) ON CONFLICT DO NOTHING", self.qualified(), values.join(", "))
    }
}

/// A database to be judged in.
pub(crate) struct World {
    pub(crate) tables: Vec<Table>,
    pub(crate) sql: String,
}

/// The columns that tables may have besides their keys.
const COLUMNS: Columns = &[
    ("owner", Of::Uuid),
    ("person", Of::Uuid),
    ("room", Of::Int),
    ("team", Of::Int),
    ("level", Of::Big),
    ("title", Of::Text),
    ("role", Of::Text),
    ("rank", Of::Rank),
    ("open", Of::Bool),
    ("until", Of::Moment),
];

/// Columns as they are listed here.
type Columns = &'static [(&'static str, Of)];

/// The tables, of which a world has some: name, how likely it is, key. A policy looks things up in those behind
/// its own table for the most part, so that few worlds are nothing but recursion.
const TABLES: &[(&str, usize, Columns)] = &[
    ("posts", 100, &[("id", Of::Int)]),
    ("notes", 40, &[("room", Of::Int), ("no", Of::Int)]),
    ("members", 90, &[("room", Of::Int), ("person", Of::Uuid)]),
    ("rooms", 75, &[("id", Of::Int)]),
    ("profiles", 70, &[("id", Of::Uuid)]),
    ("teams", 50, &[("id", Of::Big)]),
];

impl World {
    pub(crate) fn draw(dice: &mut Dice) -> World {
        let mut tables: Vec<Table> = Vec::new();
        for (name, likely, key) in TABLES {
            if dice.percent(*likely) || (tables.len() < 2 && *name == "profiles") {
                tables.push(table(name, key, dice));
            }
        }
        let own = tables.len();
        if dice.percent(30) {
            let decoy = tables[1 + dice.below(own - 1)].clone();
            tables.push(Table { schema: "side", key: Vec::new(), full: true, ..decoy });
        }
        let mut sql = String::from(
            "DROP SCHEMA IF EXISTS public, side, lookup_reader CASCADE; CREATE SCHEMA public; CREATE SCHEMA side;\n\
             CREATE TYPE public.rank AS ENUM ('guest', 'member', 'admin');\n\
             CREATE TEMP TABLE IF NOT EXISTS refused (statement text, reason text); TRUNCATE refused;\n",
        );
        for table in &tables {
            create(table, dice, &mut sql);
        }
        if dice.percent(5) {
            // What `$user` in the search path finds.
            let _ = writeln!(
                sql,
                "CREATE SCHEMA lookup_reader AUTHORIZATION lookup_reader; CREATE TABLE lookup_reader.members (LIKE public.{});",
                tables[1].name
            );
        }
        let names: Vec<String> = tables.iter().map(Table::qualified).collect();
        let _ = writeln!(sql, "ALTER PUBLICATION worlds SET TABLE {};", names.join(", "));
        let mut functions = Vec::new();
        for number in 0..=dice.below(5) {
            let (function, text) = Function::draw(number, &tables, &functions, dice);
            sql.push_str(&text);
            functions.push(function);
        }
        grants(&tables, dice, &mut sql);
        for place in 0..own {
            policies(place, &tables, &functions, dice, &mut sql);
        }
        World { tables, sql }
    }
}

fn table(name: &'static str, key: Columns, dice: &mut Dice) -> Table {
    let varied = |of: Of, dice: &mut Dice| match of {
        Of::Int if dice.percent(15) => Of::Big,
        of => of,
    };
    let mut columns = vec![Column { name: "k", of: Of::Int }];
    columns.extend(key.iter().map(|&(name, of)| Column { name, of: varied(of, dice) }));
    for &(name, of) in COLUMNS {
        if dice.percent(50) && columns.iter().all(|column| column.name != name) {
            columns.push(Column { name, of: varied(of, dice) });
        }
    }
    let keyless = dice.percent(20);
    let key = if keyless { Vec::new() } else { (1..=key.len()).collect() };
    Table { schema: "public", name, columns, full: keyless || dice.percent(15), key }
}

fn create(table: &Table, dice: &mut Dice, sql: &mut String) {
    let name = table.qualified();
    let mut parts: Vec<String> =
        table.columns.iter().map(|column| format!("{} {}", column.name, column.of.sql())).collect();
    if !table.key.is_empty() {
        let key: Vec<&str> = table.key.iter().map(|&column| table.columns[column].name).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let _ = writeln!(sql, "CREATE TABLE {name} ({}); CREATE INDEX ON {name} (k);", parts.join(", "));
    if table.full {
        let _ = writeln!(sql, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
    }
    for k in 1..=10 + dice.below(14) {
        let _ = writeln!(sql, "{};", table.insert(k, dice));
    }
}

fn grants(tables: &[Table], dice: &mut Dice, sql: &mut String) {
    for schema in ["public", "side"] {
        if dice.percent(90) {
            let _ = writeln!(sql, "GRANT USAGE ON SCHEMA {schema} TO PUBLIC;");
        } else {
            let roles = roles(dice);
            let _ = writeln!(sql, "GRANT USAGE ON SCHEMA {schema} TO {roles};");
        }
    }
    for table in tables {
        let name = table.qualified();
        for role in ROLES.iter().chain(&["lookup_definer", "lookup_team"]) {
            match dice.below(20) {
                0 => {}
                1 | 2 => {
                    let some: Vec<&str> = table.columns[1..]
                        .iter()
                        .map(|column| column.name)
                        .filter(|_| dice.percent(70))
                        .collect();
                    let list: Vec<&str> = ["k"].into_iter().chain(some).collect();
                    let _ = writeln!(sql, "GRANT SELECT ({}) ON {name} TO {role};", list.join(", "));
                }
                _ => {
                    let _ = writeln!(sql, "GRANT SELECT ON {name} TO {role};");
                }
            }
        }
        if dice.percent(40) {
            let _ = writeln!(sql, "ALTER TABLE {name} OWNER TO lookup_owner;");
        }
    }
}

fn policies(place: usize, tables: &[Table], functions: &[Function], dice: &mut Dice, sql: &mut String) {
    let name = tables[place].qualified();
    let judged = place < 2;
    if dice.percent(if judged { 95 } else { 65 }) {
        let _ = writeln!(sql, "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;");
    }
    if dice.percent(20) {
        let _ = writeln!(sql, "ALTER TABLE {name} FORCE ROW LEVEL SECURITY;");
    }
    for number in 0..=dice.below(3).min(dice.below(3)) {
        // Without a permissive one there is nothing to see.
        let kind = if number > 0 && dice.percent(40) { "RESTRICTIVE" } else { "PERMISSIVE" };
        let command = dice.word(&["ALL", "SELECT", "SELECT", "SELECT", "UPDATE"]);
        let roles = if dice.percent(65) { "PUBLIC".to_owned() } else { roles(dice) };
        let floor = if dice.percent(3) { place } else { place + 1 };
        let last = floor >= tables.iter().filter(|table| table.schema == "public").count();
        let depth = if last {
            0
        } else if judged {
            3
        } else {
            1 + dice.below(2)
        };
        let mut drawing = Drawing::new(tables, functions, floor, dice);
        drawing.levels.push(vec![(tables[place].name.to_owned(), place)]);
        let using = if depth > 1 && drawing.dice.percent(50) {
            drawing.membership_test()
        } else {
            drawing.condition(depth)
        };
        let create =
            format!("CREATE POLICY p{number} ON {name} AS {kind} FOR {command} TO {roles} USING ({using})");
        sql.push_str(&attempt(&create));
    }
}

fn roles(dice: &mut Dice) -> String {
    let all =
        ["lookup_reader", "lookup_member", "lookup_limited", "lookup_owner", "lookup_team", "lookup_bypass"];
    let mut some: Vec<&str> = all.into_iter().filter(|_| dice.percent(45)).collect();
    if some.is_empty() {
        some.push("lookup_reader");
    }
    some.join(", ")
}

/// A statement that is passed over where PostgreSQL refuses it.
pub(crate) fn attempt(statement: &str) -> String {
    format!(
        "DO $attempt$ DECLARE statement text := $statement${statement}$statement$; BEGIN EXECUTE statement; \
         EXCEPTION WHEN OTHERS THEN INSERT INTO refused VALUES (statement, SQLERRM); END $attempt$;\n"
    )
}
