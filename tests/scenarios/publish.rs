//! Published ports, called from outside and by the host itself.

use std::net::Ipv4Addr;

use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

#[test]
fn the_container_sees_the_clients_own_address() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let mut tcp = w.connect(at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    assert_eq!(
        (tcp.seen_client, tcp.seen_server),
        (at("10.9.0.50:5000"), at("172.17.0.2:80"))
    );
    let down = w.forward(tcp.reply(PSH | ACK, b"page"));
    assert_eq!(
        (down.source(), down.destination()),
        (at("10.9.0.10:8080"), at("10.9.0.50:5000"))
    );
    assert_eq!(
        w.host.ports(),
        [],
        "an outside client needs no port of the pool"
    );
}

#[test]
fn udp_is_answered_from_the_published_port() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    assert_eq!(
        w.udp_exchange(at("10.9.0.50:5000"), at("10.9.0.10:5353")),
        at("10.9.0.50:5000")
    );
    // Also on the host's other address, and the answer comes from that one.
    assert_eq!(
        w.udp_exchange(at("10.9.0.50:5001"), at("10.8.0.10:5353")),
        at("10.9.0.50:5001")
    );
}

#[test]
fn one_client_calls_both_addresses_of_a_server_from_one_port() {
    // Two flows whose inner tuples would be the same: the second must not take over the first.
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    let first = w.forward(Packet::udp(
        at("10.9.0.50:5000"),
        at("10.9.0.10:5353"),
        b"1",
    ));
    let step = w.step(Packet::udp(
        at("10.9.0.50:5000"),
        at("10.8.0.10:5353"),
        b"2",
    ));
    if step.verdict == Verdict::Forward {
        let second = step.frame.packet;
        assert_eq!(second.destination(), at("172.17.0.2:53"));
        let answer = w.forward(Packet::udp(
            second.destination(),
            second.source(),
            b"to the second",
        ));
        assert_eq!(answer.source(), at("10.8.0.10:5353"));
        if first.source() != second.source() {
            let answer = w.forward(Packet::udp(
                first.destination(),
                first.source(),
                b"to the first",
            ));
            assert_eq!(answer.source(), at("10.9.0.10:5353"));
        }
    }
}

#[test]
fn a_range_maps_pairwise() {
    let mut w = World::new();
    w.publish_range(
        Protocol::Udp,
        Ipv4Addr::UNSPECIFIED,
        20_000..=29_999,
        at("172.17.0.2:30000"),
    );
    for (outer, inner) in [(20_000, 30_000), (24_321, 34_321), (29_999, 39_999)] {
        let got = w.forward(Packet::udp(
            at("10.9.0.50:5000"),
            std::net::SocketAddrV4::new(HOST, outer),
            b"",
        ));
        assert_eq!(got.destination(), std::net::SocketAddrV4::new(C1, inner));
    }
    for beside in [19_999, 30_000] {
        w.leaves_to_host(Packet::udp(
            at("10.9.0.50:5000"),
            std::net::SocketAddrV4::new(HOST, beside),
            b"",
        ));
    }
}

#[test]
fn a_host_process_is_shown_as_the_gateway() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    for (client, called) in [
        ("127.0.0.1:5000", "127.0.0.1:8080"),
        ("10.9.0.10:5000", "10.9.0.10:8080"),
        ("172.17.0.1:5000", "172.17.0.1:8080"),
    ] {
        let mut tcp = w.connect(at(client), at(called));
        assert_eq!(
            (*tcp.seen_client.ip(), tcp.seen_server),
            (GATEWAY, at("172.17.0.2:80")),
            "{called}"
        );
        let down = w.forward(tcp.reply(PSH | ACK, b"page"));
        assert_eq!(
            (down.source(), down.destination()),
            (at(called), at(client))
        );
    }
}

#[test]
fn a_host_process_uses_udp() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("127.0.0.1:5353"), at("172.18.0.2:53"));
    let got = w.forward(Packet::udp(
        at("127.0.0.1:5000"),
        at("127.0.0.1:5353"),
        b"q",
    ));
    assert_eq!(
        (*got.source().ip(), got.destination()),
        (GATEWAY2, at("172.18.0.2:53"))
    );
    let back = w.forward(Packet::udp(at("172.18.0.2:53"), got.source(), b"a"));
    assert_eq!(
        (back.source(), back.destination()),
        (at("127.0.0.1:5353"), at("127.0.0.1:5000"))
    );
}

