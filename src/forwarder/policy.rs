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
/// gateway mode of the address family.
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
    /// What each of its address families is like; at most one of a kind.
    pub families: Vec<FamilyPolicy>,
    /// MTU in octets of its containers' interfaces.
    pub mtu: u32,
    /// Containers of this network may talk to each other (`--icc`); if not, [`Policy::links`] count.
    pub icc: bool,
    /// Its containers talk to each other and to the host at its gateway addresses, and to nobody
    /// else, neither way (`--internal`).
    pub internal: bool,
    /// Largest TCP MSS in octets to let pass in a SYN, if it is to be clamped to the path.
    pub clamp_mss: bool,
}

/// One address family of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyPolicy {
    /// Its prefix.
    pub subnet: IpNet,
    /// Address of the bridge, none if it has none (`isolated`, `inhibit_ipv4`): source of generated
    /// ICMP errors, and of connections that the host, a neighbour or a masquerading container of
    /// another network makes to a container.
    pub gateway: Option<IpAddr>,
    /// Rewrite the source of outgoing packets (`--ip-masq`).
    pub masquerade: bool,
    /// Address of the host to masquerade with, in place of the route's
    /// (`com.docker.network.host_ipv4`, `host_ipv6`).
    pub source: Option<IpAddr>,
    /// Who may address the containers directly.
    pub access: Access,
}

impl NetworkPolicy {
    /// The family of `like`, if the network has it.
    pub(super) fn family(&self, like: IpAddr) -> Option<&FamilyPolicy> {
        let mut families = self.families.iter();
        families.find(|family| family.is_of(like))
    }
}

impl FamilyPolicy {
    const fn is_of(&self, like: IpAddr) -> bool {
        matches!(
            (&self.subnet, like),
            (IpNet::V4(_), IpAddr::V4(_)) | (IpNet::V6(_), IpAddr::V6(_))
        )
    }
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
    /// Ports that everybody may address directly if the family of its address has [`Access::Ports`].
    pub open: Vec<OpenPorts>,
}

/// Open ports of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPorts {
    /// At its IPv4 address, and not at its IPv6 one.
    pub ipv4: bool,
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
