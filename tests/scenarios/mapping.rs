//! Which external address and port an inner endpoint gets.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::time::Duration;

use tunbridge::forwarder::{Config, Forwarder, Protocol};

use super::packet::*;
use super::world::*;

const UDP_A: &str = "172.17.0.2:40000";

#[test]
fn udp_mapping_is_the_same_towards_two_servers() {
    // RFC 4787 REQ-1: endpoint-independent mapping.
    let mut w = World::new();
    let first = w.udp(at(UDP_A), at("10.20.0.1:53"));
    let second = w.udp(at(UDP_A), at("10.20.0.2:4000"));
    let third = w.udp(at(UDP_A), at("10.20.0.1:54"));
    assert_eq!(*first.ip(), HOST);
    assert_eq!((first, first), (second, third));
    assert_eq!(w.tables(), (3, 1));
}

#[test]
fn tcp_mapping_is_the_same_towards_two_servers() {
    // RFC 5382 REQ-1.
    let mut w = World::new();
    let first = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let second = w.connect(at("172.17.0.2:40000"), at("10.20.0.2:81"));
    assert_eq!(first.seen_client, second.seen_client);
    assert_eq!(w.tables(), (2, 1));
}

#[test]
fn icmp_identifier_is_the_same_towards_two_hosts() {
    // RFC 5508 REQ-1a.
    let mut w = World::new();
    let first = w.ping(C1, S1, 77);
    let second = w.ping(C1, S2, 77);
    assert_eq!(first.0, HOST);
    assert_eq!(first, second);
    assert_eq!(w.tables(), (2, 1));
}

#[test]
fn two_containers_with_one_source_port_reach_one_server_at_once() {
    // RFC 4787 REQ-3, RFC 5382 REQ-7: no port overloading.
    let mut w = World::new();
    let server = at("10.20.0.1:443");
    let mut a = w.connect(at("172.17.0.2:50000"), server);
    let mut b = w.connect(at("172.17.0.3:50000"), server);
    assert_ne!(a.seen_client, b.seen_client);
    let to_a = w.forward(a.reply(PSH | ACK, b"for c1"));
    let to_b = w.forward(b.reply(PSH | ACK, b"for c2"));
    assert_eq!(
        (to_a.destination(), to_a.payload()),
        (at("172.17.0.2:50000"), &b"for c1"[..])
    );
    assert_eq!(
        (to_b.destination(), to_b.payload()),
        (at("172.17.0.3:50000"), &b"for c2"[..])
    );

    let u = w.udp_exchange(at("172.17.0.2:50000"), server);
    let v = w.udp_exchange(at("172.17.0.3:50000"), server);
    assert_ne!(u, v);
    let p = w.ping(C1, S1, 9);
    let q = w.ping(C2, S1, 9);
    assert_ne!(p, q);
    assert_eq!(w.tables(), (6, 6));
}

#[test]
fn two_source_ports_of_one_container_never_share_an_external_port() {
    let mut w = World::new();
    let mut seen = HashSet::new();
    for port in 30_000..31_000 {
        assert!(seen.insert(w.udp(SocketAddrV4::new(C1, port), at("10.20.0.1:7"))));
    }
    assert_eq!(w.tables(), (1000, 1000));
}

#[test]
fn protocols_have_independent_mappings() {
    // RFC 7857 §5: an external port number is owned per protocol.
    let mut w = World::new();
    w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    w.ping(C1, S1, 40000);
    assert_eq!(w.tables(), (3, 3));
    let ports = w.host.ports();
    let mut protocols: Vec<Protocol> = ports.iter().map(|(p, _)| *p).collect();
    protocols.sort();
    assert_eq!(protocols, [Protocol::Icmp, Protocol::Tcp, Protocol::Udp]);
}

