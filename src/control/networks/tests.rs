use super::*;
use crate::control::test_state::{
    Memory, Paper, at, config, fresh, make, on, open, option, request, run_on,
};

fn subnet(network: &Network) -> String {
    network.subnets()[0].to_string()
}

#[test]
fn subnets_and_bridges_as_in_the_transcript() {
    let (mut state, memory, _) = fresh();
    let names = ["net1", "isol", "noicc", "nomasq", "bind127"];
    let made = names.map(|name| make(&mut state, name, |_| {}).unwrap());
    let subnets = made.each_ref().map(subnet);
    assert_eq!(
        subnets,
        [
            "172.18.0.0/16",
            "172.19.0.0/16",
            "172.20.0.0/16",
            "172.21.0.0/16",
            "172.22.0.0/16"
        ]
    );
    let net1 = &made[0];
    assert_eq!(net1.config.bridge, format!("tb-{}", &net1.id[..12]));
    assert_eq!(
        net1.config.bridge_addresses()[0].to_string(),
        "172.18.0.1/16"
    );
    assert_eq!(
        made.each_ref().map(|network| network.number),
        [2, 3, 4, 5, 6]
    );
    // A gap is used again, a number is not.
    state.remove_network("noicc").unwrap();
    let again = make(&mut state, "again", |_| {}).unwrap();
    assert_eq!(
        (subnet(&again).as_str(), again.number),
        ("172.20.0.0/16", 7)
    );
    assert_eq!(memory.records().networks.len(), 3 + 5);
    let (reopened, _) = open(&memory, &Paper::default());
    assert_eq!(reopened.network("again").unwrap(), &again);
}

#[test]
fn default_pools_can_be_replaced() {
    // TestDaemonDefaultNetworkPools.
    let (memory, paper) = (Memory::default(), Paper::default());
    let (mut state, _) = open(&memory, &paper);
    let pools =
        ["base=175.30.0.0/16,size=16", "base=175.33.0.0/16,size=24"].map(|p| p.parse().unwrap());
    state.settings.pools = crate::control::address_pool::AddressPools::new(pools.into(), "");
    let flags = config(|o| {
        o.default_address_pools = vec!["base=175.30.0.0/16,size=16".into()];
    });
    state.set_default_network(Some(&flags), at(0)).unwrap();
    let first = make(&mut state, "elango", |_| {}).unwrap();
    let second = make(&mut state, "saanvi", |_| {}).unwrap();
    assert_eq!(subnet(state.default_network().unwrap()), "175.30.0.0/16");
    assert_eq!(
        [subnet(&first), subnet(&second)],
        ["175.33.0.0/24", "175.33.1.0/24"]
    );
}

#[test]
fn what_cannot_be_made() {
    let (mut state, memory, _) = fresh();
    let pool = |subnet: &str| {
        let subnet = Some(subnet.to_owned());
        move |request: &mut CreateNetwork| {
            request.ipam.config = vec![crate::api::types::IpamPool {
                subnet,
                ..Default::default()
            }];
        }
    };
    make(&mut state, "net5", pool("10.5.0.0/16")).unwrap();
    let before = memory.records();
    let mut refuse = |name: &str, set: &dyn Fn(&mut CreateNetwork), text: &str| {
        let error = make(&mut state, name, set).unwrap_err();
        assert!(error.contains(text) && !error.contains('\n'), "{error}");
    };
    refuse("net5", &|_| {}, "network with name net5 already exists");
    for name in ["bridge", "host", "none"] {
        refuse(
            name,
            &|_| {},
            &format!("operation is not permitted on predefined {name} network "),
        );
    }
    refuse(
        "overlap",
        &|request| pool("10.5.3.0/24")(request),
        "invalid pool request: Pool overlaps with other one on this address space",
    );
    refuse(
        "overlap",
        &|request| pool("172.17.0.0/24")(request),
        "invalid pool request: Pool overlaps with other one on this address space",
    );
    refuse(
        "x",
        &|request| option(request, "bridge.name", "tb0"),
        "networks have same bridge name",
    );
    refuse(
        "x",
        &|request| option(request, "bridge.gateway_mode_ipv4", "isolated"),
        "gateway mode 'isolated' can only be used for an internal network",
    );
    assert_eq!(memory.records(), before);
    memory.fail(true);
    assert!(
        make(&mut state, "x", |_| {})
            .unwrap_err()
            .contains("disk full")
    );
    memory.fail(false);
    let made = make(&mut state, "x", |_| {}).unwrap();
    assert_eq!((made.number, subnet(&made).as_str()), (3, "172.18.0.0/16"));
}

