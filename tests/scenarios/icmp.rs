//! ICMP errors with the packet they quote translated, both ways, octet by octet (RFC 5508).

use tunbridge::forwarder::Protocol;

use super::packet::*;
use super::world::*;

const ROUTER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 20, 255, 1);

/// The quote as the container must see it: what it sent, as far as `seen` was quoted, with the TTL and the
/// identification it had where it died.
fn as_sent(sent: &Packet, seen: &Packet, length: usize) -> Vec<u8> {
    let mut quote = sent.clone();
    quote.0[8] = seen.ttl();
    quote.set16(4, seen.ident());
    quote.fix_ip();
    quote.0[..length].to_vec()
}

/// An error from `ROUTER` about `seen` (quoted up to `length` octets) must reach `C1` exactly so.
#[track_caller]
fn inbound(
    w: &mut World,
    sent: &Packet,
    seen: &Packet,
    kind: u8,
    code: u8,
    rest: u32,
    length: usize,
) {
    let error =
        Packet::icmp_error(ROUTER, HOST, kind, code, rest, &seen.0[..length]).with_ident(0x77);
    let expected = Packet::icmp_error(ROUTER, C1, kind, code, rest, &as_sent(sent, seen, length));
    assert_eq!(w.forward(&error), expected.with_ident(0x77).with_ttl(63));
}

const ERRORS: &[(u8, u8, u32)] = &[
    (UNREACHABLE, 0, 0),
    (UNREACHABLE, 1, 0),
    (UNREACHABLE, 2, 0),
    (UNREACHABLE, 3, 0),
    (UNREACHABLE, 4, 1280),
    (UNREACHABLE, 10, 0),
    (UNREACHABLE, 13, 0),
    (TIME_EXCEEDED, 0, 0),
    (TIME_EXCEEDED, 1, 0),
    (PARAMETER_PROBLEM, 0, 0x0800_0000),
];

#[test]
fn errors_about_udp_reach_the_container_with_its_own_packet() {
    // RFC 4787 REQ-12b, RFC 5508 REQ-4 and REQ-10.
    let mut w = World::new();
    let sent = Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"a question of some length",
    );
    let seen = w.forward(&sent);
    for (kind, code, rest) in ERRORS {
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, seen.0.len());
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, 28);
    }
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn errors_about_udp_without_checksum_keep_it_zero() {
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"question")
        .without_udp_checksum();
    let seen = w.forward(&sent);
    assert_eq!(seen.get16(26), 0);
    inbound(&mut w, &sent, &seen, UNREACHABLE, 3, 0, seen.0.len());
}

#[test]
fn errors_about_tcp_reach_the_container_with_its_own_packet() {
    // RFC 5382 REQ-9.
    let mut w = World::new();
    let sent = Packet::tcp(at("172.17.0.2:40000"), at("10.20.0.1:80"), SYN, 77, 0, b"");
    let seen = w.forward(&sent);
    for (kind, code, rest) in ERRORS {
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, 40);
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, 28);
    }
}

#[test]
fn errors_about_a_ping_reach_the_container_with_its_own_packet() {
    let mut w = World::new();
    let sent = Packet::echo_request(C1, S1, 77, 5, b"payload of a ping");
    let seen = w.forward(&sent);
    for (kind, code, rest) in ERRORS {
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, seen.0.len());
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, 28);
    }
}

#[test]
fn ip_options_in_the_quote_are_skipped() {
    // RFC 5508 REQ-3b.
    let mut w = World::new();
    let sent = Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"with options",
    )
    .with_ip_options(&[1, 1, 1, 0]);
    let seen = w.forward(&sent);
    assert_eq!(seen.header_len(), 24);
    inbound(&mut w, &sent, &seen, UNREACHABLE, 1, 0, seen.0.len());
}

#[test]
fn an_rfc_4884_extension_after_the_quote_is_kept() {
    // RFC 5508 REQ-3d: what follows the quote is not part of it.
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &[3; 100]);
    let seen = w.forward(&sent);
    let extension = [0x20, 0, 0x5a, 0x5a, 0, 8, 1, 1, 0, 0x3e, 0x81, 1];
    let with = |quote: &[u8]| {
        let mut quote = quote.to_vec();
        quote.resize(128, 0);
        quote.extend(extension);
        quote
    };
    let rest = 32 << 16; // length of the quote in words
    let error = Packet::icmp_error(ROUTER, HOST, TIME_EXCEEDED, 0, rest, &with(&seen.0));
    let expected = Packet::icmp_error(
        ROUTER,
        C1,
        TIME_EXCEEDED,
        0,
        rest,
        &with(&as_sent(&sent, &seen, sent.0.len())),
    );
    assert_eq!(w.forward(&error), expected.with_ttl(63));
}

