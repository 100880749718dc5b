//! IPv6 callers of a container that is reached over IPv4: one forwarder, packets of both families as
//! octets, and smoltcp hosts.
//!
//! ```text
//!   c1 172.17.0.2 ── gateway 172.17.0.1 ─┐                        ┌ client 2001:db8:c::50 (MTU 1500)
//!                                        host 2001:db8:9::10, ::1 ┤
//!   c6 fd00:18::2 ── gateway fd00:18::1 ─┘                        └ narrow 2001:db8:80::1 (MTU 1400)
//!
//!   published: [::]:8080 → 172.17.0.2:80, TCP and UDP
//! ```
//!
//! Packets are built and verified with the checksums of `packet.rs`, which shares no line with the forwarder's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketSet};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tunbridge::forwarder::{
    Access, Config, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host, Instant,
    NetworkId, NetworkPolicy, Outbox, Policy, Protocol, Published, VNET_HDR_LEN, Verdict,
};

use super::frame::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};
use super::net::Wire;
use super::packet::{ACK, FIN, ICMP, PSH, TCP, UDP, sum};

pub(crate) const ICMPV6: u8 = 58;
pub(crate) const FRAGMENT: u8 = 44;

/// An address with a port: `"[2001:db8::1]:80"`.
#[track_caller]
pub(crate) fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[track_caller]
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An IP packet of either family.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ip(pub(crate) Vec<u8>);

impl std::fmt::Debug for Ip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.0[..self.0.len().min(80)];
        write!(f, "{} octets {start:02x?}", self.0.len())
    }
}

