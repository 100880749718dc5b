//! What is wrong is refused before anything is done: with the specification's number, and a text that names it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::plugin::{Answer, Namespace, Plugins};
use super::recorder::Recorder;

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

    /// An `ADD` with some variables changed.
    fn add(&self, variables: &[(&str, &str)], input: impl AsRef<[u8]>) -> Answer {
        let call = self.plugins.call("tunbridge");
        let mut call = call
            .attachment("ADD", &self.namespace.path())
            .socket(&self.daemon.socket());
        for (name, value) in variables {
            call = call.set(name, value);
        }
        let answer = call.with(input);
        assert!(answer.stderr.is_empty(), "{answer:?}");
        answer
    }

    /// An `ADD` with some keys changed.
    fn configured(&self, keys: Value) -> Answer {
        let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": "tunbridge"});
        config
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        self.add(&[], config.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(
                self.daemon.requests(),
                [""; 0],
                "nothing was asked of the daemon"
            );
        }
    }
}

const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"net","type":"tunbridge"}"#;

#[test]
fn variables() {
    let bench = Bench::new();
    for (name, value, words) in [
        ("CNI_COMMAND", "FOO", &["unknown CNI_COMMAND: FOO"][..]),
        (
            "CNI_CONTAINERID",
            "../x",
            &["invalid characters in containerID: ../x"],
        ),
        (
            "CNI_CONTAINERID",
            "a/b",
            &["invalid characters in containerID: a/b"],
        ),
        (
            "CNI_CONTAINERID",
            "a b;c",
            &["invalid characters in containerID"],
        ),
        (
            "CNI_IFNAME",
            "waytoolonginterfacename",
            &["interface name is too long", "less than 16 characters"],
        ),
        (
            "CNI_IFNAME",
            "../x",
            &["interface name contains / or : or whitespace characters"],
        ),
        ("CNI_IFNAME", "..", &["interface name is . or .."]),
        (
            "CNI_IFNAME",
            "eth%d",
            &["invalid interface name \"eth%d\" in CNI_IFNAME"],
        ),
        (
            "CNI_IFNAME",
            "lo",
            &["invalid interface name \"lo\" in CNI_IFNAME"],
        ),
        (
            "CNI_NETNS",
            "/run/netns/../../etc/passwd",
            &["CNI_NETNS", "without .."],
        ),
        ("CNI_NETNS", "netns", &["CNI_NETNS", "absolute"]),
        (
            "CNI_NETNS",
            "/run/netns/nonexistent",
            &["CNI_NETNS", "No such file or directory"],
        ),
        (
            "CNI_NETNS",
            "/etc/passwd",
            &["CNI_NETNS", "not a network namespace"],
        ),
        (
            "CNI_NETNS",
            "/proc/self/ns/mnt",
            &["CNI_NETNS", "not a network namespace"],
        ),
        (
            "CNI_NETNS",
            "/proc/self/ns/net",
            &["CNI_NETNS", "host's own network namespace"],
        ),
        (
            "CNI_ARGS",
            "FOO=BAR",
            &["ARGS: unknown args [\"FOO=BAR\"]", "IgnoreUnknown=1"],
        ),
        ("CNI_ARGS", "IP=10.0.0", &["CNI_ARGS: invalid IP=10.0.0"]),
        (
            "CNI_ARGS",
            "K8S_POD_NAME=../../x",
            &["CNI_ARGS: invalid K8S_POD_NAME=../../x"],
        ),
    ] {
        bench.add(&[(name, value)], GOOD).expect_error(4, words);
    }
    let missing = [
        ("CNI_CONTAINERID", ""),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
    ];
    let text = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing";
    bench.add(&missing, GOOD).expect_error(4, &[text]);
    let plugins = Plugins::new();
    for verb in ["GC", "STATUS"] {
        let call = plugins
            .call("tunbridge")
            .unset("CNI_PATH")
            .set("CNI_COMMAND", verb);
        call.with(GOOD).expect_error(4, &["[CNI_PATH] missing"]);
    }
}

#[test]
fn standard_input() {
    let bench = Bench::new();
    let deep = "[".repeat(1 << 20);
    for (input, code, words) in [
        (
            "not json",
            6,
            &[
                "cannot decode the network configuration on standard input",
                "line 1 column",
            ][..],
        ),
        ("", 6, &["it is empty"]),
        ("[1]", 6, &["it is not a JSON object"]),
        ("{\"name\":\"\\ud800\"}", 6, &["cannot decode"]),
        (deep.as_str(), 6, &["recursion limit exceeded"]),
        (
            r#"{"cniVersion":1.0}"#,
            6,
            &["invalid cniVersion 1.0: must be a text"],
        ),
        (
            r#"{"cniVersion":"7.0.0","name":"x"}"#,
            1,
            &[
                "incompatible CNI versions",
                "config is \"7.0.0\", plugin supports [0.1.0 ",
            ],
        ),
        (r#"{"cniVersion":"1.0.0"}"#, 7, &["missing network name"]),
        (
            r#"{"cniVersion":"1.0.0","name":5}"#,
            7,
            &["invalid name 5: must be a text"],
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"bad name"}"#,
            7,
            &["invalid characters found in network name: bad name"],
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"../x"}"#,
            7,
            &["invalid characters found in network name: ../x"],
        ),
    ] {
        bench.add(&[], input).expect_error(code, words);
    }
    bench
        .add(&[], b"{\"name\":\"\xff\"}")
        .expect_error(6, &["cannot decode"]);
}

