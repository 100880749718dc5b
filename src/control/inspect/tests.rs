use super::*;
use crate::api::types::CreateContainer;
use crate::control::records::{GatewayMode, Process};
use crate::control::test_state::{
    add_ipv6, at, attachment, change_families, config, fresh, make, open, option, request, run_on,
};

/// As `json.tool` prints it: the order of the keys counts.
fn text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn run(state: &mut State, name: &str, publish: &[&str]) -> Container {
    state
        .create_container(&request(name, publish), at(0))
        .unwrap();
    state
        .set_started(
            name,
            Some(Process {
                pid: 4711,
                start_time: 1,
            }),
            at(1),
        )
        .unwrap()
}

#[test]
fn network_settings_are_those_of_the_transcript() {
    // Transcript 01, `inspect c1 --format "{{json .NetworkSettings}}"`, with our ids and paths, and the
    // endpoint's keys in the order of version 29.
    let (mut state, ..) = fresh();
    let c1 = run(&mut state, "c1", &[]);
    let (endpoint, network, sandbox) = (
        &c1.endpoint().unwrap().id,
        &state.default_network().unwrap().id,
        &c1.sandbox_id,
    );
    let expected = format!(
        r#"{{
  "Bridge": "",
  "SandboxID": "{sandbox}",
  "HairpinMode": false,
  "LinkLocalIPv6Address": "",
  "LinkLocalIPv6PrefixLen": 0,
  "Ports": {{}},
  "SandboxKey": "/run/netns/c1",
  "SecondaryIPAddresses": null,
  "SecondaryIPv6Addresses": null,
  "EndpointID": "{endpoint}",
  "Gateway": "172.17.0.1",
  "GlobalIPv6Address": "",
  "GlobalIPv6PrefixLen": 0,
  "IPAddress": "172.17.0.2",
  "IPPrefixLen": 16,
  "IPv6Gateway": "",
  "MacAddress": "02:42:ac:11:00:02",
  "Networks": {{
    "bridge": {{
      "IPAMConfig": null,
      "Links": null,
      "Aliases": null,
      "DriverOpts": null,
      "GwPriority": 0,
      "NetworkID": "{network}",
      "EndpointID": "{endpoint}",
      "Gateway": "172.17.0.1",
      "IPAddress": "172.17.0.2",
      "MacAddress": "02:42:ac:11:00:02",
      "IPPrefixLen": 16,
      "IPv6Gateway": "",
      "GlobalIPv6Address": "",
      "GlobalIPv6PrefixLen": 0,
      "DNSNames": null
    }}
  }}
}}"#
    );
    assert_eq!(text(&container(&state, &c1)["NetworkSettings"]), expected);
}

