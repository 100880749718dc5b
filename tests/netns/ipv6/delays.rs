//! Nobody waits: names with addresses of both families, duplicate address detection, path MTU.

use std::time::{Duration, Instant};

use super::{create, with_prefix};
use crate::lab::{FAR, Lab, Place, World};
use crate::tunbridge_under_test::Tunbridge;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");

/// A stall is five seconds (a resolver's patience), or one or three (the first repetition of a SYN); what is less is a
/// busy machine.
const STALL_MS: u32 = 900;

/// The host's resolver is the helper's, outside.
fn lab_with_names() -> (Lab, crate::lab::Running) {
    let lab = Lab::plain();
    let file = "/run/lab/resolv.conf";
    lab.host()
        .shell(&format!(
            "echo 'nameserver {FAR}' >{file} && mount --bind {file} /etc/resolv.conf"
        ))
        .expect_success();
    let mut server = lab.far().start(&[PEER, "dns"]);
    assert!(server.read_line().starts_with("listening"));
    (lab, server)
}

/// What `peer eyeballs` tells: milliseconds of the question, then addresses with theirs.
fn eyeballs(text: &str) -> (u32, Vec<(String, u32)>) {
    let number = |word: &str, name: &str| -> u32 {
        let value = word.strip_prefix(name).unwrap_or_else(|| panic!("{text}"));
        value.parse().expect("milliseconds")
    };
    let mut lines = text.lines();
    let resolved = number(lines.next().expect("a line"), "resolved-ms=");
    let tried = lines.map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().expect("an address").to_owned();
        (address, number(words.next().expect(text), "connected-ms="))
    });
    (resolved, tried.collect())
}

/// The best of a few tries: all of them stall, or none has to.
#[track_caller]
fn nobody_waits(tunbridge: &Tunbridge<'_>, container: &Place, name: &str, addresses: &[&str]) {
    let words = [
        "exec",
        container.name(),
        "--",
        PEER,
        "eyeballs",
        name,
        "7000",
    ];
    let tries: Vec<_> = (0..3)
        .map(|_| eyeballs(&tunbridge.cli(&words).expect_success().stdout))
        .collect();
    for (_, tried) in &tries {
        let mut found: Vec<&str> = tried.iter().map(|(address, _)| address.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, addresses, "{name}");
    }
    let slowest = |(resolved, tried): &(u32, Vec<(String, u32)>)| {
        tried.iter().map(|(_, ms)| *ms).chain([*resolved]).max()
    };
    let best = tries.iter().filter_map(slowest).min();
    assert!(best < Some(STALL_MS), "{name}: {tries:?}");
}

#[test]
fn a_name_with_addresses_of_both_families() {
    let (lab, _dns) = lab_with_names();
    let _server = lab.lan().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    create(&tunbridge, "both", &["--ipv6"]);
    create(&tunbridge, "six", &["--ipv6", "--ipv4=false"]);
    let v4 = "203.0.113.9";
    let v6 = "2001:db8:3::9";
    for network in ["bridge", "both"] {
        let name = format!("c-{network}");
        let container = tunbridge.container_with(&name, &["--network", network]);
        nobody_waits(&tunbridge, &container, "both.wan.example", &[v6, v4]);
        nobody_waits(&tunbridge, &container, "www.wan.example", &[v4]);
        nobody_waits(&tunbridge, &container, "six.wan.example", &[v6]);
    }
    let six = tunbridge.container_with("c-six", &["--network", "six"]);
    nobody_waits(&tunbridge, &six, "six.wan.example", &[v6]);
}

#[test]
fn neighbours_of_both_families_by_name() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "both",
        &[
            "--ipv6",
            "--subnet",
            "fd00:20::/64",
            "--subnet",
            "10.20.0.0/24",
        ],
    );
    let server = crate::lab::server_command(&["7000"]);
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    tunbridge
        .run("db", &["--network", "both"], &server)
        .wait_until_it_serves(7000);
    let app = tunbridge.container_with("app", &["--network", "both"]);
    nobody_waits(&tunbridge, &app, "db", &["10.20.0.2", "fd00:20::2"]);
}

#[test]
fn the_first_thing_a_container_does_is_to_connect() {
    let (lab, _dns) = lab_with_names();
    let _server = lab.lan().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    let at_once = [
        "run",
        "--rm",
        "--",
        PEER,
        "eyeballs",
        "both.wan.example",
        "7000",
    ];
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let told = tunbridge.cli(&at_once).expect_success().stdout;
        best = best.min(began.elapsed());
        let (_, tried) = eyeballs(&told);
        assert_eq!(tried.len(), 2, "{told}");
    }
    assert!(
        best < Duration::from_secs(2),
        "start, name, connection: {best:?}"
    );
}

#[test]
fn a_narrow_path_costs_no_stall() {
    let lab = Lab::with_options(World::Plain, &["--far-mtu", "1280"]);
    let _server = lab.far().serve(&["7000"]);
    let tunbridge = lab.start_daemon(&with_prefix("fd00:17::/64"));
    tunbridge.server("web", &["-p", "8080:80"]);
    let mut best = Duration::MAX;
    for number in 0..3 {
        // A new container each time: it knows nothing of the path yet.
        let client = tunbridge.container(&format!("c{number}"));
        let began = Instant::now();
        client
            .transfer("put", "[2001:db8:ffff::9]:7000", 256 << 10)
            .expect_success();
        lab.far()
            .transfer("get", "[2001:db8:1::2]:8080", 256 << 10)
            .expect_success();
        best = best.min(began.elapsed());
    }
    assert!(best < Duration::from_secs(3), "{best:?}");
}
