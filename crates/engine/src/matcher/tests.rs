//! The matcher alone, with a catalog that the test plays.

mod refill;
mod resume;
mod snapshots;
mod visibility;
mod windows;

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use walcast_pgoutput::{Cell, RelationColumn, ReplicaIdentity, Tuple, Xid};
use walcast_policy::schema::{Privileges, Role, Table};
use walcast_policy::{
    Answers, CopyRequest, Datum, LoadedCopy, OracleError, Question, RowImage, RowsError, RowsRead,
    RowsRequest, TableCopy, TableRows, TransactionSnapshot,
};
use walcast_wire::{Binding, Frame, Position, Ref, Serializer, Status};

use super::*;
use crate::fixture::{self, TABLE};
use crate::ids::{SessionId, ShardId};
use crate::log_inbox::{LogSender, log_inbox};
use crate::membership::{self, Asked, Options};
use crate::subscription::resolve;
use crate::topic::{Privacy, ReadRights};
use crate::transaction::{Change, Changes, RowChange};

/// What the database says of itself, and of what it is asked.
#[derive(Default)]
struct Played {
    now: Mutex<Arc<Snapshot>>,
    refreshed: Mutex<VecDeque<Result<Arc<Snapshot>, OracleError>>>,
    /// The transactions that were waited for.
    seen: Mutex<Vec<Xid>>,
    constants: Mutex<VecDeque<Result<Vec<Option<String>>, OracleError>>>,
    decided: Mutex<VecDeque<Result<Decide, OracleError>>>,
    /// The rows of the table that policies look things up in.
    members: Mutex<Option<Vec<[&'static str; 2]>>>,
    /// What is read for snapshots.
    rows: Mutex<VecDeque<Result<RowsRead, RowsError>>>,
    /// Nothing is while this is held.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// What happened, in words: commits waited for, questions, readings of the catalog, positions confirmed.
    events: Arc<Mutex<Vec<String>>>,
}

/// An answer about one row.
type Decide = fn(&RowImage<'_>) -> Result<bool, OracleError>;

impl Played {
    fn event(&self, words: String) {
        self.events.lock().unwrap().push(words);
    }
}

const YES: Decide = |_| Ok(true);

fn value<'a>(row: &RowImage<'a>, column: usize) -> &'a str {
    match row.get(column) {
        Datum::Text(text) => text,
        Datum::Null => "NULL",
        Datum::Missing => "-",
    }
}

fn down() -> OracleError {
    OracleError::Unavailable("nobody answers".to_owned())
}

impl Oracle for Played {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.lock().unwrap())
    }

    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>> {
        let answer = self.refreshed.lock().unwrap().pop_front().expect("nothing more to refresh");
        self.event("refreshed".to_owned());
        if let Ok(snapshot) = &answer {
            *self.now.lock().unwrap() = Arc::clone(snapshot);
        }
        async { answer }.boxed()
    }

    fn visible<'a>(&'a self, transactions: &'a [Xid]) -> BoxFuture<'a, Result<(), OracleError>> {
        self.seen.lock().unwrap().extend(transactions);
        for transaction in transactions {
            self.event(format!("saw {}", transaction.0));
        }
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
        _role: &'a str,
        _claims: &'a str,
        _expressions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>> {
        let answer = self.constants.lock().unwrap().pop_front().expect("no more constants");
        async { answer }.boxed()
    }

    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        claims: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        let row = |row: &RowImage<'a>| format!("{}/{}", value(row, 0), value(row, 1));
        let rows: Vec<String> = question.rows.iter().map(row).collect();
        self.event(format!("asked {} for {} claims", rows.join(" "), claims.len()));
        let answer = self.decided.lock().unwrap().pop_front();
        let answer = answer.unwrap_or_else(|| panic!("{} needs no answer", question.expression));
        let answers =
            |decide: Decide| claims.iter().map(|_| question.rows.iter().map(decide).collect()).collect();
        let answer = answer.map(answers);
        async { answer }.boxed()
    }

    fn load(self: Arc<Self>, request: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        let mut rows = TableCopy::new(&request.table, &request.types, &request.columns);
        let members = self.members.lock().unwrap().take().expect("a copy is needed");
        for member in members {
            rows.insert(&member.map(Datum::Text));
        }
        let snapshot = TransactionSnapshot::parse("10:10:").unwrap();
        async { Ok(LoadedCopy { rows, snapshot, reached: Lsn::ZERO }) }.boxed()
    }

    fn rows(self: Arc<Self>, request: RowsRequest) -> BoxFuture<'static, Result<RowsRead, RowsError>> {
        let filters: Vec<_> = request.reads.iter().filter_map(|read| read.filter.as_deref()).collect();
        self.event(format!("read as {} where {}", request.role, filters.join("; ")));
        async move {
            let _reading = self.reading.lock().await;
            self.rows.lock().unwrap().pop_front().expect("nothing more to read")
        }
        .boxed()
    }
}

