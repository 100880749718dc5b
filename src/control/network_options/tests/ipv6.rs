use super::*;

/// With IPv6; `pools` as for [`with_ipam`].
fn v6(pools: &[&str]) -> CreateNetwork {
    CreateNetwork {
        enable_ipv6: Some(true),
        ..with_ipam(pools)
    }
}

fn with(mut request: CreateNetwork, options: &[(&str, &str)]) -> CreateNetwork {
    request.options.extend(with_options(options).options);
    request
}

fn family_v6(request: &CreateNetwork) -> FamilyConfig {
    let checked = World::new().check(request).unwrap();
    checked.config.v6().unwrap().clone()
}

#[test]
fn test_create_with_ipv6_defaults_to_ula_prefix() {
    let checked = World::new().check(&v6(&[])).unwrap();
    assert_eq!(checked.warnings, Vec::<String>::new());
    assert_eq!(
        checked.config.families[1],
        FamilyConfig {
            subnet: net("fd42:98fc:1c14::/64"),
            configured: false,
            allocation_range: None,
            auxiliary: BTreeMap::new(),
            gateway: Some(ip("fd42:98fc:1c14::1")),
            bridge_address: true,
            container_gateway: None,
            mode: GatewayMode::Nat,
            masquerade: true,
            source: None,
        }
    );
    assert_eq!(checked.config.families[0].subnet, net("172.18.0.0/16"));
    assert_eq!(checked.config.ipv6_address, Ipv6Allocation::Sequential);
}

#[test]
fn families_in_any_order() {
    let both = ["2001:db8:e::/64 - 2001:db8:e::fe", "10.9.0.0/24"];
    for pools in [both, [both[1], both[0]]] {
        let config = World::new().check(&v6(&pools)).unwrap().config;
        let subnets: Vec<IpNet> = config.families.iter().map(|family| family.subnet).collect();
        assert_eq!(subnets, [net("10.9.0.0/24"), net("2001:db8:e::/64")]);
        assert_eq!(config.families[1].gateway, Some(ip("2001:db8:e::fe")));
    }
    let only = CreateNetwork {
        enable_ipv4: Some(false),
        ..v6(&["2001:db8:e::/64 2001:db8:e:0:8000::/65"])
    };
    let config = World::new().check(&only).unwrap().config;
    assert!(config.v4().is_none() && config.has_ipv6());
    let family = config.v6().unwrap();
    assert_eq!(family.allocation_range, Some(net("2001:db8:e:0:8000::/65")));
    assert_eq!(
        family.gateway,
        Some(ip("2001:db8:e:0:8000::")),
        "the first of the range"
    );
}

#[test]
fn a_subnet_of_a_family_that_the_network_does_not_have() {
    let checked = World::new()
        .check(&with_ipam(&["2001:db8:e::/64"]))
        .unwrap();
    assert!(checked.config.v6().is_none());
    assert_eq!(
        checked.warnings,
        ["--subnet 2001:db8:e::/64 has no effect without --ipv6"]
    );
    let only = CreateNetwork {
        enable_ipv4: Some(false),
        ..v6(&["10.9.0.0/24"])
    };
    let checked = World::new().check(&only).unwrap();
    assert_eq!(
        checked.warnings,
        ["--subnet 10.9.0.0/24 has no effect with --ipv4=false"]
    );
}

#[test]
fn the_mode_follows_the_prefix() {
    let mode = |subnet: &str, options: &[(&str, &str)]| {
        let family = family_v6(&with(v6(&[subnet]), options));
        (family.mode, family.masquerade)
    };
    assert_eq!(mode("2001:db8:e::/64", &[]), (GatewayMode::Routed, false));
    assert_eq!(mode("2a00:1450::/64", &[]), (GatewayMode::Routed, false));
    assert_eq!(mode("fd00:5::/64", &[]), (GatewayMode::Nat, true));
    assert_eq!(mode("fc00:5::/64", &[]), (GatewayMode::Nat, true));
    let nat = [(GATEWAY_MODE_IPV6, "nat")];
    assert_eq!(mode("2001:db8:e::/64", &nat), (GatewayMode::Nat, true));
    let routed = [(GATEWAY_MODE_IPV6, "routed")];
    assert_eq!(mode("fd00:5::/64", &routed), (GatewayMode::Routed, false));
    let v4 = family(&with(
        v6(&["2001:db8:e::/64"]),
        &[(GATEWAY_MODE_IPV6, "routed")],
    ));
    assert_eq!(v4.mode, GatewayMode::Nat, "each family has its own");
}

