//! Several networks: what the steering programs let a container do with two interfaces, on an internal
//! network, over a link, and with MAC addresses that are not its neighbours'. And that it gets and sends no faster than it may.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use steering_lab::bench::Bench;
use steering_lab::frames::{self, BROADCAST, MORE_FRAGMENTS, TYPE_ARP, TYPE_IPV4};
use steering_lab::networks::{C1_ON_2, C3, GATEWAY2, Second};
use steering_lab::{
    C1, C2, GATEWAY, Lab, Netns, UDP, UPLINK, WAN, ask_udp, eventually, ip, serve, who_am_i,
};
use tunbridge::steering::{ContainerPort, Policer, Steering};

/// A UDP socket in a namespace that waits for a quarter of a second.
fn listen(namespace: &Netns, port: u16) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    socket
}

fn hears(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 99]).is_ok()
}

/// Changes what is known of a container's port.
fn change(steering: &mut Steering, port: ContainerPort, change: impl FnOnce(&mut ContainerPort)) {
    let mut port = port;
    change(&mut port);
    steering.attach_container(&port).unwrap();
}

#[test]
fn no_mac_address_leads_from_one_bridge_to_another() {
    Bench::run(|mut bench| {
        let second = Second::build(bench.lab, &mut bench.steering);
        bench.lab.host.sysctl("net/ipv4/ip_forward", "1");
        let c3 = listen(&second.c3, 7000);
        let packet = frames::udp(C1, 1, C3, 7000, b"x");
        let host = &bench.lab.host;
        let targets = [
            ("the other container's", second.c3.mac("eth0")),
            ("the other bridge's", host.mac("tb1")),
            ("the other container's port's", host.mac("c3h")),
            ("the uplink's", host.mac("up0")),
            ("the TUN's, which has none", [0; 6]),
            ("everybody's", BROADCAST),
        ];
        for (whose, mac) in targets {
            bench.c1_sends_frame(&frames::ethernet(bench.mac(1), mac, TYPE_IPV4, &packet));
            assert!(!hears(&c3), "{whose}");
            assert_eq!(bench.tun.read(1), None, "{whose}");
        }
        // The gateway's leads to the forwarder, and so does, once known, each of the host's own.
        bench.c1_sends(&packet);
        assert!(bench.is_diverted(&packet));
        bench
            .steering
            .set_local_macs(&[host.mac("tb1"), host.mac("up0")])
            .unwrap();
        for interface in ["tb1", "up0"] {
            let frame = frames::ethernet(bench.mac(1), host.mac(interface), TYPE_IPV4, &packet);
            bench.c1_sends_frame(&frame);
            assert!(bench.is_diverted(&packet), "{interface}");
        }
        assert!(!hears(&c3));
    });
}

#[test]
fn the_macs_of_a_bridges_ports_are_no_way_around() {
    Bench::run(|mut bench| {
        let second = Second::build(bench.lab, &mut bench.steering);
        let host = &bench.lab.host;
        host.sysctl("net/ipv4/ip_forward", "1");
        host.sh(&format!(
            "ip link add phys type veth peer name phys netns {} && ip link set phys master tb0 up",
            bench.lab.wan.name
        ));
        bench.lab.wan.sh("ip link set phys up");
        let c3 = listen(&second.c3, 7000);
        let packet = frames::udp(C1, 1, C3, 7000, b"x");
        let own = bench.mac(1);
        let to = |interface| frames::ethernet(own, host.mac(interface), TYPE_IPV4, &packet);
        // The kernel routes what is sent to the MAC of the port itself, and with it all doors are
        // open. In the lab that MAC is not the bridge's.
        for macs in [&[][..], &[host.mac("c1h"), host.mac("phys")], &[]] {
            bench.steering.set_local_macs(macs).unwrap();
            bench.c1_sends_frame(&to("c1h"));
            assert_eq!(hears(&c3), macs.is_empty(), "{macs:?}");
            assert_eq!(bench.is_diverted(&packet), !macs.is_empty(), "{macs:?}");
            bench.c1_sends_frame(&to("phys"));
            assert!(!hears(&c3));
            assert_eq!(bench.is_diverted(&packet), !macs.is_empty(), "{macs:?}");
        }
        // To the host itself such a frame is one like any other.
        bench.steering.set_local_macs(&[host.mac("c1h")]).unwrap();
        let socket = listen(host, 7001);
        let packet = frames::udp(C1, 1, GATEWAY, 7001, b"x");
        let frame = frames::ethernet(bench.mac(1), host.mac("c1h"), TYPE_IPV4, &packet);
        bench.c1_sends_frame(&frame);
        assert!(hears(&socket));
    });
}

