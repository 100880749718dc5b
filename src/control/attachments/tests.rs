use super::*;
use crate::control::test_state::{Paper, at, fresh, make, open, option, request, run_on};

fn settings(priority: i64) -> EndpointSettings {
    EndpointSettings {
        gw_priority: priority,
        ..EndpointSettings::default()
    }
}

fn plain(state: &mut State, container: &str, network: &str) -> Result<Connection, String> {
    let done = state.connect(container, network, &EndpointSettings::default());
    done.map_err(|error| error.to_string())
}

fn gateway<'a>(state: &'a State, container: &str) -> Option<&'a str> {
    let container = state.container(container).unwrap();
    let (_, network, _) = state.gateway_endpoint(container, true)?;
    Some(&network.name)
}

fn ports(container: &Container) -> Vec<(String, u16)> {
    let bindings = container.bindings.iter();
    bindings
        .map(|binding| (binding.host_address.to_string(), binding.host_port))
        .collect()
}

#[test]
fn connect_and_disconnect_as_in_the_transcript() {
    let (mut state, memory, _) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    make(&mut state, "net5", |request| {
        request.ipam.config = vec![crate::api::types::IpamPool {
            subnet: Some("10.5.0.0/16".into()),
            ..Default::default()
        }];
    })
    .unwrap();
    let alpha = run_on(&mut state, "alpha", &["net1"], |_| {});
    let mut wanted = EndpointSettings {
        aliases: vec!["extra".into(), "extra".into()],
        ..EndpointSettings::default()
    };
    wanted.ipam_config.ipv4_address = Some([10, 5, 9, 77].into());
    let made = state.connect("alpha", "net5", &wanted).unwrap();
    let endpoint = made.endpoint.unwrap();
    assert_eq!(endpoint.interface, "eth1");
    assert_eq!(endpoint.addresses[0].to_string(), "10.5.9.77/16");
    assert_eq!(endpoint.mac.to_string(), "02:42:0a:05:09:4d");
    assert!(!made.changed_gateway, "net1 comes first by name");
    assert_eq!(made.container.attachments[1].aliases, ["extra"]);

    let gone = state.disconnect("alpha", "net1", false).unwrap();
    assert_eq!(gone.endpoint.as_ref(), alpha.endpoint());
    assert!(gone.changed_gateway);
    assert_eq!(
        (gone.before.attachments.len(), gone.after.attachments.len()),
        (2, 1)
    );
    assert_eq!(gateway(&state, "alpha"), Some("net5"));
    let back = plain(&mut state, "alpha", "net1").unwrap();
    let endpoint = back.endpoint.unwrap();
    assert_eq!(
        (
            endpoint.addresses[0].to_string().as_str(),
            endpoint.interface.as_str()
        ),
        ("172.18.0.2/16", "eth0"),
        "the lowest free name"
    );
    assert!(back.changed_gateway);
    assert_eq!(memory.records().containers, [back.container]);

    let twice = plain(&mut state, "alpha", "net1").unwrap_err();
    assert!(
        twice.starts_with("endpoint with name alpha already exists in network net1"),
        "{twice}"
    );
    run_on(&mut state, "foxtrot", &["net5"], |_| {});
    let id = state.container("foxtrot").unwrap().id.clone();
    let not = state
        .disconnect("foxtrot", "net1", false)
        .unwrap_err()
        .to_string();
    assert!(
        not.starts_with(&format!("container {id} is not connected to network net1")),
        "{not}"
    );
    assert_eq!(
        plain(&mut state, "alpha", "bridge")
            .unwrap()
            .endpoint
            .unwrap()
            .interface,
        "eth2"
    );
    for (network, text) in [
        (
            "host",
            "container cannot be disconnected from host network or connected to host network",
        ),
        (
            "none",
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        ("nosuch", "network nosuch not found"),
    ] {
        let error = plain(&mut state, "alpha", network).unwrap_err();
        assert!(error.starts_with(text), "{error}");
    }
    let nobody = plain(&mut state, "nobody", "net1").unwrap_err();
    assert_eq!(nobody, "No such container: nobody");
}

#[test]
fn what_cannot_be_wished() {
    let (mut state, memory, _) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    run_on(&mut state, "web", &["bridge"], |_| {});
    run_on(&mut state, "other", &["net1"], |r| {
        r.networks[0].settings.mac_address = Some("02:aa:bb:cc:dd:01".into());
    });
    let before = memory.records();
    let mut refuse = |network: &str, set: &dyn Fn(&mut EndpointSettings), status, text: &str| {
        let mut wanted = EndpointSettings::default();
        set(&mut wanted);
        let error = state.connect("web", network, &wanted).unwrap_err();
        assert_eq!(error.http_status(), status, "{error}");
        let error = error.to_string();
        assert!(error.contains(text) && !error.contains('\n'), "{error}");
    };
    let address = |octets: [u8; 4]| {
        move |wanted: &mut EndpointSettings| wanted.ipam_config.ipv4_address = Some(octets.into())
    };
    refuse(
        "net1",
        &address([10, 6, 0, 1]),
        400,
        "invalid address 10.6.0.1: It does not belong to any of this network's subnets",
    );
    refuse(
        "net1",
        &address([10, 6, 0, 1]),
        400,
        "no configured subnet contains IP address 10.6.0.1",
    );
    refuse(
        "net1",
        &address([172, 18, 0, 2]),
        409,
        "Address already in use",
    );
    refuse(
        "net1",
        &address([172, 18, 0, 1]),
        409,
        "Address already in use",
    );
    refuse(
        "net1",
        &|w| w.ipam_config.ipv6_address = "fd00::2".parse().ok(),
        400,
        "no configured subnet contains IP address fd00::2",
    );
    refuse(
        "net1",
        &|w| w.ipam_config.link_local_ips = vec![[169, 254, 1, 1].into()],
        400,
        "--link-local-ip",
    );
    refuse(
        "net1",
        &|w| w.mac_address = Some("x".into()),
        400,
        "x is not a valid mac address",
    );
    refuse(
        "net1",
        &|w| w.mac_address = Some("02:aa:bb:cc:dd:01".into()),
        409,
        "is already in use by container other",
    );
    refuse(
        "net1",
        &|w| w.aliases = vec!["a b".into()],
        400,
        "--network-alias",
    );
    refuse(
        "net1",
        &|w| w.links = vec!["a:b:c".into()],
        400,
        "bad format for links: a:b:c",
    );
    let ifname = |name: &'static str| {
        move |wanted: &mut EndpointSettings| {
            let key = "com.docker.network.endpoint.ifname".to_owned();
            wanted.driver_opts.insert(key, name.to_owned());
        }
    };
    refuse(
        "net1",
        &ifname("a/b"),
        400,
        "com.docker.network.endpoint.ifname",
    );
    refuse(
        "net1",
        &ifname("eth0"),
        409,
        "interface eth0 exists already in container web",
    );
    assert_eq!(memory.records(), before);
    // On the default network there are no names.
    let made = state.connect(
        "other",
        "bridge",
        &EndpointSettings {
            aliases: vec!["x".into()],
            ..EndpointSettings::default()
        },
    );
    let error = made.unwrap_err().to_string();
    assert!(
        error.starts_with("network-scoped aliases are only supported for user-defined networks"),
        "{error}"
    );
    let mut wanted = EndpointSettings::default();
    ifname("wan0")(&mut wanted);
    let made = state.connect("web", "net1", &wanted).unwrap();
    assert_eq!(made.endpoint.unwrap().interface, "wan0");
}

