//! The server side: Docker Engine API paths for what Docker has, `/tunbridge/…` for the rest.
//!
//! ```text
//!  connections   accept; limits: number, time for a request's head, time without progress when writing
//!       │
//!  versions      /v1.NN/… ─► /…, too old and too new are refused; answers fitted to the version
//!       │
//!  routes        one list of routes and handlers: the router and the OpenAPI document are made of it
//!       │
//!  requests      body, parameters, references: bounded, and refused with Docker's words
//!       │
//!  Backend       what is to be done; the daemon implements it
//! ```
//!
//! The server knows HTTP and JSON only. Errors are Docker's `{"message": …}` with Docker's status codes;
//! what Docker does and we do not answers 501 with a sentence.

mod connections;
mod containers;
mod networks;
mod own;
mod pools;
mod requests;
mod routes;
mod runtime;
mod shapes;
mod signals;
mod stream;
mod system;
mod times;
mod versions;

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::events::EventBus;
use super::filters::Filters;
use super::types::{
    AttachEndpoint, AttachedEndpoint, ChangeLabels, CollectEndpoints, ConnectNetwork,
    CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork, DisconnectNetwork,
    EndpointReference, ErrorBody, Exited, Finding, Flow, HostIdentity, HostInfo, LeasedAddress,
    LeasedPool, LimitEndpoint, ListContainers, NameEndpoint, NamedEndpoint, PrunedNetworks,
    PublishEndpoint, RequestAddress, RequestLeasedPool, StartSpec, Started, Stats,
};

pub use connections::{serve, serve_router};
pub use routes::{ROUTES, document};
pub use versions::{MAX_VERSION, MIN_VERSION};

/// A failed request.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// One sentence for the user.
    pub message: String,
}

impl ApiError {
    /// An error with a status and a sentence.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 500: our own failure.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// 501: what we do not do.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, message)
    }

    /// 400: the request's failure.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (
            status,
            Json(ErrorBody {
                message: self.message,
            }),
        )
            .into_response()
    }
}

type Answer<T> = Result<T, ApiError>;

/// Who is at the other end of the socket (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Process id at connect time, if the kernel told it.
    pub pid: Option<i32>,
    /// User id.
    pub uid: Option<u32>,
}

