//! Every setting there is, in the order of the reference.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Map, Value};
use walcast_auth::{JwksSource, Secret};
use walcast_engine::{Alike, Deletes};
use walcast_server::Network;
use walcast_server::front::ProjectId;
use walcast_server::origins::AllowedOrigin;

use super::parse;
use super::setting::{About, Setting};
use super::{LogFormat, SlotLagAction};

pub(super) static DATABASE_URL: Setting<Secret> = Setting::new(
    "database.url",
    parse::secret,
    "The database to follow, as `postgres://user:password@host:5432/database` or as libpq's `key=value` pairs. \
     Where it is set, the single parts below are not read.",
)
.environment(&["DATABASE_URL"])
.flag("database-url")
.secret();

pub(super) static DATABASE_HOST: Setting<String> =
    Setting::new("database.host", parse::text, "Host of the database, when there is no URL.")
        .environment(&["DB_HOST"])
        .default("127.0.0.1");

pub(super) static DATABASE_PORT: Setting<u16> =
    Setting::new("database.port", parse::port, "Port of the database, when there is no URL.")
        .environment(&["DB_PORT"])
        .default("5432");

pub(super) static DATABASE_NAME: Setting<String> =
    Setting::new("database.name", parse::text, "Name of the database, when there is no URL.")
        .environment(&["DB_NAME"])
        .default("postgres");

pub(super) static DATABASE_USER: Setting<String> = Setting::new(
    "database.user",
    parse::text,
    "Role to connect as, when there is no URL. It needs the REPLICATION attribute.",
)
.environment(&["DB_USER"])
.default("postgres");

pub(super) static DATABASE_PASSWORD: Setting<Secret> =
    Setting::new("database.password", parse::secret, "Password of that role, when there is no URL.")
        .environment(&["DB_PASSWORD"])
        .secret();

pub(super) static DATABASE_TLS: Setting<bool> = Setting::new(
    "database.tls",
    parse::boolean,
    "Whether to insist on TLS, when there is no URL. Unset: TLS where the server offers it.",
)
.environment(&["DB_SSL"]);

pub(super) static DATABASE_TLS_CA: Setting<String> = Setting::new(
    "database.tls_ca_certificate",
    parse::text,
    "Path of the PEM file with the authority of the server's certificate, when there is no URL. \
     Turns on TLS with full verification of certificate and host name.",
)
.environment(&["DB_SSL_CA_CERT"]);

pub(super) static DATABASE_AFTER_CONNECT: Setting<String> = Setting::new(
    "database.after_connect",
    parse::text,
    "SQL that is run on each new connection of the pool, for example `SET search_path TO app`. Policies are asked on them.",
)
// Not DB_AFTER_CONNECT_QUERY: that leads to upstream's own schema, and policies would be asked with its search path.
.environment(&["WALCAST_AFTER_CONNECT_QUERY"]);

pub(super) static DATABASE_POOL_SIZE: Setting<usize> = Setting::new(
    "database.pool_size",
    parse::count::<1, 1000>,
    "Connections kept for reading the catalog and for policies that only Postgres can decide. \
     The replication connection comes on top.",
)
.environment(&["DB_POOL_SIZE"])
.default("5");

pub(super) static DATABASE_STATEMENT_TIMEOUT: Setting<Duration> = Setting::new(
    "database.statement_timeout_ms",
    parse::milliseconds_above_zero,
    "How long Postgres may take to decide a policy. What takes longer is not delivered.",
)
.environment(&["WALCAST_STATEMENT_TIMEOUT_MS"])
.default("5000");

pub(super) static JWT_SECRET: Setting<Secret> = Setting::new(
    "auth.jwt_secret",
    parse::secret,
    "Secret that signs the tokens (HS256, HS384, HS512). Its bytes are taken as they are. \
     `walcast serve` refuses published sample secrets and those under 32 bytes.",
)
.environment(&["JWT_SECRET", "API_JWT_SECRET"])
.secret();

pub(super) static JWKS: Setting<JwksSource> = Setting::new(
    "auth.jwks",
    parse::jwks,
    "JSON Web Key Set of the tokens' issuer: the JSON text, the path of a file, or a URL. File and URL are read \
     again when a token names an unknown key, and every ten minutes.",
)
.environment(&["JWT_JWKS", "API_JWT_JWKS"])
.secret();

pub(super) static CLAIM_VALIDATORS: Setting<Map<String, Value>> = Setting::new(
    "auth.claim_validators",
    parse::object,
    "Claims that must have these values where a token carries them; a JSON object, in the file a table.",
)
.environment(&["JWT_CLAIM_VALIDATORS"])
.default("{}");

