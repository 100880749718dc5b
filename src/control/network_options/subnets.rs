//! `--subnet`, `--ip-range`, `--gateway`, `--aux-address`, and the choice of a subnet when none is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Context, NetworkOptionError, Options};
use crate::api::types::IpamPool;
use crate::control::address_pool::{NoSubnet, overlap};
use crate::control::ipam::{Gateway, Pool, PoolConfig};
use crate::control::network_config::{FamilyConfig, GatewayMode};

/// Under this name an auxiliary address is the containers' default gateway (Docker's bridge driver).
const CONTAINER_GATEWAY: &str = "DefaultGatewayIPv4";

/// The IPv4 part of a request.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    subnet: WantedSubnet,
    range: Option<IpNet>,
    gateway: Option<IpAddr>,
    auxiliary: BTreeMap<String, IpAddr>,
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
    let mut wanted: Option<Wanted> = None;
    for pool in pools {
        let parsed = parse_pool(pool)?;
        if wanted.replace(parsed).is_some() {
            return Err(NetworkOptionError::MultipleSubnets);
        }
    }
    Ok(wanted.unwrap_or_default())
}

fn parse_pool(pool: &IpamPool) -> Result<Wanted, NetworkOptionError> {
    let range = pool
        .ip_range
        .as_deref()
        .map(|text| network("ip-range", text));
    let gateway = pool.gateway.as_deref().map(|text| {
        let example = "--gateway 10.99.0.1";
        address("gateway".to_owned(), text, example)
    });
    let auxiliary = pool.auxiliary_addresses.iter().map(|(name, text)| {
        let what = format!("auxiliary address {}", name.escape_debug());
        let address = address(what, text, "--aux-address router=10.99.0.2")?;
        Ok((name.clone(), address))
    });
    let subnet = pool.subnet.as_deref().map(|text| network("subnet", text));
    let subnet = subnet.transpose()?;
    let (range, gateway) = (range.transpose()?, gateway.transpose()?);
    let auxiliary: BTreeMap<_, _> = auxiliary.collect::<Result<_, NetworkOptionError>>()?;
    let plain = range.is_none() && gateway.is_none() && auxiliary.is_empty();
    let subnet = match subnet {
        None if plain => WantedSubnet::Any,
        None => return Err(NetworkOptionError::NoSubnet),
        Some(IpNet::V6(subnet)) => {
            return Err(NetworkOptionError::Ipv6(format!("--subnet {subnet}")));
        }
        Some(subnet) if subnet.addr().is_unspecified() => {
            if !plain {
                return Err(NetworkOptionError::SubPool(subnet));
            }
            match subnet.prefix_len() {
                0 => WantedSubnet::Any,
                size => WantedSubnet::OfSize(size),
            }
        }
        Some(IpNet::V4(subnet)) => {
            // Says what is wrong with them; where the gateway will be is decided later.
            Pool::new(&PoolConfig {
                subnet: subnet.into(),
                range,
                gateway: gateway.map_or(Gateway::Absent, Gateway::At),
                auxiliary: auxiliary.clone(),
            })
            .map_err(NetworkOptionError::Ipam)?;
            if is_special(subnet) {
                return Err(NetworkOptionError::Special(subnet.into()));
            }
            WantedSubnet::Exact(subnet.into())
        }
    };
    Ok(Wanted {
        subnet,
        range,
        gateway,
        auxiliary,
    })
}

fn network(what: &str, text: &str) -> Result<IpNet, NetworkOptionError> {
    text.parse().map_err(|_| NetworkOptionError::Text {
        what: what.to_owned(),
        value: text.escape_debug().to_string(),
        problem: format!("invalid CIDR address: {}", text.escape_debug()),
        example: match what {
            "subnet" => "--subnet 10.99.0.0/24",
            _ => "--ip-range 10.99.0.128/25",
        },
    })
}

fn address(what: String, text: &str, example: &'static str) -> Result<IpAddr, NetworkOptionError> {
    text.parse().map_err(|_| NetworkOptionError::Text {
        what,
        value: text.escape_debug().to_string(),
        problem: "not an IP address".to_owned(),
        example,
    })
}

/// Addresses that no interface of a container can have.
fn is_special(subnet: Ipv4Net) -> bool {
    let first = subnet.addr().octets()[0];
    first == 0 || first == 127 || first >= 224 || subnet.prefix_len() == 0
}

/// The family as it will be: its subnet chosen and free, its gateway known.
pub(super) fn family(
    wanted: Wanted,
    options: &Options,
    internal: bool,
    context: &Context<'_>,
) -> Result<FamilyConfig, NetworkOptionError> {
    let obstacles = Obstacles {
        context,
        bridge: &options.bridge,
    };
    let subnet = match wanted.subnet {
        WantedSubnet::Exact(subnet) => {
            obstacles.refuse_overlap(subnet)?;
            subnet
        }
        WantedSubnet::Any => obstacles.next_free().ok_or(NetworkOptionError::NoPool)?,
        WantedSubnet::OfSize(size) => context
            .pools
            .next_free_of_size(size, &obstacles.taken())
            .map_err(|error| match error {
                NoSubnet::Size => NetworkOptionError::PoolSize(size),
                NoSubnet::Taken => NetworkOptionError::NoPool,
            })?,
    };
    let isolated = options.mode == GatewayMode::Isolated;
    let skips_gateway = isolated || (options.inhibit_ipv4 && internal);
    let pool = Pool::new(&PoolConfig {
        subnet,
        range: wanted.range,
        gateway: match wanted.gateway {
            Some(gateway) => Gateway::At(gateway),
            None if skips_gateway => Gateway::Absent,
            None => Gateway::First,
        },
        auxiliary: wanted.auxiliary.clone(),
    })
    .map_err(NetworkOptionError::Ipam)?;
    let gateway = pool.gateway();
    let container_gateway = wanted.auxiliary.get(CONTAINER_GATEWAY).copied();
    Ok(FamilyConfig {
        subnet,
        configured: matches!(wanted.subnet, WantedSubnet::Exact(_)),
        allocation_range: wanted.range,
        auxiliary: wanted.auxiliary,
        gateway,
        bridge_address: gateway.is_some() && !isolated && !options.inhibit_ipv4,
        container_gateway,
        mode: options.mode,
        masquerade: options.masquerade && options.mode.has_nat() && !internal,
        source: options.source,
    })
}

/// What a subnet must not overlap.
struct Obstacles<'a> {
    context: &'a Context<'a>,
    bridge: &'a str,
}

impl Obstacles<'_> {
    /// On-link routes of the host that are not our doing: neither over the bridge that will be used nor over that
    /// of another network.
    fn routes(&self) -> impl Iterator<Item = (IpNet, &str)> {
        let ours = |device: &str| {
            let mut networks = self.context.networks.iter();
            device == self.bridge || networks.any(|network| network.bridge == device)
        };
        let routes = self.context.host.routes.iter();
        routes
            .map(|route| (route.prefix, route.device.as_str()))
            .filter(move |(_, device)| !ours(device))
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

    fn next_free(&self) -> Option<IpNet> {
        self.context.pools.next_free(&self.taken())
    }

    fn refuse_overlap(&self, subnet: IpNet) -> Result<(), NetworkOptionError> {
        let free = || self.next_free();
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
        match self.routes().find(|(route, _)| overlap(route, &subnet)) {
            None => Ok(()),
            Some((route, device)) => Err(NetworkOptionError::HostOverlap {
                subnet,
                route,
                device: device.to_owned(),
                free: free(),
            }),
        }
    }
}
