//! Kernel parameters below `/proc/sys`, addressed by path segments so that an interface name with
//! dots (`eth0.100`) needs no escaping.
//!
//! Below `net`, `/proc/sys` shows the network namespace of the *calling thread*; for another one run
//! these functions through [`super::netns::run_in`].
//!
//! **Cost.** The kernel looks a path below `/proc/sys/net` up among those of all namespaces: 0.1 ms
//! with 500 of them. What is done for each of many interfaces is better asked of netlink
//! ([`super::dump::Ipv6Settings`]).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

const ROOT: &str = "/proc/sys";

/// A parameter could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("sysctl {name}: {source}")]
pub struct SysctlError {
    /// The parameter as `sysctl(8)` writes it: dots between segments, `/` for a dot within one.
    pub name: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Reads a parameter, without surrounding white space.
///
/// # Errors
/// It does not exist (`source.kind() == NotFound`), or cannot be read.
pub fn get(segments: &[&str]) -> Result<String, SysctlError> {
    let path = path(segments)?;
    match fs::read_to_string(path) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(SysctlError {
            name: name(segments),
            source,
        }),
    }
}

/// Writes a parameter.
///
/// # Errors
/// It does not exist, is read-only here, or the kernel refuses the value.
pub fn set(segments: &[&str], value: &str) -> Result<(), SysctlError> {
    let path = path(segments)?;
    // Not `fs::write`, whose O_CREAT turns a missing parameter into "permission denied".
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| SysctlError {
            name: name(segments),
            source,
        })
}

/// Writes a parameter only if it has another value; says whether it wrote.
///
/// # Errors
/// As [`get`] and [`set`].
pub fn ensure(segments: &[&str], value: &str) -> Result<bool, SysctlError> {
    if get(segments)? == value {
        return Ok(false);
    }
    set(segments, value)?;
    Ok(true)
}

/// [`ensure`], but a parameter that this kernel does not have (no IPv6, say) is left at that.
///
/// # Errors
/// As [`ensure`], except for a missing parameter.
pub fn ensure_if_present(segments: &[&str], value: &str) -> Result<bool, SysctlError> {
    match ensure(segments, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result,
    }
}

/// [`set`], but a parameter that this kernel does not have is left at that.
///
/// # Errors
/// As [`set`], except for a missing parameter.
pub fn set_if_present(segments: &[&str], value: &str) -> Result<(), SysctlError> {
    match set(segments, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The parameter's name as `sysctl(8)` writes it.
#[must_use]
pub fn name(segments: &[&str]) -> String {
    segments
        .iter()
        .map(|segment| segment.replace('.', "/"))
        .collect::<Vec<_>>()
        .join(".")
}

pub(super) fn path(segments: &[&str]) -> Result<PathBuf, SysctlError> {
    let mut path = PathBuf::from(ROOT);
    for segment in segments {
        if segment.is_empty() || matches!(*segment, "." | "..") || segment.contains(['/', '\0']) {
            let source = io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{segment:?} cannot be part of a parameter's name"),
            );
            return Err(SysctlError {
                name: name(segments),
                source,
            });
        }
        path.push(segment);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_keep_their_dots() {
        let segments = ["net", "ipv4", "conf", "eth0.100", "forwarding"];
        assert_eq!(
            path(&segments).unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
        assert_eq!(name(&segments), "net.ipv4.conf.eth0/100.forwarding");
    }

    #[test]
    fn segments_cannot_leave_the_tree() {
        for bad in ["", ".", "..", "a/b", "/etc", "a\0"] {
            assert!(get(&["net", bad]).is_err(), "{bad:?}");
            assert!(set(&["net", bad], "1").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_name_the_parameter() {
        let error = get(&["net", "ipv4", "conf", "no.such", "forwarding"]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("sysctl net.ipv4.conf.no/such.forwarding: ")
        );
        let error = set(&["net", "no_such_thing"], "1").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert!(!ensure_if_present(&["net", "no_such_thing"], "1").unwrap());
        set_if_present(&["net", "no_such_thing"], "1").unwrap();
    }

    #[test]
    fn values_come_without_white_space() {
        assert_eq!(get(&["kernel", "ostype"]).unwrap(), "Linux");
    }
}
