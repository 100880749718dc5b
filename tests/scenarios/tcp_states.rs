//! The TCP state machine (RFC 5382 REQ-2, RFC 7857 §2 with VPP's field corrections): what counts as open, half-open
//! and closing, and that no forged segment moves a connection.

use std::net::SocketAddrV4;

use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

const CLIENT: &str = "172.17.0.2:40000";
const SERVER: &str = "10.20.0.1:80";

fn state(w: &World) -> Option<&'static str> {
    w.state(Protocol::Tcp, at(CLIENT), at(SERVER))
}

fn seconds(w: &World) -> u64 {
    w.timeout(Protocol::Tcp, at(CLIENT), at(SERVER))
        .map_or(0, |t| t.as_secs())
}

fn open(w: &mut World) -> Tcp {
    let tcp = w.connect(at(CLIENT), at(SERVER));
    assert_eq!((state(w), seconds(w)), (Some("established"), 7440));
    tcp
}

#[test]
fn three_way_handshake_establishes() {
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at(SERVER));
    assert_eq!((state(&w), seconds(&w)), (Some("syn_sent"), 240));
    w.forward(tcp.reply(SYN | ACK, b""));
    assert_eq!(seconds(&w), 240, "half-open");
    w.forward(tcp.packet(ACK, b""));
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
}

#[test]
fn handshake_of_a_published_port_establishes() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let (client, called) = (at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    w.connect(client, called);
    assert_eq!(w.state(Protocol::Tcp, client, called), Some("established"));
}

#[test]
fn an_answered_syn_without_the_last_ack_stays_transitory() {
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at(SERVER));
    w.forward(tcp.reply(SYN | ACK, b""));
    w.forward(tcp.reply(SYN | ACK, b"").with_ttl(60));
    assert_ne!(state(&w), Some("established"));
    w.secs(241);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn simultaneous_open_establishes() {
    // RFC 5382 REQ-2a; RFC 793 figure 8.
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at(SERVER));
    let cross = Packet::tcp(at(SERVER), tcp.seen_client, SYN, tcp.next_server, 0, b"");
    let got = w.forward(&cross);
    assert_eq!((got.destination(), got.flags()), (at(CLIENT), SYN));
    tcp.next_server = tcp.next_server.wrapping_add(1);
    let mut resend = tcp;
    resend.next_client = tcp.next_client.wrapping_sub(1);
    w.forward(resend.packet(SYN | ACK, b""));
    let mut resend = tcp;
    resend.next_server = tcp.next_server.wrapping_sub(1);
    w.forward(resend.reply(SYN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    w.forward(tcp.reply(ACK, b""));
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
}

#[test]
fn one_fin_makes_it_transitory() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.packet(FIN | ACK, b""));
    assert_eq!(seconds(&w), 240);
    // The other side may go on sending for as long as it likes.
    for _ in 0..10 {
        w.secs(200);
        w.forward(tcp.reply(PSH | ACK, b"still sending"));
        w.forward(tcp.packet(ACK, b""));
    }
    assert_ne!(state(&w), Some("established"));
}

#[test]
fn a_fin_of_the_server_makes_it_transitory() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.reply(FIN | ACK, b""));
    assert_eq!(seconds(&w), 240);
}

#[test]
fn fins_both_ways_lead_to_time_wait() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(tcp.reply(ACK, b""));
    w.forward(tcp.reply(FIN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    assert_eq!((state(&w), seconds(&w)), (Some("time_wait"), 240));
}

#[test]
fn simultaneous_close_leads_to_time_wait() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    let mut other = tcp;
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(other.reply(FIN | ACK, b""));
    tcp.next_server = other.next_server;
    w.forward(tcp.packet(ACK, b""));
    w.forward(tcp.reply(ACK, b""));
    assert_eq!((state(&w), seconds(&w)), (Some("time_wait"), 240));
}

#[test]
fn a_retransmitted_fin_changes_nothing() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    let fin = tcp.packet(FIN | ACK, b"");
    w.forward(&fin);
    let first = state(&w);
    w.forward(&fin);
    assert_eq!(state(&w), first);
}

