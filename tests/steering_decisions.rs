//! Every decision of the steering programs, packet by packet: nobody is behind the TUN, so what it
//! gets can be read.
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
use steering_lab::frames::{self, BROADCAST, MORE_FRAGMENTS, TYPE_ARP, TYPE_IPV4, TYPE_IPV6};
use steering_lab::nat::tuple;
use steering_lab::tun::{Tun, VNET};
use steering_lab::{C1, C2, GATEWAY, ICMP, TCP, UDP, UPLINK, WAN, ask_udp, eventually, ip, serve};
use tunbridge::steering::LocalAddress;

const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn an_uplink_without_ethernet_header_works_in_both_directions() {
    Bench::run(|mut bench| {
        // A second TUN as the uplink; the test is what is beyond it.
        let beyond = Tun::open("ppp0");
        bench.lab.host.sh("ip addr add 198.51.100.1/24 dev ppp0");
        let mut local = bench.lab.local_addresses();
        local.push(LocalAddress {
            address: ip("198.51.100.1"),
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

        let out = frames::udp("198.51.100.1", 61_000, "198.51.100.2", 9, b"out");
        for forwarding in ["1", "0"] {
            bench
                .lab
                .host
                .sysctl("net/ipv4/conf/tun0/forwarding", forwarding);
            bench.tun.write_packet(&out).unwrap();
            assert_eq!(
                beyond.read(500).unwrap()[VNET..],
                out,
                "forwarding={forwarding}"
            );
        }
        let back = frames::udp("198.51.100.2", 9, "198.51.100.1", 61_000, b"back");
        beyond.write_packet(&back).unwrap();
        assert!(bench.is_diverted(&back));
        // And what the forwarder does not want goes on to the host, at that interface.
        let socket = UdpSocket::bind("198.51.100.1:61000").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        bench.tun.write_packet(&back).unwrap();
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 4);
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_container_cannot_use_a_foreign_mac_ip_or_arp_entry() {
    Bench::run(|bench| {
        let gateway = bench.lab.host.mac("tb0");
        let good = frames::udp(C1, 1, WAN, 2, b"");
        bench.c1_sends(&good);
        assert!(bench.is_diverted(&good));
        for (name, frame) in [
            (
                "spoof_mac",
                frames::ethernet(bench.mac(2), gateway, TYPE_IPV4, &good),
            ),
            (
                "spoof_mac",
                frames::ethernet(
                    bench.mac(2),
                    BROADCAST,
                    TYPE_ARP,
                    &frames::arp(1, bench.mac(1), C1, C2),
                ),
            ),
            (
                "spoof_ip",
                frames::ethernet(
                    bench.mac(1),
                    gateway,
                    TYPE_IPV4,
                    &frames::udp(C2, 1, WAN, 2, b""),
                ),
            ),
            (
                "spoof_ip",
                frames::ethernet(
                    bench.mac(1),
                    bench.mac(2),
                    TYPE_IPV4,
                    &frames::udp(GATEWAY, 1, C2, 2, b""),
                ),
            ),
            (
                "spoof_ip",
                frames::ethernet(
                    bench.mac(1),
                    BROADCAST,
                    TYPE_IPV4,
                    &frames::udp("0.0.0.0", 68, "255.255.255.255", 67, b""),
                ),
            ),
            (
                "spoof_arp",
                frames::ethernet(
                    bench.mac(1),
                    BROADCAST,
                    TYPE_ARP,
                    &frames::arp(2, bench.mac(1), GATEWAY, C2),
                ),
            ),
            (
                "spoof_arp",
                frames::ethernet(
                    bench.mac(1),
                    BROADCAST,
                    TYPE_ARP,
                    &frames::arp(1, bench.mac(2), C1, C2),
                ),
            ),
            (
                "ipv6_disabled",
                frames::ethernet(bench.mac(1), gateway, TYPE_IPV6, &[0x60; 40]),
            ),
            (
                "vlan_tagged",
                frames::ethernet(
                    bench.mac(1),
                    gateway,
                    0x8100,
                    &[&[0, 7, 8, 0][..], &good].concat(),
                ),
            ),
            (
                "other_ethertype",
                frames::ethernet(bench.mac(1), gateway, 0x88cc, &[0; 40]),
            ),
            (
                "malformed",
                frames::ethernet(bench.mac(1), gateway, TYPE_IPV4, &good[..19]),
            ),
            (
                "malformed",
                frames::ethernet(
                    bench.mac(1),
                    gateway,
                    TYPE_IPV4,
                    &[&[0x44][..], &good[1..]].concat(),
                ),
            ),
            (
                "martian_container",
                frames::ethernet(
                    bench.mac(1),
                    gateway,
                    TYPE_IPV4,
                    &frames::udp(C1, 1, "127.0.0.1", 2, b""),
                ),
            ),
            (
                "martian_container",
                frames::ethernet(
                    bench.mac(1),
                    gateway,
                    TYPE_IPV4,
                    &frames::udp(C1, 1, "0.1.2.3", 2, b""),
                ),
            ),
        ] {
            let before = bench.count(name);
            bench.c1_sends_frame(&frame);
            eventually(name, || bench.count(name) == before + 1);
            assert_eq!(bench.tun.read(1), None, "{name}");
        }
        // A probe for an address, and honest speech, pass.
        let before: u64 = bench.count("spoof_arp");
        bench.c1_sends_frame(&frames::ethernet(
            bench.mac(1),
            BROADCAST,
            TYPE_ARP,
            &frames::arp(1, bench.mac(1), "0.0.0.0", C1),
        ));
        assert!(bench.lab.c1.ok("ping -c 1 -W 1 172.17.0.1"));
        assert_eq!(bench.count("spoof_arp"), before);
    });
}

#[test]
fn without_icc_containers_hear_each_other_neither_directly_nor_by_broadcast() {
    Bench::run(|mut bench| {
        for number in [1, 2] {
            let port = bench.lab.container_port(number, false);
            bench.steering.attach_container(&port).unwrap();
        }
        let socket = bench
            .lab
            .c2
            .run(|| UdpSocket::bind("0.0.0.0:7000").unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let direct = frames::udp(C1, 1, C2, 7000, b"x");
        bench.c1_sends_frame(&frames::ethernet(
            bench.mac(1),
            bench.mac(2),
            TYPE_IPV4,
            &direct,
        ));
        eventually("icc_drop", || bench.count("icc_drop") == 1);
        bench.c1_sends_frame(&frames::ethernet(
            bench.mac(1),
            BROADCAST,
            TYPE_IPV4,
            &direct,
        ));
        assert!(socket.recv(&mut [0; 9]).is_err());
        // The host still hears a broadcast, and the gateway still answers.
        let host = bench
            .lab
            .host
            .run(|| UdpSocket::bind("0.0.0.0:7001").unwrap());
        host.set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let broadcast = frames::udp(C1, 1, "172.17.255.255", 7001, b"x");
        bench.c1_sends_frame(&frames::ethernet(
            bench.mac(1),
            BROADCAST,
            TYPE_IPV4,
            &broadcast,
        ));
        assert_eq!(host.recv(&mut [0; 9]).unwrap(), 1);
        assert!(bench.lab.c1.ok("ping -c 1 -W 1 172.17.0.1"));
    });
}

#[test]
fn a_container_is_not_reached_from_outside_by_its_own_address() {
    Bench::run(|bench| {
        serve(&bench.lab.c1, 80);
        bench.lab.host.sysctl("net/ipv4/ip_forward", "1"); // an open router
        bench.lab.wan.sh("ip route add 172.17.0.0/16 via 192.0.2.1");
        assert!(bench.lab.wan.run(|| ask_udp("172.17.0.2:80", 1)).is_err());
        assert!(bench.count("direct_access") >= 1);
        assert_eq!(bench.tun.read(1), None);
        // The gateway address is one of the host's own, and the kernel's to answer for.
        assert!(bench.lab.wan.ok("ping -c 1 -W 1 172.17.0.1"));
    });
}

#[test]
fn a_routed_subnet_is_the_forwarders_to_guard() {
    Bench::run(|mut bench| {
        let mut subnet = bench.lab.subnet();
        subnet.routed = true;
        bench.steering.set_subnets(&[subnet]).unwrap();
        let packet = frames::udp(WAN, 1, C1, 2, b"x");
        bench.wan_sends(&packet);
        assert!(bench.is_diverted(&packet));
        bench.wan_sends(&frames::udp(C2, 1, C1, 2, b"x"));
        eventually("a container's address outside", || {
            bench.count("martian_uplink") == 1
        });
        assert_eq!(bench.count("direct_access"), 0);
        bench.steering.set_subnets(&[bench.lab.subnet()]).unwrap();
        bench.wan_sends(&packet);
        eventually("direct access", || bench.count("direct_access") == 1);
        bench.steering.set_subnets(&[]).unwrap();
        bench.wan_sends(&packet);
        assert_eq!(bench.diverted(), None);
        assert_eq!(bench.count("direct_access"), 1);
    });
}

#[test]
fn a_vlan_of_the_uplink_is_an_uplink_of_its_own() {
    Bench::run(|mut bench| {
        bench
            .steering
            .publish(UDP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        let packet = frames::udp(WAN, 9, UPLINK, 8080, b"x");
        let (wan, host) = (bench.lab.wan.mac("up0"), bench.lab.host.mac("up0"));
        let send = |id: u8| {
            let tagged = [&[0xe0, id, 8, 0][..], &packet].concat();
            let frame = frames::ethernet(wan, host, 0x8100, &tagged);
            bench.lab.wan.run(|| frames::send("up0", &frame).unwrap());
        };
        send(7);
        assert!(!bench.is_diverted(&packet), "nobody's VLAN");
        send(0);
        assert!(bench.is_diverted(&packet), "a priority tag is no VLAN");
        let created = bench.lab.host.ok(
            "ip link add link up0 name up0.7 type vlan id 7 && ip link set up0.7 up && \
             ip addr add 198.51.100.1/24 dev up0.7",
        );
        if !created {
            eprintln!("no VLAN interfaces on this kernel");
            return;
        }
        bench
            .steering
            .attach_uplink(bench.lab.host.if_index("up0.7"), true)
            .unwrap();
        send(7);
        assert!(bench.is_diverted(&packet), "through the VLAN's own program");
    });
}

#[test]
fn a_port_published_on_127_0_0_1_is_not_reached_from_elsewhere() {
    Bench::run(|mut bench| {
        bench
            .steering
            .publish(UDP, ip("127.0.0.1"), 53..=53)
            .unwrap();
        bench.wan_sends(&frames::udp(WAN, 9, "127.0.0.1", 53, b"x"));
        bench.wan_sends(&frames::udp(WAN, 9, UPLINK, 53, b"x"));
        bench.wan_sends(&frames::udp("127.0.0.1", 9, "127.0.0.1", 53, b"x"));
        bench.c1_sends(&frames::udp(C1, 9, "127.0.0.1", 53, b"x"));
        bench.c1_sends(&frames::udp(C1, 9, GATEWAY, 53, b"x"));
        assert_eq!(bench.diverted(), None);
        let local = UdpSocket::bind("0.0.0.0:0").unwrap();
        local.send_to(b"x", "127.0.0.1:53").unwrap();
        assert_eq!(tuple(&bench.diverted().unwrap()).1.3, 53);
        local.send_to(b"x", "127.0.0.2:53").unwrap();
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_port_published_on_the_gateway_is_not_reached_from_outside() {
    Bench::run(|mut bench| {
        bench.steering.publish(UDP, ip(GATEWAY), 53..=53).unwrap();
        bench.wan_sends(&frames::udp(WAN, 9, GATEWAY, 53, b"x"));
        assert_eq!(bench.diverted(), None);
        let packet = frames::udp(C1, 9, GATEWAY, 53, b"x");
        bench.c1_sends(&packet);
        assert!(bench.is_diverted(&packet));
    });
}

#[test]
fn sources_that_would_deceive_the_forwarder_are_dropped_at_the_uplink() {
    Bench::run(|mut bench| {
        bench
            .steering
            .publish(UDP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        for (number, source) in
            (1..).zip([C2, GATEWAY, UPLINK, "127.0.0.1", "224.0.0.1", "0.0.0.0"])
        {
            bench.wan_sends(&frames::udp(source, 9, UPLINK, 8080, b"x"));
            eventually(source, || bench.count("martian_uplink") == number);
        }
        assert_eq!(bench.diverted(), None);
        // The same sources towards a port of the host are the kernel's to judge.
        bench.wan_sends(&frames::udp(C2, 9, UPLINK, 8081, b"x"));
        bench.lab.wan.ok("ping -c 1 -W 1 192.0.2.1");
        assert_eq!(bench.count("martian_uplink"), 6);
    });
}

#[test]
fn an_uplink_diverts_published_ports_whatever_the_header_looks_like() {
    Bench::run(|mut bench| {
        bench
            .steering
            .publish(UDP, ip(UPLINK), 8080..=8081)
            .unwrap();
        bench
            .steering
            .publish(TCP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        let nops = [1; 40];
        for packet in [
            frames::udp(WAN, 9, UPLINK, 8080, b"x"),
            frames::udp(WAN, 9, UPLINK, 8081, b""),
            frames::tcp(WAN, 9, UPLINK, 8080, SYN),
            frames::ipv4_full(
                WAN,
                UPLINK,
                UDP,
                0,
                &nops,
                &frames::udp_segment(9, 8080, b"x"),
            ),
            frames::ipv4_full(
                WAN,
                UPLINK,
                UDP,
                MORE_FRAGMENTS,
                &[],
                &frames::udp_segment(9, 1, &[0; 64]),
            ),
            frames::ipv4_full(WAN, UPLINK, TCP, 8, &[], &[0; 24]),
        ] {
            bench.wan_sends(&packet);
            assert!(bench.is_diverted(&packet));
        }
        for packet in [
            frames::udp(WAN, 9, UPLINK, 8082, b"x"), // not published
            frames::tcp(WAN, 9, UPLINK, 8081, SYN),  // only UDP is
            frames::udp(WAN, 9, "192.0.2.255", 8080, b"x"), // broadcast
            frames::udp(WAN, 9, "224.0.0.251", 8080, b"x"), // multicast
            frames::udp(WAN, 9, "198.51.100.9", 8080, b"x"), // somebody else's
            frames::ipv4(WAN, UPLINK, UDP, &[0, 9]), // cut short
            frames::ipv4_full(WAN, UPLINK, 47, MORE_FRAGMENTS, &[], &[0; 64]), // GRE
        ] {
            bench.wan_sends(&packet);
            assert_eq!(bench.diverted(), None, "{packet:?}");
        }
        bench
            .steering
            .unpublish(UDP, ip(UPLINK), 8080..=8081)
            .unwrap();
        bench.wan_sends(&frames::udp(WAN, 9, UPLINK, 8080, b"x"));
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_bit_written_through_the_mapping_is_seen_by_the_programs_at_once() {
    Bench::run(|bench| {
        let ports = bench.steering.external_ports();
        let udp = frames::udp(WAN, 9, UPLINK, 61_000, b"x");
        let tcp = frames::tcp(WAN, 9, UPLINK, 61_000, ACK);
        let echo_reply = frames::icmp(WAN, UPLINK, 0, 0, [0, 77, 0, 1], b"x");
        for (protocol, packet) in [(UDP, udp), (TCP, tcp), (ICMP, echo_reply)] {
            bench.wan_sends(&packet);
            assert!(!bench.is_diverted(&packet), "{protocol}");
            let port = if protocol == ICMP { 77 } else { 61_000 };
            ports.set(protocol, port, true);
            assert!(ports.get(protocol, port));
            bench.wan_sends(&packet);
            assert!(bench.is_diverted(&packet), "{protocol}");
            ports.set(protocol, port, false);
            bench.wan_sends(&packet);
            assert!(!bench.is_diverted(&packet), "{protocol}");
            ports.set(protocol, port, true);
            ports.clear_all();
            assert!(!ports.get(protocol, port));
        }
        // An echo request is the host's even if its identifier is in use.
        ports.set(ICMP, 7, true);
        bench.wan_sends(&frames::icmp(WAN, UPLINK, 8, 0, [0, 7, 0, 1], b"x"));
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn a_socket_of_the_host_wins_over_a_mapping() {
    Bench::run(|bench| {
        let ports = bench.steering.external_ports();
        ports.set(UDP, 7000, true);
        ports.set(TCP, 7000, true);
        let udp = frames::udp(WAN, 9, UPLINK, 7000, b"x");
        let tcp = frames::tcp(WAN, 9, UPLINK, 7000, ACK);
        bench.wan_sends(&udp);
        assert!(bench.is_diverted(&udp));
        let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        bench.wan_sends(&udp);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
        assert_eq!(bench.count("host_socket_won"), 1);
        // Connected to somebody else, it does not want this sender's packets.
        socket.connect("192.0.2.77:1").unwrap();
        bench.wan_sends(&udp);
        assert!(bench.is_diverted(&udp));

        bench.wan_sends(&tcp);
        assert!(bench.is_diverted(&tcp));
        let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
        bench.wan_sends(&tcp);
        assert!(!bench.is_diverted(&tcp));
        drop(listener);
        bench.wan_sends(&tcp);
        assert!(bench.is_diverted(&tcp));
    });
}

#[test]
fn an_icmp_error_follows_the_packet_it_quotes() {
    Bench::run(|mut bench| {
        let ports = bench.steering.external_ports();
        ports.set(UDP, 61_000, true);
        ports.set(ICMP, 5, true);
        bench
            .steering
            .publish(TCP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        let error = |kind, quoted: &[u8]| frames::icmp(WAN, UPLINK, kind, 1, [0; 4], quoted);
        for packet in [
            error(3, &frames::udp(UPLINK, 61_000, WAN, 9, b"")),
            error(11, &frames::udp(UPLINK, 61_000, "198.51.100.1", 9, b"")),
            error(12, &frames::tcp(UPLINK, 8080, WAN, 9, ACK)),
            error(3, &frames::icmp(UPLINK, WAN, 8, 0, [0, 5, 0, 1], b"")),
            error(
                3,
                &frames::ipv4_full(
                    UPLINK,
                    WAN,
                    UDP,
                    0,
                    &[1; 8],
                    &frames::udp_segment(61_000, 9, b""),
                ),
            ),
        ] {
            bench.wan_sends(&packet);
            assert!(bench.is_diverted(&packet));
        }
        for packet in [
            error(3, &frames::udp(UPLINK, 61_001, WAN, 9, b"")),
            error(3, &frames::udp(GATEWAY, 61_000, WAN, 9, b"")), // not where the error came to
            error(3, &frames::icmp(UPLINK, WAN, 8, 0, [0, 6, 0, 1], b"")),
            error(3, &frames::udp(UPLINK, 61_000, WAN, 9, b"")[..24]), // ports cut off
            error(5, &frames::udp(UPLINK, 61_000, WAN, 9, b"")),       // redirect
        ] {
            bench.wan_sends(&packet);
            assert_eq!(bench.diverted(), None);
        }
        let _socket = UdpSocket::bind("0.0.0.0:61000").unwrap();
        bench.wan_sends(&error(3, &frames::udp(UPLINK, 61_000, WAN, 9, b"")));
        assert_eq!(bench.diverted(), None, "the host's socket caused it");
    });
}

#[test]
fn what_the_forwarder_does_not_want_goes_on_to_the_host() {
    Bench::run(|bench| {
        let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let give_back = |count: usize| {
            for _ in 0..count {
                let packet = bench.diverted().unwrap();
                bench.tun.write_packet(&packet).unwrap();
            }
        };
        // Fragments from outside: through the uplink again, marked, not diverted a second time.
        bench.lab.wan.run(|| {
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(&[7; 4000], "192.0.2.1:7000")
                .unwrap();
        });
        give_back(3);
        let (length, from) = socket.recv_from(&mut [0; 5000]).unwrap();
        assert_eq!((length, from.ip()), (4000, ip(WAN)));
        // Fragments from a container: as if its bridge had carried them.
        bench.lab.c1.run(|| {
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .send_to(&[7; 4000], "192.0.2.1:7000")
                .unwrap();
        });
        give_back(3);
        let (length, from) = socket.recv_from(&mut [0; 5000]).unwrap();
        assert_eq!((length, from.ip()), (4000, ip(C1)));
        assert_eq!(bench.count("delivered_host"), 6);
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn the_tun_delivers_to_nobody_else() {
    Bench::run(|bench| {
        for (name, packet) in [
            (
                "tun_malformed",
                frames::udp(UPLINK, 1, "255.255.255.255", 2, b""),
            ),
            ("tun_malformed", frames::udp(UPLINK, 1, "224.0.0.1", 2, b"")),
            ("tun_malformed", frames::udp(UPLINK, 1, "0.0.0.0", 2, b"")),
            ("tun_malformed", frames::udp(WAN, 1, "127.0.0.1", 2, b"")),
            ("no_endpoint", frames::udp(WAN, 1, "172.17.9.9", 2, b"")),
            ("no_egress", frames::udp(UPLINK, 1, "203.0.113.1", 2, b"")), // no route
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
fn a_container_that_is_detached_or_readdressed_is_not_delivered_to() {
    Bench::run(|mut bench| {
        let mut port = bench.lab.container_port(1, true);
        port.addresses = vec![ip("172.17.0.9")];
        bench.steering.attach_container(&port).unwrap();
        bench
            .tun
            .write_packet(&frames::udp(WAN, 1, C1, 2, b""))
            .unwrap();
        eventually("the old address is forgotten", || {
            bench.count("no_endpoint") == 1
        });
        bench
            .tun
            .write_packet(&frames::udp(WAN, 1, "172.17.0.9", 2, b""))
            .unwrap();
        eventually("the new one is known", || {
            bench.count("delivered_container") == 1
        });
        // Another veth takes the address over before the old one is detached.
        let mut heir = bench.lab.container_port(2, true);
        heir.addresses = port.addresses;
        bench.steering.attach_container(&heir).unwrap();
        bench.steering.detach_container(port.if_index);
        bench
            .tun
            .write_packet(&frames::udp(WAN, 1, "172.17.0.9", 2, b""))
            .unwrap();
        eventually("the heir keeps it", || {
            bench.count("delivered_container") == 2
        });
    });
}