pub(super) static EXPIRY_NOTICE: Setting<Duration> = Setting::new(
    "auth.expiry_notice_ms",
    parse::milliseconds,
    "How long before its token expires, which ends it, a channel is told so by a `system` message; 0 for never. \
     Tokens that live no longer are not announced.",
)
.environment(&["WALCAST_EXPIRY_NOTICE_MS"])
.default("30000");

pub(super) static TOKEN_RECHECK: Setting<Duration> = Setting::new(
    "auth.recheck_ms",
    parse::milliseconds_above_zero,
    "How often the token of a joined channel, and what it allows on a private one, is looked at again, so that a \
     withdrawn key ends open channels.",
)
.environment(&["WALCAST_TOKEN_RECHECK_MS"])
.default("300000");

pub(super) static METRICS_JWT_SECRET: Setting<Secret> = Setting::new(
    "auth.metrics_jwt_secret",
    parse::secret,
    "Where it is set, `/metrics` asks for a bearer token signed with it (HS256, HS384, HS512).",
)
.environment(&["METRICS_JWT_SECRET"])
.of_process()
.secret();

pub(super) static METRICS_TOKEN_BLOCKLIST: Setting<Vec<Secret>> = Setting::new(
    "auth.metrics_token_blocklist",
    parse::secrets,
    "Tokens that `/metrics` refuses although they are signed with that secret; a list, in the environment with commas.",
)
.environment(&["METRICS_TOKEN_BLOCKLIST"])
.of_process()
.secret();

pub(super) static API_JWT_SECRET: Setting<Secret> = Setting::new(
    "auth.api_jwt_secret",
    parse::secret,
    "Secret of operators' tokens (HS256, HS384, HS512) for the projects, users and topics of the HTTP API, which is \
     closed without it. Where it is also a key of a project's users, an operator's token has the role `service_role` \
     and is good for that project only.",
)
.environment(&["API_JWT_SECRET"])
.of_process()
.secret();

pub(super) static API_JWT_SECRET_NEXT: Setting<Secret> = Setting::new(
    "auth.api_jwt_secret_next",
    parse::secret,
    "The secret that is to take its place; tokens of both are accepted.",
)
.environment(&["API_JWT_SECRET_NEXT"])
.of_process()
.secret();

pub(super) static API_TOKEN_BLOCKLIST: Setting<Vec<Secret>> = Setting::new(
    "auth.api_token_blocklist",
    parse::secrets,
    "Operators' tokens that are refused although they verify; a list, in the environment with commas.",
)
.environment(&["API_TOKEN_BLOCKLIST"])
.of_process()
.secret();

pub(super) static ALLOWED_ORIGINS: Setting<Vec<AllowedOrigin>> = Setting::new(
    "auth.allowed_origins",
    parse::origins,
    "Pages that may open a socket, as browsers name them: `https://app.example.com`, `https://*.example.com`, or `*` \
     for all; a list, in the environment with commas. Unset: all, and the log warns. Programs that are no browsers \
     send no origin and are not concerned.",
)
.environment(&["WALCAST_ALLOWED_ORIGINS"]);

pub(super) static PRIVATE_ONLY: Setting<bool> =
    Setting::new("auth.private_only", parse::boolean, "Whether public channels and broadcasts are refused.")
        .environment(&["WALCAST_PRIVATE_ONLY"])
        .default("false");

pub(super) static SUSPENDED: Setting<bool> = Setting::new(
    "auth.suspended",
    parse::boolean,
    "Whether every handshake is refused, for a project that shall serve nobody for a while.",
)
.environment(&["WALCAST_SUSPENDED"])
.default("false");

pub(super) static LISTEN_HOST: Setting<IpAddr> =
    Setting::new("server.host", parse::address, "IP address to listen on.")
        .environment(&["WALCAST_HOST"])
        .flag("host")
        .default("0.0.0.0");

pub(super) static LISTEN_PORT: Setting<u16> =
    Setting::new("server.port", parse::port, "TCP port to listen on; 0 takes a free one.")
        .environment(&["PORT"])
        .flag("port")
        .default("4000");

pub(super) static MAX_CONNECTIONS: Setting<usize> = Setting::new(
    "server.max_connections",
    parse::count::<1, 10_000_000>,
    "Connections that speak HTTP at once; further ones wait in the kernel. WebSockets count as users instead.",
)
.environment(&["MAX_CONNECTIONS"])
.default("100000");