impl Ip {
    /// A packet around `l4`, whose checksum is computed; IPv4 has DF.
    pub(crate) fn new(src: IpAddr, dst: IpAddr, protocol: u8, l4: &[u8]) -> Self {
        let mut octets = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            }
            _ => panic!("{src} and {dst}"),
        };
        octets.extend(l4);
        Self(octets).fixed()
    }

    pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Self {
        let mut l4 = Vec::new();
        l4.extend(from.port().to_be_bytes());
        l4.extend(to.port().to_be_bytes());
        l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        Self::new(from.ip(), to.ip(), UDP, &l4)
    }

    /// A segment; `options` are TCP's, a multiple of four octets.
    pub(crate) fn tcp(
        from: SocketAddr,
        to: SocketAddr,
        (flags, seq, ack): (u8, u32, u32),
        options: &[u8],
        payload: &[u8],
    ) -> Self {
        let mut l4 = Vec::new();
        l4.extend(from.port().to_be_bytes());
        l4.extend(to.port().to_be_bytes());
        l4.extend(seq.to_be_bytes());
        l4.extend(ack.to_be_bytes());
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        l4.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        l4.extend(options);
        l4.extend(payload);
        Self::new(from.ip(), to.ip(), TCP, &l4)
    }

    pub(crate) fn icmp_error(
        src: IpAddr,
        dst: IpAddr,
        (kind, code): (u8, u8),
        rest: u32,
        quote: &[u8],
    ) -> Self {
        let mut l4 = vec![kind, code, 0, 0];
        l4.extend(rest.to_be_bytes());
        l4.extend(quote);
        let protocol = if src.is_ipv4() { ICMP } else { ICMPV6 };
        Self::new(src, dst, protocol, &l4)
    }

    pub(crate) fn without_df(mut self) -> Self {
        self.0[6] &= !0x40;
        self.fixed()
    }

    pub(crate) fn with_hops(mut self, hops: u8) -> Self {
        let at = if self.is_v4() { 8 } else { 7 };
        self.0[at] = hops;
        self.fixed()
    }

    pub(crate) fn without_checksum(mut self) -> Self {
        let at = self.checksum_at().unwrap();
        self.set16(at, 0);
        self
    }

    /// Lengths and checksums computed anew.
    pub(crate) fn fixed(mut self) -> Self {
        let length = self.0.len();
        if self.is_v4() {
            self.set16(2, u16::try_from(length).unwrap());
            self.set16(10, 0);
            let value = !sum(0, &self.0[..self.header_len()]);
            self.set16(10, value);
        } else {
            self.set16(4, u16::try_from(length - 40).unwrap());
        }
        if !self.is_fragment()
            && let Some(at) = self.checksum_at()
        {
            self.set16(at, 0);
            let value = match !sum(u32::from(self.pseudo_sum()), self.l4()) {
                0 if self.protocol() == UDP => 0xffff,
                value => value,
            };
            self.set16(at, value);
        }
        self
    }

    pub(crate) fn get16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) << 16 | u32::from(self.get16(at + 2))
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.0[0] >> 4 == 4
    }

    fn has_fragment_header(&self) -> bool {
        !self.is_v4() && self.0[6] == FRAGMENT
    }

    pub(crate) fn header_len(&self) -> usize {
        match (self.is_v4(), self.has_fragment_header()) {
            (true, _) => usize::from(self.0[0] & 0xf) * 4,
            (false, false) => 40,
            (false, true) => 48,
        }
    }

    pub(crate) fn protocol(&self) -> u8 {
        match (self.is_v4(), self.has_fragment_header()) {
            (true, _) => self.0[9],
            (false, false) => self.0[6],
            (false, true) => self.0[40],
        }
    }

    pub(crate) fn hops(&self) -> u8 {
        self.0[if self.is_v4() { 8 } else { 7 }]
    }

    pub(crate) fn dont_fragment(&self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// Offset in octets, whether more follow, and the identification.
    pub(crate) fn place(&self) -> Option<(usize, bool, u32)> {
        if self.is_v4() {
            let word = self.get16(6);
            let (offset, more) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
            (offset > 0 || more).then(|| (offset, more, u32::from(self.get16(4))))
        } else {
            self.has_fragment_header().then(|| {
                let word = self.get16(42);
                (usize::from(word & !7), word & 1 != 0, self.get32(44))
            })
        }
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.place().is_some()
    }

    fn addresses(&self) -> (&[u8], &[u8]) {
        if self.is_v4() {
            (&self.0[12..16], &self.0[16..20])
        } else {
            (&self.0[8..24], &self.0[24..40])
        }
    }

    pub(crate) fn src(&self) -> IpAddr {
        to_address(self.addresses().0)
    }

    pub(crate) fn dst(&self) -> IpAddr {
        to_address(self.addresses().1)
    }

    pub(crate) fn l4(&self) -> &[u8] {
        &self.0[self.header_len()..]
    }

    pub(crate) fn from(&self) -> SocketAddr {
        SocketAddr::new(self.src(), self.get16(self.header_len()))
    }

    pub(crate) fn to(&self) -> SocketAddr {
        SocketAddr::new(self.dst(), self.get16(self.header_len() + 2))
    }

    pub(crate) fn payload(&self) -> &[u8] {
        let l4 = self.l4();
        match self.protocol() {
            TCP => &l4[usize::from(l4[12] >> 4) * 4..],
            _ => &l4[8..],
        }
    }

    pub(crate) fn checksum_at(&self) -> Option<usize> {
        let offset = match self.protocol() {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return None,
        };
        Some(self.header_len() + offset)
    }

    /// Sum of the pseudo header, which ICMP has in IPv6 only.
    fn pseudo_sum(&self) -> u16 {
        if self.protocol() == ICMP {
            return 0;
        }
        let (src, dst) = self.addresses();
        let length = u32::try_from(self.l4().len()).unwrap();
        let start = u32::from(self.protocol()) + (length & 0xffff) + (length >> 16);
        sum(u32::from(sum(start, src)), dst)
    }

    /// Lengths and checksums are right, as far as one packet shows them.
    #[track_caller]
    pub(crate) fn assert_valid(&self) {
        if self.is_v4() {
            assert_eq!(usize::from(self.get16(2)), self.0.len(), "{self:?}");
            assert_eq!(sum(0, &self.0[..self.header_len()]), 0xffff, "{self:?}");
        } else {
            assert_eq!(usize::from(self.get16(4)) + 40, self.0.len(), "{self:?}");
        }
        if self.is_fragment() {
            return;
        }
        let at = self.checksum_at().unwrap();
        assert!(self.protocol() != UDP || self.get16(at) != 0, "{self:?}");
        let total = sum(u32::from(self.pseudo_sum()), self.l4());
        assert_eq!(total, 0xffff, "checksum of {self:?}");
    }

    /// Cut into fragments of at most `room` octets of payload.
    pub(crate) fn fragments(&self, room: usize, ident: u32) -> Vec<Self> {
        let room = room / 8 * 8;
        let pieces: Vec<&[u8]> = self.l4().chunks(room).collect();
        let last = pieces.len() - 1;
        let piece = |(n, piece): (usize, &&[u8])| {
            let (offset, more) = (n * room, n < last);
            let mut header = self.0[..self.header_len()].to_vec();
            if self.is_v4() {
                let word = u16::try_from(offset / 8).unwrap() | u16::from(more) << 13;
                header[4..6].copy_from_slice(&u16::try_from(ident).unwrap().to_be_bytes());
                header[6..8].copy_from_slice(&word.to_be_bytes());
            } else {
                let word = u16::try_from(offset).unwrap() | u16::from(more);
                header.extend([header[6], 0]);
                header.extend(word.to_be_bytes());
                header.extend(ident.to_be_bytes());
                header[6] = FRAGMENT;
            }
            Self([&header, *piece].concat()).fixed()
        };
        pieces.iter().enumerate().map(piece).collect()
    }
}

