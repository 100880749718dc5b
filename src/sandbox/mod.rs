//! What a process of a container sees: its namespaces, its files, its root.
//!
//! # Theory of operation
//!
//! The starter (the CLI for `run`, a detached copy of it for `run -d`) has one thread and forks a child:
//!
//! ```text
//!   starter ──fork──► child: enter the network namespace the daemon made
//!      │                     new mount and UTS namespaces, mounts slave
//!      │                     --rootfs: own /proc /sys /dev, pivot_root; else a new /sys
//!      │                     /etc/hosts /etc/hostname /etc/resolv.conf covered
//!      │◄───── ready ─────── then waits
//!      │ tells the daemon the child's number
//!      ├────── go ─────────► execvp, which closes the channel; or a message, and the end
//!      │ forwards signals, waits, reports the exit code
//! ```
//!
//! The starter itself stays in the host's namespaces, so it reaches the daemon whatever the
//! container's root looks like. No program begins that the daemon does not know: it watches the child
//! from before the exec. A starter that is killed before `go` takes the child with it (the channel
//! closes); one that is killed later does not end the container (no `PR_SET_PDEATHSIG`, as with Docker's
//! client): the daemon still sees its end, and only the exit code is lost.
//!
//! Without `--rootfs` the container shares the host's files but for the three in /etc, and its working
//! directory; `--rootfs` starts in `/`, and creates `/proc`, `/sys`, `/dev` and the three files in the
//! directory if they are missing. Everything opened here closes on exec; what the caller's shell
//! passed on stays open.
//!
//! The daemon writes the three files in place, so a running container sees every change; inside, an editor that
//! moves a new file over one of them is refused (`EBUSY`), as in Docker's containers. A container that is started
//! again gets the same directory of files.
//!
//! On the host itself, a program that moves a new file over /etc/resolv.conf takes the mount over it away from running
//! containers without `--rootfs` (the kernel detaches mounts of other namespaces from what is removed). The daemon notices
//! within a second and mounts theirs again ([`cover_again`]).
//!
//! Limits: There is no pid, user or cgroup namespace, no capability is dropped, and children that a
//! container's main process leaves behind outlive it: this runs programs on a container network, it is
//! no container runtime. /proc shows the host's processes. Mounts are *slave*, not private: a namespace
//! that is unmounted on the host must vanish from every container's mount table too, or it would live on.

mod adopt;
mod mounts;
mod signals;
mod spawn;

use std::path::PathBuf;

pub use adopt::{check_path, check_pid};
pub use mounts::cover_again;
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
