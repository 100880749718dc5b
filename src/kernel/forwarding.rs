//! The forwarding sysctls.
//!
//! Nothing of ours needs `net.ipv4.ip_forward`; with `--ip-forward` it is nevertheless set the way
//! Docker does: to 1, and only if it is not 1. Unlike Docker we keep it set: a network service or a
//! `sysctl --system` that reads `net.ipv4.ip_forward = 0` from a file clears it on every interface,
//! the kernel announces that, and [`Keeper::on_event`] writes it again.
//!
//! The TUN's own `forwarding` flag is kept in the same way and independently: `bpf_fib_lookup()`
//! refuses to look up routes for an interface that does not forward.

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
    changes(&["default", "all"].map(|which| (["net", "ipv6", "conf", which, "forwarding"], "1")))
}

/// What the TUN device needs: forwarding on it alone, and no reverse path filter, because packets
/// from it have sources that are routed elsewhere.
///
/// # Errors
/// A sysctl cannot be read or written.
pub fn prepare_tun(name: &str) -> Result<Vec<Change>, SysctlError> {
    changes(&[
        (["net", "ipv4", "conf", name, "forwarding"], "1"),
        (["net", "ipv4", "conf", name, "rp_filter"], "0"),
    ])
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
    if !ipv4 {
        return Ok(Vec::new());
    }
    let changed = change(&["net", "ipv4", "conf", name, "forwarding"], "1")?;
    Ok(changed.into_iter().collect())
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
