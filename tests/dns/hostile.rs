//! Clients that mean harm, and clients that want much.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tunbridge::dns::Resolver;

use super::message::{A, NOERROR, REFUSED, SERVFAIL, answers, id, query, rcode, reply};
use super::upstream::Server;
use super::{
    Container, Host, PATIENCE, RESOLVER, eventually, host, on_a_host, receive, receive_tcp,
    send_tcp, view_of_many, view_with,
};

async fn serving() -> (Resolver, Container) {
    let resolver = Resolver::new();
    let container = Container::new();
    resolver
        .start("c1", container.netns(), view_with(&[]))
        .await
        .unwrap();
    (resolver, container)
}

/// Closes with a reset instead of in order.
fn reset(stream: TcpStream) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream.as_fd(), sockopt::Linger, &now).unwrap();
}

/// How much processor time serving takes while nothing happens.
fn idle_cost(lab: &Host) -> Duration {
    let before = lab.time_used();
    std::thread::sleep(Duration::from_millis(500));
    lab.time_used() - before
}

/// CVE-2024-8418 (a connection that is held) and CVE-2026-35406 (a cut query, then a reset).
#[test]
fn half_a_query_and_silence_cost_nothing() {
    on_a_host(async |lab| {
        let (_resolver, container) = serving().await;
        let question = query(1, "web", A);
        let length = u16::try_from(question.len()).unwrap().to_be_bytes();
        let mut held = Vec::new();
        for n in 0..20 {
            let mut stream = container.tcp();
            match n % 4 {
                0 => {}
                1 => stream.write_all(&length[..1]).unwrap(),
                2 => stream.write_all(&length).unwrap(),
                _ => {
                    stream.write_all(&length).unwrap();
                    stream.write_all(&question[..5]).unwrap();
                }
            }
            if n < 8 {
                held.push(stream);
            } else if n < 14 {
                reset(stream);
            } else {
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the end of it");
            }
        }
        assert!(idle_cost(&lab) < Duration::from_millis(200));
        assert_eq!(answers(&container.ask(&question)).len(), 1);
        assert_eq!(answers(&container.ask_tcp(&question)).len(), 1);
        // The held ones are closed after ten seconds.
        for mut stream in held {
            let read = stream.read(&mut [0; 1]);
            assert!(!matches!(read, Ok(1..)), "{read:?}");
        }
    });
}

