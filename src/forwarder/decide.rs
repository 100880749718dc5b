//! The first packet of a flow: where it may go, and what flow that opens.
//!
//! Steering vouches for source addresses, so addresses say who speaks:
//!
//! | from ╲ to | own network | other network | the host | outside |
//! |---|---|---|---|---|
//! | container | passes if `icc` | dropped | published port, mapping, else the host | NAPT |
//! | host | (kernel) | (kernel) | published port, else the host | (kernel) |
//! | outside | dropped | dropped | published port, mapping, else the host | dropped |

use std::net::{IpAddr, Ipv4Addr};

use super::flow::{Grounds, MapKey, Owner, Track};
use super::generate::IcmpError;
use super::index::{Index, Place, Target};
use super::key::{Direction, FlowKey};
use super::napt::{Plan, Slow, SourceRule};
use super::packet::{Packet, Transport};
use super::tcp::{Segment, TcpTrack};
use super::{Config, DropReason, EndpointId, Host, NetworkId, Protocol, Verdict};

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

/// Who sends to an address of the host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Endpoint(EndpointId),
    Outside,
}

const fn dropped(reason: DropReason) -> Decision {
    Decision::Judged(Verdict::Drop(reason))
}

/// What is wrong with the addresses, whatever the rest of the packet.
// nat.md S14: dropped before anything is looked up for them.
fn address_fault(index: &Index, src: IpAddr, dst: IpAddr, from: Place) -> Option<DropReason> {
    let (IpAddr::V4(src4), IpAddr::V4(dst4)) = (src, dst) else {
        return None;
    };
    let nowhere = |address: Ipv4Addr| address.octets()[0] == 0 || address.octets()[0] >= 240;
    let from_host = from == Place::Local;
    if dst4.is_broadcast() || dst4.is_multicast() || index.is_subnet_broadcast(dst) {
        return Some(DropReason::Broadcast);
    }
    let bad_source = nowhere(src4)
        || src4.is_multicast()
        || index.is_subnet_broadcast(src)
        || (from == Place::Outside && src4.is_link_local());
    let bad_loopback =
        (src4.is_loopback() || dst4.is_loopback()) && !(from_host && index.is_local(dst));
    if bad_source || bad_loopback || nowhere(dst4) {
        return Some(DropReason::Martian);
    }
    (src == dst && !from_host).then_some(DropReason::Land)
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
        (Place::Endpoint(id, _), Place::Local) => {
            local_service(index, packet, key, Caller::Endpoint(id))
        }
        (Place::Outside, Place::Local) => local_service(index, packet, key, Caller::Outside),
        (Place::Endpoint(_, from), Place::Endpoint(_, to)) if from == to => neighbours(index, from),
        (Place::Endpoint(_, from), Place::Vacant(to)) if from == to => {
            dropped(DropReason::NoSuchEndpoint)
        }
        (Place::Endpoint(..), Place::Endpoint(..) | Place::Vacant(_)) => {
            dropped(DropReason::InterNetwork)
        }
        (Place::Endpoint(id, network), Place::Outside) => {
            egress(index, host, packet, key, id, network)
        }
        // nat.md S16: unpublished ports of a container are not reachable, route or not.
        (Place::Outside, Place::Endpoint(..) | Place::Vacant(_)) => {
            dropped(DropReason::DirectAccess)
        }
        (Place::Outside, Place::Outside) => dropped(DropReason::Transit),
    }
}

