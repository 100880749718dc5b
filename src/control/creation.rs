//! Making a container's records: everything is checked before anything is allocated, and everything is
//! allocated before anything is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::ControlError;
use super::files::{DnsSettings, ExtraHost};
use super::mac::MacAddress;
use super::names;
use super::port_allocator::{PortLease, PortRequest};
use super::portspec::{ExposeSpec, PortSpec};
use super::publishing;
use super::random;
use super::records::{
    Attachment, Container, ContainerState, Endpoint, ExposedPorts, FamilyConfig, Kind, Network,
};
use super::state::{ContainerEntry, DEFAULT_NETWORK, Leases, State};
use super::store::Change;
use super::timestamp::Timestamp;
use super::transport::Transport;
use crate::api::types::{CreateContainer, EndpointSettings};

/// A new container, with all that must now be made for it.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its record: namespace, files, endpoint, bindings.
    pub container: Container,
    /// The networks of its attachments, in their order.
    pub networks: Vec<Network>,
    /// What its links add to its environment, before its own variables.
    pub env: Vec<String>,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

/// A request in which every value has been understood.
struct Checked {
    name: String,
    hostname: Option<String>,
    kind: Kind,
    address: Option<IpAddr>,
    mac: Option<MacAddress>,
    publish: Vec<(String, PortSpec)>,
    expose: Vec<ExposedPorts>,
    extra_hosts: Vec<ExtraHost>,
    dns: DnsSettings,
}

impl State {
    /// Makes a container: name, id, address, MAC, ports, all stored. The caller then makes namespace,
    /// interface and files, and calls [`State::remove`] with `force` if it cannot.
    ///
    /// # Errors
    /// For the first thing that is wrong with the request or cannot be had; nothing is left then.
    pub fn create_container(
        &mut self,
        request: &CreateContainer,
        now: Timestamp,
    ) -> Result<Creation, ControlError> {
        let wanted = request.networks.first().cloned().unwrap_or_default();
        let checked = self.check(request, &wanted.settings)?;
        let network = match wanted.network.as_str() {
            "" => self.network(DEFAULT_NETWORK)?,
            name => self.network(name)?,
        }
        .clone();
        if let Some(mac) = checked.mac {
            self.check_mac(&network, mac)?;
        }
        let spare_mac = MacAddress::random().map_err(ControlError::Random)?;
        let endpoint_id = names::new_id().map_err(ControlError::Random)?;
        let host_interface = self.new_interface_name().map_err(ControlError::Random)?;
        let requests = port_requests(&checked, request.publish_all, &network);
        let address = self.take_address(&network, checked.address)?;
        let generated = generated_mac(address.addr());
        // Somebody may have asked for the MAC that belongs to this address.
        let mac = match self.check_mac(&network, generated) {
            Ok(()) => generated,
            Err(_) => spare_mac,
        };
        let endpoint = Endpoint {
            id: endpoint_id,
            number: self.counters.endpoint + 1,
            addresses: vec![address],
            gateways: gateways(&network),
            mac: checked.mac.unwrap_or(mac),
            host_interface,
            interface: format!("{}0", network.config.interface_prefix),
        };
        let outcome = self.finish(request, checked, &network, endpoint, &requests, now);
        if outcome.is_err()
            && let Some(entry) = self.networks.get_mut(&network.id)
        {
            entry.release(address.addr());
        }
        let container = outcome?;
        let warnings = warnings(&container);
        Ok(Creation {
            container,
            networks: vec![network],
            env: Vec::new(),
            warnings,
        })
    }

    /// Makes what a container that has exited needs to be started again: addresses, ports, links. It is
    /// *created* then; the caller goes on as with a new one, and calls [`State::cancel_restart`] if it
    /// cannot.
    ///
    /// # Errors
    /// If there is no such container, it has not exited, or something cannot be had; nothing has
    /// changed then.
    pub fn restart(&mut self, query: &str) -> Result<Creation, ControlError> {
        let record = self.container(query)?;
        Err(ControlError::AlreadyStarted {
            name: record.name.clone(),
        })
    }

