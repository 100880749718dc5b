//! Frames of the tests: built, read, cut.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::*;
use crate::forwarder::packet::{Packet, Transport, Version};

/// A packet as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) src: String,
    pub(crate) dst: String,
    pub(crate) ttl: u8,
    /// Zero if there is none.
    pub(crate) ident: u32,
}

impl Seen {
    pub(crate) fn port(&self) -> u16 {
        self.src.parse::<SocketAddr>().unwrap().port()
    }

    #[track_caller]
    pub(crate) fn is(&self, src: &str, dst: &str) {
        assert_eq!((self.src.as_str(), self.dst.as_str()), (src, dst));
    }
}

/// Reads a frame and checks every checksum in it that is complete.
#[track_caller]
pub(crate) fn seen(frame: &[u8]) -> Seen {
    let mut copy = frame.to_vec();
    // Its own view says where things are; whether they are right is found out here.
    let packet = Packet::parse(&mut copy).unwrap();
    let (src, dst) = (packet.src(), packet.dst());
    let payload = packet.payload();
    let partial = frame[0] & 1 != 0;
    let whole = packet.fragment.is_none();
    let (mut sport, mut dport) = (0, 0);
    match packet.transport {
        Transport::Tcp => {
            let tcp = TcpPacket::new_checked(payload).unwrap();
            let right = partial || !whole || tcp.verify_checksum(&src.into(), &dst.into());
            assert!(right, "TCP checksum");
            (sport, dport) = (tcp.src_port(), tcp.dst_port());
        }
        Transport::Udp => {
            let udp = UdpPacket::new_unchecked(payload);
            let right = partial || !whole || udp.verify_checksum(&src.into(), &dst.into());
            assert!(right, "UDP checksum");
            (sport, dport) = (udp.src_port(), udp.dst_port());
        }
        Transport::IcmpQuery(_) => sport = u16::from_be_bytes([payload[4], payload[5]]),
        Transport::IcmpAnswer(_) => dport = u16::from_be_bytes([payload[4], payload[5]]),
        Transport::IcmpError
        | Transport::IcmpOther
        | Transport::LaterFragment
        | Transport::Other => {}
    }
    let icmp = matches!(
        packet.transport,
        Transport::IcmpQuery(_) | Transport::IcmpAnswer(_) | Transport::IcmpError
    );
    assert!(
        !icmp || !whole || packet.icmp_checksum() == 0,
        "ICMP checksum"
    );
    if partial {
        let (protocol, length) = (packet.protocol_number(), payload.len());
        let pseudo = match packet.version() {
            Version::V4 => checksum::pseudo_header(packet.octets(), length),
            Version::V6 => checksum::pseudo_header_v6(packet.octets(), protocol, length),
        };
        let at = if protocol == 6 { 16 } else { 6 };
        let field = u16::from_be_bytes([payload[at], payload[at + 1]]);
        assert_eq!(field % 0xffff, pseudo % 0xffff, "pseudo header sum");
    }
    let end = |address, port| match address {
        IpAddr::V4(_) => format!("{address}:{port}"),
        IpAddr::V6(_) => format!("[{address}]:{port}"),
    };
    Seen {
        src: end(src, sport),
        dst: end(dst, dport),
        ttl: packet.ttl(),
        ident: packet.ident(),
    }
}

fn packet(src: IpAddr, dst: IpAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut frame = vec![0; VNET_HDR_LEN + 40];
            frame.extend_from_slice(payload);
            let mut packet = Ipv6Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
            packet.set_version(6);
            packet.set_payload_len(u16::try_from(payload.len()).unwrap());
            packet.set_hop_limit(64);
            packet.set_next_header(protocol);
            packet.set_src_addr(src);
            packet.set_dst_addr(dst);
            frame
        }
        _ => panic!("{src} and {dst}"),
    }
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; VNET_HDR_LEN + 20];
    frame.extend_from_slice(payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(u16::try_from(20 + payload.len()).unwrap());
    packet.set_ident(0x1234);
    packet.set_dont_frag(true);
    packet.set_hop_limit(64);
    packet.set_next_header(protocol);
    packet.set_src_addr(src);
    packet.set_dst_addr(dst);
    packet.fill_checksum();
    frame
}

fn ends(from: &str, to: &str) -> (SocketAddr, SocketAddr) {
    (from.parse().unwrap(), to.parse().unwrap())
}

pub(crate) fn udp_bytes(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let mut payload = vec![0; 8];
    payload.extend_from_slice(data);
    let mut udp = UdpPacket::new_unchecked(&mut payload[..]);
    udp.set_src_port(from.port());
    udp.set_dst_port(to.port());
    udp.set_len(u16::try_from(8 + data.len()).unwrap());
    udp.fill_checksum(&from.ip().into(), &to.ip().into());
    packet(from.ip(), to.ip(), IpProtocol::Udp, &payload)
}

