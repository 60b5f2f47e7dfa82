//! The number of a binding, and the hash it comes from (docs/protocol.md §3.3).

use std::fmt;

use serde_json::{Map, Value};

/// The number of a binding in the join reply and in `ids` of later pushes: a hash of its object, 1 to 2^27-1. Equal
/// objects have equal ids, whatever the order of their keys, in every process and version. Never 0, which clients take
/// for missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingId(u32);

impl BindingId {
    const BITS: u32 = 27;

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// An `id` the client sent with the object does not count: it may be the one of an earlier reply. Neither do `since` and
    /// `snapshot`, which say what this client has and nothing of what it is to get live.
    pub(crate) fn of(object: &Map<String, Value>) -> Self {
        let mut hash = StableHash::new();
        hash.object(object.iter().filter(|(key, _)| !matches!(key.as_str(), "id" | "since" | "snapshot")));
        let bits = hash.finish();
        let folded = (bits ^ (bits >> Self::BITS) ^ (bits >> (2 * Self::BITS))) & ((1 << Self::BITS) - 1);
        BindingId(u32::try_from(folded).unwrap_or(1).max(1))
    }
}

impl fmt::Display for BindingId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// FNV-1a over a JSON value, the keys of objects in sorted order. Written here because clients see the result: it must
/// not change with a dependency, a seed, or `serde_json`'s choice of map.
struct StableHash(u64);

impl StableHash {
    fn new() -> Self {
        StableHash(0xCBF2_9CE4_8422_2325)
    }

    fn object<'a>(&mut self, entries: impl Iterator<Item = (&'a String, &'a Value)>) {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(key, _)| *key);
        self.bytes(b"{");
        for (key, value) in entries {
            self.text(key);
            self.value(value);
        }
        self.bytes(b"}");
    }

    /// The depth is bounded by the JSON parser that made the value.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(true) => self.bytes(b"t"),
            Value::Bool(false) => self.bytes(b"f"),
            Value::Number(number) => {
                self.bytes(b"0");
                self.text(&number.to_string());
            }
            Value::String(text) => {
                self.bytes(b"\"");
                self.text(text);
            }
            Value::Array(elements) => {
                self.bytes(b"[");
                for element in elements {
                    self.value(element);
                }
                self.bytes(b"]");
            }
            Value::Object(object) => self.object(object.iter()),
        }
    }

    /// With its length in front, so that no two lists of texts look the same.
    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> BindingId {
        BindingId::of(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_keys_and_do_on_everything_else() {
        let first = id(r#"{"event":"*","schema":"public","table":"t","x":{"a":1,"b":2}}"#);
        assert_eq!(first, id(r#"{ "x":{"b":2,"a":1},"table":"t","schema":"public","event":"*" }"#));
        assert_ne!(first, id(r#"{"event":"*","schema":"public","table":"u","x":{"a":1,"b":2}}"#));
        assert_ne!(id(r#"{"a":["b","c"]}"#), id(r#"{"a":["bc"]}"#));
        assert_ne!(id(r#"{"a":"1"}"#), id(r#"{"a":1}"#));
        assert_ne!(id(r#"{"a":null}"#), id("{}"));
    }

    #[test]
    fn ids_never_change_between_versions() {
        let id = id(r#"{"event":"*","schema":"public","table":"t","filter":"id=eq.1"}"#);
        assert_eq!(id.get(), 40_402_240);
    }

    #[test]
    fn ids_are_never_zero_and_fit_27_bits() {
        for number in 0..10_000 {
            let id = id(&format!(r#"{{"table":"t{number}"}}"#)).get();
            assert!((1..1 << 27).contains(&id));
        }
    }
}
