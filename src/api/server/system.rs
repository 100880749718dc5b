//! `/_ping`, `/version`, `/info`, and what `docker inspect` asks for on its way from containers to networks.
//!
//! What `docker version` and `docker info` print and a network tool has not, is there and empty, or says that it
//! is all right: their clients warn about limits that a daemon does not report.

use std::fs;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::types::{API_VERSION, ErrorBody, HostInfo};
use super::requests::Id;
use super::routes::{Errors, Shared};
use super::{Answer, ApiError, Backend, MAX_VERSION, MIN_VERSION};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// For what a build from source does not tell.
const UNKNOWN: &str = "unknown";

/// Is the daemon there? Its headers tell the newest version of the API.
#[utoipa::path(
    get, path = "/_ping", tag = "docker",
    responses((status = 200, description = "OK", body = String, content_type = "text/plain")),
)]
pub(super) async fn ping<B: Backend>(_: Shared<B>) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Builder-Version", "1"),
        ("Swarm", "inactive"),
    ];
    (headers, "OK").into_response()
}

/// Versions.
#[utoipa::path(
    get, path = "/version", tag = "docker",
    responses((status = 200, description = "Versions of the daemon, its API and the kernel", body = Value)),
)]
pub(super) async fn version<B: Backend>(_: Shared<B>) -> Json<Value> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let commit = option_env!("TUNBRIDGE_COMMIT").unwrap_or(UNKNOWN);
    let built = option_env!("TUNBRIDGE_BUILD_TIME").unwrap_or(UNKNOWN);
    let kernel = kernel_version();
    Json(json!({
        "Platform": { "Name": "tunbridge" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": MAX_VERSION,
                "Arch": arch,
                "BuildTime": built,
                "Experimental": "false",
                "GitCommit": commit,
                "GoVersion": "none (Rust)",
                "KernelVersion": kernel,
                "MinAPIVersion": MIN_VERSION,
                "Os": "linux",
            },
        }],
        "Version": VERSION,
        "ApiVersion": MAX_VERSION,
        "MinAPIVersion": MIN_VERSION,
        "TunbridgeApiVersion": API_VERSION,
        "GitCommit": commit,
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": kernel,
        "BuildTime": built,
    }))
}

/// The daemon and its host.
#[utoipa::path(
    get, path = "/info", tag = "docker",
    responses((status = 200, description = "The daemon and its host", body = Value), Errors),
)]
pub(super) async fn info<B: Backend>(State(api): Shared<B>) -> Answer<Json<Value>> {
    let info = api.backend.info().await?;
    let events = api.event_readers();
    Ok(Json(info_body(&info, events)))
}

