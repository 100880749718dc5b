use super::*;
use crate::api::types::{CreateContainer, NetworkAttachment};
use crate::control::FileFacts;
use crate::control::mac::MacAddress;
use crate::control::names::LookupError;
use crate::control::records::{Kind, PortBinding};
use crate::control::test_state::{Memory, Paper, at, attachment, config, fresh, open, request};

fn address(container: &Container) -> String {
    container.endpoint().unwrap().addresses[0].to_string()
}

fn running(state: &mut State, name: &str, publish: &[&str]) -> Container {
    state
        .create_container(&request(name, publish), at(0))
        .unwrap();
    state
        .set_started(
            name,
            Some(Process {
                pid: 4711,
                start_time: 12,
            }),
            at(1),
        )
        .unwrap()
}

fn host_ports(bindings: &[PortBinding]) -> Vec<(u16, u16)> {
    bindings
        .iter()
        .map(|binding| (binding.host_port, binding.last_host_port()))
        .collect()
}

#[test]
fn addresses_and_macs_as_in_the_transcript() {
    let (mut state, ..) = fresh();
    let c1 = state.create_container(&request("c1", &[]), at(0)).unwrap();
    assert_eq!(address(&c1.container), "172.17.0.2/16");
    let endpoint = c1.container.endpoint().unwrap();
    assert_eq!(endpoint.mac.to_string(), "02:42:ac:11:00:02");
    assert_eq!(endpoint.gateways, ["172.17.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        (endpoint.host_interface.len(), &endpoint.host_interface[..4]),
        (11, "veth")
    );
    assert_eq!(c1.container.netns.to_str(), Some("/run/netns/c1"));
    assert_eq!(c1.container.hostname, names::short_id(&c1.container.id));
    assert_eq!(c1.networks[0].config.bridge, "tb0");
    // "Allocation order after a release".
    running(&mut state, "c2", &[]);
    state.set_exited("c2", 0, at(5)).unwrap();
    assert_eq!(address(&running(&mut state, "c3", &[])), "172.17.0.3/16");
    assert_eq!(address(&running(&mut state, "c4", &[])), "172.17.0.4/16");
    state.remove("c3", true).unwrap();
    let c5 = running(&mut state, "c5", &[]);
    assert_eq!(address(&c5), "172.17.0.3/16");
    assert_eq!(
        c5.endpoint().unwrap().number,
        5,
        "numbers are never used again"
    );
}

#[test]
fn requested_address_mac_and_hostname() {
    let (mut state, ..) = fresh();
    let wanted = CreateContainer {
        networks: attachment(Some([172, 17, 0, 50]), Some("02:aa:bb:cc:dd:01")),
        hostname: Some("web".into()),
        ..request("web", &[])
    };
    let made = state.create_container(&wanted, at(0)).unwrap().container;
    assert_eq!(
        (address(&made).as_str(), made.hostname.as_str()),
        ("172.17.0.50/16", "web")
    );
    assert_eq!(
        made.endpoint().unwrap().mac.to_string(),
        "02:aa:bb:cc:dd:01"
    );
    let again = CreateContainer {
        networks: attachment(Some([172, 17, 0, 50]), None),
        ..wanted.clone()
    };
    let error = state
        .create_container(
            &CreateContainer {
                name: Some("w2".into()),
                ..again
            },
            at(0),
        )
        .unwrap_err();
    assert_eq!(error.http_status(), 409);
    assert!(
        error
            .to_string()
            .starts_with("Address already in use: 172.17.0.50"),
        "{error}"
    );
    let same_mac = CreateContainer {
        name: Some("w3".into()),
        networks: attachment(None, Some("02:aa:bb:cc:dd:01")),
        ..wanted.clone()
    };
    let error = state.create_container(&same_mac, at(0)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("02:aa:bb:cc:dd:01 is already in use by container web"),
        "{error}"
    );
    let outside = CreateContainer {
        name: Some("w4".into()),
        networks: attachment(Some([10, 0, 0, 1]), None),
        ..request("w4", &[])
    };
    let error = state.create_container(&outside, at(0)).unwrap_err();
    assert_eq!(error.http_status(), 400);
    assert!(
        error
            .to_string()
            .starts_with("invalid address 10.0.0.1: It does not belong"),
        "{error}"
    );
}

#[test]
fn a_generated_mac_avoids_one_that_was_asked_for() {
    let (mut state, ..) = fresh();
    let thief = CreateContainer {
        networks: attachment(None, Some("02:42:ac:11:00:03")),
        ..request("thief", &[])
    };
    state.create_container(&thief, at(0)).unwrap();
    let next = state
        .create_container(&request("next", &[]), at(0))
        .unwrap()
        .container;
    assert_eq!(address(&next), "172.17.0.3/16");
    let mac = next.endpoint().unwrap().mac;
    assert_ne!(mac.to_string(), "02:42:ac:11:00:03");
    assert_eq!(mac.octets()[0] & 0x03, 0x02);
}

#[test]
fn a_failure_leaves_nothing() {
    let (mut state, memory, paper) = fresh();
    paper.0.lock().insert(8099);
    let before = memory.records();
    // Ports are the last to be taken: the address must be free again after them.
    let error = state
        .create_container(&request("dup2", &["8080:80", "8099:80"]), at(0))
        .unwrap_err();
    assert_eq!(error.http_status(), 500);
    let text = error.to_string();
    assert!(
        text.starts_with("failed to set up container networking: driver failed programming external connectivity on endpoint dup2 (")
            && text
                .contains("): failed to bind host port 0.0.0.0:8099/tcp: address already in use"),
        "{text}"
    );
    memory.fail(true);
    let error = state
        .create_container(&request("c1", &["8080:80"]), at(0))
        .unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert!(state.set_default_network(None, at(0)).is_err() && state.default_network().is_some());
    memory.fail(false);
    assert_eq!(memory.records(), before);
    let made = state
        .create_container(&request("c1", &["8080:80"]), at(0))
        .unwrap()
        .container;
    assert_eq!(
        (address(&made).as_str(), host_ports(&made.bindings)),
        ("172.17.0.2/16", vec![(8080, 8080)])
    );
    memory.fail(true);
    assert!(state.set_exited("c1", 0, at(1)).is_err() && state.publish("c1", "81:81").is_err());
    assert!(state.unpublish("c1", "8080:80").is_err() && state.remove("c1", true).is_err());
    memory.fail(false);
    assert_eq!(state.container("c1").unwrap(), &made, "still as it was");
    let taken = state
        .create_container(&request("c2", &["8080:80"]), at(0))
        .unwrap_err();
    assert!(
        taken
            .to_string()
            .contains("): Bind for 0.0.0.0:8080 failed: port is already allocated"),
        "{taken}"
    );
    assert!(
        state
            .create_container(&request("c3", &["81:81"]), at(0))
            .is_ok(),
        "publish gave 81 back"
    );
}

#[test]
fn bad_requests_are_refused_before_anything_happens() {
    let (mut state, memory, _) = fresh();
    running(&mut state, "web", &[]);
    let id = state.container("web").unwrap().id.clone();
    let before = memory.records();
    let mut refuse = |set: &dyn Fn(&mut CreateContainer), status: u16, text: &str| {
        let mut request = request("new", &[]);
        set(&mut request);
        let error = state.create_container(&request, at(0)).unwrap_err();
        assert_eq!(error.http_status(), status, "{error}");
        assert!(
            error.to_string().contains(text) && !error.to_string().contains('\n'),
            "{error}"
        );
    };
    refuse(
        &|r| r.name = Some("web".into()),
        409,
        &format!(
            "Conflict. The container name \"/web\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name"
        ),
    );
    refuse(
        &|r| r.name = Some("../x".into()),
        400,
        "Invalid container name (../x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    refuse(
        &|r| {
            r.networks = vec![NetworkAttachment {
                network: "nosuch".into(),
                ..NetworkAttachment::default()
            }];
        },
        404,
        "network nosuch not found",
    );
    refuse(
        &|r| r.publish = vec!["70000:80".into()],
        400,
        "invalid hostPort: 70000",
    );
    refuse(
        &|r| r.publish = vec!["80:80/sctp".into()],
        400,
        "sctp is not supported",
    );
    refuse(
        &|r| r.publish = vec!["[::1]:80:80".into()],
        400,
        "cannot publish on ::1 (in -p \"[::1]:80:80\"): this host has no IPv6",
    );
    refuse(&|r| r.expose = vec!["0".into()], 400, "--expose");
    refuse(
        &|r| r.networks = attachment(None, Some("x")),
        400,
        "x is not a valid mac address",
    );
    refuse(&|r| r.hostname = Some("a b".into()), 400, "--hostname");
    refuse(&|r| r.add_host = vec!["x".into()], 400, "--add-host");
    refuse(&|r| r.dns_search = vec!["a b".into()], 400, "--dns-search");
    refuse(
        &|r| r.env = vec!["=x".into()],
        400,
        "invalid environment variable",
    );
    refuse(&|r| r.rootfs = Some("rel".into()), 400, "--rootfs");
    refuse(&|r| r.command.clear(), 400, "No command specified");
    refuse(&|r| r.attach_pid = Some(0), 400, "--pid");
    refuse(&|r| r.attach_netns = Some("x".into()), 400, "--netns");
    refuse(
        &|r| {
            r.attach_pid = Some(1);
            r.attach_netns = Some("/x".into());
        },
        400,
        "exclude each other",
    );
    assert_eq!(memory.records(), before);
    assert_eq!(
        address(
            &state
                .create_container(&request("ok", &[]), at(0))
                .unwrap()
                .container
        ),
        "172.17.0.3/16"
    );
}

#[test]
fn a_full_subnet_says_which() {
    let (memory, paper) = (Memory::default(), Paper::default());
    let (mut state, _) = open(&memory, &paper);
    state
        .set_default_network(Some(&config(|o| o.bip = Some("10.0.0.1/30".into()))), at(0))
        .unwrap();
    let network = state.default_network().unwrap().id.clone();
    running(&mut state, "c1", &[]);
    let error = state
        .create_container(&request("c2", &[]), at(0))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!(
            "no available IPv4 addresses on this network's address pools: bridge ({network})"
        )),
        "{error}"
    );
}

