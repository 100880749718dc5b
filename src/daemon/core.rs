//! The daemon's heart: the control state and the handles on everything it arranges.
//!
//! One lock, [`Core::state`], is held for the whole of every operation that changes something, kernel
//! work included: operations are short (milliseconds), and nothing has to reason about
//! a container that is half made. The packet path never takes it. The one exception is an endpoint of another runtime
//! whose interface is being deleted ([`Core::going`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, oneshot};

use super::files::{HostFiles, Written};
use super::host::KernelHost;
use super::ndp::Proxy;
use super::sysctls::LoopbackSysctls;
use crate::api::events::EventBus;
use crate::api::server::ApiError;
use crate::control::filters::FilterError;
use crate::control::projections::{self, Publication};
use crate::control::{ControlError, State};
use crate::dns::{Resolver, View};
use crate::engine::{Clock, Engine};
use crate::forwarder::{EndpointId, Forwarder, Policy};
use crate::kernel::Netlink;
use crate::kernel::announce::Announcement;
use crate::steering::{ContainerPort, LocalAddress, Steering, SteeringError};

/// Everything that lives as long as the daemon.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) state: tokio::sync::Mutex<State>,
    pub(super) netlink: Netlink,
    pub(super) steering: Mutex<Steering>,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) host: Arc<KernelHost>,
    pub(super) clock: Clock,
    pub(super) engine: Engine,
    pub(super) facts: Mutex<Facts>,
    pub(super) projected: Mutex<Projected>,
    pub(super) resolver: Resolver,
    /// By name of the uplink.
    pub(super) ndp_proxies: Mutex<BTreeMap<String, Proxy>>,
    /// Addresses that are being announced, by endpoint number.
    pub(super) announcements: Mutex<BTreeMap<u32, Announcement>>,
    /// Endpoints whose interfaces are being deleted, by number.
    pub(super) going: Mutex<BTreeSet<u32>>,
    /// By container id: what ends the wait for a process when it is dropped.
    pub(super) watches: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
    /// What happened, for `GET /events`.
    pub(super) events: EventBus,
}

/// Choices made at the start.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) state_dir: PathBuf,
    pub(super) tun_name: String,
    pub(super) tun_index: u32,
    /// `--ip-forward`.
    pub(super) ip_forward: bool,
    /// What `lo` had before.
    pub(super) loopback: LoopbackSysctls,
}

/// What the kernel said last about links and addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The host's addresses and where they are.
    pub(super) locals: Vec<LocalAddress>,
    /// Interfaces that have the uplink program.
    pub(super) uplinks: BTreeSet<u32>,
    /// Interfaces whose frames have an Ethernet header.
    pub(super) ethernet: BTreeSet<u32>,
    /// Interfaces of the IPv4 and the IPv6 default route.
    pub(super) default_uplinks: [Option<u32>; 2],
    /// Ethernet addresses of the host's interfaces.
    pub(super) macs: Vec<[u8; 6]>,
    /// Interfaces that have the uplink program, by name.
    pub(super) uplink_names: BTreeMap<String, u32>,
    /// Some network has IPv6.
    pub(super) ipv6: bool,
    /// The bridges of networks, by network id.
    pub(super) bridges: BTreeMap<String, BridgePort>,
    /// Why networks have no bridge, by id.
    pub(super) broken: BTreeMap<String, String>,
}

/// A bridge as steering needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BridgePort {
    pub(super) if_index: u32,
    pub(super) mac: [u8; 6],
}

/// What forwarder, steering and resolvers were told last.
#[derive(Debug, Default)]
pub(super) struct Projected {
    policy: Policy,
    published: BTreeSet<Port>,
    /// Endpoints that take part in a link, by number.
    pub(super) linked: BTreeSet<u32>,
    /// Interfaces of containers, by endpoint number.
    pub(super) ports: BTreeMap<u32, ContainerPort>,
    /// Containers that have a resolver, by id.
    pub(super) views: BTreeMap<String, View>,
    /// Containers that should have one, by id, and why they do not.
    pub(super) nameless: BTreeMap<String, String>,
    /// What the files of containers were made of, by id.
    pub(super) files: BTreeMap<String, Written>,
    pub(super) host_files: Arc<HostFiles>,
}

