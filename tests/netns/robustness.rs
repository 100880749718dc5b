//! Things that are killed, deleted, filled up or held at the worst moment.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::lab::{FAR, Lab, Place, Running, eventually};
use crate::tunbridge_under_test::{self as under_test, Tunbridge};

const SOCKET: &str = "/run/tunbridge/tunbridge.sock";

/// Namespaces that are no places of the lab.
fn namespaces(lab: &Lab) -> BTreeSet<String> {
    let names = lab.host().run(&["ls", "/run/netns"]).expect_success();
    let places = ["host", "wan", "lan", "far"];
    names
        .stdout
        .lines()
        .filter(|name| !places.contains(name))
        .map(str::to_owned)
        .collect()
}

fn reaches_the_outside(container: &Place) -> bool {
    eventually(Duration::from_secs(5), || container.ping(FAR).succeeded())
}

#[test]
fn an_idle_daemon_does_nothing_to_the_kernel() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    assert!(reaches_the_outside(&c1));
    std::thread::sleep(Duration::from_millis(500));
    let changes = lab
        .host()
        .shell("timeout 1 ip -4 monitor link address route rule netconf");
    assert_eq!(changes.stdout, "", "changes though nobody did anything");
}

#[test]
fn somebody_elses_namespace_survives_whatever_happens_to_its_name() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let host = lab.host();

    // It has the name of a container that has exited.
    tunbridge
        .cli(&["run", "--name", "web", "--", "true"])
        .expect_success();
    assert!(namespaces(&lab).is_empty(), "what has exited has none");
    host.run(&["ip", "netns", "add", "web"]).expect_success();
    tunbridge.cli(&["rm", "web"]).expect_success();
    assert!(namespaces(&lab).contains("web"), "removed with the record");

    // Its name is the beginning of a container's id.
    tunbridge.container("c1");
    let id = tunbridge.inspect("c1")["Id"].as_str().unwrap()[..4].to_owned();
    host.run(&["ip", "netns", "add", &id]).expect_success();
    tunbridge
        .cli(&["run", "-d", "--name", &id, "--", "sleep", "100"])
        .expect_failure();
    assert!(namespaces(&lab).contains(&id), "removed after a failure");

    host.run(&["ip", "netns", "delete", "web"]).expect_success();
    host.run(&["ip", "netns", "delete", &id]).expect_success();
}

#[test]
fn a_daemon_whose_tun_is_deleted_says_so_and_ends() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    lab.host()
        .run(&["ip", "link", "delete", "tbtun0"])
        .expect_success();
    assert_eq!(tunbridge.ended(), Some(Some(1)), "{}", tunbridge.log());
    assert!(tunbridge.log().contains("tbtun0"), "{}", tunbridge.log());
    tunbridge.start_again();
    assert!(reaches_the_outside(&c1));
}

#[test]
fn interfaces_that_somebody_takes_down_come_up_again() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    for interface in [
        "tbtun0",
        "tb0",
        "$(ip -br link show master tb0 | cut -d@ -f1)",
    ] {
        lab.host()
            .shell(&format!("ip link set {interface} down"))
            .expect_success();
        assert!(reaches_the_outside(&c1), "{interface} was set down");
    }
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let c1 = tunbridge.container("c1");
    let port = || lab.host().shell("ip -o link show master tb0").stdout;
    let before = port();
    let refused = lab.host().run(&[
        "timeout",
        "10",
        &under_test::binary(),
        "daemon",
        "--state-dir",
        "/run/lab/second",
        "--socket",
        "/run/lab/second.sock",
    ]);
    assert_eq!(refused.code, Some(1), "{}", refused.output());
    let words = format!(
        "tbtun0 belongs to another tunbridge daemon in this network namespace (process {}): there can be one; stop it, or use its socket with --socket",
        tunbridge.pid()
    );
    assert!(refused.stderr.contains(&words), "{}", refused.output());
    assert_eq!(port(), before, "the first daemon's interfaces");

    // With the same socket it must not take that away either, whatever it finds out first.
    under_test::daemon_that_refuses(&lab, &[]).expect_failure();
    tunbridge.cli(&["ps"]).expect_success();
    assert!(reaches_the_outside(&c1));
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_being_removed() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for milliseconds in [30, 120, 250] {
        let names: Vec<String> = (0..12).map(|n| format!("c{milliseconds}-{n}")).collect();
        for name in &names {
            tunbridge.container(name);
        }
        let _removals: Vec<Running> = names
            .iter()
            .map(|name| {
                let binary = under_test::binary();
                lab.host().start(&[&binary, "rm", "-f", name])
            })
            .collect();
        std::thread::sleep(Duration::from_millis(milliseconds));
        tunbridge.kill();
        tunbridge.start_again();

        let known = tunbridge.cli(&["ps", "-a", "--json"]).expect_success();
        let known: Vec<serde_json::Value> = serde_json::from_str(&known.stdout).unwrap();
        let texts = |select: &dyn Fn(&serde_json::Value) -> Option<String>| -> BTreeSet<String> {
            known.iter().filter_map(select).collect()
        };
        let running = texts(&|container| {
            let name = container["Names"][0].as_str()?.trim_start_matches('/');
            (container["State"] == "running").then(|| name.to_owned())
        });
        assert_eq!(namespaces(&lab), running, "after {milliseconds} ms");
        let files = lab.host().run(&["ls", "/run/lab/state/containers"]).stdout;
        let files: BTreeSet<String> = files.lines().map(str::to_owned).collect();
        let ids = texts(&|container| container["Id"].as_str().map(str::to_owned));
        assert_eq!(files, ids, "after {milliseconds} ms");
        let ports = lab.host().shell("ip -o link show master tb0").stdout;
        assert_eq!(ports.lines().count(), running.len(), "{ports}");
    }
}

