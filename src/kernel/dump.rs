//! What the kernel's dumps say, as plain structs: links (read in [`super::links`]), addresses, routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia,
};

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `bridge`, `veth`, `tun`, …; `None` for hardware and `lo`.
    pub kind: Option<String>,
    /// Largest IP packet in octets.
    pub mtu: u32,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// Up and with a carrier.
    pub running: bool,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Frames have an Ethernet header (so not WireGuard, PPP, TUN, nor `lo`).
    pub ethernet: bool,
    /// It is a loopback interface.
    pub loopback: bool,
    /// Its IPv6 settings; `None` if IPv6 has no part in it (a kernel without, an MTU below 1280 octets).
    pub ipv6: Option<Ipv6Settings>,
}

/// The sysctls `net.ipv6.conf.IFNAME.*` of an interface that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// `disable_ipv6`.
    pub disabled: bool,
    /// `accept_ra` is not 0.
    pub accepts_advertisements: bool,
    /// `addr_gen_mode` is 0: the link-local address follows from the Ethernet address.
    pub eui64: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface that has it.
    pub if_index: u32,
    /// The local address with its prefix length (host bits kept).
    pub address: IpNet,
    /// Valid on the link only (`fe80::/64`, 169.254/16).
    pub link_scope: bool,
    /// Duplicate address detection is not over: nothing can use it yet.
    pub tentative: bool,
    /// Duplicate address detection has found another owner: nothing will ever use it.
    pub dad_failed: bool,
    /// Its preferred lifetime is over: not to be used for what is new.
    pub deprecated: bool,
}

/// One way a route may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Outgoing interface.
    pub if_index: u32,
    /// Router, unless the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it to this host.
    Local,
    /// Refuses it: unreachable, prohibit, blackhole.
    Refuse,
    /// Broadcast, multicast, and what else there is.
    Other,
}

/// A route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are default routes.
    pub destination: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Routing table, [`TABLE_MAIN`] for ordinary ones.
    pub table: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric: the lowest wins. The kernel gives an IPv6 route that asks for none 1024.
    pub priority: u32,
    /// The kernel has it from a router advertisement.
    pub advertised: bool,
    /// Largest packet in octets, if the route limits it.
    pub mtu: Option<u32>,
    /// Where to; several for a multipath route, none for routes that refuse.
    pub next_hops: Vec<NextHop>,
}

impl Route {
    /// The route in the words of `ip route`; `links` gives the interface names.
    #[must_use]
    pub fn describe(&self, links: &[Link]) -> String {
        let mut text = if self.destination.prefix_len() == 0 {
            "default".to_owned()
        } else {
            self.destination.to_string()
        };
        for hop in &self.next_hops {
            if let Some(gateway) = hop.gateway {
                text.push_str(&format!(" via {gateway}"));
            }
            match links.iter().find(|link| link.index == hop.if_index) {
                Some(link) => text.push_str(&format!(" dev {}", link.name)),
                None => text.push_str(&format!(" dev interface {}", hop.if_index)),
            }
        }
        text
    }
}

pub(super) fn read_address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is the address itself; IFA_ADDRESS is the peer's on point-to-point links, and the
    // only one of the two that IPv6 uses.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute {
            Some(*address)
        } else {
            None
        }
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute {
                Some(*address)
            } else {
                None
            }
        })
    })?;
    // The attribute has all flags, the header those of the first octet.
    let flags = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Flags(flags) = attribute {
            Some(*flags)
        } else {
            None
        }
    });
    let header = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let flags = flags.unwrap_or(header);
    Some(Address {
        if_index: message.header.index,
        address: IpNet::new(address, message.header.prefix_len).ok()?,
        link_scope: message.header.scope == AddressScope::Link,
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

pub(super) fn read_route(message: &RouteMessage) -> Option<Route> {
    let mut destination = if message.header.address_family == AddressFamily::Inet {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else if message.header.address_family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        return None;
    };
    let kind = if message.header.kind == RouteType::Unicast {
        RouteKind::Unicast
    } else if message.header.kind == RouteType::Local {
        RouteKind::Local
    } else if matches!(
        message.header.kind,
        RouteType::Unreachable | RouteType::Prohibit | RouteType::BlackHole
    ) {
        RouteKind::Refuse
    } else {
        RouteKind::Other
    };
    let mut route = Route {
        destination: IpNet::default(),
        kind,
        table: u32::from(message.header.table),
        source: None,
        priority: 0,
        advertised: message.header.protocol == RouteProtocol::Ra,
        mtu: None,
        next_hops: Vec::new(),
    };
    let mut out = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = plain(address)?;
        } else if let RouteAttribute::Table(table) = attribute {
            route.table = *table;
        } else if let RouteAttribute::PrefSource(address) = attribute {
            route.source = plain(address);
        } else if let RouteAttribute::Priority(priority) = attribute {
            route.priority = *priority;
        } else if let RouteAttribute::Oif(if_index) = attribute {
            out = Some(*if_index);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            route.mtu = metrics.iter().find_map(|metric| {
                if let RouteMetric::Mtu(mtu) = metric {
                    Some(*mtu)
                } else {
                    None
                }
            });
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            route.next_hops.extend(hops.iter().map(|hop| NextHop {
                if_index: hop.interface_index,
                gateway: gateway(&hop.attributes),
            }));
        }
    }
    if let Some(if_index) = out {
        route.next_hops.push(NextHop {
            if_index,
            gateway: gateway(&message.attributes),
        });
    }
    route.destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(route)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(address) = attribute {
            plain(address)
        } else if let RouteAttribute::Via(via) = attribute {
            via_address(via)
        } else {
            None
        }
    })
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

fn via_address(via: &RouteVia) -> Option<IpAddr> {
    if let RouteVia::Inet6(address) = via {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}
