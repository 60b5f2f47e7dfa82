//! A shard alone, with a socket that records.

use std::time::Duration;

use bytes::Bytes;
use walcast_wire::{Binding, Encoding, sub_topic};

use super::*;
use crate::broadcast::{fanout_of, user_fanout};
use crate::command::Joining;
use crate::command::{BroadcastPayload, Push, PushKind};
use crate::membership::{Asked, Form, Membership, Options};
use crate::recorder::Recorder;
use crate::relief::{BroadcastRules, Relief};
use crate::subscription::Identity;
use crate::topic::ReadRights;

const TOPIC: &str = "realtime:room";

pub(super) fn public_topic() -> TopicKey {
    TopicKey::new(TOPIC.into(), Privacy::Public)
}

/// The only shard there is, and what comes to it.
fn only(
    counters: Arc<Counters>,
) -> (Shard, ShardHandle, mpsc::Receiver<Command>, mpsc::UnboundedReceiver<PeerCommand>) {
    let (commands, command_inbox) = mpsc::channel(16);
    let (peers, peer_inbox) = mpsc::unbounded_channel();
    let (unsubscribe, _) = mpsc::unbounded_channel();
    let handle = ShardHandle { commands, peers };
    let shards = Arc::from([handle.clone()]);
    let settings = Arc::new(EngineSettings::default());
    let rates = Arc::new(Rates::new(&settings));
    let tickets = Tickets::new(settings.resume.clone(), counters);
    let shard = Shard::new(ShardId::new(0), settings, Arc::default(), rates, tickets, shards, unsubscribe);
    (shard, handle, command_inbox, peer_inbox)
}

/// One that does what it is told directly.
pub(super) fn alone() -> Shard {
    only(Arc::default()).0
}

/// One that runs.
fn running() -> ShardHandle {
    running_with(Arc::default())
}

fn running_with(counters: Arc<Counters>) -> ShardHandle {
    let (shard, handle, command_inbox, peer_inbox) = only(counters);
    tokio::spawn(shard.run(command_inbox, peer_inbox));
    handle
}

/// A session with one channel, and what it is sent.
async fn member(shard: &ShardHandle) -> (SessionId, mpsc::UnboundedReceiver<Vec<u8>>) {
    member_with(shard, Vec::new(), Options::default()).await
}

async fn member_with(
    shard: &ShardHandle,
    bindings: Vec<Binding>,
    options: Options,
) -> (SessionId, mpsc::UnboundedReceiver<Vec<u8>>) {
    assert!(sub_topic(TOPIC).is_some());
    let session = SessionId::fresh();
    let (recorder, mut written) = mpsc::unbounded_channel();
    let socket = Arc::new(Recorder(recorder));
    let open = Command::Open { session, socket, serializer: Serializer::V2, subject: None };
    let (form, values) = Form::new(bindings, Privacy::Public, options);
    let asked = Asked::new(Arc::new(form), TOPIC, &Ref::NULL, &values);
    let join = Command::Join(Box::new(Joining {
        membership: Arc::new(Membership::new(session, ShardId::new(0), Serializer::V2, Arc::new(asked))),
        reference: Ref::null(),
        response: "{}".to_owned(),
        identity: Arc::new(Identity { role: "r".into(), claims: Arc::default(), claims_json: "{}".into() }),
        rights: ReadRights::ALL,
        replayed: None,
        presence_key: None,
        presence_enabled: false,
        system: Vec::new(),
        joined: None,
        claim: None,
    }));
    for command in [open, join] {
        assert!(shard.commands.send(command).await.is_ok());
    }
    let reply = written.recv().await.expect("a reply");
    assert!(String::from_utf8_lossy(&reply).contains("phx_reply"));
    (session, written)
}

#[tokio::test]
async fn a_flood_from_another_shard_does_not_keep_this_ones_own_sessions_waiting() {
    let shard = running();
    let (session, mut written) = member(&shard).await;
    // The runtime has one thread: the shard sees nothing of this before all of it is there.
    let turns = 10;
    for _ in 0..turns * COMMANDS_PER_TURN {
        let fanout =
            fanout_of(public_topic(), &BroadcastPayload::Text("{}".into()), None, &BroadcastRules::default());
        assert!(shard.peers.send(PeerCommand::Broadcast(Arc::new(fanout), None)).is_ok());
    }
    let heartbeat = Command::Write(session, Bytes::from_static(b"<answer>"));
    assert!(shard.commands.try_send(heartbeat).is_ok());
    let mut text = String::new();
    while !text.contains("<answer>") {
        text.push_str(&String::from_utf8_lossy(&written.recv().await.expect("more")));
    }
    let before = text.split("<answer>").next().map_or(0, |before| before.matches("broadcast").count());
    assert!(before <= COMMANDS_PER_TURN, "{before} broadcasts went first");
}

