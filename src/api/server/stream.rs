//! `GET /events`: kept events since a time, then new ones as they come, one JSON object a line.
//!
//! Memory is bounded: a reader holds a place in the bus, not a queue of its own. One that falls behind
//! by more than the bus keeps loses its stream; one that does not read at all loses its connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::super::events::{Event, now};
use super::super::filters::Filters;
use super::super::types::ErrorBody;
use super::requests::Params;
use super::routes::Shared;
use super::versions::Version;
use super::{Answer, ApiError, Backend, connections, times};

/// What is left to tell one reader.
struct Reader {
    filters: Filters,
    legacy: bool,
    past: VecDeque<Arc<Event>>,
    /// None: only the past was asked for.
    future: Option<Receiver<Arc<Event>>>,
    until: Option<Instant>,
    closing: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
}

/// Events of networks and containers.
#[utoipa::path(
    get, path = "/events", tag = "docker",
    params(
        ("since" = Option<String>, Query, description = "From the last 256 events those since this time: seconds since 1970, RFC 3339, or a Go duration before now. Absent: only new events"),
        ("until" = Option<String>, Query, description = "The stream ends at this time"),
        ("filters" = Option<String>, Query, description = "Keys container, event, label, network, scope, type"),
    ),
    responses(
        (status = 200, description = "One JSON object a line", content_type = "application/json", body = String),
        (status = 400, description = "A wrong parameter", body = ErrorBody),
        (status = 503, description = "Too many readers", body = ErrorBody),
    ),
)]
pub(super) async fn events<B: Backend>(
    State(api): Shared<B>,
    version: Version,
    headers: HeaderMap,
    params: Params,
) -> Answer<Response> {
    let now = now();
    let time = |name: &str| {
        match params.text(name) {
        "" => Ok(None),
        text => times::parse(text, now).map(Some).ok_or_else(|| {
            ApiError::bad_request(format!(
                "invalid {name}={}: give seconds since 1970, a time as in 2006-01-02T15:04:05Z, or a duration such as 10m",
                text.escape_debug()
            ))
        }),
    }
    };
    let (since, until) = (time("since")?, time("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            params.text("since").escape_debug(),
            params.text("until").escape_debug()
        )));
    }
    let filters = params.filters()?;
    let slot = api.event_slot().ok_or_else(|| {
        ApiError::new(
            503,
            "too many streams of events: end one of the clients that read GET /events",
        )
    })?;
    let (mut past, future) = api.backend.events().subscribe();
    past.retain(|event| {
        // Without a time, only what comes.
        (since.is_some() || until.is_some())
            && since.is_none_or(|since| event.time >= since)
            && until.is_none_or(|until| event.time <= until)
    });
    let left = until
        .map(|until| Duration::from_nanos(u64::try_from(until.saturating_sub(now)).unwrap_or(0)));
    let reader = Reader {
        filters,
        legacy: !version.without_legacy(),
        past,
        future: left.is_none_or(|left| !left.is_zero()).then_some(future),
        // Beyond what the clock can count is never.
        until: left.and_then(|left| Instant::now().checked_add(left)),
        closing: api.closing.clone(),
        _slot: slot,
    };
    let lines = stream::unfold(reader, |mut reader| async {
        let line = reader.next().await?;
        Some((Ok::<_, Infallible>(line), reader))
    });
    let headers = [(header::CONTENT_TYPE, content_type(&headers))];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The same lines have three names; newer clients ask for one of the others.
fn content_type(headers: &HeaderMap) -> &'static str {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let accept = accept.unwrap_or_default();
    ["application/x-ndjson", "application/jsonl"]
        .into_iter()
        .find(|name| accept.contains(name))
        .unwrap_or("application/json")
}

impl Reader {
    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => self.wait().await?,
            };
            if event.passes(&self.filters) {
                let line = format!("{}\n", event.json(self.legacy));
                return Some(line.into());
            }
        }
    }

    async fn wait(&mut self) -> Option<Arc<Event>> {
        let future = self.future.as_mut()?;
        let until = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = future.recv() => match event {
                Ok(event) => Some(event),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a reader of events is too slow: its stream ends");
                    None
                }
            },
            () = until => None,
            () = connections::closed(&mut self.closing) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_named_as_the_client_wants() {
        for (accept, expected) in [
            (None, "application/json"),
            (Some("*/*"), "application/json"),
            (
                Some("application/x-ndjson, application/json-seq;q=0.5"),
                "application/x-ndjson",
            ),
            (Some("application/jsonl"), "application/jsonl"),
        ] {
            let value = accept.map(|accept| (header::ACCEPT, accept.parse().unwrap()));
            assert_eq!(
                content_type(&value.into_iter().collect()),
                expected,
                "{accept:?}"
            );
        }
    }
}
