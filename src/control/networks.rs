//! Making and removing networks: those of users, and the three that are always there.
//!
//! `bridge` is what the daemon's flags say. `host` and `none` are only names that Docker's clients expect
//! in lists; they have no bridge, no addresses and no containers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::address_pool::overlap;
use super::daemon_options::HostFacts;
use super::error::ControlError;
use super::mac::MacAddress;
use super::names;
use super::network_config::NetworkConfig;
use super::network_options::{self, Context};
use super::readdressing;
use super::records::{BRIDGE_DRIVER, Container, Endpoint, Network};
use super::requests::{HOST, NONE};
use super::state::{DEFAULT_NETWORK, NetworkEntry, State};
use super::store::Change;
use super::timestamp::Timestamp;
use crate::api::types::{CreateNetwork, DOCKER_NETWORK};

impl State {
    /// Makes a network: number, name, subnet, bridge name, all stored. The caller then makes the
    /// bridge, and calls [`State::remove_network`] if it cannot. Also gives warnings, one sentence each.
    /// `host` is about the bridge of [`network_options::wanted_bridge`].
    ///
    /// # Errors
    /// For the first thing that is wrong with the request or cannot be had; nothing is left then.
    pub fn create_network(
        &mut self,
        request: &CreateNetwork,
        host: &HostFacts,
        now: Timestamp,
    ) -> Result<(Network, Vec<String>), ControlError> {
        let mut request = request.clone();
        let pools = self.pools_of_request(&mut request);
        let neighbours = self.neighbours(&pools);
        let id = names::new_id().map_err(ControlError::Random)?;
        let checked = network_options::check(
            &request,
            &Context {
                id: &id,
                host,
                pools: &self.settings.pools,
                networks: &neighbours,
                default_options: &self.settings.default_network_options,
            },
        )?;
        let mut counters = self.counters;
        counters.network += 1;
        let network = Network {
            id,
            number: counters.network,
            name: request.name.clone(),
            created: now,
            driver: BRIDGE_DRIVER.to_owned(),
            labels: request.labels.clone(),
            options: checked.options,
            attachable: request.attachable,
            config: checked.config,
            bridge_mac: MacAddress::random().map_err(ControlError::Random)?,
        };
        let entry = NetworkEntry::new(network.clone())?;
        let pools = self.given_to(&pools, &network);
        let mut changes = vec![Change::PutNetwork(&network), Change::PutCounters(counters)];
        changes.extend(pools.iter().map(Change::PutPool));
        self.journal.commit(&changes)?;
        self.counters = counters;
        self.networks.insert(network.id.clone(), entry);
        self.put_pools(pools);
        Ok((network, checked.warnings))
    }

    /// The network that [`State::remove_network`] would remove; the caller removes its bridge first.
    ///
    /// # Errors
    /// If there is no such network, it is predefined, a container has an endpoint on it, or, unless by `force`, if it is
    /// another program's, too.
    pub fn removable_network(&self, query: &str, force: bool) -> Result<&Network, ControlError> {
        let network = self.network(query)?;
        if network_options::is_predefined(&network.name) {
            return Err(ControlError::Predefined(network.name.clone()));
        }
        let users: Vec<String> = self
            .users(&network.id)
            .map(|(container, endpoint)| {
                let id = names::short_id(&endpoint.id);
                format!("name:\"{}\" id:\"{id}\"", container.name)
            })
            .collect();
        if !users.is_empty() {
            return Err(ControlError::ActiveEndpoints {
                network: network.name.clone(),
                users: users.join(", "),
            });
        }
        if !force && self.is_shared(network) {
            return Err(ControlError::SharedNetwork(network.name.clone()));
        }
        Ok(network)
    }

    /// Forgets a network and gives its last record. Containers that have exited may still name it; they
    /// cannot be started then.
    ///
    /// # Errors
    /// As [`State::removable_network`] by force, or if the change cannot be stored.
    pub fn remove_network(&mut self, query: &str) -> Result<Network, ControlError> {
        let network = self.removable_network(query, true)?.clone();
        let pools = self.pools_of_network(&network.id);
        let mut changes = vec![Change::DeleteNetwork(&network.id)];
        changes.extend(pools.iter().map(|id| Change::DeletePool(id)));
        self.journal.commit(&changes)?;
        self.networks.remove(&network.id);
        for pool in &pools {
            self.leased_pools.remove(pool);
        }
        Ok(network)
    }

