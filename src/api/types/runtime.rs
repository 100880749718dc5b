//! What other container runtimes ask for: those that call us by CNI, by OCI hooks, or by Docker's plugin protocol.
//!
//! Their unit is the endpoint: one container's interface on one network. A container exists here from its first
//! endpoint to its last; it is known by the runtime's own id, and has a name of ours besides.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CreateNetwork, EndpointSettings};

/// By which door a runtime comes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The Container Network Interface: podman, containerd, Kubernetes' runtimes.
    Cni,
    /// Hooks of the OCI runtime specification: runc, crun.
    Oci,
    /// Docker's remote network driver.
    Docker,
}

/// Where the interface of an endpoint is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In the network namespace whose descriptor came with the request's connection, with addresses and routes.
    #[default]
    Namespace,
    /// In the daemon's own: the runtime moves it, names it and gives it its addresses (Docker's drivers do it so).
    Host,
}

/// `POST /tunbridge/endpoints`: one interface more for a container of a runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachEndpoint {
    /// By which door.
    pub runtime: Runtime,
    /// The runtime's id of the container, `[A-Za-z0-9][A-Za-z0-9_.-]*`.
    pub container: String,
    /// On whose behalf: the name of a CNI configuration, the bundle of an OCI container. Kept with the endpoint.
    #[serde(default)]
    pub owner: Option<String>,
    /// What it is called, for names between containers; if another container is called so, both are found by it.
    #[serde(default)]
    pub name: Option<String>,
    /// Name or id of the network.
    pub network: String,
    /// How to make the network if there is none of that name; `None`: it must be there.
    #[serde(default)]
    pub create_network: Option<CreateNetwork>,
    /// Name of the interface; `None`: the network's prefix and the lowest free number.
    #[serde(default)]
    pub interface: Option<String>,
    /// Where the interface is to be.
    #[serde(default)]
    pub placement: Placement,
    /// Addresses, MAC, aliases, links, driver options.
    #[serde(default)]
    pub settings: EndpointSettings,
    /// Where an address comes from that `settings` does not name: the lowest free one of the ranges of its family.
    /// None of a family: the network's own range.
    #[serde(default)]
    pub ranges: Vec<AddressRange>,
    /// Whether the network makes the container's default route (if it comes first, see `--gw-priority`).
    #[serde(default = "yes")]
    pub default_route: bool,
    /// `-p` values; one that the container has already is not an error.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Name servers to forward to, in place of the host's.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Search domains.
    #[serde(default)]
    pub dns_search: Vec<String>,
    /// Options of resolv.conf.
    #[serde(default)]
    pub dns_option: Vec<String>,
    /// How fast it may send and receive. Not with [`Placement::Host`].
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// How fast an endpoint may send and receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Towards the container; absent: as fast as can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RateLimit>,
    /// From the container; absent: as fast as can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<RateLimit>,
}

impl Bandwidth {
    /// Nothing is limited.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// A token bucket, in CNI's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// In bits per second.
    pub rate: u64,
    /// In bits: how much may pass at once after a pause.
    pub burst: u64,
}

/// `POST /tunbridge/endpoints/bandwidth`: other limits for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitEndpoint {
    /// Which; if it means several, the first.
    pub endpoint: EndpointReference,
    /// In place of those that it has.
    pub bandwidth: Bandwidth,
}

const fn yes() -> bool {
    true
}

impl AttachEndpoint {
    /// An interface in a namespace, and nothing said about it.
    pub fn new(runtime: Runtime, container: impl Into<String>, network: impl Into<String>) -> Self {
        Self {
            runtime,
            container: container.into(),
            owner: None,
            name: None,
            network: network.into(),
            create_network: None,
            interface: None,
            placement: Placement::default(),
            settings: EndpointSettings::default(),
            ranges: Vec::new(),
            default_route: yes(),
            publish: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_option: Vec::new(),
            bandwidth: Bandwidth::default(),
        }
    }
}

/// Addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressRange {
    /// The lowest.
    #[schema(value_type = String)]
    pub first: IpAddr,
    /// The highest.
    #[schema(value_type = String)]
    pub last: IpAddr,
}

/// An endpoint, as a runtime names it: `POST /tunbridge/endpoints/detach`, `…/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointReference {
    /// By which door.
    pub runtime: Runtime,
    /// The runtime's id of the container.
    pub container: String,
    /// On whose behalf: endpoints that another owner asked for are not meant.
    #[serde(default)]
    pub owner: Option<String>,
    /// Name or id of the network, which may be gone by now; `None`: whatever network it is.
    #[serde(default)]
    pub network: Option<String>,
    /// Name of the interface as it was asked for; `None`: whatever it is. Neither this nor a network: all endpoints of
    /// the container.
    #[serde(default)]
    pub interface: Option<String>,
}

/// `POST /tunbridge/endpoints/collect`: which endpoints of an owner are still wanted; the others go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectEndpoints {
    /// By which door: others' endpoints stay.
    pub runtime: Runtime,
    /// Who asked for them, as in [`AttachEndpoint`]: on one network there may be others'.
    pub owner: String,
    /// Container and interface of each that stays.
    pub valid: Vec<(String, String)>,
}

/// An interface of the host or of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address, `02:42:ac:11:00:02`.
    pub mac: String,
    /// In octets.
    pub mtu: u32,
}

/// Answer to [`AttachEndpoint`] and to a check: what the endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachedEndpoint {
    /// Our id of the container, 64 hexadecimal digits.
    pub container: String,
    /// Our name of the container.
    pub name: String,
    /// This attach made the container: it had no other endpoint.
    #[serde(default)]
    pub first: bool,
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub network_id: String,
    /// The network's bridge.
    pub bridge: Interface,
    /// The host's end of the veth pair.
    pub host: Interface,
    /// The container's end. With [`Placement::Host`] its name in the host, until the runtime moves it.
    pub inside: Interface,
    /// Addresses with the network's prefix length, IPv4 first.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
    /// Routers for a default route, at most one per family; none if it has no such route.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// Routers of its network, at most one per family, whether or not the container has a default route by them: it may be
    /// another network's, and nothing leaves an internal one.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub routers: Vec<IpAddr>,
    /// What the container's resolv.conf should say: ours, where containers have names, else the host's.
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<IpAddr>,
    /// Search domains for it.
    pub search: Vec<String>,
    /// Options for it.
    pub options: Vec<String>,
    /// How fast it may send and receive.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

/// `GET /tunbridge/host`: which host the daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostIdentity {
    /// Device and inode number of its network namespace, as `stat` of `/proc/self/ns/net` tells them to whoever is in
    /// it.
    pub netns: (u64, u64),
    /// Version of the daemon.
    pub version: String,
}
