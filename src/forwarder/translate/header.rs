//! IP headers of both families as one value: read from a packet, changed into the other family,
//! written.
//!
//! Read RFC 791, RFC 8200 §4 and RFC 7915 §4.1, §5.1 first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::forwarder::DropReason;
use crate::forwarder::checksum;
pub(super) use crate::forwarder::packet::{
    FRAGMENT_HEADER_LEN as FRAGMENT_LEN, ICMP, ICMPV6, IPV4_HEADER_LEN as IPV4_LEN,
    IPV6_HEADER_LEN as IPV6_LEN,
};
use crate::forwarder::packet::{IPV6_FRAGMENT, place, walk, word};

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

/// An IPv4 packet of `length` octets that comes from a whole IPv6 packet may be fragmented. If it is
/// longer its sender can do something about Packet Too Big: down to 1280 octets, which are 1260 here.
// RFC 7915 §5.1 (Flags)
pub(in crate::forwarder) const fn is_without_df(length: usize) -> bool {
    length <= 1260
}

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// In units of eight octets.
    pub(super) offset: u16,
    pub(super) more: bool,
    pub(super) ident: u32,
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
    /// Protocol of the payload, numbered as in this family.
    pub(super) protocol: u8,
    /// Octets before the payload: options and extension headers are part of them.
    pub(super) len: usize,
    /// Octets of payload, as the header says.
    pub(super) payload_len: usize,
    /// An IPv6 fragment header is here even if it is the whole datagram's only one (RFC 6946).
    pub(super) fragment: Option<Fragment>,
    /// IPv4's flag; an IPv6 packet never may be fragmented on its way.
    pub(super) dont_fragment: bool,
    /// IPv4's identification of a whole packet.
    pub(super) ident: u16,
}

impl Header {
    /// Reads the header of a packet. The payload need not be all there.
    pub(super) fn read(octets: &[u8]) -> Result<Self, DropReason> {
        match octets.first().map(|first| first >> 4) {
            Some(4) => Self::read_v4(octets),
            Some(6) => Self::read_v6(octets),
            Some(_) => Err(DropReason::UnsupportedVersion),
            None => Err(DropReason::Malformed),
        }
    }

    fn read_v4(octets: &[u8]) -> Result<Self, DropReason> {
        let header = octets.get(..IPV4_LEN).ok_or(DropReason::Malformed)?;
        let len = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(word(header, 2));
        let options = octets.get(IPV4_LEN..len).ok_or(DropReason::Malformed)?;
        let payload_len = total.checked_sub(len).ok_or(DropReason::Malformed)?;
        check_options(options)?;
        let address = |at: usize| {
            IpAddr::V4(Ipv4Addr::new(
                header[at],
                header[at + 1],
                header[at + 2],
                header[at + 3],
            ))
        };
        let (ident, place) = (word(header, 4), word(header, 6));
        let (offset, more) = (place & 0x1fff, place & 0x2000 != 0);
        Ok(Self {
            src: address(12),
            dst: address(16),
            traffic_class: header[1],
            hop_limit: header[8],
            protocol: header[9],
            len,
            payload_len,
            fragment: (offset != 0 || more).then_some(Fragment {
                offset,
                more,
                ident: u32::from(ident),
            }),
            dont_fragment: place & 0x4000 != 0,
            ident,
        })
    }