#[test]
fn external_port_bit_is_set_while_the_mapping_lives_and_only_then() {
    let mut w = World::new();
    let seen = w.udp(at(UDP_A), at("10.20.0.1:4000"));
    assert_eq!(w.host.ports(), [(Protocol::Udp, seen.port())]);
    w.secs(119);
    assert!(w.host.port_is_ours(Protocol::Udp, seen.port()));
    w.secs(3);
    assert_eq!(w.host.ports(), []);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn external_ports_come_from_the_exclusive_pool_first() {
    let mut w = World::new();
    for port in 30_000..32_000 {
        let seen = w.udp(SocketAddrV4::new(C1, port), at("10.20.0.1:7"));
        assert!((61_000..=65_534).contains(&seen.port()), "{seen}");
    }
}

#[test]
fn when_the_exclusive_pool_is_spent_the_shared_pool_follows() {
    let mut w = World::with_config(Config {
        exclusive_ports: 61_000..=61_009,
        shared_ports: 5_000..=5_009,
        ..Config::default()
    });
    let mut exclusive = 0;
    let mut shared = 0;
    for port in 30_000..30_020 {
        match w
            .udp(
                SocketAddrV4::new([C1, C2][usize::from(port % 2)], port),
                at("10.20.0.1:7"),
            )
            .port()
        {
            61_000..=61_009 => exclusive += 1,
            5_000..=5_009 => shared += 1,
            other => panic!("{other} is in no pool"),
        }
    }
    assert_eq!((exclusive, shared), (10, 10));
}

#[test]
fn privileged_source_port_gets_an_unprivileged_external_one() {
    // RFC 4787 REQ-3a is deliberately not followed downwards: ports below 1024 are the host's own.
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:500"), at("10.20.0.1:500"));
    assert!(seen.port() >= 1024);
}

#[test]
fn external_ports_are_not_predictable() {
    // RFC 6056, RFC 6888 REQ-15, nat.md S3: spread over the pool and without serial correlation.
    let mut w = World::new();
    let mut ports = Vec::new();
    for port in 30_000..32_000 {
        ports.push(w.udp(SocketAddrV4::new(C1, port), at("10.20.0.1:7")).port());
    }
    let neighbours = ports
        .windows(2)
        .filter(|p| p[0].abs_diff(p[1]) <= 2)
        .count();
    assert!(
        neighbours < 20,
        "{neighbours} of 2000 ports follow their predecessor"
    );
    // 16 classes of 283 or 284 ports, 125 expected in each; chi-square with 15 degrees of freedom.
    let mut classes = [0_f64; 16];
    for port in &ports {
        classes[usize::from(port - 61_000) * 16 / 4_535] += 1.0;
    }
    let chi_square: f64 = classes.iter().map(|n| (n - 125.0).powi(2) / 125.0).sum();
    assert!(
        chi_square < 44.3,
        "chi-square {chi_square} over {classes:?} (p < 0.0001)"
    );
}

#[test]
fn another_seed_gives_other_ports() {
    let ports = |seed: [u8; 32]| {
        let mut w = World::new();
        w.forwarder = Forwarder::new(Config::default(), seed, w.host.clone());
        w.change(|_| {});
        (0..50)
            .map(|i| {
                w.udp(SocketAddrV4::new(C1, 30_000 + i), at("10.20.0.1:7"))
                    .port()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(ports([1; 32]), ports([1; 32]), "one seed, one sequence");
    assert_ne!(ports([1; 32]), ports([2; 32]));
}

#[test]
fn external_address_is_the_source_the_route_gives() {
    let mut w = World::new();
    let wide = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let narrow = w.udp(at("172.17.0.2:40001"), at("10.80.0.1:9000"));
    assert_eq!((*wide.ip(), *narrow.ip()), (HOST, HOST2));
}

#[test]
fn reply_restores_the_tuple_and_leaves_the_rest_alone() {
    let mut w = World::new();
    let sent = Packet::udp(at(UDP_A), at("10.20.0.1:9000"), b"payload").with_tos(0xb8);
    let seen = w.forward(&sent);
    let mut expected = Packet::udp(seen.source(), at("10.20.0.1:9000"), b"payload")
        .with_tos(0xb8)
        .with_ttl(63);
    expected = expected.with_ident(seen.ident());
    assert_eq!(seen, expected);
    let answer = Packet::udp(seen.destination(), seen.source(), b"other way")
        .with_ident(999)
        .with_ttl(50);
    let got = w.forward(&answer);
    assert_eq!(
        got,
        Packet::udp(at("10.20.0.1:9000"), at(UDP_A), b"other way")
            .with_ident(999)
            .with_ttl(49)
    );
}

#[test]
fn route_is_asked_per_flow_not_per_packet() {
    let mut w = World::new();
    let queries = |w: &World| {
        w.host
            .route_queries
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    w.udp_exchange(at(UDP_A), at("10.20.0.1:9000"));
    let first = queries(&w);
    for _ in 0..50 {
        w.udp_exchange(at(UDP_A), at("10.20.0.1:9000"));
    }
    assert_eq!(queries(&w), first);
}

#[test]
fn without_masquerade_the_source_stays() {
    let mut w = World::new();
    w.change(|p| p.networks[0].families[0].masquerade = false);
    let seen = w.forward(Packet::udp(at(UDP_A), at("10.20.0.1:9000"), b"as it is"));
    assert_eq!(seen.source(), at(UDP_A));
    let back = w.forward(Packet::udp(at("10.20.0.1:9000"), at(UDP_A), b"as it was"));
    assert_eq!(back.destination(), at(UDP_A));
    assert_eq!(w.host.ports(), []);
}

#[test]
fn without_a_route_the_container_is_told_net_unreachable() {
    let mut w = World::new();
    let sent = Packet::udp(at(UDP_A), at("10.99.0.1:9000"), b"?");
    let (reason, error) = w.rejects(&sent);
    assert_eq!(reason, "no_route");
    assert_eq!((error.src(), error.dst()), (GATEWAY, C1));
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 0));
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn out_of_ports_answers_administratively_prohibited() {
    // RFC 5508 REQ-8.
    let mut w = World::with_config(Config {
        exclusive_ports: 61_000..=61_003,
        shared_ports: std::ops::RangeInclusive::new(1, 0),
        ..Config::default()
    });
    for port in 1..=4 {
        w.udp(SocketAddrV4::new(C1, 40_000 + port), at("10.20.0.1:9000"));
    }
    let (reason, error) = w.rejects(Packet::udp(
        at("172.17.0.3:40000"),
        at("10.20.0.1:9000"),
        b"no port left",
    ));
    assert_eq!(reason, "out_of_ports");
    assert_eq!((error.src(), error.dst()), (GATEWAY, C2));
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 13));
    // A port comes back when its mapping ends.
    w.secs(125);
    w.udp(at("172.17.0.3:40000"), at("10.20.0.1:9000"));
}

#[test]
fn when_scarce_one_port_serves_two_containers_towards_different_servers() {
    // RFC 7857 §3, RFC 6888 REQ-13: overlapping only when nothing else is left, and replies stay apart.
    let mut w = World::with_config(Config {
        exclusive_ports: 61_000..=61_000,
        shared_ports: std::ops::RangeInclusive::new(1, 0),
        ..Config::default()
    });
    let a = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let b = w.udp_exchange(at("172.17.0.3:40000"), at("10.20.0.2:9000"));
    assert_eq!(a, b);
    let to_a = w.forward(Packet::udp(at("10.20.0.1:9000"), a, b"1"));
    let to_b = w.forward(Packet::udp(at("10.20.0.2:9000"), b, b"2"));
    assert_eq!((to_a.dst(), to_b.dst()), (C1, C2));
}

#[test]
fn a_host_port_is_never_chosen() {
    // nat.md S2, port shadow: seven of eight ports belong to the host.
    let mut w = World::with_config(Config {
        exclusive_ports: 61_000..=61_003,
        shared_ports: 5_000..=5_003,
        ..Config::default()
    });
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let taken: Vec<_> = [61_000, 61_001, 61_002, 61_003, 5_000, 5_001, 5_003]
            .map(|p| (protocol, p))
            .to_vec();
        w.host_ports(&taken);
        let first = match protocol {
            Protocol::Tcp => {
                w.syn(at("172.17.0.2:40000"), at("10.20.0.1:80"))
                    .seen_client
            }
            _ => w.udp(at("172.17.0.2:40000"), at("10.20.0.1:80")),
        };
        assert_eq!(first.port(), 5_002);
    }
}

#[test]
fn a_published_port_is_never_chosen() {
    let mut w = World::with_config(Config {
        exclusive_ports: 61_000..=61_007,
        shared_ports: std::ops::RangeInclusive::new(1, 0),
        ..Config::default()
    });
    w.publish_range(
        Protocol::Udp,
        std::net::Ipv4Addr::UNSPECIFIED,
        61_000..=61_006,
        at("172.17.0.3:7000"),
    );
    assert_eq!(
        w.udp(at("172.17.0.2:40000"), at("10.20.0.1:80")).port(),
        61_007
    );
    let (_, error) = w.rejects(Packet::udp(at("172.17.0.2:40001"), at("10.20.0.1:80"), b""));
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 13));
}

