use crate::kernel::dump::NextHop;

use super::*;

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.into(),
        kind: None,
        mtu,
        mac: None,
        up: true,
        running: true,
        master: None,
        ethernet: name != "lo",
        loopback: name == "lo",
        ipv6: None,
    }
}

fn route(destination: &str, if_index: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        kind: RouteKind::Unicast,
        table: TABLE_MAIN,
        source: None,
        priority: 0,
        advertised: false,
        mtu: None,
        next_hops: vec![NextHop {
            if_index,
            gateway: None,
        }],
    }
}

fn network(name: &str, bridge: &str, subnet: &str) -> Network {
    Network {
        name: name.into(),
        default: name == "bridge",
        bridge: bridge.into(),
        managed: true,
        internal: false,
        subnets: vec![subnet.parse().unwrap()],
        routed: Vec::new(),
        ndp_proxy: Vec::new(),
        mtu: 1500,
    }
}

/// With two networks of the user's.
fn networks(facts: &mut Facts, scope: &mut Scope) {
    for (index, name, subnet) in [(10, "blue", "172.18.0.0/16"), (11, "red", "172.19.0.0/16")] {
        let bridge = format!("tb-{name}");
        facts.links.push(link(index, &bridge, 1500));
        facts.routes.push(route(subnet, index));
        scope.networks.push(network(name, &bridge, subnet));
    }
}

/// A host without a problem.
fn healthy() -> (Facts, Scope) {
    let sysctls = [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.ip_local_port_range", "32768\t60999"),
        ("net.bridge.bridge-nf-call-iptables", "0"),
        ("net.ipv4.conf.lo.route_localnet", "1"),
        ("net.ipv4.conf.eth0.rp_filter", "1"),
    ];
    let facts = Facts {
        links: vec![
            link(1, "lo", 65_536),
            link(2, "eth0", 1500),
            link(3, "tb0", 1500),
        ],
        routes: vec![
            route("0.0.0.0/0", 2),
            route("192.0.2.0/24", 2),
            route("172.17.0.0/16", 3),
        ],
        sysctls: sysctls
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        assignments: Vec::new(),
        release: "6.12.1-amd64\n".into(),
        tun_device: true,
    };
    let scope = Scope {
        tun: Some("tbtun0".into()),
        networks: vec![network("bridge", "tb0", "172.17.0.0/16")],
        external_ports: vec![61_000..=65_534, 5000..=32_767],
        ..Scope::default()
    };
    (facts, scope)
}

/// The findings that are worse than Ok.
fn problems(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let mut findings = judge(facts, scope);
    findings.retain(|finding| finding.severity > Severity::Ok);
    findings
}

/// The only problem after `change` was made to a healthy host.
fn only_problem(change: impl FnOnce(&mut Facts, &mut Scope)) -> Finding {
    let (mut facts, mut scope) = healthy();
    change(&mut facts, &mut scope);
    let mut found = problems(&facts, &scope);
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = found.remove(0);
    assert!(!finding.why.is_empty(), "{finding:?}");
    finding
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    facts.sysctls.insert(name.into(), value.into());
}

#[test]
fn a_healthy_host_has_no_problem() {
    let (facts, scope) = healthy();
    assert_eq!(problems(&facts, &scope), []);
    assert!(
        judge(&facts, &scope)
            .iter()
            .any(|finding| finding.subject == "net.ipv4.ip_forward")
    );
}

fn forward_line(file: &str, value: &str) -> Assignment {
    Assignment {
        file: file.into(),
        line: 12,
        key: "net/ipv4/ip_forward".into(),
        value: value.into(),
        manual_only: false,
    }
}

#[test]
fn a_file_that_switches_forwarding_off_is_named_with_its_line() {
    let finding = only_problem(|facts, _| {
        facts.assignments = vec![forward_line("/etc/sysctl.conf", "0")];
    });
    assert_eq!(finding.severity, Severity::Note);
    assert_eq!(finding.subject, "/etc/sysctl.conf:12");
    assert!(
        finding.found.starts_with("net.ipv4.ip_forward = 0"),
        "{finding:?}"
    );
    assert!(finding.why.contains("means nothing") && finding.why.contains("Docker"));
    assert_eq!(finding.fix, "sed -i '12s/^/# /' /etc/sysctl.conf");

    let (mut facts, scope) = healthy();
    facts.assignments = vec![
        forward_line("/etc/a.conf", "0"),
        forward_line("/etc/b.conf", "1"),
    ];
    assert_eq!(problems(&facts, &scope), []);
    let overridden = judge(&facts, &scope)
        .into_iter()
        .find(|f| f.subject == "/etc/a.conf:12");
    assert!(
        overridden
            .unwrap()
            .found
            .contains("overridden by /etc/b.conf:12 = 1")
    );
}

