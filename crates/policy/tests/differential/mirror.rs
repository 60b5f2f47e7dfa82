//! Random changes of the tables of a world, and the same in the copies as the log would tell them.

use walcast_pgoutput::Oid;
use walcast_policy::schema::{Identity, Table as Described};
use walcast_policy::{CopyChange, Datum};

use super::dice::Dice;
use super::harness::{datum, texts};
use super::look_ups::{Row, Scene};
use super::world::{Table, World};

/// The values of a row that a copy keeps, in its order.
pub(crate) fn copied<'a>(table: &Described, columns: &[i16], row: &'a Row) -> Vec<Datum<'a>> {
    let place = |number: &i16| table.columns.iter().position(|column| column.number == *number).unwrap();
    columns.iter().map(|number| datum(row[place(number)].as_deref())).collect()
}

/// One transaction: some statements, and each of its changes in the copies. Returns the statements.
pub(crate) async fn change(scene: &mut Scene<'_>, world: &World, dice: &mut Dice) -> Vec<String> {
    scene.members.begin();
    let mut made = Vec::new();
    for _ in 0..6 + dice.below(30) {
        let table = dice.one(&world.tables);
        let described =
            scene.tables().into_iter().find(|one| one.schema == table.schema && one.name == table.name);
        let described = described.unwrap();
        let statement = statement(table, dice);
        let sql = format!("SAVEPOINT changed; {statement}; RELEASE changed");
        let Ok(returned) = texts(scene.client(), &sql).await else {
            scene.client().batch_execute("ROLLBACK TO changed; RELEASE changed").await.unwrap();
            continue;
        };
        tell(scene, &described, &statement, returned, dice);
        made.push(statement);
    }
    made
}

fn statement(table: &Table, dice: &mut Dice) -> String {
    let name = table.qualified();
    let k = 1 + dice.below(22);
    match dice.below(40) {
        0 => format!("TRUNCATE {name}"),
        1..13 => {
            let k = 20 + dice.below(1_000_000);
            format!("{} RETURNING *", table.insert(k, dice))
        }
        13..20 => format!("DELETE FROM {name} WHERE k = {k} RETURNING *"),
        _ => {
            let mut set = Vec::new();
            for column in 1..table.columns.len() {
                if dice.percent(40) || (column + 1 == table.columns.len() && set.is_empty()) {
                    let value = table.value(column, dice);
                    set.push(format!("{} = {value}", table.columns[column].name));
                }
            }
            format!("UPDATE {name} SET {} WHERE k = {k} RETURNING *", set.join(", "))
        }
    }
}

fn tell(scene: &mut Scene<'_>, table: &Described, statement: &str, returned: Vec<Row>, dice: &mut Dice) {
    let columns = scene.members.get(table.oid).map(|copy| copy.columns().to_vec());
    if statement.starts_with("TRUNCATE") {
        scene.rows.get_mut(&table.oid).unwrap().clear();
        scene.members.apply(table.oid, CopyChange::Truncate).unwrap();
        return;
    }
    for row in returned {
        let k: i64 = row[0].as_deref().unwrap().parse().unwrap();
        let rows = scene.rows.get_mut(&table.oid).unwrap();
        let before = rows.remove(&k);
        if !statement.starts_with("DELETE") {
            rows.insert(k, row.clone());
        }
        let Some(columns) = &columns else { continue };
        apply(scene, (table.oid, table), columns, statement, before.as_ref(), &row, dice);
    }
}

fn apply(
    scene: &mut Scene<'_>,
    (oid, table): (Oid, &Described),
    columns: &[i16],
    statement: &str,
    before: Option<&Row>,
    row: &Row,
    dice: &mut Dice,
) {
    let new = copied(table, columns, row);
    let Some(before) = before else {
        return scene.members.apply(oid, CopyChange::Insert(&new)).unwrap();
    };
    let old_whole = copied(table, columns, before);
    let is_identity =
        |place: usize| table.columns.iter().any(|column| column.number == columns[place] && column.identity);
    let full = table.identity == Identity::Full;
    let old: Vec<_> = (0..columns.len())
        .map(|place| if full || is_identity(place) { old_whole[place] } else { Datum::Null })
        .collect();
    if statement.starts_with("DELETE") {
        return scene.members.apply(oid, CopyChange::Delete(&old)).unwrap();
    }
    let moved = (0..columns.len()).any(|place| is_identity(place) && old_whole[place] != new[place]);
    let old = (full || moved).then_some(&*old);
    // What lies in TOAST is not told again, unless it belongs to the identity.
    let new: Vec<_> = (0..columns.len())
        .map(|place| {
            let unchanged = old_whole[place] == new[place] && !is_identity(place);
            if unchanged && dice.percent(20) { Datum::Missing } else { new[place] }
        })
        .collect();
    scene.members.apply(oid, CopyChange::Update { old, new: &new }).unwrap();
}