pub(super) static HEADER_BYTES_MAX: Setting<usize> = Setting::new(
    "server.header_bytes_max",
    parse::header_bytes,
    "Bytes of a request's head, where tokens travel. Values under 8192 count as 8192.",
)
.environment(&["MAX_HEADER_LENGTH"])
.default("32768");

pub(super) static REQUEST_LINE_BYTES_MAX: Setting<usize> = Setting::new(
    "server.request_line_bytes_max",
    parse::count::<1024, 65_000>,
    "Bytes of a request's first line; the address of a WebSocket carries the token.",
)
.environment(&["WALCAST_REQUEST_LINE_BYTES_MAX"])
.default("16384");

pub(super) static HEADERS_MAX: Setting<usize> =
    Setting::new("server.headers_max", parse::count::<16, 10_000>, "Header lines of a request.")
        .environment(&["WALCAST_HEADERS_MAX"])
        .default("100");

pub(super) static HEADER_TIMEOUT: Setting<Duration> = Setting::new(
    "server.header_timeout_ms",
    parse::milliseconds_above_zero,
    "How long a client may take to send a request's head, from the beginning of the connection or the end of the \
     request before.",
)
.environment(&["WALCAST_HEADER_TIMEOUT_MS"])
.default("30000");

pub(super) static TRUSTED_PROXIES: Setting<Vec<Network>> = Setting::new(
    "server.trusted_proxies",
    parse::networks,
    "Proxies in front of walcast, whose `X-Forwarded-For` is believed: addresses or ranges such as `10.0.0.0/8`; a \
     list, in the environment with commas. Unset: nobody's.",
)
.environment(&["WALCAST_TRUSTED_PROXIES"]);

pub(super) static OPEN_FILES: Setting<u64> = Setting::new(
    "server.open_files",
    parse::open_files,
    "Open files to ask the operating system for at the start; each connection is one. Unset: as many as allowed.",
)
.environment(&["RLIMIT_NOFILE"]);

pub(super) static SHARDS: Setting<usize> = Setting::new(
    "server.shards",
    parse::count::<1, 1024>,
    "Shards among which connections are spread. Unset: one per processor core.",
)
.environment(&["WALCAST_SHARDS"]);

pub(super) static OUTBOUND_BYTES_MAX: Setting<usize> = Setting::new(
    "server.outbound_bytes_max",
    parse::count::<16_384, 1_073_741_824>,
    "Bytes that may wait for one slow socket before it is closed.",
)
.environment(&["WALCAST_OUTBOUND_BYTES_MAX", "WEBSOCKET_MAX_HEAP_SIZE"])
.default("1048576");

pub(super) static DRAIN: Setting<Duration> = Setting::new(
    "server.drain_seconds",
    parse::seconds_or_none,
    "Over how many seconds sockets are told to reconnect (1012) when the server stops, so that they do not come back all \
     at once; 0 tells all at once.",
)
.environment(&["WALCAST_DRAIN_SECONDS"])
.default("0");

pub(super) static CONNECT_ERROR_BACKOFF: Setting<Duration> = Setting::new(
    "server.connect_error_backoff_ms",
    parse::milliseconds,
    "Delay of the answer to a refused handshake, so that broken clients do not storm.",
)
.environment(&["CONNECT_ERROR_BACKOFF_MS"])
.default("2000");

pub(super) static CHANNEL_ERROR_BACKOFF: Setting<Duration> = Setting::new(
    "server.channel_error_backoff_ms",
    parse::milliseconds,
    "Delay of the answer to a refused join.",
)
.environment(&["CHANNEL_ERROR_BACKOFF_MS"])
.default("5000");

pub(super) static REPLICATION_READY_TIMEOUT: Setting<Duration> = Setting::new(
    "server.replication_ready_timeout_ms",
    parse::milliseconds,
    "A channel that joined with `replication_ready` is closed when messages from the database do not arrive by then.",
)
.environment(&["WALCAST_REPLICATION_READY_TIMEOUT_MS"])
.default("60000");

pub(super) static PROJECT: Setting<ProjectId> = Setting::new(
    "server.project",
    parse::project,
    "What the only project is called in addresses such as `/api/tenants/realtime-dev`, and in metrics.",
)
.environment(&["SELF_HOST_TENANT_NAME"])
.default("realtime-dev");

pub(super) static REGION: Setting<String> = Setting::new(
    "server.region",
    parse::text,
    "Where this process runs, in your own words; `/metrics/{region}` answers for this one.",
)
.environment(&["REGION"]);

