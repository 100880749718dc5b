//! What should exist: networks, containers, addresses, ports. Decides and remembers; arranges nothing.
//!
//! # Theory of operation
//!
//! [`State`] is the whole truth. The daemon holds it behind one lock and calls it for every request;
//! each call answers at once with records that say what the kernel must now look like, or with a
//! [`ControlError`] after which nothing has changed. There is no I/O here except two things that are
//! part of deciding: the redb file ([`store`]), because an intent must be on disk before anything is
//! made of it, and the sockets that hold published ports ([`port_holder`]), because only the kernel
//! knows whether a port is free.
//!
//! ```text
//!  the daemon's flags ─► daemon_options ──┐
//!  CreateNetwork ──────► network_options ─┴─► networks ────┐
//!  CreateContainer ────► requests ──────────► creation ────┼─► State ─► records ─► store
//!  EndpointSettings ───► requests ──────────► attachments ─┤     │
//!  AttachEndpoint ─────► requests ──────────► runtimes ────┘     │
//!             taken from: ipam, port_allocator; decided by: gateway, linking
//!                                                                ▼
//!     projections: forwarder::Policy, steering's publications, dns::View (resolution)
//!     inspect, ports_text: Docker's JSON and tables; container_files: /etc/hosts, …
//! ```
//!
//! Addresses and ports belong to a container from its creation until it has exited. Numbers of networks
//! and endpoints ([`records::Counters`]) are never used twice, so that the forwarder cannot mistake a
//! new container for an old one. Networks, endpoints and ports have one address family or both.
//!
//! Blocking: [`State`]'s methods that change something sync a file, and creating with 10,000 published
//! ports opens as many sockets of each family; call them where blocking is allowed.

pub mod address_leases;
pub mod address_pool;
mod attachments;
mod bandwidth;
mod container_files;
pub mod creation;
pub mod daemon_options;
pub mod endpoint_options;
mod endpoints;
mod error;
pub mod files;
pub mod filters;
mod gateway;
pub mod identity;
pub mod inspect;
pub mod ipam;
mod ipv6_address;
mod linking;
pub mod links;
pub mod mac;
#[cfg(test)]
mod model_tests;
pub mod names;
pub mod network_config;
pub mod network_options;
mod networks;
pub mod port_allocator;
pub mod port_holder;
pub mod ports_text;
pub mod portspec;
pub mod projections;
mod publishing;
mod random;
mod readdressing;
pub mod records;
mod requests;
pub mod resolution;
mod runtime_changes;
mod runtimes;
#[cfg(test)]
mod scale_tests;
mod state;
pub mod store;
#[cfg(test)]
mod test_netns;
#[cfg(test)]
mod test_state;
pub mod timestamp;
mod transport;

pub use attachments::{Connection, Disconnection};
pub use container_files::{FileFacts, FileTexts};
pub use creation::Creation;
pub use error::ControlError;
pub use gateway::Place;
pub use readdressing::Readdressed;
pub use runtimes::EndpointPlace;
pub use state::{DEFAULT_NETWORK, Settings, State};
pub use timestamp::Timestamp;
pub use transport::Transport;
