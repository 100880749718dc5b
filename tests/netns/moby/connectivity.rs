//! Reachability, isolation, and which network leads outside (integration/networking, integration/network/bridge).

use super::{address, create, endpoint, gateway_mode};
use crate::lab::{FAR, HOST, Lab, Outcome, Place, World};
use crate::tunbridge_under_test::Tunbridge;

const NAT1: [&str; 2] = ["--subnet", "10.20.1.0/24"];
const NAT2: [&str; 2] = ["--subnet", "10.20.2.0/24"];

/// Where the container's default route leads: gateway and interface, or nothing.
fn default_route(container: &Place) -> String {
    let routes = container.run(&["ip", "route", "show", "default"]);
    routes.stdout.trim().to_owned()
}

/// With the names that the container itself knows.
fn ping_by_name(tunbridge: &Tunbridge<'_>, container: &str, name: &str) -> Outcome {
    tunbridge.cli(&[
        "exec", container, "--", "ping", "-n", "-c", "1", "-W", "2", name,
    ])
}

#[test]
fn test_bridge_icc() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "open", &NAT1);
    create(&tunbridge, "closed", &[&NAT2[..], &["--internal"]].concat());
    for network in ["open", "closed"] {
        let one = tunbridge.container_with(&format!("one-{network}"), &["--network", network]);
        let two = format!("two-{network}");
        tunbridge.container_with(&two, &["--network", network]);
        ping_by_name(&tunbridge, one.name(), &two).expect_success();
        one.ping(&address(&tunbridge, &two, network))
            .expect_success();
    }
}

#[test]
fn test_bridge_inc() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &NAT1);
    create(&tunbridge, "two", &NAT2);
    create(&tunbridge, "inside", &["--internal"]);
    let one = tunbridge.container_with("c1", &["--network", "one"]);
    tunbridge.container_with("c2", &["--network", "two"]);
    let inside = tunbridge.container_with("c3", &["--network", "inside"]);

    let target = address(&tunbridge, "c2", "two");
    let silence = one.ping(&target).expect_failure();
    assert!(
        silence.stdout.contains("0 received"),
        "{}",
        silence.output()
    );
    let no_route = inside.ping(&target).expect_failure();
    assert!(
        no_route.output().contains("Network is unreachable"),
        "{}",
        no_route.output()
    );
    ping_by_name(&tunbridge, "c1", "c2").expect_failure();
}

#[test]
fn test_bridge_inc_routed() {
    for world in [World::Plain, World::Hostile] {
        let lab = Lab::in_world(world);
        let tunbridge = lab.start_daemon(&[]);
        create(&tunbridge, "nat", &NAT1);
        create(
            &tunbridge,
            "routed",
            &[&NAT2[..], &["-o", &gateway_mode("routed")]].concat(),
        );
        let nat = tunbridge.server("c-nat", &["--network", "nat", "-p", "8080:80"]);
        let routed = tunbridge.server("c-routed", &["--network", "routed", "-p", "80"]);
        let (nat_address, routed_address) = (
            address(&tunbridge, "c-nat", "nat"),
            address(&tunbridge, "c-routed", "routed"),
        );
        nat.ping(&routed_address).expect_success();
        let answer = nat.tcp(&format!("{routed_address}:80")).unwrap();
        assert_eq!(answer.saw_address(), "10.20.2.1", "as from its own gateway");
        routed.ping(&nat_address).expect_failure();
        routed
            .impatient()
            .tcp(&format!("{nat_address}:80"))
            .unwrap_err();
    }
}

#[test]
fn test_inter_network_direct_routing() {
    // moby#49509
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "client", &NAT1);
    let client = tunbridge
        .container_with("cc", &["--network", "client"])
        .impatient();
    for (mode, reachable) in [("nat", false), ("nat-unprotected", true)] {
        create(&tunbridge, mode, &["-o", &gateway_mode(mode)]);
        tunbridge.server(&format!("s-{mode}"), &["--network", mode, "-p", "80"]);
        let server = address(&tunbridge, &format!("s-{mode}"), mode);
        assert_eq!(
            client.tcp(&format!("{server}:80")).is_ok(),
            reachable,
            "{mode}"
        );
    }
}

