//! What a subscription takes, beyond its open session and token, where each person is an audience of their own: by a
//! policy about them, or by what they filter on.

#![allow(unsafe_code, reason = "an allocator can not be written without")]
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "../src/fixture.rs"]
mod fixture;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::value::RawValue;
use tokio::sync::watch;
use walcast_engine::{Claimant, Engine, EngineSettings, Identity, JoinRequest, ReadRights, Socket};
use walcast_wire::{JoinPayload, Ref, Serializer, sub_topic};

/// A little before tables grow, as they are with 100,000.
const PEOPLE: usize = 12_500;
const OWN_BYTES_MAX: usize = 240;
const ROOM_BYTES_MAX: usize = 275;

/// Counts the bytes that are in use by each thread: a test has one of its own.
struct Counting;

thread_local! {
    static IN_USE: Cell<usize> = const { Cell::new(0) };
}

fn in_use() -> usize {
    IN_USE.get()
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.set(in_use().wrapping_add(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.set(in_use().wrapping_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Takes everything and keeps nothing.
struct Sink;

impl Socket for Sink {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }

    fn notify_writable(&self) {}

    fn finish(&self) {}

    fn closing(&self) {}
}

fn identity(person: usize) -> Arc<Identity> {
    let claims = serde_json::json!({ "role": "reader", "sub": format!("person {person:05}") });
    let claims_json = claims.to_string().into();
    Arc::new(Identity { role: "reader".into(), claims: Arc::new(claims), claims_json })
}

fn request(identity: &Arc<Identity>, topic: &str, filter: &str) -> JoinRequest {
    let payload = format!(
        r#"{{"config":{{"postgres_changes":[{{"event":"*","schema":"public","table":"notes"{filter}}}],"private":false}}}}"#
    );
    let payload = RawValue::from_string(payload).unwrap();
    JoinRequest {
        payload: JoinPayload::parse(sub_topic(topic).unwrap(), &payload).unwrap(),
        topic: topic.into(),
        join_ref: Ref::from_text("1"),
        reference: Ref::from_text("1"),
        identity: Arc::clone(identity),
        claimant: Claimant::of(None, "token"),
        rejoins: false,
        rights: ReadRights::ALL,
        replay: None,
        replication_ready: true,
        resume_from: None,
    }
}

/// The bytes of each subscription, where every person joins with what `request` makes of their number and sees rows by
/// the policy `using`.
async fn bytes_each(using: Option<&str>, request: impl Fn(usize, &Arc<Identity>) -> JoinRequest) -> usize {
    let catalog = fixture::snapshot(1, &["id", "owner", "body"], using);
    let (_snapshots, seen) = watch::channel(Arc::clone(&catalog));
    let (engine, _log) =
        Engine::start(EngineSettings::default(), Arc::new(fixture::Catalog(catalog)), seen, |_| {});
    let mut people = Vec::new();
    for person in 0..PEOPLE {
        let session = engine.connect(Arc::new(Sink), Serializer::V2, None).await;
        people.push((session, identity(person)));
    }
    while engine.counters().sessions.load(Relaxed) < PEOPLE as u64 {
        tokio::task::yield_now().await;
    }
    let before = in_use();
    let mut channels = Vec::with_capacity(PEOPLE);
    for (person, (session, identity)) in people.iter().enumerate() {
        channels.push(engine.join(session, request(person, identity)).await.unwrap());
    }
    let each = (in_use() - before) / PEOPLE;
    assert_eq!(engine.counters().subscriptions.load(Relaxed), PEOPLE as u64);
    each
}

#[tokio::test]
async fn a_subscription_takes_little_beyond_its_session_and_token() {
    let theirs = "(owner = current_setting('request.jwt.claim.sub'::text, true))";
    let each = bytes_each(Some(theirs), |_, identity| request(identity, "realtime:notes", "")).await;
    assert!(each <= OWN_BYTES_MAX, "{each} bytes for each subscription");
}

#[tokio::test]
async fn a_subscription_to_a_room_of_its_own_takes_little_more() {
    let room = |person, identity: &_| {
        let filter = format!(r#","filter":"owner=eq.{person}""#);
        request(identity, &format!("realtime:room-{person}"), &filter)
    };
    let each = bytes_each(None, room).await;
    assert!(each <= ROOM_BYTES_MAX, "{each} bytes for each subscription");
}
