//! Several workers at once: both directions of a flow may be in different hands.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddrV4;
use std::sync::Barrier;
use std::thread;

use tunbridge::forwarder::{DropReason, Outbox, Protocol, Verdict};

use super::packet::*;
use super::world::*;

/// One packet through the forwarder; what became of it.
fn pass(w: &World, out: &mut Outbox, packet: Packet) -> (Verdict, Packet) {
    let mut buffer = Frame::from(packet).bytes();
    let verdict = w.forwarder.handle_packet(&mut buffer, w.now, out);
    out.drain().for_each(drop);
    (verdict, Frame::parse(&buffer).packet)
}

/// Every frame was counted once, and the bitmap is what the flows have.
fn assert_consistent(w: &World) {
    let stats = w.forwarder.stats();
    let dropped: u64 = stats.dropped.iter().map(|(_, n)| n).sum();
    assert_eq!(
        stats.received,
        stats.forwarded + stats.to_host + stats.consumed + dropped
    );
    let flows = w.forwarder.flows(w.now);
    assert_eq!(flows.len(), stats.flows);
    let ports: BTreeSet<(Protocol, u16)> = flows
        .iter()
        .filter(|f| f.original.0 != f.translated.0)
        .map(|f| (f.protocol, f.translated.0.port()))
        .collect();
    assert_eq!(w.host.ports().into_iter().collect::<BTreeSet<_>>(), ports);
    let tuples: HashSet<_> = flows.iter().map(|f| (f.protocol, f.translated)).collect();
    assert_eq!(
        tuples.len(),
        flows.len(),
        "two flows share an external tuple"
    );
}

#[test]
fn first_packets_of_one_tuple_at_once_make_one_flow() {
    // The kernel's conntrack_clash.sh: no packet is lost and no second mapping made.
    let w = World::new();
    let barrier = Barrier::new(4);
    for port in 20_000..20_200 {
        let sources: HashSet<SocketAddrV4> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut out = Outbox::new();
                        let packet = Packet::udp(
                            SocketAddrV4::new(C1, port),
                            at("10.20.0.1:9000"),
                            b"first",
                        );
                        barrier.wait();
                        let (verdict, seen) = pass(&w, &mut out, packet);
                        assert_eq!(verdict, Verdict::Forward);
                        seen.source()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect()
        });
        assert_eq!(sources.len(), 1, "{sources:?}");
    }
    assert_eq!(w.tables(), (200, 200));
    assert_consistent(&w);
}

#[test]
fn both_directions_in_different_hands() {
    let mut w = World::new();
    let mut connections = Vec::new();
    for port in 0..50 {
        connections.push(w.connect(SocketAddrV4::new(C1, 40_000 + port), at("10.20.0.1:80")));
    }
    let connections = &connections;
    thread::scope(|scope| {
        for up in [true, false] {
            let w = &w;
            scope.spawn(move || {
                let mut out = Outbox::new();
                for _ in 0..100 {
                    for tcp in connections {
                        let mut tcp = *tcp;
                        let packet = if up {
                            tcp.packet(ACK, b"")
                        } else {
                            tcp.reply(ACK, b"")
                        };
                        let (verdict, got) = pass(w, &mut out, packet);
                        assert_eq!(verdict, Verdict::Forward);
                        let expected = if up { tcp.seen_client } else { tcp.server };
                        assert_eq!(got.source(), expected);
                        got.assert_valid();
                    }
                }
            });
        }
    });
    assert_eq!(w.tables(), (50, 50));
    assert_consistent(&w);
}

#[test]
fn packets_policy_timers_and_reports_at_once() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:5300"));
    let policies = {
        let full = w.policy.clone();
        let mut less = full.clone();
        less.endpoints.retain(|e| e.id != endpoint_of(C2));
        let mut none = full.clone();
        none.published.clear();
        [full, less, none]
    };
    let w = &w;
    thread::scope(|scope| {
        for client in [C1, C2, C3] {
            scope.spawn(move || {
                let mut out = Outbox::new();
                for round in 0..3000_u16 {
                    let from = SocketAddrV4::new(client, 20_000 + round % 300);
                    let (verdict, seen) =
                        pass(w, &mut out, Packet::udp(from, at("10.20.0.1:9000"), b"q"));
                    match verdict {
                        Verdict::Forward => {
                            seen.assert_valid();
                            let answer = Packet::udp(at("10.20.0.1:9000"), seen.source(), b"a");
                            let (verdict, got) = pass(w, &mut out, answer);
                            if verdict == Verdict::Forward && client != C2 {
                                assert_eq!(got.destination(), from, "an answer went astray");
                            }
                        }
                        Verdict::Drop(reason) => {
                            let gone = client == C2 && reason == DropReason::UnknownSource;
                            // Looked at again and again, and each time the policy was another.
                            let overtaken = reason == DropReason::EgressChanged;
                            assert!(gone || overtaken, "{client} {reason:?}");
                        }
                        other => panic!("{other:?}"),
                    }
                    let _ = pass(
                        w,
                        &mut out,
                        Packet::udp(at("10.9.0.50:5000"), at("10.9.0.10:5353"), b"call"),
                    );
                }
            });
        }
        scope.spawn(move || {
            let mut out = Outbox::new();
            for round in 0..150 {
                w.forwarder.set_policy(policies[round % 3].clone(), w.now);
                w.forwarder.routes_changed();
                w.forwarder.handle_timeout(w.now, &mut out);
                w.forwarder.flows(w.now);
                w.forwarder.stats();
                thread::yield_now();
            }
            w.forwarder.set_policy(policies[0].clone(), w.now);
        });
    });
    assert_consistent(w);
}
