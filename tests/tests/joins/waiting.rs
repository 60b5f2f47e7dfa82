//! Which topics there are, and what happens while a join is being decided: docs/protocol.md §3.1, §1.5.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_tests::{World, person};

use crate::{BOTH, NOTES, ROOM, acknowledged, acknowledging, open_config, raw, refusals_never_come};

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
