//! Packets made to hurt (nat.md §1.10).

use std::net::{Ipv4Addr, SocketAddrV4};

use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

#[track_caller]
fn dropped(w: &mut World, bytes: &[u8], what: &str) -> &'static str {
    let step = w.step_bytes(bytes);
    assert!(step.generated.is_empty(), "{what}: {:?}", step.generated);
    match step.verdict {
        Verdict::Drop(reason) => reason.name(),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn no_payload_opens_a_pinhole() {
    // S1, NAT slipstreaming: there is no application gateway to talk to.
    let payloads: [&[u8]; 5] = [
        b"PORT 172,17,0,2,31,144\r\n",
        b"EPRT |1|172.17.0.2|8080|\r\n",
        b"REGISTER sip:10.20.0.1;transport=TCP SIP/2.0\r\nContact: <sip:u@172.17.0.2:8080;transport=TCP>\r\n\r\n",
        b"PRIVMSG x :\x01DCC SEND f 2886795266 8080 1\x01\r\n",
        b"\x03\x00\x00\x30\x20\x10\xac\x11\x00\x02\x1f\x90H.323 setup",
    ];
    for (port, payload) in [21, 21, 5060, 6667, 1720].into_iter().zip(payloads) {
        let mut w = World::new();
        let mut tcp = w.connect(at("172.17.0.2:40000"), SocketAddrV4::new(S1, port));
        let ports = w.host.ports();
        let seen = w.forward(tcp.packet(PSH | ACK, payload));
        assert_eq!(seen.payload(), payload, "the payload is not touched");
        assert_eq!((w.tables(), w.host.ports()), ((1, 1), ports));
        w.leaves_to_host(Packet::tcp(
            SocketAddrV4::new(S1, port),
            at("10.9.0.10:8080"),
            SYN,
            1,
            0,
            b"",
        ));
        let before = w.counters().forwarded;
        w.step(Packet::tcp(
            at("10.20.0.2:20"),
            tcp.seen_client,
            SYN,
            1,
            0,
            b"",
        ));
        assert_eq!(w.counters().forwarded, before);
        let mut u = World::new();
        let seen = u.forward(Packet::udp(
            at("172.17.0.2:5060"),
            SocketAddrV4::new(S1, port),
            payload,
        ));
        assert_eq!((seen.payload(), u.tables()), (payload, (1, 1)));
    }
}

#[test]
fn a_forged_error_for_a_foreign_flow_changes_nothing() {
    // S7.
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let ours = Packet::tcp(
        tcp.seen_client,
        tcp.seen_server,
        ACK,
        tcp.next_client,
        tcp.next_server,
        b"x",
    );
    let before = w.counters().forwarded;
    // Another peer, another of our ports, another protocol, an outer destination that is not the mapping's.
    let other_peer = ours.clone().with_dst(S2);
    let mut other_port = ours.clone();
    other_port.set16(20, tcp.seen_client.port() ^ 1);
    for quote in [other_peer, other_port.fixed()] {
        for (kind, code, rest) in [
            (UNREACHABLE, 4, 68),
            (UNREACHABLE, 3, 0),
            (TIME_EXCEEDED, 0, 0),
        ] {
            w.step(Packet::icmp_error(S2, HOST, kind, code, rest, &quote.0));
        }
    }
    w.step(Packet::icmp_error(S2, HOST2, UNREACHABLE, 4, 68, &ours.0));
    assert_eq!(
        w.counters().forwarded,
        before,
        "a forged error was forwarded"
    );
    assert_eq!(
        w.state(Protocol::Tcp, tcp.client, tcp.server),
        Some("established")
    );
    w.forward(tcp.packet(PSH | ACK, b"up"));
    w.forward(tcp.reply(PSH | ACK, b"down"));
}

#[test]
fn a_container_cannot_forge_errors_about_its_neighbours_flows() {
    let mut w = World::new();
    let tcp = w.connect(at("172.17.0.3:40000"), at("10.20.0.1:80"));
    let answer = Packet::tcp(tcp.server, tcp.client, ACK, 1, 1, b"");
    let before = w.counters().forwarded;
    w.step(Packet::icmp_error(C1, S1, UNREACHABLE, 3, 0, &answer.0));
    // Even one that knows everything.
    let seen = w.udp_exchange(at("172.17.0.3:50000"), at("10.20.0.1:9000"));
    let before = before + 2;
    let datagram = Packet::udp(at("10.20.0.1:9000"), at("172.17.0.3:50000"), b"answer");
    w.step(Packet::icmp_error(C1, S1, UNREACHABLE, 3, 0, &datagram.0));
    w.step(Packet::icmp_error(
        C1,
        *seen.ip(),
        UNREACHABLE,
        3,
        0,
        &datagram.0,
    ));
    let mut direct = Packet::tcp(tcp.seen_client, tcp.server, ACK, 1, 1, b"");
    direct.fix_ip();
    w.step(Packet::icmp_error(C1, HOST, UNREACHABLE, 3, 0, &direct.0));
    assert_eq!(
        w.counters().forwarded,
        before,
        "a container complained about packets that were not its own"
    );
    assert_eq!(
        w.state(Protocol::Tcp, tcp.client, tcp.server),
        Some("established")
    );
}

#[test]
fn an_error_about_a_segment_that_was_never_sent_is_refused() {
    // S7: the quoted sequence number must be one that the connection has used.
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let sent = w.forward(tcp.packet(PSH | ACK, &[1; 1000]));
    let mut forged = sent.clone();
    forged.0[24..28].copy_from_slice(&tcp.next_client.wrapping_add(1 << 24).to_be_bytes());
    let error = |quote: &Packet| Packet::icmp_error(S2, HOST, UNREACHABLE, 4, 68, &quote.0[..28]);
    assert_eq!(w.drops(error(&forged.fixed())), "icmp_no_flow");
    w.forward(error(&sent));
}

#[test]
fn land_packets_are_dropped() {
    // S9, S14.
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:80"), at("172.17.0.2:80"));
    assert_eq!(
        w.drops(Packet::tcp(
            at("172.17.0.2:80"),
            at("172.17.0.2:80"),
            SYN,
            1,
            0,
            b""
        )),
        "land"
    );
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.1:80"), at("10.20.0.1:80"), b"")),
        "land"
    );
    let before = w.counters().forwarded;
    let same_port = Packet::tcp(at("10.9.0.10:80"), at("10.9.0.10:80"), SYN, 1, 0, b"");
    w.step(same_port);
    assert!(w.counters().forwarded <= before + 1);
}

