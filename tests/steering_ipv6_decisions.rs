//! Every decision of the steering programs about IPv6, packet by packet: nobody is behind the TUN, so
//! what it gets can be read.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use steering_lab::bench::Bench;
use steering_lab::frames::{self, Sniffer};
use steering_lab::frames6::{
    NS, RA, SOURCE_MAC, discovery, extension, fragment, icmp6, ipv6, ipv6_hops, tcp6, udp_segment6,
    udp6,
};
use steering_lab::ipv6::{C1_6, C1_LL, C2_6, GATEWAY6, UPLINK6, WAN6};
use steering_lab::nat::tuple;
use steering_lab::tun::{Tun, VNET};
use steering_lab::{ICMPV6, TCP, UDP, UPLINK, WAN, eventually, ip};
use tunbridge::steering::LocalAddress;

const SYN: u8 = 2;
const ACK: u8 = 16;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const OPTIONS: u8 = 60;

/// A socket that waits for half a second.
fn listen(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket
}

#[test]
fn an_uplink_diverts_published_ports_whatever_headers_come_first() {
    Bench::run6(|mut bench| {
        bench
            .steering
            .publish(UDP, ip(UPLINK6), 8080..=8081)
            .unwrap();
        bench.steering.publish(TCP, ip("::"), 8080..=8080).unwrap();
        let segment = udp_segment6(WAN6, 9, UPLINK6, 8080, b"x");
        let behind = |first: u8, headers: &[&[u8]]| {
            ipv6(
                WAN6,
                UPLINK6,
                first,
                &[&headers.concat()[..], &segment].concat(),
            )
        };
        let authentication = [
            UDP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        for packet in [
            udp6(WAN6, 9, UPLINK6, 8080, b"x"),
            udp6(WAN6, 9, UPLINK6, 8081, b""),
            tcp6(WAN6, 9, UPLINK6, 8080, SYN),
            behind(HOP_BY_HOP, &[&extension(UDP)]),
            behind(
                HOP_BY_HOP,
                &[
                    &extension(OPTIONS),
                    &extension(ROUTING),
                    &extension(OPTIONS),
                    &extension(UDP),
                ],
            ),
            behind(AH, &[&authentication]),
            behind(OPTIONS, &[&[UDP, 1][..], &[1, 12], &[0; 12]]),
            behind(OPTIONS, &[&extension(OPTIONS).repeat(7), &extension(UDP)]),
            behind(FRAGMENT, &[&fragment(UDP, 0, false)]), // atomic
            behind(FRAGMENT, &[&fragment(UDP, 0, true)]),
            behind(
                HOP_BY_HOP,
                &[
                    &extension(FRAGMENT),
                    &fragment(OPTIONS, 0, true),
                    &extension(UDP),
                ],
            ),
            ipv6(
                WAN6,
                UPLINK6,
                FRAGMENT,
                &[&fragment(UDP, 8, false)[..], &[0; 24]].concat(),
            ),
            ipv6(
                WAN6,
                UPLINK6,
                FRAGMENT,
                &[&fragment(TCP, 800, true)[..], &[0; 24]].concat(),
            ),
            ipv6(
                WAN6,
                UPLINK6,
                FRAGMENT,
                &[&fragment(ICMPV6, 8, true)[..], &[0; 24]].concat(),
            ),
            ipv6(
                WAN6,
                UPLINK6,
                FRAGMENT,
                &[&fragment(OPTIONS, 8, true)[..], &[0; 24]].concat(),
            ),
        ] {
            bench.wan_sends6(&packet);
            assert!(bench.is_diverted(&packet), "{packet:x?}");
        }
        for packet in [
            udp6(WAN6, 9, UPLINK6, 8082, b"x"),         // not published
            tcp6(WAN6, 9, UPLINK6, 8081, SYN),          // only UDP is
            udp6(WAN6, 9, "2001:db8:1::9", 8080, b"x"), // somebody else's
            udp6(WAN6, 9, "ff02::1", 8080, b"x"),       // multicast
            udp6(WAN6, 9, "ff0e::1", 8080, b"x"),
            udp6("fe80::9", 9, UPLINK6, 8080, b"x"), // link-local is the host's own
            udp6("fe80::9", 9, "fe80::1", 8080, b"x"),
            udp6("::ffff:192.0.2.2", 9, UPLINK6, 8080, b"x"),
            udp6(WAN6, 9, "::ffff:192.0.2.1", 8080, b"x"),
            udp6(WAN6, 9, "::1", 8080, b"x"),
            ipv6(WAN6, UPLINK6, UDP, &[0, 9]), // cut short
            ipv6(WAN6, UPLINK6, ESP, &segment),
            behind(59, &[]),
            behind(OPTIONS, &[&extension(OPTIONS).repeat(8), &extension(UDP)]), // too many
            behind(OPTIONS, &[&[UDP, 9, 0, 0, 0, 0, 0, 0]]),                    // beyond the end
            ipv6(
                WAN6,
                UPLINK6,
                FRAGMENT,
                &[&fragment(47, 8, true)[..], &[0; 24]].concat(),
            ), // GRE
            ipv6(WAN6, UPLINK6, FRAGMENT, &fragment(UDP, 0, true)),
            discovery(
                NS,
                WAN6,
                UPLINK6,
                UPLINK6,
                Some((SOURCE_MAC, bench.lab.wan.mac("up0"))),
            ),
        ] {
            bench.wan_sends6(&packet);
            assert_eq!(bench.diverted(), None, "{packet:x?}");
        }
        bench
            .steering
            .unpublish(UDP, ip(UPLINK6), 8080..=8081)
            .unwrap();
        bench.wan_sends6(&udp6(WAN6, 9, UPLINK6, 8080, b"x"));
        assert_eq!(bench.diverted(), None);
        assert!(bench.lab.wan.ok("ping -6 -c 1 -W 1 2001:db8:1::1"));
    });
}

#[test]
fn a_port_published_for_one_family_is_not_for_the_other() {
    Bench::run6(|mut bench| {
        bench.steering.publish(UDP, ip("0.0.0.0"), 53..=53).unwrap();
        bench.steering.publish(UDP, ip("::"), 54..=54).unwrap();
        let [v4, v6] = [53, 54].map(|port| {
            (
                frames::udp(WAN, 9, UPLINK, port, b"x"),
                udp6(WAN6, 9, UPLINK6, port, b"x"),
            )
        });
        for (packet, ours) in [(&v4.0, true), (&v6.0, false)] {
            bench.wan_sends(packet);
            assert_eq!(bench.is_diverted(packet), ours);
        }
        for (packet, ours) in [(&v4.1, false), (&v6.1, true)] {
            bench.wan_sends6(packet);
            assert_eq!(bench.is_diverted(packet), ours);
        }
    });
}

#[test]
fn a_bit_written_through_the_mapping_is_seen_by_the_programs_at_once() {
    Bench::run6(|bench| {
        let ports = bench.steering.external_ports();
        let udp = udp6(WAN6, 9, UPLINK6, 61_000, b"x");
        let tcp = tcp6(WAN6, 9, UPLINK6, 61_000, ACK);
        let echo_reply = icmp6(WAN6, UPLINK6, 129, 0, [0, 77, 0, 1], b"x");
        for (protocol, packet) in [(UDP, udp), (TCP, tcp), (ICMPV6, echo_reply)] {
            bench.wan_sends6(&packet);
            assert!(!bench.is_diverted(&packet), "{protocol}");
            let port = if protocol == ICMPV6 { 77 } else { 61_000 };
            ports.set(protocol, port, true);
            bench.wan_sends6(&packet);
            assert!(bench.is_diverted(&packet), "{protocol}");
            ports.set(protocol, port, false);
        }
        // An echo request is the host's even if its identifier is in use.
        ports.set(ICMPV6, 7, true);
        bench.wan_sends6(&icmp6(WAN6, UPLINK6, 128, 0, [0, 7, 0, 1], b"x"));
        assert_eq!(bench.diverted(), None);
    });
}

/// A port that was bound a moment ago. A process that another test is just starting has a copy of the closed
/// socket until it executes its program.
fn bind_again(address: &str) -> TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address) {
            return listener;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    TcpListener::bind(address).unwrap()
}

