//! Names of containers on their networks, as the resolver at 127.0.0.11 is to know them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::files::{self, DnsSettings, InternalResolvConf, NameServer, RESOLV_CONF};
use super::names;
use super::records::{Attachment, Container, Network};
use super::state::{DEFAULT_NETWORK, State};
use crate::dns::{Upstream, View, Zone};

/// Docker's names of a container on a network that is not the default one: name, aliases, the first 12
/// digits of its id, host name; each once.
pub fn dns_names(container: &Container, attachment: &Attachment) -> Vec<String> {
    let mut seen = HashSet::new();
    let first = std::iter::once(container.name.as_str());
    let aliases = attachment.aliases.iter().map(String::as_str);
    let last = [names::short_id(&container.id), container.hostname.as_str()];
    first
        .chain(aliases)
        .chain(last)
        .filter(|name| seen.insert(*name))
        .map(str::to_owned)
        .collect()
}

impl State {
    /// Whether a container has a resolver at 127.0.0.11: it is on a network that users made, and its namespace is ours
    /// to enter.
    pub fn has_resolver(&self, container: &Container) -> bool {
        let mut places = container.endpoints();
        !container.is_delegated()
            && places.any(|(attachment, _)| attachment.network_name != DEFAULT_NETWORK)
    }
}

/// What the resolver of each container that has one must know, by the container's id. `host` is the text of the host's
/// resolv.conf ([`RESOLV_CONF`]).
pub fn dns_views(state: &State, host: &str) -> BTreeMap<String, View> {
    let mut zones: HashMap<&str, Zone> = HashMap::new();
    for container in state.containers() {
        for (attachment, _) in container.endpoints() {
            let Some(network) = user_defined(state, attachment) else {
                continue;
            };
            let zone = zones.entry(&network.id).or_insert_with(|| Zone {
                network: network.name.clone(),
                ..Zone::default()
            });
            enter(zone, container, attachment);
        }
    }
    let zones: HashMap<&str, Arc<Zone>> = zones
        .into_iter()
        .map(|(network, zone)| (network, Arc::new(zone)))
        .collect();
    let served = state
        .containers()
        .filter(|container| !container.has_exited() && state.has_resolver(container));
    // Most containers give no --dns: theirs is the same.
    let usual = files::internal_resolv_conf(RESOLV_CONF, host, &state.settings.dns);
    served
        .map(|container| {
            let own = (container.dns != DnsSettings::default()).then(|| {
                let dns = container.dns.or(&state.settings.dns);
                files::internal_resolv_conf(RESOLV_CONF, host, &dns)
            });
            let resolver = own.as_ref().unwrap_or(&usual);
            (
                container.id.clone(),
                view(state, container, &zones, resolver),
            )
        })
        .collect()
}

/// The network of an attachment, unless it is the default one, which has no names.
fn user_defined<'a>(state: &'a State, attachment: &Attachment) -> Option<&'a Network> {
    let network = state.network_by_id(&attachment.network)?;
    (network.name != DEFAULT_NETWORK).then_some(network)
}

fn view(
    state: &State,
    container: &Container,
    zones: &HashMap<&str, Arc<Zone>>,
    resolver: &InternalResolvConf,
) -> View {
    let order = state.gateway_order(container);
    // Of equal aliases on two networks the first counts, which therefore comes last.
    let links = order
        .iter()
        .rev()
        .filter(|(_, network, _)| network.name != DEFAULT_NETWORK)
        .flat_map(|(attachment, ..)| &attachment.links)
        .map(|link| {
            // The resolver knows names and short ids, users give longer ones, too.
            let target = state.container(&link.target).ok();
            let target = target.map_or(&link.target, |target| &target.name);
            (link.alias.to_lowercase(), target.clone())
        });
    View {
        zones: order
            .iter()
            .filter_map(|(_, network, _)| zones.get(network.id.as_str()).cloned())
            .collect(),
        links: links.collect(),
        upstreams: resolver.upstreams.iter().filter_map(upstream).collect(),
        forward: order
            .iter()
            .any(|(_, _, endpoint)| !endpoint.gateways.is_empty()),
        ndots_set: resolver.ndots_set,
    }
}

/// `None`: it is behind an interface that the host does not have.
fn upstream(server: &NameServer) -> Option<Upstream> {
    let mut upstream = match server.from_host {
        true => Upstream::host(server.address),
        false => Upstream::container(server.address),
    };
    if let (Some(zone), SocketAddr::V6(address)) = (&server.zone, &mut upstream.address) {
        let number = zone.parse().ok();
        let number = number.or_else(|| nix::net::if_::if_nametoindex(zone.as_str()).ok());
        address.set_scope_id(number?);
    }
    Some(upstream)
}

fn enter(zone: &mut Zone, container: &Container, attachment: &Attachment) {
    let addresses = attachment.endpoint.iter().flat_map(|e| &e.addresses);
    let addresses: Vec<IpAddr> = addresses.map(ipnet::IpNet::addr).collect();
    let mut names = dns_names(container, attachment);
    for address in &addresses {
        zone.pointers.insert(*address, container.name.clone());
    }
    names
        .iter_mut()
        .for_each(|name| *name = name.to_lowercase());
    names.sort_unstable();
    names.dedup();
    for name in names {
        zone.names.entry(name).or_default().extend(&addresses);
    }
}

#[cfg(test)]
mod tests;
