//! The `-p` and `--expose` syntax.
//!
//! ```text
//! -p        [hostAddress:][hostPort[-hostEnd]:]containerPort[-containerEnd][/tcp|udp]
//! --expose  port[-end][/tcp|udp]
//! ```
//!
//! IPv6 host addresses stand in brackets, or without them (the text is split from the right, as Docker
//! does). They have no zone, and so are not link-local. No host port, or host port 0, means "a free one". A host range for one container port means
//! "a free one of these"; otherwise both ranges have the same length and are mapped pairwise.
//!
//! Messages begin with Docker's words (go-connections `ParsePortSpec`) and add the flag, the whole
//! value and the way out, in one line.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::transport::Transport;

/// A `-p` value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// TCP unless the value says otherwise.
    pub transport: Transport,
    /// Address on the host; `None`: the daemon's default (`--ip`).
    pub host_address: Option<IpAddr>,
    /// Ports on the host.
    pub host: HostPorts,
    /// Ports in the container; never 0.
    pub container: RangeInclusive<u16>,
}

/// Which ports of the host a `-p` value asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPorts {
    /// A free ephemeral port for each container port.
    Ephemeral,
    /// As many as container ports, pairwise; for one container port, exactly this one.
    Exact(RangeInclusive<u16>),
    /// One free port of these, for one container port.
    AnyOf(RangeInclusive<u16>),
}

/// An `--expose` value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposeSpec {
    /// TCP unless the value says otherwise.
    pub transport: Transport,
    /// Ports in the container; never 0.
    pub container: RangeInclusive<u16>,
}

/// Why a value is not understood; `Display` is one line with flag, value and fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpecError {
    flag: &'static str,
    value: String,
    problem: Problem,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    NoPort,
    Protocol(String),
    Sctp,
    Address(String),
    LinkLocal(String),
    Multicast(String),
    ContainerPort(String),
    ContainerPortZero,
    HostPort(String),
    AddressAsPort { address: String, container: String },
    Ranges { container: String, host: String },
    ExposeRange(String),
}

impl std::error::Error for PortSpecError {}

impl fmt::Display for PortSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            flag,
            value,
            problem,
        } = self;
        let value = value.escape_debug();
        match problem {
            Problem::NoPort => write!(f, "no port specified: {value}<empty>"),
            Problem::Protocol(name) => write!(f, "invalid proto: {}", name.escape_debug()),
            Problem::Sctp => write!(f, "invalid proto: sctp: sctp is not supported"),
            Problem::Address(text) | Problem::LinkLocal(text) | Problem::Multicast(text) => {
                write!(f, "invalid IP address: {}", text.escape_debug())
            }
            Problem::ContainerPort(text) => {
                write!(f, "invalid containerPort: {}", text.escape_debug())
            }
            Problem::ContainerPortZero => write!(f, "invalid containerPort: 0"),
            Problem::HostPort(text) | Problem::AddressAsPort { address: text, .. } => {
                write!(f, "invalid hostPort: {}", text.escape_debug())
            }
            Problem::Ranges { container, host } => {
                write!(
                    f,
                    "invalid ranges specified for container and host Ports: {container} and {host}"
                )
            }
            Problem::ExposeRange(text) => write!(
                f,
                "invalid range format for --expose: {}",
                text.escape_debug()
            ),
        }?;
        write!(f, " (in {flag} \"{value}\"): ")?;
        if let Problem::AddressAsPort { address, container } = problem {
            let (address, container) = (address.escape_debug(), container.escape_debug());
            return write!(
                f,
                "an address goes before the port of the host: give {address}:8080:{container}, or {address}::{container} for a free port"
            );
        }
        f.write_str(match problem {
            Problem::NoPort => "give at least the container's port, as in -p 8080:80",
            Problem::Protocol(_) | Problem::Sctp => "use /tcp or /udp",
            Problem::Address(_) => "give an address of this host, as in 127.0.0.1:8080:80, IPv6 in brackets",
            Problem::Multicast(_) => {
                "a multicast address is no host's; give an address of this host, as in [2001:db8::1]:8080:80 or 127.0.0.1:8080:80"
            }
            Problem::LinkLocal(_) => {
                "ports are not published at link-local addresses; give another address of this host, or [::] for all others"
            }
            Problem::ContainerPort(_) | Problem::ContainerPortZero | Problem::ExposeRange(_) => {
                "use a port from 1 to 65535 or a range first-last with first not above last"
            }
            Problem::HostPort(_) | Problem::AddressAsPort { .. } => {
                "use a port from 1 to 65535 or a range first-last with first not above last; leave it out for a free one"
            }
            Problem::Ranges { .. } => "make both ranges equally long, or give one container port for a range of the host",
        })
    }
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(value: &str) -> Result<Self, PortSpecError> {
        parse(value).map_err(|problem| PortSpecError {
            flag: "-p",
            value: value.to_owned(),
            problem,
        })
    }
}