#[test]
fn isolated_per_family() {
    let isolated = |label, internal| CreateNetwork {
        internal,
        ..with(v6(&["fd00:5::/127"]), &[(label, "isolated")])
    };
    let family = family_v6(&isolated(GATEWAY_MODE_IPV6, true));
    assert!(!family.bridge_address && family.gateway.is_none());
    let v4 = World::new()
        .check(&isolated(GATEWAY_MODE_IPV6, true))
        .unwrap();
    assert!(v4.config.v4().unwrap().bridge_address);
    let error = World::new().error(&isolated(GATEWAY_MODE_IPV6, false));
    assert_eq!(
        error,
        "gateway mode 'isolated' can only be used for an internal network: add --internal, or choose another com.docker.network.bridge.gateway_mode_ipv6"
    );
    // inhibit_ipv4 is what its name says.
    let family = family_v6(&with(v6(&["fd00:5::/64"]), &[(INHIBIT_IPV4, "true")]));
    assert!(family.bridge_address);
}

#[test]
fn sizes_are_taken_from_the_default_pools() {
    assert_eq!(family_v6(&v6(&["::/0"])).subnet, net("fd42:98fc:1c14::/64"));
    assert_eq!(
        family_v6(&v6(&["::/56"])).subnet,
        net("fd42:98fc:1c14::/56")
    );
    assert_eq!(
        family_v6(&v6(&["::/126"])).subnet,
        net("fd42:98fc:1c14::/126")
    );
    let error = World::new().error(&v6(&["::/40"]));
    assert!(
        error.starts_with("invalid address pool: no default pool"),
        "{error}"
    );
}