#[test]
fn a_late_report_of_a_former_end_does_not_end_the_next_run() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("c1");
    let pid = || {
        let words = ["inspect", "--format", "{{.State.Pid}}", "c1"];
        tunbridge.cli(&words).stdout.trim().to_owned()
    };
    let former = pid();
    tunbridge
        .cli(&["restart", "-t", "0", "c1"])
        .expect_success();
    let report = |pid: &str| {
        let body = format!("{{\"code\":7,\"pid\":{pid}}}");
        lab.host()
            .shell(&format!(
                "curl -sS -H 'Content-Type: application/json' -d '{body}' -w '%{{http_code}}' \
                 --unix-socket /run/tunbridge/tunbridge.sock \
                 http://tunbridge/tunbridge/containers/c1/exited"
            ))
            .stdout
    };
    assert_eq!(report(&former), "204");
    assert!(reaches_the_outside(&lab.place("c1")));
    assert_eq!(tunbridge.names(&[]), ["c1"]);
    // The present one's own is believed.
    let present = pid();
    assert_eq!(report(&present), "204");
    assert!(tunbridge.names(&[]).is_empty());
    // Its network was taken away, not its life.
    lab.host().run(&["kill", &present]).expect_success();
}

/// Hands requests on to the daemon, but keeps the one that tells of a container's process.
const RELAY: &str = r#"
import socket, threading
def serve(client):
    request = client.recv(1 << 16)
    if b"/started" in request.split(b"\r\n")[0]:
        print("started", flush=True)
        return
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect("/run/tunbridge/tunbridge.sock")
    daemon.sendall(request)
    while piece := daemon.recv(1 << 16):
        client.sendall(piece)
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/lab/relay.sock")
listener.listen()
kept = []
print("listening", flush=True)
while True:
    kept.append(listener.accept()[0])
    threading.Thread(target=serve, args=(kept[-1],)).start()
"#;

#[test]
fn no_program_runs_that_the_daemon_does_not_know_of() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let mut relay = lab.host().start(&["python3", "-c", RELAY]);
    assert_eq!(relay.read_line(), "listening");
    let binary = under_test::binary();
    let words = [
        "--socket",
        "/run/lab/relay.sock",
        "run",
        "--name",
        "c1",
        "--",
    ];
    let starter = lab
        .host()
        .start(&[&[binary.as_str()], &words[..], &["sleep", "4321"]].concat());
    assert_eq!(relay.read_line(), "started");
    starter.signal("KILL");
    // For the daemon it is the relay that wanted the container.
    drop(relay);

    let forgotten = || lab.host().run(&["pgrep", "-f", "^sleep 4321"]).stdout;
    assert!(
        eventually(Duration::from_secs(5), || forgotten().is_empty()
            && namespaces(&lab).is_empty()),
        "processes {:?}, namespaces {:?}",
        forgotten(),
        namespaces(&lab)
    );
    assert!(!tunbridge.names(&["-a"]).contains(&"c1".to_owned()));
}

#[test]
fn a_client_that_does_not_finish_its_request_does_not_keep_the_daemon() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let halves = format!(
        "import socket, time
connections = []
for half in (b'GET /_ping HT', b'POST /tunbridge/containers HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 9\\r\\n\\r\\n{{'):
    connections.append(socket.socket(socket.AF_UNIX))
    connections[-1].connect('{SOCKET}')
    connections[-1].sendall(half)
print('sent', flush=True)
time.sleep(100)"
    );
    let mut client = lab.host().start(&["python3", "-c", &halves]);
    assert_eq!(client.read_line(), "sent");
    tunbridge.stop_and_leave_nothing();
}

