//! IPv6: reachability, isolation, published ports (integration/networking, integration/network/bridge).

use super::{create, gateway_mode, gateway_mode6};
use crate::ipv6::{address6, routes6};
use crate::lab::{FAR6, HOST, HOST6, LAN6, Lab, World, server_command};
use crate::tunbridge_under_test::Tunbridge;

const ULA1: [&str; 3] = ["--ipv6", "--subnet", "fdf1:a844:380c:b200::/64"];
const ULA2: [&str; 3] = ["--ipv6", "--subnet", "fdf1:a844:380c:b247::/64"];

fn ping_by_name(tunbridge: &Tunbridge<'_>, from: &str, name: &str) -> crate::lab::Outcome {
    tunbridge.cli(&[
        "exec", from, "--", "ping", "-6", "-n", "-c", "1", "-W", "2", name,
    ])
}

#[test]
fn test_bridge_icc_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "ula", &ULA1);
    create(&tunbridge, "inside", &[&ULA2[..], &["--internal"]].concat());
    for network in ["ula", "inside"] {
        let (first, second) = (format!("one-{network}"), format!("two-{network}"));
        let one = tunbridge.container_with(&first, &["--network", network]);
        let two = tunbridge.container_with(&second, &["--network", network]);
        ping_by_name(&tunbridge, &first, &second).expect_success();
        one.ping(&address6(&tunbridge, &second, network))
            .expect_success();
        // The address that the kernel made of the Ethernet address.
        let by_kernel = format!("{}%eth0", two.link_local("eth0"));
        one.settled_addresses6();
        two.settled_addresses6();
        one.ping(&by_kernel).expect_success();
    }
}

#[test]
fn test_bridge_inc_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &ULA1);
    create(&tunbridge, "two", &ULA2);
    let inside = [
        "--internal",
        "--ipv6",
        "--subnet",
        "fdf1:a844:390c:b200::/64",
    ];
    create(&tunbridge, "inside", &inside);
    let c1 = tunbridge.container_with("c1", &["--network", "one"]);
    let c2 = tunbridge.container_with("c2", &["--network", "two"]);
    let c3 = tunbridge.container_with("c3", &["--network", "inside"]);
    let target = address6(&tunbridge, "c2", "two");
    let silence = c1.ping(&target).expect_failure();
    assert!(
        silence.stdout.contains("0 received"),
        "{}",
        silence.output()
    );
    let no_route = c3.ping(&target).expect_failure();
    assert!(
        no_route.output().contains("Network is unreachable"),
        "{}",
        no_route.output()
    );
    // Link-local addresses are each link's own.
    let local = format!("{}%eth0", c2.link_local("eth0"));
    c1.ping(&local).expect_failure();
    ping_by_name(&tunbridge, "c1", "c2").expect_failure();
}

