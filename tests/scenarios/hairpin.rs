//! Containers that reach each other, or themselves, through the host's addresses.

use tunbridge::forwarder::Protocol;

use super::packet::*;
use super::world::*;

/// `client` calls `server` by `called`; the server must see `gateway`, and answers must find the way back.
#[track_caller]
fn calls(w: &mut World, client: &str, called: &str, server: &str, gateway: std::net::Ipv4Addr) {
    let mut tcp = w.connect(at(client), at(called));
    assert_eq!(tcp.seen_server, at(server));
    assert_eq!(*tcp.seen_client.ip(), gateway);
    assert!(w.host.port_is_ours(Protocol::Tcp, tcp.seen_client.port()));
    let up = w.forward(tcp.packet(PSH | ACK, b"question"));
    assert_eq!(
        (up.source(), up.destination()),
        (tcp.seen_client, at(server))
    );
    let down = w.forward(tcp.reply(PSH | ACK, b"answer"));
    assert_eq!(
        (down.source(), down.destination(), down.payload()),
        (at(called), at(client), &b"answer"[..])
    );
}

#[test]
fn published_port_of_a_neighbour() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.3:80"));
    calls(
        &mut w,
        "172.17.0.2:5000",
        "10.9.0.10:8080",
        "172.17.0.3:80",
        GATEWAY,
    );
}

#[test]
fn published_port_of_the_container_itself() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    calls(
        &mut w,
        "172.17.0.2:5000",
        "10.9.0.10:8080",
        "172.17.0.2:80",
        GATEWAY,
    );
}

#[test]
fn published_port_of_a_container_on_another_network() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.18.0.2:80"));
    calls(
        &mut w,
        "172.17.0.2:5000",
        "10.9.0.10:8080",
        "172.18.0.2:80",
        GATEWAY2,
    );
}

#[test]
fn published_port_by_the_gateway_address() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.3:80"));
    calls(
        &mut w,
        "172.17.0.2:5000",
        "172.17.0.1:8080",
        "172.17.0.3:80",
        GATEWAY,
    );
}

#[test]
fn published_udp_port_of_a_neighbour() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.3:53"));
    let got = w.forward(Packet::udp(
        at("172.17.0.2:5000"),
        at("10.9.0.10:5353"),
        b"q",
    ));
    assert_eq!(
        (*got.source().ip(), got.destination()),
        (GATEWAY, at("172.17.0.3:53"))
    );
    let back = w.forward(Packet::udp(at("172.17.0.3:53"), got.source(), b"a"));
    assert_eq!(
        (back.source(), back.destination()),
        (at("10.9.0.10:5353"), at("172.17.0.2:5000"))
    );
}

#[test]
fn two_clients_with_one_source_port_call_one_published_port() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.18.0.2:80"));
    let a = w.connect(at("172.17.0.2:5000"), at("10.9.0.10:8080"));
    let b = w.connect(at("172.17.0.3:5000"), at("10.9.0.10:8080"));
    assert_ne!(a.seen_client, b.seen_client);
}

#[test]
fn a_port_published_on_one_address_is_not_on_another() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("10.9.0.10:8080"), at("172.17.0.3:80"));
    w.leaves_to_host(Packet::tcp(
        at("172.17.0.2:5000"),
        at("10.8.0.10:8080"),
        SYN,
        1,
        0,
        b"",
    ));
    calls(
        &mut w,
        "172.17.0.2:5000",
        "10.9.0.10:8080",
        "172.17.0.3:80",
        GATEWAY,
    );
}

#[test]
fn dynamic_mapping_is_reached_from_inside_and_shows_the_external_source() {
    // RFC 4787 REQ-9 and REQ-9a.
    let mut w = World::new();
    let c2 = w.udp_exchange(at("172.17.0.3:2000"), at("10.20.0.1:9000"));
    let c1 = w.udp_exchange(at("172.17.0.2:1000"), at("10.20.0.1:9000"));
    // c2 punches: c1's filter refuses its packet, but c2's now knows c1's external address.
    assert_eq!(
        w.drops(Packet::udp(at("172.17.0.3:2000"), c1, b"punch")),
        "filtered"
    );
    let got = w.forward(Packet::udp(at("172.17.0.2:1000"), c2, b"hello"));
    assert_eq!(
        (got.source(), got.destination()),
        (c1, at("172.17.0.3:2000"))
    );
    let back = w.forward(Packet::udp(at("172.17.0.3:2000"), c1, b"hello too"));
    assert_eq!(
        (back.source(), back.destination()),
        (c2, at("172.17.0.2:1000"))
    );
}

#[test]
fn dynamic_tcp_mapping_is_reached_from_inside() {
    // RFC 5382 REQ-8 and REQ-8a; both sides open, as hole punching does.
    let mut w = World::new();
    let c2 = w
        .connect(at("172.17.0.3:2000"), at("10.20.0.1:9000"))
        .seen_client;
    let c1 = w
        .connect(at("172.17.0.2:1000"), at("10.20.0.1:9000"))
        .seen_client;
    // c2's SYN is the first towards c1's mapping, whose filter does not know the host's address yet.
    let early = w.step(Packet::tcp(at("172.17.0.3:2000"), c1, SYN, 500, 0, b""));
    assert_ne!(early.verdict, tunbridge::forwarder::Verdict::ToHost);
    let syn = w.forward(Packet::tcp(at("172.17.0.2:1000"), c2, SYN, 900, 0, b""));
    assert_eq!(
        (syn.source(), syn.destination()),
        (c1, at("172.17.0.3:2000"))
    );
    let syn_ack = w.forward(Packet::tcp(
        at("172.17.0.3:2000"),
        c1,
        SYN | ACK,
        500,
        901,
        b"",
    ));
    assert_eq!(
        (syn_ack.source(), syn_ack.destination()),
        (c2, at("172.17.0.2:1000"))
    );
    let ack = w.forward(Packet::tcp(at("172.17.0.2:1000"), c2, ACK, 901, 501, b""));
    assert_eq!(
        (ack.source(), ack.destination()),
        (c1, at("172.17.0.3:2000"))
    );
}

#[test]
fn hairpinning_keeps_the_filter() {
    // A neighbour is a stranger like any other until the mapping's owner has sent to it.
    let mut w = World::new();
    let c2 = w.udp_exchange(at("172.17.0.3:2000"), at("10.20.0.1:9000"));
    let before = w.counters().forwarded;
    w.step(Packet::udp(at("172.17.0.2:1000"), c2, b"hello"));
    assert_eq!(w.counters().forwarded, before);
}

#[test]
fn a_publication_wins_over_the_callers_own_uplink_address() {
    // nat.md S18: a published port captures only what is addressed to the host.
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:53"), at("172.17.0.2:53"));
    let seen = w.forward(Packet::udp(
        at("172.17.0.3:5000"),
        at("8.8.8.8:53"),
        b"dig @8.8.8.8",
    ));
    assert_eq!(seen.destination(), at("8.8.8.8:53"));
}
