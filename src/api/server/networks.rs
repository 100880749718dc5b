//! `/networks…`

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::super::types::{
    ConnectNetwork, CreateNetwork, CreatedNetwork, DisconnectNetwork, PrunedNetworks, WARNING,
};
use super::requests::{Id, JsonBody, Params};
use super::routes::{Errors, Shared};
use super::versions::Version;
use super::{Answer, ApiError, Backend};

/// List networks.
#[utoipa::path(
    get, path = "/networks", tag = "docker",
    params(("filters" = Option<String>, Query, description = "Keys dangling, driver, id, label, name, scope, type")),
    responses((status = 200, description = "An array of networks, without their containers", body = Vec<Value>), Errors),
)]
pub(super) async fn list_networks<B: Backend>(
    State(api): Shared<B>,
    version: Version,
    params: Params,
) -> Answer<Json<Value>> {
    let mut networks = api.backend.list_networks(params.filters()?).await?;
    for network in networks.as_array_mut().into_iter().flatten() {
        *network = version.network(network.take());
    }
    Ok(Json(networks))
}

/// Inspect a network.
#[utoipa::path(
    get, path = "/networks/{id}", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id"),
        ("verbose" = Option<bool>, Query, description = "Says nothing more here"),
        ("scope" = Option<String>, Query, description = "Only a network of this scope; all are `local`"),
    ),
    responses((status = 200, description = "The network and its containers", body = Value), Errors),
)]
pub(super) async fn inspect_network<B: Backend>(
    State(api): Shared<B>,
    version: Version,
    Id(id): Id,
    params: Params,
) -> Answer<Json<Value>> {
    if !matches!(params.text("scope"), "" | "local") {
        return Err(ApiError::new(404, format!("network {id} not found")));
    }
    let network = api.backend.inspect_network(&id).await?;
    Ok(Json(version.network(network)))
}

/// Create a network.
#[utoipa::path(
    post, path = "/networks/create", tag = "docker", request_body = CreateNetwork,
    responses((status = 201, description = "Its id", body = CreatedNetwork), Errors),
)]
pub(super) async fn create_network<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<CreateNetwork>,
) -> Answer<(StatusCode, Json<CreatedNetwork>)> {
    let created = api.backend.create_network(request).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Remove a network.
#[utoipa::path(
    delete, path = "/networks/{id}", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id"),
        ("force" = Option<bool>, Query, description = "Also if dockerd has it"),
    ),
    responses(
        (status = 204, description = "It is gone", headers(
            ("Tunbridge-Warning" = String, description = "What is left of it: its bridge, if interfaces of others are on it"),
        )),
        Errors,
    ),
)]
pub(super) async fn remove_network<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    params: Params,
) -> Answer<(StatusCode, HeaderMap)> {
    let left = api
        .backend
        .remove_network(&id, params.flag("force"))
        .await?;
    let mut headers = HeaderMap::new();
    if let Some(left) = left.and_then(|left| HeaderValue::try_from(left).ok()) {
        headers.insert(WARNING, left);
    }
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Remove networks without containers.
#[utoipa::path(
    post, path = "/networks/prune", tag = "docker",
    params(("filters" = Option<String>, Query, description = "Keys until, label, label!")),
    responses((status = 200, description = "Names of those that are gone", body = PrunedNetworks), Errors),
)]
pub(super) async fn prune_networks<B: Backend>(
    State(api): Shared<B>,
    params: Params,
) -> Answer<Json<PrunedNetworks>> {
    Ok(Json(api.backend.prune_networks(params.filters()?).await?))
}

/// Connect a container.
#[utoipa::path(
    post, path = "/networks/{id}/connect", tag = "docker", request_body = ConnectNetwork,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 200, description = "It is connected"), Errors),
)]
pub(super) async fn connect<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(request): JsonBody<ConnectNetwork>,
) -> Answer<StatusCode> {
    api.backend.connect(&id, request).await?;
    Ok(StatusCode::OK)
}

/// Disconnect a container.
#[utoipa::path(
    post, path = "/networks/{id}/disconnect", tag = "docker", request_body = DisconnectNetwork,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 200, description = "It is disconnected"), Errors),
)]
pub(super) async fn disconnect<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(request): JsonBody<DisconnectNetwork>,
) -> Answer<StatusCode> {
    api.backend.disconnect(&id, request).await?;
    Ok(StatusCode::OK)
}
