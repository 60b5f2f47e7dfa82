//! Nothing is lost while something breaks: a handful of the scenarios of `make faults`, in seconds.
//!
//! Each has a PostgreSQL and a server process of its own. They run one after another, so that none of them waits for a
//! processor that the others have.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::Mutex;
use walcast_tests::faults::{NotHere, Pace, Scenario, Setup, Side};

static ALONE: Mutex<()> = Mutex::const_new(());

async fn holds(scenario: Scenario) -> Result<()> {
    let _alone = ALONE.lock().await;
    let pace = Pace { calm: Duration::from_secs(1), broken: Duration::from_secs(2) };
    let setup = Setup { rows_per_second: 200, ..Setup::default() };
    match scenario.play(setup, pace).await? {
        Ok(figures) => scenario.judge(&figures),
        Err(NotHere(reason)) => bail!("it can not be played here: {reason}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_nobody_a_row() -> Result<()> {
    holds(Scenario::ServerKilled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_costs_nobody_a_row() -> Result<()> {
    holds(Scenario::PostgresKilled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_again_and_again_costs_nobody_a_row() -> Result<()> {
    holds(Scenario::NetworkCut(Side::Database)).await?;
    holds(Scenario::NetworkCut(Side::Clients)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_between_server_and_clients_costs_nobody_a_row() -> Result<()> {
    holds(Scenario::NetworkBlackHole(Side::Clients)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_a_gap_that_everybody_is_told_of() -> Result<()> {
    holds(Scenario::SlotDropped).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_created_anew_is_a_gap_that_everybody_is_told_of() -> Result<()> {
    holds(Scenario::PublicationRecreated).await
}