#[test]
fn the_default_route_follows_priority_reach_and_name() {
    // TestGatewaySelection, for IPv4.
    let (mut state, ..) = fresh();
    for name in ["netc", "netb", "neta"] {
        make(&mut state, name, |_| {}).unwrap();
    }
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    let web = run_on(&mut state, "web", &["inside"], |_| {});
    assert!(web.endpoint().unwrap().gateways.is_empty());
    assert_eq!(gateway(&state, "web"), None);
    let mut changes = Vec::new();
    for (network, priority) in [("netc", 0), ("netb", 0), ("neta", -1)] {
        let done = state.connect("web", network, &settings(priority)).unwrap();
        changes.push((
            done.changed_gateway,
            gateway(&state, "web").unwrap().to_owned(),
        ));
    }
    assert_eq!(
        changes,
        [
            (true, "netc".to_owned()),
            (true, "netb".to_owned()),
            (false, "netb".to_owned())
        ]
    );
    for (network, next) in [
        ("netb", Some("netc")),
        ("netc", Some("neta")),
        ("neta", None),
    ] {
        assert!(
            state
                .disconnect("web", network, false)
                .unwrap()
                .changed_gateway
        );
        assert_eq!(gateway(&state, "web"), next);
    }
}

#[test]
fn host_ports_go_with_the_default_route() {
    let (mut state, ..) = fresh();
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    make(&mut state, "local", |r| {
        option(r, "bridge.host_binding_ipv4", "127.0.0.1")
    })
    .unwrap();
    make(&mut state, "routed", |r| {
        option(r, "bridge.gateway_mode_ipv4", "routed")
    })
    .unwrap();
    let publish = ["8080:80", "192.0.2.1:8081:81", "82"].map(str::to_owned);
    let web = run_on(&mut state, "web", &["inside"], |r| {
        r.publish = publish.into()
    });
    assert_eq!(ports(&web), []);
    let done = state.connect("web", "bridge", &settings(0)).unwrap();
    let on_bridge = ports(&done.container);
    let ephemeral = on_bridge[2].1;
    let expected = |any: &str| {
        let own = ("192.0.2.1".to_owned(), 8081);
        vec![(any.to_owned(), 8080), own, (any.to_owned(), ephemeral)]
    };
    assert_eq!(on_bridge, expected("0.0.0.0"));
    let done = state.connect("web", "local", &settings(1)).unwrap();
    assert!(done.changed_gateway);
    assert_eq!(
        ports(&done.container),
        expected("127.0.0.1"),
        "the same numbers"
    );
    let done = state.connect("web", "routed", &settings(2)).unwrap();
    assert_eq!(ports(&done.container), []);
    // Somebody else takes one in the meantime.
    run_on(&mut state, "thief", &["bridge"], |r| {
        r.publish = vec!["8080:80".into()]
    });
    let done = state.disconnect("web", "routed", false).unwrap();
    assert_eq!(ports(&done.after), expected("127.0.0.1")[1..]);
    assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
    assert!(
        done.warnings[0].starts_with(
            "container web: no longer published: Bind for 127.0.0.1:8080 failed: port is already allocated"
        ),
        "{:?}",
        done.warnings
    );
    let done = state.disconnect("web", "local", false).unwrap();
    assert_eq!(ports(&done.after), expected("0.0.0.0")[1..]);
    // What is published while nothing carries it, waits.
    let done = state.disconnect("web", "bridge", false).unwrap();
    assert!(done.after.bindings.is_empty());
    let (_, added) = state.publish("web", "8090:90").unwrap();
    assert!(added.is_empty());
    state.remove("thief", true).unwrap();
    let done = state.connect("web", "bridge", &settings(0)).unwrap();
    assert_eq!(ports(&done.container).len(), 4);
    assert!(state.unpublish("web", "8090:90").is_ok());
    assert_eq!(
        state.unpublish("web", "8090:90").unwrap_err().http_status(),
        404
    );
}

