//! IPv6 isolation: neither icc nor an internal network, nor the border of two bridges, can be got around.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::net::UdpSocket;
use std::time::Duration;

use steering_lab::bench::Bench;
use steering_lab::frames::{self, BROADCAST, Sniffer, TYPE_IPV6};
use steering_lab::frames6::{
    NA, NS, SOURCE_MAC, TARGET_MAC, discovery, icmp6, router_advertisement, solicited_node, udp6,
};
use steering_lab::ipv6::{C1_6, C1_LL, C2_6, C2_LL, GATEWAY_LL, GATEWAY6, UPLINK6, WAN6};
use steering_lab::networks::Second;
use steering_lab::{Netns, UDP, eventually, ip, serve_at, who_am_i};

const ALL_NODES: &str = "ff02::1";

/// A UDP socket in a namespace that waits for a quarter of a second.
fn listen(namespace: &Netns, port: u16) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(("::", port)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    socket
}

fn hears(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 99]).is_ok()
}

#[test]
fn without_icc_link_local_addresses_are_no_way_around() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        bench.icc_off([true, true]);
        lab.host.sysctl("net/ipv6/conf/all/forwarding", "1"); // an open router
        let (c2, host) = (Sniffer::new(&lab.c2), listen(&lab.host, 7001));
        let tb0 = lab.host.mac("tb0");
        let port = lab.host.mac("c1h");
        bench.steering.set_local_macs(&[tb0, port]).unwrap();
        let drops = [
            (bench.mac(2), udp6(C1_LL, 1, C2_LL, 7000, b"x")),
            (bench.mac(2), udp6(C1_LL, 1, C2_6, 7000, b"x")),
            (bench.mac(2), udp6(C1_6, 1, C2_LL, 7000, b"x")),
            (tb0, udp6(C1_6, 1, C2_LL, 7000, b"x")),
            (tb0, udp6(C1_LL, 1, C2_LL, 7000, b"x")),
            (tb0, udp6(C1_LL, 1, "fe80::77", 7000, b"x")),
            (port, udp6(C1_LL, 1, C2_LL, 7000, b"x")),
            (port, udp6(C1_LL, 1, GATEWAY_LL, 7000, b"x")),
        ];
        for (number, (mac, packet)) in (1..).zip(&drops) {
            bench.c1_sends6_to(*mac, packet);
            eventually("icc_drop", || bench.count("icc_drop") == number);
        }
        // What looks like discovery would be routed like anything else.
        for packet in [
            discovery(NS, C1_6, C2_6, C2_6, Some((SOURCE_MAC, bench.mac(1)))),
            discovery(NA, C1_6, C2_LL, C1_6, Some((TARGET_MAC, bench.mac(1)))),
        ] {
            let before = bench.count("spoof_nd");
            bench.c1_sends6_to(tb0, &packet);
            eventually("spoof_nd", || bench.count("spoof_nd") == before + 1);
        }
        // A unicast packet in a multicast frame comes to the host, who routes no link-local address.
        bench.c1_sends6_to([0x33, 0x33, 0, 0, 0, 1], &udp6(C1_LL, 1, C2_LL, 7000, b"x"));
        assert!(!c2.sees(&udp6(C1_LL, 1, C2_LL, 7000, b"x")[..7]));
        assert_eq!(bench.diverted(), None);
        // Links are the forwarder's to judge, and the host is the host.
        let packet = udp6(C1_6, 1, C2_6, 7000, b"x");
        for mac in [bench.mac(2), tb0] {
            bench.c1_sends6_to(mac, &packet);
            assert!(bench.is_diverted(&packet));
        }
        for (source, destination) in [(C1_6, GATEWAY6), (C1_LL, GATEWAY_LL), (C1_LL, GATEWAY6)] {
            bench.c1_sends6(&udp6(source, 1, destination, 7001, b"x"));
            assert!(hears(&host), "{source} {destination}");
        }
    });
}

#[test]
fn an_ipv4_network_has_no_ipv6() {
    Bench::run6(|mut bench| {
        for number in [1, 2] {
            bench
                .steering
                .attach_container(&bench.lab.container_port(number, true))
                .unwrap();
        }
        let c2 = Sniffer::new(&bench.lab.c2);
        let own = bench.mac(1);
        for (number, (mac, packet)) in (1..).zip([
            (bench.lab.host.mac("tb0"), udp6(C1_6, 1, WAN6, 2, b"")),
            (bench.mac(2), udp6(C1_LL, 1, C2_LL, 2, b"")),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                router_advertisement(C1_LL, ALL_NODES),
            ),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                discovery(NA, C1_6, ALL_NODES, C1_6, Some((TARGET_MAC, own))),
            ),
        ]) {
            bench.c1_sends6_to(mac, &packet);
            eventually("ipv6_disabled", || bench.count("ipv6_disabled") >= number);
            assert!(!c2.sees(&packet));
        }
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn an_internal_network_reaches_its_neighbours_and_its_gateway_only() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        lab.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        for number in [1, 2] {
            let mut port = lab.container_port6(number, true);
            port.internal = true;
            bench.steering.attach_container(&port).unwrap();
        }
        bench.steering.publish(UDP, ip("::"), 8080..=8080).unwrap();
        let macs = [lab.host.mac("tb0"), bench.mac(2), BROADCAST];
        for (number, (address, mac)) in (1..).zip(
            [WAN6, UPLINK6, "fd00:18::2"]
                .into_iter()
                .flat_map(|address| macs.map(|mac| (address, mac))),
        ) {
            bench.c1_sends6_to(mac, &udp6(C1_6, 1, address, 7000, b"x"));
            eventually(address, || bench.count("internal_drop") == number);
        }
        assert_eq!(bench.diverted(), None);
        for target in [GATEWAY6, GATEWAY_LL, C2_6, C2_LL] {
            assert!(
                lab.c1.ok(&format!("ping -6 -c 1 -W 1 -I eth0 {target}")),
                "{target}"
            );
        }
        serve_at(&lab.c1, "::", 80);
        assert_eq!(who_am_i("[fd00:17::2]:80").unwrap(), GATEWAY6);
        // What is published there is the forwarder's to refuse.
        let packet = udp6(C1_6, 1, GATEWAY6, 8080, b"x");
        bench.c1_sends6(&packet);
        assert!(bench.is_diverted(&packet));
    });
}

