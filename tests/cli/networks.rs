//! The fake daemon's networks and events.

use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub(crate) const EVENTS: &str = concat!(
    r#"{"Type":"network","Action":"connect","Actor":{"ID":"ee","Attributes":{"container":"ab","name":"net5","type":"bridge"}},"scope":"local","time":1700000000,"timeNano":1700000000123456789}"#,
    "\n",
    r#"{"Type":"container","Action":"die","Actor":{"ID":"ab","Attributes":{"name":"web"}},"scope":"local","time":1700000001,"timeNano":1700000001000000000}"#,
    "\n",
);

pub(crate) fn error(status: StatusCode, message: String) -> Response {
    (status, axum::Json(json!({"message": message}))).into_response()
}

/// What `GET /networks` tells of a network.
fn network(name: &str, id: &str) -> Value {
    json!({
        "Name": name, "Id": id.repeat(32), "Created": "2026-11-21T07:06:57.147901932Z", "Scope": "local",
        "Driver": "bridge", "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.254"}]},
        "Internal": name == "net10", "Containers": {}, "Options": {"com.docker.network.bridge.name": "brfive"},
        "Labels": {"x.y-z": "1", "b": "2"},
    })
}

/// Answers requests about networks: there are net10, net2 and bridge, and net5 for `inspect`.
pub(crate) fn answer(method: &Method, path: &[&str], uri: &Uri, body: &Value) -> Response {
    let not_found = |name: &str| error(StatusCode::NOT_FOUND, format!("network {name} not found"));
    match (method.as_str(), path) {
        ("GET", []) => axum::Json(json!([
            network("net10", "10"),
            network("net2", "22"),
            network("bridge", "bb"),
        ]))
        .into_response(),
        ("GET", ["net5"]) => axum::Json(network("net5", "55")).into_response(),
        ("POST", ["create"]) => {
            let warning = if body["Internal"] == true {
                "beware"
            } else {
                ""
            };
            let created = json!({"Id": "cd".repeat(32), "Warning": warning});
            (StatusCode::CREATED, axum::Json(created)).into_response()
        }
        ("POST", ["prune"]) => {
            let nothing = uri.query().is_some_and(|query| query.contains("until"));
            let deleted = if nothing {
                Value::Null
            } else {
                json!(["a", "b"])
            };
            axum::Json(json!({"NetworksDeleted": deleted})).into_response()
        }
        ("POST", [_, "connect" | "disconnect"]) => StatusCode::OK.into_response(),
        ("DELETE", [name]) if *name != "nosuch" => StatusCode::NO_CONTENT.into_response(),
        (_, [name, ..]) => not_found(name),
        _ => error(StatusCode::NOT_IMPLEMENTED, format!("no {uri}")),
    }
}
