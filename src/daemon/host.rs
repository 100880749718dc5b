//! The machine as the forwarder sees it: the kernel's routing table and steering's port bitmap.

use std::net::IpAddr;

use crate::forwarder::{Egress, Host, Protocol};
use crate::kernel::RouteResolver;
use crate::steering::ExternalPorts;

/// [`Host`] on the real kernel.
#[derive(Debug)]
pub(super) struct KernelHost {
    resolver: RouteResolver,
    ports: ExternalPorts,
}

impl KernelHost {
    pub(super) fn new(resolver: RouteResolver, ports: ExternalPorts) -> Self {
        Self { resolver, ports }
    }

    /// Routes, rules, links or addresses changed: ask again.
    pub(super) fn forget_routes(&self) {
        self.resolver.clear();
    }
}

impl Host for KernelHost {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let resolved = self.resolver.route(destination)?;
        Some(Egress {
            if_index: resolved.if_index,
            source: resolved.source,
            mtu: resolved.mtu,
        })
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        self.ports.set(protocol_number(protocol), port, ours);
    }
}

/// The IP protocol number that steering's maps use.
pub(super) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Icmp => 1,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}
