//! Asking other servers: one at a time, in order, four seconds each. The query goes out as it
//! came, but for the identifier, and so does the reply: whatever EDNS options, types or sizes the
//! two sides understand, nothing in between has to.
//!
//! Every question leaves from a socket of its own, so from another random port, with another
//! random identifier; a reply counts only from the address asked, at that port, with that
//! identifier and the same question (RFC 5452). Anything else is ignored, and does not end the wait.
//!
//! Sockets that ask from the container's namespace are made there, some in advance, because to
//! enter it takes a thread.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::answer::{self, Transport};
use super::zone::{Origin, Upstream};
use crate::kernel::netns;

/// How long one server is waited for.
const SERVER_TIMEOUT: Duration = Duration::from_secs(4);

/// The largest UDP payload, octets.
const MAX_DATAGRAM: usize = 65_535;

/// How many sockets are made at a time inside a container's namespace.
const BATCH: usize = 16;

/// Unpredictable numbers: a counter under a keyed hash whose key comes from the kernel.
#[derive(Debug, Default)]
pub(super) struct Random {
    key: RandomState,
    counter: AtomicU64,
}

impl Random {
    pub(super) fn number(&self) -> u64 {
        self.key
            .hash_one(self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

/// Makes the sockets that ask, in the namespace that they ask from.
#[derive(Debug)]
pub(super) struct Sockets {
    ready: Arc<Mutex<Ready>>,
}

#[derive(Debug)]
struct Ready {
    /// The container's namespace; `None` once closed.
    netns: Option<OwnedFd>,
    /// Fresh UDP sockets of the container's namespace.
    udp4: Vec<OwnedFd>,
    udp6: Vec<OwnedFd>,
}

impl Sockets {
    pub(super) fn new(netns: OwnedFd) -> Self {
        let ready = Ready {
            netns: Some(netns),
            udp4: Vec::new(),
            udp6: Vec::new(),
        };
        Self {
            ready: Arc::new(Mutex::new(ready)),
        }
    }

    /// Closes the sockets and hands the container's namespace back. Waits for a thread that is inside it.
    pub(super) async fn close(&self) -> Option<OwnedFd> {
        let mut ready = self.ready.lock().await;
        ready.udp4.clear();
        ready.udp6.clear();
        ready.netns.take()
    }

    async fn udp(&self, upstream: Upstream) -> io::Result<UdpSocket> {
        let family = family(upstream.address);
        let socket = match upstream.from {
            Origin::Host => make(family, SockType::Datagram)?,
            Origin::Container => {
                let spare = self.ready.lock().await.spare(family).pop();
                match spare {
                    Some(socket) => socket,
                    None => self.make_inside(family, SockType::Datagram).await?,
                }
            }
        };
        let socket = UdpSocket::from_std(StdUdpSocket::from(socket))?;
        // The kernel takes a random free port.
        socket.connect(upstream.address).await?;
        Ok(socket)
    }

    async fn tcp(&self, upstream: Upstream) -> io::Result<TcpStream> {
        let family = family(upstream.address);
        let socket = match upstream.from {
            Origin::Host => make(family, SockType::Stream)?,
            Origin::Container => self.make_inside(family, SockType::Stream).await?,
        };
        TcpSocket::from_std_stream(StdTcpStream::from(socket))
            .connect(upstream.address)
            .await
    }

    async fn make_inside(&self, family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
        let mut ready = Arc::clone(&self.ready).lock_owned().await;
        if kind == SockType::Datagram
            && let Some(socket) = ready.spare(family).pop()
        {
            return Ok(socket); // made for another query while this one waited for the lock
        }
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        let netns = ready.netns.as_ref().ok_or_else(closed)?.try_clone()?;
        let count = if kind == SockType::Datagram { BATCH } else { 1 };
        // The lock moves along, so that `close` knows when nobody is inside any more, even if the
        // query itself has been given up.
        let made = tokio::task::spawn_blocking(move || {
            let inside = netns::run_in(netns.as_fd(), || {
                (0..count)
                    .map(|_| make(family, kind))
                    .collect::<io::Result<Vec<OwnedFd>>>()
            });
            drop(netns);
            let mut sockets = inside.map_err(io::Error::other)??;
            let socket = sockets.pop();
            if kind == SockType::Datagram {
                ready.spare(family).append(&mut sockets);
            }
            socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        });
        made.await.map_err(io::Error::other)?
    }
}

impl Ready {
    fn spare(&mut self, family: AddressFamily) -> &mut Vec<OwnedFd> {
        if family == AddressFamily::Inet6 {
            &mut self.udp6
        } else {
            &mut self.udp4
        }
    }
}

const fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn make(family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, kind, flags, None)?)
}

/// The first reply that is not SERVFAIL or REFUSED, with the client's identifier. `None`: nobody
/// had one.
pub(super) async fn ask(
    query: &[u8],
    upstreams: impl Iterator<Item = Upstream>,
    transport: Transport,
    sockets: &Sockets,
    random: &Random,
) -> Option<Vec<u8>> {
    let (client, rest) = query.split_first_chunk::<2>()?;
    for upstream in upstreams {
        let [id @ .., _, _, _, _, _, _] = random.number().to_ne_bytes();
        let mut question = id.to_vec();
        question.extend_from_slice(rest);
        let exchange = async {
            match transport {
                Transport::Udp => exchange_udp(&question, upstream, sockets).await,
                Transport::Tcp => exchange_tcp(&question, upstream, sockets).await,
            }
        };
        let reply = timeout(SERVER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match reply {
            Ok(reply) if answer::is_failure(&reply) => {
                tracing::debug!(server = %upstream.address, "the DNS server returned a failure");
            }
            Ok(mut reply) => {
                reply.get_mut(..2)?.copy_from_slice(client);
                return Some(reply);
            }
            Err(error) => {
                tracing::debug!(server = %upstream.address, %error, "no reply from the DNS server");
            }
        }
    }
    None
}

async fn exchange_udp(query: &[u8], upstream: Upstream, sockets: &Sockets) -> io::Result<Vec<u8>> {
    let socket = sockets.udp(upstream).await?;
    socket.send(query).await?;
    loop {
        // A refusal by ICMP makes the socket erroneous, not readable.
        let reply = socket
            .async_io(Interest::READABLE | Interest::ERROR, || {
                // Only now: a thousand waiting queries must not hold a thousand large buffers.
                let mut reply = vec![0; MAX_DATAGRAM];
                let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
                reply.truncate(length);
                Ok(reply)
            })
            .await?;
        if answer::is_reply_to(&reply, query) {
            return Ok(reply);
        }
    }
}

async fn exchange_tcp(query: &[u8], upstream: Upstream, sockets: &Sockets) -> io::Result<Vec<u8>> {
    let mut stream = sockets.tcp(upstream).await?;
    write_message(&mut stream, query).await?;
    let reply = read_message(&mut stream).await?;
    if answer::is_reply_to(&reply, query) {
        Ok(reply)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a reply to the question",
        ))
    }
}

/// Reads one message behind its length (RFC 1035 §4.2.2). The buffer grows with what arrives, not
/// with what is announced.
///
/// # Errors
/// The other side closed or reset the connection, whether between messages or inside one.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = Vec::new();
    let read = stream
        .take(u64::from(length))
        .read_to_end(&mut message)
        .await?;
    if read < usize::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

/// Writes one message behind its length.
///
/// # Errors
/// The message is longer than 65,535 octets, or the other side is gone.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length =
        u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // In one segment: some clients read the length and the message with one call.
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
