//! What is stored about networks and containers.
//!
//! A record says what was asked for and what was allocated. It is written before anything is done in
//! the kernel, so that after a crash everything that could exist can be found and removed. Values are
//! JSON with [`RECORD_VERSION`] beside them (see `store`); new fields need `#[serde(default)]`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::files::{DnsSettings, ExtraHost};
use super::mac::MacAddress;
use super::names;
pub use super::network_config::{
    Advertise, FamilyConfig, GatewayMode, Ipv6Allocation, NetworkConfig,
};
use super::port_holder::Claim;
use super::timestamp::Timestamp;
use super::transport::Transport;
use crate::api::types::{Bandwidth, Runtime};

/// Version of the records' meaning. A store with a higher one is refused, one with a lower one is brought up to
/// this (see `store`).
pub const RECORD_VERSION: u32 = 5;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// For the forwarder; never used again. 0 for `host` and `none`.
    pub number: u32,
    /// `bridge` for the default one.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// `bridge`; `host` and `null` for the two predefined ones without a bridge.
    pub driver: String,
    /// `--label`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `--opt` as given, for `inspect`; what they mean is in `config`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// `--attachable`; without meaning for local networks.
    #[serde(default)]
    pub attachable: bool,
    /// Bridge interface, addresses, MTU, switches.
    pub config: NetworkConfig,
    /// MAC of the bridge; random, and kept while the network lives.
    pub bridge_mac: MacAddress,
}

/// Numbers that must never be given out twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Last network number.
    pub network: u32,
    /// Last endpoint number.
    pub endpoint: u32,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without Docker's leading `/`.
    pub name: String,
    /// Of its UTS namespace, and in its /etc/hosts.
    pub hostname: String,
    /// `--domainname`; empty: none.
    #[serde(default)]
    pub domainname: String,
    /// When it was made.
    pub created: Timestamp,
    /// Command line.
    pub command: Vec<String>,
    /// `K=V`, as given with `-e`.
    pub env: Vec<String>,
    /// Ours, or somebody else's namespace.
    pub kind: Kind,
    /// Whose it is, if another runtime called us for it: what it has lasts from its first endpoint to its last.
    #[serde(default)]
    pub runtime: Option<RuntimeContainer>,
    /// `--rootfs`.
    pub rootfs: Option<PathBuf>,
    /// `--rm`.
    pub auto_remove: bool,
    /// Where the network namespace is visible; empty for [`Kind::Delegated`].
    pub netns: PathBuf,
    /// Directory with its hosts, hostname and resolv.conf; empty where another runtime makes these.
    pub files: PathBuf,
    /// Docker's `SandboxID`.
    pub sandbox_id: String,
    /// `HostConfig.NetworkMode`: the network as given at its creation, or `default`.
    #[serde(default = "default_mode")]
    pub network_mode: String,
    /// Networks it is on, in the order of the flags and then of `network connect`; running or not.
    pub attachments: Vec<Attachment>,
    /// `-p` values; `publish` and `unpublish` change them.
    pub publish: Vec<String>,
    /// `-P`.
    pub publish_all: bool,
    /// `--expose` ports.
    pub expose: Vec<ExposedPorts>,
    /// Host ports that it has now, all for its gateway endpoint; empty once it has stopped.
    pub bindings: Vec<PortBinding>,
    /// `--dns…`.
    pub dns: DnsSettings,
    /// `--add-host`.
    pub extra_hosts: Vec<ExtraHost>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// How it ended, while it is being started again.
    #[serde(default)]
    pub former_exit: Option<FormerExit>,
}

fn default_mode() -> String {
    "default".to_owned()
}

/// The end of a container's former life, for when it cannot be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerExit {
    /// Exit code.
    pub code: i32,
    /// When it had started, if it ever did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
}

/// Whose network namespace a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `run`: one that the daemon made.
    Run,
    /// `attach --pid`: that of a process.
    AttachPid(i32),
    /// `attach --netns`: the one behind a path.
    AttachNetns(PathBuf),
    /// One that another runtime has handed over.
    Adopted,
    /// None that we know: another runtime takes the interface from the host's and sets it up.
    Delegated,
}

