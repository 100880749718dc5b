//! The forwarding sysctls.
//!
//! Nothing of ours needs `net.ipv4.ip_forward` or its likes of IPv6; with `--ip-forward` it is nevertheless set the way
//! Docker does: to 1, and only if it is not 1. Unlike Docker we keep it set: a network service or a
//! `sysctl --system` that reads `net.ipv4.ip_forward = 0` from a file clears it on every interface,
//! the kernel announces that, and [`Keeper::on_event`] writes it again.
//!
//! The TUN's own `forwarding` flags are kept in the same way and independently: `bpf_fib_lookup()`
//! refuses to look up routes for an interface that does not forward.
//!
//! IPv6 has no single switch: `default.forwarding` is for interfaces to come, `all.forwarding` writes every interface's.
//! An interface that forwards takes no router advertisements, unless its `accept_ra` is 2.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::sysctl::{self, SysctlError};
use super::watch::Event;

const IP_FORWARD: [&str; 3] = ["net", "ipv4", "ip_forward"];

/// A sysctl that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path segments below `/proc/sys`.
    pub segments: Vec<String>,
    /// The value before.
    pub before: String,
    /// The value now.
    pub after: String,
}

impl Change {
    /// Puts the former value back.
    ///
    /// # Errors
    /// The sysctl cannot be written (its interface is gone, say).
    pub fn undo(&self) -> Result<(), SysctlError> {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        sysctl::set(&segments, &self.before)
    }
}

impl std::fmt::Display for Change {
    /// `net.ipv4.ip_forward: 0 -> 1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        write!(
            f,
            "{}: {} -> {}",
            sysctl::name(&segments),
            self.before,
            self.after
        )
    }
}

/// Whether the host forwards IPv4 packets.
///
/// # Errors
/// The sysctl cannot be read.
pub fn ip_forward() -> Result<bool, SysctlError> {
    Ok(sysctl::get(&IP_FORWARD)? != "0")
}

/// Switches forwarding on for the whole host unless it is on; says what it changed.
///
/// # Errors
/// The sysctl cannot be read or written.
pub fn enable_ip_forward() -> Result<Option<Change>, SysctlError> {
    change(&IP_FORWARD, "1")
}

/// The same for IPv6: first for interfaces that do not exist yet, then for those that do, each only if it is off.
/// A host that has its default route from router advertisements loses it, unless `accept_ra` is 2.
///
/// # Errors
/// A sysctl cannot be read or written.
pub fn enable_ipv6_forwarding() -> Result<Vec<Change>, SysctlError> {
    let all = ["net", "ipv6", "conf", "all", "forwarding"];
    if get_if_present(&all)?.is_none() {
        return Ok(Vec::new());
    }
    changes(&["default", "all"].map(|which| (["net", "ipv6", "conf", which, "forwarding"], "1")))
}

/// Whether the host forwards IPv6 packets; `false` too if the kernel has no IPv6.
///
/// # Errors
/// The sysctl cannot be read.
pub fn ipv6_forwarding() -> Result<bool, SysctlError> {
    let forwarding = get_if_present(&["net", "ipv6", "conf", "all", "forwarding"])?;
    Ok(forwarding.is_some_and(|value| value != "0"))
}

/// What the TUN device needs: forwarding on it alone, in both families; no reverse path filter, because packets
/// from it have sources that are routed elsewhere; and IPv6, for the host's own packets arrive there.
///
/// # Errors
/// A sysctl cannot be read or written.
pub fn prepare_tun(name: &str) -> Result<Vec<Change>, SysctlError> {
    let mut done = changes(&[
        (["net", "ipv4", "conf", name, "forwarding"], "1"),
        (["net", "ipv4", "conf", name, "rp_filter"], "0"),
    ])?;
    let disabled = ["net", "ipv6", "conf", name, "disable_ipv6"];
    if get_if_present(&disabled)?.is_some() {
        done.extend(change(&disabled, "0")?);
    }
    done.extend(tun_forwarding(name, false)?);
    Ok(done)
}

