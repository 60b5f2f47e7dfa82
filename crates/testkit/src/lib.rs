//! Private PostgreSQL clusters and a protocol client for tests, benchmarks and walcast dev.