#[test]
fn an_address_belongs_to_the_interfaces_of_one_container() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        let second = Second::build(lab, &mut bench.steering);
        bench
            .steering
            .set_local_addresses(&lab.local_addresses6())
            .unwrap();
        let (own, tb1, c3) = (
            lab.c1.mac("eth1"),
            lab.host.mac("tb1"),
            second.c3.mac("eth0"),
        );
        let attach = |bench: &mut Bench<'_>, containers: [u32; 2]| {
            let mut first = lab.container_port6(1, true);
            let mut other = second.port("c1i");
            other.ipv6 = true;
            other.addresses.push(ip("fd00:18::3"));
            (first.container, other.container) = (containers[0], containers[1]);
            for port in [first, other] {
                bench.steering.attach_container(&port).unwrap();
            }
        };
        let on_eth1 = |mac, packet: &[u8]| {
            let frame = frames::ethernet(own, mac, TYPE_IPV6, packet);
            lab.c1.run(|| frames::send("eth1", &frame).unwrap());
        };
        let out = udp6(C1_6, 1, WAN6, 2, b"x");
        attach(&mut bench, [7, 8]);
        on_eth1(tb1, &out);
        eventually("spoof_ip", || bench.count("spoof_ip") == 1);
        attach(&mut bench, [7, 7]);
        for (mac, packet) in [(tb1, &out), (c3, &udp6(C1_6, 1, "fd00:18::2", 2, b"x"))] {
            on_eth1(mac, packet);
            assert!(bench.is_diverted(packet));
        }
        // Not on the link, though: neither in discovery, nor to a group, nor to link-local addresses.
        for (number, (mac, packet)) in (2..).zip([
            ([0x33, 0x33, 0, 0, 0, 1], udp6(C1_6, 1, "ff02::1", 2, b"x")),
            (c3, udp6(C1_6, 1, "fe80::42:acff:fe12:2", 2, b"x")),
            (c3, udp6(C1_LL, 1, "fd00:18::2", 2, b"x")),
            (
                tb1,
                discovery(NS, C1_6, "fe80::1", "fe80::1", Some((SOURCE_MAC, own))),
            ),
        ]) {
            on_eth1(mac, &packet);
            eventually("spoof_ip", || bench.count("spoof_ip") == number);
        }
        on_eth1(
            tb1,
            &discovery(NA, "fd00:18::3", "fe80::1", C1_6, Some((TARGET_MAC, own))),
        );
        eventually("spoof_nd", || bench.count("spoof_nd") == 1);
        assert_eq!(bench.diverted(), None);
    });
}

#[test]
fn no_mac_address_leads_from_one_bridge_to_another() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        let second = Second::build(lab, &mut bench.steering);
        let mut port = second.port("c3h");
        port.ipv6 = true;
        port.addresses.push(ip("fd00:18::2"));
        bench.steering.attach_container(&port).unwrap();
        lab.host.sh("ip addr add fd00:18::1/64 dev tb1 nodad");
        lab.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let host = &lab.host;
        let macs = [
            host.mac("tb0"),
            host.mac("tb1"),
            host.mac("up0"),
            host.mac("c1h"),
        ];
        bench.steering.set_local_macs(&macs).unwrap();
        let c3 = Sniffer::new(&second.c3);
        let packet = udp6(C1_6, 1, "fd00:18::2", 7000, b"x");
        for mac in macs {
            bench.c1_sends6_to(mac, &packet);
            assert!(bench.is_diverted(&packet), "{mac:x?}");
        }
        for mac in [second.c3.mac("eth0"), host.mac("c3h"), [0; 6]] {
            bench.c1_sends6_to(mac, &packet);
            assert_eq!(bench.diverted(), None);
        }
        // A question for the other bridge's container stays on this one.
        let asks = discovery(NS, C1_6, &solicited_node("fd00:18::2"), "fd00:18::2", None);
        bench.c1_multicasts6(&asks);
        let echo = icmp6(C1_6, "fd00:18::2", 128, 0, [0, 1, 0, 1], b"");
        bench.c1_multicasts6(&echo);
        for packet in [&packet, &asks, &echo] {
            assert!(!c3.sees(&packet[..6]));
        }
    });
}