#[test]
fn a_socket_of_the_host_wins_over_a_mapping() {
    Bench::run6(|bench| {
        let ports = bench.steering.external_ports();
        ports.set(UDP, 7000, true);
        ports.set(TCP, 7000, true);
        let udp = udp6(WAN6, 9, UPLINK6, 7000, b"x");
        let tcp = tcp6(WAN6, 9, UPLINK6, 7000, ACK);
        bench.wan_sends6(&udp);
        assert!(bench.is_diverted(&udp));
        let socket = listen("[::]:7000");
        bench.wan_sends6(&udp);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
        assert_eq!(bench.count("host_socket_won"), 1);
        // It takes IPv4, too.
        bench.wan_sends(&frames::udp(WAN, 9, UPLINK, 7000, b"xy"));
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 2);
        assert_eq!(bench.count("host_socket_won"), 2);
        // Connected to somebody else, it does not want this sender's packets.
        socket.connect("[2001:db8:1::77]:1").unwrap();
        bench.wan_sends6(&udp);
        assert!(bench.is_diverted(&udp));
        // An IPv4 socket wants no IPv6.
        let ipv4 = TcpListener::bind("0.0.0.0:7000").unwrap();
        bench.wan_sends6(&tcp);
        assert!(bench.is_diverted(&tcp));
        drop(ipv4);
        let listener = bind_again("[::]:7000");
        bench.wan_sends6(&tcp);
        assert!(!bench.is_diverted(&tcp));
        bench.wan_sends(&frames::tcp(WAN, 9, UPLINK, 7000, ACK));
        assert_eq!(bench.diverted(), None);
        drop(listener);
        bench.wan_sends6(&tcp);
        assert!(bench.is_diverted(&tcp));
    });
}

