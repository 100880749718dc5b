use super::*;
use crate::api::types::{ConfigReference, Ipam, IpamPool};
use crate::control::daemon_options::HostRoute;
use crate::control::network_config::FamilyConfig;

const ID: &str = "fcf1e422e1e98f8dec7949e4e5297903377baca80b545c06296342a129074ccd";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with an uplink, the default network, and net5 of transcript 04.
struct World {
    host: HostFacts,
    pools: AddressPools,
    networks: Vec<Neighbour>,
    default_options: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        let route = |prefix, device: &str| HostRoute {
            prefix: net(prefix),
            device: device.to_owned(),
        };
        let neighbour = |id: &str, name: &str, bridge: &str, subnet| Neighbour {
            id: id.repeat(64),
            name: name.to_owned(),
            bridge: bridge.to_owned(),
            subnets: vec![net(subnet)],
        };
        Self {
            host: HostFacts {
                routes: vec![
                    route("198.51.100.0/24", "ext0"),
                    route("172.17.0.0/16", "tb0"),
                    route("10.5.0.0/16", "brfive"),
                ],
                name_servers: vec![ip("203.0.113.53")],
                ..HostFacts::default()
            },
            pools: AddressPools::default(),
            networks: vec![
                neighbour("a", "bridge", "tb0", "172.17.0.0/16"),
                neighbour("b", "net5", "brfive", "10.5.0.0/16"),
            ],
            default_options: BTreeMap::new(),
        }
    }

    fn check(&self, request: &CreateNetwork) -> Result<Checked, NetworkOptionError> {
        let context = Context {
            id: ID,
            host: &self.host,
            pools: &self.pools,
            networks: &self.networks,
            default_options: &self.default_options,
        };
        check(request, &context)
    }

    fn error(&self, request: &CreateNetwork) -> String {
        self.check(request).unwrap_err().to_string()
    }
}

fn named(name: &str) -> CreateNetwork {
    CreateNetwork {
        name: name.to_owned(),
        ..CreateNetwork::default()
    }
}

fn with_options(options: &[(&str, &str)]) -> CreateNetwork {
    let options = options.iter();
    CreateNetwork {
        options: options
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect(),
        ..named("net1")
    }
}

/// `subnet range gateway aux`, `-` for what is not given.
fn with_ipam(pools: &[&str]) -> CreateNetwork {
    let pool = |text: &&str| {
        let mut words = text
            .split(' ')
            .map(|word| (word != "-").then(|| word.to_owned()));
        let mut next = || words.next().flatten();
        let (subnet, ip_range, gateway) = (next(), next(), next());
        let auxiliary = next().into_iter().map(|text| {
            let (name, address) = text.split_once('=').unwrap();
            (name.to_owned(), address.to_owned())
        });
        IpamPool {
            subnet,
            ip_range,
            gateway,
            auxiliary_addresses: auxiliary.collect(),
        }
    };
    CreateNetwork {
        ipam: Ipam {
            config: pools.iter().map(pool).collect(),
            ..Ipam::default()
        },
        ..named("net1")
    }
}

fn family(request: &CreateNetwork) -> FamilyConfig {
    let checked = World::new().check(request).unwrap();
    checked.config.v4().unwrap().clone()
}

fn error(request: &CreateNetwork) -> String {
    World::new().error(request)
}

#[test]
fn nothing_given_is_a_default_network() {
    let checked = World::new().check(&named("net1")).unwrap();
    let family = FamilyConfig {
        subnet: net("172.18.0.0/16"),
        configured: false,
        allocation_range: None,
        auxiliary: BTreeMap::new(),
        gateway: Some(ip("172.18.0.1")),
        bridge_address: true,
        container_gateway: None,
        mode: GatewayMode::Nat,
        masquerade: true,
        source: None,
    };
    let expected = NetworkConfig {
        bridge: "tb-fcf1e422e1e9".to_owned(),
        managed: true,
        families: vec![family],
        link_local: false,
        internal: false,
        icc: true,
        mtu: 1500,
        host_address: ip("0.0.0.0"),
        interface_prefix: "eth".to_owned(),
        advertise: Advertise {
            count: 3,
            interval_ms: 1000,
        },
        ipv6_address: Ipv6Allocation::Sequential,
        ndp_proxy: Vec::new(),
    };
    assert_eq!(checked.config, expected);
    assert!(checked.options.is_empty() && checked.warnings.is_empty());
}

