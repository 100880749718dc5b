//! Global prefixes: routed, with a route outside or with a neighbour proxy in its place.

use super::{GLOBAL, address6, create, with_prefix};
use crate::lab::{
    FAR6, HOST, HOST6, LAN6, Lab, WAN6, World, eventually, in_every_world, server_command,
};
use std::time::Duration;

/// A part of what the host's own link has.
const ON_LINK: &str = "2001:db8:1:0:c::/80";

in_every_world! {
    a_routed_network_with_a_route_outside
    a_neighbour_proxy_takes_the_place_of_a_route
}

fn a_routed_network_with_a_route_outside(world: World) {
    let lab = Lab::with_options(
        world,
        &["--route-v6", GLOBAL, "--route-v6", "2001:db8:e::/64"],
    );
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    let explicit = "com.docker.network.bridge.gateway_mode_ipv6=routed";
    create(
        &tunbridge,
        "explicit",
        &["--ipv6", "--subnet", "2001:db8:e::/64", "-o", explicit],
    );
    let command = server_command(&["80", "81"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    for (network, container) in [
        ("bridge", "2001:db8:d::242:ac11:2"),
        ("explicit", "2001:db8:e::2"),
    ] {
        let name = format!("s-{network}");
        let options = ["--network", network, "-p", "80", "-p", "80/udp"];
        let server = tunbridge.run(&name, &options, &command);
        server.wait_until_it_serves(81);
        assert_eq!(address6(&tunbridge, &name, network), container);

        // Outwards nothing is translated.
        for answer in [
            server.tcp("[2001:db8:ffff::9]:7000"),
            server.udp("[2001:db8:ffff::9]:7000"),
            server.udp_of(4000, "[2001:db8:ffff::9]:7000"),
        ] {
            let answer = answer.unwrap();
            assert_eq!(answer.saw, answer.client);
            assert_eq!(answer.saw_address(), container);
        }
        let gateway = container.replace("242:ac11:2", "1").replace("e::2", "e::1");
        assert_eq!(server.hops("-U", FAR6), [gateway.as_str(), WAN6, FAR6]);

        // Inwards what is published, and ICMPv6.
        for (place, address) in [(lab.lan(), LAN6), (lab.wan(), WAN6), (lab.host(), &gateway)] {
            place.ping(container).expect_success();
            for answer in [
                place.tcp(&format!("[{container}]:80")),
                place.udp(&format!("[{container}]:80")),
                place.udp_of(4000, &format!("[{container}]:80")),
            ] {
                let answer = answer.unwrap();
                assert_eq!(answer.saw_address(), address, "{network}");
                assert_eq!(answer.at.to_string(), format!("[{container}]:80"));
            }
        }
        lab.lan()
            .transfer("get", &format!("[{container}]:80"), 32 << 20)
            .expect_success();
        lab.lan()
            .transfer("put", &format!("[{container}]:80"), 32 << 20)
            .expect_success();
        let stranger = lab.lan().impatient();
        stranger.tcp(&format!("[{container}]:81")).unwrap_err();
        stranger.udp(&format!("[{container}]:81")).unwrap_err();
    }
    assert_eq!(lab.host().sysctl("net.ipv6.conf.all.forwarding"), "0");
    assert_eq!(lab.host().sysctl("net.ipv6.conf.ext0.forwarding"), "0");
}

fn a_neighbour_proxy_takes_the_place_of_a_route(world: World) {
    let lab = Lab::in_world(world);
    let _server = lab.far().serve(&["7000"]);
    let flags = [&with_prefix(ON_LINK)[..], &["--ndp-proxy", "ext0"]].concat();
    let tunbridge = lab.start_daemon(&flags);
    let address = "2001:db8:1:0:c:242:ac11:2";
    let mac = lab.host().mac("ext0");
    let ask = |words: &[&str]| {
        let words = [&["ask", "--interface", "host0", "--wait", "0.5"], words].concat();
        lab.wan().ndp(&words)
    };
    assert_eq!(ask(&[address]), "answer=none", "nobody has it yet");

    let web = tunbridge.server("web", &["-p", "80"]);
    assert_eq!(address6(&tunbridge, "web", "bridge"), address);
    let answered = |words: &[&str]| ask(words).starts_with(&format!("answer={mac} "));
    assert!(eventually(Duration::from_secs(5), || answered(&[address])));
    assert!(answered(&[address, "--unicast", &mac]));
    assert!(answered(&[address, "--source", WAN6]));
    for other in [
        "2001:db8:1:0:c:242:ac11:3",
        "2001:db8:1:0:c::1234",
        "2001:db8:1::99",
    ] {
        assert_eq!(ask(&[other]), "answer=none", "{other}");
    }
    // Only who is on the link may ask (RFC 4861, 7.1.1), and nobody is told to keep off.
    assert_eq!(ask(&[address, "--hop-limit", "254"]), "answer=none");
    assert_eq!(ask(&[address, "--dad"]), "answer=none");

    assert_eq!(
        web.tcp("[2001:db8:ffff::9]:7000").unwrap().saw_address(),
        address
    );
    lab.far().ping(address).expect_success();
    lab.wan().ping(address).expect_success();
    let answer = lab.lan().tcp(&format!("[{address}]:80")).unwrap();
    assert_eq!(answer.saw_address(), LAN6);
    assert_eq!(lab.host().sysctl("net.ipv6.conf.all.forwarding"), "0");

    tunbridge.cli(&["rm", "-f", "web"]).expect_success();
    assert!(
        eventually(Duration::from_secs(5), || ask(&[address]) == "answer=none"),
        "it is gone"
    );
}

#[test]
fn a_neighbour_proxy_for_a_prefix_of_its_own() {
    // The router believes that the containers are on its link.
    let lab = Lab::plain();
    lab.wan()
        .run(&["ip", "route", "add", "2001:db8:cccc::/80", "dev", "host0"])
        .expect_success();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "near",
        &[
            "--ipv6",
            "--subnet",
            "2001:db8:cccc::/80",
            "-o",
            "com.tunbridge.ndp_proxy=ext0",
        ],
    );
    // A part of the host's own link it can only be with a proxy there.
    let words = [
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "2001:db8:1:0:d::/80",
    ];
    let refused = tunbridge
        .cli(&[&words[..], &["far"]].concat())
        .expect_failure();
    assert!(
        refused.stderr.contains("2001:db8:1::/64"),
        "{}",
        refused.stderr
    );
    let proxy = ["-o", "com.tunbridge.ndp_proxy=ext0", "part"];
    tunbridge
        .cli(&[&words[..], &proxy].concat())
        .expect_success();
    // Nor may it take the addresses that the host and its router have there.
    for (subnet, whose) in [
        ("2001:db8:1::/80", "2001:db8:1::"),
        ("2001:db8:1::1/128", "2001:db8:1::1/128"),
        ("2001:db8:1::2/127", "2001:db8:1::2/128"),
    ] {
        let words = ["network", "create", "--ipv6", "--subnet", subnet];
        let refused = tunbridge
            .cli(&[&words[..], &["-o", "com.tunbridge.ndp_proxy=ext0", "taken"]].concat())
            .expect_failure();
        assert!(refused.stderr.contains(whose), "{}", refused.stderr);
        assert!(refused.stderr.contains("overlaps"), "{}", refused.stderr);
    }
    let part = tunbridge.container_with("c2", &["--network", "part"]);
    part.ping(FAR6).expect_success();
    let near = tunbridge.container_with("c1", &["--network", "near"]);
    near.ping(FAR6).expect_success();
    lab.far().ping("2001:db8:cccc::2").expect_success();
    // A daemon's successor goes on.
    let mut tunbridge = tunbridge;
    tunbridge.kill();
    let flush = ["ip", "-6", "neighbour", "flush", "all"];
    lab.wan().run(&flush).expect_success();
    assert_eq!(
        lab.wan()
            .ndp(&["ask", "2001:db8:cccc::2", "--interface", "host0"]),
        "answer=none",
        "a dead daemon answers for nobody"
    );
    tunbridge.start_again();
    assert!(eventually(Duration::from_secs(5), || {
        lab.far().ping("2001:db8:cccc::2").succeeded()
    }));
}

#[test]
fn without_route_and_proxy_nobody_outside_finds_a_routed_container() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&with_prefix("2001:db8:cccc::/80"));
    let c1 = tunbridge.container("c1");
    c1.ping(FAR6).expect_failure();
    c1.ping("2001:db8:cccc::1").expect_success();
    lab.far().ping("2001:db8:cccc::242:ac11:2").expect_failure();
    // IPv4 of the same container is not the worse for it.
    c1.ping("192.0.2.9").expect_success();
    let answer = lab
        .wan()
        .ndp(&["ask", "2001:db8:cccc::242:ac11:2", "--interface", "host0"]);
    assert_eq!(answer, "answer=none");
}

