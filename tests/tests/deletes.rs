//! Who learns that a row is gone, and what of its key (docs/row-level-security.md, "Which image of the row").

use anyhow::Result;
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_engine::Deletes;
use walcast_tests::watching::{Watcher, watched, watched_with};
use walcast_tests::{World, binding, person, role};

const OWN: &str = "
    alter table notes enable row level security;
    create policy own on notes using (owner = (auth.jwt() ->> 'sub'));
    grant select on notes to authenticated, service_role;
    create publication supabase_realtime for table notes;
";

fn deletes(filter: &str) -> [Value; 1] {
    let mut wanted = binding("DELETE", "notes");
    wanted["filter"] = filter.into();
    [wanted]
}

async fn old_records(world: &World, watcher: &mut Watcher) -> Result<Vec<Value>> {
    Ok(watcher.seen(world).await?.into_iter().map(|mut data| data["old_record"].take()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_about_what_the_log_has_of_the_old_row() -> Result<()> {
    let sql = "
        create table notes (id int primary key, code text not null unique, body text);
        grant select on notes to authenticated;
        create publication supabase_realtime for table notes;";
    let world = watched("deletes_filter", sql).await?;
    let mut watchers = Vec::new();
    for filter in ["id=eq.1", "code=eq.a", "body=eq.x"] {
        watchers.push(Watcher::join(&world, &person("ana"), &deletes(filter)).await?);
    }
    for (identity, told) in
        [("default", [1, 0, 0]), ("using index notes_code_key", [0, 1, 0]), ("full", [1, 1, 1])]
    {
        world.sql(&format!("alter table notes replica identity {identity}")).await?;
        world.sql("insert into notes values (1, 'a', 'x'), (2, 'b', 'y'); delete from notes").await?;
        for (watcher, told) in watchers.iter_mut().zip(told) {
            assert_eq!(watcher.seen(&world).await?.len(), told, "{identity}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_identity_decides_where_policies_read_its_columns_alone() -> Result<()> {
    let sql = format!(
        "create table notes (id int primary key, owner text not null, body text, unique (owner, id));
         alter table notes replica identity using index notes_owner_id_key;{OWN}"
    );
    let world = watched("deletes_index", &sql).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("DELETE", "notes")]).await?;
    world.sql("insert into notes values (1, 'ana', ''), (2, 'bea', ''); delete from notes").await?;
    assert_eq!(old_records(&world, &mut ana).await?, [json!({"id": 1})]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_right_together_with_the_row_learns_of_its_end() -> Result<()> {
    let world = watched(
        "deletes_before",
        "create table rooms (id int primary key);
         create table members (room int references rooms on delete cascade, who text, primary key (room, who));
         create table notes (id int primary key, room int references rooms on delete cascade);
         alter table notes replica identity full;
         alter table notes enable row level security;
         create policy members on notes using (exists (
             select from members where members.room = notes.room and members.who = auth.jwt() ->> 'sub'));
         grant select on members, notes to authenticated;
         insert into rooms values (1), (2); insert into members values (1, 'ana'), (2, 'bea');
         insert into notes values (1, 1), (2, 2);
         create publication supabase_realtime for table members, notes;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    world.sql("delete from rooms").await?;
    assert_eq!(old_records(&world, &mut ana).await?, [json!({"id": 1})]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn even_compatible_deletes_are_nothing_to_a_role_that_may_not_read_the_table() -> Result<()> {
    let sql = format!("create table notes (id int primary key, owner text);{OWN}");
    let compatible = |settings: &mut ServeSettings| settings.project.engine.deletes = Deletes::Compatible;
    let world = watched_with("deletes_compatible", &sql, compatible).await?;
    let mut anon = Watcher::join(&world, &role("anon"), &[binding("DELETE", "notes")]).await?;
    let (_, text) = anon.system().await?;
    assert!(text.contains("may not SELECT from \"public\".\"notes\", so nothing of it"), "{text}");
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("DELETE", "notes")]).await?;
    world.sql("insert into notes values (1, 'bea'); delete from notes").await?;
    assert_eq!(old_records(&world, &mut anon).await?, [Value::Null; 0]);
    assert_eq!(old_records(&world, &mut ana).await?, [json!({"id": 1})]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_key_is_shown_to_those_who_could_see_the_old_row() -> Result<()> {
    let sql = format!("create table notes (id int primary key, owner text);{OWN}");
    let world = watched("deletes_old_key", &sql).await?;
    let updates = [binding("UPDATE", "notes")];
    let mut bea = Watcher::join(&world, &person("bea"), &updates).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &updates).await?;
    let mut told = Vec::new();
    for identity in ["default", "full"] {
        let moves = "insert into notes values (1, 'ana'); update notes set id = 2, owner = 'bea';
                     update notes set id = 3; update notes set owner = 'bea'; truncate notes";
        world.sql(&format!("alter table notes replica identity {identity}; {moves}")).await?;
        told.push((old_records(&world, &mut bea).await?, old_records(&world, &mut admin).await?));
    }
    let (by_key, by_row) = (&told[0], &told[1]);
    let id = |id: i32| json!({ "id": id });
    assert_eq!(by_key.0, [id(2), id(3), id(3)], "the key does not tell who could see it: it is the new one");
    assert_eq!(by_key.1, [id(1), id(2), id(3)]);
    let row = |id: i32, owner: &str| json!({ "id": id, "owner": owner });
    assert_eq!(by_row.0, [id(2), row(2, "bea"), row(3, "bea")]);
    assert_eq!(by_row.1, [row(1, "ana"), row(2, "bea"), row(3, "bea")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_key_that_decides_who_could_see_the_row_is_shown_to_them() -> Result<()> {
    let sql = format!("create table notes (id int, owner text, primary key (id, owner));{OWN}");
    let world = watched("deletes_deciding_key", &sql).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &[binding("UPDATE", "notes")]).await?;
    world
        .sql(
            "insert into notes values (1, 'ana'); update notes set id = 2, owner = 'bea'; update notes set id = 3",
        )
        .await?;
    let key = |id: i32| json!({ "id": id, "owner": "bea" });
    assert_eq!(old_records(&world, &mut bea).await?, [key(2), key(2)]);
    Ok(())
}
