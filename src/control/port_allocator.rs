//! Which port of the host a published port gets.
//!
//! There is one map of used ports per (protocol, host address). A wildcard address conflicts with every
//! address of its family and the other way round; what is published on both families has the same port in both.
//! What is free in the maps must also be held for real ([`HoldPorts`]) before it is given out:
//!
//! | asked for | search | if the kernel refuses |
//! |---|---|---|
//! | exact ports | none | error at once |
//! | one of a range | after the last one given out of this range, wrapping | next, 10 attempts |
//! | ephemeral | the same over `ip_local_port_range`, without `ip_local_reserved_ports` | next, 10 attempts |
//!
//! Exact ports of one container are taken before its ranges, so that a range cannot take them. A
//! request succeeds as a whole or leaves nothing behind: every port is a [`PortLease`] that gives itself back
//! when dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;

use super::port_holder::{Claim, HeldPort, HoldError, HoldPorts};
use super::portspec::HostPorts;
use super::transport::Transport;

/// Ephemeral ports if the kernel's range cannot be read (Docker's fallback, RFC 6335 dynamic ports).
pub const FALLBACK_EPHEMERAL: RangeInclusive<u16> = 49_153..=65_535;

/// How often another port is tried when the kernel refuses one (Docker's `maxAllocateAttempts`).
const MAX_ATTEMPTS: u32 = 10;

/// Ports wanted on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// The `-p` value, for messages.
    pub spec: String,
    /// TCP or UDP.
    pub transport: Transport,
    /// Host addresses, at least one and at most one per family: each port is wanted on all of them. Unspecified: all
    /// of its family.
    pub addresses: Vec<IpAddr>,
    /// Which ports.
    pub host: HostPorts,
    /// Ports in the container; with [`HostPorts::Exact`] as many as host ports.
    pub container: RangeInclusive<u16>,
}

/// Why a request failed; `Display` is Docker's text, then the `-p` value and the way out.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// We have given it out.
    #[error(
        "Bind for {} failed: port is already allocated (in -p \"{spec}\"): choose another host port, or stop {}",
        SocketAddr::new(*.address, *.port),
        .holder.as_deref().map_or_else(|| "the container that publishes it".to_owned(), |holder| format!("container {holder}, which publishes it"))
    )]
    AlreadyAllocated {
        /// Host address asked for.
        address: IpAddr,
        /// Port asked for.
        port: u16,
        /// TCP or UDP.
        transport: Transport,
        /// Name of the container that has it, where that is known.
        holder: Option<String>,
        /// The `-p` value.
        spec: String,
    },
    /// The kernel does not give it.
    #[error(
        "failed to bind host port {}/{transport}: {source} (in -p \"{spec}\"){}",
        SocketAddr::new(*.address, *.port),
        fix(.source)
    )]
    Refused {
        /// Host address asked for.
        address: IpAddr,
        /// The last port tried.
        port: u16,
        /// TCP or UDP.
        transport: Transport,
        /// The `-p` value.
        spec: String,
        /// Why.
        source: HoldError,
    },
    /// Every port of the range is taken.
    #[error(
        "all ports are allocated: none of {first}-{last} is free on {address} (in -p \"{spec}\"): give a larger range, or stop a container that publishes one"
    )]
    Exhausted {
        /// Host address asked for.
        address: IpAddr,
        /// Range searched.
        first: u16,
        /// Range searched.
        last: u16,
        /// The `-p` value.
        spec: String,
    },
    /// The host has no IPv6.
    #[error(
        "cannot publish on {address} (in -p \"{spec}\"): this host has no IPv6; give an IPv4 address, or none for all"
    )]
    Ipv6 {
        /// Host address asked for.
        address: IpAddr,
        /// The `-p` value.
        spec: String,
    },
}

fn fix(source: &HoldError) -> String {
    match source {
        HoldError::InUse => {
            ": choose another host port, or stop the program that has it (`ss -lntup` shows it)"
                .to_owned()
        }
        HoldError::InUseBy(occupant) => format!(
            ": choose another host port, or stop {} (process {}), which has it",
            occupant.program, occupant.pid
        ),
        HoldError::NotLocal
        | HoldError::TooManyOpenFiles { .. }
        | HoldError::TooManyOnHost
        | HoldError::Other(_) => String::new(),
    }
}

/// The ports of the host.
#[derive(Clone, Debug)]
pub struct PortAllocator(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    holder: Arc<dyn HoldPorts>,
    ephemeral: RangeInclusive<u16>,
    reserved: BTreeSet<u16>,
    maps: BTreeMap<(Transport, IpAddr), PortMap>,
}

