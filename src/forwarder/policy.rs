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

/// Who from outside, or from another network, may address a network's containers directly: the
/// network's gateway mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody (`nat`): published ports on addresses of the host are the only way in.
    #[default]
    Closed,
    /// Everybody, to [`EndpointPolicy::open`] ports and with ICMP queries (`routed`).
    Ports,
    /// Everybody, to every port (`nat-unprotected`).
    Open,
}

/// A bridge network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its number.
    pub id: NetworkId,
    /// Its prefixes, at most one per family.
    pub subnets: Vec<IpNet>,
    /// Addresses of its bridge, at most one per family and none if the bridge has none (`isolated`,
    /// `inhibit_ipv4`): source of generated ICMP errors, and of connections that the host, a
    /// neighbour or a masquerading container of another network makes to a container.
    pub gateways: Vec<IpAddr>,
    /// MTU in octets of its containers' interfaces.
    pub mtu: u32,
    /// Rewrite the source of outgoing packets (`--ip-masq`).
    pub masquerade: bool,
    /// Addresses of the host to masquerade with, at most one per family, in place of the route's
    /// (`com.docker.network.host_ipv4`).
    pub sources: Vec<IpAddr>,
    /// Containers of this network may talk to each other (`--icc`); if not, [`Policy::links`] count.
    pub icc: bool,
    /// Its containers talk to each other and to the host at its gateway addresses, and to nobody
    /// else, neither way (`--internal`).
    pub internal: bool,
    /// Who may address its containers directly.
    pub access: Access,
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
    /// Ports that everybody may address directly if its network has [`Access::Ports`].
    pub open: Vec<OpenPorts>,
}

/// Open ports of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPorts {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The container's ports.
    pub ports: RangeInclusive<u16>,
}

/// Ports of a container that another one may use although their network has icc off (`--link`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPolicy {
    /// Who may open connections.
    pub client: EndpointId,
    /// To whom; on the same network.
    pub server: EndpointId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The server's ports.
    pub ports: RangeInclusive<u16>,
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
    /// What passes between containers of a network with icc off.
    pub links: Vec<LinkPolicy>,
    /// Addresses of the host itself, loopback ones included.
    pub local_addresses: Vec<IpAddr>,
}