#[test]
fn both_families_are_shown_as_in_the_transcript() {
    // Transcript 07, `--fixed-cidr-v6 2001:db8:d::/64`.
    let (mut state, ..) = fresh();
    state.settings.has_ipv6 = true;
    add_ipv6(&mut state, "bridge", "2001:db8:d::/64", GatewayMode::Routed);
    let web = run(&mut state, "web", &["8080:80"]);
    let settings = &container(&state, &web)["NetworkSettings"];
    let keys = [
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "MacAddress",
    ];
    let expected = json!([
        "172.17.0.1",
        "172.17.0.2",
        16,
        "2001:db8:d::1",
        "2001:db8:d::242:ac11:2",
        64,
        "02:42:ac:11:00:02"
    ]);
    for place in [settings, &settings["Networks"]["bridge"]] {
        let values: Vec<&Value> = keys.iter().map(|key| &place[*key]).collect();
        assert_eq!(json!(values), expected);
    }
    assert_eq!(
        settings["Ports"],
        json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]})
    );
    let bridge = network(&state, state.default_network().unwrap());
    assert_eq!(
        (&bridge["EnableIPv4"], &bridge["EnableIPv6"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        bridge["IPAM"]["Config"],
        json!([
            {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"},
            {"Subnet": "2001:db8:d::/64", "Gateway": "2001:db8:d::1"}
        ])
    );
    let entry = &bridge["Containers"][&web.id];
    assert_eq!(
        (&entry["IPv4Address"], &entry["IPv6Address"]),
        (&json!("172.17.0.2/16"), &json!("2001:db8:d::242:ac11:2/64"))
    );
    let subnets = bridge["Status"]["IPAM"]["Subnets"].as_object().unwrap();
    assert!(subnets.contains_key("2001:db8:d::/64"), "{subnets:?}");
}

#[test]
fn requested_addresses_and_a_network_without_ipv4() {
    let (mut state, ..) = fresh();
    make(&mut state, "n6", |_| {}).unwrap();
    add_ipv6(&mut state, "n6", "2001:db8:e::/64", GatewayMode::Nat);
    let both = run_on(&mut state, "both", &["n6"], |r| {
        let wanted = &mut r.networks[0].settings.ipam_config;
        wanted.ipv4_address = Some([172, 18, 0, 77].into());
        wanted.ipv6_address = "2001:db8:e::77".parse().ok();
    });
    let shown = &container(&state, &both)["NetworkSettings"]["Networks"]["n6"];
    assert_eq!(
        shown["IPAMConfig"],
        json!({"IPv4Address": "172.18.0.77", "IPv6Address": "2001:db8:e::77"})
    );
    assert_eq!(
        (&shown["IPAddress"], &shown["GlobalIPv6Address"]),
        (&json!("172.18.0.77"), &json!("2001:db8:e::77"))
    );
    let mut refuse = |address: &str, status: u16, text: &str| {
        let mut wanted = crate::api::types::EndpointSettings::default();
        wanted.ipam_config.ipv6_address = address.parse().ok();
        run_once(&mut state);
        let error = state.connect("plain", "n6", &wanted).unwrap_err();
        assert_eq!(error.http_status(), status, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    refuse("2001:db8:e::77", 409, "Address already in use");
    refuse("2001:db8:e::1", 409, "Address already in use");
    refuse(
        "2001:db8:f::1",
        400,
        "It does not belong to any of this network's subnets",
    );
    // What was asked for is there again after a restart; the rest is free.
    state.set_exited("both", 0, at(2)).unwrap();
    assert_eq!(state.addresses_in_use(&state.network("n6").unwrap().id), 5);
    let again = state.restart("both").unwrap().container;
    assert_eq!(
        again.endpoint().unwrap().addresses,
        both.endpoint().unwrap().addresses
    );

    make(&mut state, "six", |_| {}).unwrap();
    add_ipv6(&mut state, "six", "fd00:6::/64", GatewayMode::Nat);
    change_families(&mut state, "six", |families| drop(families.remove(0)));
    let only = run_on(&mut state, "only", &["six"], |_| {});
    let shown = &container(&state, &only)["NetworkSettings"]["Networks"]["six"];
    assert_eq!(
        (
            &shown["IPAddress"],
            &shown["IPPrefixLen"],
            &shown["Gateway"]
        ),
        (&json!(""), &json!(0), &json!(""))
    );
    assert_eq!(
        (&shown["GlobalIPv6Address"], &shown["IPv6Gateway"]),
        (&json!("fd00:6::2"), &json!("fd00:6::1"))
    );
    let mac = only.endpoint().unwrap().mac.to_string();
    assert!(mac.starts_with("02:42:"), "{mac}");
    let six = network_summary(state.network("six").unwrap());
    assert_eq!(
        (&six["EnableIPv4"], &six["EnableIPv6"]),
        (&json!(false), &json!(true))
    );
}

fn run_once(state: &mut State) {
    if state.container("plain").is_err() {
        run_on(state, "plain", &["bridge"], |_| {});
    }
}

#[test]
fn ports_are_those_of_the_transcript() {
    // Transcript 03, container `web`.
    let (mut state, ..) = fresh();
    state.settings.has_ipv6 = true;
    let specs = [
        "8080:80",
        "8080:80/udp",
        "127.0.0.1:8081:80",
        "198.51.100.2:8082:80",
        "80",
    ];
    let web = run(&mut state, "web", &specs);
    let web = container(&state, &web);
    assert_eq!(
        serde_json::to_string(&web["NetworkSettings"]["Ports"]).unwrap(),
        concat!(
            r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"32768"},{"HostIp":"::","HostPort":"32768"},"#,
            r#"{"HostIp":"198.51.100.2","HostPort":"8082"},{"HostIp":"127.0.0.1","HostPort":"8081"},"#,
            r#"{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"#,
            r#""80/udp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]}"#
        )
    );
    assert_eq!(
        serde_json::to_string(&web["HostConfig"]["PortBindings"]).unwrap(),
        concat!(
            r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"},{"HostIp":"127.0.0.1","HostPort":"8081"},"#,
            r#"{"HostIp":"198.51.100.2","HostPort":"8082"},{"HostIp":"","HostPort":""}],"#,
            r#""80/udp":[{"HostIp":"","HostPort":"8080"}]}"#
        )
    );
    let ranges = run(
        &mut state,
        "r1",
        &["9000-9002:70", "9100-9101:7000-7001/udp"],
    );
    let ranges = container(&state, &ranges);
    assert_eq!(
        serde_json::to_string(&ranges["HostConfig"]["PortBindings"]).unwrap(),
        concat!(
            r#"{"70/tcp":[{"HostIp":"","HostPort":"9000-9002"}],"#,
            r#""7000/udp":[{"HostIp":"","HostPort":"9100"}],"7001/udp":[{"HostIp":"","HostPort":"9101"}]}"#
        )
    );
}

#[test]
fn a_whole_container() {
    let (mut state, ..) = fresh();
    let wanted = CreateContainer {
        hostname: Some("c1host".into()),
        env: vec!["A=b".into()],
        expose: vec!["443".into()],
        add_host: vec!["gw:host-gateway".into()],
        dns: vec![[10, 1, 1, 1].into()],
        networks: attachment(Some([172, 17, 0, 9]), Some("02:aa:bb:cc:dd:01")),
        ..request("c1", &["8080:80"])
    };
    let made = state.create_container(&wanted, at(0)).unwrap().container;
    let value = container(&state, &made);
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys[..14],
        [
            "Id",
            "Created",
            "Path",
            "Args",
            "State",
            "Image",
            "ResolvConfPath",
            "HostnamePath",
            "HostsPath",
            "LogPath",
            "Name",
            "RestartCount",
            "Driver",
            "Platform"
        ]
    );
    assert_eq!(
        keys[keys.len() - 5..],
        [
            "HostConfig",
            "GraphDriver",
            "Mounts",
            "Config",
            "NetworkSettings"
        ]
    );
    assert_eq!(value["Created"], "2026-11-21T06:59:56.428803446Z");
    assert_eq!(
        (&value["Path"], &value["Args"]),
        (&json!("sleep"), &json!(["100000"]))
    );
    assert_eq!(value["Name"], "/c1");
    assert_eq!(
        value["HostsPath"],
        json!(format!("/var/lib/tunbridge/containers/{}/hosts", made.id))
    );
    let host = &value["HostConfig"];
    assert_eq!(
        (&host["NetworkMode"], &host["ExtraHosts"], &host["Dns"]),
        (
            &json!("default"),
            &json!(["gw:host-gateway"]),
            &json!(["10.1.1.1"])
        )
    );
    let config = &value["Config"];
    assert_eq!(
        (&config["Hostname"], &config["Env"]),
        (&json!("c1host"), &json!(["A=b"]))
    );
    assert_eq!(
        config["ExposedPorts"],
        json!({ "80/tcp": {}, "443/tcp": {} })
    );
    assert_eq!(
        (&config["Cmd"], &config["MacAddress"]),
        (&json!(["sleep", "100000"]), &json!("02:aa:bb:cc:dd:01"))
    );
    let settings = &value["NetworkSettings"];
    assert_eq!(
        settings["Ports"],
        json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }], "443/tcp": null })
    );
    assert_eq!(
        settings["Networks"]["bridge"]["IPAMConfig"],
        json!({ "IPv4Address": "172.17.0.9" })
    );
}

