//! Connecting containers to networks and disconnecting them, running or not.

use std::net::IpAddr;

use super::error::ControlError;
use super::records::{Container, Counters, Endpoint, Network};
use super::requests::{HOST, NONE};
use super::state::State;
use super::store::Change;
use crate::api::types::EndpointSettings;

/// What [`State::connect`] decided.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The container's new record.
    pub container: Container,
    /// The network.
    pub network: Network,
    /// The interface to make; `None`: the container is not running, it will have one when it starts.
    pub endpoint: Option<Endpoint>,
    /// The default route goes another way now (see [`State::gateway_endpoint`]), and published ports
    /// have moved with it.
    pub changed_gateway: bool,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

/// What [`State::disconnect`] decided.
#[derive(Clone, Debug)]
pub struct Disconnection {
    /// The container's record as it was.
    pub before: Container,
    /// And as it is.
    pub after: Container,
    /// The network; `None`: it was gone already.
    pub network: Option<Network>,
    /// The interface to take down; `None`: the container was not running.
    pub endpoint: Option<Endpoint>,
    /// The default route goes another way now, or there is none any more.
    pub changed_gateway: bool,
    /// For the user, one sentence each: ports that could not be moved to another network.
    pub warnings: Vec<String>,
}

impl State {
    /// Puts a container on one more network. One that has not exited gets address, MAC and interface name
    /// there; the caller then makes the interface, and calls [`State::disconnect`] if it cannot. One
    /// that has exited only notes it; what it was to have there before is replaced.
    ///
    /// # Errors
    /// For the first thing that is wrong or cannot be had; nothing has changed then.
    pub fn connect(
        &mut self,
        container: &str,
        network: &str,
        settings: &EndpointSettings,
    ) -> Result<Connection, ControlError> {
        let before = self.container(container)?;
        let network = self.network(network)?.clone();
        refuse_predefined(&network)?;
        if before.network_mode == NONE && before.attachments.is_empty() {
            return Err(ControlError::PrivateMode);
        }
        let wanted = self.wanted_attachment(&before.name, &network, settings, &[])?;
        let mut record = before.clone();
        let exited = record.has_exited();
        let place = record
            .attachments
            .iter()
            .position(|attachment| attachment.network_name == network.name);
        match place.and_then(|index| record.attachments.get_mut(index)) {
            Some(attachment) if exited => *attachment = wanted,
            Some(_) => {
                return Err(ControlError::AlreadyConnected {
                    container: record.name,
                    network: network.name,
                });
            }
            None => record.attachments.push(wanted),
        }
        if exited {
            self.put(record.clone())?;
            return Ok(Connection {
                container: record,
                network,
                endpoint: None,
                changed_gateway: false,
                warnings: Vec::new(),
            });
        }
        let former = self.gateways_of(&record);
        let mut counters = self.counters;
        let index = record.attachments.len().saturating_sub(1);
        self.make_endpoint(&mut record, index, &[], &mut counters)?;
        let endpoint = record
            .attachments
            .get(index)
            .and_then(|attachment| attachment.endpoint.clone());
        let changed_gateway = self.gateways_of(&record) != former;
        let outcome = self.move_and_store(&mut record, changed_gateway, None, counters);
        if let Err(error) = outcome {
            if let Some(endpoint) = &endpoint {
                self.release_endpoint(&network.id, endpoint);
            }
            return Err(error);
        }
        Ok(Connection {
            container: record,
            network,
            endpoint,
            changed_gateway,
            warnings: Vec::new(),
        })
    }

    /// The interface that [`State::disconnect`] would take from the container, for the caller to take down
    /// first: whoever dies in between leaves a record from which it is made again.
    ///
    /// # Errors
    /// As [`State::disconnect`].
    pub fn disconnectable(
        &self,
        container: &str,
        network: &str,
        force: bool,
    ) -> Result<Option<Endpoint>, ControlError> {
        let (before, index, _) = self.place(container, network, force)?;
        let attachment = before.attachments.get(index);
        Ok(attachment.and_then(|attachment| attachment.endpoint.clone()))
    }

    /// Takes a container off a network. With `force` a network that is gone may be named, too.
    ///
    /// # Errors
    /// If it is not on that network, or the change cannot be stored; nothing has changed then.
    pub fn disconnect(
        &mut self,
        container: &str,
        network: &str,
        force: bool,
    ) -> Result<Disconnection, ControlError> {
        let (before, index, found) = self.place(container, network, force)?;
        let mut after = before.clone();
        let former = self.gateways_of(&before);
        let gone = after.attachments.remove(index);
        let changed_gateway = self.gateways_of(&after) != former;
        let mut warnings = Vec::new();
        let counters = self.counters;
        self.move_and_store(&mut after, changed_gateway, Some(&mut warnings), counters)?;
        if let Some(endpoint) = &gone.endpoint {
            self.release_endpoint(&gone.network, endpoint);
        }
        Ok(Disconnection {
            before,
            after,
            network: found,
            endpoint: gone.endpoint,
            changed_gateway,
            warnings,
        })
    }

