//! Rows that leave and enter, where the log carries the old row.

use walcast_pgoutput::OldTuple;
use walcast_policy::schema::{LookupTable, Reading};

use super::windows::{LETTERS, note, row};
use super::*;

/// An UPDATE of the body, with the whole old row.
fn updated(id: &str, before: &str, after: &str) -> Change {
    let Change { relation, row } = note(id, after);
    let RowChange::Insert { new } = row else { panic!("a row") };
    let old = Tuple::from_cells([Cell::Text(id.as_bytes()), Cell::Text(before.as_bytes())]);
    Change { relation, row: RowChange::Update { old: Some(OldTuple::Full(old)), new } }
}

fn gone(id: &str) -> String {
    format!(r#""old_record":{{"id":"{id}"}},"errors":null}}}}]"#)
}

async fn subscribed(event: &str, using: &str) -> Scene {
    let mut scene = Scene::start(snapshot(1, &["id", "body"], using));
    let binding = format!(r#"{{"event":"{event}","schema":"public","table":"notes","visibility":true}}"#);
    scene.join_with(&binding, |_| {}).await;
    assert!(scene.told().await.ends_with("ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL;"));
    scene
}

#[tokio::test(start_paused = true)]
async fn both_rows_decide_what_an_update_is() {
    let mut scene = subscribed("*", "(body = 'mine'::text)").await;
    let moves =
        [("1", "yours", "mine"), ("2", "mine", "yours"), ("3", "yours", "his"), ("4", "mine", "mine")];
    let changes = moves.map(|(id, before, after)| updated(id, before, after));
    assert!(scene.log.send(with_changes(100, false, vec![changes.into()])).await);
    assert_eq!(scene.told().await, row("1", "mine"));
    assert_eq!(scene.told().await, gone("2"));
    let stays = r#""record":{"id":"4","body":"mine"},"old_record":{"id":"4","body":"mine"},"errors":null}}]"#;
    assert_eq!(scene.told().await, stays);
    assert!(scene.oracle.events.lock().unwrap().iter().all(|event| !event.starts_with("asked")));
}

#[tokio::test(start_paused = true)]
async fn postgres_is_asked_about_both_rows_at_once_and_only_where_the_answer_counts() {
    let mut scene = subscribed("DELETE", LETTERS).await;
    scene.oracle.decided.lock().unwrap().push_back(Ok(|row| Ok(value(row, 1) == "mía")));
    let moves = [("1", "mía", "tü"), ("2", "tü", "open"), ("3", "open", "él"), ("4", "ñ", "mía")];
    let changes = moves.map(|(id, before, after)| updated(id, before, after));
    assert!(scene.log.send(with_changes(100, false, vec![changes.into()])).await);
    assert_eq!((scene.told().await, scene.told().await), (gone("1"), gone("3")));
    scene.confirmed(108).await;
    let events = scene.oracle.events.lock().unwrap().join(", ");
    // Nothing leaves with the second: its new row is open.
    assert!(events.contains("asked -/tü -/mía -/él -/ñ for 1 claims"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_new_row_that_nobody_can_tell_about_has_not_left() {
    let mut scene = subscribed("*", LETTERS).await;
    scene.oracle.decided.lock().unwrap().extend([Err(down()), Ok((|_| Ok(false)) as Decide)]);
    assert!(scene.log.send(with_changes(100, false, vec![vec![updated("1", "open", "é")]])).await);
    scene.confirmed(108).await;
    assert!(scene.log.send(with_changes(200, false, vec![vec![updated("2", "open", "é")]])).await);
    assert_eq!(scene.told().await, gone("2"));
}

const MEMBERS_TABLE: Oid = Oid(20_000);

/// The catalog with a table of members, of whom `ana` sees what she is a member of.
fn with_members() -> Arc<Snapshot> {
    let using = "(EXISTS ( SELECT 1 FROM public.members \
                 WHERE ((members.note = notes.id) AND (members.who = 'ana'::text))))";
    let plain = snapshot(1, &["id", "body"], using);
    let mut notes = Table::clone(&plain.tables[&TABLE]);
    notes.policies[0].columns = vec![1];
    notes.policies[0].readings = vec![Reading { table: MEMBERS_TABLE, columns: vec![1, 2] }];
    let mut columns = notes.columns.clone();
    for (column, name) in columns.iter_mut().zip(["note", "who"]) {
        column.name = name.to_owned();
        (column.primary_key, column.identity) = (true, true);
    }
    let members = Table {
        oid: MEMBERS_TABLE,
        name: "members".to_owned(),
        columns,
        row_security: false,
        policies: Vec::new(),
        ..notes.clone()
    };
    let mut role = Role::clone(&plain.roles["reader"]);
    role.privileges.insert(MEMBERS_TABLE, Privileges { selectable: vec![true; 2] });
    Arc::new(Snapshot {
        tables: [(TABLE, Arc::new(notes))].into_iter().collect(),
        roles: [("reader".to_owned(), Arc::new(role))].into_iter().collect(),
        lookups: [(
            MEMBERS_TABLE,
            Arc::new(LookupTable {
                table: members,
                obstacle: None,
                publication: 1,
                continuity: 1,
                definition: 1,
            }),
        )]
        .into_iter()
        .collect(),
        ..(*plain).clone()
    })
}

/// A change of the table of members.
fn member(row: RowChange) -> Change {
    let Change { relation, .. } = note("", "");
    let mut relation = Relation::clone(&relation);
    (relation.oid, relation.name) = (MEMBERS_TABLE, "members".to_owned());
    for (column, name) in relation.columns.iter_mut().zip(["note", "who"]) {
        (column.name, column.key) = (name.to_owned(), true);
    }
    Change { relation: Arc::new(relation), row }
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_up_in_memory_is_looked_up_as_it_was_before_the_transaction() {
    let mut scene = Scene::start(with_members());
    // A table that the log carries and nobody can subscribe to is looked for in a newer catalog, each time it is new.
    scene.oracle.refreshed.lock().unwrap().extend(std::iter::repeat_with(|| Ok(with_members())).take(3));
    *scene.oracle.members.lock().unwrap() = Some(vec![["1", "ana"], ["2", "bea"]]);
    scene.join_with(r#"{"event":"*","schema":"public","table":"notes","visibility":true}"#, |_| {}).await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    let cells = |note: &'static str, who: &'static str| {
        Tuple::from_cells([Cell::Text(note.as_bytes()), Cell::Text(who.as_bytes())])
    };
    let removed = member(RowChange::Delete { old: OldTuple::Key(cells("1", "ana")) });
    let added = member(RowChange::Insert { new: cells("2", "ana") });
    let changes = vec![removed, updated("1", "a", "b"), updated("2", "c", "d"), added];
    assert!(scene.log.send(with_changes(100, false, vec![changes])).await);
    assert_eq!((scene.told().await, scene.told().await), (gone("1"), row("2", "d")));
    let deleted =
        Change { row: RowChange::Delete { old: OldTuple::Full(cells("2", "d")) }, ..note("2", "d") };
    let removed = member(RowChange::Delete { old: OldTuple::Key(cells("2", "ana")) });
    assert!(scene.log.send(with_changes(200, false, vec![vec![removed, deleted]])).await);
    assert_eq!(scene.told().await, gone("2"));
    assert!(scene.oracle.events.lock().unwrap().iter().all(|event| !event.starts_with("asked")));
}