impl FromStr for ExposeSpec {
    type Err = PortSpecError;

    fn from_str(value: &str) -> Result<Self, PortSpecError> {
        parse_expose(value).map_err(|problem| PortSpecError {
            flag: "--expose",
            value: value.to_owned(),
            problem,
        })
    }
}

fn parse(value: &str) -> Result<PortSpec, Problem> {
    let (address, host, container) = split(value);
    let (container, transport) = transport(container)?;
    let host_address = parse_address(address)?;
    if container.is_empty() {
        return Err(Problem::NoPort);
    }
    let ports = range(container).ok_or_else(|| Problem::ContainerPort(container.to_owned()))?;
    if *ports.start() == 0 {
        return Err(Problem::ContainerPortZero);
    }
    let host = host_ports(host, container, &ports)?;
    Ok(PortSpec {
        transport,
        host_address,
        host,
        container: ports,
    })
}

fn host_ports(
    host: &str,
    container: &str,
    ports: &RangeInclusive<u16>,
) -> Result<HostPorts, Problem> {
    if host.is_empty() {
        return Ok(HostPorts::Ephemeral);
    }
    let Some(host_range) = range(host) else {
        return Err(match parse_address(host) {
            Ok(_) => Problem::AddressAsPort {
                address: host.to_owned(),
                container: container.to_owned(),
            },
            Err(problem @ (Problem::LinkLocal(_) | Problem::Multicast(_))) => problem,
            Err(_) => Problem::HostPort(host.to_owned()),
        });
    };
    match (host_range.len(), ports.len()) {
        (1, 1) if *host_range.start() == 0 => Ok(HostPorts::Ephemeral),
        // A range that begins with 0 would ask for port 0 itself, which no socket can have.
        _ if *host_range.start() == 0 => Err(Problem::HostPort(host.to_owned())),
        (on_host, in_container) if on_host == in_container => Ok(HostPorts::Exact(host_range)),
        (_, 1) => Ok(HostPorts::AnyOf(host_range)),
        _ => Err(Problem::Ranges {
            container: container.to_owned(),
            host: host.to_owned(),
        }),
    }
}

fn parse_expose(value: &str) -> Result<ExposeSpec, Problem> {
    let (ports, transport) = transport(value)?;
    let container = range(ports)
        .filter(|ports| *ports.start() != 0)
        .ok_or_else(|| Problem::ExposeRange(ports.to_owned()))?;
    Ok(ExposeSpec {
        transport,
        container,
    })
}

/// Host address, host port and container port (with protocol); what is missing is empty.
fn split(value: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = value.rsplit_once(':') else {
        return ("", "", value);
    };
    match rest.rsplit_once(':') {
        // `[::1]:80`: the last colon is one of the address.
        Some(_) if rest.starts_with('[') && rest.ends_with(']') => ("", rest, container),
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn transport(text: &str) -> Result<(&str, Transport), Problem> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Ok((ports, Transport::Tcp)),
        "udp" => Ok((ports, Transport::Udp)),
        "sctp" => Err(Problem::Sctp),
        _ => Err(Problem::Protocol(protocol.to_owned())),
    }
}

