//! Packets as the tests see them: built from nothing, read back, and checked with a checksum
//! implementation that shares no line with the forwarder's.

use std::net::{Ipv4Addr, SocketAddrV4};

use tunbridge::forwarder::VNET_HDR_LEN;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const SOURCE_QUENCH: u8 = 4;
pub(crate) const REDIRECT: u8 = 5;
pub(crate) const ECHO_REQUEST: u8 = 8;
pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const TIME_EXCEEDED: u8 = 11;
pub(crate) const PARAMETER_PROBLEM: u8 = 12;

/// `"172.17.0.2:80"` as a socket address.
#[track_caller]
pub(crate) fn at(text: &str) -> SocketAddrV4 {
    text.parse()
        .unwrap_or_else(|_| panic!("not ADDRESS:PORT: {text}"))
}

/// `"172.17.0.2"` as an address.
#[track_caller]
pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse()
        .unwrap_or_else(|_| panic!("not an address: {text}"))
}

/// One's complement sum of `data` on top of `start`, folded to 16 bits (RFC 1071), not complemented.
pub(crate) fn sum(start: u32, data: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for pair in data.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}

/// An IPv4 packet without its virtio header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Packet(pub(crate) Vec<u8>);

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.len() < 20 || self.0.len() < self.header_len() {
            return write!(f, "{:02x?}", self.0);
        }
        write!(
            f,
            "{} > {} proto {} ttl {} len {} id {:#x} frag {}{}{}",
            self.src(),
            self.dst(),
            self.protocol(),
            self.ttl(),
            self.0.len(),
            self.ident(),
            self.fragment_offset(),
            if self.more_fragments() { "+" } else { "" },
            if self.dont_fragment() { " DF" } else { "" },
        )?;
        let l4 = self.l4();
        match self.protocol() {
            _ if self.fragment_offset() > 0 => Ok(()),
            TCP if l4.len() >= 20 => write!(
                f,
                " TCP {}>{} seq {} ack {} flags {:#04x}",
                self.sport(),
                self.dport(),
                self.seq(),
                self.ack(),
                self.flags()
            ),
            UDP if l4.len() >= 8 => write!(f, " UDP {}>{}", self.sport(), self.dport()),
            ICMP if l4.len() >= 8 => write!(f, " ICMP {}/{} {:02x?}", l4[0], l4[1], &l4[4..8]),
            _ => Ok(()),
        }
    }
}

