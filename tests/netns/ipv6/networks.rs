//! Networks that users define: of both families, of one, translated (NAT66), and their addresses.

use super::{GLOBAL, address6, create, endpoint, routes6, with_prefix};
use crate::lab::{FAR6, HOST, HOST6, LAN, LAN6, Lab, WAN6, World, in_every_world};

const FAR6_SERVER: &str = "[2001:db8:ffff::9]:7000";
const PUBLISHED: &str = "[2001:db8:1::2]:8080";
const ULA: [&str; 3] = ["--ipv6", "--subnet", "fd00:20::/64"];

in_every_world! {
    a_unique_local_network_is_translated_outwards_and_shows_clients_inwards
    a_network_without_ipv4
    icmpv6_and_path_mtu_through_the_translation
}

fn a_unique_local_network_is_translated_outwards_and_shows_clients_inwards(world: World) {
    let lab = Lab::in_world(world);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "both",
        &[&ULA[..], &["--subnet", "10.20.0.0/24"]].concat(),
    );
    let ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    let web = tunbridge.server("web", &[&["--network", "both"], &ports[..]].concat());
    let app = tunbridge.container_with("app", &["--network", "both"]);
    assert_eq!(address6(&tunbridge, "web", "both"), "fd00:20::2");
    assert_eq!(address6(&tunbridge, "app", "both"), "fd00:20::3");
    assert_eq!(
        routes6(&app).last().map(String::as_str),
        Some("default via fd00:20::1 dev eth0 metric 1024")
    );

    // Outwards.
    for answer in [
        app.tcp(FAR6_SERVER),
        app.udp(FAR6_SERVER),
        app.udp_of(4000, FAR6_SERVER),
    ] {
        let answer = answer.unwrap();
        assert_eq!(answer.client.ip().to_string(), "fd00:20::3");
        assert_eq!(answer.saw_address(), HOST6);
    }
    assert_eq!(
        app.tcp("192.0.2.9:7000").unwrap().saw_address(),
        HOST,
        "and IPv4 as ever"
    );
    app.ping(FAR6).expect_success();
    app.transfer("get", FAR6_SERVER, 32 << 20).expect_success();
    app.transfer("put", FAR6_SERVER, 32 << 20).expect_success();

    // Inwards.
    for answer in [
        lab.lan().tcp(PUBLISHED),
        lab.lan().udp(PUBLISHED),
        lab.lan().udp_of(4000, PUBLISHED),
    ] {
        let answer = answer.unwrap();
        assert_eq!(answer.saw_address(), LAN6, "the client's own");
        assert_eq!(answer.at.to_string(), "[fd00:20::2]:80");
    }
    assert_eq!(
        lab.lan().tcp("198.51.100.2:8080").unwrap().saw_address(),
        LAN
    );
    lab.lan()
        .transfer("get", PUBLISHED, 32 << 20)
        .expect_success();
    lab.lan()
        .transfer("put", PUBLISHED, 32 << 20)
        .expect_success();
    // From the host, from a neighbour and from the container itself.
    for target in ["[::1]:8080", PUBLISHED, "[fd00:20::1]:8080"] {
        assert_eq!(
            lab.host().tcp(target).unwrap().saw_address(),
            "fd00:20::1",
            "{target}"
        );
        lab.host().udp(target).unwrap();
    }
    for container in [&app, &web] {
        assert_eq!(
            container.tcp(PUBLISHED).unwrap().saw_address(),
            "fd00:20::1"
        );
        container.udp(PUBLISHED).unwrap();
    }
    assert_eq!(
        app.tcp("[fd00:20::2]:80").unwrap().saw_address(),
        "fd00:20::3"
    );
    // Its own address is nobody's business outside.
    lab.wan()
        .run(&["ip", "route", "add", "fd00:20::/64", "via", HOST6])
        .expect_success();
    lab.wan().impatient().tcp("[fd00:20::2]:80").unwrap_err();
    lab.wan().ping("fd00:20::2").expect_failure();
}

