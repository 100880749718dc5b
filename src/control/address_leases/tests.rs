use super::*;
use crate::api::types::{
    AttachEndpoint, CreateNetwork, EndpointAddresses, EndpointSettings, IpamPool, Placement,
};
use crate::control::test_state::{Paper, at, fresh, make, open, run_on};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subnet_of(request: &mut CreateNetwork, subnet: &str) {
    request.ipam.config.push(IpamPool {
        subnet: Some(subnet.to_owned()),
        ..IpamPool::default()
    });
}

fn shop(state: &mut State) {
    make(state, "shop", |request| subnet_of(request, "10.7.0.0/24")).unwrap();
}

fn pool(state: &mut State, set: impl FnOnce(&mut RequestLeasedPool)) -> Result<LeasedPool, String> {
    let mut request = RequestLeasedPool::default();
    set(&mut request);
    let pool = state.request_pool(&request, &HostFacts::default());
    pool.map_err(|error| error.to_string())
}

fn of_shop(state: &mut State) -> String {
    pool(state, |request| request.network = Some("shop".to_owned()))
        .unwrap()
        .id
}

fn lease(state: &mut State, pool: &str, address: Option<&str>) -> Result<String, String> {
    let request = RequestAddress {
        address: address.map(ip),
        gateway: false,
    };
    let leased = state.request_address(pool, request);
    leased
        .map(|leased| leased.address.to_string())
        .map_err(|error| error.to_string())
}

fn gateway(state: &mut State, pool: &str, address: Option<&str>) -> Result<String, String> {
    let request = RequestAddress {
        address: address.map(ip),
        gateway: true,
    };
    let leased = state.request_address(pool, request);
    leased
        .map(|leased| leased.address.to_string())
        .map_err(|error| error.to_string())
}

/// A container of docker's with this address.
fn attach(state: &mut State, runtime: Runtime, id: &str, address: &str) -> Result<String, String> {
    let request = AttachEndpoint {
        placement: Placement::Host,
        settings: EndpointSettings {
            ipam_config: EndpointAddresses {
                ipv4_address: address.parse().ok(),
                ..EndpointAddresses::default()
            },
            ..EndpointSettings::default()
        },
        ..AttachEndpoint::new(runtime, id, "shop")
    };
    let attached = state.attach_endpoint(&request, &|_| true, at(0));
    attached
        .map(|place| place.endpoint.addresses[0].to_string())
        .map_err(|error| error.to_string())
}

fn detach(state: &mut State, id: &str) {
    let container = state.runtime_container(Runtime::Docker, id).unwrap();
    let (container, network) = (
        container.id.clone(),
        container.attachments[0].network.clone(),
    );
    state.detach_endpoint(&container, &network).unwrap();
}

fn address_of(container: &Container) -> String {
    container.endpoint().unwrap().addresses[0].to_string()
}

fn run(state: &mut State, name: &str) -> String {
    address_of(&run_on(state, name, &["shop"], |_| {}))
}

#[test]
fn leases_and_containers_of_other_doors_never_meet() {
    let (mut state, memory, _) = fresh();
    shop(&mut state);
    let pool = of_shop(&mut state);
    assert_eq!(gateway(&mut state, &pool, None).unwrap(), "10.7.0.1/24");
    assert_eq!(lease(&mut state, &pool, None).unwrap(), "10.7.0.2/24");
    assert_eq!(run(&mut state, "own1"), "10.7.0.3/24");
    assert_eq!(lease(&mut state, &pool, None).unwrap(), "10.7.0.4/24");
    assert_eq!(
        lease(&mut state, &pool, Some("10.7.0.9")).unwrap(),
        "10.7.0.9/24"
    );
    for taken in ["10.7.0.9", "10.7.0.3", "10.7.0.1"] {
        assert!(
            lease(&mut state, &pool, Some(taken))
                .unwrap_err()
                .contains("already in use")
        );
    }
    // Only docker's container gets it, and only one.
    let refused = attach(&mut state, Runtime::Cni, "cni1", "10.7.0.2").unwrap_err();
    assert!(refused.contains("leased to docker"), "{refused}");
    assert_eq!(
        attach(&mut state, Runtime::Docker, "d1", "10.7.0.2").unwrap(),
        "10.7.0.2/24"
    );
    assert!(attach(&mut state, Runtime::Docker, "d2", "10.7.0.2").is_err());
    let shown = state.leased_pools();
    let in_use: Vec<_> = shown[0]
        .leases
        .iter()
        .map(|lease| (lease.address, lease.in_use))
        .collect();
    assert!(in_use.contains(&(ip("10.7.0.2"), true)) && in_use.contains(&(ip("10.7.0.4"), false)));
    // All of this is so after a restart.
    let (mut state, warnings) = open(&memory, &Paper::default());
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(state.leased_pools(), shown);
    assert_eq!(run(&mut state, "own2"), "10.7.0.5/24");
    assert!(attach(&mut state, Runtime::Docker, "d2", "10.7.0.2").is_err());
    detach(&mut state, "d1");
    assert!(
        attach(&mut state, Runtime::Cni, "cni1", "10.7.0.2").is_err(),
        "still leased"
    );
    assert_eq!(
        attach(&mut state, Runtime::Docker, "d2", "10.7.0.2").unwrap(),
        "10.7.0.2/24"
    );
    // Given back too early, it is free with the container's end.
    state.release_address(&pool, ip("10.7.0.2")).unwrap();
    assert!(lease(&mut state, &pool, Some("10.7.0.2")).is_err());
    detach(&mut state, "d2");
    assert_eq!(run(&mut state, "own3"), "10.7.0.2/24");
    state.release_address(&pool, ip("10.7.0.4")).unwrap();
    state.release_address(&pool, ip("10.7.0.4")).unwrap();
    assert_eq!(run(&mut state, "own4"), "10.7.0.4/24");
    state.release_pool(&pool).unwrap();
    assert_eq!(
        attach(&mut state, Runtime::Cni, "cni1", "10.7.0.9").unwrap(),
        "10.7.0.9/24"
    );
    assert!(memory.records().pools.is_empty());
}

