//! The API's requests, answered by [`Core`].
//!
//! What changes something runs in a task of its own: the server drops a request whose client goes away, and a change that
//! was begun must be brought to its end.

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::core::Core;
use super::report;
use crate::api::events::EventBus;
use crate::api::filters::Filters;
use crate::api::server::{ApiError, Backend, Peer};
use crate::api::types::{
    AttachEndpoint, AttachedEndpoint, ChangeLabels, CollectEndpoints, ConnectNetwork,
    CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork, DisconnectNetwork,
    EndpointReference, Exited, Finding, Flow, HostIdentity, HostInfo, LeasedAddress, LeasedPool,
    LimitEndpoint, ListContainers, NameEndpoint, NamedEndpoint, PrunedNetworks, PublishEndpoint,
    RequestAddress, RequestLeasedPool, StartSpec, Started, Stats,
};
use crate::control::filters::{self, NetworkFilter};
use crate::control::records::Container;
use crate::control::{Timestamp, inspect, projections};
use crate::kernel::netns;

/// [`Backend`] on a running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    core: Arc<Core>,
}

impl Daemon {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Does something to its end, whether or not anybody waits for it.
    async fn whole<T, F>(&self, work: impl FnOnce(Arc<Core>) -> F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        tokio::spawn(work(Arc::clone(&self.core)))
            .await
            .unwrap_or_else(|error| Err(ApiError::internal(format!("the request failed: {error}"))))
    }
}

impl Backend for Daemon {
    async fn create(
        &self,
        request: CreateContainer,
        peer: Peer,
    ) -> Result<CreatedContainer, ApiError> {
        self.whole(|core| async move { core.create(request, peer).await })
            .await
    }

    async fn started(&self, reference: &str, started: Started) -> Result<(), ApiError> {
        let reference = reference.to_owned();
        self.whole(|core| async move { core.started(&reference, started.pid).await })
            .await
    }

    async fn exited(&self, reference: &str, exited: Exited) -> Result<(), ApiError> {
        let reference = reference.to_owned();
        self.whole(|core| async move { core.reported(&reference, exited).await })
            .await
    }

    async fn stop(&self, reference: &str, grace: u64) -> Result<bool, ApiError> {
        let reference = reference.to_owned();
        self.whole(|core| async move { core.stop(&reference, Duration::from_secs(grace)).await })
            .await
    }

    async fn remove(&self, reference: &str, force: bool) -> Result<(), ApiError> {
        let reference = reference.to_owned();
        self.whole(|core| async move { core.remove(&reference, force).await })
            .await
    }

