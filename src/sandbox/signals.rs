//! Passing signals on, and waiting.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Signals that a user means for the container.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// `si_code` of a signal that the kernel sent, e.g. the terminal's Ctrl-C, which reaches the whole
/// foreground process group and thus the child, too.
const SI_KERNEL: i32 = 0x80;

/// The signals that are blocked while a child is looked after.
pub(super) fn block() -> nix::Result<SigSet> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    for signal in FORWARDED {
        set.add(signal);
    }
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
    Ok(before)
}

/// Puts the mask back that [`block`] gave.
pub(super) fn unblock(before: &SigSet) -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(before), None)
}

/// Waits for `child`, passing on the signals that [`block`] blocked. Gives its exit code, or 128 plus
/// the number of the signal that ended it.
pub(super) fn supervise(child: Pid) -> nix::Result<i32> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    for signal in FORWARDED {
        set.add(signal);
    }
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    loop {
        if let Some(code) = exit_code(child)? {
            return Ok(code);
        }
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        let signal = i32::try_from(info.ssi_signo)
            .ok()
            .and_then(|n| Signal::try_from(n).ok());
        match signal {
            Some(Signal::SIGCHLD) | None => {}
            Some(_) if info.ssi_code == SI_KERNEL => {}
            Some(signal) => match kill(child, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno),
            },
        }
    }
}

/// The exit code of `child`, if it has ended.
pub(super) fn exit_code(child: Pid) -> nix::Result<Option<i32>> {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(code)),
            #[expect(clippy::as_conversions, reason = "an enum of i32")]
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(128 + signal as i32)),
            Ok(_) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
