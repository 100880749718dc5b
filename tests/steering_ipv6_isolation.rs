//! IPv6 isolation: what a container may tell its neighbours and the host about routers and addresses, and
//! that neither icc nor an internal network can be got around with IPv6.
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
    NA, NS, REDIRECT, RS, SOURCE_MAC, TARGET_MAC, discovery, extension, fragment, icmp6,
    icmp6_message, ipv6_hops, router_advertisement, solicited_node, udp6,
};
use steering_lab::ipv6::{C1_6, C1_LL, C2_6, C2_LL, GATEWAY_LL, GATEWAY6, UPLINK6, WAN6};
use steering_lab::networks::Second;
use steering_lab::{ICMPV6, Netns, UDP, eventually, ip, serve_at, who_am_i};

const ALL_NODES: &str = "ff02::1";
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

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

/// Sets icc and links of both containers.
fn icc_off(bench: &mut Bench<'_>, linked: [bool; 2]) {
    for (number, linked) in [(1, linked[0]), (2, linked[1])] {
        let mut port = bench.lab.container_port6(number, false);
        port.linked = linked;
        bench.steering.attach_container(&port).unwrap();
    }
}

/// The same message behind extension headers, in the order given.
fn behind(packet: &[u8], headers: &[u8]) -> Vec<u8> {
    let mut hidden = packet[..40].to_vec();
    let length = u16::try_from(packet.len() - 40 + headers.len()).unwrap();
    hidden[4..6].copy_from_slice(&length.to_be_bytes());
    hidden[6] = if headers.len() == 8 && headers[2] == 0 {
        FRAGMENT
    } else {
        OPTIONS
    };
    hidden.extend(headers);
    hidden.extend(&packet[40..]);
    hidden
}

fn hops(packet: &[u8], limit: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[7] = limit;
    packet
}

#[test]
fn a_container_cannot_pose_as_a_router() {
    Bench::run6(|bench| {
        for (name, interface) in [(&bench.lab.host, "tb0"), (&bench.lab.c2, "eth0")] {
            name.sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "2");
        }
        let routes = || {
            let seen = |namespace: &Netns| {
                namespace.sh("ip -6 route; ip -6 addr show scope global | grep inet6")
            };
            (seen(&bench.lab.host), seen(&bench.lab.c2))
        };
        let before = routes();
        let advertisement = router_advertisement(C1_LL, ALL_NODES);
        let own = bench.mac(1);
        let redirect = |target: &str| {
            let mut rest = target
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
                .to_vec();
            rest.extend(WAN6.parse::<std::net::Ipv6Addr>().unwrap().octets());
            rest.extend([TARGET_MAC, 1]);
            rest.extend(own);
            let message = icmp6_message(GATEWAY_LL, C2_6, REDIRECT, 0, [0; 4], &rest);
            ipv6_hops(GATEWAY_LL, C2_6, ICMPV6, 255, &message)
        };
        let frames = [
            ([0x33, 0x33, 0, 0, 0, 1], advertisement.clone()),
            (bench.mac(2), router_advertisement(C1_LL, C2_LL)),
            (
                bench.lab.host.mac("tb0"),
                router_advertisement(C1_LL, GATEWAY_LL),
            ),
            (BROADCAST, advertisement.clone()),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                router_advertisement(GATEWAY_LL, ALL_NODES),
            ),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                behind(&advertisement, &extension(ICMPV6)),
            ),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                behind(
                    &advertisement,
                    &[extension(OPTIONS), extension(ICMPV6)].concat(),
                ),
            ),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                behind(&advertisement, &fragment(ICMPV6, 0, false)),
            ),
            (
                [0x33, 0x33, 0, 0, 0, 1],
                behind(&advertisement, &fragment(ICMPV6, 0, true)),
            ),
            ([0x33, 0x33, 0, 0, 0, 1], hops(&advertisement, 64)),
            (bench.mac(2), redirect(C1_LL)),
            (bench.lab.host.mac("tb0"), redirect(C1_LL)),
        ];
        let (host, c2) = (Sniffer::new(&bench.lab.host), Sniffer::new(&bench.lab.c2));
        for (number, (mac, packet)) in (1..).zip(&frames) {
            bench.c1_sends6_to(*mac, packet);
            eventually("rogue_ra", || bench.count("rogue_ra") == number);
        }
        // Longer chains than anybody needs could hide anything.
        bench.c1_multicasts6(&behind(
            &advertisement,
            &[extension(OPTIONS).repeat(8), extension(ICMPV6).to_vec()].concat(),
        ));
        eventually("malformed", || bench.count("malformed") == 1);
        // Everything but the message itself in the first fragment.
        let first = ipv6_hops(
            C1_LL,
            ALL_NODES,
            FRAGMENT,
            255,
            &[&fragment(OPTIONS, 0, true)[..], &extension(ICMPV6)].concat(),
        );
        bench.c1_multicasts6(&first);
        eventually("malformed", || bench.count("malformed") == 2);
        for (_, packet) in &frames {
            assert!(!c2.sees(packet));
        }
        assert_eq!(routes(), before);
        assert_eq!(bench.diverted(), None);
        // The sniffer would have seen it at the veth's other end only if it had passed.
        assert!(host.sees(&frames[0].1), "as it came from the container");
    });
}

