//! Many connections at once.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tunbridge::forwarder::{
    Access, DropReason, EndpointId, LinkPolicy, NetworkId, OpenPorts, Outbox, Protocol, Published,
    Verdict,
};

use super::packet::*;
use super::world::*;

/// Gives a packet to the forwarder without comparing all counters, for speed. Returns it as it leaves.
#[track_caller]
fn pass(w: &World, out: &mut Outbox, packet: &Packet) -> Packet {
    let mut buffer = Frame::from(packet).bytes();
    let verdict = w.forwarder.handle_packet(&mut buffer, w.now, out);
    assert_eq!(verdict, Verdict::Forward, "{packet:?}");
    assert!(out.is_empty());
    Frame::parse(&buffer).packet
}

/// A three-way handshake; returns the client as the server sees it.
#[track_caller]
fn connect(
    w: &World,
    out: &mut Outbox,
    client: SocketAddrV4,
    server: SocketAddrV4,
) -> SocketAddrV4 {
    let seen = pass(w, out, &Packet::tcp(client, server, SYN, 100, 0, b"")).source();
    let back = pass(w, out, &Packet::tcp(server, seen, SYN | ACK, 900, 101, b""));
    assert_eq!((back.source(), back.destination()), (server, client));
    pass(w, out, &Packet::tcp(client, server, ACK, 101, 901, b""));
    seen
}

#[test]
fn one_container_holds_28_000_connections_to_one_destination_and_a_second_still_gets_through() {
    let mut w = World::new();
    let mut out = Outbox::new();
    let server = at("10.20.0.1:443");
    let mut seen = HashSet::new();
    for port in 32_768..60_768 {
        let client = connect(&w, &mut out, SocketAddrV4::new(C1, port), server);
        assert!(seen.insert(client), "{client} twice towards one server");
    }
    assert_eq!(w.tables(), (28_000, 28_000));
    let flows = w.forwarder.flows(w.now);
    assert!(flows.iter().all(|f| f.state == "established"));
    // The neighbour, towards the same server, and with the same source ports.
    for port in 32_768..33_268 {
        let client = connect(&w, &mut out, SocketAddrV4::new(C2, port), server);
        assert!(seen.insert(client), "{client} twice towards one server");
    }
    // The first connections are still whole.
    let client = at("172.17.0.2:32768");
    let up = pass(
        &w,
        &mut out,
        &Packet::tcp(client, server, ACK, 101, 901, b"still here"),
    );
    let down = pass(
        &w,
        &mut out,
        &Packet::tcp(server, up.source(), ACK, 901, 111, b"me too"),
    );
    assert_eq!(down.destination(), client);
    assert_eq!(w.host.ports().len(), 28_500);
    w.secs(7_500);
    assert_eq!((w.tables(), w.host.ports().len()), ((0, 0), 0));
}

#[test]
fn one_container_holds_60_000_connections_to_several_destinations() {
    // Its ephemeral ports are used again and again towards other servers, as connect() does.
    let w = World::new();
    let mut out = Outbox::new();
    for server in ["10.20.0.1:443", "10.20.0.2:443", "10.20.0.1:80"] {
        for port in 32_768..52_768 {
            connect(&w, &mut out, SocketAddrV4::new(C1, port), at(server));
        }
    }
    assert_eq!(w.tables(), (60_000, 20_000));
}

#[test]
fn containers_hold_60_000_connections_from_different_ports() {
    // More inner endpoints than there are ports in the pool: RFC 7857 §3 overlapping, never towards one destination.
    let w = World::new();
    let mut out = Outbox::new();
    let mut tuples = HashSet::new();
    for (client, server) in [
        (C1, "10.20.0.1:443"),
        (C2, "10.20.0.2:443"),
        (C3, "10.20.0.3:443"),
    ] {
        for port in 32_768..52_768 {
            let seen = connect(&w, &mut out, SocketAddrV4::new(client, port), at(server));
            assert!(tuples.insert((seen, at(server))));
        }
    }
    assert_eq!(w.tables().0, 60_000);
    // Every reply finds its own container.
    for flow in w.forwarder.flows(w.now).iter().step_by(97) {
        let (seen, server) = match flow.translated {
            (std::net::SocketAddr::V4(a), std::net::SocketAddr::V4(b)) => (a, b),
            other => panic!("{other:?}"),
        };
        let got = pass(
            &w,
            &mut out,
            &Packet::tcp(server, seen, ACK, 901, 101, b"to whom?"),
        );
        assert_eq!(std::net::SocketAddr::V4(got.destination()), flow.original.0);
    }
}

