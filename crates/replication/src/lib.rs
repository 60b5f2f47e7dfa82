//! A PostgreSQL replication session, from the connection text to a channel of events.
//!
//! Made for one consumer of one permanent logical slot with the `pgoutput` plugin. It is a client of its own on the
//! messages of `postgres-protocol`, because the usual client has no COPY BOTH mode.
//!
//! In reading order:
//!
//! 1. [`settings`] says where PostgreSQL is; `connection_text` reads it from a URL or `key=value` pairs,
//!    `connection_parameters` gives the words their meaning; `tls` makes the TLS configuration of it.
//! 2. `startup` opens a session: host after host, TLS, log-in. `authentication` proves who we are, `channel_binding`
//!    ties that to the certificate. `frame` cuts messages out of the byte stream.
//! 3. `query` runs commands on the session; `slot` uses it to check the server, the publications and the slot and to
//!    start the stream; `sql_text` quotes.
//! 4. `stream` is the running stream: batches out, feedback back. `copy_both` has its messages, `batch` gathers them,
//!    `event` and `progress` are what the consumer sees; `shutdown_watch` tells when the server waits for us to go.
//! 5. `supervise` keeps it running: [`run`] is the crate's front door, [`identify`] its bell. `control` is how the
//!    one who watches over the slot steers it.
//! 6. `error` holds every way this can fail, `server_error` what PostgreSQL said, `refusal` leads from the one to the
//!    other.

mod authentication;
mod batch;
mod channel_binding;
mod connection_parameters;
mod connection_text;
mod control;
mod copy_both;
mod error;
mod event;
mod frame;
mod progress;
mod query;
mod refusal;
mod server_error;
pub mod settings;
mod shutdown_watch;
mod slot;
mod sql_text;
mod startup;
mod stream;
mod supervise;
mod tls;

pub use authentication::Authentication;
pub use control::SlotControl;
pub use error::ReplicationError;
pub use event::{Event, Gap, StreamStatus};
pub use progress::Progress;
pub use server_error::ServerError;
pub use settings::{ConnectionSettings, SettingsError, SslMode};
pub use supervise::{Backoff, Identity, StreamSettings, identify, run};
