//! Each call; requests are those of the recorded dockerd.

use serde_json::{Value, json};

use crate::fake_daemon::{ENDPOINT, NETWORK, World};

fn create_network() -> Value {
    json!({
        "NetworkID": NETWORK,
        "Options": {
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": {"com.docker.network.driver.mtu": "1400", "mode": "veth"},
        },
        "IPv4Data": [{
            "AddressSpace": "LocalDefault", "AuxAddresses": {"x": "10.60.0.129/24"},
            "Gateway": "10.60.0.1/24", "Pool": "10.60.0.0/24",
        }],
        "IPv6Data": [],
    })
}

fn ports() -> Value {
    json!({
        "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 99}, {"Proto": 17, "Port": 81}],
        "com.docker.network.portmap": [
            {"Proto": 6, "IP": "", "Port": 90, "HostIP": "", "HostPort": 0, "HostPortEnd": 0},
            {"Proto": 17, "IP": "", "Port": 81, "HostIP": "127.0.0.1", "HostPort": 8081, "HostPortEnd": 8081},
            {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080},
        ],
    })
}

fn create_endpoint(interface: Value) -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": interface, "Options": ports()})
}

fn endpoint() -> Value {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT})
}

#[test]
fn a_handshake() {
    let world = World::new();
    let null = Value::Null;
    assert_eq!(
        world.call("Plugin.Activate", &null),
        json!({"Implements": ["NetworkDriver", "IpamDriver"]})
    );
    assert_eq!(
        world.call("NetworkDriver.GetCapabilities", &null),
        json!({"Scope": "local", "ConnectivityScope": "local"})
    );
    assert_eq!(
        world.call("IpamDriver.GetCapabilities", &null),
        json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})
    );
    let spaces = world.call("IpamDriver.GetDefaultAddressSpaces", &null);
    assert_eq!(spaces["LocalDefaultAddressSpace"], "tunbridge");
    for call in ["NetworkDriver.DiscoverNew", "NetworkDriver.DiscoverDelete"] {
        assert_eq!(world.call(call, &json!({"DiscoveryType": 1})), json!({}));
    }
    assert!(world.changed().is_empty());
}

#[test]
fn a_network_is_made_with_its_docker_id_and_removed_with_it() {
    let world = World::new();
    assert_eq!(
        world.call("NetworkDriver.CreateNetwork", &create_network()),
        json!({})
    );
    let changes = world.changes();
    let (what, body) = &changes[0];
    assert_eq!((changes.len(), what.as_str()), (1, "POST /networks/create"));
    assert_eq!(body["Name"], "docker-d5f95230a2b1");
    assert_eq!(
        body["Labels"][format!("com.tunbridge.docker.{NETWORK}")],
        format!("own {}", world.owner())
    );
    assert_eq!(
        body["IPAM"]["Config"],
        json!([{
            "Subnet": "10.60.0.0/24", "IPRange": "10.60.0.128/25", "Gateway": "10.60.0.1",
            "AuxiliaryAddresses": {"x": "10.60.0.129"},
        }])
    );
    assert_eq!(
        body["Options"],
        json!({"com.docker.network.driver.mtu": "1400", "mode": "veth"})
    );
    // dockerd did not hear the answer.
    let world = World::with_network();
    assert_eq!(
        world.call("NetworkDriver.CreateNetwork", &create_network()),
        json!({})
    );
    assert!(world.changed().is_empty());
    let delete = json!({"NetworkID": NETWORK});
    assert_eq!(
        world.call("NetworkDriver.DeleteNetwork", &delete),
        json!({})
    );
    assert_eq!(
        world.changed(),
        [format!("DELETE /networks/{}?force=1", "aa".repeat(32))]
    );
    // One that was never made.
    let world = World::new();
    assert_eq!(
        world.call("NetworkDriver.DeleteNetwork", &delete),
        json!({})
    );
    assert!(world.changed().is_empty());
}

