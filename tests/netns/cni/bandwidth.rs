//! Limits of bandwidth with real traffic. What is measured may be half as much more than the limit, or a third of it.

use serde_json::{Value, json};
use tunbridge::api::client::{Client, ClientError};

use super::runtime::{Container, NOTHING, Runtime, left, own, with_previous};
use crate::failpoint::Failpoint;
use crate::lab::{HOST, LAN, Lab, Place};
use crate::tunbridge_under_test::Tunbridge;

const INGRESS: u64 = 20_000_000;
const EGRESS: u64 = 30_000_000;
/// Used up in the first second.
const BURST: u64 = 800_000;

fn config(subnet: &str) -> Value {
    let mut config = own("net1");
    config["subnet"] = subnet.into();
    config
}

/// With limits, and a port for both protocols.
fn limited(config: &Value) -> Value {
    let mut limited = config.clone();
    limited["runtimeConfig"] = json!({
        "bandwidth": {"ingressRate": INGRESS, "ingressBurst": BURST, "egressRate": EGRESS, "egressBurst": BURST},
        "portMappings": [
            {"hostPort": 9000, "containerPort": 9000, "protocol": "tcp"},
            {"hostPort": 9000, "containerPort": 9000, "protocol": "udp"},
        ],
    });
    limited
}

#[track_caller]
fn expect_limit(rate: u64, limit: u64, what: &str) {
    assert!(
        is_below(rate, limit) && is_used(rate, limit),
        "{what}: {rate} bit/s"
    );
}

const fn is_below(rate: u64, limit: u64) -> bool {
    rate <= limit / 2 * 3
}

const fn is_used(rate: u64, limit: u64) -> bool {
    rate >= limit / 3
}

#[track_caller]
fn expect_no_limit(rate: u64, what: &str) {
    assert!(rate >= 5 * EGRESS, "{what}: {rate} bit/s");
}

/// What the container gets from outside by its published port, and what it sends there.
#[track_caller]
fn expect_limits_outside(lab: &Lab, limited: &Place, protocol: &str) {
    let rate = limited.rate_from(&lab.lan(), protocol, &format!("{HOST}:9000"), 9000);
    expect_limit(rate, INGRESS, &format!("{protocol} from outside"));
    let rate = lab
        .lan()
        .rate_from(limited, protocol, &format!("{LAN}:9001"), 9001);
    expect_limit(rate, EGRESS, &format!("{protocol} to the outside"));
}

fn queues(container: &Container<'_>, lab: &Lab) -> usize {
    let count = |place: &Place| {
        let listed = place.run(&["tc", "qdisc", "show"]).expect_success();
        listed
            .stdout
            .lines()
            .filter(|line| line.contains("qdisc tbf"))
            .count()
    };
    count(&container.place) + count(&lab.host())
}

fn unlimit(lab: &Lab, container: &Container<'_>) -> Result<(), ClientError> {
    let limits =
        json!({"endpoint": {"runtime": "cni", "container": container.id}, "bandwidth": {}});
    let client = Client::new(&lab.path("/run/tunbridge/tunbridge.sock"));
    client.tell("/tunbridge/endpoints/bandwidth", &limits)
}

#[test]
fn limits_hold_towards_everybody() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = config("10.74.0.0/24");
    let (slow, fast) = (runtime.container("slow"), runtime.container("fast"));
    let result = slow.add(&limited(&config));
    assert_eq!(result["ips"][0]["address"], "10.74.0.2/24");
    fast.add(&config);
    slow.check(&limited(&config), &result);
    let shown = tunbridge.inspect("slow");
    let shown = &shown["NetworkSettings"]["Networks"]["net1"]["Bandwidth"];
    assert_eq!(
        *shown,
        json!({
            "Ingress": {"Rate": INGRESS, "Burst": BURST}, "Egress": {"Rate": EGRESS, "Burst": BURST},
        })
    );
    let (host, lan) = (lab.host(), lab.lan());
    let (slow, fast) = (&slow.place, &fast.place);

    expect_limits_outside(&lab, slow, "tcp");
    expect_no_limit(
        lan.rate_from(fast, "tcp", &format!("{LAN}:9001"), 9001),
        "a neighbour",
    );
    let rate = slow.rate_from(fast, "tcp", "10.74.0.2:9000", 9000);
    expect_limit(rate, INGRESS, "from a neighbour");
    let rate = fast.rate_from(slow, "tcp", "10.74.0.3:9000", 9000);
    expect_limit(rate, EGRESS, "to a neighbour");
    let rate = slow.rate_from(&host, "tcp", "10.74.0.2:9000", 9000);
    expect_limit(rate, INGRESS, "from the host");
    let rate = host.rate_from(slow, "tcp", "10.74.0.1:9001", 9001);
    expect_limit(rate, EGRESS, "to the host");
    expect_no_limit(
        fast.rate_from(&host, "tcp", "10.74.0.3:9000", 9000),
        "the host to a neighbour",
    );
    expect_limits_outside(&lab, slow, "udp");
    // All of it waited, and none was taken for an attempt to get around the queue.
    assert_eq!(tunbridge.dropped(&["rate_exceeded"]), 0);
}