#[test]
fn an_icmpv6_error_follows_the_packet_it_quotes() {
    Bench::run6(|mut bench| {
        let ports = bench.steering.external_ports();
        ports.set(UDP, 61_000, true);
        ports.set(ICMPV6, 5, true);
        bench.steering.publish(TCP, ip("::"), 8080..=8080).unwrap();
        let error = |kind, quoted: &[u8]| icmp6(WAN6, UPLINK6, kind, 0, [0, 0, 5, 0], quoted);
        let sent = udp6(UPLINK6, 61_000, WAN6, 9, b"");
        let behind = |first: u8, headers: &[u8]| {
            let segment = udp_segment6(UPLINK6, 61_000, WAN6, 9, b"");
            ipv6(UPLINK6, WAN6, first, &[headers, &segment].concat())
        };
        let cut = |packet: Vec<u8>, length: usize| packet[..length].to_vec();
        for packet in [
            error(1, &sent),
            error(
                2,
                &udp6(UPLINK6, 61_000, "2001:db8:9::1", 9, &[0; 1000])[..200],
            ),
            error(3, &sent),
            error(4, &tcp6(UPLINK6, 8080, WAN6, 9, ACK)),
            error(1, &icmp6(UPLINK6, WAN6, 128, 0, [0, 5, 0, 1], b"")),
            error(
                1,
                &behind(HOP_BY_HOP, &[extension(OPTIONS), extension(UDP)].concat()),
            ),
            error(2, &behind(FRAGMENT, &fragment(UDP, 0, true))),
            error(1, &cut(udp6(UPLINK6, 61_000, WAN6, 9, &[0; 99]), 48)),
        ] {
            bench.wan_sends6(&packet);
            assert!(bench.is_diverted(&packet), "{packet:x?}");
        }
        for packet in [
            error(1, &udp6(UPLINK6, 61_001, WAN6, 9, b"")),
            error(1, &udp6(GATEWAY6, 61_000, WAN6, 9, b"")), // not where the error came to
            error(1, &icmp6(UPLINK6, WAN6, 128, 0, [0, 6, 0, 1], b"")),
            error(1, &sent[..44]), // ports cut off
            error(2, &behind(FRAGMENT, &fragment(UDP, 80, true))),
            error(5, &sent), // no error that we know
            error(100, &sent),
            error(1, &frames::udp(UPLINK, 61_000, WAN, 9, b"")),
        ] {
            bench.wan_sends6(&packet);
            assert_eq!(bench.diverted(), None, "{packet:x?}");
        }
        let _socket = listen("[::]:61000");
        bench.wan_sends6(&error(1, &sent));
        assert_eq!(bench.diverted(), None, "the host's socket caused it");
    });
}

