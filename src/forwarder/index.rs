//! The policy, arranged for questions: whose address is this, what is published here, where does a
//! packet between these two addresses belong. No lookup depends on the size of a published range.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::host_ports::PortSet;
use super::{EndpointId, FamilyPolicy, NetworkId, NetworkPolicy, Policy, Protocol, Published};

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A container's.
    Endpoint(EndpointId, NetworkId),
    /// Nobody's, in a network's subnet.
    Vacant(NetworkId),
    /// The host's own, loopback included.
    Local,
    /// Anywhere else.
    Outside,
}

/// Where a published port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) endpoint: EndpointId,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// A range of published ports.
#[derive(Clone, Copy, Debug)]
struct Range {
    end: u16,
    endpoint: EndpointId,
    address: IpAddr,
    first: u16,
}

/// A publication seen from the container.
#[derive(Clone, Copy, Debug)]
struct Reverse {
    first: u16,
    last: u16,
    host_address: IpAddr,
    host_first: u16,
}

/// A subnet, first and last address.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: IpAddr,
    last: IpAddr,
    subnet: IpNet,
    network: NetworkId,
}

/// Port ranges: in order, none touching the next.
#[derive(Debug, Default)]
struct Ranges(Vec<RangeInclusive<u16>>);

impl Ranges {
    fn sort(&mut self) {
        self.0.retain(|range| !range.is_empty());
        self.0.sort_unstable_by_key(|range| *range.start());
        self.0.dedup_by(|next, kept| {
            let touches = u32::from(*next.start()) <= u32::from(*kept.end()) + 1;
            if touches {
                *kept = *kept.start()..=*kept.end().max(next.end());
            }
            touches
        });
    }

    fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|range| *range.start() <= port);
        self.0[..after]
            .last()
            .is_some_and(|range| range.contains(&port))
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    networks: HashMap<NetworkId, NetworkPolicy>,
    /// By first address; they do not overlap.
    subnets: Vec<Span>,
    endpoints: HashMap<IpAddr, (EndpointId, NetworkId)>,
    local: HashSet<IpAddr>,
    published: HashMap<(Protocol, IpAddr), BTreeMap<u16, Range>>,
    published_ports: PortSet,
    reverse: HashMap<(Protocol, IpAddr), (Vec<Reverse>, u16)>,
    /// By endpoint and family (IPv4?).
    open: HashMap<(EndpointId, bool, Protocol), Ranges>,
    /// By client and server.
    links: HashMap<(EndpointId, EndpointId, Protocol), Ranges>,
}

impl Index {
    pub(super) fn new(policy: &Policy) -> Self {
        let mut index = Self::default();
        for network in &policy.networks {
            index
                .subnets
                .extend(network.families.iter().map(|family| Span {
                    first: family.subnet.network(),
                    last: family.subnet.broadcast(),
                    subnet: family.subnet,
                    network: network.id,
                }));
            let gateways = network.families.iter().filter_map(|family| family.gateway);
            index.local.extend(gateways);
            index.networks.insert(network.id, network.clone());
        }
        index.subnets.sort_unstable_by_key(|span| span.first);
        index.local.extend(&policy.local_addresses);
        for endpoint in &policy.endpoints {
            for &address in &endpoint.addresses {
                index
                    .endpoints
                    .insert(address, (endpoint.id, endpoint.network));
            }
            for open in &endpoint.open {
                let key = (endpoint.id, open.ipv4, open.protocol);
                let ranges = index.open.entry(key).or_default();
                ranges.0.push(open.ports.clone());
            }
        }
        for link in &policy.links {
            let key = (link.client, link.server, link.protocol);
            let ranges = index.links.entry(key).or_default();
            ranges.0.push(link.ports.clone());
        }
        for ranges in index.open.values_mut().chain(index.links.values_mut()) {
            ranges.sort();
        }
        for published in &policy.published {
            index.publish(published);
        }
        for (ranges, longest) in index.reverse.values_mut() {
            ranges.sort_unstable_by_key(|range| range.first);
            *longest = ranges
                .iter()
                .map(|range| range.last - range.first)
                .max()
                .unwrap_or(0);
        }
        index
    }

