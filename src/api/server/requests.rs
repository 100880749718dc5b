//! What handlers take from a request: parameters, references, bodies. Everything is bounded, and what is wrong
//! is refused with Docker's words and status codes.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::super::filters::Filters;
use super::{Answer, ApiError};

/// Octets of a body. The longest true one, a container with thousands of ports, is far below.
const MAX_BODY: usize = 1 << 20;

/// For a body to come in whole.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Reads a body that nobody wants. A client that is still writing when the connection closes does not read why.
pub(super) async fn discard(body: Body) {
    // Whatever becomes of it, the answer is the same.
    let _ = tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await;
}

/// The query of a request. Of a parameter that comes twice the first counts, as in Go.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|_| ApiError::bad_request("invalid query: give name=value&name=value"))
    }
}

impl Params {
    /// The value of a parameter; empty if it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        let mut params = self.0.iter();
        params
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    /// Docker's `BoolValue`.
    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A whole number, if it is there.
    pub(super) fn number(&self, name: &str) -> Answer<Option<i64>> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid {name}={}: give a whole number",
                text.escape_debug()
            ))
        })
    }

    /// The parameter `filters`.
    pub(super) fn filters(&self) -> Answer<Filters> {
        Filters::parse(self.text("filters")).map_err(ApiError::bad_request)
    }
}

/// The last segment of the path that is a parameter: a name or id.
#[derive(Debug)]
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(rejection) => Err(ApiError::bad_request(format!(
                "invalid path {}: {}",
                parts.uri.path(),
                rejection.body_text()
            ))),
        }
    }
}

/// A JSON body. No body at all is `{}`, as Docker has it.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), MAX_BODY))
            .await
            .map_err(|_| ApiError::new(408, "the request body did not come within 10 seconds"))?
            .map_err(|error| {
                use std::error::Error;
                if error
                    .source()
                    .is_some_and(|e| e.is::<http_body_util::LengthLimitError>())
                {
                    ApiError::new(413, "the request body is longer than 1 MiB")
                } else {
                    ApiError::bad_request(format!("invalid request body: {error}"))
                }
            })?;
        check_content_type(content_type.as_deref(), body.is_empty())?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        parse(text).map(Self)
    }
}

fn check_content_type(content_type: Option<&str>, empty: bool) -> Answer<()> {
    let media = |text: &str| {
        let media = text.split(';').next().unwrap_or_default();
        media.trim().eq_ignore_ascii_case("application/json")
    };
    match content_type {
        None | Some("") if empty => Ok(()),
        Some(text) if media(text) => Ok(()),
        other => Err(ApiError::bad_request(format!(
            "unsupported Content-Type header ({}): must be 'application/json'",
            other.unwrap_or_default().escape_debug()
        ))),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    use serde_json::error::Category;
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        ApiError::bad_request(match error.classify() {
            Category::Eof => {
                "invalid JSON: got EOF while reading request body: give a whole JSON object"
                    .to_owned()
            }
            Category::Syntax if text.starts_with("trailing characters") => {
                "unexpected content after JSON: give one JSON object".to_owned()
            }
            Category::Data
                if text.starts_with("invalid IP") || text.starts_with("invalid link") =>
            {
                // Where in the JSON it stood is of no use to who typed the address.
                text.rsplit_once(" at line ")
                    .map_or(text.as_str(), |(sentence, _)| sentence)
                    .to_owned()
            }
            Category::Data | Category::Syntax | Category::Io => format!("invalid JSON: {text}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::types::{ConnectNetwork, CreateNetwork};
    use super::*;

    fn params(query: &str) -> Params {
        let uri = format!("/x?{query}").parse().unwrap();
        Params(Query::try_from_uri(&uri).unwrap().0)
    }

    #[test]
    fn flags_are_read_as_docker_reads_them() {
        for yes in [
            "a=1", "a=true", "a=True", "a=yes", "a=2", "a=1&a=0", "a=%201",
        ] {
            assert!(params(yes).flag("a"), "{yes}");
        }
        for no in [
            "", "a", "a=", "a=0", "a=false", "a=FALSE", "a=no", "a=none", "b=1",
        ] {
            assert!(!params(no).flag("a"), "{no}");
        }
    }

    #[test]
    fn numbers_and_filters_are_checked() {
        assert_eq!(params("limit=-1").number("limit").unwrap(), Some(-1));
        assert_eq!(params("").number("limit").unwrap(), None);
        let error = params("limit=x%0a").number("limit").unwrap_err();
        assert_eq!(error.message, r"invalid limit=x\n: give a whole number");
        let error = params("filters=x").filters().unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.starts_with("invalid filter: "), "{error:?}");
    }

    #[test]
    fn bodies_are_refused_with_dockers_words() {
        let refused = |text: &str| {
            let error = parse::<CreateNetwork>(text.as_bytes()).unwrap_err();
            assert_eq!(error.status, 400);
            error.message
        };
        assert!(refused("{").starts_with("invalid JSON: got EOF while reading request body"));
        assert!(refused("{} {}").starts_with("unexpected content after JSON"));
        assert!(refused("x").starts_with("invalid JSON: expected value"));
        assert!(refused(r#"{"Name":1}"#).starts_with("invalid JSON: invalid type"));
        let bad = r#"{"EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.5.9"}}}"#;
        let error = parse::<ConnectNetwork>(bad.as_bytes()).unwrap_err();
        assert_eq!(error.message, "invalid IPv4 address: 10.5.9");
    }

    #[test]
    fn bodies_are_json() {
        for (content_type, empty, good) in [
            (None, true, true),
            (None, false, false),
            (Some("application/json"), false, true),
            (Some("application/JSON; charset=utf-8"), false, true),
            (Some("text/plain"), false, false),
            (Some("text/plain"), true, false),
        ] {
            let checked = check_content_type(content_type, empty);
            assert_eq!(checked.is_ok(), good, "{content_type:?} {empty}");
        }
        assert_eq!(
            check_content_type(Some("text/plain"), false)
                .unwrap_err()
                .message,
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
    }
}
