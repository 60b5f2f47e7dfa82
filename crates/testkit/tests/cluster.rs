//! A cluster starts, survives crashes, and leaves nothing behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, ClusterSettings, DataDirectory, Database, database, shared_cluster};

#[tokio::test]
async fn every_database_is_empty_logical_and_gone_after_use() {
    let database = database("Every database").await;
    let name = database.name().to_owned();
    let client = database.client().await;
    let level = client.query_one("SHOW wal_level", &[]).await.expect("an answer");
    assert_eq!(level.get::<_, &str>(0), "logical");
    client
        .query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&database.slot_name()])
        .await
        .expect("a slot");
    // One connection stays open: it must not keep the database.
    drop(database);
    let observer = shared_cluster().await.client("postgres").await.expect("a connection");
    let sql = "SELECT datname::text FROM pg_database WHERE datname = $1 \
               UNION ALL SELECT slot_name::text FROM pg_replication_slots WHERE database = $1";
    assert_eq!(observer.query(sql, &[&name]).await.expect("an answer").len(), 0);
}

#[tokio::test]
async fn a_crashed_server_comes_back_on_its_port_with_what_was_committed() {
    let cluster = Cluster::start(ClusterSettings::default()).await.expect("a cluster");
    let database = Database::create(&cluster, "crash").await.expect("a database");
    let port = cluster.port().expect("a port");
    let client = database.client().await;
    client
        .batch_execute("SET synchronous_commit = on; CREATE TABLE kept AS SELECT 7 AS number")
        .await
        .expect("a table");
    cluster.stop_immediately().await.expect("a crash");
    client.simple_query("SELECT 1").await.expect_err("the server is gone");
    cluster.start_again().await.expect("a start");
    assert_eq!(cluster.port().expect("a port"), port);
    let row = database.client().await.query_one("SELECT number FROM kept", &[]).await.expect("the row");
    assert_eq!(row.get::<_, i32>(0), 7);
    cluster.restart().await.expect("a restart");
    database.client().await.query_one("SELECT number FROM kept", &[]).await.expect("the row");
}

#[tokio::test]
async fn a_kept_cluster_has_the_same_data_password_and_port_next_time() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let path = open_to_all(base.path()).join("postgres");
    let settings = || ClusterSettings { data_dir: DataDirectory::Kept(path.clone()), ..test_settings() };
    let first = Cluster::start(settings()).await.expect("a cluster");
    let url = first.url("postgres");
    let client = first.client("postgres").await.expect("a connection");
    client.batch_execute("CREATE TABLE kept AS SELECT 7 AS number").await.expect("a table");
    let error = Cluster::start(settings()).await.expect_err("the directory is in use");
    assert!(error.to_string().contains("another process"), "{error}");
    first.stop().await.expect("stopped");
    drop(first);

    // A process id file of a server that is gone, whose number someone else has now.
    std::fs::write(path.join("data/postmaster.pid"), format!("{}\n", std::process::id())).expect("written");
    let second = Cluster::start(settings()).await.expect("the cluster again");
    assert_eq!(second.url("postgres"), url);
    let client = second.client("postgres").await.expect("a connection");
    assert_eq!(client.query_one("SELECT number FROM kept", &[]).await.expect("a row").get::<_, i32>(0), 7);
}

/// A clone below `/root`, when the server's account is another one than ours.
#[tokio::test]
async fn a_kept_cluster_runs_where_only_we_may_enter() {
    let closed = tempfile::tempdir().expect("a temporary directory");
    let path = closed.path().join("clone/.walcast/postgres");
    let settings = ClusterSettings { data_dir: DataDirectory::Kept(path), ..test_settings() };
    let cluster = Cluster::start(settings).await.expect("a cluster");
    let directory = cluster.directory().expect("its directory").to_path_buf();
    cluster.stop().await.expect("stopped");
    drop(cluster);
    assert!(directory.join("data/PG_VERSION").exists());
    std::fs::remove_dir_all(directory).expect("removed");
}

#[tokio::test]
async fn a_server_that_can_not_start_says_why() {
    let settings =
        ClusterSettings { settings: vec![("shared_buffers".into(), "a lot".into())], ..test_settings() };
    let error = Cluster::start(settings).await.expect_err("the setting is wrong").to_string();
    assert!(error.contains("shared_buffers"), "{error}");
}

#[tokio::test]
async fn settings_given_win_over_those_of_the_cluster() {
    let settings =
        ClusterSettings { settings: vec![("wal_level".into(), "replica".into())], ..test_settings() };
    let cluster = Cluster::start(settings).await.expect("a cluster");
    let client = cluster.client("postgres").await.expect("a connection");
    let level = client.query_one("SHOW wal_level", &[]).await.expect("an answer");
    assert_eq!(level.get::<_, &str>(0), "replica");
}

/// The program `testkit` runs a command under a cluster; killed, it takes the server with it.
#[cfg(target_os = "linux")]
#[test]
fn the_server_ends_when_its_owner_is_killed() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_testkit"))
        .args(["cluster", "--", "sh", "-c", "echo $WALCAST_TEST_CLUSTER_DIRECTORY; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let directory = first_line(owner.stdout.take().expect("its output"));
    let pid_file = Path::new(&directory).join("data/postmaster.pid");
    let pid_line = std::fs::read_to_string(&pid_file).expect("a running server");
    let server = Path::new("/proc").join(pid_line.lines().next().expect("a process id").trim());
    assert!(server.exists());
    owner.kill().expect("killed");
    owner.wait().expect("ended");
    let deadline = Instant::now() + Duration::from_secs(20);
    while pid_file.exists() {
        assert!(Instant::now() < deadline, "the server runs on");
        std::thread::yield_now();
    }
    // What it left behind goes with the next start of anyone's cluster; here we need not wait for that.
    let _ = std::fs::remove_dir_all(directory);
}

#[test]
fn the_exit_status_of_a_command_under_a_cluster_is_passed_on() {
    let status = Command::new(env!("CARGO_BIN_EXE_testkit"))
        .args(["cluster", "--", "sh", "-c", "case $WALCAST_TEST_CLUSTER_URL in postgres://*) exit 7; esac"])
        .status()
        .expect("the program starts");
    assert_eq!(status.code(), Some(7));
}

fn first_line(output: impl std::io::Read) -> String {
    use std::io::BufRead;
    let mut line = String::new();
    std::io::BufReader::new(output).read_line(&mut line).expect("a line");
    line.trim().to_owned()
}

/// When the tests run as root, the server's account must be able to enter.
fn open_to_all(directory: &Path) -> &Path {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    directory
}
