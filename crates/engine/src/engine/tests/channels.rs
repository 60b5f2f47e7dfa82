//! Public and private topics, and what a channel may receive.

use super::*;

#[tokio::test]
async fn a_public_and_a_private_topic_of_one_name_hear_nothing_of_each_other() {
    let scene = Scene::start();
    let mut sides = Vec::new();
    for join in [public, private] {
        let (mut sender, mut receiver) = (scene.connect().await, scene.connect().await);
        sender.join(join(ROOM)).await.unwrap();
        receiver.join(join(ROOM).present_as("r")).await.unwrap();
        assert_eq!(receiver.next().await.event(), "presence_state");
        sides.push((sender, receiver));
    }
    for (text, (sender, _)) in ["open", "secret"].into_iter().zip(&mut sides) {
        sender.broadcast(text).await;
        assert_eq!(sender.next().await.event(), "phx_reply");
        sender.track(json!({ "side": text })).await;
    }
    for (text, (_, receiver)) in ["open", "secret"].into_iter().zip(&mut sides) {
        assert_eq!(receiver.next().await.payload()["event"], text);
        let diff = receiver.next().await;
        let joined = diff.payload()["joins"].as_object().unwrap().values().next().unwrap();
        assert_eq!(joined["metas"][0]["side"], text);
        assert_eq!(receiver.heard().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_member_without_the_right_to_broadcasts_hears_none_and_may_follow_presence() {
    let scene = Scene::start();
    let mut sender = scene.connect().await;
    sender.join(private(ROOM)).await.unwrap();
    let mut watcher = scene.connect().await;
    watcher.join(private(ROOM).rights(false, true).present_as("w")).await.unwrap();
    assert_eq!(watcher.next().await.event(), "presence_state");
    sender.broadcast("secret").await;
    assert_eq!(sender.next().await.event(), "phx_reply");
    sender.track(json!({})).await;
    assert_eq!(watcher.next().await.event(), "presence_diff");
}

#[tokio::test]
async fn a_member_without_the_right_to_presence_sees_nobody_even_when_it_tracks() {
    let scene = Scene::start();
    let (mut blind, mut other) = (scene.connect().await, scene.connect().await);
    blind.join(private(ROOM).rights(true, false).present_as("blind")).await.unwrap();
    other.join(private(ROOM).present_as("other")).await.unwrap();
    assert_eq!(other.next().await.event(), "presence_state");
    blind.track(json!({ "here": true })).await;
    assert!(other.next().await.payload()["joins"]["blind"].is_object(), "others see it");
    other.track(json!({})).await;
    assert_eq!(other.next().await.event(), "presence_diff");
    other.broadcast("mark").await;
    assert_eq!(blind.next().await.payload()["event"], "mark", "and neither state nor diff before it");
}

#[tokio::test]
async fn rights_that_change_begin_and_end_what_a_channel_receives() {
    let scene = Scene::start();
    let (mut sender, mut member) = (scene.connect().await, scene.connect().await);
    sender.join(private(ROOM)).await.unwrap();
    let joined = member.join(private(ROOM).rights(false, false).present_as("m")).await.unwrap();
    let session = member.session.clone();
    let say = async |sender: &mut Client, text: &str| {
        sender.broadcast(text).await;
        sender.track(json!({ "said": text })).await;
        while sender.next().await.event() != "phx_reply" {}
    };
    say(&mut sender, "one").await;
    scene.engine.set_rights(&session, &joined, ReadRights::ALL).await;
    let state = member.next().await;
    assert_eq!(state.event(), "presence_state", "what it had asked for, now that it may have it");
    assert_eq!(state.payload().as_object().unwrap().len(), 1);
    say(&mut sender, "two").await;
    assert_eq!(member.next().await.payload()["event"], "two");
    assert_eq!(member.next().await.event(), "presence_diff");
    scene.engine.set_rights(&session, &joined, ReadRights { broadcast: true, presence: false }).await;
    say(&mut sender, "three").await;
    assert_eq!(member.next().await.payload()["event"], "three");
    scene.engine.set_rights(&session, &joined, ReadRights { broadcast: false, presence: true }).await;
    assert_eq!(member.next().await.event(), "presence_state", "nothing came between");
    say(&mut sender, "four").await;
    assert_eq!(member.next().await.event(), "presence_diff");
}

#[tokio::test]
async fn whoever_leaves_takes_nobody_else_off_the_lists() {
    let scene = Scene::with(EngineSettings::default());
    let mut members = Vec::new();
    for number in 0..40 {
        let mut client = scene.connect().await;
        client.join(public(ROOM).present_as(&number.to_string())).await.unwrap();
        assert_eq!(client.next().await.event(), "presence_state");
        members.push(client);
    }
    let mut dice = 7_usize;
    while members.len() > 2 {
        dice = dice * 31 % 1_009;
        let mut gone = members.swap_remove(1 + dice % (members.len() - 1));
        if dice.is_multiple_of(2) {
            gone.push(PushKind::Leave).await;
            assert_eq!(gone.next().await.event(), "phx_reply");
            assert_eq!(gone.next().await.event(), "phx_close");
        } else {
            gone.gone(Departure::Closed).await;
        }
        scene
            .engine
            .publish(ROOM.into(), Privacy::Public, BroadcastPayload::Text(r#"{"event":"e"}"#.into()), None)
            .await;
        let left = members.len();
        members[0].track(json!({ "left": left })).await;
        for member in &mut members {
            assert_eq!(member.next().await.payload()["event"], "e");
            assert_eq!(member.next().await.event(), "presence_diff");
        }
        if dice.is_multiple_of(2) {
            assert_eq!(gone.heard().await, Vec::<String>::new());
        }
        let occupancy = scene.engine.occupancy(ROOM, Privacy::Public).await;
        let all = members.len();
        assert_eq!((occupancy.channels, occupancy.listeners, occupancy.followers), (all, all, all));
    }
    for member in &members {
        member.gone(Departure::Closed).await;
    }
    assert_eq!(scene.engine.occupancy(ROOM, Privacy::Public).await, crate::Occupancy::default());
    assert_eq!(scene.engine.topics().await, []);
    assert_eq!(scene.engine.counters().channels.load(Ordering::Relaxed), 0);
}
