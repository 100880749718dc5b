//! The text of a container's /etc/hosts, /etc/hostname and /etc/resolv.conf.
//!
//! Only text: the daemon writes it, the sandbox mounts it. What users give (`--add-host`, `--dns…`) is
//! checked here, because a newline or blank in it would become a line or field of its own.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `--dns`, `--dns-search`, `--dns-option`: of a container, or the daemon's for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSettings {
    /// Replace the host's name servers if there is one.
    pub servers: Vec<IpAddr>,
    /// Replace the host's search list if there is one; a single `.` means an empty list.
    pub search: Vec<String>,
    /// Replace the host's options if there is one.
    pub options: Vec<String>,
}

/// An `--add-host` value: `name:address`, `name=address` or `name:host-gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// Host name.
    pub name: String,
    /// Its address; `None` is `host-gateway`.
    pub address: Option<IpAddr>,
}

/// Why a value for one of the files is refused: one line with flag, value and fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileValueError {
    /// Not `name:address`.
    #[error(
        "bad format for add-host: \"{0}\": give --add-host a name and an address, as in db:10.9.8.7"
    )]
    AddHostFormat(String),
    /// The part after the name is no address.
    #[error(
        "invalid IP address in add-host: \"{address}\" (in --add-host \"{value}\"): give an IP address or host-gateway"
    )]
    AddHostAddress {
        /// As given.
        value: String,
        /// Its address part.
        address: String,
    },
    /// Not a domain.
    #[error(
        "{0} is not a valid domain: give --dns-search a domain such as corp.example, or . for none"
    )]
    Search(String),
    /// Not a resolver option.
    #[error("invalid DNS option \"{0}\": give --dns-option one word such as ndots:2")]
    Option(String),
}

impl DnsSettings {
    /// Checks what goes into the file as text.
    ///
    /// # Errors
    /// For a search domain or option that is not a single word.
    pub fn validate(&self) -> Result<(), FileValueError> {
        let word = |text: &str| {
            (1..=253).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'#' && b != b';')
        };
        if let Some(bad) = self
            .search
            .iter()
            .find(|domain| *domain != "." && !is_host_name(domain))
        {
            return Err(FileValueError::Search(bad.escape_debug().to_string()));
        }
        if let Some(bad) = self.options.iter().find(|option| !word(option)) {
            return Err(FileValueError::Option(bad.escape_debug().to_string()));
        }
        Ok(())
    }

    /// What is given here, and `daemon`'s settings for what is not.
    #[must_use]
    pub fn or(&self, daemon: &Self) -> Self {
        let pick = |own: &Vec<String>, theirs: &Vec<String>| {
            if own.is_empty() {
                theirs.clone()
            } else {
                own.clone()
            }
        };
        Self {
            servers: if self.servers.is_empty() {
                daemon.servers.clone()
            } else {
                self.servers.clone()
            },
            search: pick(&self.search, &daemon.search),
            options: pick(&self.options, &daemon.options),
        }
    }
}

impl FromStr for ExtraHost {
    type Err = FileValueError;

    fn from_str(value: &str) -> Result<Self, FileValueError> {
        let split = value.split_once('=').or_else(|| value.split_once(':'));
        let (name, address) = split
            .filter(|(name, address)| is_host_name(name) && !address.is_empty())
            .ok_or_else(|| FileValueError::AddHostFormat(value.escape_debug().to_string()))?;
        if address == "host-gateway" {
            return Ok(Self {
                name: name.to_owned(),
                address: None,
            });
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        let address = bare.parse().map_err(|_| FileValueError::AddHostAddress {
            value: value.escape_debug().to_string(),
            address: address.escape_debug().to_string(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            address: Some(address),
        })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:host-gateway", self.name),
        }
    }
}

fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// /etc/hostname.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// /etc/hosts. The IPv6 lines are there only if the container has IPv6 (an application that finds
/// `::1 localhost` without IPv6 fails to bind it).
pub fn hosts(
    hostname: &str,
    addresses: &[IpAddr],
    extra: &[ExtraHost],
    host_gateway: &[IpAddr],
    ipv6: bool,
) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if ipv6 {
        text.push_str(
            "::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
    }
    let mut line = |address: &IpAddr, name: &str| {
        text.push_str(&format!("{address}\t{name}\n"));
    };
    for host in extra {
        match &host.address {
            Some(address) => line(address, &host.name),
            None => host_gateway
                .iter()
                .for_each(|address| line(address, &host.name)),
        }
    }
    for address in addresses {
        line(address, hostname);
    }
    text
}

/// Where a host with systemd-resolved keeps its real servers.
pub const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Where every host has its servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Which of the host's files to use, given the contents of [`RESOLV_CONF`]: if that names only the
/// stub of systemd-resolved, which containers cannot reach, the file with the real servers.
pub fn resolv_conf_source(etc_resolv_conf: &str) -> &'static str {
    let parsed = HostResolvConf::parse(etc_resolv_conf);
    let stub = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let only_stub = !parsed.servers.is_empty()
        && parsed
            .servers
            .iter()
            .all(|server| server.parse() == Ok(stub));
    if only_stub {
        SYSTEMD_RESOLV_CONF
    } else {
        RESOLV_CONF
    }
}

