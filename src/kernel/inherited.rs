//! Sockets that a service manager has opened for us and handed over (`sd_listen_fds(3)`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The descriptors, in the manager's order; none if it has handed over none. Whoever asks first gets them.
///
/// # Errors
/// `LISTEN_FDS` or `LISTEN_PID` is no number, or a descriptor that they promise is not there.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let descriptors = sd_notify::listen_fds()?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // SAFETY: the manager has opened them for this process (`LISTEN_PID` says so), `listen_fds` has found them open, and
    // nobody else here knows their numbers, for they are taken once.
    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
    Ok(descriptors.map(own).collect())
}
