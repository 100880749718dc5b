//! The packet judge. (Theory of operation goes here.)

#![deny(unsafe_code)]

mod config;
mod host;
mod host_ports;
mod outbox;
mod policy;
mod report;
mod time;

use std::sync::Arc;

pub use config::{Config, Filtering, Timeouts};
pub use host::{Egress, Host};
pub use host_ports::HostPorts;
pub use outbox::Outbox;
pub use policy::{
    EndpointId, EndpointPolicy, NetworkId, NetworkPolicy, Policy, Protocol, Published,
};
pub use report::{DropReason, FlowReport, Stats};
pub use time::Instant;

/// Length of `struct virtio_net_hdr` (legacy, `IFF_VNET_HDR` default): every frame starts with it.
pub const VNET_HDR_LEN: usize = 10;

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Write it, rewritten in place, to the TUN.
    Forward,
    /// Write it, unchanged, to the TUN: it is for the host's own stack.
    ToHost,
    /// Nothing to write; whatever follows from it is in the outbox or comes later.
    Consumed,
    /// Forget it.
    Drop(DropReason),
}

/// The packet judge; see the module's description.
#[derive(Debug)]
pub struct Forwarder {
    counters: report::Counters,
}

impl Forwarder {
    /// A forwarder without policy: it drops everything until [`Forwarder::set_policy`].
    pub fn new(_config: Config, _seed: [u8; 32], _host: Arc<dyn Host>) -> Self {
        Self {
            counters: report::Counters::default(),
        }
    }

    /// Judges `frame` (virtio header ‖ IP packet) and rewrites it in place.
    pub fn handle_packet(&self, _frame: &mut [u8], _now: Instant, _out: &mut Outbox) -> Verdict {
        report::Counters::count(&self.counters.received);
        let verdict = Verdict::Drop(DropReason::Malformed);
        self.counters.count_verdict(verdict);
        verdict
    }

    /// Replaces the policy; what it does not allow any more ends at once.
    pub fn set_policy(&self, _policy: Policy, _now: Instant) {}

    /// Routes changed: the egress of each flow is asked for again at its next packet.
    pub fn routes_changed(&self) {}

    /// Replaces the set of ports that the host's sockets use.
    pub fn set_host_ports(&self, _ports: HostPorts) {}

    /// When [`Forwarder::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Expires what is due.
    pub fn handle_timeout(&self, _now: Instant, _out: &mut Outbox) {}

    /// Live flows.
    pub fn flows(&self, _now: Instant) -> Vec<FlowReport> {
        Vec::new()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot(0, 0)
    }
}
