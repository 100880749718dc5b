//! IPv6, if a network has it: whether the host has a way out, and the outside a way in.

use ipnet::{IpNet, Ipv6Net};

use super::checks::{finding, sysctl_interface};
use super::{Facts, Finding, Network, Scope, Severity};
use crate::kernel::dump::Link;

pub(super) fn check(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let has_ipv6 = |network: &&Network| !network.internal && subnets(network).next().is_some();
    let networks: Vec<&Network> = scope.networks.iter().filter(has_ipv6).collect();
    if networks.is_empty() {
        return Vec::new();
    }
    let mut findings = advertisements(facts, scope);
    findings.extend(way_out(facts, scope));
    findings.push(forwarding(facts));
    for network in networks {
        findings.extend(ways_in(facts, scope, network));
    }
    findings
}

fn subnets(network: &Network) -> impl Iterator<Item = Ipv6Net> {
    network.subnets.iter().filter_map(|subnet| match subnet {
        IpNet::V4(_) => None,
        IpNet::V6(subnet) => Some(*subnet),
    })
}

fn parameter<'a>(facts: &'a Facts, interface: &str, name: &str) -> Option<&'a str> {
    facts.sysctl(&["net", "ipv6", "conf", interface, name])
}

/// Interfaces that are the host's own, not ours and no ports.
fn own_links<'a>(facts: &'a Facts, scope: &Scope) -> impl Iterator<Item = &'a Link> {
    let is_own = |link: &&Link| {
        link.up && !link.loopback && link.master.is_none() && !Facts::is_ours(link, scope)
    };
    facts.links.iter().filter(is_own)
}

fn has_default_route(facts: &Facts, link: Option<&Link>) -> bool {
    facts.main_routes().any(|route| {
        let mut hops = route.next_hops.iter();
        matches!(route.destination, IpNet::V6(to) if to.prefix_len() == 0)
            && link.is_none_or(|link| hops.any(|hop| hop.if_index == link.index))
    })
}

/// An interface that forwards takes no router advertisements, unless it is told to.
fn advertisements(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let all = has_default_route(facts, None);
    own_links(facts, scope)
        .filter(|link| {
            parameter(facts, &link.name, "forwarding") == Some("1")
                && parameter(facts, &link.name, "accept_ra") == Some("1")
        })
        .filter_map(|link| {
            let advertised = facts.main_routes().any(|route| {
                route.advertised && route.next_hops.iter().any(|hop| hop.if_index == link.index)
            });
            let found = match (advertised, all) {
                (true, _) => "1 with forwarding = 1, and a route from an advertisement",
                (false, false) => "1 with forwarding = 1, and there is no default route",
                // It has one that somebody has configured.
                (false, true) => return None,
            };
            let name = sysctl_interface(&link.name);
            Some(finding(
                Severity::Warning,
                format!("net.ipv6.conf.{name}.accept_ra"),
                found,
                "An interface that forwards ignores router advertisements unless accept_ra is 2: the \
                 default route that it has from one is gone at the latest when its lifetime is over. \
                 Docker, --ip-forward and VPN software switch forwarding on; tunbridge does not need it.",
                format!("sysctl -w net.ipv6.conf.{name}.accept_ra=2"),
            ))
        })
        .collect()
}

fn way_out(facts: &Facts, scope: &Scope) -> Option<Finding> {
    if has_default_route(facts, None) {
        return None;
    }
    let subject = "IPv6 default route";
    let why = "Containers reach each other and the host over IPv6, and nothing else; programs that \
               prefer IPv6 lose time before they try IPv4.";
    let mut off = own_links(facts, scope)
        .filter(|link| parameter(facts, &link.name, "disable_ipv6") == Some("1"))
        .map(|link| sysctl_interface(&link.name))
        .peekable();
    if off.peek().is_none() {
        let fix = "";
        return Some(finding(Severity::Note, subject, "none", why, fix));
    }
    let names: Vec<String> = off.collect();
    let parameters: Vec<String> = names
        .iter()
        .map(|name| format!("net.ipv6.conf.{name}.disable_ipv6=0"))
        .collect();
    Some(finding(
        Severity::Warning,
        subject,
        format!("none, and IPv6 is switched off on {}", names.join(", ")),
        why,
        format!("sysctl -w {}", parameters.join(" ")),
    ))
}

fn forwarding(facts: &Facts) -> Finding {
    finding(
        Severity::Ok,
        "net.ipv6.conf.all.forwarding",
        parameter(facts, "all", "forwarding").unwrap_or("missing"),
        "tunbridge does not need it and leaves it alone; nor do rules of ip6tables or nftables in \
         FORWARD matter to its containers.",
        "",
    )
}

/// Whether packets from outside find the containers of a network that is routed cannot be seen from here.
fn ways_in(facts: &Facts, scope: &Scope, network: &Network) -> Vec<Finding> {
    let is_routed = |subnet: &Ipv6Net| {
        network.routed.contains(&IpNet::V6(*subnet))
            && !subnet.network().is_unique_local()
            && !subnet.network().is_unicast_link_local()
    };
    subnets(network)
        .filter(is_routed)
        .map(|subnet| {
            let uplink = own_links(facts, scope).find(|link| is_on_link(facts, link, subnet));
            let subject = format!("prefix {subnet} of network {}", network.name);
            match uplink {
                Some(uplink) if !network.ndp_proxy.contains(&uplink.name) => finding(
                    Severity::Warning,
                    subject,
                    format!("a part of the link of {}, and nobody answers for it there", uplink.name),
                    "The router takes the containers for neighbours on that link and asks there who \
                     has their addresses. Without an answer nothing reaches them.",
                    proxy_option(network, &uplink.name),
                ),
                None if network.ndp_proxy.is_empty() => needs_a_route(facts, scope, network, subject),
                _ => finding(
                    Severity::Ok,
                    subject,
                    format!(
                        "routed, without NAT; the daemon answers for containers on {}",
                        network.ndp_proxy.join(", ")
                    ),
                    "",
                    "",
                ),
            }
        })
        .collect()
}

/// Neighbours on this link are called without a router.
fn is_on_link(facts: &Facts, link: &Link, subnet: Ipv6Net) -> bool {
    facts.main_routes().any(|route| {
        let mut hops = route.next_hops.iter();
        route.destination.prefix_len() > 0
            && route.destination.contains(&IpNet::V6(subnet))
            && hops.any(|hop| hop.if_index == link.index && hop.gateway.is_none())
    })
}

fn needs_a_route(facts: &Facts, scope: &Scope, network: &Network, subject: String) -> Finding {
    let uplink = own_links(facts, scope).find(|link| has_default_route(facts, Some(link)));
    let uplink = uplink.map_or("IF", |link| link.name.as_str());
    let nat = if network.default {
        "no global prefix in --bip6, --fixed-cidr-v6 and on the bridge"
    } else {
        "--opt com.docker.network.bridge.gateway_mode_ipv6=nat"
    };
    finding(
        Severity::Note,
        subject,
        "routed, without NAT, and without an NDP proxy",
        "Containers are reached from outside, and get answers from there, only if the router has a \
         route for the prefix by this host; that cannot be seen from here.",
        format!(
            "a route on the router; or {}, if the prefix is a part of that link's; or, for NAT, {nat}",
            proxy_option(network, uplink)
        ),
    )
}

fn proxy_option(network: &Network, interface: &str) -> String {
    if network.default {
        format!("tunbridge daemon --ndp-proxy {interface}")
    } else {
        format!("tunbridge network create --opt com.tunbridge.ndp_proxy={interface}")
    }
}
