use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use walcast_replication::settings::RootCertificate;
use walcast_replication::{
    Authentication, ConnectionSettings, Identity, ReplicationError, SslMode, identify,
};
use walcast_testkit::{Cluster, ClusterSettings};

use crate::consumer::{Consumer, make_notes, settings};

/// The only name in the server's certificate.
const SERVER_NAME: &str = "db.walcast.test";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(parameters, key), pem }
    }

    /// Certificate and key in PEM form.
    fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct TlsCluster {
    cluster: Cluster,
    authority: String,
    certificate: String,
}

async fn tls_cluster() -> TlsCluster {
    let authority = Authority::new();
    let (certificate, key) = authority.certify(SERVER_NAME);
    let cluster = Cluster::start(ClusterSettings {
        host_based_authentication: vec![
            "hostssl all in_the_clear_only 127.0.0.1/32 reject".to_owned(),
            "hostnossl all encrypted_only 127.0.0.1/32 reject".to_owned(),
        ],
        ..walcast_testkit::database::test_settings()
    })
    .await
    .unwrap();
    cluster.write_data_file("server.crt", &certificate).unwrap();
    cluster.write_data_file("server.key", &key).unwrap();
    let client = cluster.client("postgres").await.unwrap();
    for sql in [
        "ALTER SYSTEM SET ssl = on",
        "CREATE ROLE in_the_clear_only LOGIN REPLICATION PASSWORD 'geheim'",
        "CREATE ROLE encrypted_only LOGIN REPLICATION PASSWORD 'geheim'",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    cluster.restart().await.unwrap();
    TlsCluster { cluster, authority: authority.pem, certificate }
}

impl TlsCluster {
    /// A connection to the server under `name`.
    fn connection(&self, name: &str, parameters: &str, root: Option<&str>) -> ConnectionSettings {
        let url = format!("{}?host={name}&hostaddr=127.0.0.1&{parameters}", self.cluster.url("postgres"));
        let port = self.cluster.port().unwrap();
        let mut settings = ConnectionSettings::parse(&format!("{url}&port={port}")).unwrap();
        settings.ssl_root_certificate = root.map(|pem| RootCertificate::Pem(pem.to_owned()));
        settings
    }

    async fn identify(
        &self,
        name: &str,
        parameters: &str,
        root: Option<&str>,
    ) -> Result<Identity, ReplicationError> {
        identify(&self.connection(name, parameters, root)).await
    }

    async fn refusal(&self, name: &str, parameters: &str, root: Option<&str>) -> String {
        let error = self.identify(name, parameters, root).await.expect_err("it had to be refused");
        assert!(error.is_permanent(), "{error}");
        error.to_string()
    }
}

#[tokio::test]
async fn each_mode_checks_what_it_promises() {
    let server = tls_cluster().await;
    let (right, stranger) = (Some(server.authority.as_str()), Authority::new().pem);
    let stranger = Some(stranger.as_str());

    let full = server.identify(SERVER_NAME, "sslmode=verify-full", right).await.unwrap();
    assert!(full.encrypted);
    let refusal = server.refusal("other.walcast.test", "sslmode=verify-full", right).await;
    assert!(refusal.contains("other.walcast.test") && refusal.contains("subjectAltName"), "{refusal}");
    let refusal = server.refusal(SERVER_NAME, "sslmode=verify-full", stranger).await;
    assert!(refusal.contains("invalid peer certificate") && refusal.contains("sslrootcert"), "{refusal}");

    assert!(server.identify("other.walcast.test", "sslmode=verify-ca", right).await.unwrap().encrypted);
    server.refusal(SERVER_NAME, "sslmode=verify-ca", stranger).await;
    // The server's own certificate, trusted by itself.
    let own = Some(server.certificate.as_str());
    assert!(server.identify(SERVER_NAME, "sslmode=verify-full", own).await.unwrap().encrypted);

    assert!(server.identify("other.walcast.test", "sslmode=require", None).await.unwrap().encrypted);
    server.refusal(SERVER_NAME, "sslmode=require", stranger).await;
    assert!(server.identify(SERVER_NAME, "sslmode=prefer", None).await.unwrap().encrypted);
    assert!(!server.identify(SERVER_NAME, "sslmode=disable", None).await.unwrap().encrypted);
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_connection_where_there_is_one() {
    let server = tls_cluster().await;
    let used = |parameters: &'static str| {
        let server = &server;
        async move { server.identify(SERVER_NAME, parameters, None).await.unwrap().authentication }
    };
    assert_eq!(used("sslmode=require").await, Authentication::ScramSha256Plus);
    assert_eq!(used("sslmode=require&channel_binding=require").await, Authentication::ScramSha256Plus);
    assert_eq!(used("sslmode=require&channel_binding=disable").await, Authentication::ScramSha256);
    assert_eq!(used("sslmode=disable").await, Authentication::ScramSha256);
    let refusal = server.refusal(SERVER_NAME, "sslmode=disable&channel_binding=require", None).await;
    assert!(refusal.contains("channel_binding=require, but"), "{refusal}");
}

#[tokio::test]
async fn prefer_goes_the_way_pg_hba_leaves_open() {
    let server = tls_cluster().await;
    for (role, encrypted) in [("in_the_clear_only", false), ("encrypted_only", true)] {
        let mut settings = server.connection(SERVER_NAME, "sslmode=prefer", None);
        role.clone_into(&mut settings.user);
        settings.password = Some(walcast_replication::settings::Password::new("geheim"));
        assert_eq!(identify(&settings).await.unwrap().encrypted, encrypted, "{role}");
        settings.ssl_mode = if encrypted { SslMode::Disable } else { SslMode::Require };
        let error = identify(&settings).await.unwrap_err();
        assert!(matches!(error, ReplicationError::HostRefused { .. }), "{error}");
    }
}

#[tokio::test]
async fn changes_stream_over_tls() {
    let server = tls_cluster().await;
    let client = server.cluster.client("postgres").await.unwrap();
    make_notes(&client).await;
    let mut settings = settings(&server.cluster.url("postgres"), "encrypted");
    settings.connection = server.connection(SERVER_NAME, "sslmode=verify-full", Some(&server.authority));
    let mut consumer = Consumer::start(settings).await;
    client.batch_execute("INSERT INTO notes SELECT repeat('x', 3000000)").await.unwrap();
    client.batch_execute("INSERT INTO notes VALUES ('end')").await.unwrap();
    assert_eq!(consumer.next_text().await.len(), 3_000_000);
    assert_eq!(consumer.next_text().await, "end");
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_used_in_the_clear_only_when_that_is_allowed() {
    let database = walcast_testkit::database("without tls").await;
    let mut settings = ConnectionSettings::parse(database.url()).unwrap();
    assert!(!identify(&settings).await.unwrap().encrypted);
    settings.ssl_mode = SslMode::Require;
    let error = identify(&settings).await.unwrap_err();
    assert!(matches!(error, ReplicationError::TlsNotOffered { .. }), "{error}");
}