/// A container as another runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeContainer {
    /// By which door it came.
    pub runtime: Runtime,
    /// The runtime's id.
    pub id: String,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Network made, process not started yet.
    Created,
    /// Its process runs.
    Running {
        /// The process to watch; `None` for an adopted namespace path.
        process: Option<Process>,
        /// Since when.
        started: Timestamp,
    },
    /// Its process has ended; it has no network any more.
    Exited {
        /// Exit code, 128 + signal number if a signal ended it.
        code: i32,
        /// When it had started, if it ever did.
        started: Option<Timestamp>,
        /// When that was.
        finished: Timestamp,
    },
}

/// A process, safe against reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the daemon's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// A container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Id of the network.
    pub network: String,
    /// Name of the network.
    pub network_name: String,
    /// `--ip` and `--ip6`, at most one per family.
    #[serde(default)]
    pub requested_addresses: Vec<IpAddr>,
    /// `--mac-address`.
    pub requested_mac: Option<MacAddress>,
    /// `--network-alias`, as given.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `--link` on this network, in the order of the flags.
    #[serde(default)]
    pub links: Vec<Link>,
    /// `--driver-opt`, as given.
    #[serde(default)]
    pub driver_opts: BTreeMap<String, String>,
    /// `--gw-priority`; the highest makes the default gateway.
    #[serde(default)]
    pub gw_priority: i64,
    /// Wanted name of the interface (`com.docker.network.endpoint.ifname`).
    #[serde(default)]
    pub requested_interface: Option<String>,
    /// Another runtime asked for it: the container lasts while there is one of these.
    #[serde(default)]
    pub of_runtime: bool,
    /// On whose behalf the runtime asked.
    #[serde(default)]
    pub owner: Option<String>,
    /// The network may make the container's default route.
    #[serde(default = "yes")]
    pub default_route: bool,
    /// How fast it may send and receive.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// What it has there; `None` once the container has stopped.
    pub endpoint: Option<Endpoint>,
}

const fn yes() -> bool {
    true
}

/// Another name for a container, known to one container only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// On the default network the container's id; elsewhere its name or id as given, looked up at every use,
    /// because it need not exist yet.
    pub target: String,
    /// The other name.
    pub alias: String,
}

/// An interface on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// For the forwarder; never used again.
    pub number: u32,
    /// Its addresses with the network's prefix length, at most one per family.
    pub addresses: Vec<IpNet>,
    /// Gateways for a default route, at most one per family; none on an internal network.
    pub gateways: Vec<IpAddr>,
    /// Of the container's interface.
    pub mac: MacAddress,
    /// Name of the host's end of the veth pair.
    pub host_interface: String,
    /// Name of the container's interface.
    #[serde(default = "first_interface")]
    pub interface: String,
    /// The interface is still to be given its present IPv6: what it had before.
    #[serde(default)]
    pub former_ipv6: Option<FormerIpv6>,
}

/// IPv6 that an interface may still have, because its network has got another prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerIpv6 {
    /// The oldest first.
    pub addresses: Vec<IpNet>,
    /// Routers of its default route, the oldest first.
    pub gateways: Vec<IpAddr>,
}

fn first_interface() -> String {
    "eth0".to_owned()
}

/// Consecutive ports that are published, or a single one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The `-p` value behind it; for `-P` the exposed port, `80/tcp`.
    pub spec: String,
    /// TCP or UDP.
    pub transport: Transport,
    /// Host address; unspecified: all of its family.
    pub host_address: IpAddr,
    /// First port on the host.
    pub host_port: u16,
    /// First port in the container.
    pub container_port: u16,
    /// How many ports; at least 1.
    pub count: u16,
}

impl RuntimeContainer {
    /// How it came here.
    pub const fn door(&self) -> &'static str {
        match self.runtime {
            Runtime::Cni => "CNI",
            Runtime::Oci => "OCI hook",
            Runtime::Docker => "docker",
        }
    }
}

impl fmt::Display for RuntimeContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = match names::is_id(&self.id) {
            true => names::short_id(&self.id),
            false => &self.id,
        };
        write!(f, "{} {id}", self.door())
    }
}

impl PortBinding {
    /// Last port on the host.
    pub const fn last_host_port(&self) -> u16 {
        self.host_port.saturating_add(self.count.saturating_sub(1))
    }

