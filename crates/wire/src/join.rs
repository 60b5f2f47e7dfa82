//! The payload of `phx_join` (docs/protocol.md §3.2, §3.8, §3.9).
//!
//! A field that can not be understood takes its default and is named in [`JoinPayload::invalid_fields`]; the join goes
//! on. The one exception is `private`: guessing it could put a channel that was meant to be private in public.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::access_token::is_opaque_key;
use crate::binding::Binding;
use crate::json_text;
use crate::object::{self, JsonKind};

/// What a client asks for when it joins a channel.
#[derive(Clone, Debug)]
pub struct JoinPayload {
    /// How broadcasts are handled.
    pub broadcast: BroadcastConfig,
    /// How presence is handled.
    pub presence: PresenceConfig,
    /// Whether the channel is private, that is, guarded by policies.
    pub private: bool,
    /// The row changes that are asked for, in the client's order.
    pub bindings: Vec<Binding>,
    /// Set when the join reply is to wait until the bindings are subscribed. Never set without bindings.
    pub wait: Option<Wait>,
    /// A join without `config`: changes are pushed in the old form (docs/protocol.md §3.8).
    pub legacy: bool,
    /// The token of this channel.
    pub token: ChannelToken,
    /// The fields that were not understood and took their default, such as `config.broadcast.self`. For the log.
    pub invalid_fields: Vec<&'static str>,
}

/// `config.broadcast`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastConfig {
    /// `self`: the channel gets its own broadcasts too.
    pub receive_own: bool,
    /// `ack`: every broadcast push is replied to.
    pub acknowledge: bool,
    /// `replay`: stored messages are sent after the join.
    pub replay: Option<Replay>,
    /// `replication_ready`: a `system` message is wanted when broadcasts from the database arrive.
    pub replication_ready: bool,
}

/// `config.broadcast.replay` (docs/protocol.md §6.4). Whether it is allowed is known once the token is verified, so
/// that a wrong one is not refused here but by [`JoinPayload::replay_refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The newest messages since a moment.
    Since {
        /// The moment, in milliseconds since 1970-01-01 00:00 UTC.
        unix_ms: i64,
        /// How many, 1 to 25.
        limit: u8,
    },
    /// An object that does not say so.
    InvalidParameters,
    /// Not an object: as if it were not there, except that a public channel may not even have that.
    NotAnObject,
}

/// `config.presence`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceConfig {
    /// The key under which the channel is listed; `None` when the server is to make one.
    pub key: Option<String>,
    /// Whether `presence_state` is sent after the join.
    pub enabled: bool,
}

/// `config.postgres_changes_options` with `wait` (docs/protocol.md §3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long the reply may be withheld, in milliseconds: 1 to 20 000.
    pub timeout_ms: u64,
}

/// Whose token guards the channel. Its debug text does not show the token.
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelToken {
    /// The one of the handshake.
    Socket,
    /// The one in the join. It may be empty, which is a malformed token.
    Own(String),
}

/// A join that is refused for its payload. The text is the `reason` of the reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The payload, `config` or an entry of `postgres_changes` is not an object.
    #[error("UnknownErrorOnChannel: {field} must be an object, got {got}")]
    NotAnObject {
        /// Where.
        field: &'static str,
        /// What stands there.
        got: &'static str,
    },
    /// An entry of `postgres_changes` is no object that can be read.
    #[error("UnknownErrorOnChannel: an entry of config.postgres_changes can not be read: {0}")]
    Binding(String),
    /// `private` could be meant either way.
    #[error("InvalidJoinPayload: config.private must be true or false, got {0}")]
    Private(String),
}

/// The default and the cap of `wait`'s timeout.
const WAIT_MS_DEFAULT: u64 = 15_000;
const WAIT_MS_MAX: u64 = 20_000;

/// Default and most of the messages a replay sends.
const REPLAY_LIMIT_MAX: u8 = 25;
/// The last millisecond of the year 9999 and the first of the year 0, beyond which a moment is no date.
const REPLAY_MS_RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