    /// A container, which of its attachments is meant, and the network if it is still there.
    fn place(
        &self,
        container: &str,
        network: &str,
        force: bool,
    ) -> Result<(Container, usize, Option<Network>), ControlError> {
        let record = self.container(container)?.clone();
        let found = self.network(network).cloned().ok();
        let unknown = || ControlError::NoSuchNetwork(network.escape_debug().to_string());
        let name = match &found {
            Some(network) if network.name == HOST => return Err(ControlError::HostNetwork),
            Some(network) => network.name.as_str(),
            None if force || record.has_exited() => network,
            None => return Err(unknown()),
        };
        let index = record
            .attachments
            .iter()
            .position(|attachment| attachment.network_name == name || attachment.network == name);
        match (index, found) {
            (Some(index), found) => Ok((record, index, found)),
            (None, None) => Err(unknown()),
            // Only the second of the two is a sentence of Docker's about a container that runs.
            (None, Some(network)) => Err(ControlError::NotConnected {
                network: match record.has_exited() {
                    true => format!("the network {}", network.name),
                    false => format!("network {}", network.name),
                },
                container: record.id,
            }),
        }
    }

    /// Notes that an interface has another name than was decided, because the namespace of somebody else's
    /// process had that one already.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn set_interface(
        &mut self,
        container: &str,
        endpoint: u32,
        interface: &str,
    ) -> Result<Container, ControlError> {
        let mut record = self.container(container)?.clone();
        let endpoints = record
            .attachments
            .iter_mut()
            .filter_map(|a| a.endpoint.as_mut());
        for found in endpoints.filter(|found| found.number == endpoint) {
            interface.clone_into(&mut found.interface);
        }
        self.put(record.clone())?;
        Ok(record)
    }

    /// Takes back the IPv6 addresses of endpoints in a namespace whose owner has switched IPv6 off.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn withhold_ipv6(
        &mut self,
        container: &str,
        endpoints: &[u32],
    ) -> Result<Container, ControlError> {
        let mut record = self.container(container)?.clone();
        let mut withheld = Vec::new();
        for attachment in &mut record.attachments {
            let network = &attachment.network;
            let chosen = |endpoint: &&mut Endpoint| endpoints.contains(&endpoint.number);
            if let Some(endpoint) = attachment.endpoint.as_mut().filter(chosen) {
                withheld.extend(
                    endpoint
                        .address(false)
                        .map(|net| (network.clone(), net.addr())),
                );
                endpoint.addresses.retain(|net| net.addr().is_ipv4());
                endpoint.gateways.retain(IpAddr::is_ipv4);
            }
        }
        self.put(record.clone())?;
        for (network, address) in withheld {
            if let Some(entry) = self.networks.get_mut(&network) {
                entry.release(address);
            }
        }
        Ok(record)
    }

    /// Moves the ports of a container whose default route goes another way, and stores its record.
    pub(super) fn move_and_store(
        &mut self,
        record: &mut Container,
        changed_gateway: bool,
        forgiving: Option<&mut Vec<String>>,
        counters: Counters,
    ) -> Result<(), ControlError> {
        if changed_gateway {
            self.move_ports(record, forgiving)?;
        }
        let changes = [Change::PutContainer(record), Change::PutCounters(counters)];
        if let Err(error) = self.journal.commit(&changes) {
            if changed_gateway {
                self.put_ports_back(&record.id);
            }
            return Err(error.into());
        }
        self.counters = counters;
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.record = record.clone();
        }
        Ok(())
    }

    /// Ids of the endpoints that make the default routes of IPv4 and IPv6.
    pub(super) fn gateways_of(&self, record: &Container) -> [Option<String>; 2] {
        [true, false].map(|ipv4| {
            let (_, _, endpoint) = self.gateway_endpoint(record, ipv4)?;
            Some(endpoint.id.clone())
        })
    }
}

/// Nobody is put on `host` or `none` later.
pub(super) fn refuse_predefined(network: &Network) -> Result<(), ControlError> {
    if network.is_bridge() {
        Ok(())
    } else if network.name == HOST {
        Err(ControlError::HostNetwork)
    } else {
        Err(ControlError::PrivateMode)
    }
}

#[cfg(test)]
mod tests;
