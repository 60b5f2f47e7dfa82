//! Cases 25 to 37: the fields of a join.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::watching::Watcher;
use walcast_tests::{log, person, token};

use crate::private_channels;
use crate::scene::{
    acknowledged, connect, is_joined, join, member, next_broadcast, nothing_else, on_both, refused, room,
    sub_topic, world,
};

/// Fails unless a join with each `config` succeeds and has the defaults: no bindings, no own broadcasts, no
/// acknowledgement, no state of presence.
async fn have_defaults(configs: &[Value]) -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for config in configs {
            let topic = room();
            let mut listener = member(&world, version, &topic, &json!({})).await?;
            let mut client = connect(&world, version).await?;
            let bindings = join(&mut client, &topic, config).await?;
            ensure!(bindings.is_empty(), "{config} has bindings: {bindings:?}");
            client.send(&topic, "broadcast", &json!({ "event": "e" })).await?;
            next_broadcast(&mut listener).await?;
            client.heartbeat().await?;
            nothing_else(&client).with_context(|| config.to_string())?;
        }
        Ok(())
    })
    .await
}

/// The key under which a member of this `presence` tracks.
async fn key_of(version: ProtocolVersion, presence: &Value) -> Result<String> {
    let world = world().await?;
    let topic = room();
    let mut client = member(&world, version, &topic, &json!({ "presence": presence })).await?;
    client.send(&topic, "presence", &json!({ "event": "track" })).await?;
    let diff = client.expect(|message| message.is(&topic, "presence_diff")).await?;
    let keys: Vec<_> = diff.payload["joins"].as_object().context("joins")?.keys().cloned().collect();
    ensure!(keys.len() == 1, "{keys:?}");
    Ok(keys[0].clone())
}

fn is_uuid_of_version_1(key: &str) -> bool {
    let form: String =
        key.chars().map(|letter| if letter.is_ascii_hexdigit() { 'x' } else { letter }).collect();
    form == "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" && key.as_bytes()[14] == b'1'
}

