//! IPv6: addresses, switches, names (integration/networking, integration/network/bridge).

use super::{address, create, endpoint, network};
use crate::ipv6::{address6, routes6};
use crate::lab::{FAR, FAR6, Lab};
use crate::tunbridge_under_test::daemon_that_refuses;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");

/// The host's name server is the helper's, at this address.
fn name_server(lab: &Lab, at: &str) -> crate::lab::Running {
    let file = "/run/lab/resolv.conf";
    lab.host()
        .shell(&format!(
            "echo 'nameserver {at}' >{file} && mount --bind {file} /etc/resolv.conf"
        ))
        .expect_success();
    let mut server = lab.far().start(&[PEER, "dns"]);
    assert!(server.read_line().starts_with("listening"));
    server
}

fn subnets(told: &serde_json::Value) -> Vec<String> {
    let subnet = |config: &serde_json::Value| config["Subnet"].as_str().unwrap().to_owned();
    let configs = told["IPAM"]["Config"].as_array().unwrap();
    configs.iter().map(subnet).collect()
}

#[test]
fn test_default_bridge_ipv6() {
    for prefix in ["", "fd00:1234::/64", "2001:db8:d::/64", "fe80::/64"] {
        let lab = Lab::plain();
        let flags = ["--ipv6", "--fixed-cidr-v6", prefix];
        let tunbridge = lab.start_daemon(if prefix.is_empty() {
            &flags[..1]
        } else {
            &flags
        });
        let server = tunbridge.container("c1");
        let client = tunbridge.container("c2");
        let mut target = address6(&tunbridge, "c1", "bridge");
        if prefix.is_empty() {
            assert!(target.starts_with("fd"), "{target}");
        }
        if prefix == "fe80::/64" {
            // What the kernel makes of the Ethernet address is all there is.
            assert_eq!(target, "");
            target = server.link_local("eth0");
            server.settled_addresses6();
            client.settled_addresses6();
        }
        if target.starts_with("fe80:") {
            target += "%eth0";
        }
        client.ping(&target).expect_success();
    }
}

#[test]
fn test_default_bridge_addresses() {
    // moby#46829
    let lab = Lab::plain();
    let refused = daemon_that_refuses(&lab, &["--ipv6", "--fixed-cidr-v6", "fe80:1234::/64"]);
    assert!(refused.stderr.contains("Link-Local"), "{}", refused.stderr);
    let start = |prefix| ["--ipv6", "--fixed-cidr-v6", prefix];
    let steps: [(&str, &str, &[&str]); 5] = [
        ("fd1c:f1a0:5d8d:aaaa::/64", "fd1c:f1a0:5d8d:aaaa::1/64", &[]),
        (
            "fd1c:f1a0:5d8d:bbbb::/64",
            "fd1c:f1a0:5d8d:bbbb::1/64",
            &["aaaa"],
        ),
        // A range of what the bridge has.
        (
            "fd1c:f1a0:5d8d:bbbb::/80",
            "fd1c:f1a0:5d8d:bbbb::1/64",
            &["aaaa"],
        ),
        ("fe80::/64", "fe80::1/64", &["fd1c"]),
        (
            "fd1c:f1a0:5d8d:cccc::/124",
            "fd1c:f1a0:5d8d:cccc::1/124",
            &["aaaa", "bbbb"],
        ),
    ];
    let mut tunbridge = lab.start_daemon(&start(steps[0].0));
    for (prefix, address, gone) in steps {
        tunbridge.kill();
        tunbridge.start_again_with(&start(prefix));
        let name = format!("c{}", prefix.len() + prefix.matches("bbbb").count());
        tunbridge.container(&name);
        let shown = lab.host().shell("ip -6 address show dev tb0").stdout;
        assert!(shown.contains(address), "{prefix}: {shown}");
        assert!(shown.contains("fe80::1/64"), "{prefix}: {shown}");
        for old in gone {
            assert!(!shown.contains(old), "{prefix}: {shown}");
        }
        tunbridge.cli(&["rm", "-f", &name]).expect_success();
    }
}