#[test]
fn an_address_belongs_to_the_interfaces_of_one_container() {
    Bench::run(|mut bench| {
        let lab = bench.lab;
        let second = Second::build(lab, &mut bench.steering);
        let tb1 = lab.host.mac("tb1");
        let own = lab.c1.mac("eth1");
        let c3_mac = second.c3.mac("eth0");
        let on_eth1 = |target, kind, payload: &[u8]| {
            let frame = frames::ethernet(own, target, kind, payload);
            lab.c1.run(|| frames::send("eth1", &frame).unwrap());
        };
        let counted = |bench: &Bench<'_>, name: &str, send: &dyn Fn()| {
            let before = bench.count(name);
            send();
            eventually(name, || bench.count(name) == before + 1);
            assert_eq!(bench.tun.read(1), None);
        };
        let out = frames::udp(C1, 1, WAN, 2, b"x");
        let across = frames::udp(C1, 1, C3, 2, b"x");
        let honest = frames::udp(C1_ON_2, 1, WAN, 2, b"x");
        let asks = frames::arp(1, own, C1, GATEWAY2);
        let ports = |container: [u32; 2]| {
            let mut first = lab.container_port(1, true);
            let mut other = second.port("c1i");
            (first.container, other.container) = (container[0], container[1]);
            [first, other]
        };
        // Two containers, or nobody knows.
        for numbers in [[0, 0], [7, 8], [0, 7], [7, 0]] {
            for port in ports(numbers) {
                bench.steering.attach_container(&port).unwrap();
            }
            counted(&bench, "spoof_ip", &|| on_eth1(tb1, TYPE_IPV4, &out));
            counted(&bench, "spoof_ip", &|| on_eth1(c3_mac, TYPE_IPV4, &across));
            counted(&bench, "spoof_ip", &|| {
                on_eth1(BROADCAST, TYPE_IPV4, &across)
            });
            counted(&bench, "spoof_arp", &|| on_eth1(BROADCAST, TYPE_ARP, &asks));
            on_eth1(tb1, TYPE_IPV4, &honest);
            assert!(bench.is_diverted(&honest));
        }
        // One container: the forwarder judges by the address, even what is sent to a neighbour.
        for port in ports([7, 7]) {
            bench.steering.attach_container(&port).unwrap();
        }
        for (target, packet) in [(tb1, &out), (c3_mac, &across), (tb1, &across)] {
            on_eth1(target, TYPE_IPV4, packet);
            assert!(bench.is_diverted(packet));
        }
        let refused = bench.count("spoof_arp");
        on_eth1(BROADCAST, TYPE_ARP, &asks);
        counted(&bench, "spoof_ip", &|| {
            on_eth1(BROADCAST, TYPE_IPV4, &across)
        });
        counted(&bench, "spoof_ip", &|| {
            on_eth1(tb1, TYPE_IPV4, &frames::udp(C2, 1, WAN, 2, b"x"));
        });
        assert_eq!(bench.count("spoof_arp"), refused);
        // Not if either network is internal.
        for internal in [0, 1] {
            let mut both = ports([7, 7]);
            both[internal].internal = true;
            for port in &both {
                bench.steering.attach_container(port).unwrap();
            }
            counted(&bench, "spoof_ip", &|| on_eth1(tb1, TYPE_IPV4, &out));
            counted(&bench, "spoof_arp", &|| on_eth1(BROADCAST, TYPE_ARP, &asks));
        }
    });
}

