//! Unmodified `docker` clients: Debian's of `make setup` (20.10, API 1.41), and the one in PATH.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tunbridge::api::types::{CreateNetwork, EndpointSettings, IpamPool};

use crate::docker_clients::docker_clients;
use crate::fake_backend::{OLD, Server, WEB};

/// A client, and a daemon for it.
struct Docker {
    program: PathBuf,
    server: Server,
    /// Nobody's settings and contexts.
    config: TempDir,
}

impl Docker {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.config.path())
            .env("DOCKER_CONFIG", self.config.path())
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.server.socket().display()),
            )
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What it prints; it must succeed and warn of nothing.
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{words:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains of; it must fail.
    fn bad(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.good(words)).unwrap()
    }
}

/// Runs a test with each client that there is.
fn with_each_client(test: impl Fn(&Docker)) {
    for program in docker_clients() {
        test(&Docker {
            program,
            server: Server::start(),
            config: TempDir::with_prefix("tbdocker-").unwrap(),
        });
    }
}

#[test]
fn version_and_info() {
    with_each_client(|docker| {
        let text = docker.good(&["version"]);
        for line in [
            "Server: tunbridge",
            "API version:      1.52 (minimum version 1.24)",
            "Experimental:     false",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let client = docker.good(&["version", "-f", "{{.Client.APIVersion}}"]);
        assert!(client.starts_with("1."), "{client}");
        let text = docker.good(&["info"]);
        for line in [
            " Containers: 2",
            "  Running: 1",
            "  Stopped: 1",
            "  Network: bridge host null",
            " Swarm: inactive",
            " Docker Root Dir: /var/lib/tunbridge",
            "   Base: 172.17.0.0/12, Size: 16",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    });
}

#[test]
fn a_network_is_created_with_every_flag() {
    with_each_client(|docker| {
        let id = docker.good(&[
            "network",
            "create",
            "--subnet",
            "10.5.0.0/16",
            "--ip-range",
            "10.5.7.0/24",
            "--gateway",
            "10.5.0.254",
            "--aux-address",
            "printer=10.5.7.1",
            "--opt",
            "com.docker.network.bridge.name=brfive",
            "--label",
            "a=b",
            "--internal",
            "--attachable",
            "--ipv6",
            "net5",
        ]);
        assert_eq!(id.trim().len(), 64, "{id}");
        let mut expected = CreateNetwork {
            name: "net5".to_owned(),
            driver: "bridge".to_owned(),
            internal: true,
            attachable: true,
            enable_ipv6: Some(true),
            options: [(
                "com.docker.network.bridge.name".to_owned(),
                "brfive".to_owned(),
            )]
            .into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..CreateNetwork::default()
        };
        expected.ipam.driver = "default".to_owned();
        expected.ipam.config = vec![IpamPool {
            subnet: Some("10.5.0.0/16".to_owned()),
            ip_range: Some("10.5.7.0/24".to_owned()),
            gateway: Some("10.5.0.254".to_owned()),
            auxiliary_addresses: [("printer".to_owned(), "10.5.7.1".to_owned())].into(),
        }];
        let mut got = docker.server.fake.records().created[0].clone();
        got.check_duplicate = false;
        assert_eq!(got, expected);
        let found = docker.json(&["network", "inspect", "net5"]);
        let keys: Vec<&str> = found[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        // In the daemon's order; `Status` is news of a version that these clients do not speak.
        let api = docker.good(&["version", "-f", "{{.Client.APIVersion}}"]);
        let minor: u32 = api.trim().trim_start_matches("1.").parse().unwrap();
        let since_1_48 = ["EnableIPv4"];
        let expected = [
            &["Name", "Id", "Created", "Scope", "Driver"][..],
            if minor < 48 { &[] } else { &since_1_48 },
            &[
                "EnableIPv6",
                "IPAM",
                "Internal",
                "Attachable",
                "Ingress",
                "ConfigFrom",
                "ConfigOnly",
                "Containers",
                "Options",
                "Labels",
            ],
        ]
        .concat();
        assert_eq!(keys, expected);
        assert_eq!(found[0]["EnableIPv6"], true);
        assert_eq!(
            found[0]["IPAM"]["Config"][0]["AuxiliaryAddresses"],
            json!({"printer": "10.5.7.1"})
        );
        // Without --type it asks for a container and an image first.
        assert_eq!(docker.json(&["inspect", "net5"]), found);
        let again = docker.bad(&["network", "create", "net5"]);
        assert!(
            again.contains("Error response from daemon: network with name net5 already exists"),
            "{again}"
        );
    });
}

#[test]
fn networks_are_listed_removed_and_pruned() {
    with_each_client(|docker| {
        for name in ["one", "two", "three"] {
            docker.good(&["network", "create", name]);
        }
        let list = docker.good(&[
            "network",
            "ls",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}}",
        ]);
        assert_eq!(
            list,
            "one bridge local false false\nthree bridge local false false\ntwo bridge local false false\n"
        );
        assert_eq!(
            docker
                .good(&["network", "ls", "-q", "--filter", "name=tw"])
                .lines()
                .count(),
            1
        );
        let wrong = docker.bad(&["network", "ls", "-f", "nosuch=1"]);
        assert!(wrong.contains("invalid filter 'nosuch'"), "{wrong}");
        assert_eq!(docker.good(&["network", "rm", "one"]), "one\n");
        let text = docker.bad(&["network", "rm", "one", "bridge"]);
        assert!(
            text.contains("No such network: one") || text.contains("network one not found"),
            "{text}"
        );
        assert!(
            text.contains("bridge is a pre-defined network and cannot be removed"),
            "{text}"
        );
        let text = docker.bad(&["network", "inspect", "one"]);
        assert!(
            text.contains("No such network: one") || text.contains("network one not found"),
            "{text}"
        );
        let text = docker.bad(&["inspect", "one"]);
        assert!(
            text.to_lowercase().contains("no such object: one"),
            "{text}"
        );
        docker.good(&["network", "connect", "two", "web"]);
        let text = docker.bad(&["network", "rm", "two"]);
        assert!(
            text.contains("network two has active endpoints (name:\"web\""),
            "{text}"
        );
        let pruned = docker.good(&["network", "prune", "-f", "--filter", "label!=keep"]);
        assert_eq!(pruned, "Deleted Networks:\nthree\n\n");
        assert!(
            docker
                .server
                .fake
                .records()
                .filters
                .iter()
                .any(|filters| filters.has("label!"))
        );
        assert_eq!(docker.good(&["network", "prune", "-f"]), "");
    });
}

#[test]
fn containers_are_connected_and_disconnected() {
    with_each_client(|docker| {
        docker.good(&["network", "create", "net1"]);
        let words = [
            "network",
            "connect",
            "--alias",
            "x",
            "--alias",
            "y",
            "--ip",
            "10.5.0.9",
            "--link",
            "old:db",
            "--driver-opt",
            "com.docker.network.endpoint.ifname=lan0",
            "net1",
            "web",
        ];
        assert_eq!(docker.good(&words), "");
        let mut expected = EndpointSettings {
            links: vec!["old:db".to_owned()],
            aliases: vec!["x".to_owned(), "y".to_owned()],
            driver_opts: [(
                "com.docker.network.endpoint.ifname".to_owned(),
                "lan0".to_owned(),
            )]
            .into(),
            ..EndpointSettings::default()
        };
        expected.ipam_config.ipv4_address = Some([10, 5, 0, 9].into());
        let connected = docker.server.fake.records().connected[0].clone();
        assert_eq!(
            (connected.container.as_str(), &connected.endpoint_config),
            ("web", &expected)
        );
        for (words, text) in [
            (
                &["connect", "net1", "web"][..],
                "endpoint with name web already exists in network net1",
            ),
            (&["connect", "nosuch", "web"], "network nosuch not found"),
            (&["connect", "net1", "nosuch"], "No such container: nosuch"),
            (
                &["disconnect", "net1", "old"],
                &format!("container {OLD} is not connected to network net1"),
            ),
        ] {
            let complaint = docker.bad(&[&["network"], words].concat());
            assert_eq!(
                complaint.lines().next(),
                Some(format!("Error response from daemon: {text}").as_str())
            );
        }
        assert_eq!(
            docker.good(&["network", "disconnect", "-f", "net1", "web"]),
            ""
        );
        assert!(
            docker
                .server
                .fake
                .records()
                .asked
                .contains(&"disconnect web true".to_owned())
        );
    });
}

#[test]
fn ps_port_and_inspect() {
    with_each_client(|docker| {
        let list = docker.good(&[
            "ps",
            "-a",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Names}} {{.Command}} {{.Status}} [{{.Ports}}] {{.Networks}}",
        ]);
        assert_eq!(
            list,
            format!(
                "{WEB} web \"sleep 9\" Up 3 minutes [53/udp, 0.0.0.0:8080->80/tcp] net1\n{OLD} old \"sleep 9\" Exited (3) 2 hours ago [] net1\n"
            )
        );
        assert_eq!(docker.good(&["ps", "-q"]), "aaaaaaaaaaaa\n");
        docker.good(&["ps", "-n", "7", "--filter", "status=running"]);
        let wrong = docker.bad(&["ps", "--filter", "nosuch=1"]);
        assert!(wrong.contains("invalid filter 'nosuch'"), "{wrong}");
        assert!(
            docker
                .server
                .fake
                .records()
                .asked
                .contains(&"list false Some(7)".to_owned())
        );
        let ports = docker.good(&["port", "web"]);
        assert!(ports.starts_with("80/tcp -> 0.0.0.0:8080\n"), "{ports}");
        assert!(
            docker
                .good(&["port", "web", "80"])
                .starts_with("0.0.0.0:8080\n")
        );
        assert!(
            docker
                .bad(&["port", "web", "99"])
                .to_lowercase()
                .contains("no public port '99")
        );
        let address = docker.good(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.net1.IPAddress}} {{.NetworkSettings.IPAddress}}",
            "web",
        ]);
        assert_eq!(address, "10.5.0.2 10.5.0.2\n");
        assert_eq!(docker.json(&["inspect", "web"])[0]["Id"], WEB);
    });
}

