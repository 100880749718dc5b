//! `portmap`, `bandwidth` and `firewall`, for attachments of ours and of others.

use serde_json::{Value, json};

use super::plugin::{Answer, Namespace, Plugins};
use super::recorder::{Recorder, attached};

const CHECK: &str = "POST /tunbridge/endpoints/check";
const LIMIT: &str = "POST /tunbridge/endpoints/bandwidth";
const CHAINED: [&str; 3] = ["portmap", "bandwidth", "firewall"];

struct Bench {
    plugins: Plugins,
    daemon: Recorder,
    namespace: Namespace,
}

impl Bench {
    fn new() -> Self {
        Self {
            plugins: Plugins::new(),
            daemon: Recorder::start(),
            namespace: Namespace::new(),
        }
    }

    fn call(&self, plugin: &str, verb: &str, config: &Value) -> Answer {
        let call = self
            .plugins
            .call(plugin)
            .attachment(verb, &self.namespace.path());
        call.socket(&self.daemon.socket()).with_config(config)
    }

    /// The daemon does not know the container.
    fn of_others(&self) {
        self.daemon
            .answer(CHECK, 404, json!({"message": "no endpoint of c1"}));
    }

    fn publications(&self) -> Vec<(String, Value)> {
        let asked = self.daemon.asked().into_iter();
        let publications = asked.filter(|(request, _)| request.ends_with("publish"));
        publications
            .map(|(request, body)| {
                let verb = request.rsplit('/').next().unwrap().to_owned();
                (verb, body["spec"].clone())
            })
            .collect()
    }
}

/// As podman sends it.
fn config(plugin: &str) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "net", "type": plugin, "capabilities": {"portMappings": true},
        "prevResult": previous(),
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8081, "containerPort": 81, "protocol": "udp", "hostIP": "127.0.0.1"},
        ], "bandwidth": {"ingressRate": 5_000_000, "ingressBurst": 800_000, "egressRate": 0}},
    })
}

fn previous() -> Value {
    json!({
        "cniVersion": "0.4.0", "dns": {},
        "interfaces": [{"name": "tb-1"}, {"name": "eth0", "mac": "02:42:0a:05:00:02", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.5.0.2/16", "gateway": "10.5.0.1", "interface": 1, "version": "4"}],
    })
}

#[test]
fn ports_are_published_and_the_result_goes_on() {
    let bench = Bench::new();
    assert_eq!(
        bench.call("portmap", "ADD", &config("portmap")).json(),
        previous()
    );
    let expected = ["8080:80/tcp", "127.0.0.1:8081:81/udp"];
    let expected = expected.map(|spec| ("publish".to_owned(), json!(spec)));
    assert_eq!(bench.publications(), expected);
    bench.call("portmap", "DEL", &config("portmap")).silent();
    assert_eq!(
        bench.publications(),
        expected,
        "they go with the container's last interface"
    );
}

/// What `bridge` answers is what comes to `portmap` and `firewall` as the previous result, in every version.
#[test]
fn a_chain_of_stock_names_in_every_version() {
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let bench = Bench::new();
        let mut config = config("bridge");
        config["cniVersion"] = version.into();
        let ports = std::mem::take(&mut config["runtimeConfig"]);
        config.as_object_mut().unwrap().remove("prevResult");
        let result = bench.call("bridge", "ADD", &config).json();
        assert_eq!(result["cniVersion"], version);
        config["prevResult"] = result.clone();
        for plugin in CHAINED {
            config["type"] = plugin.into();
            config["runtimeConfig"] = ports.clone();
            assert_eq!(
                bench.call(plugin, "ADD", &config).json(),
                result,
                "{plugin} {version}"
            );
        }
        assert_eq!(bench.publications().len(), 2, "{version}");
        assert!(bench.daemon.requests().contains(&LIMIT.to_owned()));
        for plugin in ["firewall", "bandwidth", "portmap", "bridge"] {
            config["type"] = plugin.into();
            bench.call(plugin, "DEL", &config).silent();
            for (verb, least) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
                // Nothing to look for but the attachment.
                config["runtimeConfig"] = Value::Null;
                let answer = bench.call(plugin, verb, &config);
                if version < least {
                    let words = format!("config version does not allow {verb}");
                    answer.expect_error(1, &[&words]);
                } else {
                    answer.silent();
                }
                config["runtimeConfig"] = ports.clone();
            }
        }
    }
}

