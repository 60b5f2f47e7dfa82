//! Random policies on `realtime.messages`, random requests: the compiled answer is PostgreSQL's.

use futures_util::future::join_all;
use serde_json::{Value, json};
use walcast_catalog::channels::ChannelAction::{Read, Write};
use walcast_policy::Oracle as _;
use walcast_policy::channel::{ChannelPolicyError, ChannelRights};

use crate::channels::{BOTH, installed, request};

/// Sets of policies, and requests for each.
const ROUNDS: usize = 60;
const REQUESTS: usize = 8;

/// xorshift64*, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.roll(all.len())]
    }
}

/// Conditions as they are found in the wild, some of which raise for some requests and some of which only
/// PostgreSQL decides.
const CONDITIONS: [&str; 24] = [
    "true",
    "false",
    "realtime.topic() = 'room:1'",
    "(SELECT realtime.topic()) = topic",
    "(SELECT realtime.topic()) LIKE 'room:%'",
    "realtime.topic() = 'user:' || (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')",
    "split_part(realtime.topic(), ':', 2) = current_setting('request.jwt.claim.sub', true)",
    "realtime.topic() IS NULL",
    "extension = 'broadcast'",
    "realtime.messages.extension IN ('broadcast', 'presence')",
    "extension IN ('presence')",
    "(current_setting('request.headers', true)::json ->> 'x-key') = 'open'",
    "coalesce(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-key', 'open') = 'open'",
    "current_setting('realtime.topic') <> 'room:2'",
    "event IS NULL AND payload IS NULL",
    "private",
    "private IS FALSE",
    "inserted_at > (now() AT TIME ZONE 'UTC') - interval '1 hour'",
    "inserted_at = updated_at",
    "split_part(topic, ':', 2)::int < 2",
    "current_setting('request.jwt.claim.role', true) = 'member'",
    "(current_setting('request.jwt.claims')::jsonb -> 'rooms') ? realtime.topic()",
    "id IS NOT NULL",
    "EXISTS (SELECT FROM rooms WHERE rooms.topic = realtime.topic())",
];

fn condition(dice: &mut Dice, depth: usize) -> String {
    match if depth == 0 { 0 } else { dice.roll(5) } {
        1 => format!("({} AND {})", condition(dice, depth - 1), condition(dice, depth - 1)),
        2 => format!("({} OR {})", condition(dice, depth - 1), condition(dice, depth - 1)),
        3 => format!("(NOT {})", condition(dice, depth - 1)),
        _ => format!("({})", dice.pick(&CONDITIONS)),
    }
}

fn policy(dice: &mut Dice, number: usize) -> String {
    let kind = dice.pick(&["PERMISSIVE", "PERMISSIVE", "PERMISSIVE", "RESTRICTIVE"]);
    let role = dice.pick(&["PUBLIC", ":role", ":role", ":role_team", ":role_other"]);
    let first = condition(dice, 2);
    let rules = match dice.roll(4) {
        0 => format!("FOR SELECT TO {role} USING {first}"),
        1 => format!("FOR INSERT TO {role} WITH CHECK {first}"),
        2 => format!("FOR ALL TO {role} USING {first}"),
        _ => format!("FOR ALL TO {role} USING {first} WITH CHECK {}", condition(dice, 2)),
    };
    format!("CREATE POLICY p{number} ON realtime.messages AS {kind} {rules};")
}

fn claims(dice: &mut Dice) -> Value {
    let mut claims = json!({"role": dice.pick(&["member", "guest"])});
    if dice.roll(4) > 0 {
        claims["sub"] = json!(dice.pick(&["1", "2", "ana"]));
    }
    if dice.roll(2) > 0 {
        claims["rooms"] = json!(["room:1", "user:ana"]);
    }
    claims
}

#[tokio::test]
async fn random_policies_allow_what_postgres_allows() {
    let (fixture, catalog) = installed(
        "channel_differential",
        "CREATE ROLE :role_team; CREATE ROLE :role_other; GRANT :role_team TO :role;
         CREATE TABLE rooms (topic text PRIMARY KEY); INSERT INTO rooms VALUES ('room:1'); GRANT SELECT ON rooms TO :role",
    )
    .await;
    let seed = u64::from(std::process::id()) << 20 | 1;
    let mut dice = Dice(seed);
    let (mut compiled, mut compared, mut granted) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let policies: Vec<String> = (0..=dice.roll(4)).map(|number| policy(&mut dice, number)).collect();
        fixture.run(&policies.concat()).await;
        catalog.refresh().await.unwrap();
        let mut singly = Vec::new();
        for _ in 0..REQUESTS {
            let headers = dice.pick(&["{}", r#"{"x-key":"open"}"#, r#"{"x-key":"shut"}"#, "no json"]);
            let topic = dice.pick(&["room:1", "room:2", "user:ana", "user:1", "odd"]);
            let mut asks = request(&fixture.role, &claims(&mut dice), topic, &json!({}));
            asks.headers = headers.into();
            for action in [Read, Write] {
                compared += 1;
                let in_process = catalog.channel_rights_in_process(action, &asks, &BOTH).await.unwrap();
                let answer = catalog.channel_rights_by_asking(action, &asks, &BOTH).await;
                singly.push((action, asks.clone(), answer.clone()));
                let Some(in_process) = in_process else { continue };
                compiled += 1;
                let asked = match answer {
                    Err(ChannelPolicyError::Policy(_)) => ChannelRights::default(),
                    asked => asked.unwrap(),
                };
                granted += usize::from(asked.broadcast) + usize::from(asked.presence);
                assert_eq!(
                    in_process,
                    asked,
                    "seed {seed}: {action:?} of {asks:?} under\n{}",
                    policies.join("\n")
                );
            }
        }
        // All at the same moment, over as few connections as that takes: the answers are the same.
        let at_once =
            singly.iter().map(|(action, asks, _)| catalog.channel_rights_by_asking(*action, asks, &BOTH));
        for (together, (action, asks, alone)) in join_all(at_once).await.into_iter().zip(&singly) {
            assert_eq!(
                together,
                *alone,
                "seed {seed}: {action:?} of {asks:?} together with others under\n{}",
                policies.join("\n")
            );
        }
        let dropped: Vec<String> = (0..policies.len())
            .map(|number| format!("DROP POLICY p{number} ON realtime.messages;"))
            .collect();
        fixture.run(&dropped.concat()).await;
    }
    assert!(compiled * 2 > compared, "only {compiled} of {compared} answers were compiled");
    assert!(granted > 0, "nothing was ever granted");
    fixture.run("DROP OWNED BY :role_team, :role_other; DROP ROLE :role_team, :role_other").await;
}
