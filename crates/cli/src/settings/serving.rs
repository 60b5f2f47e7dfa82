//! From what was set to what a server is started with.

use std::num::NonZero;
use std::thread;

use walcast_auth::VerifierSettings;
use walcast_engine::EngineSettings;
use walcast_server::HealthRequests;

use super::Settings;
use crate::serve::{OperationsSettings, ServeSettings};

impl Settings {
    /// The settings of a server without the demo.
    pub fn serve(&self) -> ServeSettings {
        let mut serve = ServeSettings::new(self.database.clone(), self.verifier());
        serve.listen = self.server.listen;
        serve.replication = self.replication.clone();
        serve.project.clone_from(&self.server.project);
        serve.operations = self.operations();
        serve.health_requests =
            if self.log.health_checks { HealthRequests::Logged } else { HealthRequests::LeftOut };
        serve.catalog_poll = self.changes.catalog_poll;
        serve.engine = self.engine();
        serve.limits.max_concurrent_users = self.limits.max_concurrent_users;
        serve.limits.max_channels_per_client = self.limits.max_channels_per_client;
        serve.limits.max_bindings_per_channel = self.limits.max_bindings_per_channel;
        serve.limits.max_joins_per_second = self.limits.max_joins_per_second;
        serve.limits.token_expiry_notice = self.auth.expiry_notice;
        serve.limits.token_recheck = self.auth.token_recheck;
        serve.limits.private_only = self.auth.private_only;
        serve.limits.connect_error_backoff = self.server.connect_error_backoff;
        serve.limits.channel_error_backoff = self.server.channel_error_backoff;
        serve.listener.connections_max = self.server.max_connections;
        serve.listener.head_bytes_max = self.server.header_bytes_max;
        serve
    }

    /// What sockets and channels are verified with.
    pub fn verifier(&self) -> VerifierSettings {
        VerifierSettings {
            secret: self.auth.jwt_secret.clone(),
            jwks: self.auth.jwks.clone(),
            claim_validators: self.auth.claim_validators.clone(),
        }
    }

    fn operations(&self) -> OperationsSettings {
        let auth = &self.auth;
        OperationsSettings {
            secrets: auth.api_jwt_secret.iter().chain(&auth.api_jwt_secret_next).cloned().collect(),
            blocked: auth.api_token_blocklist.clone(),
            metrics_secret: auth.metrics_jwt_secret.clone(),
            metrics_blocked: auth.metrics_token_blocklist.clone(),
            region: self.server.region.clone(),
            request_id_baggage_key: self.server.request_id_baggage_key.clone(),
        }
    }

    fn engine(&self) -> EngineSettings {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        EngineSettings {
            shards: self.server.shards.unwrap_or_else(cores),
            outbound_bytes_max: self.server.outbound_bytes_max,
            payload_bytes_max: self.limits.payload_bytes_max,
            record_bytes_max: self.changes.record_bytes_max,
            copy_bytes_max: self.changes.copy_bytes_max,
            presence_calls: self.limits.presence_calls,
            max_events_per_second: self.limits.max_events_per_second,
            max_client_events_per_second: self.limits.max_client_events_per_second,
            max_presence_events_per_second: self.limits.max_presence_events_per_second,
            presence_enabled: self.presence.enabled,
            presence_grace: self.presence.grace,
            deletes: self.changes.deletes,
            // One connection is left for joins.
            questions_max: self.database.pool_size.saturating_sub(1).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigurationFile, Environment, Flags, Purpose};
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let required =
            [("DATABASE_URL", "postgres://ana@db/app"), ("JWT_SECRET", "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI")];
        let environment: Environment = required
            .iter()
            .chain(variables)
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let file = ConfigurationFile::default();
        Settings::resolve(&Flags::default(), &environment, &file, Purpose::Serve).unwrap()
    }

    #[test]
    fn what_was_set_reaches_the_server() {
        let serve = settings(&[
            ("PORT", "4100"),
            ("SLOT_NAME_SUFFIX", "blue"),
            ("DB_POOL_SIZE", "3"),
            ("WALCAST_SHARDS", "2"),
            ("WEBSOCKET_MAX_HEAP_SIZE", "50000000"),
            ("TENANT_MAX_CHANNELS_PER_CLIENT", "7"),
            ("CHANNEL_ERROR_BACKOFF_MS", "10"),
            ("MAX_HEADER_LENGTH", "4096"),
            ("API_JWT_SECRET_NEXT", "Yk3vQ8sLw1Zt6Rn0Xb5Jc9Hd2Mf7Gp4a"),
            ("API_TOKEN_BLOCKLIST", "a.b.c, d.e.f"),
            ("METRICS_TOKEN_BLOCKLIST", "g.h.i"),
            ("SELF_HOST_TENANT_NAME", "blue"),
            ("REGION", "mars"),
            ("REQUEST_ID_BAGGAGE_KEY", "trace"),
        ])
        .serve();
        assert_eq!(serve.listen.port(), 4100);
        assert_eq!(serve.replication.slot, "walcast_blue");
        assert_eq!(serve.database.pool_size, 3);
        assert_eq!((serve.engine.shards, serve.engine.outbound_bytes_max), (2, 50_000_000));
        assert_eq!(serve.limits.max_channels_per_client, 7);
        assert_eq!(serve.limits.channel_error_backoff.as_millis(), 10);
        assert_eq!(serve.listener.head_bytes_max, 8192);
        let operations = serve.operations;
        assert_eq!(operations.secrets.len(), 1, "JWT_SECRET is for users");
        assert_eq!((operations.blocked.len(), operations.metrics_blocked.len()), (2, 1));
        assert_eq!((&*serve.project, operations.region.as_deref()), ("blue", Some("mars")));
        assert_eq!(operations.request_id_baggage_key, "trace");
    }
}
