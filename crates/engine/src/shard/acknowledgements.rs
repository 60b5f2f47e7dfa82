//! What has arrived: row changes, and broadcasts where these are kept, are followed by a WebSocket ping from time to time,
//! and its pong proves that everything before it has reached the client's library (RFC 6455 §5.5.3: answered in order).
//! That is more than the kernel knows of bytes that were acknowledged.
//!
//! A session to which nothing was sent since its last pong costs nothing here: it has got everything that its shard had
//! for it. The others have something [`Outstanding`], with the position of the last pong.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::time::Instant;
use walcast_pgoutput::Lsn;
use walcast_wire::Frame;

use super::Shard;
use super::broadcasts::Broadcasts;
use crate::command::{Joining, Search, Target};
use crate::ids::{ChannelId, SessionId};
use crate::membership::Membership;
use crate::session::{Channel, Receipt, Session};
use crate::tickets::{Claimant, Heard, Reference, Standing};

/// How often pings are sent; a session has one on its way at most.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How many are sent at a time, so that many busy sockets share what the pongs cost.
const PINGS_AT_ONCE: usize = 1_000;

/// What a shard knows beside what its sessions have outstanding.
#[derive(Default)]
pub(super) struct Acknowledgements {
    /// Whatever commits up to here, and is for a session of this shard, is in its queue.
    handled: Lsn,
    /// By claimant: the sessions that have something outstanding.
    claimants: FxHashMap<Claimant, SmallVec<[SessionId; 1]>>,
    /// Sessions that are to be sent a ping, those who have waited longest first.
    due: VecDeque<SessionId>,
    next: Option<Instant>,
    last_ping: u32,
    /// Not only channels with bindings leave tickets.
    of_all_channels: bool,
}

/// A session has been sent something of which it is not known that it has arrived. With the session, so that many
/// thousands who get a row each do not make one table of theirs grow.
pub(crate) struct Outstanding {
    /// Everything up to here has arrived.
    delivered: Lsn,
    /// All frames that were queued before this have arrived.
    arrived: Instant,
    /// The ping that is out, and what it will prove.
    ping: Option<Ping>,
    reference: Reference,
    /// Channels that have not got yet what they had missed.
    behind: Vec<Behind>,
    claimants: SmallVec<[Claimant; 1]>,
}

/// A ping, and up to where its pong proves that everything has arrived.
struct Ping {
    number: u32,
    delivered: Lsn,
    arrived: Instant,
}

/// A channel that goes on where its client was.
struct Behind {
    channel: ChannelId,
    /// Of what it had missed, that before this has arrived.
    from: Lsn,
    /// Of that, what is in the queue.
    queued: Lsn,
    /// Of that, what the ping that is out follows.
    pinged: Lsn,
    caught_up: CaughtUp,
}

/// Whether a channel has got what it had missed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CaughtUp {
    No,
    /// All of it is in the queue.
    Queued,
    /// This ping follows it.
    Pinged(u32),
}

impl Acknowledgements {
    pub(super) fn new(of_all_channels: bool) -> Self {
        Acknowledgements { of_all_channels, ..Acknowledgements::default() }
    }

    /// Whether a channel leaves a ticket when it is lost.
    fn concern(&self, membership: &Membership) -> bool {
        !membership.options().keeps_positions && (self.of_all_channels || membership.binding_count() > 0)
    }

    /// When the next pings are due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The log has been handled up to here.
    pub(super) fn handled(&mut self, handled: Lsn) {
        self.handled = handled;
    }

    /// The session has been sent a row change or a broadcast that counts, or is about to be.
    pub(super) fn sent(&mut self, id: SessionId, session: &mut Session) {
        match session.receipt {
            Receipt::Open | Receipt::PingedBefore | Receipt::Over => {}
            Receipt::Pinged => session.receipt = Receipt::PingedBefore,
            Receipt::Complete => {
                self.outstanding(id, session);
                self.ask(id, session);
            }
        }
    }

    /// The session has been sent broadcasts once more, from this moment on: they have not arrived before a ping that
    /// follows them is answered.
    pub(super) fn sent_again(&mut self, id: SessionId, session: &mut Session, from: Instant) {
        self.sent(id, session);
        let Some(outstanding) = &mut session.outstanding else { return };
        outstanding.arrived = outstanding.arrived.min(from);
        if let Some(ping) = &mut outstanding.ping {
            ping.arrived = ping.arrived.min(from);
        }
    }

