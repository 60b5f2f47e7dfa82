//! Presence across reconnects, and where nobody asked for it (docs/protocol.md §7).

use super::*;
use crate::presence::view::View;
use crate::settings::RateLimit;

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

/// Untracks, and takes the reply.
async fn untrack(client: &mut Client) {
    client.push(PushKind::Untrack).await;
    assert_eq!(client.next_but(&["presence_diff"]).await.event(), "phx_reply");
}

/// So many that follow the room, without being present.
async fn followers(scene: &Scene, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(follower(scene, &format!("f{number}")).await.0);
    }
    clients
}

/// Each of them gets a diff with these keys, after so much time.
async fn all_get(clients: &mut [Client], joins: &[&str], leaves: &[&str], after: Duration) {
    let before = tokio::time::Instant::now();
    for client in clients {
        assert_eq!(diff(client).await, (keys(joins), keys(leaves)));
    }
    assert_eq!(before.elapsed(), after);
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

/// Of a room with twelve followers: a millisecond for each.
const WINDOW: Duration = Duration::from_millis(12);
const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn the_first_change_of_a_quiet_topic_leaves_at_once_and_those_that_follow_in_one_diff() {
    let scene = Scene::start();
    let mut clients = followers(&scene, 12).await;
    for _ in 0..2 {
        clients[0].track(json!({})).await;
        all_get(&mut clients, &["f0"], &[], AT_ONCE).await;
        for number in [3, 2, 1] {
            clients[number].track(json!({})).await;
        }
        untrack(&mut clients[0]).await;
        all_get(&mut clients, &["f1", "f2", "f3"], &["f0"], WINDOW).await;
        // A window later the topic is quiet again.
        tokio::time::sleep(WINDOW).await;
        for number in [1, 2, 3] {
            untrack(&mut clients[number]).await;
        }
        all_get(&mut clients, &[], &["f1"], AT_ONCE).await;
        all_get(&mut clients, &[], &["f2", "f3"], WINDOW).await;
        tokio::time::sleep(WINDOW).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_and_goes_within_a_window_was_never_there() {
    let scene = Scene::start();
    let mut clients = followers(&scene, 12).await;
    clients[0].track(json!({})).await;
    all_get(&mut clients, &["f0"], &[], AT_ONCE).await;
    clients[1].track(json!({})).await;
    clients[1].gone(Departure::Closed).await;
    clients.remove(1);
    tokio::time::sleep(2 * WINDOW).await;
    for client in &mut clients {
        assert_eq!(client.heard().await, Vec::<String>::new());
    }
    clients[1].track(json!({})).await;
    all_get(&mut clients, &["f2"], &[], AT_ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn updates_within_a_window_are_one_from_what_was_shown() {
    let scene = Scene::start();
    let mut clients = followers(&scene, 12).await;
    clients[0].track(json!({ "n": 1 })).await;
    let shown = clients[0].next().await.payload()["joins"]["f0"]["metas"][0]["phx_ref"].clone();
    for n in [2, 3] {
        clients[0].track(json!({ "n": n })).await;
    }
    let update = clients[0].next().await;
    let (joined, left) =
        (&update.payload()["joins"]["f0"]["metas"], &update.payload()["leaves"]["f0"]["metas"]);
    assert_eq!((&joined[0]["n"], &joined[0]["phx_ref_prev"]), (&json!(3), &shown));
    assert_eq!(*left, json!([{ "n": 1, "phx_ref": shown }]));
}

#[tokio::test(start_paused = true)]
async fn who_joins_in_the_middle_of_a_window_is_sent_what_has_been_told_and_then_the_diff() {
    let scene = Scene::start();
    let mut clients = followers(&scene, 12).await;
    clients[0].track(json!({})).await;
    all_get(&mut clients, &["f0"], &[], AT_ONCE).await;
    untrack(&mut clients[0]).await;
    clients[1].track(json!({})).await;
    for key in ["here", "there"] {
        let (late, state) = follower(&scene, key).await;
        assert_eq!(state.as_object().unwrap().keys().collect::<Vec<_>>(), ["f0"]);
        clients.push(late);
    }
    let mut by_track = scene.connect().await;
    by_track.join(public(ROOM)).await.unwrap();
    by_track.track(json!({})).await;
    let state = by_track.next().await;
    assert_eq!(state.event(), "presence_state");
    let mut view = View::of_state(state.payload());
    view.apply(by_track.next().await.payload());
    let shown: Vec<_> = view.shown("n").into_keys().collect();
    assert!(shown.len() == 2 && shown.contains(&"f1".to_owned()), "its own presence and f1: {shown:?}");
    for client in &mut clients {
        let diff = client.next().await;
        assert_eq!(diff.payload()["joins"].as_object().unwrap().len(), 2);
        assert_eq!(diff.payload()["leaves"].as_object().unwrap().keys().collect::<Vec<_>>(), ["f0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_window_or_with_few_who_follow_each_change_leaves_at_once() {
    let off = EngineSettings { shards: 2, presence_diff: Duration::ZERO, ..EngineSettings::default() };
    for (scene, count) in [(Scene::with(off), 12), (Scene::start(), 9)] {
        let mut clients = followers(&scene, count).await;
        for number in 0..5 {
            let key = format!("f{number}");
            clients[number].track(json!({})).await;
            all_get(&mut clients, &[&key], &[], AT_ONCE).await;
            untrack(&mut clients[number]).await;
            all_get(&mut clients, &[], &[&key], AT_ONCE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_whose_grace_is_over_at_a_time_leave_together() {
    let scene = Scene::start();
    let mut clients = followers(&scene, 14).await;
    for client in &mut clients[..3] {
        client.track(json!({})).await;
        tokio::time::sleep(2 * WINDOW).await;
    }
    for client in clients.drain(..3) {
        client.gone(Departure::Lost).await;
    }
    let watcher = &mut clients[0];
    for key in ["f0", "f1", "f2"] {
        assert_eq!(diff(watcher).await, (keys(&[key]), keys(&[])));
    }
    // One of them is the first change of a quiet topic.
    let [first, others] = [diff(watcher).await, diff(watcher).await];
    assert_eq!([first.1.len(), others.1.len()], [1, 2]);
    assert_eq!(watcher.heard().await, Vec::<String>::new());
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(start_paused = true)]
async fn over_two_shards_everybody_sees_who_is_there_whenever_they_come_and_whatever_happens() {
    let mut numbers = Numbers(7);
    let many = RateLimit { calls: 10_000, window: Duration::from_secs(1) };
    let settings = EngineSettings { shards: 2, presence_calls: many, ..EngineSettings::default() };
    let scene = Scene::with(settings);
    let mut clients = Vec::new();
    for (client, state) in [follower(&scene, "k0").await, follower(&scene, "k1").await] {
        clients.push((client, View::of_state(&state)));
    }
    let (mut changes, mut diffs) = (0, 0);
    for round in 0..600 {
        if round % 20 == 0 {
            let (client, state) = follower(&scene, &format!("k{}", numbers.below(9))).await;
            clients.push((client, View::of_state(&state)));
        }
        let chosen = usize::try_from(numbers.below(clients.len() as u64)).unwrap();
        match numbers.below(20) {
            0 if clients.len() > 12 => {
                let departure = [Departure::Closed, Departure::Lost][round % 2];
                clients.swap_remove(chosen).0.gone(departure).await;
            }
            1..6 => clients[chosen].0.push(PushKind::Untrack).await,
            _ => {
                let payload = json!({ "n": numbers.below(3) }).to_string();
                clients[chosen].0.push(PushKind::Track(payload.into())).await;
            }
        }
        changes += 1;
        tokio::time::sleep(Duration::from_micros(numbers.below(3_000))).await;
    }
    // Whoever was lost has left then, and the last window is over.
    tokio::time::sleep(2 * GRACE).await;
    let (_, state) = follower(&scene, "last").await;
    let expected = View::of_state(&state);
    assert!(!expected.references().is_empty());
    for (client, view) in &mut clients {
        let mark = Frame::text(br#"[null,null,"t","mark",{}]"#);
        client.session.send(Command::Write(client.session.id, mark.bytes().clone())).await;
        loop {
            let frame = client.next().await;
            match frame.event() {
                "presence_diff" => {
                    view.apply(frame.payload());
                    diffs += 1;
                }
                "mark" => break,
                other => assert_eq!(other, "phx_reply"),
            }
        }
        assert_eq!(*view, expected);
    }
    let each = diffs / clients.len();
    assert!(each < changes / 3, "{changes} changes in {each} diffs");
}
