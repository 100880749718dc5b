//! The real programs between real interfaces, with a minimal translator behind the TUN.
//!
//! Needs root; everything happens in namespaces that the tests make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use aya::programs::tc::SchedClassifier;
use steering_lab::nat::Nat;
use steering_lab::tun::{Served, Tun};
use steering_lab::{
    C1, C2, DROP_ALL, GATEWAY, Lab, TCP, UDP, UPLINK, WAN, ask_udp, counter, eventually, firewall,
    ip, serve, who_am_i,
};
use tunbridge::steering::{AttachMode, Steering, SteeringError};

/// Steering and a translator that publishes TCP and UDP port 8080 of every address to port 80 of
/// the first container.
fn start(lab: &Lab) -> (Steering, Served) {
    start_with(lab, Steering::load().unwrap())
}

fn start_with(lab: &Lab, steering: Steering) -> (Steering, Served) {
    let tun = Tun::open("tun0");
    lab.host.sysctl("net/ipv4/conf/tun0/forwarding", "1");
    let mut steering = lab.steer(steering, tun.if_index);
    for protocol in [TCP, UDP] {
        steering
            .publish(protocol, ip("0.0.0.0"), 8080..=8080)
            .unwrap();
    }
    let mut nat = Nat::new(steering.external_ports())
        .publish(TCP, 8080, C1, 80)
        .publish(UDP, 8080, C1, 80);
    (steering, tun.serve(move |frame| nat.judge(frame)))
}

/// Container → outside, outside → published, host → published, container → container.
fn check_every_path(lab: &Lab) {
    assert_eq!(lab.c1.run(|| who_am_i("192.0.2.2:80")).unwrap(), UPLINK);
    assert_eq!(
        lab.c2.run(|| ask_udp("192.0.2.2:80", 10)).unwrap(),
        "192.0.2.1 10"
    );
    assert!(lab.c1.ok("ping -c 2 -i 0.1 -W 1 192.0.2.2"));
    assert_eq!(lab.wan.run(|| who_am_i("192.0.2.1:8080")).unwrap(), WAN);
    assert_eq!(
        lab.wan.run(|| ask_udp("192.0.2.1:8080", 10)).unwrap(),
        "192.0.2.2 10"
    );
    for server in [
        "127.0.0.1:8080",
        "127.9.9.9:8080",
        "192.0.2.1:8080",
        "172.17.0.1:8080",
    ] {
        assert_eq!(who_am_i(server).unwrap(), GATEWAY, "{server}");
        assert_eq!(ask_udp(server, 10).unwrap(), "172.17.0.1 10", "{server}");
    }
    for container in [&lab.c1, &lab.c2] {
        assert_eq!(
            container.run(|| who_am_i("192.0.2.1:8080")).unwrap(),
            GATEWAY
        );
        assert_eq!(
            container.run(|| ask_udp("172.17.0.1:8080", 10)).unwrap(),
            "172.17.0.1 10"
        );
    }
    assert_eq!(lab.c2.run(|| who_am_i("172.17.0.2:80")).unwrap(), C2);
}

#[test]
fn every_path_works_without_forwarding() {
    Lab::run(|lab| {
        let (steering, _tun) = start(lab);
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        check_every_path(lab);
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
            "martian_uplink",
            "no_egress",
            "tun_malformed",
            "no_endpoint",
        ] {
            assert_eq!(counter(&steering, name), 0, "{name}");
        }
    });
}

#[test]
fn every_path_works_while_the_firewall_drops_what_is_forwarded_or_new() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        // A host whose own connections are to work must let their replies in.
        firewall(&DROP_ALL.replacen(
            "policy drop; ",
            "policy drop; ct state established accept; ",
            1,
        ));
        check_every_path(lab);
    });
}

#[test]
fn containers_are_served_while_the_firewall_drops_everything() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        firewall(DROP_ALL);
        assert_eq!(lab.c1.run(|| who_am_i("192.0.2.2:80")).unwrap(), UPLINK);
        assert_eq!(lab.wan.run(|| who_am_i("192.0.2.1:8080")).unwrap(), WAN);
        assert_eq!(lab.c2.run(|| who_am_i("172.17.0.2:80")).unwrap(), C2);
        assert_eq!(lab.c2.run(|| who_am_i("192.0.2.1:8080")).unwrap(), GATEWAY);
    });
}

#[test]
fn neighbours_do_not_meet_the_forward_chain_of_bridge_nf_call_iptables() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        serve(&lab.c1, 80);
        let knob = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if std::fs::write(knob, "1").is_err() {
            return; // no br_netfilter, nothing to be immune to
        }
        firewall(DROP_ALL);
        assert_eq!(lab.c2.run(|| who_am_i("172.17.0.2:80")).unwrap(), C2);
    });
}

#[test]
fn every_path_works_when_route_lookups_are_refused() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        lab.host.sysctl("net/ipv4/conf/tun0/forwarding", "0");
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        check_every_path(lab);
    });
}

/// How many clsact filters of this name the interface has.
fn filters(interface: &str, program: &str) -> usize {
    steering_lab::sh(&format!("tc filter show dev {interface} ingress"))
        .matches(&format!(" {program} direct-action"))
        .count()
}