#[test]
fn what_the_forwarder_does_not_want_goes_on_to_the_host() {
    Bench::run6(|bench| {
        let socket = listen("[::]:7000");
        let give_back = |count: usize| {
            for _ in 0..count {
                let packet = bench.diverted().unwrap();
                bench.tun.write_packet(&packet).unwrap();
            }
        };
        // Fragments from outside: through the uplink again, marked, not diverted a second time. From a
        // container: as if its bridge had carried them.
        for (sender, address) in [(&bench.lab.wan, WAN6), (&bench.lab.c1, C1_6)] {
            sender.run(|| {
                let socket = UdpSocket::bind("[::]:0").unwrap();
                socket.send_to(&[7; 4000], (UPLINK6, 7000)).unwrap();
            });
            give_back(3);
            let (length, from) = socket.recv_from(&mut [0; 5000]).unwrap();
            assert_eq!((length, from.ip()), (4000, ip(address)));
        }
        assert_eq!(bench.count("delivered_host"), 6);
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_port_published_on_the_loopback_address_is_not_reached_from_elsewhere() {
    Bench::run6(|mut bench| {
        bench.steering.publish(UDP, ip("::1"), 53..=53).unwrap();
        for (source, destination) in [(WAN6, "::1"), (WAN6, UPLINK6), ("::1", "::1")] {
            bench.wan_sends6(&udp6(source, 9, destination, 53, b"x"));
        }
        for destination in ["::1", GATEWAY6] {
            bench.c1_sends6(&udp6(C1_6, 9, destination, 53, b"x"));
        }
        assert_eq!(bench.diverted(), None);
        assert_eq!(bench.count("martian_container"), 1);
        let local = UdpSocket::bind("[::]:0").unwrap();
        local.send_to(b"x", "[::1]:53").unwrap();
        assert_eq!(tuple(&bench.diverted().unwrap()).1.3, 53);
        local.send_to(b"x", (UPLINK6, 53)).unwrap();
        assert_eq!(bench.diverted(), None);
        // Nor does what the forwarder writes get there from elsewhere.
        bench
            .tun
            .write_packet(&udp6(WAN6, 1, "::1", 53, b""))
            .unwrap();
        eventually("tun_malformed", || bench.count("tun_malformed") == 1);
    });
}

#[test]
fn sources_that_would_deceive_the_forwarder_are_dropped_at_the_uplink() {
    Bench::run6(|mut bench| {
        bench.steering.publish(UDP, ip("::"), 8080..=8080).unwrap();
        for (number, source) in (1..).zip([C2_6, GATEWAY6, UPLINK6, "::1", "ff02::1", "::"]) {
            bench.wan_sends6(&udp6(source, 9, UPLINK6, 8080, b"x"));
            eventually(source, || bench.count("martian_uplink") == number);
        }
        assert_eq!(bench.diverted(), None);
        // The same sources towards a port of the host are the kernel's to judge.
        bench.wan_sends6(&udp6(C2_6, 9, UPLINK6, 8081, b"x"));
        assert!(bench.lab.wan.ok("ping -6 -c 1 -W 1 2001:db8:1::1"));
        assert_eq!(bench.count("martian_uplink"), 6);
        // A port published on the gateway is for containers.
        bench.wan_sends6(&udp6(WAN6, 9, GATEWAY6, 8080, b"x"));
        assert_eq!(bench.diverted(), None);
        let packet = udp6(C1_6, 9, GATEWAY6, 8080, b"x");
        bench.c1_sends6(&packet);
        assert!(bench.is_diverted(&packet));
    });
}

#[test]
fn direct_access_is_a_matter_of_the_prefix() {
    Bench::run6(|mut bench| {
        bench.lab.host.sysctl("net/ipv6/conf/all/forwarding", "1"); // an open router
        let packets = [
            udp6(WAN6, 1, C1_6, 2, b"x"),
            icmp6(WAN6, C1_6, 128, 0, [0, 7, 0, 1], b"x"),
            ipv6(
                WAN6,
                C1_6,
                FRAGMENT,
                &[&fragment(UDP, 8, true)[..], &[0; 24]].concat(),
            ),
            ipv6(WAN6, "fd00:17::99", ESP, &[0; 24]),
        ];
        let c1 = Sniffer::new(&bench.lab.c1);
        for (number, packet) in (1..).zip(&packets) {
            bench.wan_sends6(packet);
            eventually("direct_access", || bench.count("direct_access") == number);
        }
        let mut routed = bench.lab.subnet6();
        routed.routed = true;
        bench
            .steering
            .set_subnets(&[bench.lab.subnet(), routed])
            .unwrap();
        for packet in &packets {
            bench.wan_sends6(packet);
            assert!(bench.is_diverted(packet));
        }
        bench.wan_sends6(&udp6(C2_6, 1, C1_6, 2, b"x"));
        eventually("a forged source", || bench.count("martian_uplink") == 1);
        // What no router may pass on is the kernel's to refuse.
        let from_link = udp6("fe80::9", 1, C1_6, 2, b"x");
        bench.wan_sends6(&from_link);
        assert_eq!(bench.diverted(), None);
        for packet in packets.iter().chain([&from_link]) {
            assert!(
                !c1.sees(&packet[..7]),
                "only what the forwarder consents to"
            );
        }
        bench.tun.write_packet(&packets[0]).unwrap();
        assert!(c1.sees(&packets[0]));
    });
}

#[test]
fn what_is_not_understood_is_not_left_to_a_host_that_routes() {
    Bench::run6(|mut bench| {
        bench.lab.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let source = Some((SOURCE_MAC, bench.lab.wan.mac("up0")));
        let segment = udp_segment6(WAN6, 1, C1_6, 2, b"x");
        let many = [&extension(OPTIONS).repeat(8)[..], &extension(UDP), &segment].concat();
        let packets = |to: &str| {
            [
                ipv6(WAN6, to, OPTIONS, &many),
                udp6("::ffff:192.0.2.2", 1, to, 2, b"x"),
                ipv6(
                    WAN6,
                    to,
                    FRAGMENT,
                    &[&fragment(UDP, 0, true)[..], &[0; 4]].concat(),
                ),
                discovery(NS, WAN6, to, C1_6, source),
                discovery(RA, WAN6, to, C1_6, None),
            ]
        };
        let c1 = Sniffer::new(&bench.lab.c1);
        let mut number = 0;
        for routed in [false, true] {
            let mut subnet = bench.lab.subnet6();
            subnet.routed = routed;
            let subnets = [bench.lab.subnet(), subnet];
            bench.steering.set_subnets(&subnets).unwrap();
            for packet in packets(C1_6) {
                bench.wan_sends6(&packet);
                number += 1;
                eventually("direct_access", || bench.count("direct_access") == number);
                assert!(!c1.sees(&packet[..7]), "{packet:x?}");
            }
        }
        // The host's own addresses, that of the gateway too, are the host's.
        for packet in packets(GATEWAY6).iter().chain(&packets(UPLINK6)) {
            bench.wan_sends6(packet);
        }
        assert_eq!(bench.diverted(), None);
        assert_eq!(bench.count("direct_access"), number);
    });
}

#[test]
fn the_tun_delivers_to_nobody_else() {
    Bench::run6(|bench| {
        for (name, packet) in [
            ("tun_malformed", udp6(UPLINK6, 1, "ff02::1", 2, b"")),
            ("tun_malformed", udp6(UPLINK6, 1, "::", 2, b"")),
            ("tun_malformed", udp6(UPLINK6, 1, C1_LL, 2, b"")),
            ("tun_malformed", udp6("::ffff:172.17.0.2", 1, WAN6, 2, b"")),
            (
                "tun_malformed",
                udp6(UPLINK6, 1, "::ffff:172.17.0.2", 2, b""),
            ),
            ("no_endpoint", udp6(WAN6, 1, "fd00:17::99", 2, b"")),
            ("no_egress", udp6(UPLINK6, 1, "2001:db8:77::1", 2, b"")), // no route
        ] {
            let before = bench.count(name);
            bench.tun.write_packet(&packet).unwrap();
            eventually(name, || bench.count(name) == before + 1);
        }
        for name in ["delivered_host", "delivered_uplink", "delivered_container"] {
            assert_eq!(bench.count(name), 0);
        }
    });
}

#[test]
fn the_way_out_is_the_routing_tables_link_local_routers_too() {
    Bench::run6(|bench| {
        let lab = bench.lab;
        lab.wan
            .sh("ip addr add fe80::9/64 dev up0 nodad && ip addr add 2001:db8:7::7/128 dev lo");
        lab.host
            .sh("ip -6 route add default via fe80::9 dev up0 && ip -6 neigh flush dev up0");
        let wan = Sniffer::new(&lab.wan);
        for (forwarding, port) in [("1", 1), ("0", 2)] {
            lab.host.sysctl("net/ipv6/conf/tun0/forwarding", forwarding);
            for (source, destination) in [
                (UPLINK6, "2001:db8:7::7"),
                (C1_6, "2001:db8:7::7"), // routed: the address of nobody's uplink
                (UPLINK6, WAN6),
            ] {
                let packet = udp6(source, port, destination, 2, b"out");
                bench.tun.write_packet(&packet).unwrap();
                assert!(
                    wan.sees(&packet),
                    "forwarding={forwarding} {source} {destination}"
                );
            }
        }
        assert_eq!(bench.count("delivered_uplink"), 6);
    });
}

#[test]
fn an_uplink_without_ethernet_header_works_in_both_directions() {
    Bench::run6(|mut bench| {
        // A second TUN as the uplink; the test is what is beyond it.
        let beyond = Tun::open("ppp0");
        bench
            .lab
            .host
            .sh("ip addr add 2001:db8:5::1/64 dev ppp0 nodad");
        let mut local = bench.lab.local_addresses6();
        local.push(LocalAddress {
            address: ip("2001:db8:5::1"),
            if_index: beyond.if_index,
            mac: [0; 6],
            ethernet: false,
        });
        bench.steering.set_local_addresses(&local).unwrap();
        bench
            .steering
            .attach_uplink(beyond.if_index, false)
            .unwrap();
        bench.steering.external_ports().set(UDP, 61_000, true);

        let out = udp6("2001:db8:5::1", 61_000, "2001:db8:5::2", 9, b"out");
        for forwarding in ["1", "0"] {
            bench
                .lab
                .host
                .sysctl("net/ipv6/conf/tun0/forwarding", forwarding);
            bench.tun.write_packet(&out).unwrap();
            let seen = beyond.read(500).unwrap();
            assert_eq!(seen[VNET..], out, "forwarding={forwarding}");
        }
        let back = udp6("2001:db8:5::2", 9, "2001:db8:5::1", 61_000, b"back");
        beyond.write_packet(&back).unwrap();
        assert!(bench.is_diverted(&back));
        // And what the forwarder does not want goes on to the host, at that interface.
        let socket = listen("[2001:db8:5::1]:61000");
        bench.tun.write_packet(&back).unwrap();
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 4);
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_packet_may_come_in_as_one_family_and_go_out_as_the_other() {
    Bench::run6(|mut bench| {
        bench.steering.publish(UDP, ip("::"), 8080..=8080).unwrap();
        let asks = udp6(WAN6, 9, UPLINK6, 8080, b"question");
        bench.wan_sends6(&asks);
        assert!(bench.is_diverted(&asks));
        let c1 = Sniffer::new(&bench.lab.c1);
        let translated = frames::udp("172.17.0.1", 9, "172.17.0.2", 80, b"question");
        bench.tun.write_packet(&translated).unwrap();
        assert!(c1.sees(&translated));
        let wan = Sniffer::new(&bench.lab.wan);
        let answer = udp6(UPLINK6, 8080, WAN6, 9, b"answer");
        bench.tun.write_packet(&answer).unwrap();
        assert!(wan.sees(&answer));
    });
}

#[test]
fn a_container_that_loses_or_changes_its_address_is_not_delivered_to() {
    Bench::run6(|mut bench| {
        let delivered = |bench: &Bench<'_>, address: &str| {
            let before = bench.count("delivered_container");
            let refused = bench.count("no_endpoint");
            bench
                .tun
                .write_packet(&udp6(WAN6, 1, address, 2, b""))
                .unwrap();
            eventually(address, || {
                bench.count("delivered_container") + bench.count("no_endpoint") > before + refused
            });
            bench.count("delivered_container") > before
        };
        let mut port = bench.lab.container_port6(1, true);
        assert!(delivered(&bench, C1_6));
        port.addresses[1] = ip("fd00:17::9");
        bench.steering.attach_container(&port).unwrap();
        assert!(!delivered(&bench, C1_6));
        assert!(delivered(&bench, "fd00:17::9"));
        port.addresses.truncate(1);
        bench.steering.attach_container(&port).unwrap();
        assert!(!delivered(&bench, "fd00:17::9"));
        bench
            .tun
            .write_packet(&frames::udp(WAN, 1, "172.17.0.2", 2, b""))
            .unwrap();
        eventually("IPv4 stays", || bench.count("delivered_container") == 3);
        // Its link-local address is left to it.
        assert!(bench.lab.c1.ok("ping -6 -c 1 -W 1 fe80::1%eth0"));
        bench.c1_sends6(&udp6(C1_6, 1, WAN6, 2, b""));
        eventually("no more its own", || bench.count("spoof_ip") == 1);
        bench.steering.detach_container(port.if_index);
        assert_eq!(bench.steering.entries()["neighbours"], 1);
        assert_eq!(bench.steering.entries()["endpoints"], 2);
    });
}

#[test]
fn a_container_speaks_with_its_own_addresses_only() {
    Bench::run6(|bench| {
        let tb0 = bench.lab.host.mac("tb0");
        let good = udp6(C1_6, 1, WAN6, 2, b"");
        bench.c1_sends6(&good);
        assert!(bench.is_diverted(&good));
        let headers = |count: usize| {
            let chain = [
                extension(OPTIONS).repeat(count - 1),
                extension(UDP).to_vec(),
            ]
            .concat();
            let payload = [chain, udp_segment6(C1_6, 1, WAN6, 2, b"")].concat();
            ipv6(C1_6, WAN6, OPTIONS, &payload)
        };
        bench.c1_sends6(&headers(8));
        assert!(bench.is_diverted(&headers(8)));
        for (name, mac, packet) in [
            ("spoof_ip", tb0, udp6(C2_6, 1, WAN6, 2, b"")),
            ("spoof_ip", tb0, udp6(GATEWAY6, 1, WAN6, 2, b"")),
            ("spoof_ip", tb0, udp6(WAN6, 1, C2_6, 2, b"")),
            ("spoof_ip", tb0, udp6("::", 1, WAN6, 2, b"")),
            ("spoof_ip", tb0, udp6("::1", 1, WAN6, 2, b"")),
            ("spoof_ip", tb0, udp6("ff02::1", 1, WAN6, 2, b"")),
            ("spoof_ip", bench.mac(2), udp6(GATEWAY6, 1, C2_6, 2, b"")),
            ("spoof_ip", bench.mac(2), udp6("fe80::1", 1, C2_6, 2, b"")),
            (
                "spoof_ip",
                bench.mac(2),
                udp6("fe80::42:acff:fe11:3", 1, C2_6, 2, b""),
            ),
            (
                "spoof_ip",
                bench.mac(2),
                udp6("fe80:0:0:1:42:acff:fe11:2", 1, C2_6, 2, b""),
            ),
            ("malformed", tb0, udp6("::ffff:172.17.0.2", 1, WAN6, 2, b"")),
            ("malformed", tb0, udp6(C1_6, 1, "::ffff:192.0.2.2", 2, b"")),
            ("malformed", tb0, good[..39].to_vec()),
            ("malformed", tb0, [&[0x50][..], &good[1..]].concat()),
            ("malformed", tb0, headers(9)),
            ("malformed", tb0, ipv6(C1_6, WAN6, OPTIONS, &[UDP])),
            (
                "malformed",
                tb0,
                ipv6(
                    C1_6,
                    WAN6,
                    FRAGMENT,
                    &[&fragment(OPTIONS, 0, true)[..], &extension(ICMPV6)].concat(),
                ),
            ),
            ("martian_container", tb0, udp6(C1_6, 1, "::1", 2, b"")),
            ("martian_container", tb0, udp6(C1_6, 1, "::", 2, b"")),
            ("martian_container", tb0, udp6(C1_LL, 1, WAN6, 2, b"")),
        ] {
            let before = bench.count(name);
            bench.c1_sends6_to(mac, &packet);
            eventually(name, || bench.count(name) == before + 1);
            assert_eq!(bench.tun.read(1), None, "{name}");
        }
        // A tag is no way around, and IPv4 stays what it is.
        let tagged = [&[0, 7, 0x86, 0xdd][..], &good].concat();
        bench.c1_sends_frame(&frames::ethernet(bench.mac(1), tb0, 0x8100, &tagged));
        eventually("vlan_tagged", || bench.count("vlan_tagged") == 1);
        // A container joins groups before it has an address.
        let before = bench.count("spoof_ip");
        let report = ipv6_hops(
            "::",
            "ff02::16",
            HOP_BY_HOP,
            1,
            &[&extension(ICMPV6)[..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat(),
        );
        bench.c1_multicasts6(&report);
        assert_eq!(bench.diverted(), None);
        assert_eq!(bench.count("spoof_ip"), before);
    });
}
