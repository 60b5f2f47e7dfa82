//! The two texts that name a connection: the URL and libpq's `key=value` pairs
//! (PostgreSQL docs, "Connection Strings"). Written by hand because a list of hosts is no valid URL authority
//! and because a password that was not encoded should still get a helpful answer.

use percent_encoding::percent_decode_str;

use crate::connection_parameters::Parameters;
use crate::settings::{ConnectionSettings, SettingsError};

/// Reads either form.
pub(crate) fn parse(text: &str) -> Result<ConnectionSettings, SettingsError> {
    let text = text.trim();
    let mut parameters = Parameters::default();
    if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        read_url(rest, &mut parameters)?;
    } else if text.contains('=') {
        read_pairs(text, &mut parameters)?;
    } else {
        return Err(SettingsError::NotAConnectionText);
    }
    parameters.finish()
}

fn read_url(rest: &str, parameters: &mut Parameters) -> Result<(), SettingsError> {
    let (before_query, query) =
        rest.split_once('?').map_or((rest, None), |(left, right)| (left, Some(right)));
    let (authority, database) =
        before_query.split_once('/').map_or((before_query, None), |(left, right)| (left, Some(right)));
    // The last '@': a password with a raw '@' is a common slip, and host names have none.
    let (user, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(left, right)| (Some(left), right));
    if let Some(user) = user {
        let (name, password) = user.split_once(':').map_or((user, None), |(left, right)| (left, Some(right)));
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
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            SettingsError::Malformed(format!("the parameter '{pair}' has no value: write it as {pair}=value"))
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
                return Err(SettingsError::Malformed(format!("expected ':' and a port after '[{address}]'")));
            }
            (address, port)
        } else {
            part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)))
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
            && !bytes.get(index + 1..index + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if damaged {
        return Err(SettingsError::PercentEncoding { part });
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| SettingsError::PercentEncoding { part })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::{ChannelBindingMode, Endpoint, Host, Password, RootCertificate, SslMode};

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
        assert_eq!(settings.ssl_root_certificate, Some(RootCertificate::File("/ca.pem".into())));
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
        assert_eq!(tcp(&settings), ["one:5432", "two:5433", "[2001:db8::1]:5434", "[::1]:5432"]);
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
            assert_eq!(settings.hosts, [Host { endpoint: expected, port: 5432 }], "{text}");
            assert_eq!(settings.database, "app");
        }
    }

    #[test]
    fn pairs_are_read_with_quotes_and_backslashes() {
        let settings =
            parse(r"user = ana password='it\'s a \\ secret' host=a,b port=1,2 dbname=x\ y").unwrap();
        assert_eq!(settings.password.as_ref().map(Password::reveal), Some(r"it's a \ secret"));
        assert_eq!(tcp(&settings), ["a:1", "b:2"]);
        assert_eq!(settings.database, "x y");
    }

    #[test]
    fn hostaddr_is_connected_to_and_host_is_verified() {
        let settings = parse("host=db.example hostaddr=10.0.0.7 user=ana").unwrap();
        let address = Some("10.0.0.7".parse().unwrap());
        let expected = Endpoint::Tcp { name: "db.example".to_owned(), address };
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
        assert!(message.contains("percent-encoded") && !message.contains("zq"), "{message}");
    }

    #[test]
    fn system_roots_alone_mean_full_verification() {
        let settings = parse("user=ana sslrootcert=system").unwrap();
        assert_eq!(settings.ssl_mode, SslMode::VerifyFull);
    }
}