#[test]
fn states() {
    let (mut state, ..) = fresh();
    let made = state
        .create_container(&request("c1", &["80:80"]), at(0))
        .unwrap()
        .container;
    assert_eq!(
        serde_json::to_string(&container(&state, &made)["State"]).unwrap(),
        r#"{"Status":"created","Running":false,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":0,"ExitCode":0,"Error":"","StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z"}"#
    );
    let running = state
        .set_started(
            "c1",
            Some(Process {
                pid: 4711,
                start_time: 1,
            }),
            at(1),
        )
        .unwrap();
    let value = container(&state, &running);
    assert_eq!(
        (&value["State"]["Running"], &value["State"]["Pid"]),
        (&json!(true), &json!(4711))
    );
    state.set_exited("c1", 3, at(61)).unwrap();
    let exited = state.container("c1").unwrap();
    let value = container(&state, exited);
    let facts = ["Status", "Pid", "ExitCode", "StartedAt", "FinishedAt"]
        .map(|key| value["State"][key].clone());
    assert_eq!(
        facts,
        [
            json!("exited"),
            json!(0),
            json!(3),
            json!("2026-11-21T06:59:57.428803446Z"),
            json!("2026-11-21T07:00:57.428803446Z")
        ]
    );
    let settings = &value["NetworkSettings"];
    for (key, empty) in [
        ("IPAddress", json!("")),
        ("SandboxKey", json!("")),
        ("Ports", json!({})),
        ("IPPrefixLen", json!(0)),
    ] {
        assert_eq!(settings[key], empty, "{key}");
    }
    assert_eq!(settings["Networks"]["bridge"]["IPAddress"], "");
    let statuses =
        [made, running, exited.clone()].map(|container| status(&container, at(61 + 180)));
    assert_eq!(
        statuses,
        ["Created", "Up 4 minutes", "Exited (3) 3 minutes ago"]
    );
}

