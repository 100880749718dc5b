//! Clients of IPv6 and containers of IPv4: the forwarder translates (RFC 6146, 7915), there is no proxy.

use super::{create, with_prefix};
use crate::lab::{HOST, HOST6, LAN, Lab, World, in_every_world};

const PUBLISHED: &str = "[2001:db8:1::2]:8080";
const BOTH: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

in_every_world! {
    a_client_of_ipv6_reaches_a_container_of_ipv4
    a_narrow_path_is_found_across_the_translation
    the_host_reaches_it_at_its_loopback
    each_binding_is_for_its_address_alone
}

fn a_client_of_ipv6_reaches_a_container_of_ipv4(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "four", &["--subnet", "10.20.0.0/24"]);
    for (name, network, gateway, at, port) in [
        ("web", "bridge", "172.17.0.1", "172.17.0.2:80", "8080"),
        ("other", "four", "10.20.0.1", "10.20.0.2:80", "8081"),
    ] {
        let (tcp, udp) = (format!("{port}:80"), format!("{port}:80/udp"));
        tunbridge.server(name, &["--network", network, "-p", &tcp, "-p", &udp]);
        let target = format!("[{HOST6}]:{port}");
        for client in [lab.lan(), lab.wan()] {
            for octets in [5, 1400, 4000, 60_000] {
                let answer = client.udp_of(octets, &target).unwrap();
                assert_eq!(answer.saw_address(), gateway, "{octets} octets");
            }
            let answer = client.tcp(&target).unwrap();
            assert_eq!(answer.saw_address(), gateway);
            assert_eq!(answer.at.to_string(), at);
        }
    }
    lab.lan()
        .transfer("get", PUBLISHED, 64 << 20)
        .expect_success();
    lab.lan()
        .transfer("put", PUBLISHED, 64 << 20)
        .expect_success();
    lab.lan()
        .many_short_connections(PUBLISHED, 500)
        .expect_success();
    let held = lab.lan().hold_connections(PUBLISHED, 500);
    assert!(
        held.report.starts_with("held=500 echoed=500 failed=0"),
        "{}",
        held.report
    );
    held.release();
    // IPv4 clients are not hidden by it.
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:8080"))
            .unwrap()
            .saw_address(),
        LAN
    );
    let listing = tunbridge.cli(&["port", "web"]).expect_success().stdout;
    for line in [
        "80/tcp -> 0.0.0.0:8080",
        "80/tcp -> [::]:8080",
        "80/udp -> [::]:8080",
    ] {
        assert!(listing.lines().any(|listed| listed == line), "{listing}");
    }
}

fn a_narrow_path_is_found_across_the_translation(world: World) {
    // Towards the far client, and on the host's own link.
    for options in [["--far-mtu", "1280"], ["--mtu", "1280"]] {
        let lab = Lab::with_options(world, &options);
        let tunbridge = lab.start_daemon(&[]);
        let web = tunbridge.server("web", &BOTH);
        for verb in ["get", "put"] {
            lab.far()
                .transfer(verb, PUBLISHED, 8 << 20)
                .expect_success();
        }
        for octets in [1232, 1233, 1300, 4000] {
            let answer = lab.far().udp_of(octets, PUBLISHED).unwrap();
            assert_eq!(answer.saw_address(), "172.17.0.1", "{octets} octets");
        }
        let log = lab.host().tcp("[::1]:8080").unwrap();
        assert_eq!(log.at.to_string(), "172.17.0.2:80");
        drop(web);
    }
}

fn the_host_reaches_it_at_its_loopback(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    let web = tunbridge.server("web", &BOTH);
    for target in ["[::1]:8080", PUBLISHED] {
        for answer in [
            lab.host().tcp(target),
            lab.host().udp(target),
            lab.host().udp_of(4000, target),
        ] {
            assert_eq!(answer.unwrap().saw_address(), "172.17.0.1", "{target}");
        }
        lab.host()
            .transfer("get", target, 64 << 20)
            .expect_success();
        lab.host()
            .transfer("put", target, 64 << 20)
            .expect_success();
    }
    // Nobody serves there: said at once, to TCP and to UDP.
    tunbridge.container_with("idle", &["-p", "8090:80", "-p", "8090:80/udp"]);
    for place in [lab.host(), lab.lan()] {
        let target = format!("[{HOST6}]:8090");
        let began = std::time::Instant::now();
        for answer in [place.tcp(&target), place.udp(&target)] {
            let error = answer.unwrap_err();
            assert!(error.contains("refused"), "{error}");
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(4));
    }
    // The container itself, whose network has no IPv6, has nobody to reach.
    web.impatient().tcp(PUBLISHED).unwrap_err();
}

fn each_binding_is_for_its_address_alone(world: World) {
    let lab = Lab::in_world(world);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server(
        "web",
        &[
            "-p",
            "[2001:db8:1::2]:8081:80",
            "-p",
            "[::1]:8082:80",
            "-p",
            "[::]:8083:80",
            "-p",
            "0.0.0.0:8084:80",
            "-p",
            "127.0.0.1:8085:80",
        ],
    );
    let (host, lan) = (lab.host().impatient(), lab.lan().impatient());
    for (port, from_host, from_lan) in [
        (8081, &["[2001:db8:1::2]"][..], &["[2001:db8:1::2]"][..]),
        (8082, &["[::1]"], &[]),
        (8083, &["[2001:db8:1::2]", "[::1]"], &["[2001:db8:1::2]"]),
        (8084, &["198.51.100.2", "127.0.0.1"], &["198.51.100.2"]),
        (8085, &["127.0.0.1"], &[]),
    ] {
        let all = ["198.51.100.2", "127.0.0.1", "[2001:db8:1::2]", "[::1]"];
        for address in all {
            let target = format!("{address}:{port}");
            assert_eq!(
                host.tcp(&target).is_ok(),
                from_host.contains(&address),
                "host to {target}"
            );
            if !["127.0.0.1", "[::1]"].contains(&address) {
                assert_eq!(
                    lan.tcp(&target).is_ok(),
                    from_lan.contains(&address),
                    "lan to {target}"
                );
            }
        }
    }
    // What is published on ::1 is the host's alone, whatever arrives from outside.
    let mac = lab.host().mac("ext0");
    let options = ["--interface", "host0", "--to-mac", &mac, "--wait", "0.5"];
    for source in ["[2001:db8:1::1]:5001", "[::1]:5002"] {
        let answer = lab.wan().crafted_syn(&options, source, "[::1]:8082");
        assert_eq!(answer, "none", "{source}");
    }
    let refused = tunbridge
        .cli(&["run", "-d", "-p", "[::]:8083:80", "--", "true"])
        .expect_failure();
    assert!(
        refused
            .stderr
            .contains("Bind for [::]:8083 failed: port is already allocated"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_dual_stack_container_is_reached_by_its_own_family() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    tunbridge.server("web", &BOTH);
    let answer = lab.lan().tcp(PUBLISHED).unwrap();
    assert_eq!(answer.at.to_string(), "[fd00:17::242:ac11:2]:80");
    assert_eq!(answer.saw_address(), "2001:db8:3::9");
}

#[test]
fn a_host_without_ipv6_publishes_on_ipv4_alone() {
    let lab = Lab::with_options(World::Plain, &["--no-ipv6"]);
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &BOTH);
    lab.lan().tcp(&format!("{HOST}:8080")).unwrap();
    let ports = tunbridge
        .cli(&["port", "web", "80"])
        .expect_success()
        .stdout;
    assert_eq!(ports, "0.0.0.0:8080\n");
}
