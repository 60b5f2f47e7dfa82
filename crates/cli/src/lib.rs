//! walcast, put together: settings, wiring, start and stop. The binary is a thin `main` over this.
//!
//! In reading order: [`serve`] (one running server), `pipeline` (the log to the engine), `database` (one
//! URL for both kinds of connection), `demo` (the demo's door to the database).

mod database;
mod demo;
mod pipeline;
pub mod serve;
