//! Cases 44, 85 to 94 and 108: who may join.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{Handshake, ProtocolVersion};
use walcast_tests::{World, log, role, token};

use super::{
    Door, asked_raising, may, may_not_read, member, on_all, private, room_of, say, world, world_with_door,
};
use crate::scene::{on_both, refused, room, sub_topic};

/// Fails unless these claims may not join, for the want of a policy.
async fn shut(world: &World, version: ProtocolVersion, claims: &Value, topic: &str) -> Result<()> {
    let mut client = world.connect_as(claims, version).await?;
    let reason = refused(&mut client, topic, &private()).await?;
    ensure!(reason == format!("Unauthorized: {}", may_not_read(topic)), "{claims}: {reason}");
    Ok(())
}

/// Fails unless these claims may join.
async fn open(world: &World, version: ProtocolVersion, claims: &Value, topic: &str) -> Result<()> {
    member(world, version, claims, topic, &private()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_044_a_project_of_private_channels_refuses_a_public_one_and_no_private_one() -> Result<()> {
    let only = |settings: &mut walcast::serve::ServeSettings| settings.project.limits.private_only = true;
    let policy = "create policy open on realtime.messages for all to authenticated using (true)";
    let world = World::installed("conformance_044", policy, only).await?;
    on_both(async |version| {
        let mut client = world.connect_as(&role("authenticated"), version).await?;
        for config in [json!({}), json!({ "private": false })] {
            let reason = refused(&mut client, &room(), &json!({ "config": config })).await?;
            ensure!(reason == "PrivateOnly: This project only allows private channels", "{reason}");
        }
        let topic = room();
        ensure!(client.join(&topic, &private()).await?.is_ok());
        ensure!(say(&mut client, &topic, "e").await?.is_ok());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_085_a_policy_by_the_role_holds_for_a_join() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room_of("by role");
        open(&world, version, &role("authenticated"), &topic).await?;
        shut(&world, version, &role("anon"), &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_086_a_policy_by_the_user_holds_for_a_join() -> Result<()> {
    const ANA: &str = "11111111-1111-4111-8111-111111111111";
    let world = world().await?;
    on_both(async |version| {
        let topic = format!("realtime:of {ANA}");
        let mut claims = role("authenticated");
        claims["sub"] = ANA.into();
        open(&world, version, &claims, &topic).await?;
        claims["sub"] = ANA.replace('1', "2").into();
        shut(&world, version, &claims, &topic).await?;
        shut(&world, version, &role("authenticated"), &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_087_a_policy_sees_the_headers_of_the_handshake() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room_of("door");
        for (door, opens) in [("open", true), ("shut", false)] {
            let mut handshake = Handshake::new(&world.websocket(), &token(&role("authenticated")), version);
            handshake.headers.push(("X-Door".to_owned(), door.to_owned()));
            let mut client = handshake.connect().await?.strictly();
            ensure!(client.join(&topic, &private()).await?.is_ok() == opens, "{door}");
        }
        shut(&world, version, &role("authenticated"), &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_088_a_policy_by_the_topic_opens_that_one_and_no_other() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        open(&world, version, &role("authenticated"), "realtime:lobby").await?;
        for topic in ["realtime:lobby2", "realtime:Lobby", "realtime:lobby:", "realtime:realtime:lobby"] {
            shut(&world, version, &role("authenticated"), topic).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_089_without_a_policy_for_reading_the_join_is_unauthorized_and_names_the_topic() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room_of("a:b c");
        shut(&world, version, &role(name), &topic).await?;
        // To write is no right to read, and presence is not asked by who does not want it.
        shut(&world, version, &may(name, "", "all"), &topic).await?;
        shut(&world, version, &may(name, "presence", "all"), &topic).await?;
        open(&world, version, &may(name, "broadcast", ""), &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_090_a_policy_that_raises_is_unauthorized_and_logged() -> Result<()> {
    log::log();
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        shut(&world, version, &asked_raising("read"), &topic).await?;
        let text = format!("the policy fails on {}", sub_topic(&topic));
        let logged = log::lines_with(&["RlsPolicyError", &text]);
        ensure!(logged.len() == 1, "{logged:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_091_a_role_that_does_not_exist_is_unauthorized() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for name in ["nobody_knows_it", "Authenticated", "authenticated; drop table x", "r\"o"] {
            shut(&world, version, &may(name, "all", "all"), &room()).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_092_a_policy_that_takes_too_long_is_a_query_canceled() -> Result<()> {
    let world = world_with_door("conformance_092", Duration::from_millis(300), |_| {}).await?;
    let door = Door::shut(&world).await?;
    on_both(async |version| {
        let mut client = world.connect_as(&role("anon"), version).await?;
        let reason = refused(&mut client, &room(), &private()).await?;
        ensure!(reason == "QueryCanceled: canceling statement due to statement timeout", "{reason}");
        Ok(())
    })
    .await?;
    door.open().await?;
    on_both(async |version| open(&world, version, &role("anon"), &room()).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_093_without_a_partition_for_today_who_has_to_be_asked_about_is_refused_with_missing_partition()
-> Result<()> {
    let left_alone = |settings: &mut walcast::serve::ServeSettings| {
        settings.project.janitor.enabled = Some(false);
    };
    let world = world_with_door("conformance_093", Duration::from_secs(5), left_alone).await?;
    world
        .sql(
            "do $$ declare partition regclass; begin
               for partition in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass
               loop execute format('drop table %s', partition); end loop;
             end $$",
        )
        .await?;
    on_both(async |version| {
        let mut client = world.connect_as(&role("anon"), version).await?;
        let reason = refused(&mut client, &room(), &private()).await?;
        let expected = "MissingPartition: Realtime was unable to find the expected messages partition";
        ensure!(reason == expected, "{reason}");
        // What walcast decides itself needs no partition.
        let topic = room();
        let mut client = member(&world, version, &role("authenticated"), &topic, &private()).await?;
        ensure!(say(&mut client, &topic, "e").await?.is_ok());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_094_without_a_free_connection_the_pool_is_to_be_increased_and_the_next_do_not_wait()
-> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const REASON: &str = "IncreaseConnectionPool: Please increase your connection pool size";
    on_both(async |version| {
        let world = world_with_door("conformance_094", PATIENCE, |settings| {
            settings.project.database.pool_size = 1;
            // Which would want the connection as well.
            settings.project.catalog_poll = Duration::from_mins(10);
            settings.project.janitor.enabled = Some(false);
        })
        .await?;
        let topic = room();
        let mut asking = member(&world, version, &role("anon"), &topic, &private()).await?;
        let mut waiting = world.connect_as(&role("anon"), version).await?;
        let door = Door::shut(&world).await?;
        // For two messages, one after the other, so that it takes longer than anybody waits.
        let reference = asking.send(&topic, "broadcast", &json!({ "event": "e" })).await?;
        door.somebody_waits().await?;
        let started = Instant::now();
        let reason = refused(&mut waiting, &room(), &private()).await?;
        ensure!(reason == REASON, "{reason}");
        ensure!(started.elapsed() >= PATIENCE, "it gave up after {:?}", started.elapsed());
        let started = Instant::now();
        let reason = refused(&mut waiting, &room(), &private()).await?;
        ensure!(reason == REASON, "{reason}");
        ensure!(started.elapsed() < PATIENCE / 2, "it waited: {:?}", started.elapsed());
        door.open().await?;
        ensure!(!asking.reply(&reference).await?.is_ok(), "not decided in time");
        ensure!(waiting.join(&room(), &private()).await?.is_ok(), "the connection is free again");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_108_where_policies_allow_authenticated_anon_is_denied() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room_of("members");
        open(&world, version, &role("authenticated"), &topic).await?;
        shut(&world, version, &role("anon"), &topic).await
    })
    .await
}
