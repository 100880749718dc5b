//! `/tunbridge/endpoints…`: for other container runtimes.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::super::descriptors::Descriptors;
use super::super::types::{
    AttachEndpoint, AttachedEndpoint, CollectEndpoints, EndpointReference, HostIdentity,
    LimitEndpoint, NameEndpoint, PublishEndpoint,
};
use super::requests::JsonBody;
use super::routes::{Errors, Shared};
use super::{Answer, Backend};

/// Give a container of another runtime one interface more. With `placement: namespace` a descriptor of its network
/// namespace comes with the connection (`SCM_RIGHTS`, on an empty line before the request).
#[utoipa::path(
    post, path = "/tunbridge/endpoints", tag = "tunbridge", request_body = AttachEndpoint,
    responses((status = 201, description = "What it has now", body = AttachedEndpoint), Errors),
)]
pub(super) async fn attach_endpoint<B: Backend>(
    State(api): Shared<B>,
    Extension(descriptors): Extension<Descriptors>,
    JsonBody(request): JsonBody<AttachEndpoint>,
) -> Answer<(StatusCode, Json<AttachedEndpoint>)> {
    let attached = api
        .backend
        .attach_endpoint(request, descriptors.take())
        .await?;
    Ok((StatusCode::CREATED, Json(attached)))
}

/// Take interfaces away that `POST /tunbridge/endpoints` made; what is not there is no error.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/detach", tag = "tunbridge", request_body = EndpointReference,
    responses((status = 204, description = "It is gone"), Errors),
)]
pub(super) async fn detach_endpoint<B: Backend>(
    State(api): Shared<B>,
    JsonBody(reference): JsonBody<EndpointReference>,
) -> Answer<StatusCode> {
    api.backend.detach_endpoint(reference).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Look whether an interface is still as it was made; the container's namespace comes as with the first request.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/check", tag = "tunbridge", request_body = EndpointReference,
    responses((status = 200, description = "As it should be", body = AttachedEndpoint), Errors),
)]
pub(super) async fn check_endpoint<B: Backend>(
    State(api): Shared<B>,
    Extension(descriptors): Extension<Descriptors>,
    JsonBody(reference): JsonBody<EndpointReference>,
) -> Answer<Json<AttachedEndpoint>> {
    let checked = api
        .backend
        .check_endpoint(reference, descriptors.take())
        .await?;
    Ok(Json(checked))
}

/// Take away what a runtime has on a network and does not know any more.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/collect", tag = "tunbridge", request_body = CollectEndpoints,
    responses((status = 204, description = "Only what is valid is left"), Errors),
)]
pub(super) async fn collect_endpoints<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<CollectEndpoints>,
) -> Answer<StatusCode> {
    api.backend.collect_endpoints(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Limit how fast an endpoint of a runtime's container sends and receives, in place of the limits that it has.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/bandwidth", tag = "tunbridge", request_body = LimitEndpoint,
    responses((status = 204, description = "It is limited so"), Errors),
)]
pub(super) async fn limit_endpoint<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<LimitEndpoint>,
) -> Answer<StatusCode> {
    api.backend.limit_endpoint(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Publish these ports of a runtime's container, in place of those that it has: all or, after an error, none of the new.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/publish", tag = "tunbridge", request_body = PublishEndpoint,
    responses((status = 204, description = "They are published"), Errors),
)]
pub(super) async fn publish_endpoint<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<PublishEndpoint>,
) -> Answer<StatusCode> {
    api.backend.publish_endpoint(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Call a runtime's container by its name, which the runtime tells late.
#[utoipa::path(
    post, path = "/tunbridge/endpoints/name", tag = "tunbridge", request_body = NameEndpoint,
    responses((status = 204, description = "It is found by it"), Errors),
)]
pub(super) async fn name_endpoint<B: Backend>(
    State(api): Shared<B>,
    JsonBody(request): JsonBody<NameEndpoint>,
) -> Answer<StatusCode> {
    api.backend.name_endpoint(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which host the daemon serves.
#[utoipa::path(
    get, path = "/tunbridge/host", tag = "tunbridge",
    responses((status = 200, description = "Its namespace and version", body = HostIdentity), Errors),
)]
pub(super) async fn host<B: Backend>(State(api): Shared<B>) -> Answer<Json<HostIdentity>> {
    api.backend.host().await.map(Json)
}
