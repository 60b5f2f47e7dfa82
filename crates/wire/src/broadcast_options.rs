//! What a sender says of how a broadcast may spare a receiver that is behind (docs/protocol.md §6.6).

use std::time::Duration;

use serde_json::value::RawValue;

use crate::object::{JsonKind, Text, pick};

const CONFLATE: &str = "conflate";
const TTL: &str = "ttl_ms";

/// How a broadcast may spare a receiver that is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroadcastOptions {
    /// Of what waits for one receiver on one topic with the same key, the newest is enough.
    pub conflate: Option<Box<str>>,
    /// It is not worth sending any more after so long.
    pub ttl: Option<Duration>,
}

/// An option that has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// A conflation key that is no text, or an empty or long one.
    #[error("conflate must be a text of 1 to {max} bytes", max = BroadcastOptions::KEY_BYTES_MAX)]
    Conflate,
    /// A time to live that is no number of milliseconds, or none at all.
    #[error("ttl_ms must be a whole number of milliseconds, 1 to {max}", max = BroadcastOptions::TTL_MS_MAX)]
    Ttl,
}

impl InvalidOption {
    /// The name of the member.
    pub fn member(self) -> &'static str {
        match self {
            InvalidOption::Conflate => CONFLATE,
            InvalidOption::Ttl => TTL,
        }
    }
}

impl BroadcastOptions {
    /// Bytes of a conflation key: each that waits is kept.
    pub const KEY_BYTES_MAX: usize = 255;
    /// A day, in milliseconds.
    pub const TTL_MS_MAX: u64 = 86_400_000;

    /// From the values of the members `conflate` and `ttl_ms`; null reads as not given.
    pub fn new(conflate: Option<&RawValue>, ttl: Option<&RawValue>) -> Result<Self, InvalidOption> {
        let given = |value: &&RawValue| JsonKind::of(value) != JsonKind::Null;
        let key = |value: &RawValue| {
            let Text(key) = serde_json::from_str(value.get()).map_err(|_| InvalidOption::Conflate)?;
            Self::key(&key)
        };
        Ok(BroadcastOptions {
            conflate: conflate.filter(given).map(key).transpose()?,
            ttl: ttl.filter(given).map(|value| Self::milliseconds(value.get())).transpose()?,
        })
    }

    /// A conflation key.
    pub fn key(text: &str) -> Result<Box<str>, InvalidOption> {
        let fits = (1..=Self::KEY_BYTES_MAX).contains(&text.len());
        fits.then(|| text.into()).ok_or(InvalidOption::Conflate)
    }

    /// A time to live from its digits.
    pub fn milliseconds(text: &str) -> Result<Duration, InvalidOption> {
        let milliseconds = text.parse().ok().filter(|number| (1..=Self::TTL_MS_MAX).contains(number));
        milliseconds.map(Duration::from_millis).ok_or(InvalidOption::Ttl)
    }

    /// Members of the payload of a text broadcast, or of the metadata of a binary one. `None` without them, which for
    /// most texts is found out without reading them.
    pub fn of_object(text: &str) -> Option<Result<Self, InvalidOption>> {
        if !text.contains("\"conflate\"") && !text.contains("\"ttl_ms\"") {
            return None;
        }
        let value: &RawValue = serde_json::from_str(text).ok()?;
        let [conflate, ttl] = pick(value, [CONFLATE, TTL])?;
        if conflate.is_none() && ttl.is_none() {
            return None;
        }
        Some(Self::new(conflate, ttl))
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.conflate.is_none() && self.ttl.is_none()
    }
}

/// The text of a member of a JSON object: its own where it is a string, its JSON otherwise.
pub fn member_text(object_text: &str, name: &str) -> Option<String> {
    let value: &RawValue = serde_json::from_str(object_text).ok()?;
    let [member] = pick(value, [name])?;
    let member = member.filter(|member| JsonKind::of(member) != JsonKind::Null)?;
    match serde_json::from_str(member.get()) {
        Ok(Text(text)) => Some(text.into_owned()),
        Err(_) => Some(member.get().to_owned()),
    }
}

/// The event and the payload of a text broadcast.
pub fn event_and_payload(text: &str) -> Option<(String, &str)> {
    let value: &RawValue = serde_json::from_str(text).ok()?;
    let [event, payload] = pick(value, ["event", "payload"])?;
    let Text(event) = serde_json::from_str(event?.get()).ok()?;
    Some((event.into_owned(), payload.map_or("null", RawValue::get)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Result<BroadcastOptions, InvalidOption>> {
        BroadcastOptions::of_object(text)
    }

    #[test]
    fn options_stand_beside_event_and_payload_and_not_inside() {
        let text = r#"{"event":"gps","payload":{"ttl_ms":1},"conflate":"car \u0037","ttl_ms":60000}"#;
        let expected = BroadcastOptions { conflate: Some("car 7".into()), ttl: Some(Duration::from_mins(1)) };
        assert_eq!(of(text), Some(Ok(expected)));
        for without in [
            r#"{"event":"gps","payload":{"ttl_ms":1,"conflate":"x"}}"#,
            r#"{"event":"\"ttl_ms\""}"#,
            r#""conflate""#,
            r#"["conflate"]"#,
            "",
        ] {
            assert_eq!(of(without), None, "{without}");
        }
        assert_eq!(of(r#"{"conflate":null,"ttl_ms":null}"#), Some(Ok(BroadcastOptions::default())));
    }

    #[test]
    fn an_option_that_has_no_meaning_is_named() {
        let long = format!(r#"{{"conflate":"{}"}}"#, "k".repeat(256));
        for text in [r#"{"conflate":7}"#, r#"{"conflate":""}"#, r#"{"conflate":{}}"#, &long] {
            assert_eq!(of(text), Some(Err(InvalidOption::Conflate)), "{text}");
        }
        for ttl in ["0", "-1", "1.5", "\"60000\"", "86400001", "1e3", "[]"] {
            assert_eq!(of(&format!(r#"{{"ttl_ms":{ttl}}}"#)), Some(Err(InvalidOption::Ttl)), "{ttl}");
        }
        assert_eq!(
            InvalidOption::Ttl.to_string(),
            "ttl_ms must be a whole number of milliseconds, 1 to 86400000"
        );
    }

    #[test]
    fn members_are_told_apart_by_their_text() {
        let object = r#"{"id":7,"name":"\u0061","none":null,"list":[1]}"#;
        assert_eq!(member_text(object, "id").as_deref(), Some("7"));
        assert_eq!(member_text(object, "name").as_deref(), Some("a"));
        assert_eq!(member_text(object, "list").as_deref(), Some("[1]"));
        assert_eq!(
            (member_text(object, "none"), member_text(object, "x"), member_text("[]", "x")),
            (None, None, None)
        );
        let text = r#"{"type":"broadcast","event":"e","payload":{"a": 1}}"#;
        assert_eq!(event_and_payload(text), Some(("e".to_owned(), r#"{"a": 1}"#)));
        assert_eq!((event_and_payload("7"), event_and_payload(r#"{"event":7}"#)), (None, None));
    }
}
