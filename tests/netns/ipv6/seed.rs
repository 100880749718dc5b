//! The configuration of the article that this project started from, and its variants of later versions of Docker.

use super::{address6, routes6, with_prefix};
use crate::lab::{HOST, LAN, Lab, Place, World, in_every_world};

/// The host's address there; the router is `::2`.
const SEED_HOST: &str = "2001:db8:1::1";
const ROUTER: &str = "2001:db8:1::2";
const SEED_FAR: &str = "2001:db8:9::9";

in_every_world! {
    the_article
}

fn addresses_and_routes(place: &Place) -> (Vec<String>, Vec<String>) {
    let mut addresses = place.settled_addresses6();
    addresses.sort();
    (addresses, routes6(place))
}

fn the_article(world: World) {
    let lab = Lab::with_options(world, &["--seed-article"]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&[
        "--ipv6",
        "--fixed-cidr-v6",
        "2001:db8:ffff::/64",
        "--default-gateway-v6",
        "2001:db8:ffff::1",
    ]);
    let web = tunbridge.server("web", &["-p", "8080:80"]);

    let (addresses, routes) = addresses_and_routes(&web);
    assert_eq!(
        addresses,
        ["2001:db8:ffff::242:ac11:2/64", "fe80::42:acff:fe11:2/64"]
    );
    assert_eq!(
        routes,
        [
            "2001:db8:ffff::/64 dev eth0 proto kernel metric 256",
            "fe80::/64 dev eth0 proto kernel metric 256",
            "default via 2001:db8:ffff::1 dev eth0 metric 1024",
        ]
    );
    let bridge = lab.host().shell("ip -o -6 address show dev tb0").stdout;
    for address in ["2001:db8:ffff::1/64", "fe80::1/64"] {
        assert!(bridge.contains(address), "{address} in {bridge}");
    }

    // ping6, both ways.
    for target in ["2001:db8:ffff::1", SEED_HOST, ROUTER, SEED_FAR] {
        // In a hostile world the host's own addresses answer nobody.
        if world == World::Plain || [ROUTER, SEED_FAR].contains(&target) {
            web.ping(target).expect_success();
        }
    }
    for place in [lab.host(), lab.wan(), lab.lan(), lab.far()] {
        place.ping("2001:db8:ffff::242:ac11:2").expect_success();
    }
    let answer = web.tcp(&format!("[{SEED_FAR}]:7000")).unwrap();
    assert_eq!(answer.saw_address(), "2001:db8:ffff::242:ac11:2");

    // The server's log: the client's IPv4 address, and the bridge's for who comes over IPv6.
    let v4 = lab.lan().tcp(&format!("{HOST}:8080")).unwrap();
    assert_eq!((v4.saw_address().as_str(), v4.at.port()), (LAN, 80));
    let v6 = lab.lan().tcp(&format!("[{SEED_HOST}]:8080")).unwrap();
    assert_eq!(v6.saw_address(), "172.17.0.1");
    assert_eq!(v6.at.to_string(), "172.17.0.2:80");
    assert_eq!(v6.client.ip().to_string(), "2001:db8:3::9");
}

/// Docker 1.10: 48 bits are left for the Ethernet address, and the gateway is the bridge's own address.
#[test]
fn a_prefix_of_80() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", "2001:db8:cccc::/80"]);
    let tunbridge = lab.start_daemon(&[
        "--ipv6",
        "--fixed-cidr-v6",
        "2001:db8:cccc::/80",
        "--default-gateway-v6",
        "2001:db8:cccc::1",
    ]);
    let web = tunbridge.server("web", &["-p", "8080:80"]);
    let app = tunbridge.container("app");

    let (addresses, routes) = addresses_and_routes(&web);
    assert_eq!(
        addresses,
        ["2001:db8:cccc::242:ac11:2/80", "fe80::42:acff:fe11:2/64"]
    );
    assert!(
        routes.contains(&"default via 2001:db8:cccc::1 dev eth0 metric 1024".to_owned()),
        "{routes:?}"
    );
    let bridge = lab.host().shell("ip -o -6 address show dev tb0").stdout;
    assert!(bridge.contains("2001:db8:cccc::1/80"), "{bridge}");
    assert_eq!(
        address6(&tunbridge, "app", "bridge"),
        "2001:db8:cccc::242:ac11:3"
    );
    app.ping("2001:db8:cccc::242:ac11:2").expect_success();
    app.ping("2001:db8:ffff::9").expect_success();
    lab.far().ping("2001:db8:cccc::242:ac11:3").expect_success();
    let answer = lab.lan().tcp("[2001:db8:cccc::242:ac11:2]:80").unwrap();
    assert_eq!(answer.saw_address(), "2001:db8:3::9");
}

#[test]
fn a_prefix_of_124_is_given_out_in_order_until_none_is_left() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", "2001:db8:cccc::/124"]);
    let tunbridge = lab.start_daemon(&with_prefix("2001:db8:cccc::/124"));
    for number in 2..16 {
        let name = format!("c{number}");
        tunbridge.container(&name);
        assert_eq!(
            address6(&tunbridge, &name, "bridge"),
            format!("2001:db8:cccc::{number:x}")
        );
    }
    let last = lab.place("c15");
    assert!(
        last.addresses6()
            .contains(&"2001:db8:cccc::f/124".to_owned())
    );
    last.ping("2001:db8:ffff::9").expect_success();
    lab.far().ping("2001:db8:cccc::f").expect_success();

    let refused = tunbridge
        .cli(&["run", "-d", "--name", "c16", "--", "sleep", "1000"])
        .expect_failure();
    assert!(
        refused
            .stderr
            .contains("no available IPv6 addresses on this network's address pools: bridge"),
        "{}",
        refused.stderr
    );
    // Nothing of it is left: what it had got of IPv4, too, is free.
    tunbridge.cli(&["rm", "-f", "c7"]).expect_success();
    tunbridge.cli(&["rm", "-f", "c16"]);
    tunbridge.container("c17");
    assert_eq!(
        address6(&tunbridge, "c17", "bridge"),
        "2001:db8:cccc::7",
        "a freed address is the next to be given"
    );
    assert_eq!(
        tunbridge.inspect("c17")["NetworkSettings"]["IPAddress"],
        "172.17.0.7"
    );
}

#[test]
fn a_prefix_of_126_has_two_addresses_for_containers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&with_prefix("2001:db8:cccc::/126"));
    tunbridge.container("one");
    let two = tunbridge.container("two");
    two.ping("2001:db8:cccc::2").expect_success();
    tunbridge
        .cli(&["run", "-d", "--name", "three", "--", "sleep", "1000"])
        .expect_failure();
}
