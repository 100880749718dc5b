//! Published ports, hairpinning to them, isolation.

use super::*;

#[test]
fn outside_client_is_seen_with_its_own_address() {
    let mut lab = Lab::new();
    lab.send(tcp("198.51.100.7:50000", "192.0.2.10:8080", SYN, 1, 0, 0))
        .is("198.51.100.7:50000", "172.17.0.2:80");
    lab.send(tcp(
        "172.17.0.2:80",
        "198.51.100.7:50000",
        SYN | ACK,
        9,
        2,
        0,
    ))
    .is("192.0.2.10:8080", "198.51.100.7:50000");
    lab.send(udp("198.51.100.7:50000", "192.0.2.10:8080"))
        .is("198.51.100.7:50000", "172.17.0.2:80");
    lab.send(udp("172.17.0.2:80", "198.51.100.7:50000"))
        .is("192.0.2.10:8080", "198.51.100.7:50000");
    assert!(lab.host.bits.lock().is_empty(), "no external port is spent");
    assert_eq!(lab.forwarder.flows(lab.now)[0].endpoint, A);
}

#[test]
fn ranges_map_pairwise_to_both_ends() {
    let mut lab = Lab::new();
    for (host, container) in [(20_000, 30_000), (29_999, 39_999), (25_123, 35_123)] {
        lab.send(udp("198.51.100.7:5", &format!("192.0.2.10:{host}")))
            .is("198.51.100.7:5", &format!("172.17.0.3:{container}"));
    }
    lab.left_to_host(udp("198.51.100.7:5", "192.0.2.10:19999"));
    lab.left_to_host(udp("198.51.100.7:5", "192.0.2.10:30000"));
}

#[test]
fn specific_address_beats_the_wildcard() {
    let mut lab = Lab::new();
    lab.send(tcp("198.51.100.7:1", "192.0.2.11:8080", SYN, 1, 0, 0))
        .is("198.51.100.7:1", "172.17.0.3:80");
    lab.send(tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 0))
        .is("198.51.100.7:1", "172.17.0.2:80");
}

#[test]
fn only_the_hosts_addresses_are_published() {
    // nat.md S18
    let mut lab = Lab::new();
    lab.send(udp("172.17.0.3:4000", "198.51.100.7:8080"));
    assert_eq!(
        lab.forwarder.flows(lab.now)[0].translated.1.to_string(),
        "198.51.100.7:8080"
    );
}

#[test]
fn loopback_is_published_for_the_host_alone() {
    // nat.md S17
    let mut lab = Lab::new();
    for port in [8080, 8081] {
        let syn = lab.send(tcp(
            "127.0.0.1:40000",
            &format!("127.0.0.1:{port}"),
            SYN,
            1,
            0,
            0,
        ));
        assert_eq!(syn.dst, "172.17.0.2:80");
        assert!(syn.src.starts_with("172.17.0.1:"), "{syn:?}");
        assert!(lab.host.bits.lock().contains(&(Protocol::Tcp, syn.port())));
        lab.send(tcp("172.17.0.2:80", &syn.src, SYN | ACK, 9, 2, 0))
            .is(&format!("127.0.0.1:{port}"), "127.0.0.1:40000");
    }
    lab.left_to_host(tcp("198.51.100.7:1", "192.0.2.10:8081", SYN, 1, 0, 0));
    lab.dropped(
        tcp("198.51.100.7:1", "127.0.0.1:8081", SYN, 1, 0, 0),
        DropReason::Martian,
    );
    lab.dropped(
        tcp("172.17.0.3:1", "127.0.0.1:8081", SYN, 1, 0, 0),
        DropReason::Martian,
    );
    lab.dropped(
        tcp("127.0.0.1:1", "198.51.100.7:80", SYN, 1, 0, 0),
        DropReason::Martian,
    );
}

#[test]
fn host_reaches_published_ports_at_its_own_addresses() {
    let mut lab = Lab::new();
    let syn = lab.send(tcp("192.0.2.10:40000", "192.0.2.10:8080", SYN, 1, 0, 0));
    assert!(syn.src.starts_with("172.17.0.1:"));
    lab.send(tcp("172.17.0.2:80", &syn.src, SYN | ACK, 9, 2, 0))
        .is("192.0.2.10:8080", "192.0.2.10:40000");
    let query = lab.send(udp("192.0.2.10:40000", "192.0.2.10:8080"));
    lab.send(udp("172.17.0.2:80", &query.src))
        .is("192.0.2.10:8080", "192.0.2.10:40000");
    lab.left_to_host(tcp("192.0.2.10:40000", "192.0.2.10:22", SYN, 1, 0, 0));
}

#[test]
fn containers_reach_published_ports_through_the_host() {
    // RFC 4787 REQ-9, RFC 5382 REQ-8: itself, a neighbour, another network, one without icc.
    let mut lab = Lab::new();
    for (n, client) in ["172.17.0.2", "172.17.0.3", "172.18.0.2", "172.19.0.2"]
        .into_iter()
        .enumerate()
    {
        let from = format!("{client}:4000");
        let syn = lab.send(tcp(&from, "192.0.2.10:8080", SYN, 1, 0, 0));
        assert!(
            syn.src.starts_with("172.17.0.1:"),
            "gateway of the server's network: {syn:?}"
        );
        assert_eq!(syn.dst, "172.17.0.2:80");
        lab.send(tcp("172.17.0.2:80", &syn.src, SYN | ACK, 9, 2, 0))
            .is("192.0.2.10:8080", &from);
        lab.send(tcp(&from, "192.0.2.10:8080", ACK, 2, 10, 0));
        assert_eq!(lab.forwarder.stats().flows, n + 1);
    }
    let syn = lab.send(tcp("172.17.0.2:4000", "172.17.0.1:9090", SYN, 1, 0, 0));
    assert!(syn.src.starts_with("172.18.0.1:"));
    assert_eq!(syn.dst, "172.18.0.2:90");
}

