//! The TCP and UDP ports that sockets of the host use, from `NETLINK_SOCK_DIAG`: what the forwarder
//! must not take as an external port.
//!
//! IPv6 sockets count too, because a wildcard IPv6 socket takes IPv4 traffic. That a port is used on
//! one address only is ignored: a few ports less for us, no conflict for anybody.
//!
//! A kernel without the diag module of a protocol (`ENOENT`) is asked through `/proc/net` instead.

use std::fs;
use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::socket::{Answer, QuestionSocket};
use super::wire::Message;

/// A dump waits for locks of busy hash buckets, not for other processes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct inet_diag_sockid`, all zero in a dump: any socket.
const SOCKET_ID_LEN: usize = 48;
/// All TCP states, `TCP_BOUND_INACTIVE` (13) of Linux 6.8 included.
const ALL_STATES: u32 = 0xffff;
/// `TCP_LISTEN`.
pub(super) const LISTEN: u8 = 10;

/// Offsets in `struct inet_diag_msg`; the ports are in network byte order.
pub(super) const STATE: usize = 1;
pub(super) const LOCAL_PORT: usize = 4;
const REMOTE_PORT: usize = 6;

/// A set of port numbers, 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    words: Box<[u64]>,
}

impl PortSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self {
            words: vec![0; 65_536 / 64].into_boxed_slice(),
        }
    }

    /// Adds a port.
    pub fn insert(&mut self, port: u16) {
        if let Some(word) = self.words.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.words
            .get(usize::from(port / 64))
            .is_some_and(|word| word >> (port % 64) & 1 == 1)
    }

    /// The ports in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|port| self.contains(*port))
    }

    /// How many ports are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| usize::try_from(word.count_ones()).unwrap_or(0))
            .sum()
    }

    /// No port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The ports of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// Sockets that take traffic from anybody: TCP listeners, unconnected UDP sockets.
    pub listening: PortSet,
    /// Local ports of all sockets, in any state; contains `listening`.
    pub in_use: PortSet,
}

/// The ports of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts {
    /// TCP.
    pub tcp: PortUse,
    /// UDP.
    pub udp: PortUse,
}

