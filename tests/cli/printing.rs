//! What is printed, and what is said about bad input.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::{assert_one_line, code, copy_program, program, run, stderr, stdout};

fn web() -> Value {
    json!({
        "Id": "ab".repeat(32), "Name": "/web",
        "NetworkSettings": {"Ports": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "443/tcp": null,
        }},
    })
}

#[test]
fn port_prints_as_docker_does() {
    let daemon = FakeDaemon::start();
    daemon.add("web", web());
    let output = run(&daemon, &["port", "web"]);
    assert_eq!(
        stdout(&output),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    );
    assert_eq!(
        stdout(&run(&daemon, &["port", "web", "80"])),
        "0.0.0.0:8080\n[::]:8080\n"
    );
    for missing in ["99", "443/tcp", "80/udp"] {
        let output = run(&daemon, &["port", "web", missing]);
        assert_eq!(code(&output), 1);
        let named = if missing.contains('/') {
            missing.to_owned()
        } else {
            format!("{missing}/tcp")
        };
        assert_eq!(
            stderr(&output),
            format!("Error: No public port '{named}' published for web\n")
        );
    }
}

#[test]
fn tables_and_json() {
    let daemon = FakeDaemon::start();
    daemon.add("web", web());
    let lines = |words: &[&str]| -> Vec<String> {
        let text = stdout(&run(&daemon, words));
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(
        lines(&["ps"]),
        [
            "CONTAINER ID NAME COMMAND STATUS ADDRESS PORTS",
            "abababababab web sleep 1 Up 3 seconds 172.17.0.2 0.0.0.0:8080->80/tcp"
        ]
    );
    assert_eq!(lines(&["ps", "-q"]), ["abababababab"]);
    assert_eq!(
        lines(&["flows"]),
        [
            "PROTO CONTAINER ORIGINAL TRANSLATED STATE PACKETS BYTES AGE TIMEOUT",
            "tcp web 172.17.0.2:40000 -> 203.0.113.9:80 198.51.100.2:61000 -> 203.0.113.9:80 established 7/5 2.0KiB/100B 1m01s 2h04m"
        ]
    );
    let stats = lines(&["stats"]);
    assert!(
        stats
            .iter()
            .any(|line| line.starts_with("dropped malformed 1 ") && line.len() > 25),
        "{stats:?}"
    );
    assert!(
        stats
            .iter()
            .any(|line| line.starts_with("steering spoof_ip 3 dropped: a container used")),
        "{stats:?}"
    );
    assert!(lines(&["version"])[1].starts_with("Daemon: tunbridge 9.9.9"));
    for words in [
        &["ps"][..],
        &["flows"],
        &["stats"],
        &["doctor"],
        &["version"],
    ] {
        let output = run(&daemon, &[words, &["--json"]].concat());
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    let inspected: Value =
        serde_json::from_slice(&run(&daemon, &["inspect", "web"]).stdout).unwrap();
    assert_eq!(inspected, json!([web()]));
}

#[test]
fn doctor_fails_if_something_does_not_work() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["doctor"]);
    assert_eq!(code(&output), 1);
    for word in [
        "ERROR",
        "uplink",
        "there is none",
        "nothing leaves the host",
        "ip link set eth0 up",
    ] {
        assert!(stdout(&output).contains(word), "{word}: {output:?}");
    }
}

#[test]
fn changes_are_sent_and_names_printed() {
    let daemon = FakeDaemon::start();
    assert_eq!(
        stdout(&run(&daemon, &["stop", "-t", "3", "a", "b"])),
        "a\nb\n"
    );
    assert_eq!(stdout(&run(&daemon, &["rm", "a"])), "a\n");
    assert_eq!(stdout(&run(&daemon, &["rm", "-fv", "../x"])), "../x\n");
    assert_eq!(stdout(&run(&daemon, &["rm", "--link", "/a/b"])), "/a/b\n");
    assert_eq!(code(&run(&daemon, &["publish", "a", "8080:80"])), 0);
    assert_eq!(code(&run(&daemon, &["unpublish", "a", "8080:80"])), 0);
    assert_eq!(
        daemon.steps(),
        [
            "POST /containers/a/stop?t=3",
            "POST /containers/b/stop?t=3",
            "DELETE /containers/a?force=0",
            "DELETE /containers/..%2Fx?force=1",
            "DELETE /containers/%2Fa%2Fb?link=1",
            "POST /tunbridge/containers/a/publish",
            "POST /tunbridge/containers/a/unpublish",
        ]
    );
    assert_eq!(daemon.body("/unpublish"), json!({"spec": "8080:80"}));
}

