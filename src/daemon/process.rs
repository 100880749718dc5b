//! Processes that are not our children: known by number *and* start time, watched by pidfd.

use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::control::records::Process;
use crate::kernel::pidfd::{self, PidFd};

/// The process that has the number `pid` now.
pub(super) fn identify(pid: i32) -> io::Result<Process> {
    Ok(Process {
        pid,
        start_time: pidfd::start_time(number(pid)?)?,
    })
}

/// True while `process` runs.
pub(super) fn is_alive(process: Process) -> bool {
    open(process).is_ok()
}

/// Returns when `process` has ended, at once if it has already.
pub(super) async fn ended(process: Process) {
    if let Ok(handle) = open(process)
        && let Err(error) = handle.exited().await
    {
        tracing::warn!(pid = process.pid, %error, "cannot watch a process");
        while is_alive(process) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// SIGTERM, and SIGKILL if it still runs after `grace`; returns when it has ended.
pub(super) async fn stop(process: Process, grace: Duration) {
    signal(process, Signal::SIGTERM);
    if tokio::time::timeout(grace, ended(process)).await.is_err() {
        signal(process, Signal::SIGKILL);
        ended(process).await;
    }
}

/// Sends `signal` if `process` still runs.
pub(super) fn signal(process: Process, signal: Signal) {
    // While the descriptor is open and its process has not been reaped, the number is not reused.
    if let Ok(_handle) = open(process)
        && let Err(errno) = kill(Pid::from_raw(process.pid), signal)
    {
        tracing::debug!(pid = process.pid, %signal, %errno, "cannot signal");
    }
}

fn open(process: Process) -> io::Result<PidFd> {
    PidFd::open_started_at(number(process.pid)?, process.start_time)
}

fn number(pid: i32) -> io::Result<u32> {
    u32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::NotFound))
}
