//! Another prefix over a restart: nothing of the old one is left anywhere.

use std::time::Duration;

use super::{address6, create, routes6, with_prefix};
use crate::lab::{FAR6, Lab, Place, eventually};
use crate::tunbridge_under_test::Tunbridge;

const OLD: &str = "2001:db8:1:0:a::/80";
const NEW: &str = "2001:db8:1:0:b::/80";

/// Addresses, routes and neighbour proxies of a place, of all tables. (What the kernel heard of neighbours it forgets by
/// itself.)
fn everything(place: &Place) -> String {
    place
        .shell("ip -6 address; ip -6 route show table all; ip -6 neighbour show proxy; ip -6 rule")
        .expect_success()
        .stdout
}

fn outside_asks(lab: &Lab, address: &str) -> String {
    lab.wan()
        .ndp(&["ask", address, "--interface", "host0", "--wait", "0.5"])
}

fn with_proxy(prefix: &'static str) -> Vec<&'static str> {
    [&with_prefix(prefix)[..], &["--ndp-proxy", "ext0"]].concat()
}

#[test]
fn running_containers_get_addresses_of_the_new_prefix() {
    let lab = Lab::plain();
    let _server = lab.far().serve(&["7000"]);
    let mut tunbridge = lab.start_daemon(&with_proxy(OLD));
    create(&tunbridge, "ula", &["--ipv6", "--subnet", "fd00:20::/64"]);
    let web = tunbridge.server("web", &["-p", "8080:80"]);
    let app = tunbridge.container("app");
    let elsewhere = tunbridge.container_with("elsewhere", &["--network", "ula"]);
    let old = "2001:db8:1:0:a:242:ac11:2";
    assert_eq!(address6(&tunbridge, "web", "bridge"), old);
    lab.far().ping(old).expect_success();
    app.ping(old).expect_success();
    let before = elsewhere.settled_addresses6();

    tunbridge.kill();
    tunbridge.start_again_with(&with_proxy(NEW));

    let new = "2001:db8:1:0:b:242:ac11:2";
    assert_eq!(address6(&tunbridge, "web", "bridge"), new);
    assert_eq!(
        address6(&tunbridge, "app", "bridge"),
        "2001:db8:1:0:b:242:ac11:3"
    );
    for place in [lab.host(), web.clone(), app.clone()] {
        let everything = everything(&place);
        assert!(
            !everything.contains("2001:db8:1:0:a:"),
            "the old prefix in {}:\n{everything}",
            place.name()
        );
    }
    assert_eq!(
        web.settled_addresses6(),
        [format!("{new}/80"), "fe80::42:acff:fe11:2/64".to_owned()]
    );
    assert!(
        routes6(&web).contains(&"default via 2001:db8:1:0:b::1 dev eth0 metric 1024".to_owned()),
        "{:?}",
        routes6(&web)
    );
    let bridge = lab.host().shell("ip -o -6 address show dev tb0").stdout;
    assert!(bridge.contains("2001:db8:1:0:b::1/80"), "{bridge}");
    assert_eq!(outside_asks(&lab, old), "answer=none");
    assert!(outside_asks(&lab, new).contains(&lab.host().mac("ext0")));

    // Traffic, and names where they are kept.
    let answer = web.tcp("[2001:db8:ffff::9]:7000").unwrap();
    assert_eq!(answer.saw_address(), new);
    lab.far().ping(new).expect_success();
    app.ping(new).expect_success();
    lab.far().ping(old).expect_failure();
    let hosts = tunbridge
        .cli(&["exec", "web", "--", "cat", "/etc/hosts"])
        .expect_success()
        .stdout;
    assert!(hosts.contains(new) && !hosts.contains(old), "{hosts}");
    assert_eq!(elsewhere.settled_addresses6(), before, "another network's");
    // IPv4 was not touched.
    assert_eq!(lab.lan().tcp("198.51.100.2:8080").unwrap().at.port(), 80);

    // A container that stood still meanwhile.
    tunbridge.cli(&["stop", "-t", "0", "app"]).expect_success();
    tunbridge.kill();
    tunbridge.start_again_with(&with_proxy(OLD));
    tunbridge.cli(&["start", "app"]).expect_success();
    assert_eq!(
        address6(&tunbridge, "app", "bridge"),
        "2001:db8:1:0:a:242:ac11:3"
    );
    lab.place("app").ping(FAR6).expect_success();
}

#[test]
fn containers_that_find_no_place_in_the_new_prefix_are_named() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&with_prefix("2001:db8:d::/64"));
    let places: Vec<Place> = ["anna", "berta", "clara"]
        .map(|name| tunbridge.container(name))
        .into();
    tunbridge.kill();
    tunbridge.start_again_with(&with_prefix("2001:db8:e::/126"));

    let addresses = ["anna", "berta", "clara"].map(|name| address6(&tunbridge, name, "bridge"));
    let lost: Vec<usize> = (0..3).filter(|&n| addresses[n].is_empty()).collect();
    assert_eq!(lost.len(), 1, "two have a place: {addresses:?}");
    let name = ["anna", "berta", "clara"][lost[0]];
    let log = tunbridge.log();
    let named = |line: &str| line.contains(name) && line.contains("IPv6");
    assert!(log.lines().any(named), "{name} is named:\n{log}");
    for (place, address) in places.iter().zip(&addresses) {
        let everything = everything(place);
        assert!(!everything.contains("2001:db8:d::"), "{everything}");
        if !address.is_empty() {
            place.ping("2001:db8:e::1").expect_success();
        }
        // IPv4 goes on for all.
        place.ping("192.0.2.9").expect_success();
    }
}

