//! Signals and the terminal.

use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;

use crate::fake_daemon::FakeDaemon;
use crate::{Guard, cli, eventually, run, stdout};

/// A container that writes the name of each signal it gets and ends with 5 at SIGTERM.
fn trapping(daemon: &FakeDaemon, log: &Path) -> Guard {
    let mut script = "trap 'echo TERM; exit 5' TERM\n".to_owned();
    for name in ["INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"] {
        script += &format!("trap 'echo {name}' {name}\n");
    }
    script += "echo ready\nwhile :; do sleep 0.05; done";
    let mut command = cli(daemon, &["run", "--", "sh", "-c", &script]);
    Guard(
        command
            .stdout(fs::File::create(log).unwrap())
            .spawn()
            .unwrap(),
    )
}

#[test]
fn signals_are_passed_on() {
    let daemon = FakeDaemon::start();
    let log = daemon.directory().join("signals");
    let mut client = trapping(&daemon, &log);
    let seen = || fs::read_to_string(&log).unwrap();
    eventually("the container is ready", || seen().contains("ready"));
    for signal in [
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ] {
        client.signal(signal);
        let name = &signal.as_str()[3..];
        eventually(name, || seen().lines().any(|line| line == name));
    }
    client.signal(Signal::SIGTERM);
    assert_eq!(client.status(), 5);
    assert_eq!(seen(), "ready\nINT\nHUP\nQUIT\nUSR1\nUSR2\nWINCH\nTERM\n");
    assert_eq!(daemon.exit_code(), 5);
}

#[test]
fn a_program_begins_with_no_signal_blocked() {
    let daemon = FakeDaemon::start();
    // Not a shell: some empty the mask themselves.
    let masks = ["grep", "SigBlk", "/proc/self/status"];
    let usual = Command::new(masks[0]).args(&masks[1..]).output().unwrap();
    let output = run(&daemon, &[&["run", "--"], &masks[..]].concat());
    assert_eq!(stdout(&output), stdout(&usual));
    let in_background = ["run", "-d", "--name", "web", "--"];
    run(&daemon, &[&in_background, &masks[..]].concat());
    let log = daemon.directory().join("web/log");
    eventually("it tells", || fs::read(&log).unwrap() == usual.stdout);
}

#[test]
fn ctrl_c_on_a_terminal_reaches_the_program_once() {
    let daemon = FakeDaemon::start();
    // Tells what each SIGINT was: 128 is SI_KERNEL, the terminal; 0 is SI_USER, somebody's kill(2).
    let inner = r#"
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", "=", 0, sep="", flush=True)
while (info := signal.sigtimedwait([signal.SIGINT], 1.5)) is not None:
    print("from", info.si_code, sep="=", flush=True)
sys.exit(9)"#;
    // `script` has a shell run this. Some shells stay, and end by the SIGINT themselves.
    let words = format!(
        "exec {} --socket {} run -- python3 -c '{}'",
        env!("CARGO_BIN_EXE_tunbridge"),
        daemon.socket().display(),
        inner
    );
    let log = daemon.directory().join("typescript");
    let mut terminal = Command::new("script")
        .args(["-qefc", &words, log.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    let mut terminal = Guard(terminal);
    let seen = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    // Not the echo of the command line, which `script` writes first.
    eventually("ready", || seen().contains("ready=0"));
    // A second SIGINT merges with a first that is still pending, so one key press could hide it.
    for _ in 0..10 {
        keyboard.write_all(b"\x03").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(terminal.status(), 9, "{}", seen());
    let text = seen();
    let came: Vec<&str> = text.lines().filter(|line| line.contains("from=")).collect();
    assert!(!came.is_empty(), "{text}");
    assert!(came.iter().all(|line| line.contains("from=128")), "{text}");
    assert_eq!(daemon.exit_code(), 9);
}

#[test]
fn a_killed_client_does_not_end_the_container() {
    let daemon = FakeDaemon::start();
    let log = daemon.directory().join("signals");
    let client = trapping(&daemon, &log);
    eventually("ready", || {
        fs::read_to_string(&log).unwrap().contains("ready")
    });
    let container =
        Pid::from_raw(i32::try_from(daemon.body("/started")["pid"].as_i64().unwrap()).unwrap());
    client.signal(Signal::SIGKILL);
    std::thread::sleep(Duration::from_millis(100));
    kill(container, Signal::SIGTERM).expect("it still runs");
    eventually("it ends", || {
        fs::read_to_string(&log).unwrap().ends_with("TERM\n")
    });
}
