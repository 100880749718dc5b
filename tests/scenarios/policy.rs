//! What happens to live flows when the control plane or the machine changes.

use std::net::IpAddr;

use tunbridge::forwarder::{Egress, Protocol, Verdict};

use super::packet::*;
use super::world::*;

#[test]
fn a_removed_endpoint_takes_its_flows_along() {
    let mut w = World::new();
    let gone = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let stays = w.udp_exchange(at("172.17.0.3:40000"), at("10.20.0.1:9000"));
    assert_eq!(w.tables(), (3, 3));
    w.change(|p| p.endpoints.retain(|e| e.id != endpoint_of(C1)));
    assert_eq!(w.tables(), (1, 1));
    assert_eq!(w.host.ports(), [(Protocol::Udp, stays.port())]);
    w.leaves_to_host(Packet::udp(at("10.20.0.1:9000"), gone, b"late"));
    w.leaves_to_host(Packet::tcp(
        at("10.20.0.1:80"),
        tcp.seen_client,
        ACK,
        1,
        1,
        b"late",
    ));
    w.forward(Packet::udp(at("10.20.0.1:9000"), stays, b"still there"));
}

#[test]
fn a_new_endpoint_with_an_old_address_inherits_nothing() {
    let mut w = World::new();
    let old = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    w.change(|p| p.endpoints[0].id = tunbridge::forwarder::EndpointId(99));
    assert_eq!(w.tables(), (0, 0));
    w.leaves_to_host(Packet::udp(
        at("10.20.0.1:9000"),
        old,
        b"for the previous tenant",
    ));
}

#[test]
fn an_unpublished_port_ends_its_connections() {
    let mut w = World::new();
    w.publish(Protocol::Tcp, at("0.0.0.0:8080"), at("172.17.0.2:80"));
    w.publish(Protocol::Tcp, at("0.0.0.0:8081"), at("172.17.0.2:81"));
    let mut ends = w.connect(at("10.9.0.50:5000"), at("10.9.0.10:8080"));
    let mut stays = w.connect(at("10.9.0.50:5001"), at("10.9.0.10:8081"));
    w.change(|p| p.published.retain(|r| *r.host_ports.start() != 8080));
    assert_eq!(w.tables().0, 1);
    w.leaves_to_host(ends.packet(PSH | ACK, b"more"));
    w.forward(stays.packet(PSH | ACK, b"more"));
    w.forward(stays.reply(PSH | ACK, b"more"));
}

#[test]
fn a_port_moved_to_another_container_moves_at_once() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    w.udp_exchange(at("10.9.0.50:5000"), at("10.9.0.10:5353"));
    w.change(|p| {
        p.published.clear();
    });
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.3:53"));
    let got = w.forward(Packet::udp(
        at("10.9.0.50:5000"),
        at("10.9.0.10:5353"),
        b"to the new one",
    ));
    assert_eq!(got.destination(), at("172.17.0.3:53"));
}

#[test]
fn a_port_published_over_a_live_mapping_takes_it() {
    let mut w = World::new();
    let seen = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    w.publish(
        Protocol::Udp,
        std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, seen.port()),
        at("172.17.0.3:53"),
    );
    let got = w.forward(Packet::udp(at("10.20.0.1:9000"), seen, b"published now"));
    assert_eq!(got.destination(), at("172.17.0.3:53"));
    let again = w.udp_exchange(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    assert_ne!(again.port(), seen.port());
}

#[test]
fn an_unrelated_policy_change_disturbs_nothing() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let ports = w.host.ports();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.3:53"));
    w.change(|p| p.endpoints.retain(|e| e.id != endpoint_of(C3)));
    assert_eq!((w.tables(), w.host.ports()), ((1, 1), ports));
    w.forward(tcp.packet(PSH | ACK, b"up"));
    w.forward(tcp.reply(PSH | ACK, b"down"));
}

#[test]
fn a_vanished_host_address_takes_its_mappings_along() {
    let mut w = World::new();
    w.udp_exchange(at("172.17.0.2:40000"), at("10.80.0.1:9000"));
    let stays = w.udp_exchange(at("172.17.0.2:40001"), at("10.20.0.1:9000"));
    w.change(|p| p.local_addresses.retain(|a| *a != IpAddr::V4(HOST2)));
    assert_eq!(w.tables(), (1, 1));
    w.forward(Packet::udp(at("10.20.0.1:9000"), stays, b"still there"));
}

