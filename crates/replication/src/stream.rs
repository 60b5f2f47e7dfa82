//! One connection in COPY BOTH mode: reading batches of events, and telling the server how far we are.
//!
//! Feedback has its own timer and does not wait for the consumer: when the channel is full the reading stops and the
//! feedback goes on, so that back-pressure ends at the slot and not in a `wal_sender_timeout`.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::copy_both::{FromServer, now, status_update};
use crate::error::ReplicationError;
use crate::event::Event;
use crate::frame::FramedSocket;
use crate::progress::Progress;
use crate::refusal;
use crate::server_error::ServerError;
use crate::shutdown_watch::ShutdownWatch;

/// How long a small write may take before the connection counts as broken.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a graceful end may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(3);

/// How often we report and how long we listen to silence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) feedback_interval: Duration,
    pub(crate) silence_limit: Duration,
}

/// Why a stream ended without an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    Cancelled,
    ConsumerGone,
}

/// A session in COPY BOTH mode.
pub(crate) struct Stream<'a> {
    socket: FramedSocket,
    slot: &'a str,
    progress: &'a Progress,
    timing: Timing,
    batch: Batch,
    last_heard: Instant,
    reply_due: bool,
    shutdown: ShutdownWatch,
}

impl<'a> Stream<'a> {
    /// `first` is the event the consumer gets before all others.
    pub(crate) fn new(
        socket: FramedSocket,
        slot: &'a str,
        progress: &'a Progress,
        timing: Timing,
        first: Event,
    ) -> Self {
        let mut batch = Batch::default();
        batch.push(first);
        Stream {
            socket,
            slot,
            progress,
            timing,
            batch,
            last_heard: Instant::now(),
            reply_due: false,
            shutdown: ShutdownWatch::default(),
        }
    }

    /// Streams until cancelled, until nobody listens, or until the connection ends.
    pub(crate) async fn run(
        mut self,
        events: &Sender<Vec<Event>>,
        cancel: &CancellationToken,
    ) -> Result<Finished, ReplicationError> {
        let mut feedback = interval(self.timing.feedback_interval);
        feedback.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.collect()?;
            if std::mem::take(&mut self.reply_due) {
                self.report(false).await?;
            }
            let reading = self.batch.has_room();
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.say_goodbye().await;
                    return Ok(Finished::Cancelled);
                }
                () = events.closed() => {
                    self.say_goodbye().await;
                    return Ok(Finished::ConsumerGone);
                }
                _ = feedback.tick() => self.on_timer(reading).await?,
                Ok(permit) = events.reserve(), if !self.batch.is_empty() => permit.send(self.batch.take()),
                heard = self.socket.read_more(), if reading => {
                    heard?;
                    self.last_heard = Instant::now();
                }
            }
        }
    }

    /// Moves what has arrived completely into the batch, as far as it has room.
    fn collect(&mut self) -> Result<(), ReplicationError> {
        while self.batch.has_room() {
            let Some(frame) = self.socket.buffered_frame()? else {
                break;
            };
            match frame.tag() {
                b'd' => {
                    let message = FromServer::parse(frame.into_body())
                        .map_err(|error| ReplicationError::protocol(error.to_string()))?;
                    self.on_message(message)?;
                }
                b'E' => {
                    return Err(refusal::of_stream(self.slot, ServerError::parse(&frame.into_body())));
                }
                // Notices and changed settings are nothing to a stream.
                b'N' | b'S' => {}
                b'c' | b'C' => return Err(ReplicationError::Ended("the server shuts down".to_owned())),
                tag => {
                    return Err(ReplicationError::protocol(format!(
                        "message '{}' while streaming",
                        tag.escape_ascii()
                    )));
                }
            }
        }
        Ok(())
    }

    fn on_message(&mut self, message: FromServer) -> Result<(), ReplicationError> {
        match message {
            FromServer::Data { wal_start, wal_end, payload } => {
                self.progress.receive(wal_start.max(wal_end));
                self.batch.push(Event::Data { wal_start, wal_end, payload });
            }
            FromServer::KeepAlive { wal_end, reply_requested } => {
                self.progress.receive(wal_end);
                self.batch.push(Event::KeepAlive { wal_end });
                self.reply_due |= reply_requested;
                if reply_requested && self.shutdown.sees(wal_end, self.progress.confirmed(), Instant::now()) {
                    return Err(ReplicationError::Ended("the server shuts down".to_owned()));
                }
            }
        }
        Ok(())
    }

    async fn on_timer(&mut self, reading: bool) -> Result<(), ReplicationError> {
        if !reading {
            // We do not listen at the moment, so silence says nothing.
            self.last_heard = Instant::now();
        }
        let silence = self.last_heard.elapsed();
        if silence >= self.timing.silence_limit {
            return Err(ReplicationError::Silent { seconds: self.timing.silence_limit.as_secs() });
        }
        self.report(silence >= self.timing.silence_limit / 2).await
    }

    async fn report(&mut self, reply_requested: bool) -> Result<(), ReplicationError> {
        // Confirmed first: the other is never behind it.
        let confirmed = self.progress.confirmed();
        let message = status_update(self.progress.handled(), confirmed, now(), reply_requested);
        send(&mut self.socket, &message).await?;
        self.progress.report(confirmed);
        Ok(())
    }

    /// The last position, the end of our half of the COPY, and, when the server has ended its half, the end of the
    /// session: then the position is known to have arrived and the slot is free for the next.
    async fn say_goodbye(mut self) {
        let goodbye = async {
            self.report(false).await?;
            let mut message = BytesMut::new();
            frontend::copy_done(&mut message);
            send(&mut self.socket, &message).await?;
            while self.socket.frame().await?.tag() != b'Z' {}
            message.clear();
            frontend::terminate(&mut message);
            send(&mut self.socket, &message).await?;
            self.socket.shut_down().await.map_err(ReplicationError::Connection)
        };
        match timeout(GOODBYE_LIMIT, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the replication session did not end gracefully"),
            Err(_) => tracing::debug!("the replication session did not end in time"),
        }
    }
}