#[test]
fn of_several_ports_all_or_none_are_published() {
    let bench = Bench::new();
    let target = format!("POST /tunbridge/containers/{}/publish", "c".repeat(64));
    let mut config = config("portmap");
    bench.daemon.answer(
        &target,
        409,
        json!({"message": "port is already allocated"}),
    );
    bench
        .call("portmap", "ADD", &config)
        .expect_error(100, &["port is already allocated"]);
    assert_eq!(bench.publications().len(), 1);
    config["runtimeConfig"] = json!({});
    assert_eq!(bench.call("portmap", "ADD", &config).json(), previous());
}

#[test]
fn bad_ports_are_refused_by_their_place_and_hinder_no_deletion() {
    let bench = Bench::new();
    let mapping = |key: &str, value: Value| {
        let mut mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        mapping[key] = value;
        json!([mapping])
    };
    for (ports, code, words) in [
        (
            json!("8080:80"),
            7,
            "runtimeConfig.portMappings \"8080:80\"",
        ),
        (json!([8080]), 7, "runtimeConfig.portMappings[0] 8080"),
        (
            json!([{"hostPort": 8080}]),
            7,
            "a mapping needs \"containerPort\"",
        ),
        (
            mapping("hostPort", json!(99999)),
            7,
            "portMappings[0].hostPort 99999",
        ),
        (
            mapping("containerPort", json!(0)),
            7,
            "portMappings[0].containerPort 0",
        ),
        (
            mapping("hostIP", json!("x")),
            7,
            "portMappings[0].hostIP \"x\"",
        ),
        (
            mapping("protocol", json!("sctp")),
            2,
            "portMappings[0].protocol with value \"sctp\"",
        ),
    ] {
        for plugin in ["bridge", "portmap", "bandwidth", "firewall"] {
            let mut config = config(plugin);
            config["runtimeConfig"]["portMappings"] = ports.clone();
            if plugin == "firewall" {
                // They are none of its business.
                assert_eq!(bench.call(plugin, "ADD", &config).json(), previous());
            } else {
                bench
                    .call(plugin, "ADD", &config)
                    .expect_error(code, &[words]);
            }
            bench.call(plugin, "DEL", &config).silent();
        }
        let mut config = config("portmap");
        config["runtimeConfig"]["portMappings"] = ports;
        bench
            .call("portmap", "CHECK", &config)
            .expect_error(code, &[words]);
    }
    assert_eq!(bench.publications(), []);
    assert!(
        !bench
            .daemon
            .requests()
            .contains(&"POST /tunbridge/endpoints".to_owned())
    );
}

#[test]
fn the_firewall_lets_ours_through() {
    let bench = Bench::new();
    let next = bench.plugins.script("firewall", "echo next >&2; exit 1");
    assert!(next.exists());
    let mut config = config("firewall");
    config["runtimeConfig"] = json!({});
    assert_eq!(bench.call("firewall", "ADD", &config).json(), previous());
    bench.call("firewall", "CHECK", &config).silent();
    bench.call("firewall", "DEL", &config).silent();
}

#[test]
fn attachments_of_others_are_left_to_the_next_plugin_of_the_name() {
    let bench = Bench::new();
    bench.of_others();
    for plugin in CHAINED {
        let config = config(plugin);
        let answer = bench.call(plugin, "ADD", &config);
        answer.expect_error(4, &[&format!("failed to find plugin {plugin:?} in path [")]);
        bench.call(plugin, "DEL", &config).silent();
        bench.plugins.script(
            plugin,
            &format!("echo \"{{\\\"{plugin}\\\":\\\"$CNI_COMMAND\\\"}}\""),
        );
        let answer = bench.call(plugin, "ADD", &config);
        assert_eq!(answer.json(), json!({ plugin: "ADD" }));
        bench.plugins.script(plugin, "exit 1");
        bench
            .call(plugin, "DEL", &config)
            .expect_error(102, &[plugin]);
    }
    assert_eq!(bench.publications(), []);
    assert!(!bench.daemon.requests().contains(&LIMIT.to_owned()));
}