#[test]
fn a_full_disk_is_survived() {
    let lab = Lab::plain();
    lab.host()
        .shell("mkdir -p /run/lab/state && mount -t tmpfs -o size=3m tmpfs /run/lab/state")
        .expect_success();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("c1", &["-p", "8080:80"]);
    let pid = tunbridge.inspect("c1")["State"]["Pid"].to_string();
    lab.host()
        .shell("head -c 3m /dev/zero >/run/lab/state/filling")
        .expect_failure();

    let run = |name: &str| tunbridge.cli(&["run", "-d", "--name", name, "--", "sleep", "100"]);
    for name in ["c2", "c3"] {
        let refused = run(name).expect_failure();
        assert!(
            refused.stderr.contains("No space left"),
            "{}",
            refused.stderr
        );
    }
    lab.host().run(&["kill", "-KILL", &pid]).expect_success();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(namespaces_of_others(&lab, "c1"), Vec::<String>::new());

    lab.host()
        .run(&["rm", "/run/lab/state/filling"])
        .expect_success();
    run("c4").expect_success();
    assert!(
        eventually(Duration::from_secs(15), || exited(&tunbridge, "c1")),
        "an end that could not be stored is stored later"
    );
    tunbridge.container_with("c5", &["-p", "8080:80"]);
}

fn namespaces_of_others(lab: &Lab, name: &str) -> Vec<String> {
    let mut names = namespaces(lab);
    names.remove(name);
    names.into_iter().collect()
}

fn exited(tunbridge: &Tunbridge<'_>, name: &str) -> bool {
    tunbridge.inspect(name)["State"]["Status"] == "exited"
}

#[test]
fn a_daemon_without_descriptors_for_ports_still_answers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("c1");
    lab.host()
        .run(&["prlimit", "--pid", tunbridge.pid(), "--nofile=512:512"])
        .expect_success();
    let publish = |spec: &str| tunbridge.cli(&["publish", "c1", spec]);
    let refused = publish("20000-20999:20000-20999/udp").expect_failure();
    assert!(refused.stderr.contains("open files"), "{}", refused.stderr);
    let fits = (0..100).take_while(|n| {
        let first = 20_000 + 5 * n;
        publish(&format!("{first}-{0}:{first}-{0}/udp", first + 4)).succeeded()
    });
    let published = fits.count();
    assert!((1..100).contains(&published), "{published}");
    tunbridge.container("c2");
    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
}

#[test]
fn ten_thousand_ports_on_both_families_or_the_limit_is_named() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let range = "20000-29999:20000-29999/udp";
    let words = [
        "run", "-d", "--name", "web", "-p", range, "--", "sleep", "1000",
    ];
    let words_of_limit = [
        "prlimit",
        "--pid",
        tunbridge.pid(),
        "--nofile",
        "--noheadings",
        "-o",
        "SOFT",
    ];
    let limit = lab.host().run(&words_of_limit).expect_success().stdout;
    let limit = limit.trim().parse::<u32>().ok();
    if limit > Some(20_200) {
        tunbridge.cli(&words).expect_success();
        return;
    }
    // Not everybody may raise it.
    let refused = tunbridge.cli(&words).expect_failure().stderr;
    assert!(
        refused.contains("the daemon's limit is") && refused.contains("LimitNOFILE="),
        "{refused}"
    );
    assert_eq!(refused.trim_end().lines().count(), 1, "{refused}");
    let one_family = ["-p", "0.0.0.0:20000-29999:20000-29999/udp"];
    tunbridge.container_with("web", &one_family);
}

/// Opening a file for writing waits, 45 s, for whoever has a lease on it (fcntl(2), F_SETLEASE).
#[test]
fn a_lease_on_a_containers_files_delays_nobody() {
    const LEASES: &str = "import fcntl, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
files = [open(f'/etc/{name}', 'r+') for name in ('hosts', 'resolv.conf')]
for file in files:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open('/run/lab/held', 'w')
time.sleep(1000)";
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for network in ["one", "two"] {
        tunbridge
            .cli(&["network", "create", network])
            .expect_success();
    }
    let options = ["--network", "one"];
    tunbridge.run("evil", &options, &["/usr/bin/python3", "-c", LEASES]);
    let held = || lab.host().run(&["test", "-e", "/run/lab/held"]).succeeded();
    assert!(eventually(Duration::from_secs(20), held));
    let began = Instant::now();
    tunbridge
        .cli(&["network", "connect", "two", "evil"])
        .expect_success();
    tunbridge.cli(&["ps"]).expect_success();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(tunbridge.log().contains("cannot write its files"));
}