#[test]
fn options_of_ipv6() {
    let mut world = World::new();
    world.host.interfaces = vec!["ext0".into(), "ext1".into()];
    let options = [
        (IPV6_ADDRESS, "stable"),
        (NDP_PROXY, "ext1, ext0,ext1"),
        (HOST_IPV6, "2001:db8:1::2"),
        (HOST_BINDING_IPV4, "2001:db8:1::2"),
    ];
    let checked = world
        .check(&with(v6(&["2001:db8:e::/64"]), &options))
        .unwrap();
    let config = checked.config;
    assert_eq!(checked.warnings, Vec::<String>::new());
    assert_eq!(config.ipv6_address, Ipv6Allocation::Stable);
    assert_eq!(config.ndp_proxy, ["ext0", "ext1"]);
    assert_eq!(config.v6().unwrap().source, Some(ip("2001:db8:1::2")));
    assert_eq!(config.host_address, ip("2001:db8:1::2"));
    let warned = |request: &CreateNetwork| world.check(request).unwrap().warnings;
    assert_eq!(
        warned(&with(v6(&["2001:db8:e::/64"]), &[(NDP_PROXY, "ext0,eth7")])),
        [
            "com.tunbridge.ndp_proxy eth7: there is no such interface; answering begins when there is"
        ]
    );
    let translated = "com.tunbridge.ndp_proxy has no effect: IPv6 addresses of this network are translated to the host's, for which the host answers (gateway mode nat, the default of ULA subnets); it is for global prefixes and com.docker.network.bridge.gateway_mode_ipv6=routed";
    assert_eq!(warned(&with(v6(&[]), &[(NDP_PROXY, "ext0")])), [translated]);
    let without_nat = [(NDP_PROXY, "ext0"), (ENABLE_IP_MASQUERADE, "false")];
    assert_eq!(warned(&with(v6(&[]), &without_nat)), Vec::<String>::new());
    let internal = CreateNetwork {
        internal: true,
        ..with(v6(&[]), &[(NDP_PROXY, "ext0")])
    };
    assert_eq!(
        warned(&internal),
        [
            "com.tunbridge.ndp_proxy has no effect: nobody outside may talk to containers of an internal network"
        ]
    );
    assert_eq!(
        warned(&with_options(&[(NDP_PROXY, "ext0")])),
        ["com.tunbridge.ndp_proxy has no effect without --ipv6"]
    );
    assert_eq!(
        warned(&with_options(&[("com.tunbridge.ndpproxy", "ext0")])),
        ["option com.tunbridge.ndpproxy is not known and has no effect: is it misspelt?"]
    );
    for (label, value, expected) in [
        (
            IPV6_ADDRESS,
            "eui64",
            "eui64 (unknown way to choose addresses): give mac, sequential or stable",
        ),
        (
            NDP_PROXY,
            "ext0,,ext1",
            "ext0,,ext1 (\"\" is no name of an interface): ",
        ),
        (
            NDP_PROXY,
            "ext/0",
            "ext/0 (\"ext/0\" is no name of an interface): ",
        ),
        (
            NDP_PROXY,
            "lo",
            "lo (no router or neighbour outside is on lo): give the name of an uplink",
        ),
        (NDP_PROXY, "tb0,ext0", "tb0 (no router or neighbour outside"),
        (
            HOST_IPV6,
            "10.0.0.1",
            "10.0.0.1 (not a source address): give an IPv6 address",
        ),
        (HOST_IPV6, "fe80::1", "fe80::1 (not a source address): "),
        (HOST_IPV6, "::", ":: (not a source address): "),
        (HOST_IPV6, "ff02::1", "ff02::1 (not a source address): "),
        (
            HOST_IPV6,
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.1 (not a source address): ",
        ),
        (
            HOST_IPV4,
            "2001:db8::1",
            "2001:db8::1 (not a source address): give an IPv4 address",
        ),
        (
            GATEWAY_MODE_IPV6,
            "bridge",
            "bridge (unknown gateway mode bridge): ",
        ),
    ] {
        let error = world.error(&with(v6(&[]), &[(label, value)]));
        let expected = format!("failed to parse {label} value: {expected}");
        assert!(error.starts_with(&expected), "{error}");
    }
    let error = world.error(&with(v6(&[]), &[(DRIVER_MTU, "1279")]));
    assert!(
        error.starts_with("MTU 1279 is too small for IPv6"),
        "{error}"
    );
    assert!(world.check(&with(v6(&[]), &[(DRIVER_MTU, "1280")])).is_ok());
}

#[test]
fn the_containers_gateway() {
    let inside = family_v6(&v6(&[
        "2001:db8:e::/64 - - DefaultGatewayIPv6=2001:db8:e::ff",
    ]));
    assert_eq!(inside.container_gateway, Some(ip("2001:db8:e::ff")));
    assert_eq!(inside.auxiliary.len(), 1);
    let bridge = family_v6(&v6(&["2001:db8:e::/64 - - DefaultGatewayIPv6=fe80::1"]));
    assert_eq!(bridge.container_gateway, Some(ip("fe80::1")));
    assert_eq!(
        (bridge.gateway, bridge.auxiliary.len()),
        (Some(ip("2001:db8:e::1")), 0)
    );
}

