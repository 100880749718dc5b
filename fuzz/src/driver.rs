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

#[path = "octets.rs"]
mod octets;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tunbridge::forwarder::{
    Access, Config, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host, HostPorts,
    Instant, NetworkId, NetworkPolicy, Outbox, Policy, Protocol, Published, VNET_HDR_LEN, Verdict,
};

use octets::{
    addresses, check_emitted, error_about, exchange, fix, hops_at, is_transport_right, make_partial,
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

const fn wide(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host)
}

/// The same in IPv6.
const KNOWN6: [Ipv6Addr; 8] = [
    wide(0x17, 2),
    wide(0x18, 2),
    wide(0, 10),
    Ipv6Addr::LOCALHOST,
    wide(0x17, 1),
    wide(0x20, 1),
    wide(0x80, 1),
    wide(0x9, 50),
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
        let state = self.route.load(Ordering::Relaxed);
        let destination = match destination {
            IpAddr::V4(destination) => destination,
            IpAddr::V6(destination) => {
                let mtu = match (destination.segments()[2], state % 4) {
                    (_, 3) => return None,
                    (0x80, _) => 1280,
                    _ => 1500,
                };
                return Some(Egress {
                    if_index: 2,
                    source: IpAddr::V6(wide(u16::from(state % 4 == 2), 10)),
                    mtu,
                });
            }
        };
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
    let family = |subnet: &str, gateway| FamilyPolicy {
        subnet: subnet.parse().expect("a prefix"),
        gateway: Some(gateway),
        masquerade: variant & 4 == 0,
        source: None,
        access: match variant >> 5 & 3 {
            0 => Access::Closed,
            1 => Access::Ports,
            _ => Access::Open,
        },
    };
    let network = |id: u8, mtu| NetworkPolicy {
        id: NetworkId(id.into()),
        families: vec![
            family(
                &format!("172.{}.0.0/16", 16 + id),
                IpAddr::V4(Ipv4Addr::new(172, 16 + id, 0, 1)),
            ),
            family(
                &format!("2001:db8:{}::/64", 16 + id),
                IpAddr::V6(wide(0x16 + u16::from(id), 1)),
            ),
        ],
        mtu,
        icc: variant & 8 == 0,
        internal: variant & 128 != 0 && id == 2,
        clamp_mss: variant & 16 != 0,
    };
    let endpoint = |id: u8, address| EndpointPolicy {
        id: EndpointId(id.into()),
        network: NetworkId(id.into()),
        addresses: vec![
            IpAddr::V4(address),
            IpAddr::V6(wide(0x16 + u16::from(id), 2)),
        ],
        open: Vec::new(),
    };
    let published = |protocol, ports: std::ops::RangeInclusive<u16>, id: u8, address| Published {
        protocol,
        host_address: match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        },
        host_ports: ports,
        endpoint: EndpointId(id.into()),
        container_address: address,
        container_port: 80,
    };
    let across = |protocol, ports| Published {
        host_address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ..published(protocol, ports, 1, C1.into())
    };
    let mut policy = Policy {
        networks: vec![network(1, 1500), network(2, 700)],
        endpoints: vec![endpoint(1, C1), endpoint(2, C2)],
        published: vec![
            published(Protocol::Tcp, 8080..=8080, 1, KNOWN6[0].into()),
            published(Protocol::Udp, 8080..=8089, 1, KNOWN6[0].into()),
            published(Protocol::Tcp, 8080..=8080, 1, C1.into()),
            published(Protocol::Udp, 8080..=8089, 1, C1.into()),
            // These lead from IPv6 to IPv4.
            across(Protocol::Tcp, 9090..=9090),
            across(Protocol::Udp, 9090..=9090),
            published(Protocol::Udp, 61_000..=61_001, 2, C2.into()),
        ],
        links: Vec::new(),
        local_addresses: vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V4(HOST),
            IpAddr::V4(Ipv4Addr::new(10, 8, 0, 10)),
            IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)),
            IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1)),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V6(wide(0, 10)),
            IpAddr::V6(wide(1, 10)),
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
                    let (from, to) = (usize::from(argument >> 2 & 7), usize::from(argument >> 5));
                    let [src, dst] = addresses(packet);
                    let octets = |known: usize| match src.len() {
                        4 => KNOWN[known].octets().to_vec(),
                        _ => KNOWN6[known].octets().to_vec(),
                    };
                    if argument & 1 != 0 && src.end <= packet.len() {
                        packet[src.clone()].copy_from_slice(&octets(from));
                    }
                    if argument & 2 != 0 && dst.end <= packet.len() {
                        packet[dst].copy_from_slice(&octets(to));
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
                if is_transport_right(&before) == Some(true) {
                    assert_eq!(
                        is_transport_right(&frame),
                        Some(true),
                        "transport checksum: {before:02x?} became {frame:02x?}"
                    );
                }
                let ttl = VNET_HDR_LEN + hops_at(&frame[VNET_HDR_LEN..]);
                assert!(frame[ttl] < before[ttl], "TTL does not fall");
                self.last = frame;
            }
            Verdict::ToHost => assert_eq!(frame, before, "a frame for the host was changed"),
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        // What was translated into the other family is among what was made.
        self.drain(is_transport_right(&before) == Some(true));
    }

    fn timers(&mut self) {
        for _ in 0..10_000 {
            match self.forwarder.poll_timeout() {
                Some(due) if due <= self.now => {
                    self.forwarder.handle_timeout(self.now, &mut self.out)
                }
                _ => {
                    self.drain(false);
                    return;
                }
            }
        }
        panic!("timers never settle");
    }

    /// `right`: they are made of a packet whose transport checksum was right.
    fn drain(&mut self, right: bool) {
        while let Some(frame) = self.out.pop() {
            self.generated += 1;
            check_emitted(&frame);
            assert!(
                !right || is_transport_right(&frame) != Some(false),
                "transport checksum of {frame:02x?}"
            );
            if right {
                self.last.clone_from(&frame);
            }
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
        self.drain(false);
        let stats = self.forwarder.stats();
        assert_eq!(
            (stats.flows, stats.mappings, self.machine.ports()),
            (0, 0, 0),
            "something never expires"
        );
        assert_eq!(self.forwarder.poll_timeout(), None);
    }
}
