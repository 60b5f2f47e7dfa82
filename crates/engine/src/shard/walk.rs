//! From member to member of a topic, with their sessions at hand.

use std::cell::RefMut;

use super::Sessions;
use crate::command::Target;
use crate::prefetch::prefetch;
use crate::session::Session;

/// Goes through the listeners of a topic. While one is dealt with, the memory of the next ones is fetched.
pub(super) struct Walk<'a> {
    /// The only one of a topic that has no list.
    alone: Option<Target>,
    list: Option<List<'a>>,
}

struct List<'a> {
    members: &'a [Target],
    /// Where their sessions lay when they were last looked for. Sessions move when others end, and so do members.
    places: RefMut<'a, Vec<u32>>,
    next: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn to_one(member: Option<Target>) -> Self {
        Walk { alone: member, list: None }
    }

    /// To all of a list, of which `places` remembers where the last walk has met them.
    pub(super) fn through(members: &'a [Target], mut places: RefMut<'a, Vec<u32>>) -> Self {
        places.resize(members.len(), u32::MAX);
        Walk { alone: None, list: Some(List { members, places, next: 0 }) }
    }

    /// The next member whose session has not ended.
    pub(super) fn next<'s>(&mut self, sessions: &'s mut Sessions) -> Option<(Target, &'s mut Session)> {
        if let Some(alone) = self.alone.take() {
            return sessions.get_mut(&alone.session).map(|session| (alone, session));
        }
        let list = self.list.as_mut()?;
        loop {
            let (member, place) = list.find_next(sessions)?;
            if let Some(place) = place {
                list.fetch_ahead(sessions);
                return sessions.get_index_mut(place).map(|(_, session)| (member, session));
            }
        }
    }
}

impl List<'_> {
    /// The next member, and where its session lies, if it has not ended.
    fn find_next(&mut self, sessions: &Sessions) -> Option<(Target, Option<usize>)> {
        let (member, place) = (self.members.get(self.next)?, self.places.get_mut(self.next)?);
        self.next += 1;
        let is_there = |(id, _): (&_, _)| *id == member.session;
        if sessions.get_index(*place as usize).is_some_and(is_there) {
            return Some((*member, Some(*place as usize)));
        }
        let found = sessions.get_index_of(&member.session);
        // There are never 2^32 sessions; one behind that would be looked for each time.
        *place = found.and_then(|found| u32::try_from(found).ok()).unwrap_or(u32::MAX);
        Some((*member, found))
    }

    /// Of the next member but one the session, which tells of the next one where its socket is.
    fn fetch_ahead(&self, sessions: &Sessions) {
        let session_of = |place: &u32| sessions.get_index(*place as usize).map(|(_, session)| session);
        if let Some(next) = self.places.get(self.next).and_then(session_of) {
            prefetch(&**next.outbound.socket());
        }
        if let Some(after_next) = self.places.get(self.next + 1).and_then(session_of) {
            prefetch(after_next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use walcast_wire::Serializer;

    use super::*;
    use crate::ids::{ChannelId, SessionId};
    use crate::outbound::Outbound;
    use crate::recorder::Recorder;

    fn target(number: u64) -> Target {
        Target { session: SessionId(number), channel: ChannelId(number) }
    }

    fn opened(sessions: &mut Sessions, number: u64) {
        let outbound = Outbound::new(Arc::new(Recorder(mpsc::unbounded_channel().0)), 100);
        let session = Session::new(Serializer::V2, outbound, Some(number.to_string().into()));
        sessions.insert(SessionId(number), session);
    }

    /// The members that a walk comes to, whose sessions say that they are theirs.
    fn met(mut walk: Walk<'_>, sessions: &mut Sessions) -> Vec<u64> {
        let mut met = Vec::new();
        while let Some((member, session)) = walk.next(sessions) {
            assert_eq!(session.subject.as_deref(), Some(member.session.0.to_string().as_str()));
            met.push(member.session.0);
        }
        met
    }

    #[test]
    fn a_walk_comes_to_everyone_in_order_wherever_the_sessions_have_moved_and_to_nobody_who_has_ended() {
        let mut sessions = Sessions::default();
        (1..=6).for_each(|number| opened(&mut sessions, number));
        let members = [4, 1, 6, 2, 5, 3].map(target);
        let places = RefCell::default();
        let walk = || Walk::through(&members, places.borrow_mut());
        assert_eq!(met(walk(), &mut sessions), [4, 1, 6, 2, 5, 3]);
        sessions.swap_remove(&SessionId(1));
        assert_eq!(met(walk(), &mut sessions), [4, 6, 2, 5, 3], "6 lies where 1 lay");
        opened(&mut sessions, 7);
        sessions.swap_remove(&SessionId(4));
        sessions.swap_remove(&SessionId(3));
        assert_eq!(met(walk(), &mut sessions), [6, 2, 5]);
        assert_eq!(met(walk(), &mut sessions), [6, 2, 5], "with what the last walk has remembered");
    }

    #[test]
    fn a_walk_through_a_topic_without_a_list_comes_to_its_only_member() {
        let mut sessions = Sessions::default();
        opened(&mut sessions, 1);
        let walk = |number| Walk::to_one(Some(target(number)));
        assert_eq!(met(walk(1), &mut sessions), [1]);
        assert!(met(walk(2), &mut sessions).is_empty());
    }
}