fn a_network_without_ipv4(world: World) {
    let lab = Lab::in_world(world);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "six", &[&ULA[..], &["--ipv4=false"]].concat());
    tunbridge.server("web", &["--network", "six", "-p", "8080:80"]);
    let app = tunbridge.container_with("app", &["--network", "six"]);

    let addresses = app.run(&["ip", "-o", "-4", "address", "show", "dev", "eth0"]);
    assert_eq!(addresses.stdout, "");
    assert_eq!(app.run(&["ip", "-4", "route"]).stdout, "");
    let told = endpoint(&tunbridge, "app", "six");
    assert_eq!(
        (&told["IPAddress"], &told["Gateway"]),
        (&"".into(), &"".into())
    );
    assert_eq!(told["IPv6Gateway"], "fd00:20::1");
    assert_eq!(app.tcp(FAR6_SERVER).unwrap().saw_address(), HOST6);
    assert_eq!(lab.lan().tcp(PUBLISHED).unwrap().saw_address(), LAN6);
    assert_eq!(
        lab.host().tcp("[::1]:8080").unwrap().saw_address(),
        "fd00:20::1"
    );
    // No IPv4 binding leads to IPv6.
    lab.lan().impatient().tcp("198.51.100.2:8080").unwrap_err();
    let ports = tunbridge.cli(&["port", "web"]).expect_success().stdout;
    assert_eq!(ports.trim(), "80/tcp -> [::]:8080");
    // Names.
    let ping = [
        "exec", "app", "--", "ping", "-n", "-c", "1", "-W", "2", "web",
    ];
    let reply = tunbridge.cli(&ping).expect_success();
    assert!(reply.stdout.contains("fd00:20::2"), "{}", reply.stdout);
}

fn icmpv6_and_path_mtu_through_the_translation(world: World) {
    let lab = Lab::with_options(world, &["--far-mtu", "1300"]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "ula", &ULA);
    let app = tunbridge.container_with("app", &["--network", "ula"]);

    assert_eq!(app.hops("-I", FAR6), ["fd00:20::1", WAN6, FAR6]);
    assert_eq!(app.hops("-U", FAR6), ["fd00:20::1", WAN6, FAR6]);
    let refused = app.udp("[2001:db8:ffff::9]:7999").unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    // The router says Packet Too Big: the container learns it.
    let big = app.ping_unfragmented(1400, FAR6).expect_failure();
    assert!(big.output().contains("mtu=1300"), "{}", big.output());
    let learnt = app
        .run(&["ip", "-6", "route", "get", FAR6])
        .expect_success();
    assert!(learnt.stdout.contains("mtu 1300"), "{}", learnt.stdout);
    app.ping_unfragmented(1300, FAR6).expect_success();
    app.transfer("put", FAR6_SERVER, 8 << 20).expect_success();
    assert_eq!(app.udp_of(4000, FAR6_SERVER).unwrap().saw_address(), HOST6);
}

#[test]
fn the_default_pool_is_unique_local() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &["--ipv6"]);
    create(&tunbridge, "two", &["--ipv6"]);
    let subnets = |tunbridge: &crate::tunbridge_under_test::Tunbridge<'_>| {
        ["one", "two"].map(|name| {
            let words = ["network", "inspect", name];
            let told = tunbridge.cli(&words).expect_success().stdout;
            let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
            let subnets = told[0]["IPAM"]["Config"].as_array().unwrap().clone();
            assert_eq!(subnets.len(), 2, "{told}");
            subnets[1]["Subnet"].as_str().unwrap().to_owned()
        })
    };
    let before = subnets(&tunbridge);
    assert_ne!(before[0], before[1]);
    for subnet in &before {
        assert!(
            subnet.starts_with("fd") && subnet.ends_with("/64"),
            "{subnet}"
        );
    }
    // 40 bits of the host's, 16 of the network's.
    let site = |subnet: &str| {
        let address: std::net::Ipv6Addr = subnet.trim_end_matches("/64").parse().unwrap();
        address.segments()[..3].to_vec()
    };
    assert_eq!(site(&before[0]), site(&before[1]));
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(subnets(&tunbridge), before);

    let _server = lab.far().serve(&["7000"]);
    let app = tunbridge.container_with("app", &["--network", "one"]);
    assert_eq!(app.tcp(FAR6_SERVER).unwrap().saw_address(), HOST6);
}

#[test]
fn a_network_of_ipv4_really_has_no_ipv6() {
    // CVE-2024-32473
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "four",
        &["-o", "com.docker.network.bridge.name=brfour"],
    );
    let mut heard = lab.host().hear("brfour");
    let started = std::time::Instant::now();
    for name in ["c1", "c2"] {
        let container = tunbridge.container_with(name, &["--network", "four"]);
        assert!(container.addresses6().is_empty(), "{name}");
        assert_eq!(container.sysctl("net.ipv6.conf.eth0.disable_ipv6"), "1");
    }
    let veths = "ip -j link show master brfour | jq -r .[].ifname";
    let veths = lab.host().shell(veths).expect_success().stdout;
    for interface in veths.lines().chain(["brfour"]) {
        let setting = format!("net.ipv6.conf.{interface}.disable_ipv6");
        assert_eq!(lab.host().sysctl(&setting), "1");
    }
    assert_eq!(
        lab.host()
            .shell("ip -6 address show dev brfour")
            .stdout
            .trim(),
        ""
    );
    // Neither DAD nor MLD nor router solicitations: they would all have been sent by now.
    std::thread::sleep(std::time::Duration::from_secs(3).saturating_sub(started.elapsed()));
    heard.signal("KILL");
    assert_eq!(heard.read_line(), "", "ICMPv6 on a bridge of IPv4");
}

