//! ICMP errors in the other family: types, codes, pointers, MTUs, and the packet that they quote.
//!
//! Read RFC 7915 §4.2, §4.3, §5.2, §5.3, RFC 1191 §7 and RFC 4884 first.

use crate::forwarder::DropReason;
use crate::forwarder::checksum::{self, Delta};
use crate::forwarder::key::FlowKey;

use super::header::{Header, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN};
use super::{MIN_IPV6_MTU, transport};

const ICMP_LEN: usize = 8;

/// Longest errors: RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c).
const MAX_V4_ERROR: usize = 576;
const MAX_V6_ERROR: usize = MIN_IPV6_MTU as usize;

/// RFC 4884 §5.5: what is quoted before an extension has at least that many octets.
const MIN_QUOTE_BEFORE_EXTENSION: usize = 128;

/// RFC 1191 §7.1: MTUs that links have, for routers that do not tell theirs.
const PLATEAUS: [u32; 11] = [
    65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68,
];

/// What IPv4 and IPv6 differ by.
const DIFFERENCE: u32 = 20;

/// Largest packets that may go to the next hops, in octets.
#[derive(Clone, Copy, Debug)]
pub(in crate::forwarder) struct Mtus {
    pub(in crate::forwarder) v4: u32,
    pub(in crate::forwarder) v6: u32,
}

impl Mtus {
    /// What an IPv4 sender is told: packets of that length pass as IPv6.
    // RFC 7915 §4.1: what the next hop takes less 20. §5.2: nor is any hop before smaller.
    pub(in crate::forwarder) fn told_to_v4(self, reported: u32) -> u32 {
        // RFC 8201 §4: no path takes less than 1280 octets, whatever a router says.
        reported
            .max(MIN_IPV6_MTU)
            .saturating_sub(DIFFERENCE)
            .min(self.v4)
            .min(self.v6.saturating_sub(DIFFERENCE))
    }

    /// What an IPv6 sender is told: packets of that length pass as IPv4, if need be in fragments.
    // RFC 7915 §4.2
    pub(in crate::forwarder) fn told_to_v6(self, reported: u32) -> u32 {
        reported
            .saturating_add(DIFFERENCE)
            .min(self.v6)
            .min(self.v4.saturating_add(DIFFERENCE))
            .max(MIN_IPV6_MTU)
    }
}

/// Type, code and second word of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    code: u8,
    rest: u32,
}

impl Message {
    /// The ICMPv6 error for an ICMP error; `None` if there is none. `quoted` is the length of the
    /// quoted packet.
    // RFC 7915 §4.2
    fn to_v6(self, quoted: usize, mtus: Mtus) -> Option<Self> {
        let (kind, code, rest) = match (self.kind, self.code) {
            // Packet Too Big
            (3, 4) => {
                let mtu = match self.rest & 0xffff {
                    0 => plateau(quoted),
                    mtu => mtu,
                };
                (2, 0, mtus.told_to_v6(mtu))
            }
            // Protocol unreachable: a next header that is not known.
            (3, 2) => (4, 1, 6),
            (3, 3) => (1, 4, 0),
            (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, 0),
            (3, 9 | 10 | 13 | 15) => (1, 1, 0),
            (11, code) => (3, code, 0),
            (12, 0 | 2) => (4, 0, pointer_to_v6(self.rest >> 24)?),
            _ => return None,
        };
        Some(Self { kind, code, rest })
    }

    /// The ICMP error for an ICMPv6 error; `None` if there is none.
    // RFC 7915 §5.2
    fn to_v4(self, mtus: Mtus) -> Option<Self> {
        let (kind, code, rest) = match (self.kind, self.code) {
            (1, 0 | 2 | 3) => (3, 1, 0),
            (1, 1) => (3, 10, 0),
            (1, 4) => (3, 3, 0),
            (2, _) => (3, 4, mtus.told_to_v4(self.rest).min(0xffff)),
            (3, code) => (11, code, 0),
            (4, 0) => (12, 0, pointer_to_v4(self.rest)? << 24),
            (4, 1) => (3, 2, 0),
            _ => return None,
        };
        Some(Self { kind, code, rest })
    }
}

/// The MTU that a router probably has that did not forward a packet of `quoted` octets.
// RFC 7915 §4.2, RFC 1191 §5
fn plateau(quoted: usize) -> u32 {
    let found = PLATEAUS
        .into_iter()
        .find(|&plateau| usize::try_from(plateau).is_ok_and(|plateau| plateau < quoted));
    found.unwrap_or(MIN_IPV6_MTU).max(MIN_IPV6_MTU)
}

// RFC 7915 §4.2, figure 3
const fn pointer_to_v6(pointer: u32) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer,
        2 | 3 => 4,
        8 => 7,
        9 => 6,
        12..=15 => 8,
        16..=19 => 24,
        _ => return None,
    })
}

// RFC 7915 §5.2, figure 6
const fn pointer_to_v4(pointer: u32) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer,
        4 | 5 => 2,
        6 => 9,
        7 => 8,
        8..=23 => 12,
        24..=39 => 16,
        _ => return None,
    })
}