#[test]
fn a_mapping_gives_way_when_the_host_starts_to_use_its_port() {
    // nat.md S2: the host's sockets always win.
    let mut w = World::new();
    let seen = w.udp_exchange(at(UDP_A), at("10.20.0.1:9000"));
    w.host_ports(&[(Protocol::Udp, seen.port())]);
    assert!(!w.host.port_is_ours(Protocol::Udp, seen.port()));
    assert_eq!(w.tables(), (0, 0));
    w.leaves_to_host(Packet::udp(at("10.20.0.1:9000"), seen, b"for the host now"));
    let again = w.udp_exchange(at(UDP_A), at("10.20.0.1:9000"));
    assert_ne!(again.port(), seen.port());
}

#[test]
fn a_chosen_port_shadows_no_host_service() {
    // The kernel's nft_nat.sh test_port_shadow: a container sends from the port of a host service to a client; the
    // client's packet to that service must not reach the container.
    let mut w = World::new();
    w.host_ports(&[(Protocol::Udp, 1405)]);
    let seen = w.udp(at("172.17.0.2:1405"), at("10.9.0.50:41404"));
    assert_ne!(seen.port(), 1405);
    w.leaves_to_host(Packet::udp(
        at("10.9.0.50:41404"),
        at("10.9.0.10:1405"),
        b"to the host",
    ));
}

