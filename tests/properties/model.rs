//! The translator against a naive model of it: lists instead of tables, no ports of its own.
//!
//! The model does not predict *which* external port a mapping gets, only which it may get; everything else (verdict,
//! addresses, when a flow ends, how many are alive, which bits are set) it predicts for every operation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;
use tunbridge::forwarder::{Config, EndpointId, Protocol, Verdict};

use super::invariants::{bitmap_is_the_set_of_mappings, cases};
use super::packet::*;
use super::world::*;

#[derive(Clone, Debug)]
enum Operation {
    /// Container, source port and server by number.
    Udp(u8, u8, u8),
    Ping(u8, u8, u8),
    /// A whole handshake.
    Connect(u8, u8, u8),
    /// The server resets a connection.
    Reset(usize),
    /// The peer of a flow answers.
    Reply(usize),
    /// A host that the container may not know sends to a mapping.
    Knock(usize, u8),
    /// Outside client calls the published UDP port.
    Call(u8),
    Pass(u16),
    ReplaceEndpoint(u8),
    Publish(bool),
    /// The host takes the port of a mapping.
    TakePort(usize),
    ReleasePorts,
}

fn operation() -> impl Strategy<Value = Operation> {
    let tuple = || (0_u8..3, 0_u8..6, 0_u8..4);
    prop_oneof![
        5 => tuple().prop_map(|(c, p, s)| Operation::Udp(c, p, s)),
        2 => tuple().prop_map(|(c, p, s)| Operation::Ping(c, p, s)),
        3 => tuple().prop_map(|(c, p, s)| Operation::Connect(c, p, s)),
        1 => any::<usize>().prop_map(Operation::Reset),
        6 => any::<usize>().prop_map(Operation::Reply),
        3 => (any::<usize>(), 0_u8..5).prop_map(|(m, s)| Operation::Knock(m, s)),
        2 => (0_u8..3).prop_map(Operation::Call),
        4 => (1_u16..400).prop_map(Operation::Pass),
        1 => (0_u8..3).prop_map(Operation::ReplaceEndpoint),
        1 => any::<bool>().prop_map(Operation::Publish),
        1 => any::<usize>().prop_map(Operation::TakePort),
        1 => Just(Operation::ReleasePorts),
    ]
}

/// A flow as the model keeps it.
#[derive(Clone, Debug)]
struct Flow {
    protocol: Protocol,
    /// The container's end; for ICMP the port is the identifier.
    inner: SocketAddrV4,
    remote: SocketAddrV4,
    /// `None`: from outside to the published port.
    external: Option<SocketAddrV4>,
    established: bool,
    replied: bool,
    reset: bool,
    /// Sequence numbers that the server and the client expect.
    sequence: (u32, u32),
    deadline: Duration,
}

impl Flow {
    fn life(&self) -> Duration {
        Duration::from_secs(match (self.protocol, self.replied) {
            (Protocol::Icmp, _) => 60,
            (Protocol::Tcp, _) if self.reset => 240,
            (Protocol::Tcp, _) if self.established => 7440,
            (Protocol::Tcp, _) => 240,
            (Protocol::Udp, false) => 120,
            (Protocol::Udp, true) => 300,
        })
    }
}

const PUBLISHED: &str = "10.9.0.10:5353";
const SERVICE: &str = "172.17.0.2:5300";

struct Model {
    w: World,
    flows: Vec<Flow>,
    taken: BTreeSet<(Protocol, u16)>,
    next_endpoint: u32,
    /// How often each kind of operation did something; a property that never acts proves nothing.
    acts: BTreeMap<&'static str, u32>,
}

impl Model {
    fn new() -> Self {
        let w = World::with_config(Config {
            exclusive_ports: 61_000..=61_039,
            shared_ports: 5_000..=5_039,
            ..Config::default()
        });
        Self {
            w,
            flows: Vec::new(),
            taken: BTreeSet::new(),
            next_endpoint: 100,
            acts: BTreeMap::new(),
        }
    }

    fn container(number: u8) -> Ipv4Addr {
        [C1, C2, C3][usize::from(number % 3)]
    }

    fn server(number: u8, protocol: Protocol) -> SocketAddrV4 {
        // Two ports of one host, and two more hosts.
        let (host, port) =
            [(1, 9000), (1, 9001), (2, 9000), (3, 9000), (4, 9000)][usize::from(number % 5)];
        SocketAddrV4::new(
            Ipv4Addr::new(10, 20, 0, host),
            if protocol == Protocol::Icmp { 0 } else { port },
        )
    }