#[test]
fn a_container_on_two_networks_answers_the_host_on_each() {
    Bench::run(|mut bench| {
        let second = Second::build(bench.lab, &mut bench.steering);
        change(
            &mut bench.steering,
            bench.lab.container_port(1, true),
            |port| port.container = 7,
        );
        change(&mut bench.steering, second.port("c1i"), |port| {
            port.container = 7;
        });
        serve(&bench.lab.c1, 80);
        for (server, gateway) in [(C1, GATEWAY), (C1_ON_2, GATEWAY2)] {
            let server = format!("{server}:80");
            assert_eq!(who_am_i(&server).unwrap(), gateway);
            assert_eq!(ask_udp(&server, 1).unwrap(), format!("{gateway} 1"));
        }
        assert_eq!(bench.diverted(), None, "the kernel's own affair");
        // What came in by the second network and goes out by the first, where the default route is.
        let socket = bench
            .lab
            .c1
            .run(|| UdpSocket::bind((C1_ON_2, 7000)).unwrap());
        socket.send_to(b"x", (WAN, 9)).unwrap();
        let seen = bench.diverted().unwrap();
        assert_eq!(seen[12..16], [172, 18, 0, 3]);
    });
}

#[test]
fn another_networks_gateway_is_an_address_of_the_host_like_others() {
    Bench::run(|mut bench| {
        let _second = Second::build(bench.lab, &mut bench.steering);
        assert!(bench.lab.c2.ok("ping -c 1 -W 1 172.18.0.1"));
        assert_eq!(bench.diverted(), None);
        bench
            .steering
            .publish(UDP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        for address in [GATEWAY, GATEWAY2, UPLINK] {
            let packet = frames::udp(C1, 9, address, 8080, b"x");
            bench.c1_sends(&packet);
            assert!(bench.is_diverted(&packet), "{address}");
        }
    });
}

#[test]
fn an_internal_network_reaches_its_neighbours_and_its_gateway_only() {
    Bench::run(|mut bench| {
        let second = Second::build(bench.lab, &mut bench.steering);
        bench.lab.host.sysctl("net/ipv4/ip_forward", "1");
        for number in [1, 2] {
            let port = bench.lab.container_port(number, true);
            change(&mut bench.steering, port, |port| port.internal = true);
        }
        bench
            .steering
            .publish(UDP, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
        let host = listen(&bench.lab.host, 7000);
        let c3 = listen(&second.c3, 7000);
        let macs = [bench.lab.host.mac("tb0"), bench.mac(2), BROADCAST];
        for (number, (address, mac)) in (1..).zip(
            [WAN, UPLINK, GATEWAY2, C3, "172.18.9.9"]
                .into_iter()
                .flat_map(|address| macs.map(|mac| (address, mac))),
        ) {
            let packet = frames::udp(C1, 1, address, 7000, b"x");
            bench.c1_sends_frame(&frames::ethernet(bench.mac(1), mac, TYPE_IPV4, &packet));
            eventually(address, || bench.count("internal_drop") == number);
        }
        assert!(!hears(&host) && !hears(&c3));
        // Fragments and errors are no exception.
        let fragment = frames::ipv4_full(C1, UPLINK, UDP, MORE_FRAGMENTS, &[], &[0; 64]);
        bench.c1_sends(&fragment);
        eventually("a fragment", || bench.count("internal_drop") == 16);
        assert_eq!(bench.diverted(), None);

        // The gateway is the host, in both directions.
        bench.c1_sends(&frames::udp(C1, 1, GATEWAY, 7000, b"x"));
        assert!(hears(&host));
        assert!(bench.lab.c1.ok("ping -c 1 -W 1 172.17.0.1"));
        serve(&bench.lab.c1, 80);
        assert_eq!(who_am_i("172.17.0.2:80").unwrap(), GATEWAY);
        // What is published there is the forwarder's to refuse.
        let packet = frames::udp(C1, 1, GATEWAY, 8080, b"x");
        bench.c1_sends(&packet);
        assert!(bench.is_diverted(&packet));
        // Neighbours are neighbours; the outside is kept out as ever.
        assert!(bench.lab.c2.run(|| ask_udp("172.17.0.2:80", 1)).is_ok());
        bench.lab.wan.sh("ip route add 172.17.0.0/16 via 192.0.2.1");
        assert!(bench.lab.wan.run(|| ask_udp("172.17.0.2:80", 1)).is_err());
        assert!(bench.count("direct_access") >= 1);
    });
}

#[test]
fn an_isolated_network_does_not_even_reach_the_host() {
    Bench::run(|mut bench| {
        bench.lab.host.sh("ip addr flush dev tb0");
        let locals: Vec<_> = bench.lab.local_addresses();
        let locals = locals.into_iter().filter(|a| a.address != ip(GATEWAY));
        bench
            .steering
            .set_local_addresses(&locals.collect::<Vec<_>>())
            .unwrap();
        for number in [1, 2] {
            let port = bench.lab.container_port(number, true);
            change(&mut bench.steering, port, |port| port.internal = true);
        }
        let host = listen(&bench.lab.host, 7000);
        for mac in [bench.lab.host.mac("tb0"), BROADCAST] {
            let packet = frames::udp(C1, 1, UPLINK, 7000, b"x");
            bench.c1_sends_frame(&frames::ethernet(bench.mac(1), mac, TYPE_IPV4, &packet));
            assert!(!hears(&host));
        }
        assert_eq!(bench.count("internal_drop"), 2);
        assert!(bench.lab.c1.ok("ping -c 1 -W 1 172.17.0.3"));
    });
}

#[test]
fn links_without_icc_are_the_forwarders_to_judge() {
    Bench::run(|mut bench| {
        let link = |bench: &mut Bench<'_>, linked: [bool; 2]| {
            for (number, linked) in [(1, linked[0]), (2, linked[1])] {
                let port = bench.lab.container_port(number, false);
                change(&mut bench.steering, port, |port| port.linked = linked);
            }
        };
        let to_c2 = |bench: &Bench<'_>, packet: &[u8]| {
            let frame = frames::ethernet(bench.mac(1), bench.mac(2), TYPE_IPV4, packet);
            bench.c1_sends_frame(&frame);
        };
        let c2 = listen(&bench.lab.c2, 7000);
        let packet = frames::udp(C1, 1, C2, 7000, b"x");
        for (number, linked) in (1..).zip([[false, false], [true, false], [false, true]]) {
            link(&mut bench, linked);
            to_c2(&bench, &packet);
            eventually("icc_drop", || bench.count("icc_drop") == number);
        }
        link(&mut bench, [true, true]);
        let port_unreachable = frames::icmp(C1, C2, 3, 3, [0; 4], &packet);
        let first = frames::ipv4_full(C1, C2, UDP, MORE_FRAGMENTS, &[], &[0; 64]);
        let later = frames::ipv4_full(C1, C2, UDP, 8, &[], &[0; 64]);
        for packet in [&packet, &port_unreachable, &first, &later] {
            to_c2(&bench, packet);
            assert!(bench.is_diverted(packet));
        }
        // Not by the back doors: broadcast frames, and addresses that nobody has.
        let frame = frames::ethernet(bench.mac(1), BROADCAST, TYPE_IPV4, &packet);
        bench.c1_sends_frame(&frame);
        to_c2(&bench, &frames::udp(C1, 1, "172.17.0.99", 7000, b"x"));
        eventually("icc_drop", || bench.count("icc_drop") == 4);
        assert!(!hears(&c2));
        assert_eq!(bench.diverted(), None);
        // ARP is as ever, so that the two find each other; the forwarder's packets arrive.
        assert!(
            !bench.lab.c1.ok("ping -c 1 -W 1 172.17.0.3"),
            "nobody forwards"
        );
        assert!(
            bench
                .lab
                .c1
                .sh("ip neigh show 172.17.0.3")
                .contains("02:42:ac:11:00:03")
        );
        bench.tun.write_packet(&packet).unwrap();
        assert!(hears(&c2));
        // A link is no way to somebody on another bridge.
        let second = Second::build(bench.lab, &mut bench.steering);
        link(&mut bench, [true, true]);
        change(&mut bench.steering, second.port("c3h"), |port| {
            (port.icc, port.linked) = (false, true);
        });
        to_c2(&bench, &frames::udp(C1, 1, C3, 7000, b"x"));
        eventually("icc_drop", || bench.count("icc_drop") == 5);
    });
}

