use super::*;

const SECRET: &str = "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";
const REQUIRED: &[(&str, &str)] = &[("DATABASE_URL", "postgres://ana:pw9@db/app"), ("JWT_SECRET", SECRET)];

fn resolve_for(purpose: Purpose, variables: &[(&str, &str)], file: &str) -> Result<Settings, SettingsError> {
    let environment = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let file = ConfigurationFile::parse(Path::new("walcast.toml"), file)?;
    Settings::resolve(&Flags::default(), &environment, &file, purpose)
}

fn resolve(variables: &[(&str, &str)], file: &str) -> Result<Settings, SettingsError> {
    resolve_for(Purpose::Serve, variables, file)
}

fn refusal(variables: &[(&str, &str)], file: &str) -> String {
    resolve(variables, file).expect_err("refused").to_string()
}

#[test]
fn a_database_url_and_a_secret_are_all_that_is_needed() {
    let settings = resolve(REQUIRED, "").unwrap();
    assert_eq!(settings.server.listen.to_string(), "0.0.0.0:4000");
    assert_eq!(settings.project.replication.slot, "walcast");
    assert_eq!(settings.project.replication.publications, ["supabase_realtime"]);
    assert_eq!(settings.project.changes.deletes, Deletes::Private);
    assert_eq!(settings.project.changes.catalog_poll, Duration::from_secs(5));
    assert_eq!(settings.server.outbound_bytes_max, 1 << 20);
    assert_eq!(settings.server.connect_error_backoff, Duration::from_secs(2));
    assert!(settings.log.health_checks);
    assert_eq!(settings.project.address, Address::Everything);
    assert!(settings.others.is_empty() && settings.server.tls.is_none());
    let [warning] = &settings.warnings[..] else { panic!("{:?}", settings.warnings) };
    assert!(warning.contains("auth.allowed_origins"), "{warning}");
    assert_eq!(settings.project.janitor, JanitorSettings::default());
}

#[test]
fn what_is_missing_is_named() {
    assert!(refusal(&[("JWT_SECRET", SECRET)], "").contains("DATABASE_URL"));
    assert!(refusal(&[("DATABASE_URL", "postgres://ana@db/app")], "").contains("JWT_SECRET"));
}

#[test]
fn the_environment_of_the_stock_compose_file_is_accepted() {
    let settings = resolve(
        &[
            ("PORT", "4000"),
            ("DB_HOST", "db"),
            ("DB_PORT", "5432"),
            ("DB_USER", "supabase_admin"),
            ("DB_PASSWORD", "pw9"),
            ("DB_NAME", "postgres"),
            ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
            ("DB_ENC_KEY", "supabaserealtime"),
            ("API_JWT_SECRET", SECRET),
            ("SECRET_KEY_BASE", "x"),
            ("METRICS_JWT_SECRET", SECRET),
            ("ERL_AFLAGS", "-proto_dist inet_tcp"),
            ("DNS_NODES", "''"),
            ("RLIMIT_NOFILE", "10000"),
            ("APP_NAME", "realtime"),
            ("SEED_SELF_HOST", "true"),
            ("RUN_JANITOR", "true"),
            ("DISABLE_HEALTHCHECK_LOGGING", "true"),
        ],
        "",
    )
    .unwrap();
    assert_eq!(settings.project.database.connection.to_string(), "supabase_admin@db:5432/postgres");
    assert_eq!(settings.server.open_files, Some(10000));
    assert!(settings.server.metrics_jwt_secret.is_some());
    assert!(!settings.log.health_checks);
    assert_eq!(settings.project.janitor.enabled, Some(true));
    let after_connect = settings.project.database.after_connect;
    assert_eq!(after_connect, None, "the search path of upstream's own schema is not that of policies");
}

#[test]
fn the_limits_of_a_tenant_are_read_from_their_variables() {
    let mut variables = REQUIRED.to_vec();
    variables.extend([
        ("TENANT_MAX_CONCURRENT_USERS", "1"),
        ("TENANT_MAX_CHANNELS_PER_CLIENT", "2"),
        ("TENANT_MAX_JOINS_PER_SECOND", "3"),
        ("CLIENT_PRESENCE_MAX_CALLS", "5"),
        ("CLIENT_PRESENCE_WINDOW_MS", "6000"),
        ("TENANT_MAX_EVENTS_PER_SECOND", "7"),
    ]);
    let limits = resolve(&variables, "").unwrap().project.limits;
    assert_eq!((limits.max_concurrent_users, limits.max_channels_per_client), (1, 2));
    assert_eq!(limits.max_joins_per_second, 3);
    assert_eq!(limits.presence_calls, RateLimit { calls: 5, window: Duration::from_secs(6) });
    assert_eq!(limits.max_events_per_second, NonZeroU32::new(7));
}

