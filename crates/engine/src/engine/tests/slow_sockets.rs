//! Sockets that do not take everything at once: who is waited for, who is closed, and what nobody else notices.

use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::Instant;
use walcast_wire::FrameReader;

use super::messages::{ROW, Row};
use super::*;

/// A socket that takes as many bytes as the test lets it.
#[derive(Default)]
struct Valve {
    inside: Mutex<Inside>,
    /// There is room again.
    opened: Notify,
    /// A writer has found none.
    blocked: Notify,
}

#[derive(Default)]
struct Inside {
    room: usize,
    reader: FrameReader,
    frames: Vec<Frame>,
}

impl Valve {
    fn with_room(room: usize) -> Arc<Valve> {
        Arc::new(Valve { inside: Mutex::new(Inside { room, ..Inside::default() }), ..Valve::default() })
    }

    fn open(&self, bytes: usize) {
        self.inside.lock().unwrap().room += bytes;
        self.opened.notify_waiters();
    }

    async fn has_room(&self) {
        loop {
            let opened = self.opened.notified();
            if self.inside.lock().unwrap().room > 0 {
                return;
            }
            opened.await;
        }
    }

    /// The payloads of the broadcasts so far, in short.
    fn texts(&self) -> Vec<String> {
        let inside = self.inside.lock().unwrap();
        let payload = |frame: &Frame| {
            let message: Value = serde_json::from_slice(&frame.payload()).ok()?;
            message[4]["payload"].as_str().map(str::to_owned)
        };
        inside.frames.iter().filter_map(payload).collect()
    }

    /// The numbers in the payloads of the broadcasts so far.
    fn numbers(&self) -> Vec<usize> {
        let inside = self.inside.lock().unwrap();
        let texts = inside.frames.iter().map(|frame| String::from_utf8_lossy(&frame.payload()).into_owned());
        texts.filter_map(|text| text.split_once("{\"n\":")?.1.split_once(',')?.0.parse().ok()).collect()
    }

    /// The close code, if there was one.
    fn closed(&self) -> Option<u16> {
        let inside = self.inside.lock().unwrap();
        let close = inside.frames.iter().find(|frame| frame.opcode() == walcast_wire::Opcode::Close)?;
        let payload = close.payload();
        Some(u16::from_be_bytes([payload[0], payload[1]]))
    }
}

impl Socket for Valve {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inside = self.inside.lock().unwrap();
        if inside.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for buffer in buffers {
            let part = buffer.len().min(inside.room);
            inside.reader.extend(&buffer[..part]);
            inside.room -= part;
            written += part;
        }
        while let Some(frame) = inside.reader.next_frame() {
            inside.frames.push(frame);
        }
        Ok(written)
    }

    fn notify_writable(&self) {
        self.blocked.notify_one();
    }

    fn writable(&self) -> BoxFuture<'_, ()> {
        self.has_room().boxed()
    }

    fn finish(&self) {}

    fn closing(&self) {}
}

/// Does for a valve what the gateway does for a socket.
fn tell_of_room(valve: &Arc<Valve>, session: SessionHandle) {
    let watched = Arc::clone(valve);
    tokio::spawn(async move {
        loop {
            watched.blocked.notified().await;
            watched.has_room().await;
            session.send(Command::Writable(session.id)).await;
        }
    });
}

/// A member of the private room behind a valve that is watched.
async fn member(scene: &Scene, room: usize) -> Arc<Valve> {
    let valve = Valve::with_room(room);
    let session = scene.engine.connect(Arc::clone(&valve) as _, Serializer::V2, None).await;
    scene.engine.join(&session, private(ROOM).request()).await.unwrap();
    tell_of_room(&valve, session);
    valve
}

/// Numbered rows of so many bytes.
fn rows(numbers: std::ops::Range<usize>, bytes: usize) -> Vec<Row> {
    let row = |number| {
        let payload = format!("{{\"n\":{number},\"x\":\"{}\"}}", "x".repeat(bytes));
        Row { payload: Some(payload.leak()), ..ROW }
    };
    numbers.map(row).collect()
}

