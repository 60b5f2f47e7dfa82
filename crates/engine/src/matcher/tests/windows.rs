//! What is asked of the database when several transactions wait for it, and the order of what comes of it.

use super::*;

/// Open rows are for everybody; what `lower` makes of letters outside ASCII, PostgreSQL must tell.
pub(super) const LETTERS: &str = "(lower(body) = 'open'::text)";

/// A change of the table `notes`; every id is another row.
pub(super) fn note(id: &str, body: &str) -> Change {
    let LogBatch::Transaction(transaction) = transaction(1, &["id", "body"], false) else {
        panic!("a transaction")
    };
    let relation = transaction.changes.reader().next().now_or_never().unwrap().unwrap().unwrap().changes[0]
        .relation
        .clone();
    let new = Tuple::from_cells([Cell::Text(id.as_bytes()), Cell::Text(body.as_bytes())]);
    Change { relation, row: RowChange::Insert { new } }
}

pub(super) fn row(id: &str, body: &str) -> String {
    format!(r#""record":{{"id":"{id}","body":"{body}"}},"errors":null}}}}]"#)
}

async fn subscribed(using: &str) -> Scene {
    let mut scene = Scene::start(snapshot(1, &["id", "body"], using));
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    scene
}

#[tokio::test(start_paused = true)]
async fn transactions_that_wait_are_asked_about_at_once_and_shown_in_the_order_of_the_log() {
    let mut scene = subscribed(LETTERS).await;
    let decide: Decide = |row| match value(row, 1) {
        "rotá" => Err(OracleError::Raised { code: "22012".to_owned(), message: "no".to_owned() }),
        body => Ok(body == "mía"),
    };
    scene.oracle.decided.lock().unwrap().push_back(Ok(decide));
    let bodies = ["open", "mía", "open", "rotá", "tü", "mía"];
    for (commit_lsn, body) in (100..).step_by(100).zip(bodies) {
        let id = commit_lsn.to_string();
        assert!(scene.log.send(with_changes(commit_lsn, false, vec![vec![note(&id, body)]])).await);
    }
    for (id, body) in [("100", "open"), ("200", "mía"), ("300", "open"), ("600", "mía")] {
        assert_eq!(scene.told().await, row(id, body));
    }
    scene.confirmed(608).await;
    let events = scene.oracle.events.lock().unwrap().join(", ");
    let expected = "confirmed 108, saw 200, saw 400, saw 500, saw 600, \
                    asked -/mía -/rotá -/tü for 1 claims, confirmed 608";
    assert_eq!(events, expected, "equal rows are one, and what is not asked about is left out");
}

/// A row of the table of messages.
fn message(event: &str) -> Change {
    let columns = ["topic", "event", "payload", "private", "id"];
    let column = |name: &&str| RelationColumn {
        name: (*name).to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        key: false,
    };
    let relation = Relation {
        oid: Oid(700),
        namespace: "realtime".to_owned(),
        name: "messages".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    };
    let cells = ["room", event, "{}", "t", "7"].map(|text| Cell::Text(text.as_bytes()));
    Change { relation: Arc::new(relation), row: RowChange::Insert { new: Tuple::from_cells(cells) } }
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_places_between_changes_that_wait() {
    let mut scene = subscribed(LETTERS).await;
    scene.oracle.decided.lock().unwrap().push_back(Ok(YES));
    let changes = vec![
        message("first"),
        note("1", "mía"),
        message("second"),
        note("2", "open"),
        note("3", "open"),
        message("third"),
        message("last"),
    ];
    assert!(scene.log.send(with_changes(100, false, vec![changes])).await);
    let mut told = Vec::new();
    for _ in 0..7 {
        told.push(scene.told().await);
    }
    let event = |name: &str| format!("\"event\":\"{name}\"");
    let (first, second, third, last) = (event("first"), event("second"), event("third"), event("last"));
    let rows = [row("1", "mía"), row("2", "open"), row("3", "open")];
    let expected = [&first, &rows[0], &second, &rows[1], &rows[2], &third, &last];
    for (found, expected) in told.iter().zip(expected) {
        assert!(found.contains(expected.as_str()), "{expected} in {told:?}");
    }
    scene.confirmed(108).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_shown_before_a_change_of_schema_counts() {
    let mut scene = subscribed(LETTERS).await;
    scene.oracle.decided.lock().unwrap().push_back(Ok(YES));
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(snapshot(2, &["id", "body"], "true")));
    assert!(scene.log.send(with_changes(100, false, vec![vec![note("1", "mía")]])).await);
    assert!(scene.log.send(with_changes(200, true, vec![vec![note("2", "mía")]])).await);
    assert_eq!(scene.told().await, row("1", "mía"));
    assert_eq!(scene.told().await, row("2", "mía"));
    scene.confirmed(208).await;
    let events = scene.oracle.events.lock().unwrap().join(", ");
    assert_eq!(events, "saw 100, asked -/mía for 1 claims, confirmed 108, saw 200, refreshed, confirmed 208");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_schema_anywhere_in_a_transaction_counts_for_its_first_row() {
    let mut scene = subscribed("true").await;
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(snapshot(
        2,
        &["id", "body"],
        "(body = 'open'::text)",
    )));
    let chunks =
        vec![vec![note("1", "hidden"), note("2", "open")], vec![note("3", "hidden"), note("4", "open")]];
    assert!(scene.log.send(with_changes(100, true, chunks)).await);
    assert_eq!(scene.told().await, row("2", "open"));
    assert_eq!(scene.told().await, row("4", "open"));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_comes_again_is_passed_over_as_a_whole() {
    let mut scene = subscribed("true").await;
    for (commit_lsn, id) in [(100, "1"), (200, "2"), (100, "1"), (200, "2"), (300, "3")] {
        assert!(scene.log.send(with_changes(commit_lsn, false, vec![vec![note(id, "open")]])).await);
    }
    for id in ["1", "2", "3"] {
        assert_eq!(scene.told().await, row(id, "open"));
    }
}

#[tokio::test(start_paused = true)]
async fn emptying_a_table_is_shown_to_nobody() {
    let mut scene = subscribed("true").await;
    let truncate = Change { row: RowChange::Truncate, ..note("1", "open") };
    assert!(scene.log.send(with_changes(100, false, vec![vec![truncate, note("2", "open")]])).await);
    assert_eq!(scene.told().await, row("2", "open"));
}

#[tokio::test]
async fn a_transaction_that_can_not_be_read_back_ends_the_matching_unconfirmed() {
    let scene = subscribed("true").await;
    let mut changes = Changes::default();
    changes.follow(crate::spill::Spill::damaged().await);
    let LogBatch::Transaction(transaction) = with_changes(100, false, vec![]) else {
        panic!("a transaction")
    };
    assert!(scene.log.outcome().is_ok());
    assert!(scene.log.send(LogBatch::Transaction(Transaction { changes, ..transaction })).await);
    scene.log.closed().await;
    let error = scene.log.outcome().unwrap_err().to_string();
    assert!(error.contains("temporary file"), "{error}");
    assert!(scene.oracle.events.lock().unwrap().is_empty(), "nothing is confirmed");
    assert!(!scene.log.send(LogBatch::Idle(Lsn(300))).await);
}