#[test]
fn a_network_that_is_there_is_shared_and_let_go() {
    let world = World::new();
    world.add_network(json!({
        "Name": "shop", "Id": "dd".repeat(32), "Internal": false,
        "IPAM": {"Config": [{"Subnet": "10.60.0.0/24", "Gateway": "10.60.0.1"}]},
        "Options": {"com.docker.network.driver.mtu": "1400"}, "Labels": {},
    }));
    let shared = |set: &dyn Fn(&mut Value)| {
        let mut body = create_network();
        body["Options"]["com.docker.network.generic"] = json!({"com.tunbridge.network": "shop"});
        set(&mut body);
        body
    };
    assert_eq!(
        world.call("NetworkDriver.CreateNetwork", &shared(&|_| {})),
        json!({})
    );
    let labels = |value: Value| {
        let label = format!("com.tunbridge.docker.{NETWORK}");
        let target = format!("POST /tunbridge/networks/{}/labels", "dd".repeat(32));
        (target, json!({"labels": {label: value}}))
    };
    assert_eq!(
        world.changes(),
        [labels(json!(format!("shared {}", world.owner())))]
    );
    // Without the option, if the addresses are ours.
    let leased = shared(&|body| {
        body["Options"]["com.docker.network.generic"] = json!({});
        body["IPv4Data"][0]["AddressSpace"] = json!("tunbridge");
    });
    assert_eq!(
        world.call("NetworkDriver.CreateNetwork", &leased),
        json!({})
    );
    assert_eq!(
        world.changes(),
        [labels(json!(format!("shared {}", world.owner())))]
    );
    for (set, words) in [
        (
            &(|body: &mut Value| body["IPv4Data"][0]["Pool"] = json!("10.61.0.0/24"))
                as &dyn Fn(&mut Value),
            "invalid Gateway 10.60.0.1/24: it is not in subnet 10.61.0.0/24",
        ),
        (
            &|body| {
                body["IPv4Data"][0]["Pool"] = json!("10.61.0.0/24");
                body["IPv4Data"][0]["Gateway"] = json!("");
            },
            "network shop has subnet 10.60.0.0/24, not 10.61.0.0/24: give --ipam-driver tunbridge --ipam-opt com.tunbridge.network=shop --subnet 10.60.0.0/24",
        ),
        (
            &|body| body["IPv4Data"][0]["Gateway"] = json!("10.60.0.254/24"),
            "network shop has gateway 10.60.0.1, not 10.60.0.254: give --gateway 10.60.0.1",
        ),
        (
            &|body| body["Options"]["com.docker.network.internal"] = json!(true),
            "network shop is not internal: leave --internal out",
        ),
        (
            &|body| {
                body["Options"]["com.docker.network.generic"] = json!({"com.tunbridge.network": "shop", "com.docker.network.driver.mtu": "1300"});
            },
            "option com.docker.network.driver.mtu cannot be set, network shop is there already",
        ),
        (
            &|body| {
                body["Options"]["com.docker.network.generic"] =
                    json!({"com.tunbridge.network": "none"})
            },
            "com.tunbridge.network: tunbridge has no network none: make it first with `tunbridge network create none`",
        ),
    ] {
        let sentence = world.refused("NetworkDriver.CreateNetwork", &shared(set));
        assert!(sentence.starts_with(words), "{sentence}");
    }
    assert!(world.changed().is_empty());
    let world = World::new();
    world.add_network(json!({
        "Name": "shop", "Id": "dd".repeat(32), "IPAM": {"Config": []}, "Options": {},
        "Labels": {format!("com.tunbridge.docker.{NETWORK}"): "shared /x.sock"},
    }));
    let delete = json!({"NetworkID": NETWORK});
    assert_eq!(
        world.call("NetworkDriver.DeleteNetwork", &delete),
        json!({})
    );
    assert_eq!(world.changes(), [labels(Value::Null)]);
}

