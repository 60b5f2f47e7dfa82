//! Rows that leave and enter, where the log carries the old row.

use super::windows::{MEMBERS, note, row};
use super::*;

/// An UPDATE of the body, with the whole old row.
fn updated(id: &str, before: &str, after: &str) -> Change {
    let Change { relation, row } = note(id, after);
    let RowChange::Insert { new } = row else { panic!("a row") };
    let old = Tuple::from_cells([Cell::Text(id.as_bytes()), Cell::Text(before.as_bytes())]);
    Change { relation, row: RowChange::Update { old: Some(walcast_pgoutput::OldTuple::Full(old)), new } }
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
    let mut scene = subscribed("DELETE", MEMBERS).await;
    scene.oracle.decided.lock().unwrap().push_back(Ok(|row| Ok(value(row, 1) == "mine")));
    let moves = [("1", "mine", "yours"), ("2", "yours", "open"), ("3", "open", "his"), ("4", "hers", "mine")];
    let changes = moves.map(|(id, before, after)| updated(id, before, after));
    assert!(scene.log.send(with_changes(100, false, vec![changes.into()])).await);
    assert_eq!((scene.told().await, scene.told().await), (gone("1"), gone("3")));
    scene.confirmed(108).await;
    let events = scene.oracle.events.lock().unwrap().join(", ");
    // Nothing leaves with the second: its new row is open.
    assert!(events.contains("asked -/yours -/mine -/his -/hers for 1 claims"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_new_row_that_nobody_can_tell_about_has_not_left() {
    let mut scene = subscribed("*", MEMBERS).await;
    scene.oracle.decided.lock().unwrap().extend([Err(down()), Ok((|_| Ok(false)) as Decide)]);
    assert!(scene.log.send(with_changes(100, false, vec![vec![updated("1", "open", "x")]])).await);
    scene.confirmed(108).await;
    assert!(scene.log.send(with_changes(200, false, vec![vec![updated("2", "open", "x")]])).await);
    assert_eq!(scene.told().await, gone("2"));
}
