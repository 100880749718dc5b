//! The unmodified `docker` command lines (Debian's docker.io 20.10, and the one in PATH), pointed at tunbridge's socket:
//! lists, filters, formats, and what they answer to mistakes. What a transcript of a real engine shows is in `golden`.
//!
//! Expected texts are Docker's; where tunbridge says something else on purpose, `docs/parity.md` says why.

use crate::docker::{Docker, with_each_client};
use crate::tunbridge_under_test::difference;

#[test]
fn networks_are_listed_removed_and_pruned() {
    with_each_client(&[], |docker| {
        for options in [
            "--internal isol",
            "used",
            "gone",
            "--label keep=yes labelled",
            "--label old --attachable attachable",
        ] {
            docker.said(&format!("network create {options}"));
        }
        docker
            .tunbridge
            .container_with("cc", &["--network", "used"]);
        let format = "{{.Name}} {{.Driver}} {{.Scope}} internal={{.Internal}} ipv6={{.IPv6}}";
        assert_eq!(
            docker.said_to(&["network", "ls", "--format", format]),
            "attachable bridge local internal=false ipv6=false
bridge bridge local internal=false ipv6=false
gone bridge local internal=false ipv6=false
host host local internal=false ipv6=false
isol bridge local internal=true ipv6=false
labelled bridge local internal=false ipv6=false
none null local internal=false ipv6=false
used bridge local internal=false ipv6=false
"
        );
        docker.said("network create --ipv6 six");
        let ipv6 = ["network", "ls", "-f", "name=six", "--format", "{{.IPv6}}"];
        assert_eq!(docker.said_to(&ipv6), "true\n", "what was asked for");
        docker.said("network rm six");
        let table = docker.said("network ls");
        let words: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(words, ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
        assert_eq!(docker.said("network rm gone"), "gone\n");
        let id = docker.said("network ls -q --no-trunc --filter name=isol");
        assert_eq!(id.trim().len(), 64);
        let names = |filter: &str| -> Vec<String> {
            let listed = docker.said(&format!("network ls {filter} --format {{{{.Name}}}}"));
            listed.lines().map(str::to_owned).collect()
        };
        let user_defined = ["attachable", "isol", "labelled", "used"];
        assert_eq!(names("--filter type=custom"), user_defined);
        assert_eq!(names("--filter type=builtin"), ["bridge", "host", "none"]);
        assert_eq!(names("--filter driver=null"), ["none"]);
        assert_eq!(names(&format!("--filter id={}", &id[..5])), ["isol"]);
        assert_eq!(names("--filter label=keep=yes"), ["labelled"]);
        assert_eq!(names("--filter label=keep=no"), [""; 0]);
        assert_eq!(
            names("--filter name=l --filter type=custom"),
            ["attachable", "isol", "labelled"]
        );
        assert_eq!(
            names("--filter dangling=true"),
            ["attachable", "isol", "labelled"]
        );
        let deleted = |filter: &str| docker.said(&format!("network prune -f {filter}"));
        assert_eq!(deleted("--filter until=1h"), "");
        assert_eq!(
            deleted("--filter label=old"),
            "Deleted Networks:\nattachable\n\n"
        );
        assert_eq!(
            deleted("--filter label!=keep"),
            "Deleted Networks:\nisol\n\n"
        );
        assert_eq!(names("--filter type=custom"), ["labelled", "used"]);
        for (line, text) in [
            ("network ls -f nosuch=1", "invalid filter 'nosuch'"),
            ("network ls -f type=odd", "invalid filter: 'type'='odd'"),
            ("network ls -f dangling=odd", "filter 'dangling'"),
            ("network prune -f --filter name=x", "invalid filter 'name'"),
            (
                "network prune -f --filter until=odd",
                "failed to parse value as time or duration: \"odd\"",
            ),
        ] {
            let complaint = docker.refused(line);
            assert!(
                complaint.contains(text) && complaint.contains("Error response from daemon: "),
                "{line}: {complaint}"
            );
        }
    });
}

#[test]
fn containers_are_connected_with_every_flag() {
    with_each_client(&[], |docker| {
        docker.said("network create --subnet 10.5.0.0/16 net5");
        docker.said("network create --subnet 10.6.0.0/16 net6");
        let tunbridge = docker.tunbridge;
        tunbridge.server("foxtrot", &["--network", "net5"]);
        let alpha = tunbridge.container_with("alpha", &["--network", "net6"]);
        docker.said(
            "network connect --alias extra --alias more --ip 10.5.9.77 --link foxtrot:fox \
             --driver-opt com.docker.network.endpoint.ifname=lan0 \
             --driver-opt com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1 net5 alpha",
        );
        assert_eq!(
            alpha
                .shell("ip -o -4 address show lan0 | awk '{print $2,$4}'")
                .stdout,
            "lan0 10.5.9.77/16\n"
        );
        assert_eq!(alpha.sysctl("net.ipv4.conf.lan0.log_martians"), "1");
        let resolved = |name: &str| {
            let words = ["dig", "+short", "@127.0.0.11", name];
            alpha.run(&words).stdout.trim().to_owned()
        };
        assert_eq!(resolved("fox"), "10.5.0.2", "a link is an alias of its own");
        assert_eq!(resolved("more"), "10.5.9.77");
        let networks: serde_json::Value = serde_json::from_str(
            &docker.session("d inspect alpha | jq '.[0].NetworkSettings.Networks'"),
        )
        .unwrap();
        let net5 = &networks["net5"];
        assert_eq!(net5["Links"], serde_json::json!(["foxtrot:fox"]));
        assert_eq!(
            net5["DriverOpts"]["com.docker.network.endpoint.ifname"],
            "lan0"
        );
        assert_eq!(net5["IPAMConfig"]["IPv4Address"], "10.5.9.77");
        alpha.tcp("10.5.0.2:80").unwrap();

        // Which network has the default route: the newer client can say.
        if docker.api >= 48 {
            let default = || alpha.shell("ip route show default").stdout;
            docker.said("network disconnect net5 alpha");
            docker.said("network connect --gw-priority -1 net5 alpha");
            assert!(default().contains("10.6.0.1"), "{}", default());
            docker.said("network disconnect net5 alpha");
            docker.said("network connect --gw-priority 1 net5 alpha");
            assert!(default().contains("10.5.0.1"), "{}", default());
        }
        tunbridge.container("cc");
        for (line, text) in [
            (
                "network connect --ip 10.7.0.1 net5 cc",
                "invalid address 10.7.0.1: It does not belong to any of this network's subnets",
            ),
            (
                "network connect --ip 10.7.0.1 net5 cc",
                "no configured subnet contains IP address 10.7.0.1",
            ),
            (
                "network connect --ip 10.5.0.1 net5 cc",
                "Address already in use",
            ),
            (
                "network connect --link-local-ip 169.254.1.1 net5 cc",
                "169.254.1.1",
            ),
            ("network connect --ip6 2001:db8::1 net5 cc", "2001:db8::1"),
            (
                "network connect --driver-opt com.docker.network.endpoint.ifname=a/b net5 cc",
                "a/b",
            ),
            (
                "network connect --driver-opt com.docker.network.endpoint.ifname=eth0 net5 cc",
                "eth0",
            ),
            (
                "network connect --driver-opt com.docker.network.endpoint.sysctls=net.ipv4.conf.eth0.log_martians=1 net5 cc",
                "unrecognised network interface sysctl",
            ),
        ] {
            let complaint = docker.refused(line);
            assert!(
                complaint.starts_with("Error response from daemon: ") && complaint.contains(text),
                "{line}: {complaint}"
            );
        }
    });
}

/// 20.10 writes `:::80` for `[::]:80`.
fn in_brackets(text: &str) -> String {
    text.replace(":::", "[::]:")
}

#[test]
fn containers_are_listed_and_inspected() {
    with_each_client(&[], |docker| {
        docker.said("network create net1");
        let tunbridge = docker.tunbridge;
        tunbridge.container_with(
            "web",
            &["-p", "8080:80", "-p", "8443:443/udp", "--expose", "9"],
        );
        tunbridge.container_with("app", &["--network", "net1"]);
        let format = "{{.Names}} {{.Ports}} {{.Networks}} {{.State}}";
        assert_eq!(
            in_brackets(&docker.said_to(&["ps", "--format", format])),
            "app  net1 running
web 9/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 0.0.0.0:8443->443/udp, [::]:8443->443/udp bridge running
"
        );
        let listing = in_brackets(&docker.said("port web"));
        let mut lines: Vec<&str> = listing.lines().collect();
        // 20.10 prints a Go map as it comes.
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "443/udp -> 0.0.0.0:8443",
                "443/udp -> [::]:8443",
                "80/tcp -> 0.0.0.0:8080",
                "80/tcp -> [::]:8080",
            ]
        );
        for (port, host) in [("80", "8080"), ("443/udp", "8443")] {
            let listing = in_brackets(&docker.said(&format!("port web {port}")));
            assert_eq!(listing, format!("0.0.0.0:{host}\n[::]:{host}\n"));
        }
        assert!(
            docker
                .refused("port web 9")
                .to_lowercase()
                .contains("no public port '9")
        );
        let format = "{{.Name}} {{.NetworkSettings.IPAddress}} {{.State.Status}}";
        assert_eq!(
            docker.said_to(&["inspect", "-f", format, "web"]),
            "/web 172.17.0.2 running\n"
        );
        let format = "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}{{range $b}} {{.HostIp}}:{{.HostPort}}{{end}};{{end}}";
        assert_eq!(
            docker.said_to(&["inspect", "-f", format, "web"]),
            "443/udp 0.0.0.0:8443 :::8443;80/tcp 0.0.0.0:8080 :::8080;9/tcp;\n"
        );
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        assert_eq!(
            docker.said_to(&["inspect", "-f", format, "app"]),
            "172.18.0.2\n"
        );
        assert_eq!(
            docker.said_to(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", "app"]),
            "net1\n"
        );
        let missing = docker.refused("inspect nosuch");
        assert!(
            missing.to_lowercase().contains("no such object: nosuch"),
            "{missing}"
        );
        let table = docker.said("ps");
        assert!(table.starts_with("CONTAINER ID"), "{table}");

        let names = |filter: &str| -> Vec<String> {
            let listed = docker.said(&format!("ps {filter} --format {{{{.Names}}}}"));
            listed.lines().map(str::to_owned).collect()
        };
        assert_eq!(names(""), ["app", "web"], "newest first");
        let id = docker.said("ps -q --no-trunc --filter name=web");
        for (filter, expected) in [
            ("--filter name=we", &["web"][..]),
            ("--filter name=^/web$", &["web"]),
            ("--filter network=net1", &["app"]),
            ("--filter network=bridge", &["web"]),
            ("--filter network=nosuch", &[]),
            ("--filter publish=8080", &["web"]),
            ("--filter publish=80", &[]),
            ("--filter expose=9/tcp", &["web"]),
            ("--filter expose=443/udp", &["web"]),
            ("--filter status=exited", &[]),
            ("--filter status=running --filter name=app", &["app"]),
            ("--filter since=web", &["app"]),
            ("--filter before=app", &["web"]),
            (&format!("--filter id={}", &id[..7]), &["web"]),
            ("--filter is-task=true", &[]),
            ("--last 1", &["app"]),
        ] {
            assert_eq!(names(filter), expected, "{filter}");
        }
        for (line, text) in [
            ("ps --filter nosuch=1", "invalid filter 'nosuch'"),
            ("ps --filter status=odd", "invalid filter 'status=odd'"),
            ("ps --filter exited=odd", "odd"),
            ("ps --filter before=nosuch", "No such container: nosuch"),
            ("port nosuch", "No such container: nosuch"),
            ("stop nosuch", "No such container: nosuch"),
            ("kill nosuch", "No such container: nosuch"),
            ("rm nosuch", "No such container: nosuch"),
            ("kill -s ODD web", "ODD"),
        ] {
            let complaint = docker.refused(line);
            assert!(complaint.contains(text), "{line}: {complaint}");
        }
        let running = docker.refused("rm web");
        assert!(
            running.contains(
                "container is running: stop the container before removing or force remove"
            ) || running.contains("You cannot remove a running container"),
            "{running}"
        );

        docker.said("kill web");
        assert_eq!(names(""), ["app"]);
        assert_eq!(names("-a --filter status=exited"), ["web"]);
        assert_eq!(names("-a --filter exited=137"), ["web"]);
        let stopped = docker.refused("kill web");
        assert!(stopped.contains("is not running"), "{stopped}");
        assert_eq!(docker.said("rm web"), "web\n");
        assert_eq!(docker.said("rm -f app"), "app\n");
        assert_eq!(docker.said("ps -aq"), "");
    });
}

