//! The least translator that steering can be tested with: no timers, no filtering, no state
//! machine. Ports are kept; each new flow opens its own reply.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use tunbridge::steering::ExternalPorts;

use super::tun::{NEEDS_CSUM, VNET};
use super::{ICMP, TCP, UDP};

/// Source, destination, source port, destination port.
pub type Tuple = (Ipv4Addr, Ipv4Addr, u16, u16);

/// Reads the tuple of an IPv4 packet; for ICMP both ports are the identifier.
pub fn tuple(packet: &[u8]) -> (u8, Tuple) {
    let address =
        |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let transport = usize::from(packet[0] & 15) * 4;
    let ports = match packet[9] {
        ICMP => (port(transport + 4), port(transport + 4)),
        _ => (port(transport), port(transport + 2)),
    };
    (packet[9], (address(12), address(16), ports.0, ports.1))
}

/// Rewrites addresses and ports, and repairs the checksums (RFC 1624). With NEEDS_CSUM the
/// transport checksum is the uncomplemented sum of the pseudo header alone.
pub fn rewrite(frame: &mut [u8], to: Tuple) {
    let partial = frame[0] & NEEDS_CSUM != 0;
    let packet = &mut frame[VNET..];
    let transport = usize::from(packet[0] & 15) * 4;
    let protocol = packet[9];
    let checksum = match protocol {
        TCP => Some(transport + 16),
        UDP => Some(transport + 6),
        _ => None,
    };
    let (_, from) = tuple(packet);
    let words = |a: Ipv4Addr, b: Ipv4Addr| {
        let (a, b) = (a.octets(), b.octets());
        [[a[0], a[1]], [a[2], a[3]], [b[0], b[1]], [b[2], b[3]]].map(u16::from_be_bytes)
    };
    for (old, new) in words(from.0, from.1).into_iter().zip(words(to.0, to.1)) {
        adjust(packet, 10, old, new, false);
        if let Some(at) = checksum {
            adjust(packet, at, old, new, partial);
        }
    }
    packet[12..16].copy_from_slice(&to.0.octets());
    packet[16..20].copy_from_slice(&to.1.octets());
    if protocol == ICMP {
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
    /// (protocol, port of the host) → container and its port.
    published: HashMap<(u8, u16), (Ipv4Addr, u16)>,
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
        self.published
            .insert((protocol, port), (to.parse().unwrap(), to_port));
        self
    }

    /// Translates a frame in place. `true`: write it back (packets of nobody unchanged).
    pub fn judge(&mut self, frame: &mut [u8]) -> bool {
        let packet = &frame[VNET..];
        if packet.len() < 28 || packet[0] >> 4 != 4 {
            return false;
        }
        if u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0 {
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
        let gateway: Ipv4Addr = super::GATEWAY.parse().unwrap();
        let uplink: Ipv4Addr = super::UPLINK.parse().unwrap();
        let local = |a: Ipv4Addr| a.is_loopback() || a == gateway || a == uplink;
        let inside = |a: Ipv4Addr| a.octets()[..2] == [172, 17] && a != gateway;
        let (source, destination, source_port, port) = from;
        let to = match self.published.get(&(protocol, port)) {
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
