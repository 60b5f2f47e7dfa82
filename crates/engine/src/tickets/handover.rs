//! From one process to the next: there is no second store, so tickets go through the log, as messages of this slot.
//!
//! A process that begins to read writes `begin`; one that stops writes its tickets, and `end`. Whoever finds its own
//! `begin` has read all that was before it: behind an `end`, everything is known of the sockets that there were; otherwise
//! the process before did not end in order, and for a while every client that comes back gets what the journal has.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;
use walcast_pgoutput::Lsn;

use super::{Reference, State, TicketKey, Tickets};

/// The prefix of the messages that hand tickets over.
pub const TICKETS_MESSAGE_PREFIX: &str = "walcast.tickets";

/// Tickets in one message.
const CHUNK: usize = 200;

/// What is known of the sockets of the process before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nothing yet; the log begins at `from`.
    Awaited { from: Lsn },
    /// All there is to know.
    Known,
    /// It has not ended in order. Until then, who comes back goes on `from` the beginning of the log.
    Lost { from: Lsn, until: Instant },
}

impl Past {
    /// From where on a client goes on that an earlier process has left no ticket of.
    pub(super) fn unknown(self) -> Option<Lsn> {
        match self {
            Past::Awaited { from } => Some(from),
            Past::Lost { from, until } => (Instant::now() < until).then_some(from),
            Past::Known => None,
        }
    }
}

/// What the log has told so far.
#[derive(Default)]
pub(super) struct Reading {
    /// What the last process has handed over. One that has begun after it has taken that, and hands over what is left.
    records: Vec<Record>,
    /// It has handed over everything.
    complete: bool,
}

/// One message.
enum Message<'a> {
    Begin(&'a str),
    Tickets(&'a str),
    End,
}

impl<'a> Message<'a> {
    /// `None` for one of another slot, and for what is none.
    fn parse(scope: &str, content: &'a [u8]) -> Option<Message<'a>> {
        let text = std::str::from_utf8(content).ok()?;
        let rest = text.strip_prefix(scope)?.strip_prefix(' ')?;
        match rest.split_once(' ') {
            Some(("begin", origin)) => Some(Message::Begin(origin)),
            Some(("tickets", list)) => Some(Message::Tickets(list)),
            None if rest == "end" => Some(Message::End),
            _ => None,
        }
    }
}

/// A ticket as it is written: key, position, the client's count, seconds since it was left.
struct Record {
    key: TicketKey,
    delivered: Lsn,
    reference: Reference,
    age: u64,
}

impl Record {
    fn parse(text: &str) -> Option<Record> {
        let mut parts = text.split(':');
        let mut number = |radix| u64::from_str_radix(parts.next()?, radix).ok();
        let (high, low, delivered) = (number(16)?, number(16)?, number(16)?);
        let (reference, age) = (Reference::try_from(number(10)?).ok()?, number(10)?);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&high.to_be_bytes());
        key[8..].copy_from_slice(&low.to_be_bytes());
        Some(Record { key: TicketKey(key), delivered: Lsn(delivered), reference, age })
    }

    fn write(&self, out: &mut String) {
        let (high, low) = self.key.0.split_at(8);
        let half = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let Record { delivered, reference, age, .. } = self;
        // Writing to a string does not fail.
        let _ = write!(out, " {:x}:{:x}:{:x}:{reference}:{age}", half(high), half(low), delivered.0);
    }
}

impl Tickets {
    /// From now on joins wait until the log has told what the process before has handed over. What is given back is to be
    /// written into the log once it is read.
    pub(crate) fn begin(&self) -> String {
        self.past.send_if_modified(|past| {
            let first = *past == Past::Known;
            if first {
                *past = Past::Awaited { from: Lsn(0) };
            }
            first
        });
        format!("{} begin {}", self.settings.scope, self.origin)
    }

    /// Nothing can be written into the log, so nothing will be known.
    pub(crate) fn give_up(&self) {
        self.past.send_modify(|past| {
            if let Past::Awaited { from } = *past {
                *past = self.lost(from);
            }
        });
    }

    /// A connection brings the log from here on. What an earlier one has brought is still known.
    pub(crate) fn log_begins(&self, since: Lsn, lost: bool) {
        if lost {
            // Another server's log may have fewer positions.
            self.handled.store(since.0, Ordering::Release);
        } else {
            self.pass(since);
        }
        self.past.send_if_modified(|past| {
            let unknown = *past == Past::Awaited { from: Lsn(0) };
            if unknown {
                *past = Past::Awaited { from: since };
            }
            unknown
        });
    }

    /// Takes in a message of the log. `refilled` tells whether there is anything that somebody could have missed.
    pub(crate) fn read(&self, content: &[u8], refilled: bool) {
        let mut state = self.state();
        match Message::parse(&self.settings.scope, content) {
            Some(Message::Begin(origin)) if origin.parse::<Uuid>() == Ok(self.origin) => {
                let Reading { records, complete } = std::mem::take(&mut state.handover);
                let Past::Awaited { from } = *self.past.borrow() else { return };
                for record in &records {
                    self.add_record(&mut state, record);
                }
                let known = complete || !refilled;
                tracing::debug!(tickets = records.len(), known, "the process before is known");
                self.past.send_replace(if known { Past::Known } else { self.lost(from) });
            }
            Some(Message::Begin(_)) => state.handover = Reading::default(),
            Some(Message::Tickets(list)) => {
                let room = self.settings.tickets_max.saturating_sub(state.handover.records.len());
                state.handover.records.extend(list.split(' ').filter_map(Record::parse).take(room));
            }
            Some(Message::End) => state.handover.complete = true,
            None => {}
        }
    }

    fn add_record(&self, state: &mut State, record: &Record) {
        let Record { key, delivered, reference, age } = *record;
        let left = Instant::now().checked_sub(Duration::from_secs(age)).unwrap_or_else(Instant::now);
        let ticket = super::Ticket {
            number: 0,
            delivered,
            heard: None,
            subscribed: true,
            reference,
            left,
            claimed: None,
        };
        self.add(state, key, ticket);
    }

    fn lost(&self, from: Lsn) -> Past {
        Past::Lost { from, until: Instant::now() + self.settings.ticket_validity }
    }

    /// What a process that has stopped writes into the log, in this order.
    pub(crate) fn hand_over(&self) -> Vec<String> {
        let mut state = self.state();
        self.expire(&mut state);
        let mut records = Vec::new();
        for (_, key, number) in &state.order {
            let found =
                state.tickets.get(key).and_then(|all| all.iter().find(|ticket| ticket.number == *number));
            // Broadcasts do not outlive the process, and neither does what tells of nothing else.
            records.extend(found.filter(|ticket| ticket.subscribed).map(|ticket| Record {
                key: *key,
                delivered: ticket.delivered,
                reference: ticket.reference,
                age: ticket.left.elapsed().as_secs(),
            }));
        }
        let scope = &self.settings.scope;
        let chunk = |records: &[Record]| {
            let mut message = format!("{scope} tickets");
            for record in records {
                record.write(&mut message);
            }
            message
        };
        records.chunks(CHUNK).map(chunk).chain([format!("{scope} end")]).collect()
    }
}
