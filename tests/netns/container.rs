//! What a container looks like from inside, and how its process starts and ends.

use serde_json::json;

use crate::lab::{HOST, Lab};

#[test]
fn the_interface_is_as_docker_makes_it() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");

    assert_eq!(c1.mac("eth0"), "02:42:ac:11:00:02");
    let addresses = c1.run(&["ip", "-o", "address"]).expect_success().stdout;
    assert!(
        addresses.contains("inet 172.17.0.2/16 brd 172.17.255.255 scope global eth0"),
        "{addresses}"
    );
    assert!(
        !addresses.contains("eth0    inet6"),
        "no IPv6 on an IPv4 network (CVE-2024-32473): {addresses}"
    );
    let route = c1.run(&["ip", "route"]).expect_success().stdout;
    assert!(route.contains("default via 172.17.0.1 dev eth0"), "{route}");
    let bridge = lab
        .host()
        .run(&["ip", "-o", "-4", "address", "show", "tb0"])
        .expect_success()
        .stdout;
    assert!(bridge.contains("172.17.0.1/16"), "{bridge}");
    assert_eq!(lab.host().sysctl("net.ipv6.conf.tb0.accept_ra"), "0");
}

#[test]
fn addresses_are_the_lowest_free_ones() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[
        "--bip",
        "10.9.0.1/24",
        "--fixed-cidr",
        "10.9.0.64/26",
        "--default-gateway",
        "10.9.0.254",
    ]);
    let address = |name: &str| {
        tunbridge.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let c1 = tunbridge.container("c1");
    tunbridge.container("c2");
    assert_eq!(
        (address("c1").as_str(), address("c2").as_str()),
        ("10.9.0.64", "10.9.0.65")
    );
    let route = c1.run(&["ip", "route"]).expect_success().stdout;
    assert!(route.contains("default via 10.9.0.254"), "{route}");

    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    tunbridge.container("c3");
    assert_eq!(
        address("c3"),
        "10.9.0.64",
        "a freed address is the next to be given"
    );
}

#[test]
fn hosts_hostname_and_resolv_conf_are_the_containers_own() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with(
        "c1",
        &[
            "--add-host",
            "db:10.1.2.3",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.org",
        ],
    );
    tunbridge.container_with("c2", &["--hostname", "alpha"]);
    let read = |name: &str, path: &str| {
        tunbridge
            .cli(&["exec", name, "--", "cat", path])
            .expect_success()
            .stdout
    };

    let id = tunbridge.inspect("c1")["Id"].as_str().unwrap().to_owned();
    assert_eq!(read("c1", "/etc/hostname").trim(), &id[..12]);
    let hosts = read("c1", "/etc/hosts");
    assert!(
        hosts.contains(&format!("172.17.0.2\t{}", &id[..12])),
        "{hosts}"
    );
    assert!(hosts.contains("10.1.2.3\tdb"), "{hosts}");
    // As in Docker: they are there because the container's lo has the address.
    let loopback = tunbridge
        .cli(&["exec", "c1", "--", "ip", "-6", "addr", "show", "lo"])
        .expect_success()
        .stdout;
    assert_eq!(
        hosts.contains("::1\tlocalhost ip6-localhost ip6-loopback\n"),
        loopback.contains("inet6 ::1/128"),
        "{hosts}{loopback}"
    );
    let resolv_conf = read("c1", "/etc/resolv.conf");
    assert!(
        resolv_conf.contains("nameserver 192.0.2.53") && resolv_conf.contains("search example.org"),
        "{resolv_conf}"
    );
    assert_eq!(
        tunbridge
            .cli(&["exec", "c2", "--", "hostname"])
            .expect_success()
            .stdout
            .trim(),
        "alpha"
    );
    assert!(read("c2", "/etc/hosts").contains("172.17.0.3\talpha"));

    // The host's files are the host's.
    let own = lab
        .host()
        .run(&["cat", "/etc/hosts", "/etc/hostname"])
        .stdout;
    assert!(!own.contains("alpha") && !own.contains(&id[..12]), "{own}");
    assert_eq!(lab.host().run(&["hostname"]).stdout.trim(), "host");
}

#[test]
fn the_network_namespace_has_the_containers_name() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("c1");

    let inside = lab
        .host()
        .run(&["ip", "netns", "exec", "c1", "readlink", "/proc/self/ns/net"])
        .expect_success();
    let process = tunbridge
        .cli(&["exec", "c1", "--", "readlink", "/proc/self/ns/net"])
        .expect_success();
    assert_eq!(inside.stdout, process.stdout);
    assert_ne!(
        inside.stdout,
        lab.host().run(&["readlink", "/proc/self/ns/net"]).stdout
    );
}

