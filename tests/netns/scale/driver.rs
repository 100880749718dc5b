//! What the scale tests do to the daemon and see of it, without a process per step: requests go straight to the
//! daemon's socket, and namespaces are entered by threads of the test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tunbridge::api::client::{Client, ClientError};
use tunbridge::api::types::{
    ConnectNetwork, CreateContainer, CreateNetwork, CreatedContainer, CreatedNetwork,
    DisconnectNetwork, EndpointSettings, Exited, NetworkAttachment, StartSpec, Started, Stats,
};
use tunbridge::kernel::netns;

use crate::lab::{Lab, Running};

/// The daemon of a lab, and a process of the lab that starts containers' processes.
#[derive(Debug)]
pub(super) struct Driver<'lab> {
    lab: &'lab Lab,
    client: Client,
    starter: Mutex<Running>,
}

/// What a request came to.
pub(super) type Answer<T> = Result<T, ClientError>;

impl<'lab> Driver<'lab> {
    pub(super) fn new(lab: &'lab Lab) -> Self {
        // It starts and kills; what has ended it reaps by itself.
        let starter = "while read -r verb what; do case $verb in \
             start) sleep 100000 </dev/null >/dev/null 2>&1 & echo $! ;; \
             kill) kill -9 $what 2>/dev/null; wait $what 2>/dev/null; echo killed ;; \
             esac; done";
        Self {
            lab,
            client: Client::new(&lab.path("/run/tunbridge/tunbridge.sock")),
            starter: Mutex::new(lab.host().start(&["bash", "-c", starter])),
        }
    }

    pub(super) fn create_network(&self, name: &str, internal: bool) -> Answer<String> {
        let request = CreateNetwork {
            name: name.to_owned(),
            internal,
            ..CreateNetwork::default()
        };
        let created: CreatedNetwork = self.client.post("/networks/create", &request)?;
        Ok(created.id)
    }

    pub(super) fn remove_network(&self, name: &str) -> Answer<()> {
        self.client.delete(&format!("/networks/{name}"))
    }

    /// A container whose process does not run yet.
    pub(super) fn create(
        &self,
        name: &str,
        networks: &[&str],
        publish: &[String],
    ) -> Answer<CreatedContainer> {
        let networks = networks.iter().map(|network| NetworkAttachment {
            network: (*network).to_owned(),
            settings: EndpointSettings::default(),
        });
        let request = CreateContainer {
            name: Some(name.to_owned()),
            networks: networks.collect(),
            publish: publish.to_vec(),
            command: vec!["sleep".to_owned()],
            ..CreateContainer::default()
        };
        self.client.post("/tunbridge/containers", &request)
    }

    /// A process for it, and the daemon told: its number.
    pub(super) fn begin(&self, id: &str) -> Answer<i32> {
        let pid = self.start();
        let target = format!("/tunbridge/containers/{id}/started");
        let told = self.client.tell(&target, &Started { pid });
        if told.is_err() {
            self.kill(pid);
        }
        told.map(|()| pid)
    }

    fn start(&self) -> i32 {
        let pid = self.tell_starter("start");
        pid.parse().expect("a process number")
    }

    /// What has exited is made ready once more; [`Self::begin`] must follow.
    pub(super) fn start_again(&self, name: &str) -> Answer<StartSpec> {
        self.client
            .post(&format!("/tunbridge/containers/{name}/start"), &())
    }

    /// Ends a container's process as by itself, and reports it as its starter would.
    pub(super) fn end(&self, id: &str, pid: i32) -> Answer<()> {
        self.kill(pid);
        self.exited(id, 137)
    }

    pub(super) fn exited(&self, id: &str, code: i32) -> Answer<()> {
        let target = format!("/tunbridge/containers/{id}/exited");
        self.client.tell(&target, &Exited { code, pid: None })
    }

    pub(super) fn kill(&self, pid: i32) {
        self.tell_starter(&format!("kill {pid}"));
    }

    fn tell_starter(&self, line: &str) -> String {
        let mut starter = self.starter.lock().expect("no panic");
        starter.write_line(line);
        starter.read_line()
    }

    /// `docker stop`. Its starter, were there one, would report the exit while this goes on.
    pub(super) fn stop(&self, id: &str) -> Answer<()> {
        self.client.tell(&format!("/containers/{id}/stop"), &())
    }

    pub(super) fn remove(&self, name: &str) -> Answer<()> {
        self.client.delete(&format!("/containers/{name}?force=1"))
    }

    pub(super) fn connect(&self, network: &str, container: &str) -> Answer<()> {
        let request = ConnectNetwork {
            container: container.to_owned(),
            endpoint_config: EndpointSettings::default(),
        };
        self.client
            .tell(&format!("/networks/{network}/connect"), &request)
    }

