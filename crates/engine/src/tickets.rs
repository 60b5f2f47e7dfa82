//! Tickets: what a socket that was lost leaves behind, so that its client misses nothing although it does not know how to
//! ask (docs/protocol.md §5.7). In reading order: this file (who left what, and who gets it), [`claim`] (a ticket that a
//! join has taken), [`heard`] (what it says of broadcasts), [`handover`] (from one process to the next, through the log).
//!
//! Whatever a ticket says, rows are judged anew for whoever takes it: it decides from where on, never who may see what.

mod claim;
mod handover;
mod heard;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::Instant;
use walcast_pgoutput::Lsn;

pub(crate) use self::claim::Claim;
use self::handover::Past;
pub use self::handover::TICKETS_MESSAGE_PREFIX;
pub(crate) use self::heard::Heard;
use crate::ids::ChannelId;
use crate::membership::Membership;
use crate::settings::{Counters, ResumeSettings};

/// A ticket that is too old to be honoured is still known for so many times its validity, so that its client is told of a
/// gap instead of nothing.
const KNOWN_FACTOR: u32 = 10;

/// Live sockets that a returning client has replaced; beyond so many, those whose successor has ended are forgotten.
const REPLACED_SWEEP: usize = 1_024;

/// Who has a channel, without saying who: a digest of the token's `sub`, or of the token where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimant(pub(crate) u64);

impl Claimant {
    /// Of a verified token and its `sub`.
    pub fn of(subject: Option<&str>, token: &str) -> Claimant {
        let (kind, text) = subject.map_or((b"t", token), |subject| (b"s", subject));
        let digest = Sha256::new().chain_update(kind).chain_update(text).finalize();
        Claimant(digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// Which joins are alike: the same claimant, topic and bindings. The same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TicketKey([u8; 16]);

impl TicketKey {
    pub(crate) fn of(membership: &Membership) -> TicketKey {
        let mut digest = Sha256::new();
        digest.update(membership.claimant().0.to_le_bytes());
        membership.asked.digest(&mut |part: &[u8]| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        });
        let mut key = [0; 16];
        key.copy_from_slice(&digest.finalize()[..16]);
        TicketKey(key)
    }
}

/// The number of the last message that a client is known to have sent: libraries count them over reconnects.
pub(crate) type Reference = u32;

/// What a lost channel leaves.
#[derive(Clone, Debug)]
struct Ticket {
    number: u64,
    /// Everything up to here has reached the client.
    delivered: Lsn,
    /// How far it had come with broadcasts, where these are kept.
    heard: Option<Heard>,
    /// It had bindings: the next process is told of it.
    subscribed: bool,
    reference: Reference,
    left: Instant,
    /// The channel that goes on from here. It takes the ticket with it when it leaves one of its own.
    claimed: Option<ChannelId>,
}

/// All tickets of an engine.
pub(crate) struct Tickets {
    settings: ResumeSettings,
    counters: Arc<Counters>,
    /// Up to where the log has been handed to the shards.
    handled: AtomicU64,
    state: Mutex<State>,
    /// How many channels have a ticket claimed: most of the time none that ends has.
    claims: AtomicUsize,
    past: watch::Sender<Past>,
    origin: uuid::Uuid,
}

#[derive(Default)]
struct State {
    tickets: FxHashMap<TicketKey, SmallVec<[Ticket; 1]>>,
    /// In the order in which they were left; those that are gone are passed over.
    order: VecDeque<(Instant, TicketKey, u64)>,
    /// So many of the first in the order are no longer honoured.
    expired: usize,
    count: usize,
    last: u64,
    claims: FxHashMap<ChannelId, TicketKey>,
    /// Live channels that a returning client seems to have given up, and the channel that it has instead.
    replaced: FxHashMap<ChannelId, Weak<Membership>>,
    handover: handover::Reading,
}

/// A live channel of the same claimant, topic and bindings, whose client may be the one that joins: its socket was given
/// up, and the server does not know yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) channel: ChannelId,
    pub(crate) reference: Reference,
    pub(crate) heard: Option<Heard>,
}

impl Tickets {
    pub(crate) fn new(settings: ResumeSettings, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Tickets {
            settings,
            counters,
            handled: AtomicU64::new(0),
            state: Mutex::default(),
            claims: AtomicUsize::new(0),
            past: watch::Sender::new(Past::Known),
            origin: uuid::Uuid::new_v4(),
        })
    }

