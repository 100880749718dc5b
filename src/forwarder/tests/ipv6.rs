//! IPv6 through the forwarder: what the IPv4 tests ask, and who is told what.

use super::*;
use crate::forwarder::packet::Packet;

#[test]
fn egress_has_a_mapping_and_answers_come_back() {
    // RFC 4787 REQ-1
    let mut lab = Lab::new();
    let out = lab.send(udp(&at(A6, 4000), &at(OUT6, 53)));
    assert!(out.src.starts_with("[2001:db8::10]:"), "{out:?}");
    assert_eq!(out.dst, at(OUT6, 53));
    let again = lab.send(udp(&at(A6, 4000), &at("2001:db8:ff::8", 53)));
    assert_eq!(again.src, out.src);
    lab.send(udp(&at(OUT6, 53), &out.src))
        .is(&at(OUT6, 53), &at(A6, 4000));
    lab.connect(&at(A6, 4000), &at(OUT6, 443));
    assert_eq!(lab.forwarder.stats().flows, 3);
}

#[test]
fn ping_out_and_back_and_from_outside() {
    // RFC 5508 REQ-1
    let mut lab = Lab::new();
    let out = lab.send(icmp_query(128, A6, OUT6, 7, 56));
    assert_ne!(out.src, at(A6, 7));
    lab.send(icmp_query(129, OUT6, H6, out.port(), 56))
        .is(&at(OUT6, 0), &at(A6, 7));
    lab.left_to_host(icmp_query(128, OUT6, H6, 7, 56));
    lab.dropped(icmp_query(129, A6, OUT6, 9, 0), DropReason::IcmpUnsupported);
    // Neighbour and multicast listener discovery keep to their link.
    for kind in [131, 133, 134, 135, 136, 137, 143] {
        lab.dropped(
            icmp_query(kind, A6, OUT6, 0, 24),
            DropReason::IcmpUnsupported,
        );
    }
}

