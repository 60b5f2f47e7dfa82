use std::collections::BTreeMap;

use proptest::prelude::*;
use walcast_pgoutput::Oid;

use super::*;
use crate::schema::{Collation, Column, Identity, Table, Type, TypeKind, Types};

const TABLE: Oid = Oid(1);

fn types() -> Types {
    let base = |oid: u32, name: &str| {
        let found = Type {
            oid: Oid(oid),
            name: name.to_owned(),
            schema: "pg_catalog".to_owned(),
            kind: TypeKind::Base,
        };
        (Oid(oid), found)
    };
    Types([base(23, "int4"), base(25, "text")].into_iter().collect())
}

/// `members (room int, person int, note text)` with this identity.
fn table(identity: Identity) -> Table {
    let column = |number: i16, name: &str, oid: u32, key: bool| Column {
        name: name.to_owned(),
        number,
        type_oid: Oid(oid),
        type_modifier: -1,
        collation: Collation::Bytes,
        primary_key: key,
        identity: key || identity == Identity::Full,
        sql_type: String::new(),
    };
    Table {
        oid: TABLE,
        schema: "public".to_owned(),
        name: "members".to_owned(),
        columns: vec![
            column(1, "room", 23, true),
            column(2, "person", 23, true),
            column(3, "note", 25, false),
        ],
        owner: Oid(10),
        row_security: false,
        force_row_security: false,
        identity,
        policies: Vec::new(),
    }
}

fn members(identity: Identity) -> Members {
    let mut members = Members::default();
    members.insert(TABLE, TableCopy::new(&table(identity), &types(), &[1, 2, 3]));
    members.add_index(TABLE, &[1]);
    members
}

/// The persons and notes of a room.
fn of_room(members: &Members, moment: Moment, room: i64) -> Vec<(i64, Option<String>)> {
    let rows = members.at(moment).rows(TABLE, &[1], &[Value::Int(room)]).unwrap();
    let mut found: Vec<_> = rows
        .map(|row| {
            let Some(Some(Value::Int(person))) = row.value(2) else { panic!("no person") };
            let note = row.value(3).unwrap().map(|note| match note {
                Value::Text(text) => text.into_owned(),
                other => panic!("{other:?}"),
            });
            (person, note)
        })
        .collect();
    found.sort();
    found
}

/// What a change does in the model.
#[derive(Clone, Debug)]
enum Step {
    Put { room: u8, person: u8, note: Option<String> },
    Move { room: u8, person: u8, to: u8 },
    Keep { room: u8, person: u8 },
    Drop { room: u8, person: u8 },
    Truncate,
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let (room, person) = (0..4u8, 0..6u8);
    prop_oneof![
        6 => (room.clone(), person.clone(), proptest::option::of("[a-c]{0,3}"))
            .prop_map(|(room, person, note)| Step::Put { room, person, note }),
        2 => (room.clone(), person.clone(), 0..4u8).prop_map(|(room, person, to)| Step::Move { room, person, to }),
        1 => (room.clone(), person.clone()).prop_map(|(room, person)| Step::Keep { room, person }),
        3 => (room, person).prop_map(|(room, person)| Step::Drop { room, person }),
        1 => Just(Step::Truncate),
        3 => Just(Step::Commit),
    ]
}

type Model = BTreeMap<(u8, u8), Option<String>>;