#[test]
fn without_icc_nothing_is_flooded_to_the_neighbours() {
    Bench::run(|mut bench| {
        for number in [1, 2] {
            let port = bench.lab.container_port(number, false);
            bench.steering.attach_container(&port).unwrap();
        }
        let elsewhere = bench.lab.host.mac("up0");
        bench.steering.set_local_macs(&[elsewhere]).unwrap();
        for (number, target) in (1..).zip(["224.0.0.1", "255.255.255.255", GATEWAY]) {
            let packet = frames::udp(C1, 1, target, 7000, b"x");
            bench.c1_sends_frame(&frames::ethernet(
                bench.mac(1),
                elsewhere,
                TYPE_IPV4,
                &packet,
            ));
            eventually(target, || bench.count("icc_drop") == number);
        }
        // The gateway's own MAC is as ever.
        let socket = listen(&bench.lab.host, 7000);
        bench.c1_sends(&frames::udp(C1, 1, GATEWAY, 7000, b"x"));
        assert!(hears(&socket));
    });
}

#[test]
fn direct_access_is_a_matter_of_the_subnet() {
    Bench::run(|mut bench| {
        let second = Second::build(bench.lab, &mut bench.steering);
        let mut routed = second.subnet();
        routed.routed = true;
        bench
            .steering
            .set_subnets(&[bench.lab.subnet(), routed])
            .unwrap();
        let to_routed = frames::udp(WAN, 9, C3, 80, b"x");
        for packet in [
            &to_routed,
            &frames::icmp(WAN, C3, 8, 0, [0, 7, 0, 1], b"x"),
            &frames::ipv4_full(WAN, C3, UDP, 8, &[], &[0; 24]),
            &frames::udp(WAN, 9, "172.18.9.9", 80, b"x"),
        ] {
            bench.wan_sends(packet);
            assert!(bench.is_diverted(packet));
        }
        bench.wan_sends(&frames::udp(WAN, 9, C1, 80, b"x"));
        eventually("the other one", || bench.count("direct_access") == 1);
        // The forwarder's consent, and the answer with the container's own address.
        serve(&second.c3, 80);
        bench.tun.write_packet(&to_routed).unwrap();
        let answer = bench.diverted().unwrap();
        assert_eq!(
            (&answer[12..16], &answer[16..20]),
            (&[172, 18, 0, 2][..], &[192, 0, 2, 2][..])
        );
        bench.lab.wan.sh("ip route add 172.18.0.0/16 via 192.0.2.1");
        let client = listen(&bench.lab.wan, 9);
        let answer = frames::udp(C3, 80, WAN, 9, b"x");
        bench.tun.write_packet(&answer).unwrap();
        let (_, from) = client.recv_from(&mut [0; 99]).unwrap();
        assert_eq!(from.ip(), ip(C3));
        // From another network it goes to the forwarder, whatever the mode.
        let packet = frames::udp(C1, 9, C3, 80, b"x");
        bench.c1_sends(&packet);
        assert!(bench.is_diverted(&packet));
    });
}

