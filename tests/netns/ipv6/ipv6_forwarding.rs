//! The forwarding sysctls of IPv6: left alone, or set as Docker sets them.

use super::{GLOBAL, create, with_prefix};
use crate::lab::{FAR6, Lab};

const ALL: &str = "net.ipv6.conf.all.forwarding";
const DEFAULT: &str = "net.ipv6.conf.default.forwarding";
const V4: &str = "net.ipv4.ip_forward";

#[test]
fn they_are_left_alone_by_default() {
    let lab = Lab::with_options(crate::lab::World::Plain, &["--route-v6", GLOBAL]);
    for value in ["0", "1"] {
        lab.host().set_sysctl(&format!("{ALL}={value}"));
        let tunbridge = lab.start_daemon(&with_prefix(GLOBAL));
        create(&tunbridge, "ula", &["--ipv6"]);
        let c1 = tunbridge.container_with("c1", &["-p", "8080:80"]);
        c1.ping(FAR6).expect_success();
        for setting in [ALL, DEFAULT] {
            assert_eq!(lab.host().sysctl(setting), value, "{setting}");
        }
        assert_eq!(lab.host().sysctl("net.ipv6.conf.ext0.forwarding"), value);
        tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    }
    lab.host().set_sysctl(&format!("{ALL}=0"));
}

#[test]
fn on_request_they_are_set_for_the_families_that_networks_have() {
    let lab = Lab::plain();
    let values = || [V4, ALL, DEFAULT].map(|setting| lab.host().sysctl(setting));
    let mut tunbridge = lab.start_daemon(&["--ip-forward"]);
    assert_eq!(values(), ["1", "0", "0"], "no network has IPv6");
    create(&tunbridge, "ula", &["--ipv6"]);
    assert_eq!(values(), ["1", "1", "1"], "a network has it");
    tunbridge.kill();
    for setting in [V4, ALL, DEFAULT] {
        lab.host().set_sysctl(&format!("{setting}=0"));
    }
    tunbridge.start_again();
    assert_eq!(values(), ["1", "1", "1"], "set for networks that are found");
    tunbridge.kill();
}

#[test]
fn on_request_they_are_kept_on() {
    let lab = Lab::plain();
    let flags = [&["--ip-forward"], &with_prefix("fd00:17::/64")[..]].concat();
    let mut tunbridge = lab.start_daemon(&flags);
    for setting in [ALL, DEFAULT] {
        assert_eq!(lab.host().sysctl(setting), "1", "{setting}");
    }
    assert!(
        tunbridge.log().contains("forwarding"),
        "the change is logged: {}",
        tunbridge.log()
    );
    for _ in 0..5 {
        lab.host().expect_restored(ALL, "0");
    }
    // They stay as Docker leaves them.
    tunbridge.kill();
    assert_eq!(lab.host().sysctl(ALL), "1");
}