    /// dockerd has a network of its own of it, or leases its addresses: its containers have endpoints only while they run.
    fn is_shared(&self, network: &Network) -> bool {
        let mut labels = network.labels.keys();
        labels.any(|label| label.starts_with(DOCKER_NETWORK))
            || !self.pools_of_network(&network.id).is_empty()
    }

    /// The networks that users made, no container has an endpoint on and no other program needs: what `network prune`
    /// removes.
    pub fn unused_networks(&self) -> impl Iterator<Item = &Network> {
        let used = self.networks_in_use();
        self.bridge_networks()
            .filter(move |network| network.name != DEFAULT_NETWORK && !used.contains(&network.id))
            .filter(move |network| !self.is_shared(network))
    }

    /// Ids of the networks that some container has an endpoint on.
    pub fn networks_in_use(&self) -> BTreeSet<String> {
        let networks = self.endpoints().map(|(_, network, _)| network.id.clone());
        networks.collect()
    }

    /// The containers that have an endpoint on the network with this id.
    pub fn users<'a>(
        &'a self,
        network: &'a str,
    ) -> impl Iterator<Item = (&'a Container, &'a Endpoint)> {
        self.containers().filter_map(move |container| {
            let endpoint = container.attachment(network)?.endpoint.as_ref()?;
            Some((container, endpoint))
        })
    }

    /// Makes the default network what the flags say, or removes it (`None`, `--bridge none`). Its id and
    /// the bridge's MAC are kept while the bridge and its subnet are the same. While containers are on
    /// it, IPv4 subnet and MTU stay as they are, and a warning says so; when its IPv6 changes, they get new addresses
    /// ([`State::readdressed`]). Also makes the records of `host` and `none`, if they are missing. Texts are warnings.
    ///
    /// # Errors
    /// If the change cannot be stored.
    pub fn set_default_network(
        &mut self,
        config: Option<&NetworkConfig>,
        now: Timestamp,
    ) -> Result<Vec<String>, ControlError> {
        self.make_predefined(now)?;
        let current = self.default_network().cloned();
        let busy = current
            .as_ref()
            .is_some_and(|network| self.users(&network.id).next().is_some());
        let mut warnings = Vec::new();
        let wanted = match (current.as_ref(), config) {
            (None, None) => return Ok(warnings),
            (None, Some(config)) => self.new_default_network(config, now)?,
            (Some(current), Some(config))
                if busy
                    && !readdressing::same_shape(&current.config, config)
                    && readdressing::only_ipv6_differs(&current.config, config) =>
            {
                let wanted = Network {
                    config: config.clone(),
                    ..current.clone()
                };
                self.refuse_overlap(&wanted)?;
                return self.readdress(wanted);
            }
            (Some(_), _) if busy && !same_shape(current.as_ref(), config) => {
                warnings.push(
                    "there are running containers, updated network configuration will not take effect; stop them and restart the daemon"
                        .to_owned(),
                );
                return Ok(warnings);
            }
            (Some(current), None) => {
                self.journal.commit(&[Change::DeleteNetwork(&current.id)])?;
                self.networks.remove(&current.id);
                return Ok(warnings);
            }
            (Some(current), Some(config)) if same_shape(Some(current), Some(config)) => Network {
                config: config.clone(),
                ..current.clone()
            },
            (Some(_), Some(config)) => self.new_default_network(config, now)?,
        };
        if current.as_ref() == Some(&wanted) {
            return Ok(warnings);
        }
        self.refuse_overlap(&wanted)?;
        let mut changes = vec![
            Change::PutNetwork(&wanted),
            Change::PutCounters(self.counters),
        ];
        let replaced = current.filter(|current| current.id != wanted.id);
        changes.extend(
            replaced
                .as_ref()
                .map(|network| Change::DeleteNetwork(&network.id)),
        );
        let entry_of_wanted = NetworkEntry::new(wanted.clone())?;
        self.journal.commit(&changes)?;
        if let Some(replaced) = replaced {
            self.networks.remove(&replaced.id);
        }
        match self.networks.get_mut(&wanted.id) {
            Some(entry) => entry.record = wanted,
            None => {
                self.networks.insert(wanted.id, entry_of_wanted);
            }
        }
        Ok(warnings)
    }

    /// Records the MAC that the bridge really has, if the kernel was left to choose it or the bridge is
    /// the user's.
    ///
    /// # Errors
    /// If there is no such network, or the change cannot be stored.
    pub fn set_bridge_mac(&mut self, network: &str, mac: MacAddress) -> Result<(), ControlError> {
        let record = Network {
            bridge_mac: mac,
            ..self.network(network)?.clone()
        };
        self.journal.commit(&[Change::PutNetwork(&record)])?;
        if let Some(entry) = self.networks.get_mut(&record.id) {
            entry.record = record;
        }
        Ok(())
    }

    /// Records that a network's bridge is ours to make and to remove from now on.
    ///
    /// # Errors
    /// If there is no such network, or the change cannot be stored.
    pub fn own_bridge(&mut self, network: &str) -> Result<(), ControlError> {
        let mut record = self.network(network)?.clone();
        record.config.managed = true;
        self.journal.commit(&[Change::PutNetwork(&record)])?;
        if let Some(entry) = self.networks.get_mut(&record.id) {
            entry.record = record;
        }
        Ok(())
    }

    /// The flags may have changed since the other networks were made.
    fn refuse_overlap(&self, wanted: &Network) -> Result<(), ControlError> {
        let others = self
            .bridge_networks()
            .filter(|other| other.name != wanted.name);
        for other in others {
            let theirs = other.subnets();
            let clash = |own: &IpNet| theirs.iter().any(|their| overlap(own, their));
            if let Some(subnet) = wanted.subnets().into_iter().find(clash) {
                let ipv4 = subnet.addr().is_ipv4();
                return Err(ControlError::DefaultOverlaps {
                    version: if ipv4 { 4 } else { 6 },
                    flag: if ipv4 { "--bip" } else { "--bip6" },
                    bridge: wanted.config.bridge.clone(),
                    network: other.name.clone(),
                    id: other.id.clone(),
                });
            }
        }
        Ok(())
    }

    fn new_default_network(
        &mut self,
        config: &NetworkConfig,
        now: Timestamp,
    ) -> Result<Network, ControlError> {
        self.counters.network += 1;
        let number = self.counters.network;
        new_predefined(DEFAULT_NETWORK, BRIDGE_DRIVER, number, config.clone(), now)
    }

    fn make_predefined(&mut self, now: Timestamp) -> Result<(), ControlError> {
        for (name, driver) in [(HOST, "host"), (NONE, "null")] {
            if self.networks().any(|network| network.driver == driver) {
                continue;
            }
            let network = new_predefined(name, driver, 0, NetworkConfig::none(), now)?;
            let entry = NetworkEntry::new(network)?;
            self.journal.commit(&[Change::PutNetwork(&entry.record)])?;
            self.networks.insert(entry.record.id.clone(), entry);
        }
        Ok(())
    }
}

fn new_predefined(
    name: &str,
    driver: &str,
    number: u32,
    config: NetworkConfig,
    now: Timestamp,
) -> Result<Network, ControlError> {
    Ok(Network {
        id: names::new_id().map_err(ControlError::Random)?,
        number,
        name: name.to_owned(),
        created: now,
        driver: driver.to_owned(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        attachable: false,
        config,
        bridge_mac: MacAddress::random().map_err(ControlError::Random)?,
    })
}

/// What cannot change under running containers.
fn same_shape(current: Option<&Network>, config: Option<&NetworkConfig>) -> bool {
    match (current, config) {
        (Some(current), Some(config)) => readdressing::same_shape(&current.config, config),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