/// A catalog with the table, whose rows are visible where `using` holds.
fn snapshot(version: u64, columns: &[&str], using: &str) -> Arc<Snapshot> {
    fixture::snapshot(version, columns, Some(using))
}

/// The table as the log describes it.
fn relation(columns: &[&str]) -> Arc<Relation> {
    let column = |(index, name): (usize, &&str)| RelationColumn {
        name: (*name).to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        key: index == 0,
    };
    Arc::new(Relation {
        oid: TABLE,
        namespace: "public".to_owned(),
        name: "notes".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().enumerate().map(column).collect(),
    })
}

/// A transaction with one row in which every column says its own name.
fn transaction(commit_lsn: u64, columns: &[&str], ddl: bool) -> LogBatch {
    let new = Tuple::from_cells(columns.iter().map(|name| Cell::Text(name.as_bytes())));
    let change = Change { relation: relation(columns), row: RowChange::Insert { new } };
    with_changes(commit_lsn, ddl, vec![vec![change]])
}

fn with_changes(commit_lsn: u64, ddl: bool, chunks: Vec<Vec<Change>>) -> LogBatch {
    let mut changes = Changes::default();
    for chunk in chunks {
        changes.hold(Chunk { changes: chunk, bytes: 100 });
    }
    LogBatch::Transaction(Transaction {
        first: Position { commit_lsn: Lsn(commit_lsn), index: 0 },
        xid: Xid(u32::try_from(commit_lsn).unwrap()),
        commit_time: PgTimestamp(0),
        ddl,
        changes,
        end_lsn: Lsn(commit_lsn + 8),
    })
}

/// A running matcher, between a log and one shard that the test plays.
struct Scene {
    oracle: Arc<Played>,
    plans: Arc<PlanCache>,
    log: LogSender,
    subscribe: mpsc::Sender<Subscribing>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    commands: mpsc::Receiver<Command>,
    /// Rows that have been delivered together with those that [`Scene::told`] told of.
    delivered: VecDeque<String>,
    /// Up to where the clients that join are known to have got everything.
    resume_from: Option<Position>,
    unsubscribe: mpsc::UnboundedSender<Arc<Membership>>,
}

impl Scene {
    fn start(catalog: Arc<Snapshot>) -> Scene {
        let oracle = Arc::new(Played { now: Mutex::new(Arc::clone(&catalog)), ..Played::default() });
        let plans = Arc::new(PlanCache::default());
        let (commands, command_inbox) = mpsc::channel(16);
        let (peers, _) = mpsc::unbounded_channel();
        let events = Arc::clone(&oracle.events);
        let matcher = Matcher {
            settings: Arc::default(),
            counters: Arc::default(),
            oracle: Arc::clone(&oracle) as Arc<dyn Oracle>,
            plans: Arc::clone(&plans),
            shards: Arc::from([ShardHandle { commands, peers }]),
            tickets: Tickets::new(crate::settings::ResumeSettings::default(), Arc::default()),
            confirm: Box::new(move |lsn| events.lock().unwrap().push(format!("confirmed {}", lsn.0))),
        };
        let (log_sender, log) = log_inbox();
        let (subscribe_sender, subscribe) = mpsc::channel(16);
        let (unsubscribe_sender, unsubscribe) = mpsc::unbounded_channel();
        let (snapshot_sender, snapshots) = watch::channel(catalog);
        tokio::spawn(matcher.run(Inputs { log, subscribe, unsubscribe, snapshots }));
        Scene {
            oracle,
            plans,
            log: log_sender,
            subscribe: subscribe_sender,
            snapshots: snapshot_sender,
            commands: command_inbox,
            delivered: VecDeque::new(),
            resume_from: None,
            unsubscribe: unsubscribe_sender,
        }
    }

    /// Joins with a binding on the table, resolved against the catalog as the oracle has it now.
    async fn join(&self) {
        self.join_before(|_| {}).await;
    }

