//! Docker's endpoint option `com.docker.network.endpoint.sysctls`: parameters of one interface inside a
//! container, whose name is not known when they are given. `net.ipv4.conf.IFNAME.log_martians=1` is
//! written for `eth1` to `/proc/sys/net/ipv4/conf/eth1/log_martians`, before the interface comes up.
//!
//! The texts are Docker's, `libnetwork/osl/interface_linux.go`. What users write is read by the control plane.

use std::fs;
use std::io;

use super::sysctl;

/// A parameter of an interface that has no name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSysctl {
    /// `ipv4`, `ipv6` or `mpls`.
    pub family: String,
    /// `conf`, `neigh`.
    pub group: String,
    /// Its name below the interface.
    pub parameter: String,
    /// What to write.
    pub value: String,
}

/// Why a parameter cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum EndpointSysctlError {
    /// This kernel does not have it.
    #[error("{0} is not a sysctl file")]
    Missing(String),
    /// The present value cannot be read.
    #[error("unable to read '{path}': {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses the value, or `/proc/sys` is read-only.
    #[error("unable to write to '{path}': {source}")]
    Write {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl EndpointSysctl {
    /// Sets it for an interface of the calling thread's namespace. What has the value already is not
    /// written, because `/proc/sys` may be read-only.
    pub(super) fn apply(&self, interface: &str) -> Result<(), EndpointSysctlError> {
        let segments = ["net", &self.family, &self.group, interface, &self.parameter];
        let file = format!("/proc/sys/{}", segments.join("/"));
        let missing = || EndpointSysctlError::Missing(file.clone());
        let path = sysctl::path(&segments).map_err(|_| missing())?;
        if !fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Err(missing());
        }
        let present = sysctl::get(&segments).map_err(|error| EndpointSysctlError::Read {
            path: file.clone(),
            source: error.source,
        })?;
        if present == self.value {
            return Ok(());
        }
        sysctl::set(&segments, &self.value).map_err(|error| EndpointSysctlError::Write {
            path: file,
            source: error.source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_cannot_leave_the_tree() {
        for (family, group, parameter) in [
            ("ipv4", "conf", "x/../../../../kernel/hostname"),
            ("ipv4", "../x", "y"),
            ("ipv4", "conf", ""),
            ("ipv4", "conf", "no_such_thing"),
        ] {
            let sysctl = EndpointSysctl {
                family: family.to_owned(),
                group: group.to_owned(),
                parameter: parameter.to_owned(),
                value: "1".to_owned(),
            };
            let error = sysctl.apply("lo").unwrap_err().to_string();
            assert!(error.ends_with(" is not a sysctl file"), "{error}");
        }
    }
}
