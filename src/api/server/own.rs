//! `/tunbridge/…`: what Docker has not.

use std::sync::LazyLock;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::super::types::{
    ChangePorts, CreateContainer, CreatedContainer, Exited, Finding, Flow, StartSpec, Started,
    Stats,
};
use super::requests::{Id, JsonBody};
use super::routes::{self, Errors, Shared};
use super::{Answer, Backend, Peer};

/// Make a container and its network, before its process runs.
#[utoipa::path(
    post, path = "/tunbridge/containers", tag = "tunbridge", request_body = CreateContainer,
    responses((status = 201, description = "What its process needs", body = CreatedContainer), Errors),
)]
pub(super) async fn create_container<B: Backend>(
    State(api): Shared<B>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    JsonBody(request): JsonBody<CreateContainer>,
) -> Answer<(StatusCode, Json<CreatedContainer>)> {
    let created = api.backend.create(request, peer).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Make the network of a container that has exited, before its process runs again.
#[utoipa::path(
    post, path = "/tunbridge/containers/{id}/start", tag = "tunbridge",
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 200, description = "What its process needs", body = StartSpec), Errors),
)]
pub(super) async fn start_container<B: Backend>(
    State(api): Shared<B>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Id(id): Id,
) -> Answer<Json<StartSpec>> {
    api.backend.restart(&id, peer).await.map(Json)
}

/// The container's process runs.
#[utoipa::path(
    post, path = "/tunbridge/containers/{id}/started", tag = "tunbridge", request_body = Started,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 204, description = "Noted"), Errors),
)]
pub(super) async fn started<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(started): JsonBody<Started>,
) -> Answer<StatusCode> {
    api.backend.started(&id, started).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The container's process ended.
#[utoipa::path(
    post, path = "/tunbridge/containers/{id}/exited", tag = "tunbridge", request_body = Exited,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 204, description = "Noted"), Errors),
)]
pub(super) async fn exited<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(exited): JsonBody<Exited>,
) -> Answer<StatusCode> {
    api.backend.exited(&id, exited).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Publish one more port of a container.
#[utoipa::path(
    post, path = "/tunbridge/containers/{id}/publish", tag = "tunbridge", request_body = ChangePorts,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 204, description = "It is published"), Errors),
)]
pub(super) async fn publish<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(change): JsonBody<ChangePorts>,
) -> Answer<StatusCode> {
    api.backend.publish(&id, &change.spec).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a publication back.
#[utoipa::path(
    post, path = "/tunbridge/containers/{id}/unpublish", tag = "tunbridge", request_body = ChangePorts,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 204, description = "It is not published"), Errors),
)]
pub(super) async fn unpublish<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(change): JsonBody<ChangePorts>,
) -> Answer<StatusCode> {
    api.backend.unpublish(&id, &change.spec).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Live flows.
#[utoipa::path(
    get, path = "/tunbridge/flows", tag = "tunbridge",
    responses((status = 200, description = "Flows", body = Vec<Flow>), Errors),
)]
pub(super) async fn flows<B: Backend>(State(api): Shared<B>) -> Answer<Json<Vec<Flow>>> {
    api.backend.flows().await.map(Json)
}

/// Counters.
#[utoipa::path(
    get, path = "/tunbridge/stats", tag = "tunbridge",
    responses((status = 200, description = "Counters", body = Stats), Errors),
)]
pub(super) async fn stats<B: Backend>(State(api): Shared<B>) -> Answer<Json<Stats>> {
    api.backend.stats().await.map(Json)
}

/// What is wrong with the host.
#[utoipa::path(
    get, path = "/tunbridge/doctor", tag = "tunbridge",
    responses((status = 200, description = "Findings", body = Vec<Finding>), Errors),
)]
pub(super) async fn doctor<B: Backend>(State(api): Shared<B>) -> Answer<Json<Vec<Finding>>> {
    api.backend.doctor().await.map(Json)
}

/// This document.
#[utoipa::path(
    get, path = "/tunbridge/openapi.json", tag = "tunbridge",
    responses((status = 200, description = "OpenAPI 3.1", body = Value)),
)]
pub(super) async fn openapi<B: Backend>(_: Shared<B>) -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
        serde_json::to_vec(&routes::document())
            .unwrap_or_default()
            .into()
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, TEXT.clone()).into_response()
}
