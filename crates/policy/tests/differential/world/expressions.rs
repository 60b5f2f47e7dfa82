//! Random expressions over the tables of a world, most of them valid SQL.

use super::functions::Function;
use super::{Of, Table};
use crate::dice::Dice;

/// What expressions are drawn from.
pub(crate) struct Drawing<'a> {
    pub(crate) dice: &'a mut Dice,
    tables: &'a [Table],
    functions: &'a [Function],
    /// The first table that sub-selects may read.
    floor: usize,
    /// What goes before the names of tables and functions.
    pub(crate) prefix: &'static str,
    /// The tables in scope, by level and alias; the innermost level last.
    pub(crate) levels: Vec<Vec<(String, usize)>>,
    /// The parameters in scope, as they are written.
    pub(crate) parameters: Vec<(String, Of)>,
    aliases: usize,
}

impl<'a> Drawing<'a> {
    pub(crate) fn new(
        tables: &'a [Table],
        functions: &'a [Function],
        floor: usize,
        dice: &'a mut Dice,
    ) -> Drawing<'a> {
        Drawing {
            dice,
            tables,
            functions,
            floor,
            prefix: "public.",
            levels: Vec::new(),
            parameters: Vec::new(),
            aliases: 0,
        }
    }

    /// A boolean expression with sub-selects at most so many levels deep.
    pub(crate) fn condition(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.comparison(0);
        }
        let inner = depth - 1;
        match self.dice.below(20) {
            0 | 1 => format!("({} AND {})", self.condition(depth), self.condition(inner)),
            2 | 3 => format!("({} OR {})", self.condition(depth), self.condition(inner)),
            4 => format!("(NOT {})", self.condition(depth)),
            5 => {
                let test = self.dice.word(&["IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NULL", "IS NOT NULL"]);
                format!("({} {test})", self.condition(inner))
            }
            6..9 => self.comparison(depth),
            9..12 => self.exists(inner),
            12..15 => self.membership(inner),
            15 | 16 => self.scalar_comparison(inner),
            _ => self.call(Of::Bool, inner).unwrap_or_else(|| self.exists(inner)),
        }
    }

    /// What policies are mostly about: whether a table has a row for the subscriber and something of the row.
    pub(crate) fn membership_test(&mut self) -> String {
        for _ in 0..8 {
            let (from, level) = self.from();
            let (alias, table) = self.dice.one(&level).clone();
            let column = self.dice.one(&self.tables[table].columns[1..]).clone();
            let Some(outer) = self.column(column.of) else { continue };
            let inner = format!("{alias}.{}", column.name);
            let persons: Vec<&str> = (self.tables[table].columns.iter())
                .filter(|other| other.of == Of::Uuid && other.name != column.name)
                .map(|other| other.name)
                .collect();
            let mut all = Vec::new();
            if !persons.is_empty() {
                all.push(format!("{alias}.{} = auth.uid()", self.dice.one(&persons)));
            }
            if persons.is_empty() || self.dice.percent(15) {
                self.levels.push(level);
                all.push(self.comparison(0));
                self.levels.pop();
            }
            let all = all.join(" AND ");
            return match self.dice.below(10) {
                0..4 => format!("(EXISTS (SELECT 1 FROM {from} WHERE {inner} = {outer} AND {all}))"),
                4 => format!("(NOT EXISTS (SELECT 1 FROM {from} WHERE {inner} = {outer} AND {all}))"),
                5 => format!("({outer} IN (SELECT {inner} FROM {from} WHERE {all}))"),
                6 => format!("({outer} = ANY (ARRAY(SELECT {inner} FROM {from} WHERE {all})))"),
                7 => format!("({outer} NOT IN (SELECT {inner} FROM {from} WHERE {all}))"),
                8 => format!("((SELECT count(*) FROM {from} WHERE {inner} = {outer} AND {all}) > 0)"),
                _ => format!("((SELECT {inner} FROM {from} WHERE {all} LIMIT 1) = {outer})"),
            };
        }
        self.condition(1)
    }

    fn comparison(&mut self, depth: usize) -> String {
        match self.dice.below(30) {
            0 => return self.dice.word(&["true", "false", "NULL::boolean"]).to_owned(),
            1 => return format!("({} IS NULL)", self.any_value(depth)),
            2 => {
                let who = Of::Text.literal(self.dice);
                return format!("(current_user = {who})");
            }
            3 if self.dice.percent(50) => {
                // Raises for some values.
                let number = self.value(Of::Int, 0);
                return format!("(({number} / ({number} - 3)) > 0)");
            }
            4 | 5 => {
                if let Some(column) = self.column(Of::Bool) {
                    return column;
                }
            }
            _ => {}
        }
        let of = *self.dice.one(&[
            Of::Uuid,
            Of::Uuid,
            Of::Uuid,
            Of::Int,
            Of::Int,
            Of::Big,
            Of::Text,
            Of::Rank,
            Of::Moment,
        ]);
        let operator = match of {
            Of::Uuid | Of::Text => {
                self.dice.word(&["=", "=", "=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
            }
            Of::Moment => self.dice.word(&["<", ">", ">="]),
            _ => self.dice.word(&["=", "=", "=", "<>", "<", ">="]),
        };
        let left = self.column(of).unwrap_or_else(|| self.value(of, depth));
        let right = self.value(of, depth);
        format!("({left} {operator} {right})")
    }

    fn any_value(&mut self, depth: usize) -> String {
        let of = *self.dice.one(&[Of::Uuid, Of::Int, Of::Text, Of::Rank, Of::Bool]);
        self.value(of, depth)
    }

    /// An expression of a type.
    pub(crate) fn value(&mut self, of: Of, depth: usize) -> String {
        match self.dice.below(20) {
            0..8 => {
                if let Some(column) = self.column(of) {
                    return column;
                }
            }
            8..12 => {
                if let Some(claim) = self.claim(of) {
                    return claim;
                }
            }
            12 if depth > 0 => {
                if let Some(call) = self.call(of, depth - 1) {
                    return call;
                }
            }
            13 if depth > 0 => return format!("({})", self.select_values(of, depth - 1, true)),
            14 => {
                let (first, second) = (self.value(of, 0), self.value(of, 0));
                return format!("COALESCE({first}, {second}, {})", of.cast_literal(self.dice));
            }
            15 if depth > 0 => {
                let (test, first) = (self.condition(0), self.value(of, 0));
                return format!("CASE WHEN {test} THEN {first} ELSE {} END", of.cast_literal(self.dice));
            }
            _ => {}
        }
        of.cast_literal(self.dice)
    }

    fn claim(&mut self, of: Of) -> Option<String> {
        Some(match of {
            Of::Uuid => self.dice.word(&["auth.uid()", "(SELECT auth.uid())"]).to_owned(),
            Of::Text => {
                self.dice.word(&["auth.role()", "(auth.jwt() ->> 'word')", "current_user::text"]).to_owned()
            }
            Of::Int => "((auth.jwt() ->> 'number')::integer)".to_owned(),
            Of::Big => "((auth.jwt() ->> 'number')::bigint)".to_owned(),
            Of::Moment => "now()".to_owned(),
            Of::Bool => "(auth.jwt() ->> 'sub' IS NOT NULL)".to_owned(),
            Of::Rank => return None,
        })
    }

    /// A column in scope, or a parameter.
    fn column(&mut self, of: Of) -> Option<String> {
        let fits = |found: Of| found == of || matches!((found, of), (Of::Int, Of::Big));
        if self.dice.percent(30) {
            let found: Vec<String> = self
                .parameters
                .iter()
                .filter(|(_, found)| fits(*found))
                .map(|(text, _)| text.clone())
                .collect();
            if !found.is_empty() {
                return Some(self.dice.one(&found).clone());
            }
        }
        let inner_only = self.dice.percent(60);
        let mut found = Vec::new();
        for (place, level) in self.levels.iter().enumerate() {
            let innermost = place + 1 == self.levels.len();
            if inner_only && !innermost {
                continue;
            }
            for (alias, table) in level {
                // Not `k`: what is known of it from elsewhere, PostgreSQL leaves out of policies.
                for column in self.tables[*table].columns[1..].iter().filter(|column| fits(column.of)) {
                    found.push((alias.clone(), column.name, innermost));
                }
            }
        }
        if found.is_empty() {
            return self.parameters.iter().find(|(_, found)| fits(*found)).map(|(text, _)| text.clone());
        }
        let (alias, name, innermost) = self.dice.one(&found).clone();
        Some(if innermost && self.dice.percent(15) { name.to_owned() } else { format!("{alias}.{name}") })
    }

    fn call(&mut self, of: Of, depth: usize) -> Option<String> {
        let any = self.dice.percent(3);
        let floor = self.floor;
        let fitting: Vec<&Function> = self
            .functions
            .iter()
            .filter(|one| one.returns == of && !one.set && (any || one.sees_all || one.floor >= floor))
            .collect();
        if fitting.is_empty() {
            return None;
        }
        let function = *self.dice.one(&fitting);
        Some(self.called(function, depth))
    }

    fn called(&mut self, function: &Function, depth: usize) -> String {
        let arguments: Vec<String> = function.arguments.iter().map(|of| self.argument(*of, depth)).collect();
        format!("{}{}({})", self.prefix, function.name, arguments.join(", "))
    }

    fn argument(&mut self, of: Of, depth: usize) -> String {
        match self.dice.below(20) {
            0 => format!("NULL::{}", of.sql()),
            1 if of == Of::Uuid => {
                let text = self.value(Of::Text, 0);
                format!("({text})::uuid")
            }
            2..12 => self.column(of).filter(|_| of != Of::Big).unwrap_or_else(|| self.value(of, depth)),
            _ => self.value(of, depth.min(1)),
        }
    }

    fn exists(&mut self, depth: usize) -> String {
        let (from, level) = self.from();
        self.levels.push(level.clone());
        let conditions = self.conditions(depth);
        let (alias, table) = self.dice.one(&level).clone();
        let column = self.dice.one(&self.tables[table].columns).name;
        self.levels.pop();
        let selected = match self.dice.below(8) {
            0 => format!("{alias}.{column}"),
            1 => format!("{alias}.*"),
            2 => "*".to_owned(),
            3 => String::new(),
            4 => "DISTINCT 1".to_owned(),
            _ => "1".to_owned(),
        };
        let tail = match self.dice.below(12) {
            0 => " LIMIT 1".to_owned(),
            1 if selected == "1" => format!(" ORDER BY {alias}.{column}"),
            2 if selected == "1" => format!(" ORDER BY {alias}.{column} LIMIT 2"),
            3 if self.dice.percent(20) => " LIMIT 0".to_owned(),
            4 if self.dice.percent(20) => " OFFSET 1".to_owned(),
            _ => String::new(),
        };
        let not = if self.dice.percent(25) { "NOT " } else { "" };
        format!("({not}EXISTS (SELECT {selected} FROM {from}{conditions}{tail}))")
    }

    fn membership(&mut self, depth: usize) -> String {
        let of = *self.dice.one(&[Of::Int, Of::Int, Of::Uuid, Of::Uuid, Of::Text, Of::Rank, Of::Big]);
        let operand = if self.dice.percent(75) { self.column(of) } else { None };
        let operand = operand.unwrap_or_else(|| self.value(of, 0));
        let sets: Vec<&Function> = self
            .functions
            .iter()
            .filter(|one| one.set && one.returns == of && (one.sees_all || one.floor >= self.floor))
            .collect();
        let query = if !sets.is_empty() && self.dice.percent(50) {
            let function = *self.dice.one(&sets);
            format!("SELECT {}", self.called(function, 0))
        } else {
            self.select_values(of, depth, false)
        };
        match self.dice.below(12) {
            0..4 => format!("({operand} IN ({query}))"),
            4..7 => format!("({operand} NOT IN ({query}))"),
            7 => format!("({operand} = ANY ({query}))"),
            8 => format!("({operand} <> ALL ({query}))"),
            9 => format!("({operand} = ANY (ARRAY({query})))"),
            10 => format!("({operand} <> ALL (ARRAY({query})))"),
            _ if matches!(of, Of::Int | Of::Big | Of::Rank) => {
                let quantifier = self.dice.word(&["> ANY", "< ALL", ">= ALL", "<> ANY", "= ALL"]);
                format!("({operand} {quantifier} ({query}))")
            }
            _ => format!("({operand} = ALL ({query}))"),
        }
    }

    fn scalar_comparison(&mut self, depth: usize) -> String {
        if self.dice.percent(35) {
            let (from, level) = self.from();
            self.levels.push(level);
            let conditions = self.conditions(depth);
            self.levels.pop();
            let operator = self.dice.word(&[">", "=", "<", "<>"]);
            let count = self.dice.word(&["count(*)", "count(*)", "count(*)", "count(1)", "max(k)"]);
            let count = if level_has_one(&from) { count } else { "count(*)" };
            return format!("((SELECT {count} FROM {from}{conditions}) {operator} {})", self.dice.below(3));
        }
        let of = *self.dice.one(&[Of::Text, Of::Text, Of::Rank, Of::Uuid, Of::Int, Of::Bool]);
        let select = self.select_values(of, depth, true);
        let value = self.value(of, 0);
        let operator = self.dice.word(&["=", "=", "<>", "IS DISTINCT FROM"]);
        format!("(({select}) {operator} {value})")
    }

    /// A sub-select of values of a type; where `few`, rather of a single row.
    pub(crate) fn select_values(&mut self, of: Of, depth: usize, few: bool) -> String {
        for _ in 0..6 {
            let (from, level) = self.from();
            let of_level = |found: &&super::Column| found.of == of && found.name != "k";
            let mut outputs: Vec<String> = Vec::new();
            for (alias, table) in &level {
                let columns = self.tables[*table].columns.iter().filter(of_level);
                outputs.extend(columns.map(|column| format!("{alias}.{}", column.name)));
            }
            if outputs.is_empty() {
                continue;
            }
            let output = self.dice.one(&outputs).clone();
            self.levels.push(level.clone());
            let key = few.then(|| self.by_key(&level[0])).flatten();
            let mut conditions = self.conditions(depth);
            self.levels.pop();
            if let Some(key) = key {
                conditions = if conditions.is_empty() {
                    format!(" WHERE {key}")
                } else {
                    format!("{conditions} AND {key}")
                };
            }
            let distinct = if self.dice.percent(10) { "DISTINCT " } else { "" };
            let tail = if few && self.dice.percent(30) {
                " LIMIT 1"
            } else if !few && self.dice.percent(3) {
                " LIMIT 2"
            } else {
                ""
            };
            return format!("SELECT {distinct}{output} FROM {from}{conditions}{tail}");
        }
        let (from, level) = self.from();
        self.levels.push(level);
        let conditions = self.conditions(depth);
        self.levels.pop();
        let tail = if few { " LIMIT 1" } else { "" };
        format!("SELECT {} FROM {from}{conditions}{tail}", of.cast_literal(self.dice))
    }

    /// The key of a table has some value.
    fn by_key(&mut self, (alias, table): &(String, usize)) -> Option<String> {
        let table = &self.tables[*table];
        let inner = self.levels.pop();
        let mut all = Vec::new();
        for &column in &table.key {
            let column = &table.columns[column];
            let value = self.column(column.of).unwrap_or_else(|| self.value(column.of, 0));
            all.push(format!("{alias}.{} = {value}", column.name));
        }
        self.levels.extend(inner);
        (!all.is_empty()).then(|| all.join(" AND "))
    }

    /// A WHERE clause, most often one that ties the innermost tables to something.
    fn conditions(&mut self, depth: usize) -> String {
        let mut all = Vec::new();
        let level = self.levels.last().cloned().unwrap_or_default();
        for (alias, table) in &level {
            if self.dice.percent(75) {
                let column = self.dice.one(&self.tables[*table].columns[1..]).clone();
                let inner = self.levels.pop();
                let value = self.column(column.of).unwrap_or_else(|| self.value(column.of, 0));
                self.levels.extend(inner);
                all.push(format!("{alias}.{} = {value}", column.name));
            }
        }
        for _ in 0..self.dice.below(3) {
            all.push(if depth > 0 { self.condition(depth.min(1)) } else { self.comparison(0) });
        }
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// A FROM clause and what is in scope by it.
    fn from(&mut self) -> (String, Vec<(String, usize)>) {
        let (first, first_alias) = self.table();
        let mut level = vec![first_alias.clone()];
        let mut text = first;
        if self.dice.percent(70) {
            return (text, level);
        }
        let (second, second_alias) = self.table();
        if level.iter().any(|(alias, _)| *alias == second_alias.0) {
            return (text, level);
        }
        level.push(second_alias.clone());
        let common = self.common(&first_alias, &second_alias);
        match self.dice.below(4) {
            0 => text = format!("{text}, {second}"),
            1 if !common.is_empty() => {
                let column = *self.dice.one(&common);
                text = format!("{text} JOIN {second} USING ({column})");
            }
            _ => {
                self.levels.push(level.clone());
                let condition = self.comparison(0);
                self.levels.pop();
                let outer = if self.dice.percent(5) { "LEFT " } else { "" };
                text = format!("{text} {outer}JOIN {second} ON {condition}");
            }
        }
        if self.dice.percent(25) {
            let (third, third_alias) = self.table();
            if level.iter().all(|(alias, _)| *alias != third_alias.0) {
                let common = self.common(&second_alias, &third_alias);
                if common.is_empty() || self.dice.percent(60) {
                    text = format!("{third}, {text}");
                } else {
                    let column = *self.dice.one(&common);
                    text = format!("{text} JOIN {third} USING ({column})");
                }
                level.insert(0, third_alias);
            }
        }
        (text, level)
    }

    fn common(&self, left: &(String, usize), right: &(String, usize)) -> Vec<&'static str> {
        let right = &self.tables[right.1].columns;
        let left = self.tables[left.1].columns[1..].iter();
        left.filter(|one| right.iter().any(|other| other.name == one.name)).map(|one| one.name).collect()
    }

    fn table(&mut self) -> (String, (String, usize)) {
        let own = self.tables.iter().filter(|table| table.schema == "public").count();
        let floor = if self.dice.percent(2) { 0 } else { self.floor.min(own - 1) };
        let place = floor + self.dice.below(self.tables.len() - floor);
        let table = &self.tables[place];
        let name = match (table.schema, self.prefix) {
            ("side", "") if self.dice.percent(50) => table.name.to_owned(),
            ("side", _) => table.qualified(),
            (_, prefix) => format!("{prefix}{}", table.name),
        };
        if self.dice.percent(30) {
            return (name, (table.name.to_owned(), place));
        }
        self.aliases += 1;
        let alias = format!("a{}", self.aliases);
        let written = if self.dice.percent(50) { "AS " } else { "" };
        (format!("{name} {written}{alias}"), (alias, place))
    }
}

/// Whether a FROM clause names one table only.
fn level_has_one(from: &str) -> bool {
    !from.contains(',') && !from.contains("JOIN")
}
