//! ICMP errors, translated and generated.

use super::*;

/// The tuple that an error quotes, with the checksums of the quote verified if it is whole.
fn quoted(error: &[u8]) -> Seen {
    let mut frame = vec![0; VNET_HDR_LEN];
    frame.extend_from_slice(&error[VNET_HDR_LEN + 28..]);
    seen(&frame)
}

#[test]
fn errors_from_outside_are_translated_outside_and_inside() {
    // RFC 5508 REQ-4, RFC 4787 REQ-12b, RFC 5382 REQ-9
    let mut lab = Lab::new();
    for frame in [
        udp("172.17.0.2:4000", "198.51.100.7:5000"),
        tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1, 0, 0),
        icmp_query(8, "172.17.0.2", "198.51.100.7", 77, 20),
    ] {
        let before = seen(&frame);
        let mut sent = frame.clone();
        assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
        // A router in between reports.
        let mut error = icmp_error(11, 0, "198.51.100.1", "192.0.2.10", &sent, 548);
        assert_eq!(lab.verdict(&mut error), Verdict::Forward);
        let outer = seen(&error);
        assert_eq!(
            (outer.src.as_str(), outer.dst.as_str()),
            ("198.51.100.1:0", "172.17.0.2:0")
        );
        let inner = quoted(&error);
        assert_eq!((inner.src, inner.dst), (before.src, before.dst));
        // Eight octets are enough.
        let mut error = icmp_error(3, 1, "198.51.100.1", "192.0.2.10", &sent, 28);
        assert_eq!(lab.verdict(&mut error), Verdict::Forward);
        assert_eq!(&error[error.len() - 8..error.len() - 4], &frame[30..34]);
    }
}

#[test]
fn a_quote_with_options_and_without_udp_checksum() {
    // RFC 5508 REQ-3b, REQ-3c
    let mut lab = Lab::new();
    let mut frame = udp("172.17.0.2:4000", "198.51.100.7:5000");
    frame[36..38].fill(0);
    frame.splice(30..30, [0x94, 4, 0, 0]);
    let length = u16::try_from(frame.len() - VNET_HDR_LEN).unwrap();
    let frame = with_ip(frame, |packet| {
        packet.set_header_len(24);
        packet.set_total_len(length);
    });
    let mut sent = frame.clone();
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    assert_eq!(sent[30..34], [0x94, 4, 0, 0], "options stay");
    assert_eq!(sent[40..42], [0, 0], "no checksum stays none");
    let mut error = icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &sent, 100);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    let quote = &error[38..];
    assert_eq!(quote[12..16], [172, 17, 0, 2]);
    assert_eq!(quote[24..26], 4000u16.to_be_bytes());
    assert_eq!(quote[30..32], [0, 0]);
}

#[test]
fn errors_from_inside_get_the_address_that_the_peer_knows() {
    // RFC 5508 REQ-5
    let mut lab = Lab::new();
    let mut arrived = udp("198.51.100.7:5", "192.0.2.10:8080");
    assert_eq!(lab.verdict(&mut arrived), Verdict::Forward);
    let mut error = icmp_error(3, 3, "172.17.0.2", "198.51.100.7", &arrived, 100);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    let outer = seen(&error);
    assert_eq!(
        (outer.src.as_str(), outer.dst.as_str()),
        ("192.0.2.10:0", "198.51.100.7:0")
    );
    let inner = quoted(&error);
    assert_eq!(
        (inner.src.as_str(), inner.dst.as_str()),
        ("198.51.100.7:5", "192.0.2.10:8080")
    );
}

#[test]
fn hairpinned_errors() {
    // RFC 5508 REQ-7, REQ-7a
    let mut lab = Lab::new();
    let mut arrived = udp("172.18.0.2:5", "192.0.2.10:8080");
    assert_eq!(lab.verdict(&mut arrived), Verdict::Forward);
    let gateway = seen(&arrived).src.split(':').next().unwrap().to_owned();
    let mut error = icmp_error(3, 3, "172.17.0.2", &gateway, &arrived, 100);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    let outer = seen(&error);
    assert_eq!(
        (outer.src.as_str(), outer.dst.as_str()),
        ("192.0.2.10:0", "172.18.0.2:0")
    );
    let inner = quoted(&error);
    assert_eq!(
        (inner.src.as_str(), inner.dst.as_str()),
        ("172.18.0.2:5", "192.0.2.10:8080")
    );
}

#[test]
fn errors_neither_refresh_nor_end_anything() {
    // RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10
    let mut lab = Lab::new();
    let mut sent = tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    lab.pass(230);
    let before = lab.forwarder.flows(lab.now)[0].timeout;
    let mut error = icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &sent, 100);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    let flow = &lab.forwarder.flows(lab.now)[0];
    assert_eq!((flow.timeout, flow.state), (before, "syn_sent"));
    lab.pass(11);
    assert_eq!(lab.forwarder.stats().flows, 0);
}

