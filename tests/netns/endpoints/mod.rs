//! Containers of other runtimes, by the API that the doors to them are built on.

mod attaching;
mod holding;
mod killing;

use std::os::fd::OwnedFd;

use tunbridge::api::client::{Client, ClientError};
use tunbridge::api::types::{AttachEndpoint, AttachedEndpoint, EndpointReference, Runtime};
use tunbridge::kernel::netns;

use crate::lab::{Lab, Place, Running};
use crate::tunbridge_under_test::Tunbridge;

const SOCKET: &str = "/run/tunbridge/tunbridge.sock";
const ENDPOINTS: &str = "/tunbridge/endpoints";

/// A runtime's container: an id, and a namespace in the lab that the daemon knows nothing of.
struct Foreign<'lab> {
    lab: &'lab Lab,
    id: String,
    place: Place,
}

impl<'lab> Foreign<'lab> {
    fn new(lab: &'lab Lab, id: &str) -> Self {
        let name = format!("foreign-{}", &id[..id.len().min(20)]);
        lab.host()
            .run(&["ip", "netns", "add", &name])
            .expect_success();
        Self {
            lab,
            id: id.to_owned(),
            place: lab.place(&name),
        }
    }

    fn descriptor(&self) -> OwnedFd {
        netns::open_path(&self.place.namespace()).unwrap()
    }

    fn client(&self) -> Client {
        client(self.lab).with_descriptor(self.descriptor())
    }

    fn wants(&self, network: &str) -> AttachEndpoint {
        wants(&self.id, network)
    }

    fn attach(&self, request: &AttachEndpoint) -> Result<AttachedEndpoint, ClientError> {
        self.client().post(ENDPOINTS, request)
    }

    #[track_caller]
    fn attached(&self, request: &AttachEndpoint) -> AttachedEndpoint {
        self.attach(request).unwrap()
    }

    #[track_caller]
    fn refused(&self, request: &AttachEndpoint, status: u16) -> String {
        refusal(self.attach(request), status)
    }

    fn reference(&self, network: Option<&str>) -> EndpointReference {
        EndpointReference {
            runtime: Runtime::Cni,
            container: self.id.clone(),
            owner: None,
            network: network.map(str::to_owned),
            interface: None,
        }
    }

    #[track_caller]
    fn detach(&self, network: Option<&str>) {
        let reference = self.reference(network);
        client(self.lab)
            .tell(&format!("{ENDPOINTS}/detach"), &reference)
            .unwrap();
    }

    fn check(&self) -> Result<AttachedEndpoint, ClientError> {
        self.client()
            .post(&format!("{ENDPOINTS}/check"), &self.reference(None))
    }

    /// Names of its interfaces, `lo` left out.
    fn interfaces(&self) -> Vec<String> {
        let links = self.place.run(&["ip", "-br", "link"]).expect_success();
        let names = links.stdout.lines().filter_map(|line| {
            let name = line.split(['@', ' ']).next()?;
            (name != "lo").then(|| name.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let name = self.place.name().to_owned();
        self.lab.host().run(&["ip", "netns", "delete", &name]);
    }
}

fn client(lab: &Lab) -> Client {
    Client::new(&lab.path(SOCKET))
}

fn wants(id: &str, network: &str) -> AttachEndpoint {
    AttachEndpoint::new(Runtime::Cni, id, network)
}

#[track_caller]
fn refusal(outcome: Result<AttachedEndpoint, ClientError>, wanted: u16) -> String {
    match outcome {
        Err(ClientError::Refused { status, message }) => {
            assert_eq!(status, wanted, "{message}");
            message
        }
        other => panic!("{other:?}"),
    }
}

/// What there is of containers: records, veth pairs, namespaces.
fn left(lab: &Lab, tunbridge: &Tunbridge<'_>) -> Vec<String> {
    let veths = lab.host().shell("ip -br link show type veth | grep ^veth");
    let names = lab.host().run(&["ls", "/run/netns"]).stdout;
    let known = ["host", "wan", "lan", "far"];
    let names = names
        .lines()
        .filter(|name| !known.contains(name) && !name.starts_with("foreign-"));
    let mut left: Vec<String> = veths.stdout.lines().map(str::to_owned).collect();
    left.extend(names.map(str::to_owned));
    left.extend(tunbridge.names(&["-a"]));
    left
}

/// Sixty-four digits, as most runtimes have.
fn id(digit: char) -> String {
    format!("a{}", digit.to_string().repeat(63))
}

/// Somebody who listens on a port of the host, as conmon does for a container.
fn holder(lab: &Lab, argument: &str, port: u16) -> Running {
    holder_as(lab, "0", argument, port)
}

fn holder_as(lab: &Lab, user: &str, argument: &str, port: u16) -> Running {
    let program = format!(
        "import socket, time
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    s = socket.socket(socket.AF_INET, kind)
    s.bind(('0.0.0.0', {port}))
    if kind == socket.SOCK_STREAM: s.listen()
    globals()['s%d' % kind] = s
print('bound', flush=True)
time.sleep(300)"
    );
    let user = format!("--reuid={user}");
    let words = [
        "setpriv",
        &user,
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        &program,
        "-c",
        argument,
    ];
    let mut running = lab.host().start(&words);
    assert_eq!(running.read_line(), "bound");
    running
}
