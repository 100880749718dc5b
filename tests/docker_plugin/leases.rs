//! Each call of the IPAM driver.

use serde_json::{Value, json};

use crate::fake_daemon::World;

#[test]
fn addresses_are_leased() {
    let world = World::new();
    world.add_network(json!({
        "Name": "shop", "Id": "dd".repeat(32), "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]},
    }));
    let request = json!({
        "AddressSpace": "tunbridge", "Pool": "10.77.0.0/24", "SubPool": "", "Options": {"com.tunbridge.network": "shop", "foo": "bar"},
        "V6": false,
    });
    let pool = "cc".repeat(32);
    assert_eq!(
        world.call("IpamDriver.RequestPool", &request),
        json!({"PoolID": pool, "Pool": "10.77.0.0/24", "Data": {}})
    );
    assert_eq!(
        world.changes()[0].1,
        json!({"subnet": "10.77.0.0/24", "range": null, "network": "shop", "ipv6": false, "owner": world.owner()})
    );
    let gateway = json!({
        "PoolID": pool, "Address": "", "Options": {"RequestAddressType": "com.docker.network.gateway"},
    });
    assert_eq!(
        world.call("IpamDriver.RequestAddress", &gateway)["Address"],
        "10.77.0.2/24"
    );
    let wanted = json!({
        "PoolID": pool, "Address": "10.77.0.2",
        "Options": {"com.docker.network.endpoint.macaddress": "02:42:8a:58:20:57"},
    });
    world.call("IpamDriver.RequestAddress", &wanted);
    let release = json!({"PoolID": pool, "Address": "10.77.0.2"});
    assert_eq!(world.call("IpamDriver.ReleaseAddress", &release), json!({}));
    assert_eq!(
        world.call("IpamDriver.ReleasePool", &json!({"PoolID": pool})),
        json!({})
    );
    let bodies: Vec<Value> = world.changes().into_iter().map(|(_, body)| body).collect();
    assert_eq!(
        bodies,
        [
            json!({"address": null, "gateway": true}),
            json!({"address": "10.77.0.2", "gateway": false}),
            json!({"address": "10.77.0.2"}),
            Value::Null,
        ]
    );
}

#[test]
fn leases_that_make_no_sense() {
    let world = World::new();
    for (call, body, words) in [
        (
            "RequestPool",
            json!({"AddressSpace": "other"}),
            "invalid AddressSpace \"other\": give tunbridge",
        ),
        ("RequestPool", json!({"Pool": "x"}), "invalid Pool \"x\""),
        (
            "RequestPool",
            json!({"Pool": "fd00::/64"}),
            "invalid pool fd00::/64: an IPv4 one was asked for",
        ),
        (
            "RequestPool",
            json!({"Pool": "10.0.0.0/8", "V6": true}),
            "invalid pool 10.0.0.0/8: an IPv6 one",
        ),
        (
            "RequestPool",
            json!({"Options": {"com.tunbridge.netwrok": "x"}}),
            "--ipam-opt com.tunbridge.netwrok is not known",
        ),
        (
            "RequestPool",
            json!({"V6": 1}),
            "cannot understand the request",
        ),
        ("ReleasePool", json!({}), "PoolID is missing"),
        ("ReleasePool", json!({"PoolID": "a/b"}), "invalid PoolID"),
        (
            "RequestAddress",
            json!({"Address": "10.0.0.1"}),
            "PoolID is missing",
        ),
        (
            "RequestAddress",
            json!({"PoolID": "a", "Address": "10.0.0"}),
            "invalid Address \"10.0.0\"",
        ),
        (
            "ReleaseAddress",
            json!({"PoolID": "a"}),
            "Address is missing",
        ),
    ] {
        let sentence = world.refused(&format!("IpamDriver.{call}"), &body);
        assert!(sentence.starts_with(words), "{call} {body}: {sentence}");
    }
    assert!(world.changed().is_empty());
    world.refuse(
        "/addresses",
        404,
        "address pool abc not found: request one first",
        1,
    );
    let sentence = world.refused("IpamDriver.RequestAddress", &json!({"PoolID": "abc"}));
    assert_eq!(sentence, "address pool abc not found: request one first");
}