#[test]
fn test_bridge_inc_routed_ipv6() {
    for world in [World::Plain, World::Hostile] {
        let lab = Lab::in_world(world);
        let tunbridge = lab.start_daemon(&[]);
        for mode in ["nat", "routed"] {
            let modes = ["-o", &gateway_mode(mode), "-o", &gateway_mode6(mode)];
            create(&tunbridge, mode, &[&["--ipv6"], &modes[..]].concat());
        }
        let command = server_command(&["80", "81"]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let run = |mode: &str| {
            let place = tunbridge.run(
                &format!("c-{mode}"),
                &["--network", mode, "-p", "80"],
                &command,
            );
            place.wait_until_it_serves(81);
            (place, address6(&tunbridge, &format!("c-{mode}"), mode))
        };
        let ((nat, nat_address), (routed, routed_address)) = (run("nat"), run("routed"));
        nat.ping(&routed_address).expect_success();
        nat.tcp(&format!("[{routed_address}]:80")).unwrap();
        nat.impatient()
            .tcp(&format!("[{routed_address}]:81"))
            .unwrap_err();
        routed.ping(&nat_address).expect_failure();
        for port in [80, 81] {
            routed
                .impatient()
                .tcp(&format!("[{nat_address}]:{port}"))
                .unwrap_err();
        }
    }
}

#[test]
fn test_internal_nw_connectivity_ipv6() {
    // moby#47329
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let options = [
        "--internal",
        "--ipv6",
        "--subnet",
        "fda9:4130:4715::/64",
        "--gateway",
        "fda9:4130:4715::1234",
    ];
    create(&tunbridge, "inside", &options);
    let c1 = tunbridge.server("c1", &["--network", "inside", "-p", "8080:80"]);
    let target = address6(&tunbridge, "c1", "inside");
    c1.ping("fda9:4130:4715::1234").expect_success();
    lab.host().ping(&target).expect_success();
    for outside in [FAR6, HOST6] {
        let refused = c1.ping(outside).expect_failure();
        assert!(
            refused.output().contains("Network is unreachable"),
            "{}",
            refused.output()
        );
    }
    c1.run(&[
        "ip",
        "-6",
        "route",
        "add",
        "default",
        "via",
        "fda9:4130:4715::1234",
    ])
    .expect_success();
    for outside in [FAR6, HOST6] {
        c1.ping(outside).expect_failure();
    }
    lab.lan()
        .impatient()
        .tcp("[2001:db8:1::2]:8080")
        .unwrap_err();
}

#[test]
fn test_isolated_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let options = [
        "--internal",
        "--ipv6",
        "--subnet",
        "fd00:4::/64",
        "-o",
        "com.docker.network.bridge.name=bralone",
        "-o",
        &gateway_mode("isolated"),
        "-o",
        &gateway_mode6("isolated"),
    ];
    create(&tunbridge, "alone", &options);
    let c1 = tunbridge.server("c1", &["--network", "alone"]);
    let c2 = tunbridge.container_with("c2", &["--network", "alone"]);
    let target = address6(&tunbridge, "c1", "alone");
    c2.tcp(&format!("[{target}]:80")).unwrap();
    ping_by_name(&tunbridge, "c2", "c1").expect_success();
    let bridge = lab.host().shell("ip -o address show dev bralone").stdout;
    assert!(!bridge.contains("inet"), "{bridge}");
    lab.host().ping(&target).expect_failure();
    assert!(
        routes6(&c1)
            .iter()
            .all(|route| !route.starts_with("default")),
        "{:?}",
        routes6(&c1)
    );
}

/// Where the container's default route of IPv6 leads: gateway and interface, or nothing.
fn default_route(container: &crate::lab::Place) -> String {
    let routes = routes6(container);
    let found = routes.iter().find(|route| route.starts_with("default"));
    found.map_or_else(String::new, |route| {
        route.trim_end_matches(" metric 1024").to_owned()
    })
}

#[test]
fn test_gateway_selection_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "net4", &["--subnet", "10.20.4.0/24"]);
    create(
        &tunbridge,
        "net6",
        &["--ipv6", "--ipv4=false", "--subnet", "fd00:6::/64"],
    );
    create(
        &tunbridge,
        "net46",
        &[
            "--ipv6",
            "--subnet",
            "10.20.46.0/24",
            "--subnet",
            "fd00:46::/64",
        ],
    );
    let c1 = tunbridge.server("c1", &["--network", "net4", "-p", "8080:80"]);
    // Where the host's ports lead, of each family, and the default routes.
    let check = |v4: &str, v6: &str, route6: &str| {
        for (target, at) in [
            (format!("{HOST}:8080"), v4),
            (format!("[{HOST6}]:8080"), v6),
        ] {
            let answer = lab.lan().tcp(&target).unwrap();
            assert_eq!(answer.at.to_string(), at, "{target}");
        }
        assert_eq!(default_route(&c1), route6);
    };
    let network = |verb: &str, name: &str| {
        tunbridge
            .cli(&["network", verb, name, "c1"])
            .expect_success();
    };
    let net4 = "10.20.4.2:80";
    check(net4, net4, "");
    network("connect", "net6");
    check(net4, "[fd00:6::2]:80", "default via fd00:6::1 dev eth1");
    network("disconnect", "net6");
    check(net4, net4, "");
    network("connect", "net46");
    check(
        "10.20.46.2:80",
        "[fd00:46::2]:80",
        "default via fd00:46::1 dev eth1",
    );
    network("disconnect", "net46");
    check(net4, net4, "");
}

