//! The HTTP API over the unix socket.

pub mod types;
