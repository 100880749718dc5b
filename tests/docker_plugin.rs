//! dockerd's side of `tunbridge docker-plugin`: each call of libnetwork's remote protocol as dockerd 20.10 sends it, and
//! as nobody should, over a real socket, with a daemon that only keeps records.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

#[path = "docker_plugin/calls.rs"]
mod calls;
#[path = "docker_plugin/companion.rs"]
mod companion;
#[path = "docker_plugin/fake_daemon.rs"]
mod fake_daemon;
#[path = "docker_plugin/leases.rs"]
mod leases;
#[path = "docker_plugin/process.rs"]
mod process;
