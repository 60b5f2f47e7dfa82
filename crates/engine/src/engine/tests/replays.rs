//! Stored messages at a join, and what arrives meanwhile (docs/protocol.md §6.4).

use std::task::Poll;

use walcast_policy::channel::StoredPayload;

use super::messages::{ROW, Row};
use super::*;

const FIRST: &str = "00000000-0000-4000-8000-000000000001";
const SECOND: &str = "00000000-0000-4000-8000-000000000002";
const THIRD: &str = "00000000-0000-4000-8000-000000000003";

fn stored(id: &str, payload: &str) -> StoredMessage {
    StoredMessage { id: id.into(), event: "e".into(), payload: StoredPayload::Json(payload.into()) }
}

/// The ids of the next broadcasts, and whether each was replayed.
async fn next_ids(client: &mut Client, count: usize) -> Vec<(String, bool)> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let metadata = client.next().await.payload()["meta"].clone();
        ids.push((metadata["id"].as_str().unwrap().to_owned(), metadata["replayed"] == true));
    }
    ids
}

/// The joins that wait for their stored messages.
async fn replaying(scene: &Scene) -> usize {
    scene.engine.occupancy(ROOM, Privacy::Private).await.replaying
}

fn replayed(id: &str) -> (String, bool) {
    (id.to_owned(), true)
}

fn live(id: &str) -> (String, bool) {
    (id.to_owned(), false)
}