#[test]
fn test_non_ipv6_network() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "four", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "four"]);
    let show = |interface| c1.run(&["ip", "address", "show", "dev", interface]).stdout;
    assert!(show("lo").contains(" inet ") && show("lo").contains(" inet6 "));
    assert!(show("eth0").contains(" inet ") && !show("eth0").contains(" inet6 "));
    assert_eq!(c1.sysctl("net.ipv6.conf.eth0.disable_ipv6"), "1");
}

#[test]
fn test_disable_ipv4() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "six", &["--ipv6", "--ipv4=false"]);
    let c1 = tunbridge.container_with("c1", &["--network", "six"]);
    let show = |interface| c1.run(&["ip", "address", "show", "dev", interface]).stdout;
    assert!(show("lo").contains(" inet ") && show("lo").contains(" inet6 "));
    assert!(!show("eth0").contains(" inet ") && show("eth0").contains(" inet6 "));
    let told = network(&tunbridge, "six");
    assert_eq!(
        (&told["EnableIPv4"], &told["EnableIPv6"]),
        (&false.into(), &true.into())
    );
    let refused = tunbridge
        .cli(&["network", "create", "--ipv4=false", "neither"])
        .expect_failure();
    assert!(
        refused.stderr.contains("IPv4 or IPv6 must be enabled"),
        "{}",
        refused.stderr
    );
}

#[test]
fn test_container_disabled_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let subnet = ["--ipv6", "--subnet", "fd64:40cd:7fb4:8971::/64"];
    create(&tunbridge, "both", &subnet);
    tunbridge.container_with("with", &["--network", "both"]);
    let without = tunbridge.container("without");
    without.set_sysctl("net.ipv6.conf.all.disable_ipv6=1");
    tunbridge
        .cli(&["network", "connect", "both", "without"])
        .expect_success();
    assert!(address6(&tunbridge, "with", "both").starts_with("fd64:40cd:7fb4:8971:"));
    assert_eq!(address6(&tunbridge, "without", "both"), "");
    // TestDisableIPv6Addrs
    let shown = without.run(&["ip", "address"]).stdout;
    assert!(!shown.contains("inet6"), "{shown}");

    let ping = |family| {
        let words = [
            "exec", "with", "--", "ping", family, "-c", "1", "-W", "2", "without",
        ];
        tunbridge.cli(&words)
    };
    ping("-4").expect_success();
    let refused = ping("-6").expect_failure();
    assert_eq!(
        refused.stdout, "",
        "no address, no packet: {}",
        refused.stderr
    );
}

#[test]
fn test_create_with_ipv6_defaults_to_ula_prefix() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "test", &["--ipv6"]);
    let subnets = subnets(&network(&tunbridge, "test"));
    assert!(subnets[1].starts_with("fd"), "{subnets:?}");
}

#[test]
fn test_create_with_ipv6_without_enable_ipv6_flag() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[
        "--default-network-opt",
        "bridge=com.docker.network.enable_ipv6=true",
    ]);
    create(&tunbridge, "test", &[]);
    let told = network(&tunbridge, "test");
    assert_eq!(told["EnableIPv6"], true);
    assert!(subnets(&told)[1].starts_with("fd"), "{told}");
    let c1 = tunbridge.container_with("c1", &["--network", "test"]);
    c1.ping(FAR6).expect_success();
}

#[test]
fn test_64bit_ip_range() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let options = [
        "--ipv6",
        "--subnet",
        "fda9:8d04:86e::/56",
        "--ip-range",
        "fda9:8d04:86e:2::/64",
    ];
    create(&tunbridge, "wide", &options);
    let c1 = tunbridge.container_with("c1", &["--network", "wide"]);
    let address = address6(&tunbridge, "c1", "wide");
    assert!(address.starts_with("fda9:8d04:86e:2:"), "{address}");
    c1.ping(FAR6).expect_success();
}

