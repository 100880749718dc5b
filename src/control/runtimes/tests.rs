use super::*;
use crate::api::types::{AddressRange, EndpointSettings};
use crate::control::port_allocator::PortError;
use crate::control::test_state::{Memory, Paper, at, fresh, make, open, run_on};

fn wants(container: &str, network: &str) -> AttachEndpoint {
    AttachEndpoint {
        owner: Some("cfg".to_owned()),
        ..AttachEndpoint::new(Runtime::Cni, container, network)
    }
}

fn attach(state: &mut State, request: &AttachEndpoint) -> Result<EndpointPlace, String> {
    let attached = state.attach_endpoint(request, &|_| true, at(0));
    attached.map_err(|error| error.to_string())
}

/// A state with networks `one` and `two`.
fn with_networks() -> (State, Memory, Paper) {
    let (mut state, memory, paper) = fresh();
    make(&mut state, "one", |_| {}).unwrap();
    make(&mut state, "two", |_| {}).unwrap();
    (state, memory, paper)
}

fn detach(state: &mut State, container: &str, network: &str) -> Option<Container> {
    let network = state.network(network).unwrap().id.clone();
    let id = state.container(container).unwrap().id.clone();
    state.detach_endpoint(&id, &network).unwrap()
}

#[test]
fn a_container_lasts_from_its_first_endpoint_to_its_last() {
    let (mut state, memory, paper) = with_networks();
    let id = "f0".repeat(32);
    let first = attach(&mut state, &wants(&id, "one")).unwrap();
    assert!(first.first);
    assert_eq!(first.container.id, id);
    assert_eq!(first.container.name, id[..12]);
    assert!(first.container.is_running());
    let second = attach(&mut state, &wants(&id, "two")).unwrap();
    assert!(!second.first);
    assert_eq!(second.endpoint.interface, "eth1");
    assert_eq!(
        memory.records().containers,
        std::slice::from_ref(&second.container)
    );

    // Another runtime's of the same id is another one.
    let other = AttachEndpoint {
        runtime: Runtime::Oci,
        ..wants(&id, "one")
    };
    let other = attach(&mut state, &other).unwrap().container;
    assert_ne!(other.id, id);
    assert_eq!(other.name, format!("{}-{}", &id[..12], &other.id[..12]));

    // The next daemon has all of it.
    let (mut state, warnings) = open(&memory, &paper);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        state.runtime_container(Runtime::Cni, &id),
        Some(&second.container)
    );
    assert!(detach(&mut state, &id, "one").is_some());
    assert!(detach(&mut state, &id, "two").is_none());
    assert_eq!(memory.records().containers, [other]);
    // The addresses are free again: the other one has the first network's second.
    let again = attach(&mut state, &wants(&id, "two")).unwrap();
    assert_eq!(again.endpoint.addresses, second.endpoint.addresses);
}

#[test]
fn nothing_is_left_of_what_cannot_be_stored() {
    let (mut state, memory, _) = with_networks();
    attach(&mut state, &wants("c1", "one")).unwrap();
    memory.fail(true);
    let publishing = |container: &str, network: &str, port: &str| AttachEndpoint {
        publish: vec![port.to_owned()],
        ..wants(container, network)
    };
    attach(&mut state, &publishing("c1", "two", "80:80")).unwrap_err();
    attach(&mut state, &publishing("c2", "two", "80:80")).unwrap_err();
    memory.fail(false);
    let c3 = attach(&mut state, &publishing("c3", "two", "80:80")).unwrap();
    assert_eq!(c3.endpoint.addresses[0].addr().to_string(), "172.19.0.2");
    assert_eq!(state.container("c1").unwrap().attachments.len(), 1);
    assert!(state.container("c2").is_err());
}