#[derive(Debug, Default)]
struct PortMap {
    used: PortSet,
    /// Last port given out of each range that was searched.
    last: BTreeMap<(u16, u16), u16>,
}

/// A port of the host that is ours until this is dropped.
#[derive(Debug)]
pub struct PortLease {
    allocator: PortAllocator,
    held: Option<HeldPort>,
    transport: Transport,
    address: IpAddr,
    host_port: u16,
    container_port: u16,
}

impl PortLease {
    /// TCP or UDP.
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Host address; unspecified: all of its family.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Port on the host.
    pub const fn host_port(&self) -> u16 {
        self.host_port
    }

    /// Port in the container.
    pub const fn container_port(&self) -> u16 {
        self.container_port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        // The socket goes first: whoever finds the port free in the map must be able to bind it.
        self.held = None;
        let mut inner = self.allocator.0.lock();
        if let Some(map) = inner.maps.get_mut(&(self.transport, self.address)) {
            map.used.remove(self.host_port);
        }
    }
}

impl PortAllocator {
    /// An allocator with nothing taken. `ephemeral` is `net.ipv4.ip_local_port_range`, `reserved`
    /// `net.ipv4.ip_local_reserved_ports` and whatever else ephemeral ports must avoid.
    pub fn new(
        holder: Arc<dyn HoldPorts>,
        ephemeral: RangeInclusive<u16>,
        reserved: impl IntoIterator<Item = u16>,
    ) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            holder,
            ephemeral,
            reserved: reserved.into_iter().collect(),
            maps: BTreeMap::new(),
        })))
    }

    /// Takes all that is asked for, or nothing. The result has one entry per request, in their order;
    /// within it the leases are in the order of the container's ports, those of IPv4 first.
    ///
    /// # Errors
    /// For the first request that cannot be met.
    pub fn allocate(&self, requests: &[PortRequest]) -> Result<Vec<Vec<PortLease>>, PortError> {
        self.allocate_as(Claim::Hold, requests)
    }

    /// The same for a container whose runtime may hold the ports.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn allocate_as(
        &self,
        claim: Claim<'_>,
        requests: &[PortRequest],
    ) -> Result<Vec<Vec<PortLease>>, PortError> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| {
            let request = &requests[index];
            let searched = !matches!(request.host, HostPorts::Exact(_));
            (searched, *request.container.start(), request.transport)
        });
        let mut leases: Vec<Vec<PortLease>> = requests.iter().map(|_| Vec::new()).collect();
        for index in order {
            leases[index] = self.satisfy(claim, &requests[index])?;
        }
        Ok(leases)
    }

    fn satisfy(
        &self,
        claim: Claim<'_>,
        request: &PortRequest,
    ) -> Result<Vec<PortLease>, PortError> {
        let containers = request.container.clone();
        let taken: Result<Vec<_>, PortError> = match &request.host {
            HostPorts::Exact(ports) => ports
                .clone()
                .zip(containers)
                .map(|(host, container)| self.exact(claim, request, host, container))
                .collect(),
            HostPorts::AnyOf(range) => containers
                .map(|container| self.search(claim, request, Some(range), container))
                .collect(),
            HostPorts::Ephemeral => containers
                .map(|container| self.search(claim, request, None, container))
                .collect(),
        };
        let mut leases: Vec<PortLease> = taken?.into_iter().flatten().collect();
        leases.sort_by_key(|lease| lease.address.is_ipv6());
        Ok(leases)
    }

    fn exact(
        &self,
        claim: Claim<'_>,
        request: &PortRequest,
        port: u16,
        container_port: u16,
    ) -> Result<Vec<PortLease>, PortError> {
        let mut inner = self.0.lock();
        if let Some(address) = inner.taken(request, port) {
            return Err(PortError::AlreadyAllocated {
                address,
                port,
                transport: request.transport,
                holder: None,
                spec: request.spec.clone(),
            });
        }
        match inner.take(claim, request, port) {
            Ok(held) => Ok(self.leases(request, held, port, container_port)),
            Err((address, source)) => Err(refused(request, address, port, source)),
        }
    }

    fn search(
        &self,
        claim: Claim<'_>,
        request: &PortRequest,
        range: Option<&RangeInclusive<u16>>,
        container_port: u16,
    ) -> Result<Vec<PortLease>, PortError> {
        let mut inner = self.0.lock();
        // The searches of one family and of both go on after each other.
        let address = request.address();
        let ephemeral = range.is_none();
        let searched = range.unwrap_or(&inner.ephemeral);
        let (first, last) = (*searched.start(), *searched.end());
        let previous = inner
            .map(request.transport, address)
            .last
            .get(&(first, last))
            .copied();
        let resume = previous
            .filter(|port| *port < last)
            .map_or(first, |port| port + 1);
        let mut attempts = 0;
        for port in (resume..=last).chain(first..resume) {
            let avoided = ephemeral && inner.reserved.contains(&port);
            if avoided || inner.taken(request, port).is_some() {
                continue;
            }
            inner
                .map(request.transport, address)
                .last
                .insert((first, last), port);
            match inner.take(claim, request, port) {
                Ok(held) => return Ok(self.leases(request, held, port, container_port)),
                Err((_, HoldError::InUse | HoldError::InUseBy(_)))
                    if attempts + 1 < MAX_ATTEMPTS =>
                {
                    attempts += 1;
                }
                Err((address, source)) => return Err(refused(request, address, port, source)),
            }
        }
        Err(PortError::Exhausted {
            address,
            first,
            last,
            spec: request.spec.clone(),
        })
    }

    /// One for each of the addresses.
    fn leases(
        &self,
        request: &PortRequest,
        held: Vec<HeldPort>,
        host_port: u16,
        container_port: u16,
    ) -> Vec<PortLease> {
        let held = held.into_iter().zip(&request.addresses);
        held.map(|(held, &address)| PortLease {
            allocator: self.clone(),
            held: Some(held),
            transport: request.transport,
            address,
            host_port,
            container_port,
        })
        .collect()
    }
}

