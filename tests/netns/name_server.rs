//! A name server outside that does as a test wants and counts what it is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Place;

const TICK: Duration = Duration::from_millis(20);

/// Queries over UDP, and connections over TCP, whether or not a query came.
#[derive(Debug, Default)]
struct Counters {
    udp: AtomicUsize,
    tcp: AtomicUsize,
    stop: AtomicBool,
    sources: Mutex<Vec<String>>,
}

/// Stops when it is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// At port 53 of `address`, over UDP and TCP; `behaviour` makes the reply to a query, or none.
    pub(crate) fn start(
        place: &Place,
        address: &str,
        behaviour: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = place.inside(|| {
            let udp = UdpSocket::bind((address, 53)).unwrap();
            (udp, TcpListener::bind((address, 53)).unwrap())
        });
        udp.set_read_timeout(Some(TICK)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let counters = Arc::new(Counters::default());
        let behaviour = Arc::new(behaviour);
        let (of_udp, of_tcp) = (Arc::clone(&counters), Arc::clone(&counters));
        let for_tcp = Arc::clone(&behaviour);
        let threads = vec![
            std::thread::spawn(move || serve_udp(&udp, &of_udp, &*behaviour)),
            std::thread::spawn(move || serve_tcp(&tcp, &of_tcp, &*for_tcp)),
        ];
        Self { counters, threads }
    }

    /// Queries that came over UDP.
    pub(crate) fn udp_count(&self) -> usize {
        self.counters.udp.load(Ordering::Relaxed)
    }

    /// Everything that came, connections over TCP included.
    pub(crate) fn count(&self) -> usize {
        self.udp_count() + self.counters.tcp.load(Ordering::Relaxed)
    }

    /// The address of who asked last.
    pub(crate) fn last_client(&self) -> Option<String> {
        self.counters.sources.lock().unwrap().last().cloned()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl Counters {
    fn note(&self, counter: &AtomicUsize, client: std::net::SocketAddr) {
        self.sources.lock().unwrap().push(client.ip().to_string());
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn serve_udp(
    socket: &UdpSocket,
    counters: &Counters,
    behaviour: &impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    let mut buffer = vec![0; 65_535];
    while !counters.stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, client)) => {
                counters.note(&counters.udp, client);
                if let Some(reply) = behaviour(&buffer[..length]) {
                    socket.send_to(&reply, client).ok();
                }
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            ),
        }
    }
}

fn serve_tcp(
    listener: &TcpListener,
    counters: &Counters,
    behaviour: &impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    let mut silent = Vec::new();
    while !counters.stop.load(Ordering::Relaxed) {
        let Ok((mut stream, client)) = listener.accept() else {
            std::thread::sleep(TICK / 4);
            continue;
        };
        counters.note(&counters.tcp, client);
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            continue;
        }
        if let Some(reply) = behaviour(&query) {
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &reply].concat()).ok();
        } else {
            silent.push(stream);
        }
    }
}
