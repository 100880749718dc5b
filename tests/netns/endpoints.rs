//! Containers of other runtimes, by the API that the doors to them are built on.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tunbridge::api::client::{Client, ClientError};
use tunbridge::api::types::{
    AddressRange, AttachEndpoint, AttachedEndpoint, CollectEndpoints, CreateNetwork,
    EndpointReference, EndpointSettings, Placement, Runtime,
};
use tunbridge::kernel::netns;

use crate::lab::{HOST, LAN, Lab, Place, eventually};
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
    AttachEndpoint {
        runtime: Runtime::Cni,
        container: id.to_owned(),
        name: None,
        network: network.to_owned(),
        create_network: None,
        interface: None,
        placement: Placement::Namespace,
        settings: EndpointSettings::default(),
        ranges: Vec::new(),
        default_route: true,
        publish: Vec::new(),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_option: Vec::new(),
    }
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

#[test]
fn an_endpoint_is_made_and_taken_away() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let request = AttachEndpoint {
        name: Some("web".to_owned()),
        interface: Some("net0".to_owned()),
        publish: vec!["8080:80".to_owned()],
        ..one.wants("bridge")
    };
    let attached = one.attached(&request);
    assert_eq!(
        (attached.container.as_str(), attached.name.as_str()),
        (id('1').as_str(), "web")
    );
    assert_eq!(attached.inside.name, "net0");
    assert_eq!(attached.addresses[0].to_string(), "172.17.0.2/16");
    assert_eq!(attached.gateways[0].to_string(), "172.17.0.1");
    assert_eq!(one.interfaces(), ["net0"]);
    let _server = one.place.serve(&["80"]);
    assert_eq!(
        lab.lan()
            .tcp(&format!("{HOST}:8080"))
            .unwrap()
            .saw_address(),
        LAN
    );
    assert_eq!(tunbridge.names(&[]), ["web"]);
    let inspected = tunbridge.inspect("web");
    assert_eq!(inspected["Config"]["Labels"]["tunbridge.runtime"], "cni");
    assert_eq!(
        inspected["Config"]["Labels"]["tunbridge.runtime.id"],
        id('1').as_str()
    );
    one.detach(None);
    assert!(one.interfaces().is_empty(), "gone when it answers");
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
    one.detach(None);
    one.detach(Some("nonsense"));
}