/// A client's broadcast whose payload is a mark.
fn broadcast(sender: SessionId, mark: &str) -> Command {
    Command::Push(Push {
        session: sender,
        topic: TOPIC.into(),
        join_ref: Ref::null(),
        reference: Ref::null(),
        kind: PushKind::Broadcast(BroadcastPayload::Text(format!(r#"{{"event":"{mark}"}}"#).into())),
    })
}

/// A message whose payload is a mark, and which has outlived its time.
fn late(mark: &str) -> Command {
    let mut rules = BroadcastRules::default();
    rules.of_event_mut(mark).ttl = Some(Duration::from_millis(1));
    let message = (mark, Encoding::Json, b"{}".as_slice());
    let relief = Relief::of_message(&rules, &public_topic(), message, || Duration::from_secs(1));
    assert!(relief.is_some());
    Command::Publish(Arc::new(user_fanout(public_topic(), mark, None, Encoding::Json, b"{}", relief)))
}

/// The marks in what a session was sent up to its heartbeat's answer, in order.
async fn marks(written: &mut mpsc::UnboundedReceiver<Vec<u8>>) -> String {
    let mut text = String::new();
    while !text.contains("<answer>") {
        text.push_str(&String::from_utf8_lossy(&written.recv().await.expect("more")));
    }
    let marks = text.split("<mark ").skip(1).filter_map(|rest| rest.split('>').next());
    marks.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn broadcasts_of_one_turn_come_in_order_with_what_lies_between_them_and_nobody_gets_their_own() {
    let shard = running();
    let mut members = Vec::new();
    for _ in 0..6 {
        members.push(member(&shard).await);
    }
    let ids: Vec<SessionId> = members.iter().map(|(session, _)| *session).collect();
    // One turn sees all of this: the runtime has one thread.
    let text = |mark| Command::Write(ids[2], Bytes::from_static(mark));
    let of = |sender: usize, mark| broadcast(ids[sender], mark);
    let commands = [
        of(0, "<mark a>"),
        of(0, "<mark b>"),
        late("<mark late>"),
        of(1, "<mark c>"),
        text(b"<mark between>"),
        of(1, "<mark d>"),
        Command::Gone(ids[5], crate::command::Departure::Closed),
        of(0, "<mark e>"),
        of(2, "<mark f>"),
    ];
    for command in commands {
        assert!(shard.commands.try_send(command).is_ok());
    }
    for session in &ids[..5] {
        let heartbeat = Command::Write(*session, Bytes::from_static(b"<answer>"));
        assert!(shard.commands.try_send(heartbeat).is_ok());
    }
    let expected = ["c d f", "a b e f", "a b c between d e", "a b c d e f", "a b c d e f"];
    for ((_, written), expected) in members.iter_mut().zip(expected) {
        assert_eq!(marks(written).await, expected);
    }
}

#[tokio::test]
async fn a_socket_that_is_lost_leaves_a_ticket_unless_its_client_keeps_positions_itself() {
    let counters = Arc::new(Counters::default());
    let shard = running_with(Arc::clone(&counters));
    for (keeps_positions, tickets) in [(true, 0), (false, 1)] {
        let binding = Binding::parse(r#"{"event":"*","schema":"public"}"#).unwrap();
        let options = Options { keeps_positions, ..Options::default() };
        let (session, mut written) = member_with(&shard, vec![binding], options).await;
        assert!(shard.commands.send(Command::LeaveTickets(session, 5)).await.is_ok());
        let heartbeat = Command::Write(session, Bytes::from_static(b"<answer>"));
        assert!(shard.commands.send(heartbeat).await.is_ok());
        marks(&mut written).await;
        assert_eq!(counters.tickets_left.load(std::sync::atomic::Ordering::Relaxed), tickets);
    }
}