#[test]
fn stop_kill_and_rm() {
    with_each_client(|docker| {
        assert_eq!(docker.good(&["stop", "web"]), "web\n");
        assert_eq!(docker.good(&["stop", "-t", "3", "web"]), "web\n");
        assert_eq!(docker.good(&["stop", "old"]), "old\n");
        assert_eq!(docker.good(&["kill", "-s", "HUP", "web"]), "web\n");
        assert!(docker.bad(&["kill", "old"]).contains("is not running"));
        assert!(
            docker
                .bad(&["rm", "web"])
                .contains("You cannot remove a running container")
        );
        assert_eq!(docker.good(&["rm", "-f", "web"]), "web\n");
        assert_eq!(docker.good(&["rm", "--link", "web/db"]), "web/db\n");
        let asked = docker.server.fake.records().asked.clone();
        assert_eq!(
            asked,
            [
                "stop web 10",
                "stop web 3",
                "stop old 10",
                "kill web 1",
                "remove web true",
                "unlink web/db"
            ]
        );
    });
}

#[test]
fn events_are_printed_as_they_come() {
    with_each_client(|docker| {
        let mut events = docker
            .command(&[
                "events",
                "--since",
                "10m",
                "--filter",
                "type=network",
                "--format",
                "{{.Action}} {{.Actor.Attributes.name}}",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        docker.good(&["network", "create", "net1"]);
        docker.good(&["network", "connect", "net1", "web"]);
        let lines = BufReader::new(events.stdout.take().unwrap()).lines();
        let first: Vec<String> = lines.take(2).map(Result::unwrap).collect();
        assert_eq!(first, ["create net1", "connect net1"]);
        events.kill().unwrap();
        events.wait().unwrap();
        // The client cuts its times to seconds: an end that is to come.
        let past = docker.good(&["events", "--since", "10m", "--until", "-2s"]);
        assert_eq!(past.lines().count(), 2);
        let connect = format!("(container={WEB}, name=net1, type=bridge)");
        assert!(past.lines().last().unwrap().ends_with(&connect), "{past}");
    });
}

#[test]
fn what_tunbridge_does_not_do_is_one_sentence() {
    with_each_client(|docker| {
        for (words, text) in [
            (
                &["run", "--rm", "busybox", "true"][..],
                "tunbridge makes no containers from images: use `tunbridge run`",
            ),
            (&["start", "web"], "use `tunbridge start`"),
            (&["restart", "web"], "use `tunbridge start`"),
            (&["exec", "web", "true"], "use `tunbridge exec`"),
            (&["logs", "web"], "`inspect` calls LogPath"),
            (&["images"], "it has no images"),
            (&["volume", "ls"], "only container networks"),
        ] {
            let complaint = docker.bad(words);
            assert!(complaint.contains(text), "{words:?}: {complaint}");
        }
    });
}
