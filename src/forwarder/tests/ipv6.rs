//! IPv6 through the forwarder: what the IPv4 tests ask, and what IPv6 alone has.

use super::*;
use crate::forwarder::packet::{Packet, Transport};

const A6: &str = "fd00:17::2";
const B6: &str = "fd00:17::3";
const H6: &str = "2001:db8::10";
const OUT6: &str = "2001:db8:ff::7";

const PAD: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
/// Routing header whose two segments are used up.
const USED_UP: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0];

fn at(address: &str, port: u16) -> String {
    format!("[{address}]:{port}")
}

/// Kind and octets of an extension header.
type Extension<'a> = (u8, &'a [u8]);

/// Puts extension headers of the given kinds in front of the transport header.
fn behind(mut frame: Vec<u8>, extensions: &[Extension<'_>]) -> Vec<u8> {
    let mut at = VNET_HDR_LEN + 40;
    let mut named_at = VNET_HDR_LEN + 6;
    for (kind, header) in extensions {
        let next = std::mem::replace(&mut frame[named_at], *kind);
        frame.splice(at..at, header.iter().copied());
        frame[at] = next;
        named_at = at;
        at += header.len();
    }
    with_length(frame)
}

fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(frame.len() - VNET_HDR_LEN - 40).unwrap();
    frame[VNET_HDR_LEN + 4..VNET_HDR_LEN + 6].copy_from_slice(&length.to_be_bytes());
    frame
}

fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[VNET_HDR_LEN + 7] = hops;
    frame
}

/// Fragments with `size` octets of payload each.
fn cut(frame: &[u8], size: usize, ident: u32) -> Vec<Vec<u8>> {
    let (header, payload) = frame.split_at(VNET_HDR_LEN + 40);
    let count = payload.len().div_ceil(size);
    let pieces = payload.chunks(size).enumerate();
    pieces
        .map(|(n, piece)| {
            let place = u16::try_from(n * size).unwrap() | u16::from(n + 1 < count);
            let mut extension = [0; 8];
            extension[2..4].copy_from_slice(&place.to_be_bytes());
            extension[4..].copy_from_slice(&ident.to_be_bytes());
            let whole = [header, piece].concat();
            behind(whole, &[(44, &extension)])
        })
        .collect()
}

/// The packet that fragments without other extension headers make, and their identification.
#[track_caller]
fn joined(mut pieces: Vec<Vec<u8>>) -> (Vec<u8>, u32) {
    let place = |frame: &[u8]| u16::from_be_bytes([frame[52], frame[53]]);
    pieces.sort_by_key(|frame| place(frame) & !7);
    let mut whole = pieces[0][..VNET_HDR_LEN + 40].to_vec();
    whole[VNET_HDR_LEN + 6] = pieces[0][50];
    let idents: BTreeSet<_> = pieces.iter().map(|frame| seen(frame).ident).collect();
    assert_eq!(idents.len(), 1, "one identification");
    for (n, piece) in pieces.iter().enumerate() {
        assert_eq!(piece[VNET_HDR_LEN + 6], 44);
        let offset = usize::from(place(piece) & !7);
        assert_eq!(offset, whole.len() - VNET_HDR_LEN - 40);
        assert_eq!(place(piece) & 1 == 1, n + 1 < pieces.len());
        whole.extend_from_slice(&piece[VNET_HDR_LEN + 48..]);
    }
    (with_length(whole), *idents.first().unwrap())
}

#[test]
fn egress_has_a_mapping_and_answers_come_back() {
    // RFC 4787 REQ-1
    let mut lab = Lab::new();
    let out = lab.send(udp(&at(A6, 4000), &at(OUT6, 53)));
    assert!(out.src.starts_with("[2001:db8::10]:"), "{out:?}");
    assert_eq!(out.dst, at(OUT6, 53));
    let again = lab.send(udp(&at(A6, 4000), &at("2001:db8:ff::8", 53)));
    assert_eq!(again.src, out.src);
    lab.send(udp(&at(OUT6, 53), &out.src))
        .is(&at(OUT6, 53), &at(A6, 4000));
    lab.connect(&at(A6, 4000), &at(OUT6, 443));
    assert_eq!(lab.forwarder.stats().flows, 3);
}

