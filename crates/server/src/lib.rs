//! Sockets and HTTP in front of the engine.
