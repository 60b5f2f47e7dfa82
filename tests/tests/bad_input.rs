//! Rows and transactions that are too large for comfort.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_tests::watching::{Watcher, watched, watched_with};
use walcast_tests::{binding, person, role};

const NOTES: &str = "
    create table notes (id int primary key, owner text, body text);
    alter table notes alter column body set storage external;
    alter table notes enable row level security;
    create policy own on notes using (owner = (auth.jwt() ->> 'sub') and body is not null);
    create policy long on notes using (owner = 'asked' and md5(body) <> (select ''));
    grant select on notes to authenticated, service_role;
    create publication supabase_realtime for table notes;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_five_megabytes_arrives_without_its_large_column_and_the_next_one_whole() -> Result<()> {
    let world = watched("input_row", NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    let mut other = Watcher::join(&world, &person("bea"), &[binding("*", "notes")]).await?;
    world
        .sql(
            "insert into notes values (1, 'ana', repeat('x', 5000000)), (2, 'asked', repeat('x', 5000000)),
                (3, 'ana', repeat(E'\\x01', 1000000)), (4, 'ana', 'short')",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let shown: Vec<_> = changes.iter().map(|data| (&data["record"], &data["errors"])).collect();
    let error = json!(["Error 413: Payload Too Large"]);
    assert_eq!(
        shown,
        [
            (&json!({"id": 1, "owner": "ana"}), &error),
            (&json!({"id": 2, "owner": "asked"}), &error),
            (&json!({"id": 3, "owner": "ana"}), &error),
            (&json!({"id": 4, "owner": "ana", "body": "short"}), &Value::Null),
        ]
    );
    assert_eq!(other.ids(&world).await?, [2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_five_megabytes_arrives_whole_where_the_limits_allow_it() -> Result<()> {
    let world = watched_with("input_row_whole", NOTES, |settings| {
        settings.project.engine.record_bytes_max = 16 << 20;
        settings.project.engine.outbound_bytes_max = 32 << 20;
    })
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    world.sql("insert into notes values (1, 'ana', repeat('ñ', 2500000)), (2, 'ana', 'short')").await?;
    let changes = watcher.seen(&world).await?;
    assert_eq!(changes[0]["record"]["body"].as_str().map(str::len), Some(5_000_000));
    assert_eq!(changes[1]["record"], json!({"id": 2, "owner": "ana", "body": "short"}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rows_of_one_transaction_arrive_in_order() -> Result<()> {
    const ROWS: usize = 10_000;
    let world = watched("input_transaction", NOTES).await?;
    let mut readers = Vec::new();
    for claims in [person("ana"), person("bea"), role("service_role")] {
        let mut watcher = Watcher::join(&world, &claims, &[binding("*", "notes")]).await?;
        // The first mark there is. Clients read all the while, as stock ones do.
        readers.push(tokio::spawn(async move { watcher.payloads_until(1).await }));
    }
    world
        .sql(&format!(
            "begin;
             insert into notes select n, case when n % 2 = 0 then 'ana' else 'bea' end, 'body of ' || n
                from generate_series(1, {ROWS}) as n;
             commit"
        ))
        .await?;
    assert_eq!(world.mark().await?, 1);
    let expected: [Vec<usize>; 3] =
        [(2..=ROWS).step_by(2).collect(), (1..=ROWS).step_by(2).collect(), (1..=ROWS).collect()];
    for (reader, expected) in readers.into_iter().zip(expected) {
        let payloads = reader.await??;
        let ids: Vec<_> = payloads.iter().map(|payload| payload["data"]["record"]["id"].clone()).collect();
        ensure!(
            ids == expected,
            "{} rows, or in another order: {:?} …",
            ids.len(),
            &ids[..ids.len().min(20)]
        );
        let timestamps = payloads.iter().map(|payload| &payload["data"]["commit_timestamp"]);
        assert!(timestamps.collect::<std::collections::HashSet<_>>().len() == 1, "one commit, one moment");
    }
    Ok(())
}