/// The sysctls that [`prepare_loopback`] sets to 1.
pub const LOOPBACK: [[&str; 5]; 2] = [
    ["net", "ipv4", "conf", "lo", "accept_local"],
    ["net", "ipv4", "conf", "lo", "route_localnet"],
];

/// What `lo` needs for connections from the host to its own published ports: answers come back with
/// a local source address, and for 127.0.0.1 with a loopback destination. On `lo` only: on any
/// other interface `route_localnet` would let neighbours reach 127.0.0.1 (CVE-2020-8558).
///
/// # Errors
/// A sysctl cannot be read or written.
pub fn prepare_loopback() -> Result<Vec<Change>, SysctlError> {
    changes(&LOOPBACK.map(|segments| (segments, "1")))
}

/// Writes forwarding flags again that somebody cleared.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Keep `net.ipv4.ip_forward` at 1 (`--ip-forward`).
    pub host_wide_v4: bool,
    /// Keep `net.ipv6.conf.all.forwarding` and `default.forwarding` at 1 (`--ip-forward`, and a network has IPv6).
    pub host_wide_v6: bool,
    /// Keep the forwarding flags of this interface at 1: (index, name) of the TUN.
    pub tun: Option<(u32, String)>,
}

impl Keeper {
    /// To be called with every event of a [`super::watch::Watcher`]. Says what it wrote, for the log;
    /// events about other things cost nothing.
    ///
    /// # Errors
    /// A sysctl cannot be read or written.
    pub fn on_event(&self, event: &Event) -> Result<Vec<Change>, SysctlError> {
        match event {
            Event::Overrun => self.assert_all(),
            Event::Forwarding {
                ipv4,
                if_index: None,
                on: false,
            } => self.assert_family(*ipv4),
            Event::Forwarding {
                ipv4,
                if_index: Some(index),
                on: false,
            } => match &self.tun {
                Some((tun, name)) if tun == index => tun_forwarding(name, *ipv4),
                _ => Ok(Vec::new()),
            },
            Event::Forwarding { on: true, .. }
            | Event::LinkChanged
            | Event::AddressChanged
            | Event::RouteChanged
            | Event::RuleChanged => Ok(Vec::new()),
        }
    }

    /// Sets every flag that is to be kept, whatever was announced.
    ///
    /// # Errors
    /// A sysctl cannot be read or written.
    pub fn assert_all(&self) -> Result<Vec<Change>, SysctlError> {
        let mut done = self.assert_family(true)?;
        done.extend(self.assert_family(false)?);
        Ok(done)
    }

    fn assert_family(&self, ipv4: bool) -> Result<Vec<Change>, SysctlError> {
        let mut done = Vec::new();
        if ipv4 && self.host_wide_v4 {
            done.extend(enable_ip_forward()?);
        }
        if !ipv4 && self.host_wide_v6 {
            done.extend(enable_ipv6_forwarding()?);
        }
        if let Some((_, name)) = &self.tun {
            done.extend(tun_forwarding(name, ipv4)?);
        }
        Ok(done)
    }
}

fn tun_forwarding(name: &str, ipv4: bool) -> Result<Vec<Change>, SysctlError> {
    let family = if ipv4 { "ipv4" } else { "ipv6" };
    let segments = ["net", family, "conf", name, "forwarding"];
    if ipv4 {
        return changes(&[(segments, "1")]);
    }
    match get_if_present(&segments)? {
        None => Ok(Vec::new()),
        Some(value) if value == "1" => Ok(Vec::new()),
        Some(_) => with_advertised_routes(|| changes(&[(segments, "1")])),
    }
}

