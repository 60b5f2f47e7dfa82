//! Joins that want what they have missed.

use std::time::Duration;

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

async fn joined(scene: &mut Scene, members: &str) -> Arc<Membership> {
    let membership = scene.join_with(&binding(members), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    membership
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_what_is_behind_its_position_in_order_and_then_what_is_live() {
    let mut scene = after_three("true").await;
    joined(&mut scene, r#""since":"0/64:0""#).await;
    for expected in [row("b"), row("c"), row("d"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    assert!(scene.log.send(bodies(400, &["e"])).await);
    assert_eq!(scene.told().await, row("e"));
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
    let frames = scene.fed().await;
    assert_eq!(frames.len(), 2);
    // Bindings that differ in `since` alone have the same id.
    for (text, (body, ids)) in frames.iter().zip([("c", 1), ("d", 2)]) {
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

#[tokio::test(start_paused = true)]
async fn where_the_engine_is_told_up_to_where_a_client_has_come_that_counts_for_bindings_without_since() {
    let mut scene = after_three("true").await;
    scene.resume_from = Some("0/C8:0".parse().unwrap());
    joined(&mut scene, r#""visibility":false"#).await;
    assert_eq!(scene.told().await, row("d"));
    assert!(scene.log.send(bodies(400, &["e"])).await);
    assert_eq!(scene.told().await, row("e"), "it has asked for no position, so it is told none");
    joined(&mut scene, r#""since":"0/12C:0""#).await;
    for expected in [row("e"), "ok: position 0/197:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    scene.resume_from = Some("0/40:0".parse().unwrap());
    joined(&mut scene, r#""visibility":false"#).await;
    let told = scene.told().await;
    assert!(told.starts_with("error: gap: refetch what is shown"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn of_several_messages_of_one_change_only_the_last_has_its_position() {
    let mut scene = after_three("true").await;
    let bindings = [r#""select":["id"]"#, r#""select":["body"]"#, r#""select":["body","id"]"#];
    let bindings = bindings.map(|select| binding(&format!(r#"{select},"since":"0/64:1""#)));
    let bindings = || bindings.iter().map(|text| Binding::parse(text).unwrap()).collect();
    scene.join_bindings(bindings(), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    let position =
        |text: &String| text.split_once("\"position\":\"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let positions: Vec<_> = scene.fed().await.iter().map(position).collect();
    // The second and the third have the same columns, since the key is always among them.
    assert_eq!(positions, ["0/C7:0", "0/C8:0", "0/12B:0", "0/12C:0"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_comes_in_slices_each_of_which_waits_for_room_and_the_log_goes_on_meanwhile() {
    let mut scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    let rows: Vec<String> = (0..1_500).map(|number| number.to_string()).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    assert!(scene.log.send(bodies(100, &rows)).await);
    scene.confirmed(108).await;
    joined(&mut scene, r#""since":"0/5A:0""#).await;
    let mut seen = Vec::new();
    let mut slices = 0;
    loop {
        match scene.commands.recv().await.unwrap() {
            Command::Feed(feed) => {
                // Handled at once, although the channel is behind, and not sent to it before its turn.
                let at = 200 + slices * 100;
                assert!(scene.log.send(bodies(at, &["live"])).await);
                scene.confirmed(at + 8).await;
                let bytes: usize = feed.frames.iter().map(Frame::len).sum();
                assert!(bytes < 80_000, "{bytes} bytes in one slice");
                assert!(scene.commands.try_recv().is_err(), "nothing more before there is room");
                seen.extend(feed.frames.iter().map(row_of));
                slices += 1;
                assert!(feed.room.send(()).is_ok());
            }
            Command::Deliver(batch) => {
                for item in &batch.items {
                    let FromLog::Change(delivery) = item else { panic!("a change") };
                    seen.push(row_of(&delivery.frame));
                }
            }
            Command::System(message) => {
                assert!(message.message.starts_with("position "), "{}", message.message);
                break;
            }
            _ => panic!("the matcher says no such thing"),
        }
    }
    let live = (0..slices).map(|_| "live");
    let expected: Vec<String> = rows.iter().copied().chain(live).map(row).collect();
    assert_eq!(seen, expected);
    assert!(slices > 4, "{slices} slices");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_not_sent_more_and_is_forgotten_with_its_channel() {
    let mut scene = after_three("true").await;
    let membership = joined(&mut scene, r#""since":"0/5A:0""#).await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("room is asked for") };
    assert!(scene.log.send(bodies(400, &["e"])).await);
    scene.confirmed(408).await;
    assert!(scene.commands.try_recv().is_err());
    drop(feed);
    scene.unsubscribe.send(membership).unwrap();
    assert!(scene.log.send(bodies(500, &["f"])).await);
    scene.confirmed(508).await;
    assert!(scene.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn several_channels_that_are_behind_take_turns() {
    let mut scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    let body = "x".repeat(30_000);
    assert!(scene.log.send(bodies(100, &[&*body; 12])).await);
    scene.confirmed(108).await;
    for _ in 0..2 {
        scene.join_with(&binding(r#""since":"0/5A:0""#), |_| {}).await;
    }
    let mut turns = Vec::new();
    let mut over = 0;
    while over < 2 {
        match scene.commands.recv().await.unwrap() {
            Command::Feed(feed) => {
                if !feed.frames.is_empty() {
                    turns.push(feed.target.channel);
                }
                assert!(feed.room.send(()).is_ok());
            }
            Command::System(_) => over += 1,
            Command::Deliver(_) | Command::Join(_) => {}
            _ => panic!("the matcher says no such thing"),
        }
    }
    assert!(turns.len() > 4);
    assert!(turns.windows(2).all(|two| two[0] != two[1]), "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_changes_meanwhile_counts_from_the_next_slice_on() {
    let mut scene = after_three("true").await;
    joined(&mut scene, r#""since":"0/5A:0""#).await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("room is asked for") };
    let now = snapshot(2, &COLUMNS, "(body <> 'c'::text)");
    *scene.oracle.now.lock().unwrap() = Arc::clone(&now);
    assert!(scene.snapshots.send(now).is_ok());
    // Another join comes behind the news.
    scene.join().await;
    let Some(Command::Join(_)) = scene.commands.recv().await else { panic!("a join") };
    assert!(feed.room.send(()).is_ok());
    for expected in [row("a"), row("b"), row("d"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_falls_out_of_the_journal_meanwhile_is_a_gap_and_the_rest_goes_on() {
    let mut scene = after_three("true").await;
    joined(&mut scene, r#""since":"0/5A:0""#).await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("room is asked for") };
    tokio::time::advance(Duration::from_mins(3)).await;
    assert!(scene.log.send(LogBatch::Idle(Lsn(400))).await);
    scene.confirmed(400).await;
    assert!(feed.room.send(()).is_ok());
    let told = "error: gap: refetch what is shown: changes behind 0/5A:0 are wanted, and those up to 0/12C:0 are not kept any longer";
    for expected in [told, "ok: position 0/18F:0"] {
        assert_eq!(scene.told().await, expected);
    }
    assert!(scene.log.send(bodies(500, &["f"])).await);
    assert_eq!(scene.told().await, row("f"));
}

const OWN: &str = "(body = ((current_setting('request.jwt.claims'::text, true))::json ->> 'sub'::text))";

#[tokio::test(start_paused = true)]
async fn a_new_token_that_comes_meanwhile_counts_from_the_next_slice_on() {
    let mut scene = after_three(OWN).await;
    let since = vec![Binding::parse(&binding(r#""since":"0/5A:0""#)).unwrap()];
    let membership = scene.join_bindings(since, |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("room is asked for") };
    scene.renew(&membership, &serde_json::json!({ "sub": "c" })).await;
    assert_eq!(scene.told().await, "ok: Subscribed to PostgreSQL");
    let told = scene.told().await;
    assert!(told.starts_with("ok: DELETE on"), "{told}");
    assert!(feed.room.send(()).is_ok());
    for expected in [row("c"), "ok: position 0/133:0".to_owned()] {
        assert_eq!(scene.told().await, expected);
    }
    for body in ["d", "c"] {
        assert!(scene.log.send(bodies(if body == "d" { 400 } else { 500 }, &[body])).await);
    }
    assert_eq!(scene.told().await, row("c"), "live by the new token, too");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_left_meanwhile_gets_nothing_more() {
    let mut scene = after_three("true").await;
    let membership = joined(&mut scene, r#""since":"0/5A:0""#).await;
    let Some(Command::Feed(feed)) = scene.commands.recv().await else { panic!("room is asked for") };
    scene.unsubscribe.send(membership).unwrap();
    // The clock stands still for as long as there is anything to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
    scene.join().await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    let _ = feed.room.send(());
    assert!(scene.log.send(bodies(400, &["e"])).await);
    assert_eq!(scene.told().await, row("e"));
    scene.confirmed(408).await;
    assert!(scene.commands.try_recv().is_err());
}

/// A matcher that has handled so many transactions of 100 rows, with bodies that repeat each seven rows.
async fn after_many(transactions: u64) -> Scene {
    let scene = Scene::start(snapshot(1, &COLUMNS, "true"));
    assert!(scene.log.send(LogBatch::Restarted(LogStart { since: Lsn(90), gap: None })).await);
    for number in 0..transactions {
        let rows: Vec<String> = (0..100).map(|row| ((number * 100 + row) % 7).to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert!(scene.log.send(bodies(100 + 100 * number, &rows)).await);
    }
    scene.confirmed(8 + 100 * transactions).await;
    scene
}

#[tokio::test(start_paused = true)]
async fn who_has_missed_much_finds_the_rows_of_its_filter_by_their_values_each_once_and_in_order() {
    let mut scene = after_many(30).await;
    let position = |row: u64| format!("\"position\":\"0/{:X}:{}\"", 100 + row / 100 * 100, row % 100);
    for (filter, since, kept) in [
        ("body=eq.3", "0/5A:0", vec![3]),
        ("body=eq.3", "0/12C:9", vec![3]),
        ("body=in.(1,6)", "0/5A:0", vec![1, 6]),
        ("body=eq.none", "0/5A:0", vec![]),
        ("body=neq.2", "0/5A:0", vec![0, 1, 3, 4, 5, 6]),
    ] {
        let since_row = if since == "0/5A:0" { 0 } else { 210 };
        joined(&mut scene, &format!(r#""filter":"{filter}","since":"{since}""#)).await;
        let frames = scene.fed().await;
        let expected: Vec<u64> = (since_row..3_000).filter(|row| kept.contains(&(row % 7))).collect();
        assert_eq!(frames.len(), expected.len(), "{filter} since {since}");
        for (frame, row) in frames.iter().zip(&expected) {
            assert!(frame.contains(&position(*row)), "{filter} since {since}: row {row}: {frame}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_several_bindings_finds_its_own_rows_behind_its_own_position() {
    let mut scene = after_many(20).await;
    let bindings = [("body=eq.1", "0/5A:0"), ("body=eq.2", "0/456:0")];
    let text = |(filter, since)| binding(&format!(r#""filter":"{filter}","since":"{since}""#));
    scene.join_bindings(bindings.map(|members| Binding::parse(&text(members)).unwrap()).into(), |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    let bodies: Vec<String> = scene
        .fed()
        .await
        .iter()
        .map(|text| text[text.find("\"body\":\"").unwrap() + 8..][..1].to_owned())
        .collect();
    // The second one begins in the middle: behind the eleventh transaction, 0x44C, and before the twelfth.
    let expected: Vec<String> = (0..2_000)
        .filter(|row| row % 7 == 1 || row % 7 == 2 && *row >= 1_100)
        .map(|row: u64| (row % 7).to_string())
        .collect();
    assert_eq!(bodies, expected);
}

#[tokio::test(start_paused = true)]
async fn columns_that_have_changed_are_a_gap_where_rows_are_found_by_their_values_too() {
    let mut scene = after_many(20).await;
    *scene.oracle.now.lock().unwrap() = snapshot(2, &["id", "body", "added"], "true");
    joined(&mut scene, r#""filter":"body=eq.1","since":"0/5A:0""#).await;
    let told = "error: gap: refetch what is shown: the columns of public.notes have changed since then";
    assert_eq!(scene.told().await, told);
    assert!(scene.told().await.starts_with("ok: position"));
}
