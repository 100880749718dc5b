//! The first packet of a flow: where it may go, and what flow that opens.
//!
//! Steering vouches for source addresses, so addresses say who speaks:
//!
//! | from ╲ to | own network | other network | the host | outside |
//! |---|---|---|---|---|
//! | container | passes if `icc`, else by links | by its access | published port, mapping, else the host | NAPT |
//! | internal one | passes if `icc`, else by links | dropped | at the gateway: the host; else dropped | dropped |
//! | host | (kernel) | (kernel) | published port, else the host | (kernel) |
//! | outside | | by its access | published port, mapping, else the host | dropped |
//!
//! *Access* is the gateway mode of the network that is addressed: closed, open ports, or all of them;
//! internal networks are closed. A container that calls another network gets the address of that
//! network's gateway, unless its own network does not masquerade (`access.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::access::{
    direct_refusal, gateway_of, is_linked, mapping_refusal, masquerade, source_between,
};
use super::flow::{Grounds, MapKey, Masquerade, Owner, Rule, Track};
use super::generate::IcmpError;
use super::index::{Index, Place, Target};
use super::key::{Direction, FlowKey};
use super::napt::{Plan, Slow, SourceRule};
use super::packet::{Packet, Transport};
use super::tcp::{Segment, TcpTrack};
use super::{Access, Config, DropReason, EndpointId, Host, NetworkId, Protocol, Verdict};

/// What to do with a packet that has no flow.
#[derive(Debug)]
pub(super) enum Decision {
    Judged(Verdict),
    /// Dropped, and the sender is told.
    Refuse(DropReason, IcmpError),
    /// Between two containers of a network: passes without a flow.
    Neighbours {
        mtu: u32,
    },
    Open(Box<Plan>),
    /// To an address of the host, what for depends on the mappings.
    AskMappings(Caller),
}

/// Who sends to an address of the host, or to a container of a network that is not its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Endpoint(EndpointId, NetworkId),
    Outside,
}

const fn dropped(reason: DropReason) -> Decision {
    Decision::Judged(Verdict::Drop(reason))
}

/// What is wrong with the addresses, whatever the rest of the packet.
// nat.md S14: dropped before anything is looked up for them.
fn address_fault(index: &Index, src: IpAddr, dst: IpAddr, from: Place) -> Option<DropReason> {
    let from_host = from == Place::Local;
    let broadcast = |address: IpAddr| address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if broadcast(dst) || dst.is_multicast() || index.is_subnet_broadcast(dst) {
        return Some(DropReason::Broadcast);
    }
    let bad_source = match src {
        IpAddr::V4(src) => from == Place::Outside && src.is_link_local(),
        // No link is another's: what is local to one goes nowhere from here.
        IpAddr::V6(src) => src.is_unicast_link_local(),
    };
    let bad_destination = matches!(dst, IpAddr::V6(dst) if dst.is_unicast_link_local());
    let bad_loopback =
        (src.is_loopback() || dst.is_loopback()) && !(from_host && index.is_local(dst));
    if bad_source
        || bad_destination
        || src.is_multicast()
        || index.is_subnet_broadcast(src)
        || bad_loopback
        || is_nowhere(src)
        || is_nowhere(dst)
    {
        return Some(DropReason::Martian);
    }
    (src == dst && !from_host).then_some(DropReason::Land)
}

/// The address is nobody's on any network.
fn is_nowhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 0 || address.octets()[0] >= 240,
        // The unspecified one, and those that have an IPv4 address in them for the sake of an API
        // (RFC 4291 §2.5.5: mapped and compatible ones).
        IpAddr::V6(address) => {
            let embeds_ipv4 = address.to_ipv4().is_some();
            embeds_ipv4 && address != Ipv6Addr::LOCALHOST
        }
    }
}

