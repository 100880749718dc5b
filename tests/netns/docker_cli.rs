//! The unmodified `docker` command line (Debian's docker.io, 20.10), pointed at tunbridge's socket.
//!
//! Expected texts are those that a real engine gave to the same commands, with ids and times replaced; where
//! tunbridge says something else on purpose, `docs/parity.md` says why.

use crate::lab::{Lab, Outcome};

/// `docker WORDS…` against tunbridge's socket.
fn docker(lab: &Lab, words: &[&str]) -> Outcome {
    let client = [
        "env",
        "DOCKER_HOST=unix:///run/tunbridge/tunbridge.sock",
        "docker",
    ];
    lab.host().run(&[&client, words].concat())
}

/// What it prints if all is well.
#[track_caller]
fn said(lab: &Lab, words: &[&str]) -> String {
    docker(lab, words).expect_success().stdout
}

/// What it complains of.
#[track_caller]
fn refused(lab: &Lab, words: &[&str]) -> String {
    docker(lab, words).expect_failure().stderr
}

/// Ids of 64 digits and times are another every time.
fn without_chance(text: &str) -> String {
    let id = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut out = String::new();
    for piece in text.split_inclusive('"') {
        let bare = piece.trim_end_matches('"');
        let time = bare.len() > 20 && bare.starts_with("20") && bare.ends_with('Z');
        if id(bare) {
            out.push_str("ID\"");
        } else if time {
            out.push_str("TIME\"");
        } else {
            out.push_str(piece);
        }
    }
    out
}

#[test]
fn networks_are_created_and_inspected() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let id = said(&lab, &["network", "create", "net1"]);
    assert_eq!(id.trim().len(), 64, "{id}");
    assert_eq!(
        without_chance(&said(&lab, &["network", "inspect", "net1"])),
        r#"[
    {
        "Name": "net1",
        "Id": "ID",
        "Created": "TIME",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": "172.18.0.0/16",
                    "Gateway": "172.18.0.1"
                }
            ]
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {
            "Network": ""
        },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {}
    }
]
"#
    );
    let create = "network create --subnet 10.5.0.0/16 --ip-range 10.5.7.0/24 --gateway 10.5.0.254 \
                  --aux-address printer=10.5.7.1 --opt com.docker.network.bridge.name=brfive \
                  --opt com.docker.network.driver.mtu=1420 --label a=b net5";
    said(&lab, &create.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        without_chance(&said(&lab, &["network", "inspect", "net5"])),
        r#"[
    {
        "Name": "net5",
        "Id": "ID",
        "Created": "TIME",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": "10.5.0.0/16",
                    "IPRange": "10.5.7.0/24",
                    "Gateway": "10.5.0.254",
                    "AuxiliaryAddresses": {
                        "printer": "10.5.7.1"
                    }
                }
            ]
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {
            "Network": ""
        },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {
            "com.docker.network.bridge.name": "brfive",
            "com.docker.network.driver.mtu": "1420"
        },
        "Labels": {
            "a": "b"
        }
    }
]
"#
    );
    let bridge = lab
        .host()
        .shell("ip -o link show brfive; ip -o -4 address show brfive");
    assert!(bridge.stdout.contains("mtu 1420"), "{}", bridge.output());
    assert!(
        bridge.stdout.contains("10.5.0.254/16"),
        "{}",
        bridge.output()
    );
}

#[test]
fn networks_are_listed_removed_and_pruned() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for words in [
        &["network", "create", "--internal", "isol"][..],
        &["network", "create", "used"],
        &["network", "create", "gone"],
        &["network", "create", "--label", "keep=yes", "labelled"],
    ] {
        said(&lab, words);
    }
    tunbridge.container_with("cc", &["--network", "used"]);
    let format = "{{.Name}} {{.Driver}} {{.Scope}} internal={{.Internal}} ipv6={{.IPv6}}";
    assert_eq!(
        said(&lab, &["network", "ls", "--format", format]),
        "bridge bridge local internal=false ipv6=false
gone bridge local internal=false ipv6=false
host host local internal=false ipv6=false
isol bridge local internal=true ipv6=false
labelled bridge local internal=false ipv6=false
none null local internal=false ipv6=false
used bridge local internal=false ipv6=false
"
    );
    assert_eq!(said(&lab, &["network", "rm", "gone"]), "gone\n");
    assert_eq!(
        said(
            &lab,
            &["network", "ls", "-q", "--no-trunc", "--filter", "name=isol"]
        )
        .trim()
        .len(),
        64
    );
    assert_eq!(
        said(&lab, &["network", "prune", "-f", "--filter", "label!=keep"]),
        "Deleted Networks:\nisol\n\n"
    );
    assert_eq!(
        said(
            &lab,
            &[
                "network",
                "ls",
                "--filter",
                "type=custom",
                "--format",
                "{{.Name}}"
            ]
        ),
        "labelled\nused\n"
    );
}