fn parse_address(text: &str) -> Result<Option<IpAddr>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .map_or(Some(text), |rest| rest.strip_suffix(']'));
    let bracketed = text.starts_with('[');
    let parse = |bare: &str| -> Option<IpAddr> {
        let v6 = bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        let v4 = bare.parse().ok().filter(|_| !bracketed).map(IpAddr::V4);
        v6.or(v4)
    };
    let problem = || Problem::Address(text.to_owned());
    let bare = bare.ok_or_else(problem)?;
    // With a zone: `fe80::1%eth0`.
    let (address, zone) = bare
        .split_once('%')
        .map_or((bare, None), |(address, zone)| (address, Some(zone)));
    let address = parse(address).ok_or_else(problem)?;
    if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return Err(Problem::LinkLocal(text.to_owned()));
    }
    if zone.is_some() {
        return Err(problem());
    }
    // ::ffff:127.0.0.1 is an IPv4 address.
    let address = address.to_canonical();
    if address.is_multicast() {
        return Err(Problem::Multicast(text.to_owned()));
    }
    Ok(Some(address))
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some(first..=last)
}

fn port(text: &str) -> Option<u16> {
    // `parse` would accept a plus sign.
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: &str) -> PortSpec {
        value
            .parse()
            .unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    fn tcp(address: Option<&str>, host: HostPorts, container: RangeInclusive<u16>) -> PortSpec {
        PortSpec {
            transport: Transport::Tcp,
            host_address: address.map(|text| text.parse().unwrap()),
            host,
            container,
        }
    }

    #[test]
    fn every_form() {
        use HostPorts::{AnyOf, Ephemeral, Exact};
        assert_eq!(spec("80"), tcp(None, Ephemeral, 80..=80));
        assert_eq!(spec(":80"), tcp(None, Ephemeral, 80..=80));
        assert_eq!(spec("0:80"), tcp(None, Ephemeral, 80..=80));
        assert_eq!(spec("8080:80"), tcp(None, Exact(8080..=8080), 80..=80));
        assert_eq!(spec("8080:80/TCP"), tcp(None, Exact(8080..=8080), 80..=80));
        assert_eq!(
            spec("8080:80/udp"),
            PortSpec {
                transport: Transport::Udp,
                ..tcp(None, Exact(8080..=8080), 80..=80)
            }
        );
        assert_eq!(
            spec("127.0.0.1:8080:80"),
            tcp(Some("127.0.0.1"), Exact(8080..=8080), 80..=80)
        );
        assert_eq!(
            spec("127.0.0.1::80"),
            tcp(Some("127.0.0.1"), Ephemeral, 80..=80)
        );
        assert_eq!(
            spec("[::1]:9200:80"),
            tcp(Some("::1"), Exact(9200..=9200), 80..=80)
        );
        assert_eq!(
            spec("::1:9200:80"),
            tcp(Some("::1"), Exact(9200..=9200), 80..=80)
        );
        assert_eq!(
            spec("[::ffff:127.0.0.1]:9200:80"),
            tcp(Some("127.0.0.1"), Exact(9200..=9200), 80..=80)
        );
        assert_eq!(
            spec("[2001:db8::2]::80"),
            tcp(Some("2001:db8::2"), Ephemeral, 80..=80)
        );
        assert_eq!(
            spec("8000-8010:8000-8010"),
            tcp(None, Exact(8000..=8010), 8000..=8010)
        );
        assert_eq!(spec("8000-9000:80"), tcp(None, AnyOf(8000..=9000), 80..=80));
        assert_eq!(spec("7000-7010"), tcp(None, Ephemeral, 7000..=7010));
        assert_eq!(
            spec("65535:65535"),
            tcp(None, Exact(65535..=65535), 65535..=65535)
        );
        assert_eq!(
            spec("1-65535:1-65535"),
            tcp(None, Exact(1..=65535), 1..=65535)
        );
    }

    #[test]
    fn messages_are_dockers_and_name_flag_value_and_fix() {
        for (value, docker) in [
            ("", "no port specified: <empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("70000:80", "invalid hostPort: 70000"),
            ("65536:80", "invalid hostPort: 65536"),
            ("90-80:80", "invalid hostPort: 90-80"),
            ("0-5:80", "invalid hostPort: 0-5"),
            ("+1:80", "invalid hostPort: +1"),
            ("80:80:80:80", "invalid IP address: 80:80"),
            ("999.1.1.1:8086:80", "invalid IP address: 999.1.1.1"),
            ("[::1:80:80", "invalid IP address: [::1"),
            ("[127.0.0.1]:80:80", "invalid IP address: [127.0.0.1]"),
            ("[fe80::1%eth0]:80:80", "invalid IP address: [fe80::1%eth0]"),
            ("[fe80::1]:80:80", "invalid IP address: [fe80::1]"),
            ("[::1%lo]:80:80", "invalid IP address: [::1%lo]"),
            ("[ff02::1]:8088:80", "invalid IP address: [ff02::1]"),
            ("[ff02::1]:80", "invalid IP address: [ff02::1]"),
            ("224.0.0.1:8088:80", "invalid IP address: 224.0.0.1"),
            ("[::1]:80", "invalid hostPort: [::1]"),
            ("127.0.0.1:80", "invalid hostPort: 127.0.0.1"),
            ("[::1:80", "invalid IP address: [:"),
            ("127.0.0.1%lo:80:80", "invalid IP address: 127.0.0.1%lo"),
            ("8086:80/xyz", "invalid proto: xyz"),
            ("8086:80/sctp", "invalid proto: sctp: sctp is not supported"),
            (
                "8086-8087:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8086-8087",
            ),
            (
                "8086:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8086",
            ),
            ("abc", "invalid containerPort: abc"),
            ("80:65536", "invalid containerPort: 65536"),
            ("80:90-80", "invalid containerPort: 90-80"),
            ("80:0", "invalid containerPort: 0"),
            ("0-3:0-3", "invalid containerPort: 0"),
            ("80:-5", "invalid containerPort: -5"),
            ("80:5-", "invalid containerPort: 5-"),
        ] {
            let message = value.parse::<PortSpec>().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("{docker} (in -p \"{value}\"): ")),
                "{message}"
            );
            assert!(
                !message.contains('\n') && !message.ends_with(": "),
                "{message}"
            );
        }
    }

    #[test]
    fn addresses_that_are_misplaced_or_nobodys() {
        let fix = |value: &str| {
            let message = value.parse::<PortSpec>().unwrap_err().to_string();
            let (_, fix) = message.split_once("\"): ").unwrap();
            fix.to_owned()
        };
        assert_eq!(
            fix("[::1]:80"),
            "an address goes before the port of the host: give [::1]:8080:80, or [::1]::80 for a free port"
        );
        assert!(fix("127.0.0.1:80/udp").contains("give 127.0.0.1:8080:80, or 127.0.0.1::80 "));
        for multicast in ["[ff02::1]:8088:80", "224.0.0.1:8088:80"] {
            assert!(fix(multicast).starts_with("a multicast address is no host's; give"));
        }
    }

    #[test]
    fn expose() {
        assert_eq!(
            "80".parse(),
            Ok(ExposeSpec {
                transport: Transport::Tcp,
                container: 80..=80
            })
        );
        assert_eq!(
            "53-55/udp".parse(),
            Ok(ExposeSpec {
                transport: Transport::Udp,
                container: 53..=55
            })
        );
        for bad in ["", "0", "80:80", "x", "9-8", "65536"] {
            let message = bad.parse::<ExposeSpec>().unwrap_err().to_string();
            assert!(
                message.starts_with("invalid range format for --expose: "),
                "{message}"
            );
            assert!(
                message.contains(&format!("(in --expose \"{bad}\")")),
                "{message}"
            );
        }
        assert!(
            "80/sctp"
                .parse::<ExposeSpec>()
                .unwrap_err()
                .to_string()
                .contains("sctp is not supported")
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_errors_stay_on_one_line(value in ".*") {
            if let Err(error) = value.parse::<PortSpec>() {
                proptest::prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
