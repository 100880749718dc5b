//! One [`Forwarder`], a fake machine around it and a clock that only the test moves.
//!
//! ```text
//!   c1 172.17.0.2 ┐                                  ┌ lan client 10.9.0.50
//!   c2 172.17.0.3 ┴ gateway 172.17.0.1 ─┐            │
//!                                       host 10.9.0.10 ── (default route, MTU 1500) ── 10.20.0.0/16 and the rest
//!   c3 172.18.0.2 ─ gateway 172.18.0.1 ─┘   10.8.0.10 ── (MTU 1400) ── 10.80.0.0/16
//! ```
//!
//! A test makes one step at a time: a frame goes in, a [`Step`] comes out. [`World::step`] compares *every* counter
//! with what the verdict alone permits, so each test also proves that nothing else was counted.
//! `TUNBRIDGE_TEST_PCAP=DIRECTORY` writes one capture per test.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tunbridge::forwarder::{
    Access, Config, DropReason, Egress, EndpointId, EndpointPolicy, FamilyPolicy, Forwarder, Host,
    HostPorts, Instant, NetworkId, NetworkPolicy, Outbox, Policy, Protocol, Published, Stats,
    Verdict,
};

use super::packet::*;

pub(crate) const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
pub(crate) const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
pub(crate) const C3: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
pub(crate) const GATEWAY2: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The host's address on its first uplink: what the outside sees of containers.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
/// The host's address on its second uplink.
pub(crate) const HOST2: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 10);
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
/// Servers outside.
pub(crate) const S1: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
pub(crate) const S2: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// A server behind the second uplink, whose MTU is [`NARROW_MTU`].
pub(crate) const NARROW: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
pub(crate) const NARROW_MTU: u32 = 1400;
/// A destination that no route leads to.
pub(crate) const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

pub(crate) const SEED: [u8; 32] = [7; 32];

/// The machine around the forwarder: a routing table and a record of the port bitmap.
#[derive(Debug)]
pub(crate) struct FakeHost {
    routes: Mutex<Vec<(Ipv4Net, Option<Egress>)>>,
    ports: Mutex<BTreeMap<(Protocol, u16), bool>>,
    pub(crate) route_queries: AtomicUsize,
}

impl FakeHost {
    fn new() -> Self {
        let egress = |if_index, source, mtu| {
            Some(Egress {
                if_index,
                source: IpAddr::V4(source),
                mtu,
            })
        };
        let routes = vec![
            ("0.0.0.0/0".parse().unwrap(), egress(2, HOST, 1500)),
            (
                "10.80.0.0/16".parse().unwrap(),
                egress(3, HOST2, NARROW_MTU),
            ),
            ("10.99.0.0/16".parse().unwrap(), None),
        ];
        Self {
            routes: Mutex::new(routes),
            ports: Mutex::default(),
            route_queries: AtomicUsize::new(0),
        }
    }

    /// Adds or replaces a route; `None` makes the prefix unreachable.
    pub(crate) fn set_route(&self, prefix: &str, egress: Option<Egress>) {
        let prefix: Ipv4Net = prefix.parse().unwrap();
        let mut routes = self.routes.lock().unwrap();
        routes.retain(|(p, _)| *p != prefix);
        routes.push((prefix, egress));
    }

    pub(crate) fn port_is_ours(&self, protocol: Protocol, port: u16) -> bool {
        self.ports
            .lock()
            .unwrap()
            .get(&(protocol, port))
            .copied()
            .unwrap_or(false)
    }

    /// Every port whose bit is set.
    pub(crate) fn ports(&self) -> Vec<(Protocol, u16)> {
        let ports = self.ports.lock().unwrap();
        ports
            .iter()
            .filter(|(_, ours)| **ours)
            .map(|(key, _)| *key)
            .collect()
    }
}

impl Host for FakeHost {
    fn route(&self, destination: IpAddr) -> Option<Egress> {
        self.route_queries.fetch_add(1, Ordering::Relaxed);
        let IpAddr::V4(destination) = destination else {
            return None;
        };
        let routes = self.routes.lock().unwrap();
        let best = routes
            .iter()
            .filter(|(p, _)| p.contains(&destination))
            .max_by_key(|(p, _)| p.prefix_len());
        best.and_then(|(_, egress)| *egress)
    }