#[tokio::test]
async fn stored_messages_come_right_behind_the_reply_in_their_order() {
    let scene = Scene::start();
    for serializer in [Serializer::V1, Serializer::V2] {
        let mut client = scene.connect_as(serializer, None).await;
        let binary =
            StoredMessage { payload: StoredPayload::Binary(Box::new([0xFF, 0])), ..stored(SECOND, "") };
        let messages = vec![stored(FIRST, r#"{"n": 1}"#), binary, stored(THIRD, "[2]")];
        let mut join = private(ROOM).present_as("r").replay(async { Ok(messages) });
        join.config["broadcast"]["replication_ready"] = json!(true);
        client.join(join).await.unwrap();
        let first = client.next().await;
        let expected = json!({
            "payload": { "n": 1 }, "event": "e", "type": "broadcast", "meta": { "replayed": true, "id": FIRST }
        });
        assert_eq!(*first.payload(), expected);
        if serializer == Serializer::V2 {
            let Received::Text(join_ref, ..) = first else { panic!("text") };
            assert_eq!(join_ref, "j");
            let Received::Binary(bytes) = client.next().await else { panic!("bytes") };
            let metadata = format!(r#"{{"replayed":true,"id":"{SECOND}"}}"#);
            let header = [4, 13, 1, u8::try_from(metadata.len()).unwrap(), 0];
            let text = format!("{ROOM}e{metadata}");
            assert_eq!(bytes, [&header[..], text.as_bytes(), &[0xFF, 0]].concat());
        }
        assert_eq!(client.next().await.payload()["payload"], json!([2]));
        assert_eq!(client.next().await.event(), "system", "then what the join is told");
        assert_eq!(client.next().await.event(), "presence_state", "then who is present");
    }
    assert_eq!(scene.engine.counters().replays.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_is_committed_while_the_stored_ones_are_read_is_sent_once_whoever_is_faster() {
    let scene = Scene::start();
    let (mut witness, mut client) =
        (scene.connect_as(Serializer::V1, None).await, scene.connect_as(Serializer::V1, None).await);
    witness.join(private(ROOM)).await.unwrap();
    let (answer, answered) = oneshot::channel::<Vec<StoredMessage>>();
    let join = private(ROOM).replay(async { Ok(answered.await.unwrap()) });
    let joining = tokio::spawn(async move {
        client.join(join).await.unwrap();
        client
    });
    while replaying(&scene).await == 0 {
        tokio::task::yield_now().await;
    }
    for (lsn, id) in [(100, FIRST), (200, SECOND)] {
        scene.commit(lsn, &[Row { id, ..ROW }]).await;
        assert_eq!(next_ids(&mut witness, 1).await, [live(id)]);
    }
    assert!(answer.send(vec![stored(FIRST, "{}")]).is_ok());
    let mut client = joining.await.unwrap();
    assert_eq!(next_ids(&mut client, 2).await, [replayed(FIRST), live(SECOND)], "the kept one behind it");
    // The log may be behind what the database tells.
    scene.commit(300, &[Row { id: FIRST, ..ROW }, Row { id: THIRD, ..ROW }]).await;
    assert_eq!(next_ids(&mut client, 1).await, [live(THIRD)]);
    assert_eq!(next_ids(&mut witness, 2).await, [live(FIRST), live(THIRD)], "nobody else is passed over");
}

#[tokio::test]
async fn a_replay_that_fails_refuses_the_join_and_leaves_nothing_behind() {
    let scene = Scene::start();
    let mut client = scene.connect_as(Serializer::V1, None).await;
    let failing = private(ROOM).replay(async { Err("UnableToReplayMessages: no".to_owned()) });
    let refused = client.join(failing).await.map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "UnableToReplayMessages: no");
    let occupancy = scene.engine.occupancy(ROOM, Privacy::Private).await;
    assert_eq!(occupancy, crate::Occupancy::default());
    client.join(private(ROOM)).await.unwrap();
    scene.commit(100, &[Row { id: FIRST, ..ROW }]).await;
    assert_eq!(next_ids(&mut client, 1).await, [live(FIRST)], "once, and as a live one");
}

#[tokio::test]
async fn a_join_that_nobody_awaits_any_more_leaves_nothing_behind() {
    let scene = Scene::start();
    let client = scene.connect().await;
    let never = private(ROOM).replay(std::future::pending());
    let mut joining = Box::pin(scene.engine.join(&client.session, never.request()));
    let polled =
        std::future::poll_fn(|context| Poll::Ready(joining.as_mut().poll(context).is_pending())).await;
    assert!(polled);
    assert_eq!(replaying(&scene).await, 1);
    drop(joining);
    assert_eq!(replaying(&scene).await, 0);
    let never = private(ROOM).replay(std::future::pending());
    let mut joining = Box::pin(scene.engine.join(&client.session, never.request()));
    let _ = std::future::poll_fn(|context| Poll::Ready(joining.as_mut().poll(context).is_pending())).await;
    client.gone(Departure::Lost).await;
    assert_eq!(replaying(&scene).await, 0, "nor does a socket that was lost");
}

#[tokio::test]
async fn a_channel_without_the_right_to_broadcasts_is_sent_nothing_that_is_stored() {
    let scene = Scene::start();
    let mut client = scene.connect_as(Serializer::V1, None).await;
    let messages = vec![stored(FIRST, "{}")];
    client.join(private(ROOM).rights(false, true).replay(async { Ok(messages) })).await.unwrap();
    assert_eq!(client.heard().await, Vec::<String>::new());
}

#[tokio::test]
async fn more_than_is_kept_during_a_replay_drops_the_oldest_and_says_so() {
    let scene = Scene::with(EngineSettings::default());
    let (answer, answered) = oneshot::channel::<()>();
    let mut witness = scene.connect_as(Serializer::V1, None).await;
    witness.join(private(ROOM)).await.unwrap();
    let mut client = scene.connect_as(Serializer::V1, None).await;
    let join = private(ROOM).replay(async {
        answered.await.unwrap();
        Ok(Vec::new())
    });
    let joining = tokio::spawn(async move {
        client.join(join).await.unwrap();
        client
    });
    while replaying(&scene).await == 0 {
        tokio::task::yield_now().await;
    }
    let row = |number: usize| Row { id: uuid::Uuid::from_u128(number as u128).to_string().leak(), ..ROW };
    scene.commit(100, &(1..=1_003).map(row).collect::<Vec<_>>()).await;
    next_ids(&mut witness, 1_003).await;
    assert!(answer.send(()).is_ok());
    let mut client = joining.await.unwrap();
    let kept = next_ids(&mut client, 1_000).await;
    assert_eq!(kept[0], live(row(4).id));
    let told = client.next().await;
    assert!(told.message().starts_with("3 messages that arrived while stored ones were read"), "{told:?}");
}