#[test]
fn a_routed_network_keeps_its_addresses_and_opens_its_ports() {
    let mut lab = Lab::new();
    let f = "2001:db8:20::2";
    lab.send(udp(&at(f, 4000), &at(OUT6, 53)))
        .is(&at(f, 4000), &at(OUT6, 53));
    lab.send(udp(&at(OUT6, 53), &at(f, 4000)));
    lab.send(tcp(&at(OUT6, 5000), &at(f, 80), SYN, 1, 0, 0))
        .is(&at(OUT6, 5000), &at(f, 80));
    lab.send(udp(&at(OUT6, 5000), &at(f, 53)));
    lab.send(icmp_query(128, OUT6, f, 7, 0));
    lab.dropped(
        tcp(&at(OUT6, 5000), &at(f, 81), SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
    // The same network's IPv4 is not routed, though not masqueraded either.
    lab.dropped(
        tcp("198.51.100.7:1", "172.20.0.2:80", SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
    // Another network's container is seen as the gateway, as ever.
    let seen = lab.send(tcp(&at(A6, 5000), &at(f, 80), SYN, 1, 0, 0));
    assert!(seen.src.starts_with("[2001:db8:20::1]:"), "{seen:?}");
    lab.dropped(
        tcp(&at(OUT6, 1), &at(A6, 80), SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
}

#[test]
fn published_from_outside_from_the_host_and_hairpin() {
    // RFC 4787 REQ-9
    let mut lab = Lab::new();
    lab.send(tcp(&at(OUT6, 5000), &at(H6, 8080), SYN, 1, 0, 0))
        .is(&at(OUT6, 5000), &at(A6, 80));
    lab.send(tcp(&at(A6, 80), &at(OUT6, 5000), SYN | ACK, 9, 2, 0))
        .is(&at(H6, 8080), &at(OUT6, 5000));
    let local = lab.send(tcp("[::1]:4000", "[::1]:8080", SYN, 1, 0, 0));
    assert!(local.src.starts_with("[fd00:17::1]:"), "{local:?}");
    lab.send(tcp(&at(A6, 80), &local.src, SYN | ACK, 9, 2, 0))
        .is("[::1]:8080", "[::1]:4000");
    for client in [A6, B6, "fd00:18::2", "fd00:19::2"] {
        let syn = lab.send(tcp(&at(client, 4000), &at(H6, 8080), SYN, 1, 0, 0));
        assert!(syn.src.starts_with("[fd00:17::1]:"), "{syn:?}");
        assert_eq!(syn.dst, at(A6, 80));
        lab.send(tcp(&at(A6, 80), &syn.src, SYN | ACK, 9, 2, 0))
            .is(&at(H6, 8080), &at(client, 4000));
    }
    lab.left_to_host(tcp(&at(OUT6, 1), &at(H6, 22), SYN, 1, 0, 0));
}

#[test]
fn neighbours_links_and_other_networks() {
    let mut lab = Lab::new();
    lab.send(udp(&at(A6, 1), &at(B6, 1)))
        .is(&at(A6, 1), &at(B6, 1));
    let (d, e) = ("fd00:19::2", "fd00:19::3");
    lab.dropped(udp(&at(d, 1), &at(e, 53)), DropReason::IccDisabled);
    lab.dropped(udp(&at(A6, 1), &at(d, 1)), DropReason::InterNetwork);
    lab.dropped(
        udp(&at("fd00:21::2", 1), &at(OUT6, 1)),
        DropReason::Internal,
    );
    let mut next = policy();
    next.links.push(LinkPolicy {
        client: EndpointId(4),
        server: EndpointId(5),
        protocol: Protocol::Udp,
        ports: 53..=53,
    });
    lab.forwarder.set_policy(next, lab.now);
    lab.send(udp(&at(d, 1), &at(e, 53)));
    lab.send(udp(&at(e, 53), &at(d, 1)));
    lab.dropped(udp(&at(d, 1), &at(e, 54)), DropReason::IccDisabled);
}

#[test]
fn martians() {
    // nat.md S14
    let mut lab = Lab::new();
    let martians = [
        "::",
        "::ffff:192.0.2.1",
        "::192.0.2.1",
        "fe80::1",
        "febf::1",
    ];
    for address in martians {
        for (src, dst) in [(address, H6), (A6, address), (OUT6, address)] {
            lab.dropped(udp(&at(src, 1), &at(dst, 8080)), DropReason::Martian);
        }
    }
    for (src, dst) in [("ff02::1", H6), (A6, "::1"), (OUT6, "::1"), ("::1", OUT6)] {
        lab.dropped(udp(&at(src, 1), &at(dst, 8080)), DropReason::Martian);
    }
    for group in ["ff02::1", "ff02::fb", "ff05::2", "ff0e::1"] {
        lab.dropped(udp(&at(A6, 1), &at(group, 1)), DropReason::Broadcast);
    }
    lab.dropped(udp(&at(A6, 1), &at(A6, 1)), DropReason::Land);
    // There is no broadcast, and the subnet-router anycast address is no container's.
    for vacant in ["fd00:17::", "fd00:17::ffff:ffff:ffff:ffff", "fd00:17::99"] {
        lab.dropped(udp(&at(A6, 1), &at(vacant, 1)), DropReason::NoSuchEndpoint);
        lab.dropped(udp(&at(vacant, 1), &at(OUT6, 1)), DropReason::UnknownSource);
    }
}

#[test]
fn the_hosts_own_listener_reports_end_here() {
    // The kernel's, for the groups that it joins on the TUN itself.
    let mut lab = Lab::new();
    for source in ["::", "fe80::1"] {
        let report = icmp_query(143, source, "ff02::16", 0, 20);
        let alert: Extension<'_> = (0, &[0, 0, 5, 2, 0, 0, 1, 0]);
        lab.dropped(behind(report, &[alert]), DropReason::Broadcast);
    }
    assert!(lab.out.is_empty());
}

#[test]
fn mss_leaves_room_for_the_longer_header() {
    let mut lab = Lab::new();
    let mut next = policy();
    next.networks[0].clamp_mss = true;
    lab.forwarder.set_policy(next, lab.now);
    lab.host.egress.lock().mtu = 1400;
    lab.forwarder.routes_changed();
    let mut syn = tcp(&at(A6, 1), &at(OUT6, 80), SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut syn), Verdict::Forward);
    assert_eq!(syn[VNET_HDR_LEN + 63..][..2], 1340_u16.to_be_bytes());
    let _ = seen(&syn);
}

#[test]
fn errors_are_translated_outside_and_inside() {
    // RFC 5508 REQ-4, REQ-5
    let mut lab = Lab::new();
    let router = "2001:db8:ff::1";
    let sent = [
        udp(&at(A6, 4000), &at(OUT6, 53)),
        tcp(&at(A6, 4000), &at(OUT6, 80), SYN, 1000, 0, 0),
        icmp_query(128, A6, OUT6, 7, 20),
        behind(udp(&at(A6, 4001), &at(OUT6, 53)), &[(60, &PAD)]),
    ];
    for original in sent {
        let mut frame = original.clone();
        assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
        for (kind, code) in [(1, 4), (2, 0), (3, 0), (4, 1)] {
            let mut error = icmp_error(kind, code, router, H6, &frame, 1232);
            error[54..58].copy_from_slice(&1280_u32.to_be_bytes());
            Packet::parse(&mut error).unwrap().fill_icmp_checksum();
            assert_eq!(lab.verdict(&mut error), Verdict::Forward);
            seen(&error).is(&at(router, 0), &at(A6, 0));
            assert_eq!(error[54..58], 1280_u32.to_be_bytes(), "untouched");
            let mut quoted = original.clone();
            quoted[VNET_HDR_LEN + 7] = 63;
            assert_eq!(error[58..], quoted[VNET_HDR_LEN..], "as it was sent");
        }
    }
}

#[test]
fn errors_from_inside_get_the_address_that_the_peer_knows() {
    let mut lab = Lab::new();
    let mut syn = udp(&at(OUT6, 5000), &at(H6, 8080));
    assert_eq!(lab.verdict(&mut syn), Verdict::Forward);
    let mut error = icmp_error(1, 4, A6, OUT6, &syn, 1232);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    seen(&error).is(&at(H6, 0), &at(OUT6, 0));
    let mut quote = vec![0; VNET_HDR_LEN];
    quote.extend_from_slice(&error[58..]);
    seen(&quote).is(&at(OUT6, 5000), &at(H6, 8080));
}

#[test]
fn forged_errors_are_dropped() {
    // nat.md S7
    let mut lab = Lab::new();
    let mut sent = tcp(&at(A6, 4000), &at(OUT6, 80), SYN, 1000, 0, 0);
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    let error = |change: fn(&mut Vec<u8>)| {
        let mut quoted = sent.clone();
        change(&mut quoted);
        icmp_error(2, 0, "2001:db8:ff::1", H6, &quoted, 1232)
    };
    let mut broken = error(|_| ());
    broken[52] ^= 1;
    lab.dropped(broken, DropReason::BadIcmpChecksum);
    // The host's own connections have errors, too.
    lab.left_to_host(error(|quote| quote[50] ^= 0x40));
    lab.dropped(error(|quote| quote[54] ^= 0x40), DropReason::IcmpNoFlow);
    lab.dropped(
        icmp_error(2, 0, "2001:db8:ff::1", A6, &sent, 1232),
        DropReason::IcmpNoFlow,
    );
    lab.dropped(
        icmp_error(2, 0, "fd00:17::99", H6, &sent, 1232),
        DropReason::UnknownSource,
    );
    let short = icmp_error(1, 0, "2001:db8:ff::1", H6, &sent, 47);
    let mut judged = short;
    assert_ne!(lab.verdict(&mut judged), Verdict::Forward);
}

#[test]
fn traceroute_shows_gateway_then_router() {
    let mut lab = Lab::new();
    let first = with_hops(udp(&at(A6, 33_000), &at(OUT6, 33_434)), 1);
    lab.dropped(first.clone(), DropReason::TtlExceeded);
    let error = lab.generated();
    assert_eq!(&error[50..52], [3, 0]);
    seen(&error).is(&at("fd00:17::1", 0), &at(A6, 0));
    assert_eq!(error[58..], first[VNET_HDR_LEN..]);
    let mut second = with_hops(first, 2);
    assert_eq!(lab.verdict(&mut second), Verdict::Forward);
    assert_eq!(seen(&second).ttl, 1);
    let from_router = icmp_error(3, 0, "2001:db8:ff::1", H6, &second, 1232);
    lab.send(from_router).is("[2001:db8:ff::1]:0", &at(A6, 0));
}

#[test]
fn who_is_told_and_who_is_not() {
    // RFC 4443 §2.4
    let mut lab = Lab::new();
    lab.dropped(udp(&at(A6, 1), "[2001:db8:dead::1]:1"), DropReason::NoRoute);
    let error = lab.generated();
    assert_eq!(&error[50..52], [1, 0]);
    let mut sent = udp(&at(A6, 1), &at(OUT6, 1));
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    let about_an_error = icmp_error(3, 0, "2001:db8:ff::1", H6, &sent, 1232);
    lab.dropped(with_hops(about_an_error, 1), DropReason::TtlExceeded);
    assert!(lab.out.is_empty());
    lab.dropped(udp(&at(A6, 1), "[ff0e::1]:1"), DropReason::Broadcast);
    assert!(lab.out.is_empty());
    // One host outside has 2^64 addresses, and one limit; a container has one of its own.
    for n in 0..100_u16 {
        let from = format!("[2001:db8:ff::{n:x}]:1");
        let mut frame = with_hops(udp(&from, &at(H6, 8080)), 1);
        assert_eq!(
            lab.verdict(&mut frame),
            Verdict::Drop(DropReason::TtlExceeded)
        );
        let from = format!("[fd00:17::{}]:1", 2 + n % 2);
        let mut frame = with_hops(udp(&from, &at(OUT6, 1)), 1);
        let _ = lab.verdict(&mut frame);
    }
    let (mut outside, mut inside) = (0, BTreeSet::new());
    for error in lab.out.drain() {
        let dst = seen(&error).dst;
        if dst.starts_with("[fd00") {
            inside.insert(dst);
        } else {
            outside += 1;
        }
    }
    assert!((10..=30).contains(&outside), "{outside}");
    assert_eq!(inside.len(), 2);
}

#[test]
fn an_unsolicited_syn_is_answered_late() {
    // RFC 5382 REQ-4
    let mut lab = Lab::new();
    let out = lab.connect(&at(A6, 4000), &at(OUT6, 80));
    let mut syn = tcp("[2001:db8:ff::9]:7", &out.src, SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut syn), Verdict::Consumed);
    lab.pass(7);
    let error = lab.generated();
    assert_eq!(&error[50..52], [1, 4]);
    seen(&error).is(&at(H6, 0), "[2001:db8:ff::9]:0");
}

#[test]
fn a_change_of_one_family_ends_flows_of_that_one() {
    let mut lab = Lab::new();
    let open = |lab: &mut Lab| {
        lab.send(udp("172.17.0.2:1", "198.51.100.7:5000"));
        lab.send(udp(&at(A6, 1), &at(OUT6, 5000)));
        lab.send(tcp(&at(OUT6, 1), &at(H6, 8080), SYN, 1, 0, 0));
        lab.send(udp(&at(OUT6, 1), "[2001:db8:20::2]:53"));
    };
    let left = |lab: &Lab| {
        let flows = lab.forwarder.flows(lab.now);
        let sources: BTreeSet<_> = flows.iter().map(|flow| flow.original.0).collect();
        (flows.len(), sources.iter().any(|source| source.is_ipv4()))
    };
    open(&mut lab);
    assert_eq!(left(&lab), (4, true));
    let mut next = policy();
    next.networks[0].families[1].masquerade = false;
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(left(&lab), (3, true), "the one to the outside");
    next.networks[3].families[1].access = Access::Closed;
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(left(&lab), (2, true), "the one to the routed network");
    next.published
        .retain(|published| published.host_address.is_ipv4());
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(left(&lab), (1, true), "the one to the published port");
    next.networks[0].families.remove(0);
    next.endpoints[0].addresses.remove(0);
    lab.forwarder.set_policy(next, lab.now);
    assert_eq!(left(&lab), (0, false));
    let own = lab.send(udp(&at(A6, 1), &at(OUT6, 5000)));
    assert_eq!(own.src, at(A6, 1));
}

#[test]
fn errors_about_a_routed_containers_packets_reach_it() {
    // RFC 4787 REQ-12a
    let mut lab = Lab::new();
    let routed = "2001:db8:20::2";
    let sent = udp_bytes(&at(routed, 4000), &at(OUT6, 53), &[7; 1300]);
    let mut frame = sent.clone();
    assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
    let error = icmp_error(2, 0, "2001:db8:ff::1", routed, &frame, 1232);
    lab.send(error).is("[2001:db8:ff::1]:0", &at(routed, 0));
    let stranger = icmp_error(2, 0, "2001:db8:ff::1", "2001:db8:20::3", &frame, 1232);
    lab.dropped(stranger, DropReason::IcmpNoFlow);
}
