//! What is too much, and who is told.

use std::num::NonZeroU32;

use super::*;

fn limited(client: u32, project: u32) -> Scene {
    Scene::with(EngineSettings {
        shards: 2,
        max_client_events_per_second: NonZeroU32::new(client),
        max_events_per_second: NonZeroU32::new(project),
        ..EngineSettings::default()
    })
}

#[tokio::test(start_paused = true)]
async fn a_sender_over_its_limit_is_told_and_closed_and_its_receivers_lose_nothing() {
    let scene = limited(2, 100);
    let (mut sender, mut receiver) = (scene.member().await, scene.member().await);
    for text in ["one", "two", "three", "four"] {
        sender.broadcast(text).await;
    }
    let message = "Too many messages per second (limits.max_client_events_per_second = 2)";
    for _ in 0..2 {
        assert_eq!(sender.next().await.payload()["status"], "ok");
    }
    let refused = sender.next().await;
    assert_eq!(*refused.payload(), json!({ "status": "error", "response": { "reason": message } }));
    let told = sender.next().await;
    assert_eq!((told.message(), &told.payload()["status"]), (message, &json!("error")));
    assert_eq!(sender.next().await.event(), "phx_close");
    assert_eq!(sender.next().await.payload()["response"]["reason"], "unmatched topic");
    assert_eq!(receiver.next().await.payload()["event"], "one");
    assert_eq!(receiver.next().await.payload()["event"], "two");
    assert_eq!(receiver.heard().await, Vec::<String>::new());
    receiver.broadcast("mine").await;
    assert_eq!(receiver.next().await.payload()["status"], "ok", "others may still send");
    let refused = &scene.engine.counters().client_events_refused;
    assert_eq!(refused.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    sender.join(public(ROOM)).await.unwrap();
    sender.broadcast("five").await;
    assert_eq!(sender.next().await.payload()["status"], "ok");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_counts_as_a_message_too() {
    let scene = limited(1, 100);
    let mut sender = scene.member().await;
    sender.push(PushKind::Other).await;
    sender.push(PushKind::Other).await;
    assert!(sender.next().await.message().starts_with("Too many messages per second"));
}

#[tokio::test(start_paused = true)]
async fn all_senders_together_share_the_projects_limit() {
    let scene = limited(0, 3);
    let (mut one, mut other) = (scene.member().await, scene.member().await);
    one.broadcast("one").await;
    assert_eq!(one.next().await.payload()["status"], "ok");
    scene.engine.admit_events(2).unwrap();
    let refused = scene.engine.admit_events(1).unwrap_err();
    assert_eq!(refused.to_string(), "Too many messages per second (limits.max_events_per_second = 3)");
    assert_eq!(other.next().await.payload()["event"], "one");
    other.broadcast("two").await;
    assert_eq!(other.next().await.payload()["response"]["reason"], refused.to_string());
    other.push(PushKind::Other).await;
    assert_eq!(other.heard().await, Vec::<String>::new(), "who is not to blame keeps the channel");
    tokio::time::advance(Duration::from_secs(1)).await;
    other.broadcast("three").await;
    assert_eq!(other.next().await.payload()["status"], "ok");
    assert_eq!(one.next().await.payload()["event"], "three");
}

#[tokio::test(start_paused = true)]
async fn the_track_or_the_state_that_is_one_too_many_is_refused_and_its_channel_stays() {
    let scene = Scene::with(EngineSettings {
        max_presence_events_per_second: NonZeroU32::new(2),
        ..EngineSettings::default()
    });
    let message = "Too many presence messages per second (limits.max_presence_events_per_second = 2)";
    let (mut one, mut other) = (scene.member().await, scene.connect().await);
    one.track(json!({ "n": 1 })).await;
    one.track(json!({ "n": 2 })).await;
    one.push(PushKind::Track("{}".into())).await;
    let refused = one.next_but(&["presence_state", "presence_diff"]).await;
    assert_eq!(*refused.payload(), json!({ "status": "error", "response": { "reason": message } }));
    other.join(public(ROOM).present_as("o")).await.unwrap();
    let told = other.next().await;
    assert_eq!(
        (told.message(), &told.payload()["status"]),
        (message, &json!("error")),
        "a state is an event too"
    );
    assert_eq!(scene.engine.counters().presence_refused.load(Ordering::Relaxed), 2);
    assert_eq!(scene.engine.occupancy(ROOM, Privacy::Public).await.channels, 2, "nobody is closed");
    tokio::time::advance(Duration::from_secs(1)).await;
    other.push(PushKind::Track(r#"{"n":3}"#.into())).await;
    assert_eq!(other.next().await.payload()["status"], "ok");
    let state = other.next().await;
    assert_eq!(state.event(), "presence_state", "a track asks for the state again");
    assert_eq!(state.payload().as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn what_waits_for_sockets_is_counted_until_it_is_written() {
    struct Full;
    impl Socket for Full {
        fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn notify_writable(&self) {}
        fn finish(&self) {}
        fn closing(&self) {}
    }
    let scene = Scene::with(EngineSettings::default());
    let session = scene.engine.connect(Arc::new(Full), Serializer::V2, Some("ana".into())).await;
    for _ in 0..3 {
        session.send(Command::Write(session.id, bytes::Bytes::from_static(b"seven.."))).await;
    }
    assert_eq!(scene.engine.connections_of("ana").await[0].queued_bytes, 21);
    let queued = || scene.engine.counters().queued_bytes.load(Ordering::Relaxed);
    // The queues are written, and counted, at the end of a turn: this one is over when the next is answered.
    scene.engine.topics().await;
    assert_eq!(queued(), 21);
    session.send(Command::Gone(session.id, Departure::Lost)).await;
    scene.engine.topics().await;
    assert_eq!(queued(), 0);
}