#[test]
fn containers_are_connected_and_disconnected() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    said(&lab, &["network", "create", "net1"]);
    said(
        &lab,
        &["network", "create", "--subnet", "10.5.0.0/16", "net5"],
    );
    let options = [
        "--network",
        "net1",
        "--network-alias",
        "svc",
        "--network-alias",
        "a2",
    ];
    let alpha = tunbridge.container_with("alpha", &options);
    tunbridge.server("foxtrot", &["--network", "net5"]);
    said(
        &lab,
        &[
            "network",
            "connect",
            "--alias",
            "extra",
            "--ip",
            "10.5.9.77",
            "net5",
            "alpha",
        ],
    );
    let addresses = alpha.shell("ip -o -4 address | awk '{print $2,$4}'; ip route");
    assert_eq!(
        addresses.stdout,
        "lo 127.0.0.1/8
eth0 172.18.0.2/16
eth1 10.5.9.77/16
default via 172.18.0.1 dev eth0 
10.5.0.0/16 dev eth1 proto kernel scope link src 10.5.9.77 
172.18.0.0/16 dev eth0 proto kernel scope link src 172.18.0.2 
"
    );
    let networks: serde_json::Value = serde_json::from_str(&said(
        &lab,
        &[
            "inspect",
            "alpha",
            "--format",
            "{{json .NetworkSettings.Networks}}",
        ],
    ))
    .unwrap();
    let keys: Vec<&String> = networks["net5"].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "IPAMConfig",
            "Links",
            "Aliases",
            "NetworkID",
            "EndpointID",
            "Gateway",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "MacAddress",
            "DriverOpts"
        ]
    );
    assert_eq!(networks["net5"]["IPAMConfig"]["IPv4Address"], "10.5.9.77");
    assert_eq!(networks["net5"]["Aliases"][0], "extra");
    assert_eq!(networks["net5"]["MacAddress"], "02:42:0a:05:09:4d");
    assert_eq!(networks["net1"]["Aliases"][0], "svc");
    assert_eq!(networks["net1"]["Aliases"][1], "a2");
    alpha.tcp("10.5.0.2:80").unwrap();
    said(&lab, &["network", "disconnect", "net1", "alpha"]);
    assert_eq!(
        alpha.shell("ip route").stdout,
        "default via 10.5.0.1 dev eth1 
10.5.0.0/16 dev eth1 proto kernel scope link src 10.5.9.77 
"
    );
}

#[test]
fn containers_are_listed_and_inspected() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with(
        "web",
        &["-p", "8080:80", "-p", "8443:443/udp", "--expose", "9"],
    );
    assert_eq!(
        said(
            &lab,
            &[
                "ps",
                "--format",
                "{{.Names}} {{.Ports}} {{.Networks}} {{.State}}"
            ]
        ),
        "web 9/tcp, 0.0.0.0:8080->80/tcp, 0.0.0.0:8443->443/udp bridge running\n"
    );
    assert_eq!(
        said(&lab, &["port", "web"]),
        "80/tcp -> 0.0.0.0:8080\n443/udp -> 0.0.0.0:8443\n"
    );
    assert_eq!(said(&lab, &["port", "web", "80"]), "0.0.0.0:8080\n");
    let inspected = said(
        &lab,
        &[
            "inspect",
            "-f",
            "{{.Name}} {{.NetworkSettings.IPAddress}} {{.State.Status}}",
            "web",
        ],
    );
    assert_eq!(inspected, "/web 172.17.0.2 running\n");
    let table = said(&lab, &["ps"]);
    assert!(table.starts_with("CONTAINER ID"), "{table}");
    said(&lab, &["stop", "-t", "0", "web"]);
    assert_eq!(said(&lab, &["ps", "-q"]), "");
    assert_eq!(
        said(
            &lab,
            &[
                "ps",
                "-a",
                "--filter",
                "status=exited",
                "--format",
                "{{.Names}}"
            ]
        ),
        "web\n"
    );
    assert_eq!(said(&lab, &["rm", "web"]), "web\n");
}

