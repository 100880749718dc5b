//! A daemon without a data path: networks and two containers in a few records, with Docker's shapes and texts.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tunbridge::api::events::{EventBus, EventKind};
use tunbridge::api::filters::Filters;
use tunbridge::api::server::{ApiError, Backend, Peer, serve};
use tunbridge::api::types::{
    AttachEndpoint, AttachedEndpoint, ChangeLabels, CollectEndpoints, ConnectNetwork,
    CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork, DisconnectNetwork,
    EndpointReference, Exited, Finding, Flow, HostIdentity, HostInfo, Interface, Lease,
    LeasedAddress, LeasedPool, LimitEndpoint, ListContainers, NameEndpoint, NamedEndpoint,
    PrunedNetworks, PublishEndpoint, RequestAddress, RequestLeasedPool, StartSpec, Started, Stats,
};

type Answer<T> = Result<T, ApiError>;

pub(crate) const WEB: &str = "aaaaaaaaaaaabbbbbbbbbbbbccccccccccccddddddddddddeeeeeeeeeeee0001";
pub(crate) const OLD: &str = "0000aaaaaaaabbbbbbbbbbbbccccccccccccddddddddddddeeeeeeeeeeee0002";

#[derive(Debug)]
struct Network {
    id: String,
    request: CreateNetwork,
    /// Container and what was wanted of it.
    connected: BTreeMap<String, ConnectNetwork>,
}

#[derive(Debug, Default)]
pub(crate) struct Records {
    networks: BTreeMap<String, Network>,
    /// What was asked, in words.
    pub(crate) asked: Vec<String>,
    pub(crate) filters: Vec<Filters>,
    pub(crate) created: Vec<CreateNetwork>,
    pub(crate) connected: Vec<ConnectNetwork>,
    pub(crate) peers: Vec<Peer>,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    records: Mutex<Records>,
    pub(crate) events: EventBus,
}

impl Fake {
    pub(crate) fn records(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().unwrap()
    }

    fn note(&self, what: impl Into<String>) {
        self.records().asked.push(what.into());
    }

    fn network(&self, reference: &str) -> Answer<String> {
        let records = self.records();
        let mut networks = records.networks.values();
        networks
            .find(|n| {
                n.id == reference || n.request.name == reference || n.id.starts_with(reference)
            })
            .map(|network| network.request.name.clone())
            .ok_or_else(|| ApiError::new(404, format!("network {reference} not found")))
    }
}

fn container_name(reference: &str) -> Answer<(&'static str, &'static str)> {
    [("web", WEB), ("old", OLD)]
        .into_iter()
        .find(|(name, id)| *name == reference || id.starts_with(reference))
        .ok_or_else(|| ApiError::new(404, format!("No such container: {reference}")))
}

fn shape(network: &Network) -> Value {
    let pools: Vec<Value> = network
        .request
        .ipam
        .config
        .iter()
        .map(|pool| json!(pool))
        .collect();
    let containers = network.connected.keys().map(|name| {
        let (name, id) = container_name(name).unwrap();
        let entry = json!({
            "Name": name, "EndpointID": "ee".repeat(32), "MacAddress": "02:42:0a:05:00:02",
            "IPv4Address": "10.5.0.2/16", "IPv6Address": "",
        });
        (id.to_owned(), entry)
    });
    json!({
        "Name": network.request.name, "Id": network.id, "Created": "2026-11-21T07:06:57.005412556Z",
        "Scope": "local", "Driver": "bridge",
        "EnableIPv4": network.request.enable_ipv4.unwrap_or(true),
        "EnableIPv6": network.request.enable_ipv6.unwrap_or(false),
        "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
        "Internal": network.request.internal, "Attachable": network.request.attachable, "Ingress": false,
        "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
        "Containers": containers.collect::<serde_json::Map<_, _>>(),
        "Options": network.request.options, "Labels": network.request.labels,
        "Status": {"IPAM": {"Subnets": {}}},
    })
}

