//! Fragmentation of packets that are too big for the next hop.
//!
//! IPv4 packets without DF are a router's to cut. IPv6 packets are not, and yet some are cut here:
//! those that a process of the host sends to its own published port. Its kernel has made them for
//! the loopback interface, whose MTU no other link has, and would not believe that the path to
//! itself is narrower. They leave here with an address of ours as their source, so we are their
//! source node in the sense of RFC 8200 §4.5. Read RFC 791 §3.2 and RFC 8200 §4.5 first.

use super::packet::{
    FRAGMENT_HEADER_LEN, IPV4_HEADER_LEN, IPV6_FRAGMENT, IPV6_HEADER_LEN, Packet, place, walk, word,
};
use super::{Outbox, VNET_HDR_LEN, checksum};

/// Octets of payload for each fragment that has `header_len` octets of headers; a multiple of 8.
fn room(mtu: usize, header_len: usize) -> Option<usize> {
    let room = mtu.checked_sub(header_len)? & !7;
    (room > 0).then_some(room)
}

/// Cuts the IPv4 packet, which is translated, into fragments of at most `mtu` octets. False if that
/// is impossible.
// RFC 4787 REQ-13a: fragmented in order.
pub(super) fn ipv4(packet: &mut Packet<'_>, mtu: usize, out: &mut Outbox) -> bool {
    packet.complete_checksum();
    let octets = packet.octets();
    let header_len = packet.header_len();
    let Some(room) = room(mtu, header_len) else {
        return false;
    };
    let flags = word(octets, 6);
    let (more_after, first_offset) = (flags & 0x2000, usize::from(flags & 0x1fff));
    let payload = &octets[header_len..];
    let later_header = later_header(&octets[..header_len]);
    let mut at = 0;
    while at < payload.len() {
        let piece = &payload[at..payload.len().min(at + room)];
        let header = if at == 0 {
            &octets[..header_len]
        } else {
            &later_header
        };
        let last = at + piece.len() == payload.len();
        let mut frame = out.buffer();
        frame.resize(VNET_HDR_LEN, 0);
        frame.extend_from_slice(header);
        frame.extend_from_slice(piece);
        let total = u16::try_from(header.len() + piece.len()).unwrap_or(u16::MAX);
        let offset = u16::try_from(first_offset + at / 8).unwrap_or(0x1fff);
        let more = if last { more_after } else { 0x2000 };
        let header = &mut frame[VNET_HDR_LEN..VNET_HDR_LEN + header.len()];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        header[10..12].fill(0);
        let field = checksum::checksum(header);
        header[10..12].copy_from_slice(&field.to_be_bytes());
        out.push(frame);
        at += piece.len();
    }
    true
}

/// Cuts the IPv6 packet, which is translated, into fragments of at most `mtu` octets, with the
/// identification `ident` unless it has one. `None` if that is impossible.
pub(super) fn ipv6(
    packet: &mut Packet<'_>,
    mtu: usize,
    ident: u32,
    out: &mut Outbox,
) -> Option<()> {
    packet.complete_checksum();
    let octets = packet.octets();
    let mut header = Vec::with_capacity(IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN);
    let (payload_at, first_offset, more_after) = match packet.fragment_header() {
        Some(at) => {
            let end = at + FRAGMENT_HEADER_LEN;
            header.extend_from_slice(&octets[..end]);
            let (offset, more) = place(&octets[at..end]);
            (end, usize::from(offset), more)
        }
        None => {
            let chain = walk(octets).ok()?;
            header.extend_from_slice(&octets[..chain.per_fragment]);
            header.extend_from_slice(&[octets[chain.named_at], 0, 0, 0]);
            header.extend_from_slice(&ident.to_be_bytes());
            header[chain.named_at] = IPV6_FRAGMENT;
            (chain.per_fragment, 0, false)
        }
    };
    let room = room(mtu, header.len())?;
    // RFC 7112 §5: the first fragment has all headers.
    if first_offset == 0 && packet.repeated_headers() - payload_at > room {
        return None;
    }
    let payload = &octets[payload_at..];
    let place_at = header.len() - FRAGMENT_HEADER_LEN + 2;
    let mut at = 0;
    while at < payload.len() {
        let piece = &payload[at..payload.len().min(at + room)];
        let more = more_after || at + piece.len() < payload.len();
        let offset = u16::try_from(first_offset + at).ok()?;
        let length = header.len() - IPV6_HEADER_LEN + piece.len();
        header[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        header[place_at..place_at + 2].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
        let mut frame = out.buffer();
        frame.resize(VNET_HDR_LEN, 0);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(piece);
        out.push(frame);
        at += piece.len();
    }
    Some(())
}

/// The IPv4 header of fragments after the first: only options that are marked for copying.
fn later_header(header: &[u8]) -> Vec<u8> {
    let mut later = header[..IPV4_HEADER_LEN].to_vec();
    let mut options = &header[IPV4_HEADER_LEN..];
    while let [kind, rest @ ..] = options {
        let length = match *kind {
            0 => break,
            1 => 1,
            _ => rest.first().map_or(1, |&length| usize::from(length)),
        };
        let Some((option, rest)) = options.split_at_checked(length.max(1)) else {
            break;
        };
        if kind & 0x80 != 0 {
            later.extend_from_slice(option);
        }
        options = rest;
    }
    later.resize(later.len().div_ceil(4) * 4, 0);
    let words = u8::try_from(later.len() / 4).unwrap_or(5);
    later[0] = 0x40 | words;
    later
}