#[test]
fn a_reset_in_sequence_closes_and_still_passes() {
    // RFC 7857: RST MUST be translated; the session waits for late packets.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    let seen = w.forward(tcp.packet(RST | ACK, b""));
    assert_eq!((seen.flags(), seen.source()), (RST | ACK, tcp.seen_client));
    assert_eq!((state(&w), seconds(&w)), (Some("reset"), 240));
}

#[test]
fn a_reset_of_the_server_in_sequence_closes() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    let got = w.forward(tcp.reply(RST, b""));
    assert_eq!(got.destination(), at(CLIENT));
    assert_eq!((state(&w), seconds(&w)), (Some("reset"), 240));
}

#[test]
fn there_is_no_recovery_after_a_reset() {
    // VPP: RST moves to transitory with no recovery.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.reply(RST, b""));
    w.forward(tcp.packet(ACK, b""));
    w.forward(tcp.reply(ACK, b""));
    w.forward(tcp.packet(PSH | ACK, b"late"));
    assert_ne!(state(&w), Some("established"));
    assert!(seconds(&w) <= 240);
}

#[test]
fn spurious_segments_establish_nothing() {
    // VPP gerrit 5297447bd6: FIN,ACK / ACK / ACK / RST,ACK stayed established with the RFC's literal figure.
    let mut w = World::new();
    let (client, server) = (at(CLIENT), at(SERVER));
    let first = w.step(Packet::tcp(client, server, FIN | ACK, 100, 200, b""));
    let seen = if first.verdict == Verdict::Forward {
        first.frame.packet.source()
    } else {
        at("10.9.0.10:61000")
    };
    let sequence = [
        Packet::tcp(server, seen, ACK, 200, 101, b""),
        Packet::tcp(client, server, ACK, 101, 200, b""),
        Packet::tcp(server, seen, RST | ACK, 200, 101, b""),
    ];
    for packet in &sequence {
        w.step(packet);
        assert_ne!(state(&w), Some("established"), "after {packet:?}");
    }
    assert!(seconds(&w) <= 240);
    w.secs(241);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn data_before_the_handshake_is_complete_establishes_nothing() {
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at(SERVER));
    w.step(tcp.packet(PSH | ACK, b"too early"));
    w.step(tcp.packet(ACK, b""));
    assert_ne!(state(&w), Some("established"));
    assert!(seconds(&w) <= 240);
}

#[test]
fn a_segment_in_the_middle_of_an_unknown_connection() {
    // After a restart of the daemon, connections of containers go on: an outgoing segment makes a transitory flow
    // (its peer will answer, or reset). From outside nothing begins in the middle.
    let mut w = World::new();
    let (client, server) = (at(CLIENT), at(SERVER));
    let seen = w.forward(Packet::tcp(client, server, ACK, 100, 200, b"go on"));
    assert!(seconds(&w) <= 240);
    w.forward(Packet::tcp(server, seen.source(), ACK, 200, 105, b"yes"));
    w.leaves_to_host(Packet::tcp(
        server,
        at("10.9.0.10:61000"),
        ACK,
        1,
        1,
        b"unknown",
    ));
}

#[test]
fn a_reset_for_no_flow_makes_no_mapping() {
    let mut w = World::new();
    w.step(Packet::tcp(at(CLIENT), at(SERVER), RST, 100, 0, b""));
    w.step(Packet::tcp(at(CLIENT), at(SERVER), RST | ACK, 100, 7, b""));
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_syn_ack_for_no_flow_makes_no_established_one() {
    let mut w = World::new();
    w.step(Packet::tcp(at(CLIENT), at(SERVER), SYN | ACK, 100, 7, b""));
    assert_ne!(state(&w), Some("established"));
}

#[test]
fn blind_resets_do_not_end_a_connection() {
    // nat.md S4: a thousand resets with sequence numbers out of the window; connection and timer stay.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.reply(PSH | ACK, b"some data"));
    w.forward(tcp.packet(ACK, b""));
    let mut random = 0x1234_5678_u32;
    for _ in 0..1000 {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        // At least 1 MiB away from what is expected: beyond any window without scaling.
        let sequence = tcp
            .next_server
            .wrapping_add(1 << 20)
            .wrapping_add(random % (u32::MAX - (1 << 21)));
        w.step(Packet::tcp(
            tcp.seen_server,
            tcp.seen_client,
            RST,
            sequence,
            0,
            b"",
        ));
    }
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    w.forward(tcp.packet(PSH | ACK, b"alive"));
    w.forward(tcp.reply(PSH | ACK, b"me too"));
}

#[test]
fn blind_fins_do_not_end_a_connection() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.reply(PSH | ACK, b"some data"));
    w.forward(tcp.packet(ACK, b""));
    for i in 1..200_u32 {
        // Steps of 16 MiB: never within a window that was offered without scaling.
        let sequence = tcp.next_server.wrapping_add(i << 24);
        w.step(Packet::tcp(
            tcp.seen_server,
            tcp.seen_client,
            FIN | ACK,
            sequence,
            tcp.next_client,
            b"",
        ));
    }
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    w.forward(tcp.packet(PSH | ACK, b"alive"));
    w.forward(tcp.reply(PSH | ACK, b"me too"));
}

