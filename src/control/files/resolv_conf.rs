//! /etc/resolv.conf, made of the host's and of `--dns…` (moby `libnetwork/internal/resolvconf`).
//!
//! On the default network it names the servers themselves. On networks of users it names our resolver, which asks the
//! servers: those of the host from the host, so that servers on its loopback can be used, those of `--dns` from
//! the container, so that they may be containers.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::DnsSettings;

/// Where a host with systemd-resolved keeps its real servers.
pub const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Where every host has its servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Our resolver inside containers on networks of users (Docker's address).
const RESOLVER: &str = "127.0.0.11";

/// Which of the host's files to use on the default network, given the contents of [`RESOLV_CONF`]: if that names
/// only the stub of systemd-resolved, which containers cannot reach, the file with the real servers. Networks of users
/// always use [`RESOLV_CONF`]: our resolver reaches the stub.
pub fn resolv_conf_source(etc_resolv_conf: &str) -> &'static str {
    let parsed = Parsed::new(etc_resolv_conf);
    let stub = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let is_stub = |server: &&str| server.parse() == Ok(stub);
    if !parsed.servers.is_empty() && parsed.servers.iter().all(is_stub) {
        SYSTEMD_RESOLV_CONF
    } else {
        RESOLV_CONF
    }
}

/// The file on the default network: the host's (`host_text` from `host_path`) without loopback and link-local servers,
/// which are those of the host's own interfaces, without IPv6 servers if the container has no IPv6, and with `settings`
/// in place of what they override.
///
/// When no server is left, the file says so and names none. Docker would put 8.8.8.8 and 8.8.4.4 there; that
/// sends names of a private network to a third party whom nobody chose, and fails slowly where the
/// Internet cannot be reached. Without a server, resolvers fail at once (they try 127.0.0.1), and the
/// comment tells why.
pub fn resolv_conf(host_path: &str, host_text: &str, settings: &DnsSettings, ipv6: bool) -> String {
    let mut file = Parsed::new(host_text).with(settings);
    if !file.overridden.contains(&"nameservers") {
        let reachable = |server: &String| {
            address(server).is_some_and(|address| match address {
                IpAddr::V4(address) => !address.is_loopback(),
                IpAddr::V6(address) => {
                    ipv6 && !address.is_loopback() && !address.is_unicast_link_local()
                }
            })
        };
        file.servers.retain(reachable);
    }
    let external = file.servers.clone();
    file.text(host_path, "legacy", &external, None)
}

/// The file on networks of users, and what our resolver must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalResolvConf {
    /// The file.
    pub text: String,
    /// Servers to ask for names of the outside, in this order.
    pub upstreams: Vec<NameServer>,
    /// The user or the host set `ndots`: then the resolver does not forward single-label names.
    pub ndots_set: bool,
}

/// A server to ask, at port 53.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// The interface of a link-local one (`fe80::1%eth0`): name or number.
    pub zone: Option<String>,
    /// It is the host's, to be asked from the host's network namespace; otherwise from the container's.
    pub from_host: bool,
}

/// The file that names our resolver, made of the host's ([`RESOLV_CONF`]) and of `settings`, as
/// [`DnsSettings::or`] gives them.
pub fn internal_resolv_conf(
    host_path: &str,
    host_text: &str,
    settings: &DnsSettings,
) -> InternalResolvConf {
    let mut file = Parsed::new(host_text).with(settings);
    let from_host = !file.overridden.contains(&"nameservers");
    let external: Vec<String> = file
        .servers
        .iter()
        .map(|server| match from_host {
            true => format!("host({server})"),
            false => server.clone(),
        })
        .collect();
    let upstreams = file.servers.iter().filter_map(|server| {
        Some(NameServer {
            address: address(server)?,
            zone: server.split_once('%').map(|(_, zone)| zone.to_owned()),
            from_host,
        })
    });
    let upstreams = upstreams.collect();
    // Before ours is added, and also if it is not a number: a choice, though not a good one.
    let ndots_set = file.options.iter().any(|option| is_ndots(option));
    file.options.retain(|option| {
        !is_ndots(option)
            || option
                .split_once(':')
                .is_some_and(|(_, value)| value.parse::<u32>().is_ok())
    });
    if !file.options.iter().any(|option| is_ndots(option)) {
        file.options.push("ndots:0".to_owned());
        file.ndots_from = Some("internal");
    }
    file.servers = vec![RESOLVER.to_owned()];
    InternalResolvConf {
        text: file.text(host_path, "internal resolver", &external, Some(&external)),
        upstreams,
        ndots_set,
    }
}