#[test]
fn without_the_guard_a_router_advertisement_would_have_an_effect() {
    Bench::run6(|mut bench| {
        bench.lab.c2.sysctl("net/ipv6/conf/eth0/accept_ra", "2");
        let if_index = bench.lab.host.if_index("c1h");
        bench.steering.detach_container(if_index);
        bench.c1_multicasts6(&router_advertisement(C1_LL, ALL_NODES));
        eventually("the prefix is there", || {
            bench
                .lab
                .c2
                .sh("ip -6 addr show dev eth0")
                .contains("2001:db8:bad:")
        });
    });
}

#[test]
fn a_container_advertises_its_own_addresses_and_its_own_mac() {
    Bench::run6(|bench| {
        let lab = bench.lab;
        lab.c2.sh(&format!(
            "ping -6 -c 1 -W 1 {GATEWAY6} && ping -6 -c 1 -W 1 {C1_6}"
        ));
        lab.host.ok(&format!("ping -6 -c 1 -W 1 {C2_6}"));
        let neighbours = || {
            let seen = |namespace: &Netns| {
                let all = namespace.sh(
                    "ip -6 neigh show | grep -v FAILED | sed 's/ \\(router \\)*[A-Z]* *$//' | sort",
                );
                all.replace(" router", "")
            };
            (seen(&lab.host), seen(&lab.c2))
        };
        let before = neighbours();
        let (own, foreign, tb0) = (bench.mac(1), bench.mac(2), lab.host.mac("tb0"));
        let to_all = |packet: Vec<u8>| ([0x33, 0x33, 0, 0, 0, 1], packet);
        let honest = discovery(NA, C1_6, C2_6, C1_6, Some((TARGET_MAC, own)));
        let asks = |source: &str, target: &str, mac| {
            let group = solicited_node(target);
            discovery(NS, source, &group, target, Some((SOURCE_MAC, mac)))
        };
        let with = |packet: &[u8], options: &[u8]| {
            let mut packet = packet[..64].to_vec();
            let length = u16::try_from(24 + options.len()).unwrap().to_be_bytes();
            packet[4..6].copy_from_slice(&length);
            packet.extend(options);
            packet
        };
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        for (name, (mac, packet)) in [
            // Advertisements of foreign addresses, to all and to one.
            (
                "spoof_nd",
                to_all(discovery(
                    NA,
                    C1_6,
                    ALL_NODES,
                    C2_6,
                    Some((TARGET_MAC, own)),
                )),
            ),
            (
                "spoof_nd",
                to_all(discovery(
                    NA,
                    C1_6,
                    ALL_NODES,
                    GATEWAY6,
                    Some((TARGET_MAC, own)),
                )),
            ),
            (
                "spoof_nd",
                to_all(discovery(
                    NA,
                    C1_LL,
                    ALL_NODES,
                    GATEWAY_LL,
                    Some((TARGET_MAC, own)),
                )),
            ),
            (
                "spoof_nd",
                (
                    foreign,
                    discovery(NA, C1_6, C2_6, GATEWAY6, Some((TARGET_MAC, own))),
                ),
            ),
            (
                "spoof_nd",
                (foreign, discovery(NA, C1_6, C2_6, "fd00:17::77", None)),
            ),
            (
                "spoof_nd",
                (
                    tb0,
                    discovery(NA, C1_6, GATEWAY6, C2_6, Some((TARGET_MAC, own))),
                ),
            ),
            (
                "spoof_ip",
                (
                    tb0,
                    discovery(NA, C2_6, GATEWAY6, C2_6, Some((TARGET_MAC, own))),
                ),
            ),
            (
                "spoof_nd",
                to_all(discovery(
                    NA,
                    "::",
                    ALL_NODES,
                    C1_6,
                    Some((TARGET_MAC, own)),
                )),
            ),
            // Foreign MAC addresses for its own.
            (
                "spoof_nd",
                (
                    tb0,
                    discovery(NA, C1_6, GATEWAY6, C1_6, Some((TARGET_MAC, foreign))),
                ),
            ),
            (
                "spoof_nd",
                (
                    foreign,
                    with(&honest, &[&nonce[..], &[TARGET_MAC, 1], &tb0].concat()),
                ),
            ),
            ("spoof_nd", to_all(asks(C1_6, C2_6, foreign))),
            (
                "spoof_nd",
                (
                    tb0,
                    discovery(NS, C1_6, GATEWAY6, GATEWAY6, Some((SOURCE_MAC, foreign))),
                ),
            ),
            (
                "spoof_nd",
                to_all(discovery(
                    RS,
                    C1_LL,
                    "ff02::2",
                    "::",
                    Some((SOURCE_MAC, own)),
                )),
            ), // no such option there
            ("spoof_ip", to_all(asks(C2_6, GATEWAY6, own))),
            ("spoof_ip", to_all(asks(GATEWAY_LL, C2_6, own))),
            // Duplicate address detection for others: they would give their addresses up.
            (
                "spoof_nd",
                to_all(discovery(NS, "::", &solicited_node(C2_6), C2_6, None)),
            ),
            (
                "spoof_nd",
                to_all(discovery(NS, "::", &solicited_node(C2_LL), C2_LL, None)),
            ),
            (
                "spoof_nd",
                to_all(discovery(
                    NS,
                    "::",
                    &solicited_node(GATEWAY6),
                    GATEWAY6,
                    None,
                )),
            ),
            ("spoof_nd", (foreign, discovery(NS, "::", C2_6, C1_6, None))),
            // From off the link, in fragments, or not well formed.
            ("spoof_nd", (foreign, hops(&honest, 254))),
            ("spoof_nd", to_all(hops(&asks(C1_6, C2_6, own), 64))),
            (
                "spoof_nd",
                to_all(hops(
                    &discovery(NS, "::", &solicited_node(C1_6), C1_6, None),
                    1,
                )),
            ),
            (
                "spoof_nd",
                (foreign, behind(&honest, &fragment(ICMPV6, 0, true))),
            ),
            (
                "spoof_nd",
                (foreign, with(&honest, &[TARGET_MAC, 0, 0, 0, 0, 0, 0, 0])),
            ),
            (
                "spoof_nd",
                (foreign, with(&honest, &[TARGET_MAC, 2, 0, 0, 0, 0, 0, 0])),
            ),
            (
                "spoof_nd",
                (foreign, with(&honest, &[TARGET_MAC, 1, 2, 0x42])),
            ),
            ("spoof_nd", (foreign, with(&honest, &nonce.repeat(9)))),
            ("spoof_nd", (foreign, honest[..60].to_vec())),
        ] {
            let before = bench.count(name);
            bench.c1_sends6_to(mac, &packet);
            eventually(name, || bench.count(name) == before + 1);
        }
        assert_eq!(neighbours(), before);
        assert_eq!(bench.diverted(), None);
        // The truth passes.
        let c2 = Sniffer::new(&lab.c2);
        let told = ["spoof_nd", "spoof_ip"].map(|name| bench.count(name));
        for (mac, packet) in [
            (foreign, honest.clone()),
            (
                foreign,
                with(&honest, &[&nonce[..], &[TARGET_MAC, 1], &own].concat()),
            ),
            (foreign, behind(&honest, &extension(ICMPV6))),
            to_all(discovery(
                NA,
                C1_LL,
                ALL_NODES,
                C1_6,
                Some((TARGET_MAC, own)),
            )),
            to_all(discovery(NS, "::", &solicited_node(C1_6), C1_6, None)),
            to_all(asks(C1_LL, C2_6, own)),
        ] {
            bench.c1_sends6_to(mac, &packet);
            assert!(c2.sees(&packet), "{packet:x?}");
        }
        assert_eq!(["spoof_nd", "spoof_ip"].map(|name| bench.count(name)), told);
    });
}

