//! Joining and leaving: docs/protocol.md §3.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::{World, person};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];
const ROOM: &str = "realtime:room";

/// Longer than any test may take: what is answered all the same was not delayed.
const NEVER: Duration = Duration::from_mins(10);

const NOTES: &str = "
    create table notes (id int primary key, details text);
    grant select on notes to anon, authenticated, service_role;
    create publication supabase_realtime for table notes;
";

fn open_config() -> Value {
    json!({ "config": {} })
}

fn acknowledging() -> Value {
    json!({ "config": { "broadcast": { "self": true, "ack": true } } })
}

fn refusals_never_come(settings: &mut ServeSettings) {
    settings.limits.channel_error_backoff = NEVER;
}

fn raw(message: &Received) -> &str {
    match &message.raw {
        RawFrame::Text(text) => text,
        RawFrame::Binary(_) => "a binary frame",
    }
}

/// Fails unless the client is on no such channel.
async fn assert_not_joined(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "anything", &json!({})).await?;
    let reply = client.reply(&reference).await.with_context(|| format!("{topic} is still joined"))?;
    ensure!(reply.reason() == Some("unmatched topic"), "{topic}: {reply:?}");
    Ok(())
}

/// Waits for the acknowledgement of a broadcast: whatever the server sent before has arrived then.
async fn acknowledged(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "broadcast", &json!({ "event": "mark" })).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(())
}

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
    let world = World::with_sql("joins_booleans", "").await?;
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
    let later = "PrivateOnly: private channels are not available on this server yet; \
        join with config.private = false";
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
        (with(json!({ "private": true })), later.to_owned()),
        (with(json!({ "private": "True" })), later.to_owned()),
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