fn is_ndots(option: &str) -> bool {
    option.split(':').next() == Some("ndots")
}

/// Without the zone.
fn address(server: &str) -> Option<IpAddr> {
    server.split('%').next()?.parse().ok()
}

/// The servers that a resolv.conf names, those on a loopback included.
pub fn name_servers(text: &str) -> Vec<IpAddr> {
    let parsed = Parsed::new(text);
    // Those with a zone are no use without their interface.
    parsed
        .servers
        .iter()
        .filter_map(|server| server.parse().ok())
        .collect()
}

/// What a resolv.conf says: servers, search list, options. Servers with a zone are left out.
pub fn words(text: &str) -> (Vec<IpAddr>, Vec<String>, Vec<String>) {
    let parsed = Parsed::new(text);
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    (
        name_servers(text),
        owned(&parsed.search),
        owned(&parsed.options),
    )
}

/// What the host's file says.
#[derive(Debug, Default)]
struct Parsed<'a> {
    servers: Vec<&'a str>,
    invalid: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
    other: Vec<&'a str>,
}

/// What the container's file will say.
#[derive(Debug)]
struct Contents<'a> {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<&'a str>,
    invalid: Vec<&'a str>,
    overridden: Vec<&'static str>,
    ndots_from: Option<&'static str>,
}

impl<'a> Parsed<'a> {
    fn new(text: &'a str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                None => {}
                Some(comment) if comment.starts_with(['#', ';']) => {}
                Some("nameserver") => match words.next() {
                    Some(server) if address(server).is_some() => parsed.servers.push(server),
                    Some(server) => parsed.invalid.push(server),
                    None => {}
                },
                // The last of these lines wins (resolv.conf(5)).
                Some("search" | "domain") => {
                    let domains: Vec<&str> = words.collect();
                    if !domains.is_empty() {
                        parsed.search = domains;
                    }
                }
                Some("options") => parsed.options.extend(words),
                Some(_) => parsed.other.push(line),
            }
        }
        parsed
    }

    /// With what the user says in place of what the host says.
    fn with(self, settings: &DnsSettings) -> Contents<'a> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut contents = Contents {
            servers: owned(&self.servers),
            search: owned(&self.search),
            options: owned(&self.options),
            other: self.other,
            invalid: self.invalid,
            overridden: Vec::new(),
            ndots_from: None,
        };
        let has_ndots = |options: &[String]| options.iter().any(|option| is_ndots(option));
        if has_ndots(&contents.options) {
            contents.ndots_from = Some("host");
        }
        if !settings.servers.is_empty() {
            contents.overridden.push("nameservers");
            contents.servers = settings.servers.iter().map(ToString::to_string).collect();
        }
        if !settings.search.is_empty() {
            contents.overridden.push("search");
            let domains = settings.search.iter().filter(|domain| *domain != ".");
            contents.search = domains.cloned().collect();
        }
        if !settings.options.is_empty() {
            contents.overridden.push("options");
            contents.options.clone_from(&settings.options);
            contents.ndots_from = has_ndots(&contents.options).then_some("override");
        }
        contents
    }
}

impl Contents<'_> {
    /// `used`: the servers that are asked in the end. `shown`: those to list in the comment, if they stand nowhere else.
    fn text(
        &self,
        host_path: &str,
        transform: &str,
        used: &[String],
        shown: Option<&[String]>,
    ) -> String {
        let mut text = String::from(
            "# Generated by tunbridge.\n\
             # This file can be edited; tunbridge will not make further changes once it\n\
             # has been modified.\n\n",
        );
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        for other in &self.other {
            let _ = writeln!(text, "{other}");
        }
        let _ = writeln!(text, "\n# Based on host file: '{host_path}' ({transform})");
        if used.is_empty() {
            text.push_str("# NO EXTERNAL NAMESERVERS DEFINED\n");
        }
        if let Some(shown) = shown.filter(|shown| !shown.is_empty()) {
            let _ = writeln!(text, "# ExtServers: [{}]", shown.join(" "));
        }
        if !self.invalid.is_empty() {
            let _ = writeln!(text, "# Invalid nameservers: [{}]", self.invalid.join(" "));
        }
        let _ = writeln!(text, "# Overrides: [{}]", self.overridden.join(" "));
        if let Some(from) = self.ndots_from {
            let _ = writeln!(text, "# Option ndots from: {from}");
        }
        text
    }
}