/// Judges a packet without a flow as far as that is possible without the mappings.
pub(super) fn decide(
    index: &Index,
    host: &dyn Host,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
) -> Decision {
    let (src, dst) = (packet.src(), packet.dst());
    let from = index.place(src);
    if let Some(fault) = address_fault(index, src, dst, from) {
        return dropped(fault);
    }
    match (from, index.place(dst)) {
        (Place::Vacant(_), _) => dropped(DropReason::UnknownSource),
        (Place::Local, Place::Local) => host_service(index, packet, key),
        (Place::Local, _) => dropped(DropReason::Loop),
        (Place::Endpoint(id, network), Place::Local) => {
            // The rest of the host is as far away as everything else.
            if index.is_internal(network) && index.gateway(network, dst) != Some(dst) {
                return dropped(DropReason::Internal);
            }
            local_service(index, packet, key, Caller::Endpoint(id, network))
        }
        (Place::Outside, Place::Local) => local_service(index, packet, key, Caller::Outside),
        (Place::Endpoint(client, from), Place::Endpoint(server, to)) if from == to => {
            neighbours(index, packet, key, from, (client, server))
        }
        (Place::Endpoint(_, from), Place::Vacant(to)) if from == to => {
            dropped(DropReason::NoSuchEndpoint)
        }
        (Place::Endpoint(id, network), Place::Outside) => {
            egress(index, host, packet, key, id, network)
        }
        (Place::Endpoint(id, from), Place::Endpoint(server, to)) => {
            direct(index, packet, key, Caller::Endpoint(id, from), (server, to))
        }
        (Place::Outside, Place::Endpoint(server, to)) => {
            direct(index, packet, key, Caller::Outside, (server, to))
        }
        (Place::Endpoint(_, from), Place::Vacant(to)) => {
            let internal = index.is_internal(from) || index.is_internal(to);
            dropped(if internal {
                DropReason::Internal
            } else {
                DropReason::InterNetwork
            })
        }
        (Place::Outside, Place::Vacant(_)) => dropped(DropReason::DirectAccess),
        (Place::Outside, Place::Outside) => dropped(DropReason::Transit),
    }
}

/// Between two containers of a network.
fn neighbours(
    index: &Index,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
    network: NetworkId,
    (client, server): (EndpointId, EndpointId),
) -> Decision {
    let (icc, mtu) = index
        .network(network)
        .map_or((false, 0), |network| (network.icc, network.mtu));
    if icc {
        return Decision::Neighbours { mtu };
    }
    let linked = |key: &&FlowKey| is_linked(index, network, (client, server), key);
    let Some(&key) = key.filter(linked) else {
        return dropped(DropReason::IccDisabled);
    };
    let track = match opening(packet) {
        Ok(track) => track,
        Err(reason) => return dropped(reason),
    };
    Decision::Open(Box::new(Plan {
        original: key,
        server: (key.dst, key.dst_port),
        source: SourceRule::Keep,
        owner: Owner::Endpoint(client),
        grounds: Grounds {
            endpoint: (server, key.dst),
            peer: Some((client, key.src)),
            publication: None,
            local: None,
            rule: Rule::Link,
        },
        target: None,
        track,
        blocked: false,
    }))
}

/// From outside or from another network to a container's own address.
fn direct(
    index: &Index,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
    caller: Caller,
    server: (EndpointId, NetworkId),
) -> Decision {
    let (client, peer, owner) = match caller {
        Caller::Endpoint(id, network) => (Some(network), Some(id), Owner::Endpoint(id)),
        Caller::Outside => (None, None, Owner::Inbound(server.0)),
    };
    if let Some(reason) = direct_refusal(index, client, server, packet.dst(), key) {
        return dropped(reason);
    }
    let (key, track) = match query(packet, key) {
        Ok(query) => query,
        Err(reason) => return dropped(reason),
    };
    let source = client.map_or(Ok(None), |client| {
        source_between(index, client, (server.1, key.dst))
    });
    let source = match source {
        Ok(source) => source,
        Err(reason) => return dropped(reason),
    };
    Decision::Open(Box::new(Plan {
        original: key,
        server: (key.dst, key.dst_port),
        source: source_rule(source),
        owner,
        grounds: Grounds {
            endpoint: (server.0, key.dst),
            peer: peer.map(|id| (id, key.src)),
            publication: None,
            local: None,
            rule: Rule::Direct,
        },
        target: None,
        track,
        blocked: false,
    }))
}

fn source_rule(source: Option<IpAddr>) -> SourceRule {
    source.map_or(SourceRule::Keep, |external| SourceRule::Masquerade {
        external,
    })
}

/// State of a new flow, if the packet may open one.
fn opening(packet: &Packet<'_>) -> Result<Track, DropReason> {
    match packet.segment() {
        Some(segment) if segment.is_initial() || segment.is_midstream() => {
            Ok(Track::Tcp(TcpTrack::new(&segment, Direction::Original)))
        }
        Some(_) => Err(DropReason::TcpNoFlow),
        None => Ok(Track::Datagrams {
            replied: false,
            stream: false,
        }),
    }
}