    /// The same; the catalog changes between the resolving and the registering.
    async fn join_before(&self, change: impl FnOnce(&Played)) {
        self.join_with(r#"{"event":"*","schema":"public","table":"notes"}"#, change).await;
    }

    /// The same with this binding.
    async fn join_with(&self, binding: &str, change: impl FnOnce(&Played)) -> Arc<Membership> {
        self.join_bindings(vec![Binding::parse(binding).unwrap()], change).await
    }

    /// A joined channel gets a token with these claims.
    async fn renew(&self, membership: &Arc<Membership>, claims: &serde_json::Value) {
        let identity = identity(claims);
        let snapshot_version = self.oracle.snapshot().version;
        let deletes = crate::settings::Deletes::Private;
        let bindings = membership.bindings();
        let resolved = resolve(&bindings, &identity, &*self.oracle, &self.plans, deletes).await;
        let subscribing = Subscribing {
            membership: Arc::clone(membership),
            identity,
            resolved: resolved.map_err(|error| error.to_string()),
            snapshot_version,
            resume: None,
            joining: None,
        };
        assert!(self.subscribe.send(subscribing).await.is_ok());
    }

    /// Joins with these bindings.
    async fn join_bindings(&self, bindings: Vec<Binding>, change: impl FnOnce(&Played)) -> Arc<Membership> {
        let identity = identity(&serde_json::json!({}));
        let resume = Resume::of(&bindings, self.resume_from);
        let snapshot_version = self.oracle.snapshot().version;
        let deletes = crate::settings::Deletes::Private;
        let resolved = resolve(&bindings, &identity, &*self.oracle, &self.plans, deletes).await;
        change(&self.oracle);
        let (form, values) = membership::Form::new(bindings, Privacy::Public, Options::default());
        let asked = Arc::new(Asked::new(Arc::new(form), "realtime:room", &Ref::NULL, &values));
        let (session, shard) = (SessionId::fresh(), ShardId::new(0));
        let membership = Arc::new(Membership::new(session, shard, Serializer::V2, asked));
        let joining = Joining {
            membership: Arc::clone(&membership),
            reference: Ref::null(),
            response: "{}".to_owned(),
            identity: Arc::clone(&identity),
            rights: ReadRights::ALL,
            replayed: None,
            presence_key: None,
            presence_enabled: false,
            system: Vec::new(),
            joined: None,
            claim: None,
        };
        let subscribing = Subscribing {
            membership: Arc::clone(&membership),
            identity,
            resolved: resolved.map_err(|error| error.to_string()),
            snapshot_version,
            resume,
            joining: Some(Box::new(joining)),
        };
        assert!(self.subscribe.send(subscribing).await.is_ok());
        membership
    }

    /// Waits until the log has been handed on up to here.
    async fn confirmed(&self, lsn: u64) {
        let words = format!("confirmed {lsn}");
        while !self.oracle.events.lock().unwrap().contains(&words) {
            tokio::task::yield_now().await;
        }
    }

    /// The texts of the frames that a channel which is behind is sent, until it is told its position.
    async fn fed(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            let frames: Vec<Frame> = match self.commands.recv().await.expect("the matcher runs") {
                Command::Feed(feed) => {
                    let _ = feed.room.send(());
                    feed.frames.into()
                }
                Command::Deliver(batch) => {
                    let frame = |item: FromLog| match item {
                        FromLog::Change(delivery) => Some(delivery.frame),
                        FromLog::Message(_) => None,
                    };
                    batch.items.into_iter().filter_map(frame).collect()
                }
                Command::System(message) if message.extension == "resume" => return texts,
                _ => panic!("the matcher says no such thing"),
            };
            texts.extend(frames.iter().map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()));
        }
    }

    /// The next thing that the shard is told, in words.
    async fn told(&mut self) -> String {
        if let Some(row) = self.delivered.pop_front() {
            return row;
        }
        match self.commands.recv().await.expect("the matcher runs") {
            Command::Join(joining) => {
                joining.system.iter().map(|(_, _, text)| text.clone()).collect::<Vec<_>>().join("; ")
            }
            Command::System(message) => {
                let status = if message.status == Status::Ok { "ok" } else { "error" };
                format!("{status}: {}", message.message)
            }
            Command::CaughtUp(_) => Box::pin(self.told()).await,
            Command::Feed(feed) => {
                self.delivered.extend(feed.frames.iter().map(row_of));
                let _ = feed.room.send(());
                Box::pin(self.told()).await
            }
            Command::Deliver(batch) => {
                self.delivered.extend(batch.items.iter().map(|item| match item {
                    FromLog::Change(delivery) => row_of(&delivery.frame),
                    FromLog::Message(fanout) => {
                        let frame = fanout.frame(Serializer::V1).expect("a frame");
                        String::from_utf8_lossy(&frame.payload()).into_owned()
                    }
                }));
                self.delivered.pop_front().expect("a delivery")
            }
            _ => panic!("the matcher says no such thing"),
        }
    }
}

fn identity(claims: &serde_json::Value) -> Arc<Identity> {
    let claims_json = claims.to_string().into();
    Arc::new(Identity { role: "reader".into(), claims: Arc::new(claims.clone()), claims_json })
}

/// The rows of a change and what follows them.
fn row_of(frame: &Frame) -> String {
    let text = String::from_utf8_lossy(frame.bytes()).into_owned();
    let record = text.find("\"record\"").or_else(|| text.find("\"old_record\""));
    text[record.expect("a row")..].to_owned()
}

const SUBSCRIBED_WITH_NOTICE: &str = "Subscribed to PostgreSQL; DELETE on";

