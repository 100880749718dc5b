//! IPv6 Neighbour Discovery of containers: what they may tell their neighbours and the host about routers
//! and addresses, and who hears their questions.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::time::Duration;

use steering_lab::bench::Bench;
use steering_lab::frames::{BROADCAST, Sniffer};
use steering_lab::frames6::{
    NA, NS, REDIRECT, RS, SOURCE_MAC, TARGET_MAC, discovery, extension, fragment, icmp6_message,
    ipv6_hops, router_advertisement, solicited_node, udp6,
};
use steering_lab::ipv6::{C1_6, C1_LL, C2_6, C2_LL, GATEWAY_LL, GATEWAY6, WAN6};
use steering_lab::{ICMPV6, Netns, eventually};

const ALL_NODES: &str = "ff02::1";
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

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
            bench.icc_off(linked);
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
