//! `run --rootfs`, `exec` and `attach`: other roots, other namespaces.

use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::{CREATED, DELETED, assert_one_line, cli, code, copy_program, run, stderr, stdout};

/// A root with nothing but busybox, and a resolv.conf that points out of it.
pub(crate) fn rootfs(daemon: &FakeDaemon) -> PathBuf {
    let root = daemon.directory().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    copy_program(Path::new("/usr/bin/busybox"), &root.join("bin/busybox"));
    for name in [
        "sh", "cat", "ls", "hostname", "xargs", "sleep", "pwd", "wc", "readlink", "mv", "rm",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    symlink("/run/nowhere/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    root
}

#[test]
fn a_root_directory_of_its_own() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    let script = "pwd; ls / | xargs; hostname; cat /etc/hosts /etc/hostname /etc/resolv.conf; \
                  ls /sys/class/net | xargs; ls /dev | xargs; echo x > /dev/null && cat /proc/mounts";
    let output = cli(&daemon, &["run", "--hostname", "box", "--rootfs"])
        .arg(&root)
        .args(["--", "sh", "-c", script])
        .output()
        .unwrap();
    let text = stdout(&output);
    let expected = "/\nbin dev etc proc sys\nbox\n172.17.0.2\tbox\nbox\nnameserver 192.0.2.53\nlo tbcli0\n\
                    fd full null ptmx pts random shm stderr stdin stdout tty urandom zero\n";
    let mounts = text
        .strip_prefix(expected)
        .unwrap_or_else(|| panic!("{text}{}", stderr(&output)));
    let mut places: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| !place.starts_with("/dev/"))
        .collect();
    places.sort_unstable();
    let own = [
        "/",
        "/dev",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/proc",
        "/sys",
    ];
    assert_eq!(places, own, "mounts of the host are seen");
    assert_eq!(daemon.body("/containers")["rootfs"], root.to_str().unwrap());
    // Seen from the host, nothing was written through the link, and nothing is mounted.
    assert_eq!(
        fs::read_link(root.join("etc/resolv.conf")).unwrap(),
        Path::new("/run/nowhere/resolv.conf")
    );
    assert_eq!(fs::read_to_string(root.join("etc/hosts")).unwrap(), "");
    assert!(!Path::new("/run/nowhere").exists());
    assert!(fs::read_dir(root.join("dev")).unwrap().next().is_none());
}

#[test]
fn a_root_directory_cannot_lead_the_mounts_out_of_itself() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    symlink("/tmp", root.join("dev")).unwrap();
    let output = run(&daemon, &["run", "--rootfs", root.to_str().unwrap(), "ls"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["--rootfs", "dev", "not a directory"]);
    assert_eq!(daemon.steps(), [CREATED, DELETED]);
}

#[test]
fn a_command_is_looked_for_in_the_containers_root() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    let output = run(
        &daemon,
        &["run", "--rootfs", root.to_str().unwrap(), "python3"],
    );
    assert_eq!(code(&output), 127, "{output:?}");
}

/// A container in the background; dropping it ends it and waits until its end is reported.
struct Background<'d> {
    daemon: &'d FakeDaemon,
    pid: Pid,
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        if !std::thread::panicking() {
            self.daemon.wait_for("/exited");
        }
    }
}

fn started<'d>(daemon: &'d FakeDaemon, options: &[&str], command: &[&str]) -> Background<'d> {
    let words = [
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--hostname",
            "box",
            "-e",
            "A=1",
        ],
        options,
        &["--"],
        command,
    ]
    .concat();
    let output = run(daemon, &words);
    assert_eq!(code(&output), 0, "{output:?}");
    let pid = i32::try_from(daemon.body("/started")["pid"].as_i64().unwrap()).unwrap();
    Background {
        daemon,
        pid: Pid::from_raw(pid),
    }
}