#[test]
fn list_entry() {
    let (mut state, ..) = fresh();
    state
        .create_container(
            &CreateContainer {
                expose: vec!["443".into()],
                ..request("c1", &["8080:80/udp"])
            },
            at(0),
        )
        .unwrap();
    let c1 = state.set_started("c1", None, at(1)).unwrap();
    let value = container_summary(&state, &c1, at(3));
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "Id",
            "Names",
            "Image",
            "ImageID",
            "Command",
            "Created",
            "Ports",
            "Labels",
            "State",
            "Status",
            "HostConfig",
            "NetworkSettings",
            "Mounts"
        ]
    );
    assert_eq!(
        (&value["Names"], &value["Command"]),
        (&json!(["/c1"]), &json!("sleep 100000"))
    );
    assert_eq!(
        (&value["Created"], &value["Status"]),
        (&json!(1_795_244_396), &json!("Up 2 seconds"))
    );
    assert_eq!(
        serde_json::to_string(&value["Ports"]).unwrap(),
        r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"udp"},{"PrivatePort":443,"Type":"tcp"}]"#
    );
    assert_eq!(
        value["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
        "172.17.0.2"
    );
}

#[test]
fn the_default_network_is_that_of_the_transcript() {
    // Transcript 01, `network inspect bridge`, with the gateway (20.10 leaves it out until a restart) and
    // version 29's keys in its order.
    let (mut state, ..) = fresh();
    let bridge = state.default_network().unwrap().clone();
    let expected = format!(
        r#"{{
  "Name": "bridge",
  "Id": "{}",
  "Created": "2026-11-21T06:59:56.428803446Z",
  "Scope": "local",
  "Driver": "bridge",
  "EnableIPv4": true,
  "EnableIPv6": false,
  "IPAM": {{
    "Driver": "default",
    "Options": null,
    "Config": [
      {{
        "Subnet": "172.17.0.0/16",
        "Gateway": "172.17.0.1"
      }}
    ]
  }},
  "Internal": false,
  "Attachable": false,
  "Ingress": false,
  "ConfigFrom": {{
    "Network": ""
  }},
  "ConfigOnly": false,
  "Options": {{
    "com.docker.network.bridge.default_bridge": "true",
    "com.docker.network.bridge.enable_icc": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
    "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
    "com.docker.network.bridge.name": "tb0",
    "com.docker.network.driver.mtu": "1500"
  }},
  "Labels": {{}}"#,
        bridge.id
    );
    let listed = format!("{expected}\n}}");
    assert_eq!(text(&network_summary(&bridge)), listed);
    let status = r#""Status": {
    "IPAM": {
      "Subnets": {
        "172.17.0.0/16": {
          "IPsInUse": 3,
          "DynamicIPsAvailable": 65533
        }
      }
    }
  }"#;
    assert_eq!(
        text(&network(&state, &bridge)),
        format!("{expected},\n  \"Containers\": {{}},\n  {status}\n}}")
    );
    let c1 = run(&mut state, "c1", &[]);
    assert_eq!(
        text(&network_summary(&bridge)),
        listed,
        "a list shows no containers"
    );
    assert_eq!(
        serde_json::to_string(&network(&state, &bridge)["Containers"]).unwrap(),
        format!(
            r#"{{"{}":{{"Name":"c1","EndpointID":"{}","MacAddress":"02:42:ac:11:00:02","IPv4Address":"172.17.0.2/16","IPv6Address":""}}}}"#,
            c1.id,
            c1.endpoint().unwrap().id
        )
    );
}

#[test]
fn ipam_of_a_configured_network_is_that_of_the_transcript() {
    // Transcript 06.
    let (mut state, _) = open(&Default::default(), &Default::default());
    let flags = config(|o| {
        o.bip = Some("192.168.77.1/24".into());
        o.fixed_cidr = Some("192.168.77.128/25".into());
        o.default_gateway = Some("192.168.77.254".into());
        o.ip = Some("198.51.100.2".into());
        o.mtu = Some(1400);
    });
    state.set_default_network(Some(&flags), at(0)).unwrap();
    let value = network_summary(state.default_network().unwrap());
    assert_eq!(
        serde_json::to_string(&value["IPAM"]).unwrap(),
        r#"{"Driver":"default","Options":null,"Config":[{"Subnet":"192.168.77.0/24","IPRange":"192.168.77.128/25","Gateway":"192.168.77.1","AuxiliaryAddresses":{"DefaultGatewayIPv4":"192.168.77.254"}}]}"#
    );
    assert_eq!(
        value["Options"]["com.docker.network.bridge.host_binding_ipv4"],
        "198.51.100.2"
    );
    assert_eq!(value["Options"]["com.docker.network.driver.mtu"], "1400");
}

