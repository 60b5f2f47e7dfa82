//! Who gets one change: for each audience the filter, then the policies, and for an UPDATE the old row's policies
//! too; where somebody wants to know of rows that leave and enter, both for both rows. What is evaluated in process is evaluated here, and nowhere else; what only PostgreSQL can tell stays open.

use walcast_pgoutput::PgTimestamp;
use walcast_policy::{Found, Moment, Verdict};
use walcast_wire::{BindingEvent, ChangeKind};

use super::audience::{AudienceKey, Sight, TableAudiences};
use super::copies::Copies;
use super::image::{BoundRelation, ChangeImages};
use super::judge::Judge;
use super::show;
use super::slots::Slot;
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
    /// What it is told: the change's own kind, or that the row came into sight or went out of it.
    pub(super) kind: ChangeKind,
    /// Whether it could see the row as it was before.
    pub(super) old_visible: bool,
}

/// What is known of one audience and one change.
#[derive(Debug)]
pub(super) struct Opinion {
    pub(super) slot: Slot,
    pub(super) kind: ChangeKind,
    /// Of the row that the change left, or that a DELETE took away.
    pub(super) after: Judgement,
    /// Of the row that an UPDATE found.
    pub(super) before: Judgement,
    /// Where both say together what the audience is told: the kinds it asks for. Otherwise the first says whether it
    /// is told, and the second what of the old row.
    pub(super) both: Option<BindingEvent>,
}

/// What is known of one audience and one image of a row.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) filter: Verdict,
    pub(super) policies: Verdict,
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
    /// What the index found by look-ups for the row, and for the one that an UPDATE found.
    pub(super) found: Found,
    pub(super) found_before: Found,
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
        let mut answered = |judgement: &Judgement| Judgement {
            filter: answer(&judgement.filter),
            policies: answer(&judgement.policies),
        };
        let (after, before) = (answered(&self.after), answered(&self.before));
        Opinion { after, before, ..*self }
    }

    fn is_open(&self) -> bool {
        [&self.after, &self.before]
            .into_iter()
            .any(|Judgement { filter, policies }| *filter == Verdict::Ask || *policies == Verdict::Ask)
    }

    /// Whether the audience may have to be told anything, whatever PostgreSQL answers.
    fn may_show(&self) -> bool {
        let may_be = |judgement: &Judgement, value| judgement.visible().is_none_or(|known| known == value);
        let shown = |(before, after)| {
            let kind = kind_shown(before, after);
            let wanted = kind.is_some_and(|kind| self.both.is_none_or(|event| event.includes(kind)));
            wanted && may_be(&self.before, before) && may_be(&self.after, after)
        };
        [(true, true), (true, false), (false, true)].into_iter().any(shown)
    }
}

impl Judgement {
    const VISIBLE: Judgement = Judgement { filter: Verdict::Visible, policies: Verdict::Visible };

    /// Whether the row is in sight; `None` where that is not known, or not yet.
    pub(super) fn visible(&self) -> Option<bool> {
        match (&self.filter, &self.policies) {
            (Verdict::Hidden, _) | (_, Verdict::Hidden) => Some(false),
            (Verdict::Visible, Verdict::Visible) => Some(true),
            _ => None,
        }
    }
}

/// What an UPDATE is to somebody in whose sight the row was or was not, and is or is not.
pub(super) fn kind_shown(before: bool, after: bool) -> Option<ChangeKind> {
    match (before, after) {
        (true, true) => Some(ChangeKind::Update),
        (false, true) => Some(ChangeKind::Insert),
        (true, false) => Some(ChangeKind::Delete),
        (false, false) => None,
    }
}

impl Ruling<'_> {
    /// Adds to `rulings` who gets the change.
    pub(super) fn rule(&mut self, audiences: &TableAudiences, rulings: &mut Rulings) {
        let kind = self.images.kind;
        let concerned = if self.concerns_everybody() {
            audiences.all(kind)
        } else {
            match self.sight_before().filter(|_| audiences.has_visibility()) {
                Some(before) => audiences.candidates_by_both(&before, &self.sight()),
                None => audiences.candidates(kind, &self.sight()),
            }
        };
        let mut decided = 0;
        for slot in concerned {
            let Some(audience) = audiences.get(slot) else { continue };
            if show::error(self.relation, kind, audience.key.reads_key).is_some() {
                // It carries nothing of the row and goes to all (docs/protocol.md §4.4).
                rulings.receivers.push(Receiver { slot, kind, old_visible: false });
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
        let members = self.copies.at(moment);
        Sight { row: self.images.judged(), now: self.now, members, found: &self.found }
    }

    /// The whole row as an UPDATE found it, and what decided then who could see it.
    fn sight_before(&self) -> Option<Sight<'_>> {
        let row = self.images.row_before()?;
        let members = self.copies.at(Moment::Before);
        Some(Sight { row, now: self.now, members, found: &self.found_before })
    }

    /// What is known in process; `None` where the change is not for the audience.
    fn opinion(&mut self, slot: Slot, key: &AudienceKey) -> Option<Opinion> {
        if key.visibility
            && let Some(before) = self.sight_before()
        {
            let (after, before) = (judgement(key, &self.sight()), judgement(key, &before));
            let opinion = Opinion { slot, kind: self.images.kind, after, before, both: Some(key.event) };
            return opinion.may_show().then_some(opinion);
        }
        let row = self.images.judged();
        let filter = key.filter.evaluate(row);
        if !self.judge.may_hold(&self.relation.table, &filter) {
            return None;
        }
        let policies = match self.is_unjudged() {
            // Not even that there was a row concerns those who may not read the table.
            true if key.plan.readable().contains(&true) => Verdict::Visible,
            true => Verdict::Hidden,
            false => {
                let Sight { row, now, members, found } = self.sight();
                key.plan.evaluate_with(row, now, members, Some(found))
            }
        };
        // A plan that fails counts only where the filter matches.
        let matches = filter == Verdict::Visible;
        if policies == Verdict::Hidden || matches && !self.judge.may_hold(&self.relation.table, &policies) {
            return None;
        }
        let before = match self.images.logged_before() {
            Some(before) if matches!(policies, Verdict::Visible | Verdict::Ask) => {
                let verdict = key.plan.evaluate(before, self.now, self.copies.at(Moment::Before));
                // An old key that does not decide is no failure: it is not shown, and that is all.
                let decides = self.images.old_is_full || matches!(verdict, Verdict::Visible | Verdict::Ask);
                Judgement {
                    filter: Verdict::Visible,
                    policies: if decides { verdict } else { Verdict::Hidden },
                }
            }
            _ => Judgement::VISIBLE,
        };
        let after = Judgement { filter, policies };
        Some(Opinion { slot, kind: self.images.kind, after, before, both: None })
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

/// What is known in process of one image; policies only count where the filter does not hide it.
fn judgement(key: &AudienceKey, sight: &Sight<'_>) -> Judgement {
    let filter = key.filter.evaluate(sight.row);
    let policies = match filter {
        Verdict::Hidden => Verdict::Hidden,
        _ => key.plan.evaluate_with(sight.row, sight.now, sight.members, Some(sight.found)),
    };
    Judgement { filter, policies }
}
