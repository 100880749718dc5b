//! `network`: requests, output and errors, as of Docker's client.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::{assert_one_line, cli, code, run, stderr, stdout};

/// Standard output of a command that succeeds silently otherwise.
fn printed(daemon: &FakeDaemon, words: &[&str]) -> String {
    let output = run(daemon, &[&["network"], words].concat());
    assert_eq!(
        (code(&output), stderr(&output)),
        (0, String::new()),
        "{words:?}"
    );
    stdout(&output)
}

/// The one line on standard error of a command that fails.
fn refused(daemon: &FakeDaemon, words: &[&str], naming: &str) {
    let output = run(daemon, &[&["network"], words].concat());
    assert_eq!(
        (code(&output), stdout(&output)),
        (1, String::new()),
        "{words:?}"
    );
    assert_one_line(&output, &[naming]);
}

#[test]
fn create_sends_every_flag_and_prints_the_id() {
    let daemon = FakeDaemon::start();
    let id = "cd".repeat(32) + "\n";
    assert_eq!(printed(&daemon, &["create", "net1"]), id);
    assert_eq!(
        daemon.body("/networks/create"),
        json!({
            "Name": "net1", "CheckDuplicate": false, "Driver": "bridge", "Scope": "", "Internal": false,
            "IPAM": {"Driver": "default", "Config": []}, "Attachable": false, "Ingress": false, "ConfigOnly": false,
            "Options": {}, "Labels": {},
        })
    );
    let words = [
        "network",
        "create",
        "--subnet",
        "10.5.0.0/16,fd00::/64",
        "--gateway",
        "10.5.0.254",
        "--gateway",
        "fd00::1",
        "--ip-range",
        "10.5.7.0/24",
        "--aux-address",
        "a=10.5.0.9",
        "--aux-address",
        "b=fd00::9",
        "--aux-address",
        "DefaultGatewayIPv6=fe80::1",
        "--ipv6",
        "--ipv4=false",
        "--internal",
        "--attachable=true",
        "--label",
        "a=b",
        "--label",
        "c",
        "-o",
        "x=y",
        "--opt",
        "z",
        "-d",
        "other",
        "--ipam-driver",
        "default",
        "--scope",
        "local",
        "net2",
    ];
    let output = run(&daemon, &words);
    assert_eq!((code(&output), stdout(&output)), (0, id));
    assert_one_line(&output, &["warning: beware"]);
    assert_eq!(
        daemon.body("/networks/create"),
        json!({
            "Name": "net2", "CheckDuplicate": false, "Driver": "other", "Scope": "", "EnableIPv4": false,
            "EnableIPv6": true,
            "IPAM": {"Driver": "default", "Config": [
                {
                    "Subnet": "10.5.0.0/16", "IPRange": "10.5.7.0/24", "Gateway": "10.5.0.254",
                    "AuxiliaryAddresses": {"a": "10.5.0.9"},
                },
                {"Subnet": "fd00::/64", "Gateway": "fd00::1", "AuxiliaryAddresses": {
                    "DefaultGatewayIPv6": "fe80::1", "b": "fd00::9",
                }},
            ]},
            "Internal": true, "Attachable": true, "Ingress": false, "ConfigOnly": false,
            "Options": {"x": "y", "z": ""}, "Labels": {"a": "b", "c": ""},
        })
    );
}