#[test]
fn a_pool_without_a_network_is_kept_from_others_and_becomes_one() {
    let (mut state, memory, _) = fresh();
    let first = pool(&mut state, |_| {}).unwrap();
    assert_eq!(first.subnet.to_string(), "172.18.0.0/16");
    let own = make(&mut state, "own", |_| {}).unwrap();
    assert_eq!(own.subnets()[0].to_string(), "172.19.0.0/16");
    let refused = make(&mut state, "x", |request| {
        subnet_of(request, "172.18.5.0/24")
    });
    assert!(refused.unwrap_err().contains("leased address pool"));
    let refused = pool(&mut state, |r| {
        r.subnet = Some("172.19.0.0/24".parse().unwrap())
    });
    assert!(refused.unwrap_err().contains("network own"));
    assert_eq!(
        gateway(&mut state, &first.id, None).unwrap(),
        "172.18.0.1/16"
    );
    // As dockerd does for --aux-address, which it names to the network, too.
    assert_eq!(
        lease(&mut state, &first.id, Some("172.18.0.2")).unwrap(),
        "172.18.0.2/16"
    );
    assert_eq!(lease(&mut state, &first.id, None).unwrap(), "172.18.0.3/16");
    let (mut state, _) = open(&memory, &Paper::default());
    let made = make(&mut state, "shop", |request| {
        request
            .ipam
            .options
            .insert(LEASED_POOLS.to_owned(), "true".to_owned());
        request.ipam.config = vec![IpamPool {
            subnet: Some("172.18.0.0/16".to_owned()),
            gateway: Some("172.18.0.1".to_owned()),
            auxiliary_addresses: [("router".to_owned(), "172.18.0.2".to_owned())].into(),
            ..IpamPool::default()
        }];
    })
    .unwrap();
    assert_eq!(state.leased_pools()[0].network.as_ref(), Some(&made.id));
    assert_eq!(run(&mut state, "own1"), "172.18.0.4/16");
    assert_eq!(lease(&mut state, &first.id, None).unwrap(), "172.18.0.5/16");
    assert_eq!(
        attach(&mut state, Runtime::Docker, "d1", "172.18.0.3").unwrap(),
        "172.18.0.3/16"
    );
    let (mut state, warnings) = open(&memory, &Paper::default());
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(lease(&mut state, &first.id, None).unwrap(), "172.18.0.6/16");
    detach(&mut state, "d1");
    state.set_exited("own1", 0, at(1)).unwrap();
    state.remove("own1", true).unwrap();
    state.remove_network("shop").unwrap();
    assert!(memory.records().pools.is_empty(), "gone with its network");
    assert!(state.release_address(&first.id, ip("172.18.0.6")).is_err());
}

#[test]
fn a_network_of_dockerds_is_in_use_without_containers() {
    let (mut state, _, _) = fresh();
    shop(&mut state);
    let unused = |state: &State| state.unused_networks().count();
    let refused = |state: &State| {
        let refused = state.removable_network("shop", false);
        let refusal = refused.unwrap_err();
        assert!(matches!(refusal, ControlError::SharedNetwork(_)));
        assert_eq!(refusal.http_status(), 403);
    };
    assert_eq!(unused(&state), 1);
    let of_shop = of_shop(&mut state);
    assert_eq!(unused(&state), 0, "its addresses are leased");
    refused(&state);
    state.release_pool(&of_shop).unwrap();
    assert_eq!(unused(&state), 1);
    state.removable_network("shop", false).unwrap();
    let label = |value: Option<&str>| -> BTreeMap<String, Option<String>> {
        let value = value.map(str::to_owned);
        [("com.tunbridge.docker.0abc".to_owned(), value)].into()
    };
    state.change_labels("shop", &label(Some("own"))).unwrap();
    assert_eq!(unused(&state), 0, "it is a docker network");
    refused(&state);
    state.removable_network("shop", true).unwrap();
    state.change_labels("shop", &label(None)).unwrap();
    assert_eq!(unused(&state), 1);
}