#[test]
fn the_default_route_from_router_advertisements_survives() {
    // moby#43466: with forwarding on, the kernel drops the route and hears no router any more.
    let lab = Lab::with_options(World::Plain, &["--route-v6", GLOBAL]);
    let host = lab.host();
    let router = lab.wan().link_local("host0");
    host.run(&["ip", "-6", "route", "delete", "default"])
        .expect_success();
    let advertise = || {
        lab.wan()
            .ndp(&["announce", "--interface", "host0", "--lifetime", "600"]);
    };
    let default_route = || {
        host.shell("ip -6 route show default | sed -E 's/ expires.*//'")
            .stdout
            .trim()
            .to_owned()
    };
    let expires_in = || {
        host.shell("ip -6 route show default | sed -nE 's/.*expires ([0-9]+)sec.*/\\1/p'")
            .stdout
            .trim()
            .parse::<u32>()
            .expect("seconds")
    };
    advertise();
    let expected = format!("default via {router} dev ext0 proto ra metric 1024");
    assert_eq!(default_route(), expected);
    let settings = ["accept_ra", "forwarding"].map(|name| format!("net.ipv6.conf.ext0.{name}"));
    let before = settings.clone().map(|setting| host.sysctl(&setting));

    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    create(&tunbridge, "ula", &["--ipv6"]);
    let routed = tunbridge.container("routed");
    let ula = tunbridge.container_with("ula", &["--network", "ula"]);
    for container in [&routed, &ula] {
        container.ping(FAR6).expect_success();
    }
    assert_eq!(default_route(), expected);
    assert_eq!(settings.map(|setting| host.sysctl(&setting)), before);
    assert!(expires_in() <= 600);
    lab.wan()
        .ndp(&["announce", "--interface", "host0", "--lifetime", "1200"]);
    assert!(expires_in() > 600, "routers are still heard");
    // The router goes, and another route comes: containers follow.
    lab.wan()
        .ndp(&["announce", "--interface", "host0", "--lifetime", "0"]);
    assert_eq!(default_route(), "");
    assert!(eventually(Duration::from_secs(5), || {
        !routed.ping(FAR6).succeeded()
    }));
    host.run(&["ip", "-6", "route", "add", "default", "via", WAN6])
        .expect_success();
    assert!(eventually(Duration::from_secs(5), || {
        routed.ping(FAR6).succeeded() && ula.ping(FAR6).succeeded()
    }));
    // As the daemon found it.
    host.run(&["ip", "-6", "route", "delete", "default"])
        .expect_success();
    advertise();
}

#[test]
fn what_is_published_in_routed_mode_is_shown() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", GLOBAL]);
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    tunbridge.server("web", &["-p", "8080:80"]);
    // The host's ports lead to its IPv4 address, the container's own port is open besides.
    for (target, saw) in [
        (format!("{HOST}:8080"), "203.0.113.9"),
        (format!("[{HOST6}]:8080"), "172.17.0.1"),
        ("[2001:db8:d::242:ac11:2]:80".to_owned(), LAN6),
    ] {
        let answer = lab.lan().tcp(&target).unwrap();
        assert_eq!(answer.saw_address(), saw, "{target}");
    }
    lab.lan()
        .impatient()
        .tcp("[2001:db8:d::242:ac11:2]:8080")
        .unwrap_err();
    let ports = tunbridge.cli(&["port", "web"]).expect_success().stdout;
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
}
