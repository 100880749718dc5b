//! The daemon's own life: start, death, end; what it leaves alone; what it tells.

use std::time::Duration;

use crate::lab::{FAR, HOST, LAN, Lab, eventually};

const FAR_SERVER: &str = "192.0.2.9:7000";

#[test]
fn a_killed_daemon_leaves_the_host_undisturbed_and_its_successor_finds_the_containers() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let web = tunbridge.server("web", &["-p", "8080:80"]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);
    let _host_service = lab.host().serve(&["2222"]);
    c1.tcp(FAR_SERVER).unwrap();
    let pid_before = tunbridge.inspect("web")["State"]["Pid"].clone();

    tunbridge.kill();
    lab.host().ping(FAR).expect_success();
    assert_eq!(lab.host().tcp(FAR_SERVER).unwrap().saw_address(), HOST);
    assert_eq!(
        lab.host().udp_of(4000, FAR_SERVER).unwrap().saw_address(),
        HOST
    );
    assert_eq!(
        lab.lan().tcp("198.51.100.2:2222").unwrap().at.to_string(),
        "198.51.100.2:2222"
    );
    assert_eq!(
        lab.lan().udp("198.51.100.2:2222").unwrap().at.to_string(),
        "198.51.100.2:2222"
    );
    lab.host().tcp("127.0.0.1:2222").unwrap();
    c1.tcp("172.17.0.2:80").expect("neighbours on the bridge");

    tunbridge.start_again();
    assert_eq!(
        tunbridge.inspect("web")["State"]["Pid"],
        pid_before,
        "not restarted"
    );
    assert_eq!(c1.tcp(FAR_SERVER).unwrap().saw_address(), HOST);
    c1.ping(FAR).expect_success();
    assert_eq!(web.udp(FAR_SERVER).unwrap().saw_address(), HOST);
    assert_eq!(
        lab.lan().tcp("198.51.100.2:8080").unwrap().saw_address(),
        LAN
    );
    lab.host().tcp("127.0.0.1:8080").unwrap();
    let c2 = tunbridge.container("c2");
    assert_eq!(
        c2.tcp(FAR_SERVER).unwrap().client.ip().to_string(),
        "172.17.0.4",
        "old addresses stay taken"
    );
}

#[test]
fn what_died_while_no_daemon_ran_is_cleared_away() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    tunbridge.container("c1");
    tunbridge.container_with("c2", &["-p", "8080:80"]);
    let pid = tunbridge.inspect("c2")["State"]["Pid"].to_string();

    tunbridge.kill();
    lab.host().run(&["kill", "-KILL", &pid]).expect_success();
    tunbridge.start_again();
    assert!(
        !tunbridge.names(&[]).contains(&"c2".to_owned()),
        "it does not run"
    );
    let c3 = tunbridge.container_with("c3", &["-p", "8080:80"]);
    let addresses = c3
        .run(&["ip", "-o", "-4", "address", "show", "eth0"])
        .stdout;
    assert!(
        addresses.contains("172.17.0.3/16"),
        "address and port are free again: {addresses}"
    );
}

#[test]
fn killing_the_daemon_again_and_again_loses_nothing() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80"]);
    for _ in 0..5 {
        tunbridge.kill();
        tunbridge.start_again();
        assert_eq!(
            lab.lan().tcp("198.51.100.2:8080").unwrap().saw_address(),
            LAN
        );
    }
    let bridges = lab
        .host()
        .shell("ip -o link show type bridge | wc -l")
        .expect_success()
        .stdout;
    assert_eq!(bridges.trim(), "1");
}

#[test]
fn a_purged_daemon_leaves_nothing_though_containers_ran() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    tunbridge.server(
        "web",
        &["-p", "8080:80", "-p", "127.0.0.1:9000-9009:9000-9009/udp"],
    );
    tunbridge.container("c1");
    lab.lan().tcp("198.51.100.2:8080").unwrap();
    tunbridge.stop_and_leave_nothing();
}

#[test]
fn the_bridge_keeps_its_ethernet_address_while_containers_come_and_go() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let before = lab.host().mac("tb0");
    for round in 0..3 {
        tunbridge.container(&format!("c{round}"));
    }
    tunbridge.cli(&["rm", "-f", "c0"]).expect_success();
    assert_eq!(lab.host().mac("tb0"), before);
}