#[test]
fn version_and_info_are_complete() {
    with_each_client(&[], |docker| {
        docker.tunbridge.container("c1");
        docker.said("network create --subnet 10.5.0.0/16 net5");
        let version = docker.said("version");
        for line in [
            "Server: tunbridge",
            "OS/Arch:",
            "API version:      1.52 (minimum version 1.24)",
        ] {
            assert!(version.contains(line), "{line}: {version}");
        }
        let info = docker.run(&["info"]).expect_success();
        for line in [
            " Containers: 1",
            "  Running: 1",
            "  Stopped: 0",
            &format!(" Server Version: {}", env!("CARGO_PKG_VERSION")),
            "  Network: bridge host null",
            " Swarm: inactive",
            " Name: host",
            " Docker Root Dir: /run/lab/state",
            " Live Restore Enabled: true",
        ] {
            assert!(
                info.stdout.lines().any(|found| found == line),
                "{line}: {}",
                info.stdout
            );
        }
        for text in [version, info.output()] {
            for nonsense in ["<no value>", "ERROR", "WARNING", "%!", "0001-01-01"] {
                assert!(!text.contains(nonsense), "{nonsense}: {text}");
            }
        }
        assert_eq!(
            docker
                .said_to(&["info", "-f", "{{.Containers}} {{.Driver}}|{{.ID}}"])
                .len(),
            "1 |\n".len() + docker.said_to(&["info", "-f", "{{.ID}}"]).trim().len()
        );
    });
}

