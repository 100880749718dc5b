//! Published ports of containers: from `-p` values to requests, from leases to bindings, and changes
//! while the container runs.
//!
//! Host ports belong to the endpoint that makes the container's default route of their family, if its network
//! has NAT (Docker does the same). Those of IPv6 lead to the IPv4 address if there is no such endpoint of IPv6:
//! the forwarder translates, as Docker's proxy does. A `-p` value without an address is published on both
//! families, with the same port. When a route goes another way, the ports move; a port keeps its number where it
//! can, but the new network may have another host address for `-p` values that name none. What is published on a
//! network without NAT follows from the `-p` values alone: see `projections`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::error::ControlError;
use super::gateway::Place;
use super::port_allocator::{PortError, PortLease, PortRequest};
use super::port_holder::Claim;
use super::portspec::{HostPorts, PortSpec};
use super::records::{Container, ContainerState, PortBinding};
use super::state::{Leases, State};
use super::transport::Transport;

impl State {
    /// Publishes one more `-p` value on a container that has a network. Gives the new record and what
    /// has been added to its bindings: nothing for a value that a runtime's container has already.
    ///
    /// # Errors
    /// If the value is malformed, the container has stopped, a port cannot be had, or the change
    /// cannot be stored; nothing has changed then.
    pub fn publish(
        &mut self,
        query: &str,
        spec: &str,
    ) -> Result<(Container, Vec<PortBinding>), ControlError> {
        let parsed: PortSpec = spec.parse()?;
        let mut record = self.container_with_network(query)?.clone();
        // A runtime says it again for each of the container's networks.
        let mut known = record.publish.iter();
        if record.runtime.is_some() && known.any(|text| means(text, &parsed)) {
            return Ok((record, Vec::new()));
        }
        let ports = self
            .host_defaults(&record)
            .request(spec, &parsed)
            .and_then(|request| self.ports.allocate_as(record.claim(), request.as_slice()))
            .map_err(|source| self.ports_error(&record, source))?;
        let leases: Vec<Leases> = ports
            .into_iter()
            .map(|ports| Leases {
                spec: spec.to_owned(),
                ports,
            })
            .collect();
        let added = bindings(&leases);
        record.publish.push(spec.to_owned());
        record.bindings.extend(added.iter().cloned());
        self.put(record.clone())?;
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.leases.extend(leases);
        }
        Ok((record, added))
    }

    /// Takes back a `-p` value (for a port of `-P`: the exposed port, `80/tcp`). Gives the new record
    /// and the bindings that are gone. The value must mean the same as the one given, not be spelt alike.
    ///
    /// # Errors
    /// If the value is malformed or not published, the container has stopped, or the change cannot be stored.
    pub fn unpublish(
        &mut self,
        query: &str,
        spec: &str,
    ) -> Result<(Container, Vec<PortBinding>), ControlError> {
        let parsed: PortSpec = spec.parse()?;
        let mut record = self.container_with_network(query)?.clone();
        let same = |text: &str| means(text, &parsed);
        let (gone, kept): (Vec<_>, Vec<_>) = record
            .bindings
            .drain(..)
            .partition(|binding| same(&binding.spec));
        if gone.is_empty() && !record.publish.iter().any(|text| same(text)) {
            return Err(ControlError::NotPublished {
                name: record.name,
                spec: spec.escape_debug().to_string(),
            });
        }
        record.bindings = kept;
        record.publish.retain(|text| !same(text));
        self.put(record.clone())?;
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.leases.retain(|leases| !same(&leases.spec));
        }
        Ok((record, gone))
    }

    /// Publishes these `-p` values of a container that has a network, and no others; those that it has keep their
    /// ports. Gives the new record.
    ///
    /// # Errors
    /// As [`State::publish`]; nothing has changed then.
    pub fn publish_only(
        &mut self,
        query: &str,
        specs: &[String],
    ) -> Result<Container, ControlError> {
        let mut record = self.container_with_network(query)?.clone();
        let mut wanted: Vec<(&String, PortSpec)> = Vec::new();
        for text in specs {
            let spec: PortSpec = text.parse()?;
            if !wanted.iter().any(|(_, other)| *other == spec) {
                wanted.push((text, spec));
            }
        }
        let defaults = self.host_defaults(&record);
        let mut requests = Vec::new();
        for (text, spec) in &wanted {
            if !record.publish.iter().any(|has| means(has, spec)) {
                let request = defaults.request(text, spec);
                requests.extend(request.map_err(|source| self.ports_error(&record, source))?);
            }
        }
        let ports = self
            .ports
            .allocate_as(record.claim(), &requests)
            .map_err(|source| self.ports_error(&record, source))?;
        let leases = leased(requests, ports);
        let stays = |text: &str| wanted.iter().any(|(_, spec)| means(text, spec));
        record.bindings.retain(|binding| stays(&binding.spec));
        record.bindings.extend(bindings(&leases));
        record.publish = wanted.iter().map(|(text, _)| (*text).clone()).collect();
        self.put(record.clone())?;
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.leases.retain(|leases| stays(&leases.spec));
            entry.leases.extend(leases);
        }
        Ok(record)
    }

    /// Takes the ports in a stored record again after a restart of the daemon.
    pub(super) fn retake_ports(
        &mut self,
        id: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), ControlError> {
        let Some(entry) = self.containers.get(id) else {
            return Ok(());
        };
        let mut record = entry.record.clone();
        if record.endpoint().is_none() || !entry.leases.is_empty() {
            return Ok(());
        }
        let mut all: Vec<Leases> = Vec::new();
        let mut before: Option<&PortBinding> = None;
        for binding in &record.bindings {
            // A `-p` value may have several bindings: of both families, and with holes.
            let goes_on = before.is_some_and(|before| before.spec == binding.spec)
                && !all
                    .last()
                    .is_some_and(|leases| overlaps(&leases.ports, binding));
            if !goes_on {
                all.push(Leases {
                    spec: binding.spec.clone(),
                    ports: Vec::new(),
                });
            }
            before = Some(binding);
            let Some(leases) = all.last_mut() else {
                continue;
            };
            match self
                .ports
                .allocate_as(record.claim(), &[exact(binding, 0, binding.count)])
            {
                Ok(ports) => leases.ports.extend(ports.into_iter().flatten()),
                // Something in it is gone: keep the rest.
                Err(_) => self.retake_one_by_one(&record, binding, leases, warnings),
            }
        }
        let bindings = bindings(&all);
        if bindings != record.bindings {
            record.bindings = bindings;
            self.put(record)?;
        }
        if let Some(entry) = self.containers.get_mut(id) {
            entry.leases = all;
        }
        Ok(())
    }

    fn retake_one_by_one(
        &self,
        record: &Container,
        binding: &PortBinding,
        leases: &mut Leases,
        warnings: &mut Vec<String>,
    ) {
        let mut lost = 0_u32;
        let mut first = None;
        for offset in 0..binding.count {
            match self
                .ports
                .allocate_as(record.claim(), &[exact(binding, offset, 1)])
            {
                Ok(ports) => leases.ports.extend(ports.into_iter().flatten()),
                Err(error) => {
                    lost += 1;
                    first.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first {
            let more = if lost > 1 {
                format!(" (and {} more of this range)", lost - 1)
            } else {
                String::new()
            };
            warnings.push(format!(
                "container {}: no longer published: {error}{more}",
                record.name
            ));
        }
    }

    fn container_with_network(&self, query: &str) -> Result<&Container, ControlError> {
        let container = self.container(query)?;
        match container.state {
            ContainerState::Created | ContainerState::Running { .. } => Ok(container),
            ContainerState::Exited { .. } => Err(ControlError::NotRunning {
                name: container.name.clone(),
            }),
        }
    }

    /// Where host ports of a family lead: the endpoint, and which of its addresses. `None`: there are none.
    pub(super) fn port_target<'s, 'c>(
        &'s self,
        record: &'c Container,
        ipv4: bool,
    ) -> Option<(Place<'s, 'c>, IpAddr)> {
        let same_family = |ipv4| {
            let place = self.gateway_endpoint(record, ipv4)?;
            let (_, network, endpoint) = place;
            let nat = network.config.family(ipv4)?.mode.has_nat();
            let address = endpoint.address(ipv4)?.addr();
            nat.then_some((place, address))
        };
        same_family(ipv4).or_else(|| if ipv4 { None } else { same_family(true) })
    }

    /// The host addresses of a container's `-p` values that name none.
    fn host_defaults(&self, record: &Container) -> HostDefaults {
        let default = |ipv4| {
            let ((_, network, _), _) = self.port_target(record, ipv4)?;
            Some(network.config.host_address)
        };
        HostDefaults {
            v4: default(true),
            v6: default(false),
            has_ipv6: self.settings.has_ipv6,
        }
    }

    /// The `-p` values of a container without IPv4 that are meant for IPv4 host addresses.
    pub(super) fn without_target<'c>(&self, record: &'c Container) -> Vec<&'c str> {
        let mut endpoints = record.endpoints();
        let defaults = self.host_defaults(record);
        if defaults.v6.is_none() || endpoints.any(|(_, e)| e.address(true).is_some()) {
            return Vec::new();
        }
        let lost = record.publish.iter().filter(|text| {
            let spec = text.parse::<PortSpec>().ok();
            let addresses = spec.map(|spec| defaults.addresses(text, spec.host_address));
            matches!(addresses, Some(Ok(addresses)) if addresses.is_empty())
        });
        lost.map(String::as_str).collect()
    }

    /// Docker's sentence around a port that cannot be had.
    fn ports_error(&self, record: &Container, mut source: PortError) -> ControlError {
        if let PortError::AlreadyAllocated {
            address,
            port,
            transport,
            holder,
            ..
        } = &mut source
        {
            *holder = self.publisher(record, *transport, *address, *port);
        }
        let endpoint = self
            .port_target(record, true)
            .or_else(|| self.port_target(record, false))
            .map(|(place, _)| place);
        ControlError::Ports {
            name: record.name.clone(),
            endpoint: endpoint.map_or_else(String::new, |(_, _, endpoint)| endpoint.id.clone()),
            source,
        }
    }

    /// The name of another container that has this port of the host.
    fn publisher(
        &self,
        than: &Container,
        transport: Transport,
        address: IpAddr,
        port: u16,
    ) -> Option<String> {
        let has_it = |binding: &PortBinding| {
            let own = binding.host_address;
            binding.transport == transport
                && (binding.host_port..=binding.last_host_port()).contains(&port)
                && own.is_ipv4() == address.is_ipv4()
                && (own == address || own.is_unspecified() || address.is_unspecified())
        };
        let mut others = self.containers().filter(|other| other.id != than.id);
        let found = others.find(|other| other.bindings.iter().any(has_it));
        found.map(|other| other.name.clone())
    }

    /// Takes the ports of a container that has none, whose endpoints are in `record`.
    pub(super) fn lease_ports(&self, record: &Container) -> Result<Vec<Leases>, ControlError> {
        let requests = self.port_requests(record)?;
        let ports = self
            .ports
            .allocate_as(record.claim(), &requests)
            .map_err(|source| self.ports_error(record, source))?;
        Ok(leased(requests, ports))
    }

    /// What is to be published on host ports: the `-p` values, and with `-P` each exposed port that no
    /// `-p` value names.
    fn port_requests(&self, record: &Container) -> Result<Vec<PortRequest>, ControlError> {
        let defaults = self.host_defaults(record);
        let refused = |source| self.ports_error(record, source);
        let mut requests = Vec::new();
        let mut named: BTreeSet<(Transport, u16)> = BTreeSet::new();
        for text in &record.publish {
            let spec: PortSpec = text.parse()?;
            requests.extend(defaults.request(text, &spec).map_err(refused)?);
            if record.publish_all {
                named.extend(spec.container.map(|port| (spec.transport, port)));
            }
        }
        let exposed = record.expose.iter().filter(|_| record.publish_all);
        for exposed in exposed {
            for port in exposed.first..=exposed.last {
                if named.insert((exposed.transport, port)) {
                    let request = defaults.ephemeral(port, exposed.transport);
                    requests.extend(request.map_err(refused)?);
                }
            }
        }
        Ok(requests)
    }

    /// Makes the ports of a container those that `record`, with its new endpoints, is to have, and notes
    /// them there. The container's leases are the new ones then; the caller stores `record`, or calls
    /// [`State::put_ports_back`].
    ///
    /// # Errors
    /// If a port cannot be had and `forgiving` is not given; with it, that becomes a warning. After an
    /// error everything is as before.
    pub(super) fn move_ports(
        &mut self,
        record: &mut Container,
        mut forgiving: Option<&mut Vec<String>>,
    ) -> Result<(), ControlError> {
        let requests = self.port_requests(record)?;
        let Some(entry) = self.containers.get_mut(&record.id) else {
            return Ok(());
        };
        let mut old = std::mem::take(&mut entry.leases);
        // What stays where it is, is not touched.
        let mut slots: Vec<Option<Leases>> = Vec::new();
        for request in &requests {
            let at = old.iter().position(|leases| stays(leases, request));
            slots.push(at.map(|at| old.remove(at)));
        }
        let freed: Vec<(String, Vec<PortRequest>)> = old
            .drain(..)
            .map(|leases| {
                let ports = same_ports(&leases.ports);
                (leases.spec, ports)
            })
            .collect();
        let mut problem = None;
        // Exact ports first, so that a range cannot take them.
        let mut missing: Vec<_> = requests
            .iter()
            .zip(&mut slots)
            .filter(|(_, slot)| slot.is_none())
            .collect();
        missing.sort_by_key(|(request, _)| !matches!(request.host, HostPorts::Exact(_)));
        for (request, slot) in missing {
            match self.take_again(record.claim(), request, &freed) {
                Ok(ports) => {
                    *slot = Some(Leases {
                        spec: request.spec.clone(),
                        ports,
                    });
                }
                Err(error) => match &mut forgiving {
                    Some(warnings) => warnings.push(format!(
                        "container {}: no longer published: {error}",
                        record.name
                    )),
                    None => {
                        problem = Some(error);
                        break;
                    }
                },
            }
        }
        if let Some(error) = problem {
            drop(slots);
            self.put_ports_back(&record.id);
            return Err(self.ports_error(record, error));
        }
        let leases: Vec<Leases> = slots.into_iter().flatten().collect();
        record.bindings = bindings(&leases);
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.leases = leases;
        }
        Ok(())
    }

    /// Ports with the numbers that the same `-p` value had on another host address, or others.
    fn take_again(
        &self,
        claim: Claim<'_>,
        request: &PortRequest,
        freed: &[(String, Vec<PortRequest>)],
    ) -> Result<Vec<PortLease>, PortError> {
        let fixed = matches!(request.host, HostPorts::Exact(_));
        let before = freed
            .iter()
            .find(|(spec, _)| !fixed && *spec == request.spec);
        if let Some((_, before)) = before {
            let wanted: Vec<PortRequest> = before
                .iter()
                .map(|port| PortRequest {
                    spec: request.spec.clone(),
                    addresses: request.addresses.clone(),
                    ..port.clone()
                })
                .collect();
            if let Ok(ports) = self.ports.allocate_as(claim, &wanted) {
                let mut ports: Vec<PortLease> = ports.into_iter().flatten().collect();
                ports.sort_by_key(|lease| lease.address().is_ipv6());
                return Ok(ports);
            }
        }
        let ports = self
            .ports
            .allocate_as(claim, std::slice::from_ref(request))?;
        Ok(ports.into_iter().flatten().collect())
    }

    /// Takes the ports that the container's stored record has, in place of those that it has now.
    pub(super) fn put_ports_back(&mut self, id: &str) {
        let Some(entry) = self.containers.get_mut(id) else {
            return;
        };
        entry.leases.clear();
        let mut warnings = Vec::new();
        let outcome = self.retake_ports(id, &mut warnings);
        warnings.extend(outcome.err().map(|error| error.to_string()));
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// What was got for each request.
fn leased(requests: Vec<PortRequest>, ports: Vec<Vec<PortLease>>) -> Vec<Leases> {
    let got = requests.into_iter().zip(ports);
    got.map(|(request, ports)| Leases {
        spec: request.spec,
        ports,
    })
    .collect()
}

/// A `-p` value means this, however it is spelt.
fn means(text: &str, spec: &PortSpec) -> bool {
    text.parse::<PortSpec>().is_ok_and(|other| other == *spec)
}

/// These are the ports that are wanted.
fn stays(leases: &Leases, request: &PortRequest) -> bool {
    leases.spec == request.spec
        && leases
            .ports
            .iter()
            .all(|lease| request.addresses.contains(&lease.address()))
        && leases.ports.len() == request.container.len() * request.addresses.len()
}

/// One of these leases has a port of the binding's, at the same host address.
fn overlaps(leases: &[PortLease], binding: &PortBinding) -> bool {
    let last = binding.container_port.saturating_add(binding.count - 1);
    let ports = binding.container_port..=last;
    leases.iter().any(|lease| {
        lease.address() == binding.host_address && ports.contains(&lease.container_port())
    })
}

/// The same ports again, if they have been given up; those of one address stand for those of the others.
fn same_ports(leases: &[PortLease]) -> Vec<PortRequest> {
    let address = leases.first().map(PortLease::address);
    let leases = leases
        .iter()
        .filter(|lease| Some(lease.address()) == address);
    leases
        .map(|lease| PortRequest {
            spec: String::new(),
            transport: lease.transport(),
            addresses: vec![lease.address()],
            host: HostPorts::Exact(lease.host_port()..=lease.host_port()),
            container: lease.container_port()..=lease.container_port(),
        })
        .collect()
}

/// Where `-p` values are published that name no host address: the addresses of the networks that the ports of
/// IPv4 and IPv6 lead to. `None`: ports of that family lead nowhere.
#[derive(Clone, Copy, Debug)]
struct HostDefaults {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    has_ipv6: bool,
}

impl HostDefaults {
    /// A `-p` value as a request. `None`: what it names leads nowhere.
    fn request(&self, text: &str, spec: &PortSpec) -> Result<Option<PortRequest>, PortError> {
        let addresses = self.addresses(text, spec.host_address)?;
        Ok((!addresses.is_empty()).then(|| PortRequest {
            spec: text.to_owned(),
            transport: spec.transport,
            addresses,
            host: spec.host.clone(),
            container: spec.container.clone(),
        }))
    }

    /// A port of `-P`.
    fn ephemeral(&self, port: u16, transport: Transport) -> Result<Option<PortRequest>, PortError> {
        let spec = PortSpec {
            transport,
            host_address: None,
            host: HostPorts::Ephemeral,
            container: RangeInclusive::new(port, port),
        };
        self.request(&format!("{port}/{transport}"), &spec)
    }

    /// The host addresses of a `-p` value that names `wanted`.
    fn addresses(&self, text: &str, wanted: Option<IpAddr>) -> Result<Vec<IpAddr>, PortError> {
        let v4 = self.v4.map(|default| wanted.unwrap_or(default));
        let v6 = self.v6.and_then(|default| match wanted {
            // All of IPv4, said by nobody, means all of IPv6, too.
            None if default == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
                self.has_ipv6.then_some(Ipv6Addr::UNSPECIFIED.into())
            }
            _ => Some(wanted.unwrap_or(default)),
        });
        let v6 = v6.filter(IpAddr::is_ipv6);
        match v6 {
            Some(address) if !self.has_ipv6 => Err(PortError::Ipv6 {
                address,
                spec: text.to_owned(),
            }),
            _ => Ok(v4.filter(IpAddr::is_ipv4).into_iter().chain(v6).collect()),
        }
    }
}

