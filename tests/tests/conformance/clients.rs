//! Cases 277 to 293 and 296: the stock clients themselves. What each does is in `tests/clients`.

use anyhow::{Result, bail};
use tokio::process::Command;
use walcast_tests::shared::Shared;
use walcast_tests::{SECRET, World, script};

/// With the tables that the scripts write to.
static WORLD: Shared = Shared::new("conformance_clients", || World::installation(SCHEMA), |_| {});
const SCHEMA: &str = include_str!("../../clients/schema.sql");

fn command(program: &str, arguments: &[&str], world: &World) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(script::folder("clients"))
        .env("WALCAST_URL", world.http())
        .env("WALCAST_JWT_SECRET", SECRET)
        .env("DATABASE_URL", world.database.url());
    command
}

/// The newest client, and one with serializer 1.0.0.
const PACKAGES: [&str; 2] = ["@supabase/supabase-js", "supabase-js-v1-serializer"];

/// Runs what `tests/clients/js/check.mjs` has of a case.
async fn promises(case: &str) -> Result<()> {
    let world = WORLD.world().await?;
    for package in PACKAGES {
        let mut command = command("node", &["js/check.mjs", package, case], &world);
        script::run(&mut command, async || bail!("the cases restart nothing")).await?;
    }
    Ok(())
}

/// Runs a case of `tests/clients/js/cases.mjs`.
async fn javascript(case: &str) -> Result<()> {
    let world = WORLD.world().await?;
    let mut command = command("node", &["js/cases.mjs", case], &world);
    script::run(&mut command, async || bail!("the cases restart nothing")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_277_the_first_connect_of_the_client_is_subscribed_soon() -> Result<()> {
    javascript("277").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_278_the_client_gets_its_own_broadcast() -> Result<()> {
    javascript("278").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_279_the_client_broadcasts_over_http() -> Result<()> {
    promises("279").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_280_the_client_sees_who_is_there_on_a_public_channel() -> Result<()> {
    javascript("280").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_281_the_client_sees_who_is_there_on_a_private_channel() -> Result<()> {
    promises("281").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_282_without_permission_the_client_is_told_why_it_may_not_join() -> Result<()> {
    promises("282").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_283_with_permission_the_client_is_subscribed_to_a_private_channel() -> Result<()> {
    promises("283").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_284_claims_and_role_of_the_clients_token_decide_about_a_private_channel() -> Result<()> {
    promises("284").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_285_the_client_is_sent_what_a_signed_in_user_inserts() -> Result<()> {
    promises("285").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_286_the_client_is_sent_what_a_signed_in_user_updates() -> Result<()> {
    promises("286").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_287_the_client_is_sent_what_a_signed_in_user_deletes() -> Result<()> {
    promises("287").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_288_the_client_gets_inserts_updates_and_deletes_with_a_filter_at_the_same_time() -> Result<()> {
    javascript("288").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_289_a_select_of_the_client_restricts_the_payload() -> Result<()> {
    javascript("289").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_290_every_operator_and_their_composition_work_through_the_filter_builder_of_the_client()
-> Result<()> {
    javascript("290").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_291_the_client_is_sent_stored_messages_when_it_joins() -> Result<()> {
    promises("291").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_292_of_many_messages_of_every_kind_the_client_gets_all() -> Result<()> {
    promises("292").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_293_the_python_client_goes_through_its_full_cycle_on_version_1() -> Result<()> {
    let mut world = Some(World::installed("conformance_293", SCHEMA, |_| {}).await?);
    let running = world.as_ref().expect("started above");
    let mut command = command("python/.venv/bin/python", &["python/check.py"], running);
    script::run(&mut command, async || {
        if let Some(running) = world.take() {
            world = Some(running.restart().await?);
        }
        Ok(())
    })
    .await
    .map(drop)
}