#[test]
fn what_is_there_already_is_refused() {
    let (mut state, ..) = with_networks();
    let on = |network: &str, interface: Option<&str>| AttachEndpoint {
        interface: interface.map(str::to_owned),
        ..wants("c1", network)
    };
    attach(&mut state, &on("one", Some("net0"))).unwrap();
    for (request, problem) in [
        (
            on("one", Some("net0")),
            "net0 of container c1 is on network one already: detach it first, or give another interface",
        ),
        (
            on("two", Some("net0")),
            "net0 of container c1 is on network one already: detach it first, or give another interface",
        ),
        (
            on("one", None),
            "container c1 is on network one already, with net0: detach it first, or give another network",
        ),
        (
            AttachEndpoint {
                placement: Placement::Host,
                ..on("two", None)
            },
            "container c1 was made with its interfaces in its own namespace: placement cannot change, detach them all first",
        ),
    ] {
        let error = state
            .attach_endpoint(&request, &|_| true, at(0))
            .unwrap_err();
        assert_eq!(
            (error.http_status(), error.to_string().as_str()),
            (409, problem)
        );
    }
    for (container, network, status) in [
        ("", "one", 400),
        ("../x", "one", 400),
        ("-x", "one", 400),
        (&"x".repeat(1025), "one", 400),
        ("c2", "nosuch", 404),
        ("c2", "host", 400),
        ("c2", "none", 400),
    ] {
        let error = state
            .attach_endpoint(&wants(container, network), &|_| true, at(0))
            .unwrap_err();
        assert_eq!(
            error.http_status(),
            status,
            "{container} {network}: {error}"
        );
    }
}

#[test]
fn names_are_made_fit_and_wanted_ones_stay_known() {
    let (mut state, ..) = with_networks();
    run_on(&mut state, "web", &["one"], |_| {});
    let named = |container: &str, network: &str, name: &str| AttachEndpoint {
        name: Some(name.to_owned()),
        ..wants(container, network)
    };
    let aliases =
        |place: &EndpointPlace| place.container.attachments.last().unwrap().aliases.clone();
    let taken = attach(&mut state, &named("c1", "one", "web")).unwrap();
    let name = &taken.container.name;
    assert_eq!(*name, format!("web-{}", &taken.container.id[..12]));
    assert_eq!(aliases(&taken), ["web"]);
    // On each of its networks.
    assert_eq!(
        aliases(&attach(&mut state, &named("c1", "two", "web")).unwrap()),
        ["web"]
    );
    // There are none on the default network.
    assert!(aliases(&attach(&mut state, &named("c1", "bridge", "web")).unwrap()).is_empty());
    let unfit = attach(&mut state, &named("c2", "one", "_a/b")).unwrap();
    assert_eq!(
        (unfit.container.name.as_str(), aliases(&unfit)),
        ("a-b", vec!["_a/b".to_owned()])
    );
    // Somebody else's namespace has the name.
    let elsewhere = state
        .attach_endpoint(
            &named("c3", "one", "theirs"),
            &|name| name != "theirs",
            at(0),
        )
        .unwrap();
    assert!(elsewhere.container.name.starts_with("theirs-"));
    let nobody = attach(&mut state, &wants("pod_7.x", "one")).unwrap();
    assert_eq!(
        (nobody.container.name.as_str(), aliases(&nobody)),
        ("pod_7.x", Vec::new())
    );
}

#[test]
fn ranges_give_their_lowest_free_address() {
    let (mut state, ..) = with_networks();
    let range = |first: &str, last: &str| AddressRange {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
    };
    let in_ranges = |container: &str, ranges: &[AddressRange]| AttachEndpoint {
        ranges: ranges.to_vec(),
        ..wants(container, "one")
    };
    let ranges = [
        range("172.18.3.1", "172.18.3.1"),
        range("172.18.0.1", "172.18.0.3"),
    ];
    for (container, address) in [
        // The first one is the gateway's.
        ("c1", "172.18.0.2/16"),
        ("c2", "172.18.0.3/16"),
        ("c3", "172.18.3.1/16"),
    ] {
        let place = attach(&mut state, &in_ranges(container, &ranges)).unwrap();
        assert_eq!(place.endpoint.addresses[0].to_string(), address);
    }
    let error = attach(&mut state, &in_ranges("c4", &ranges)).unwrap_err();
    assert!(
        error.contains("172.18.3.1-172.18.3.1, 172.18.0.1-172.18.0.3"),
        "{error}"
    );
    detach(&mut state, "c2", "one");
    let place = attach(&mut state, &in_ranges("c4", &ranges)).unwrap();
    assert_eq!(place.endpoint.addresses[0].to_string(), "172.18.0.3/16");
    for bad in [
        range("172.18.0.9", "172.18.0.8"),
        range("172.18.0.9", "2001:db8::1"),
        range("172.18.0.9", "172.19.0.9"),
        range("2001:db8::1", "2001:db8::2"),
    ] {
        attach(&mut state, &in_ranges("c5", &[bad])).unwrap_err();
    }
    // Not by what might be the beginning of an id.
    assert!(state.containers().all(|container| container.name != "c5"));
}

