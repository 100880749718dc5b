//! Plugins in host namespaces of their own, and daemons that are started for somebody.

use std::time::Duration;

use super::runtime::{NOTHING, Runtime, own};
use crate::lab::{Lab, eventually};
use crate::tunbridge_under_test::binary;

#[test]
fn a_plugin_in_another_host_namespace_gets_a_daemon_of_its_own() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    lab.host()
        .run(&["ip", "netns", "add", "nested"])
        .expect_success();
    let nested = lab.place("nested");
    nested.shell("ip link set lo up").expect_success();
    let runtime = Runtime::in_host(&lab, nested.clone());
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    let config = own("net1");
    // Both at once: one of them starts it.
    std::thread::scope(|scope| {
        scope.spawn(|| one.add(&config));
        scope.spawn(|| two.add(&config));
    });
    assert_eq!(one.interfaces(), ["eth0"]);
    let address = two
        .place
        .shell("ip -4 -o address show eth0 | awk '{ print $4 }' | cut -d/ -f1");
    one.place.ping(address.stdout.trim()).expect_success();
    assert!(nested.shell("ip link").stdout.contains("tbtun0"));
    assert!(
        !lab.host().shell("ip link").stdout.contains("tb-"),
        "nothing here"
    );
    assert_eq!(tunbridge.names(&["-a"]), NOTHING);
    let sockets = lab
        .host()
        .shell("ls /run/tunbridge/ns-*/tunbridge.sock")
        .stdout;
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
    one.del(&config);
    two.del(&config);
    assert_eq!(one.interfaces(), NOTHING);
    let socket = sockets.trim();
    let listed = tunbridge
        .cli(&["--socket", socket, "ps", "-aq"])
        .expect_success();
    assert_eq!(listed.stdout, "");
    // It would end by itself after a while.
    end_daemon(&lab, socket, "TERM");
    let left = nested.shell("ip -br link").stdout;
    assert!(!left.contains("tbtun0") && !left.contains("tb-"), "{left}");
    // The next one starts another.
    one.add(&config);
    one.del(&config);
    end_daemon(&lab, socket, "KILL");
    lab.host()
        .shell("rm -r /run/tunbridge/ns-*")
        .expect_success();
    lab.host()
        .run(&["ip", "netns", "delete", "nested"])
        .expect_success();
}

/// Only descriptors mean the same in both: the machine's sockets are not to be seen there.
#[test]
fn a_plugin_in_another_mount_namespace_gets_a_daemon_that_it_can_reach() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    lab.host()
        .run(&["ip", "netns", "add", "nested"])
        .expect_success();
    let nested = lab.place("nested");
    nested.shell("ip link set lo up").expect_success();
    let runtime = Runtime::in_host(&lab, nested.clone());
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    let hidden = "mount -t tmpfs tmpfs /run/tunbridge && echo $$ && exec sleep 1000";
    let mut engine = nested.start(&["unshare", "--mount", "sh", "-c", hidden]);
    let pid = engine.read_line();
    let wrapped = format!(
        "mkdir /run/wrapped && printf '#!/bin/sh\nexec nsenter --mount --target {pid} /run/cni/tunbridge\n' >/run/wrapped/tunbridge
        chmod 755 /run/wrapped/tunbridge"
    );
    lab.host().shell(&wrapped).expect_success();
    let config = own("net1");
    let call = |verb: &str| one.call_in("/run/wrapped", "tunbridge", verb, &config, &[]);
    call("ADD").expect_success();
    assert_eq!(one.interfaces(), ["eth0"]);
    assert_eq!(tunbridge.names(&["-a"]), NOTHING);
    let inside = |line: &str| {
        let line = format!("nsenter --mount --target {pid} sh -c '{line}'");
        lab.host().shell(&line).expect_success().stdout
    };
    let socket = inside("ls /run/tunbridge/ns-*/tunbridge.sock");
    assert_eq!(socket.lines().count(), 1, "{socket}");
    // One who does not see it is told that a namespace has one daemon.
    let (code, text) = two.fails("ADD", &config);
    assert!(
        code == 11 && text.contains("tbtun0 belongs to another tunbridge daemon"),
        "{text}"
    );
    call("STATUS").expect_success();
    call("DEL").expect_success();
    assert_eq!(one.interfaces(), NOTHING);
    end_daemon(&lab, socket.trim(), "TERM");
    let left = nested.shell("ip -br link").stdout;
    assert!(!left.contains("tbtun0") && !left.contains("tb-"), "{left}");
    lab.host()
        .shell("rm -rf /run/tunbridge/ns-*; ip netns delete nested")
        .expect_success();
}