pub(super) static REQUEST_ID_BAGGAGE_KEY: Setting<String> = Setting::new(
    "server.request_id_baggage_key",
    parse::text,
    "Key of the `baggage` header whose value names a request in the log and in `x-request-id`.",
)
.environment(&["REQUEST_ID_BAGGAGE_KEY"])
.default("request-id");

pub(super) static TLS_CERTIFICATE: Setting<String> = Setting::new(
    "tls.certificate",
    parse::text,
    "PEM file with the server's certificate and those that lead to its authority. With it and the key, the port \
     speaks TLS and nothing else.",
)
.environment(&["WALCAST_TLS_CERTIFICATE"]);

pub(super) static TLS_KEY: Setting<String> =
    Setting::new("tls.key", parse::text, "PEM file with the private key of the certificate.")
        .environment(&["WALCAST_TLS_KEY"]);

pub(super) static TLS_RELOAD: Setting<Duration> = Setting::new(
    "tls.reload_seconds",
    parse::seconds,
    "How often the two files are looked at; changed ones are used for new connections. SIGHUP does so at once.",
)
.environment(&["WALCAST_TLS_RELOAD_SECONDS"])
.default("10");

pub(super) static TLS_HANDSHAKE_TIMEOUT: Setting<Duration> = Setting::new(
    "tls.handshake_timeout_ms",
    parse::milliseconds_above_zero,
    "How long a client may take for the TLS handshake.",
)
.environment(&["WALCAST_TLS_HANDSHAKE_TIMEOUT_MS"])
.default("10000");

pub(super) static SLOT: Setting<String> = Setting::new(
    "replication.slot",
    parse::slot,
    "Name of the replication slot. It is created where it is missing, and keeps the log while walcast is away.",
)
.environment(&["WALCAST_SLOT"])
.flag("slot")
.default("walcast");

pub(super) static SLOT_SUFFIX: Setting<String> = Setting::new(
    "replication.slot_suffix",
    parse::slot,
    "Put behind the slot's name with an underscore, to tell several servers of one database apart.",
)
.environment(&["SLOT_NAME_SUFFIX"]);

pub(super) static PUBLICATIONS: Setting<Vec<String>> = Setting::new(
    "replication.publications",
    parse::names,
    "Publications whose tables are followed; a list, in the environment with commas.",
)
.environment(&["WALCAST_PUBLICATIONS"])
.flag("publications")
.default("supabase_realtime");

pub(super) static MAX_SLOT_LAG: Setting<u64> = Setting::new(
    "replication.max_slot_lag",
    parse::bytes_or_off,
    "Bytes of log that the slot may make PostgreSQL keep; 0 for no limit. Looked at as often as the catalog.",
)
.environment(&["WALCAST_MAX_SLOT_LAG"])
.default("0");

pub(super) static SLOT_LAG_ACTION: Setting<SlotLagAction> = Setting::new(
    "replication.slot_lag_action",
    parse::slot_lag_action,
    "What happens above that: `stop` reads no further, keeps the slot and makes `/readyz` fail; `drop_and_tell` drops the \
     slot, makes a new one and tells every subscriber of row changes that it has to fetch.",
)
.environment(&["WALCAST_SLOT_LAG_ACTION"])
.default("stop");

pub(super) static TRAIL_BYTES_MAX: Setting<u64> = Setting::new(
    "replication.trail_bytes_max",
    parse::bytes_or_off,
    "Bytes of log that the slot keeps although they are handled, so that a server that starts again has its journal \
     again. It keeps them for `changes.journal_age_ms` at most, and never more than half of `replication.max_slot_lag` or of \
     PostgreSQL's `max_slot_wal_keep_size`; 0 keeps none.",
)
.environment(&["WALCAST_TRAIL_BYTES_MAX"])
.default("1073741824");

pub(super) static CANARY: Setting<Duration> = Setting::new(
    "replication.canary_ms",
    parse::milliseconds,
    "How often a message is written into the log to measure how soon it comes back; 0 for never.",
)
.environment(&["WALCAST_CANARY_MS"])
.default("10000");

pub(super) static JANITOR: Setting<bool> = Setting::new(
    "janitor.enabled",
    parse::boolean,
    "Whether walcast makes the daily partitions of `realtime.messages` ahead and drops those older than three days. \
     Unset: where walcast's role owns the table.",
)
.environment(&["RUN_JANITOR"]);

pub(super) static JANITOR_EVERY: Setting<Duration> =
    Setting::new("janitor.interval_ms", parse::milliseconds_of_days, "How often it does so.")
        .environment(&["JANITOR_SCHEDULE_TIMER_IN_MS"])
        .default("14400000");

