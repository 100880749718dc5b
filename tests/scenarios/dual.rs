//! smoltcp hosts around one forwarder, in both address families.
//!
//! ```text
//!   c1 172.17.0.2 fd00:17::2 ┐ net 1, NAT in both        host 10.9.0.10 2001:db8::10 ── outside 10.20.0.1 2001:db8:20::1
//!   c2 172.17.0.3 fd00:17::3 ┘ gateways 172.17.0.1 fd00:17::1
//!   c3 172.18.0.2 2001:db8:18::2 ─ net 2, IPv4 NAT, IPv6 routed, TCP 80 open
//!   published: tcp and udp 8080 of both families → c1's port 80 in the same one
//! ```
//!
//! Steering is simpler here than in [`super::net`]: all that is not between neighbours is judged, and what the
//! forwarder leaves to the host reaches it. The wire outside has a latency and faults.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint};
use tunbridge::forwarder::{
    Access, Config, DropReason, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host,
    Instant, NetworkId, NetworkPolicy, OpenPorts, Outbox, Policy, Protocol, Published,
    VNET_HDR_LEN, Verdict,
};

use super::net::{Faults, Wire, tcp_socket};

const LATENCY: Duration = Duration::from_millis(5);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Routes: everything leaves by one uplink, with the address of the destination's family.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) mtu: AtomicU32,
    ports: Mutex<BTreeMap<(Protocol, u16), bool>>,
}

impl Host for Machine {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        let source = match destination {
            IpAddr::V4(_) => ip("10.9.0.10"),
            IpAddr::V6(_) => ip("2001:db8::10"),
        };
        Some(Egress {
            if_index: 2,
            source,
            mtu: self.mtu.load(Ordering::Relaxed),
        })
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        self.ports.lock().unwrap().insert((protocol, port), ours);
    }
}

pub(crate) fn policy() -> Policy {
    let family = |subnet: &str, gateway: &str| FamilyPolicy {
        subnet: subnet.parse().unwrap(),
        gateway: Some(ip(gateway)),
        masquerade: true,
        source: None,
        access: Access::Closed,
    };
    let network = |id, families| NetworkPolicy {
        id: NetworkId(id),
        families,
        mtu: 1500,
        icc: true,
        internal: false,
        clamp_mss: false,
    };
    let routed = FamilyPolicy {
        masquerade: false,
        access: Access::Ports,
        ..family("2001:db8:18::/64", "2001:db8:18::1")
    };
    let endpoint = |id, network, addresses: [&str; 2]| EndpointPolicy {
        id: EndpointId(id),
        network: NetworkId(network),
        addresses: addresses.map(ip).to_vec(),
        open: Vec::new(),
    };
    let open = OpenPorts {
        ipv4: false,
        protocol: Protocol::Tcp,
        ports: 80..=80,
    };
    let published = |protocol, host: &str, container: &str| Published {
        protocol,
        host_address: ip(host),
        host_ports: 8080..=8080,
        endpoint: EndpointId(1),
        container_address: ip(container),
        container_port: 80,
    };
    let local = ["10.9.0.10", "127.0.0.1", "2001:db8::10", "::1"];
    Policy {
        networks: vec![
            network(
                1,
                vec![
                    family("172.17.0.0/16", "172.17.0.1"),
                    family("fd00:17::/64", "fd00:17::1"),
                ],
            ),
            network(2, vec![family("172.18.0.0/16", "172.18.0.1"), routed]),
        ],
        endpoints: vec![
            endpoint(1, 1, ["172.17.0.2", "fd00:17::2"]),
            endpoint(2, 1, ["172.17.0.3", "fd00:17::3"]),
            EndpointPolicy {
                open: vec![open],
                ..endpoint(3, 2, ["172.18.0.2", "2001:db8:18::2"])
            },
        ],
        published: [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| {
                [
                    published(protocol, "0.0.0.0", "172.17.0.2"),
                    published(protocol, "::", "fd00:17::2"),
                ]
            })
            .collect(),
        links: Vec::new(),
        local_addresses: local.map(ip).to_vec(),
    }
}

struct Node {
    addresses: Vec<IpAddr>,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
}

/// Index of a node: [`HOST`], [`C1`], …
pub(crate) type NodeId = usize;
pub(crate) const HOST: NodeId = 0;
pub(crate) const C1: NodeId = 1;
pub(crate) const C2: NodeId = 2;
pub(crate) const C3: NodeId = 3;
pub(crate) const OUTSIDE: NodeId = 4;