#[test]
fn the_life_of_a_container() {
    let (mut state, memory, _) = fresh();
    let made = state
        .create_container(&request("web", &["8080:80"]), at(0))
        .unwrap()
        .container;
    assert_eq!(made.state, ContainerState::Created);
    assert!(
        matches!(state.remove("web", false), Ok(record) if record == made),
        "a created one may be removed"
    );
    let run = running(&mut state, "web", &["8080:80"]);
    assert!(matches!(
        state.set_started("web", None, at(2)),
        Err(ControlError::AlreadyStarted { .. })
    ));
    let error = state.remove("web", false).unwrap_err();
    assert_eq!(error.http_status(), 409);
    assert!(
        error
            .to_string()
            .starts_with("cannot remove container \"/web\": container is running"),
        "{error}"
    );
    assert_eq!(state.host_interfaces().len(), 1);
    let before = state.set_exited("web", 137, at(60)).unwrap().unwrap();
    assert_eq!(before, run, "what has to be taken down");
    assert_eq!(
        state.set_exited("web", 0, at(70)).unwrap(),
        None,
        "reported twice"
    );
    let after = state.container("web").unwrap();
    assert_eq!(
        after.state,
        ContainerState::Exited {
            code: 137,
            started: Some(at(1)),
            finished: at(60)
        }
    );
    assert!(
        after.endpoint().is_none()
            && after.bindings.is_empty()
            && state.host_interfaces().is_empty()
    );
    assert_eq!(after.publish, ["8080:80"], "what was asked for stays");
    assert_eq!(memory.records().containers, std::slice::from_ref(after));
    assert!(matches!(
        state.set_started("web", None, at(2)),
        Err(ControlError::NotRunning { .. })
    ));
    assert!(matches!(
        state.publish("web", "81:81"),
        Err(ControlError::NotRunning { .. })
    ));
    assert!(
        state
            .create_container(&request("w2", &["8080:80"]), at(61))
            .is_ok(),
        "the port is free"
    );
    state.remove("web", false).unwrap();
    assert!(matches!(
        state.container("web"),
        Err(ControlError::NoSuchContainer(_))
    ));
}