pub(super) static JANITOR_FIRST: Setting<Duration> = Setting::new(
    "janitor.first_after_ms",
    parse::milliseconds,
    "How long after the start it does so for the first time.",
)
.environment(&["JANITOR_RUN_AFTER_IN_MS"])
.default("0");

pub(super) static DELETES: Setting<Deletes> = Setting::new(
    "changes.deletes",
    parse::deletes,
    "What happens with a DELETE on a table with row-level security whose old row is not in the log: `private` \
     delivers it only where the key decides, `compatible` sends the key to every subscriber of the table.",
)
.environment(&["WALCAST_DELETES"])
.flag("deletes")
.default("private");

pub(super) static CATALOG_POLL: Setting<Duration> = Setting::new(
    "changes.catalog_poll_seconds",
    parse::seconds,
    "How often the catalog (tables, policies, grants) is compared with what is known.",
)
.environment(&["WALCAST_CATALOG_POLL_SECONDS"])
.default("5");

pub(super) static RECORD_BYTES_MAX: Setting<usize> = Setting::new(
    "changes.record_bytes_max",
    parse::count::<1024, 104_857_600>,
    "Bytes of one change as JSON; a larger one goes out without its large columns.",
)
.environment(&["WALCAST_RECORD_BYTES_MAX"])
.default("1048576");

pub(super) static COPY_BYTES_MAX: Setting<usize> = Setting::new(
    "changes.copy_bytes_max",
    parse::count::<0, 1_099_511_627_776>,
    "Bytes of all copies of the tables that policies look things up in; where they do not suffice the database is \
     asked instead.",
)
.environment(&["WALCAST_COPY_BYTES_MAX"])
.default("268435456");

pub(super) static JOURNAL_BYTES_MAX: Setting<usize> = Setting::new(
    "changes.journal_bytes_max",
    parse::count::<0, 1_099_511_627_776>,
    "Bytes of recent transactions that are kept in memory for subscriptions that resume, their indexes and the \
     temporary files of large ones included; 0 keeps none.",
)
.environment(&["WALCAST_JOURNAL_BYTES_MAX"])
.default("67108864");

pub(super) static JOURNAL_AGE: Setting<Duration> =
    Setting::new("changes.journal_age_ms", parse::milliseconds, "For how long they are kept.")
        .environment(&["WALCAST_JOURNAL_AGE_MS"])
        .default("120000");

pub(super) static SNAPSHOT_ROWS_MAX: Setting<usize> = Setting::new(
    "changes.snapshot_rows_max",
    parse::count::<1, 10_000_000>,
    "Rows that a channel whose bindings have `snapshot` begins with at most, those of all its bindings together.",
)
.environment(&["WALCAST_SNAPSHOT_ROWS_MAX"])
.default("10000");

pub(super) static SNAPSHOT_BYTES_MAX: Setting<usize> = Setting::new(
    "changes.snapshot_bytes_max",
    parse::count::<1_024, 1_073_741_824>,
    "Bytes of these rows; eight times as many are held for all channels together while they are sent.",
)
.environment(&["WALCAST_SNAPSHOT_BYTES_MAX"])
.default("16777216");

pub(super) static TICKET_VALIDITY: Setting<Duration> = Setting::new(
    "resume.ticket_seconds",
    parse::seconds_or_none,
    "For how many seconds a client whose socket was lost is brought up to date when it joins again, as far as the journal \
     reaches (`changes.journal_age_ms`); 0 turns it off.",
)
.environment(&["WALCAST_RESUME_TICKET_SECONDS"])
.default("120");

pub(super) static TICKETS_MAX: Setting<usize> = Setting::new(
    "resume.tickets_max",
    parse::count::<1, 10_000_000>,
    "Lost channels that are remembered for that, about 100 bytes each; the oldest are forgotten first.",
)
.environment(&["WALCAST_RESUME_TICKETS_MAX"])
.default("100000");

pub(super) static RESUME_BROADCASTS: Setting<bool> = Setting::new(
    "resume.broadcasts",
    parse::boolean,
    "Whether such a client is sent the broadcasts of its topics, too, that it may have missed within `resume.ticket_seconds`; \
     then channels without bindings are remembered as well.",
)
.environment(&["WALCAST_RESUME_BROADCASTS"])
.default("false");

pub(super) static RESUME_BROADCASTS_BYTES_MAX: Setting<usize> = Setting::new(
    "resume.broadcasts_bytes_max",
    parse::count::<1_024, 1_073_741_824>,
    "Bytes of the broadcasts of all topics that are kept for that; the oldest are forgotten first.",
)
.environment(&["WALCAST_RESUME_BROADCASTS_BYTES_MAX"])
.default("16777216");

