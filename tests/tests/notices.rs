//! What a join is told of bindings that are accepted and yet can not deliver (docs/row-level-security.md).

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_engine::Deletes;
use walcast_testkit::ProtocolClient;
use walcast_tests::watching::{Watcher, mark_binding, watched, watched_with};
use walcast_tests::{World, binding, person, role};

/// Joins, and gives what was said after "Subscribed to PostgreSQL" up to the first change.
async fn told(world: &World, claims: &Value, bindings: &[Value]) -> Result<Vec<String>> {
    let mut client = world.connect(claims).await?;
    let mut wanted = bindings.to_vec();
    wanted.push(mark_binding());
    let reply = client.join("realtime:told", &json!({ "config": { "postgres_changes": wanted } })).await?;
    assert!(reply.is_ok(), "{}", reply.response);
    assert_eq!(system(&mut client).await?, "Subscribed to PostgreSQL");
    world.mark().await?;
    client.expect(|message| message.event == "postgres_changes").await?;
    let said = client.unclaimed().filter_map(|message| message.system("postgres_changes"));
    Ok(said
        .map(|(status, text)| {
            assert_eq!(status, "ok", "the bindings hold: {text}");
            text.to_owned()
        })
        .collect())
}

async fn system(client: &mut ProtocolClient) -> Result<String> {
    let message = client.expect(|message| message.event == "system").await?;
    Ok(message.system("postgres_changes").context("not about bindings")?.1.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_grant_is_told_so_and_the_sql_it_is_told_mends_it() -> Result<()> {
    let world = watched(
        "notices_grant",
        "create schema shop; create table shop.orders (id int primary key);
         create publication supabase_realtime for table shop.orders;",
    )
    .await?;
    let orders = [json!({ "event": "*", "schema": "shop", "table": "orders" })];
    let said = told(&world, &person("ana"), &orders).await?;
    let mend = "GRANT USAGE ON SCHEMA \"shop\" TO \"authenticated\"; \
                GRANT SELECT ON \"shop\".\"orders\" TO \"authenticated\";";
    let sentence =
        "Role \"authenticated\" may not SELECT from \"shop\".\"orders\", so nothing of it is delivered.";
    assert_eq!(said, [format!("{sentence} To receive changes: {mend}")]);
    world.sql(mend).await?;
    let world = world.restart().await?;
    assert!(told(&world, &person("ana"), &orders).await?.is_empty());
    let mut ana = Watcher::join(&world, &person("ana"), &orders).await?;
    world.sql("insert into shop.orders values (1)").await?;
    assert_eq!(ana.ids(&world).await?, [1]);
    Ok(())
}

/// A table with row security, and a policy for `authenticated` alone.
const LETTERS: &str = "
    create table letters (id int primary key, reader text);
    alter table letters enable row level security;
    alter table letters replica identity full;
    create policy own on letters for select to authenticated using (reader = (auth.jwt() ->> 'sub'));
    create policy all_of_them on letters as restrictive for select to anon using (true);
    grant select on letters to anon, authenticated, service_role;
    create publication supabase_realtime for table letters;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_no_policy_admits_is_told_so_and_nobody_else_is() -> Result<()> {
    let world = watched("notices_policy", LETTERS).await?;
    let letters = [binding("*", "letters"), binding("INSERT", "letters")];
    let said = told(&world, &role("anon"), &letters).await?;
    let sentence = "Row-level security is on for \"public\".\"letters\" and no permissive policy for SELECT is for \
                    role \"anon\", so nothing of it is delivered. To receive changes: CREATE POLICY \"…\" ON \
                    \"public\".\"letters\" FOR SELECT TO \"anon\" USING (…);";
    assert_eq!(said, [sentence], "once, though two bindings name the table");
    for claims in [person("ana"), role("service_role")] {
        assert!(told(&world, &claims, &letters).await?.is_empty(), "{claims}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_which_every_read_is_an_error_is_told_the_error_and_the_grant() -> Result<()> {
    let world = watched(
        "notices_raises",
        "create table members (room int, who text, primary key (room, who));
         create table notes (id int primary key, room int);
         alter table notes enable row level security;
         create policy members on notes for select to authenticated using (exists (
             select from members m where m.room = notes.room and m.who = (auth.jwt() ->> 'sub')));
         grant select on notes to authenticated;
         insert into members values (1, 'ana');
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let notes = [binding("INSERT", "notes")];
    let said = told(&world, &person("ana"), &notes).await?;
    let mend = "GRANT SELECT ON \"public\".\"members\" TO \"authenticated\";";
    let sentence = "Role \"authenticated\" gets an error from every read of \"public\".\"notes\", permission denied \
                    for table members, so nothing of it is delivered.";
    assert_eq!(said, [format!("{sentence} To receive changes: {mend}")]);
    world.sql(mend).await?;
    let world = world.restart().await?;
    assert!(told(&world, &person("ana"), &notes).await?.is_empty());
    let mut ana = Watcher::join(&world, &person("ana"), &notes).await?;
    world.sql("insert into notes values (1, 1), (2, 2)").await?;
    assert_eq!(ana.ids(&world).await?, [1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_deletes_go_to_everybody_nobody_is_told_that_they_do_not() -> Result<()> {
    let sql = format!("{LETTERS} alter table letters replica identity default;");
    let compatible = |settings: &mut ServeSettings| settings.project.engine.deletes = Deletes::Compatible;
    let world = watched_with("notices_compatible", &sql, compatible).await?;
    let said = told(&world, &role("anon"), &[binding("*", "letters")]).await?;
    assert!(said.len() == 1 && said[0].contains("so nothing but DELETE of it is delivered"), "{said:?}");
    assert!(told(&world, &role("anon"), &[binding("DELETE", "letters")]).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_of_many_tables_is_told_of_twenty() -> Result<()> {
    let world = watched(
        "notices_many",
        "create schema many; create publication supabase_realtime;
         do $$ begin
             for number in 1..25 loop
                 execute format('create table many.t%s (id int primary key)', number);
                 execute format('alter publication supabase_realtime add table many.t%s', number);
             end loop;
         end $$;",
    )
    .await?;
    let said = told(&world, &person("ana"), &[json!({ "event": "*", "schema": "many" })]).await?;
    assert_eq!(said.len(), 20);
    Ok(())
}
