//! The binary as an operator runs it: a file with two projects, TLS, and signals.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rcgen::generate_simple_self_signed;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use walcast_testkit::Database;

mod support;

use support::Walcast;

/// Puts a fresh certificate in place; a client that trusts it alone.
fn renew(folder: &Path) -> Result<TlsConnector> {
    let made = generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(folder.join("tls.crt"), made.cert.pem())?;
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into())
}

async fn get(address: SocketAddr, trust: &TlsConnector, path: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = trust.connect(ServerName::try_from("localhost")?, stream).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn file(folder: &Path, blue: &Database, green: &Database) -> String {
    let (folder, blue_url, green_url) = (folder.display(), blue.url(), green.url());
    format!(
        r#"
[server]
host = "127.0.0.1"
port = 0
[tls]
certificate = "{folder}/tls.crt"
key = "{folder}/tls.key"
reload_seconds = 3600
[projects.blue]
[projects.blue.database]
url = "{blue_url}"
[projects.blue.auth]
jwt_secret = "blue 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI"
[projects.blue.replication]
slot = "{}"
[projects.green.database]
url = "{green_url}"
[projects.green.auth]
jwt_secret = "green 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI"
[projects.green.replication]
slot = "{}"
"#,
        blue.slot_name(),
        green.slot_name()
    )
}

#[tokio::test]
async fn a_file_with_two_projects_is_served_and_signals_reload_and_stop() -> Result<()> {
    let (blue, green) =
        (walcast_testkit::database("binary_blue").await, walcast_testkit::database("binary_green").await);
    let folder = tempfile::tempdir()?;
    let first = renew(folder.path())?;
    let configuration = folder.path().join("walcast.toml");
    std::fs::write(&configuration, file(folder.path(), &blue, &green))?;
    let mut walcast = Walcast::serve(&configuration)?;
    walcast.says("the project `green`: every page may open a socket").await?;
    let address = walcast.up().await?;
    for path in ["/readyz", "/blue/readyz", "/green/readyz"] {
        let answer = get(address, &first, path).await?;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    std::fs::write(folder.path().join("tls.key"), "not a key")?;
    walcast.signal(Signal::HUP)?;
    let line = walcast.says("the old TLS certificate stays in use").await?;
    assert!(line.contains("tls.key (tls.key): there is no private key in it"), "{line}");
    get(address, &first, "/readyz").await?;
    let second = renew(folder.path())?;
    walcast.signal(Signal::HUP)?;
    walcast.says("the TLS certificate has been read again").await?;
    get(address, &second, "/readyz").await?;
    assert!(get(address, &first, "/readyz").await.is_err());

    walcast.stop().await
}

#[tokio::test]
async fn a_project_that_can_not_start_ends_the_process_with_its_name() -> Result<()> {
    let (blue, green) = (
        walcast_testkit::database("binary_no_blue").await,
        walcast_testkit::database("binary_no_green").await,
    );
    let folder = tempfile::tempdir()?;
    renew(folder.path())?;
    let configuration = folder.path().join("walcast.toml");
    let text = file(folder.path(), &blue, &green).replace(green.name(), "no_such_database");
    std::fs::write(&configuration, text)?;
    let mut walcast = Walcast::serve(&configuration)?;
    walcast.says("walcast: the project `green` can not start: ").await?;
    assert!(!walcast.ended().await?.success());
    Ok(())
}
