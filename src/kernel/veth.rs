//! A container's interface, made as a whole: a veth pair whose one end is a port of the network's
//! bridge and whose other end is created directly inside the container's namespace, with addresses
//! and sysctls. Either all of it is there afterwards or nothing.
//!
//! Order inside: name, MAC, MTU, IPv6 on or off, the user's sysctls, addresses, up.
//!
//! IPv6 is disabled before they come up on the host's end, because a bridge port needs no address of its own, and on the
//! container's, unless the network has IPv6. Its addresses there are usable at once, for nobody asks whether they are
//! taken: that is what allocating them is for.
//!
//! A container whose user has switched IPv6 off in it as a whole gets none, and that is no error.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::link::{In6AddrGenMode, InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::dump::{Link, Route, RouteKind, TABLE_MAIN};
use super::endpoint_sysctl::EndpointSysctl;
use super::netlink::{Netlink, NetlinkError, check_name, errno, failed};
use super::qdisc::Limits;
use super::sysctl;

/// How long a new interface may take to become operational; Docker waits the same for the bridge
/// port. It normally takes well under a millisecond.
const OPERATIONAL_WAIT: Duration = Duration::from_millis(200);

/// What a container's interface is to be.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the host's end.
    pub host_name: &'a str,
    /// Name of the container's end, normally `eth0`.
    pub container_name: &'a str,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Ethernet address of the container's end.
    pub mac: [u8; 6],
    /// Addresses of the container with the network's prefix lengths, one per family at most.
    pub addresses: &'a [IpNet],
    /// The network has IPv6. Otherwise it is switched off on the interface.
    pub ipv6: bool,
    /// Largest IP packet in octets, both ends; `None`: what the kernel gives a veth pair, 1500.
    pub mtu: Option<u32>,
    /// Parameters of the container's end, set before it comes up.
    pub sysctls: &'a [EndpointSysctl],
    /// How fast the two ends send.
    pub limits: Limits,
    /// The bridge that the host's end becomes a port of.
    pub bridge_if_index: u32,
    /// Ethernet address of the host's end: the bridge's. A frame to the address of any port goes up into
    /// the host's stack, so with one of its own there would be a second way to the host, one that
    /// steering does not know as the gateway.
    pub bridge_mac: [u8; 6],
}

impl Netlink {
    /// Makes the interface and returns the index of the host's end. `lo` of the container is
    /// brought up too.
    ///
    /// # Errors
    /// A name is taken, the address conflicts with a route of the container, or a step failed;
    /// nothing is left then. (If the future is dropped half way the host's end stays: find it with
    /// [`Netlink::links_with_prefix`].)
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<u32, NetlinkError> {
        check_name(spec.host_name)?;
        check_name(spec.container_name)?;
        let inside = Self::in_namespace(spec.netns)?;
        let routes = inside.routes().await?;
        for address in spec.addresses.iter().copied() {
            if let Some(route) = conflicting_route(&routes, address) {
                return Err(NetlinkError::AddressConflict {
                    address,
                    route: route.describe(&inside.links().await?),
                });
            }
        }
        self.add_pair(spec, &inside).await?;
        let result = self.complete_pair(spec, &inside).await;
        if result.is_err() {
            // Takes the other end, its addresses and its routes along.
            self.delete_link(spec.host_name).await.ok();
        }
        result
    }

    /// Makes a pair whose container's end stays in this handle's own namespace, down and without addresses, for somebody
    /// else to take. `netns`, addresses, sysctls and limits of the specification have no effect.
    ///
    /// # Errors
    /// As [`Netlink::create_veth`].
    pub async fn create_bare_veth(&self, spec: &VethSpec<'_>) -> Result<u32, NetlinkError> {
        check_name(spec.host_name)?;
        check_name(spec.container_name)?;
        self.add_pair(spec, self).await?;
        let complete = async {
            let host = self.existing_link(spec.host_name).await?;
            self.switch_ipv6(&host, false).await?;
            self.set_up(host.index).await?;
            Ok(host.index)
        };
        let result = complete.await;
        if result.is_err() {
            self.delete_link(spec.host_name).await.ok();
        }
        result
    }

