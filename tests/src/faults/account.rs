//! What subscribers were told, held against the log: change by change, and in order.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::{Number, Value};
use walcast_wire::Position;

#[cfg(test)]
mod tests;

use super::subscriber::{Gap, Notes, Session};
use super::truth::{Change, Kind, Membership, Row, Truth};

/// How many of each kind of wrong are described.
const EXAMPLES: usize = 5;

/// What came of one scenario.
#[derive(Debug, Default)]
pub struct Figures {
    /// Changes that were committed.
    pub written: usize,
    /// Changes that were told, to all subscribers together.
    pub delivered: usize,
    /// Joins of all subscribers together.
    pub joins: usize,
    /// Not told to somebody who could see them, and no gap was told either.
    pub missing: usize,
    /// Not told, behind a told gap.
    pub excused: usize,
    /// Told to somebody who could not see them, never committed, or with other contents.
    pub forbidden: usize,
    /// Told before one that was committed earlier.
    pub out_of_order: usize,
    /// Told once more, to a subscriber that had named a position behind them.
    pub twice: usize,
    /// Told gaps, of all subscribers together.
    pub gaps: usize,
    /// How long it took, from the first row to the last subscriber's last.
    pub seconds: f64,
    /// What was wrong, the first few of each kind, for whoever has to mend it.
    pub examples: Vec<String>,
}

impl Figures {
    /// The heads of [`Display`](fmt::Display), for a table.
    pub const HEADS: &str =
        "rows written | delivered | joins | missing | forbidden | out of order | twice | gaps told | seconds";

    fn wrong(&mut self, count: fn(&mut Figures) -> &mut usize, example: impl FnOnce() -> String) {
        let counted = count(self);
        *counted += 1;
        if *counted <= EXAMPLES {
            self.examples.push(example());
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            written, delivered, joins, missing, forbidden, out_of_order, twice, gaps, seconds, ..
        } = self;
        write!(
            out,
            "{written} | {delivered} | {joins} | {missing} | {forbidden} | {out_of_order} | {twice} | {gaps} | {seconds:.0}"
        )
    }
}

/// Accounts for every change up to the mark that committed at `end`.
pub(super) fn account(all: &[Notes], truth: &Truth, end: u64) -> Figures {
    let mut figures = Figures { written: truth.behind(end), ..Figures::default() };
    for notes in all {
        Accountant { notes, truth, end, figures: &mut figures }.account();
    }
    figures
}

struct Accountant<'a> {
    notes: &'a Notes,
    truth: &'a Truth,
    end: u64,
    figures: &'a mut Figures,
}

/// Which changes a session owes, as places in the log: from the first to before the second.
#[derive(Clone, Copy, Debug)]
struct Owed {
    from: usize,
    to: usize,
}

