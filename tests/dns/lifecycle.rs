//! Starting, stopping, dying: nothing stays behind, and nothing is kept alive.

use std::io::Write;
use std::time::{Duration, Instant};

use tunbridge::dns::Resolver;

use super::message::{A, answers, query};
use super::upstream::Server;
use super::{Container, RESOLVER, container, eventually, host, on_a_host, run, view_with};

/// A container joined to the host by a veth pair, whose host end lives as long as the namespace.
fn with_veth(name: &str) -> Container {
    let container = Container::new();
    // The thread that moves the interface must be on the host, the namespace needs a name for that.
    let fd = std::os::fd::AsRawFd::as_raw_fd(&container.netns);
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
    run(&format!(
        "ip link add {name} type veth peer name eth0 netns {path}"
    ));
    container
}

fn exists(name: &str) -> bool {
    std::path::Path::new("/proc/thread-self/net/dev").exists()
        && run("cat /proc/thread-self/net/dev").contains(&format!("{name}:"))
}

/// Clients in the middle of everything.
fn busy(inner: &Container) -> Vec<Box<dyn std::any::Any + Send>> {
    let mut open: Vec<Box<dyn std::any::Any + Send>> = Vec::new();
    for n in 0..10 {
        let mut stream = inner.tcp();
        stream.write_all(&[0, 40, 1, 2, 3][..n % 6]).unwrap();
        open.push(Box::new(stream));
        let mut waiting = inner.tcp();
        super::send_tcp(&mut waiting, &query(1, "example.com", A));
        open.push(Box::new(waiting));
        let socket = inner.udp();
        for _ in 0..20 {
            socket.send(&query(1, "example.com", A)).unwrap();
        }
        open.push(Box::new(socket));
    }
    open
}

#[test]
fn a_namespace_is_gone_after_stop() {
    on_a_host(async |lab| {
        let silent = Server::udp(&lab.netns, "127.0.0.1:0", |_, _| Vec::new());
        let inner = with_veth("v0");
        let inside = "127.0.0.1:5300".parse().unwrap();
        let silent_inside = Server::udp(&inner.netns, "127.0.0.1:5300", |_, _| Vec::new());
        let resolver = Resolver::new();
        let upstreams = [container(inside), host(silent.address)];
        resolver
            .start("c1", inner.netns(), view_with(&upstreams))
            .await
            .unwrap();
        let clients = busy(&inner);
        eventually("queries are under way", || silent_inside.count() > 100);
        let started = Instant::now();
        resolver.stop("c1").await;
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(resolver.running().is_empty() && resolver.stats("c1").is_none());
        // The container ends, as it were: its programs, and who else is in there.
        drop(clients);
        drop(silent_inside);
        drop(inner);
        eventually("the namespace is gone", || !exists("v0"));
    });
}

#[test]
fn a_namespace_is_gone_after_the_daemon_is() {
    on_a_host(async |lab| {
        let silent = Server::udp(&lab.netns, "127.0.0.1:0", |_, _| Vec::new());
        let inner = with_veth("v0");
        let resolver = Resolver::new();
        let upstreams = [host(silent.address)];
        resolver
            .start("c1", inner.netns(), view_with(&upstreams))
            .await
            .unwrap();
        let clients = busy(&inner);
        drop(resolver);
        drop(clients);
        drop(inner);
        eventually("the namespace is gone", || !exists("v0"));
    });
}

#[test]
fn a_stopped_resolver_leaves_no_trace() {
    on_a_host(async |_| {
        let inner = Container::new();
        let sockets = || inner.inside(|| run("ss -Hlntu"));
        let program = || inner.inside(|| run("bpftool net show dev lo 2>/dev/null || true"));
        let (before, program_before) = (sockets(), program());
        let resolver = Resolver::new();
        for _ in 0..3 {
            resolver
                .start("c1", inner.netns(), view_with(&[]))
                .await
                .unwrap();
            assert_eq!(answers(&inner.ask(&query(1, "web", A))).len(), 1);
            assert_ne!(sockets(), before);
            resolver.stop("c1").await;
            assert_eq!(sockets(), before);
            assert_eq!(program(), program_before);
            let refused = inner.inside(|| std::net::TcpStream::connect(RESOLVER));
            assert!(refused.is_err());
        }
        resolver.stop("c1").await;
        resolver.stop("never started").await;
    });
}

#[test]
fn a_new_daemon_takes_over() {
    on_a_host(async |_| {
        let inner = Container::new();
        for _ in 0..4 {
            let resolver = Resolver::new();
            resolver
                .start("c1", inner.netns(), view_with(&[]))
                .await
                .unwrap();
            // Twice: the later one counts.
            resolver
                .start("c1", inner.netns(), view_with(&[]))
                .await
                .unwrap();
            assert_eq!(answers(&inner.ask(&query(1, "web", A))).len(), 1);
            // With the connection still open, as after a kill.
            let stream = inner.tcp();
            assert_eq!(answers(&inner.ask_tcp(&query(1, "web", A))).len(), 1);
            drop(resolver);
            drop(stream);
        }
        let filters = inner.inside(|| run("tc filter show dev lo egress"));
        let ours = filters.matches("tb_dns_redirect direct-action").count();
        assert_eq!(ours, 1, "{filters}");
    });
}

/// Resident memory of this process, KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap()
}

#[test]
fn many_containers_are_cheap() {
    let count = std::env::var("TB_CONTAINERS").map_or(100, |count| count.parse().unwrap());
    on_a_host(async |_| {
        let containers: Vec<Container> = (0..count).map(|_| Container::new()).collect();
        let resolver = Resolver::new();
        let before = memory();
        let mut slowest = Duration::ZERO;
        let started = Instant::now();
        for (n, container) in containers.iter().enumerate() {
            let one = Instant::now();
            resolver
                .start(&n.to_string(), container.netns(), view_with(&[]))
                .await
                .unwrap();
            slowest = slowest.max(one.elapsed());
        }
        let started = started.elapsed();
        let after = memory();
        for container in containers.iter().step_by(7) {
            assert_eq!(answers(&container.ask(&query(1, "web", A))).len(), 1);
        }
        let stopping = Instant::now();
        for n in 0..containers.len() {
            resolver.stop(&n.to_string()).await;
        }
        println!(
            "{count} containers: started in {started:?}, the slowest in {slowest:?}; {} KiB; stopped in {:?}",
            after.saturating_sub(before),
            stopping.elapsed()
        );
        assert!(started < Duration::from_secs(2) * count);
    });
}
