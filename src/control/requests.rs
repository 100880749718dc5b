//! What a request for a container, or for its place on a network, says: every value understood and checked,
//! nothing allocated.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::endpoint_options;
use super::error::ControlError;
use super::files::{DnsSettings, ExtraHost};
use super::mac::MacAddress;
use super::names;
use super::portspec::{ExposeSpec, PortSpec};
use super::records::{Attachment, Container, ContainerState, ExposedPorts, Kind, Link, Network};
use super::state::{DEFAULT_NETWORK, State};
use super::timestamp::Timestamp;
use crate::api::types::{Bandwidth, CreateContainer, EndpointSettings, NetworkAttachment};

/// `HostConfig.NetworkMode` of a container that nobody gave a network.
const DEFAULT_MODE: &str = "default";
/// Name of the network without anything.
pub(super) const NONE: &str = "none";
/// Name of the host's own network.
pub(super) const HOST: &str = "host";

impl State {
    /// The record of a container to be made, without endpoints and ports.
    pub(super) fn new_record(
        &self,
        request: &CreateContainer,
        now: Timestamp,
    ) -> Result<Container, ControlError> {
        let name = self.free_name(request.name.as_deref())?;
        if let Some(hostname) = &request.hostname {
            names::validate_hostname(hostname)?;
        }
        let domainname = request.domainname.clone().unwrap_or_default();
        if !domainname.is_empty() && names::validate_hostname(&domainname).is_err() {
            return Err(invalid(
                "--domainname",
                &domainname,
                "give a domain such as corp.example",
            ));
        }
        for spec in &request.publish {
            spec.parse::<PortSpec>()?;
        }
        let expose = request.expose.iter().map(|value| exposed(value));
        let expose = expose.collect::<Result<_, ControlError>>()?;
        let dns = DnsSettings {
            servers: request.dns.clone(),
            search: request.dns_search.clone(),
            options: request.dns_option.clone(),
        };
        dns.validate()?;
        let extra_hosts = request.add_host.iter().map(|value| value.parse());
        let extra_hosts = extra_hosts.collect::<Result<Vec<ExtraHost>, _>>()?;
        check_process(request)?;
        let kind = kind(request)?;
        let (network_mode, attachments) = self.wanted_networks(&name, request)?;
        let id = names::new_id().map_err(ControlError::Random)?;
        Ok(Container {
            hostname: request
                .hostname
                .clone()
                .unwrap_or_else(|| names::short_id(&id).to_owned()),
            domainname,
            netns: self.settings.netns_dir.join(&name),
            files: self.settings.containers_dir.join(&id),
            id,
            name,
            created: now,
            command: request.command.clone(),
            env: request.env.clone(),
            kind,
            runtime: None,
            rootfs: request.rootfs.clone(),
            auto_remove: request.auto_remove,
            sandbox_id: names::new_id().map_err(ControlError::Random)?,
            network_mode,
            attachments,
            publish: request.publish.clone(),
            publish_all: request.publish_all,
            expose,
            bindings: Vec::new(),
            dns,
            extra_hosts,
            state: ContainerState::Created,
            former_exit: None,
        })
    }

    fn free_name(&self, wanted: Option<&str>) -> Result<String, ControlError> {
        let Some(name) = wanted else {
            return names::invent(|name| self.containers().any(|other| other.name == name))
                .map_err(ControlError::Random);
        };
        names::validate_name(name)?;
        match self.containers().find(|other| other.name == name) {
            None => Ok(name.to_owned()),
            Some(other) => Err(ControlError::NameInUse {
                name: name.to_owned(),
                id: other.id.clone(),
            }),
        }
    }

    /// The network mode, and what is wanted on each network. `--link` belongs to the first.
    fn wanted_networks(
        &self,
        name: &str,
        request: &CreateContainer,
    ) -> Result<(String, Vec<Attachment>), ControlError> {
        let default = [NetworkAttachment::default()];
        let wanted = match request.networks.as_slice() {
            [] => &default[..],
            given => given,
        };
        let mut links = request.links.as_slice();
        let mut attachments: Vec<Attachment> = Vec::new();
        for NetworkAttachment { network, settings } in wanted {
            if let Some(other) = network.strip_prefix("container:") {
                return Err(invalid(
                    "--network",
                    &format!("container:{other}"),
                    "containers do not share namespaces here; put both on one network, they find each other by name",
                ));
            }
            let record = self.network_of_argument(network)?;
            if record.name == HOST {
                return Err(invalid(
                    "--network",
                    HOST,
                    "a container has a network namespace of its own here; start the program without tunbridge, or publish its ports with -p",
                ));
            }
            if record.name == NONE {
                if wanted.len() > 1 {
                    return Err(ControlError::PrivateMode);
                }
                if !links.is_empty() {
                    return Err(invalid(
                        "--link",
                        &links.join(","),
                        "conflicting options: a container without a network has no links; leave --network none or --link out",
                    ));
                }
                return Ok((NONE.to_owned(), attachments));
            }
            if attachments.iter().any(|other| other.network == record.id) {
                return Err(ControlError::NetworkTwice(record.name.clone()));
            }
            let attachment = self.wanted_attachment(name, record, settings, links)?;
            links = &[];
            attachments.push(attachment);
        }
        let mode = match wanted.first().map(|first| first.network.as_str()) {
            None | Some("") => DEFAULT_MODE,
            Some(given) => given,
        };
        Ok((mode.to_owned(), attachments))
    }

