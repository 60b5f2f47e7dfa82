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
}

#[derive(Default)]
struct Contents {
    reader: FrameReader,
    messages: VecDeque<String>,
    bytes: usize,
    /// A writer found no room.
    writer_waits: bool,
    /// Everything has been written.
    finished: bool,
}

impl Mailbox {
    /// The messages that are there, at once or when some come; `None` when none are and none will come.
    pub(super) async fn take(&self) -> Option<Vec<String>> {
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

    /// Whether everything has been written and fetched.
    pub(super) fn is_done(&self) -> bool {
        let contents = self.contents();
        contents.finished && contents.messages.is_empty()
    }

    /// What is there.
    fn take_now(&self) -> Vec<String> {
        let mut contents = self.contents();
        contents.bytes = 0;
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
            if let Some(message) = message_of(&frame) {
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
        Opcode::Close => None,
    }
}

#[cfg(test)]
mod tests {
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
    async fn a_full_mailbox_takes_nothing_more_until_it_is_fetched() {
        let mailbox = Mailbox::default();
        write(&mailbox, &Frame::text(&vec![b'x'; BYTES_MAX])).unwrap();
        assert_eq!(write(&mailbox, &Frame::text(b"y")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(mailbox.take().await.unwrap().len(), 1);
        mailbox.drained.notified().await;
        write(&mailbox, &Frame::text(b"y")).unwrap();
    }
}