#[test]
fn a_container_has_64_connections_at_a_time() {
    on_a_host(async |lab| {
        let (resolver, container) = serving().await;
        let mut streams: Vec<TcpStream> = (0..100).map(|_| container.tcp()).collect();
        for stream in &mut streams {
            send_tcp(stream, &query(1, "web", A));
        }
        for stream in &mut streams[..64] {
            assert_eq!(answers(&receive_tcp(stream)).len(), 1);
        }
        assert_eq!(resolver.stats("c1").unwrap().connections, 64);
        assert!(idle_cost(&lab) < Duration::from_millis(200));
        assert_eq!(answers(&container.ask(&query(1, "web", A))).len(), 1);
        // Each that goes makes room for one that waits.
        streams.drain(..36);
        for stream in &mut streams[28..] {
            assert_eq!(answers(&receive_tcp(stream)).len(), 1);
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    on_a_host(async |_| {
        let container = Container::new();
        let resolver = Resolver::new();
        resolver
            .start("c1", container.netns(), view_of_many(4000))
            .await
            .unwrap();
        let mut stream = container.tcp();
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let question = query(1, "many", A);
        let framed = [&[0, u8::try_from(question.len()).unwrap()], &question[..]].concat();
        let started = Instant::now();
        // As long as the resolver reads, then until it closes.
        while stream.write_all(&framed).is_ok() {}
        eventually("the connection is reset", || {
            stream.write(&framed).is_err_and(|error| {
                !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                )
            })
        });
        assert!(started.elapsed() < PATIENCE);
    });
}

#[test]
fn what_is_no_query_gets_no_reply() {
    on_a_host(async |_| {
        let (resolver, container) = serving().await;
        let socket = container.udp();
        let mut response = query(1, "web", A);
        response[2] |= 0x80;
        let no_question = [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for junk in [&response[..], &no_question, &[], &[0; 11], &[0; 5000]] {
            socket.send(junk).unwrap();
        }
        let mut state = 1_u32;
        for n in 0..3000_usize {
            let junk: Vec<u8> = (0..n % 600)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect();
            // Only what looks like a response, so that nothing comes back.
            let junk: Vec<u8> = junk
                .into_iter()
                .enumerate()
                .map(|(at, octet)| if at == 2 { octet | 0x80 } else { octet })
                .collect();
            socket.send(&junk).unwrap();
        }
        eventually("all of it was looked at", || {
            resolver.stats("c1").unwrap().dropped == 3005
        });
        socket.send(&query(9, "web", A)).unwrap();
        assert_eq!(id(&receive(&socket)), 9);
        let mut stream = container.tcp();
        for junk in [&response[..], &no_question, &[0; 11], &[]] {
            send_tcp(&mut stream, junk);
        }
        send_tcp(&mut stream, &query(10, "web", A));
        assert_eq!(id(&receive_tcp(&mut stream)), 10);
    });
}

#[test]
fn more_than_1024_queries_wait_and_are_refused() {
    on_a_host(async |lab| {
        let silent: Vec<Server> = (0..2)
            .map(|_| Server::udp(&lab.netns, "127.0.0.1:0", |_, _| Vec::new()))
            .collect();
        let upstreams: Vec<_> = silent.iter().map(|server| host(server.address)).collect();
        let resolver = Resolver::new();
        let container = Container::new();
        resolver
            .start("c1", container.netns(), view_with(&upstreams))
            .await
            .unwrap();
        let client = container.udp();
        setsockopt(&client, sockopt::RcvBufForce, &(1 << 22)).unwrap();
        let started = Instant::now();
        for n in 0..1100 {
            client.send(&query(n, "example.com", A)).unwrap();
            if n % 100 == 99 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Local names do not wait for the others.
        let local = container.udp();
        local
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        local.send(&query(1, "web", A)).unwrap();
        assert_eq!(rcode(&receive(&local)), NOERROR);
        eventually("1024 are with the first server", || {
            silent[0].count() >= 1024
        });
        assert_eq!(silent[0].count(), 1024);
        let (mut refused, mut failed) = (Vec::new(), 0);
        for _ in 0..1100 {
            let reply = receive(&client);
            match rcode(&reply) {
                REFUSED => refused.push(started.elapsed()),
                SERVFAIL => failed += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!((refused.len(), failed), (76, 1024));
        assert!(refused[0] >= Duration::from_secs(4), "{refused:?}");
        assert!(refused[75] < Duration::from_secs(6), "{refused:?}");
        assert_eq!(resolver.stats("c1").unwrap().refused, 76);
    });
}

/// The kernel's count of datagrams that found a full buffer, in the calling thread's namespace.
fn receive_errors() -> String {
    super::run("awk '/^Udp:/ && $6 != \"RcvbufErrors\" {print $6}' /proc/thread-self/net/snmp")
}

/// A thousand queries a second, half of them forwarded, for three seconds; then as many as go.
#[test]
fn a_thousand_queries_a_second_are_answered_without_loss() {
    on_a_host(async |lab| {
        let upstream = Server::udp(&lab.netns, "127.0.0.1:0", |query, _| {
            vec![reply(query, NOERROR, &[(A, vec![203, 0, 113, 1])])]
        });
        let resolver = Resolver::new();
        let container = Container::new();
        resolver
            .start(
                "c1",
                container.netns(),
                view_with(&[host(upstream.address)]),
            )
            .await
            .unwrap();
        let client = container.udp();
        setsockopt(&client, sockopt::RcvBufForce, &(1 << 22)).unwrap();
        let sender = client.try_clone().unwrap();
        let before = lab.time_used();
        let started = Instant::now();
        let sending = std::thread::spawn(move || {
            let started = Instant::now();
            for n in 0..3000_u16 {
                let due = Duration::from_millis(u64::from(n));
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                let name = if n % 2 == 0 { "web" } else { "example.com" };
                sender.send(&query(n, name, A)).unwrap();
            }
        });
        let mut seen = vec![false; 3000];
        for _ in 0..3000 {
            let reply = receive(&client);
            assert_eq!(answers(&reply).len(), 1);
            seen[usize::from(id(&reply))] = true;
        }
        sending.join().unwrap();
        assert!(seen.iter().all(|seen| *seen));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
        assert_eq!(container.inside(receive_errors).trim(), "0");
        println!(
            "3000 queries, half forwarded: {took:?}, {:?} of processor time",
            lab.time_used() - before
        );
        for (what, name) in [("local", "web"), ("forwarded", "example.com")] {
            let started = Instant::now();
            let mut received = 0_u32;
            while started.elapsed() < Duration::from_secs(1) {
                for n in 0..50 {
                    client.send(&query(n, name, A)).unwrap();
                }
                for _ in 0..50 {
                    receive(&client);
                    received += 1;
                }
            }
            println!("{received} {what} queries in one second");
        }
    });
}

#[test]
fn one_containers_flood_does_not_silence_another() {
    on_a_host(async |lab| {
        let silent = Server::udp(&lab.netns, "127.0.0.1:0", |_, _| Vec::new());
        let resolver = Resolver::new();
        let (loud, quiet) = (Container::new(), Container::new());
        for (name, container) in [("loud", &loud), ("quiet", &quiet)] {
            let view = view_with(&[host(silent.address)]);
            resolver.start(name, container.netns(), view).await.unwrap();
        }
        let flood = loud.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(RESOLVER).unwrap();
            socket
        });
        let end = Instant::now() + Duration::from_secs(2);
        let flooding = std::thread::spawn(move || {
            while Instant::now() < end {
                flood.send(&query(1, "example.com", A)).ok();
            }
        });
        let socket = quiet.udp();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let asked = Instant::now();
            socket.send(&query(1, "web", A)).unwrap();
            assert_eq!(answers(&receive(&socket)).len(), 1);
            slowest = slowest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        flooding.join().unwrap();
        println!("slowest answer during the flood: {slowest:?}");
        let stats = resolver.stats("loud").unwrap();
        assert!(stats.refused > 0, "{stats:?}");
    });
}
