//! Pools, addresses and Ethernet addresses over the life of networks (integration/network, integration/networking).

use super::{address, create, endpoint, network};
use crate::lab::Lab;

#[test]
fn test_daemon_default_network_pools() {
    let lab = Lab::plain();
    let pools = [
        "--default-address-pool",
        "base=175.30.0.0/16,size=16",
        "--default-address-pool",
        "base=175.33.0.0/16,size=24",
    ];
    let tunbridge = lab.start_daemon(&pools);
    create(&tunbridge, "elango", &[]);
    create(&tunbridge, "saanvi", &[]);
    for (name, subnet) in [
        ("bridge", "175.30.0.0/16"),
        ("elango", "175.33.0.0/24"),
        ("saanvi", "175.33.1.0/24"),
    ] {
        let config = &network(&tunbridge, name)["IPAM"]["Config"][0];
        assert_eq!(config["Subnet"], subnet, "{name}");
    }
    tunbridge.cli(&["network", "rm", "elango"]).expect_success();
    create(&tunbridge, "again", &[]);
    let config = &network(&tunbridge, "again")["IPAM"]["Config"][0];
    assert_eq!(config["Subnet"], "175.33.0.0/24", "gaps are filled");
}

#[test]
fn test_daemon_with_bip_and_default_network_pool() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[
        "--bip",
        "172.60.0.1/16",
        "--default-address-pool",
        "base=175.33.0.0/16,size=24",
    ]);
    let config = &network(&tunbridge, "bridge")["IPAM"]["Config"][0];
    assert_eq!(config["Subnet"], "172.60.0.0/16");
    create(&tunbridge, "one", &[]);
    let config = &network(&tunbridge, "one")["IPAM"]["Config"][0];
    assert_eq!(config["Subnet"], "175.33.0.0/24");
}

#[test]
fn test_daemon_restart_with_existing_network() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "kept", &[]);
    let before = network(&tunbridge, "kept");
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(network(&tunbridge, "kept"), before);
}

#[test]
fn test_preferred_subnet_restore() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "chosen", &["--subnet", "10.77.0.0/24"]);
    create(&tunbridge, "given", &[]);
    let web = tunbridge.server("web", &["--network", "chosen", "-p", "8080:80"]);
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(
        network(&tunbridge, "chosen")["IPAM"]["Config"][0]["Subnet"],
        "10.77.0.0/24"
    );
    assert_eq!(
        network(&tunbridge, "given")["IPAM"]["Config"][0]["Subnet"],
        "172.18.0.0/16"
    );
    lab.lan().tcp("198.51.100.2:8080").unwrap();
    web.ping("10.77.0.1").expect_success();
}

#[test]
fn test_mac_addr_on_restart() {
    // moby#47146: a generated address is not kept for a container that does not run.
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.container_with("c1", &["--network", "one"]);
    let mac_of = |name: &str| endpoint(&tunbridge, name, "one")["MacAddress"].clone();
    assert_eq!(mac_of("c1"), "02:42:ac:12:00:02");
    tunbridge.cli(&["stop", "-t", "0", "c1"]).expect_success();
    tunbridge.container_with("c2", &["--network", "one"]);
    assert_eq!(mac_of("c2"), "02:42:ac:12:00:02", "the address is free");
    tunbridge.cli(&["start", "c1"]).expect_success();
    assert_eq!(mac_of("c1"), "02:42:ac:12:00:03");
}

#[test]
fn test_cfgd_mac_addr_on_restart() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let wanted = "02:42:08:26:a9:55";
    let options = ["--network", "one", "--mac-address", wanted];
    let c1 = tunbridge.container_with("c1", &options);
    assert_eq!(c1.mac("eth0"), wanted);
    tunbridge
        .cli(&["restart", "-t", "0", "c1"])
        .expect_success();
    assert_eq!(lab.place("c1").mac("eth0"), wanted);
}

#[test]
fn test_inspect_cfgd_mac() {
    // moby#47228
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let wanted = "02:42:08:26:a9:55";
    tunbridge.container_with("plain", &["--network", "one"]);
    tunbridge.container_with("chosen", &["--network", "one", "--mac-address", wanted]);
    assert!(tunbridge.inspect("plain")["Config"]["MacAddress"].is_null());
    assert_eq!(tunbridge.inspect("chosen")["Config"]["MacAddress"], wanted);
    assert_eq!(endpoint(&tunbridge, "chosen", "one")["MacAddress"], wanted);
}

