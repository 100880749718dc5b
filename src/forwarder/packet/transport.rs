//! What follows the IP header and its extensions: TCP, UDP, ICMP.

use super::super::DropReason;
use super::super::vnet::TransportHeader;
use super::{Transport, Version, word};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

pub(super) const TCP_HEADER_LEN: usize = 20;
pub(super) const UDP_HEADER_LEN: usize = 8;
const ICMP_HEADER_LEN: usize = 8;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
pub(super) const TCP_OPTION_MSS: u8 = 2;
pub(super) const TCP_OPTION_WINDOW_SCALE: u8 = 3;

/// Reads the header of `protocol` at the start of `payload`.
#[inline]
pub(super) fn parse(
    version: Version,
    protocol: u8,
    payload: &[u8],
    first_fragment: bool,
) -> Result<(Transport, Option<TransportHeader>), DropReason> {
    match (protocol, version) {
        (TCP, _) => {
            if payload.len() < TCP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let header_len = usize::from(payload[12] >> 4) * 4;
            if header_len < TCP_HEADER_LEN || header_len > payload.len() {
                return Err(DropReason::Malformed);
            }
            Ok((Transport::Tcp, Some(TransportHeader::Tcp(header_len))))
        }
        (UDP, _) => {
            if payload.len() < UDP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let length = usize::from(word(payload, 4));
            if length < UDP_HEADER_LEN || (!first_fragment && length > payload.len()) {
                return Err(DropReason::Malformed);
            }
            Ok((Transport::Udp, Some(TransportHeader::Udp)))
        }
        (ICMP, Version::V4) | (ICMPV6, Version::V6) => {
            if payload.len() < ICMP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            Ok((icmp(version, payload[0]), None))
        }
        _ => Ok((Transport::Other, None)),
    }
}

/// What kind of ICMP message has this type.
pub(crate) const fn icmp(version: Version, kind: u8) -> Transport {
    match (version, kind) {
        (Version::V4, 8 | 13) | (Version::V6, 128) => Transport::IcmpQuery(kind),
        (Version::V4, 0) => Transport::IcmpAnswer(8),
        (Version::V4, 14) => Transport::IcmpAnswer(13),
        (Version::V6, 129) => Transport::IcmpAnswer(128),
        // RFC 6633 §1: source quench (4 of IPv4) is not passed on.
        (Version::V4, 3 | 11 | 12) | (Version::V6, 1..=4) => Transport::IcmpError,
        // Of IPv6 also all that keeps to its link: neighbour and multicast listener discovery.
        _ => Transport::IcmpOther,
    }
}

/// Offset of the value of TCP option `kind` of `length` octets.
pub(super) fn tcp_option(
    segment: &[u8],
    header_len: usize,
    kind: u8,
    length: usize,
) -> Option<usize> {
    let mut at = TCP_HEADER_LEN;
    while at < header_len {
        match segment[at] {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            found => {
                let found_length = usize::from(*segment.get(at + 1)?);
                if found_length < 2 || at + found_length > header_len {
                    return None;
                }
                if found == kind && found_length == length {
                    return Some(at + 2);
                }
                at += found_length;
            }
        }
    }
    None
}
