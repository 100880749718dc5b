//! The real daemon, the real command line and real traffic in labs of network namespaces. Needs root.
//!
//! `netns-scripts/lab.sh` draws the lab. Behaviours that must not depend on what other software does
//! to the host's firewall run in every [`lab::World`]. After each test the daemon is stopped and the
//! host's network must be what it was before.
//!
//! With `TB_BINARY=netns-scripts/oracle` the same tests run against the kernel's own NAT: that is
//! how the tests themselves are tested (the plain world of `egress` and `publish` passes).

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test, to panic is to report; the behaviours are functions that tests call"
)]

#[path = "netns/docker.rs"]
mod docker;
#[path = "shared/docker_clients.rs"]
mod docker_clients;
#[path = "netns/failpoint.rs"]
mod failpoint;
#[path = "netns/lab.rs"]
mod lab;
#[expect(dead_code, reason = "shared with the resolver's own tests")]
#[path = "dns/message.rs"]
mod message;
#[path = "netns/name_server.rs"]
mod name_server;
#[path = "netns/processes.rs"]
mod processes;
#[path = "netns/tunbridge.rs"]
mod tunbridge_under_test;

#[path = "netns/bad_input.rs"]
mod bad_input;
#[path = "netns/cni/mod.rs"]
mod cni;
#[path = "netns/container.rs"]
mod container;
#[path = "netns/docker_cli.rs"]
mod docker_cli;
#[path = "netns/egress.rs"]
mod egress;
#[path = "netns/endpoints/mod.rs"]
mod endpoints;
#[path = "netns/golden.rs"]
mod golden;
#[path = "netns/golden_ipv6.rs"]
mod golden_ipv6;
#[path = "netns/golden_links.rs"]
mod golden_links;
#[path = "netns/ipv6/mod.rs"]
mod ipv6;
#[path = "netns/isolation.rs"]
mod isolation;
#[path = "netns/lab_itself.rs"]
mod lab_itself;
#[path = "netns/lifecycle.rs"]
mod lifecycle;
#[path = "netns/matrix.rs"]
mod matrix;
#[path = "netns/moby/mod.rs"]
mod moby;
#[path = "netns/mtu.rs"]
mod mtu;
#[path = "netns/names.rs"]
mod names;
#[path = "netns/names_under_load.rs"]
mod names_under_load;
#[path = "netns/ports.rs"]
mod ports;
#[path = "netns/publish.rs"]
mod publish;
#[path = "netns/resolv_conf.rs"]
mod resolv_conf;
#[path = "netns/robustness.rs"]
mod robustness;
#[path = "netns/scale/mod.rs"]
mod scale;
#[path = "netns/translated.rs"]
mod translated;