#[test]
fn test_routed_non_gateway_ipv6() {
    let lab = Lab::with_options(World::Plain, &["--route-v6", "2001:db8:e::/64"]);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "nat", &["--ipv6"]);
    let options = [
        "--ipv6",
        "--subnet",
        "2001:db8:e::/64",
        "-o",
        &gateway_mode("routed"),
    ];
    create(&tunbridge, "routed", &options);
    let ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    let networks = ["--network", "name=nat,gw-priority=1", "--network", "routed"];
    tunbridge.server("c1", &[&networks[..], &ports].concat());
    let target = address6(&tunbridge, "c1", "routed");
    // The answers leave by the other interface unless the container routes by source, as in moby's test.
    for line in [
        "ip -6 route add default via 2001:db8:e::1 dev eth1 table 100".to_owned(),
        format!("ip -6 rule add from {target} lookup 100"),
    ] {
        lab.place("c1").shell(&line).expect_success();
    }
    let answer = lab.lan().tcp(&format!("[{target}]:80")).unwrap();
    assert_eq!(answer.saw_address(), LAN6);
    lab.lan().udp(&format!("[{target}]:80")).unwrap();
    lab.lan().ping(&target).expect_success();
    let nat = address6(&tunbridge, "c1", "nat");
    let answer = lab.lan().tcp("[2001:db8:1::2]:8080").unwrap();
    assert_eq!(answer.at.to_string(), format!("[{nat}]:80"));
}

#[test]
fn test_proxy_4_to_6() {
    // moby#48067
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "four", &["--subnet", "10.20.4.0/24"]);
    tunbridge.server(
        "c1",
        &[
            "--network",
            "four",
            "-p",
            "[2001:db8:1::2]:8080:80",
            "-p",
            "[::1]::80",
        ],
    );
    let answer = lab.lan().tcp("[2001:db8:1::2]:8080").unwrap();
    assert_eq!(answer.at.to_string(), "10.20.4.2:80");
    let ports = tunbridge.cli(&["port", "c1"]).expect_success().stdout;
    let target = ports
        .lines()
        .find_map(|line| line.strip_prefix("80/tcp -> [::1]:"))
        .unwrap_or_else(|| panic!("{ports}"));
    lab.host().tcp(&format!("[::1]:{target}")).unwrap();
}

#[test]
fn test_access_published_port_ipv6() {
    // TestAccessPublishedPortFromHost, …FromRemoteHost, …FromCtr, …FromAnotherNetwork, TestAccessToPublishedPort,
    // TestPortMappedHairpinTCP, TestPortMappedHairpinUDP
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&["--ipv6", "--fixed-cidr-v6", "fd00:17::/64"]);
    create(
        &tunbridge,
        "server",
        &["--ipv6", "--subnet", "fd00:20::/64"],
    );
    create(
        &tunbridge,
        "client",
        &["--ipv6", "--subnet", "fd00:21::/64"],
    );
    create(
        &tunbridge,
        "routed",
        &[
            "--ipv6",
            "--subnet",
            "fd00:22::/64",
            "-o",
            &gateway_mode6("routed"),
        ],
    );
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let server = tunbridge.server("ss", &[&["--network", "server"], &publish[..]].concat());
    let at_host = [
        "[2001:db8:1::2]:8080",
        "[fd00:17::1]:8080",
        "[fd00:20::1]:8080",
    ];
    for target in at_host.iter().chain(&["[::1]:8080"]) {
        assert_eq!(
            lab.host().tcp(target).unwrap().saw_address(),
            "fd00:20::1",
            "{target}"
        );
        lab.host().udp(target).unwrap();
    }
    assert_eq!(lab.lan().tcp(at_host[0]).unwrap().saw_address(), LAN6);
    let neighbour = tunbridge.container_with("neighbour", &["--network", "server"]);
    for client in [&server, &neighbour] {
        for target in [at_host[0], at_host[2]] {
            client.tcp(target).unwrap();
            client.udp(target).unwrap();
        }
    }
    for (network, saw) in [
        ("bridge", "fd00:20::1"),
        ("client", "fd00:20::1"),
        ("routed", "fd00:22::2"),
    ] {
        let name = format!("c-{network}");
        let client = tunbridge.container_with(&name, &["--network", network]);
        for target in at_host {
            assert_eq!(
                client.tcp(target).unwrap().saw_address(),
                saw,
                "{network} to {target}"
            );
            client.udp(target).unwrap();
        }
    }
}

