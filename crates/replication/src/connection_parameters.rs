//! The parameters of a connection by libpq's names, their values, defaults and combinations
//! (PostgreSQL docs, "Parameter Key Words").

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::settings::{
    ChannelBindingMode, ConnectionSettings, Endpoint, Host, Password, RootCertificate, SettingsError,
    SslMode, TlsIdentity,
};

/// What was said so far; the last word on a parameter counts, as in libpq.
#[derive(Default)]
pub(crate) struct Parameters {
    host: String,
    host_address: String,
    port: String,
    user: String,
    password: String,
    database: String,
    ssl_mode: Option<SslMode>,
    ssl_root_certificate: String,
    ssl_certificate: String,
    ssl_key: String,
    channel_binding: ChannelBindingMode,
    application_name: String,
    options: String,
    connect_timeout: String,
    primary_only: bool,
}

impl Parameters {
    /// Takes one parameter by libpq's name.
    pub(crate) fn set(&mut self, key: &str, value: String) -> Result<(), SettingsError> {
        match key {
            "host" => self.host = value,
            "hostaddr" => self.host_address = value,
            "port" => self.port = value,
            "user" => self.user = value,
            "password" => self.password = value,
            "dbname" => self.database = value,
            "sslmode" => self.ssl_mode = Some(ssl_mode(value)?),
            // The spelling of other drivers, which libpq takes too.
            "ssl" if value == "true" => self.ssl_mode = Some(SslMode::Require),
            "sslrootcert" => self.ssl_root_certificate = value,
            "sslcert" => self.ssl_certificate = value,
            "sslkey" => self.ssl_key = value,
            "channel_binding" => self.channel_binding = channel_binding(value)?,
            "application_name" => self.application_name = value,
            "options" => self.options = value,
            "connect_timeout" => self.connect_timeout = value,
            "target_session_attrs" => self.primary_only = primary_only(value)?,
            // These change nothing for one long-lived session whose text is always UTF-8.
            "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count"
            | "tcp_user_timeout"
            | "fallback_application_name"
            | "client_encoding"
            | "gssencmode"
            | "sslcompression"
            | "load_balance_hosts" => {}
            "passfile"
            | "service"
            | "servicefile"
            | "sslcrl"
            | "sslcrldir"
            | "sslpassword"
            | "sslcertmode"
            | "sslnegotiation"
            | "sslsni"
            | "require_auth"
            | "requirepeer"
            | "replication"
            | "krbsrvname"
            | "gsslib"
            | "gssdelegation"
            | "ssl_min_protocol_version"
            | "ssl_max_protocol_version"
            | "min_protocol_version"
            | "max_protocol_version" => {
                return Err(SettingsError::UnsupportedParameter(key.to_owned()));
            }
            _ => return Err(SettingsError::UnknownParameter(key.to_owned())),
        }
        Ok(())
    }

    /// Fills in libpq's defaults and checks what goes together.
    pub(crate) fn finish(self) -> Result<ConnectionSettings, SettingsError> {
        let hosts = hosts(&self.host, &self.host_address, &self.port)?;
        let user = given(self.user).ok_or(SettingsError::MissingUser)?;
        let root = given(self.ssl_root_certificate).map(|text| match text.as_str() {
            "system" => RootCertificate::System,
            _ => RootCertificate::File(PathBuf::from(text)),
        });
        let ssl_mode = match (self.ssl_mode, &root) {
            (None | Some(SslMode::VerifyFull), Some(RootCertificate::System)) => SslMode::VerifyFull,
            (Some(_), Some(RootCertificate::System)) => return Err(SettingsError::WeakModeWithSystemRoots),
            (mode, _) => mode.unwrap_or_default(),
        };
        let ssl_identity = match (given(self.ssl_certificate), given(self.ssl_key)) {
            (Some(certificate), Some(key)) => {
                Some(TlsIdentity { certificate: certificate.into(), key: key.into() })
            }
            (None, None) => None,
            _ => return Err(SettingsError::HalfIdentity),
        };
        Ok(ConnectionSettings {
            hosts,
            password: given(self.password).map(Password::new),
            database: given(self.database).unwrap_or_else(|| user.clone()),
            user,
            ssl_mode,
            ssl_root_certificate: root,
            ssl_identity,
            channel_binding: self.channel_binding,
            application_name: given(self.application_name).unwrap_or_else(|| "walcast".to_owned()),
            options: given(self.options),
            connect_timeout: connect_timeout(self.connect_timeout)?,
            primary_only: self.primary_only,
        })
    }
}

