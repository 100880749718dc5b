//! The state of the control plane in memory, and the decisions that change it.
//!
//! Every method that changes something works in three steps: decide (and allocate) on a copy, commit
//! the records to the [`Journal`], then put them in place. If any step fails, nothing has changed and
//! what had been allocated is free again. Nothing here touches the kernel except the sockets that hold
//! ports; what the caller must do there follows from the records that the methods return.
//!
//! ```text
//!   create_container ─► Created ── set_started ─► Running ── set_exited ─► Exited ── remove ─► (gone)
//!                        │   ▲  └────────── set_exited / remove(force) ────┘ │
//!                        │   └───────────────── restart ─────────────────────┤
//!                        └─────────────────── cancel_restart ────────────────►
//! ```
//!
//! A container has addresses and ports from `create_container` until `set_exited` or `remove`, as in
//! Docker, where they are released when it stops. A restarted daemon calls, in this order:
//! [`State::open`] (takes the stored addresses), [`State::set_exited`] for containers that are dead,
//! [`State::set_default_network`], [`State::restore`] (takes the stored ports).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use super::address_leases::{self, PoolEntry};
use super::address_pool::AddressPools;
use super::creation;
use super::error::ControlError;
use super::files::DnsSettings;
use super::identity::Identity;
use super::ipam::Pool;
use super::linking;
use super::names::{self, LookupError};
use super::network_config::FamilyConfig;
use super::port_allocator::{PortAllocator, PortLease};
use super::records::{
    Container, ContainerState, Counters, Endpoint, Network, PortBinding, Process,
};
use super::store::{Change, Journal, Records};
use super::timestamp::Timestamp;

/// Name of the default network.
pub const DEFAULT_NETWORK: &str = "bridge";

/// What decisions depend on besides the state.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where namespaces are made visible: `/run/netns`.
    pub netns_dir: PathBuf,
    /// Where each container gets a directory, named by its id.
    pub containers_dir: PathBuf,
    /// The daemon's `--dns…` flags.
    pub dns: DnsSettings,
    /// Where the subnets of networks come from that name none (`--default-address-pool`).
    pub pools: AddressPools,
    /// Options of networks that do not give them (`--default-network-opt bridge=key=value`).
    pub default_network_options: BTreeMap<String, String>,
    /// The host has IPv6: ports are published on it, too.
    pub has_ipv6: bool,
}

/// The state.
#[derive(Debug)]
pub struct State {
    pub(super) journal: Box<dyn Journal>,
    pub(super) settings: Settings,
    pub(super) ports: PortAllocator,
    pub(super) counters: Counters,
    pub(super) identity: Identity,
    pub(super) networks: BTreeMap<String, NetworkEntry>,
    pub(super) containers: BTreeMap<String, ContainerEntry>,
    pub(super) leased_pools: BTreeMap<String, PoolEntry>,
}

#[derive(Debug)]
pub(super) struct NetworkEntry {
    pub(super) record: Network,
    /// One for each of its families, in their order.
    pub(super) pools: Vec<Pool>,
}

impl NetworkEntry {
    pub(super) fn new(record: Network) -> Result<Self, ControlError> {
        let pools = record.config.families.iter().map(pool);
        Ok(Self {
            pools: pools
                .collect::<Result<_, _>>()
                .map_err(ControlError::Address)?,
            record,
        })
    }

    /// The pool of an address's family.
    pub(super) fn pool(&mut self, ipv4: bool) -> Option<&mut Pool> {
        let mut pools = self.pools.iter_mut();
        pools.find(|pool| pool.subnet().addr().is_ipv4() == ipv4)
    }

    pub(super) fn release(&mut self, address: IpAddr) {
        if let Some(pool) = self.pool(address.is_ipv4()) {
            pool.release(address);
        }
    }
}

#[derive(Debug)]
pub(super) struct ContainerEntry {
    pub(super) record: Container,
    /// What each of its `-p` values has.
    pub(super) leases: Vec<Leases>,
}

/// The ports that one `-p` value has.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) spec: String,
    pub(super) ports: Vec<PortLease>,
}

