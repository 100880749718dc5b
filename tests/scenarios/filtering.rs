//! Who outside may send to a mapping (RFC 4787 REQ-8, RFC 5382 REQ-3).

use tunbridge::forwarder::{Config, Filtering, Protocol};

use super::packet::*;
use super::world::*;

fn world(filtering: Filtering) -> World {
    World::with_config(Config {
        filtering,
        ..Config::default()
    })
}

#[test]
fn address_dependent_filtering_is_the_default() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let same_address = w.forward(Packet::udp(at("10.20.0.1:9999"), seen, b"other port"));
    assert_eq!(
        (same_address.source(), same_address.destination()),
        (at("10.20.0.1:9999"), at("172.17.0.2:40000"))
    );
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.2:9000"), seen, b"stranger")),
        "filtered"
    );
}

#[test]
fn a_stranger_is_let_in_once_the_container_has_sent_to_it() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.2:9000"), seen, b"early")),
        "filtered"
    );
    w.udp(at("172.17.0.2:40000"), at("10.20.0.2:1"));
    let got = w.forward(Packet::udp(at("10.20.0.2:9000"), seen, b"late"));
    assert_eq!(got.destination(), at("172.17.0.2:40000"));
}

#[test]
fn endpoint_independent_filtering_lets_strangers_in() {
    let mut w = world(Filtering::EndpointIndependent);
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let got = w.forward(Packet::udp(at("10.20.0.2:5"), seen, b"stranger"));
    assert_eq!(
        (got.source(), got.destination()),
        (at("10.20.0.2:5"), at("172.17.0.2:40000"))
    );
    let answer = w.forward(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.2:5"),
        b"welcome",
    ));
    assert_eq!(answer.source(), seen);
}

#[test]
fn address_and_port_dependent_filtering_wants_the_exact_peer() {
    let mut w = world(Filtering::AddressAndPortDependent);
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.1:9001"), seen, b"other port")),
        "filtered"
    );
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.2:9000"), seen, b"other address")),
        "filtered"
    );
    w.forward(Packet::udp(at("10.20.0.1:9000"), seen, b"exact"));
}

#[test]
fn a_filtered_packet_refreshes_nothing() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    for _ in 0..29 {
        w.secs(10);
        w.drops(Packet::udp(at("10.20.0.2:9000"), seen, b"stranger"));
    }
    w.secs(12);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_packet_to_no_mapping_goes_to_the_host() {
    let mut w = World::new();
    w.leaves_to_host(Packet::udp(
        at("10.20.0.1:9000"),
        at("10.9.0.10:61234"),
        b"whose?",
    ));
    w.leaves_to_host(Packet::tcp(
        at("10.20.0.1:9000"),
        at("10.9.0.10:22"),
        SYN,
        1,
        0,
        b"",
    ));
    w.leaves_to_host(Packet::echo_request(LAN, HOST, 5, 1, b"ping the host"));
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn an_echo_reply_from_another_host_does_not_reach_the_container() {
    // It may belong to a ping of the host itself, whose identifiers nobody tracks.
    let mut w = World::new();
    let (_, ident) = w.ping(C1, S1, 77);
    w.leaves_to_host(Packet::echo_reply(S2, HOST, ident, 1, b"ping"));
    let got = w.forward(Packet::echo_reply(S1, HOST, ident, 1, b"ping"));
    assert_eq!((got.dst(), got.echo_ident()), (C1, 77));
}

#[test]
fn an_echo_request_to_a_mapped_identifier_is_the_hosts() {
    let mut w = World::new();
    let (_, ident) = w.ping(C1, S1, 77);
    w.leaves_to_host(Packet::echo_request(S1, HOST, ident, 1, b"ping"));
}

#[test]
fn a_container_address_is_not_reachable_from_outside() {
    let mut w = World::new();
    w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let counters = w.counters().clone();
    w.drops(Packet::tcp(
        at("10.9.0.50:1000"),
        at("172.17.0.2:22"),
        SYN,
        1,
        0,
        b"",
    ));
    w.drops(Packet::udp(at("10.9.0.50:1000"), at("172.17.0.2:53"), b""));
    w.drops(Packet::echo_request(LAN, C1, 1, 1, b""));
    // Not even inside a flow: outside knows only the mapping.
    w.drops(Packet::tcp(
        at("10.20.0.1:80"),
        at("172.17.0.2:40000"),
        ACK,
        1,
        1,
        b"",
    ));
    assert_eq!(w.counters().forwarded, counters.forwarded);
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn containers_of_different_networks_do_not_reach_each_other() {
    let mut w = World::new();
    for packet in [
        Packet::tcp(at("172.17.0.2:1000"), at("172.18.0.2:80"), SYN, 1, 0, b""),
        Packet::udp(at("172.17.0.2:1000"), at("172.18.0.2:80"), b""),
        Packet::echo_request(C1, C3, 1, 1, b""),
        Packet::udp(at("172.18.0.2:1000"), at("172.17.0.2:80"), b""),
    ] {
        let step = w.step(&packet);
        assert!(
            matches!(step.verdict, tunbridge::forwarder::Verdict::Drop(_)),
            "{step:?}"
        );
    }
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_fake_reply_to_an_external_port_of_another_protocol_is_not_let_in() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    assert!(!w.host.port_is_ours(Protocol::Tcp, seen.port()));
    w.leaves_to_host(Packet::tcp(at("10.20.0.1:9000"), seen, ACK, 5, 5, b"tcp"));
}
