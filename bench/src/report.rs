//! What is printed: on which machine, a line per case, and what the lines leave out.

use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::case::{Bench, Effort, Measured};

/// Below this, the memory of a subscription drowns in that of everything else.
const SUBSCRIBERS_FOR_MEMORY: u64 = 10_000;
/// Below this, the memory of a copied table drowns in what the first join takes in any case.
const COPIED_BYTES_MIN: u64 = 10_000_000;

const COLUMNS: [(&str, usize); 10] = [
    ("scenario", 21),
    ("N", 8),
    ("batch", 6),
    ("recvlogical/s", 14),
    ("walcast/s", 11),
    ("ratio", 7),
    ("of rounds", 12),
    ("deliveries", 11),
    ("CPU us/row", 11),
    ("bytes/sub", 10),
];

/// Machine and versions, and the columns' names.
pub async fn header(out: &mut impl Write, bench: &Bench, effort: Effort) -> Result<()> {
    let client = bench.cluster.client("postgres").await?;
    let row = client.query_one("select current_setting('server_version')", &[]).await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(out, "Row-level security at the speed of the log")?;
    writeln!(
        out,
        "One machine of {cores} cores ({}) for PostgreSQL, walcast and pg_recvlogical together.",
        processor()
    )?;
    writeln!(
        out,
        "PostgreSQL {}; {}; walcast {} ({}).",
        row.get::<_, &str>(0),
        bench.recvlogical.version,
        env!("CARGO_PKG_VERSION"),
        revision()
    )?;
    writeln!(
        out,
        "Both drain the same log from a slot made before the rows, in turn, {} rounds; medians of rows per second.",
        effort.rounds
    )?;
    writeln!(out, "walcast decides for N subscribers and hands frames to sinks; pg_recvlogical discards.")?;
    if cfg!(debug_assertions) {
        writeln!(out, "NOT A RELEASE BUILD: the numbers mean nothing.")?;
    }
    let names = COLUMNS.map(|(name, _)| name.to_owned());
    writeln!(out, "\n{}", line(&names))?;
    out.flush()?;
    Ok(())
}

/// The line of a case.
pub fn case(out: &mut impl Write, measured: &Measured) -> io::Result<()> {
    let Measured { case, last, cpu_per_row, .. } = measured;
    let (low, high) = measured.ratio_range();
    let mark = match (last.complete, last.failures) {
        (_, 1..) => "!",
        (false, 0) => "*",
        (true, 0) => "",
    };
    let bytes = last.subscription_bytes.filter(|_| case.subscribers >= SUBSCRIBERS_FOR_MEMORY);
    let cells = [
        case.scenario.title().to_owned(),
        grouped(case.subscribers),
        case.batch.to_string(),
        rate(measured.recvlogical_rate()),
        format!("{}{mark}", rate(measured.walcast_rate())),
        format!("{:.3}", measured.ratio()),
        format!("{low:.2} – {high:.2}"),
        grouped(last.deliveries),
        cpu_per_row.map_or("–".to_owned(), |cpu| format!("{:.1}", cpu.as_secs_f64() * 1e6)),
        bytes.map_or("–".to_owned(), |bytes| format!("{bytes:.0}")),
    ];
    writeln!(out, "{}", line(&cells))?;
    out.flush()
}

/// What the marks mean, and what only some cases have: questions to PostgreSQL, copies of tables.
pub fn footer(out: &mut impl Write, all: &[Measured], limit: Duration) -> io::Result<()> {
    writeln!(out)?;
    if all.iter().any(|measured| !measured.last.complete) {
        writeln!(
            out,
            "* stopped after {} s; the rate is that of the rows handled until then.",
            limit.as_secs()
        )?;
    }
    if all.iter().any(|measured| measured.last.failures > 0) {
        writeln!(out, "! decisions failed and rows were withheld: the rate counts for nothing.")?;
    }
    writeln!(
        out,
        "bytes/sub: resident memory of a join beyond its open session and token, from {} subscribers on.",
        grouped(SUBSCRIBERS_FOR_MEMORY)
    )?;
    for measured in all {
        let name = format!(
            "{}, N = {}, batch {}",
            measured.case.scenario.title(),
            grouped(measured.case.subscribers),
            measured.case.batch
        );
        if let Some(counted) = &measured.counted {
            let rows = counted.rows.max(1) as f64;
            writeln!(
                out,
                "{name}: {} rows asked PostgreSQL {} questions; counted separately: {:.2} questions and {:.1} round trips per row.",
                grouped(measured.last.rows),
                grouped(measured.last.questions),
                counted.questions as f64 / rows,
                counted.round_trips.unwrap_or_default() as f64 / rows,
            )?;
        }
        let raw = measured.case.scenario.looked_up_bytes(measured.case.subscribers);
        if let (Some(raw), Some(taken)) = (raw, measured.last.first_join_bytes)
            && raw >= COPIED_BYTES_MIN
            && measured.last.questions == 0
        {
            writeln!(
                out,
                "{name}: the first join took {:.1} MB, {:.2} times the {:.1} MB of the columns that the policy looks up.",
                taken as f64 / 1e6,
                taken as f64 / raw as f64,
                raw as f64 / 1e6,
            )?;
        }
    }
    out.flush()
}

/// The first column to the left, the others to the right.
fn line(cells: &[String; COLUMNS.len()]) -> String {
    let padded = cells.iter().zip(COLUMNS).enumerate();
    padded
        .map(|(index, (cell, (_, width)))| match index {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        })
        .collect()
}

/// Rows per second.
fn rate(rows: f64) -> String {
    if rows < 10.0 { format!("{rows:.1}") } else { grouped(rows) }
}

/// A number without a sign and without its fraction, with commas between thousands.
fn grouped(number: impl std::fmt::Display) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn processor() -> String {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The commit that this was built from, if the sources are still there.
fn revision() -> String {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or("no revision".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(grouped(51_234.6), "51,235");
    }
}
