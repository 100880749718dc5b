//! Who may open a connection to whom, and with which source address: what the policy alone says.
//! Asked for the first packet of a flow, and again for every flow when the policy changes.

use std::net::IpAddr;

use super::flow::{Flow, Masquerade, Owner, Rule};
use super::index::{Index, Place};
use super::key::FlowKey;
use super::{Access, DropReason, EndpointId, FamilyPolicy, NetworkId, Protocol};

/// Why a container must not be addressed directly by `client`, a network's container or somebody
/// outside; `None` if it may. `server` has `address`; `key` is that of the packet, if it has one.
// nat.md S16: unpublished ports of a container are not reachable, route or not.
pub(super) fn direct_refusal(
    index: &Index,
    client: Option<NetworkId>,
    server: (EndpointId, NetworkId),
    address: IpAddr,
    key: Option<&FlowKey>,
) -> Option<DropReason> {
    if index.is_internal(server.1) || client.is_some_and(|network| index.is_internal(network)) {
        return Some(DropReason::Internal);
    }
    let admitted = match index.family(server.1, address).map(|family| family.access) {
        None | Some(Access::Closed) => false,
        Some(Access::Open) => true,
        Some(Access::Ports) => key.is_some_and(|key| {
            key.protocol == Protocol::Icmp
                || index.is_open(server.0, address, key.protocol, key.dst_port)
        }),
    };
    let reason = match client {
        Some(_) => DropReason::InterNetwork,
        None => DropReason::DirectAccess,
    };
    (!admitted).then_some(reason)
}

/// The source address of a container's connection to a container: `None` if it keeps its own.
/// `server` is an address of the latter.
pub(super) fn source_between(
    index: &Index,
    client: NetworkId,
    server: (NetworkId, IpAddr),
) -> Result<Option<IpAddr>, DropReason> {
    if client != server.0 {
        match index.family(client, server.1) {
            Some(client) if !client.masquerade => return Ok(None),
            Some(client) => {
                if let Some(source) = client.source {
                    let found = index.is_local(source).then_some(Some(source));
                    return found.ok_or(DropReason::NoGateway);
                }
            }
            None => {}
        }
    }
    gateway_of(index, server).map(Some)
}

/// The address of the host that a container sees when it is called by the host or a neighbour, or
/// by somebody masqueraded.
pub(super) fn gateway_of(
    index: &Index,
    (network, address): (NetworkId, IpAddr),
) -> Result<IpAddr, DropReason> {
    index.gateway(network, address).ok_or(DropReason::NoGateway)
}

/// How a family's packets to the outside get their source.
pub(super) fn masquerade(family: &FamilyPolicy) -> Masquerade {
    if !family.masquerade {
        return Masquerade::No;
    }
    family
        .source
        .map_or(Masquerade::Route, Masquerade::Configured)
}

/// The policy still allows the flow, as it is.
pub(super) fn is_allowed(flow: &Flow, index: &Index) -> bool {
    let grounds = &flow.grounds;
    let protocol = flow.original.protocol;
    let (endpoint, address) = grounds.endpoint;
    let Place::Endpoint(id, network) = index.place(address) else {
        return false;
    };
    let peer = match grounds.peer.map(|(id, at)| (id, index.place(at))) {
        None => None,
        Some((id, Place::Endpoint(now, network))) if id == now => Some((id, network)),
        Some(_) => return false,
    };
    let port_is_free = flow
        .external_port()
        .is_none_or(|port| !index.is_published_anywhere(protocol, port));
    let published = grounds.publication.is_none_or(|((host, port), target)| {
        index.is_local(host)
            && index
                .published(protocol, host, port)
                .is_some_and(|found| (found.address, found.port) == target)
    });
    let stays = grounds.rule == Rule::Link
        || !(index.is_internal(network) || peer.is_some_and(|(_, peer)| index.is_internal(peer)));
    id == endpoint
        && grounds.local.is_none_or(|local| index.is_local(local))
        && port_is_free
        && published
        && stays
        && is_caller_the_same(flow, index)
        && match grounds.rule {
            Rule::Egress { masquerade, .. } => egress_is_same(flow, index, network, masquerade),
            Rule::Published => source_is_same(flow, index, peer, network),
            Rule::Mapping => peer.is_none_or(|(peer, net)| {
                mapping_refusal(index, (peer, net), (endpoint, network)).is_none()
            }),
            Rule::Direct => {
                let client = peer.map(|(_, network)| network);
                let server = (endpoint, network);
                direct_refusal(index, client, server, address, Some(&flow.original)).is_none()
                    && source_is_same(flow, index, peer, network)
            }
            Rule::Link => peer.is_some_and(|(peer, net)| {
                net == network && is_linked(index, network, (peer, endpoint), &flow.original)
            }),
        }
}

/// Who opened the flow is still what it was: a container, the host, or neither.
fn is_caller_the_same(flow: &Flow, index: &Index) -> bool {
    match (flow.owner, index.place(flow.original.src)) {
        (Owner::Endpoint(owner), Place::Endpoint(now, _)) => owner == now,
        (Owner::Host(_), Place::Local) | (Owner::Inbound(_), Place::Outside) => true,
        (Owner::Endpoint(_) | Owner::Host(_) | Owner::Inbound(_), _) => false,
    }
}

fn egress_is_same(flow: &Flow, index: &Index, network: NetworkId, was: Masquerade) -> bool {
    let destination = flow.original.dst;
    index.place(destination) == Place::Outside
        && index
            .family(network, destination)
            .is_some_and(|family| masquerade(family) == was)
}

fn source_is_same(
    flow: &Flow,
    index: &Index,
    peer: Option<(EndpointId, NetworkId)>,
    network: NetworkId,
) -> bool {
    let server = (network, flow.grounds.endpoint.1);
    let wanted = match (flow.owner, peer) {
        _ if flow.is_across() => gateway_of(index, server).map(Some),
        (_, Some((_, client))) => source_between(index, client, server),
        (Owner::Host(_), None) => gateway_of(index, server).map(Some),
        (Owner::Inbound(_) | Owner::Endpoint(_), None) => Ok(None),
    };
    wanted.is_ok_and(|wanted| flow.reply.dst == wanted.unwrap_or(flow.original.src))
}

/// Why a container must not send to the mapping of another one; `None` if it may. Networks meet at
/// published ports only, and so do neighbours without icc.
pub(super) fn mapping_refusal(
    index: &Index,
    client: (EndpointId, NetworkId),
    owner: (EndpointId, NetworkId),
) -> Option<DropReason> {
    if client.1 != owner.1 {
        Some(DropReason::InterNetwork)
    } else if client.0 != owner.0 && !index.network(owner.1).is_some_and(|network| network.icc) {
        Some(DropReason::IccDisabled)
    } else {
        None
    }
}

/// A link lets the first endpoint open `key` to the second, on a network that needs links for it.
pub(super) fn is_linked(
    index: &Index,
    network: NetworkId,
    (client, server): (EndpointId, EndpointId),
    key: &FlowKey,
) -> bool {
    index.network(network).is_some_and(|network| !network.icc)
        && index.has_link(client, server, key.protocol, key.dst_port)
}
