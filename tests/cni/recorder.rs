//! A daemon that records requests and answers them from a few values.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

#[derive(Debug, Default)]
struct Records {
    asked: Vec<(String, Value)>,
    /// Answers in place of the usual ones, by method and target.
    answers: BTreeMap<String, (u16, Value)>,
    /// Requests of which the next has no answer.
    unanswered: BTreeSet<String>,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    directory: TempDir,
    records: Arc<Mutex<Records>>,
}

/// What an attached endpoint is here.
pub(crate) fn attached() -> Value {
    let interface = |name: &str, mac: &str| json!({"name": name, "mac": mac, "mtu": 1500});
    json!({
        "container": "c".repeat(64), "name": "c1", "network": "net", "network_id": "a".repeat(64),
        "bridge": interface("tb-1", "02:42:00:00:00:01"),
        "host": interface("veth1", "02:42:00:00:00:02"),
        "inside": interface("eth0", "02:42:0a:05:00:02"),
        "addresses": ["10.5.0.2/16", "fd05::2/64"],
        "gateways": ["10.5.0.1", "fd05::1"], "routers": ["10.5.0.1", "fd05::1"],
        "nameservers": ["127.0.0.11"], "search": ["a.example"], "options": ["ndots:0"],
        "warnings": [], "first": true,
    })
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let directory = TempDir::with_prefix("tbcni-").unwrap();
        let records = Arc::new(Mutex::new(Records::default()));
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let shared = Arc::clone(&records);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(&stream, &shared);
            }
        });
        Self { directory, records }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// From now on `request` (`POST /x`) is answered so.
    pub(crate) fn answer(&self, request: &str, status: u16, body: Value) {
        let mut records = self.records.lock().unwrap();
        records.answers.insert(request.to_owned(), (status, body));
    }

    /// The next `request` is the last thing that a daemon hears.
    pub(crate) fn die_at(&self, request: &str) {
        let mut records = self.records.lock().unwrap();
        records.unanswered.insert(request.to_owned());
    }

    /// Requests so far but for those about the host, and their bodies.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        let records = self.records.lock().unwrap();
        let asked = records.asked.iter();
        asked
            .filter(|(request, _)| request != "GET /tunbridge/host")
            .cloned()
            .collect()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.asked()
            .into_iter()
            .map(|(request, _)| request)
            .collect()
    }

    /// Body of the last request of this kind.
    #[track_caller]
    pub(crate) fn body(&self, request: &str) -> Value {
        let asked = self.asked();
        let found = asked.iter().rev().find(|(target, _)| target == request);
        found
            .unwrap_or_else(|| panic!("no {request} in {asked:?}"))
            .1
            .clone()
    }
}

/// One request. Descriptors that come with it are closed by the kernel.
fn serve(stream: &UnixStream, records: &Mutex<Records>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        if request.is_empty() {
            // After an empty line, perhaps.
            let words: Vec<&str> = line.split(' ').take(2).collect();
            request = words.join(" ");
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let Some((status, answer)) = record(records, request, body) else {
        return Ok(());
    };
    let answer = match status {
        204 => String::new(),
        _ => answer.to_string(),
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    (&mut &*stream).write_all(format!("{head}{answer}").as_bytes())
}

fn record(records: &Mutex<Records>, request: String, body: Value) -> Option<(u16, Value)> {
    let mut records = records.lock().unwrap();
    let other = records.answers.get(&request).cloned();
    let answer = other.unwrap_or_else(|| usual(&request));
    let dies = records.unanswered.remove(&request);
    records.asked.push((request, body));
    (!dies).then_some(answer)
}

fn usual(request: &str) -> (u16, Value) {
    match request {
        "GET /tunbridge/host" => {
            let own = std::fs::metadata("/proc/self/ns/net").unwrap();
            (
                200,
                json!({"netns": [own.dev(), own.ino()], "version": "0"}),
            )
        }
        "POST /tunbridge/endpoints" => (201, attached()),
        "POST /tunbridge/endpoints/check" => (200, attached()),
        "POST /tunbridge/endpoints/detach"
        | "POST /tunbridge/endpoints/collect"
        | "POST /tunbridge/endpoints/bandwidth" => (204, Value::Null),
        _ if request.starts_with("POST /tunbridge/containers/") => (204, Value::Null),
        _ => (404, json!({"message": format!("{request}: not found")})),
    }
}
