//! Containers of other runtimes: made with their first endpoint, gone with their last.
//!
//! A runtime knows a container by its own id and calls once per interface. Nothing here ever *exits*: a record is
//! *running* as soon as it is stored, so that an attach costs one write to the disk. Who dies before the interface is
//! made leaves a record of something that is not there, as after any crash: the next daemon makes it, and the runtime,
//! which was told of no success, has it taken away.
//!
//! Names: what the runtime calls a container becomes its name if nobody has it. If somebody has, it becomes an alias on each
//! of its networks, and the name gets a part of the id at its end: by the wanted name both are found. Where the runtime says
//! no name, it is the id, of 64 digits the first 12.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::attachments::refuse_predefined;
use super::bandwidth;
use super::endpoint_options::IFNAME;
use super::error::ControlError;
use super::files::DnsSettings;
use super::names;
use super::portspec::PortSpec;
use super::records::{
    Attachment, Container, ContainerState, Endpoint, Kind, Network, RuntimeContainer,
};
use super::requests::{distinct, invalid, is_dns_name};
use super::state::{ContainerEntry, DEFAULT_NETWORK, State};
use super::store::Change;
use super::timestamp::Timestamp;
use crate::api::types::{AttachEndpoint, CollectEndpoints, EndpointReference, Placement, Runtime};

/// An endpoint of a runtime's container, and all that it belongs to.
#[derive(Clone, Debug)]
pub struct EndpointPlace {
    /// The container's record.
    pub container: Container,
    /// The network.
    pub network: Network,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// It is the container's first: there was none of that id before.
    pub first: bool,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

impl State {
    /// The container that a runtime knows by `id`.
    pub fn runtime_container(&self, runtime: Runtime, id: &str) -> Option<&Container> {
        self.containers().find(|container| {
            let known = container.runtime.as_ref();
            known.is_some_and(|known| known.runtime == runtime && known.id == id)
        })
    }

    /// Gives a runtime's container one endpoint more, and makes the container with the first. The caller then makes
    /// the interface, and calls [`State::detach_endpoint`] if it cannot. `is_free`: a name that nobody else uses for a
    /// namespace.
    ///
    /// # Errors
    /// For the first thing that is wrong or cannot be had; nothing has changed then.
    pub fn attach_endpoint(
        &mut self,
        request: &AttachEndpoint,
        is_free: &dyn Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<EndpointPlace, ControlError> {
        check_id(&request.container)?;
        let network = self.network_of_argument(&request.network)?.clone();
        refuse_predefined(&network)?;
        check_ranges(request, &network)?;
        let delegated = request.placement == Placement::Host;
        bandwidth::check(&request.bandwidth, &network, delegated)?;
        let known = self.runtime_container(request.runtime, &request.container);
        let (mut record, first) = match known {
            Some(record) => (record.clone(), false),
            None => (self.new_runtime_record(request, is_free, now)?, true),
        };
        refuse_second(&record, request, &network)?;
        add_dns(&mut record.dns, request)?;
        let published = add_ports(&mut record.publish, &request.publish)?;
        let attachment = self.runtime_attachment(&record, request, &network)?;
        let former = self.gateways_of(&record);
        let index = record.attachments.len();
        record.attachments.push(attachment);
        let mut counters = self.counters;
        self.make_endpoint(&mut record, index, &request.ranges, &mut counters)?;
        let made = record.attachments.get(index);
        let endpoint = made
            .and_then(|attachment| attachment.endpoint.clone())
            .ok_or_else(|| ControlError::NoSuchEndpoint(record.name.clone()))?;
        let stored = if first {
            self.lease_ports(&record).and_then(|leases| {
                record.bindings = super::publishing::bindings(&leases);
                self.journal
                    .commit(&[Change::PutContainer(&record), Change::PutCounters(counters)])?;
                self.counters = counters;
                let entry = ContainerEntry {
                    record: record.clone(),
                    leases,
                };
                self.containers.insert(record.id.clone(), entry);
                Ok(())
            })
        } else {
            let moved = published || self.gateways_of(&record) != former;
            self.move_and_store(&mut record, moved, None, counters)
        };
        if let Err(error) = stored {
            self.release_endpoint(&network.id, &endpoint);
            return Err(error);
        }
        Ok(EndpointPlace {
            warnings: self.unpublished_warnings(&record),
            container: record,
            network,
            endpoint,
            first,
        })
    }

    /// Takes an endpoint from its container, and removes the container with the last. The caller has taken down the
    /// interface, and the namespace with the last. Gives the container's record as it is now, or `None`.
    ///
    /// # Errors
    /// If there is no such endpoint, or the change cannot be stored.
    pub fn detach_endpoint(
        &mut self,
        container: &str,
        network: &str,
    ) -> Result<Option<Container>, ControlError> {
        let last = self
            .container_by_id(container)
            .is_some_and(|record| is_last(record, network));
        if last {
            return self.remove(container, true).map(|_| None);
        }
        let done = self.disconnect(container, network, true)?;
        for warning in &done.warnings {
            tracing::warn!(container = %done.after.name, "{warning}");
        }
        Ok(Some(done.after))
    }

    /// The endpoints that a runtime means: ids of container and network, and the endpoint. An empty list if there are
    /// none.
    pub fn referenced<'a>(
        &'a self,
        reference: &'a EndpointReference,
    ) -> impl Iterator<Item = (&'a Container, &'a Attachment, &'a Endpoint)> {
        let container = self.runtime_container(reference.runtime, &reference.container);
        let places = container.into_iter().flat_map(places_of);
        places.filter(move |(_, attachment, endpoint)| {
            let network = reference.network.as_deref();
            let interface = reference.interface.as_deref();
            let owners = reference.owner.as_deref().zip(attachment.owner.as_deref());
            owners.is_none_or(|(meant, owner)| meant == owner)
                && network.is_none_or(|network| is_on(attachment, network))
                && interface.is_none_or(|interface| is_called(attachment, endpoint, interface))
        })
    }