    /// Whether there are any at all.
    pub(crate) fn are_kept(&self) -> bool {
        !self.settings.ticket_validity.is_zero()
    }

    /// The log has been handed to the shards' inboxes up to here.
    pub(crate) fn pass(&self, lsn: Lsn) {
        self.handled.fetch_max(lsn.0, Ordering::Release);
    }

    /// Up to where the log is in the shards' inboxes, or has been handled by them.
    pub(crate) fn handled(&self) -> Lsn {
        Lsn(self.handled.load(Ordering::Acquire))
    }

    /// A channel was lost whose client has got everything up to `delivered`, and has counted its messages up to
    /// `reference`.
    pub(crate) fn leave(
        &self,
        membership: &Membership,
        delivered: Lsn,
        reference: Reference,
        heard: Option<Heard>,
    ) {
        let key = TicketKey::of(membership);
        let mut state = self.state();
        self.end_claim(&mut state, membership.channel);
        let claimed = match state.replaced.remove(&membership.channel).map(|successor| successor.upgrade()) {
            None => None,
            // Its successor goes on from where it was.
            Some(Some(successor)) if successor.is_open() => Some(successor.channel),
            // Its successor has left a ticket of its own, or has said goodbye.
            Some(_) => return,
        };
        self.counters.tickets_left.fetch_add(1, Ordering::Relaxed);
        let subscribed = membership.binding_count() > 0;
        let ticket =
            Ticket { number: 0, delivered, heard, subscribed, reference, left: Instant::now(), claimed };
        self.add(&mut state, key, ticket);
    }

    /// A channel has ended: the ticket that it had claimed is used up.
    pub(crate) fn ended(&self, channel: ChannelId) {
        if self.claims.load(Ordering::Relaxed) > 0 {
            self.end_claim(&mut self.state(), channel);
        }
    }

    /// Finds from where on a join goes on whose client has counted up to `reference`: there may be tickets, and there
    /// are `standing` channels. Where several could be its own, the lowest position is taken and the newest ticket is
    /// claimed, so that whoever comes after it finds one that is low enough, too.
    fn redeem(
        &self,
        membership: &Arc<Membership>,
        reference: Reference,
        standing: Option<(Lsn, Standing)>,
    ) -> (Option<Lsn>, Option<Heard>) {
        let key = TicketKey::of(membership);
        let channel = membership.channel;
        let mut state = self.state();
        self.expire(&mut state);
        let State { tickets, claims, replaced, .. } = &mut *state;
        let all = tickets.get_mut(&key).map_or(&mut [][..], |tickets| &mut tickets[..]);
        let candidates = || all.iter().filter(|ticket| ticket.reference < reference);
        let lowest =
            candidates().map(|ticket| ticket.delivered).chain(standing.map(|(lowest, _)| lowest)).min();
        let heard = candidates().map(|ticket| ticket.heard);
        let heard = heard.fold(standing.and_then(|(_, standing)| standing.heard), Heard::either);
        let newest = all
            .iter_mut()
            .filter(|ticket| ticket.reference < reference && ticket.claimed.is_none())
            .max_by_key(|ticket| ticket.reference);
        match (newest, standing) {
            (Some(ticket), standing)
                if standing.is_none_or(|(_, standing)| standing.reference <= ticket.reference) =>
            {
                ticket.claimed = Some(channel);
                claims.insert(channel, key);
                self.claims.store(claims.len(), Ordering::Relaxed);
            }
            (_, Some((_, standing))) => {
                if replaced.len() >= REPLACED_SWEEP {
                    replaced.retain(|_, successor| successor.upgrade().is_some_and(|open| open.is_open()));
                }
                replaced.insert(standing.channel, Arc::downgrade(membership));
            }
            (_, None) => {}
        }
        if lowest.is_some() {
            self.counters.tickets_redeemed.fetch_add(1, Ordering::Relaxed);
        }
        (lowest, heard)
    }

