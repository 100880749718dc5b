//! The same words to Docker's client and to ours, of the same daemon: the same output.

use std::process::Command;

use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::{run, stdout};

const COMMANDS: &[&[&str]] = &[
    &["network", "ls"],
    &["network", "ls", "-q"],
    &["network", "ls", "-q", "--no-trunc"],
    &["network", "ls", "--format", "table"],
    &[
        "network",
        "ls",
        "--format",
        "{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}}",
    ],
    &[
        "network",
        "ls",
        "--format",
        "table {{.Name}}\\t{{.Label \"x.y-z\"}}\\t{{.CreatedAt}}\\t{{.Label \"nope\"}}",
    ],
    &[
        "network",
        "ls",
        "--format",
        "table {{upper .Name}} {{truncate .ID 3}} {{.Internal}}",
    ],
    &[
        "network",
        "ls",
        "--format",
        "{{if eq .Name \"net2\"}}two{{else}}{{.ID}}{{end}}",
    ],
    &["network", "inspect", "net5", "nosuch", "-f", "{{.Name}}"],
    &["network", "inspect", "nosuch"],
    &["network", "inspect", "nosuch", "-f", "{{.Name}}"],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{(index .IPAM.Config 0).Subnet}} {{len .IPAM.Config}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{index .Options \"com.docker.network.bridge.name\"}}{{index .Labels \"nope\"}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{json .IPAM}}\\t{{json .Name}} {{json .Options}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}{{.Labels}} {{.Labels.nope}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{range .IPAM.Config}}{{.Gateway}}{{println}}{{else}}none{{end}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{printf \"%.4s|%-6s|%6s|%q|%v|%t\" .Id .Name .Scope .Driver .Internal .EnableIPv6}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{$n := .Name}}{{with .Scope}}{{.}} {{$n}} {{$.Driver}}{{end}}{{- /* x */ -}} !",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{join (split .Name \"e\") \"-\"}} {{title .Name}} {{pad .Name 1 2}}|{{slice .Id 0 3}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{if and .Internal .Name}}a{{else if or .Internal .Name}}b{{end}}{{not .Internal}}{{len .Name}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{print 1 2 \"a\" true 3}} {{println \"b\" 1}}{{html \"<'>\"}}{{urlquery \"a b&\"}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{eq 1 1}}{{ne \"a\" \"b\"}}{{lt 1 2}}{{ge 1 2}}{{eq .Scope \"x\" \"local\"}}{{.Name | printf \"%s-%d\" \"n\" | len}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .Name}}{{block \"u\" .Scope}}({{.}}){{end}}{{`raw`}}{{'a'}}",
    ],
    &[
        "network",
        "inspect",
        "net5",
        "-f",
        "{{range $i, $c := .Name | len | printf \"%d\" | split \"a4b4c\"}}{{$i}}{{$c}}{{end}}",
    ],
    &["network", "rm", "a", "b"],
    &["network", "prune", "-f"],
    &["network", "create", "net1"],
    &["ps", "-q"],
    &["ps", "-q", "--no-trunc"],
    &[
        "ps",
        "--format",
        "{{.Names}} {{.Ports}} {{.Command}} {{.State}} {{.Status}} {{.Networks}} {{.Labels}} {{.Label \"a\"}} {{.RunningFor}}",
    ],
    &[
        "ps",
        "--format",
        "table {{.Names}}\\t{{.ID}}\\t{{.Ports}}\\t{{.Networks}}\\t{{.CreatedAt}}",
    ],
    &[
        "inspect",
        "web",
        "-f",
        "{{.Name}} {{.State.Status}} {{range $p, $b := .NetworkSettings.Ports}}{{$p}}{{range $b}}->{{.HostPort}}{{end}} {{end}}",
    ],
    &[
        "events",
        "--since",
        "1",
        "--until",
        "2",
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}",
    ],
    &["events", "--since", "1", "--until", "2"],
];

#[test]
fn both_clients_print_the_same() {
    if Command::new("docker").arg("--version").output().is_err() {
        eprintln!("skipped: there is no Docker client here");
        return;
    }
    let daemon = FakeDaemon::start();
    let web = json!({
        "Id": "ab".repeat(32), "Name": "/web", "State": {"Status": "running", "Running": true},
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": null}},
    });
    daemon.add("web", web);
    let mut different = Vec::new();
    for words in COMMANDS {
        let theirs = Command::new("docker")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", daemon.socket().display()),
            )
            .env("DOCKER_CONFIG", daemon.directory())
            .env("TZ", "UTC")
            .args(*words)
            .output()
            .unwrap();
        let ours = run(&daemon, words);
        let (wanted, printed) = (stdout(&theirs), stdout(&ours));
        if wanted != printed {
            let problem = String::from_utf8_lossy(&theirs.stderr);
            different.push(format!(
                "{words:?}\n  docker: {wanted:?} {problem}\n  ours:   {printed:?}"
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