#[test]
fn two_networks_one_container() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let named = |network: &str| AttachEndpoint {
        name: Some("web".to_owned()),
        publish: vec!["8080:80".to_owned()],
        create_network: Some(CreateNetwork {
            name: network.to_owned(),
            ..CreateNetwork::default()
        }),
        ..one.wants(network)
    };
    let back = one.attached(&named("back"));
    assert_eq!(back.inside.name, "eth0");
    assert_eq!(back.nameservers[0].to_string(), "127.0.0.11");
    let front = one.attached(&named("front"));
    assert_eq!(front.inside.name, "eth1");
    // Of equal networks the first by name makes the route.
    assert_eq!((back.gateways.len(), front.gateways.len()), (1, 0));
    assert_eq!((back.first, front.first), (true, false));
    assert_eq!(front.routers.len(), 1);

    let problem = one.refused(&named("front"), 409);
    assert!(
        problem.contains("is on network front already, with eth1"),
        "{problem}"
    );
    let again = AttachEndpoint {
        interface: Some("eth1".to_owned()),
        ..one.wants("bridge")
    };
    let problem = one.refused(&again, 409);
    assert!(
        problem.contains("eth1 of container") && problem.contains("detach it first"),
        "{problem}"
    );
    one.place
        .run(&[
            "ip", "link", "add", "name", "mine", "type", "veth", "peer", "name", "other",
        ])
        .expect_success();
    let taken = AttachEndpoint {
        interface: Some("mine".to_owned()),
        ..one.wants("bridge")
    };
    let problem = one.refused(&taken, 409);
    assert!(
        problem.contains("interface mine already exists"),
        "{problem}"
    );
    let elsewhere = Foreign::new(&lab, &id('2'));
    let request = AttachEndpoint {
        container: one.id.clone(),
        ..elsewhere.wants("bridge")
    };
    let problem = elsewhere.refused(&request, 409);
    assert!(
        problem.contains("in another network namespace"),
        "{problem}"
    );

    let _server = one.place.serve(&["80"]);
    let answers = || lab.lan().tcp(&format!("{HOST}:8080")).is_ok();
    assert!(answers());
    assert_eq!(tunbridge.names(&[]), ["web"]);
    one.detach(Some("back"));
    assert_eq!(one.interfaces(), ["eth1", "mine", "other"]);
    assert!(answers(), "the ports have moved to the other network");
    one.detach(Some("front"));
    assert_eq!(one.interfaces(), ["mine", "other"]);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn names_are_found_whoever_has_them() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge
        .cli(&["network", "create", "net1"])
        .expect_success();
    let named = |container: &Foreign<'_>, name: &str| {
        container.attached(&AttachEndpoint {
            name: Some(name.to_owned()),
            ..container.wants("net1")
        })
    };
    let (one, two, three) = (
        Foreign::new(&lab, &id('1')),
        Foreign::new(&lab, &id('2')),
        Foreign::new(&lab, "pod_3"),
    );
    assert_eq!(named(&one, "web").name, "web");
    assert_eq!(named(&two, "web").name, "web-a22222222222");
    assert_eq!(named(&three, "a/b").name, "a-b");
    let addresses = |name: &str| {
        let asked = three.place.run(&["dig", "+short", "@127.0.0.11", name]);
        let mut found: Vec<String> = asked.stdout.lines().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(addresses("web"), ["172.18.0.2", "172.18.0.3"]);
    assert_eq!(addresses("web-a22222222222"), ["172.18.0.3"]);
    assert_eq!(addresses("a-b"), ["172.18.0.4"]);
    // No aliases on the default network, and no error for them.
    let four = Foreign::new(&lab, &id('4'));
    let mut request = AttachEndpoint {
        name: Some("web".to_owned()),
        ..four.wants("bridge")
    };
    request.settings.aliases = vec!["www".to_owned()];
    assert_eq!(four.attached(&request).name, "web-a44444444444");
    for container in [&one, &two, &three, &four] {
        container.detach(None);
    }
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn addresses_come_from_ranges_and_default_routes_from_those_that_may() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let range = |first: &str, last: &str| AddressRange {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
    };
    let containers = ['1', '2', '3', '4'].map(|digit| Foreign::new(&lab, &id(digit)));
    let [one, two, three, four] = &containers;
    let in_ranges = |container: &Foreign<'_>| AttachEndpoint {
        ranges: vec![
            range("172.17.0.201", "172.17.0.201"),
            range("172.17.0.100", "172.17.0.101"),
        ],
        ..container.wants("bridge")
    };
    for (container, address) in [
        (one, "172.17.0.100/16"),
        (two, "172.17.0.101/16"),
        (three, "172.17.0.201/16"),
    ] {
        let attached = container.attached(&in_ranges(container));
        assert_eq!(attached.addresses[0].to_string(), address);
    }
    let problem = four.refused(&in_ranges(four), 500);
    assert!(problem.contains("172.17.0.100-172.17.0.101"), "{problem}");
    let outside = AttachEndpoint {
        ranges: vec![range("10.0.0.1", "10.0.0.2")],
        ..four.wants("bridge")
    };
    let problem = four.refused(&outside, 400);
    assert!(problem.contains("10.0.0.1"), "{problem}");
    let routeless = AttachEndpoint {
        default_route: false,
        ..four.wants("bridge")
    };
    assert!(four.attached(&routeless).gateways.is_empty());
    let routes = four.place.run(&["ip", "route"]).stdout;
    assert!(!routes.contains("default"), "{routes}");
}