pub(crate) fn udp(from: &str, to: &str) -> Vec<u8> {
    udp_bytes(from, to, b"hello")
}

/// A TCP segment with an MSS option if it is a SYN.
pub(crate) fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let options: &[u8] = if flags & SYN != 0 {
        &[1, 2, 4, 0x05, 0xb4, 1, 1, 0]
    } else {
        &[]
    };
    let header_len = 20 + options.len();
    let mut payload = vec![0; header_len + len];
    payload[20..header_len].copy_from_slice(options);
    for (n, octet) in payload[header_len..].iter_mut().enumerate() {
        *octet = u8::try_from(n % 251).unwrap();
    }
    payload[4..8].copy_from_slice(&seq.to_be_bytes());
    payload[8..12].copy_from_slice(&ack.to_be_bytes());
    payload[12] = u8::try_from(header_len / 4).unwrap() << 4;
    payload[13] = flags;
    payload[14..16].copy_from_slice(&64_000u16.to_be_bytes());
    let mut segment = TcpPacket::new_unchecked(&mut payload[..]);
    segment.set_src_port(from.port());
    segment.set_dst_port(to.port());
    segment.fill_checksum(&from.ip().into(), &to.ip().into());
    packet(from.ip(), to.ip(), IpProtocol::Tcp, &payload)
}

/// An ICMP query or answer; identifier as the port of the asking side.
pub(crate) fn icmp_query(kind: u8, src: &str, dst: &str, ident: u16, len: usize) -> Vec<u8> {
    let mut payload = vec![0xab; 8 + len];
    payload[..4].copy_from_slice(&[kind, 0, 0, 0]);
    payload[4..6].copy_from_slice(&ident.to_be_bytes());
    icmp_message(src, dst, &mut payload)
}

pub(crate) fn icmp_message(src: &str, dst: &str, payload: &mut [u8]) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    payload[2..4].fill(0);
    let protocol = match src {
        IpAddr::V4(_) => IpProtocol::Icmp,
        IpAddr::V6(_) => IpProtocol::Icmpv6,
    };
    let mut frame = packet(src, dst, protocol, payload);
    Packet::parse(&mut frame).unwrap().fill_icmp_checksum();
    frame
}

/// An ICMP error that quotes `limit` octets of `frame`'s packet.
pub(crate) fn icmp_error(
    kind: u8,
    code: u8,
    src: &str,
    dst: &str,
    frame: &[u8],
    limit: usize,
) -> Vec<u8> {
    let packet = &frame[VNET_HDR_LEN..];
    let mut payload = vec![kind, code, 0, 0, 0, 0, 0, 0];
    payload.extend_from_slice(&packet[..packet.len().min(limit)]);
    icmp_message(src, dst, &mut payload)
}

/// Changes the IP header and repairs its checksum.
pub(crate) fn with_ip(
    mut frame: Vec<u8>,
    change: impl FnOnce(&mut Ipv4Packet<&mut [u8]>),
) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
    change(&mut packet);
    packet.fill_checksum();
    frame
}

pub(crate) fn with_ttl(frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    with_ip(frame, |packet| packet.set_hop_limit(ttl))
}

pub(crate) fn without_df(frame: Vec<u8>) -> Vec<u8> {
    with_ip(frame, |packet| packet.set_dont_frag(false))
}

/// The sender's kernel left the transport checksum to the device.
pub(crate) fn partial(mut frame: Vec<u8>, gso_type: u8, gso_size: u16) -> Vec<u8> {
    let mut packet = Packet::parse(&mut frame).unwrap();
    let (start, protocol) = (packet.header_len(), packet.protocol_number());
    let length = packet.payload().len();
    let sum = match packet.version() {
        Version::V4 => checksum::pseudo_header(packet.octets(), length),
        Version::V6 => checksum::pseudo_header_v6(packet.octets(), protocol, length),
    };
    let offset = if protocol == 6 { 16 } else { 6 };
    packet.payload_mut()[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    let (start, offset) = (
        u16::try_from(start).unwrap(),
        u16::try_from(offset).unwrap(),
    );
    frame[..VNET_HDR_LEN].copy_from_slice(&vnet::build(1, gso_type, gso_size, start, offset));
    frame
}

/// Cuts the packet into fragments with `size` octets of payload each.
pub(crate) fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let header = &frame[..VNET_HDR_LEN + 20];
    let payload = &frame[VNET_HDR_LEN + 20..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(n, piece)| {
            let mut fragment = header.to_vec();
            fragment.extend_from_slice(piece);
            with_ip(fragment, |packet| {
                packet.set_total_len(u16::try_from(20 + piece.len()).unwrap());
                packet.set_dont_frag(false);
                packet.set_more_frags(n + 1 < count);
                packet.set_frag_offset(u16::try_from(n * size).unwrap());
            })
        })
        .collect()
}