#[test]
fn forwarding_that_should_be_kept_but_is_off_is_an_error() {
    let finding = only_problem(|_, scope| scope.keeps_forwarding = true);
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.fix, "sysctl -w net.ipv4.ip_forward=1");
}

#[test]
fn strict_reverse_path_filter_hurts_with_two_uplinks() {
    let (mut facts, scope) = healthy();
    facts.links.push(link(4, "wg.0", 1500));
    facts.routes.push(route("10.8.0.0/24", 4));
    assert_eq!(
        problems(&facts, &scope),
        [],
        "a second interface without a router"
    );
    let gateway = Some("10.8.0.1".parse().unwrap());
    let next_hops = vec![NextHop {
        if_index: 4,
        gateway,
    }];
    facts.routes.push(Route {
        next_hops,
        ..route("10.0.0.0/8", 4)
    });
    set(&mut facts, "net.ipv4.conf.wg/0.rp_filter", "0");
    let found = problems(&facts, &scope);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].subject, "net.ipv4.conf.eth0.rp_filter");

    // `all` counts for every interface, the TUN included, and loose beats strict.
    set(&mut facts, "net.ipv4.conf.all.rp_filter", "1");
    set(&mut facts, "net.ipv4.conf.eth0.rp_filter", "2");
    let subjects: Vec<_> = problems(&facts, &scope)
        .into_iter()
        .map(|f| f.subject)
        .collect();
    let expected = [
        "net.ipv4.conf.wg/0.rp_filter",
        "net.ipv4.conf.tbtun0.rp_filter",
    ];
    assert_eq!(subjects, expected);
}

#[test]
fn an_uplink_narrower_than_a_network_is_named() {
    let finding = only_problem(|facts, _| facts.links[1].mtu = 1400);
    assert_eq!(finding.found, "1500, but eth0 has 1400");
    assert_eq!(finding.fix, "tunbridge daemon --mtu 1400");
}

#[test]
fn overlapping_routes_are_named() {
    for (destination, severity) in [
        ("172.16.0.0/12", Severity::Warning),
        ("172.17.0.0/16", Severity::Error),
        ("172.17.4.0/24", Severity::Error),
    ] {
        let finding = only_problem(|facts, _| facts.routes.push(route(destination, 2)));
        assert_eq!(finding.severity, severity, "{destination}");
        assert_eq!(
            finding.found,
            format!("overlaps the route {destination} dev eth0")
        );
    }
    let (mut facts, scope) = healthy();
    let elsewhere = Route {
        table: 99,
        ..route("172.17.0.0/16", 2)
    };
    facts.routes.push(elsewhere);
    assert_eq!(problems(&facts, &scope), [], "other tables do not count");
}

#[test]
fn each_of_several_networks_is_looked_at() {
    let (mut facts, mut scope) = healthy();
    networks(&mut facts, &mut scope);
    assert_eq!(problems(&facts, &scope), []);
    let one_line = "MTU of 3 networks";
    let findings = judge(&facts, &scope);
    assert!(
        findings.iter().any(|f| f.subject == one_line),
        "{findings:?}"
    );

    let finding = only_problem(|facts, scope| {
        networks(facts, scope);
        facts.routes.push(route("172.19.8.0/24", 2));
    });
    assert_eq!(finding.subject, "subnet 172.19.0.0/16 of network red");
    assert!(
        finding.fix.contains("network create --subnet"),
        "{finding:?}"
    );

    let finding = only_problem(|facts, scope| {
        networks(facts, scope);
        scope.networks[1].mtu = 9000;
        scope.networks[2].mtu = 9000;
        scope.networks[2].internal = true;
    });
    assert_eq!(finding.subject, "MTU of network blue");
    assert!(finding.fix.contains("driver.mtu=1500"), "{finding:?}");

    // The host has no part in a network whose bridge has no address.
    let (mut facts, mut scope) = healthy();
    networks(&mut facts, &mut scope);
    facts.routes.push(route("172.19.8.0/24", 2));
    scope.networks[2].subnets.clear();
    assert_eq!(problems(&facts, &scope), []);
}