    /// The container that a reference is about, if none of its endpoints is the runtime's any more.
    pub fn abandoned(&self, reference: &EndpointReference) -> Option<&Container> {
        let container = self.runtime_container(reference.runtime, &reference.container);
        container.filter(|container| {
            let mut attachments = container.attachments.iter();
            !attachments.any(|attachment| attachment.of_runtime)
        })
    }

    /// What a container has besides, if endpoints with these numbers are all that its runtime has asked for: it goes with
    /// them.
    pub fn others_of<'a>(
        &'a self,
        container: &'a str,
        going: &'a [u32],
    ) -> impl Iterator<Item = (&'a Container, &'a Attachment, &'a Endpoint)> {
        let container = self.container_by_id(container).filter(|container| {
            let mut endpoints = container.endpoints();
            endpoints.all(|(attachment, endpoint)| {
                !attachment.of_runtime || going.contains(&endpoint.number)
            })
        });
        let places = container.into_iter().flat_map(places_of);
        places.filter(|(_, _, endpoint)| !going.contains(&endpoint.number))
    }

    /// The endpoints that an owner asked for and that are not valid any more.
    pub fn collectable<'a>(
        &'a self,
        request: &'a CollectEndpoints,
    ) -> impl Iterator<Item = (&'a Container, &'a Attachment, &'a Endpoint)> {
        let places = self.containers().flat_map(places_of);
        places.filter(move |(container, attachment, endpoint)| {
            let Some(known) = &container.runtime else {
                return false;
            };
            let mut valid = request.valid.iter();
            let is_valid = valid.any(|(id, interface)| {
                *id == known.id && is_called(attachment, endpoint, interface)
            });
            known.runtime == request.runtime
                && attachment.owner.as_deref() == Some(request.owner.as_str())
                && !is_valid
        })
    }

    fn new_runtime_record(
        &self,
        request: &AttachEndpoint,
        is_free: &dyn Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<Container, ControlError> {
        let id = match names::is_id(&request.container)
            && !self.containers.contains_key(&request.container)
        {
            true => request.container.clone(),
            false => names::new_id().map_err(ControlError::Random)?,
        };
        let name = self.runtime_name(request, &id, is_free);
        let (kind, netns) = match request.placement {
            Placement::Namespace => (Kind::Adopted, self.settings.netns_dir.join(&name)),
            Placement::Host => (Kind::Delegated, PathBuf::new()),
        };
        Ok(Container {
            hostname: names::short_id(&id).to_owned(),
            domainname: String::new(),
            netns,
            files: PathBuf::new(),
            id,
            name,
            created: now,
            command: Vec::new(),
            env: Vec::new(),
            kind,
            runtime: Some(RuntimeContainer {
                runtime: request.runtime,
                id: request.container.clone(),
            }),
            rootfs: None,
            auto_remove: true,
            sandbox_id: names::new_id().map_err(ControlError::Random)?,
            network_mode: self.network_of_argument(&request.network)?.name.clone(),
            attachments: Vec::new(),
            publish: Vec::new(),
            publish_all: false,
            expose: Vec::new(),
            bindings: Vec::new(),
            dns: DnsSettings::default(),
            extra_hosts: Vec::new(),
            state: ContainerState::Running {
                process: None,
                started: now,
            },
            former_exit: None,
        })
    }

    /// The wanted name, or if somebody has it that with a part of the id.
    fn runtime_name(
        &self,
        request: &AttachEndpoint,
        id: &str,
        is_free: &dyn Fn(&str) -> bool,
    ) -> String {
        let container = match names::is_id(&request.container) {
            true => names::short_id(&request.container),
            false => &request.container,
        };
        let wanted = names::fit_name(wanted_name(request).unwrap_or(container));
        let delegated = request.placement == Placement::Host;
        let taken = |name: &str| {
            let mut others = self.containers();
            others.any(|other| other.name == name) || (!delegated && !is_free(name))
        };
        if !taken(&wanted) {
            return wanted;
        }
        let with_id = format!("{wanted}-{}", names::short_id(id));
        let numbered = (2..).map(|number: u32| format!("{with_id}-{number}"));
        std::iter::once(with_id.clone())
            .chain(numbered)
            .find(|name| !taken(name))
            .unwrap_or(with_id)
    }

    fn runtime_attachment(
        &self,
        record: &Container,
        request: &AttachEndpoint,
        network: &Network,
    ) -> Result<Attachment, ControlError> {
        let mut settings = request.settings.clone();
        if let Some(interface) = &request.interface {
            settings
                .driver_opts
                .insert(IFNAME.to_owned(), interface.clone());
        }
        if network.name == DEFAULT_NETWORK {
            // As in Docker, there are none.
            settings.aliases.clear();
        } else if let Some(wanted) = wanted_name(request)
            && *wanted != record.name
            && is_dns_name(wanted)
        {
            settings.aliases.push(wanted.to_owned());
        }
        let wanted = self.wanted_attachment(&record.name, network, &settings, &[])?;
        Ok(Attachment {
            default_route: request.default_route,
            of_runtime: true,
            owner: request.owner.clone(),
            bandwidth: request.bandwidth,
            ..wanted
        })
    }
}

