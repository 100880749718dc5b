//! Whole conversations in IPv6; single packets are judged in `forwarder/tests/ipv6.rs`.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpListenEndpoint};
use tunbridge::forwarder::{Access, DropReason, EndpointId, LinkPolicy, Protocol};

use super::dual::*;
use super::net::Faults;

const BAD: Faults = Faults {
    loss: 30,
    duplication: 10,
    reorder: 30,
};
const MINUTE: Duration = Duration::from_secs(60);

/// 200 kB from one socket to the other, each octet compared; returns whom the receiver saw.
#[track_caller]
fn transfer(net: &mut Dual, from: (NodeId, SocketHandle), to: (NodeId, SocketHandle)) -> String {
    const LENGTH: usize = 200_000;
    let octet = |n: usize| u8::try_from(n % 251).unwrap();
    let (mut sent, mut received) = (0, 0);
    let done = net.run_until(Duration::from_secs(600), |net| {
        let socket = net.tcp(from.0, from.1);
        while sent < LENGTH && socket.can_send() {
            let chunk: Vec<u8> = (sent..LENGTH.min(sent + 4096)).map(octet).collect();
            sent += socket.send_slice(&chunk).unwrap();
        }
        let socket = net.tcp(to.0, to.1);
        while socket.can_recv() {
            let take = |data: &mut [u8]| {
                for value in &*data {
                    assert_eq!(*value, octet(received));
                    received += 1;
                }
                (data.len(), ())
            };
            socket.recv(take).unwrap();
        }
        received == LENGTH
    });
    let (flows, dropped) = (net.forwarder.stats().flows, net.dropped.clone());
    assert!(done, "{received} octets, {flows} flows, {dropped:?}");
    let peer = net.tcp(to.0, to.1).remote_endpoint().unwrap();
    peer.addr.to_string()
}

#[test]
fn nat66_carries_a_transfer_over_a_lossy_wire() {
    for seed in 0..3 {
        let mut net = Dual::new(policy(), seed);
        net.faults = BAD;
        let server = net.listen(OUTSIDE, 80);
        let client = net.connect(C1, "[fd00:17::2]:40000", "[2001:db8:20::1]:80");
        let peer = transfer(&mut net, (C1, client), (OUTSIDE, server));
        assert_eq!(peer, "2001:db8::10");
        transfer(&mut net, (OUTSIDE, server), (C1, client));
    }
}

#[test]
fn a_published_port_shows_the_client_itself() {
    let mut net = Dual::new(policy(), 4);
    net.faults = BAD;
    let server = net.listen(C1, 80);
    let client = net.connect(OUTSIDE, "[2001:db8:20::1]:40000", "[2001:db8::10]:8080");
    let peer = transfer(&mut net, (OUTSIDE, client), (C1, server));
    assert_eq!(peer, "2001:db8:20::1");
}

#[test]
fn host_neighbour_and_other_network_meet_at_the_published_port() {
    // RFC 5382 REQ-8
    let callers = [
        (HOST, "[::1]:40000", "[::1]:8080"),
        (HOST, "[2001:db8::10]:40000", "[2001:db8::10]:8080"),
        (C2, "[fd00:17::3]:40000", "[2001:db8::10]:8080"),
        (C1, "[fd00:17::2]:40000", "[fd00:17::1]:8080"),
    ];
    for (caller, from, to) in callers {
        let mut net = Dual::new(policy(), 5);
        let server = net.listen(C1, 80);
        let client = net.connect(caller, from, to);
        let peer = transfer(&mut net, (caller, client), (C1, server));
        assert_eq!(peer, "fd00:17::1", "{from}");
    }
    // A routed network's containers keep their address even then.
    let mut net = Dual::new(policy(), 5);
    let server = net.listen(C1, 80);
    let client = net.connect(C3, "[2001:db8:18::2]:40000", "[2001:db8::10]:8080");
    let peer = transfer(&mut net, (C3, client), (C1, server));
    assert_eq!(peer, "2001:db8:18::2");
}

