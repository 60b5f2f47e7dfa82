//! What is on its way to one socket: shared frames, written many at a time, bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use walcast_wire::Frame;

/// Frames that one system call writes at most; Linux takes up to 1,024, more than 64 gains nothing.
const SLICES_PER_WRITE: usize = 64;

/// The writing half of a connection, as the gateway provides it. No call blocks.
pub trait Socket: Send + Sync + 'static {
    /// Hands bytes to the kernel; `WouldBlock` when its buffer is full.
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Asks for one [`crate::Command::Writable`] once the kernel takes bytes again.
    fn notify_writable(&self);

    /// Everything that will be written has been: the connection may end.
    fn finish(&self);

    /// The session is closing: what is queued is written, but not waited for without end, and nothing that
    /// comes in is looked at any more.
    fn closing(&self);
}

/// The outbound queue of one session.
pub(crate) struct Outbound {
    socket: Arc<dyn Socket>,
    queue: VecDeque<Bytes>,
    /// How much of the first frame is written.
    written_of_first: usize,
    queued_bytes: usize,
    queued_bytes_max: usize,
    /// Of the queued bytes, those that have been counted elsewhere.
    counted_bytes: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Writes go straight to the kernel.
    Open,
    /// The kernel's buffer is full; a `Writable` command will come.
    Blocked,
    /// The last frame is queued; nothing follows it.
    Closing { blocked: bool },
    /// All is written.
    Finished,
    /// The socket failed while it was open.
    Cut,
}

/// The queue would pass its bound: the peer reads too slowly.
#[derive(Debug)]
pub(crate) struct Overflow;

impl Outbound {
    pub(crate) fn new(socket: Arc<dyn Socket>, queued_bytes_max: usize) -> Self {
        Outbound {
            socket,
            queue: VecDeque::new(),
            written_of_first: 0,
            queued_bytes: 0,
            queued_bytes_max,
            counted_bytes: 0,
            state: State::Open,
        }
    }

    /// Queues a frame. A single frame larger than the bound passes when the queue is empty.
    pub(crate) fn push(&mut self, frame: Bytes) -> Result<(), Overflow> {
        if self.is_over() {
            return Ok(());
        }
        if self.queued_bytes > 0 && self.queued_bytes + frame.len() > self.queued_bytes_max {
            return Err(Overflow);
        }
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
        Ok(())
    }

    /// Makes `frame` the last one; `discard` drops what is queued before it. False when there was a last one before.
    pub(crate) fn close(&mut self, frame: &Frame, discard: bool) -> bool {
        if self.is_over() {
            return false;
        }
        if discard {
            // A frame that is half written must be completed, or the close frame would be garbage.
            self.queue.truncate(usize::from(self.written_of_first > 0));
            self.queued_bytes = self.queue.iter().map(Bytes::len).sum::<usize>() - self.written_of_first;
        }
        self.queue.push_back(frame.bytes().clone());
        self.queued_bytes += frame.len();
        self.state = State::Closing { blocked: self.state == State::Blocked };
        self.socket.closing();
        true
    }

    /// Ends without a word: the peer is gone.
    pub(crate) fn abandon(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        // Who has been sent a last frame, or has sent one, need not wait for it.
        self.state = match self.state {
            State::Open | State::Blocked | State::Cut => State::Cut,
            State::Closing { .. } | State::Finished => State::Finished,
        };
        self.socket.closing();
        self.socket.finish();
    }

    /// Whether the socket failed while it was open.
    pub(crate) fn is_cut(&self) -> bool {
        self.state == State::Cut
    }

    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// How many more bytes wait than at the last call; fewer are negative.
    pub(crate) fn take_growth(&mut self) -> i64 {
        let before = std::mem::replace(&mut self.counted_bytes, self.queued_bytes);
        // Neither is near what 64 bits hold.
        self.queued_bytes.cast_signed() as i64 - before.cast_signed() as i64
    }

