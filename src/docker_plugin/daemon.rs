//! Asking the daemon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::Deserialize;

use super::protocol::Refusal;
use super::{SHARED, label_of};
use crate::api::client::{Client, ClientError, segment};
use crate::api::filters::Filters;
use crate::api::types::{DOCKER_NETWORK, EndpointReference, Runtime};

/// How long a daemon may be away that is being started again.
const ABSENCE: Duration = Duration::from_secs(10);

/// Between two attempts to find it back.
const PAUSE: Duration = Duration::from_millis(100);

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon behind its API.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    client: Client,
}

/// A network as the API shows it; only what is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) internal: bool,
    #[serde(rename = "IPAM")]
    ipam: NetworkIpam,
    #[serde(default)]
    pub(super) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkIpam {
    #[serde(default)]
    config: Vec<Subnet>,
}

/// One subnet of a network.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Subnet {
    pub(super) subnet: IpNet,
    #[serde(default)]
    pub(super) gateway: Option<std::net::IpAddr>,
}

impl Network {
    pub(super) fn subnets(&self) -> &[Subnet] {
        &self.ipam.config
    }

    /// Whether it was there before the docker network with this id.
    pub(super) fn is_shared(&self, docker: &str) -> bool {
        let label = self.labels.get(&label_of(docker));
        label.is_some_and(|how| how.starts_with(SHARED))
    }

    /// Ids of the docker networks that it is.
    pub(super) fn dockers(&self) -> impl Iterator<Item = &str> {
        let labels = self.labels.keys();
        labels.filter_map(|label| label.strip_prefix(DOCKER_NETWORK))
    }

    /// Those of one plugin.
    pub(super) fn dockers_of(&self, owner: &str) -> impl Iterator<Item = &str> {
        self.dockers().filter(move |id| {
            let label = self.labels.get(&label_of(id));
            label
                .and_then(|how| how.split_once(' '))
                .is_some_and(|(_, of)| of == owner)
        })
    }
}

impl Daemon {
    pub(super) const fn new(client: Client) -> Self {
        Self {
            client: client.with_limit(PATIENCE),
        }
    }

    /// Does `work` where blocking is allowed, which may be done twice. A daemon that is not there, or has died before it
    /// answered, is waited for: it may be on its way back.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&Client) -> Result<T, ClientError> + Send + Sync + 'static,
    ) -> Result<T, ClientError> {
        self.repeat(work, |error| {
            matches!(
                error,
                ClientError::NotRunning(_) | ClientError::Broken { .. }
            )
        })
        .await
    }

    /// The same for what makes something, each time anew: a daemon that has died may have stored it.
    pub(super) async fn ask_once<T: Send + 'static>(
        &self,
        work: impl Fn(&Client) -> Result<T, ClientError> + Send + Sync + 'static,
    ) -> Result<T, ClientError> {
        self.repeat(work, |error| matches!(error, ClientError::NotRunning(_)))
            .await
    }

    async fn repeat<T: Send + 'static>(
        &self,
        work: impl Fn(&Client) -> Result<T, ClientError> + Send + Sync + 'static,
        repeats: impl Fn(&ClientError) -> bool + Send + 'static,
    ) -> Result<T, ClientError> {
        let client = self.client.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            loop {
                match work(&client) {
                    Err(error) if repeats(&error) && begun.elapsed() < ABSENCE => {
                        std::thread::sleep(PAUSE);
                    }
                    outcome => return outcome,
                }
            }
        });
        asked.await.unwrap_or_else(|error| {
            Err(ClientError::Refused {
                status: 500,
                message: format!("no answer from the tunbridge daemon: {error}"),
            })
        })
    }

    /// All networks.
    pub(super) async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.ask(|client| client.get("/networks")).await
    }

    /// The network with this name or id, if there is one.
    pub(super) async fn network(&self, name: &str) -> Result<Option<Network>, ClientError> {
        let target = format!("/networks/{}", segment(name));
        let found = self.ask(move |client| client.get(&target)).await;
        match found {
            Ok(network) => Ok(Some(network)),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The network that is the docker network with this id, if there is one.
    pub(super) async fn docker_network(
        &self,
        docker: &str,
    ) -> Result<Option<Network>, ClientError> {
        let mut filters = Filters::default();
        filters.insert("label", label_of(docker));
        let target = format!("/networks?filters={}", segment(&filters.to_parameter()));
        let found: Vec<Network> = self.ask(move |client| client.get(&target)).await?;
        Ok(found.into_iter().next())
    }

    /// The same; that there is none is an error.
    pub(super) async fn known_network(&self, docker: &str) -> Result<Network, Refusal> {
        self.docker_network(docker).await?.ok_or_else(|| {
            let short = docker.get(..12).unwrap_or(docker);
            Refusal::new(format!(
                "tunbridge does not know docker network {short} any more, its state was removed: remove its containers (`docker rm -f`) and it (`docker network rm`), and make it again"
            ))
        })
    }

    /// Takes everything away that a docker endpoint has; nothing is no error.
    pub(super) async fn detach(&self, endpoint: &str) -> Result<(), ClientError> {
        let reference = reference(endpoint, None);
        self.ask(move |client| client.tell("/tunbridge/endpoints/detach", &reference))
            .await
    }
}

/// A docker endpoint as the daemon knows it.
pub(super) fn reference(endpoint: &str, network: Option<&str>) -> EndpointReference {
    EndpointReference {
        runtime: Runtime::Docker,
        container: endpoint.to_owned(),
        owner: None,
        network: network.map(str::to_owned),
        interface: None,
    }
}
