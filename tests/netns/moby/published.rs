//! Published ports across networks and in the gateway modes (integration/networking).

use super::{address, create, gateway_mode};
use crate::lab::{HOST, LAN, Lab, World};

#[test]
fn test_access_to_published_port() {
    // moby#49509
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    create(&tunbridge, "routed", &["-o", &gateway_mode("routed")]);
    tunbridge.server("server", &["-p", "8080:80", "-p", "8080:80/udp"]);
    for network in ["bridge", "one", "routed"] {
        let client = tunbridge.container_with(&format!("c-{network}"), &["--network", network]);
        client.tcp(&format!("{HOST}:8080")).unwrap();
        client.udp(&format!("{HOST}:8080")).unwrap();
        client.tcp("172.17.0.1:8080").unwrap();
    }
}

#[test]
fn test_access_published_port_from_another_network() {
    // moby#49310
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "client", &[]);
    create(&tunbridge, "server", &[]);
    tunbridge.server("ss", &["--network", "server", "-p", "8080:80"]);
    let client = tunbridge.container_with("cc", &["--network", "client"]);
    for host_address in [HOST, "172.17.0.1", "172.18.0.1", "172.19.0.1"] {
        let answer = client.tcp(&format!("{host_address}:8080")).unwrap();
        assert_eq!(answer.saw_address(), "172.19.0.1", "at {host_address}");
    }
}

#[test]
fn test_access_published_port_from_ctr() {
    // moby#12632, moby#48664
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let server = tunbridge.server("ss", &["--network", "one", "-p", "8080:80"]);
    let neighbour = tunbridge.container_with("cc", &["--network", "one"]);
    for client in [server, neighbour] {
        for host_address in [HOST, "172.18.0.1"] {
            client.tcp(&format!("{host_address}:8080")).unwrap();
        }
    }
}

#[test]
fn test_access_published_port_from_host() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.server("ss", &["--network", "one", "-p", "8080:80"]);
    for address in [HOST, "127.0.0.1", "172.17.0.1", "172.18.0.1"] {
        lab.host().tcp(&format!("{address}:8080")).unwrap();
    }
}

#[test]
fn test_access_published_port_from_remote_host() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.server("ss", &["--network", "one", "-p", "8080:80"]);
    let answer = lab.lan().tcp("198.51.100.2:8080").unwrap();
    assert_eq!(answer.saw_address(), LAN);
}

#[test]
fn test_port_mapped_hairpin_tcp() {
    hairpin("tcp");
}

#[test]
fn test_port_mapped_hairpin_udp() {
    hairpin("udp");
}

/// libnetwork#1729
fn hairpin(protocol: &str) {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "server", &[]);
    create(&tunbridge, "client", &[]);
    let spec = format!("80/{protocol}");
    tunbridge.server("ss", &["--network", "server", "-p", &spec]);
    let listing = tunbridge
        .cli(&["port", "ss", &spec])
        .expect_success()
        .stdout;
    let port = listing.trim().rsplit(':').next().unwrap().to_owned();
    let client = tunbridge.container_with("cc", &["--network", "client"]);
    let target = format!("{HOST}:{port}");
    match protocol {
        "tcp" => client.tcp(&target).unwrap(),
        _ => client.udp(&target).unwrap(),
    };
}

#[test]
fn test_direct_routing_open_ports() {
    for world in [World::Plain, World::Hostile] {
        let lab = Lab::in_world(world);
        let tunbridge = lab.start_daemon(&[]);
        for (number, mode) in ["nat", "routed", "nat-unprotected"].into_iter().enumerate() {
            let subnet = format!("10.30.{number}.0/24");
            create(
                &tunbridge,
                mode,
                &["--subnet", &subnet, "-o", &gateway_mode(mode)],
            );
            let command = crate::lab::server_command(&["80", "81"]);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let published = format!("{}:80", 8080 + number);
            tunbridge
                .run(mode, &["--network", mode, "-p", &published], &command)
                .wait_until_it_serves(81);
            for (place, via) in [(lab.lan(), "203.0.113.1"), (lab.wan(), HOST)] {
                place
                    .run(&["ip", "route", "add", &subnet, "via", via])
                    .expect_success();
            }
        }
        let stranger = lab.lan().impatient();
        for (number, ping, mapped, unmapped) in [
            (0, false, false, false),
            (1, true, true, false),
            (2, true, true, true),
        ] {
            let server = format!("10.30.{number}.2");
            let got = (
                stranger.ping(&server).succeeded(),
                stranger.tcp(&format!("{server}:80")).is_ok(),
                stranger.tcp(&format!("{server}:81")).is_ok(),
            );
            assert_eq!(got, (ping, mapped, unmapped), "{server} in {world:?}");
        }
        let seen = stranger.tcp("10.30.1.2:80").unwrap();
        assert_eq!(seen.saw_address(), LAN);
    }
}

