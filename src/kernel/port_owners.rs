//! Who has a TCP or UDP port of the host: sockets from `NETLINK_SOCK_DIAG`, and through `/proc/PID/fd` the processes that
//! have them open. Looks at every process, which takes tens of milliseconds: once for all ports that cannot be had.
//!
//! A kernel without the diag module of a protocol is asked through `/proc/net`, which does not tell whether an IPv6
//! socket takes IPv4 traffic, too: it is assumed to.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::host_ports::{LISTEN, LOCAL_PORT, SOCK_DIAG_BY_FAMILY, STATE, TIMEOUT, put_question};
use super::socket::{Answer, QuestionSocket};
use super::wire::{Attributes, Message, u32_at};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// More offsets in `struct inet_diag_msg`, and its length; attributes follow.
const LOCAL_ADDRESS: usize = 8;
const INODE: usize = 68;
const DIAG_LEN: usize = 72;
/// `INET_DIAG_SKV6ONLY`.
const V6_ONLY: u16 = 11;

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Its number.
    pub pid: u32,
    /// Its effective user; `None`: it has ended.
    pub user: Option<u32>,
    /// Its name, `comm`.
    pub program: String,
    /// Its command line.
    pub arguments: Vec<Vec<u8>>,
}

/// The host's TCP and UDP sockets at one moment, and which processes have them open.
#[derive(Debug)]
pub struct PortOwners {
    sockets: Vec<(u8, Socket)>,
    /// By the sockets' inodes.
    processes: HashMap<u32, Vec<u32>>,
}

impl PortOwners {
    /// Looks. Blocks.
    ///
    /// # Errors
    /// Neither socket diagnostics nor `/proc/net` can be read.
    pub fn read() -> io::Result<Self> {
        let mut found = Vec::new();
        for protocol in [TCP, UDP] {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let sockets = sockets(protocol, family)?.into_iter();
                found.extend(sockets.map(|socket| (protocol, socket)));
            }
        }
        Ok(Self {
            processes: find_processes(&found)?,
            sockets: found,
        })
    }

    /// The sockets that keep others from `port` at `address`, each by the processes that have it open: none if they are not
    /// to be seen from here. `protocol` is IANA's number.
    pub fn of(&self, protocol: u8, address: IpAddr, port: u16) -> Vec<Vec<PortOwner>> {
        let in_the_way = |(of, socket): &&(u8, Socket)| {
            *of == protocol && socket.port == port && socket.conflicts(address)
        };
        let mut found: Vec<&Socket> = self
            .sockets
            .iter()
            .filter(in_the_way)
            .map(|(_, socket)| socket)
            .collect();
        // Connections are in nobody's way where their listener is, or was.
        if protocol == TCP && found.iter().any(|socket| socket.state == LISTEN) {
            found.retain(|socket| socket.state == LISTEN);
        }
        let owners = |socket: &&Socket| {
            let processes = self.processes.get(&socket.inode);
            let processes = processes.into_iter().flatten();
            processes.map(|pid| describe(*pid)).collect()
        };
        found.iter().map(owners).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    state: u8,
    v6_only: bool,
    inode: u32,
}

impl Socket {
    fn conflicts(&self, address: IpAddr) -> bool {
        let own = self.address.to_canonical();
        if own.is_ipv4() == address.is_ipv4() {
            return own == address || own.is_unspecified() || address.is_unspecified();
        }
        // One that takes both families.
        own == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !self.v6_only
    }
}

fn sockets(protocol: u8, family: libc::c_int) -> io::Result<Vec<Socket>> {
    let mut socket = QuestionSocket::new(NETLINK_SOCK_DIAG, TIMEOUT)?;
    let mut found = Vec::new();
    let asked = socket.ask(
        SOCK_DIAG_BY_FAMILY,
        true,
        |request| put_question(request, family, protocol),
        |message| found.extend(read_socket(message, family)),
    );
    match asked {
        Ok(Answer::Whole | Answer::Torn) => Ok(found),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => read_proc(protocol, family),
        Err(error) => Err(error),
    }
}

fn read_socket(message: &Message<'_>, family: libc::c_int) -> Option<Socket> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let octets = message.payload.get(LOCAL_ADDRESS..)?;
    let address = if family == libc::AF_INET {
        IpAddr::from(*octets.first_chunk::<4>()?)
    } else {
        IpAddr::from(*octets.first_chunk::<16>()?)
    };
    let mut attributes = Attributes(message.payload.get(DIAG_LEN..)?);
    let v6_only = attributes.any(|(kind, value)| kind == V6_ONLY && value.first() == Some(&1));
    Some(Socket {
        address,
        port: u16::from_be_bytes(*message.payload.get(LOCAL_PORT..)?.first_chunk()?),
        state: *message.payload.get(STATE)?,
        v6_only,
        inode: u32_at(message.payload, INODE)?,
    })
}

