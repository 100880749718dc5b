//! The command line against daemons that have very much to tell, talk nonsense, or die.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_daemon::Namespace;
use crate::{assert_one_line, code, copy_program, program, stdout};

/// Answers each request line (`GET /info HTTP/1.1`) with the octets that a function makes of it. None:
/// it dies, socket and all, with the request unanswered.
struct OddDaemon {
    directory: TempDir,
}

impl OddDaemon {
    fn start(mut answer: impl FnMut(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let directory = TempDir::with_prefix("tbodd-").unwrap();
        let socket = directory.path().join("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // Not joined: it waits for a connection that will not come, and ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&mut stream);
                let Some(octets) = answer(request.lines().next().unwrap_or_default()) else {
                    fs::remove_file(&socket).unwrap();
                    return;
                };
                // A client that has gone away is a subject of some tests.
                let _ = stream.write_all(&octets);
            }
        });
        Self { directory }
    }

    /// The same answer to everything.
    fn saying(status: &str, body: &str) -> Self {
        let octets = http(status, body);
        Self::start(move |_| Some(octets.clone()))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn run(&self, words: &[&str]) -> Output {
        run_at(&self.socket(), words)
    }
}

fn run_at(socket: &Path, words: &[&str]) -> Output {
    let mut command = program();
    command.arg("--socket").arg(socket).args(words);
    command.output().unwrap()
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Head and body; empty if the client closed at once.
fn read_request(stream: &mut UnixStream) -> String {
    let mut octets = Vec::new();
    let mut some = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&octets);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    (name.eq_ignore_ascii_case("content-length")).then(|| value.trim().parse().ok())
                })
                .flatten()
                .unwrap_or(0);
            if body.len() >= length {
                return text.into_owned();
            }
        }
        match stream.read(&mut some) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&octets).into_owned(),
            Ok(count) => octets.extend_from_slice(&some[..count]),
        }
    }
}

#[test]
fn no_program_begins_if_the_daemon_dies_between_create_and_started() {
    for background in [&[][..], &["-d"]] {
        let namespace = Namespace::new();
        let files = TempDir::with_prefix("tbodd-").unwrap();
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::write(files.path().join(name), "").unwrap();
        }
        let created = json!({
            "id": "ab".repeat(32), "name": "web", "hostname": "web",
            "netns": namespace.path(), "files": files.path(), "warnings": [],
        });
        let created = http("201 Created", &created.to_string());
        let daemon = OddDaemon::start(move |request| {
            request
                .starts_with("POST /tunbridge/containers HTTP")
                .then(|| created.clone())
        });
        let mark = files.path().join("mark");
        let touch = ["--", "touch", mark.to_str().unwrap()];
        let output = daemon.run(&[&["run"], background, &touch[..]].concat());
        assert_eq!(code(&output), 1, "{output:?}");
        assert_one_line(&output, &["daemon", daemon.socket().to_str().unwrap()]);
        assert_eq!(stdout(&output), "", "no id of what does not run");
        assert!(!mark.exists());
    }
}

#[test]
fn ten_thousand_ports_are_a_short_line() {
    let port = |number: u32, transport: &str| json!({"IP": "0.0.0.0", "PrivatePort": number, "PublicPort": number, "Type": transport});
    let ports: Vec<Value> = (20_000..30_000)
        .map(|number| port(number, "udp"))
        .chain([port(443, "tcp")])
        .collect();
    let container = json!([{
        "Id": "ab".repeat(32), "Names": ["/web"], "Command": "a-server with very many arguments",
        "Status": "Up 3 seconds", "Ports": ports,
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
    }]);
    let daemon = OddDaemon::saying("200 OK", &container.to_string());
    let began = Instant::now();
    let output = daemon.run(&["ps"]);
    assert!(began.elapsed() < Duration::from_secs(5));
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].chars().count() < 200, "{text}");
    let ports = "0.0.0.0:443->443/tcp, 0.0.0.0:20000-29999->20000-29999/udp";
    assert!(lines[1].ends_with(ports), "{text}");
    assert!(
        lines[0].starts_with("CONTAINER ID  NAME") && lines[1].starts_with("abababababab  web"),
        "{text}"
    );
}

#[test]
fn doctor_succeeds_unless_something_does_not_work() {
    let finding = |severity: &str| json!({"severity": severity, "subject": "uplink", "found": "it is", "why": "because", "fix": "do that"});
    for (severities, status) in [
        (&[][..], 0),
        (&["ok", "note", "warning"], 0),
        (&["ok", "error"], 1),
    ] {
        let findings: Vec<Value> = severities
            .iter()
            .map(|severity| finding(severity))
            .collect();
        let daemon = OddDaemon::saying("200 OK", &json!(findings).to_string());
        for json in [&[][..], &["--json"]] {
            let output = daemon.run(&[&["doctor"], json].concat());
            assert_eq!(code(&output), status, "{severities:?}: {output:?}");
            assert!(output.stderr.is_empty());
        }
    }
}