    /// What a session has outstanding, from now on if it had nothing, with all claimants that it has by now.
    fn outstanding<'s>(&mut self, id: SessionId, session: &'s mut Session) -> &'s mut Outstanding {
        let Session { channels, outstanding, .. } = session;
        let outstanding = outstanding.get_or_insert_with(|| Box::new(Outstanding::new(self.handled)));
        for Channel { membership, .. } in channels {
            if !self.concern(membership) {
                continue;
            }
            let claimant = membership.claimant();
            if !outstanding.claimants.contains(&claimant) {
                outstanding.claimants.push(claimant);
                self.claimants.entry(claimant).or_default().push(id);
            }
        }
        outstanding
    }

    fn ask(&mut self, id: SessionId, session: &mut Session) {
        session.receipt = Receipt::Open;
        self.due.push_back(id);
        self.next.get_or_insert_with(|| Instant::now() + PING_INTERVAL);
    }

    fn take(&mut self, id: SessionId, session: &mut Session) -> Option<Box<Outstanding>> {
        let outstanding = session.outstanding.take()?;
        for claimant in &outstanding.claimants {
            if let Some(sessions) = self.claimants.get_mut(claimant) {
                sessions.retain(|session| *session != id);
                if sessions.is_empty() {
                    self.claimants.remove(claimant);
                }
            }
        }
        Some(outstanding)
    }
}

impl Outstanding {
    /// Of what a channel had missed, that before a position is in the session's queue.
    pub(super) fn queued_up_to(&mut self, channel: ChannelId, lsn: Lsn) {
        for behind in self.behind.iter_mut().filter(|behind| behind.channel == channel) {
            behind.queued = behind.queued.max(lsn);
        }
    }

    fn new(delivered: Lsn) -> Self {
        let (behind, claimants) = (Vec::new(), SmallVec::new());
        Outstanding { delivered, arrived: Instant::now(), ping: None, reference: 0, behind, claimants }
    }

    /// Up to where everything for a channel has arrived.
    fn delivered(&self, channel: ChannelId) -> Lsn {
        let behind = self.behind.iter().find(|behind| behind.channel == channel);
        behind.map_or(self.delivered, |behind| behind.from.min(self.delivered))
    }
}

impl Shard {
    /// A channel that goes on where its client was has just joined. Tells how far its client has come with broadcasts, where these are kept.
    pub(super) fn begin_to_catch_up(&mut self, joining: &mut Joining) -> Option<Heard> {
        let claim = joining.claim.take()?;
        let membership = &joining.membership;
        let id = membership.session;
        let found = self.sessions.get_mut(&id)?;
        // A socket that is over will not get it: the ticket goes back.
        if found.receipt == Receipt::Over {
            return None;
        }
        let heard = claim.heard();
        let (channel, from) = (membership.channel, claim.arrive());
        if membership.binding_count() == 0 {
            return heard;
        }
        let behind = Behind { channel, from, queued: from, pinged: from, caught_up: CaughtUp::No };
        self.acknowledgements.outstanding(id, found).behind.push(behind);
        heard
    }

    /// It has been sent all of that.
    pub(super) fn caught_up(&mut self, target: Target) {
        let Some(found) = self.sessions.get_mut(&target.session) else { return };
        let Some(outstanding) = &mut found.outstanding else { return };
        for behind in outstanding.behind.iter_mut().filter(|behind| behind.channel == target.channel) {
            behind.caught_up = CaughtUp::Queued;
        }
        self.acknowledgements.sent(target.session, found);
    }

    pub(super) fn send_pings(&mut self) {
        let acknowledgements = &mut self.acknowledgements;
        if acknowledgements.next.is_none_or(|next| next > Instant::now()) {
            return;
        }
        acknowledgements.last_ping = acknowledgements.last_ping.wrapping_add(1);
        let (number, delivered, arrived) =
            (acknowledgements.last_ping, acknowledgements.handled, Instant::now());
        let ping = Frame::ping(number);
        let count = acknowledgements.due.len().min(PINGS_AT_ONCE);
        for id in acknowledgements.due.drain(..count) {
            let open = self.sessions.get_mut(&id).filter(|found| found.receipt == Receipt::Open);
            let Some(found) = open else { continue };
            let Some(outstanding) = &mut found.outstanding else { continue };
            found.receipt = Receipt::Pinged;
            outstanding.ping = Some(Ping { number, delivered, arrived });
            for behind in &mut outstanding.behind {
                behind.pinged = behind.queued;
                if behind.caught_up == CaughtUp::Queued {
                    behind.caught_up = CaughtUp::Pinged(number);
                }
            }
            found.push(id, ping.bytes(), &mut self.turn);
        }
        let more = !acknowledgements.due.is_empty();
        acknowledgements.next = more.then(|| Instant::now() + PING_INTERVAL);
    }

    pub(super) fn acknowledged(&mut self, id: SessionId, ping: u32, reference: Reference) {
        let Some(found) = self.sessions.get_mut(&id) else { return };
        let Some(outstanding) = &mut found.outstanding else { return };
        let Some(proven) = outstanding.ping.take_if(|out| out.number == ping) else { return };
        outstanding.delivered = outstanding.delivered.max(proven.delivered);
        outstanding.arrived = outstanding.arrived.max(proven.arrived);
        outstanding.reference = reference;
        outstanding.behind.retain(|behind| behind.caught_up != CaughtUp::Pinged(ping));
        for behind in &mut outstanding.behind {
            behind.from = behind.pinged;
        }
        let nobody_is_behind = outstanding.behind.is_empty();
        if found.receipt == Receipt::PingedBefore {
            self.acknowledgements.ask(id, found);
            return;
        }
        found.receipt = Receipt::Complete;
        if nobody_is_behind {
            self.acknowledgements.take(id, found);
        }
    }

