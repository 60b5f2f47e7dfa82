//! What is on its way to one socket: shared frames, written many at a time, bounded in bytes.

mod queue;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use walcast_pgoutput::PgTimestamp;
use walcast_wire::Frame;

use self::queue::{Keys, Queue};
use crate::relief::Relief;
use crate::settings::Counters;

/// For how long a socket that takes nothing is waited for by those it holds up.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);

/// Frames that one system call writes at most; Linux takes up to 1,024, more than 64 gains nothing.
const SLICES_PER_WRITE: usize = 64;

/// The writing half of a connection, as the gateway provides it. No call blocks.
pub trait Socket: Send + Sync + 'static {
    /// Hands bytes to the kernel; `WouldBlock` when its buffer is full.
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Asks for one [`crate::Command::Writable`] once the kernel takes bytes again.
    fn notify_writable(&self);

    /// Waits until the kernel takes bytes again, beside whoever else waits for that. Never, where that can not be told.
    fn writable(&self) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }

    /// Everything that will be written has been: the connection may end.
    fn finish(&self);

    /// The session is closing: what is queued is written, but not waited for without end, and nothing that
    /// comes in is looked at any more.
    fn closing(&self);
}

/// The outbound queue of one session.
///
/// Its bound is for what waits while the kernel takes nothing: what does not fit is given to the kernel first.
pub(crate) struct Outbound {
    socket: Arc<dyn Socket>,
    queue: Queue,
    /// Of the queued bytes, those that have been counted elsewhere.
    counted_bytes: usize,
    /// What is known of a socket that has not taken everything; most have.
    behind: Option<Box<Behind>>,
    queued_bytes_max: u32,
    state: State,
    /// Something that is queued may lose its worth.
    can_expire: bool,
}

/// A socket whose kernel buffer was full, until its queue is empty again.
struct Behind {
    /// When the kernel last took bytes.
    progressed: Instant,
    /// The kernel has taken bytes since it was full.
    reads: bool,
    /// It has been waited for in vain.
    given_up: bool,
    /// Queued bytes that do not count against the bound. What came at once and is over the bound counts as half of it, so
    /// that who is taking a large frame has room for what comes behind it.
    exempt_bytes: usize,
    /// The commit of a change that waits, and the bytes up to the end of it.
    change: Option<(PgTimestamp, usize)>,
    /// Known once something with a key has come since.
    keys: Option<Keys>,
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overflow;

impl Outbound {
    /// A bound of more than 4 GiB is one of 4 GiB.
    pub(crate) fn new(socket: Arc<dyn Socket>, queued_bytes_max: usize) -> Self {
        Outbound {
            socket,
            queue: Queue::default(),
            counted_bytes: 0,
            behind: None,
            queued_bytes_max: u32::try_from(queued_bytes_max).unwrap_or(u32::MAX),
            state: State::Open,
            can_expire: false,
        }
    }

    /// Queues a frame. One of any size passes when no more than half of the bound is used, and then no second one before
    /// it is written.
    pub(crate) fn push(&mut self, frame: Bytes, counters: &Counters) -> Result<(), Overflow> {
        if !self.is_over() {
            self.admit(frame.len(), counters)?;
            self.queue.push(frame, None);
        }
        Ok(())
    }

    /// Writes a frame, or queues what the kernel does not take at once. Tells whether it has taken all.
    pub(crate) fn write(&mut self, frame: &Bytes, counters: &Counters) -> Result<bool, Overflow> {
        if self.state == State::Open && self.queue.is_empty() {
            match self.socket.try_write(&[IoSlice::new(frame)]) {
                Ok(written) if written == frame.len() => return Ok(true),
                Ok(written) => {
                    self.queue.push_begun(frame.clone(), written);
                    return Ok(false);
                }
                // It is met again, and looked at, when the queue is written.
                Err(_) => {}
            }
        }
        self.push(frame.clone(), counters).map(|()| false)
    }

