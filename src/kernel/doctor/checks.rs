//! The checks besides forwarding, each a pure function of what was found.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{BRIDGE_NETFILTER, Facts, Finding, Network, Scope, Severity};
use crate::kernel::dump::{Link, Route};

/// The oldest kernel supported: `bpf_redirect_neigh` and `bpf_redirect_peer`.
const KERNEL_MINIMUM: (u32, u32) = (5, 10);
/// UDP segmentation offload on TUN devices.
const KERNEL_TUN_USO: (u32, u32) = (6, 2);
/// tcx links, which end with the daemon.
const KERNEL_TCX: (u32, u32) = (6, 6);

pub(super) fn finding(
    severity: Severity,
    subject: impl Into<String>,
    found: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        subject: subject.into(),
        found: found.into(),
        why: why.into(),
        fix: fix.into(),
    }
}

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = facts.release.trim();
    let upgrade = "install a newer kernel";
    match parse_release(release) {
        None => findings.push(finding(
            Severity::Note,
            "kernel",
            format!("release {release:?} does not start with a version"),
            "tunbridge needs Linux 5.10 or later and cannot tell whether this is.",
            "",
        )),
        Some(version) if version < KERNEL_MINIMUM => findings.push(finding(
            Severity::Error,
            "kernel",
            format!("{release}, older than 5.10"),
            "The steering programs use bpf_redirect_neigh() and bpf_redirect_peer(), which came \
             with 5.10.",
            upgrade,
        )),
        Some(version) => {
            let mut missing = Vec::new();
            if version < KERNEL_TCX {
                missing.push(
                    "no tcx (6.6): steering uses clsact filters, which stay behind if the daemon \
                     is killed until it starts again",
                );
            }
            if version < KERNEL_TUN_USO {
                missing.push(
                    "no UDP segmentation offload on TUN devices (6.2): large UDP transfers cost \
                     more CPU",
                );
            }
            findings.push(if missing.is_empty() {
                finding(
                    Severity::Ok,
                    "kernel",
                    release,
                    "It has every feature that is used.",
                    "",
                )
            } else {
                finding(
                    Severity::Note,
                    "kernel",
                    release,
                    format!("It works, with {}.", missing.join("; ")),
                    upgrade,
                )
            });
        }
    }
    if !facts.tun_device {
        findings.push(finding(
            Severity::Error,
            "/dev/net/tun",
            "missing",
            "All container traffic passes through a TUN device.",
            "modprobe tun",
        ));
    }
    findings
}

pub(super) fn reverse_path(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let uplinks: Vec<&Link> = facts
        .uplinks(scope)
        .into_iter()
        .filter(|link| leads_to_a_router(facts, link))
        .collect();
    let all = facts.sysctl_number(&["net", "ipv4", "conf", "all", "rp_filter"]);
    let effective =
        |name: &str| all.max(facts.sysctl_number(&["net", "ipv4", "conf", name, "rp_filter"]));
    // The kernel uses the greater of `all` and the interface's: 1 is strict, 2 loose.
    let fix = |name: &str| {
        if all == 1 {
            format!("sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{name}.rp_filter=2")
        } else {
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2")
        }
    };
    let mut findings = Vec::new();
    for link in &uplinks {
        let name = sysctl_interface(&link.name);
        let subject = format!("net.ipv4.conf.{name}.rp_filter");
        if effective(&link.name) != 1 {
            let found = format!("{} (not strict)", effective(&link.name));
            findings.push(finding(Severity::Ok, subject, found, "", ""));
        } else if uplinks.len() > 1 {
            findings.push(finding(
                Severity::Warning,
                subject,
                format!("1 (strict), with {} uplinks", uplinks.len()),
                "The host drops what arrives on one uplink from a sender that it would answer \
                 through another. Published ports are not affected, the host's own services and \
                 fragments that are not for containers are.",
                fix(&name),
            ));
        } else {
            findings.push(finding(
                Severity::Ok,
                subject,
                "1 (strict)",
                "No harm with a single uplink.",
                "",
            ));
        }
    }
    if let Some(tun) = &scope.tun
        && effective(tun) == 1
    {
        let name = sysctl_interface(tun);
        findings.push(finding(
            Severity::Note,
            format!("net.ipv4.conf.{name}.rp_filter"),
            if all == 1 {
                "1 (strict), from `all`"
            } else {
                "1 (strict)"
            },
            "Should the steering program on the TUN device be missing, packets from it are dropped \
             silently instead of being counted.",
            fix(&name),
        ));
    }
    findings
}

