//! Shards that have much to write do so at the same time.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex};
use std::thread::{self, ThreadId};

use tokio::sync::Semaphore;

use super::*;

/// What one thread waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Members: half of them are on each shard.
const MEMBERS: usize = 100;

/// Where threads that write a large frame wait for each other.
struct Meeting {
    inside: Mutex<Inside>,
    changed: Condvar,
    /// One permit for each large frame that was written.
    written: Semaphore,
}

#[derive(Default)]
struct Inside {
    threads: HashSet<ThreadId>,
    given_up: bool,
}

/// A socket that takes everything, large frames only once two threads are at it.
struct Attending(Arc<Meeting>);

impl Socket for Attending {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = buffers.iter().map(|buffer| buffer.len()).sum();
        if bytes > 1_000 {
            let Meeting { inside, changed, written } = &*self.0;
            let mut inside = inside.lock().unwrap();
            inside.threads.insert(thread::current().id());
            changed.notify_all();
            let alone = |inside: &mut Inside| inside.threads.len() < 2 && !inside.given_up;
            let (mut inside, waited) = changed.wait_timeout_while(inside, PATIENCE, alone).unwrap();
            inside.given_up |= waited.timed_out();
            drop(inside);
            written.add_permits(1);
        }
        Ok(bytes)
    }

    fn notify_writable(&self) {}
    fn finish(&self) {}
    fn closing(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_write_a_large_broadcast_at_the_same_time() {
    let scene = Scene::start();
    let meeting =
        Arc::new(Meeting { inside: Mutex::default(), changed: Condvar::new(), written: Semaphore::new(0) });
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let socket = Arc::new(Attending(Arc::clone(&meeting)));
        let session = scene.engine.connect(socket, Serializer::V2, None).await;
        scene.engine.join(&session, public(ROOM).request()).await.unwrap();
        members.push(session);
    }
    let sender = scene.member().await;
    assert_eq!(scene.engine.occupancy(ROOM, Privacy::Public).await.channels, MEMBERS + 1);
    sender.broadcast(&"x".repeat(2_000)).await;
    let _ = meeting.written.acquire_many(u32::try_from(MEMBERS).unwrap()).await.unwrap();
    assert_eq!(meeting.inside.lock().unwrap().threads.len(), 2);
}
