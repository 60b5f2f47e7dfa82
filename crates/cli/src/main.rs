//! The walcast binary: the command line, and nothing else.

#![expect(clippy::doc_markdown, reason = "the comments on arguments are help texts, which show backticks")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use walcast::bench::{self, BenchOptions};
use walcast::database::catalog_settings;
use walcast::dev::{Dev, DevOptions};
use walcast::doctor::{self, DoctorOptions};
use walcast::explain::{self, ExplainOptions};
use walcast::serve::Server;
use walcast::settings::{
    DatabaseSettings, Environment, Flags, LogSettings, Purpose, ReplicationSettings, Settings,
};
use walcast::signal::{Asked, Signals};
use walcast::{health_check, logging, open_files, signal};
use walcast_catalog::{MESSAGES_PUBLICATION, install};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes a PostgreSQL database live: row changes, Broadcast and Presence over WebSocket.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a database, or several. DATABASE_URL and JWT_SECRET (or JWT_JWKS) are all it needs.
    Serve(Flags),
    /// Run with a private PostgreSQL, demo data and a page.
    Dev(DevOptions),
    /// Print what walcast wants in a database, or apply it.
    Install(InstallOptions),
    /// Look at a database and say what walcast would do with it, and what to mend. Changes nothing.
    Doctor(DoctorOptions),
    /// Say who would get the INSERT of a row, and which policy decides.
    Explain(ExplainOptions),
    /// Make a token, signed with JWT_SECRET, and print it.
    Token(TokenOptions),
    /// Load a server with many sockets, and measure latencies and what it costs the server.
    Bench(BenchOptions),
    /// Ask the server on this machine whether it is ready; the exit code tells.
    Healthcheck {
        /// The server's port.
        #[arg(long, env = "PORT", default_value_t = 4000)]
        port: u16,
    },
}

#[derive(Args)]
struct InstallOptions {
    #[command(flatten)]
    settings: Flags,
    /// Apply it to the database instead of printing it.
    #[arg(long, conflicts_with = "remove")]
    apply: bool,
    /// Take it back; publications and slots stay.
    #[arg(long)]
    remove: bool,
}

#[derive(Args)]
struct TokenOptions {
    /// The PostgreSQL role.
    #[arg(long, default_value = "authenticated")]
    role: String,
    /// The claim `sub`.
    #[arg(long)]
    subject: Option<String>,
    /// More claims, as a JSON object.
    #[arg(long, default_value = "{}")]
    claims: String,
    /// How long the token is good, in seconds.
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
    /// The secret to sign with.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence with its causes; never a backtrace, which says nothing to an operator.
            eprintln!("walcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("the TLS provider is set twice"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments.command, &std::env::vars().collect()))
}

async fn run(command: Command, environment: &Environment) -> Result<()> {
    match command {
        Command::Serve(flags) => serve(&flags, environment).await,
        Command::Dev(options) => dev(options, environment).await,
        Command::Install(options) => install(options, environment).await,
        Command::Doctor(options) => doctor::run(&options, environment).await,
        Command::Explain(options) => explain::run(&options, environment).await,
        Command::Token(options) => token(&options),
        Command::Bench(options) => bench::run(options).await,
        Command::Healthcheck { port } => health_check::ask(port).await,
    }
}

async fn serve(flags: &Flags, environment: &Environment) -> Result<()> {
    let settings = Settings::load(flags, environment, Purpose::Serve)?;
    logging::start(&settings.log)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    open_files::raise(settings.server.open_files);
    let mut signals = Signals::new()?;
    let mut server = tokio::select! {
        started = Server::start(settings.serve()) => started?,
        () = stop_asked(&mut signals) => return Ok(()),
    };
    loop {
        tokio::select! {
            failed = server.failed() => return failed,
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => server.reload().await,
            },
        }
    }
    tracing::info!("stopping");
    server.stop().await
}

/// Before there is a server, nothing can be reloaded.
async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

#[expect(clippy::print_stdout, reason = "what a person who started it by hand needs to know")]
async fn dev(options: DevOptions, environment: &Environment) -> Result<()> {
    logging::start(&LogSettings::default())?;
    let mut dev = Dev::start(options, environment).await?;
    println!("page: http://{}/", dev.server.address());
    println!("database url: {}", dev.database_url);
    println!("jwt secret: {}", dev.secret);
    tokio::select! {
        failed = dev.server.failed() => failed?,
        signal = signal::stop() => signal?,
    }
    dev.stop().await
}

#[expect(clippy::print_stdout, reason = "the SQL is the command's output")]
async fn install(options: InstallOptions, environment: &Environment) -> Result<()> {
    let publications = ReplicationSettings::load(&options.settings, environment)?.publications;
    if !options.apply && !options.remove {
        println!("{}", install::sql(&publications));
        return Ok(());
    }
    let database = DatabaseSettings::load(&options.settings, environment)?;
    let catalog = catalog_settings(&database, &publications)?;
    if options.remove {
        install::remove(&catalog).await?;
        println!("removed; publications and replication slots are left as they are");
        return Ok(());
    }
    let installed = install::apply(&catalog).await?;
    println!("installed");
    if !installed.announces_catalog_changes {
        println!(
            "this role may not create event triggers: changes of policies and grants take effect at the next \
             poll of the catalog, not at their place in the log"
        );
    }
    if !installed.left.is_empty() {
        println!("left as they are, since walcast did not make them: {}", installed.left.join(", "));
    }
    if !installed.publishes_messages {
        println!(
            "realtime.messages is not in a publication that walcast reads, so that what realtime.send sends reaches \
             nobody; run as its owner: ALTER PUBLICATION {MESSAGES_PUBLICATION} ADD TABLE realtime.messages;"
        );
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the token is the command's output")]
fn token(options: &TokenOptions) -> Result<()> {
    let mut claims: serde_json::Map<_, _> =
        serde_json::from_str(&options.claims).context("--claims must be a JSON object")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    claims.insert("role".to_owned(), json!(options.role));
    claims.insert("iat".to_owned(), json!(now.as_secs()));
    claims.insert("exp".to_owned(), json!((now + Duration::from_secs(options.seconds)).as_secs()));
    if let Some(subject) = &options.subject {
        claims.insert("sub".to_owned(), json!(subject));
    }
    println!("{}", walcast_auth::sign(&claims.into(), &options.secret)?);
    Ok(())
}