#[test]
fn test_ip_range_at_64bit_limit() {
    // Docker's allocator loses the last address before a boundary of 64 bits, and the second and third fail there.
    for (number, (subnet, range)) in [
        (
            "fda9:8d04:86e::/64",
            "fda9:8d04:86e::ffff:ffff:ffff:fffc/127",
        ),
        (
            "fda9:8d04:86e::/64",
            "fda9:8d04:86e::ffff:ffff:ffff:fffe/127",
        ),
        (
            "fda9:8d04:86e::/56",
            "fda9:8d04:86e:aa:ffff:ffff:ffff:fffe/127",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let lab = Lab::plain();
        let tunbridge = lab.start_daemon(&[]);
        let options = ["--ipv6", "--subnet", subnet, "--ip-range", range];
        create(&tunbridge, "narrow", &options);
        tunbridge.container_with("c1", &["--network", "narrow"]);
        let range: ipnet::Ipv6Net = range.parse().unwrap();
        let address = address6(&tunbridge, "c1", "narrow");
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        assert!(range.contains(&address), "{number}: {address}");
    }
}

#[test]
fn test_network_inspect_gateway_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6"]);
    for config in network(&tunbridge, "both")["IPAM"]["Config"]
        .as_array()
        .unwrap()
    {
        let gateway = config["Gateway"].as_str().unwrap();
        let gateway: std::net::IpAddr = gateway.parse().expect("an address");
        let subnet: ipnet::IpNet = config["Subnet"].as_str().unwrap().parse().unwrap();
        assert!(subnet.contains(&gateway), "{config}");
    }
}

#[test]
fn test_etc_hosts_ipv6() {
    // moby#35954
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6", "--subnet", "fd00:20::/64"]);
    create(&tunbridge, "four", &[]);
    tunbridge.container_with("c1", &["--network", "both", "--hostname", "c1host"]);
    tunbridge.container_with("c2", &["--network", "four", "--hostname", "c2host"]);
    let hosts = |name| {
        tunbridge
            .cli(&["exec", name, "--", "cat", "/etc/hosts"])
            .expect_success()
            .stdout
    };
    let v4 = address(&tunbridge, "c1", "both");
    assert_eq!(
        hosts("c1"),
        format!(
            "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
{v4}\tc1host
fd00:20::2\tc1host
"
        )
    );
    assert!(!hosts("c2").contains("fd00"), "{}", hosts("c2"));
}

#[test]
fn test_ext_dns_in_ipv6_only_nw() {
    // The host's name server may be of either family.
    for at in [FAR, FAR6] {
        let lab = Lab::plain();
        let mut log = name_server(&lab, at);
        let tunbridge = lab.start_daemon(&[]);
        create(&tunbridge, "six", &["--ipv6", "--ipv4=false"]);
        let c1 = tunbridge.container_with("c1", &["--network", "six"]);
        let answer = c1.run(&["dig", "@127.0.0.11", "+short", "six.wan.example", "AAAA"]);
        assert_eq!(answer.expect_success().stdout, "2001:db8:3::9\n");
        let line = log.read_line();
        assert!(line.ends_with(" six.wan.example AAAA"), "{line}");
        c1.ping("2001:db8:3::9").expect_success();
    }
}

#[test]
fn test_dns_of_both_families() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6", "--subnet", "fd00:20::/64"]);
    create(&tunbridge, "four", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "both"]);
    tunbridge.container_with("c2", &["--network", "both"]);
    let dig = |words: &[&str]| {
        let words = [&["dig", "@127.0.0.11", "+short"], words].concat();
        c1.run(&words).expect_success().stdout
    };
    assert_eq!(dig(&["c2", "AAAA"]), "fd00:20::3\n");
    assert_eq!(dig(&["c2", "A"]).trim(), address(&tunbridge, "c2", "both"));
    assert_eq!(dig(&["-x", "fd00:20::3"]), "c2.both.\n");
    // No AAAA for who is on a network of IPv4: NOERROR, at once.
    let c3 = tunbridge.container_with("c3", &["--network", "four"]);
    let answer = c3
        .run(&["dig", "@127.0.0.11", "c3", "AAAA"])
        .expect_success();
    assert!(
        answer.stdout.contains("NOERROR") && answer.stdout.contains("ANSWER: 0"),
        "{}",
        answer.stdout
    );
}