#[test]
fn the_gateway_may_be_link_local() {
    // As Docker 1.8 had it.
    let lab = Lab::with_options(World::Plain, &["--route-v6", GLOBAL]);
    let _server = lab.far().serve(&["7000"]);
    let flags = [
        &with_prefix(GLOBAL)[..],
        &["--default-gateway-v6", "fe80::1"],
    ]
    .concat();
    let tunbridge = lab.start_daemon(&flags);
    create(
        &tunbridge,
        "ula",
        &[&ULA[..], &["--aux-address", "DefaultGatewayIPv6=fe80::1"]].concat(),
    );
    for (network, saw) in [("bridge", "2001:db8:d::242:ac11:2"), ("ula", HOST6)] {
        let name = format!("c-{network}");
        let container = tunbridge.container_with(&name, &["--network", network]);
        assert!(
            routes6(&container).contains(&"default via fe80::1 dev eth0 metric 1024".to_owned()),
            "{:?}",
            routes6(&container)
        );
        assert_eq!(
            endpoint(&tunbridge, &name, network)["IPv6Gateway"],
            "fe80::1"
        );
        assert_eq!(container.tcp(FAR6_SERVER).unwrap().saw_address(), saw);
        let gateway = container.hops("-U", FAR6).remove(0);
        assert!(
            ["2001:db8:d::1", "fd00:20::1"].contains(&gateway.as_str()),
            "{gateway}"
        );
    }
}

#[test]
fn the_gateway_may_be_another_machine() {
    let lab = Lab::plain();
    let flags = [
        &with_prefix(GLOBAL)[..],
        &["--default-gateway-v6", "2001:db8:d::ff"],
    ];
    let tunbridge = lab.start_daemon(&flags.concat());
    let c1 = tunbridge.container("c1");
    assert!(
        routes6(&c1).contains(&"default via 2001:db8:d::ff dev eth0 metric 1024".to_owned()),
        "{:?}",
        routes6(&c1)
    );
    assert_eq!(
        endpoint(&tunbridge, "c1", "bridge")["IPv6Gateway"],
        "2001:db8:d::ff"
    );
    let given = ["--ip6", "2001:db8:d::ff", "--", "true"];
    let refused = tunbridge
        .cli(&[&["run", "-d"], &given[..]].concat())
        .expect_failure();
    assert!(
        refused.stderr.contains("Address already in use"),
        "{}",
        refused.stderr
    );
}

#[test]
fn addresses_are_usable_at_once() {
    let lab = Lab::plain();
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    let bridge = lab.host().shell("ip -o -6 address show dev tb0").stdout;
    for address in ["fd00:17::1/64", "fe80::1/64"] {
        assert!(bridge.contains(address), "{address} in {bridge}");
    }
    assert!(!bridge.contains("tentative"), "{bridge}");
    // The container's own process, as its first deed.
    let at_once = [
        "run",
        "--rm",
        "--",
        concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer"),
        "tcp",
        FAR6,
        "7000",
    ];
    for _ in 0..3 {
        let began = std::time::Instant::now();
        let told = tunbridge.cli(&at_once).expect_success().stdout;
        assert!(told.contains("server-saw=[2001:db8:1::2]"), "{told}");
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(4), "{took:?}");
    }
    let container = tunbridge.container("c1");
    // Its link-local address is the kernel's, which looks for duplicates as with Docker.
    assert!(
        container
            .addresses6()
            .contains(&"fd00:17::242:ac11:2/64".to_owned()),
        "{:?}",
        container.addresses6()
    );
}

