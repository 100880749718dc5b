//! The CNI plugin by its protocol: variables and standard input in, JSON and status out, against a daemon that only
//! records what it is asked. Needs root: it makes network namespaces, without names.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

#[path = "cni/chained.rs"]
mod chained;
#[path = "cni/delegation.rs"]
mod delegation;
#[path = "cni/malformed.rs"]
mod malformed;
#[path = "cni/plugin.rs"]
mod plugin;
#[path = "cni/recorder.rs"]
mod recorder;
#[path = "cni/verbs.rs"]
mod verbs;
#[path = "cni/without_daemon.rs"]
mod without_daemon;
