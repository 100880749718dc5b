//! IPv6, all the ways people run it: addresses, routed and translated networks, published ports, changed prefixes.
//!
//! The isolation matrix over IPv6 is in `matrix.rs`, a real engine's transcript in `golden_ipv6.rs`, Docker's own tests
//! are in `moby/ipv6*.rs`.

mod changes;
mod delays;
mod impostors;
mod ipv6_forwarding;
mod networks;
mod prefixes;
mod routed;
mod seed;
mod translated;

use crate::lab::Place;
use crate::tunbridge_under_test::Tunbridge;

/// What the default network has in most of these tests; a router outside may have a route for it.
const GLOBAL: &str = "2001:db8:d::/64";

/// Flags of the daemon for a default network with the prefix.
const fn with_prefix(prefix: &str) -> [&str; 3] {
    ["--ipv6", "--fixed-cidr-v6", prefix]
}

/// `tunbridge network create OPTIONS… NAME`.
fn create(tunbridge: &Tunbridge<'_>, name: &str, options: &[&str]) {
    let words = [&["network", "create"], options, &[name]].concat();
    tunbridge.cli(&words).expect_success();
}

/// What a container is told of its endpoint on a network.
fn endpoint(tunbridge: &Tunbridge<'_>, container: &str, network: &str) -> serde_json::Value {
    tunbridge.inspect(container)["NetworkSettings"]["Networks"][network].clone()
}

/// A container's IPv6 address on a network; empty if it has none.
pub(crate) fn address6(tunbridge: &Tunbridge<'_>, container: &str, network: &str) -> String {
    endpoint(tunbridge, container, network)["GlobalIPv6Address"]
        .as_str()
        .expect("a text")
        .to_owned()
}

/// `ip -6 route` without what depends on the version of `ip`.
pub(crate) fn routes6(place: &Place) -> Vec<String> {
    let routes = place.run(&["ip", "-6", "route"]).expect_success().stdout;
    routes
        .lines()
        .map(|line| line.trim_end().trim_end_matches(" pref medium").to_owned())
        .collect()
}
