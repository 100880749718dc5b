//! HTTP: one path per call, JSON in and out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Plugin;
use super::protocol::{Refusal, plain};

/// Octets of a body. The longest true one has thousands of ports.
const MAX_BODY: usize = 1 << 20;

/// For a body to come in whole.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Of Docker's plugin protocol, as dockerd asks for it.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// All calls.
pub fn router(plugin: Arc<Plugin>) -> Router {
    Router::new().fallback(answer).with_state(plugin)
}

async fn answer(State(plugin): State<Arc<Plugin>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // The IPAM protocol calls the same thing otherwise.
    let key = if path.starts_with("/IpamDriver.") {
        "Error"
    } else {
        "Err"
    };
    let refuse = |status, sentence: String| reply(status, &json!({ key: sentence }));
    let body = match read(body).await {
        Ok(body) => body,
        Err((status, sentence)) => return refuse(status, sentence),
    };
    if head.method != Method::POST {
        let sentence = format!("{} {}: use POST", head.method, path.escape_debug());
        return refuse(StatusCode::METHOD_NOT_ALLOWED, sentence);
    }
    match plugin.call(path, &body).await {
        Some(Ok(value)) => reply(StatusCode::OK, &value),
        Some(Err(Refusal(sentence))) => {
            tracing::warn!(call = path, error = %sentence, "refused");
            refuse(StatusCode::OK, sentence)
        }
        None => {
            let sentence = format!("tunbridge's plugin has no {}", path.escape_debug());
            refuse(StatusCode::NOT_FOUND, sentence)
        }
    }
}

fn reply(status: StatusCode, value: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    (status, headers, value.to_string()).into_response()
}

async fn read(body: Body) -> Result<Bytes, (StatusCode, String)> {
    match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request is broken, or longer than 1 MiB".to_owned(),
        )),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the request did not come within 10 seconds".to_owned(),
        )),
    }
}

impl Plugin {
    /// Answers a call; `None`: there is none of that name.
    async fn call(&self, path: &str, body: &[u8]) -> Option<Result<Value, Refusal>> {
        macro_rules! driver {
            ($call:ident) => {
                match parse(body) {
                    Ok(request) => self.$call(request).await.and_then(json),
                    Err(refusal) => Err(refusal),
                }
            };
        }
        Some(match path {
            "/Plugin.Activate" => {
                self.activated();
                Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]}))
            }
            "/NetworkDriver.GetCapabilities" => {
                Ok(json!({"Scope": "local", "ConnectivityScope": "local"}))
            }
            "/NetworkDriver.CreateNetwork" => driver!(create_network),
            "/NetworkDriver.DeleteNetwork" => driver!(delete_network),
            "/NetworkDriver.CreateEndpoint" => driver!(create_endpoint),
            "/NetworkDriver.DeleteEndpoint" => driver!(delete_endpoint),
            "/NetworkDriver.EndpointOperInfo" => {
                parse(body).and_then(|request| self.endpoint_info(&request))
            }
            "/NetworkDriver.Join" => driver!(join),
            "/NetworkDriver.Leave" => parse(body).and_then(|request| self.leave(&request)),
            "/NetworkDriver.ProgramExternalConnectivity" => driver!(program),
            "/NetworkDriver.RevokeExternalConnectivity" => driver!(revoke),
            // Of other hosts of a swarm.
            "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => Ok(json!({})),
            "/NetworkDriver.AllocateNetwork" | "/NetworkDriver.FreeNetwork" => Err(Refusal::new(
                "tunbridge networks are of one host: create it with --scope local",
            )),
            "/IpamDriver.GetCapabilities" => {
                Ok(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}))
            }
            "/IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": super::ipam_driver::ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": super::ipam_driver::ADDRESS_SPACE,
            })),
            "/IpamDriver.RequestPool" => driver!(request_pool),
            "/IpamDriver.ReleasePool" => driver!(release_pool),
            "/IpamDriver.RequestAddress" => driver!(request_address),
            "/IpamDriver.ReleaseAddress" => driver!(release_address),
            _ => return None,
        })
    }
}

fn json(value: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::new(plain(&error)))
}

/// dockerd repeats a request, without its body, if the plugin died before it answered: what was asked for is not known then.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return Err(Refusal::new(
            "the request has no body, as when dockerd repeats one after tunbridge's plugin was ended: repeat the command",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(format!(
            "cannot understand the request: {}: give a JSON object as libnetwork does",
            plain(&error)
        ))
    })
}
