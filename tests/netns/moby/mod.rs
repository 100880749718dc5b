//! Docker's own integration tests, by their names: what each asserts, asserted of tunbridge.
//!
//! `docs/parity.md` lists all that concern bridge networks; those that are not here have their counterpart in
//! the other modules, named there. Comments give moby's issue where the test has one.

mod addresses;
mod connectivity;
mod ipv6;
mod ipv6_traffic;
mod lifecycle;
mod names;
mod published;

use crate::tunbridge_under_test::Tunbridge;

/// `-o` of `network create` for a gateway mode.
fn gateway_mode(mode: &str) -> String {
    format!("com.docker.network.bridge.gateway_mode_ipv4={mode}")
}

/// The same for IPv6.
fn gateway_mode6(mode: &str) -> String {
    format!("com.docker.network.bridge.gateway_mode_ipv6={mode}")
}

/// `tunbridge network create OPTIONS… NAME`; its id.
fn create(tunbridge: &Tunbridge<'_>, name: &str, options: &[&str]) -> String {
    let words = [&["network", "create"], options, &[name]].concat();
    let outcome = tunbridge.cli(&words).expect_success();
    outcome.stdout.trim().to_owned()
}

/// `tunbridge network inspect NAME`, the one element of it.
fn network(tunbridge: &Tunbridge<'_>, name: &str) -> serde_json::Value {
    let outcome = tunbridge
        .cli(&["network", "inspect", name])
        .expect_success();
    let list: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    list[0].clone()
}

/// Endpoint settings of a container on a network.
fn endpoint(tunbridge: &Tunbridge<'_>, container: &str, network: &str) -> serde_json::Value {
    tunbridge.inspect(container)["NetworkSettings"]["Networks"][network].clone()
}

/// A container's address on a network.
fn address(tunbridge: &Tunbridge<'_>, container: &str, network: &str) -> String {
    endpoint(tunbridge, container, network)["IPAddress"]
        .as_str()
        .expect("an address")
        .to_owned()
}
