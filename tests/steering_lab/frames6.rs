//! Building IPv6 packets byte by byte.

use std::net::Ipv6Addr;

use super::frames::checksum;
use super::{ICMPV6, TCP, UDP};

pub const RS: u8 = 133;
pub const RA: u8 = 134;
pub const NS: u8 = 135;
pub const NA: u8 = 136;
pub const REDIRECT: u8 = 137;
/// The type of the option with the sender's MAC address in a solicitation.
pub const SOURCE_MAC: u8 = 1;
/// The type of the option with the target's MAC address in an advertisement.
pub const TARGET_MAC: u8 = 2;

fn octets(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().unwrap().octets()
}

/// A packet; `next` is the protocol of `payload`, or its first extension header.
pub fn ipv6_hops(source: &str, destination: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, hops];
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(payload);
    packet
}

pub fn ipv6(source: &str, destination: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_hops(source, destination, next, 64, payload)
}

/// Fills in the checksum at `at` of a transport segment.
fn summed(
    source: &str,
    destination: &str,
    protocol: u8,
    mut segment: Vec<u8>,
    at: usize,
) -> Vec<u8> {
    let length = u32::try_from(segment.len()).unwrap().to_be_bytes();
    let pseudo = [
        &octets(source)[..],
        &octets(destination),
        &length,
        &[0, 0, 0, protocol],
    ]
    .concat();
    let sum = checksum(&[&pseudo[..], &segment].concat()).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);
    segment
}

pub fn udp_segment6(
    source: &str,
    source_port: u16,
    destination: &str,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let segment = super::frames::udp_segment(source_port, port, payload);
    summed(source, destination, UDP, segment, 6)
}

pub fn udp6(
    source: &str,
    source_port: u16,
    destination: &str,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let segment = udp_segment6(source, source_port, destination, port, payload);
    ipv6(source, destination, UDP, &segment)
}

/// A TCP segment with the given flags.
pub fn tcp6(source: &str, source_port: u16, destination: &str, port: u16, flags: u8) -> Vec<u8> {
    let mut segment: Vec<u8> = [source_port, port]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ipv6(
        source,
        destination,
        TCP,
        &summed(source, destination, TCP, segment, 16),
    )
}

pub fn icmp6_message(
    source: &str,
    destination: &str,
    kind: u8,
    code: u8,
    word: [u8; 4],
    rest: &[u8],
) -> Vec<u8> {
    let message = [&[kind, code, 0, 0][..], &word, rest].concat();
    summed(source, destination, ICMPV6, message, 2)
}

pub fn icmp6(
    source: &str,
    destination: &str,
    kind: u8,
    code: u8,
    word: [u8; 4],
    rest: &[u8],
) -> Vec<u8> {
    let message = icmp6_message(source, destination, kind, code, word, rest);
    ipv6(source, destination, ICMPV6, &message)
}

/// A message of Neighbour Discovery about `target`, with one option that gives a MAC address.
pub fn discovery(
    kind: u8,
    source: &str,
    destination: &str,
    target: &str,
    option: Option<(u8, [u8; 6])>,
) -> Vec<u8> {
    // An advertisement: solicited, override.
    let word = if kind == NA { [0x60, 0, 0, 0] } else { [0; 4] };
    let mut rest = octets(target).to_vec();
    if let Some((kind, mac)) = option {
        rest.extend([kind, 1]);
        rest.extend(mac);
    }
    let message = icmp6_message(source, destination, kind, 0, word, &rest);
    ipv6_hops(source, destination, ICMPV6, 255, &message)
}

/// A router advertisement of a prefix, with a lifetime of half an hour.
pub fn router_advertisement(source: &str, destination: &str) -> Vec<u8> {
    let mut rest = vec![0; 8];
    rest.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    rest.extend(octets("2001:db8:bad::"));
    let message = icmp6_message(source, destination, RA, 0, [64, 0, 7, 8], &rest);
    ipv6_hops(source, destination, ICMPV6, 255, &message)
}

/// The solicited-node group of an address.
pub fn solicited_node(address: &str) -> String {
    let octets = octets(address);
    format!(
        "ff02::1:ff{:02x}:{:x}",
        octets[13],
        u16::from_be_bytes([octets[14], octets[15]])
    )
}

/// An extension header of eight octets.
pub fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// A fragment header; `offset` in octets.
pub fn fragment(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let field = (offset | u16::from(more)).to_be_bytes();
    [next, 0, field[0], field[1], 0, 0, 0, 9]
}