#[test]
fn an_address_is_given_to_one_container_only() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
    let mac = |last: u8| format!("02:42:00:00:00:{last:02}");
    tunbridge.container_with("c1", &["--mac-address", &mac(7)]);
    tunbridge.container_with("c2", &["--ip6", "2001:db8:d::242:0:8"]);
    assert_eq!(address6(&tunbridge, "c1", "bridge"), "2001:db8:d::242:0:7");
    for (last, words) in [(7, "02:42:00:00:00:07"), (8, "2001:db8:d::242:0:8")] {
        let mac = mac(last);
        let refused = tunbridge
            .cli(&["run", "-d", "--mac-address", &mac, "--", "true"])
            .expect_failure();
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn a_network_chooses_addresses_as_it_is_told() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for mode in ["mac", "sequential", "stable"] {
        let subnet = format!("fd00:{}::/64", mode.len());
        let option = format!("com.tunbridge.ipv6_address={mode}");
        create(
            &tunbridge,
            mode,
            &["--ipv6", "--subnet", &subnet, "-o", &option],
        );
    }
    create(
        &tunbridge,
        "other",
        &[
            "--ipv6",
            "--subnet",
            "fd00:66::/64",
            "-o",
            "com.tunbridge.ipv6_address=stable",
        ],
    );
    let address = |name: &str, network: &str| {
        let container = tunbridge.container_with(name, &["--network", network]);
        let address = address6(&tunbridge, name, network);
        assert!(
            container.addresses6().contains(&format!("{address}/64")),
            "{address}"
        );
        container.ping(&address).expect_success();
        address
    };
    let again = |name: &str, network: &str| {
        tunbridge.cli(&["rm", "-f", name]).expect_success();
        address(name, network)
    };

    let by_mac = address("m1", "mac");
    let octets: String = lab.place("m1").mac("eth0").replace(':', "");
    let parsed: std::net::Ipv6Addr = by_mac.parse().unwrap();
    let last_48: String = parsed.octets()[10..]
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    assert_eq!(last_48, octets);

    assert_eq!(address("s1", "sequential"), "fd00:10::2");
    assert_eq!(address("s2", "sequential"), "fd00:10::3");
    assert_eq!(again("s1", "sequential"), "fd00:10::2");

    let (one, two) = (address("t1", "stable"), address("t2", "stable"));
    assert_ne!(one, two);
    let parsed: std::net::Ipv6Addr = one.parse().unwrap();
    assert!(parsed.segments()[4] != 0, "an opaque identifier: {one}");
    tunbridge.cli(&["rm", "-f", "t1"]).expect_success();
    address("t3", "stable");
    assert_eq!(
        address("t1", "stable"),
        one,
        "the name's, whoever came before"
    );
    tunbridge.cli(&["rm", "-f", "t1"]).expect_success();
    let elsewhere: std::net::Ipv6Addr = address("t1", "other").parse().unwrap();
    assert_ne!(
        elsewhere.octets()[8..],
        parsed.octets()[8..],
        "another on another network"
    );
}

#[test]
fn an_address_of_ones_choice() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "ula", &ULA);
    let options = ["--network", "ula", "--ip6", "fd00:20::77"];
    tunbridge.container_with("c1", &options);
    assert_eq!(address6(&tunbridge, "c1", "ula"), "fd00:20::77");
    for (address, words) in [
        ("fd00:20::77", "Address already in use"),
        (
            "fd00:21::77",
            "It does not belong to any of this network's subnets",
        ),
    ] {
        let refused = tunbridge
            .cli(&[
                "run",
                "-d",
                "--network",
                "ula",
                "--ip6",
                address,
                "--",
                "true",
            ])
            .expect_failure();
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // The address is its own over a restart.
    tunbridge.cli(&["stop", "-t", "0", "c1"]).expect_success();
    tunbridge.cli(&["start", "c1"]).expect_success();
    assert_eq!(address6(&tunbridge, "c1", "ula"), "fd00:20::77");
    lab.place("c1").ping("fd00:20::1").expect_success();
}

#[test]
fn without_icc_a_link_opens_exposed_ports_over_ipv6() {
    let lab = Lab::plain();
    let flags = [&with_prefix("fd00:17::/64")[..], &["--icc=false"]].concat();
    let tunbridge = lab.start_daemon(&flags);
    let command = crate::lab::server_command(&["80", "81"]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let db = tunbridge.run("db", &["--expose", "80", "--expose", "80/udp"], &command);
    db.wait_until_it_serves(81);
    let app = tunbridge.container_with("app", &["--link", "db:database"]);
    let other = tunbridge.container("other").impatient();
    let address = address6(&tunbridge, "db", "bridge");
    let (open, closed) = (format!("[{address}]:80"), format!("[{address}]:81"));
    app.tcp(&open).unwrap();
    app.udp(&open).unwrap();
    app.impatient().tcp(&closed).unwrap_err();
    app.ping(&address).expect_failure();
    other.tcp(&open).unwrap_err();
    db.ping(&address6(&tunbridge, "app", "bridge"))
        .expect_failure();
}
