//! ICMP errors that the forwarder sends.
//!
//! Read RFC 792, RFC 1122 §3.2.2, RFC 1812 §4.3.2, RFC 1191 and RFC 4443 first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use super::checksum;
use super::packet::{ICMP, ICMPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Packet, Transport, Version};
use super::{Outbox, VNET_HDR_LEN};

const ICMP_HEADER_LEN: usize = 8;

/// Largest error. RFC 1812 §4.3.2.3: as much of the packet as fits in 576 octets.
const MAX_ERROR_LEN: usize = 576;
/// RFC 4443 §2.4 (c): as much as fits in the smallest MTU of IPv6.
const MAX_ERROR_LEN_V6: usize = 1280;

/// Time to live of what we send.
const TTL: u8 = 64;
/// Precedence of ICMP errors: internetwork control (RFC 1812 §4.3.2.5).
const TOS_INTERNETWORK_CONTROL: u8 = 0xc0;

/// An ICMP error: type and code in IPv4 and in IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcmpError {
    /// 11/0; 3/0.
    TimeExceeded,
    /// 3/4; packet too big, 2/0. With the next hop's MTU.
    FragmentationNeeded { mtu: u32 },
    /// 3/0; no route to destination, 1/0.
    NetworkUnreachable,
    /// 3/3; 1/4.
    PortUnreachable,
    /// 3/13; 1/1. The packet was refused for want of resources or by policy.
    AdministrativelyProhibited,
}

impl IcmpError {
    const fn kind(self, version: Version) -> (u8, u8) {
        match (version, self) {
            (Version::V4, Self::TimeExceeded) => (11, 0),
            (Version::V4, Self::FragmentationNeeded { .. }) => (3, 4),
            (Version::V4, Self::NetworkUnreachable) => (3, 0),
            (Version::V4, Self::PortUnreachable) => (3, 3),
            (Version::V4, Self::AdministrativelyProhibited) => (3, 13),
            (Version::V6, Self::TimeExceeded) => (3, 0),
            (Version::V6, Self::FragmentationNeeded { .. }) => (2, 0),
            (Version::V6, Self::NetworkUnreachable) => (1, 0),
            (Version::V6, Self::PortUnreachable) => (1, 4),
            (Version::V6, Self::AdministrativelyProhibited) => (1, 1),
        }
    }

    /// The last four octets of the ICMP header.
    fn rest(self, version: Version) -> [u8; 4] {
        match (self, version) {
            (Self::FragmentationNeeded { mtu }, Version::V4) => {
                u32::from(u16::try_from(mtu).unwrap_or(u16::MAX)).to_be_bytes()
            }
            (Self::FragmentationNeeded { mtu }, Version::V6) => mtu.to_be_bytes(),
            _ => [0; 4],
        }
    }

    /// The error about the packet that starts with `quote`, from `src`, which is of its family, to
    /// the packet's sender.
    pub(super) fn emit(self, quote: &[u8], src: IpAddr, out: &mut Outbox) {
        let (version, header_len) = match src {
            IpAddr::V4(_) => (Version::V4, IPV4_HEADER_LEN),
            IpAddr::V6(_) => (Version::V6, IPV6_HEADER_LEN),
        };
        let quote = &quote[..quote.len().min(max_quote_len(version))];
        let (kind, code) = self.kind(version);
        let mut frame = out.buffer();
        frame.resize(VNET_HDR_LEN + header_len + ICMP_HEADER_LEN, 0);
        frame.extend_from_slice(quote);
        let packet = &mut frame[VNET_HDR_LEN..];
        let icmp = &mut packet[header_len..];
        icmp[0] = kind;
        icmp[1] = code;
        icmp[4..8].copy_from_slice(&self.rest(version));
        match src {
            IpAddr::V4(src) => finish_v4(packet, src),
            IpAddr::V6(src) => finish_v6(packet, src),
        }
        out.push(frame);
    }
}

/// How much of a packet an error about it quotes.
pub(super) const fn max_quote_len(version: Version) -> usize {
    match version {
        Version::V4 => MAX_ERROR_LEN - IPV4_HEADER_LEN - ICMP_HEADER_LEN,
        Version::V6 => MAX_ERROR_LEN_V6 - IPV6_HEADER_LEN - ICMP_HEADER_LEN,
    }
}

/// Addresses an ICMP message to the sender of the packet that it quotes.
fn finish_v4(packet: &mut [u8], src: Ipv4Addr) {
    let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let (header, icmp) = packet.split_at_mut(IPV4_HEADER_LEN);
    let field = checksum::checksum(icmp);
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
    let dst = Ipv4Packet::new_unchecked(&icmp[ICMP_HEADER_LEN..]).src_addr();

    let mut ip = Ipv4Packet::new_unchecked(header);
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
}

fn finish_v6(packet: &mut [u8], src: Ipv6Addr) {
    let (header, icmp) = packet.split_at_mut(IPV6_HEADER_LEN);
    let dst = Ipv6Packet::new_unchecked(&icmp[ICMP_HEADER_LEN..]).src_addr();
    let mut ip = Ipv6Packet::new_unchecked(&mut *header);
    ip.set_version(6);
    ip.set_payload_len(u16::try_from(icmp.len()).unwrap_or(u16::MAX));
    ip.set_hop_limit(TTL);
    ip.set_next_header(IpProtocol::from(ICMPV6));
    ip.set_src_addr(src);
    ip.set_dst_addr(dst);
    let field = checksum::icmpv6(header, icmp);
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
}

/// An ICMP error may be sent about this packet.
// RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e): never about an error, or anything that was
// not from one host to one host; in IPv4 neither about a later fragment.
pub(super) fn may_answer(packet: &Packet<'_>) -> bool {
    let unicast = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified()
        }
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    };
    let about = match packet.transport {
        Transport::Tcp | Transport::Udp | Transport::Other => true,
        Transport::IcmpQuery(_) | Transport::IcmpAnswer(_) => true,
        Transport::IcmpError | Transport::IcmpOther => false,
        // What kind of ICMP message it belongs to, nobody knows.
        Transport::LaterFragment => {
            packet.version() == Version::V6 && packet.protocol_number() != ICMPV6
        }
    };
    about && unicast(packet.src()) && unicast(packet.dst())
}