#[test]
fn networks_that_make_no_sense() {
    let world = World::new();
    for (pointer, value, words) in [
        (
            "/NetworkID",
            json!(""),
            "NetworkID is missing from the request",
        ),
        (
            "/NetworkID",
            json!("../../etc"),
            "invalid NetworkID \"../../etc\"",
        ),
        (
            "/NetworkID",
            json!(7),
            "cannot understand the request: invalid type: integer",
        ),
        ("/IPv4Data", json!([]), "a tunbridge network needs a subnet"),
        (
            "/IPv4Data",
            json!("x"),
            "cannot understand the request: invalid type",
        ),
        ("/IPv4Data/0/Pool", json!(""), "Pool is missing"),
        (
            "/IPv4Data/0/Pool",
            json!("10.60.0.0"),
            "invalid Pool \"10.60.0.0\": give an address with its prefix length",
        ),
        ("/IPv4Data/0/Pool", json!("10.60.0.0/33"), "invalid Pool"),
        ("/IPv4Data/0/Gateway", json!("x"), "invalid Gateway \"x\""),
        (
            "/IPv4Data/0/Gateway",
            json!("10.61.0.1/24"),
            "invalid Gateway 10.61.0.1/24: it is not in subnet",
        ),
        (
            "/IPv4Data/0/AuxAddresses",
            json!({"a": "b"}),
            "invalid auxiliary address a \"b\"",
        ),
        (
            "/Options/com.docker.network.internal",
            json!("yes"),
            "invalid option com.docker.network.internal: invalid type",
        ),
        (
            "/Options/com.docker.network.enable_ipv6",
            json!(true),
            "an IPv6 network needs an IPv6 subnet",
        ),
        (
            "/Options/com.docker.network.generic",
            json!({"a": 1}),
            "invalid option com.docker.network.generic",
        ),
        (
            "/Options/com.docker.network.generic",
            json!({"com.docker.network.bridge.enable_iccc": "false"}),
            "option com.docker.network.bridge.enable_iccc is not known: leave it out, or correct it",
        ),
        (
            "/Options/com.docker.network.generic",
            json!({"com.tunbridge.netwrok": "shop"}),
            "option com.tunbridge.netwrok is not known",
        ),
    ] {
        let mut body = create_network();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        let sentence = world.refused("NetworkDriver.CreateNetwork", &body);
        assert!(sentence.starts_with(words), "{pointer}: {sentence}");
        assert!(!sentence.contains('\n'));
    }
    assert!(world.changed().is_empty(), "nothing was half done");
    world.refuse(
        "/networks/create",
        409,
        "Pool overlaps with other one on this address space",
        1,
    );
    let sentence = world.refused("NetworkDriver.CreateNetwork", &create_network());
    assert_eq!(
        sentence,
        "Pool overlaps with other one on this address space"
    );
}

#[test]
fn an_endpoint_gets_what_was_given_and_tells_the_rest() {
    let world = World::with_network();
    let given = json!({"Address": "10.60.0.200/24", "AddressIPv6": "", "MacAddress": ""});
    let answer = world.call("NetworkDriver.CreateEndpoint", &create_endpoint(given));
    assert_eq!(
        answer,
        json!({"Interface": {"AddressIPv6": "fd00:60::2/64", "MacAddress": "02:42:0a:3c:00:02"}})
    );
    let changes = world.changes();
    // One of the same id, left over, goes first.
    assert_eq!(changes[0].0, "POST /tunbridge/endpoints/detach");
    assert_eq!(changes[0].1["container"], ENDPOINT);
    let (what, attach) = &changes[1];
    assert_eq!(
        (changes.len(), what.as_str()),
        (2, "POST /tunbridge/endpoints")
    );
    assert_eq!(attach["runtime"], "docker");
    assert_eq!(attach["placement"], "host");
    assert_eq!(attach["network"], "aa".repeat(32));
    assert_eq!(
        attach["settings"],
        json!({
            "IPAMConfig": {"IPv4Address": "10.60.0.200"},
            "DriverOpts": {"com.tunbridge.docker-network": NETWORK},
        })
    );
    assert_eq!(attach["publish"], json!([]), "that comes later");
    // All given: nothing is repeated.
    let given = json!({
        "Address": "10.60.0.200/24", "AddressIPv6": "fd00:60::9/64", "MacAddress": "02:aa:00:00:00:01",
    });
    let mut body = create_endpoint(given);
    body["Options"] = json!({
        "com.docker.network.endpoint.macaddress": "AqoAAAAB", "com.docker.network.portmap": null,
        "com.example.ep": "1",
    });
    assert_eq!(world.call("NetworkDriver.CreateEndpoint", &body), json!({}));
    let (_, attach) = &world.changes()[1];
    assert_eq!(
        attach["settings"],
        json!({
            "IPAMConfig": {"IPv4Address": "10.60.0.200", "IPv6Address": "fd00:60::9"},
            "MacAddress": "02:aa:00:00:00:01",
            "DriverOpts": {"com.example.ep": "1", "com.tunbridge.docker-network": NETWORK},
        })
    );
    // An internal network's has no options.
    let body =
        json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": null, "Options": {}});
    let answer = world.call("NetworkDriver.CreateEndpoint", &body);
    assert_eq!(answer["Interface"]["Address"], "10.60.0.2/24");
}

