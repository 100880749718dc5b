//! Every verb in every version, and what is asked of the daemon for the calls that real runtimes make.

use serde_json::{Value, json};

use super::plugin::{Namespace, Plugins};
use super::recorder::Recorder;

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];
const ADD: &str = "POST /tunbridge/endpoints";
const DETACH: &str = "POST /tunbridge/endpoints/detach";
const COLLECT: &str = "POST /tunbridge/endpoints/collect";

fn config(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "tunbridge"})
}

#[test]
fn the_version_is_told_without_a_daemon_whatever_is_asked() {
    let plugins = Plugins::new();
    for name in [
        "tunbridge",
        "tunbridge-cni",
        "bridge",
        "portmap",
        "bandwidth",
        "firewall",
    ] {
        for (input, version) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
            (r#"{"cniVersion":""}"#, "0.1.0"),
            ("", "1.1.0"),
            ("garbage", "1.1.0"),
        ] {
            // As libcni calls it.
            let call = plugins
                .call(name)
                .set("CNI_COMMAND", "VERSION")
                .set("CNI_CONTAINERID", "")
                .set("CNI_NETNS", "dummy")
                .set("CNI_IFNAME", "dummy")
                .set("CNI_PATH", "dummy");
            let expected = json!({"cniVersion": version, "supportedVersions": VERSIONS});
            assert_eq!(call.with(input).json(), expected, "{input}");
        }
    }
    let only = plugins
        .call("bridge")
        .unset("CNI_PATH")
        .set("CNI_COMMAND", "VERSION");
    assert_eq!(only.with("").json()["supportedVersions"], json!(VERSIONS));
}

#[test]
fn without_a_verb_it_says_what_it_is() {
    let plugins = Plugins::new();
    for name in [
        "tunbridge-cni",
        "bridge",
        "portmap",
        "bandwidth",
        "firewall",
    ] {
        let answer = plugins.call(name).unset("CNI_COMMAND").with("{}");
        answer.silent();
        assert!(answer.stderr.contains("plugin version"), "{answer:?}");
        assert!(
            answer
                .stderr
                .contains("CNI protocol versions supported: 0.1.0, ")
        );
    }
}

#[test]
fn results_have_the_version_that_was_asked_for() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    for version in VERSIONS {
        let call = plugins
            .call("tunbridge")
            .attachment("ADD", &namespace.path());
        let result = call
            .socket(&daemon.socket())
            .with_config(&config(version))
            .json();
        assert_eq!(result["cniVersion"], version);
        let dns =
            json!({"nameservers": ["127.0.0.11"], "search": ["a.example"], "options": ["ndots:0"]});
        assert_eq!(result["dns"], dns);
        let default = json!({"dst": "0.0.0.0/0", "gw": "10.5.0.1"});
        if version < "0.3.0" {
            let ip4 = json!({"ip": "10.5.0.2/16", "gateway": "10.5.0.1", "routes": [default]});
            assert_eq!(result["ip4"], ip4);
            assert_eq!(result["ip6"]["ip"], "fd05::2/64");
            assert_eq!(result.get("ips"), None);
            continue;
        }
        let interfaces = result["interfaces"].as_array().unwrap();
        let names: Vec<&Value> = interfaces
            .iter()
            .map(|interface| &interface["name"])
            .collect();
        assert_eq!(names, ["tb-1", "veth1", "eth0"]);
        assert_eq!(interfaces[2]["sandbox"], namespace.path());
        assert_eq!(interfaces[2]["mac"], "02:42:0a:05:00:02");
        assert_eq!(interfaces[2].get("mtu").is_some(), version == "1.1.0");
        assert_eq!(result["ips"][0]["interface"], 2);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0");
        assert_eq!(result["ips"][1]["gateway"], "fd05::1");
        assert_eq!(result["routes"][0], default);
    }
}

#[test]
fn verbs_exist_from_their_version_on() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let previous = |version: &str| {
        let call = plugins
            .call("tunbridge")
            .attachment("ADD", &namespace.path());
        call.socket(&daemon.socket())
            .with_config(&config(version))
            .json()
    };
    for version in VERSIONS {
        let mut config = config(version);
        let call = |verb: &str| {
            let call = plugins
                .call("tunbridge")
                .attachment(verb, &namespace.path());
            call.socket(&daemon.socket())
        };
        call("DEL").with_config(&config).silent();
        config["prevResult"] = previous(version);
        call("DEL").with_config(&config).silent();
        for (verb, least) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
            let answer = call(verb).with_config(&config);
            if version >= least {
                answer.silent();
            } else {
                let (told, code, message) = answer.error();
                assert_eq!((told.as_str(), code), (version, 1));
                assert!(message.starts_with(&format!("config version does not allow {verb}")));
            }
        }
    }
}

