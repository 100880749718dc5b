//! The sockets inside one container's namespace, and the task that serves them.
//!
//! One task per container owns the sockets and every task that it starts: a query that waits for
//! upstreams, a TCP connection. Stopping it ends all of them *before* it returns, because each
//! socket keeps the container's namespace alive.
//!
//! What a container can make us hold is bounded: [`MAX_FORWARDED`] queries with an upstream and as
//! many that wait for their turn, [`MAX_CONNECTIONS`] connections with one message each, which are
//! closed after [`IDLE`] of silence. Further connections wait in the kernel's queue. Connections
//! and questions to upstreams also share the daemon's descriptors with the other containers'.

use std::io;
use std::net::{
    SocketAddr, SocketAddrV4, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use domain::base::iana::Rcode;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::answer::{self, Answer, OWN_UDP_SIZE, Transport};
use super::redirect::{self, Redirect};
use super::upstream::{Random, Sockets, ask, read_message, write_message};
use super::zone::{Origin, RESOLVER_ADDRESS, View};
use super::{DnsError, Stats};
use crate::kernel::netns;

/// How many queries of a container may be with upstreams at a time.
const MAX_FORWARDED: usize = 1024;

/// How long a query waits for one of those to finish before it is refused; also how often a
/// container's log line about it may come is half of this.
const SLOT_TIMEOUT: Duration = Duration::from_secs(4);
const LOG_INTERVAL: Duration = Duration::from_secs(2);

/// How many may wait; more are refused at once.
const MAX_WAITING: usize = 1024;

/// How many TCP connections a container may have at a time.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may take for its next query, from the last reply to the query's last
/// octet, and for taking a reply.
const IDLE: Duration = Duration::from_secs(10);

/// How many connections the kernel completes in advance.
const BACKLOG: i32 = 128;

/// Room for some thousand small queries that arrive while the daemon is busy, octets.
const RECEIVE_BUFFER: usize = 1 << 20;

/// After an error that may come again at once (no more descriptors).
const PAUSE: Duration = Duration::from_millis(100);

/// How often another port is tried when the kernel's choice for UDP is taken for TCP.
const PORT_ATTEMPTS: usize = 32;

/// What the resolvers of all containers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) redirect: Redirect,
    pub(super) random: Random,
    /// One permit per descriptor that a container can make us open.
    pub(super) descriptors: Arc<Semaphore>,
}