#[test]
fn a_container_that_takes_its_queue_away_is_limited_all_the_same() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = limited(&config("10.74.0.0/24"));
    let slow = runtime.container("slow");
    let result = slow.add(&config);
    slow.place
        .run(&["tc", "qdisc", "delete", "dev", "eth0", "root"])
        .expect_success();
    let (code, text) = slow.fails("CHECK", &with_previous(&config, &result));
    assert!(
        code == 101 && text.contains("the bandwidth of interface eth0"),
        "{code} {text}"
    );
    for protocol in ["udp", "tcp"] {
        let rate = lab
            .lan()
            .rate_from(&slow.place, protocol, &format!("{LAN}:9001"), 9001);
        assert!(is_below(rate, EGRESS), "{protocol}: {rate} bit/s");
        // Who loses so many packets sends less by TCP.
        assert!(is_used(rate, EGRESS) || protocol == "tcp", "{rate} bit/s");
    }
    assert!(tunbridge.dropped(&["rate_exceeded"]) > 0);
}

#[test]
fn the_next_daemon_limits_as_the_one_before() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = limited(&config("10.74.0.0/24"));
    let slow = runtime.container("slow");
    let result = slow.add(&config);
    tunbridge.kill();
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    for (place, interface) in [(&lab.host(), host_end), (&slow.place, "eth0")] {
        place
            .run(&["tc", "qdisc", "delete", "dev", interface, "root"])
            .expect_success();
    }
    // Somebody else's in its place, with our handle.
    let foreign = [
        "tc",
        "qdisc",
        "add",
        "dev",
        "eth0",
        "root",
        "handle",
        "7462:",
        "pfifo_fast",
    ];
    slow.place.run(&foreign);
    tunbridge.start_again();
    slow.check(&config, &result);
    expect_limits_outside(&lab, &slow.place, "tcp");
    // An interface that the daemon makes again.
    lab.host()
        .run(&["ip", "link", "delete", host_end])
        .expect_success();
    let is_back = || slow.interfaces() == ["eth0"] && queues(&slow, &lab) == 2;
    assert!(crate::lab::eventually(
        std::time::Duration::from_secs(30),
        is_back
    ));
    slow.check(&config, &result);
    slow.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

#[test]
fn limits_come_by_the_plugin_bandwidth_and_go_with_the_interface() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = config("10.74.0.0/24");
    let slow = runtime.container("slow");
    let result = slow.add(&config);
    assert_eq!(queues(&slow, &lab), 0);
    let mut chained = with_previous(&config, &result);
    chained["type"] = "bandwidth".into();
    chained["egressRate"] = EGRESS.into();
    chained["egressBurst"] = 8.into();
    let (code, text) = slow.fails("ADD", &chained);
    assert!(
        code == 7 && text.contains("invalid bandwidth.egress.burst 8"),
        "{code} {text}"
    );
    assert_eq!(queues(&slow, &lab), 0);
    chained["egressBurst"] = BURST.into();
    assert_eq!(slow.add(&chained), result);
    assert_eq!(queues(&slow, &lab), 1);
    slow.call("bandwidth", "CHECK", &chained, &[])
        .expect_success();
    let rate = lab
        .lan()
        .rate_from(&slow.place, "udp", &format!("{LAN}:9001"), 9001);
    expect_limit(rate, EGRESS, "the plugin's limit");
    // Another one in its place.
    chained["egressRate"] = (2 * EGRESS).into();
    let (code, text) = slow.fails("CHECK", &chained);
    assert!(
        code == 101 && text.contains("30000000 bit/s"),
        "{code} {text}"
    );
    slow.add(&chained);
    let rate = lab
        .lan()
        .rate_from(&slow.place, "udp", &format!("{LAN}:9001"), 9001);
    expect_limit(rate, 2 * EGRESS, "the next limit");
    // The daemon takes it back, too: CNI has no word for that.
    unlimit(&lab, &slow).unwrap();
    assert_eq!(queues(&slow, &lab), 0);
    assert_eq!(tunbridge.stats().held.get("policers"), Some(&0));
    slow.add(&chained);
    assert_eq!(queues(&slow, &lab), 1);
    slow.del(&chained);
    slow.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
    slow.add(&config);
    assert_eq!(queues(&slow, &lab), 0);
    let rate = lab
        .lan()
        .rate_from(&slow.place, "tcp", &format!("{LAN}:9001"), 9001);
    expect_no_limit(rate, "without a limit");
    let entries = tunbridge.stats().held;
    assert_eq!(entries.get("policers"), Some(&0));
    slow.del(&config);
}

#[test]
fn what_a_daemon_has_not_finished_the_next_one_finds() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let failpoint = Failpoint::in_lab(&lab);
    let config = config("10.74.0.0/24");
    let slow = runtime.container("slow");
    let result = slow.add(&config);
    let mut chained = with_previous(&config, &result);
    chained["type"] = "bandwidth".into();
    for direction in ["ingress", "egress"] {
        chained[format!("{direction}Rate")] = EGRESS.into();
        chained[format!("{direction}Burst")] = BURST.into();
    }
    let dies = |tunbridge: &mut Tunbridge<'_>| {
        failpoint.expect_reached();
        assert!(tunbridge.ended().is_some());
    };
    // Stored, and not made.
    failpoint.kill_at("daemon.limiting");
    let (code, text) = slow.fails("ADD", &chained);
    assert_eq!(code, 11, "{text}");
    dies(&mut tunbridge);
    assert_eq!(queues(&slow, &lab), 0);
    tunbridge.start_again();
    assert_eq!(queues(&slow, &lab), 2);
    slow.call("bandwidth", "CHECK", &chained, &[])
        .expect_success();
    // Taken away, and still stored.
    failpoint.kill_at("daemon.unlimited");
    unlimit(&lab, &slow).unwrap_err();
    dies(&mut tunbridge);
    assert_eq!(queues(&slow, &lab), 0);
    tunbridge.start_again();
    assert_eq!(queues(&slow, &lab), 2);
    unlimit(&lab, &slow).unwrap();
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(queues(&slow, &lab), 0);
    slow.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}