#[test]
fn events_tell_of_containers_and_networks() {
    with_each_client(&[], |docker| {
        docker.said("network create net1");
        docker.tunbridge.container("c1");
        docker.said("network connect net1 c1");
        docker.said("network disconnect net1 c1");
        docker.said("network rm net1");
        docker.said("stop -t 0 c1");
        docker.said("rm c1");
        // The client cuts its times to seconds: an end that is to come.
        let told = |filter: &str, format: &str| {
            let line = format!("events --since 1m --until -2s {filter}");
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words.extend(["--format", format]);
            docker.said_to(&words)
        };
        let network = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}";
        assert_eq!(
            told("--filter type=network", network),
            "create net1 bridge
connect bridge bridge
connect net1 bridge
disconnect net1 bridge
destroy net1 bridge
disconnect bridge bridge
"
        );
        assert_eq!(
            told("--filter event=connect --filter network=net1", network),
            "connect net1 bridge\n"
        );
        assert_eq!(
            told(
                "--filter container=c1 --filter type=container",
                "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"
            ),
            "container create c1 <no value>
container start c1 <no value>
container kill c1 <no value>
container die c1 143
container stop c1 <no value>
container destroy c1 <no value>
"
        );
    });
}

/// Each line is refused, its text has Docker's words, and nothing was half-applied.
fn all_refused(docker: &Docker<'_>, cases: &[(&str, &str)]) {
    let before = docker.lab.snapshot();
    for (line, text) in cases {
        let complaint = docker.refused(line);
        assert!(
            complaint.contains(text),
            "{line}\n  wanted: {text}\n  said: {complaint}"
        );
        // The client's own words for 404; it counts what it could not do on a second line.
        let first = complaint.lines().next().unwrap_or_default();
        let from_daemon = first.starts_with("Error response from daemon: ")
            || first.starts_with("Error: No such ")
            || complaint.contains(": Error response from daemon: ");
        assert!(from_daemon, "{line}: {complaint}");
    }
    let changed = difference(&before, &docker.lab.snapshot());
    assert!(changed.is_empty(), "half-applied:\n{changed}");
}

