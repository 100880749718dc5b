//! The bridges of all networks.
//!
//! One that cannot be made (another interface has its name, say) keeps only its own network down: it is told
//! once, and tried again whenever something changes. The default network's is different at the start
//! of the daemon, which fails then, because that is what its flags are about.
//!
//! A bridge that was there before its network is the user's, and is missed if it goes. One exception: a network of a CNI
//! configuration has found the bridge that a stock plugin made, and nobody makes it again after a restart of the host. It is
//! made, and ours from then on, when a container comes, as the stock plugin does, and at once under containers that run.
//! Otherwise it is left to its user, who may be about to make it himself.

use anyhow::Context;
use ipnet::IpNet;

use super::core::{BridgePort, Core};
use crate::api::server::ApiError;
use crate::api::types::CNI_NETWORK;
use crate::control::State;
use crate::control::mac::MacAddress;
use crate::control::records::{GatewayMode, Network};
use crate::kernel::{Bridge, BridgeSpec, Link, NetlinkError};
use crate::steering::Subnet;

impl Core {
    /// Makes the bridges of all networks what they should be, again if somebody has deleted them.
    pub(super) async fn ensure_bridges(&self, state: &mut State) -> anyhow::Result<()> {
        if state.bridge_networks().any(is_replaceable) {
            let in_use = state.networks_in_use();
            self.own_missing_bridges(state, |network| in_use.contains(&network.id))
                .await?;
        }
        let networks: Vec<Network> = state.bridge_networks().cloned().collect();
        let specs: Vec<BridgeSpec> = networks.iter().map(spec).collect();
        let outcomes = self.netlink.ensure_bridges(&specs).await?;
        let mut default = Ok(());
        for (network, outcome) in networks.iter().zip(outcomes) {
            match outcome {
                Ok(bridge) => self.note_bridge(state, network, &bridge)?,
                Err(error) => {
                    let mut facts = self.facts.lock();
                    facts.bridges.remove(&network.id);
                    let told = facts.broken.insert(network.id.clone(), error.to_string());
                    let first = told.is_none();
                    drop(facts);
                    if state.default_network().map(|n| &n.id) == Some(&network.id) {
                        default = Err(error).with_context(|| {
                            format!("cannot set up bridge {}", network.config.bridge)
                        });
                    } else if first {
                        tracing::warn!(
                            network = %network.name, bridge = %network.config.bridge, %error,
                            "cannot set up a network's bridge"
                        );
                    }
                }
            }
        }
        default
    }

    /// Bridges that CNI networks have found, that were somebody's and are gone: from now on they are ours to make. The stock
    /// plugin makes them whenever a container comes.
    pub(super) async fn own_missing_bridges(
        &self,
        state: &mut State,
        wanted: impl Fn(&Network) -> bool,
    ) -> anyhow::Result<()> {
        let found: Vec<Network> = state
            .bridge_networks()
            .filter(|network| is_replaceable(network) && wanted(network))
            .cloned()
            .collect();
        for network in found {
            if self.netlink.link(&network.config.bridge).await?.is_none() {
                let owned = tokio::task::block_in_place(|| state.own_bridge(&network.id));
                if let Err(error) = owned {
                    // Its own network stays down, and no other.
                    tracing::warn!(network = %network.name, %error, "cannot make a bridge ours");
                }
            }
        }
        Ok(())
    }

    /// Makes the bridge that an endpoint is to be plugged into if it is such a one.
    pub(super) async fn replace_missing_bridge(
        &self,
        state: &mut State,
        network: &str,
    ) -> Result<(), ApiError> {
        let is_it = |other: &Network| other.id == network && is_replaceable(other);
        if !state.bridge_networks().any(is_it) {
            return Ok(());
        }
        let owned = self.own_missing_bridges(state, is_it).await;
        owned.map_err(|error| ApiError::internal(format!("{error:#}")))?;
        let has_bridge = self.facts.lock().bridges.contains_key(network);
        match state.network_by_id(network).cloned() {
            Some(network) if network.config.managed || !has_bridge => {
                self.make_bridge(state, &network).await?;
                self.look(state).await
            }
            _ => Ok(()),
        }
    }

