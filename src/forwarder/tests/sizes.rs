//! MTU, super-packets, partial checksums, MSS.

use super::*;

fn narrow(mtu: u32) -> Lab {
    let lab = Lab::new();
    lab.host.egress.lock().mtu = mtu;
    lab
}

#[test]
fn too_big_with_df_is_answered_with_the_mtu() {
    // RFC 4787 REQ-13
    let mut lab = narrow(1400);
    let frame = udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[7; 1400]);
    lab.dropped(frame.clone(), DropReason::FragmentationNeeded);
    let error = lab.generated();
    assert_eq!(&error[30..32], [3, 4]);
    assert_eq!(error[36..38], 1400u16.to_be_bytes());
    assert_eq!(seen(&error).src, "172.17.0.1:0");
    assert_eq!(error[38..66], frame[10..38]);
    lab.send(udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[7; 1372]));
}

#[test]
fn too_big_without_df_is_fragmented() {
    // RFC 4787 REQ-13a
    let mut lab = narrow(600);
    let whole = without_df(udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[7; 1400]));
    for mut frame in [whole.clone(), partial(whole, 0, 0)] {
        assert_eq!(lab.verdict(&mut frame), Verdict::Consumed);
        let pieces: Vec<_> = lab.out.drain().collect();
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.len() <= VNET_HDR_LEN + 600));
        let whole = reassembled(pieces);
        assert!(
            seen(&whole).src.starts_with("192.0.2.10:"),
            "and the checksum is complete"
        );
        assert_eq!(whole.len(), VNET_HDR_LEN + 1428);
    }
}

#[test]
fn super_packets_are_measured_by_their_segments() {
    let mut lab = narrow(1400);
    lab.connect("172.17.0.2:1", "198.51.100.7:80");
    let big = |size| {
        partial(
            tcp("172.17.0.2:1", "198.51.100.7:80", ACK, 1001, 5001, 30_000),
            1,
            size,
        )
    };
    lab.send(big(1360));
    lab.dropped(big(1361), DropReason::FragmentationNeeded);
    let error = lab.generated();
    assert_eq!(&error[30..32], [3, 4]);
    assert_eq!(error[36..38], 1400u16.to_be_bytes());

    let mut allowed = without_df(big(1460));
    assert_eq!(lab.verdict(&mut allowed), Verdict::Forward);
    assert_eq!(allowed[4..6], 1360u16.to_ne_bytes(), "smaller segments");
    let flow = &lab.forwarder.flows(lab.now)[0];
    assert_eq!(
        flow.packets_original,
        2 + 23 + 21,
        "counted as the segments that came"
    );
}

#[test]
fn udp_super_packets_pass_or_are_refused() {
    let mut lab = narrow(1400);
    let big = |size| {
        partial(
            udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[1; 9000]),
            5,
            size,
        )
    };
    lab.send(big(1372));
    lab.dropped(big(1373), DropReason::FragmentationNeeded);
}

#[test]
fn partial_checksums_follow_addresses_only() {
    // `seen` compares the field with the pseudo header's sum.
    let mut lab = Lab::new();
    let out = lab.send(partial(udp("172.17.0.2:1", "198.51.100.7:5000"), 0, 0));
    lab.send(partial(udp("198.51.100.7:5000", &out.src), 0, 0))
        .is("198.51.100.7:5000", "172.17.0.2:1");
    lab.send(partial(
        tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 0),
        0,
        0,
    ));
}

#[test]
fn verified_checksums_are_updated_and_the_claim_dropped() {
    let mut lab = Lab::new();
    let mut frame = udp("172.17.0.2:1", "198.51.100.7:5000");
    frame[0] = 2;
    assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
    assert_eq!(frame[0], 0);
    let _ = seen(&frame);
}

#[test]
fn a_packet_towards_a_container_obeys_its_networks_mtu() {
    let mut lab = Lab::new();
    let mut next = policy();
    next.networks[0].mtu = 1400;
    lab.forwarder.set_policy(next, lab.now);
    lab.dropped(
        udp_bytes("198.51.100.7:1", "192.0.2.10:8080", &[0; 1400]),
        DropReason::FragmentationNeeded,
    );
    assert_eq!(seen(&lab.generated()).src, "192.0.2.10:0");
    // The host's own stack has no MTU towards itself, so its DF says nothing.
    // As the identification of such packets is arbitrary, they get one that does not repeat.
    let mut idents = BTreeSet::new();
    for _ in 0..3 {
        let mut frame = udp_bytes("127.0.0.1:1", "127.0.0.1:8080", &[0; 4000]);
        assert_eq!(lab.verdict(&mut frame), Verdict::Consumed);
        let whole = seen(&reassembled(lab.out.drain().collect()));
        assert_eq!(whole.dst, "172.17.0.2:80");
        idents.insert(whole.ident);
    }
    assert_eq!(idents.len(), 3);
}

#[test]
fn mss_is_clamped_where_asked() {
    let mut lab = narrow(1400);
    let mss = |frame: &[u8]| u16::from_be_bytes([frame[53], frame[54]]);
    let mut plain = tcp("172.17.0.2:1", "198.51.100.7:80", SYN, 1, 0, 0);
    assert_eq!(lab.verdict(&mut plain), Verdict::Forward);
    assert_eq!(mss(&plain), 1460);
    for checksum in [false, true] {
        let client = format!("172.18.0.2:{}", 1 + u8::from(checksum));
        let mut syn = tcp(&client, "198.51.100.7:80", SYN, 1, 0, 0);
        if checksum {
            syn = partial(syn, 0, 0);
        }
        assert_eq!(lab.verdict(&mut syn), Verdict::Forward);
        assert_eq!(mss(&syn), 1360);
        let external = seen(&syn).src;
        let mut answer = tcp("198.51.100.7:80", &external, SYN | ACK, 1, 2, 0);
        assert_eq!(lab.verdict(&mut answer), Verdict::Forward);
        assert_eq!(mss(&answer), 1360);
        let _ = seen(&answer);
    }
}

#[test]
fn padding_of_short_frames_is_harmless() {
    let mut lab = Lab::new();
    let mut frame = udp("172.17.0.2:1", "198.51.100.7:5000");
    frame.extend_from_slice(&[0xee; 13]);
    assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
    assert!(frame.ends_with(&[0xee; 13]));
}

#[test]
fn only_non_atomic_packets_get_a_new_identification() {
    // RFC 6864 §5.3.1, RFC 7857 §6
    let mut lab = Lab::new();
    assert_eq!(
        lab.send(udp("172.17.0.2:1", "198.51.100.7:5000")).ident,
        0x1234
    );
    let idents: BTreeSet<_> = (0..100)
        .map(|n| {
            lab.send(without_df(udp(
                &format!("172.17.0.{}:1", 2 + n % 2),
                "198.51.100.7:5000",
            )))
            .ident
        })
        .collect();
    assert_eq!(idents.len(), 100);
    lab.send(tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 0));
    let reply = lab.send(without_df(tcp(
        "172.17.0.2:80",
        "198.51.100.7:1",
        SYN | ACK,
        1,
        2,
        0,
    )));
    assert_ne!(
        reply.ident, 0x1234,
        "the answers of a published port share an address too"
    );
}
