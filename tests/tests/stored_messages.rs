//! Rows of `realtime.messages` as broadcasts, from a real log: docs/protocol.md §6.5.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::{World, person};

const ROOM: &str = "realtime:room";

/// The table as it is installed, with one partition for all days, and a table of the user's own.
const TABLES: &str = "
    CREATE SCHEMA realtime;
    CREATE TABLE realtime.messages (
        topic text NOT NULL, extension text NOT NULL, payload jsonb, event text, private boolean DEFAULT false,
        updated_at timestamp NOT NULL DEFAULT now(), inserted_at timestamp NOT NULL DEFAULT now(),
        id uuid NOT NULL DEFAULT gen_random_uuid(), binary_payload bytea, PRIMARY KEY (id, inserted_at)
    ) PARTITION BY RANGE (inserted_at);
    CREATE TABLE realtime.messages_2026_11_27 PARTITION OF realtime.messages
        FOR VALUES FROM ('2026-11-27') TO ('2026-11-28');
    CREATE TABLE realtime.messages_default PARTITION OF realtime.messages DEFAULT;
    CREATE TABLE public.notes (id int PRIMARY KEY, body text);
    GRANT SELECT ON public.notes TO authenticated;
    CREATE PUBLICATION supabase_realtime FOR TABLE public.notes;
";
/// As walcast publishes the table.
const BY_ROOT: &str = "CREATE PUBLICATION messages FOR TABLE realtime.messages WITH (publish = 'insert', publish_via_partition_root)";
/// As Supabase Realtime does.
const BY_LEAF: &str = "CREATE PUBLICATION messages FOR TABLE realtime.messages";

fn published(settings: &mut ServeSettings) {
    settings.project.replication.publications = vec!["supabase_realtime".to_owned(), "messages".to_owned()];
}

async fn world(name: &str, publication: &str) -> Result<World> {
    World::with_settings(name, &format!("{TABLES}{publication};"), published).await
}

async fn member(world: &World, version: ProtocolVersion) -> Result<ProtocolClient> {
    let mut client = world.connect_as(&person("ana"), version).await?;
    ensure!(client.join(ROOM, &json!({ "config": {} })).await?.is_ok());
    Ok(client)
}

async fn broadcast(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(|message| message.event == "broadcast").await
}

/// The parts of a binary frame of kind 4: encoding, event, metadata, payload.
fn parts(message: &Received) -> Result<(u8, String, Value, Vec<u8>)> {
    let RawFrame::Binary(bytes) = &message.raw else { anyhow::bail!("{message:?} is no binary frame") };
    ensure!(bytes[0] == 4, "{bytes:?}");
    let [topic, event, metadata] = [bytes[1], bytes[2], bytes[3]].map(usize::from);
    let rest = &bytes[5 + topic..];
    let text = |part: &[u8]| String::from_utf8(part.to_vec());
    let metadata_text = &rest[event..event + metadata];
    let payload = rest[event + metadata..].to_vec();
    Ok((bytes[4], text(&rest[..event])?, serde_json::from_slice(metadata_text)?, payload))
}

