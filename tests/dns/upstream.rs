//! DNS servers that do as a test wants, mostly wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::inside;

const TICK: Duration = Duration::from_millis(20);

/// What a server does with a query, given the query and how many came before: the messages it
/// sends back.
type Behaviour = Box<dyn FnMut(&[u8], usize) -> Vec<Vec<u8>> + Send>;

/// Who asked, and what, in order.
type Seen = Vec<(SocketAddr, Vec<u8>)>;

/// A server that is stopped when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            seen: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// At a port of `address` (0: any) in a namespace, over UDP.
    pub(crate) fn udp(
        netns: impl AsFd,
        address: &str,
        behaviour: impl FnMut(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = inside(netns.as_fd(), || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(TICK)).unwrap();
        let mut server = Self::new(socket.local_addr().unwrap());
        let (seen, stop) = (Arc::clone(&server.seen), Arc::clone(&server.stop));
        let mut behaviour: Behaviour = Box::new(behaviour);
        server.threads.push(std::thread::spawn(move || {
            let mut buffer = vec![0; 65_535];
            while !stop.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((length, client)) => {
                        let query = &buffer[..length];
                        let before = {
                            let mut seen = seen.lock().unwrap();
                            seen.push((client, query.to_vec()));
                            seen.len() - 1
                        };
                        for reply in behaviour(query, before) {
                            socket.send_to(&reply, client).ok();
                        }
                    }
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "{error}"
                    ),
                }
            }
        }));
        server
    }

    /// At `address`, over TCP, one query for each connection.
    pub(crate) fn tcp(
        netns: impl AsFd,
        address: &str,
        behaviour: impl FnMut(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let listener = inside(netns.as_fd(), || TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        let mut server = Self::new(listener.local_addr().unwrap());
        let (seen, stop) = (Arc::clone(&server.seen), Arc::clone(&server.stop));
        let mut behaviour: Behaviour = Box::new(behaviour);
        server.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, client)) = listener.accept() else {
                    std::thread::sleep(TICK / 10);
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let before = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((client, query.clone()));
                    seen.len() - 1
                };
                for reply in behaviour(&query, before) {
                    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    // In two pieces, to see whether the other side puts them together.
                    stream.write_all(&length[..1]).unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                    stream.write_all(&length[1..]).unwrap();
                    stream.write_all(&reply).unwrap();
                }
            }
        }));
        server
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}