// Cases 35, 36.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_topic_with_the_prefix_and_a_name_can_be_joined() -> Result<()> {
    let world = World::with_sql("joins_topics", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    let reply = client.join("realtime:", &open_config()).await?;
    assert_eq!(reply.reason(), Some("TopicNameRequired: You must provide a topic name"));
    let long = format!("realtime:{}", "x".repeat(1_000));
    for topic in ["realtime: ", "realtime:a:b::c", "realtime:sala \"é\" 🦀\n", "realtime:realtime:", &long]
    {
        assert!(client.join(topic, &acknowledging()).await?.is_ok(), "{topic}");
        acknowledged(&mut client, topic).await?;
        client.expect(|message| message.is(topic, "broadcast")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_without_the_prefix_is_unmatched_at_once() -> Result<()> {
    let world = World::with_settings("joins_unmatched", "", refusals_never_come).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for topic in ["room", "", "Realtime:room", "realtime", "phoenix:room", " realtime:room"] {
            let reply = client.join(topic, &open_config()).await?;
            assert_eq!(reply.reason(), Some("unmatched topic"), "{topic}");
        }
    }
    let mut client = world.connect(&person("ana")).await?;
    client.send_text(r#"["1","2","room","phx_join",{}]"#).await?;
    let expected =
        r#"[null,"2","room","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#;
    assert_eq!(raw(&client.next().await?), expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_on_a_topic_that_is_not_joined_is_unmatched_and_a_leave_is_granted() -> Result<()> {
    let world = World::with_sql("joins_pushes", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for event in ["broadcast", "presence", "access_token", "anything", "phx_close"] {
            let reference = client.send(ROOM, event, &json!({ "access_token": "x" })).await?;
            let reply = client.reply(&reference).await?;
            assert_eq!(reply.reason(), Some("unmatched topic"), "{event}");
        }
        let reply = client.leave(ROOM).await?;
        assert_eq!((reply.is_ok(), reply.response), (true, json!({})));
    }
    let mut client = world.connect(&person("ana")).await?;
    let reference = client.user_broadcast(ROOM, "e", false, b"bytes").await?;
    assert_eq!(client.reply(&reference).await?.reason(), Some("unmatched topic"));
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

// Case 41.
#[tokio::test(flavor = "multi_thread")]
async fn one_channel_too_many_is_refused_until_another_is_left() -> Result<()> {
    let hundred = |settings: &mut ServeSettings| settings.limits.max_channels_per_client = 100;
    let world = World::with_settings("joins_channels", "", hundred).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut another = world.connect(&person("ana")).await?;
    for number in 0..100 {
        assert!(client.join(&format!("realtime:{number}"), &acknowledging()).await?.is_ok(), "{number}");
    }
    let too_many = Some("ChannelRateLimitReached: Too many channels");
    assert_eq!(client.join("realtime:100", &open_config()).await?.reason(), too_many);
    assert!(
        client.join("realtime:7", &acknowledging()).await?.is_ok(),
        "joined anew, it is no more than before"
    );
    assert!(another.join("realtime:100", &open_config()).await?.is_ok(), "the limit is each socket's own");
    assert!(client.leave("realtime:99").await?.is_ok());
    assert!(client.join("realtime:100", &open_config()).await?.is_ok());
    assert_eq!(client.join("realtime:101", &open_config()).await?.reason(), too_many);
    acknowledged(&mut client, "realtime:0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_server_has_closed_does_not_count() -> Result<()> {
    let one = |settings: &mut ServeSettings| {
        settings.limits.max_channels_per_client = 1;
        settings.engine.presence_calls.calls = 0;
    };
    let world = World::with_settings("joins_closed", "", one).await?;
    let mut client = world.connect(&person("ana")).await?;
    for number in 0..3 {
        let topic = format!("realtime:{number}");
        let reply = client.join(&topic, &open_config()).await?;
        assert!(reply.is_ok(), "{number}: {reply:?}");
        client.send(&topic, "presence", &json!({ "event": "track" })).await?;
        client.expect(|message| message.is(&topic, "phx_close")).await?;
    }
    Ok(())
}

// Case 42.
#[tokio::test(flavor = "multi_thread")]
async fn joins_over_the_rate_are_refused_and_the_socket_lives() -> Result<()> {
    let one = |settings: &mut ServeSettings| settings.limits.max_joins_per_second = 1;
    let world = World::with_settings("joins_rate", "", one).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut references = Vec::new();
    for number in 0..100 {
        references.push(client.send(&format!("realtime:{number}"), "phx_join", &open_config()).await?);
    }
    let (mut granted, mut refused) = (0, 0);
    for reference in references {
        let reply = client.reply(&reference).await?;
        match reply.reason() {
            None => granted += 1,
            Some(reason) => {
                assert_eq!(reason, "ClientJoinRateLimitReached: Too many joins per second");
                refused += 1;
            }
        }
    }
    assert!(granted >= 1 && refused >= 1, "{granted} granted, {refused} refused");
    client.heartbeat().await
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_pile_up_while_they_are_refused_close_the_socket() -> Result<()> {
    let world = World::with_settings("joins_pile", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    for number in 0..3_000 {
        // Once the server has closed the connection, sending fails.
        if client.send(&format!("realtime:{number}"), "phx_join", &json!([])).await.is_err() {
            break;
        }
    }
    let end = client.closed().await?.context("no close frame")?;
    assert_eq!(end, (1008, "too many joins are waiting for their answer".to_owned()));
    Ok(())
}

// Case 48.
#[tokio::test(flavor = "multi_thread")]
async fn a_leave_is_answered_and_then_the_channel_is_closed_and_silent() -> Result<()> {
    let world = World::with_sql("joins_leave", NOTES).await?;
    let mut other = world.connect(&person("bruno")).await?;
    let mut with_changes = acknowledging();
    let notes = json!({ "event": "*", "schema": "public", "table": "notes" });
    with_changes["config"]["postgres_changes"] = json!([notes]);
    other.join(ROOM, &with_changes).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join_changes(ROOM, std::slice::from_ref(&notes)).await?;
        let reference = client.send(ROOM, "phx_leave", &json!({ "ignored": true })).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&reference.into(), Some("ok")));
        let close = client.next().await?;
        assert_eq!(
            (close.event.as_str(), &close.reference, &close.payload),
            ("phx_close", &"1".into(), &json!({}))
        );
        if version == ProtocolVersion::V2 {
            assert_eq!((&reply.join_ref, &close.join_ref), (&"1".into(), &"1".into()));
        }
        world.sql("insert into notes values (1, 'x'); delete from notes").await?;
        other.expect(|message| message.payload["data"]["type"] == "DELETE").await?;
        acknowledged(&mut other, ROOM).await?;
        let after = client.join(ROOM, &acknowledging()).await?;
        assert!(after.is_ok());
        acknowledged(&mut client, ROOM).await?;
        let events: Vec<_> = client.unclaimed().map(|message| message.event.as_str()).collect();
        assert_eq!(events, ["broadcast"], "only the own one after the second join");
    }
    Ok(())
}

// Case 48.
#[tokio::test(flavor = "multi_thread")]
async fn a_leave_of_an_earlier_join_is_ignored_and_a_channel_without_join_ref_takes_any() -> Result<()> {
    let world = World::with_sql("joins_stale_leave", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.join(ROOM, &acknowledging()).await?;
    for stale in [r#""0""#, "null", "1", r#""2""#] {
        client.send_text(&format!(r#"[{stale},"stale","realtime:room","phx_leave",{{}}]"#)).await?;
    }
    acknowledged(&mut client, ROOM).await?;
    client
        .expect_before(
            |message| message.is(ROOM, "broadcast"),
            |message| message.reference == "stale" || message.event == "phx_close",
        )
        .await?;
    client.send_text(r#"[null,"a","realtime:free","phx_join",{"config":{}}]"#).await?;
    assert!(client.reply("a").await?.is_ok());
    client.send_text(r#"["other","b","realtime:free","phx_leave",{}]"#).await?;
    assert!(client.reply("b").await?.is_ok());
    let close = client.expect(|message| message.is("realtime:free", "phx_close")).await?;
    assert_eq!((close.join_ref, close.reference), (Value::Null, Value::Null));
    Ok(())
}

// Cases 46, 47.
#[tokio::test(flavor = "multi_thread")]
async fn other_pushes_are_handled_whatever_their_join_ref_and_unknown_events_are_ignored() -> Result<()> {
    let world = World::with_sql("joins_stale_push", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.join(ROOM, &acknowledging()).await?;
    for stale in [r#""0""#, "null", "7"] {
        client.send_text(&format!(r#"[{stale},"u","realtime:room","unknown",{{"x":1}}]"#)).await?;
        client.send_text(&format!(r#"[{stale},"b","realtime:room","broadcast",{{"event":"e"}}]"#)).await?;
        let own = client.next().await?;
        assert_eq!(raw(&own), r#"[null,null,"realtime:room","broadcast",{"event":"e"}]"#);
        let ack = r#"["1","b","realtime:room","phx_reply",{"status":"ok","response":{}}]"#;
        assert_eq!(raw(&client.next().await?), ack);
        client.send_text(&format!(r#"[{stale},"p","realtime:room","presence",{{"event":"track"}}]"#)).await?;
        let reply = client.expect(|message| message.event == "phx_reply").await?;
        assert_eq!((reply.join_ref, reply.reference), ("1".into(), "p".into()));
        client.expect(|message| message.event.starts_with("presence_")).await?;
        client
            .send_text(&format!(r#"[{stale},"q","realtime:room","presence",{{"event":"untrack"}}]"#))
            .await?;
        assert!(client.reply("q").await?.is_ok());
        client
            .expect(|message| message.payload["leaves"].as_object().is_some_and(|leaves| leaves.len() == 1))
            .await?;
        client.heartbeat().await?;
        while client.unclaimed().count() > 0 {
            client.next().await?;
        }
    }
    let mut old = world.connect_as(&person("ana"), ProtocolVersion::V1).await?;
    old.join(ROOM, &acknowledging()).await?;
    old.send_text(r#"{"topic":"realtime:room","event":"unknown","payload":{},"ref":"u"}"#).await?;
    old.send_text(r#"{"topic":"realtime:room","event":"broadcast","payload":{},"ref":"b"}"#).await?;
    old.expect_before(|message| message.reference == "b", |message| message.reference == "u").await?;
    Ok(())
}

/// Joins `ROOM` a second time, with this payload, under the `join_ref` `second`.
async fn join_again(client: &mut ProtocolClient, version: ProtocolVersion, payload: &Value) -> Result<()> {
    let second = Value::from("second");
    client.send_text(&version.encode(&second, &second, ROOM, "phx_join", payload)).await
}

// Cases 48, 294.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_join_replaces_the_channel_and_version_1_hears_nothing_of_the_old_one() -> Result<()> {
    let world = World::with_sql("joins_again", "").await?;
    let mut other = world.connect(&person("bruno")).await?;
    other.join(ROOM, &acknowledging()).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join(ROOM, &acknowledging()).await?;
        join_again(&mut client, version, &open_config()).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&"second".into(), Some("ok")));
        if version == ProtocolVersion::V2 {
            let close = r#"["1","1","realtime:room","phx_close",{}]"#;
            assert_eq!(raw(&client.next().await?), close);
        }
        // Twice, so that a second copy of the first would be there with the second.
        acknowledged(&mut other, ROOM).await?;
        acknowledged(&mut other, ROOM).await?;
        client.send(ROOM, "broadcast", &json!({ "event": "mine" })).await?;
        client.heartbeat().await?;
        for _ in 0..2 {
            let message = client
                .expect_before(|message| message.event == "broadcast", |message| message.event == "phx_close")
                .await?;
            assert_eq!(message.payload["event"], "mark");
        }
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().count(), 0, "the options are those of the second join");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_join_that_is_refused_ends_the_channel_all_the_same() -> Result<()> {
    let world = World::with_sql("joins_again_refused", "").await?;
    let mut other = world.connect(&person("bruno")).await?;
    other.join(ROOM, &acknowledging()).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join(ROOM, &json!({ "config": { "presence": { "enabled": true, "key": "ana" } } })).await?;
        client.expect(|message| message.is(ROOM, "presence_state")).await?;
        let reference = client.send(ROOM, "presence", &json!({ "event": "track" })).await?;
        assert!(client.reply(&reference).await?.is_ok());
        client.expect(|message| message.is(ROOM, "presence_diff")).await?;
        join_again(&mut client, version, &json!({ "config": { "private": "yes" } })).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&"second".into(), Some("error")));
        if version == ProtocolVersion::V2 {
            assert_eq!(raw(&client.next().await?), r#"["1","1","realtime:room","phx_close",{}]"#);
        }
        assert_not_joined(&mut client, ROOM).await?;
        acknowledged(&mut other, ROOM).await?;
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().count(), 0, "nothing comes for a channel that is over");
        let reply = client.join(ROOM, &json!({ "config": { "presence": { "enabled": true } } })).await?;
        assert!(reply.is_ok());
        let state = client.expect(|message| message.is(ROOM, "presence_state")).await?;
        assert_eq!(state.payload, json!({}), "and nobody is present through it");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_on_one_socket_are_two_channels() -> Result<()> {
    let world = World::with_sql("joins_two", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut other = world.connect_as(&person("bruno"), version).await?;
        for topic in ["realtime:a", "realtime:b"] {
            client.join(topic, &acknowledging()).await?;
        }
        other.join("realtime:b", &acknowledging()).await?;
        acknowledged(&mut other, "realtime:b").await?;
        client
            .expect_before(|message| message.is("realtime:b", "broadcast"), |m| m.topic == "realtime:a")
            .await?;
        let left = client.leave("realtime:b").await?;
        assert!(left.is_ok());
        acknowledged(&mut client, "realtime:a").await?;
        assert_not_joined(&mut client, "realtime:b").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_on_a_topic_whose_join_is_pending_are_answered_after_it_in_their_order() -> Result<()> {
    let world = World::with_sql("joins_pending", NOTES).await?;
    let binding = json!({ "event": "*", "schema": "public", "table": "notes" });
    let config = json!({ "broadcast": { "ack": true, "self": true }, "postgres_changes": [binding] });
    for version in BOTH {
        for round in 0..10 {
            let mut client = world.connect_as(&person("ana"), version).await?;
            let join_ref = Value::from("j");
            let mut frames = vec![("j".to_owned(), "phx_join", json!({ "config": config }))];
            for number in 0..20 {
                frames.push((format!("b{number}"), "broadcast", json!({ "event": "e", "n": number })));
            }
            frames.push(("p".to_owned(), "presence", json!({ "event": "track" })));
            frames.push(("l".to_owned(), "phx_leave", json!({})));
            frames.push(("n".to_owned(), "anything", json!({})));
            for (reference, event, payload) in &frames {
                let reference = Value::from(reference.as_str());
                client.send_text(&version.encode(&join_ref, &reference, ROOM, event, payload)).await?;
            }
            for (reference, event, _) in &frames {
                let reply = client.expect(|message| message.event == "phx_reply").await?;
                assert_eq!(reply.reference, reference.as_str(), "round {round}");
                let expected = if *event == "anything" { "error" } else { "ok" };
                assert_eq!(reply.payload["status"], expected, "round {round}: {event}");
            }
            let own = client.unclaimed().filter(|message| message.event == "broadcast").count();
            assert_eq!(own, 20);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_on_a_topic_whose_join_is_refused_are_unmatched_after_it() -> Result<()> {
    let world = World::with_sql("joins_pending_refused", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.send_text(r#"["1","1","realtime:room","phx_join",[]]"#).await?;
    client.send_text(r#"["1","2","realtime:room","broadcast",{}]"#).await?;
    client.send_text(r#"["3","3","realtime:room","phx_join",{"config":{}}]"#).await?;
    client.send_text(r#"["3","4","realtime:room","phx_leave",{}]"#).await?;
    for (reference, status) in [("1", "error"), ("2", "error"), ("3", "ok"), ("4", "ok")] {
        let reply = client.expect(|message| message.event == "phx_reply").await?;
        assert_eq!((&reply.reference, &reply.payload["status"]), (&reference.into(), &status.into()));
    }
    Ok(())
}

// Case 296.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_join_keeps_nothing_else_of_its_socket_waiting() -> Result<()> {
    let world = World::with_settings("joins_slow", "", refusals_never_come).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.send("realtime:slow", "phx_join", &json!([])).await?;
        client.heartbeat().await?;
        assert!(client.join(ROOM, &acknowledging()).await?.is_ok());
        acknowledged(&mut client, ROOM).await?;
        assert!(client.leave(ROOM).await?.is_ok());
        let slow = client.unclaimed().any(|message| message.topic == "realtime:slow");
        assert!(!slow, "the slow join has been answered");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_messages_than_can_wait_for_a_join_close_the_socket() -> Result<()> {
    let world = World::with_settings("joins_deferred", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    client.send(ROOM, "phx_join", &json!([])).await?;
    for _ in 0..1_000 {
        client.send(ROOM, "broadcast", &json!({})).await?;
    }
    client.heartbeat().await?;
    client.send(ROOM, "broadcast", &json!({})).await?;
    let end = client.closed().await?;
    assert_eq!(end, Some((1008, "too many messages before the join was answered".to_owned())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_wait_for_a_join_may_not_be_as_large_as_they_like() -> Result<()> {
    let world = World::with_settings("joins_deferred_bytes", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    let large = json!({ "x": "y".repeat(4_900_000) });
    for topic in ["realtime:a", "realtime:b"] {
        client.send(topic, "phx_join", &json!([])).await?;
        client.send(topic, "broadcast", &large).await?;
    }
    client.heartbeat().await?;
    client.send("realtime:a", "broadcast", &large).await?;
    let end = client.closed().await?;
    assert_eq!(end, Some((1008, "too many messages before the join was answered".to_owned())));
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
