//! `/containers…`

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::super::types::ListContainers;
use super::requests::{Id, Params};
use super::routes::{Errors, Shared};
use super::versions::Version;
use super::{Answer, ApiError, Backend, signals};

/// Docker's seconds between SIGTERM and SIGKILL.
const GRACE: u64 = 10;

/// The longest time that can be waited for, 68 years; Docker's -1 is `for ever`.
const LONGEST_GRACE: u64 = 0x7fff_ffff;

/// List containers.
#[utoipa::path(
    get, path = "/containers/json", tag = "docker",
    params(
        ("all" = Option<bool>, Query, description = "Those that do not run, too"),
        ("limit" = Option<i64>, Query, description = "Only the newest so many, running or not"),
        ("size" = Option<bool>, Query, description = "Says nothing more here"),
        ("filters" = Option<String>, Query, description = "As `docker ps --filter`"),
    ),
    responses((status = 200, description = "An array of containers, newest first", body = Vec<Value>), Errors),
)]
pub(super) async fn list_containers<B: Backend>(
    State(api): Shared<B>,
    version: Version,
    params: Params,
) -> Answer<Json<Value>> {
    let limit = params
        .number("limit")?
        .and_then(|n| usize::try_from(n).ok());
    let query = ListContainers {
        all: params.flag("all"),
        // Docker's "no limit" is 0 or less.
        limit: limit.filter(|limit| *limit > 0),
        filters: params.filters()?,
    };
    let mut containers = api.backend.list_containers(query).await?;
    for container in containers.as_array_mut().into_iter().flatten() {
        *container = version.container_summary(container.take());
    }
    Ok(Json(containers))
}

/// Inspect a container.
#[utoipa::path(
    get, path = "/containers/{id}/json", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id"),
        ("size" = Option<bool>, Query, description = "Says nothing more here"),
    ),
    responses((status = 200, description = "The container", body = Value), Errors),
)]
pub(super) async fn inspect_container<B: Backend>(
    State(api): Shared<B>,
    version: Version,
    Id(id): Id,
) -> Answer<Json<Value>> {
    let container = api.backend.inspect_container(&id).await?;
    Ok(Json(version.container(container)))
}

/// Stop a container.
#[utoipa::path(
    post, path = "/containers/{id}/stop", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id"),
        ("t" = Option<i64>, Query, description = "Seconds between SIGTERM and SIGKILL, 10; less than 0: no SIGKILL"),
        ("signal" = Option<String>, Query, description = "SIGTERM; another one is answered with 501"),
    ),
    responses(
        (status = 204, description = "It has ended"),
        (status = 304, description = "It did not run"),
        Errors,
    ),
)]
pub(super) async fn stop<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    params: Params,
) -> Answer<StatusCode> {
    let signal = signals::number(params.text("signal"), Signal::SIGTERM)?;
    if signal != Signal::SIGTERM as i32 {
        return Err(ApiError::not_implemented(format!(
            "tunbridge stops containers with SIGTERM only: leave signal={} away, or use kill",
            params.text("signal").escape_debug()
        )));
    }
    let grace = match params.number("t")? {
        None => GRACE,
        Some(seconds) => u64::try_from(seconds)
            .unwrap_or(LONGEST_GRACE)
            .min(LONGEST_GRACE),
    };
    Ok(if api.backend.stop(&id, grace).await? {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_MODIFIED
    })
}

/// Send a signal to a container's process.
#[utoipa::path(
    post, path = "/containers/{id}/kill", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id"),
        ("signal" = Option<String>, Query, description = "Name or number, SIGKILL"),
    ),
    responses((status = 204, description = "It was sent"), Errors),
)]
pub(super) async fn kill<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    params: Params,
) -> Answer<StatusCode> {
    let signal = signals::number(params.text("signal"), Signal::SIGKILL)?;
    api.backend.kill(&id, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a container, or with `link` a link.
#[utoipa::path(
    delete, path = "/containers/{id}", tag = "docker",
    params(
        ("id" = String, Path, description = "Id, name, or beginning of an id; with link PARENT/ALIAS"),
        ("force" = Option<bool>, Query, description = "End it first if it runs"),
        ("v" = Option<bool>, Query, description = "Ignored, there are no volumes"),
        ("link" = Option<bool>, Query, description = "Remove the link that is named so, not the container"),
    ),
    responses((status = 204, description = "It is gone"), Errors),
)]
pub(super) async fn delete_container<B: Backend>(
    State(api): Shared<B>,
    Id(id): Id,
    params: Params,
) -> Answer<StatusCode> {
    if params.flag("link") {
        api.backend.remove_link(&id).await?;
    } else {
        api.backend.remove(&id, params.flag("force")).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a link. Docker's clients do not escape the slash in its name.
#[utoipa::path(
    delete, path = "/containers/{id}/{alias}", tag = "docker",
    params(
        ("id" = String, Path, description = "Name of the container that has the link"),
        ("alias" = String, Path, description = "Alias of the link"),
        ("link" = bool, Query, description = "Must be true"),
    ),
    responses((status = 204, description = "It is gone"), Errors),
)]
pub(super) async fn link<B: Backend>(
    State(api): Shared<B>,
    Path((parent, alias)): Path<(String, String)>,
    params: Params,
) -> Answer<StatusCode> {
    if !params.flag("link") {
        let name = format!("{parent}/{alias}");
        return Err(ApiError::new(404, format!("No such container: {name}")));
    }
    let link = format!("{parent}/{alias}");
    api.backend.remove_link(&link).await?;
    Ok(StatusCode::NO_CONTENT)
}