#[tokio::test(flavor = "multi_thread")]
async fn case_025_a_full_valid_payload_is_accepted() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let binding = json!({ "event": "*", "schema": "public", "table": "case_025", "filter": "id=eq.1" });
        let config = json!({
            "broadcast": { "ack": true, "self": true, "replication_ready": false },
            "presence": { "key": "ana", "enabled": true },
            "postgres_changes": [binding],
            "private": false,
        });
        let payload = json!({ "config": config, "access_token": token(&person("ana")), "version": "realtime-js/2.119.1" });
        let mut client = connect(&world, version).await?;
        let reply = client.join(&topic, &payload).await?;
        ensure!(reply.is_ok(), "{}", reply.response);
        let system = client.expect(|message| message.event == "system").await?;
        ensure!(system.system("postgres_changes") == Some(("ok", "Subscribed to PostgreSQL")));
        let state = client.expect(|message| message.event == "presence_state").await?;
        ensure!(state.payload == json!({}));
        acknowledged(&mut client, &topic).await?;
        ensure!(next_broadcast(&mut client).await?.payload == json!({ "event": "mark" }));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_026_an_empty_presence_key_becomes_a_uuid() -> Result<()> {
    on_both(async |version| {
        let mut seen = Vec::new();
        for presence in
            [json!({ "key": "", "enabled": true }), json!({ "key": null }), json!({ "enabled": true })]
        {
            let key = key_of(version, &presence).await?;
            ensure!(is_uuid_of_version_1(&key), "{presence}: {key}");
            ensure!(!seen.contains(&key), "the same for two joins");
            seen.push(key);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_027_a_number_is_a_presence_key() -> Result<()> {
    on_both(async |version| {
        for (key, expected) in [(json!(123), "123"), (json!(0), "0")] {
            let got = key_of(version, &json!({ "key": key, "enabled": true })).await?;
            ensure!(got == expected, "{key}: {got}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_028_a_missing_presence_enabled_is_false() -> Result<()> {
    have_defaults(&[json!({ "presence": { "key": "ana" } }), json!({ "presence": {} }), json!({})]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_029_fields_of_wrong_types_take_their_defaults_and_are_logged() -> Result<()> {
    log::log();
    have_defaults(&[
        json!({ "broadcast": { "self": 1, "ack": "yes" } }),
        json!({ "broadcast": { "self": [], "ack": {} } }),
        json!({ "presence": { "key": {}, "enabled": "yes" } }),
        json!({ "presence": { "key": [1], "enabled": 1 } }),
        json!({ "postgres_changes": "t" }),
    ])
    .await?;
    let world = world().await?;
    let mut client = world.connect_as(&person("ana-29"), ProtocolVersion::V2).await?;
    join(&mut client, &room(), &json!({ "broadcast": { "self": 1, "ack": "yes" } })).await?;
    let logged =
        log::lines_with(&["InvalidJoinPayload", "broadcast.self", "broadcast.ack", "sub=\"ana-29\""]);
    ensure!(logged.len() == 1, "{logged:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_030_nested_objects_that_are_none_take_their_defaults() -> Result<()> {
    have_defaults(&[
        json!({ "broadcast": [], "presence": [] }),
        json!({ "broadcast": "on", "presence": "on" }),
        json!({ "broadcast": 7, "presence": true, "postgres_changes": {} }),
        json!({ "broadcast": null, "presence": null, "private": null }),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_031_postgres_changes_of_null_is_an_empty_list() -> Result<()> {
    have_defaults(&[json!({ "postgres_changes": null }), json!({ "postgres_changes": 7 })]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_032_null_among_the_bindings_is_dropped() -> Result<()> {
    have_defaults(&[json!({ "postgres_changes": [null, null] })]).await?;
    let world = world().await?;
    on_both(async |version| {
        let binding = json!({ "event": "INSERT", "schema": "public", "table": "case_032" });
        let client = connect(&world, version).await?;
        let mut watcher = Watcher::join_on(client, &room(), &[Value::Null, binding, Value::Null]).await?;
        ensure!(watcher.bindings.len() == 1, "{:?}", watcher.bindings);
        world.sql("insert into case_032 values (1); delete from case_032").await?;
        ensure!(watcher.ids(&world).await? == [1]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_033_true_and_false_may_be_words_and_other_words_are_invalid() -> Result<()> {
    let no = |no: &str| json!({ "broadcast": { "self": no, "ack": no }, "presence": { "enabled": no }, "private": no });
    have_defaults(&[no("false"), no("False"), no("FALSE")]).await?;
    let invalid =
        |word: &str| json!({ "broadcast": { "self": word, "ack": word }, "presence": { "enabled": word } });
    have_defaults(&[invalid("yes"), invalid("1"), invalid(""), invalid("truee")]).await?;
    let world = world().await?;
    on_both(async |version| {
        for yes in ["true", "True", "TRUE"] {
            let topic = room();
            let config = json!({ "broadcast": { "self": yes, "ack": yes }, "presence": { "enabled": yes } });
            let mut client = member(&world, version, &topic, &config).await?;
            client.expect(|message| message.event == "presence_state").await?;
            acknowledged(&mut client, &topic).await?;
            next_broadcast(&mut client).await?;
        }
        // Not guessed, because the answer decides who hears what is said there.
        let mut client = connect(&world, version).await?;
        let reason = refused(&mut client, &room(), &json!({ "config": { "private": "yes" } })).await?;
        ensure!(reason.starts_with("InvalidJoinPayload: config.private"), "{reason}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_034_a_replay_that_is_no_object_is_ignored_and_on_a_public_channel_refused_whatever_it_is()
-> Result<()> {
    let nonsense = [json!("all"), json!(7), json!([]), json!(true)];
    let guarded = private_channels::world().await?;
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        for replay in nonsense.iter().chain([&json!({ "since": 1, "limit": 2 })]) {
            let payload = json!({ "config": { "broadcast": { "replay": replay } } });
            let reason = refused(&mut client, &room(), &payload).await?;
            let expected = "UnableToReplayMessages: Replay is not allowed for public channels";
            ensure!(reason == expected, "{replay}: {reason}");
        }
        let claims = private_channels::may("authenticated", "all", "all");
        for replay in &nonsense {
            let topic = room();
            let mut witness = guarded.connect_as(&claims, version).await?;
            join(&mut witness, &topic, &json!({ "private": true })).await?;
            let stored = "select realtime.send('{}', 'stored', $1, true)";
            guarded.client.execute(stored, &[&sub_topic(&topic)]).await?;
            // Once it has gone out live, only a replay can bring it.
            next_broadcast(&mut witness).await?;
            let mut client = guarded.connect_as(&claims, version).await?;
            join(
                &mut client,
                &topic,
                &json!({ "private": true, "broadcast": { "replay": replay, "ack": true } }),
            )
            .await?;
            acknowledged(&mut client, &topic).await?;
            nothing_else(&client).with_context(|| format!("nothing is replayed for {replay}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_035_the_topic_needs_a_name_behind_its_prefix() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        let reason = refused(&mut client, "realtime:", &json!({ "config": {} })).await?;
        ensure!(reason == "TopicNameRequired: You must provide a topic name", "{reason}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_036_a_topic_without_the_prefix_is_unmatched() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        for topic in ["room", "", "Realtime:room", "realtime", " realtime:room", "phoenix:room"] {
            let reply = client.join(topic, &json!({ "config": {} })).await?;
            ensure!(reply.response == json!({ "reason": "unmatched topic" }), "{topic}: {}", reply.response);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_037_a_join_without_config_has_its_topic_as_its_binding() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = "realtime:public:case_037:id=eq.2";
        let mut client = connect(&world, version).await?;
        let reply = client.join(topic, &json!({ "user_token": null })).await?;
        let mut listed = reply.response["postgres_changes"].clone();
        let id = listed[0].as_object_mut().and_then(|entry| entry.remove("id"));
        ensure!(id.is_some_and(|id| id.is_i64()));
        ensure!(
            listed == json!([{ "schema": "public", "table": "case_037", "filter": "id=eq.2" }]),
            "{listed}"
        );
        client.expect(|message| message.system("postgres_changes").is_some()).await?;
        world
            .sql(
                "insert into case_037 (id, t) values (1, 'no'), (2, 'yes'); update case_037 set t = 'new'; \
                  delete from case_037",
            )
            .await?;
        for kind in ["INSERT", "UPDATE", "DELETE"] {
            let change = client.next().await?;
            ensure!(change.is(topic, kind) && change.payload["type"] == kind, "{:?}", change.raw);
            let row = change.payload.get("record").or_else(|| change.payload.get("old_record"));
            ensure!(row.is_some_and(|row| row["id"] == 2), "{:?}", change.raw);
        }
        ensure!(is_joined(&mut client, topic).await?);
        Ok(())
    })
    .await
}
