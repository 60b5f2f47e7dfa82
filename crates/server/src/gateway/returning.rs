//! Whether a client comes back, as far as the numbers of its messages tell: libraries count them in `ref`, and go on
//! counting when they connect again (docs/protocol.md §5.7).

use std::num::NonZeroU32;

use walcast_wire::{Ref, Serializer};

/// Numbers that supabase-js with serializer 2.0.0 uses up before it joins its first channel, beside those of its messages:
/// it has registered so many callbacks by then.
const CALLBACKS: u32 = 3;
/// What each of its channels uses up before it is joined.
const CALLBACKS_OF_CHANNEL: u32 = 2;

/// What is known of a client's counting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// The messages of this connection that had a number greater than all before.
    messages: u32,
    /// The greatest number that one had; 0 before the first.
    reference: u32,
}

impl Count {
    /// A message has this `ref`; it may have been looked at before.
    pub(super) fn has_come_to(&mut self, reference: &Ref) {
        if let Some(number) =
            reference.number().map(NonZeroU32::get).filter(|number| *number > self.reference)
        {
            self.messages = self.messages.saturating_add(1);
            self.reference = number;
        }
    }

    /// The greatest number so far; 0 for a client that does not count.
    pub(super) fn reference(self) -> u32 {
        self.reference
    }

    /// Whether a client that was started for this very connection would have another number at its last message, by which
    /// it has joined so many channels. Clients count their messages; supabase-js also the callbacks that it registers.
    pub(super) fn began_earlier(self, serializer: Serializer, channels: usize) -> bool {
        let channels = u32::try_from(channels).unwrap_or(u32::MAX);
        let callbacks = CALLBACKS_OF_CHANNEL.saturating_mul(channels).saturating_add(CALLBACKS);
        match self.reference - self.messages {
            0 => false,
            extra => serializer == Serializer::V1 || extra != callbacks,
        }
    }
}

#[cfg(test)]
mod tests {
    use Serializer::{V1, V2};

    use super::*;

    /// After messages with these numbers, the last of which joins the last of so many channels.
    fn began_earlier(serializer: Serializer, references: &[&str], channels: usize) -> bool {
        let mut count = Count::default();
        for reference in references {
            count.has_come_to(&Ref::from_text(reference));
        }
        count.began_earlier(serializer, channels)
    }

    #[test]
    fn a_client_that_counts_its_messages_begins_with_one() {
        for serializer in [V1, V2] {
            assert!(!began_earlier(serializer, &["1"], 1));
            assert!(
                !began_earlier(serializer, &["1", "2", "", "3", "3"], 3),
                "Python's heartbeats have no number"
            );
            assert!(began_earlier(serializer, &["2"], 1));
            assert!(began_earlier(serializer, &["", "2"], 1));
            assert!(began_earlier(serializer, &["3"], 1));
            assert!(began_earlier(serializer, &["70", "71"], 2));
        }
    }

    #[test]
    fn supabase_js_counts_callbacks_too_and_begins_with_those_of_its_channels() {
        assert!(!began_earlier(V2, &["6"], 1));
        assert!(!began_earlier(V2, &["6", "9"], 2));
        assert!(!began_earlier(V2, &["6", "7", "8", "11"], 2), "with two heartbeats between");
        assert!(began_earlier(V1, &["6"], 1), "it did not with serializer 1.0.0");
        assert!(began_earlier(V2, &["13"], 1));
        assert!(began_earlier(V2, &["13", "14"], 2));
    }

    #[test]
    fn a_client_that_does_not_count_can_not_be_told() {
        assert!(!began_earlier(V1, &["a", "b"], 1));
    }
}