/// Translates an error: `octets` is a whole packet, and `to` the key of packets that go the same way
/// as the error, in the other family. The packet is appended to `into`.
pub(in crate::forwarder) fn error(
    octets: &[u8],
    to: &FlowKey,
    ident: Option<u32>,
    mtus: Mtus,
    into: &mut Vec<u8>,
) -> Result<(), DropReason> {
    let old = Header::read(octets)?;
    let from_v4 = old.is_v4();
    let is_icmp = old.protocol == if from_v4 { ICMP } else { ICMPV6 };
    // RFC 7915 §1.2
    if !is_icmp || old.is_part() {
        return Err(DropReason::IcmpUnsupported);
    }
    let icmp = octets
        .get(old.len..old.len + old.payload_len)
        .filter(|icmp| icmp.len() >= ICMP_LEN)
        .ok_or(DropReason::Malformed)?;
    let message = Message {
        kind: icmp[0],
        code: icmp[1],
        rest: u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]),
    };
    let (quote, extension) = split(icmp, from_v4);
    let quoted = Header::read(quote)?;
    let message = if from_v4 {
        message.to_v6(quoted.len + quoted.payload_len, mtus)
    } else {
        message.to_v4(mtus)
    };
    let Some(Message { kind, code, rest }) = message else {
        return Err(DropReason::IcmpUnsupported);
    };

    let header_len = if from_v4 { IPV6_LEN } else { IPV4_LEN };
    let room = if from_v4 { MAX_V6_ERROR } else { MAX_V4_ERROR } - header_len - ICMP_LEN;
    let start = into.len();
    into.resize(start + header_len, 0);
    into.extend_from_slice(&[kind, code, 0, 0]);
    into.extend_from_slice(&rest.to_be_bytes());
    let quote_at = into.len();
    self::quote(quote, &quoted, &to.mirror(), into)?;
    into.truncate(quote_at + room);
    if carries_extension(kind, from_v4) {
        extend(into, quote_at, room, extension, from_v4);
    }

    // The header comes last, when the length is known.
    let payload_len = into.len() - start - header_len;
    let old = Header {
        payload_len,
        fragment: None,
        ..old
    };
    let new = old.across(to.src, to.dst, ident, header_len + payload_len);
    let mut header = Vec::with_capacity(header_len);
    new.write(&mut header)?;
    into[start..start + header_len].copy_from_slice(&header);
    let icmp = &mut into[start + header_len..];
    let field = checksum::checksum(icmp);
    let field = if from_v4 {
        transport::pseudo_header(Delta::default(), &new).apply(field)
    } else {
        field
    };
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
    Ok(())
}

/// Translates the start of a quoted packet into one of `to`.
// RFC 7915 §4.3, §5.3: as any packet, but it has not come along here with this time to live.
fn quote(quote: &[u8], old: &Header, to: &FlowKey, into: &mut Vec<u8>) -> Result<(), DropReason> {
    let new = old.across(to.src, to.dst, None, old.len_across() + old.payload_len);
    let new = Header {
        hop_limit: old.hop_limit,
        ..new
    };
    let payload = quote.get(old.len..).unwrap_or_default();
    let payload = &payload[..payload.len().min(old.payload_len)];
    new.write(into)?;
    let at = into.len();
    into.extend_from_slice(payload);
    transport::rewrite_quoted(&mut into[at..], old, &new, to)
}

/// What is quoted, and the extension after it.
// RFC 4884 §4.1-§4.5: the length is in words of 32 bits in ICMP, of 64 in ICMPv6.
fn split(icmp: &[u8], from_v4: bool) -> (&[u8], &[u8]) {
    let length = match (from_v4, icmp[0]) {
        (true, 3 | 11 | 12) => usize::from(icmp[5]) * 4,
        (false, 1 | 3) => usize::from(icmp[4]) * 8,
        _ => 0,
    };
    let body = &icmp[ICMP_LEN..];
    match body.split_at_checked(length) {
        Some((quote, extension)) if length > 0 => (quote, extension),
        _ => (body, &[]),
    }
}

/// The translated error may have an extension.
const fn carries_extension(kind: u8, from_v4: bool) -> bool {
    matches!((from_v4, kind), (true, 1 | 3) | (false, 3 | 11))
}

/// Puts the extension behind what is quoted, if there is one and room for it.
// RFC 7915 §4.2, §5.2: extensions pass as they are, with the length attribute adjusted.
fn extend(into: &mut Vec<u8>, quote_at: usize, room: usize, extension: &[u8], from_v4: bool) {
    let unit = if from_v4 { 8 } else { 4 };
    let most = room.saturating_sub(extension.len()) / unit * unit;
    if extension.is_empty() || most < MIN_QUOTE_BEFORE_EXTENSION {
        return;
    }
    let quoted = (into.len() - quote_at)
        .next_multiple_of(unit)
        .clamp(MIN_QUOTE_BEFORE_EXTENSION, most);
    into.resize(quote_at + quoted, 0);
    into.extend_from_slice(extension);
    let length_at = quote_at - ICMP_LEN + if from_v4 { 4 } else { 5 };
    into[length_at] = u8::try_from(quoted / unit).unwrap_or(0);
}
