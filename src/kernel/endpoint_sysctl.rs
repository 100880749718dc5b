//! Docker's endpoint option `com.docker.network.endpoint.sysctls`: parameters of one interface inside a
//! container, whose name is not known when they are given. `net.ipv4.conf.IFNAME.log_martians=1` is
//! written for `eth1` to `/proc/sys/net/ipv4/conf/eth1/log_martians`, before the interface comes up.
//!
//! The texts are Docker's, `libnetwork/osl/interface_linux.go` and `daemon/container_operations.go`.

use std::fs;
use std::io;

use super::sysctl;

/// A parameter of an interface that has no name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSysctl {
    /// `ipv4`, `ipv6` or `mpls`.
    family: String,
    /// `conf`, `neigh`.
    group: String,
    parameter: String,
    value: String,
}

/// Why a parameter cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum EndpointSysctlError {
    /// It lacks the `=`.
    #[error("expected sysctl '{0}' to have format name=value")]
    NoValue(String),
    /// The parameter's name has a dot.
    #[error("expected sysctl '{0}' to have format net.X.Y.IFNAME.Z")]
    Format(String),
    /// It is not one of an interface, or names one.
    #[error(
        "unrecognised network interface sysctl '{0}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
    )]
    Unrecognised(String),
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
    /// Reads the option's value, a list with commas. The CLI makes `IFNAME` lower case, so both serve.
    ///
    /// # Errors
    /// The first item that is none.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, EndpointSysctlError> {
        list.split(',').map(Self::parse).collect()
    }

    fn parse(item: &str) -> Result<Self, EndpointSysctlError> {
        let unrecognised = || EndpointSysctlError::Unrecognised(item.to_owned());
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (item, None),
        };
        let mut segments = name.splitn(5, '.');
        let mut next = || segments.next().ok_or_else(unrecognised);
        let (root, family, group) = (next()?, next()?, next()?);
        let (interface, parameter) = (next()?, next()?);
        if root != "net"
            || !matches!(family, "ipv4" | "ipv6" | "mpls")
            || !matches!(interface, "IFNAME" | "ifname")
        {
            return Err(unrecognised());
        }
        let value = value.ok_or_else(|| EndpointSysctlError::NoValue(item.to_owned()))?;
        if parameter.contains('.') {
            return Err(EndpointSysctlError::Format(item.to_owned()));
        }
        Ok(Self {
            family: family.to_owned(),
            group: group.to_owned(),
            parameter: parameter.to_owned(),
            value: value.to_owned(),
        })
    }

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
    fn lists_are_read() {
        let list = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.ifname.x=a.b=c";
        let read = EndpointSysctl::parse_list(list).unwrap();
        let values: Vec<[&str; 4]> = read
            .iter()
            .map(|s| [&s.family, &s.group, &s.parameter, &s.value].map(String::as_str))
            .collect();
        assert_eq!(
            values,
            [
                ["ipv4", "conf", "log_martians", "1"],
                ["ipv6", "neigh", "x", "a.b=c"]
            ]
        );
    }

    #[test]
    fn what_is_none_is_refused_in_dockers_words() {
        let unrecognised = |item: &str| {
            format!(
                "unrecognised network interface sysctl '{item}'; represent 'net.X.Y.ethN.Z=V' as \
                 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        };
        for (item, text) in [
            ("net.ipv4.conf.eth0.log_martians=1", None),
            ("net.unix.conf.IFNAME.x=1", None),
            ("kernel.ipv4.conf.IFNAME.x=1", None),
            ("net.ipv4.ip_forward=1", None),
            ("", None),
            (
                "net.ipv4.conf.IFNAME.log_martians",
                Some(
                    "expected sysctl 'net.ipv4.conf.IFNAME.log_martians' to have format name=value",
                ),
            ),
            (
                "net.ipv4.conf.IFNAME.a.b=1",
                Some(
                    "expected sysctl 'net.ipv4.conf.IFNAME.a.b=1' to have format net.X.Y.IFNAME.Z",
                ),
            ),
        ] {
            let error = EndpointSysctl::parse_list(&format!("net.ipv4.conf.IFNAME.ok=1,{item}"))
                .unwrap_err();
            let text = text.map_or_else(|| unrecognised(item), str::to_owned);
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn parameters_cannot_leave_the_tree() {
        for item in [
            "net.ipv4.conf.IFNAME.x/../../../../kernel/hostname=x",
            "net.ipv4.../x.IFNAME.y=1",
            "net.ipv4.conf.IFNAME.=1",
            "net.ipv4.conf.IFNAME.no_such_thing=1",
        ] {
            match EndpointSysctl::parse_list(item) {
                Ok(read) => {
                    let error = read[0].apply("lo").unwrap_err();
                    assert!(
                        error.to_string().ends_with(" is not a sysctl file"),
                        "{error}"
                    );
                }
                Err(error) => assert!(error.to_string().contains("sysctl '"), "{error}"),
            }
        }
    }
}