/// The datagram that the fragments, in whatever order, are of.
#[track_caller]
pub(crate) fn reassembled(fragments: &[Ip]) -> Ip {
    let mut parts: Vec<_> = fragments
        .iter()
        .map(|ip| (ip.place().unwrap(), ip.l4()))
        .collect();
    parts.sort_by_key(|((offset, ..), _)| *offset);
    let first = &fragments[0];
    let mut l4 = Vec::new();
    for (n, ((offset, more, ident), part)) in parts.iter().enumerate() {
        assert_eq!((*offset, *more), (l4.len(), n + 1 < parts.len()));
        assert_eq!(*ident, first.place().unwrap().2);
        l4.extend_from_slice(part);
    }
    let whole = Ip::new(first.src(), first.dst(), first.protocol(), &l4);
    let at = whole.checksum_at().unwrap() - whole.header_len();
    assert_eq!(whole.l4()[at..at + 2], l4[at..at + 2], "checksum");
    whole
}

fn to_address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(octets).unwrap().into(),
    }
}

/// A frame whose checksum is left to the device, and that is cut into segments if `gso_size` > 0.
pub(crate) fn offloaded(packet: &Ip, gso_size: u16) -> Vec<u8> {
    let mut packet = packet.clone();
    let (start, at) = (packet.header_len(), packet.checksum_at().unwrap());
    let pseudo = packet.pseudo_sum();
    packet.set16(at, pseudo);
    let vnet = Vnet {
        flags: NEEDS_CSUM,
        gso_type: match (gso_size, packet.protocol(), packet.is_v4()) {
            (0, ..) => GSO_NONE,
            (_, UDP, _) => GSO_UDP_L4,
            (_, _, true) => GSO_TCPV4,
            (_, _, false) => GSO_TCPV6,
        },
        hdr_len: u16::try_from(packet.0.len() - packet.payload().len()).unwrap(),
        gso_size,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset: u16::try_from(at - start).unwrap(),
    };
    [&vnet.bytes()[..], &packet.0].concat()
}

/// What a kernel makes of a frame on the way to a wire; all of it is verified.
#[track_caller]
pub(crate) fn on_the_wire(frame: &[u8]) -> Vec<Ip> {
    let vnet = Vnet::parse(&frame[..VNET_HDR_LEN]);
    let packet = Ip(frame[VNET_HDR_LEN..].to_vec());
    if vnet.flags & NEEDS_CSUM == 0 {
        assert_eq!(vnet.gso_type, GSO_NONE);
        packet.assert_valid();
        return vec![packet];
    }
    let at = packet.checksum_at().unwrap();
    let start = usize::from(vnet.csum_start);
    assert_eq!(start, packet.header_len());
    assert_eq!(start + usize::from(vnet.csum_offset), at);
    assert_eq!(packet.get16(at), packet.pseudo_sum(), "{packet:?}");
    if vnet.gso_type == GSO_NONE {
        return vec![packet.fixed()];
    }
    let expected = match (packet.protocol(), packet.is_v4()) {
        (UDP, _) => GSO_UDP_L4,
        (_, true) => GSO_TCPV4,
        (_, false) => GSO_TCPV6,
    };
    assert_eq!(vnet.gso_type, expected);
    let headers = packet.0.len() - packet.payload().len();
    assert_eq!(usize::from(vnet.hdr_len), headers);
    let chunks: Vec<&[u8]> = packet
        .payload()
        .chunks(usize::from(vnet.gso_size))
        .collect();
    let segment = |(n, chunk): (usize, &&[u8])| {
        let mut segment = Ip([&packet.0[..headers], *chunk].concat());
        if packet.protocol() == TCP {
            let before = u32::try_from(n * usize::from(vnet.gso_size)).unwrap();
            let seq = packet.get32(start + 4).wrapping_add(before);
            segment.0[start + 4..start + 8].copy_from_slice(&seq.to_be_bytes());
            if n + 1 < chunks.len() {
                segment.0[start + 13] &= !(FIN | PSH);
            }
        } else {
            segment.set16(start + 4, u16::try_from(8 + chunk.len()).unwrap());
        }
        segment.fixed()
    };
    chunks.iter().enumerate().map(segment).collect()
}

