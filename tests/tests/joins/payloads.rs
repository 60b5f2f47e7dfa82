//! What a join asks for, and what it is answered: docs/protocol.md §3.2, §3.3, §3.5, §3.8.

use std::collections::HashSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, person};

use crate::{BOTH, NOTES, ROOM, acknowledged, acknowledging, assert_not_joined, open_config, raw};

// Cases 25 to 34, 39, 57.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_missing_or_wrong_takes_its_default_and_the_join_succeeds() -> Result<()> {
    let world = World::with_sql("joins_lenient", "").await?;
    let configs = [
        json!(null),
        json!({}),
        json!({ "broadcast": null, "presence": null, "postgres_changes": null, "private": null }),
        json!({ "broadcast": [], "presence": "on", "postgres_changes": {} }),
        json!({ "broadcast": { "self": 1, "ack": "yes", "replication_ready": {} } }),
        json!({ "broadcast": { "self": "", "ack": null } }),
        json!({ "presence": { "key": {}, "enabled": "yes" } }),
        json!({ "presence": { "key": null, "enabled": 1 } }),
        json!({ "presence": { "key": [1], "enabled": [] } }),
        json!({ "postgres_changes": "t" }),
        json!({ "postgres_changes": [null, null] }),
        json!({ "postgres_changes_options": "wait" }),
        json!({ "postgres_changes_options": { "wait": "maybe", "timeout": -1 } }),
        json!({ "private": "FALSE" }),
        json!({ "unknown": 7, "broadcast": { "unknown": 7 }, "presence": { "unknown": 7 } }),
    ];
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut listener = world.connect_as(&person("bruno"), version).await?;
        for (index, config) in configs.iter().enumerate() {
            let topic = format!("realtime:room {index}");
            let reply = client.join(&topic, &json!({ "config": config, "unknown": {} })).await?;
            assert_eq!(reply.response, json!({ "postgres_changes": [] }), "{config}");
            // The defaults: no own broadcasts, no acknowledgement, no state.
            listener.join(&topic, &open_config()).await?;
            client.send(&topic, "broadcast", &json!({ "event": "e" })).await?;
            listener.expect(|message| message.is(&topic, "broadcast")).await?;
            client.heartbeat().await?;
            assert_eq!(client.unclaimed().count(), 0, "{config}");
        }
        for token in [json!(null), json!(7), json!(false), json!({})] {
            let payload = json!({ "config": {}, "access_token": token, "user_token": token });
            let reply = client.join("realtime:token", &payload).await?;
            assert!(reply.is_ok(), "{token}: {reply:?}");
        }
    }
    Ok(())
}