    /// Makes the bridge of a new network.
    pub(super) async fn make_bridge(
        &self,
        state: &mut State,
        network: &Network,
    ) -> Result<(), ApiError> {
        let made = self.netlink.ensure_bridge(&spec(network)).await;
        let bridge = made.map_err(|error| {
            if let NetlinkError::NotABridge(_) = error {
                let advice = "choose another com.docker.network.bridge.name";
                return ApiError::new(403, format!("{error}: {advice}"));
            }
            ApiError::internal(format!(
                "cannot set up bridge {}: {error}",
                network.config.bridge
            ))
        })?;
        self.note_bridge(state, network, &bridge)
            .map_err(|error| ApiError::internal(format!("{error:#}")))
    }

    /// Deletes the bridge of a network that goes, if it is ours. Containers of others may be on it by now: then it stays, which
    /// is told. `links`: all there are.
    pub(super) async fn delete_bridge(
        &self,
        state: &State,
        network: &Network,
        links: &[Link],
    ) -> Result<Option<String>, NetlinkError> {
        if !network.config.managed {
            return Ok(None);
        }
        let bridge = &network.config.bridge;
        let ours = state.host_interfaces();
        let strangers = self
            .netlink
            .delete_bridge_without(bridge, &ours, links)
            .await?;
        let left = bridge_is_left(bridge, &strangers);
        if let Some(left) = &left {
            tracing::warn!(network = %network.name, "{left}");
        }
        Ok(left)
    }

    fn note_bridge(
        &self,
        state: &mut State,
        network: &Network,
        bridge: &Bridge,
    ) -> anyhow::Result<()> {
        if bridge.mac != network.bridge_mac.octets() {
            let mac = MacAddress::from_octets(bridge.mac)?;
            tokio::task::block_in_place(|| state.set_bridge_mac(&network.id, mac))?;
        }
        if bridge.created {
            tracing::info!(network = %network.name, bridge = %network.config.bridge, "bridge made");
        }
        let mut facts = self.facts.lock();
        facts.broken.remove(&network.id);
        let port = BridgePort {
            if_index: bridge.if_index,
            mac: bridge.mac,
        };
        facts.bridges.insert(network.id.clone(), port);
        Ok(())
    }

    /// The subnets of all networks whose bridges are there.
    pub(super) fn subnets(&self, state: &State) -> Vec<Subnet> {
        let facts = self.facts.lock();
        let with_bridge = state
            .bridge_networks()
            .filter_map(|network| Some((network, *facts.bridges.get(&network.id)?)));
        with_bridge
            .flat_map(|(network, bridge)| {
                let families = network.config.families.iter();
                // Link-local packets stay on their link; every link has the same prefix.
                let families = families.filter(|family| !is_link_local(&family.subnet));
                families.map(move |family| Subnet {
                    prefix: family.subnet,
                    bridge_if_index: bridge.if_index,
                    bridge_mac: bridge.mac,
                    routed: !network.config.internal
                        && (!family.masquerade || family.mode == GatewayMode::NatUnprotected),
                })
            })
            .collect()
    }
}

/// What to say of a bridge on which interfaces of others are.
pub(super) fn bridge_is_left(bridge: &str, strangers: &[String]) -> Option<String> {
    const SHOWN: usize = 4;
    if strangers.is_empty() {
        return None;
    }
    let mut names = strangers[..strangers.len().min(SHOWN)].join(", ");
    if strangers.len() > SHOWN {
        names.push_str(", ...");
    }
    Some(format!(
        "bridge {bridge} stays, because interfaces that are not tunbridge's are on it ({names}): once they are gone, `ip link delete {bridge}` removes it"
    ))
}

/// Somebody else has made its bridge, and a runtime asked for that network by a configuration, which wants it made.
pub(super) fn is_replaceable(network: &Network) -> bool {
    !network.config.managed && network.labels.contains_key(CNI_NETWORK)
}

fn is_link_local(subnet: &IpNet) -> bool {
    match subnet {
        IpNet::V4(_) => false,
        IpNet::V6(subnet) => subnet.network().is_unicast_link_local(),
    }
}

fn spec(network: &Network) -> BridgeSpec {
    let config = &network.config;
    BridgeSpec {
        name: config.bridge.clone(),
        addresses: config.bridge_addresses(),
        // Where the host has no address it has no link-local one either: the network is isolated from it.
        ipv6: config.link_local || config.v6().is_some_and(|family| family.bridge_address),
        mtu: config.mtu,
        mac: network.bridge_mac.octets(),
        user_managed: !config.managed,
    }
}
