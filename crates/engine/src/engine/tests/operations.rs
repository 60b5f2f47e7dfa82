//! What operators ask, over all shards.

use super::*;

#[tokio::test]
async fn a_users_connections_are_those_of_its_sockets_and_of_its_channels() {
    let scene = Scene::start();
    let (mut own, mut anonymous, mut other) = (
        scene.connect_as(Serializer::V1, Some("ana")).await,
        scene.connect().await,
        scene.connect_as(Serializer::V2, Some("bo")).await,
    );
    own.join(public("realtime:a").subject("ana")).await.unwrap();
    anonymous.join(private("realtime:b").subject("ana")).await.unwrap();
    other.join(public("realtime:a").subject("bo")).await.unwrap();
    other.join(public("realtime:c").subject("ana")).await.unwrap();
    let mut found = scene.engine.connections_of("ana").await;
    found.sort_by_key(|connection| connection.session);
    let sessions: Vec<SessionId> = found.iter().map(|connection| connection.session).collect();
    assert_eq!(sessions, [own.session.id, anonymous.session.id, other.session.id]);
    assert_eq!((found[0].subject.as_deref(), found[0].serializer), (Some("ana"), Serializer::V1));
    assert_eq!((found[1].subject.as_deref(), found[1].queued_bytes), (None, 0));
    assert_eq!(found[1].channels[0].subject.as_deref(), Some("ana"));
    assert_eq!(
        (&*found[1].channels[0].topic, found[1].channels[0].privacy),
        ("realtime:b", Privacy::Private)
    );
    let subjects = found[2].channels.iter().map(|channel| channel.subject.as_deref());
    assert_eq!(subjects.collect::<Vec<_>>(), [Some("bo"), Some("ana")]);
    assert!(scene.engine.is_connected("bo").await);
    assert!(!scene.engine.is_connected("nobody").await);
}

#[tokio::test]
async fn a_disconnected_user_is_told_why_and_others_on_a_shared_socket_stay() {
    let scene = Scene::start();
    let (mut own, mut anonymous, mut shared) = (
        scene.connect_as(Serializer::V2, Some("ana")).await,
        scene.connect().await,
        scene.connect_as(Serializer::V2, Some("proxy")).await,
    );
    own.join(public(ROOM).subject("ana").present_as("ana")).await.unwrap();
    assert_eq!(own.next().await.event(), "presence_state");
    own.track(json!({})).await;
    assert_eq!(own.next().await.event(), "presence_diff");
    anonymous.join(public("realtime:b").subject("ana")).await.unwrap();
    shared.join(public("realtime:a").subject("ana")).await.unwrap();
    shared.join(public(ROOM).subject("bo").present_as("bo")).await.unwrap();
    assert_eq!(shared.next().await.payload().as_object().unwrap().len(), 1);
    assert_eq!(scene.engine.disconnect("ana").await, 3);
    let close = Received::Close(1008, "an operator has disconnected this user".to_owned());
    assert_eq!(own.next().await, close);
    assert_eq!(anonymous.next().await, close);
    let (mut ended, mut left) = (Vec::new(), 0);
    for _ in 0..3 {
        match shared.next().await.event() {
            "presence_diff" => left += 1,
            event => ended.push(event.to_owned()),
        }
    }
    assert_eq!((ended, left), (vec!["system".to_owned(), "phx_close".to_owned()], 1), "it left at once");
    own.gone(Departure::Closed).await;
    assert!(scene.engine.connections_of("ana").await.is_empty());
    assert_eq!(scene.engine.topics().await.len(), 1);
    assert_eq!(scene.engine.disconnect("ana").await, 0);
}

#[tokio::test]
async fn a_user_is_unsubscribed_from_one_topic_also_under_a_new_token() {
    let scene = Scene::start();
    let mut client = scene.connect().await;
    let joined = client.join(public("realtime:a").subject("ana")).await.unwrap();
    client.join(public("realtime:b").subject("ana")).await.unwrap();
    let session = client.session.clone();
    scene.engine.refresh(&session, &joined, identity(Some("bo")), Claimant::of(Some("bo"), "token")).await;
    assert_eq!(scene.engine.unsubscribe("ana", "realtime:a").await, 0, "it is bo's now");
    assert_eq!(scene.engine.unsubscribe("bo", "realtime:a").await, 1);
    let told = client.next().await;
    assert_eq!(told.message(), "An operator has unsubscribed this user from the channel");
    assert_eq!(told.payload()["status"], "ok", "no client takes it for a failure and joins again");
    assert_eq!(client.next().await.event(), "phx_close");
    assert!(!joined.is_open());
    let topics = scene.engine.topics().await;
    assert_eq!((topics.len(), &*topics[0].topic, topics[0].channels), (1, "realtime:b", 1));
}

#[tokio::test]
async fn topics_and_occupancy_are_counted_over_all_shards() {
    let scene = Scene::start();
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = scene.connect().await;
        client.join(public("realtime:a").present_as("same")).await.unwrap();
        assert_eq!(client.next().await.event(), "presence_state");
        client.join(private("realtime:b").rights(number == 0, true)).await.unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        client.push_on("realtime:a", PushKind::Track("{}".into())).await;
        while client.next().await.event() != "phx_reply" {}
    }
    let summary = |topic: &str, privacy| crate::TopicSummary { topic: topic.into(), privacy, channels: 4 };
    let expected = [summary("realtime:a", Privacy::Public), summary("realtime:b", Privacy::Private)];
    assert_eq!(scene.engine.topics().await, expected);
    let of = async |topic, privacy| scene.engine.occupancy(topic, privacy).await;
    let (a, b) = (of("realtime:a", Privacy::Public).await, of("realtime:b", Privacy::Private).await);
    assert_eq!((a.channels, a.listeners, a.followers, a.present_keys), (4, 4, 4, 1));
    assert_eq!((b.channels, b.listeners, b.followers, b.present_keys), (4, 1, 0, 0));
    assert_eq!(of("realtime:b", Privacy::Public).await, crate::Occupancy::default());
}

#[tokio::test]
async fn all_are_told_to_come_back_and_may() {
    let scene = Scene::start();
    let (mut one, mut other, mut idle) = (scene.member().await, scene.member().await, scene.connect().await);
    assert_eq!(scene.engine.disconnect_all().await, 3);
    for client in [&mut one, &mut other] {
        let told = client.next().await;
        let expected = json!({
            "extension": "system", "status": "ok", "message": "Server requested disconnect", "channel": "room"
        });
        assert_eq!(*told.payload(), expected);
        assert_eq!(client.next().await, Received::Close(1012, String::new()));
    }
    assert_eq!(idle.next().await, Received::Close(1012, String::new()));
    assert_eq!(scene.engine.topics().await, []);
    scene.member().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_ended_leaves_no_task_behind_and_cuts_who_is_left() {
    let scene = Scene::start();
    let (mut one, mut other) = (scene.member().await, scene.member().await);
    let Scene { engine, log, _snapshots } = scene;
    tokio::time::timeout(Duration::from_secs(5), engine.end()).await.expect("every shard ends");
    assert_eq!(engine.counters().sessions.load(Ordering::Relaxed), 0);
    let (told, mut late) = mpsc::unbounded_channel();
    engine.connect(Arc::new(Recorder(told)), Serializer::V2, None).await;
    assert_eq!(late.recv().await, None, "a socket that comes too late is let go");
    for client in [&mut one, &mut other] {
        while client.written.recv().await.is_some() {}
    }
    // The matcher has this, too, and ends with the log.
    let matcher = Arc::downgrade(&engine.oracle);
    drop((one, other, engine, log));
    while matcher.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}
