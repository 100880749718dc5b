//! Watching a process that is not our child: a pid file descriptor (Linux 5.3) becomes readable when
//! the process exits and never refers to a later process with the same number.
//!
//! A pid read from a file may have been reused meanwhile, so it is stored together with the process's
//! start time and compared when it is opened again ([`PidFd::open_started_at`]).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;

use super::netns::{open_pidfd, watch_readable};

/// A process, for as long as this is held.
#[derive(Debug)]
pub struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// Opens process `pid`.
    ///
    /// # Errors
    /// `NotFound` if there is no such process, or too many open files. A process that has exited but
    /// was not waited for by its parent still opens, and [`PidFd::exited`] returns at once.
    pub fn open(pid: u32) -> io::Result<Self> {
        let gone = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} does not exist"),
            )
        };
        // pid 0 and numbers beyond pid_t would mean something else to the kernel.
        let raw = i32::try_from(pid)
            .ok()
            .filter(|pid| *pid > 0)
            .ok_or_else(gone)?;
        match open_pidfd(Pid::from_raw(raw)) {
            Ok(fd) => Ok(Self { pid, fd }),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(gone()),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("open process {pid}: {error}"),
            )),
        }
    }

    /// Opens process `pid` if it is the one that started at `start_time` (see [`start_time`]).
    ///
    /// # Errors
    /// As [`PidFd::open`]; `NotFound` too if the number now belongs to another process.
    pub fn open_started_at(pid: u32, start: u64) -> io::Result<Self> {
        let process = Self::open(pid)?;
        // Read after the descriptor was opened: if it matches, the descriptor is that process.
        if start_time(pid)? == start {
            Ok(process)
        } else {
            let message = format!("process {pid} is not the one that was started");
            Err(io::Error::new(io::ErrorKind::NotFound, message))
        }
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when the process has exited (at once if it already has). Its exit status is known to
    /// its parent only.
    ///
    /// # Errors
    /// The descriptor cannot be registered with the runtime.
    pub async fn exited(&self) -> io::Result<()> {
        // A descriptor of its own, so that several callers can wait.
        watch_readable(self.fd.try_clone()?)?
            .readable()
            .await?
            .retain_ready();
        Ok(())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When process `pid` started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
///
/// # Errors
/// `NotFound` if there is no such process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            let message = format!("process {pid} does not exist");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Err(error) => return Err(error),
    };
    parse_start_time(&String::from_utf8_lossy(&stat))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // Field 2, the command in parentheses, may contain blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(')')?;
    // Field 3 is the first one behind it.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn command_names_do_not_confuse_the_parser() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time("42 (x"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[tokio::test]
    async fn exit_is_seen() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let start = start_time(child.id()).unwrap();
        let process = PidFd::open_started_at(child.id(), start).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), process.exited()).await;
        assert!(early.is_err(), "still running");
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(5), process.exited())
            .await
            .unwrap()
            .unwrap();
        child.wait().unwrap();
        assert_eq!(
            PidFd::open(child.id()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let own = std::process::id();
        let start = start_time(own).unwrap();
        assert!(PidFd::open_started_at(own, start).is_ok());
        let error = PidFd::open_started_at(own, start + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for pid in [0, u32::MAX, 1 << 31] {
            assert_eq!(
                PidFd::open(pid).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        }
    }
}