    /// The network that a `--network` names; nothing and `default` are the default network.
    pub(super) fn network_of_argument(&self, network: &str) -> Result<&Network, ControlError> {
        match network {
            "" | DEFAULT_MODE => self.network(DEFAULT_NETWORK),
            name => self.network(name),
        }
    }

    /// What the container `name` is to have on a network. `more_links` come before those in `settings`.
    pub(super) fn wanted_attachment(
        &self,
        name: &str,
        network: &Network,
        settings: &EndpointSettings,
        more_links: &[String],
    ) -> Result<Attachment, ControlError> {
        let default = network.name == DEFAULT_NETWORK;
        if default && !settings.aliases.is_empty() {
            return Err(ControlError::AliasOnDefault);
        }
        if let Some(alias) = settings.aliases.iter().find(|alias| !is_dns_name(alias)) {
            return Err(invalid(
                "--network-alias",
                alias,
                "give 1 to 253 characters without blanks",
            ));
        }
        let wanted = &settings.ipam_config;
        let addresses = [
            wanted.ipv4_address.map(IpAddr::V4),
            wanted.ipv6_address.map(IpAddr::V6),
        ];
        for address in addresses.into_iter().flatten() {
            let subnets = network.subnets();
            if !subnets.iter().any(|subnet| subnet.contains(&address)) {
                return Err(ControlError::AddressOutside { address, subnets });
            }
        }
        if let Some(address) = wanted.link_local_ips.first() {
            return Err(invalid(
                "--link-local-ip",
                &address.to_string(),
                "not supported: an interface's link-local IPv6 address follows from its MAC address; leave it out",
            ));
        }
        let requested_interface = endpoint_options::interface(&settings.driver_opts)?;
        endpoint_options::sysctls(&settings.driver_opts)?;
        let requested_mac: Option<MacAddress> = settings
            .mac_address
            .as_deref()
            .map(str::parse)
            .transpose()?;
        let mut links = Vec::new();
        for text in more_links.iter().chain(&settings.links) {
            let link: Link = text.parse()?;
            links.push(if default {
                self.legacy_link(name, link)?
            } else {
                link
            });
        }
        Ok(Attachment {
            network: network.id.clone(),
            network_name: network.name.clone(),
            requested_addresses: addresses.into_iter().flatten().collect(),
            requested_mac,
            aliases: distinct(&settings.aliases),
            links,
            driver_opts: settings.driver_opts.clone(),
            gw_priority: settings.gw_priority,
            requested_interface: requested_interface.map(str::to_owned),
            of_runtime: false,
            owner: None,
            default_route: true,
            bandwidth: Bandwidth::default(),
            endpoint: None,
        })
    }
}

fn exposed(value: &str) -> Result<ExposedPorts, ControlError> {
    let ExposeSpec {
        transport,
        container,
    } = value.parse()?;
    Ok(ExposedPorts {
        transport,
        first: *container.start(),
        last: *container.end(),
    })
}

fn check_process(request: &CreateContainer) -> Result<(), ControlError> {
    for variable in &request.env {
        if variable.starts_with('=') || variable.is_empty() || variable.contains('\0') {
            return Err(invalid(
                "-e",
                variable,
                "invalid environment variable; give it as NAME=value",
            ));
        }
    }
    match request.rootfs.as_ref().filter(|path| !path.is_absolute()) {
        Some(rootfs) => Err(invalid(
            "--rootfs",
            &rootfs.to_string_lossy(),
            "give an absolute path",
        )),
        None => Ok(()),
    }
}

fn kind(request: &CreateContainer) -> Result<Kind, ControlError> {
    match (request.attach_pid, &request.attach_netns) {
        (Some(pid), Some(_)) => Err(invalid(
            "--pid",
            &pid.to_string(),
            "--pid and --netns exclude each other; give one of them",
        )),
        (Some(pid), None) if pid <= 0 => Err(invalid(
            "--pid",
            &pid.to_string(),
            "give the number of a running process",
        )),
        (Some(pid), None) => Ok(Kind::AttachPid(pid)),
        (None, Some(path)) if !path.is_absolute() => Err(invalid(
            "--netns",
            &path.to_string_lossy(),
            "give an absolute path, as in /run/netns/NAME",
        )),
        (None, Some(path)) => Ok(Kind::AttachNetns(path.clone())),
        (None, None) if request.command.is_empty() => Err(invalid(
            "command",
            "",
            "No command specified; give one after --",
        )),
        (None, None) => Ok(Kind::Run),
    }
}

pub(super) fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

pub(super) fn distinct(texts: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let new = texts.iter().filter(|text| seen.insert(text.as_str()));
    new.cloned().collect()
}

/// A value that cannot be used.
pub(super) fn invalid(flag: &'static str, value: &str, problem: &'static str) -> ControlError {
    ControlError::Invalid {
        flag,
        value: value.escape_debug().to_string(),
        problem,
    }
}