#[test]
fn a_foreign_port_on_a_bridge_of_ours_is_named() {
    let with_port = |name: &'static str, bridge: u32| {
        move |facts: &mut Facts, scope: &mut Scope| {
            networks(facts, scope);
            scope.ports.insert("tbv1".into());
            facts.links.push(Link {
                master: Some(bridge),
                ..link(20, name, 1500)
            });
        }
    };
    let finding = only_problem(with_port("tap0", 11));
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.subject, "bridge tb-red of network red");
    assert_eq!(finding.found, "tap0 is a port of it and of no container");
    assert_eq!(finding.fix, "ip link set tap0 nomaster");

    for (name, bridge) in [("tbv1", 11), ("tap0", 99)] {
        let (mut facts, mut scope) = healthy();
        with_port(name, bridge)(&mut facts, &mut scope);
        assert_eq!(problems(&facts, &scope), [], "{name}");
    }
    let (mut facts, mut scope) = healthy();
    with_port("eth9", 11)(&mut facts, &mut scope);
    scope.networks[2].managed = false;
    assert_eq!(problems(&facts, &scope), [], "the user's own bridge");
}

#[test]
fn old_kernels_are_told_what_they_lack() {
    for (release, severity, words) in [
        ("5.4.0-150-generic", Severity::Error, "5.10"),
        ("5.10.0", Severity::Note, "tcx (6.6)"),
        ("6.1.0-18-amd64", Severity::Note, "UDP segmentation"),
        ("6.3", Severity::Note, "clsact"),
        ("rolling", Severity::Note, "cannot tell"),
    ] {
        let finding = only_problem(|facts, _| facts.release = release.into());
        assert_eq!(finding.severity, severity, "{release}");
        assert!(finding.why.contains(words), "{release}: {}", finding.why);
    }
    let (mut facts, scope) = healthy();
    facts.release = "6.6.0".into();
    assert_eq!(problems(&facts, &scope), []);
}

#[test]
fn other_switches_are_explained() {
    let finding = only_problem(|facts, _| facts.tun_device = false);
    assert_eq!(
        (finding.severity, finding.fix.as_str()),
        (Severity::Error, "modprobe tun")
    );

    for name in [
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
    ] {
        let finding = only_problem(|facts, _| set(facts, name, "1"));
        assert_eq!(
            (finding.severity, finding.subject.as_str()),
            (Severity::Note, name)
        );
        assert_eq!(finding.fix, format!("sysctl -w {name}=0"));
    }

    for name in [
        "net.ipv4.conf.eth0.route_localnet",
        "net.ipv4.conf.all.route_localnet",
    ] {
        let finding = only_problem(|facts, _| set(facts, name, "1"));
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.fix, format!("sysctl -w {name}=0"));
    }

    // On a bridge it may be what somebody else's published ports need.
    let name = "net.ipv4.conf.cni-podman1.route_localnet";
    for ours in [false, true] {
        let finding = only_problem(|facts, scope| {
            let bridge = Link {
                kind: Some("bridge".into()),
                ..link(10, "cni-podman1", 1500)
            };
            let port = Link {
                master: Some(10),
                ..link(11, "veth1", 1500)
            };
            facts.links.extend([bridge, port]);
            if ours {
                scope.ports.insert("veth1".into());
            }
            set(facts, name, "1");
        });
        if ours {
            assert_eq!(finding.severity, Severity::Warning);
            assert_eq!(finding.fix, format!("sysctl -w {name}=0"));
        } else {
            assert_eq!(finding.severity, Severity::Note);
            assert_eq!(finding.fix, "");
            assert!(finding.why.contains("portmap"), "{finding:?}");
        }
    }

    let name = "net.ipv4.ip_local_port_range";
    let finding = only_problem(|facts, _| set(facts, name, "32768\t61000"));
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.found.contains("61000-65534"), "{finding:?}");
}

