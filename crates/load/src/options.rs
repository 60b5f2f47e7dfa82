//! The command line of `walcast bench`.

use std::net::ToSocketAddrs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::process::Process;
use crate::protocol::Protocol;
use crate::scenario::{changes, fan_out, idle, joins, presence, rooms};
use crate::swarm::Target;

/// What `walcast bench` is asked.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What all scenarios have.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The server: host, port and, for other servers than walcast, the path.
    #[arg(long, global = true, default_value = "ws://127.0.0.1:4000")]
    url: String,
    /// What is spoken; `plain` and `socket-io` are for the servers under bench/peers.
    #[arg(long, global = true, value_enum, default_value = "v2")]
    protocol: Protocol,
    /// Addresses of this machine that the sockets come from (127.0.0.1, 127.0.0.2, …), for a server at 127.0.0.1.
    #[arg(long, global = true, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=250))]
    sources: u8,
    /// The server's process, for its CPU time and memory. Unset: whoever listens on the port, if that is on this machine.
    #[arg(long, global = true)]
    pid: Option<u32>,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum Scenario {
    /// One topic, one sender, everybody else receives.
    FanOut(fan_out::Options),
    /// Everybody in a topic of their own and in a small room, sending to both.
    Rooms(rooms::Options),
    /// Joined sockets that do nothing but send heartbeats: what they cost.
    Idle(idle::Options),
    /// How fast channels are joined.
    Joins(joins::Options),
    /// From an INSERT to the clients that may see its row.
    Changes(changes::Options),
    /// Members of topics that come, track themselves and go.
    Presence(presence::Options),
}

impl Common {
    pub(crate) fn target(&self) -> Result<(Target, String)> {
        let rest = self.url.strip_prefix("ws://").or_else(|| self.url.strip_prefix("http://")).with_context(
            || format!("--url must begin with ws:// (TLS is not spoken here), got {}", self.url),
        )?;
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) => (host, format!("/{path}")),
            None => (rest, String::new()),
        };
        let with_port = if host.rsplit_once(':').is_some() { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .with_context(|| format!("--url: {host} is no host"))?
            .next()
            .with_context(|| format!("--url: {host} has no address"))?;
        let base = path.trim_end_matches('/');
        let base = if base.is_empty() { self.protocol.usual_base() } else { base };
        let target =
            Target { address, host: host.to_owned(), protocol: self.protocol, sources: self.sources };
        Ok((target, base.to_owned()))
    }

    pub(crate) fn server(&self, target: &Target) -> Result<Option<Process>> {
        match self.pid.map(Process::new) {
            Some(process) => {
                ensure!(process.usage().is_some(), "--pid: there is no process {}", process.id());
                Ok(Some(process))
            }
            None if target.address.ip().is_loopback() => Ok(Process::listening_on(target.address.port())),
            None => Ok(None),
        }
    }

    pub(crate) fn only_walcast(&self, scenario: &str) -> Result<()> {
        if !self.protocol.is_walcast() {
            bail!("{scenario} is for walcast alone: --protocol v2 or v1");
        }
        Ok(())
    }
}

/// Seconds on the command line, fractions allowed.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("not a number of seconds: {text}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("not a length of time: {text}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Common {
        CommandLine::parse_from(line.split_whitespace()).options.common
    }

    #[test]
    fn an_address_without_a_path_is_walcasts_socket() {
        let (target, base) = parse("bench fan-out --url ws://127.0.0.1:4000").target().unwrap();
        assert_eq!((target.address.to_string(), base), ("127.0.0.1:4000".to_owned(), "/socket".to_owned()));
        let (_, base) = parse("bench idle --url http://127.0.0.1:4000/realtime/v1/").target().unwrap();
        assert_eq!(base, "/realtime/v1");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_its_reason() {
        let error = parse("bench idle --url wss://127.0.0.1").target().unwrap_err();
        assert!(error.to_string().contains("ws://"), "{error}");
    }

    #[test]
    fn only_walcast_has_row_changes() {
        assert!(
            parse("bench changes --database postgres:// --protocol plain").only_walcast("changes").is_err()
        );
    }
}