    /// Nothing can be added.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Closing { .. } | State::Finished | State::Cut)
    }

    /// The kernel takes bytes again.
    pub(crate) fn writable(&mut self) {
        self.state = match self.state {
            State::Blocked => State::Open,
            State::Closing { .. } => State::Closing { blocked: false },
            other => other,
        };
    }

    /// Writes what the kernel takes.
    pub(crate) fn flush(&mut self) {
        let waits = matches!(self.state, State::Blocked | State::Closing { blocked: true });
        if waits || matches!(self.state, State::Finished | State::Cut) {
            return;
        }
        while !self.queue.is_empty() {
            match self.write_once() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.state = match self.state {
                        State::Closing { .. } => State::Closing { blocked: true },
                        _ => State::Blocked,
                    };
                    self.socket.notify_writable();
                    return;
                }
                Err(_) => return self.abandon(),
            }
        }
        // Most sessions wait most of the time: an empty queue takes no memory.
        self.queue = VecDeque::new();
        if matches!(self.state, State::Closing { .. }) {
            self.state = State::Finished;
            self.socket.finish();
        }
    }

    fn write_once(&mut self) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.queue) {
            let start = if count == 0 { self.written_of_first } else { 0 };
            *slice = IoSlice::new(&frame[start..]);
            count += 1;
        }
        let written = self.socket.try_write(&slices[..count])?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(written);
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.queued_bytes -= written;
        while let Some(first) = self.queue.front() {
            let rest = first.len() - self.written_of_first;
            if written < rest {
                self.written_of_first += written;
                return;
            }
            written -= rest;
            self.written_of_first = 0;
            self.queue.pop_front();
        }
        // An idle session keeps no buffer that a burst has grown.
        if self.queue.capacity() > SLICES_PER_WRITE {
            self.queue.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A socket that takes a given number of bytes per call and records what it is told.
    #[derive(Default)]
    struct Recorder {
        taken: Mutex<Vec<u8>>,
        room: Mutex<usize>,
        told: Mutex<Vec<&'static str>>,
    }

    impl Recorder {
        fn with_room(room: usize) -> Arc<Self> {
            Arc::new(Recorder { room: Mutex::new(room), ..Recorder::default() })
        }

        fn text(&self) -> String {
            String::from_utf8(self.taken.lock().unwrap().clone()).unwrap()
        }
    }

    impl Socket for Recorder {
        fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            if *room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut count = 0;
            for buffer in buffers {
                let part = buffer.len().min(*room);
                self.taken.lock().unwrap().extend_from_slice(&buffer[..part]);
                *room -= part;
                count += part;
            }
            Ok(count)
        }

        fn notify_writable(&self) {
            self.told.lock().unwrap().push("notify");
        }

        fn finish(&self) {
            self.told.lock().unwrap().push("finish");
        }

        fn closing(&self) {
            self.told.lock().unwrap().push("closing");
        }
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_little_the_kernel_takes() {
        let socket = Recorder::with_room(4);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        outbound.push(Bytes::from_static(b"abc")).unwrap();
        outbound.push(Bytes::from_static(b"defg")).unwrap();
        outbound.flush();
        assert_eq!(socket.text(), "abcd");
        for _ in 0..3 {
            *socket.room.lock().unwrap() = 1;
            outbound.writable();
            outbound.flush();
        }
        assert_eq!(socket.text(), "abcdefg");
        assert_eq!(outbound.queued_bytes, 0);
    }

    #[test]
    fn a_queue_over_its_bound_is_refused_but_a_single_large_frame_passes() {
        let mut outbound = Outbound::new(Recorder::with_room(0), 10);
        outbound.push(Bytes::from(vec![0; 50])).unwrap();
        assert!(outbound.push(Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn a_close_that_discards_completes_the_frame_that_is_half_written() {
        let socket = Recorder::with_room(2);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        outbound.push(Bytes::from_static(b"abc")).unwrap();
        outbound.push(Bytes::from_static(b"never")).unwrap();
        outbound.flush();
        let close = Frame::close(1013, "slow");
        assert!(outbound.close(&close, true));
        assert!(!outbound.close(&close, true), "there is one last frame");
        *socket.room.lock().unwrap() = 100;
        outbound.writable();
        outbound.flush();
        let taken = socket.taken.lock().unwrap().clone();
        assert_eq!(taken, [b"abc".as_slice(), close.bytes()].concat());
        assert_eq!(*socket.told.lock().unwrap(), ["notify", "closing", "finish"]);
    }
}
