//! Two hundred networks and five hundred containers: the last is made as quickly as the first.

use std::time::{Duration, Instant};

use super::projections;
use super::test_state::{at, fresh, make, on, request};
use crate::api::types::{CreateContainer, EndpointSettings};

#[test]
fn hundreds_of_networks_and_containers() {
    let (mut state, memory, _) = fresh();
    state.settings.pools = super::address_pool::AddressPools::new(
        vec!["base=10.64.0.0/10,size=24".parse().unwrap()],
        "",
    );
    let begun = Instant::now();
    let names: Vec<String> = (0..200).map(|i| format!("net{i}")).collect();
    for name in &names {
        make(&mut state, name, |_| {}).unwrap();
    }
    let networks = begun.elapsed();
    let begun = Instant::now();
    for i in 0..500 {
        let networks = [names[i % 200].as_str(), &names[(i * 7 + 1) % 200]];
        let wanted = CreateContainer {
            networks: on(&networks),
            ..request(&format!("container{i}"), &["80"])
        };
        state.create_container(&wanted, at(0)).unwrap();
        let more = EndpointSettings::default();
        state
            .connect(&format!("container{i}"), "bridge", &more)
            .unwrap();
    }
    let containers = begun.elapsed();
    let begun = Instant::now();
    let policy = projections::policy(&state, &[]);
    let views = projections::dns_views(&state, "");
    let projected = begun.elapsed();
    assert_eq!(
        (policy.networks.len(), policy.endpoints.len(), views.len()),
        (201, 1500, 500)
    );
    assert_eq!(memory.records().containers.len(), 500);
    let begun = Instant::now();
    for i in 0..500 {
        state.remove(&format!("container{i}"), true).unwrap();
    }
    for name in &names {
        state.remove_network(name).unwrap();
    }
    let removed = begun.elapsed();
    let spent = [networks, containers, projected, removed];
    // Each takes a small part of that, even without optimisation on a busy machine.
    assert!(
        spent.iter().all(|time| *time < Duration::from_secs(20)),
        "{spent:?}"
    );
}