#[test]
fn a_foreground_run_passes_output_exit_status_and_signals_on() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let run = |command: &[&str]| {
        tunbridge.cli(&[&["run", "--rm", "--name", "fg", "--"], command].concat())
    };

    let said = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (said.code, said.stdout.trim(), said.stderr.trim()),
        (Some(7), "out", "err")
    );
    assert_eq!(
        run(&["sh", "-c", "kill -9 $$"]).code,
        Some(137),
        "128 + the signal that ended it"
    );
    assert_eq!(run(&["/no/such/program"]).code, Some(127), "not found");
    assert_eq!(run(&["/etc"]).code, Some(126), "not executable");

    let mut waiting = lab.host().start(&[
        env!("CARGO_BIN_EXE_tunbridge"),
        "run",
        "--rm",
        "--name",
        "fg",
        "--",
        "bash",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    assert_eq!(waiting.read_line(), "ready");
    waiting.signal("TERM");
    assert_eq!(
        waiting.ended_within(std::time::Duration::from_secs(5)),
        Some(Some(9))
    );
    assert!(
        !tunbridge.names(&["-a"]).contains(&"fg".to_owned()),
        "--rm removed it each time"
    );
}

#[test]
fn environment_and_hostname_reach_the_process() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let words = [
        "run",
        "--rm",
        "--name",
        "env",
        "-e",
        "COLOUR=blue",
        "--hostname",
        "h1",
        "--",
        "sh",
        "-c",
        "echo $COLOUR $(hostname)",
    ];
    assert_eq!(
        tunbridge.cli(&words).expect_success().stdout.trim(),
        "blue h1"
    );
}

#[test]
fn a_root_file_system_of_ones_own_is_used() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let _server = lab.far().serve(&["7000"]);
    lab.host()
        .shell("mkdir -p /run/lab/root/bin /run/lab/root/etc && cp /bin/busybox /run/lab/root/bin/ && ln -s busybox /run/lab/root/bin/sh")
        .expect_success();

    let words = [
        "run",
        "--rm",
        "--name",
        "rooted",
        "--rootfs",
        "/run/lab/root",
        "--",
        "/bin/sh",
        "-c",
        "busybox cat /etc/hosts && busybox nc 192.0.2.9 7000 </dev/null",
    ];
    let said = tunbridge.cli(&words).expect_success().stdout;
    assert!(said.contains("172.17.0.2\t"), "{said}");
    assert!(said.contains(&format!("server-saw={HOST}:")), "{said}");
}

/// What `..` leads to before the root is changed, and in the middle of it, is the host's.
#[test]
fn links_of_a_root_file_system_lead_nowhere_else() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for (name, link) in [
        ("up", "../run/lab/victim"),
        ("far-up", "../../../../run/lab/victim"),
        ("absolute", "/run/lab/victim"),
    ] {
        let root = format!("/run/lab/{name}");
        lab.host()
            .shell(&format!(
                "mkdir -p {root}/bin /run/lab/victim && cp /bin/busybox {root}/bin/ && ln -s {link} {root}/etc"
            ))
            .expect_success();
        let words = [
            "run",
            "--rm",
            "--rootfs",
            &root,
            "--",
            "/bin/busybox",
            "cat",
            "/etc/hosts",
        ];
        // The link's target is in the root file system, and there is none.
        let said = tunbridge.cli(&words).expect_failure().stderr;
        assert!(said.contains("/etc/hosts"), "{said}");
        lab.host()
            .shell(&format!("mkdir -p {root}/run/lab/victim"))
            .expect_success();
        let said = tunbridge.cli(&words).expect_success().stdout;
        assert!(said.contains("172.17.0.2\t"), "{said}");
        let outside = lab.host().shell("ls -A /run/lab/victim").expect_success();
        assert_eq!(outside.stdout, "", "{link}");
    }
}

#[test]
fn an_adopted_namespace_gets_a_network_and_keeps_what_was_there() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let _server = lab.far().serve(&["7000"]);
    lab.host()
        .run(&["ip", "netns", "add", "foreign"])
        .expect_success();
    let process = lab.host().start(&["unshare", "--net", "sleep", "1000"]);

    tunbridge
        .cli(&[
            "attach",
            "--name",
            "a1",
            "--netns",
            "/run/netns/foreign",
            "-p",
            "8080:80",
        ])
        .expect_success();
    tunbridge
        .cli(&["attach", "--name", "a2", "--pid", process.pid()])
        .expect_success();
    let (foreign, by_pid) = (lab.place("foreign"), lab.place("a2"));
    let _web = foreign.serve(&["80"]);
    assert_eq!(foreign.tcp("192.0.2.9:7000").unwrap().saw_address(), HOST);
    assert_eq!(by_pid.tcp("192.0.2.9:7000").unwrap().saw_address(), HOST);
    lab.lan().tcp("198.51.100.2:8080").unwrap();

    tunbridge.cli(&["rm", "-f", "a1", "a2"]).expect_success();
    let links = foreign.run(&["ip", "-o", "link"]).expect_success().stdout;
    assert!(!links.contains("eth0"), "what attach made is gone: {links}");
    assert!(
        process.pid().parse::<u32>().is_ok()
            && lab.host().run(&["kill", "-0", process.pid()]).succeeded()
    );
    drop(process);
    lab.host()
        .run(&["ip", "netns", "delete", "foreign"])
        .expect_success();
}