    pub(super) fn disconnect(&self, network: &str, container: &str) -> Answer<()> {
        let request = DisconnectNetwork {
            container: container.to_owned(),
            force: false,
        };
        self.client
            .tell(&format!("/networks/{network}/disconnect"), &request)
    }

    /// Sends a request and hangs up after a while.
    pub(super) fn ask_and_leave(&self, target: &str, body: &str, after: Duration) {
        let socket = self.path("/run/tunbridge/tunbridge.sock");
        let mut stream = UnixStream::connect(socket).expect("a daemon");
        let length = body.len();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {length}"
        );
        let request = format!("{head}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("a listener");
        std::thread::sleep(after);
    }

    pub(super) fn networks(&self) -> Vec<Value> {
        self.client.get("/networks").expect("a list")
    }

    pub(super) fn containers(&self) -> Vec<Value> {
        self.client.get("/containers/json?all=1").expect("a list")
    }

    pub(super) fn inspect(&self, name: &str) -> Answer<Value> {
        self.client.get(&format!("/containers/{name}/json"))
    }

    pub(super) fn stats(&self) -> Stats {
        self.client.get("/tunbridge/stats").expect("counters")
    }

    /// Names of the interfaces in a namespace of the lab.
    pub(super) fn interfaces(&self, place: &str) -> BTreeSet<String> {
        self.within(place, || {
            let list = nix::net::if_::if_nameindex().expect("interfaces");
            list.iter()
                .map(|interface| interface.name().to_string_lossy().into_owned())
                .collect()
        })
    }

    /// The IPv4 addresses in a namespace of the lab, without loopback's.
    pub(super) fn addresses(&self, place: &str) -> BTreeSet<Ipv4Addr> {
        self.within(place, || {
            let list = nix::ifaddrs::getifaddrs().expect("addresses");
            list.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
                .filter(|address| !address.is_loopback())
                .collect()
        })
    }

    /// What a container is told when it asks for a name.
    pub(super) fn look_up(&self, place: &str, name: &str) -> BTreeSet<Ipv4Addr> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.push(u8::try_from(name.len()).expect("a short name"));
        query.extend_from_slice(name.as_bytes());
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        let reply = self.within(place, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .expect("a timeout");
            let mut reply = [0; 512];
            let asked = socket
                .send_to(&query, "127.0.0.11:53")
                .and_then(|_| socket.recv(&mut reply));
            asked.map(|length| reply[..length].to_vec())
        });
        let reply = reply.unwrap_or_else(|error| panic!("{place} asks for {name}: {error}"));
        // Every answer is a pointer to the name, type, class, TTL, length 4 and the address.
        let answers = usize::from(reply[7]);
        let at = |n: usize| query.len() + n * 16 + 12;
        (0..answers)
            .map(|n| {
                <[u8; 4]>::try_from(&reply[at(n)..at(n) + 4])
                    .expect("an address")
                    .into()
            })
            .collect()
    }

    fn within<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = self.lab.path(&format!("/run/netns/{place}"));
        let namespace = netns::open_path(&path).unwrap_or_else(|error| panic!("{error}"));
        netns::run_in(namespace.as_fd(), work).expect("a namespace")
    }

    /// The files below /run/netns that are no places of the lab.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        let places = ["host", "wan", "lan", "far"];
        self.files("/run/netns")
            .into_iter()
            .filter(|name| !places.contains(&name.as_str()))
            .collect()
    }

    pub(super) fn files(&self, directory: &str) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.path(directory)) else {
            return BTreeSet::new();
        };
        entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.lab.path(inside)
    }
}

/// What the daemon's process has of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// Resident memory, KiB.
    pub(super) resident: usize,
    pub(super) descriptors: usize,
}

impl Footprint {
    /// Of the process that has the number `pid` in the lab.
    pub(super) fn of(lab: &Lab, pid: &str) -> Self {
        let path = |file: &str| lab.path(&format!("/proc/{pid}/{file}"));
        let status = std::fs::read_to_string(path("status")).expect("a running daemon");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|text| text.parse().ok()).expect("a number")
        };
        Self {
            resident: field("VmRSS:"),
            descriptors: std::fs::read_dir(path("fd")).expect("descriptors").count(),
        }
    }
}

/// State and networks (with addresses) of a container of `GET /containers/json`.
pub(super) fn listed(container: &Value) -> (String, String, BTreeMap<String, Option<Ipv4Addr>>) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let networks = networks.expect("an object").iter().map(|(name, network)| {
        let address = network["IPAddress"].as_str().expect("a text");
        (name.clone(), address.parse().ok())
    });
    (
        text(&container["Names"][0])
            .trim_start_matches('/')
            .to_owned(),
        text(&container["State"]),
        networks.collect(),
    )
}