async fn send(socket: &mut FramedSocket, message: &[u8]) -> Result<(), ReplicationError> {
    let sent = timeout(WRITE_LIMIT, socket.send(message)).await;
    sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(ReplicationError::Connection)
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, Bytes};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::mpsc;
    use walcast_pgoutput::Lsn;

    use super::*;

    const RESTARTED: Event = Event::Restarted { since: Lsn(1), log_end: Lsn(1), promoted: false, gap: None };

    fn timing(feedback: Duration) -> Timing {
        Timing { feedback_interval: feedback, silence_limit: Duration::from_mins(10) }
    }

    fn stream(progress: &Progress, timing: Timing) -> (DuplexStream, Stream<'_>) {
        let (server, client) = tokio::io::duplex(1 << 22);
        (server, Stream::new(FramedSocket::new(Box::new(client), 1 << 24), "s", progress, timing, RESTARTED))
    }

    fn data(payload: &[u8]) -> Vec<u8> {
        let mut message = vec![b'd'];
        message.put_u32(u32::try_from(4 + 25 + payload.len()).unwrap());
        message.put_u8(b'w');
        message.put_u64(5);
        message.put_u64(5);
        message.put_u64(0);
        message.put_slice(payload);
        message
    }

    fn keep_alive(wal_end: u64, reply: u8) -> Vec<u8> {
        let mut message = b"d\0\0\0\x16k".to_vec();
        message.put_u64(wal_end);
        message.put_u64(0);
        message.put_u8(reply);
        message
    }

    /// Reads one status update and gives its flushed position.
    async fn flushed(server: &mut DuplexStream) -> u64 {
        let mut message = [0; 39];
        server.read_exact(&mut message).await.unwrap();
        assert_eq!(&message[..6], b"d\0\0\0\x26r");
        u64::from_be_bytes(message[14..22].try_into().unwrap())
    }

    #[tokio::test]
    async fn what_arrived_together_is_handed_on_together_and_in_order() {
        let progress = Progress::default();
        let (mut server, stream) = stream(&progress, timing(Duration::from_mins(10)));
        let (events, mut received) = mpsc::channel(1);
        let mut sent = data(b"one");
        sent.extend(keep_alive(7, 0));
        sent.extend(keep_alive(8, 0));
        sent.extend(data(b"two"));
        server.write_all(&sent).await.unwrap();
        let cancel = CancellationToken::new();
        let consumer = async {
            let mut all = Vec::new();
            while all.len() < 4 {
                all.extend(received.recv().await.unwrap());
            }
            drop(received);
            drop(server);
            all
        };
        let (finished, all) = tokio::join!(stream.run(&events, &cancel), consumer);
        assert_eq!(finished.unwrap(), Finished::ConsumerGone);
        let payload =
            |bytes| Event::Data { wal_start: Lsn(5), wal_end: Lsn(5), payload: Bytes::from_static(bytes) };
        assert_eq!(all, [RESTARTED, payload(b"one"), Event::KeepAlive { wal_end: Lsn(8) }, payload(b"two")]);
        assert_eq!(progress.received(), Lsn(8));
    }

    #[tokio::test(start_paused = true)]
    async fn feedback_goes_on_while_the_channel_is_full() {
        let progress = Progress::default();
        progress.confirm(Lsn(3));
        let (mut server, stream) = stream(&progress, timing(Duration::from_secs(1)));
        let (events, received) = mpsc::channel(1);
        events.try_send(Vec::new()).unwrap();
        for _ in 0..2 * crate::batch::EVENTS_MAX {
            server.write_all(&data(b"row")).await.unwrap();
        }
        let cancel = CancellationToken::new();
        let server_side = async {
            for _ in 0..5 {
                assert_eq!(flushed(&mut server).await, 3);
            }
            progress.confirm(Lsn(4));
            assert_eq!(flushed(&mut server).await, 4);
            // Nothing was taken by the consumer in all that time.
            assert_eq!(received.len(), 1);
            drop(server);
            cancel.cancel();
        };
        let (finished, ()) = tokio::join!(stream.run(&events, &cancel), server_side);
        assert_eq!(finished.unwrap(), Finished::Cancelled);
        assert_eq!(progress.reported(), Lsn(4));
    }

    #[tokio::test]
    async fn a_keep_alive_that_asks_is_answered_at_once() {
        let progress = Progress::default();
        progress.confirm(Lsn(9));
        let (mut server, stream) = stream(&progress, timing(Duration::from_mins(10)));
        let (events, received) = mpsc::channel(4);
        let cancel = CancellationToken::new();
        let server_side = async {
            // The timer's first tick.
            assert_eq!(flushed(&mut server).await, 9);
            server.write_all(&keep_alive(20, 1)).await.unwrap();
            assert_eq!(flushed(&mut server).await, 9);
            drop((server, received));
        };
        let (finished, ()) = tokio::join!(stream.run(&events, &cancel), server_side);
        assert!(matches!(finished, Ok(Finished::ConsumerGone) | Err(ReplicationError::Connection(_))));
    }

    #[tokio::test]
    async fn cancelling_sends_the_last_position_and_ends_both_halves() {
        let progress = Progress::default();
        let (mut server, stream) = stream(&progress, timing(Duration::from_mins(10)));
        let (events, _received) = mpsc::channel(4);
        let cancel = CancellationToken::new();
        let server_side = async {
            assert_eq!(flushed(&mut server).await, 0);
            progress.confirm(Lsn(77));
            cancel.cancel();
            assert_eq!(flushed(&mut server).await, 77);
            let mut copy_done = [0; 5];
            server.read_exact(&mut copy_done).await.unwrap();
            assert_eq!(&copy_done, b"c\0\0\0\x04");
            server.write_all(&data(b"still on its way")).await.unwrap();
            server.write_all(b"c\0\0\0\x04C\0\0\0\x0bCOPY 0\0Z\0\0\0\x05I").await.unwrap();
            let mut terminate = Vec::new();
            server.read_to_end(&mut terminate).await.unwrap();
            assert_eq!(terminate, b"X\0\0\0\x04");
        };
        let (finished, ()) = tokio::join!(stream.run(&events, &cancel), server_side);
        assert_eq!(finished.unwrap(), Finished::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_falls_silent_is_asked_and_then_given_up() {
        let progress = Progress::default();
        let silent =
            Timing { feedback_interval: Duration::from_secs(1), silence_limit: Duration::from_secs(8) };
        let (mut server, stream) = stream(&progress, silent);
        let (events, _received) = mpsc::channel(4);
        let error = stream.run(&events, &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Silent { seconds: 8 }), "{error}");
        let mut sent = Vec::new();
        server.read_to_end(&mut sent).await.unwrap();
        let asked = sent.chunks(39).filter(|message| message[38] == 1).count();
        assert!(asked >= 3, "{asked} of {} status updates asked for an answer", sent.len() / 39);
    }

    #[tokio::test]
    async fn an_error_of_the_server_ends_the_stream_with_its_words() {
        let progress = Progress::default();
        let (mut server, stream) = stream(&progress, timing(Duration::from_mins(10)));
        let (events, _received) = mpsc::channel(4);
        server.write_all(b"E\0\0\0\x26C42704\0Mpublication \"p\" is gone\0\0\0").await.unwrap();
        let error = stream.run(&events, &CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("publication \"p\" is gone") && error.contains("slot \"s\""), "{error}");
    }
}