#[test]
fn networks_that_cannot_be_made_are_refused_with_dockers_words() {
    with_each_client(&[], |docker| {
        docker.said("network create net1");
        docker.said("network create --subnet 10.5.0.0/16 net5");
        all_refused(
            docker,
            &[
                (
                    "network create net1",
                    "network with name net1 already exists",
                ),
                (
                    "network create bridge",
                    "operation is not permitted on predefined bridge network",
                ),
                (
                    "network create host",
                    "operation is not permitted on predefined host network",
                ),
                (
                    "network create --subnet 10.5.3.0/24 overlap",
                    "invalid pool request: Pool overlaps with other one on this address space",
                ),
                ("network create --subnet 10.5.0.0/33 bad", "10.5.0.0/33"),
                (
                    "network create --subnet 10.9.0.5/24 bad",
                    "invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
                ),
                (
                    "network create --subnet 198.51.100.0/24 bad",
                    "198.51.100.0/24",
                ),
                (
                    "network create --subnet 10.9.0.0/24 --ip-range 10.9.0.0/16 bad",
                    "invalid ip-range 10.9.0.0/16: CIDR block is bigger than its parent subnet 10.9.0.0/24",
                ),
                (
                    "network create none",
                    "operation is not permitted on predefined none network",
                ),
                (
                    "network create --subnet 10.9.0.0/24 --ip-range 10.9.0.5/28 bad",
                    "10.9.0.5/28",
                ),
                (
                    "network create --opt com.docker.network.bridge.name=averyveryverylongname x",
                    "averyveryverylongname",
                ),
                (
                    "network create --opt com.docker.network.driver.mtu=abc x",
                    "failed to parse com.docker.network.driver.mtu value: abc",
                ),
                (
                    "network create --opt com.docker.network.driver.mtu=-1 x",
                    "invalid MTU number: -1",
                ),
                (
                    "network create --opt com.docker.network.bridge.enable_icc=maybe x",
                    "failed to parse com.docker.network.bridge.enable_icc value: maybe",
                ),
                (
                    "network create --opt com.docker.network.bridge.gateway_mode_ipv4=isolated x",
                    "gateway mode 'isolated' can only be used for an internal network",
                ),
                (
                    "network create --opt com.docker.network.bridge.gateway_mode_ipv4=odd x",
                    "unknown gateway mode odd",
                ),
                (
                    "network create --opt com.docker.network.advertise_addr_nmsgs=4 x",
                    "com.docker.network.advertise_addr_nmsgs must be in the range 0 to 3",
                ),
                (
                    "network create --opt com.docker.network.advertise_addr_ms=nonsense x",
                    "value for option com.docker.network.advertise_addr_ms \"nonsense\" must be integer milliseconds",
                ),
                ("network create -d overlay x", "overlay"),
                ("network create --ipam-driver odd x", "odd"),
                (
                    "network create --opt com.docker.network.bridge.name=tb0 x",
                    "networks have same bridge name",
                ),
                (
                    "network create --opt com.docker.network.bridge.name=ext0 x",
                    "existing interface ext0 is not a bridge",
                ),
                (
                    "network create --subnet 10.6.0.0/16 --subnet 10.7.0.0/16 x",
                    "bridge driver doesn't support multiple subnets",
                ),
                (
                    "network create --ipv6 --subnet fd00:9::/64 --subnet fd00:a::/64 x",
                    "bridge driver doesn't support multiple subnets",
                ),
                ("network create --config-only x", "config"),
                ("network create --ingress -d bridge x", "ngress"),
            ],
        );
        // These the client finds.
        for (line, text) in [
            (
                "network create --subnet 10.9.0.0/24 --gateway 10.8.0.1 bad",
                "no matching subnet for gateway 10.8.0.1",
            ),
            (
                "network create --subnet 10.9.0.0/24 --aux-address x=10.8.0.1 bad",
                "no matching subnet for aux-address 10.8.0.1",
            ),
            (
                "network create --subnet 10.9.0.0/24 --subnet 10.9.0.0/25 bad",
                "multiple overlapping subnet configuration is not supported",
            ),
            (
                "network create --gateway 10.9.0.1 bad",
                "every ip-range or gateway must have a corresponding subnet",
            ),
        ] {
            let complaint = docker.refused(line);
            assert!(complaint.contains(text), "{line}: {complaint}");
        }
    });
}