#[test]
fn endpoints_that_make_no_sense() {
    let world = World::with_network();
    for (pointer, value, words) in [
        ("/NetworkID", json!(null), "NetworkID is missing"),
        ("/EndpointID", json!(""), "EndpointID is missing"),
        ("/EndpointID", json!("a/../b"), "invalid EndpointID"),
        (
            "/Interface/Address",
            json!("10.60.0"),
            "invalid Interface.Address \"10.60.0\"",
        ),
        (
            "/Interface/Address",
            json!("fd00::1/64"),
            "invalid Interface.Address fd00::1: give an IPv4 address",
        ),
        (
            "/Interface/AddressIPv6",
            json!("10.0.0.1/8"),
            "invalid Interface.AddressIPv6 10.0.0.1: give an IPv6",
        ),
        ("/Interface", json!([1]), "cannot understand the request"),
        (
            "/Options/com.docker.network.portmap",
            json!(5),
            "invalid option com.docker.network.portmap",
        ),
        (
            "/Options/com.docker.network.portmap",
            json!([{"Proto": 132, "Port": 5}]),
            "port 5/sctp cannot be published",
        ),
        (
            "/Options/com.docker.network.endpoint.exposedports",
            json!([{"Proto": 6, "Port": 70000}]),
            "invalid exposed port 70000",
        ),
        (
            "/Options/com.docker.network.endpoint.ifname",
            json!("x0"),
            "option com.docker.network.endpoint.ifname cannot be honoured",
        ),
    ] {
        let mut body = create_endpoint(json!({"Address": "10.60.0.2/24"}));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        let sentence = world.refused("NetworkDriver.CreateEndpoint", &body);
        assert!(sentence.starts_with(words), "{pointer}: {sentence}");
    }
    assert!(world.changed().is_empty());
    world.refuse(
        "/tunbridge/endpoints",
        409,
        "Address already in use: 10.60.0.2 is taken",
        1,
    );
    let body = create_endpoint(json!({"Address": "10.60.0.2/24"}));
    let sentence = world.refused("NetworkDriver.CreateEndpoint", &body);
    assert_eq!(sentence, "Address already in use: 10.60.0.2 is taken");
    // The daemon's state is gone.
    let world = World::new();
    let sentence = world.refused("NetworkDriver.CreateEndpoint", &body);
    assert!(
        sentence.starts_with("tunbridge does not know docker network d5f95230a2b1 any more"),
        "{sentence}"
    );
}

/// While dockerd starts, it starts containers, and its API does not answer yet.
#[test]
fn what_a_former_dockerd_had_makes_way_for_the_next() {
    let world = World::with_network();
    let former = "cd".repeat(32);
    world.add_endpoint(&former, "10.60.0.2");
    let attempt = |times| {
        world.changes();
        world.refuse("/tunbridge/endpoints", 409, "Address already in use", times);
        let body = create_endpoint(json!({"Address": "10.60.0.2/24"}));
        world.call("NetworkDriver.CreateEndpoint", &body)
    };
    // Perhaps dockerd still has it.
    assert_eq!(attempt(1)["Err"], "Address already in use");
    world.call("Plugin.Activate", &Value::Null);
    assert!(attempt(1)["Interface"].is_object());
    let detached: Vec<Value> = world
        .changes()
        .into_iter()
        .filter(|(what, _)| what.ends_with("/detach"))
        .map(|(_, body)| body["container"].clone())
        .collect();
    assert_eq!(detached, [json!(ENDPOINT), json!(former)]);
    // One that this dockerd has asked for stays.
    let world = World::with_network();
    world.call("Plugin.Activate", &Value::Null);
    world.add_endpoint(ENDPOINT, "10.60.0.2");
    let first = create_endpoint(json!({"Address": "10.60.0.2/24"}));
    world.call("NetworkDriver.CreateEndpoint", &first);
    world.refuse("/tunbridge/endpoints", 409, "Address already in use", 1);
    let mut second = first;
    second["EndpointID"] = json!("ef".repeat(32));
    assert_eq!(
        world.refused("NetworkDriver.CreateEndpoint", &second),
        "Address already in use"
    );
}