#[test]
fn create_checks_what_dockers_client_checks() {
    let daemon = FakeDaemon::start();
    let table: &[(&[&str], &str)] = &[
        (
            &["--gateway", "10.9.0.1"],
            "every ip-range or gateway must have a corresponding subnet",
        ),
        (
            &["--ip-range", "10.9.0.0/24"],
            "every ip-range or gateway must have a corresponding subnet",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--subnet", "10.0.1.0/24"],
            "multiple overlapping subnet configuration is not supported",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--gateway", "10.8.0.1"],
            "no matching subnet for gateway 10.8.0.1",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--gateway", "foo"],
            "no matching subnet for gateway foo",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--ip-range", "11.0.1.0/24"],
            "no matching subnet for range 11.0.1.0/24",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--ip-range", "foo/24"],
            "invalid CIDR address: foo/24",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--aux-address", "a=11.0.0.1"],
            "no matching subnet for aux-address 11.0.0.1",
        ),
        (
            &["--subnet", "fd00::/64", "--aux-address", "a=fe80::1"],
            "no matching subnet for aux-address fe80::1",
        ),
        (
            &["--subnet", "10.0.0.0/16", "--aux-address", "a"],
            "--aux-address a: give NAME=ADDRESS",
        ),
        (
            &["--subnet", "foo", "--gateway", "10.0.0.1"],
            "invalid subnet: invalid CIDR address: foo",
        ),
        (
            &[
                "--subnet",
                "10.0.0.0/16,fd00::/64",
                "--gateway",
                "10.0.0.1,10.0.0.2",
            ],
            "cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/16)",
        ),
        (
            &[
                "--subnet",
                "10.0.0.0/16,fd00::/64",
                "--ip-range",
                "10.0.1.0/24,10.0.2.0/24",
            ],
            "cannot configure multiple ranges (10.0.2.0/24, 10.0.1.0/24) on the same subnet (10.0.0.0/16)",
        ),
        (&["--label", ""], "invalid label '': empty name"),
        (&["--ipam-driver", "x"], "--ipam-driver x: only `default`"),
        (&["--ipam-opt", "a=b"], "--ipam-opt a=b: "),
        (&["--scope", "swarm"], "--scope swarm: "),
        (&["--ingress"], "--ingress: there are no swarms"),
        (&["--config-only"], "--config-only: "),
        (&["--config-from", "x"], "--config-from: "),
    ];
    for (words, naming) in table {
        refused(&daemon, &[&["create"], *words, &["bad"]].concat(), naming);
    }
    assert!(daemon.steps().is_empty(), "{:?}", daemon.steps());
    // What is wrong with a single subnet the daemon says.
    printed(&daemon, &["create", "--subnet", "10.5.0.0/33", "bad"]);
    daemon.refuse("/networks/create");
    refused(&daemon, &["create", "x"], "refused: /networks/create");
}

#[test]
fn ls_lists_as_docker_does() {
    let daemon = FakeDaemon::start();
    let list = |words: &[&str]| printed(&daemon, &[&["ls"], words].concat());
    let table = "NETWORK ID     NAME      DRIVER    SCOPE\nbbbbbbbbbbbb   bridge    bridge    local\n\
                 222222222222   net2      bridge    local\n101010101010   net10     bridge    local\n";
    assert_eq!(list(&[]), table);
    assert_eq!(list(&["--format", "table"]), table);
    assert_eq!(list(&["-q"]), "bbbbbbbbbbbb\n222222222222\n101010101010\n");
    assert_eq!(
        list(&["-q", "--no-trunc"]).lines().next(),
        Some("bb".repeat(32).as_str())
    );
    assert_eq!(
        list(&[
            "-q",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}} internal={{.Internal}} ipv6={{.IPv6}}"
        ]),
        "bridge bridge local internal=false ipv6=false\nnet2 bridge local internal=false ipv6=false\n\
         net10 bridge local internal=true ipv6=false\n"
    );
    assert_eq!(
        list(&[
            "--format",
            "table {{.Name}}\\t{{.Labels}}\\t{{.Label \"x.y-z\"}}\\t{{.CreatedAt}}"
        ])
        .lines()
        .nth(1),
        Some("bridge    b=2,x.y-z=1   1         2026-11-21 07:06:57.147901932 +0000 UTC")
    );
    assert_eq!(
        list(&["--format", "json"]).lines().nth(1),
        Some(
            r#"{"CreatedAt":"2026-11-21 07:06:57.147901932 +0000 UTC","Driver":"bridge","ID":"222222222222","IPv4":"true","IPv6":"false","Internal":"false","Labels":"b=2,x.y-z=1","Name":"net2","Scope":"local"}"#
        )
    );
    assert!(list(&["--json"]).starts_with("[\n  {\n    \"Name\": \"bridge\""));
    list(&["-f", "driver=bridge", "--filter", "label=a=b"]);
    assert_eq!(
        daemon.last_read(),
        "/networks?filters=%7B%22driver%22%3A%7B%22bridge%22%3Atrue%7D%2C%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D"
    );
    refused(
        &daemon,
        &["ls", "-f", "foo"],
        "bad format of filter (expected name=value)",
    );
    refused(
        &daemon,
        &["ls", "--format", "{{.Nmae}}"],
        "can't evaluate field Nmae",
    );
}

