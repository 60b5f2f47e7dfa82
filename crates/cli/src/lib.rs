//! walcast, put together: settings, wiring, start and stop. The binary is a thin `main` over this.
//!
//! In reading order: [`settings`] (what can be set), [`logging`], [`serve`] (one
//! running server), [`project`] (one of its projects), `supervisor` (which keeps it up), [`pipeline`] (the log to the engine), [`database`] (one URL for both kinds of connection),
//! `trail` (what the slot keeps for the journal), `health`, `lag`, `slot_care` and `canary` (how the log stands), `directory` (the projects, for operators); then [`dev`] (a server with a database of its own), `demo` (the demo's
//! door to the database), [`doctor`] and [`explain`] (a database looked at, a row decided), [`bench`] (a server loaded), [`health_check`],
//! [`open_files`], [`signal`].

pub mod bench;
mod canary;
pub mod database;
mod demo;
pub mod dev;
mod directory;
pub mod doctor;
pub mod explain;
mod handover;
mod health;
pub mod health_check;
mod lag;
pub mod logging;
pub mod open_files;
pub mod pipeline;
pub mod project;
mod readiness;
pub mod serve;
pub mod settings;
pub mod signal;
mod slot_care;
mod supervisor;
mod trail;
