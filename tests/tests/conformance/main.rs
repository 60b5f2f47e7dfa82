//! The 300 numbered cases of the reference server's behaviour: docs/protocol.md §15, which lists them.
//!
//! Every case is a test whose name carries its number, or stands in docs/compatibility.md with the reason why it does
//! not apply; [`registry`] holds the two together. Every frame that a test here receives is checked as the strictest
//! clients would (`walcast_testkit::strict`), as in all tests that connect through a `World`. Cases for both serializers run on both in one test.

mod beyond;
mod broadcast;
mod changes;
mod clients;
mod connection;
mod http;
mod join_payload;
mod operators;
mod presence;
mod private_channels;
mod projects;
mod rates;
mod registry;
mod rest;
mod scene;
mod stored;
mod tokens;