/// Key and state of a flow that the packet may open by its own address; TCP, UDP, or an ICMP query.
// RFC 5508 REQ-1: ICMP queries too. RFC 4787 REQ-10, RFC 5382 REQ-6: payload is never looked at.
fn query(packet: &Packet<'_>, key: Option<&FlowKey>) -> Result<(FlowKey, Track), DropReason> {
    match (key, packet.transport) {
        (None, Transport::Other) => Err(DropReason::UnsupportedProtocol),
        (None, _) | (Some(_), Transport::IcmpAnswer(_)) => Err(DropReason::IcmpUnsupported),
        (Some(&key), _) => Ok((key, opening(packet)?)),
    }
}

/// From a container to the outside.
fn egress(
    index: &Index,
    host: &dyn Host,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
    endpoint: EndpointId,
    network: NetworkId,
) -> Decision {
    let family = index.family(network, packet.src());
    let Some(family) = family.filter(|_| !index.is_internal(network)) else {
        return dropped(DropReason::Internal);
    };
    let (key, track) = match query(packet, key) {
        Ok(query) => query,
        Err(reason) => return dropped(reason),
    };
    let Some(route) = host.route(key.dst) else {
        return Decision::Refuse(DropReason::NoRoute, IcmpError::NetworkUnreachable);
    };
    let masquerade = masquerade(family);
    let external = match masquerade {
        Masquerade::No => None,
        Masquerade::Route => Some(route.source),
        Masquerade::Configured(source) if index.is_local(source) => Some(source),
        Masquerade::Configured(_) => {
            return Decision::Refuse(DropReason::NoRoute, IcmpError::NetworkUnreachable);
        }
    };
    // A port that is published under exactly one number keeps it on the way out: the two are one
    // mapping, and a server that sends first after a restart of the daemon is recognised.
    let published = external.and_then(|external| {
        let port = index.published_as(key.protocol, key.src, key.src_port, external)?;
        Some((external, port))
    });
    let midstream = packet
        .segment()
        .is_some_and(|segment| !segment.is_initial());
    let is_server = index.is_server(key.protocol, key.src, key.src_port)
        || (family.access == Access::Open && external.is_some());
    if midstream && published.is_none() && is_server {
        // From a server to a client that reached it through one of several ports or directly, before
        // the client sent anything after a restart of the daemon: from another port it would only
        // be answered with a RST. The client's next segment restores the flow.
        return dropped(DropReason::TcpNoFlow);
    }
    let source = match published {
        Some((external, port)) => SourceRule::Published { external, port },
        None => source_rule(external),
    };
    Decision::Open(Box::new(Plan {
        original: key,
        server: (key.dst, key.dst_port),
        source,
        owner: Owner::Endpoint(endpoint),
        grounds: Grounds {
            endpoint: (endpoint, key.src),
            peer: None,
            publication: published.map(|at| (at, (key.src, key.src_port))),
            local: external,
            rule: Rule::Egress {
                masquerade,
                uplink: route.if_index,
            },
        },
        target: None,
        track,
        blocked: false,
    }))
}

/// From a process of the host to an address of the host.
fn host_service(index: &Index, packet: &Packet<'_>, key: Option<&FlowKey>) -> Decision {
    let target = key.and_then(|key| index.published(key.protocol, key.dst, key.dst_port));
    let (Some(key), Some(target)) = (key, target) else {
        return Decision::Judged(Verdict::ToHost);
    };
    published(
        index,
        packet,
        key,
        target,
        Owner::Host(target.endpoint),
        None,
    )
}

/// From elsewhere to an address of the host.
fn local_service(
    index: &Index,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
    caller: Caller,
) -> Decision {
    let Some(key) = key.filter(|key| key.protocol != Protocol::Icmp) else {
        return Decision::Judged(Verdict::ToHost);
    };
    let Some(target) = index.published(key.protocol, key.dst, key.dst_port) else {
        return Decision::AskMappings(caller);
    };
    let (owner, peer) = match caller {
        Caller::Outside => (Owner::Inbound(target.endpoint), None),
        Caller::Endpoint(id, network) => (Owner::Endpoint(id), Some((id, network))),
    };
    published(index, packet, key, target, owner, peer)
}

