//! Networks of every kind, for the tests of who reaches whom.
//!
//! ```text
//!  nat           172.20.0.0/16      routed      172.22.0.0/16      unmasqueraded  172.25.0.0/16
//!  unprotected   172.21.0.0/16      internal    172.23.0.0/16      inhibited      172.26.0.0/16
//!                                   isolated    172.24.0.0/16      sourced        172.27.0.0/16
//! ```
//!
//! Each has a server `.2` with TCP port 80 and UDP port 53 open and published (TCP and UDP 8020, 8021, …), whether
//! that means anything there or not, and a neighbour `.3`.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use tunbridge::forwarder::{
    Access, EndpointId, EndpointPolicy, FamilyPolicy, NetworkId, NetworkPolicy, OpenPorts, Policy,
    Protocol, Published,
};

use super::world::*;

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nat,
    /// Gateway mode `nat-unprotected`.
    Unprotected,
    Routed,
    Internal,
    /// Internal, and without an address of the host.
    Isolated,
    /// `enable_ip_masquerade=false`.
    Unmasqueraded,
    /// `inhibit_ipv4`: the host has no address on it.
    Inhibited,
    /// `host_ipv4` is the second uplink's address.
    Sourced,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Nat,
        Self::Unprotected,
        Self::Routed,
        Self::Internal,
        Self::Isolated,
        Self::Unmasqueraded,
        Self::Inhibited,
        Self::Sourced,
    ];

    const fn number(self) -> u8 {
        match self {
            Self::Nat => 20,
            Self::Unprotected => 21,
            Self::Routed => 22,
            Self::Internal => 23,
            Self::Isolated => 24,
            Self::Unmasqueraded => 25,
            Self::Inhibited => 26,
            Self::Sourced => 27,
        }
    }

    pub(crate) fn id(self) -> NetworkId {
        NetworkId(self.number().into())
    }

    pub(crate) const fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(172, self.number(), 0, 1)
    }

    pub(crate) const fn server(self) -> Ipv4Addr {
        Ipv4Addr::new(172, self.number(), 0, 2)
    }

    pub(crate) const fn neighbour(self) -> Ipv4Addr {
        Ipv4Addr::new(172, self.number(), 0, 3)
    }

    /// Host port under which the server's ports are published.
    pub(crate) fn port(self) -> u16 {
        8000 + u16::from(self.number())
    }

    pub(crate) const fn has_gateway(self) -> bool {
        !matches!(self, Self::Isolated | Self::Inhibited)
    }

    fn network(self) -> NetworkPolicy {
        let has = |yes: bool, address| yes.then_some(IpAddr::V4(address));
        NetworkPolicy {
            id: self.id(),
            families: vec![FamilyPolicy {
                subnet: format!("172.{}.0.0/16", self.number()).parse().unwrap(),
                gateway: has(self.has_gateway(), self.gateway()),
                masquerade: !matches!(self, Self::Routed | Self::Unmasqueraded),
                source: has(self == Self::Sourced, HOST2),
                access: match self {
                    Self::Unprotected => Access::Open,
                    Self::Routed => Access::Ports,
                    Self::Nat
                    | Self::Internal
                    | Self::Isolated
                    | Self::Unmasqueraded
                    | Self::Inhibited
                    | Self::Sourced => Access::Closed,
                },
            }],
            mtu: 1500,
            icc: true,
            internal: matches!(self, Self::Internal | Self::Isolated),
            clamp_mss: false,
        }
    }

    fn add_to(self, policy: &mut Policy) {
        policy.networks.push(self.network());
        let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
        for (offset, address) in [(0, self.server()), (1, self.neighbour())] {
            let open = ports.map(|(protocol, port)| OpenPorts {
                ipv4: true,
                protocol,
                ports: port..=port,
            });
            policy.endpoints.push(EndpointPolicy {
                id: EndpointId(u32::from(self.number()) * 10 + offset),
                network: self.id(),
                addresses: vec![IpAddr::V4(address)],
                open: if offset == 0 { open.to_vec() } else { vec![] },
            });
        }
        let server = policy.endpoints[policy.endpoints.len() - 2].clone();
        for (protocol, port) in ports {
            policy.published.push(Published {
                protocol,
                host_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                host_ports: self.port()..=self.port(),
                endpoint: server.id,
                container_address: server.addresses[0],
                container_port: port,
            });
        }
    }
}

/// A world that has all of them, besides its own two.
pub(crate) fn every_kind() -> World {
    let mut w = World::new();
    w.change(|policy| {
        for kind in Kind::ALL {
            kind.add_to(policy);
        }
    });
    w
}

/// Changes the network of a kind.
pub(crate) fn change_network(w: &mut World, kind: Kind, change: impl FnOnce(&mut NetworkPolicy)) {
    w.change(|policy| {
        let network = policy.networks.iter_mut().find(|n| n.id == kind.id());
        change(network.unwrap());
    });
}

/// `address` with `port`.
pub(crate) const fn on(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}
