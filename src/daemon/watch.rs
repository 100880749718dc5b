//! Keeping up with the kernel.
//!
//! Notifications only say *that* something changed; what is, is read anew ([`Core::observe`]), compared
//! with what was, and the difference applied. So a lost notification costs nothing once any other
//! one arrives, and an overrun is handled like every other event. Forwarding sysctls are put back first
//! of all, because `sysctl net.ipv4.ip_forward=0` also resets the TUN's own one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::core::{Core, Facts};
use super::limits::bandwidth;
use crate::api::server::ApiError;
use crate::control::State;
use crate::forwarder::{HostPorts, Protocol};
use crate::kernel::dump::{Link, TABLE_MAIN};
use crate::kernel::forwarding::Keeper;
use crate::kernel::{Event, Watcher, host_ports};
use crate::steering::LocalAddress;

/// Links and addresses come in bursts; one look serves them all.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// How long a burst may hold up the look.
const PATIENCE: Duration = Duration::from_millis(200);

/// A look takes longer the more there is (20 ms with 500 containers), and holds up requests. Most are about changes
/// of our own making, so between two of them there are as many times what the last one took.
const REST: u32 = 4;

/// How often the host's own sockets are looked at; there is no notification for them. Steering gives
/// a socket its packets at once, this only keeps new mappings off its port.
const HOST_PORTS_INTERVAL: Duration = Duration::from_secs(1);

/// Its queues cannot be used again, and steering is attached to it: only a new start helps.
#[derive(Debug, thiserror::Error)]
#[error("interface {0} was deleted, so no container reaches anything: start the daemon again")]
struct TunLost(String);

