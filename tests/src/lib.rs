//! Shared scenery of the end-to-end tests.