#[test]
fn a_network_of_a_users_is_that_of_the_transcript() {
    // Transcript 04, net5, with version 29's keys in its order.
    let (mut state, ..) = fresh();
    let net5 = make(&mut state, "net5", |request| {
        let auxiliary = [("printer".to_owned(), "10.5.7.1".to_owned())];
        request.ipam.config = vec![crate::api::types::IpamPool {
            subnet: Some("10.5.0.0/16".into()),
            ip_range: Some("10.5.7.0/24".into()),
            gateway: Some("10.5.0.254".into()),
            auxiliary_addresses: auxiliary.into(),
        }];
        option(request, "bridge.name", "brfive");
        option(request, "driver.mtu", "1420");
        request.labels.insert("a".into(), "b".into());
    })
    .unwrap();
    assert_eq!(
        serde_json::to_string(&network_summary(&net5)).unwrap(),
        format!(
            concat!(
                r#"{{"Name":"net5","Id":"{}","Created":"2026-11-21T06:59:56.428803446Z","Scope":"local","Driver":"bridge","#,
                r#""EnableIPv4":true,"EnableIPv6":false,"IPAM":{{"Driver":"default","Options":{{}},"Config":[{{"Subnet":"10.5.0.0/16","#,
                r#""IPRange":"10.5.7.0/24","Gateway":"10.5.0.254","AuxiliaryAddresses":{{"printer":"10.5.7.1"}}}}]}},"Internal":false,"#,
                r#""Attachable":false,"Ingress":false,"ConfigFrom":{{"Network":""}},"ConfigOnly":false,"#,
                r#""Options":{{"com.docker.network.bridge.name":"brfive","com.docker.network.driver.mtu":"1420"}},"Labels":{{"a":"b"}}}}"#
            ),
            net5.id
        )
    );
    let none = network_summary(state.network("none").unwrap());
    assert_eq!(
        (&none["Driver"], &none["IPAM"]["Config"], &none["Options"]),
        (&json!("null"), &json!([]), &json!({}))
    );
}

#[test]
fn several_networks_of_a_container() {
    let (mut state, ..) = fresh();
    make(&mut state, "net5", |_| {}).unwrap();
    make(&mut state, "zrouted", |r| {
        option(r, "bridge.gateway_mode_ipv4", "routed")
    })
    .unwrap();
    let alpha = run_on(&mut state, "alpha", &["zrouted", "net5"], |r| {
        r.publish = vec!["8080:80".into()];
        r.networks[1].settings.aliases = vec!["extra".into()];
        r.networks[1].settings.gw_priority = 3;
    });
    let value = container(&state, &alpha);
    let settings = &value["NetworkSettings"];
    let names: Vec<&String> = settings["Networks"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["net5", "zrouted"], "sorted by name");
    let net5 = &settings["Networks"]["net5"];
    assert_eq!(
        (&net5["Aliases"], &net5["GwPriority"], &net5["DNSNames"]),
        (
            &json!(["extra"]),
            &json!(3),
            &json!(["alpha", "extra", &alpha.id[..12]])
        )
    );
    assert_eq!(value["HostConfig"]["NetworkMode"], "zrouted");
    assert_eq!(settings["IPAddress"], "", "only of the default network");
    assert_ne!(settings["SandboxKey"], "");
    // TestDisableNAT: a routed network has no host port.
    assert_eq!(
        settings["Ports"],
        json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "0.0.0.0", "HostPort": "8080"}]})
    );
    let listed = container_summary(&state, &alpha, at(2));
    assert_eq!(
        listed["Ports"],
        json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 80, "Type": "tcp"}
        ])
    );
    let policy = crate::control::projections::policy(&state, &[]);
    let open: Vec<usize> = policy.endpoints.iter().map(|e| e.open.len()).collect();
    assert_eq!(open.iter().sum::<usize>(), 1);
    assert_eq!(policy.published.len(), 1);
    let none = run_on(&mut state, "alone", &["none"], |_| {});
    let value = container(&state, &none);
    let id = &state.network("none").unwrap().id;
    assert_eq!(
        value["NetworkSettings"]["Networks"]["none"]["NetworkID"],
        json!(id)
    );
    assert_eq!(value["HostConfig"]["NetworkMode"], "none");
}