/// Packets that the queue of an interface of the host has let through.
fn queued(lab: &Lab, interface: &str) -> u64 {
    let shown = lab
        .host
        .sh(&format!("tc -s -j qdisc show dev {interface} root"));
    let packets = shown.split("\"packets\":").nth(1).unwrap();
    let digits = packets.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}

#[test]
fn a_container_with_a_queue_is_delivered_to_through_it() {
    Bench::run(|mut bench| {
        let lab = bench.lab;
        lab.host.sh("tc qdisc add dev c1h root pfifo limit 100");
        let socket = listen(&lab.c1, 7000);
        for has_queue in [false, true, false] {
            change(&mut bench.steering, lab.container_port(1, true), |port| {
                port.queued = has_queue;
            });
            let before = queued(lab, "c1h");
            bench
                .tun
                .write_packet(&frames::udp(WAN, 1, C1, 7000, b"x"))
                .unwrap();
            assert!(hears(&socket), "from the forwarder");
            let from = [2, 0x42, 0xac, 0x11, 0, 3];
            let packet = frames::udp(C2, 1, C1, 7000, b"x");
            let frame = frames::ethernet(from, bench.mac(1), TYPE_IPV4, &packet);
            lab.c2.run(|| frames::send("eth0", &frame).unwrap());
            assert!(hears(&socket), "from the neighbour");
            // Neighbours may also ask each other for their MAC addresses, by way of the bridge.
            let passed = queued(lab, "c1h") - before;
            assert_eq!(passed >= 2, has_queue, "{passed} of 2 packets");
        }
        assert_eq!(bench.count("delivered_container"), 3);
        assert_eq!(bench.count("peer_redirect"), 3);
    });
}