#[test]
fn test_internal_nw_connectivity() {
    // moby#47329
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "inside",
        &["--internal", "--subnet", "10.20.3.0/24"],
    );
    let inside = tunbridge.server("c1", &["--network", "inside", "-p", "8080:80"]);
    inside.ping("10.20.3.1").expect_success();
    lab.host().ping("10.20.3.2").expect_success();
    let answer = lab.host().tcp("10.20.3.2:80").unwrap();
    assert_eq!(answer.saw_address(), "10.20.3.1");
    for outside in [FAR, HOST, "172.17.0.1"] {
        let refused = inside.ping(outside).expect_failure();
        assert!(
            refused.output().contains("Network is unreachable"),
            "{}",
            refused.output()
        );
    }
    assert_eq!(default_route(&inside), "");
    assert!(
        !tunbridge.cli(&["port", "c1"]).stdout.contains("8080"),
        "nothing of an internal network is published"
    );
    lab.lan().impatient().tcp("198.51.100.2:8080").unwrap_err();
    // A route of the container's own does not make a way out.
    inside
        .run(&["ip", "route", "add", "default", "via", "10.20.3.1"])
        .expect_success();
    for outside in [FAR, HOST, "172.17.0.1"] {
        inside.ping(outside).expect_failure();
    }
}

#[test]
fn test_isolated() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let alone = create(
        &tunbridge,
        "alone",
        &[
            "--internal",
            "--subnet",
            "10.20.4.0/24",
            "-o",
            &gateway_mode("isolated"),
        ],
    );
    let c1 = tunbridge.server("c1", &["--network", "alone"]);
    let c2 = tunbridge.container_with("c2", &["--network", "alone"]);
    assert_eq!(
        address(&tunbridge, "c1", "alone"),
        "10.20.4.1",
        "no gateway takes the first address"
    );
    assert_eq!(endpoint(&tunbridge, "c1", "alone")["Gateway"], "");
    c2.tcp("10.20.4.1:80").unwrap();
    ping_by_name(&tunbridge, "c2", "c1").expect_success();
    let bridge = format!("tb-{}", &alone[..12]);
    let addresses = lab
        .host()
        .run(&["ip", "-o", "address", "show", &bridge])
        .expect_success();
    assert!(
        !addresses.stdout.contains("inet"),
        "the bridge has none: {}",
        addresses.stdout
    );
    lab.host().ping("10.20.4.1").expect_failure();
    assert_eq!(default_route(&c1), "");
    // Not even a host that gives itself an address there, and a container that knows the bridge.
    let mac = lab.host().mac(&bridge);
    assert_eq!(
        c2.crafted_syn(&["--to-mac", &mac], "10.20.4.2:5000", "198.51.100.2:22"),
        "none"
    );
}

#[test]
fn test_point_to_point() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for (name, option, subnet) in [
        ("isolated", gateway_mode("isolated"), "10.20.5.0/31"),
        (
            "inhibited",
            "com.docker.network.bridge.inhibit_ipv4=true".to_owned(),
            "10.20.5.2/31",
        ),
    ] {
        create(
            &tunbridge,
            name,
            &["--internal", "--subnet", subnet, "-o", &option],
        );
        let (one, two) = (format!("{name}1"), format!("{name}2"));
        let first = tunbridge.container_with(&one, &["--network", name]);
        tunbridge.container_with(&two, &["--network", name]);
        ping_by_name(&tunbridge, first.name(), &two).expect_success();
    }
}

#[test]
fn test_create_with_multi_networks() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &NAT1);
    create(&tunbridge, "two", &NAT2);
    let c1 = tunbridge.container_with("c1", &["--network", "one", "--network", "two"]);
    let addresses = c1.run(&["ip", "-o", "-4", "address"]).stdout;
    let names: Vec<&str> = addresses
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(names, ["lo", "eth0", "eth1"], "{addresses}");
}

