//! A daemon that remembers what it is asked, a dockerd that says what it is told to, and a plugin that asks both.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tunbridge::api::client::{Client, ClientError};
use tunbridge::api::server::serve_router;
use tunbridge::docker_plugin::{Plugin, Settings, accompany, router};

pub(crate) const NETWORK: &str = "d5f95230a2b159fc600cf558380e69f915916271da066824cf523331d81eedee";
pub(crate) const ENDPOINT: &str =
    "0ee066adf5c1ca10d08225345165fa69a77c95b072f4959299d27421ebf7576d";

#[derive(Debug, Default)]
struct Records {
    /// Method and path, and the body or null.
    asked: Vec<(String, Value)>,
    networks: Vec<Value>,
    /// Containers, with the ids of their networks.
    names: Vec<(String, Value)>,
    pools: Vec<Value>,
    /// Networks of dockerd.
    dockers: Vec<Value>,
    /// dockerd does not answer.
    silent: bool,
    /// What is refused: end of a path, status, sentence; how often.
    refused: Vec<(String, u16, String, usize)>,
}

type Shared = Arc<Mutex<Records>>;

/// Both, until dropped.
#[derive(Debug)]
pub(crate) struct World {
    directory: TempDir,
    settings: Settings,
    plugin: Arc<Plugin>,
    records: Shared,
    ends: Vec<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let settings = Settings {
            daemon: directory.path().join("daemon.sock"),
            plugin_socket: directory.path().join("tunbridge.sock"),
            docker_socket: directory.path().join("docker.sock"),
        };
        let daemon = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&records));
        let plugin = Arc::new(Plugin::new(&settings));
        let mut ends = Vec::new();
        for (socket, app) in [
            (&settings.daemon, daemon),
            (&settings.plugin_socket, router(Arc::clone(&plugin))),
        ] {
            let (end, ended) = oneshot::channel::<()>();
            let listener = runtime.block_on(async { UnixListener::bind(socket).unwrap() });
            runtime.spawn(serve_router(listener, app, async {
                let _ = ended.await;
            }));
            ends.push(end);
        }
        Self {
            directory,
            settings,
            plugin,
            records,
            ends,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn plugin_socket(&self) -> PathBuf {
        self.directory.path().join("tunbridge.sock")
    }

    /// A network that there is.
    pub(crate) fn add_network(&self, network: Value) {
        self.records.lock().unwrap().networks.push(network);
    }

    /// A docker endpoint of [`NETWORK`] that has an address.
    pub(crate) fn add_endpoint(&self, id: &str, address: &str) {
        self.add_endpoint_of(NETWORK, id, address);
    }

    /// That of another docker network, which is the same here.
    pub(crate) fn add_endpoint_of(&self, docker: &str, id: &str, address: &str) {
        let named = json!({
            "container": id, "runtime": ["docker", id], "names": ["x"], "addresses": [address],
            "driver_opts": {"com.tunbridge.docker-network": docker},
        });
        let mut records = self.records.lock().unwrap();
        records.names.push(("aa".repeat(32), named));
    }

    /// A container of the daemon's own on a network.
    pub(crate) fn add_own_container(&self, network: &str, address: &str) {
        let named = json!({
            "container": "0a".repeat(32), "runtime": null, "names": ["own"], "addresses": [address],
        });
        let mut records = self.records.lock().unwrap();
        records.names.push((network.to_owned(), named));
    }

    /// A leased pool that there is.
    pub(crate) fn add_pool(&self, id: &str, subnet: &str, owner: Option<&str>) {
        self.records.lock().unwrap().pools.push(json!({
            "id": id, "subnet": subnet, "network": null, "owner": owner, "leases": [],
        }));
    }

    /// As whom the plugin asks for what is its own.
    pub(crate) fn owner(&self) -> String {
        self.plugin_socket().display().to_string()
    }

    /// dockerd's API begins to answer.
    pub(crate) fn start_dockerd(&mut self) {
        let listener = {
            let _guard = self.runtime.as_ref().unwrap().enter();
            UnixListener::bind(&self.settings.docker_socket).unwrap()
        };
        let app = Router::new()
            .fallback(answer_of_dockerd)
            .with_state(Arc::clone(&self.records));
        let (end, ended) = oneshot::channel::<()>();
        self.runtime
            .as_ref()
            .unwrap()
            .spawn(serve_router(listener, app, async {
                let _ = ended.await;
            }));
        self.ends.push(end);
    }

    /// Whether it leaves who asks without an answer.
    pub(crate) fn dockerd_is_silent(&self, silent: bool) {
        self.records.lock().unwrap().silent = silent;
    }

    /// A network of dockerd's.
    pub(crate) fn add_docker_network(&self, network: Value) {
        self.records.lock().unwrap().dockers.push(network);
    }

    /// Starts what looks by itself.
    pub(crate) fn accompany(&self) {
        let companion = accompany(Arc::clone(&self.plugin), self.settings.clone());
        self.runtime.as_ref().unwrap().spawn(companion);
    }

    /// The network of [`NETWORK`].
    pub(crate) fn with_network() -> Self {
        let world = Self::new();
        world.add_network(json!({
            "Name": "docker-d5f95230a2b1", "Id": "aa".repeat(32), "Internal": false,
            "IPAM": {"Config": [{"Subnet": "10.60.0.0/24", "Gateway": "10.60.0.1"}]}, "Options": {},
            "Labels": {format!("com.tunbridge.docker.{NETWORK}"): format!("own {}", world.owner())},
        }));
        world
    }

    /// Refuses the next `times` requests to what ends so.
    pub(crate) fn refuse(&self, end: &str, status: u16, sentence: &str, times: usize) {
        let refused = (end.to_owned(), status, sentence.to_owned(), times);
        self.records.lock().unwrap().refused.push(refused);
    }

    /// Everything that changed something, since the last time.
    pub(crate) fn changes(&self) -> Vec<(String, Value)> {
        let asked = std::mem::take(&mut self.records.lock().unwrap().asked);
        let changes = asked.into_iter();
        changes
            .filter(|(what, _)| !what.starts_with("GET "))
            .collect()
    }

    /// Paths of these.
    pub(crate) fn changed(&self) -> Vec<String> {
        self.changes().into_iter().map(|(what, _)| what).collect()
    }

    /// What the plugin answers.
    pub(crate) fn call(&self, call: &str, body: &Value) -> Value {
        let client = Client::new(&self.plugin_socket());
        match client.post(&format!("/{call}"), body) {
            Ok(answer) => answer,
            Err(ClientError::Refused { status, message }) => {
                json!({"status": status, "message": message})
            }
            Err(error) => panic!("{call}: {error}"),
        }
    }

    /// What went wrong, as dockerd prints it.
    #[track_caller]
    pub(crate) fn refused(&self, call: &str, body: &Value) -> String {
        let answer = self.call(call, body);
        let key = match call.starts_with("IpamDriver.") {
            true => "Error",
            false => "Err",
        };
        let sentence = answer[key].as_str();
        sentence
            .unwrap_or_else(|| panic!("{call} {body}: {answer}"))
            .to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ends.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(State(records): State<Shared>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut records = records.lock().unwrap();
    let query = uri.query().filter(|_| method == Method::DELETE);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    records
        .asked
        .push((format!("{method} {path}{query}"), body.clone()));
    let refused = records
        .refused
        .iter_mut()
        .find(|(end, _, _, times)| path.ends_with(end.as_str()) && *times > 0);
    if let Some((_, status, sentence, times)) = refused {
        *times -= 1;
        let status = StatusCode::from_u16(*status).unwrap();
        return (status, json!({"message": sentence}).to_string()).into_response();
    }
    let filter = percent(uri.query().unwrap_or_default());
    let known = |network: &&Value| {
        let labels = network["Labels"].as_object().unwrap();
        filter.is_empty() || labels.keys().any(|label| filter.contains(label.as_str()))
    };
    let answer = match (method.as_str(), path.as_str()) {
        ("GET", "/networks") => {
            json!(records.networks.iter().filter(known).collect::<Vec<_>>())
        }
        ("GET", path) if path.ends_with("/names") => {
            let on = |(network, _): &&(String, Value)| path.contains(network.as_str());
            let named = records.names.iter().filter(on).map(|(_, named)| named);
            json!(named.collect::<Vec<_>>())
        }
        ("GET", "/tunbridge/pools") => json!(records.pools),
        ("GET", path) if path.starts_with("/networks/") => {
            let name = path.trim_start_matches("/networks/");
            let found = records
                .networks
                .iter()
                .find(|network| network["Name"] == name);
            match found {
                Some(network) => network.clone(),
                None => {
                    return (StatusCode::NOT_FOUND, r#"{"message":"network not found"}"#)
                        .into_response();
                }
            }
        }
        ("POST", "/networks/create") => json!({"Id": "bb".repeat(32), "Warning": ""}),
        ("POST", "/tunbridge/endpoints" | "/tunbridge/endpoints/check") => attached(&body),
        ("POST", "/tunbridge/pools") => json!({
            "id": "cc".repeat(32), "subnet": "10.77.0.0/24", "network": null, "leases": [],
        }),
        ("POST", path) if path.ends_with("/addresses") => json!({"address": "10.77.0.2/24"}),
        _ => json!({}),
    };
    answer.to_string().into_response()
}

async fn answer_of_dockerd(State(records): State<Shared>, uri: Uri) -> Response {
    if uri.path() == "/events" || records.lock().unwrap().silent {
        return std::future::pending().await;
    }
    let records = records.lock().unwrap();
    let found = match uri.path() {
        "/networks" => Some(json!(records.dockers)),
        path => {
            let mut dockers = records.dockers.iter();
            let found = dockers.find(|network| path.ends_with(network["Id"].as_str().unwrap()));
            found.cloned()
        }
    };
    match found {
        Some(found) => found.to_string().into_response(),
        None => (StatusCode::NOT_FOUND, r#"{"message":"not found"}"#).into_response(),
    }
}

/// An endpoint as the daemon shows it: as asked for, else of the lowest address.
fn attached(request: &Value) -> Value {
    let settings = &request["settings"];
    let address = settings["IPAMConfig"]["IPv4Address"]
        .as_str()
        .unwrap_or("10.60.0.2");
    let mac = settings["MacAddress"]
        .as_str()
        .unwrap_or("02:42:0a:3c:00:02");
    let interface = |name: &str, mac: &str| json!({"name": name, "mac": mac, "mtu": 1500});
    json!({
        "container": request["container"], "name": "x", "network": "n", "network_id": "aa".repeat(32),
        "bridge": interface("tb-1", "02:00:00:00:00:01"), "host": interface("veth1", "02:00:00:00:00:01"),
        "inside": interface("veth0ee066a", mac), "addresses": [format!("{address}/24"), "fd00:60::2/64"],
        "gateways": ["10.60.0.1", "fd00:60::1"], "nameservers": [], "search": [], "options": [], "warnings": [],
    })
}

fn percent(text: &str) -> String {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            octets.push(u8::from_str_radix(str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            octets.push(octet);
        }
    }
    String::from_utf8(octets).unwrap()
}
