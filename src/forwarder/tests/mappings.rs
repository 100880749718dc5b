//! NAPT: mappings, filtering, hairpinning between mappings.

use std::ops::RangeInclusive;

use super::*;

#[test]
fn udp_goes_out_and_its_answer_comes_back() {
    let mut lab = Lab::new();
    let out = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    assert!(out.src.starts_with("192.0.2.10:"));
    assert!((61_000..=65_534).contains(&out.port()));
    assert_eq!(out.dst, "198.51.100.7:5000");
    assert!(lab.host.bits.lock().contains(&(Protocol::Udp, out.port())));
    lab.send(udp("198.51.100.7:5000", &out.src))
        .is("198.51.100.7:5000", "172.17.0.2:4000");
    assert_eq!(lab.state(0), "replied");
    let flow = &lab.forwarder.flows(lab.now)[0];
    assert_eq!((flow.packets_original, flow.bytes_original), (1, 33));
    assert_eq!((flow.packets_reply, flow.bytes_reply), (1, 33));
    assert_eq!(flow.endpoint, A);
    assert_eq!(flow.translated.0.to_string(), out.src);
    assert_eq!(flow.timeout, Duration::from_secs(300));
}

#[test]
fn tcp_and_ping_go_out_and_come_back() {
    let mut lab = Lab::new();
    let syn = lab.connect("172.17.0.2:4000", "198.51.100.7:80");
    assert_eq!(lab.state(0), "established");
    lab.send(tcp("198.51.100.7:80", &syn.src, ACK, 5001, 1001, 900))
        .is("198.51.100.7:80", "172.17.0.2:4000");
    // RFC 5508 REQ-1
    let ping = lab.send(icmp_query(8, "172.17.0.2", "198.51.100.7", 77, 56));
    assert!(ping.src.starts_with("192.0.2.10:") && ping.port() >= 61_000);
    lab.send(icmp_query(0, "198.51.100.7", "192.0.2.10", ping.port(), 56))
        .is("198.51.100.7:0", "172.17.0.2:77");
    let stamp = lab.send(icmp_query(13, "172.17.0.2", "198.51.100.7", 78, 12));
    lab.send(icmp_query(
        14,
        "198.51.100.7",
        "192.0.2.10",
        stamp.port(),
        12,
    ))
    .is("198.51.100.7:0", "172.17.0.2:78");
}

#[test]
fn mapping_is_endpoint_independent() {
    // RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1a
    let mut lab = Lab::new();
    let one = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    let two = lab.send(udp("172.17.0.2:4000", "198.51.100.8:6000"));
    assert_eq!(one.src, two.src);
    let one = lab.send(tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1, 0, 0));
    let two = lab.send(tcp("172.17.0.2:4000", "198.51.100.8:81", SYN, 1, 0, 0));
    assert_eq!(one.src, two.src);
    let one = lab.send(icmp_query(8, "172.17.0.2", "198.51.100.7", 5, 0));
    let two = lab.send(icmp_query(8, "172.17.0.2", "198.51.100.8", 5, 0));
    assert_eq!(one.src, two.src);
    assert_eq!(lab.forwarder.stats().mappings, 3);
}

#[test]
fn containers_with_the_same_port_do_not_share_a_mapping() {
    // RFC 4787 REQ-3, RFC 5382 REQ-7
    let mut lab = Lab::new();
    let one = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    let two = lab.send(udp("172.17.0.3:4000", "198.51.100.7:5000"));
    assert_ne!(one.src, two.src);
    lab.send(udp("198.51.100.7:5000", &one.src))
        .is("198.51.100.7:5000", "172.17.0.2:4000");
    lab.send(udp("198.51.100.7:5000", &two.src))
        .is("198.51.100.7:5000", "172.17.0.3:4000");
}

#[test]
fn filtering_is_address_dependent_by_default() {
    // RFC 4787 REQ-8, RFC 5382 REQ-3
    let mut lab = Lab::new();
    let out = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    lab.send(udp("198.51.100.7:9999", &out.src))
        .is("198.51.100.7:9999", "172.17.0.2:4000");
    lab.dropped(udp("198.51.100.8:5000", &out.src), DropReason::Filtered);

    for (filtering, same_address, other_address) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut lab = Lab::with(Config {
            filtering,
            ..Config::default()
        });
        let out = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
        let mut passes = |from| lab.verdict(&mut udp(from, &out.src)) == Verdict::Forward;
        assert_eq!(passes("198.51.100.7:9999"), same_address);
        assert_eq!(passes("198.51.100.8:5000"), other_address);
        assert!(passes("198.51.100.7:5000"));
    }
}

