//! Every row of the timer table, one second before and one second after.

use std::net::SocketAddrV4;
use std::time::Duration;

use tunbridge::forwarder::{Config, Timeouts};

use super::packet::*;
use super::world::*;

const CLIENT: &str = "172.17.0.2:40000";

/// The only flow of `w` must live for `seconds` from now, give or take one.
#[track_caller]
fn lives(w: &mut World, seconds: u64) {
    w.secs(seconds - 1);
    assert_eq!(w.tables(), (1, 1), "gone before {seconds} s");
    assert_eq!(w.host.ports().len(), 1);
    w.secs(2);
    assert_eq!(w.tables(), (0, 0), "still there after {seconds} s");
    assert_eq!(w.host.ports(), []);
}

fn udp(w: &mut World, server: &str, exchanges: usize) -> SocketAddrV4 {
    let seen = w.udp(at(CLIENT), at(server));
    for _ in 0..exchanges {
        w.forward(Packet::udp(at(server), seen, b"answer"));
        w.udp(at(CLIENT), at(server));
    }
    seen
}

#[test]
fn udp_unreplied_120_s() {
    // RFC 4787 REQ-5.
    let mut w = World::new();
    udp(&mut w, "10.20.0.1:9000", 0);
    lives(&mut w, 120);
}

#[test]
fn udp_unreplied_to_a_well_known_port_30_s() {
    // RFC 4787 REQ-5a.
    let mut w = World::new();
    udp(&mut w, "10.20.0.1:53", 0);
    lives(&mut w, 30);
}

#[test]
fn udp_to_port_1023_is_well_known_and_1024_is_not() {
    for (server, seconds) in [("10.20.0.1:1023", 30), ("10.20.0.1:1024", 120)] {
        let mut w = World::new();
        udp(&mut w, server, 0);
        lives(&mut w, seconds);
    }
}

#[test]
fn udp_replied_300_s() {
    // RFC 4787 REQ-5c.
    let mut w = World::new();
    udp(&mut w, "10.20.0.1:9000", 1);
    lives(&mut w, 300);
}

#[test]
fn udp_conversation_with_a_well_known_port_300_s() {
    let mut w = World::new();
    udp(&mut w, "10.20.0.1:443", 2);
    lives(&mut w, 300);
}

#[test]
fn tcp_syn_sent_240_s() {
    // RFC 5382 REQ-5, RFC 7857 §2.
    let mut w = World::new();
    w.syn(at(CLIENT), at("10.20.0.1:80"));
    lives(&mut w, 240);
}

#[test]
fn tcp_half_open_240_s() {
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.reply(SYN | ACK, b""));
    lives(&mut w, 240);
}

#[test]
fn tcp_established_7440_s() {
    // RFC 5382 REQ-5: 2 h 4 min.
    let mut w = World::new();
    w.connect(at(CLIENT), at("10.20.0.1:80"));
    lives(&mut w, 7440);
}

#[test]
fn tcp_half_closed_240_s() {
    let mut w = World::new();
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.packet(FIN | ACK, b""));
    lives(&mut w, 240);
}

