//! The API's requests, answered by [`Core`].

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::core::Core;
use super::{process, report};
use crate::api::events::EventBus;
use crate::api::filters::Filters;
use crate::api::server::{ApiError, Backend, Peer};
use crate::api::types::{
    ConnectNetwork, CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork,
    DisconnectNetwork, Exited, Finding, Flow, HostInfo, ListContainers, StartSpec, Started, Stats,
};
use crate::control::records::{Container, ContainerState, Kind};
use crate::control::{Timestamp, inspect};

/// [`Backend`] on a running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    core: Arc<Core>,
}

impl Daemon {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Backend for Daemon {
    async fn create(
        &self,
        request: CreateContainer,
        peer: Peer,
    ) -> Result<CreatedContainer, ApiError> {
        self.core.create(request, peer).await
    }

    async fn started(&self, reference: &str, started: Started) -> Result<(), ApiError> {
        self.core.started(reference, started.pid).await
    }

    async fn exited(&self, reference: &str, exited: Exited) -> Result<(), ApiError> {
        self.core.exited(reference, exited.code).await
    }

    async fn stop(&self, reference: &str, grace: u64) -> Result<bool, ApiError> {
        self.core.stop(reference, Duration::from_secs(grace)).await
    }

    async fn remove(&self, reference: &str, force: bool) -> Result<(), ApiError> {
        self.core.remove(reference, force).await
    }

    async fn publish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        self.core.publish(reference, spec).await
    }

    async fn unpublish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        self.core.unpublish(reference, spec).await
    }

    async fn list_containers(&self, query: ListContainers) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let mut containers: Vec<&Container> = state
            .containers()
            .filter(|container| query.all || container.is_running())
            .collect();
        // Docker lists the newest first.
        containers.sort_by_key(|container| std::cmp::Reverse(container.created));
        let now = Timestamp::now();
        Ok(containers
            .into_iter()
            .map(|container| inspect::container_summary(&state, container, now))
            .collect())
    }

    async fn inspect_container(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        Ok(inspect::container(&state, state.container(reference)?))
    }

    async fn list_networks(&self, _filters: Filters) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        Ok(state.networks().map(inspect::network_summary).collect())
    }

    async fn inspect_network(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let network = state.network(reference)?;
        Ok(inspect::network(&state, network))
    }

    async fn create_network(&self, _request: CreateNetwork) -> Result<CreatedNetwork, ApiError> {
        not_yet("create networks")
    }

    async fn remove_network(&self, _network: &str) -> Result<(), ApiError> {
        not_yet("remove networks")
    }

    async fn prune_networks(&self, _filters: Filters) -> Result<Vec<String>, ApiError> {
        not_yet("remove networks")
    }

    async fn connect(&self, _network: &str, _request: ConnectNetwork) -> Result<(), ApiError> {
        not_yet("connect containers to more networks")
    }

    async fn disconnect(
        &self,
        _network: &str,
        _request: DisconnectNetwork,
    ) -> Result<(), ApiError> {
        not_yet("disconnect containers")
    }

    async fn kill(&self, reference: &str, signal: i32) -> Result<(), ApiError> {
        let state = self.core.lock().await;
        let container = state.container(reference)?;
        let signal = Signal::try_from(signal).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid signal: {signal}: give a number from 1 to 31"
            ))
        })?;
        let refuse = |problem: String| {
            Err(ApiError::new(
                409,
                format!("Cannot kill container: {reference}: {problem}"),
            ))
        };
        match (&container.kind, &container.state) {
            (
                Kind::Run,
                ContainerState::Running {
                    process: Some(process),
                    ..
                },
            ) => {
                process::signal(*process, signal);
                Ok(())
            }
            (_, ContainerState::Running { .. }) => refuse(
                "its processes are not tunbridge's: end them with the program that started them"
                    .to_owned(),
            ),
            (_, ContainerState::Created | ContainerState::Exited { .. }) => {
                refuse(format!("Container {} is not running", container.id))
            }
        }
    }

    async fn restart(&self, _reference: &str, _peer: Peer) -> Result<StartSpec, ApiError> {
        not_yet("start containers again")
    }

    async fn remove_link(&self, _link: &str) -> Result<(), ApiError> {
        not_yet("make links")
    }

    fn events(&self) -> &EventBus {
        &self.core.events
    }

    async fn flows(&self) -> Result<Vec<Flow>, ApiError> {
        let names = Core::endpoint_names(&*self.core.lock().await);
        let flows = self.core.forwarder.flows(self.core.clock.now());
        Ok(flows
            .iter()
            .map(|flow| report::flow(flow, &names))
            .collect())
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        let steering = self.core.steering.lock().counters()?;
        Ok(report::stats(
            &self.core.forwarder,
            &self.core.engine,
            steering,
        ))
    }

    async fn doctor(&self) -> Result<Vec<Finding>, ApiError> {
        Ok(self.core.examine().await)
    }

    async fn info(&self) -> Result<HostInfo, ApiError> {
        let state = self.core.lock().await;
        Ok(HostInfo {
            containers: state.containers().count(),
            running: state.containers().filter(|c| c.is_running()).count(),
            state_dir: self.core.settings.state_dir.clone(),
            ipv4_forwarding: crate::kernel::forwarding::ip_forward().unwrap_or_default(),
            ..HostInfo::default()
        })
    }
}

/// For what the daemon cannot do yet.
fn not_yet<T>(what: &str) -> Result<T, ApiError> {
    Err(ApiError::not_implemented(format!(
        "this version of tunbridge does not {what}"
    )))
}
