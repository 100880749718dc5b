//! Checks before somebody else's network namespace is adopted, so that the mistakes that are easy to
//! make are named by flag before the daemon is asked.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::kernel::netns::{self, NetnsError};

/// `--pid`: a running process outside the host's own network namespace.
///
/// # Errors
/// One sentence with flag, value and fix.
pub fn check_pid(pid: i32) -> Result<(), String> {
    const FIX: &str =
        "give the number of a running process that has a network namespace of its own";
    let namespace = u32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| format!("--pid {pid}: no process has this number: {FIX}"))
        .and_then(|number| {
            netns::open_pid(number).map_err(|error| format!("--pid {pid}: {error}: {FIX}"))
        })?;
    not_the_hosts(&namespace, &format!("--pid {pid}"), FIX)
}

/// `--netns`: the file of a network namespace other than the host's own.
///
/// # Errors
/// One sentence with flag, value and fix.
pub fn check_path(path: &Path) -> Result<(), String> {
    const FIX: &str = "give a file such as /run/netns/NAME or /proc/PID/ns/net";
    let flag = format!("--netns {}", path.display());
    let namespace = netns::open_path(path).map_err(|error| {
        if matches!(error, NetnsError::NotANamespace(_)) {
            format!("{flag}: not a network namespace: {FIX}")
        } else {
            format!("{flag}: {error}: {FIX}")
        }
    })?;
    not_the_hosts(&namespace, &flag, FIX)
}

fn not_the_hosts(namespace: &OwnedFd, flag: &str, fix: &str) -> Result<(), String> {
    let id = |fd: &OwnedFd| netns::id(fd).map_err(|error| format!("{flag}: {error}"));
    let own = netns::open_current().map_err(|error| format!("{flag}: {error}"))?;
    if id(namespace)? == id(&own)? {
        return Err(format!(
            "{flag}: that is the host's own network namespace: {fix}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_adopted_is_named_by_its_flag() {
        let own = i32::try_from(std::process::id()).unwrap();
        for pid in [0, -5, i32::MAX] {
            let error = check_pid(pid).unwrap_err();
            assert!(error.starts_with(&format!("--pid {pid}: ")), "{error}");
        }
        assert!(check_pid(own).unwrap_err().contains("the host's own"));
        for path in ["/etc/passwd", "/proc/self/ns/mnt"] {
            let error = check_path(Path::new(path)).unwrap_err();
            assert!(
                error.starts_with(&format!("--netns {path}: not a network namespace")),
                "{error}"
            );
        }
        let error = check_path(Path::new("/nonexistent/ns")).unwrap_err();
        assert!(error.starts_with("--netns /nonexistent/ns: "), "{error}");
        assert!(
            check_path(Path::new("/proc/self/ns/net"))
                .unwrap_err()
                .contains("the host's own")
        );
    }
}
