use super::*;
use crate::api::types::NetworkAttachment;
use crate::control::test_state::{at, fresh, make, on, option, request, run_on};

#[test]
fn several_networks_at_once() {
    // TestCreateWithMultiNetworks, TestCreateWithPriority.
    let (mut state, memory, _) = fresh();
    for name in ["neta", "netb", "netc"] {
        make(&mut state, name, |r| {
            option(r, "container_iface_prefix", &format!("{name}-"))
        })
        .unwrap();
    }
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    let wanted = |name: &str, set: &dyn Fn(&mut Vec<NetworkAttachment>)| {
        let mut networks = on(&["inside", "bridge", "netb"]);
        set(&mut networks);
        CreateContainer {
            networks,
            ..request(name, &["8080:80"])
        }
    };
    let made = state
        .create_container(&wanted("c1", &|_| {}), at(0))
        .unwrap();
    assert_eq!(made.networks.len(), 3);
    let interfaces = |container: &Container| -> Vec<String> {
        container
            .endpoints()
            .map(|(_, e)| e.interface.clone())
            .collect()
    };
    assert_eq!(interfaces(&made.container), ["eth1", "eth0", "netb-0"]);
    let numbers: Vec<u32> = made.container.endpoints().map(|(_, e)| e.number).collect();
    assert_eq!(numbers, [3, 1, 2]);
    assert_eq!(made.container.network_mode, "inside");
    assert_eq!(memory.records().counters.endpoint, 3);
    let (_, gateway, _) = state.gateway_endpoint(&made.container, true).unwrap();
    assert_eq!(gateway.name, "bridge");
    let first = wanted("c2", &|networks| networks[2].settings.gw_priority = 1);
    let made = CreateContainer {
        publish: Vec::new(),
        ..first
    };
    let made = state.create_container(&made, at(0)).unwrap().container;
    let (_, gateway, _) = state.gateway_endpoint(&made, true).unwrap();
    assert_eq!(gateway.name, "netb");

    let before = memory.records();
    let used: Vec<u128> = before
        .networks
        .iter()
        .map(|n| state.addresses_in_use(&n.id))
        .collect();
    let mut refuse = |set: &dyn Fn(&mut CreateContainer), text: &str| {
        let mut wanted = wanted("bad", &|_| {});
        wanted.publish.clear();
        set(&mut wanted);
        let error = state
            .create_container(&wanted, at(0))
            .unwrap_err()
            .to_string();
        assert!(error.contains(text) && !error.contains('\n'), "{error}");
    };
    let twice = "network \"bridge\" is specified multiple times";
    refuse(&|r| r.networks.extend(on(&["bridge"])), twice);
    refuse(&|r| r.networks.extend(on(&["default"])), twice);
    refuse(
        &|r| r.networks.extend(on(&["none"])),
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
    );
    refuse(
        &|r| r.networks = on(&["host"]),
        "invalid --network \"host\"",
    );
    refuse(
        &|r| r.networks = on(&["container:c1"]),
        "invalid --network \"container:c1\"",
    );
    refuse(
        &|r| r.networks.extend(on(&["nosuch"])),
        "network nosuch not found",
    );
    refuse(
        &|r| r.publish = vec!["8080:80".into()],
        "Bind for 0.0.0.0:8080 failed",
    );
    refuse(
        &|r| r.networks[2].settings.ipam_config.ipv4_address = Some([172, 19, 0, 1].into()),
        "Address already in use",
    );
    refuse(&|r| r.domainname = Some("a b".into()), "--domainname");
    assert_eq!(memory.records(), before);
    let after: Vec<u128> = before
        .networks
        .iter()
        .map(|n| state.addresses_in_use(&n.id))
        .collect();
    assert_eq!(after, used);
}

