//! The tables that policies look things up in: whether walcast copies them, and what the copies may take.

use std::collections::{BTreeMap, BTreeSet};

use walcast_catalog::qualified;
use walcast_catalog::survey::{LookupSize, Survey};
use walcast_pgoutput::Oid;
use walcast_policy::schema::{LookupTable, Table};
use walcast_policy::{Access, Plan};

use super::report::{Fact, Finding, LookupReport, Report, Severity};
use super::size::bytes;

/// What a row takes in a copy beside its values, in bytes.
const ROW_OVERHEAD: i64 = 16;

/// What a row takes in an index, in bytes.
const INDEX_ENTRY: i64 = 16;

/// What is copied of one table.
#[derive(Default)]
struct Need {
    columns: BTreeSet<i16>,
    indexes: BTreeSet<Vec<i16>>,
}

/// Looks at the tables that the policies of published tables look up for the known roles.
pub(super) fn examine(survey: &Survey, copy_bytes_max: usize, report: &mut Report) {
    let snapshot = &survey.snapshot;
    let mut needs: BTreeMap<Oid, Need> = BTreeMap::new();
    for table in snapshot.tables.values() {
        for role in survey.roles.iter().filter_map(|role| snapshot.roles.get(&role.name)) {
            let plan = Plan::compile(table, role, snapshot);
            if plan.access() != Access::ByPolicy {
                continue;
            }
            for need in plan.copies() {
                let found = needs.entry(need.table).or_default();
                found.columns.extend(&need.columns);
                found.indexes.extend(need.indexes.iter().cloned());
            }
            for oid in plan.not_copied() {
                needs.entry(*oid).or_default();
            }
        }
    }
    let unknown = LookupSize::default();
    for (oid, need) in &needs {
        let Some(found) = snapshot.lookups.get(oid) else { continue };
        report.lookups.push(describe(found, need, survey.lookups.get(oid).unwrap_or(&unknown)));
    }
    report.lookups.sort_by(|one, other| (&one.schema, &one.name).cmp(&(&other.schema, &other.name)));
    if !report.lookups.is_empty() {
        tell_of_the_budget(copy_bytes_max, report);
    }
}

fn describe(found: &LookupTable, need: &Need, size: &LookupSize) -> LookupReport {
    let LookupTable { table, obstacle, .. } = found;
    let copied = obstacle.is_none();
    // The identity is needed to find the rows that the log changes.
    let kept = |number: &i16| {
        need.columns.contains(number)
            || table.columns.iter().any(|column| column.identity && column.number == *number)
    };
    let columns: Vec<_> = table.columns.iter().filter(|column| copied && kept(&column.number)).collect();
    let row: i64 = columns
        .iter()
        .map(|column| i64::from(size.widths.get(&column.number).copied().unwrap_or(16)) + 1)
        .sum();
    let indexes = i64::try_from(need.indexes.len()).unwrap_or(i64::MAX).saturating_add(1);
    let row = INDEX_ENTRY.saturating_mul(indexes).saturating_add(row + ROW_OVERHEAD);
    LookupReport {
        schema: table.schema.clone(),
        name: table.name.clone(),
        copied,
        columns: columns.iter().map(|column| column.name.clone()).collect(),
        rows: size.rows,
        bytes: size.rows.filter(|_| copied).map(|rows| rows.saturating_mul(row)),
        findings: obstacle.iter().map(|obstacle| obstacle_finding(table, obstacle)).collect(),
    }
}

/// Why there is no copy, with the SQL that makes one possible.
fn obstacle_finding(table: &Table, obstacle: &str) -> Finding {
    let (clause, sql) = match obstacle.split_once(": ") {
        Some((clause, rest)) => (clause, rest.find(';').map(|end| rest[..=end].to_owned())),
        None => (obstacle, None),
    };
    let identity = || {
        let name = qualified(&table.schema, &table.name);
        clause.contains("no replica identity").then(|| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"))
    };
    let mend = sql.or_else(identity);
    // What is no SQL is part of the reason.
    let clause = if mend.is_some() { clause } else { obstacle };
    let by_itself = match &mend {
        Some(sql) if sql.contains(" PUBLICATION ") => {
            "; walcast does this itself when it starts, where it may"
        }
        _ => "",
    };
    let sentence = format!(
        "{clause}: policies that look it up are left to PostgreSQL, which is asked for every change{by_itself}"
    );
    let finding = Finding::new(Severity::Note, sentence);
    match mend {
        Some(mend) => finding.mended_by(mend),
        None => finding,
    }
}

fn tell_of_the_budget(copy_bytes_max: usize, report: &mut Report) {
    let total = report.lookups.iter().filter_map(|table| table.bytes).fold(0, i64::saturating_add);
    let budget = i64::try_from(copy_bytes_max).unwrap_or(i64::MAX);
    let counted = report.lookups.iter().all(|table| !table.copied || table.bytes.is_some());
    let about = if counted { format!("about {} of ", bytes(total)) } else { String::new() };
    let is = format!("{about}at most {} (changes.copy_bytes_max)", bytes(budget));
    report.facts.push(Fact { about: "copies", is });
    if total > budget {
        let sentence = format!(
            "the copies of the tables that policies look things up in may take {}, more than the {} of \
             changes.copy_bytes_max: for those that do not fit PostgreSQL is asked; raise the setting",
            bytes(total),
            bytes(budget)
        );
        report.findings.push(Finding::new(Severity::Warning, sentence));
    }
}

#[cfg(test)]
mod tests {
    use walcast_policy::schema::Identity;

    use super::*;

    #[test]
    fn the_sql_of_an_obstacle_stands_apart_from_its_reason() {
        let table = Table {
            oid: Oid(1),
            schema: "app".to_owned(),
            name: "members".to_owned(),
            columns: Vec::new(),
            owner: Oid(10),
            row_security: false,
            force_row_security: false,
            identity: Identity::Default,
            policies: Vec::new(),
        };
        let mended = |obstacle: &str| {
            let finding = obstacle_finding(&table, obstacle);
            (finding.sentence.split_once(": policies").unwrap().0.to_owned(), finding.mend)
        };
        let sql = |sql: &str| Some(sql.to_owned());
        assert_eq!(
            mended("the log does not carry it: CREATE PUBLICATION walcast_lookups; and restart walcast"),
            ("the log does not carry it".to_owned(), sql("CREATE PUBLICATION walcast_lookups;"))
        );
        assert_eq!(
            mended("it has no replica identity"),
            (
                "it has no replica identity".to_owned(),
                sql("ALTER TABLE \"app\".\"members\" REPLICA IDENTITY FULL;")
            )
        );
        let young = "the log does not carry it: publication a is younger than the slot";
        assert_eq!(mended(young), (young.to_owned(), None));
    }
}
