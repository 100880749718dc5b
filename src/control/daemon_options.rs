//! The daemon's flags for the default network, checked against each other and against the host.
//!
//! Flags come in as text, so that every message can name the flag and quote the value, whether it came
//! from the command line or from a configuration file. What comes out is a [`NetworkConfig`] that needs
//! no further checks. Subnet of the default network, in this order (Docker's), for each of its address families:
//!
//! 1. `--bip`, `--bip6`; 2. an address that the bridge already has; 3. `--fixed-cidr`, `--fixed-cidr-v6`; 4. the
//!    subnet of the default pools that it had before the host was started again, if that is still free; 5. the
//!    first subnet of the default pools that no route of the host overlaps, normally 172.17.0.0/16, and the first /64 of
//!    the host's own unique local prefix. Where dockerd has been, 172.17.0.0/16 comes last: its own bridge takes it, whether
//!    or not somebody else has it already, and it may start after us.
//!
//! It has IPv6 only with `--ipv6`, as with Docker; without it the other IPv6 flags have no effect, and a warning says so.
//!
//! Unlike Docker, a subnet that overlaps an on-link route of the host is refused: the containers would
//! hide that network from the host, or it would hide them. An IPv6 subnet may be a part of the prefix that is on
//! the link of an interface with an NDP proxy, which makes the two one link to their neighbours.

mod error;
mod ipv6;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address_pool::{AddressPool, AddressPoolError, AddressPools, overlap};
use super::names::is_interface_name;
use super::network_config::{
    Advertise, DEFAULT_INTERFACE_PREFIX, FamilyConfig, GatewayMode, Ipv6Allocation, NetworkConfig,
};

pub use error::OptionError;
pub(super) use ipv6::{MIN_MTU_IPV6, Special, may_be_uplink, special};

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
    /// `--ipv6`: the default network has IPv6, too.
    pub ipv6: bool,
    /// `--bip6`: IPv6 address of the bridge with its prefix length.
    pub bip6: Option<String>,
    /// `--fixed-cidr-v6`: the IPv6 subnet, or the part of it where dynamic addresses come from.
    pub fixed_cidr_v6: Option<String>,
    /// `--default-gateway-v6` of containers, if it is not the bridge.
    pub default_gateway_v6: Option<String>,
    /// `--ndp-proxy`: interfaces on whose links neighbour solicitations for containers are answered.
    pub ndp_proxy: Vec<String>,
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
            ipv6: false,
            bip6: None,
            fixed_cidr_v6: None,
            default_gateway_v6: None,
            ndp_proxy: Vec::new(),
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
    /// On-link routes (scope link) of all interfaces, without default routes; each IPv6 address of the host and of its
    /// routers like one of its own.
    pub routes: Vec<HostRoute>,
    /// Name servers of the host: no default subnet may hide one.
    pub name_servers: Vec<IpAddr>,
    /// The bridge exists already.
    pub bridge_exists: bool,
    /// Addresses on the bridge but link-local ones, with prefix length and host bits.
    pub bridge_addresses: Vec<IpNet>,
    /// Subnets of other networks of ours.
    pub own_subnets: Vec<IpNet>,
    /// Subnets that nobody has now and somebody will want: chosen last.
    pub spared_subnets: Vec<IpNet>,
    /// Addresses that the bridge of the default network had, as long as there was one.
    pub former_addresses: Vec<IpNet>,
    /// The host has IPv6.
    pub has_ipv6: bool,
    /// Names of all interfaces.
    pub interfaces: Vec<String>,
}

