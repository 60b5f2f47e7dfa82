//! Cases 223 to 225, 231 and 300: who gets a row.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_tests::watching::{Watcher, role_name, watched};
use walcast_tests::{binding, person, role, token};

use super::{watch, watch_as, with};
use crate::scene::{on_both, room, world};

pub(crate) const SCHEMA: &str = "
    create schema hidden;
    create table hidden.notes (id int primary key, body text);
    grant select on hidden.notes to authenticated;
    create table letters (id int generated always as identity primary key, test text, reader text);
    alter table letters replica identity full;
    alter table letters enable row level security;
    create policy own on letters for select to authenticated using (reader = (select auth.jwt() ->> 'sub'));
    grant select on letters to authenticated, service_role;
    create table poisoned (id int primary key, t text);
    alter table poisoned enable row level security;
    create policy failing on poisoned for select to authenticated
        using (case when auth.jwt() ->> 'sub' = 'ana' then 1 / (id - id) = 1 else true end);
    grant select on poisoned to authenticated;
    alter publication supabase_realtime add table hidden.notes, letters, poisoned;
";

#[tokio::test(flavor = "multi_thread")]
async fn case_223_a_role_without_usage_of_the_schema_can_subscribe_and_is_told_what_is_missing() -> Result<()>
{
    let world = world().await?;
    let hidden = json!({ "event": "INSERT", "schema": "hidden", "table": "notes" });
    let mut watcher = watch(&world, &[hidden]).await?;
    let (status, text) = watcher.system().await?;
    ensure!(
        status == "ok" && text.contains("GRANT USAGE ON SCHEMA \"hidden\" TO \"authenticated\""),
        "{text}"
    );
    world.sql("insert into hidden.notes values (1, 'secret')").await?;
    let changes = watcher.seen(&world).await?;
    ensure!(changes.len() == 1 && changes[0]["errors"] == json!(["Error 401: Unauthorized"]), "{changes:?}");
    ensure!(changes[0]["record"] == json!({}) && changes[0]["columns"] == json!([]), "{changes:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_224_many_subscribers_of_a_custom_role_get_their_rows() -> Result<()> {
    let tables =
        "create table notes (id int primary key); create publication supabase_realtime for table notes;";
    let world = watched("conformance_224", tables).await?;
    let name = role_name("custom");
    world.sql(&format!("create role {name}; grant select on notes to {name}")).await?;
    let mut watchers = Vec::new();
    for _ in 0..15 {
        watchers.push(watch_as(&world, &role(&name), &[binding("INSERT", "notes")]).await?);
    }
    world.sql("insert into notes values (1), (2)").await?;
    for watcher in &mut watchers {
        ensure!(watcher.ids(&world).await? == [1, 2]);
    }
    // A role that others of the cluster share is removed before its database.
    drop(watchers);
    world.sql(&format!("drop owned by {name}; drop role {name}")).await
}

/// Who the letters are for that a channel with these claims gets.
async fn readers(test: &str, claims: &Value) -> Result<Watcher> {
    let world = world().await?;
    watch_as(&world, claims, &[with("letters", "filter", format!("test=eq.{test}"))]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_225_only_rows_that_the_claims_can_see_are_delivered_and_all_to_the_service_role() -> Result<()>
{
    let world = world().await?;
    let mut watchers = Vec::new();
    for (claims, expected) in [
        (person("ana"), &["ana", "ana"][..]),
        (person("bruno"), &["bruno"]),
        (person("carla"), &[]),
        (role("anon"), &[]),
        (role("service_role"), &["ana", "bruno", "ana"]),
    ] {
        // To subscribe to what it may not read, anon needs no filter.
        let watcher = if claims["role"] == "anon" {
            watch_as(&world, &claims, &[binding("*", "case_225")]).await?
        } else {
            readers("225", &claims).await?
        };
        watchers.push((watcher, claims, expected));
    }
    world
        .sql("insert into letters (test, reader) values ('225', 'ana'), ('225', 'bruno'), ('225', 'ana')")
        .await?;
    for (watcher, claims, expected) in &mut watchers {
        let changes = watcher.seen(&world).await?;
        let seen: Vec<_> = changes.iter().map(|data| data["record"]["reader"].clone()).collect();
        ensure!(json!(seen) == json!(expected), "{claims}: {seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_231_after_a_new_token_its_claims_decide() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let test = topic.replace(' ', "");
        let client = world.connect_as(&person("ana"), version).await?;
        let letters = with("letters", "filter", format!("test=eq.\"{test}\""));
        let mut watcher = Watcher::join_on(client, &topic, &[letters]).await?;
        let both =
            format!("insert into letters (test, reader) values ('{test}', 'ana'), ('{test}', 'bruno')");
        for (claims, expected) in [
            (None, &["ana"][..]),
            (Some(person("bruno")), &["bruno"]),
            (Some(role("service_role")), &["ana", "bruno"]),
            (Some(person("ana")), &["ana"]),
        ] {
            if let Some(claims) = &claims {
                watcher.client.access_token(&topic, &token(claims)).await?;
                let (status, text) = watcher.system().await?;
                ensure!((status.as_str(), text.as_str()) == ("ok", "Subscribed to PostgreSQL"), "{text}");
            }
            world.sql(&both).await?;
            let changes = watcher.seen(&world).await?;
            let seen: Vec<_> = changes.iter().map(|data| data["record"]["reader"].clone()).collect();
            ensure!(json!(seen) == json!(expected), "{claims:?}: {seen:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_300_a_poison_filter_or_policy_concerns_its_own_subscription_only() -> Result<()> {
    let world = world().await?;
    let filtered = |filter: &str| with("case_300", "filter", filter);
    // A pattern that ends with its escape character fails when a row gets there.
    let mut poison = watch(&world, &[filtered(r"t=like.a\")]).await?;
    let mut sound = watch(&world, &[filtered("t=like.a%")]).await?;
    let mut failing = watch_as(&world, &person("ana"), &[binding("*", "poisoned")]).await?;
    let mut seeing = watch_as(&world, &person("bruno"), &[binding("*", "poisoned")]).await?;
    world
        .sql(
            "insert into case_300 (id, t) values (1, 'ab'), (2, 'ac'); insert into poisoned values (1, 'x');
              insert into case_300 (id, t) values (3, 'ad'); insert into poisoned values (2, 'y')",
        )
        .await?;
    ensure!(sound.ids(&world).await? == [1, 2, 3]);
    ensure!(seeing.ids(&world).await? == [1, 2]);
    ensure!(poison.ids(&world).await?.is_empty() && failing.ids(&world).await?.is_empty());
    failing.client.heartbeat().await.context("the socket lives")
}