#[test]
fn deletion_names_the_endpoint_by_network_and_interface() {
    let (plugins, daemon) = (Plugins::new(), Recorder::start());
    for netns in ["", "/run/netns/gone"] {
        let call = plugins.call("tunbridge").attachment("DEL", netns);
        call.socket(&daemon.socket())
            .with_config(&config("1.0.0"))
            .silent();
        let expected = json!({"runtime": "cni", "container": "c1", "owner": "net", "network": "net", "interface": "eth0"});
        assert_eq!(daemon.body(DETACH), expected);
    }
    // Arguments are of no interest any more.
    let call = plugins
        .call("tunbridge")
        .attachment("DEL", "")
        .set("CNI_ARGS", "nonsense");
    let mut config = config("1.0.0");
    config["runtimeConfig"] = json!({"unknown": 1, "portMappings": "x"});
    call.socket(&daemon.socket()).with_config(&config).silent();
}

#[test]
fn collection_keeps_what_is_valid() {
    let (plugins, daemon) = (Plugins::new(), Recorder::start());
    let collect = |keys: Value| {
        let mut config = config("1.1.0");
        config
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        // The others are there, and empty.
        let call = plugins.call("tunbridge").attachment("GC", "");
        let call = call.set("CNI_CONTAINERID", "").set("CNI_IFNAME", "");
        call.socket(&daemon.socket()).with_config(&config)
    };
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        collect(json!({ key: valid })).silent();
        let expected = json!({"runtime": "cni", "owner": "net", "valid": [["c1", "eth0"]]});
        assert_eq!(daemon.body(COLLECT), expected);
    }
    collect(json!({})).silent();
    assert_eq!(daemon.body(COLLECT)["valid"], json!([]));
    // Attachments of another configuration with the same network are not ours to judge.
    collect(json!({"network": "shared"})).silent();
    assert_eq!(daemon.body(COLLECT)["owner"], "net");
    let wrong = json!({"cni.dev/valid-attachments": [{"containerID": "../x", "ifname": "eth0"}]});
    collect(wrong).expect_error(
        7,
        &[
            "cni.dev/valid-attachments[0]",
            "invalid characters in containerID",
        ],
    );
}

#[test]
fn a_check_compares_with_what_was_answered() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let call = |verb: &str| {
        let call = plugins
            .call("tunbridge")
            .attachment(verb, &namespace.path());
        call.socket(&daemon.socket())
    };
    let mut config = config("1.0.0");
    let result = call("ADD").with_config(&config).json();
    call("CHECK")
        .with_config(&config)
        .expect_error(7, &["Required prevResult missing"]);
    config["prevResult"] = result.clone();
    call("CHECK").with_config(&config).silent();
    config["prevResult"]["ips"][0]["address"] = "10.5.0.9/16".into();
    call("CHECK")
        .with_config(&config)
        .expect_error(101, &["eth0", "address was 10.5.0.9/16"]);
    config["prevResult"] = result;
    config["prevResult"]["interfaces"][2]["mac"] = "02:00:00:00:00:09".into();
    call("CHECK")
        .with_config(&config)
        .expect_error(101, &["MAC address was 02:00:00:00:00:09"]);
    daemon.answer(
        "POST /tunbridge/endpoints/check",
        404,
        json!({"message": "no endpoint of c1"}),
    );
    call("CHECK")
        .with_config(&config)
        .expect_error(101, &["no endpoint of c1"]);
}

#[test]
fn as_podman_calls_it() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let config = json!({
        "type": "bridge", "bridge": "cni-podman1", "capabilities": {"ips": true}, "cniVersion": "0.4.0",
        "hairpinMode": true, "ipMasq": true, "isGateway": true, "mtu": 1400, "name": "mynet",
        "ipam": {
            "type": "host-local", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"gateway": "10.5.0.254", "rangeEnd": "10.5.0.255", "rangeStart": "10.5.0.2", "subnet": "10.5.0.0/16"}]],
        },
        "runtimeConfig": {"aliases": {"mynet": ["web1", "a70afaeb99e0"]}},
    });
    let call = plugins.call("bridge").attachment("ADD", &namespace.path());
    let call = call.set(
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAME=l1;MAC=02:11:22:33:44:55",
    );
    call.socket(&daemon.socket()).with_config(&config).json();
    let asked = daemon.body(ADD);
    for (key, value) in [
        ("runtime", json!("cni")),
        ("container", json!("c1")),
        ("name", json!("l1")),
        ("network", json!("mynet")),
        ("interface", json!("eth0")),
        ("placement", json!("namespace")),
        (
            "settings",
            json!({"Aliases": ["web1", "a70afaeb99e0"], "MacAddress": "02:11:22:33:44:55"}),
        ),
        (
            "ranges",
            json!([{"first": "10.5.0.2", "last": "10.5.0.255"}]),
        ),
        ("default_route", json!(true)),
        ("publish", json!([])),
    ] {
        assert_eq!(asked[key], value, "{key}");
    }
    let create = &asked["create_network"];
    assert_eq!(create["Name"], "mynet");
    let pool = json!([{"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.254"}]);
    assert_eq!(create["IPAM"]["Config"], pool);
    let options = json!({
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.name": "cni-podman1",
        "com.docker.network.driver.mtu": "1400",
    });
    assert_eq!(create["Options"], options);
}

