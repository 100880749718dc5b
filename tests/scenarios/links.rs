//! Links on a network with icc off: exactly the linked ports, one way, with all that belongs to a connection.

use std::net::{IpAddr, Ipv4Addr};

use tunbridge::forwarder::{LinkPolicy, Protocol};

use super::networks::on;
use super::packet::*;
use super::world::*;

/// A third container of the first network.
const C4: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);

/// C1 is linked to C2's TCP ports 80 to 82 and UDP port 53; icc is off.
fn linked() -> World {
    let mut w = World::new();
    w.change(|policy| {
        policy.networks[0].icc = false;
        let mut third = policy.endpoints[0].clone();
        third.id.0 = 40;
        third.addresses = vec![IpAddr::V4(C4)];
        policy.endpoints.push(third);
        for (protocol, ports) in [
            (Protocol::Tcp, 81..=82),
            (Protocol::Udp, 53..=53),
            (Protocol::Tcp, 80..=80),
        ] {
            policy.links.push(LinkPolicy {
                client: endpoint_of(C1),
                server: endpoint_of(C2),
                protocol,
                ports,
            });
        }
    });
    w
}

#[test]
fn a_link_opens_the_servers_ports_to_the_client_only() {
    // TestLegacyLink, docker-bridge.md §6.5
    let mut w = linked();
    for port in [80, 81, 82] {
        let mut tcp = w.connect(on(C1, 5000), on(C2, port));
        assert_eq!(
            (tcp.seen_client, tcp.seen_server),
            (on(C1, 5000), on(C2, port))
        );
        w.forward(tcp.packet(PSH | ACK, b"question"));
        w.forward(tcp.reply(PSH | ACK, b"answer"));
    }
    assert_eq!(w.udp_exchange(on(C1, 5000), on(C2, 53)), on(C1, 5000));
    let syn = |from, to| Packet::tcp(from, to, SYN, 1, 0, b"");
    for packet in [
        syn(on(C1, 1), on(C2, 79)),
        syn(on(C1, 1), on(C2, 83)),
        syn(on(C1, 1), on(C2, 53)),
        Packet::udp(on(C1, 1), on(C2, 80), b""),
        Packet::echo_request(C1, C2, 1, 1, b""),
        Packet::ip(C1, C2, 132, &[0; 20]),
        // Not the other way, from whatever port, but for answers.
        syn(on(C2, 1), on(C1, 80)),
        syn(on(C2, 80), on(C1, 6000)),
        Packet::udp(on(C2, 53), on(C1, 5001), b""),
        // Nobody else.
        syn(on(C4, 1), on(C2, 80)),
        syn(on(C1, 1), on(C4, 80)),
        syn(on(C2, 1), on(C4, 80)),
    ] {
        assert_eq!(w.drops(&packet), "icc_disabled", "{packet:?}");
    }
    assert_eq!(w.drops(syn(on(C1, 1), on(C3, 80))), "inter_network");
    assert_eq!(w.tables(), (4, 0), "no port of the host is spent on it");
    // The way out is as ever.
    w.connect(on(C1, 5000), on(S1, 80));
}

#[test]
fn errors_and_fragments_follow_a_linked_connection() {
    let mut w = linked();
    let sent = Packet::udp(on(C1, 5000), on(C2, 53), b"question");
    let seen = w.forward(&sent);
    let error = w.forward(Packet::icmp_error(C2, C1, UNREACHABLE, 3, 0, &seen.0));
    assert_eq!((error.src(), error.dst()), (C2, C1));
    let answer = w.forward(Packet::udp(on(C2, 53), on(C1, 5000), b"answer"));
    let error = w.forward(Packet::icmp_error(C1, C2, UNREACHABLE, 3, 0, &answer.0));
    assert_eq!((error.src(), error.dst()), (C1, C2));
    // About a connection that is none, and by somebody who has no part in it.
    let other = Packet::udp(on(C1, 5000), on(C2, 54), b"question");
    let error = Packet::icmp_error(C2, C1, UNREACHABLE, 3, 0, &other.0);
    assert_eq!(w.drops(error), "icc_disabled");
    let error = Packet::icmp_error(C4, C1, UNREACHABLE, 3, 0, &seen.0);
    assert_eq!(w.drops(error), "icmp_no_flow");

    for (from, to) in [(on(C1, 5000), on(C2, 53)), (on(C2, 53), on(C1, 5000))] {
        let whole = Packet::udp(from, to, &[7; 3000]).without_df().with_ident(5);
        let mut seen = Vec::new();
        for piece in whole.fragments(1480) {
            seen.push(w.forward(piece));
        }
        assert_eq!(reassemble(&seen).unwrap().payload(), &[7; 3000]);
    }
    let whole = Packet::udp(on(C2, 54), on(C1, 5000), &[7; 3000]).without_df();
    for piece in whole.fragments(1480) {
        assert_eq!(w.drops(piece), "icc_disabled");
    }
}

