//! Properties of single exchanges.

use std::collections::{BTreeSet, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;
use tunbridge::forwarder::{Config, Filtering, Protocol, Verdict};

use super::packet::*;
use super::world::*;

/// A packet of a container, its kind of checksum, and the payload of the answer.
#[derive(Clone, Debug)]
struct Exchange {
    protocol: u8,
    client: SocketAddrV4,
    server: SocketAddrV4,
    payload: Vec<u8>,
    answer: Vec<u8>,
    tos: u8,
    ident: u16,
    df: bool,
    ttl: u8,
    options: usize,
    checksum: Checksum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Complete,
    Partial,
    /// UDP's zero.
    None,
}

fn container() -> impl Strategy<Value = Ipv4Addr> {
    prop::sample::select(vec![C1, C2, C3])
}

fn server() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        Just(S1),
        Just(S2),
        (1_u8..=9, any::<u8>(), 1_u8..=254).prop_map(|(a, b, c)| Ipv4Addr::new(a, b, 1, c)),
        (200_u8..=223, any::<u8>(), any::<u8>(), 1_u8..=254)
            .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d)),
    ]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let addresses = (container(), 1_u16.., server(), 1_u16..);
    let contents = (
        prop::collection::vec(any::<u8>(), 0..600),
        prop::collection::vec(any::<u8>(), 0..600),
    );
    let header = (any::<u8>(), any::<u16>(), any::<bool>(), 2_u8.., 0_usize..3);
    let checksum =
        prop::sample::select(vec![Checksum::Complete, Checksum::Partial, Checksum::None]);
    let protocol = prop::sample::select(vec![ICMP, TCP, UDP]);
    (protocol, addresses, contents, header, checksum).prop_map(
        |(
            protocol,
            (c, cport, s, sport),
            (payload, answer),
            (tos, ident, df, ttl, options),
            checksum,
        )| Exchange {
            protocol,
            client: SocketAddrV4::new(c, cport),
            server: SocketAddrV4::new(s, sport),
            payload,
            answer,
            tos,
            ident,
            df,
            ttl,
            options,
            checksum,
        },
    )
}

impl Exchange {
    fn dress(&self, packet: Packet) -> Packet {
        let mut packet = packet
            .with_tos(self.tos)
            .with_ident(self.ident)
            .with_ttl(self.ttl);
        packet = if self.df {
            packet.with_df()
        } else {
            packet.without_df()
        };
        if self.options > 0 {
            packet = packet.with_ip_options(&vec![1; self.options * 4]);
        }
        packet
    }

    fn frame(&self, packet: Packet) -> Frame {
        match self.checksum {
            Checksum::Partial if packet.protocol() != ICMP => Frame::partial(packet),
            Checksum::None if packet.protocol() == UDP => packet.without_udp_checksum().into(),
            _ => packet.into(),
        }
    }

    fn question(&self) -> Packet {
        self.dress(match self.protocol {
            TCP => Packet::tcp(self.client, self.server, SYN, 1000, 0, b""),
            UDP => Packet::udp(self.client, self.server, &self.payload),
            _ => Packet::echo_request(
                *self.client.ip(),
                *self.server.ip(),
                self.client.port(),
                1,
                &self.payload,
            ),
        })
    }

    /// From the server, to `seen` as it knows the client.
    fn answer_to(&self, seen: &Packet) -> Packet {
        self.dress(match self.protocol {
            TCP => Packet::tcp(self.server, seen.source(), SYN | ACK, 5000, 1001, b""),
            UDP => Packet::udp(self.server, seen.source(), &self.answer),
            _ => Packet::echo_reply(
                *self.server.ip(),
                seen.src(),
                seen.echo_ident(),
                1,
                &self.answer,
            ),
        })
    }

    /// What the client must get.
    fn expected(&self, answer: &Packet) -> Packet {
        let mut packet = answer.clone().with_dst(*self.client.ip());
        let at = packet.header_len();
        match self.protocol {
            ICMP => packet.set16(at + 4, self.client.port()),
            _ => packet.set16(at + 2, self.client.port()),
        }
        packet.fixed().with_ttl(self.ttl - 1)
    }
}

/// The frame as a wire would see it, the checksum complete.
fn completed(frame: &Frame) -> Packet {
    frame.segments().remove(0)
}