impl Backend for Fake {
    async fn create(&self, request: CreateContainer, peer: Peer) -> Answer<CreatedContainer> {
        self.records().peers.push(peer);
        Ok(created(request.name.as_deref().unwrap_or("new")))
    }

    async fn restart(&self, reference: &str, peer: Peer) -> Answer<StartSpec> {
        let (name, _) = container_name(reference)?;
        self.records().peers.push(peer);
        Ok(StartSpec {
            created: created(name),
            command: vec!["sleep".to_owned(), "9".to_owned()],
            rootfs: None,
            env: vec!["A=b".to_owned()],
        })
    }

    async fn started(&self, reference: &str, started: Started) -> Answer<()> {
        self.note(format!("started {reference} {}", started.pid));
        Ok(())
    }

    async fn exited(&self, reference: &str, exited: Exited) -> Answer<()> {
        self.note(format!("exited {reference} {}", exited.code));
        Ok(())
    }

    async fn stop(&self, reference: &str, grace: u64) -> Answer<bool> {
        let (name, _) = container_name(reference)?;
        self.note(format!("stop {name} {grace}"));
        Ok(name == "web")
    }

    async fn kill(&self, reference: &str, signal: i32) -> Answer<()> {
        let (name, id) = container_name(reference)?;
        if name == "old" {
            let text = format!("Cannot kill container: old: Container {id} is not running");
            return Err(ApiError::new(409, text));
        }
        self.note(format!("kill {name} {signal}"));
        Ok(())
    }

    async fn remove(&self, reference: &str, force: bool) -> Answer<()> {
        let (name, id) = container_name(reference)?;
        if name == "web" && !force {
            let text = format!(
                "You cannot remove a running container {id}. Stop the container before attempting removal or force remove"
            );
            return Err(ApiError::new(409, text));
        }
        self.note(format!("remove {name} {force}"));
        Ok(())
    }

    async fn remove_link(&self, link: &str) -> Answer<()> {
        self.note(format!("unlink {link}"));
        Ok(())
    }

    async fn publish(&self, reference: &str, spec: &str) -> Answer<()> {
        self.note(format!("publish {reference} {spec}"));
        Ok(())
    }

    async fn unpublish(&self, reference: &str, spec: &str) -> Answer<()> {
        self.note(format!("unpublish {reference} {spec}"));
        Ok(())
    }