/// Runs something that switches forwarding of IPv6 on for one interface. Whichever it is, the kernel then forgets the
/// default routes that *any* interface has from router advertisements, unless `accept_ra` there is 2 ("even if
/// forwarding"); so it is for that moment. On an interface that does not forward, 1 and 2 mean the same.
fn with_advertised_routes<T>(
    work: impl FnOnce() -> Result<T, SysctlError>,
) -> Result<T, SysctlError> {
    let mut lifted = Vec::new();
    for interface in interfaces_with_advertised_route() {
        let segments = ["net", "ipv6", "conf", &interface, "accept_ra"];
        // One that is gone by now has no route to lose.
        if let Ok(Some(Change { before, .. })) = change(&segments, "2") {
            lifted.push((interface, before));
        }
    }
    let result = work();
    for (interface, before) in lifted {
        let segments = ["net", "ipv6", "conf", &interface, "accept_ra"];
        match sysctl::set(&segments, &before) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    result
}

/// The interfaces through which the kernel has a default route from an advertisement, of any table.
fn interfaces_with_advertised_route() -> BTreeSet<String> {
    // Not netlink: this must work where there is no runtime, and at once.
    let Ok(file) = File::open("/proc/thread-self/net/ipv6_route") else {
        return BTreeSet::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|line| advertised_route(&line)).collect()
}

/// The interface, if a line of `/proc/net/ipv6_route` is such a route: destination, its length, source, its length,
/// next hop, metric, two counters, flags, interface.
fn advertised_route(line: &str) -> Option<String> {
    /// `RTF_DEFAULT | RTF_ADDRCONF` of linux/ipv6_route.h.
    const FLAGS: u32 = 0x0001_0000 | 0x0004_0000;
    let mut words = line.split_ascii_whitespace();
    let length = words.nth(1)?;
    let flags = u32::from_str_radix(words.nth(6)?, 16).ok()?;
    let interface = words.next()?;
    (length == "00" && flags & FLAGS != 0).then(|| interface.to_owned())
}

fn get_if_present(segments: &[&str]) -> Result<Option<String>, SysctlError> {
    match sysctl::get(segments) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn changes(wanted: &[([&str; 5], &str)]) -> Result<Vec<Change>, SysctlError> {
    let mut done = Vec::new();
    for (segments, value) in wanted {
        done.extend(change(segments, value)?);
    }
    Ok(done)
}

fn change(segments: &[&str], value: &str) -> Result<Option<Change>, SysctlError> {
    let before = sysctl::get(segments)?;
    if before == value {
        return Ok(None);
    }
    sysctl::set(segments, value)?;
    Ok(Some(Change {
        segments: segments
            .iter()
            .map(|segment| (*segment).to_owned())
            .collect(),
        before,
        after: value.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrelated_events_write_nothing() {
        // With both duties on, a write would change the machine's own sysctls or fail.
        let keeper = Keeper {
            host_wide_v4: true,
            host_wide_v6: true,
            tun: Some((7, "no-such-tun".into())),
        };
        for event in [
            Event::LinkChanged,
            Event::RouteChanged,
            Event::Forwarding {
                ipv4: true,
                if_index: Some(8),
                on: false,
            },
            Event::Forwarding {
                ipv4: true,
                if_index: None,
                on: true,
            },
            Event::Forwarding {
                ipv4: true,
                if_index: Some(7),
                on: true,
            },
        ] {
            assert_eq!(keeper.on_event(&event).unwrap(), [], "{event:?}");
        }
        let error = keeper.on_event(&Event::Forwarding {
            ipv4: true,
            if_index: Some(7),
            on: false,
        });
        assert!(error.unwrap_err().to_string().contains("no-such-tun"));
    }

    #[test]
    fn default_routes_from_advertisements_are_told_by_their_flags() {
        let zero = "0".repeat(32);
        let line = |length: &str, flags: &str| {
            let hop = "fe800000000000000000000000000001";
            format!("{zero} {length} {zero} 00 {hop} 00000400 00000001 00000000 {flags} eth0.5")
        };
        let eth0 = Some("eth0.5".to_owned());
        assert_eq!(advertised_route(&line("00", "00450003")), eth0);
        assert_eq!(advertised_route(&line("00", "00000003")), None, "static");
        assert_eq!(advertised_route(&line("40", "00440001")), None, "a prefix");
        assert_eq!(advertised_route(""), None);
    }

    #[test]
    fn changes_are_described_as_sysctl_prints_them() {
        let change = Change {
            segments: ["net", "ipv4", "conf", "a.b", "forwarding"]
                .map(String::from)
                .to_vec(),
            before: "0".into(),
            after: "1".into(),
        };
        assert_eq!(change.to_string(), "net.ipv4.conf.a/b.forwarding: 0 -> 1");
    }
}