#[test]
fn forty_thousand_short_connections_one_after_another() {
    // Closing mappings linger for minutes; they are recycled before a port is refused.
    let w = World::new();
    let mut out = Outbox::new();
    let server = at("10.20.0.1:80");
    for i in 0..40_000_u32 {
        let client = SocketAddrV4::new(
            if i % 2 == 0 { C1 } else { C2 },
            u16::try_from(20_000 + i / 2 % 40_000).unwrap(),
        );
        let seen = connect(&w, &mut out, client, server);
        pass(
            &w,
            &mut out,
            &Packet::tcp(client, server, FIN | ACK, 101, 901, b""),
        );
        pass(
            &w,
            &mut out,
            &Packet::tcp(server, seen, FIN | ACK, 901, 102, b""),
        );
        pass(
            &w,
            &mut out,
            &Packet::tcp(client, server, ACK, 102, 902, b""),
        );
    }
}

#[test]
fn a_scan_of_70_000_destinations_is_refused_at_the_quota_and_the_neighbour_does_not_notice() {
    // nat.md S5. Default quotas.
    let mut w = World::new();
    let mut out = Outbox::new();
    let mut refused = 0;
    for i in 0..70_000_u32 {
        let to = SocketAddrV4::new((u32::from(S1) + i / 256 * 256 + i % 251).into(), 7);
        let mut buffer = Frame::from(Packet::udp(at("172.17.0.2:4000"), to, b"scan")).bytes();
        let verdict = w.forwarder.handle_packet(&mut buffer, w.now, &mut out);
        if matches!(verdict, Verdict::Drop(_)) {
            refused += 1;
        }
        out.drain().for_each(drop);
    }
    assert!(refused > 0, "no quota");
    let flows = w.tables().0;
    for port in 30_000..30_200 {
        let seen = pass(
            &w,
            &mut out,
            &Packet::udp(SocketAddrV4::new(C2, port), at("10.20.0.1:9000"), b"curl"),
        );
        pass(
            &w,
            &mut out,
            &Packet::udp(at("10.20.0.1:9000"), seen.source(), b"fine"),
        );
    }
    assert_eq!(w.tables().0, flows + 200);
    w.secs(400);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn a_full_table_evicts_the_least_useful_flow_first() {
    // nat.md S5: transitory, reset and unreplied flows go before established ones.
    let mut w = World::with_config(tunbridge::forwarder::Config {
        max_flows: 100,
        ..Default::default()
    });
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    for port in 0..300 {
        let client = SocketAddrV4::new(C2, 20_000 + port);
        w.step(Packet::udp(client, at("10.20.0.1:9000"), b"one-way"));
    }
    assert!(w.tables().0 <= 100, "{:?}", w.tables());
    assert_eq!(
        w.state(Protocol::Tcp, tcp.client, tcp.server),
        Some("established")
    );
    w.forward(tcp.packet(PSH | ACK, b"up"));
    w.forward(tcp.reply(PSH | ACK, b"down"));
}

/// Container number `n` of the many.
fn container(n: u16) -> Ipv4Addr {
    let [network, host] = [n % 200, n / 200].map(|n| u8::try_from(n).unwrap());
    Ipv4Addr::new(172, 19, network, host + 2)
}

/// `networks` more networks with 500 containers, every gateway mode among them, each container with a published
/// port, open ones and a link.
fn many(networks: u16) -> World {
    let mut w = World::new();
    w.change(|policy| {
        for n in 0..networks {
            let mut network = policy.networks[0].clone();
            let [.., third, _] = container(n).octets();
            network.id = NetworkId(100 + u32::from(n));
            network.families[0].subnet = format!("172.19.{third}.0/24").parse().unwrap();
            network.families[0].gateway = Some(IpAddr::V4(Ipv4Addr::new(172, 19, third, 1)));
            network.families[0].access =
                [Access::Closed, Access::Ports, Access::Open][usize::from(n % 3)];
            network.icc = n % 2 == 0;
            policy.networks.push(network);
        }
        for n in 0..(if networks == 0 { 0 } else { 500 }) {
            let mut endpoint = policy.endpoints[0].clone();
            endpoint.id = EndpointId(1000 + u32::from(n));
            endpoint.network = NetworkId(100 + u32::from(n % networks));
            endpoint.addresses = vec![IpAddr::V4(container(n))];
            endpoint.open = (0..50)
                .map(|n| OpenPorts {
                    ipv4: true,
                    protocol: Protocol::Tcp,
                    ports: 2 * n..=2 * n,
                })
                .collect();
            policy.published.push(Published {
                protocol: Protocol::Tcp,
                host_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                host_ports: 40_000 + n..=40_000 + n,
                endpoint: endpoint.id,
                container_address: endpoint.addresses[0],
                container_port: 80,
            });
            policy.links.push(LinkPolicy {
                client: endpoint.id,
                server: EndpointId(1000 + (u32::from(n) + 200) % 500),
                protocol: Protocol::Tcp,
                ports: 80..=80,
            });
            policy.endpoints.push(endpoint);
        }
    });
    w
}

/// How long 40,000 packets take that open nothing, so that each asks the policy; the best of five times.
fn lookups(w: &World, packet: &Packet, reason: DropReason) -> Duration {
    let mut out = Outbox::new();
    let mut frame = Frame::from(packet).bytes();
    let mut round = || {
        let start = std::time::Instant::now();
        for _ in 0..40_000 {
            let verdict = w.forwarder.handle_packet(&mut frame, w.now, &mut out);
            assert_eq!(verdict, Verdict::Drop(reason));
        }
        start.elapsed()
    };
    (0..5).map(|_| round()).min().unwrap()
}

#[test]
fn a_packet_costs_the_same_among_200_networks() {
    let (few, all) = (many(0), many(200));
    for (packet, reason) in [
        // Neither address is known: every subnet is a candidate.
        (Packet::udp(on(LAN), on(S1), b""), DropReason::Transit),
        (Packet::udp(on(C1), on(C3), b""), DropReason::InterNetwork),
        (Packet::udp(on(LAN), on(C1), b""), DropReason::DirectAccess),
    ] {
        let (few, all) = (
            lookups(&few, &packet, reason),
            lookups(&all, &packet, reason),
        );
        assert!(all < few * 3, "{reason:?}: {all:?} instead of {few:?}");
    }
}

const fn on(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 5000)
}