proptest! {
    #![proptest_config(cases(400))]

    /// P1 and P7: what the client gets is what the server sent, octet for octet, but for the address, the port, the
    /// TTL and the checksums, which equal a full recomputation ([`World::step`] and `segments` verify them).
    #[test]
    fn a_reply_restores_the_original(e in exchange()) {
        let mut w = World::new();
        let sent = e.question();
        let frame = w.forward_frame(e.frame(sent.clone()));
        let seen = completed(&frame);
        prop_assert_eq!(seen.dst(), *e.server.ip());
        prop_assert_eq!(seen.payload(), sent.payload());
        prop_assert_eq!(seen.0[1], e.tos);
        prop_assert_eq!(seen.dont_fragment(), e.df);
        prop_assert_eq!(seen.ttl(), e.ttl - 1);
        prop_assert_eq!(&seen.0[20..seen.header_len()], &sent.0[20..sent.header_len()]);
        let answer = e.answer_to(&seen);
        let got = w.forward_frame(e.frame(answer.clone()));
        let mut expected = e.expected(&answer);
        if e.checksum == Checksum::None && e.protocol == UDP {
            expected = expected.without_udp_checksum();
        }
        prop_assert_eq!(completed(&got), expected);
    }

    /// P2: the mapping of an inner endpoint does not depend on the peer nor on what came before.
    #[test]
    fn a_mapping_is_stable(e in exchange(), peers in prop::collection::vec((server(), 1_u16..), 1..20)) {
        let mut w = World::new();
        let seen = completed(&w.forward_frame(e.frame(e.question())));
        for (address, port) in peers {
            let other = Exchange { server: SocketAddrV4::new(address, port), ..e.clone() };
            let again = completed(&w.forward_frame(other.frame(other.question())));
            prop_assert_eq!(again.src(), seen.src());
            match e.protocol {
                ICMP => prop_assert_eq!(again.echo_ident(), seen.echo_ident()),
                _ => prop_assert_eq!(again.sport(), seen.sport()),
            }
        }
        prop_assert_eq!(w.tables().1, 1);
    }

    /// P3: filtering, against its definition.
    #[test]
    fn filtering_follows_its_definition(
        filtering in prop::sample::select(vec![
            Filtering::EndpointIndependent,
            Filtering::AddressDependent,
            Filtering::AddressAndPortDependent,
        ]),
        contacted in prop::collection::vec((0_u8..4, 0_u16..3), 1..5),
        knocks in prop::collection::vec((0_u8..4, 0_u16..3), 1..12),
    ) {
        let peer = |(a, p): (u8, u16)| SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, a + 1), 9000 + p);
        let mut w = World::with_config(Config { filtering, ..Config::default() });
        let client = SocketAddrV4::new(C1, 40_000);
        let contacted: Vec<SocketAddrV4> = contacted.into_iter().map(peer).collect();
        let mut seen = client;
        for server in &contacted {
            seen = w.udp(client, *server);
        }
        for knock in knocks.into_iter().map(peer) {
            let allowed = match filtering {
                Filtering::EndpointIndependent => true,
                Filtering::AddressDependent => contacted.iter().any(|c| c.ip() == knock.ip()),
                Filtering::AddressAndPortDependent => contacted.contains(&knock),
            };
            let step = w.step(Packet::udp(knock, seen, b"knock"));
            prop_assert_eq!(step.verdict == Verdict::Forward, allowed, "{} under {:?}", knock, filtering);
        }
    }

    /// P4: two live flows never share (protocol, external address, port, remote address, port), even when the pool is
    /// tiny; and no packet is lost while ports are left.
    #[test]
    fn external_tuples_are_unique(
        flows in prop::collection::vec((container(), 0_u16..40, 0_u8..3, prop::bool::ANY), 1..120),
        pool in 1_u16..24,
    ) {
        let mut w = World::with_config(Config {
            exclusive_ports: 61_000..=61_000 + pool,
            shared_ports: std::ops::RangeInclusive::new(1, 0),
            ..Config::default()
        });
        for (address, port, server, tcp) in flows {
            let client = SocketAddrV4::new(address, 40_000 + port);
            let server = SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, server + 1), 9000);
            if tcp {
                w.step(Packet::tcp(client, server, SYN, 1, 0, b""));
            } else {
                w.step(Packet::udp(client, server, b""));
            }
        }
        let live = w.forwarder.flows(w.now);
        let mut tuples = HashSet::new();
        for flow in &live {
            prop_assert!(tuples.insert((flow.protocol, flow.translated)), "{:?} twice", flow.translated);
        }
        bitmap_is_the_set_of_mappings(&w)?;
    }

    /// P6: what one container does within its quota or beyond never costs another one a flow.
    #[test]
    fn quotas_isolate(quota in 1_usize..40, greedy in 0_u16..120, modest in 1_u16..40) {
        let mut w = World::with_config(Config { max_flows_per_endpoint: quota, ..Config::default() });
        for port in 0..greedy {
            w.step(Packet::udp(SocketAddrV4::new(C1, 20_000 + port), SocketAddrV4::new(S1, 9000), b""));
        }
        let held = w.tables().0;
        prop_assert!(held <= quota, "{} flows, {} allowed", held, quota);
        for port in 0..modest.min(u16::try_from(quota).unwrap()) {
            w.udp_exchange(SocketAddrV4::new(C2, 20_000 + port), SocketAddrV4::new(S1, 9000));
        }
    }

    /// Any octets: no panic, no change of length, and every frame is counted exactly once.
    #[test]
    fn any_octets_are_survived(bytes in prop::collection::vec(any::<u8>(), 10..200)) {
        let mut w = World::new();
        let step = w.step_bytes(&bytes);
        prop_assert_eq!(step.frame.bytes().len(), bytes.len());
    }

    /// The same for packets that are right but for a few octets.
    #[test]
    fn damaged_packets_are_survived(
        e in exchange(),
        damage in prop::collection::vec((0_usize..80, any::<u8>()), 1..6),
        cut in prop::option::of(0_usize..60),
        fix in any::<bool>(),
    ) {
        let mut w = World::new();
        w.publish(Protocol::Tcp, at("0.0.0.0:80"), at("172.17.0.2:80"));
        let seen = completed(&w.forward_frame(e.frame(e.question())));
        for packet in [e.question(), e.answer_to(&seen)] {
            let mut bytes = e.frame(packet).bytes();
            for (position, value) in &damage {
                let length = bytes.len();
                bytes[position % length] = *value;
            }
            if let Some(cut) = cut {
                bytes.truncate(bytes.len().saturating_sub(cut).max(10));
            }
            let mut frame = Frame::parse(&bytes);
            if fix && frame.packet.0.len() >= 20 && (20..=frame.packet.0.len()).contains(&frame.packet.header_len()) {
                frame.packet.fix_ip();
            }
            let step = w.step_bytes(&frame.bytes());
            prop_assert_eq!(step.frame.bytes().len(), bytes.len());
        }
    }

    /// A super-packet's segments are what the segments would have been had they come one by one.
    #[test]
    fn a_super_packet_equals_its_segments(
        length in 1_usize..20_000,
        gso_size in 100_u16..1460,
        seed in any::<u8>(),
    ) {
        let payload: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap() ^ seed).collect();
        let client = SocketAddrV4::new(C1, 40_000);
        let server = SocketAddrV4::new(S1, 80);
        let mut whole = World::new();
        let mut tcp = whole.connect(client, server);
        let frame = Frame::super_packet(tcp.packet(PSH | ACK, &payload), gso_size);
        let mut single = World::new();
        single.connect(client, server);
        let out = whole.forward_frame(&frame).segments();
        let one_by_one: Vec<Packet> = frame.segments().into_iter().map(|s| single.forward(s)).collect();
        prop_assert_eq!(out.len(), one_by_one.len());
        for (a, b) in out.iter().zip(&one_by_one) {
            // Identifications of DF packets are free (RFC 6864 §4), and a sum of zero has two spellings.
            prop_assert_eq!(a.clone().with_ident(0).fixed(), b.clone().with_ident(0).fixed());
        }
    }
}

/// P5: the bitmap that steering reads is exactly the set of external ports of live flows.
pub(super) fn bitmap_is_the_set_of_mappings(w: &World) -> Result<(), TestCaseError> {
    let expected: BTreeSet<(Protocol, u16)> = w
        .forwarder
        .flows(w.now)
        .iter()
        .filter(|f| f.original.0.ip() != f.translated.0.ip())
        .map(|f| (f.protocol, f.translated.0.port()))
        .collect();
    let bitmap: BTreeSet<(Protocol, u16)> = w.host.ports().into_iter().collect();
    prop_assert_eq!(bitmap, expected);
    Ok(())
}

/// So many cases, or as many as `PROPTEST_CASES` asks for.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        default
    } else {
        ProptestConfig { cases, ..default }
    }
}