fn info_body(info: &HostInfo, event_readers: usize) -> Value {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pools: Vec<Value> = info
        .address_pools
        .iter()
        .map(|(base, size)| json!({ "Base": base, "Size": size }))
        .collect();
    let host = nix::unistd::gethostname().unwrap_or_default();
    let now = OffsetDateTime::now_utc().format(&Rfc3339);
    let no_commit = || json!({ "ID": "", "Expected": "" });
    // In parts: the macro cannot take this many lines.
    let parts = [
        json!({
            "ID": info.id,
            "Containers": info.containers,
            "ContainersRunning": info.running,
            "ContainersPaused": 0,
            "ContainersStopped": info.containers.saturating_sub(info.running),
            "Images": 0,
            "Driver": "",
            "DriverStatus": null,
            "SystemStatus": null,
            "Plugins": {
                "Volume": [],
                "Network": ["bridge", "host", "null"],
                "Authorization": null,
                "Log": [],
            },
        }),
        json!({
            "MemoryLimit": true,
            "SwapLimit": true,
            "KernelMemory": true,
            "KernelMemoryTCP": true,
            "CpuCfsPeriod": true,
            "CpuCfsQuota": true,
            "CPUShares": true,
            "CPUSet": true,
            "PidsLimit": true,
            "IPv4Forwarding": info.ipv4_forwarding,
            "BridgeNfIptables": true,
            "BridgeNfIp6tables": true,
            "OomKillDisable": true,
            "Debug": false,
            "NFd": 0,
            "NGoroutines": 0,
            "SystemTime": now.unwrap_or_default(),
            "LoggingDriver": "",
            "CgroupDriver": "",
            "NEventsListener": event_readers,
        }),
        json!({
            "KernelVersion": kernel_version(),
            "OperatingSystem": release_field(&release, "PRETTY_NAME"),
            "OSVersion": release_field(&release, "VERSION_ID"),
            "OSType": "linux",
            "Architecture": std::env::consts::ARCH,
            "IndexServerAddress": "",
            "RegistryConfig": null,
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "MemTotal": memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            "GenericResources": null,
            "DockerRootDir": info.state_dir,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": host.to_string_lossy(),
            "Labels": [],
            "ExperimentalBuild": false,
            "ServerVersion": VERSION,
        }),
        json!({
            "Runtimes": {},
            "DefaultRuntime": "",
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": false,
                "Error": "",
                "RemoteManagers": null,
            },
            // Containers and their addresses outlive a restart of the daemon.
            "LiveRestoreEnabled": true,
            "Isolation": "",
            "InitBinary": "",
            "ContainerdCommit": no_commit(),
            "RuncCommit": no_commit(),
            "InitCommit": no_commit(),
            "SecurityOptions": [],
            "DefaultAddressPools": pools,
            "Warnings": info.warnings,
        }),
    ];
    let keys = parts.into_iter().filter_map(|part| match part {
        Value::Object(keys) => Some(keys),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            None
        }
    });
    Value::Object(keys.flatten().collect())
}

/// `docker inspect NAME` looks for an image before it looks for a network.
#[utoipa::path(
    get, path = "/images/{name}/json", tag = "docker",
    params(("name" = String, Path, description = "Any")),
    responses((status = 404, description = "There are no images", body = ErrorBody)),
)]
pub(super) async fn inspect_image<B: Backend>(_: Shared<B>, Id(name): Id) -> ApiError {
    ApiError::new(404, format!("No such image: {name}"))
}

/// `docker inspect NAME` looks for a volume when there is no such network.
#[utoipa::path(
    get, path = "/volumes/{name}", tag = "docker",
    params(("name" = String, Path, description = "Any")),
    responses((status = 404, description = "There are no volumes", body = ErrorBody)),
)]
pub(super) async fn inspect_volume<B: Backend>(_: Shared<B>, Id(name): Id) -> ApiError {
    ApiError::new(404, format!("get {name}: no such volume"))
}

/// And last for a plugin.
#[utoipa::path(
    get, path = "/plugins/{name}/json", tag = "docker",
    params(("name" = String, Path, description = "Any")),
    responses((status = 404, description = "There are no plugins", body = ErrorBody)),
)]
pub(super) async fn inspect_plugin<B: Backend>(_: Shared<B>, Id(name): Id) -> ApiError {
    ApiError::new(404, format!("plugin \"{name}\" not found"))
}

fn kernel_version() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// A field of /etc/os-release.
fn release_field(release: &str, name: &str) -> String {
    let value = release
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = value.unwrap_or_default().trim();
    value.trim_matches(['"', '\'']).to_owned()
}

/// Octets of memory, from /proc/meminfo.
fn memory(meminfo: &str) -> u64 {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.unwrap_or(0_u64).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_from_its_files() {
        let release =
            "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n";
        assert_eq!(
            release_field(release, "PRETTY_NAME"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(release_field(release, "NAME"), "Debian");
        assert_eq!(release_field(release, "VERSION"), "");
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(memory(""), 0);
        assert!(!kernel_version().is_empty());
    }

    #[test]
    fn info_counts() {
        let info = HostInfo {
            containers: 3,
            running: 2,
            address_pools: vec![("172.17.0.0/12".to_owned(), 16)],
            ..HostInfo::default()
        };
        let body = info_body(&info, 1);
        assert_eq!(body["ContainersStopped"], 1);
        assert_eq!(
            body["DefaultAddressPools"],
            json!([{"Base": "172.17.0.0/12", "Size": 16}])
        );
        assert_eq!(body["NEventsListener"], 1);
    }
}
