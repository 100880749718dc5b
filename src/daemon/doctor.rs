//! `tunbridge doctor`: what the kernel layer finds on the host, and whether steering is in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::bridges::is_replaceable;
use super::core::Core;
use crate::api::types::{Finding, Severity};
use crate::control::records::{self, GatewayMode, Kind};
use crate::forwarder::Config;
use crate::kernel::doctor::{self, Network, Scope};
use crate::kernel::{NetlinkError, netns};

impl Core {
    /// Everything worth telling, what is in order included.
    pub(super) async fn examine(&self) -> Vec<Finding> {
        let mut bridgeless = Vec::new();
        let (networks, ports) = {
            let state = self.lock().await;
            let broken = self.facts.lock().broken.clone();
            let without = state.bridge_networks().filter_map(|network| {
                let reason = broken.get(&network.id)?;
                Some(without_bridge(network, reason))
            });
            bridgeless.extend(without);
            let default = state.default_network().map(|network| network.id.clone());
            let networks = state.bridge_networks().map(|network| Network {
                name: network.name.clone(),
                default: default.as_ref() == Some(&network.id),
                bridge: network.config.bridge.clone(),
                managed: network.config.managed,
                internal: network.config.internal,
                subnets: network
                    .config
                    .bridge_addresses()
                    .iter()
                    .map(ipnet::IpNet::trunc)
                    .collect(),
                routed: network
                    .config
                    .families
                    .iter()
                    .filter(|family| family.mode == GatewayMode::Routed)
                    .map(|family| family.subnet)
                    .collect(),
                ndp_proxy: network.config.ndp_proxy.clone(),
                mtu: network.config.mtu,
            });
            (networks.collect(), state.host_interfaces())
        };
        let pools = Config::default();
        let scope = Scope {
            tun: Some(self.settings.tun_name.clone()),
            networks,
            ports,
            external_ports: vec![pools.exclusive_ports, pools.shared_ports],
            keeps_forwarding: self.settings.ip_forward,
            ..Scope::default()
        };
        let mut findings = match doctor::examine(&self.netlink, &scope).await {
            Ok(findings) => findings.into_iter().map(finding).collect(),
            Err(error) => vec![Finding {
                severity: Severity::Error,
                subject: "netlink".to_owned(),
                found: error.to_string(),
                why: "the host cannot be examined".to_owned(),
                fix: String::new(),
            }],
        };
        findings.push(self.programs().await);
        findings.append(&mut bridgeless);
        findings.extend(self.abandoned().await);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    /// Containers that their runtime has ended without a word, because it calls another plugin or hook by now.
    async fn abandoned(&self) -> Option<Finding> {
        let adopted: Vec<(String, PathBuf)> = {
            let state = self.lock().await;
            let of_runtimes = state
                .containers()
                .filter(|c| c.runtime.is_some() && c.is_running() && c.kind == Kind::Adopted);
            let places = of_runtimes.map(|c| (c.name.clone(), c.netns.clone()));
            places.collect()
        };
        if adopted.is_empty() {
            return None;
        }
        let names = tokio::task::block_in_place(|| {
            let inhabited: BTreeSet<_> = netns::of_processes()?.collect();
            let is_empty = |path: &Path| {
                let namespace = netns::open_path(path).and_then(netns::id);
                namespace.is_ok_and(|namespace| !inhabited.contains(&namespace))
            };
            let empty = adopted.into_iter().filter(|(_, path)| is_empty(path));
            Some(empty.map(|(name, _)| name).collect::<Vec<_>>())
        })?;
        if names.is_empty() {
            return None;
        }
        Some(Finding {
            severity: Severity::Warning,
            subject: "containers of other runtimes".to_owned(),
            found: format!("no process is in the network namespace of {}", names.join(", ")),
            why: "If the runtime has ended them, it did not call tunbridge (`tunbridge cni uninstall` while they ran, say), \
                  and their addresses and ports stay taken."
                .to_owned(),
            fix: format!("tunbridge rm -f {}", names.join(" ")),
        })
    }

    /// Are the programs where they should be?
    async fn programs(&self) -> Finding {
        let names: BTreeMap<u32, String> = self
            .netlink
            .links()
            .await
            .unwrap_or_default()
            .into_iter()
            .map(|link| (link.index, link.name))
            .collect();
        let name = |index: &u32| {
            names
                .get(index)
                .cloned()
                .unwrap_or_else(|| index.to_string())
        };
        let attached = self.steering.lock().attached();
        let mut places: BTreeMap<u32, String> = BTreeMap::new();
        for attachment in &attached {
            places.insert(
                attachment.if_index,
                format!("{} ({})", attachment.program, attachment.mode),
            );
        }
        let facts = self.facts.lock();
        let missing: Vec<String> = facts
            .uplinks
            .iter()
            .filter(|uplink| !places.contains_key(uplink))
            .map(name)
            .collect();
        let found = places
            .iter()
            .map(|(index, place)| format!("{}: {place}", name(index)))
            .collect::<Vec<_>>()
            .join(", ");
        Finding {
            severity: if missing.is_empty() {
                Severity::Ok
            } else {
                Severity::Error
            },
            subject: "steering programs".to_owned(),
            found: if missing.is_empty() {
                format!("attached: {found}")
            } else {
                format!("not attached to {}", missing.join(", "))
            },
            why: "packets that arrive there for containers are not diverted to the forwarder"
                .to_owned(),
            fix: if missing.is_empty() {
                String::new()
            } else {
                "restart the daemon".to_owned()
            },
        }
    }
}

/// A network whose bridge the daemon could not make, or misses.
fn without_bridge(network: &records::Network, reason: &str) -> Finding {
    let bridge = &network.config.bridge;
    let is_missing = reason == NetlinkError::BridgeMissing(bridge.clone()).to_string();
    let (severity, found, why, fix) = if is_missing && is_replaceable(network) {
        (
            Severity::Note,
            "is gone".to_owned(),
            "The next container on the network has it made again.",
            String::new(),
        )
    } else if !is_missing {
        (
            Severity::Error,
            reason.to_owned(),
            "No container reaches anything on this network, and none can be started on it.",
            format!("tunbridge network rm {}, and make it again", network.name),
        )
    } else {
        (
            Severity::Error,
            "is gone".to_owned(),
            "No container reaches anything on this network, and none can be started on it: its bridge was there before it, \
             so the daemon does not make it.",
            format!("ip link add {bridge} type bridge"),
        )
    };
    Finding {
        severity,
        subject: format!("bridge {bridge} of network {}", network.name),
        found,
        why: why.to_owned(),
        fix,
    }
}

fn finding(finding: doctor::Finding) -> Finding {
    Finding {
        severity: match finding.severity {
            doctor::Severity::Ok => Severity::Ok,
            doctor::Severity::Note => Severity::Note,
            doctor::Severity::Warning => Severity::Warning,
            doctor::Severity::Error => Severity::Error,
        },
        subject: finding.subject,
        found: finding.found,
        why: finding.why,
        fix: finding.fix,
    }
}
