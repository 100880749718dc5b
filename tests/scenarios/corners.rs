//! Where two features meet, and settings at their edges.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use tunbridge::forwarder::{Config, FamilyPolicy, Protocol, Verdict};

use super::packet::*;
use super::world::*;

const NO_PORTS: RangeInclusive<u16> = RangeInclusive::new(1, 0);

fn pool(exclusive: RangeInclusive<u16>) -> World {
    World::with_config(Config {
        exclusive_ports: exclusive,
        shared_ports: NO_PORTS,
        ..Config::default()
    })
}

#[test]
fn a_pool_without_ports_refuses() {
    let mut w = pool(NO_PORTS);
    let (reason, error) = w.rejects(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:9000"), b""));
    assert_eq!(
        (reason, error.icmp_type_code()),
        ("out_of_ports", (UNREACHABLE, 13))
    );
    // A client outside needs none.
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:5300"));
    w.udp_exchange(at("10.9.0.50:5000"), at("10.9.0.10:5353"));
}

#[test]
fn the_smallest_limits_hold() {
    for (config, allowed) in [
        (
            Config {
                max_flows: 0,
                ..Config::default()
            },
            0,
        ),
        (
            Config {
                max_flows: 1,
                ..Config::default()
            },
            1,
        ),
        (
            Config {
                max_flows_per_endpoint: 1,
                ..Config::default()
            },
            1,
        ),
    ] {
        let mut w = World::with_config(config);
        for port in 1..=5 {
            w.step(Packet::udp(
                SocketAddrV4::new(C1, port),
                at("10.20.0.1:9000"),
                b"",
            ));
        }
        assert_eq!(
            (w.tables(), w.host.ports().len()),
            ((allowed, allowed), allowed)
        );
    }
}

#[test]
fn a_port_is_free_again_after_unpublishing_and_after_the_host_closes_it() {
    let mut w = pool(61_000..=61_000);
    w.publish(Protocol::Udp, at("0.0.0.0:61000"), at("172.17.0.3:5300"));
    w.rejects(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:9000"), b""));
    w.change(|p| p.published.clear());
    assert_eq!(
        w.udp(at("172.17.0.2:1"), at("10.20.0.1:9000")).port(),
        61_000
    );
    w.host_ports(&[(Protocol::Udp, 61_000)]);
    assert_eq!(w.tables(), (0, 0));
    w.rejects(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:9000"), b""));
    w.host_ports(&[]);
    assert_eq!(
        w.udp(at("172.17.0.2:1"), at("10.20.0.1:9000")).port(),
        61_000
    );
}

#[test]
fn ports_of_a_removed_container_are_free_at_once() {
    let mut w = pool(61_000..=61_003);
    for port in 1..=4 {
        w.udp(SocketAddrV4::new(C1, port), at("10.20.0.1:9000"));
    }
    w.rejects(Packet::udp(at("172.17.0.3:1"), at("10.20.0.1:9000"), b""));
    w.change(|p| p.endpoints.retain(|e| e.id != endpoint_of(C1)));
    for port in 1..=4 {
        w.udp(SocketAddrV4::new(C2, port), at("10.20.0.1:9000"));
    }
}

#[test]
fn finished_connections_give_up_their_ports_first() {
    let mut w = pool(61_000..=61_000);
    let server = at("10.20.0.1:80");
    let mut tcp = w.connect(at("172.17.0.2:1000"), server);
    // Nothing is recycled while the connection lives.
    w.rejects(Packet::tcp(at("172.17.0.3:1000"), server, SYN, 1, 0, b""));
    w.forward(tcp.packet(FIN | ACK, b""));
    w.forward(tcp.reply(FIN | ACK, b""));
    w.forward(tcp.packet(ACK, b""));
    w.secs(2);
    let next = w.connect(at("172.17.0.3:1000"), server);
    assert_eq!(next.seen_client.port(), 61_000);
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn a_range_that_runs_over_the_last_port_is_survived() {
    // Control refuses it; the forwarder must not trip over it.
    let mut w = World::new();
    w.publish_range(
        Protocol::Tcp,
        Ipv4Addr::UNSPECIFIED,
        1000..=2000,
        at("172.17.0.2:65000"),
    );
    for port in [1000, 1535, 1536, 1999, 2000] {
        let called = SocketAddrV4::new(HOST, port);
        let step = w.step(Packet::tcp(at("10.9.0.50:5000"), called, SYN, 1, 0, b""));
        if step.verdict == Verdict::Forward {
            assert_eq!(
                u32::from(step.frame.packet.dport()),
                65_000 + u32::from(port) - 1000
            );
        }
    }
}

#[test]
fn ipv6_in_the_policy_does_not_disturb_ipv4() {
    let mut w = World::new();
    w.change(|p| {
        let family = p.networks[0].families[0].clone();
        p.networks[0].families.push(FamilyPolicy {
            subnet: "fd00:17::/64".parse().unwrap(),
            gateway: "fd00:17::1".parse().ok(),
            ..family
        });
        p.endpoints[0].addresses.push("fd00:17::2".parse().unwrap());
        p.local_addresses.push("::1".parse().unwrap());
    });
    w.udp_exchange(at("172.17.0.2:1"), at("10.20.0.1:9000"));
    let (_, error) =
        w.rejects(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:9001"), b"").with_ttl(1));
    assert_eq!(error.src(), GATEWAY);
}

#[test]
fn a_packet_of_another_version_is_dropped_by_name() {
    let mut w = World::new();
    let mut bytes = vec![0; 10];
    bytes.extend([0x50, 0, 0, 0, 0, 0, 59, 64]);
    bytes.extend([0; 32]);
    let step = w.step_bytes(&bytes);
    assert!(
        matches!(step.verdict, Verdict::Drop(r) if r.name() == "unsupported_version"),
        "{step:?}"
    );
}

#[test]
fn clocks_of_workers_may_differ_a_little() {
    let mut w = World::new();
    let now = w.now;
    let seen = w.udp(at("172.17.0.2:1"), at("10.20.0.1:9000"));
    w.now = now - Duration::from_millis(500);
    w.forward(Packet::udp(
        at("10.20.0.1:9000"),
        seen,
        b"from a slower clock",
    ));
    w.now = now;
    w.udp(at("172.17.0.2:1"), at("10.20.0.1:9000"));
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn an_error_of_a_published_server_reaches_the_host_process() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:5300"));
    let sent = Packet::udp(at("127.0.0.1:5000"), at("127.0.0.1:5353"), b"anybody?");
    let got = w.forward(&sent);
    let back = w.forward(Packet::icmp_error(C1, GATEWAY, UNREACHABLE, 3, 0, &got.0));
    assert_eq!((back.src(), back.dst()), (LOOPBACK, LOOPBACK));
    assert_eq!(
        back.quote(),
        sent.with_ttl(got.ttl()).with_ident(got.ident())
    );
}

#[test]
fn an_error_of_a_published_server_reaches_the_neighbour_that_called() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.18.0.2:5300"));
    let sent = Packet::udp(at("172.17.0.2:5000"), at("10.9.0.10:5353"), b"anybody?");
    let got = w.forward(&sent);
    let back = w.forward(Packet::icmp_error(C3, GATEWAY2, UNREACHABLE, 3, 0, &got.0));
    assert_eq!((back.src(), back.dst()), (HOST, C1));
    assert_eq!(
        back.quote(),
        sent.with_ttl(got.ttl()).with_ident(got.ident())
    );
}

#[test]
fn a_partial_checksum_is_completed_before_the_packet_is_cut() {
    let mut w = World::new();
    for udp in [true, false] {
        let packet = if udp {
            Packet::udp(at("172.17.0.2:1"), at("10.80.0.1:9000"), &[5; 1472])
        } else {
            w.forward(Packet::tcp(
                at("172.17.0.2:1"),
                at("10.80.0.1:80"),
                SYN,
                1,
                0,
                b"",
            ));
            Packet::tcp(
                at("172.17.0.2:1"),
                at("10.80.0.1:80"),
                ACK,
                2,
                1,
                &[5; 1460],
            )
            .without_df()
        };
        let step = w.step(Frame::partial(packet.clone()));
        assert_eq!(step.verdict, Verdict::Consumed);
        let fragments: Vec<Packet> = step.generated.iter().map(|f| f.packet.clone()).collect();
        assert!(step.generated.iter().all(|f| f.vnet == Vnet::default()));
        let whole = reassemble(&fragments).expect("complete");
        whole.assert_valid();
        assert_eq!(whole.payload(), packet.payload());
    }
}

#[test]
fn a_super_packet_without_df_is_cut_into_smaller_segments() {
    let mut w = World::new();
    w.forward(Packet::tcp(
        at("172.17.0.2:1"),
        at("10.80.0.1:80"),
        SYN,
        1,
        0,
        b"",
    ));
    let data: Vec<u8> = (0..10_000_u32)
        .map(|i| u8::try_from(i % 249).unwrap())
        .collect();
    let big = Packet::tcp(
        at("172.17.0.2:1"),
        at("10.80.0.1:80"),
        PSH | ACK,
        2,
        1,
        &data,
    )
    .without_df();
    let out = w.forward_frame(Frame::super_packet(big, 1460));
    let segments = out.segments();
    assert!(segments.iter().all(|s| s.0.len() <= 1400), "{:?}", out.vnet);
    assert_eq!(
        segments
            .iter()
            .flat_map(|s| s.payload().to_vec())
            .collect::<Vec<_>>(),
        data
    );
}

#[test]
fn a_host_process_may_send_as_much_at_once_as_loopback_takes() {
    // The MTU of lo is 65536: its TCP knows no smaller one, and there is no path MTU discovery on it.
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:5300"));
    let mut tcp = w.connect(at("127.0.0.1:5000"), at("127.0.0.1:8080"));
    let data: Vec<u8> = (0..60_000_u32)
        .map(|i| u8::try_from(i % 249).unwrap())
        .collect();
    // A super-packet.
    let out = w.forward_frame(Frame::super_packet(tcp.packet(PSH | ACK, &data), 32_741));
    let segments = out.segments();
    assert!(segments.iter().all(|s| s.0.len() <= 1500), "{:?}", out.vnet);
    assert_eq!(
        segments
            .iter()
            .flat_map(|s| s.payload().to_vec())
            .collect::<Vec<_>>(),
        data
    );
    // One large segment that needs no segmentation on lo.
    let step = w.step(Frame::partial(tcp.packet(PSH | ACK, &data[..20_000])));
    let arrived = match step.verdict {
        Verdict::Forward => step.frame.segments(),
        _ => step.generated.iter().map(|f| f.packet.clone()).collect(),
    };
    assert!(
        arrived.iter().all(|p| p.0.len() <= 1500),
        "{:?}",
        step.verdict
    );
    let octets: usize = if arrived.iter().any(Packet::is_fragment) {
        let whole = reassemble(&arrived).expect("complete");
        whole.assert_valid();
        whole.payload().len()
    } else {
        arrived.iter().map(|p| p.payload().len()).sum()
    };
    assert_eq!(octets, 20_000);
    // A datagram, with DF as Linux sets it.
    let big = Packet::udp(at("127.0.0.1:5000"), at("127.0.0.1:5353"), &data[..30_000]).with_df();
    let step = w.step(Frame::partial(big));
    let fragments: Vec<Packet> = step.generated.iter().map(|f| f.packet.clone()).collect();
    let whole = reassemble(&fragments).unwrap_or_else(|| panic!("{:?}", step.verdict));
    whole.assert_valid();
    assert_eq!(whole.payload(), &data[..30_000]);
    assert!(
        fragments
            .iter()
            .all(|f| f.0.len() <= 1500 && !f.dont_fragment())
    );
}

/// After a restart of the daemon no flow is known.
fn restarted_with_publication() -> World {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w
}

#[test]
fn a_published_connection_survives_a_restart_when_the_client_speaks_first() {
    let mut w = restarted_with_publication();
    let (client, called) = (at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    let up = w.forward(Packet::tcp(
        client,
        called,
        PSH | ACK,
        500,
        900,
        b"still there?",
    ));
    assert_eq!(
        (up.source(), up.destination()),
        (client, at("172.17.0.2:80"))
    );
    let down = w.forward(Packet::tcp(
        at("172.17.0.2:80"),
        client,
        PSH | ACK,
        900,
        512,
        b"yes",
    ));
    assert_eq!((down.source(), down.destination()), (called, client));
}

#[test]
fn a_published_connection_survives_a_restart_when_the_server_speaks_first() {
    let mut w = restarted_with_publication();
    let (client, called) = (at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    let down = w.forward(Packet::tcp(
        at("172.17.0.2:80"),
        client,
        PSH | ACK,
        900,
        512,
        b"news",
    ));
    assert_eq!((down.source(), down.destination()), (called, client));
    let up = w.forward(Packet::tcp(client, called, ACK, 512, 904, b""));
    assert_eq!(
        (up.source(), up.destination()),
        (client, at("172.17.0.2:80"))
    );
}

#[test]
fn an_uplink_that_changes_back_and_forth_leaves_nothing_behind() {
    let mut w = World::new();
    let egress = |if_index, source| {
        Some(tunbridge::forwarder::Egress {
            if_index,
            source: IpAddr::V4(source),
            mtu: 1500,
        })
    };
    for round in 0..20_u16 {
        let (uplink, source) = if round % 2 == 0 {
            (2, HOST)
        } else {
            (3, HOST2)
        };
        w.host.set_route("0.0.0.0/0", egress(uplink, source));
        w.forwarder.routes_changed();
        w.step(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:9000"), b""));
        let seen = w.udp_exchange(at("172.17.0.2:1"), at("10.20.0.1:9000"));
        assert_eq!(*seen.ip(), source);
        assert_eq!(w.host.ports(), [(Protocol::Udp, seen.port())]);
        assert_eq!(w.tables(), (1, 1));
    }
}

#[test]
fn syn_flood_at_a_published_port_does_not_cost_established_clients() {
    let mut w = World::with_config(Config {
        max_flows_per_endpoint: 200,
        ..Config::default()
    });
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let mut tcp = w.connect(at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    for i in 0..2_000_u32 {
        let from = SocketAddrV4::new(Ipv4Addr::from(0x0a14_0000 + i), 1000);
        w.step(Packet::tcp(from, at("10.9.0.10:8080"), SYN, i, 0, b""));
    }
    assert!(w.tables().0 <= 200);
    w.forward(tcp.packet(PSH | ACK, b"up"));
    w.forward(tcp.reply(PSH | ACK, b"down"));
    // New clients get in, and the container's own connections too.
    w.connect(at("10.9.0.51:5000"), at("10.9.0.10:8080"));
    w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
}

#[test]
fn one_container_never_gets_the_last_ports() {
    // RFC 6888 REQ-4: seven eighths at most, even towards one destination.
    let mut w = pool(61_000..=61_015);
    let server = at("10.20.0.1:9000");
    let mut had = 0;
    for port in 1000..1040 {
        let step = w.step(Packet::udp(SocketAddrV4::new(C1, port), server, b""));
        had += usize::from(step.verdict == Verdict::Forward);
    }
    assert_eq!(had, 14);
    w.udp_exchange(at("172.17.0.3:1000"), server);
    w.udp_exchange(at("172.18.0.2:1000"), server);
}

/// Orphans of one source: how many of `count` are held before the rest is refused.
#[track_caller]
fn held(config: Config, payload: usize, count: u16) -> usize {
    let mut w = World::with_config(config);
    let whole = Packet::udp(
        at("172.17.0.2:1"),
        at("10.20.0.1:9000"),
        &vec![7; payload + 8],
    );
    let orphan = &whole.fragments(payload.next_multiple_of(8).max(8))[1];
    let mut held = 0;
    for ident in 0..count {
        let step = w.step(orphan.clone().with_ident(ident));
        match step.verdict {
            Verdict::Consumed => held += 1,
            Verdict::Drop(reason) => assert_eq!(reason.name(), "fragment_limit"),
            other => panic!("{other:?}"),
        }
    }
    held
}

#[test]
fn each_limit_on_fragments_holds() {
    let config = Config::default;
    assert_eq!(
        held(
            Config {
                max_held_per_source: 4,
                ..config()
            },
            64,
            50
        ),
        4
    );
    assert_eq!(
        held(
            Config {
                max_fragmented_per_source: 5,
                ..config()
            },
            64,
            50
        ),
        5
    );
    assert_eq!(
        held(
            Config {
                max_fragmented: 6,
                ..config()
            },
            64,
            50
        ),
        6
    );
    // Each is 10 + 20 + 16 octets long.
    assert_eq!(
        held(
            Config {
                max_held_bytes_per_source: 1000,
                ..config()
            },
            64,
            50
        ),
        21
    );
    assert_eq!(
        held(
            Config {
                max_held_bytes: 1000,
                ..config()
            },
            64,
            50
        ),
        21
    );
}