#[test]
fn permission_ends_with_the_flow() {
    let mut lab = Lab::new();
    let out = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    lab.pass(100);
    lab.send(udp("172.17.0.2:4000", "198.51.100.8:5000"));
    lab.pass(30);
    lab.dropped(udp("198.51.100.7:5000", &out.src), DropReason::Filtered);
}

#[test]
fn external_port_is_ours_exactly_while_it_is_mapped() {
    let mut lab = Lab::new();
    let out = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    lab.send(udp("172.17.0.2:4000", "198.51.100.8:5000"));
    assert_eq!(
        *lab.host.bits.lock(),
        BTreeSet::from([(Protocol::Udp, out.port())])
    );
    lab.pass(119);
    assert_eq!(lab.host.bits.lock().len(), 1);
    lab.pass(2);
    assert!(lab.host.bits.lock().is_empty());
    let stats = lab.forwarder.stats();
    assert_eq!((stats.flows, stats.mappings), (0, 0));
    // Nobody's any more: the host's stack may answer.
    lab.left_to_host(udp("198.51.100.7:5000", &out.src));
}

#[test]
fn simultaneous_open_works_from_both_sides() {
    // RFC 5382 REQ-2
    let mut lab = Lab::new();
    let out = lab.send(tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1000, 0, 0));
    lab.send(tcp("198.51.100.7:80", &out.src, SYN, 5000, 0, 0));
    lab.send(tcp(
        "172.17.0.2:4000",
        "198.51.100.7:80",
        SYN | ACK,
        1000,
        5001,
        0,
    ));
    lab.send(tcp("198.51.100.7:80", &out.src, SYN | ACK, 5000, 1001, 0));
    assert_eq!(lab.state(0), "established");
}

#[test]
fn unsolicited_syn_is_held_for_six_seconds() {
    // RFC 5382 REQ-4
    let mut lab = Lab::new();
    let out = lab.send(tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1000, 0, 0));
    let syn = || tcp("198.51.100.99:7000", &out.src, SYN, 5000, 0, 0);
    assert_eq!(lab.verdict(&mut syn()), Verdict::Consumed);
    assert_eq!(lab.verdict(&mut syn()), Verdict::Consumed);
    lab.pass(5);
    assert!(lab.out.is_empty());
    lab.pass(2);
    let error = lab.generated();
    assert_eq!(seen(&error).src, "192.0.2.10:0");
    assert_eq!(seen(&error).dst, "198.51.100.99:0");
    assert_eq!(&error[30..32], [3, 3]);

    // An outgoing SYN makes it part of a simultaneous open: no answer at all.
    assert_eq!(lab.verdict(&mut syn()), Verdict::Consumed);
    lab.send(tcp(
        "172.17.0.2:4000",
        "198.51.100.99:7000",
        SYN,
        1000,
        0,
        0,
    ));
    lab.pass(10);
    assert!(lab.out.is_empty());
    lab.send(syn()).is("198.51.100.99:7000", "172.17.0.2:4000");
}

#[test]
fn held_syns_are_bounded() {
    let mut lab = Lab::with(Config {
        max_held_syns: 2,
        ..Config::default()
    });
    let out = lab.send(tcp("172.17.0.2:4000", "198.51.100.7:80", SYN, 1000, 0, 0));
    for port in [1, 2] {
        let mut syn = tcp(&format!("198.51.100.9:{port}"), &out.src, SYN, 1, 0, 0);
        assert_eq!(lab.verdict(&mut syn), Verdict::Consumed);
    }
    lab.dropped(
        tcp("198.51.100.9:3", &out.src, SYN, 1, 0, 0),
        DropReason::Filtered,
    );
}

#[test]
fn containers_reach_each_other_by_their_mappings() {
    // RFC 4787 REQ-9, REQ-9a, RFC 5382 REQ-8: hole punching between two containers.
    let mut lab = Lab::new();
    let a = lab.send(udp("172.17.0.2:4000", "198.51.100.7:3478"));
    let c = lab.send(udp("172.17.0.3:5000", "198.51.100.7:3478"));
    lab.dropped(udp("172.17.0.2:4000", &c.src), DropReason::Filtered);
    lab.send(udp("172.17.0.3:5000", &a.src))
        .is(&c.src, "172.17.0.2:4000");
    lab.send(udp("172.17.0.2:4000", &c.src))
        .is(&a.src, "172.17.0.3:5000");
    lab.send(udp("172.17.0.3:5000", &a.src))
        .is(&c.src, "172.17.0.2:4000");
}