impl JoinPayload {
    /// Reads the payload of `phx_join` on the topic `realtime:<sub_topic>`.
    pub fn parse(sub_topic: &str, payload: &RawValue) -> Result<Self, JoinError> {
        let no_payload = JsonKind::of(payload) == JsonKind::Null;
        let fields = object::pick(payload, ["config", "access_token", "user_token"]);
        let [config, access_token, user_token] = match fields {
            None if no_payload => [None; 3],
            None => return Err(not_an_object("the join payload", payload)),
            Some(fields) => fields,
        };
        let token = ChannelToken::choose(access_token, user_token);
        let Some(config) = config else {
            return Ok(Self::legacy(sub_topic, token));
        };
        let mut fields = Fields::default();
        let names = ["broadcast", "presence", "postgres_changes", "private", "postgres_changes_options"];
        let [broadcast, presence, changes, private, options] = match object::pick(config, names) {
            Some(values) => values,
            None if JsonKind::of(config) == JsonKind::Null => [None; 5],
            None => return Err(not_an_object("config", config)),
        };
        let bindings = fields.bindings(changes)?;
        let wait = fields.wait(options).filter(|_| !bindings.is_empty());
        Ok(JoinPayload {
            broadcast: fields.broadcast(broadcast),
            presence: fields.presence(presence),
            private: is_private(private)?,
            bindings,
            wait,
            legacy: false,
            token,
            invalid_fields: fields.invalid,
        })
    }

    /// Why the replay that is asked for is refused, as the `reason` of the join reply; `None` when it is not.
    pub fn replay_refusal(&self) -> Option<&'static str> {
        match self.broadcast.replay {
            Some(_) if !self.private => {
                Some("UnableToReplayMessages: Replay is not allowed for public channels")
            }
            Some(Replay::InvalidParameters) => Some("UnableToReplayMessages: Replay params are not valid"),
            _ => None,
        }
    }

    /// A join without `config`: the sub-topic, read as `schema[:table[:filter]]`, is its one binding.
    fn legacy(sub_topic: &str, token: ChannelToken) -> Self {
        let members: Vec<String> = ["schema", "table", "filter"]
            .into_iter()
            .zip(sub_topic.splitn(3, ':'))
            .map(|(name, value)| format!("\"{name}\":{}", json_text::quoted(value)))
            .collect();
        JoinPayload {
            broadcast: BroadcastConfig::default(),
            presence: PresenceConfig::default(),
            private: false,
            bindings: Binding::parse(&format!("{{{}}}", members.join(","))).into_iter().collect(),
            wait: None,
            legacy: true,
            token,
            invalid_fields: Vec::new(),
        }
    }
}

impl Wait {
    /// The `reason` of the join reply when the time is over.
    pub fn timeout_reason(self) -> String {
        let timeout = self.timeout_ms;
        format!(
            "PostgresChangesSubscribeTimeout: Timed out after {timeout}ms waiting for the postgres_changes subscription"
        )
    }
}

impl fmt::Debug for ChannelToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ChannelToken::Socket => "Socket",
            ChannelToken::Own(_) => "Own(<redacted>)",
        })
    }
}

impl ChannelToken {
    /// An opaque key in front stands for the socket's token; else a `user_token` wins over an `access_token`.
    fn choose(access_token: Option<&RawValue>, user_token: Option<&RawValue>) -> Self {
        let given = |token: &&RawValue| !matches!(token.get(), "null" | "false");
        let first = access_token.filter(given).or(user_token).and_then(object::string);
        if first.is_some_and(|token| is_opaque_key(&token)) {
            return ChannelToken::Socket;
        }
        let token = user_token.and_then(object::string).or_else(|| access_token.and_then(object::string));
        token.map_or(ChannelToken::Socket, |token| ChannelToken::Own(token.into_owned()))
    }
}

/// Reads fields leniently and remembers the names of those that were wrong. Null reads as not given.
#[derive(Default)]
struct Fields {
    invalid: Vec<&'static str>,
}

impl Fields {
    fn broadcast(&mut self, value: Option<&RawValue>) -> BroadcastConfig {
        let names = ["self", "ack", "replay", "replication_ready"];
        let [own, acknowledge, replay, ready] = self.members("config.broadcast", value, names);
        BroadcastConfig {
            receive_own: self.boolean("config.broadcast.self", own),
            acknowledge: self.boolean("config.broadcast.ack", acknowledge),
            replay: self.replay(replay),
            replication_ready: self.boolean("config.broadcast.replication_ready", ready),
        }
    }

    fn presence(&mut self, value: Option<&RawValue>) -> PresenceConfig {
        let [key, enabled] = self.members("config.presence", value, ["key", "enabled"]);
        PresenceConfig {
            key: self.presence_key(key),
            enabled: self.boolean("config.presence.enabled", enabled),
        }
    }

