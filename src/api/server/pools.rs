//! `/tunbridge/pools…` and what else dockerd's driver needs of networks: labels and names.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::super::types::{
    ChangeLabels, LeasedAddress, LeasedPool, NamedEndpoint, ReleaseAddress, RequestAddress,
    RequestLeasedPool,
};
use super::requests::{Id, JsonBody};
use super::routes::{Errors, Shared};
use super::{Answer, Backend};

/// Set a subnet aside, of a network or for one to come, whose addresses another program will give out.
#[utoipa::path(
    post, path = "/tunbridge/pools", tag = "tunbridge", request_body = RequestLeasedPool,
    responses((status = 201, description = "The pool", body = LeasedPool), Errors),
)]
pub(super) async fn request<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<RequestLeasedPool>,
) -> Answer<(StatusCode, Json<LeasedPool>)> {
    let pool = api.backend.request_pool(request).await?;
    Ok((StatusCode::CREATED, Json(pool)))
}

/// The pools of which addresses are leased.
#[utoipa::path(
    get, path = "/tunbridge/pools", tag = "tunbridge",
    responses((status = 200, description = "Pools", body = Vec<LeasedPool>), Errors),
)]
pub(super) async fn list<B: Backend>(State(api): Shared<B>) -> Answer<Json<Vec<LeasedPool>>> {
    api.backend.pools().await.map(Json)
}

/// Give a pool back, with all leases.
#[utoipa::path(
    delete, path = "/tunbridge/pools/{id}", tag = "tunbridge",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone"), Errors),
)]
pub(super) async fn release<B: Backend>(State(api): Shared<B>, Id(id): Id) -> Answer<StatusCode> {
    api.backend.release_pool(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lease an address of a pool.
#[utoipa::path(
    post, path = "/tunbridge/pools/{id}/addresses", tag = "tunbridge", request_body = RequestAddress,
    params(("id" = String, Path, description = "The pool's id")),
    responses((status = 201, description = "The address", body = LeasedAddress), Errors),
)]
pub(super) async fn request_address<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(request): JsonBody<RequestAddress>,
) -> Answer<(StatusCode, Json<LeasedAddress>)> {
    let address = api.backend.request_address(&id, request).await?;
    Ok((StatusCode::CREATED, Json(address)))
}

/// Give an address back.
#[utoipa::path(
    post, path = "/tunbridge/pools/{id}/release", tag = "tunbridge", request_body = ReleaseAddress,
    params(("id" = String, Path, description = "The pool's id")),
    responses((status = 204, description = "It is free"), Errors),
)]
pub(super) async fn release_address<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(release): JsonBody<ReleaseAddress>,
) -> Answer<StatusCode> {
    api.backend.release_address(&id, release.address).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What containers of all doors are called on a network.
#[utoipa::path(
    get, path = "/tunbridge/networks/{id}/names", tag = "tunbridge",
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 200, description = "Names and addresses", body = Vec<NamedEndpoint>), Errors),
)]
pub(super) async fn network_names<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
) -> Answer<Json<Vec<NamedEndpoint>>> {
    api.backend.network_names(&id).await.map(Json)
}

/// Give labels to a network, or take them away.
#[utoipa::path(
    post, path = "/tunbridge/networks/{id}/labels", tag = "tunbridge", request_body = ChangeLabels,
    params(("id" = String, Path, description = "Id, name, or beginning of an id")),
    responses((status = 204, description = "Changed"), Errors),
)]
pub(super) async fn change_labels<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    JsonBody(change): JsonBody<ChangeLabels>,
) -> Answer<StatusCode> {
    api.backend.change_labels(&id, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