/// /etc/resolv.conf on the default network: the host's file (`host_text` from `host_path`) without
/// loopback servers, without IPv6 servers if the container has no IPv6, and with `settings` in place of
/// what they override.
///
/// When no server is left, the file says so and names none. Docker would put 8.8.8.8 and 8.8.4.4 there; that
/// sends names of a private network to a third party whom nobody chose, and fails slowly where the
/// Internet cannot be reached. Without a server, resolvers fail at once (they try 127.0.0.1), and the
/// comment tells why.
pub fn resolv_conf(host_path: &str, host_text: &str, settings: &DnsSettings, ipv6: bool) -> String {
    let host = HostResolvConf::parse(host_text);
    let mut overrides = Vec::new();
    let mut invalid = Vec::new();
    let mut servers: Vec<String> = Vec::new();
    if settings.servers.is_empty() {
        for server in host.servers {
            let bare = server.split('%').next().unwrap_or(server);
            match bare.parse::<IpAddr>() {
                Ok(address) if address.is_loopback() || (address.is_ipv6() && !ipv6) => {}
                Ok(_) => servers.push(server.to_owned()),
                Err(_) => invalid.push(server.to_owned()),
            }
        }
    } else {
        overrides.push("nameservers");
        servers.extend(settings.servers.iter().map(ToString::to_string));
    }
    let mut choose = |name, given: &[String], host: Vec<&str>| -> String {
        if given.is_empty() {
            return host.join(" ");
        }
        overrides.push(name);
        given
            .iter()
            .filter(|word| *word != ".")
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let search = choose("search", &settings.search, host.search);
    let options = choose("options", &settings.options, host.options);

    let mut text = String::from(
        "# Generated by tunbridge.\n\
         # This file can be edited; tunbridge will not make further changes once it\n\
         # has been modified.\n\n",
    );
    let mut line = |line: fmt::Arguments<'_>| {
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    for server in &servers {
        line(format_args!("nameserver {server}"));
    }
    for (keyword, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            line(format_args!("{keyword} {words}"));
        }
    }
    for other in host.other {
        line(format_args!("{other}"));
    }
    line(format_args!(
        "\n# Based on host file: '{host_path}' (legacy)"
    ));
    if servers.is_empty() {
        line(format_args!("# NO EXTERNAL NAMESERVERS DEFINED"));
    }
    if !invalid.is_empty() {
        line(format_args!(
            "# Invalid nameservers: [{}]",
            invalid.join(" ")
        ));
    }
    line(format_args!("# Overrides: [{}]", overrides.join(" ")));
    text
}

/// What the host's file says.
#[derive(Debug, Default)]
struct HostResolvConf<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
    other: Vec<&'a str>,
}

