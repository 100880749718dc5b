//! The routes. One list makes the router, [`ROUTES`] and the OpenAPI document, so that they cannot differ in
//! what they contain; that each handler's documentation names its own route is tested.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa::{IntoResponses, OpenApi};

use super::super::types::ErrorBody;
use super::{ApiError, Backend, containers, networks, own, pools, runtime, stream, system};

/// Streams of events at a time.
const EVENT_STREAMS: usize = 64;

/// What every handler has.
#[derive(Debug)]
pub(super) struct Api<B> {
    pub(super) backend: Arc<B>,
    /// True when the server is to end.
    pub(super) closing: watch::Receiver<bool>,
    event_streams: Arc<Semaphore>,
}

impl<B> Api<B> {
    pub(super) fn new(backend: Arc<B>, closing: watch::Receiver<bool>) -> Self {
        Self {
            backend,
            closing,
            event_streams: Arc::new(Semaphore::new(EVENT_STREAMS)),
        }
    }

    /// A place for one more stream of events, if there is one.
    pub(super) fn event_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.event_streams).try_acquire_owned().ok()
    }

    /// Open streams of events.
    pub(super) fn event_readers(&self) -> usize {
        EVENT_STREAMS.saturating_sub(self.event_streams.available_permits())
    }
}

/// The state that handlers extract.
pub(super) type Shared<B> = State<Arc<Api<B>>>;

macro_rules! routes {
    ($($method:ident $path:literal $module:ident::$handler:ident;)*) => {
        /// Method and path of every route.
        pub const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn table<B: Backend>() -> Router<Arc<Api<B>>> {
            Router::new()$(.route($path, axum::routing::$method($module::$handler::<B>)))*
        }

        #[derive(OpenApi)]
        #[openapi(
            paths($($module::$handler),*),
            tags(
                (name = "docker", description = "Docker Engine API, also under /v1.24 … /v1.52"),
                (name = "tunbridge", description = "Our own"),
            ),
        )]
        struct Document;
    };
}

routes! {
    get "/_ping" system::ping;
    get "/version" system::version;
    get "/info" system::info;
    get "/events" stream::events;
    get "/containers/json" containers::list_containers;
    get "/containers/{id}/json" containers::inspect_container;
    post "/containers/{id}/stop" containers::stop;
    post "/containers/{id}/kill" containers::kill;
    delete "/containers/{id}" containers::delete_container;
    delete "/containers/{id}/{alias}" containers::link;
    get "/networks" networks::list_networks;
    post "/networks/create" networks::create_network;
    post "/networks/prune" networks::prune_networks;
    get "/networks/{id}" networks::inspect_network;
    delete "/networks/{id}" networks::remove_network;
    post "/networks/{id}/connect" networks::connect;
    post "/networks/{id}/disconnect" networks::disconnect;
    get "/images/{name}/json" system::inspect_image;
    get "/volumes/{name}" system::inspect_volume;
    get "/plugins/{name}/json" system::inspect_plugin;
    post "/tunbridge/containers" own::create_container;
    post "/tunbridge/containers/{id}/start" own::start_container;
    post "/tunbridge/containers/{id}/started" own::started;
    post "/tunbridge/containers/{id}/exited" own::exited;
    post "/tunbridge/containers/{id}/publish" own::publish;
    post "/tunbridge/containers/{id}/unpublish" own::unpublish;
    post "/tunbridge/endpoints" runtime::attach_endpoint;
    post "/tunbridge/endpoints/detach" runtime::detach_endpoint;
    post "/tunbridge/endpoints/check" runtime::check_endpoint;
    post "/tunbridge/endpoints/collect" runtime::collect_endpoints;
    post "/tunbridge/endpoints/bandwidth" runtime::limit_endpoint;
    post "/tunbridge/endpoints/publish" runtime::publish_endpoint;
    post "/tunbridge/endpoints/name" runtime::name_endpoint;
    get "/tunbridge/networks/{id}/names" pools::network_names;
    post "/tunbridge/networks/{id}/labels" pools::change_labels;
    get "/tunbridge/pools" pools::list;
    post "/tunbridge/pools" pools::request;
    delete "/tunbridge/pools/{id}" pools::release;
    post "/tunbridge/pools/{id}/addresses" pools::request_address;
    post "/tunbridge/pools/{id}/release" pools::release_address;
    get "/tunbridge/host" runtime::host;
    get "/tunbridge/flows" own::flows;
    get "/tunbridge/stats" own::stats;
    get "/tunbridge/doctor" own::doctor;
    get "/tunbridge/openapi.json" own::openapi;
}