impl Accountant<'_> {
    fn account(&mut self) {
        let owed = self.owed();
        let mut told = HashSet::new();
        for (number, (session, owed)) in self.notes.sessions.iter().zip(owed).enumerate() {
            self.figures.joins += 1;
            self.figures.delivered += session.got.len();
            for gap in session.gaps.iter().take(EXAMPLES.saturating_sub(self.figures.gaps)) {
                self.figures.examples.push(format!("{} was told: {}", self.who(number), gap.text));
            }
            self.figures.gaps += session.gaps.len();
            self.told(number, session, owed, &mut told);
            self.untold(number, session, owed);
        }
    }

    /// What each session owes: from behind what it was asked for, or where it went live, to where the next one goes on.
    fn owed(&self) -> Vec<Owed> {
        let mut places: HashMap<Position, usize> = HashMap::new();
        let mut starts = Vec::new();
        for session in &self.notes.sessions {
            let start = session.since.or(session.live_from).map(|position| {
                places
                    .get(&position)
                    .map_or_else(|| self.truth.behind(position.commit_lsn.0), |place| place + 1)
            });
            starts.push(start);
            for got in &session.got {
                if let Some(place) = self.truth.place(&got.key) {
                    places.insert(got.position, place);
                }
            }
        }
        let mut to = self.truth.behind(self.end);
        let mut owed: Vec<Owed> = starts
            .iter()
            .rev()
            .map(|start| {
                let from = start.unwrap_or(to).min(to);
                let owed = Owed { from, to };
                to = from;
                owed
            })
            .collect();
        owed.reverse();
        owed
    }

    /// Everything that was told must be owed, to this subscriber, and once.
    fn told(&mut self, number: usize, session: &Session, owed: Owed, told: &mut HashSet<usize>) {
        let mut last = None;
        for got in &session.got {
            let Some(place) = self.truth.place(&got.key) else {
                let who = self.who(number);
                self.figures.wrong(
                    |figures| &mut figures.forbidden,
                    || format!("{who} got what was never committed: {:?} at {}", got.key, got.position),
                );
                continue;
            };
            let change = &self.truth.changes[place];
            let says = || format!("{} got {:?} at {}", self.who(number), got.key, got.position);
            let fits = got.record.as_ref().is_none_or(|record| is_row(record, &change.row));
            if !self.sight(number, change, Some(got.at)).sometimes || !fits {
                let says = format!("{}: the row is {:?}", says(), change.row);
                self.figures.wrong(|figures| &mut figures.forbidden, || says);
            } else if place < owed.from || !told.insert(place) {
                let says =
                    format!("{}, although it had asked for what is behind {:?}", says(), session.since);
                self.figures.wrong(|figures| &mut figures.twice, || says);
            } else if last.is_some_and(|last| place < last) || change.commit_lsn != got.position.commit_lsn.0
            {
                let says = format!("{}, place {place}, behind {last:?}", says());
                self.figures.wrong(|figures| &mut figures.out_of_order, || says);
            }
            last = last.max(Some(place));
        }
    }

    /// Everything that is owed must be told.
    fn untold(&mut self, number: usize, session: &Session, owed: Owed) {
        let got: HashSet<usize> = session.got.iter().filter_map(|got| self.truth.place(&got.key)).collect();
        let excused = self.excused(session, owed);
        for place in owed.from..owed.to {
            let change = &self.truth.changes[place];
            let next = || session.got.iter().find(|got| got.position.commit_lsn.0 > change.commit_lsn);
            if got.contains(&place) || !self.sight(number, change, next().map(|got| got.at)).always {
                continue;
            }
            if excused.iter().any(|gap| (gap.from..gap.to).contains(&place)) {
                self.figures.excused += 1;
                continue;
            }
            let says = format!(
                "{} lacks {:?} of {:X}; since {:?}, live from {:?}, owed {owed:?}, place {place}",
                self.who(number),
                change.key,
                change.commit_lsn,
                session.since.map(|position| position.to_string()),
                session.live_from.map(|position| position.to_string())
            );
            self.figures.wrong(|figures| &mut figures.missing, || says);
        }
    }

    /// What may be missing, because a gap was told there: all before the session went live, or what is between the
    /// changes before and behind the message.
    fn excused(&self, session: &Session, owed: Owed) -> Vec<Owed> {
        let live_from = session.live_from.map(|position| self.truth.behind(position.commit_lsn.0));
        let place = |index: usize| session.got.get(index).and_then(|got| self.truth.place(&got.key));
        let gap = |gap: &Gap| match live_from {
            Some(live_from) if !gap.live => Owed { from: owed.from, to: live_from },
            _ => Owed {
                from: gap.before.checked_sub(1).and_then(place).unwrap_or(owed.from),
                to: place(gap.before).unwrap_or(owed.to),
            },
        };
        session.gaps.iter().map(gap).collect()
    }

    /// Whether the subscriber could see a change in one of its sessions, where what was told by `told_at` of what is not
    /// before it. What was live is judged by the memberships of the change; what was replayed, by those of some moment
    /// between it and the end of the replay, since either a copy of them was asked, as it stood then, or PostgreSQL
    /// itself. That is so behind a gap, too: what a copy has missed is not known, so PostgreSQL is asked until there is
    /// another one, and answers by the memberships of its present.
    fn sight(&self, number: usize, change: &Change, told_at: Option<i64>) -> Membership {
        // The old row of a DELETE is judged by the state before its transaction.
        let at = change.commit_lsn - u64::from(change.key.kind == Kind::Delete);
        let sessions = &self.notes.sessions;
        let live = sessions[number..].iter().find_map(|session| Some((session.live_from?, session.live_at)));
        let after_gap = sessions[..=number].iter().any(|session| !session.gaps.is_empty());
        let until = match live {
            Some((from, _)) if change.commit_lsn > from.commit_lsn.0 && after_gap => {
                told_at.map_or(self.end, |time| self.truth.at(time)).max(at)
            }
            Some((from, _)) if change.commit_lsn > from.commit_lsn.0 => at,
            Some((from, time)) => from.commit_lsn.0.max(self.truth.at(time)),
            None => self.end,
        };
        let sees = |pick: fn(Membership) -> bool| {
            self.notes.reader.sees(&change.key.table, &change.row, |room, person| {
                pick(self.truth.membership(room, person, at, until))
            })
        };
        Membership {
            sometimes: sees(|membership| membership.sometimes),
            always: sees(|membership| membership.always),
        }
    }

    fn who(&self, number: usize) -> String {
        format!("{:?}, session {number} of {},", self.notes.reader, self.notes.sessions.len())
    }
}

/// Whether a record of a message has the values of a row of the log.
fn is_row(record: &Value, row: &Row) -> bool {
    let Some(record) = record.as_object() else { return false };
    record.len() == row.len()
        && row.iter().all(|(column, value)| match (record.get(column), value) {
            (Some(Value::Null), None) => true,
            (Some(Value::String(told)), Some(value)) => told == value,
            (Some(Value::Number(told)), Some(value)) => {
                value.parse().is_ok_and(|value: Number| value == *told)
            }
            _ => false,
        })
}
