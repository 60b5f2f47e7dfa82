//! Encrypted connections.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_postgres::config::SslMode;
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_testkit::{Cluster, ClusterSettings};

/// A cluster that answers only encrypted connections, and its certificate.
async fn encrypted_cluster(server_name: &str) -> (Cluster, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec![server_name.to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    let cluster = Cluster::start(ClusterSettings {
        host_based_authentication: vec!["hostnossl all encrypted_only 127.0.0.1/32 reject".to_owned()],
        ..walcast_testkit::database::test_settings()
    })
    .await
    .unwrap();
    cluster.write_data_file("server.crt", &certificate).unwrap();
    cluster.write_data_file("server.key", &key.serialize_pem()).unwrap();
    let admin = cluster.client("postgres").await.unwrap();
    for sql in ["ALTER SYSTEM SET ssl = on", "CREATE ROLE encrypted_only LOGIN PASSWORD 'secret'"] {
        admin.batch_execute(sql).await.unwrap();
    }
    cluster.restart().await.unwrap();
    (cluster, CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
}

fn trusting(certificate: CertificateDer<'static>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn the_catalog_speaks_tls_and_checks_the_servers_name() {
    let (cluster, certificate) = encrypted_cluster("db.walcast.test").await;
    let settings = |host: &str, tls: bool| {
        let mut config = tokio_postgres::Config::new();
        config
            .host(host)
            .hostaddr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .port(cluster.port().unwrap())
            .user("encrypted_only")
            .password("secret")
            .dbname("postgres")
            .ssl_mode(if tls { SslMode::Require } else { SslMode::Prefer });
        let tls = tls.then(|| trusting(certificate.clone()));
        CatalogSettings { tls, ..CatalogSettings::new(config) }
    };
    assert!(Catalog::connect(settings("db.walcast.test", true)).await.is_ok());
    let error = Catalog::connect(settings("other.walcast.test", true)).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = Catalog::connect(settings("db.walcast.test", false)).await.err().unwrap();
    assert_eq!(error.code(), Some("28000"), "{error}");
}