/// The endpoints of a container, each with all that it belongs to.
fn places_of(container: &Container) -> impl Iterator<Item = (&Container, &Attachment, &Endpoint)> {
    let places = container.endpoints();
    places.map(move |(attachment, endpoint)| (container, attachment, endpoint))
}

/// The container has no other endpoint than the one on this network.
pub(super) fn is_last(container: &Container, network: &str) -> bool {
    let mut attachments = container.attachments.iter();
    attachments.all(|attachment| attachment.network == network)
}

/// By the network's whole name or id, as the attachment has them: the network may be gone.
fn is_on(attachment: &Attachment, network: &str) -> bool {
    let network = match network {
        "" | "default" => DEFAULT_NETWORK,
        network => network,
    };
    attachment.network == network || attachment.network_name == network
}

/// The name that it was asked for by, or has.
fn is_called(attachment: &Attachment, endpoint: &Endpoint, interface: &str) -> bool {
    attachment.requested_interface.as_deref() == Some(interface) || endpoint.interface == interface
}

fn wanted_name(request: &AttachEndpoint) -> Option<&str> {
    request.name.as_deref().filter(|name| !name.is_empty())
}

/// What CNI takes for an id.
fn check_id(id: &str) -> Result<(), ControlError> {
    if names::is_identifier(id) && id.len() <= names::MAX_RUNTIME_ID_LEN {
        return Ok(());
    }
    let shown: String = id.chars().take(80).collect();
    Err(invalid(
        "container",
        &shown,
        "an id has 1 to 1024 letters, digits, '_', '.' and '-', and begins with a letter or digit",
    ))
}