#[test]
fn lookup_by_id_name_and_prefix() {
    let (mut state, ..) = fresh();
    let made = running(&mut state, "web", &[]);
    for query in [made.id.as_str(), "web", "/web", &made.id[..12]] {
        assert_eq!(state.container(query).unwrap().id, made.id);
    }
    let error = state.container("nosuch").unwrap_err();
    assert_eq!(
        (error.http_status(), error.to_string().as_str()),
        (404, "No such container: nosuch")
    );
    assert_eq!(
        names::lookup("x", [("xa", "", ()), ("xb", "", ())].into_iter()),
        Err(LookupError::Ambiguous)
    );
    assert_eq!(state.container_of_endpoint(1).unwrap().name, "web");
}

#[test]
fn ports_change_while_it_runs() {
    let (mut state, memory, _) = fresh();
    running(&mut state, "web", &["8080:80"]);
    let (record, added) = state.publish("web", "9000-9002:90-92/udp").unwrap();
    assert_eq!(host_ports(&added), [(9000, 9002)]);
    assert_eq!(record.publish, ["8080:80", "9000-9002:90-92/udp"]);
    assert_eq!(memory.records().containers, [record]);
    let taken = state.publish("web", "8080:81").unwrap_err().to_string();
    assert!(
        taken.contains("driver failed programming external connectivity on endpoint web (")
            && taken.contains("already allocated"),
        "{taken}"
    );
    let error = state.unpublish("web", "8080:81").unwrap_err();
    assert_eq!(error.http_status(), 404);
    assert!(
        error
            .to_string()
            .starts_with("container web does not publish \"8080:81\""),
        "{error}"
    );
    let (record, gone) = state.unpublish("web", "8080:80/tcp").unwrap();
    assert_eq!(
        (host_ports(&gone), host_ports(&record.bindings)),
        (vec![(8080, 8080)], vec![(9000, 9002)])
    );
    assert_eq!(record.publish, ["9000-9002:90-92/udp"]);
    assert!(
        state
            .create_container(&request("w2", &["8080:80"]), at(0))
            .is_ok()
    );
    assert_eq!(state.unpublish("web", "x").unwrap_err().http_status(), 400);
}

