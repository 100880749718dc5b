//! A daemon without a data path: records what it is asked, makes a network namespace per container and
//! answers from a few records.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tunbridge::api::types::{CreateContainer, CreatedContainer, StartSpec};

use crate::networks;

/// One request: method and target, and the body or null.
pub(crate) type Asked = (String, Value);

#[derive(Debug, Default)]
struct Records {
    asked: Vec<Asked>,
    containers: BTreeMap<String, Value>,
    /// Targets ending in this are refused with a sentence.
    refuse: Option<&'static str>,
    /// What was answered to a request for a container, by id.
    created: BTreeMap<String, (CreateContainer, CreatedContainer)>,
    /// Namespaces made.
    netns: Vec<Namespace>,
}

/// A network namespace with an interface `tbcli0` to tell it by. It has no name: a crash leaves nothing
/// in /run/netns, and other programs do not see it.
#[derive(Debug)]
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn new() -> Self {
        let make = "ip link add tbcli0 type bridge && echo ready && exec cat";
        // `cat` ends with its input, so with this process, too.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", make])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "these tests need root");
        Self(holder)
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    records: Mutex<Records>,
}

/// Dropping it ends the server and removes its namespaces and files.
#[derive(Debug)]
pub(crate) struct FakeDaemon {
    directory: TempDir,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl FakeDaemon {
    pub(crate) fn start() -> Self {
        let directory = TempDir::with_prefix("tbcli-").unwrap();
        let shared = Arc::new(Shared {
            directory: directory.path().to_owned(),
            records: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let listener = {
            let _context = runtime.enter();
            tokio::net::UnixListener::bind(directory.path().join("sock")).unwrap()
        };
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            directory,
            shared,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// A directory for the test, next to the server's files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.shared.records.lock().unwrap()
    }

    /// Refuses every request whose target ends in `suffix`.
    pub(crate) fn refuse(&self, suffix: &'static str) {
        self.records().refuse = Some(suffix);
    }

    /// Adds an answer to `GET /containers/{name}/json`.
    pub(crate) fn add(&self, name: &str, inspect: Value) {
        self.records().containers.insert(name.to_owned(), inspect);
    }

    /// What `GET /containers/{name}/json` answers; null if there is no such container.
    pub(crate) fn container(&self, name: &str) -> Value {
        self.records()
            .containers
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    /// The requests so far, without those that only read.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let records = self.records();
        records
            .asked
            .iter()
            .filter(|(target, _)| !target.starts_with("GET"))
            .cloned()
            .collect()
    }

    /// Target of the last request that only read.
    pub(crate) fn last_read(&self) -> String {
        let records = self.records();
        let reads = records.asked.iter().rev();
        let mut reads = reads.filter_map(|(target, _)| target.strip_prefix("GET "));
        reads.next().unwrap_or_default().to_owned()
    }

    /// Method and target of [`FakeDaemon::asked`], ids shortened to `ID`.
    pub(crate) fn steps(&self) -> Vec<String> {
        let shorten = |(target, _): &Asked| {
            target
                .split('/')
                .map(|part| {
                    if part.len() >= 64 {
                        part.split_once('?')
                            .map_or_else(|| "ID".to_owned(), |(_, query)| format!("ID?{query}"))
                    } else {
                        part.to_owned()
                    }
                })
                .collect::<Vec<_>>()
                .join("/")
        };
        self.asked().iter().map(shorten).collect()
    }

    /// The exit code that was reported last, by whoever reported the process as started.
    #[track_caller]
    pub(crate) fn exit_code(&self) -> Value {
        let exited = self.body("/exited");
        assert_eq!(exited["pid"], self.body("/started")["pid"], "of this run");
        exited["code"].clone()
    }

    /// Body of the last request whose target ends in `suffix`.
    pub(crate) fn body(&self, suffix: &str) -> Value {
        let asked = self.asked();
        let found = asked
            .iter()
            .rev()
            .find(|(target, _)| target.ends_with(suffix));
        found
            .unwrap_or_else(|| panic!("no {suffix} in {asked:?}"))
            .1
            .clone()
    }

    /// Waits until a request whose target ends in `suffix` has come.
    pub(crate) fn wait_for(&self, suffix: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self
            .asked()
            .iter()
            .any(|(target, _)| target.ends_with(suffix))
        {
            assert!(
                Instant::now() < deadline,
                "no {suffix} in {:?}",
                self.asked()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let mut records = shared.records.lock().unwrap();
    let target = uri
        .path_and_query()
        .map_or("", |target| target.as_str())
        .to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    records
        .asked
        .push((format!("{method} {target}"), body.clone()));
    let error = |status: StatusCode, message: String| {
        (status, axum::Json(json!({"message": message}))).into_response()
    };
    if records
        .refuse
        .is_some_and(|suffix| target.ends_with(suffix))
    {
        return error(StatusCode::CONFLICT, format!("refused: {target}"));
    }
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    // As Docker's client asks.
    let path = match path.as_slice() {
        [version, rest @ ..] if version.starts_with("v1.") => rest.to_vec(),
        _ => path,
    };
    match (method.as_str(), path.as_slice()) {
        ("POST", ["tunbridge", "containers"]) => {
            let request: CreateContainer = match serde_json::from_value(body) {
                Ok(request) => request,
                Err(problem) => return error(StatusCode::BAD_REQUEST, problem.to_string()),
            };
            let created = create(&shared.directory, &mut records, &request);
            (StatusCode::CREATED, axum::Json(created)).into_response()
        }
        ("POST", ["tunbridge", "containers", id, "started"]) => {
            if let Some(found) = find(&mut records, id) {
                found["State"] = json!({"Running": true, "Pid": body["pid"]});
            }
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", ["tunbridge", "containers", id, "exited"]) => {
            if let Some(found) = find(&mut records, id) {
                found["State"] = json!({"Running": false, "Pid": 0, "ExitCode": body["code"]});
            }
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", ["tunbridge", "containers", _, "publish" | "unpublish"]) => {
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", ["tunbridge", "containers", id, "start"]) => start(&mut records, id),
        ("POST", ["containers", id, "stop"]) => {
            stop(&mut records, id);
            StatusCode::NO_CONTENT.into_response()
        }
        (_, ["networks", rest @ ..]) => networks::answer(&method, rest, &uri, &body),
        ("GET", ["events"]) => networks::EVENTS.into_response(),
        ("DELETE", ["containers", id]) => {
            records.containers.retain(|name, found| name != id && found["Id"] != *id);
            StatusCode::NO_CONTENT.into_response()
        }
        ("GET", ["containers", "json"]) => {
            axum::Json(json!([{
                "Id": "ab".repeat(32), "Names": ["/web", "/app/web"], "Command": "sleep 1", "Status": "Up 3 seconds",
                "State": "running", "Created": 1_700_000_000, "Labels": {"a": "b"}, "Image": "",
                "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
                "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
            }])).into_response()
        }
        ("GET", ["containers", id, "json"]) => match find(&mut records, id) {
            Some(found) => axum::Json(found.clone()).into_response(),
            None => error(StatusCode::NOT_FOUND, format!("No such container: {id}")),
        },
        ("GET", ["tunbridge", "flows"]) => axum::Json(json!([{
            "protocol": "tcp", "container": "web", "source": "172.17.0.2:40000",
            "destination": "203.0.113.9:80", "translated_source": "198.51.100.2:61000",
            "translated_destination": "203.0.113.9:80", "state": "established", "packets_original": 7,
            "bytes_original": 2048, "packets_reply": 5, "bytes_reply": 100, "age": 61.0, "timeout": 7440.0,
        }])).into_response(),
        ("GET", ["tunbridge", "stats"]) => axum::Json(json!({
            "received": 9, "forwarded": 8, "to_host": 0, "consumed": 0, "generated": 0, "flows": 1,
            "mappings": 1, "dropped": {"malformed": 1}, "steering": {"spoof_ip": 3}, "engine": {"read": 9},
        })).into_response(),
        ("GET", ["tunbridge", "doctor"]) => axum::Json(json!([{
            "severity": "error", "subject": "uplink", "found": "there is none",
            "why": "nothing leaves the host", "fix": "ip link set eth0 up",
        }])).into_response(),
        (_, ["_ping"]) => ([("Api-Version", "1.41"), ("Ostype", "linux")], "OK").into_response(),
        ("GET", ["version"]) => axum::Json(json!({
            "Version": "9.9.9", "ApiVersion": "1.41", "TunbridgeApiVersion": 1,
        })).into_response(),
        _ => error(StatusCode::NOT_IMPLEMENTED, format!("no {target}")),
    }
}

fn find<'r>(records: &'r mut Records, id: &str) -> Option<&'r mut Value> {
    let mut containers = records.containers.iter_mut();
    containers
        .find(|(name, found)| *name == id || found["Id"] == *id)
        .map(|(_, found)| found)
}

fn create(directory: &Path, records: &mut Records, request: &CreateContainer) -> CreatedContainer {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| format!("quiet-{number}"));
    let namespace = Namespace::new();
    let netns = namespace.path();
    records.netns.push(namespace);
    let id = format!("{number:064x}");
    let hostname = request
        .hostname
        .clone()
        .unwrap_or_else(|| id[..12].to_owned());
    let files = directory.join(&name);
    std::fs::create_dir(&files).unwrap();
    for (file, text) in [
        ("hosts", format!("172.17.0.2\t{hostname}\n")),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", "nameserver 192.0.2.53\n".to_owned()),
    ] {
        std::fs::write(files.join(file), text).unwrap();
    }
    let links: Vec<String> = request
        .links
        .iter()
        .map(|link| format!("/{0}:/{name}/{0}", link))
        .collect();
    let inspect = json!({
        "Id": id,
        "HostConfig": {"Links": links},
        "Name": format!("/{name}"),
        "State": {"Running": false, "Pid": 0},
        "Config": {"Hostname": hostname, "Env": request.env, "Cmd": request.command},
        "NetworkSettings": {"SandboxKey": netns, "Ports": {}},
    });
    records.containers.insert(name.clone(), inspect);
    let link_env = |link: &String| {
        let alias = link.to_uppercase();
        [
            format!("{alias}_PORT=tcp://172.17.0.9:80"),
            format!("{alias}_NAME=/{name}/{link}"),
        ]
    };
    let created = CreatedContainer {
        env: request.links.iter().flat_map(link_env).collect(),
        id: id.clone(),
        name,
        hostname,
        netns,
        files,
        warnings: vec!["a warning".to_owned()],
    };
    records
        .created
        .insert(id, (request.clone(), created.clone()));
    created
}

fn start(records: &mut Records, id: &str) -> Response {
    let found = find(records, id).map(|found| found["Id"].clone());
    let created = found.and_then(|id| records.created.get(id.as_str()?));
    match created {
        Some((request, created)) => axum::Json(StartSpec {
            created: created.clone(),
            command: request.command.clone(),
            rootfs: request.rootfs.clone(),
            env: request.env.clone(),
        })
        .into_response(),
        None => networks::error(StatusCode::NOT_FOUND, format!("No such container: {id}")),
    }
}

fn stop(records: &mut Records, id: &str) {
    let pid = find(records, id).and_then(|found| found["State"]["Pid"].as_i64());
    if let Some(pid) = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid > 0)
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
