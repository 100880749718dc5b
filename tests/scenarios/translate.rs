//! IPv6 clients of a container that is reached over IPv4 (RFC 6146, RFC 7915).

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};
use tunbridge::forwarder::{NetworkId, Verdict};

use super::across::*;
use super::net::tcp_socket;
use super::packet::{ACK, ICMP, SYN, TCP, UDP};

const CLIENT: &str = "[2001:db8:c::50]:40000";
const NARROW: &str = "[2001:db8:80::1]:40000";
const HOST: &str = "[2001:db8:9::10]:8080";
const SERVER: &str = "172.17.0.2:80";
const GATEWAY: &str = "172.17.0.1";

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect()
}

/// A datagram from a client; the source that the container sees.
#[track_caller]
fn open(dual: &mut Dual, client: &str) -> SocketAddr {
    let packet = dual.across(&Ip::udp(end(client), end(HOST), b"hello"));
    assert_eq!(packet.to(), end(SERVER));
    assert_eq!(packet.src(), address(GATEWAY));
    packet.from()
}

#[test]
fn the_container_sees_its_gateway_and_the_client_the_address_that_it_called() {
    let mut dual = Dual::new();
    let seen = dual.across(&Ip::udp(end(CLIENT), end(HOST), b"question"));
    assert_eq!((seen.src(), seen.to()), (address(GATEWAY), end(SERVER)));
    assert_eq!((seen.payload(), seen.hops()), (&b"question"[..], 63));
    let answer = dual.across(&Ip::udp(seen.to(), seen.from(), b"answer"));
    assert_eq!((answer.from(), answer.to()), (end(HOST), end(CLIENT)));
    assert_eq!((answer.payload(), answer.hops()), (&b"answer"[..], 63));
    assert_eq!(answer.protocol(), UDP);

    let flows = dual.forwarder.flows(dual.now);
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].original, (end(CLIENT), end(HOST)));
    assert_eq!(flows[0].translated, (seen.from(), end(SERVER)));
    assert_eq!((flows[0].packets_original, flows[0].packets_reply), (1, 1));
    assert_eq!(dual.forwarder.stats().mappings, 1);
}

#[test]
fn every_client_has_a_port_of_its_own_and_keeps_it() {
    // RFC 6146 §3.5.1.1, RFC 4787 REQ-1
    let mut dual = Dual::new();
    let ports: Vec<u16> = (1..=50)
        .map(|n| open(&mut dual, &format!("[2001:db8:c::{n:x}]:40000")).port())
        .collect();
    let mut distinct = ports.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 50);
    assert_eq!(open(&mut dual, "[2001:db8:c::1]:40000").port(), ports[0]);
    // The same client at another address of the host.
    let packet = Ip::udp(end("[2001:db8:c::1]:40000"), end("[::1]:8080"), b"x");
    assert_eq!(dual.refused(&packet).0, "martian");
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    // RFC 6146 §4: five minutes for UDP.
    let mut dual = Dual::new();
    let seen = open(&mut dual, CLIENT);
    dual.across(&Ip::udp(end(SERVER), seen, b"answer"));
    dual.now = dual.now + Duration::from_secs(299);
    dual.across(&Ip::udp(end(SERVER), seen, b"late answer"));
    dual.now = dual.now + Duration::from_secs(301);
    let (verdict, _) =
        dual.frame(&[&[0; 10], &Ip::udp(end(SERVER), seen, b"too late").0[..]].concat());
    assert_eq!(verdict, Verdict::ToHost);
}

#[test]
fn others_cannot_use_the_port() {
    // RFC 6146 §3.5.1: a container next door is not the one that was called.
    let mut dual = Dual::new();
    let to = |from: &str, to| [&[0; 10], &Ip::udp(end(from), to, b"hello?").0[..]].concat();
    let seen = open(&mut dual, CLIENT);
    for stranger in ["172.17.0.3:80", "172.17.0.2:81"] {
        assert_eq!(dual.frame(&to(stranger, seen)).0, Verdict::ToHost);
    }
    let seen = open(&mut dual, "[fd00:18::2]:5000");
    for stranger in ["172.17.0.3:80", "172.17.0.2:81"] {
        let packet = Ip::udp(end(stranger), seen, b"hello?");
        assert_eq!(dual.refused(&packet), ("filtered", None));
    }
}

