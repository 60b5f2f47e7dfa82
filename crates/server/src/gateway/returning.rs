//! Whether a client comes back, as far as the numbers of its messages tell: libraries count them in `ref`, and go on
//! counting when they connect again (docs/protocol.md §5.7).

use std::num::NonZeroU32;

use walcast_wire::Ref;

/// Numbers that a client of the Phoenix framework uses up before it joins its first channel, beside those of its messages:
/// supabase-js has registered so many callbacks by then.
const CALLBACKS: u32 = 3;
/// What each of its channels uses up before it is joined.
const CALLBACKS_OF_CHANNEL: u32 = 2;

/// What is known of a client's counting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// The messages of this connection.
    messages: u32,
    /// The greatest number that one had; 0 before the first.
    reference: u32,
}

impl Count {
    /// A message has come.
    pub(super) fn one_more(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// A message has this `ref`.
    pub(super) fn has_come_to(&mut self, reference: &Ref) {
        self.reference = self.reference.max(reference.number().map_or(0, NonZeroU32::get));
    }

    /// The greatest number so far; 0 for a client that does not count.
    pub(super) fn reference(self) -> u32 {
        self.reference
    }

    /// Whether a client that was started for this very connection would have another number at its last message, by which
    /// it has joined so many channels. Clients count their messages, or also the callbacks that their channels register.
    pub(super) fn began_earlier(self, channels: usize) -> bool {
        let channels = u32::try_from(channels).unwrap_or(u32::MAX);
        let Some(extra) = self.reference.checked_sub(self.messages).filter(|extra| *extra > 0) else {
            return false;
        };
        let of_channels = CALLBACKS_OF_CHANNEL.saturating_mul(channels);
        extra != of_channels && extra != of_channels.saturating_add(CALLBACKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After messages with these numbers, the last of which joins the last of so many channels.
    fn began_earlier(references: &[&str], channels: usize) -> bool {
        let mut count = Count::default();
        for reference in references {
            count.one_more();
            count.has_come_to(&Ref::from_text(reference));
        }
        count.began_earlier(channels)
    }

    #[test]
    fn a_client_that_counts_its_messages_begins_with_one() {
        assert!(!began_earlier(&["1"], 1));
        assert!(!began_earlier(&["1", "2", "", "3"], 3), "heartbeats have no number in Python");
        assert!(began_earlier(&["2"], 1));
        assert!(began_earlier(&["70", "71"], 2));
    }

    #[test]
    fn a_client_that_counts_callbacks_too_begins_with_those_of_its_channels() {
        assert!(!began_earlier(&["6"], 1), "supabase-js");
        assert!(!began_earlier(&["6", "9"], 2));
        assert!(!began_earlier(&["6", "7", "8", "11"], 2), "with two heartbeats between");
        assert!(!began_earlier(&["3"], 1), "the client of the Phoenix framework");
        assert!(began_earlier(&["13"], 1));
        assert!(began_earlier(&["13", "14"], 2));
    }

    #[test]
    fn a_client_that_does_not_count_can_not_be_told() {
        assert!(!began_earlier(&["a", "b"], 1));
    }
}