    /// Makes a container that was to be started again *exited* as it was before, and releases what it has.
    /// Gives the record as it was while it was *created*.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn cancel_restart(&mut self, query: &str) -> Result<Container, ControlError> {
        Ok(self.container(query)?.clone())
    }

    fn check(
        &self,
        request: &CreateContainer,
        settings: &EndpointSettings,
    ) -> Result<Checked, ControlError> {
        let name = match &request.name {
            Some(name) => {
                names::validate_name(name)?;
                name.clone()
            }
            None => names::invent(|name| self.containers().any(|container| container.name == name))
                .map_err(ControlError::Random)?,
        };
        if let Some(other) = self.containers().find(|container| container.name == name) {
            return Err(ControlError::NameInUse {
                name,
                id: other.id.clone(),
            });
        }
        if let Some(hostname) = &request.hostname {
            names::validate_hostname(hostname)?;
        }
        let publish = request
            .publish
            .iter()
            .map(|spec| Ok((spec.clone(), spec.parse::<PortSpec>()?)));
        let expose = request.expose.iter().map(|value| {
            let ExposeSpec {
                transport,
                container,
            } = value.parse::<ExposeSpec>()?;
            Ok(ExposedPorts {
                transport,
                first: *container.start(),
                last: *container.end(),
            })
        });
        let dns = DnsSettings {
            servers: request.dns.clone(),
            search: request.dns_search.clone(),
            options: request.dns_option.clone(),
        };
        dns.validate()?;
        for variable in &request.env {
            if variable.starts_with('=') || variable.is_empty() || variable.contains('\0') {
                return Err(invalid(
                    "-e",
                    variable,
                    "invalid environment variable; give it as NAME=value",
                ));
            }
        }
        if let Some(rootfs) = request.rootfs.as_ref().filter(|path| !path.is_absolute()) {
            return Err(invalid(
                "--rootfs",
                &rootfs.to_string_lossy(),
                "give an absolute path",
            ));
        }
        Ok(Checked {
            name,
            hostname: request.hostname.clone(),
            kind: kind(request)?,
            address: settings.ipam_config.ipv4_address.map(IpAddr::V4),
            mac: settings
                .mac_address
                .as_deref()
                .map(str::parse)
                .transpose()?,
            publish: publish.collect::<Result<_, ControlError>>()?,
            expose: expose.collect::<Result<_, ControlError>>()?,
            extra_hosts: request
                .add_host
                .iter()
                .map(|value| value.parse())
                .collect::<Result<_, _>>()?,
            dns,
        })
    }

    /// Two interfaces with one MAC on a bridge would take each other's frames.
    fn check_mac(&self, network: &Network, mac: MacAddress) -> Result<(), ControlError> {
        let in_use = |owner: String| {
            Err(ControlError::MacInUse {
                mac: mac.to_string(),
                owner,
            })
        };
        if mac == network.bridge_mac {
            return in_use(format!("bridge {}", network.config.bridge));
        }
        let other = self.containers().find(|container| {
            let mut attachments = container
                .attachments
                .iter()
                .filter(|a| a.network == network.id);
            attachments.any(|a| {
                a.endpoint
                    .as_ref()
                    .is_some_and(|endpoint| endpoint.mac == mac)
            })
        });
        other.map_or(Ok(()), |other| in_use(format!("container {}", other.name)))
    }

    fn take_address(
        &mut self,
        network: &Network,
        requested: Option<IpAddr>,
    ) -> Result<IpNet, ControlError> {
        let entry = self.networks.get_mut(&network.id);
        let Some(pool) = entry.and_then(|entry| entry.pool(true)) else {
            return Err(ControlError::NoSuchNetwork(network.name.clone()));
        };
        let address = match requested {
            Some(address) => pool
                .reserve(address)
                .map(|()| address)
                .map_err(ControlError::Address)?,
            None => pool.allocate().map_err(|source| ControlError::NoAddress {
                network: network.name.clone(),
                id: network.id.clone(),
                source,
            })?,
        };
        let subnet = pool.subnet();
        Ok(IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| address.into()))
    }

    /// Takes the ports and stores the record.
    fn finish(
        &mut self,
        request: &CreateContainer,
        checked: Checked,
        network: &Network,
        endpoint: Endpoint,
        requests: &[PortRequest],
        now: Timestamp,
    ) -> Result<Container, ControlError> {
        let id = names::new_id().map_err(ControlError::Random)?;
        let sandbox_id = names::new_id().map_err(ControlError::Random)?;
        let leases: Vec<Vec<PortLease>> =
            self.ports
                .allocate(requests)
                .map_err(|source| ControlError::Ports {
                    name: checked.name.clone(),
                    endpoint: endpoint.id.clone(),
                    source,
                })?;
        let leases: Vec<Leases> = requests
            .iter()
            .zip(leases)
            .map(|(request, ports)| Leases {
                spec: request.spec.clone(),
                ports,
            })
            .collect();
        let mut counters = self.counters;
        counters.endpoint = endpoint.number;
        let record = Container {
            hostname: checked
                .hostname
                .unwrap_or_else(|| names::short_id(&id).to_owned()),
            netns: self.settings.netns_dir.join(&checked.name),
            files: self.settings.containers_dir.join(&id),
            id,
            name: checked.name,
            domainname: String::new(),
            network_mode: "default".to_owned(),
            created: now,
            command: request.command.clone(),
            env: request.env.clone(),
            kind: checked.kind,
            rootfs: request.rootfs.clone(),
            auto_remove: request.auto_remove,
            sandbox_id,
            attachments: vec![Attachment {
                network: network.id.clone(),
                network_name: network.name.clone(),
                requested_address: checked.address,
                requested_mac: checked.mac,
                aliases: Vec::new(),
                links: Vec::new(),
                driver_opts: BTreeMap::new(),
                gw_priority: 0,
                requested_interface: None,
                endpoint: Some(endpoint),
            }],
            publish: request.publish.clone(),
            publish_all: request.publish_all,
            expose: checked.expose,
            bindings: publishing::bindings(&leases),
            dns: checked.dns,
            extra_hosts: checked.extra_hosts,
            state: ContainerState::Created,
            former_exit: None,
        };
        self.journal
            .commit(&[Change::PutContainer(&record), Change::PutCounters(counters)])?;
        self.counters = counters;
        self.containers.insert(
            record.id.clone(),
            ContainerEntry {
                record: record.clone(),
                leases,
            },
        );
        Ok(record)
    }

    /// A name for the host's end of a veth pair: `veth` and seven digits, as Docker's.
    fn new_interface_name(&self) -> std::io::Result<String> {
        let taken = self.host_interfaces();
        loop {
            let name = format!("veth{}", &random::hex::<4>()?[..7]);
            if !taken.contains(&name) {
                return Ok(name);
            }
        }
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

fn invalid(flag: &'static str, value: &str, problem: &'static str) -> ControlError {
    ControlError::Invalid {
        flag,
        value: value.escape_debug().to_string(),
        problem,
    }
}

/// What is to be published: the `-p` values, and with `-P` each exposed port that no `-p` value names.
fn port_requests(checked: &Checked, publish_all: bool, network: &Network) -> Vec<PortRequest> {
    let default = network.config.host_address;
    let mut requests: Vec<PortRequest> = checked
        .publish
        .iter()
        .map(|(text, spec)| publishing::request(text, spec, default))
        .collect();
    if publish_all {
        let mut named: BTreeSet<(Transport, u16)> = requests
            .iter()
            .flat_map(|request| {
                request
                    .container
                    .clone()
                    .map(|port| (request.transport, port))
            })
            .collect();
        for exposed in &checked.expose {
            for port in exposed.first..=exposed.last {
                if named.insert((exposed.transport, port)) {
                    requests.push(publishing::ephemeral(port, exposed.transport, default));
                }
            }
        }
    }
    requests
}

/// Where an endpoint's default routes go; an internal network has none.
pub(super) fn gateways(network: &Network) -> Vec<IpAddr> {
    if network.config.internal {
        return Vec::new();
    }
    let families = network.config.families.iter();
    families.filter_map(FamilyConfig::default_gateway).collect()
}

fn generated_mac(address: IpAddr) -> MacAddress {
    match address {
        IpAddr::V4(v4) => MacAddress::from_ipv4(v4),
        // Without an IPv4 address the MAC has to be unique some other way: the last octets are the host part.
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            MacAddress::from_ipv4([a, b, c, d].into())
        }
    }
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
