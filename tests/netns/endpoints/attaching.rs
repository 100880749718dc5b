//! What an endpoint is, and what is said of it.

use std::time::Duration;

use tunbridge::api::client::ClientError;
use tunbridge::api::types::{
    AddressRange, AttachEndpoint, AttachedEndpoint, CollectEndpoints, CreateNetwork, Placement,
    Runtime,
};

use super::{ENDPOINTS, Foreign, client, id, left, refusal, wants};
use crate::lab::{FAR, HOST, LAN, Lab, eventually};
use crate::tunbridge_under_test::binary;

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
    let attached = four.attached(&routeless);
    assert!(attached.gateways.is_empty());
    assert_eq!(attached.routers[0].to_string(), "172.17.0.1");
    let routes = four.place.run(&["ip", "route"]).stdout;
    assert!(!routes.contains("default"), "{routes}");
}

#[test]
fn a_container_that_a_user_has_moved_goes_when_its_runtime_says_so() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge
        .cli(&["network", "create", "other"])
        .expect_success();
    let one = Foreign::new(&lab, &id('1'));
    let name = one.attached(&one.wants("bridge")).name;
    for words in [["connect", "other"], ["disconnect", "bridge"]] {
        tunbridge
            .cli(&["network", words[0], words[1], &name])
            .expect_success();
    }
    assert_eq!(one.interfaces(), ["eth1"]);
    one.detach(Some("bridge"));
    assert_eq!(one.interfaces(), Vec::<String>::new());
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn what_is_not_valid_any_more_is_collected() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("ours");
    let containers = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    for container in &containers {
        container.attached(&AttachEndpoint {
            owner: Some("net1".to_owned()),
            ..container.wants("bridge")
        });
    }
    let other = Foreign::new(&lab, &id('3'));
    other.attached(&AttachEndpoint {
        owner: Some("net2".to_owned()),
        ..other.wants("bridge")
    });
    let collect = |runtime: Runtime, valid: Vec<(String, String)>| {
        let request = CollectEndpoints {
            runtime,
            owner: "net1".to_owned(),
            valid,
        };
        client(&lab)
            .tell(&format!("{ENDPOINTS}/collect"), &request)
            .unwrap();
    };
    collect(Runtime::Oci, Vec::new());
    assert_eq!(tunbridge.names(&[]).len(), 4);
    collect(Runtime::Cni, vec![(id('1'), "eth0".to_owned())]);
    assert_eq!(containers.each_ref().map(|c| c.interfaces().len()), [1, 0]);
    collect(Runtime::Cni, Vec::new());
    assert_eq!(other.interfaces(), ["eth0"]);
    other.detach(None);
    assert_eq!(tunbridge.names(&[]), ["ours"]);
}

#[test]
fn who_has_what_is_wanted_is_named() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for network in ["shop", "back"] {
        tunbridge
            .cli(&["network", "create", network])
            .expect_success();
    }
    let web = Foreign::new(&lab, &id('1'));
    let first = web.attached(&AttachEndpoint {
        name: Some("web".to_owned()),
        publish: vec!["8080:80".to_owned(), "9000-9002:9000-9002/udp".to_owned()],
        ..web.wants("shop")
    });
    web.attached(&web.wants("back"));
    let address = first.addresses[0].addr().to_string();
    let path = format!("/run/netns/{}", web.place.name());
    let run = |options: &[&str]| {
        let words = [&["run", "-d"], options, &["--", "sleep", "60"]].concat();
        tunbridge.cli(&words)
    };
    for (refused, words) in [
        (
            run(&["-p", "8080:80"]),
            "port is already allocated (in -p \"8080:80\"): choose another host port, or stop container web, which publishes it",
        ),
        (
            run(&["-p", "127.0.0.1:9001:80/udp"]),
            "stop container web, which publishes it",
        ),
        (
            run(&["--network", "shop", "--ip", &address]),
            "is taken by container web: choose another --ip in 172.18.0.0/16",
        ),
        (
            run(&["--name", "web"]),
            "`tunbridge rm -f web`, or give another --name",
        ),
        (
            tunbridge.cli(&[
                "attach",
                "--name",
                "vm",
                "--netns",
                &path,
                "--network",
                "shop",
            ]),
            "dev eth0; that network namespace is container web's, too: `tunbridge network connect` and `publish` give web more, `tunbridge rm -f web` lets go of it",
        ),
        (
            tunbridge.cli(&["start", "web"]),
            "container web is another runtime's (CNI a11111111111): stop or restart it",
        ),
    ] {
        let refused = refused.expect_failure().output();
        assert!(refused.contains(words), "{words}\n{refused}");
    }
    let shown = tunbridge.cli(&["ps"]).expect_success().stdout;
    let addresses: Vec<&str> = shown.split_whitespace().collect();
    assert!(addresses.contains(&"(CNI)"), "{shown}");
    assert!(shown.contains(",…"), "{shown}");
    let removed = tunbridge.cli(&["rm", "-f", "web"]).expect_success();
    let words = "web is another runtime's (CNI a11111111111): its network is gone";
    assert!(removed.output().contains(words), "{removed:?}");
    // Without a name it has a short one.
    let unnamed = Foreign::new(&lab, &id('2'));
    unnamed.attached(&unnamed.wants("shop"));
    assert_eq!(tunbridge.names(&[]), ["a22222222222"]);
    unnamed.detach(None);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

#[test]
fn a_delegated_endpoint_is_the_runtimes_to_move() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
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
        .ping(FAR)
        .succeeded()));
    tunbridge.kill();
    tunbridge.start_again();
    assert_eq!(tunbridge.names(&[]), ["dock"]);
    assert!(eventually(Duration::from_secs(3), || {
        container.place.ping(FAR).succeeded()
    }));
    let refused = tunbridge.cli(&["stop", "dock"]).expect_failure().stderr;
    assert!(refused.contains("docker docker-1"), "{refused}");
    let refused = tunbridge.cli(&["exec", "dock", "true"]).expect_failure();
    let words = "container dock is docker's, which keeps its namespaces: `docker exec dock …`";
    assert!(refused.stderr.contains(words), "{refused:?}");
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

#[test]
fn docker_clients_see_them_as_containers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let mut events = lab.host().start(&[&binary(), "events"]);
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

#[test]
fn both_families_are_had_and_checked() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let mut request = AttachEndpoint {
        create_network: Some(CreateNetwork {
            name: "both".to_owned(),
            enable_ipv6: Some(true),
            ..CreateNetwork::default()
        }),
        ..one.wants("both")
    };
    request.settings.mac_address = Some("02:00:00:00:00:77".to_owned());
    let attached = one.attached(&request);
    assert_eq!(attached.inside.mac, "02:00:00:00:00:77");
    assert_eq!((attached.addresses.len(), attached.gateways.len()), (2, 2));
    assert_eq!(one.check().unwrap().addresses, attached.addresses);
    one.place
        .shell("ip -6 route delete default")
        .expect_success();
    let problem = refusal(one.check(), 409);
    assert!(problem.contains("no default route by"), "{problem}");
}