#[test]
fn one_client_port_towards_two_publications_of_one_container_port() {
    let mut lab = Lab::new();
    let one = lab.send(tcp("198.51.100.7:50000", "192.0.2.10:8080", SYN, 1, 0, 0));
    let two = lab.send(tcp("198.51.100.7:50000", "192.0.2.10:8082", SYN, 1, 0, 0));
    assert_eq!(
        (one.dst.as_str(), two.dst.as_str()),
        ("172.17.0.2:80", "172.17.0.2:80")
    );
    assert_ne!(one.src, two.src);
    lab.send(tcp("172.17.0.2:80", &two.src, SYN | ACK, 9, 2, 0))
        .is("192.0.2.10:8082", "198.51.100.7:50000");
    lab.send(tcp("172.17.0.2:80", &one.src, SYN | ACK, 9, 2, 0))
        .is("192.0.2.10:8080", "198.51.100.7:50000");
}

#[test]
fn published_connections_survive_a_restart() {
    // The client speaks first.
    let mut lab = Lab::new();
    lab.send(tcp(
        "198.51.100.7:50000",
        "192.0.2.10:8080",
        ACK,
        100,
        200,
        10,
    ));
    assert_eq!(lab.state(0), "picked_up");
    lab.send(tcp(
        "172.17.0.2:80",
        "198.51.100.7:50000",
        ACK,
        200,
        110,
        10,
    ));
    assert_eq!(lab.state(0), "established");

    // The server speaks first: from the port that the client knows, if there is only one.
    let mut lab = Lab::new();
    lab.send(tcp(
        "172.18.0.2:90",
        "198.51.100.7:50000",
        ACK,
        200,
        110,
        10,
    ))
    .is("192.0.2.10:9090", "198.51.100.7:50000");
    lab.send(tcp(
        "198.51.100.7:50000",
        "192.0.2.10:9090",
        ACK,
        110,
        210,
        10,
    ))
    .is("198.51.100.7:50000", "172.18.0.2:90");
    assert_eq!(lab.state(0), "established");
    let ambiguous = tcp("172.17.0.2:80", "198.51.100.7:50000", ACK, 200, 110, 10);
    lab.dropped(ambiguous, DropReason::TcpNoFlow);
}

#[test]
fn stray_segments_open_nothing() {
    let mut lab = Lab::new();
    for flags in [RST, RST | ACK, SYN | ACK, FIN, 0] {
        lab.dropped(
            tcp("172.17.0.2:4000", "198.51.100.7:80", flags, 1, 1, 0),
            DropReason::TcpNoFlow,
        );
        lab.dropped(
            tcp("198.51.100.7:4000", "192.0.2.10:8080", flags, 1, 1, 0),
            DropReason::TcpNoFlow,
        );
    }
    assert_eq!(lab.forwarder.stats().flows, 0);
}

#[test]
fn networks_are_isolated() {
    let mut lab = Lab::new();
    lab.dropped(
        udp("172.17.0.2:1", "172.18.0.2:1"),
        DropReason::InterNetwork,
    );
    lab.dropped(
        udp("172.17.0.2:1", "172.18.0.99:1"),
        DropReason::InterNetwork,
    );
    lab.dropped(
        icmp_query(8, "172.18.0.2", "172.17.0.2", 1, 0),
        DropReason::InterNetwork,
    );
    lab.dropped(udp("172.19.0.2:1", "172.19.0.3:1"), DropReason::IccDisabled);
    lab.dropped(
        udp("172.17.0.2:1", "172.17.0.99:1"),
        DropReason::NoSuchEndpoint,
    );
    lab.send(udp("172.17.0.2:1", "172.17.0.3:1"))
        .is("172.17.0.2:1", "172.17.0.3:1");
    lab.dropped(
        udp("198.51.100.7:1", "172.17.0.2:80"),
        DropReason::DirectAccess,
    );
    lab.dropped(
        tcp("198.51.100.7:1", "172.17.0.2:80", SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
    assert_eq!(lab.forwarder.stats().flows, 0);
}

#[test]
fn what_is_for_the_host_is_left_to_it() {
    let mut lab = Lab::new();
    lab.left_to_host(icmp_query(8, "172.17.0.2", "172.17.0.1", 1, 0));
    lab.left_to_host(icmp_query(8, "198.51.100.7", "192.0.2.10", 1, 0));
    lab.left_to_host(icmp_query(0, "198.51.100.7", "192.0.2.10", 1, 0));
    lab.left_to_host(tcp("172.17.0.2:1", "192.0.2.10:22", SYN, 1, 0, 0));
    lab.left_to_host(with_ttl(udp("198.51.100.7:1", "192.0.2.10:53"), 1));
}

#[test]
fn a_loop_ends_with_the_time_to_live() {
    // nat.md S9: each pass through a publication that leads to itself costs one hop.
    let mut lab = Lab::new();
    let mut frame = with_ttl(udp("172.17.0.2:80", "192.0.2.10:8080"), 2);
    assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
    let seen = seen(&frame);
    assert_eq!((seen.dst.as_str(), seen.ttl), ("172.17.0.2:80", 1));
    let again = with_ttl(udp("172.17.0.2:80", "192.0.2.10:8080"), 1);
    lab.dropped(again, DropReason::TtlExceeded);
    lab.dropped(udp("192.0.2.10:61000", "198.51.100.7:80"), DropReason::Loop);
}
