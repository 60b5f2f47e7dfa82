//! Cases 245, 262 and 276: the health check, and a socket that stops reading.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::sync::Mutex;
use walcast::serve::ServeSettings;
use walcast_server::HealthRequests;
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, http, log};

use crate::scene::{member, on_both, room, world};

/// Held by whoever asks for the health check, so that the lines in the log are its own.
static ASKING: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn case_245_healthcheck_answers_ok_whoever_asks() -> Result<()> {
    let world = world().await?;
    let _asking = ASKING.lock().await;
    for headers in ["", "authorization: Bearer potato\r\n", "x-forwarded-host: nobody.example\r\n"] {
        let answer = http::ask(world.server.address(), "GET", "/healthcheck", headers).await?;
        ensure!((answer.status, answer.body.as_str()) == (200, "ok"), "{answer:?}");
        ensure!(
            answer.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/plain")),
            "{answer:?}"
        );
    }
    let head = world.request("HEAD", "/healthcheck", &[], b"").await?;
    ensure!((head.status, head.body.as_str()) == (200, ""), "{head:?}");
    let post = world.request("POST", "/healthcheck", &[], b"").await?;
    ensure!(post.status == 405, "{post:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_262_requests_of_the_health_check_are_logged_or_not_as_the_setting_says() -> Result<()> {
    log::log();
    for (requests, name) in [(HealthRequests::Logged, "logged"), (HealthRequests::LeftOut, "left-out")] {
        let set = move |settings: &mut ServeSettings| settings.health_requests = requests;
        let world = World::with_settings("conformance_262", "", set).await?;
        let address = world.server.address();
        let _asking = ASKING.lock().await;
        let count = || log::lines_with(&["request", "/healthcheck", "status=200"]).len();
        let before = count();
        ensure!(http::ask(address, "GET", "/healthcheck", "").await?.status == 200);
        // Logged behind the other one, so that both would be there.
        let mark = format!("/mark-{name}");
        ensure!(http::ask(address, "GET", &mark, "").await?.status == 404);
        ensure!(!log::lines_with(&["request", &mark]).is_empty(), "other requests are always logged");
        let logged = count() - before;
        ensure!(logged == usize::from(requests == HealthRequests::Logged), "{name}: {logged}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_276_a_socket_that_stops_reading_is_closed_at_its_limit_and_harms_nobody() -> Result<()> {
    let tight = |settings: &mut ServeSettings| settings.project.engine.outbound_bytes_max = 256 * 1024;
    let world = World::with_settings("conformance_276", "", tight).await?;
    on_both(async |version| {
        let topic = room();
        let mut deaf = member(&world, version, &topic, &json!({})).await?;
        let mut reading = member(&world, version, &topic, &json!({})).await?;
        let mut sender =
            member(&world, ProtocolVersion::V2, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        // 20 MB: more than the kernel's buffers of a connection take.
        let filler = "x".repeat(64 * 1024);
        for number in 0..300 {
            let payload = json!({ "event": "e", "number": number, "filler": filler });
            let reference = sender.send(&topic, "broadcast", &payload).await?;
            ensure!(sender.reply(&reference).await?.is_ok());
            let got = reading.expect(|message| message.event == "broadcast").await?;
            ensure!(got.payload["number"] == number, "out of order or missing");
        }
        let (code, reason) = deaf.closed().await?.context("a close frame")?;
        ensure!(code == 1013 && reason.starts_with("slow consumer"), "{code} {reason}");
        reading.heartbeat().await?;
        sender.heartbeat().await
    })
    .await
}