#[test]
fn nonsense_from_a_daemon_is_one_line() {
    let table: &[(&[u8], &str)] = &[
        (b"", "no proper answer"),
        (b"\x00\xff\x00\xff\r\n\r\n", "no proper answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[",
            "no proper answer",
        ),
        (&http("200 OK", "{\"not\": \"a list\"}"), "no proper answer"),
        (&http("200 OK", ""), "no proper answer"),
        (&http("500 Oops", "<html>\n</html>"), "500"),
        (&http("409 Conflict", r#"{"message": "one\ntwo\n"}"#), "one"),
    ];
    for (octets, naming) in table {
        let copy = octets.to_vec();
        let daemon = OddDaemon::start(move |_| Some(copy.clone()));
        for words in [&["ps"][..], &["flows"], &["stats"], &["doctor"]] {
            let output = daemon.run(words);
            assert_eq!(code(&output), 1, "{words:?}: {output:?}");
            assert_one_line(&output, &[naming]);
            assert_eq!(stdout(&output), "");
        }
    }
}

#[test]
fn a_socket_that_nobody_listens_at_any_more_is_told() {
    let directory = TempDir::with_prefix("tbodd-").unwrap();
    let socket = directory.path().join("sock");
    drop(UnixListener::bind(&socket).unwrap());
    let output = run_at(&socket, &["ps"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &["cannot connect", socket.to_str().unwrap()]);

    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "").unwrap();
    let output = run_at(&socket, &["ps"]);
    assert_eq!(code(&output), 1);
    assert_one_line(&output, &[socket.to_str().unwrap()]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let flow = json!({
        "protocol": "tcp", "container": "web", "source": "172.17.0.2:40000",
        "destination": "203.0.113.9:80", "translated_source": "198.51.100.2:61000",
        "translated_destination": "203.0.113.9:80", "state": "established", "packets_original": 7,
        "bytes_original": 2048, "packets_reply": 5, "bytes_reply": 100, "age": 61.0, "timeout": 7440.0,
    });
    // More than a pipe holds.
    let flows = vec![flow; 5000];
    let daemon = OddDaemon::saying("200 OK", &json!(flows).to_string());
    let mut client = program()
        .arg("--socket")
        .arg(daemon.socket())
        .arg("flows")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = Command::new("head")
        .arg("-n1")
        .stdin(client.stdout.take().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(head.wait().unwrap().success());
    let output = client.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_socket_without_a_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let install = |variable: &str| {
        Command::new(env!("CARGO_BIN_EXE_tunbridge"))
            .args(["cni", "install", "--no-conf", "--dir"])
            .arg(directory.path())
            .args(["--socket", "/run/other.sock"])
            .env("TUNBRIDGE_SOCKET", variable)
            .output()
            .unwrap()
    };
    let refused = install("/run/another.sock");
    assert_eq!(refused.status.code(), Some(1));
    let words = "run the engine with TUNBRIDGE_SOCKET=/run/other.sock instead";
    assert_one_line(&refused, &["--socket /run/other.sock", words]);
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    // The variable is for both.
    let done = install("/run/other.sock");
    assert!(done.status.success(), "{done:?}");
    assert_one_line(&done, &["note: no daemon listens at /run/other.sock yet"]);
}

/// The program may be among the plugins, and their directory be spelt in several ways.
#[test]
fn a_program_among_the_plugins_is_not_replaced_and_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = directory.path().join("bin");
    let alias = directory.path().join("alias");
    fs::create_dir(&plugins).unwrap();
    symlink("bin", &alias).unwrap();
    let file = plugins.join("tunbridge");
    copy_program(Path::new(env!("CARGO_BIN_EXE_tunbridge")), &file);
    let is_there = || fs::symlink_metadata(&file).unwrap().is_file();
    for spelling in [&plugins, &alias, Path::new(".")] {
        let call = |verb: &str| {
            Command::new(alias.join("tunbridge"))
                .args(["cni", verb, "--no-conf", "--alias", "bridge", "--dir"])
                .arg(spelling)
                .current_dir(&plugins)
                .output()
                .unwrap()
        };
        let installed = call("install");
        assert!(installed.status.success() && is_there(), "{installed:?}");
        let link = fs::canonicalize(plugins.join("bridge")).unwrap();
        assert_eq!(link, fs::canonicalize(&file).unwrap());
        let removed = call("uninstall");
        assert!(removed.status.success() && is_there(), "{removed:?}");
        assert!(fs::symlink_metadata(plugins.join("bridge")).is_err());
    }
}