#[test]
fn a_connection_that_cannot_have_its_ports_is_not_made() {
    let (mut state, memory, paper) = fresh();
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    make(&mut state, "local", |r| {
        option(r, "bridge.host_binding_ipv4", "127.0.0.1")
    })
    .unwrap();
    run_on(&mut state, "web", &["inside", "bridge"], |r| {
        r.publish = vec!["8080:80".into(), "83:83".into()];
    });
    let before = memory.records();
    run_on(&mut state, "other", &["local"], |r| {
        r.publish = vec!["8081:80".into()]
    });
    let used = state.addresses_in_use(&state.network("local").unwrap().id);
    paper.0.lock().insert(83);
    let error = state
        .connect("web", "local", &settings(1))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("failed to set up container networking: driver failed programming external connectivity on endpoint web (")
            && error.contains("failed to bind host port 127.0.0.1:83/tcp: address already in use"),
        "{error}"
    );
    paper.0.lock().clear();
    assert_eq!(
        state.addresses_in_use(&state.network("local").unwrap().id),
        used
    );
    assert_eq!(
        state.container("web").unwrap().attachments,
        before.containers[0].attachments
    );
    let taken = request("thief", &["8080:80"]);
    let error = state
        .create_container(&taken, at(0))
        .unwrap_err()
        .to_string();
    assert!(error.contains("Bind for 0.0.0.0:8080 failed"), "{error}");
    assert!(state.connect("web", "local", &settings(1)).is_ok());
}