fn check_ranges(request: &AttachEndpoint, network: &Network) -> Result<(), ControlError> {
    let subnets = network.subnets();
    for range in &request.ranges {
        if range.first.is_ipv4() != range.last.is_ipv4() || range.first > range.last {
            return Err(invalid(
                "ranges",
                &format!("{}-{}", range.first, range.last),
                "give the lower address first, and both of one family",
            ));
        }
        for address in [range.first, range.last] {
            if !subnets.iter().any(|subnet| subnet.contains(&address)) {
                return Err(ControlError::AddressOutside { address, subnets });
            }
        }
    }
    Ok(())
}

fn refuse_second(
    record: &Container,
    request: &AttachEndpoint,
    network: &Network,
) -> Result<(), ControlError> {
    let was = match record.kind {
        Kind::Delegated => {
            (request.placement == Placement::Namespace).then_some("in the host's namespace")
        }
        Kind::Run | Kind::AttachPid(_) | Kind::AttachNetns(_) | Kind::Adopted => {
            (request.placement == Placement::Host).then_some("in its own namespace")
        }
    };
    if let Some(was) = was {
        let name = record.name.clone();
        return Err(ControlError::Placement { name, was });
    }
    for (attachment, endpoint) in record.endpoints() {
        let same_network = attachment.network == network.id;
        let wanted = request.interface.as_deref();
        let same_interface =
            wanted.is_some_and(|interface| is_called(attachment, endpoint, interface));
        let interface = endpoint.interface.clone();
        let id = request.container.clone();
        let network = attachment.network_name.clone();
        if same_interface {
            return Err(ControlError::EndpointExists {
                interface,
                id,
                network,
            });
        }
        if same_network {
            return Err(ControlError::NetworkExists {
                interface,
                id,
                network,
            });
        }
    }
    Ok(())
}

fn add_dns(known: &mut DnsSettings, request: &AttachEndpoint) -> Result<(), ControlError> {
    let new = DnsSettings {
        servers: request.dns.clone(),
        search: request.dns_search.clone(),
        options: request.dns_option.clone(),
    };
    new.validate()?;
    let mut seen: BTreeSet<_> = known.servers.iter().copied().collect();
    let servers = new.servers.into_iter();
    known
        .servers
        .extend(servers.filter(|server| seen.insert(*server)));
    known.search = distinct(&[known.search.as_slice(), &new.search].concat());
    known.options = distinct(&[known.options.as_slice(), &new.options].concat());
    Ok(())
}

/// Adds what is not there yet, however it is spelt. Whether there was something.
fn add_ports(known: &mut Vec<String>, more: &[String]) -> Result<bool, ControlError> {
    let before = known.len();
    let mut specs: Vec<PortSpec> = known.iter().filter_map(|text| text.parse().ok()).collect();
    for text in more {
        let spec: PortSpec = text.parse()?;
        if !specs.contains(&spec) {
            specs.push(spec);
            known.push(text.clone());
        }
    }
    Ok(known.len() > before)
}

#[cfg(test)]
mod tests;