/// The errors that any request may have.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "for the document only")]
pub(super) enum Errors {
    /// The request is wrong
    #[response(status = 400)]
    Wrong(ErrorBody),
    /// There is no such thing
    #[response(status = 404)]
    Missing(ErrorBody),
    /// It cannot be done now, or not twice
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The daemon's failure
    #[response(status = 500)]
    Failure(ErrorBody),
    /// tunbridge does not do that
    #[response(status = 501)]
    NotImplemented(ErrorBody),
}

/// The OpenAPI document of [`ROUTES`].
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The whole API without versions in paths.
pub(super) fn router<B: Backend>(api: Arc<Api<B>>) -> Router {
    table()
        .fallback(not_served)
        .method_not_allowed_fallback(not_served)
        .with_state(api)
}

/// Why what Docker has at this path and method is not here, in words; `None`: Docker has nothing there.
fn missing(method: &str, path: &str) -> Option<String> {
    const DOCKERS: [&str; 16] = [
        "images",
        "build",
        "commit",
        "distribution",
        "auth",
        "volumes",
        "plugins",
        "swarm",
        "nodes",
        "services",
        "tasks",
        "secrets",
        "configs",
        "system",
        "session",
        "grpc",
    ];
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let not_implemented =
        |why: &str| format!("tunbridge does not implement {method} {path}: {why}");
    Some(match (method, segments.as_slice()) {
        ("POST", ["containers", "create"]) => {
            "tunbridge makes no containers from images: use `tunbridge run`, or give another program's container a network with `tunbridge attach`".to_owned()
        }
        ("POST", ["containers", _, "start" | "restart"]) => {
            "tunbridge does not start programs over the API, they would be the daemon's children: use `tunbridge start`".to_owned()
        }
        ("POST", ["containers", _, "exec"]) | (_, ["exec", ..]) => {
            "tunbridge does not run programs over the API: use `tunbridge exec`".to_owned()
        }
        ("GET", ["containers", _, "logs"]) => {
            "tunbridge serves no logs over the API: what a program of `run -d` writes is in the file that `inspect` calls LogPath".to_owned()
        }
        (_, ["containers", ..]) => {
            not_implemented("it provides the networks of containers, nothing else of them")
        }
        (_, ["networks" | "tunbridge", ..]) => {
            not_implemented("GET /tunbridge/openapi.json lists what it does")
        }
        (_, [first, ..]) if DOCKERS.contains(first) => {
            not_implemented("it has no images, volumes, plugins, swarms or builds, only container networks")
        }
        _ => return None,
    })
}

async fn not_served(request: Request) -> ApiError {
    let (head, body) = request.into_parts();
    super::requests::discard(body).await;
    match missing(head.method.as_str(), head.uri.path()) {
        Some(sentence) => ApiError::not_implemented(sentence),
        None => ApiError::new(404, "page not found"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_lists_exactly_the_routes() {
        let document = serde_json::to_value(document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(|method| (method.clone(), path.clone()))
            })
            .collect();
        let served: BTreeSet<(String, String)> = ROUTES
            .iter()
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(documented, served);
        assert_eq!(ROUTES.len(), served.len(), "a route stands twice");
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = serde_json::to_value(document()).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let mut references = 0;
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
            references += 1;
        }
        assert!(references > 20, "{references}");
    }

    #[test]
    fn what_docker_has_and_we_have_not_is_told_apart_from_nonsense() {
        assert!(
            missing("POST", "/containers/create")
                .unwrap()
                .contains("tunbridge run")
        );
        assert!(
            missing("POST", "/containers/web/start")
                .unwrap()
                .contains("tunbridge start")
        );
        assert!(
            missing("POST", "/exec/ab/start")
                .unwrap()
                .contains("tunbridge exec")
        );
        assert!(missing("GET", "/containers/web/logs").is_some());
        assert!(missing("PUT", "/networks").is_some());
        assert!(missing("GET", "/images/json").is_some());
        assert_eq!(missing("GET", "/nonsense"), None);
        assert_eq!(missing("GET", "/"), None);
        assert_eq!(missing("GET", "/v1.x/networks"), None);
    }
}
