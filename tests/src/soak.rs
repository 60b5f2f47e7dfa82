//! A long day in minutes: sockets that come and go, rows, memberships, presence and tokens, and what the server holds
//! meanwhile. In reading order:
//!
//! * `world`: database and server, and the rows that are written;
//! * `visitor`: a socket that comes, does what sockets do, and goes;
//! * `readings`: what the server holds, and whether it is more than it was.

mod readings;
mod visitor;
mod world;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::readings::Reading;
use self::visitor::{Met, Tally, Visitor};
use self::world::SoakWorld;

/// How much, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Sockets that are there at any moment.
    pub sockets: u32,
    /// Rows that are written in a second.
    pub rows_per_second: u32,
    /// For how long.
    pub time: Duration,
    /// When the server is taken to be warm: what it holds then is what it may hold at the end.
    pub warm_after: Duration,
}

impl Default for Soak {
    fn default() -> Self {
        let minutes = Duration::from_mins;
        Soak { sockets: 2_000, rows_per_second: 2_000, time: minutes(30), warm_after: minutes(5) }
    }
}

impl Soak {
    /// Soaks, shows a line each minute, and says what is not as it was.
    pub async fn run(self, show: impl Fn(&str)) -> Result<Vec<String>> {
        let mut world = SoakWorld::start().await?;
        let before = world.read().await?;
        let heads = format!("| minute | {} | rows/s | {} |", Reading::HEADS, Met::HEADS);
        show(&heads);
        show(&format!("|{}", "---|".repeat(heads.split('|').count() - 2)));
        show(&format!("| idle | {before} | | | | | |"));

        let tally = Arc::new(Tally::default());
        let mut visitors = JoinSet::new();
        let began = Instant::now();
        let writing = world.write(self.rows_per_second);
        for number in 0..self.sockets {
            visitors.spawn(Visitor::new(number, &world.url(), Arc::clone(&tally)).stay());
            // 200 a second, as a server that was started again may see them come.
            sleep(Duration::from_millis(5)).await;
        }
        let mut minutes = Vec::new();
        let mut met = Met::default();
        let count = (self.time.as_secs() / 60).max(1);
        for minute in 1..=count {
            let mut readings = Vec::new();
            let rows = world.rows();
            while began.elapsed() < Duration::from_mins(minute) {
                sleep_until(Instant::now() + Duration::from_secs(5)).await;
                readings.push(world.read().await?);
            }
            let reading = Reading::middle(&readings);
            met = tally.take();
            let rows = (world.rows() - rows) / 60;
            show(&format!("| {minute} | {reading} | {rows} | {met} |"));
            minutes.push(reading);
        }
        writing.abort();
        visitors.shutdown().await;
        let warm = (self.warm_after.as_secs() / 60).clamp(1, count);
        let warm = minutes[usize::try_from(warm - 1)?];
        let mut wrong = minutes.last().map(|last| last.compared(&warm)).unwrap_or_default();
        wrong.extend(minutes.last().and_then(Reading::served));
        wrong.extend(met.served());
        let after = world.emptied(&before).await?;
        show(&format!("| all gone | {after} | | | | | |"));
        wrong.extend(after.left_behind(&before));
        wrong.extend(tally.strange());
        Ok(wrong)
    }
}
