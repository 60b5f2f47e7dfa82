//! `make soak`: sockets that come and go for half an hour, and what the server holds at the end.
//!
//! `soak [--minutes NUMBER] [--sockets NUMBER] [--rows NUMBER]`. Ends with 1 when it holds more than after five minutes.

#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use walcast_tests::soak::Soak;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    walcast::open_files::raise(None);
    let soak = arguments()?;
    println!(
        "{} sockets, {} rows a second, {} minutes",
        soak.sockets,
        soak.rows_per_second,
        soak.time.as_secs() / 60
    );
    let wrong = soak.run(|line| println!("{line}")).await?;
    for wrong in &wrong {
        println!("Not as it was: {wrong}");
    }
    if wrong.is_empty() {
        println!("memory, descriptors and tasks are where they were");
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn arguments() -> Result<Soak> {
    let mut soak = Soak::default();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let text = given.next().with_context(|| format!("{argument} needs a number"))?;
        let number =
            text.parse::<u32>().with_context(|| format!("{argument} needs a number, not {text:?}"))?;
        match argument.as_str() {
            "--minutes" => soak.time = Duration::from_mins(number.into()),
            "--sockets" => soak.sockets = number,
            "--rows" => soak.rows_per_second = number,
            _ => bail!("{argument} is no option: --minutes, --sockets, --rows"),
        }
    }
    Ok(soak)
}