impl State {
    /// The state as stored. Addresses of containers that have not exited are taken; ports are not (see
    /// [`State::restore`]). The texts are warnings for the log.
    ///
    /// # Errors
    /// If a stored network contradicts itself.
    pub fn open(
        journal: Box<dyn Journal>,
        records: Records,
        ports: PortAllocator,
        settings: Settings,
    ) -> Result<(Self, Vec<String>), ControlError> {
        let mut networks = BTreeMap::new();
        for record in records.networks {
            networks.insert(record.id.clone(), NetworkEntry::new(record)?);
        }
        let mut state = Self {
            journal,
            settings,
            ports,
            counters: records.counters,
            identity: records.identity,
            networks,
            containers: BTreeMap::new(),
            leased_pools: BTreeMap::new(),
        };
        let mut warnings = Vec::new();
        state.retake_pools(records.pools, &mut warnings);
        for record in records.containers {
            state.retake_addresses(&record, &mut warnings);
            state.containers.insert(
                record.id.clone(),
                ContainerEntry {
                    record,
                    leases: Vec::new(),
                },
            );
        }
        Ok((state, warnings))
    }

    fn retake_addresses(&mut self, container: &Container, warnings: &mut Vec<String>) {
        for attachment in &container.attachments {
            for address in attachment
                .endpoint
                .iter()
                .flat_map(|endpoint| &endpoint.addresses)
            {
                let network = self.networks.get_mut(&attachment.network);
                let pool = network.and_then(|network| network.pool(address.addr().is_ipv4()));
                let outcome = match pool {
                    Some(pool) => {
                        if address_leases::has_leases(container) {
                            pool.lend(address.addr());
                        }
                        pool.reserve(address.addr())
                            .map_err(|error| error.to_string())
                    }
                    None => Err(format!("its network {} is gone", attachment.network_name)),
                };
                if let Err(problem) = outcome {
                    warnings.push(format!(
                        "container {}: cannot keep address {address}: {problem}",
                        container.name
                    ));
                }
            }
        }
    }

    /// Takes the stored ports of all containers that have not exited, and makes them those of the families that their
    /// networks have now. A port that cannot be had is not published, and a warning says so.
    ///
    /// # Errors
    /// If a change cannot be stored.
    pub fn restore(&mut self) -> Result<Vec<String>, ControlError> {
        let mut warnings = Vec::new();
        let stored: Vec<(String, Vec<PortBinding>)> = self
            .containers
            .iter()
            .map(|(id, entry)| (id.clone(), entry.record.bindings.clone()))
            .collect();
        for (id, _) in &stored {
            self.retake_ports(id, &mut warnings)?;
        }
        // Nobody gets what somebody else has already.
        for (id, bindings) in &stored {
            self.renew_ports(id, bindings, &mut warnings)?;
        }
        Ok(warnings)
    }

    /// Notes that the container's process runs.
    ///
    /// # Errors
    /// If it is not in state *created*, or the change cannot be stored.
    pub fn set_started(
        &mut self,
        query: &str,
        process: Option<Process>,
        now: Timestamp,
    ) -> Result<Container, ControlError> {
        let mut record = self.container(query)?.clone();
        match record.state {
            ContainerState::Created => {}
            ContainerState::Running { .. } => {
                return Err(ControlError::AlreadyStarted { name: record.name });
            }
            ContainerState::Exited { .. } => {
                return Err(ControlError::NotRunning { name: record.name });
            }
        }
        record.state = ContainerState::Running {
            process,
            started: now,
        };
        record.former_exit = None;
        self.put(record.clone())?;
        Ok(record)
    }

    /// Notes that the container has ended and releases its addresses and ports. The caller has taken down
    /// interface and namespace. Gives the record as it was before, `None` if it had ended already. With
    /// `auto_remove` in it, [`State::remove`] is to be used instead.
    ///
    /// # Errors
    /// If there is no such container, or the change cannot be stored.
    pub fn set_exited(
        &mut self,
        query: &str,
        code: i32,
        now: Timestamp,
    ) -> Result<Option<Container>, ControlError> {
        let before = self.container(query)?.clone();
        let started = match before.state {
            ContainerState::Created => None,
            ContainerState::Running { started, .. } => Some(started),
            ContainerState::Exited { .. } => return Ok(None),
        };
        let state = ContainerState::Exited {
            code,
            started,
            finished: now,
        };
        self.put(creation::ended(&before, state))?;
        self.release(&before);
        Ok(Some(before))
    }

    /// The container that [`State::remove`] would remove.
    ///
    /// # Errors
    /// If there is no such container, or it runs and `force` is false.
    pub fn removable(&self, query: &str, force: bool) -> Result<&Container, ControlError> {
        let record = self.container(query)?;
        if record.is_running() && !force {
            return Err(ControlError::StillRunning {
                name: record.name.clone(),
            });
        }
        Ok(record)
    }