/// Senders behind a router can arrive on several uplinks; those on the link itself cannot.
fn leads_to_a_router(facts: &Facts, link: &Link) -> bool {
    let mut ipv4 = facts
        .main_routes()
        .filter(|route| route.destination.addr().is_ipv4());
    ipv4.any(|route| {
        route.next_hops.iter().any(|hop| {
            hop.if_index == link.index
                && (hop.gateway.is_some() || route.destination.prefix_len() == 0)
        })
    })
}

pub(super) fn mtu(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let uplinks = facts.uplinks(scope);
    let narrowest = uplinks.iter().min_by_key(|link| link.mtu);
    let mut findings = Vec::new();
    let mut fitting = Vec::new();
    for network in scope.networks.iter().filter(|network| !network.internal) {
        let Some(link) = narrowest.filter(|link| link.mtu < network.mtu) else {
            fitting.push(network);
            continue;
        };
        let fix = if network.default {
            format!("tunbridge daemon --mtu {}", link.mtu)
        } else {
            format!(
                "tunbridge network create --opt com.docker.network.driver.mtu={} (a network keeps \
                 the MTU that it was created with)",
                link.mtu
            )
        };
        findings.push(finding(
            Severity::Note,
            format!("MTU of network {}", network.name),
            format!("{}, but {} has {}", network.mtu, link.name, link.mtu),
            "Containers learn the smaller size from ICMP, one packet later per destination; \
             software that ignores ICMP inside a container hangs on large transfers.",
            fix,
        ));
    }
    // One line for all of them, however many there are.
    if let Some(largest) = fitting.iter().map(|network| network.mtu).max() {
        let subject = match fitting[..] {
            [network] => format!("MTU of network {}", network.name),
            _ => format!("MTU of {} networks", fitting.len()),
        };
        let found = format!("{largest}, no uplink has less");
        findings.push(finding(Severity::Ok, subject, found, "", ""));
    }
    findings
}

pub(super) fn overlaps(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let ours: Vec<u32> = facts
        .links
        .iter()
        .filter(|link| Facts::is_ours(link, scope))
        .map(|link| link.index)
        .collect();
    let foreign: Vec<&Route> = facts
        .main_routes()
        .filter(|route| {
            route.destination.prefix_len() > 0
                && !route
                    .next_hops
                    .iter()
                    .any(|hop| ours.contains(&hop.if_index))
        })
        .collect();
    let mut findings = Vec::new();
    for network in &scope.networks {
        for subnet in &network.subnets {
            for route in &foreign {
                let destination = route.destination;
                let is_proxied = route.next_hops.iter().any(|hop| {
                    let link = facts.links.iter().find(|link| link.index == hop.if_index);
                    link.is_some_and(|link| network.ndp_proxy.contains(&link.name))
                });
                // A part of that link's prefix is the containers', as it should be.
                let is_wanted = is_proxied && destination.prefix_len() < subnet.prefix_len();
                if !is_wanted && (subnet.contains(&destination) || destination.contains(subnet)) {
                    findings.push(overlap(network, subnet, route, facts));
                }
            }
        }
    }
    findings
}

fn overlap(network: &Network, subnet: &IpNet, route: &Route, facts: &Facts) -> Finding {
    // The longer prefix wins; with equal ones the metric does.
    let (severity, why) = if route.destination.prefix_len() >= subnet.prefix_len() {
        (
            Severity::Error,
            "The host sends packets for these containers to the other interface.",
        )
    } else {
        (
            Severity::Warning,
            "Machines behind this route that have addresses of the network cannot be reached from \
             the host or from containers.",
        )
    };
    finding(
        severity,
        format!("subnet {subnet} of network {}", network.name),
        format!("overlaps the route {}", route.describe(&facts.links)),
        why,
        if network.default {
            "tunbridge daemon --bip CIDR, with a subnet that is free here"
        } else {
            "tunbridge network create --subnet CIDR, with a subnet that is free here (a network \
             keeps the subnet that it was created with)"
        },
    )
}

