//! Several networks whose settings change under live traffic.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tunbridge::forwarder::{
    Access, EndpointId, FlowReport, LinkPolicy, NetworkPolicy, Protocol, Verdict,
};

use super::invariants::{bitmap_is_the_set_of_mappings, cases};
use super::networks::*;
use super::packet::*;
use super::world::*;

#[derive(Clone, Debug)]
enum Operation {
    /// Protocol, sender, receiver, port: all by number.
    Send(u8, u8, u8, u8),
    /// The peer of a live flow answers.
    Reply(usize),
    Set(u8, Setting),
    /// Whether the neighbour is linked to the server of a network.
    Link(u8, bool),
    /// The server's endpoint is another one now.
    Replace(u8),
}

#[derive(Clone, Debug)]
enum Setting {
    Access(u8),
    Internal(bool),
    Masquerade(bool),
    Icc(bool),
    Gateway(bool),
    Source(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let setting = prop_oneof![
        (0_u8..3).prop_map(Setting::Access),
        any::<bool>().prop_map(Setting::Internal),
        any::<bool>().prop_map(Setting::Masquerade),
        any::<bool>().prop_map(Setting::Icc),
        any::<bool>().prop_map(Setting::Gateway),
        (0_u8..3).prop_map(Setting::Source),
    ];
    prop_oneof![
        20 => (0_u8..3, 0_u8..20, 0_u8..24, 0_u8..3).prop_map(|(p, f, t, port)| Operation::Send(p, f, t, port)),
        4 => any::<usize>().prop_map(Operation::Reply),
        3 => (0_u8..8, setting).prop_map(|(n, s)| Operation::Set(n, s)),
        1 => (0_u8..8, any::<bool>()).prop_map(|(n, on)| Operation::Link(n, on)),
        1 => (0_u8..8).prop_map(Operation::Replace),
    ]
}

fn kind(number: u8) -> Kind {
    Kind::ALL[usize::from(number % 8)]
}

fn apply(setting: &Setting, kind: Kind, network: &mut NetworkPolicy) {
    match setting {
        Setting::Access(0) => network.families[0].access = Access::Closed,
        Setting::Access(1) => network.families[0].access = Access::Ports,
        Setting::Access(_) => network.families[0].access = Access::Open,
        Setting::Internal(yes) => network.internal = *yes,
        Setting::Masquerade(yes) => network.families[0].masquerade = *yes,
        Setting::Icc(yes) => network.icc = *yes,
        Setting::Gateway(yes) => {
            network.families[0].gateway = yes.then(|| IpAddr::V4(kind.gateway()));
        }
        Setting::Source(0) => network.families[0].source = None,
        Setting::Source(1) => network.families[0].source = Some(IpAddr::V4(HOST)),
        Setting::Source(_) => network.families[0].source = Some(IpAddr::V4(HOST2)),
    }
}

/// Containers of all networks, the outside, and who is called besides them.
fn address(number: u8) -> Ipv4Addr {
    match number {
        0..8 => kind(number).server(),
        8..16 => kind(number).neighbour(),
        16 => C1,
        17 => C2,
        18 => LAN,
        19 => S1,
        20 => HOST,
        21 => HOST2,
        22 => GATEWAY,
        _ => Kind::Nat.gateway(),
    }
}

fn packet(protocol: Protocol, from: SocketAddrV4, to: SocketAddrV4) -> Packet {
    match protocol {
        Protocol::Tcp => Packet::tcp(from, to, SYN, 1, 0, b""),
        Protocol::Udp => Packet::udp(from, to, b"question"),
        Protocol::Icmp => Packet::echo_request(*from.ip(), *to.ip(), from.port(), 1, b"question"),
    }
}

fn reply(protocol: Protocol, seen: SocketAddrV4, server: SocketAddrV4) -> Packet {
    match protocol {
        Protocol::Tcp => Packet::tcp(server, seen, SYN | ACK, 9, 2, b""),
        Protocol::Udp => Packet::udp(server, seen, b"answer"),
        Protocol::Icmp => Packet::echo_reply(*server.ip(), *seen.ip(), seen.port(), 1, b"answer"),
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

struct Site {
    w: World,
    next_endpoint: u32,
    forwarded: u32,
}

impl Site {
    fn network(&self, address: Ipv4Addr) -> Option<&NetworkPolicy> {
        let holds = |n: &&NetworkPolicy| n.families[0].subnet.contains(&IpAddr::V4(address));
        self.w.policy.networks.iter().find(holds)
    }

    fn endpoint(&self, address: Ipv4Addr) -> EndpointId {
        let has = |e: &&tunbridge::forwarder::EndpointPolicy| e.addresses[0] == address;
        self.w.policy.endpoints.iter().find(has).unwrap().id
    }

    /// A first packet passed as `seen`: it may.
    fn may_pass(
        &self,
        sent: &Packet,
        seen: &Packet,
        protocol: Protocol,
    ) -> Result<(), TestCaseError> {
        let from = self.network(sent.src());
        let to = self.network(seen.dst());
        let inside = from.is_some() && from.map(|n| n.id) == to.map(|n| n.id);
        let direct = sent.dst() == seen.dst();
        if inside && direct {
            let linked = |link: &LinkPolicy| {
                link.client == self.endpoint(sent.src())
                    && link.server == self.endpoint(sent.dst())
                    && link.protocol == protocol
                    && link.ports.contains(&sent.dport())
            };
            prop_assert!(from.unwrap().icc || self.w.policy.links.iter().any(linked));
            prop_assert_eq!(seen.src(), sent.src());
            return Ok(());
        }
        for network in [from, to].into_iter().flatten() {
            prop_assert!(!network.internal, "{:?} passed {:?}", sent, network.id);
        }
        let Some(to) = to else {
            // To the outside.
            let from = from.unwrap();
            let chosen = from.families[0].source.unwrap_or(IpAddr::V4(HOST));
            let expected = if from.families[0].masquerade {
                chosen
            } else {
                IpAddr::V4(sent.src())
            };
            prop_assert_eq!(IpAddr::V4(seen.src()), expected);
            return Ok(());
        };
        if direct {
            let open = match to.families[0].access {
                Access::Closed => false,
                Access::Open => true,
                Access::Ports => {
                    protocol == Protocol::Icmp
                        || (seen.dst().octets()[3] == 2
                            && [(Protocol::Tcp, 80), (Protocol::Udp, 53)]
                                .contains(&(protocol, sent.dport())))
                }
            };
            prop_assert!(open, "{:?} reached {:?}", sent, to.id);
        } else {
            prop_assert!(
                (8020..8028).contains(&sent.dport()),
                "{:?} as {:?}",
                sent,
                seen
            );
        }
        let expected = match from {
            None => IpAddr::V4(sent.src()),
            Some(from) if !inside && !from.families[0].masquerade => IpAddr::V4(sent.src()),
            Some(from) if !inside && from.families[0].source.is_some() => {
                from.families[0].source.unwrap()
            }
            Some(_) => to.families[0].gateway.unwrap(),
        };
        prop_assert_eq!(IpAddr::V4(seen.src()), expected);
        Ok(())
    }

    fn send(&mut self, protocol: u8, from: u8, to: u8, port: u8) -> Result<(), TestCaseError> {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp][usize::from(protocol)];
        let to = match address(to) {
            host @ (HOST | HOST2 | GATEWAY) => on(host, 8020 + u16::from(from + port) % 8),
            other => on(other, [80, 53, 99][usize::from(port)]),
        };
        let sent = packet(protocol, on(address(from), 40_000), to);
        let known = self.find(protocol, &sent).is_some();
        let step = self.w.step(sent.clone());
        if step.verdict == Verdict::Forward && !known {
            self.forwarded += 1;
            self.may_pass(&sent, &step.frame.packet, protocol)?;
        }
        Ok(())
    }

    fn find(&self, protocol: Protocol, sent: &Packet) -> Option<FlowReport> {
        let key = match protocol {
            Protocol::Icmp => (on(sent.src(), sent.echo_ident()), *sent.destination().ip()),
            Protocol::Tcp | Protocol::Udp => (sent.source(), sent.dst()),
        };
        self.w.forwarder.flows(self.w.now).into_iter().find(|flow| {
            let (a, b) = (v4(flow.original.0), v4(flow.original.1));
            let (c, d) = (v4(flow.translated.1), v4(flow.translated.0));
            let same_port =
                |at: SocketAddrV4| protocol == Protocol::Icmp || at.port() == sent.dport();
            flow.protocol == protocol
                && ((a == key.0 && *b.ip() == key.1 && same_port(b))
                    || (c == key.0 && *d.ip() == key.1 && same_port(d)))
        })
    }

    /// Every live flow could be opened as it is, and answers find their way.
    fn flows_are_lawful(&mut self, answer: Option<usize>) -> Result<(), TestCaseError> {
        let flows = self.w.forwarder.flows(self.w.now);
        let mut fresh = World::new();
        fresh.change(|policy| policy.clone_from(&self.w.policy));
        for (number, flow) in flows.iter().enumerate() {
            let (from, to) = (v4(flow.original.0), v4(flow.original.1));
            let (seen, server) = (v4(flow.translated.0), v4(flow.translated.1));
            let step = fresh.step(packet(flow.protocol, from, to));
            prop_assert_eq!(step.verdict, Verdict::Forward, "{:?} lives on", flow);
            let addresses = (step.frame.packet.src(), step.frame.packet.dst());
            prop_assert_eq!(addresses, (*seen.ip(), *server.ip()), "{:?}", flow);
            if answer.is_some_and(|answer| answer % flows.len() == number) {
                let back = self.w.forward(reply(flow.protocol, seen, server));
                prop_assert_eq!((back.src(), back.dst()), (*to.ip(), *from.ip()));
            }
        }
        bitmap_is_the_set_of_mappings(&self.w)
    }

    fn act(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Send(protocol, from, to, port) => self.send(*protocol, *from, *to, *port),
            Operation::Reply(number) => self.flows_are_lawful(Some(*number)),
            Operation::Set(number, setting) => {
                let kind = kind(*number);
                change_network(&mut self.w, kind, |network| apply(setting, kind, network));
                self.flows_are_lawful(None)
            }
            Operation::Link(number, wanted) => {
                let (client, server) = (kind(*number).neighbour(), kind(*number).server());
                let (client, server) = (self.endpoint(client), self.endpoint(server));
                self.w.change(|policy| {
                    policy.links.retain(|link| link.server != server);
                    if *wanted {
                        policy.links.push(LinkPolicy {
                            client,
                            server,
                            protocol: Protocol::Tcp,
                            ports: 80..=80,
                        });
                    }
                });
                self.flows_are_lawful(None)
            }
            Operation::Replace(number) => {
                let old = self.endpoint(kind(*number).server());
                let new = EndpointId(self.next_endpoint);
                self.next_endpoint += 1;
                self.w.change(|policy| {
                    policy.links.retain(|link| link.server != old);
                    for endpoint in policy.endpoints.iter_mut().filter(|e| e.id == old) {
                        endpoint.id = new;
                    }
                    for published in policy.published.iter_mut().filter(|p| p.endpoint == old) {
                        published.endpoint = new;
                    }
                });
                prop_assert!(
                    self.w
                        .forwarder
                        .flows(self.w.now)
                        .iter()
                        .all(|f| f.endpoint != old)
                );
                self.flows_are_lawful(None)
            }
        }
    }
}

/// P8: networks meet where their settings say so and nowhere else, with the addresses that these demand; and no flow
/// outlives the settings that let it in.
#[test]
fn networks_meet_only_where_they_may() {
    let passed = std::cell::Cell::new(0);
    let operations = prop::collection::vec(operation(), 60..200);
    let result = TestRunner::new(cases(24)).run(&operations, |operations| {
        let mut site = Site {
            w: every_kind(),
            next_endpoint: 1000,
            forwarded: 0,
        };
        for operation in &operations {
            site.act(operation)?;
        }
        passed.set(passed.get() + site.forwarded);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let passed = passed.get();
    assert!(
        passed > 200,
        "{passed} packets passed: does this test anything?"
    );
}
