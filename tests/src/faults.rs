//! Faults, and the account of every row under them (docs/guarantees.md).
//!
//! Writers change rows, subscribers of several roles read them and come back with `since` whenever their connection
//! ends, and something breaks meanwhile. In the end PostgreSQL's log, read from a slot of its own, says what each of
//! them had to be told, and what not. In reading order:
//!
//! * `schema`: the tables and their policies, and the people;
//! * `writers`: who changes rows;
//! * `subscriber`: who reads them, and what is noted down of that;
//! * `truth`: the log;
//! * `account`: what was told, held against it;
//! * `scene`: database, server, and the networks between them;
//! * `scenarios`: what breaks.

mod account;
mod scenarios;
mod scene;
mod schema;
mod subscriber;
mod truth;
mod writers;

pub use account::Figures;
pub use scenarios::{NotHere, Pace, SCENARIOS, Scenario, Side};
pub(crate) use scene::free_address;
pub use scene::{Scene, Setup, walcast_binary};