    /// Each (host port, container port).
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, container) = (self.host_port, self.container_port);
        (0..self.count).map(move |i| (host.saturating_add(i), container.saturating_add(i)))
    }

    /// Joins `next` if it goes on where this ends, in both port spaces.
    pub fn extend(&mut self, next: &Self) -> bool {
        let follows = self.spec == next.spec
            && self.transport == next.transport
            && self.host_address == next.host_address
            && self.host_port.checked_add(self.count) == Some(next.host_port)
            && self.container_port.checked_add(self.count) == Some(next.container_port);
        match self.count.checked_add(next.count) {
            Some(count) if follows => {
                self.count = count;
                true
            }
            _ => false,
        }
    }
}

/// `--expose` ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPorts {
    /// TCP or UDP.
    pub transport: Transport,
    /// First one.
    pub first: u16,
    /// Last one.
    pub last: u16,
}

impl Container {
    /// Its interface on the first network where it has one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints().next().map(|(_, endpoint)| endpoint)
    }

    /// Its interfaces and where they are.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Attachment, &Endpoint)> {
        self.attachments
            .iter()
            .filter_map(|attachment| Some((attachment, attachment.endpoint.as_ref()?)))
    }

    /// Its place on the network with this id.
    pub fn attachment(&self, network: &str) -> Option<&Attachment> {
        self.attachments
            .iter()
            .find(|attachment| attachment.network == network)
    }

    /// True between [`ContainerState::Created`] and [`ContainerState::Exited`].
    pub const fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// Another runtime takes its interfaces from the host's namespace: what is in the container is not ours to see.
    pub const fn is_delegated(&self) -> bool {
        matches!(self.kind, Kind::Delegated)
    }

    /// How its host ports are kept from others.
    pub fn claim(&self) -> Claim<'_> {
        match &self.runtime {
            Some(known) if known.runtime == Runtime::Cni => Claim::Check(&known.id),
            _ => Claim::Hold,
        }
    }

    /// True once it has ended: it has no namespace, interfaces, addresses or ports.
    pub const fn has_exited(&self) -> bool {
        matches!(self.state, ContainerState::Exited { .. })
    }
}

impl Attachment {
    /// The address of a family that was asked for.
    pub fn requested_address(&self, ipv4: bool) -> Option<IpAddr> {
        let mut addresses = self.requested_addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == ipv4)
    }
}

impl Endpoint {
    /// Its address of a family, with the network's prefix length.
    pub fn address(&self, ipv4: bool) -> Option<IpNet> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|net| net.addr().is_ipv4() == ipv4)
    }

    /// Its gateway of a family.
    pub fn gateway(&self, ipv4: bool) -> Option<IpAddr> {
        let mut gateways = self.gateways.iter().copied();
        gateways.find(|gateway| gateway.is_ipv4() == ipv4)
    }
}

impl Network {
    /// Its IPv4 part.
    pub fn v4(&self) -> Option<&FamilyConfig> {
        self.config.v4()
    }

    /// Its subnets, at most one per family.
    pub fn subnets(&self) -> Vec<IpNet> {
        let families = self.config.families.iter();
        families.map(|family| family.subnet).collect()
    }

    /// Has a bridge: neither `host` nor `none`.
    pub fn is_bridge(&self) -> bool {
        self.driver == BRIDGE_DRIVER
    }
}

/// The one driver that makes something.
pub const BRIDGE_DRIVER: &str = "bridge";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_join_only_where_both_ends_go_on() {
        let binding = |host_port, container_port, count| PortBinding {
            spec: "s".into(),
            transport: Transport::Tcp,
            host_address: [0, 0, 0, 0].into(),
            host_port,
            container_port,
            count,
        };
        let mut joined = binding(8000, 80, 2);
        assert!(joined.extend(&binding(8002, 82, 3)));
        assert_eq!((joined.count, joined.last_host_port()), (5, 8004));
        assert!(!joined.extend(&binding(8005, 86, 1)));
        assert!(!joined.extend(&binding(8006, 85, 1)));
        assert!(!joined.extend(&PortBinding {
            transport: Transport::Udp,
            ..binding(8005, 85, 1)
        }));
        let mut last = binding(65_535, 65_535, 1);
        assert!(!last.extend(&binding(0, 0, 1)));
        assert_eq!(last.pairs().collect::<Vec<_>>(), [(65_535, 65_535)]);
    }
}
