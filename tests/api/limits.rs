//! Clients that are slow, silent, greedy or gone cost nothing that lasts.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tunbridge::api::events::EventKind;

use crate::fake_backend::{Server, WEB};

/// Octets of memory of this process.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn head(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut octet = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut octet).unwrap() == 1 {
        text.push(octet[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn bodies_are_bounded() {
    let server = Server::start();
    let long = format!(r#"{{"Name":"{}"}}"#, "x".repeat(2 << 20));
    let mut stream = server.open();
    let request = format!(
        "POST /networks/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        long.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    // The server may close before it has all.
    let _ = stream.write_all(long.as_bytes());
    assert!(head(&mut stream).starts_with("HTTP/1.1 413 "));
    assert!(server.fake.records().created.is_empty());
}

#[test]
fn half_a_body_is_waited_for_ten_seconds() {
    let server = Server::start();
    let mut stream = server.open();
    let request = "POST /networks/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
    stream.write_all(request.as_bytes()).unwrap();
    let begun = Instant::now();
    // Others are served meanwhile.
    assert_eq!(server.ask("GET", "/_ping", "").status, 200);
    assert!(head(&mut stream).starts_with("HTTP/1.1 408 "));
    assert!((9..15).contains(&begun.elapsed().as_secs()));
    // The head of a second request on the same connection never comes: it is not kept for ever either.
}

#[test]
fn streams_of_events_are_counted() {
    let server = Server::start();
    let request = b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n";
    let mut streams: Vec<UnixStream> = (0..64).map(|_| server.open()).collect();
    for stream in &mut streams {
        stream.write_all(request).unwrap();
        assert!(head(stream).starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(server.ask("GET", "/info", "").json()["NEventsListener"], 64);
    let refused = server.ask("GET", "/events", "");
    assert_eq!(refused.status, 503);
    assert!(refused.message().starts_with("too many streams of events"));
    // A client that goes gives its place back.
    drop(streams.pop());
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.ask("GET", "/events?until=0s", "").status == 503 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_does_not_read_events_is_dropped_and_memory_does_not_grow() {
    let server = Server::start();
    let mut stream = server.open();
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        .unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
    let long = "x".repeat(1000);
    let before = memory();
    for _ in 0..100_000 {
        server
            .fake
            .events
            .publish(EventKind::Container, "start", WEB, [("name", &long)]);
    }
    assert!(
        memory().saturating_sub(before) < 32 << 20,
        "100 MB of events went by"
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.ask("GET", "/info", "").json()["NEventsListener"] != 0 {
        assert!(
            Instant::now() < deadline,
            "the slow reader still has its stream"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    // What was under way comes, then the end.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 8 << 20, "{}", rest.len());
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    let server = Server::start();
    let mut silent: Vec<UnixStream> = (0..200).map(|_| server.open()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost:").unwrap();
    }
    assert_eq!(server.ask("GET", "/_ping", "").status, 200);
}

#[test]
fn the_server_ends_although_clients_stay() {
    let mut server = Server::start();
    let mut streams: Vec<UnixStream> = (0..3).map(|_| server.open()).collect();
    streams[0]
        .write_all(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        .unwrap();
    assert!(head(&mut streams[0]).starts_with("HTTP/1.1 200 "));
    // Idle after a request.
    streams[1]
        .write_all(b"HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        .unwrap();
    assert!(head(&mut streams[1]).starts_with("HTTP/1.1 200 "));
    let took = server.stop();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_body_that_nobody_wants_is_read_before_the_answer() {
    // Docker's client writes head and body one after the other, and reads no answer if it cannot write.
    let server = Server::start();
    for target in ["/v1.41/containers/create", "/nonsense", "/v9.9/networks"] {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(b"{\"A\":\"b\"}").expect(target);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{target}: {answer}");
    }
}
