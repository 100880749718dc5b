//! Containers that claim to be a router, a neighbour or somebody else: nobody believes them, and it is counted.

use std::time::Duration;

use super::{GLOBAL, create, with_prefix};
use crate::lab::{FAR6, Lab, Place, World, eventually, in_every_world};
use crate::tunbridge_under_test::Tunbridge;

in_every_world! {
    a_container_is_no_router
    a_container_speaks_for_no_neighbour
    a_container_has_no_address_but_its_own
}

/// Everything that was dropped so far, wherever.
fn dropped(tunbridge: &Tunbridge<'_>) -> u64 {
    tunbridge.dropped(&[""])
}

/// Does it, and waits until a counter has noticed.
#[track_caller]
fn counted(tunbridge: &Tunbridge<'_>, what: &str, deed: impl FnOnce()) {
    let before = dropped(tunbridge);
    deed();
    assert!(
        eventually(Duration::from_secs(2), || dropped(tunbridge) > before),
        "{what} is counted"
    );
}

/// What a place believes of routers and of its own addresses.
fn beliefs(place: &Place) -> String {
    place
        .shell(
            "ip -6 route show table all | sed -E 's/ expires.*//' | sort; ip -o -6 address; ip -6 route show cache",
        )
        .stdout
}

/// A neighbour that a place believes to be at the attacker's Ethernet address, without being it.
fn mistaken(place: &Place, attacker: &str) -> Option<String> {
    let neighbours = place.run(&["ip", "-6", "neighbour"]).stdout;
    let own = ["2001:db8:d::242:ac11:3 ", "fe80::42:acff:fe11:3 "];
    let mut lines = neighbours.lines();
    lines
        .find(|line| line.contains(attacker) && !own.iter().any(|own| line.starts_with(own)))
        .map(str::to_owned)
}

struct Scene {
    victim: Place,
    attacker: Place,
    /// Of the attacker.
    mac: String,
    gateway_mac: String,
}

const VICTIM: &str = "2001:db8:d::242:ac11:2";
const GATEWAY6: &str = "2001:db8:d::1";

fn scene(lab: &Lab, tunbridge: &Tunbridge<'_>) -> Scene {
    let victim = tunbridge.server("victim", &["-p", "80"]);
    let attacker = tunbridge.container("attacker");
    let mac = attacker.mac("eth0");
    let gateway_mac = lab.host().mac("tb0");
    for place in [lab.host(), victim.clone(), attacker.clone()] {
        place.settled_addresses6();
    }
    // Everybody knows everybody.
    victim.ping(FAR6).expect_success();
    attacker.ping(VICTIM).expect_success();
    lab.host().ping(VICTIM).expect_success();
    Scene {
        victim,
        attacker,
        mac,
        gateway_mac,
    }
}

