//! `walcast bench`: the load client of `walcast-load`, with tokens for its sockets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::open_files;

/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// The options of `walcast bench`.
#[derive(Args)]
pub struct BenchOptions {
    #[command(flatten)]
    load: walcast_load::Options,
    /// The secret to sign the sockets' tokens with.
    #[arg(long, global = true, env = "JWT_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// A token for all sockets, where the secret is not known; scenarios with users need the secret.
    #[arg(long, global = true, conflicts_with = "secret")]
    token: Option<String>,
    /// The role of the tokens.
    #[arg(long, global = true, default_value = "authenticated")]
    role: String,
}

/// Measures and prints.
#[expect(clippy::print_stdout, reason = "the table is the command's output")]
pub async fn run(options: BenchOptions) -> Result<()> {
    open_files::raise(None);
    let report = tokio::task::spawn_blocking(move || walcast_load::run(&options.load, &options)).await??;
    println!("{report}");
    Ok(())
}

impl walcast_load::Tokens for BenchOptions {
    fn token(&self, subject: Option<&str>) -> Result<String> {
        match (&self.secret, &self.token, subject) {
            (Some(secret), _, _) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let mut claims = json!({
                    "role": self.role, "iat": now.as_secs(), "exp": (now + TOKEN_LIFETIME).as_secs(),
                });
                if let Some(subject) = subject {
                    claims["sub"] = json!(subject);
                }
                Ok(walcast_auth::sign(&claims, secret)?)
            }
            (None, Some(token), None) => Ok(token.clone()),
            (None, Some(_), Some(_)) => {
                bail!("this scenario has a user for each socket: give JWT_SECRET instead of --token")
            }
            (None, None, _) => bail!("walcast wants tokens: set JWT_SECRET (or --secret), or give --token"),
        }
    }
}
