//! How broadcasts spare sockets that are behind (docs/protocol.md §6.6): of those with the same key only the newest
//! waits, and what has outlived its time is not sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walcast_wire::{BroadcastOptions, Encoding};

use crate::command::BroadcastPayload;
use crate::topic::TopicKey;

/// What holds for the broadcasts of some events, whoever sends them and how.
#[derive(Clone, Debug, Default)]
pub struct BroadcastRules(HashMap<String, BroadcastRule>);

/// What holds for the broadcasts of one event, unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroadcastRule {
    /// Only the newest of those that are alike in this waits for a socket that is behind.
    pub conflate: Option<Alike>,
    /// After so long it is not sent any more.
    pub ttl: Option<Duration>,
}

/// What makes broadcasts of one event and topic alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alike {
    /// They are in any case.
    Event,
    /// The value of a member of their payload; one without it is like no other.
    Member(String),
}

impl BroadcastRules {
    /// The rule of an event, to add to it.
    pub fn of_event_mut(&mut self, event: &str) -> &mut BroadcastRule {
        self.0.entry(event.to_owned()).or_default()
    }

    /// The rule of an event.
    pub fn of_event(&self, event: &str) -> Option<&BroadcastRule> {
        self.0.get(event)
    }
}

/// How one broadcast spares sockets that are behind.
#[derive(Debug)]
pub(crate) struct Relief {
    pub(crate) key: Option<ConflationKey>,
    expires: Option<Instant>,
}

/// What waits for one socket under the same of these is replaced by what is newer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConflationKey {
    topic: TopicKey,
    key: Key,
}

/// Keys of senders and those of rules never meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Given(Arc<str>),
    Event(Arc<str>),
    Member(Arc<str>, Arc<str>),
}

impl Relief {
    /// `None` for most: they neither say anything of it, nor does a rule.
    pub(crate) fn of(
        rules: &BroadcastRules,
        topic: &TopicKey,
        payload: &BroadcastPayload,
    ) -> Option<Arc<Relief>> {
        match payload {
            BroadcastPayload::Text(text) => {
                let options = BroadcastOptions::of_object(text).and_then(Result::ok);
                let parts = if rules.0.is_empty() { None } else { walcast_wire::event_and_payload(text) };
                let ruled = parts.and_then(|(event, payload)| rules.ruling(&event, Some(payload)));
                Relief::new(topic, options.as_ref(), ruled, Duration::ZERO)
            }
            BroadcastPayload::User { event, encoding, payload, options } => {
                let ruled = rules.ruling_of_bytes(event, *encoding, payload);
                Relief::new(topic, options.as_deref(), ruled, Duration::ZERO)
            }
        }
    }

    /// Of a message of the database, which has been on its way for so long.
    pub(crate) fn of_message(
        rules: &BroadcastRules,
        topic: &TopicKey,
        (event, encoding, payload): (&str, Encoding, &[u8]),
        age: impl FnOnce() -> Duration,
    ) -> Option<Arc<Relief>> {
        let ruled = rules.ruling_of_bytes(event, encoding, payload)?;
        Relief::new(topic, None, Some(ruled), age())
    }

    fn new(
        topic: &TopicKey,
        options: Option<&BroadcastOptions>,
        ruled: Option<(Option<Key>, Option<Duration>)>,
        age: Duration,
    ) -> Option<Arc<Relief>> {
        let (key, ttl) = ruled.unwrap_or_default();
        let given = options.and_then(|options| options.conflate.as_deref());
        let key = given.map(|key| Key::Given(key.into())).or(key);
        let ttl = options.and_then(|options| options.ttl).or(ttl);
        if key.is_none() && ttl.is_none() {
            return None;
        }
        let key = key.map(|key| ConflationKey { topic: topic.clone(), key });
        let expires = ttl.map(|ttl| Instant::now() + ttl.saturating_sub(age));
        Some(Arc::new(Relief { key, expires }))
    }

    /// Whether it is not worth sending any more.
    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(crate) fn can_expire(&self) -> bool {
        self.expires.is_some()
    }
}

