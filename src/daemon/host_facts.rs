//! What the host looks like, for the checks of new networks: on-link routes, name servers, bridges.

use std::net::{Ipv6Addr, UdpSocket};

use ipnet::IpNet;

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
    let routes = netlink
        .routes()
        .await?
        .into_iter()
        .filter(|route| route.kind == RouteKind::Unicast && route.table == TABLE_MAIN)
        .filter(|route| route.destination.prefix_len() > 0 && !is_on_every_link(route.destination))
        .filter_map(|route| {
            let hop = route.next_hops.first().copied()?;
            let on_link = hop.gateway.is_none() && !ours.contains(&hop.if_index);
            on_link.then(|| HostRoute {
                prefix: route.destination,
                device: name_of(&links, hop.if_index),
            })
        })
        .collect();
    let bridge_addresses = netlink
        .addresses()
        .await?
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
        has_ipv6: has_ipv6(),
        interfaces: links.into_iter().map(|link| link.name).collect(),
    })
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
