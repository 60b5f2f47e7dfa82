//! Where PostgreSQL is and who we are there: the settings of one connection, whatever text they came from.
//!
//! The names and meanings are libpq's (PostgreSQL docs, "Parameter Key Words"), so that the URL that works with
//! `psql` works here. The environment is not read: that is the binary's business.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::connection_text;

/// How to reach one PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Tried in this order until one answers. Never empty.
    pub hosts: Vec<Host>,
    /// The role to log in as.
    pub user: String,
    /// The role's password, when the server may ask for one.
    pub password: Option<Password>,
    /// The database whose changes are wanted.
    pub database: String,
    /// Whether to encrypt and how much of the server's certificate to check.
    pub ssl_mode: SslMode,
    /// Which authorities may have signed the server's certificate; none given means the system's.
    pub ssl_root_certificate: Option<RootCertificate>,
    /// The certificate and key to show a server that asks for one.
    pub ssl_identity: Option<TlsIdentity>,
    /// Whether the password exchange must be tied to the TLS connection.
    pub channel_binding: ChannelBindingMode,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Command-line options for the server process, such as `-c work_mem=8MB`.
    pub options: Option<String>,
    /// How long one host may take until the session is ready; none means as long as the network allows.
    pub connect_timeout: Option<Duration>,
    /// Skip hosts that are standbys (`target_session_attrs=primary` or `read-write`).
    pub primary_only: bool,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What to connect to.
    pub endpoint: Endpoint,
    /// The TCP port, or the number in the name of the Unix socket.
    pub port: u16,
}

/// The two ways to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP, with TLS where the mode asks for it.
    Tcp {
        /// The host name or address, which a verified certificate must carry.
        name: String,
        /// Connect here instead of looking the name up (`hostaddr`).
        address: Option<IpAddr>,
    },
    /// The directory of a Unix socket. TLS is never used there.
    UnixSocket(PathBuf),
}

/// How much of TLS is demanded, with libpq's meaning (PostgreSQL docs, "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt when the server can, and go on in the clear when it can not. The certificate is not checked.
    #[default]
    Prefer,
    /// Encrypt or fail. The certificate's chain is checked only when a root certificate is given.
    Require,
    /// As `Require`, and the certificate must be signed by a trusted authority.
    VerifyCa,
    /// As `VerifyCa`, and the certificate must be made out to the host's name.
    VerifyFull,
}

/// Whether SCRAM must be bound to the TLS connection (PostgreSQL docs, `channel_binding`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBindingMode {
    /// Never use it.
    Disable,
    /// Use it when both sides can.
    #[default]
    Prefer,
    /// Refuse a server that does not use it.
    Require,
}

/// Where trusted authorities come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificate {
    /// The operating system's store.
    System,
    /// A file in PEM form, with one certificate or several.
    File(PathBuf),
    /// The PEM text itself.
    Pem(String),
}

/// A client certificate in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, followed by any intermediate ones.
    pub certificate: PathBuf,
    /// The private key, not encrypted.
    pub key: PathBuf,
}

/// A password that does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }

    /// The password itself, for the moment it is sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("…")
    }
}

/// Why a connection text or a file it names can not be used. No variant carries the password.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Neither a URL nor `key=value` pairs.
    #[error(
        "the database URL is neither a URL nor key=value pairs: write it as postgres://user:password@host:5432/database"
    )]
    NotAConnectionText,
    /// A `%` is not followed by two hexadecimal digits, or the bytes are not UTF-8.
    #[error("the {part} in the database URL is not percent-encoded UTF-8: write a literal % as %25")]
    PercentEncoding {
        /// Which part of the URL.
        part: &'static str,
    },
    /// Text that does not have the shape of a URL or of key=value pairs.
    #[error("the database URL can not be read: {0}")]
    Malformed(String),
    /// A parameter libpq does not know either.
    #[error("the database URL has the unknown parameter '{0}': remove it")]
    UnknownParameter(String),
    /// A parameter of libpq that would change what is checked, and that we do not implement.
    #[error("the database URL has the parameter '{0}', which walcast does not support: remove it")]
    UnsupportedParameter(String),
    /// A known parameter with a value it can not have.
    #[error("the database URL has {parameter}='{value}': expected {expected}")]
    InvalidValue {
        /// The parameter's name.
        parameter: &'static str,
        /// The value as given.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// No role is named.
    #[error("the database URL names no user: write it as postgres://user:password@host:5432/database")]
    MissingUser,
    /// Several ports, but not as many as hosts.
    #[error("the database URL has {hosts} hosts and {ports} ports: give one port, or one for each host")]
    PortsDoNotMatchHosts {
        /// How many hosts.
        hosts: usize,
        /// How many ports.
        ports: usize,
    },
    /// `sslrootcert=system` together with a mode that would not use it fully.
    #[error("sslrootcert=system goes only with sslmode=verify-full: remove sslmode from the database URL")]
    WeakModeWithSystemRoots,
    /// Only one half of a client certificate.
    #[error("sslcert and sslkey go together: the database URL has only one of them")]
    HalfIdentity,
    /// A certificate or key that can not be read.
    #[error("{parameter}: {file} can not be used: {reason}")]
    CertificateFile {
        /// `sslrootcert`, `sslcert` or `sslkey`.
        parameter: &'static str,
        /// The file, or a word for inline text.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConnectionSettings {
    /// The port PostgreSQL listens on by default.
    pub const DEFAULT_PORT: u16 = 5432;
    /// How long one host may take when the text does not say.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Reads a `postgres://` URL or libpq's `key=value` pairs (PostgreSQL docs, "Connection Strings").
    ///
    /// # Errors
    /// Whatever libpq would refuse, in one sentence that names the part and never the password.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        connection_text::parse(text)
    }
}

impl Host {
    /// A TCP host by name.
    pub fn tcp(name: impl Into<String>, port: u16) -> Self {
        Host { endpoint: Endpoint::Tcp { name: name.into(), address: None }, port }
    }
}

/// As people write it: `db.example:5432`, `[::1]:5432`, `/var/run/postgresql:5432`.
impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { name, .. } if name.contains(':') => write!(out, "[{name}]:{}", self.port),
            Endpoint::Tcp { name, .. } => write!(out, "{name}:{}", self.port),
            Endpoint::UnixSocket(directory) => write!(out, "{}:{}", directory.display(), self.port),
        }
    }
}

/// Who, where and which database, without the password: fit for logs.
impl fmt::Display for ConnectionSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@", self.user)?;
        for (index, host) in self.hosts.iter().enumerate() {
            write!(out, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        write!(out, "/{}", self.database)
    }
}

/// As `sslmode` is written.
impl fmt::Display for SslMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_display_shows_the_password() {
        let settings = ConnectionSettings::parse("postgres://ana:s3cret@db:5433/app").unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert_eq!(settings.to_string(), "ana@db:5433/app");
        assert_eq!(settings.password.unwrap().reveal(), "s3cret");
    }
}