#[test]
fn pools_run_out() {
    with_each_client(
        &["--default-address-pool", "base=10.77.0.0/23,size=24"],
        |docker| {
            docker.said("network create last");
            all_refused(
                docker,
                &[(
                    "network create more",
                    "all predefined address pools have been fully subnetted",
                )],
            );
            docker.said("network rm last");
            docker.said("network create more");
        },
    );
}

#[test]
fn what_cannot_be_done_to_networks_is_refused_with_dockers_words() {
    with_each_client(&[], |docker| {
        docker.said("network create net1");
        docker.said("network create --subnet 10.5.0.0/16 net5");
        let tunbridge = docker.tunbridge;
        tunbridge.container_with("alpha", &["--network", "net1"]);
        tunbridge.container_with("lonely", &["--network", "none"]);
        tunbridge.container_with("away", &["--network", "net5"]);
        // So that the default bridge stays up.
        tunbridge.container("neighbour");
        tunbridge.container("stopped");
        docker.said("stop -t 0 stopped");
        docker.said("network create --subnet 10.9.0.0/30 tiny");
        tunbridge.container_with("full", &["--network", "tiny"]);
        let id = docker.said("inspect -f {{.Id}} alpha");
        // The older client has words of its own for what is not there.
        let no_network = if docker.api < 44 {
            "No such network: nosuch"
        } else {
            "network nosuch not found"
        };
        all_refused(
            docker,
            &[
                ("network rm nosuch", no_network),
                ("network inspect nosuch", no_network),
                (
                    "network rm bridge",
                    "bridge is a pre-defined network and cannot be removed",
                ),
                (
                    "network rm none",
                    "none is a pre-defined network and cannot be removed",
                ),
                (
                    "network rm net1",
                    "error while removing network: network net1 has active endpoints (name:\"alpha\" id:\"",
                ),
                (
                    "network connect net1 alpha",
                    "endpoint with name alpha already exists in network net1",
                ),
                (
                    "network disconnect net5 alpha",
                    &format!("container {} is not connected to network net5", id.trim()),
                ),
                ("network connect nosuch alpha", "network nosuch not found"),
                (
                    "network disconnect nosuch alpha",
                    "network nosuch not found",
                ),
                ("network connect net5 nobody", "No such container: nobody"),
                ("network disconnect net5 nobody", "nobody"),
                (
                    "network connect host alpha",
                    "container cannot be disconnected from host network or connected to host network",
                ),
                (
                    "network connect none alpha",
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode",
                ),
                (
                    "network connect net5 lonely",
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode",
                ),
                (
                    "network connect --link stopped:x bridge alpha",
                    "Cannot link to a non running container: /stopped AS /alpha/x",
                ),
                (
                    "network connect --link away:x bridge alpha",
                    "Cannot link to /away, as it does not belong to the default network",
                ),
                (
                    "network connect --link nosuch:x bridge alpha",
                    "could not get container for nosuch: No such container: nosuch",
                ),
                (
                    "network connect tiny alpha",
                    "no available IPv4 addresses on this network's address pools: tiny (",
                ),
                (
                    "network disconnect net5 stopped",
                    "is not connected to the network net5",
                ),
                (
                    "network connect --alias x bridge alpha",
                    "network-scoped aliases are only supported for user-defined networks",
                ),
            ],
        );
    });
}

#[test]
fn what_tunbridge_does_not_do_is_one_sentence() {
    with_each_client(&[], |docker| {
        docker.tunbridge.container("web");
        all_refused(
            docker,
            &[
                ("run --rm busybox true", "use `tunbridge run`"),
                ("create busybox", "use `tunbridge run`"),
                ("images", "it has no images"),
                ("pull busybox", "tunbridge"),
                ("exec web true", "use `tunbridge exec`"),
                ("start web", "use `tunbridge start`"),
                ("restart web", "use `tunbridge start`"),
                ("logs web", "tunbridge"),
                ("pause web", "tunbridge"),
                ("volume ls", "only container networks"),
            ],
        );
        for line in ["run --rm busybox true", "images", "exec web true"] {
            let complaint = docker.refused(line);
            let lines = complaint
                .lines()
                .filter(|line| !line.is_empty() && !line.contains("--help"));
            assert_eq!(lines.count(), 1, "{complaint}");
        }
    });
}
