//! `walcast healthcheck`: what a container asks of the server beside it.

use std::time::Duration;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer that takes longer is a no.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks `/readyz` of the server on this machine; an error when it is not ready.
pub async fn ask(port: u16) -> Result<()> {
    let answer = tokio::time::timeout(DEADLINE, get_readyz(port)).await.context("no answer in time")??;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        bail!("not ready (HTTP {status}): {body}");
    }
    Ok(())
}

async fn get_readyz(port: u16) -> Result<String> {
    let connect = async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .with_context(|| format!("nothing answers on port {port}"))
    };
    let answer = get(connect().await?).await?;
    // What a port that speaks TLS says to others.
    if answer.starts_with("HTTP/1.1 400") {
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        return get(TlsConnector::from(config()?).connect(name, connect().await?).await?).await;
    }
    Ok(answer)
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn config() -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ThisMachine(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate: the server is on this machine, its name is that of the public, and nothing is told to it.
#[derive(Debug)]
struct ThisMachine(Arc<CryptoProvider>);

impl ServerCertVerifier for ThisMachine {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
