//! Many flows: port supply, quotas, recycling.

use std::ops::RangeInclusive;

use super::*;

fn syn(host: u8, port: u16, to: &str) -> Vec<u8> {
    tcp(&format!("172.17.0.{host}:{port}"), to, SYN, 1000, 0, 0)
}

#[test]
fn one_container_holds_28000_connections_to_one_destination() {
    let mut lab = Lab::new();
    let mut ports = BTreeSet::new();
    for port in 32_768..=60_999 {
        assert!(
            ports.insert(lab.send(syn(2, port, "198.51.100.7:443")).port()),
            "unique towards it"
        );
    }
    assert_eq!(ports.len(), 28_232);
    assert!(!ports.contains(&8080) && !ports.contains(&8082) && !ports.contains(&9090));
    // It may not take the rest from the others.
    let mut refused = 0;
    for port in 1024..3024 {
        let mut frame = syn(2, port, "198.51.100.7:443");
        let verdict = lab.verdict(&mut frame);
        if verdict == Verdict::Drop(DropReason::OutOfPorts) {
            refused += 1;
        } else {
            assert_eq!(verdict, Verdict::Forward);
        }
    }
    assert!(refused > 1900, "{refused}");
    // RFC 5508 REQ-8: it is told, though not each time.
    assert!((10..=30).contains(&lab.out.len()), "{}", lab.out.len());
    let error = lab.out.pop().unwrap();
    assert_eq!(&error[30..32], [3, 13]);
    assert_eq!(seen(&error).src, "172.17.0.1:0");
    assert!(lab.forwarder.stats().suppressed_errors > 1800);
    // RFC 6888 REQ-4: a second container gets through, to the same destination too.
    for port in 32_768..36_000 {
        lab.send(syn(3, port, "198.51.100.7:443"));
    }
}

#[test]
fn one_container_holds_60000_flows_over_several_destinations() {
    // RFC 7857 §3
    let mut lab = Lab::new();
    let mut tuples = BTreeSet::new();
    for n in 0..60_000u32 {
        let to = format!("198.51.100.{}:443", 1 + n % 4);
        let port = u16::try_from(2000 + n).unwrap();
        let out = lab.send(syn(2, port, &to));
        assert!(
            tuples.insert((out.src, out.dst)),
            "an external tuple is one flow's"
        );
    }
    assert_eq!(lab.forwarder.stats().flows, 60_000);
    for (src, dst) in tuples.iter().step_by(997) {
        let answer = lab.send(tcp(dst, src, SYN | ACK, 5000, 1001, 0));
        assert!(answer.dst.starts_with("172.17.0.2:"));
    }
    lab.send(syn(3, 5000, "198.51.100.1:443"));
    lab.pass(300);
    assert!(lab.host.bits.lock().is_empty());
    assert_eq!(lab.forwarder.stats().mappings, 0);
}

#[test]
fn finished_connections_give_up_their_ports_first() {
    let config = Config {
        exclusive_ports: 61_000..=61_007,
        shared_ports: RangeInclusive::new(1, 0),
        ..Config::default()
    };
    let mut lab = Lab::with(config);
    // 7 of 8 ports are the container's quota; thousands of short connections fit all the same.
    for port in 1000..3000 {
        let client = format!("172.17.0.2:{port}");
        let syn = lab.connect(&client, "198.51.100.7:80");
        lab.send(tcp(&client, "198.51.100.7:80", FIN | ACK, 1001, 5001, 0));
        lab.send(tcp("198.51.100.7:80", &syn.src, FIN | ACK, 5001, 1002, 0));
    }
    assert!(lab.forwarder.stats().flows <= 7);
}

#[test]
fn live_connections_are_not_recycled() {
    let config = Config {
        exclusive_ports: 61_000..=61_007,
        shared_ports: RangeInclusive::new(1, 0),
        ..Config::default()
    };
    let mut lab = Lab::with(config);
    for port in 1..=7 {
        lab.connect(&format!("172.17.0.2:{port}"), "198.51.100.7:80");
    }
    lab.dropped(syn(2, 8, "198.51.100.7:80"), DropReason::OutOfPorts);
    lab.connect("172.17.0.3:1", "198.51.100.7:80");
    assert_eq!(lab.forwarder.stats().flows, 8);
    lab.connect("172.17.0.3:1", "198.51.100.8:80");
}

#[test]
fn a_containers_flows_are_limited() {
    // RFC 6888 REQ-4, REQ-5, nat.md S5
    let mut lab = Lab::with(Config {
        max_flows_per_endpoint: 100,
        ..Config::default()
    });
    for n in 0..100u16 {
        lab.send(udp("172.17.0.2:1", &format!("198.51.100.7:{}", 5000 + n)));
    }
    lab.dropped(
        udp("172.17.0.2:1", "198.51.100.7:9"),
        DropReason::EndpointQuota,
    );
    assert_eq!(&lab.generated()[30..32], [3, 13]);
    lab.send(udp("172.17.0.3:1", "198.51.100.7:9"));
    // What others open towards it is counted apart, and unanswered flows make room.
    for n in 0..1000u16 {
        lab.send(tcp(
            &format!("198.51.100.9:{}", 1 + n),
            "192.0.2.10:8080",
            SYN,
            1,
            0,
            0,
        ));
    }
    assert_eq!(lab.forwarder.stats().flows, 201);
}

#[test]
fn answered_flows_do_not_make_room() {
    let mut lab = Lab::with(Config {
        max_flows_per_endpoint: 2,
        ..Config::default()
    });
    for port in [1, 2] {
        let client = format!("198.51.100.9:{port}");
        lab.send(udp(&client, "192.0.2.10:8080"));
        lab.send(udp("172.17.0.2:80", &client));
    }
    lab.dropped(
        udp("198.51.100.9:3", "192.0.2.10:8080"),
        DropReason::EndpointQuota,
    );
    assert!(lab.out.is_empty(), "strangers are not told");
}

#[test]
fn the_table_has_an_end() {
    let mut lab = Lab::with(Config {
        max_flows: 3,
        ..Config::default()
    });
    for n in 1..=3 {
        lab.send(udp(&format!("172.17.0.2:{n}"), "198.51.100.7:5000"));
    }
    lab.dropped(
        udp("172.17.0.3:1", "198.51.100.7:5000"),
        DropReason::TableFull,
    );
    lab.pass(121);
    lab.send(udp("172.17.0.3:1", "198.51.100.7:5000"));
}

#[test]
fn ports_are_not_predictable_across_containers() {
    // RFC 7857 §9, RFC 6888 REQ-15, nat.md S3
    let mut lab = Lab::new();
    let mut steps = BTreeSet::new();
    let mut last = 0;
    for n in 0..500u16 {
        let host = 2 + n % 2;
        let port = lab
            .send(udp(
                &format!("172.17.0.{host}:{}", 1000 + n),
                "198.51.100.7:5000",
            ))
            .port();
        steps.insert(port.wrapping_sub(last));
        last = port;
    }
    assert!(steps.len() > 450, "{}", steps.len());
}