/// An on-link route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Name of its interface.
    pub device: String,
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

    /// The default pools, or the user's. `host_id` is [`super::identity::Identity::host`].
    ///
    /// # Errors
    /// For a malformed `--default-address-pool`.
    pub fn address_pools(&self, host_id: &str) -> Result<AddressPools, AddressPoolError> {
        let pools: Result<Vec<AddressPool>, _> = self
            .default_address_pools
            .iter()
            .map(|pool| pool.parse())
            .collect();
        Ok(AddressPools::new(pools?, host_id))
    }

    /// Checks everything. `Ok(None)`: no default network is wanted.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn resolve(
        &self,
        host: &HostFacts,
        pools: &AddressPools,
    ) -> Result<Option<NetworkConfig>, OptionError> {
        let mtu = self.checked_mtu()?;
        let host_address = self.checked_host_address()?;
        let bip = self.checked_bip()?;
        let fixed = self.checked_fixed_cidr()?;
        let wanted_v6 = self.checked_ipv6()?;
        let ndp_proxy = self.checked_ndp_proxy()?;
        if let Some(bridge) = self.bridge.as_deref().filter(|name| !name.is_empty()) {
            let both = [("--bip", &self.bip), ("--bip6", &self.bip6)];
            for (flag, bip) in both {
                if let Some(bip) = bip {
                    return Err(OptionError::BridgeAndBip {
                        bridge: bridge.to_owned(),
                        flag,
                        bip: bip.clone(),
                    });
                }
            }
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
            pools,
            bridge: name,
            managed,
            ndp_proxy: &ndp_proxy,
        };
        let mut families = vec![self.ipv4_family(&context, bip, fixed)?];
        let mut link_local = false;
        if self.ipv6 {
            let family = self.ipv6_family(&context, wanted_v6)?;
            link_local = family.is_none();
            families.extend(family);
        }
        Ok(Some(NetworkConfig {
            bridge: name.to_owned(),
            managed,
            families,
            link_local,
            internal: false,
            icc: self.icc,
            mtu,
            host_address,
            interface_prefix: DEFAULT_INTERFACE_PREFIX.to_owned(),
            advertise: Advertise::default(),
            ipv6_address: Ipv6Allocation::Mac,
            ndp_proxy: if self.ipv6 { ndp_proxy } else { Vec::new() },
        }))
    }

    /// What has no effect, one sentence each.
    pub fn warnings(&self, host: &HostFacts) -> Vec<String> {
        let mut warnings = self.ipv6_warnings();
        if self.ipv6 {
            warnings.extend(missing_interfaces("--ndp-proxy", &self.ndp_proxy, host));
        }
        warnings
    }

    fn ipv4_family(
        &self,
        context: &Context<'_>,
        bip: Option<IpNet>,
        fixed: Option<IpNet>,
    ) -> Result<FamilyConfig, OptionError> {
        let (address, allocation_range) = context.choose(&IPV4_FLAGS, bip, fixed)?;
        let subnet = address.trunc();
        let container_gateway = self
            .checked_gateway(subnet)?
            .filter(|gateway| *gateway != address.addr());
        // Docker reserves it as an auxiliary address of this name.
        let auxiliary = container_gateway
            .map(|gateway| ("DefaultGatewayIPv4".to_owned(), gateway))
            .into_iter()
            .collect();
        Ok(FamilyConfig {
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
        })
    }

    fn checked_mtu(&self) -> Result<u32, OptionError> {
        let Some(given) = self.mtu else {
            return Ok(DEFAULT_MTU);
        };
        let mtu = u32::try_from(given)
            .ok()
            .filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu))
            .ok_or(OptionError::Mtu(given))?;
        if self.ipv6 && mtu < MIN_MTU_IPV6 {
            return Err(OptionError::MtuIpv6(mtu));
        }
        Ok(mtu)
    }

    fn checked_host_address(&self) -> Result<IpAddr, OptionError> {
        let Some(value) = self.ip.as_deref() else {
            return Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        };
        let address: IpAddr = value.parse().map_err(|_| OptionError::Address {
            flag: "--ip",
            value: value.escape_debug().to_string(),
            example: "0.0.0.0",
        })?;
        if address.is_multicast() {
            return Err(OptionError::Special {
                flag: "--ip",
                value: value.to_owned(),
                what: "an address of the host",
                example: "0.0.0.0",
            });
        }
        Ok(address)
    }

    fn checked_bip(&self) -> Result<Option<IpNet>, OptionError> {
        let Some(value) = self.bip.as_deref() else {
            return Ok(None);
        };
        let net = parse_cidr(&IPV4_FLAGS, IPV4_FLAGS.bip, value)?;
        IPV4_FLAGS.check_host(value, net)?;
        Ok(Some(net))
    }

    fn checked_fixed_cidr(&self) -> Result<Option<IpNet>, OptionError> {
        let value = self.fixed_cidr.as_deref();
        value
            .map(|value| parse_subnet(&IPV4_FLAGS, value))
            .transpose()
    }

    fn checked_gateway(&self, subnet: IpNet) -> Result<Option<IpAddr>, OptionError> {
        let Some(value) = self.default_gateway.as_deref() else {
            return Ok(None);
        };
        let gateway = parse_address(&IPV4_FLAGS, value)?;
        let flag = IPV4_FLAGS.gateway;
        if !subnet.contains(&gateway) {
            return Err(OptionError::GatewayOutside {
                flag,
                gateway,
                subnet,
                bip: IPV4_FLAGS.bip,
            });
        }
        match reserved_as(subnet, gateway) {
            None => Ok(Some(gateway)),
            Some(which) => Err(OptionError::GatewayReserved {
                flag,
                gateway,
                which,
                subnet,
            }),
        }
    }
}

