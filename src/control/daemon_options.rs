//! The daemon's flags for the default network, checked against each other and against the host.
//!
//! Flags come in as text, so that every message can name the flag and quote the value, whether it came
//! from the command line or from a configuration file. What comes out is a [`NetworkConfig`] that needs
//! no further checks. Subnet of the default network, in this order (Docker's):
//!
//! 1. `--bip`; 2. an address that the bridge already has; 3. `--fixed-cidr`; 4. the first default pool
//!    that no route of the host overlaps, normally 172.17.0.0/16.
//!
//! Unlike Docker, a subnet that overlaps an on-link route of the host is refused: the containers would
//! hide that network from the host, or it would hide them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::address_pool::{AddressPool, AddressPoolError, AddressPools, overlap};
use super::names::is_interface_name;
use super::network_config::{
    Advertise, DEFAULT_INTERFACE_PREFIX, FamilyConfig, GatewayMode, Ipv6Allocation, NetworkConfig,
};

/// Name of the default bridge, which the daemon makes itself.
pub const DEFAULT_BRIDGE: &str = "tb0";
/// MTU of the default network, in octets, if none is given (Docker's `DefaultNetworkMtu`).
pub const DEFAULT_MTU: u32 = 1500;
/// Smallest MTU of an Ethernet-like interface: `ETH_MIN_MTU`, Linux `include/uapi/linux/if_ether.h`.
pub const MIN_MTU: u32 = 68;
/// Largest MTU of a bridge or veth: `ETH_MAX_MTU`, same file.
pub const MAX_MTU: u32 = 65_535;

/// The flags as given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BridgeOptions {
    /// `-b, --bridge`: an existing bridge, `tb0`, or `none`.
    pub bridge: Option<String>,
    /// `--bip`: address of the bridge with its prefix length.
    pub bip: Option<String>,
    /// `--fixed-cidr`: where dynamic addresses come from.
    pub fixed_cidr: Option<String>,
    /// `--default-gateway` of containers, if it is not the bridge.
    pub default_gateway: Option<String>,
    /// `--mtu` in octets.
    pub mtu: Option<i64>,
    /// `--ip`: host address of published ports that name none.
    pub ip: Option<String>,
    /// `--icc`: containers may talk to each other.
    pub icc: bool,
    /// `--ip-masq`: rewrite the source of what leaves the host.
    pub ip_masq: bool,
    /// `--default-address-pool` values, `base=CIDR,size=N`.
    pub default_address_pools: Vec<String>,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            bridge: None,
            bip: None,
            fixed_cidr: None,
            default_gateway: None,
            mtu: None,
            ip: None,
            icc: true,
            ip_masq: true,
            default_address_pools: Vec::new(),
        }
    }
}

/// What the host looks like, as far as the checks need it.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// On-link routes (scope link) of all interfaces, without default routes.
    pub routes: Vec<HostRoute>,
    /// Name servers of the host: no default subnet may hide one.
    pub name_servers: Vec<IpAddr>,
    /// The bridge exists already.
    pub bridge_exists: bool,
    /// Addresses on the bridge but link-local ones, with prefix length and host bits.
    pub bridge_addresses: Vec<IpNet>,
    /// Subnets of other networks of ours.
    pub own_subnets: Vec<IpNet>,
    /// The host has IPv6.
    pub has_ipv6: bool,
}

/// An on-link route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Name of its interface.
    pub device: String,
}

