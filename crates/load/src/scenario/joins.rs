//! How fast channels are joined: on sockets that are open, or, as after a restart, with sockets that are only now
//! opened.

use anyhow::Result;
use clap::Args;

use crate::bench::Bench;
use crate::figures::{Figures, Names, Watch};
use crate::protocol::Join;

const JOINS: Names = Names { count: "joins", rate: "joins_per_second" };
const OPENED: Names = Names { count: "opened", rate: "opened_per_second" };

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Sockets; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub(crate) sockets: Vec<usize>,
    /// Channels of each socket.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    channels: u16,
    /// Joins under way at a time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Private channels, as the policies of realtime.messages allow the token.
    #[arg(long)]
    private: bool,
    /// With the opening of the sockets in the time measured.
    #[arg(long)]
    reconnect: bool,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<Figures> {
        let mut figures = Figures::default();
        let opening = Watch::begin(bench.server);
        bench.open(sockets)?;
        if self.reconnect {
            opening.end().add_to(&mut figures, &OPENED, sockets as u64);
            figures =
                Figures(figures.0.into_iter().filter(|figure| figure.name.starts_with("opened")).collect());
        }
        let joining = if self.reconnect { opening } else { Watch::begin(bench.server) };
        let joins = (0..self.channels).flat_map(|channel| {
            (0..sockets).map(move |socket| {
                let topic = format!("bench-join-{channel}-{socket}");
                (socket, Join { topic, private: self.private, ..Join::default() })
            })
        });
        let latencies = bench.join_so_many(joins, usize::from(self.in_flight))?;
        joining.end().add_to(&mut figures, &JOINS, latencies.count());
        latencies.add_to(&mut figures);
        Ok(figures)
    }
}