#[test]
fn endpoint_independent_filtering_hairpins_at_once() {
    let config = Config {
        filtering: Filtering::EndpointIndependent,
        ..Config::default()
    };
    let mut lab = Lab::with(config);
    let c = lab.send(udp("172.17.0.3:5000", "198.51.100.7:3478"));
    let at_c = lab.send(udp("172.17.0.2:4000", &c.src));
    assert!(at_c.src.starts_with("192.0.2.10:"), "REQ-9a: {at_c:?}");
    assert_eq!(at_c.dst, "172.17.0.3:5000");
    lab.send(udp("172.17.0.3:5000", &at_c.src))
        .is(&c.src, "172.17.0.2:4000");
}

#[test]
fn mappings_are_no_way_into_another_network() {
    let config = Config {
        filtering: Filtering::EndpointIndependent,
        ..Config::default()
    };
    let mut lab = Lab::with(config);
    let c = lab.send(udp("172.18.0.2:5000", "198.51.100.7:3478"));
    lab.dropped(udp("172.17.0.2:4000", &c.src), DropReason::InterNetwork);
    let d = lab.send(udp("172.19.0.2:5000", "198.51.100.7:3478"));
    lab.dropped(udp("172.19.0.3:4000", &d.src), DropReason::IccDisabled);
    lab.dropped(udp("172.21.0.2:4000", &d.src), DropReason::Internal);
    let own = lab.send(udp("172.19.0.2:6000", &d.src));
    assert_eq!(own.dst, "172.19.0.2:5000", "its own mapping");
    // From outside they are reached as ever.
    lab.send(udp("198.51.100.8:1", &c.src))
        .is("198.51.100.8:1", "172.18.0.2:5000");
}

/// A connection and a query of a container, its server, and another address of the host, by family.
const MASQUERADED: [[&str; 4]; 2] = [
    [
        "172.17.0.2:4000",
        "198.51.100.7:80",
        "192.0.2.10",
        "192.0.2.11",
    ],
    [
        "[fd00:17::2]:4000",
        "[2001:db8:ff::7]:80",
        H6,
        "2001:db8::11",
    ],
];

fn prefer(lab: &Lab, source: &str, uplink: u32) {
    let mut egress = lab.host.egress.lock();
    egress.if_index = uplink;
    match ip(source) {
        v4 @ IpAddr::V4(_) => egress.source = v4,
        v6 @ IpAddr::V6(_) => *lab.host.source6.lock() = v6,
    }
    drop(egress);
    lab.forwarder.routes_changed();
}

fn source_of(out: &Seen) -> IpAddr {
    out.src.parse::<std::net::SocketAddr>().unwrap().ip()
}

#[test]
fn masqueraded_flows_live_as_long_as_their_address() {
    for [client, server, before, after] in MASQUERADED {
        let mut lab = Lab::new();
        let mut next = policy();
        next.local_addresses.push(ip(after));
        lab.forwarder.set_policy(next.clone(), lab.now);
        lab.connect(client, server);
        let query = lab.send(udp(client, server));
        // A temporary address, or one of a new prefix: the old one is still there.
        prefer(&lab, after, 2);
        let more = || tcp(client, server, ACK, 1001, 5001, 0);
        assert_eq!(source_of(&lab.send(more())), ip(before));
        assert_eq!(lab.send(udp(client, server)).src, query.src);
        lab.send(udp(server, &query.src)).is(server, client);
        let other = client.replace(":4000", ":4001");
        assert_eq!(source_of(&lab.send(udp(&other, server))), ip(after));
        assert_eq!(lab.forwarder.stats().flows, 3);
        next.local_addresses
            .retain(|&address| address != ip(before));
        lab.forwarder.set_policy(next, lab.now);
        assert_eq!(lab.forwarder.stats().flows, 1, "the address is gone");
        // Picked up, and the server's RST tells the container.
        assert_eq!(source_of(&lab.send(more())), ip(after));
        assert_eq!(source_of(&lab.send(udp(client, server))), ip(after));
    }
}

#[test]
fn another_uplink_ends_masqueraded_flows() {
    for [client, server, before, after] in MASQUERADED {
        let mut lab = Lab::new();
        let mut next = policy();
        next.local_addresses.push(ip(after));
        lab.forwarder.set_policy(next, lab.now);
        lab.connect(client, server);
        lab.send(udp(client, server));
        let more = || tcp(client, server, ACK, 1001, 5001, 0);
        // The same address on another interface will do.
        prefer(&lab, before, 3);
        lab.send(more());
        prefer(&lab, after, 3);
        lab.dropped(more(), DropReason::EgressChanged);
        assert_eq!(source_of(&lab.send(udp(client, server))), ip(after));
        assert_eq!(lab.forwarder.stats().flows, 1);
    }
}

