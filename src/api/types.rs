//! Bodies of requests: our own (`/tunbridge/…`) here, Docker's in [`docker`]. Docker's longer answers are built
//! in `control::inspect`.

mod docker;
mod pools;
mod runtime;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use docker::{
    ConfigReference, ConnectNetwork, CreateNetwork, CreatedNetwork, DisconnectNetwork,
    EndpointAddresses, EndpointSettings, Ipam, IpamPool, PrunedNetworks, WARNING,
};
pub(crate) use docker::{is_default, or_default};
pub use pools::{
    CNI_NETWORK, ChangeLabels, DOCKER_NETWORK, LEASED_POOLS, Lease, LeasedAddress, LeasedPool,
    NameEndpoint, NamedEndpoint, PublishEndpoint, ReleaseAddress, RequestAddress,
    RequestLeasedPool,
};
pub use runtime::{
    AddressRange, AttachEndpoint, AttachedEndpoint, Bandwidth, CollectEndpoints, EndpointReference,
    HostIdentity, Interface, LimitEndpoint, Placement, RateLimit, Runtime,
};

use super::filters::Filters;

/// Version of our own API, part of `GET /version`.
pub const API_VERSION: u32 = 1;

/// `POST /tunbridge/containers`: make a container and its network, before its process runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateContainer {
    /// `--name`; the daemon invents one if absent.
    pub name: Option<String>,
    /// `--network`, in the order given; none: the default network.
    pub networks: Vec<NetworkAttachment>,
    /// `--link` values as given.
    pub links: Vec<String>,
    /// `-p` values as given.
    pub publish: Vec<String>,
    /// `-P`: publish every exposed port.
    pub publish_all: bool,
    /// `--expose` values as given.
    pub expose: Vec<String>,
    /// `--hostname`; default: the first 12 digits of the id.
    pub hostname: Option<String>,
    /// `--domainname`.
    pub domainname: Option<String>,
    /// `--add-host` values as given.
    pub add_host: Vec<String>,
    /// `--dns`.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_option: Vec<String>,
    /// `-e` values, `K=V`.
    pub env: Vec<String>,
    /// `--rm`.
    pub auto_remove: bool,
    /// Command line, for `ps` and `inspect`.
    pub command: Vec<String>,
    /// `--rootfs`, absolute.
    #[schema(value_type = Option<String>)]
    pub rootfs: Option<PathBuf>,
    /// `attach --pid`: adopt the namespace of this process.
    pub attach_pid: Option<i32>,
    /// `attach --netns`: adopt the namespace behind this path.
    #[schema(value_type = Option<String>)]
    pub attach_netns: Option<PathBuf>,
}

/// One network of [`CreateContainer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetworkAttachment {
    /// Name or id; empty: the default network.
    pub network: String,
    /// What is wanted there.
    #[serde(flatten)]
    pub settings: EndpointSettings,
}

/// Answer to [`CreateContainer`]: all that the sandbox needs to start the process.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedContainer {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Given or invented name.
    pub name: String,
    /// Hostname to set in the new UTS namespace.
    pub hostname: String,
    /// The network namespace, `/run/netns/NAME`.
    #[schema(value_type = String)]
    pub netns: PathBuf,
    /// Directory with `hosts`, `hostname`, `resolv.conf` (to be bind-mounted over /etc/…) and `log`.
    #[schema(value_type = String)]
    pub files: PathBuf,
    /// Variables of links, `K=V`, to be set before the container's own.
    #[serde(default)]
    pub env: Vec<String>,
    /// Things the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Answer to `POST /tunbridge/containers/{id}/start`: all that the sandbox needs to start the process again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StartSpec {
    /// As when it was created; addresses, ports and variables of links may be others.
    pub created: CreatedContainer,
    /// Command line.
    pub command: Vec<String>,
    /// `--rootfs`, absolute.
    #[schema(value_type = Option<String>)]
    pub rootfs: Option<PathBuf>,
    /// The container's own variables, `K=V`.
    pub env: Vec<String>,
}

/// Which containers `GET /containers/json` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListContainers {
    /// Those that do not run, too.
    pub all: bool,
    /// Only the newest so many, running or not.
    pub limit: Option<usize>,
    /// See `docker ps --filter`.
    pub filters: Filters,
}

/// `POST /tunbridge/containers/{id}/started`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// The container's main process.
    pub pid: i32,
}

/// `POST /tunbridge/containers/{id}/exited`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Exited {
    /// Exit code; 128 + signal number if a signal ended it.
    pub code: i32,
    /// The process that ended. A report about a former one changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// `POST /tunbridge/containers/{id}/publish` and `…/unpublish`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangePorts {
    /// A `-p` value.
    pub spec: String,
}

/// One row of `GET /tunbridge/flows`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Name of the container.
    pub container: String,
    /// Source as the initiator sends it, `address:port`.
    pub source: String,
    /// Destination as the initiator sends it.
    pub destination: String,
    /// Source as the responder receives it.
    pub translated_source: String,
    /// Destination as the responder receives it.
    pub translated_destination: String,
    /// State name.
    pub state: String,
    /// Packets from the initiator.
    pub packets_original: u64,
    /// Octets from the initiator.
    pub bytes_original: u64,
    /// Packets from the responder.
    pub packets_reply: u64,
    /// Octets from the responder.
    pub bytes_reply: u64,
    /// Seconds since the first packet.
    pub age: f64,
    /// Seconds until it expires if nothing comes.
    pub timeout: f64,
}

/// `GET /tunbridge/stats`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Frames read from the TUN.
    pub received: u64,
    /// Frames forwarded.
    pub forwarded: u64,
    /// Frames given to the host's stack.
    pub to_host: u64,
    /// Frames held or consumed.
    pub consumed: u64,
    /// Packets generated.
    pub generated: u64,
    /// Live flows.
    pub flows: u64,
    /// Live mappings.
    pub mappings: u64,
    /// Drops in the forwarder, reason to count, zero counts included.
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// Counters of the steering programs.
    pub steering: std::collections::BTreeMap<String, u64>,
    /// Counters of the engine.
    pub engine: std::collections::BTreeMap<String, u64>,
    /// What NDP proxies have heard on uplinks, all together; empty without any.
    #[serde(default)]
    pub ndp_proxy: std::collections::BTreeMap<String, u64>,
    /// What the daemon holds for containers and networks: entries of the steering maps, resolvers, tasks.
    #[serde(default)]
    pub held: std::collections::BTreeMap<String, u64>,
}

/// How bad a finding of `tunbridge doctor` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Will hurt somebody.
    Warning,
    /// Does not work.
    Error,
}

/// One finding of `tunbridge doctor`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was looked at, e.g. `net.ipv4.ip_forward`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// A command that fixes it; empty if there is nothing to do.
    pub fix: String,
}

/// What the daemon knows for `GET /info`; the rest of the answer is the host's or constant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// Tells daemons apart, e.g. the machine's id; may be empty.
    pub id: String,
    /// Containers, running or not.
    pub containers: usize,
    /// Running containers.
    pub running: usize,
    /// Where the daemon keeps its files.
    pub state_dir: PathBuf,
    /// Whether packets between containers and others are forwarded, by whomever; clients warn if not.
    pub ipv4_forwarding: bool,
    /// Base and size (prefix length) of the default address pools.
    pub address_pools: Vec<(String, u8)>,
    /// For `docker info` to print at its end, one sentence each, in Docker's form `WARNING: …`.
    pub warnings: Vec<String>,
}

/// Body of every error answer, as Docker's.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// One sentence that names the field and the fix.
    pub message: String,
}