/// The flags of an address family, for messages.
#[derive(Debug)]
struct Flags {
    ipv4: bool,
    bip: &'static str,
    fixed: &'static str,
    gateway: &'static str,
    example_bip: &'static str,
    example_fixed: &'static str,
    example_gateway: &'static str,
    /// Longest prefix with room for a container besides the bridge.
    longest: u8,
}

const IPV4_FLAGS: Flags = Flags {
    ipv4: true,
    bip: "--bip",
    fixed: "--fixed-cidr",
    gateway: "--default-gateway",
    example_bip: "172.17.0.1/16",
    example_fixed: "172.17.0.0/24",
    example_gateway: "172.17.0.254",
    longest: 31,
};

impl Flags {
    const fn version(&self) -> u8 {
        if self.ipv4 { 4 } else { 6 }
    }

    /// The same flag of the other family.
    fn other(&self, flag: &str) -> &'static str {
        let other = if self.ipv4 {
            &ipv6::IPV6_FLAGS
        } else {
            &IPV4_FLAGS
        };
        match flag {
            _ if flag == self.bip => other.bip,
            _ if flag == self.fixed => other.fixed,
            _ => other.gateway,
        }
    }

    /// The bridge must have an address of a host, and leave one to others.
    fn check_host(&self, value: &str, net: IpNet) -> Result<(), OptionError> {
        self.check_room(self.bip, value, net)?;
        match reserved_as(net, net.addr()) {
            None => Ok(()),
            Some(which) => Err(OptionError::BipNotHost {
                flag: self.bip,
                value: value.to_owned(),
                address: net.addr(),
                which,
                subnet: net.trunc(),
                suggestion: first_host(net),
            }),
        }
    }

    fn check_room(&self, flag: &'static str, value: &str, net: IpNet) -> Result<(), OptionError> {
        if net.prefix_len() <= self.longest {
            return Ok(());
        }
        Err(OptionError::NoRoom {
            flag,
            value: value.to_owned(),
            prefix: net.prefix_len(),
            longest: self.longest,
            example: if flag == self.bip {
                self.example_bip
            } else {
                self.example_fixed
            },
        })
    }
}

/// What an address is in a subnet, if no host can have it.
fn reserved_as(subnet: IpNet, address: IpAddr) -> Option<&'static str> {
    if subnet.prefix_len() + 2 > subnet.max_prefix_len() {
        return None;
    }
    match subnet {
        IpNet::V6(subnet) => {
            (address == IpAddr::V6(subnet.network())).then_some("subnet-router anycast")
        }
        IpNet::V4(subnet) if address == IpAddr::V4(subnet.network()) => Some("network"),
        IpNet::V4(subnet) => (address == IpAddr::V4(subnet.broadcast())).then_some("broadcast"),
    }
}