const ADDRESSES: [&[&str]; 5] = [
    &[
        "10.9.0.10",
        "127.0.0.1",
        "172.17.0.1",
        "172.18.0.1",
        "2001:db8::10",
        "::1",
        "fd00:17::1",
        "2001:db8:18::1",
    ],
    &["172.17.0.2", "fd00:17::2"],
    &["172.17.0.3", "fd00:17::3"],
    &["172.18.0.2", "2001:db8:18::2"],
    &["10.20.0.1", "2001:db8:20::1"],
];

type Flight = (Duration, u64, NodeId, Vec<u8>);

pub(crate) struct Dual {
    pub(crate) forwarder: Forwarder,
    pub(crate) machine: Arc<Machine>,
    pub(crate) faults: Faults,
    /// Neighbours do not reach each other without it (icc is off).
    pub(crate) bridge_asks_the_forwarder: bool,
    pub(crate) dropped: Vec<DropReason>,
    /// Packets that arrived at a node.
    pub(crate) seen: Vec<(NodeId, Vec<u8>)>,
    now: Instant,
    out: Outbox,
    nodes: Vec<Node>,
    flight: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    random: u64,
}

impl Dual {
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        let machine = Arc::new(Machine {
            mtu: AtomicU32::new(1500),
            ports: Mutex::default(),
        });
        let forwarder = Forwarder::new(
            Config::default(),
            [7; 32],
            Arc::clone(&machine) as Arc<dyn Host>,
        );
        let now = Instant::from_origin(Duration::from_secs(1000));
        forwarder.set_policy(policy, now);
        let mut net = Self {
            forwarder,
            machine,
            faults: Faults::default(),
            bridge_asks_the_forwarder: false,
            dropped: Vec::new(),
            seen: Vec::new(),
            now,
            out: Outbox::new(),
            nodes: Vec::new(),
            flight: BinaryHeap::new(),
            sent: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        for addresses in ADDRESSES {
            let addresses = addresses.iter().copied().map(ip).collect();
            net.add(addresses);
        }
        net
    }

    fn add(&mut self, addresses: Vec<IpAddr>) {
        let mut wire = Wire::new(1500);
        let mut config = IfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = self.next_random();
        let mut iface = Interface::new(config, &mut wire, self.clock());
        iface.update_ip_addrs(|list| {
            for &address in &addresses {
                let length = if address.is_ipv4() { 32 } else { 128 };
                list.push(IpCidr::new(address.into(), length)).unwrap();
            }
        });
        for &address in &addresses {
            let routes = iface.routes_mut();
            match address {
                IpAddr::V4(address) => drop(routes.add_default_ipv4_route(address).unwrap()),
                IpAddr::V6(address) => drop(routes.add_default_ipv6_route(address).unwrap()),
            }
        }
        self.nodes.push(Node {
            addresses,
            wire,
            iface,
            sockets: SocketSet::new(Vec::new()),
        });
    }