/// Sends `length` octets from one host to the other, through super-packets.
fn transfer(upload: bool) {
    const LENGTH: usize = 1 << 20;
    let mut dual = Dual::new();
    let (client, host, server) = (end(CLIENT), end(HOST), end(SERVER));
    let mut nodes = [Node::new(client.ip()), Node::new(server.ip())];
    let mut listener = tcp_socket();
    listener.listen(80).unwrap();
    let listener = nodes[1].sockets.add(listener);
    let mut caller = tcp_socket();
    let remote = IpEndpoint::new(IpAddress::from(host.ip()), host.port());
    caller
        .connect(nodes[0].iface.context(), remote, client.port())
        .unwrap();
    let caller = nodes[0].sockets.add(caller);
    let (sender, receiver) = if upload {
        ((0, caller), (1, listener))
    } else {
        ((1, listener), (0, caller))
    };
    let mut super_packets = settle(&mut dual, &mut nodes);
    let data = pattern(LENGTH);
    let (mut sent, mut received) = (0, Vec::new());
    for _ in 0..10_000 {
        let socket: &mut tcp::Socket<'_> = nodes[sender.0].sockets.get_mut(sender.1);
        sent += socket.send_slice(&data[sent..]).unwrap();
        super_packets += settle(&mut dual, &mut nodes);
        let socket: &mut tcp::Socket<'_> = nodes[receiver.0].sockets.get_mut(receiver.1);
        while socket.can_recv() {
            socket
                .recv(|octets| {
                    received.extend_from_slice(octets);
                    (octets.len(), ())
                })
                .unwrap();
        }
        if received.len() == LENGTH {
            break;
        }
        settle(&mut dual, &mut nodes);
    }
    assert!(received == data, "{} octets", received.len());
    assert!(super_packets > 10, "{super_packets} super-packets");
    let socket: &mut tcp::Socket<'_> = nodes[1].sockets.get_mut(listener);
    assert_eq!(
        socket.remote_endpoint().unwrap().addr,
        IpAddress::from(address(GATEWAY))
    );
    socket.close();
    let socket: &mut tcp::Socket<'_> = nodes[0].sockets.get_mut(caller);
    socket.close();
    settle(&mut dual, &mut nodes);
    let flows = dual.forwarder.flows(dual.now);
    assert_eq!(flows[0].state, "time_wait");
}

#[test]
fn an_upload_in_super_packets() {
    transfer(true);
}

#[test]
fn a_download_in_super_packets() {
    transfer(false);
}

#[test]
fn datagrams_between_two_hosts() {
    let mut dual = Dual::new();
    let (client, host, server) = (end(CLIENT), end(HOST), end(SERVER));
    let mut nodes = [Node::new(client.ip()), Node::new(server.ip())];
    let sockets = [(0, client.port()), (1, server.port())].map(|(node, port): (usize, u16)| {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(IpListenEndpoint::from(port)).unwrap();
        nodes[node].sockets.add(socket)
    });
    let remote = IpEndpoint::new(IpAddress::from(host.ip()), host.port());
    let socket: &mut udp::Socket<'_> = nodes[0].sockets.get_mut(sockets[0]);
    socket.send_slice(b"question", remote).unwrap();
    settle(&mut dual, &mut nodes);
    let socket: &mut udp::Socket<'_> = nodes[1].sockets.get_mut(sockets[1]);
    let (payload, meta) = socket.recv().unwrap();
    assert_eq!(payload, b"question");
    assert_eq!(meta.endpoint.addr, IpAddress::from(address(GATEWAY)));
    let to = meta.endpoint;
    socket.send_slice(b"answer", to).unwrap();
    settle(&mut dual, &mut nodes);
    let socket: &mut udp::Socket<'_> = nodes[0].sockets.get_mut(sockets[0]);
    let (payload, meta) = socket.recv().unwrap();
    assert_eq!((payload, meta.endpoint), (&b"answer"[..], remote));
}

