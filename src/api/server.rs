//! The server side: Docker Engine API paths for what Docker has, `/tunbridge/…` for the rest.
//!
//! Every path also answers under `/v1.NN/`, as Docker's clients ask. The server knows HTTP and
//! JSON only; what is to be done is behind [`Backend`], which the daemon implements. Errors are
//! Docker's `{"message": …}` with Docker's status codes; what we do not do answers 501 with a
//! sentence.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::events::EventBus;
use super::filters::Filters;
use super::types::{
    ChangePorts, ConnectNetwork, CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork,
    DisconnectNetwork, ErrorBody, Exited, Finding, Flow, HostInfo, ListContainers, StartSpec,
    Started, Stats,
};

/// The Docker Engine API version whose paths and shapes we follow.
pub const DOCKER_API_VERSION: &str = "1.41";

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

impl axum::extract::connect_info::Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self {
            pid: credentials.as_ref().and_then(tokio::net::unix::UCred::pid),
            uid: credentials.as_ref().map(tokio::net::unix::UCred::uid),
        }
    }
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
    /// `DELETE /networks/{id}`.
    fn remove_network(&self, network: &str) -> impl Future<Output = Answer<()>> + Send;
    /// `POST /networks/prune`: the names of those that were removed. Refuses filters that it does not know.
    fn prune_networks(&self, filters: Filters) -> impl Future<Output = Answer<Vec<String>>> + Send;
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

/// The whole API over `backend`.
pub fn router<B: Backend>(backend: Arc<B>) -> Router {
    Router::new()
        .route("/_ping", get(ping).head(ping))
        .route("/version", get(version))
        .route("/info", get(info::<B>))
        .route("/containers/json", get(list_containers::<B>))
        .route("/containers/{id}/json", get(inspect_container::<B>))
        .route("/containers/{id}/stop", post(stop::<B>))
        .route("/containers/{id}", delete(remove::<B>))
        .route("/networks", get(list_networks::<B>))
        .route("/networks/{id}", get(inspect_network::<B>))
        .route("/tunbridge/containers", post(create::<B>))
        .route("/tunbridge/containers/{id}/started", post(started::<B>))
        .route("/tunbridge/containers/{id}/exited", post(exited::<B>))
        .route("/tunbridge/containers/{id}/publish", post(publish::<B>))
        .route("/tunbridge/containers/{id}/unpublish", post(unpublish::<B>))
        .route("/tunbridge/flows", get(flows::<B>))
        .route("/tunbridge/stats", get(stats::<B>))
        .route("/tunbridge/doctor", get(doctor::<B>))
        .fallback(not_implemented)
        .method_not_allowed_fallback(not_implemented)
        .with_state(backend)
}

/// Serves `backend` on `listener` until `shutdown` completes.
///
/// # Errors
/// If accepting connections fails for good.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // The version prefix must go before routing, hence a layer around the whole router.
    let app = Router::new()
        .fallback_service(router(backend))
        .layer(middleware::from_fn(add_headers))
        .layer(middleware::from_fn(|ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next| async move {
            tracing::debug!(method = %request.method(), path = %request.uri(), pid = peer.pid, uid = peer.uid, "request");
            next.run(request).await
        }))
        .layer(middleware::map_request(strip_version));
    axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(shutdown)
        .await
}

/// `/v1.41/networks` is `/networks`.
async fn strip_version(mut request: Request) -> Request {
    let rest = request.uri().path_and_query().and_then(|target| {
        let (version, rest) = target.as_str().strip_prefix("/v1.")?.split_once('/')?;
        (!version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| format!("/{rest}"))
    });
    if let Some(uri) = rest.and_then(|rest| rest.parse::<Uri>().ok()) {
        *request.uri_mut() = uri;
    }
    request
}

async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(DOCKER_API_VERSION));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("tunbridge/", env!("CARGO_PKG_VERSION"))),
    );
    response
}

async fn not_implemented(request: Request) -> ApiError {
    ApiError::new(
        501,
        format!(
            "tunbridge does not implement {} {}: it provides container networks, not containers or images",
            request.method(),
            request.uri().path()
        ),
    )
}

/// Parses a body with an error that names the field.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("invalid request body: {error}")))
}

