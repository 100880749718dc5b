//! From a container to the outside.

use crate::lab::{FAR, FAR_TOO, GATEWAY, HOST, Lab, WAN, World, in_every_world};
use crate::tunbridge_under_test::big;

const FAR_SERVER: &str = "192.0.2.9:7000";
const FAR_SERVER_TOO: &str = "192.0.2.10:7000";

in_every_world! {
    a_tcp_server_outside_sees_the_host
    a_udp_server_outside_sees_the_host
    a_container_pings_the_outside
    traceroute_shows_the_gateway_and_then_the_router
    a_refused_connection_is_refused_at_once
    a_big_download_and_upload_arrive_intact
    ten_thousand_short_connections_succeed
    udp_datagrams_of_4000_octets_pass_both_ways
    fifteen_thousand_connections_stand_at_once_and_another_container_still_gets_through
    two_containers_use_the_same_source_port_to_the_same_server
    a_mapping_is_the_same_towards_two_servers
}

fn a_tcp_server_outside_sees_the_host(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    let answer = c1.tcp(FAR_SERVER).unwrap();
    assert_eq!(answer.saw_address(), HOST);
    assert_eq!(answer.client.ip().to_string(), "172.17.0.2");
}

fn a_udp_server_outside_sees_the_host(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    assert_eq!(c1.udp(FAR_SERVER).unwrap().saw_address(), HOST);
}

fn a_container_pings_the_outside(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");

    let reply = c1.ping(FAR).expect_success();
    // The server sends 64; the router and the forwarder each take one.
    assert!(reply.stdout.contains("ttl=62"), "{}", reply.stdout);
}

fn traceroute_shows_the_gateway_and_then_the_router(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");

    for method in ["-U", "-I", "-T"] {
        assert_eq!(
            c1.hops(method, FAR),
            [GATEWAY, WAN, FAR],
            "traceroute {method}"
        );
    }
}

fn a_refused_connection_is_refused_at_once(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");

    assert!(
        c1.tcp(FAR_SERVER)
            .unwrap_err()
            .contains("Connection refused"),
        "RST comes through"
    );
    assert!(
        c1.udp(FAR_SERVER)
            .unwrap_err()
            .contains("Connection refused"),
        "ICMP 3/3 comes through"
    );
}

fn a_big_download_and_upload_arrive_intact(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    c1.transfer("get", FAR_SERVER, big(world)).expect_success();
    c1.transfer("put", FAR_SERVER, big(world)).expect_success();
}

fn ten_thousand_short_connections_succeed(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    let outcome = c1
        .many_short_connections(FAR_SERVER, 10_000)
        .expect_success();
    assert!(
        outcome.stdout.starts_with("ok=10000 failed=0"),
        "{}",
        outcome.stdout
    );
}

fn udp_datagrams_of_4000_octets_pass_both_ways(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    for octets in [1472, 1473, 4000, 20_000] {
        assert_eq!(
            c1.udp_of(octets, FAR_SERVER).unwrap().saw_address(),
            HOST,
            "{octets} octets"
        );
    }
}

fn fifteen_thousand_connections_stand_at_once_and_another_container_still_gets_through(
    world: World,
) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let c2 = tunbridge.container("c2");
    let _server = lab.far().serve(&["7000"]);

    let held = c1.hold_connections(FAR_SERVER, 15_000);
    assert!(
        held.report.starts_with("held=15000 echoed=15000 failed=0"),
        "{}",
        held.report
    );
    c2.many_short_connections(FAR_SERVER, 100).expect_success();
    held.release();
}

fn two_containers_use_the_same_source_port_to_the_same_server(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let c2 = tunbridge.container("c2");
    let _server = lab.far().serve(&["7000"]);

    for protocol in ["tcp", "udp"] {
        let one = c1.ask_from_port(protocol, 40_000, FAR_SERVER).unwrap();
        let two = c2.ask_from_port(protocol, 40_000, FAR_SERVER).unwrap();
        assert_eq!((one.client.port(), two.client.port()), (40_000, 40_000));
        assert_ne!(
            one.saw, two.saw,
            "{protocol}: each has an external port of its own"
        );
    }
}