#[test]
fn started_again() {
    let (mut state, memory, _) = fresh();
    let first = run_on(&mut state, "web", &["bridge"], |r| {
        r.publish = vec!["8080:80".into(), "81".into()];
        r.networks[0].settings.mac_address = Some("02:aa:bb:cc:dd:01".into());
    });
    assert!(matches!(
        state.restart("web"),
        Err(ControlError::AlreadyStarted { .. })
    ));
    state.set_exited("web", 3, at(5)).unwrap();
    run_on(&mut state, "filler", &["bridge"], |_| {});
    let again = state.restart("web").unwrap();
    let (old, new) = (
        first.endpoint().unwrap(),
        again.container.endpoint().unwrap(),
    );
    assert_eq!(again.container.id, first.id);
    assert_eq!(again.container.state, ContainerState::Created);
    assert_eq!(new.addresses[0].to_string(), "172.17.0.3/16");
    assert_eq!(new.mac, old.mac, "it was asked for");
    assert!(new.id != old.id && new.number == 3);
    assert_ne!(again.container.sandbox_id, first.sandbox_id);
    assert_eq!(again.container.bindings.len(), 2);
    assert_eq!(again.networks.len(), 1);

    // Its process could not be started.
    let given_up = state.cancel_restart("web").unwrap().unwrap();
    assert_eq!(given_up.endpoint(), again.container.endpoint());
    let record = state.container("web").unwrap();
    let exited = ContainerState::Exited {
        code: 3,
        started: Some(at(1)),
        finished: at(5),
    };
    assert_eq!((&record.state, record.former_exit), (&exited, None));
    assert_eq!(state.cancel_restart("web").unwrap(), None);

    state.restart("web").unwrap();
    let running = state.set_started("web", None, at(9)).unwrap();
    assert_eq!(running.former_exit, None);
    assert_eq!(state.cancel_restart("web").unwrap(), None);
    assert!(memory.records().containers.contains(&running));

    // What somebody else has by now.
    state.set_exited("web", 0, at(10)).unwrap();
    run_on(&mut state, "thief", &["bridge"], |r| {
        r.publish = vec!["8080:80".into()]
    });
    let before = memory.records();
    let error = state.restart("web").unwrap_err().to_string();
    assert!(
        error.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"),
        "{error}"
    );
    assert_eq!(memory.records(), before);
    state.remove("thief", true).unwrap();
    memory.fail(true);
    assert!(state.restart("web").is_err());
    memory.fail(false);
    assert!(state.restart("web").is_ok());
    let attached = CreateContainer {
        attach_netns: Some("/run/netns/x".into()),
        ..request("theirs", &[])
    };
    state.create_container(&attached, at(0)).unwrap();
    state.set_exited("theirs", 0, at(1)).unwrap();
    assert!(matches!(
        state.restart("theirs"),
        Err(ControlError::NotOurs { .. })
    ));
}

/// A static address is wanted again at every start, and may be somebody else's by then.
#[test]
fn a_static_address_comes_back() {
    let (mut state, ..) = fresh();
    let fixed = |r: &mut CreateContainer| {
        r.networks[0].settings.ipam_config.ipv4_address = Some([172, 17, 0, 77].into());
    };
    run_on(&mut state, "web", &["bridge"], fixed);
    state.set_exited("web", 0, at(2)).unwrap();
    run_on(&mut state, "other", &["bridge"], fixed);
    let error = state.restart("web").unwrap_err().to_string();
    assert!(
        error.starts_with("Address already in use: 172.17.0.77"),
        "{error}"
    );
    state.remove("other", true).unwrap();
    let again = state.restart("web").unwrap().container;
    assert_eq!(
        again.endpoint().unwrap().addresses[0].to_string(),
        "172.17.0.77/16"
    );
}

#[test]
fn unpublished_ports_are_told() {
    let (mut state, ..) = fresh();
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    let wanted = CreateContainer {
        networks: on(&["inside"]),
        ..request("i3", &["8095:80"])
    };
    let made = state.create_container(&wanted, at(0)).unwrap();
    assert!(made.container.bindings.is_empty());
    assert!(
        made.warnings[0].starts_with("no port is published"),
        "{:?}",
        made.warnings
    );
}