/// Waits until a member has got so many broadcasts.
async fn until_got(valve: &Valve, count: usize) {
    let start = Instant::now();
    // The answer to the join comes first.
    while valve.inside.lock().unwrap().frames.len() <= count {
        assert!(start.elapsed() < Duration::from_mins(1), "got {:?}", valve.numbers().last());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn one_shard() -> Scene {
    Scene::with(EngineSettings::default())
}

fn slow_closes(scene: &Scene) -> u64 {
    scene.engine.counters().slow_closes.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_burst_far_over_the_bound_closes_nobody_who_reads() {
    let scene = one_shard();
    let valve = member(&scene, 64 << 10).await;
    let reading = Arc::clone(&valve);
    let reader = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            reading.open(64 << 10);
        }
    });
    // 20 MiB, most in small frames and some in frames that are larger than the bound.
    let large = |numbers| rows(numbers, 2 << 20);
    scene.commit(100, &[rows(0..1_000, 10 << 10), large(1_000..1_005)].concat()).await;
    until_got(&valve, 1_005).await;
    assert_eq!(valve.numbers(), (0..1_005).collect::<Vec<_>>());
    assert_eq!((valve.closed(), slow_closes(&scene)), (None, 0));
    assert_eq!(scene.engine.counters().queued_bytes.load(Ordering::Relaxed), 0);
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_closed_and_holds_nobody_up_for_longer_than_a_moment() {
    let scene = one_shard();
    let stalled = [member(&scene, 10_000).await, member(&scene, 50_000).await];
    let healthy = member(&scene, usize::MAX / 2).await;
    let start = Instant::now();
    scene.commit(100, &rows(0..1_000, 10 << 10)).await;
    until_got(&healthy, 1_000).await;
    let took = start.elapsed();
    // Both wait at the same time, and a millisecond may pass before the test looks.
    assert!(took <= crate::outbound::PATIENCE + Duration::from_millis(2), "{took:?}");
    assert_eq!((healthy.closed(), slow_closes(&scene)), (None, 2));
    for valve in stalled {
        valve.open(1 << 20);
        while valve.closed().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(valve.closed(), Some(1013));
        let numbers = valve.numbers();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "nothing is left out before the end");
    }
    assert_eq!(scene.engine.counters().queued_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_little_now_and_then_is_not_waited_for_without_end() {
    let scene = one_shard();
    let healthy = member(&scene, usize::MAX / 2).await;
    let mut trickles = Vec::new();
    for _ in 0..50 {
        let valve = member(&scene, 1_000).await;
        trickles.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                valve.open(1_000);
            }
        }));
    }
    let start = Instant::now();
    for part in 0..20 {
        scene.commit(100 + part, &rows(0..100, 10 << 10)).await;
    }
    until_got(&healthy, 2_000).await;
    let took = start.elapsed();
    assert!(took <= crate::outbound::PATIENCE + Duration::from_millis(2), "{took:?}");
    assert_eq!(slow_closes(&scene), 50);
    for trickle in trickles {
        trickle.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn all_waiting_in_vain_together_is_bounded() {
    let scene = one_shard();
    let healthy = member(&scene, usize::MAX / 2).await;
    let start = Instant::now();
    // Each stalls in its own burst, one after the other.
    for burst in 0..60 {
        let _stalled = member(&scene, 1_000).await;
        scene.commit(100 + burst, &rows(0..120, 10 << 10)).await;
        until_got(&healthy, 120 * (usize::try_from(burst).unwrap() + 1)).await;
    }
    let took = start.elapsed();
    // Half a second, a little of the time, and for each burst the millisecond until the test looks.
    assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(700), "{took:?}");
    assert_eq!(slow_closes(&scene), 60);
}

#[tokio::test(start_paused = true)]
async fn a_change_counts_as_written_when_it_is() {
    let scene = one_shard();
    let latencies = || scene.engine.counters().commit_to_write.counts().iter().sum::<u64>();
    // Room for the answer to the join, and for no more.
    let valve = member(&scene, 1).await;
    scene.commit(100, &rows(0..1, 10)).await;
    scene.engine.topics().await;
    while scene.engine.counters().database_broadcasts.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    scene.engine.topics().await;
    assert_eq!(latencies(), 0);
    valve.open(10_000);
    until_got(&valve, 1).await;
    scene.engine.topics().await;
    assert_eq!(latencies(), 1);
}

/// A member of the public room that has got its answer to the join, and takes nothing any more.
async fn blocked_member(scene: &Scene) -> Arc<Valve> {
    let valve = Valve::with_room(usize::MAX / 2);
    let session = scene.engine.connect(Arc::clone(&valve) as _, Serializer::V2, None).await;
    scene.engine.join(&session, public(ROOM).request()).await.unwrap();
    scene.engine.topics().await;
    scene.engine.topics().await;
    valve.inside.lock().unwrap().room = 0;
    tell_of_room(&valve, session);
    valve
}

