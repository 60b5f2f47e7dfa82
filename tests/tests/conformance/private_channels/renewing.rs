//! Cases 82, 97 and 99 to 101: a new token.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use walcast_tests::role;

use super::{
    Door, asked, following, heard, may, may_not_read, member, on_all, private, renew, room_of, say, settled,
    world, world_with_door,
};
use crate::scene::{acknowledged, end_of, on_both, room, sub_topic};

/// What the database is told to let nobody in, and to send away who is there.
const AWAY: &str = "
    update pg_database set datallowconn = false where datname = current_database();
    select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend';";
const BACK: &str = "update pg_database set datallowconn = true where datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn case_082_a_refresh_while_the_database_is_too_slow_or_away_closes_the_channel_and_says_which()
-> Result<()> {
    let world = world_with_door("conformance_082", Duration::from_secs(1), |_| {}).await?;
    on_both(async |version| {
        let (slow, away) = (room(), room());
        let mut client = member(&world, version, &role("anon"), &slow, &private()).await?;
        ensure!(client.join(&away, &private()).await?.is_ok());
        let door = Door::shut(&world).await?;
        renew(&mut client, &slow, &may("anon", "new", "")).await?;
        let message = end_of(&mut client, &slow).await?;
        ensure!(message == "Query was cancelled, please try again", "{message}");
        door.open().await?;
        world.sql(AWAY).await?;
        renew(&mut client, &away, &may("anon", "new", "")).await?;
        let message = end_of(&mut client, &away).await;
        world.sql(BACK).await?;
        let message = message?;
        ensure!(message == "Realtime was unable to connect to the project database", "{message}");
        ensure!(client.join(&away, &private()).await?.is_ok(), "it is back");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_097_a_new_token_has_the_right_to_read_asked_at_once() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let mut client = member(&world, version, &may(name, "all", "all"), &topic, &private()).await?;
        let mut renewed = may(name, "all", "all");
        renewed["again"] = true.into();
        renew(&mut client, &topic, &renewed).await?;
        acknowledged(&mut client, &topic).await?;
        // Nothing is sent that would have to be judged.
        renew(&mut client, &topic, &may(name, "", "all")).await?;
        let message = end_of(&mut client, &topic).await?;
        ensure!(message == may_not_read(&topic), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_099_a_new_token_that_has_lost_a_right_to_read_closes_the_channel() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        for left in ["presence", "broadcast"] {
            let topic = room();
            let all = may(name, "all", "all");
            let mut client = member(&world, version, &all, &topic, &following("key")).await?;
            renew(&mut client, &topic, &may(name, left, "all")).await?;
            let message = end_of(&mut client, &topic).await?;
            let expected = format!(
                "You no longer have permission to read from this Channel topic: {}",
                sub_topic(&topic)
            );
            ensure!(message == expected, "{left} is left: {message}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_100_a_new_token_that_may_read_broadcasts_starts_to_receive_them() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut writer = member(&world, version, &all, &topic, &private()).await?;
        let present = may(name, "presence", "");
        let mut client = member(&world, version, &present, &topic, &following("key")).await?;
        ensure!(say(&mut writer, &topic, "before").await?.is_ok());
        renew(&mut client, &topic, &all).await?;
        settled(&mut client, &topic).await?;
        ensure!(say(&mut writer, &topic, "after").await?.is_ok());
        ensure!(heard(&mut client).await? == "after", "and not what was sent before");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_101_a_new_token_on_a_public_channel_asks_no_policy() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room_of("case101");
        let mut public = private();
        public["config"]["private"] = false.into();
        let mut client = member(&world, version, &may("anon", "all", "all"), &topic, &public).await?;
        renew(&mut client, &topic, &may("anon", "", "")).await?;
        acknowledged(&mut client, &topic).await?;
        let reply = say(&mut client, &topic, "e").await?;
        ensure!(reply.response == json!({}), "it may still do all: {reply:?}");
        for kind in ["read_broadcast", "read_presence", "write_broadcast", "write_presence"] {
            ensure!(asked(&world, &format!("case101_{kind}")).await? == 0, "{kind} was asked");
        }
        Ok(())
    })
    .await
}
