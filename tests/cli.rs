//! The command line and the sandbox, against a daemon that only records what it is asked. Needs root: it
//! makes network namespaces named `tbcli-…` and removes them.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

#[path = "cli/fake_daemon.rs"]
mod fake_daemon;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_daemon::FakeDaemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

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

// ---- run -------------------------------------------------------------------------------------

#[test]
fn run_gives_the_programs_exit_code_and_reports_it() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["run", "--", "sh", "-c", "exit 42"]);
    assert_eq!(code(&output), 42, "{output:?}");
    assert_eq!(daemon.steps(), [CREATED, STARTED, EXITED]);
    assert_eq!(daemon.body("/exited"), json!({"code": 42}));
    assert!(daemon.body("/started")["pid"].as_i64().unwrap() > 1);
    assert_eq!(code(&run(&daemon, &["run", "true"])), 0);
}

#[test]
fn a_program_that_a_signal_ends_gives_128_plus_its_number() {
    let daemon = FakeDaemon::start();
    assert_eq!(
        code(&run(&daemon, &["run", "--", "sh", "-c", "kill -9 $$"])),
        137
    );
    assert_eq!(daemon.body("/exited"), json!({"code": 137}));
}

#[test]
fn run_sends_every_flag_to_the_daemon() {
    let daemon = FakeDaemon::start();
    let words = [
        "run",
        "--rm",
        "--name",
        "web",
        "--network",
        "bridge",
        "-p",
        "8080:80",
        "-p",
        "53/udp",
        "-P",
        "--expose",
        "99",
        "--ip",
        "172.17.0.9",
        "--mac-address",
        "02:42:ac:11:00:09",
        "--hostname",
        "w",
        "--add-host",
        "a:1.2.3.4",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "x.test",
        "--dns-option",
        "ndots:1",
        "-e",
        "A=b",
        "-e",
        "FROM_US",
        "-e",
        "UNSET_HERE",
        "--",
        "true",
        "--rm",
    ];
    let output = cli(&daemon, &words).env("FROM_US", "yes").output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(
        daemon.body("/containers"),
        json!({
            "name": "web", "network": "bridge", "publish": ["8080:80", "53/udp"], "publish_all": true,
            "expose": ["99"], "ip": "172.17.0.9", "mac_address": "02:42:ac:11:00:09", "hostname": "w",
            "add_host": ["a:1.2.3.4"], "dns": ["9.9.9.9"], "dns_search": ["x.test"], "dns_option": ["ndots:1"],
            "env": ["A=b", "FROM_US=yes"], "auto_remove": true, "command": ["true", "--rm"], "rootfs": null,
            "attach_pid": null, "attach_netns": null,
        })
    );
}

#[test]
fn a_program_sees_its_own_network_names_and_files_and_the_host_keeps_its() {
    let daemon = FakeDaemon::start();
    let before: Vec<_> = ["/etc/hosts", "/etc/resolv.conf"]
        .iter()
        .map(fs::read)
        .map(Result::ok)
        .collect();
    let host_name = nix::unistd::gethostname().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script = "hostname; cat /etc/hosts /etc/resolv.conf; ls /sys/class/net | xargs; ls /sys/fs/cgroup | wc -l; \
                  cat /proc/net/dev | grep -c tbcli0; echo PATH=$PATH HOME=$HOME HOSTNAME=$HOSTNAME A=$A; pwd; \
                  env | grep -c ^FROM_US";
    let output = cli(
        &daemon,
        &[
            "run",
            "--hostname",
            "box",
            "-e",
            "A=b",
            "--",
            "sh",
            "-c",
            script,
        ],
    )
    .env("FROM_US", "yes")
    .current_dir(daemon.directory())
    .output()
    .unwrap();
    let cgroups = fs::read_dir("/sys/fs/cgroup").map_or(0, Iterator::count);
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected = format!(
        "box\n172.17.0.2\tbox\nnameserver 192.0.2.53\nlo tbcli0\n{cgroups}\n1\nPATH={path} HOME=/root HOSTNAME=box A=b\n{}\n0\n",
        daemon.directory().display()
    );
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    let after: Vec<_> = ["/etc/hosts", "/etc/resolv.conf"]
        .iter()
        .map(fs::read)
        .map(Result::ok)
        .collect();
    assert_eq!(before, after);
    assert_eq!(host_name, nix::unistd::gethostname().unwrap());
    let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lasting = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("/run/netns"))
            .count()
    };
    assert_eq!(lasting(&mounts), lasting(&now), "a mount leaked:\n{now}");
}

