//! The forwarder as a whole, one packet at a time.
//!
//! ```text
//!  net 1  172.17.0.0/16   A .2  B .3      net 2  172.18.0.0/16   C .2
//!  net 3  172.19.0.0/16   D .2  E .3  (icc off)   net 4  172.20.0.0/16  F .2  (no masquerade)
//!  net 5  172.21.0.0/16   G .2  (internal)        net 6  172.22.0.0/16  I .2  (no gateway)
//!  host H 192.0.2.10, 192.0.2.11, 127.0.0.1      outside 198.51.100.0/24; 203.0.113.0/24 unroutable
//!  published  tcp 8080 → A:80   udp 8080 → A:80   tcp 127.0.0.1:8081 → A:80   tcp 8082 → A:80
//!             tcp 192.0.2.11:8080 → B:80   udp 20000-29999 → B:30000-39999   tcp 9090 → C:90
//!             tcp 7070 → I:70
//! ```

mod drops;
mod fragments;
mod icmp;
mod limits;
mod mappings;
mod properties;
mod publishing;
mod sizes;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use super::*;

pub(super) const A: EndpointId = EndpointId(1);
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) egress: Mutex<Egress>,
    pub(super) bits: Mutex<BTreeSet<(Protocol, u16)>>,
}

impl Host for Machine {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let unroutable: ipnet::IpNet = "203.0.113.0/24".parse().unwrap();
        (!unroutable.contains(&destination)).then(|| *self.egress.lock())
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        let changed = if ours {
            self.bits.lock().insert((protocol, port))
        } else {
            self.bits.lock().remove(&(protocol, port))
        };
        assert!(changed, "{protocol:?} {port} set to {ours} twice");
    }
}

pub(super) struct Lab {
    pub(super) host: Arc<Machine>,
    pub(super) forwarder: Forwarder,
    pub(super) out: Outbox,
    pub(super) now: Instant,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn policy() -> Policy {
    let network = |id: u32, subnet: &str, gateway: &str| NetworkPolicy {
        id: NetworkId(id),
        families: vec![FamilyPolicy {
            subnet: subnet.parse().unwrap(),
            gateway: (id != 6).then(|| ip(gateway)),
            masquerade: id != 4,
            source: None,
            access: Access::Closed,
        }],
        mtu: 1500,
        icc: id != 3,
        internal: id == 5,
        clamp_mss: id == 2,
    };
    let endpoint = |id: u32, net: u32, address: &str| EndpointPolicy {
        id: EndpointId(id),
        network: NetworkId(net),
        addresses: vec![ip(address)],
        open: Vec::new(),
    };
    let published = |protocol, at: &str, host_ports, id: u32, address: &str, port| Published {
        protocol,
        host_address: ip(at),
        host_ports,
        endpoint: EndpointId(id),
        container_address: ip(address),
        container_port: port,
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    Policy {
        networks: vec![
            network(1, "172.17.0.0/16", "172.17.0.1"),
            network(2, "172.18.0.0/16", "172.18.0.1"),
            network(3, "172.19.0.0/16", "172.19.0.1"),
            network(4, "172.20.0.0/16", "172.20.0.1"),
            network(5, "172.21.0.0/16", "172.21.0.1"),
            network(6, "172.22.0.0/16", "172.22.0.1"),
        ],
        endpoints: vec![
            endpoint(1, 1, "172.17.0.2"),
            endpoint(2, 1, "172.17.0.3"),
            endpoint(3, 2, "172.18.0.2"),
            endpoint(4, 3, "172.19.0.2"),
            endpoint(5, 3, "172.19.0.3"),
            endpoint(6, 4, "172.20.0.2"),
            endpoint(7, 5, "172.21.0.2"),
            endpoint(8, 6, "172.22.0.2"),
        ],
        published: vec![
            published(tcp, "0.0.0.0", 8080..=8080, 1, "172.17.0.2", 80),
            published(udp, "0.0.0.0", 8080..=8080, 1, "172.17.0.2", 80),
            published(tcp, "127.0.0.1", 8081..=8081, 1, "172.17.0.2", 80),
            published(tcp, "0.0.0.0", 8082..=8082, 1, "172.17.0.2", 80),
            published(tcp, "192.0.2.11", 8080..=8080, 2, "172.17.0.3", 80),
            published(udp, "0.0.0.0", 20_000..=29_999, 2, "172.17.0.3", 30_000),
            published(tcp, "0.0.0.0", 9090..=9090, 3, "172.18.0.2", 90),
            published(tcp, "0.0.0.0", 7070..=7070, 8, "172.22.0.2", 70),
        ],
        links: Vec::new(),
        local_addresses: ["192.0.2.10", "192.0.2.11", "127.0.0.1", "172.17.0.1"]
            .map(ip)
            .to_vec(),
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let egress = Egress {
            if_index: 2,
            source: ip("192.0.2.10"),
            mtu: 1500,
        };
        let host = Arc::new(Machine {
            egress: Mutex::new(egress),
            bits: Mutex::default(),
        });
        let forwarder = Forwarder::new(config, [7; 32], Arc::clone(&host) as Arc<dyn Host>);
        let now = Instant::from_origin(Duration::from_secs(1_000));
        forwarder.set_policy(policy(), now);
        Self {
            host,
            forwarder,
            out: Outbox::new(),
            now,
        }
    }

    /// Time passes, with the timer calls that fall into it.
    pub(super) fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.forwarder.poll_timeout().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.forwarder.handle_timeout(self.now, &mut self.out);
        }
        self.now = end;
    }

