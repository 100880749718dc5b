//! `start`, `restart`, the variables of links, and files that change while they are mounted.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::namespaces::rootfs;
use crate::{EXITED, STARTED, assert_one_line, code, eventually, run, stdout};

const START: &str = "POST /tunbridge/containers/web/start";

/// Ends the container's process, whichever it is by now.
struct Ending<'d>(&'d FakeDaemon);

impl Ending<'_> {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.body("/started")["pid"].as_i64().unwrap()).unwrap())
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = kill(self.pid(), Signal::SIGKILL);
            self.0.wait_for("/exited");
        }
    }
}

#[test]
fn start_runs_the_same_program_again_in_the_background() {
    let daemon = FakeDaemon::start();
    let script = "echo $A $B_PORT $B_NAME $HOSTNAME; cat /etc/hosts; exit 7";
    let first = run(
        &daemon,
        &[
            "run",
            "--name",
            "web",
            "--hostname",
            "box",
            "-e",
            "A=1",
            "--link",
            "b",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    assert_eq!(code(&first), 7, "{first:?}");
    let expected = "1 tcp://172.17.0.9:80 /web/b box\n172.17.0.2\tbox\n";
    assert_eq!(stdout(&first), expected);
    let before = daemon.steps().len();
    let hosts = daemon.directory().join("web/hosts");
    fs::write(&hosts, "172.17.0.8\tbox\n").unwrap();
    let output = run(&daemon, &["start", "web"]);
    assert_eq!(
        (code(&output), stdout(&output)),
        (0, "web\n".to_owned()),
        "{output:?}"
    );
    eventually("it ends", || daemon.steps().len() == before + 3);
    assert_eq!(daemon.steps()[before..], [START, STARTED, EXITED]);
    assert_eq!(daemon.exit_code(), 7);
    let log = fs::read_to_string(daemon.directory().join("web/log")).unwrap();
    assert_eq!(
        log,
        expected.replace("172.17.0.2", "172.17.0.8"),
        "the same directory of files"
    );
}

#[test]
fn a_users_variable_wins_over_a_links() {
    let daemon = FakeDaemon::start();
    let output = run(
        &daemon,
        &[
            "run",
            "--link",
            "b",
            "-e",
            "B_PORT=mine",
            "--",
            "sh",
            "-c",
            "echo $B_PORT $B_NAME",
        ],
    );
    assert!(stdout(&output).starts_with("mine /quiet-"), "{output:?}");
}

#[test]
fn exec_sees_the_variables_of_links() {
    let daemon = FakeDaemon::start();
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--link",
        "b",
        "--link",
        "c",
        "-e",
        "B_PORT=mine",
        "--",
        "sleep",
        "100",
    ];
    assert_eq!(code(&run(&daemon, &words)), 0);
    let _end = Ending(&daemon);
    let output = run(
        &daemon,
        &["exec", "web", "sh", "-c", "echo $B_PORT $B_NAME $C_PORT"],
    );
    assert_eq!(stdout(&output), "mine /web/b tcp://172.17.0.9:80\n");
}

#[test]
fn restart_ends_it_first() {
    let daemon = FakeDaemon::start();
    assert_eq!(
        code(&run(
            &daemon,
            &["run", "-d", "--name", "web", "--", "sleep", "100"]
        )),
        0
    );
    let end = Ending(&daemon);
    let first = end.pid();
    let output = run(&daemon, &["restart", "-t", "3", "web"]);
    assert_eq!(
        (code(&output), stdout(&output)),
        (0, "web\n".to_owned()),
        "{output:?}"
    );
    assert_ne!(first, end.pid());
    kill(end.pid(), None).expect("it runs");
    let steps = daemon.steps();
    let at = |wanted: &str| steps.iter().position(|step| step == wanted).unwrap();
    assert!(at("POST /containers/web/stop?t=3") < at(START), "{steps:?}");
}

#[test]
fn what_runs_is_not_started_again() {
    let daemon = FakeDaemon::start();
    daemon.add(
        "web",
        json!({"Id": "x", "State": {"Running": true, "Pid": 1}}),
    );
    let output = run(&daemon, &["start", "web"]);
    assert_eq!((code(&output), stdout(&output)), (0, "web\n".to_owned()));
    assert!(daemon.steps().is_empty());
}

#[test]
fn a_start_that_fails_is_told_and_leaves_the_container() {
    let daemon = FakeDaemon::start();
    let program = daemon.directory().join("program");
    crate::copy_program(Path::new("/usr/bin/true"), &program);
    let words = ["run", "--name", "web", "--", program.to_str().unwrap()];
    assert_eq!(code(&run(&daemon, &words)), 0);
    fs::remove_file(&program).unwrap();
    let before = daemon.steps().len();
    let output = run(&daemon, &["start", "web"]);
    assert_eq!((code(&output), stdout(&output)), (1, String::new()));
    assert_one_line(&output, &["not found"]);
    assert_eq!(daemon.steps()[before..], [START, STARTED, EXITED]);
    assert_eq!(daemon.body("/exited"), json!({"code": 127}));
}

/// The daemon writes into the files it mounted; so must everybody see it, whatever was done inside.
/// `scratch` is a directory inside.
fn updates_are_seen(daemon: &FakeDaemon, options: &[&str], scratch: &str) {
    let words = [
        &["run", "-d", "--name", "web"],
        options,
        &["--", "sleep", "100"],
    ]
    .concat();
    assert_eq!(code(&run(daemon, &words)), 0);
    let _end = Ending(daemon);
    let inside = |script: &str| {
        let output = run(daemon, &["exec", "web", "sh", "-c", script]);
        (code(&output), stdout(&output))
    };
    for name in ["hosts", "hostname", "resolv.conf"] {
        let file = daemon.directory().join("web").join(name);
        let read = format!("cat /etc/{name}");
        for text in ["longer than it was before, by far\n", "short\n", ""] {
            // As the daemon does it: the same inode, written from its beginning.
            fs::write(&file, text).unwrap();
            assert_eq!(inside(&read), (0, text.to_owned()), "{name}");
        }
        // What is written inside is seen by the daemon.
        assert_eq!(inside(&format!("echo edited >> /etc/{name}")).0, 0);
        assert_eq!(fs::read_to_string(&file).unwrap(), "edited\n");
        // An editor that writes a new file and moves it there fails, as in Docker's containers, and nothing is lost.
        let (status, _) = inside(&format!(
            "echo new > {scratch}/new && mv {scratch}/new /etc/{name}"
        ));
        assert_ne!(status, 0, "a mount point cannot be replaced");
        fs::write(&file, "after\n").unwrap();
        assert_eq!(inside(&read), (0, "after\n".to_owned()), "{name}");
    }
}

#[test]
fn files_that_the_daemon_updates_are_seen_in_a_running_container() {
    let daemon = FakeDaemon::start();
    updates_are_seen(&daemon, &[], daemon.directory().to_str().unwrap());
}

#[test]
fn files_that_the_daemon_updates_are_seen_under_a_root_of_its_own() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    updates_are_seen(&daemon, &["--rootfs", root.to_str().unwrap()], "/etc");
}
