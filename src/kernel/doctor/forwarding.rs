//! `net.ipv4.ip_forward`: its value now, and the lines of sysctl files that will set it again.

use super::sysctl_files::{Assignment, concerning};
use super::{Facts, Finding, Scope, Severity};

const SUBJECT: &str = "net.ipv4.ip_forward";
/// Two names of one switch.
const KEYS: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"];

pub(super) fn check(facts: &Facts, scope: &Scope) -> Vec<Finding> {
    let mut findings = vec![live(facts, scope)];
    let (settings, decides) = concerning(&facts.assignments, &KEYS);
    let deciding = decides.and_then(|index| settings.get(index)).copied();
    for (index, setting) in settings.iter().enumerate() {
        if setting.value == "0" {
            let effective = decides == Some(index);
            findings.push(switched_off(
                setting,
                deciding.filter(|_| !effective),
                scope,
            ));
        }
    }
    findings
}

fn live(facts: &Facts, scope: &Scope) -> Finding {
    let on = facts.sysctl(&["net", "ipv4", "ip_forward"]) == Some("1");
    let (severity, found, why, fix) = match (on, scope.keeps_forwarding) {
        (true, true) => (
            Severity::Ok,
            "1, as --ip-forward asks",
            "The daemon sets it again if something clears it.",
            "",
        ),
        (true, false) => (
            Severity::Ok,
            "1",
            "tunbridge does not need it and leaves it alone. While it is 1 this host routes for \
             every neighbour that its FORWARD rules do not stop.",
            "",
        ),
        (false, false) => (
            Severity::Ok,
            "0",
            "tunbridge does not need it: containers reach the outside, and published ports are \
             reached, either way. Docker, libvirt, Kubernetes and VPN gateways on this host need 1.",
            "",
        ),
        (false, true) => (
            Severity::Error,
            "0 although --ip-forward asks for 1",
            "The daemon sets it again whenever the kernel announces a change, so either it does not \
             run or it may not write /proc/sys.",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    };
    Finding {
        severity,
        subject: SUBJECT.into(),
        found: found.into(),
        why: why.into(),
        fix: fix.into(),
    }
}

/// `overridden_by`: the setting that decides instead, if it is another one.
fn switched_off(
    setting: &Assignment,
    overridden_by: Option<&Assignment>,
    scope: &Scope,
) -> Finding {
    let place = setting.place();
    let name = setting.key.replace('/', ".");
    if let Some(other) = overridden_by {
        return Finding {
            severity: Severity::Ok,
            subject: place.clone(),
            found: format!(
                "{name} = 0, overridden by {} = {}",
                other.place(),
                other.value
            ),
            why: "It has no effect as long as the other line stays.".into(),
            fix: String::new(),
        };
    }
    let when = if setting.manual_only {
        "applied by `sysctl -p` and `sysctl --system`, not by systemd at boot"
    } else {
        "applied at boot, by `sysctl --system` and when systemd-sysctl restarts"
    };
    let for_us = if scope.keeps_forwarding {
        "Each time it is applied, forwarding is off until the daemon sets it again (milliseconds)."
    } else {
        "For tunbridge it means nothing: containers keep working."
    };
    Finding {
        severity: Severity::Note,
        subject: place,
        found: format!("{name} = 0, {when}"),
        why: format!(
            "{for_us} Docker, libvirt, Kubernetes and VPN gateways on this host lose their \
             connections without a message each time it is applied: Docker sets 1 when it starts and \
             does not watch it."
        ),
        fix: format!(
            "sed -i '{}s/^/# /' {}",
            setting.line,
            setting.file.display()
        ),
    }
}