    pub(super) fn verdict(&mut self, frame: &mut [u8]) -> Verdict {
        let length = frame.len();
        let verdict = self.forwarder.handle_packet(frame, self.now, &mut self.out);
        assert_eq!(frame.len(), length);
        verdict
    }

    /// The packet passes; this is what it looks like then.
    #[track_caller]
    pub(super) fn send(&mut self, mut frame: Vec<u8>) -> Seen {
        let before = seen(&frame);
        let verdict = self.verdict(&mut frame);
        assert_eq!(verdict, Verdict::Forward, "{before:?}");
        let after = seen(&frame);
        assert_eq!(after.ttl, before.ttl - 1, "one hop");
        after
    }

    /// The packet is dropped for `reason`, and counted so.
    #[track_caller]
    pub(super) fn dropped(&mut self, mut frame: Vec<u8>, reason: DropReason) {
        let before = self.count(reason);
        assert_eq!(self.verdict(&mut frame), Verdict::Drop(reason));
        assert_eq!(self.count(reason), before + 1);
    }

    #[track_caller]
    pub(super) fn left_to_host(&mut self, frame: Vec<u8>) {
        let mut judged = frame.clone();
        assert_eq!(self.verdict(&mut judged), Verdict::ToHost);
        assert_eq!(judged, frame, "unchanged");
    }

    pub(super) fn count(&self, reason: DropReason) -> u64 {
        let dropped: BTreeMap<_, _> = self.forwarder.stats().dropped.into_iter().collect();
        dropped[&reason]
    }

    /// The only frame in the outbox.
    #[track_caller]
    pub(super) fn generated(&mut self) -> Vec<u8> {
        assert_eq!(self.out.len(), 1, "one generated packet");
        self.out.pop().unwrap()
    }

    /// A TCP connection through the whole handshake; returns how the first segment arrived.
    #[track_caller]
    pub(super) fn connect(&mut self, from: &str, to: &str) -> Seen {
        let syn = self.send(tcp(from, to, SYN, 1000, 0, 0));
        self.send(tcp(&syn.dst, &syn.src, SYN | ACK, 5000, 1001, 0));
        self.send(tcp(from, to, ACK, 1001, 5001, 0));
        syn
    }

    #[track_caller]
    pub(super) fn state(&self, index: usize) -> &'static str {
        self.forwarder.flows(self.now)[index].state
    }
}

/// A packet as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) src: String,
    pub(super) dst: String,
    pub(super) ttl: u8,
    pub(super) ident: u16,
}

impl Seen {
    pub(super) fn port(&self) -> u16 {
        self.src.parse::<SocketAddrV4>().unwrap().port()
    }

    #[track_caller]
    pub(super) fn is(&self, src: &str, dst: &str) {
        assert_eq!((self.src.as_str(), self.dst.as_str()), (src, dst));
    }
}

