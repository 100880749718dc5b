//! What a container may know: the names of its networks, its private links, and whom to ask for
//! the rest. Plain values, built by the control plane; looking up neither allocates nor waits.
//!
//! Keys are lower case, because DNS compares names without regard to case; the network's name and
//! the pointers keep theirs. Names have no trailing dot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Where containers find their resolver.
pub const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// How many upstreams are asked at most.
const MAX_UPSTREAMS: usize = 3;

/// The names of one network, shared by all of its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The network's name: `web` also answers to `web.NETWORK`.
    pub network: String,
    /// The addresses of each name, in lower case: container names, aliases, short ids, host names.
    /// A name without addresses does not exist.
    pub names: HashMap<String, Vec<IpAddr>>,
    /// The first name of each address, for reverse look-ups.
    pub pointers: HashMap<IpAddr, String>,
}

/// From which namespace an upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The host's: servers of the host's own resolv.conf, of which some are on its loopback.
    Host,
    /// The container's: servers given with `--dns`, which may be containers themselves.
    Container,
}

/// A server to forward to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// From where it is asked.
    pub from: Origin,
}

impl Upstream {
    /// A server at port 53, asked from the host's namespace.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            address: SocketAddr::new(address, DNS_PORT),
            from: Origin::Host,
        }
    }

    /// A server at port 53, asked from the container's namespace.
    #[must_use]
    pub const fn container(address: IpAddr) -> Self {
        Self {
            address: SocketAddr::new(address, DNS_PORT),
            from: Origin::Container,
        }
    }
}

/// What one container's resolver knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The zones of its networks in the order of their gateways: the first that has a name wins.
    pub zones: Vec<Arc<Zone>>,
    /// Names private to this container, in lower case, and the name in [`zones`](Self::zones) that
    /// each stands for (any case). They hide equal names of the zones.
    pub links: HashMap<String, String>,
    /// Servers for all other names, in this order; at most the first three are asked.
    pub upstreams: Vec<Upstream>,
    /// Whether upstreams may be asked from the host's namespace. Not if the container is on
    /// internal networks only: its questions would leave through the host. Servers asked from the
    /// container's namespace are reached or not, like everything else that it sends.
    pub forward: bool,
    /// Whether the user or the host set `ndots`: then single-label names are never forwarded.
    pub ndots_set: bool,
}