#[test]
fn forged_errors_are_dropped() {
    // nat.md S7
    let mut lab = Lab::new();
    let mut sent = udp("172.17.0.2:4000", "198.51.100.7:5000");
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    // Not to the flow's address.
    lab.dropped(
        icmp_error(3, 3, "198.51.100.9", "192.0.2.11", &sent, 100),
        DropReason::IcmpNoFlow,
    );
    // About a flow that is not there: the host's own matter.
    let foreign = udp("192.0.2.10:1", "198.51.100.7:5000");
    lab.left_to_host(icmp_error(
        3,
        4,
        "198.51.100.9",
        "192.0.2.10",
        &foreign,
        100,
    ));
    // A container about its neighbour's flow.
    let mut arrived = udp("198.51.100.7:5", "192.0.2.10:8080");
    assert_eq!(lab.verdict(&mut arrived), Verdict::Forward);
    lab.dropped(
        icmp_error(3, 3, "172.17.0.3", "198.51.100.7", &arrived, 100),
        DropReason::IcmpNoFlow,
    );
    // RFC 5508 REQ-5a: about no flow at all.
    lab.dropped(
        icmp_error(3, 3, "172.17.0.2", "198.51.100.7", &foreign, 100),
        DropReason::IcmpNoFlow,
    );
    // About a segment that was never sent.
    let syn = lab.connect("172.17.0.2:4001", "198.51.100.7:80");
    let guess = tcp(&syn.src, "198.51.100.7:80", ACK, 0x7000_0000, 0, 0);
    lab.dropped(
        icmp_error(3, 4, "198.51.100.9", "192.0.2.10", &guess, 28),
        DropReason::IcmpNoFlow,
    );
    let real = tcp(&syn.src, "198.51.100.7:80", ACK, 1001, 0, 0);
    lab.send(icmp_error(3, 4, "198.51.100.9", "192.0.2.10", &real, 28));
    // RFC 5508 REQ-3, REQ-3a
    let mut error = icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &sent, 100);
    error[35] ^= 1;
    lab.dropped(error, DropReason::BadIcmpChecksum);
    let mut quote = sent.clone();
    quote[VNET_HDR_LEN + 8] ^= 1;
    lab.dropped(
        icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &quote, 100),
        DropReason::BadIpChecksum,
    );
    lab.dropped(
        with_ttl(
            icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &sent, 100),
            1,
        ),
        DropReason::TtlExceeded,
    );
    assert!(lab.out.is_empty(), "no error about an error");
}

#[test]
fn time_exceeded_comes_from_the_gateway_inside() {
    let mut lab = Lab::new();
    let frame = with_ttl(
        udp_bytes("172.17.0.2:4000", "198.51.100.7:33434", &[0; 900]),
        1,
    );
    lab.dropped(frame.clone(), DropReason::TtlExceeded);
    let error = lab.generated();
    let outer = seen(&error);
    assert_eq!(
        (outer.src.as_str(), outer.dst.as_str()),
        ("172.17.0.1:0", "172.17.0.2:0")
    );
    assert_eq!(&error[30..32], [11, 0]);
    assert_eq!(error.len() - VNET_HDR_LEN, 576);
    assert_eq!(
        error[38..],
        frame[10..558],
        "the packet as the container sent it"
    );
    assert_eq!(lab.forwarder.stats().flows, 0, "no flow for it");
    assert_eq!(lab.forwarder.stats().generated, 1);
}

#[test]
fn time_exceeded_comes_from_the_hosts_address_outside() {
    let mut lab = Lab::new();
    lab.dropped(
        with_ttl(tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 0), 1),
        DropReason::TtlExceeded,
    );
    let error = lab.generated();
    let outer = seen(&error);
    assert_eq!(
        (outer.src.as_str(), outer.dst.as_str()),
        ("192.0.2.10:0", "198.51.100.7:0")
    );
}

#[test]
fn traceroute_shows_gateway_then_router() {
    let mut lab = Lab::new();
    let probe = |ttl| with_ttl(udp("172.17.0.2:40000", "198.51.100.7:33434"), ttl);
    lab.dropped(probe(1), DropReason::TtlExceeded);
    assert_eq!(seen(&lab.generated()).src, "172.17.0.1:0");
    let mut second = probe(2);
    assert_eq!(lab.verdict(&mut second), Verdict::Forward);
    let mut error = icmp_error(11, 0, "192.0.2.1", "192.0.2.10", &second, 28);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    assert_eq!(seen(&error).src, "192.0.2.1:0");
}

#[test]
fn unroutable_destinations_are_answered() {
    let mut lab = Lab::new();
    lab.dropped(udp("172.17.0.2:1", "203.0.113.1:1"), DropReason::NoRoute);
    let error = lab.generated();
    assert_eq!(&error[30..32], [3, 0]);
    assert_eq!(seen(&error).src, "172.17.0.1:0");
}

#[test]
fn errors_are_limited() {
    // nat.md S8
    let mut lab = Lab::new();
    for _ in 0..1000 {
        let _ = lab.verdict(&mut with_ttl(udp("172.17.0.2:1", "198.51.100.7:1"), 1));
    }
    assert!((10..=30).contains(&lab.out.len()), "{}", lab.out.len());
    let generated = lab.out.len();
    let _ = lab.verdict(&mut with_ttl(udp("172.17.0.3:1", "198.51.100.7:1"), 1));
    assert_eq!(
        lab.out.len(),
        generated + 1,
        "another destination has its own limit"
    );
}