#[test]
fn a_port_published_on_loopback_is_not_reachable_from_the_lan() {
    // nat.md S17, CVE-2020-8558.
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("127.0.0.1:8080"), at("172.17.0.2:80"));
    w.leaves_to_host(Packet::tcp(
        at("10.9.0.50:5000"),
        at("10.9.0.10:8080"),
        SYN,
        1,
        0,
        b"",
    ));
    assert_eq!(
        w.drops(Packet::tcp(
            at("10.9.0.50:5000"),
            at("127.0.0.1:8080"),
            SYN,
            1,
            0,
            b""
        )),
        "martian"
    );
    assert_eq!(
        w.drops(Packet::tcp(
            at("172.17.0.3:5000"),
            at("127.0.0.1:8080"),
            SYN,
            1,
            0,
            b""
        )),
        "martian"
    );
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_port_published_on_one_address_is_the_hosts_on_the_others() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("10.9.0.10:8080"), at("172.17.0.2:80"));
    w.leaves_to_host(Packet::tcp(
        at("10.9.0.50:5000"),
        at("10.8.0.10:8080"),
        SYN,
        1,
        0,
        b"",
    ));
    w.leaves_to_host(Packet::tcp(
        at("127.0.0.1:5000"),
        at("127.0.0.1:8080"),
        SYN,
        1,
        0,
        b"",
    ));
}

#[test]
fn a_specific_address_wins_over_the_wildcard() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("10.9.0.10:8080"), at("172.17.0.3:81"));
    w.publish(Protocol::Udp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.publish(Protocol::Udp, at("10.8.0.10:9000"), at("172.17.0.3:81"));
    assert_eq!(
        w.syn(at("10.9.0.50:5000"), at("10.9.0.10:8080"))
            .seen_server,
        at("172.17.0.3:81")
    );
    assert_eq!(
        w.udp(at("10.9.0.50:5000"), at("10.9.0.10:8080")),
        at("10.9.0.50:5000")
    );
}

#[test]
fn two_containers_serve_one_port_on_two_addresses() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("10.9.0.10:8080"), at("172.17.0.2:80"));
    w.publish(Protocol::Tcp, at("10.8.0.10:8080"), at("172.17.0.3:80"));
    assert_eq!(
        w.syn(at("10.9.0.50:5000"), at("10.9.0.10:8080"))
            .seen_server,
        at("172.17.0.2:80")
    );
    assert_eq!(
        w.syn(at("10.9.0.50:5001"), at("10.8.0.10:8080"))
            .seen_server,
        at("172.17.0.3:80")
    );
}

#[test]
fn the_server_may_also_open_connections_itself() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.connect(at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    let out = w.connect(at("172.17.0.2:41000"), at("10.9.0.50:80"));
    assert_eq!(*out.seen_client.ip(), HOST);
    assert_ne!(out.seen_client.port(), 8080);
}

#[test]
fn a_datagram_from_a_published_udp_port_to_a_new_peer_is_translated_consistently() {
    // EIM for the server's own socket: whatever external port it gets, two peers see the same one.
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    let a = w.udp(at("172.17.0.2:53"), at("10.20.0.1:9000"));
    let b = w.udp(at("172.17.0.2:53"), at("10.20.0.2:9000"));
    assert_eq!(a, b);
}

#[test]
fn ping_of_the_host_stays_with_the_host() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.leaves_to_host(Packet::echo_request(LAN, HOST, 1, 1, b"host?"));
    w.leaves_to_host(Packet::echo_request(C1, GATEWAY, 1, 1, b"gateway?"));
}

#[test]
fn ten_thousand_published_ports_are_one_rule() {
    let mut w = World::new();
    w.publish_range(
        Protocol::Tcp,
        Ipv4Addr::UNSPECIFIED,
        20_000..=29_999,
        at("172.17.0.2:20000"),
    );
    for port in (20_000..30_000).step_by(97) {
        let called = std::net::SocketAddrV4::new(HOST, port);
        assert_eq!(w.syn(at("10.9.0.50:5000"), called).seen_server.port(), port);
    }
}