#[test]
fn nobody_can_deny_a_container_its_address() {
    Bench::run6(|bench| {
        // The second container takes an address with duplicate address detection; the first claims it.
        bench.lab.c2.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
        bench.lab.c2.sysctl("net/ipv6/conf/eth0/dad_transmits", "1");
        let c2 = &bench.lab.c2;
        // Its own probes would wait for it.
        c2.sysctl("net/ipv6/conf/eth0/router_solicitation_delay", "0");
        bench.lab.c2.sh(&format!(
            "ip addr del {C2_6}/64 dev eth0 && ip addr add {C2_6}/64 dev eth0"
        ));
        for _ in 0..5 {
            bench.c1_multicasts6(&discovery(
                NA,
                C1_6,
                ALL_NODES,
                C2_6,
                Some((TARGET_MAC, bench.mac(1))),
            ));
            bench.c1_multicasts6(&discovery(NS, "::", &solicited_node(C2_6), C2_6, None));
        }
        std::thread::sleep(Duration::from_millis(1500));
        let address = bench.lab.c2.sh("ip -6 addr show dev eth0 scope global");
        assert!(
            !address.contains("tentative") && !address.contains("dadfailed"),
            "{address}"
        );
        assert_eq!(bench.count("spoof_nd"), 10);
    });
}

