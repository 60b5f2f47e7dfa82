//! Cases 266 to 272: the table of messages, who tidies it and who may do what with it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use walcast::serve::ServeSettings;
use walcast_tests::World;

use super::{POLICIES, inside, next, private_room, send, world};
use crate::scene::{next_broadcast, nothing_else, on_both, sub_topic};

/// The days that have partitions, as days from today on.
const DAYS: &str = "select coalesce(array_agg(
        to_date(substring(relname from 10), 'YYYY_MM_DD') - (now() at time zone 'UTC')::date order by relname), '{}')
    from pg_class as c join pg_inherits as i on i.inhrelid = c.oid
    where i.inhparent = 'realtime.messages'::regclass and relname <> 'messages_9999_12_31'";

#[tokio::test(flavor = "multi_thread")]
async fn case_266_the_janitor_drops_what_is_older_than_three_days_and_makes_partitions_three_days_ahead()
-> Result<()> {
    let sql = "
        do $$ declare part regclass; begin
            for part in select inhrelid from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
                where inhparent = 'realtime.messages'::regclass and relname <> 'messages_9999_12_31' loop
                execute format('drop table %s', part);
            end loop;
        end $$;
        select walcast.make_messages_partition((now() at time zone 'UTC')::date - ago)
            from unnest(array[2, 3, 4, 5, 9]) as ago;
        insert into realtime.messages (topic, extension, event, payload, inserted_at)
            select 'room', 'broadcast', 'e', '{}', now() at time zone 'UTC' - make_interval(days => ago)
            from unnest(array[2, 5, 9, 30]) as ago;";
    let world = World::installed("conformance_266", sql, |_| {}).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let days: Vec<i32> = world.client.query_one(DAYS, &[]).await?.get(0);
        if days == [-3, -2, -1, 0, 1, 2, 3] {
            break;
        }
        ensure!(Instant::now() < deadline, "{days:?}");
        tokio::task::yield_now().await;
    }
    let old = "select count(*) from realtime.messages where inserted_at < now() at time zone 'UTC' - interval '4 days'";
    while world.client.query_one(old, &[]).await?.get::<_, i64>(0) > 0 {
        ensure!(Instant::now() < deadline, "old messages are left in the default partition");
        tokio::task::yield_now().await;
    }
    let left: i64 = world.client.query_one("select count(*) from realtime.messages", &[]).await?.get(0);
    ensure!(left == 1, "72 hours are kept, {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_267_installing_again_changes_nothing_and_brings_back_what_is_missing() -> Result<()> {
    let world = World::installed("conformance_267", "", |_| {}).await?;
    let objects = "select array_agg(name order by name) from (
        select p.oid::regprocedure::text from pg_proc as p where pronamespace = 'realtime'::regnamespace
        union all select c.oid::regclass::text from pg_class as c where relnamespace = 'realtime'::regnamespace
        union all select pubname || ' ' || schemaname || '.' || tablename from pg_publication_tables) as listed(name)";
    let listed = async || -> Result<Vec<String>> { Ok(world.client.query_one(objects, &[]).await?.get(0)) };
    send(&world, "realtime:room", 1).await?;
    let before = listed().await?;
    world.sql(&World::installation("")).await?;
    ensure!(listed().await? == before, "{before:?}");
    world
        .sql(
            "drop function realtime.send; drop function realtime.topic; drop table realtime.messages_9999_12_31;
             alter publication walcast_messages drop table realtime.messages",
        )
        .await?;
    ensure!(listed().await? != before, "the test takes something away");
    world.sql(&World::installation("")).await?;
    ensure!(listed().await? == before, "{:?}\n{before:?}", listed().await?);
    let kept: i64 = world.client.query_one("select count(*) from realtime.messages", &[]).await?.get(0);
    ensure!(kept == 1, "messages stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_268_roles_of_tokens_may_use_the_schema_and_not_change_it_and_its_owner_makes_policies()
-> Result<()> {
    let world = world().await?;
    let client = world.database.client().await;
    for role in ["anon", "authenticated", "service_role"] {
        for sql in [
            "create table realtime.mine ()",
            "create function realtime.mine() returns int language sql as 'select 1'",
            "create policy mine on realtime.messages using (true)",
            "drop table realtime.messages",
            "select walcast.drop_messages_partition('2000-01-01')",
        ] {
            client.batch_execute(&format!("begin; set local role {role}")).await?;
            let error = client.batch_execute(sql).await.err().with_context(|| format!("{role}: {sql}"))?;
            client.batch_execute("rollback").await?;
            let code = error.code().map(tokio_postgres::error::SqlState::code);
            ensure!(code == Some("42501"), "{role}: {sql}: {error}");
        }
        client.batch_execute(&format!("begin; set local role {role}")).await?;
        client.query("select realtime.topic(), topic from realtime.messages limit 1", &[]).await?;
        client.batch_execute("rollback").await?;
    }
    let tables = "select count(*) from pg_class where relnamespace = 'realtime'::regnamespace
        and relkind in ('r', 'p') and relname !~ '^messages'";
    let others: i64 = client.query_one(tables, &[]).await?.get(0);
    ensure!(others == 0, "there is no table of migrations to be read");
    client
        .batch_execute(
            "begin; create policy mine on realtime.messages for select to authenticated using (realtime.topic() = 'x');
             rollback",
        )
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_269_what_goes_wrong_in_realtime_send_is_a_warning_and_the_transaction_commits() -> Result<()> {
    let world = World::installed("conformance_269", "create table notes (id int)", |_| {}).await?;
    let (client, mut connection) =
        tokio_postgres::connect(world.database.url(), tokio_postgres::NoTls).await?;
    let (told, mut warnings) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = told.send(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
    });
    for (number, wrong) in [
        "realtime.send('[1]', 'e', 'room')",
        "realtime.send('{}', 'e', null)",
        "realtime.send_binary('', 'e', null)",
        "realtime.send('{}', 'e', 'room')",
    ]
    .into_iter()
    .enumerate()
    {
        // The last one is that of a role that no policy allows to send.
        let role = if number == 3 { "set local role authenticated;" } else { "" };
        let sql = format!("begin; insert into notes values ({number}); {role} select {wrong}; commit");
        client.batch_execute(&sql).await?;
        let warning = warnings.recv().await.context("a warning")?;
        ensure!(warning.starts_with("WARNING: WarnSendingBroadcastMessage: "), "{wrong}: {warning}");
    }
    let rows = "select (select count(*) from notes), (select count(*) from realtime.messages)";
    let row = world.client.query_one(rows, &[]).await?;
    ensure!((row.get::<_, i64>(0), row.get::<_, i64>(1)) == (4, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_270_a_table_that_does_not_belong_into_the_publication_of_messages_changes_nothing() -> Result<()>
{
    let sql = format!(
        "{POLICIES} create table stray (topic text, event text, payload jsonb, private boolean, id uuid primary key);
         grant select on stray to authenticated; alter publication walcast_messages add table stray;"
    );
    let world = World::installed("conformance_270", &sql, |_| {}).await?;
    on_both(async |version| {
        let topic = private_room("open");
        let mut client = inside(&world, version, &topic).await?;
        let stray = "insert into stray values ($1, 'stray', '{}', true, gen_random_uuid())";
        world.client.execute(stray, &[&sub_topic(&topic)]).await?;
        send(&world, &topic, 1).await?;
        ensure!(next(&mut client).await?.payload["n"] == 1, "the first that comes");
        client.heartbeat().await?;
        nothing_else(&client)
    })
    .await?;
    let published = "select array_agg(tablename::text order by tablename) from pg_publication_tables
        where pubname = 'walcast_messages'";
    let tables: Vec<String> = world.client.query_one(published, &[]).await?.get(0);
    ensure!(tables == ["messages", "stray"], "what somebody has done is left: {tables:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_271_a_slot_that_another_server_has_left_for_messages_is_not_in_the_way() -> Result<()> {
    let database = walcast_testkit::database("conformance_271").await;
    let client = database.client().await;
    let left = format!("supabase_realtime_messages_replication_slot_{}", std::process::id());
    client.execute("select pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&left]).await?;
    let outcome = async {
        let world = World::in_database(database, &World::installation(POLICIES), |_| {}).await?;
        let topic = private_room("open");
        let mut member = inside(&world, walcast_testkit::ProtocolVersion::V2, &topic).await?;
        send(&world, &topic, 1).await?;
        ensure!(next(&mut member).await?.payload["n"] == 1);
        Ok(world)
    };
    let outcome = outcome.await;
    // Or the database could not be removed.
    client.execute("select pg_drop_replication_slot($1::text::name)", &[&left]).await?;
    outcome.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_272_a_message_that_is_too_large_is_passed_over_and_the_next_one_comes() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.engine.payload_bytes_max = 1_000;
    let world = World::installed("conformance_272", POLICIES, small).await?;
    on_both(async |version| {
        let topic = private_room("open");
        let mut client = inside(&world, version, &topic).await?;
        let large = "select realtime.send(jsonb_build_object('n', 0, 'x', repeat('x', 1000)), 'e', $1)";
        world.client.execute(large, &[&sub_topic(&topic)]).await?;
        let large = "select realtime.send_binary(decode(repeat('00', 1001), 'hex'), 'e', $1)";
        world.client.execute(large, &[&sub_topic(&topic)]).await?;
        send(&world, &topic, 1).await?;
        let got = next_broadcast(&mut client).await?;
        ensure!(got.payload["payload"]["n"] == 1, "{:?}", got.raw);
        nothing_else(&client)
    })
    .await
}