#[test]
fn an_error_from_the_container_leaves_with_the_hosts_address() {
    // RFC 5508 REQ-5: outer source and quoted destination become the external ones.
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let answer = Packet::udp(at("10.20.0.1:9000"), seen, b"too late");
    let got = w.forward(&answer);
    let error = Packet::icmp_error(C1, S1, UNREACHABLE, 3, 0, &got.0);
    let expected = Packet::icmp_error(HOST, S1, UNREACHABLE, 3, 0, &answer.clone().with_ttl(63).0)
        .with_ttl(63);
    let left = w.forward(&error);
    assert_eq!(left.clone().with_ident(0), expected.with_ident(0));
}

#[test]
fn an_error_of_a_published_server_names_the_published_port() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let question = Packet::udp(at("10.9.0.50:5000"), at("10.9.0.10:8080"), b"anybody?");
    let got = w.forward(&question);
    assert_eq!(got.destination(), at("172.17.0.2:80"));
    let left = w.forward(Packet::icmp_error(C1, LAN, UNREACHABLE, 3, 0, &got.0[..28]));
    let quoted = question.with_ttl(63).0[..28].to_vec();
    let expected = Packet::icmp_error(HOST, LAN, UNREACHABLE, 3, 0, &quoted).with_ttl(63);
    assert_eq!(left.with_ident(0), expected.with_ident(0));
}

#[test]
fn an_error_about_a_published_servers_answer_reaches_it() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.forward(Packet::udp(
        at("10.9.0.50:5000"),
        at("10.9.0.10:8080"),
        b"question",
    ));
    let sent = Packet::udp(at("172.17.0.2:80"), at("10.9.0.50:5000"), b"answer");
    let seen = w.forward(&sent);
    assert_eq!(seen.source(), at("10.9.0.10:8080"));
    let error = Packet::icmp_error(LAN, HOST, UNREACHABLE, 3, 0, &seen.0);
    let expected = Packet::icmp_error(
        LAN,
        C1,
        UNREACHABLE,
        3,
        0,
        &as_sent(&sent, &seen, sent.0.len()),
    );
    assert_eq!(w.forward(&error), expected.with_ttl(63));
}

#[test]
fn errors_never_end_or_refresh_a_mapping() {
    // RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6.
    let mut w = World::new();
    let client = at("172.17.0.2:40000");
    let server = at("10.20.0.1:9000");
    let sent = Packet::udp(client, server, b"question");
    let seen = w.forward(&sent);
    for elapsed in (10..120).step_by(10) {
        w.secs(10);
        for (kind, code, rest) in ERRORS {
            inbound(&mut w, &sent, &seen, *kind, *code, *rest, 28);
        }
        let left = w
            .timeout(Protocol::Udp, client, server)
            .expect("the flow lives")
            .as_secs();
        assert_eq!(left, 120 - elapsed, "an error changed the timer");
    }
    w.secs(11);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn errors_do_not_change_a_tcp_connection() {
    let mut w = World::new();
    let (client, server) = (at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let mut tcp = w.connect(client, server);
    let sent = tcp.packet(PSH | ACK, b"data");
    let seen = w.forward(&sent);
    for (kind, code, rest) in ERRORS {
        inbound(&mut w, &sent, &seen, *kind, *code, *rest, 44);
    }
    assert_eq!(w.state(Protocol::Tcp, client, server), Some("established"));
    w.forward(tcp.reply(ACK, b"goes on"));
}

#[test]
fn an_error_for_no_flow_is_not_forwarded() {
    // RFC 5508 REQ-4a: dropped, or the host's own business.
    let mut w = World::new();
    let foreign = Packet::udp(
        at("10.9.0.10:44444"),
        at("10.20.0.1:9000"),
        b"of the host itself",
    );
    w.leaves_to_host(Packet::icmp_error(
        ROUTER,
        HOST,
        UNREACHABLE,
        3,
        0,
        &foreign.0,
    ));
    let inside = Packet::udp(at("10.20.0.1:9000"), at("172.17.0.2:40000"), b"never seen");
    w.drops(Packet::icmp_error(C1, S1, UNREACHABLE, 3, 0, &inside.0));
}

#[test]
fn an_error_whose_quote_was_sent_to_somebody_else_reaches_no_container() {
    // nat.md S7: the embedded tuple must be a live flow, peer included. A connected socket of the host may use the same
    // port towards another peer, so the host's stack gets to see the error.
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let forged = Packet::udp(seen, at("10.20.0.2:53"), b"never sent");
    w.leaves_to_host(Packet::icmp_error(S2, HOST, UNREACHABLE, 3, 0, &forged.0));
}

#[test]
fn an_error_from_any_router_is_accepted() {
    // RFC 4787 REQ-12a: errors are not filtered by their source.
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"question");
    let seen = w.forward(&sent);
    for router in ["10.9.0.1", "8.8.4.4", "192.168.77.1"] {
        let got = w.forward(Packet::icmp_error(
            ip(router),
            HOST,
            TIME_EXCEEDED,
            0,
            0,
            &seen.0,
        ));
        assert_eq!((got.src(), got.dst()), (ip(router), C1));
    }
}

#[test]
fn an_error_with_a_bad_icmp_checksum_is_dropped() {
    // RFC 5508 REQ-3.
    let mut w = World::new();
    let seen = w.forward(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"question",
    ));
    let mut error = Packet::icmp_error(ROUTER, HOST, UNREACHABLE, 3, 0, &seen.0);
    error.0[22] ^= 0x55;
    assert_eq!(w.drops(error), "bad_icmp_checksum");
}

