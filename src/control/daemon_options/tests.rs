use std::collections::BTreeMap;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn options(set: impl FnOnce(&mut BridgeOptions)) -> BridgeOptions {
    let mut options = BridgeOptions::default();
    set(&mut options);
    options
}

fn resolve(set: impl FnOnce(&mut BridgeOptions)) -> Result<NetworkConfig, String> {
    on(&HostFacts::default(), set)
}

fn on(host: &HostFacts, set: impl FnOnce(&mut BridgeOptions)) -> Result<NetworkConfig, String> {
    options(set)
        .resolve(host)
        .map(Option::unwrap)
        .map_err(|error| error.to_string())
}

/// Address of the bridge.
fn bridge(config: &NetworkConfig) -> IpNet {
    config.bridge_addresses()[0]
}

fn route(prefix: &str) -> HostFacts {
    HostFacts {
        routes: vec![HostRoute {
            prefix: net(prefix),
            device: "eth0".into(),
        }],
        ..HostFacts::default()
    }
}

#[test]
fn without_flags() {
    let config = resolve(|_| {}).unwrap();
    assert_eq!(
        config,
        NetworkConfig {
            bridge: "tb0".into(),
            managed: true,
            families: vec![FamilyConfig {
                subnet: net("172.17.0.0/16"),
                configured: true,
                allocation_range: None,
                auxiliary: BTreeMap::new(),
                gateway: Some("172.17.0.1".parse().unwrap()),
                bridge_address: true,
                container_gateway: None,
                mode: GatewayMode::Nat,
                masquerade: true,
                source: None,
            }],
            internal: false,
            icc: true,
            mtu: 1500,
            host_address: "0.0.0.0".parse().unwrap(),
            interface_prefix: "eth".into(),
            advertise: Advertise {
                count: 3,
                interval_ms: 1000
            },
            ipv6_address: Ipv6Allocation::Mac,
            ndp_proxy: Vec::new(),
        }
    );
    assert_eq!(
        bridge(&on(&route("172.17.3.0/24"), |_| {}).unwrap()),
        net("172.18.0.1/16")
    );
    assert_eq!(
        options(|o| o.bridge = Some("none".into())).resolve(&HostFacts::default()),
        Ok(None)
    );
}

#[test]
fn the_documented_example() {
    // docker-bridge.md 1.3, the example of Docker's documentation.
    let config = resolve(|o| {
        o.bip = Some("192.168.1.1/24".into());
        o.fixed_cidr = Some("192.168.1.0/25".into());
        o.default_gateway = Some("192.168.1.254".into());
        o.mtu = Some(1400);
        o.ip = Some("198.51.100.2".into());
    })
    .unwrap();
    assert_eq!(bridge(&config), net("192.168.1.1/24"));
    assert_eq!(config.families[0].subnet, net("192.168.1.0/24"));
    assert_eq!(
        config.families[0].allocation_range,
        Some(net("192.168.1.0/25"))
    );
    assert_eq!(
        config.families[0].container_gateway,
        Some("192.168.1.254".parse().unwrap())
    );
    assert_eq!(
        (config.mtu, config.host_address.to_string().as_str()),
        (1400, "198.51.100.2")
    );
}

#[test]
fn where_the_subnet_comes_from() {
    let existing = HostFacts {
        bridge_exists: true,
        bridge_addresses: vec![net("10.5.0.1/24")],
        routes: vec![HostRoute {
            prefix: net("10.5.0.0/24"),
            device: "tb0".into(),
        }],
        ..HostFacts::default()
    };
    assert_eq!(
        bridge(&on(&existing, |_| {}).unwrap()),
        net("10.5.0.1/24"),
        "the bridge's own address and route"
    );
    assert_eq!(
        bridge(&on(&existing, |o| o.bip = Some("10.6.0.1/24".into())).unwrap()),
        net("10.6.0.1/24")
    );
    assert_eq!(
        bridge(&on(&existing, |o| o.fixed_cidr = Some("10.7.0.0/24".into())).unwrap()),
        net("10.7.0.1/24"),
        "an address of our bridge that does not hold --fixed-cidr is replaced"
    );
    let theirs = HostFacts {
        bridge_addresses: vec![net("10.5.0.9/24")],
        bridge_exists: true,
        ..HostFacts::default()
    };
    let config = on(&theirs, |o| o.bridge = Some("br-x".into())).unwrap();
    assert_eq!(
        (bridge(&config), config.managed),
        (net("10.5.0.9/24"), false)
    );
    assert!(
        on(&theirs, |o| {
            o.bridge = Some("br-x".into());
            o.fixed_cidr = Some("10.7.0.0/24".into());
        })
        .unwrap_err()
        .contains("parent subnet 10.5.0.0/24 doesn't contain ip-range")
    );
    let fixed = resolve(|o| o.fixed_cidr = Some("10.8.0.0/25".into())).unwrap();
    assert_eq!(
        (bridge(&fixed), fixed.families[0].allocation_range),
        (net("10.8.0.1/25"), Some(net("10.8.0.0/25")))
    );
    let grown = resolve(|o| {
        o.bip = Some("10.9.0.1/24".into());
        o.fixed_cidr = Some("10.9.0.0/16".into());
    });
    assert_eq!(bridge(&grown.unwrap()), net("10.9.0.1/16"));
}