fn apply(members: &mut Members, model: &mut Model, step: Step, full: bool) {
    let text = |number: u8| number.to_string();
    let datums = |room: &'static str, person: &'static str, note: Datum<'static>| {
        [Datum::Text(room), Datum::Text(person), note]
    };
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let note_of = |note: &Option<String>| note.clone().map_or(Datum::Null, |note| Datum::Text(leak(note)));
    let image =
        |key: &(u8, u8), note: &Option<String>| datums(leak(text(key.0)), leak(text(key.1)), note_of(note));
    let old_image = |key: &(u8, u8), note: &Option<String>| {
        if full { image(key, note) } else { datums(leak(text(key.0)), leak(text(key.1)), Datum::Missing) }
    };
    let change = |members: &mut Members, change: CopyChange<'_>| members.apply(TABLE, change).unwrap();
    match step {
        Step::Put { room, person, note } => {
            let key = (room, person);
            let new = image(&key, &note);
            match model.insert(key, note) {
                None => change(members, CopyChange::Insert(&new)),
                Some(before) => {
                    let old = old_image(&key, &before);
                    let old = full.then_some(&old[..]);
                    change(members, CopyChange::Update { old, new: &new });
                }
            }
        }
        Step::Move { room, person, to } => {
            let (from, to) = ((room, person), (to, person));
            if from == to || model.contains_key(&to) {
                return;
            }
            let Some(note) = model.remove(&from) else { return };
            let (old, new) = (old_image(&from, &note), image(&to, &note));
            model.insert(to, note);
            change(members, CopyChange::Update { old: Some(&old), new: &new });
        }
        // An UPDATE that leaves a large value out.
        Step::Keep { room, person } => {
            let key = (room, person);
            let Some(note) = model.get(&key) else { return };
            let old = old_image(&key, note);
            let new = datums(leak(text(room)), leak(text(person)), Datum::Missing);
            change(members, CopyChange::Update { old: full.then_some(&old[..]), new: &new });
        }
        Step::Drop { room, person } => {
            let Some(note) = model.remove(&(room, person)) else { return };
            let old = old_image(&(room, person), &note);
            change(members, CopyChange::Delete(&old));
        }
        Step::Truncate => {
            model.clear();
            change(members, CopyChange::Truncate);
        }
        Step::Commit => {}
    }
}

fn expected(model: &Model, room: u8) -> Vec<(i64, Option<String>)> {
    let of_room = model.iter().filter(|((of, _), _)| *of == room);
    of_room.map(|((_, person), note)| (i64::from(*person), note.clone())).collect()
}

proptest! {
    #[test]
    fn a_copy_has_the_rows_before_and_after_each_transaction(
        steps in proptest::collection::vec(step(), 0..120),
        full in any::<bool>(),
    ) {
        let mut members = members(if full { Identity::Full } else { Identity::Default });
        let (mut before, mut after) = (Model::new(), Model::new());
        for step in steps {
            if matches!(step, Step::Commit) {
                members.begin();
                before = after.clone();
            } else {
                apply(&mut members, &mut after, step, full);
            }
            for room in 0..4 {
                prop_assert_eq!(of_room(&members, Moment::After, room.into()), expected(&after, room));
                prop_assert_eq!(of_room(&members, Moment::Before, room.into()), expected(&before, room));
            }
            prop_assert_eq!(members.get(TABLE).unwrap().len(), after.len());
        }
    }
}

#[test]
fn a_row_that_is_not_there_or_there_twice_shows_that_copy_and_log_do_not_fit() {
    let mut members = members(Identity::Default);
    let row = [Datum::Text("1"), Datum::Text("2"), Datum::Null];
    assert!(members.apply(TABLE, CopyChange::Delete(&row)).is_err());
    members.apply(TABLE, CopyChange::Insert(&row)).unwrap();
    assert!(members.apply(TABLE, CopyChange::Insert(&row)).is_err());
}

#[test]
fn a_copy_takes_little_more_memory_than_its_rows() {
    let columns = table(Identity::Default);
    let mut copy = TableCopy::new(&columns, &types(), &[1, 2]);
    copy.add_index(&[0]);
    for row in 0..200_000 {
        let (room, person) = ((row / 10).to_string(), row.to_string());
        copy.insert(&[Datum::Text(&room), Datum::Text(&person)]);
    }
    copy.shrink();
    // Two integers and a byte for NULLs; an address, a slot in each index and the links of a chain.
    assert!(copy.row_bytes() == 200_000 * 9, "{}", copy.row_bytes());
    assert!(copy.bytes() < 200_000 * 40, "{} bytes a row", copy.bytes() / 200_000);
}
