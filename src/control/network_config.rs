//! What a bridge network is made of, once every flag and option has been understood.
//!
//! `daemon_options` makes the default network's from the daemon's flags, `network_options` that of a
//! network that a user creates. No further checks are needed: kernel, steering and forwarder get what
//! stands here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A bridge network's interface, addresses and switches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Bridge interface: `tb0`, `tb-` and the first 12 digits of the network's id, or
    /// `com.docker.network.bridge.name`.
    pub bridge: String,
    /// Ours to create and delete; a bridge that was there already is only used.
    pub managed: bool,
    /// At most one per address family, IPv4 first. None for `host` and `none`.
    pub families: Vec<FamilyConfig>,
    /// Containers have link-local IPv6 addresses and no others (`--fixed-cidr-v6 fe80::/64` alone); there is no IPv6
    /// family then.
    #[serde(default)]
    pub link_local: bool,
    /// Has no way out (`--internal`).
    pub internal: bool,
    /// Containers may talk to each other (`com.docker.network.bridge.enable_icc`).
    pub icc: bool,
    /// In octets (`com.docker.network.driver.mtu`).
    pub mtu: u32,
    /// Host address of published ports that name none; `0.0.0.0` is every address of both families
    /// (`com.docker.network.bridge.host_binding_ipv4`, which may be an IPv6 address all the same).
    pub host_address: IpAddr,
    /// Interfaces in containers are this and a number (`com.docker.network.container_iface_prefix`).
    pub interface_prefix: String,
    /// How new addresses are announced.
    pub advertise: Advertise,
    /// How containers get their IPv6 addresses (`com.tunbridge.ipv6_address`).
    #[serde(default)]
    pub ipv6_address: Ipv6Allocation,
    /// Interfaces of the host on whose links it answers neighbour solicitations for the containers' IPv6
    /// addresses (`--ndp-proxy`, `com.tunbridge.ndp_proxy`), sorted.
    #[serde(default)]
    pub ndp_proxy: Vec<String>,
}

/// One address family of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyConfig {
    /// Without host bits.
    pub subnet: IpNet,
    /// The user named the subnet; otherwise it came from a default pool.
    pub configured: bool,
    /// Where dynamic addresses come from, if not the whole subnet.
    pub allocation_range: Option<IpNet>,
    /// Never given out, by name (`--aux-address`).
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Taken from the pool. `None`: there is none to take (isolated, or internal with
    /// `inhibit_ipv4`).
    pub gateway: Option<IpAddr>,
    /// The bridge bears `gateway`. False with `inhibit_ipv4`: somebody else on the bridge may.
    pub bridge_address: bool,
    /// Containers' default gateway, if it is not `gateway` (the daemon's `--default-gateway`).
    pub container_gateway: Option<IpAddr>,
    /// How the outside and the containers meet.
    pub mode: GatewayMode,
    /// Rewrite the source of what leaves the host; always false if `mode` has no NAT.
    pub masquerade: bool,
    /// Rewrite it to this address, not to that of the outgoing interface
    /// (`com.docker.network.host_ipv4`, `com.docker.network.host_ipv6`).
    pub source: Option<IpAddr>,
}

/// Docker's gateway modes (`com.docker.network.bridge.gateway_mode_ipv4`, `…_ipv6`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Out with the host's address, in through published ports.
    #[default]
    Nat,
    /// The same, and every port of a container may be reached at its own address.
    NatUnprotected,
    /// No NAT: published ports are reached at the container's own address.
    Routed,
    /// The bridge has no address: containers reach each other, not even the host.
    Isolated,
}

impl GatewayMode {
    /// That of a family whose mode nobody chose: addresses of the whole Internet are routed, private and unique local
    /// ones (RFC 4193) are translated. All of IPv4 is, as in Docker.
    pub fn default_of(subnet: IpNet) -> Self {
        match subnet {
            IpNet::V6(subnet)
                if !subnet.addr().is_unique_local() && !subnet.addr().is_unicast_link_local() =>
            {
                Self::Routed
            }
            IpNet::V4(_) | IpNet::V6(_) => Self::Nat,
        }
    }

