//! A state for tests of decisions: no disk, no sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv6Net;
use parking_lot::Mutex;

use super::address_pool::AddressPools;
use super::daemon_options::{BridgeOptions, HostFacts};
use super::files::DnsSettings;
use super::network_config::{FamilyConfig, GatewayMode, NetworkConfig};
use super::port_allocator::PortAllocator;
use super::port_holder::{HeldPort, HoldError, HoldPorts};
use super::records::{Container, Network};
use super::state::{NetworkEntry, Settings, State};
use super::store::{Change, Journal, Records, StoreError};
use super::timestamp::Timestamp;
use super::transport::Transport;
use crate::api::types::{CreateContainer, CreateNetwork, EndpointSettings, NetworkAttachment};

/// Holds nothing; refuses the ports that are in the set.
#[derive(Clone, Debug, Default)]
pub(super) struct Paper(pub(super) Arc<Mutex<BTreeSet<u16>>>);

impl HoldPorts for Paper {
    fn hold(&self, _: Transport, _: IpAddr, port: u16) -> Result<HeldPort, HoldError> {
        if self.0.lock().contains(&port) {
            Err(HoldError::InUse)
        } else {
            Ok(HeldPort::without_socket())
        }
    }
}

/// Remembers what is committed, and fails on demand.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(pub(super) Arc<Mutex<(Records, bool)>>);

impl Memory {
    pub(super) fn records(&self) -> Records {
        self.0.lock().0.clone()
    }

    pub(super) fn fail(&self, fail: bool) {
        self.0.lock().1 = fail;
    }
}

impl Journal for Memory {
    fn commit(&mut self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let mut memory = self.0.lock();
        if memory.1 {
            return Err(StoreError::Other {
                path: "/state".into(),
                problem: "disk full".into(),
            });
        }
        let records = &mut memory.0;
        for change in changes {
            match *change {
                Change::PutNetwork(network) => {
                    records.networks.retain(|other| other.id != network.id);
                    records.networks.push(network.clone());
                }
                Change::DeleteNetwork(id) => records.networks.retain(|other| other.id != id),
                Change::PutContainer(container) => {
                    records.containers.retain(|other| other.id != container.id);
                    records.containers.push(container.clone());
                }
                Change::DeleteContainer(id) => records.containers.retain(|other| other.id != id),
                Change::PutPool(pool) => {
                    records.pools.retain(|other| other.id != pool.id);
                    records.pools.push(pool.clone());
                }
                Change::DeletePool(id) => records.pools.retain(|other| other.id != id),
                Change::PutCounters(counters) => records.counters = counters,
            }
        }
        Ok(())
    }
}

pub(super) fn config(set: impl FnOnce(&mut BridgeOptions)) -> NetworkConfig {
    let mut options = BridgeOptions::default();
    set(&mut options);
    let pools = options.address_pools("").unwrap();
    let resolved = options.resolve(&HostFacts::default(), &pools);
    resolved.unwrap().unwrap()
}

pub(super) fn settings() -> Settings {
    Settings {
        netns_dir: "/run/netns".into(),
        containers_dir: "/var/lib/tunbridge/containers".into(),
        dns: DnsSettings::default(),
        pools: AddressPools::default(),
        default_network_options: BTreeMap::new(),
        has_ipv6: false,
    }
}

/// Opens what `memory` has, as a daemon that starts does.
pub(super) fn open(memory: &Memory, paper: &Paper) -> (State, Vec<String>) {
    let ports = PortAllocator::new(Arc::new(paper.clone()), 32_768..=60_999, []);
    State::open(
        Box::new(memory.clone()),
        memory.records(),
        ports,
        settings(),
    )
    .unwrap()
}

/// An empty state with the default network.
pub(super) fn fresh() -> (State, Memory, Paper) {
    let (memory, paper) = (Memory::default(), Paper::default());
    let (mut state, _) = open(&memory, &paper);
    state
        .set_default_network(Some(&config(|_| {})), at(0))
        .unwrap();
    (state, memory, paper)
}

/// `seconds` after the moment when the transcripts were made.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanoseconds((1_795_244_396 + seconds) * 1_000_000_000 + 428_803_446)
}

pub(super) fn request(name: &str, publish: &[&str]) -> CreateContainer {
    CreateContainer {
        name: Some(name.to_owned()),
        publish: publish.iter().map(|&spec| spec.to_owned()).collect(),
        command: vec!["sleep".to_owned(), "100000".to_owned()],
        ..CreateContainer::default()
    }
}

/// Makes a network of a user's.
pub(super) fn make(
    state: &mut State,
    name: &str,
    set: impl FnOnce(&mut CreateNetwork),
) -> Result<Network, String> {
    let mut request = CreateNetwork {
        name: name.to_owned(),
        ..CreateNetwork::default()
    };
    set(&mut request);
    let made = state.create_network(&request, &HostFacts::default(), at(0));
    made.map(|(network, _)| network)
        .map_err(|error| error.to_string())
}

/// Sets an option of a network.
pub(super) fn option(request: &mut CreateNetwork, key: &str, value: &str) {
    let key = format!("com.docker.network.{key}");
    request.options.insert(key, value.to_owned());
}

/// Gives a network that has no containers an IPv6 subnet, whose first address is the gateway.
pub(super) fn add_ipv6(state: &mut State, network: &str, subnet: &str, mode: GatewayMode) {
    let subnet: Ipv6Net = subnet.parse().unwrap();
    change_families(state, network, |families| {
        families.push(FamilyConfig {
            subnet: subnet.into(),
            configured: true,
            allocation_range: None,
            auxiliary: BTreeMap::new(),
            gateway: subnet.hosts().nth(1).map(IpAddr::V6),
            bridge_address: true,
            container_gateway: None,
            mode,
            masquerade: mode.has_nat(),
            source: None,
        });
    });
}

/// Changes the addresses of a network that has no containers.
pub(super) fn change_families(
    state: &mut State,
    network: &str,
    change: impl FnOnce(&mut Vec<FamilyConfig>),
) {
    let mut record = state.network(network).unwrap().clone();
    change(&mut record.config.families);
    state
        .journal
        .commit(&[Change::PutNetwork(&record)])
        .unwrap();
    let id = record.id.clone();
    state
        .networks
        .insert(id, NetworkEntry::new(record).unwrap());
}

/// Networks of a container, without wishes.
pub(super) fn on(networks: &[&str]) -> Vec<NetworkAttachment> {
    let attachment = |name: &&str| NetworkAttachment {
        network: (*name).to_owned(),
        settings: EndpointSettings::default(),
    };
    networks.iter().map(attachment).collect()
}

/// A container that runs on some networks.
pub(super) fn run_on(
    state: &mut State,
    name: &str,
    networks: &[&str],
    set: impl FnOnce(&mut CreateContainer),
) -> Container {
    let mut wanted = request(name, &[]);
    wanted.networks = on(networks);
    set(&mut wanted);
    state.create_container(&wanted, at(0)).unwrap();
    state.set_started(name, None, at(1)).unwrap()
}

/// The default network, with a wish for an address and a MAC.
pub(super) fn attachment(address: Option<[u8; 4]>, mac: Option<&str>) -> Vec<NetworkAttachment> {
    let mut attachment = NetworkAttachment::default();
    attachment.settings.ipam_config.ipv4_address = address.map(Into::into);
    attachment.settings.mac_address = mac.map(str::to_owned);
    vec![attachment]
}
