//! The text of a container's /etc/hosts, /etc/hostname and /etc/resolv.conf.
//!
//! Only text: the daemon writes it, the sandbox mounts it. What users give (`--add-host`, `--dns…`) is
//! checked here, because a newline or blank in it would become a line or field of its own.
//!
//! The files of a running container are bind mounts, so they are written in place, and programs in the container may
//! have edited them. In /etc/hosts only lines that are exactly ours are changed ([`edit_hosts`]); a resolv.conf that is not
//! as it was written ([`Fingerprint`]) is left alone.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod fingerprint;
mod hosts;
mod resolv_conf;

pub use fingerprint::Fingerprint;
pub use hosts::{HostsLine, edit_hosts, extra_lines, hosts, own_lines};
pub use resolv_conf::{
    InternalResolvConf, NameServer, RESOLV_CONF, SYSTEMD_RESOLV_CONF, internal_resolv_conf,
    name_servers, resolv_conf, resolv_conf_source, words,
};

/// `--dns`, `--dns-search`, `--dns-option`: of a container, or the daemon's for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSettings {
    /// Replace the host's name servers if there is one.
    pub servers: Vec<IpAddr>,
    /// Replace the host's search list if there is one; a single `.` means an empty list.
    pub search: Vec<String>,
    /// Replace the host's options if there is one.
    pub options: Vec<String>,
}

/// An `--add-host` value: `name:address`, `name=address` or `name:host-gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// Host name.
    pub name: String,
    /// Its address; `None` is `host-gateway`.
    pub address: Option<IpAddr>,
}

/// Why a value for one of the files is refused: one line with flag, value and fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileValueError {
    /// Not `name:address`.
    #[error(
        "bad format for add-host: \"{0}\": give --add-host a name and an address, as in db:10.9.8.7"
    )]
    AddHostFormat(String),
    /// The part after the name is no address.
    #[error(
        "invalid IP address in add-host: \"{address}\" (in --add-host \"{value}\"): give an IP address or host-gateway"
    )]
    AddHostAddress {
        /// As given.
        value: String,
        /// Its address part.
        address: String,
    },
    /// Not a domain.
    #[error(
        "{0} is not a valid domain: give --dns-search a domain such as corp.example, or . for none"
    )]
    Search(String),
    /// Not a resolver option.
    #[error("invalid DNS option \"{0}\": give --dns-option one word such as ndots:2")]
    Option(String),
}

impl DnsSettings {
    /// Checks what goes into the file as text.
    ///
    /// # Errors
    /// For a search domain or option that is not a single word.
    pub fn validate(&self) -> Result<(), FileValueError> {
        let word = |text: &str| {
            (1..=253).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'#' && b != b';')
        };
        if let Some(bad) = self
            .search
            .iter()
            .find(|domain| *domain != "." && !is_host_name(domain))
        {
            return Err(FileValueError::Search(bad.escape_debug().to_string()));
        }
        if let Some(bad) = self.options.iter().find(|option| !word(option)) {
            return Err(FileValueError::Option(bad.escape_debug().to_string()));
        }
        Ok(())
    }

    /// What is given here, and `daemon`'s settings for what is not.
    #[must_use]
    pub fn or(&self, daemon: &Self) -> Self {
        let pick = |own: &Vec<String>, theirs: &Vec<String>| {
            if own.is_empty() {
                theirs.clone()
            } else {
                own.clone()
            }
        };
        Self {
            servers: if self.servers.is_empty() {
                daemon.servers.clone()
            } else {
                self.servers.clone()
            },
            search: pick(&self.search, &daemon.search),
            options: pick(&self.options, &daemon.options),
        }
    }
}

impl FromStr for ExtraHost {
    type Err = FileValueError;

    fn from_str(value: &str) -> Result<Self, FileValueError> {
        let split = value.split_once('=').or_else(|| value.split_once(':'));
        let (name, address) = split
            .filter(|(name, address)| is_host_name(name) && !address.is_empty())
            .ok_or_else(|| FileValueError::AddHostFormat(value.escape_debug().to_string()))?;
        if address == "host-gateway" {
            return Ok(Self {
                name: name.to_owned(),
                address: None,
            });
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        let address = bare.parse().map_err(|_| FileValueError::AddHostAddress {
            value: value.escape_debug().to_string(),
            address: address.escape_debug().to_string(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            address: Some(address),
        })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:host-gateway", self.name),
        }
    }
}

/// What may stand in a line of /etc/hosts as a name.
pub(super) fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// /etc/hostname.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

#[cfg(test)]
mod tests;
