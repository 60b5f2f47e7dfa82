//! The socket of tests that read what a session is sent.

use std::io::{self, IoSlice};

use tokio::sync::mpsc;

use crate::outbound::Socket;

/// Takes everything and hands it to the test.
pub(crate) struct Recorder(pub(crate) mpsc::UnboundedSender<Vec<u8>>);

impl Socket for Recorder {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
        let count = bytes.len();
        self.0.send(bytes).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(count)
    }

    fn notify_writable(&self) {}

    fn finish(&self) {}

    fn closing(&self) {}
}