/// An empty value is as good as none, as in libpq.
fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn hosts(names: &str, addresses: &str, ports: &str) -> Result<Vec<Host>, SettingsError> {
    let addresses: Vec<&str> = if addresses.is_empty() { Vec::new() } else { addresses.split(',').collect() };
    let names: Vec<&str> = if names.is_empty() && !addresses.is_empty() {
        addresses.clone()
    } else {
        names.split(',').collect()
    };
    let ports: Vec<&str> = ports.split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(SettingsError::PortsDoNotMatchHosts { hosts: names.len(), ports: ports.len() });
    }
    if !addresses.is_empty() && addresses.len() != names.len() {
        return Err(SettingsError::Malformed(format!(
            "{} hosts and {} hostaddr: give one address for each host",
            names.len(),
            addresses.len()
        )));
    }
    let one = |(index, name): (usize, &&str)| {
        let port = port(ports.get(index).unwrap_or(&ports[0]))?;
        let address = addresses.get(index).filter(|address| !address.is_empty()).map(|text| address_of(text));
        let endpoint = if name.starts_with('/') {
            Endpoint::UnixSocket(PathBuf::from(name))
        } else {
            let name = if name.is_empty() { "localhost" } else { name };
            Endpoint::Tcp { name: name.to_owned(), address: address.transpose()? }
        };
        Ok(Host { endpoint, port })
    };
    names.iter().enumerate().map(one).collect()
}

fn address_of(text: &str) -> Result<IpAddr, SettingsError> {
    text.parse().map_err(|_| SettingsError::InvalidValue {
        parameter: "hostaddr",
        value: text.to_owned(),
        expected: "an IPv4 or IPv6 address",
    })
}

fn port(text: &str) -> Result<u16, SettingsError> {
    if text.is_empty() {
        return Ok(ConnectionSettings::DEFAULT_PORT);
    }
    let parsed: Option<u16> = text.trim().parse().ok().filter(|port| *port != 0);
    // In a URL the text after ':' may be a piece of a password that was not percent-encoded: it is not shown.
    parsed.ok_or_else(|| {
        SettingsError::Malformed(
            "the port is not a number from 1 to 65535 (in a URL write '/', '?', '#' and '@' in the password \
             percent-encoded)"
                .to_owned(),
        )
    })
}

fn ssl_mode(value: String) -> Result<SslMode, SettingsError> {
    match value.as_str() {
        "disable" => Ok(SslMode::Disable),
        // 'allow' tries the same two ways in the other order; encrypted first is never worse.
        "allow" | "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-ca" => Ok(SslMode::VerifyCa),
        "verify-full" => Ok(SslMode::VerifyFull),
        _ => Err(SettingsError::InvalidValue {
            parameter: "sslmode",
            value,
            expected: "disable, allow, prefer, require, verify-ca or verify-full",
        }),
    }
}

fn channel_binding(value: String) -> Result<ChannelBindingMode, SettingsError> {
    match value.as_str() {
        "disable" => Ok(ChannelBindingMode::Disable),
        "prefer" => Ok(ChannelBindingMode::Prefer),
        "require" => Ok(ChannelBindingMode::Require),
        _ => Err(SettingsError::InvalidValue {
            parameter: "channel_binding",
            value,
            expected: "disable, prefer or require",
        }),
    }
}

fn primary_only(value: String) -> Result<bool, SettingsError> {
    match value.as_str() {
        "any" | "prefer-standby" => Ok(false),
        "primary" | "read-write" => Ok(true),
        _ => Err(SettingsError::InvalidValue {
            parameter: "target_session_attrs",
            value,
            expected: "any, primary or read-write",
        }),
    }
}

/// Whole seconds; zero and below wait for ever, as in libpq.
fn connect_timeout(value: String) -> Result<Option<Duration>, SettingsError> {
    if value.is_empty() {
        return Ok(Some(ConnectionSettings::DEFAULT_CONNECT_TIMEOUT));
    }
    let seconds: i64 = value.trim().parse().map_err(|_| SettingsError::InvalidValue {
        parameter: "connect_timeout",
        value,
        expected: "a number of seconds",
    })?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}