#[test]
fn a_super_packet_keeps_its_segments() {
    let mut dual = Dual::new();
    let (client, host) = (end(CLIENT), end(HOST));
    let syn = dual.across(&Ip::tcp(client, host, (SYN, 1, 0), &[], b""));
    dual.across(&Ip::tcp(syn.to(), syn.from(), (SYN | ACK, 9, 2), &[], b""));
    let data = pattern(20_000);
    let up = Ip::tcp(client, host, (ACK, 2, 10), &[], &data);
    let (verdict, written) = dual.frame(&offloaded(&up, 1440));
    assert_eq!((verdict, written.len()), (Verdict::Consumed, 1));
    let segments = on_the_wire(&written[0]);
    assert_eq!(segments.len(), 14);
    assert!(
        segments
            .iter()
            .all(|segment| segment.is_v4() && segment.dont_fragment())
    );
    let down = Ip::tcp(syn.to(), syn.from(), (ACK, 10, 2), &[], &data);
    let (_, written) = dual.frame(&offloaded(&down, 1440));
    let segments = on_the_wire(&written[0]);
    let octets: Vec<u8> = segments.iter().flat_map(|s| s.payload().to_vec()).collect();
    assert!(segments.len() == 14 && !segments[0].is_v4() && octets == data);
    // Segments that fit IPv4 and not IPv6.
    let (verdict, written) = dual.frame(&offloaded(&down, 1460));
    let told = on_the_wire(&written[0]).remove(0);
    assert!(matches!(verdict, Verdict::Drop(_)));
    assert_eq!(
        (told.l4()[..2].to_vec(), told.get32(24)),
        (vec![3, 4], 1480)
    );
}