#[test]
fn version_and_info_are_complete() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let version = said(&lab, &["version"]);
    assert!(version.contains("Server: tunbridge"), "{version}");
    assert!(!version.contains("<no value>"), "{version}");
    let info = docker(&lab, &["info"]).expect_success();
    assert!(info.stdout.contains("Server Version: "), "{}", info.stdout);
    assert!(
        !info.stderr.contains("ERROR") && !info.output().contains("<no value>"),
        "{}",
        info.output()
    );
}

#[test]
fn events_tell_of_networks() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    said(&lab, &["network", "create", "net1"]);
    tunbridge.container("c1");
    said(&lab, &["network", "connect", "net1", "c1"]);
    said(&lab, &["network", "disconnect", "net1", "c1"]);
    said(&lab, &["network", "rm", "net1"]);
    let words = [
        "events",
        "--since",
        "1m",
        "--until",
        "0s",
        "--filter",
        "type=network",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}",
    ];
    let told = said(&lab, &words);
    assert_eq!(
        told,
        "create net1 bridge
connect bridge bridge
connect net1 bridge
disconnect net1 bridge
destroy net1 bridge
"
    );
}

#[test]
fn mistakes_are_refused_with_dockers_words() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    said(&lab, &["network", "create", "net1"]);
    said(
        &lab,
        &["network", "create", "--subnet", "10.5.0.0/16", "net5"],
    );
    tunbridge.container_with("alpha", &["--network", "net1"]);
    let before = lab.snapshot();
    let create = |words: &str| -> Vec<String> {
        format!("network create {words}")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let cases: Vec<(Vec<String>, &str)> = vec![
        (create("net1"), "network with name net1 already exists"),
        (
            create("--subnet 10.5.3.0/24 overlap"),
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        (create("--subnet 10.5.0.0/33 bad"), "10.5.0.0/33"),
        (
            create("--subnet 10.9.0.5/24 bad"),
            "invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
        ),
        (
            create("--subnet 10.9.0.0/24 --gateway 10.8.0.1 bad"),
            "no matching subnet for gateway 10.8.0.1",
        ),
        (
            create("--gateway 10.9.0.1 bad"),
            "every ip-range or gateway must have a corresponding subnet",
        ),
        (create("--subnet 198.51.100.0/24 bad"), "198.51.100.0/24"),
        (
            create("--opt com.docker.network.bridge.name=averyveryverylongname x"),
            "averyveryverylongname",
        ),
        (
            create("--opt com.docker.network.driver.mtu=abc x"),
            "failed to parse com.docker.network.driver.mtu value: abc",
        ),
        (
            create("--opt com.docker.network.bridge.gateway_mode_ipv4=isolated x"),
            "gateway mode 'isolated' can only be used for an internal network",
        ),
        (
            create("--opt com.docker.network.bridge.gateway_mode_ipv4=odd x"),
            "unknown gateway mode odd",
        ),
        (create("-d overlay x"), "overlay"),
        (
            create("--opt com.docker.network.bridge.name=tb0 x"),
            "networks have same bridge name",
        ),
        (
            create("--subnet 10.6.0.0/16 --subnet 10.7.0.0/16 x"),
            "bridge driver doesn't support multiple subnets",
        ),
    ];
    for (words, text) in &cases {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = refused(&lab, &words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
    for (words, text) in [
        ("network rm nosuch", "No such network: nosuch"),
        ("network inspect nosuch", "No such network: nosuch"),
        (
            "network rm bridge",
            "bridge is a pre-defined network and cannot be removed",
        ),
        ("network rm net1", "has active endpoints"),
        (
            "network connect net1 alpha",
            "endpoint with name alpha already exists in network net1",
        ),
        ("network disconnect net5 alpha", "is not connected to"),
        ("network connect nosuch alpha", "network nosuch not found"),
        ("network connect net5 nobody", "No such container: nobody"),
        ("network connect host alpha", "host network"),
        (
            "network connect none alpha",
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        ("network connect --ip 10.6.0.1 net5 alpha", "10.6.0.1"),
        (
            "network connect --ip 10.5.0.1 net5 alpha",
            "Address already in use",
        ),
        ("run busybox", "tunbridge"),
        ("images", "tunbridge"),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let said = refused(&lab, &words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
    assert_eq!(lab.snapshot(), before, "nothing was half-applied");
}
