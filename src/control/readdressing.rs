//! Other IPv6 addresses for running containers, when the flags give the default network another prefix.
//!
//! IPv6 prefixes come from the provider and change with it, so that containers that run are given addresses of the new
//! one, by the same rules as before: the requested address if it still fits, else the present one if it does, else one by
//! the network's way of choosing. Whoever cannot have one has no IPv6 address any more, and is named in a warning. IPv4 is
//! not touched. All of it is one commit.
//!
//! The interface is changed after that, by the daemon. What it had before stays in the record until then
//! ([`Endpoint::former_ipv6`]), so that a daemon that is killed in between leaves no old address behind.

use std::net::IpAddr;

use ipnet::IpNet;

use super::endpoints::gateways;
use super::error::ControlError;
use super::network_config::NetworkConfig;
use super::records::{Container, Endpoint, FamilyConfig, FormerIpv6, Network};
use super::state::{NetworkEntry, State};
use super::store::Change;

/// A running container's endpoint that has IPv6 now, has it no more, or has another address or gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readdressed {
    /// Its container, as it is now.
    pub container: Container,
    /// The network, as it is now.
    pub network: Network,
    /// As its interface may still be: with former IPv6 addresses and gateways, the oldest first.
    pub before: Endpoint,
    /// As it is to be.
    pub after: Endpoint,
}

/// The networks differ at most in IPv6.
pub(super) fn only_ipv6_differs(current: &NetworkConfig, wanted: &NetworkConfig) -> bool {
    (&current.bridge, current.mtu) == (&wanted.bridge, wanted.mtu)
        && current.v4().map(shape) == wanted.v4().map(shape)
}

/// What cannot change without the containers' noticing.
pub(super) fn same_shape(current: &NetworkConfig, wanted: &NetworkConfig) -> bool {
    only_ipv6_differs(current, wanted)
        && current.v6().map(shape) == wanted.v6().map(shape)
        && current.link_local == wanted.link_local
}

fn shape(family: &FamilyConfig) -> impl PartialEq + use<> {
    (
        family.subnet,
        family.gateway,
        family.allocation_range,
        family.container_gateway,
    )
}

impl State {
    /// Puts `wanted` in the place of the network with the same id, whose IPv4 part is the same, and gives its containers
    /// IPv6 addresses. Texts are warnings.
    ///
    /// # Errors
    /// If the change cannot be stored; nothing has changed then.
    pub(super) fn readdress(&mut self, wanted: Network) -> Result<Vec<String>, ControlError> {
        let mut entry = NetworkEntry::new(wanted.clone())?;
        let Some(former) = self.networks.remove(&wanted.id) else {
            return Ok(Vec::new());
        };
        // The addresses in use are those of before.
        for pool in &mut entry.pools {
            let same = |other: &&super::ipam::Pool| other.subnet() == pool.subnet();
            if let Some(other) = former.pools.iter().find(same)
                && pool.subnet().addr().is_ipv4()
            {
                pool.clone_from(other);
            }
        }
        self.networks.insert(wanted.id.clone(), entry);
        let switched = former.record.config.has_ipv6() != wanted.config.has_ipv6();
        let (containers, warnings) = self.new_addresses(&wanted, switched);
        let mut changes = vec![Change::PutNetwork(&wanted)];
        changes.extend(containers.iter().map(Change::PutContainer));
        if let Err(error) = self.journal.commit(&changes) {
            self.networks.insert(wanted.id, former);
            return Err(error.into());
        }
        for container in containers {
            if let Some(entry) = self.containers.get_mut(&container.id) {
                entry.record = container;
            }
        }
        Ok(warnings)
    }

    /// The endpoints whose interfaces are still to be given their present IPv6.
    pub fn readdressed(&self) -> Vec<Readdressed> {
        let pending = self
            .endpoints()
            .filter_map(|(container, network, endpoint)| {
                let former = endpoint.former_ipv6.as_ref()?;
                let mut before = endpoint.clone();
                before.addresses.retain(|net| net.addr().is_ipv4());
                before.addresses.extend(&former.addresses);
                before.gateways.retain(IpAddr::is_ipv4);
                before.gateways.extend(&former.gateways);
                Some(Readdressed {
                    container: container.clone(),
                    network: network.clone(),
                    before,
                    after: endpoint.clone(),
                })
            });
        pending.collect()
    }

