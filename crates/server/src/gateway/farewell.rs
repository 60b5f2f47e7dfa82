//! The end of a connection that the server, or a close frame of the client, has ended.
//!
//! A connection that is dropped with unread bytes is reset, and a reset can overtake the close frame. So the
//! last frame goes out first, then the end of the stream, and meanwhile whatever the client still sends is
//! taken and not looked at, until the client hangs up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walcast_engine::{Command, Departure};

use super::connection::Connection;

/// How long a closing connection may take for what is still queued.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How long a client may take to hang up once it has been sent everything.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// Bytes that are taken from a closing client; who sends more is cut off.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

impl Connection {
    /// Waits for the last frame to be written and for the client to hang up, neither without end.
    pub(super) async fn farewell(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut discarding = std::pin::pin!(shared.discard(DISCARDED_BYTES_MAX));
        let mut give_up_at = Instant::now() + CLOSE_GRACE;
        let (mut written, mut hung_up) = (false, false);
        while !(written && hung_up) {
            tokio::select! {
                () = shared.finished.notified(), if !written => {
                    written = true;
                    shared.end_writing();
                    // For everybody else the session is over now.
                    self.client.session.send(Command::Gone(self.client.session.id, Departure::Closed)).await;
                    give_up_at = give_up_at.min(Instant::now() + HANG_UP_GRACE);
                }
                () = discarding.as_mut(), if !hung_up => hung_up = true,
                () = shared.blocked.notified(), if !self.blocked => self.blocked = true,
                writable = shared.writable(), if self.blocked => {
                    self.blocked = false;
                    if writable.is_err() {
                        return;
                    }
                    self.client.session.send(Command::Writable(self.client.session.id)).await;
                }
                () = tokio::time::sleep_until(give_up_at) => return,
            }
        }
    }
}
