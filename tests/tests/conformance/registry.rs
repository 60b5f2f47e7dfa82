//! Every case is a test, or stands in docs/compatibility.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// How many cases docs/protocol.md §15 has.
const CASES: u16 = 300;

const DIFFERENCES: &str = "### Cases with a difference";
const NOT_APPLICABLE: &str = "### Cases that do not apply";

/// The sources of this suite.
fn sources(folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else {
            found.push(fs::read_to_string(path)?);
        }
    }
    Ok(())
}

/// The number of each test of this suite, and its sentence.
fn tests() -> Result<BTreeMap<u16, String>> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), &mut found)?;
    let mut tests = BTreeMap::new();
    for (attribute, function) in found.iter().flat_map(|source| source.lines().zip(source.lines().skip(1))) {
        let Some(name) = function.trim_start_matches("async ").strip_prefix("fn case_") else { continue };
        ensure!(attribute.starts_with("#[tokio::test") || attribute == "#[test]", "case_{name} is no test");
        let name = name.split('(').next().unwrap_or_default();
        let (number, sentence) =
            name.split_once('_').with_context(|| format!("case_{name} has no sentence"))?;
        ensure!(number.len() == 3, "the number of case_{name} has three digits");
        let before = tests.insert(number.parse()?, sentence.to_owned());
        ensure!(before.is_none(), "two tests of case {number}");
    }
    Ok(tests)
}

/// The first cell of each row of the table below a heading of the page: the number of a case. Each has a reason.
fn listed(page: &str, heading: &str) -> Result<BTreeSet<u16>> {
    let (_, below) = page.split_once(heading).with_context(|| format!("no {heading}"))?;
    let section = below.split("\n#").next().unwrap_or_default();
    let mut numbers = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with('|')).skip(2) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let number = cells.next().unwrap_or_default();
        let number = number.parse().with_context(|| format!("{number} is no case: {row}"))?;
        ensure!(cells.clone().count() > 0 && cells.all(|cell| !cell.is_empty()), "without a reason: {row}");
        ensure!(numbers.insert(number), "case {number} is listed twice");
    }
    Ok(numbers)
}

#[test]
fn every_case_is_a_test_or_stands_in_the_compatibility_page() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let page = fs::read_to_string(page)?;
    let (tests, differences) = (tests()?, listed(&page, DIFFERENCES)?);
    let not_applicable = listed(&page, NOT_APPLICABLE)?;
    let mut missing = Vec::new();
    for number in 1..=CASES {
        match (tests.contains_key(&number), not_applicable.contains(&number)) {
            (false, false) => missing.push(number),
            (true, true) => {
                anyhow::bail!("case {number} is a test, and on the page as one that does not apply")
            }
            _ => {}
        }
    }
    ensure!(missing.is_empty(), "neither a test nor in docs/compatibility.md: {missing:?}");
    let known = 1..=CASES;
    let strange = tests.keys().chain(&not_applicable).find(|number| !known.contains(number));
    ensure!(strange.is_none(), "there is no case {strange:?}");
    let unproved: Vec<_> = differences.iter().filter(|number| !tests.contains_key(number)).collect();
    ensure!(unproved.is_empty(), "differences that no test shows: {unproved:?}");
    println!(
        "conformance: {CASES} cases: {} tests, {} listed as not applicable",
        tests.len(),
        not_applicable.len()
    );
    Ok(())
}