    fn set_external_port(&self, protocol: Protocol, port: u16, ours: bool) {
        self.ports.lock().unwrap().insert((protocol, port), ours);
    }
}

/// Two networks, three containers, the host's addresses, nothing published.
pub(crate) fn base_policy() -> Policy {
    let network = |id, subnet: &str, gateway| NetworkPolicy {
        id: NetworkId(id),
        families: vec![FamilyPolicy {
            subnet: subnet.parse::<IpNet>().unwrap(),
            gateway: Some(IpAddr::V4(gateway)),
            masquerade: true,
            source: None,
            access: Access::Closed,
        }],
        mtu: 1500,
        icc: true,
        internal: false,
        clamp_mss: false,
    };
    let endpoint = |id, network, address| EndpointPolicy {
        id: EndpointId(id),
        network: NetworkId(network),
        addresses: vec![IpAddr::V4(address)],
        open: Vec::new(),
    };
    Policy {
        networks: vec![
            network(1, "172.17.0.0/16", GATEWAY),
            network(2, "172.18.0.0/16", GATEWAY2),
        ],
        endpoints: vec![endpoint(1, 1, C1), endpoint(2, 1, C2), endpoint(3, 2, C3)],
        published: vec![],
        links: Vec::new(),
        local_addresses: [LOOPBACK, HOST, HOST2, GATEWAY, GATEWAY2]
            .map(IpAddr::V4)
            .to_vec(),
    }
}

/// The endpoint that owns a container address of [`base_policy`].
pub(crate) fn endpoint_of(address: Ipv4Addr) -> EndpointId {
    match address {
        C1 => EndpointId(1),
        C2 => EndpointId(2),
        C3 => EndpointId(3),
        other => panic!("{other} is no container"),
    }
}

/// Counters as a comparable value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) received: u64,
    pub(crate) forwarded: u64,
    pub(crate) to_host: u64,
    pub(crate) consumed: u64,
    pub(crate) generated: u64,
    /// Errors that the rate limit kept back.
    pub(crate) suppressed: u64,
    pub(crate) dropped: BTreeMap<&'static str, u64>,
}

impl From<&Stats> for Counters {
    fn from(stats: &Stats) -> Self {
        Self {
            received: stats.received,
            forwarded: stats.forwarded,
            to_host: stats.to_host,
            consumed: stats.consumed,
            generated: stats.generated,
            suppressed: stats.suppressed_errors,
            dropped: stats
                .dropped
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(r, n)| (r.name(), *n))
                .collect(),
        }
    }
}

/// What one frame led to.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) verdict: Verdict,
    /// The frame afterwards.
    pub(crate) frame: Frame,
    /// What the forwarder sent besides.
    pub(crate) generated: Vec<Frame>,
}