pub(super) static MAX_USERS: Setting<usize> = Setting::new(
    "limits.max_concurrent_users",
    parse::count::<1, 10_000_000>,
    "Open sockets; further handshakes are refused.",
)
.environment(&["TENANT_MAX_CONCURRENT_USERS"])
.default("100000");

pub(super) static MAX_CHANNELS: Setting<usize> =
    Setting::new("limits.max_channels_per_client", parse::count::<1, 100_000>, "Channels of one socket.")
        .environment(&["TENANT_MAX_CHANNELS_PER_CLIENT"])
        .default("100");

pub(super) static MAX_BINDINGS: Setting<usize> = Setting::new(
    "limits.max_bindings_per_channel",
    parse::count::<1, 10_000>,
    "`postgres_changes` bindings of one channel.",
)
.environment(&["WALCAST_MAX_BINDINGS_PER_CHANNEL"])
.default("100");

pub(super) static MAX_JOINS: Setting<u32> =
    Setting::new("limits.max_joins_per_second", parse::count32, "Joins of all sockets together, per second.")
        .environment(&["TENANT_MAX_JOINS_PER_SECOND"])
        .default("10000");

pub(super) static PAYLOAD_BYTES_MAX: Setting<usize> = Setting::new(
    "limits.payload_bytes_max",
    parse::count::<1024, 100_000_000>,
    "Bytes of one broadcast's payload.",
)
.environment(&["WALCAST_PAYLOAD_BYTES_MAX"])
.default("3000500");

pub(super) static MAX_BATCH_MESSAGES: Setting<usize> = Setting::new(
    "limits.max_batch_messages",
    parse::count::<1, 1_000_000>,
    "Messages of one batch over HTTP; a larger one is refused.",
)
.environment(&["WALCAST_MAX_BATCH_MESSAGES"])
.default("1000");

pub(super) static PRESENCE_CALLS: Setting<u32> = Setting::new(
    "limits.presence_calls_max",
    parse::count32,
    "Presence calls of one channel in one window; the next one closes it.",
)
.environment(&["CLIENT_PRESENCE_MAX_CALLS"])
.default("100");

pub(super) static PRESENCE_WINDOW: Setting<Duration> =
    Setting::new("limits.presence_window_ms", parse::milliseconds_above_zero, "Length of that window.")
        .environment(&["CLIENT_PRESENCE_WINDOW_MS"])
        .default("30000");

pub(super) static MAX_EVENTS: Setting<Option<NonZeroU32>> = Setting::new(
    "limits.max_events_per_second",
    parse::rate,
    "Messages that clients send, or publish over HTTP, per second, all together; what is more is refused. 0: any number.",
)
.environment(&["TENANT_MAX_EVENTS_PER_SECOND"])
.default("100000");

pub(super) static MAX_CLIENT_EVENTS: Setting<Option<NonZeroU32>> = Setting::new(
    "limits.max_client_events_per_second",
    parse::rate,
    "Messages that one socket sends per second; the channel on which it sends more is closed. 0: any number.",
)
.environment(&["WALCAST_MAX_CLIENT_EVENTS_PER_SECOND"])
.default("10000");

pub(super) static MAX_PRESENCE_EVENTS: Setting<Option<NonZeroU32>> = Setting::new(
    "limits.max_presence_events_per_second",
    parse::rate,
    "Tracks, and presence states sent at joins, per second, of all channels together; what is more is refused. 0: any \
     number.",
)
.environment(&["WALCAST_MAX_PRESENCE_EVENTS_PER_SECOND"])
.default("10000");

pub(super) static BROADCAST_CONFLATE: Setting<Vec<(String, Alike)>> = Setting::new(
    "broadcast.conflate",
    parse::alike,
    "Events of which only the newest broadcast waits for a slow socket: `event:member`, the newest for each value of this \
     member of the payload, or `event`, the newest of a topic. Separated by commas.",
)
.environment(&["WALCAST_BROADCAST_CONFLATE"]);

pub(super) static BROADCAST_TTL: Setting<Vec<(String, Duration)>> = Setting::new(
    "broadcast.ttl_ms",
    parse::times_to_live,
    "For how long broadcasts of these events may wait for a slow socket before they are dropped: `event:milliseconds`, \
     separated by commas.",
)
.environment(&["WALCAST_BROADCAST_TTL_MS"]);

