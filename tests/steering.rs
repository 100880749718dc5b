//! The real programs between real interfaces, with a minimal translator behind the TUN.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod steering_lab;

use std::net::{TcpListener, UdpSocket};

use steering_lab::nat::Nat;
use steering_lab::tun::{Served, Tun};
use steering_lab::{
    C1, C2, ICMP, Lab, TCP, UDP, UPLINK, WAN, ask_udp, counter, echo_tcp, echo_udp, ip, who_am_i,
};
use tunbridge::steering::Steering;

/// Steering and a translator that publishes TCP and UDP port 8080 of every address to port 80 of
/// the first container.
fn start(lab: &Lab) -> (Steering, Served) {
    let tun = Tun::open("tun0");
    lab.host.sysctl("net/ipv4/conf/tun0/forwarding", "1");
    let mut steering = lab.steering(tun.if_index);
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

fn serve_in_c1(lab: &Lab) {
    lab.c1.run(|| {
        echo_tcp(TcpListener::bind("0.0.0.0:80").unwrap());
        echo_udp(UdpSocket::bind("0.0.0.0:80").unwrap());
    });
}

#[test]
fn a_container_reaches_the_outside_as_the_host() {
    Lab::run(|lab| {
        let (steering, _tun) = start(lab);
        lab.wan
            .run(|| echo_tcp(TcpListener::bind("0.0.0.0:80").unwrap()));
        lab.wan
            .run(|| echo_udp(UdpSocket::bind("0.0.0.0:80").unwrap()));
        assert_eq!(lab.c1.run(|| who_am_i("192.0.2.2:80")).unwrap(), UPLINK);
        assert_eq!(
            lab.c2.run(|| ask_udp("192.0.2.2:80", 10)).unwrap(),
            "192.0.2.1 10"
        );
        assert!(lab.c1.ok(&format!("ping -c 2 -i 0.1 -W 1 {WAN}")));
        assert!(counter(&steering, "delivered_uplink") > 6);
        assert!(counter(&steering, "diverted_uplink") > 4);
        assert!(counter(&steering, "delivered_container") > 4);
        let _ = (ICMP, C2);
    });
}

#[test]
fn the_outside_reaches_a_published_port_with_its_own_address() {
    Lab::run(|lab| {
        let (_steering, _tun) = start(lab);
        serve_in_c1(lab);
        assert_eq!(lab.wan.run(|| who_am_i("192.0.2.1:8080")).unwrap(), WAN);
        assert_eq!(
            lab.wan.run(|| ask_udp("192.0.2.1:8080", 10)).unwrap(),
            "192.0.2.2 10"
        );
    });
}

#[test]
fn the_host_reaches_a_published_port_at_each_of_its_addresses() {
    Lab::run(|lab| {
        let (steering, _tun) = start(lab);
        serve_in_c1(lab);
        for server in [
            "127.0.0.1:8080",
            "127.9.9.9:8080",
            "192.0.2.1:8080",
            "172.17.0.1:8080",
        ] {
            assert_eq!(who_am_i(server).unwrap(), "172.17.0.1", "{server}");
            assert_eq!(ask_udp(server, 10).unwrap(), "172.17.0.1 10", "{server}");
        }
        assert!(counter(&steering, "diverted_loopback") > 8);
        assert!(counter(&steering, "delivered_host") > 8);
    });
}