    fn publish(&mut self, published: &Published) {
        let (&first, &end) = (published.host_ports.start(), published.host_ports.end());
        let last = end
            .checked_sub(first)
            .and_then(|n| published.container_port.checked_add(n));
        let Some(last) = last else {
            return;
        };
        let range = Range {
            end,
            endpoint: published.endpoint,
            address: published.container_address,
            first: published.container_port,
        };
        for port in published.host_ports.clone() {
            self.published_ports.insert(published.protocol, port);
        }
        let key = (published.protocol, published.host_address);
        self.published.entry(key).or_default().insert(first, range);
        let reverse = Reverse {
            first: published.container_port,
            last,
            host_address: published.host_address,
            host_first: first,
        };
        let key = (published.protocol, published.container_address);
        self.reverse.entry(key).or_default().0.push(reverse);
    }

    pub(super) fn place(&self, address: IpAddr) -> Place {
        if let Some(&(endpoint, network)) = self.endpoints.get(&address) {
            return Place::Endpoint(endpoint, network);
        }
        if self.is_local(address) {
            return Place::Local;
        }
        match self.span(address) {
            Some(span) => Place::Vacant(span.network),
            None => Place::Outside,
        }
    }

    /// Whom to charge for what the address causes here: a container alone, anybody else with the
    /// whole /64 in IPv6, because that is what one host has.
    pub(super) fn payer(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V6(wide) if !self.endpoints.contains_key(&address) => {
                IpAddr::V6((wide.to_bits() >> 64 << 64).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        }
    }

    /// The subnet that holds the address.
    fn span(&self, address: IpAddr) -> Option<&Span> {
        let after = self.subnets.partition_point(|span| span.first <= address);
        self.subnets[..after]
            .last()
            .filter(|span| address <= span.last)
    }

    /// The address is the host's own.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }

    /// The broadcast or network address of a container subnet.
    pub(super) fn is_subnet_broadcast(&self, address: IpAddr) -> bool {
        self.span(address).is_some_and(|span| match span.subnet {
            IpNet::V4(subnet) => {
                subnet.prefix_len() < 31 && (address == span.first || address == span.last)
            }
            IpNet::V6(_) => false,
        })
    }

    pub(super) fn network(&self, id: NetworkId) -> Option<&NetworkPolicy> {
        self.networks.get(&id)
    }

    /// What a network says about the family of `like`, if it has that.
    pub(super) fn family(&self, id: NetworkId, like: IpAddr) -> Option<&FamilyPolicy> {
        self.network(id)?.family(like)
    }

    /// Nothing comes in or out.
    pub(super) fn is_internal(&self, id: NetworkId) -> bool {
        self.network(id).is_some_and(|network| network.internal)
    }

    /// The endpoint has opened the port at its address to everybody.
    pub(super) fn is_open(
        &self,
        endpoint: EndpointId,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        self.open
            .get(&(endpoint, address.is_ipv4(), protocol))
            .is_some_and(|ranges| ranges.contains(port))
    }

    /// `client` is linked to the port of `server`.
    pub(super) fn has_link(
        &self,
        client: EndpointId,
        server: EndpointId,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        self.links
            .get(&(client, server, protocol))
            .is_some_and(|ranges| ranges.contains(port))
    }

    /// The network of the endpoint that has `address`.
    pub(super) fn network_of(&self, address: IpAddr) -> Option<&NetworkPolicy> {
        self.network(self.endpoints.get(&address)?.1)
    }

    /// The gateway of the network, in the family of `like`.
    pub(super) fn gateway(&self, network: NetworkId, like: IpAddr) -> Option<IpAddr> {
        self.family(network, like)?.gateway
    }

    /// What `port` of the host's `address` leads to. A publication on the address itself beats one
    /// on all addresses.
    pub(super) fn published(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> Option<Target> {
        self.published_at(protocol, address, port)
            .or_else(|| self.published_at(protocol, unspecified(address), port))
    }

    fn published_at(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<Target> {
        let ranges = self.published.get(&(protocol, address))?;
        let (&first, range) = ranges.range(..=port).next_back()?;
        (port <= range.end).then(|| Target {
            endpoint: range.endpoint,
            address: range.address,
            port: range.first + (port - first),
        })
    }

    /// Some publication, on whatever address, has `port`: mappings keep away from it.
    pub(super) fn is_published_anywhere(&self, protocol: Protocol, port: u16) -> bool {
        self.published_ports.contains(protocol, port)
    }

    /// The other index has the same ports published, on whatever addresses.
    pub(super) fn publishes_the_ports_of(&self, other: &Self) -> bool {
        self.published_ports == other.published_ports
    }

    /// Publications that lead to `port` of the container.
    fn reversed(
        &self,
        protocol: Protocol,
        container: IpAddr,
        port: u16,
    ) -> impl Iterator<Item = &Reverse> {
        let (ranges, longest) = match self.reverse.get(&(protocol, container)) {
            Some((ranges, longest)) => (ranges.as_slice(), *longest),
            None => (&[][..], 0),
        };
        let end = ranges.partition_point(|range| range.first <= port);
        ranges[..end]
            .iter()
            .rev()
            .take_while(move |range| port - range.first <= longest)
            .filter(move |range| port <= range.last)
    }

    /// Some publication leads to `port` of the container.
    pub(super) fn is_server(&self, protocol: Protocol, container: IpAddr, port: u16) -> bool {
        self.reversed(protocol, container, port).next().is_some()
    }

    /// The port of the host's `external` address under which `port` of the container is published,
    /// if there is exactly one.
    pub(super) fn published_as(
        &self,
        protocol: Protocol,
        container: IpAddr,
        port: u16,
        external: IpAddr,
    ) -> Option<u16> {
        let mut ports = self
            .reversed(protocol, container, port)
            .filter(|range| {
                range.host_address == external || range.host_address == unspecified(external)
            })
            .map(|range| range.host_first + (port - range.first));
        let found = ports.next()?;
        (ports.next().is_none()
            && self
                .published(protocol, external, found)
                .is_some_and(|target| target.address == container && target.port == port))
        .then_some(found)
    }
}

/// The unspecified address of the family of `like`.
const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forwarder::Access;

    fn publish(at: &str, host_ports: RangeInclusive<u16>, port: u16) -> Published {
        Published {
            protocol: Protocol::Tcp,
            host_address: at.parse().unwrap(),
            host_ports,
            endpoint: EndpointId(1),
            container_address: IpAddr::from([172, 17, 0, 2]),
            container_port: port,
        }
    }

    fn index(published: Vec<Published>) -> Index {
        Index::new(&Policy {
            published,
            ..Policy::default()
        })
    }

    #[test]
    fn ranges_end_where_they_end() {
        let host = IpAddr::from([192, 0, 2, 10]);
        let index = index(vec![
            publish("0.0.0.0", 100..=199, 1000),
            publish("0.0.0.0", 201..=201, 5),
        ]);
        let port = |port| {
            index
                .published(Protocol::Tcp, host, port)
                .map(|target| target.port)
        };
        assert_eq!(
            [99, 100, 199, 200, 201, 202].map(port),
            [None, Some(1000), Some(1099), None, Some(5), None]
        );
        assert_eq!(index.published(Protocol::Udp, host, 100), None);
        assert!(index.is_published_anywhere(Protocol::Tcp, 150));
        assert!(!index.is_published_anywhere(Protocol::Tcp, 200));
        assert_eq!(
            index.published(Protocol::Tcp, "2001:db8::1".parse().unwrap(), 100),
            None
        );
    }

    #[test]
    fn ports_have_one_name_outside_or_none() {
        let host = IpAddr::from([192, 0, 2, 10]);
        let container = IpAddr::from([172, 17, 0, 2]);
        let index = index(vec![
            publish("0.0.0.0", 10_000..=19_999, 20_000),
            publish("0.0.0.0", 80..=80, 25_000),
            publish("192.0.2.11", 7..=7, 26_000),
            publish("0.0.0.0", 9..=9, 40_000),
        ]);
        let name = |port| index.published_as(Protocol::Tcp, container, port, host);
        assert_eq!(name(20_000), Some(10_000));
        assert_eq!(name(29_999), Some(19_999));
        assert_eq!(name(25_000), None, "two names");
        assert_eq!(name(26_000), Some(16_000), "the other is another address's");
        assert_eq!(name(40_000), Some(9));
        assert_eq!(name(40_001), None);
        assert!(index.is_server(Protocol::Tcp, container, 25_000));
        assert!(!index.is_server(Protocol::Tcp, container, 30_000));
    }

    #[test]
    fn an_address_is_found_in_whatever_order_networks_come() {
        let network = |id, subnet: &str| NetworkPolicy {
            id: NetworkId(id),
            families: vec![FamilyPolicy {
                subnet: subnet.parse().unwrap(),
                gateway: None,
                masquerade: true,
                source: None,
                access: Access::Closed,
            }],
            mtu: 1500,
            icc: true,
            internal: false,
            clamp_mss: false,
        };
        let index = Index::new(&Policy {
            networks: vec![
                network(1, "172.18.0.0/16"),
                network(2, "10.0.0.8/31"),
                network(3, "fd00::/64"),
                network(4, "172.17.0.0/16"),
                network(5, "172.19.0.0/24"),
            ],
            ..Policy::default()
        });
        for (address, expected) in [
            ("172.17.0.0", Some(4)),
            ("172.17.255.255", Some(4)),
            ("172.18.0.0", Some(1)),
            ("172.19.0.255", Some(5)),
            ("172.19.1.0", None),
            ("10.0.0.7", None),
            ("10.0.0.8", Some(2)),
            ("10.0.0.9", Some(2)),
            ("10.0.0.10", None),
            ("0.0.0.0", None),
            ("255.255.255.255", None),
            ("fd00::1", Some(3)),
            ("fd00:0:0:1::", None),
        ] {
            let place = index.place(address.parse().unwrap());
            let expected =
                expected.map_or(Place::Outside, |number| Place::Vacant(NetworkId(number)));
            assert_eq!(place, expected, "{address}");
        }
        let broadcast = |address: &str| index.is_subnet_broadcast(address.parse().unwrap());
        assert!(broadcast("172.19.0.255") && broadcast("172.18.0.0"));
        assert!(!broadcast("10.0.0.9") && !broadcast("172.19.0.254"));
    }

    #[test]
    fn ranges_of_ports_may_come_in_any_order_and_overlap() {
        let mut ranges = Ranges(vec![
            100..=200,
            80..=80,
            150..=160,
            81..=82,
            65_535..=65_535,
            RangeInclusive::new(9, 1),
        ]);
        ranges.sort();
        assert_eq!(ranges.0, [80..=82, 100..=200, 65_535..=65_535]);
        let inside = [79, 80, 82, 83, 99, 100, 200, 201, 65_535, 0];
        assert_eq!(
            inside.map(|port| ranges.contains(port)),
            [
                false, true, true, false, false, true, true, false, true, false
            ]
        );
    }

    #[test]
    fn a_range_that_does_not_fit_is_none() {
        let index = index(vec![publish("0.0.0.0", 100..=199, 65_500)]);
        assert!(!index.is_published_anywhere(Protocol::Tcp, 100));
    }
}