impl<'a> HostResolvConf<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                None => {}
                Some(comment) if comment.starts_with(['#', ';']) => {}
                Some("nameserver") => parsed.servers.extend(words.next()),
                // The last of these lines wins (resolv.conf(5)).
                Some("search" | "domain") => parsed.search = words.collect(),
                Some("options") => parsed.options.extend(words),
                Some(_) => parsed.other.push(line),
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_as_in_the_transcript() {
        // Transcript 01, the container with --add-host, without the IPv6 block and the domain name.
        let extra: Vec<ExtraHost> = ["db:10.9.8.7", "gw:host-gateway"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(
            hosts(
                "web",
                &[ip("172.17.0.5")],
                &extra,
                &[ip("172.17.0.1")],
                false
            ),
            "127.0.0.1\tlocalhost\n10.9.8.7\tdb\n172.17.0.1\tgw\n172.17.0.5\tweb\n"
        );
        assert_eq!(
            hosts(
                "0123456789ab",
                &[ip("172.18.0.2"), ip("fd00::2")],
                &[],
                &[],
                true
            ),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n\
             172.18.0.2\t0123456789ab\nfd00::2\t0123456789ab\n"
        );
        assert_eq!(hostname("c1host"), "c1host\n");
    }

    #[test]
    fn add_host_values() {
        for (value, address) in [
            ("a:10.0.0.1", Some("10.0.0.1")),
            ("a=10.0.0.1", Some("10.0.0.1")),
            ("a.b:::1", Some("::1")),
            ("a:[::1]", Some("::1")),
            ("a=host-gateway", None),
        ] {
            let host: ExtraHost = value.parse().unwrap();
            assert_eq!(host.address, address.map(ip), "{value}");
        }
        for bad in [
            "",
            "a",
            "a:",
            ":10.0.0.1",
            "a b:10.0.0.1",
            "a\nb:10.0.0.1",
            "a#:10.0.0.1",
        ] {
            let message = bad.parse::<ExtraHost>().unwrap_err().to_string();
            assert!(
                message.starts_with("bad format for add-host: ") && !message.contains('\n'),
                "{message}"
            );
        }
        let message = "db:10.9.8".parse::<ExtraHost>().unwrap_err().to_string();
        assert!(
            message.starts_with(
                "invalid IP address in add-host: \"10.9.8\" (in --add-host \"db:10.9.8\")"
            ),
            "{message}"
        );
        assert_eq!(
            "db=host-gateway".parse::<ExtraHost>().unwrap().to_string(),
            "db:host-gateway"
        );
    }

    const HOST: &str = "# a comment\nnameserver 127.0.0.53\nnameserver 203.0.113.53\nnameserver fd00::53\n\
                        nameserver fe80::1%eth0\n; other\nsearch wan.example\noptions timeout:1 attempts:1\n";

    #[test]
    fn resolv_conf_is_the_hosts_without_what_cannot_be_reached() {
        assert_eq!(
            resolv_conf("/etc/resolv.conf", HOST, &DnsSettings::default(), false),
            "# Generated by tunbridge.\n\
             # This file can be edited; tunbridge will not make further changes once it\n\
             # has been modified.\n\
             \n\
             nameserver 203.0.113.53\n\
             search wan.example\n\
             options timeout:1 attempts:1\n\
             \n\
             # Based on host file: '/etc/resolv.conf' (legacy)\n\
             # Overrides: []\n"
        );
        let v6 = resolv_conf("/etc/resolv.conf", HOST, &DnsSettings::default(), true);
        assert!(
            v6.contains("nameserver 203.0.113.53\nnameserver fd00::53\nnameserver fe80::1%eth0\n"),
            "{v6}"
        );
    }

    #[test]
    fn flags_override() {
        // Transcript 01: --dns 192.0.2.53 --dns-search corp.example --dns-opt ndots:3.
        let settings = DnsSettings {
            servers: vec![ip("192.0.2.53")],
            search: vec!["corp.example".into()],
            options: vec!["ndots:3".into()],
        };
        let text = resolv_conf("/etc/resolv.conf", HOST, &settings, false);
        assert!(
            text.contains("\n\nnameserver 192.0.2.53\nsearch corp.example\noptions ndots:3\n\n")
                && text.ends_with("# Overrides: [nameservers search options]\n"),
            "{text}"
        );
        let none = DnsSettings {
            search: vec![".".into()],
            ..DnsSettings::default()
        };
        let text = resolv_conf("/etc/resolv.conf", HOST, &none, false);
        assert!(
            !text.contains("\nsearch") && text.ends_with("# Overrides: [search]\n"),
            "{text}"
        );
        let daemon = DnsSettings {
            servers: vec![ip("10.1.1.1")],
            search: vec!["d".into()],
            options: vec![],
        };
        assert_eq!(
            none.or(&daemon),
            DnsSettings {
                servers: vec![ip("10.1.1.1")],
                search: vec![".".into()],
                options: vec![]
            }
        );
    }

    #[test]
    fn nothing_left_is_said_and_no_third_party_is_asked() {
        let text = resolv_conf(
            RESOLV_CONF,
            "nameserver 127.0.0.1\nnameserver nonsense\nsortlist 10.0.0.0\n",
            &DnsSettings::default(),
            false,
        );
        assert!(!text.contains("\nnameserver"), "{text}");
        assert!(
            text.ends_with(
                "\nsortlist 10.0.0.0\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# NO EXTERNAL NAMESERVERS DEFINED\n\
                 # Invalid nameservers: [nonsense]\n# Overrides: []\n"
            ),
            "{text}"
        );
        assert!(
            resolv_conf(RESOLV_CONF, "", &DnsSettings::default(), false).contains("# NO EXTERNAL")
        );
    }

    #[test]
    fn the_stub_of_systemd_is_looked_behind() {
        assert_eq!(
            resolv_conf_source("nameserver 127.0.0.53\noptions edns0\n"),
            SYSTEMD_RESOLV_CONF
        );
        assert_eq!(
            resolv_conf_source("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"),
            RESOLV_CONF
        );
        assert_eq!(resolv_conf_source(""), RESOLV_CONF);
    }

    #[test]
    fn dns_values_cannot_break_their_line() {
        let settings = |search: &str, option: &str| {
            DnsSettings {
                servers: vec![],
                search: vec![search.into()],
                options: vec![option.into()],
            }
            .validate()
        };
        assert_eq!(settings("corp.example", "ndots:2"), Ok(()));
        assert_eq!(settings(".", "rotate"), Ok(()));
        for bad in ["a b", "a\nnameserver 6.6.6.6", "", "#"] {
            assert!(
                matches!(settings(bad, "rotate"), Err(FileValueError::Search(_))),
                "{bad:?}"
            );
            assert!(
                matches!(settings("a", bad), Err(FileValueError::Option(_))),
                "{bad:?}"
            );
        }
    }
}
