//! The two texts that name a connection: the URL and libpq's `key=value` pairs
//! (PostgreSQL docs, "Connection Strings"). Written by hand because a list of hosts is no valid URL authority
//! and because a password that was not encoded should still get a helpful answer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::settings::{
    ChannelBindingMode, ConnectionSettings, Endpoint, Host, Password, RootCertificate, SettingsError,
    SslMode, TlsIdentity,
};

/// Reads either form.
pub(crate) fn parse(text: &str) -> Result<ConnectionSettings, SettingsError> {
    let text = text.trim();
    let mut parameters = Parameters::default();
    if let Some(rest) = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
    {
        read_url(rest, &mut parameters)?;
    } else if text.contains('=') {
        read_pairs(text, &mut parameters)?;
    } else {
        return Err(SettingsError::NotAConnectionText);
    }
    parameters.finish()
}

fn read_url(rest: &str, parameters: &mut Parameters) -> Result<(), SettingsError> {
    let (before_query, query) = rest
        .split_once('?')
        .map_or((rest, None), |(left, right)| (left, Some(right)));
    let (authority, database) = before_query
        .split_once('/')
        .map_or((before_query, None), |(left, right)| (left, Some(right)));
    // The last '@': a password with a raw '@' is a common slip, and host names have none.
    let (user, hosts) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(left, right)| (Some(left), right));
    if let Some(user) = user {
        let (name, password) = user
            .split_once(':')
            .map_or((user, None), |(left, right)| (left, Some(right)));
        parameters.set("user", decode(name, "user")?)?;
        if let Some(password) = password {
            parameters.set("password", decode(password, "password")?)?;
        }
    }
    if !hosts.is_empty() {
        read_authority(hosts, parameters)?;
    }
    if let Some(database) = database {
        parameters.set("dbname", decode(database, "database name")?)?;
    }
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            SettingsError::Malformed(format!(
                "the parameter '{pair}' has no value: write it as {pair}=value"
            ))
        })?;
        parameters.set(&decode(key, "parameter name")?, decode(value, "parameter value")?)?;
    }
    Ok(())
}

/// `host`, `host:port`, `[::1]:port`, and several of them with commas.
fn read_authority(authority: &str, parameters: &mut Parameters) -> Result<(), SettingsError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in authority.split(',') {
        let (host, port) = if let Some(bracketed) = part.strip_prefix('[') {
            let (address, after) = bracketed.split_once(']').ok_or_else(|| {
                SettingsError::Malformed(format!("the host '{part}' opens a bracket and does not close it"))
            })?;
            let port = after.strip_prefix(':');
            if port.is_none() && !after.is_empty() {
                return Err(SettingsError::Malformed(format!(
                    "expected ':' and a port after '[{address}]'"
                )));
            }
            (address, port)
        } else {
            part.split_once(':')
                .map_or((part, None), |(host, port)| (host, Some(port)))
        };
        hosts.push(decode(host, "host")?);
        ports.push(port.unwrap_or_default().to_owned());
    }
    parameters.set("host", hosts.join(","))?;
    parameters.set("port", ports.join(","))
}

fn decode(text: &str, part: &'static str) -> Result<String, SettingsError> {
    let bytes = text.as_bytes();
    let damaged = bytes.iter().enumerate().any(|(index, byte)| {
        *byte == b'%'
            && !bytes
                .get(index + 1..index + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if damaged {
        return Err(SettingsError::PercentEncoding { part });
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| SettingsError::PercentEncoding { part })
}

/// `key = value`, `key='quoted \' value'`, separated by white space.
fn read_pairs(text: &str, parameters: &mut Parameters) -> Result<(), SettingsError> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            SettingsError::Malformed("a word without '=' stands between the key=value pairs".to_owned())
        })?;
        let key = key.trim_end();
        if key.contains(char::is_whitespace) {
            return Err(SettingsError::Malformed(
                "a word without '=' stands between the key=value pairs".to_owned(),
            ));
        }
        let (value, after) = read_value(after.trim_start(), key)?;
        parameters.set(key, value)?;
        rest = after.trim_start();
    }
    Ok(())
}

