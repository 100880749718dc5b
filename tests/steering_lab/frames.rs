//! Building packets byte by byte, and sending them past every check of the sender's kernel.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, recv,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{ICMP, Netns, TCP, UDP};

pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_ARP: u16 = 0x0806;
pub const TYPE_IPV6: u16 = 0x86dd;
pub const BROADCAST: [u8; 6] = [0xff; 6];
pub const MORE_FRAGMENTS: u16 = 0x2000;

pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 packet; `fragment` is the flags-and-offset field, `options` a multiple of four octets.
pub fn ipv4_full(
    source: &str,
    destination: &str,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).unwrap();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(destination.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend(options);
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

pub fn ipv4(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_full(source, destination, protocol, 0, &[], payload)
}

/// A UDP datagram without checksum.
pub fn udp(
    source: &str,
    source_port: u16,
    destination: &str,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    ipv4(
        source,
        destination,
        UDP,
        &udp_segment(source_port, port, payload),
    )
}

pub fn udp_segment(source_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut segment: Vec<u8> = [source_port, port, length, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect();
    segment.extend(payload);
    segment
}

/// A TCP segment with the given flags and no checksum: good for judging, not for a real peer.
pub fn tcp(source: &str, source_port: u16, destination: &str, port: u16, flags: u8) -> Vec<u8> {
    let mut segment: Vec<u8> = [source_port, port]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ipv4(source, destination, TCP, &segment)
}

/// An ICMP message with a correct checksum.
pub fn icmp(
    source: &str,
    destination: &str,
    kind: u8,
    code: u8,
    word: [u8; 4],
    rest: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word);
    message.extend(rest);
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    ipv4(source, destination, ICMP, &message)
}

pub fn ethernet(source: [u8; 6], target: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&target[..], &source, &kind.to_be_bytes(), payload].concat()
}

pub fn arp(operation: u16, mac: [u8; 6], address: &str, asked: &str) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(address.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend([0; 6]);
    packet.extend(asked.parse::<Ipv4Addr>().unwrap().octets());
    packet
}

/// Sends a frame as it is out of an interface of the calling thread's namespace.
pub fn send(interface: &str, frame: &[u8]) -> io::Result<usize> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )?;
    let if_index = nix::net::if_::if_nametoindex(interface)?;
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
    address.sll_ifindex = i32::try_from(if_index).unwrap();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    // SAFETY: a complete sockaddr_ll of that length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.unwrap();
    Ok(sendto(
        socket.as_raw_fd(),
        frame,
        &address,
        MsgFlags::empty(),
    )?)
}

/// Sees every frame of a namespace from its making on.
#[derive(Debug)]
pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn new(namespace: &Netns) -> Self {
        let socket = namespace.run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .unwrap()
        });
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(250),
        )
        .unwrap();
        Self(socket)
    }

    /// Whether a frame with this packet comes, or came since the last call.
    pub fn sees(&self, packet: &[u8]) -> bool {
        let mut frame = [0; 9000];
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            if length >= 14 && frame[14..length].starts_with(packet) {
                return true;
            }
        }
        false
    }
}
