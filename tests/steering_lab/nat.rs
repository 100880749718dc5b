//! The least translator that steering can be tested with: no timers, no filtering, no state
//! machine. Ports are kept; each new flow opens its own reply.

use std::collections::HashMap;
use std::net::IpAddr;

use tunbridge::steering::ExternalPorts;

use super::ipv6::{GATEWAY6, UPLINK6};
use super::tun::{NEEDS_CSUM, VNET};
use super::{GATEWAY, ICMP, ICMPV6, TCP, UDP, UPLINK};

/// Source, destination, source port, destination port.
pub type Tuple = (IpAddr, IpAddr, u16, u16);

/// Where addresses and the transport header are, and the protocol. IPv6 without extension headers only.
fn layout(packet: &[u8]) -> (usize, usize, usize, u8) {
    match packet[0] >> 4 {
        4 => (12, 4, usize::from(packet[0] & 15) * 4, packet[9]),
        _ => (8, 16, 40, packet[6]),
    }
}

fn read_address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(octets).unwrap().into(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Reads the tuple of a packet; for ICMP both ports are the identifier.
pub fn tuple(packet: &[u8]) -> (u8, Tuple) {
    let (start, length, transport, protocol) = layout(packet);
    let address = |at: usize| read_address(&packet[at..at + length]);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let ports = match protocol {
        ICMP | ICMPV6 => (port(transport + 4), port(transport + 4)),
        _ => (port(transport), port(transport + 2)),
    };
    (
        protocol,
        (address(start), address(start + length), ports.0, ports.1),
    )
}

/// Rewrites addresses and ports, and repairs the checksums (RFC 1624). With NEEDS_CSUM the
/// transport checksum is the uncomplemented sum of the pseudo header alone.
pub fn rewrite(frame: &mut [u8], to: Tuple) {
    let partial = frame[0] & NEEDS_CSUM != 0;
    let packet = &mut frame[VNET..];
    let (start, length, transport, protocol) = layout(packet);
    let checksum = match protocol {
        TCP => Some(transport + 16),
        UDP => Some(transport + 6),
        ICMPV6 => Some(transport + 2),
        _ => None,
    };
    let (_, from) = tuple(packet);
    let new = [octets(to.0), octets(to.1)].concat();
    let old = packet[start..start + 2 * length].to_vec();
    for (old, new) in old.chunks(2).zip(new.chunks(2)) {
        let [old, new] = [old, new].map(|word| u16::from_be_bytes([word[0], word[1]]));
        if to.0.is_ipv4() {
            adjust(packet, 10, old, new, false);
        }
        if let Some(at) = checksum {
            adjust(packet, at, old, new, partial);
        }
    }
    packet[start..start + 2 * length].copy_from_slice(&new);
    if protocol == ICMP || protocol == ICMPV6 {
        return; // identifiers are kept
    }
    if let (Some(at), false) = (checksum, partial) {
        adjust(packet, at, from.2, to.2, false);
        adjust(packet, at, from.3, to.3, false);
    }
    packet[transport..transport + 2].copy_from_slice(&to.2.to_be_bytes());
    packet[transport + 2..transport + 4].copy_from_slice(&to.3.to_be_bytes());
}

fn adjust(packet: &mut [u8], at: usize, old: u16, new: u16, partial: bool) {
    let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let sum = if partial { field } else { !field };
    let mut sum = u32::from(sum) + u32::from(!old) + u32::from(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).unwrap();
    let field = if partial { sum } else { !sum };
    packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

/// A forwarder in forty lines.
#[derive(Debug)]
pub struct Nat {
    ports: ExternalPorts,
    /// (protocol, port of the host, whether IPv4) → container and its port.
    published: HashMap<(u8, u16, bool), (IpAddr, u16)>,
    flows: HashMap<(u8, Tuple), Tuple>,
}

impl Nat {
    pub fn new(ports: ExternalPorts) -> Self {
        Self {
            ports,
            published: HashMap::new(),
            flows: HashMap::new(),
        }
    }

    pub fn publish(mut self, protocol: u8, port: u16, to: &str, to_port: u16) -> Self {
        let to: IpAddr = to.parse().unwrap();
        self.published
            .insert((protocol, port, to.is_ipv4()), (to, to_port));
        self
    }

    /// Translates a frame in place. `true`: write it back (packets of nobody unchanged).
    pub fn judge(&mut self, frame: &mut [u8]) -> bool {
        let packet = &frame[VNET..];
        if packet.len() < 28 {
            return false;
        }
        let fragment = match packet[0] >> 4 {
            4 => u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0,
            _ if packet[24] == 0xff => return false, // the kernel's reports of groups
            _ => packet[6] == 44,
        };
        if fragment {
            return true; // fragments go back where they came from
        }
        let (protocol, from) = tuple(packet);
        let to = match self.flows.get(&(protocol, from)) {
            Some(to) => *to,
            None => match self.open(protocol, from) {
                Some(to) => to,
                None => return true,
            },
        };
        rewrite(frame, to);
        true
    }

    fn open(&mut self, protocol: u8, from: Tuple) -> Option<Tuple> {
        let ipv4 = from.0.is_ipv4();
        let [gateway, uplink] = if ipv4 {
            [GATEWAY, UPLINK]
        } else {
            [GATEWAY6, UPLINK6]
        };
        let [gateway, uplink] = [gateway, uplink].map(super::ip);
        let local = |a: IpAddr| a.is_loopback() || a == gateway || a == uplink;
        let inside = |a: IpAddr| octets(a)[..2] == octets(gateway)[..2] && a != gateway;
        let (source, destination, source_port, port) = from;
        let to = match self.published.get(&(protocol, port, ipv4)) {
            Some((container, container_port)) if local(destination) => {
                let outside = !local(source) && !inside(source);
                let source = if outside { source } else { gateway };
                (source, *container, source_port, *container_port)
            }
            _ if inside(source) && !local(destination) => (uplink, destination, source_port, port),
            _ => return None,
        };
        if local(to.0) {
            self.ports.set(protocol, source_port, true);
        }
        self.flows.insert((protocol, from), to);
        self.flows.insert(
            (protocol, (to.1, to.0, to.3, to.2)),
            (from.1, from.0, from.3, from.2),
        );
        Some(to)
    }
}