#[test]
fn what_is_not_valid_any_more_is_collected() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("ours");
    let containers = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    for container in &containers {
        container.attached(&container.wants("bridge"));
    }
    let collect = |runtime: Runtime, valid: Vec<(String, String)>| {
        let request = CollectEndpoints {
            runtime,
            network: "bridge".to_owned(),
            valid,
        };
        client(&lab)
            .tell(&format!("{ENDPOINTS}/collect"), &request)
            .unwrap();
    };
    collect(Runtime::Oci, Vec::new());
    assert_eq!(tunbridge.names(&[]).len(), 3);
    collect(Runtime::Cni, vec![(id('1'), "eth0".to_owned())]);
    assert_eq!(containers.each_ref().map(|c| c.interfaces().len()), [1, 0]);
    collect(Runtime::Cni, Vec::new());
    assert_eq!(tunbridge.names(&[]), ["ours"]);
}

/// Whatever is killed when, a detach leaves nothing.
#[test]
fn a_daemon_that_is_killed_in_the_middle_leaves_nothing() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for milliseconds in (1..=28).step_by(3) {
        let containers: Vec<Foreign<'_>> =
            ('0'..='5').map(|n| Foreign::new(&lab, &id(n))).collect();
        std::thread::scope(|scope| {
            for container in &containers {
                // Whether it succeeds is a matter of luck.
                scope.spawn(|| container.attach(&container.wants("bridge")).is_ok());
            }
            std::thread::sleep(Duration::from_millis(milliseconds));
            tunbridge.kill();
        });
        tunbridge.start_again();
        for container in &containers {
            container.detach(None);
        }
        assert_eq!(
            left(&lab, &tunbridge),
            Vec::<String>::new(),
            "after {milliseconds} ms"
        );
        for container in &containers {
            assert!(container.interfaces().is_empty(), "after {milliseconds} ms");
        }
    }
}

#[test]
fn endpoints_outlive_the_daemon_and_go_with_their_namespace() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let containers = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    let [one, two] = &containers;
    let published = AttachEndpoint {
        publish: vec!["8080:80".to_owned(), "8080:80/udp".to_owned()],
        ..one.wants("bridge")
    };
    one.attached(&published);
    two.attached(&two.wants("bridge"));
    let delegated = AttachEndpoint {
        runtime: Runtime::Docker,
        placement: Placement::Host,
        ..wants("docker-1", "bridge")
    };
    let delegated: AttachedEndpoint = client(&lab).post(ENDPOINTS, &delegated).unwrap();
    let _server = one.place.serve(&["80"]);
    tunbridge.kill();
    // As at a restart of the machine.
    lab.host()
        .shell(&format!(
            "umount /run/netns/{0} && rm /run/netns/{0}",
            id('2')
        ))
        .expect_success();
    lab.host()
        .run(&["ip", "link", "delete", &delegated.host.name])
        .expect_success();
    // As its runtime does.
    let _holder = holder(&lab, &one.id, 8080);
    tunbridge.start_again();
    assert_eq!(tunbridge.names(&["-a"]), [id('1')]);
    assert!(lab.lan().tcp(&format!("{HOST}:8080")).is_ok());
    assert!(lab.lan().udp(&format!("{HOST}:8080")).is_ok());
    one.detach(None);
    two.detach(None);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

/// Somebody who listens on a port of the host, as conmon does for a container.
fn holder(lab: &Lab, argument: &str, port: u16) -> crate::lab::Running {
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
    let words = ["/usr/bin/python3", "-c", &program, "-c", argument];
    let mut running = lab.host().start(&words);
    assert_eq!(running.read_line(), "bound");
    running
}

