//! A checked view of one frame: virtio header ‖ IP header ‖ transport header ‖ payload.
//!
//! [`Packet::parse`] is the only place that believes nothing; afterwards every accessor is in
//! bounds. Headers are changed in place through smoltcp's setters, so that options, extension
//! headers, identification, DSCP and unknown bits stay what they were; checksums are updated
//! incrementally (RFC 1624).
//!
//! The two families differ in what is before the transport header (`ipv4.rs`, `ipv6.rs`); where that
//! starts ([`Packet::header_len`]) is all that the rest needs to know of options and extensions.

mod ipv4;
mod ipv6;
mod transport;

use std::net::IpAddr;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::checksum::{self, Delta};
use super::key::FlowKey;
use super::tcp::Segment;
use super::vnet::{self, Gso, Shape, VnetHeader};
use super::{DropReason, Protocol, VNET_HDR_LEN};

pub(super) use ipv4::HEADER_LEN as IPV4_HEADER_LEN;
pub(super) use ipv6::{
    FRAGMENT as IPV6_FRAGMENT, FRAGMENT_HEADER_LEN, HEADER_LEN as IPV6_HEADER_LEN, place, walk,
};
pub(super) use transport::{ICMP, ICMPV6, TCP, UDP, icmp};
use transport::{TCP_OPTION_MSS, TCP_OPTION_WINDOW_SCALE, UDP_HEADER_LEN, tcp_option};

/// The version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    /// Echo or timestamp request with its type.
    IcmpQuery(u8),
    /// Answer to the request of that type.
    IcmpAnswer(u8),
    /// Destination unreachable, time exceeded, parameter problem, source quench.
    IcmpError,
    /// Any other ICMP.
    IcmpOther,
    /// A fragment that is not the first: addresses only.
    LaterFragment,
    /// Another protocol.
    Other,
}

/// Place of a fragment within its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FragmentRange {
    /// First octet.
    pub(super) start: u32,
    /// Octet after the last one.
    pub(super) end: u32,
    /// No fragment follows.
    pub(super) last: bool,
}

/// What the IP header and its extensions say.
#[derive(Clone, Copy, Debug)]
struct Layout {
    version: Version,
    /// Where the transport header starts.
    header_len: usize,
    total_len: usize,
    /// Of the transport header.
    protocol: u8,
    fragment: Option<FragmentRange>,
    /// Where the fragment header of IPv6 starts; atomic fragments have one, too.
    fragment_header: Option<usize>,
}

/// The view.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    frame: &'a mut [u8],
    version: Version,
    header_len: usize,
    total_len: usize,
    protocol: u8,
    fragment_header: Option<usize>,
    pub(super) vnet: VnetHeader,
    pub(super) transport: Transport,
    pub(super) fragment: Option<FragmentRange>,
}

impl<'a> Packet<'a> {
    /// Checks `frame`.
    pub(super) fn parse(frame: &'a mut [u8]) -> Result<Self, DropReason> {
        let Some((vnet_header, packet)) = frame.split_at_checked(VNET_HDR_LEN) else {
            return Err(DropReason::Malformed);
        };
        let layout = match packet.first().map(|first| first >> 4) {
            Some(4) => ipv4::parse(packet)?,
            Some(6) => ipv6::parse(packet)?,
            Some(_) => return Err(DropReason::UnsupportedVersion),
            None => return Err(DropReason::Malformed),
        };
        let Layout {
            version,
            header_len,
            total_len,
            protocol,
            fragment,
            fragment_header,
        } = layout;
        let (transport, transport_header) = if fragment.is_some_and(|range| range.start > 0) {
            (Transport::LaterFragment, None)
        } else {
            let payload = &packet[header_len..total_len];
            let parsed = transport::parse(version, protocol, payload, fragment.is_some());
            // RFC 1858, RFC 7112: a first fragment without the whole transport header is an attack.
            parsed.map_err(|fault| match fragment {
                Some(FragmentRange { last: false, .. }) => DropReason::FragmentTiny,
                _ => fault,
            })?
        };
        let vnet = VnetHeader::check(
            vnet_header,
            Shape {
                version,
                frame_len: packet.len(),
                packet_len: total_len,
                transport: header_len,
                transport_header: if fragment.is_some() {
                    None
                } else {
                    transport_header
                },
            },
        )?;
        Ok(Self {
            frame,
            version,
            header_len,
            total_len,
            protocol,
            fragment_header,
            vnet,
            transport,
            fragment,
        })
    }