fn a_container_is_no_router(world: World) {
    let lab = Lab::with_options(world, &["--route-v6", GLOBAL]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    let scene = scene(&lab, &tunbridge);
    let (host, victim) = (beliefs(&lab.host()), beliefs(&scene.victim));
    let victim_mac = scene.victim.mac("eth0");
    let link_local = scene.attacker.link_local("eth0");
    let announce = ["announce", "--prefix", "2001:db8:bad::/64"];
    for (what, words) in [
        ("an announcement to all", &[][..]),
        ("one to the host", &["--to-mac", scene.gateway_mac.as_str()]),
        ("one to a neighbour", &["--to-mac", victim_mac.as_str()]),
        ("one of the gateway's", &["--source", "fe80::1"]),
        (
            "one that ends the gateway",
            &["--source", "fe80::1", "--lifetime", "0"],
        ),
    ] {
        counted(&tunbridge, what, || {
            scene.attacker.ndp(&[&announce[..], words].concat());
        });
    }
    let to_victim = ["--to", VICTIM, "--to-mac", &victim_mac];
    for (source, via) in [
        (GATEWAY6, &link_local),
        ("fe80::1", &link_local),
        (link_local.as_str(), &link_local),
    ] {
        counted(&tunbridge, "a redirect", || {
            let words = [&["redirect", FAR6, via, "--source", source], &to_victim[..]].concat();
            scene.attacker.ndp(&words);
        });
    }
    scene.victim.ping(FAR6).expect_success();
    for place in [lab.host(), scene.victim.clone()] {
        assert_eq!(mistaken(&place, &scene.mac), None, "in {}", place.name());
    }
    assert_eq!(beliefs(&scene.victim), victim, "the neighbour");
    assert_eq!(beliefs(&lab.host()), host, "the host");
}

fn a_container_speaks_for_no_neighbour(world: World) {
    let lab = Lab::with_options(world, &["--route-v6", GLOBAL]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    let scene = scene(&lab, &tunbridge);
    let third = tunbridge.container("third");
    third.ping(VICTIM).expect_success();
    let victim_mac = scene.victim.mac("eth0");
    let victim_link_local = scene.victim.link_local("eth0");
    let held = scene.victim.hold_connections("[2001:db8:ffff::9]:7000", 3);
    assert!(
        held.report.starts_with("held=3 echoed=3"),
        "{}",
        held.report
    );

    let third_mac = third.mac("eth0");
    for target in [VICTIM, GATEWAY6, "fe80::1", &victim_link_local] {
        for to in [
            &[][..],
            &["--to-mac", &third_mac],
            &["--to-mac", &scene.gateway_mac],
            &["--to-mac", &victim_mac],
        ] {
            counted(
                &tunbridge,
                &format!("an advertisement for {target}"),
                || {
                    let words = [&["advertise", target, "--solicited"], to].concat();
                    scene.attacker.ndp(&words);
                },
            );
        }
    }
    // A solicitation tells its sender's Ethernet address, too.
    for source in [VICTIM, GATEWAY6, "fe80::1"] {
        counted(&tunbridge, &format!("a solicitation from {source}"), || {
            scene.attacker.ndp(&[
                "ask",
                "2001:db8:d::242:ac11:4",
                "--source",
                source,
                "--wait",
                "0.1",
            ]);
        });
    }
    // And who wants an address is not told that it is taken.
    counted(&tunbridge, "a solicitation for another's address", || {
        scene
            .attacker
            .ndp(&["ask", VICTIM, "--dad", "--wait", "0.1"]);
    });

    for place in [lab.host(), third.clone(), scene.victim.clone()] {
        assert_eq!(mistaken(&place, &scene.mac), None, "in {}", place.name());
    }
    held.release();
    third.ping(VICTIM).expect_success();
    let answer = third.tcp(&format!("[{VICTIM}]:80")).unwrap();
    assert_eq!(answer.saw_address(), "2001:db8:d::242:ac11:4");
    // Its own address it may announce.
    scene.attacker.ndp(&["advertise", "2001:db8:d::242:ac11:3"]);
    third.ping("2001:db8:d::242:ac11:3").expect_success();
}

fn a_container_has_no_address_but_its_own(world: World) {
    let lab = Lab::with_options(world, &["--route-v6", GLOBAL]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    create(&tunbridge, "four", &["--subnet", "10.20.0.0/24"]);
    let scene = scene(&lab, &tunbridge);
    let of_four = tunbridge.container_with("of-four", &["--network", "four"]);
    let victim_mac = scene.victim.mac("eth0");
    for source in [
        VICTIM,
        GATEWAY6,
        "2001:db8:d::99",
        "2001:db8:1::77",
        "2001:db8:3::9",
        "::1",
        "::ffff:172.17.0.3",
        "ff02::1",
        "fe80::42:acff:fe11:2",
    ] {
        for (to_mac, destination) in [
            (&scene.gateway_mac, "[2001:db8:ffff::9]:7000".to_owned()),
            (&victim_mac, format!("[{VICTIM}]:80")),
        ] {
            counted(&tunbridge, &format!("{source} to {destination}"), || {
                let options = ["--to-mac", to_mac.as_str(), "--wait", "0.2"];
                let source = format!("[{source}]:5001");
                assert_eq!(
                    scene.attacker.crafted_syn(&options, &source, &destination),
                    "none"
                );
            });
        }
    }
    // With another's Ethernet address.
    counted(&tunbridge, "another's Ethernet address", || {
        let options = [
            "--to-mac",
            &scene.gateway_mac,
            "--mac",
            &victim_mac,
            "--wait",
            "0.2",
        ];
        let source = format!("[{VICTIM}]:5001");
        let answer = scene
            .attacker
            .crafted_syn(&options, &source, "[2001:db8:ffff::9]:7000");
        assert_eq!(answer, "none");
    });
    // Its own works, by hand, too.
    let options = ["--to-mac", scene.gateway_mac.as_str()];
    let answer = scene.attacker.crafted_syn(
        &options,
        "[2001:db8:d::242:ac11:3]:5003",
        "[2001:db8:ffff::9]:7000",
    );
    assert_eq!(answer, "accepted");
    // On a network of IPv4 there is no IPv6 to speak, neither to the host nor to a neighbour.
    let bridge = lab
        .host()
        .shell("ip -j link show type bridge | jq -r '.[] | select(.ifname != \"tb0\") | .address'")
        .stdout;
    of_four.set_sysctl("net.ipv6.conf.eth0.disable_ipv6=0");
    counted(&tunbridge, "IPv6 on a network of IPv4", || {
        let options = ["--to-mac", bridge.trim(), "--wait", "0.2"];
        let answer =
            of_four.crafted_syn(&options, "[2001:db8:d::77]:5001", "[2001:db8:ffff::9]:7000");
        assert_eq!(answer, "none");
    });
}