#[test]
fn a_port_may_be_held_by_the_runtime_and_by_nobody_else() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let wanted = |network: &str| AttachEndpoint {
        publish: vec!["8080:80".to_owned(), "8080:80/udp".to_owned()],
        ..one.wants(network)
    };
    let stranger = holder(&lab, "somebody", 8080);
    let problem = one.refused(&wanted("bridge"), 500);
    assert!(
        problem.contains("failed to bind host port 0.0.0.0:8080/tcp: address already in use")
            && problem.contains(&format!("stop python3 (process {})", stranger.pid())),
        "{problem}"
    );
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
    drop(stranger);
    one.attached(&wanted("bridge"));
    let holder = holder(&lab, &one.id, 8080);
    let _server = one.place.serve(&["80"]);
    let answers = || {
        assert!(lab.lan().tcp(&format!("{HOST}:8080")).is_ok());
        assert!(lab.lan().udp(&format!("{HOST}:8080")).is_ok());
        assert!(lab.host().tcp("127.0.0.1:8080").is_ok());
    };
    answers();
    // The host's sockets are looked at once a second.
    std::thread::sleep(Duration::from_millis(1500));
    answers();
    tunbridge
        .cli(&["network", "create", "aaa"])
        .expect_success();
    one.attached(&wanted("aaa"));
    answers();
    // Another container is refused in any case.
    let two = Foreign::new(&lab, &id('2'));
    let second = AttachEndpoint {
        publish: vec!["8080:80".to_owned()],
        ..two.wants("bridge")
    };
    let problem = two.refused(&second, 500);
    assert!(problem.contains("port is already allocated"), "{problem}");
    one.detach(None);
    drop(holder);
    two.attached(&second);
}

/// A client that keeps its port must reach the new container with its next datagram.
#[test]
fn udp_reaches_the_next_container_that_has_the_port() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let [one, two] = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    let wanted = |container: &Foreign<'_>| AttachEndpoint {
        publish: vec!["5353:80/udp".to_owned()],
        ..container.wants("bridge")
    };
    let ask = || {
        lab.lan()
            .ask_from_port("udp", 40_000, &format!("{HOST}:5353"))
    };
    let first = one.attached(&wanted(&one));
    let _server = one.place.serve(&["80"]);
    assert_eq!(ask().unwrap().at.ip(), first.addresses[0].addr());
    // The second container has another address: the first one's is taken while it is there.
    let mut request = wanted(&two);
    request.publish.clear();
    request.runtime = Runtime::Oci;
    let second = two.attached(&request);
    let _server = two.place.serve(&["80"]);
    one.detach(None);
    assert!(
        tunbridge
            .flows()
            .iter()
            .all(|flow| !flow.destination.contains(":5353")),
        "no flow of the former container is left"
    );
    tunbridge
        .cli(&["publish", &second.name, "5353:80/udp"])
        .expect_success();
    assert_eq!(ask().unwrap().at.ip(), second.addresses[0].addr());
}

