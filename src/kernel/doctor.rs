//! What on this host will hurt, why, and the command that fixes it.
//!
//! [`examine`] collects facts once (links, routes, sysctls, sysctl files, kernel release) and hands
//! them to the checks, which are pure functions of facts and [`Scope`]. It changes nothing. What it
//! says about forwarding is the answer to the commonest question: a host whose `/etc/sysctl.conf`
//! clears `net.ipv4.ip_forward` is no problem for tunbridge, but is one for other routers on it.

mod checks;
mod forwarding;
mod ipv6;
pub mod sysctl_files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use ipnet::IpNet;

use self::sysctl_files::{Assignment, SysctlPaths};
use super::dump::{Link, Route, RouteKind, TABLE_MAIN};
use super::netlink::{Netlink, NetlinkError};
use super::sysctl;

/// Segments of the sysctls that send bridged frames through netfilter, for IPv4 and IPv6.
const BRIDGE_NETFILTER: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Will hurt somebody.
    Warning,
    /// Does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was looked at, e.g. `net.ipv4.ip_forward`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// A command that fixes it; empty if there is nothing to do.
    pub fix: String,
}

/// A container network, as far as the host can be in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// It is the daemon's default network: its settings are the daemon's flags.
    pub default: bool,
    /// The interface name of its bridge.
    pub bridge: String,
    /// The bridge was made by the daemon, and not by the user.
    pub managed: bool,
    /// It has no way out.
    pub internal: bool,
    /// Its subnets in which the bridge has an address; without one, the host's routes do not concern it.
    pub subnets: Vec<IpNet>,
    /// Those of them whose containers are reached at their own addresses, without NAT.
    pub routed: Vec<IpNet>,
    /// Names of the interfaces on which the daemon answers for its containers (`--ndp-proxy`).
    pub ndp_proxy: Vec<String>,
    /// Largest IP packet in octets.
    pub mtu: u32,
}

/// What the findings are to be about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Name of the TUN device, if the daemon runs.
    pub tun: Option<String>,
    /// The container networks.
    pub networks: Vec<Network>,
    /// Names of the host's ends of containers' interfaces.
    pub ports: BTreeSet<String>,
    /// Ports that the forwarder takes as external ports.
    pub external_ports: Vec<RangeInclusive<u16>>,
    /// The daemon keeps `net.ipv4.ip_forward` at 1 (`--ip-forward`).
    pub keeps_forwarding: bool,
    /// Where sysctl settings are read from.
    pub sysctl_paths: SysctlPaths,
}

/// Looks at the host: the calling thread's network namespace, which must be `netlink`'s too. Worst
/// findings first.
///
/// # Errors
/// Links or routes cannot be listed.
pub async fn examine(netlink: &Netlink, scope: &Scope) -> Result<Vec<Finding>, NetlinkError> {
    let links = netlink.links().await?;
    let facts = Facts {
        routes: netlink.routes().await?,
        sysctls: read_sysctls(&links),
        links,
        assignments: sysctl_files::read(&scope.sysctl_paths),
        release: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default(),
        tun_device: Path::new("/dev/net/tun").exists(),
    };
    let mut findings = judge(&facts, scope);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// The host's state, as the checks see it.
#[derive(Clone, Debug, Default)]
struct Facts {
    links: Vec<Link>,
    routes: Vec<Route>,
    /// By the name `sysctl(8)` writes; what this kernel lacks is missing.
    sysctls: BTreeMap<String, String>,
    /// In the order in which they are applied.
    assignments: Vec<Assignment>,
    release: String,
    tun_device: bool,
}

impl Facts {
    fn sysctl(&self, segments: &[&str]) -> Option<&str> {
        self.sysctls
            .get(&sysctl::name(segments))
            .map(String::as_str)
    }

    fn sysctl_number(&self, segments: &[&str]) -> u32 {
        self.sysctl(segments)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    fn is_ours(link: &Link, scope: &Scope) -> bool {
        scope.tun.as_deref() == Some(link.name.as_str())
            || scope
                .networks
                .iter()
                .any(|network| network.bridge == link.name)
    }

    /// Interfaces that ordinary routes leave through and that are not ours.
    fn uplinks<'a>(&'a self, scope: &Scope) -> Vec<&'a Link> {
        let used = |link: &Link| {
            self.main_routes()
                .any(|route| route.next_hops.iter().any(|hop| hop.if_index == link.index))
        };
        self.links
            .iter()
            .filter(|link| link.up && !link.loopback && !Self::is_ours(link, scope) && used(link))
            .collect()
    }

    fn main_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes
            .iter()
            .filter(|route| route.table == TABLE_MAIN && route.kind == RouteKind::Unicast)
            // Every interface with IPv6 has one.
            .filter(|route| !is_link_local(&route.destination))
    }
}

fn is_link_local(destination: &IpNet) -> bool {
    match destination {
        IpNet::V4(_) => false,
        IpNet::V6(destination) => destination.network().is_unicast_link_local(),
    }
}

fn judge(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let mut findings = forwarding::check(facts, scope);
    findings.extend(checks::kernel(facts));
    findings.extend(checks::reverse_path(facts, scope));
    findings.extend(checks::mtu(facts, scope));
    findings.extend(checks::overlaps(facts, scope));
    findings.extend(checks::foreign_ports(facts, scope));
    findings.extend(checks::bridge_netfilter(facts));
    findings.extend(checks::route_localnet(facts, scope));
    findings.extend(checks::local_ports(facts, scope));
    findings.extend(ipv6::check(facts, scope));
    findings
}

fn read_sysctls(links: &[Link]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut read = |segments: &[&str]| {
        if let Ok(value) = sysctl::get(segments) {
            values.insert(sysctl::name(segments), value);
        }
    };
    read(&["net", "ipv4", "ip_forward"]);
    read(&["net", "ipv4", "ip_local_port_range"]);
    for parameter in BRIDGE_NETFILTER {
        read(&["net", "bridge", parameter]);
    }
    let no_ports = links.iter().filter(|link| link.master.is_none());
    for name in no_ports.map(|link| link.name.as_str()).chain(["all"]) {
        for parameter in ["forwarding", "accept_ra", "disable_ipv6"] {
            read(&["net", "ipv6", "conf", name, parameter]);
        }
    }
    for name in links.iter().map(|link| link.name.as_str()).chain(["all"]) {
        for parameter in ["rp_filter", "route_localnet"] {
            read(&["net", "ipv4", "conf", name, parameter]);
        }
    }
    values
}

#[cfg(test)]
mod tests;