#[test]
fn a_whole_file_is_understood() {
    let settings = resolve(
        &[],
        "[database]\nurl = \"postgres://ana@db/app\"\npool_size = 2\n\
         [auth]\njwks = '{\"keys\":[]}'\n[auth.claim_validators]\niss = \"me\"\n\
         [replication]\nslot_suffix = \"blue\"\npublications = [\"a\", \"b\"]\n\
         [changes]\ndeletes = \"compatible\"\n[log]\nformat = \"json\"\n",
    )
    .unwrap();
    assert_eq!(settings.project.database.pool_size, 2);
    assert_eq!(settings.project.auth.claim_validators["iss"], "me");
    assert_eq!(settings.project.replication.slot, "walcast_blue");
    assert_eq!(settings.project.replication.publications, ["a", "b"]);
    assert_eq!(settings.project.changes.deletes, Deletes::Compatible);
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn a_sample_secret_is_refused_except_in_development() {
    let variables =
        [REQUIRED[0], ("API_JWT_SECRET", "your-super-secret-jwt-token-with-at-least-32-characters-long")];
    assert!(
        refusal(&variables, "").starts_with("the environment variable API_JWT_SECRET: the JWT secret is")
    );
    assert!(resolve_for(Purpose::Develop, &variables, "").is_ok());
}

#[test]
fn a_suffix_that_makes_the_slot_name_too_long_is_refused() {
    let suffix = "a".repeat(60);
    let mut variables = REQUIRED.to_vec();
    variables.push(("SLOT_NAME_SUFFIX", &suffix));
    assert!(refusal(&variables, "").contains("SLOT_NAME_SUFFIX"));
}

#[test]
fn tls_needs_certificate_and_key() {
    let mut variables = REQUIRED.to_vec();
    variables.push(("WALCAST_TLS_KEY", "tls.key"));
    assert_eq!(refusal(&variables, ""), "`tls.key` is set and `tls.certificate` is not: TLS needs both");
    variables.push(("WALCAST_TLS_CERTIFICATE", "tls.crt"));
    let files = TlsFiles { certificate: "tls.crt".into(), key: "tls.key".into() };
    assert_eq!(resolve(&variables, "").unwrap().server.tls, Some(files));
}

#[test]
fn allowed_origins_and_trusted_proxies_are_lists() {
    let mut variables = REQUIRED.to_vec();
    variables.extend([
        ("WALCAST_ALLOWED_ORIGINS", "https://app.example.com, https://*.example.org"),
        ("WALCAST_TRUSTED_PROXIES", "10.0.0.0/8,::1"),
    ]);
    let settings = resolve(&variables, "").unwrap();
    assert_eq!(settings.project.auth.allowed_origins.len(), 2);
    assert_eq!(settings.server.trusted_proxies.len(), 2);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    variables[2].1 = "app.example.com";
    assert!(refusal(&variables, "").contains("expected origins such as https://app.example.com"));
}

#[test]
fn a_missing_configuration_file_is_named() {
    let environment = [(FILE_VARIABLE.to_owned(), "does/not/exist.toml".to_owned())].into();
    let refused = Settings::load(&Flags::default(), &environment, Purpose::Serve).err().unwrap();
    assert!(refused.to_string().contains("does/not/exist.toml"), "{refused}");
}

#[test]
fn no_secret_is_printed() {
    let mut variables = REQUIRED.to_vec();
    variables.extend([("METRICS_JWT_SECRET", "metrics hidden"), ("JWT_JWKS", r#"{"keys":[]}"#)]);
    let printed = format!("{:?}", resolve(&variables, "").unwrap());
    for hidden in [SECRET, "pw9", "metrics hidden", "keys"] {
        assert!(!printed.contains(hidden), "{hidden} in {printed}");
    }
}

#[test]
fn a_wrong_secret_value_is_refused_without_showing_it() {
    let mut variables = REQUIRED.to_vec();
    variables.push(("JWT_JWKS", "https://"));
    assert!(refusal(&variables, "").ends_with("found something else"));
}
