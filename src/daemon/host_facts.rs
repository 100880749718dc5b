//! What the host looks like, for the checks of new networks: on-link routes, name servers, bridges.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

use super::files::HostFiles;
use crate::control::daemon_options::{HostFacts, HostRoute};
use crate::control::files;
use crate::control::records::Network;
use crate::kernel::dump::{Link, RouteKind, TABLE_MAIN};
use crate::kernel::{Netlink, NetlinkError};

/// Facts about the host for a network on `bridge` (`None`: there is no such wish). `own` are our networks: routes through
/// their bridges are not the host's.
pub(super) async fn host_facts<'a>(
    netlink: &Netlink,
    bridge: Option<&str>,
    own: impl Iterator<Item = &'a Network> + Clone,
) -> Result<HostFacts, NetlinkError> {
    let links = netlink.links().await?;
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let bridge = bridge.and_then(find);
    let bridge_index = bridge.map(|link| link.index);
    let ours: Vec<u32> = own
        .clone()
        .filter_map(|network| find(&network.config.bridge))
        .map(|link| link.index)
        .chain(bridge_index)
        .collect();
    let all_routes = netlink.routes().await?;
    let addresses = netlink.addresses().await?;
    let main_routes = || {
        all_routes
            .iter()
            .filter(|route| route.kind == RouteKind::Unicast && route.table == TABLE_MAIN)
    };
    let on_link = main_routes()
        .filter(|route| route.destination.prefix_len() > 0 && !is_on_every_link(route.destination))
        .filter_map(|route| {
            let hop = route.next_hops.first()?;
            hop.gateway
                .is_none()
                .then_some((route.destination, hop.if_index))
        });
    // A part of a link's prefix may be a network's, but not the addresses that the host and its routers have in it.
    let routers = main_routes()
        .flat_map(|route| &route.next_hops)
        .filter_map(|hop| Some((hop.gateway?, hop.if_index)));
    let occupied = addresses
        .iter()
        .map(|address| (address.address.addr(), address.if_index))
        .chain(routers)
        .map(|(address, if_index)| (IpNet::from(address), if_index))
        .filter(|(address, _)| !address.addr().is_ipv4() && !is_on_every_link(*address));
    let mut routes: Vec<HostRoute> = Vec::new();
    for (prefix, if_index) in on_link.chain(occupied) {
        let device = name_of(&links, if_index);
        let route = HostRoute { prefix, device };
        if !ours.contains(&if_index) && !routes.contains(&route) {
            routes.push(route);
        }
    }
    let bridge_addresses = addresses
        .into_iter()
        .filter(|address| Some(address.if_index) == bridge_index)
        .filter(|address| address.address.addr().is_ipv4() || !address.link_scope)
        .map(|address| address.address)
        .collect();
    Ok(HostFacts {
        routes,
        name_servers: files::name_servers(&HostFiles::read().resolv_conf),
        bridge_exists: bridge.is_some(),
        bridge_addresses,
        own_subnets: own.flat_map(Network::subnets).collect(),
        spared_subnets: dockerds(),
        former_addresses: Vec::new(),
        has_ipv6: has_ipv6(),
        interfaces: links.into_iter().map(|link| link.name).collect(),
    })
}

/// The subnet of docker0, where dockerd has been started once (libnetwork's directory below its `data-root`): it takes it
/// again when it starts (moby `daemon/config`, `libnetwork/ipamutils`), and does not look at who has it.
fn dockerds() -> Vec<IpNet> {
    let is_there = Path::new("/var/lib/docker/network").is_dir();
    let subnet = Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16);
    is_there.then_some(subnet.into()).into_iter().collect()
}

/// Link-local and multicast prefixes of IPv6: every interface has routes to them.
fn is_on_every_link(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    }
}

/// Something can listen on the host's IPv6 loopback address: the kernel has IPv6, and it is not switched off.
pub(super) fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn name_of(links: &[Link], index: u32) -> String {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(String::new, |link| link.name.clone())
}
