//! The state as other modules need it: the forwarder's policy and steering's list of publications.
//! Pure functions of the state, to be computed anew after every change.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::records::{Container, PortBinding};
use super::state::State;
use super::transport::Transport;
use crate::forwarder::{
    Access, EndpointId, EndpointPolicy, NetworkId, NetworkPolicy, Policy, Published,
};

/// Published ports as steering's maps hold them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Publication {
    /// IANA protocol number.
    pub protocol: u8,
    /// Host address; unspecified: all of its family.
    pub address: IpAddr,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Publication {
    /// Its ports.
    pub const fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// The forwarder's policy. `local_addresses` are the host's own, as the kernel reports them.
pub fn policy(state: &State, local_addresses: &[IpAddr]) -> Policy {
    let bridges = state.networks().filter(|network| network.is_bridge());
    let networks = bridges.map(|network| NetworkPolicy {
        id: NetworkId(network.number),
        subnets: network.subnets(),
        gateways: network
            .config
            .bridge_addresses()
            .iter()
            .map(ipnet::IpNet::addr)
            .collect(),
        mtu: network.config.mtu,
        masquerade: network.v4().is_some_and(|family| family.masquerade),
        sources: Vec::new(),
        icc: network.config.icc,
        internal: false,
        access: Access::Closed,
        clamp_mss: false,
    });
    let mut policy = Policy {
        networks: networks.collect(),
        endpoints: Vec::new(),
        published: Vec::new(),
        links: Vec::new(),
        local_addresses: local_addresses.to_vec(),
    };
    for (_, network, endpoint) in state.endpoints() {
        policy.endpoints.push(EndpointPolicy {
            id: EndpointId(endpoint.number),
            network: NetworkId(network.number),
            addresses: endpoint.addresses.iter().map(ipnet::IpNet::addr).collect(),
            open: Vec::new(),
        });
    }
    for container in state.containers() {
        policy.published.extend(published(container));
    }
    policy
}

fn published(container: &Container) -> impl Iterator<Item = Published> + '_ {
    let endpoint = container.endpoint();
    container.bindings.iter().filter_map(move |binding| {
        let endpoint = endpoint?;
        let same_family =
            |net: &&ipnet::IpNet| net.addr().is_ipv4() == binding.host_address.is_ipv4();
        Some(Published {
            protocol: binding.transport.into(),
            host_address: binding.host_address,
            host_ports: binding.host_port..=binding.last_host_port(),
            endpoint: EndpointId(endpoint.number),
            container_address: endpoint.addresses.iter().find(same_family)?.addr(),
            container_port: binding.container_port,
        })
    })
}

/// Everything that is published, consecutive ports joined across containers; sorted.
pub fn publications(state: &State) -> Vec<Publication> {
    coalesce(state.containers().flat_map(|container| &container.bindings))
}

/// Ports of some bindings (e.g. what [`State::publish`] added), consecutive ones joined; sorted.
pub fn coalesce<'a>(bindings: impl IntoIterator<Item = &'a PortBinding>) -> Vec<Publication> {
    let mut all: Vec<Publication> = bindings
        .into_iter()
        .map(|binding| Publication {
            protocol: binding.transport.number(),
            address: binding.host_address,
            first: binding.host_port,
            last: binding.last_host_port(),
        })
        .collect();
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let joins = kept.protocol == next.protocol
            && kept.address == next.address
            && kept
                .last
                .checked_add(1)
                .is_none_or(|after| next.first <= after);
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
    all
}

/// One published port of a container, as `GET /containers/json` and `docker ps` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// TCP or UDP.
    pub transport: Transport,
    /// Port in the container.
    pub private: u16,
    /// Host address and port; `None` if it is only exposed.
    pub public: Option<(IpAddr, u16)>,
}

/// The ports of a running container: published ones in the order of the bindings, then those that are
/// only exposed. Docker shows none of a container that has stopped.
pub fn container_ports(container: &Container) -> Vec<ContainerPort> {
    if container.endpoint().is_none() {
        return Vec::new();
    }
    let mut ports: Vec<ContainerPort> = Vec::new();
    let mut named = std::collections::BTreeSet::new();
    for binding in &container.bindings {
        for (host, private) in binding.pairs() {
            named.insert((binding.transport, private));
            ports.push(ContainerPort {
                transport: binding.transport,
                private,
                public: Some((binding.host_address, host)),
            });
        }
    }
    for exposed in &container.expose {
        for private in exposed.first..=exposed.last {
            if named.insert((exposed.transport, private)) {
                ports.push(ContainerPort {
                    transport: exposed.transport,
                    private,
                    public: None,
                });
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests;

/// PLACEHOLDER
pub fn dns_views(
    _state: &State,
    _servers: &[IpAddr],
) -> std::collections::BTreeMap<String, crate::dns::View> {
    std::collections::BTreeMap::new()
}
