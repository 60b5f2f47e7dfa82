//! The database connection: one URL, or the single parts that Supabase's compose files set.

use walcast_auth::Secret;
use walcast_replication::ConnectionSettings;

use super::definitions as settings;
use super::error::SettingsError;
use super::layers::Layers;

/// Reads `database.url`, or puts the parts together; an error where there is neither.
pub(super) fn connection(layers: &Layers<'_>) -> Result<ConnectionSettings, SettingsError> {
    let (text, origin) = match layers.find(&settings::DATABASE_URL)? {
        Some(url) => {
            refuse_parts_beside_url(layers)?;
            let origin = layers.origin(&settings::DATABASE_URL.about);
            (url, origin.map_or_else(String::new, |origin| origin.to_string()))
        }
        None => (Secret::new(parts(layers)?), "the database settings".to_owned()),
    };
    ConnectionSettings::parse(text.expose()).map_err(|problem| SettingsError::Connection { origin, problem })
}

/// A project's own part of a connection would be lost behind the URL that all projects have.
fn refuse_parts_beside_url(layers: &Layers<'_>) -> Result<(), SettingsError> {
    if layers.own(&settings::DATABASE_URL.about).is_some() {
        return Ok(());
    }
    let parts = [
        &settings::DATABASE_HOST.about,
        &settings::DATABASE_PORT.about,
        &settings::DATABASE_NAME.about,
        &settings::DATABASE_USER.about,
        &settings::DATABASE_PASSWORD.about,
        &settings::DATABASE_TLS.about,
        &settings::DATABASE_TLS_CA.about,
    ];
    match parts.iter().find_map(|about| layers.own(about)) {
        Some(origin) => Err(SettingsError::PartBesideUrl { origin }),
        None => Ok(()),
    }
}

/// The parts as libpq's `key=value` pairs (PostgreSQL documentation, "Keyword/Value Connection Strings").
fn parts(layers: &Layers<'_>) -> Result<String, SettingsError> {
    let given = [
        &settings::DATABASE_HOST.about,
        &settings::DATABASE_NAME.about,
        &settings::DATABASE_USER.about,
        &settings::DATABASE_PASSWORD.about,
    ];
    if given.iter().all(|about| layers.origin(about).is_none()) {
        return Err(SettingsError::MissingDatabase);
    }
    let mut pairs = vec![
        pair("host", &layers.get(&settings::DATABASE_HOST)?),
        pair("port", &layers.get(&settings::DATABASE_PORT)?.to_string()),
        pair("dbname", &layers.get(&settings::DATABASE_NAME)?),
        pair("user", &layers.get(&settings::DATABASE_USER)?),
    ];
    if let Some(password) = layers.find(&settings::DATABASE_PASSWORD)? {
        pairs.push(pair("password", password.expose()));
    }
    match (layers.find(&settings::DATABASE_TLS)?, layers.find(&settings::DATABASE_TLS_CA)?) {
        (Some(false), _) => pairs.push(pair("sslmode", "disable")),
        (_, Some(certificate)) => {
            pairs.push(pair("sslmode", "verify-full"));
            pairs.push(pair("sslrootcert", &certificate));
        }
        (Some(true), None) => pairs.push(pair("sslmode", "require")),
        (None, None) => {}
    }
    Ok(pairs.join(" "))
}

fn pair(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
    format!("{name}='{escaped}'")
}

#[cfg(test)]
mod tests {
    use walcast_replication::SslMode;

    use super::super::file::ConfigurationFile;
    use super::super::flags::Flags;
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ConnectionSettings, SettingsError> {
        let environment =
            variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let layers = Layers {
            flags: &Flags::default(),
            environment: &environment,
            file: &ConfigurationFile::default(),
            project: None,
        };
        connection(&layers)
    }

    #[test]
    fn the_parts_of_a_compose_file_make_a_connection() {
        let connection = read(&[
            ("DB_HOST", "db"),
            ("DB_PORT", "5433"),
            ("DB_NAME", "app"),
            ("DB_USER", "supabase_admin"),
            ("DB_PASSWORD", r"it's a \ secret"),
        ])
        .unwrap();
        assert_eq!(connection.to_string(), "supabase_admin@db:5433/app");
        assert_eq!(connection.password.unwrap().reveal(), r"it's a \ secret");
    }

    #[test]
    fn the_url_stands_before_the_parts() {
        let connection = read(&[("DATABASE_URL", "postgres://ana@one/app"), ("DB_HOST", "other")]).unwrap();
        assert_eq!(connection.to_string(), "ana@one:5432/app");
    }

    #[test]
    fn tls_follows_the_two_variables() {
        let mode = |variables: &[(&str, &str)]| {
            let variables = [&[("DB_HOST", "db")], variables].concat();
            read(&variables).unwrap().ssl_mode
        };
        assert_eq!(mode(&[]), SslMode::Prefer);
        assert_eq!(mode(&[("DB_SSL", "false")]), SslMode::Disable);
        assert_eq!(mode(&[("DB_SSL", "true")]), SslMode::Require);
        assert_eq!(mode(&[("DB_SSL", "true"), ("DB_SSL_CA_CERT", "/ca.pem")]), SslMode::VerifyFull);
        assert_eq!(mode(&[("DB_SSL_CA_CERT", "/ca.pem")]), SslMode::VerifyFull);
    }

    #[test]
    fn no_database_is_one_sentence_that_names_the_variable() {
        let refused = read(&[("DB_PORT", "5432")]).err().unwrap().to_string();
        assert!(refused.starts_with("no database is given: set DATABASE_URL"), "{refused}");
    }

    #[test]
    fn a_broken_url_names_its_origin_and_hides_the_password() {
        let refused =
            read(&[("DATABASE_URL", "postgres://ana:hidden@db:notaport/app")]).err().unwrap().to_string();
        assert!(refused.starts_with("the environment variable DATABASE_URL: "), "{refused}");
        assert!(!refused.contains("hidden"), "{refused}");
    }
}
