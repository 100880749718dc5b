//! `run` in the foreground and with `-d`: exit codes, files, failures.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::fake_daemon::FakeDaemon;
use crate::{
    CREATED, DELETED, EXITED, STARTED, assert_one_line, cli, code, copy_program, run, stderr,
    stdout,
};

#[test]
fn run_gives_the_programs_exit_code_and_reports_it() {
    let daemon = FakeDaemon::start();
    let output = run(&daemon, &["run", "--", "sh", "-c", "exit 42"]);
    assert_eq!(code(&output), 42, "{output:?}");
    assert_eq!(daemon.steps(), [CREATED, STARTED, EXITED]);
    assert_eq!(daemon.exit_code(), 42);
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
    assert_eq!(daemon.exit_code(), 137);
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
        "name=net5,gw-priority=2",
        "--net",
        "net6",
        "--network-alias",
        "w2",
        "--link",
        "db",
        "--domainname",
        "example.org",
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
            "name": "web", "links": ["db"],
            "networks": [{
                "network": "net5", "IPAMConfig": {"IPv4Address": "172.17.0.9"}, "Aliases": ["w2"],
                "MacAddress": "02:42:ac:11:00:09", "GwPriority": 2,
            }, {"network": "net6"}],
            "publish": ["8080:80", "53/udp"], "publish_all": true,
            "expose": ["99"], "hostname": "w", "domainname": "example.org",
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

#[test]
fn a_command_that_cannot_run_gives_127_or_126_and_leaves_nothing() {
    let daemon = FakeDaemon::start();
    let file = |name: &str, text: &str, mode: u32| {
        let path = daemon.directory().join(name);
        let text_file = daemon.directory().join("text");
        fs::write(&text_file, text).unwrap();
        copy_program(&text_file, &path);
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
    assert_eq!(daemon.exit_code(), 7);
    assert_eq!(daemon.steps(), [CREATED, STARTED, EXITED]);
    let log = fs::read_to_string(daemon.directory().join("web/log")).unwrap();
    assert_eq!(
        log.split_whitespace().collect::<Vec<_>>(),
        ["out", "err", "?"]
    );
}
