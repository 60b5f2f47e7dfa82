//! Cases 128 to 131 and 134: what is refused.

use std::num::NonZeroU32;

use anyhow::{Result, ensure};
use serde_json::json;
use walcast_auth::Secret;
use walcast_server::front::Address;
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, http, person, token};

use super::{ACCEPTED, accepted, answered, batch, nothing_but_a_mark, path_of, single};
use crate::scene::{member, room, sub_topic, world};

#[tokio::test(flavor = "multi_thread")]
async fn case_128_a_payload_that_is_too_large_is_refused() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let mut client = member(&world, ProtocolVersion::V2, &topic, &json!({})).await?;
    // `{"x":"…"}` is eight bytes more than its text, and 3,000,500 are allowed.
    let payload = |bytes: usize| json!({ "x": "y".repeat(bytes - 8) });
    let message =
        |bytes: usize| json!({ "topic": sub_topic(&topic), "event": "e", "payload": payload(bytes) });
    let too_large = json!({ "payload": ["Payload size exceeds tenant limit"] });
    let small = json!({ "topic": sub_topic(&topic), "event": "e", "payload": {} });
    let refused = batch(&world, &json!([small, message(3_000_501)])).await?;
    answered(&refused, 422, &json!({ "errors": { "messages": [{}, too_large] } }))?;
    let (path, json) = (path_of(sub_topic(&topic)), Some("application/json"));
    let refused = single(&world, &path, json, payload(3_000_501).to_string().as_bytes()).await?;
    answered(&refused, 422, &json!({ "errors": too_large }))?;
    nothing_but_a_mark(&world, sub_topic(&topic), &mut client).await?;
    accepted(&batch(&world, &json!([message(3_000_500)])).await?)?;
    accepted(&single(&world, &path, json, payload(3_000_500).to_string().as_bytes()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_129_more_messages_than_the_rate_has_left_are_refused() -> Result<()> {
    let world = World::with_settings("conformance_129", "", |settings| {
        settings.project.engine.max_events_per_second = NonZeroU32::new(2);
    })
    .await?;
    let message = json!({ "topic": "room", "event": "e", "payload": {} });
    let refused = batch(&world, &json!([message, message, message])).await?;
    let told = "Too many messages to broadcast, please reduce the batch size";
    ensure!(refused.status == 429 && refused.json()["message"] == told, "{refused:?}");
    ensure!(refused.header("x-rate-limit") == Some("2"), "{refused:?}");
    // Each takes far less than the half second after which there is another one.
    for path in ["/api/broadcast", "/api/broadcast/room/events/e"] {
        let send = async || match path {
            "/api/broadcast" => batch(&world, &json!([message])).await,
            single_path => single(&world, single_path, None, b"{}").await,
        };
        let mut answer = send().await?;
        for _ in 0..1_000 {
            if answer.status != ACCEPTED.0 {
                break;
            }
            answer = send().await?;
        }
        let told = answer.json();
        ensure!(answer.status == 429, "{path}: {answer:?}");
        ensure!(told["message"] == "You have exceeded your rate limit", "{path}: {told}");
        ensure!(
            told["detail"].as_str().is_some_and(|detail| detail.contains("limits.max_events_per_second"))
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_130_a_bad_token_or_an_unknown_project_is_unauthorized_and_a_good_one_comes_in_either_header()
-> Result<()> {
    let world = World::with_settings("conformance_130", "", |settings| {
        let listed = |name: &str| Address::Listed {
            hosts: vec![name.parse().expect("a host name")],
            paths: vec![format!("/{name}").parse().expect("a path")],
        };
        let mut other = settings.project.clone();
        other.id = "green".parse().expect("a name");
        other.address = listed("green");
        other.replication.slot = format!("{}_green", settings.project.replication.slot);
        settings.project.id = "blue".parse().expect("a name");
        settings.project.address = listed("blue");
        settings.others = vec![other];
    })
    .await?;
    let good = token(&person("ana"));
    let expired = token(&json!({ "role": "authenticated", "exp": 1 }));
    let forged = walcast_auth::sign(&person("ana"), "another secret, and long enough").expect("claims");
    let body = br#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#;
    let unauthorized = json!({ "message": "Unauthorized" });
    for path in ["/blue/api/broadcast", "/blue/api/broadcast/room/events/e"] {
        for wrong in
            ["", "Bearer", "Bearer potato", &format!("Bearer {expired}"), &format!("Bearer {forged}")]
        {
            let refused = world.request("POST", path, &[("authorization", wrong)], body).await?;
            answered(&refused, 401, &unauthorized)?;
        }
        answered(&world.request("POST", path, &[("x-api-key", &good)], body).await?, 401, &unauthorized)?;
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let value = format!("{scheme} {good}");
            accepted(&world.request("POST", path, &[("authorization", &value)], body).await?)?;
        }
        accepted(&world.request("POST", path, &[("apikey", &good)], body).await?)?;
    }
    let nobody = http::ask(world.server.address(), "POST", "/api/broadcast", "content-length: 0\r\n").await?;
    ensure!(nobody.status == 401, "{nobody:?}");
    ensure!(nobody.json()? == json!({ "message": "Tenant not found in database" }), "{nobody:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_131_a_suspended_project_takes_no_message() -> Result<()> {
    let world = World::with_settings("conformance_131", "", |settings| {
        settings.project.limits.suspended = true;
        settings.operations.secrets = vec![Secret::new("a secret of the operators, long enough as well")];
    })
    .await?;
    let suspended = json!({ "message": "Tenant is suspended" });
    let message = json!({ "topic": "room", "event": "e", "payload": {} });
    answered(&batch(&world, &json!([message])).await?, 403, &suspended)?;
    answered(&single(&world, "/api/broadcast/room/events/e", None, b"{}").await?, 403, &suspended)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_134_a_single_message_is_json_or_bytes_and_no_other_type() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let mut client = member(&world, ProtocolVersion::V2, &topic, &json!({})).await?;
    let path = path_of(sub_topic(&topic));
    for good in [Some("application/json; charset=utf-8"), Some("Application/JSON"), None] {
        accepted(&single(&world, &path, good, b"{}").await?)?;
        client.expect(|message| message.event == "broadcast").await?;
    }
    let error = "Unsupported Media Type. Use application/json or application/octet-stream";
    for other in ["text/plain", "application/xml", "text/xml", "multipart/form-data; boundary=x", "json"] {
        let refused = single(&world, &path, Some(other), b"{}").await?;
        answered(&refused, 415, &json!({ "error": error }))?;
    }
    nothing_but_a_mark(&world, sub_topic(&topic), &mut client).await
}