#[test]
fn inspect_prints_an_array_and_tells_what_is_not_there() {
    let daemon = FakeDaemon::start();
    let text = printed(&daemon, &["inspect", "net5"]);
    assert!(
        text.starts_with("[\n    {\n        \"Name\": \"net5\",\n"),
        "{text}"
    );
    let template = "{{(index .IPAM.Config 0).Subnet}} {{index .Options \"com.docker.network.bridge.name\"}} {{json .Containers}}";
    assert_eq!(
        printed(&daemon, &["inspect", "-v", "-f", template, "net5"]),
        "10.5.0.0/16 brfive {}\n"
    );
    assert_eq!(daemon.last_read(), "/networks/net5?verbose=true");
    let output = run(
        &daemon,
        &[
            "network",
            "inspect",
            "-f",
            "{{.Name}}",
            "nosuch",
            "net5",
            "other",
        ],
    );
    assert_eq!((code(&output), stdout(&output)), (1, "net5\n".to_owned()));
    assert_eq!(
        stderr(&output),
        "tunbridge: network nosuch not found\ntunbridge: network other not found\n"
    );
    let output = run(&daemon, &["network", "inspect", "nosuch"]);
    assert_eq!((code(&output), stdout(&output)), (1, "[]\n".to_owned()));
}

#[test]
fn rm_goes_on_and_force_does_not_mind() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["network", "rm", "a", "nosuch", "../b"]);
    assert_eq!(
        (code(&output), stdout(&output)),
        (1, "a\n../b\n".to_owned())
    );
    assert_one_line(&output, &["network nosuch not found"]);
    assert_eq!(printed(&daemon, &["rm", "-f", "nosuch", "c"]), "c\n");
    daemon.refuse("/networks/d?force=1");
    refused(&daemon, &["rm", "-f", "d"], "refused: /networks/d?force=1");
    let steps = daemon.steps();
    assert_eq!(steps[2], "DELETE /networks/..%2Fb");
    assert_eq!(steps[3], "DELETE /networks/nosuch?force=1");
}

#[test]
fn prune_asks_first() {
    let daemon = FakeDaemon::start();
    let question = "WARNING! This will remove all custom networks not used by at least one container.\n\
                    Are you sure you want to continue? [y/N] ";
    let deleted = "Deleted Networks:\na\nb\n\n";
    for (answer, expected) in [
        ("n\n", ""),
        ("", ""),
        ("yes\n", ""),
        ("Y\n", deleted),
        ("y", deleted),
    ] {
        let mut child = cli(&daemon, &["network", "prune"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(answer.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (code(&output), stdout(&output)),
            (0, format!("{question}{expected}")),
            "{answer:?}"
        );
    }
    assert_eq!(daemon.steps().len(), 2);
    assert_eq!(printed(&daemon, &["prune", "-f"]), deleted);
    assert_eq!(
        printed(&daemon, &["prune", "--force", "--filter", "until=1h"]),
        ""
    );
    assert_eq!(
        daemon.steps().last().unwrap(),
        "POST /networks/prune?filters=%7B%22until%22%3A%7B%221h%22%3Atrue%7D%7D"
    );
}

#[test]
fn connect_and_disconnect_send_everything_and_print_nothing() {
    let daemon = FakeDaemon::start();
    assert_eq!(printed(&daemon, &["connect", "net5", "web"]), "");
    assert_eq!(
        daemon.body("/networks/net5/connect"),
        json!({"Container": "web", "EndpointConfig": {}})
    );
    let words = [
        "connect",
        "--ip",
        "10.5.9.77",
        "--ip6",
        "fd00::9",
        "--alias",
        "a",
        "--alias",
        "b",
        "--link",
        "c:d",
        "--link",
        "e",
        "--link-local-ip",
        "169.254.1.1",
        "--driver-opt",
        "k=v",
        "--gw-priority",
        "-5",
        "net5",
        "web",
    ];
    assert_eq!(printed(&daemon, &words), "");
    assert_eq!(
        daemon.body("/networks/net5/connect"),
        json!({"Container": "web", "EndpointConfig": {
            "IPAMConfig": {"IPv4Address": "10.5.9.77", "IPv6Address": "fd00::9", "LinkLocalIPs": ["169.254.1.1"]},
            "Links": ["c:d", "e"], "Aliases": ["a", "b"], "DriverOpts": {"k": "v"}, "GwPriority": -5,
        }})
    );
    refused(
        &daemon,
        &["connect", "--driver-opt", "k", "net5", "web"],
        "invalid key/value pair format in driver options",
    );
    assert_eq!(printed(&daemon, &["disconnect", "-f", "net5", "web"]), "");
    assert_eq!(
        daemon.body("/networks/net5/disconnect"),
        json!({"Container": "web", "Force": true})
    );
}
