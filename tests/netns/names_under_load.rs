//! The resolver at 127.0.0.11 when much is asked of it: rates, limits, clients that disappear.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::{FAR, FAR_TOO, Lab, Place, eventually};
use crate::message::{A, NOERROR, REFUSED, SERVFAIL, answers, id, query, rcode, reply};
use crate::name_server::NameServer;
use crate::names::{RESOLVER, create, set_resolv_conf};
use crate::tunbridge_under_test::Tunbridge;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket of a container that asks its resolver, with room for thousands of replies.
fn client(container: &Place) -> UdpSocket {
    container.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(RESOLVER).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(1 << 22)).unwrap();
        socket
    })
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).expect("a reply");
    buffer.truncate(length);
    buffer
}

/// A thousand a second for five seconds, half of them forwarded: every one is answered, at its first try.
#[test]
fn a_thousand_queries_a_second_are_answered_without_loss() {
    const QUERIES: u16 = 5000;
    let lab = Lab::plain();
    let outside = NameServer::start(&lab.far(), FAR, |query| {
        Some(reply(query, NOERROR, &[(A, vec![203, 0, 113, 9])]))
    });
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\n"));
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let container = tunbridge.container_with("c1", &["--network", "one"]);
    let socket = client(&container);
    let sender = socket.try_clone().unwrap();
    let started = Instant::now();
    let sending = std::thread::spawn(move || {
        for n in 0..QUERIES {
            let due = Duration::from_millis(u64::from(n));
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            let name = if n.is_multiple_of(2) {
                "c1"
            } else {
                "www.wan.example"
            };
            sender.send(&query(n, name, A)).unwrap();
        }
        started.elapsed()
    });
    let mut seen = vec![0_u32; usize::from(QUERIES)];
    for _ in 0..QUERIES {
        let reply = receive(&socket);
        let local = id(&reply).is_multiple_of(2);
        let address = if local {
            [172, 18, 0, 2]
        } else {
            [203, 0, 113, 9]
        };
        assert_eq!(answers(&reply), [address]);
        seen[usize::from(id(&reply))] += 1;
    }
    let took = started.elapsed();
    let sent = sending.join().unwrap();
    assert!(seen.iter().all(|seen| *seen == 1), "each once");
    assert_eq!(outside.udp_count(), usize::from(QUERIES / 2));
    eprintln!("{QUERIES} queries, half forwarded: sent in {sent:?}, answered in {took:?}");
    assert!(took < sent + Duration::from_secs(4), "{sent:?} {took:?}");
}

/// Docker's limit, with servers outside that never answer.
#[test]
fn queries_beyond_1024_wait_and_local_names_do_not() {
    let lab = Lab::plain();
    let first = NameServer::start(&lab.far(), FAR, |_| None);
    let second = NameServer::start(&lab.far(), FAR_TOO, |_| None);
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\nnameserver {FAR_TOO}\\n"));
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let container = tunbridge.container_with("c1", &["--network", "one"]);
    let other = tunbridge.container_with("c2", &["--network", "one"]);
    let socket = client(&container);
    let started = Instant::now();
    for n in 0..1100 {
        socket.send(&query(n, "www.wan.example", A)).unwrap();
        if n % 50 == 49 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let mut slowest = Duration::ZERO;
    for place in [&container, &other] {
        let local = client(place);
        for n in 0..100 {
            let asked = Instant::now();
            local.send(&query(n, "c2", A)).unwrap();
            assert_eq!(answers(&receive(&local)), [[172, 18, 0, 3]]);
            slowest = slowest.max(asked.elapsed());
        }
    }
    let all = eventually(Duration::from_secs(3), || first.udp_count() >= 1024);
    assert!(all, "{}", first.udp_count());
    assert_eq!(first.udp_count(), 1024);
    assert_eq!(second.udp_count(), 0);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "no time is over yet"
    );
    let (mut refused, mut failed) = (0, 0);
    for _ in 0..1100 {
        match rcode(&receive(&socket)) {
            REFUSED => refused += 1,
            SERVFAIL => failed += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((refused, failed), (76, 1024));
    assert_eq!(second.udp_count(), 1024);
    eprintln!("local names meanwhile: the slowest of 200 took {slowest:?}");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    let log = tunbridge.log();
    assert!(
        log.contains("[resolver] more than 1024 concurrent queries"),
        "{log}"
    );
}

/// Descriptors and resident memory (KiB) of the daemon.
fn resources(lab: &Lab, tunbridge: &Tunbridge<'_>) -> (usize, u64) {
    let line = format!(
        "ls /proc/{0}/fd | wc -l; awk '/^VmRSS/ {{print $2}}' /proc/{0}/status",
        tunbridge.pid()
    );
    let outcome = lab.host().shell(&line).expect_success();
    let mut numbers = outcome
        .stdout
        .lines()
        .map(|line| line.trim().parse().unwrap());
    let (descriptors, memory): (u64, u64) = (numbers.next().unwrap(), numbers.next().unwrap());
    (usize::try_from(descriptors).unwrap(), memory)
}

/// Clients that send a part of a query and go, in every way that there is.
fn half_queries(container: &Place, count: usize) {
    container.inside(|| {
        for n in 0..count {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), 53));
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            let whole = query(1, "www.wan.example", A);
            let framed = [
                &u16::try_from(whole.len()).unwrap().to_be_bytes(),
                &whole[..],
            ]
            .concat();
            let half = &framed[..n % framed.len()];
            std::io::Write::write_all(&mut stream, half).unwrap();
            if n % 2 == 1 {
                // Closing sends a reset.
                let now = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &now).unwrap();
            }
        }
    });
}

#[test]
fn five_hundred_half_queries_over_tcp_cost_nothing() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let container = tunbridge.container_with("c1", &["--network", "one"]);
    // Once, for what is allocated only once.
    half_queries(&container, 500);
    std::thread::sleep(Duration::from_millis(500));
    let before = resources(&lab, &tunbridge);
    let started = Instant::now();
    half_queries(&container, 500);
    let took = started.elapsed();
    let mut after = (0, 0);
    let same = eventually(Duration::from_secs(5), || {
        after = resources(&lab, &tunbridge);
        after.0 <= before.0
    });
    eprintln!("500 half queries in {took:?}: (descriptors, KiB) {before:?}, then {after:?}");
    assert!(same, "descriptors: {before:?}, then {after:?}");
    assert!(
        after.1 <= before.1 + 1024,
        "KiB: {before:?}, then {after:?}"
    );
    let own: IpAddr = "172.18.0.2".parse().unwrap();
    assert_eq!(crate::names::addresses(&container, "c1"), [own]);
}
