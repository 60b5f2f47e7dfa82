//! Whether a message may be sent on a private channel: asked of its policies once, when it first sends something
//! (docs/protocol.md §6.1, §7.3, §8.4).

use std::sync::Arc;

use walcast_engine::{PushKind, ReadRights};
use walcast_wire::{ClientMessage, Status};

use super::Incoming;
use super::channel::{Settled, Stage};
use super::client::Client;
use super::private::{self, Asker, Checked, Permission};
use super::push::push_kind;

impl Client {
    /// What is known of the right to send a message.
    pub(super) fn permits(&self, place: usize, kind: &PushKind) -> Permission {
        let rights = self.channels[place].joined().and_then(|joined| joined.rights.as_ref());
        rights.map_or(Permission::Granted, |rights| rights.permits(kind))
    }

    /// Asks the policies what may be sent; messages on the topic wait meanwhile.
    pub(super) fn check_sending(&mut self, place: usize, tracks: bool) {
        let Some(joined) = self.channels[place].take_joined() else { return };
        let asker =
            Asker::new(&self.gateway, &joined.credentials.identity, self.sub_topic(place), &self.headers);
        let (topic, channel) = (Arc::clone(&self.channels[place].topic), joined.channel.id());
        let with_presence_read =
            tracks && joined.rights.as_ref().is_some_and(|rights| !rights.presence_asked);
        self.channels[place].stage = Stage::Checking(joined);
        self.pending.push(Box::pin(async move {
            let outcome = asker.write(with_presence_read).await;
            Settled::Checked { topic, channel, outcome }
        }));
    }

    /// Takes in what the policies said; the messages that wait are handled next.
    pub(super) async fn checked(&mut self, place: usize, outcome: Checked) {
        let state = &mut self.channels[place];
        let Stage::Checking(mut joined) = std::mem::replace(&mut state.stage, Stage::Joining) else {
            return;
        };
        let channel = joined.channel.clone();
        let mut now_read: Option<ReadRights> = None;
        let failed = match (outcome.write, joined.rights.as_mut()) {
            (Ok(write), Some(rights)) => {
                rights.learn(write, outcome.presence);
                now_read = outcome.presence.map(|_| rights.read);
                None
            }
            (Ok(_), None) => None,
            (Err(error), _) => Some(error),
        };
        state.stage = Stage::Joined(joined);
        if let Some(read) = now_read {
            self.gateway.engine.set_rights(&self.session, &channel, read).await;
        }
        let Some(error) = failed else { return };
        self.gateway.count_error();
        tracing::warn!(code = private::code(&error), %error, "whether a channel may send could not be found out");
        // Asked again at the next message; this one is refused.
        let reason = private::write_refusal(&error, self.sub_topic(place));
        let Some(first) = self.take_first_deferred(place) else { return };
        let serializer = self.session.serializer();
        let parsed = match &first {
            Incoming::Text(text) => ClientMessage::parse_text(serializer, text),
            Incoming::Binary(bytes) => ClientMessage::parse_binary(serializer, bytes),
        };
        if let Ok(message) = parsed {
            let kind = push_kind(&message);
            self.refuse_push(place, &message, &kind, &reason).await;
        }
    }

    /// Answers a message that may not be sent: a broadcast only if it asked to be acknowledged, as everywhere.
    pub(super) async fn refuse_push(
        &mut self,
        place: usize,
        message: &ClientMessage<'_>,
        kind: &PushKind,
        reason: &str,
    ) {
        let Some(joined) = self.channels[place].joined() else { return };
        self.gateway.count_error();
        tracing::info!(code = "Unauthorized", event = &*message.event, reason, "a message was not sent on");
        if !matches!(kind, PushKind::Broadcast(_)) || joined.channel.acknowledges() {
            let response = walcast_wire::reason_response(reason);
            let frame = self.reply_on(&joined.channel.join_ref(), message, Status::Error, &response);
            self.write(&frame).await;
        }
    }
}