/// Puts fragments together again; panics if they do not fit.
pub(crate) fn reassembled(mut pieces: Vec<Vec<u8>>) -> Vec<u8> {
    pieces.sort_by_key(|frame| Ipv4Packet::new_unchecked(&frame[VNET_HDR_LEN..]).frag_offset());
    let mut whole = pieces[0][..VNET_HDR_LEN + 20].to_vec();
    let idents: BTreeSet<_> = pieces.iter().map(|frame| seen(frame).ident).collect();
    assert_eq!(idents.len(), 1, "one identification");
    for (n, piece) in pieces.iter().enumerate() {
        let packet = Ipv4Packet::new_checked(&piece[VNET_HDR_LEN..]).unwrap();
        assert_eq!(
            usize::from(packet.frag_offset()),
            whole.len() - VNET_HDR_LEN - 20
        );
        assert_eq!(packet.more_frags(), n + 1 < pieces.len());
        whole.extend_from_slice(packet.payload());
    }
    let length = u16::try_from(whole.len() - VNET_HDR_LEN).unwrap();
    with_ip(whole, |packet| {
        packet.set_total_len(length);
        packet.set_more_frags(false);
    })
}

pub(crate) const A6: &str = "fd00:17::2";
pub(crate) const B6: &str = "fd00:17::3";
pub(crate) const H6: &str = "2001:db8::10";
pub(crate) const OUT6: &str = "2001:db8:ff::7";

pub(crate) const PAD: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
/// Routing header whose two segments are used up.
pub(crate) const USED_UP: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0];

pub(crate) fn at(address: &str, port: u16) -> String {
    format!("[{address}]:{port}")
}

/// Kind and octets of an extension header.
pub(crate) type Extension<'a> = (u8, &'a [u8]);

/// Puts extension headers of the given kinds in front of the transport header.
pub(crate) fn behind(mut frame: Vec<u8>, extensions: &[Extension<'_>]) -> Vec<u8> {
    let mut at = VNET_HDR_LEN + 40;
    let mut named_at = VNET_HDR_LEN + 6;
    for (kind, header) in extensions {
        let next = std::mem::replace(&mut frame[named_at], *kind);
        frame.splice(at..at, header.iter().copied());
        frame[at] = next;
        named_at = at;
        at += header.len();
    }
    with_length(frame)
}

pub(crate) fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(frame.len() - VNET_HDR_LEN - 40).unwrap();
    frame[VNET_HDR_LEN + 4..VNET_HDR_LEN + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

pub(crate) fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[VNET_HDR_LEN + 7] = hops;
    frame
}

/// Fragments with `size` octets of payload each.
pub(crate) fn cut(frame: &[u8], size: usize, ident: u32) -> Vec<Vec<u8>> {
    let (header, payload) = frame.split_at(VNET_HDR_LEN + 40);
    let count = payload.len().div_ceil(size);
    let pieces = payload.chunks(size).enumerate();
    pieces
        .map(|(n, piece)| {
            let place = u16::try_from(n * size).unwrap() | u16::from(n + 1 < count);
            let mut extension = [0; 8];
            extension[2..4].copy_from_slice(&place.to_be_bytes());
            extension[4..].copy_from_slice(&ident.to_be_bytes());
            let whole = [header, piece].concat();
            behind(whole, &[(44, &extension)])
        })
        .collect()
}

/// The packet that fragments without other extension headers make, and their identification.
#[track_caller]
pub(crate) fn joined(mut pieces: Vec<Vec<u8>>) -> (Vec<u8>, u32) {
    let place = |frame: &[u8]| u16::from_be_bytes([frame[52], frame[53]]);
    pieces.sort_by_key(|frame| place(frame) & !7);
    let mut whole = pieces[0][..VNET_HDR_LEN + 40].to_vec();
    whole[VNET_HDR_LEN + 6] = pieces[0][50];
    let idents: BTreeSet<_> = pieces.iter().map(|frame| seen(frame).ident).collect();
    assert_eq!(idents.len(), 1, "one identification");
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!(piece[VNET_HDR_LEN + 6], 44);
        let offset = usize::from(place(piece) & !7);
        assert_eq!(offset, whole.len() - VNET_HDR_LEN - 40);
        assert_eq!(place(piece) & 1 == 1, n + 1 < pieces.len());
        whole.extend_from_slice(&piece[VNET_HDR_LEN + 48..]);
    }
    (with_length(whole), *idents.first().unwrap())
}
