//! The answers for people.

use std::fmt::Write as _;

use super::{Answer, Decider, Explanation, Says};
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
            let says = match &one.says {
                Says::Yes => "yes",
                Says::No => "no",
                Says::Undecided(_) => "undecided",
            };
            let decided_by = match one.decided_by {
                Decider::Process => "in process",
                Decider::Oracle => "by PostgreSQL",
            };
            let kind = if one.permissive { "" } else { ", restrictive" };
            let _ = writeln!(out, "    {:<width$}  {says}, {decided_by}{kind}", one.policy);
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

fn indented(out: &mut String, sentence: &str) {
    for line in wrapped(sentence, WIDTH - 2) {
        let _ = writeln!(out, "  {line}");
    }
}