/// Why the flags cannot be used: one line with flag, value and fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum OptionError {
    #[error(
        "You specified -b & --bip, mutually exclusive options. Please specify only one (given: --bridge {bridge} and --bip {bip})"
    )]
    BridgeAndBip { bridge: String, bip: String },
    #[error(
        "bridge device with non default name {0} must be created manually: run `ip link add {0} type bridge`, or leave --bridge out for {DEFAULT_BRIDGE}"
    )]
    BridgeMissing(String),
    #[error(
        "invalid --bridge \"{0}\": an interface name has 1 to 15 characters and no space, '/' or ':'; give the name of an existing bridge, or none"
    )]
    BridgeName(String),
    #[error(
        "invalid {flag} \"{value}\": invalid CIDR address: {value}; give an IPv4 address and prefix length, as in {flag} {example}"
    )]
    Cidr {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error("invalid {flag} \"{value}\": IPv6 comes with --ipv6; give an IPv4 {what}")]
    Ipv6 {
        flag: &'static str,
        value: String,
        what: &'static str,
    },
    #[error(
        "invalid {flag} \"{value}\": {value} is not a subnet for containers; choose a unicast one such as {example}"
    )]
    Special {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "invalid --bip \"{value}\": {address} is the {which} address of {subnet}, not one of a host; give --bip {suggestion}"
    )]
    BipNotHost {
        value: String,
        address: IpAddr,
        which: &'static str,
        subnet: IpNet,
        suggestion: IpNet,
    },
    #[error(
        "invalid --bip \"{0}\": a /32 has no room for containers; give a prefix length of at most 31, as in --bip 172.17.0.1/16"
    )]
    NoRoom(String),
    #[error(
        "invalid --fixed-cidr \"{value}\": invalid subnet {value}: it should be {expected}; give --fixed-cidr {expected}"
    )]
    FixedCidrHostBits { value: String, expected: IpNet },
    #[error(
        "invalid --fixed-cidr \"{range}\": invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range; choose a part of {subnet} or change --bip"
    )]
    FixedCidrOutside { range: IpNet, subnet: IpNet },
    #[error("invalid {flag} \"{value}\": not an IP address; give one as in {flag} {example}")]
    Address {
        flag: &'static str,
        value: String,
        example: &'static str,
    },
    #[error(
        "invalid --default-gateway \"{gateway}\": default gateway ip must be part of the network; choose an address in {subnet} or change --bip"
    )]
    GatewayOutside { gateway: IpAddr, subnet: IpNet },
    #[error(
        "invalid --default-gateway \"{gateway}\": it is the {which} address of {subnet}; choose another address in {subnet}"
    )]
    GatewayReserved {
        gateway: IpAddr,
        which: &'static str,
        subnet: IpNet,
    },
    #[error(
        "invalid MTU number: {0} (in --mtu {0}): use {MIN_MTU} to {MAX_MTU} octets, as in --mtu 1500"
    )]
    Mtu(i64),
    #[error(
        "{flag} {subnet} overlaps the host's route {route} (dev {device}): the next free one is --bip {free}"
    )]
    Overlap {
        flag: String,
        subnet: IpNet,
        route: IpNet,
        device: String,
        free: IpNet,
    },
    #[error(
        "{flag} {subnet} overlaps the host's route {route} (dev {device}), and all predefined address pools have been fully subnetted: choose another subnet with --bip"
    )]
    OverlapNoneFree {
        flag: String,
        subnet: IpNet,
        route: IpNet,
        device: String,
    },
    #[error(
        "all predefined address pools have been fully subnetted: every default subnet overlaps a route of the host; choose one with --bip"
    )]
    NoPool,
    #[error(transparent)]
    AddressPool(#[from] AddressPoolError),
}

impl BridgeOptions {
    /// The name of the bridge that the options are about; `None` for `--bridge none`. The daemon asks
    /// the kernel about it to fill in [`HostFacts`].
    pub fn bridge_name(&self) -> Option<&str> {
        match self.bridge.as_deref() {
            None | Some("") => Some(DEFAULT_BRIDGE),
            Some("none") => None,
            Some(name) => Some(name),
        }
    }

    /// The default pools, or the user's.
    ///
    /// # Errors
    /// For a malformed `--default-address-pool`.
    pub fn address_pools(&self) -> Result<AddressPools, AddressPoolError> {
        let pools: Result<Vec<AddressPool>, _> = self
            .default_address_pools
            .iter()
            .map(|pool| pool.parse())
            .collect();
        Ok(AddressPools::new(pools?))
    }