#[test]
fn test_direct_routing_open_ports_ipv6() {
    for world in [World::Plain, World::Hostile] {
        let lab = Lab::with_options(world, &["--route-v6", "fd00:30::/32"]);
        let tunbridge = lab.start_daemon(&[]);
        let command = server_command(&["80", "81"]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        for (number, mode, ping, mapped, unmapped) in [
            (0, "nat", false, false, false),
            (1, "routed", true, true, false),
            (2, "nat-unprotected", true, true, true),
        ] {
            let subnet = format!("fd00:30:{number}::/64");
            let options = ["--ipv6", "--subnet", &subnet, "-o", &gateway_mode6(mode)];
            create(&tunbridge, mode, &options);
            let published = format!("{}:80", 8080 + number);
            tunbridge
                .run(mode, &["--network", mode, "-p", &published], &command)
                .wait_until_it_serves(81);
            let target = address6(&tunbridge, mode, mode);
            let stranger = lab.lan().impatient();
            let got = (
                stranger.ping(&target).succeeded(),
                stranger.tcp(&format!("[{target}]:80")).is_ok(),
                stranger.tcp(&format!("[{target}]:81")).is_ok(),
            );
            assert_eq!(got, (ping, mapped, unmapped), "{mode} in {world:?}");
        }
    }
}

#[test]
fn test_disable_nat_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for (v4, v6) in [
        ("nat", "routed"),
        ("routed", "nat"),
        ("routed", "routed"),
        ("nat", "nat"),
    ] {
        let name = format!("{v4}-{v6}");
        create(
            &tunbridge,
            &name,
            &["--ipv6", "-o", &gateway_mode(v4), "-o", &gateway_mode6(v6)],
        );
        tunbridge.container_with(&format!("c-{name}"), &["--network", &name, "-p", "80"]);
    }
    let families = |name: &str| {
        let told = tunbridge.inspect(&format!("c-{name}"));
        let bindings = told["NetworkSettings"]["Ports"]["80/tcp"]
            .as_array()
            .cloned();
        let bindings = bindings.unwrap_or_default();
        let with_port = bindings.iter().filter(|binding| {
            let port = binding["HostPort"].as_str().unwrap();
            !port.is_empty() && port != "0"
        });
        let mut addresses: Vec<String> = with_port
            .map(|binding| binding["HostIp"].as_str().unwrap().to_owned())
            .collect();
        addresses.sort();
        addresses
    };
    assert_eq!(families("nat-nat"), ["0.0.0.0", "::"]);
    // The host's IPv6 leads to IPv4, which is translated.
    assert_eq!(families("nat-routed"), ["0.0.0.0", "::"]);
    assert_eq!(families("routed-nat"), ["::"]);
    assert!(families("routed-routed").is_empty());
}

#[test]
fn test_access_port_published_on_loopback_address_ipv6() {
    // moby#45610
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6"]);
    tunbridge.server("c1", &["--network", "both", "-p", "[::1]:8080:80"]);
    lab.host().tcp("[::1]:8080").unwrap();
    lab.host()
        .impatient()
        .tcp("[2001:db8:1::2]:8080")
        .unwrap_err();
    lab.wan()
        .impatient()
        .tcp("[2001:db8:1::2]:8080")
        .unwrap_err();
    let mac = lab.host().mac("ext0");
    let options = ["--interface", "host0", "--to-mac", &mac, "--wait", "0.5"];
    let answer = lab
        .wan()
        .crafted_syn(&options, "[2001:db8:1::1]:5001", "[::1]:8080");
    assert_eq!(answer, "none");
}

#[test]
fn test_mix_any_with_specific_host_addrs_ipv6() {
    // compose#12846
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6"]);
    let ports = [
        "-p",
        "8080:80",
        "-p",
        "[2001:db8:1::2]:8081:80",
        "-p",
        "127.0.0.1:8082:80",
    ];
    tunbridge.server("c1", &[&["--network", "both"], &ports[..]].concat());
    lab.lan().tcp("[2001:db8:1::2]:8080").unwrap();
    lab.lan().tcp("[2001:db8:1::2]:8081").unwrap();
    lab.host().tcp("127.0.0.1:8082").unwrap();
    lab.host().impatient().tcp("[::1]:8082").unwrap_err();
}