#[test]
fn ports_are_the_containers_and_said_again_for_each_network() {
    let (mut state, _, paper) = with_networks();
    let publishing = |container: &str, network: &str, ports: &[&str]| AttachEndpoint {
        publish: ports.iter().map(|&port| port.to_owned()).collect(),
        ..wants(container, network)
    };
    let hosts = |place: &EndpointPlace| -> Vec<u16> {
        let bindings = place.container.bindings.iter();
        bindings.map(|binding| binding.host_port).collect()
    };
    let first = attach(&mut state, &publishing("c1", "two", &["80:80"])).unwrap();
    assert_eq!(hosts(&first), [80]);
    // Spelt differently, and one more; the default route goes the other way now.
    let again = publishing("c1", "one", &["80:80/tcp", "81:80"]);
    let again = attach(&mut state, &again).unwrap();
    assert_eq!(hosts(&again), [80, 81]);
    assert_eq!(again.container.publish, ["80:80", "81:80"]);
    assert!(state.publish("c1", "81:80").unwrap().1.is_empty());
    // Those of others are refused, and what others hold.
    let error = attach(&mut state, &publishing("c2", "one", &["81:80"])).unwrap_err();
    assert!(error.contains("port is already allocated"), "{error}");
    paper.0.lock().insert(82);
    let refused = state.attach_endpoint(&publishing("c2", "one", &["82:80"]), &|_| true, at(0));
    assert!(matches!(
        refused,
        Err(ControlError::Ports {
            source: PortError::Refused { .. },
            ..
        })
    ));
    let after = detach(&mut state, "c1", "one").unwrap();
    assert_eq!(after.bindings.len(), 2);
    detach(&mut state, "c1", "two");
    attach(&mut state, &publishing("c2", "one", &["80:80", "81:80"])).unwrap();
}

#[test]
fn references_find_what_they_mean() {
    let (mut state, ..) = with_networks();
    for (container, network) in [("c1", "one"), ("c1", "two"), ("c2", "one")] {
        attach(&mut state, &wants(container, network)).unwrap();
    }
    let find = |network: Option<&str>, interface: Option<&str>| -> Vec<String> {
        let reference = EndpointReference {
            runtime: Runtime::Cni,
            container: "c1".to_owned(),
            owner: None,
            network: network.map(str::to_owned),
            interface: interface.map(str::to_owned),
        };
        let found = state.referenced(&reference);
        found.map(|(_, a, _)| a.network_name.clone()).collect()
    };
    assert_eq!(find(None, None), ["one", "two"]);
    assert_eq!(find(Some("two"), None), ["two"]);
    let id = state.network("two").unwrap().id.clone();
    assert_eq!(find(Some(&id), None), ["two"]);
    assert_eq!(find(None, Some("eth1")), ["two"]);
    assert!(find(Some("one"), Some("eth1")).is_empty());
    assert!(find(Some("nosuch"), None).is_empty());
    // A name that happens to begin an id is nobody's.
    assert!(find(Some(&id[..4]), None).is_empty());
}

