//! Plays an input, any octets at all, as a sequence of frames and events against one forwarder, and checks after
//! each what must always hold. The fuzz target calls it with what libFuzzer invents, an ordinary test with the inputs
//! that once found something.
//!
//! ```text
//! input  = { operation }          operation = opcode(1) argument(1) [length(2, LE) octets]
//! opcode % 16:
//!   0..=3  frame: virtio header ‖ packet, as it is
//!   4..=6  frame whose checksums are put right first (argument: bit 0 source, bit 1 destination forced to known
//!          addresses, chosen by its other bits)
//!   7, 8   bare packet, checksums put right, as a partial one (7) or complete (8)
//!   9      the last forwarded frame comes back with source and destination exchanged
//!   10     the last forwarded frame comes back inside an ICMP error (argument: type and code)
//!   11     time passes (argument²  × 10 ms)
//!   12     timers are handled
//!   13     the policy changes (argument)
//!   14     the host's ports change (argument)
//!   15     routes change (argument)
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tunbridge::forwarder::{
    Access, Config, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host, HostPorts,
    Instant, NetworkId, NetworkPolicy, Outbox, Policy, Protocol, Published, VNET_HDR_LEN, Verdict,
};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);

/// Addresses that mean something to the forwarder.
const KNOWN: [Ipv4Addr; 8] = [
    C1,
    C2,
    HOST,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(172, 17, 0, 1),
    Ipv4Addr::new(10, 20, 0, 1),
    Ipv4Addr::new(10, 80, 0, 1),
    Ipv4Addr::new(10, 9, 0, 50),
];

#[derive(Debug)]
struct Machine {
    bits: Vec<AtomicU64>,
    route: AtomicU8,
}

impl Machine {
    fn index(protocol: Protocol, port: u16) -> usize {
        let base = match protocol {
            Protocol::Icmp => 0,
            Protocol::Tcp => 1024,
            Protocol::Udp => 2048,
        };
        base + usize::from(port / 64)
    }

    fn ports(&self) -> u32 {
        self.bits
            .iter()
            .map(|w| w.load(Ordering::Relaxed).count_ones())
            .sum()
    }
}

impl Host for Machine {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let IpAddr::V4(destination) = destination else {
            return None;
        };
        let state = self.route.load(Ordering::Relaxed);
        let (source, mtu) = match (destination.octets(), state % 4) {
            (_, 3) => return None,
            ([10, 80, ..], _) => (Ipv4Addr::new(10, 8, 0, 10), 600),
            (_, 2) => (Ipv4Addr::new(10, 8, 0, 10), 1500),
            _ => (HOST, 1500),
        };
        Some(Egress {
            if_index: 2,
            source: IpAddr::V4(source),
            mtu,
        })
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        let word = &self.bits[Self::index(protocol, port)];
        let bit = 1_u64 << (port % 64);
        if ours {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

fn policy(variant: u8) -> Policy {
    let network = |id: u8, mtu| NetworkPolicy {
        id: NetworkId(id.into()),
        families: vec![FamilyPolicy {
            subnet: format!("172.{}.0.0/16", 16 + id).parse().expect("a prefix"),
            gateway: Some(IpAddr::V4(Ipv4Addr::new(172, 16 + id, 0, 1))),
            masquerade: variant & 4 == 0,
            source: None,
            access: match variant >> 5 & 3 {
                0 => Access::Closed,
                1 => Access::Ports,
                _ => Access::Open,
            },
        }],
        mtu,
        icc: variant & 8 == 0,
        internal: variant & 128 != 0 && id == 2,
        clamp_mss: variant & 16 != 0,
    };
    let endpoint = |id: u8, address| EndpointPolicy {
        id: EndpointId(id.into()),
        network: NetworkId(id.into()),
        addresses: vec![IpAddr::V4(address)],
        open: Vec::new(),
    };
    let published = |protocol, ports: std::ops::RangeInclusive<u16>, id: u8, address| Published {
        protocol,
        host_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host_ports: ports,
        endpoint: EndpointId(id.into()),
        container_address: IpAddr::V4(address),
        container_port: 80,
    };
    let mut policy = Policy {
        networks: vec![network(1, 1500), network(2, 700)],
        endpoints: vec![endpoint(1, C1), endpoint(2, C2)],
        published: vec![
            published(Protocol::Tcp, 8080..=8080, 1, C1),
            published(Protocol::Udp, 8080..=8089, 1, C1),
            published(Protocol::Udp, 61_000..=61_001, 2, C2),
        ],
        links: Vec::new(),
        local_addresses: vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V4(HOST),
            IpAddr::V4(Ipv4Addr::new(10, 8, 0, 10)),
            IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)),
            IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1)),
        ],
    };
    if variant & 1 != 0 {
        policy.endpoints.pop();
        policy.published.pop();
    }
    if variant & 2 != 0 {
        policy.published.clear();
    }
    policy
}