impl BroadcastRules {
    fn ruling_of_bytes(
        &self,
        event: &str,
        encoding: Encoding,
        payload: &[u8],
    ) -> Option<(Option<Key>, Option<Duration>)> {
        if self.0.is_empty() {
            return None;
        }
        let is_json = encoding == Encoding::Json;
        self.ruling(event, std::str::from_utf8(payload).ok().filter(|_| is_json))
    }

    /// The key and the time to live of a broadcast of this event, with this JSON.
    fn ruling(&self, event: &str, payload: Option<&str>) -> Option<(Option<Key>, Option<Duration>)> {
        let rule = self.of_event(event)?;
        let key = match &rule.conflate {
            None => None,
            Some(Alike::Event) => Some(Key::Event(event.into())),
            Some(Alike::Member(name)) => payload
                .and_then(|payload| walcast_wire::member_text(payload, name))
                .map(|value| Key::Member(event.into(), value.into())),
        };
        Some((key, rule.ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Privacy;

    fn topic(name: &str) -> TopicKey {
        TopicKey::new(name.into(), Privacy::Public)
    }

    fn text(text: &str) -> BroadcastPayload {
        BroadcastPayload::Text(text.into())
    }

    fn rules() -> BroadcastRules {
        let mut rules = BroadcastRules::default();
        rules.of_event_mut("cursor").conflate = Some(Alike::Member("user".into()));
        rules.of_event_mut("score").conflate = Some(Alike::Event);
        rules.of_event_mut("score").ttl = Some(Duration::from_secs(1));
        rules
    }

    fn key(topic_name: &str, payload: &BroadcastPayload) -> Option<ConflationKey> {
        Relief::of(&rules(), &topic(topic_name), payload)?.key.clone()
    }

    #[test]
    fn what_says_nothing_and_has_no_rule_spares_nobody() {
        for payload in [text("{}"), text("7"), text(r#"{"event":"e","payload":{"user":1}}"#)] {
            assert!(Relief::of(&rules(), &topic("a"), &payload).is_none());
        }
        let wrong = text(r#"{"event":"e","payload":{},"ttl_ms":0}"#);
        assert!(Relief::of(&BroadcastRules::default(), &topic("a"), &wrong).is_none());
    }

    #[test]
    fn keys_are_alike_by_topic_and_by_what_makes_them_so() {
        let cursor = |user: &str| text(&format!(r#"{{"event":"cursor","payload":{{"user":{user}}}}}"#));
        assert_eq!(key("a", &cursor("1")), key("a", &cursor("1")));
        assert_ne!(key("a", &cursor("1")), key("b", &cursor("1")));
        assert_ne!(key("a", &cursor("1")), key("a", &cursor("2")));
        assert_eq!(key("a", &cursor("null")), None, "like no other");
        let user = BroadcastPayload::User {
            event: "cursor".into(),
            encoding: Encoding::Json,
            payload: bytes::Bytes::from_static(br#"{"user":1}"#),
            options: None,
        };
        assert_eq!(key("a", &user), key("a", &cursor("1")));
        let given = text(r#"{"event":"cursor","payload":{"user":1},"conflate":"1"}"#);
        assert!(key("a", &given).is_some_and(|given| Some(given) != key("a", &cursor("1"))));
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_from_the_commit_and_what_is_said_overrules_the_rule() {
        let now = Instant::now();
        let said = text(r#"{"event":"score","payload":1,"ttl_ms":5}"#);
        let relief = Relief::of(&rules(), &topic("a"), &said).unwrap();
        assert!(relief.key.is_some());
        let millisecond = |count| now + Duration::from_millis(count);
        assert!(!relief.has_expired(millisecond(4)) && relief.has_expired(millisecond(5)));
        let message = |age| {
            let parts = ("score", Encoding::Binary, &b"\xff"[..]);
            Relief::of_message(&rules(), &topic("a"), parts, || Duration::from_millis(age)).unwrap()
        };
        assert!(!message(400).has_expired(millisecond(599)) && message(400).has_expired(millisecond(600)));
        assert!(message(5_000).has_expired(now));
    }
}