// Case 33.
#[tokio::test(flavor = "multi_thread")]
async fn a_boolean_may_be_a_word_in_any_letter_case() -> Result<()> {
    let world = World::installed("joins_booleans", "", |_| {}).await?;
    let mut client = world.connect(&person("ana")).await?;
    for (index, yes) in [json!(true), json!("true"), json!("True"), json!("TRUE")].into_iter().enumerate() {
        let topic = format!("realtime:{index}");
        let config = json!({ "broadcast": { "self": yes, "ack": yes, "replication_ready": yes },
            "presence": { "enabled": yes }, "private": "False" });
        assert!(client.join(&topic, &json!({ "config": config })).await?.is_ok(), "{yes}");
        let ready = client.expect(|message| message.system("system").is_some()).await?;
        assert_eq!(ready.system("system"), Some(("ok", "Replication connection established")));
        client.expect(|message| message.is(&topic, "presence_state")).await?;
        acknowledged(&mut client, &topic).await?;
        client.expect(|message| message.is(&topic, "broadcast")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_guessed_refuses_the_join_with_a_reason_that_names_it() -> Result<()> {
    let world = World::with_sql("joins_refused", "").await?;
    let private = |got: &str| format!("InvalidJoinPayload: config.private must be true or false, got {got}");
    let with = |config: Value| json!({ "config": config });
    let without_table = "UnableToSetPolicies: private channels need the table realtime.messages";
    let replay = "UnableToReplayMessages: Replay is not allowed for public channels";
    let table = [
        (json!([]), "UnknownErrorOnChannel: the join payload must be an object, got ".to_owned()),
        (json!("config"), "UnknownErrorOnChannel: the join payload must be an object, got ".to_owned()),
        (with(json!([])), "UnknownErrorOnChannel: config must be an object, got ".to_owned()),
        (
            with(json!([{ "private": false }])),
            "UnknownErrorOnChannel: config must be an object, got ".to_owned(),
        ),
        (with(json!("private")), "UnknownErrorOnChannel: config must be an object, got ".to_owned()),
        (with(json!(7)), "UnknownErrorOnChannel: config must be an object, got ".to_owned()),
        (with(json!({ "postgres_changes": [7] })), "UnknownErrorOnChannel: ".to_owned()),
        (with(json!({ "postgres_changes": [{ "table": "t" }, "t"] })), "UnknownErrorOnChannel: ".to_owned()),
        (with(json!({ "postgres_changes": [[]] })), "UnknownErrorOnChannel: ".to_owned()),
        (with(json!({ "private": "yes" })), private("\"yes\"")),
        (with(json!({ "private": 1 })), private("1")),
        (with(json!({ "private": "" })), private("\"\"")),
        (with(json!({ "private": {} })), private("{}")),
        (with(json!({ "private": true })), without_table.to_owned()),
        (with(json!({ "private": "True" })), without_table.to_owned()),
        (with(json!({ "broadcast": { "replay": { "since": 1, "limit": 2 } } })), replay.to_owned()),
        (with(json!({ "broadcast": { "replay": "all" } })), replay.to_owned()),
    ];
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for (payload, reason) in &table {
            let reply = client.join(ROOM, payload).await?;
            let got = reply.reason().with_context(|| format!("{payload} was accepted: {reply:?}"))?;
            assert!(got.starts_with(reason.as_str()), "{payload}: {got}");
            assert_eq!(reply.response.as_object().map(serde_json::Map::len), Some(1));
            assert_not_joined(&mut client, ROOM).await?;
        }
        assert!(client.join(ROOM, &open_config()).await?.is_ok(), "the topic is not spoilt");
    }
    Ok(())
}

// Case 37.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_without_config_is_the_old_form_whose_topic_is_the_binding() -> Result<()> {
    let world = World::with_sql("joins_legacy", NOTES).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let topic = "realtime:public:notes:id=eq.2";
        let reply = client.join(topic, &json!({})).await?;
        let listed = reply.response["postgres_changes"].as_array().context("a list")?;
        assert_eq!(listed.len(), 1);
        let id = listed[0]["id"].clone();
        assert!(id.as_i64().is_some_and(|id| id > 0));
        let expected = json!({ "schema": "public", "table": "notes", "filter": "id=eq.2", "id": id });
        assert_eq!(listed[0], expected);
        let subscribed = client.expect(|message| message.system("postgres_changes").is_some()).await?;
        assert_eq!(subscribed.system("postgres_changes"), Some(("ok", "Subscribed to PostgreSQL")));
        world.sql("insert into notes values (1, 'no'), (2, 'yes')").await?;
        let change = client.next().await?;
        assert!(change.is(topic, "INSERT"), "{change:?}");
        assert_eq!(change.payload["type"], "INSERT");
        assert_eq!(change.payload["record"], json!({ "id": 2, "details": "yes" }));
        assert!(change.payload.get("ids").is_none() && change.payload.get("data").is_none());
        world.sql("update notes set details = 'new'; delete from notes").await?;
        assert!(client.next().await?.is(topic, "UPDATE"));
        assert!(client.next().await?.is(topic, "DELETE"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_join_of_an_ordinary_room_works_but_for_row_changes() -> Result<()> {
    let world = World::with_sql("joins_legacy_room", NOTES).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut other = world.connect(&person("bruno")).await?;
    other.join(ROOM, &acknowledging()).await?;
    // No payload to speak of.
    assert!(client.join(ROOM, &Value::Null).await?.is_ok());
    let system = client.next().await?;
    let (status, message) = system.system("postgres_changes").context("a system message")?;
    assert_eq!(status, "error");
    assert!(message.starts_with("Unable to subscribe to changes with given parameters"), "{message}");
    acknowledged(&mut other, ROOM).await?;
    client.expect(|message| message.is(ROOM, "broadcast")).await?;
    Ok(())
}

// Cases 178 to 181: the join itself is fine.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_is_wrong_is_told_after_the_join_and_the_channel_works() -> Result<()> {
    let world = World::with_sql("joins_wrong_binding", NOTES).await?;
    let mut client = world.connect(&person("ana")).await?;
    let table = [
        (json!({ "table": "notes", "filter": "wrong" }), "Error parsing `filter` params: [\"wrong\"]"),
        (json!({ "table": "nope" }), "Unable to subscribe to changes with given parameters"),
        (json!({ "event": "*" }), "No subscription params provided."),
        (json!({ "table": "notes", "select": "id" }), "Error parsing `select` params: expected a list"),
    ];
    for (index, (binding, beginning)) in table.iter().enumerate() {
        let topic = format!("realtime:{index}");
        let config = json!({ "postgres_changes": [binding], "broadcast": { "self": true, "ack": true } });
        let reply = client.join(&topic, &json!({ "config": config })).await?;
        assert!(reply.is_ok(), "{binding}: {reply:?}");
        let system = client.next().await?;
        let (status, message) = system.system("postgres_changes").context("a system message")?;
        assert_eq!(status, "error", "{binding}");
        assert!(message.starts_with(beginning), "{binding}: {message}");
        acknowledged(&mut client, &topic).await?;
        client.expect(|message| message.is(&topic, "broadcast")).await?;
    }
    Ok(())
}

// Cases 38, 39, 40.
#[tokio::test(flavor = "multi_thread")]
async fn the_reply_repeats_each_binding_as_it_was_sent_with_its_id_in_the_same_order() -> Result<()> {
    let world = World::with_sql("joins_reply", NOTES).await?;
    let mut ids = Vec::new();
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let bindings = [
            r#"{"event":"*","schema":"public","table":"notes"}"#,
            r#"{"event":"INSERT","schema":"public","table":"notes","filter":"id=eq.1"}"#,
            r#"{"table":"notes","schema":"public","event":"*"}"#,
            r#"{"event":"*","schema":"public","table":"notes"}"#,
            r#"{ "event" : "update" , "table" : "n\u006ftes" , "extra" : [1.50, null] }"#,
        ];
        let payload = format!(r#"{{"config":{{"postgres_changes":[{},null]}}}}"#, bindings.join(", "));
        match version {
            ProtocolVersion::V1 => {
                let join =
                    r#"{"topic":"realtime:room","event":"phx_join","ref":"9","join_ref":"9","payload":"#;
                client.send_text(&format!("{join}{payload}}}")).await?;
            }
            ProtocolVersion::V2 => {
                client.send_text(&format!(r#"["9","9","realtime:room","phx_join",{payload}]"#)).await?;
            }
        }
        let reply = client.next().await?;
        let listed = reply.payload["response"]["postgres_changes"].as_array().context("a list")?.clone();
        let own: Vec<i64> = listed.iter().filter_map(|binding| binding["id"].as_i64()).collect();
        assert_eq!(own.len(), bindings.len());
        assert!(own.iter().all(|id| (1..1 << 27).contains(id)), "{own:?}");
        assert_eq!((own[0], own[0]), (own[2], own[3]), "the same object has the same id");
        assert_eq!(own.iter().collect::<HashSet<_>>().len(), 3);
        for (binding, got) in bindings.iter().zip(&listed) {
            let mut got = got.clone();
            got.as_object_mut().context("an object")?.remove("id");
            assert_eq!(got, serde_json::from_str::<Value>(binding)?);
        }
        assert!(raw(&reply).contains(r#""n\u006ftes" , "extra" : [1.50, null]"#), "{}", raw(&reply));
        ids.push(own);
        let subscribed = client.next().await?;
        assert_eq!(subscribed.system("postgres_changes"), Some(("ok", "Subscribed to PostgreSQL")));
        assert_eq!(subscribed.payload["channel"], "room");
        assert_eq!(subscribed.payload.as_object().map(serde_json::Map::len), Some(4));
    }
    assert_eq!(ids[0], ids[1], "ids are the same for everybody");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_without_bindings_has_an_empty_list_and_the_references_of_the_join() -> Result<()> {
    let world = World::with_sql("joins_empty", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.send_text(r#"[17,{"x":[]},"realtime:room","phx_join",{"config":{}}]"#).await?;
    let ok = r#"{"status":"ok","response":{"postgres_changes":[]}}"#;
    assert_eq!(raw(&client.next().await?), format!(r#"[17,{{"x":[]}},"realtime:room","phx_reply",{ok}]"#));
    client.send_text(r#"[17,null,"realtime:room","phx_leave",{}]"#).await?;
    let left = r#"[17,null,"realtime:room","phx_reply",{"status":"ok","response":{}}]"#;
    assert_eq!(raw(&client.next().await?), left);
    assert_eq!(raw(&client.next().await?), r#"[17,17,"realtime:room","phx_close",{}]"#);

    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V1).await?;
    client
        .send_text(r#"{"topic":"realtime:room","event":"phx_join","payload":{"config":{}},"ref":5}"#)
        .await?;
    assert_eq!(
        raw(&client.next().await?),
        format!(r#"{{"event":"phx_reply","payload":{ok},"ref":5,"topic":"realtime:room"}}"#)
    );
    Ok(())
}
