//! Why a network is not made: Docker's words, then what to do about it.

use ipnet::IpNet;

use crate::control::daemon_options::{MAX_MTU, MIN_MTU, MIN_MTU_IPV6};
use crate::control::ipam::IpamError;
use crate::control::network_options::NDP_PROXY;

/// Why a network is not made: one line with the flag or field and a fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum NetworkOptionError {
    #[error("invalid name: name is empty: give the network a name")]
    EmptyName,
    #[error(
        "invalid name \"{0}\": give the network a name of at most 255 octets without control characters"
    )]
    Name(String),
    #[error(
        "operation is not permitted on predefined {0} network : give the new network another name"
    )]
    Predefined(String),
    #[error(
        "network with name {0} already exists: give another name, or remove that network with `tunbridge network rm {0}`"
    )]
    Exists(String),
    #[error("plugin \"{0}\" not found: leave --driver out, or give --driver bridge")]
    Driver(String),
    #[error(
        "only one instance of \"{0}\" network is allowed: leave --driver out, or give --driver bridge"
    )]
    OneInstance(String),
    #[error("plugin \"{0}\" not found: leave --ipam-driver out, or give --ipam-driver default")]
    IpamDriver(String),
    #[error("ipv4 pool is empty: leave --ipam-driver null out, containers need addresses")]
    EmptyPool,
    #[error("{0} is not done here: leave it out and give the options of the network itself")]
    ConfigNetwork(&'static str),
    #[error("Ingress network can only be global scope network: leave --ingress out")]
    Ingress,
    #[error("cannot create a swarm scoped network when swarm is not active: leave --scope out")]
    SwarmScope,
    #[error("invalid scope \"{0}\": leave --scope out, or give --scope local")]
    Scope(String),
    #[error("driver-opt \"{0}\" is not a valid bool: give true or false")]
    NotBool(&'static str),
    #[error("IPv4 or IPv6 must be enabled: leave --ipv4=false out, or add --ipv6")]
    NoFamily,
    #[error(
        "invalid --default-network-opt \"{0}\": give driver, option and value, as in --default-network-opt bridge=com.docker.network.driver.mtu=1400"
    )]
    DefaultOption(String),
    #[error(
        "MTU {0} is too small for IPv6 (in com.docker.network.driver.mtu): use at least {MIN_MTU_IPV6} octets, or leave --ipv6 out"
    )]
    MtuIpv6(u32),
    #[error("failed to parse {label} value: {value} ({problem}): {fix}")]
    Parse {
        label: &'static str,
        value: String,
        problem: String,
        fix: &'static str,
    },
    #[error(
        "invalid MTU number: {0} (in com.docker.network.driver.mtu): use {MIN_MTU} to {MAX_MTU} octets, or 0 for 1500"
    )]
    Mtu(i64),
    #[error("value for option {label} \"{value}\" must be {what}: give {min} to {max}")]
    AdvertiseNumber {
        label: &'static str,
        value: String,
        what: &'static str,
        min: u32,
        max: u32,
    },
    #[error("{label} must be in the range {min} to {max}: {value} is not")]
    AdvertiseRange {
        label: &'static str,
        value: String,
        min: u32,
        max: u32,
    },
    #[error(
        "invalid com.docker.network.bridge.name \"{0}\": an interface name has 1 to 15 characters and no space, '/', ':' or '%'; give another"
    )]
    BridgeName(String),
    #[error(
        "invalid com.docker.network.container_iface_prefix \"{0}\": give at most 12 characters of an interface name, such as eth"
    )]
    Prefix(String),
    #[error(
        "bridge device with non default name {0} must be created manually: com.docker.network.bridge.default_bridge is the network bridge's own, leave it out"
    )]
    DefaultBridge(String),
    #[error(
        "gateway mode 'isolated' can only be used for an internal network: add --internal, or choose another {0}"
    )]
    Isolated(&'static str),
    #[error("invalid network config: invalid {what} {value}: {problem}; give it as in {example}")]
    Text {
        what: String,
        value: String,
        problem: String,
        example: &'static str,
    },
    #[error("every ip-range or gateway must have a corresponding subnet: give --subnet, too")]
    NoSubnet,
    #[error("bridge driver doesn't support multiple subnets: give one --subnet per address family")]
    MultipleSubnets,
    #[error(
        "invalid address subpool: {0} stands for any subnet of that size, so --ip-range, --gateway and --aux-address cannot be in it; give a --subnet of your own"
    )]
    SubPool(IpNet),
    #[error(
        "invalid network config: invalid {what}: parent subnet is an IPv{version} block: choose an address in {subnet}, or give it a --subnet of its own"
    )]
    Family {
        what: String,
        version: u8,
        subnet: IpNet,
    },
    #[error("invalid network config: {0}")]
    Ipam(IpamError),
    #[error(
        "invalid network config: invalid subnet {subnet}: not a subnet for containers; choose a unicast one such as {}", example(*subnet)
    )]
    Special { subnet: IpNet },
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: --subnet {subnet} overlaps {other} of network {network}; {}",
        suggest(*free)
    )]
    PoolOverlap {
        subnet: IpNet,
        other: IpNet,
        network: String,
        free: Option<IpNet>,
    },
    #[error(
        "--subnet {subnet} overlaps the host's route {route} (dev {device}): {}{}",
        proxy(.device, *.part_of_link),
        suggest(*free)
    )]
    HostOverlap {
        subnet: IpNet,
        route: IpNet,
        device: String,
        part_of_link: bool,
        free: Option<IpNet>,
    },
    #[error(
        "cannot create network {id} ({bridge}): conflicts with network {other} ({bridge}): networks have same bridge name: give another com.docker.network.bridge.name"
    )]
    SameBridge {
        id: String,
        bridge: String,
        other: String,
    },
    #[error(
        "all predefined address pools have been fully subnetted: remove networks with `tunbridge network prune`, or choose a subnet with --subnet"
    )]
    NoPool,
    #[error(
        "invalid address pool: no default pool can be split into subnets of prefix length {0}; choose a subnet with --subnet"
    )]
    PoolSize(u8),
}

