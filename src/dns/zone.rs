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