#[test]
fn test_routed_non_gateway() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "a-nat", &["--subnet", "10.30.0.0/24"]);
    create(
        &tunbridge,
        "b-routed",
        &["--subnet", "10.30.1.0/24", "-o", &gateway_mode("routed")],
    );
    let both = [
        "--network",
        "a-nat",
        "--network",
        "b-routed",
        "-p",
        "8080:80",
    ];
    let server = tunbridge.server("ss", &both);
    let route = server.run(&["ip", "route", "show", "default"]).stdout;
    assert!(route.contains("via 10.30.0.1"), "{route}");
    for (place, via) in [(lab.lan(), "203.0.113.1"), (lab.wan(), HOST)] {
        place
            .run(&["ip", "route", "add", "10.30.1.0/24", "via", via])
            .expect_success();
    }
    lab.lan().tcp("198.51.100.2:8080").unwrap();
    // The answers leave by the other interface unless the container routes by source, as in moby's test.
    let from = address(&tunbridge, "ss", "b-routed");
    for line in [
        "ip route add default via 10.30.1.1 dev eth1 table 100".to_owned(),
        format!("ip rule add from {from} lookup 100"),
    ] {
        server.shell(&line).expect_success();
    }
    let answer = lab.lan().tcp(&format!("{from}:80")).unwrap();
    assert_eq!(answer.saw_address(), LAN);
}

#[test]
fn test_disable_nat() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "nat", &[]);
    create(&tunbridge, "routed", &["-o", &gateway_mode("routed")]);
    for (network, bindings) in [
        (
            "nat",
            serde_json::json!([
                {"HostIp": "0.0.0.0", "HostPort": "8080"},
                {"HostIp": "::", "HostPort": "8080"},
            ]),
        ),
        (
            "routed",
            serde_json::json!([{"HostIp": "0.0.0.0", "HostPort": ""}]),
        ),
    ] {
        tunbridge.container_with("cc", &["--network", network, "-p", "8080:80"]);
        let ports = tunbridge.inspect("cc")["NetworkSettings"]["Ports"].clone();
        assert_eq!(ports, serde_json::json!({"80/tcp": bindings}), "{network}");
        tunbridge.cli(&["rm", "-f", "cc"]).expect_success();
    }
}

#[test]
fn test_mix_any_with_specific_host_addrs() {
    // compose#12846
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let ports = [
        "-p",
        "80/tcp",
        "-p",
        "127.0.0.1:8080:80",
        "-p",
        "198.51.100.2:8081:80",
    ];
    tunbridge.server("ss", &[&["--network", "one"], &ports[..]].concat());
    lab.host().tcp("127.0.0.1:8080").unwrap();
    lab.lan().tcp("198.51.100.2:8081").unwrap();
    lab.lan().impatient().tcp("198.51.100.2:8080").unwrap_err();
}

#[test]
fn test_port_mapping_on_distinct_loopback_addrs() {
    // moby#52783
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    for last in [2, 3] {
        let spec = format!("127.0.0.{last}:8080:80");
        let name = format!("s{last}");
        tunbridge.server(&name, &["--network", "one", "-p", &spec]);
    }
    for last in [2, 3] {
        let answer = lab.host().tcp(&format!("127.0.0.{last}:8080")).unwrap();
        assert!(
            answer
                .at
                .to_string()
                .starts_with(&format!("172.18.0.{last}:")),
            "{answer:?}"
        );
    }
}

#[test]
fn test_published_port_already_in_use() {
    // moby#49501
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.container_with("first", &["--network", "one", "-p", "8080:80"]);
    let refused = tunbridge
        .cli(&[
            "run",
            "-d",
            "--name",
            "second",
            "--network",
            "one",
            "-p",
            "8080:80",
            "--",
            "true",
        ])
        .expect_failure();
    for text in [
        "failed to set up container networking: driver failed programming external connectivity on endpoint second (",
        "): Bind for 0.0.0.0:8080 failed: port is already allocated",
    ] {
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
    }
    assert_eq!(tunbridge.names(&["-a"]), ["first"]);
}

#[test]
fn test_bindings_follow_the_gateway_endpoint() {
    // docker-bridge's rule: NAT bindings are those of the endpoint that is the default gateway's.
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "a", &["--subnet", "10.30.0.0/24"]);
    create(&tunbridge, "b", &["--subnet", "10.30.1.0/24"]);
    let server = tunbridge.server("ss", &["--network", "b", "-p", "8080:80"]);
    let at = || lab.lan().tcp("198.51.100.2:8080").unwrap().at.to_string();
    assert_eq!(at(), "10.30.1.2:80");
    tunbridge
        .cli(&["network", "connect", "a", "ss"])
        .expect_success();
    assert_eq!(at(), "10.30.0.2:80");
    tunbridge
        .cli(&["network", "disconnect", "a", "ss"])
        .expect_success();
    assert_eq!(at(), "10.30.1.2:80");
    drop(server);
}
