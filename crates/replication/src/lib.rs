//! A PostgreSQL replication session: start-up, TLS, SASL, slots, COPY BOTH, feedback, reconnect.