#[test]
fn a_delegated_endpoint_is_the_runtimes_to_move() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let wanted = AttachEndpoint {
        runtime: Runtime::Docker,
        placement: Placement::Host,
        name: Some("dock".to_owned()),
        ..wants("docker-1", "bridge")
    };
    let attached: AttachedEndpoint = client(&lab).post(ENDPOINTS, &wanted).unwrap();
    let host = lab.host();
    let link = host
        .run(&["ip", "-br", "link", "show", &attached.inside.name])
        .expect_success()
        .stdout;
    assert!(
        link.contains("DOWN") && link.contains(&attached.inside.mac),
        "{link}"
    );
    let container = Foreign::new(&lab, "moved");
    let address = attached.addresses[0].to_string();
    let (name, gateway) = (&attached.inside.name, attached.gateways[0]);
    host.run(&[
        "ip",
        "link",
        "set",
        name,
        "netns",
        container.place.name(),
        "name",
        "eth0",
    ])
    .expect_success();
    container
        .place
        .shell(&format!(
            "ip address add {address} dev eth0 && ip link set eth0 up && ip link set lo up && ip route add default via {gateway}"
        ))
        .expect_success();
    assert!(eventually(Duration::from_secs(3), || container
        .place
        .ping(crate::lab::FAR)
        .succeeded()));
    let refused = tunbridge.cli(&["stop", "dock"]).expect_failure().stderr;
    assert!(refused.contains("docker docker-1"), "{refused}");
    tunbridge.cli(&["rm", "-f", "dock"]).expect_success();
    assert!(container.interfaces().is_empty());
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn a_check_tells_what_differs() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let request = AttachEndpoint {
        name: Some("web".to_owned()),
        ..one.wants("bridge")
    };
    let problem = refusal(one.check(), 404);
    assert!(
        problem.contains("no endpoint of container a111"),
        "{problem}"
    );
    let attached = one.attached(&request);
    let attached = AttachedEndpoint {
        first: false,
        ..attached
    };
    assert_eq!(one.check().unwrap(), attached);
    for (inside, command, back, told) in [
        (
            true,
            "ip link set eth0 mtu 1400",
            "ip link set eth0 mtu 1500",
            "MTU 1400 and not 1500",
        ),
        (
            true,
            "ip route delete default",
            "ip route add default via 172.17.0.1",
            "no default route by 172.17.0.1 on eth0",
        ),
        (
            true,
            "ip address delete 172.17.0.2/16 dev eth0",
            "ip address add 172.17.0.2/16 dev eth0 && ip route add default via 172.17.0.1",
            "does not have address 172.17.0.2/16",
        ),
        (
            true,
            "ip link set eth0 address 02:00:00:00:00:07",
            "ip link set eth0 address 02:42:ac:11:00:02",
            "another MAC than 02:42:ac:11:00:02",
        ),
        (
            true,
            "ip link set eth0 down",
            "ip link set eth0 up && ip route add default via 172.17.0.1",
            "interface eth0 is down",
        ),
        (
            true,
            "ip link set eth0 down && ip link set eth0 name other",
            "ip link set other name eth0 && ip link set eth0 up && ip route add default via 172.17.0.1",
            "there is no interface eth0",
        ),
    ] {
        let place = if inside {
            one.place.clone()
        } else {
            lab.host()
        };
        place.shell(command).expect_success();
        let problem = refusal(one.check(), 409);
        assert!(problem.contains(told), "{problem}");
        place.shell(back).expect_success();
        assert_eq!(one.check().unwrap(), attached, "{back}");
    }
    let two = Foreign::new(&lab, &id('2'));
    let elsewhere: Result<AttachedEndpoint, ClientError> = client(&lab)
        .with_descriptor(two.descriptor())
        .post(&format!("{ENDPOINTS}/check"), &one.reference(None));
    assert!(refusal(elsewhere, 409).contains("another network namespace"));
    let refused = tunbridge.cli(&["restart", "web"]).expect_failure().stderr;
    assert!(
        refused.contains("restart it with the program that started it"),
        "{refused}"
    );
    let removed = tunbridge.cli(&["rm", "-f", "web"]).expect_success();
    assert!(
        removed.stderr.contains("end the container itself"),
        "{}",
        removed.stderr
    );
    refusal(one.check(), 404);
}

