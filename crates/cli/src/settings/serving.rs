//! From what was set to what a server is started with.

use std::num::NonZero;
use std::thread;

use walcast_auth::VerifierSettings;
use walcast_engine::{EngineSettings, ResumeSettings};
use walcast_server::{HealthRequests, ListenerSettings};

use super::{ChangeSettings, ProjectConfiguration, Settings};
use crate::project::ProjectSettings;
use crate::serve::{OperationsSettings, ServeSettings};

impl Settings {
    /// The settings of a server without the demo.
    pub fn serve(&self) -> ServeSettings {
        let others = self.others.iter().map(|project| self.project(project)).collect();
        let mut serve = ServeSettings::of(self.project(&self.project), others);
        let server = &self.server;
        serve.listen = server.listen;
        serve.tls.clone_from(&server.tls);
        serve.tls_reload = server.tls_reload;
        serve.operations = self.operations();
        serve.health_requests =
            if self.log.health_checks { HealthRequests::Logged } else { HealthRequests::LeftOut };
        serve.drain.spread = server.drain;
        serve.refusal_delay = server.connect_error_backoff;
        serve.listener = ListenerSettings {
            connections_max: server.max_connections,
            head_bytes_max: server.header_bytes_max,
            request_line_bytes_max: server.request_line_bytes_max,
            headers_max: server.headers_max,
            head_timeout: server.header_timeout,
            tls_handshake_timeout: server.tls_handshake_timeout,
            addresses: server.addresses,
            trusted_proxies: server.trusted_proxies.clone(),
        };
        serve
    }

    fn operations(&self) -> OperationsSettings {
        let server = &self.server;
        OperationsSettings {
            secrets: server.api_jwt_secrets.clone(),
            blocked: server.api_token_blocklist.clone(),
            metrics_secret: server.metrics_jwt_secret.clone(),
            metrics_blocked: server.metrics_token_blocklist.clone(),
            region: server.region.clone(),
            request_id_baggage_key: server.request_id_baggage_key.clone(),
        }
    }

    fn project(&self, project: &ProjectConfiguration) -> ProjectSettings {
        let mut settings = ProjectSettings::new(project.database.clone(), project.verifier());
        settings.id.clone_from(&project.id);
        settings.address.clone_from(&project.address);
        settings.replication = project.replication.clone();
        settings.catalog_poll = project.changes.catalog_poll;
        settings.janitor = project.janitor;
        settings.engine = self.engine(project);
        settings.allowed_origins.clone_from(&project.auth.allowed_origins);
        settings.batch_messages_max = project.limits.max_batch_messages;
        settings.limits.max_concurrent_users = project.limits.max_concurrent_users;
        settings.limits.max_channels_per_client = project.limits.max_channels_per_client;
        settings.limits.max_bindings_per_channel = project.limits.max_bindings_per_channel;
        settings.limits.max_joins_per_second = project.limits.max_joins_per_second;
        settings.limits.token_expiry_notice = project.auth.expiry_notice;
        settings.limits.token_recheck = project.auth.token_recheck;
        settings.limits.connect_error_backoff = self.server.connect_error_backoff;
        settings.limits.channel_error_backoff = self.server.channel_error_backoff;
        settings.limits.replication_ready_timeout = self.server.replication_ready_timeout;
        settings.limits.private_only = project.auth.private_only;
        settings.limits.suspended = project.auth.suspended;
        settings
    }

    fn engine(&self, project: &ProjectConfiguration) -> EngineSettings {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        EngineSettings {
            shards: self.server.shards.unwrap_or_else(cores),
            outbound_bytes_max: self.server.outbound_bytes_max,
            broadcast_rules: project.broadcast.clone(),
            payload_bytes_max: project.limits.payload_bytes_max,
            record_bytes_max: project.changes.record_bytes_max,
            copy_bytes_max: project.changes.copy_bytes_max,
            journal_bytes_max: project.changes.journal_bytes_max,
            journal_age: project.changes.journal_age,
            resume: ResumeSettings {
                ticket_validity: project.changes.ticket_validity,
                tickets_max: project.changes.tickets_max,
                broadcast_bytes_max: project.changes.kept_broadcast_bytes(),
                ..ResumeSettings::default()
            },
            snapshot_rows_max: project.changes.snapshot_rows_max,
            snapshot_bytes_max: project.changes.snapshot_bytes_max,
            presence_calls: project.limits.presence_calls,
            max_events_per_second: project.limits.max_events_per_second,
            max_client_events_per_second: project.limits.max_client_events_per_second,
            max_presence_events_per_second: project.limits.max_presence_events_per_second,
            presence_enabled: project.presence.enabled,
            presence_grace: project.presence.grace,
            presence_diff: project.presence.diff,
            presence_payload_bytes_max: project.presence.payload_bytes_max,
            presence_topic_bytes_max: project.presence.topic_bytes_max,
            deletes: project.changes.deletes,
            // One connection is left for joins.
            questions_max: project.database.pool_size.saturating_sub(1).max(1),
        }
    }
}

