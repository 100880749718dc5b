//! Packets that the forwarder makes itself: ICMP errors and fragments.
//!
//! Read RFC 792, RFC 1122 §3.2.2, RFC 1812 §4.3.2 and RFC 1191 first.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::checksum;
use super::packet::{ICMP, Packet, word};
use super::{Outbox, VNET_HDR_LEN};

const HEADER_LEN: usize = 20;
const ICMP_HEADER_LEN: usize = 8;

/// RFC 1812 §4.3.2.3: as much of the packet as fits in 576 octets.
const MAX_ERROR_LEN: usize = 576;
pub(super) const MAX_QUOTE_LEN: usize = MAX_ERROR_LEN - HEADER_LEN - ICMP_HEADER_LEN;

/// Time to live of what we send.
const TTL: u8 = 64;
/// Precedence of ICMP errors: internetwork control (RFC 1812 §4.3.2.5).
const TOS_INTERNETWORK_CONTROL: u8 = 0xc0;

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcmpError {
    /// 11/0.
    TimeExceeded,
    /// 3/4 with the next hop's MTU.
    FragmentationNeeded { mtu: u16 },
    /// 3/0.
    NetworkUnreachable,
    /// 3/3.
    PortUnreachable,
    /// 3/13: the packet was refused for want of resources or by policy.
    AdministrativelyProhibited,
}

impl IcmpError {
    const fn kind(self) -> (u8, u8, u16) {
        match self {
            Self::TimeExceeded => (11, 0, 0),
            Self::FragmentationNeeded { mtu } => (3, 4, mtu),
            Self::NetworkUnreachable => (3, 0, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::AdministrativelyProhibited => (3, 13, 0),
        }
    }

    /// The error about the packet that starts with `quote`, from `src` to the packet's sender.
    pub(super) fn emit(self, quote: &[u8], src: Ipv4Addr, out: &mut Outbox) {
        let quote = &quote[..quote.len().min(MAX_QUOTE_LEN)];
        let (kind, code, mtu) = self.kind();
        let mut frame = out.buffer();
        frame.resize(VNET_HDR_LEN + HEADER_LEN + ICMP_HEADER_LEN, 0);
        frame.extend_from_slice(quote);
        let packet = &mut frame[VNET_HDR_LEN..];
        let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);

        let icmp = &mut packet[HEADER_LEN..];
        icmp[0] = kind;
        icmp[1] = code;
        icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
        let field = checksum::checksum(icmp);
        icmp[2..4].copy_from_slice(&field.to_be_bytes());

        let dst = Ipv4Addr::new(quote[12], quote[13], quote[14], quote[15]);
        let mut ip = Ipv4Packet::new_unchecked(packet);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_dscp(TOS_INTERNETWORK_CONTROL >> 2);
        ip.set_total_len(total);
        ip.set_dont_frag(true);
        ip.set_hop_limit(TTL);
        ip.set_next_header(IpProtocol::from(ICMP));
        ip.set_src_addr(src);
        ip.set_dst_addr(dst);
        ip.fill_checksum();
        out.push(frame);
    }
}

/// An ICMP error may be sent about this packet.
// RFC 1122 §3.2.2, RFC 1812 §4.3.2.7: never about an error, a later fragment, or anything that was
// not from one host to one host.
pub(super) fn may_answer(packet: &Packet<'_>) -> bool {
    let unicast = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified()
        }
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    };
    let later = packet.fragment.is_some_and(|range| range.start > 0);
    let icmp_but_no_query = packet.protocol_number() == ICMP
        && !matches!(packet.payload().first(), Some(0 | 8 | 13 | 14));
    !later && !icmp_but_no_query && unicast(packet.src()) && unicast(packet.dst())
}

/// Cuts the packet, which is complete and translated, into fragments of at most `mtu` octets.
/// False if that is impossible.
// RFC 4787 REQ-13a: fragmented in order.
pub(super) fn fragment(packet: &mut Packet<'_>, mtu: usize, out: &mut Outbox) -> bool {
    packet.complete_checksum();
    let octets = packet.octets();
    let header_len = packet.header_len();
    let Some(room) = mtu
        .checked_sub(header_len)
        .map(|room| room & !7)
        .filter(|&room| room > 0)
    else {
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

/// The header of fragments after the first: only options that are marked for copying.
fn later_header(header: &[u8]) -> Vec<u8> {
    let mut later = header[..HEADER_LEN].to_vec();
    let mut options = &header[HEADER_LEN..];
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