    /// Checks everything. `Ok(None)`: no default network is wanted.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn resolve(&self, host: &HostFacts) -> Result<Option<NetworkConfig>, OptionError> {
        let mtu = self.checked_mtu()?;
        let host_address = self.checked_host_address()?;
        let bip = self.checked_bip()?;
        let fixed = self.checked_fixed_cidr()?;
        let pools = self.address_pools()?;
        if let (Some(bridge), Some(bip)) = (
            self.bridge.as_deref().filter(|b| !b.is_empty()),
            self.bip.as_deref(),
        ) {
            return Err(OptionError::BridgeAndBip {
                bridge: bridge.to_owned(),
                bip: bip.to_owned(),
            });
        }
        let Some(name) = self.bridge_name() else {
            return Ok(None);
        };
        check_interface_name(name)?;
        let managed = name == DEFAULT_BRIDGE;
        if !managed && !host.bridge_exists {
            return Err(OptionError::BridgeMissing(name.to_owned()));
        }
        let context = Context {
            host,
            pools: &pools,
            bridge: name,
        };
        let (address, allocation_range) = context.choose(bip, fixed, managed)?;
        let subnet = address.trunc();
        let container_gateway = self
            .checked_gateway(subnet)?
            .filter(|gateway| *gateway != address.addr());
        // Docker reserves it as an auxiliary address of this name.
        let auxiliary = container_gateway
            .map(|gateway| ("DefaultGatewayIPv4".to_owned(), gateway))
            .into_iter()
            .collect();
        let family = FamilyConfig {
            subnet,
            configured: true,
            allocation_range,
            auxiliary,
            gateway: Some(address.addr()),
            bridge_address: true,
            container_gateway,
            mode: GatewayMode::Nat,
            masquerade: self.ip_masq,
            source: None,
        };
        Ok(Some(NetworkConfig {
            bridge: name.to_owned(),
            managed,
            families: vec![family],
            internal: false,
            icc: self.icc,
            mtu,
            host_address,
            interface_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            advertise: Advertise::default(),
            ipv6_address: Ipv6Allocation::Mac,
            ndp_proxy: Vec::new(),
        }))
    }

    fn checked_mtu(&self) -> Result<u32, OptionError> {
        let Some(given) = self.mtu else {
            return Ok(DEFAULT_MTU);
        };
        u32::try_from(given)
            .ok()
            .filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu))
            .ok_or(OptionError::Mtu(given))
    }

    fn checked_host_address(&self) -> Result<IpAddr, OptionError> {
        let Some(value) = self.ip.as_deref() else {
            return Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        };
        parse_v4("--ip", value, "0.0.0.0").map(IpAddr::V4)
    }

    fn checked_bip(&self) -> Result<Option<IpNet>, OptionError> {
        let Some(value) = self.bip.as_deref() else {
            return Ok(None);
        };
        let example = "172.17.0.1/16";
        let net = parse_v4_cidr("--bip", value, example)?;
        if net.prefix_len() == 32 {
            return Err(OptionError::NoRoom(value.to_owned()));
        }
        if net.prefix_len() <= 30 {
            let which = match net.addr() {
                address if address == net.network() => "network",
                address if address == net.broadcast() => "broadcast",
                _ => return Ok(Some(net.into())),
            };
            return Err(OptionError::BipNotHost {
                value: value.to_owned(),
                address: net.addr().into(),
                which,
                subnet: net.trunc().into(),
                suggestion: first_host(net.into()),
            });
        }
        Ok(Some(net.into()))
    }

    fn checked_fixed_cidr(&self) -> Result<Option<IpNet>, OptionError> {
        let Some(value) = self.fixed_cidr.as_deref() else {
            return Ok(None);
        };
        let net = parse_v4_cidr("--fixed-cidr", value, "172.17.0.0/24")?;
        if net != net.trunc() {
            return Err(OptionError::FixedCidrHostBits {
                value: value.to_owned(),
                expected: net.trunc().into(),
            });
        }
        Ok(Some(net.into()))
    }

    fn checked_gateway(&self, subnet: IpNet) -> Result<Option<IpAddr>, OptionError> {
        let Some(value) = self.default_gateway.as_deref() else {
            return Ok(None);
        };
        let gateway = IpAddr::V4(parse_v4("--default-gateway", value, "172.17.0.254")?);
        if !subnet.contains(&gateway) {
            return Err(OptionError::GatewayOutside { gateway, subnet });
        }
        if subnet.prefix_len() <= 30 {
            let which = match gateway {
                address if address == subnet.network() => "network",
                address if address == subnet.broadcast() => "broadcast",
                _ => return Ok(Some(gateway)),
            };
            return Err(OptionError::GatewayReserved {
                gateway,
                which,
                subnet,
            });
        }
        Ok(Some(gateway))
    }
}

/// What the choice of a subnet depends on besides the flags.
struct Context<'a> {
    host: &'a HostFacts,
    pools: &'a AddressPools,
    bridge: &'a str,
}

