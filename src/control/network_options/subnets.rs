//! `--subnet`, `--ip-range`, `--gateway`, `--aux-address`, and the choice of a subnet when none is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Context, Enabled, NetworkOptionError, Options};
use crate::api::types::IpamPool;
use crate::control::address_pool::{NoSubnet, overlap};
use crate::control::daemon_options::{HostRoute, is_part_of, is_proxied, may_be_uplink, special};
use crate::control::ipam::{Gateway, Pool, PoolConfig};
use crate::control::network_config::{FamilyConfig, GatewayMode};

/// Under these names an auxiliary address is the containers' default gateway (Docker's bridge driver).
const CONTAINER_GATEWAY_V4: &str = "DefaultGatewayIPv4";
const CONTAINER_GATEWAY_V6: &str = "DefaultGatewayIPv6";

/// What a request says about subnets.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    v4: Option<WantedFamily>,
    v6: Option<WantedFamily>,
}

impl Wanted {
    /// As with Docker, the subnet of a family that the network does not have is checked and not used. One sentence
    /// each.
    pub(super) fn unused(&self, enabled: Enabled) -> Vec<String> {
        let text = |family: &Option<WantedFamily>, flag: &str| {
            let family = family.as_ref()?;
            let WantedSubnet::Exact(subnet) = family.subnet else {
                return None;
            };
            Some(format!("--subnet {subnet} has no effect {flag}"))
        };
        let v4 = text(&self.v4, "with --ipv4=false").filter(|_| !enabled.ipv4);
        let v6 = text(&self.v6, "without --ipv6").filter(|_| !enabled.ipv6);
        v4.into_iter().chain(v6).collect()
    }
}

/// One address family of a request.
#[derive(Debug, Default)]
struct WantedFamily {
    subnet: WantedSubnet,
    range: Option<IpNet>,
    gateway: Option<IpAddr>,
    /// Without a container gateway that is not in the subnet.
    auxiliary: BTreeMap<String, IpAddr>,
    container_gateway: Option<IpAddr>,
}

/// `--subnet`.
#[derive(Clone, Copy, Debug, Default)]
enum WantedSubnet {
    /// A default one.
    #[default]
    Any,
    /// A part of a default pool with this prefix length: `0.0.0.0/24`.
    OfSize(u8),
    /// This one, without host bits.
    Exact(IpNet),
}

/// Understands the texts and checks them against each other.
pub(super) fn parse(pools: &[IpamPool]) -> Result<Wanted, NetworkOptionError> {
    let mut wanted = Wanted::default();
    for pool in pools {
        let (ipv4, parsed) = parse_pool(pool)?;
        let family = if ipv4 { &mut wanted.v4 } else { &mut wanted.v6 };
        if family.replace(parsed).is_some() {
            return Err(NetworkOptionError::MultipleSubnets);
        }
    }
    Ok(wanted)
}

/// Is it about IPv4, and what does it say?
fn parse_pool(pool: &IpamPool) -> Result<(bool, WantedFamily), NetworkOptionError> {
    let range = pool
        .ip_range
        .as_deref()
        .map(|text| network("ip-range", text));
    let gateway = pool.gateway.as_deref().map(|text| {
        let example = match is_ipv6(text) {
            true => "--gateway 2001:db8:1::1",
            false => "--gateway 10.99.0.1",
        };
        address("gateway".to_owned(), text, example)
    });
    let auxiliary = pool.auxiliary_addresses.iter().map(|(name, text)| {
        let what = format!("auxiliary address {}", name.escape_debug());
        let example = match is_ipv6(text) {
            true => "--aux-address router=2001:db8:1::2",
            false => "--aux-address router=10.99.0.2",
        };
        let address = address(what, text, example)?;
        Ok((name.clone(), address))
    });
    let subnet = pool.subnet.as_deref().map(|text| network("subnet", text));
    let subnet = subnet.transpose()?;
    let (range, gateway) = (range.transpose()?, gateway.transpose()?);
    let mut auxiliary: BTreeMap<_, _> = auxiliary.collect::<Result<_, NetworkOptionError>>()?;
    let plain = range.is_none() && gateway.is_none() && auxiliary.is_empty();
    let mut container_gateway = None;
    let wanted = match subnet {
        None if plain => WantedSubnet::Any,
        None => return Err(NetworkOptionError::NoSubnet),
        Some(subnet) if subnet.addr().is_unspecified() => {
            if !plain {
                return Err(NetworkOptionError::SubPool(subnet));
            }
            match subnet.prefix_len() {
                0 => WantedSubnet::Any,
                size => WantedSubnet::OfSize(size),
            }
        }
        Some(subnet) => {
            check_family(subnet, gateway, &auxiliary)?;
            container_gateway = take_container_gateway(subnet, &mut auxiliary);
            // Says what is wrong with them; where the gateway will be is decided later.
            Pool::new(&PoolConfig {
                subnet,
                range,
                gateway: gateway.map_or(Gateway::Absent, Gateway::At),
                auxiliary: auxiliary.clone(),
            })
            .map_err(NetworkOptionError::Ipam)?;
            if special(subnet).is_some() {
                return Err(NetworkOptionError::Special { subnet });
            }
            WantedSubnet::Exact(subnet)
        }
    };
    let ipv4 = subnet.is_none_or(|subnet| subnet.addr().is_ipv4());
    let family = WantedFamily {
        subnet: wanted,
        range,
        gateway,
        auxiliary,
        container_gateway,
    };
    Ok((ipv4, family))
}

