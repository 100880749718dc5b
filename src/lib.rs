//! tunbridge gives containers Docker-style bridge networks without netfilter.
//!
//! One sentence holds the whole design: **control decides, kernel arranges, steering diverts, the
//! forwarder judges packets, the engine carries them, dns answers names; api, cli and cni are the doors;
//! daemon connects the rest.**
//!
//! | module | job | may import (ours) |
//! |---|---|---|
//! | [`forwarder`] | pure packet judge: NAPT, publishing, ICMP, fragments, TTL, MTU | nothing |
//! | [`engine`] | multi-queue TUN, one worker thread per queue | `forwarder` |
//! | [`steering`] | four tc eBPF programs and their maps | nothing |
//! | [`kernel`] | netlink, namespaces, sysctls, routes, notifications | nothing |
//! | [`dns`] | the resolver at 127.0.0.11 of containers on user-defined networks | `kernel` |
//! | [`control`] | networks, endpoints, IPAM, ports, state; projections of it | `forwarder`, `api`, `dns` (types of all) |
//! | [`sandbox`] | what a process of a container sees: namespaces, mounts, files | `kernel` |
//! | [`api`] | the HTTP API over the unix socket: types, client, server | nothing |
//! | [`failpoint`] | steps at which tests end or hold a debug build | nothing |
//! | [`oci`] | the hook that runc and crun call | `api`, `failpoint`, `kernel`, `cni` (to find the daemon), `control` (names of labels, what ids are) |
//! | [`cni`] | the plugin for container runtimes that speak CNI | `api`, `failpoint`, `kernel`, `control` (names of options, what names are) |
//! | [`docker_plugin`] | dockerd's network and IPAM driver, a process of its own | `api`, `control` (names of options), `failpoint` |
//! | [`cli`] | the command line | `api`, `sandbox`, `cni`, `oci`, `daemon` and `docker_plugin` (to run them), `control` and `forwarder` (types) |
//! | [`daemon`] | wires everything and reconciles | all |
//!
//! `tests/architecture.rs` checks the last column.

pub mod api;
pub mod cli;
pub mod cni;
pub mod control;
pub mod daemon;
pub mod dns;
pub mod docker_plugin;
pub mod engine;
pub mod failpoint;
pub mod forwarder;
pub mod kernel;
pub mod oci;
pub mod sandbox;
pub mod steering;
