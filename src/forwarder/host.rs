//! What the forwarder asks of the machine it runs on, as a trait: the real one is the kernel, the
//! tests' one a table. Both methods are called on the slow path (first packet of a flow) only.

use std::fmt::Debug;
use std::net::IpAddr;

use super::Protocol;

/// Where a packet to some destination leaves the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Interface index of the uplink.
    pub if_index: u32,
    /// Source address the kernel prefers there: the external address of a new masqueraded flow.
    pub source: IpAddr,
    /// Largest IP packet in octets that may be sent towards the destination.
    pub mtu: u32,
}

/// The machine around the forwarder.
pub trait Host: Debug + Send + Sync {
    /// The kernel's routing decision (`RTM_GETROUTE`) for `destination`; `None` if there is no route.
    fn route(&self, destination: IpAddr) -> Option<Egress>;

    /// Tells steering whether `port` of the host (for ICMP: the query identifier) now belongs to a
    /// mapping of ours, so that packets to it are diverted.
    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool);
}
