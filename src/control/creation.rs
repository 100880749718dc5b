//! Making a container, and making one that has exited ready to be started again: everything is checked before
//! anything is allocated, and everything is allocated before anything is stored.

use super::error::ControlError;
use super::files::DnsSettings;
use super::linking;
use super::names;
use super::records::{Container, ContainerState, Counters, FormerExit, Kind, Network};
use super::state::{ContainerEntry, Leases, State};
use super::store::Change;
use super::timestamp::Timestamp;
use crate::api::types::CreateContainer;

/// A container that is to be started, with all that must now be made for it.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its record: namespace, files, endpoints, bindings.
    pub container: Container,
    /// The networks of its attachments, in their order.
    pub networks: Vec<Network>,
    /// What its links add to its environment, before its own variables.
    pub env: Vec<String>,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

impl State {
    /// Makes a container: name, id, addresses, MACs, ports, all stored. The caller then makes namespace,
    /// interfaces and files, and calls [`State::remove`] with `force` if it cannot.
    ///
    /// # Errors
    /// For the first thing that is wrong with the request or cannot be had; nothing is left then.
    pub fn create_container(
        &mut self,
        request: &CreateContainer,
        now: Timestamp,
    ) -> Result<Creation, ControlError> {
        let mut record = self.new_record(request, now)?;
        let mut counters = self.counters;
        self.make_endpoints(&mut record, &mut counters)?;
        match self.lease_and_store(&mut record, counters) {
            Ok(leases) => {
                let entry = ContainerEntry {
                    record: record.clone(),
                    leases,
                };
                self.containers.insert(record.id.clone(), entry);
            }
            Err(error) => {
                self.release_addresses(&record);
                return Err(error);
            }
        }
        let mut warnings = warnings(&record);
        warnings.extend(self.unpublished_warnings(&record));
        Ok(self.creation(record, warnings))
    }

    /// Makes what a container that has exited needs to be started again: addresses, ports, links. It is
    /// *created* then; the caller goes on as with a new one, and calls [`State::cancel_restart`] if it
    /// cannot.
    ///
    /// # Errors
    /// If there is no such container, it has not exited or was not started by us, or something cannot be
    /// had; nothing has changed then.
    pub fn restart(&mut self, query: &str) -> Result<Creation, ControlError> {
        let mut record = self.container(query)?.clone();
        let name = || record.name.clone();
        let former = match record.state {
            ContainerState::Created | ContainerState::Running { .. } => {
                return Err(ControlError::AlreadyStarted { name: name() });
            }
            ContainerState::Exited {
                code,
                started,
                finished,
            } => FormerExit {
                code,
                started,
                finished,
            },
        };
        if record.kind != Kind::Run {
            return Err(ControlError::NotOurs { name: name() });
        }
        record.state = ContainerState::Created;
        record.former_exit = Some(former);
        record.sandbox_id = names::new_id().map_err(ControlError::Random)?;
        self.find_networks_again(&mut record)?;
        for link in linking::legacy_links(&record) {
            let target = self
                .container_by_id(&link.target)
                .ok_or_else(|| ControlError::LinkTarget(link.target.clone()))?;
            self.check_link_target(&record.name, link, target)?;
        }
        let mut counters = self.counters;
        self.make_endpoints(&mut record, &mut counters)?;
        match self.lease_and_store(&mut record, counters) {
            Ok(leases) => {
                if let Some(entry) = self.containers.get_mut(&record.id) {
                    entry.record = record.clone();
                    entry.leases = leases;
                }
            }
            Err(error) => {
                self.release_addresses(&record);
                return Err(error);
            }
        }
        let warnings = self.unpublished_warnings(&record);
        Ok(self.creation(record, warnings))
    }

    /// Makes a container that was to be started again *exited* as it was before, and releases what it has.
    /// Gives the record as it was while it was *created*; `None` if there is nothing to take back.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn cancel_restart(&mut self, query: &str) -> Result<Option<Container>, ControlError> {
        let before = self.container(query)?.clone();
        let (ContainerState::Created, Some(former)) = (&before.state, before.former_exit) else {
            return Ok(None);
        };
        let FormerExit {
            code,
            started,
            finished,
        } = former;
        let state = ContainerState::Exited {
            code,
            started,
            finished,
        };
        self.put(ended(&before, state))?;
        self.release(&before);
        Ok(Some(before))
    }

    /// A network that was removed and made again under its name is the same for a container that was not
    /// there in the meantime.
    fn find_networks_again(&self, record: &mut Container) -> Result<(), ControlError> {
        for attachment in &mut record.attachments {
            if self.network_by_id(&attachment.network).is_none() {
                let mut networks = self.bridge_networks();
                let again = networks
                    .find(|network| network.name == attachment.network_name)
                    .ok_or_else(|| ControlError::NoSuchNetwork(attachment.network_name.clone()))?;
                attachment.network.clone_from(&again.id);
            }
        }
        Ok(())
    }

    /// Takes the ports of a record that has endpoints, and stores it.
    fn lease_and_store(
        &mut self,
        record: &mut Container,
        counters: Counters,
    ) -> Result<Vec<Leases>, ControlError> {
        let leases = self.lease_ports(record)?;
        record.bindings = super::publishing::bindings(&leases);
        self.journal
            .commit(&[Change::PutContainer(record), Change::PutCounters(counters)])?;
        self.counters = counters;
        Ok(leases)
    }

    fn creation(&self, container: Container, warnings: Vec<String>) -> Creation {
        let networks = container.attachments.iter();
        Creation {
            networks: networks
                .filter_map(|attachment| self.network_by_id(&attachment.network).cloned())
                .collect(),
            env: self.link_environment(&container),
            container,
            warnings,
        }
    }

    /// Docker ignores `-p` in silence where there is nothing to publish on.
    pub(super) fn unpublished_warnings(&self, record: &Container) -> Vec<String> {
        let wanted = !record.publish.is_empty() || record.publish_all;
        let internal = !record.attachments.is_empty()
            && record
                .endpoints()
                .all(|(_, endpoint)| endpoint.gateways.is_empty());
        let none = record.attachments.is_empty();
        if wanted && (internal || none) {
            return vec![
                "no port is published: the container is on internal networks only, or on none; connect it to another network"
                    .to_owned(),
            ];
        }
        let specs = self.without_target(record).into_iter();
        specs
            .map(|spec| {
                format!(
                    "-p {spec} is not published: the container has no IPv4 address, and IPv4 host ports do not lead to IPv6; give no host address, or an IPv6 one"
                )
            })
            .collect()
    }
}

/// A record as it is once the container has ended.
pub(super) fn ended(before: &Container, state: ContainerState) -> Container {
    let mut after = before.clone();
    after.state = state;
    after.former_exit = None;
    after.bindings.clear();
    for attachment in &mut after.attachments {
        attachment.endpoint = None;
    }
    after
}

fn warnings(container: &Container) -> Vec<String> {
    let mut warnings = Vec::new();
    let files = !container.extra_hosts.is_empty() || container.dns != DnsSettings::default();
    if container.kind != Kind::Run && files {
        warnings.push(
            "--add-host and --dns… have no effect on the files of a process that was attached; copy them from the container's directory"
                .to_owned(),
        );
    }
    if let Some(nobody) = container
        .dns
        .servers
        .iter()
        .find(|server| server.is_loopback())
    {
        // Docker's words.
        warnings.push(format!(
            "Localhost DNS setting (--dns={nobody}) may fail in containers: give an address that the container can reach"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
