//! Nothing is lost on the way back: positions (docs/protocol.md §4.1, §5.7).

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::watching::{Watcher, watched};
use walcast_tests::{World, person};
use walcast_wire::Position;

const NOTES: &str = "
    create table notes (id int primary key, room text not null default 'a', body text);
    grant select on notes to authenticated;
    create publication supabase_realtime for table notes;
";

/// A binding for the table of notes that asks for positions.
fn resumable() -> Value {
    json!({ "event": "*", "schema": "public", "table": "notes", "resume": true })
}

/// The next message about resuming on a topic: its status and its text.
async fn resume_message(client: &mut ProtocolClient, topic: &str) -> Result<(String, String)> {
    let message =
        client.expect(|message| message.topic == topic && message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    Ok((status.to_owned(), text.to_owned()))
}

/// The position from which on a channel that has just joined gets everything.
async fn joined_at(client: &mut ProtocolClient, topic: &str) -> Result<Position> {
    let (status, text) = resume_message(client, topic).await?;
    ensure!(status == "ok", "{text}");
    Ok(text.strip_prefix("position ").with_context(|| text.clone())?.parse()?)
}

fn position(data: &Value) -> Result<Position> {
    Ok(data["position"].as_str().with_context(|| format!("no position in {data}"))?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_in_the_moment_of_subscribed_arrives_a_thousand_times() -> Result<()> {
    const SOCKETS: usize = 10;
    const JOINS: usize = 100;
    let world = World::with_settings("resume_moment", NOTES, |settings| {
        settings.project.limits.max_joins_per_second = u32::MAX;
    })
    .await?;
    let world = Arc::new(world);
    let joins = async |world: Arc<World>, socket: usize| {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        for join in 0..JOINS {
            let (id, topic) = (socket * JOINS + join, format!("realtime:{join}"));
            let mut binding = resumable();
            binding["filter"] = format!("id=eq.{id}").into();
            client.join_changes(&topic, &[binding]).await?;
            world.client.execute(&format!("insert into notes values ({id})"), &[]).await?;
            let change = client.expect(|message| message.is(&topic, "postgres_changes")).await?;
            let data = &change.payload["data"];
            ensure!(data["record"]["id"] == id, "{data}");
            let joined = joined_at(&mut client, &topic).await?;
            ensure!(joined < position(data)?, "joined at {joined}, and then came {data}");
            client.leave(&topic).await?;
        }
        anyhow::Ok(())
    };
    let mut sockets = JoinSet::new();
    for socket in 0..SOCKETS {
        sockets.spawn(joins(Arc::clone(&world), socket));
    }
    sockets.join_all().await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_says_where_it_stands_and_everybody_is_told_the_same() -> Result<()> {
    let world = watched("resume_positions", NOTES).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let joined = joined_at(&mut ana.client, &ana.topic).await?;
    let client = world.connect_as(&person("bruno"), ProtocolVersion::V1).await?;
    let mut bruno = Watcher::join_on(client, "realtime:other", &[resumable()]).await?;
    world.sql("begin; insert into notes values (1), (2); update notes set body = 'b'; commit").await?;
    world.sql("delete from notes where id = 1").await?;
    let mut seen = Vec::new();
    for watcher in [&mut ana, &mut bruno] {
        let payloads = watcher.payloads(&world).await?;
        seen.push(payloads.iter().map(|payload| position(&payload["data"])).collect::<Result<Vec<_>>>()?);
    }
    let positions = seen[0].clone();
    ensure!(seen[1] == positions, "{seen:?}");
    let commit_lsn = positions[0].commit_lsn;
    let expected: Vec<_> = (0..4).map(|index| Position { commit_lsn, index }).collect();
    ensure!(positions[..4] == expected && joined < expected[0], "{joined}: {positions:?}");
    ensure!(positions[4].commit_lsn > commit_lsn && positions[4].index == 0, "{positions:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_is_told_no_position_of_the_join_and_a_wrong_wish_is_an_error() -> Result<()> {
    let world = watched("resume_unasked", NOTES).await?;
    let mut client = world.connect(&person("ana")).await?;
    let plain = json!({ "event": "*", "schema": "public", "table": "notes" });
    client.join_changes("realtime:plain", &[plain]).await?;
    client.join_changes("realtime:asked", &[resumable()]).await?;
    let asked = |message: &walcast_testkit::Received| {
        message.is("realtime:asked", "system") && message.system("resume").is_some()
    };
    client.expect_before(asked, |message| message.is("realtime:plain", "system")).await?;
    let mut wrong = resumable();
    wrong["resume"] = "yes".into();
    let text = walcast_tests::watching::refusal(&mut client, "realtime:wrong", &[wrong]).await?;
    ensure!(text == "Error parsing `resume` params: expected true or false", "{text}");
    Ok(())
}
