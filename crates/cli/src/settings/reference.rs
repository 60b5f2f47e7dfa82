//! `docs/configuration.md`, made of the definitions so that it can not lag behind.
//!
//! `WALCAST_WRITE_REFERENCE=1 cargo test -p walcast reference` writes it anew.

use std::fmt::Write;

use super::definitions;
use super::setting::About;

const HEAD: &str = "\
# Configuration

<!-- Made from crates/cli/src/settings/definitions.rs. To write it anew:
     WALCAST_WRITE_REFERENCE=1 cargo test -p walcast reference -->

Two settings are required: the database (`DATABASE_URL`) and the key that verifies tokens (`JWT_SECRET` or
`JWT_JWKS`). Everything else has a default.

A setting is looked for in this order, and the first place that has it counts:

1. the command-line flag,
2. the environment variables, in the order of the tables below (an empty variable counts as unset),
3. the TOML file that `--config` or `WALCAST_CONFIG` names,
4. the default.

In the file, `section.name` is written as `name = value` below `[section]`; a key that is not a setting is an error.
Secrets have no flag, because other users of a machine can read command lines; the database URL is the exception.

```toml
[database]
url = \"postgres://user:password@host:5432/database\"

[auth]
jwks = \"https://issuer.example/.well-known/jwks.json\"

[auth.claim_validators]
iss = \"https://issuer.example\"

[changes]
deletes = \"private\"
```

## Several projects

One process can serve several projects, each with its own database, keys, limits and topics. Without a list there is one
project, which answers to every host name and path. The file lists them as `[projects.<id>]`:

```toml
[projects.blue]
hosts = [\"live.blue.example\"]    # beside every host whose first label is `blue`; \"*\" is every host that nobody has
paths = [\"/blue\"]                # the default: ws://host/blue/socket/websocket

[projects.blue.database]
url = \"postgres://user:password@host:5432/blue\"

[projects.blue.auth]
jwt_secret = \"…\"

[projects.green.database]
url = \"postgres://user:password@host:5432/green\"

[projects.green.auth]
jwks = \"https://issuer.example/.well-known/jwks.json\"

[projects.green.limits]
max_concurrent_users = 5000
```

What a project does not say holds as flags, environment, file and defaults say it for all; only the slot's name gets the
project's name at its end (`walcast_blue`), because slots are of the whole database server. The settings of `[server]`, `[tls]`
and `[log]`, and those marked below, hold for the whole process. `--project blue` serves or examines that one alone.
";

const SECTIONS: &[(&str, &str)] = &[
    ("database", "The database that is followed."),
    ("auth", "What tokens are verified with (docs/protocol.md §8)."),
    ("server", "Sockets and HTTP."),
    (
        "tls",
        "Encryption by walcast itself (docs/security.md). Without it, put a proxy in front that encrypts.",
    ),
    ("replication", "The slot and the publications."),
    ("janitor", "The partitions of `realtime.messages` (docs/operations.md)."),
    ("changes", "Row changes (docs/protocol.md §4)."),
    ("resume", "Clients that come back (docs/protocol.md §5.7)."),
    ("limits", "What clients may do (docs/protocol.md §10)."),
    ("broadcast", "Broadcast (docs/protocol.md §6.6)."),
    ("presence", "Presence (docs/protocol.md §7)."),
    ("log", "The log, on standard error."),
];

/// Variables of Supabase Realtime that mean nothing here, so that nobody has to tidy a compose file.
const IGNORED: &[&str] = &[
    "APP_NAME",
    "BROADCAST_POOL_SIZE",
    "CF_TEAM_DOMAIN",
    "CLUSTER_STRATEGIES",
    "DASHBOARD_*",
    "DB_AFTER_CONNECT_QUERY",
    "DB_ENC_KEY",
    "DB_ENC_KEY_GCM",
    "DB_ENC_WRITE_GCM",
    "DB_HOST_REPLICA_*",
    "DB_IP_VERSION",
    "DB_MASTER_REGION",
    "DB_QUEUE_INTERVAL",
    "DB_QUEUE_TARGET",
    "DB_REPLICA_*",
    "DNS_NODES",
    "ERL_AFLAGS",
    "GEN_RPC_*",
    "JANITOR_CHILDREN_TIMEOUT",
    "JANITOR_CHUNK_SIZE",
    "JANITOR_MAX_CHILDREN",
    "JANITOR_SCHEDULE_RANDOMIZE",
    "LOGFLARE_*",
    "LOGS_ENGINE",
    "MEASURE_TRAFFIC_INTERVAL_IN_MS",
    "METRICS_CLEANER_*",
    "METRICS_PUSHER_*",
    "METRICS_RPC_TIMEOUT_IN_MS",
    "NO_CHANNEL_TIMEOUT_IN_MS",
    "NUM_ACCEPTORS",
    "OTEL_*",
    "PRESENCE_*",
    "PROM_POLL_RATE",
    "REALTIME_IP_VERSION",
    "REBALANCE_CHECK_INTERVAL_IN_MS",
    "REGION_MAPPING",
    "RPC_TIMEOUT",
    "SECRET_KEY_BASE",
    "SEED_SELF_HOST",
    "TENANT_CACHE_EXPIRATION_IN_MS",
    "TENANT_MAX_BYTES_PER_SECOND",
    "*_PARTITION_SLOTS",
    "*_SCOPE_SHARDS",
];

fn reference() -> String {
    let mut page = HEAD.to_owned();
    for (section, purpose) in SECTIONS {
        let _ = write!(page, "\n## `[{section}]`\n\n{purpose}\n\n");
        page.push_str("| Setting | Environment | Flag | Default | Meaning |\n|---|---|---|---|---|\n");
        for about in definitions::ALL.iter().filter(|about| in_section(about, section)) {
            let environment = about.environment.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ");
            let flag = about.flag.map(|flag| code(&format!("--{flag}"))).unwrap_or_default();
            let default = about.default.map(code).unwrap_or_default();
            let _ = writeln!(
                page,
                "| {} | {environment} | {flag} | {default} | {} |",
                code(about.key),
                meaning(about)
            );
        }
    }
    page.push_str("\n## Accepted and ignored\n\nSelf-hosters of Supabase Realtime may have these in their environment; ");
    page.push_str("they mean nothing here:\n");
    let names: Vec<String> = IGNORED.iter().map(|name| code(name)).collect();
    page.push_str(&names.join(", "));
    page.push_str(".\n");
    page
}

fn meaning(about: &About) -> String {
    let mark = if about.of_process { " For the whole process." } else { "" };
    about.help.replace('|', "\\|") + mark
}

fn in_section(about: &About, section: &str) -> bool {
    about.key.split('.').next() == Some(section)
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_configuration_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let wanted = reference();
        if std::env::var_os("WALCAST_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == wanted,
            "docs/configuration.md is stale: run WALCAST_WRITE_REFERENCE=1 cargo test -p walcast reference"
        );
    }

    #[test]
    fn every_setting_stands_in_a_section() {
        for about in definitions::ALL {
            assert!(SECTIONS.iter().any(|(section, _)| in_section(about, section)), "{}", about.key);
        }
    }

    #[test]
    fn nothing_that_is_a_setting_is_called_ignored() {
        for name in definitions::ALL.iter().flat_map(|about| about.environment) {
            let ignored = IGNORED.iter().any(|pattern| match pattern.split_once('*') {
                Some((start, end)) => name.starts_with(start) && name.ends_with(end),
                None => name == pattern,
            });
            assert!(!ignored, "{name}");
        }
    }
}
