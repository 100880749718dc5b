//! The host changes under running containers: routes, addresses, switches, published ports.

use std::time::Duration;

use super::{GLOBAL, create, with_prefix};
use crate::lab::{HOST6, LAN6, Lab, World, eventually};

const FAR6_SERVER: &str = "[2001:db8:ffff::9]:7000";

#[test]
fn what_leaves_follows_the_hosts_routes_and_addresses() {
    let lab = Lab::with_options(World::Plain, &["--second-uplink"]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "ula", &["--ipv6"]);
    let app = tunbridge.container_with("app", &["--network", "ula"]);
    tunbridge.server("web", &["-p", "8080:80"]);
    let leaves_as = |address: &str| {
        eventually(Duration::from_secs(5), || {
            let app = app.impatient();
            [app.tcp(FAR6_SERVER), app.udp(FAR6_SERVER)]
                .iter()
                .all(|answer| matches!(answer, Ok(answer) if answer.saw_address() == address))
        })
    };
    let host = |words: &str| {
        lab.host().shell(&format!("ip -6 {words}")).expect_success();
    };
    assert!(leaves_as(HOST6));
    host("route replace default via 2001:db8:2::1");
    assert!(leaves_as("2001:db8:2::2"), "by the other uplink");
    host("address add 2001:db8:2::77/64 dev ext1 nodad");
    host("address delete 2001:db8:2::2/64 dev ext1");
    assert!(leaves_as("2001:db8:2::77"), "with another address");
    // Published ports are at the new address, too, and clients of IPv6 reach a container of IPv4 there.
    for target in ["[2001:db8:2::77]:8080", "[2001:db8:1::2]:8080"] {
        assert!(
            eventually(Duration::from_secs(5), || {
                let answer = lab.wan().impatient().tcp(target);
                matches!(answer, Ok(answer) if answer.saw_address() == "172.17.0.1")
            }),
            "{target}"
        );
    }
    // As the daemon found it.
    host("address add 2001:db8:2::2/64 dev ext1 nodad");
    host("address delete 2001:db8:2::77/64 dev ext1");
    host("route replace default via 2001:db8:1::1");
    assert!(leaves_as(HOST6));
}

#[test]
fn what_somebody_takes_from_the_bridge_comes_back() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", GLOBAL]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    let c1 = tunbridge.container("c1");
    let complete = || {
        let shown = lab.host().shell("ip -o -6 address show dev tb0").stdout;
        ["2001:db8:d::1/64", "fe80::1/64"]
            .iter()
            .all(|address| shown.contains(address))
    };
    assert!(complete());
    for harm in [
        "sysctl -qw net.ipv6.conf.tb0.disable_ipv6=1",
        "ip -6 address delete 2001:db8:d::1/64 dev tb0",
        "ip -6 address flush dev tb0",
    ] {
        lab.host().shell(harm).expect_success();
        assert!(eventually(Duration::from_secs(10), complete), "{harm}");
        assert!(
            eventually(Duration::from_secs(5), || {
                c1.ping("2001:db8:d::1").succeeded()
                    && lab.far().ping("2001:db8:d::242:ac11:2").succeeded()
            }),
            "{harm}"
        );
    }
}

#[test]
fn ports_come_and_go_on_both_families() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "ula", &["--ipv6"]);
    tunbridge.server("web", &["--network", "ula"]);
    tunbridge
        .cli(&["publish", "web", "8090:80"])
        .expect_success();
    assert_eq!(
        lab.lan().tcp("[2001:db8:1::2]:8090").unwrap().saw_address(),
        LAN6
    );
    lab.lan().tcp("198.51.100.2:8090").unwrap();
    tunbridge
        .cli(&["unpublish", "web", "8090:80"])
        .expect_success();
    for target in ["[2001:db8:1::2]:8090", "198.51.100.2:8090"] {
        let error = lab.lan().tcp(target).unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
