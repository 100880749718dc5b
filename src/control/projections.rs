//! The state as other modules need it: the forwarder's policy and steering's list of publications.
//! Pure functions of the state, to be computed anew after every change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

pub use super::resolution::dns_views;

use super::network_config::FamilyConfig;
use super::portspec::PortSpec;
use super::records::{Container, GatewayMode, Network, PortBinding};
use super::state::State;
use super::transport::Transport;
use crate::forwarder::{
    Access, EndpointId, EndpointPolicy, FamilyPolicy, LinkPolicy, NetworkId, NetworkPolicy,
    OpenPorts, Policy, Published,
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
    let mut policy = Policy {
        networks: state.bridge_networks().map(network_policy).collect(),
        local_addresses: local_addresses.to_vec(),
        ..Policy::default()
    };
    for (container, network, endpoint) in state.endpoints() {
        let routed = network.config.families.iter();
        let routed = routed.filter(|family| family.mode == GatewayMode::Routed);
        let open = routed.flat_map(|family| {
            let ipv4 = family.is_ipv4();
            let ranges = joined(open_ports(state, container, network, ipv4));
            ranges.into_iter().map(move |(transport, ports)| OpenPorts {
                ipv4,
                protocol: transport.into(),
                ports,
            })
        });
        policy.endpoints.push(EndpointPolicy {
            id: EndpointId(endpoint.number),
            network: NetworkId(network.number),
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
            open: open.collect(),
        });
    }
    for container in state.containers() {
        policy.published.extend(published(state, container));
        policy.links.extend(links(state, container));
    }
    policy
}

fn network_policy(network: &Network) -> NetworkPolicy {
    let config = &network.config;
    let family = |family: &FamilyConfig| FamilyPolicy {
        subnet: family.subnet,
        gateway: family.bridge_net().map(|net| net.addr()),
        masquerade: family.masquerade,
        source: family.source,
        access: access(family.mode),
    };
    NetworkPolicy {
        id: NetworkId(network.number),
        families: config.families.iter().map(family).collect(),
        mtu: config.mtu,
        icc: config.icc,
        internal: config.internal,
        clamp_mss: false,
    }
}

const fn access(mode: GatewayMode) -> Access {
    match mode {
        GatewayMode::NatUnprotected => Access::Open,
        GatewayMode::Routed => Access::Ports,
        GatewayMode::Nat | GatewayMode::Isolated => Access::Closed,
    }
}

/// Ports of a container that are open without NAT at its address of a family: those that `-p` and, with `-P`,
/// `--expose` name, unless they are meant for somewhere else.
///
/// As in Docker, a host address of the other family opens none. Unlike there, neither does one of the host's
/// loopback, which says that it is nobody else's business, nor one at which the port is had, by NAT on another network
/// or translated to the other family.
fn open_ports<'a>(
    state: &State,
    container: &'a Container,
    network: &Network,
    ipv4: bool,
) -> impl Iterator<Item = (Transport, RangeInclusive<u16>)> + use<'a> {
    let default = network.config.host_address;
    let elsewhere = state.port_target(container, ipv4).is_some();
    let opens = move |given: Option<IpAddr>| {
        let address = given.unwrap_or(default);
        let of_both_families = given.is_none() && address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let own = address.is_ipv4() == ipv4
            && (address.is_unspecified() || !(address.is_loopback() || elsewhere));
        of_both_families || own
    };
    let specs = container.publish.iter();
    let named = specs
        .filter_map(|text| text.parse::<PortSpec>().ok())
        .filter(move |spec| opens(spec.host_address))
        .map(|spec| (spec.transport, spec.container));
    let exposed = container.expose.iter();
    let exposed = exposed.filter(move |_| container.publish_all && opens(None));
    named.chain(exposed.map(|e| (e.transport, e.first..=e.last)))
}

/// The container ports of its `-p` values.
pub(super) fn published_ports(
    container: &Container,
) -> impl Iterator<Item = (Transport, RangeInclusive<u16>)> + '_ {
    let specs = container.publish.iter();
    specs
        .filter_map(|text| text.parse::<PortSpec>().ok())
        .map(|spec| (spec.transport, spec.container))
}

/// All ports that a container exposes, `-p` ports included. Sorted, no two overlap.
pub(super) fn exposed_ports(container: &Container) -> Vec<(Transport, RangeInclusive<u16>)> {
    let exposed = container.expose.iter();
    joined(published_ports(container).chain(exposed.map(|e| (e.transport, e.first..=e.last))))
}

