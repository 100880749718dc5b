//! What `podman network create` can make, with Debian's plugins and with ours.

use crate::engines::{Engines, PEER};
use crate::lab::{HOST, LAN, Lab};
use crate::podman::{FIRST, Line, both, compare, install};
use crate::tunbridge_under_test::binary;

const VIEW: &[Line] = &[
    // Internal: no way out, and none to it.
    (
        "addresses inner1; x inner1 /bin/ip route",
        "lo 127.0.0.1/8\nlo ::1/128\neth0 10.71.0.2/24\n10.71.0.0/24 dev eth0 scope link  src 10.71.0.2",
        None,
    ),
    ("PEER_WAIT=1 x inner1 PEER tcp 192.0.2.9 7000", "none", None),
    (
        "x inner1 PEER tcp 10.71.0.3 80",
        "saw 10.71.0.2 at 10.71.0.3:80",
        None,
    ),
    // A range, a gateway and an MTU of one's own.
    (
        "addresses small1; x small1 /bin/ip route",
        "lo 127.0.0.1/8\nlo ::1/128\neth0 10.72.0.129/24\ndefault via 10.72.0.9 dev eth0 \n10.72.0.0/24 dev eth0 scope link  src 10.72.0.129",
        None,
    ),
    ("x small1 cat /sys/class/net/eth0/mtu", "1400", None),
    (
        "podman inspect small1 SETTINGS",
        r#"["10.72.0.9","10.72.0.129",24,"",""]"#,
        None,
    ),
    (
        "x small1 PEER tcp 192.0.2.9 7000; x small1 PEER tcp 10.72.0.130 80",
        "saw 198.51.100.2 at 192.0.2.9:7000\nsaw 10.72.0.129 at 10.72.0.130:80",
        None,
    ),
    // Both families.
    (
        "addresses six1; podman inspect six1 SETTINGS",
        "lo 127.0.0.1/8\nlo ::1/128\neth0 10.73.0.2/24\neth0 fd00:73::2/64\n[\"10.73.0.1\",\"10.73.0.2\",24,\"fd00:73::1\",\"fd00:73::2\"]",
        None,
    ),
    (
        "x six1 PEER tcp 2001:db8:ffff::9 7000; x six1 PEER tcp fd00:73::3 80",
        "saw 2001:db8:1::2 at [2001:db8:ffff::9]:7000\nsaw fd00:73::2 at [fd00:73::3]:80",
        None,
    ),
    // IPv6 alone.
    (
        "addresses only1; x only1 PEER tcp 2001:db8:ffff::9 7000",
        "lo 127.0.0.1/8\nlo ::1/128\neth0 fd00:74::2/64\nsaw 2001:db8:1::2 at [2001:db8:ffff::9]:7000",
        None,
    ),
    // What belongs to one network.
    (
        "podman run --rm --network small:ip=10.72.0.201,mac=02:00:00:00:00:01,interface_name=foo localhost/busybox sh -c \
         \"cat /sys/class/net/foo/address; /bin/ip -o -4 addr show foo\" | awk '{ print $1, $4 }'",
        "02:00:00:00:00:01 \n2: 10.72.0.201/24",
        None,
    ),
    // Debian's plugins want it in the range, as Docker did.
    (
        "podman run --rm --network small --ip 10.72.0.5 localhost/busybox /bin/true 2>&1 | grep -o 'failed to allocate.*'",
        "failed to allocate all requested IPs: 10.72.0.5",
        Some(""),
    ),
    (
        "podman run --rm --network small --ip 10.72.0.9 localhost/busybox /bin/true 2>&1 | grep -oE 'bridge failed: .*'",
        "bridge failed: failed to allocate all requested IPs: 10.72.0.9",
        Some(
            "bridge failed: Address already in use: 10.72.0.9 is the gateway: choose another --ip in 10.72.0.0/24",
        ),
    ),
    (
        "podman run --rm --network small --ip 10.72.0.129 localhost/busybox /bin/true 2>&1 | grep -oE 'bridge failed: .*'",
        "bridge failed: failed to allocate for range 0: requested IP address 10.72.0.129 is not available in range set 10.72.0.129-10.72.0.255",
        Some(
            "bridge failed: Address already in use: 10.72.0.129 is taken by container small1: choose another --ip in 10.72.0.0/24",
        ),
    ),
];

#[test]
fn networks_are_what_they_are_with_debians_plugins() {
    both(|plugins, engines| {
        let lab = engines.lab;
        let _server = lab.far().serve(&["7000"]);
        engines.said(&format!(
            "podman network create --internal --subnet 10.71.0.0/24 inner
            podman network create -o mtu=1400 --subnet 10.72.0.0/24 --gateway 10.72.0.9 --ip-range 10.72.0.128/25 small
            podman network create --ipv6 --subnet 10.73.0.0/24 --subnet fd00:73::/64 six
            podman network create --subnet fd00:74::/64 only
            for network in inner small six only; do for n in 1 2; do
                podman run -d --name $network$n --network $network localhost/busybox {PEER} serve 80
                until podman exec $network$n ss -Hltn 'sport = :80' | grep -q .; do sleep 0.05; done
            done; done"
        ));
        lab.apply_world();
        compare(engines, plugins, VIEW);
    });
}

/// The networks are those that Debian's plugins have made, and so are the bridges, until the host restarts: who has gone
/// over, restarts, goes back and cleans up.
#[test]
fn bridges_come_back_after_a_restart_and_stay_under_containers_that_have_gone_back() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    engines.said(&format!(
        "podman network create shop
        podman run -d --stop-signal KILL --name web --network shop -p 8080:80 localhost/busybox {PEER} serve 80
        podman stop web"
    ));
    let answers = || {
        engines.wait_until_it_serves("web");
        let answer = lab.lan().tcp(&format!("{HOST}:8080")).unwrap();
        assert_eq!(answer.saw_address(), LAN);
    };
    install(&engines);
    let mut tunbridge = lab.start_daemon(&[]);
    engines.said("podman start web");
    answers();
    engines.said("podman stop web");
    tunbridge.kill();
    engines.said("ip link delete cni-podman1");
    tunbridge.start_again();
    engines.said("podman start web");
    answers();
    let uninstall = format!("{} cni uninstall --no-conf --dir {FIRST}", binary());
    let said = engines.refused(&uninstall);
    assert!(said.contains("are on tunbridge (web)"), "{said}");
    engines.said(&format!("podman stop web; {uninstall}; podman start web"));
    assert_eq!(tunbridge.names(&["-a"]), [""; 0]);
    answers();
    let pruned = tunbridge.cli(&["network", "prune", "-f"]).expect_success();
    assert!(
        pruned.stdout.contains("shop") && pruned.stderr.contains("bridge cni-podman1 stays"),
        "{}",
        pruned.output()
    );
    answers();
    engines.said("podman rm -fat0");
    // Debian's plugins leave rules and sysctls.
    tunbridge.kill();
}
