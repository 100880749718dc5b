//! The resolver at 127.0.0.11 against the real kernel: real sockets and the eBPF program, in network
//! namespaces that each test makes. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod forwarding;
mod hostile;
mod lifecycle;
mod message;
mod upstream;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tunbridge::dns::{Origin, Upstream, View, Zone};
use tunbridge::kernel::netns;

/// Where a container asks.
const RESOLVER: &str = "127.0.0.11:53";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The namespace in which a daemon would run.
struct Host {
    netns: OwnedFd,
    /// The threads that serve containers.
    workers: Arc<Mutex<BTreeSet<i32>>>,
}

/// Runs a test in a fresh network namespace with `lo` up, as the daemon's runtime does: its threads
/// are all in that namespace.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            run("ip link set lo up");
            let workers = Arc::new(Mutex::new(BTreeSet::new()));
            let host = Host {
                netns: netns::open_current().unwrap(),
                workers: Arc::clone(&workers),
            };
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(move || {
                    let thread = nix::unistd::gettid().as_raw();
                    workers.lock().unwrap().insert(thread);
                })
                .build()
                .unwrap()
                .block_on(test(host));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    /// Processor time of the threads that serve containers, so far.
    fn time_used(&self) -> Duration {
        let workers = self.workers.lock().unwrap();
        let time = |thread: &i32| {
            let path = format!("/proc/self/task/{thread}/schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split(' ').next().and_then(|n| n.parse::<u64>().ok())
        };
        Duration::from_nanos(workers.iter().filter_map(time).sum())
    }
}

/// A container's network namespace, with `lo` up.
struct Container {
    netns: OwnedFd,
}

impl Container {
    fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            netns::open_current().unwrap()
        });
        Self {
            netns: thread.join().unwrap(),
        }
    }

    fn netns(&self) -> OwnedFd {
        self.netns.try_clone().unwrap()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.netns.as_fd(), work)
    }

    /// A socket that asks the resolver, and takes replies from nobody else.
    fn udp(&self) -> UdpSocket {
        self.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(RESOLVER).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }

    fn tcp(&self) -> TcpStream {
        self.inside(|| {
            let stream = TcpStream::connect(RESOLVER).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
    }

    fn ask(&self, query: &[u8]) -> Vec<u8> {
        let socket = self.udp();
        socket.send(query).unwrap();
        receive(&socket)
    }

    fn ask_tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = self.tcp();
        send_tcp(&mut stream, query);
        receive_tcp(&mut stream)
    }
}

fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> T {
    netns::run_in(namespace, work).unwrap()
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn send_tcp(stream: &mut TcpStream, query: &[u8]) {
    let length = u16::try_from(query.len()).unwrap();
    let framed = [&length.to_be_bytes()[..], query].concat();
    stream.write_all(&framed).unwrap();
}

fn receive_tcp(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// Runs a command in the calling thread's namespace and returns what it prints.
fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A view in which `many` has so many addresses.
fn view_of_many(count: u16) -> View {
    let addresses: Vec<String> = (0..count)
        .map(|n| format!("10.1.{}.{}", n / 250, n % 250))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    view(&[("many", &addresses)])
}

/// A view with one network, `net1`.
fn view(names: &[(&str, &[&str])]) -> View {
    let parse = |list: &[&str]| -> Vec<IpAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    };
    let mut pointers = HashMap::new();
    for &(name, list) in names {
        for address in parse(list) {
            pointers.entry(address).or_insert_with(|| name.to_owned());
        }
    }
    let zone = Zone {
        network: "net1".to_owned(),
        names: names
            .iter()
            .map(|&(name, list)| (name.to_owned(), parse(list)))
            .collect(),
        pointers,
    };
    View {
        zones: vec![Arc::new(zone)],
        forward: true,
        ..View::default()
    }
}

/// A view that knows `web` and forwards the rest.
fn view_with(upstreams: &[Upstream]) -> View {
    View {
        upstreams: upstreams.to_vec(),
        ..view(&[("web", &["172.18.0.2"])])
    }
}

const fn host(address: SocketAddr) -> Upstream {
    Upstream {
        address,
        from: Origin::Host,
    }
}

const fn container(address: SocketAddr) -> Upstream {
    Upstream {
        address,
        from: Origin::Container,
    }
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