#[test]
fn two_daemons_cannot_share_a_state_directory() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let refused = crate::tunbridge_under_test::daemon_that_refuses(
        &lab,
        &[
            "--socket",
            "/run/lab/other.sock",
            "--bridge",
            "tb1",
            "--bip",
            "10.8.0.1/24",
        ],
    );
    assert_eq!(refused.code, Some(1), "{}", refused.output());
    assert!(
        refused.output().contains("/run/lab/state"),
        "{}",
        refused.output()
    );
    tunbridge.cli(&["ps"]).expect_success();
}

#[test]
fn the_forwarding_sysctl_is_left_alone_by_default() {
    let lab = Lab::plain();
    for value in ["0", "1"] {
        lab.host()
            .set_sysctl(&format!("net.ipv4.ip_forward={value}"));
        let tunbridge = lab.start_daemon(&[]);
        tunbridge.container_with("c1", &["-p", "8080:80"]);
        assert_eq!(lab.host().sysctl("net.ipv4.ip_forward"), value);
        tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    }
}

#[test]
fn on_request_forwarding_is_switched_on_and_kept_on() {
    let lab = Lab::plain();
    assert_eq!(lab.host().sysctl("net.ipv4.ip_forward"), "0");
    let tunbridge = lab.start_daemon(&["--ip-forward"]);
    assert_eq!(lab.host().sysctl("net.ipv4.ip_forward"), "1");
    assert!(
        tunbridge.log().contains("ip_forward"),
        "the change is logged: {}",
        tunbridge.log()
    );

    for _ in 0..5 {
        lab.host().expect_restored("net.ipv4.ip_forward", "0");
    }
    // It stays as Docker leaves it.
    drop_with_forwarding_on(&lab, tunbridge);
}

/// docker0 has its subnet whoever has it already, and after a boot either of the two may be first.
#[test]
fn the_bridge_keeps_its_subnet_and_leaves_dockerd_its_own() {
    let lab = Lab::plain();
    let host = lab.host();
    let subnet = || {
        host.shell("ip -o -4 address show tb0 | awk '{ print $4 }'")
            .stdout
    };
    let docker0 = |verb: &str| {
        // Whatever the interface is.
        let route = ["ip", "route", verb, "172.17.0.0/16", "dev", "ext0"];
        host.run(&route).expect_success();
    };
    docker0("add");
    let mut tunbridge = lab.start_daemon(&[]);
    assert_eq!(subnet().trim(), "172.18.0.1/16");
    tunbridge.kill();
    docker0("delete");
    host.run(&["ip", "link", "delete", "tb0"]).expect_success();
    tunbridge.start_again();
    assert_eq!(subnet().trim(), "172.18.0.1/16");
    docker0("add");
    drop(tunbridge);

    docker0("delete");
    // The lab's mounts are its own.
    host.shell("mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/docker/network")
        .expect_success();
    let tunbridge = lab.start_daemon(&[]);
    assert_eq!(subnet().trim(), "172.18.0.1/16");
    tunbridge
        .cli(&["network", "create", "shop"])
        .expect_success();
    let shop = tunbridge.cli(&["network", "inspect", "shop"]).stdout;
    assert!(shop.contains("172.19.0.0/16"), "{shop}");
}

/// The tests start daemons with umask 0.
#[test]
fn what_the_daemon_makes_is_written_by_nobody_else() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("web", &["-p", "8080:80"]);
    let made = lab
        .host()
        .shell("find /run/tunbridge /run/lab/state /run/netns -not -type l")
        .expect_success();
    assert!(made.stdout.lines().count() > 5, "{}", made.stdout);
    // Connecting to a socket is writing; its group may be let in.
    let writable = lab
        .host()
        .shell("find /run/tunbridge /run/lab/state -not -type l -perm /022 -not -name tunbridge.sock -ls; find /run/tunbridge -perm /007 -type s -ls")
        .expect_success();
    assert_eq!(writable.stdout, "");
}