fn check_family(
    subnet: IpNet,
    gateway: Option<IpAddr>,
    auxiliary: &BTreeMap<String, IpAddr>,
) -> Result<(), NetworkOptionError> {
    let ipv4 = subnet.addr().is_ipv4();
    let gateway = gateway.map(|address| (format!("gateway {address}"), address));
    let auxiliary = auxiliary.iter().map(|(name, address)| {
        let what = format!("auxiliary address {}", name.escape_debug());
        (what, *address)
    });
    let mut all = gateway.into_iter().chain(auxiliary);
    match all.find(|(_, address)| address.is_ipv4() != ipv4) {
        None => Ok(()),
        Some((what, _)) => Err(NetworkOptionError::Family {
            what,
            version: if ipv4 { 4 } else { 6 },
            subnet,
        }),
    }
}

/// The containers' default gateway. A link-local one, such as the bridge's `fe80::1`, is in no subnet, and nothing to
/// keep others from.
fn take_container_gateway(
    subnet: IpNet,
    auxiliary: &mut BTreeMap<String, IpAddr>,
) -> Option<IpAddr> {
    let name = match subnet {
        IpNet::V4(_) => CONTAINER_GATEWAY_V4,
        IpNet::V6(_) => CONTAINER_GATEWAY_V6,
    };
    let gateway = *auxiliary.get(name)?;
    if matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local()) {
        auxiliary.remove(name);
    }
    Some(gateway)
}

fn network(what: &str, text: &str) -> Result<IpNet, NetworkOptionError> {
    text.parse().map_err(|_| NetworkOptionError::Text {
        what: what.to_owned(),
        value: text.escape_debug().to_string(),
        problem: format!("invalid CIDR address: {}", text.escape_debug()),
        example: match (what, is_ipv6(text)) {
            ("subnet", false) => "--subnet 10.99.0.0/24",
            ("subnet", true) => "--subnet 2001:db8:1::/64",
            (_, false) => "--ip-range 10.99.0.128/25",
            (_, true) => "--ip-range 2001:db8:1:0:8000::/80",
        },
    })
}

/// What somebody meant who wrote this.
fn is_ipv6(text: &str) -> bool {
    text.contains(':')
}

fn address(what: String, text: &str, example: &'static str) -> Result<IpAddr, NetworkOptionError> {
    text.parse().map_err(|_| NetworkOptionError::Text {
        what,
        value: text.escape_debug().to_string(),
        problem: "not an IP address".to_owned(),
        example,
    })
}

/// The families as they will be, IPv4 first.
pub(super) fn families(
    wanted: Wanted,
    enabled: Enabled,
    options: &Options,
    internal: bool,
    context: &Context<'_>,
) -> Result<Vec<FamilyConfig>, NetworkOptionError> {
    let v4 = enabled.ipv4.then_some((true, wanted.v4));
    let v6 = enabled.ipv6.then_some((false, wanted.v6));
    v4.into_iter()
        .chain(v6)
        .map(|(ipv4, wanted)| family(ipv4, wanted.unwrap_or_default(), options, internal, context))
        .collect()
}

/// The family as it will be: its subnet chosen and free, its gateway known.
fn family(
    ipv4: bool,
    wanted: WantedFamily,
    options: &Options,
    internal: bool,
    context: &Context<'_>,
) -> Result<FamilyConfig, NetworkOptionError> {
    let given = if ipv4 { &options.v4 } else { &options.v6 };
    let obstacles = Obstacles {
        context,
        bridge: &options.bridge,
        ndp_proxy: &options.ndp_proxy,
    };
    let subnet = obstacles.choose(ipv4, wanted.subnet)?;
    let mode = given
        .mode
        .unwrap_or_else(|| GatewayMode::default_of(subnet));
    let isolated = mode == GatewayMode::Isolated;
    let inhibited = ipv4 && options.inhibit_ipv4;
    let pool = Pool::new(&PoolConfig {
        subnet,
        range: wanted.range,
        gateway: match wanted.gateway {
            Some(gateway) => Gateway::At(gateway),
            None if isolated || (inhibited && internal) => Gateway::Absent,
            None => Gateway::First,
        },
        auxiliary: wanted.auxiliary.clone(),
    })
    .map_err(NetworkOptionError::Ipam)?;
    let gateway = pool.gateway();
    Ok(FamilyConfig {
        subnet,
        configured: matches!(wanted.subnet, WantedSubnet::Exact(_)),
        allocation_range: wanted.range,
        auxiliary: wanted.auxiliary,
        gateway,
        bridge_address: gateway.is_some() && !isolated && !inhibited,
        container_gateway: wanted.container_gateway,
        mode,
        masquerade: options.masquerade && mode.has_nat() && !internal,
        source: given.source,
    })
}

