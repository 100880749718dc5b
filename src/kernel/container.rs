//! What is inside a container's namespace: its interfaces, and which way out is the default.
//!
//! **The default route.** The user of a container may have one of his own, so ours is told by its next
//! hop: router and interface of one of the container's networks. It has nothing else to be told by: a
//! protocol number of its own would show in `ip route`, where Docker's has none (protocol `boot`).
//! When another network becomes the way out, the kernel replaces the old route in one step: there always is
//! one. A default route of the user's that precedes ours, or is alone, is in the way: `file exists`, as
//! Docker says. One with another metric than ours is not: IPv4's is 0, IPv6's 1024, which is what the kernel makes of a
//! route without one. When an interface goes, or loses IPv6, the kernel removes its routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;

use super::dump::{Link, NextHop, RouteKind, TABLE_MAIN, read_route};
use super::netlink::{Netlink, NetlinkError, errno};

/// An interface inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerInterface {
    /// Name, index, Ethernet address, … in there.
    pub link: Link,
    /// Its addresses of both families, with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

impl Netlink {
    /// Brings `lo` up in the namespace that this handle is for: 127.0.0.1 and, where the kernel has IPv6, `::1`.
    ///
    /// # Errors
    /// The interface cannot be changed.
    pub(super) async fn set_loopback_up(&self) -> Result<(), NetlinkError> {
        let loopback = self.existing_link("lo").await?;
        self.set_up(loopback.index).await
    }

    /// The same for a container without an interface; [`Self::create_veth`] does it for the others.
    ///
    /// # Errors
    /// The namespace cannot be entered or the interface not be changed.
    pub async fn bring_loopback_up(namespace: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        Self::in_namespace(namespace)?.set_loopback_up().await
    }

    /// The interfaces inside a namespace, `lo` left out.
    ///
    /// # Errors
    /// The namespace cannot be entered or its interfaces not be listed.
    pub async fn container_interfaces(
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<ContainerInterface>, NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let addresses = inside.addresses().await?;
        let links = inside.links().await?;
        Ok(links
            .into_iter()
            .filter(|link| !link.loopback)
            .map(|link| ContainerInterface {
                addresses: addresses
                    .iter()
                    .filter(|address| address.if_index == link.index)
                    .map(|address| address.address)
                    .collect(),
                link,
            })
            .collect())
    }