#[test]
fn a_new_route_with_the_same_source_keeps_the_flow() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    w.host.set_route(
        "0.0.0.0/0",
        Some(Egress {
            if_index: 9,
            source: IpAddr::V4(HOST),
            mtu: 1300,
        }),
    );
    w.forwarder.routes_changed();
    let up = w.forward(tcp.packet(PSH | ACK, b"over the other link"));
    assert_eq!(up.source(), tcp.seen_client);
    w.forward(tcp.reply(PSH | ACK, b"fine"));
    // The new link's MTU counts.
    let (_, error) = w.rejects(tcp.packet(PSH | ACK, &[0; 1400]));
    assert_eq!(
        (error.icmp_type_code(), error.icmp_rest()),
        ((UNREACHABLE, 4), 1300)
    );
}

#[test]
fn a_flow_outlives_the_preference_of_its_address() {
    let mut w = World::new();
    let (client, server) = (at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let mut tcp = w.connect(client, server);
    let prefers = |source| Egress {
        if_index: 2,
        source: IpAddr::V4(source),
        mtu: 1500,
    };
    w.host.set_route("0.0.0.0/0", Some(prefers(HOST2)));
    w.forwarder.routes_changed();
    let up = w.forward(tcp.packet(PSH | ACK, b"as before"));
    assert_eq!(up.source(), tcp.seen_client);
    w.forward(tcp.reply(PSH | ACK, b"fine"));
    let fresh = w.connect(at("172.17.0.2:40001"), server);
    assert_eq!(*fresh.seen_client.ip(), HOST2);
    w.change(|p| p.local_addresses.retain(|a| *a != IpAddr::V4(HOST)));
    let step = w.step(tcp.packet(PSH | ACK, b"the address is gone"));
    if step.verdict == Verdict::Forward {
        assert_ne!(step.frame.packet.src(), HOST);
    }
}

#[test]
fn a_new_route_with_another_source_ends_the_flow() {
    let mut w = World::new();
    let client = at("172.17.0.2:40000");
    let mut tcp = w.connect(client, at("10.20.0.1:80"));
    w.host.set_route(
        "0.0.0.0/0",
        Some(Egress {
            if_index: 3,
            source: IpAddr::V4(HOST2),
            mtu: 1500,
        }),
    );
    w.forwarder.routes_changed();
    let step = w.step(tcp.packet(PSH | ACK, b"with the old address?"));
    if step.verdict == Verdict::Forward {
        assert_ne!(
            step.frame.packet.src(),
            HOST,
            "the old source must not be used on the new link"
        );
    }
    let fresh = w.connect(at("172.17.0.2:40001"), at("10.20.0.1:80"));
    assert_eq!(*fresh.seen_client.ip(), HOST2);
}

#[test]
fn a_udp_flow_goes_on_with_the_new_source() {
    let mut w = World::new();
    let client = at("172.17.0.2:40000");
    w.udp_exchange(client, at("10.20.0.1:9000"));
    w.host.set_route(
        "0.0.0.0/0",
        Some(Egress {
            if_index: 3,
            source: IpAddr::V4(HOST2),
            mtu: 1500,
        }),
    );
    w.forwarder.routes_changed();
    let first = w.step(Packet::udp(client, at("10.20.0.1:9000"), b"again"));
    let second = w.udp_exchange(client, at("10.20.0.1:9000"));
    assert_eq!(*second.ip(), HOST2, "after {first:?}");
}

#[test]
fn a_lost_route_is_noticed() {
    let mut w = World::new();
    let client = at("172.17.0.2:40000");
    w.udp_exchange(client, at("10.20.0.1:9000"));
    w.host.set_route("0.0.0.0/0", None);
    w.forwarder.routes_changed();
    let before = w.counters().forwarded;
    w.step(Packet::udp(client, at("10.20.0.1:9000"), b"into the void"));
    assert_eq!(w.counters().forwarded, before);
}

#[test]
fn a_flow_keeps_working_while_routes_change_often() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    for _ in 0..100 {
        w.forwarder.routes_changed();
        w.forward(tcp.reply(PSH | ACK, b"down"));
        w.forward(tcp.packet(PSH | ACK, b"up"));
    }
    assert_eq!(w.tables(), (1, 1));
}

#[test]
fn an_empty_policy_forwards_nothing() {
    let mut w = World::new();
    w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    w.change(|p| *p = tunbridge::forwarder::Policy::default());
    assert_eq!((w.tables(), w.host.ports()), ((0, 0), vec![]));
    let before = w.counters().forwarded;
    w.step(Packet::udp(at("172.17.0.2:1"), at("10.20.0.1:2"), b""));
    w.step(Packet::udp(at("10.20.0.1:2"), at("10.9.0.10:61000"), b""));
    assert_eq!(w.counters().forwarded, before);
}
