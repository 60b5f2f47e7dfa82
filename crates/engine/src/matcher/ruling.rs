//! Who gets one change: for each audience the filter, then the policies, and for an UPDATE the old row's policies
//! too. What is evaluated in process is evaluated here, and nowhere else; what only PostgreSQL can tell stays open.

use walcast_pgoutput::PgTimestamp;
use walcast_policy::{Moment, Verdict};
use walcast_wire::ChangeKind;

use super::audience::{AudienceKey, Sight, Slot, TableAudiences};
use super::copies::Copies;
use super::image::{BoundRelation, ChangeImages};
use super::judge::Judge;
use super::show;
use crate::settings::{Deletes, EngineSettings};

/// Who gets one change.
#[derive(Debug, Default)]
pub(super) struct Rulings {
    /// Those who do.
    pub(super) receivers: Vec<Receiver>,
    /// Those of whom PostgreSQL must tell.
    pub(super) open: Vec<Opinion>,
}

/// An audience that gets the change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) slot: Slot,
    /// Whether it could see the row as it was before.
    pub(super) old_visible: bool,
}

/// What is known of one audience and one change.
#[derive(Debug)]
pub(super) struct Opinion {
    pub(super) slot: Slot,
    pub(super) filter: Verdict,
    pub(super) policies: Verdict,
    /// The policies on the row as it was before.
    pub(super) before: Verdict,
}

/// A change, and what it is judged with.
pub(super) struct Ruling<'a> {
    pub(super) judge: &'a mut Judge,
    pub(super) copies: &'a Copies,
    pub(super) relation: &'a BoundRelation,
    pub(super) images: &'a ChangeImages<'a>,
    /// The transaction's commit time, which `now()` means.
    pub(super) now: PgTimestamp,
    pub(super) settings: &'a EngineSettings,
}

impl Rulings {
    pub(super) fn clear(&mut self) {
        self.receivers.clear();
        self.open.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.receivers.len() + self.open.len()
    }
}

impl Opinion {
    /// The same with PostgreSQL's answers in place of what it was asked: filter, policies, old row.
    pub(super) fn answered(&self, mut next_answer: impl FnMut() -> Verdict) -> Opinion {
        let mut answer = |verdict: &Verdict| match verdict {
            Verdict::Ask => next_answer(),
            known => known.clone(),
        };
        Opinion {
            slot: self.slot,
            filter: answer(&self.filter),
            policies: answer(&self.policies),
            before: answer(&self.before),
        }
    }

    fn is_open(&self) -> bool {
        [&self.filter, &self.policies, &self.before].contains(&&Verdict::Ask)
    }
}

impl Ruling<'_> {
    /// Adds to `rulings` who gets the change.
    pub(super) fn rule(&mut self, audiences: &TableAudiences, rulings: &mut Rulings) {
        let kind = self.images.kind;
        let concerned = if self.concerns_everybody() {
            audiences.all(kind)
        } else {
            audiences.candidates(kind, &self.sight())
        };
        let mut decided = 0;
        for slot in concerned {
            let Some(audience) = audiences.get(slot) else { continue };
            if show::error(self.relation, kind, audience.key.reads_key).is_some() {
                // It carries nothing of the row and goes to all (docs/protocol.md §4.4).
                rulings.receivers.push(Receiver { slot, old_visible: false });
                continue;
            }
            match self.opinion(slot, &audience.key) {
                Some(opinion) if opinion.is_open() => {
                    rulings.open.push(opinion);
                    continue;
                }
                Some(opinion) => {
                    rulings.receivers.extend(self.judge.conclude(&self.relation.table, &opinion));
                }
                None => {}
            }
            decided += 1;
        }
        self.judge.decided(decided);
    }

    /// What decides who gets the change. What a DELETE took away was for those who could see it before.
    fn sight(&self) -> Sight<'_> {
        let moment = match self.images.kind {
            ChangeKind::Delete => Moment::Before,
            ChangeKind::Insert | ChangeKind::Update => Moment::After,
        };
        Sight { row: self.images.judged(), now: self.now, members: self.copies.at(moment) }
    }

    /// What is known in process; `None` where the change is not for the audience.
    fn opinion(&mut self, slot: Slot, key: &AudienceKey) -> Option<Opinion> {
        let row = self.images.judged();
        let filter = key.filter.evaluate(row);
        if !self.judge.may_hold(&self.relation.table, &filter) {
            return None;
        }
        let policies = if self.is_unjudged() {
            Verdict::Visible
        } else {
            let Sight { row, now, members } = self.sight();
            key.plan.evaluate(row, now, members)
        };
        // A plan that fails counts only where the filter matches.
        let matches = filter == Verdict::Visible;
        if policies == Verdict::Hidden || matches && !self.judge.may_hold(&self.relation.table, &policies) {
            return None;
        }
        let before = match self.images.row_before() {
            Some(before) if matches!(policies, Verdict::Visible | Verdict::Ask) => {
                key.plan.evaluate(before, self.now, self.copies.at(Moment::Before))
            }
            _ => Verdict::Visible,
        };
        Some(Opinion { slot, filter, policies, before })
    }

    /// Whether the change is for every subscriber of the table, whatever their policies and filters say of it:
    /// an error row (docs/protocol.md §4.4), or a delete under `deletes = "compatible"`.
    fn concerns_everybody(&self) -> bool {
        match self.images.kind {
            ChangeKind::Delete => self.is_unjudged(),
            ChangeKind::Insert | ChangeKind::Update => !self.relation.table.has_primary_key(),
        }
    }

    fn is_unjudged(&self) -> bool {
        let ChangeImages { kind, old_is_full, .. } = self.images;
        *kind == ChangeKind::Delete && !old_is_full && self.settings.deletes == Deletes::Compatible
    }
}
