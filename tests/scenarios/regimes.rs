//! What a change of a network's settings does to live flows: those that a new packet would not be allowed to open as
//! they are end, the others stay.

use std::net::{IpAddr, Ipv4Addr};

use tunbridge::forwarder::{Access, Egress, Protocol};

use super::networks::*;
use super::packet::*;
use super::world::*;

/// Everything leaves by the host's second uplink now.
fn change_uplink(w: &mut World) {
    let egress = Egress {
        if_index: 3,
        source: IpAddr::V4(HOST2),
        mtu: 1500,
    };
    w.host.set_route("0.0.0.0/0", Some(egress));
    w.forwarder.routes_changed();
}

/// Number of flows that are left after a change, of one each: from outside and from another network directly, from
/// both by a published port, and to the outside.
#[track_caller]
fn left(kind: Kind, change: impl FnOnce(&mut World)) -> Vec<&'static str> {
    let mut w = every_kind();
    let flows = [
        ("direct", on(LAN, 1000), on(kind.server(), 53)),
        ("between", on(C1, 1000), on(kind.server(), 53)),
        ("published", on(LAN, 1001), on(HOST, kind.port())),
        ("hairpin", on(C1, 1001), on(HOST, kind.port())),
        ("out", on(kind.neighbour(), 1002), on(S1, 53)),
    ];
    let mut open = Vec::new();
    for (name, from, to) in flows {
        let step = w.step(Packet::udp(from, to, b"question"));
        if step.verdict == tunbridge::forwarder::Verdict::Forward {
            open.push((name, from));
        }
    }
    change(&mut w);
    let live = w.forwarder.flows(w.now);
    let lives = |from: &std::net::SocketAddrV4| live.iter().any(|f| f.original.0 == (*from).into());
    open.iter()
        .filter(|(_, from)| lives(from))
        .map(|(name, _)| *name)
        .collect()
}

#[test]
fn nothing_ends_that_did_not_change() {
    let all = ["direct", "between", "published", "hairpin", "out"];
    assert_eq!(left(Kind::Routed, |_| {}), all);
    assert_eq!(left(Kind::Unprotected, |_| {}), all);
    assert_eq!(left(Kind::Nat, |_| {}), all[2..]);
    assert_eq!(left(Kind::Sourced, |_| {}), all[2..]);
    assert_eq!(left(Kind::Internal, |_| {}), [""; 0]);
    let unrelated = |w: &mut World| {
        w.change(|policy| {
            policy.networks.retain(|n| n.id != Kind::Internal.id());
            policy
                .endpoints
                .retain(|e| e.network != Kind::Internal.id());
        });
        change_network(w, Kind::Nat, |network| {
            network.families[0].access = Access::Open
        });
    };
    assert_eq!(left(Kind::Routed, unrelated), all);
}

#[test]
fn a_closed_network_ends_what_came_in_directly() {
    let rest = ["published", "hairpin", "out"];
    for kind in [Kind::Routed, Kind::Unprotected] {
        let close =
            |w: &mut World| change_network(w, kind, |n| n.families[0].access = Access::Closed);
        assert_eq!(left(kind, close), rest);
    }
    let ports = |w: &mut World| {
        change_network(w, Kind::Unprotected, |n| {
            n.families[0].access = Access::Ports
        });
        w.change(|policy| {
            for endpoint in &mut policy.endpoints {
                endpoint.open.clear();
            }
        });
    };
    assert_eq!(left(Kind::Unprotected, ports), rest);
}

#[test]
fn a_closed_port_ends_what_came_in_by_it() {
    let close = |protocol| {
        move |w: &mut World| {
            w.change(|policy| {
                for endpoint in &mut policy.endpoints {
                    endpoint.open.retain(|open| open.protocol != protocol);
                }
            });
        }
    };
    let all = ["direct", "between", "published", "hairpin", "out"];
    assert_eq!(left(Kind::Routed, close(Protocol::Udp)), all[2..]);
    assert_eq!(left(Kind::Routed, close(Protocol::Tcp)), all);
    assert_eq!(left(Kind::Unprotected, close(Protocol::Udp)), all);
}

#[test]
fn a_network_that_becomes_internal_keeps_nothing() {
    for kind in [Kind::Nat, Kind::Unprotected, Kind::Routed] {
        let lock = |w: &mut World| change_network(w, kind, |n| n.internal = true);
        assert_eq!(left(kind, lock), [""; 0]);
    }
    // Nor does it as the caller's.
    let callers = |w: &mut World| w.change(|policy| policy.networks[0].internal = true);
    let rest = ["direct", "published", "out"];
    assert_eq!(left(Kind::Routed, callers), rest);
}