fn a_mapping_is_the_same_towards_two_servers(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    for protocol in ["tcp", "udp"] {
        let answers = c1.ask_each_from_one_port(protocol, &[FAR_SERVER, FAR_SERVER_TOO]);
        assert_eq!(answers[1].at.ip().to_string(), FAR_TOO);
        assert_eq!(
            answers[0].saw, answers[1].saw,
            "{protocol}: endpoint-independent (RFC 4787 REQ-1)"
        );
    }
}

#[test]
fn a_host_service_on_a_port_that_a_mapping_uses_is_reachable_at_once() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    for protocol in ["tcp", "udp"] {
        let ask = |to: &str| {
            if protocol == "tcp" {
                c1.tcp(to)
            } else {
                c1.udp(to)
            }
        };
        let external = ask(FAR_SERVER).unwrap().saw.port();
        let _host_service = lab.host().serve(&[&external.to_string()]);

        let to_host = format!("{HOST}:{external}");
        let lan = lab.lan();
        let answer = if protocol == "tcp" {
            lan.tcp(&to_host)
        } else {
            lan.udp(&to_host)
        }
        .unwrap();
        assert_eq!(
            answer.at.to_string(),
            to_host,
            "{protocol}: the host's own service answers"
        );
        let next = ask(FAR_SERVER).unwrap();
        assert_ne!(
            next.saw.port(),
            external,
            "{protocol}: the container has moved to another port"
        );
    }
}

#[test]
fn an_uplink_that_appears_later_is_used() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    lab.host()
        .shell(
            "ip link add late0 type veth peer name late1 netns wan && ip link set late0 up && \
             ip address add 198.18.1.2/24 dev late0 && ip -n wan link set late1 up && \
             ip -n wan address add 198.18.1.1/24 dev late1 && ip route add 192.0.2.10 via 198.18.1.1",
        )
        .expect_success();

    assert_eq!(c1.tcp(FAR_SERVER).unwrap().saw_address(), HOST);
    assert_eq!(c1.tcp(FAR_SERVER_TOO).unwrap().saw_address(), "198.18.1.2");
    lab.host()
        .run(&["ip", "link", "delete", "late0"])
        .expect_success();
    assert_eq!(
        c1.tcp(FAR_SERVER_TOO).unwrap().saw_address(),
        HOST,
        "and no longer once it is gone"
    );
}

#[test]
fn an_uplink_without_ethernet_header_is_used() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);

    // A tunnel whose interfaces carry bare IP packets. Neither end connects its socket: the first
    // one up speaks before the other listens (IPv6 does), and a refusal must not end it.
    let end = |peer: &str, own: &str, address: &str| {
        [
            format!("UDP-DATAGRAM:{peer}:9999,bind={own}:9999"),
            format!("TUN:{address}/24,tun-name=bare0,iff-no-pi,iff-up"),
        ]
    };
    let [datagrams, tun] = end(HOST, WAN, "198.18.2.1");
    let _there = lab.wan().start(&["socat", &datagrams, &tun]);
    let [datagrams, tun] = end(WAN, HOST, "198.18.2.2");
    let _here = lab.host().start(&["socat", &datagrams, &tun]);
    assert!(
        crate::lab::eventually(std::time::Duration::from_secs(5), || lab
            .host()
            .ping("198.18.2.1")
            .succeeded()),
        "the tunnel itself works"
    );
    lab.host()
        .run(&["ip", "route", "add", "192.0.2.10", "via", "198.18.2.1"])
        .expect_success();

    assert_eq!(c1.tcp(FAR_SERVER_TOO).unwrap().saw_address(), "198.18.2.2");
    assert_eq!(
        c1.udp_of(4000, FAR_SERVER_TOO).unwrap().saw_address(),
        "198.18.2.2"
    );
    c1.ping(FAR_TOO).expect_success();
}