/// What the choice of a subnet depends on besides the flags.
struct Context<'a> {
    host: &'a HostFacts,
    pools: &'a AddressPools,
    bridge: &'a str,
    managed: bool,
    ndp_proxy: &'a [String],
}

impl Context<'_> {
    /// Bridge address and allocation range.
    fn choose(
        &self,
        flags: &'static Flags,
        bip: Option<IpNet>,
        fixed: Option<IpNet>,
    ) -> Result<(IpNet, Option<IpNet>), OptionError> {
        let existing = self.existing(flags, fixed);
        let (address, flag) = match (bip, existing, fixed) {
            (Some(bip), ..) => (bip, flags.bip),
            (None, Some(existing), _) => (existing, "the address of the bridge,"),
            (None, None, Some(fixed)) => {
                flags.check_room(flags.fixed, &fixed.to_string(), fixed)?;
                (first_host(fixed), flags.fixed)
            }
            (None, None, None) => {
                let free = self.former(flags).or_else(|| self.next_free(flags));
                let free = free.ok_or(OptionError::NoPool { bip: flags.bip })?;
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
                    flag: flags.fixed,
                    range,
                    subnet: address.trunc(),
                    bip: flags.bip,
                });
            }
            Some(_) | None => address,
        };
        self.refuse_overlap(flags, flag, address)?;
        Ok((address, fixed))
    }

    /// An address that the bridge has already. On our own bridge an old address that does not fit new flags is
    /// replaced; somebody else's is obeyed.
    fn existing(&self, flags: &Flags, fixed: Option<IpNet>) -> Option<IpNet> {
        let addresses = self.host.bridge_addresses.iter().copied();
        addresses
            .filter(|address| address.addr().is_ipv4() == flags.ipv4)
            .find(|address| {
                !self.managed || fixed.is_none_or(|fixed| overlap(&address.trunc(), &fixed))
            })
    }

    fn refuse_overlap(&self, flags: &Flags, flag: &str, address: IpNet) -> Result<(), OptionError> {
        let mut routes = self.host.routes.iter();
        let Some(HostRoute {
            prefix: route,
            device,
        }) = routes
            .find(|route| {
                route.device != self.bridge
                    && overlap(&route.prefix, &address)
                    && !is_proxied(route, address, self.ndp_proxy)
            })
            .cloned()
        else {
            return Ok(());
        };
        let part_of_link = is_part_of(route, address) && may_be_uplink(&device, &[self.bridge]);
        let free = self.next_free(flags);
        // As it was given, without host bits.
        let (choose, subnet, free) = if flag == flags.fixed {
            (flags.fixed, address.trunc(), free.map(|free| free.trunc()))
        } else {
            (flags.bip, address, free)
        };
        let flag = flag.to_owned();
        Err(match free {
            Some(free) => OptionError::Overlap {
                flag,
                subnet,
                route,
                device,
                part_of_link,
                choose,
                free,
            },
            None => OptionError::OverlapNoneFree {
                flag,
                subnet,
                route,
                device,
                part_of_link,
                choose,
            },
        })
    }

    /// What the bridge had, if it was chosen from the pools, as it would be now.
    fn former(&self, flags: &Flags) -> Option<IpNet> {
        let taken = self.taken();
        let mut former = self.host.former_addresses.iter().copied();
        former.find(|address| {
            address.addr().is_ipv4() == flags.ipv4
                && self.managed
                && *address == first_host(*address)
                && self.pools.offer(address.trunc())
                && !taken.iter().any(|taken| overlap(taken, address))
        })
    }

    /// The first free default subnet, as address of the bridge in it.
    fn next_free(&self, flags: &Flags) -> Option<IpNet> {
        let taken = self.taken();
        let free = self
            .pools
            .next_free_sparing(flags.ipv4, &taken, &self.host.spared_subnets);
        free.map(first_host)
    }

    fn taken(&self) -> Vec<IpNet> {
        let host = self.host;
        let routes = host
            .routes
            .iter()
            .filter(|route| route.device != self.bridge)
            .map(|route| route.prefix);
        routes
            .chain(host.own_subnets.iter().copied())
            .chain(host.name_servers.iter().map(|server| IpNet::from(*server)))
            .collect()
    }
}

