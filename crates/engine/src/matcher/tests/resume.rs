//! Joins that want what they have missed.

use super::*;
use crate::ingest::LogStart;

const COLUMNS: [&str; 2] = ["id", "body"];

/// A binding on the table with these members beside.
fn binding(members: &str) -> String {
    format!(r#"{{"event":"*","schema":"public","table":"notes",{members}}}"#)
}

/// A transaction with one new row for each body.
fn bodies(commit_lsn: u64, bodies: &[&str]) -> LogBatch {
    let relation = relation(&COLUMNS);
    let row = |body: &&str| {
        let new = Tuple::from_cells([Cell::Text(b"1"), Cell::Text(body.as_bytes())]);
        Change { relation: Arc::clone(&relation), row: RowChange::Insert { new } }
    };
    with_changes(commit_lsn, false, vec![bodies.iter().map(row).collect()])
}

fn row(body: &str) -> String {
    format!(r#""record":{{"id":"1","body":"{body}"}},"errors":null}}}}]"#)
}

/// A matcher that has handled, with nobody there, what commits at 100 (0x64), 200 (0xC8) and 300 (0x12C).
async fn after_three(using: &str) -> Scene {
    let scene = Scene::start(snapshot(1, &COLUMNS, using));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    for batch in [bodies(100, &["a", "b"]), bodies(200, &["c"]), bodies(300, &["d"])] {
        assert!(scene.log.send(batch).await);
    }
    scene.confirmed(308).await;
    scene
}

async fn joined(scene: &mut Scene, members: &str) {
    scene.join_with(&binding(members), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_what_is_behind_its_position_in_order_and_then_what_is_live() {
    let mut scene = after_three("true").await;
    joined(&mut scene, r#""since":"0/64:0""#).await;
    assert!(scene.log.send(bodies(400, &["e"])).await);
    for expected in [row("b"), row("c"), row("d"), "ok: position 0/133:0".to_owned(), row("e")] {
        assert_eq!(scene.told().await, expected);
    }
    joined(&mut scene, r#""since":"0/133:0""#).await;
    for expected in [row("e"), "ok: position 0/197:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    assert!(scene.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn filters_and_policies_of_now_decide() {
    let mut scene = after_three("true").await;
    let now = snapshot(2, &COLUMNS, "(body <> 'c'::text)");
    *scene.oracle.now.lock().unwrap() = now;
    joined(&mut scene, r#""filter":"body=neq.d","since":"0/5A:0""#).await;
    for expected in [row("a"), row("b"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_the_database_can_judge_is_asked_at_once() {
    let mut scene =
        after_three("(EXISTS ( SELECT 1 FROM public.members WHERE (members.body = notes.body)))").await;
    scene.oracle.decided.lock().unwrap().push_back(Ok(|row| Ok(value(row, 1) != "b")));
    joined(&mut scene, r#""since":"0/5A:0""#).await;
    for expected in [row("a"), row("c"), row("d"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    let events = scene.oracle.events.lock().unwrap();
    let asked: Vec<_> = events.iter().filter(|words| words.starts_with("asked")).collect();
    assert_eq!(asked, ["asked -/a -/b -/c -/d for 1 claims"]);
}

#[tokio::test(start_paused = true)]
async fn each_binding_gets_what_it_has_missed_itself() {
    let mut scene = after_three("true").await;
    let bindings = ["0/64:1", "0/C8:0"].map(|since| binding(&format!(r#""since":"{since}""#)));
    scene.join_bindings(bindings.iter().map(|text| Binding::parse(text).unwrap()).collect(), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    // Bindings that differ in `since` alone have the same id.
    for (body, ids) in [("c", 1), ("d", 2)] {
        let Some(Command::Deliver(batch)) = scene.commands.recv().await else { panic!("no delivery") };
        let [FromLog::Change(delivery)] = &batch.items[..] else { panic!("one change at a time") };
        let text = String::from_utf8_lossy(delivery.frame.bytes()).into_owned();
        let listed = text.split_once("\"ids\":[").and_then(|(_, rest)| rest.split_once(']')).unwrap().0;
        assert_eq!((listed.split(',').count(), text.ends_with(&row(body))), (ids, true), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_too_old_or_not_there_yet_is_a_gap_and_the_channel_goes_on_live() {
    let gap = "error: gap: refetch what is shown: changes behind";
    for (since, told) in [
        ("0/40:0", format!("{gap} 0/40:0 are wanted, and those up to 0/59:0 are not kept any longer")),
        ("0/1000:0", format!("{gap} 0/1000:0 are wanted, and the log has only come to 0/133:0")),
    ] {
        let mut scene = after_three("true").await;
        joined(&mut scene, &format!(r#""since":"{since}""#)).await;
        assert!(scene.log.send(bodies(400, &["e"])).await);
        for expected in [told, "ok: position 0/133:0".to_owned(), row("e")] {
            assert_eq!(scene.told().await, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_was_not_published_for_a_while_is_a_gap() {
    let mut scene = after_three("true").await;
    let without =
        Snapshot { tables: FxHashMap::default(), ..Snapshot::clone(&snapshot(2, &COLUMNS, "true")) };
    *scene.oracle.now.lock().unwrap() = Arc::new(without);
    scene.join_with(&binding(r#""resume":true"#), |_| {}).await;
    assert!(scene.told().await.contains("notes"), "it can not be subscribed to");
    *scene.oracle.now.lock().unwrap() = snapshot(3, &COLUMNS, "true");
    scene.join_with(&binding(r#""since":"0/64:0""#), |_| {}).await;
    assert!(scene.told().await.starts_with("ok: Subscribed"), "now the first one can");
    assert!(scene.told().await.starts_with("Subscribed"));
    let gap = "changes behind 0/64:0 are wanted, and those up to 0/133:0 are not kept any longer";
    for expected in [format!("error: gap: refetch what is shown: {gap}"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_columns_have_changed_is_a_gap() {
    let mut scene = after_three("true").await;
    *scene.oracle.now.lock().unwrap() = snapshot(2, &["id", "body", "added"], "true");
    joined(&mut scene, r#""since":"0/5A:0""#).await;
    let told = "error: gap: refetch what is shown: the columns of public.notes have changed since then";
    assert_eq!(scene.told().await, told);
    assert_eq!(scene.told().await, "ok: position 0/133:0");
}

#[tokio::test(start_paused = true)]
async fn bindings_that_are_refused_resume_nothing() {
    let mut scene = after_three("true").await;
    scene
        .join_with(&binding(r#""since":"0/5A:0""#), |oracle| {
            let tables = FxHashMap::default();
            let without = Snapshot { version: 2, tables, ..(*snapshot(2, &COLUMNS, "true")).clone() };
            *oracle.now.lock().unwrap() = Arc::new(without);
        })
        .await;
    assert!(scene.told().await.starts_with("Unable to subscribe"));
    let without = scene.oracle.snapshot();
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(without));
    assert!(scene.log.send(bodies(400, &["e"])).await);
    scene.confirmed(408).await;
    assert!(scene.commands.try_recv().is_err());
}
