//! One transaction of very many rows goes through, and the server stays small (docs/guarantees.md).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast_testkit::{ProtocolClient, ProtocolVersion};

mod support;

use support::{DEADLINE, Walcast};

const SECRET: &str = "large 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

/// Roles, and a table whose rows everybody sees, and one of which everybody sees their own.
const SQL: &str = concat!(
    include_str!("../../../sql/demo/10-roles.sql"),
    include_str!("../../../sql/demo/20-auth.sql"),
    "
    create table readings (id bigint primary key, body text);
    grant select on readings to authenticated;
    create publication supabase_realtime for table readings;
    "
);

/// Resident memory in MiB: the most there was.
fn peak_mib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

/// The number that docs/guarantees.md has a figure for; `WALCAST_LARGE_ROWS=200000` for fewer.
fn rows() -> Result<i64> {
    match std::env::var("WALCAST_LARGE_ROWS") {
        Ok(rows) => rows.parse().context("WALCAST_LARGE_ROWS is not a number"),
        Err(_) => Ok(1_000_000),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_very_many_rows_reaches_who_is_connected_in_less_than_300_mib_and_leaves_a_told_gap()
-> Result<()> {
    let rows = rows()?;
    let database = walcast_testkit::database("large_transaction").await;
    let client = database.client().await;
    client.batch_execute(SQL).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("walcast.toml");
    // As it is by default, but for a journal that has no room for this.
    let configuration = format!(
        "[server]\nhost = \"127.0.0.1\"\nport = 0\n[database]\nurl = \"{}\"\n[auth]\njwt_secret = \"{SECRET}\"\n\
         [changes]\njournal_bytes_max = {}\n[replication]\nslot = \"{}\"\n",
        database.url(),
        // A row takes about 40 bytes of it.
        (rows * 16).min(64 << 20),
        database.slot_name()
    );
    std::fs::write(&file, configuration)?;
    let mut walcast = Walcast::serve(&file)?;
    let address = walcast.up().await?;
    let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3_600;
    let token =
        walcast_auth::sign(&json!({ "role": "authenticated", "sub": "ana", "exp": expires }), SECRET)?;
    let connect = async || {
        let url = format!("ws://{address}");
        let mut client = ProtocolClient::connect(&url, &token, ProtocolVersion::V2).await?;
        client.set_deadline(DEADLINE * 10);
        anyhow::Ok(client)
    };
    let mut binding = json!({ "event": "*", "schema": "public", "table": "readings", "resume": true });
    let mut subscriber = connect().await?;
    subscriber.join_changes("realtime:readings", &[binding.clone()]).await?;
    let told = subscriber.expect(|message| message.system("resume").is_some()).await?;
    let (_, joined) = told.system("resume").context("checked above")?;
    let joined = joined.strip_prefix("position ").context("a position")?.to_owned();
    // Somebody who stops to read holds nobody up.
    let mut stalled = connect().await?;
    stalled.join_changes("realtime:readings", &[binding.clone()]).await?;
    let before = peak_mib(walcast.id()?)?;

    let started = Instant::now();
    let statement = "insert into readings select id, 'reading ' || id from generate_series(1, $1::bigint) id";
    let written = async { Ok(client.execute(statement, &[&rows]).await.map(drop)?) };
    let counted = async {
        let mut next = 1;
        while next <= rows {
            let message = subscriber.next().await?;
            if message.event == "postgres_changes" {
                let id = message.payload["data"]["record"]["id"].as_i64();
                ensure!(id == Some(next), "{next} is missing: {:?}", message.raw);
                next += 1;
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(written, counted)?;
    let peak = peak_mib(walcast.id()?)?;
    println!(
        "{rows} rows of one transaction in {:.1} s, resident memory {before} MiB before, {peak} MiB at most",
        started.elapsed().as_secs_f64()
    );
    ensure!(peak < 300, "{peak} MiB");
    // Closed, or cut where it did not even take that.
    let closed = stalled.closed().await?;
    ensure!(closed.as_ref().is_none_or(|(code, _)| *code == 1013), "{closed:?}");

    binding["since"] = joined.into();
    let mut late = connect().await?;
    late.join_changes("realtime:readings", &[binding]).await?;
    let told = late.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = told.system("resume").context("checked above")?;
    ensure!(status == "error" && text.starts_with("gap: refetch"), "{text}");
    walcast.stop().await
}
