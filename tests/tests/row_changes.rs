//! Row changes reach those who subscribed and may see them, as docs/protocol.md §4 shapes them.

use anyhow::Result;
use serde_json::json;
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, binding, person, role};

const NOTES: &str = "
    create table notes (id int primary key, details text, done boolean default false);
    grant select on notes to anon, authenticated, service_role;
    create publication supabase_realtime for table notes;
";

#[tokio::test(flavor = "multi_thread")]
async fn insert_update_and_delete_arrive_with_the_exact_payload_in_both_serializers() -> Result<()> {
    let world = World::with_sql("changes_exact", NOTES).await?;
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let joined = client.join_changes("realtime:room", &[binding("*", "notes")]).await?;
        let id = joined[0]["id"].clone();
        world.sql("insert into notes values (1, 'first')").await?;
        let insert = client.expect(|message| message.event == "postgres_changes").await?;
        assert_eq!(insert.payload["ids"], json!([id]));
        let mut data = insert.payload["data"].clone();
        let timestamp = data["commit_timestamp"].take();
        assert_eq!(timestamp.as_str().map(str::len), Some("2026-08-21T10:11:12.345Z".len()));
        assert_eq!(
            data,
            json!({
                "schema": "public", "table": "notes", "type": "INSERT", "commit_timestamp": null,
                "columns": [
                    {"name": "id", "type": "int4"}, {"name": "details", "type": "text"},
                    {"name": "done", "type": "bool"}
                ],
                "record": {"id": 1, "details": "first", "done": false},
                "errors": null
            })
        );
        world.sql("update notes set details = 'second'").await?;
        let update = client.expect(|message| message.event == "postgres_changes").await?;
        let data = &update.payload["data"];
        assert_eq!(data["type"], "UPDATE");
        assert_eq!(data["record"], json!({"id": 1, "details": "second", "done": false}));
        assert_eq!(data["old_record"], json!({"id": 1}));
        world.sql("delete from notes").await?;
        let delete = client.expect(|message| message.event == "postgres_changes").await?;
        let data = &delete.payload["data"];
        assert_eq!(data["type"], "DELETE");
        assert_eq!(data["old_record"], json!({"id": 1}));
        assert!(data.get("record").is_none());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_person_gets_only_the_rows_that_the_policy_lets_them_see() -> Result<()> {
    let world = World::with_sql(
        "changes_policy",
        "create table letters (id int primary key, reader text, body text);
         alter table letters enable row level security;
         create policy own on letters for select to authenticated
             using (reader = (select auth.jwt() ->> 'sub'));
         grant select on letters to anon, authenticated, service_role;
         create publication supabase_realtime for table letters;",
    )
    .await?;
    let mut ana = world.connect(&person("ana")).await?;
    let mut bruno = world.connect(&person("bruno")).await?;
    let mut admin = world.connect(&role("service_role")).await?;
    for client in [&mut ana, &mut bruno, &mut admin] {
        client.join_changes("realtime:letters", &[binding("INSERT", "letters")]).await?;
    }
    world
        .sql("insert into letters values (1, 'ana', 'a'), (2, 'bruno', 'b'), (3, 'ana', 'c')")
        .await?;
    world.sql("insert into letters values (4, 'ana', 'end'), (5, 'bruno', 'end')").await?;
    let mut seen = Vec::new();
    for (client, last) in [(&mut ana, 4), (&mut bruno, 5), (&mut admin, 5)] {
        let mut ids = Vec::new();
        while ids.last() != Some(&last) {
            let change = client.expect(|message| message.event == "postgres_changes").await?;
            ids.push(change.payload["data"]["record"]["id"].as_i64().unwrap_or_default());
        }
        seen.push(ids);
    }
    assert_eq!(seen, [vec![1, 3, 4], vec![2, 5], vec![1, 2, 3, 4, 5]]);
    Ok(())
}
