//! Holding signals back, passing them on, and waiting.
//!
//! The container's process stays in the starter's process group, so the terminal's Ctrl-C, Ctrl-\ and
//! Ctrl-Z reach it directly, pipelines with other programs keep working, and a shell in the container
//! can take the terminal as it can from any other wrapper. What the terminal sent (`SI_KERNEL`) is
//! therefore not passed on a second time; what somebody sent with kill(2) is.

use std::fs;

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

/// Those of them by which a user gives up a start.
const GIVING_UP: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// `si_code` of a signal that the kernel sent, e.g. the terminal's Ctrl-C, which reaches the whole
/// foreground process group and thus the child, too.
const SI_KERNEL: i32 = 0x80;

/// While this lives, the signals for the container are held back; dropping it lets them through.
#[derive(Debug)]
pub(super) struct Held {
    set: SigSet,
    before: SigSet,
}

impl Held {
    /// Holds SIGCHLD and the forwarded signals.
    pub(super) fn new() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        for signal in FORWARDED {
            set.add(signal);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        Ok(Self { set, before })
    }

    /// Puts the mask back that was found. Neither exec(2) nor std does: a program that is started with
    /// signals blocked never gets them.
    pub(super) fn let_through(&self) {
        // Fails only for a bad `how`.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }

    /// The signal by which the user has given up meanwhile, if any. It is taken, so that it does not end
    /// this process before it has cleaned up.
    pub(super) fn given_up(&self) -> Option<Signal> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let pending = mask(&status, "SigPnd:") | mask(&status, "ShdPnd:");
        let effective = pending & !mask(&status, "SigIgn:");
        let signal = GIVING_UP
            .into_iter()
            .find(|signal| effective & bit(*signal) != 0)?;
        let mut set = SigSet::empty();
        set.add(signal);
        // It is pending and blocked, so this returns at once.
        set.wait().ok()
    }

    /// Waits for `child` and passes on what comes. Gives its exit code, or 128 plus the number of the
    /// signal that ended it.
    pub(super) fn supervise(&self, child: Pid) -> nix::Result<i32> {
        let signals = SignalFd::with_flags(&self.set, SfdFlags::SFD_CLOEXEC)?;
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
                .and_then(|number| Signal::try_from(number).ok());
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
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_through();
    }
}

#[expect(clippy::as_conversions, reason = "an enum of i32")]
pub(super) const fn number(signal: Signal) -> i32 {
    signal as i32
}

const fn bit(signal: Signal) -> u64 {
    1 << (number(signal) - 1)
}

/// A line of `/proc/PID/status` such as `ShdPnd: 0000000000000002`.
fn mask(status: &str, field: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0)
}

/// The exit code of `child`, if it has ended.
fn exit_code(child: Pid) -> nix::Result<Option<i32>> {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(128 + number(signal))),
            Ok(_) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_to_give_up_is_seen_once_and_does_not_end_us() {
        let held = Held::new().unwrap();
        assert_eq!(held.given_up(), None);
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        assert_eq!(held.given_up(), None, "no reason to give up");
        nix::sys::signal::raise(Signal::SIGHUP).unwrap();
        assert_eq!(held.given_up(), Some(Signal::SIGHUP));
        assert_eq!(held.given_up(), None);
        drop(held);
    }

    #[test]
    fn masks_are_read_from_the_status_file() {
        let status = "Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004002\n";
        assert_eq!(
            mask(status, "ShdPnd:"),
            bit(Signal::SIGINT) | bit(Signal::SIGTERM)
        );
        assert_eq!(mask(status, "SigIgn:"), 0);
    }
}
