//! The variables of a request, checked before anything is done.
//!
//! A variable that is set to nothing is one that is not set: libcni sets all of them for every verb.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::error::CniError;
use crate::control::names::is_identifier;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn of(text: &str) -> Option<Self> {
        match text {
            "ADD" => Some(Self::Add),
            "CHECK" => Some(Self::Check),
            "DEL" => Some(Self::Del),
            "GC" => Some(Self::Gc),
            "STATUS" => Some(Self::Status),
            "VERSION" => Some(Self::Version),
            _ => None,
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINERID, NETNS, IFNAME],
            Self::Del => &[CONTAINERID, IFNAME],
            Self::Gc | Self::Status => &[PATH],
            Self::Version => &[],
        }
    }
}

pub(super) const COMMAND: &str = "CNI_COMMAND";
pub(super) const CONTAINERID: &str = "CNI_CONTAINERID";
pub(super) const NETNS: &str = "CNI_NETNS";
pub(super) const IFNAME: &str = "CNI_IFNAME";
pub(super) const ARGS: &str = "CNI_ARGS";
pub(super) const PATH: &str = "CNI_PATH";

/// The variables. Those that the verb does not need may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) verb: Verb,
    /// `[A-Za-z0-9][A-Za-z0-9_.-]*`
    pub(super) container: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) interface: String,
    pub(super) path: Vec<PathBuf>,
    /// Not understood yet: what is wrong in it is no reason not to delete.
    pub(super) args: String,
}

impl Environment {
    /// `None`: nobody asks for anything.
    pub(super) fn read(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, CniError> {
        let text = |name: &str| -> Result<String, CniError> {
            let value = variable(name).unwrap_or_default();
            value
                .into_string()
                .map_err(|_| CniError::environment(format!("{name} is not UTF-8")))
        };
        let command = text(COMMAND)?;
        if command.is_empty() {
            return Ok(None);
        }
        let Some(verb) = Verb::of(&command) else {
            let message = format!("unknown CNI_COMMAND: {}", command.escape_debug());
            let details = "give ADD, DEL, CHECK, GC, STATUS or VERSION";
            return Err(CniError::environment(message).details(details));
        };
        let path = variable(PATH).unwrap_or_default();
        let read = Self {
            verb,
            container: text(CONTAINERID)?,
            netns: Some(text(NETNS)?)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            interface: text(IFNAME)?,
            path: std::env::split_paths(&path)
                .filter(|directory| !directory.as_os_str().is_empty())
                .collect(),
            args: text(ARGS)?,
        };
        read.check()?;
        Ok(Some(read))
    }

    fn check(&self) -> Result<(), CniError> {
        let is_set = |name: &str| match name {
            CONTAINERID => !self.container.is_empty(),
            NETNS => self.netns.is_some(),
            IFNAME => !self.interface.is_empty(),
            _ => !self.path.is_empty(),
        };
        let required = self.verb.required().iter();
        let missing: Vec<&str> = required.copied().filter(|name| !is_set(name)).collect();
        if !missing.is_empty() {
            let message = format!("required env variables [{}] missing", missing.join(","));
            return Err(CniError::environment(message));
        }
        match self.verb {
            Verb::Add | Verb::Check => {
                check_container(&self.container)?;
                check_interface(&self.interface)?;
                self.netns.as_deref().map_or(Ok(()), check_netns)
            }
            Verb::Del => {
                check_container(&self.container)?;
                check_interface(&self.interface)
            }
            Verb::Gc | Verb::Status | Verb::Version => Ok(()),
        }
    }
}

pub(super) fn check_container(id: &str) -> Result<(), CniError> {
    if is_identifier(id) {
        return Ok(());
    }
    let shown: String = id.escape_debug().take(100).collect();
    Err(CniError::environment("invalid characters in containerID").details(shown))
}

/// The words of libcni, and what Linux itself does not take for a name or takes for something else.
pub(super) fn check_interface(name: &str) -> Result<(), CniError> {
    let wrong = |message: &str| Err(CniError::environment(message));
    if name.len() > 15 {
        let details = "interface name should be less than 16 characters";
        return Err(CniError::environment("interface name is too long").details(details));
    }
    if matches!(name, "." | "..") {
        return wrong("interface name is . or ..");
    }
    if name.contains(|c: char| "/:".contains(c) || c.is_whitespace()) {
        return wrong("interface name contains / or : or whitespace characters");
    }
    if name.contains(|c: char| c == '%' || c.is_control())
        || matches!(name, "lo" | "all" | "default")
    {
        let message = format!("invalid interface name {:?} in CNI_IFNAME", name);
        return Err(CniError::environment(message).details(
            "give a name without % and control characters that is none of lo, all and default",
        ));
    }
    Ok(())
}

fn check_netns(path: &Path) -> Result<(), CniError> {
    let wrong = |why| {
        let message = format!("invalid CNI_NETNS {path:?}: {why}");
        Err(CniError::environment(message))
    };
    if !path.is_absolute() {
        return wrong("give an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("give a path without ..");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, CniError> {
        Environment::read(|name| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| OsString::from(value))
        })
    }