    /// Forgets a container and links to it, releasing what it still has. Gives its last record; the hosts
    /// files of those in [`State::linking_to`] must be written again.
    ///
    /// # Errors
    /// If there is no such container, it runs and `force` is false, or the change cannot be stored.
    pub fn remove(&mut self, query: &str, force: bool) -> Result<Container, ControlError> {
        let record = self.removable(query, force)?.clone();
        let linking = self.without_links_to(&record.id);
        let mut changes = vec![Change::DeleteContainer(&record.id)];
        changes.extend(linking::puts(&linking));
        self.journal.commit(&changes)?;
        self.release(&record);
        self.containers.remove(&record.id);
        for parent in linking {
            if let Some(entry) = self.containers.get_mut(&parent.id) {
                entry.record = parent;
            }
        }
        Ok(record)
    }

    pub(super) fn release(&mut self, container: &Container) {
        self.release_addresses(container);
        if let Some(entry) = self.containers.get_mut(&container.id) {
            entry.leases.clear();
        }
    }

    /// Stores a container's record and puts it in place.
    pub(super) fn put(&mut self, record: Container) -> Result<(), ControlError> {
        self.journal.commit(&[Change::PutContainer(&record)])?;
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.record = record;
        }
        Ok(())
    }

    /// The container that `query` (full id, name, or prefix of one id) names.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn container(&self, query: &str) -> Result<&Container, ControlError> {
        let items = self
            .containers()
            .map(|container| (container.id.as_str(), container.name.as_str(), container));
        names::lookup(query, items).map_err(|error| match error {
            LookupError::NotFound => {
                ControlError::NoSuchContainer(query.escape_debug().to_string())
            }
            LookupError::Ambiguous => ControlError::AmbiguousPrefix(query.to_owned()),
        })
    }

    /// The network that `query` names.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn network(&self, query: &str) -> Result<&Network, ControlError> {
        let items = self
            .networks()
            .map(|network| (network.id.as_str(), network.name.as_str(), network));
        names::lookup(query, items).map_err(|error| match error {
            LookupError::NotFound => ControlError::NoSuchNetwork(query.escape_debug().to_string()),
            LookupError::Ambiguous => ControlError::AmbiguousNetwork {
                query: query.to_owned(),
                matches: self
                    .networks
                    .keys()
                    .filter(|id| id.starts_with(query))
                    .count(),
            },
        })
    }

    /// The network with this id.
    pub fn network_by_id(&self, id: &str) -> Option<&Network> {
        self.networks.get(id).map(|entry| &entry.record)
    }

    /// The container with this id.
    pub fn container_by_id(&self, id: &str) -> Option<&Container> {
        self.containers.get(id).map(|entry| &entry.record)
    }

    /// The networks that have a bridge, by id.
    pub fn bridge_networks(&self) -> impl Iterator<Item = &Network> + Clone {
        self.networks().filter(|network| network.is_bridge())
    }

    /// The default network, unless the daemon runs with `--bridge none`.
    pub fn default_network(&self) -> Option<&Network> {
        self.networks()
            .find(|network| network.name == DEFAULT_NETWORK)
    }

    /// All containers, by id.
    pub fn containers(&self) -> impl Iterator<Item = &Container> + Clone {
        self.containers.values().map(|entry| &entry.record)
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl Iterator<Item = &Network> + Clone {
        self.networks.values().map(|entry| &entry.record)
    }

    /// Every interface that should exist now, with its container and network.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Container, &Network, &Endpoint)> {
        self.containers().flat_map(move |container| {
            container.attachments.iter().filter_map(move |attachment| {
                let network = self.networks.get(&attachment.network)?;
                Some((container, &network.record, attachment.endpoint.as_ref()?))
            })
        })
    }

    /// The container that has the endpoint `number`, for naming flows.
    pub fn container_of_endpoint(&self, number: u32) -> Option<&Container> {
        self.containers()
            .find(|container| container.endpoints().any(|(_, e)| e.number == number))
    }

    /// The address pools of a network, in the order of its families.
    pub(super) fn pools(&self, network: &str) -> &[Pool] {
        self.networks.get(network).map_or(&[], |entry| &entry.pools)
    }

    /// How many addresses of a network are in use, reserved ones included.
    pub fn addresses_in_use(&self, network: &str) -> u128 {
        self.networks
            .get(network)
            .map_or(0, |entry| entry.pools.iter().map(Pool::in_use).sum())
    }

    /// Names of the host's ends of all veth pairs that should exist.
    pub fn host_interfaces(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (container, _, endpoint) in self.endpoints() {
            names.insert(endpoint.host_interface.clone());
            // Its other end is beside it until the runtime takes it.
            if container.is_delegated() {
                names.insert(endpoint.interface.clone());
            }
        }
        names
    }
}

fn pool(family: &FamilyConfig) -> Result<Pool, super::ipam::IpamError> {
    Pool::new(&family.into())
}

#[cfg(test)]
mod tests;
