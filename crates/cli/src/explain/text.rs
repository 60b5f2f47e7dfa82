//! The answers for people.

use std::fmt::Write as _;

use super::{Answer, Decider, Explanation, Junction, Ruling, Says};
use crate::doctor::Colours;
use crate::doctor::wrapped;

/// Sentences are broken to this width.
const WIDTH: usize = 100;

impl Explanation {
    /// All answers.
    pub fn text(&self, colours: Colours) -> String {
        let mut out = format!("INSERT into {}.{}\n", self.schema, self.table);
        for remark in &self.remarks {
            indented(&mut out, remark);
        }
        for answer in &self.answers {
            answer.write(&mut out, colours);
        }
        out
    }
}

impl Answer {
    fn write(&self, out: &mut String, colours: Colours) {
        let verdict = if self.delivered {
            colours.paint("32", "gets it")
        } else {
            colours.paint("33", "does not get it")
        };
        // Writing to a String does not fail.
        let _ = writeln!(out, "\n{}\n  {verdict}", self.claims);
        indented(out, &self.because);
        let width = self.policies.iter().map(|one| one.policy.chars().count()).max().unwrap_or(0);
        for one in &self.policies {
            let kind = if one.permissive { "" } else { ", restrictive" };
            let _ = writeln!(out, "    {:<width$}  {}{kind}", one.policy, in_words(&one.ruling));
            for (index, clause) in one.clauses.iter().enumerate() {
                let joint = match one.joined_by {
                    _ if index == 0 => "",
                    Some(Junction::Or) => "or",
                    _ => "and",
                };
                let sql = clause.sql.split_whitespace().collect::<Vec<_>>().join(" ");
                let _ = writeln!(out, "      {joint:<3} {sql}: {}", in_words(&clause.ruling));
            }
        }
        if self.delivered && !self.hidden_columns.is_empty() {
            indented(
                out,
                &format!(
                    "without the columns {}, which the role may not read",
                    self.hidden_columns.join(", ")
                ),
            );
        }
    }
}

/// What was found out, and how.
fn in_words(ruling: &Ruling) -> String {
    let says = match &ruling.says {
        Says::Yes => "yes".to_owned(),
        Says::No => "no".to_owned(),
        Says::Raises(error) => format!("raises {error}"),
        Says::Undecided(_) => "undecided".to_owned(),
    };
    match (ruling.decided_by, ruling.looked_up.as_slice()) {
        (Decider::Oracle, _) => format!("{says}, asked PostgreSQL"),
        (Decider::Process, []) => format!("{says}, in process"),
        (Decider::Process, tables) => format!("{says}, in process, looked up in {}", tables.join(", ")),
    }
}

fn indented(out: &mut String, sentence: &str) {
    for line in wrapped(sentence, WIDTH - 2) {
        let _ = writeln!(out, "  {line}");
    }
}
