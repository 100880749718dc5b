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
    // As if dockerd had died before it wrote down what it had made.
    let network = |id: &str, docker: &str, label: String| {
        world.add_network(json!({
            "Name": id, "Id": id.repeat(32), "IPAM": {"Config": []},
            "Labels": {format!("com.tunbridge.docker.{}", docker.repeat(32)): label},
        }));
    };
    network("a1", "d1", format!("own {owner}"));
    network("a2", "d2", format!("shared {owner}"));
    network("a3", "d3", "own /run/docker/plugins/second.sock".to_owned());
    network("a4", "d4", format!("own {owner}"));
    world.add_own_container(&"a4".repeat(32), "10.60.4.2");
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
            format!("DELETE /networks/{}?force=1", "a1".repeat(32)),
            format!("POST /tunbridge/networks/{}/labels", "a2".repeat(32)),
        ])
    );
}