    async fn publish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let reference = reference.to_owned();
        let spec = spec.to_owned();
        self.whole(|core| async move { core.publish(&reference, &spec).await })
            .await
    }

    async fn unpublish(&self, reference: &str, spec: &str) -> Result<(), ApiError> {
        let reference = reference.to_owned();
        let spec = spec.to_owned();
        self.whole(|core| async move { core.unpublish(&reference, &spec).await })
            .await
    }

    async fn list_containers(&self, query: ListContainers) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let ports = |container: &Container| projections::container_ports(&state, container);
        let selected = filters::select_containers(state.containers(), &query, ports)?;
        let now = Timestamp::now();
        Ok(selected
            .into_iter()
            .map(|container| inspect::container_summary(&state, container, now))
            .collect())
    }

    async fn inspect_container(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        Ok(inspect::container(&state, state.container(reference)?))
    }

    async fn list_networks(&self, filters: Filters) -> Result<Value, ApiError> {
        let filter = NetworkFilter::list(&filters)?;
        let state = self.core.lock().await;
        let in_use = state.networks_in_use();
        Ok(state
            .networks()
            .filter(|network| filter.matches(network, in_use.contains(&network.id)))
            .map(inspect::network_summary)
            .collect())
    }

    async fn inspect_network(&self, reference: &str) -> Result<Value, ApiError> {
        let state = self.core.lock().await;
        let network = state.network(reference)?;
        Ok(inspect::network(&state, network))
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<CreatedNetwork, ApiError> {
        self.whole(|core| async move { core.create_network(request).await })
            .await
    }

    async fn remove_network(&self, network: &str, force: bool) -> Result<Option<String>, ApiError> {
        let network = network.to_owned();
        self.whole(|core| async move { core.remove_network(&network, force).await })
            .await
    }

    async fn prune_networks(&self, filters: Filters) -> Result<PrunedNetworks, ApiError> {
        self.whole(|core| async move { core.prune_networks(&filters).await })
            .await
    }

    async fn connect(&self, network: &str, request: ConnectNetwork) -> Result<(), ApiError> {
        let network = network.to_owned();
        self.whole(|core| async move { core.connect(&network, request).await })
            .await
    }

    async fn disconnect(&self, network: &str, request: DisconnectNetwork) -> Result<(), ApiError> {
        let network = network.to_owned();
        self.whole(|core| async move { core.disconnect(&network, request).await })
            .await
    }

    async fn kill(&self, reference: &str, signal: i32) -> Result<(), ApiError> {
        self.core.kill(reference, signal).await
    }

    async fn restart(&self, reference: &str, peer: Peer) -> Result<StartSpec, ApiError> {
        let reference = reference.to_owned();
        self.whole(|core| async move { core.restart(&reference, peer).await })
            .await
    }

    async fn remove_link(&self, link: &str) -> Result<(), ApiError> {
        let link = link.to_owned();
        self.whole(|core| async move { core.remove_link(&link).await })
            .await
    }

    async fn attach_endpoint(
        &self,
        request: AttachEndpoint,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        self.whole(|core| async move { core.attach_endpoint(request, namespace).await })
            .await
    }

    async fn detach_endpoint(&self, reference: EndpointReference) -> Result<(), ApiError> {
        self.whole(|core| async move { core.detach_endpoint(&reference).await })
            .await
    }

    async fn check_endpoint(
        &self,
        reference: EndpointReference,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        self.core.check_endpoint(&reference, namespace).await
    }

    async fn collect_endpoints(&self, request: CollectEndpoints) -> Result<(), ApiError> {
        self.whole(|core| async move { core.collect_endpoints(&request).await })
            .await
    }

    async fn limit_endpoint(&self, request: LimitEndpoint) -> Result<(), ApiError> {
        self.whole(|core| async move { core.limit_endpoint(&request).await })
            .await
    }

    async fn publish_endpoint(&self, request: PublishEndpoint) -> Result<(), ApiError> {
        self.whole(|core| async move { core.publish_endpoint(&request).await })
            .await
    }

    async fn name_endpoint(&self, request: NameEndpoint) -> Result<(), ApiError> {
        self.whole(|core| async move { core.name_endpoint(&request).await })
            .await
    }

    async fn network_names(&self, network: &str) -> Result<Vec<NamedEndpoint>, ApiError> {
        Ok(self.core.lock().await.network_names(network)?)
    }

    async fn change_labels(&self, network: &str, change: ChangeLabels) -> Result<(), ApiError> {
        let network = network.to_owned();
        self.whole(|core| async move { core.change_labels(&network, &change).await })
            .await
    }

    async fn request_pool(&self, request: RequestLeasedPool) -> Result<LeasedPool, ApiError> {
        self.whole(|core| async move { core.request_pool(&request).await })
            .await
    }

    async fn pools(&self) -> Result<Vec<LeasedPool>, ApiError> {
        Ok(self.core.lock().await.leased_pools())
    }

    async fn release_pool(&self, pool: &str) -> Result<(), ApiError> {
        let pool = pool.to_owned();
        self.whole(|core| async move { core.release_pool(&pool).await })
            .await
    }

    async fn request_address(
        &self,
        pool: &str,
        request: RequestAddress,
    ) -> Result<LeasedAddress, ApiError> {
        let pool = pool.to_owned();
        self.whole(|core| async move { core.request_address(&pool, request).await })
            .await
    }

    async fn release_address(&self, pool: &str, address: IpAddr) -> Result<(), ApiError> {
        let pool = pool.to_owned();
        self.whole(|core| async move { core.release_address(&pool, address).await })
            .await
    }

    async fn host(&self) -> Result<HostIdentity, ApiError> {
        let identity = netns::open_current().and_then(netns::id);
        let id = identity.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(HostIdentity {
            netns: (id.device, id.inode),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
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
        let mut stats = report::stats(&self.core.forwarder, &self.core.engine, steering);
        stats.ndp_proxy = self.core.ndp_counts();
        stats.held = self.core.held();
        Ok(stats)
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
            // Whatever the sysctl says: the daemon forwards, not the kernel, and clients warn if nobody does.
            ipv4_forwarding: true,
            ..HostInfo::default()
        })
    }
}