#[test]
fn standard_input_of_every_verb_under_every_name() {
    let (plugins, daemon, namespace) = (Plugins::new(), Recorder::start(), Namespace::new());
    for name in ["tunbridge", "bridge", "portmap", "bandwidth", "firewall"] {
        for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            for (input, version, code, words) in [
                (
                    "not json",
                    "1.1.0",
                    6,
                    "cannot decode the network configuration",
                ),
                (r#"["1.1.0"]"#, "1.1.0", 6, "it is not a JSON object"),
                (
                    r#"{"cniVersion":"7.0.0","name":"x"}"#,
                    "1.1.0",
                    1,
                    "incompatible CNI versions",
                ),
                (
                    r#"{"cniVersion":"1.1.0"}"#,
                    "1.1.0",
                    7,
                    "missing network name",
                ),
                (
                    r#"{"cniVersion":"1.1.0","name":"../x"}"#,
                    "1.1.0",
                    7,
                    "in network name: ../x",
                ),
            ] {
                let call = plugins.call(name).attachment(verb, &namespace.path());
                let answer = call.socket(&daemon.socket()).with(input);
                answer.expect_error(code, &[words]);
                assert_eq!(answer.error().0, version, "{name} {verb} {input}");
            }
        }
    }
    assert_eq!(daemon.requests(), [""; 0]);
}

#[test]
fn ten_megabytes_are_not_read() {
    let bench = Bench::new();
    let begun = Instant::now();
    let endless = format!(
        "{{\"cniVersion\":\"1.0.0\",\"name\":\"{}\"}}",
        "x".repeat(10 << 20)
    );
    bench
        .add(&[], &endless)
        .expect_error(6, &["it is longer than 4194304 octets"]);
    // Blank ones, too.
    bench
        .add(&[], " ".repeat(10 << 20))
        .expect_error(6, &["it is longer than"]);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn configurations() {
    let bench = Bench::new();
    for (keys, code, words) in [
        (
            json!({"subnet": "10.77.0.0/33"}),
            7,
            &["invalid subnet \"10.77.0.0/33\": give a CIDR block"][..],
        ),
        (
            json!({"subnet": "10.77.0.5/24"}),
            7,
            &["invalid subnet \"10.77.0.5/24\": it has host bits: give 10.77.0.0/24"],
        ),
        (
            json!({"ipam": {"subnet": "x"}}),
            7,
            &["invalid ipam.subnet \"x\": give a CIDR block"],
        ),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}]]}}),
            7,
            &[
                "invalid ipam.ranges[0][0].rangeStart \"10.2.0.1\": it is not in the subnet 10.1.0.0/24",
            ],
        ),
        (
            json!({"ipam": {"routes": [{"dst": "10.0.0.0/40"}]}}),
            7,
            &["invalid ipam.routes[0].dst \"10.0.0.0/40\""],
        ),
        (
            json!({"ipam": {"type": "../../../bin/sh"}}),
            7,
            &["invalid ipam.type \"../../../bin/sh\""],
        ),
        (
            json!({"ipam": {"type": "nonexistent"}}),
            4,
            &[
                "failed to find plugin \"nonexistent\" in path [",
                "CNI_PATH",
            ],
        ),
        (
            json!({"ipam": "x"}),
            7,
            &["invalid ipam \"x\": must be an object"],
        ),
        (
            json!({"network": "../bridge"}),
            7,
            &["invalid characters found in key \"network\": ../bridge"],
        ),
        (
            json!({"socket": "../x"}),
            7,
            &["invalid socket \"../x\": give an absolute path"],
        ),
        (
            json!({"vlan": 100}),
            2,
            &["unsupported field vlan with value 100"],
        ),
        (
            json!({"mtu": "big"}),
            7,
            &["invalid mtu \"big\": must be a number"],
        ),
        (
            json!({"runtimeConfig": {"gpu": [1]}}),
            2,
            &[
                "unsupported field runtimeConfig.gpu with value [1]",
                "capabilities",
            ],
        ),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 5}}}),
            7,
            &[
                "invalid runtimeConfig.bandwidth.ingressRate 5: if a rate is set, ingressBurst must be",
            ],
        ),
        (
            json!({"runtimeConfig": {"ips": ["10.0.0.1/99"]}}),
            7,
            &["invalid runtimeConfig.ips[0] \"10.0.0.1/99\""],
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 99999, "containerPort": 1}]}}),
            7,
            &["runtimeConfig.portMappings[0].hostPort 99999"],
        ),
        (
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/33"}]]}}),
            7,
            &["invalid runtimeConfig.ipRanges[0][0].subnet \"10.0.0.0/33\""],
        ),
        (
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.9"}]]}}),
            7,
            &["invalid runtimeConfig.ipRanges[0][0].rangeEnd \"10.0.1.9\""],
        ),
        (
            json!({"runtimeConfig": {"ipRanges": {"subnet": "10.0.0.0/24"}}}),
            7,
            &["invalid runtimeConfig.ipRanges {"],
        ),
        (
            json!({"dns": {"nameservers": ["dns.example"]}}),
            7,
            &["invalid name server \"dns.example\" in dns"],
        ),
        (
            json!({"prevResult": {"ips": [{"address": "x"}]}}),
            7,
            &["invalid prevResult.ips[0].address \"x\""],
        ),
    ] {
        bench.configured(keys).expect_error(code, words);
    }
}

#[test]
fn an_interface_that_is_there() {
    let bench = Bench::new();
    let taken = Namespace::with("ip link add eth0 type bridge;");
    let answer = bench.add(&[("CNI_NETNS", &taken.path())], GOOD);
    answer.expect_error(4, &["CNI_IFNAME", "(eth0) already exists"]);
    assert!(taken.interfaces().contains("eth0"));
}