/// As many as fit at once, again and again: none fails, no two get one address, nothing is left.
#[test]
fn endpoints_come_and_go_in_parallel() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let containers: Vec<Foreign<'_>> = (0..8)
        .map(|n| Foreign::new(&lab, &format!("c{n}-parallel")))
        .collect();
    let addresses = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for (number, container) in containers.iter().enumerate() {
            let addresses = &addresses;
            scope.spawn(move || {
                for _ in 0..25 {
                    let port = 9000 + number;
                    let request = AttachEndpoint {
                        publish: vec![format!("{port}:80")],
                        create_network: Some(CreateNetwork {
                            name: "racing".to_owned(),
                            ..CreateNetwork::default()
                        }),
                        ..container.wants("racing")
                    };
                    let attached = container.attached(&request);
                    let address = attached.addresses[0];
                    assert!(addresses.lock().unwrap().insert(address), "{address} twice");
                    assert!(addresses.lock().unwrap().remove(&address));
                    container.detach(Some("racing"));
                    assert!(container.interfaces().is_empty());
                }
            });
        }
    });
    eprintln!("200 endpoints in {:?}", start.elapsed());
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn docker_clients_see_them_as_containers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let mut events = lab
        .host()
        .start(&[&crate::tunbridge_under_test::binary(), "events"]);
    tunbridge
        .cli(&["network", "create", "net1"])
        .expect_success();
    events.read_until("network create");
    let one = Foreign::new(&lab, &id('1'));
    one.attached(&AttachEndpoint {
        name: Some("web".to_owned()),
        publish: vec!["8080:80".to_owned()],
        dns: vec!["192.0.2.53".parse().unwrap()],
        dns_search: vec!["corp.example".to_owned()],
        ..one.wants("net1")
    });
    for event in ["container create", "network connect", "container start"] {
        assert!(events.read_line().contains(event), "{event}");
    }
    let ps = tunbridge.cli(&["ps"]).expect_success().stdout;
    assert!(
        ps.contains("0.0.0.0:8080->80/tcp") && ps.contains("Up"),
        "{ps}"
    );
    let port = tunbridge
        .cli(&["port", "web", "80"])
        .expect_success()
        .stdout;
    assert!(port.contains("0.0.0.0:8080"), "{port}");
    let inspected = tunbridge.inspect("web");
    let there = &inspected["NetworkSettings"];
    assert_eq!(there["Networks"]["net1"]["IPAddress"], "172.18.0.2");
    assert_eq!(there["SandboxKey"], "/run/netns/web");
    assert_eq!(inspected["HostConfig"]["NetworkMode"], "net1");
    assert_eq!(inspected["HostConfig"]["Dns"][0], "192.0.2.53");
    assert_eq!(inspected["ResolvConfPath"], "");
    let network = tunbridge
        .cli(&["network", "inspect", "net1"])
        .expect_success()
        .stdout;
    assert!(network.contains("\"Name\": \"web\""), "{network}");
    let removal = tunbridge
        .cli(&["network", "rm", "net1"])
        .expect_failure()
        .stderr;
    assert!(removal.contains("web"), "{removal}");
    tunbridge.cli(&["rm", "web"]).expect_failure();
    // What users connect it to goes with it.
    tunbridge
        .cli(&["network", "connect", "bridge", "web"])
        .expect_success();
    assert_eq!(one.interfaces(), ["eth0", "eth1"]);
    assert!(events.read_line().contains("network connect"));
    one.detach(Some("net1"));
    assert!(one.interfaces().is_empty());
    assert!(events.read_line().contains("network disconnect"));
    for event in ["container die", "network disconnect", "container destroy"] {
        assert!(events.read_line().contains(event), "{event}");
    }
    tunbridge.cli(&["network", "rm", "net1"]).expect_success();
    one.detach(Some("net1"));
}

/// What is taken away while the daemon is killed is taken away by the next one, or by saying it again.
#[test]
fn a_daemon_that_is_killed_while_it_detaches_leaves_nothing() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for milliseconds in [3, 15, 30, 45, 60, 80] {
        let containers: Vec<Foreign<'_>> =
            ('0'..='5').map(|n| Foreign::new(&lab, &id(n))).collect();
        for container in &containers {
            container.attached(&container.wants("bridge"));
        }
        std::thread::scope(|scope| {
            for container in &containers {
                let client = client(&lab);
                let reference = container.reference(None);
                scope.spawn(move || {
                    client
                        .tell(&format!("{ENDPOINTS}/detach"), &reference)
                        .is_ok()
                });
            }
            std::thread::sleep(Duration::from_millis(milliseconds));
            tunbridge.kill();
        });
        tunbridge.start_again();
        for container in &containers {
            container.detach(None);
            assert!(container.interfaces().is_empty(), "after {milliseconds} ms");
        }
        assert_eq!(
            left(&lab, &tunbridge),
            Vec::<String>::new(),
            "after {milliseconds} ms"
        );
    }
}
