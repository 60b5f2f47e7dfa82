//! Published broadcasts, and broadcasts from the database.

use walcast_pgoutput::encode::encode;
use walcast_pgoutput::{
    Cell, Decoded, Message, Oid, PgTimestamp, Relation, RelationColumn, ReplicaIdentity, Tuple,
};

use super::*;
use crate::ingest::{Ingest, LogEvent};

const ID: &str = "7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c";
const COLUMNS: [&str; 8] =
    ["topic", "extension", "payload", "event", "private", "inserted_at", "id", "binary_payload"];

/// A row of `realtime.messages`.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) topic: &'static str,
    pub(super) private: bool,
    pub(super) event: Option<&'static str>,
    pub(super) payload: Option<&'static str>,
    pub(super) binary: Option<&'static str>,
    pub(super) id: &'static str,
}

pub(super) const ROW: Row =
    Row { topic: "room", private: true, event: Some("e"), payload: Some("{}"), binary: None, id: ID };

impl Scene {
    /// Commits rows in one transaction.
    pub(super) async fn commit(&self, lsn: u64, rows: &[Row]) {
        self.commit_to("messages", lsn, rows).await;
    }

    async fn commit_to(&self, table: &str, lsn: u64, rows: &[Row]) {
        let column = |name: &&str| RelationColumn {
            name: (*name).to_owned(),
            type_oid: Oid(25),
            type_modifier: -1,
            key: false,
        };
        let relation = Relation {
            oid: Oid(700),
            namespace: "realtime".to_owned(),
            name: table.to_owned(),
            identity: ReplicaIdentity::Default,
            columns: COLUMNS.iter().map(column).collect(),
        };
        let commit_time = PgTimestamp(0);
        let mut messages = vec![
            Message::Begin { final_lsn: Lsn(lsn), commit_time, xid: Xid(1) },
            Message::Relation(relation),
        ];
        for row in rows {
            let text =
                |text: Option<&'static str>| text.map_or(Cell::Null, |text| Cell::Text(text.as_bytes()));
            let private = if row.private { "t" } else { "f" };
            let cells = [
                text(Some(row.topic)),
                text(Some("broadcast")),
                text(row.payload),
                text(row.event),
                text(Some(private)),
                text(Some("2026-11-27 00:00:00")),
                text(Some(row.id)),
                text(row.binary),
            ];
            messages.push(Message::Insert { relation: Oid(700), new: Tuple::from_cells(cells) });
        }
        messages.push(Message::Commit { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 1), commit_time });
        let mut ingest = Ingest::default();
        for message in messages {
            let bytes = encode(&Decoded { xid: None, message }, 1);
            if let Some(batch) = ingest.feed(LogEvent::Data(bytes)).await.unwrap() {
                assert!(self.log.send(batch).await);
            }
        }
    }
}

async fn listener(scene: &Scene, serializer: Serializer, join: Join) -> Client {
    let mut client = scene.connect_as(serializer, None).await;
    client.join(join).await.unwrap();
    client
}