impl Context<'_> {
    /// Bridge address and allocation range.
    fn choose(
        &self,
        bip: Option<IpNet>,
        fixed: Option<IpNet>,
        managed: bool,
    ) -> Result<(IpNet, Option<IpNet>), OptionError> {
        let existing = self
            .host
            .bridge_addresses
            .iter()
            .copied()
            .filter(|address| address.addr().is_ipv4())
            // On our own bridge an old address that does not fit new flags is replaced; somebody else's is obeyed.
            .find(|address| {
                !managed || fixed.is_none_or(|fixed| overlap(&address.trunc(), &fixed))
            });
        let (address, flag) = match (bip, existing, fixed) {
            (Some(bip), ..) => (bip, "--bip"),
            (None, Some(existing), _) => (existing, "the address of the bridge,"),
            (None, None, Some(fixed)) => (first_host(fixed), "--fixed-cidr"),
            (None, None, None) => {
                let free = self.next_free().ok_or(OptionError::NoPool)?;
                return Ok((free, None));
            }
        };
        // A range larger than the bridge's subnet makes the subnet grow to it, as in Docker.
        let address = match fixed {
            Some(fixed) if fixed.contains(&address) => {
                IpNet::new(address.addr(), fixed.prefix_len()).unwrap_or(address)
            }
            Some(range) if !address.contains(&range) => {
                return Err(OptionError::FixedCidrOutside {
                    range,
                    subnet: address.trunc(),
                });
            }
            Some(_) | None => address,
        };
        self.refuse_overlap(flag, address)?;
        Ok((address, fixed))
    }

    fn refuse_overlap(&self, flag: &str, address: IpNet) -> Result<(), OptionError> {
        let Some(HostRoute {
            prefix: route,
            device,
        }) = self
            .host
            .routes
            .iter()
            .find(|route| route.device != self.bridge && overlap(&route.prefix, &address))
            .cloned()
        else {
            return Ok(());
        };
        let (flag, subnet) = (flag.to_owned(), address);
        Err(match self.next_free() {
            Some(free) => OptionError::Overlap {
                flag,
                subnet,
                route,
                device,
                free,
            },
            None => OptionError::OverlapNoneFree {
                flag,
                subnet,
                route,
                device,
            },
        })
    }

    /// The first free default subnet, as address of the bridge in it.
    fn next_free(&self) -> Option<IpNet> {
        let host = self.host;
        let routes = host
            .routes
            .iter()
            .filter(|route| route.device != self.bridge)
            .map(|route| route.prefix);
        let taken: Vec<IpNet> = routes
            .chain(host.own_subnets.iter().copied())
            .chain(host.name_servers.iter().map(|server| IpNet::from(*server)))
            .collect();
        self.pools.next_free(&taken).map(first_host)
    }
}

/// The first address of a subnet that a host can have, with the prefix length.
fn first_host(subnet: IpNet) -> IpNet {
    let address = if subnet.prefix_len() >= 31 {
        subnet.network()
    } else {
        subnet.hosts().next().unwrap_or_else(|| subnet.network())
    };
    IpNet::new(address, subnet.prefix_len()).unwrap_or(subnet)
}

fn check_interface_name(name: &str) -> Result<(), OptionError> {
    if is_interface_name(name) {
        Ok(())
    } else {
        Err(OptionError::BridgeName(name.escape_debug().to_string()))
    }
}

fn parse_v4_cidr(
    flag: &'static str,
    value: &str,
    example: &'static str,
) -> Result<Ipv4Net, OptionError> {
    let net = match value.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => net,
        Ok(IpNet::V6(_)) => {
            return Err(OptionError::Ipv6 {
                flag,
                value: value.to_owned(),
                what: "subnet",
            });
        }
        Err(_) => {
            return Err(OptionError::Cidr {
                flag,
                value: value.escape_debug().to_string(),
                example,
            });
        }
    };
    let address = net.addr();
    let special = address.is_multicast()
        || address.is_loopback()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
        || net.prefix_len() == 0;
    if special {
        Err(OptionError::Special {
            flag,
            value: value.to_owned(),
            example,
        })
    } else {
        Ok(net)
    }
}

fn parse_v4(
    flag: &'static str,
    value: &str,
    example: &'static str,
) -> Result<Ipv4Addr, OptionError> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(_)) => Err(OptionError::Ipv6 {
            flag,
            value: value.to_owned(),
            what: "address",
        }),
        Err(_) => Err(OptionError::Address {
            flag,
            value: value.escape_debug().to_string(),
            example,
        }),
    }
}

#[cfg(test)]
mod tests;
