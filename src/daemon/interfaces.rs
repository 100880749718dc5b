//! A container's interfaces: veth pairs, what steering knows of them, and the default routes.
//!
//! *Plugged*: the pair is made, the host's end steered. *Routed*: the default routes, one per family, follow the
//! endpoints that control chose. *Unplugged*: the pair is deleted, and with it whatever hung on it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;

use super::core::Core;
use super::limits::{bandwidth, limits, policer};
use crate::api::server::ApiError;
use crate::control::records::{Container, Endpoint, Network};
use crate::control::{ControlError, Readdressed, State, endpoint_options};
use crate::kernel::announce::announce;
use crate::kernel::{EndpointSysctl, Netlink, NetlinkError, VethSpec, netns};
use crate::steering::ContainerPort;

impl Core {
    /// Makes the interface of an endpoint: veth pair and steering.
    pub(super) async fn plug(
        &self,
        container: &Container,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<(), ApiError> {
        let bridge = self.facts.lock().bridges.get(&network.id).copied();
        let bridge = bridge.ok_or_else(|| {
            let facts = self.facts.lock();
            let why = facts.broken.get(&network.id).map(String::as_str);
            networking_failed(format!(
                "network {} has no bridge {}: {}",
                network.name,
                network.config.bridge,
                why.unwrap_or("see the daemon's log")
            ))
        })?;
        let namespace = match container.is_delegated() {
            true => netns::open_current().map_err(networking_failed)?,
            false => open(container)?,
        };
        let sysctls = sysctls(container, network)?;
        let veth = VethSpec {
            host_name: &endpoint.host_interface,
            container_name: &endpoint.interface,
            netns: namespace.as_fd(),
            mac: endpoint.mac.octets(),
            addresses: &endpoint.addresses,
            ipv6: network.config.has_ipv6(),
            mtu: Some(network.config.mtu),
            sysctls: &sysctls,
            limits: limits(&bandwidth(container, network)),
            bridge_if_index: bridge.if_index,
            bridge_mac: bridge.mac,
        };
        if container.is_delegated() {
            let made = self.netlink.create_bare_veth(&veth).await;
            let if_index = made.map_err(networking_failed)?;
            return self.steer(container, network, endpoint, if_index);
        }
        let made = self.netlink.create_veth(&veth).await;
        let if_index = made.map_err(|error| {
            if matches!(error, NetlinkError::ContainerInterfaceExists(_)) {
                return ApiError::new(409, error.to_string());
            }
            networking_failed(error)
        })?;
        self.steer(container, network, endpoint, if_index)?;
        self.announce(container, network, endpoint).await;
        Ok(())
    }

    /// Brings `lo` up in a container that gets no interface, which would do it.
    pub(super) async fn loopback(&self, container: &Container) -> Result<(), ApiError> {
        Netlink::bring_loopback_up(open(container)?.as_fd())
            .await
            .map_err(networking_failed)
    }

    /// Makes endpoints that are to be plugged fit into a namespace that is not as we have made it: somebody else's, or one
    /// that its user has changed. Names that are taken become others, and where IPv6 is off there is none.
    pub(super) async fn fit_into_namespace(
        &self,
        state: &mut State,
        container: &Container,
        endpoints: &[u32],
    ) -> Result<Container, ApiError> {
        let record = self.avoid_taken_names(state, container, endpoints).await?;
        let has_ipv6 = |(_, endpoint): (_, &Endpoint)| {
            endpoints.contains(&endpoint.number) && endpoint.address(false).is_some()
        };
        if !record.endpoints().any(has_ipv6)
            || Netlink::uses_ipv6(open(container)?.as_fd())
                .await
                .map_err(|error| ApiError::internal(error.to_string()))?
        {
            return Ok(record);
        }
        tracing::info!(container = %container.name, "IPv6 is off in it: it gets no IPv6 address");
        Ok(tokio::task::block_in_place(|| {
            state.withhold_ipv6(&container.id, endpoints)
        })?)
    }

    /// Gives endpoints other names where the namespace has interfaces of these names already.
    async fn avoid_taken_names(
        &self,
        state: &mut State,
        container: &Container,
        endpoints: &[u32],
    ) -> Result<Container, ApiError> {
        let namespace = open(container)?;
        let mut taken: BTreeSet<String> = Netlink::container_interfaces(namespace.as_fd())
            .await
            .map_err(|error| ApiError::internal(error.to_string()))?
            .into_iter()
            .map(|interface| interface.link.name)
            .collect();
        let mut record = container.clone();
        for (attachment, endpoint) in container.endpoints() {
            let ours = !endpoints.contains(&endpoint.number);
            // A name that was asked for is had or refused.
            if ours || attachment.requested_interface.is_some() {
                continue;
            }
            if taken.contains(&endpoint.interface)
                && let Some(network) = state.network_by_id(&attachment.network)
            {
                let prefix = &network.config.interface_prefix;
                let planned: Vec<&str> = record
                    .endpoints()
                    .map(|(_, other)| other.interface.as_str())
                    .collect();
                let mut names = (0..=u32::MAX).map(|number| format!("{prefix}{number}"));
                let free =
                    names.find(|name| !taken.contains(name) && !planned.contains(&name.as_str()));
                if let Some(name) = free {
                    record = tokio::task::block_in_place(|| {
                        state.set_interface(&container.id, endpoint.number, &name)
                    })?;
                    taken.insert(name);
                }
            }
        }
        Ok(record)
    }

    /// Tells the neighbours who has the addresses now; a failure is logged.
    pub(super) async fn announce(
        &self,
        container: &Container,
        network: &Network,
        endpoint: &Endpoint,
    ) {
        let advertise = network.config.advertise;
        if container.is_delegated() {
            return;
        }
        let Ok(namespace) = open(container) else {
            return;
        };
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().map(IpNet::addr).collect();
        let announced = announce(
            namespace.as_fd(),
            &endpoint.interface,
            endpoint.mac.octets(),
            &addresses,
            advertise.count,
            Duration::from_millis(advertise.interval_ms.into()),
        )
        .await;
        match announced {
            Ok(announcement) => {
                let mut announcements = self.announcements.lock();
                announcements.retain(|_, announcement| !announcement.is_over());
                announcements.insert(endpoint.number, announcement);
            }
            Err(error) => tracing::warn!(
                container = %container.name, %error, "cannot announce its addresses"
            ),
        }
    }

    /// Attaches steering to the host's end of a veth pair, or tells it what has changed.
    pub(super) fn steer(
        &self,
        container: &Container,
        network: &Network,
        endpoint: &Endpoint,
        if_index: u32,
    ) -> Result<(), ApiError> {
        let Some(bridge) = self.facts.lock().bridges.get(&network.id).copied() else {
            return Ok(());
        };
        let bandwidth = bandwidth(container, network);
        let mut projected = self.projected.lock();
        let port = ContainerPort {
            if_index,
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
            ipv6: network.config.has_ipv6(),
            mac: endpoint.mac.octets(),
            bridge_if_index: bridge.if_index,
            bridge_mac: bridge.mac,
            icc: network.config.icc,
            linked: projected.linked.contains(&endpoint.number),
            internal: network.config.internal,
            // Any number will do that its endpoints share and nobody else's have.
            container: container.endpoint().map_or(0, |first| first.number),
            queued: bandwidth.ingress.is_some(),
            policer: policer(&bandwidth),
        };
        if projected.ports.get(&endpoint.number) != Some(&port) {
            self.steering.lock().attach_container(&port)?;
            projected.ports.insert(endpoint.number, port);
        }
        Ok(())
    }

    /// Tells steering what has changed about the interfaces that it knows.
    pub(super) fn steer_again(&self, state: &State) -> Result<(), ApiError> {
        for (container, network, endpoint) in state.endpoints() {
            let known = self
                .projected
                .lock()
                .ports
                .get(&endpoint.number)
                .map(|port| port.if_index);
            if let Some(if_index) = known {
                self.steer(container, network, endpoint, if_index)?;
            }
        }
        Ok(())
    }

    /// Makes the default routes what control decided. `left`: an endpoint that the container had, whose
    /// routes may still be there.
    pub(super) async fn route(
        &self,
        state: &State,
        container: &Container,
        left: Option<&Endpoint>,
    ) -> Result<(), ApiError> {
        if container.is_delegated() {
            return Ok(());
        }
        let namespace = open(container)?;
        for ipv4 in [true, false] {
            let hop = |endpoint: &Endpoint| {
                let gateway = endpoint.gateway(ipv4)?;
                Some((endpoint.interface.clone(), gateway))
            };
            let wanted = state
                .gateway_endpoint(container, ipv4)
                .and_then(|(_, _, endpoint)| hop(endpoint));
            let ours: Vec<_> = container
                .endpoints()
                .map(|(_, endpoint)| endpoint)
                .chain(left)
                .filter_map(hop)
                .collect();
            let ours: Vec<_> = ours.iter().map(as_hop).collect();
            Netlink::set_default_gateway(
                namespace.as_fd(),
                wanted.as_ref().map(as_hop),
                &ours,
                ipv4,
            )
            .await
            .map_err(networking_failed)?;
        }
        Ok(())
    }

    /// Gives a container that runs its new IPv6 address. One in which that cannot be done is named in the log.
    /// The next start of the daemon tries again.
    ///
    /// # Errors
    /// If it cannot be stored that it is done.
    pub(super) async fn readdress(
        &self,
        state: &mut State,
        change: &Readdressed,
    ) -> anyhow::Result<()> {
        let Readdressed {
            container,
            network,
            before,
            after,
        } = change;
        let differing = |own: &Endpoint, other: &Endpoint| -> Vec<IpNet> {
            let own = own.addresses.iter().copied();
            own.filter(|address| !other.addresses.contains(address))
                .collect()
        };
        let changed = async {
            if container.is_delegated() {
                return Err(networking_failed("another runtime has its interface"));
            }
            let namespace = open(container)?;
            Netlink::readdress(
                namespace.as_fd(),
                &after.interface,
                &differing(before, after),
                &differing(after, before),
                network.config.has_ipv6(),
            )
            .await
            .map_err(networking_failed)?;
            self.route(state, container, Some(before)).await
        };
        let text = |endpoint: &Endpoint| {
            let addresses = endpoint.addresses.iter();
            let texts = addresses.filter(|net| net.addr().is_ipv6());
            let texts: Vec<String> = texts.map(IpNet::to_string).collect();
            if texts.is_empty() {
                return "none".to_owned();
            }
            texts.join(", ")
        };
        if let Err(error) = changed.await {
            tracing::warn!(
                container = %container.name, network = %network.name, error = %error.message,
                "cannot be given another IPv6 address: restart it"
            );
            return Ok(());
        }
        tracing::info!(
            container = %container.name, network = %network.name,
            before = text(before), now = text(after), "has other IPv6 addresses now"
        );
        tokio::task::block_in_place(|| state.set_readdressed(&container.id, after.number))?;
        Ok(())
    }

    /// The same where a container without the right route is better than none; a failure is logged.
    pub(super) async fn route_if_possible(
        &self,
        state: &State,
        container: &Container,
        left: Option<&Endpoint>,
    ) {
        if let Err(error) = self.route(state, container, left).await {
            tracing::warn!(container = %container.name, error = %error.message, "no default route");
        }
    }

    /// Takes down an endpoint's interface; a failure is logged.
    pub(super) async fn unplug(&self, endpoint: &Endpoint) {
        self.announcements.lock().remove(&endpoint.number);
        // The programs go with the interface: not for a moment does it carry frames without them.
        if let Err(error) = self.netlink.delete_link(&endpoint.host_interface).await {
            tracing::warn!(interface = %endpoint.host_interface, %error, "cannot remove interface");
        }
        let known = self.projected.lock().ports.remove(&endpoint.number);
        if let Some(port) = known {
            self.steering.lock().detach_container(port.if_index);
        }
    }
}

/// A container's network cannot be had: Docker's words, then the reason.
pub(super) fn networking_failed(reason: impl Display) -> ApiError {
    ApiError::internal(format!("failed to set up container networking: {reason}"))
}

/// Interface and router, as the kernel layer takes them.
fn as_hop((interface, gateway): &(String, IpAddr)) -> (&str, IpAddr) {
    (interface, *gateway)
}

pub(super) fn open(container: &Container) -> Result<std::os::fd::OwnedFd, ApiError> {
    netns::open_path(&container.netns).map_err(|error| ApiError::internal(error.to_string()))
}

fn sysctls(container: &Container, network: &Network) -> Result<Vec<EndpointSysctl>, ApiError> {
    let Some(attachment) = container.attachment(&network.id) else {
        return Ok(Vec::new());
    };
    let wanted = endpoint_options::sysctls(&attachment.driver_opts).map_err(ControlError::from)?;
    Ok(wanted
        .into_iter()
        .map(|wanted| EndpointSysctl {
            family: wanted.family,
            group: wanted.group,
            parameter: wanted.parameter,
            value: wanted.value,
        })
        .collect())
}
