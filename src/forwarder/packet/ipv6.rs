//! The IPv6 header and its extensions.
//!
//! ```text
//!  IPv6 ─► hop-by-hop ─► routing ─┬─► fragment ─► destination options ─► TCP, UDP, ICMPv6
//!                                 └ here a fragment header would go
//! ```
//!
//! Extension headers are skipped and left as they are: none of them is a router's business but the
//! hop-by-hop options, and of these only the one that contradicts the length (jumbo payload). What
//! may not be skipped: a routing header that is not used up, which is a source route, and whatever
//! cannot be skipped, which is a protocol of its own (AH, ESP, no next header, all unknown ones). Read
//! RFC 8200, RFC 5722, RFC 6946 and RFC 7112 first.

use std::net::Ipv6Addr;

use smoltcp::wire::Ipv6Packet;

use super::super::DropReason;
use super::super::checksum::Delta;
use super::{FragmentRange, Layout, Version};

pub(crate) const HEADER_LEN: usize = 40;
pub(crate) const FRAGMENT_HEADER_LEN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const OPTION_PAD1: u8 = 0;
const OPTION_JUMBO: u8 = 0xc2;

/// Where the fixed header has its next header field.
const NEXT_HEADER: usize = 6;

/// Extension headers in a packet; nobody has a use for as many (RFC 8504 §5.3).
const MAX_EXTENSIONS: usize = 8;

/// A chain of headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// What is behind the extension headers, or in the fragment.
    pub(crate) protocol: u8,
    /// Where that starts.
    pub(crate) end: usize,
    /// Where the fragment header starts.
    pub(crate) fragment: Option<usize>,
    /// Where the headers end that every fragment has.
    pub(crate) per_fragment: usize,
    /// Where the last of these has its next header field.
    pub(crate) named_at: usize,
}

/// Follows the headers of a packet, of which there may be a part only.
pub(crate) fn walk(octets: &[u8]) -> Result<Chain, DropReason> {
    let mut short = DropReason::Malformed;
    let mut chain = Chain {
        protocol: *octets.get(NEXT_HEADER).ok_or(short)?,
        end: HEADER_LEN,
        fragment: None,
        per_fragment: HEADER_LEN,
        named_at: NEXT_HEADER,
    };
    for _ in 0..=MAX_EXTENSIONS {
        let (kind, at) = (chain.protocol, chain.end);
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            return Ok(chain);
        }
        let header = octets.get(at..).filter(|header| header.len() >= 8);
        let header = header.ok_or(short)?;
        let length = if kind == FRAGMENT {
            FRAGMENT_HEADER_LEN
        } else {
            (usize::from(header[1]) + 1) * 8
        };
        let header = header.get(..length).ok_or(short)?;
        chain.protocol = header[0];
        chain.end = at + length;
        match kind {
            // RFC 8200 §4.1: nowhere but first.
            HOP_BY_HOP if at == HEADER_LEN => {
                check_options(&header[2..])?;
                (chain.per_fragment, chain.named_at) = (chain.end, at);
            }
            HOP_BY_HOP => return Err(DropReason::Malformed),
            // RFC 5095, RFC 7126 §4.3: drop source routed packets; a route that is used up is none.
            ROUTING if header[3] != 0 => return Err(DropReason::SourceRoute),
            ROUTING => (chain.per_fragment, chain.named_at) = (chain.end, at),
            FRAGMENT if chain.fragment.is_some() => return Err(DropReason::Malformed),
            FRAGMENT => {
                chain.fragment = Some(at);
                let (offset, more) = place(header);
                if offset != 0 {
                    return Ok(chain);
                }
                // RFC 7112 §5: a first fragment has all headers.
                if more {
                    short = DropReason::FragmentTiny;
                }
            }
            _ => {}
        }
    }
    Err(DropReason::Malformed)
}

/// Offset in octets and the M flag of a fragment header.
pub(crate) fn place(fragment_header: &[u8]) -> (u16, bool) {
    let word = u16::from_be_bytes([fragment_header[2], fragment_header[3]]);
    (word & !7, word & 1 != 0)
}

/// Hop-by-hop options are well formed, and the payload is no jumbo: no frame has room for one.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (OPTION_PAD1, rest) => rest,
            (kind, [length, rest @ ..]) if kind != OPTION_JUMBO => rest
                .get(usize::from(*length)..)
                .ok_or(DropReason::Malformed)?,
            _ => return Err(DropReason::Malformed),
        };
    }
    Ok(())
}

/// Reads the headers of `packet`, which padding may follow.
#[inline]
pub(super) fn parse(packet: &[u8]) -> Result<Layout, DropReason> {
    if packet.len() < HEADER_LEN {
        return Err(DropReason::Malformed);
    }
    let total_len = HEADER_LEN + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    if packet.len() < total_len {
        return Err(DropReason::Malformed);
    }
    let octets = &packet[..total_len];
    let chain = walk(octets)?;
    let fragment = match chain.fragment {
        Some(at) => fragment_range(octets, at)?,
        None => None,
    };
    Ok(Layout {
        version: Version::V6,
        header_len: chain.end,
        total_len,
        protocol: chain.protocol,
        fragment,
        fragment_header: chain.fragment,
    })
}

/// What the fragment header at `at` says; `None` if the fragment is the whole packet.
fn fragment_range(octets: &[u8], at: usize) -> Result<Option<FragmentRange>, DropReason> {
    let (offset, more) = place(&octets[at..]);
    // RFC 6946: an atomic fragment is no fragment, whatever others have its identification.
    if offset == 0 && !more {
        return Ok(None);
    }
    let length = octets.len() - at - FRAGMENT_HEADER_LEN;
    let end = usize::from(offset) + length;
    // RFC 8200 §4.5: the reassembled payload must fit, and fragments but the last come in units of
    // 8 octets.
    if length == 0 || (more && !length.is_multiple_of(8)) || at - HEADER_LEN + end > 65_535 {
        return Err(DropReason::Malformed);
    }
    Ok(Some(FragmentRange {
        start: u32::from(offset),
        end: u32::try_from(end).unwrap_or(u32::MAX),
        last: !more,
    }))
}

/// Changes the addresses, with the hop limit one less; returns the difference that the addresses
/// make.
#[inline]
pub(super) fn readdress(octets: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) -> Delta {
    let mut ip = Ipv6Packet::new_unchecked(octets);
    let addresses = Delta::default()
        .ipv6(ip.src_addr(), src)
        .ipv6(ip.dst_addr(), dst);
    let hop_limit = ip.hop_limit();
    ip.set_src_addr(src);
    ip.set_dst_addr(dst);
    ip.set_hop_limit(hop_limit.saturating_sub(1));
    addresses
}
