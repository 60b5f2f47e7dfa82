//! Cases 277 to 293 and 296: the stock clients themselves. What each does is in `tests/clients`.

use anyhow::{Result, bail};
use tokio::process::Command;
use walcast_tests::shared::Shared;
use walcast_tests::{SECRET, World, script};

/// With the table that the scripts write to.
static WORLD: Shared = Shared::new("conformance_clients", || SCHEMA.to_owned(), |_| {});
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

/// Runs a case of `tests/clients/js/cases.mjs`.
async fn javascript(case: &str) -> Result<()> {
    let world = WORLD.world().await?;
    let mut command = command("node", &["js/cases.mjs", case], &world);
    script::run(&mut command, async || bail!("the cases restart nothing")).await
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
async fn case_280_the_client_sees_who_is_there_on_a_public_channel() -> Result<()> {
    javascript("280").await
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
async fn case_293_the_python_client_goes_through_its_full_cycle_on_version_1() -> Result<()> {
    let mut world = Some(World::with_sql("conformance_293", SCHEMA).await?);
    let running = world.as_ref().expect("started above");
    let mut command = command("python/.venv/bin/python", &["python/check.py"], running);
    script::run(&mut command, async || {
        if let Some(running) = world.take() {
            world = Some(running.restart().await?);
        }
        Ok(())
    })
    .await
}