struct Player {
    forwarder: Forwarder,
    machine: Arc<Machine>,
    out: Outbox,
    now: Instant,
    last: Vec<u8>,
    generated: u64,
}

/// Plays `input`.
///
/// # Panics
///
/// When an invariant does not hold: that is the finding.
pub fn play(input: &[u8]) {
    let machine = Arc::new(Machine {
        bits: (0..3 * 1024).map(|_| AtomicU64::new(0)).collect(),
        route: AtomicU8::new(0),
    });
    let config = Config {
        exclusive_ports: 61_000..=61_015,
        shared_ports: 5_000..=5_007,
        max_flows: 64,
        max_flows_per_endpoint: 48,
        max_fragmented: 32,
        max_fragmented_per_source: 8,
        max_held_bytes: 16 << 10,
        max_held_bytes_per_source: 4 << 10,
        max_held_per_source: 8,
        max_held_syns: 4,
        ..Config::default()
    };
    let forwarder = Forwarder::new(config, [42; 32], machine.clone());
    let now = Instant::from_origin(Duration::from_secs(100));
    forwarder.set_policy(policy(0), now);
    let mut player = Player {
        forwarder,
        machine,
        out: Outbox::new(),
        now,
        last: Vec::new(),
        generated: 0,
    };
    let mut rest = input;
    while let [opcode, argument, tail @ ..] = rest {
        let (opcode, argument) = (opcode % 16, *argument);
        let octets;
        (octets, rest) = if opcode < 9 {
            split(tail)
        } else {
            (&[][..], tail)
        };
        player.operate(opcode, argument, octets);
    }
    player.finish();
}

/// Takes a length and as many octets as it says, or as there are.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let [low, high, tail @ ..] = input else {
        return (&[], &[]);
    };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
    tail.split_at(length)
}

impl Player {
    fn operate(&mut self, opcode: u8, argument: u8, octets: &[u8]) {
        match opcode {
            0..=3 => self.frame(octets.to_vec()),
            4..=6 => {
                let mut frame = octets.to_vec();
                if frame.len() >= VNET_HDR_LEN + 20 {
                    let packet = &mut frame[VNET_HDR_LEN..];
                    if argument & 1 != 0 {
                        packet[12..16]
                            .copy_from_slice(&KNOWN[usize::from(argument >> 2 & 7)].octets());
                    }
                    if argument & 2 != 0 {
                        packet[16..20].copy_from_slice(&KNOWN[usize::from(argument >> 5)].octets());
                    }
                    fix(packet);
                }
                self.frame(frame);
            }
            7 | 8 => {
                let mut frame = vec![0; VNET_HDR_LEN];
                frame.extend(octets);
                fix(&mut frame[VNET_HDR_LEN..]);
                if opcode == 7 {
                    make_partial(&mut frame);
                }
                self.frame(frame);
            }
            9 => {
                let mut frame = std::mem::take(&mut self.last);
                if frame.len() >= VNET_HDR_LEN + 20 {
                    exchange(&mut frame[VNET_HDR_LEN..], argument);
                    self.frame(frame);
                }
            }
            10 => {
                if self.last.len() >= VNET_HDR_LEN + 28 {
                    let frame = error_about(&self.last[VNET_HDR_LEN..], argument);
                    self.frame(frame);
                }
            }
            11 => {
                let step = u64::from(argument) * u64::from(argument) * 10;
                self.now = self.now + Duration::from_millis(step);
            }
            12 => self.timers(),
            13 => self.forwarder.set_policy(policy(argument), self.now),
            14 => {
                let mut ports = HostPorts::new();
                for bit in 0..8 {
                    if argument >> bit & 1 != 0 {
                        ports.insert(Protocol::Tcp, 61_000 + 2 * bit);
                        ports.insert(Protocol::Udp, 61_001 + 2 * bit);
                    }
                }
                self.forwarder.set_host_ports(ports);
            }
            _ => {
                self.machine.route.store(argument, Ordering::Relaxed);
                self.forwarder.routes_changed();
            }
        }
    }

