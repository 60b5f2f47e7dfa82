//! What stands between the network and a project: TLS, origins, limits per address, time-outs, and a log without
//! secrets. docs/security.md.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::generate_simple_self_signed;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing_subscriber::EnvFilter;
use walcast::serve::Server;
use walcast_server::{AddressLimits, TlsFiles};
use walcast_testkit::{Handshake, HandshakeRefused, ProtocolClient, ProtocolVersion};
use walcast_tests::http::{Answer, UPGRADE, ask_on, get, get_on};
use walcast_tests::{World, person, settings, token};

const ROOM: &str = "realtime:room";
const DEADLINE: Duration = Duration::from_secs(10);

// TLS.

/// A folder with certificate and key, as an operator has it.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Result<Self> {
        Ok(Certificates(tempfile::tempdir()?))
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.0.path().join("tls.crt"), key: self.0.path().join("tls.key") }
    }

    /// Puts a fresh pair in place; a client that trusts this certificate alone.
    fn renew(&self) -> Result<Arc<ClientConfig>> {
        let made = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        std::fs::write(self.files().certificate, made.cert.pem())?;
        std::fs::write(self.files().key, made.signing_key.serialize_pem())?;
        trusting(&self.files().certificate)
    }
}

fn trusting(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

async fn encrypted(address: SocketAddr, trust: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let connecting = TlsConnector::from(Arc::clone(trust)).connect(name, stream);
    Ok(timeout(DEADLINE, connecting).await??)
}

async fn socket(address: SocketAddr, trust: &Arc<ClientConfig>) -> Result<ProtocolClient> {
    let url = format!("wss://localhost:{}/socket/websocket", address.port());
    let mut handshake = Handshake::new(&url, &token(&person("ana")), ProtocolVersion::V2);
    handshake.tls = Some(Arc::clone(trust));
    handshake.connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_sockets_and_http_are_encrypted() -> Result<()> {
    let certificates = Certificates::new()?;
    let trust = certificates.renew()?;
    let world =
        World::with_settings("edge_tls", "", |settings| settings.tls = Some(certificates.files())).await?;
    let address = world.server.address();
    let answer = get_on(encrypted(address, &trust).await?, "/readyz", "host: localhost\r\n").await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    walcast::health_check::ask(address.port()).await.context("the container's health check")?;

    let mut client = socket(address, &trust).await?;
    let config = json!({ "config": { "broadcast": { "self": true, "ack": true } } });
    assert!(client.join(ROOM, &config).await?.is_ok());
    for size in [1, 16 << 10, 1 << 20] {
        let payload = json!({ "text": "a".repeat(size) });
        client.broadcast(ROOM, "echo", &payload).await?;
        let echo = client.expect(|message| message.event == "broadcast").await?;
        assert_eq!(echo.payload["payload"], payload, "{size} bytes come back whole");
    }
    client.heartbeat().await?;
    world.server.stop().await?;
    assert_eq!(client.closed().await?.map(|(code, _)| code), Some(1012), "the farewell is encrypted too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_over_tls_gets_all_that_was_queued_for_it() -> Result<()> {
    const MESSAGES: usize = 120;
    let certificates = Certificates::new()?;
    let trust = certificates.renew()?;
    let world = World::with_settings("edge_tls_slow", "", |settings| {
        settings.tls = Some(certificates.files());
        settings.project.engine.outbound_bytes_max = 64 << 20;
    })
    .await?;
    let mut slow = socket(world.server.address(), &trust).await?;
    let mut sender = socket(world.server.address(), &trust).await?;
    for client in [&mut slow, &mut sender] {
        let config = json!({ "config": { "broadcast": { "ack": true } } });
        assert!(client.join(ROOM, &config).await?.is_ok());
    }
    // Far more than the kernel keeps, while nobody reads.
    let text = "a".repeat(200_000);
    for number in 0..MESSAGES {
        let reference = sender.broadcast(ROOM, "flood", &json!({ "number": number, "text": text })).await?;
        assert!(sender.reply(&reference).await?.is_ok());
    }
    for number in 0..MESSAGES {
        let message = slow.expect(|message| message.event == "broadcast").await?;
        assert_eq!(message.payload["payload"]["number"], number);
        assert_eq!(message.payload["payload"]["text"].as_str().map(str::len), Some(text.len()));
    }
    slow.heartbeat().await?;
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_on_without_dropping_connections_and_a_bad_one_is_not() -> Result<()> {
    let certificates = Certificates::new()?;
    let first = certificates.renew()?;
    let world =
        World::with_settings("edge_reload", "", |settings| settings.tls = Some(certificates.files())).await?;
    let address = world.server.address();
    let mut client = socket(address, &first).await?;

    std::fs::write(certificates.files().key, "not a key")?;
    world.server.reload().await;
    socket(address, &first).await.context("the old one stays in use")?.heartbeat().await?;

    let second = certificates.renew()?;
    world.server.reload().await;
    socket(address, &second).await?.heartbeat().await?;
    assert!(encrypted(address, &first).await.is_err(), "the old one is no longer shown");
    client.heartbeat().await.context("who is connected stays so")?;
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_noticed_without_being_told() -> Result<()> {
    let certificates = Certificates::new()?;
    certificates.renew()?;
    let world = World::with_settings("edge_watch", "", |settings| {
        settings.tls = Some(certificates.files());
        settings.tls_reload = Duration::from_millis(20);
    })
    .await?;
    let second = certificates.renew()?;
    let deadline = Instant::now() + DEADLINE;
    while encrypted(world.server.address(), &second).await.is_err() {
        ensure!(Instant::now() < deadline, "the new certificate is not taken on");
    }
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pair_at_the_start_is_an_error_that_names_the_file() -> Result<()> {
    let certificates = Certificates::new()?;
    certificates.renew()?;
    std::fs::write(certificates.files().key, "not a key")?;
    let database = walcast_testkit::database("edge_bad_pair").await;
    let mut settings = settings(&database)?;
    settings.tls = Some(certificates.files());
    let error = Box::pin(Server::start(settings)).await.err().context("it started")?.to_string();
    assert!(error.contains("tls.key (tls.key): there is no private key in it"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_plain_http_to_tls_is_told_so() -> Result<()> {
    let certificates = Certificates::new()?;
    certificates.renew()?;
    let world =
        World::with_settings("edge_plain", "", |settings| settings.tls = Some(certificates.files())).await?;
    let answer = get(world.server.address(), "/readyz", "host: localhost\r\n").await?;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()?["error"], "this port speaks TLS: use https:// or wss:// (tls.certificate)");
    world.server.stop().await
}

// Origins.

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_can_not_open_a_socket() -> Result<()> {
    let world = World::with_settings("edge_origins", "", |settings| {
        settings.project.allowed_origins = vec!["https://app.example".parse().expect("an origin")];
    })
    .await?;
    let with_origin = |origin: &str| {
        let mut handshake = Handshake::new(&world.websocket(), &token(&person("ana")), ProtocolVersion::V2);
        handshake.headers.push(("origin".to_owned(), origin.to_owned()));
        handshake
    };
    let error = with_origin("https://evil.example").connect().await.err().context("it was let in")?;
    let told: HandshakeRefused = error.downcast()?;
    assert_eq!(told.status, 403);
    assert!(told.body.contains("auth.allowed_origins"), "{told}");
    with_origin("https://app.example").connect().await?.heartbeat().await?;
    world.connect(&person("ana")).await.context("programs send no origin")?.heartbeat().await?;
    world.server.stop().await
}

// Limits per address.

#[tokio::test(flavor = "multi_thread")]
async fn an_address_gets_so_many_connections_and_is_told_the_limit() -> Result<()> {
    let world = World::with_settings("edge_address", "", |settings| {
        settings.listener.addresses = AddressLimits { connections_max: 2, handshakes_per_second_max: 0 };
    })
    .await?;
    let (mut first, second) = (world.connect(&person("ana")).await?, world.connect(&person("bea")).await?);
    let answer = get(world.server.address(), "/healthz", "host: localhost\r\n").await?;
    assert_eq!(answer.status, 429);
    let error = answer.json()?["error"].to_string();
    assert!(error.contains("limits.max_connections_per_address = 2"), "{error}");
    first.heartbeat().await?;
    drop(second);
    until_let_in(&world).await?;
    world.server.stop().await
}

/// The server notices a closed socket a moment later.
async fn until_let_in(world: &World) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while get(world.server.address(), "/healthz", "host: localhost\r\n").await?.status != 200 {
        ensure!(Instant::now() < deadline, "the place is not given back");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_each_of_its_clients_is_counted() -> Result<()> {
    let world = World::with_settings("edge_proxy", "", |settings| {
        settings.listener.addresses = AddressLimits { connections_max: 1, handshakes_per_second_max: 0 };
        settings.listener.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await?;
    let from = |client: &str| {
        let mut handshake = Handshake::new(&world.websocket(), &token(&person("ana")), ProtocolVersion::V2);
        handshake.headers.push(("x-forwarded-for".to_owned(), format!("203.0.113.99, {client}")));
        handshake
    };
    let mut first = from("192.0.2.1").connect().await?;
    from("192.0.2.2").connect().await?.heartbeat().await?;
    let error = from("192.0.2.1").connect().await.err().context("it was let in")?;
    let told: HandshakeRefused = error.downcast()?;
    assert_eq!(told.status, 429);
    assert!(told.body.contains("192.0.2.1") && told.body.contains("limits.max_connections_per_address = 1"));
    first.heartbeat().await?;
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_polling_session_takes_a_place_of_its_address_and_its_requests_take_none() -> Result<()> {
    let world = World::with_settings("edge_polls", "", |settings| {
        settings.listener.addresses = AddressLimits { connections_max: 1, handshakes_per_second_max: 0 };
        settings.listener.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        settings.project.allowed_origins = vec!["https://app.example".parse().expect("an origin")];
    })
    .await?;
    let (address, apikey) = (world.server.address(), token(&person("ana")));
    let open = format!("/socket/longpoll?vsn=2.0.0&apikey={apikey}");
    let from = |client: &str| format!("host: a\r\nx-forwarded-for: {client}\r\n");
    let opened = get(address, &open, &from("192.0.2.1")).await?.json()?;
    let session = opened["token"].as_str().with_context(|| opened.to_string())?;
    let refused = get(address, &open, &from("192.0.2.1")).await?;
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("limits.max_connections_per_address = 1"), "{refused:?}");
    let heartbeat = r#"[null,"1","phoenix","heartbeat",{}]"#;
    let post = format!(
        "POST /socket/longpoll?vsn=2.0.0&token={session} HTTP/1.1\r\n{}content-length: {}\r\n\r\n{heartbeat}",
        from("192.0.2.1"),
        heartbeat.len()
    );
    let sent = ask_on(TcpStream::connect(address).await?, &post).await?;
    assert_eq!(sent.json()?["status"], 200, "{sent:?}");
    let polled =
        get(address, &format!("/socket/longpoll?token={session}"), &from("192.0.2.1")).await?.json()?;
    assert_eq!(polled["messages"].as_array().map(Vec::len), Some(1), "{polled}");
    assert_eq!(get(address, &open, &from("192.0.2.2")).await?.json()?["status"], 410, "another address");
    let elsewhere = format!("{}origin: https://evil.example\r\n", from("192.0.2.3"));
    assert_eq!(get(address, &open, &elsewhere).await?.status, 403, "origins count here as well");
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_makes_so_many_handshakes_in_a_second() -> Result<()> {
    let world = World::with_settings("edge_handshakes", "", |settings| {
        settings.listener.addresses = AddressLimits { connections_max: 0, handshakes_per_second_max: 3 };
    })
    .await?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = get(world.server.address(), "/healthz", "host: localhost\r\n").await?;
        if answer.status == 429 {
            let error = answer.json()?["error"].to_string();
            assert!(error.contains("limits.max_handshakes_per_second_per_address = 3"), "{error}");
            return world.server.stop().await;
        }
        ensure!(Instant::now() < deadline, "never refused");
    }
}

// Time-outs and sizes.

/// Reads until the server hangs up.
async fn hung_up(mut stream: TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.context("the server waits on")?;
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_go_on_is_cut() -> Result<()> {
    let world = World::with_settings("edge_slow", "", |settings| {
        settings.listener.head_timeout = Duration::from_millis(100);
    })
    .await?;
    let mut stream = TcpStream::connect(world.server.address()).await?;
    stream.write_all(b"GET /socket/websocket HTTP/1.1\r\nhost: a\r\nx-slow: ").await?;
    hung_up(stream).await?;
    hung_up(TcpStream::connect(world.server.address()).await?).await.context("who says nothing at all")?;
    // Only the handshake is in a hurry.
    let mut client = world.connect(&person("ana")).await?;
    hung_up(TcpStream::connect(world.server.address()).await?).await?;
    client.heartbeat().await?;
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_does_not_go_on_is_cut() -> Result<()> {
    let certificates = Certificates::new()?;
    certificates.renew()?;
    let world = World::with_settings("edge_slow_tls", "", |settings| {
        settings.tls = Some(certificates.files());
        settings.listener.tls_handshake_timeout = Duration::from_millis(100);
    })
    .await?;
    for beginning in [&b""[..], &[22, 3, 1, 1, 0]] {
        let mut stream = TcpStream::connect(world.server.address()).await?;
        stream.write_all(beginning).await?;
        hung_up(stream).await?;
    }
    world.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_over_their_limits_are_refused() -> Result<()> {
    let world = World::with_sql("edge_heads", "").await?;
    let address = world.server.address();
    let long = format!("/socket/websocket?apikey={}", "a".repeat(17 << 10));
    let line = get(address, &long, "host: a\r\n").await?;
    assert_eq!(line.status, 414);
    assert!(line.body.contains("server.request_line_bytes_max = 16384"), "{line:?}");
    let large = get(address, "/healthz", &format!("host: a\r\nx: {}\r\n", "a".repeat(33 << 10))).await?;
    assert_eq!(large.status, 431);
    assert!(large.body.contains("server.header_bytes_max = 32768"), "{large:?}");
    let huge = get(address, "/healthz", &format!("host: a\r\nx: {}\r\n", "a".repeat(100 << 10))).await?;
    assert_eq!(huge.status, 431, "far above the limit the HTTP layer refuses: {huge:?}");
    let many = get(address, "/healthz", &format!("host: a\r\n{}", "x: y\r\n".repeat(200))).await?;
    assert_eq!(many.status, 431, "{many:?}");
    world.server.stop().await
}

// The log.

/// All that this process has logged, at the finest level of our crates.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let ours = "info,walcast=trace,walcast_server=trace,walcast_engine=trace,walcast_auth=trace";
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(ours))
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_logged_wherever_a_client_puts_it() -> Result<()> {
    let log = log();
    let world = World::with_settings("edge_log", "", |settings| {
        settings.project.allowed_origins = vec!["https://app.example".parse().expect("an origin")];
    })
    .await?;
    let address = world.server.address();
    let good = token(&person("a_subject_of_the_log_test"));
    let foreign = walcast_auth::sign(&person("another"), "a secret that nobody has, and long enough")?;
    let told: Vec<Answer> = vec![
        get(address, &format!("/socket/websocket?apikey={foreign}"), &format!("host: a\r\n{UPGRADE}"))
            .await?,
        get(address, "/socket/websocket", &format!("host: a\r\nx-api-key: {foreign}\r\n{UPGRADE}")).await?,
        get(address, &format!("/socket/websocket?apikey={good}"), "host: a\r\n").await?,
        get(address, &format!("/{good}/socket/websocket"), &format!("host: {good}\r\n")).await?,
        get(address, "/socket/websocket", &format!("host: a\r\norigin: https://{good}.example\r\n")).await?,
        get(
            address,
            &format!("/metrics?token={good}"),
            &format!("host: a\r\nauthorization: Bearer {good}\r\n"),
        )
        .await?,
        ask_on(
            TcpStream::connect(address).await?,
            &format!("GET http://{good}/nowhere?access_token={good} HTTP/1.1\r\nhost: a\r\n\r\n"),
        )
        .await?,
    ];
    assert_eq!(
        told.iter().map(|answer| answer.status).collect::<Vec<_>>(),
        [401, 401, 400, 404, 403, 200, 404]
    );
    let mut client = world.connect(&person("a_subject_of_the_log_test")).await?;
    let reply = client.join(ROOM, &json!({ "access_token": foreign, "config": {} })).await?;
    assert!(!reply.is_ok());
    client.join(ROOM, &json!({ "access_token": good, "config": {} })).await?;
    client.access_token(ROOM, &foreign).await?;
    client.expect(|message| message.event == "phx_close").await?;
    world.server.stop().await?;

    let lines = log.0.lock().expect("nobody panics while logging").clone();
    let lines = String::from_utf8_lossy(&lines);
    assert!(
        lines.contains("handshake refused") && lines.contains("OriginNotAllowed"),
        "it was logged at all"
    );
    for secret in [&good, &foreign] {
        for part in secret.split('.') {
            assert!(!lines.contains(part), "{part} in\n{lines}");
        }
    }
    assert!(!lines.contains("a secret of the end-to-end tests"), "{lines}");
    Ok(())
}
