//! The table, one column for each number of sockets, and the same as JSON.

use serde_json::{Map, Value, json};

use crate::figures::Figures;

/// What was measured with one number of sockets.
pub struct Run {
    /// The number.
    pub sockets: usize,
    /// What came of it.
    pub figures: Figures,
}

/// A table of runs.
pub fn table(title: &str, runs: &[Run]) -> String {
    let names =
        runs.first().map_or_else(Vec::new, |run| run.figures.0.iter().map(|figure| figure.name).collect());
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0).max("sockets".len());
    let mut lines = vec![title.to_owned(), String::new()];
    let line = |name: &str, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>14}")).collect();
        format!("{:<width$}{}", name.replace('_', " "), cells.concat())
    };
    lines.push(line("sockets", runs.iter().map(|run| grouped(run.sockets as f64)).collect()));
    for name in names {
        let cell = |run: &Run| run.figures.get(name).map_or_else(|| "–".to_owned(), number);
        lines.push(line(name, runs.iter().map(cell).collect()));
    }
    lines.join("\n")
}

/// The runs as JSON.
pub fn json(scenario: &str, protocol: &str, runs: &[Run]) -> Value {
    let run = |run: &Run| {
        let mut object = Map::new();
        object.insert("sockets".to_owned(), json!(run.sockets));
        for figure in &run.figures.0 {
            object.insert(figure.name.to_owned(), json!(figure.value));
        }
        Value::Object(object)
    };
    json!({ "scenario": scenario, "protocol": protocol, "runs": runs.iter().map(run).collect::<Vec<_>>() })
}

/// A number with as many digits as are worth reading.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.3}"),
        ..1_000.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// A number without its fraction, with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let sign = if value < 0.0 { "-" } else { "" };
    let first = (digits.len() - 1) % 3 + 1;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| format!(",{}", String::from_utf8_lossy(group)));
    format!("{sign}{head}{}", groups.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_is_worth_reading() {
        let numbers = [0.0, 0.01234, 5.6789, 123.45, 999.96, 1_234_567.8];
        assert_eq!(numbers.map(number), ["0", "0.0123", "5.679", "123.5", "1000.0", "1,234,568"]);
        assert_eq!([7.0, 100.0, 1_000.0].map(grouped), ["7", "100", "1,000"]);
    }

    #[test]
    fn every_run_is_a_column_and_an_object() {
        let runs = [100, 5_000].map(|sockets| {
            let mut figures = Figures::default();
            figures.add("p99_ms", 1.5);
            Run { sockets, figures }
        });
        let text = table("fan-out", &runs);
        assert!(text.lines().any(|line| line.split_whitespace().eq(["sockets", "100", "5,000"])), "{text}");
        assert!(
            text.lines().any(|line| line.split_whitespace().eq(["p99", "ms", "1.500", "1.500"])),
            "{text}"
        );
        assert_eq!(json("fan-out", "v2", &runs)["runs"][1], json!({ "sockets": 5_000, "p99_ms": 1.5 }));
    }
}
