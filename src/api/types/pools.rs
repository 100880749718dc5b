//! Address pools and leases: addresses that another program (dockerd) gives its containers, so that nobody else gets them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Runtime;

/// IPAM option of `POST /networks/create`: the subnets are those of leased pools.
pub const LEASED_POOLS: &str = "com.tunbridge.leased_pools";

/// Label of networks that were made for a CNI configuration; its value is the configuration's name.
pub const CNI_NETWORK: &str = "com.tunbridge.cni";

/// Begins the label of a network that is one of dockerd's, too; its id there follows.
pub const DOCKER_NETWORK: &str = "com.tunbridge.docker.";

/// `POST /tunbridge/pools`: a subnet of which addresses will be leased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestLeasedPool {
    /// Which; none: that of `network`, or the next free default one.
    #[schema(value_type = Option<String>)]
    pub subnet: Option<IpNet>,
    /// Where addresses come from that nobody names; none: the whole subnet.
    #[schema(value_type = Option<String>)]
    pub range: Option<IpNet>,
    /// Name or id of a network whose subnet it is; none: of no network that there is.
    pub network: Option<String>,
    /// IPv6, where neither is a subnet.
    pub ipv6: bool,
    /// Who asks: of several programs each can tell its own from this.
    pub owner: Option<String>,
}

/// Answer to [`RequestLeasedPool`], and an element of `GET /tunbridge/pools`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeasedPool {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without host bits.
    #[schema(value_type = String)]
    pub subnet: IpNet,
    /// Id of the network whose addresses these are, if there is one.
    pub network: Option<String>,
    /// Who asked for it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Addresses that are leased.
    pub leases: Vec<Lease>,
}

/// An address of a [`LeasedPool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Which.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// It is a router's.
    pub gateway: bool,
    /// A container of the daemon has it.
    pub in_use: bool,
}

/// `POST /tunbridge/pools/{id}/addresses`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestAddress {
    /// Which; none: the lowest free one.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// That of the network's gateway.
    pub gateway: bool,
}

/// Answer to [`RequestAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeasedAddress {
    /// With the subnet's prefix length.
    #[schema(value_type = String)]
    pub address: IpNet,
}

/// `POST /tunbridge/pools/{id}/release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseAddress {
    /// What is given back.
    #[schema(value_type = String)]
    pub address: IpAddr,
}

/// `POST /tunbridge/networks/{id}/labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeLabels {
    /// New values; `null` removes a label.
    pub labels: BTreeMap<String, Option<String>>,
}

/// `POST /tunbridge/endpoints/publish`: the ports of a runtime's container, in place of those that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishEndpoint {
    /// By which door it came.
    pub runtime: Runtime,
    /// The runtime's id of the container.
    pub container: String,
    /// `-p` values: all of them, or none if one cannot be had.
    pub publish: Vec<String>,
}

/// `POST /tunbridge/endpoints/name`: what a runtime's container is called, by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NameEndpoint {
    /// By which door it came.
    pub runtime: Runtime,
    /// The runtime's id of the container.
    pub container: String,
    /// As for a new container: if another one is called so, both are found by it.
    pub name: String,
    /// In place of those that it has on its networks.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// An element of `GET /tunbridge/networks/{id}/names`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedEndpoint {
    /// Id of the container.
    pub container: String,
    /// By which door it came, and its id there; none: our own.
    pub runtime: Option<(Runtime, String)>,
    /// What it is called on this network.
    pub names: Vec<String>,
    /// Its `--driver-opt` there.
    #[serde(default)]
    pub driver_opts: BTreeMap<String, String>,
    /// Its addresses there.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
}