    /// The IP packet without padding.
    pub(super) fn octets(&self) -> &[u8] {
        &self.frame[VNET_HDR_LEN..VNET_HDR_LEN + self.total_len]
    }

    /// Virtio header ‖ IP packet ‖ padding.
    pub(super) fn frame(&self) -> &[u8] {
        self.frame
    }

    pub(super) fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.frame[VNET_HDR_LEN..VNET_HDR_LEN + self.total_len]
    }

    /// What follows the IP header.
    pub(super) fn payload(&self) -> &[u8] {
        &self.octets()[self.header_len..]
    }

    pub(super) fn payload_mut(&mut self) -> &mut [u8] {
        let header_len = self.header_len;
        &mut self.octets_mut()[header_len..]
    }

    pub(super) const fn version(&self) -> Version {
        self.version
    }

    pub(super) fn src(&self) -> IpAddr {
        let octets = self.octets();
        match self.version {
            Version::V4 => Ipv4Packet::new_unchecked(octets).src_addr().into(),
            Version::V6 => Ipv6Packet::new_unchecked(octets).src_addr().into(),
        }
    }

    pub(super) fn dst(&self) -> IpAddr {
        let octets = self.octets();
        match self.version {
            Version::V4 => Ipv4Packet::new_unchecked(octets).dst_addr().into(),
            Version::V6 => Ipv6Packet::new_unchecked(octets).dst_addr().into(),
        }
    }

    /// Where the transport header starts: length of the IP header and its extensions.
    pub(super) const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of the IP packet.
    pub(super) const fn len(&self) -> usize {
        self.total_len
    }

    /// Time to live, or hop limit.
    pub(super) fn ttl(&self) -> u8 {
        match self.version {
            Version::V4 => self.octets()[8],
            Version::V6 => self.octets()[7],
        }
    }

    /// Where the fragment header of IPv6 starts, if there is one.
    pub(super) const fn fragment_header(&self) -> Option<usize> {
        self.fragment_header
    }

    /// The identification, 16 bits of IPv4 or 32 of IPv6; zero if it has none.
    pub(super) fn ident(&self) -> u32 {
        let octets = self.octets();
        match (self.version, self.fragment_header) {
            (Version::V4, _) => u32::from(word(octets, 4)),
            (Version::V6, Some(at)) => {
                u32::from(word(octets, at + 4)) << 16 | u32::from(word(octets, at + 6))
            }
            (Version::V6, None) => 0,
        }
    }

    /// The protocol behind the IP header and its extensions; of a later fragment what its own header
    /// says.
    pub(super) const fn protocol_number(&self) -> u8 {
        self.protocol
    }

    /// Only its sender may fragment it: always true of IPv6.
    pub(super) fn dont_fragment(&self) -> bool {
        match self.version {
            Version::V4 => Ipv4Packet::new_unchecked(self.octets()).dont_frag(),
            Version::V6 => true,
        }
    }

    /// The packet's flow key, if it is of a kind that has flows.
    pub(super) fn key(&self) -> Option<FlowKey> {
        let payload = self.payload();
        let (protocol, src_port, dst_port) = match self.transport {
            Transport::Tcp => {
                let tcp = TcpPacket::new_unchecked(payload);
                (Protocol::Tcp, tcp.src_port(), tcp.dst_port())
            }
            Transport::Udp => {
                let udp = UdpPacket::new_unchecked(payload);
                (Protocol::Udp, udp.src_port(), udp.dst_port())
            }
            Transport::IcmpQuery(request) => (Protocol::Icmp, word(payload, 4), u16::from(request)),
            Transport::IcmpAnswer(request) => {
                (Protocol::Icmp, u16::from(request), word(payload, 4))
            }
            Transport::IcmpError
            | Transport::IcmpOther
            | Transport::LaterFragment
            | Transport::Other => return None,
        };
        Some(FlowKey {
            protocol,
            src: self.src(),
            dst: self.dst(),
            src_port,
            dst_port,
        })
    }

    /// What TCP's state machine needs to know; `None` if the packet is not TCP.
    pub(super) fn segment(&self) -> Option<Segment> {
        if self.transport != Transport::Tcp {
            return None;
        }
        let payload = self.payload();
        let header_len = usize::from(payload[12] >> 4) * 4;
        Some(Segment {
            flags: payload[13],
            seq: u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]),
            ack: u32::from_be_bytes([payload[8], payload[9], payload[10], payload[11]]),
            window: word(payload, 14),
            len: u32::try_from(payload.len() - header_len).unwrap_or(0),
            window_scale: if payload[13] & Segment::SYN != 0 {
                tcp_option(payload, header_len, TCP_OPTION_WINDOW_SCALE, 3).map(|at| payload[at])
            } else {
                None
            },
        })
    }

    /// Length of the headers that each segment of a super-packet repeats.
    pub(super) fn repeated_headers(&self) -> usize {
        let transport = if self.transport == Transport::Tcp {
            usize::from(self.payload()[12] >> 4) * 4
        } else {
            UDP_HEADER_LEN
        };
        self.header_len + transport
    }

    /// Length of the largest IP packet that this frame becomes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        match self.vnet.gso {
            Gso::None => self.total_len,
            Gso::Tcp(size) | Gso::Udp(size) => self
                .total_len
                .min(self.repeated_headers() + usize::from(size)),
        }
    }

    /// Number of packets that this frame becomes on the wire.
    pub(super) fn segments(&self) -> u16 {
        match self.vnet.gso {
            Gso::None => 1,
            Gso::Tcp(size) | Gso::Udp(size) => {
                let payload = self.total_len.saturating_sub(self.repeated_headers());
                u16::try_from(payload.div_ceil(usize::from(size)).max(1)).unwrap_or(u16::MAX)
            }
        }
    }

    /// Cuts a TCP super-packet into segments of at most `mtu` octets. False if that is impossible.
    pub(super) fn lower_gso_size(&mut self, mtu: usize) -> bool {
        let Some(size) = mtu
            .checked_sub(self.repeated_headers())
            .filter(|&size| size >= 8)
        else {
            return false;
        };
        let size = u16::try_from(size).unwrap_or(u16::MAX);
        self.vnet.gso = Gso::Tcp(size);
        vnet::set_gso_size(self.frame, size);
        true
    }

    /// Makes the packet that of `to`: addresses, ports and checksums, with the time to live one
    /// less. On a later fragment only the addresses change.
    pub(super) fn rewrite(&mut self, to: &FlowKey) {
        let addresses = self.replace_addresses(to.src, to.dst);
        vnet::clear_data_valid(self.frame);
        let partial = self.vnet.needs_checksum;
        let (transport, version) = (self.transport, self.version);
        let payload = self.payload_mut();
        match transport {
            Transport::Tcp => {
                let mut tcp = TcpPacket::new_unchecked(payload);
                let ports = Delta::default()
                    .word(tcp.src_port(), to.src_port)
                    .word(tcp.dst_port(), to.dst_port);
                tcp.set_src_port(to.src_port);
                tcp.set_dst_port(to.dst_port);
                let field = tcp.checksum();
                tcp.set_checksum(if partial {
                    addresses.apply_partial(field)
                } else {
                    addresses.and(ports).apply(field)
                });
            }
            Transport::Udp => {
                let mut udp = UdpPacket::new_unchecked(payload);
                let ports = Delta::default()
                    .word(udp.src_port(), to.src_port)
                    .word(udp.dst_port(), to.dst_port);
                let field = udp.checksum();
                udp.set_checksum(if partial {
                    addresses.apply_partial(field)
                } else {
                    addresses.and(ports).apply_udp(field)
                });
                udp.set_src_port(to.src_port);
                udp.set_dst_port(to.dst_port);
            }
            Transport::IcmpQuery(_) => set_query_ident(version, payload, to.src_port, addresses),
            Transport::IcmpAnswer(_) => set_query_ident(version, payload, to.dst_port, addresses),
            Transport::IcmpError
            | Transport::IcmpOther
            | Transport::LaterFragment
            | Transport::Other => {}
        }
    }

    /// Changes the addresses of a packet without its transport checksum, which is not here (later
    /// fragments) or is computed anew (ICMP errors), with the time to live one less.
    pub(super) fn readdress(&mut self, src: IpAddr, dst: IpAddr) {
        self.replace_addresses(src, dst);
    }

    /// Changes the addresses, with the time to live one less; returns the difference they make to
    /// sums over them.
    #[inline]
    fn replace_addresses(&mut self, src: IpAddr, dst: IpAddr) -> Delta {
        match (self.version, src, dst) {
            (Version::V4, IpAddr::V4(src), IpAddr::V4(dst)) => {
                ipv4::readdress(self.octets_mut(), src, dst)
            }
            (Version::V6, IpAddr::V6(src), IpAddr::V6(dst)) => {
                ipv6::readdress(self.octets_mut(), src, dst)
            }
            _ => {
                debug_assert!(false, "a rewritten packet keeps its family");
                Delta::default()
            }
        }
    }

    /// The packet passes with its addresses, the time to live one less.
    pub(super) fn decrement_ttl(&mut self) {
        self.readdress(self.src(), self.dst());
    }

    /// Changes the identification, of which IPv4 has the lower half and an IPv6 packet none unless it
    /// is a fragment.
    pub(super) fn set_ident(&mut self, ident: u32) {
        match (self.version, self.fragment_header) {
            (Version::V4, _) => {
                let ident = u16::try_from(ident & 0xffff).unwrap_or(0);
                ipv4::set_ident(self.octets_mut(), ident);
            }
            (Version::V6, Some(at)) => {
                self.octets_mut()[at + 4..at + 8].copy_from_slice(&ident.to_be_bytes());
            }
            (Version::V6, None) => {}
        }
    }

    /// The sum over the whole ICMP message, which is zero if its checksum is right.
    pub(super) fn icmp_checksum(&self) -> u16 {
        let payload = self.payload();
        match self.version {
            Version::V4 => checksum::checksum(payload),
            Version::V6 => checksum::icmpv6(self.octets(), payload),
        }
    }

    /// Computes the checksum of an ICMP message anew.
    pub(super) fn fill_icmp_checksum(&mut self) {
        self.payload_mut()[2..4].fill(0);
        let field = self.icmp_checksum();
        self.payload_mut()[2..4].copy_from_slice(&field.to_be_bytes());
    }

    /// Lowers the MSS option of a SYN to `limit`.
    pub(super) fn clamp_mss(&mut self, limit: u16) {
        let partial = self.vnet.needs_checksum;
        let payload = self.payload_mut();
        let header_len = usize::from(payload[12] >> 4) * 4;
        let Some(at) = tcp_option(payload, header_len, TCP_OPTION_MSS, 4) else {
            return;
        };
        let mss = word(payload, at);
        if mss <= limit {
            return;
        }
        payload[at..at + 2].copy_from_slice(&limit.to_be_bytes());
        if !partial {
            let delta = Delta::default();
            let delta = if at % 2 == 0 {
                delta.word(mss, limit)
            } else {
                delta.odd_word(mss, limit)
            };
            let mut tcp = TcpPacket::new_unchecked(payload);
            let field = delta.apply(tcp.checksum());
            tcp.set_checksum(field);
        }
    }

    /// Completes a partial transport checksum, so that the packet can be fragmented.
    pub(super) fn complete_checksum(&mut self) {
        if !self.vnet.needs_checksum || self.vnet.gso != Gso::None {
            return;
        }
        let udp = self.transport == Transport::Udp;
        // The field itself holds the pseudo header's part of the sum.
        let payload = self.payload_mut();
        let field = match checksum::checksum(payload) {
            0 if udp => 0xffff,
            field => field,
        };
        let at = if udp { 6 } else { 16 };
        payload[at..at + 2].copy_from_slice(&field.to_be_bytes());
        self.vnet.needs_checksum = false;
        vnet::clear_needs_checksum(self.frame);
    }
}

/// Big-endian 16-bit word at `at`.
pub(super) fn word(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

/// Changes the identifier of an ICMP query or its answer. ICMPv6 sums up the addresses as well.
pub(super) fn set_query_ident(version: Version, payload: &mut [u8], ident: u16, addresses: Delta) {
    let field = word(payload, 2);
    let idents = Delta::default().word(word(payload, 4), ident);
    let field = match version {
        Version::V4 => idents.apply_icmp(field),
        Version::V6 => addresses.and(idents).apply(field),
    };
    payload[2..4].copy_from_slice(&field.to_be_bytes());
    payload[4..6].copy_from_slice(&ident.to_be_bytes());
}
