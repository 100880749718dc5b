//! (under construction)

pub mod address_pool;
pub mod daemon_options;
pub mod ipam;
pub mod mac;
pub mod names;
pub mod port_holder;
pub mod portspec;
mod random;
#[cfg(test)]
mod test_netns;
pub mod timestamp;
mod transport;

pub use transport::Transport;
