//! Unmodified container engines of Debian in labs: podman, containerd, runc, crun, systemd-nspawn. Needs root and what
//! `make setup` unpacks.
//!
//! `netns-scripts/engines.sh` lays the engines over a lab; its head says how nothing of them reaches the machine. First
//! the laboratory itself, with the plugins that Debian packages; what can be seen with those is what must be seen with
//! ours, and the tests compare the two.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test, to panic is to report; the behaviours are functions that tests call"
)]

#[path = "netns/failpoint.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with tests/netns.rs"
)]
mod failpoint;
#[path = "netns/lab.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with tests/netns.rs"
)]
mod lab;
#[path = "netns/processes.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with tests/netns.rs"
)]
mod processes;
#[path = "netns/tunbridge.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with tests/netns.rs"
)]
mod tunbridge_under_test;

#[path = "engines/containerd.rs"]
mod containerd;
#[path = "engines/docker.rs"]
mod docker;
#[path = "engines/docker_kills.rs"]
mod docker_kills;
#[path = "engines/docker_scenarios.rs"]
mod docker_scenarios;
#[path = "engines/dockerd.rs"]
mod dockerd;
#[path = "engines/documents.rs"]
mod documents;
#[path = "engines/engines.rs"]
mod engines;
#[path = "engines/kills.rs"]
mod kills;
#[path = "engines/laboratory.rs"]
mod laboratory;
#[path = "engines/oci.rs"]
mod oci;
#[path = "engines/podman.rs"]
mod podman;
#[path = "engines/podman_networks.rs"]
mod podman_networks;
#[path = "engines/podman_scenarios.rs"]
mod podman_scenarios;
#[path = "engines/together.rs"]
mod together;
