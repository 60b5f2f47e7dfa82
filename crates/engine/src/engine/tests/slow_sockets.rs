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

/// A member of the private room behind a valve, and a task that does for it what the gateway does for a socket.
async fn member(scene: &Scene, room: usize) -> Arc<Valve> {
    let valve = Valve::with_room(room);
    let session = scene.engine.connect(Arc::clone(&valve) as _, Serializer::V2, None).await;
    scene.engine.join(&session, private(ROOM).request()).await.unwrap();
    let watched = Arc::clone(&valve);
    tokio::spawn(async move {
        loop {
            watched.blocked.notified().await;
            watched.has_room().await;
            session.send(Command::Writable(session.id)).await;
        }
    });
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
async fn all_waiting_together_is_bounded() {
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
    // Five seconds, and a quarter of the time.
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
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
