//! What a subscription takes, beyond its open session and token, where each person is an audience of their own: by a
//! policy about them, or by what they filter on.

#![allow(unsafe_code, reason = "an allocator can not be written without")]
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::value::RawValue;
use tokio::sync::watch;
use walcast_engine::{Engine, EngineSettings, Identity, JoinRequest, ReadRights, Socket};
use walcast_pgoutput::{Oid, Xid};
use walcast_policy::schema::{
    Collation, Column, Identity as TableIdentity, Policy, PolicyCommand, Privileges, Role, Snapshot, Table,
    Type, TypeKind, Types,
};
use walcast_policy::{
    Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question, RowsError, RowsRead, RowsRequest,
};
use walcast_wire::{JoinPayload, Ref, Serializer, sub_topic};

/// A little before tables grow, as they are with 100,000.
const PEOPLE: usize = 12_500;
const OWN_BYTES_MAX: usize = 300;
const ROOM_BYTES_MAX: usize = 340;

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

/// A database that knows its catalog and is asked nothing else.
struct Catalog(Arc<Snapshot>);

impl Oracle for Catalog {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0)
    }

    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>> {
        async { Ok(self.snapshot()) }.boxed()
    }

    fn visible<'a>(&'a self, _: &'a [Xid]) -> BoxFuture<'a, Result<(), OracleError>> {
        async { Ok(()) }.boxed()
    }

    fn role<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, OracleError>> {
        panic!("the role {name} is known")
    }

    fn check_expression<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<(), OracleError>> {
        panic!("{expression} needs no check")
    }

    fn constants<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        expressions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>> {
        panic!("{expressions:?} are not left to PostgreSQL")
    }

    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        _: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        panic!("{} is not left to PostgreSQL", question.expression)
    }

    fn load(self: Arc<Self>, _: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        panic!("nothing is looked up")
    }

    fn rows(self: Arc<Self>, _: RowsRequest) -> BoxFuture<'static, Result<RowsRead, RowsError>> {
        panic!("nobody wants a snapshot")
    }
}

/// A table; with `row_security` its rows are each for one person.
fn catalog(row_security: bool) -> Arc<Snapshot> {
    const TABLE: Oid = Oid(16_384);
    const READER: Oid = Oid(100);
    let column = |(index, name): (usize, &&str)| Column {
        name: (*name).to_owned(),
        number: i16::try_from(index + 1).unwrap(),
        type_oid: Oid(25),
        type_modifier: -1,
        collation: Collation::Bytes,
        primary_key: index == 0,
        identity: index == 0,
        sql_type: "text".to_owned(),
    };
    let policy = Policy {
        name: "own".to_owned(),
        command: PolicyCommand::All,
        permissive: true,
        roles: Vec::new(),
        using: Some("(owner = current_setting('request.jwt.claim.sub'::text, true))".to_owned()),
        columns: vec![2],
        whole_row: false,
        readings: Vec::new(),
        calls: Vec::new(),
    };
    let table = Table {
        oid: TABLE,
        schema: "public".to_owned(),
        name: "notes".to_owned(),
        columns: ["id", "owner", "body"].iter().enumerate().map(column).collect(),
        owner: Oid(10),
        row_security,
        force_row_security: false,
        identity: TableIdentity::Default,
        policies: vec![policy],
    };
    let role = Role {
        oid: READER,
        name: "reader".to_owned(),
        bypasses_row_security: false,
        acts_as: [READER].into_iter().collect(),
        privileges: [(TABLE, Privileges { selectable: vec![true; 3] })].into_iter().collect(),
        executes: FxHashSet::default(),
        schemas: ["public".to_owned()].into_iter().collect(),
    };
    let text =
        Type { oid: Oid(25), name: "text".to_owned(), schema: "pg_catalog".to_owned(), kind: TypeKind::Base };
    Arc::new(Snapshot {
        version: 1,
        tables: [(TABLE, Arc::new(table))].into_iter().collect(),
        types: Arc::new(Types([(Oid(25), text)].into_iter().collect())),
        roles: [("reader".to_owned(), Arc::new(role))].into_iter().collect(),
        functions: Arc::default(),
        lookups: FxHashMap::default(),
        search_path: Arc::default(),
    })
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
        rights: ReadRights::ALL,
        replay: None,
        replication_ready: true,
        resume_from: None,
    }
}

/// The bytes of each subscription, where every person joins with what `request` makes of their number.
async fn bytes_each(row_security: bool, request: impl Fn(usize, &Arc<Identity>) -> JoinRequest) -> usize {
    let catalog = catalog(row_security);
    let (_snapshots, seen) = watch::channel(Arc::clone(&catalog));
    let (engine, _log) = Engine::start(EngineSettings::default(), Arc::new(Catalog(catalog)), seen, |_| {});
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
    let each = bytes_each(true, |_, identity| request(identity, "realtime:notes", "")).await;

    assert!(each <= OWN_BYTES_MAX, "{each} bytes for each subscription");
}

#[tokio::test]
async fn a_subscription_to_a_room_of_its_own_takes_little_more() {
    let room = |person, identity: &_| {
        let filter = format!(r#","filter":"owner=eq.{person}""#);
        request(identity, &format!("realtime:room-{person}"), &filter)
    };
    let each = bytes_each(false, room).await;
    assert!(each <= ROOM_BYTES_MAX, "{each} bytes for each subscription");
}