    /// Queues a frame that spares a socket that is behind: in place of an older one with the same key, and only for as long
    /// as it is worth something.
    pub(crate) fn push_sparing(
        &mut self,
        frame: Bytes,
        relief: &Arc<Relief>,
        counters: &Counters,
    ) -> Result<(), Overflow> {
        if self.is_over() {
            return Ok(());
        }
        if let (Some(behind), Some(key)) = (&mut self.behind, &relief.key) {
            let keys = behind.keys.get_or_insert_with(|| Keys::of(&self.queue));
            counters.conflated_broadcasts.fetch_add(self.queue.conflate(key, keys).into(), Relaxed);
        }
        self.admit(frame.len(), counters)?;
        self.can_expire |= relief.can_expire();
        match self.behind.as_mut().and_then(|behind| behind.keys.as_mut()) {
            Some(keys) => self.queue.push_noted(frame, relief, keys),
            None => self.queue.push(frame, Some(Arc::clone(relief))),
        }
        Ok(())
    }

    /// Queues one of several frames that pass together, however large they are.
    pub(crate) fn push_part(&mut self, frame: Bytes) {
        if !self.is_over() {
            self.exempt(frame.len());
            self.queue.push(frame, None);
        }
    }

    /// Sees to it that there is room for so many bytes.
    fn admit(&mut self, bytes: usize, counters: &Counters) -> Result<(), Overflow> {
        let max = self.bytes_max();
        if self.counted_with(bytes) <= max {
            return Ok(());
        }
        self.flush(counters);
        self.expire(counters);
        let counted = self.counted_with(bytes);
        if counted <= max {
            return Ok(());
        }
        let exempt_before = self.behind.as_ref().is_some_and(|behind| behind.exempt_bytes > 0);
        if exempt_before || counted - bytes > max / 2 {
            return Err(Overflow);
        }
        self.exempt(counted - max / 2);
        Ok(())
    }

    /// Takes out what is not worth sending any more.
    fn expire(&mut self, counters: &Counters) {
        let Some(behind) = self.behind.as_mut().filter(|_| self.can_expire) else { return };
        let expired = self.queue.expire(Instant::now());
        if expired > 0 {
            counters.expired_broadcasts.fetch_add(expired as u64, Relaxed);
            behind.keys = None;
        }
    }

    /// What counts against the bound, with so many bytes more.
    fn counted_with(&self, more: usize) -> usize {
        let exempt = self.behind.as_ref().map_or(0, |behind| behind.exempt_bytes);
        self.queue.bytes().saturating_sub(exempt) + more
    }

    fn bytes_max(&self) -> usize {
        self.queued_bytes_max as usize
    }

    /// Until a socket is behind nothing needs to be exempt: it is then seen how much there is.
    fn exempt(&mut self, bytes: usize) {
        if let Some(behind) = &mut self.behind {
            behind.exempt_bytes += bytes;
        }
    }

    /// Makes `frame` the last one; `discard` drops what is queued before it. False when there was a last one before.
    pub(crate) fn close(&mut self, frame: &Frame, discard: bool) -> bool {
        if self.is_over() {
            return false;
        }
        if discard {
            self.queue.clear_unwritten();
            if let Some(behind) = &mut self.behind {
                (behind.change, behind.keys) = (None, None);
            }
        }
        self.queue.push(frame.bytes().clone(), None);
        self.state = State::Closing { blocked: self.state == State::Blocked };
        self.socket.closing();
        true
    }

    /// Ends without a word: the peer is gone.
    pub(crate) fn abandon(&mut self) {
        self.queue = Queue::default();
        self.behind = None;
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
        self.queue.bytes()
    }

    /// How many more bytes wait than at the last call; fewer are negative.
    pub(crate) fn take_growth(&mut self) -> i64 {
        let before = std::mem::replace(&mut self.counted_bytes, self.queue.bytes());
        // Neither is near what 64 bits hold.
        self.queue.bytes().cast_signed() as i64 - before.cast_signed() as i64
    }