/// Docker's clients write booleans as `1`, `true`, `True` or leave the value out.
fn is_true(query: &BTreeMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|value| {
        matches!(
            value.to_ascii_lowercase().as_str(),
            "1" | "true" | "t" | "yes" | ""
        )
    })
}

async fn ping() -> Response {
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        Body::from("OK"),
    )
        .into_response()
}

async fn version() -> Json<Value> {
    Json(json!({
        "Platform": {"Name": "tunbridge"},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": DOCKER_API_VERSION,
        "MinAPIVersion": "1.24",
        "TunbridgeApiVersion": super::types::API_VERSION,
        "Os": std::env::consts::OS,
        "Arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
    }))
}

type Core<B> = State<Arc<B>>;
type Params = Query<BTreeMap<String, String>>;

async fn info<B: Backend>(State(backend): Core<B>) -> Answer<Json<Value>> {
    let info = backend.info().await?;
    Ok(Json(json!({
        "ID": "",
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "DockerRootDir": info.state_dir,
        "IPv4Forwarding": info.ipv4_forwarding,
    })))
}

async fn list_containers<B: Backend>(
    State(backend): Core<B>,
    Query(query): Params,
) -> Answer<Json<Value>> {
    let query = ListContainers {
        all: is_true(&query, "all"),
        ..ListContainers::default()
    };
    backend.list_containers(query).await.map(Json)
}

async fn inspect_container<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    backend.inspect_container(&id).await.map(Json)
}

async fn stop<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    Query(query): Params,
) -> Answer<StatusCode> {
    let grace = match query.get("t") {
        None => 10,
        Some(text) => text.parse().map_err(|_| {
            ApiError::bad_request(format!("invalid t={text}: give whole seconds, 0 or more"))
        })?,
    };
    let stopped = backend.stop(&id, grace).await?;
    Ok(if stopped {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_MODIFIED
    })
}

async fn remove<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    Query(query): Params,
) -> Answer<StatusCode> {
    backend.remove(&id, is_true(&query, "force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_networks<B: Backend>(State(backend): Core<B>) -> Answer<Json<Value>> {
    backend.list_networks(Filters::default()).await.map(Json)
}

async fn inspect_network<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    backend.inspect_network(&id).await.map(Json)
}

async fn create<B: Backend>(
    State(backend): Core<B>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Answer<(StatusCode, Json<CreatedContainer>)> {
    let request = parse::<CreateContainer>(&body)?;
    backend
        .create(request, peer)
        .await
        .map(|created| (StatusCode::CREATED, Json(created)))
}

async fn started<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    backend.started(&id, parse(&body)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn exited<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    backend.exited(&id, parse(&body)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn publish<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    backend
        .publish(&id, &parse::<ChangePorts>(&body)?.spec)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpublish<B: Backend>(
    State(backend): Core<B>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    backend
        .unpublish(&id, &parse::<ChangePorts>(&body)?.spec)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn flows<B: Backend>(State(backend): Core<B>) -> Answer<Json<Vec<Flow>>> {
    backend.flows().await.map(Json)
}

async fn stats<B: Backend>(State(backend): Core<B>) -> Answer<Json<Stats>> {
    backend.stats().await.map(Json)
}

async fn doctor<B: Backend>(State(backend): Core<B>) -> Answer<Json<Vec<Finding>>> {
    backend.doctor().await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stripped(uri: &str) -> String {
        let request = Request::builder()
            .uri(uri)
            .body(Body::empty())
            .expect("a valid request");
        strip_version(request).await.uri().to_string()
    }

    #[tokio::test]
    async fn a_version_prefix_is_taken_off() {
        assert_eq!(stripped("/v1.41/networks?x=1").await, "/networks?x=1");
        assert_eq!(stripped("/networks").await, "/networks");
        assert_eq!(stripped("/v1.x/networks").await, "/v1.x/networks");
        assert_eq!(stripped("/v1.41").await, "/v1.41");
    }

    #[test]
    fn booleans_are_read_as_docker_writes_them() {
        let query = |value: &str| BTreeMap::from([("all".to_owned(), value.to_owned())]);
        assert!(is_true(&query("1"), "all") && is_true(&query("True"), "all"));
        assert!(!is_true(&query("0"), "all") && !is_true(&query("false"), "all"));
        assert!(!is_true(&BTreeMap::new(), "all"));
    }
}