#[test]
fn five_hundred_containers_on_200_networks_send_200_000_packets() {
    let mut w = many(200);
    let mut out = Outbox::new();
    let mut seen = HashSet::new();
    for n in 0..500 {
        for port in 0..10 {
            let client = SocketAddrV4::new(container(n), 5000 + port);
            let up = pass(&w, &mut out, &Packet::udp(client, at("10.20.0.1:53"), b"?"));
            assert!(seen.insert(up.source()), "{client} shares its mapping");
            for _ in 0..38 {
                pass(&w, &mut out, &Packet::udp(client, at("10.20.0.1:53"), b"?"));
            }
            let back = Packet::udp(at("10.20.0.1:53"), up.source(), b"!");
            assert_eq!(pass(&w, &mut out, &back).destination(), client);
        }
    }
    let stats = w.forwarder.stats();
    assert_eq!(
        (stats.forwarded, stats.flows, stats.mappings),
        (200_000, 5000, 5000)
    );
    // A change that concerns one of them leaves the others alone.
    w.change(|policy| policy.endpoints.retain(|e| e.addresses[0] != container(7)));
    assert_eq!(w.tables(), (4990, 4990));
    for n in [1_u16, 499] {
        let client = SocketAddrV4::new(container(n), 5000);
        pass(&w, &mut out, &Packet::udp(client, at("10.20.0.1:53"), b"?"));
    }
    assert_eq!(w.tables(), (4990, 4990));
}
