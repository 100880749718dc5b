//! The command line and the sandbox, against a daemon that only records what it is asked. Needs root: it
//! makes network namespaces, without names.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

#[path = "cli/docker_client.rs"]
mod docker_client;
#[path = "cli/fake_daemon.rs"]
mod fake_daemon;
#[path = "cli/namespaces.rs"]
mod namespaces;
#[path = "cli/network.rs"]
mod network;
#[path = "cli/networks.rs"]
mod networks;
#[path = "cli/odd_daemons.rs"]
mod odd_daemons;
#[path = "cli/printing.rs"]
mod printing;
#[path = "cli/restarting.rs"]
mod restarting;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/starting.rs"]
mod starting;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_daemon::FakeDaemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunbridge"));
    command.env_remove("TUNBRIDGE_SOCKET").stdin(Stdio::null());
    command
}

/// `tunbridge --socket … WORDS…`
fn cli(daemon: &FakeDaemon, words: &[&str]) -> Command {
    let mut command = program();
    command.arg("--socket").arg(daemon.socket()).args(words);
    command
}

fn run(daemon: &FakeDaemon, words: &[&str]) -> Output {
    cli(daemon, words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error but for the warning that the fake daemon gives with every container.
fn stderr(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.replace("tunbridge: warning: a warning\n", "")
}

/// One line, ours, and naming `words`.
fn assert_one_line(output: &Output, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(text.starts_with("tunbridge: "), "{text:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// Copies a file that will be executed. A descriptor of ours that is open for writing could be inherited by
/// a child of another test at that moment, and the kernel executes no file that is open for writing.
fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp {} {}", from.display(), to.display());
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that must not outlive its test.
struct Guard(Child);

impl Guard {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn status(&mut self) -> i32 {
        let mut found = None;
        eventually("the program ends", || {
            found = self.0.try_wait().unwrap();
            found.is_some()
        });
        found.unwrap().code().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const STARTED: &str = "POST /tunbridge/containers/ID/started";
const EXITED: &str = "POST /tunbridge/containers/ID/exited";
const CREATED: &str = "POST /tunbridge/containers";
const DELETED: &str = "DELETE /containers/ID?force=1";