#[test]
fn every_path_works_with_clsact_filters_and_a_successor_replaces_them() {
    Lab::run(|lab| {
        let filters = || (filters("up0", "tb_uplink"), filters("c1h", "tb_container"));
        let (steering, tun) = start_with(lab, Steering::load_with(AttachMode::Clsact).unwrap());
        assert!(
            steering
                .attached()
                .iter()
                .all(|a| a.mode == AttachMode::Clsact)
        );
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        check_every_path(lab);
        assert_eq!(filters(), (1, 1));
        std::mem::forget(steering); // as a killed process leaves it
        drop(tun);
        let (steering, _tun) = start_with(lab, Steering::load_with(AttachMode::Clsact).unwrap());
        assert_eq!(filters(), (1, 1));
        check_every_path(lab);
        drop(steering);
        assert_eq!(filters(), (0, 0));
    });
}

#[test]
fn nothing_is_left_attached_and_the_host_is_undisturbed_after_drop() {
    Lab::run(|lab| {
        let (mut steering, _tun) = start(lab);
        let attached =
            |interface, hook| SchedClassifier::query_tcx(interface, hook).unwrap().1.len();
        let (ingress, egress) = (TcAttachType::Ingress, TcAttachType::Egress);
        assert_eq!(steering.attached().len(), 5);
        steering.detach_container(lab.host.if_index("c2h"));
        steering.detach_uplink(lab.host.if_index("up0"));
        assert_eq!(steering.attached().len(), 3);
        // Not at once: a process that another test is just starting holds copies until it execs.
        eventually("two are detached", || {
            attached("up0", ingress) + filters("c2h", "tb_container") == 0
        });
        assert_eq!(filters("c1h", "tb_container"), 1);
        drop(steering);
        eventually("all are", || {
            filters("c1h", "tb_container") + attached("lo", egress) == 0
        });
        assert!(lab.wan.ok("ping -c 1 -W 1 192.0.2.1"));
    });
}

#[test]
fn an_interface_that_does_not_exist_is_named_by_its_index() {
    Lab::run(|_| {
        let mut steering = Steering::load().unwrap();
        let error = steering.attach_uplink(4242, true).unwrap_err();
        assert!(
            matches!(error, SteeringError::NoSuchInterface(4242)),
            "{error:?}"
        );
        assert_eq!(error.to_string(), "no interface has the index 4242");
        assert_eq!(steering.attached(), []);
    });
}

#[test]
fn ten_thousand_ports_are_published_within_a_second() {
    Lab::run(|_| {
        let mut steering = Steering::load().unwrap();
        let start = Instant::now();
        steering
            .publish(UDP, ip("0.0.0.0"), 20_000..=29_999)
            .unwrap();
        let published = start.elapsed();
        steering
            .publish(UDP, ip("0.0.0.0"), 20_000..=29_999)
            .unwrap();
        steering
            .unpublish(UDP, ip("0.0.0.0"), 20_000..=30_000)
            .unwrap();
        eprintln!("published in {published:?}, all in {:?}", start.elapsed());
        assert!(published < Duration::from_secs(15));
    });
}

#[test]
fn a_full_map_takes_nothing_rather_than_half() {
    Lab::run(|_| {
        let mut steering = Steering::load().unwrap();
        steering.publish(TCP, ip("0.0.0.0"), 0..=65_535).unwrap();
        steering.publish(UDP, ip("0.0.0.0"), 1..=65_535).unwrap();
        let error = steering.publish(TCP, ip("192.0.2.1"), 1..=2).unwrap_err();
        assert!(
            matches!(error, SteeringError::Full { map: "published" }),
            "{error}"
        );
        // Of the two ports, the first had found room.
        steering.publish(TCP, ip("192.0.2.1"), 3..=3).unwrap();
    });
}

#[test]
fn every_path_works_with_a_strict_reverse_path_filter() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        for interface in ["all", "default", "lo", "tb0", "up0", "tun0"] {
            lab.host
                .sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1");
        }
        serve(&lab.wan, 80);
        serve(&lab.c1, 80);
        check_every_path(lab);
    });
}

#[test]
fn the_verifier_has_little_to_do() {
    // It gives up at a million instructions; older kernels recognise fewer states that they have seen.
    Lab::run(|_| {
        let _steering = Steering::load().unwrap();
        let mut most = 0;
        for file in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
            let verified = text
                .lines()
                .find_map(|line| line.strip_prefix("verified_insns:"));
            if let Some(verified) = verified {
                most = most.max(verified.trim().parse::<u32>().unwrap());
            }
        }
        eprintln!("at most {most} instructions were verified");
        assert!(most < 100_000, "{most}");
    });
}

/// Set for the child of the next test.
const WITHOUT_CAPABILITIES: &str = "STEERING_TEST_WITHOUT_CAPABILITIES";

#[test]
fn without_capabilities_the_error_says_so() {
    if std::env::var_os(WITHOUT_CAPABILITIES).is_some() {
        let error = Steering::load().unwrap_err();
        assert!(matches!(error, SteeringError::NoPermission), "{error:?}");
        return;
    }
    // A process of its own, because capabilities are dropped for good.
    let child = std::process::Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "without_capabilities_the_error_says_so"])
        .env(WITHOUT_CAPABILITIES, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