/// The way to have a part of an uplink's prefix.
fn proxy(device: &str, part_of_link: bool) -> String {
    if part_of_link {
        format!("give -o {NDP_PROXY}={device}, too, for a part of that link's prefix; else ")
    } else {
        String::new()
    }
}

fn suggest(free: Option<IpNet>) -> String {
    match free {
        Some(free) => format!("the next free one is --subnet {free}"),
        None => "all predefined address pools have been fully subnetted, choose another".to_owned(),
    }
}

fn example(subnet: IpNet) -> &'static str {
    if subnet.addr().is_ipv4() {
        "10.99.0.0/24"
    } else {
        "2001:db8:1::/64"
    }
}

impl NetworkOptionError {
    /// The HTTP status of the answer; Docker's, except that a bad value is always 400.
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Predefined(_)
            | Self::OneInstance(_)
            | Self::Ingress
            | Self::SwarmScope
            | Self::MultipleSubnets
            | Self::PoolOverlap { .. }
            | Self::HostOverlap { .. }
            | Self::SameBridge { .. } => 403,
            Self::Driver(_) | Self::IpamDriver(_) => 404,
            Self::Exists(_) => 409,
            Self::ConfigNetwork(_) => 501,
            Self::DefaultOption(_) => 400,
            Self::EmptyName
            | Self::Name(_)
            | Self::EmptyPool
            | Self::Scope(_)
            | Self::NotBool(_)
            | Self::NoFamily
            | Self::Parse { .. }
            | Self::Mtu(_)
            | Self::AdvertiseNumber { .. }
            | Self::AdvertiseRange { .. }
            | Self::BridgeName(_)
            | Self::Prefix(_)
            | Self::DefaultBridge(_)
            | Self::Isolated(_)
            | Self::MtuIpv6(_)
            | Self::Family { .. }
            | Self::Text { .. }
            | Self::NoSubnet
            | Self::SubPool(_)
            | Self::Ipam(_)
            | Self::Special { .. }
            | Self::NoPool
            | Self::PoolSize(_) => 400,
        }
    }
}
