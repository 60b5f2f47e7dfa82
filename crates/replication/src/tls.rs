//! TLS as `sslmode` asks for it (PostgreSQL docs, "SSL Support").
//!
//! Three checks of the server's certificate, from nothing to its name. All of them verify the handshake's signature,
//! so that the server holds the key of the certificate it shows: channel binding rests on that.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::settings::{ConnectionSettings, RootCertificate, SettingsError, SslMode, TlsIdentity};

impl ConnectionSettings {
    /// The TLS side of these settings; none when `sslmode=disable`.
    ///
    /// The cryptography is named explicitly (`aws-lc-rs`), so no process-wide provider need be installed.
    ///
    /// # Errors
    /// A certificate or key file that can not be read or used.
    pub fn tls(&self) -> Result<Option<ClientConfig>, SettingsError> {
        if self.ssl_mode == SslMode::Disable {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            Arc::new(Verifier { check: self.certificate_check()?, provider: Arc::clone(&provider) });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SettingsError::Malformed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.ssl_identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (certificates, key) = read_identity(identity)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|error| unusable("sslcert", &identity.certificate, &error))?
            }
        };
        Ok(Some(config))
    }

    fn certificate_check(&self) -> Result<CertificateCheck, SettingsError> {
        let roots = |certificate| read_roots(certificate).map(Arc::new);
        Ok(match (self.ssl_mode, &self.ssl_root_certificate) {
            (SslMode::VerifyFull, root) => {
                CertificateCheck::ChainAndName(roots(root.as_ref().unwrap_or(&RootCertificate::System))?)
            }
            (SslMode::VerifyCa, root) => {
                CertificateCheck::Chain(roots(root.as_ref().unwrap_or(&RootCertificate::System))?)
            }
            // libpq's rule: a given root certificate is never ignored in silence.
            (SslMode::Require, Some(root)) => CertificateCheck::Chain(roots(root)?),
            (SslMode::Require | SslMode::Prefer | SslMode::Disable, _) => CertificateCheck::None,
        })
    }
}

/// What is asked of the server's certificate.
#[derive(Debug)]
enum CertificateCheck {
    None,
    Chain(Arc<TrustedRoots>),
    ChainAndName(Arc<TrustedRoots>),
}

#[derive(Debug)]
struct TrustedRoots {
    store: RootCertStore,
    /// The certificates as given. A self-signed server certificate that is trusted by itself is common in
    /// self-hosting; OpenSSL accepts it, and the chain builder behind `store` does not when it is also a CA.
    certificates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Verifier {
    check: CertificateCheck,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (roots, name_matters) = match &self.check {
            CertificateCheck::None => return Ok(ServerCertVerified::assertion()),
            CertificateCheck::Chain(roots) => (roots, false),
            CertificateCheck::ChainAndName(roots) => (roots, true),
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if roots.certificates.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
            verify_validity_period(end_entity, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &roots.store,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if name_matters {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_validity_period(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

fn read_roots(source: &RootCertificate) -> Result<TrustedRoots, SettingsError> {
    let certificates = match source {
        RootCertificate::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(SettingsError::CertificateFile {
                    parameter: "sslrootcert",
                    file: "the system's certificate store".to_owned(),
                    reason: "it holds no certificate; install ca-certificates or give a file".to_owned(),
                });
            }
            found.certs
        }
        RootCertificate::File(path) => read_certificates("sslrootcert", path)?,
        RootCertificate::Pem(text) => {
            let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            not_empty("sslrootcert", "the inline certificate", parsed)?
        }
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates.iter().cloned());
    // The system's store as a whole is the authority; only a certificate that the user chose is trusted by itself.
    let certificates = if *source == RootCertificate::System { Vec::new() } else { certificates };
    Ok(TrustedRoots { store, certificates })
}

fn read_identity(
    identity: &TlsIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SettingsError> {
    let certificates = read_certificates("sslcert", &identity.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| unusable("sslkey", &identity.key, &error))?;
    Ok((certificates, key))
}

fn read_certificates(
    parameter: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let parsed = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    not_empty(parameter, &path.display().to_string(), parsed)
}

fn not_empty(
    parameter: &'static str,
    file: &str,
    parsed: Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error>,
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let reason = match parsed {
        Ok(certificates) if !certificates.is_empty() => return Ok(certificates),
        Ok(_) => "it holds no certificate in PEM form".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(SettingsError::CertificateFile { parameter, file: file.to_owned(), reason })
}

fn unusable(parameter: &'static str, path: &Path, reason: &impl ToString) -> SettingsError {
    SettingsError::CertificateFile { parameter, file: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(parameters: &str) -> ConnectionSettings {
        ConnectionSettings::parse(&format!("user=ana {parameters}")).unwrap()
    }

    #[test]
    fn only_disable_has_no_tls() {
        assert!(settings("sslmode=disable").tls().unwrap().is_none());
        assert!(settings("sslmode=require").tls().unwrap().is_some());
    }

    #[test]
    fn require_checks_the_chain_only_when_a_root_is_given() {
        assert!(matches!(settings("sslmode=require").certificate_check().unwrap(), CertificateCheck::None));
        let error = settings("sslmode=require sslrootcert=/nowhere/ca.pem").tls().unwrap_err();
        assert!(error.to_string().starts_with("sslrootcert: /nowhere/ca.pem can not be used"), "{error}");
    }

    #[test]
    fn a_root_without_any_certificate_is_refused() {
        let mut settings = settings("sslmode=verify-ca");
        settings.ssl_root_certificate = Some(RootCertificate::Pem("nothing here".to_owned()));
        assert!(settings.tls().unwrap_err().to_string().contains("no certificate in PEM form"));
    }
}
