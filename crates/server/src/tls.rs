//! The server's certificate: read from two PEM files, and read again when they change.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig};
use tokio_util::sync::CancellationToken;

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the server's certificate, and behind it those that lead to its authority (`tls.certificate`).
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key (`tls.key`).
    pub key: PathBuf,
}

/// Why the files can not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's file.
    #[error("the certificate {path} (tls.certificate): {problem}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key's file.
    #[error("the key {path} (tls.key): {problem}", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Nothing of the key is shown.
        problem: String,
    },
    /// Each is good, but not together.
    #[error(
        "the key {key} (tls.key) does not belong to the certificate {certificate} (tls.certificate): \
         the server's own certificate must come first in its file",
        key = .0.key.display(), certificate = .0.certificate.display()
    )]
    Mismatch(TlsFiles),
}

/// The certificate in use.
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// Of the files as they were last looked at, good or bad, so that each content is judged once.
    fingerprint: Mutex<u64>,
}

/// The bytes of both files.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// A file that can not be read or used.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let pair = Pair {
            certificate: std::fs::read(&files.certificate).map_err(|error| certificate(&files, error))?,
            key: std::fs::read(&files.key).map_err(|error| key(&files, error))?,
        };
        let config = pair.config(&files)?;
        let fingerprint = Mutex::new(pair.fingerprint());
        Ok(Arc::new(Tls { files, config: ArcSwap::from_pointee(config), fingerprint }))
    }

    /// What the next handshake is made with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads the files again. Connections that there are keep the certificate they began with; new ones get the new
    /// one, and where it is not good, the old one.
    ///
    /// True when there is a new one.
    ///
    /// # Errors
    /// A file that can not be read or used.
    pub async fn reload(&self) -> Result<bool, TlsError> {
        self.look(true).await
    }

    /// Looks at the files now and then until `cancel`; a bad pair is logged once.
    pub async fn watch(self: Arc<Self>, every: Duration, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.look(false).await {
                Ok(true) => tracing::info!("the TLS certificate has changed and is used from now on"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the old TLS certificate stays in use"),
            }
        }
    }

    async fn look(&self, known_too: bool) -> Result<bool, TlsError> {
        let files = &self.files;
        let pair = async {
            Ok(Pair {
                certificate: tokio::fs::read(&files.certificate)
                    .await
                    .map_err(|error| certificate(files, error))?,
                key: tokio::fs::read(&files.key).await.map_err(|error| key(files, error))?,
            })
        };
        let pair: Result<Pair, TlsError> = pair.await;
        // A file that is away is a content, too: it is told once.
        let fingerprint = pair.as_ref().map_or(0, Pair::fingerprint);
        let before = std::mem::replace(
            &mut *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner),
            fingerprint,
        );
        if before == fingerprint && !known_too {
            return Ok(false);
        }
        self.config.store(Arc::new(pair?.config(files)?));
        Ok(true)
    }
}

impl Pair {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| certificate(files, pem_problem(&error, "certificate")))?;
        if chain.is_empty() {
            return Err(certificate(files, pem_problem(&PemError::NoItemsFound, "certificate")));
        }
        let private_key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| key(files, pem_problem(&error, "private key")))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| certificate(files, error))?
            .with_no_client_auth();
        let mut config = builder.with_single_cert(chain, private_key).map_err(|error| match error {
            Error::InconsistentKeys(_) => TlsError::Mismatch(files.clone()),
            Error::InvalidCertificate(error) => certificate(files, error),
            error => key(files, error),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificate(files: &TlsFiles, problem: impl Display) -> TlsError {
    TlsError::Certificate { path: files.certificate.clone(), problem: problem.to_string() }
}

fn key(files: &TlsFiles, problem: impl Display) -> TlsError {
    TlsError::Key { path: files.key.clone(), problem: problem.to_string() }
}

fn pem_problem(error: &PemError, wanted: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("there is no {wanted} in it; it must be a PEM file"),
        // Not the error's own text: that may show what stands in the file.
        _ => "not a valid PEM file".to_owned(),
    }
}

/// For logs.
impl Display for TlsFiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |path: &Path| path.display().to_string();
        write!(formatter, "{} with {}", show(&self.certificate), show(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(tempfile::tempdir().unwrap())
        }

        fn files(&self) -> TlsFiles {
            let file = |name| self.0.path().join(name);
            TlsFiles { certificate: file("tls.crt"), key: file("tls.key") }
        }

        /// The files of a fresh certificate; its certificate and key as PEM.
        fn fresh(&self) -> (String, String) {
            let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            std::fs::write(self.files().certificate, &certificate).unwrap();
            std::fs::write(self.files().key, &key).unwrap();
            (certificate, key)
        }
    }

    fn refusal(files: TlsFiles) -> String {
        Tls::load(files).err().expect("refused").to_string()
    }

    #[test]
    fn a_bad_pair_is_refused_with_the_name_of_the_file_that_is_wrong() {
        let folder = Folder::new();
        let files = folder.files();
        assert!(refusal(files.clone()).contains("tls.crt (tls.certificate): No such file"));
        let (_, key) = folder.fresh();
        std::fs::remove_file(&files.key).unwrap();
        assert!(refusal(files.clone()).contains("tls.key (tls.key): No such file"));
        std::fs::write(&files.key, "-----BEGIN PRIVATE KEY-----\nhidden").unwrap();
        let refused = refusal(files.clone());
        assert!(refused.contains("tls.key (tls.key)") && !refused.contains("hidden"), "{refused}");
        std::fs::write(&files.certificate, &key).unwrap();
        assert!(refusal(files.clone()).contains("tls.crt (tls.certificate): there is no certificate in it"));
        folder.fresh();
        std::fs::write(&files.key, key).unwrap();
        assert!(refusal(files).contains("does not belong to the certificate"));
    }

    #[tokio::test]
    async fn a_bad_pair_at_a_reload_leaves_the_old_one_and_is_judged_once() {
        let folder = Folder::new();
        let (_, key) = folder.fresh();
        let tls = Tls::load(folder.files()).unwrap();
        let first = tls.config.load_full();
        assert!(!tls.look(false).await.unwrap(), "nothing has changed");
        folder.fresh();
        std::fs::write(folder.files().key, key).unwrap();
        assert!(matches!(tls.look(false).await, Err(TlsError::Mismatch(_))));
        assert!(!tls.look(false).await.unwrap(), "told once");
        assert!(tls.reload().await.is_err(), "but to whoever asks");
        assert!(Arc::ptr_eq(&first, &tls.config.load_full()), "the old one stays");
        folder.fresh();
        assert!(tls.look(false).await.unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.config.load_full()));
    }
}