#[test]
fn exec_enters_a_container() {
    let daemon = FakeDaemon::start();
    let container = started(&daemon, &[], &["sleep", "100"]);
    let script = "hostname; cat /etc/resolv.conf; ls /sys/class/net | xargs; echo $A $B $HOSTNAME; pwd; exit 3";
    let output = cli(
        &daemon,
        &["exec", "-e", "B=2", "web", "--", "sh", "-c", script],
    )
    .current_dir(daemon.directory())
    .output()
    .unwrap();
    let here = daemon.directory().display();
    assert_eq!(
        stdout(&output),
        format!("box\nnameserver 192.0.2.53\nlo tbcli0\n1 2 box\n{here}\n"),
        "{output:?}"
    );
    assert_eq!(code(&output), 3);
    let output = run(&daemon, &["exec", "-w", "/etc", "web", "pwd"]);
    assert_eq!(stdout(&output), "/etc\n");
    let output = run(&daemon, &["exec", "-w", "/no/such", "web", "pwd"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["--workdir /no/such"]);
    let output = run(&daemon, &["exec", "web", "no-such-program"]);
    assert_eq!(code(&output), 127);
    assert_one_line(&output, &["no-such-program"]);
    drop(container);
    assert_eq!(daemon.exit_code(), 137);
    let output = run(&daemon, &["exec", "web", "true"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["web", "not running"]);
}

#[test]
fn exec_sees_the_root_directory_of_its_container() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    let _container = started(
        &daemon,
        &["--rootfs", root.to_str().unwrap()],
        &["sleep", "100"],
    );
    let output = run(
        &daemon,
        &["exec", "web", "sh", "-c", "pwd; ls / | xargs; hostname"],
    );
    assert_eq!(
        stdout(&output),
        "/\nbin dev etc proc sys\nbox\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn exec_in_an_adopted_container_enters_its_network_alone() {
    let daemon = FakeDaemon::start();
    let _container = started(&daemon, &[], &["sleep", "100"]);
    let mut inspect = daemon.container("web");
    inspect["Config"]["Cmd"] = json!([]);
    daemon.add("adopted", inspect);
    let output = run(
        &daemon,
        &[
            "exec",
            "adopted",
            "sh",
            "-c",
            "hostname; grep -c tbcli0 /proc/net/dev",
        ],
    );
    let host_name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(stdout(&output), format!("{host_name}\n1\n"), "{output:?}");
}

#[test]
fn exec_does_not_enter_a_process_that_took_over_the_number() {
    let daemon = FakeDaemon::start();
    let _container = started(&daemon, &[], &["sleep", "100"]);
    let mut inspect = daemon.container("web");
    inspect["State"]["Pid"] = json!(std::process::id());
    daemon.add("web", inspect);
    let output = run(&daemon, &["exec", "web", "true"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["has just ended"]);
}

#[test]
fn attach_asks_the_daemon_and_prints_the_id() {
    let daemon = FakeDaemon::start();
    let container = started(&daemon, &[], &["sleep", "100"]);
    let netns = daemon.container("web")["NetworkSettings"]["SandboxKey"]
        .as_str()
        .unwrap()
        .to_owned();
    let output = run(
        &daemon,
        &["attach", "--name", "a", "--netns", &netns, "-p", "80"],
    );
    assert_eq!(
        stdout(&output).trim(),
        daemon.container("a")["Id"],
        "{output:?}"
    );
    let body = daemon.body("/containers");
    assert_eq!(
        (&body["attach_netns"], &body["publish"]),
        (&json!(netns), &json!(["80"]))
    );
    let pid = container.pid.to_string();
    assert_eq!(
        code(&run(&daemon, &["attach", "--name", "b", "--pid", &pid])),
        0
    );
    assert_eq!(
        daemon.body("/containers")["attach_pid"],
        container.pid.as_raw()
    );
}

#[test]
fn attach_names_what_it_cannot_adopt_without_asking() {
    let daemon = FakeDaemon::start();
    let own = std::process::id().to_string();
    for (flag, value) in [
        ("--pid", "999999999"),
        ("--pid", "0"),
        ("--pid", &own),
        ("--netns", "/etc/passwd"),
        ("--netns", "/proc/self/ns/mnt"),
        ("--netns", "/no/such/file"),
    ] {
        let output = run(&daemon, &["attach", "--name", "x", flag, value]);
        assert_eq!(code(&output), 1, "{flag} {value}");
        assert_one_line(&output, &[flag, value, "give"]);
    }
    assert!(daemon.steps().is_empty(), "{:?}", daemon.steps());
}
