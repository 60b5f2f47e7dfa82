//! The stock client libraries, unchanged from their registries, against a real server. What each checks is
//! in `tests/clients/`.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use walcast::serve::ServeSettings;
use walcast_tests::{SECRET, World, script};

/// Runs one of the scripts of `tests/clients` against a server of its own, which it may restart. Gives its report.
async fn check(name: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let schema = include_str!("../clients/schema.sql");
    // Longer than a client waits before it connects again, however busy the machine is.
    let grace =
        |settings: &mut ServeSettings| settings.project.engine.presence_grace = Duration::from_secs(15);
    let world = World::installed(name, schema, grace).await?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(script::folder("clients"))
        .env("WALCAST_URL", world.http())
        .env("WALCAST_JWT_SECRET", SECRET)
        .env("DATABASE_URL", world.database.url());
    let world = RefCell::new(Some(world));
    script::run(&mut command, async || {
        let running = world.borrow_mut().take().context("the server is being restarted already")?;
        let restarted = running.restart().await?;
        *world.borrow_mut() = Some(restarted);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_supabase_js_works_unchanged() -> Result<()> {
    check("clients_js", "node", &["js/check.mjs", "@supabase/supabase-js"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_supabase_js_with_serializer_1_0_0_works_unchanged() -> Result<()> {
    check("clients_js_v1", "node", &["js/check.mjs", "supabase-js-v1-serializer"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_supabase_js_that_begins_while_rows_are_written_is_what_select_says() -> Result<()> {
    println!("{}", check("clients_list", "node", &["js/list.mjs"]).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_the_phoenix_framework_works_over_websocket() -> Result<()> {
    check("clients_phoenix", "node", &["js/phoenix.mjs", "websocket"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_the_phoenix_framework_works_over_long_polling() -> Result<()> {
    check("clients_longpoll", "node", &["js/phoenix.mjs", "longpoll"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works_unchanged() -> Result<()> {
    check("clients_python", "python/.venv/bin/python", &["python/check.py"]).await.map(drop)
}