#[test]
fn a_question_reaches_nobody_but_who_can_answer() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        let c3 = Netns::new("c3");
        lab.host.sh(&format!(
            "ip link add c3h type veth peer name eth0 netns {} && ip link set c3h master tb0 up",
            c3.name
        ));
        c3.sh("ip link set eth0 up");
        eventually("the third port is up", || {
            lab.host.sh("ip -br link show c3h").contains(" UP ")
        });
        let own = bench.mac(1);
        let asks = |target: &str| {
            let group = solicited_node(target);
            discovery(NS, C1_6, &group, target, Some((SOURCE_MAC, own)))
        };
        let [c2, other] = [&lab.c2, &c3].map(Sniffer::new);
        for (target, [at_c2, at_other]) in [
            (C2_6, [true, false]),
            (C2_LL, [true, false]),
            (GATEWAY6, [false, false]),
            (GATEWAY_LL, [false, false]),
            ("fd00:17::99", [true, true]), // somebody of whom nobody knows
        ] {
            let packet = asks(target);
            bench.c1_multicasts6(&packet);
            assert_eq!(
                [c2.sees(&packet), other.sees(&packet)],
                [at_c2, at_other],
                "{target}"
            );
        }
        // Without icc only linked neighbours and the host are asked.
        for (linked, at_c2) in [
            ([false, false], false),
            ([true, false], false),
            ([true, true], true),
        ] {
            icc_off(&mut bench, linked);
            for target in [C2_6, C2_LL] {
                let packet = asks(target);
                let before = bench.count("icc_drop");
                bench.c1_multicasts6(&packet);
                assert_eq!(
                    [c2.sees(&packet), other.sees(&packet)],
                    [at_c2, false],
                    "{linked:?} {target}"
                );
                // The container itself may have asked, too.
                assert!(at_c2 || bench.count("icc_drop") > before);
            }
            for packet in [
                asks("fd00:17::99"),
                asks(GATEWAY6),
                discovery(NA, C1_6, ALL_NODES, C1_6, Some((TARGET_MAC, own))),
                discovery(NS, "::", &solicited_node(C1_6), C1_6, None),
                udp6(C1_6, 5353, "ff02::fb", 5353, b"who is there?"),
            ] {
                bench.c1_multicasts6(&packet);
                assert_eq!(
                    [c2.sees(&packet), other.sees(&packet)],
                    [false, false],
                    "{packet:x?}"
                );
            }
            for target in [GATEWAY6, GATEWAY_LL] {
                lab.c1.sh("ip -6 neigh flush dev eth0");
                assert!(
                    lab.c1.ok(&format!("ping -6 -c 1 -W 1 -I eth0 {target}")),
                    "{target}"
                );
            }
        }
        // A solicitation of routers is the host's alone, icc or not.
        let message = icmp6_message(
            C1_LL,
            "ff02::2",
            RS,
            0,
            [0; 4],
            &[&[SOURCE_MAC, 1][..], &own].concat(),
        );
        let packet = ipv6_hops(C1_LL, "ff02::2", ICMPV6, 255, &message);
        for icc in [false, true] {
            bench
                .steering
                .attach_container(&lab.container_port6(1, icc))
                .unwrap();
            bench.c1_multicasts6(&packet);
            assert_eq!([c2.sees(&packet), other.sees(&packet)], [false, false]);
        }
        assert_eq!(bench.count("spoof_nd"), 0);
    });
}

#[test]
fn without_icc_link_local_addresses_are_no_way_around() {
    Bench::run6(|mut bench| {
        let lab = bench.lab;
        icc_off(&mut bench, [true, true]);
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