#[test]
fn an_owner_means_its_own_endpoints() {
    let (mut state, ..) = with_networks();
    let of = |owner: Option<&str>, container: &str, network: &str| AttachEndpoint {
        owner: owner.map(str::to_owned),
        ..wants(container, network)
    };
    for request in [
        of(Some("a"), "c1", "one"),
        of(Some("b"), "c2", "one"),
        of(Some("a"), "c3", "one"),
        of(Some("a"), "c1", "two"),
        of(None, "c4", "one"),
    ] {
        attach(&mut state, &request).unwrap();
    }
    let settings = EndpointSettings::default();
    state.connect("c3", "two", &settings).unwrap();
    let collected = |runtime: Runtime, owner: &str| -> Vec<(String, String)> {
        let collect = CollectEndpoints {
            runtime,
            owner: owner.to_owned(),
            valid: vec![("c1".to_owned(), "eth0".to_owned())],
        };
        let found = state.collectable(&collect);
        let mut found: Vec<_> = found
            .map(|(c, a, _)| (c.name.clone(), a.network_name.clone()))
            .collect();
        found.sort();
        found
    };
    let pair = |container: &str, network: &str| (container.to_owned(), network.to_owned());
    // Neither what another configuration has there nor what a user has connected.
    let expected = [pair("c1", "two"), pair("c3", "one")];
    assert_eq!(collected(Runtime::Cni, "a"), expected);
    assert_eq!(collected(Runtime::Cni, "b"), [pair("c2", "one")]);
    assert!(collected(Runtime::Cni, "one").is_empty());
    assert!(collected(Runtime::Oci, "a").is_empty());
    let known = |owner: Option<&str>, container: &str| {
        let reference = EndpointReference {
            runtime: Runtime::Cni,
            container: container.to_owned(),
            owner: owner.map(str::to_owned),
            network: None,
            interface: None,
        };
        state.referenced(&reference).count()
    };
    assert_eq!((known(Some("b"), "c1"), known(Some("a"), "c1")), (0, 2));
    assert_eq!((known(None, "c1"), known(Some("b"), "c4")), (2, 1));
}

#[test]
fn what_users_connect_goes_with_the_runtimes_last() {
    let (mut state, ..) = with_networks();
    let one = attach(&mut state, &wants("c1", "one")).unwrap();
    let two = attach(&mut state, &wants("c1", "two")).unwrap();
    let settings = EndpointSettings::default();
    state.connect("c1", "bridge", &settings).unwrap();
    let id = &one.container.id;
    let besides = |going: &[u32]| -> Vec<String> {
        let others = state.others_of(id, going);
        others.map(|(_, a, _)| a.network_name.clone()).collect()
    };
    let (one, two) = (one.endpoint.number, two.endpoint.number);
    assert!(besides(&[one]).is_empty());
    assert_eq!(besides(&[one, two]), ["bridge"]);
    assert!(besides(&[]).is_empty());
}

#[test]
fn a_container_is_abandoned_when_nothing_of_it_is_the_runtimes() {
    let (mut state, ..) = with_networks();
    attach(&mut state, &wants("c1", "one")).unwrap();
    let reference = EndpointReference {
        runtime: Runtime::Cni,
        container: "c1".to_owned(),
        owner: None,
        network: Some("one".to_owned()),
        interface: None,
    };
    let settings = EndpointSettings::default();
    state.connect("c1", "two", &settings).unwrap();
    assert!(state.abandoned(&reference).is_none());
    state.disconnect("c1", "one", false).unwrap();
    assert_eq!(state.referenced(&reference).count(), 0);
    assert_eq!(state.abandoned(&reference).unwrap().name, "c1");
    state.disconnect("c1", "two", false).unwrap();
    assert!(state.abandoned(&reference).is_some());
}

#[test]
fn a_network_without_default_route_makes_none() {
    let (mut state, ..) = with_networks();
    let routeless = AttachEndpoint {
        default_route: false,
        ..wants("c1", "one")
    };
    assert!(
        attach(&mut state, &routeless)
            .unwrap()
            .endpoint
            .gateways
            .is_empty()
    );
    let place = attach(&mut state, &wants("c1", "two")).unwrap();
    let (_, network, _) = state.gateway_endpoint(&place.container, true).unwrap();
    assert_eq!(network.name, "two");
}
