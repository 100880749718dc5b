//! The API's requests, answered by [`Core`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::core::Core;
use super::report;
use crate::api::server::{ApiError, Backend, DOCKER_API_VERSION, Peer};
use crate::api::types::{CreateContainer, CreatedContainer, Exited, Finding, Flow, Started, Stats};
use crate::control::records::Container;
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

    async fn list_containers(&self, all: bool) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let mut containers: Vec<&Container> = state
            .containers()
            .filter(|container| all || container.is_running())
            .collect();
        // Docker lists the newest first.
        containers.sort_by_key(|container| std::cmp::Reverse(container.created));
        let now = Timestamp::now();
        Ok(containers
            .into_iter()
            .map(|container| inspect::container_summary(container, now))
            .collect())
    }

    async fn inspect_container(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        Ok(inspect::container(state.container(reference)?))
    }

    async fn list_networks(&self) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        Ok(state.networks().map(inspect::network_summary).collect())
    }

    async fn inspect_network(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let network = state.network(reference)?;
        Ok(inspect::network(&state, network))
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

    async fn info(&self) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let running = state
            .containers()
            .filter(|container| container.is_running())
            .count();
        let all = state.containers().count();
        Ok(json!({
            "ID": "",
            "Containers": all,
            "ContainersRunning": running,
            "ContainersPaused": 0,
            "ContainersStopped": all - running,
            "Images": 0,
            "Driver": "none",
            "Plugins": {"Volume": [], "Network": ["bridge"], "Authorization": null, "Log": []},
            "IPv4Forwarding": crate::kernel::forwarding::ip_forward().unwrap_or_default(),
            "OSType": "linux",
            "OperatingSystem": "tunbridge",
            "Architecture": std::env::consts::ARCH,
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "Name": nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "ApiVersion": DOCKER_API_VERSION,
            "DockerRootDir": self.core.settings.state_dir,
            "Warnings": [],
        }))
    }
}