#[test]
fn as_containerd_calls_it() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let mut config = config("1.0.0");
    config["capabilities"] = json!({"portMappings": true, "dns": true});
    config["runtimeConfig"] = json!({
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "dns": {"Servers": ["10.0.0.10"], "Searches": ["svc"], "Options": ["ndots:5"]},
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2_147_483_647, "egressRate": 0, "egressBurst": 0},
    });
    let call = plugins
        .call("tunbridge")
        .attachment("ADD", &namespace.path());
    let call = call.set("CNI_ARGS", "K8S_POD_UID=u;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=x");
    call.socket(&daemon.socket()).with_config(&config).json();
    let asked = daemon.body(ADD);
    assert_eq!(asked["publish"], json!(["8080:80/tcp"]));
    assert_eq!(asked["dns"], json!(["10.0.0.10"]));
    assert_eq!(asked["dns_search"], json!(["svc"]));
    assert_eq!(asked["dns_option"], json!(["ndots:5"]));
    assert_eq!(asked["name"], "p");
    let limited = json!({"ingress": {"rate": 1_000_000, "burst": 2_147_483_647}});
    assert_eq!(asked["bandwidth"], limited);
}

#[test]
fn ranges_of_the_runtime_are_those_of_the_network() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    for (plugin, key) in [("tunbridge", "ipRanges"), ("bridge", "IPRanges")] {
        let mut config = config("1.0.0");
        config["capabilities"] = json!({"ipRanges": true});
        // They take the place of these.
        config["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]});
        if plugin == "tunbridge" {
            config["ipam"]["type"] = plugin.into();
        }
        config["runtimeConfig"][key] = json!([
            [
                {"subnet": "10.5.0.0/16", "rangeStart": "10.5.0.2", "rangeEnd": "10.5.0.9", "gateway": "10.5.0.1"},
                {"subnet": "10.5.0.0/16", "rangeStart": "10.5.1.0", "rangeEnd": "10.5.1.9"},
            ],
            [{"subnet": "fd05::/64", "rangeStart": "fd05::2"}],
        ]);
        let call = plugins.call(plugin).attachment("ADD", &namespace.path());
        call.socket(&daemon.socket()).with_config(&config).json();
        let asked = daemon.body(ADD);
        let pools =
            json!([{"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.1"}, {"Subnet": "fd05::/64"}]);
        assert_eq!(asked["create_network"]["IPAM"]["Config"], pools, "{plugin}");
        let ranges = json!([
            {"first": "10.5.0.2", "last": "10.5.0.9"},
            {"first": "10.5.1.0", "last": "10.5.1.9"},
            {"first": "fd05::2", "last": "fd05::ffff:ffff:ffff:ffff"},
        ]);
        assert_eq!(asked["ranges"], ranges, "{plugin}");
    }
}

#[test]
fn the_daemons_refusal_is_the_answer() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let text = "Bind for 0.0.0.0:8080 failed: port is already allocated";
    for (status, code) in [(400, 7), (409, 100), (500, 100)] {
        daemon.answer(ADD, status, json!({ "message": text }));
        let call = plugins
            .call("tunbridge")
            .attachment("ADD", &namespace.path());
        let answer = call.socket(&daemon.socket()).with_config(&config("0.4.0"));
        assert_eq!(answer.error(), ("0.4.0".to_owned(), code, text.to_owned()));
    }
}

/// A user of podman has given no flag.
#[test]
fn a_refused_subnet_is_the_configurations() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let text = "Pool overlaps: --subnet 10.1.0.0/24 overlaps 10.1.0.0/25; the next free one is --subnet 172.18.0.0/16";
    daemon.answer(ADD, 403, json!({ "message": text }));
    let call = plugins
        .call("tunbridge")
        .attachment("ADD", &namespace.path());
    let config = config("1.0.0");
    let name = config["name"].as_str().unwrap();
    let (_, _, message) = call.socket(&daemon.socket()).with_config(&config).error();
    let words = "Pool overlaps: subnet 10.1.0.0/24 overlaps 10.1.0.0/25; the next free one is subnet 172.18.0.0/16";
    assert_eq!(message, format!("configuration {name}: {words}"));
}

