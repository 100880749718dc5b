//! Addresses from other IPAM plugins.

use std::fs;

use serde_json::{Value, json};

use super::plugin::{Answer, Namespace, Plugins};
use super::recorder::Recorder;

struct Bench {
    plugins: Plugins,
    daemon: Recorder,
    namespace: Namespace,
}

impl Bench {
    /// `add` is what the IPAM plugin does for `ADD`; it notes every verb.
    fn new(add: &str) -> Self {
        let plugins = Plugins::new();
        let log = plugins.path().join("log");
        let script = format!(
            "cat >/dev/null; echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME\" >> {}; case $CNI_COMMAND in ADD) {add};; esac",
            log.display()
        );
        plugins.script("pool", &script);
        Self {
            plugins,
            daemon: Recorder::start(),
            namespace: Namespace::new(),
        }
    }

    fn call(&self, verb: &str, version: &str, previous: Option<&Value>) -> Answer {
        let mut config = json!({"cniVersion": version, "name": "net", "ipam": {"type": "pool"}});
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let call = self
            .plugins
            .call("tunbridge")
            .attachment(verb, &self.namespace.path());
        call.socket(&self.daemon.socket()).with_config(&config)
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.plugins.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

const ADDRESSES: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.5.0.2/16","gateway":"10.5.0.1"},{"address":"fd05::2/64"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.5.0.53"]}}'"#;

#[test]
fn its_addresses_are_asked_of_the_daemon() {
    let bench = Bench::new(ADDRESSES);
    let result = bench.call("ADD", "1.1.0", None).json();
    let asked = bench.daemon.body("POST /tunbridge/endpoints");
    let addresses = json!({"IPv4Address": "10.5.0.2", "IPv6Address": "fd05::2"});
    assert_eq!(asked["settings"]["IPAMConfig"], addresses);
    let pools = json!([{"Subnet": "10.5.0.0/16", "Gateway": "10.5.0.1"}, {"Subnet": "fd05::/64"}]);
    assert_eq!(asked["create_network"]["IPAM"]["Config"], pools);
    assert_eq!(asked["dns"], json!(["10.5.0.53"]));
    for verb in ["CHECK", "STATUS", "GC", "DEL"] {
        bench.call(verb, "1.1.0", Some(&result)).silent();
    }
    let calls: Vec<String> = bench
        .log()
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(calls, ["ADD", "CHECK", "STATUS", "GC", "DEL"]);
    assert_eq!(bench.log()[0], "ADD c1 eth0");
}

#[test]
fn it_is_asked_to_delete_after_a_failure_of_ours() {
    let bench = Bench::new(ADDRESSES);
    let answer = json!({"message": "no"});
    bench
        .daemon
        .answer("POST /tunbridge/endpoints", 409, answer);
    bench.call("ADD", "1.0.0", None).expect_error(100, &["no"]);
    assert_eq!(bench.log(), ["ADD c1 eth0", "DEL c1 eth0"]);
}

#[test]
fn its_own_failure_is_told_in_its_words() {
    let bench = Bench::new(r#"echo '{"code":42,"msg":"full","details":"10.5.0.0/16"}'; exit 1"#);
    bench
        .call("ADD", "1.0.0", None)
        .expect_error(42, &["plugin pool: full: 10.5.0.0/16"]);
    assert_eq!(bench.log(), ["ADD c1 eth0", "DEL c1 eth0"]);
    assert_eq!(bench.daemon.requests(), [""; 0]);
    let bench = Bench::new("echo nonsense");
    bench
        .call("ADD", "1.0.0", None)
        .expect_error(6, &["cannot decode the result of IPAM plugin pool"]);
}

#[test]
fn it_releases_only_what_nobody_has_any_more() {
    let bench = Bench::new(ADDRESSES);
    bench.daemon.answer(
        "POST /tunbridge/endpoints/detach",
        500,
        json!({"message": "stuck"}),
    );
    let answer = bench.call("DEL", "1.0.0", None);
    answer.expect_error(100, &["stuck"]);
    assert_eq!(bench.log(), [""; 0]);
}

/// The runtime must know that an address stays taken; the interface goes nevertheless.
#[test]
fn without_it_deletion_fails_only_after_the_interface_is_gone() {
    let bench = Bench::new(ADDRESSES);
    let result = bench.call("ADD", "1.0.0", None).json();
    let script = bench.plugins.path().join("scripts/pool");
    let elsewhere = bench.plugins.path().join("pool.kept");
    fs::rename(&script, &elsewhere).unwrap();
    for _ in 0..2 {
        let answer = bench.call("DEL", "1.0.0", Some(&result));
        answer.expect_error(4, &["failed to find plugin \"pool\"", "CNI_PATH"]);
        let requests = bench.daemon.requests();
        assert_eq!(requests.last().unwrap(), "POST /tunbridge/endpoints/detach");
    }
    fs::rename(&elsewhere, &script).unwrap();
    bench.call("DEL", "1.0.0", Some(&result)).silent();
    assert_eq!(bench.log(), ["ADD c1 eth0", "DEL c1 eth0"]);
}
