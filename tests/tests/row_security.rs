//! A row reaches those who could SELECT it, and nobody else (docs/protocol.md §9, docs/row-level-security.md).

use anyhow::Result;
use serde_json::{Value, json};
use walcast_engine::Deletes;
use walcast_tests::watching::{Watcher, role_name, watched, watched_with};
use walcast_tests::{World, binding, person, role};

/// A table with row security and no policy yet.
const NOTES: &str = "
    create table notes (id int primary key, owner text, body text);
    alter table notes enable row level security;
    grant select on notes to anon, authenticated, service_role;
    create publication supabase_realtime for table notes;
";

fn notes() -> [Value; 1] {
    [binding("*", "notes")]
}

/// Who sees which of these rows, by token.
async fn who_sees(world: &World, insert: &str, everyone: &[Value]) -> Result<Vec<Vec<i64>>> {
    let mut watchers = Vec::new();
    for claims in everyone {
        watchers.push(Watcher::join(world, claims, &notes()).await?);
    }
    world.sql(insert).await?;
    let mut seen = Vec::new();
    for watcher in &mut watchers {
        seen.push(watcher.ids(world).await?);
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn row_security_without_a_policy_shows_nothing_except_to_those_it_does_not_bind() -> Result<()> {
    let (owner, member, other) = (role_name("owner"), role_name("member"), role_name("other"));
    let sql = format!(
        "{NOTES}
         create role {owner}; create role {member} in role {owner}; create role {other} noinherit in role {owner};
         alter table notes owner to {owner}; grant select on notes to {other};"
    );
    let world = watched("security_owner", &sql).await?;
    let everyone = ["anon", "service_role", &owner, &member, &other].map(role);
    let seen = who_sees(&world, "insert into notes values (1, 'ana', '')", &everyone).await?;
    assert_eq!(
        seen,
        [vec![], vec![1], vec![1], vec![1], vec![]],
        "BYPASSRLS, the owner and who acts as the owner"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn force_row_security_binds_the_owner_too() -> Result<()> {
    let owner = role_name("owner");
    let sql = format!(
        "{NOTES}
         create role {owner}; alter table notes owner to {owner}; alter table notes force row level security;
         create policy own on notes using (owner = 'ana');"
    );
    let world = watched("security_force", &sql).await?;
    let everyone = [role(&owner), role("service_role")];
    let seen = who_sees(&world, "insert into notes values (1, 'ana', ''), (2, 'bea', '')", &everyone).await?;
    assert_eq!(seen, [vec![1], vec![1, 2]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_permissive_policy_and_every_restrictive_one_must_hold() -> Result<()> {
    let sql = format!(
        "{NOTES}
         create policy own on notes using (owner = (auth.jwt() ->> 'sub'));
         create policy public on notes for select using (owner = 'everybody');
         create policy calm on notes as restrictive for select using (body not like '%!%');
         create policy short on notes as restrictive using (length(body) < 10);
         create policy writing on notes for insert with check (true);
         create policy changing on notes for update using (true);"
    );
    let world = watched("security_combined", &sql).await?;
    let insert =
        "insert into notes values (1, 'ana', 'x'), (2, 'ana', 'x!'), (3, 'everybody', 'x'), (4, 'bea', 'x'),
        (5, 'ana', 'long as it is'), (6, 'everybody', 'no!'), (7, null, 'x'), (8, 'ana', null)";
    let seen = who_sees(&world, insert, &[person("ana"), person("bea"), role("anon")]).await?;
    assert_eq!(seen, [vec![1, 3], vec![3, 4], vec![3]], "NULL is not true");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_role_is_for_those_who_inherit_from_it() -> Result<()> {
    let (staff, clerk, guest) = (role_name("staff"), role_name("clerk"), role_name("guest"));
    let sql = format!(
        "{NOTES}
         create role {staff}; create role {clerk} in role {staff}; create role {guest} noinherit in role {staff};
         grant select on notes to {staff}, {guest};
         create policy staff on notes to {staff} using (true);
         create policy others on notes to authenticated using (owner = 'ana');"
    );
    let world = watched("security_members", &sql).await?;
    let everyone = [role(&staff), role(&clerk), role(&guest), person("ana"), role("anon")];
    let seen = who_sees(&world, "insert into notes values (1, 'ana', ''), (2, 'bea', '')", &everyone).await?;
    assert_eq!(seen, [vec![1, 2], vec![1, 2], vec![], vec![1], vec![]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_on_columns_reduce_the_payload() -> Result<()> {
    // §15 case 239.
    let world = watched(
        "security_columns",
        "create table notes (id int primary key, open text, secret text);
         alter table notes replica identity full;
         grant select (id, open) on notes to authenticated; grant select on notes to service_role;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &notes()).await?;
    world
        .sql("insert into notes values (1, 'a', 'b'); update notes set secret = 'c'; delete from notes")
        .await?;
    let names = json!([{"name": "id", "type": "int4"}, {"name": "open", "type": "text"}]);
    let row = json!({"id": 1, "open": "a"});
    for data in ana.seen(&world).await? {
        assert_eq!(data["columns"], names);
        for record in ["record", "old_record"].into_iter().filter_map(|key| data.get(key)) {
            assert_eq!(*record, row);
        }
    }
    let admin = admin.seen(&world).await?;
    assert_eq!(admin[1]["old_record"], json!({"id": 1, "open": "a", "secret": "b"}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_or_the_schema_nothing_of_a_row_is_sent() -> Result<()> {
    // §15 case 223: subscribing is possible all the same.
    let world = watched(
        "security_ungranted",
        "create schema hidden;
         create table hidden.notes (id int primary key, body text);
         create table public.notes (id int primary key, body text);
         grant select on hidden.notes to authenticated;
         create publication supabase_realtime for table hidden.notes, public.notes;",
    )
    .await?;
    let bindings = [json!({"schema": "hidden"}), json!({"schema": "public", "table": "notes"})];
    let mut watcher = Watcher::join(&world, &person("ana"), &bindings).await?;
    world
        .sql(
            "insert into hidden.notes values (1, 'secret'); insert into public.notes values (1, 'secret');
             delete from hidden.notes; delete from public.notes",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let shown: Vec<_> = changes
        .iter()
        .map(|data| (data["schema"].as_str(), &data["columns"], &data["record"], &data["errors"]))
        .collect();
    let (nothing, error) = (json!([]), json!(["Error 401: Unauthorized"]));
    assert_eq!(
        shown,
        [(Some("hidden"), &nothing, &json!({}), &error), (Some("public"), &nothing, &json!({}), &error)]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_on_a_type_we_do_not_know_is_decided_by_postgres() -> Result<()> {
    let sql = "
        create extension citext;
        create table notes (id int primary key, net inet, span int4range, name citext, doc xml);
        alter table notes enable row level security;
        create policy by_net on notes using (net << ((auth.jwt() ->> 'net')::inet));
        create policy by_span on notes using (span @> ((auth.jwt() ->> 'number')::int));
        create policy by_name on notes using (name = ((auth.jwt() ->> 'sub')::citext));
        grant select on notes to authenticated;
        create publication supabase_realtime for table notes;";
    let world = watched("security_unknown_type", sql).await?;
    let mut first = person("ana");
    first["net"] = "10.0.0.0/8".into();
    let mut second = person("nobody");
    second["number"] = 7.into();
    let insert = "insert into notes values (1, '10.1.2.3', null, null, '<a/>'), (2, '11.1.2.3', '[1,8)', null, '<a/>'),
        (3, null, '[8,9)', 'ANA', null), (4, null, null, null, null)";
    let seen = who_sees(&world, insert, &[first, second, person("bea")]).await?;
    assert_eq!(seen, [vec![1, 3], vec![2], vec![]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_looks_into_another_table_sees_members_come_and_go() -> Result<()> {
    let sql = format!(
        "{NOTES}
         create table members (note int, sub text);
         alter table members enable row level security;
         create policy own on members using (sub = (auth.jwt() ->> 'sub'));
         grant select on members to authenticated;
         create policy members on notes using (exists (
             select from members as m where m.note = notes.id and m.sub = (auth.jwt() ->> 'sub')));"
    );
    let world = watched("security_members_table", &sql).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &notes()).await?;
    world
        .sql("begin; insert into notes values (1, '', ''); insert into members values (1, 'ana'); commit")
        .await?;
    assert_eq!((ana.ids(&world).await?, bea.ids(&world).await?), (vec![1], vec![]));
    world.sql("insert into members values (1, 'bea'); update notes set body = 'x'").await?;
    assert_eq!((ana.ids(&world).await?, bea.ids(&world).await?), (vec![1], vec![1]));
    world.sql("begin; delete from members where sub = 'ana'; update notes set body = 'y'; commit").await?;
    assert_eq!((ana.ids(&world).await?, bea.ids(&world).await?), (vec![], vec![1]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_becomes_a_member_together_with_a_row_sees_it_each_time() -> Result<()> {
    let sql = format!(
        "{NOTES}
         create table members (note int, sub text);
         grant select on members to authenticated;
         create policy members on notes using (exists (
             select from members as m where m.note = notes.id and m.sub = (auth.jwt() ->> 'sub')));"
    );
    let world = watched("security_same_transaction", &sql).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    // PostgreSQL sends a transaction a moment before others can see what it did.
    for id in 0..200 {
        world
            .sql(&format!(
                "begin; insert into members values ({id}, 'ana'); insert into notes values ({id}); commit"
            ))
            .await?;
    }
    assert_eq!(ana.ids(&world).await?, (0..200).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_asked_about_and_rows_that_are_not_keep_the_order_of_the_log() -> Result<()> {
    let world = watched(
        "policy_order",
        "create table members (room int, who text, primary key (room, who));
         create table notes (id int primary key, room int, open boolean);
         alter table notes enable row level security;
         create policy members on notes using (open or exists (
             select from members where members.room = notes.room and members.who = auth.jwt() ->> 'sub'));
         insert into members select room, 'ana' from generate_series(0, 9) as room where room % 2 = 0;
         grant select on members, notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &[binding("*", "notes")]).await?;
    let is_open = |id: i64| id % 3 == 0;
    let inserts: Vec<String> = (1..=500)
        .map(|id| format!("insert into notes values ({id}, {}, {});", id % 10, is_open(id)))
        .collect();
    world.sql(&inserts.concat()).await?;
    // The same statements, each a transaction of its own.
    let again: Vec<String> = (501..=1_000)
        .map(|id| format!("begin; insert into notes values ({id}, {}, {}); commit;", id % 10, is_open(id)))
        .collect();
    world.sql(&again.concat()).await?;
    let visible = |to_ana: bool| -> Vec<i64> {
        (1..=1_000).filter(|id| is_open(*id) || to_ana && id % 2 == 0).collect()
    };
    assert_eq!(ana.ids(&world).await?, visible(true));
    assert_eq!(bea.ids(&world).await?, visible(false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_people_of_one_role_each_get_their_own() -> Result<()> {
    // §15 case 224.
    let custom = role_name("custom");
    let sql = format!(
        "{NOTES} create role {custom}; grant select on notes to {custom};
         create policy own on notes to {custom} using (owner = current_setting('request.jwt.claims')::json ->> 'sub');"
    );
    let world = watched("security_many", &sql).await?;
    let everyone: Vec<_> = (0..15)
        .map(|number| {
            let mut claims = role(&custom);
            claims["sub"] = format!("person {number}").into();
            claims
        })
        .collect();
    let insert = "insert into notes select n, 'person ' || n, '' from generate_series(0, 14) as n";
    let seen = who_sees(&world, insert, &everyone).await?;
    assert_eq!(seen, (0..15).map(|number| vec![number]).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_row_that_could_not_be_seen_is_not_shown() -> Result<()> {
    let sql = format!(
        "{NOTES} alter table notes replica identity full;
         create policy own on notes using (owner = (auth.jwt() ->> 'sub'));"
    );
    let world = watched("security_old_row", &sql).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &notes()).await?;
    world
        .sql(
            "insert into notes values (1, 'ana', 'of ana');
             update notes set body = 'of ana, too';
             update notes set owner = 'bea', body = 'of bea'",
        )
        .await?;
    let changes = ana.seen(&world).await?;
    assert_eq!(changes.len(), 2, "the row goes out of sight without a word");
    assert_eq!(changes[1]["old_record"], json!({"id": 1, "owner": "ana", "body": "of ana"}));
    let changes = bea.seen(&world).await?;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0]["record"], json!({"id": 1, "owner": "bea", "body": "of bea"}));
    assert_eq!(changes[0]["old_record"], json!({"id": 1}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_its_key_does_not_decide_is_private_and_the_join_says_so() -> Result<()> {
    let sql = format!("{NOTES} create policy own on notes using (owner = (auth.jwt() ->> 'sub'));");
    let world = watched("security_delete", &sql).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    let (status, text) = ana.system().await?;
    assert_eq!(status, "ok");
    assert!(text.contains("DELETE on \"public\".\"notes\""), "{text}");
    assert!(text.ends_with("ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL;"), "{text}");
    let mut admin = Watcher::join(&world, &role("service_role"), &notes()).await?;
    let mut inserts = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    world.sql("insert into notes values (1, 'ana', ''), (2, 'bea', ''); delete from notes").await?;
    assert_eq!(ana.ids(&world).await?, [1], "the INSERT only");
    assert_eq!(admin.ids(&world).await?, [1, 2, 1, 2]);
    assert_eq!(inserts.ids(&world).await?, [1]);
    for watcher in [&admin, &inserts] {
        let notice = watcher.client.unclaimed().find(|message| message.event == "system");
        assert!(notice.is_none(), "there is nothing to say to those who get all they asked for");
    }
    let alter =
        "alter table notes replica identity full; insert into notes values (3, 'ana', ''), (4, 'bea', '')";
    world.sql(alter).await?;
    world.sql("delete from notes").await?;
    assert_eq!(
        ana.ids(&world).await?,
        [3, 3],
        "with the old row in the log, who could see it learns of its end"
    );
    assert_eq!(admin.ids(&world).await?, [3, 4, 3, 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_delivered_where_the_key_suffices_to_decide() -> Result<()> {
    let world = watched(
        "security_delete_key",
        "create table notes (id int, owner text, body text, primary key (owner, id));
         alter table notes enable row level security;
         create policy own on notes using (owner = (auth.jwt() ->> 'sub'));
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("DELETE", "notes")]).await?;
    world.sql("insert into notes values (1, 'ana', ''), (2, 'bea', ''); delete from notes").await?;
    let old: Vec<_> = ana.seen(&world).await?.iter().map(|data| data["old_record"].clone()).collect();
    assert_eq!(old, [json!({"id": 1, "owner": "ana"})]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_sent_to_all_subscribers_where_the_operator_wants_it_so() -> Result<()> {
    let sql = format!("{NOTES} create policy own on notes using (owner = (auth.jwt() ->> 'sub'));");
    let compatible =
        |settings: &mut walcast::serve::ServeSettings| settings.project.engine.deletes = Deletes::Compatible;
    let world = watched_with("security_compatible", &sql, compatible).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &notes()).await?;
    world.sql("insert into notes values (1, 'ana', ''), (2, 'bea', ''); delete from notes").await?;
    let old: Vec<_> = ana.seen(&world).await?.iter().map(|data| data["old_record"].clone()).collect();
    assert_eq!(old, [Value::Null, json!({"id": 1}), json!({"id": 2})]);
    assert!(ana.client.unclaimed().all(|message| message.event != "system"), "no notice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_identity_carries_of_another_persons_row_is_not_shown() -> Result<()> {
    let world = World::with_sql(
        "rls_index_identity",
        "create table accounts (id int primary key, owner text, email text not null unique);
         alter table accounts replica identity using index accounts_email_key;
         alter table accounts enable row level security;
         create policy own on accounts for select using (owner = (select auth.jwt() ->> 'sub'));
         grant select on accounts to authenticated;
         insert into accounts values (1, 'ana', 'secret@ana');
         create publication supabase_realtime for table accounts;",
    )
    .await?;
    let mut bruno = world.connect(&person("bruno")).await?;
    bruno.join_changes("realtime:accounts", &[binding("UPDATE", "accounts")]).await?;
    world.sql("update accounts set owner = 'bruno', email = 'bruno'").await?;
    let update = bruno.expect(|message| message.event == "postgres_changes").await?;
    let data = &update.payload["data"];
    assert_eq!(data["record"]["email"], "bruno");
    assert!(!data["old_record"].to_string().contains("secret"), "{data}");
    Ok(())
}