#[test]
fn publish_all() {
    // Transcript 03, r4: -P --expose 80 --expose 53/udp; a port named with -p is not published twice.
    let (mut state, ..) = fresh();
    let wanted = CreateContainer {
        publish_all: true,
        expose: vec!["80".into(), "53/udp".into(), "90-92".into()],
        ..request("r4", &["9000:91"])
    };
    let made = state.create_container(&wanted, at(0)).unwrap().container;
    let shown: Vec<_> = made
        .bindings
        .iter()
        .map(|b| (b.spec.as_str(), b.container_port, b.host_port))
        .collect();
    assert_eq!(
        shown,
        [
            ("9000:91", 91, 9000),
            ("80/tcp", 80, 32_768),
            ("53/udp", 53, 32_768),
            ("90/tcp", 90, 32_769),
            ("92/tcp", 92, 32_770)
        ]
    );
    let (record, gone) = state.unpublish("r4", "80/tcp").unwrap();
    assert_eq!((gone.len(), record.bindings.len()), (1, 4));
}

#[test]
fn a_large_range_is_one_binding() {
    let (mut state, memory, _) = fresh();
    let made = running(&mut state, "big", &["20000-29999:20000-29999/udp"]);
    assert_eq!(host_ports(&made.bindings), [(20_000, 29_999)]);
    let stored = serde_json::to_string(&memory.records().containers[0]).unwrap();
    assert!(stored.len() < 4000, "{} octets", stored.len());
}

