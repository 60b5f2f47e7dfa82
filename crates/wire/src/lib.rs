//! Phoenix messages, serializers, join payloads, the filter grammar, JSON of row values, WebSocket frames. No I/O.

pub mod value;
