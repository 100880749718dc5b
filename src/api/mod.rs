//! The HTTP API over the unix socket: request and answer bodies, the server, the client.

pub mod client;
pub mod server;
pub mod types;
