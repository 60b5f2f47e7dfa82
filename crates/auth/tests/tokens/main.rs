//! Tokens of every kind through the public door of the crate.

#![allow(clippy::unwrap_used)] // every function here belongs to a test

mod any_text;
mod issuer;
mod key_sets;
mod secrets;
mod signatures;
