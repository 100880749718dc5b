//! What changes of other runtimes' containers and networks while they live: names that are told late, labels.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::error::ControlError;
use super::names;
use super::records::{Container, Network};
use super::requests::{distinct, invalid, is_dns_name};
use super::resolution::dns_names;
use super::state::{DEFAULT_NETWORK, State};
use super::store::Change;
use crate::api::types::{NameEndpoint, NamedEndpoint};

impl State {
    /// Gives a runtime's container the name by which others shall find it; `None`: it has it already. If another
    /// container is called so, it is an alias, and the name gets a part of the id.
    ///
    /// # Errors
    /// If there is no such container, its name is that of a namespace, or the change cannot be stored.
    pub fn name_endpoint(
        &mut self,
        request: &NameEndpoint,
    ) -> Result<Option<Container>, ControlError> {
        let known = self.runtime_container(request.runtime, &request.container);
        let before = known
            .cloned()
            .ok_or_else(|| ControlError::NoSuchEndpoint(request.container.clone()))?;
        if !before.is_delegated() {
            return Err(invalid(
                "container",
                &request.container,
                "its namespace bears its name: give the name when it is attached",
            ));
        }
        let mut record = before.clone();
        let wanted = names::fit_name(&request.name);
        let others = self.containers().filter(|other| other.id != record.id);
        let taken = { others }.any(|other| other.name == wanted);
        record.name = match taken {
            true => format!("{wanted}-{}", names::short_id(&record.id)),
            false => wanted,
        };
        let aliases = request.aliases.iter().chain([&request.name]);
        let aliases: Vec<String> = aliases
            .filter(|alias| **alias != record.name && is_dns_name(alias))
            .cloned()
            .collect();
        for attachment in &mut record.attachments {
            // As in Docker, there are none on the default network.
            if attachment.network_name != DEFAULT_NETWORK {
                attachment.aliases = distinct(&aliases);
            }
        }
        if before == record {
            return Ok(None);
        }
        self.put(record.clone())?;
        Ok(Some(record))
    }

    /// What containers are called on a network, and by which door they came.
    ///
    /// # Errors
    /// If there is no such network.
    pub fn network_names(&self, query: &str) -> Result<Vec<NamedEndpoint>, ControlError> {
        let network = self.network(query)?;
        let named = self.containers().filter_map(|container| {
            let attachment = container.attachment(&network.id)?;
            let endpoint = attachment.endpoint.as_ref()?;
            let known = container.runtime.as_ref();
            let names: BTreeSet<String> = dns_names(container, attachment).into_iter().collect();
            Some(NamedEndpoint {
                container: container.id.clone(),
                runtime: known.map(|known| (known.runtime, known.id.clone())),
                names: names.into_iter().collect(),
                driver_opts: attachment.driver_opts.clone(),
                addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
            })
        });
        Ok(named.collect())
    }

    /// Gives labels to a network, or takes them away (`None`).
    ///
    /// # Errors
    /// If there is no such network, a label has no name, or the change cannot be stored.
    pub fn change_labels(
        &mut self,
        query: &str,
        labels: &BTreeMap<String, Option<String>>,
    ) -> Result<(), ControlError> {
        let mut record: Network = self.network(query)?.clone();
        for (label, value) in labels {
            if label.is_empty() {
                return Err(invalid(
                    "label",
                    label,
                    "a label has a name: give NAME=VALUE",
                ));
            }
            match value {
                Some(value) => record.labels.insert(label.clone(), value.clone()),
                None => record.labels.remove(label),
            };
        }
        self.journal.commit(&[Change::PutNetwork(&record)])?;
        if let Some(entry) = self.networks.get_mut(&record.id) {
            entry.record = record;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