#[test]
fn a_network_that_goes_takes_all_along() {
    for kind in [Kind::Nat, Kind::Unprotected, Kind::Routed] {
        let remove = |w: &mut World| {
            w.change(|policy| {
                policy.networks.retain(|n| n.id != kind.id());
                policy.endpoints.retain(|e| e.network != kind.id());
            });
        };
        assert_eq!(left(kind, remove), [""; 0]);
    }
}

#[test]
fn another_source_address_ends_what_had_the_old_one() {
    // The caller's network masquerades no more: the server would see another address.
    let keep = |w: &mut World| w.change(|policy| policy.networks[0].families[0].masquerade = false);
    assert_eq!(left(Kind::Routed, keep), ["direct", "published", "out"]);
    // It masquerades with another address.
    let source = |w: &mut World| {
        w.change(|policy| policy.networks[0].families[0].source = Some(IpAddr::V4(HOST2)));
    };
    assert_eq!(left(Kind::Routed, source), ["direct", "published", "out"]);
    // The server's gateway goes.
    let gateway = |w: &mut World| change_network(w, Kind::Routed, |n| n.families[0].gateway = None);
    assert_eq!(left(Kind::Routed, gateway), ["direct", "published", "out"]);
    // The server's network masquerades from now on.
    let masquerade =
        |w: &mut World| change_network(w, Kind::Routed, |n| n.families[0].masquerade = true);
    let rest = ["direct", "between", "published", "hairpin"];
    assert_eq!(left(Kind::Routed, masquerade), rest);
    // With an address of its own, and with another one.
    let own = |w: &mut World| {
        change_network(w, Kind::Nat, |n| {
            n.families[0].source = Some(IpAddr::V4(HOST))
        });
    };
    assert_eq!(left(Kind::Nat, own), ["published", "hairpin"]);
    let another = |w: &mut World| {
        change_network(w, Kind::Sourced, |n| {
            n.families[0].source = Some(IpAddr::V4(HOST))
        });
    };
    assert_eq!(left(Kind::Sourced, another), ["published", "hairpin"]);
    let none = |w: &mut World| change_network(w, Kind::Sourced, |n| n.families[0].source = None);
    assert_eq!(left(Kind::Sourced, none), ["published", "hairpin"]);
}

#[test]
fn a_chosen_source_does_not_follow_the_route() {
    let mut w = every_kind();
    let client = on(Kind::Sourced.server(), 4000);
    w.change(|policy| policy.published.clear());
    let mut tcp = w.connect(client, on(S1, 80));
    assert_eq!(*tcp.seen_client.ip(), HOST2);
    let other = w.connect(on(C1, 4000), on(S1, 80));
    change_uplink(&mut w);
    let kept = w.forward(tcp.packet(PSH | ACK, b"more"));
    assert_eq!(kept.source(), tcp.seen_client);
    let mut other = other;
    assert_eq!(w.drops(other.packet(PSH | ACK, b"more")), "egress_changed");
}

#[test]
fn a_chosen_source_must_be_the_hosts() {
    let mut w = every_kind();
    let stranger = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 77));
    change_network(&mut w, Kind::Sourced, |n| {
        n.families[0].source = Some(stranger)
    });
    let (reason, error) = w.rejects(Packet::udp(on(Kind::Sourced.server(), 1), on(S1, 1), b""));
    assert_eq!(reason, "no_route");
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 0));
    let call = Packet::udp(
        on(Kind::Sourced.server(), 1),
        on(Kind::Unprotected.server(), 1),
        b"",
    );
    assert_eq!(w.drops(call), "no_gateway");
    w.change(|policy| policy.local_addresses.push(stranger));
    let seen = w.udp(on(Kind::Sourced.server(), 1), on(S1, 1));
    assert_eq!(IpAddr::V4(*seen.ip()), stranger);
    w.change(|policy| policy.local_addresses.retain(|a| *a != stranger));
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_caller_whose_address_becomes_a_containers_is_a_stranger() {
    // The same 5-tuple, but it is somebody else who sends it.
    let mut w = every_kind();
    w.udp_exchange(on(LAN, 1000), on(Kind::Unprotected.server(), 53));
    w.udp_exchange(on(LAN, 1000), on(HOST, Kind::Nat.port()));
    assert_eq!(w.tables().0, 2);
    w.change(|policy| {
        let network = policy
            .networks
            .iter_mut()
            .find(|n| n.id == Kind::Internal.id())
            .unwrap();
        network.families[0].subnet = "10.9.0.32/27".parse().unwrap();
        network.families[0].gateway = Some(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 33)));
        policy
            .endpoints
            .iter_mut()
            .rev()
            .find(|e| e.network == Kind::Internal.id())
            .unwrap()
            .addresses = vec![IpAddr::V4(LAN)];
    });
    assert_eq!(w.tables().0, 0);
}