#[test]
fn tcp_time_wait_240_s() {
    let mut w = World::new();
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(tcp.reply(FIN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    lives(&mut w, 240);
}

#[test]
fn tcp_after_reset_240_s() {
    // RFC 7857 §2.2.
    let mut w = World::new();
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.reply(RST, b""));
    lives(&mut w, 240);
}

#[test]
fn icmp_query_60_s() {
    // RFC 5508 REQ-2.
    let mut w = World::new();
    w.ping(C1, S1, 7);
    lives(&mut w, 60);
}

#[test]
fn icmp_query_answered_60_s() {
    let mut w = World::new();
    let (_, ident) = w.ping(C1, S1, 7);
    w.forward(Packet::echo_reply(S1, HOST, ident, 1, b""));
    lives(&mut w, 60);
}

#[test]
fn outgoing_packets_refresh() {
    // RFC 4787 REQ-6.
    let mut w = World::new();
    for _ in 0..20 {
        w.udp(at(CLIENT), at("10.20.0.1:9000"));
        w.secs(100);
    }
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn incoming_packets_refresh() {
    // RFC 4787 REQ-6a.
    let mut w = World::new();
    let seen = w.udp_exchange(at(CLIENT), at("10.20.0.1:9000"));
    for _ in 0..20 {
        w.secs(250);
        w.forward(Packet::udp(at("10.20.0.1:9000"), seen, b"keep"));
    }
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn a_keepalive_keeps_an_idle_connection() {
    let mut w = World::new();
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    for _ in 0..12 {
        w.secs(7200);
        w.forward(tcp.packet(ACK, b""));
        w.forward(tcp.reply(ACK, b""));
    }
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn a_mapping_lives_as_long_as_its_longest_flow() {
    let mut w = World::new();
    w.udp(at(CLIENT), at("10.20.0.1:9000"));
    let seen = w.udp_exchange(at(CLIENT), at("10.20.0.2:9000"));
    w.secs(130);
    assert_eq!(
        w.tables(),
        (1, 1),
        "the unreplied flow ended, the other one holds the mapping"
    );
    assert_eq!(w.udp(at(CLIENT), at("10.20.0.1:9000")), seen);
    w.secs(301);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn an_expired_flow_lets_nothing_in() {
    let mut w = World::new();
    let seen = w.udp(at(CLIENT), at("10.20.0.1:9000"));
    w.secs(121);
    w.leaves_to_host(Packet::udp(at("10.20.0.1:9000"), seen, b"too late"));
}

#[test]
fn a_packet_after_the_deadline_does_not_revive_the_flow_even_before_the_timer_ran() {
    // Expiry is a fact of the clock, not of how often timers are polled.
    let mut w = World::new();
    let seen = w.udp(at(CLIENT), at("10.20.0.1:9000"));
    w.now = w.now + Duration::from_secs(200);
    let before = w.counters().forwarded;
    w.step(Packet::udp(at("10.20.0.1:9000"), seen, b"too late"));
    assert_eq!(w.counters().forwarded, before);
}

#[test]
fn every_timer_is_configurable() {
    // RFC 4787 REQ-5b, RFC 5382 REQ-5a, RFC 5508 REQ-2a, RFC 7857 §2.
    let short = |change: fn(&mut Timeouts)| {
        let mut config = Config::default();
        change(&mut config.timeouts);
        World::with_config(config)
    };
    let ten = Duration::from_secs(10);

    let mut w = short(|t| t.udp_unreplied = Duration::from_secs(10));
    udp(&mut w, "10.20.0.1:9000", 0);
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.udp_well_known = Duration::from_secs(10));
    udp(&mut w, "10.20.0.1:53", 0);
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.udp_replied = Duration::from_secs(10));
    udp(&mut w, "10.20.0.1:9000", 1);
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.tcp_opening = Duration::from_secs(10));
    w.syn(at(CLIENT), at("10.20.0.1:80"));
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.tcp_established = Duration::from_secs(10));
    w.connect(at(CLIENT), at("10.20.0.1:80"));
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.tcp_closing = Duration::from_secs(10));
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.packet(FIN | ACK, b""));
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.tcp_time_wait = Duration::from_secs(10));
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(tcp.reply(FIN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.tcp_reset = Duration::from_secs(10));
    let mut tcp = w.connect(at(CLIENT), at("10.20.0.1:80"));
    w.forward(tcp.reply(RST, b""));
    lives(&mut w, ten.as_secs());

    let mut w = short(|t| t.icmp_query = Duration::from_secs(10));
    w.ping(C1, S1, 7);
    lives(&mut w, ten.as_secs());
}

#[test]
fn with_nothing_to_expire_there_is_no_deadline() {
    let mut w = World::new();
    assert_eq!(w.forwarder.poll_timeout(), None);
    w.udp(at(CLIENT), at("10.20.0.1:9000"));
    assert!(w.forwarder.poll_timeout().is_some());
    w.secs(400);
    assert_eq!(w.forwarder.poll_timeout(), None);
}

#[test]
fn a_spurious_handle_timeout_does_nothing() {
    let mut w = World::new();
    w.udp(at(CLIENT), at("10.20.0.1:9000"));
    for _ in 0..100 {
        assert!(w.advance(Duration::ZERO).is_empty());
    }
    assert_eq!(w.tables(), (1, 1));
}