/// A subnet of which a network may be made later.
///
/// # Errors
/// As for a network's.
pub fn choose_subnet(
    subnet: Option<IpNet>,
    range: Option<IpNet>,
    ipv6: bool,
    context: &Context<'_>,
) -> Result<IpNet, NetworkOptionError> {
    let (_, wanted) = parse_pool(&IpamPool {
        subnet: subnet.map(|subnet| subnet.to_string()),
        ip_range: range.map(|range| range.to_string()),
        ..IpamPool::default()
    })?;
    let obstacles = Obstacles {
        context,
        bridge: "",
        ndp_proxy: &[],
    };
    obstacles.choose(!ipv6, wanted.subnet)
}

/// What a subnet must not overlap.
struct Obstacles<'a> {
    context: &'a Context<'a>,
    bridge: &'a str,
    ndp_proxy: &'a [String],
}

impl Obstacles<'_> {
    /// On-link routes of the host that are not our doing: neither over the bridge that will be used nor over that
    /// of another network.
    fn routes(&self) -> impl Iterator<Item = &HostRoute> {
        let ours = |device: &str| {
            let mut networks = self.context.networks.iter();
            device == self.bridge || networks.any(|network| network.bridge == device)
        };
        let routes = self.context.host.routes.iter();
        routes.filter(move |route| !ours(&route.device))
    }

    fn subnets(&self) -> impl Iterator<Item = (IpNet, &str)> {
        self.context.networks.iter().flat_map(|network| {
            let subnets = network.subnets.iter();
            subnets.map(|subnet| (*subnet, network.name.as_str()))
        })
    }

    fn taken(&self) -> Vec<IpNet> {
        let host = self.context.host;
        // With the routes over all bridges: even on a bridge of the user's own a default subnet must not be in use.
        let routes = host.routes.iter().map(|route| route.prefix);
        let servers = host.name_servers.iter().copied().map(IpNet::from);
        let subnets = self.subnets().map(|(subnet, _)| subnet);
        routes
            .chain(subnets)
            .chain(host.own_subnets.iter().copied())
            .chain(servers)
            .collect()
    }

    /// The wanted subnet, if it is free.
    fn choose(&self, ipv4: bool, wanted: WantedSubnet) -> Result<IpNet, NetworkOptionError> {
        match wanted {
            WantedSubnet::Exact(subnet) => {
                self.refuse_overlap(subnet)?;
                Ok(subnet)
            }
            WantedSubnet::Any => self.next_free(ipv4).ok_or(NetworkOptionError::NoPool),
            WantedSubnet::OfSize(size) => {
                let taken = self.taken();
                let free =
                    |taken: &[IpNet]| self.context.pools.next_free_of_size(ipv4, size, taken);
                free(&[&taken[..], &self.context.host.spared_subnets].concat())
                    .or_else(|_| free(&taken))
                    .map_err(|error| match error {
                        NoSubnet::Size => NetworkOptionError::PoolSize(size),
                        NoSubnet::Taken => NetworkOptionError::NoPool,
                    })
            }
        }
    }

    fn next_free(&self, ipv4: bool) -> Option<IpNet> {
        let spared = &self.context.host.spared_subnets;
        self.context
            .pools
            .next_free_sparing(ipv4, &self.taken(), spared)
    }

    fn refuse_overlap(&self, subnet: IpNet) -> Result<(), NetworkOptionError> {
        let free = || self.next_free(subnet.addr().is_ipv4());
        if let Some((other, network)) = self
            .subnets()
            .find(|(other, _)| other.contains(&subnet) || subnet.contains(other))
        {
            return Err(NetworkOptionError::PoolOverlap {
                subnet,
                other,
                network: network.to_owned(),
                free: free(),
            });
        }
        let clash = self.routes().find(|route| {
            overlap(&route.prefix, &subnet) && !is_proxied(route, subnet, self.ndp_proxy)
        });
        match clash {
            None => Ok(()),
            Some(route) => Err(NetworkOptionError::HostOverlap {
                subnet,
                route: route.prefix,
                device: route.device.clone(),
                part_of_link: is_part_of(route.prefix, subnet)
                    && may_be_uplink(&route.device, &[self.bridge]),
                free: free(),
            }),
        }
    }
}