/// Runs `tunbridge WORDS…` on a host whose /etc is prepared by `script`.
fn on_a_host_with(daemon: &FakeDaemon, script: &str, words: &[&str]) -> Output {
    let shell = format!(
        "mkdir {0}/etc && cp -a /etc/. {0}/etc && cd {0}/etc && {script} && cd / && mount --bind {0}/etc /etc && exec \"$@\"",
        daemon.directory().display()
    );
    Command::new("unshare")
        .args([
            "-m",
            "--propagation=slave",
            "sh",
            "-c",
            &shell,
            "sh",
            env!("CARGO_BIN_EXE_tunbridge"),
            "--socket",
        ])
        .arg(daemon.socket())
        .args(words)
        .output()
        .unwrap()
}

#[test]
fn a_dangling_link_at_resolv_conf_is_covered() {
    let daemon = FakeDaemon::start();
    let link = "rm -f resolv.conf && ln -s /run/nowhere/stub-resolv.conf resolv.conf";
    let output = on_a_host_with(&daemon, link, &["run", "cat", "/etc/resolv.conf"]);
    assert_eq!(
        stdout(&output),
        "nameserver 192.0.2.53\n",
        "{}",
        stderr(&output)
    );
    assert!(
        fs::symlink_metadata(daemon.directory().join("etc/resolv.conf"))
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn a_link_at_resolv_conf_is_covered_and_its_target_left_alone() {
    let daemon = FakeDaemon::start();
    let target = daemon.directory().join("stub");
    fs::write(&target, "nameserver 127.0.0.53\n").unwrap();
    let link = format!(
        "rm -f resolv.conf && ln -s {} resolv.conf",
        target.display()
    );
    let both = format!("cat /etc/resolv.conf {}", target.display());
    let output = on_a_host_with(&daemon, &link, &["run", "sh", "-c", &both]);
    assert_eq!(
        stdout(&output),
        "nameserver 192.0.2.53\nnameserver 127.0.0.53\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_file_that_the_host_lacks_is_a_warning() {
    let daemon = FakeDaemon::start();
    let output = on_a_host_with(
        &daemon,
        "rm -f hostname",
        &["run", "cat", "/etc/resolv.conf"],
    );
    assert_eq!(
        (code(&output), stdout(&output)),
        (0, "nameserver 192.0.2.53\n".to_owned())
    );
    assert_one_line(&output, &["warning: the host has no /etc/hostname"]);
    assert!(!daemon.directory().join("etc/hostname").exists());
}

// ---- failures of run --------------------------------------------------------------------------

#[test]
fn a_command_that_cannot_run_gives_127_or_126_and_leaves_nothing() {
    let daemon = FakeDaemon::start();
    let file = |name: &str, text: &str, mode: u32| {
        let path = daemon.directory().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = file("plain", "", 0o644);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let table: &[(&str, i32, &[&str])] = &[
        (
            "no-such-program",
            127,
            &["no-such-program", "not found", "PATH"],
        ),
        ("/no/such/program", 127, &["/no/such/program", "not found"]),
        (&plain, 126, &[&plain, "not executable"]),
        ("/etc", 126, &["/etc", "not executable"]),
        (&orphan, 127, &[&orphan, "interpreter"]),
    ];
    for (command, status, words) in table {
        for background in [&[][..], &["-d"]] {
            let before = daemon.steps().len();
            let output = run(&daemon, &[&["run"], background, &["--", command]].concat());
            assert_eq!(code(&output), *status, "{command}: {output:?}");
            assert_one_line(&output, words);
            assert_eq!(stdout(&output), "");
            assert_eq!(
                daemon.steps()[before..],
                [CREATED, STARTED, DELETED],
                "{command}"
            );
        }
    }
}

#[test]
fn when_the_daemon_refuses_nothing_is_started() {
    let daemon = FakeDaemon::start();
    daemon.refuse("/tunbridge/containers");
    let output = run(&daemon, &["run", "true"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["refused: /tunbridge/containers"]);
    assert_eq!(daemon.steps(), [CREATED]);
}

#[test]
fn no_program_begins_that_the_daemon_does_not_know() {
    let daemon = FakeDaemon::start();
    daemon.refuse("/started");
    let mark = daemon.directory().join("mark");
    for background in [&[][..], &["-d"]] {
        let touch = ["touch", mark.to_str().unwrap()];
        let output = run(&daemon, &[&["run"], background, &touch[..]].concat());
        assert_eq!(code(&output), 1);
        assert_one_line(&output, &["refused", "/started"]);
        assert!(!mark.exists());
        assert_eq!(daemon.steps().last().unwrap(), DELETED);
    }
}

#[test]
fn a_failure_after_create_removes_the_container() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["run", "--rootfs", "/proc", "true"]);
    assert_eq!(code(&output), 1, "{output:?}");
    assert_one_line(&output, &["--rootfs /proc"]);
    assert_eq!(daemon.steps(), [CREATED, DELETED]);
}

// ---- signals -----------------------------------------------------------------------------------

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
    assert_eq!(daemon.body("/exited"), json!({"code": 5}));
}

#[test]
fn ctrl_c_on_a_terminal_reaches_the_program_once() {
    let daemon = FakeDaemon::start();
    let inner = "n=0; trap 'n=$((n+1)); echo got $n' INT; echo ready=$n; i=0; while [ $i -lt 30 ]; do sleep 0.05; i=$((i+1)); done; exit 9";
    let words = format!(
        "{} --socket {} run -- sh -c '{}'",
        env!("CARGO_BIN_EXE_tunbridge"),
        daemon.socket().display(),
        inner.replace('\'', "'\\''")
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
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(terminal.status(), 9, "{}", seen());
    assert!(
        seen().contains("got 1") && !seen().contains("got 2"),
        "{}",
        seen()
    );
    assert_eq!(daemon.body("/exited"), json!({"code": 9}));
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

// ---- run -d -----------------------------------------------------------------------------------

#[test]
fn a_detached_container_has_no_terminal_logs_and_reports_its_end() {
    let daemon = FakeDaemon::start();
    let script =
        "echo out; echo err >&2; cat; ps -o tty= -p $$; kill -0 $PPID && sleep 0.3; exit 7";
    let began = Instant::now();
    let output = run(
        &daemon,
        &["run", "-d", "--name", "web", "--", "sh", "-c", script],
    );
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let id = daemon.container("web")["Id"].as_str().unwrap().to_owned();
    assert_eq!(stdout(&output), format!("{id}\n"));
    daemon.wait_for("/exited");
    assert_eq!(daemon.body("/exited"), json!({"code": 7}));
    assert_eq!(daemon.steps(), [CREATED, STARTED, EXITED]);
    let log = fs::read_to_string(daemon.directory().join("web/log")).unwrap();
    assert_eq!(
        log.split_whitespace().collect::<Vec<_>>(),
        ["out", "err", "?"]
    );
}

// ---- --rootfs ---------------------------------------------------------------------------------

/// A root with nothing but busybox, and a resolv.conf that points out of it.
fn rootfs(daemon: &FakeDaemon) -> PathBuf {
    let root = daemon.directory().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "ls", "hostname", "xargs", "sleep", "pwd", "wc", "readlink",
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
    let script = "pwd; ls / | xargs; hostname; cat /etc/hosts /etc/hostname /etc/resolv.conf; ls /sys/class/net | xargs; \
                  ls /dev | xargs; echo x > /dev/null; cat /proc/mounts | wc -l; ls /proc/self/fd | wc -l";
    let words = [
        "run",
        "--hostname",
        "box",
        "--rootfs",
        root.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = run(&daemon, &words);
    let text = stdout(&output);
    let (shown, counts) = text.split_at(
        text.trim_end()
            .rfind("tty")
            .map_or(0, |at| text[at..].find('\n').unwrap() + at + 1),
    );
    let expected =
        "/\nbin dev etc proc sys\nbox\n172.17.0.2\tbox\nbox\nnameserver 192.0.2.53\nlo tbcli0\n";
    assert!(shown.starts_with(expected), "{text}{}", stderr(&output));
    assert!(
        shown.ends_with("fd full null ptmx pts random shm stderr stdin stdout tty urandom zero\n")
            || shown.contains("null"),
        "{text}"
    );
    let mounts: usize = counts
        .lines()
        .rev()
        .nth(1)
        .unwrap_or("0")
        .trim()
        .parse()
        .unwrap();
    assert!(mounts < 25, "mounts of the host are seen: {mounts}");
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

// ---- exec -------------------------------------------------------------------------------------

fn started(daemon: &FakeDaemon, options: &[&str], command: &[&str]) -> Pid {
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
    Pid::from_raw(i32::try_from(daemon.body("/started")["pid"].as_i64().unwrap()).unwrap())
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
    kill(container, Signal::SIGKILL).unwrap();
    daemon.wait_for("/exited");
    assert_eq!(daemon.body("/exited"), json!({"code": 137}));
    let output = run(&daemon, &["exec", "web", "true"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["web", "not running"]);
}

#[test]
fn exec_sees_the_root_directory_of_its_container() {
    let daemon = FakeDaemon::start();
    let root = rootfs(&daemon);
    let container = started(
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
    kill(container, Signal::SIGKILL).unwrap();
    daemon.wait_for("/exited");
}

#[test]
fn exec_in_an_adopted_container_enters_its_network_alone() {
    let daemon = FakeDaemon::start();
    let container = started(&daemon, &[], &["sleep", "100"]);
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
    kill(container, Signal::SIGKILL).unwrap();
    daemon.wait_for("/exited");
}

#[test]
fn exec_does_not_enter_a_process_that_took_over_the_number() {
    let daemon = FakeDaemon::start();
    let container = started(&daemon, &[], &["sleep", "100"]);
    let mut inspect = daemon.container("web");
    inspect["State"]["Pid"] = json!(std::process::id());
    daemon.add("web", inspect);
    let output = run(&daemon, &["exec", "web", "true"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["has just ended"]);
    kill(container, Signal::SIGKILL).unwrap();
    daemon.wait_for("/exited");
}

// ---- attach -----------------------------------------------------------------------------------

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
    let pid = container.to_string();
    assert_eq!(
        code(&run(&daemon, &["attach", "--name", "b", "--pid", &pid])),
        0
    );
    assert_eq!(daemon.body("/containers")["attach_pid"], container.as_raw());
    kill(container, Signal::SIGKILL).unwrap();
    daemon.wait_for("/exited");
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

// ---- what prints ------------------------------------------------------------------------------

fn web() -> Value {
    json!({
        "Id": "ab".repeat(32), "Name": "/web",
        "NetworkSettings": {"Ports": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "443/tcp": null,
        }},
    })
}

#[test]
fn port_prints_as_docker_does() {
    let daemon = FakeDaemon::start();
    daemon.add("web", web());
    let output = run(&daemon, &["port", "web"]);
    assert_eq!(
        stdout(&output),
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    );
    assert_eq!(
        stdout(&run(&daemon, &["port", "web", "80"])),
        "0.0.0.0:8080\n[::]:8080\n"
    );
    for missing in ["99", "443/tcp", "80/udp"] {
        let output = run(&daemon, &["port", "web", missing]);
        assert_eq!(code(&output), 1);
        let named = if missing.contains('/') {
            missing.to_owned()
        } else {
            format!("{missing}/tcp")
        };
        assert_eq!(
            stderr(&output),
            format!("Error: No public port '{named}' published for web\n")
        );
    }
}

#[test]
fn tables_and_json() {
    let daemon = FakeDaemon::start();
    daemon.add("web", web());
    let lines = |words: &[&str]| -> Vec<String> {
        let text = stdout(&run(&daemon, words));
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(
        lines(&["ps"]),
        [
            "CONTAINER ID NAME COMMAND STATUS ADDRESS PORTS",
            "abababababab web sleep 1 Up 3 seconds 172.17.0.2 0.0.0.0:8080->80/tcp"
        ]
    );
    assert_eq!(lines(&["ps", "-q"]), ["abababababab"]);
    assert_eq!(
        lines(&["flows"]),
        [
            "PROTO CONTAINER ORIGINAL TRANSLATED STATE PACKETS BYTES AGE TIMEOUT",
            "tcp web 172.17.0.2:40000 -> 203.0.113.9:80 198.51.100.2:61000 -> 203.0.113.9:80 established 7/5 2.0KiB/100B 1m01s 2h04m"
        ]
    );
    let stats = lines(&["stats"]);
    assert!(
        stats
            .iter()
            .any(|line| line.starts_with("dropped malformed 1 ") && line.len() > 25),
        "{stats:?}"
    );
    assert!(
        stats
            .iter()
            .any(|line| line.starts_with("steering spoof_ip 3 dropped: a container used")),
        "{stats:?}"
    );
    assert!(lines(&["version"])[1].starts_with("Daemon: tunbridge 9.9.9"));
    for words in [
        &["ps"][..],
        &["flows"],
        &["stats"],
        &["doctor"],
        &["version"],
    ] {
        let output = run(&daemon, &[words, &["--json"]].concat());
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    let inspected: Value =
        serde_json::from_slice(&run(&daemon, &["inspect", "web"]).stdout).unwrap();
    assert_eq!(inspected, json!([web()]));
}

#[test]
fn doctor_fails_if_something_does_not_work() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["doctor"]);
    assert_eq!(code(&output), 1);
    for word in [
        "ERROR",
        "uplink",
        "there is none",
        "nothing leaves the host",
        "ip link set eth0 up",
    ] {
        assert!(stdout(&output).contains(word), "{word}: {output:?}");
    }
}

#[test]
fn changes_are_sent_and_names_printed() {
    let daemon = FakeDaemon::start();
    assert_eq!(
        stdout(&run(&daemon, &["stop", "-t", "3", "a", "b"])),
        "a\nb\n"
    );
    assert_eq!(stdout(&run(&daemon, &["rm", "a"])), "a\n");
    assert_eq!(stdout(&run(&daemon, &["rm", "-f", "../x"])), "../x\n");
    assert_eq!(code(&run(&daemon, &["publish", "a", "8080:80"])), 0);
    assert_eq!(code(&run(&daemon, &["unpublish", "a", "8080:80"])), 0);
    assert_eq!(
        daemon.steps(),
        [
            "POST /containers/a/stop?t=3",
            "POST /containers/b/stop?t=3",
            "DELETE /containers/a?force=0",
            "DELETE /containers/..%2Fx?force=1",
            "POST /tunbridge/containers/a/publish",
            "POST /tunbridge/containers/a/unpublish",
        ]
    );
    assert_eq!(daemon.body("/unpublish"), json!({"spec": "8080:80"}));
}

// ---- bad input --------------------------------------------------------------------------------

#[test]
fn bad_usage_is_one_line_and_status_2() {
    let daemon = FakeDaemon::start();
    let table: &[(&[&str], &str)] = &[
        (&[], "subcommand"),
        (&["frobnicate"], "frobnicate"),
        (&["run"], "CMD"),
        (&["run", "--ip", "300.1.1.1", "true"], "--ip"),
        (&["run", "--nope", "true"], "--nope"),
        (&["run", "--dns", "x", "true"], "--dns"),
        (&["attach", "--name", "x"], "--pid"),
        (&["attach", "--pid", "1"], "--name"),
        (
            &["attach", "--name", "x", "--pid", "1", "--netns", "/x"],
            "--netns",
        ),
        (&["stop", "-t", "-1", "x"], "-1"),
        (&["exec", "x"], "CMD"),
        (&["flows", "--watch", "--json"], "--json"),
        (&["daemon", "--ip-forward=maybe"], "--ip-forward"),
    ];
    for (words, naming) in table {
        let output = run(&daemon, words);
        assert_eq!(code(&output), 2, "{words:?}: {output:?}");
        assert_one_line(&output, &[naming]);
    }
    assert!(daemon.steps().is_empty(), "{:?}", daemon.steps());
}

#[test]
fn unknown_containers_are_one_line_and_status_1() {
    let daemon = FakeDaemon::start();
    for words in [
        &["inspect", "nosuch"][..],
        &["port", "nosuch"],
        &["exec", "nosuch", "true"],
    ] {
        let output = run(&daemon, words);
        assert_eq!(code(&output), 1, "{words:?}");
        assert_one_line(&output, &["nosuch"]);
    }
}

#[test]
fn bad_roots_are_named_before_anything_is_made() {
    let daemon = FakeDaemon::start();
    for (root, why) in [
        ("/no/such", "existing"),
        ("/etc/passwd", "not a directory"),
        ("/", "host's own root"),
    ] {
        let output = run(&daemon, &["run", "--rootfs", root, "true"]);
        assert_eq!(code(&output), 1, "{root}");
        assert_one_line(&output, &["--rootfs", root, why]);
    }
    assert!(daemon.steps().is_empty());
}

#[test]
fn no_daemon_and_no_permission_are_told() {
    let output = program()
        .args(["--socket", "/no/such/sock", "ps"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert_one_line(
        &output,
        &[
            "cannot connect to the tunbridge daemon at /no/such/sock: is it running? start it with: tunbridge daemon",
        ],
    );
    let output = program()
        .args(["ps"])
        .env("TUNBRIDGE_SOCKET", "/from/env")
        .output()
        .unwrap();
    assert_one_line(&output, &["/from/env"]);

    let daemon = FakeDaemon::start();
    fs::set_permissions(daemon.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    // The build directory may be closed to others.
    let copy = daemon.directory().join("tunbridge");
    fs::copy(env!("CARGO_BIN_EXE_tunbridge"), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .arg("--socket")
        .arg(daemon.socket())
        .arg("ps")
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["permission", "sock"]);
}

#[test]
fn config_errors_name_file_and_key() {
    let daemon = FakeDaemon::start();
    let file = daemon.directory().join("daemon.toml");
    fs::write(&file, "bib = \"10.0.0.1/24\"\n").unwrap();
    let output = run(&daemon, &["daemon", "--config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["--config", file.to_str().unwrap(), "bib"]);
}