    /// Nothing can be added.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Closing { .. } | State::Finished | State::Cut)
    }

    /// Whether the kernel has not taken everything.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// A change of this commit is in the queue of a socket that is behind. It counts as written when it is.
    pub(crate) fn note_change(&mut self, committed: PgTimestamp) {
        if let Some(behind) = &mut self.behind {
            behind.change.get_or_insert((committed, self.queue.bytes()));
        }
    }

    /// Until when it is worth waiting for this socket to make room; `None` where it has room, or does not read.
    pub(crate) fn worth_waiting(&self) -> Option<Instant> {
        let behind = self.behind.as_ref().filter(|behind| !behind.given_up)?;
        let full = self.queue.bytes() > self.bytes_max() / 2 && !self.is_over();
        full.then(|| behind.progressed + PATIENCE)
    }

    /// Whether it has taken bytes since its kernel buffer was full.
    pub(crate) fn reads(&self) -> bool {
        self.behind.as_ref().is_none_or(|behind| behind.reads)
    }

    /// Nobody waits for this socket any more before it has taken everything.
    pub(crate) fn give_up(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.given_up = true;
        }
    }

    /// Where its bytes go.
    pub(crate) fn socket(&self) -> &Arc<dyn Socket> {
        &self.socket
    }

    /// The kernel takes bytes again.
    pub(crate) fn writable(&mut self) {
        self.state = match self.state {
            State::Blocked => State::Open,
            State::Closing { .. } => State::Closing { blocked: false },
            other => other,
        };
    }

    /// Writes what the kernel takes. Changes that had to wait count in the counters once they are written.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        let waits = matches!(self.state, State::Blocked | State::Closing { blocked: true });
        if waits || matches!(self.state, State::Finished | State::Cut) {
            return;
        }
        self.expire(counters);
        let mut written = 0;
        while !self.queue.is_empty() {
            match self.write_once() {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.block(written, counters);
                }
                Err(_) => return self.abandon(),
            }
        }
        // Most sessions wait most of the time: an empty queue takes no memory.
        self.queue = Queue::default();
        self.can_expire = false;
        if let Some((committed, _)) = self.behind.take().and_then(|behind| behind.change) {
            counters.commit_to_write.observe_since(committed);
        }
        if matches!(self.state, State::Closing { .. }) {
            self.state = State::Finished;
            self.socket.finish();
        }
    }

    /// The kernel takes nothing more.
    fn block(&mut self, written: usize, counters: &Counters) {
        self.state = match self.state {
            State::Closing { .. } => State::Closing { blocked: true },
            _ => State::Blocked,
        };
        match &mut self.behind {
            Some(behind) if written > 0 => {
                behind.progressed = Instant::now();
                behind.reads = true;
                behind.exempt_bytes = behind.exempt_bytes.saturating_sub(written);
                behind.change = match behind.change.take() {
                    Some((committed, bytes)) if bytes <= written => {
                        counters.commit_to_write.observe_since(committed);
                        None
                    }
                    change => change.map(|(committed, bytes)| (committed, bytes - written)),
                };
            }
            Some(_) => {}
            None => {
                let is_large = self.queue.bytes() > self.bytes_max();
                let exempt_bytes = if is_large { self.queue.bytes() - self.bytes_max() / 2 } else { 0 };
                let progressed = Instant::now();
                let behind = Behind {
                    progressed,
                    reads: false,
                    given_up: false,
                    exempt_bytes,
                    change: None,
                    keys: None,
                };
                self.behind = Some(Box::new(behind));
            }
        }
        self.socket.notify_writable();
    }

    fn write_once(&mut self) -> io::Result<usize> {
        let keys = self.behind.as_mut().and_then(|behind| behind.keys.as_mut());
        match self.queue.write(keys, |slices| self.socket.try_write(slices))? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
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

    /// Where nothing is measured.
    fn none() -> Counters {
        Counters::default()
    }

    fn count(counters: &Counters) -> u64 {
        counters.commit_to_write.counts().iter().sum()
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_little_the_kernel_takes() {
        let socket = Recorder::with_room(4);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        outbound.push(Bytes::from_static(b"abc"), &none()).unwrap();
        outbound.push(Bytes::from_static(b"defg"), &none()).unwrap();
        outbound.flush(&none());
        assert_eq!(socket.text(), "abcd");
        for _ in 0..3 {
            *socket.room.lock().unwrap() = 1;
            outbound.writable();
            outbound.flush(&none());
        }
        assert_eq!(socket.text(), "abcdefg");
        assert_eq!(outbound.queued_bytes(), 0);
    }

    #[test]
    fn a_queue_over_its_bound_is_refused() {
        let mut outbound = Outbound::new(Recorder::with_room(0), 10);
        for _ in 0..10 {
            outbound.push(Bytes::from_static(b"x"), &none()).unwrap();
        }
        assert!(outbound.push(Bytes::from_static(b"x"), &none()).is_err());
        assert_eq!(outbound.queued_bytes(), 10);
    }

    #[test]
    fn a_single_large_frame_passes_and_leaves_room_for_small_ones_and_for_no_other() {
        let socket = Recorder::with_room(0);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 10);
        let large = || Bytes::from(vec![0; 50]);
        outbound.push(large(), &none()).unwrap();
        outbound.push(Bytes::from_static(b"abc"), &none()).unwrap();
        assert!(outbound.push(large(), &none()).is_err());
        outbound.push(Bytes::from_static(b"de"), &none()).unwrap();
        assert!(outbound.push(Bytes::from_static(b"f"), &none()).is_err());
        *socket.room.lock().unwrap() = 51;
        outbound.writable();
        outbound.flush(&none());
        assert_eq!(outbound.queued_bytes(), 4);
        outbound.push(large(), &none()).unwrap();
        assert!(outbound.push(large(), &none()).is_err());
    }

    #[test]
    fn what_does_not_fit_is_given_to_the_kernel_before_it_is_refused() {
        let socket = Recorder::with_room(1_000);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 10);
        for _ in 0..100 {
            outbound.push(Bytes::from_static(b"seven.."), &none()).unwrap();
        }
        assert!(outbound.queued_bytes() <= 10);
    }

    #[test]
    fn parts_of_one_answer_pass_together_and_do_not_count() {
        let mut outbound = Outbound::new(Recorder::with_room(0), 10);
        outbound.push(Bytes::from_static(b"x"), &none()).unwrap();
        outbound.flush(&none());
        for _ in 0..3 {
            outbound.push_part(Bytes::from(vec![0; 50]));
        }
        outbound.push(Bytes::from_static(b"seven.."), &none()).unwrap();
        assert!(outbound.push(Bytes::from_static(b"seven.."), &none()).is_err());
    }

    #[test]
    fn a_change_that_had_to_wait_counts_once_its_last_byte_is_written() {
        let (latencies, socket) = (none(), Recorder::with_room(1));
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        outbound.push(Bytes::from_static(b"abc"), &latencies).unwrap();
        outbound.flush(&latencies);
        outbound.note_change(PgTimestamp(0));
        outbound.push(Bytes::from_static(b"later"), &latencies).unwrap();
        for (room, counted) in [(1, 0), (1, 1), (5, 1)] {
            assert_eq!(count(&latencies), u64::from(counted > 0 && room == 5));
            *socket.room.lock().unwrap() = room;
            outbound.writable();
            outbound.flush(&latencies);
            assert_eq!(count(&latencies), counted);
        }
        assert!(!outbound.is_behind());
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_worth_waiting_for_while_it_takes_bytes_and_has_no_room() {
        let socket = Recorder::with_room(1);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 10);
        outbound.push(Bytes::from_static(b"sixsix"), &none()).unwrap();
        outbound.flush(&none());
        assert_eq!(outbound.worth_waiting(), None, "half of its bound is free");
        outbound.push(Bytes::from_static(b"x"), &none()).unwrap();
        let until = outbound.worth_waiting().expect("it has just taken a byte");
        assert_eq!(until, Instant::now() + PATIENCE);
        tokio::time::advance(PATIENCE / 2).await;
        outbound.writable();
        outbound.flush(&none());
        assert_eq!(outbound.worth_waiting(), Some(until), "nothing was taken");
        outbound.push(Bytes::from_static(b"xxx"), &none()).unwrap();
        *socket.room.lock().unwrap() = 1;
        outbound.writable();
        outbound.flush(&none());
        assert_eq!(outbound.worth_waiting(), Some(Instant::now() + PATIENCE));
        outbound.give_up();
        assert_eq!(outbound.worth_waiting(), None);
        *socket.room.lock().unwrap() = 9;
        outbound.writable();
        outbound.flush(&none());
        for _ in 0..10 {
            outbound.push(Bytes::from_static(b"x"), &none()).unwrap();
        }
        outbound.flush(&none());
        assert!(outbound.worth_waiting().is_some(), "it had taken everything meanwhile");
    }

    #[test]
    fn what_is_written_at_once_waits_for_nothing_and_passes_nothing() {
        let socket = Recorder::with_room(100);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 10);
        let frames = ["over the bound", "ab", "cd", "ef"].map(|text| Bytes::from_static(text.as_bytes()));
        let [large, first, second, third] = &frames;
        assert!(outbound.write(large, &none()).unwrap(), "nothing waits, so that there is nothing to bound");
        outbound.push(first.clone(), &none()).unwrap();
        assert!(!outbound.write(second, &none()).unwrap(), "another waits before it");
        outbound.flush(&none());
        assert_eq!(socket.text(), "over the boundabcd");
        *socket.room.lock().unwrap() = 0;
        assert!(!outbound.write(third, &none()).unwrap(), "the kernel takes nothing");
        outbound.flush(&none());
        *socket.room.lock().unwrap() = 100;
        assert!(!outbound.write(first, &none()).unwrap(), "nobody has said that the kernel takes bytes");
        outbound.writable();
        outbound.flush(&none());
        assert_eq!(socket.text(), "over the boundabcdefab");
    }

    #[test]
    fn the_rest_of_what_is_written_in_part_comes_before_everything_else() {
        let socket = Recorder::with_room(2);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        assert!(!outbound.write(&Bytes::from_static(b"abc"), &none()).unwrap());
        assert_eq!((outbound.queued_bytes(), outbound.take_growth()), (1, 1));
        let close = Frame::close(1013, "slow");
        assert!(outbound.close(&close, true), "what is begun is not dropped");
        *socket.room.lock().unwrap() = 100;
        outbound.flush(&none());
        let taken = socket.taken.lock().unwrap().clone();
        assert_eq!(taken, [b"abc".as_slice(), close.bytes()].concat());
    }

    #[test]
    fn a_close_that_discards_completes_the_frame_that_is_half_written() {
        let socket = Recorder::with_room(2);
        let mut outbound = Outbound::new(Arc::clone(&socket) as Arc<dyn Socket>, 100);
        outbound.push(Bytes::from_static(b"abc"), &none()).unwrap();
        outbound.push(Bytes::from_static(b"never"), &none()).unwrap();
        outbound.flush(&none());
        let close = Frame::close(1013, "slow");
        assert!(outbound.close(&close, true));
        assert!(!outbound.close(&close, true), "there is one last frame");
        *socket.room.lock().unwrap() = 100;
        outbound.writable();
        outbound.flush(&none());
        let taken = socket.taken.lock().unwrap().clone();
        assert_eq!(taken, [b"abc".as_slice(), close.bytes()].concat());
        assert_eq!(*socket.told.lock().unwrap(), ["notify", "closing", "finish"]);
    }
}