#[test]
fn bad_usage_is_one_line_and_status_2() {
    let daemon = FakeDaemon::start();
    let table: &[(&[&str], &str)] = &[
        (&[], "subcommand"),
        (&["frobnicate"], "frobnicate"),
        (&["run"], "CMD"),
        (&["run", "--ip", "300.1.1.1", "true"], "--ip"),
        (&["run", "--nope", "true"], "--nope"),
        (
            &["run", "--publsh", "80", "true"],
            "'--publsh' found; tip: ",
        ),
        (
            &["run", "-it", "--", "sh"],
            "run has no -i: the program has your terminal",
        ),
        (
            &["exec", "-t", "web", "sh"],
            "exec has no -t: the program has your terminal",
        ),
        (
            &["run", "-v", "/a:/b", "true"],
            "run has no -v: without --rootfs",
        ),
        (
            &["run", "--restart=always", "true"],
            "run has no --restart: a service manager",
        ),
        (
            &["run", "--memory", "1g", "true"],
            "run has no --memory: systemd limits resources",
        ),
        (
            &["start", "-a", "web"],
            "start has no -a: it starts in the background",
        ),
        (&["ps", "-s"], "ps has no -s: there are no images"),
        (
            &["daemon", "--iptables=false"],
            "daemon has no --iptables: not needed",
        ),
        (&["network", "create"], "NAME"),
        (&["network", "frobnicate"], "frobnicate"),
        (&["network", "connect", "net5"], "CONTAINER"),
        (
            &["network", "connect", "--ip", "foo", "net5", "web"],
            "--ip",
        ),
        (
            &["network", "connect", "--link", "a:b:c", "net5", "web"],
            "bad format for links: a:b:c",
        ),
        (
            &["run", "--network", "name=a,foo=b", "true"],
            "invalid field key foo",
        ),
        (&["rm", "-f", "--link", "a/b"], "--link"),
        (&["run", "--dns", "x", "true"], "--dns"),
        (&["attach", "--name", "x"], "--pid"),
        (&["attach", "--pid", "1"], "--name"),
        (
            &["attach", "--name", "x", "--pid", "1", "--netns", "/x"],
            "--netns",
        ),
        (&["stop", "-t", "-1", "x"], "-1"),
        (&["exec", "x"], "CMD"),
        (&["flows", "--watch", "--json"], "--json"),
        (&["daemon", "--ip-forward=maybe"], "--ip-forward"),
    ];
    for (words, naming) in table {
        let output = run(&daemon, words);
        assert_eq!(code(&output), 2, "{words:?}: {output:?}");
        assert_one_line(&output, &[naming]);
    }
    assert!(daemon.steps().is_empty(), "{:?}", daemon.steps());
}

#[test]
fn unknown_containers_are_one_line_and_status_1() {
    let daemon = FakeDaemon::start();
    for words in [
        &["inspect", "nosuch"][..],
        &["port", "nosuch"],
        &["exec", "nosuch", "true"],
        &["start", "nosuch"],
        &["restart", "nosuch"],
    ] {
        let output = run(&daemon, words);
        assert_eq!(code(&output), 1, "{words:?}");
        assert_one_line(&output, &["nosuch"]);
    }
}

#[test]
fn bad_roots_are_named_before_anything_is_made() {
    let daemon = FakeDaemon::start();
    for (root, why) in [
        ("/no/such", "existing"),
        ("/etc/passwd", "not a directory"),
        ("/", "host's own root"),
    ] {
        let output = run(&daemon, &["run", "--rootfs", root, "true"]);
        assert_eq!(code(&output), 1, "{root}");
        assert_one_line(&output, &["--rootfs", root, why]);
    }
    assert!(daemon.steps().is_empty());
}