#[test]
fn a_restarted_daemon_finds_everything_again() {
    let (mut state, memory, paper) = fresh();
    let network = state.default_network().unwrap().clone();
    let web = running(
        &mut state,
        "web",
        &["8080:80", "9000-9009:9000-9009/udp", "80"],
    );
    running(&mut state, "dead", &["8090:80"]);
    drop(state);

    paper.0.lock().insert(9003);
    let (mut state, warnings) = open(&memory, &paper);
    assert_eq!(warnings, Vec::<String>::new());
    state.set_exited("dead", 137, at(100)).unwrap().unwrap();
    assert_eq!(
        state
            .set_default_network(Some(&config(|_| {})), at(100))
            .unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(state.default_network(), Some(&network), "same id, same MAC");
    let warnings = state.restore().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("container web: no longer published: failed to bind host port 0.0.0.0:9003/udp: address already in use"),
        "{warnings:?}"
    );
    let found = state.container("web").unwrap().clone();
    assert_eq!(
        host_ports(&found.bindings),
        [(8080, 8080), (9000, 9002), (9004, 9009), (32_768, 32_768)]
    );
    assert_eq!(
        (found.endpoint(), &found.state),
        (web.endpoint(), &web.state)
    );
    // What was found again is really taken.
    assert!(
        state
            .create_container(&request("x1", &["9004:80/udp"]), at(101))
            .is_err()
    );
    let next = state.create_container(&request("x2", &["8090:80", "9003:80"]), at(101));
    assert!(next.is_err(), "9003 belongs to another program");
    let next = state
        .create_container(&request("x2", &["8090:80"]), at(101))
        .unwrap()
        .container;
    assert_eq!(
        (address(&next).as_str(), next.endpoint().unwrap().number),
        ("172.17.0.3/16", 3)
    );
    assert_eq!(
        state.restore().unwrap(),
        Vec::<String>::new(),
        "a second time changes nothing"
    );
}

#[test]
fn the_default_network_follows_the_flags() {
    let (mut state, memory, _) = fresh();
    let first = state.default_network().unwrap().clone();
    assert_eq!(state.addresses_in_use(&first.id), 3);
    // Same shape: same network, new switches.
    state
        .set_default_network(Some(&config(|o| o.icc = false)), at(1))
        .unwrap();
    let second = state.default_network().unwrap().clone();
    assert_eq!(
        (&second.id, second.config.icc, second.bridge_mac),
        (&first.id, false, first.bridge_mac)
    );
    // Another shape while a container runs: a warning, and no change.
    running(&mut state, "web", &[]);
    let other = config(|o| o.bip = Some("10.9.0.1/24".into()));
    for wanted in [Some(&other), None] {
        let warnings = state.set_default_network(wanted, at(2)).unwrap();
        assert!(warnings[0].starts_with(
            "there are running containers, updated network configuration will not take effect"
        ));
        assert_eq!(state.default_network(), Some(&second));
    }
    state.remove("web", true).unwrap();
    state.set_default_network(Some(&other), at(3)).unwrap();
    let third = state.default_network().unwrap().clone();
    assert_ne!(third.id, first.id);
    assert_eq!(
        (
            third.number,
            third.config.bridge_addresses()[0].to_string().as_str()
        ),
        (2, "10.9.0.1/24")
    );
    let stored = || {
        let networks = memory.records().networks.into_iter();
        networks.filter(Network::is_bridge).collect::<Vec<_>>()
    };
    assert_eq!(stored(), std::slice::from_ref(&third));
    let mac: MacAddress = "02:11:22:33:44:55".parse().unwrap();
    state.set_bridge_mac(&third.id, mac).unwrap();
    assert_eq!(stored()[0].bridge_mac, mac);
    state.set_default_network(None, at(4)).unwrap();
    assert!(state.default_network().is_none() && stored().is_empty());
    assert_eq!(
        state
            .create_container(&request("x1", &[]), at(4))
            .unwrap_err()
            .to_string(),
        "network bridge not found: `tunbridge network ls` lists those that there are"
    );
}

