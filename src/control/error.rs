//! Everything that a decision can answer instead of doing it, and its HTTP status.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::daemon_options::OptionError;
use super::endpoint_options::EndpointOptionError;
use super::files::FileValueError;
use super::ipam::IpamError;
use super::links::LinkError;
use super::mac::MacError;
use super::names::NameError;
use super::network_options::NetworkOptionError;
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
    #[error(
        "invalid {what} {value}: give a number of bits from {least} to {most} (a burst has room for one frame of the network), or no limit"
    )]
    Bandwidth {
        what: &'static str,
        value: u64,
        least: u64,
        most: u64,
    },
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    #[error("Multiple IDs found with provided prefix: {0}: give more digits or the name")]
    AmbiguousPrefix(String),
    #[error("network {0} not found: `tunbridge network ls` lists those that there are")]
    NoSuchNetwork(String),
    #[error(
        "network {query} is ambiguous ({matches} matches found based on ID prefix): give more digits of the id or the name"
    )]
    AmbiguousNetwork { query: String, matches: usize },
    #[error(transparent)]
    NetworkOption(#[from] NetworkOptionError),
    #[error(transparent)]
    EndpointOption(#[from] EndpointOptionError),
    #[error("{0} is a pre-defined network and cannot be removed: leave it, it costs nothing")]
    Predefined(String),
    #[error(
        "error while removing network: network {network} has active endpoints ({users}): stop or disconnect these containers first"
    )]
    ActiveEndpoints { network: String, users: String },
    #[error(
        "error while removing network: network {0} is in use by dockerd: remove it there with `docker network rm`, or use --force if dockerd has gone"
    )]
    SharedNetwork(String),
    #[error(
        "cannot create network bridge ({bridge}): conflicts with network {id} ({network}): networks have overlapping IPv{version}: choose another {flag}, or remove network {network} first"
    )]
    DefaultOverlaps {
        version: u8,
        flag: &'static str,
        bridge: String,
        network: String,
        id: String,
    },
    #[error("network \"{0}\" is specified multiple times: give it once, with all its options")]
    NetworkTwice(String),
    #[error(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode: start it without --network none"
    )]
    PrivateMode,
    #[error(
        "container cannot be disconnected from host network or connected to host network: choose a bridge network"
    )]
    HostNetwork,
    #[error(
        "endpoint with name {container} already exists in network {network}: disconnect it first to change its settings"
    )]
    AlreadyConnected { container: String, network: String },
    #[error(
        "container {container} is not connected to {network}: `tunbridge inspect` shows its networks"
    )]
    NotConnected { container: String, network: String },
    #[error(
        "network-scoped aliases are only supported for user-defined networks: leave the alias out, or make a network with `tunbridge network create`"
    )]
    AliasOnDefault,
    #[error(
        "invalid address {address}: It does not belong to any of this network's subnets (no configured subnet contains IP address {address}): choose one in {}",
        listed(.subnets)
    )]
    AddressOutside {
        address: IpAddr,
        subnets: Vec<IpNet>,
    },
    #[error(
        "invalid address {address}: It does not belong to any of this network's subnets: network {network} has {subnet} now; run `tunbridge network disconnect {network} {container}` and `tunbridge network connect {flag} ADDRESS {network} {container}` with an ADDRESS in {subnet}, or without {flag} for any"
    )]
    AddressGone {
        address: IpAddr,
        flag: &'static str,
        network: String,
        subnet: IpNet,
        container: String,
    },
    #[error(
        "interface {interface} exists already in container {container}: give another com.docker.network.endpoint.ifname"
    )]
    InterfaceInUse {
        interface: String,
        container: String,
    },
    #[error(
        "{interface} of container {id} is on network {network} already: detach it first, or give another interface"
    )]
    EndpointExists {
        interface: String,
        id: String,
        network: String,
    },
    #[error(
        "container {id} is on network {network} already, with {interface}: detach it first, or give another network"
    )]
    NetworkExists {
        interface: String,
        id: String,
        network: String,
    },
    #[error(
        "container {name} was made with its interfaces {was}: placement cannot change, detach them all first"
    )]
    Placement { name: String, was: &'static str },
    #[error("no endpoint of container {0} here: attach it first")]
    NoSuchEndpoint(String),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(
        "could not get container for {0}: No such container: {0}: start it before linking to it"
    )]
    LinkTarget(String),
    #[error("Cannot link to a non running container: /{target} AS {alias}: start {target} first")]
    LinkNotRunning { target: String, alias: String },
    #[error(
        "Cannot link to /{0}, as it does not belong to the default network: put both on one network of your own, names are known there"
    )]
    LinkElsewhere(String),
    #[error(
        "Conflict, cannot remove the default link name of the container: {0} is no link; give --link CONTAINER/ALIAS"
    )]
    DefaultLink(String),
    #[error(
        "container {name} was attached, not run, so there is nothing to start: remove it and attach its process again"
    )]
    NotOurs { name: String },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name: `tunbridge rm -f {name}`, or give another --name"
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
    #[error("container {name} is not running: start it again with `tunbridge start {name}`")]
    NotRunning { name: String },
    #[error("container {name} has already been started")]
    AlreadyStarted { name: String },
    #[error(
        "container {name} does not publish \"{spec}\": `tunbridge port {name}` lists what it publishes, give the value as it was given to -p"
    )]
    NotPublished { name: String, spec: String },
    #[error(
        "no available IPv{family} addresses on this network's address pools: {network} ({id}): {source}"
    )]
    NoAddress {
        family: u8,
        network: String,
        id: String,
        source: IpamError,
    },
    #[error("address pool {0} not found: request one first")]
    NoSuchPool(String),
    #[error("there are {0} leased address pools already: release some of them first")]
    ManyPools(usize),
    #[error(
        "addresses of pre-defined network {0} cannot be leased: make a network with `tunbridge network create`"
    )]
    LeaseOfPredefined(String),
    #[error(
        "network {network} has no IPv{version} subnet: {}",
        if *.version == 6 { "leave --ipv6 out, or make it with --ipv6" } else { "choose a network that has one" }
    )]
    NoSuchFamily { network: String, version: u8 },
    #[error(
        "network {network} has subnet {subnet}, not {wanted}: leave --subnet out, or give the network's"
    )]
    OtherSubnet {
        network: String,
        subnet: IpNet,
        wanted: IpNet,
    },
    #[error(
        "the network's gateway is {gateway}, not {wanted}: leave --gateway out, or give the network's"
    )]
    OtherGateway { gateway: IpAddr, wanted: IpAddr },
    #[error("{0}")]
    Address(IpamError),
    #[error(
        "Address already in use: {address} is taken by container {container}: choose another {} in {subnet}",
        if .address.is_ipv4() { "--ip" } else { "--ip6" }
    )]
    AddressTaken {
        address: IpAddr,
        container: String,
        subnet: IpNet,
    },
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on endpoint {name} ({endpoint}): {source}"
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