#[test]
fn ping_out_and_back_and_from_outside() {
    // RFC 5508 REQ-1
    let mut lab = Lab::new();
    let out = lab.send(icmp_query(128, A6, OUT6, 7, 56));
    assert_ne!(out.src, at(A6, 7));
    lab.send(icmp_query(129, OUT6, H6, out.port(), 56))
        .is(&at(OUT6, 0), &at(A6, 7));
    lab.left_to_host(icmp_query(128, OUT6, H6, 7, 56));
    lab.dropped(icmp_query(129, A6, OUT6, 9, 0), DropReason::IcmpUnsupported);
    // Neighbour and multicast listener discovery keep to their link.
    for kind in [131, 133, 134, 135, 136, 137, 143] {
        lab.dropped(
            icmp_query(kind, A6, OUT6, 0, 24),
            DropReason::IcmpUnsupported,
        );
    }
}

#[test]
fn a_routed_network_keeps_its_addresses_and_opens_its_ports() {
    let mut lab = Lab::new();
    let f = "2001:db8:20::2";
    lab.send(udp(&at(f, 4000), &at(OUT6, 53)))
        .is(&at(f, 4000), &at(OUT6, 53));
    lab.send(udp(&at(OUT6, 53), &at(f, 4000)));
    lab.send(tcp(&at(OUT6, 5000), &at(f, 80), SYN, 1, 0, 0))
        .is(&at(OUT6, 5000), &at(f, 80));
    lab.send(udp(&at(OUT6, 5000), &at(f, 53)));
    lab.send(icmp_query(128, OUT6, f, 7, 0));
    lab.dropped(
        tcp(&at(OUT6, 5000), &at(f, 81), SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
    // The same network's IPv4 is not routed, though not masqueraded either.
    lab.dropped(
        tcp("198.51.100.7:1", "172.20.0.2:80", SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
    // Another network's container is seen as the gateway, as ever.
    let seen = lab.send(tcp(&at(A6, 5000), &at(f, 80), SYN, 1, 0, 0));
    assert!(seen.src.starts_with("[2001:db8:20::1]:"), "{seen:?}");
    lab.dropped(
        tcp(&at(OUT6, 1), &at(A6, 80), SYN, 1, 0, 0),
        DropReason::DirectAccess,
    );
}

#[test]
fn published_from_outside_from_the_host_and_hairpin() {
    // RFC 4787 REQ-9
    let mut lab = Lab::new();
    lab.send(tcp(&at(OUT6, 5000), &at(H6, 8080), SYN, 1, 0, 0))
        .is(&at(OUT6, 5000), &at(A6, 80));
    lab.send(tcp(&at(A6, 80), &at(OUT6, 5000), SYN | ACK, 9, 2, 0))
        .is(&at(H6, 8080), &at(OUT6, 5000));
    let local = lab.send(tcp("[::1]:4000", "[::1]:8080", SYN, 1, 0, 0));
    assert!(local.src.starts_with("[fd00:17::1]:"), "{local:?}");
    lab.send(tcp(&at(A6, 80), &local.src, SYN | ACK, 9, 2, 0))
        .is("[::1]:8080", "[::1]:4000");
    for client in [A6, B6, "fd00:18::2", "fd00:19::2"] {
        let syn = lab.send(tcp(&at(client, 4000), &at(H6, 8080), SYN, 1, 0, 0));
        assert!(syn.src.starts_with("[fd00:17::1]:"), "{syn:?}");
        assert_eq!(syn.dst, at(A6, 80));
        lab.send(tcp(&at(A6, 80), &syn.src, SYN | ACK, 9, 2, 0))
            .is(&at(H6, 8080), &at(client, 4000));
    }
    lab.left_to_host(tcp(&at(OUT6, 1), &at(H6, 22), SYN, 1, 0, 0));
}

#[test]
fn neighbours_links_and_other_networks() {
    let mut lab = Lab::new();
    lab.send(udp(&at(A6, 1), &at(B6, 1)))
        .is(&at(A6, 1), &at(B6, 1));
    let (d, e) = ("fd00:19::2", "fd00:19::3");
    lab.dropped(udp(&at(d, 1), &at(e, 53)), DropReason::IccDisabled);
    lab.dropped(udp(&at(A6, 1), &at(d, 1)), DropReason::InterNetwork);
    lab.dropped(
        udp(&at("fd00:21::2", 1), &at(OUT6, 1)),
        DropReason::Internal,
    );
    let mut next = policy();
    next.links.push(LinkPolicy {
        client: EndpointId(4),
        server: EndpointId(5),
        protocol: Protocol::Udp,
        ports: 53..=53,
    });
    lab.forwarder.set_policy(next, lab.now);
    lab.send(udp(&at(d, 1), &at(e, 53)));
    lab.send(udp(&at(e, 53), &at(d, 1)));
    lab.dropped(udp(&at(d, 1), &at(e, 54)), DropReason::IccDisabled);
}

#[test]
fn martians() {
    // nat.md S14
    let mut lab = Lab::new();
    let martians = [
        "::",
        "::ffff:192.0.2.1",
        "::192.0.2.1",
        "fe80::1",
        "febf::1",
    ];
    for address in martians {
        for (src, dst) in [(address, H6), (A6, address), (OUT6, address)] {
            lab.dropped(udp(&at(src, 1), &at(dst, 8080)), DropReason::Martian);
        }
    }
    for (src, dst) in [("ff02::1", H6), (A6, "::1"), (OUT6, "::1"), ("::1", OUT6)] {
        lab.dropped(udp(&at(src, 1), &at(dst, 8080)), DropReason::Martian);
    }
    for group in ["ff02::1", "ff02::fb", "ff05::2", "ff0e::1"] {
        lab.dropped(udp(&at(A6, 1), &at(group, 1)), DropReason::Broadcast);
    }
    lab.dropped(udp(&at(A6, 1), &at(A6, 1)), DropReason::Land);
    // There is no broadcast, and the subnet-router anycast address is no container's.
    for vacant in ["fd00:17::", "fd00:17::ffff:ffff:ffff:ffff", "fd00:17::99"] {
        lab.dropped(udp(&at(A6, 1), &at(vacant, 1)), DropReason::NoSuchEndpoint);
        lab.dropped(udp(&at(vacant, 1), &at(OUT6, 1)), DropReason::UnknownSource);
    }
}

#[test]
fn the_hosts_own_listener_reports_end_here() {
    // The kernel's, for the groups that it joins on the TUN itself.
    let mut lab = Lab::new();
    for source in ["::", "fe80::1"] {
        let report = icmp_query(143, source, "ff02::16", 0, 20);
        let alert: Extension<'_> = (0, &[0, 0, 5, 2, 0, 0, 1, 0]);
        lab.dropped(behind(report, &[alert]), DropReason::Broadcast);
    }
    assert!(lab.out.is_empty());
}

#[test]
fn extension_headers_are_skipped_and_kept() {
    let chains: [&[Extension<'_>]; 5] = [
        &[(60, &PAD)],
        &[(0, &PAD), (60, &PAD), (43, &USED_UP), (60, &PAD)],
        &[(43, &USED_UP)],
        // RFC 6946: an atomic fragment is a whole packet.
        &[(44, &[0, 0, 0, 0, 1, 2, 3, 4])],
        &[(0, &PAD), (44, &[0, 0, 0, 0, 1, 2, 3, 4]), (60, &PAD)],
    ];
    for chain in chains {
        let mut lab = Lab::new();
        let plain = udp(&at(A6, 4000), &at(OUT6, 53));
        let sent = behind(plain.clone(), chain);
        let mut frame = sent.clone();
        assert_eq!(lab.verdict(&mut frame), Verdict::Forward, "{chain:?}");
        let out = seen(&frame);
        assert_eq!(out.src, lab.send(plain).src, "the same flow");
        let end = frame.len() - 13;
        assert_eq!(frame[50..end], sent[50..end]);
        lab.send(partial(sent, 0, 0));
        lab.send(behind(udp(&at(OUT6, 53), &out.src), chain))
            .is(&at(OUT6, 53), &at(A6, 4000));
    }
}

#[test]
fn chains_that_lead_nowhere() {
    let mut lab = Lab::new();
    let plain = udp(&at(A6, 4000), &at(OUT6, 53));
    let pad: Extension<'_> = (60, &PAD);
    let routed = [0, 2, 0, 1, 0, 0, 0, 0].iter().chain(&[0; 16]).copied();
    let routed: Vec<u8> = routed.collect();
    let atomic: Extension<'_> = (44, &[0; 8]);
    let cases: [(&[Extension<'_>], DropReason); 9] = [
        (&[(43, &routed)], DropReason::SourceRoute),
        (&[pad, (0, &PAD)], DropReason::Malformed),
        (&[(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0])], DropReason::Malformed),
        (&[(0, &[0, 0, 1, 9, 0, 0, 0, 0])], DropReason::Malformed),
        (&[(60, &[0, 200, 1, 4, 0, 0, 0, 0])], DropReason::Malformed),
        (&[atomic, atomic], DropReason::Malformed),
        (&[pad; 9], DropReason::Malformed),
        (&[(50, &PAD)], DropReason::UnsupportedProtocol),
        (&[(51, &PAD)], DropReason::UnsupportedProtocol),
    ];
    for (chain, reason) in cases {
        lab.dropped(behind(plain.clone(), chain), reason);
    }
    lab.send(behind(plain.clone(), &[pad; 8]));
    let mut none = plain.clone();
    none[VNET_HDR_LEN + 6] = 59;
    lab.dropped(none, DropReason::UnsupportedProtocol);
    let mut old_icmp = plain.clone();
    old_icmp[VNET_HDR_LEN + 6] = 1;
    lab.dropped(old_icmp, DropReason::UnsupportedProtocol);
    // A jumbogram has no length.
    let mut jumbo = behind(plain.clone(), &[(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0])]);
    jumbo[VNET_HDR_LEN + 4..VNET_HDR_LEN + 6].fill(0);
    lab.dropped(jumbo, DropReason::Malformed);
    for length in [VNET_HDR_LEN + 39, plain.len() - 1] {
        lab.dropped(plain[..length].to_vec(), DropReason::Malformed);
    }
    let mut padded = plain;
    padded.extend_from_slice(&[0xee; 7]);
    lab.send(padded);
}

fn big(from: &str, to: &str) -> Vec<u8> {
    udp_bytes(from, to, &[0x5a; 4000])
}

#[test]
fn fragments_in_and_out_of_order() {
    // RFC 4787 REQ-14
    for reverse in [false, true] {
        let mut lab = Lab::new();
        let frames = [
            big(&at(A6, 1), &at(OUT6, 5000)),
            big(&at(OUT6, 5), &at(H6, 8080)),
            icmp_query(128, A6, OUT6, 9, 4000),
            big(&at(A6, 1), &at(B6, 1)),
            big(&at("2001:db8:20::2", 1), &at(OUT6, 1)),
        ];
        for (n, frame) in frames.iter().enumerate() {
            let mut pieces = cut(frame, 1448, 77);
            if reverse {
                pieces.reverse();
            }
            let mut arrived = Vec::new();
            for mut piece in pieces {
                let verdict = lab.verdict(&mut piece);
                assert!(matches!(verdict, Verdict::Forward | Verdict::Consumed));
                arrived.extend((verdict == Verdict::Forward).then_some(piece));
                arrived.extend(lab.out.drain());
            }
            let (whole, ident) = joined(arrived);
            let whole = seen(&whole);
            assert_eq!(whole.ttl, 63);
            // Those that share their address get an identification that does not collide.
            let shared = n == 0 || n == 2;
            assert_eq!(ident == 77, !shared, "{whole:?}");
        }
    }
}

#[test]
fn fragments_for_the_host_are_left_alone() {
    let mut lab = Lab::new();
    for piece in cut(&big(&at(OUT6, 5), &at(H6, 53)), 1448, 5) {
        lab.left_to_host(piece);
    }
}

#[test]
fn fragments_that_no_host_sends() {
    let mut lab = Lab::new();
    // RFC 5722: overlapping.
    let mut pieces = cut(&big(&at(A6, 1), &at(OUT6, 5000)), 1448, 1);
    assert_eq!(lab.verdict(&mut pieces[0]), Verdict::Forward);
    pieces[1][VNET_HDR_LEN + 42..VNET_HDR_LEN + 44].copy_from_slice(&(1440_u16 | 1).to_be_bytes());
    lab.dropped(pieces[1].clone(), DropReason::FragmentOverlap);
    lab.dropped(pieces[2].clone(), DropReason::FragmentOverlap);
    // RFC 8200 §4.5: whichever protocol the later ones name.
    let mut pieces = cut(&big(&at(A6, 1), &at(OUT6, 5000)), 1448, 2);
    pieces[1][VNET_HDR_LEN + 40] = 6;
    assert_eq!(lab.verdict(&mut pieces[0]), Verdict::Forward);
    assert_eq!(lab.verdict(&mut pieces[1]), Verdict::Forward);
    // RFC 7112: headers not all in the first one.
    let small = tcp(&at(A6, 1), &at(OUT6, 5000), SYN, 1, 0, 0);
    lab.dropped(cut(&small, 16, 3)[0].clone(), DropReason::FragmentTiny);
    let hidden = cut(&behind(small, &[(60, &PAD)]), 8, 4);
    lab.dropped(hidden[0].clone(), DropReason::FragmentTiny);
    // RFC 8200 §4.5: not in units of 8 octets, or beyond the largest packet.
    let mut odd = cut(&big(&at(A6, 1), &at(OUT6, 5000)), 1448, 5)[0].clone();
    odd.pop();
    lab.dropped(with_length(odd), DropReason::Malformed);
    let mut beyond = cut(&big(&at(A6, 1), &at(OUT6, 5000)), 1448, 5)[1].clone();
    beyond[VNET_HDR_LEN + 42..VNET_HDR_LEN + 44].copy_from_slice(&0xfff8_u16.to_be_bytes());
    lab.dropped(beyond, DropReason::Malformed);
}

#[test]
fn too_big_is_told_and_never_cut() {
    // RFC 4787 REQ-13
    let mut lab = Lab::new();
    lab.host.egress.lock().mtu = 1400;
    let frame = udp_bytes(&at(A6, 1), &at(OUT6, 5000), &[7; 1400]);
    lab.dropped(frame.clone(), DropReason::FragmentationNeeded);
    let error = lab.generated();
    assert_eq!(&error[50..52], [2, 0]);
    assert_eq!(error[54..58], 1400_u32.to_be_bytes());
    assert_eq!(seen(&error).src, at("fd00:17::1", 0));
    assert_eq!(error.len(), VNET_HDR_LEN + 1280);
    assert_eq!(error[58..], frame[10..10 + 1232]);
    // A fragment is too big all the same, the first one and, in IPv6, every other one.
    let pieces = cut(&big(&at(A6, 2), &at(OUT6, 5000)), 1448, 1);
    lab.dropped(pieces[0].clone(), DropReason::FragmentationNeeded);
    let _ = lab.generated();
    let mut small = cut(&big(&at(A6, 2), &at(OUT6, 5000)), 1296, 2);
    assert_eq!(lab.verdict(&mut small[0]), Verdict::Forward);
    let mut later = cut(&big(&at(A6, 2), &at(OUT6, 5000)), 1296, 2)[1].clone();
    later.extend_from_slice(&[0; 800]);
    lab.dropped(with_length(later), DropReason::FragmentationNeeded);
    assert_eq!(&lab.generated()[50..52], [2, 0]);
    // Super-packets by their segments, whose size only the sender chooses.
    let big = |size| {
        partial(
            tcp(&at(A6, 1), &at(OUT6, 80), SYN, 1001, 0, 30_000),
            4,
            size,
        )
    };
    lab.send(big(1332));
    lab.dropped(big(1333), DropReason::FragmentationNeeded);
    let _ = lab.generated();
    let udp_big = |size| partial(udp_bytes(&at(A6, 1), &at(OUT6, 80), &[1; 9000]), 5, size);
    lab.send(udp_big(1352));
    lab.dropped(udp_big(1353), DropReason::FragmentationNeeded);
}

#[test]
fn the_hosts_own_packets_are_cut_like_by_their_source() {
    let mut lab = Lab::new();
    let mut idents = BTreeSet::new();
    let big = || udp_bytes("[::1]:1", "[::1]:8080", &[0x3c; 4000]);
    for chain in [&[][..], &[], &[(0, &PAD[..]), (60, &PAD[..])]] {
        let mut frame = behind(big(), chain);
        assert_eq!(lab.verdict(&mut frame), Verdict::Consumed);
        let pieces: Vec<_> = lab.out.drain().collect();
        assert_eq!(pieces.len(), 3);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() <= VNET_HDR_LEN + 1500)
        );
        if chain.is_empty() {
            let (whole, ident) = joined(pieces);
            assert_eq!(seen(&whole).dst, at(A6, 80));
            idents.insert(ident);
        } else {
            // Hop-by-hop options are in all of them, destination options in the first.
            assert!(pieces.iter().all(|piece| piece[16] == 0 && piece[50] == 44));
            assert_eq!(pieces[0][58], 60);
        }
    }
    assert_eq!(idents.len(), 2);
    // Its fragments for the loopback interface are cut again.
    let mut arrived = Vec::new();
    for mut piece in cut(&big(), 2000, 8) {
        let verdict = lab.verdict(&mut piece);
        assert!(matches!(verdict, Verdict::Forward | Verdict::Consumed));
        arrived.extend((verdict == Verdict::Forward).then_some(piece));
        arrived.extend(lab.out.drain());
    }
    assert_eq!(arrived.len(), 5);
    assert_eq!(seen(&joined(arrived).0).dst, at(A6, 80));
}

#[test]
fn mss_leaves_room_for_the_longer_header() {
    let mut lab = Lab::new();
    let mut next = policy();
    next.networks[0].clamp_mss = true;
    lab.forwarder.set_policy(next, lab.now);
    lab.host.egress.lock().mtu = 1400;
    lab.forwarder.routes_changed();
    let mut syn = tcp(&at(A6, 1), &at(OUT6, 80), SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut syn), Verdict::Forward);
    assert_eq!(syn[VNET_HDR_LEN + 63..][..2], 1340_u16.to_be_bytes());
    let _ = seen(&syn);
}

#[test]
fn errors_are_translated_outside_and_inside() {
    // RFC 5508 REQ-4, REQ-5
    let mut lab = Lab::new();
    let router = "2001:db8:ff::1";
    let sent = [
        udp(&at(A6, 4000), &at(OUT6, 53)),
        tcp(&at(A6, 4000), &at(OUT6, 80), SYN, 1000, 0, 0),
        icmp_query(128, A6, OUT6, 7, 20),
        behind(udp(&at(A6, 4001), &at(OUT6, 53)), &[(60, &PAD)]),
    ];
    for original in sent {
        let mut frame = original.clone();
        assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
        for (kind, code) in [(1, 4), (2, 0), (3, 0), (4, 1)] {
            let mut error = icmp_error(kind, code, router, H6, &frame, 1232);
            error[54..58].copy_from_slice(&1280_u32.to_be_bytes());
            Packet::parse(&mut error).unwrap().fill_icmp_checksum();
            assert_eq!(lab.verdict(&mut error), Verdict::Forward);
            seen(&error).is(&at(router, 0), &at(A6, 0));
            assert_eq!(error[54..58], 1280_u32.to_be_bytes(), "untouched");
            let mut quoted = original.clone();
            quoted[VNET_HDR_LEN + 7] = 63;
            assert_eq!(error[58..], quoted[VNET_HDR_LEN..], "as it was sent");
        }
    }
}

#[test]
fn errors_from_inside_get_the_address_that_the_peer_knows() {
    let mut lab = Lab::new();
    let mut syn = udp(&at(OUT6, 5000), &at(H6, 8080));
    assert_eq!(lab.verdict(&mut syn), Verdict::Forward);
    let mut error = icmp_error(1, 4, A6, OUT6, &syn, 1232);
    assert_eq!(lab.verdict(&mut error), Verdict::Forward);
    seen(&error).is(&at(H6, 0), &at(OUT6, 0));
    let mut quote = vec![0; VNET_HDR_LEN];
    quote.extend_from_slice(&error[58..]);
    seen(&quote).is(&at(OUT6, 5000), &at(H6, 8080));
}

#[test]
fn forged_errors_are_dropped() {
    // nat.md S7
    let mut lab = Lab::new();
    let mut sent = tcp(&at(A6, 4000), &at(OUT6, 80), SYN, 1000, 0, 0);
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    let error = |change: fn(&mut Vec<u8>)| {
        let mut quoted = sent.clone();
        change(&mut quoted);
        icmp_error(2, 0, "2001:db8:ff::1", H6, &quoted, 1232)
    };
    let mut broken = error(|_| ());
    broken[52] ^= 1;
    lab.dropped(broken, DropReason::BadIcmpChecksum);
    // The host's own connections have errors, too.
    lab.left_to_host(error(|quote| quote[50] ^= 0x40));
    lab.dropped(error(|quote| quote[54] ^= 0x40), DropReason::IcmpNoFlow);
    lab.dropped(
        icmp_error(2, 0, "2001:db8:ff::1", A6, &sent, 1232),
        DropReason::IcmpNoFlow,
    );
    lab.dropped(
        icmp_error(2, 0, "fd00:17::99", H6, &sent, 1232),
        DropReason::UnknownSource,
    );
    let short = icmp_error(1, 0, "2001:db8:ff::1", H6, &sent, 47);
    let mut judged = short;
    assert_ne!(lab.verdict(&mut judged), Verdict::Forward);
}

#[test]
fn traceroute_shows_gateway_then_router() {
    let mut lab = Lab::new();
    let first = with_hops(udp(&at(A6, 33_000), &at(OUT6, 33_434)), 1);
    lab.dropped(first.clone(), DropReason::TtlExceeded);
    let error = lab.generated();
    assert_eq!(&error[50..52], [3, 0]);
    seen(&error).is(&at("fd00:17::1", 0), &at(A6, 0));
    assert_eq!(error[58..], first[VNET_HDR_LEN..]);
    let mut second = with_hops(first, 2);
    assert_eq!(lab.verdict(&mut second), Verdict::Forward);
    assert_eq!(seen(&second).ttl, 1);
    let from_router = icmp_error(3, 0, "2001:db8:ff::1", H6, &second, 1232);
    lab.send(from_router).is("[2001:db8:ff::1]:0", &at(A6, 0));
}

#[test]
fn who_is_told_and_who_is_not() {
    // RFC 4443 §2.4
    let mut lab = Lab::new();
    lab.dropped(udp(&at(A6, 1), "[2001:db8:dead::1]:1"), DropReason::NoRoute);
    let error = lab.generated();
    assert_eq!(&error[50..52], [1, 0]);
    let mut sent = udp(&at(A6, 1), &at(OUT6, 1));
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    let about_an_error = icmp_error(3, 0, "2001:db8:ff::1", H6, &sent, 1232);
    lab.dropped(with_hops(about_an_error, 1), DropReason::TtlExceeded);
    assert!(lab.out.is_empty());
    lab.dropped(udp(&at(A6, 1), "[ff0e::1]:1"), DropReason::Broadcast);
    assert!(lab.out.is_empty());
    // One host outside has 2^64 addresses, and one limit; a container has one of its own.
    for n in 0..100_u16 {
        let from = format!("[2001:db8:ff::{n:x}]:1");
        let mut frame = with_hops(udp(&from, &at(H6, 8080)), 1);
        assert_eq!(
            lab.verdict(&mut frame),
            Verdict::Drop(DropReason::TtlExceeded)
        );
        let from = format!("[fd00:17::{}]:1", 2 + n % 2);
        let mut frame = with_hops(udp(&from, &at(OUT6, 1)), 1);
        let _ = lab.verdict(&mut frame);
    }
    let (mut outside, mut inside) = (0, BTreeSet::new());
    for error in lab.out.drain() {
        let dst = seen(&error).dst;
        if dst.starts_with("[fd00") {
            inside.insert(dst);
        } else {
            outside += 1;
        }
    }
    assert!((10..=30).contains(&outside), "{outside}");
    assert_eq!(inside.len(), 2);
}

#[test]
fn an_unsolicited_syn_is_answered_late() {
    // RFC 5382 REQ-4
    let mut lab = Lab::new();
    let out = lab.connect(&at(A6, 4000), &at(OUT6, 80));
    let mut syn = tcp("[2001:db8:ff::9]:7", &out.src, SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut syn), Verdict::Consumed);
    lab.pass(7);
    let error = lab.generated();
    assert_eq!(&error[50..52], [1, 4]);
    seen(&error).is(&at(H6, 0), "[2001:db8:ff::9]:0");
}

#[test]
fn a_transport_is_that_of_its_family() {
    let kind = |mut frame: Vec<u8>| Packet::parse(&mut frame).unwrap().transport;
    assert_eq!(
        kind(icmp_query(128, A6, OUT6, 1, 0)),
        Transport::IcmpQuery(128)
    );
    let mut foreign = udp("172.17.0.2:1", "198.51.100.7:1");
    foreign[VNET_HDR_LEN + 9] = 58;
    let foreign = with_ip(foreign, |_| ());
    assert_eq!(kind(foreign), Transport::Other);
}
