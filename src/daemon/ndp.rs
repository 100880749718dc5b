//! Neighbours on an uplink find containers whose addresses they believe to be on their own link: an NDP proxy per
//! uplink that a network names (`--ndp-proxy`, `com.tunbridge.ndp_proxy`).
//!
//! It follows the state after every change, and the uplinks as they come and go: a proxy belongs to an interface index,
//! not to a name. Only addresses that are not translated on their way out are answered for; nobody outside knows others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::core::Core;
use crate::control::State;
use crate::control::records::Network;
use crate::kernel::ndp_proxy::NdpProxy;

/// A proxy, or why there is none although there should be.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    proxy: Option<NdpProxy>,
    /// What was told last.
    problem: Option<String>,
}

impl Proxy {
    /// Says what is wrong, once.
    fn note(&mut self, uplink: &str, problem: Option<String>) {
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            tracing::warn!(uplink, problem, "neighbours may not find containers");
        }
        self.problem = problem;
    }

    fn follow(&mut self, uplink: &str, if_index: u32, addresses: &BTreeSet<Ipv6Addr>) {
        if self.proxy.as_ref().map(NdpProxy::if_index) != Some(if_index) {
            self.proxy = None;
            match NdpProxy::open(uplink) {
                Ok(proxy) => {
                    tracing::info!(uplink, "NDP proxy started");
                    self.proxy = Some(proxy);
                }
                Err(error) => self.note(uplink, Some(error.to_string())),
            }
        }
        if let Some(proxy) = &self.proxy {
            let joined = proxy.set_addresses(addresses);
            self.note(uplink, joined.err().map(|error| error.to_string()));
        }
    }
}

impl Core {
    /// Starts, updates and stops NDP proxies.
    pub(super) fn follow_ndp(&self, state: &State) {
        let uplinks = self.facts.lock().uplink_names.clone();
        let mut proxies = self.ndp_proxies.lock();
        let wanted = wanted(state);
        proxies.retain(|name, _| wanted.contains_key(name) && uplinks.contains_key(name));
        for (name, addresses) in wanted {
            if let Some(&if_index) = uplinks.get(&name) {
                let proxy = proxies.entry(name.clone()).or_default();
                proxy.follow(&name, if_index, &addresses);
            }
        }
    }

    /// What the proxies did.
    pub(super) fn ndp_counts(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for proxy in self.ndp_proxies.lock().values() {
            let counts = proxy.proxy.as_ref().map(NdpProxy::counts);
            let counts = counts.unwrap_or_default();
            for (name, count) in [
                ("answered", counts.answered),
                ("foreign", counts.foreign),
                ("probes", counts.probes),
                ("hop_limit", counts.hop_limit),
                ("checksum", counts.checksum),
                ("malformed_question", counts.malformed),
                ("unsent", counts.unsent),
            ] {
                *sum.entry(name.to_owned()).or_default() += count;
            }
        }
        sum
    }
}

/// The addresses to answer for, by name of the uplink.
fn wanted(state: &State) -> BTreeMap<String, BTreeSet<Ipv6Addr>> {
    let mut wanted: BTreeMap<String, BTreeSet<Ipv6Addr>> = BTreeMap::new();
    for network in state
        .bridge_networks()
        .filter(|network| is_known_outside(network))
    {
        for uplink in &network.config.ndp_proxy {
            wanted.entry(uplink.clone()).or_default();
        }
    }
    for (_, network, endpoint) in state.endpoints() {
        let Some(IpAddr::V6(address)) = endpoint.address(false).map(|net| net.addr()) else {
            continue;
        };
        for uplink in &network.config.ndp_proxy {
            if let Some(addresses) = wanted.get_mut(uplink)
                && is_known_outside(network)
            {
                addresses.insert(address);
            }
        }
    }
    wanted
}

fn is_known_outside(network: &Network) -> bool {
    let family = network.config.v6();
    !network.config.internal && family.is_some_and(|family| !family.masquerade)
}