    /// A socket is over whose client may come back: each channel with bindings leaves a ticket, and the others,
    /// too, where broadcasts are kept.
    pub(super) fn leave_tickets(&mut self, id: SessionId, reference: Reference) {
        let Some(found) = self.sessions.get_mut(&id) else { return };
        if !self.tickets.are_kept() || reference == 0 || found.receipt == Receipt::Over {
            return;
        }
        found.receipt = Receipt::Over;
        let outstanding = self.acknowledgements.take(id, found);
        let handled = self.acknowledgements.handled;
        let arrived = arrived_before(outstanding.as_deref());
        let acknowledgements = &self.acknowledgements;
        for channel in found.channels.iter().filter(|channel| acknowledgements.concern(&channel.membership)) {
            let delivered =
                outstanding.as_ref().map_or(handled, |outstanding| outstanding.delivered(channel.id()));
            let heard = heard_by(self.broadcasts.as_deref(), channel.id(), arrived);
            self.tickets.leave(&channel.membership, delivered, reference, heard);
        }
    }

    /// A channel ends whose client goes on with the same connection, and may not have got everything: it joins the topic
    /// once more without having left it, or gives up a join that was being caught up, and perhaps was not answered in time.
    pub(super) fn leave_ticket_of(&mut self, channel: &Channel, is_joining_again: bool) {
        let membership = &channel.membership;
        let Some(reference) = channel.join_ref().number().filter(|_| self.tickets.are_kept()) else { return };
        let is_concerned = self.acknowledgements.concern(membership);
        let found = self.sessions.get_mut(&membership.session);
        let outstanding = found.and_then(|found| found.outstanding.as_deref_mut());
        let is_it = |behind: &Behind| behind.channel == channel.id();
        let is_behind = outstanding.as_ref().is_some_and(|outstanding| outstanding.behind.iter().any(is_it));
        let arrived = arrived_before(outstanding.as_deref());
        if !is_concerned || !(is_behind || is_joining_again) {
            return;
        }
        let delivered = match outstanding {
            Some(outstanding) => {
                let delivered = outstanding.delivered(channel.id());
                outstanding.behind.retain(|behind| !is_it(behind));
                delivered
            }
            None => self.acknowledgements.handled,
        };
        let heard = heard_by(self.broadcasts.as_deref(), channel.id(), arrived);
        self.tickets.leave(membership, delivered, reference.get(), heard);
    }

    /// Nothing more is heard of a session.
    pub(super) fn forget_receipts(&mut self, id: SessionId, session: &mut Session) {
        self.acknowledgements.take(id, session);
    }

    /// Looks for live channels whose client may be the one that is about to join: it has counted further.
    pub(super) fn search(&self, search: Search) {
        let Search { membership, reference, answer } = search;
        let mut lowest: Option<Lsn> = None;
        let mut newest: Option<Standing> = None;
        let sessions = self.acknowledgements.claimants.get(&membership.claimant());
        for id in sessions.into_iter().flatten().filter(|id| **id != membership.session) {
            let Some(session) = self.sessions.get(id) else { continue };
            let Some(outstanding) = session.outstanding.as_deref() else { continue };
            let alike = session.channels.iter().find(|channel| is_alike(&channel.membership, &membership));
            let Some(channel) = alike else { continue };
            let joined_with = channel.join_ref().number().map_or(0, NonZeroU32::get);
            let counted = outstanding.reference.max(joined_with);
            if counted == 0 || counted >= reference {
                continue;
            }
            let delivered = outstanding.delivered(channel.id());
            lowest = Some(lowest.map_or(delivered, |lowest| lowest.min(delivered)));
            let heard = heard_by(self.broadcasts.as_deref(), channel.id(), outstanding.arrived);
            let heard = Heard::either(heard, newest.and_then(|newest| newest.heard));
            newest = match newest {
                Some(newest) if newest.reference >= counted => Some(Standing { heard, ..newest }),
                _ => Some(Standing { channel: channel.id(), reference: counted, heard }),
            };
        }
        // Nobody waits for it any more where the connection has ended.
        let _ = answer.send(lowest.zip(newest));
    }
}

/// All frames that were queued before this have arrived.
fn arrived_before(outstanding: Option<&Outstanding>) -> Instant {
    outstanding.map_or_else(Instant::now, |outstanding| outstanding.arrived)
}

/// How far a channel's client has come with broadcasts, where these are kept.
fn heard_by(broadcasts: Option<&Broadcasts>, channel: ChannelId, arrived: Instant) -> Option<Heard> {
    broadcasts.map(|broadcasts| Heard::up_to(arrived, broadcasts.line_of(channel)))
}

fn is_alike(one: &Membership, other: &Membership) -> bool {
    one.claimant() == other.claimant() && one.asked.is_alike(&other.asked)
}