    pub(crate) fn listen(&mut self, node: NodeId, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).unwrap();
        self.nodes[node].sockets.add(socket)
    }

    pub(crate) fn connect(&mut self, node: NodeId, from: &str, to: &str) -> SocketHandle {
        let mut socket = tcp_socket();
        let node = &mut self.nodes[node];
        let (from, to) = (end(from), end(to));
        socket.connect(node.iface.context(), to, from).unwrap();
        node.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, node: NodeId, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.nodes[node].sockets.get_mut(handle)
    }

    pub(crate) fn udp(&mut self, node: NodeId, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 1 << 16]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(IpListenEndpoint::from(port)).unwrap();
        self.nodes[node].sockets.add(socket)
    }

    pub(crate) fn udp_socket(
        &mut self,
        node: NodeId,
        handle: SocketHandle,
    ) -> &mut udp::Socket<'static> {
        self.nodes[node].sockets.get_mut(handle)
    }

    pub(crate) fn icmp(&mut self, node: NodeId, bound: icmp::Endpoint) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 1 << 14]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(bound).unwrap();
        self.nodes[node].sockets.add(socket)
    }

    pub(crate) fn icmp_socket(
        &mut self,
        node: NodeId,
        handle: SocketHandle,
    ) -> &mut icmp::Socket<'static> {
        self.nodes[node].sockets.get_mut(handle)
    }

    /// Runs until `done` or until `limit` has passed; tells whether `done` came true.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        while self.now < end {
            self.settle();
            if done(self) {
                return true;
            }
            let clock = self.clock();
            let mut next = self.now.since_origin() + Duration::from_millis(50);
            if let Some(Reverse((due, ..))) = self.flight.peek() {
                next = next.min(*due);
            }
            for node in &mut self.nodes {
                if let Some(delay) = node.iface.poll_delay(clock, &node.sockets) {
                    let delay = Duration::from_micros(delay.total_micros().max(1));
                    next = next.min(self.now.since_origin() + delay);
                }
            }
            self.now = Instant::from_origin(next);
            self.forwarder.handle_timeout(self.now, &mut self.out);
            self.emerge_all();
        }
        false
    }

    fn settle(&mut self) {
        loop {
            let now = self.now.since_origin();
            let mut busy = false;
            while let Some(Reverse((due, ..))) = self.flight.peek()
                && *due <= now
            {
                let Some(Reverse((_, _, to, packet))) = self.flight.pop() else {
                    break;
                };
                busy = true;
                if to == HOST {
                    self.judge(packet);
                } else {
                    self.deliver(to, packet);
                }
            }
            let clock = self.clock();
            for index in 0..self.nodes.len() {
                let node = &mut self.nodes[index];
                node.iface.poll(clock, &mut node.wire, &mut node.sockets);
                while let Some(packet) = self.nodes[index].wire.sent() {
                    busy = true;
                    self.leave(index, packet);
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn clock(&self) -> SmolInstant {
        SmolInstant::from_micros(i64::try_from(self.now.since_origin().as_micros()).unwrap())
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A node puts a packet on its wire.
    fn leave(&mut self, from: NodeId, packet: Vec<u8>) {
        let to = self.find(destination(&packet));
        match (from, to) {
            (C1, Some(to @ C2)) | (C2, Some(to @ C1)) if !self.bridge_asks_the_forwarder => {
                self.deliver(to, packet);
            }
            (C1 | C2 | C3, _) | (HOST, Some(HOST)) => self.judge(packet),
            (HOST, Some(container @ (C1 | C2 | C3))) => self.deliver(container, packet),
            (OUTSIDE, _) => self.cross(HOST, packet),
            _ => self.cross(OUTSIDE, packet),
        }
    }

    /// Onto the wire between the uplink and the outside.
    fn cross(&mut self, to: NodeId, packet: Vec<u8>) {
        let Faults {
            loss,
            duplication,
            reorder,
        } = self.faults;
        if self.next_random() % 1000 < loss {
            return;
        }
        let copies = 1 + usize::from(self.next_random() % 1000 < duplication);
        for _ in 0..copies {
            let mut due = self.now.since_origin() + LATENCY;
            if self.next_random() % 1000 < reorder {
                due += Duration::from_millis(1 + self.next_random() % 8);
            }
            self.sent += 1;
            let flight = (due, self.sent, to, packet.clone());
            self.flight.push(Reverse(flight));
        }
    }

    fn judge(&mut self, packet: Vec<u8>) {
        let mut frame = vec![0; VNET_HDR_LEN];
        frame.extend(packet);
        let verdict = self
            .forwarder
            .handle_packet(&mut frame, self.now, &mut self.out);
        match verdict {
            Verdict::Forward => self.emerge(frame.split_off(VNET_HDR_LEN)),
            Verdict::ToHost => self.deliver(HOST, frame.split_off(VNET_HDR_LEN)),
            Verdict::Consumed => {}
            Verdict::Drop(reason) => self.dropped.push(reason),
        }
        self.emerge_all();
    }

    fn emerge_all(&mut self) {
        while let Some(mut frame) = self.out.pop() {
            self.emerge(frame.split_off(VNET_HDR_LEN));
        }
    }

    /// The TUN's ingress program: by destination.
    fn emerge(&mut self, packet: Vec<u8>) {
        match self.find(destination(&packet)) {
            Some(node @ (HOST | C1 | C2 | C3)) => self.deliver(node, packet),
            _ => self.cross(OUTSIDE, packet),
        }
    }

    fn deliver(&mut self, to: NodeId, packet: Vec<u8>) {
        self.seen.push((to, packet.clone()));
        self.nodes[to].wire.arrives(packet);
    }

    fn find(&self, address: IpAddr) -> Option<NodeId> {
        self.nodes
            .iter()
            .position(|node| node.addresses.contains(&address))
    }
}

fn destination(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap())
    }
}