fn read_proc(protocol: u8, family: libc::c_int) -> io::Result<Vec<Socket>> {
    let name = if protocol == TCP { "tcp" } else { "udp" };
    let suffix = if family == libc::AF_INET6 { "6" } else { "" };
    match fs::read_to_string(format!("/proc/thread-self/net/{name}{suffix}")) {
        Ok(table) => Ok(table.lines().filter_map(parse_proc_line).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `  0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1234 …`
fn parse_proc_line(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    // Words in the order of the network, each as a number of this machine.
    let words = address.as_bytes().chunks(8).map(|word| {
        let text = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
    });
    let octets = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    let address = match octets.len() {
        4 => IpAddr::from(Ipv4Addr::from(*octets.first_chunk::<4>()?)),
        16 => IpAddr::from(Ipv6Addr::from(*octets.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(Socket {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        v6_only: false,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// By what their descriptors point to.
fn find_processes(sockets: &[(u8, Socket)]) -> io::Result<HashMap<u32, Vec<u32>>> {
    let mut found: HashMap<u32, Vec<u32>> = HashMap::new();
    found.extend(sockets.iter().map(|(_, socket)| (socket.inode, Vec::new())));
    for process in fs::read_dir("/proc")?.flatten() {
        let number = process.file_name();
        let Some(pid) = number.to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // It may end at any moment.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode = target.to_str().and_then(socket_inode);
            if let Some(processes) = inode.and_then(|inode| found.get_mut(&inode))
                && processes.last() != Some(&pid)
            {
                processes.push(pid);
            }
        }
    }
    Ok(found)
}

/// `socket:[4711]`
fn socket_inode(target: &str) -> Option<u32> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

fn describe(pid: u32) -> PortOwner {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let line = read("cmdline");
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    // Files below may be root's if the process has secrets; this directory is always its user's.
    let user = fs::metadata(format!("/proc/{pid}")).ok();
    PortOwner {
        pid,
        user: user.map(|user| user.uid()),
        program: String::from_utf8_lossy(&read("comm")).trim_end().to_owned(),
        arguments: line
            .split(|octet| *octet == 0)
            .map(<[u8]>::to_vec)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_socket_of_ours_is_found_by_its_port() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        for (protocol, address) in [
            (6, tcp.local_addr().unwrap()),
            (17, udp.local_addr().unwrap()),
        ] {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            for asked in [address.ip(), any.parse().unwrap()] {
                let owners = PortOwners::read().unwrap();
                let owners = owners.of(protocol, asked, address.port());
                let own = owners.iter().flatten();
                let own: Vec<u32> = own.map(|owner| owner.pid).collect();
                assert!(own.contains(&std::process::id()), "{protocol} {asked}");
            }
            let owners = PortOwners::read().unwrap();
            let owners = owners.of(23 - protocol, address.ip(), address.port());
            assert!(owners.is_empty(), "the other protocol: {owners:?}");
        }
        let own = describe(std::process::id());
        let expected: Vec<Vec<u8>> = std::env::args().map(String::into_bytes).collect();
        assert_eq!(own.arguments, expected);
        assert_eq!(own.user, Some(nix::unistd::geteuid().as_raw()));
    }

    #[test]
    fn only_what_takes_the_same_packets_conflicts() {
        let socket = |address: &str, v6_only| Socket {
            address: address.parse().unwrap(),
            port: 80,
            state: LISTEN,
            v6_only,
            inode: 1,
        };
        for (own, v6_only, asked, conflicts) in [
            ("0.0.0.0", false, "192.0.2.1", true),
            ("192.0.2.1", false, "0.0.0.0", true),
            ("192.0.2.1", false, "192.0.2.2", false),
            ("0.0.0.0", false, "::", false),
            ("::", false, "192.0.2.1", true),
            ("::", true, "192.0.2.1", false),
            ("::ffff:192.0.2.1", false, "192.0.2.1", true),
            ("2001:db8::1", false, "0.0.0.0", false),
        ] {
            let found = socket(own, v6_only).conflicts(asked.parse().unwrap());
            assert_eq!(found, conflicts, "{own} {asked}");
        }
    }

    #[test]
    fn proc_lines() {
        let line = "   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0";
        let socket = parse_proc_line(line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(socket.address, IpAddr::from([127, 0, 0, 53]));
        }
        assert_eq!(
            (socket.port, socket.state, socket.inode),
            (53, LISTEN, 4711)
        );
        let six = "   1: 00000000000000000000000001000000:1F90 0:0 0A 0 0 0 0 0 12 1";
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse_proc_line(six).unwrap().address,
                IpAddr::V6(Ipv6Addr::LOCALHOST)
            );
        }
        for bad in [
            "",
            "  sl  local_address rem_address   st tx_queue",
            "0: x:y",
        ] {
            assert_eq!(parse_proc_line(bad), None);
        }
    }
}