pub(crate) struct World {
    pub(crate) forwarder: Forwarder,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) now: Instant,
    pub(crate) policy: Policy,
    outbox: Outbox,
    counters: Counters,
    pcap: Option<File>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_config(Config::default())
    }

    pub(crate) fn with_config(config: Config) -> Self {
        let host = Arc::new(FakeHost::new());
        let forwarder = Forwarder::new(config, SEED, host.clone());
        let now = Instant::from_origin(Duration::from_secs(1_000));
        let policy = base_policy();
        forwarder.set_policy(policy.clone(), now);
        let pcap = std::env::var_os("TUNBRIDGE_TEST_PCAP").map(|directory| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed").replace("::", "-");
            let mut file =
                File::create(std::path::Path::new(&directory).join(name + ".pcap")).unwrap();
            let header: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 101];
            for word in header {
                file.write_all(&word.to_ne_bytes()).unwrap();
            }
            file
        });
        Self {
            forwarder,
            host,
            now,
            policy,
            outbox: Outbox::new(),
            counters: Counters::default(),
            pcap,
        }
    }

    // Policy.

    /// Publishes `host_address:host_port` of the host as `target`.
    pub(crate) fn publish(&mut self, protocol: Protocol, host: SocketAddrV4, target: SocketAddrV4) {
        self.publish_range(protocol, *host.ip(), host.port()..=host.port(), target);
    }

    pub(crate) fn publish_range(
        &mut self,
        protocol: Protocol,
        host_address: Ipv4Addr,
        host_ports: std::ops::RangeInclusive<u16>,
        target: SocketAddrV4,
    ) {
        self.policy.published.push(Published {
            protocol,
            host_address: IpAddr::V4(host_address),
            host_ports,
            endpoint: endpoint_of(*target.ip()),
            container_address: IpAddr::V4(*target.ip()),
            container_port: target.port(),
        });
        self.apply();
    }

    /// Changes the policy and hands it to the forwarder.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.policy);
        self.apply();
    }

    fn apply(&mut self) {
        self.forwarder.set_policy(self.policy.clone(), self.now);
    }

    pub(crate) fn host_ports(&mut self, ports: &[(Protocol, u16)]) {
        let mut set = HostPorts::new();
        for (protocol, port) in ports {
            set.insert(*protocol, *port);
        }
        self.forwarder.set_host_ports(set);
    }

    // Steps.

    /// Gives one frame to the forwarder and checks every counter against the verdict.
    #[track_caller]
    pub(crate) fn step(&mut self, frame: impl Into<Frame>) -> Step {
        let frame: Frame = frame.into();
        let step = self.step_bytes(&frame.bytes());
        match step.verdict {
            Verdict::Forward => {
                step.frame.segments();
            }
            Verdict::ToHost => {
                assert_eq!(step.frame, frame, "what goes to the host is not touched")
            }
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        for generated in &step.generated {
            generated.segments();
        }
        step
    }

    /// As [`World::step`] for octets that need not be a packet at all.
    #[track_caller]
    pub(crate) fn step_bytes(&mut self, bytes: &[u8]) -> Step {
        self.capture(&bytes[bytes.len().min(10)..]);
        let mut buffer = bytes.to_vec();
        let mut expected = self.counters.clone();
        let verdict = self
            .forwarder
            .handle_packet(&mut buffer, self.now, &mut self.outbox);
        let generated = self.drain();
        if matches!(verdict, Verdict::Forward) {
            self.capture(&buffer[10..]);
        }
        expected.received += 1;
        expected.generated += u64::try_from(generated.len()).unwrap();
        match verdict {
            Verdict::Forward => expected.forwarded += 1,
            Verdict::ToHost => expected.to_host += 1,
            Verdict::Consumed => expected.consumed += 1,
            Verdict::Drop(reason) => *expected.dropped.entry(reason.name()).or_default() += 1,
        }
        let before = self.counters.suppressed;
        self.counters = Counters::from(&self.forwarder.stats());
        if matches!(verdict, Verdict::Drop(_))
            && generated.is_empty()
            && self.counters.suppressed == before + 1
        {
            expected.suppressed += 1;
        }
        assert_eq!(self.counters, expected, "counters after {verdict:?}");
        let frame = if buffer.len() >= 10 {
            Frame::parse(&buffer)
        } else {
            Frame {
                vnet: Vnet::default(),
                packet: Packet(buffer),
            }
        };
        Step {
            verdict,
            frame,
            generated,
        }
    }

    fn drain(&mut self) -> Vec<Frame> {
        let mut generated = Vec::new();
        while let Some(frame) = self.outbox.pop() {
            let frame = Frame::parse(&frame[..]);
            self.capture(&frame.packet.0);
            generated.push(frame);
        }
        generated
    }

    /// The frame must be forwarded and nothing else happen.
    #[track_caller]
    pub(crate) fn forward_frame(&mut self, frame: impl Into<Frame>) -> Frame {
        let step = self.step(frame);
        assert_eq!(step.verdict, Verdict::Forward, "{step:?}");
        assert!(
            step.generated.is_empty(),
            "unexpected: {:?}",
            step.generated
        );
        step.frame
    }

    #[track_caller]
    pub(crate) fn forward(&mut self, frame: impl Into<Frame>) -> Packet {
        self.forward_frame(frame).packet
    }

    /// The frame must be dropped without a word; the reason's name is the result.
    #[track_caller]
    pub(crate) fn drops(&mut self, frame: impl Into<Frame>) -> &'static str {
        let step = self.step(frame);
        assert!(
            step.generated.is_empty(),
            "unexpected: {:?}",
            step.generated
        );
        reason(&step)
    }

    /// The frame must be dropped and answered by exactly one packet.
    #[track_caller]
    pub(crate) fn rejects(&mut self, frame: impl Into<Frame>) -> (&'static str, Packet) {
        let step = self.step(frame);
        let reason = reason(&step);
        assert_eq!(step.generated.len(), 1, "one answer expected: {step:?}");
        (reason, step.generated[0].packet.clone())
    }

    #[track_caller]
    pub(crate) fn leaves_to_host(&mut self, frame: impl Into<Frame>) {
        let step = self.step(frame);
        assert_eq!(step.verdict, Verdict::ToHost, "{step:?}");
        assert!(
            step.generated.is_empty(),
            "unexpected: {:?}",
            step.generated
        );
    }

    #[track_caller]
    pub(crate) fn consumes(&mut self, frame: impl Into<Frame>) -> Vec<Packet> {
        let step = self.step(frame);
        assert_eq!(step.verdict, Verdict::Consumed, "{step:?}");
        step.generated.into_iter().map(|f| f.packet).collect()
    }

    /// Lets time pass, with every timer handled when it is due. What they sent is the result.
    #[track_caller]
    pub(crate) fn advance(&mut self, by: Duration) -> Vec<Packet> {
        let target = self.now + by;
        let mut sent = Vec::new();
        let mut idle = 0;
        while let Some(due) = self.forwarder.poll_timeout() {
            if due > target {
                break;
            }
            if due > self.now {
                self.now = due;
                idle = 0;
            } else {
                idle += 1;
                assert!(idle < 100_000, "poll_timeout stays at {due:?}");
            }
            self.handle_timeout(&mut sent);
        }
        self.now = target;
        self.handle_timeout(&mut sent);
        sent
    }

    #[track_caller]
    fn handle_timeout(&mut self, sent: &mut Vec<Packet>) {
        let before = Counters::from(&self.forwarder.stats());
        self.forwarder.handle_timeout(self.now, &mut self.outbox);
        let generated = self.drain();
        self.counters = Counters::from(&self.forwarder.stats());
        let count = u64::try_from(generated.len()).unwrap();
        assert_eq!(
            self.counters.received, before.received,
            "a timer receives nothing"
        );
        assert_eq!(
            self.counters.generated,
            before.generated + count,
            "frames sent by timers"
        );
        for frame in generated {
            frame.segments();
            sent.push(frame.packet);
        }
    }

    pub(crate) fn secs(&mut self, seconds: u64) -> Vec<Packet> {
        self.advance(Duration::from_secs(seconds))
    }

    // Tables.

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// (flows, mappings) that are alive.
    pub(crate) fn tables(&self) -> (usize, usize) {
        let stats = self.forwarder.stats();
        (stats.flows, stats.mappings)
    }

    /// State of the flow that `client` opened to `server`, as they see it.
    pub(crate) fn state(
        &self,
        protocol: Protocol,
        client: SocketAddrV4,
        server: SocketAddrV4,
    ) -> Option<&'static str> {
        let original = (SocketAddr::V4(client), SocketAddr::V4(server));
        let flows = self.forwarder.flows(self.now);
        flows
            .iter()
            .find(|f| f.protocol == protocol && f.original == original)
            .map(|f| f.state)
    }

    /// Remaining life of that flow.
    pub(crate) fn timeout(
        &self,
        protocol: Protocol,
        client: SocketAddrV4,
        server: SocketAddrV4,
    ) -> Option<Duration> {
        let original = (SocketAddr::V4(client), SocketAddr::V4(server));
        let flows = self.forwarder.flows(self.now);
        flows
            .iter()
            .find(|f| f.protocol == protocol && f.original == original)
            .map(|f| f.timeout)
    }

    // Conversations.

    /// Sends one UDP datagram and returns the source the receiver sees.
    #[track_caller]
    pub(crate) fn udp(&mut self, from: SocketAddrV4, to: SocketAddrV4) -> SocketAddrV4 {
        self.forward(Packet::udp(from, to, b"question")).source()
    }

    /// UDP question and answer; returns the source the server saw.
    #[track_caller]
    pub(crate) fn udp_exchange(&mut self, from: SocketAddrV4, to: SocketAddrV4) -> SocketAddrV4 {
        let seen = self.forward(Packet::udp(from, to, b"question"));
        let answer = self.forward(Packet::udp(seen.destination(), seen.source(), b"answer"));
        assert_eq!((answer.source(), answer.destination()), (to, from));
        seen.source()
    }

    /// Sends an echo request and returns (source, identifier) that the receiver sees.
    #[track_caller]
    pub(crate) fn ping(&mut self, from: Ipv4Addr, to: Ipv4Addr, ident: u16) -> (Ipv4Addr, u16) {
        let seen = self.forward(Packet::echo_request(from, to, ident, 1, b"ping"));
        (seen.src(), seen.echo_ident())
    }

    /// A three-way handshake.
    #[track_caller]
    pub(crate) fn connect(&mut self, client: SocketAddrV4, server: SocketAddrV4) -> Tcp {
        let mut tcp = self.syn(client, server);
        let syn_ack = self.forward(tcp.reply(SYN | ACK, b""));
        assert_eq!((syn_ack.source(), syn_ack.destination()), (server, client));
        let seen = self.forward(tcp.packet(ACK, b""));
        assert_eq!(seen.source(), tcp.seen_client);
        tcp
    }

    /// The first SYN of a connection.
    #[track_caller]
    pub(crate) fn syn(&mut self, client: SocketAddrV4, server: SocketAddrV4) -> Tcp {
        let mut tcp = Tcp {
            client,
            server,
            seen_client: client,
            seen_server: server,
            next_client: 1_000_000,
            next_server: 3_000_000_000,
        };
        let syn = self.forward(tcp.packet(SYN, b""));
        tcp.seen_client = syn.source();
        tcp.seen_server = syn.destination();
        tcp
    }

    fn capture(&mut self, packet: &[u8]) {
        let Some(file) = &mut self.pcap else { return };
        let time = self.now.since_origin();
        let length = u32::try_from(packet.len()).unwrap();
        let header = [
            u32::try_from(time.as_secs()).unwrap(),
            time.subsec_micros(),
            length,
            length,
        ];
        for word in header {
            file.write_all(&word.to_ne_bytes()).unwrap();
        }
        file.write_all(packet).unwrap();
    }
}

