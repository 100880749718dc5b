//! HTTP that is no protocol of dockerd's, and the real program.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake_daemon::World;

/// Status line and body of an answer.
fn exchange(socket: &Path, request: &[u8]) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    // It may answer before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.lines().next().unwrap_or_default().to_owned();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

fn post(path: &str, body: &str) -> Vec<u8> {
    // As Go's client: no Host, no Content-Type.
    format!(
        "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn http_as_gos_client_speaks_it_and_as_nobody_should() {
    let world = World::new();
    let socket = world.plugin_socket();
    for (request, status, words) in [
        (post("/Plugin.Activate", "null\n"), "200", "NetworkDriver"),
        (post("/Plugin.Activate", ""), "200", "IpamDriver"),
        (
            post("/NetworkDriver.Nonsense", "{}"),
            "404",
            "{\"Err\":\"tunbridge's plugin has no /NetworkDriver.Nonsense\"}",
        ),
        (post("/../etc", "{}"), "404", "has no /../etc"),
        (
            post("/NetworkDriver.Join", "not json"),
            "200",
            "{\"Err\":\"cannot understand the request: ",
        ),
        (post("/NetworkDriver.Join", "[]"), "200", "\"Err\""),
        (post("/NetworkDriver.Join", "\u{0}\u{1}"), "200", "\"Err\""),
        (
            post("/IpamDriver.RequestPool", "{"),
            "200",
            "{\"Error\":\"cannot understand the request: ",
        ),
        (
            post("/IpamDriver.RequestPool", ""),
            "200",
            "{\"Error\":\"the request has no body",
        ),
        (
            post("/IpamDriver.RequestPool", &"[".repeat(100_000)),
            "200",
            "\"Error\"",
        ),
        (
            post("/NetworkDriver.Join", &"x".repeat((1 << 20) + 1)),
            "413",
            "longer than 1 MiB",
        ),
        (
            b"GET /Plugin.Activate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            "405",
            "use POST",
        ),
        (b"nonsense\r\n\r\n".to_vec(), "400", ""),
    ] {
        let (line, body) = exchange(&socket, &request);
        assert!(
            line.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {body}"
        );
        assert!(body.contains(words), "{body}");
    }
    assert!(world.changed().is_empty());
}

struct Program(Child);

impl Program {
    fn start(directory: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tunbridge"))
            .args([
                "docker-plugin",
                "--socket",
                "/nonexistent/tb.sock",
                "--docker-socket",
                "/nonexistent/docker.sock",
            ])
            .arg("--plugin-socket")
            .arg(directory.join("plugins/tunbridge.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn wait_text(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (self.0.wait().unwrap().code(), text)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(socket: &Path) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if UnixStream::connect(socket).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn the_program_takes_over_a_dead_socket_and_no_living_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("plugins/tunbridge.sock");
    std::fs::create_dir(directory.path().join("plugins")).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let first = Program::start(directory.path());
    assert!(answers(&socket));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_, body) = exchange(&socket, &post("/Plugin.Activate", "{}"));
    assert!(body.contains("NetworkDriver"), "{body}");
    let (status, text) = Program::start(directory.path()).wait_text();
    assert_eq!(status, Some(1));
    assert!(text.contains("another plugin listens at"), "{text}");
    kill(
        Pid::from_raw(i32::try_from(first.0.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let (status, _) = first.wait_text();
    assert_eq!(status, Some(0));
    assert!(!socket.exists(), "it is removed");
    std::fs::write(&socket, "").unwrap();
    let (status, text) = Program::start(directory.path()).wait_text();
    assert_eq!(status, Some(1));
    assert!(text.contains("is there and no socket"), "{text}");
    assert!(socket.exists(), "and not touched");
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("plugins/tunbridge.sock");
    let _program = Program::start(directory.path());
    assert!(answers(&socket));
    let begun = Instant::now();
    let body = r#"{"NetworkID":"abc","IPv4Data":[{"Pool":"10.0.0.0/24"}]}"#;
    let (_, answer) = exchange(&socket, &post("/NetworkDriver.CreateNetwork", body));
    assert!(
        answer.contains("cannot connect to the tunbridge daemon at /nonexistent/tb.sock"),
        "{answer}"
    );
    let waited = begun.elapsed().as_secs();
    assert!(
        (9..20).contains(&waited),
        "it may be on its way back: {waited}"
    );
    // What needs no daemon is answered.
    let (_, answer) = exchange(
        &socket,
        &post(
            "/NetworkDriver.Leave",
            r#"{"NetworkID":"a","EndpointID":"b"}"#,
        ),
    );
    assert_eq!(answer, "{}");
}