#[test]
fn limits_are_set_and_the_result_goes_on() {
    let bench = Bench::new();
    let mut config = config("bandwidth");
    assert_eq!(bench.call("bandwidth", "ADD", &config).json(), previous());
    let asked = bench.daemon.body(LIMIT);
    let expected = json!({"ingress": {"rate": 5_000_000, "burst": 800_000}});
    assert_eq!(asked["bandwidth"], expected);
    let expected = json!({
        "runtime": "cni", "container": "c1", "owner": "net", "network": null, "interface": "eth0",
    });
    assert_eq!(asked["endpoint"], expected);
    bench.call("bandwidth", "DEL", &config).silent();
    // What stands in the configuration goes before.
    config["egressRate"] = 8_000_000.into();
    config["egressBurst"] = 900_000.into();
    bench.call("bandwidth", "ADD", &config).json();
    let expected = json!({"egress": {"rate": 8_000_000, "burst": 900_000}});
    assert_eq!(bench.daemon.body(LIMIT)["bandwidth"], expected);
    let text = "invalid bandwidth.egress.burst 8";
    bench.daemon.answer(LIMIT, 400, json!({ "message": text }));
    bench
        .call("bandwidth", "ADD", &config)
        .expect_error(7, &[text]);
    config["egressBurst"] = 0.into();
    bench.call("bandwidth", "ADD", &config).expect_error(
        7,
        &["invalid egressRate 8000000", "egressBurst must be, too"],
    );
}

#[test]
fn without_limits_nobody_is_asked() {
    let bench = Bench::new();
    let mut config = config("bandwidth");
    for limits in [
        json!({}),
        json!({"bandwidth": {"ingressRate": 0, "ingressBurst": 0}}),
    ] {
        config["runtimeConfig"] = limits;
        assert_eq!(bench.call("bandwidth", "ADD", &config).json(), previous());
        bench.call("bandwidth", "CHECK", &config).silent();
        bench.call("bandwidth", "DEL", &config).silent();
    }
    assert!(bench.daemon.asked().is_empty());
    config["cniVersion"] = "1.1.0".into();
    bench.call("bandwidth", "STATUS", &config).silent();
}

#[test]
fn a_check_compares_the_limits() {
    let bench = Bench::new();
    for plugin in ["bandwidth", "tunbridge"] {
        let mut config = config(plugin);
        config["runtimeConfig"]["portMappings"] = json!([]);
        bench.daemon.answer(CHECK, 200, attached());
        bench.call(plugin, "CHECK", &config).expect_error(
            101,
            &["ingress bandwidth is not 5000000 bit/s", "but unlimited"],
        );
        let mut limited = attached();
        limited["bandwidth"] = json!({"ingress": {"rate": 5_000_000, "burst": 800_000}});
        bench.daemon.answer(CHECK, 200, limited);
        bench.call(plugin, "CHECK", &config).silent();
    }
}

#[test]
fn the_next_plugin_of_the_name_collects_its_own() {
    let bench = Bench::new();
    for plugin in CHAINED {
        let mut config = config(plugin);
        config["cniVersion"] = "1.1.0".into();
        bench.call(plugin, "GC", &config).silent();
        let called = bench.plugins.path().join(plugin.to_owned() + ".called");
        let line = format!("echo $CNI_COMMAND > {}", called.display());
        bench.plugins.script(plugin, &line);
        bench.call(plugin, "GC", &config).silent();
        assert_eq!(std::fs::read_to_string(&called).unwrap(), "GC\n");
        bench.plugins.script(plugin, "exit 1");
        bench
            .call(plugin, "GC", &config)
            .expect_error(102, &[plugin]);
    }
}

#[test]
fn a_chain_begins_with_another_plugin() {
    let bench = Bench::new();
    for plugin in CHAINED {
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin});
        let words = [
            plugin,
            "must be called as chained plugin",
            "prevResult missing",
        ];
        bench.call(plugin, "ADD", &config).expect_error(7, &words);
    }
}

#[test]
fn a_check_looks_for_the_ports() {
    let bench = Bench::new();
    let target = format!("GET /containers/{}/json", "c".repeat(64));
    let ports = |ports: Value| {
        bench
            .daemon
            .answer(&target, 200, json!({"NetworkSettings": {"Ports": ports}}))
    };
    let bound = |port: &str| json!([{"HostIp": "0.0.0.0", "HostPort": port}]);
    ports(json!({"80/tcp": bound("8080"), "81/udp": bound("8081")}));
    bench.call("portmap", "CHECK", &config("portmap")).silent();
    ports(json!({"80/tcp": bound("8080"), "81/udp": null}));
    bench
        .call("portmap", "CHECK", &config("portmap"))
        .expect_error(101, &["127.0.0.1:8081:81/udp"]);
}