fn neighbours(index: &Index, network: NetworkId) -> Decision {
    match index.network(network) {
        Some(network) if network.icc => Decision::Neighbours { mtu: network.mtu },
        _ => dropped(DropReason::IccDisabled),
    }
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

/// From a container to the outside.
// RFC 5508 REQ-1: ICMP queries too. RFC 4787 REQ-10, RFC 5382 REQ-6: payload is never looked at.
fn egress(
    index: &Index,
    host: &dyn Host,
    packet: &Packet<'_>,
    key: Option<&FlowKey>,
    endpoint: EndpointId,
    network: NetworkId,
) -> Decision {
    let Some(&key) = key else {
        return dropped(if packet.transport == Transport::Other {
            DropReason::UnsupportedProtocol
        } else {
            DropReason::IcmpUnsupported
        });
    };
    if matches!(packet.transport, Transport::IcmpAnswer(_)) {
        return dropped(DropReason::IcmpUnsupported);
    }
    let track = match opening(packet) {
        Ok(track) => track,
        Err(reason) => return dropped(reason),
    };
    let Some(route) = host.route(key.dst) else {
        return Decision::Refuse(DropReason::NoRoute, IcmpError::NetworkUnreachable);
    };
    let masquerade = index
        .network(network)
        .is_some_and(|network| network.masquerade);
    let external = route.source;
    // A port that is published under exactly one number keeps it on the way out: the two are one
    // mapping, and a server that sends first after a restart of the daemon is recognised.
    let published = index.published_as(key.protocol, key.src, key.src_port, external);
    let midstream = packet
        .segment()
        .is_some_and(|segment| !segment.is_initial());
    if midstream && published.is_none() && index.is_server(key.protocol, key.src, key.src_port) {
        // From a server to a client that reached it through one of several ports, before the
        // client sent anything after a restart of the daemon: from another port it would only
        // be answered with a RST. The client's next segment restores the flow.
        return dropped(DropReason::TcpNoFlow);
    }
    let (source, publication) = match published {
        _ if !masquerade => (SourceRule::Keep, None),
        Some(port) => (
            SourceRule::Published { external, port },
            Some(((external, port), (key.src, key.src_port))),
        ),
        None => (SourceRule::Masquerade { external }, None),
    };
    Decision::Open(Box::new(Plan {
        original: key,
        server: (key.dst, key.dst_port),
        source,
        owner: Owner::Endpoint(endpoint),
        grounds: Grounds {
            endpoint: (endpoint, key.src),
            peer: None,
            publication,
            local: masquerade.then_some(external),
            masqueraded: masquerade,
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
    match caller {
        Caller::Outside => published(
            index,
            packet,
            key,
            target,
            Owner::Inbound(target.endpoint),
            None,
        ),
        Caller::Endpoint(id) => published(
            index,
            packet,
            key,
            target,
            Owner::Endpoint(id),
            Some((id, key.src)),
        ),
    }
}

/// To a published port.
fn published(
    index: &Index,
    packet: &Packet<'_>,
    key: &FlowKey,
    target: Target,
    owner: Owner,
    peer: Option<(EndpointId, IpAddr)>,
) -> Decision {
    let track = match opening(packet) {
        Ok(track) => track,
        Err(reason) => return dropped(reason),
    };
    let (source, local) = match owner {
        // The container sees the client's own address.
        Owner::Inbound(_) => (SourceRule::Keep, key.dst),
        // RFC 4787 REQ-9, RFC 5382 REQ-8: hairpinning; the server could not answer the container
        // or the host through us if it saw their own addresses.
        Owner::Endpoint(_) | Owner::Host(_) => {
            let network = index.network_of(target.address).map(|network| network.id);
            let gateway = network.and_then(|network| index.gateway(network, key.dst));
            let Some(gateway) = gateway else {
                return dropped(DropReason::NoSuchEndpoint);
            };
            (SourceRule::Masquerade { external: gateway }, gateway)
        }
    };
    Decision::Open(Box::new(Plan {
        original: *key,
        server: (target.address, target.port),
        source,
        owner,
        grounds: Grounds {
            endpoint: (target.endpoint, target.address),
            peer,
            publication: Some(((key.dst, key.dst_port), (target.address, target.port))),
            local: Some(local),
            masqueraded: false,
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
                masqueraded: false,
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
        Caller::Endpoint(sender) => {
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