    fn frame(&mut self, mut frame: Vec<u8>) {
        let before = frame.clone();
        let verdict = self
            .forwarder
            .handle_packet(&mut frame, self.now, &mut self.out);
        match verdict {
            Verdict::Forward => {
                check_emitted(&frame);
                if is_transport_right(&before) {
                    assert!(
                        is_transport_right(&frame),
                        "transport checksum: {before:02x?} became {frame:02x?}"
                    );
                }
                assert!(
                    frame[VNET_HDR_LEN + 8] < before[VNET_HDR_LEN + 8],
                    "TTL does not fall"
                );
                self.last = frame;
            }
            Verdict::ToHost => assert_eq!(frame, before, "a frame for the host was changed"),
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        self.drain();
    }

    fn timers(&mut self) {
        for _ in 0..10_000 {
            match self.forwarder.poll_timeout() {
                Some(due) if due <= self.now => {
                    self.forwarder.handle_timeout(self.now, &mut self.out)
                }
                _ => {
                    self.drain();
                    return;
                }
            }
        }
        panic!("timers never settle");
    }

    fn drain(&mut self) {
        while let Some(frame) = self.out.pop() {
            self.generated += 1;
            check_emitted(&frame);
            self.out.recycle(frame);
        }
    }

    fn finish(&mut self) {
        let stats = self.forwarder.stats();
        assert_eq!(stats.generated, self.generated, "generated frames");
        let dropped: u64 = stats.dropped.iter().map(|(_, n)| n).sum();
        let judged = stats.forwarded + stats.to_host + stats.consumed;
        assert!(
            judged <= stats.received && stats.received <= judged + dropped,
            "{stats:?}"
        );
        assert!(stats.flows <= 64, "{} flows, 64 allowed", stats.flows);
        let flows = self.forwarder.flows(self.now);
        let tuples: BTreeSet<_> = flows.iter().map(|f| (f.protocol, f.translated)).collect();
        assert_eq!(
            tuples.len(),
            flows.len(),
            "two flows share an external tuple"
        );
        // A client that uses one port towards two publications of a container gets another one, but
        // keeps its address: that port is not the host's.
        let external =
            |f: &&tunbridge::forwarder::FlowReport| f.original.0.ip() != f.translated.0.ip();
        let ports: BTreeSet<_> = flows
            .iter()
            .filter(external)
            .map(|f| (f.protocol, f.translated.0.port()))
            .collect();
        for (protocol, port) in ports {
            let word = self.machine.bits[Machine::index(protocol, port)].load(Ordering::Relaxed);
            let published = (8080..=8089).contains(&port) || (61_000..=61_001).contains(&port);
            let ours = word >> (port % 64) & 1 != 0;
            assert!(
                ours || published,
                "{protocol:?} {port} is used, but its bit is not set"
            );
        }
        // A year later nothing is left.
        self.now = self.now + Duration::from_secs(365 * 86_400);
        self.timers();
        self.forwarder.handle_timeout(self.now, &mut self.out);
        self.drain();
        let stats = self.forwarder.stats();
        assert_eq!(
            (stats.flows, stats.mappings, self.machine.ports()),
            (0, 0, 0),
            "something never expires"
        );
        assert_eq!(self.forwarder.poll_timeout(), None);
    }
}

/// What leaves must be a packet that a kernel accepts.
fn check_emitted(frame: &[u8]) {
    let packet = &frame[VNET_HDR_LEN..];
    assert!(
        packet.len() >= 20 && packet[0] >> 4 == 4,
        "not IPv4: {packet:02x?}"
    );
    let header = usize::from(packet[0] & 0x0f) * 4;
    assert!(
        (20..=packet.len()).contains(&header),
        "header length {header}"
    );
    assert_eq!(
        sum(0, &packet[..header]),
        0xffff,
        "IP header checksum of {packet:02x?}"
    );
    assert!(
        usize::from(u16::from_be_bytes([packet[2], packet[3]])) <= packet.len(),
        "total length"
    );
}

/// The transport checksum is complete and right, or partial and right. False if there is none to judge.
fn is_transport_right(frame: &[u8]) -> bool {
    let packet = &frame[VNET_HDR_LEN.min(frame.len())..];
    if packet.len() < 20 {
        return false;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let Some(packet) = packet.get(..total) else {
        return false;
    };
    let Some((header, at)) = transport(packet) else {
        return false;
    };
    if (packet[6] & 0x3f, packet[7]) != (0, 0) {
        return false;
    }
    let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
    if frame[0] & 1 != 0 {
        return field == pseudo(packet, header);
    }
    (packet[9] == 17 && field == 0)
        || sum(pseudo(packet, header).into(), &packet[header..]) == 0xffff
}

fn sum(start: u32, data: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for pair in data.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// Offset of the transport header and of its checksum, if the packet is long enough.
fn transport(packet: &[u8]) -> Option<(usize, usize)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let offset = match *packet.get(9)? {
        1 => 2,
        6 => 16,
        17 => 6,
        _ => return None,
    };
    (header >= 20 && packet.len() >= header + offset + 2).then_some((header, header + offset))
}

fn pseudo(packet: &[u8], header: usize) -> u16 {
    if packet[9] == 1 {
        return 0;
    }
    let length = u32::try_from(packet.len() - header).unwrap_or(u32::MAX) & 0xffff;
    sum(u32::from(packet[9]) + length, &packet[12..20])
}

/// Puts version, length and checksums right, so that the fuzzer need not find them.
fn fix(packet: &mut [u8]) {
    if packet.len() < 20 {
        return;
    }
    packet[0] = 0x40 | (packet[0] & 0x0f);
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    if let Some((header, at)) = transport(packet) {
        packet[at..at + 2].fill(0);
        let value = !sum(pseudo(packet, header).into(), &packet[header..]);
        packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    let header = (usize::from(packet[0] & 0x0f) * 4).clamp(20, packet.len());
    packet[10..12].fill(0);
    let value = !sum(0, &packet[..header]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
}

/// Turns a complete checksum into a partial one.
fn make_partial(frame: &mut [u8]) {
    let Some((header, at)) = transport(&frame[VNET_HDR_LEN..]) else {
        return;
    };
    let value = pseudo(&frame[VNET_HDR_LEN..], header);
    frame[VNET_HDR_LEN + at..VNET_HDR_LEN + at + 2].copy_from_slice(&value.to_be_bytes());
    frame[0] = 1;
    frame[6..8].copy_from_slice(&u16::try_from(header).unwrap_or(0).to_ne_bytes());
    frame[8..10].copy_from_slice(&u16::try_from(at - header).unwrap_or(0).to_ne_bytes());
}

/// Exchanges source and destination, so that a packet becomes its answer; `argument` becomes TCP's flags.
fn exchange(packet: &mut [u8], argument: u8) {
    let (a, b) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    packet[12..16].copy_from_slice(&b);
    packet[16..20].copy_from_slice(&a);
    packet[8] = 64;
    if let Some((header, _)) = transport(packet) {
        if packet[9] == 1 {
            packet[header] ^= 8;
        } else {
            let ports = packet[header..header + 4].to_vec();
            packet[header..header + 2].copy_from_slice(&ports[2..]);
            packet[header + 2..header + 4].copy_from_slice(&ports[..2]);
        }
        if packet[9] == 6 && packet.len() >= header + 20 {
            let (sequence, ack) = (
                packet[header + 4..header + 8].to_vec(),
                packet[header + 8..header + 12].to_vec(),
            );
            packet[header + 4..header + 8].copy_from_slice(&ack);
            packet[header + 8..header + 12].copy_from_slice(&sequence);
            packet[header + 13] = argument & 0x1f;
        }
    }
    fix(packet);
}

/// An ICMP error to the sender of `packet` that quotes it.
fn error_about(packet: &[u8], argument: u8) -> Vec<u8> {
    let quote = &packet[..packet.len().min(28 + usize::from(argument & 0x1f))];
    let mut frame = vec![0; VNET_HDR_LEN];
    frame.extend([0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0, 10, 20, 0, 1]);
    frame.extend(&packet[12..16]);
    let kind = [3, 11, 12, 5][usize::from(argument >> 6)];
    frame.extend([kind, argument >> 5 & 1, 0, 0, 0, 0, 2, 0]);
    frame.extend(quote);
    fix(&mut frame[VNET_HDR_LEN..]);
    frame
}