#[test]
fn a_reset_in_the_window_but_not_exact_does_not_end_the_state() {
    // RFC 5961 §3.2: the receiver answers with a challenge ACK, which must get back.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    let sequence = tcp.next_server.wrapping_add(100);
    w.step(Packet::tcp(
        tcp.seen_server,
        tcp.seen_client,
        RST,
        sequence,
        0,
        b"",
    ));
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    let challenge = w.forward(tcp.packet(ACK, b""));
    assert_eq!(challenge.destination(), at(SERVER));
    assert_eq!(state(&w), Some("established"));
}

#[test]
fn a_syn_on_an_established_connection_moves_nothing() {
    // nat.md S4, RFC 5961 §4: the challenge ACK gets back.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    for sequence in [0, tcp.next_server, tcp.next_server.wrapping_add(50_000)] {
        w.step(Packet::tcp(
            tcp.seen_server,
            tcp.seen_client,
            SYN,
            sequence,
            0,
            b"",
        ));
        assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    }
    w.step(Packet::tcp(tcp.client, tcp.server, SYN, 5, 0, b""));
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    w.forward(tcp.packet(ACK, b""));
    w.forward(tcp.reply(ACK, b""));
    assert_eq!(state(&w), Some("established"));
}

#[test]
fn an_old_syn_ack_moves_nothing() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.step(Packet::tcp(
        tcp.seen_server,
        tcp.seen_client,
        SYN | ACK,
        42,
        43,
        b"",
    ));
    assert_eq!(state(&w), Some("established"));
    w.forward(tcp.packet(PSH | ACK, b"on"));
}

#[test]
fn a_refused_connection_lets_the_next_try_through() {
    // gvisor-tap-vsock#127 (nat.md S26): SYN, SYN/ACK, RST shapes must not break later connects.
    let mut w = World::new();
    let mut tcp = w.syn(at(CLIENT), at(SERVER));
    tcp.next_server = 0;
    let refused = Packet::tcp(
        tcp.seen_server,
        tcp.seen_client,
        RST | ACK,
        0,
        tcp.next_client,
        b"",
    );
    assert_eq!(w.forward(refused).destination(), at(CLIENT));
    assert_ne!(state(&w), Some("established"));
    let again = w.connect(at(CLIENT), at(SERVER));
    assert_eq!(state(&w), Some("established"));
    assert_eq!(
        again.seen_client, tcp.seen_client,
        "the mapping is the same"
    );
}