    const ADD: [(&str, &str); 5] = [
        (COMMAND, "ADD"),
        (CONTAINERID, "abc"),
        (NETNS, "/run/netns/x"),
        (IFNAME, "eth0"),
        (PATH, "/opt/cni/bin::/usr/lib/cni"),
    ];

    /// [`ADD`] with one variable changed.
    fn with(name: &str, value: &str) -> Result<Option<Environment>, CniError> {
        let mut variables = ADD;
        variables
            .iter_mut()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1 = value;
        let variables: Vec<(&str, &str)> = variables.to_vec();
        read(&variables)
    }

    #[test]
    fn variables_are_read() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[(COMMAND, "")]).unwrap(), None);
        let environment = read(&ADD).unwrap().unwrap();
        assert_eq!(environment.verb, Verb::Add);
        assert_eq!(
            environment.path,
            [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]
        );
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let missing = |variables: &[(&str, &str)]| read(variables).unwrap_err().message;
        assert_eq!(
            missing(&[(COMMAND, "ADD"), (IFNAME, "")]),
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
        );
        assert_eq!(
            missing(&[(COMMAND, "DEL")]),
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing"
        );
        assert_eq!(
            missing(&[(COMMAND, "GC"), (CONTAINERID, "")]),
            "required env variables [CNI_PATH] missing"
        );
        let del = [
            (COMMAND, "DEL"),
            (CONTAINERID, "a"),
            (IFNAME, "eth0"),
            (NETNS, ""),
        ];
        assert_eq!(read(&del).unwrap().unwrap().netns, None);
        // As libcni sends it.
        let version = [(COMMAND, "VERSION"), (CONTAINERID, ""), (IFNAME, "dummy")];
        assert!(read(&version).is_ok());
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_words_of_the_stock_plugins() {
        for (name, value, text) in [
            (COMMAND, "FOO", "unknown CNI_COMMAND: FOO"),
            (CONTAINERID, "../x", "invalid characters in containerID"),
            (CONTAINERID, ".x", "invalid characters in containerID"),
            (CONTAINERID, "a b", "invalid characters in containerID"),
            (
                IFNAME,
                "waytoolonginterfacename",
                "interface name is too long",
            ),
            (
                IFNAME,
                "a/b",
                "interface name contains / or : or whitespace characters",
            ),
            (
                IFNAME,
                "a\tb",
                "interface name contains / or : or whitespace characters",
            ),
            (IFNAME, "..", "interface name is . or .."),
            (
                IFNAME,
                "eth%d",
                "invalid interface name \"eth%d\" in CNI_IFNAME",
            ),
            (IFNAME, "lo", "invalid interface name \"lo\" in CNI_IFNAME"),
            (NETNS, "x", "invalid CNI_NETNS \"x\": give an absolute path"),
            (
                NETNS,
                "/run/netns/../../etc/passwd",
                "invalid CNI_NETNS \"/run/netns/../../etc/passwd\": give a path without ..",
            ),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (4, text));
        }
    }
}