    async fn list_containers(&self, query: ListContainers) -> Answer<Value> {
        self.note(format!("list {} {:?}", query.all, query.limit));
        query
            .filters
            .check_keys(&["id", "label", "name", "network", "status"])
            .map_err(ApiError::bad_request)?;
        self.records().filters.push(query.filters);
        let summary = |name: &str, id: &str, state: &str, status: &str, ports: Value| {
            json!({
                "Id": id, "Names": [format!("/{name}")], "Image": "", "ImageID": "", "Command": "sleep 9",
                "Created": 1_795_244_817, "Ports": ports, "Labels": {"tier": "front"}, "State": state, "Status": status,
                "HostConfig": {"NetworkMode": "net1"},
                "NetworkSettings": {"Networks": {"net1": {"IPAddress": "10.5.0.2"}}}, "Mounts": [],
            })
        };
        let ports = json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ]);
        let mut list = vec![summary("web", WEB, "running", "Up 3 minutes", ports)];
        if query.all {
            list.push(summary(
                "old",
                OLD,
                "exited",
                "Exited (3) 2 hours ago",
                json!([]),
            ));
        }
        Ok(list.into())
    }

    async fn inspect_container(&self, reference: &str) -> Answer<Value> {
        let (name, id) = container_name(reference)?;
        Ok(json!({
            "Id": id, "Created": "2026-11-21T07:06:57.005412556Z", "Path": "sleep", "Args": ["9"],
            "State": {"Status": "running", "Running": true, "Pid": 1, "ExitCode": 0, "Error": "",
                "StartedAt": "2026-11-21T07:06:57Z", "FinishedAt": "0001-01-01T00:00:00Z"},
            "Image": "", "Name": format!("/{name}"), "Driver": "", "Platform": "linux", "ExecIDs": null,
            "HostConfig": {"NetworkMode": "net1", "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
            "GraphDriver": {"Data": null, "Name": ""}, "Mounts": [],
            "Config": {"Hostname": "aaaaaaaaaaaa", "Env": ["A=b"], "Cmd": ["sleep", "9"], "Labels": {}},
            "NetworkSettings": {
                "SandboxID": "5a".repeat(32), "SandboxKey": "/run/netns/web",
                "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "53/udp": null},
                "Gateway": "10.5.0.1", "IPAddress": "10.5.0.2", "IPPrefixLen": 16, "MacAddress": "02:42:0a:05:00:02",
                "Networks": {"net1": {
                    "IPAMConfig": null, "Links": null, "Aliases": ["svc"], "NetworkID": "11".repeat(32),
                    "EndpointID": "ee".repeat(32), "Gateway": "10.5.0.1", "IPAddress": "10.5.0.2", "IPPrefixLen": 16,
                    "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
                    "MacAddress": "02:42:0a:05:00:02", "DriverOpts": null, "GwPriority": 0, "DNSNames": ["web", "svc"],
                }},
            },
        }))
    }

    async fn create_network(&self, request: CreateNetwork) -> Answer<CreatedNetwork> {
        self.records().created.push(request.clone());
        let name = request.name.clone();
        if self.network(&name).is_ok() {
            let text = format!("network with name {name} already exists");
            return Err(ApiError::new(409, text));
        }
        if request.driver == "overlay" {
            return Err(ApiError::new(
                404,
                "could not find plugin overlay in v1 plugin registry",
            ));
        }
        let mut records = self.records();
        let id = format!("{:064x}", records.networks.len() + 0xfeed_0000);
        let network = Network {
            id: id.clone(),
            request,
            connected: BTreeMap::new(),
        };
        records.networks.insert(name.clone(), network);
        drop(records);
        let attributes = [("name", name.as_str()), ("type", "bridge")];
        self.events
            .publish(EventKind::Network, "create", &id, attributes);
        Ok(CreatedNetwork {
            id,
            warning: String::new(),
        })
    }

    async fn list_networks(&self, filters: Filters) -> Answer<Value> {
        filters
            .check_keys(&["driver", "id", "label", "name", "scope", "type", "dangling"])
            .map_err(ApiError::bad_request)?;
        let mut records = self.records();
        let wanted = |network: &&Network| {
            !filters.has("name")
                || filters
                    .values("name")
                    .any(|name| network.request.name.contains(name))
        };
        let list = records
            .networks
            .values()
            .filter(wanted)
            .map(shape)
            .collect();
        records.filters.push(filters);
        Ok(list)
    }

    async fn inspect_network(&self, network: &str) -> Answer<Value> {
        let name = self.network(network)?;
        Ok(shape(&self.records().networks[&name]))
    }

    async fn remove_network(&self, network: &str, force: bool) -> Answer<Option<String>> {
        if network == "shared" && !force {
            return Err(ApiError::new(403, "network shared is in use by dockerd"));
        }
        if network == "bridge" {
            return Err(ApiError::new(
                403,
                "bridge is a pre-defined network and cannot be removed",
            ));
        }
        let name = self.network(network)?;
        let mut records = self.records();
        let found = &records.networks[&name];
        if let Some(container) = found.connected.keys().next() {
            let text = format!(
                "error while removing network: network {name} has active endpoints (name:\"{container}\" id:\"eeeeeeeeeeee\")"
            );
            return Err(ApiError::new(403, text));
        }
        let id = found.id.clone();
        records.networks.remove(&name);
        drop(records);
        let attributes = [("name", name.as_str()), ("type", "bridge")];
        self.events
            .publish(EventKind::Network, "destroy", &id, attributes);
        Ok(None)
    }

    async fn prune_networks(&self, filters: Filters) -> Answer<PrunedNetworks> {
        filters
            .check_keys(&["until", "label", "label!"])
            .map_err(ApiError::bad_request)?;
        let mut records = self.records();
        let free = records
            .networks
            .extract_if(.., |_, network| network.connected.is_empty());
        let names: Vec<String> = free.map(|(name, _)| name).collect();
        records.filters.push(filters);
        Ok(PrunedNetworks {
            networks_deleted: Some(names).filter(|names| !names.is_empty()),
            ..PrunedNetworks::default()
        })
    }

    async fn connect(&self, network: &str, request: ConnectNetwork) -> Answer<()> {
        let name = self.network(network)?;
        let (container, container_id) = container_name(&request.container)?;
        let mut records = self.records();
        records.connected.push(request.clone());
        let found = records.networks.get_mut(&name).unwrap();
        if found
            .connected
            .insert(container.to_owned(), request)
            .is_some()
        {
            let text = format!("endpoint with name {container} already exists in network {name}");
            return Err(ApiError::new(403, text));
        }
        let id = found.id.clone();
        drop(records);
        let attributes = [
            ("container", container_id),
            ("name", name.as_str()),
            ("type", "bridge"),
        ];
        self.events
            .publish(EventKind::Network, "connect", &id, attributes);
        Ok(())
    }

    async fn disconnect(&self, network: &str, request: DisconnectNetwork) -> Answer<()> {
        let name = self.network(network)?;
        let (container, id) = container_name(&request.container)?;
        self.note(format!("disconnect {container} {}", request.force));
        let mut records = self.records();
        let found = records.networks.get_mut(&name).unwrap();
        if found.connected.remove(container).is_none() {
            let text = format!("container {id} is not connected to network {name}");
            return Err(ApiError::new(403, text));
        }
        Ok(())
    }

    fn events(&self) -> &EventBus {
        &self.events
    }

    async fn flows(&self) -> Answer<Vec<Flow>> {
        Ok(Vec::new())
    }

    async fn stats(&self) -> Answer<Stats> {
        Ok(Stats::default())
    }

    async fn doctor(&self) -> Answer<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn attach_endpoint(
        &self,
        request: AttachEndpoint,
        namespace: Option<OwnedFd>,
    ) -> Answer<AttachedEndpoint> {
        let inode = namespace.map(|namespace| std::fs::File::from(namespace).metadata());
        let inode = inode.map_or(0, |metadata| metadata.unwrap().ino());
        self.note(format!("attach {} {inode}", request.container));
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            mac: "02:42:ac:11:00:02".to_owned(),
            mtu: 1500,
        };
        Ok(AttachedEndpoint {
            container: WEB.to_owned(),
            name: request.name.unwrap_or_default(),
            first: true,
            network: request.network,
            network_id: "aa".repeat(32),
            bridge: interface("tb0"),
            host: interface("veth0"),
            inside: interface("eth0"),
            addresses: vec!["172.17.0.2/16".parse().unwrap()],
            gateways: vec!["172.17.0.1".parse().unwrap()],
            routers: Vec::new(),
            nameservers: Vec::new(),
            search: Vec::new(),
            options: Vec::new(),
            bandwidth: request.bandwidth,
            warnings: Vec::new(),
        })
    }

    async fn detach_endpoint(&self, reference: EndpointReference) -> Answer<()> {
        self.note(format!("detach {}", reference.container));
        Ok(())
    }

    async fn check_endpoint(
        &self,
        reference: EndpointReference,
        _: Option<OwnedFd>,
    ) -> Answer<AttachedEndpoint> {
        Err(ApiError::new(
            404,
            format!("no endpoint of {}", reference.container),
        ))
    }

    async fn collect_endpoints(&self, request: CollectEndpoints) -> Answer<()> {
        self.note(format!("collect {}", request.valid.len()));
        Ok(())
    }

    async fn limit_endpoint(&self, request: LimitEndpoint) -> Answer<()> {
        let rate = request.bandwidth.egress.map(|limit| limit.rate);
        self.note(format!("limit {} {rate:?}", request.endpoint.container));
        Ok(())
    }

    async fn publish_endpoint(&self, request: PublishEndpoint) -> Answer<()> {
        let ports = request.publish.join(" ");
        self.note(format!("publish {} {ports}", request.container));
        Ok(())
    }

    async fn name_endpoint(&self, request: NameEndpoint) -> Answer<()> {
        self.note(format!("name {} {}", request.container, request.name));
        Ok(())
    }

    async fn network_names(&self, network: &str) -> Answer<Vec<NamedEndpoint>> {
        self.network(network)?;
        Ok(vec![NamedEndpoint {
            container: WEB.to_owned(),
            runtime: None,
            names: vec!["web".to_owned()],
            driver_opts: BTreeMap::new(),
            addresses: vec![[10, 5, 0, 2].into()],
        }])
    }

    async fn change_labels(&self, network: &str, change: ChangeLabels) -> Answer<()> {
        let labels: Vec<String> = change.labels.into_keys().collect();
        self.note(format!("labels {network} {}", labels.join(" ")));
        Ok(())
    }

    async fn request_pool(&self, request: RequestLeasedPool) -> Answer<LeasedPool> {
        let subnet = request
            .subnet
            .unwrap_or_else(|| "10.5.0.0/16".parse().unwrap());
        Ok(pool(subnet, Vec::new()))
    }

    async fn pools(&self) -> Answer<Vec<LeasedPool>> {
        let lease = Lease {
            address: [10, 5, 0, 1].into(),
            gateway: true,
            in_use: false,
        };
        Ok(vec![pool("10.5.0.0/16".parse().unwrap(), vec![lease])])
    }

    async fn release_pool(&self, pool: &str) -> Answer<()> {
        self.note(format!("release {pool}"));
        Ok(())
    }

    async fn request_address(&self, _: &str, request: RequestAddress) -> Answer<LeasedAddress> {
        let address = request.address.unwrap_or_else(|| [10, 5, 0, 2].into());
        Ok(LeasedAddress {
            address: format!("{address}/16").parse().unwrap(),
        })
    }

    async fn release_address(&self, pool: &str, address: IpAddr) -> Answer<()> {
        self.note(format!("release {pool} {address}"));
        Ok(())
    }

    async fn host(&self) -> Answer<HostIdentity> {
        Ok(HostIdentity {
            netns: (4, 4_026_531_840),
            version: "0.1.0".to_owned(),
        })
    }

    async fn info(&self) -> Answer<HostInfo> {
        Ok(HostInfo {
            id: "d2a2".to_owned(),
            containers: 2,
            running: 1,
            state_dir: "/var/lib/tunbridge".into(),
            ipv4_forwarding: true,
            address_pools: vec![("172.17.0.0/12".to_owned(), 16)],
            warnings: Vec::new(),
        })
    }
}