impl View {
    /// The addresses of `name`, which is in lower case without a trailing dot; `None` if no network
    /// of the container has the name. Names may contain dots themselves: `a.b.c` is looked up as
    /// it is, then as `a.b` in the network `c`, then as `a` in the network `b.c`.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.look_up(name, None).or_else(|| {
            name.rmatch_indices('.')
                .find_map(|(dot, _)| self.look_up(&name[..dot], Some(&name[dot + 1..])))
        })
    }

    fn look_up(&self, name: &str, network: Option<&str>) -> Option<&[IpAddr]> {
        let target = self.links.get(name).map(|target| target.to_lowercase());
        let name = target.as_deref().unwrap_or(name);
        self.zones
            .iter()
            .filter(|zone| network.is_none_or(|network| zone.network.eq_ignore_ascii_case(network)))
            .filter_map(|zone| zone.names.get(name))
            .find(|addresses| !addresses.is_empty())
            .map(Vec::as_slice)
    }

    /// `NAME.NETWORK` of a container that has `address` in one of the networks.
    #[must_use]
    pub fn pointer(&self, address: &IpAddr) -> Option<String> {
        self.zones.iter().find_map(|zone| {
            let name = zone.pointers.get(address)?;
            Some(format!("{name}.{}", zone.network))
        })
    }

    /// The upstreams that may be asked, in order: the first three that are not this resolver
    /// itself, without those that forwarding policy rules out.
    pub(super) fn usable_upstreams(&self) -> impl Iterator<Item = Upstream> {
        self.upstreams
            .iter()
            .copied()
            .filter(|upstream| {
                upstream.from == Origin::Host
                    || upstream.address.ip().to_canonical() != IpAddr::V4(RESOLVER_ADDRESS)
            })
            .take(MAX_UPSTREAMS)
            .filter(|upstream| self.forward || upstream.from == Origin::Container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn zone(network: &str, names: &[(&str, &[&str])]) -> Arc<Zone> {
        let addresses = |list: &[&str]| list.iter().map(|address| ip(address)).collect();
        Arc::new(Zone {
            network: network.to_owned(),
            names: names
                .iter()
                .map(|&(name, list)| (name.to_owned(), addresses(list)))
                .collect(),
            pointers: HashMap::new(),
        })
    }

    #[test]
    fn the_first_network_that_has_the_name_wins() {
        let view = View {
            zones: vec![
                zone("one", &[("web", &["10.1.0.2"]), ("gone", &[])]),
                zone("two", &[("web", &["10.2.0.2"]), ("gone", &["10.2.0.3"])]),
            ],
            ..View::default()
        };
        assert_eq!(view.addresses("web"), Some(&[ip("10.1.0.2")][..]));
        assert_eq!(view.addresses("web.two"), Some(&[ip("10.2.0.2")][..]));
        assert_eq!(view.addresses("gone"), Some(&[ip("10.2.0.3")][..]));
        assert_eq!(view.addresses("web.three"), None);
        assert_eq!(view.addresses(""), None);
    }

    #[test]
    fn dotted_names_are_split_from_the_right() {
        let view = View {
            zones: vec![
                zone("b.c", &[("a", &["10.1.0.1"])]),
                zone("C", &[("a.b", &["10.2.0.1"])]),
                zone("d", &[("a.b.c", &["10.3.0.1"])]),
            ],
            ..View::default()
        };
        assert_eq!(view.addresses("a.b.c"), Some(&[ip("10.3.0.1")][..]));
        assert_eq!(view.addresses("a.b.c.d"), Some(&[ip("10.3.0.1")][..]));
        assert_eq!(view.addresses("a.b"), Some(&[ip("10.2.0.1")][..]));
        assert_eq!(view.addresses("a"), Some(&[ip("10.1.0.1")][..]));
        let without = View {
            zones: view.zones[..2].to_vec(),
            ..View::default()
        };
        assert_eq!(without.addresses("a.b.c"), Some(&[ip("10.2.0.1")][..]));
    }

    #[test]
    fn links_are_other_names_and_hide_equal_ones() {
        let view = View {
            zones: vec![zone(
                "one",
                &[("web", &["10.1.0.2"]), ("db", &["10.1.0.3"])],
            )],
            links: HashMap::from([
                ("db".to_owned(), "Web".to_owned()),
                ("web".to_owned(), "stopped".to_owned()),
            ]),
            ..View::default()
        };
        assert_eq!(view.addresses("db"), Some(&[ip("10.1.0.2")][..]));
        assert_eq!(view.addresses("db.one"), Some(&[ip("10.1.0.2")][..]));
        assert_eq!(view.addresses("web"), None);
    }

    #[test]
    fn the_resolver_does_not_forward_to_itself() {
        let itself = IpAddr::V4(RESOLVER_ADDRESS);
        let mapped = IpAddr::V6(RESOLVER_ADDRESS.to_ipv6_mapped());
        let mut view = View {
            upstreams: vec![
                Upstream::container(itself),
                Upstream::container(mapped),
                // The host may be a container itself.
                Upstream::host(itself),
                Upstream::container(ip("10.0.0.1")),
                Upstream::host(ip("10.0.0.2")),
                Upstream::host(ip("10.0.0.3")),
            ],
            forward: true,
            ..View::default()
        };
        let asked = |view: &View| -> Vec<_> { view.usable_upstreams().collect() };
        assert_eq!(asked(&view), view.upstreams[2..5]);
        view.forward = false;
        assert_eq!(asked(&view), [Upstream::container(ip("10.0.0.1"))]);
    }
}