/// One value and the text after it; a backslash takes the next character as it is, in quotes and outside.
fn read_value<'a>(text: &'a str, key: &str) -> Result<(String, &'a str), SettingsError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[index + 1..])),
            other if !quoted && other.is_whitespace() => return Ok((value, &text[index..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(SettingsError::Malformed(format!(
            "the value of '{key}' opens a quote and does not close it"
        )));
    }
    Ok((value, ""))
}

/// What was said so far; the last word on a parameter counts, as in libpq.
#[derive(Default)]
struct Parameters {
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
    fn set(&mut self, key: &str, value: String) -> Result<(), SettingsError> {
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

    fn finish(self) -> Result<ConnectionSettings, SettingsError> {
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
            (Some(certificate), Some(key)) => Some(TlsIdentity {
                certificate: certificate.into(),
                key: key.into(),
            }),
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
    let addresses: Vec<&str> = if addresses.is_empty() {
        Vec::new()
    } else {
        addresses.split(',').collect()
    };
    let names: Vec<&str> = if names.is_empty() && !addresses.is_empty() {
        addresses.clone()
    } else {
        names.split(',').collect()
    };
    let ports: Vec<&str> = ports.split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(SettingsError::PortsDoNotMatchHosts {
            hosts: names.len(),
            ports: ports.len(),
        });
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
        let address = addresses
            .get(index)
            .filter(|address| !address.is_empty())
            .map(|text| address_of(text));
        let endpoint = if name.starts_with('/') {
            Endpoint::UnixSocket(PathBuf::from(name))
        } else {
            let name = if name.is_empty() { "localhost" } else { name };
            Endpoint::Tcp {
                name: name.to_owned(),
                address: address.transpose()?,
            }
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
    Ok(u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(settings: &ConnectionSettings) -> Vec<String> {
        settings.hosts.iter().map(Host::to_string).collect()
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_url_gives_every_part() {
        let settings = parse(
            "postgresql://ana:p%40ss%2Fw@db.example:6543/my%20app?sslmode=verify-full&sslrootcert=/ca.pem\
             &application_name=x&connect_timeout=3&options=-c%20a%3Db&channel_binding=require",
        )
        .unwrap();
        assert_eq!(tcp(&settings), ["db.example:6543"]);
        assert_eq!(settings.user, "ana");
        assert_eq!(settings.password.as_ref().map(Password::reveal), Some("p@ss/w"));
        assert_eq!(settings.database, "my app");
        assert_eq!(settings.ssl_mode, SslMode::VerifyFull);
        assert_eq!(
            settings.ssl_root_certificate,
            Some(RootCertificate::File("/ca.pem".into()))
        );
        assert_eq!(settings.channel_binding, ChannelBindingMode::Require);
        assert_eq!(settings.application_name, "x");
        assert_eq!(settings.options.as_deref(), Some("-c a=b"));
        assert_eq!(settings.connect_timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_a_url_leaves_out_has_libpqs_defaults() {
        let settings = parse("postgres://ana@").unwrap();
        assert_eq!(tcp(&settings), ["localhost:5432"]);
        assert_eq!(settings.database, "ana");
        assert_eq!(settings.password, None);
        assert_eq!(settings.ssl_mode, SslMode::Prefer);
    }

    #[test]
    fn several_hosts_and_ipv6_addresses_keep_their_ports() {
        let settings = parse("postgres://ana@one,two:5433,[2001:db8::1]:5434,[::1]/app").unwrap();
        assert_eq!(
            tcp(&settings),
            ["one:5432", "two:5433", "[2001:db8::1]:5434", "[::1]:5432"]
        );
    }

    #[test]
    fn unix_sockets_come_percent_encoded_as_a_parameter_or_as_a_pair() {
        for text in [
            "postgres://ana@%2Fvar%2Frun%2Fpostgresql/app",
            "postgres://ana@/app?host=/var/run/postgresql",
            "host=/var/run/postgresql user=ana dbname=app",
        ] {
            let settings = parse(text).unwrap();
            let expected = Endpoint::UnixSocket("/var/run/postgresql".into());
            assert_eq!(
                settings.hosts,
                [Host {
                    endpoint: expected,
                    port: 5432
                }],
                "{text}"
            );
            assert_eq!(settings.database, "app");
        }
    }

    #[test]
    fn pairs_are_read_with_quotes_and_backslashes() {
        let settings =
            parse(r"user = ana password='it\'s a \\ secret' host=a,b port=1,2 dbname=x\ y").unwrap();
        assert_eq!(
            settings.password.as_ref().map(Password::reveal),
            Some(r"it's a \ secret")
        );
        assert_eq!(tcp(&settings), ["a:1", "b:2"]);
        assert_eq!(settings.database, "x y");
    }

    #[test]
    fn hostaddr_is_connected_to_and_host_is_verified() {
        let settings = parse("host=db.example hostaddr=10.0.0.7 user=ana").unwrap();
        let address = Some("10.0.0.7".parse().unwrap());
        let expected = Endpoint::Tcp {
            name: "db.example".to_owned(),
            address,
        };
        assert_eq!(settings.hosts[0].endpoint, expected);
    }

    #[test]
    fn a_raw_at_sign_in_the_password_is_forgiven() {
        let settings = parse("postgres://ana:p@ss@db/app").unwrap();
        assert_eq!(settings.password.as_ref().map(Password::reveal), Some("p@ss"));
        assert_eq!(tcp(&settings), ["db:5432"]);
    }

    #[test]
    fn every_refusal_names_what_is_wrong() {
        assert!(refusal("localhost").contains("postgres://user:password@host:5432/database"));
        assert!(refusal("postgres://db/app").contains("no user"));
        assert!(refusal("postgres://ana@db/app?pgbouncer=true").contains("'pgbouncer'"));
        assert!(refusal("postgres://ana@db/app?sslcrl=x").contains("'sslcrl'"));
        assert!(refusal("postgres://ana@db/app?sslmode=yes").contains("sslmode='yes'"));
        assert!(refusal("postgres://ana@db/app?sslmode").contains("'sslmode' has no value"));
        assert!(refusal("postgres://ana:100%@db/app").contains("password"));
        assert!(refusal("postgres://ana@db:0/app").contains("port"));
        assert!(refusal("postgres://ana@[::1/app").contains("bracket"));
        assert!(refusal("host=a,b port=1,2,3 user=ana").contains("2 hosts and 3 ports"));
        assert!(refusal("user='ana").contains("'user'"));
        assert!(refusal("user=ana verbose").contains("without '='"));
        assert!(refusal("user=ana sslcert=/c.pem").contains("sslkey"));
        assert!(refusal("user=ana sslrootcert=system sslmode=require").contains("verify-full"));
    }

    #[test]
    fn a_password_with_a_raw_slash_is_refused_without_being_shown() {
        let message = refusal("postgres://ana:zq/cd@db/app");
        assert!(
            message.contains("percent-encoded") && !message.contains("zq"),
            "{message}"
        );
    }

    #[test]
    fn system_roots_alone_mean_full_verification() {
        let settings = parse("user=ana sslrootcert=system").unwrap();
        assert_eq!(settings.ssl_mode, SslMode::VerifyFull);
    }
}