    /// Ports can be published on host addresses.
    pub const fn has_nat(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }
}

/// How a container gets an IPv6 address that it did not ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Allocation {
    /// The prefix, and the six octets of its MAC as the last 48 bits (Docker up to 27, on the default
    /// network). A prefix longer than /80 has no room for them: as `Sequential`.
    Mac,
    /// The lowest free one.
    #[default]
    Sequential,
    /// The same for the same names of network and container, and told by nothing else (RFC 7217).
    Stable,
}

/// Announcement of an address by gratuitous ARP (RFC 5227 § 3), so that no neighbour keeps the MAC of
/// the container that had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertise {
    /// How many, 0 to 3 (`com.docker.network.advertise_addr_nmsgs`).
    pub count: u8,
    /// Milliseconds between two, 100 to 2000 (`com.docker.network.advertise_addr_ms`).
    pub interval_ms: u32,
}

impl Default for Advertise {
    fn default() -> Self {
        Self {
            count: 3,
            interval_ms: 1000,
        }
    }
}

/// Prefix of interface names in containers, unless the network says otherwise.
pub const DEFAULT_INTERFACE_PREFIX: &str = "eth";

impl NetworkConfig {
    /// That of `host` and `none`: nothing.
    pub fn none() -> Self {
        Self {
            bridge: String::new(),
            managed: false,
            families: Vec::new(),
            link_local: false,
            internal: false,
            icc: true,
            mtu: super::daemon_options::DEFAULT_MTU,
            host_address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            interface_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            advertise: Advertise::default(),
            ipv6_address: Ipv6Allocation::default(),
            ndp_proxy: Vec::new(),
        }
    }

    /// The family of `ipv4` or IPv6 addresses, if the network has it.
    pub fn family(&self, ipv4: bool) -> Option<&FamilyConfig> {
        self.families.iter().find(|family| family.is_ipv4() == ipv4)
    }

    /// The IPv4 part.
    pub fn v4(&self) -> Option<&FamilyConfig> {
        self.family(true)
    }

    /// The IPv6 part.
    pub fn v6(&self) -> Option<&FamilyConfig> {
        self.family(false)
    }

    /// Its interfaces have IPv6, be it only link-local addresses.
    pub fn has_ipv6(&self) -> bool {
        self.link_local || self.v6().is_some()
    }

    /// Why answering for containers on uplinks is of no use, to be put behind the option's name; `None`: it is, or was not
    /// asked for.
    pub fn idle_ndp_proxy(&self) -> Option<String> {
        let why = match self.v6() {
            _ if self.ndp_proxy.is_empty() => return None,
            _ if self.internal => "nobody outside may talk to containers of an internal network",
            None => "the network has no IPv6 subnet",
            Some(family) if family.masquerade => {
                "IPv6 addresses of this network are translated to the host's, for which the host answers (gateway mode nat, the default of ULA subnets); it is for global prefixes and com.docker.network.bridge.gateway_mode_ipv6=routed"
            }
            Some(_) => return None,
        };
        Some(format!("has no effect: {why}"))
    }

    /// The addresses that the bridge bears, with prefix length; none if it is isolated or inhibited.
    pub fn bridge_addresses(&self) -> Vec<IpNet> {
        self.families
            .iter()
            .filter_map(FamilyConfig::bridge_net)
            .collect()
    }
}

impl FamilyConfig {
    /// True for IPv4.
    pub const fn is_ipv4(&self) -> bool {
        matches!(self.subnet, IpNet::V4(_))
    }

    /// The bridge's address with prefix length, if it bears one.
    pub fn bridge_net(&self) -> Option<IpNet> {
        let gateway = self.gateway.filter(|_| self.bridge_address)?;
        IpNet::new(gateway, self.subnet.prefix_len()).ok()
    }

    /// What a container's default route would go through; an internal network's containers have no
    /// such route all the same.
    pub fn default_gateway(&self) -> Option<IpAddr> {
        self.container_gateway.or(self.gateway)
    }
}