    fn now(&self) -> Duration {
        self.w.now.since_origin()
    }

    fn did(&mut self, what: &'static str) {
        *self.acts.entry(what).or_default() += 1;
    }

    fn find(&self, protocol: Protocol, inner: SocketAddrV4, remote: SocketAddrV4) -> Option<usize> {
        self.flows.iter().position(|f| {
            f.external.is_some() && f.protocol == protocol && f.inner == inner && f.remote == remote
        })
    }

    fn mapping(&self, protocol: Protocol, inner: SocketAddrV4) -> Option<SocketAddrV4> {
        self.flows
            .iter()
            .find(|f| f.protocol == protocol && f.inner == inner && f.external.is_some())?
            .external
    }

    /// The forwarder showed `seen` for `inner`: may it?
    fn check_external(
        &self,
        protocol: Protocol,
        inner: SocketAddrV4,
        seen: SocketAddrV4,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(*seen.ip(), HOST);
        if let Some(known) = self.mapping(protocol, inner) {
            prop_assert_eq!(seen, known, "endpoint-independent mapping of {}", inner);
            return Ok(());
        }
        let port = seen.port();
        if protocol != Protocol::Icmp {
            let in_pool = (61_000..=61_039).contains(&port) || (5_000..=5_039).contains(&port);
            prop_assert!(in_pool, "{} is in no pool", port);
            prop_assert!(
                !self.taken.contains(&(protocol, port)),
                "{} belongs to the host",
                port
            );
        }
        let owner = self
            .flows
            .iter()
            .find(|f| f.protocol == protocol && f.external == Some(seen));
        prop_assert!(owner.is_none(), "{} belongs to {:?}", seen, owner);
        Ok(())
    }

    /// After a packet of the container passed as `seen`.
    fn sent(
        &mut self,
        protocol: Protocol,
        inner: SocketAddrV4,
        remote: SocketAddrV4,
        seen: SocketAddrV4,
    ) -> Result<usize, TestCaseError> {
        self.check_external(protocol, inner, seen)?;
        let index = self.find(protocol, inner, remote).unwrap_or_else(|| {
            self.flows.push(Flow {
                protocol,
                inner,
                remote,
                external: Some(seen),
                established: false,
                replied: false,
                reset: false,
                sequence: (0, 0),
                deadline: Duration::ZERO,
            });
            self.flows.len() - 1
        });
        self.refresh(index);
        Ok(index)
    }

