//! What a process of a container sees: its namespaces, its files, its root.
//!
//! # Theory of operation
//!
//! The starter (the CLI for `run`, a detached copy of it for `run -d`) has one thread and forks a child:
//!
//! ```text
//!   starter ──fork──► child: enter the network namespace the daemon made
//!      │                     new mount and UTS namespaces, mounts slave
//!      │                     --rootfs: own /proc /sys /dev, pivot_root
//!      │                     /etc/hosts /etc/hostname /etc/resolv.conf mounted over, new /sys
//!      │◄── status pipe ──── "ready"
//!      │ reports the process to the daemon
//!      ├─── permission ────► execvp, which closes the pipe; or a message, and the end
//!      │ forwards signals, waits, reports the exit code
//! ```
//!
//! The starter itself stays in the host's namespaces, so it reaches the daemon whatever the
//! container's root looks like.
//!
//! Without `--rootfs` the container shares the host's files but for the three in /etc. There is no pid, user
//! or cgroup namespace: this runs programs on a container network, it is no container runtime.
//! Mounts are *slave*, not private: a namespace that is unmounted on the host must vanish from every
//! container's mount table too, or it would live on.

mod mounts;
mod signals;
mod spawn;

use std::path::PathBuf;

pub use spawn::{Failure, Running, detach, enter, start};

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network namespace.
    pub netns: PathBuf,
    /// Directory with `hosts`, `hostname`, `resolv.conf`.
    pub files: PathBuf,
    /// For the UTS namespace.
    pub hostname: String,
    /// Root directory, if not the host's.
    pub rootfs: Option<PathBuf>,
    /// Environment, complete.
    pub env: Vec<(String, String)>,
    /// Program and arguments; the program is looked for in `PATH` of `env`.
    pub command: Vec<String>,
}