#[test]
fn test_set_ip_with_no_configured_subnet() {
    // moby#51569
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.container_with("c1", &["--network", "one", "--ip", "172.18.0.9"]);
    assert_eq!(address(&tunbridge, "c1", "one"), "172.18.0.9");
}

#[test]
fn test_docker_network_connect_preferred_ip() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "n0", &["--subnet", "10.77.0.0/24"]);
    create(&tunbridge, "n1", &["--subnet", "10.78.0.0/24"]);
    tunbridge.container_with("c0", &["--network", "n0", "--ip", "10.77.0.44"]);
    tunbridge
        .cli(&["network", "connect", "--ip", "10.78.0.55", "n1", "c0"])
        .expect_success();
    let addresses = || ["n0", "n1"].map(|name| address(&tunbridge, "c0", name));
    assert_eq!(addresses(), ["10.77.0.44", "10.78.0.55"]);
    // Still there after others have come and it has been away.
    tunbridge.cli(&["stop", "-t", "0", "c0"]).expect_success();
    tunbridge.container_with("c1", &["--network", "n0"]);
    tunbridge.cli(&["start", "c0"]).expect_success();
    assert_eq!(addresses(), ["10.77.0.44", "10.78.0.55"]);
    tunbridge
        .cli(&["network", "disconnect", "n1", "c0"])
        .expect_success();
    for (refused, text) in [
        (
            "10.79.0.1",
            "invalid address 10.79.0.1: It does not belong to any of this network's subnets",
        ),
        ("10.78.0.1", "Address already in use"),
        ("10.78.0.300", "10.78.0.300"),
    ] {
        let outcome = tunbridge
            .cli(&["network", "connect", "--ip", refused, "n1", "c0"])
            .expect_failure();
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
}

#[test]
fn test_bridge_ipam_status() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "one",
        &[
            "--subnet",
            "10.77.0.0/24",
            "--ip-range",
            "10.77.0.0/29",
            "--gateway",
            "10.77.0.1",
            "--aux-address",
            "printer=10.77.0.5",
        ],
    );
    let status = || network(&tunbridge, "one")["Status"]["IPAM"]["Subnets"]["10.77.0.0/24"].clone();
    // Network and broadcast address, gateway and printer; of the range 10.77.0.2-4, 6 and 7 are left.
    assert_eq!(
        status(),
        serde_json::json!({"IPsInUse": 4, "DynamicIPsAvailable": 5})
    );
    tunbridge.container_with("c1", &["--network", "one"]);
    assert_eq!(
        status(),
        serde_json::json!({"IPsInUse": 5, "DynamicIPsAvailable": 4})
    );
    tunbridge.container_with("c2", &["--network", "one", "--ip", "10.77.0.200"]);
    assert_eq!(
        status(),
        serde_json::json!({"IPsInUse": 6, "DynamicIPsAvailable": 4})
    );
}

#[test]
fn test_advertise_addresses() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "one",
        &[
            "--subnet",
            "10.77.0.0/24",
            "-o",
            "com.docker.network.advertise_addr_ms=100",
        ],
    );
    let witness = tunbridge.container_with("witness", &["--network", "one"]);
    let line =
        "exec timeout 20 tcpdump -lnni eth0 'arp and src host 10.77.0.9 and ether broadcast' 2>&1";
    let mut capture = witness.start(&["bash", "-c", line]);
    capture.read_until("listening on");
    let mac = "02:42:08:26:a9:55";
    tunbridge.container_with(
        "c1",
        &[
            "--network",
            "one",
            "--ip",
            "10.77.0.9",
            "--mac-address",
            mac,
        ],
    );
    for _ in 0..3 {
        let line = capture.read_line();
        assert!(
            line.contains("who-has 10.77.0.9") && line.contains("tell 10.77.0.9"),
            "gratuitous: {line}"
        );
    }
    // The neighbour's cache follows at once when another container has the address.
    witness.ping("10.77.0.9").expect_success();
    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    tunbridge.container_with(
        "c2",
        &[
            "--network",
            "one",
            "--ip",
            "10.77.0.9",
            "--mac-address",
            "02:42:08:26:a9:66",
        ],
    );
    witness.ping("10.77.0.9").expect_success();
}