#[test]
fn test_docker_network_inspect_custom_specified() {
    // Transcript 04, net5 (under another name).
    let mut request = with_ipam(&["10.6.0.0/16 10.6.7.0/24 10.6.0.254 printer=10.6.7.1"]);
    request.options = with_options(&[(BRIDGE_NAME, "brsix"), (DRIVER_MTU, "1420")]).options;
    assert_eq!(wanted_bridge(&request), Some("brsix"));
    let checked = World::new().check(&request).unwrap();
    let family = checked.config.v4().unwrap();
    assert_eq!(
        (
            family.subnet,
            family.configured,
            family.allocation_range,
            family.gateway
        ),
        (
            net("10.6.0.0/16"),
            true,
            Some(net("10.6.7.0/24")),
            Some(ip("10.6.0.254"))
        )
    );
    assert_eq!(family.auxiliary["printer"], ip("10.6.7.1"));
    assert_eq!(
        (checked.config.bridge.as_str(), checked.config.mtu),
        ("brsix", 1420)
    );
    assert_eq!(checked.options, request.options);
}

#[test]
fn every_option_is_understood() {
    let checked = World::new()
        .check(&with_options(&[
            (ENABLE_ICC, "false"),
            (ENABLE_IP_MASQUERADE, "0"),
            (HOST_BINDING_IPV4, "127.0.0.1"),
            (DRIVER_MTU, "9000"),
            (CONTAINER_IFACE_PREFIX, "net"),
            (HOST_IPV4, "198.51.100.7"),
            (ADVERTISE_COUNT, "0"),
            (ADVERTISE_INTERVAL, "100"),
            ("com.docker.network.unknown", "kept"),
            ("foo", "bar"),
        ]))
        .unwrap();
    let config = &checked.config;
    assert!(!config.icc && !config.v4().unwrap().masquerade);
    assert_eq!(config.host_address, ip("127.0.0.1"));
    assert_eq!(
        (config.mtu, config.interface_prefix.as_str()),
        (9000, "net")
    );
    assert_eq!(config.v4().unwrap().source, Some(ip("198.51.100.7")));
    assert_eq!(
        config.advertise,
        Advertise {
            count: 0,
            interval_ms: 100
        }
    );
    assert_eq!(
        checked.options["com.docker.network.unknown"], "kept",
        "options without meaning are kept, too"
    );
    assert_eq!(checked.options.len(), 10);
    let [warning] = checked.warnings.as_slice() else {
        panic!("{:?}", checked.warnings)
    };
    assert!(warning.contains("com.docker.network.unknown"), "{warning}");
    let warned = World::new()
        .check(&with_options(&[(TRUSTED_HOST_INTERFACES, "eth0")]))
        .unwrap();
    assert_eq!(warned.warnings.len(), 1);
    for unset in [DRIVER_MTU, CONTAINER_IFACE_PREFIX, BRIDGE_NAME] {
        let value = if unset == DRIVER_MTU { "0" } else { "" };
        let checked = World::new()
            .check(&with_options(&[(unset, value)]))
            .unwrap();
        let config = checked.config;
        assert_eq!(
            (
                config.bridge.as_str(),
                config.mtu,
                config.interface_prefix.as_str()
            ),
            ("tb-fcf1e422e1e9", 1500, "eth")
        );
    }
}