/// Ends the daemon of a socket, and waits until it has.
pub(super) fn end_daemon(lab: &Lab, socket: &str, signal: &str) {
    let line = format!(
        "pid=$(pgrep -f '^tunbridge --socket {socket} ') && kill -{signal} $pid && while [ -d /proc/$pid ]; do sleep 0.05; done"
    );
    lab.host().shell(&line).expect_success();
}

#[test]
fn a_daemon_ends_when_it_has_had_no_containers_for_a_while() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&["--exit-when-idle", "2"]);
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let config = own("net1");
    one.add(&config);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(tunbridge.names(&[]).len(), 1);
    one.del(&config);
    assert_eq!(tunbridge.ended(), Some(Some(0)));
}

#[test]
fn a_daemon_ends_when_all_that_it_serves_is_dead() {
    let lab = Lab::plain();
    lab.host()
        .run(&["ip", "netns", "add", "nested"])
        .expect_success();
    let nested = lab.place("nested");
    nested.shell("ip link set lo up").expect_success();
    // A namespace that a runtime works in.
    let engine = nested.start(&["sleep", "1000"]);
    let runtime = Runtime::in_host(&lab, nested.clone());
    let one = runtime.container("one");
    let socket = "/run/lab/nested.sock";
    let mut daemon = nested.start(&[
        &binary(),
        "--socket",
        socket,
        "daemon",
        "--purge",
        "--exit-when-idle",
        "2",
        "--state-dir",
        "/run/lab/nested",
    ]);
    assert!(eventually(Duration::from_secs(20), || lab
        .path(socket)
        .exists()));
    let added = one.call(
        "tunbridge",
        "ADD",
        &own("net1"),
        &[("TUNBRIDGE_SOCKET", socket)],
    );
    added.expect_success();
    assert_eq!(daemon.ended_within(Duration::from_secs(4)), None);
    // The runtime is killed, and says nothing.
    drop(engine);
    assert_eq!(daemon.ended_within(Duration::from_secs(20)), Some(Some(0)));
    assert_eq!(one.interfaces(), NOTHING);
    lab.host()
        .run(&["ip", "netns", "delete", "nested"])
        .expect_success();
}

/// What a service manager does: listens, and starts the daemon with the socket as descriptor 3.
const MANAGER: &str = r#"
import os, select, socket, sys
path, program = sys.argv[1], sys.argv[2]
os.makedirs(os.path.dirname(path), exist_ok=True)
os.makedirs("/run/lab", exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
print("listening", flush=True)
select.select([server], [], [])  # the first client waits in the queue
os.dup2(server.fileno(), 3)
os.dup2(os.open("/run/lab/activated.log", os.O_WRONLY | os.O_CREAT), 2)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(program, [program, "--socket", path, "daemon", "--purge", "--state-dir", "/run/lab/activated"])
"#;

#[test]
fn the_first_client_starts_the_daemon_by_the_service_managers_socket() {
    let lab = Lab::plain();
    let socket = "/run/tunbridge/tunbridge.sock";
    let mut manager = lab
        .host()
        .start(&["python3", "-c", MANAGER, socket, &binary()]);
    assert_eq!(manager.read_line(), "listening");
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let config = own("net1");
    one.add(&config);
    one.del(&config);
    manager.signal("TERM");
    assert_eq!(manager.ended_within(Duration::from_secs(20)), Some(Some(0)));
    // It is the manager's.
    assert!(eventually(Duration::from_secs(1), || lab
        .path(socket)
        .exists()));
}