#[track_caller]
fn reason(step: &Step) -> &'static str {
    match step.verdict {
        Verdict::Drop(reason) => {
            assert!(
                DropReason::ALL.contains(&reason),
                "{reason:?} is missing in ALL"
            );
            reason.name()
        }
        Verdict::Forward | Verdict::ToHost | Verdict::Consumed => panic!("not dropped: {step:?}"),
    }
}

/// Both ends of a TCP connection, with the addresses each of them sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    /// The client and the server as the client knows them.
    pub(crate) client: SocketAddrV4,
    pub(crate) server: SocketAddrV4,
    /// The client and the server as the server knows them.
    pub(crate) seen_client: SocketAddrV4,
    pub(crate) seen_server: SocketAddrV4,
    /// Next sequence numbers.
    pub(crate) next_client: u32,
    pub(crate) next_server: u32,
}

impl Tcp {
    /// The next segment the client sends.
    pub(crate) fn packet(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let ack = if flags & ACK == 0 {
            0
        } else {
            self.next_server
        };
        let packet = Packet::tcp(
            self.client,
            self.server,
            flags,
            self.next_client,
            ack,
            payload,
        );
        self.next_client = self.next_client.wrapping_add(length(flags, payload));
        packet
    }

    /// The next segment the server sends.
    pub(crate) fn reply(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let ack = if flags & ACK == 0 {
            0
        } else {
            self.next_client
        };
        let packet = Packet::tcp(
            self.seen_server,
            self.seen_client,
            flags,
            self.next_server,
            ack,
            payload,
        );
        self.next_server = self.next_server.wrapping_add(length(flags, payload));
        packet
    }
}

/// Sequence space a segment uses.
fn length(flags: u8, payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap()
        + u32::from(flags & SYN != 0)
        + u32::from(flags & FIN != 0)
}