pub(super) static PRESENCE_ENABLED: Setting<bool> = Setting::new(
    "presence.enabled",
    parse::boolean,
    "Whether every channel is told who is present, also where its join does not ask for it.",
)
.environment(&["WALCAST_PRESENCE_ENABLED"])
.default("false");

pub(super) static PRESENCE_GRACE: Setting<Duration> = Setting::new(
    "presence.grace_ms",
    parse::milliseconds,
    "How long the presence of a socket stays that was lost without a close frame, so that nobody notices a reconnect. \
     0: it leaves at once.",
)
.environment(&["WALCAST_PRESENCE_GRACE_MS"])
.default("2000");

pub(super) static PRESENCE_DIFF: Setting<Duration> = Setting::new(
    "presence.diff_ms",
    parse::milliseconds,
    "For how long the changes of who is present on a topic are collected at most, to leave in one `presence_diff`; one \
     that comes after a quiet time leaves at once. It is a millisecond for each channel that follows, and none below \
     ten. 0: each leaves at once.",
)
.environment(&["WALCAST_PRESENCE_DIFF_MS"])
.default("250");

pub(super) static PRESENCE_PAYLOAD_BYTES_MAX: Setting<usize> = Setting::new(
    "presence.payload_bytes_max",
    parse::count::<1024, 1_000_000>,
    "Bytes of one tracked payload; a track with more closes its channel.",
)
.environment(&["WALCAST_PRESENCE_PAYLOAD_BYTES_MAX"])
.default("65536");

pub(super) static PRESENCE_TOPIC_BYTES_MAX: Setting<usize> = Setting::new(
    "presence.topic_bytes_max",
    parse::count::<1024, 1_000_000_000>,
    "Bytes of all payloads that are tracked on one topic, with their keys; a track for which there is no room is \
     refused. Everybody who joins with presence is sent all of it.",
)
.environment(&["WALCAST_PRESENCE_TOPIC_BYTES_MAX"])
.default("4194304");

pub(super) static ADDRESS_CONNECTIONS: Setting<u32> = Setting::new(
    "limits.max_connections_per_address",
    parse::count32_or_off,
    "Connections that one address may have open, WebSockets included; 0 is no limit. Behind a proxy the addresses \
     are those of its clients, once `server.trusted_proxies` names it.",
)
.environment(&["WALCAST_MAX_CONNECTIONS_PER_ADDRESS"])
.of_process()
.default("10000");

pub(super) static ADDRESS_HANDSHAKES: Setting<u32> = Setting::new(
    "limits.max_handshakes_per_second_per_address",
    parse::count32_or_off,
    "Handshakes that one address may make in a second; 0 is no limit.",
)
.environment(&["WALCAST_MAX_HANDSHAKES_PER_SECOND_PER_ADDRESS"])
.of_process()
.default("1000");

pub(super) static LOG_LEVEL: Setting<String> = Setting::new(
    "log.level",
    parse::log_filter,
    "What is logged: `debug`, `info`, `warning`, `error`, `off`, or a filter such as \
     `info,walcast_engine=debug`.",
)
.environment(&["LOG_LEVEL"])
.flag("log-level")
.default("info");

pub(super) static LOG_FORMAT: Setting<LogFormat> =
    Setting::new("log.format", parse::log_format, "Form of the log lines: `text` or `json`.")
        .environment(&["WALCAST_LOG_FORMAT"])
        .flag("log-format")
        .default("text");

pub(super) static DISABLE_HEALTH_LOGGING: Setting<bool> = Setting::new(
    "log.disable_healthcheck",
    parse::boolean,
    "Whether requests of the health endpoints are left out of the log.",
)
.environment(&["DISABLE_HEALTHCHECK_LOGGING"])
.default("false");