/// The subnet is a part of the prefix on the link of an interface with an NDP proxy: its neighbours are answered.
pub(super) fn is_proxied(route: &HostRoute, subnet: IpNet, ndp_proxy: &[String]) -> bool {
    ndp_proxy.contains(&route.device) && is_part_of(route.prefix, subnet)
}

/// An IPv6 subnet that an NDP proxy would let be a part of a link's prefix.
pub(super) fn is_part_of(link: IpNet, subnet: IpNet) -> bool {
    !subnet.addr().is_ipv4()
        && link.contains(&subnet.trunc())
        && link.prefix_len() < subnet.prefix_len()
}

/// One sentence for each interface that is not there; it may come later.
pub(super) fn missing_interfaces<'a>(
    option: &'a str,
    names: &'a [String],
    host: &'a HostFacts,
) -> impl Iterator<Item = String> {
    let missing = names.iter().filter(|name| !host.interfaces.contains(name));
    missing.map(move |name| {
        format!("{option} {name}: there is no such interface; answering begins when there is")
    })
}

/// The first address of a subnet that a host can have, with the prefix length.
fn first_host(subnet: IpNet) -> IpNet {
    let first = subnet.network();
    let address = match (reserved_as(subnet, first), first) {
        (None, first) => first,
        (Some(_), IpAddr::V4(first)) => Ipv4Addr::from(first.to_bits() + 1).into(),
        (Some(_), IpAddr::V6(first)) => std::net::Ipv6Addr::from(first.to_bits() + 1).into(),
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

fn parse_cidr(flags: &Flags, flag: &'static str, value: &str) -> Result<IpNet, OptionError> {
    let example = if flag == flags.bip {
        flags.example_bip
    } else {
        flags.example_fixed
    };
    let net: IpNet = value.parse().map_err(|_| OptionError::Cidr {
        flag,
        value: value.escape_debug().to_string(),
        version: flags.version(),
        example,
    })?;
    if net.addr().is_ipv4() != flags.ipv4 {
        return Err(OptionError::OtherFamily {
            flag,
            value: value.to_owned(),
            version: flags.version(),
            other: flags.other(flag),
            example,
        });
    }
    match special(net) {
        None => Ok(net),
        Some(Special::Multicast) if !flags.ipv4 => Err(OptionError::Multicast {
            flag,
            value: value.to_owned(),
            example,
        }),
        Some(Special::LinkLocal) => Err(OptionError::LinkLocal {
            flag,
            value: value.to_owned(),
            example,
        }),
        Some(Special::Multicast | Special::Other) => Err(OptionError::Special {
            flag,
            value: value.to_owned(),
            what: "a subnet for containers",
            example,
        }),
    }
}

/// `--fixed-cidr`, `--fixed-cidr-v6`: without host bits.
fn parse_subnet(flags: &Flags, value: &str) -> Result<IpNet, OptionError> {
    let net = parse_cidr(flags, flags.fixed, value)?;
    if net == net.trunc() {
        return Ok(net);
    }
    Err(OptionError::FixedCidrHostBits {
        flag: flags.fixed,
        value: value.to_owned(),
        expected: net.trunc(),
    })
}

/// `--default-gateway`, `--default-gateway-v6`.
fn parse_address(flags: &Flags, value: &str) -> Result<IpAddr, OptionError> {
    let (flag, example) = (flags.gateway, flags.example_gateway);
    let address: IpAddr = value.parse().map_err(|_| OptionError::Address {
        flag,
        value: value.escape_debug().to_string(),
        example,
    })?;
    if address.is_ipv4() == flags.ipv4 {
        return Ok(address);
    }
    Err(OptionError::OtherFamily {
        flag,
        value: value.to_owned(),
        version: flags.version(),
        other: flags.other(flag),
        example,
    })
}

#[cfg(test)]
mod tests;