#[test]
fn a_connection_reset_after_the_syn_ack_lets_the_next_try_through() {
    // hping3 -S
    let mut w = World::new();
    for _ in 0..200 {
        let mut tcp = w.syn(at(CLIENT), at(SERVER));
        w.forward(tcp.reply(SYN | ACK, b""));
        w.forward(Packet::tcp(
            at(CLIENT),
            at(SERVER),
            RST,
            tcp.next_client,
            0,
            b"",
        ));
    }
    w.connect(at(CLIENT), at(SERVER));
    assert_eq!(state(&w), Some("established"));
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn a_client_may_reuse_its_port_after_closing() {
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(tcp.reply(FIN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    w.secs(2);
    let again = w.connect(at(CLIENT), at(SERVER));
    assert_eq!((state(&w), seconds(&w)), (Some("established"), 7440));
    assert_eq!(again.seen_client, tcp.seen_client);
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn late_data_after_a_reset_still_finds_its_way() {
    // RFC 7857: SHOULD wait four minutes.
    let mut w = World::new();
    let mut tcp = open(&mut w);
    w.forward(tcp.packet(RST | ACK, b""));
    w.secs(100);
    let got = w.forward(Packet::tcp(
        tcp.seen_server,
        tcp.seen_client,
        ACK,
        tcp.next_server,
        1,
        b"in flight",
    ));
    assert_eq!(got.destination(), at(CLIENT));
}

// RFC 5382 REQ-4: unsolicited SYNs to a mapping.

/// A mapping of `CLIENT` that knows `SERVER` only.
fn mapped(w: &mut World) -> SocketAddrV4 {
    w.connect(at(CLIENT), at(SERVER)).seen_client
}

const STRANGER: &str = "10.20.0.2:7777";

#[test]
fn an_unsolicited_syn_is_answered_after_six_seconds_and_not_before() {
    let mut w = World::new();
    let external = mapped(&mut w);
    let syn = Packet::tcp(at(STRANGER), external, SYN, 9, 0, b"");
    let held = w.step(&syn);
    assert_eq!(held.verdict, Verdict::Consumed);
    assert!(held.generated.is_empty());
    assert!(
        w.advance(std::time::Duration::from_millis(5_900))
            .is_empty()
    );
    let sent = w.secs(1);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].src(), sent[0].dst()), (HOST, S2));
    assert_eq!(sent[0].icmp_type_code(), (UNREACHABLE, 3));
    assert_eq!(sent[0].quote(), syn);
    assert!(w.secs(60).is_empty());
}

#[test]
fn an_unsolicited_syn_is_forgotten_when_the_container_opens_to_that_peer() {
    let mut w = World::new();
    let external = mapped(&mut w);
    w.step(Packet::tcp(at(STRANGER), external, SYN, 9, 0, b""));
    w.secs(3);
    let tcp = w.syn(at(CLIENT), at(STRANGER));
    assert_eq!(tcp.seen_client, external);
    assert!(w.secs(20).is_empty(), "the inbound SYN is dropped silently");
}

#[test]
fn hole_punching_works_when_the_peer_repeats_its_syn() {
    // RFC 5128 §3.4: both open; the first inbound SYN is lost, its retransmission completes the handshake.
    let mut w = World::new();
    let external = mapped(&mut w);
    w.step(Packet::tcp(at(STRANGER), external, SYN, 9, 0, b""));
    w.secs(1);
    w.syn(at(CLIENT), at(STRANGER));
    let got = w.forward(Packet::tcp(at(STRANGER), external, SYN, 9, 0, b""));
    assert_eq!(got.destination(), at(CLIENT));
    w.forward(Packet::tcp(
        at(CLIENT),
        at(STRANGER),
        SYN | ACK,
        1_000_000,
        10,
        b"",
    ));
    w.forward(Packet::tcp(at(STRANGER), external, ACK, 10, 1_000_001, b""));
    assert!(w.secs(20).is_empty());
}

#[test]
fn a_repeated_unsolicited_syn_is_answered_once() {
    let mut w = World::new();
    let external = mapped(&mut w);
    let syn = Packet::tcp(at(STRANGER), external, SYN, 9, 0, b"");
    w.step(&syn);
    w.secs(1);
    w.step(&syn);
    w.secs(2);
    w.step(&syn);
    let sent = w.secs(20);
    assert_eq!(sent.len(), 1, "{sent:?}");
}

#[test]
fn unsolicited_syns_are_held_within_bounds() {
    let mut w = World::new();
    let external = mapped(&mut w);
    for port in 1000..30_000 {
        let step = w.step(Packet::tcp(
            SocketAddrV4::new(S2, port),
            external,
            SYN,
            9,
            0,
            b"",
        ));
        assert_ne!(step.verdict, Verdict::Forward);
    }
    let sent = w.secs(30);
    assert!(sent.len() <= 1024, "{} answers to one flood", sent.len());
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn other_unsolicited_segments_are_filtered_at_once() {
    let mut w = World::new();
    let external = mapped(&mut w);
    for flags in [ACK, RST, FIN | ACK, PSH | ACK, 0] {
        assert_eq!(
            w.drops(Packet::tcp(at(STRANGER), external, flags, 9, 9, b"")),
            "tcp_no_flow"
        );
    }
}
