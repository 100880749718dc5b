//! Answers for containers on an uplink: neighbour discovery's proxy (RFC 4861 section 7.2.8).
//!
//! A provider that routes no prefix to a host, but has one on the link, asks on the link who has an address of it. Nobody
//! would answer for a container's: so this does, with the uplink's own Ethernet address, and packets for it come to the
//! uplink, where steering takes them.
//!
//! **Not the kernel's `proxy_ndp`**: it answers only while `net.ipv6.conf.all.forwarding` is 1 and there is a route to the
//! address, so the host would have to be a router, and would lose a default route from router advertisements. It is
//! switched on per interface and kept as one neighbour entry per address, which others remove with `ip neigh flush`. And it
//! answers a probe for duplicates as well, also that of a machine to which a container's address has moved.
//!
//! **What is answered**: a solicitation for one of the addresses, sent to everybody or to us alone (a router that looks
//! whether its neighbour is still there), which is valid in every point of RFC 4861 section 7.1.1 and no probe.
//! Nothing of the kernel's is changed or removed; what the host itself has, it answers itself.
//!
//! **How it hears**: a packet socket on the interface, ahead of steering's programs, with a filter that lets nothing but
//! solicitations through. And since a switch may send a group's frames only where somebody has joined it, and an interface
//! may drop those of others, the groups of all addresses are joined.
//!
//! **What it survives**: the interface going down and up, and getting another Ethernet address. One that is
//! deleted ends it; a new one of the same name has another [`NdpProxy::if_index`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};
use parking_lot::{Mutex, RwLock};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::ndisc::{self, Refusal, Solicitation};
use super::netns::{bind_frame_socket, frame_socket, frame_socket_mac, watch_readable};

/// Octets of waiting questions: thousands of addresses may be asked for at the same time.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Solicitations with a few options; what is longer is none.
const FRAME_LEN: usize = 512;
/// Frames read before other tasks have their turn.
const BURST: usize = 64;

/// Proxy for addresses on one interface; dropping it ends it.
#[must_use = "dropping it ends the proxy"]
#[derive(Debug)]
pub struct NdpProxy {
    if_index: u32,
    shared: Arc<Shared>,
    groups: Mutex<Groups>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held for reading while a question is answered.
    addresses: RwLock<HashSet<Ipv6Addr>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    foreign: AtomicU64,
    probes: AtomicU64,
    hop_limit: AtomicU64,
    checksum: AtomicU64,
    malformed: AtomicU64,
    unsent: AtomicU64,
}

/// What a proxy has done with the solicitations that it heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NdpCounts {
    /// Answered.
    pub answered: u64,
    /// For other addresses.
    pub foreign: u64,
    /// Detection of duplicates for one of ours: not answered.
    pub probes: u64,
    /// Hop limit below 255: not from this link.
    pub hop_limit: u64,
    /// Wrong checksum.
    pub checksum: u64,
    /// Wrong lengths, options or addresses.
    pub malformed: u64,
    /// The answer could not be sent.
    pub unsent: u64,
}

impl NdpProxy {
    /// Listens on an interface of the calling thread's network namespace. It answers nothing yet.
    ///
    /// # Errors
    /// There is no such interface, it is no Ethernet, or a socket cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(interface: &str) -> io::Result<Self> {
        let if_index = nix::net::if_::if_nametoindex(interface)?;
        let socket = frame_socket()?;
        only_solicitations(&socket)?;
        // Needs CAP_NET_ADMIN, which a packet socket does not; the default is enough for most.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).ok();
        let everything = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        bind_frame_socket(&socket, if_index, everything)?;
        frame_socket_mac(socket.as_fd())?
            .iter()
            .any(|octet| *octet != 0)
            .then_some(())
            .ok_or_else(|| io::Error::other("its frames have no Ethernet header"))?;
        let shared = Arc::<Shared>::default();
        let socket = watch_readable(socket)?;
        let task = tokio::spawn(serve(socket, Arc::clone(&shared)));
        Ok(Self {
            if_index,
            shared,
            groups: Mutex::new(Groups::new(if_index)),
            task,
        })
    }

    /// The interface; an interface with another index is another one, even of the same name.
    #[must_use]
    pub fn if_index(&self) -> u32 {
        self.if_index
    }

    /// Answers for these addresses from now on, and for no others. Calling it again with the same ones joins what could
    /// not be joined.
    ///
    /// # Errors
    /// Some group could not be joined (IPv6 is off on the interface, say). The addresses are answered for nevertheless,
    /// as far as questions arrive.
    pub fn set_addresses(&self, addresses: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        *self.shared.addresses.write() = addresses.iter().copied().collect();
        let wanted: BTreeSet<Ipv6Addr> = addresses
            .iter()
            .map(|address| ndisc::solicited_node(*address))
            .collect();
        self.groups.lock().set(&wanted)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> NdpCounts {
        let Counters {
            answered,
            foreign,
            probes,
            hop_limit,
            checksum,
            malformed,
            unsent,
        } = &self.shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NdpCounts {
            answered: count(answered),
            foreign: count(foreign),
            probes: count(probes),
            hop_limit: count(hop_limit),
            checksum: count(checksum),
            malformed: count(malformed),
            unsent: count(unsent),
        }
    }
}

impl Drop for NdpProxy {
    fn drop(&mut self) {
        // The task ends when the runtime gets to it; from here on it has nothing to answer.
        self.shared.addresses.write().clear();
        self.task.abort();
    }
}

