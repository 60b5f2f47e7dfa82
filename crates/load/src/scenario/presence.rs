//! Members of topics that come and track themselves: how soon everybody sees everybody, and in how many bytes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use memchr::memmem;

use crate::bench::Bench;
use crate::figures::{Figures, Names, Watch};
use crate::options::seconds;
use crate::protocol::Join;

/// How long a view may stay wrong without a message.
const VIEW_DEADLINE: Duration = Duration::from_secs(15);
const MESSAGES: Names = Names { count: "messages", rate: "messages_per_second" };

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Members of all topics together; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub(crate) sockets: Vec<usize>,
    /// Members of one topic. Unset: all.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    topic_size: Option<u32>,
    /// In so much time they come, one after the other. Unset: as fast as they can.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    over: Duration,
    /// After all are there, members that go and come back, per second.
    #[arg(long, default_value_t = 0)]
    churn: u32,
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    churn_duration: Duration,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<Figures> {
        let size = self.topic_size.map_or(sockets, |size| size as usize).min(sockets).max(1);
        let topics = Topics { sockets, size };
        bench.open(sockets)?;
        let mut views = Views::new(&topics);
        let watch = Watch::begin(bench.server);
        let began = Instant::now();
        for socket in 0..sockets {
            let due = began + self.over.mul_f64(socket as f64 / sockets as f64);
            loop {
                let wait = due.saturating_duration_since(Instant::now());
                bench.swarm.poll(wait, &mut |message| views.take(message.socket, message.payload))?;
                if wait.is_zero() {
                    break;
                }
            }
            let join = Join { topic: topics.name(socket), presence: Some(key(socket)), ..Join::default() };
            bench.swarm.send(socket, |protocol, out| {
                protocol.join(out, &join, 0);
                protocol.track(out, &join.topic, r#"{"status":"online"}"#);
            })?;
            bench.progress.say(|| format!("presence: {socket} of {sockets} have joined"));
        }
        views.complete(bench, &topics)?;
        let complete = began.elapsed();
        let seen = watch.end();
        let mut figures = Figures::default();
        figures.add("all_seen_after_seconds", complete.as_secs_f64());
        views.add_to(&mut figures, &topics);
        if let Some(cpu) = seen.server_cpu {
            figures.add("server_cpu_us_per_member", cpu.as_secs_f64() * 1e6 / sockets as f64);
        }
        seen.add_to(&mut figures, &MESSAGES, views.messages);
        if self.churn > 0 {
            self.churn(bench, &topics, &mut views, &mut figures)?;
        }
        Ok(figures)
    }

    /// Members untrack and track again, one after another.
    fn churn(
        &self,
        bench: &mut Bench<'_>,
        topics: &Topics,
        views: &mut Views,
        figures: &mut Figures,
    ) -> Result<()> {
        let gap = 1.0 / f64::from(self.churn);
        let (began, before) = (Instant::now(), views.messages);
        let watch = Watch::begin(bench.server);
        let mut changes = 0_u32;
        while began.elapsed() < self.churn_duration {
            let due = began + Duration::from_secs_f64(gap * f64::from(changes));
            match due.checked_duration_since(Instant::now()) {
                Some(wait) if !wait.is_zero() => {
                    bench.swarm.poll(wait, &mut |message| views.take(message.socket, message.payload))?;
                }
                _ => {
                    // Goes at its first turn, comes back at the next.
                    let member = (changes / 2) as usize % topics.sockets;
                    let topic = topics.name(member);
                    bench.swarm.send(member, |protocol, out| match changes % 2 {
                        0 => protocol.untrack(out, &topic),
                        _ => protocol.track(out, &topic, r#"{"status":"back"}"#),
                    })?;
                    changes += 1;
                }
            }
        }
        if changes % 2 == 1 {
            let member = (changes / 2) as usize % topics.sockets;
            let topic = topics.name(member);
            bench.swarm.send(member, |protocol, out| protocol.track(out, &topic, r#"{"status":"back"}"#))?;
        }
        views.complete(bench, topics)?;
        let seen = watch.end();
        figures.add("churn_messages", (views.messages - before) as f64);
        if let Some(cpu) = seen.server_cpu {
            figures.add("churn_server_cpu_percent", cpu.as_secs_f64() / seen.elapsed.as_secs_f64() * 100.0);
        }
        Ok(())
    }
}

struct Topics {
    sockets: usize,
    size: usize,
}

impl Topics {
    fn name(&self, socket: usize) -> String {
        format!("bench-presence-{}", socket / self.size)
    }

    /// Those whom a socket must see.
    fn members(&self, socket: usize) -> std::ops::Range<usize> {
        let first = socket / self.size * self.size;
        first..(first + self.size).min(self.sockets)
    }

    /// How many diffs there are where each join is one, to those who have come and who comes.
    fn diffs_of_one_per_join(&self) -> u64 {
        let firsts = (0..self.sockets).step_by(self.size);
        firsts.map(|first| self.members(first).len() as u64).map(|members| members * (members + 1) / 2).sum()
    }
}

/// The key of a member, of a form that [`Views`] finds without parsing JSON.
fn key(socket: usize) -> String {
    format!("member{socket:08}")
}

/// Whom everybody sees.
struct Views {
    seen: Vec<Vec<bool>>,
    size: usize,
    messages: u64,
    diffs: Count,
    states: Count,
    single_join_bytes: Option<usize>,
}

/// Messages of one kind.
#[derive(Debug, Default, PartialEq)]
struct Count {
    messages: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, message: &[u8]) {
        self.messages += 1;
        self.bytes += message.len() as u64;
    }
}

impl Views {
    fn new(topics: &Topics) -> Self {
        Views {
            seen: vec![vec![false; topics.size]; topics.sockets],
            size: topics.size,
            messages: 0,
            diffs: Count::default(),
            states: Count::default(),
            single_join_bytes: None,
        }
    }

    fn take(&mut self, socket: usize, message: &[u8]) {
        let has = |part: &[u8]| memmem::find(&message[..message.len().min(200)], part).is_some();
        self.messages += 1;
        if has(b"\"presence_state\"") {
            self.states.add(message);
            self.seen[socket].fill(false);
            self.mark(socket, message, true);
        } else if has(b"\"presence_diff\"") {
            self.diffs.add(message);
            // Both are there, in either order; who changes stands in both, and is there.
            let (leaves, joins) = parts(message);
            self.mark(socket, leaves, false);
            if self.mark(socket, joins, true) == 1 && leaves.len() < 20 {
                self.single_join_bytes.get_or_insert(message.len());
            }
        }
    }

    fn mark(&mut self, socket: usize, part: &[u8], present: bool) -> usize {
        let mut count = 0;
        for place in memmem::find_iter(part, b"\"member") {
            let digits = part.get(place + 7..place + 15).and_then(|digits| std::str::from_utf8(digits).ok());
            if let Some(member) = digits.and_then(|digits| digits.parse::<usize>().ok()) {
                self.seen[socket][member % self.size] = present;
                count += 1;
            }
        }
        count
    }

    /// Adds what they have been told so far, beside what it were with a diff for each join, all as long as one that was seen.
    fn add_to(&self, figures: &mut Figures, topics: &Topics) {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let of_one_per_join = topics.diffs_of_one_per_join() as f64;
        figures.add("diffs", self.diffs.messages as f64);
        figures.add("diffs_of_one_per_join", of_one_per_join);
        figures.add("diff_mib", mib(self.diffs.bytes as f64));
        let single = self.single_join_bytes.unwrap_or_default() as f64;
        figures.add("diff_mib_of_one_per_join", mib(of_one_per_join * single));
        figures.add("states", self.states.messages as f64);
        figures.add("state_mib", mib(self.states.bytes as f64));
    }

    /// Waits until everybody sees everybody.
    fn complete(&mut self, bench: &mut Bench<'_>, topics: &Topics) -> Result<()> {
        let mut moved = Instant::now();
        loop {
            let wrong = (0..topics.sockets).find(|&socket| {
                self.seen[socket].iter().take(topics.members(socket).len()).any(|present| !present)
            });
            let Some(wrong) = wrong else {
                return Ok(());
            };
            let before = self.messages;
            bench
                .swarm
                .poll(Duration::from_millis(20), &mut |message| self.take(message.socket, message.payload))?;
            if self.messages > before {
                moved = Instant::now();
            }
            let (sees, of) =
                (self.seen[wrong].iter().filter(|present| **present).count(), topics.members(wrong).len());
            ensure!(
                moved.elapsed() < VIEW_DEADLINE,
                "socket {wrong} sees {sees} of {of} members, and nothing more comes"
            );
            bench.progress.say(|| format!("presence: socket {wrong} sees {sees} of {of} members"));
        }
    }
}

/// `leaves` and `joins` of a diff, whichever comes first.
fn parts(message: &[u8]) -> (&[u8], &[u8]) {
    let find = |name: &[u8]| memmem::find(message, name).unwrap_or(message.len());
    let (leaves, joins) = (find(b"\"leaves\":"), find(b"\"joins\":"));
    if leaves < joins {
        (&message[leaves..joins], &message[joins..])
    } else {
        (&message[leaves..], &message[joins..leaves])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_follows_states_and_diffs_in_either_order_of_their_parts() {
        let topics = Topics { sockets: 3, size: 3 };
        let mut views = Views::new(&topics);
        views.take(0, br#"["1",null,"realtime:t","presence_state",{"member00000001":{"metas":[{}]}}]"#);
        assert_eq!(views.seen[0], [false, true, false]);
        let diff = br#"[null,null,"realtime:t","presence_diff",{"joins":{"member00000000":{"metas":[{}]}},"leaves":{"member00000001":{"metas":[{}]}}}]"#;
        views.take(0, diff);
        assert_eq!(views.seen[0], [true, false, false]);
        let diff = br#"[null,null,"realtime:t","presence_diff",{"leaves":{"member00000000":{"metas":[{}]}},"joins":{"member00000000":{"metas":[{}]}}}]"#;
        views.take(0, diff);
        assert_eq!(views.seen[0], [true, false, false]);
        assert_eq!((views.states.messages, views.diffs.messages), (1, 2));
        assert_eq!(views.diffs.bytes, 2 * diff.len() as u64);
    }

    #[test]
    fn the_last_topic_may_have_fewer_members() {
        let topics = Topics { sockets: 7, size: 3 };
        assert_eq!(topics.members(6), 6..7);
        assert_eq!(topics.diffs_of_one_per_join(), 6 + 6 + 1);
    }
}