fn pool(subnet: ipnet::IpNet, leases: Vec<Lease>) -> LeasedPool {
    LeasedPool {
        id: "cc".repeat(32),
        subnet,
        network: None,
        owner: None,
        leases,
    }
}

fn created(name: &str) -> CreatedContainer {
    CreatedContainer {
        id: WEB.to_owned(),
        name: name.to_owned(),
        hostname: WEB[..12].to_owned(),
        netns: "/run/netns/web".into(),
        files: "/run/x".into(),
        env: vec!["DB_NAME=/web/db".to_owned()],
        warnings: Vec::new(),
    }
}

/// The server. Dropping it ends it as the daemon does.
#[derive(Debug)]
pub(crate) struct Server {
    directory: TempDir,
    pub(crate) fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = TempDir::with_prefix("tbapi-").unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel();
        let (path, backend) = (directory.path().join("sock"), Arc::clone(&fake));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                serve(listener, backend, stopped).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self {
            directory,
            fake,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    pub(crate) fn open(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Sends octets and reads until the server closes.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.open();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Status, head and body of a request.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Reply {
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.raw(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Ends the server; how long that took.
    pub(crate) fn stop(&mut self) -> Duration {
        let begun = std::time::Instant::now();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        begun.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // Not joined: a test that panics must not hang.
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The sentence of an error.
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}