/// Publishes texts, each in a turn of its own, with more members of the message.
async fn publish(scene: &Scene, event: &str, texts: &[(&str, Value)]) {
    for (text, members) in texts {
        let mut message = json!({ "type": "broadcast", "event": event, "payload": text });
        message.as_object_mut().unwrap().extend(members.as_object().cloned().unwrap_or_default());
        let payload = BroadcastPayload::Text(message.to_string().into());
        scene.engine.publish(ROOM.into(), Privacy::Public, payload, None).await;
        scene.engine.topics().await;
    }
}

/// Opens the valve and waits for everything that was published before.
async fn drained(scene: &Scene, valve: &Valve) -> Vec<String> {
    publish(scene, "e", &[("end", json!(null))]).await;
    valve.open(10 << 20);
    while valve.texts().last().is_none_or(|text| text != "end") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut texts = valve.texts();
    texts.pop();
    texts
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn of_those_with_one_key_only_the_newest_waits_and_in_its_place_in_time() {
    let scene = one_shard();
    let (slow, fast) = (blocked_member(&scene).await, blocked_member(&scene).await);
    fast.open(10 << 20);
    let key = |key: &str| json!({ "conflate": key });
    let texts = [
        ("first", json!(null)),
        ("a1", key("a")),
        ("b1", key("b")),
        ("plain", json!(null)),
        ("a2", key("a")),
        ("a3", key("a")),
    ];
    publish(&scene, "e", &texts).await;
    assert_eq!(drained(&scene, &fast).await, texts.map(|(text, _)| text), "who reads gets all of them");
    assert_eq!(drained(&scene, &slow).await, ["first", "b1", "plain", "a3", "end"]);
    let counters = scene.engine.counters();
    assert_eq!((count(&counters.conflated_broadcasts), count(&counters.queued_bytes)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_half_written_is_not_replaced() {
    let scene = one_shard();
    let slow = blocked_member(&scene).await;
    let key = json!({ "conflate": "a" });
    slow.open(5);
    publish(&scene, "e", &[("a1", key.clone()), ("a2", key.clone()), ("a3", key)]).await;
    assert_eq!(drained(&scene, &slow).await, ["a1", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_with_few_keys_never_fills_a_queue() {
    let scene = Scene::with(EngineSettings { outbound_bytes_max: 16_384, ..EngineSettings::default() });
    let slow = blocked_member(&scene).await;
    let numbers: Vec<String> = (0..5_000).map(|number| format!("{number}{}", "x".repeat(500))).collect();
    for (number, text) in numbers.iter().enumerate() {
        publish(&scene, "e", &[(text, json!({ "conflate": format!("key {}", number % 3) }))]).await;
    }
    assert!(count(&scene.engine.counters().queued_bytes) < 2_500);
    assert_eq!(drained(&scene, &slow).await, numbers[4_997..]);
    assert_eq!(count(&scene.engine.counters().conflated_broadcasts), 4_997);
}

#[tokio::test(start_paused = true)]
async fn what_has_outlived_its_time_is_not_written_and_makes_room() {
    let scene = Scene::with(EngineSettings { outbound_bytes_max: 16_384, ..EngineSettings::default() });
    let slow = blocked_member(&scene).await;
    let long = "x".repeat(6_000);
    let ttl = json!({ "ttl_ms": 1_000 });
    publish(&scene, "e", &[("kept", json!(null)), (&long, ttl.clone()), (&long, ttl.clone())]).await;
    tokio::time::advance(Duration::from_millis(1_001)).await;
    // There would be no room for these.
    publish(&scene, "e", &[(&long, json!(null)), ("fresh", ttl)]).await;
    assert_eq!(drained(&scene, &slow).await, ["kept", &long, "fresh"]);
    assert_eq!((count(&scene.engine.counters().expired_broadcasts), slow_closes(&scene)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rule_for_an_event_holds_for_messages_of_the_database_too() {
    let mut rules = BroadcastRules::default();
    rules.of_event_mut("gps").ttl = Some(Duration::from_mins(1));
    let scene = Scene::with(EngineSettings { broadcast_rules: rules, ..EngineSettings::default() });
    let valve = member(&scene, usize::MAX / 2).await;
    // These were committed in the year 2000.
    let row = |number, event| Row { event: Some(event), ..rows(number..number + 1, 10)[0] };
    scene.commit(100, &[row(1, "gps"), row(2, "other"), row(3, "gps"), row(4, "other")]).await;
    until_got(&valve, 2).await;
    assert_eq!(valve.numbers(), [2, 4]);
    assert_eq!(count(&scene.engine.counters().expired_broadcasts), 2);
}