#[test]
fn a_routed_network_is_reached_at_its_own_addresses() {
    let mut net = Dual::new(policy(), 6);
    net.faults = BAD;
    let server = net.listen(C3, 80);
    let client = net.connect(OUTSIDE, "[2001:db8:20::1]:40000", "[2001:db8:18::2]:80");
    let peer = transfer(&mut net, (OUTSIDE, client), (C3, server));
    assert_eq!(peer, "2001:db8:20::1");
    let server = net.listen(OUTSIDE, 81);
    let client = net.connect(C3, "[2001:db8:18::2]:40001", "[2001:db8:20::1]:81");
    let peer = transfer(&mut net, (C3, client), (OUTSIDE, server));
    assert_eq!(peer, "2001:db8:18::2");
    // Only at what is open, and only there.
    net.faults = Faults::default();
    let closed = [("[2001:db8:18::2]:22", C3), ("[fd00:17::2]:80", C1)];
    for (port, (to, node)) in (5000..).zip(closed) {
        net.listen(node, 22);
        let client = net.connect(OUTSIDE, &format!("[2001:db8:20::1]:{port}"), to);
        net.run_until(Duration::from_secs(5), |_| false);
        assert!(!net.tcp(OUTSIDE, client).may_send());
        assert_eq!(net.dropped.pop(), Some(DropReason::DirectAccess));
    }
}

#[test]
fn families_have_modes_of_their_own() {
    let mut policy = policy();
    policy.networks[1].families[1].access = Access::Open;
    let mut net = Dual::new(policy, 7);
    for (port, from, to, passes) in [
        (80, "10.20.0.1:1", "172.18.0.2:80", false),
        (81, "[2001:db8:20::1]:1", "[2001:db8:18::2]:81", true),
    ] {
        net.listen(C3, port);
        let client = net.connect(OUTSIDE, from, to);
        let established = net.run_until(Duration::from_secs(5), |net| {
            net.tcp(OUTSIDE, client).may_send()
        });
        assert_eq!(established, passes, "{to}");
    }
}

fn echo(net: &mut Dual, node: NodeId, socket: SocketHandle, ident: u16, to: &str, from: &str) {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip(from), ip(to)) else {
        panic!("{from} and {to}");
    };
    let request = Icmpv6Repr::EchoRequest {
        ident,
        seq_no: 1,
        data: b"anybody?",
    };
    let mut octets = vec![0; request.buffer_len()];
    request.emit(
        &src,
        &dst,
        &mut Icmpv6Packet::new_unchecked(&mut octets[..]),
        &ChecksumCapabilities::default(),
    );
    net.icmp_socket(node, socket)
        .send_slice(&octets, dst.into())
        .unwrap();
}

#[test]
fn pings_are_answered_outside_by_the_host_and_by_routed_containers() {
    // RFC 5508 REQ-1
    let mut net = Dual::new(policy(), 8);
    let pings = [
        (C1, "fd00:17::2", "2001:db8:20::1"),
        (C1, "fd00:17::2", "fd00:17::1"),
        (C1, "fd00:17::2", "2001:db8::10"),
        (C3, "2001:db8:18::2", "2001:db8:20::1"),
        (OUTSIDE, "2001:db8:20::1", "2001:db8::10"),
        (OUTSIDE, "2001:db8:20::1", "2001:db8:18::2"),
    ];
    for (ident, (node, from, to)) in (1..).zip(pings) {
        let socket = net.icmp(node, icmp::Endpoint::Ident(ident));
        echo(&mut net, node, socket, ident, to, from);
        let answered = net.run_until(MINUTE, |net| net.icmp_socket(node, socket).can_recv());
        assert!(answered, "{from} to {to}: {:?}", net.dropped);
        let (octets, peer) = net.icmp_socket(node, socket).recv().unwrap();
        let reply = Icmpv6Packet::new_checked(octets).unwrap();
        assert_eq!(reply.msg_type(), Icmpv6Message::EchoReply);
        assert_eq!(reply.echo_ident(), ident);
        assert_eq!(peer.to_string(), to);
    }
}

#[test]
fn a_closed_port_outside_and_a_short_way_are_reported() {
    // RFC 5508 REQ-4
    let mut net = Dual::new(policy(), 9);
    let cases = [
        (None, Icmpv6Message::DstUnreachable, "2001:db8:20::1"),
        (Some(1), Icmpv6Message::TimeExceeded, "fd00:17::1"),
    ];
    for (port, (hops, kind, reporter)) in (5000..).zip(cases) {
        let socket = net.udp(C1, port);
        let errors = icmp::Endpoint::Udp(IpListenEndpoint::from(port));
        let errors = net.icmp(C1, errors);
        net.udp_socket(C1, socket).set_hop_limit(hops);
        net.udp_socket(C1, socket)
            .send_slice(b"anybody?", end("[2001:db8:20::1]:9"))
            .unwrap();
        let told = net.run_until(MINUTE, |net| net.icmp_socket(C1, errors).can_recv());
        assert!(told, "{kind:?}: {:?}", net.dropped);
        let (octets, peer) = net.icmp_socket(C1, errors).recv().unwrap();
        let error = Icmpv6Packet::new_checked(octets).unwrap();
        assert_eq!(error.msg_type(), kind);
        assert_eq!(peer.to_string(), reporter);
    }
}