#[test]
fn a_mapping_that_calls_itself_does_not_loop() {
    // S9; VPP test_hairpinning_avoid_inf_loop.
    let mut w = World::new();
    let own = w.udp_exchange(at("172.17.0.2:1000"), at("10.20.0.1:9000"));
    let mut packet = Packet::udp(at("172.17.0.2:1000"), own, b"round and round").with_ttl(64);
    for pass in 0..70 {
        let step = w.step(&packet);
        if step.verdict != Verdict::Forward {
            return;
        }
        let got = step.frame.packet;
        assert!(
            got.ttl() < packet.ttl(),
            "pass {pass}: the TTL does not fall"
        );
        if got.dst() == C1 {
            return; // delivered: no loop
        }
        packet = got;
    }
    panic!("still going round");
}

#[test]
fn martians_are_dropped_by_name() {
    // S14: pairs that no wire may carry.
    let bad_sources = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "254.1.2.3",
        "255.255.255.255",
        "169.254.1.1",
    ];
    // From outside steering lets no 127/8 in; from the host itself to the host it is a process that bound it, so that
    // pair (127.0.0.1 > HOST) is legal here. 169.254/16 as a destination passes, as with Docker: clouds serve their
    // metadata there.
    let bad_destinations = [
        "0.0.0.0",
        "0.0.0.1",
        "127.0.0.1",
        "127.0.0.53",
        "224.0.0.251",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "172.17.255.255",
    ];
    let mut pairs: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for source in bad_sources {
        for destination in [HOST, C1, S1, NARROW] {
            if !(ip(source).is_loopback() && destination == HOST) {
                pairs.push((ip(source), destination));
            }
        }
    }
    for destination in bad_destinations {
        pairs.push((C1, ip(destination)));
    }
    assert!(pairs.len() >= 39);
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.3:53"));
    let mut wrong = Vec::new();
    for (source, destination) in &pairs {
        let packet = Packet::udp(
            SocketAddrV4::new(*source, 1234),
            SocketAddrV4::new(*destination, 5353),
            b"bad",
        );
        let step = w.step(packet);
        let name = match step.verdict {
            Verdict::Drop(reason) => reason.name(),
            Verdict::Forward => "FORWARDED",
            Verdict::ToHost => "TO HOST",
            Verdict::Consumed => "CONSUMED",
        };
        assert!(
            step.generated.is_empty(),
            "{source} > {destination} was answered: {step:?}"
        );
        let fine = ["martian", "broadcast"].contains(&name);
        if !fine {
            wrong.push(format!("{source} > {destination}: {name}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn subnet_broadcast_does_not_leave() {
    let mut w = World::new();
    let before = w.counters().forwarded;
    w.step(Packet::udp(
        at("172.17.0.2:137"),
        at("172.17.255.255:137"),
        b"who",
    ));
    w.step(Packet::udp(
        at("172.17.0.2:137"),
        at("172.18.255.255:137"),
        b"who",
    ));
    assert_eq!(w.counters().forwarded, before);
}

#[test]
fn a_spoofed_container_address_is_dropped() {
    // S11; an address of the subnet that belongs to no endpoint.
    let mut w = World::new();
    assert_eq!(
        w.drops(Packet::udp(at("172.17.9.9:1"), at("10.20.0.1:2"), b"")),
        "unknown_source"
    );
}

#[test]
fn traffic_between_two_outside_addresses_is_not_carried() {
    let mut w = World::new();
    assert_eq!(
        w.drops(Packet::udp(at("10.20.0.1:1"), at("10.20.0.2:2"), b"")),
        "transit"
    );
}

#[test]
fn other_transport_protocols_are_dropped() {
    let mut w = World::new();
    for protocol in [0, 2, 4, 41, 47, 50, 51, 89, 132, 136, 255] {
        let packet = Packet::ip(C1, S1, protocol, &[0; 24]);
        let step = w.step(packet);
        assert!(
            matches!(step.verdict, Verdict::Drop(_)),
            "protocol {protocol}"
        );
    }
    assert_eq!(
        w.drops(Packet::ip(C1, S1, 132, &[0; 24])),
        "unsupported_protocol"
    );
}

#[test]
fn source_routes_are_dropped() {
    let mut w = World::new();
    for option in [0x83, 0x89] {
        let packet = Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:2"), b"")
            .with_ip_options(&[option, 7, 4, 10, 9, 0, 1, 0]);
        assert_eq!(w.drops(packet), "source_route");
    }
}

#[test]
fn length_liars_are_dropped() {
    // S10.
    let udp = Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"sixteen octets!!",
    );
    let tcp = Packet::tcp(at("172.17.0.2:40000"), at("10.20.0.1:80"), SYN, 1, 0, b"");
    let icmp = Packet::echo_request(C1, S1, 1, 1, b"ping");
    type Lie = (&'static str, fn(&mut Packet));
    let lies: [Lie; 12] = [
        ("header length 0", |p| p.0[0] = 0x40),
        ("header length 16", |p| p.0[0] = 0x44),
        ("header length beyond the packet", |p| p.0[0] = 0x4f),
        ("version 0", |p| p.0[0] = 0x05),
        ("version 5", |p| p.0[0] = 0x55),
        ("total length 0", |p| p.set16(2, 0)),
        ("total length 19", |p| p.set16(2, 19)),
        ("total length one too large", |p| {
            let length = p.get16(2) + 1;
            p.set16(2, length);
        }),
        ("total length 65535", |p| p.set16(2, 0xffff)),
        ("transport cut in the middle", |p| {
            p.0.truncate(24);
            p.set16(2, 24);
        }),
        ("no transport at all", |p| {
            p.0.truncate(20);
            p.set16(2, 20);
        }),
        ("total length less than the transport header", |p| {
            p.set16(2, 22)
        }),
    ];
    for packet in [&udp, &tcp, &icmp] {
        for (name, lie) in lies {
            let mut w = World::new();
            let mut packet = packet.clone();
            lie(&mut packet);
            if packet.header_len() >= 20 && packet.header_len() <= packet.0.len() {
                packet.fix_ip();
            }
            dropped(&mut w, &Frame::from(&packet).bytes(), name);
            assert_eq!(w.tables(), (0, 0), "{name}");
        }
    }
    for length in [0, 1, 7, 25, 65_535_u16] {
        let mut w = World::new();
        let mut packet = udp.clone();
        packet.set16(24, length);
        let what = format!("UDP length {length}");
        dropped(&mut w, &Frame::from(&packet).bytes(), &what);
    }
    for offset in [0x00, 0x40, 0x60, 0xf0] {
        let mut w = World::new();
        let mut packet = tcp.clone();
        packet.0[32] = offset;
        let what = format!("TCP data offset {offset:#x}");
        dropped(&mut w, &Frame::from(&packet.fixed()).bytes(), &what);
    }
}

#[test]
fn short_frames_are_dropped() {
    let whole = Frame::from(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"",
    ))
    .bytes();
    let mut w = World::new();
    for length in 10..whole.len() {
        dropped(&mut w, &whole[..length], &format!("{length} octets"));
    }
    let mut out = tunbridge::forwarder::Outbox::new();
    for length in 0..10 {
        let mut buffer = whole[..length].to_vec();
        let verdict = w.forwarder.handle_packet(&mut buffer, w.now, &mut out);
        assert!(
            matches!(verdict, Verdict::Drop(_)),
            "{length} octets: {verdict:?}"
        );
    }
}

#[test]
fn virtio_header_liars_are_dropped() {
    // S10, DPDK CVE-2024-11614: every field is checked against the packet before it is used.
    let tcp = |w: &mut World| {
        let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
        tcp.packet(PSH | ACK, &[1; 3000])
    };
    type Lie = (&'static str, fn(&mut Vnet));
    let lies: &[Lie] = &[
        ("csum_start beyond the packet", |v| v.csum_start = 60_000),
        ("csum_start 65535", |v| v.csum_start = u16::MAX),
        ("csum_start in the IP header", |v| v.csum_start = 4),
        ("csum_start 0", |v| v.csum_start = 0),
        ("csum_start in the payload", |v| v.csum_start = 100),
        ("csum_offset beyond the packet", |v| v.csum_offset = 60_000),
        ("csum_offset of another protocol", |v| v.csum_offset = 6),
        ("csum_offset on the ports", |v| v.csum_offset = 0),
        ("csum_start + csum_offset overflow", |v| {
            v.csum_start = 0xfff0;
            v.csum_offset = 0xfff0;
        }),
        ("GSO of size 0", |v| v.gso_size = 0),
        ("UDP GSO on TCP", |v| v.gso_type = GSO_UDP_L4),
        ("UFO on TCP", |v| v.gso_type = GSO_UDP),
        ("IPv6 GSO on IPv4", |v| v.gso_type = GSO_TCPV6),
        ("unknown GSO type", |v| v.gso_type = 0x3f),
        ("GSO without NEEDS_CSUM", |v| v.flags = 0),
    ];
    for (name, lie) in lies {
        let mut w = World::new();
        let packet = tcp(&mut w);
        let mut frame = Frame::super_packet(packet, 1448);
        lie(&mut frame.vnet);
        let reason = dropped(&mut w, &frame.bytes(), name);
        assert_eq!(reason, "virtio_header", "{name}");
    }
}

#[test]
fn a_partial_checksum_on_icmp_is_dropped() {
    let mut w = World::new();
    let mut frame: Frame = Packet::echo_request(C1, S1, 1, 1, b"").into();
    frame.vnet = Vnet {
        flags: NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 16,
        ..Vnet::default()
    };
    assert_eq!(dropped(&mut w, &frame.bytes(), "ICMP"), "virtio_header");
}

#[test]
fn a_bad_ip_header_checksum_is_dropped() {
    // RFC 1812 §5.2.2.
    let mut w = World::new();
    let mut packet = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"");
    packet.0[10] ^= 1;
    assert_eq!(
        dropped(&mut w, &Frame::from(packet).bytes(), "IP checksum"),
        "bad_ip_checksum"
    );
}

#[test]
fn garbage_in_ip_options_is_survived() {
    let mut w = World::new();
    for options in [
        [0x83, 0, 0, 0],
        [7, 255, 4, 0],
        [0x94, 1, 0, 0],
        [1, 1, 1, 0x83],
        [68, 3, 5, 0],
    ] {
        let packet =
            Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:2"), b"").with_ip_options(&options);
        let step = w.step(packet);
        assert_ne!(step.verdict, Verdict::ToHost);
    }
}

#[test]
fn generated_errors_are_limited_per_destination() {
    // S8, RFC 1812 §4.3.2.8: 20, a quarter more or less at random, so that nobody can count on it.
    let mut w = World::new();
    let mut answered = 0;
    for port in 0..1000 {
        let probe = Packet::udp(
            SocketAddrV4::new(C1, 1024 + port),
            at("10.20.0.1:33434"),
            b"",
        )
        .with_ttl(1);
        answered += w.step(probe).generated.len();
    }
    assert!(
        (15..=25).contains(&answered),
        "{answered} errors in one instant"
    );
    // One destination's flood does not silence the answers to another: no global counter to observe.
    let (_, error) =
        w.rejects(Packet::udp(at("172.17.0.3:1024"), at("10.20.0.1:33434"), b"").with_ttl(1));
    assert_eq!(error.dst(), C2);
    w.secs(5);
    w.rejects(Packet::udp(at("172.17.0.2:1024"), at("10.20.0.1:33434"), b"").with_ttl(1));
}

#[test]
fn no_error_is_sent_to_a_source_that_is_no_single_host() {
    // RFC 1122 §3.2.2.
    let mut w = World::new();
    for source in ["0.0.0.0", "255.255.255.255", "224.0.0.5", "127.0.0.1"] {
        let step = w.step(
            Packet::udp(SocketAddrV4::new(ip(source), 1), at("10.20.0.1:2"), b"").with_ttl(1),
        );
        assert!(step.generated.is_empty(), "{source}");
    }
}