fn drop_with_forwarding_on(lab: &Lab, mut tunbridge: crate::tunbridge_under_test::Tunbridge<'_>) {
    tunbridge.kill();
    assert_eq!(lab.host().sysctl("net.ipv4.ip_forward"), "1");
}

#[test]
fn doctor_explains_forwarding_that_a_file_switches_off() {
    let lab = Lab::plain();
    // The lab's mounts are its own: the machine's directory is not touched.
    lab.host()
        .shell(
            "mkdir -p /etc/sysctl.d && mount -t tmpfs tmpfs /etc/sysctl.d && \
             echo 'net.ipv4.ip_forward = 0' >/etc/sysctl.d/60-hardening.conf",
        )
        .expect_success();
    let tunbridge = lab.start_daemon(&[]);

    let report = tunbridge.cli(&["doctor"]).expect_success().stdout;
    for word in ["net.ipv4.ip_forward", "60-hardening.conf", "rp_filter"] {
        assert!(report.contains(word), "{word} in:\n{report}");
    }
}

#[test]
fn doctor_names_an_uplink_that_is_narrower_than_the_network() {
    let lab = Lab::with_options(crate::lab::World::Plain, &["--mtu", "1400"]);
    let tunbridge = lab.start_daemon(&[]);
    let report = tunbridge.cli(&["doctor"]).stdout;
    assert!(
        report.contains("ext0") && report.contains("1400") && report.contains("1500"),
        "{report}"
    );
}

#[test]
fn flows_tell_who_talks_to_whom() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let _server = lab.far().serve(&["7000"]);
    let held = c1.hold_connections(FAR_SERVER, 3);
    let datagram = c1.udp(FAR_SERVER).unwrap();

    let flows = tunbridge.flows();
    let tcp: Vec<_> = flows.iter().filter(|flow| flow.protocol == "tcp").collect();
    assert_eq!(tcp.len(), 3, "{flows:?}");
    assert!(
        tcp.iter().all(|flow| flow.container == "c1"
            && flow.state == "established"
            && flow.bytes_reply > 0)
    );
    let udp = flows
        .iter()
        .find(|flow| flow.protocol == "udp")
        .expect("the datagram's flow");
    assert_eq!(udp.source, datagram.client.to_string());
    assert_eq!(udp.translated_source, datagram.saw.to_string());
    assert_eq!(
        (
            udp.destination.as_str(),
            udp.translated_destination.as_str()
        ),
        (FAR_SERVER, FAR_SERVER)
    );
    assert_eq!((udp.packets_original, udp.packets_reply), (1, 1));
    assert!(udp.timeout > 0.0 && udp.age >= 0.0);
    held.release();

    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    assert!(
        eventually(Duration::from_secs(2), || tunbridge.flows().is_empty()),
        "flows die with their container: {:?}",
        tunbridge.flows()
    );
}

#[test]
fn the_daemon_listens_on_its_socket_and_nowhere_else() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let sockets = lab.host().run(&["ss", "-Hltunp"]).expect_success().stdout;
    assert!(
        sockets.trim().is_empty(),
        "no inet socket without a published port: {sockets}"
    );
    let mode = lab
        .host()
        .run(&["stat", "-c", "%a", "/run/tunbridge/tunbridge.sock"])
        .expect_success()
        .stdout;
    assert_eq!(mode.trim(), "660");
    assert!(
        lab.host()
            .shell(&format!("ls /proc/{}/fd | wc -l", tunbridge.pid()))
            .succeeded()
    );
}

#[test]
fn no_firewall_rule_and_no_policy_rule_is_made() {
    let lab = Lab::plain();
    let rules = || {
        lab.host()
            .shell("nft list ruleset; ip rule; ip -4 route show table all | grep -v tb0")
            .expect_success()
            .stdout
    };
    let before = rules();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("web", &["-p", "8080:80", "-p", "9000-9100:9000-9100/udp"]);
    assert_eq!(rules(), before);
    let processes = lab
        .host()
        .run(&["ps", "-eo", "comm="])
        .expect_success()
        .stdout;
    let ours = processes
        .lines()
        .filter(|name| name.starts_with("tunbridge"))
        .count();
    assert!(
        ours <= 2,
        "the daemon and the container's parent, no process per port:\n{processes}"
    );
}