impl Core {
    /// Follows the kernel until the daemon stops, or cannot go on.
    pub(super) async fn follow(self: Arc<Self>, mut watcher: Watcher) -> anyhow::Error {
        let mut rested = Instant::now();
        loop {
            let mut changed = false;
            match watcher.next().await {
                Ok(event) => changed |= self.note(&event),
                Err(error) => {
                    tracing::warn!(%error, "kernel notifications failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    changed = true;
                }
            }
            let last = rested.max(Instant::now()) + PATIENCE;
            while Instant::now() < last {
                let pause = DEBOUNCE.max(rested.saturating_duration_since(Instant::now()));
                match tokio::time::timeout(pause, watcher.next()).await {
                    Ok(Ok(event)) => changed |= self.note(&event),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            if changed {
                let mut state = self.lock().await;
                let start = Instant::now();
                if let Err(error) = self.reconcile(&mut state).await {
                    if error.is::<TunLost>() {
                        return error;
                    }
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "cannot follow a change of the network"
                    );
                }
                rested = Instant::now() + REST * start.elapsed();
            }
        }
    }

    /// Handles what cannot wait; true if the network must be looked at.
    fn note(&self, event: &Event) -> bool {
        self.keep_forwarding(event);
        if matches!(event, Event::Forwarding { .. }) {
            return false;
        }
        self.host.forget_routes();
        self.forwarder.routes_changed();
        true
    }

    /// Sets again what somebody cleared: forwarding on the TUN, with `--ip-forward` the host's.
    pub(super) fn keep_forwarding(&self, event: &Event) {
        let keeper = Keeper {
            host_wide_v4: self.settings.ip_forward,
            // As in Docker, only for networks that need it: it makes the host ignore router advertisements.
            host_wide_v6: self.settings.ip_forward && self.facts.lock().ipv6,
            tun: Some((self.settings.tun_index, self.settings.tun_name.clone())),
        };
        match keeper.on_event(event) {
            Ok(changes) => {
                for change in changes {
                    tracing::info!("{change}");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot keep forwarding on"),
        }
    }

    /// Makes bridge, steering and forwarder follow what links and addresses there are.
    pub(super) async fn reconcile(&self, state: &mut State) -> anyhow::Result<()> {
        self.ensure_bridges(state).await?;
        let links = self.netlink.links().await?;
        self.check_tun(&links).await?;
        self.reconnect(state, &links).await?;
        let facts = self.observe(state, &links).await?;
        self.apply(state, facts)
            .await
            .context("cannot update steering")
    }

    /// The TUN must be there, and up.
    async fn check_tun(&self, links: &[Link]) -> anyhow::Result<()> {
        let tun = links
            .iter()
            .find(|link| link.index == self.settings.tun_index)
            .ok_or_else(|| TunLost(self.settings.tun_name.clone()))?;
        if !tun.up {
            self.netlink.set_up(tun.index).await?;
            tracing::warn!(interface = %tun.name, "was down, up again");
        }
        Ok(())
    }

    /// Puts back veth pairs that somebody took off their bridge or deleted.
    async fn reconnect(&self, state: &State, links: &[Link]) -> anyhow::Result<()> {
        let bridges = self.facts.lock().bridges.clone();
        let by_name: HashMap<&str, &Link> = links
            .iter()
            .map(|link| (link.name.as_str(), link))
            .collect();
        for (container, network, endpoint) in state.endpoints() {
            let Some(bridge) = bridges.get(&network.id) else {
                continue;
            };
            match by_name.get(endpoint.host_interface.as_str()) {
                Some(link) => {
                    if link.master != Some(bridge.if_index) {
                        self.netlink.set_master(link.index, bridge.if_index).await?;
                        tracing::warn!(interface = %link.name, "put back on the bridge");
                    }
                    if !link.up {
                        self.netlink.set_up(link.index).await?;
                        tracing::warn!(interface = %link.name, "was down, up again");
                    }
                    // A former daemon's, which may have died before it was limited.
                    let is_new = !self.projected.lock().ports.contains_key(&endpoint.number);
                    if is_new
                        && !bandwidth(container, network).is_unlimited()
                        && let Err(error) = self
                            .keep_buckets(container, network, endpoint, link.index)
                            .await
                    {
                        tracing::warn!(
                            container = %container.name, error = %error.message, "bandwidth is not limited"
                        );
                    }
                    self.steer(container, network, endpoint, link.index)
                        .map_err(|e| io::Error::other(e.message))?;
                }
                // The runtime's part cannot be made again, and what is going stays away.
                None if container.is_delegated() || self.is_going(endpoint) => {}
                None => match self.plug(container, network, endpoint).await {
                    Ok(()) => {
                        tracing::warn!(container = %container.name, "interface was gone, made again");
                        self.route_if_possible(state, container, None).await;
                    }
                    Err(error) => tracing::warn!(
                        container = %container.name, error = %error.message, "interface is gone"
                    ),
                },
            }
        }
        Ok(())
    }

    async fn observe(&self, state: &State, links: &[Link]) -> anyhow::Result<Facts> {
        let own: BTreeSet<&str> = state
            .bridge_networks()
            .map(|network| network.config.bridge.as_str())
            .chain([self.settings.tun_name.as_str()])
            .collect();
        let veths = state.host_interfaces();
        // A port's traffic shows up at its bridge, team or bond; that one gets the program.
        let uplink_names: BTreeMap<String, u32> = links
            .iter()
            .filter(|link| !link.loopback && link.master.is_none())
            .filter(|link| !own.contains(link.name.as_str()) && !veths.contains(&link.name))
            .map(|link| (link.name.clone(), link.index))
            .collect();
        let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        let locals = self
            .netlink
            .addresses()
            .await?
            .into_iter()
            .map(|address| {
                let link = by_index.get(&address.if_index);
                LocalAddress {
                    address: address.address.addr(),
                    if_index: address.if_index,
                    mac: link.and_then(|link| link.mac).unwrap_or_default(),
                    ethernet: link.is_some_and(|link| link.ethernet),
                }
            })
            .collect();
        let ethernet = links
            .iter()
            .filter(|link| link.ethernet)
            .map(|link| link.index)
            .collect();
        let routes = self.netlink.routes().await?;
        let default_uplink = |ipv4: bool| {
            let defaults = routes.iter().filter(|route| {
                let destination = route.destination;
                route.table == TABLE_MAIN
                    && destination.prefix_len() == 0
                    && destination.addr().is_ipv4() == ipv4
            });
            let best = defaults.min_by_key(|route| route.priority)?;
            best.next_hops.first().map(|hop| hop.if_index)
        };
        let macs = links.iter().filter(|link| link.ethernet);
        let before = self.facts.lock();
        Ok(Facts {
            locals,
            macs: macs.filter_map(|link| link.mac).collect(),
            uplinks: uplink_names.values().copied().collect(),
            uplink_names,
            ipv6: state
                .bridge_networks()
                .any(|network| network.config.has_ipv6()),
            ethernet,
            default_uplinks: [true, false].map(default_uplink),
            bridges: before.bridges.clone(),
            broken: before.broken.clone(),
        })
    }

    /// Looks at links and addresses again and makes steering and forwarder follow.
    pub(super) async fn look(&self, state: &State) -> Result<(), ApiError> {
        let seen = async {
            let links = self.netlink.links().await?;
            let facts = self.observe(state, &links).await?;
            self.apply(state, facts).await
        };
        seen.await
            .map_err(|error| ApiError::internal(format!("cannot update steering: {error:#}")))
    }

    async fn apply(&self, state: &State, facts: Facts) -> anyhow::Result<()> {
        let subnets = self.subnets(state);
        {
            let mut steering = self.steering.lock();
            steering.set_subnets(&subnets)?;
            steering.set_local_addresses(&facts.locals)?;
            steering.set_local_macs(&facts.macs)?;
            let [ipv4, ipv6] = facts.default_uplinks;
            steering.set_default_uplinks(ipv4, ipv6)?;
            let before = std::mem::take(&mut self.facts.lock().uplinks);
            for gone in before.difference(&facts.uplinks) {
                steering.detach_uplink(*gone);
            }
            for new in facts.uplinks.difference(&before) {
                match steering.attach_uplink(*new, facts.ethernet.contains(new)) {
                    Ok(()) => tracing::info!(if_index = new, "uplink attached"),
                    Err(error) => {
                        tracing::warn!(if_index = new, %error, "cannot attach to an uplink")
                    }
                }
            }
        }
        let former = std::mem::replace(&mut *self.facts.lock(), facts);
        if self.facts.lock().ipv6 && !former.ipv6 {
            self.keep_forwarding(&Event::Overrun);
        }
        self.settle(state)
            .await
            .map_err(|error| anyhow::anyhow!(error.message))
    }

    /// Looks at the host's own sockets, over and over.
    pub(super) async fn follow_host_ports(self: Arc<Self>) {
        loop {
            match tokio::task::spawn_blocking(host_ports::host_ports).await {
                Ok(Ok(ports)) => self.forwarder.set_host_ports(host_ports_of(&ports)),
                Ok(Err(error)) => tracing::debug!(%error, "cannot list the host's sockets"),
                Err(_) => return,
            }
            tokio::time::sleep(HOST_PORTS_INTERVAL).await;
        }
    }
}

fn host_ports_of(kernel: &host_ports::HostPorts) -> HostPorts {
    let mut ports = HostPorts::new();
    for (protocol, used) in [(Protocol::Tcp, &kernel.tcp), (Protocol::Udp, &kernel.udp)] {
        for port in used.listening.iter() {
            ports.insert(protocol, port);
        }
        for port in used.in_use.iter() {
            ports.insert_connected(protocol, port);
        }
    }
    ports
}