    /// Notes that an endpoint's interface has its present IPv6 and nothing of what was before.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn set_readdressed(&mut self, container: &str, endpoint: u32) -> Result<(), ControlError> {
        let mut record = self.container(container)?.clone();
        let endpoints = record
            .attachments
            .iter_mut()
            .filter_map(|attachment| attachment.endpoint.as_mut());
        for found in endpoints.filter(|found| found.number == endpoint) {
            found.former_ipv6 = None;
        }
        self.put(record)
    }

    /// The containers on the network whose IPv6 changes, or is switched on or off, with their new addresses, which are
    /// taken; nothing else has changed. And warnings.
    fn new_addresses(
        &mut self,
        network: &Network,
        switched: bool,
    ) -> (Vec<Container>, Vec<String>) {
        let mut users: Vec<Container> = self
            .users(&network.id)
            .map(|(container, _)| container.clone())
            .collect();
        // Nobody gets what somebody else asked for, or has already.
        users.sort_by_key(|container| {
            let attachment = container.attachment(&network.id);
            let endpoint = attachment.and_then(|attachment| attachment.endpoint.as_ref());
            let requested = attachment.and_then(|attachment| attachment.requested_address(false));
            let fits = endpoint.is_some_and(|endpoint| present(network, endpoint).is_some());
            (requested.is_none(), !fits)
        });
        let mut changed = Vec::new();
        let mut warnings = Vec::new();
        for mut container in users {
            let name = container.name.clone();
            let place = container
                .attachments
                .iter_mut()
                .find(|attachment| attachment.network == network.id);
            let Some(attachment) = place else { continue };
            let Some(before) = attachment.endpoint.clone() else {
                continue;
            };
            let requested = attachment.requested_address(false);
            let present = present(network, &before).filter(|_| requested.is_none());
            let kept = present.and_then(|net| {
                let same = Some(net.addr());
                let kept = self.take_ipv6(network, &name, same, before.mac, &[]);
                kept.ok().flatten()
            });
            let address = match kept {
                Some(kept) => Ok(Some(kept)),
                None => self.take_ipv6(network, &name, requested, before.mac, &[]),
            };
            let address = address.unwrap_or_else(|error| {
                warnings.push(format!(
                    "container {name} has no IPv6 address on network {} any more: {error}",
                    network.name
                ));
                None
            });
            let mut after = before.clone();
            after.addresses.retain(|net| net.addr().is_ipv4());
            after.addresses.extend(address);
            after.gateways = gateways(network, attachment);
            if address.is_none() {
                after.gateways.retain(|gateway| gateway.is_ipv4());
            }
            if switched || after != before {
                after.former_ipv6 = Some(former_ipv6(before));
                attachment.endpoint = Some(after);
                changed.push(container);
            }
        }
        (changed, warnings)
    }
}

/// What an interface has of IPv6, or may still have.
fn former_ipv6(endpoint: Endpoint) -> FormerIpv6 {
    let mut former = endpoint.former_ipv6.unwrap_or_default();
    let addresses = endpoint.addresses.into_iter();
    former
        .addresses
        .extend(addresses.filter(|net| net.addr().is_ipv6()));
    let gateways = endpoint.gateways.into_iter();
    former.gateways.extend(gateways.filter(IpAddr::is_ipv6));
    former
}

/// The endpoint's IPv6 address, if it is one of the network's.
fn present(network: &Network, endpoint: &Endpoint) -> Option<IpNet> {
    let family = network.config.v6()?;
    let range = family.allocation_range.unwrap_or(family.subnet);
    endpoint
        .address(false)
        .filter(|net| range.contains(&net.addr()) && Some(net.addr()) != family.gateway)
}

#[cfg(test)]
mod tests;
