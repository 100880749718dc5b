//! `--driver-opt` of a container's place on a network: the name of its interface there, and sysctls of it.
//!
//! A name is used as it is. A sysctl is written with `IFNAME` for the interface, whose name is not known before it is
//! made: `net.ipv4.conf.IFNAME.log_martians=1`. Options that are not known here are kept and have no effect, as with
//! Docker.

use std::collections::BTreeMap;

use super::names::is_interface_name;

/// `--driver-opt com.docker.network.endpoint.ifname`.
pub const IFNAME: &str = "com.docker.network.endpoint.ifname";
/// `--driver-opt com.docker.network.endpoint.sysctls`.
pub const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Why an option is refused: Docker's words, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointOptionError {
    /// Not an interface name.
    #[error(
        "invalid endpoint settings: invalid {IFNAME} \"{0}\": an interface name has 1 to 15 characters and no space, '/', ':' or '%', and is none of lo, all and default; give another"
    )]
    Interface(String),
    /// Not a sysctl of an interface.
    #[error(
        "invalid endpoint settings: unrecognised network interface sysctl '{0}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
    )]
    Sysctl(String),
    /// A sysctl with which the interface would not be what the network promises.
    #[error(
        "invalid endpoint settings: sysctl '{0}' is set by the network: leave it out of {SYSCTLS}"
    )]
    Ours(String),
}

/// A sysctl of a container's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSysctl {
    /// `ipv4`, `ipv6` or `mpls`.
    pub family: String,
    /// `conf` or `neigh`.
    pub group: String,
    /// Its name below the interface.
    pub parameter: String,
    /// What to write.
    pub value: String,
}

/// The wanted name of the interface; `None`: the network's prefix and a number.
///
/// # Errors
/// For what Linux does not take for a name, or takes for something else.
pub fn interface(
    driver_opts: &BTreeMap<String, String>,
) -> Result<Option<&str>, EndpointOptionError> {
    let Some(name) = driver_opts.get(IFNAME).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if is_interface_name(name) && name != "lo" {
        Ok(Some(name))
    } else {
        let shown = name.escape_debug().to_string();
        Err(EndpointOptionError::Interface(shown))
    }
}

/// The sysctls to write when the interface is there, in the order given.
///
/// # Errors
/// For the first that is not one of the interface's own. (Its name becomes a path, so a slash or a second dot in it is no
/// matter of taste.)
pub fn sysctls(
    driver_opts: &BTreeMap<String, String>,
) -> Result<Vec<InterfaceSysctl>, EndpointOptionError> {
    let Some(list) = driver_opts.get(SYSCTLS).filter(|list| !list.is_empty()) else {
        return Ok(Vec::new());
    };
    list.split(',').map(sysctl).collect()
}

fn sysctl(text: &str) -> Result<InterfaceSysctl, EndpointOptionError> {
    let shown = || text.escape_debug().to_string();
    let unrecognised = || EndpointOptionError::Sysctl(shown());
    let (key, value) = text.split_once('=').ok_or_else(unrecognised)?;
    let word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let parts: Vec<&str> = key.split('.').collect();
    let &["net", protocol, group, "IFNAME" | "ifname", name] = parts.as_slice() else {
        return Err(unrecognised());
    };
    let known = matches!(protocol, "ipv4" | "ipv6" | "mpls") && word(group) && word(name);
    if !known || value.is_empty() || value.chars().any(char::is_control) {
        return Err(unrecognised());
    }
    if (protocol, group, name) == ("ipv6", "conf", "disable_ipv6") {
        return Err(EndpointOptionError::Ours(shown()));
    }
    Ok(InterfaceSysctl {
        family: protocol.to_owned(),
        group: group.to_owned(),
        parameter: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(label: &str, value: &str) -> BTreeMap<String, String> {
        [(label.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn test_endpoint_with_custom_ifname() {
        assert_eq!(interface(&options(IFNAME, "foobar")), Ok(Some("foobar")));
        for none in [options(IFNAME, ""), options("other", "x"), BTreeMap::new()] {
            assert_eq!(interface(&none), Ok(None));
        }
        for bad in [
            "sixteen-letters-",
            "a b",
            "a/b",
            "lo",
            "all",
            "default",
            "..",
            "a\nb",
            "eth%d",
        ] {
            let message = interface(&options(IFNAME, bad)).unwrap_err().to_string();
            let shown = bad.escape_debug();
            assert!(
                message.starts_with(&format!(
                    "invalid endpoint settings: invalid {IFNAME} \"{shown}\": "
                )),
                "{message}"
            );
        }
    }

    #[test]
    fn test_set_endpoint_sysctl() {
        let list = "net.ipv4.conf.IFNAME.accept_redirects=1,net.ipv6.neigh.ifname.mcast_solicit=2,net.mpls.conf.IFNAME.input=1";
        let found = sysctls(&options(SYSCTLS, list)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|it| [&it.family, &it.group, &it.parameter, &it.value].map(String::as_str))
            .collect();
        assert_eq!(
            found,
            [
                ["ipv4", "conf", "accept_redirects", "1"],
                ["ipv6", "neigh", "mcast_solicit", "2"],
                ["mpls", "conf", "input", "1"],
            ]
        );
        assert_eq!(sysctls(&options(SYSCTLS, "")), Ok(Vec::new()));
        assert_eq!(sysctls(&BTreeMap::new()), Ok(Vec::new()));
        for bad in [
            "net.ipv4.conf.eth0.forwarding=1",
            "net.ipv4.conf.IFNAME.forwarding",
            "net.ipv4.conf.IFNAME.forwarding=",
            "net.ipv4.conf.IFNAME=1",
            "net.ipv5.conf.IFNAME.x=1",
            "net.core.conf.IFNAME.x=1",
            "kernel.ipv4.conf.IFNAME.x=1",
            "net.ipv4.conf.IFNAME.x.y=1",
            "net.ipv4.conf.IFNAME.../../kernel/sysrq=1",
            "net.ipv4...IFNAME.x=1",
            "net.ipv4.conf.IFNAME.a/b=1",
            "net.ipv4.conf.IFNAME.x=1\n2",
            "net.ipv4.conf.IFNAME.x=1,",
        ] {
            let message = sysctls(&options(SYSCTLS, bad)).unwrap_err().to_string();
            assert!(
                message.starts_with(
                    "invalid endpoint settings: unrecognised network interface sysctl '"
                ),
                "{bad}: {message}"
            );
            assert!(
                message.ends_with(
                    "'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
                ),
                "{message}"
            );
        }
        assert!(matches!(
            sysctls(&options(SYSCTLS, "net.ipv6.conf.IFNAME.disable_ipv6=0")),
            Err(EndpointOptionError::Ours(_))
        ));
    }
}
