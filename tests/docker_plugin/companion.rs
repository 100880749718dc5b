//! What the plugin does by itself: it takes away what its dockerd has forgotten, and nothing else.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_daemon::{ENDPOINT, NETWORK, World};

/// What dockerd does not know is waited for, ten seconds.
const GRACE: Duration = Duration::from_secs(10);

/// A docker network that is [`World::with_network`]'s, with one endpoint.
fn docker_network() -> Value {
    json!({
        "Id": NETWORK, "Driver": "tunbridge",
        "IPAM": {"Driver": "tunbridge", "Config": [{"Subnet": "10.60.0.0/24"}, {"Subnet": "FD00:1::/64"}]},
        "Containers": {"c0".repeat(32): {"Name": "web", "EndpointID": ENDPOINT, "IPv4Address": "10.60.0.2/24"}},
    })
}

#[test]
fn what_dockerd_has_forgotten_goes_and_what_is_anothers_stays() {
    let mut world = World::with_network();
    let owner = world.owner();
    world.add_docker_network(docker_network());
    let (forgotten, other) = ("cd".repeat(32), "ef".repeat(32));
    world.add_endpoint(ENDPOINT, "10.60.0.2");
    world.add_endpoint(&forgotten, "10.60.0.3");
    world.add_endpoint_of(&"0b".repeat(32), &other, "10.60.0.4");
    for (id, subnet, of) in [
        ("used", "fd00:1::/64", Some(owner.as_str())),
        ("forgotten", "10.99.0.0/24", Some(owner.as_str())),
        (
            "anothers",
            "10.98.0.0/24",
            Some("/run/docker/plugins/second.sock"),
        ),
        ("nobodys", "10.97.0.0/24", None),
    ] {
        world.add_pool(id, subnet, of);
    }
    world.start_dockerd();
    world.accompany();
    sleep(GRACE / 2);
    let before: BTreeSet<String> = world.changed().into_iter().collect();
    let naming = BTreeSet::from(["POST /tunbridge/endpoints/name".to_owned()]);
    assert_eq!(before, naming, "it may be on its way");
    sleep(GRACE);
    let changes = world.changes().into_iter();
    let taken: BTreeSet<String> = changes
        .map(|(what, body)| match body["container"].as_str() {
            Some(container) => format!("{what} {container}"),
            None => what,
        })
        .collect();
    assert_eq!(
        taken,
        BTreeSet::from([
            format!("POST /tunbridge/endpoints/detach {forgotten}"),
            "DELETE /tunbridge/pools/forgotten".to_owned(),
        ])
    );
}