#[test]
fn a_removed_link_ends_its_connections() {
    // TestRemoveLegacyLink
    let mut w = linked();
    let mut ends = w.connect(on(C1, 5000), on(C2, 81));
    let mut stays = w.connect(on(C1, 5000), on(C2, 80));
    w.change(|policy| policy.links.retain(|link| *link.ports.start() != 81));
    assert_eq!(w.tables().0, 1);
    assert_eq!(w.drops(ends.packet(PSH | ACK, b"more")), "icc_disabled");
    assert_eq!(w.drops(ends.reply(PSH | ACK, b"more")), "icc_disabled");
    w.forward(stays.packet(PSH | ACK, b"more"));
    w.forward(stays.reply(PSH | ACK, b"more"));
    w.change(|policy| policy.links.clear());
    assert_eq!(w.tables().0, 0);
}

#[test]
fn a_link_is_for_the_endpoints_it_names_and_ends_with_them() {
    for gone in [C1, C2] {
        let mut w = linked();
        w.connect(on(C1, 5000), on(C2, 80));
        w.change(|policy| {
            let named = |e: &&mut tunbridge::forwarder::EndpointPolicy| e.id == endpoint_of(gone);
            policy.endpoints.iter_mut().find(named).unwrap().id.0 = 99;
        });
        assert_eq!(w.tables().0, 0);
        let syn = Packet::tcp(on(C1, 5001), on(C2, 80), SYN, 1, 0, b"");
        assert_eq!(w.drops(syn), "icc_disabled");
    }
}

#[test]
fn with_icc_links_mean_nothing() {
    let mut w = linked();
    w.connect(on(C1, 5000), on(C2, 80));
    w.change(|policy| policy.networks[0].icc = true);
    assert_eq!(w.tables().0, 0, "neighbours need no flow");
    w.forward(Packet::tcp(on(C1, 5000), on(C2, 80), ACK, 1, 1, b""));
    w.forward(Packet::udp(on(C2, 1), on(C4, 1), b""));
    assert_eq!(w.tables().0, 0);
}

#[test]
fn a_link_does_not_lead_to_another_network() {
    let mut w = linked();
    w.change(|policy| {
        policy.networks[1].icc = false;
        policy.links.push(LinkPolicy {
            client: endpoint_of(C1),
            server: endpoint_of(C3),
            protocol: Protocol::Tcp,
            ports: 80..=80,
        });
    });
    let syn = Packet::tcp(on(C1, 5000), on(C3, 80), SYN, 1, 0, b"");
    assert_eq!(w.drops(syn), "inter_network");
}

#[test]
fn a_published_port_needs_no_link() {
    let mut w = linked();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    let tcp = w.connect(on(C4, 5000), on(HOST, 8080));
    assert_eq!(*tcp.seen_client.ip(), GATEWAY);
}

#[test]
fn an_internal_network_has_links_too() {
    let mut w = linked();
    w.connect(on(C1, 5000), on(C2, 80));
    w.change(|policy| policy.networks[0].internal = true);
    assert_eq!(w.tables().0, 1);
    w.connect(on(C1, 5001), on(C2, 80));
    let syn = Packet::tcp(on(C1, 5000), on(C2, 79), SYN, 1, 0, b"");
    assert_eq!(w.drops(syn), "icc_disabled");
}