#[test]
fn bad_subnets() {
    for (pools, expected) in [
        (
            &["fd00::1/64"][..],
            "invalid network config: invalid subnet fd00::1/64: it should be fd00::/64",
        ),
        (
            &["fd00:5::/64 fd00:6::/80"],
            "invalid network config: invalid ip-range fd00:6::/80: parent subnet fd00:5::/64 doesn't contain ip-range",
        ),
        (
            &["fd00:5::/64 fd00::/48"],
            "invalid network config: invalid ip-range fd00::/48: CIDR block is bigger than its parent subnet fd00:5::/64",
        ),
        (
            &["fd00:5::/64 10.0.0.0/24"],
            "invalid network config: invalid ip-range 10.0.0.0/24: parent subnet is an IPv6 block",
        ),
        (
            &["10.9.0.0/24 - fd00::1"],
            "invalid network config: invalid gateway fd00::1: parent subnet is an IPv4 block: choose an address in 10.9.0.0/24",
        ),
        (
            &["fd00:5::/64 - 10.9.0.1"],
            "invalid network config: invalid gateway 10.9.0.1: parent subnet is an IPv6 block",
        ),
        (
            &["fd00:5::/64 - - router=10.9.0.1"],
            "invalid network config: invalid auxiliary address router: parent subnet is an IPv6 block",
        ),
        (
            &["fd00:5::/64 - fd00:6::1"],
            "invalid network config: invalid gateway fd00:6::1: parent subnet fd00:5::/64 doesn't contain this address",
        ),
        (
            &["fd00:5::/64 - fe80::1"],
            "invalid network config: invalid gateway fe80::1: parent subnet fd00:5::/64 doesn't contain this address",
        ),
        (
            &["fd00:5::/64 - fd00:5::"],
            "invalid network config: failed to allocate gateway (fd00:5::): Address already in use",
        ),
        (
            &["fe80::/64"],
            "invalid network config: invalid subnet fe80::/64: not a subnet for containers; choose a unicast one such as 2001:db8:1::/64",
        ),
        (
            &["ff05::/64"],
            "invalid network config: invalid subnet ff05::/64: not a subnet for containers",
        ),
        (
            &["::ffff:10.0.0.0/120"],
            "invalid network config: invalid subnet ::ffff:10.0.0.0/120: not a subnet for containers",
        ),
        (
            &["2000::/7"],
            "invalid network config: invalid subnet 2000::/7: not a subnet for containers",
        ),
        (
            &["fd00:5::/64", "fd00:6::/64"],
            "bridge driver doesn't support multiple subnets: ",
        ),
        (
            &["::/64 - fd00::1"],
            "invalid address subpool: ::/64 stands for any subnet of that size",
        ),
    ] {
        let error = World::new().error(&v6(pools));
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn overlaps() {
    let mut world = World::new();
    let route = |prefix: &str, device: &str| HostRoute {
        prefix: net(prefix),
        device: device.into(),
    };
    world.host.routes.push(route("2001:db8:1::/64", "ext0"));
    world.networks[1].subnets.push(net("fd42:98fc:1c14::/64"));
    assert_eq!(
        world.error(&v6(&["fd42:98fc:1c14::/80"])),
        "invalid pool request: Pool overlaps with other one on this address space: --subnet fd42:98fc:1c14::/80 overlaps fd42:98fc:1c14::/64 of network net5; the next free one is --subnet fd42:98fc:1c14:1::/64"
    );
    assert_eq!(
        world.error(&v6(&["2001:db8:1::/80"])),
        "--subnet 2001:db8:1::/80 overlaps the host's route 2001:db8:1::/64 (dev ext0): give -o com.tunbridge.ndp_proxy=ext0, too, for a part of that link's prefix; else the next free one is --subnet fd42:98fc:1c14:1::/64"
    );
    // A part of the link's prefix, whose addresses the NDP proxy answers for.
    world.host.interfaces = vec!["ext0".into()];
    let proxied = with(v6(&["2001:db8:1:0:5::/80"]), &[(NDP_PROXY, "ext0")]);
    let family = world.check(&proxied).unwrap().config.families[1].clone();
    assert_eq!(
        (family.subnet, family.mode),
        (net("2001:db8:1:0:5::/80"), GatewayMode::Routed)
    );
    let whole = with(v6(&["2001:db8:1::/64"]), &[(NDP_PROXY, "ext0")]);
    assert!(world.error(&whole).contains("overlaps the host's route"));
    let other = with(v6(&["2001:db8:1:0:5::/80"]), &[(NDP_PROXY, "ext1")]);
    assert!(world.error(&other).contains("overlaps the host's route"));
}