#[test]
fn default_gateway_and_host_address_of_the_flags() {
    let (memory, paper) = (Memory::default(), Paper::default());
    let (mut state, _) = open(&memory, &paper);
    let flags = config(|o| {
        o.bip = Some("192.168.77.1/24".into());
        o.fixed_cidr = Some("192.168.77.128/25".into());
        o.default_gateway = Some("192.168.77.254".into());
        o.ip = Some("198.51.100.2".into());
    });
    state.set_default_network(Some(&flags), at(0)).unwrap();
    let made = running(&mut state, "x1", &["8080:80", "127.0.0.1:8081:80"]);
    assert_eq!(address(&made), "192.168.77.128/24");
    assert_eq!(
        made.endpoint().unwrap().gateways[0].to_string(),
        "192.168.77.254"
    );
    let hosts: Vec<String> = made
        .bindings
        .iter()
        .map(|b| b.host_address.to_string())
        .collect();
    assert_eq!(hosts, ["198.51.100.2", "127.0.0.1"]);
}

#[test]
fn attached_namespaces_need_no_command() {
    let (mut state, ..) = fresh();
    let attach = CreateContainer {
        attach_netns: Some("/run/netns/theirs".into()),
        command: Vec::new(),
        dns: vec![[10, 0, 0, 1].into()],
        ..request("theirs", &[])
    };
    let made = state.create_container(&attach, at(0)).unwrap();
    assert_eq!(
        made.container.kind,
        Kind::AttachNetns("/run/netns/theirs".into())
    );
    assert!(
        made.warnings[0].contains("have no effect"),
        "{:?}",
        made.warnings
    );
    assert!(
        state
            .set_started("theirs", None, at(1))
            .unwrap()
            .is_running()
    );
}

#[test]
fn a_nameless_container_gets_a_name() {
    let (mut state, ..) = fresh();
    let nameless = CreateContainer {
        name: None,
        ..request("", &[])
    };
    let made = state.create_container(&nameless, at(0)).unwrap().container;
    assert_eq!(names::validate_name(&made.name), Ok(()));
    assert!(made.name.contains('_'));
}

#[test]
fn the_files_of_a_container() {
    let (memory, paper) = (Memory::default(), Paper::default());
    let ports = PortAllocator::new(std::sync::Arc::new(paper), 32_768..=60_999, []);
    let dns = DnsSettings {
        servers: vec![[10, 1, 1, 1].into()],
        search: vec!["d".into()],
        options: vec![],
    };
    let settings = Settings {
        dns,
        ..crate::control::test_state::settings()
    };
    let (mut state, _) =
        State::open(Box::new(memory.clone()), memory.records(), ports, settings).unwrap();
    state
        .set_default_network(Some(&config(|_| {})), at(0))
        .unwrap();
    let wanted = CreateContainer {
        hostname: Some("web".into()),
        add_host: vec!["gw:host-gateway".into()],
        dns_search: vec!["corp.example".into()],
        ..request("c1", &[])
    };
    let made = state.create_container(&wanted, at(0)).unwrap().container;
    let facts = FileFacts {
        resolv_conf: "nameserver 203.0.113.53\n",
        systemd_resolv_conf: "",
        ipv6_loopback: false,
    };
    let files = state.files(&made, &facts);
    assert_eq!(
        files.hosts,
        "127.0.0.1\tlocalhost\n172.17.0.1\tgw\n172.17.0.2\tweb\n"
    );
    assert_eq!(files.hostname, "web\n");
    assert!(
        files
            .resolv_conf
            .contains("\n\nnameserver 10.1.1.1\nsearch corp.example\n\n"),
        "{}",
        files.resolv_conf
    );
}

/// The daemon keeps it behind a lock that threads share.
const _: () = {
    const fn shared<T: Send>() {}
    shared::<State>();
};
