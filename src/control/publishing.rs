//! Published ports of containers: from `-p` values to requests, from leases to bindings, and changes
//! while the container runs.

use std::net::IpAddr;

use super::error::ControlError;
use super::port_allocator::{PortLease, PortRequest};
use super::portspec::{HostPorts, PortSpec};
use super::records::{Container, ContainerState, Network, PortBinding};
use super::state::{Leases, State};
use super::transport::Transport;

impl State {
    /// Publishes one more `-p` value on a container that has a network. Gives the new record and what
    /// has been added to its bindings.
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
        let Some(endpoint) = record.endpoint() else {
            return Err(ControlError::NotRunning { name: record.name });
        };
        let host_address = self.network_of(&record)?.config.host_address;
        let request = request(spec, &parsed, host_address);
        let ports = self
            .ports
            .allocate(&[request])
            .map_err(|source| ControlError::Ports {
                name: record.name.clone(),
                endpoint: endpoint.id.clone(),
                source,
            })?;
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
        let same = |text: &str| text.parse::<PortSpec>().is_ok_and(|other| other == parsed);
        let (gone, kept): (Vec<_>, Vec<_>) = record
            .bindings
            .drain(..)
            .partition(|binding| same(&binding.spec));
        if gone.is_empty() {
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
        let mut all = Vec::new();
        for binding in &record.bindings {
            let mut leases = Leases {
                spec: binding.spec.clone(),
                ports: Vec::new(),
            };
            match self.ports.allocate(&[exact(binding, 0, binding.count)]) {
                Ok(ports) => leases.ports.extend(ports.into_iter().flatten()),
                // Something in it is gone: keep the rest.
                Err(_) => self.retake_one_by_one(&record.name, binding, &mut leases, warnings),
            }
            all.push(leases);
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
        name: &str,
        binding: &PortBinding,
        leases: &mut Leases,
        warnings: &mut Vec<String>,
    ) {
        let mut lost = 0_u32;
        let mut first = None;
        for offset in 0..binding.count {
            match self.ports.allocate(&[exact(binding, offset, 1)]) {
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
                "container {name}: no longer published: {error}{more}"
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

    fn network_of(&self, container: &Container) -> Result<&Network, ControlError> {
        let attachment = container.attachments.first();
        self.network(attachment.map_or("", |attachment| attachment.network.as_str()))
    }
}

/// A `-p` value as a request; `default` is the host address if it names none.
pub(super) fn request(text: &str, spec: &PortSpec, default: IpAddr) -> PortRequest {
    PortRequest {
        spec: text.to_owned(),
        transport: spec.transport,
        address: spec.host_address.unwrap_or(default),
        host: spec.host.clone(),
        container: spec.container.clone(),
    }
}

/// A port of `-P`.
pub(super) fn ephemeral(port: u16, transport: Transport, address: IpAddr) -> PortRequest {
    PortRequest {
        spec: format!("{port}/{transport}"),
        transport,
        address,
        host: HostPorts::Ephemeral,
        container: port..=port,
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
        address: binding.host_address,
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
