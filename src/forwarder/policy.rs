//! What the control plane wants, as the forwarder sees it: a value that is replaced as a whole.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// A transport protocol that can be translated. For ICMP the "port" is the query identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// ICMP queries (RFC 5508); ICMPv6 in an IPv6 packet.
    Icmp,
    /// TCP (RFC 5382).
    Tcp,
    /// UDP (RFC 4787).
    Udp,
}

/// Number of a network within one [`Policy`] history; never reused while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u32);

/// Number of an endpoint within one [`Policy`] history; never reused while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// A bridge network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its number.
    pub id: NetworkId,
    /// Its prefixes, at most one per family.
    pub subnets: Vec<IpNet>,
    /// Gateway addresses, at most one per family: source of generated ICMP errors and of
    /// connections that the host or a neighbour makes to a published port.
    pub gateways: Vec<IpAddr>,
    /// MTU in octets of its containers' interfaces.
    pub mtu: u32,
    /// Rewrite the source of outgoing packets (`--ip-masq`).
    pub masquerade: bool,
    /// Containers of this network may talk to each other (`--icc`).
    pub icc: bool,
    /// Largest TCP MSS in octets to let pass in a SYN, if it is to be clamped to the path.
    pub clamp_mss: bool,
}

/// A container's attachment to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Its number.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// Its addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
}

/// A published port, or a range of them mapped pairwise (`host_ports` to `container_port`..).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Host address, `0.0.0.0` (every IPv4 address of the host) or `::`.
    pub host_address: IpAddr,
    /// Ports on the host.
    pub host_ports: RangeInclusive<u16>,
    /// The endpoint that serves them.
    pub endpoint: EndpointId,
    /// Its address.
    pub container_address: IpAddr,
    /// First port in the container.
    pub container_port: u16,
}

/// Everything the forwarder must know of the control plane's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bridge networks.
    pub networks: Vec<NetworkPolicy>,
    /// Endpoints on them.
    pub endpoints: Vec<EndpointPolicy>,
    /// Published ports. No two overlap in (protocol, address, port).
    pub published: Vec<Published>,
    /// Addresses of the host itself, loopback ones included.
    pub local_addresses: Vec<IpAddr>,
}