fn listed(subnets: &[IpNet]) -> String {
    let texts: Vec<String> = subnets.iter().map(ToString::to_string).collect();
    texts.join(", ")
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
            | Self::Bandwidth { .. }
            | Self::AmbiguousPrefix(_)
            | Self::AmbiguousNetwork { .. }
            | Self::EndpointOption(_)
            | Self::NetworkTwice(_)
            | Self::PrivateMode
            | Self::HostNetwork
            | Self::AliasOnDefault
            | Self::AddressOutside { .. }
            | Self::AddressGone { .. }
            | Self::LeaseOfPredefined(_)
            | Self::NoSuchFamily { .. }
            | Self::OtherSubnet { .. }
            | Self::ManyPools(_)
            | Self::OtherGateway { .. }
            | Self::Link(_)
            // With 404 Docker's client would say that the image is missing (moby#39823).
            | Self::LinkTarget(_)
            | Self::LinkElsewhere(_) => 400,
            Self::NetworkOption(error) => error.http_status(),
            Self::Predefined(_)
            | Self::ActiveEndpoints { .. }
            | Self::SharedNetwork(_)
            | Self::AlreadyConnected { .. } => 403,
            Self::NoSuchContainer(_)
            | Self::NoSuchNetwork(_)
            | Self::NotPublished { .. }
            | Self::NoSuchEndpoint(_)
            | Self::NoSuchPool(_)
            | Self::NotConnected { .. } => 404,
            Self::NameInUse { .. }
            | Self::AddressTaken { .. }
            | Self::MacInUse { .. }
            | Self::InterfaceInUse { .. }
            | Self::EndpointExists { .. }
            | Self::NetworkExists { .. }
            | Self::Placement { .. }
            | Self::LinkNotRunning { .. }
            | Self::DefaultLink(_)
            | Self::DefaultOverlaps { .. }
            | Self::NotOurs { .. }
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
