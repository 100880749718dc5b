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
    let options = options(set);
    let pools = options
        .address_pools("")
        .map_err(|error| error.to_string())?;
    options
        .resolve(host, &pools)
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
            link_local: false,
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
        options(|o| o.bridge = Some("none".into()))
            .resolve(&HostFacts::default(), &AddressPools::default()),
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
fn the_subnet_stays_what_it_was_and_dockerds_comes_last() {
    let chosen = |change: &dyn Fn(&mut HostFacts)| {
        let mut host = HostFacts::default();
        change(&mut host);
        bridge(&on(&host, |_| {}).unwrap())
    };
    let was = |address: &str| vec![net(address)];
    assert_eq!(
        chosen(&|host| host.former_addresses = was("172.19.0.1/16")),
        net("172.19.0.1/16")
    );
    let spared = |host: &mut HostFacts| host.spared_subnets = was("172.17.0.0/16");
    assert_eq!(chosen(&spared), net("172.18.0.1/16"));
    assert_eq!(
        chosen(&|host| {
            spared(host);
            host.former_addresses = was("172.17.0.1/16");
        }),
        net("172.17.0.1/16"),
        "containers know it"
    );
    // What flags said that are not given any more, what is no choice of ours, what somebody else has now.
    for former in ["10.9.0.1/16", "172.19.0.1/24", "172.19.0.9/16"] {
        let found = chosen(&|host| host.former_addresses = was(former));
        assert_eq!(found, net("172.17.0.1/16"), "{former}");
    }
    let taken = chosen(&|host| {
        *host = route("172.19.4.0/24");
        host.former_addresses = was("172.19.0.1/16");
    });
    assert_eq!(taken, net("172.17.0.1/16"));
    let mut host = HostFacts {
        former_addresses: was("172.19.0.1/16"),
        ..HostFacts::default()
    };
    let given = on(&host, |o| o.bip = Some("10.6.0.1/24".into())).unwrap();
    assert_eq!(bridge(&given), net("10.6.0.1/24"));
    // If there is nothing else, dockerd's it is.
    spared(&mut host);
    let pool = "base=172.17.0.0/16,size=24";
    let only = on(&host, |o| o.default_address_pools = vec![pool.into()]).unwrap();
    assert_eq!(bridge(&only), net("172.17.0.1/24"));
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
        &["--bip \"fd00::1/64\"", "--bip6 fd00::1/64"],
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
    check(
        |o| o.ip = Some("ff02::1".into()),
        &["--ip \"ff02::1\"", "ff02::1 is not an address of the host"],
    );
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

/// With `--ipv6`.
fn v6(host: &HostFacts, set: impl FnOnce(&mut BridgeOptions)) -> Result<NetworkConfig, String> {
    on(host, |options| {
        options.ipv6 = true;
        set(options);
    })
}

fn family_v6(set: impl FnOnce(&mut BridgeOptions)) -> FamilyConfig {
    let config = v6(&HostFacts::default(), set).unwrap();
    config.v6().unwrap().clone()
}

#[test]
fn the_ipv6_subnet() {
    // The seed article.
    let article = family_v6(|o| {
        o.fixed_cidr_v6 = Some("2001:db8:ffff::/64".into());
        o.default_gateway_v6 = Some("2001:db8:ffff::1".into());
    });
    assert_eq!(
        article,
        FamilyConfig {
            subnet: net("2001:db8:ffff::/64"),
            configured: true,
            allocation_range: None,
            auxiliary: BTreeMap::new(),
            gateway: Some("2001:db8:ffff::1".parse().unwrap()),
            bridge_address: true,
            container_gateway: None,
            mode: GatewayMode::Routed,
            masquerade: false,
            source: None,
        },
        "a gateway that is the bridge is none of its own"
    );
    let alone = family_v6(|_| {});
    assert_eq!(alone.subnet, net("fd42:98fc:1c14::/64"));
    assert_eq!((alone.mode, alone.masquerade), (GatewayMode::Nat, true));
    assert!(!family_v6(|o| o.ip_masq = false).masquerade);
    let pool = family_v6(|o| {
        o.default_address_pools = vec!["base=2001:db8:4::/56,size=64".into()];
    });
    assert_eq!(pool.subnet, net("2001:db8:4::/64"));
    for prefix in [
        "2001:db8:cccc::/80",
        "2001:db8:cccc::/124",
        "2001:db8:cccc::/126",
        "2001:db8::/32",
    ] {
        let family = family_v6(|o| o.fixed_cidr_v6 = Some(prefix.into()));
        assert_eq!(family.subnet, net(prefix));
    }
    let with_bip = family_v6(|o| {
        o.bip6 = Some("2001:db8:5::99/64".into());
        o.fixed_cidr_v6 = Some("2001:db8:5:0:8000::/80".into());
    });
    assert_eq!(with_bip.bridge_net(), Some(net("2001:db8:5::99/64")));
    assert_eq!(
        with_bip.allocation_range,
        Some(net("2001:db8:5:0:8000::/80"))
    );
    let grown = family_v6(|o| {
        o.bip6 = Some("2001:db8:5::99/64".into());
        o.fixed_cidr_v6 = Some("2001:db8:5::/48".into());
    });
    assert_eq!(grown.bridge_net(), Some(net("2001:db8:5::99/48")));
    let config = v6(&HostFacts::default(), |o| o.ip = Some("2001:db8::2".into())).unwrap();
    assert_eq!(
        config.host_address,
        "2001:db8::2".parse::<IpAddr>().unwrap()
    );
    assert!(config.has_ipv6() && config.families.len() == 2);
    assert_eq!(config.ipv6_address, Ipv6Allocation::Mac);
}

#[test]
fn an_ipv6_address_that_the_bridge_has() {
    let host = HostFacts {
        bridge_exists: true,
        bridge_addresses: vec![net("10.5.0.9/24"), net("2001:db8:7::9/64")],
        ..HostFacts::default()
    };
    let bridge_v6 = |set: fn(&mut BridgeOptions)| {
        let config = v6(&host, set)?;
        Ok::<_, String>(config.v6().unwrap().bridge_net().unwrap())
    };
    assert_eq!(bridge_v6(|_| {}), Ok(net("2001:db8:7::9/64")));
    assert_eq!(
        bridge_v6(|o| o.fixed_cidr_v6 = Some("2001:db8:8::/64".into())),
        Ok(net("2001:db8:8::1/64")),
        "TestDefaultBridgeAddresses: on our own bridge it is replaced"
    );
    let theirs = bridge_v6(|o| {
        o.bridge = Some("br-x".into());
        o.fixed_cidr_v6 = Some("2001:db8:7:0:8000::/80".into());
    });
    assert_eq!(theirs, Ok(net("2001:db8:7::9/64")), "a range in it");
    let error = bridge_v6(|o| {
        o.bridge = Some("br-x".into());
        o.fixed_cidr_v6 = Some("2001:db8:8::/64".into());
    })
    .unwrap_err();
    assert!(
        error.contains("--fixed-cidr-v6 \"2001:db8:8::/64\"")
            && error.contains("parent subnet 2001:db8:7::/64 doesn't contain ip-range"),
        "{error}"
    );
}

#[test]
fn link_local_addresses_alone() {
    let config = v6(&HostFacts::default(), |o| {
        o.fixed_cidr_v6 = Some("fe80::/64".into())
    });
    let config = config.unwrap();
    assert!(config.link_local && config.has_ipv6() && config.v6().is_none());
    let error = v6(&HostFacts::default(), |o| {
        o.fixed_cidr_v6 = Some("fe80::/64".into());
        o.bip6 = Some("2001:db8:5::1/64".into());
    })
    .unwrap_err();
    assert!(
        error.contains("parent subnet 2001:db8:5::/64 doesn't contain ip-range"),
        "{error}"
    );
}

#[test]
fn ipv6_gateways() {
    let gateway = |gateway: &str| {
        let config = v6(&HostFacts::default(), |o| {
            o.fixed_cidr_v6 = Some("2001:db8:1::/64".into());
            o.default_gateway_v6 = Some(gateway.into());
        })?;
        let family = config.v6().unwrap();
        let text = |address: IpAddr| address.to_string();
        Ok::<_, String>((family.container_gateway.map(text), family.auxiliary.len()))
    };
    assert_eq!(gateway("2001:db8:1::1"), Ok((None, 0)));
    assert_eq!(
        gateway("2001:db8:1::ff"),
        Ok((Some("2001:db8:1::ff".into()), 1))
    );
    assert_eq!(gateway("fe80::1"), Ok((Some("fe80::1".into()), 0)));
    for (wrong, part) in [
        (
            "2001:db8:2::1",
            "default gateway ip must be part of the network; choose an address in 2001:db8:1::/64 or change --bip6",
        ),
        (
            "2001:db8:1::",
            "it is the subnet-router anycast address of 2001:db8:1::/64",
        ),
        ("fe80::", "default gateway ip must be part of the network"),
        (
            "10.0.0.1",
            "not IPv6; give it as --default-gateway 10.0.0.1",
        ),
        (
            "x",
            "not an IP address; give one as in --default-gateway-v6 2001:db8:1::ff",
        ),
    ] {
        let error = gateway(wrong).unwrap_err();
        let start = format!("invalid --default-gateway-v6 \"{wrong}\": ");
        assert!(error.starts_with(&start) && error.contains(part), "{error}");
    }
}

#[test]
fn bad_ipv6_values() {
    type Set = fn(&mut BridgeOptions, String);
    let fixed: Set = |o, value| o.fixed_cidr_v6 = Some(value);
    let bip: Set = |o, value| o.bip6 = Some(value);
    for (set, value, expected) in [
        (
            fixed,
            "2001:db8::",
            "invalid --fixed-cidr-v6 \"2001:db8::\": invalid CIDR address: 2001:db8::; give an IPv6 address and prefix length, as in --fixed-cidr-v6 2001:db8:1::/64",
        ),
        (
            fixed,
            "10.0.0.0/8",
            "invalid --fixed-cidr-v6 \"10.0.0.0/8\": not IPv6; give it as --fixed-cidr 10.0.0.0/8",
        ),
        (
            fixed,
            "ff05::/64",
            "invalid --fixed-cidr-v6 \"ff05::/64\": multicast subnet 'ff05::/64' is not allowed",
        ),
        (
            fixed,
            "fe80::/63",
            "invalid --fixed-cidr-v6 \"fe80::/63\": 'fe80::/63' clashes with the Link-Local prefix 'fe80::/64'",
        ),
        (
            fixed,
            "fe80:1::/64",
            "invalid --fixed-cidr-v6 \"fe80:1::/64\": 'fe80:1::/64' clashes with",
        ),
        (
            fixed,
            "fe00::/8",
            "invalid --fixed-cidr-v6 \"fe00::/8\": 'fe00::/8' clashes with",
        ),
        (
            fixed,
            "::ffff:0:0/96",
            "invalid --fixed-cidr-v6 \"::ffff:0:0/96\": ::ffff:0:0/96 is not a subnet for containers",
        ),
        (
            fixed,
            "::/64",
            "invalid --fixed-cidr-v6 \"::/64\": ::/64 is not a subnet for containers",
        ),
        (
            fixed,
            "::/0",
            "invalid --fixed-cidr-v6 \"::/0\": ::/0 is not a subnet for containers",
        ),
        (
            fixed,
            "2000::/7",
            "invalid --fixed-cidr-v6 \"2000::/7\": 2000::/7 is not a subnet for containers",
        ),
        (
            fixed,
            "2001:db8::1/64",
            "invalid --fixed-cidr-v6 \"2001:db8::1/64\": invalid subnet 2001:db8::1/64: it should be 2001:db8::/64; give --fixed-cidr-v6 2001:db8::/64",
        ),
        (
            fixed,
            "2001:db8::/127",
            "invalid --fixed-cidr-v6 \"2001:db8::/127\": a /127 has no room for containers; give a prefix length of at most 126",
        ),
        (
            fixed,
            "2001:db8::/128",
            "invalid --fixed-cidr-v6 \"2001:db8::/128\": a /128 has no room for containers",
        ),
        (
            bip,
            "2001:db8::1/127",
            "invalid --bip6 \"2001:db8::1/127\": a /127 has no room for containers; give a prefix length of at most 126, as in --bip6 2001:db8:1::1/64",
        ),
        (
            bip,
            "2001:db8::/64",
            "invalid --bip6 \"2001:db8::/64\": 2001:db8:: is the subnet-router anycast address of 2001:db8::/64, not one of a host; give --bip6 2001:db8::1/64",
        ),
        (
            bip,
            "fe80::1/64",
            "invalid --bip6 \"fe80::1/64\": 'fe80::1/64' clashes with",
        ),
        (
            bip,
            "172.17.0.1/16",
            "invalid --bip6 \"172.17.0.1/16\": not IPv6; give it as --bip 172.17.0.1/16",
        ),
        (
            |o, value| o.ndp_proxy = vec!["eth0".into(), value],
            "et/h0",
            "invalid --ndp-proxy \"et/h0\": an interface name has",
        ),
        (
            |o, value| o.ndp_proxy = vec!["eth0".into(), value],
            "lo",
            "invalid --ndp-proxy \"lo\": no router or neighbour outside is on that interface; give the name of an uplink",
        ),
        (
            |o, value| o.ndp_proxy = vec![value],
            "tb0",
            "invalid --ndp-proxy \"tb0\": no router",
        ),
        (
            |o, value| o.ndp_proxy = vec![value],
            "tb-0123456789ab",
            "invalid --ndp-proxy \"tb-0123456789ab\": no router",
        ),
        (
            |o, value| {
                o.bridge = Some(value.clone());
                o.ndp_proxy = vec![value];
            },
            "br-x",
            "invalid --ndp-proxy \"br-x\": no router",
        ),
        (
            |o, value| o.default_address_pools = vec![format!("base={value}")],
            "2001:db8::/56",
            "invalid --default-address-pool \"base=2001:db8::/56\": size is missing; give it as base=2001:db8:1::/56,size=64",
        ),
        (
            |o, value| o.mtu = value.parse().ok(),
            "1279",
            "MTU 1279 is too small for IPv6",
        ),
    ] {
        let error = v6(&HostFacts::default(), |o| set(o, value.to_owned())).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let both = resolve(|o| {
        o.bridge = Some("br-x".into());
        o.bip6 = Some("2001:db8::1/64".into());
    });
    assert!(both.unwrap_err().starts_with(
        "You specified -b & --bip6, mutually exclusive options. Please specify only one"
    ));
}

#[test]
fn without_ipv6_the_flags_have_no_effect() {
    let set = |o: &mut BridgeOptions| {
        o.fixed_cidr_v6 = Some("2001:db8:1::/64".into());
        o.default_gateway_v6 = Some("2001:db8:1::ff".into());
        o.ndp_proxy = vec!["eth0".into()];
    };
    assert_eq!(resolve(set).unwrap(), resolve(|_| {}).unwrap());
    assert_eq!(
        options(set).warnings(&HostFacts::default()),
        [
            "--fixed-cidr-v6 2001:db8:1::/64 has no effect without --ipv6: give --ipv6, too",
            "--default-gateway-v6 2001:db8:1::ff has no effect without --ipv6: give --ipv6, too",
            "--ndp-proxy eth0 has no effect without --ipv6: give --ipv6, too",
        ]
    );
    assert!(
        resolve(|o| o.fixed_cidr_v6 = Some("ff00::/8".into())).is_err(),
        "checked all the same"
    );
    let with = |set: fn(&mut BridgeOptions)| {
        let mut options = options(set);
        options.ipv6 = true;
        options.warnings(&HostFacts::default())
    };
    assert_eq!(with(|_| {}), Vec::<String>::new());
    assert_eq!(
        with(|o| o.ndp_proxy = vec!["eth0".into()]),
        ["--ndp-proxy eth0: there is no such interface; answering begins when there is"]
    );
    assert_eq!(
        with(|o| {
            o.fixed_cidr_v6 = Some("fe80::/64".into());
            o.default_gateway_v6 = Some("fe80::1".into());
        })
        .len(),
        1
    );
}

#[test]
fn ipv6_overlaps_and_parts_of_a_link() {
    let host = route("2001:db8:1::/64");
    let wanted = |prefix: &'static str, proxy: &'static [&str]| {
        v6(&host, |o| {
            o.fixed_cidr_v6 = Some(prefix.into());
            o.ndp_proxy = proxy.iter().map(|&name| name.to_owned()).collect();
        })
    };
    assert_eq!(
        wanted("2001:db8:1::/64", &[]).unwrap_err(),
        "--fixed-cidr-v6 2001:db8:1::/64 overlaps the host's route 2001:db8:1::/64 (dev eth0): the next free one is --fixed-cidr-v6 fd42:98fc:1c14::/64"
    );
    assert_eq!(
        wanted("2001:db8:1:0:5::/80", &[]).unwrap_err(),
        "--fixed-cidr-v6 2001:db8:1:0:5::/80 overlaps the host's route 2001:db8:1::/64 (dev eth0): give --ndp-proxy eth0, too, for a part of that link's prefix; else the next free one is --fixed-cidr-v6 fd42:98fc:1c14::/64"
    );
    let bip = v6(&host, |o| o.bip6 = Some("2001:db8:1::5/80".into()));
    let bip = bip.unwrap_err();
    assert!(
        bip.starts_with("--bip6 2001:db8:1::5/80 overlaps")
            && bip.contains("give --ndp-proxy eth0, too")
            && bip.ends_with("the next free one is --bip6 fd42:98fc:1c14::1/64"),
        "{bip}"
    );
    let proxied = wanted("2001:db8:1:0:5::/80", &["eth1", "eth0", "eth0"]).unwrap();
    assert_eq!(proxied.ndp_proxy, ["eth0", "eth1"]);
    assert!(
        wanted("2001:db8:1::/64", &["eth0"]).is_err(),
        "two interfaces with one prefix"
    );
    assert!(wanted("2001:db8::/32", &["eth0"]).is_err());
}
