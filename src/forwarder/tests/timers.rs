//! How long flows live.

use super::*;

/// Whether the flow lives `seconds` after now, and not a second longer.
#[track_caller]
fn lives(lab: &mut Lab, seconds: u64) {
    lab.pass(seconds - 1);
    assert_eq!(
        lab.forwarder.flows(lab.now).len(),
        1,
        "lives for {seconds} s"
    );
    lab.pass(2);
    assert_eq!(
        lab.forwarder.stats().flows,
        0,
        "lives no longer than {seconds} s"
    );
    assert!(lab.host.bits.lock().is_empty());
}

#[test]
fn udp() {
    // RFC 4787 REQ-5, REQ-5a, REQ-5c
    let mut lab = Lab::new();
    lab.send(super::udp("172.17.0.2:1", "198.51.100.7:5000"));
    lives(&mut lab, 120);
    let out = lab.send(super::udp("172.17.0.2:1", "198.51.100.7:5000"));
    lab.send(super::udp("198.51.100.7:5000", &out.src));
    lives(&mut lab, 300);
    let out = lab.send(super::udp("172.17.0.2:1", "198.51.100.7:53"));
    lab.send(super::udp("198.51.100.7:53", &out.src));
    lives(&mut lab, 30);
    let out = lab.send(super::udp("172.17.0.2:1", "198.51.100.7:443"));
    lab.send(super::udp("198.51.100.7:443", &out.src));
    lab.send(super::udp("172.17.0.2:1", "198.51.100.7:443"));
    lives(&mut lab, 300);
}

#[test]
fn both_directions_refresh() {
    // RFC 4787 REQ-6, REQ-6a
    let mut lab = Lab::new();
    let out = lab.send(super::udp("172.17.0.2:1", "198.51.100.7:5000"));
    lab.pass(100);
    lab.send(super::udp("172.17.0.2:1", "198.51.100.7:5000"));
    lab.pass(100);
    lab.send(super::udp("198.51.100.7:5000", &out.src));
    lab.pass(290);
    lab.send(super::udp("198.51.100.7:5000", &out.src));
    lives(&mut lab, 300);
}

#[test]
fn icmp() {
    // RFC 5508 REQ-2
    let mut lab = Lab::new();
    lab.send(icmp_query(8, "172.17.0.2", "198.51.100.7", 77, 56));
    lives(&mut lab, 60);
}

#[test]
fn tcp() {
    // RFC 5382 REQ-5, RFC 7857 §2
    const CLIENT: &str = "172.17.0.2:1";
    const SERVER: &str = "198.51.100.7:80";
    let mut lab = Lab::new();
    lab.send(super::tcp(CLIENT, SERVER, SYN, 1, 0, 0));
    lives(&mut lab, 240);
    lab.connect(CLIENT, SERVER);
    lives(&mut lab, 7440);
    let syn = lab.connect(CLIENT, SERVER);
    lab.pass(1000);
    lab.send(super::tcp(SERVER, &syn.src, FIN | ACK, 5001, 1001, 0));
    assert_eq!(lab.state(0), "closing");
    lives(&mut lab, 240);
    let syn = lab.connect(CLIENT, SERVER);
    lab.send(super::tcp(SERVER, &syn.src, FIN | ACK, 5001, 1001, 0));
    lab.send(super::tcp(CLIENT, SERVER, FIN | ACK, 1001, 5002, 0));
    assert_eq!(lab.state(0), "time_wait");
    lives(&mut lab, 240);
    lab.connect(CLIENT, SERVER);
    lab.send(super::tcp(CLIENT, SERVER, RST, 1001, 0, 0));
    assert_eq!(lab.state(0), "reset");
    lives(&mut lab, 240);
}

#[test]
fn a_reset_out_of_window_passes_and_changes_nothing() {
    // nat.md S4
    let mut lab = Lab::new();
    let syn = lab.connect("172.17.0.2:1", "198.51.100.7:80");
    lab.send(super::tcp("198.51.100.7:80", &syn.src, RST, 77, 0, 0));
    lives(&mut lab, 7440);
}

#[test]
fn settings_are_used() {
    // RFC 5508 REQ-2a, RFC 4787 REQ-5b
    let timeouts = Timeouts {
        icmp_query: Duration::from_secs(90),
        ..Timeouts::default()
    };
    let mut lab = Lab::with(Config {
        timeouts,
        ..Config::default()
    });
    lab.send(icmp_query(8, "172.17.0.2", "198.51.100.7", 77, 56));
    lives(&mut lab, 90);
}

#[test]
fn an_expired_flow_is_none_even_without_timer_calls() {
    let mut lab = Lab::new();
    let out = lab.send(super::udp("172.17.0.2:1", "198.51.100.7:5000"));
    lab.now = lab.now + Duration::from_secs(121);
    assert!(lab.forwarder.flows(lab.now).is_empty());
    lab.left_to_host(super::udp("198.51.100.7:5000", &out.src));
    assert_eq!(lab.forwarder.stats().flows, 0);
}

#[test]
fn timers_do_not_spin() {
    let mut lab = Lab::new();
    assert_eq!(lab.forwarder.poll_timeout(), None);
    lab.connect("172.17.0.2:1", "198.51.100.7:80");
    let mut calls = 0;
    let end = lab.now + Duration::from_secs(8000);
    while let Some(due) = lab.forwarder.poll_timeout() {
        assert!(due > lab.now && due < end);
        lab.now = due;
        lab.forwarder.handle_timeout(due, &mut lab.out);
        calls += 1;
    }
    assert!(calls < 40, "{calls}");
}