#[test]
fn no_daemon_and_no_permission_are_told() {
    let output = program()
        .args(["--socket", "/no/such/sock", "ps"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert_one_line(
        &output,
        &[
            "cannot connect to the tunbridge daemon at /no/such/sock: is it running? start it with: tunbridge daemon",
        ],
    );
    let output = program()
        .args(["ps"])
        .env("TUNBRIDGE_SOCKET", "/from/env")
        .output()
        .unwrap();
    assert_one_line(&output, &["/from/env"]);

    let daemon = FakeDaemon::start();
    fs::set_permissions(daemon.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    // The build directory may be closed to others.
    let copy = daemon.directory().join("tunbridge");
    copy_program(Path::new(env!("CARGO_BIN_EXE_tunbridge")), &copy);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .arg("--socket")
        .arg(daemon.socket())
        .arg("ps")
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["permission", "sock"]);
}

#[test]
fn config_errors_name_file_and_key() {
    let daemon = FakeDaemon::start();
    let file = daemon.directory().join("daemon.toml");
    fs::write(&file, "bib = \"10.0.0.1/24\"\n").unwrap();
    let output = run(&daemon, &["daemon", "--config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["--config", file.to_str().unwrap(), "bib"]);
}

#[test]
fn inspect_prints_what_is_found_and_tells_what_is_not() {
    let daemon = FakeDaemon::start();
    daemon.add("web", web());
    let output = run(
        &daemon,
        &["inspect", "nope", "web", "net5", "-f", "{{.Name}}"],
    );
    assert_eq!(
        (code(&output), stdout(&output)),
        (1, "/web\nnet5\n".to_owned())
    );
    assert_one_line(&output, &["No such object: nope"]);
    let output = run(&daemon, &["inspect", "nope"]);
    assert_eq!((code(&output), stdout(&output)), (1, "[]\n".to_owned()));
    let output = run(&daemon, &["inspect", "web"]);
    assert!(
        stdout(&output).starts_with("[\n    {\n        \"Id\": \"abab"),
        "{output:?}"
    );
    let port = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}} {{.NetworkSettings.IPAddress}}";
    let output = run(&daemon, &["inspect", "-f", port, "web"]);
    assert_eq!(stdout(&output), "8080 <no value>\n");
    for (kind, name) in [("network", "web"), ("container", "net5")] {
        let output = run(&daemon, &["inspect", "--type", kind, name]);
        assert_eq!(code(&output), 1, "{kind} {name}");
        assert_one_line(&output, &[name]);
    }
    let output = run(&daemon, &["inspect", "-f", "{{.Name", "web"]);
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_one_line(
        &output,
        &["--format", "template parsing error: unclosed action"],
    );
}

#[test]
fn ps_takes_dockers_flags() {
    let daemon = FakeDaemon::start();
    let printed = |words: &[&str]| {
        let output = run(&daemon, &[&["ps"], words].concat());
        (stdout(&output), daemon.last_read())
    };
    let (text, target) = printed(&[
        "--format",
        "{{.Names}} {{.Ports}} {{.Command}} {{.Networks}} {{.Labels}} {{.CreatedAt}}",
    ]);
    assert_eq!(
        text,
        "web 0.0.0.0:8080->80/tcp \"sleep 1\" bridge a=b 2023-11-14 22:13:20 +0000 UTC\n"
    );
    assert_eq!(target, "/containers/json");
    let (text, target) = printed(&[
        "-a",
        "-n",
        "3",
        "--format",
        "table {{.Names}}\\t{{.State}}\\t{{.Address}}",
    ]);
    assert_eq!(
        text,
        "NAMES     STATE     ADDRESS\nweb       running   172.17.0.2\n"
    );
    assert_eq!(target, "/containers/json?all=1&limit=3");
    let (text, target) = printed(&["-l", "-q", "--no-trunc", "-f", "name=x", "-f", "name=y"]);
    assert_eq!(text, "ab".repeat(32) + "\n");
    assert_eq!(
        target,
        "/containers/json?limit=1&filters=%7B%22name%22%3A%7B%22x%22%3Atrue%2C%22y%22%3Atrue%7D%7D"
    );
    let (text, _) = printed(&["--format", "json"]);
    assert!(
        text.starts_with("{\"Address\":\"172.17.0.2\",\"Command\":\"\\\"sleep 1"),
        "{text}"
    );
    let (text, _) = printed(&["-q", "--format", "{{.Names}}"]);
    assert_eq!(text, "abababababab\n");
}

#[test]
fn events_are_lines_json_or_templates() {
    let daemon = FakeDaemon::start();
    let printed = |words: &[&str]| {
        let output = run(&daemon, &[&["events"], words].concat());
        assert_eq!(code(&output), 0, "{output:?}");
        stdout(&output)
    };
    assert_eq!(
        printed(&[
            "--since",
            "1",
            "--until",
            "2023-11-14",
            "-f",
            "type=network"
        ]),
        "2023-11-14T22:13:20.123456789Z network connect ee (container=ab, name=net5, type=bridge)\n\
         2023-11-14T22:13:21.000000000Z container die ab (name=web)\n"
    );
    assert_eq!(
        daemon.last_read(),
        "/events?filters=%7B%22type%22%3A%7B%22network%22%3Atrue%7D%7D&since=1&until=2023-11-14T00%3A00%3A00Z"
    );
    let template = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}";
    assert_eq!(
        printed(&["--format", template]),
        "connect net5 bridge\ndie web <no value>\n"
    );
    assert_eq!(printed(&["--format", "json"]), crate::networks::EVENTS);
    for (words, naming) in [
        (
            &["events", "--format", "{{.A.B.C | nope}}"],
            "function \"nope\" not defined",
        ),
        (&["events", "-f", "network"], "bad format of filter"),
    ] {
        let output = run(&daemon, words);
        assert_eq!(code(&output), 1, "{words:?}");
        assert_one_line(&output, &[naming]);
    }
}