    /// Removes and adds addresses of an interface inside a container that runs; new IPv6 addresses are usable at once.
    /// `ipv6`: whether the network has IPv6 now. What is gone or there already is no error.
    ///
    /// # Errors
    /// There is no such interface, or a request failed.
    pub async fn readdress(
        namespace: BorrowedFd<'_>,
        interface: &str,
        gone: &[IpNet],
        new: &[IpNet],
        ipv6: bool,
    ) -> Result<(), NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let link = inside.existing_link(interface).await?;
        for address in gone.iter().filter(|address| !new.contains(address)) {
            inside.remove_address(link.index, *address).await?;
        }
        let on = ipv6 && !inside.ipv6_is_refused().await?;
        inside.switch_ipv6(&link, on).await?;
        inside.set_addresses(link.index, interface, new).await
    }

    /// Whether IPv6 is on in a namespace as a whole, so that a network's is used there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub async fn uses_ipv6(namespace: BorrowedFd<'_>) -> Result<bool, NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        Ok(!inside.ipv6_is_refused().await?)
    }

    /// Makes `wanted` (interface and router) the way out of a container in one family; `None`: it has none. `ours`
    /// are the interfaces and routers of all its networks, those it has just left included: a default route
    /// by one of them was made by us and is replaced or removed. Calling it again changes nothing.
    ///
    /// # Errors
    /// [`NetlinkError::Gateway`]: a default route of the user's is in the way (`file exists`), the
    /// interface is missing or the router not on its link. The route that was there stays then.
    pub async fn set_default_gateway(
        namespace: BorrowedFd<'_>,
        wanted: Option<(&str, IpAddr)>,
        ours: &[(&str, IpAddr)],
        ipv4: bool,
    ) -> Result<(), NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let links = inside.links().await?;
        let hop = |(name, gateway): (&str, IpAddr)| {
            let link = links.iter().find(|link| link.name == name)?;
            Some(NextHop {
                if_index: link.index,
                gateway: Some(gateway),
            })
        };
        let wanted = match wanted {
            Some(wanted) => Some(hop(wanted).ok_or_else(|| refused(libc::ENODEV))?),
            None => None,
        };
        // The user of the container has switched IPv6 off.
        let has_ipv6 = |hop: &NextHop| {
            let link = links.iter().find(|link| link.index == hop.if_index);
            link.and_then(|link| link.ipv6)
                .is_some_and(|ipv6| !ipv6.disabled)
        };
        let wanted = wanted.filter(|hop| ipv4 || has_ipv6(hop));
        let ours: Vec<NextHop> = ours.iter().copied().filter_map(hop).chain(wanted).collect();
        let present = inside.default_routes(ipv4).await?;
        let is_ours = |found: &&Option<NextHop>| found.is_some_and(|hop| ours.contains(&hop));
        if let Some(wanted) = wanted {
            let is_there = present.contains(&Some(wanted));
            let foreign = |hop: &Option<NextHop>| !is_ours(&hop);
            // The first of IPv4 wins; those of IPv6 share.
            let in_the_way = if ipv4 {
                present.first().is_some_and(foreign)
            } else {
                !is_there && present.iter().any(foreign)
            };
            if in_the_way {
                return Err(refused(libc::EEXIST));
            }
            if !is_there {
                // Of those with its metric, the kernel replaces the first; of IPv6, all.
                inside.add_default(wanted, !present.is_empty()).await?;
            }
        }
        for old in present.iter().filter(is_ours).filter(|old| **old != wanted) {
            if let Some(old) = *old {
                inside.remove_default(old).await?;
            }
        }
        Ok(())
    }

    /// Whether a container has a default route by a router on an interface.
    ///
    /// # Errors
    /// The namespace cannot be entered or its routes not be listed.
    pub async fn has_default_gateway(
        namespace: BorrowedFd<'_>,
        (interface, router): (&str, IpAddr),
    ) -> Result<bool, NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let Some(link) = inside.link(interface).await? else {
            return Ok(false);
        };
        let wanted = NextHop {
            if_index: link.index,
            gateway: Some(router),
        };
        let present = inside.default_routes(router.is_ipv4()).await?;
        Ok(present.contains(&Some(wanted)))
    }

    /// The next hops of the main table's default routes with the metric of ours, the preferred one first;
    /// `None` for a route that is not as simple as ours.
    async fn default_routes(&self, ipv4: bool) -> Result<Vec<Option<NextHop>>, NetlinkError> {
        let messages = self.route_messages(ipv4).await?;
        // One for a certain type of service is a route of its own, which is in nobody's way.
        let plain = messages.iter().filter(|message| message.header.tos == 0);
        Ok(plain
            .filter_map(read_route)
            .filter(|route| {
                route.table == TABLE_MAIN
                    && route.destination.prefix_len() == 0
                    && route.priority == metric(ipv4)
            })
            .flat_map(|route| match &route.next_hops[..] {
                _ if route.kind != RouteKind::Unicast || route.advertised => vec![None],
                [hop] => vec![Some(*hop)],
                // Routes of IPv6 to one place with one metric are listed as one.
                hops if !ipv4 => hops.iter().copied().map(Some).collect(),
                _ => vec![None],
            })
            .collect())
    }

    async fn add_default(&self, hop: NextHop, replace: bool) -> Result<(), NetlinkError> {
        let request = self
            .handle()
            .route()
            .add(default_route(hop, RouteProtocol::Boot));
        let request = if replace { request.replace() } else { request };
        request
            .execute()
            .await
            .map_err(|error| gateway_error(&error))
    }

    /// Removes a default route of ours; one that is gone is no error.
    async fn remove_default(&self, hop: NextHop) -> Result<(), NetlinkError> {
        // Of any protocol: an earlier version's was `static`.
        let route = default_route(hop, RouteProtocol::Unspec);
        match self.handle().route().del(route).execute().await {
            Err(error) if errno(&error) != Some(libc::ESRCH) => Err(gateway_error(&error)),
            _ => Ok(()),
        }
    }
}

/// The metric of a route that was made without one.
fn metric(ipv4: bool) -> u32 {
    if ipv4 { 0 } else { 1024 }
}

fn default_route(hop: NextHop, protocol: RouteProtocol) -> RouteMessage {
    match hop.gateway {
        Some(IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .output_interface(hop.if_index)
            .protocol(protocol)
            .priority(metric(false))
            .gateway(gateway)
            .build(),
        Some(IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(hop.if_index)
            .protocol(protocol)
            .gateway(gateway)
            .build(),
        None => RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(hop.if_index)
            .protocol(protocol)
            .build(),
    }
}

fn gateway_error(error: &rtnetlink::Error) -> NetlinkError {
    match errno(error) {
        Some(code) => refused(code),
        None => NetlinkError::Gateway(error.to_string()),
    }
}

/// The kernel's reason as other programs print it: `file exists`.
fn refused(code: i32) -> NetlinkError {
    NetlinkError::Gateway(nix::errno::Errno::from_raw(code).desc().to_lowercase())
}