#[tokio::test(start_paused = true)]
async fn rows_of_a_transaction_with_ddl_wait_until_the_catalog_can_be_read() {
    let columns = ["id", "body"];
    let mut scene = Scene::start(snapshot(1, &columns, "true"));
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    let hidden = snapshot(2, &columns, "false");
    let shown = snapshot(3, &columns, "true");
    scene.oracle.refreshed.lock().unwrap().extend([Err(down()), Err(down()), Ok(hidden), Ok(shown)]);
    assert!(scene.log.send(transaction(100, &columns, true)).await);
    assert!(scene.log.send(transaction(200, &["id", "body"], true)).await);
    assert_eq!(scene.told().await, r#""record":{"id":"id","body":"body"},"errors":null}}]"#);
    assert!(
        scene.oracle.refreshed.lock().unwrap().is_empty(),
        "the first row was judged by the second state"
    );
    assert_eq!(*scene.oracle.seen.lock().unwrap(), [Xid(100), Xid(200)], "each was waited for, once");
    assert!(scene.commands.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_join_that_knows_a_newer_catalog_than_the_matcher_is_matched_with_that_one() {
    let mut scene = Scene::start(snapshot(1, &["id", "gone", "body"], "true"));
    // The catalog has been read again, and the news of it has not arrived.
    *scene.oracle.now.lock().unwrap() = snapshot(2, &["id", "body"], "(body = 'body'::text)");
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    assert!(scene.log.send(transaction(100, &["id", "body"], false)).await);
    assert_eq!(scene.told().await, r#""record":{"id":"id","body":"body"},"errors":null}}]"#);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_an_older_catalog_is_tried_again_at_once() {
    let newer = snapshot(2, &["id", "body"], "true");
    let without_tables = Snapshot { version: 1, tables: FxHashMap::default(), ..(*newer).clone() };
    let mut scene = Scene::start(Arc::new(without_tables));
    scene.join_before(|oracle| *oracle.now.lock().unwrap() = newer).await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
}

#[tokio::test(start_paused = true)]
async fn what_the_database_could_not_be_asked_about_is_asked_again() {
    let columns = ["id", "body"];
    let mut scene = Scene::start(snapshot(1, &columns, "true"));
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    let asking = snapshot(2, &columns, "(body = current_setting('app.body'::text, true))");
    *scene.oracle.now.lock().unwrap() = Arc::clone(&asking);
    let answer = Ok(vec![Some("body".to_owned())]);
    scene.oracle.constants.lock().unwrap().extend([Err(down()), Err(down()), answer]);
    assert!(scene.snapshots.send(asking).is_ok());
    assert_eq!(scene.told().await, "error: Realtime was unable to connect to the project database");
    assert_eq!(scene.told().await, "ok: Subscribed to PostgreSQL");
    assert!(scene.log.send(transaction(100, &columns, false)).await);
    assert_eq!(scene.told().await, r#""record":{"id":"id","body":"body"},"errors":null}}]"#);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_only_the_database_can_judge_waits_while_it_is_away() {
    let columns = ["id", "body"];
    let members = "(EXISTS ( SELECT 1 FROM public.members WHERE (members.body = notes.body)))";
    let mut scene = Scene::start(snapshot(1, &columns, members));
    scene.join().await;
    assert!(scene.told().await.starts_with(SUBSCRIBED_WITH_NOTICE));
    let away = || Err(OracleError::Disconnected("it restarts".to_owned()));
    scene.oracle.decided.lock().unwrap().extend([away(), away(), Ok(YES), Err(down()), Ok(YES)]);
    let row = r#""record":{"id":"id","body":"body"},"errors":null}}]"#;
    assert!(scene.log.send(transaction(100, &columns, false)).await);
    assert_eq!(scene.told().await, row, "the first waited");
    // Not in one window with the next.
    assert!(scene.log.send(transaction(200, &columns, false)).await);
    scene.confirmed(208).await;
    assert!(scene.log.send(transaction(300, &columns, false)).await);
    assert_eq!(scene.told().await, row, "the second took too long and was withheld; this is the third");
    assert!(scene.oracle.decided.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_filter_holds_for_the_same_column_after_the_columns_have_moved() {
    let mut scene = Scene::start(snapshot(1, &["id", "kind", "body"], "true"));
    let binding = r#"{"event":"*","schema":"public","table":"notes","filter":"body=eq.body"}"#;
    scene.join_with(binding, |_| {}).await;
    assert!(scene.told().await.starts_with("Subscribed to PostgreSQL"));
    scene.oracle.refreshed.lock().unwrap().push_back(Ok(snapshot(2, &["id", "body"], "true")));
    assert!(scene.log.send(transaction(100, &["id", "body"], true)).await);
    assert_eq!(scene.told().await, r#""record":{"id":"id","body":"body"},"errors":null}}]"#);
}
