//! What every scenario does first: open sockets and join channels.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::figures::Latencies;
use crate::process::Process;
use crate::progress::Progress;
use crate::protocol::{Answer, Join};
use crate::stamp;
use crate::swarm::Swarm;

/// How long joins may stand still.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long what has been sent may be on its way at the end of a run.
pub(crate) const ARRIVAL_DEADLINE: Duration = Duration::from_secs(10);
/// Joins under way at a time where their speed is not what is measured.
const JOINS_AT_A_TIME: usize = 200;

/// Gives tokens to sockets. Whoever calls this crate has the secrets.
pub trait Tokens {
    /// A token, for a user where a scenario needs several.
    fn token(&self, subject: Option<&str>) -> Result<String>;
}

/// Sockets, and what is known of their server.
pub(crate) struct Bench<'a> {
    pub(crate) swarm: Swarm,
    pub(crate) server: Option<Process>,
    pub(crate) progress: Progress,
    base: String,
    tokens: &'a dyn Tokens,
}

/// A channel to join on a socket.
pub(crate) type JoinOn = (usize, Join);

impl<'a> Bench<'a> {
    pub(crate) fn new(swarm: Swarm, server: Option<Process>, base: String, tokens: &'a dyn Tokens) -> Self {
        Bench { swarm, server, progress: Progress::new(), base, tokens }
    }

    /// Opens so many sockets with one token for all.
    pub(crate) fn open(&mut self, count: usize) -> Result<()> {
        let token = self.token(None)?;
        let path = self.swarm.protocol().path(&self.base, token.as_deref());
        self.open_with(count, &|_| Ok(path.clone()))
    }

    /// Opens so many sockets with a token for each, whose subject is that of its number.
    pub(crate) fn open_as(&mut self, count: usize, subject_of: &dyn Fn(usize) -> String) -> Result<()> {
        let (protocol, tokens, base) = (self.swarm.protocol(), self.tokens, self.base.clone());
        self.open_with(count, &|number| {
            let token = tokens.token(Some(&subject_of(number)))?;
            Ok(protocol.path(&base, Some(&token)))
        })
    }

    fn token(&self, subject: Option<&str>) -> Result<Option<String>> {
        self.swarm.protocol().is_walcast().then(|| self.tokens.token(subject)).transpose()
    }

    fn open_with(&mut self, count: usize, path_of: &dyn Fn(usize) -> Result<String>) -> Result<()> {
        let wanted = self.swarm.count() + count;
        let progress = &mut self.progress;
        self.swarm.open(count, path_of, &mut |open| progress.say(|| format!("opening: {open} of {wanted}")))
    }

    /// Joins channels whose joining is not what is measured, and waits until their row changes are subscribed to.
    pub(crate) fn join(&mut self, joins: impl IntoIterator<Item = JoinOn>) -> Result<Latencies> {
        self.join_so_many(joins, JOINS_AT_A_TIME)
    }

    /// Joins channels, so many under way at a time; tells how long each took.
    pub(crate) fn join_so_many(
        &mut self,
        joins: impl IntoIterator<Item = JoinOn>,
        at_a_time: usize,
    ) -> Result<Latencies> {
        let mut latencies = Latencies::new()?;
        let (mut sent, mut joined, mut wanted, mut subscribed) = (0, 0, 0, 0);
        let mut refused: Option<String> = None;
        let mut joins = joins.into_iter().peekable();
        let protocol = self.swarm.protocol();
        let stamps = stamp::Reader::default();
        let mut moved = Instant::now();
        while joins.peek().is_some() || joined < sent || subscribed < wanted {
            while sent - joined < at_a_time
                && let Some((socket, join)) = joins.next()
            {
                sent += 1;
                wanted += usize::from(join.table.is_some());
                self.swarm.send(socket, |protocol, out| protocol.join(out, &join, stamp::now()))?;
            }
            let before = joined + subscribed;
            self.swarm.poll(
                Duration::from_millis(100),
                &mut |message| match protocol.answer(message.payload) {
                    Some(Answer::Joined) => {
                        joined += 1;
                        if let Some(at) = stamps.read(message.payload) {
                            latencies.record(message.at.saturating_sub(at));
                        }
                    }
                    Some(Answer::Subscribed) => subscribed += 1,
                    Some(Answer::Refused) => {
                        refused.get_or_insert_with(|| String::from_utf8_lossy(message.payload).into_owned());
                    }
                    None => {}
                },
            )?;
            if let Some(refused) = &refused {
                bail!("a join is refused: {refused}");
            }
            if joined + subscribed > before {
                moved = Instant::now();
            }
            ensure!(
                moved.elapsed() < JOIN_DEADLINE,
                "{joined} of {sent} joins are answered, and no other was for {JOIN_DEADLINE:?}"
            );
            self.progress.say(|| format!("joining: {joined}"));
        }
        Ok(latencies)
    }
}
