//! The payload of a `presence` push (docs/protocol.md §7.1, §7.2).

use serde_json::value::RawValue;

use crate::json_text::shortened;
use crate::object::{self, JsonKind};

/// What a client wants of presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresencePush<'a> {
    /// Show me, with this meta: the text of a JSON object, `{}` when none was given.
    Track(&'a str),
    /// Show me no longer.
    Untrack,
    /// An event there is none of; answered with an error.
    Unknown(String),
    /// No event at all; answered with ok and nothing done.
    Missing,
    /// A track whose payload is not an object; answered with [`TRACK_PAYLOAD_NOT_A_MAP`].
    NotAnObject,
}

/// The reason in the reply to a track whose payload is not an object.
pub const TRACK_PAYLOAD_NOT_A_MAP: &str = "Presence track payload must be a map";

/// How much of an unknown event's name is kept for the log.
const UNKNOWN_BYTES_MAX: usize = 64;

impl<'a> PresencePush<'a> {
    /// Reads the payload of a `presence` push. The event's letter case does not matter.
    pub fn parse(payload: &'a RawValue) -> Self {
        let Some([event, meta]) = object::pick(payload, ["event", "payload"]) else {
            return PresencePush::Missing;
        };
        let Some(event) = event.filter(|event| JsonKind::of(event) != JsonKind::Null) else {
            return PresencePush::Missing;
        };
        let Some(name) = object::string(event) else {
            return PresencePush::Unknown(shortened(event.get(), UNKNOWN_BYTES_MAX));
        };
        if name.eq_ignore_ascii_case("track") {
            return match meta {
                None => PresencePush::Track("{}"),
                Some(meta) if JsonKind::of(meta) == JsonKind::Object => PresencePush::Track(meta.get()),
                Some(_) => PresencePush::NotAnObject,
            };
        }
        if name.eq_ignore_ascii_case("untrack") {
            return PresencePush::Untrack;
        }
        PresencePush::Unknown(shortened(&name, UNKNOWN_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> PresencePush<'_> {
        PresencePush::parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn track_and_untrack_are_read_in_any_letter_case() {
        assert_eq!(
            parse(r#"{"type":"presence","event":"TRACK","payload":{"name": "a"}}"#),
            PresencePush::Track(r#"{"name": "a"}"#)
        );
        assert_eq!(parse(r#"{"event":"track"}"#), PresencePush::Track("{}"));
        assert_eq!(parse(r#"{"event":"Untrack","payload":7}"#), PresencePush::Untrack);
    }

    #[test]
    fn what_is_no_track_payload_is_told_apart() {
        for payload in ["null", "[]", "\"a\"", "1", "true"] {
            let json = format!(r#"{{"event":"track","payload":{payload}}}"#);
            assert_eq!(parse(&json), PresencePush::NotAnObject, "{payload}");
        }
    }

    #[test]
    fn unknown_and_missing_events_are_told_apart() {
        assert_eq!(parse(r#"{"event":"dance"}"#), PresencePush::Unknown("dance".to_owned()));
        assert_eq!(parse(r#"{"event":5}"#), PresencePush::Unknown("5".to_owned()));
        for json in ["{}", r#"{"event":null}"#, "null", "[]", "7", r#""track""#] {
            assert_eq!(parse(json), PresencePush::Missing, "{json}");
        }
    }
}