#[test]
fn a_key_that_nobody_reads_is_named() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let add = |plugin: &str| {
        let mut config = config("1.0.0");
        config["subnt"] = "10.1.0.0/24".into();
        let call = plugins.call(plugin).attachment("ADD", &namespace.path());
        let answer = call.socket(&daemon.socket()).with_config(&config);
        answer.json();
        answer.stderr
    };
    assert!(add("tunbridge").contains("key \"subnt\" is not known and has no effect"));
    // Whose keys those are, its own documents say.
    assert_eq!(add("bridge"), "");
}

#[test]
fn the_next_daemon_is_asked_as_the_first_was() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let mut config = config("1.0.0");
    let add = |config: &Value| {
        let call = plugins
            .call("tunbridge")
            .attachment("ADD", &namespace.path());
        call.socket(&daemon.socket()).with_config(config)
    };
    daemon.die_at(ADD);
    add(&config).json();
    // The first may have stored it.
    assert_eq!(daemon.requests(), [ADD, DETACH, ADD]);
    config["subnet"] = "10.6.0.0/16".into();
    daemon.die_at(ADD);
    add(&config).expect_error(
        7,
        &["10.5.0.2", "is not in the subnet of the configuration"],
    );
}

#[test]
fn a_network_of_an_older_configuration_is_made_anew_if_nobody_uses_it() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let mut config = config("1.0.0");
    config["subnet"] = "10.6.0.0/16".into();
    let add = || {
        let call = plugins
            .call("tunbridge")
            .attachment("ADD", &namespace.path());
        call.socket(&daemon.socket()).with_config(&config)
    };
    let network = |containers: Value, label: &str| {
        json!({
            "Name": "net", "IPAM": {"Config": [{"Subnet": "10.5.0.0/16"}]},
            "Labels": {"com.tunbridge.cni": label}, "Containers": containers,
        })
    };
    let busy = json!({"x": {}});
    for (containers, label) in [(busy, "net"), (json!({}), "other")] {
        daemon.answer("GET /networks/net", 200, network(containers, label));
        add().expect_error(
            7,
            &[
                "network net has the subnet 10.5.0.0/16",
                "says 10.6.0.0/16",
                "tunbridge network rm net",
            ],
        );
        assert!(
            daemon.requests().contains(&DETACH.to_owned()),
            "nothing is left"
        );
    }
    daemon.answer("GET /networks/net", 200, network(json!({}), "net"));
    daemon.answer("DELETE /networks/net", 204, Value::Null);
    let before = daemon.requests().len();
    // This daemon answers with the same address for ever.
    assert!(!add().success);
    let requests = daemon.requests().split_off(before);
    let expected = [
        ADD,
        DETACH,
        "GET /networks/net",
        "DELETE /networks/net",
        ADD,
    ];
    assert_eq!(requests[..5], expected);
}

#[test]
fn in_the_middle_of_a_chain_it_adds_to_what_is_there() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let mut config = config("1.0.0");
    config["prevResult"] = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
        "ips": [{"address": "10.9.0.2/24", "interface": 0}],
        "routes": [{"dst": "10.10.0.0/16"}],
        "dns": {"nameservers": ["10.9.0.53"]},
    });
    let call = plugins
        .call("tunbridge")
        .attachment("ADD", &namespace.path());
    let result = call.socket(&daemon.socket()).with_config(&config).json();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
    assert_eq!(
        result["ips"][0],
        json!({"interface": 0, "address": "10.9.0.2/24"})
    );
    assert_eq!(result["ips"][1]["interface"], 3);
    assert_eq!(result["routes"].as_array().unwrap().len(), 3);
    assert_eq!(result["dns"]["nameservers"], json!(["127.0.0.11"]));
}

#[test]
fn an_internal_network_of_podman_has_the_gateway_that_podman_shows() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    let mut answer = super::recorder::attached();
    (answer["gateways"], answer["routers"]) = (json!([]), json!([]));
    daemon.answer(ADD, 201, answer);
    let add = |plugin: &str| {
        let config = json!({
            "cniVersion": "0.4.0", "name": "net", "isGateway": false,
            "ipam": {"ranges": [[{"subnet": "10.5.0.0/16"}]]},
        });
        let call = plugins.call(plugin).attachment("ADD", &namespace.path());
        call.socket(&daemon.socket()).with_config(&config).json()
    };
    let result = add("bridge");
    assert_eq!(result["ips"][0]["gateway"], "10.5.0.1");
    assert_eq!(result.get("routes"), None);
    assert_eq!(add("tunbridge")["ips"][0].get("gateway"), None);
}
