//! API versions: `/v1.41/networks` is `/networks`, answered as a client of version 1.41 expects it.
//!
//! Docker's clients ask `/_ping` for the newest version and take the older of that and their own. Without
//! a version in its path a request gets everything: what is new, and what newer versions left out.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::requests::discard;
use super::{Answer, ApiError};

/// The newest version of the Docker Engine API that is served.
pub const MAX_VERSION: &str = "1.52";

/// The oldest one.
pub const MIN_VERSION: &str = "1.24";

const MAX: Number = (1, 52);
const MIN: Number = (1, 24);

/// Major and minor.
pub(super) type Number = (u64, u64);

/// The version that a request named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(pub(super) Option<Number>);

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

impl Version {
    /// The client knows 1.52, in which Docker left out what had been deprecated.
    pub(super) fn without_legacy(self) -> bool {
        self.since((1, 52))
    }

    /// Whether the client speaks this version or a newer one, and said so.
    pub(super) fn since(self, other: Number) -> bool {
        self.0.is_some_and(|number| number >= other)
    }

    /// Whether the client speaks an older version than this.
    pub(super) fn before(self, other: Number) -> bool {
        self.0.is_some_and(|number| number < other)
    }
}

/// Takes the version off the path, refuses one that is not served, and sets the headers that Docker's clients
/// look at.
pub(super) async fn negotiate(mut request: Request, next: Next) -> Response {
    let mut response = match split(&mut request) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            next.run(request).await
        }
        Err(error) => {
            discard(request.into_body()).await;
            error.into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(MAX_VERSION));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("tunbridge/", env!("CARGO_PKG_VERSION"))),
    );
    response
}

fn split(request: &mut Request) -> Answer<Version> {
    let target = request.uri().path_and_query().map_or("", |t| t.as_str());
    let Some((version, rest)) = target.strip_prefix("/v").and_then(|t| t.split_once('/')) else {
        return Ok(Version::default());
    };
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(Version::default());
    }
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        return Err(ApiError::bad_request(format!(
            "invalid API version {version}: give one from {MIN_VERSION} to {MAX_VERSION}, as in /v{MAX_VERSION}/version"
        )));
    };
    let number = (major, minor);
    if number < MIN {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is {MIN_VERSION}, please upgrade your client to a newer version"
        )));
    }
    if number > MAX {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {MAX_VERSION}"
        )));
    }
    let uri = format!("/{rest}")
        .parse::<Uri>()
        .map_err(|error| ApiError::bad_request(format!("invalid path /{rest}: {error}")))?;
    *request.uri_mut() = uri;
    Ok(Version(Some(number)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn asked(uri: &str) -> Result<(String, Version), String> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().map_err(|_| uri.to_owned())?;
        let version = split(&mut request).map_err(|error| error.message)?;
        Ok((request.uri().to_string(), version))
    }

    #[test]
    fn the_version_is_taken_off_the_path() {
        let version = |number| Version(Some(number));
        for (uri, expected) in [
            ("/v1.41/networks?x=1", ("/networks?x=1", version((1, 41)))),
            ("/v1.24/_ping", ("/_ping", version((1, 24)))),
            (
                "/v1.52/containers/a%2Fb/json",
                ("/containers/a%2Fb/json", version((1, 52))),
            ),
            ("/networks", ("/networks", Version(None))),
            ("/v1.x/networks", ("/v1.x/networks", Version(None))),
            ("/version", ("/version", Version(None))),
            ("/volumes/v1.41", ("/volumes/v1.41", Version(None))),
            ("/v1.41", ("/v1.41", Version(None))),
        ] {
            assert_eq!(asked(uri), Ok((expected.0.to_owned(), expected.1)), "{uri}");
        }
    }

    #[test]
    fn versions_that_are_not_served_are_refused_with_dockers_words() {
        for (uri, text) in [
            (
                "/v1.53/info",
                "client version 1.53 is too new. Maximum supported API version is 1.52",
            ),
            (
                "/v2.0/info",
                "client version 2.0 is too new. Maximum supported API version is 1.52",
            ),
            (
                "/v1.9/info",
                "client version 1.9 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
            ),
        ] {
            assert_eq!(asked(uri).unwrap_err(), text);
        }
        assert!(
            asked("/v1.2.3/info")
                .unwrap_err()
                .starts_with("invalid API version 1.2.3:")
        );
        assert!(asked("/v1.99999999999999999999/info").is_err());
    }

    #[test]
    fn constants_agree() {
        assert_eq!(format!("{}.{}", MAX.0, MAX.1), MAX_VERSION);
        assert_eq!(format!("{}.{}", MIN.0, MIN.1), MIN_VERSION);
    }
}