#[test]
fn containers_that_have_exited_note_it_for_later() {
    let (mut state, memory, _) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    make(&mut state, "net2", |_| {}).unwrap();
    run_on(&mut state, "web", &["bridge"], |_| {});
    state.set_exited("web", 0, at(2)).unwrap();
    let done = state.connect("web", "net1", &settings(0)).unwrap();
    assert!(done.endpoint.is_none() && !done.changed_gateway);
    assert_eq!(
        state
            .connect("web", "net1", &settings(5))
            .unwrap()
            .container
            .attachments
            .len(),
        2
    );
    state.connect("web", "net2", &settings(0)).unwrap();
    let gone = state.disconnect("web", "net2", false).unwrap();
    assert!(gone.endpoint.is_none());
    let id = state.container("web").unwrap().id.clone();
    let error = state
        .disconnect("web", "net2", false)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!(
            "container {id} is not connected to the network net2"
        )),
        "{error}"
    );
    let (mut state, _) = open(&memory, &Paper::default());
    state.remove_network("net2").unwrap();
    let started = state.restart("web").unwrap();
    let names: Vec<&str> = started
        .container
        .endpoints()
        .map(|(_, e)| e.interface.as_str())
        .collect();
    assert_eq!(names, ["eth1", "eth0"], "net1 has the priority");
    assert_eq!(gateway(&state, "web"), Some("net1"));
    // A network that is gone can be taken out of the record of one that has exited.
    state.set_exited("web", 0, at(3)).unwrap();
    state.remove_network("net1").unwrap();
    assert!(state.disconnect("web", "net1", false).is_ok());
    assert!(state.restart("web").is_ok());
}

#[test]
fn without_a_network() {
    let (mut state, ..) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    let alone = run_on(&mut state, "alone", &["none"], |r| {
        r.publish = vec!["80:80".into()]
    });
    assert!(alone.attachments.is_empty() && alone.bindings.is_empty());
    assert_eq!(alone.network_mode, "none");
    let error = plain(&mut state, "alone", "net1").unwrap_err();
    assert!(
        error.starts_with("container cannot be connected to multiple networks"),
        "{error}"
    );
    let renamed = run_on(&mut state, "theirs", &["net1"], |_| {});
    let number = renamed.endpoint().unwrap().number;
    let renamed = state.set_interface("theirs", number, "eth7").unwrap();
    assert_eq!(renamed.endpoint().unwrap().interface, "eth7");
    // One that has lost all of its networks may have new ones.
    run_on(&mut state, "web", &["net1"], |_| {});
    state.disconnect("web", "net1", false).unwrap();
    assert_eq!(
        plain(&mut state, "web", "net1")
            .unwrap()
            .endpoint
            .unwrap()
            .interface,
        "eth0"
    );
}
