//! Ports and checksums of TCP, UDP and ICMP queries for the other family's pseudo header.
//!
//! IPv4's pseudo header and IPv6's differ in the addresses only, as far as sums go; ICMP has none in
//! IPv4 and one in IPv6. Payload is summed in one case: an IPv4 datagram without checksum.

use crate::forwarder::DropReason;
use crate::forwarder::checksum::{self, Delta};
use crate::forwarder::key::FlowKey;
use crate::forwarder::packet::{TCP, UDP, word};

use super::header::{Header, ICMP, ICMPV6};

const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const ICMP_LEN: usize = 8;

/// What `payload` is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A packet that goes on.
    Packet {
        /// Its checksum field holds the sum of the pseudo header only.
        partial: bool,
    },
    /// A packet that an ICMP error quotes, perhaps not to the end.
    Quote,
}

/// Makes `payload`, which followed `old`, one that follows `new`: a packet of `to`. `partial`: its
/// checksum field holds the sum of the pseudo header only.
pub(super) fn rewrite(
    payload: &mut [u8],
    old: &Header,
    new: &Header,
    to: &FlowKey,
    partial: bool,
) -> Result<(), DropReason> {
    change(payload, old, new, to, Of::Packet { partial })
}

/// The same for the payload of a quoted packet, as far as it is there.
pub(super) fn rewrite_quoted(
    payload: &mut [u8],
    old: &Header,
    new: &Header,
    to: &FlowKey,
) -> Result<(), DropReason> {
    change(payload, old, new, to, Of::Quote)
}

fn change(
    payload: &mut [u8],
    old: &Header,
    new: &Header,
    to: &FlowKey,
    of: Of,
) -> Result<(), DropReason> {
    let addresses = Delta::default()
        .removed(old.src)
        .removed(old.dst)
        .added(new.src)
        .added(new.dst);
    let length = payload.len();
    let too_short = |whole: usize| match of {
        Of::Packet { .. } => length < whole,
        // RFC 792: eight octets are enough.
        Of::Quote => length < 8,
    };
    match (old.protocol, old.is_v4()) {
        (TCP | UDP, _) if old.is_later_part() => Ok(()),
        (TCP, _) if too_short(TCP_LEN) => Err(DropReason::Malformed),
        (UDP, _) if too_short(UDP_LEN) => Err(DropReason::Malformed),
        (TCP, _) => {
            let ports = set_ports(payload, to);
            if payload.len() >= 18 {
                let field = word(payload, 16);
                let field = match of {
                    Of::Packet { partial: true } => addresses.apply_partial(field),
                    Of::Packet { partial: false } | Of::Quote => addresses.and(ports).apply(field),
                };
                payload[16..18].copy_from_slice(&field.to_be_bytes());
            }
            Ok(())
        }
        (UDP, from_v4) => {
            let ports = set_ports(payload, to);
            let field = match (word(payload, 6), of) {
                (field, Of::Packet { partial: true }) => addresses.apply_partial(field),
                (0, Of::Packet { .. }) if from_v4 => udp_checksum(payload, new)?,
                // RFC 8200 §8.1: no IPv6 datagram is without.
                (0, Of::Packet { .. }) => return Err(DropReason::NoUdpChecksum),
                (field, _) => addresses.and(ports).apply_udp(field),
            };
            payload[6..8].copy_from_slice(&field.to_be_bytes());
            Ok(())
        }
        // RFC 7915 §1.2: fragmented ICMP is not translated, since its length is not known.
        (ICMP, true) | (ICMPV6, false) if old.is_part() => Err(DropReason::IcmpUnsupported),
        (ICMP, true) | (ICMPV6, false) if too_short(ICMP_LEN) => Err(DropReason::Malformed),
        (ICMP, true) | (ICMPV6, false) => query(payload, old, new, to),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

fn set_ports(payload: &mut [u8], to: &FlowKey) -> Delta {
    let delta = Delta::default()
        .word(word(payload, 0), to.src_port)
        .word(word(payload, 2), to.dst_port);
    payload[0..2].copy_from_slice(&to.src_port.to_be_bytes());
    payload[2..4].copy_from_slice(&to.dst_port.to_be_bytes());
    delta
}

/// The checksum of a datagram that has none, which IPv6 does not allow.
// RFC 7915 §4.5, nat.md §1.7: computed if the whole datagram is here, else dropped.
fn udp_checksum(datagram: &[u8], header: &Header) -> Result<u16, DropReason> {
    if header.is_part() || usize::from(word(datagram, 4)) != datagram.len() {
        return Err(DropReason::NoUdpChecksum);
    }
    let pseudo_header = pseudo_header(Delta::default(), header).apply_partial(0);
    match !checksum::sum(datagram, pseudo_header) {
        0 => Ok(0xffff),
        field => Ok(field),
    }
}

/// Adds the pseudo header.
pub(super) fn pseudo_header(to: Delta, header: &Header) -> Delta {
    to.added(header.src)
        .added(header.dst)
        .added_word(u16::try_from(header.payload_len).unwrap_or(u16::MAX))
        .added_word(u16::from(header.protocol))
}

/// An echo request or reply.
// RFC 7915 §4.2, §5.2: no other query has a counterpart. Neighbour discovery and multicast listener
// discovery end here, too.
fn query(payload: &mut [u8], old: &Header, new: &Header, to: &FlowKey) -> Result<(), DropReason> {
    let (kind, ident) = match (old.is_v4(), payload[0], payload[1]) {
        (true, 8, 0) => (128, to.src_port),
        (true, 0, 0) => (129, to.dst_port),
        (false, 128, 0) => (8, to.src_port),
        (false, 129, 0) => (0, to.dst_port),
        _ => return Err(DropReason::IcmpUnsupported),
    };
    let delta = Delta::default()
        .word(word(payload, 0), u16::from_be_bytes([kind, 0]))
        .word(word(payload, 4), ident);
    let delta = if old.is_v4() {
        pseudo_header(delta, new)
    } else {
        delta
            .removed(old.src)
            .removed(old.dst)
            .removed_word(u16::try_from(old.payload_len).unwrap_or(u16::MAX))
            .removed_word(u16::from(old.protocol))
    };
    let field = delta.apply_icmp(word(payload, 2));
    payload[0] = kind;
    payload[2..4].copy_from_slice(&field.to_be_bytes());
    payload[4..6].copy_from_slice(&ident.to_be_bytes());
    Ok(())
}