#[test]
fn booleans_are_gos() {
    for (value, expected) in [
        ("1", true),
        ("t", true),
        ("T", true),
        ("true", true),
        ("TRUE", true),
        ("True", true),
        ("0", false),
        ("f", false),
        ("F", false),
        ("false", false),
        ("FALSE", false),
        ("False", false),
    ] {
        let checked = World::new().check(&with_options(&[(ENABLE_ICC, value)]));
        assert_eq!(checked.unwrap().config.icc, expected, "{value}");
    }
    for wrong in ["", "yes", "tRUE", " true", "2", "x\ny"] {
        let shown = wrong.escape_debug();
        assert_eq!(
            error(&with_options(&[(ENABLE_ICC, wrong)])),
            format!(
                "failed to parse {ENABLE_ICC} value: {shown} (strconv.ParseBool: parsing \"{shown}\": invalid syntax): give true or false"
            )
        );
    }
}

#[test]
fn gateway_modes() {
    let mode = |mode, internal, more: &[(&str, &str)]| {
        let mut options = vec![(GATEWAY_MODE_IPV4, mode)];
        options.extend(more);
        family(&CreateNetwork {
            internal,
            ..with_options(&options)
        })
    };
    let (gateway, none) = (Some(ip("172.18.0.1")), None);
    for (family, expected) in [
        (mode("nat", false, &[]), (gateway, true, true)),
        (mode("nat-unprotected", false, &[]), (gateway, true, true)),
        (mode("routed", false, &[]), (gateway, true, false)),
        (mode("nat", true, &[]), (gateway, true, false)),
        (mode("isolated", true, &[]), (none, false, false)),
        (
            mode("nat", false, &[(INHIBIT_IPV4, "true")]),
            (gateway, false, true),
        ),
        (
            mode("nat", true, &[(INHIBIT_IPV4, "true")]),
            (none, false, false),
        ),
    ] {
        let found = (family.gateway, family.bridge_address, family.masquerade);
        assert_eq!(found, expected, "{family:?}");
    }
    assert_eq!(
        error(&with_options(&[(GATEWAY_MODE_IPV4, "isolated")])),
        "gateway mode 'isolated' can only be used for an internal network: add --internal, or choose another com.docker.network.bridge.gateway_mode_ipv4"
    );
    for label in [GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6] {
        assert_eq!(
            error(&with_options(&[(label, "bridged")])),
            format!(
                "failed to parse {label} value: bridged (unknown gateway mode bridged): give nat, nat-unprotected, routed or isolated"
            )
        );
    }
    // The user's own gateway is set aside all the same, though nobody bears it.
    let mut request = with_ipam(&["10.9.0.0/24 - 10.9.0.7"]);
    request.internal = true;
    request.options = with_options(&[(GATEWAY_MODE_IPV4, "isolated")]).options;
    let family = family(&request);
    assert_eq!(
        (family.gateway, family.bridge_address),
        (Some(ip("10.9.0.7")), false)
    );
}

#[test]
fn test_mtu_bigger_than_1500() {
    let checked = World::new().check(&with_options(&[(DRIVER_MTU, "9000")]));
    assert_eq!(checked.unwrap().config.mtu, 9000);
}

#[test]
fn test_mtu_bigger_than_64k() {
    for wrong in ["65536", "-2", "67"] {
        assert_eq!(
            error(&with_options(&[(DRIVER_MTU, wrong)])),
            format!(
                "invalid MTU number: {wrong} (in com.docker.network.driver.mtu): use 68 to 65535 octets, or 0 for 1500"
            )
        );
    }
    assert!(
        World::new()
            .check(&with_options(&[(DRIVER_MTU, "65535")]))
            .is_ok()
    );
}

