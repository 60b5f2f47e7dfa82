//! Benchmarks of walcast against PostgreSQL's own tools, both in one run on one machine.
//!
//! `policies` (issue "row-level security at the speed of the log"): how fast a log is drained by walcast for N
//! subscribers, as a ratio to `pg_recvlogical`, which decides nothing and throws the bytes away. In reading order:
//! [`scenario`] (who may see which row, and how many frames each subscriber must get), [`written_log`] (a database
//! with the rows written and a slot that stands before them), [`recvlogical`] and [`drain`] (the two sides; walcast's
//! runs in a process of its own, with [`sink`] in place of sockets, [`relay`] for round
//! trips), [`case`](mod@case) (rounds and medians), [`report`].

// Counts become ratios here, and none has 53 bits.
#![allow(clippy::cast_precision_loss)]

pub mod case;
pub mod drain;
pub mod recvlogical;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod sink;
pub mod subscribers;
pub mod written_log;
