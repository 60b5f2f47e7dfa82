//! From TCP connections to HTTP requests: the accept loop.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How HTTP connections are treated.
#[derive(Clone, Copy, Debug)]
pub struct ListenerSettings {
    /// Open TCP connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of a request's head. hyper's least is 8,192.
    pub head_bytes_max: usize,
    /// How long a client may take to send a request's head.
    pub head_timeout: Duration,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        ListenerSettings {
            connections_max: 100_000,
            head_bytes_max: 32 * 1024,
            head_timeout: Duration::from_secs(30),
        }
    }
}

/// Pause after an accept that failed, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `app` until `cancel`, then lets requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    settings: ListenerSettings,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(settings.connections_max));
    loop {
        let place = tokio::select! {
            place = std::sync::Arc::clone(&places).acquire_owned() => place,
            () = cancel.cancelled() => break,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, app.clone(), settings, cancel.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, app: Router, settings: ListenerSettings, cancel: CancellationToken) {
    let service = TowerToHyperService::new(app);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.head_bytes_max)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // An error here is the client's: a broken request or a connection that it gave up.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