/// To a published port.
fn published(
    index: &Index,
    packet: &Packet<'_>,
    key: &FlowKey,
    target: Target,
    owner: Owner,
    peer: Option<(EndpointId, NetworkId)>,
) -> Decision {
    let track = match opening(packet) {
        Ok(track) => track,
        Err(reason) => return dropped(reason),
    };
    let Some(network) = index.network_of(target.address) else {
        return dropped(DropReason::NoSuchEndpoint);
    };
    if network.internal || peer.is_some_and(|(_, peer)| index.is_internal(peer)) {
        return dropped(DropReason::Internal);
    }
    let server = (network.id, target.address);
    let is_across = target.address.is_ipv4() != key.dst.is_ipv4();
    if is_across && key.dst.is_ipv4() {
        return dropped(DropReason::OtherFamily);
    }
    let source = match (peer, owner) {
        // The container cannot see an address of the other family.
        _ if is_across => gateway_of(index, server).map(Some),
        // RFC 4787 REQ-9, RFC 5382 REQ-8: hairpinning; a server could not answer a neighbour or the
        // host through us if it saw their own addresses.
        (Some((_, client)), _) => source_between(index, client, server),
        (None, Owner::Host(_)) => gateway_of(index, server).map(Some),
        // The container sees the client's own address.
        (None, Owner::Inbound(_) | Owner::Endpoint(_)) => Ok(None),
    };
    let source = match source {
        Ok(source) => source,
        Err(reason) => return dropped(reason),
    };
    Decision::Open(Box::new(Plan {
        original: *key,
        server: (target.address, target.port),
        source: source_rule(source),
        owner,
        grounds: Grounds {
            endpoint: (target.endpoint, target.address),
            peer: peer.map(|(id, _)| (id, key.src)),
            publication: Some(((key.dst, key.dst_port), (target.address, target.port))),
            local: None,
            rule: Rule::Published,
        },
        target: None,
        track,
        blocked: false,
    }))
}

/// A packet to a port of the host that may be a mapping's.
#[derive(Debug)]
pub(super) enum Inbound {
    Judged(Verdict),
    /// A SYN that nobody asked for.
    Unsolicited,
    Open(Box<Plan>),
}

/// Judges a packet to an address of the host that is no published port.
pub(super) fn to_mapping(
    slow: &Slow,
    config: &Config,
    packet: &Packet<'_>,
    key: &FlowKey,
    caller: Caller,
) -> Inbound {
    let Some((mapping, Owner::Endpoint(endpoint))) =
        slow.mapping_at(key.protocol, key.dst, key.dst_port)
    else {
        // Not ours (any more): the host's stack answers.
        return Inbound::Judged(Verdict::ToHost);
    };
    if mapping.internal.0.is_ipv4() != key.dst.is_ipv4() {
        // A caller of the other family has it, for its own connections only.
        return Inbound::Judged(Verdict::Drop(DropReason::Filtered));
    }
    let owner = slow.index.network_of(mapping.internal.0);
    if let (Caller::Endpoint(id, network), Some(owner)) = (caller, owner)
        && let Some(reason) = mapping_refusal(&slow.index, (id, network), (endpoint, owner.id))
    {
        return Inbound::Judged(Verdict::Drop(reason));
    }
    let segment = packet.segment();
    if segment
        .as_ref()
        .is_some_and(|segment| !Segment::is_initial(segment))
    {
        return Inbound::Judged(Verdict::Drop(DropReason::TcpNoFlow));
    }
    let track = match opening(packet) {
        Ok(track) => track,
        Err(reason) => return Inbound::Judged(Verdict::Drop(reason)),
    };
    let inner = (endpoint, mapping.internal.0);
    let plan = |source, owner, peer, target: Option<MapKey>, blocked| {
        Inbound::Open(Box::new(Plan {
            original: *key,
            server: mapping.internal,
            source,
            owner,
            grounds: Grounds {
                endpoint: inner,
                peer,
                publication: None,
                local: Some(key.dst),
                rule: Rule::Mapping,
            },
            target,
            track,
            blocked,
        }))
    };
    match caller {
        Caller::Outside if slow.is_permitted(config.filtering, mapping, key.src) => plan(
            SourceRule::Keep,
            Owner::Inbound(endpoint),
            None,
            Some(mapping),
            false,
        ),
        Caller::Outside if segment.is_some() => Inbound::Unsolicited,
        Caller::Outside => Inbound::Judged(Verdict::Drop(DropReason::Filtered)),
        // RFC 4787 REQ-9, REQ-9a, RFC 5382 REQ-8a: the receiver sees the external address and port
        // of the sender. The flow stays blocked until the receiver has sent to these.
        Caller::Endpoint(sender, _) => {
            let permitted = slow.is_permitted(config.filtering, mapping, key.dst);
            plan(
                SourceRule::Masquerade { external: key.dst },
                Owner::Endpoint(sender),
                Some((sender, key.src)),
                permitted.then_some(mapping),
                !permitted,
            )
        }
    }
}