/// Segments that follow one another, as one super-packet; the rest one by one.
pub(crate) fn coalesced(packets: Vec<Ip>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut run: Option<(Ip, usize)> = None;
    let flush = |run: Option<(Ip, usize)>, frames: &mut Vec<Vec<u8>>| {
        if let Some((packet, size)) = run {
            let gso = if packet.payload().len() > size {
                size
            } else {
                0
            };
            frames.push(offloaded(&packet, u16::try_from(gso).unwrap()));
        }
    };
    for packet in packets {
        let plain = packet.protocol() == TCP
            && packet.l4()[13] & !PSH == ACK
            && !packet.payload().is_empty();
        if let Some((before, size)) = &mut run {
            let start = before.header_len();
            let length = before.payload().len();
            let next = before
                .get32(start + 4)
                .wrapping_add(u32::try_from(length).unwrap());
            if plain
                && packet.get32(start + 4) == next
                && before.0[start + 8..start + 16] == packet.0[start + 8..start + 16]
                && length % *size == 0
                && packet.payload().len() <= *size
                && before.0.len() + *size < 60_000
            {
                before.0.extend(packet.payload());
                *before = before.clone().fixed();
                continue;
            }
        }
        flush(run.take(), &mut frames);
        if plain {
            let size = packet.payload().len();
            run = Some((packet, size));
        } else {
            frames.push(offloaded(&packet, 0));
        }
    }
    flush(run, &mut frames);
    frames
}

/// The machine around: one route for each family, one for the narrow net.
#[derive(Debug)]
struct Roads;

impl Host for Roads {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let narrow = matches!(destination, IpAddr::V6(to) if to.segments()[2] == 0x80);
        Some(Egress {
            if_index: 2,
            source: address(if destination.is_ipv4() {
                "10.9.0.10"
            } else {
                "2001:db8:9::10"
            }),
            mtu: if narrow { 1400 } else { 1500 },
        })
    }

    fn set_external_port(&self, _: Protocol, _: u16, _: bool) {}
}

pub(crate) struct Dual {
    pub(crate) forwarder: Forwarder,
    pub(crate) now: Instant,
    pub(crate) policy: Policy,
    outbox: Outbox,
}

fn published(protocol: Protocol, target: &str) -> Published {
    Published {
        protocol,
        host_address: address("::"),
        host_ports: 8080..=8080,
        endpoint: EndpointId(1),
        container_address: address(target),
        container_port: 80,
    }
}