/// The default network has IPv6 too, translated.
fn with_ipv6(facts: &mut Facts, scope: &mut Scope) {
    let prefix: IpNet = "2001:db8:1:0:5::/80".parse().unwrap();
    scope.networks[0].subnets.push(prefix);
    facts.routes.push(route("2001:db8:1:0:5::/80", 3));
    facts.routes.push(route("fe80::/64", 2));
    facts.routes.push(route("::/0", 2));
    for (name, value) in [
        ("forwarding", "0"),
        ("accept_ra", "1"),
        ("disable_ipv6", "0"),
    ] {
        for interface in ["eth0", "tb0", "all"] {
            let name = format!("net.ipv6.conf.{interface}.{name}");
            facts.sysctls.insert(name, value.into());
        }
    }
}

#[test]
fn a_host_with_ipv6_is_healthy() {
    let (mut facts, mut scope) = healthy();
    with_ipv6(&mut facts, &mut scope);
    assert_eq!(problems(&facts, &scope), []);
}

/// Its prefix is routed.
fn with_routed_ipv6(facts: &mut Facts, scope: &mut Scope) {
    with_ipv6(facts, scope);
    let prefix = scope.networks[0].subnets[1];
    scope.networks[0].routed.push(prefix);
}

#[test]
fn a_routed_prefix_needs_a_route_or_a_proxy() {
    let subject = "prefix 2001:db8:1:0:5::/80 of network bridge";
    let finding = only_problem(with_routed_ipv6);
    assert_eq!(
        (finding.severity, finding.subject.as_str()),
        (Severity::Note, subject)
    );
    let option = "tunbridge daemon --ndp-proxy eth0, if";
    assert!(finding.fix.contains(option), "{finding:?}");

    let finding = only_problem(|facts, scope| {
        with_routed_ipv6(facts, scope);
        scope.networks[0].default = false;
    });
    for option in ["com.tunbridge.ndp_proxy=eth0", "gateway_mode_ipv6=nat"] {
        assert!(finding.fix.contains(option), "{finding:?}");
    }

    let (mut facts, mut scope) = healthy();
    with_routed_ipv6(&mut facts, &mut scope);
    scope.networks[0].ndp_proxy.push("eth0".into());
    assert_eq!(problems(&facts, &scope), []);
    let findings = judge(&facts, &scope);
    let proxied = findings.iter().find(|f| f.subject == subject).unwrap();
    assert!(proxied.found.ends_with("on eth0"), "{proxied:?}");
}

#[test]
fn a_default_route_that_forwarding_takes_away_is_a_problem() {
    let forwarding = |facts: &mut Facts, scope: &mut Scope| {
        with_ipv6(facts, scope);
        let name = "net.ipv6.conf.eth0.forwarding";
        facts.sysctls.insert(name.into(), "1".into());
    };
    let finding = only_problem(|facts, scope| {
        forwarding(facts, scope);
        if let Some(route) = facts.routes.last_mut() {
            route.advertised = true;
        }
    });
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(finding.fix, "sysctl -w net.ipv6.conf.eth0.accept_ra=2");
    // One that somebody has configured stays.
    let (mut facts, mut scope) = healthy();
    forwarding(&mut facts, &mut scope);
    assert_eq!(problems(&facts, &scope), []);
}

#[test]
fn a_host_without_a_way_out_over_ipv6_is_told() {
    let finding = only_problem(|facts, scope| {
        with_ipv6(facts, scope);
        facts.routes.pop();
    });
    assert_eq!(
        (finding.severity, finding.fix.as_str()),
        (Severity::Note, "")
    );
    let finding = only_problem(|facts, scope| {
        with_ipv6(facts, scope);
        facts.routes.pop();
        let name = "net.ipv6.conf.eth0.disable_ipv6";
        facts.sysctls.insert(name.into(), "1".into());
    });
    assert_eq!(finding.fix, "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0");
}

#[test]
fn a_prefix_of_the_link_needs_a_proxy() {
    let (mut facts, mut scope) = healthy();
    with_routed_ipv6(&mut facts, &mut scope);
    facts.routes.push(route("2001:db8:1::/64", 2));
    let fixes: Vec<String> = problems(&facts, &scope)
        .into_iter()
        .map(|f| f.fix)
        .collect();
    let fix = "tunbridge daemon --ndp-proxy eth0".to_owned();
    assert!(fixes.contains(&fix), "{fixes:?}");
    scope.networks[0].ndp_proxy.push("eth0".into());
    assert_eq!(problems(&facts, &scope), []);
}