async fn serve(socket: AsyncFd<OwnedFd>, shared: Arc<Shared>) {
    let mut frame = [0; FRAME_LEN];
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return;
        };
        for _ in 0..BURST {
            // With MSG_TRUNC the length is the frame's own.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            match recv(socket.as_raw_fd(), &mut frame, flags) {
                Ok(length) => match frame.get(..length) {
                    Some(frame) => shared.take(&socket, frame),
                    None => Counters::add(&shared.counters.malformed),
                },
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                // The interface has gone down, and may come up again; an error is told once.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Shared {
    fn take(&self, socket: &AsyncFd<OwnedFd>, frame: &[u8]) {
        let counters = &self.counters;
        let counter = match ndisc::read_solicitation(frame) {
            Err(Refusal::Other) => return,
            Err(Refusal::HopLimit) => &counters.hop_limit,
            Err(Refusal::Checksum) => &counters.checksum,
            Err(Refusal::Malformed) => &counters.malformed,
            Err(Refusal::Probe(target)) if self.addresses.read().contains(&target) => {
                &counters.probes
            }
            Err(Refusal::Probe(_)) => &counters.foreign,
            Ok(question) => {
                let addresses = self.addresses.read();
                if !addresses.contains(&question.target) {
                    &counters.foreign
                } else if answer(socket, &question).is_ok() {
                    &counters.answered
                } else {
                    &counters.unsent
                }
            }
        };
        Counters::add(counter);
    }
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// With the Ethernet address that the interface has now.
fn answer(socket: &AsyncFd<OwnedFd>, question: &Solicitation) -> io::Result<()> {
    let mac = frame_socket_mac(socket.as_fd())?;
    let frame = ndisc::answer(question, mac);
    send(socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Multicast groups that are joined on an interface.
#[derive(Debug)]
struct Groups {
    if_index: u32,
    /// They receive nothing; memberships are kept by socket, and a socket has room for some hundreds or thousands.
    sockets: Vec<UdpSocket>,
    /// Which socket has joined it.
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    fn new(if_index: u32) -> Self {
        Self {
            if_index,
            sockets: Vec::new(),
            joined: BTreeMap::new(),
        }
    }

    fn set(&mut self, wanted: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let (sockets, if_index) = (&self.sockets, self.if_index);
        self.joined.retain(|group, place| {
            let keep = wanted.contains(group);
            if !keep && let Some(socket) = sockets.get(*place) {
                // It fails if the interface is gone, and then there is nothing to leave.
                socket.leave_multicast_v6(group, if_index).ok();
            }
            keep
        });
        let mut result = Ok(());
        for group in wanted {
            if !self.joined.contains_key(group)
                && let Err(error) = self.join(*group)
            {
                result = Err(error);
            }
        }
        result
    }

    fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        for (place, socket) in self.sockets.iter().enumerate().rev() {
            match socket.join_multicast_v6(&group, self.if_index) {
                Ok(()) => {
                    self.joined.insert(group, place);
                    return Ok(());
                }
                // `net.core.optmem_max` octets per socket.
                Err(error) if full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // Not bound: it has no port, so no datagram is for it.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Inet6, SockType::Datagram, flags, None)?;
        let socket = UdpSocket::from(socket);
        socket.join_multicast_v6(&group, self.if_index)?;
        self.joined.insert(group, self.sockets.len());
        self.sockets.push(socket);
        Ok(())
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}

/// Lets the kernel drop everything else before it wakes us: frames that are not for us, those that we sent, those of
/// another VLAN, and what is no neighbour solicitation directly behind IPv6's header.
fn only_solicitations(socket: &OwnedFd) -> Result<(), Errno> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_OCTET: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // `SKF_AD_OFF` and what stands there: the packet's kind, its VLAN tag.
    const KIND: u32 = 0xffff_f000 + 4;
    const VLAN: u32 = 0xffff_f000 + 44;
    const VLAN_ID: u32 = 0x0fff;
    let operation = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        operation(LOAD_WORD, KIND, 0, 0),
        operation(JUMP_IF_EQUAL, u32::from(libc::PACKET_HOST), 1, 0),
        operation(JUMP_IF_EQUAL, u32::from(libc::PACKET_MULTICAST), 0, 9),
        operation(LOAD_WORD, VLAN, 0, 0),
        operation(JUMP_IF_SET, VLAN_ID, 7, 0),
        operation(LOAD_HALF, 12, 0, 0),
        operation(JUMP_IF_EQUAL, 0x86dd, 0, 5),
        operation(LOAD_OCTET, 20, 0, 0),
        operation(JUMP_IF_EQUAL, 58, 0, 3),
        operation(LOAD_OCTET, 54, 0, 0),
        operation(JUMP_IF_EQUAL, 135, 0, 1),
        operation(RETURN, 0xffff, 0, 0),
        operation(RETURN, 0, 0, 0),
    ];
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let filter = program.as_mut_ptr();
    setsockopt(socket, AttachFilter, &libc::sock_fprog { len, filter })
}

/// `SO_ATTACH_FILTER`. Its value points to the program, so it is used by [`only_solicitations`] alone,
/// where the program outlives the call.
#[derive(Clone, Copy, Debug)]
struct AttachFilter;

nix::setsockopt_impl!(
    AttachFilter,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog,
    sockopt::SetStruct<'_, libc::sock_fprog>
);
