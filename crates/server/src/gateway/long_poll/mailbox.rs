//! What waits to be fetched: the shard writes frames into it as into a socket, requests take messages out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use walcast_engine::Socket;
use walcast_wire::{Frame, FrameReader, Opcode};

/// Bytes that wait here; more stays in the session's outbound queue, which is bounded itself.
const BYTES_MAX: usize = 256 << 10;

/// A mailbox and the bells of it.
#[derive(Default)]
pub(super) struct Mailbox {
    contents: Mutex<Contents>,
    /// There is something to fetch, or nothing will come any more.
    filled: Notify,
    /// There is room again, for a writer that found none.
    pub(super) drained: Notify,
    /// The last frame is queued.
    pub(super) closing: Notify,
    /// What was fetched has arrived: [`Mailbox::arrived`] tells what.
    pub(super) acknowledged: Notify,
}

#[derive(Default)]
struct Contents {
    reader: FrameReader,
    messages: VecDeque<String>,
    bytes: usize,
    pings: Pings,
    /// A writer found no room.
    writer_waits: bool,
    /// Everything has been written.
    finished: bool,
}

/// The pings that came with the messages: nobody answers them here, but who fetches more has got what it was given.
#[derive(Default)]
struct Pings {
    /// The last one behind messages that wait.
    waiting: Option<u32>,
    /// The last one behind messages that were fetched.
    fetched: Option<u32>,
    /// The last one behind messages that have arrived, where that is news.
    arrived: Option<u32>,
}

impl Mailbox {
    /// The messages that are there, at once or when some come; `None` when none are and none will come.
    pub(super) async fn take(&self) -> Option<Vec<String>> {
        self.acknowledge();
        loop {
            let told = self.filled.notified();
            // Asked first: what comes before the end must not be left behind.
            let finished = self.contents().finished;
            let messages = self.take_now();
            if !messages.is_empty() {
                return Some(messages);
            }
            if finished {
                return None;
            }
            told.await;
        }
    }

    /// Who asks for more has got what it was given.
    fn acknowledge(&self) {
        let mut contents = self.contents();
        if let Some(ping) = contents.pings.fetched.take() {
            contents.pings.arrived = Some(ping);
            self.acknowledged.notify_one();
        }
    }

    /// The number of the last ping that what has arrived came before, if that is news.
    pub(super) fn arrived(&self) -> Option<u32> {
        self.contents().pings.arrived.take()
    }

    /// Whether everything has been written and fetched.
    pub(super) fn is_done(&self) -> bool {
        let contents = self.contents();
        contents.finished && contents.messages.is_empty()
    }

    /// What is there.
    fn take_now(&self) -> Vec<String> {
        let mut contents = self.contents();
        contents.bytes = 0;
        if let Some(ping) = contents.pings.waiting.take() {
            if contents.messages.is_empty() {
                // It stands behind what has arrived, since it is being asked for more.
                contents.pings.arrived = Some(ping);
                self.acknowledged.notify_one();
            } else {
                contents.pings.fetched = Some(ping);
            }
        }
        if std::mem::take(&mut contents.writer_waits) {
            self.drained.notify_one();
        }
        std::mem::take(&mut contents.messages).into()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Plain data: a panic elsewhere can not have left it half changed.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Socket for Mailbox {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut contents = self.contents();
        if contents.bytes >= BYTES_MAX {
            contents.writer_waits = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for buffer in buffers {
            contents.reader.extend(buffer);
            written += buffer.len();
        }
        while let Some(frame) = contents.reader.next_frame() {
            if frame.opcode() == Opcode::Ping {
                contents.pings.waiting = walcast_wire::ping_number(&frame.payload());
            } else if let Some(message) = message_of(&frame) {
                contents.bytes += message.len();
                contents.messages.push_back(message);
            }
        }
        drop(contents);
        self.filled.notify_waiters();
        Ok(written)
    }

    /// The writer has been noted when it found no room.
    fn notify_writable(&self) {}

    fn writable(&self) -> BoxFuture<'_, ()> {
        self.drained.notified().boxed()
    }

    fn finish(&self) {
        self.contents().finished = true;
        self.filled.notify_waiters();
    }

    fn closing(&self) {
        self.closing.notify_one();
    }
}

/// A frame as the text of a message; `None` for one that has no such form, and for control frames.
fn message_of(frame: &Frame) -> Option<String> {
    let text = |frame: &Frame| String::from_utf8(frame.payload().to_vec()).ok();
    match frame.opcode() {
        Opcode::Text => text(frame),
        Opcode::Binary => walcast_wire::user_broadcast_as_text(&frame.payload()).as_ref().and_then(text),
        Opcode::Close | Opcode::Ping => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn write(mailbox: &Mailbox, frame: &Frame) -> io::Result<usize> {
        mailbox.try_write(&[IoSlice::new(frame.bytes())])
    }

    #[tokio::test]
    async fn frames_come_out_as_messages_in_order() {
        let mailbox = Mailbox::default();
        write(&mailbox, &Frame::text(b"one")).unwrap();
        write(&mailbox, &Frame::text(b"two")).unwrap();
        assert_eq!(mailbox.take().await, Some(vec!["one".to_owned(), "two".to_owned()]));
        write(&mailbox, &Frame::close(1012, "")).unwrap();
        mailbox.finish();
        assert_eq!(mailbox.take().await, None);
    }

    #[tokio::test]
    async fn a_ping_is_answered_by_whoever_asks_for_more_behind_it() {
        let mailbox = Mailbox::default();
        write(&mailbox, &Frame::text(b"one")).unwrap();
        write(&mailbox, &Frame::ping(7)).unwrap();
        assert_eq!(mailbox.take().await.unwrap().len(), 1);
        assert_eq!(mailbox.arrived(), None, "the answer may be lost");
        write(&mailbox, &Frame::text(b"two")).unwrap();
        assert_eq!(mailbox.take().await.unwrap().len(), 1);
        assert_eq!((mailbox.arrived(), mailbox.arrived()), (Some(7), None));
        mailbox.acknowledged.notified().await;
        write(&mailbox, &Frame::ping(8)).unwrap();
        assert!(mailbox.take().now_or_never().is_none(), "there is no message");
        assert_eq!(mailbox.arrived(), Some(8), "it came behind what has arrived");
    }

    #[tokio::test]
    async fn a_full_mailbox_takes_nothing_more_until_it_is_fetched() {
        let mailbox = Mailbox::default();
        write(&mailbox, &Frame::text(&vec![b'x'; BYTES_MAX])).unwrap();
        assert_eq!(write(&mailbox, &Frame::text(b"y")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(mailbox.take().await.unwrap().len(), 1);
        mailbox.drained.notified().await;
        write(&mailbox, &Frame::text(b"y")).unwrap();
    }
}