impl Packet {
    /// An IPv4 packet around `l4`, TTL 64, DF clear, identification 0x1234. Checksums of `l4` are not touched.
    pub(crate) fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4: &[u8]) -> Self {
        let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(l4);
        let mut packet = Self(bytes);
        let total = u16::try_from(packet.0.len()).unwrap_or(u16::MAX);
        packet.set16(2, total);
        packet.fix_ip();
        packet
    }

    pub(crate) fn udp(src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) -> Self {
        let mut l4 = Vec::with_capacity(8 + payload.len());
        l4.extend(src.port().to_be_bytes());
        l4.extend(dst.port().to_be_bytes());
        l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        Self::ip(*src.ip(), *dst.ip(), UDP, &l4).fixed()
    }

    pub(crate) fn tcp(
        src: SocketAddrV4,
        dst: SocketAddrV4,
        flags: u8,
        seq: u32,
        ack: u32,
        payload: &[u8],
    ) -> Self {
        let mut l4 = Vec::with_capacity(20 + payload.len());
        l4.extend(src.port().to_be_bytes());
        l4.extend(dst.port().to_be_bytes());
        l4.extend(seq.to_be_bytes());
        l4.extend(ack.to_be_bytes());
        l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        l4.extend(payload);
        Self::ip(*src.ip(), *dst.ip(), TCP, &l4).with_df().fixed()
    }

    /// A SYN with an MSS option of `mss` octets.
    pub(crate) fn syn_mss(src: SocketAddrV4, dst: SocketAddrV4, seq: u32, mss: u16) -> Self {
        let mut packet = Self::tcp(src, dst, SYN, seq, 0, &[2, 4, 0, 0]);
        packet.0[32] = 0x60;
        packet.set16(42, mss);
        packet.fixed()
    }

    pub(crate) fn echo_request(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        ident: u16,
        seq: u16,
        payload: &[u8],
    ) -> Self {
        Self::echo(ECHO_REQUEST, src, dst, ident, seq, payload)
    }

    pub(crate) fn echo_reply(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        ident: u16,
        seq: u16,
        payload: &[u8],
    ) -> Self {
        Self::echo(ECHO_REPLY, src, dst, ident, seq, payload)
    }

    fn echo(kind: u8, src: Ipv4Addr, dst: Ipv4Addr, ident: u16, seq: u16, payload: &[u8]) -> Self {
        let mut l4 = vec![kind, 0, 0, 0];
        l4.extend(ident.to_be_bytes());
        l4.extend(seq.to_be_bytes());
        l4.extend(payload);
        Self::ip(src, dst, ICMP, &l4).fixed()
    }

    /// An ICMP error quoting `quote`. `rest` is the second word (next-hop MTU, pointer, gateway).
    pub(crate) fn icmp_error(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        kind: u8,
        code: u8,
        rest: u32,
        quote: &[u8],
    ) -> Self {
        let mut l4 = vec![kind, code, 0, 0];
        l4.extend(rest.to_be_bytes());
        l4.extend(quote);
        Self::ip(src, dst, ICMP, &l4).fixed()
    }

    // Changes; each leaves every checksum right.

    pub(crate) fn with_ttl(mut self, ttl: u8) -> Self {
        self.0[8] = ttl;
        self.fix_ip();
        self
    }

    pub(crate) fn with_tos(mut self, tos: u8) -> Self {
        self.0[1] = tos;
        self.fix_ip();
        self
    }

    pub(crate) fn with_ident(mut self, ident: u16) -> Self {
        self.set16(4, ident);
        self.fix_ip();
        self
    }

    pub(crate) fn with_df(mut self) -> Self {
        self.0[6] |= 0x40;
        self.fix_ip();
        self
    }

    pub(crate) fn without_df(mut self) -> Self {
        self.0[6] &= !0x40;
        self.fix_ip();
        self
    }

    pub(crate) fn with_src(mut self, src: Ipv4Addr) -> Self {
        self.0[12..16].copy_from_slice(&src.octets());
        self.fixed()
    }

    pub(crate) fn with_dst(mut self, dst: Ipv4Addr) -> Self {
        self.0[16..20].copy_from_slice(&dst.octets());
        self.fixed()
    }

    pub(crate) fn with_window(mut self, window: u16) -> Self {
        let at = self.header_len() + 14;
        self.set16(at, window);
        self.fixed()
    }

    /// Inserts IP options; their length must be a multiple of four.
    pub(crate) fn with_ip_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && self.0[0] == 0x45);
        self.0.splice(20..20, options.iter().copied());
        self.0[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        let total = u16::try_from(self.0.len()).unwrap();
        self.set16(2, total);
        self.fixed()
    }

    /// UDP with the checksum field zero: "not computed" (RFC 768).
    pub(crate) fn without_udp_checksum(mut self) -> Self {
        let at = self.header_len() + 6;
        self.set16(at, 0);
        self
    }

    /// Every checksum computed from nothing, IP header and transport.
    pub(crate) fn fixed(mut self) -> Self {
        self.fix_ip();
        if let Some(at) = self.checksum_at()
            && !self.is_fragment()
        {
            self.set16(at, 0);
            let value = !self.l4_sum();
            let value = if self.protocol() == UDP && value == 0 {
                0xffff
            } else {
                value
            };
            self.set16(at, value);
        }
        self
    }

    pub(crate) fn fix_ip(&mut self) {
        self.set16(10, 0);
        let value = !sum(0, &self.0[..self.header_len()]);
        self.set16(10, value);
    }

    // Readers.

    pub(crate) fn get16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn get32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn set16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn header_len(&self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    pub(crate) fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.0[12..16]).unwrap())
    }

    pub(crate) fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.0[16..20]).unwrap())
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.0[9]
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.0[8]
    }

    pub(crate) fn ident(&self) -> u16 {
        self.get16(4)
    }

    pub(crate) fn dont_fragment(&self) -> bool {
        self.0[6] & 0x40 != 0
    }

    pub(crate) fn more_fragments(&self) -> bool {
        self.0[6] & 0x20 != 0
    }

    /// In octets.
    pub(crate) fn fragment_offset(&self) -> usize {
        usize::from(self.get16(6) & 0x1fff) * 8
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.more_fragments() || self.fragment_offset() > 0
    }

    /// What follows the IP header.
    pub(crate) fn l4(&self) -> &[u8] {
        &self.0[self.header_len()..]
    }

    pub(crate) fn sport(&self) -> u16 {
        self.get16(self.header_len())
    }

    pub(crate) fn dport(&self) -> u16 {
        self.get16(self.header_len() + 2)
    }

    pub(crate) fn source(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.src(), self.sport())
    }

    pub(crate) fn destination(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.dst(), self.dport())
    }

    pub(crate) fn seq(&self) -> u32 {
        self.get32(self.header_len() + 4)
    }

    pub(crate) fn ack(&self) -> u32 {
        self.get32(self.header_len() + 8)
    }

    pub(crate) fn flags(&self) -> u8 {
        self.l4()[13]
    }

    pub(crate) fn echo_ident(&self) -> u16 {
        self.get16(self.header_len() + 4)
    }

    pub(crate) fn icmp_type_code(&self) -> (u8, u8) {
        assert_eq!(self.protocol(), ICMP, "{self:?} is not ICMP");
        (self.l4()[0], self.l4()[1])
    }

    /// The second word of an ICMP error.
    pub(crate) fn icmp_rest(&self) -> u32 {
        self.get32(self.header_len() + 4)
    }

    /// The packet an ICMP error quotes.
    pub(crate) fn quote(&self) -> Self {
        Self(self.l4()[8..].to_vec())
    }

    pub(crate) fn payload(&self) -> &[u8] {
        let l4 = self.l4();
        match self.protocol() {
            TCP => &l4[usize::from(l4[12] >> 4) * 4..],
            UDP | ICMP => &l4[8..],
            _ => l4,
        }
    }

    /// Where the transport checksum is.
    pub(crate) fn checksum_at(&self) -> Option<usize> {
        let offset = match self.protocol() {
            TCP => 16,
            UDP => 6,
            ICMP => 2,
            _ => return None,
        };
        (self.l4().len() >= offset + 2).then(|| self.header_len() + offset)
    }

    /// Uncomplemented sum over pseudo header (not for ICMP) and transport data as they are.
    pub(crate) fn l4_sum(&self) -> u16 {
        sum(u32::from(self.pseudo_sum()), self.l4())
    }

    /// Uncomplemented sum of the pseudo header; zero for ICMP.
    pub(crate) fn pseudo_sum(&self) -> u16 {
        if self.protocol() == ICMP {
            return 0;
        }
        let length = u32::try_from(self.l4().len()).unwrap();
        let start = u32::from(self.protocol()) + (length & 0xffff) + (length >> 16);
        sum(start, &self.0[12..20])
    }

    /// Every checksum that a receiver would verify is right.
    #[track_caller]
    pub(crate) fn assert_valid(&self) {
        assert_eq!(
            usize::from(self.get16(2)),
            self.0.len(),
            "total length of {self:?}"
        );
        assert_eq!(
            sum(0, &self.0[..self.header_len()]),
            0xffff,
            "IP header checksum of {self:?}"
        );
        if self.is_fragment() {
            return;
        }
        let Some(at) = self.checksum_at() else { return };
        if self.protocol() == UDP && self.get16(at) == 0 {
            return;
        }
        assert_eq!(self.l4_sum(), 0xffff, "transport checksum of {self:?}");
    }

    /// Cuts into fragments that carry at most `max` octets of payload each (rounded down to eight).
    pub(crate) fn fragments(&self, max: usize) -> Vec<Self> {
        let max = max / 8 * 8;
        let header = &self.0[..self.header_len()];
        let base = self.fragment_offset();
        let chunks: Vec<&[u8]> = self.l4().chunks(max).collect();
        let last = chunks.len() - 1;
        chunks
            .iter()
            .enumerate()
            .map(|(i, chunk)| {
                let mut bytes = header.to_vec();
                bytes.extend(*chunk);
                let mut fragment = Self(bytes);
                let total = u16::try_from(fragment.0.len()).unwrap();
                fragment.set16(2, total);
                let more = i < last || self.more_fragments();
                let offset = u16::try_from((base + i * max) / 8).unwrap();
                fragment.set16(6, offset | if more { 0x2000 } else { 0 });
                fragment.fix_ip();
                fragment
            })
            .collect()
    }
}