#[tokio::test]
async fn a_row_reaches_the_members_of_its_topic_and_kind_with_its_id() {
    let scene = Scene::start();
    let mut open = listener(&scene, Serializer::V2, public(ROOM)).await;
    let mut secret = listener(&scene, Serializer::V2, private(ROOM)).await;
    let mut old = listener(&scene, Serializer::V1, private(ROOM)).await;
    let rows = [
        ROW,
        Row { payload: None, binary: Some("\\x00ff"), ..ROW },
        Row { private: false, event: Some("open"), ..ROW },
        Row { event: Some("last"), ..ROW },
    ];
    scene.commit(100, &rows).await;
    let metadata = format!(r#"{{"id":"{ID}"}}"#);
    let frame = |encoding, event: &str, payload: &[u8]| {
        let header = [4, 13, u8::try_from(event.len()).unwrap(), 45, encoding];
        let text = format!("{ROOM}{event}{metadata}");
        Received::Binary([&header[..], text.as_bytes(), payload].concat())
    };
    assert_eq!(secret.next().await, frame(1, "e", b"{}"));
    assert_eq!(secret.next().await, frame(0, "e", &[0, 0xFF]));
    assert_eq!(secret.next().await, frame(1, "last", b"{}"));
    assert_eq!(open.next().await, frame(1, "open", b"{}"));
    let expected = json!({ "event": "e", "payload": {}, "type": "broadcast", "meta": { "id": ID } });
    assert_eq!(*old.next().await.payload(), expected);
    assert_eq!(old.next().await.payload()["event"], "last", "nothing of the bytes");
    let counters = scene.engine.counters();
    assert_eq!(counters.database_broadcasts.load(Ordering::Relaxed), 4);
    assert!(counters.commit_to_write.counts().iter().sum::<u64>() >= 1);
}

#[tokio::test]
async fn rows_of_a_partition_are_messages_and_rows_of_another_table_are_not() {
    let scene = Scene::start();
    let mut member = listener(&scene, Serializer::V1, private(ROOM)).await;
    for (lsn, table) in [(100, "messages_archive"), (200, "messages_2026_11_27"), (300, "messages_default")] {
        scene.commit_to(table, lsn, &[Row { event: Some(table.to_owned().leak()), ..ROW }]).await;
    }
    assert_eq!(member.next().await.payload()["event"], "messages_2026_11_27");
    assert_eq!(member.next().await.payload()["event"], "messages_default");
}

#[tokio::test]
async fn a_row_that_can_not_be_broadcast_is_counted_and_the_rest_goes_on() {
    let scene = Scene::with(EngineSettings { payload_bytes_max: 30, ..EngineSettings::default() });
    let mut member = listener(&scene, Serializer::V1, private(ROOM)).await;
    let rows = [
        Row { event: None, ..ROW },
        Row { payload: None, ..ROW },
        Row { payload: Some("\"0123456789012345678901234567890123456789\""), ..ROW },
        Row { event: Some("good"), ..ROW },
    ];
    scene.commit(100, &rows).await;
    assert_eq!(member.next().await.payload()["event"], "good");
    assert_eq!(scene.engine.counters().skipped_messages.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_transaction_that_the_log_brings_again_is_not_sent_twice() {
    let scene = Scene::start();
    let mut member = listener(&scene, Serializer::V1, private(ROOM)).await;
    for (lsn, event) in [(100, "one"), (100, "one"), (200, "two")] {
        scene.commit(lsn, &[Row { event: Some(event), ..ROW }]).await;
    }
    assert_eq!(member.next().await.payload()["event"], "one");
    assert_eq!(member.next().await.payload()["event"], "two");
}

#[tokio::test]
async fn many_messages_of_one_transaction_arrive_whole_and_in_order() {
    const COUNT: usize = 3_000;
    let scene = Scene::start();
    let mut member = listener(&scene, Serializer::V1, private(ROOM)).await;
    let large: &'static str = format!("\"{}\"", "x".repeat(4_000)).leak();
    let row = |number: usize| Row { event: Some(number.to_string().leak()), payload: Some(large), ..ROW };
    scene.commit(100, &(0..COUNT).map(row).collect::<Vec<_>>()).await;
    for number in 0..COUNT {
        assert_eq!(member.next().await.payload()["event"], number.to_string());
    }
}

#[tokio::test]
async fn what_is_published_in_one_turn_leaves_with_one_system_call_for_each_socket() {
    const MESSAGES: usize = 3;
    for members in [1, 10] {
        let scene = Scene::start();
        let mut clients = Vec::new();
        for _ in 0..members {
            clients.push(scene.member().await);
        }
        for _ in 0..MESSAGES {
            let payload = BroadcastPayload::Text(r#"{"event":"e"}"#.into());
            scene.engine.publish(ROOM.into(), Privacy::Public, payload, None).await;
        }
        for client in &mut clients {
            client.next().await;
            assert_eq!(client.frames.len(), MESSAGES - 1, "{members} members");
        }
    }
}

#[tokio::test]
async fn what_is_published_goes_to_everybody_on_its_topic_in_every_form() {
    let scene = Scene::start();
    let mut new = listener(&scene, Serializer::V2, public(ROOM)).await;
    let mut old = listener(&scene, Serializer::V1, public(ROOM)).await;
    let publish = async |payload, id: Option<&str>| {
        scene.engine.publish(ROOM.into(), Privacy::Public, payload, id.map(Arc::from)).await;
    };
    publish(user("e", Encoding::Json, b"[1]"), None).await;
    publish(user("e", Encoding::Binary, &[0xFF]), None).await;
    let whole = r#"{"event":"e","payload":{},"type":"broadcast"}"#;
    publish(BroadcastPayload::Text(whole.into()), Some("mine")).await;
    assert_eq!(new.next().await, Received::Binary(b"\x04\x0d\x01\x00\x01realtime:roome[1]".to_vec()));
    assert_eq!(new.next().await, Received::Binary(b"\x04\x0d\x01\x00\x00realtime:roome\xff".to_vec()));
    let with_id = json!({ "event": "e", "payload": {}, "type": "broadcast", "meta": { "id": "mine" } });
    assert_eq!(*new.next().await.payload(), with_id);
    assert_eq!(*old.next().await.payload(), json!({ "event": "e", "payload": [1], "type": "broadcast" }));
    assert_eq!(*old.next().await.payload(), with_id);
    assert_eq!(scene.engine.counters().published_broadcasts.load(Ordering::Relaxed), 3);
    assert_eq!(scene.engine.payload_bytes_max(), 3_000_500);
}