/// One container's resolver. Dropping it ends it some time later.
#[derive(Debug)]
pub(super) struct Server {
    container: Arc<Container>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Container {
    id: String,
    view: ArcSwap<View>,
    /// [`View::forward`], for those that wait.
    may_leave: watch::Sender<bool>,
    shared: Arc<Shared>,
    sockets: Sockets,
    forwarding: Semaphore,
    counters: Counters,
    logged: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Counters {
    queries: AtomicU64,
    answered: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    connections: AtomicU64,
}

struct Listening {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
}

impl Server {
    pub(super) async fn start(
        id: &str,
        netns: OwnedFd,
        view: View,
        shared: Arc<Shared>,
    ) -> Result<Self, DnsError> {
        let inside = netns
            .try_clone()
            .map_err(|error| DnsError::Listen(error, id.to_owned()))?;
        let for_thread = Arc::clone(&shared);
        let listening = netns::run_in_async(inside, move || Listening::open(&for_thread.redirect))
            .await?
            .map_err(|error| match error {
                OpenError::Socket(error) => DnsError::Listen(error, id.to_owned()),
                OpenError::Redirect(error) => DnsError::Redirect(error, id.to_owned()),
            })?;
        let listen_error = |error| DnsError::Listen(error, id.to_owned());
        let udp = UdpSocket::from_std(listening.udp).map_err(listen_error)?;
        let tcp = TcpListener::from_std(listening.tcp).map_err(listen_error)?;
        let container = Arc::new(Container {
            id: id.to_owned(),
            may_leave: watch::Sender::new(view.forward),
            view: ArcSwap::from_pointee(view),
            shared,
            sockets: Sockets::new(netns),
            forwarding: Semaphore::new(MAX_FORWARDED),
            counters: Counters::default(),
            logged: Mutex::new(None),
        });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(Arc::clone(&container), udp, tcp, stopped));
        Ok(Self {
            container,
            stop: Some(stop),
            task,
        })
    }

    pub(super) fn update(&self, view: View) {
        let may_leave = view.forward;
        self.container.view.store(Arc::new(view));
        self.container.may_leave.send_replace(may_leave);
    }

    pub(super) fn stats(&self) -> Stats {
        self.container.counters.read()
    }

    /// Returns when everything is closed.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        // It can only have panicked, and then it has closed its sockets, too.
        let _ = (&mut self.task).await;
        let Some(netns) = self.container.sockets.close().await else {
            return;
        };
        // The container may live on, and listen at every address's port 53.
        let detached = netns::run_in_async(netns, redirect::detach).await;
        let problem = match detached {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            container = self.container.id,
            problem,
            "its lo keeps a filter"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum OpenError {
    Socket(io::Error),
    Redirect(super::RedirectError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl Listening {
    /// Opens the sockets in the calling thread's network namespace, and redirects to them.
    fn open(redirect: &Redirect) -> Result<Self, OpenError> {
        let preferred = redirect.shared_port();
        let (udp, tcp, port) = match preferred.map(open_at) {
            Some(Err(error)) if error.kind() != io::ErrorKind::AddrInUse => Err(error),
            Some(Ok(sockets)) => Ok(sockets),
            Some(Err(_)) | None => open_anywhere(),
        }?;
        redirect.attach(port).map_err(OpenError::Redirect)?;
        Ok(Self { udp, tcp })
    }
}

fn open_anywhere() -> io::Result<(StdUdpSocket, StdTcpListener, u16)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        match open_at(0) {
            Ok(sockets) => return Ok(sockets),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Both sockets at `port`, or at one of the kernel's choice if it is 0.
fn open_at(port: u16) -> io::Result<(StdUdpSocket, StdTcpListener, u16)> {
    let udp = StdUdpSocket::from(open(SockType::Datagram, port)?);
    // More than the system's limit, which only root may ask for; without it there is less room.
    let _ = setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    let port = udp.local_addr()?.port();
    let tcp = open(SockType::Stream, port)?;
    listen(&tcp, Backlog::new(BACKLOG)?)?;
    Ok((udp, StdTcpListener::from(tcp), port))
}

fn open(kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    if kind == SockType::Stream {
        // Connections of a resolver before this one linger.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    // lo may be down yet.
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    let address = SockaddrIn::from(SocketAddrV4::new(RESOLVER_ADDRESS, port));
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

async fn serve(
    container: Arc<Container>,
    udp: UdpSocket,
    tcp: TcpListener,
    mut stopped: oneshot::Receiver<()>,
) {
    let udp = Arc::new(udp);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    // One octet more than we take, to tell a message of that size from a longer one.
    let mut buffer = vec![0; usize::from(OWN_UDP_SIZE) + 1];
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            (length, client) = receive(&container, &udp, &mut buffer) => {
                let query = buffer.get(..length).unwrap_or_default();
                container.datagram(query, client, &udp, &mut tasks).await;
            }
            (stream, permits) = accept(&container, &tcp, &connections) => {
                let container = Arc::clone(&container);
                tasks.spawn(async move {
                    connection(&container, stream).await;
                    drop(permits);
                });
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
    drop(tcp);
    tasks.shutdown().await;
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

async fn receive(container: &Container, udp: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match udp.recv_from(buffer).await {
            Ok(received) => return received,
            Err(error) => container.pause("receive", &error).await,
        }
    }
}

/// Waits until there is room for a connection, then for the connection.
async fn accept(
    container: &Container,
    tcp: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (TcpStream, Permits) {
    loop {
        let Ok(connection) = Arc::clone(connections).acquire_owned().await else {
            return std::future::pending().await; // never: nobody closes the semaphore
        };
        let stream = match tcp.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                container.pause("accept", &error).await;
                continue;
            }
        };
        // Without a descriptor to spare the connection is closed at once.
        if let Ok(descriptor) = Arc::clone(&container.shared.descriptors).try_acquire_owned() {
            let counter = &container.counters.connections;
            counter.fetch_add(1, Ordering::Relaxed);
            return (stream, (connection, descriptor));
        }
    }
}

/// Serves one TCP connection until it ends, breaks, is silent for too long, or is dropped.
async fn connection(container: &Container, mut stream: TcpStream) {
    // Whatever is not delivered when the resolver is stopped goes with it: the kernel would keep
    // the socket, and with it the container's namespace, to deliver it.
    if stream.set_zero_linger().is_err() {
        return;
    }
    loop {
        // The end of the stream is the end, wherever it comes.
        let Ok(Ok(query)) = timeout(IDLE, read_message(&mut stream)).await else {
            break;
        };
        let reply = match container.judge(&query, Transport::Tcp) {
            Answer::Reply(reply) => Some(reply),
            Answer::Forward => container.forward(&query, Transport::Tcp).await,
            Answer::Drop => None,
        };
        if let Some(reply) = reply
            && !matches!(
                timeout(IDLE, write_message(&mut stream, &reply)).await,
                Ok(Ok(()))
            )
        {
            break;
        }
    }
    // So that a client that closed first sees the end, and no reset.
    let _ = timeout(IDLE, stream.shutdown()).await;
}

impl Container {
    fn judge(&self, query: &[u8], transport: Transport) -> Answer {
        self.counters.queries.fetch_add(1, Ordering::Relaxed);
        let seed = self.shared.random.number();
        let answer = answer::answer(query, &self.view.load(), transport, seed);
        let counter = match answer {
            Answer::Reply(_) => &self.counters.answered,
            Answer::Forward => &self.counters.forwarded,
            Answer::Drop => &self.counters.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    async fn datagram(
        self: &Arc<Self>,
        query: &[u8],
        client: SocketAddr,
        udp: &Arc<UdpSocket>,
        tasks: &mut JoinSet<()>,
    ) {
        if query.len() > usize::from(OWN_UDP_SIZE) {
            self.counters.queries.fetch_add(1, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let reply = match self.judge(query, Transport::Udp) {
            Answer::Drop => return,
            Answer::Reply(reply) => Some(reply),
            Answer::Forward if tasks.len() >= MAX_FORWARDED + MAX_WAITING + MAX_CONNECTIONS => {
                self.refuse(query)
            }
            Answer::Forward => {
                let container = Arc::clone(self);
                let udp = Arc::clone(udp);
                let query = query.to_vec();
                tasks.spawn(async move {
                    if let Some(reply) = container.forward(&query, Transport::Udp).await {
                        let _ = udp.send_to(&reply, client).await;
                    }
                });
                return;
            }
        };
        if let Some(reply) = reply {
            // If it cannot be sent, the client asks again.
            let _ = udp.send_to(&reply, client).await;
        }
    }

    /// The upstreams' reply, or ours that there is none.
    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        // Before the view is read, so that no later one is missed.
        let mut may_leave = self.may_leave.subscribe();
        let view = self.view.load_full();
        let leaves = view
            .usable_upstreams()
            .any(|server| server.from == Origin::Host);
        tokio::select! {
            biased;
            // A query that waits for its turn, or for the next server, must not leave once none may.
            _ = may_leave.wait_for(|may_leave| !may_leave), if leaves => self.fail(query),
            reply = self.ask(query, &view, transport) => reply,
        }
    }

    async fn ask(&self, query: &[u8], view: &View, transport: Transport) -> Option<Vec<u8>> {
        let mut upstreams = view.usable_upstreams().peekable();
        let mut reply = None;
        if upstreams.peek().is_some() {
            let slot = async {
                let slot = self.forwarding.acquire().await.ok()?;
                let descriptor = self.shared.descriptors.acquire().await.ok()?;
                Some((slot, descriptor))
            };
            let Ok(Some(_slot)) = timeout(SLOT_TIMEOUT, slot).await else {
                return self.refuse(query);
            };
            let shared = &self.shared;
            reply = ask(query, upstreams, transport, &self.sockets, &shared.random).await;
        }
        reply.or_else(|| self.fail(query))
    }

    fn fail(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        answer::failure(query, Rcode::SERVFAIL)
    }

    fn refuse(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::error!(
                container = self.id,
                "[resolver] more than {MAX_FORWARDED} concurrent queries"
            );
        }
        drop(logged);
        answer::failure(query, Rcode::REFUSED)
    }

    async fn pause(&self, doing: &str, error: &io::Error) {
        tracing::debug!(container = self.id, %error, "DNS: cannot {doing}");
        tokio::time::sleep(PAUSE).await;
    }
}

impl Counters {
    fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            queries: read(&self.queries),
            answered: read(&self.answered),
            forwarded: read(&self.forwarded),
            failed: read(&self.failed),
            refused: read(&self.refused),
            dropped: read(&self.dropped),
            connections: read(&self.connections),
        }
    }
}
