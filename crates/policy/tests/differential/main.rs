//! Plans and filters against PostgreSQL itself: the same expressions over the same rows, decided by both.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod cases;
mod dice;
mod expressions;
mod filters;
mod generator;
mod harness;
mod look_ups;
mod mirror;
mod operators;
mod world;

use std::fmt::Write as _;

use dice::Dice;
use harness::{Decision, Harness};
use look_ups::{Stage, Tally};
use walcast_policy::Verdict;
use world::World;

/// The first difference of each expression.
fn report(differences: &[&Decision]) -> String {
    let mut text = format!("{} differences", differences.len());
    let mut last = "";
    for one in differences {
        if one.expression != last {
            let Decision { expression, row, claims, plan, postgres, .. } = one;
            let _ =
                write!(text, "\n  {expression}\n    row {row}, claims {claims}: {plan:?}, but {postgres:?}");
            last = expression;
        }
    }
    text
}

fn owned(lists: &[&[&str]]) -> Vec<String> {
    lists.iter().copied().flatten().map(|expression| (*expression).to_owned()).collect()
}

#[tokio::test]
async fn expressions_decided_in_process_are_decided_as_postgres_decides() {
    let harness = Harness::start("policy_expressions").await;
    let (decisions, refused) =
        harness.decide(&owned(&[expressions::IN_PROCESS, operators::IN_PROCESS])).await;
    assert!(refused.is_empty(), "not valid: {refused:#?}");
    let differences: Vec<&Decision> = decisions.iter().filter(|one| !one.agrees()).collect();
    assert!(differences.is_empty(), "{}", report(&differences));
    let open: Vec<&Decision> = decisions.iter().filter(|one| one.plan == Verdict::Ask || one.left).collect();
    assert!(open.is_empty(), "left to PostgreSQL: {}", report(&open));
}

#[tokio::test]
async fn expressions_with_uncertain_values_ask_only_for_those() {
    let harness = Harness::start("policy_uncertain").await;
    let uncertain = harness.known(owned(&[expressions::SOMETIMES_ASKING, operators::SOMETIMES_ASKING])).await;
    let (decisions, refused) = harness.decide(&uncertain).await;
    assert!(refused.is_empty(), "not valid: {refused:#?}");
    let differences: Vec<&Decision> = decisions.iter().filter(|one| !one.agrees() || one.left).collect();
    assert!(differences.is_empty(), "{}", report(&differences));
    for expression in &uncertain {
        let asked = |asked: bool| {
            decisions.iter().any(|one| one.expression == *expression && (one.plan == Verdict::Ask) == asked)
        };
        assert!(asked(true) && asked(false), "{expression} is always or never asked about");
    }
}

#[tokio::test]
async fn expressions_with_another_meaning_are_left_to_postgres() {
    let harness = Harness::start("policy_left").await;
    let (decisions, refused) = harness.decide(&harness.known(owned(&[expressions::LEFT])).await).await;
    assert!(refused.is_empty(), "not valid: {refused:#?}");
    let wrong: Vec<&Decision> = decisions.iter().filter(|one| !one.agrees() || !one.left).collect();
    assert!(wrong.is_empty(), "{}", report(&wrong));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// `POLICY_SEED` repeats a run, `POLICY_DECISIONS` sets how long it is.
#[tokio::test]
async fn random_expressions_are_decided_as_postgres_decides() {
    let (seed, wanted) = (number("POLICY_SEED", 20_240_229), number("POLICY_DECISIONS", 3_000));
    println!("POLICY_SEED={seed} POLICY_DECISIONS={wanted}");
    let harness = Harness::start("policy_random").await;
    let mut generator = generator::Generator::new(seed);
    let (mut decided, mut asked) = (0u64, 0u64);
    while decided < wanted {
        let expressions: Vec<String> = (0..50).map(|_| generator.condition(3)).collect();
        let (decisions, refused) = harness.decide(&expressions).await;
        assert!(refused.is_empty(), "the generator made what is not valid: {refused:#?}");
        let differences: Vec<&Decision> = decisions.iter().filter(|one| !one.agrees()).collect();
        assert!(differences.is_empty(), "seed {seed}: {}", report(&differences));
        decided += decisions.len() as u64;
        asked += decisions.iter().filter(|one| one.plan == Verdict::Ask).count() as u64;
    }
    println!("{decided} decisions, {asked} of them left to PostgreSQL");
    assert!(asked * 2 < decided, "more than half of the decisions are left to PostgreSQL");
}

#[tokio::test]
async fn known_policies_with_look_ups_are_decided_as_postgres_decides() {
    let stage = Stage::start("policy_cases").await;
    let mut wrong = Vec::new();
    for (name, sql, expected) in cases::CASES {
        let mut scene = stage.scene(&format!("{}{sql};", cases::SETTING)).await;
        scene.compare(None).await;
        if scene.decided() != *expected {
            wrong.push(format!("{name}: {:?}", scene.decided()));
        }
        wrong.extend(scene.differences.iter().take(1).map(|one| format!("{name}: {one}")));
        stage.clear().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// As for expressions; `POLICY_WORLD` repeats a single world of a seed.
#[tokio::test]
async fn random_policies_with_look_ups_are_decided_as_postgres_decides() {
    let (seed, wanted) = (number("POLICY_SEED", 20_240_229), number("POLICY_DECISIONS", 10_000));
    let only = std::env::var("POLICY_WORLD").ok().map(|text| text.parse::<u64>().expect("a number"));
    println!("POLICY_SEED={seed} POLICY_DECISIONS={wanted}");
    let stage = Stage::start("policy_look_ups").await;
    let mut total = Tally::default();
    let mut worlds = 0;
    for world in only.map_or(0..u64::MAX, |only| only..only + 1) {
        if total.decisions >= wanted {
            break;
        }
        let tally = judge(&stage, seed, world).await;
        total.add(&tally);
        worlds += 1;
    }
    let Tally { decisions, asked, visible, raised } = total;
    println!(
        "{worlds} worlds, {decisions} decisions, {asked} of them left to PostgreSQL, {visible} visible, {raised} errors"
    );
    assert!(asked * 2 < decisions, "more than half of the decisions are left to PostgreSQL");
}

/// Compares all decisions in a world, then twice again after a transaction.
async fn judge(stage: &Stage, seed: u64, number: u64) -> Tally {
    let mut dice = Dice::new(seed, number);
    let world = World::draw(&mut dice);
    let mut scene = stage.scene(&world.sql).await;
    let mut statements = Vec::new();
    scene.compare(None).await;
    for _ in 0..2 {
        if !scene.differences.is_empty() {
            break;
        }
        let before = scene.rows.clone();
        statements.extend(mirror::change(&mut scene, &world, &mut dice).await);
        scene.compare(Some(&before)).await;
    }
    let (differences, tally) = (std::mem::take(&mut scene.differences), std::mem::take(&mut scene.tally));
    stage.clear().await;
    let texts: Vec<&str> = differences.iter().take(3).map(String::as_str).collect();
    assert!(
        differences.is_empty(),
        "POLICY_SEED={seed} POLICY_WORLD={number}: {} differences\n{}\n\n{}\nchanges:\n{}",
        differences.len(),
        texts.join("\n"),
        world.sql,
        statements.join(";\n")
    );
    tally
}