    /// A join that had claimed a ticket came to nothing: somebody else may.
    fn give_back(&self, channel: ChannelId) {
        let mut state = self.state();
        let State { tickets, claims, .. } = &mut *state;
        let Some(key) = claims.remove(&channel) else { return };
        for ticket in tickets.get_mut(&key).into_iter().flatten() {
            ticket.claimed = ticket.claimed.filter(|claimed| *claimed != channel);
        }
        self.claims.store(claims.len(), Ordering::Relaxed);
    }

    fn end_claim(&self, state: &mut State, channel: ChannelId) {
        if let Some(key) = state.claims.remove(&channel) {
            state.remove(&key, |ticket| ticket.claimed == Some(channel));
            self.claims.store(state.claims.len(), Ordering::Relaxed);
        }
    }

    /// Adds a ticket, with a number of its own.
    fn add(&self, state: &mut State, key: TicketKey, mut ticket: Ticket) {
        self.expire(state);
        state.last += 1;
        ticket.number = state.last;
        let Ticket { number, left, claimed, .. } = ticket;
        state.tickets.entry(key).or_default().push(ticket);
        state.order.push_back((left, key, number));
        state.count += 1;
        if let Some(channel) = claimed {
            state.claims.insert(channel, key);
            self.claims.store(state.claims.len(), Ordering::Relaxed);
        }
        while state.count > self.settings.tickets_max {
            if state.drop_oldest() {
                self.counters.tickets_displaced.fetch_add(1, Ordering::Relaxed);
            }
        }
        if state.order.len() > 2 * state.count + REPLACED_SWEEP {
            state.forget_gone();
        }
    }

    /// Counts those that are no longer honoured, and forgets those that have not been for long.
    fn expire(&self, state: &mut State) {
        let validity = self.settings.ticket_validity;
        let older_than = |left: &Instant, age: Duration| left.elapsed() > age;
        while let Some((left, key, number)) = state.order.get(state.expired)
            && older_than(left, validity)
        {
            let unclaimed = state.tickets.get(key).is_some_and(|all| {
                all.iter().any(|ticket| ticket.number == *number && ticket.claimed.is_none())
            });
            if unclaimed {
                self.counters.tickets_expired.fetch_add(1, Ordering::Relaxed);
            }
            state.expired += 1;
        }
        while state.order.front().is_some_and(|(left, ..)| older_than(left, validity * KNOWN_FACTOR)) {
            state.drop_oldest();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data: a panic elsewhere can not have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets the oldest in the order; whether it was still there.
    fn drop_oldest(&mut self) -> bool {
        let Some((_, key, number)) = self.order.pop_front() else {
            self.count = 0;
            return false;
        };
        self.expired = self.expired.saturating_sub(1);
        self.remove(&key, |ticket| ticket.number == number) > 0
    }

    fn remove(&mut self, key: &TicketKey, which: impl Fn(&Ticket) -> bool) -> usize {
        let Some(all) = self.tickets.get_mut(key) else { return 0 };
        let before = all.len();
        all.retain(|ticket| !which(ticket));
        let removed = before - all.len();
        if all.is_empty() {
            self.tickets.remove(key);
        }
        self.count -= removed;
        removed
    }

    /// Takes those that are gone out of the order.
    fn forget_gone(&mut self) {
        let State { tickets, order, expired, .. } = self;
        let mut place = 0;
        let mut expired_left = 0;
        order.retain(|(_, key, number)| {
            let is_there =
                tickets.get(key).is_some_and(|all| all.iter().any(|ticket| ticket.number == *number));
            expired_left += usize::from(is_there && place < *expired);
            place += 1;
            is_there
        });
        *expired = expired_left;
    }
}
