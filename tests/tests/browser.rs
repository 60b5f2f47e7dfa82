//! The demo page in a real browser, as three people. What is checked is in `tests/browser/`.

use anyhow::Result;
use tokio::process::Command;
use walcast_tests::{World, script};

#[tokio::test(flavor = "multi_thread")]
async fn three_people_use_the_demo_page_and_each_sees_what_they_may() -> Result<()> {
    let world = World::demo("browser").await?;
    let mut command = Command::new("node");
    command
        .arg("page.mjs")
        .current_dir(script::folder("browser"))
        .env("WALCAST_PAGE", format!("{}/", world.http()))
        .env("WALCAST_ARTIFACTS", script::folder("../artifacts"));
    script::run(&mut command, async || anyhow::bail!("the page does not ask for restarts")).await?;
    world.server.stop().await
}