    fn refresh(&mut self, index: usize) {
        let now = self.now();
        let flow = &mut self.flows[index];
        flow.deadline = now + flow.life();
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match *operation {
            Operation::Udp(c, p, s) => {
                let inner = SocketAddrV4::new(Self::container(c), 40_000 + u16::from(p));
                let remote = Self::server(s, Protocol::Udp);
                let seen = self.w.udp(inner, remote);
                self.sent(Protocol::Udp, inner, remote, seen)?;
                self.did("udp");
            }
            Operation::Ping(c, p, s) => {
                let inner = SocketAddrV4::new(Self::container(c), 500 + u16::from(p));
                let remote = Self::server(s, Protocol::Icmp);
                let (address, ident) = self.w.ping(*inner.ip(), *remote.ip(), inner.port());
                self.sent(
                    Protocol::Icmp,
                    inner,
                    remote,
                    SocketAddrV4::new(address, ident),
                )?;
                self.did("ping");
            }
            Operation::Connect(c, p, s) => {
                let inner = SocketAddrV4::new(Self::container(c), 50_000 + u16::from(p));
                let remote = Self::server(s, Protocol::Tcp);
                // Only a client without a live connection, or one whose old connection was reset, opens anew.
                if self
                    .find(Protocol::Tcp, inner, remote)
                    .is_some_and(|i| !self.flows[i].reset)
                {
                    return Ok(());
                }
                let tcp = self.w.connect(inner, remote);
                let index = self.sent(Protocol::Tcp, inner, remote, tcp.seen_client)?;
                self.flows[index].established = true;
                self.flows[index].reset = false;
                self.flows[index].sequence = (tcp.next_server, tcp.next_client);
                self.refresh(index);
                self.did("connect");
            }
            Operation::Reset(which) => {
                let open: Vec<usize> = (0..self.flows.len())
                    .filter(|i| self.flows[*i].established && !self.flows[*i].reset)
                    .collect();
                let Some(index) = open.get(which % open.len().max(1)).copied() else {
                    return Ok(());
                };
                let flow = self.flows[index].clone();
                let external = flow.external.unwrap();
                let got = self.w.forward(Packet::tcp(
                    flow.remote,
                    external,
                    RST,
                    flow.sequence.0,
                    0,
                    b"",
                ));
                prop_assert_eq!(got.destination(), flow.inner);
                self.flows[index].reset = true;
                self.refresh(index);
                self.did("reset");
            }
            Operation::Reply(which) => {
                let Some(index) = which.checked_rem(self.flows.len()) else {
                    return Ok(());
                };
                let flow = self.flows[index].clone();
                if flow.reset {
                    return Ok(());
                }
                match (flow.protocol, flow.external) {
                    (Protocol::Udp, None) => {
                        let got = self
                            .w
                            .forward(Packet::udp(flow.inner, flow.remote, b"answer"));
                        prop_assert_eq!(
                            (got.source(), got.destination()),
                            (at(PUBLISHED), flow.remote)
                        );
                    }
                    (Protocol::Udp, Some(external)) => {
                        let got = self
                            .w
                            .forward(Packet::udp(flow.remote, external, b"answer"));
                        prop_assert_eq!(
                            (got.source(), got.destination()),
                            (flow.remote, flow.inner)
                        );
                    }
                    (Protocol::Icmp, external) => {
                        let ident = external.unwrap().port();
                        let got = self.w.forward(Packet::echo_reply(
                            *flow.remote.ip(),
                            HOST,
                            ident,
                            1,
                            b"ping",
                        ));
                        prop_assert_eq!(
                            (got.dst(), got.echo_ident()),
                            (*flow.inner.ip(), flow.inner.port())
                        );
                    }
                    (Protocol::Tcp, external) => {
                        let (server, client) = flow.sequence;
                        let data = Packet::tcp(
                            flow.remote,
                            external.unwrap(),
                            ACK | PSH,
                            server,
                            client,
                            b"data",
                        );
                        let got = self.w.forward(data);
                        prop_assert_eq!(
                            (got.source(), got.destination()),
                            (flow.remote, flow.inner)
                        );
                        self.flows[index].sequence.0 = server.wrapping_add(4);
                    }
                }
                self.flows[index].replied = true;
                self.refresh(index);
                self.did("reply");
            }
            Operation::Knock(which, server) => {
                let mapped: Vec<(SocketAddrV4, SocketAddrV4)> = self
                    .flows
                    .iter()
                    .filter(|f| f.protocol == Protocol::Udp)
                    .filter_map(|f| Some((f.inner, f.external?)))
                    .collect();
                let Some((inner, external)) = mapped.get(which % mapped.len().max(1)).copied()
                else {
                    return Ok(());
                };
                let from = Self::server(server, Protocol::Udp);
                let known = |f: &&Flow| {
                    f.protocol == Protocol::Udp && f.inner == inner && f.external.is_some()
                };
                let exact = self.find(Protocol::Udp, inner, from);
                let address = self
                    .flows
                    .iter()
                    .filter(known)
                    .any(|f| f.remote.ip() == from.ip());
                if exact.is_none() && address {
                    return Ok(()); // makes a flow whose life the RFCs leave open
                }
                let step = self.w.step(Packet::udp(from, external, b"knock"));
                match exact {
                    Some(index) => {
                        prop_assert_eq!(step.verdict, Verdict::Forward);
                        prop_assert_eq!(step.frame.packet.destination(), inner);
                        self.flows[index].replied = true;
                        self.refresh(index);
                        self.did("known");
                    }
                    None => {
                        prop_assert!(
                            matches!(step.verdict, Verdict::Drop(r) if r.name() == "filtered"),
                            "{:?}",
                            step
                        );
                        self.did("filtered");
                    }
                }
            }
            Operation::Call(client) => {
                let client = SocketAddrV4::new(LAN, 6000 + u16::from(client));
                let published = !self.w.policy.published.is_empty();
                let step = self.w.step(Packet::udp(client, at(PUBLISHED), b"call"));
                if !published {
                    prop_assert_eq!(step.verdict, Verdict::ToHost);
                    return Ok(());
                }
                prop_assert_eq!(step.verdict, Verdict::Forward);
                let got = step.frame.packet;
                prop_assert_eq!((got.source(), got.destination()), (client, at(SERVICE)));
                let known = self
                    .flows
                    .iter()
                    .position(|f| f.external.is_none() && f.remote == client);
                let index = known.unwrap_or_else(|| {
                    self.flows.push(Flow {
                        protocol: Protocol::Udp,
                        inner: at(SERVICE),
                        remote: client,
                        external: None,
                        established: false,
                        replied: false,
                        reset: false,
                        sequence: (0, 0),
                        deadline: Duration::ZERO,
                    });
                    self.flows.len() - 1
                });
                self.refresh(index);
                self.did("call");
            }
            Operation::Pass(seconds) => {
                let target = self.now() + Duration::from_secs(seconds.into());
                // Keep a second's distance from every deadline: how exact a timer is, the timer tests say.
                let near = |t: Duration| {
                    self.flows
                        .iter()
                        .any(|f| f.deadline.abs_diff(t) < Duration::from_millis(1500))
                };
                let mut target = target;
                while near(target) {
                    target += Duration::from_secs(3);
                }
                let sent = self.w.advance(target - self.now());
                prop_assert!(sent.is_empty(), "{:?}", sent);
                let before = self.flows.len();
                self.flows.retain(|f| f.deadline > target);
                if self.flows.len() < before {
                    self.did("expire");
                }
            }
            Operation::ReplaceEndpoint(number) => {
                let address = Self::container(number);
                let id = EndpointId(self.next_endpoint);
                self.next_endpoint += 1;
                self.w.change(|p| {
                    let found = p
                        .endpoints
                        .iter_mut()
                        .find(|e| e.addresses.contains(&address.into()))
                        .unwrap();
                    let old = found.id;
                    found.id = id;
                    for published in p.published.iter_mut().filter(|r| r.endpoint == old) {
                        published.endpoint = id;
                    }
                });
                self.flows.retain(|f| *f.inner.ip() != address);
                self.did("replace");
            }
            Operation::Publish(on) => {
                let was = !self.w.policy.published.is_empty();
                if on && !was {
                    let id = self
                        .w
                        .policy
                        .endpoints
                        .iter()
                        .find(|e| e.addresses.contains(&C1.into()))
                        .unwrap()
                        .id;
                    self.w
                        .publish(Protocol::Udp, at("0.0.0.0:5353"), at(SERVICE));
                    self.w.change(|p| p.published[0].endpoint = id);
                    self.did("publish");
                } else if !on && was {
                    self.w.change(|p| p.published.clear());
                    self.flows.retain(|f| f.external.is_some());
                    self.did("unpublish");
                }
            }
            Operation::TakePort(which) => {
                let ports: Vec<(Protocol, u16)> = self
                    .flows
                    .iter()
                    .filter(|f| f.protocol != Protocol::Icmp)
                    .filter_map(|f| Some((f.protocol, f.external?.port())))
                    .collect();
                let Some(port) = ports.get(which % ports.len().max(1)).copied() else {
                    return Ok(());
                };
                if self.taken.len() >= 8 {
                    return Ok(());
                }
                self.taken.insert(port);
                let taken: Vec<_> = self.taken.iter().copied().collect();
                self.w.host_ports(&taken);
                self.flows
                    .retain(|f| f.external.map(|e| (f.protocol, e.port())) != Some(port));
                self.did("take");
            }
            Operation::ReleasePorts => {
                self.taken.clear();
                self.w.host_ports(&[]);
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mappings: BTreeSet<(Protocol, SocketAddrV4)> = self
            .flows
            .iter()
            .filter(|f| f.external.is_some())
            .map(|f| (f.protocol, f.inner))
            .collect();
        prop_assert_eq!(
            self.w.tables(),
            (self.flows.len(), mappings.len()),
            "(flows, mappings) of {:#?}",
            self.flows
        );
        bitmap_is_the_set_of_mappings(&self.w)
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_history_agrees_with_the_model(operations in prop::collection::vec(operation(), 1..120)) {
        let mut model = Model::new();
        for (number, operation) in operations.iter().enumerate() {
            if let Err(error) = model.apply(operation) {
                return Err(TestCaseError::fail(format!("operation {number}, {operation:?}: {error}")));
            }
        }
    }
}

/// The model must not go vacuous: over a fixed set of histories each kind of operation takes effect.
#[test]
fn the_model_exercises_every_operation() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut acts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for _ in 0..60 {
        let operations = prop::collection::vec(operation(), 120)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut model = Model::new();
        for operation in &operations {
            model.apply(operation).unwrap();
        }
        for (what, count) in model.acts {
            *acts.entry(what).or_default() += count;
        }
    }
    for what in [
        "udp",
        "ping",
        "connect",
        "reset",
        "reply",
        "known",
        "filtered",
        "call",
        "expire",
        "replace",
        "publish",
        "unpublish",
        "take",
    ] {
        assert!(
            acts.get(what).is_some_and(|n| *n >= 10),
            "{what} hardly happens: {acts:?}"
        );
    }
}
