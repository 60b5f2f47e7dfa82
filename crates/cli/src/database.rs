//! One database URL, for the two ways in which the database is spoken to.

use anyhow::{Context, Result};
use walcast_catalog::CatalogSettings;
use walcast_replication::settings::Endpoint;
use walcast_replication::{ConnectionSettings, SslMode};

use crate::settings::DatabaseSettings;

/// How the catalog reaches the database of `settings`.
pub fn catalog_settings(settings: &DatabaseSettings, publications: &[String]) -> Result<CatalogSettings> {
    let (config, tls) = query_config(&settings.connection)?;
    Ok(CatalogSettings {
        tls,
        publications: publications.to_vec(),
        pool_size: settings.pool_size,
        statement_timeout: settings.statement_timeout,
        after_connect: settings.after_connect.clone(),
        ..CatalogSettings::new(config)
    })
}

/// The settings of the query connections, made from those of the replication connection.
fn query_config(
    connection: &ConnectionSettings,
) -> Result<(tokio_postgres::Config, Option<rustls::ClientConfig>)> {
    let tls = connection.tls().context("the TLS settings of the database URL")?;
    let mut config = tokio_postgres::Config::new();
    for host in &connection.hosts {
        match &host.endpoint {
            Endpoint::Tcp { name, address } => {
                config.host(name);
                if let Some(address) = address {
                    config.hostaddr(*address);
                }
            }
            Endpoint::UnixSocket(directory) => {
                config.host_path(directory);
            }
        }
        config.port(host.port);
    }
    config.user(&connection.user);
    config.dbname(&connection.database);
    config.application_name(&connection.application_name);
    if let Some(password) = &connection.password {
        config.password(password.reveal());
    }
    if let Some(options) = &connection.options {
        config.options(options);
    }
    if let Some(timeout) = connection.connect_timeout {
        config.connect_timeout(timeout);
    }
    if connection.primary_only {
        config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
    }
    config.ssl_mode(match connection.ssl_mode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            tokio_postgres::config::SslMode::Require
        }
    });
    Ok((config, tls))
}