    async fn add_pair(&self, spec: &VethSpec<'_>, inside: &Self) -> Result<(), NetlinkError> {
        let mut peer = LinkUnspec::new_with_name(spec.container_name)
            .setns_by_fd(spec.netns.as_raw_fd())
            .address(spec.mac.to_vec())
            .txqueuelen(0);
        let mut pair = LinkMessageBuilder::<LinkVeth>::new(spec.host_name, spec.container_name)
            .controller(spec.bridge_if_index)
            .address(spec.bridge_mac.to_vec())
            .txqueuelen(0);
        if let Some(mtu) = spec.mtu {
            peer = peer.mtu(mtu);
            pair = pair.mtu(mtu);
        }
        let pair = pair
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .build();
        match self.handle().link().add(pair).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => {
                // The kernel does not say which of the two.
                Err(if inside.link(spec.container_name).await?.is_some() {
                    NetlinkError::ContainerInterfaceExists(spec.container_name.to_owned())
                } else {
                    NetlinkError::InterfaceExists(spec.host_name.to_owned())
                })
            }
            Err(error) => Err(failed(
                format!("create interface {}", spec.host_name),
                error,
            )),
        }
    }

    async fn complete_pair(&self, spec: &VethSpec<'_>, inside: &Self) -> Result<u32, NetlinkError> {
        let host = self.existing_link(spec.host_name).await?;
        let container = inside.existing_link(spec.container_name).await?;
        // If neither can be switched, it is the container's that is named.
        let ipv6 = spec.ipv6 && !inside.ipv6_is_refused().await?;
        inside.switch_ipv6(&container, ipv6).await?;
        self.switch_ipv6(&host, false).await?;
        inside.set_sysctls(&container, spec.sysctls).await?;
        let (host, container) = (host.index, container.index);
        for (handle, if_index, limit) in [
            (self, host, spec.limits.ingress),
            (inside, container, spec.limits.egress),
        ] {
            if limit.is_some() {
                handle.limit(if_index, limit).await?;
            }
        }
        inside
            .set_addresses(container, spec.container_name, spec.addresses)
            .await?;
        self.set_up(host).await?;
        inside.set_up(container).await?;
        // Last, because nothing undoes it.
        inside.set_loopback_up().await?;
        self.wait_until_operational(host).await?;
        self.wait_until_operational(spec.bridge_if_index).await?;
        Ok(host)
    }

    /// Switches IPv6 on an interface on or off, if it is not as it should be.
    pub(super) async fn switch_ipv6(&self, link: &Link, on: bool) -> Result<(), NetlinkError> {
        if link.ipv6.is_none_or(|ipv6| ipv6.disabled != on) {
            return Ok(());
        }
        let name = link.name.clone();
        let value = if on { "0" } else { "1" };
        let set =
            move || sysctl::set_if_present(&["net", "ipv6", "conf", &name, "disable_ipv6"], value);
        self.run(set)
            .await?
            .map_err(|source| NetlinkError::SwitchIpv6 {
                interface: link.name.clone(),
                on,
                source,
            })
    }

    /// The user of a container has switched IPv6 off in it as a whole (`net.ipv6.conf.all.disable_ipv6=1`). What
    /// tells is `lo`, where we never do; Docker looks there too.
    pub(super) async fn ipv6_is_refused(&self) -> Result<bool, NetlinkError> {
        let loopback = self.existing_link("lo").await?;
        Ok(loopback.ipv6.is_none_or(|ipv6| ipv6.disabled))
    }

    /// Adds addresses to a container's interface, those of IPv6 only if it is on there: the user's own
    /// parameters may have switched it off.
    pub(super) async fn set_addresses(
        &self,
        if_index: u32,
        name: &str,
        addresses: &[IpNet],
    ) -> Result<(), NetlinkError> {
        let mut ipv6 = None;
        if addresses.iter().any(|address| address.addr().is_ipv6()) {
            ipv6 = self.existing_link(name).await?.ipv6;
        }
        let ipv6 = ipv6.filter(|ipv6| !ipv6.disabled);
        // Steering lets no other link-local address pass.
        if ipv6.is_some_and(|ipv6| !ipv6.eui64) {
            self.set_address_mode(if_index, In6AddrGenMode::Eui64)
                .await?;
        }
        for address in addresses {
            if address.addr().is_ipv4() || ipv6.is_some() {
                self.ensure_address(if_index, *address).await?;
            }
        }
        Ok(())
    }

    /// What the user wants of the interface, before it comes up.
    async fn set_sysctls(
        &self,
        link: &Link,
        sysctls: &[EndpointSysctl],
    ) -> Result<(), NetlinkError> {
        if sysctls.is_empty() {
            return Ok(());
        }
        let (name, sysctls) = (link.name.clone(), sysctls.to_vec());
        self.run(move || sysctls.iter().try_for_each(|sysctl| sysctl.apply(&name)))
            .await??;
        Ok(())
    }

    pub(super) async fn existing_link(&self, name: &str) -> Result<Link, NetlinkError> {
        match self.link(name).await? {
            Some(link) => Ok(link),
            None => Err(NetlinkError::Request {
                doing: format!("look up interface {name}"),
                source: std::io::Error::from_raw_os_error(libc::ENODEV),
            }),
        }
    }

    /// Until then the bridge forwards nothing to the port; and with its first port it starts itself, and drops what
    /// the host sends. A lost question for a neighbour costs a second. The kernel gets there by itself, so that
    /// it takes longer is no reason to fail.
    async fn wait_until_operational(&self, index: u32) -> Result<(), NetlinkError> {
        let deadline = tokio::time::Instant::now() + OPERATIONAL_WAIT;
        loop {
            let link = self.link_numbered(index).await?;
            if link.is_some_and(|link| link.running) || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The route of the main table, other than a default route, that overlaps the address's network.
fn conflicting_route(routes: &[Route], address: IpNet) -> Option<&Route> {
    let network = address.trunc();
    routes.iter().find(|route| {
        route.table == TABLE_MAIN
            && route.kind == RouteKind::Unicast
            && route.destination.prefix_len() > 0
            // Every interface with IPv6 has this one.
            && !matches!(route.destination, IpNet::V6(net) if net.network().is_unicast_link_local())
            && (route.destination.contains(&address.addr())
                || network.contains(&route.destination.network()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, table: u32, kind: RouteKind) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            kind,
            table,
            source: None,
            priority: 0,
            advertised: false,
            mtu: None,
            next_hops: Vec::new(),
        }
    }

    #[test]
    fn conflicts_are_overlaps_in_the_main_table() {
        let address: IpNet = "172.17.0.2/16".parse().unwrap();
        for (destination, table, kind, conflicts) in [
            ("172.17.0.0/16", TABLE_MAIN, RouteKind::Unicast, true),
            ("172.17.5.0/24", TABLE_MAIN, RouteKind::Unicast, true),
            ("172.16.0.0/12", TABLE_MAIN, RouteKind::Unicast, true),
            ("0.0.0.0/0", TABLE_MAIN, RouteKind::Unicast, false),
            ("172.18.0.0/16", TABLE_MAIN, RouteKind::Unicast, false),
            ("172.17.0.0/16", 100, RouteKind::Unicast, false),
            ("172.17.0.2/32", 255, RouteKind::Local, false),
        ] {
            let routes = [route(destination, table, kind)];
            assert_eq!(
                conflicting_route(&routes, address).is_some(),
                conflicts,
                "{destination} in table {table}"
            );
        }
    }
}
