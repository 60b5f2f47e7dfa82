//! Case 135: a single private message whose policies do not allow it, or can not be asked.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database};
use walcast_tests::requests::Answer;
use walcast_tests::{World, role, token};

use super::{accepted, answered, path_of, single};
use crate::stored;

async fn private(world: &World, topic: &str) -> Result<Answer> {
    single(world, &format!("{}?private=true", path_of(topic)), None, b"{}").await
}

fn message(text: &str) -> serde_json::Value {
    json!({ "message": text })
}

/// Policies that only Postgres can decide are asked with a short time-out.
fn impatient(settings: &mut ServeSettings) {
    settings.project.database.statement_timeout = Duration::from_millis(300);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_135_a_private_message_that_no_policy_allows_or_can_be_asked_about_is_refused_with_the_reason()
-> Result<()> {
    what_policies_say().await?;
    a_policy_that_takes_too_long().await?;
    a_missing_partition().await?;
    an_exhausted_pool().await?;
    Box::pin(a_database_that_is_full_or_away()).await
}

async fn what_policies_say() -> Result<()> {
    let world = stored::world().await?;
    accepted(&private(&world, "open:1").await?)?;
    answered(&private(&world, "read:1").await?, 403, &message("Unauthorized"))?;
    answered(&private(&world, "broken:1").await?, 422, &message("RLS policy error"))?;
    let nobody = token(&role("nobody_knows_it"));
    let path = format!("{}?private=true", path_of("open:1"));
    let refused = world.request_as(&nobody, "POST", &path, &json!({})).await?;
    answered(&refused, 422, &message("RLS policy error"))?;
    let bare = World::with_sql("conformance_135_bare", "").await?;
    let refused = private(&bare, "open:1").await?;
    ensure!(
        refused.status == 500 && refused.json()["message"] == "Unable to authorize broadcast",
        "{refused:?}"
    );
    Ok(())
}

async fn a_policy_that_takes_too_long() -> Result<()> {
    let sql = "create function slow() returns boolean language plpgsql as
                   $$ begin perform pg_sleep(60); return true; end $$;
               create policy slow on realtime.messages for insert to authenticated with check (slow());";
    let world = World::installed("conformance_135_slow", sql, impatient).await?;
    answered(&private(&world, "room").await?, 422, &message("Query canceled"))
}

async fn a_missing_partition() -> Result<()> {
    let sql = format!(
        "{} do $$ declare part regclass; begin
             for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
                 execute format('drop table %s', part);
             end loop;
         end $$;",
        stored::POLICIES
    );
    let idle = |settings: &mut ServeSettings| settings.project.janitor.enabled = Some(false);
    let world = World::installed("conformance_135_partition", &sql, idle).await?;
    answered(&private(&world, "asked:1").await?, 422, &message("Missing messages partition"))
}

/// The only connection waits for a lock that somebody else holds.
async fn an_exhausted_pool() -> Result<()> {
    let single_connection = |settings: &mut ServeSettings| {
        impatient(settings);
        settings.project.database.pool_size = 1;
    };
    let world = World::installed("conformance_135_pool", stored::POLICIES, single_connection).await?;
    // The role is known from now on.
    accepted(&private(&world, "asked:1").await?)?;
    let holding = world.database.client().await;
    holding.batch_execute("begin; lock table pg_catalog.pg_publication in access exclusive mode").await?;
    let waiting = "select count(*) from pg_locks where not granted and relation = 'pg_publication'::regclass
                   and pid in (select pid from pg_stat_activity where datname = current_database())";
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.client.query_one(waiting, &[]).await?.get::<_, i64>(0) == 0 {
        ensure!(Instant::now() < deadline, "the catalog is not looked at");
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        answered(&private(&world, "asked:1").await?, 429, &message("Connection pool exhausted"))?;
    }
    holding.batch_execute("rollback").await?;
    Ok(())
}

async fn a_database_that_is_full_or_away() -> Result<()> {
    let mut settings = test_settings();
    settings.settings.push(("max_connections".to_owned(), "16".to_owned()));
    let cluster = Cluster::start(settings).await?;
    let database = Database::create(&cluster, "conformance_135").await?;
    // Nothing of the server's comes and goes once all connections are taken.
    let settled = |settings: &mut ServeSettings| {
        impatient(settings);
        settings.project.janitor.enabled = Some(false);
    };
    let world = World::in_database(database, &World::installation(stored::POLICIES), settled).await?;
    let mut taken = Vec::new();
    loop {
        match tokio_postgres::connect(world.database.url(), tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                taken.push(client);
            }
            Err(error) if error.code().is_some_and(|code| code.code() == "53300") => break,
            Err(error) => bail!(error),
        }
    }
    let full = private(&world, "asked:1").await?;
    answered(&full, 422, &message("Tenant database has too many connections"))?;
    drop(taken);
    cluster.stop().await?;
    answered(&private(&world, "asked:1").await?, 422, &message("Tenant database unavailable"))?;
    // The database goes with its cluster, and is up again to be removed.
    cluster.start_again().await
}