#[test]
fn overlap_names_the_route_and_the_next_free_subnet() {
    assert_eq!(
        on(&route("172.17.0.0/16"), |o| o.bip =
            Some("172.17.0.1/24".into()))
        .unwrap_err(),
        "--bip 172.17.0.1/24 overlaps the host's route 172.17.0.0/16 (dev eth0): the next free one is --bip 172.18.0.1/16"
    );
    let mut full = route("172.16.0.0/12");
    full.routes.push(HostRoute {
        prefix: net("192.168.0.0/16"),
        device: "eth1".into(),
    });
    assert!(
        on(&full, |_| {})
            .unwrap_err()
            .starts_with("all predefined address pools have been fully subnetted")
    );
    assert!(
        on(&full, |o| o.bip = Some("192.168.1.1/24".into()))
            .unwrap_err()
            .starts_with(
                "--bip 192.168.1.1/24 overlaps the host's route 192.168.0.0/16 (dev eth1), and all"
            )
    );
    assert_eq!(
        bridge(&on(&full, |o| o.bip = Some("10.1.1.1/24".into())).unwrap()),
        net("10.1.1.1/24")
    );
}

#[test]
fn bad_values_name_flag_value_and_fix() {
    let check = |set: fn(&mut BridgeOptions), parts: &[&str]| {
        let message = resolve(set).unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(!message.contains('\n'), "{message}");
    };
    check(
        |o| o.bip = Some("172.17.0.1".into()),
        &[
            "--bip",
            "invalid CIDR address: 172.17.0.1;",
            "172.17.0.1/16",
        ],
    );
    check(
        |o| o.bip = Some("172.17.0.1/33".into()),
        &["invalid CIDR address: 172.17.0.1/33"],
    );
    check(
        |o| o.bip = Some("fd00::1/64".into()),
        &["--bip \"fd00::1/64\"", "--ipv6"],
    );
    check(
        |o| o.bip = Some("172.17.0.0/16".into()),
        &["network address", "give --bip 172.17.0.1/16"],
    );
    check(
        |o| o.bip = Some("172.17.255.255/16".into()),
        &["broadcast address", "give --bip 172.17.0.1/16"],
    );
    check(
        |o| o.bip = Some("10.0.0.1/32".into()),
        &["--bip \"10.0.0.1/32\"", "no room for containers"],
    );
    check(
        |o| o.bip = Some("224.0.0.1/24".into()),
        &["--bip \"224.0.0.1/24\"", "unicast"],
    );
    check(
        |o| o.bip = Some("127.0.0.1/8".into()),
        &["--bip \"127.0.0.1/8\""],
    );
    check(
        |o| o.fixed_cidr = Some("10.0.0.1/24".into()),
        &["invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"],
    );
    check(
        |o| {
            o.bip = Some("10.0.0.1/24".into());
            o.fixed_cidr = Some("10.0.1.0/25".into());
        },
        &[
            "invalid ip-range 10.0.1.0/25: parent subnet 10.0.0.0/24 doesn't contain ip-range",
            "--fixed-cidr",
        ],
    );
    check(
        |o| o.default_gateway = Some("10.0.0.1".into()),
        &[
            "default gateway ip must be part of the network",
            "172.17.0.0/16",
        ],
    );
    check(
        |o| o.default_gateway = Some("172.17.255.255".into()),
        &["--default-gateway", "broadcast"],
    );
    check(
        |o| o.default_gateway = Some("x".into()),
        &["--default-gateway \"x\"", "not an IP address"],
    );
    for (mtu, text) in [(-1, "-1"), (0, "0"), (67, "67"), (65_536, "65536")] {
        let message = resolve(|o| o.mtu = Some(mtu)).unwrap_err();
        assert!(
            message.starts_with(&format!(
                "invalid MTU number: {text} (in --mtu {text}): use 68 to 65535"
            )),
            "{message}"
        );
    }
    assert!(resolve(|o| o.mtu = Some(68)).is_ok() && resolve(|o| o.mtu = Some(65_535)).is_ok());
    check(|o| o.ip = Some("999.1.1.1".into()), &["--ip \"999.1.1.1\""]);
    check(|o| o.ip = Some("::".into()), &["--ip \"::\"", "--ipv6"]);
    check(
        |o| {
            o.bridge = Some("br-x".into());
            o.bip = Some("10.0.0.1/24".into());
        },
        &["You specified -b & --bip, mutually exclusive options. Please specify only one"],
    );
    check(
        |o| o.bridge = Some("br-x".into()),
        &[
            "bridge device with non default name br-x must be created manually",
            "ip link add br-x",
        ],
    );
    check(
        |o| o.bridge = Some("../x".into()),
        &["invalid --bridge \"../x\""],
    );
    check(
        |o| o.bridge = Some("sixteencharacter".into()),
        &["1 to 15 characters"],
    );
    check(
        |o| o.default_address_pools = vec!["x".into()],
        &["--default-address-pool \"x\""],
    );
}