/// Reads a frame and checks every checksum in it that is complete.
#[track_caller]
pub(super) fn seen(frame: &[u8]) -> Seen {
    let packet = Ipv4Packet::new_checked(&frame[VNET_HDR_LEN..]).unwrap();
    assert!(packet.verify_checksum(), "IP checksum");
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    let payload = packet.payload();
    let partial = frame[0] & 1 != 0;
    let fragment = packet.more_frags() || packet.frag_offset() > 0;
    let (mut sport, mut dport) = (0, 0);
    if packet.frag_offset() == 0 {
        let protocol = packet.next_header();
        if protocol == IpProtocol::Tcp {
            let tcp = TcpPacket::new_checked(payload).unwrap();
            let right = partial || fragment || tcp.verify_checksum(&src.into(), &dst.into());
            assert!(right, "TCP checksum");
            (sport, dport) = (tcp.src_port(), tcp.dst_port());
        } else if protocol == IpProtocol::Udp {
            let udp = UdpPacket::new_unchecked(payload);
            let right = partial || fragment || udp.verify_checksum(&src.into(), &dst.into());
            assert!(right, "UDP checksum");
            (sport, dport) = (udp.src_port(), udp.dst_port());
        } else if protocol == IpProtocol::Icmp {
            assert!(
                fragment || checksum::checksum(payload) == 0,
                "ICMP checksum"
            );
            let ident = u16::from_be_bytes([payload[4], payload[5]]);
            match payload[0] {
                8 | 13 => sport = ident,
                0 | 14 => dport = ident,
                _ => {}
            }
        }
        if partial {
            let pseudo = checksum::pseudo_header(&frame[VNET_HDR_LEN..], payload.len());
            let at = if packet.next_header() == IpProtocol::Tcp {
                16
            } else {
                6
            };
            let field = u16::from_be_bytes([payload[at], payload[at + 1]]);
            assert_eq!(field % 0xffff, pseudo % 0xffff, "pseudo header sum");
        }
    }
    Seen {
        src: format!("{src}:{sport}"),
        dst: format!("{dst}:{dport}"),
        ttl: packet.hop_limit(),
        ident: packet.ident(),
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

fn ends(from: &str, to: &str) -> (SocketAddrV4, SocketAddrV4) {
    (from.parse().unwrap(), to.parse().unwrap())
}

pub(super) fn udp_bytes(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let mut payload = vec![0; 8];
    payload.extend_from_slice(data);
    let mut udp = UdpPacket::new_unchecked(&mut payload[..]);
    udp.set_src_port(from.port());
    udp.set_dst_port(to.port());
    udp.set_len(u16::try_from(8 + data.len()).unwrap());
    udp.fill_checksum(&(*from.ip()).into(), &(*to.ip()).into());
    ipv4(*from.ip(), *to.ip(), IpProtocol::Udp, &payload)
}

pub(super) fn udp(from: &str, to: &str) -> Vec<u8> {
    udp_bytes(from, to, b"hello")
}

/// A TCP segment with an MSS option if it is a SYN.
pub(super) fn tcp(from: &str, to: &str, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
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
    segment.fill_checksum(&(*from.ip()).into(), &(*to.ip()).into());
    ipv4(*from.ip(), *to.ip(), IpProtocol::Tcp, &payload)
}

/// An ICMP query or answer; identifier as the port of the asking side.
pub(super) fn icmp_query(kind: u8, src: &str, dst: &str, ident: u16, len: usize) -> Vec<u8> {
    let mut payload = vec![0xab; 8 + len];
    payload[..4].copy_from_slice(&[kind, 0, 0, 0]);
    payload[4..6].copy_from_slice(&ident.to_be_bytes());
    icmp_message(src, dst, &mut payload)
}

pub(super) fn icmp_message(src: &str, dst: &str, payload: &mut [u8]) -> Vec<u8> {
    payload[2..4].fill(0);
    let field = checksum::checksum(payload);
    payload[2..4].copy_from_slice(&field.to_be_bytes());
    ipv4(
        src.parse().unwrap(),
        dst.parse().unwrap(),
        IpProtocol::Icmp,
        payload,
    )
}

/// An ICMP error that quotes `limit` octets of `frame`'s packet.
pub(super) fn icmp_error(
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
pub(super) fn with_ip(
    mut frame: Vec<u8>,
    change: impl FnOnce(&mut Ipv4Packet<&mut [u8]>),
) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[VNET_HDR_LEN..]);
    change(&mut packet);
    packet.fill_checksum();
    frame
}

pub(super) fn with_ttl(frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    with_ip(frame, |packet| packet.set_hop_limit(ttl))
}

pub(super) fn without_df(frame: Vec<u8>) -> Vec<u8> {
    with_ip(frame, |packet| packet.set_dont_frag(false))
}

/// The sender's kernel left the transport checksum to the device.
pub(super) fn partial(mut frame: Vec<u8>, gso_type: u8, gso_size: u16) -> Vec<u8> {
    let length = frame.len() - VNET_HDR_LEN - 20;
    let sum = checksum::pseudo_header(&frame[VNET_HDR_LEN..], length);
    let offset = if frame[VNET_HDR_LEN + 9] == 6 { 16 } else { 6 };
    let at = VNET_HDR_LEN + 20 + offset;
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let offset = u16::try_from(offset).unwrap();
    frame[..VNET_HDR_LEN].copy_from_slice(&vnet::build(1, gso_type, gso_size, 20, offset));
    frame
}

/// Cuts the packet into fragments with `size` octets of payload each.
pub(super) fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
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
pub(super) fn reassembled(mut pieces: Vec<Vec<u8>>) -> Vec<u8> {
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