#[test]
fn test_host_gateway_from_docker0() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&["--ipv6", "--fixed-cidr-v6", "fd00:17::/64"]);
    tunbridge.container_with("c1", &["--add-host", "hg:host-gateway"]);
    let hosts = tunbridge
        .cli(&["exec", "c1", "--", "cat", "/etc/hosts"])
        .expect_success()
        .stdout;
    for line in ["172.17.0.1\thg", "fd00:17::1\thg"] {
        assert!(hosts.lines().any(|found| found == line), "{hosts}");
    }
}

#[test]
fn test_set_interface_sysctl_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "both", &["--ipv6"]);
    let option = "name=both,driver-opt=com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.hop_limit=77";
    let c1 = tunbridge.container_with("c1", &["--network", option]);
    assert_eq!(c1.sysctl("net.ipv6.conf.eth0.hop_limit"), "77");
}

#[test]
fn test_advertise_addresses_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let options = [
        "--ipv6",
        "--subnet",
        "fd3c:e70a:962c::/64",
        "-o",
        "com.docker.network.advertise_addr_ms=100",
    ];
    create(&tunbridge, "one", &options);
    let witness = tunbridge.container_with("witness", &["--network", "one"]);
    let mut heard = witness.hear("eth0");
    let target = "fd3c:e70a:962c::2222";
    let run = |name: &str, mac: &str| {
        let options = ["--network", "one", "--ip6", target, "--mac-address", mac];
        tunbridge.container_with(name, &options);
    };
    run("c1", "02:42:08:26:a9:55");
    for _ in 0..3 {
        heard.read_until(&format!(
            "in type=136 hop-limit=255 from={target} to=ff02::1 target={target} mac=02:42:08:26:a9:55"
        ));
    }
    witness.ping(target).expect_success();
    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    run("c2", "02:42:08:26:a9:66");
    heard.read_until(&format!("target={target} mac=02:42:08:26:a9:66"));
    let neighbours = witness
        .run(&["ip", "-6", "neighbour", "show", target])
        .stdout;
    assert!(neighbours.contains("02:42:08:26:a9:66"), "{neighbours}");
    witness.ping(target).expect_success();
}

#[test]
fn test_daemon_ipv6_fixed_cidr() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&["--ipv6", "--fixed-cidr-v6", "2001:db8:2::/64"]);
    let c1 = tunbridge.container_with("c1", &["--mac-address", "AA:BB:CC:DD:EE:FF"]);
    assert_eq!(
        address6(&tunbridge, "c1", "bridge"),
        "2001:db8:2::aabb:ccdd:eeff"
    );
    assert_eq!(
        endpoint(&tunbridge, "c1", "bridge")["GlobalIPv6PrefixLen"],
        64
    );
    assert!(
        routes6(&c1).contains(&"default via 2001:db8:2::1 dev eth0 metric 1024".to_owned()),
        "{:?}",
        routes6(&c1)
    );
}

#[test]
fn test_unusual_subnets_ipv6() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let options = [
        "--ipv6",
        "--ipv4=false",
        "--internal",
        "--subnet",
        "fd00:5::2/127",
    ];
    let isolated = ["-o", &super::gateway_mode6("isolated")];
    create(&tunbridge, "pair", &[&options[..], &isolated].concat());
    let first = tunbridge.container_with("one", &["--network", "pair"]);
    tunbridge.container_with("two", &["--network", "pair"]);
    let addresses = ["one", "two"].map(|name| address6(&tunbridge, name, "pair"));
    assert_eq!(addresses, ["fd00:5::2", "fd00:5::3"]);
    first.ping("fd00:5::3").expect_success();
}