#[test]
fn a_flow_quota_per_container_leaves_the_others_alone() {
    // RFC 6888 REQ-4 and REQ-5, nat.md S5.
    let mut w = World::with_config(Config {
        max_flows_per_endpoint: 100,
        ..Config::default()
    });
    for i in 0..100 {
        w.udp_exchange(SocketAddrV4::new(C1, 20_000 + i), at("10.20.0.1:9000"));
    }
    let (reason, error) = w.rejects(Packet::udp(
        at("172.17.0.2:30000"),
        at("10.20.0.1:9000"),
        b"one too many",
    ));
    assert_eq!(reason, "endpoint_quota");
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 13));
    for i in 0..100 {
        w.udp_exchange(SocketAddrV4::new(C2, 20_000 + i), at("10.20.0.1:9000"));
    }
    assert_eq!(w.tables(), (200, 200));
}

#[test]
fn flow_report_tells_tuples_state_and_octets() {
    let mut w = World::new();
    let client = at(UDP_A);
    let server = at("10.20.0.1:9000");
    let seen = w.udp_exchange(client, server);
    w.advance(Duration::from_secs(10));
    let flows = w.forwarder.flows(w.now);
    assert_eq!(flows.len(), 1);
    let flow = &flows[0];
    assert_eq!(flow.protocol, Protocol::Udp);
    assert_eq!(flow.endpoint, endpoint_of(C1));
    assert_eq!(flow.original, (client.into(), server.into()));
    assert_eq!(flow.translated, (seen.into(), server.into()));
    assert_eq!(flow.state, "replied");
    assert_eq!((flow.packets_original, flow.bytes_original), (1, 28 + 8));
    assert_eq!((flow.packets_reply, flow.bytes_reply), (1, 28 + 6));
    assert_eq!(flow.age, Duration::from_secs(10));
    assert_eq!(flow.timeout, Duration::from_secs(290));
}