/// `count` ports of a binding from `offset` on, as they were.
fn exact(binding: &PortBinding, offset: u16, count: u16) -> PortRequest {
    let range = |first: u16| {
        let first = first.saturating_add(offset);
        first..=first.saturating_add(count.saturating_sub(1))
    };
    PortRequest {
        spec: binding.spec.clone(),
        transport: binding.transport,
        addresses: vec![binding.host_address],
        host: HostPorts::Exact(range(binding.host_port)),
        container: range(binding.container_port),
    }
}

/// The bindings that leases amount to, consecutive ports joined.
pub(super) fn bindings(leases: &[Leases]) -> Vec<PortBinding> {
    let mut bindings: Vec<PortBinding> = Vec::new();
    for Leases { spec, ports } in leases {
        for lease in ports {
            let next = binding(spec, lease);
            if !bindings.last_mut().is_some_and(|last| last.extend(&next)) {
                bindings.push(next);
            }
        }
    }
    bindings
}

fn binding(spec: &str, lease: &PortLease) -> PortBinding {
    PortBinding {
        spec: spec.to_owned(),
        transport: lease.transport(),
        host_address: lease.address(),
        host_port: lease.host_port(),
        container_port: lease.container_port(),
        count: 1,
    }
}

mod renewing;

#[cfg(test)]
mod tests;
