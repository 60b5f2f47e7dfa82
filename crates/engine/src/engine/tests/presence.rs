//! Presence across reconnects, and where nobody asked for it (docs/protocol.md §7).

use super::*;

const GRACE: Duration = Duration::from_secs(2);

/// A client that follows the room under a key.
async fn follower(scene: &Scene, key: &str) -> (Client, Value) {
    let mut client = scene.connect().await;
    client.join(public(ROOM).present_as(key)).await.unwrap();
    let state = client.next().await;
    assert_eq!(state.event(), "presence_state");
    (client, state.payload().clone())
}

/// The keys that a diff tells have come and gone.
async fn diff(client: &mut Client) -> (Vec<String>, Vec<String>) {
    let frame = client.next().await;
    assert_eq!(frame.event(), "presence_diff", "{frame:?}");
    let keys = |part: &str| frame.payload()[part].as_object().unwrap().keys().cloned().collect();
    (keys("joins"), keys("leaves"))
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A watcher, and a client whose presence it has seen come.
async fn watched(scene: &Scene) -> (Client, Client) {
    let (mut watcher, _) = follower(scene, "watcher").await;
    let (mut ana, _) = follower(scene, "ana").await;
    ana.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&["ana"]), keys(&[])));
    (watcher, ana)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_within_the_grace_was_never_away() {
    let scene = Scene::start();
    let (mut watcher, ana) = watched(&scene).await;
    ana.gone(Departure::Lost).await;
    let (mut again, state) = follower(&scene, "ana").await;
    assert_eq!(state["ana"]["metas"].as_array().unwrap().len(), 1, "it is still there");
    again.track(json!({ "n": 1 })).await;
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(watcher.heard().await, Vec::<String>::new(), "no diff at all");
    again.gone(Departure::Closed).await;
    assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])), "the presence is its own now");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_with_another_payload_is_an_update() {
    let scene = Scene::start();
    let (mut watcher, ana) = watched(&scene).await;
    ana.gone(Departure::Lost).await;
    let (mut again, state) = follower(&scene, "ana").await;
    again.track(json!({ "n": 2 })).await;
    let update = watcher.next().await;
    let (joined, left) =
        (&update.payload()["joins"]["ana"]["metas"][0], &update.payload()["leaves"]["ana"]["metas"]);
    assert_eq!((&joined["n"], &left[0]["n"]), (&json!(2), &json!(1)));
    assert_eq!(joined["phx_ref_prev"], state["ana"]["metas"][0]["phx_ref"]);
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(watcher.heard().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_come_back_leaves_when_the_grace_is_over() {
    let scene = Scene::start();
    let (mut watcher, ana) = watched(&scene).await;
    let lost_at = tokio::time::Instant::now();
    ana.gone(Departure::Lost).await;
    assert_eq!(scene.engine.occupancy(ROOM, Privacy::Public).await.present_keys, 1);
    assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])));
    assert!(lost_at.elapsed() >= GRACE);
    let (mut late, state) = follower(&scene, "ana").await;
    assert_eq!(state, json!({}));
    late.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&["ana"]), keys(&[])), "a new presence");
}

#[tokio::test(start_paused = true)]
async fn whoever_closes_leaves_or_untracks_is_gone_at_once() {
    let scene = Scene::start();
    for way in ["closes", "leaves", "untracks", "is closed by the server"] {
        let (mut watcher, ana) = watched(&scene).await;
        let before = tokio::time::Instant::now();
        match way {
            "closes" => ana.gone(Departure::Closed).await,
            "leaves" => ana.push(PushKind::Leave).await,
            "untracks" => ana.push(PushKind::Untrack).await,
            _ => assert_eq!(scene.engine.disconnect_all().await, 2),
        }
        if way == "is closed by the server" {
            assert_eq!(scene.engine.occupancy(ROOM, Privacy::Public).await.present_keys, 0);
        } else {
            assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])), "{way}");
        }
        assert_eq!(before.elapsed(), Duration::ZERO, "{way}");
        watcher.gone(Departure::Closed).await;
        ana.gone(Departure::Closed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_a_lost_client_is_gone_at_once() {
    let scene = Scene::with(EngineSettings { presence_grace: Duration::ZERO, ..EngineSettings::default() });
    let (mut watcher, ana) = watched(&scene).await;
    let before = tokio::time::Instant::now();
    ana.gone(Departure::Lost).await;
    assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn only_the_same_key_on_the_same_topic_and_kind_takes_a_presence_over() {
    let scene = Scene::start();
    let (mut watcher, ana) = watched(&scene).await;
    ana.gone(Departure::Lost).await;
    let (mut stranger, _) = follower(&scene, "bo").await;
    stranger.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&["bo"]), keys(&[])));
    let mut elsewhere = scene.connect().await;
    elsewhere.join(private(ROOM).present_as("ana")).await.unwrap();
    assert_eq!(*elsewhere.next().await.payload(), json!({}));
    elsewhere.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])));
}

#[tokio::test(start_paused = true)]
async fn of_two_lost_presences_of_one_key_each_is_taken_over_once() {
    let scene = Scene::start();
    let (mut watcher, phone) = watched(&scene).await;
    let (mut laptop, _) = follower(&scene, "ana").await;
    laptop.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&["ana"]), keys(&[])));
    phone.gone(Departure::Lost).await;
    laptop.gone(Departure::Lost).await;
    let (mut again, _) = follower(&scene, "ana").await;
    again.track(json!({ "n": 1 })).await;
    assert_eq!(diff(&mut watcher).await, (keys(&[]), keys(&["ana"])), "one of them has not come back");
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(watcher.heard().await, Vec::<String>::new());
}

#[tokio::test]
async fn only_a_track_turns_presence_on_for_a_channel_that_did_not_ask_for_it() {
    let scene = Scene::start();
    let (mut ana, _) = follower(&scene, "ana").await;
    for join in [public, private] {
        let mut client = scene.connect().await;
        client.join(join(ROOM)).await.unwrap();
        for kind in [PushKind::Untrack, PushKind::UnknownPresence, PushKind::EmptyPresence] {
            client.push(kind).await;
            assert_eq!(client.next().await.event(), "phx_reply");
        }
        ana.track(json!({ "n": format!("{:?}", client.session.id) })).await;
        assert_eq!(ana.next().await.event(), "presence_diff");
        assert_eq!(client.heard().await, Vec::<String>::new());
        client.track(json!({})).await;
        assert_eq!(client.next().await.event(), "presence_state");
        assert_eq!(client.next().await.event(), "presence_diff");
        client.gone(Departure::Closed).await;
        while scene.engine.occupancy(ROOM, Privacy::Public).await.channels > 1 {}
        while !ana.heard().await.is_empty() {}
    }
}

#[tokio::test]
async fn where_presence_is_on_for_all_a_join_need_not_ask() {
    let scene = Scene::with(EngineSettings { presence_enabled: true, ..EngineSettings::default() });
    let mut client = scene.member().await;
    assert_eq!(client.next().await.event(), "presence_state");
    let (mut other, _) = follower(&scene, "other").await;
    other.track(json!({})).await;
    assert_eq!(diff(&mut client).await, (keys(&["other"]), keys(&[])));
}
