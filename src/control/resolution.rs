//! Names of containers on their networks, as the resolver at 127.0.0.11 is to know them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::names;
use super::records::{Attachment, Container, Network};
use super::state::{DEFAULT_NETWORK, State};
use crate::dns::{Upstream, View, Zone};

/// What the host's resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Its servers, loopback ones included: they are asked from the host's namespace.
    pub servers: Vec<IpAddr>,
    /// It has an `ndots` option.
    pub ndots: bool,
}

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

/// What the resolver of each container that has one must know, by the container's id.
pub fn dns_views(state: &State, host: &HostResolver) -> BTreeMap<String, View> {
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
    served
        .map(|container| (container.id.clone(), view(state, container, &zones, host)))
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
    host: &HostResolver,
) -> View {
    let dns = container.dns.or(&state.settings.dns);
    let order = state.gateway_order(container);
    let links = order
        .iter()
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
        upstreams: if dns.servers.is_empty() {
            host.servers.iter().copied().map(Upstream::host).collect()
        } else {
            dns.servers
                .iter()
                .copied()
                .map(Upstream::container)
                .collect()
        },
        forward: order
            .iter()
            .any(|(_, _, endpoint)| !endpoint.gateways.is_empty()),
        ndots_set: if dns.options.is_empty() {
            host.ndots
        } else {
            dns.options
                .iter()
                .any(|option| option.starts_with("ndots:"))
        },
    }
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