    /// A string as it is, a number as its text; empty and null mean none.
    fn presence_key(&mut self, value: Option<&RawValue>) -> Option<String> {
        let value = given(value)?;
        let key = match JsonKind::of(value) {
            JsonKind::Number => Some(Cow::Borrowed(value.get())),
            _ => object::string(value),
        };
        if key.is_none() {
            self.invalid.push("config.presence.key");
        }
        key.filter(|key| !key.is_empty()).map(Cow::into_owned)
    }

    fn replay(&mut self, value: Option<&RawValue>) -> Option<Replay> {
        let value = given(value)?;
        let Some([since, limit]) = object::pick(value, ["since", "limit"]) else {
            self.invalid.push("config.broadcast.replay");
            return Some(Replay::NotAnObject);
        };
        let since = given(since).and_then(integer).filter(|since| REPLAY_MS_RANGE.contains(since));
        let limit = given(limit).map_or(Some(i64::from(REPLAY_LIMIT_MAX)), integer);
        let (Some(unix_ms), Some(limit)) = (since, limit) else {
            return Some(Replay::InvalidParameters);
        };
        let limit = u8::try_from(limit.clamp(1, i64::from(REPLAY_LIMIT_MAX))).unwrap_or(REPLAY_LIMIT_MAX);
        Some(Replay::Since { unix_ms, limit })
    }

    /// The entries of `postgres_changes`, nulls dropped. An entry that is no object refuses the join.
    fn bindings(&mut self, value: Option<&RawValue>) -> Result<Vec<Binding>, JoinError> {
        let Some(value) = given(value) else {
            return Ok(Vec::new());
        };
        let Some(entries) = object::elements(value) else {
            self.invalid.push("config.postgres_changes");
            return Ok(Vec::new());
        };
        let is_given = |entry: &&RawValue| JsonKind::of(entry) != JsonKind::Null;
        let read = |entry: &RawValue| {
            Binding::parse(entry.get()).map_err(|error| JoinError::Binding(error.to_string()))
        };
        entries.into_iter().filter(is_given).map(read).collect()
    }

    fn wait(&mut self, value: Option<&RawValue>) -> Option<Wait> {
        let names = ["wait", "timeout"];
        let [wait, timeout] = self.members("config.postgres_changes_options", value, names);
        let timeout_ms = match given(timeout) {
            None => WAIT_MS_DEFAULT,
            Some(timeout) => self.timeout(timeout),
        };
        self.boolean("config.postgres_changes_options.wait", wait).then_some(Wait { timeout_ms })
    }

    fn timeout(&mut self, value: &RawValue) -> u64 {
        let timeout = integer(value).and_then(|timeout| u64::try_from(timeout).ok());
        if let Some(timeout) = timeout.filter(|timeout| *timeout > 0) {
            return timeout.min(WAIT_MS_MAX);
        }
        self.invalid.push("config.postgres_changes_options.timeout");
        WAIT_MS_DEFAULT
    }

    fn boolean(&mut self, name: &'static str, value: Option<&RawValue>) -> bool {
        let Some(value) = given(value) else { return false };
        flexible_boolean(value).unwrap_or_else(|| {
            self.invalid.push(name);
            false
        })
    }

    /// The members of an object field, or none when it is not given or not an object.
    fn members<'a, const N: usize>(
        &mut self,
        name: &'static str,
        value: Option<&'a RawValue>,
        names: [&str; N],
    ) -> [Option<&'a RawValue>; N] {
        let Some(value) = given(value) else {
            return [None; N];
        };
        object::pick(value, names).unwrap_or_else(|| {
            self.invalid.push(name);
            [None; N]
        })
    }
}

fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| JsonKind::of(value) != JsonKind::Null)
}

/// `true`, `false`, or these words as a string in any letter case.
fn flexible_boolean(value: &RawValue) -> Option<bool> {
    match value.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            let word = object::string(value)?;
            let is = |wanted: &str| word.eq_ignore_ascii_case(wanted);
            if is("true") { Some(true) } else { is("false").then_some(false) }
        }
    }
}

/// A JSON number without fraction or exponent that fits 64 bits.
fn integer(value: &RawValue) -> Option<i64> {
    value.get().parse().ok()
}

fn is_private(value: Option<&RawValue>) -> Result<bool, JoinError> {
    const SHOWN_BYTES_MAX: usize = 40;
    let Some(value) = given(value) else {
        return Ok(false);
    };
    flexible_boolean(value)
        .ok_or_else(|| JoinError::Private(json_text::shortened(value.get(), SHOWN_BYTES_MAX)))
}

fn not_an_object(field: &'static str, value: &RawValue) -> JoinError {
    JoinError::NotAnObject { field, got: JsonKind::of(value).as_str() }
}
