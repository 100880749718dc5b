//! The IPv4 header. Read RFC 791, RFC 1812 §5.2 and RFC 1858 first.

use std::net::Ipv4Addr;

use smoltcp::wire::Ipv4Packet;

use super::super::DropReason;
use super::super::checksum::{self, Delta};
use super::transport::TCP;
use super::{FragmentRange, Layout, Version};

pub(crate) const HEADER_LEN: usize = 20;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

/// Reads the header of `packet`, which padding may follow.
#[inline]
pub(super) fn parse(packet: &[u8]) -> Result<Layout, DropReason> {
    if packet.len() < HEADER_LEN {
        return Err(DropReason::Malformed);
    }
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    // More octets than the header says are link-layer padding; fewer are a lie.
    if header_len < HEADER_LEN || total_len < header_len || packet.len() < total_len {
        return Err(DropReason::Malformed);
    }
    let header = &packet[..header_len];
    // RFC 1812 §5.2.2: a router verifies the header checksum.
    if checksum::checksum(header) != 0 {
        return Err(DropReason::BadIpChecksum);
    }
    check_options(&header[HEADER_LEN..])?;
    let ip = Ipv4Packet::new_unchecked(header);
    let (offset, more) = (u32::from(ip.frag_offset()), ip.more_frags());
    let protocol = u8::from(ip.next_header());
    let fragment = if offset != 0 || more {
        let payload_len = total_len - header_len;
        Some(fragment_range(offset, more, payload_len, protocol)?)
    } else {
        None
    };
    Ok(Layout {
        version: Version::V4,
        header_len,
        total_len,
        protocol,
        fragment,
        fragment_header: None,
    })
}

/// Changes the addresses, with the time to live one less; returns the difference that the addresses
/// make.
#[inline]
pub(super) fn readdress(octets: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) -> Delta {
    let protocol = octets[9];
    let mut ip = Ipv4Packet::new_unchecked(octets);
    let addresses = Delta::default()
        .ipv4(ip.src_addr(), src)
        .ipv4(ip.dst_addr(), dst);
    let ttl = ip.hop_limit();
    let hop = Delta::default().word(
        u16::from_be_bytes([ttl, protocol]),
        u16::from_be_bytes([ttl.saturating_sub(1), protocol]),
    );
    ip.set_src_addr(src);
    ip.set_dst_addr(dst);
    ip.set_hop_limit(ttl.saturating_sub(1));
    let field = addresses.and(hop).apply(ip.checksum());
    ip.set_checksum(field);
    addresses
}

pub(super) fn set_ident(octets: &mut [u8], ident: u16) {
    let mut ip = Ipv4Packet::new_unchecked(octets);
    let field = Delta::default()
        .word(ip.ident(), ident)
        .apply(ip.checksum());
    ip.set_ident(ident);
    ip.set_checksum(field);
}

fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        match *kind {
            OPTION_END => break,
            OPTION_NOP => options = rest,
            // RFC 7126 §4.3, §4.4: drop source routed packets.
            OPTION_LSRR | OPTION_SSRR => return Err(DropReason::SourceRoute),
            _ => {
                let length = rest.first().map_or(0, |&length| usize::from(length));
                options = match options.split_at_checked(length) {
                    Some((_, rest)) if length >= 2 => rest,
                    _ => return Err(DropReason::Malformed),
                };
            }
        }
    }
    Ok(())
}

fn fragment_range(
    offset: u32,
    more: bool,
    payload_len: usize,
    protocol: u8,
) -> Result<FragmentRange, DropReason> {
    let end = offset + u32::try_from(payload_len).unwrap_or(u32::MAX - offset);
    // The reassembled packet must fit, and fragments but the last come in units of 8 octets.
    if end > 65_535 - 20 || payload_len == 0 || (more && !payload_len.is_multiple_of(8)) {
        return Err(DropReason::Malformed);
    }
    // RFC 1858 §4: a fragment at offset 8 could rewrite the TCP flags.
    if protocol == TCP && offset == 8 {
        return Err(DropReason::FragmentTiny);
    }
    Ok(FragmentRange {
        start: offset,
        end,
        last: !more,
    })
}
