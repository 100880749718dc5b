//! A checked view of one frame: virtio header ‖ IPv4 header ‖ transport header ‖ payload.
//!
//! [`Packet::parse`] is the only place that believes nothing; afterwards every accessor is in
//! bounds. Headers are changed in place through smoltcp's setters, so that options, identification,
//! DSCP and unknown bits stay what they were; checksums are updated incrementally. Read RFC 791,
//! RFC 1812 §5.2 and RFC 1624 first.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{Ipv4Packet, TcpPacket, UdpPacket};

use super::checksum::{self, Delta};
use super::key::FlowKey;
use super::tcp::Segment;
use super::vnet::{self, Gso, Shape, TransportHeader, VnetHeader};
use super::{DropReason, Protocol, VNET_HDR_LEN};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

const IPV4_HEADER_LEN: usize = 20;
const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
const ICMP_HEADER_LEN: usize = 8;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

const TCP_OPTION_MSS: u8 = 2;
const TCP_OPTION_WINDOW_SCALE: u8 = 3;

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

/// The view.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    frame: &'a mut [u8],
    header_len: usize,
    total_len: usize,
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
        let Some(first) = packet.first() else {
            return Err(DropReason::Malformed);
        };
        if first >> 4 != 4 {
            return Err(DropReason::UnsupportedVersion);
        }
        if packet.len() < IPV4_HEADER_LEN {
            return Err(DropReason::Malformed);
        }
        let frame_len = packet.len();
        let header_len = usize::from(first & 0xf) * 4;
        let total_len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        // More octets than the header says are link-layer padding; fewer are a lie.
        if header_len < IPV4_HEADER_LEN || total_len < header_len || frame_len < total_len {
            return Err(DropReason::Malformed);
        }
        let (header, payload) = packet[..total_len].split_at(header_len);
        // RFC 1812 §5.2.2: a router verifies the header checksum.
        if checksum::checksum(header) != 0 {
            return Err(DropReason::BadIpChecksum);
        }
        check_options(&header[IPV4_HEADER_LEN..])?;

        let ip = Ipv4Packet::new_unchecked(header);
        let (offset, more) = (u32::from(ip.frag_offset()), ip.more_frags());
        let protocol = u8::from(ip.next_header());
        let fragment = if offset != 0 || more {
            Some(fragment_range(offset, more, payload.len(), protocol)?)
        } else {
            None
        };
        let (transport, transport_header) = if offset == 0 {
            let parsed = parse_transport(protocol, payload, fragment.is_some());
            // RFC 1858: a first fragment without the whole transport header is an attack.
            parsed.map_err(|fault| {
                if more {
                    DropReason::FragmentTiny
                } else {
                    fault
                }
            })?
        } else {
            (Transport::LaterFragment, None)
        };
        let vnet = VnetHeader::check(
            vnet_header,
            Shape {
                frame_len,
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
            header_len,
            total_len,
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

    fn ip(&self) -> Ipv4Packet<&[u8]> {
        Ipv4Packet::new_unchecked(self.octets())
    }

    fn ip_mut(&mut self) -> Ipv4Packet<&mut [u8]> {
        Ipv4Packet::new_unchecked(self.octets_mut())
    }

    pub(super) fn src(&self) -> IpAddr {
        IpAddr::V4(self.ip().src_addr())
    }

    pub(super) fn dst(&self) -> IpAddr {
        IpAddr::V4(self.ip().dst_addr())
    }

    /// Length of the IP header.
    pub(super) const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of the IP packet.
    pub(super) const fn len(&self) -> usize {
        self.total_len
    }

    pub(super) fn ttl(&self) -> u8 {
        self.ip().hop_limit()
    }

    pub(super) fn ident(&self) -> u16 {
        self.ip().ident()
    }

    pub(super) fn protocol_number(&self) -> u8 {
        self.octets()[9]
    }

    pub(super) fn dont_fragment(&self) -> bool {
        self.ip().dont_frag()
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
    fn repeated_headers(&self) -> usize {
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
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (to.src, to.dst) else {
            debug_assert!(false, "a translation keeps the family");
            return;
        };
        let addresses = Delta::default()
            .address(self.src(), to.src)
            .address(self.dst(), to.dst);
        self.rewrite_header(src, dst, addresses);
        vnet::clear_data_valid(self.frame);
        let partial = self.vnet.needs_checksum;
        let transport = self.transport;
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
            Transport::IcmpQuery(_) => set_ident(payload, to.src_port),
            Transport::IcmpAnswer(_) => set_ident(payload, to.dst_port),
            Transport::IcmpError
            | Transport::IcmpOther
            | Transport::LaterFragment
            | Transport::Other => {}
        }
    }

    /// Changes the addresses of a packet whose transport checksum does not cover them (ICMP) or is
    /// not here (later fragments), with the time to live one less.
    pub(super) fn readdress(&mut self, src: IpAddr, dst: IpAddr) {
        let addresses = Delta::default()
            .address(self.src(), src)
            .address(self.dst(), dst);
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
            self.rewrite_header(src, dst, addresses);
        }
    }

    fn rewrite_header(&mut self, src: Ipv4Addr, dst: Ipv4Addr, addresses: Delta) {
        let protocol = self.protocol_number();
        let mut ip = self.ip_mut();
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
    }

    /// The packet passes with its addresses, the time to live one less.
    pub(super) fn decrement_ttl(&mut self) {
        self.readdress(self.src(), self.dst());
    }

    pub(super) fn set_ident(&mut self, ident: u16) {
        let mut ip = self.ip_mut();
        let field = Delta::default()
            .word(ip.ident(), ident)
            .apply(ip.checksum());
        ip.set_ident(ident);
        ip.set_checksum(field);
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

fn set_ident(payload: &mut [u8], ident: u16) {
    let field = Delta::default()
        .word(word(payload, 4), ident)
        .apply_icmp(word(payload, 2));
    payload[2..4].copy_from_slice(&field.to_be_bytes());
    payload[4..6].copy_from_slice(&ident.to_be_bytes());
}

/// Offset of the value of TCP option `kind` of `length` octets.
fn tcp_option(segment: &[u8], header_len: usize, kind: u8, length: usize) -> Option<usize> {
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

fn parse_transport(
    protocol: u8,
    payload: &[u8],
    first_fragment: bool,
) -> Result<(Transport, Option<TransportHeader>), DropReason> {
    match protocol {
        TCP => {
            if payload.len() < TCP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let header_len = usize::from(payload[12] >> 4) * 4;
            if header_len < TCP_HEADER_LEN || header_len > payload.len() {
                return Err(DropReason::Malformed);
            }
            Ok((Transport::Tcp, Some(TransportHeader::Tcp(header_len))))
        }
        UDP => {
            if payload.len() < UDP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let length = usize::from(word(payload, 4));
            if length < UDP_HEADER_LEN || (!first_fragment && length > payload.len()) {
                return Err(DropReason::Malformed);
            }
            Ok((Transport::Udp, Some(TransportHeader::Udp)))
        }
        ICMP => {
            if payload.len() < ICMP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            let transport = match payload[0] {
                kind @ (8 | 13) => Transport::IcmpQuery(kind),
                0 => Transport::IcmpAnswer(8),
                14 => Transport::IcmpAnswer(13),
                // RFC 6633 §1: source quench (4) is not passed on.
                3 | 11 | 12 => Transport::IcmpError,
                _ => Transport::IcmpOther,
            };
            Ok((transport, None))
        }
        _ => Ok((Transport::Other, None)),
    }
}