/// Interfaces that somebody has put on a bridge of ours.
pub(super) fn foreign_ports(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let mut findings = Vec::new();
    for network in scope.networks.iter().filter(|network| network.managed) {
        let mut bridges = facts.links.iter();
        let Some(bridge) = bridges.find(|link| link.name == network.bridge) else {
            continue;
        };
        for port in facts
            .links
            .iter()
            .filter(|link| link.master == Some(bridge.index) && !scope.ports.contains(&link.name))
        {
            findings.push(finding(
                Severity::Warning,
                format!("bridge {} of network {}", bridge.name, network.name),
                format!("{} is a port of it and of no container", port.name),
                "What is behind it meets the containers on the bridge, where nobody judges its \
                 packets: --internal and enable_icc=false do not hold for it.",
                format!("ip link set {} nomaster", port.name),
            ));
        }
    }
    findings
}

pub(super) fn bridge_netfilter(facts: &Facts) -> Vec<Finding> {
    let is_on = |parameter: &&str| facts.sysctl(&["net", "bridge", parameter]) == Some("1");
    let on = BRIDGE_NETFILTER.into_iter().filter(is_on);
    on.map(|parameter| {
        finding(
            Severity::Note,
            format!("net.bridge.{parameter}"),
            "1",
            "Frames that a bridge forwards cross the host's FORWARD rules. Steering takes container \
             to container traffic past the bridge, so tunbridge is not affected; other bridges \
             (virtual machines) are.",
            format!("sysctl -w net.bridge.{parameter}=0"),
        )
    })
    .collect()
}

pub(super) fn route_localnet(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    const WHAT: &str =
        "Neighbours on that interface can reach services that listen on 127.0.0.1 (CVE-2020-8558).";
    let is_set =
        |name: &str| facts.sysctl_number(&["net", "ipv4", "conf", name, "route_localnet"]) == 1;
    let parameter = |name: &str| format!("net.ipv4.conf.{}.route_localnet", sysctl_interface(name));
    let warning = |name: &str| {
        let parameter = parameter(name);
        let fix = format!("sysctl -w {parameter}=0");
        let why = format!(
            "{WHAT} tunbridge sets it on lo only; Docker sets it with --userland-proxy=false, CNI's portmap for published ports."
        );
        finding(Severity::Warning, parameter, "1", why, fix)
    };
    let note = |name: &str| {
        let why = format!(
            "{WHAT} On a bridge without containers of tunbridge's, CNI's portmap has set it for ports that are published at 127.0.0.1, \
             or Docker with --userland-proxy=false: put it to 0 only if none of their containers publishes ports there."
        );
        finding(Severity::Note, parameter(name), "1", why, "")
    };
    let links = facts.links.iter().filter(|link| !link.loopback);
    let mut findings: Vec<Finding> = links
        .filter(|link| is_set(&link.name))
        .map(|link| match is_bridge_of_others(link, facts, scope) {
            true => note(&link.name),
            false => warning(&link.name),
        })
        .collect();
    findings.extend(is_set("all").then(|| warning("all")));
    findings
}

/// A bridge on which no interface of ours is, whether or not a network of ours has it.
fn is_bridge_of_others(link: &Link, facts: &Facts, scope: &Scope) -> bool {
    let is_port_of_ours =
        |port: &Link| port.master == Some(link.index) && scope.ports.contains(&port.name);
    link.kind.as_deref() == Some("bridge") && !facts.links.iter().any(is_port_of_ours)
}

pub(super) fn local_ports(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let Some(local) = facts
        .sysctl(&["net", "ipv4", "ip_local_port_range"])
        .and_then(parse_range)
    else {
        return Vec::new();
    };
    let subject = "net.ipv4.ip_local_port_range";
    let found = format!("{} {}", local.start(), local.end());
    let shared: Vec<String> = scope
        .external_ports
        .iter()
        .filter(|range| range.start() <= local.end() && local.start() <= range.end())
        .map(|range| format!("{}-{}", range.start(), range.end()))
        .collect();
    if shared.is_empty() {
        return vec![finding(Severity::Ok, subject, found, "", "")];
    }
    vec![finding(
        Severity::Warning,
        subject,
        format!(
            "{found}, which overlaps the external ports {}",
            shared.join(", ")
        ),
        "The host's own connections take ports that containers use too: the forwarder gives way, \
         and connections of containers on such a port end.",
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
    )]
}

/// An interface name as a segment of a sysctl's name.
pub(super) fn sysctl_interface(name: &str) -> String {
    name.replace('.', "/")
}

/// `6.1.0-18-amd64` is (6, 1).
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace();
    Some(numbers.next()?.parse().ok()?..=numbers.next()?.parse().ok()?)
}