#[test]
fn a_super_packet_costs_what_its_frames_are() {
    Bench::run(|mut bench| {
        let port = bench.lab.container_port(1, true);
        let socket = bench.lab.c1.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect((WAN, 2)).unwrap();
        // It knows its gateway before it is counted what it sends.
        socket.send(b"x").unwrap();
        assert!(bench.diverted().is_some());
        change(&mut bench.steering, port, |port| {
            port.policer = Some(Policer {
                rate: 2,
                burst: 3000,
            });
        });
        // 60 datagrams of one octet: 2,600 octets on the link, 102 here.
        setsockopt(&socket, sockopt::UdpGsoSegment, &1).unwrap();
        for _ in 0..3 {
            socket.send(&[b'x'; 60]).unwrap();
        }
        eventually("two of them are dropped", || {
            bench.count("rate_exceeded") == 2
        });
        assert!(bench.diverted().is_some());
    });
}

#[test]
fn a_container_that_is_policed_sends_what_its_bucket_holds() {
    Bench::run(|mut bench| {
        let packet = frames::udp(C1, 1, WAN, 2, &[b'x'; 100]);
        let frame = packet.len() as u64 + 14;
        let police = |bench: &mut Bench<'_>, policer| {
            let port = bench.lab.container_port(1, true);
            change(&mut bench.steering, port, |port| port.policer = policer);
        };
        let passing = |bench: &Bench<'_>| {
            (0..6)
                .filter(|_| {
                    bench.c1_sends(&packet);
                    bench.is_diverted(&packet)
                })
                .count()
        };
        // A frame takes a minute and more to come back.
        let slow = Policer {
            rate: 2,
            burst: 3 * frame + 20,
        };
        police(&mut bench, Some(slow));
        assert_eq!(passing(&bench), 3);
        assert_eq!(bench.count("rate_exceeded"), 3);
        // To be told the same again, or something else, does not fill it.
        police(&mut bench, Some(slow));
        let port = bench.lab.container_port(1, true);
        change(&mut bench.steering, port, |port| {
            port.policer = Some(slow);
            port.linked = true;
        });
        assert_eq!(passing(&bench), 0);
        // Another bucket is full, one that fills fast never empty, and without one all passes.
        let wide = Policer {
            burst: 5 * frame + 20,
            ..slow
        };
        police(&mut bench, Some(wide));
        assert_eq!(passing(&bench), 5);
        let fast = Policer {
            rate: u64::MAX,
            burst: u64::MAX,
        };
        for policer in [Some(fast), None] {
            police(&mut bench, policer);
            assert_eq!(passing(&bench), 6, "{policer:?}");
        }
        assert_eq!(bench.steering.entries()["policers"], 0);
        police(&mut bench, Some(slow));
        let if_index = bench.lab.host.if_index("c1h");
        bench.steering.detach_container(if_index);
        assert_eq!(bench.steering.entries()["policers"], 0);
    });
}