#[test]
fn the_segment_size_that_a_server_offers_fits_the_path() {
    let offered = |client: &str, mss: u16| {
        let mut dual = Dual::new();
        let option = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
        let (client, host) = (end(client), end(HOST));
        let syn = dual.across(&Ip::tcp(client, host, (SYN, 1, 0), &option(mss), b""));
        let answer = Ip::tcp(syn.to(), syn.from(), (SYN | ACK, 9, 2), &option(mss), b"");
        let answer = dual.across(&answer);
        let mss = |packet: &Ip| packet.get16(packet.header_len() + 22);
        (mss(&syn), mss(&answer))
    };
    assert_eq!(offered(CLIENT, 1460), (1440, 1440));
    assert_eq!(offered(NARROW, 1460), (1340, 1340));
    assert_eq!(offered(NARROW, 536), (536, 536));
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

#[test]
fn fragments_in_every_order_go_both_ways() {
    // RFC 7915 §4.1, §5.1.1, RFC 6146 §3.4
    for order in ORDERS {
        let mut dual = Dual::new();
        let data = pattern(3000);
        let question = Ip::udp(end(CLIENT), end(HOST), &data);
        let fragments = question.fragments(1232, 0xabcd_0001);
        assert_eq!(fragments.len(), 3);
        let mut arrived = Vec::new();
        for n in order {
            arrived.extend(dual.packets(&fragments[n]));
        }
        assert!(
            arrived
                .iter()
                .all(|part| part.is_v4() && !part.dont_fragment())
        );
        let whole = reassembled(&arrived);
        assert_eq!((whole.to(), whole.payload()), (end(SERVER), &data[..]));

        let answer = Ip::udp(whole.to(), whole.from(), &data).without_df();
        let fragments = answer.fragments(1480, 77);
        let mut arrived = Vec::new();
        for n in order {
            arrived.extend(dual.packets(&fragments[n]));
        }
        // RFC 7915 §4.1: no longer than every IPv6 link takes.
        assert!(
            arrived
                .iter()
                .all(|part| !part.is_v4() && part.0.len() <= 1280)
        );
        let whole = reassembled(&arrived);
        assert_eq!((whole.from(), whole.to()), (end(HOST), end(CLIENT)));
        assert_eq!(whole.payload(), data);
    }
}

#[test]
fn fragments_of_two_clients_do_not_share_an_identification() {
    let mut dual = Dual::new();
    let idents = ["[2001:db8:c::1]:1", "[2001:db8:c::2]:1"].map(|client| {
        let packet = Ip::udp(end(client), end(HOST), &pattern(2000));
        let parts: Vec<Ip> = packet
            .fragments(1232, 7)
            .iter()
            .flat_map(|part| dual.packets(part))
            .collect();
        reassembled(&parts);
        parts[0].place().unwrap().2
    });
    assert_ne!(idents[0], idents[1]);
}

#[test]
fn a_datagram_that_may_be_cut_is_cut_to_what_every_link_takes() {
    // RFC 7915 §4.1
    let mut dual = Dual::new();
    let seen = open(&mut dual, CLIENT);
    let data = pattern(1400);
    let whole = Ip::udp(end(SERVER), seen, &data);
    let parts = dual.packets(&whole.clone().without_df());
    assert_eq!(parts.len(), 2);
    assert!(parts.iter().all(|part| part.0.len() <= 1280));
    assert_eq!(reassembled(&parts).payload(), data);
    // With DF it goes as it is, since the next hop takes it.
    assert_eq!(dual.across(&whole).payload(), data);
    // A neighbour's link is known.
    let hairpin = open(&mut dual, "[fd00:18::2]:5000");
    let near = Ip::udp(end(SERVER), hairpin, &data).without_df();
    assert_eq!(dual.across(&near).payload(), data);
}

#[test]
fn what_is_too_large_is_told_in_the_senders_family() {
    // RFC 7915 §4.1, §5.1
    let mut dual = Dual::new();
    let seen = open(&mut dual, NARROW);
    let large = Ip::udp(end(SERVER), seen, &pattern(1400));
    let (reason, told) = dual.refused(&large);
    let told = told.unwrap();
    assert_eq!(reason, "fragmentation_needed");
    assert_eq!(
        (told.src(), told.dst()),
        (address(GATEWAY), end(SERVER).ip())
    );
    assert_eq!(
        (told.l4()[..2].to_vec(), told.get32(24)),
        (vec![3, 4], 1380)
    );
    dual.across(&Ip::udp(end(SERVER), seen, &pattern(1380 - 28)));

    for (mtu, expected) in [(1400, 1420), (1270, 1290), (1000, 1280), (576, 1280)] {
        let mut dual = Dual::with_mtu(mtu);
        open(&mut dual, CLIENT);
        let large = Ip::udp(end(CLIENT), end(HOST), &pattern(1440));
        let (reason, told) = dual.refused(&large);
        let told = told.unwrap();
        assert_eq!(reason, "fragmentation_needed");
        assert_eq!((told.dst(), told.l4()[0]), (end(CLIENT).ip(), 2));
        assert_eq!(told.get32(44), expected);
        // What the client may always send arrives, if need be in fragments.
        let data = pattern(usize::try_from(expected).unwrap() - 48);
        let parts = dual.packets(&Ip::udp(end(CLIENT), end(HOST), &data));
        let limit = usize::try_from(mtu).unwrap();
        assert!(
            parts
                .iter()
                .all(|part| part.is_v4() && part.0.len() <= limit)
        );
        let whole = if parts.len() == 1 {
            parts[0].clone()
        } else {
            reassembled(&parts)
        };
        assert_eq!(whole.payload(), data);
    }
}

#[test]
fn a_hop_is_counted_once_and_its_end_is_told() {
    let mut dual = Dual::new();
    let seen = open(&mut dual, CLIENT);
    let up = |hops| Ip::udp(end(CLIENT), end(HOST), b"x").with_hops(hops);
    let down = |hops| Ip::udp(end(SERVER), seen, b"x").with_hops(hops);
    assert_eq!(dual.across(&up(2)).hops(), 1);
    assert_eq!(dual.across(&down(2)).hops(), 1);
    let (reason, told) = dual.refused(&up(1));
    let told = told.unwrap();
    assert_eq!((reason, told.dst()), ("ttl_exceeded", end(CLIENT).ip()));
    assert_eq!((told.protocol(), &told.l4()[..2]), (ICMPV6, &[3, 0][..]));
    let (reason, told) = dual.refused(&down(1));
    let told = told.unwrap();
    assert_eq!((reason, told.dst()), ("ttl_exceeded", end(SERVER).ip()));
    assert_eq!((told.protocol(), &told.l4()[..2]), (ICMP, &[11, 0][..]));
}

#[test]
fn port_unreachable_from_the_container_reaches_the_client() {
    // RFC 7915 §4.2, §4.3
    let mut dual = Dual::new();
    let question = Ip::udp(end(CLIENT), end(HOST), b"anybody?");
    let seen = dual.across(&question);
    let error = Ip::icmp_error(seen.dst(), seen.src(), (3, 3), 0, &seen.0);
    let told = dual.across(&error);
    assert_eq!((told.src(), told.dst()), (end(HOST).ip(), end(CLIENT).ip()));
    assert_eq!((told.protocol(), &told.l4()[..2]), (ICMPV6, &[1, 4][..]));
    let quoted = Ip(told.l4()[8..].to_vec());
    quoted.assert_valid();
    assert_eq!((quoted.from(), quoted.to()), (end(CLIENT), end(HOST)));
    assert_eq!(quoted.payload(), b"anybody?");
    // It ends nothing.
    dual.across(&question);
    assert_eq!(dual.forwarder.stats().flows, 1);
}

#[test]
fn packet_too_big_from_the_path_reaches_the_container() {
    // RFC 7915 §5.2: the MTU less 20; RFC 8201 §4: 1280 at least.
    for (reported, expected) in [(1400, 1380), (1280, 1260), (100, 1260), (9000, 1480)] {
        let mut dual = Dual::new();
        let seen = open(&mut dual, CLIENT);
        let answer = dual.across(&Ip::udp(end(SERVER), seen, &pattern(1400)));
        let router = address("2001:db8:5::1");
        let quote = &answer.0[..1232];
        let error = Ip::icmp_error(router, answer.src(), (2, 0), reported, quote);
        let told = dual.across(&error);
        // No IPv4 address is the router's.
        assert_eq!(
            (told.src(), told.dst()),
            (address(GATEWAY), end(SERVER).ip())
        );
        assert_eq!((&told.l4()[..2], told.get32(24)), (&[3, 4][..], expected));
        let quoted = Ip(told.l4()[8..].to_vec());
        assert_eq!((quoted.from(), quoted.to()), (end(SERVER), seen));
        assert!(told.0.len() <= 576);
    }
}

#[test]
fn forged_errors_do_not_cross() {
    let mut dual = Dual::new();
    let seen = dual.across(&Ip::udp(end(CLIENT), end(HOST), b"x"));
    let error = Ip::icmp_error(seen.dst(), seen.src(), (3, 3), 0, &seen.0);
    let mut spoiled = error.clone();
    spoiled.0[22] ^= 1;
    assert_eq!(dual.refused(&spoiled).0, "bad_icmp_checksum");
    // A neighbour complains about what was not sent to it.
    let neighbour = Ip::icmp_error(address("172.17.0.3"), seen.src(), (3, 3), 0, &seen.0);
    assert_eq!(dual.refused(&neighbour).0, "icmp_no_flow");
    // Nothing in IPv6 says what this says.
    let precedence = Ip::icmp_error(seen.dst(), seen.src(), (3, 14), 0, &seen.0);
    assert_eq!(dual.refused(&precedence).0, "icmp_unsupported");
}

#[test]
fn a_datagram_without_checksum_gets_one_if_it_is_whole() {
    // RFC 7915 §4.5
    let mut dual = Dual::new();
    let seen = open(&mut dual, CLIENT);
    let whole = Ip::udp(end(SERVER), seen, &pattern(1999)).without_df();
    let short = Ip::udp(end(SERVER), seen, b"odd").without_checksum();
    assert_eq!(dual.across(&short).payload(), b"odd");
    let fragments = whole.without_checksum().fragments(1000, 5);
    assert_eq!(dual.refused(&fragments[0]).0, "no_udp_checksum");
    assert_eq!(dual.refused(&fragments[1]).0, "no_udp_checksum");
}

#[test]
fn an_ipv6_container_and_the_host_itself_call_the_published_port() {
    // RFC 6146 §3.8: hairpinning
    for client in ["[fd00:18::2]:5000", "[2001:db8:9::10]:5001"] {
        let mut dual = Dual::new();
        let seen = open(&mut dual, client);
        let answer = dual.across(&Ip::udp(end(SERVER), seen, b"answer"));
        assert_eq!((answer.from(), answer.to()), (end(HOST), end(client)));
    }
    let mut dual = Dual::new();
    let (client, host) = (end("[::1]:5002"), end("[::1]:8080"));
    let seen = dual.across(&Ip::udp(client, host, b"question"));
    assert_eq!((seen.src(), seen.to()), (address(GATEWAY), end(SERVER)));
    let answer = dual.across(&Ip::udp(seen.to(), seen.from(), b"answer"));
    assert_eq!((answer.from(), answer.to()), (host, client));
    // The loopback interface has room for more than the container's link.
    let data = pattern(9000);
    let parts = dual.packets(&Ip::udp(client, host, &data));
    assert!(parts.len() == 7 && reassembled(&parts).payload() == data);
    let syn = dual.across(&Ip::tcp(client, host, (SYN, 1, 0), &[], b""));
    dual.across(&Ip::tcp(syn.to(), syn.from(), (SYN | ACK, 9, 2), &[], b""));
    let large = Ip::tcp(client, host, (ACK, 2, 10), &[], &pattern(40_000));
    let (_, written) = dual.frame(&offloaded(&large, 32_000));
    let segments = on_the_wire(&written[0]);
    assert!(segments.iter().all(|segment| segment.0.len() <= 1500));
    assert_eq!(segments[0].protocol(), TCP);
}

#[test]
fn sessions_end_with_what_they_stand_on() {
    type Change = fn(&mut tunbridge::forwarder::Policy);
    let changes: [(&str, Change); 5] = [
        ("not published", |policy| policy.published.clear()),
        ("published on IPv4's container next door", |policy| {
            policy.published[1].container_address = address("172.17.0.3");
        }),
        ("another gateway", |policy| {
            policy.networks[0].families[0].gateway = Some(address("172.17.0.254"));
        }),
        ("internal", |policy| policy.networks[0].internal = true),
        ("the host's address is gone", |policy| {
            policy.local_addresses.retain(|at| *at != end(HOST).ip());
        }),
    ];
    for (name, change) in changes {
        let mut dual = Dual::new();
        open(&mut dual, CLIENT);
        dual.change(change);
        let stats = dual.forwarder.stats();
        assert_eq!((stats.flows, stats.mappings), (0, 0), "{name}");
    }
    let mut dual = Dual::new();
    open(&mut dual, CLIENT);
    dual.change(|policy| {
        let mut other = policy.networks[0].clone();
        other.id = NetworkId(9);
        other.families[0].subnet = "172.30.0.0/16".parse().unwrap();
        other.families[0].gateway = Some(address("172.30.0.1"));
        policy.networks.push(other);
    });
    assert_eq!(
        dual.forwarder.stats().flows,
        1,
        "another network is nothing to it"
    );
}

#[test]
fn a_source_route_and_an_extension_behind_a_fragment_header_do_not_cross() {
    // RFC 7915 §5.1, §5.1.1
    let mut dual = Dual::new();
    let plain = Ip::udp(end(CLIENT), end(HOST), b"x");
    let with = |kind: u8, extension: [u8; 8]| {
        let mut octets = plain.0.clone();
        let next = std::mem::replace(&mut octets[6], kind);
        let mut extension = extension;
        extension[0] = next;
        octets.splice(40..40, extension);
        let length = u16::try_from(octets.len() - 40).unwrap();
        octets[4..6].copy_from_slice(&length.to_be_bytes());
        Ip(octets)
    };
    assert_eq!(
        dual.refused(&with(43, [0, 0, 4, 1, 0, 0, 0, 0])).0,
        "source_route"
    );
    let (_, written) = dual.frame(&[&[0; 10], &with(43, [0, 0, 4, 0, 0, 0, 0, 0]).0[..]].concat());
    assert_eq!(on_the_wire(&written[0])[0].payload(), b"x");
    let (_, written) = dual.frame(&[&[0; 10], &with(60, [0, 0, 1, 4, 0, 0, 0, 0]).0[..]].concat());
    assert_eq!(on_the_wire(&written[0])[0].payload(), b"x");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_crosses_is_right_and_comes_back_as_it_was(
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
        port in 1..=u16::MAX,
        host in 1..=u16::MAX,
        is_tcp in any::<bool>(),
        partial in any::<bool>(),
    ) {
        let mut dual = Dual::new();
        let client = end(&format!("[2001:db8:c::{host:x}]:{port}"));
        let build = |from, to, flags| if is_tcp {
            Ip::tcp(from, to, (flags, 7, 0), &[], &payload)
        } else {
            Ip::udp(from, to, &payload)
        };
        let send = |dual: &mut Dual, packet: &Ip| {
            let frame = if partial { offloaded(packet, 0) } else { [&[0; 10], &packet.0[..]].concat() };
            let (_, written) = dual.frame(&frame);
            on_the_wire(&written[0]).remove(0)
        };
        let there = send(&mut dual, &build(client, end(HOST), SYN));
        prop_assert!(there.is_v4() && there.to() == end(SERVER) && there.payload() == payload);
        let back = send(&mut dual, &build(there.to(), there.from(), SYN | ACK));
        prop_assert_eq!((back.from(), back.to()), (end(HOST), client));
        prop_assert_eq!(back.payload(), &payload);
    }

    #[test]
    fn spoiled_packets_neither_panic_nor_leave_wrong(
        up in any::<bool>(),
        kind in 0usize..4,
        spoil in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut dual = Dual::new();
        let seen = open(&mut dual, CLIENT);
        let (from, to) = if up { (end(CLIENT), end(HOST)) } else { (end(SERVER), seen) };
        let plain = Ip::udp(from, to, &pattern(600));
        let packet = match kind {
            0 => plain,
            1 => Ip::tcp(from, to, (SYN, 1, 0), &[2, 4, 5, 180], b""),
            2 => plain.without_df().fragments(400, 9).remove(0),
            _ => {
                let quote = Ip::udp(to, from, &pattern(100));
                let kind = if up { (1, 4) } else { (3, 3) };
                Ip::icmp_error(from.ip(), to.ip(), kind, 0, &quote.0)
            }
        };
        let mut frame = [&[0; 10], &packet.0[..]].concat();
        for (at, value) in &spoil {
            let at = at.index(frame.len());
            frame[at] = *value;
        }
        if spoil.len() == 3 {
            frame.truncate(cut.index(frame.len()));
        }
        let (_, written) = dual.frame(&frame);
        for frame in written {
            let packet = Ip(frame[10..].to_vec());
            if packet.is_v4() {
                prop_assert!(usize::from(packet.get16(2)) <= packet.0.len());
            } else {
                prop_assert!(usize::from(packet.get16(4)) + 40 <= packet.0.len());
            }
        }
    }
}