#[test]
fn a_narrow_way_is_reported_and_clamped_segments_fit() {
    // RFC 4787 REQ-13
    let mut net = Dual::new(policy(), 10);
    net.machine.mtu.store(1280, Ordering::Relaxed);
    let socket = net.udp(C1, 5000);
    net.udp_socket(C1, socket)
        .send_slice(&[7; 1400], end("[2001:db8:20::1]:9"))
        .unwrap();
    net.run_until(Duration::from_secs(1), |_| false);
    let (_, error) = net.seen.iter().rfind(|(node, _)| *node == C1).unwrap();
    assert_eq!(error[40..42], [2, 0]);
    assert_eq!(error[44..48], 1280_u32.to_be_bytes());
    assert_eq!(error.len(), 1280);

    let mut clamping = policy();
    clamping.networks[0].clamp_mss = true;
    let mut net = Dual::new(clamping, 10);
    net.machine.mtu.store(1280, Ordering::Relaxed);
    let server = net.listen(OUTSIDE, 80);
    let client = net.connect(C1, "[fd00:17::2]:40000", "[2001:db8:20::1]:80");
    transfer(&mut net, (C1, client), (OUTSIDE, server));
    transfer(&mut net, (OUTSIDE, server), (C1, client));
    let longest = net.seen.iter().map(|(_, packet)| packet.len()).max();
    assert_eq!(longest, Some(1280));
}

#[test]
fn udp_goes_out_to_published_ports_and_back() {
    let mut net = Dual::new(policy(), 11);
    let (server, published) = (net.udp(OUTSIDE, 53), net.udp(C1, 80));
    let callers = [
        (C1, "[2001:db8:20::1]:53", (OUTSIDE, server), "2001:db8::10"),
        (
            C3,
            "[2001:db8:20::1]:53",
            (OUTSIDE, server),
            "2001:db8:18::2",
        ),
        (
            OUTSIDE,
            "[2001:db8::10]:8080",
            (C1, published),
            "2001:db8:20::1",
        ),
        (C2, "[2001:db8::10]:8080", (C1, published), "fd00:17::1"),
        (HOST, "[::1]:8080", (C1, published), "fd00:17::1"),
    ];
    for (port, (caller, to, server, seen)) in (7000..).zip(callers) {
        let client = net.udp(caller, port);
        net.udp_socket(caller, client)
            .send_slice(b"question", end(to))
            .unwrap();
        let asked = net.run_until(MINUTE, |net| net.udp_socket(server.0, server.1).can_recv());
        assert!(asked, "{to}: {:?}", net.dropped);
        let (_, meta) = net.udp_socket(server.0, server.1).recv().unwrap();
        assert_eq!(meta.endpoint.addr.to_string(), seen);
        let answer = net.udp_socket(server.0, server.1);
        answer.send_slice(b"answer", meta).unwrap();
        let answered = net.run_until(MINUTE, |net| net.udp_socket(caller, client).can_recv());
        assert!(answered, "{to}: {:?}", net.dropped);
        let (_, meta) = net.udp_socket(caller, client).recv().unwrap();
        let (address, port) = (meta.endpoint.addr.to_string(), meta.endpoint.port);
        assert_eq!((address.parse(), port), (Ok(end(to).ip()), end(to).port()));
    }
}

#[test]
fn a_link_opens_both_families() {
    let mut policy = policy();
    policy.networks[0].icc = false;
    policy.links.push(LinkPolicy {
        client: EndpointId(2),
        server: EndpointId(1),
        protocol: Protocol::Tcp,
        ports: 80..=80,
    });
    for (from, to, passes) in [
        ("[fd00:17::3]:1", "[fd00:17::2]:80", true),
        ("172.17.0.3:1", "172.17.0.2:80", true),
        ("[fd00:17::3]:2", "[fd00:17::2]:81", false),
    ] {
        let mut net = Dual::new(policy.clone(), 12);
        net.bridge_asks_the_forwarder = true;
        net.listen(C1, end(to).port());
        let client = net.connect(C2, from, to);
        let established =
            net.run_until(Duration::from_secs(5), |net| net.tcp(C2, client).may_send());
        assert_eq!(established, passes, "{to}: {:?}", net.dropped);
    }
}