/// All of the above.
pub(super) static ALL: &[&About] = &[
    &DATABASE_URL.about,
    &DATABASE_HOST.about,
    &DATABASE_PORT.about,
    &DATABASE_NAME.about,
    &DATABASE_USER.about,
    &DATABASE_PASSWORD.about,
    &DATABASE_TLS.about,
    &DATABASE_TLS_CA.about,
    &DATABASE_AFTER_CONNECT.about,
    &DATABASE_POOL_SIZE.about,
    &DATABASE_STATEMENT_TIMEOUT.about,
    &JWT_SECRET.about,
    &JWKS.about,
    &CLAIM_VALIDATORS.about,
    &EXPIRY_NOTICE.about,
    &TOKEN_RECHECK.about,
    &METRICS_JWT_SECRET.about,
    &METRICS_TOKEN_BLOCKLIST.about,
    &API_JWT_SECRET.about,
    &API_JWT_SECRET_NEXT.about,
    &API_TOKEN_BLOCKLIST.about,
    &ALLOWED_ORIGINS.about,
    &PRIVATE_ONLY.about,
    &SUSPENDED.about,
    &LISTEN_HOST.about,
    &LISTEN_PORT.about,
    &MAX_CONNECTIONS.about,
    &HEADER_BYTES_MAX.about,
    &REQUEST_LINE_BYTES_MAX.about,
    &HEADERS_MAX.about,
    &HEADER_TIMEOUT.about,
    &TRUSTED_PROXIES.about,
    &OPEN_FILES.about,
    &SHARDS.about,
    &OUTBOUND_BYTES_MAX.about,
    &DRAIN.about,
    &CONNECT_ERROR_BACKOFF.about,
    &CHANNEL_ERROR_BACKOFF.about,
    &REPLICATION_READY_TIMEOUT.about,
    &PROJECT.about,
    &REGION.about,
    &REQUEST_ID_BAGGAGE_KEY.about,
    &TLS_CERTIFICATE.about,
    &TLS_KEY.about,
    &TLS_RELOAD.about,
    &TLS_HANDSHAKE_TIMEOUT.about,
    &SLOT.about,
    &SLOT_SUFFIX.about,
    &PUBLICATIONS.about,
    &MAX_SLOT_LAG.about,
    &SLOT_LAG_ACTION.about,
    &TRAIL_BYTES_MAX.about,
    &CANARY.about,
    &JANITOR.about,
    &JANITOR_EVERY.about,
    &JANITOR_FIRST.about,
    &DELETES.about,
    &CATALOG_POLL.about,
    &RECORD_BYTES_MAX.about,
    &COPY_BYTES_MAX.about,
    &JOURNAL_BYTES_MAX.about,
    &JOURNAL_AGE.about,
    &SNAPSHOT_ROWS_MAX.about,
    &SNAPSHOT_BYTES_MAX.about,
    &TICKET_VALIDITY.about,
    &TICKETS_MAX.about,
    &RESUME_BROADCASTS.about,
    &RESUME_BROADCASTS_BYTES_MAX.about,
    &MAX_USERS.about,
    &MAX_CHANNELS.about,
    &MAX_BINDINGS.about,
    &MAX_JOINS.about,
    &PAYLOAD_BYTES_MAX.about,
    &MAX_BATCH_MESSAGES.about,
    &PRESENCE_CALLS.about,
    &PRESENCE_WINDOW.about,
    &MAX_EVENTS.about,
    &MAX_CLIENT_EVENTS.about,
    &MAX_PRESENCE_EVENTS.about,
    &BROADCAST_CONFLATE.about,
    &BROADCAST_TTL.about,
    &PRESENCE_ENABLED.about,
    &PRESENCE_GRACE.about,
    &PRESENCE_DIFF.about,
    &PRESENCE_PAYLOAD_BYTES_MAX.about,
    &PRESENCE_TOPIC_BYTES_MAX.about,
    &ADDRESS_CONNECTIONS.about,
    &ADDRESS_HANDSHAKES.about,
    &LOG_LEVEL.about,
    &LOG_FORMAT.about,
    &DISABLE_HEALTH_LOGGING.about,
];

/// The setting with this key.
pub(super) fn named(key: &str) -> Option<&'static About> {
    ALL.iter().copied().find(|about| about.key == key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_is_used_twice() {
        let mut names = BTreeSet::new();
        for about in ALL {
            assert!(names.insert(about.key.to_owned()), "{}", about.key);
            assert!(about.flag.is_none_or(|flag| names.insert(format!("--{flag}"))), "{:?}", about.flag);
            for name in about.environment {
                // As upstream has it, one variable for the tokens of users and of operators.
                let is_for_both = about.key == "auth.api_jwt_secret" && *name == "API_JWT_SECRET";
                assert!(names.insert((*name).to_owned()) || is_for_both, "{name}");
            }
        }
    }

    #[test]
    fn every_setting_has_a_section_and_a_variable() {
        for about in ALL {
            assert_eq!(about.key.split('.').count(), 2, "{}", about.key);
            assert!(!about.environment.is_empty(), "{}", about.key);
        }
    }

    #[test]
    fn no_secret_has_a_default_and_only_the_database_url_has_a_flag() {
        for about in ALL.iter().filter(|about| about.secret) {
            assert_eq!(about.default, None, "{}", about.key);
            assert!(about.flag.is_none() || about.key == "database.url", "{}", about.key);
        }
    }
}
