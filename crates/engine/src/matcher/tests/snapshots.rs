//! Joins that begin with the rows that are there.

use super::*;
use crate::ingest::LogStart;

const COLUMNS: [&str; 2] = ["id", "body"];

fn binding(members: &str) -> String {
    format!(r#"{{"event":"*","schema":"public","table":"notes","snapshot":true{members}}}"#)
}

/// A transaction, whose id is its commit LSN, with a new row.
fn row_at(commit_lsn: u64, body: &str) -> LogBatch {
    let new = Tuple::from_cells([Cell::Text(b"1"), Cell::Text(body.as_bytes())]);
    let change = Change { relation: relation(&COLUMNS), row: RowChange::Insert { new } };
    with_changes(commit_lsn, false, vec![vec![change]])
}

fn row(body: &str) -> String {
    format!(r#""record":{{"id":"1","body":"{body}"}},"errors":null}}}}]"#)
}

/// Rows with these bodies, as a snapshot shows them.
fn read(bodies: &[&str], snapshot: &str, reached: u64) -> RowsRead {
    let mut rows = TableRows::new(Box::new([0, 1]));
    for body in bodies {
        rows.push([Some("1"), Some(*body)]);
    }
    let snapshot = TransactionSnapshot::parse(snapshot).unwrap();
    RowsRead { tables: vec![rows], snapshot, reached: Lsn(reached) }
}

/// A matcher that has handled what commits at 100 (0x64), 200 (0xC8) and 300 (0x12C).
async fn after_three() -> Scene {
    let scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    for (commit_lsn, body) in [(100, "a"), (200, "b"), (300, "c")] {
        assert!(scene.log.send(row_at(commit_lsn, body)).await);
    }
    scene.confirmed(308).await;
    scene
}

async fn joined(scene: &mut Scene, members: &str) {
    scene.join_with(&binding(members), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
}

#[tokio::test(start_paused = true)]
async fn rows_come_first_and_then_what_they_do_not_show_whether_it_was_committed_before_or_behind_them() {
    let mut scene = after_three().await;
    // All but 200, of which the log has told already, and 400, of which it has not.
    let rows = read(&["a", "c", "d"], "200:501:200", 500);
    scene.oracle.rows.lock().unwrap().push_back(Ok(rows));
    joined(&mut scene, r#","filter":"body=neq.x""#).await;
    for expected in [row("a"), row("c"), row("d"), "ok: 3 rows, position 0/C7:0".to_owned(), row("b")] {
        assert_eq!(scene.told().await, expected);
    }
    for (commit_lsn, body) in [(400, "d"), (490, "e"), (520, "f")] {
        assert!(scene.log.send(row_at(commit_lsn, body)).await);
    }
    // 400 and 490 are among the rows; 520 is younger than all that they show.
    assert_eq!(scene.told().await, row("f"));
    assert!(scene.log.send(row_at(600, "g")).await);
    assert_eq!(scene.told().await, row("g"));
    let events = scene.oracle.events.lock().unwrap();
    assert!(events.iter().any(|words| words.starts_with("read as reader where (\"body\" <> ")), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_are_marked_and_have_the_position_of_the_snapshot() {
    let mut scene = after_three().await;
    scene.oracle.rows.lock().unwrap().push_back(Ok(read(&["a"], "301:301:", 308)));
    joined(&mut scene, "").await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("rows") };
    let text = String::from_utf8_lossy(feed.frames[0].bytes()).into_owned();
    assert!(text.contains(r#""type":"INSERT","commit_timestamp""#), "{text}");
    assert!(text.contains(r#""position":"0/133:0","snapshot":true,"columns""#), "{text}");
    // Nothing more before there is room.
    assert!(scene.log.send(row_at(400, "d")).await);
    scene.confirmed(408).await;
    assert!(scene.commands.try_recv().is_err());
    assert!(feed.room.send(()).is_ok());
    assert_eq!(scene.told().await, "ok: 1 rows, position 0/133:0");
    assert_eq!(scene.told().await, row("d"));
}

#[tokio::test(start_paused = true)]
async fn rows_that_lack_what_is_not_kept_any_longer_are_read_again_once_it_can_be_seen() {
    let mut scene = after_three().await;
    tokio::time::advance(std::time::Duration::from_mins(3)).await;
    assert!(scene.log.send(LogBatch::Idle(Lsn(400))).await);
    scene.confirmed(400).await;
    scene
        .oracle
        .rows
        .lock()
        .unwrap()
        .extend([Ok(read(&["a"], "200:301:200", 400)), Ok(read(&["a", "b"], "301:301:", 400))]);
    joined(&mut scene, "").await;
    for expected in [row("a"), row("b"), "ok: 2 rows, position 0/18F:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    assert_eq!(*scene.oracle.seen.lock().unwrap(), [Xid(200)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_snapshot_the_channel_is_told_why_and_has_everything_since_its_join() {
    for (failure, words) in [
        (
            RowsError::TooMany(7),
            "no snapshot: more than 7 rows fit (changes.snapshot_rows_max); narrow the filter",
        ),
        (
            RowsError::TooLarge(9),
            "no snapshot: the rows take more than 9 bytes (changes.snapshot_bytes_max); narrow",
        ),
        (down().into(), "no snapshot: the database could not be asked: nobody answers; changes are sent"),
    ] {
        let mut scene = after_three().await;
        scene.oracle.rows.lock().unwrap().push_back(Err(failure));
        joined(&mut scene, "").await;
        let told = scene.told().await;
        assert!(told.starts_with(&format!("error: {words}")), "{told}");
        assert!(scene.log.send(row_at(400, "d")).await);
        assert_eq!(scene.told().await, row("d"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_changes_while_rows_are_sent_ends_them_and_changes_go_on() {
    let mut scene = after_three().await;
    scene.oracle.rows.lock().unwrap().push_back(Ok(read(&["a"], "301:301:", 308)));
    joined(&mut scene, "").await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("rows") };
    let now = snapshot(2, &COLUMNS, "(body <> 'x'::text)");
    *scene.oracle.now.lock().unwrap() = Arc::clone(&now);
    assert!(scene.snapshots.send(now).is_ok());
    let told = scene.told().await;
    assert!(told.starts_with("error: no snapshot: policies, columns or the token have changed"), "{told}");
    drop(feed);
    for (commit_lsn, body) in [(400, "x"), (500, "y")] {
        assert!(scene.log.send(row_at(commit_lsn, body)).await);
    }
    assert_eq!(scene.told().await, row("y"), "changes go on");
}

#[tokio::test(start_paused = true)]
async fn what_another_binding_has_missed_comes_before_the_rows() {
    let mut scene = after_three().await;
    scene.oracle.rows.lock().unwrap().push_back(Ok(read(&["a"], "301:301:", 308)));
    let since = r#"{"event":"*","schema":"public","table":"notes","since":"0/64:0"}"#.to_owned();
    let bindings = [binding(""), since].iter().map(|text| Binding::parse(text).unwrap()).collect();
    scene.join_bindings(bindings, |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    for expected in [row("b"), row("c"), row("a"), "ok: 1 rows, position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    assert_eq!(scene.told().await, "ok: position 0/133:0");
    assert!(scene.log.send(row_at(400, "d")).await);
    assert_eq!(scene.told().await, row("d"));
}

#[tokio::test(start_paused = true)]
async fn a_new_token_of_the_same_person_leaves_the_rows_alone_and_one_of_another_ends_them() {
    const OWN: &str = "(body = ((current_setting('request.jwt.claims'::text, true))::json ->> 'sub'::text))";
    for (claims, ends) in
        [(serde_json::json!({ "exp": 7 }), false), (serde_json::json!({ "sub": "somebody else" }), true)]
    {
        let mut scene = Scene::start(snapshot(1, &COLUMNS, OWN));
        assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(400), gap: None })).await);
        scene.oracle.rows.lock().unwrap().push_back(Ok(read(&["a"], "301:301:", 308)));
        let membership = scene.join_bindings(vec![Binding::parse(&binding("")).unwrap()], |_| {}).await;
        assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
        let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("rows") };
        scene.renew(&membership, &claims).await;
        assert_eq!(scene.told().await, "ok: Subscribed to PostgreSQL");
        assert!(scene.told().await.starts_with("ok: DELETE on"));
        if ends {
            let told = scene.told().await;
            assert!(
                told.starts_with("error: no snapshot: policies, columns or the token have changed"),
                "{told}"
            );
        } else {
            assert!(feed.room.send(()).is_ok());
            assert_eq!(scene.told().await, "ok: 1 rows, position 0/18F:0");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_binding_is_told_up_to_the_position_of_the_rows_comes_before_them() {
    let mut scene = after_three().await;
    scene.oracle.rows.lock().unwrap().push_back(Ok(read(&["a"], "401:401:", 408)));
    let since = r#"{"event":"*","schema":"public","table":"notes","since":"0/12C:0"}"#.to_owned();
    let bindings = [binding(""), since].iter().map(|text| Binding::parse(text).unwrap()).collect();
    // The rows are read behind the change, although the join is before it.
    let held = Arc::clone(&scene.oracle.reading).lock_owned().await;
    scene.join_bindings(bindings, |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    assert!(scene.log.send(row_at(400, "d")).await);
    scene.confirmed(408).await;
    drop(held);
    for expected in [row("d"), row("a"), "ok: 1 rows, position 0/197:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    assert_eq!(scene.told().await, "ok: position 0/197:0");
}