/// Puts fragments together again; `None` while a piece is missing. All must be of one datagram.
pub(crate) fn reassemble(fragments: &[Packet]) -> Option<Packet> {
    let mut sorted: Vec<&Packet> = fragments.iter().collect();
    sorted.sort_by_key(|f| f.fragment_offset());
    let first = *sorted.first()?;
    let mut l4: Vec<u8> = Vec::new();
    for fragment in &sorted {
        assert_eq!(
            (
                fragment.src(),
                fragment.dst(),
                fragment.ident(),
                fragment.protocol()
            ),
            (first.src(), first.dst(), first.ident(), first.protocol()),
            "fragments of different datagrams"
        );
        if fragment.fragment_offset() != l4.len() {
            return None;
        }
        l4.extend(fragment.l4());
    }
    if sorted.last()?.more_fragments() {
        return None;
    }
    let mut bytes = first.0[..first.header_len()].to_vec();
    bytes.extend(l4);
    let mut whole = Packet(bytes);
    let total = u16::try_from(whole.0.len()).unwrap();
    whole.set16(2, total);
    whole.set16(6, 0);
    whole.fix_ip();
    Some(whole)
}

pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_UDP: u8 = 3;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;

/// `struct virtio_net_hdr` in the machine's byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) hdr_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl Vnet {
    pub(crate) fn bytes(self) -> [u8; VNET_HDR_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }
}

