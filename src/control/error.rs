//! Everything that a decision can answer instead of doing it, and its HTTP status.

use std::io;

use super::daemon_options::OptionError;
use super::files::FileValueError;
use super::ipam::IpamError;
use super::mac::MacError;
use super::names::NameError;
use super::port_allocator::PortError;
use super::portspec::PortSpecError;
use super::store::StoreError;

/// Why a request was not carried out; `Display` is one line for the user, Docker's words where it has some.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum ControlError {
    #[error(transparent)]
    PortSpec(#[from] PortSpecError),
    #[error(transparent)]
    Mac(#[from] MacError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    FileValue(#[from] FileValueError),
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error("invalid {flag} \"{value}\": {problem}")]
    Invalid {
        flag: &'static str,
        value: String,
        problem: &'static str,
    },
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("Multiple IDs found with provided prefix: {0}: give more digits or the name")]
    AmbiguousPrefix(String),
    #[error("network {0} not found: leave --network out, or give --network bridge")]
    NoSuchNetwork(String),
    #[error("network {0} is ambiguous: give more digits of the id or the name")]
    AmbiguousNetwork(String),
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name: `tunbridge rm {name}`, or give another --name"
    )]
    NameInUse { name: String, id: String },
    #[error(
        "Conflict. The mac address {mac} is already in use by {owner}: give another --mac-address"
    )]
    MacInUse { mac: String, owner: String },
    #[error(
        "cannot remove container \"/{name}\": container is running: stop the container before removing or force remove (`tunbridge rm -f {name}`)"
    )]
    StillRunning { name: String },
    #[error(
        "container {name} is not running: its network is gone; start a new one with `tunbridge run`"
    )]
    NotRunning { name: String },
    #[error("container {name} has already been started")]
    AlreadyStarted { name: String },
    #[error(
        "container {name} does not publish \"{spec}\": `tunbridge port {name}` lists what it publishes, give the value as it was given to -p"
    )]
    NotPublished { name: String, spec: String },
    #[error(
        "no available IPv4 addresses on this network's address pools: {network} ({id}): {source}"
    )]
    NoAddress {
        network: String,
        id: String,
        source: IpamError,
    },
    #[error("{0}")]
    Address(IpamError),
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({endpoint}): {source}"
    )]
    Ports {
        name: String,
        endpoint: String,
        source: PortError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read random numbers from /dev/urandom: {0}")]
    Random(io::Error),
}

impl ControlError {
    /// The HTTP status of the answer.
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::PortSpec(_)
            | Self::Mac(_)
            | Self::Name(_)
            | Self::FileValue(_)
            | Self::Option(_)
            | Self::Invalid { .. }
            | Self::AmbiguousPrefix(_)
            | Self::AmbiguousNetwork(_) => 400,
            Self::NoSuchContainer(_) | Self::NoSuchNetwork(_) | Self::NotPublished { .. } => 404,
            Self::NameInUse { .. }
            | Self::MacInUse { .. }
            | Self::StillRunning { .. }
            | Self::NotRunning { .. }
            | Self::AlreadyStarted { .. } => 409,
            Self::Address(IpamError::InUse { .. }) => 409,
            Self::Address(_) => 400,
            Self::Ports {
                source: PortError::Ipv6 { .. },
                ..
            } => 400,
            // Docker answers 500 where the network could not be set up.
            Self::NoAddress { .. } | Self::Ports { .. } | Self::Store(_) | Self::Random(_) => 500,
        }
    }
}