fn joined(
    ranges: impl Iterator<Item = (Transport, RangeInclusive<u16>)>,
) -> Vec<(Transport, RangeInclusive<u16>)> {
    let mut all: Vec<_> = ranges
        .map(|(transport, range)| (transport, *range.start(), *range.end()))
        .collect();
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let joins = kept.0 == next.0 && kept.2.checked_add(1).is_none_or(|after| next.1 <= after);
        if joins {
            kept.2 = kept.2.max(next.2);
        }
        joins
    });
    all.into_iter()
        .map(|(transport, first, last)| (transport, first..=last))
        .collect()
}

/// Host ports lead to the endpoint that makes the container's default route; those of IPv6 possibly to its IPv4
/// address.
fn published<'a>(
    state: &'a State,
    container: &'a Container,
) -> impl Iterator<Item = Published> + 'a {
    let target = |ipv4| {
        let bound = !container.bindings.is_empty();
        let ((_, _, endpoint), address) = state.port_target(container, ipv4).filter(|_| bound)?;
        Some((EndpointId(endpoint.number), address))
    };
    let (v4, v6) = (target(true), target(false));
    container.bindings.iter().filter_map(move |binding| {
        let target = if binding.host_address.is_ipv4() {
            v4
        } else {
            v6
        };
        let (endpoint, container_address) = target?;
        Some(Published {
            protocol: binding.transport.into(),
            host_address: binding.host_address,
            host_ports: binding.host_port..=binding.last_host_port(),
            endpoint,
            container_address,
            container_port: binding.container_port,
        })
    })
}

/// What a container's links on the default network open, if its containers may not talk otherwise.
fn links<'a>(state: &'a State, container: &'a Container) -> impl Iterator<Item = LinkPolicy> + 'a {
    let default = state
        .default_network()
        .filter(|network| !network.config.icc);
    let client = default
        .and_then(|network| container.attachment(&network.id))
        .and_then(|attachment| attachment.endpoint.as_ref());
    let links = client.into_iter().flat_map(move |client| {
        let links = state.live_links(container);
        links.map(move |link| (client, link))
    });
    links.flat_map(|(client, (_, target, server))| {
        let ports = exposed_ports(target).into_iter();
        ports.map(move |(transport, ports)| LinkPolicy {
            client: EndpointId(client.number),
            server: EndpointId(server.number),
            protocol: transport.into(),
            ports,
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
    /// Host address and port; `None` if it is only exposed. Port 0: open without NAT, at the
    /// container's own address.
    pub public: Option<(IpAddr, u16)>,
}

/// The ports of a container: published ones in the order of the bindings, those that are open without NAT,
/// then those that are only exposed. Docker shows none of a container that has stopped.
pub fn container_ports(state: &State, container: &Container) -> Vec<ContainerPort> {
    if container.has_exited() {
        return Vec::new();
    }
    let mut ports: Vec<ContainerPort> = Vec::new();
    let mut named = BTreeSet::new();
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
    // Those at IPv6 host addresses, if the forwarder translates: that says more than that they are open, too.
    let translated = state
        .port_target(container, false)
        .is_some_and(|(_, address)| address.is_ipv4());
    let translated: BTreeSet<(Transport, u16)> = container
        .bindings
        .iter()
        .filter(|binding| translated && binding.host_address.is_ipv6())
        .flat_map(|binding| {
            binding
                .pairs()
                .map(|(_, private)| (binding.transport, private))
        })
        .collect();
    for (unspecified, network) in routed(state, container) {
        let open = open_ports(state, container, network, unspecified.is_ipv4());
        for (transport, range) in open {
            for private in range {
                named.insert((transport, private));
                if unspecified.is_ipv4() || !translated.contains(&(transport, private)) {
                    ports.push(ContainerPort {
                        transport,
                        private,
                        public: Some((unspecified, 0)),
                    });
                }
            }
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

/// `0.0.0.0` and `::` for each place where a container has an address of that family that is reached without NAT, and
/// the network.
fn routed<'a>(
    state: &'a State,
    container: &'a Container,
) -> impl Iterator<Item = (IpAddr, &'a Network)> {
    let unspecified = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let places = container.endpoints();
    places.flat_map(move |(attachment, endpoint)| {
        let network = state.network_by_id(&attachment.network);
        unspecified.into_iter().filter_map(move |unspecified| {
            let ipv4 = unspecified.is_ipv4();
            let family = network?.config.family(ipv4)?;
            let reached = family.mode == GatewayMode::Routed && endpoint.address(ipv4).is_some();
            reached.then_some((unspecified, network?))
        })
    })
}

#[cfg(test)]
mod tests;
