//! One hop: the TTL falls by one, and whoever sends with TTL 1 hears from the gateway.

use tunbridge::forwarder::Protocol;

use super::packet::*;
use super::world::*;

#[test]
fn ttl_1_from_a_container_shows_the_gateway() {
    // traceroute's first line.
    let mut w = World::new();
    let probe = Packet::udp(at("172.17.0.2:33434"), at("10.20.0.1:33434"), &[0x40; 32]).with_ttl(1);
    let (reason, error) = w.rejects(&probe);
    assert_eq!(reason, "ttl_exceeded");
    assert_eq!((error.src(), error.dst()), (GATEWAY, C1));
    assert_eq!(error.icmp_type_code(), (TIME_EXCEEDED, 0));
    assert_eq!(error.icmp_rest(), 0);
    assert!(error.ttl() > 1);
    assert_eq!(
        error.quote(),
        probe,
        "the quote is the packet as the container sent it"
    );
    assert_eq!(
        w.tables(),
        (0, 0),
        "no mapping for a packet that does not leave"
    );
}

#[test]
fn ttl_1_is_answered_for_every_protocol() {
    let mut w = World::new();
    for probe in [
        Packet::tcp(at("172.17.0.2:1000"), at("10.20.0.1:80"), SYN, 1, 0, b""),
        Packet::echo_request(C1, S1, 4, 1, &[7; 40]),
    ] {
        let (reason, error) = w.rejects(probe.clone().with_ttl(1));
        assert_eq!(reason, "ttl_exceeded");
        assert_eq!(
            (error.src(), error.icmp_type_code()),
            (GATEWAY, (TIME_EXCEEDED, 0))
        );
        assert_eq!(error.quote(), probe.with_ttl(1));
    }
}

#[test]
fn ttl_0_is_not_forwarded() {
    let mut w = World::new();
    let step = w.step(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:2"), b"").with_ttl(0));
    assert!(matches!(
        step.verdict,
        tunbridge::forwarder::Verdict::Drop(_)
    ));
}

#[test]
fn ttl_2_leaves_with_ttl_1() {
    let mut w = World::new();
    let seen =
        w.forward(Packet::udp(at("172.17.0.2:33434"), at("10.20.0.1:33435"), b"probe").with_ttl(2));
    assert_eq!(seen.ttl(), 1);
}

#[test]
fn traceroute_second_hop_arrives_in_the_container() {
    let mut w = World::new();
    let probe = Packet::udp(at("172.17.0.2:33434"), at("10.20.0.1:33435"), b"probe").with_ttl(2);
    let seen = w.forward(&probe);
    let router = ip("10.9.0.1");
    let error = Packet::icmp_error(router, HOST, TIME_EXCEEDED, 0, 0, &seen.0);
    let got = w.forward(&error);
    assert_eq!(
        (got.src(), got.dst(), got.icmp_type_code()),
        (router, C1, (TIME_EXCEEDED, 0))
    );
    assert_eq!(got.quote(), probe.with_ttl(1).with_ident(seen.ident()));
}

#[test]
fn ttl_falls_by_one_in_each_direction() {
    let mut w = World::new();
    let seen =
        w.forward(Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"").with_ttl(200));
    assert_eq!(seen.ttl(), 199);
    let got = w.forward(Packet::udp(seen.destination(), seen.source(), b"").with_ttl(17));
    assert_eq!(got.ttl(), 16);
}

#[test]
fn ttl_1_from_outside_is_answered_with_the_hosts_address() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let late = Packet::udp(at("10.20.0.1:9000"), seen, b"at its end").with_ttl(1);
    let (reason, error) = w.rejects(&late);
    assert_eq!(reason, "ttl_exceeded");
    assert_eq!(
        (error.src(), error.dst()),
        (HOST, S1),
        "a private address would tell nothing outside"
    );
    assert_eq!(error.quote(), late);
}

#[test]
fn ttl_1_to_a_published_port_is_answered_with_the_hosts_address() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let probe = Packet::tcp(at("10.9.0.50:1000"), at("10.9.0.10:8080"), SYN, 1, 0, b"").with_ttl(1);
    let (reason, error) = w.rejects(&probe);
    assert_eq!(reason, "ttl_exceeded");
    assert_eq!((error.src(), error.dst()), (HOST, LAN));
    assert_eq!(error.quote(), probe);
}

#[test]
fn no_error_about_an_error() {
    // RFC 1122 §3.2.2: an ICMP error about an ICMP error must not be sent.
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let error = Packet::icmp_error(
        S1,
        HOST,
        UNREACHABLE,
        3,
        0,
        &Packet::udp(seen, at("10.20.0.1:9000"), b"question").0,
    );
    w.drops(error.with_ttl(1));
    let inner = Packet::udp(at("10.20.0.1:9000"), at("172.17.0.2:40000"), b"answer");
    w.drops(Packet::icmp_error(C1, S1, UNREACHABLE, 3, 0, &inner.0).with_ttl(1));
}

#[test]
fn no_error_about_a_later_fragment() {
    // RFC 1122 §3.2.2.
    let mut w = World::new();
    let whole = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &[1; 3000]);
    let fragments = whole.fragments(1480);
    w.forward(&fragments[0]);
    w.drops(fragments[1].clone().with_ttl(1));
}

#[test]
fn a_long_packet_is_quoted_within_576_octets() {
    // RFC 1812 §4.3.2.3.
    let mut w = World::new();
    let probe = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &[9; 1400]).with_ttl(1);
    let (_, error) = w.rejects(&probe);
    assert!(error.0.len() <= 576, "{} octets", error.0.len());
    assert!(error.quote().0.len() >= 28);
    assert!(probe.0.starts_with(&error.quote().0));
}

#[test]
fn a_container_that_calls_itself_through_the_host_loses_ttl_too() {
    // nat.md S9: a loop ends.
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let to_self = Packet::udp(at("172.17.0.2:5000"), at("10.9.0.10:8080"), b"me");
    assert_eq!(w.forward(to_self.clone().with_ttl(2)).ttl(), 1);
    let (reason, error) = w.rejects(to_self.with_ttl(1));
    assert_eq!(
        (reason, error.src(), error.dst()),
        ("ttl_exceeded", GATEWAY, C1)
    );
}
