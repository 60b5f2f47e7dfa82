//! The words on the wire: what clients send and what they get, as values. No I/O, no clock, no panic on any input.
//!
//! Read it from the outside in. A client's frame becomes a [`ClientMessage`] ([`client_message`], and [`binary`] for the
//! binary kinds), in the way its [`Serializer`] says; its `ref` is an opaque [`Ref`]. The payload is then read by what
//! the event is: [`join`] with its [`binding`]s (their numbers: [`binding_id`]) and [`filter`]s, [`presence`],
//! [`access_token`].
//!
//! In the other direction [`server_message`] makes replies, pushes and broadcasts, and [`change`] makes row changes from
//! values that [`value`] turns into JSON. Each comes out as a [`Frame`]: WebSocket header and message in one buffer
//! that any number of sockets share. [`json_text`] is the little that all of them need of JSON.
//!
//! docs/protocol.md describes the protocol; comments cite its sections.

pub mod access_token;
pub mod binary;
pub mod binding;
pub mod binding_id;
mod broadcast_options;
pub mod change;
pub mod client_message;
pub mod filter;
pub mod frame;
mod frame_reader;
pub mod join;
pub mod json_text;
mod object;
pub mod position;
pub mod presence;
pub mod reference;
pub mod serializer;
pub mod server_message;
mod timestamp;
pub mod value;

pub use access_token::AccessTokenPush;
pub use binary::{Encoding, UserBroadcast};
pub use binding::{Binding, BindingError, BindingEvent, BindingTarget, NamePattern, join_reply};
pub use binding_id::BindingId;
pub use broadcast_options::{BroadcastOptions, InvalidOption, event_and_payload, member_text};
pub use change::{ChangeBody, ChangeKind, ColumnHead, Field, change_frame, legacy_change_frame};
pub use client_message::{ClientMessage, ClientPayload, MalformedMessage};
pub use filter::{Condition, ConditionValue, FilterSyntaxError, Operator, parse_filter};
pub use frame::{Frame, Opcode, ping_number};
pub use frame_reader::FrameReader;
pub use join::{BroadcastConfig, ChannelToken, JoinError, JoinPayload, PresenceConfig, Replay, Wait};
pub use position::{ParsePositionError, Position};
pub use presence::PresencePush;
pub use reference::Ref;
pub use serializer::{Serializer, UnsupportedVersion};
pub use server_message::{
    ReplayedPayload, Status, broadcast, channel_close, channel_error, push, reason_response,
    replayed_broadcast, reply, sub_topic, system, user_broadcast, user_broadcast_as_text,
};
pub use value::{Shape, encode_value};