impl PortRequest {
    /// The first of its addresses.
    fn address(&self) -> IpAddr {
        let first = self.addresses.first().copied();
        first.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

fn refused(request: &PortRequest, address: IpAddr, port: u16, source: HoldError) -> PortError {
    PortError::Refused {
        address,
        port,
        transport: request.transport,
        spec: request.spec.clone(),
        source,
    }
}

impl Inner {
    fn map(&mut self, transport: Transport, address: IpAddr) -> &mut PortMap {
        self.maps.entry((transport, address)).or_default()
    }

    fn is_free(&self, transport: Transport, address: IpAddr, port: u16) -> bool {
        !self.maps.iter().any(|(&(t, other), map)| {
            t == transport
                && other.is_ipv4() == address.is_ipv4()
                && (other == address || other.is_unspecified() || address.is_unspecified())
                && map.used.contains(port)
        })
    }

    /// The first of the request's addresses on which `port` has been given out.
    fn taken(&self, request: &PortRequest, port: u16) -> Option<IpAddr> {
        let mut addresses = request.addresses.iter().copied();
        addresses.find(|address| !self.is_free(request.transport, *address, port))
    }

    /// Takes `port` on all of the request's addresses, or on none; an error names the address.
    fn take(
        &mut self,
        claim: Claim<'_>,
        request: &PortRequest,
        port: u16,
    ) -> Result<Vec<HeldPort>, (IpAddr, HoldError)> {
        let held = request.addresses.iter().map(|&address| {
            let transport = request.transport;
            let held = match claim {
                Claim::Hold => self.holder.hold(transport, address, port),
                Claim::Check(container) => self.holder.check(transport, address, port, container),
            };
            held.map_err(|source| (address, source))
        });
        let held = held.collect::<Result<Vec<_>, _>>()?;
        for &address in &request.addresses {
            self.map(request.transport, address).used.insert(port);
        }
        Ok(held)
    }
}

/// A set of ports: one bit each, allocated when the first one comes.
#[derive(Debug, Default)]
struct PortSet(Option<Box<[u64; 1024]>>);

impl PortSet {
    const fn place(port: u16) -> (usize, u64) {
        ((port >> 6) as usize, 1 << (port & 63))
    }

    fn contains(&self, port: u16) -> bool {
        let (word, bit) = Self::place(port);
        self.0.as_ref().is_some_and(|words| words[word] & bit != 0)
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.0
            .iter()
            .flat_map(|words| words.iter())
            .map(|word| word.count_ones())
            .sum()
    }

    fn insert(&mut self, port: u16) {
        let (word, bit) = Self::place(port);
        self.0.get_or_insert_with(|| Box::new([0; 1024]))[word] |= bit;
    }

    fn remove(&mut self, port: u16) {
        let (word, bit) = Self::place(port);
        if let Some(words) = &mut self.0 {
            words[word] &= !bit;
        }
    }
}

/// The contents of `/proc/sys/net/ipv4/ip_local_port_range`.
pub fn parse_local_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u16>);
    match (fields.next(), fields.next(), fields.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first > 0 && first <= last => Some(first..=last),
        _ => None,
    }
}

/// The contents of `/proc/sys/net/ipv4/ip_local_reserved_ports`: `8080,9148-9150`. What is not a port
/// is passed over.
pub fn parse_reserved_ports(text: &str) -> BTreeSet<u16> {
    text.trim()
        .split(',')
        .filter_map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests;