/// With live-restore dockerd makes the endpoints of containers that run not anew.
#[test]
fn a_slow_dockerd_is_none_that_starts() {
    let mut world = World::with_network();
    let running = "cd".repeat(32);
    world.add_endpoint(&running, "10.60.0.2");
    world.add_docker_network(json!({
        "Id": NETWORK, "Driver": "tunbridge", "IPAM": {"Driver": "default", "Config": []},
        "Containers": {"c0".repeat(32): {"Name": "web", "EndpointID": running, "IPv4Address": "10.60.0.2/24"}},
    }));
    world.call("Plugin.Activate", &Value::Null);
    world.start_dockerd();
    for silent in [false, true] {
        world.dockerd_is_silent(silent);
        world.changes();
        world.refuse("/tunbridge/endpoints", 409, "Address already in use", 1);
        let body = create_endpoint(json!({"Address": "10.60.0.2/24"}));
        let sentence = world.refused("NetworkDriver.CreateEndpoint", &body);
        assert_eq!(sentence, "Address already in use");
        let changes = world.changes().into_iter();
        let detached: Vec<Value> = changes
            .filter(|(what, _)| what.ends_with("/detach"))
            .map(|(_, body)| body["container"].clone())
            .collect();
        assert_eq!(detached, [json!(ENDPOINT)], "silent: {silent}");
    }
}

#[test]
fn an_endpoints_life() {
    let world = World::with_network();
    let mut join = endpoint();
    join["SandboxKey"] = json!("/run/docker/netns/5b6b49787c47");
    join["Options"] = ports();
    assert_eq!(
        world.call("NetworkDriver.Join", &join),
        json!({
            "InterfaceName": {"SrcName": "veth0ee066a", "DstPrefix": "eth"},
            "Gateway": "10.60.0.1", "GatewayIPv6": "fd00:60::1", "DisableGatewayService": true,
        })
    );
    let mut program = endpoint();
    program["Options"] = ports();
    world.changes();
    assert_eq!(
        world.call("NetworkDriver.ProgramExternalConnectivity", &program),
        json!({})
    );
    let (what, body) = &world.changes()[0];
    assert_eq!(what, "POST /tunbridge/endpoints/publish");
    assert_eq!(
        body["publish"],
        json!(["90/tcp", "8080:80/tcp", "127.0.0.1:8081:81/udp"])
    );
    let info = world.call("NetworkDriver.EndpointOperInfo", &endpoint());
    assert_eq!(info, json!({"Value": {}}));
    world.changes();
    assert_eq!(
        world.call("NetworkDriver.RevokeExternalConnectivity", &endpoint()),
        json!({})
    );
    assert_eq!(world.changes()[0].1["publish"], json!([]));
    assert_eq!(world.call("NetworkDriver.Leave", &endpoint()), json!({}));
    assert!(world.changed().is_empty());
    assert_eq!(
        world.call("NetworkDriver.DeleteEndpoint", &endpoint()),
        json!({})
    );
    assert_eq!(world.changed(), ["POST /tunbridge/endpoints/detach"]);
}

#[test]
fn the_end_of_what_is_gone_is_no_error() {
    let world = World::new();
    world.refuse("/publish", 404, "no endpoint", 1);
    assert_eq!(
        world.call("NetworkDriver.RevokeExternalConnectivity", &endpoint()),
        json!({})
    );
    assert_eq!(world.call("NetworkDriver.Leave", &endpoint()), json!({}));
    assert_eq!(
        world.call("NetworkDriver.DeleteEndpoint", &endpoint()),
        json!({})
    );
    world.refuse("/release", 404, "no pool", 1);
    let address = json!({"PoolID": "abc", "Address": "10.77.0.11"});
    assert_eq!(world.call("IpamDriver.ReleaseAddress", &address), json!({}));
    world.refuse("/pools/abc", 404, "no pool", 1);
    assert_eq!(
        world.call("IpamDriver.ReleasePool", &json!({"PoolID": "abc"})),
        json!({})
    );
}

#[test]
fn a_taken_port_reads_well_behind_dockerds_words() {
    let world = World::with_network();
    world.refuse(
        "/publish",
        500,
        "failed to set up container networking: driver failed programming external connectivity on endpoint x (ab12): Bind for 0.0.0.0:8080 failed: port is already allocated",
        1,
    );
    let mut program = endpoint();
    program["Options"] = ports();
    assert_eq!(
        world.refused("NetworkDriver.ProgramExternalConnectivity", &program),
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    );
}
