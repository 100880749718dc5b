//! The packet judge. (Theory of operation goes here.)

mod host;
mod policy;
mod report;
mod time;

pub use host::{Egress, Host};
pub use policy::{
    EndpointId, EndpointPolicy, NetworkId, NetworkPolicy, Policy, Protocol, Published,
};
pub use report::{DropReason, FlowReport, Stats};
pub use time::Instant;

/// Length of `struct virtio_net_hdr` (legacy, `IFF_VNET_HDR` default): every frame starts with it.
pub const VNET_HDR_LEN: usize = 10;
