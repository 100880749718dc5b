//! `--link`: one container knows another by an alias.
//!
//! On the default network the target is a running container, found once and remembered by its id: its address is a
//! line in the linking container's hosts file, what it exposes becomes variables there, and with `icc` off a
//! hole in the wall between them. Elsewhere a link is a name that only one container's resolver knows, looked up at
//! every query.

use super::error::ControlError;
use super::links;
use super::projections::exposed_ports;
use super::records::{Attachment, Container, Endpoint, Link};
use super::state::{DEFAULT_NETWORK, State};
use super::store::Change;

impl State {
    /// A link of the container `name` on the default network, its target found.
    pub(super) fn legacy_link(&self, name: &str, link: Link) -> Result<Link, ControlError> {
        let target = self
            .container(&link.target)
            .map_err(|_| ControlError::LinkTarget(link.target.escape_debug().to_string()))?;
        let link = Link {
            target: target.id.clone(),
            alias: link.alias,
        };
        self.check_link_target(name, &link, target)?;
        Ok(link)
    }

    /// The target must run and have an address on the default network.
    pub(super) fn check_link_target(
        &self,
        name: &str,
        link: &Link,
        target: &Container,
    ) -> Result<(), ControlError> {
        if !target.is_running() {
            return Err(ControlError::LinkNotRunning {
                target: target.name.clone(),
                alias: format!("/{name}/{}", link.alias),
            });
        }
        let mut endpoints = target.endpoints();
        if endpoints.any(|(attachment, _)| is_default(attachment)) {
            Ok(())
        } else {
            Err(ControlError::LinkElsewhere(target.name.clone()))
        }
    }

    /// The links of a container on the default network whose targets have an address there now.
    pub(super) fn live_links<'a>(
        &'a self,
        container: &'a Container,
    ) -> impl Iterator<Item = (&'a Link, &'a Container, &'a Endpoint)> {
        legacy_links(container).filter_map(|link| {
            let target = self.container_by_id(&link.target)?;
            let mut places = target.endpoints();
            let (_, endpoint) = places.find(|(place, _)| is_default(place))?;
            Some((link, target, endpoint))
        })
    }

    /// The variables of a container's links, as they are when it starts.
    pub(super) fn link_environment(&self, container: &Container) -> Vec<String> {
        let links = self.live_links(container);
        links
            .filter_map(|(link, target, endpoint)| {
                let address = endpoint.addresses.first()?.addr();
                let ports = exposed_ports(target).into_iter();
                let ports =
                    ports.flat_map(|(transport, range)| range.map(move |port| (transport, port)));
                Some(links::environment(
                    &container.name,
                    &link.alias,
                    address,
                    ports,
                    &target.env,
                ))
            })
            .flatten()
            .collect()
    }

    /// Removes a link on the default network: `/web/db` or `web/db`. Gives the linking container's new
    /// record; its hosts file must be written again.
    ///
    /// # Errors
    /// If there is no such link, or the change cannot be stored.
    pub fn remove_link(&mut self, link: &str) -> Result<Container, ControlError> {
        let missing = || ControlError::NoSuchContainer(link.escape_debug().to_string());
        let (parent, alias) = link
            .strip_prefix('/')
            .unwrap_or(link)
            .split_once('/')
            .ok_or_else(|| ControlError::DefaultLink(link.escape_debug().to_string()))?;
        let mut record = self.container(parent).map_err(|_| missing())?.clone();
        let mut found = false;
        for attachment in record.attachments.iter_mut().filter(|a| is_default(a)) {
            let before = attachment.links.len();
            attachment.links.retain(|link| link.alias != alias);
            found |= attachment.links.len() < before;
        }
        if !found {
            return Err(missing());
        }
        self.put(record.clone())?;
        Ok(record)
    }

    /// Running containers whose hosts file has the address of this one, because they link to it.
    pub fn linking_to<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers().filter(move |container| {
            !container.has_exited() && legacy_links(container).any(|link| link.target == id)
        })
    }

    /// The records of all containers that link to this one, without these links.
    pub(super) fn without_links_to(&self, id: &str) -> Vec<Container> {
        let linking = self
            .containers()
            .filter(|container| legacy_links(container).any(|link| link.target == id));
        linking
            .map(|container| {
                let mut record = container.clone();
                for attachment in record.attachments.iter_mut().filter(|a| is_default(a)) {
                    attachment.links.retain(|link| link.target != id);
                }
                record
            })
            .collect()
    }
}

/// The changes that store some records.
pub(super) fn puts(records: &[Container]) -> impl Iterator<Item = Change<'_>> {
    records.iter().map(Change::PutContainer)
}

fn is_default(attachment: &Attachment) -> bool {
    attachment.network_name == DEFAULT_NETWORK
}

/// The links of a container on the default network, in the order of the flags.
pub(super) fn legacy_links(container: &Container) -> impl Iterator<Item = &Link> {
    let attachments = container.attachments.iter();
    attachments
        .filter(|attachment| is_default(attachment))
        .flat_map(|attachment| &attachment.links)
}

#[cfg(test)]
mod tests;
