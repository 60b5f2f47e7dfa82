//! Everybody in a topic of their own and in a small room: each sends at a steady rate, to both in turn, and gets what it
//! sends. The moment of a message is that at which it was due, so that a server that holds up the sender is not
//! forgiven.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::bench::{ARRIVAL_DEADLINE, Bench};
use crate::figures::{DELIVERIES, Figures, Latencies, Watch, whole};
use crate::options::seconds;
use crate::protocol::Join;
use crate::search;
use crate::stamp;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Sockets; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "5000")]
    pub(crate) sockets: Vec<usize>,
    /// Members of a room.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    room_size: u16,
    /// Messages per second that each socket sends.
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// Bytes of a message's payload, a JSON object; at least 40.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Search for the highest rate whose 99th percentile stays below so many milliseconds, from --rate upwards.
    #[arg(long, value_name = "MILLISECONDS")]
    search_p99: Option<f64>,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<Figures> {
        bench.open(sockets)?;
        let rooms = Rooms { options: self, sockets };
        let join = |topic| Join { topic, echo: true, ..Join::default() };
        let joins = (0..sockets)
            .flat_map(|socket| [(socket, join(own_topic(socket))), (socket, join(rooms.room(socket)))]);
        bench.join(joins)?;
        match self.search_p99 {
            None => rooms.measure(bench, self.rate),
            Some(limit) => search::highest(self.rate, limit, |rate| rooms.measure(bench, rate)),
        }
    }
}

struct Rooms<'a> {
    options: &'a Options,
    sockets: usize,
}

impl Rooms<'_> {
    fn room(&self, socket: usize) -> String {
        format!("bench-room-{}", socket / usize::from(self.options.room_size))
    }

    /// Members of a socket's room; the last one may have fewer.
    fn members(&self, socket: usize) -> usize {
        let size = usize::from(self.options.room_size);
        size.min(self.sockets - socket / size * size)
    }

    /// Sends at a rate per socket.
    fn measure(&self, bench: &mut Bench<'_>, rate: f64) -> Result<Figures> {
        let total = whole(self.sockets as f64 * rate * self.options.duration.as_secs_f64());
        let gap = 1.0 / (self.sockets as f64 * rate);
        let mut latencies = Latencies::new()?;
        let stamps = stamp::Reader::default();
        let (mut sent, mut expected, mut moved) = (0_u64, 0_u64, Instant::now());
        let watch = Watch::begin(bench.server);
        let began = Instant::now();
        while sent < total || latencies.count() < expected {
            let mut wait = Duration::from_millis(50);
            while sent < total {
                let due = began + Duration::from_secs_f64(gap * sent as f64);
                if let Some(ahead) = due.checked_duration_since(Instant::now())
                    && !ahead.is_zero()
                {
                    wait = ahead;
                    break;
                }
                let socket = usize::try_from(sent % self.sockets as u64)?;
                let echo = (sent / self.sockets as u64).is_multiple_of(2);
                let topic = if echo { own_topic(socket) } else { self.room(socket) };
                expected += if echo { 1 } else { self.members(socket) as u64 };
                let payload = stamp::payload(stamp::at(due), self.options.payload_bytes);
                bench.swarm.send(socket, |protocol, out| protocol.publish(out, &topic, &payload))?;
                sent += 1;
                // What has come meanwhile is read in between, or it would look late.
                if sent.is_multiple_of(64) {
                    wait = Duration::ZERO;
                    break;
                }
            }
            let before = latencies.count();
            bench.swarm.poll(wait, &mut |message| {
                if let Some(at) = stamps.read(message.payload) {
                    latencies.record(message.at.saturating_sub(at));
                }
            })?;
            if latencies.count() > before || sent < total {
                moved = Instant::now();
            } else if moved.elapsed() > ARRIVAL_DEADLINE {
                bail!(
                    "of {expected} deliveries only {} came, and no other for {ARRIVAL_DEADLINE:?}",
                    latencies.count()
                );
            }
            bench.progress.say(|| format!("rooms at {rate:.2}/s each: {sent} of {total} sent"));
        }
        let mut figures = Figures::default();
        figures.add("rate_each", rate);
        figures.add("sent", sent as f64);
        watch.end().add_to(&mut figures, &DELIVERIES, latencies.count());
        latencies.add_to(&mut figures);
        Ok(figures)
    }
}

/// The topic in which a socket is alone.
fn own_topic(socket: usize) -> String {
    format!("bench-echo-{socket}")
}
