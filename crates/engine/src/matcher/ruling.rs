//! Who gets one change: filters first, then policies, and for an UPDATE the old row's policies too.

use walcast_pgoutput::PgTimestamp;
use walcast_wire::ChangeKind;

use super::audience::{Audience, AudienceKey};
use super::image::{BoundRelation, ChangeImages};
use super::judge::{Case, Exhibit, Judge};
use super::show::Bodies;
use crate::settings::{Deletes, EngineSettings};

/// Who gets one change.
pub(super) struct Ruling<'a> {
    pub(super) judge: &'a mut Judge,
    pub(super) relation: &'a BoundRelation,
    pub(super) images: &'a ChangeImages<'a>,
    pub(super) now: PgTimestamp,
    pub(super) settings: &'a EngineSettings,
}

impl Ruling<'_> {
    /// The audiences that get the change, and whether each could see the row as it was before.
    pub(super) async fn receivers<'k>(
        &mut self,
        concerned: &[&'k Audience],
        bodies: &Bodies<'_>,
    ) -> Vec<(&'k Audience, bool)> {
        // Error rows carry nothing of the row and go to all (docs/protocol.md §4.4).
        let (errors, rows): (Vec<_>, Vec<_>) =
            concerned.iter().copied().partition(|one| bodies.error(one.key.reads_key).is_some());
        let exhibit = Exhibit { table: &self.relation.table, row: self.images.judged(), now: self.now };
        let cases: Vec<_> = rows.iter().map(|one| case(&one.key, &one.key.filter)).collect();
        let matched = kept(&rows, &self.judge.decide(exhibit, &cases).await);
        let visible = if is_unjudged(self.images, self.settings.deletes) {
            matched
        } else {
            let cases: Vec<_> = matched.iter().map(|one| case(&one.key, &one.key.plan)).collect();
            kept(&matched, &self.judge.decide(exhibit, &cases).await)
        };
        let before = self.visible_before(&visible).await;
        let errors = errors.into_iter().map(|audience| (audience, false));
        visible.into_iter().zip(before).chain(errors).collect()
    }

    /// For each audience: could it see the old row, where the log carries the whole of it?
    async fn visible_before(&mut self, visible: &[&Audience]) -> Vec<bool> {
        match &self.images.old {
            Some(old) if self.images.old_is_full && self.images.kind == ChangeKind::Update => {
                let exhibit = Exhibit { table: &self.relation.table, row: old, now: self.now };
                let cases: Vec<_> = visible.iter().map(|one| case(&one.key, &one.key.plan)).collect();
                self.judge.decide(exhibit, &cases).await
            }
            _ => vec![true; visible.len()],
        }
    }
}

/// Whether a change is for every subscriber of the table, whatever their policies and filters say of it:
/// an error row (docs/protocol.md §4.4), or a delete under `deletes = "compatible"`.
pub(super) fn concerns_everybody(
    relation: &BoundRelation,
    images: &ChangeImages<'_>,
    deletes: Deletes,
) -> bool {
    match images.kind {
        ChangeKind::Delete => is_unjudged(images, deletes),
        ChangeKind::Insert | ChangeKind::Update => !relation.table.has_primary_key(),
    }
}

fn is_unjudged(images: &ChangeImages<'_>, deletes: Deletes) -> bool {
    images.kind == ChangeKind::Delete && !images.old_is_full && deletes == Deletes::Compatible
}

fn case<'a, D>(key: &'a AudienceKey, decider: &'a D) -> Case<'a, D> {
    Case { decider, role: &key.role, claims: key.plan.claims_json() }
}

fn kept<T: Copy>(items: &[T], answers: &[bool]) -> Vec<T> {
    items.iter().zip(answers).filter(|&(_, &answer)| answer).map(|(&item, _)| item).collect()
}
