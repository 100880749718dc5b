//! IPv6: the real programs between real interfaces, with a minimal translator behind the TUN.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use steering_lab::ipv6::{
    C1_6, C1_LL, C2_6, C2_LL, DROP_ALL6, GATEWAY6, UPLINK6, WAN6, firewall6, open_tun,
};
use steering_lab::nat::Nat;
use steering_lab::tun::Served;
use steering_lab::{
    C1, GATEWAY, Lab, Netns, TCP, UDP, ask_udp, counter, echo_through, ip, serve_at, who_am_i,
};
use tunbridge::steering::Steering;

/// Steering and a translator that publishes TCP and UDP port 8080 of every address to port 80 of the
/// first container.
fn start(lab: &Lab, icc: bool) -> (Steering, Served) {
    lab.add_ipv6();
    let tun = open_tun(lab);
    let mut steering = lab.steering(tun.if_index);
    steering
        .set_local_addresses(&lab.local_addresses6())
        .unwrap();
    steering
        .set_subnets(&[lab.subnet(), lab.subnet6()])
        .unwrap();
    for number in [1, 2] {
        steering
            .attach_container(&lab.container_port6(number, icc))
            .unwrap();
    }
    let mut nat = Nat::new(steering.external_ports());
    for protocol in [TCP, UDP] {
        for (any, container) in [("0.0.0.0", C1), ("::", C1_6)] {
            steering.publish(protocol, ip(any), 8080..=8080).unwrap();
            nat = nat.publish(protocol, 8080, container, 80);
        }
    }
    serve_at(&lab.wan, "::", 80);
    serve_at(&lab.c1, "::", 80);
    (steering, tun.serve(move |frame| nat.judge(frame)))
}

/// Container → outside, outside → published, container → published.
fn check_containers(lab: &Lab) {
    assert_eq!(
        lab.c1.run(|| who_am_i("[2001:db8:1::2]:80")).unwrap(),
        UPLINK6
    );
    assert_eq!(
        lab.c2.run(|| ask_udp("[2001:db8:1::2]:80", 10)).unwrap(),
        "2001:db8:1::1 10"
    );
    assert!(lab.c1.ok("ping -6 -c 2 -i 0.1 -W 1 2001:db8:1::2"));
    assert_eq!(
        lab.wan.run(|| who_am_i("[2001:db8:1::1]:8080")).unwrap(),
        WAN6
    );
    assert_eq!(
        lab.wan.run(|| ask_udp("[2001:db8:1::1]:8080", 10)).unwrap(),
        "2001:db8:1::2 10"
    );
    for container in [&lab.c1, &lab.c2] {
        assert_eq!(
            container.run(|| who_am_i("[2001:db8:1::1]:8080")).unwrap(),
            GATEWAY6
        );
        assert_eq!(
            container.run(|| ask_udp("[fd00:17::1]:8080", 10)).unwrap(),
            "fd00:17::1 10"
        );
    }
}

/// Container → container, by global and by link-local address.
fn check_neighbours(lab: &Lab) {
    assert_eq!(lab.c2.run(|| who_am_i("[fd00:17::2]:80")).unwrap(), C2_6);
    assert!(lab.c2.ok(&format!("ping -6 -c 2 -i 0.1 -W 1 {C1_LL}%eth0")));
    assert!(lab.c1.ok(&format!("ping -6 -c 2 -i 0.1 -W 1 {C2_LL}%eth0")));
}

/// Host process → published.
fn check_host(servers: &[&str]) {
    for server in servers {
        assert_eq!(who_am_i(server).unwrap(), GATEWAY6, "{server}");
        assert_eq!(ask_udp(server, 10).unwrap(), "fd00:17::1 10", "{server}");
    }
}

const OF_HOST: [&str; 3] = ["[::1]:8080", "[2001:db8:1::1]:8080", "[fd00:17::1]:8080"];

#[test]
fn every_path_works_without_forwarding() {
    Lab::run(|lab| {
        let (steering, _tun) = start(lab, true);
        check_containers(lab);
        check_neighbours(lab);
        check_host(&OF_HOST);
        // IPv4 as ever, by the same socket.
        let seen = lab.c2.run(|| who_am_i("172.17.0.1:8080")).unwrap();
        assert_eq!(seen, format!("::ffff:{GATEWAY}"));
        for name in [
            "diverted_container",
            "diverted_uplink",
            "diverted_loopback",
            "delivered_container",
            "delivered_host",
            "delivered_uplink",
            "peer_redirect",
        ] {
            assert!(counter(&steering, name) > 4, "{name}");
        }
        for name in [
            "spoof_ip",
            "spoof_nd",
            "rogue_ra",
            "malformed",
            "martian_uplink",
            "martian_container",
            "icc_drop",
            "no_egress",
            "tun_malformed",
            "no_endpoint",
        ] {
            assert_eq!(counter(&steering, name), 0, "{name}");
        }
    });
}

#[test]
fn super_packets_pass_whole_in_both_directions() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab, true);
        for (client, server) in [
            (&lab.c1, "[2001:db8:1::2]:80"),
            (&lab.wan, "[2001:db8:1::1]:8080"),
        ] {
            let packets = |namespace: &Netns| {
                let interface = if namespace.name == lab.wan.name {
                    "up0"
                } else {
                    "eth0"
                };
                let all = namespace.sh(&format!(
                    "awk '/{interface}/ {{ print $3 + $11 }}' /proc/net/dev"
                ));
                all.trim().parse::<usize>().unwrap()
            };
            let before = packets(client);
            let received = client.run(|| echo_through(server, 1 << 20));
            assert_eq!(received, 1 << 20, "{server}");
            // One packet per 1,428 octets would be 734 of them, each way.
            let used = packets(client) - before;
            assert!(used < 700, "{server}: {used} packets");
        }
    });
}

#[test]
fn every_path_works_while_the_firewall_drops_what_is_forwarded_or_new() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab, true);
        // A host whose own connections are to work must let their replies in.
        firewall6(&DROP_ALL6.replacen(
            "policy drop; ",
            "policy drop; ct state established accept; ",
            1,
        ));
        check_containers(lab);
        check_neighbours(lab);
        check_host(&OF_HOST);
    });
}

#[test]
fn containers_are_served_while_bridge_nf_call_ip6tables_meets_a_firewall_that_drops() {
    for icc in [true, false] {
        Lab::run(|lab| {
            let (_steering, _tun) = start(lab, icc);
            let knob = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
            if let Err(error) = std::fs::write(knob, "1") {
                eprintln!("{knob}: {error}"); // no br_netfilter, nothing to be immune to
            }
            firewall6(DROP_ALL6);
            for container in [&lab.c1, &lab.c2] {
                container.sh("ip -6 neigh flush dev eth0");
            }
            check_containers(lab);
            if icc {
                check_neighbours(lab);
            }
        });
    }
}

#[test]
fn every_path_works_when_route_lookups_are_refused() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab, true);
        lab.host.sysctl("net/ipv6/conf/tun0/forwarding", "0");
        check_containers(lab);
        check_host(&OF_HOST);
    });
}
