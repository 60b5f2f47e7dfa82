//! The log from before the start.

use super::*;

const COLUMNS: [&str; 2] = ["id", "body"];

fn row(body: &str) -> String {
    format!(r#""record":{{"id":"1","body":"{body}"}},"errors":null}}}}]"#)
}

/// A transaction with one new row.
fn written(commit_lsn: u64, body: &str, ddl: bool) -> LogBatch {
    let new = Tuple::from_cells([Cell::Text(b"1"), Cell::Text(body.as_bytes())]);
    let change = Change { relation: relation(&COLUMNS), row: RowChange::Insert { new } };
    with_changes(commit_lsn, ddl, vec![vec![change]])
}

/// A matcher whose slot stands at 90 and whose log had come to 250 (0xFA) when it started.
async fn started() -> Scene {
    let scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Refill(Lsn(250))).await);
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    scene
}

async fn join(scene: &Scene, members: &str) {
    let binding = format!(r#"{{"event":"*","schema":"public","table":"notes",{members}}}"#);
    scene.join_with(&binding, |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn a_join_is_placed_behind_what_was_there_and_shown_nothing_of_it() {
    let mut scene = started().await;
    assert!(scene.log.send(written(100, "a", false)).await);
    join(&scene, r#""resume":true"#).await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert_eq!(scene.told().await, "ok: position 0/F9:0");
    for (commit_lsn, body) in [(200, "b"), (250, "c"), (300, "d")] {
        assert!(scene.log.send(written(commit_lsn, body, false)).await);
    }
    for body in ["c", "d"] {
        assert_eq!(scene.told().await, row(body));
    }
    scene.confirmed(308).await;
    assert!(scene.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_join_that_wants_what_it_has_missed_waits_until_that_is_there() {
    let scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    // It is faster than the log.
    join(&scene, r#""since":"0/64:0""#).await;
    let mut scene = scene;
    assert!(scene.log.send(LogBatch::Refill(Lsn(250))).await);
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    for (commit_lsn, body) in [(100, "a"), (200, "b")] {
        assert!(scene.log.send(written(commit_lsn, body, false)).await);
    }
    scene.confirmed(208).await;
    assert!(scene.commands.try_recv().is_err(), "not all of it is there");
    assert!(scene.log.send(LogBatch::Idle(Lsn(250))).await);
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert_eq!(scene.told().await, row("b"));
    assert_eq!(scene.told().await, "ok: position 0/F9:0");
}

#[tokio::test(start_paused = true)]
async fn changes_of_schema_from_before_the_start_have_the_catalog_read_once_and_waited_for() {
    let mut scene = started().await;
    join(&scene, r#""resume":true"#).await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert_eq!(scene.told().await, "ok: position 0/F9:0");
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(snapshot(2, &COLUMNS, "(body = 'd'::text)")));
    for (commit_lsn, body, ddl) in [(100, "a", true), (200, "b", true), (300, "c", false), (400, "d", false)]
    {
        assert!(scene.log.send(written(commit_lsn, body, ddl)).await);
    }
    assert_eq!(scene.told().await, row("d"), "by the policy that was there at the start");
    assert_eq!(*scene.oracle.seen.lock().unwrap(), [Xid(100), Xid(200)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_nothing_from_before_is_waited_for() {
    let mut scene = started().await;
    join(&scene, r#""since":"0/64:0""#).await;
    let same = snapshot(1, &COLUMNS, "true");
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(same));
    let lost = LogStart { since: Lsn(240), gap: Some("lost".into()) };
    assert!(scene.log.send(LogBatch::Restarted(lost)).await);
    loop {
        // Every shard is told of the gap, too.
        match scene.commands.recv().await.expect("the matcher runs") {
            Command::AnnounceGap(_) => {}
            Command::Join(_) => break,
            _ => panic!("nothing else"),
        }
    }
    assert!(scene.told().await.starts_with("error: gap: refetch"));
    assert_eq!(scene.told().await, "ok: position 0/EF:0");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_took_the_place_of_another_may_have_fewer_positions() {
    let mut scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert!(scene.log.send(written(300, "a", false)).await);
    assert_eq!(scene.told().await, row("a"));
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(snapshot(1, &COLUMNS, "true")));
    assert!(scene.log.send(LogBatch::Promoted).await);
    let cut = LogStart { since: Lsn(200), gap: Some("cut off".into()) };
    assert!(scene.log.send(LogBatch::Restarted(cut)).await);
    assert!(matches!(scene.commands.recv().await, Some(Command::AnnounceGap(_))));
    assert!(scene.oracle.seen.lock().unwrap().is_empty(), "nobody waits for what the other one had");
    assert!(scene.log.send(written(200, "b", false)).await);
    assert_eq!(scene.told().await, row("b"));
    // Whoever saw the former log further than that can not be brought up to date from this one.
    join(&scene, r#""since":"0/12C:0""#).await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert!(scene.told().await.starts_with("error: gap: refetch"));
}
