//! smoltcp hosts around a [`World`], on its virtual clock.
//!
//! Where a packet goes is decided as the eBPF programs decide it: steering by where it enters and what it is
//! addressed to, the TUN's ingress program by destination. Packets that steering leaves alone reach the host's own
//! stack, which is one more smoltcp host here. The wire between the uplink and the outside has a latency and can
//! lose, duplicate and reorder, from a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

/// Two queues of packets: the only hardware a host has.
#[derive(Debug)]
pub(crate) struct Wire {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    mtu: usize,
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Sender<'a>(&'a mut VecDeque<Vec<u8>>);

impl Wire {
    pub(crate) const fn new(mtu: usize) -> Self {
        Self {
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            mtu,
        }
    }

    pub(crate) fn arrives(&mut self, packet: Vec<u8>) {
        self.rx.push_back(packet);
    }

    /// The oldest packet that the host has sent.
    pub(crate) fn sent(&mut self) -> Option<Vec<u8>> {
        self.tx.pop_front()
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut buffer = vec![0; len];
        let result = f(&mut buffer);
        self.0.push_back(buffer);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sender<'_>)> {
        let packet = self.rx.pop_front()?;
        Some((Received(packet), Sender(&mut self.tx)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// What a wire may do to packets, in per mille.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reorder: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Container,
    Host,
    Outside,
}

/// A machine: smoltcp's stack and its sockets.
pub(crate) struct Node {
    place: Place,
    addresses: Vec<Ipv4Addr>,
    wire: Wire,
    iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    /// Leave checksums to the device, as Linux does.
    pub(crate) offload: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

pub(crate) struct Net {
    pub(crate) world: World,
    pub(crate) faults: Faults,
    /// Packets that no rule delivers anywhere.
    pub(crate) lost: Vec<Packet>,
    /// Packets that arrived at a node, in order; only kept when asked for.
    pub(crate) seen: Option<Vec<(NodeId, Packet)>>,
    nodes: Vec<Node>,
    flight: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    random: u64,
}

/// When a packet arrives, its number, the node it goes to, and its octets.
type Flight = (Duration, u64, usize, Vec<u8>);

/// One-way delay between the uplink and the outside.
const LATENCY: Duration = Duration::from_millis(5);

impl Net {
    /// The host itself is node 0.
    pub(crate) fn new(world: World, seed: u64) -> Self {
        let mut net = Self {
            world,
            faults: Faults::default(),
            lost: Vec::new(),
            seen: None,
            nodes: Vec::new(),
            flight: BinaryHeap::new(),
            sent: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        net.add(
            Place::Host,
            &[HOST, LOOPBACK, HOST2, GATEWAY, GATEWAY2],
            1500,
        );
        net
    }

    pub(crate) const HOST: NodeId = NodeId(0);

    pub(crate) fn container(&mut self, address: Ipv4Addr) -> NodeId {
        self.add(Place::Container, &[address], 1500)
    }

    pub(crate) fn outside(&mut self, address: Ipv4Addr) -> NodeId {
        self.add(Place::Outside, &[address], 1500)
    }

    fn add(&mut self, place: Place, addresses: &[Ipv4Addr], mtu: usize) -> NodeId {
        let mut wire = Wire::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = self.next_random();
        let mut iface = Interface::new(config, &mut wire, self.clock());
        iface.update_ip_addrs(|list| {
            for address in addresses {
                list.push(IpCidr::new(IpAddress::Ipv4(*address), 32))
                    .unwrap();
            }
        });
        iface
            .routes_mut()
            .add_default_ipv4_route(addresses[0])
            .unwrap();
        let sockets = SocketSet::new(Vec::new());
        self.nodes.push(Node {
            place,
            addresses: addresses.to_vec(),
            wire,
            iface,
            sockets,
            offload: false,
        });
        NodeId(self.nodes.len() - 1)
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    // Sockets.

    pub(crate) fn tcp_listen(&mut self, node: NodeId, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).unwrap();
        self.node(node).sockets.add(socket)
    }

    pub(crate) fn tcp_connect(
        &mut self,
        node: NodeId,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> SocketHandle {
        let mut socket = tcp_socket();
        let local = IpListenEndpoint {
            addr: Some(IpAddress::Ipv4(*from.ip())),
            port: from.port(),
        };
        let remote = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
        let node = self.node(node);
        socket.connect(node.iface.context(), remote, local).unwrap();
        node.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, node: NodeId, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.node(node).sockets.get_mut(handle)
    }

    pub(crate) fn udp_bind(&mut self, node: NodeId, local: SocketAddrV4) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 1 << 17]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let addr = (!local.ip().is_unspecified()).then_some(IpAddress::Ipv4(*local.ip()));
        socket
            .bind(IpListenEndpoint {
                addr,
                port: local.port(),
            })
            .unwrap();
        self.node(node).sockets.add(socket)
    }

    pub(crate) fn udp_send(
        &mut self,
        node: NodeId,
        handle: SocketHandle,
        to: SocketAddrV4,
        payload: &[u8],
    ) {
        let remote = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
        let socket: &mut udp::Socket<'_> = self.node(node).sockets.get_mut(handle);
        socket.send_slice(payload, remote).unwrap();
    }

    pub(crate) fn udp_receive(
        &mut self,
        node: NodeId,
        handle: SocketHandle,
    ) -> Option<(SocketAddrV4, Vec<u8>)> {
        let socket: &mut udp::Socket<'_> = self.node(node).sockets.get_mut(handle);
        let (payload, meta) = socket.recv().ok()?;
        Some((v4(meta.endpoint), payload.to_vec()))
    }

    pub(crate) fn ping_socket(&mut self, node: NodeId, ident: u16) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 1 << 14]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
        self.node(node).sockets.add(socket)
    }

    // Running.

    /// Runs until `done` or until `limit` has passed; tells whether `done` came true.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.world.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let Some(next) = self.next_event() else {
                return false;
            };
            if next > end.since_origin() {
                self.world.advance(end.saturating_since(self.world.now));
                return false;
            }
            let step = next
                .saturating_sub(self.world.now.since_origin())
                .max(Duration::from_micros(1));
            for packet in self.world.advance(step) {
                self.emerge(packet);
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Everything that can happen now happens.
    fn settle(&mut self) {
        loop {
            let now = self.world.now.since_origin();
            let mut busy = false;
            while let Some(Reverse((due, ..))) = self.flight.peek()
                && *due <= now
            {
                let Some(Reverse((_, _, to, packet))) = self.flight.pop() else {
                    break;
                };
                busy = true;
                self.arrive(to, packet);
            }
            let clock = self.clock();
            for index in 0..self.nodes.len() {
                let node = &mut self.nodes[index];
                node.iface.poll(clock, &mut node.wire, &mut node.sockets);
                while let Some(packet) = self.nodes[index].wire.sent() {
                    busy = true;
                    self.leave(index, Packet(packet));
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn next_event(&mut self) -> Option<Duration> {
        let clock = self.clock();
        let mut next = self.flight.peek().map(|Reverse((due, ..))| *due);
        for node in &mut self.nodes {
            if let Some(at) = node.iface.poll_at(clock, &node.sockets) {
                let at = Duration::from_micros(u64::try_from(at.total_micros()).unwrap());
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        }
        next
    }

    fn clock(&self) -> SmolInstant {
        SmolInstant::from_micros(i64::try_from(self.world.now.since_origin().as_micros()).unwrap())
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        self.next_random() % 1000 < per_mille
    }

    /// A node puts a packet on its wire.
    fn leave(&mut self, from: usize, packet: Packet) {
        let destination = packet.dst();
        match self.nodes[from].place {
            Place::Container => {
                let same = same_network(packet.src(), destination);
                if same && let Some(neighbour) = self.find(Place::Container, destination) {
                    self.deliver(neighbour, packet);
                } else if self.is_local(destination) && !self.is_ours(&packet) {
                    self.deliver(0, packet);
                } else {
                    self.judge(from, packet);
                }
            }
            Place::Host => {
                if self.is_local(destination) {
                    if self.is_ours(&packet) {
                        self.judge(from, packet);
                    } else {
                        self.deliver(0, packet);
                    }
                } else if let Some(container) = self.find(Place::Container, destination) {
                    self.deliver(container, packet);
                } else {
                    self.cross(self.find(Place::Outside, destination), packet);
                }
            }
            Place::Outside => {
                if self.is_local(destination) {
                    self.cross(Some(0), packet);
                } else {
                    self.cross(self.find(Place::Outside, destination), packet);
                }
            }
        }
    }

    /// Onto the wire between the uplink and the outside.
    fn cross(&mut self, to: Option<usize>, packet: Packet) {
        let Some(to) = to else {
            self.lost.push(packet);
            return;
        };
        if self.happens(self.faults.loss) {
            return;
        }
        let copies = if self.happens(self.faults.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut due = self.world.now.since_origin() + LATENCY;
            if self.happens(self.faults.reorder) {
                due += Duration::from_millis(1 + self.next_random() % 8);
            }
            self.sent += 1;
            self.flight
                .push(Reverse((due, self.sent, to, packet.0.clone())));
        }
    }

    /// At the far end of that wire.
    fn arrive(&mut self, to: usize, packet: Vec<u8>) {
        let packet = Packet(packet);
        if to == 0 && self.is_ours(&packet) {
            self.judge(0, packet);
        } else {
            self.deliver(to, packet);
        }
    }

    /// Through the forwarder.
    fn judge(&mut self, from: usize, packet: Packet) {
        let frame = if self.nodes[from].offload
            && packet.checksum_at().is_some()
            && packet.protocol() != ICMP
        {
            if packet.is_fragment() {
                packet.into()
            } else {
                Frame::partial(packet)
            }
        } else {
            packet.into()
        };
        let step = self.world.step(&frame);
        match step.verdict {
            Verdict::Forward => {
                for segment in step.frame.segments() {
                    self.emerge(segment);
                }
            }
            Verdict::ToHost => self.deliver(0, step.frame.packet),
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        for generated in step.generated {
            self.emerge(generated.packet);
        }
    }

    /// The TUN's ingress program: by destination.
    fn emerge(&mut self, packet: Packet) {
        let destination = packet.dst();
        if let Some(container) = self.find(Place::Container, destination) {
            self.deliver(container, packet);
        } else if self.is_local(destination) {
            self.deliver(0, packet);
        } else {
            self.cross(self.find(Place::Outside, destination), packet);
        }
    }

    fn deliver(&mut self, to: usize, packet: Packet) {
        if let Some(seen) = &mut self.seen {
            seen.push((NodeId(to), packet.clone()));
        }
        self.nodes[to].wire.arrives(packet.0);
    }

    fn find(&self, place: Place, address: Ipv4Addr) -> Option<usize> {
        self.nodes
            .iter()
            .position(|n| n.place == place && n.addresses.contains(&address))
    }

    fn is_local(&self, address: Ipv4Addr) -> bool {
        self.nodes[0].addresses.contains(&address)
    }

    /// Does steering divert this packet to a local address?
    fn is_ours(&self, packet: &Packet) -> bool {
        if packet.is_fragment() {
            return true;
        }
        let (protocol, port) = match packet.protocol() {
            TCP => (Protocol::Tcp, packet.dport()),
            UDP => (Protocol::Udp, packet.dport()),
            ICMP => match packet.icmp_type_code().0 {
                ECHO_REPLY => (Protocol::Icmp, packet.echo_ident()),
                UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM | SOURCE_QUENCH => {
                    let quote = packet.quote();
                    match quote.protocol() {
                        TCP => (Protocol::Tcp, quote.sport()),
                        UDP => (Protocol::Udp, quote.sport()),
                        _ => (Protocol::Icmp, quote.echo_ident()),
                    }
                }
                _ => return false,
            },
            _ => return false,
        };
        let published = self.world.policy.published.iter().any(|p| {
            let any = p.host_address == std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            p.protocol == protocol
                && p.host_ports.contains(&port)
                && (any || p.host_address == packet.dst())
        });
        published || self.world.host.port_is_ours(protocol, port)
    }
}

pub(crate) fn v4(endpoint: IpEndpoint) -> SocketAddrV4 {
    let IpAddress::Ipv4(address) = endpoint.addr else {
        panic!("{endpoint} is not IPv4")
    };
    SocketAddrV4::new(address, endpoint.port)
}

pub(crate) fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn same_network(a: Ipv4Addr, b: Ipv4Addr) -> bool {
    a.octets()[..2] == b.octets()[..2]
}