#[test]
fn removal() {
    let (mut state, ..) = fresh();
    let net1 = make(&mut state, "net1", |_| {}).unwrap();
    let net2 = make(&mut state, "net2", |_| {}).unwrap();
    let web = run_on(&mut state, "web", &["net1"], |_| {});
    let endpoint = names::short_id(&web.endpoint().unwrap().id);
    let error = state.remove_network("net1").unwrap_err();
    assert_eq!(error.http_status(), 403);
    assert!(
        error.to_string().starts_with(&format!(
            "error while removing network: network net1 has active endpoints (name:\"web\" id:\"{endpoint}\")"
        )),
        "{error}"
    );
    for name in ["bridge", "host", "none"] {
        let error = state.remove_network(name).unwrap_err();
        assert_eq!(error.http_status(), 403);
        let text = format!("{name} is a pre-defined network and cannot be removed");
        assert!(error.to_string().starts_with(&text), "{error}");
    }
    let error = state.remove_network("nosuch").unwrap_err();
    assert_eq!(error.http_status(), 404);
    assert!(
        error.to_string().starts_with("network nosuch not found"),
        "{error}"
    );
    let unused: Vec<_> = state.unused_networks().map(|n| n.id.clone()).collect();
    assert_eq!(unused, std::slice::from_ref(&net2.id));
    // TestDockerNetworkDeletePreferID: a network that is named like another's id.
    make(&mut state, &net2.id, |_| {}).unwrap();
    assert_eq!(state.remove_network(&net2.id).unwrap().name, "net2");
    // A container that has stopped does not keep its network.
    state.set_exited("web", 0, at(2)).unwrap();
    assert_eq!(state.remove_network("net1").unwrap().id, net1.id);
    let error = state.restart("web").unwrap_err().to_string();
    assert!(error.starts_with("network net1 not found"), "{error}");
    let again = make(&mut state, "net1", |_| {}).unwrap();
    let web = state.restart("web").unwrap().container;
    assert_eq!(web.attachments[0].network, again.id);
}

#[test]
fn isolated_and_small_networks() {
    let (mut state, ..) = fresh();
    // TestPointToPoint.
    make(&mut state, "p2p", |request| {
        request.internal = true;
        option(request, "bridge.gateway_mode_ipv4", "isolated");
        request.ipam.config = vec![crate::api::types::IpamPool {
            subnet: Some("10.9.0.0/31".into()),
            ..Default::default()
        }];
    })
    .unwrap();
    let addresses = ["c1", "c2"].map(|name| {
        let made = run_on(&mut state, name, &["p2p"], |_| {});
        let endpoint = made.endpoint().unwrap().clone();
        assert!(endpoint.gateways.is_empty());
        endpoint.addresses[0].to_string()
    });
    assert_eq!(addresses, ["10.9.0.0/31", "10.9.0.1/31"]);
    let full = state.create_container(
        &crate::api::types::CreateContainer {
            networks: on(&["p2p"]),
            ..request("c3", &[])
        },
        at(0),
    );
    let text = full.unwrap_err().to_string();
    assert!(
        text.starts_with("no available IPv4 addresses on this network's address pools: p2p ("),
        "{text}"
    );
    // Transcript 04: addresses come from the range, the gateway and `printer` are left out.
    make(&mut state, "net5", |request| {
        let auxiliary = [("printer".to_owned(), "10.5.7.1".to_owned())];
        request.ipam.config = vec![crate::api::types::IpamPool {
            subnet: Some("10.5.0.0/16".into()),
            ip_range: Some("10.5.7.0/24".into()),
            gateway: Some("10.5.0.254".into()),
            auxiliary_addresses: auxiliary.into(),
        }];
    })
    .unwrap();
    let addresses = ["d1", "d2"].map(|name| {
        run_on(&mut state, name, &["net5"], |_| {})
            .endpoint()
            .unwrap()
            .addresses[0]
            .to_string()
    });
    assert_eq!(addresses, ["10.5.7.0/16", "10.5.7.2/16"]);
}

#[test]
fn the_default_network_stays_clear_of_the_others() {
    let (mut state, memory, _) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    let flags = config(|o| o.bip = Some("172.18.5.1/24".into()));
    let error = state
        .set_default_network(Some(&flags), at(1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("networks have overlapping IPv4"), "{error}");
    assert_eq!(subnet(state.default_network().unwrap()), "172.17.0.0/16");
    assert_eq!(memory.records().networks.len(), 4);
}

#[test]
fn host_and_none_keep_their_ids() {
    let (mut state, memory, _) = fresh();
    let ids = |state: &State| ["host", "none"].map(|name| state.network(name).unwrap().id.clone());
    let before = ids(&state);
    state.set_default_network(None, at(1)).unwrap();
    let (mut again, _) = open(&memory, &Paper::default());
    again
        .set_default_network(Some(&config(|_| {})), at(2))
        .unwrap();
    assert_eq!(ids(&again), before);
    let drivers = ["host", "none"].map(|name| again.network(name).unwrap().driver.clone());
    assert_eq!(drivers, ["host", "null"]);
    assert_eq!(again.networks().count(), 3);
}
