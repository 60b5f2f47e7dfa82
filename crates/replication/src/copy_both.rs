//! What travels inside `CopyData` once streaming has begun (PostgreSQL docs, "Streaming Replication Protocol").

use std::time::SystemTime;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use walcast_pgoutput::{Lsn, PgTimestamp};

/// One message of the walsender.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromServer {
    /// `XLogData`: one message of the output plugin.
    Data { wal_start: Lsn, wal_end: Lsn, payload: Bytes },
    /// Primary keep-alive. `reply_requested`: an answer is expected at once, or the server ends the connection.
    KeepAlive { wal_end: Lsn, reply_requested: bool },
}

/// Bytes that are none of the above.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CopyDataError {
    #[error("an empty CopyData message")]
    Empty,
    #[error("CopyData of type 0x{0:02x}, expected 'w' (XLogData) or 'k' (keep-alive)")]
    UnknownType(u8),
    #[error("CopyData of type '{kind}' has {actual} bytes, expected at least {expected}")]
    Short { kind: char, actual: usize, expected: usize },
}

/// Type byte, start, end, server clock.
const DATA_HEADER_BYTES: usize = 1 + 8 + 8 + 8;
/// Type byte, end, server clock, reply flag.
const KEEP_ALIVE_BYTES: usize = 1 + 8 + 8 + 1;

impl FromServer {
    pub(crate) fn parse(mut body: Bytes) -> Result<Self, CopyDataError> {
        let actual = body.len();
        match body.first() {
            None => Err(CopyDataError::Empty),
            Some(b'w') if actual >= DATA_HEADER_BYTES => {
                body.advance(1);
                let wal_start = Lsn(body.get_u64());
                let wal_end = Lsn(body.get_u64());
                body.advance(8);
                Ok(FromServer::Data { wal_start, wal_end, payload: body })
            }
            Some(b'k') if actual >= KEEP_ALIVE_BYTES => {
                body.advance(1);
                let wal_end = Lsn(body.get_u64());
                body.advance(8);
                Ok(FromServer::KeepAlive { wal_end, reply_requested: body.get_u8() != 0 })
            }
            Some(b'w') => Err(CopyDataError::Short { kind: 'w', actual, expected: DATA_HEADER_BYTES }),
            Some(b'k') => Err(CopyDataError::Short { kind: 'k', actual, expected: KEEP_ALIVE_BYTES }),
            Some(other) => Err(CopyDataError::UnknownType(*other)),
        }
    }
}

/// A whole standby status update, `CopyData` header included: everything up to `handled` is written, and everything up to
/// `confirmed` is flushed and applied, too: the slot's position follows the latter. `reply_requested` asks the server for a sign of life.
pub(crate) fn status_update(
    handled: Lsn,
    confirmed: Lsn,
    now: PgTimestamp,
    reply_requested: bool,
) -> BytesMut {
    const BODY_BYTES: u32 = 1 + 8 + 8 + 8 + 8 + 1;
    let mut message = BytesMut::with_capacity(40);
    message.put_u8(b'd');
    message.put_u32(4 + BODY_BYTES);
    message.put_u8(b'r');
    message.put_u64(handled.0);
    message.put_u64(confirmed.0);
    message.put_u64(confirmed.0);
    message.put_i64(now.0);
    message.put_u8(u8::from(reply_requested));
    message
}

/// The present moment as the replication protocol counts it. The server only shows it (`pg_stat_replication.reply_time`).
pub(crate) fn now() -> PgTimestamp {
    let since_unix_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_microseconds(i64::try_from(since_unix_epoch.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_carries_its_positions_and_the_plugins_bytes() {
        let body = Bytes::from_static(
            b"w\0\0\0\x16\xb3\x74\xd8\x48\0\0\0\x16\xb3\x74\xd8\x50\0\0\0\0\0\0\0\x01BEGIN",
        );
        assert_eq!(
            FromServer::parse(body).unwrap(),
            FromServer::Data {
                wal_start: Lsn(0x16_B374_D848),
                wal_end: Lsn(0x16_B374_D850),
                payload: Bytes::from_static(b"BEGIN"),
            }
        );
    }

    #[test]
    fn a_keep_alive_says_whether_it_wants_an_answer() {
        let body = Bytes::from_static(b"k\0\0\0\0\0\0\0\x2a\0\0\0\0\0\0\0\x01\x01");
        let expected = FromServer::KeepAlive { wal_end: Lsn(42), reply_requested: true };
        assert_eq!(FromServer::parse(body).unwrap(), expected);
    }

    #[test]
    fn damaged_messages_are_refused_with_what_was_expected() {
        let refusal =
            |bytes: &'static [u8]| FromServer::parse(Bytes::from_static(bytes)).unwrap_err().to_string();
        assert_eq!(refusal(b""), "an empty CopyData message");
        assert!(refusal(b"x").contains("0x78"));
        assert!(refusal(b"w\0\0").contains("has 3 bytes, expected at least 25"));
        assert!(refusal(b"k\0\0").contains("has 3 bytes, expected at least 18"));
    }

    #[test]
    fn a_status_update_has_the_bytes_the_protocol_wants() {
        let message = status_update(Lsn(0x0103), Lsn(0x0102), PgTimestamp(3), true);
        assert_eq!(
            &message[..],
            b"d\0\0\0\x26r\0\0\0\0\0\0\x01\x03\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\x01"
        );
    }
}