/// Reads the ports in use in the calling thread's network namespace. Blocks for as long as the dump
/// takes: about a millisecond per ten thousand sockets.
///
/// # Errors
/// Neither socket diagnostics nor `/proc/net` can be read.
pub fn host_ports() -> io::Result<HostPorts> {
    let mut socket = QuestionSocket::new(NETLINK_SOCK_DIAG, TIMEOUT)?;
    Ok(HostPorts {
        tcp: ports_of(&mut socket, Protocol::Tcp)?,
        udp: ports_of(&mut socket, Protocol::Udp)?,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    fn is_listening(self, state: u8, remote_port: u16) -> bool {
        match self {
            Self::Tcp => state == LISTEN,
            Self::Udp => remote_port == 0,
        }
    }

    fn proc_file(self, family: libc::c_int) -> &'static str {
        match (self, family == libc::AF_INET6) {
            (Self::Tcp, false) => "/proc/thread-self/net/tcp",
            (Self::Tcp, true) => "/proc/thread-self/net/tcp6",
            (Self::Udp, false) => "/proc/thread-self/net/udp",
            (Self::Udp, true) => "/proc/thread-self/net/udp6",
        }
    }
}

fn ports_of(socket: &mut QuestionSocket, protocol: Protocol) -> io::Result<PortUse> {
    let mut ports = PortUse::default();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let asked = socket.ask(
            SOCK_DIAG_BY_FAMILY,
            true,
            |request| put_question(request, family, protocol.number()),
            |message| {
                if let Some((state, local, remote)) = read_socket(message) {
                    note(&mut ports, protocol, state, local, remote);
                }
            },
        );
        match asked {
            // A socket that came or went meanwhile may be missing, as it may be a moment later.
            Ok(Answer::Whole | Answer::Torn) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                read_proc(&mut ports, protocol, family)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

fn note(ports: &mut PortUse, protocol: Protocol, state: u8, local: u16, remote: u16) {
    // 0: a socket without a port yet.
    if local == 0 {
        return;
    }
    ports.in_use.insert(local);
    if protocol.is_listening(state, remote) {
        ports.listening.insert(local);
    }
}

/// `struct inet_diag_req_v2`: all sockets of a family and protocol (IANA's number).
pub(super) fn put_question(request: &mut Vec<u8>, family: libc::c_int, protocol: u8) {
    let family = u8::try_from(family).unwrap_or_default();
    request.extend_from_slice(&[family, protocol, 0, 0]);
    request.extend_from_slice(&ALL_STATES.to_ne_bytes());
    request.extend_from_slice(&[0; SOCKET_ID_LEN]);
}

/// State, local port, remote port.
fn read_socket(message: &Message<'_>) -> Option<(u8, u16, u16)> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let port = |offset: usize| {
        Some(u16::from_be_bytes(
            *message.payload.get(offset..)?.first_chunk()?,
        ))
    };
    Some((
        *message.payload.get(STATE)?,
        port(LOCAL_PORT)?,
        port(REMOTE_PORT)?,
    ))
}

fn read_proc(ports: &mut PortUse, protocol: Protocol, family: libc::c_int) -> io::Result<()> {
    match fs::read_to_string(protocol.proc_file(family)) {
        Ok(table) => {
            for (state, local, remote) in table.lines().filter_map(parse_proc_line) {
                note(ports, protocol, state, local, remote);
            }
            Ok(())
        }
        // No IPv6 in this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound && family == libc::AF_INET6 => Ok(()),
        Err(error) => Err(error),
    }
}

/// `  0: 0100007F:0035 00000000:0000 0A …`; the heading has no colon where a port would be.
fn parse_proc_line(line: &str) -> Option<(u8, u16, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let mut port = || u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok();
    let local = port()?;
    let remote = port()?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((state, local, remote))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn proc_lines() {
        let line = "   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 1";
        assert_eq!(parse_proc_line(line), Some((LISTEN, 53, 0)));
        assert_eq!(
            parse_proc_line("  sl  local_address rem_address   st tx_queue"),
            None
        );
        assert_eq!(parse_proc_line(""), None);
    }

    #[test]
    fn only_the_unconnected_listen() {
        let mut ports = PortUse::default();
        note(&mut ports, Protocol::Udp, 7, 53, 0);
        note(&mut ports, Protocol::Udp, 1, 40_000, 53);
        note(&mut ports, Protocol::Udp, 7, 0, 0);
        assert_eq!(ports.listening.iter().collect::<Vec<_>>(), [53]);
        assert_eq!(ports.in_use.iter().collect::<Vec<_>>(), [53, 40_000]);
    }

    #[test]
    fn a_missing_diag_module_is_an_error_not_an_empty_answer() {
        let mut socket = QuestionSocket::new(NETLINK_SOCK_DIAG, TIMEOUT).unwrap();
        // 253 is reserved for experiments: no module answers for it.
        let question = |request: &mut Vec<u8>| {
            put_question(request, libc::AF_INET, Protocol::Tcp.number());
            let at = request.len() - SOCKET_ID_LEN - 7;
            request[at] = 253;
        };
        let error = socket
            .ask(SOCK_DIAG_BY_FAMILY, true, question, |_| {})
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    proptest! {
        #[test]
        fn port_set_is_a_set(ports in proptest::collection::btree_set(any::<u16>(), 0..200)) {
            let mut set = PortSet::new();
            for port in &ports {
                set.insert(*port);
                set.insert(*port);
            }
            prop_assert_eq!(set.len(), ports.len());
            prop_assert_eq!(set.is_empty(), ports.is_empty());
            prop_assert!(set.iter().eq(ports.into_iter()));
        }
    }
}
