//! What has been logged: by the engine from warnings up, by the server from information up.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use tracing_subscriber::EnvFilter;

/// What the process has logged, all tests together.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging into memory, once.
pub fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("walcast_engine=warn,walcast_server=info"))
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    })
}

/// The lines with a code and a table.
pub fn lines(code: &str, table: &str) -> Vec<String> {
    lines_with(&[code, &format!("table={table} ")])
}

/// The lines that contain all of these.
pub fn lines_with(parts: &[&str]) -> Vec<String> {
    let bytes = log().0.lock().expect("nobody panics while logging").clone();
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .map(str::to_owned)
        .collect()
}
