//! Fragments through the forwarder.

use super::*;

fn big(from: &str, to: &str) -> Vec<u8> {
    udp_bytes(from, to, &[0x5a; 4000])
}

#[test]
fn in_order_out_and_back() {
    // RFC 4787 REQ-14
    let mut lab = Lab::new();
    let mut pieces = fragments(&big("172.17.0.2:1", "198.51.100.7:5000"), 1480);
    for piece in &mut pieces {
        assert_eq!(lab.verdict(piece), Verdict::Forward);
    }
    let whole = reassembled(pieces);
    let out = seen(&whole);
    assert!(out.src.starts_with("192.0.2.10:"));
    // RFC 6864 §5.3.1, RFC 7857 §6: the train gets one identification of its own.
    assert_ne!(out.ident, 0x1234);

    let mut pieces = fragments(&big("198.51.100.7:5000", &out.src), 1480);
    for piece in &mut pieces {
        assert_eq!(lab.verdict(piece), Verdict::Forward);
    }
    assert_eq!(seen(&reassembled(pieces)).dst, "172.17.0.2:1");
}

#[test]
fn out_of_order_out_and_in() {
    // RFC 4787 REQ-14
    let mut lab = Lab::new();
    let frames = [
        big("172.17.0.2:1", "198.51.100.7:5000"),
        big("198.51.100.7:5", "192.0.2.10:8080"),
        icmp_query(8, "172.17.0.2", "198.51.100.7", 9, 4000),
        big("172.17.0.2:1", "172.17.0.3:1"),
    ];
    for frame in frames {
        let mut pieces = fragments(&frame, 1480);
        pieces.reverse();
        let last = pieces.len() - 1;
        for piece in &mut pieces[..last] {
            assert_eq!(lab.verdict(piece), Verdict::Consumed);
        }
        assert_eq!(lab.verdict(&mut pieces[last]), Verdict::Forward);
        let mut arrived = vec![pieces[last].clone()];
        arrived.extend(lab.out.drain());
        let whole = seen(&reassembled(arrived));
        assert_eq!(whole.ttl, 63);
        assert_ne!(
            (whole.src.clone(), whole.dst.clone()),
            (seen(&frame).src, "".to_owned())
        );
    }
}

#[test]
fn what_is_not_ours_goes_to_the_host_unchanged() {
    let mut lab = Lab::new();
    for reverse in [false, true] {
        let ident = if reverse { 1 } else { 2 };
        let whole = with_ip(big("198.51.100.7:5", "192.0.2.10:53"), |packet| {
            packet.set_ident(ident)
        });
        let mut pieces = fragments(&whole, 1480);
        if reverse {
            pieces.reverse();
        }
        let mut returned = Vec::new();
        for piece in pieces.clone() {
            let mut judged = piece.clone();
            let verdict = lab.verdict(&mut judged);
            if verdict == Verdict::ToHost {
                returned.push(judged);
            } else {
                assert_eq!(verdict, Verdict::Consumed);
            }
        }
        returned.extend(lab.out.drain());
        returned.sort();
        pieces.sort();
        assert_eq!(returned, pieces);
    }
}

#[test]
fn fragments_of_a_dropped_packet_are_dropped() {
    let mut lab = Lab::new();
    let mut pieces = fragments(&big("172.17.0.2:1", "172.18.0.2:1"), 1480);
    pieces.reverse();
    for piece in &mut pieces[..2] {
        assert_eq!(lab.verdict(piece), Verdict::Consumed);
    }
    assert_eq!(
        lab.verdict(&mut pieces[2]),
        Verdict::Drop(DropReason::InterNetwork)
    );
    assert!(lab.out.is_empty());
    assert_eq!(lab.count(DropReason::InterNetwork), 3);
}

#[test]
fn smaller_mtu_cuts_fragments_again() {
    // RFC 4787 REQ-13a
    let mut lab = Lab::new();
    lab.host.egress.lock().mtu = 1000;
    let mut arrived = Vec::new();
    for mut piece in fragments(&big("172.17.0.2:1", "198.51.100.7:5000"), 1480) {
        let verdict = lab.verdict(&mut piece);
        if verdict == Verdict::Forward {
            arrived.push(piece);
        } else {
            assert_eq!(verdict, Verdict::Consumed);
        }
        arrived.extend(lab.out.drain());
    }
    assert!(
        arrived
            .iter()
            .all(|piece| piece.len() <= 1000 + VNET_HDR_LEN)
    );
    assert!(seen(&reassembled(arrived)).src.starts_with("192.0.2.10:"));
}

#[test]
fn waiting_ends() {
    let mut lab = Lab::new();
    let mut pieces = fragments(&big("172.17.0.2:1", "198.51.100.7:5000"), 1480);
    assert_eq!(lab.verdict(&mut pieces[1]), Verdict::Consumed);
    lab.pass(14);
    assert_eq!(lab.count(DropReason::FragmentTimeout), 0);
    lab.pass(1);
    assert_eq!(lab.count(DropReason::FragmentTimeout), 1);
    assert_eq!(lab.forwarder.poll_timeout(), None);
}

#[test]
fn orphans_do_not_hurt_whole_packets() {
    // RFC 4787 REQ-14a
    let mut lab = Lab::new();
    lab.connect("172.17.0.2:1", "198.51.100.7:80");
    let orphan = &fragments(&big("172.17.0.2:1", "198.51.100.7:5000"), 1480)[1];
    for n in 0..20_000u16 {
        let _ = lab.verdict(&mut with_ip(orphan.clone(), |packet| packet.set_ident(n)));
    }
    assert!(lab.count(DropReason::FragmentLimit) > 19_000);
    lab.send(tcp("172.17.0.2:1", "198.51.100.7:80", ACK, 1001, 5001, 10));
    let mut other = fragments(&big("172.17.0.3:1", "198.51.100.7:5000"), 1480);
    assert_eq!(lab.verdict(&mut other[1]), Verdict::Consumed);
    assert_eq!(lab.verdict(&mut other[0]), Verdict::Forward);
}

#[test]
fn a_fragmented_error_is_not_translated() {
    let mut lab = Lab::new();
    let mut sent = udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[0; 900]);
    assert_eq!(lab.verdict(&mut sent), Verdict::Forward);
    let error = icmp_error(3, 3, "198.51.100.7", "192.0.2.10", &sent, 900);
    lab.dropped(
        fragments(&error, 400)[0].clone(),
        DropReason::IcmpUnsupported,
    );
}