#[test]
fn a_network_without_masquerading_keeps_its_addresses() {
    let mut lab = Lab::new();
    lab.send(udp("172.20.0.2:4000", "198.51.100.7:5000"))
        .is("172.20.0.2:4000", "198.51.100.7:5000");
    lab.send(udp("198.51.100.7:5000", "172.20.0.2:4000"))
        .is("198.51.100.7:5000", "172.20.0.2:4000");
    lab.dropped(
        udp("198.51.100.7:5001", "172.20.0.2:4000"),
        DropReason::DirectAccess,
    );
    assert!(lab.host.bits.lock().is_empty());
}

#[test]
fn ports_of_the_host_are_never_mapped() {
    // nat.md S2
    let config = Config {
        exclusive_ports: 61_000..=61_003,
        shared_ports: RangeInclusive::new(1, 0),
        ..Config::default()
    };
    let mut lab = Lab::with(config);
    let mut ports = HostPorts::new();
    ports.insert(Protocol::Udp, 61_000);
    ports.insert_connected(Protocol::Udp, 61_001);
    lab.forwarder.set_host_ports(ports.clone());
    let mapped: BTreeSet<_> = (1..=3u16)
        .map(|n| {
            lab.send(udp(
                &format!("172.17.0.2:{n}"),
                &format!("198.51.100.7:{}", 5000 + n),
            ))
            .port()
        })
        .collect();
    assert_eq!(
        mapped,
        BTreeSet::from([61_002, 61_003]),
        "the third overlaps"
    );

    // The host starts to listen on a mapped port: it has it at once.
    ports.insert(Protocol::Udp, 61_002);
    lab.forwarder.set_host_ports(ports);
    assert_eq!(
        *lab.host.bits.lock(),
        BTreeSet::from([(Protocol::Udp, 61_003)])
    );
    lab.left_to_host(udp("198.51.100.7:5001", "192.0.2.10:61002"));
}

#[test]
fn a_new_policy_ends_what_it_does_not_allow() {
    let mut lab = Lab::new();
    let a = lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    lab.send(udp("172.17.0.3:4000", "198.51.100.7:5000"));
    lab.send(tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 0));
    lab.send(tcp("198.51.100.7:1", "192.0.2.11:8080", SYN, 1, 0, 0));
    let mut next = policy();
    next.endpoints
        .retain(|endpoint| endpoint.id != EndpointId(2));
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(lab.forwarder.stats().flows, 2, "A's two");
    next.published.remove(0);
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(lab.forwarder.stats().flows, 1);
    next.published.push(Published {
        protocol: Protocol::Udp,
        host_address: ip("0.0.0.0"),
        host_ports: a.port()..=a.port(),
        endpoint: A,
        container_address: ip("172.17.0.2"),
        container_port: 7,
    });
    lab.forwarder.set_policy(next.clone(), lab.now);
    assert_eq!(
        lab.forwarder.stats().flows,
        0,
        "the mapped port is published now"
    );
    lab.send(udp("172.17.0.2:4000", "198.51.100.7:5000"));
    next.local_addresses
        .retain(|&address| address != ip("192.0.2.10"));
    lab.forwarder.set_policy(next, lab.now);
    assert_eq!(lab.forwarder.stats().flows, 0);
    assert!(lab.host.bits.lock().is_empty());
}

#[test]
fn payload_opens_nothing() {
    // nat.md S1, RFC 4787 REQ-10, RFC 5382 REQ-6: no application level gateway.
    let mut lab = Lab::new();
    lab.connect("172.17.0.2:4000", "198.51.100.7:21");
    let mut frame = tcp("172.17.0.2:4000", "198.51.100.7:21", ACK, 1001, 5001, 0);
    frame.extend_from_slice(b"PORT 172,17,0,2,10,10\r\n");
    let length = u16::try_from(frame.len() - VNET_HDR_LEN).unwrap();
    let mut frame = with_ip(frame, |packet| packet.set_total_len(length));
    let _ = lab.verdict(&mut frame);
    assert!(frame.ends_with(b"PORT 172,17,0,2,10,10\r\n"));
    let stats = lab.forwarder.stats();
    assert_eq!((stats.flows, stats.mappings), (1, 1));
}