#[test]
fn an_error_with_a_bad_embedded_ip_checksum_is_dropped() {
    // RFC 5508 REQ-3a.
    let mut w = World::new();
    let mut seen = w.forward(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"question",
    ));
    seen.0[10] ^= 0x55;
    assert_eq!(
        w.drops(Packet::icmp_error(ROUTER, HOST, UNREACHABLE, 3, 0, &seen.0)),
        "bad_ip_checksum"
    );
}

#[test]
fn an_error_with_a_bad_embedded_transport_checksum_passes() {
    // RFC 5508 REQ-3c: not validated, and still wrong by the same amount afterwards.
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"question");
    let mut seen = w.forward(&sent);
    let right = seen.get16(26);
    seen.set16(26, right ^ 0x0101);
    let got = w
        .forward(Packet::icmp_error(ROUTER, HOST, UNREACHABLE, 3, 0, &seen.0))
        .quote();
    assert_eq!(
        (got.source(), got.destination()),
        (sent.source(), sent.destination())
    );
    assert_ne!(got.get16(26), sent.get16(26));
}

#[test]
fn redirects_and_source_quenches_do_not_pass() {
    // RFC 5508 REQ-10: redirects of routers outside mean nothing inside; RFC 6633 ended source quench.
    let mut w = World::new();
    let seen = w.forward(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"question",
    ));
    for kind in [REDIRECT, SOURCE_QUENCH] {
        let before = w.counters().forwarded;
        w.step(Packet::icmp_error(
            ip("10.9.0.1"),
            HOST,
            kind,
            1,
            0x0a09_0002,
            &seen.0,
        ));
        assert_eq!(w.counters().forwarded, before, "ICMP type {kind}");
        let inner = Packet::udp(at("10.20.0.1:9000"), at("172.17.0.2:40000"), b"answer");
        let step = w.step(Packet::icmp_error(C1, S1, kind, 1, 0x0a09_0002, &inner.0));
        assert_eq!(
            w.counters().forwarded,
            before,
            "ICMP type {kind} from a container: {step:?}"
        );
    }
}

#[test]
fn other_icmp_types_from_a_container_are_dropped() {
    // RFC 5508 REQ-11: router advertisements, address masks and unassigned types do not pass.
    let mut w = World::new();
    for kind in [9, 10, 15, 17, 40, 200] {
        let mut packet = Packet::echo_request(C1, S1, 5, 1, b"");
        packet.0[20] = kind;
        let step = w.step(packet.fixed());
        assert!(
            matches!(step.verdict, tunbridge::forwarder::Verdict::Drop(_)),
            "type {kind}: {step:?}"
        );
    }
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_hairpinned_error_reaches_the_container_that_sent_the_packet() {
    // RFC 5508 REQ-7.
    let mut w = World::new();
    let to_c2 = w.udp_exchange(at("172.17.0.3:2000"), at("10.20.0.1:9000"));
    let to_c1 = w.udp_exchange(at("172.17.0.2:1000"), at("10.20.0.1:9000"));
    // Opens c2's filter for c1's external address.
    assert_eq!(
        w.drops(Packet::udp(at("172.17.0.3:2000"), to_c1, b"punch")),
        "filtered"
    );
    let sent = Packet::udp(at("172.17.0.2:1000"), to_c2, b"hello neighbour");
    let got = w.forward(&sent);
    assert_eq!(
        (got.source(), got.destination()),
        (to_c1, at("172.17.0.3:2000"))
    );
    let error = Packet::icmp_error(C2, *to_c1.ip(), UNREACHABLE, 3, 0, &got.0);
    let back = w.forward(&error);
    assert_eq!((back.src(), back.dst()), (*to_c2.ip(), C1));
    assert_eq!(back.icmp_type_code(), (UNREACHABLE, 3));
    assert_eq!(
        back.quote(),
        sent.with_ttl(got.ttl()).with_ident(got.ident())
    );
}