/// A published port: protocol number, host address, port.
pub(super) type Port = (u8, IpAddr, u16);

impl Core {
    /// The state, for one operation.
    pub(super) async fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// Addresses of the host, loopback included, as the forwarder needs them.
    fn local_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .facts
            .lock()
            .locals
            .iter()
            .map(|local| local.address)
            .collect();
        addresses.push(Ipv4Addr::LOCALHOST.into());
        addresses.push(Ipv6Addr::LOCALHOST.into());
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Makes forwarder and steering follow the state. A port is diverted only while the forwarder
    /// knows what to do with it: taken back first, published last.
    pub(super) fn project(&self, state: &State) -> Result<(), SteeringError> {
        let wanted: BTreeSet<Port> = projections::publications(state)
            .iter()
            .flat_map(|publication| {
                let (protocol, address) = (publication.protocol, publication.address);
                publication
                    .ports()
                    .map(move |port| (protocol, address, port))
            })
            .collect();
        let policy = projections::policy(state, &self.local_addresses());
        let mut projected = self.projected.lock();
        let mut steering = self.steering.lock();
        let gone: Vec<Port> = projected.published.difference(&wanted).copied().collect();
        for range in ranges(&gone) {
            steering.unpublish(range.protocol, range.address, range.ports())?;
        }
        projected.published.retain(|port| wanted.contains(port));
        // Even an equal policy makes the forwarder look at every flow.
        if policy != projected.policy {
            projected.linked = policy
                .links
                .iter()
                .flat_map(|link| [link.client.0, link.server.0])
                .collect();
            self.forwarder.set_policy(policy.clone(), self.clock.now());
            projected.policy = policy;
        }
        let new: Vec<Port> = wanted.difference(&projected.published).copied().collect();
        for range in ranges(&new) {
            // Noted first: what fails half way must be taken back as a whole.
            let (protocol, address) = (range.protocol, range.address);
            projected
                .published
                .extend(range.ports().map(|port| (protocol, address, port)));
            steering.publish(protocol, address, range.ports())?;
        }
        Ok(())
    }

    /// Names of containers by endpoint, for reports.
    pub(super) fn endpoint_names(state: &State) -> BTreeMap<EndpointId, String> {
        state
            .endpoints()
            .map(|(container, _, endpoint)| (EndpointId(endpoint.number), container.name.clone()))
            .collect()
    }
}

/// Joins consecutive ports of one protocol and address.
fn ranges<'a>(ports: impl IntoIterator<Item = &'a Port>) -> Vec<Publication> {
    let mut joined: Vec<Publication> = Vec::new();
    for &(protocol, address, port) in ports {
        match joined.last_mut() {
            Some(last)
                if last.protocol == protocol
                    && last.address == address
                    && last.last.checked_add(1) == Some(port) =>
            {
                last.last = port;
            }
            _ => joined.push(Publication {
                protocol,
                address,
                first: port,
                last: port,
            }),
        }
    }
    joined
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        Self::new(error.http_status(), error.to_string())
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::new(error.http_status(), error.to_string())
    }
}

impl From<SteeringError> for ApiError {
    fn from(error: SteeringError) -> Self {
        Self::internal(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_ports_of_one_address_join() {
        let any = IpAddr::from([0, 0, 0, 0]);
        let one = IpAddr::from([127, 0, 0, 1]);
        let ports = BTreeSet::from([
            (6, any, 80),
            (6, any, 81),
            (6, any, 83),
            (6, one, 84),
            (17, any, 65_535),
        ]);
        let joined: Vec<_> = ranges(ports.iter())
            .into_iter()
            .map(|range| (range.protocol, range.address, range.first, range.last))
            .collect();
        assert_eq!(
            joined,
            [
                (6, any, 80, 81),
                (6, any, 83, 83),
                (6, one, 84, 84),
                (17, any, 65_535, 65_535)
            ]
        );
    }
}
