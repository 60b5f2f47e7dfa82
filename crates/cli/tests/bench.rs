//! `walcast bench` against a real server: every scenario, small, comes to its end with figures that make sense.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use walcast_testkit::Database;

const DEADLINE: Duration = Duration::from_mins(1);

/// A server with the demo's schema, in a process of its own, so that its CPU time and memory are its own.
struct Served {
    _process: Child,
    _folder: tempfile::TempDir,
    url: String,
    secret: String,
    database: Database,
}

impl Served {
    async fn start(name: &str) -> Result<Served> {
        let database = walcast_testkit::database(name).await;
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_walcast"))
            .args(["dev", "--port", "0", "--database-url", database.url(), "--slot", &database.slot_name()])
            .arg("--data-dir")
            .arg(folder.path())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("it is piped")?).lines();
        let mut after = async |text: &str| -> Result<String> {
            let line = timeout(DEADLINE, lines.next_line()).await??.context("walcast dev has ended")?;
            Ok(line.strip_prefix(text).with_context(|| line.clone())?.to_owned())
        };
        let page = after("page: http://").await?;
        after("database url: ").await?;
        let secret = after("jwt secret: ").await?;
        let url = format!("ws://{}", page.trim_end_matches('/'));
        Ok(Served { _process: process, _folder: folder, url, secret, database })
    }

    /// Runs a scenario; the figures of its runs.
    async fn bench(&self, line: &str) -> Result<Vec<Value>> {
        let run = Command::new(env!("CARGO_BIN_EXE_walcast"))
            .arg("bench")
            .args(line.split_whitespace())
            .args(["--json", "--url", &self.url])
            .env_clear()
            .env("JWT_SECRET", &self.secret)
            .env("DATABASE_URL", self.database.url())
            .kill_on_drop(true)
            .output();
        let output = timeout(DEADLINE, run).await.context("it does not end")??;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout)?;
        Ok(report["runs"].as_array().context("no runs")?.clone())
    }
}

fn figure(run: &Value, name: &str) -> f64 {
    run[name].as_f64().unwrap_or_else(|| panic!("no {name} in {run}"))
}

#[tokio::test]
async fn every_scenario_of_walcast_bench_measures_what_it_says() -> Result<()> {
    let served = Served::start("bench").await?;

    for protocol in ["v1", "v2"] {
        let line =
            format!("fan-out --protocol {protocol} --sockets 3,20 --in-flight 4 --warm-up 0 --duration 0.2");
        let runs = served.bench(&line).await?;
        assert_eq!(runs.iter().map(|run| figure(run, "sockets")).collect::<Vec<_>>(), [3.0, 20.0]);
        for run in &runs {
            let deliveries = figure(run, "deliveries");
            assert!(deliveries > 0.0 && (deliveries / figure(run, "sockets") / 4.0).fract() == 0.0, "{run}");
            assert!(figure(run, "p50_ms") <= figure(run, "p99_ms"), "{run}");
            assert!(figure(run, "server_resident_mib") > 1.0 && figure(run, "bytes_each") > 200.0, "{run}");
        }
    }

    let run = &served.bench("rooms --sockets 14 --rate 10 --duration 0.5").await?[0];
    // 70 messages: every other round to a topic of one's own, the others to rooms of six, six and two.
    assert!((figure(run, "sent") - 70.0).abs() < f64::EPSILON, "{run}");
    assert!(
        (figure(run, "deliveries") - (3.0 * 14.0 + 2.0 * (36.0 + 36.0 + 4.0))).abs() < f64::EPSILON,
        "{run}"
    );

    let run = &served.bench("idle --sockets 10 --heartbeat 0.1 --duration 0.3").await?[0];
    assert!(figure(run, "server_resident_mib") > 1.0, "{run}");

    for options in ["", "--reconnect"] {
        let run = &served.bench(&format!("joins --sockets 5 --channels 3 {options}")).await?[0];
        assert!((figure(run, "joins") - 15.0).abs() < f64::EPSILON, "{run}");
    }

    let run = &served.bench("presence --sockets 12 --topic-size 5 --churn 20 --churn-duration 0.3").await?[0];
    assert!(figure(run, "states") >= 12.0 && figure(run, "churn_messages") > 0.0, "{run}");

    let run = &served.bench("changes --sockets 4 --rate 100 --duration 0.4").await?[0];
    assert!((figure(run, "deliveries") - 40.0).abs() < f64::EPSILON, "{run}");
    let run = &served.bench("changes --sockets 4 --rate 100 --duration 0.4 --public").await?[0];
    assert!((figure(run, "deliveries") - 160.0).abs() < f64::EPSILON, "{run}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_is_named_with_its_reason() -> Result<()> {
    let served = Served::start("bench_refused").await?;
    let refused = Served { secret: "another secret, which nobody signs with".to_owned(), ..served };
    let error = refused.bench("fan-out --sockets 1").await.expect_err("the tokens are wrong").to_string();
    assert!(
        error.contains("401 Unauthorized") && error.contains("Failed to validate JWT signature"),
        "{error}"
    );
    Ok(())
}