#[test]
fn bad_options_have_dockers_words() {
    for (label, value, expected) in [
        (
            DRIVER_MTU,
            "abc",
            "failed to parse com.docker.network.driver.mtu value: abc (strconv.Atoi: parsing \"abc\": invalid syntax): give a number",
        ),
        (
            DRIVER_MTU,
            "99999999999999999999",
            "failed to parse com.docker.network.driver.mtu value: 99999999999999999999 (strconv.Atoi: parsing \"99999999999999999999\": value out of range): ",
        ),
        (
            HOST_BINDING_IPV4,
            "nonsense",
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: nonsense (nil ip): give an IP address",
        ),
        (
            HOST_IPV4,
            "1.2.3",
            "failed to parse com.docker.network.host_ipv4 value: 1.2.3 (nil ip): ",
        ),
        (
            HOST_IPV6,
            "x",
            "failed to parse com.docker.network.host_ipv6 value: x (nil ip): ",
        ),
        (
            HOST_IPV4,
            "0.0.0.0",
            "failed to parse com.docker.network.host_ipv4 value: 0.0.0.0 (not a source address): ",
        ),
        (
            HOST_BINDING_IPV4,
            "::x",
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: ::x (nil ip): ",
        ),
        (
            INHIBIT_IPV4,
            "no",
            "failed to parse com.docker.network.bridge.inhibit_ipv4 value: no (strconv.ParseBool: parsing \"no\": invalid syntax): ",
        ),
        (
            DEFAULT_BRIDGE,
            "true",
            "bridge device with non default name  must be created manually: ",
        ),
        (
            BRIDGE_NAME,
            "averyveryverylongname",
            "invalid com.docker.network.bridge.name \"averyveryverylongname\": an interface name has 1 to 15 characters",
        ),
        (
            BRIDGE_NAME,
            "br/0",
            "invalid com.docker.network.bridge.name \"br/0\": ",
        ),
        (
            BRIDGE_NAME,
            "br%d",
            "invalid com.docker.network.bridge.name \"br%d\": ",
        ),
        (
            BRIDGE_NAME,
            "..",
            "invalid com.docker.network.bridge.name \"..\": ",
        ),
        (
            BRIDGE_NAME,
            "br\n0",
            "invalid com.docker.network.bridge.name \"br\\n0\": ",
        ),
        (
            CONTAINER_IFACE_PREFIX,
            "thirteenchars",
            "invalid com.docker.network.container_iface_prefix \"thirteenchars\": ",
        ),
        (
            CONTAINER_IFACE_PREFIX,
            "a b",
            "invalid com.docker.network.container_iface_prefix \"a b\": ",
        ),
        (
            ADVERTISE_COUNT,
            "nonsense",
            "value for option com.docker.network.advertise_addr_nmsgs \"nonsense\" must be an integer",
        ),
        (
            ADVERTISE_COUNT,
            "4",
            "com.docker.network.advertise_addr_nmsgs must be in the range 0 to 3: 4 is not",
        ),
        (
            ADVERTISE_COUNT,
            "-1",
            "com.docker.network.advertise_addr_nmsgs must be in the range 0 to 3",
        ),
        (
            ADVERTISE_INTERVAL,
            "nonsense",
            "value for option com.docker.network.advertise_addr_ms \"nonsense\" must be integer milliseconds",
        ),
        (
            ADVERTISE_INTERVAL,
            "99",
            "com.docker.network.advertise_addr_ms must be in the range 100 to 2000: 99 is not",
        ),
        (
            ADVERTISE_INTERVAL,
            "2001",
            "com.docker.network.advertise_addr_ms must be in the range 100 to 2000",
        ),
        (
            ENABLE_IPV4,
            "x",
            "driver-opt \"com.docker.network.enable_ipv4\" is not a valid bool: ",
        ),
        (
            ENABLE_IPV6,
            "",
            "driver-opt \"com.docker.network.enable_ipv6\" is not a valid bool: ",
        ),
        (
            ENABLE_IPV4,
            "false",
            "IPv4 or IPv6 must be enabled: leave --ipv4=false out, or add --ipv6",
        ),
    ] {
        let message = error(&with_options(&[(label, value)]));
        assert!(message.starts_with(expected), "{label}={value}: {message}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}

#[test]
fn test_docker_network_ipam_invalid_combinations() {
    for (pools, expected) in [
        // Transcript 04, "create errors".
        (
            &["10.9.0.0/33"][..],
            "invalid network config: invalid subnet 10.9.0.0/33: invalid CIDR address: 10.9.0.0/33; give it as in --subnet 10.99.0.0/24",
        ),
        (
            &["10.9.0.0/24 - 10.8.0.1"],
            "invalid network config: invalid gateway 10.8.0.1: parent subnet 10.9.0.0/24 doesn't contain this address: choose one in it",
        ),
        (
            &["10.9.0.0/24 10.8.0.0/24"],
            "invalid network config: invalid ip-range 10.8.0.0/24: parent subnet 10.9.0.0/24 doesn't contain ip-range: choose a part of it",
        ),
        (
            &["10.9.0.5/24"],
            "invalid network config: invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
        ),
        (
            &["- - 10.9.0.1"],
            "every ip-range or gateway must have a corresponding subnet: give --subnet, too",
        ),
        (
            &["- 10.9.0.0/24"],
            "every ip-range or gateway must have a corresponding subnet: give --subnet, too",
        ),
        (
            &["- - - a=10.9.0.1"],
            "every ip-range or gateway must have a corresponding subnet: give --subnet, too",
        ),
        (
            &["10.9.0.0/24 10.9.0.0/16"],
            "invalid network config: invalid ip-range 10.9.0.0/16: CIDR block is bigger than its parent subnet 10.9.0.0/24: choose a part of it",
        ),
        (
            &["10.9.0.0/24 10.9.0.9/28"],
            "invalid network config: invalid ip-range 10.9.0.9/28: it should be 10.9.0.0/28",
        ),
        (
            &["10.9.0.0/24 fd00::/120"],
            "invalid network config: invalid ip-range fd00::/120: parent subnet is an IPv4 block: choose a part of 10.9.0.0/24",
        ),
        (
            &["10.9.0.0/24 - - printer=10.8.0.1"],
            "invalid network config: invalid auxiliary address printer: parent subnet 10.9.0.0/24 doesn't contain this address: choose one in it, not 10.8.0.1",
        ),
        (
            &["10.9.0.0/24 - 10.9.0.0"],
            "invalid network config: failed to allocate gateway (10.9.0.0): Address already in use: it is the network's or the broadcast address; choose another in 10.9.0.0/24",
        ),
        (
            &["10.9.0.0/24 - 10.9.0.1 a=10.9.0.1"],
            "invalid network config: failed to allocate gateway (10.9.0.1): Address already in use: it is an auxiliary address; choose another in 10.9.0.0/24",
        ),
        (
            &["10.9.0.0/24 - - a=10.9.0.255"],
            "invalid network config: failed to allocate secondary ip address (a:10.9.0.255): Address already in use: choose another in 10.9.0.0/24",
        ),
        (
            &["10.9.0.0/24 - x"],
            "invalid network config: invalid gateway x: not an IP address; give it as in --gateway 10.99.0.1",
        ),
        (
            &["10.9.0.0/24 - - a=x"],
            "invalid network config: invalid auxiliary address a x: not an IP address; give it as in --aux-address router=10.99.0.2",
        ),
        (
            &["10.9.0.0/24 x"],
            "invalid network config: invalid ip-range x: invalid CIDR address: x; give it as in --ip-range 10.99.0.128/25",
        ),
        (
            &["10.9.0.0/24", "10.8.0.0/24"],
            "bridge driver doesn't support multiple subnets: give one --subnet per address family",
        ),
        (
            &["224.0.0.0/24"],
            "invalid network config: invalid subnet 224.0.0.0/24: not a subnet for containers; choose a unicast one such as 10.99.0.0/24",
        ),
        (
            &["127.0.0.0/8"],
            "invalid network config: invalid subnet 127.0.0.0/8: not a subnet for containers; choose a unicast one such as 10.99.0.0/24",
        ),
        (
            &["0.0.0.0/24 0.0.0.0/25"],
            "invalid address subpool: 0.0.0.0/24 stands for any subnet of that size, so --ip-range, --gateway and --aux-address cannot be in it; give a --subnet of your own",
        ),
        (
            &["0.0.0.0/8"],
            "invalid address pool: no default pool can be split into subnets of prefix length 8; choose a subnet with --subnet",
        ),
    ] {
        assert_eq!(error(&with_ipam(pools)), expected);
    }
}

#[test]
fn gateways_and_ranges() {
    let subnet = |text| {
        let family = family(&with_ipam(&[text]));
        (
            family.subnet.to_string(),
            family.gateway.map(|gateway| gateway.to_string()),
            family.container_gateway,
        )
    };
    for (request, expected, gateway) in [
        ("10.9.0.0/24", "10.9.0.0/24", "10.9.0.1"),
        ("10.9.0.0/24 10.9.0.128/25", "10.9.0.0/24", "10.9.0.128"),
        (
            "10.9.0.0/24 10.9.0.128/25 10.9.0.7",
            "10.9.0.0/24",
            "10.9.0.7",
        ),
        ("10.9.0.0/24 - - a=10.9.0.1", "10.9.0.0/24", "10.9.0.2"),
        ("10.9.0.0/31", "10.9.0.0/31", "10.9.0.0"),
        ("10.9.0.6/32", "10.9.0.6/32", "10.9.0.6"),
        ("0.0.0.0/24", "172.18.0.0/24", "172.18.0.1"),
        ("0.0.0.0/0", "172.18.0.0/16", "172.18.0.1"),
    ] {
        let expected = (expected.to_owned(), Some(gateway.to_owned()), None);
        assert_eq!(subnet(request), expected, "{request}");
    }
    let family = family(&with_ipam(&[
        "10.9.0.0/24 - - DefaultGatewayIPv4=10.9.0.254",
    ]));
    assert_eq!(
        (family.gateway, family.container_gateway),
        (Some(ip("10.9.0.1")), Some(ip("10.9.0.254")))
    );
}

#[test]
fn test_point_to_point() {
    for option in [(GATEWAY_MODE_IPV4, "isolated"), (INHIBIT_IPV4, "true")] {
        let mut request = with_ipam(&["192.168.135.0/31"]);
        request.internal = true;
        request.options = with_options(&[option]).options;
        assert_eq!(family(&request).gateway, None, "{option:?}");
    }
}

#[test]
fn overlaps_are_refused_with_the_next_free_subnet() {
    for (subnet, expected) in [
        (
            "10.5.3.0/24",
            "invalid pool request: Pool overlaps with other one on this address space: --subnet 10.5.3.0/24 overlaps 10.5.0.0/16 of network net5; the next free one is --subnet 172.18.0.0/16",
        ),
        (
            "10.0.0.0/8",
            "invalid pool request: Pool overlaps with other one on this address space: --subnet 10.0.0.0/8 overlaps 10.5.0.0/16 of network net5; the next free one is --subnet 172.18.0.0/16",
        ),
        (
            "198.51.100.128/25",
            "--subnet 198.51.100.128/25 overlaps the host's route 198.51.100.0/24 (dev ext0): the next free one is --subnet 172.18.0.0/16",
        ),
    ] {
        assert_eq!(error(&with_ipam(&[subnet])), expected);
    }
    // On a bridge of the user's own that has the subnet already it is what they want.
    let mut world = World::new();
    world.host.bridge_exists = true;
    let mut request = with_ipam(&["198.51.100.0/24"]);
    request.options = with_options(&[(BRIDGE_NAME, "ext0")]).options;
    let config = world.check(&request).unwrap().config;
    assert_eq!((config.bridge.as_str(), config.managed), ("ext0", false));

    let mut world = World::new();
    world.pools = AddressPools::new(vec!["base=10.77.0.0/24,size=24".parse().unwrap()], "");
    assert!(world.check(&named("first")).is_ok());
    world.networks[0].subnets = vec![net("10.77.0.0/24")];
    assert_eq!(
        world.error(&named("second")),
        "all predefined address pools have been fully subnetted: remove networks with `tunbridge network prune`, or choose a subnet with --subnet"
    );
    let message = world.error(&with_ipam(&["10.5.0.0/16"]));
    assert!(
        message.ends_with(
            "of network net5; all predefined address pools have been fully subnetted, choose another"
        ),
        "{message}"
    );
    assert!(matches!(
        world.check(&with_ipam(&["0.0.0.0/25"])),
        Err(NetworkOptionError::NoPool)
    ));
}

#[test]
fn test_daemon_default_network_pools() {
    let mut world = World::new();
    world.pools = AddressPools::new(
        ["base=175.30.0.0/16,size=16", "base=175.33.0.0/16,size=24"]
            .map(|pool| pool.parse().unwrap())
            .into(),
        "",
    );
    world.networks = Vec::new();
    for expected in ["175.30.0.0/16", "175.33.0.0/24", "175.33.1.0/24"] {
        let subnet = world.check(&named("new")).unwrap().config.families[0].subnet;
        assert_eq!(subnet, net(expected));
        world.networks.push(Neighbour {
            id: expected.to_owned(),
            name: expected.to_owned(),
            bridge: expected.to_owned(),
            subnets: vec![subnet],
        });
    }
}

#[test]
fn default_subnets_avoid_routes_name_servers_and_networks() {
    let mut world = World::new();
    world.host.routes.push(HostRoute {
        prefix: net("172.18.5.0/24"),
        device: "vpn0".to_owned(),
    });
    world.host.name_servers.push(ip("172.19.0.53"));
    world.host.own_subnets.push(net("172.20.0.0/16"));
    let subnet = |world: &World, request| world.check(&request).unwrap().config.families[0].subnet;
    assert_eq!(subnet(&world, named("n")), net("172.21.0.0/16"));
    assert_eq!(
        subnet(&world, with_ipam(&["0.0.0.0/24"])),
        net("172.18.0.0/24"),
        "beside the route of the host"
    );
}

#[test]
fn test_create_multiple_networks() {
    // Two networks cannot have one bridge.
    assert_eq!(
        error(&with_options(&[(BRIDGE_NAME, "brfive")])),
        format!(
            "cannot create network {ID} (brfive): conflicts with network {} (brfive): networks have same bridge name: give another com.docker.network.bridge.name",
            "b".repeat(64)
        )
    );
}

#[test]
fn test_forbid_duplicate_network_names() {
    let world = World::new();
    let error = world.check(&named("net5")).unwrap_err();
    assert_eq!(error.http_status(), 409);
    assert_eq!(
        error.to_string(),
        "network with name net5 already exists: give another name, or remove that network with `tunbridge network rm net5`"
    );
}

#[test]
fn test_create_delete_predefined_networks() {
    for name in ["bridge", "host", "none", "default"] {
        let error = World::new().check(&named(name)).unwrap_err();
        assert_eq!(error.http_status(), 403);
        let message = error.to_string();
        assert!(
            message.starts_with(&format!(
                "operation is not permitted on predefined {name} network "
            )),
            "{message}"
        );
    }
}

#[test]
fn names() {
    // Transcript 04 makes a network "bad name".
    for good in ["bad name", "n", "ä", "0123", "-x", "a/b"] {
        assert!(World::new().check(&named(good)).is_ok(), "{good}");
    }
    for empty in ["", " ", "\t\n"] {
        assert_eq!(
            error(&named(empty)),
            "invalid name: name is empty: give the network a name"
        );
    }
    for bad in ["a\nb".to_owned(), "x".repeat(256), "\u{1b}[31m".to_owned()] {
        let message = error(&named(&bad));
        assert!(message.starts_with("invalid name \""), "{message:?}");
        assert!(!message.contains(['\n', '\u{1b}']) && message.len() < 200);
    }
}

#[test]
fn what_is_not_a_local_bridge_network_is_refused() {
    let request = || named("net1");
    for (request, status, expected) in [
        (
            CreateNetwork {
                driver: "overlay".into(),
                ..request()
            },
            404,
            "plugin \"overlay\" not found: ",
        ),
        (
            CreateNetwork {
                driver: "host".into(),
                ..request()
            },
            403,
            "only one instance of \"host\" network is allowed: ",
        ),
        (
            CreateNetwork {
                driver: "null".into(),
                ..request()
            },
            403,
            "only one instance of \"null\" network is allowed: ",
        ),
        (
            CreateNetwork {
                scope: "swarm".into(),
                ..request()
            },
            403,
            "cannot create a swarm scoped network when swarm is not active: ",
        ),
        (
            CreateNetwork {
                scope: "galaxy".into(),
                ..request()
            },
            400,
            "invalid scope \"galaxy\": ",
        ),
        (
            CreateNetwork {
                ingress: true,
                ..request()
            },
            403,
            "Ingress network can only be global scope network: ",
        ),
        (
            CreateNetwork {
                config_only: true,
                ..request()
            },
            501,
            "--config-only is not done here: ",
        ),
        (
            CreateNetwork {
                config_from: Some(ConfigReference::default()),
                ..request()
            },
            501,
            "--config-from is not done here: ",
        ),
        (
            CreateNetwork {
                enable_ipv4: Some(false),
                ..request()
            },
            400,
            "IPv4 or IPv6 must be enabled: ",
        ),
        (
            CreateNetwork {
                ipam: Ipam {
                    driver: "null".into(),
                    ..Ipam::default()
                },
                ..request()
            },
            400,
            "ipv4 pool is empty: ",
        ),
        (
            CreateNetwork {
                ipam: Ipam {
                    driver: "dhcp".into(),
                    ..Ipam::default()
                },
                ..request()
            },
            404,
            "plugin \"dhcp\" not found: ",
        ),
    ] {
        let error = World::new().check(&request).unwrap_err();
        assert_eq!(error.http_status(), status, "{error}");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let accepted = CreateNetwork {
        driver: "bridge".into(),
        scope: "local".into(),
        check_duplicate: true,
        enable_ipv4: Some(true),
        enable_ipv6: Some(false),
        ipam: Ipam {
            driver: "default".into(),
            ..Ipam::default()
        },
        ..request()
    };
    assert!(World::new().check(&accepted).is_ok());
}

#[test]
fn test_default_network_opts() {
    let mut world = World::new();
    world
        .default_options
        .insert(DRIVER_MTU.to_owned(), "1400".to_owned());
    let checked = world.check(&named("net1")).unwrap();
    assert_eq!(checked.config.mtu, 1400);
    assert_eq!(checked.options[DRIVER_MTU], "1400", "inspect shows it");
    let own = world.check(&with_options(&[(DRIVER_MTU, "1300")])).unwrap();
    assert_eq!(own.config.mtu, 1300);
}

#[test]
fn test_default_ipv_opt_override() {
    let mut world = World::new();
    let default = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    world.default_options = [default(ENABLE_IPV4, "false"), default(ENABLE_IPV6, "true")].into();
    let only_v6 = world.check(&named("net1")).unwrap().config;
    assert!(only_v6.v4().is_none() && only_v6.v6().is_some());
    let flags = CreateNetwork {
        enable_ipv4: Some(true),
        enable_ipv6: Some(false),
        ..named("net1")
    };
    let checked = world.check(&flags).unwrap();
    assert!(
        checked.options.is_empty() && checked.warnings.is_empty(),
        "options that a flag overrides are not shown"
    );
    world.default_options = [default(ENABLE_IPV6, "true")].into();
    let checked = world.check(&named("net1")).unwrap();
    // TestCreateWithIPv6WithoutEnableIPv6Flag.
    assert_eq!(checked.config.families.len(), 2);
    assert_eq!(
        checked.config.v6().unwrap().subnet,
        net("fd42:98fc:1c14::/64")
    );
}

#[test]
fn default_options_are_those_of_the_driver() {
    let values = [
        "bridge=com.docker.network.driver.mtu=1400",
        "overlay=x=y",
        "bridge=a=b=c",
    ];
    let options = default_options(&values.map(str::to_owned)).unwrap();
    assert_eq!(options.len(), 2);
    assert_eq!(options[DRIVER_MTU], "1400");
    assert_eq!(options["a"], "b=c");
    for bad in ["", "bridge", "bridge=mtu", "=a=b", "bridge==b"] {
        let error = default_options(&[bad.to_owned()]).unwrap_err().to_string();
        let start = format!("invalid --default-network-opt \"{bad}\": ");
        assert!(error.starts_with(&start), "{error}");
    }
}

mod ipv6;