/// What the daemon does for a request. `reference` and `network` are a name, an id or an unambiguous id
/// prefix.
pub trait Backend: Send + Sync + 'static {
    /// Makes a container's network; `peer` is the process that will start it.
    fn create(
        &self,
        request: CreateContainer,
        peer: Peer,
    ) -> impl Future<Output = Answer<CreatedContainer>> + Send;
    /// Makes the network of a container that has exited again; `peer` is the process that will start it.
    fn restart(
        &self,
        reference: &str,
        peer: Peer,
    ) -> impl Future<Output = Answer<StartSpec>> + Send;
    /// The container's process runs.
    fn started(&self, reference: &str, started: Started)
    -> impl Future<Output = Answer<()>> + Send;
    /// The container's process ended.
    fn exited(&self, reference: &str, exited: Exited) -> impl Future<Output = Answer<()>> + Send;
    /// SIGTERM, then SIGKILL after `grace` seconds. False if it was not running.
    fn stop(&self, reference: &str, grace: u64) -> impl Future<Output = Answer<bool>> + Send;
    /// Sends a signal (1..=31) to the container's process.
    fn kill(&self, reference: &str, signal: i32) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a container; a running one only if `force`.
    fn remove(&self, reference: &str, force: bool) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a link of the default network, `PARENT/ALIAS`.
    fn remove_link(&self, link: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Publishes one more port of a container.
    fn publish(&self, reference: &str, spec: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Takes a publication back.
    fn unpublish(&self, reference: &str, spec: &str) -> impl Future<Output = Answer<()>> + Send;
    /// `GET /containers/json`: an array, newest first.
    fn list_containers(&self, query: ListContainers) -> impl Future<Output = Answer<Value>> + Send;
    /// `GET /containers/{id}/json`.
    fn inspect_container(&self, reference: &str) -> impl Future<Output = Answer<Value>> + Send;
    /// `POST /networks/create`.
    fn create_network(
        &self,
        request: CreateNetwork,
    ) -> impl Future<Output = Answer<CreatedNetwork>> + Send;
    /// `GET /networks`: an array. Refuses filters that it does not know.
    fn list_networks(&self, filters: Filters) -> impl Future<Output = Answer<Value>> + Send;
    /// `GET /networks/{id}`.
    fn inspect_network(&self, network: &str) -> impl Future<Output = Answer<Value>> + Send;
    /// `DELETE /networks/{id}`; by `force` also one that another program needs. Says what is left of it.
    fn remove_network(
        &self,
        network: &str,
        force: bool,
    ) -> impl Future<Output = Answer<Option<String>>> + Send;
    /// `POST /networks/prune`. Refuses filters that it does not know.
    fn prune_networks(
        &self,
        filters: Filters,
    ) -> impl Future<Output = Answer<PrunedNetworks>> + Send;
    /// `POST /networks/{id}/connect`.
    fn connect(
        &self,
        network: &str,
        request: ConnectNetwork,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `POST /networks/{id}/disconnect`.
    fn disconnect(
        &self,
        network: &str,
        request: DisconnectNetwork,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Gives a container of another runtime one interface more, in the namespace behind `namespace`.
    fn attach_endpoint(
        &self,
        request: AttachEndpoint,
        namespace: Option<OwnedFd>,
    ) -> impl Future<Output = Answer<AttachedEndpoint>> + Send;
    /// Takes such interfaces away; what is not there is no error.
    fn detach_endpoint(
        &self,
        reference: EndpointReference,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Looks whether an interface is in the kernel as it was made.
    fn check_endpoint(
        &self,
        reference: EndpointReference,
        namespace: Option<OwnedFd>,
    ) -> impl Future<Output = Answer<AttachedEndpoint>> + Send;
    /// Takes away what a runtime has on a network and does not know any more.
    fn collect_endpoints(
        &self,
        request: CollectEndpoints,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Limits how fast an endpoint sends and receives.
    fn limit_endpoint(&self, request: LimitEndpoint) -> impl Future<Output = Answer<()>> + Send;
    /// Publishes these ports of a runtime's container and no others.
    fn publish_endpoint(&self, request: PublishEndpoint)
    -> impl Future<Output = Answer<()>> + Send;
    /// Calls a runtime's container by its name.
    fn name_endpoint(&self, request: NameEndpoint) -> impl Future<Output = Answer<()>> + Send;
    /// What containers are called on a network.
    fn network_names(
        &self,
        network: &str,
    ) -> impl Future<Output = Answer<Vec<NamedEndpoint>>> + Send;
    /// Gives labels to a network, or takes them away.
    fn change_labels(
        &self,
        network: &str,
        change: ChangeLabels,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Sets a subnet aside whose addresses will be leased.
    fn request_pool(
        &self,
        request: RequestLeasedPool,
    ) -> impl Future<Output = Answer<LeasedPool>> + Send;
    /// The pools of which addresses are leased.
    fn pools(&self) -> impl Future<Output = Answer<Vec<LeasedPool>>> + Send;
    /// Gives a pool back, with all leases.
    fn release_pool(&self, pool: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Leases an address of a pool.
    fn request_address(
        &self,
        pool: &str,
        request: RequestAddress,
    ) -> impl Future<Output = Answer<LeasedAddress>> + Send;
    /// Gives one back.
    fn release_address(
        &self,
        pool: &str,
        address: IpAddr,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Which host this is.
    fn host(&self) -> impl Future<Output = Answer<HostIdentity>> + Send;
    /// What happened and happens, for `GET /events`.
    fn events(&self) -> &EventBus;
    /// Live flows.
    fn flows(&self) -> impl Future<Output = Answer<Vec<Flow>>> + Send;
    /// Counters.
    fn stats(&self) -> impl Future<Output = Answer<Stats>> + Send;
    /// What is wrong with the host.
    fn doctor(&self) -> impl Future<Output = Answer<Vec<Finding>>> + Send;
    /// What `GET /info` tells.
    fn info(&self) -> impl Future<Output = Answer<HostInfo>> + Send;
}