impl Dual {
    pub(crate) fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// The container's network takes packets of `mtu` octets.
    pub(crate) fn with_mtu(mtu: u32) -> Self {
        let network = |id, subnet: &str, gateway, mtu| NetworkPolicy {
            id: NetworkId(id),
            families: vec![FamilyPolicy {
                subnet: subnet.parse().unwrap(),
                gateway: Some(address(gateway)),
                masquerade: true,
                source: None,
                access: Access::Closed,
            }],
            mtu,
            icc: true,
            internal: false,
            clamp_mss: false,
        };
        let endpoint = |id, network, at| EndpointPolicy {
            id: EndpointId(id),
            network: NetworkId(network),
            addresses: vec![address(at)],
            open: Vec::new(),
        };
        let policy = Policy {
            networks: vec![
                network(1, "172.17.0.0/16", "172.17.0.1", mtu),
                network(2, "fd00:18::/64", "fd00:18::1", 1500),
            ],
            endpoints: vec![
                endpoint(1, 1, "172.17.0.2"),
                endpoint(2, 1, "172.17.0.3"),
                endpoint(3, 2, "fd00:18::2"),
            ],
            published: vec![
                published(Protocol::Tcp, "172.17.0.2"),
                published(Protocol::Udp, "172.17.0.2"),
            ],
            links: Vec::new(),
            local_addresses: ["127.0.0.1", "::1", "10.9.0.10", "2001:db8:9::10"]
                .map(address)
                .to_vec(),
        };
        let dual = Self {
            forwarder: Forwarder::new(Config::default(), [7; 32], Arc::new(Roads)),
            now: Instant::from_origin(std::time::Duration::from_secs(1000)),
            policy,
            outbox: Outbox::new(),
        };
        dual.forwarder.set_policy(dual.policy.clone(), dual.now);
        dual
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.policy);
        self.forwarder.set_policy(self.policy.clone(), self.now);
    }

    /// What becomes of a frame, and what is written to the TUN because of it.
    #[track_caller]
    pub(crate) fn frame(&mut self, frame: &[u8]) -> (Verdict, Vec<Vec<u8>>) {
        let mut frame = frame.to_vec();
        let verdict = self
            .forwarder
            .handle_packet(&mut frame, self.now, &mut self.outbox);
        let mut written: Vec<Vec<u8>> = self.outbox.drain().collect();
        if verdict == Verdict::Forward || verdict == Verdict::ToHost {
            written.insert(0, frame);
        }
        (verdict, written)
    }

    /// The packets that a packet becomes.
    #[track_caller]
    pub(crate) fn packets(&mut self, packet: &Ip) -> Vec<Ip> {
        let (verdict, written) = self.frame(&[&[0; VNET_HDR_LEN], &packet.0[..]].concat());
        assert_eq!(verdict, Verdict::Consumed, "{packet:?}: {written:?}");
        written
            .iter()
            .flat_map(|frame| on_the_wire(frame))
            .collect()
    }

    /// The one packet that a packet becomes.
    #[track_caller]
    pub(crate) fn across(&mut self, packet: &Ip) -> Ip {
        let mut packets = self.packets(packet);
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// The name of the reason for which a packet is dropped, and what the sender is told.
    #[track_caller]
    pub(crate) fn refused(&mut self, packet: &Ip) -> (&'static str, Option<Ip>) {
        let (verdict, written) = self.frame(&[&[0; VNET_HDR_LEN], &packet.0[..]].concat());
        let Verdict::Drop(reason) = verdict else {
            panic!("{packet:?}: {verdict:?} {written:?}");
        };
        let told = written.first().map(|frame| on_the_wire(frame).remove(0));
        (reason.name(), told)
    }
}

/// A smoltcp host.
pub(crate) struct Node {
    wire: Wire,
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
}

impl Node {
    pub(crate) fn new(at: IpAddr) -> Self {
        let mut wire = Wire::new(1500);
        let config = IfaceConfig::new(HardwareAddress::Ip);
        let mut iface = Interface::new(config, &mut wire, SmolInstant::ZERO);
        let prefix = if at.is_ipv4() { 32 } else { 128 };
        iface.update_ip_addrs(|list| list.push(IpCidr::new(IpAddress::from(at), prefix)).unwrap());
        match at {
            IpAddr::V4(at) => iface.routes_mut().add_default_ipv4_route(at).map(|_| ()),
            IpAddr::V6(at) => iface.routes_mut().add_default_ipv6_route(at).map(|_| ()),
        }
        .unwrap();
        Self {
            wire,
            iface,
            sockets: SocketSet::new(Vec::new()),
        }
    }
}

/// Lets both hosts talk through the forwarder until neither has anything to say. Returns how many
/// super-packets went through.
#[track_caller]
pub(crate) fn settle(dual: &mut Dual, nodes: &mut [Node; 2]) -> usize {
    let mut super_packets = 0;
    loop {
        let clock =
            SmolInstant::from_micros(i64::try_from(dual.now.since_origin().as_micros()).unwrap());
        let mut busy = false;
        for from in 0..2 {
            let node = &mut nodes[from];
            node.iface.poll(clock, &mut node.wire, &mut node.sockets);
            let sent: Vec<Ip> = std::iter::from_fn(|| node.wire.sent()).map(Ip).collect();
            for frame in coalesced(sent) {
                busy = true;
                super_packets += usize::from(frame[1] != GSO_NONE);
                let (verdict, written) = dual.frame(&frame);
                assert_eq!(verdict, Verdict::Consumed);
                for packet in written.iter().flat_map(|frame| on_the_wire(frame)) {
                    nodes[1 - from].wire.arrives(packet.0);
                }
            }
        }
        if !busy {
            return super_packets;
        }
    }
}