#[test]
fn ipv6_is_switched_off_and_on_again() {
    let lab = Lab::with_options(crate::lab::World::Plain, &["--route-v6", "2001:db8:d::/64"]);
    let mut tunbridge = lab.start_daemon(&with_prefix("2001:db8:d::/64"));
    let web = tunbridge.server("web", &["-p", "8080:80"]);
    let no_ipv6 = |tunbridge: &Tunbridge<'_>| {
        assert_eq!(address6(tunbridge, "web", "bridge"), "");
        assert!(web.addresses6().is_empty(), "{:?}", web.addresses6());
        let host = everything(&lab.host());
        assert!(
            !host.contains("2001:db8:d:") && !host.contains("dev tb0"),
            "{host}"
        );
        // Its published port is there for clients of IPv6 all the same.
        let answer = lab.lan().tcp("[2001:db8:1::2]:8080").unwrap();
        assert_eq!(answer.saw_address(), "172.17.0.1");
    };
    tunbridge.kill();
    tunbridge.start_again_with(&[]);
    no_ipv6(&tunbridge);
    tunbridge.kill();
    tunbridge.start_again_with(&with_prefix("2001:db8:d::/64"));
    assert_eq!(
        address6(&tunbridge, "web", "bridge"),
        "2001:db8:d::242:ac11:2"
    );
    assert!(eventually(Duration::from_secs(5), || {
        lab.far().ping("2001:db8:d::242:ac11:2").succeeded()
    }));
    web.ping(FAR6).expect_success();
}

#[test]
fn connections_of_the_old_prefix_end_and_those_of_ipv4_go_on() {
    let lab = Lab::plain();
    let _server = lab.far().serve(&["7000"]);
    let mut tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    let app = tunbridge.container("app");
    let v4 = app.hold_connections("192.0.2.9:7000", 3);
    assert!(v4.report.starts_with("held=3 echoed=3"), "{}", v4.report);
    tunbridge.kill();
    tunbridge.start_again_with(&with_prefix("fd00:18::/64"));
    assert_eq!(
        app.tcp("[2001:db8:ffff::9]:7000")
            .unwrap()
            .client
            .ip()
            .to_string(),
        "fd00:18::242:ac11:2"
    );
    let flows = tunbridge.flows();
    assert!(
        flows.iter().all(|flow| !flow.source.contains("fd00:17:")),
        "{flows:?}"
    );
    v4.release();
}