#[test]
fn ranges_and_both_families() {
    let (mut state, _, _) = fresh();
    make(&mut state, "shop", |request| {
        subnet_of(request, "10.7.0.0/24");
        subnet_of(request, "fd00:7::/64");
        request.enable_ipv6 = Some(true);
    })
    .unwrap();
    let four = pool(&mut state, |request| {
        request.network = Some("shop".to_owned());
        request.range = Some("10.7.0.128/25".parse().unwrap());
    })
    .unwrap();
    let six = pool(&mut state, |request| {
        request.network = Some("shop".to_owned());
        request.ipv6 = true;
    })
    .unwrap();
    assert_eq!(lease(&mut state, &four.id, None).unwrap(), "10.7.0.128/24");
    assert_eq!(
        lease(&mut state, &four.id, Some("10.7.0.2")).unwrap(),
        "10.7.0.2/24"
    );
    assert_eq!(gateway(&mut state, &six.id, None).unwrap(), "fd00:7::1/64");
    assert_eq!(lease(&mut state, &six.id, None).unwrap(), "fd00:7::2/64");
    let own = run_on(&mut state, "own", &["shop"], |_| {});
    let texts: Vec<String> = own
        .endpoint()
        .unwrap()
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["10.7.0.3/24", "fd00:7::3/64"]);
}

#[test]
fn what_is_refused_and_why() {
    let (mut state, memory, _) = fresh();
    shop(&mut state);
    for (set, words) in [
        (
            RequestLeasedPool {
                network: Some("none such".into()),
                ..Default::default()
            },
            "network none such not found",
        ),
        (
            RequestLeasedPool {
                network: Some("bridge".into()),
                ..Default::default()
            },
            "pre-defined network bridge",
        ),
        (
            RequestLeasedPool {
                network: Some("shop".into()),
                ipv6: true,
                ..Default::default()
            },
            "no IPv6 subnet: leave --ipv6 out",
        ),
        (
            RequestLeasedPool {
                network: Some("shop".into()),
                subnet: Some("10.8.0.0/24".parse().unwrap()),
                ..Default::default()
            },
            "network shop has subnet 10.7.0.0/24, not 10.8.0.0/24",
        ),
        (
            RequestLeasedPool {
                network: Some("shop".into()),
                range: Some("10.8.0.0/25".parse().unwrap()),
                ..Default::default()
            },
            "doesn't contain ip-range",
        ),
        (
            RequestLeasedPool {
                subnet: Some("10.7.0.0/25".parse().unwrap()),
                ..Default::default()
            },
            "network shop",
        ),
        (
            RequestLeasedPool {
                subnet: Some("10.9.0.7/24".parse().unwrap()),
                ..Default::default()
            },
            "it should be 10.9.0.0/24",
        ),
        (
            RequestLeasedPool {
                subnet: Some("127.0.0.0/8".parse().unwrap()),
                ..Default::default()
            },
            "127.0.0.0/8",
        ),
    ] {
        let error = state.request_pool(&set, &HostFacts::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let pool = of_shop(&mut state);
    let error = gateway(&mut state, &pool, Some("10.7.0.5")).unwrap_err();
    assert!(
        error.contains("the network's gateway is 10.7.0.1, not 10.7.0.5"),
        "{error}"
    );
    for outside in ["10.8.0.1", "fd00::1"] {
        assert!(
            lease(&mut state, &pool, Some(outside)).is_err(),
            "{outside}"
        );
    }
    assert!(
        lease(&mut state, "nope", None)
            .unwrap_err()
            .contains("address pool nope not found")
    );
    // Nothing is half done.
    memory.fail(true);
    assert!(lease(&mut state, &pool, Some("10.7.0.9")).is_err());
    memory.fail(false);
    assert_eq!(
        lease(&mut state, &pool, Some("10.7.0.9")).unwrap(),
        "10.7.0.9/24"
    );
    memory.fail(true);
    assert!(state.release_address(&pool, ip("10.7.0.9")).is_err());
    assert!(attach(&mut state, Runtime::Docker, "d1", "10.7.0.9").is_err());
    memory.fail(false);
    assert!(
        lease(&mut state, &pool, Some("10.7.0.9")).is_err(),
        "still leased"
    );
    assert_eq!(
        attach(&mut state, Runtime::Docker, "d1", "10.7.0.9").unwrap(),
        "10.7.0.9/24"
    );
}