// Cases 136, 137, 138.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_broadcast_when_it_commits_under_whichever_publication() -> Result<()> {
    for (name, publication) in [("stored_root", BY_ROOT), ("stored_leaf", BY_LEAF)] {
        let world = world(name, publication).await?;
        let (mut new, mut old) =
            (member(&world, ProtocolVersion::V2).await?, member(&world, ProtocolVersion::V1).await?);
        world
            .sql(
                "BEGIN;
                 INSERT INTO realtime.messages (topic, extension, event, payload) VALUES ('room', 'broadcast', 'never', '{}');
                 ROLLBACK;
                 INSERT INTO realtime.messages (topic, extension, event, payload, private, id, inserted_at) VALUES
                     ('room', 'broadcast', 'hidden', '{}', true, gen_random_uuid(), now()),
                     ('room', 'whatever', 'json', '{\"n\": 1}', false, '7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c', '2026-11-27 12:00');
                 INSERT INTO realtime.messages (topic, extension, event, binary_payload)
                     VALUES ('room', 'broadcast', 'bytes', '\\x00ff');
                 INSERT INTO realtime.messages (topic, extension, event, payload)
                     VALUES ('room', 'broadcast', 'last', '[]');",
            )
            .await?;
        let id = json!({ "id": "7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c" });
        let json_row = parts(&broadcast(&mut new).await?)?;
        assert_eq!(json_row, (1, "json".to_owned(), id.clone(), b"{\"n\": 1}".to_vec()), "{publication}");
        let (encoding, event, metadata, payload) = parts(&broadcast(&mut new).await?)?;
        assert_eq!((encoding, event.as_str(), payload), (0, "bytes", vec![0, 0xFF]));
        assert_eq!(metadata["id"].as_str().map(str::len), Some(36));
        assert_eq!(parts(&broadcast(&mut new).await?)?.1, "last");
        let expected = json!({ "event": "json", "payload": { "n": 1 }, "type": "broadcast", "meta": id });
        assert_eq!(broadcast(&mut old).await?.payload, expected);
        assert_eq!(broadcast(&mut old).await?.payload["event"], "last", "no bytes for the old serializer");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_row_changes_of_a_transaction_come_in_its_order() -> Result<()> {
    let world = world("stored_order", BY_ROOT).await?;
    let mut client = world.connect(&person("ana")).await?;
    let notes = [json!({ "event": "INSERT", "schema": "public", "table": "notes" })];
    client.join_changes(ROOM, &notes).await?;
    world
        .sql(
            "BEGIN;
             INSERT INTO notes VALUES (1, 'first');
             INSERT INTO realtime.messages (topic, extension, event, payload) VALUES ('room', 'broadcast', 'second', '{}');
             INSERT INTO notes VALUES (3, 'third');
             INSERT INTO realtime.messages (topic, extension, event, payload) VALUES ('room', 'broadcast', 'fourth', '{}');
             COMMIT;",
        )
        .await?;
    let mut found = Vec::new();
    for _ in 0..4 {
        let message =
            client.expect(|message| ["broadcast", "postgres_changes"].contains(&&*message.event)).await?;
        found.push(match message.change() {
            Some(change) => change["record"]["body"].as_str().context("a body")?.to_owned(),
            None => parts(&message)?.1,
        });
    }
    assert_eq!(found, ["first", "second", "third", "fourth"]);
    Ok(())
}

// Case 272.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_can_not_be_broadcast_are_passed_over_and_the_stream_goes_on() -> Result<()> {
    let small = |settings: &mut ServeSettings| {
        published(settings);
        settings.project.engine.payload_bytes_max = 1_000;
    };
    let world = World::with_settings("stored_skipped", &format!("{TABLES}{BY_ROOT};"), small).await?;
    let mut client = member(&world, ProtocolVersion::V1).await?;
    world
        .sql(
            "INSERT INTO realtime.messages (topic, extension, event, payload) VALUES
                 ('room', 'broadcast', NULL, '{}'),
                 ('room', 'broadcast', 'empty', NULL),
                 ('room', 'broadcast', 'large', to_jsonb(repeat('x', 2000))),
                 ('room', 'broadcast', 'good', '{}')",
        )
        .await?;
    assert_eq!(broadcast(&mut client).await?.payload["event"], "good");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_can_be_followed_like_any_other_where_it_is_published() -> Result<()> {
    let sql = format!(
        "{TABLES}{BY_ROOT};
         ALTER PUBLICATION supabase_realtime ADD TABLE realtime.messages;
         ALTER PUBLICATION supabase_realtime SET (publish_via_partition_root);
         GRANT USAGE ON SCHEMA realtime TO authenticated;
         GRANT SELECT ON realtime.messages TO authenticated;"
    );
    let world = World::with_settings("stored_followed", &sql, published).await?;
    let mut client = world.connect(&person("ana")).await?;
    let binding = [json!({ "event": "INSERT", "schema": "realtime", "table": "messages" })];
    client.join_changes(ROOM, &binding).await?;
    world
        .sql("INSERT INTO realtime.messages (topic, extension, event, payload) VALUES ('room', 'broadcast', 'e', '{}')")
        .await?;
    let change = client.expect(|message| message.event == "postgres_changes").await?;
    assert_eq!(change.change().context("a change")?["record"]["event"], "e");
    assert_eq!(parts(&broadcast(&mut client).await?)?.1, "e");
    Ok(())
}