    // RFC 7915 §5.1: hop-by-hop and destination options and spent routing headers are skipped.
    fn read_v6(octets: &[u8]) -> Result<Self, DropReason> {
        let header = octets.get(..IPV6_LEN).ok_or(DropReason::Malformed)?;
        let end = IPV6_LEN + usize::from(word(header, 4));
        let chain = walk(octets)?;
        let (len, protocol) = (chain.end, chain.protocol);
        let fragment = match chain.fragment {
            None => None,
            // RFC 7915 §5.1.1: nothing but the payload may follow a fragment header.
            Some(at) if len != at + FRAGMENT_LEN => return Err(DropReason::UnsupportedProtocol),
            Some(at) => {
                let (offset, more) = place(&octets[at..]);
                Some(Fragment {
                    offset: offset >> 3,
                    more,
                    ident: u32::from(word(octets, at + 4)) << 16 | u32::from(word(octets, at + 6)),
                })
            }
        };
        let payload_len = end.checked_sub(len).ok_or(DropReason::Malformed)?;
        let address = |at: usize| {
            let mut address = [0; 16];
            address.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(address))
        };
        Ok(Self {
            src: address(8),
            dst: address(24),
            traffic_class: header[0] << 4 | header[1] >> 4,
            hop_limit: header[7],
            protocol,
            len,
            payload_len,
            fragment,
            dont_fragment: true,
            ident: 0,
        })
    }

    pub(super) const fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// A part of a datagram, not all of it.
    pub(super) fn is_part(&self) -> bool {
        self.fragment
            .is_some_and(|fragment| fragment.offset != 0 || fragment.more)
    }

    /// A part that does not begin with the transport header.
    pub(super) fn is_later_part(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// Octets before the payload in the other family.
    pub(super) const fn len_across(&self) -> usize {
        match (self.is_v4(), self.fragment) {
            (false, _) => IPV4_LEN,
            (true, None) => IPV6_LEN,
            (true, Some(_)) => IPV6_LEN + FRAGMENT_LEN,
        }
    }

    /// The header in the other family, with a hop less. `ident` replaces the identification;
    /// `largest` is the length of the largest translated packet that goes on a wire.
    pub(super) fn across(
        &self,
        src: IpAddr,
        dst: IpAddr,
        ident: Option<u32>,
        largest: usize,
    ) -> Self {
        let fragment = self.fragment.map(|fragment| Fragment {
            ident: ident.unwrap_or(fragment.ident),
            ..fragment
        });
        let low = fragment
            .map(|fragment| fragment.ident)
            .or(ident)
            .unwrap_or(0)
            & 0xffff;
        let (protocol, dont_fragment) = if self.is_v4() {
            let protocol = if self.protocol == ICMP {
                ICMPV6
            } else {
                self.protocol
            };
            (protocol, true)
        } else {
            let protocol = if self.protocol == ICMPV6 {
                ICMP
            } else {
                self.protocol
            };
            // RFC 7915 §5.1.1: fragments may be cut further.
            (protocol, fragment.is_none() && !is_without_df(largest))
        };
        Self {
            src,
            dst,
            traffic_class: self.traffic_class,
            hop_limit: self.hop_limit.saturating_sub(1),
            protocol,
            len: self.len_across(),
            payload_len: self.payload_len,
            fragment,
            dont_fragment,
            ident: u16::try_from(low).unwrap_or(0),
        }
    }

    /// Appends the header, without options. The addresses are of one family.
    pub(super) fn write(&self, into: &mut Vec<u8>) -> Result<(), DropReason> {
        let octets = self.len + self.payload_len;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                // An IPv6 packet may be that much larger.
                let total = u16::try_from(octets).map_err(|_| DropReason::FragmentationNeeded)?;
                let place = self.fragment.map_or(0, |fragment| {
                    fragment.offset | if fragment.more { 0x2000 } else { 0 }
                });
                let place = place | if self.dont_fragment { 0x4000 } else { 0 };
                let mut header = [0; IPV4_LEN];
                header[0] = 0x45;
                header[1] = self.traffic_class;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&self.ident.to_be_bytes());
                header[6..8].copy_from_slice(&place.to_be_bytes());
                header[8] = self.hop_limit;
                header[9] = self.protocol;
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let field = checksum::checksum(&header);
                header[10..12].copy_from_slice(&field.to_be_bytes());
                into.extend_from_slice(&header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let length = u16::try_from(octets.saturating_sub(IPV6_LEN))
                    .map_err(|_| DropReason::FragmentationNeeded)?;
                let mut header = [0; IPV6_LEN];
                header[0] = 0x60 | self.traffic_class >> 4;
                header[1] = self.traffic_class << 4;
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header[6] = if self.fragment.is_some() {
                    IPV6_FRAGMENT
                } else {
                    self.protocol
                };
                header[7] = self.hop_limit;
                header[8..24].copy_from_slice(&src.octets());
                header[24..40].copy_from_slice(&dst.octets());
                into.extend_from_slice(&header);
                if let Some(fragment) = self.fragment {
                    let place = fragment.offset << 3 | u16::from(fragment.more);
                    into.extend_from_slice(&[self.protocol, 0]);
                    into.extend_from_slice(&place.to_be_bytes());
                    into.extend_from_slice(&fragment.ident.to_be_bytes());
                }
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(DropReason::Malformed);
            }
        }
        Ok(())
    }
}

// RFC 7915 §4.1: a source route that is not spent is not translated; other options are left out.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        let length = match *kind {
            OPTION_END => break,
            OPTION_NOP => 1,
            _ => rest.first().map_or(0, |&length| usize::from(length)),
        };
        let (option, rest) = options
            .split_at_checked(length)
            .filter(|(option, _)| !option.is_empty())
            .ok_or(DropReason::Malformed)?;
        if let [OPTION_LSRR | OPTION_SSRR, length, pointer, ..] = option
            && pointer <= length
        {
            return Err(DropReason::SourceRoute);
        }
        options = rest;
    }
    Ok(())
}