#[test]
fn inspect_is_shaped_like_dockers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with(
        "web",
        &[
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1:8081:80",
            "--mac-address",
            "02:42:00:00:00:99",
        ],
    );

    let web = tunbridge.inspect("web");
    assert_eq!(web["Name"], "/web");
    assert_eq!(web["State"]["Running"], true);
    let pid = web["State"]["Pid"].as_u64().unwrap().to_string();
    assert!(
        lab.host().run(&["kill", "-0", &pid]).succeeded(),
        "Pid is a process"
    );
    let network = &web["NetworkSettings"]["Networks"]["bridge"];
    assert_eq!(network["IPAddress"], "172.17.0.2");
    assert_eq!(network["Gateway"], "172.17.0.1");
    assert_eq!(network["IPPrefixLen"], 16);
    assert_eq!(network["MacAddress"], "02:42:00:00:00:99");
    let mut bindings = web["NetworkSettings"]["Ports"]["80/tcp"]
        .as_array()
        .unwrap()
        .clone();
    bindings.sort_by_key(|binding| binding["HostPort"].as_str().map(str::to_owned));
    assert_eq!(
        bindings,
        [
            json!({"HostIp": "0.0.0.0", "HostPort": "8080"}),
            json!({"HostIp": "::", "HostPort": "8080"}),
            json!({"HostIp": "127.0.0.1", "HostPort": "8081"})
        ]
    );
    assert_eq!(lab.place("web").mac("eth0"), "02:42:00:00:00:99");
}

#[test]
fn ps_stop_and_rm_follow_a_container_through_its_life() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("c1");
    assert!(tunbridge.names(&[]).contains(&"c1".to_owned()));
    let refused = tunbridge.cli(&["rm", "c1"]).expect_failure();
    assert!(refused.stderr.contains("c1"), "{}", refused.stderr);

    tunbridge.cli(&["stop", "c1"]).expect_success();
    assert!(!tunbridge.names(&[]).contains(&"c1".to_owned()));
    assert!(tunbridge.names(&["-a"]).contains(&"c1".to_owned()));
    tunbridge.cli(&["rm", "c1"]).expect_success();
    assert!(!tunbridge.names(&["-a"]).contains(&"c1".to_owned()));
    assert!(!lab.host().shell("test -e /run/netns/c1").succeeded());
}

#[test]
fn a_container_without_an_interface_reaches_itself() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let none = tunbridge.server("none", &["--network", "none"]);
    none.tcp("127.0.0.1:80").unwrap();

    // Nor does one whose last network was taken while it did not run.
    let last = tunbridge.container("last");
    for words in [
        &["stop", "last"][..],
        &["network", "disconnect", "bridge", "last"],
        &["start", "last"],
    ] {
        tunbridge.cli(words).expect_success();
    }
    last.ping("127.0.0.1").expect_success();
}

#[test]
fn interfaces_get_names_that_an_adopted_namespace_has_free() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for line in [
        "ip netns add theirs",
        "ip -n theirs link add eth0 type veth peer name eth2",
    ] {
        lab.host().shell(line).expect_success();
    }
    let words = ["--name", "mine", "--netns", "/run/netns/theirs"];
    tunbridge
        .cli(&[&["attach"], &words[..]].concat())
        .expect_success();
    let words = ["network", "create", "one"];
    tunbridge.cli(&words).expect_success();
    let words = ["network", "connect", "one", "mine"];
    tunbridge.cli(&words).expect_success();
    let addresses = lab
        .host()
        .shell("ip -n theirs -o -4 address | awk '{print $2, $4}'");
    assert_eq!(
        addresses.stdout,
        "lo 127.0.0.1/8\neth1 172.17.0.2/16\neth3 172.18.0.2/16\n"
    );
    tunbridge.cli(&["rm", "-f", "mine"]).expect_success();
    lab.host().shell("ip netns delete theirs").expect_success();
}
