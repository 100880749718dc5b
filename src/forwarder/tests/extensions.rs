//! What IPv6 has of its own between the IP header and the transport header: extensions, fragments,
//! lengths.

use super::*;
use crate::forwarder::packet::{Packet, Transport};

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