impl ChangeSettings {
    /// Bytes of broadcasts that are kept for those who come back; `None` where none are.
    fn kept_broadcast_bytes(&self) -> Option<NonZero<usize>> {
        NonZero::new(self.resume_broadcasts_bytes_max).filter(|_| self.resume_broadcasts)
    }
}

impl ProjectConfiguration {
    /// What sockets and channels are verified with.
    pub fn verifier(&self) -> VerifierSettings {
        VerifierSettings {
            secret: self.auth.jwt_secret.clone(),
            jwks: self.auth.jwks.clone(),
            claim_validators: self.auth.claim_validators.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigurationFile, Environment, Flags, Purpose};
    use std::time::Duration;

    use walcast_engine::Alike;

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
            ("WALCAST_MAX_CLIENT_EVENTS_PER_SECOND", "0"),
            ("WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND", "9"),
            ("WALCAST_PRESENCE_ENABLED", "true"),
            ("WALCAST_PRESENCE_GRACE_MS", "0"),
            ("WALCAST_PRESENCE_DIFF_MS", "70"),
            ("WALCAST_BROADCAST_CONFLATE", "cursor:user,score"),
            ("WALCAST_BROADCAST_TTL_MS", "score:5"),
            ("WALCAST_PRESENCE_PAYLOAD_BYTES_MAX", "2048"),
            ("WALCAST_PRESENCE_TOPIC_BYTES_MAX", "9999"),
            ("WALCAST_MAX_BATCH_MESSAGES", "77"),
        ])
        .serve();
        assert_eq!(serve.listen.port(), 4100);
        assert_eq!(serve.project.replication.slot, "walcast_blue");
        assert_eq!(serve.project.database.pool_size, 3);
        assert_eq!((serve.project.engine.shards, serve.project.engine.outbound_bytes_max), (2, 50_000_000));
        assert_eq!(serve.project.limits.max_channels_per_client, 7);
        assert_eq!(serve.project.limits.channel_error_backoff.as_millis(), 10);
        assert_eq!(serve.project.batch_messages_max, 77);
        assert_eq!(serve.listener.head_bytes_max, 8192);
        let operations = serve.operations;
        assert_eq!(operations.secrets.len(), 1, "JWT_SECRET is for users");
        assert_eq!((operations.blocked.len(), operations.metrics_blocked.len()), (2, 1));
        assert_eq!((serve.project.id.as_str(), operations.region.as_deref()), ("blue", Some("mars")));
        assert_eq!(operations.request_id_baggage_key, "trace");
        let engine = serve.project.engine;
        assert_eq!(engine.max_client_events_per_second, None, "0 is no limit");
        assert_eq!(engine.max_presence_events_per_second.map(NonZero::get), Some(9));
        assert_eq!((engine.presence_payload_bytes_max, engine.presence_topic_bytes_max), (2048, 9999));
        assert!(engine.presence_enabled && engine.presence_grace.is_zero());
        assert_eq!(engine.presence_diff, Duration::from_millis(70));
        let rule = |event| engine.broadcast_rules.of_event(event).cloned().unwrap();
        assert_eq!(
            (rule("cursor").conflate, rule("cursor").ttl),
            (Some(Alike::Member("user".to_owned())), None)
        );
        assert_eq!(
            (rule("score").conflate, rule("score").ttl),
            (Some(Alike::Event), Some(Duration::from_millis(5)))
        );
    }
}