#[test]
fn test_gateway_selection() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "a", &["--subnet", "10.20.1.0/24"]);
    create(&tunbridge, "b", &["--subnet", "10.20.2.0/24"]);
    create(
        &tunbridge,
        "inside",
        &["--internal", "--subnet", "10.20.3.0/24"],
    );
    create(&tunbridge, "z", &["--subnet", "10.20.4.0/24"]);
    let _server = lab.far().serve(&["7000"]);
    let c1 = tunbridge.container_with("c1", &["--network", "inside"]);
    let connect = |words: &[&str]| {
        tunbridge
            .cli(&[&["network", "connect"], words].concat())
            .expect_success();
    };
    let disconnect = |network: &str| {
        tunbridge
            .cli(&["network", "disconnect", network, "c1"])
            .expect_success();
    };
    assert_eq!(default_route(&c1), "", "an internal network leads nowhere");
    connect(&["b", "c1"]);
    assert_eq!(default_route(&c1), "default via 10.20.2.1 dev eth1");
    connect(&["a", "c1"]);
    assert_eq!(
        default_route(&c1),
        "default via 10.20.1.1 dev eth2",
        "the first by name"
    );
    connect(&["--gw-priority", "1", "z", "c1"]);
    assert_eq!(default_route(&c1), "default via 10.20.4.1 dev eth3");
    assert_eq!(c1.tcp("192.0.2.9:7000").unwrap().saw_address(), HOST);
    disconnect("z");
    assert_eq!(default_route(&c1), "default via 10.20.1.1 dev eth2");
    disconnect("a");
    assert_eq!(default_route(&c1), "default via 10.20.2.1 dev eth1");
    assert_eq!(c1.tcp("192.0.2.9:7000").unwrap().saw_address(), HOST);
    disconnect("b");
    assert_eq!(default_route(&c1), "");
    connect(&["b", "c1"]);
    assert_eq!(
        default_route(&c1),
        "default via 10.20.2.1 dev eth1",
        "the lowest free interface name"
    );
    tunbridge
        .cli(&["restart", "-t", "0", "c1"])
        .expect_success();
    let c1 = lab.place("c1");
    assert!(
        default_route(&c1).starts_with("default via 10.20.2.1 dev "),
        "{}",
        default_route(&c1)
    );
}

#[test]
fn test_gateway_error_on_net_disconnect() {
    // moby#51578: the container has spoilt its own routes.
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &NAT1);
    create(&tunbridge, "two", &NAT2);
    let c1 = tunbridge.container_with("c1", &["--network", "one", "--network", "two"]);
    c1.run(&["ip", "link", "set", "eth1", "down"])
        .expect_success();
    tunbridge
        .cli(&["network", "disconnect", "one", "c1"])
        .expect_success();
    tunbridge
        .cli(&["network", "connect", "one", "c1"])
        .expect_success();
    tunbridge
        .cli(&["restart", "-t", "0", "c1"])
        .expect_success();
    lab.place("c1").ping("10.20.1.1").expect_success();
}

#[test]
fn test_join_error() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "inside",
        &["--internal", "--subnet", "10.20.3.0/24"],
    );
    create(&tunbridge, "one", &NAT1);
    let c1 = tunbridge.container_with("c1", &["--network", "inside"]);
    c1.run(&["ip", "route", "add", "default", "via", "10.20.3.1"])
        .expect_success();
    let refused = tunbridge
        .cli(&["network", "connect", "one", "c1"])
        .expect_failure();
    assert!(
        refused
            .stderr
            .contains("failed to set gateway: file exists"),
        "{}",
        refused.stderr
    );
    assert!(
        endpoint(&tunbridge, "c1", "one").is_null(),
        "not in inspect"
    );
    assert!(
        !c1.run(&["ip", "-o", "link"]).stdout.contains("eth1"),
        "no interface"
    );
    c1.run(&["ip", "route", "delete", "default"])
        .expect_success();
    tunbridge
        .cli(&["network", "connect", "one", "c1"])
        .expect_success();
    assert_eq!(default_route(&c1), "default via 10.20.1.1 dev eth1");
}

#[test]
fn test_drop_in_forward_chain() {
    // moby#49518
    let lab = Lab::in_world(World::Hostile);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &NAT1);
    let c1 = tunbridge.server("c1", &["--network", "one", "-p", "8080:80"]);
    let _server = lab.far().serve(&["7000"]);
    assert_eq!(c1.tcp("192.0.2.9:7000").unwrap().saw_address(), HOST);
    lab.lan().tcp("198.51.100.2:8080").unwrap();
}

#[test]
fn test_network_inspect_gateway() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let gateway = super::network(&tunbridge, "one")["IPAM"]["Config"][0]["Gateway"].clone();
    let gateway: std::net::IpAddr = gateway.as_str().unwrap().parse().expect("an address");
    assert_eq!(gateway.to_string(), "172.18.0.1");
}
