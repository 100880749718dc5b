//! Asking dockerd what it tells no driver.
//!
//! While a container starts, dockerd holds the container's lock and calls the driver. So nothing here is waited for in
//! the answer to a call, with one exception: lists of networks and of their endpoints, which need no such lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::protocol;
use crate::api::client::{Client, segment};
use crate::api::filters::Filters;
use crate::api::types::or_default;

/// For one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// dockerd behind its API.
#[derive(Clone, Debug)]
pub(super) struct Dockerd {
    client: Client,
    /// What it calls us.
    driver: String,
}

/// `GET /networks/{id}`, what is needed of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DockerNetwork {
    pub(super) id: String,
    driver: String,
    #[serde(rename = "IPAM", deserialize_with = "or_default")]
    ipam: DockerIpam,
    /// By id of the container; `ep-…` if it is none.
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: BTreeMap<String, DockerEndpoint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerIpam {
    driver: String,
    #[serde(deserialize_with = "or_default")]
    config: Vec<DockerSubnet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerSubnet {
    subnet: String,
    gateway: String,
    #[serde(deserialize_with = "or_default")]
    auxiliary_addresses: BTreeMap<String, String>,
}

/// An endpoint on a network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DockerEndpoint {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(rename = "IPv4Address")]
    ipv4: String,
    #[serde(rename = "IPv6Address")]
    ipv6: String,
}

impl DockerNetwork {
    /// Ids of its endpoints.
    pub(super) fn endpoints(&self) -> BTreeSet<&str> {
        let endpoints = self.containers.values();
        endpoints.map(|one| one.endpoint.as_str()).collect()
    }

    /// Every address that dockerd has there.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let endpoints = self
            .containers
            .values()
            .flat_map(|one| [&one.ipv4, &one.ipv6]);
        let subnets = self.ipam.config.iter().flat_map(|subnet| {
            let auxiliary = subnet.auxiliary_addresses.values();
            auxiliary.chain([&subnet.gateway])
        });
        let texts = endpoints.chain(subnets);
        texts
            .filter_map(|text| protocol::address("", text).ok().flatten())
            .collect()
    }

    /// Its subnets, which dockerd repeats as users have written them; `None` for one that cannot be understood.
    fn subnets(&self) -> impl Iterator<Item = Option<IpNet>> {
        let subnets = self.ipam.config.iter();
        subnets.map(|subnet| Some(subnet.subnet.parse::<IpNet>().ok()?.trunc()))
    }
}

/// `GET /containers/{id}/json`, what is needed of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DockerContainer {
    pub(super) name: String,
    hosts_path: String,
    #[serde(deserialize_with = "or_default")]
    state: DockerState,
    #[serde(deserialize_with = "or_default")]
    network_settings: DockerSettings,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerState {
    running: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerSettings {
    #[serde(deserialize_with = "or_default")]
    networks: BTreeMap<String, DockerPlace>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DockerPlace {
    #[serde(rename = "NetworkID")]
    network: String,
    #[serde(rename = "Aliases", deserialize_with = "or_default")]
    aliases: Vec<String>,
}

impl DockerContainer {
    /// Its aliases on the network with this id.
    pub(super) fn aliases(&self, network: &str) -> Vec<String> {
        let mut places = self.network_settings.networks.values();
        let place = places.find(|place| place.network == network);
        place.map(|place| place.aliases.clone()).unwrap_or_default()
    }

    /// Its /etc/hosts, while it runs.
    pub(super) fn hosts(&self) -> Option<PathBuf> {
        let known = self.state.running && !self.hosts_path.is_empty();
        known.then(|| PathBuf::from(&self.hosts_path))
    }
}

impl Dockerd {
    pub(super) const fn new(client: Client, driver: String) -> Self {
        Self {
            client: client.with_limit(PATIENCE),
            driver,
        }
    }

    /// An answer; `None`: dockerd does not answer, or not so.
    async fn get<T: DeserializeOwned + Send + 'static>(&self, target: String) -> Option<T> {
        let client = self.client.clone();
        let shown = target.clone();
        let asked = tokio::task::spawn_blocking(move || client.get::<T>(&target));
        let answer = asked.await.ok()?;
        answer
            .inspect_err(|error| tracing::debug!(target = shown, %error, "no answer from dockerd"))
            .ok()
    }

    /// The networks of our driver, with their endpoints.
    pub(super) async fn networks(&self) -> Option<Vec<DockerNetwork>> {
        let mut filters = Filters::default();
        filters.insert("driver", &*self.driver);
        let target = format!("/networks?filters={}", segment(&filters.to_parameter()));
        let listed: Vec<DockerNetwork> = self.get(target).await?;
        let mut networks = Vec::new();
        for network in listed {
            // One that has been removed meanwhile is none.
            networks.extend(self.network(&network.id).await);
        }
        Some(networks)
    }

    /// A network, with its endpoints.
    pub(super) async fn network(&self, id: &str) -> Option<DockerNetwork> {
        let network: DockerNetwork = self.get(format!("/networks/{}", segment(id))).await?;
        (network.driver == self.driver).then_some(network)
    }

    /// All networks, also of other drivers, without their endpoints.
    pub(super) async fn all_networks(&self) -> Option<Vec<DockerNetwork>> {
        self.get("/networks".to_owned()).await
    }

    /// Subnets of those of them that have our IPAM driver; `None`: they are not all known.
    pub(super) fn leased_subnets(&self, all: &[DockerNetwork]) -> Option<BTreeSet<IpNet>> {
        let ours = all
            .iter()
            .filter(|network| network.ipam.driver == self.driver);
        ours.flat_map(DockerNetwork::subnets).collect()
    }

    /// A container.
    pub(super) async fn container(&self, id: &str) -> Option<DockerContainer> {
        self.get(format!("/containers/{}/json", segment(id))).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn leased(subnets: Value) -> Option<Vec<String>> {
        let dockerd = Dockerd::new(Client::new(Path::new("/nonexistent")), "tunbridge".into());
        let all: Vec<DockerNetwork> = serde_json::from_value(json!([
            {"IPAM": {"Driver": "default", "Config": [{"Subnet": "10.1.0.0/16"}]}},
            {"IPAM": {"Driver": "tunbridge", "Config": subnets}},
            {"IPAM": {"Driver": "null", "Config": null}},
        ]))
        .unwrap();
        let subnets = dockerd.leased_subnets(&all)?.into_iter();
        Some(subnets.map(|subnet| subnet.to_string()).collect())
    }

    #[test]
    fn subnets_are_values_however_they_are_written() {
        for text in [
            "FD00:1::/64",
            "fd00:1:0:0::/64",
            "fd00:0001::/64",
            "fd00:1::5/64",
        ] {
            let known = leased(json!([{"Subnet": "10.9.0.0/24"}, {"Subnet": text}])).unwrap();
            assert_eq!(known, ["10.9.0.0/24", "fd00:1::/64"], "{text}");
        }
        // Whose pool that is, nobody can say: none is given back.
        assert_eq!(leased(json!([{"Subnet": "10.9.0.0"}])), None);
        assert_eq!(leased(Value::Null), Some(Vec::new()));
    }
}