/// A frame as it crosses the TUN: virtio header and packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) vnet: Vnet,
    pub(crate) packet: Packet,
}

impl From<Packet> for Frame {
    fn from(packet: Packet) -> Self {
        Self {
            vnet: Vnet::default(),
            packet,
        }
    }
}

impl From<&Packet> for Frame {
    fn from(packet: &Packet) -> Self {
        packet.clone().into()
    }
}

impl From<&Self> for Frame {
    fn from(frame: &Self) -> Self {
        frame.clone()
    }
}

impl Frame {
    /// As a local sender's kernel leaves a packet whose checksum the device shall complete
    /// (`CHECKSUM_PARTIAL`): the field holds the uncomplemented pseudo header sum.
    pub(crate) fn partial(mut packet: Packet) -> Self {
        let at = packet.checksum_at().expect("a transport with a checksum");
        let pseudo = packet.pseudo_sum();
        packet.set16(at, pseudo);
        let start = packet.header_len();
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            csum_start: u16::try_from(start).unwrap(),
            csum_offset: u16::try_from(at - start).unwrap(),
            ..Vnet::default()
        };
        Self { vnet, packet }
    }

    /// A super-packet of segments with at most `gso_size` octets of payload.
    pub(crate) fn super_packet(packet: Packet, gso_size: u16) -> Self {
        let gso_type = if packet.protocol() == TCP {
            GSO_TCPV4
        } else {
            GSO_UDP_L4
        };
        let hdr_len = packet.0.len() - packet.payload().len();
        let mut frame = Self::partial(packet);
        frame.vnet.gso_type = gso_type;
        frame.vnet.gso_size = gso_size;
        frame.vnet.hdr_len = u16::try_from(hdr_len).unwrap();
        frame
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.vnet.bytes().to_vec();
        bytes.extend(&self.packet.0);
        bytes
    }

    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            vnet: Vnet::parse(&bytes[..VNET_HDR_LEN]),
            packet: Packet(bytes[VNET_HDR_LEN..].to_vec()),
        }
    }

    /// What a kernel does with the frame on its way to a wire: completes the checksum exactly as
    /// `skb_checksum_help` would and cuts a super-packet into segments. Panics unless every packet
    /// that results is right in every checksum.
    #[track_caller]
    pub(crate) fn segments(&self) -> Vec<Packet> {
        let packet = &self.packet;
        if self.vnet.flags & NEEDS_CSUM == 0 {
            assert_eq!(self.vnet.gso_type, GSO_NONE, "GSO without NEEDS_CSUM");
            packet.assert_valid();
            return vec![packet.clone()];
        }
        let start = usize::from(self.vnet.csum_start);
        let at = start + usize::from(self.vnet.csum_offset);
        assert_eq!(start, packet.header_len());
        assert_eq!(Some(at), packet.checksum_at());
        assert_eq!(
            packet.get16(at),
            packet.pseudo_sum(),
            "partial checksum of {packet:?}"
        );
        if self.vnet.gso_type == GSO_NONE {
            let mut whole = packet.clone();
            let value = !sum(0, &packet.0[start..]);
            whole.set16(at, if value == 0 { 0xffff } else { value });
            whole.assert_valid();
            return vec![whole];
        }
        assert_eq!(
            sum(0, &packet.0[..packet.header_len()]),
            0xffff,
            "IP header checksum of {packet:?}"
        );
        let headers = packet.0.len() - packet.payload().len();
        let chunks: Vec<&[u8]> = packet
            .payload()
            .chunks(usize::from(self.vnet.gso_size))
            .collect();
        let last = chunks.len() - 1;
        let mut sequence = if packet.protocol() == TCP {
            packet.seq()
        } else {
            0
        };
        let mut result = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut bytes = packet.0[..headers].to_vec();
            bytes.extend(*chunk);
            let mut segment = Packet(bytes);
            let total = u16::try_from(segment.0.len()).unwrap();
            segment.set16(2, total);
            segment.set16(4, packet.ident().wrapping_add(u16::try_from(i).unwrap()));
            if packet.protocol() == TCP {
                segment.0[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
                if i < last {
                    segment.0[start + 13] &= !(FIN | PSH);
                }
                sequence = sequence.wrapping_add(u32::try_from(chunk.len()).unwrap());
            } else {
                segment.set16(start + 4, u16::try_from(8 + chunk.len()).unwrap());
            }
            // Only the length changes in the pseudo header: start from the sum that came in.
            segment.fix_ip();
            let old = u32::try_from(packet.l4().len()).unwrap();
            let new = u32::try_from(segment.l4().len()).unwrap();
            let old16 = u16::try_from((old & 0xffff) + (old >> 16)).unwrap();
            let adjusted = sum(u32::from(packet.get16(at)) + u32::from(!old16) + new, &[]);
            segment.set16(at, adjusted);
            let value = !sum(0, &segment.0[start..]);
            segment.set16(at, if value == 0 { 0xffff } else { value });
            segment.assert_valid();
            result.push(segment);
        }
        result
    }
}
