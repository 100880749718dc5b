//! The HTTP API over the unix socket: request and answer bodies, events, the server, the client.

pub mod client;
pub mod descriptors;
pub mod events;
pub mod filters;
pub mod long_form;
pub mod server;
pub mod types;
