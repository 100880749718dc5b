//! Packets larger than the next link (RFC 4787 REQ-13, RFC 1191).

use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

#[test]
fn a_df_packet_too_large_for_the_uplink_is_answered_frag_needed() {
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[1; 1472]).with_df();
    let (reason, error) = w.rejects(&sent);
    assert_eq!(reason, "fragmentation_needed");
    assert_eq!((error.src(), error.dst()), (GATEWAY, C1));
    assert_eq!(error.icmp_type_code(), (UNREACHABLE, 4));
    assert_eq!(error.icmp_rest(), NARROW_MTU);
    assert!(
        sent.0.starts_with(&error.quote().0),
        "quotes what the container sent"
    );
}

#[test]
fn a_df_ping_too_large_for_the_uplink_is_answered_frag_needed() {
    let mut w = World::new();
    let sent = Packet::echo_request(C1, NARROW, 5, 1, &[1; 1472]).with_df();
    let (_, error) = w.rejects(&sent);
    assert_eq!(
        (error.icmp_type_code(), error.icmp_rest()),
        ((UNREACHABLE, 4), NARROW_MTU)
    );
}

#[test]
fn a_df_packet_of_exactly_the_mtu_passes() {
    let mut w = World::new();
    let fits = Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[1; 1372]).with_df();
    assert_eq!(fits.0.len(), 1400);
    w.forward(fits);
    let (reason, _) =
        w.rejects(Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[1; 1373]).with_df());
    assert_eq!(reason, "fragmentation_needed");
}

#[test]
fn a_packet_without_df_is_cut_in_order() {
    // REQ-13a.
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[5; 1472]);
    let fragments = w.consumes(&sent);
    assert_eq!(fragments.len(), 2);
    assert!(
        fragments
            .windows(2)
            .all(|f| f[0].fragment_offset() < f[1].fragment_offset())
    );
    assert!(
        fragments.iter().all(|f| f.0.len() <= 1400 && f.ttl() == 63),
        "{fragments:?}"
    );
    let whole = reassemble(&fragments).unwrap();
    whole.assert_valid();
    assert_eq!(
        (*whole.source().ip(), whole.payload()),
        (HOST2, sent.payload())
    );
}

#[test]
fn a_fragment_without_df_is_cut_again() {
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[5; 4000]);
    let mut out = Vec::new();
    for fragment in sent.fragments(1480) {
        let step = w.step(&fragment);
        match step.verdict {
            Verdict::Forward => out.push(step.frame.packet),
            Verdict::Consumed => {}
            other => panic!("{other:?}"),
        }
        out.extend(step.generated.into_iter().map(|f| f.packet));
    }
    assert!(out.iter().all(|f| f.0.len() <= 1400), "{out:?}");
    let whole = reassemble(&out).expect("complete");
    whole.assert_valid();
    assert_eq!(whole.payload(), sent.payload());
}

#[test]
fn options_that_are_not_to_be_copied_stay_in_the_first_fragment() {
    // RFC 791 §3.1: record route has no copied flag, router alert has.
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.80.0.1:9000"), &[5; 1460])
        .with_ip_options(&[0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]);
    let fragments = w.consumes(&sent);
    assert!(fragments.len() >= 2);
    assert_eq!(fragments[0].header_len(), 32);
    for later in &fragments[1..] {
        assert!(later.header_len() < 32, "{later:?}");
        assert_eq!(&later.0[20..24], [0x94, 4, 0, 0]);
    }
    let mut l4: Vec<u8> = Vec::new();
    for fragment in &fragments {
        assert_eq!(fragment.fragment_offset(), l4.len());
        l4.extend(fragment.l4());
    }
    assert_eq!(l4.len(), sent.l4().len());
}

#[test]
fn a_super_packet_whose_segments_fit_passes_whole() {
    let mut w = World::new();
    let tcp = Packet::tcp(at("172.17.0.2:40000"), at("10.80.0.1:80"), SYN, 1, 0, b"");
    w.forward(tcp);
    let big = Packet::tcp(
        at("172.17.0.2:40000"),
        at("10.80.0.1:80"),
        PSH | ACK,
        2,
        9,
        &[7; 40_000],
    );
    let frame = Frame::super_packet(big, 1360);
    let out = w.forward_frame(&frame);
    assert_eq!(out.vnet, frame.vnet);
    assert!(out.segments().iter().all(|s| s.0.len() <= 1400));
}

#[test]
fn a_super_packet_whose_segments_do_not_fit_is_answered_frag_needed() {
    let mut w = World::new();
    w.forward(Packet::tcp(
        at("172.17.0.2:40000"),
        at("10.80.0.1:80"),
        SYN,
        1,
        0,
        b"",
    ));
    let big = Packet::tcp(
        at("172.17.0.2:40000"),
        at("10.80.0.1:80"),
        PSH | ACK,
        2,
        9,
        &[7; 40_000],
    );
    let (reason, error) = w.rejects(Frame::super_packet(big.clone(), 1361));
    assert_eq!(reason, "fragmentation_needed");
    assert_eq!(
        (error.src(), error.icmp_type_code(), error.icmp_rest()),
        (GATEWAY, (UNREACHABLE, 4), NARROW_MTU)
    );
    let quote = error.quote();
    assert_eq!(
        (quote.source(), quote.destination(), quote.seq()),
        (big.source(), big.destination(), 2)
    );
}

#[test]
fn a_packet_too_large_for_the_containers_network_is_answered_from_the_hosts_address() {
    let mut w = World::new();
    w.change(|p| p.networks[0].mtu = 1300);
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let sent = Packet::udp(at("10.20.0.1:9000"), seen, &[1; 1400]).with_df();
    let (reason, error) = w.rejects(&sent);
    assert_eq!(reason, "fragmentation_needed");
    assert_eq!((error.src(), error.dst()), (HOST, S1));
    assert_eq!(
        (error.icmp_type_code(), error.icmp_rest()),
        ((UNREACHABLE, 4), 1300)
    );
    assert!(sent.0.starts_with(&error.quote().0));
    let whole = reassemble(&w.consumes(sent.without_df())).unwrap();
    whole.assert_valid();
    assert_eq!(whole.dst(), C1);
}

#[test]
fn a_published_server_hears_of_a_narrow_way_back() {
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    w.forward(Packet::udp(
        at("10.80.0.1:5000"),
        at("10.9.0.10:5353"),
        b"q",
    ));
    let (_, error) =
        w.rejects(Packet::udp(at("172.17.0.2:53"), at("10.80.0.1:5000"), &[1; 1472]).with_df());
    assert_eq!(
        (error.src(), error.dst(), error.icmp_rest()),
        (GATEWAY, C1, NARROW_MTU)
    );
}

#[test]
fn mss_is_clamped_on_request_only() {
    let mut w = World::new();
    let syn = Packet::syn_mss(at("172.17.0.2:40000"), at("10.80.0.1:80"), 1, 1460);
    assert_eq!(w.forward(&syn).get16(42), 1460);
    let mut w = World::new();
    w.change(|p| p.networks[0].clamp_mss = true);
    let seen = w.forward(&syn);
    assert_eq!(seen.get16(42), 1360);
    // Also as the kernel sends it, with the checksum left to the device.
    let again = Packet::syn_mss(at("172.17.0.2:40001"), at("10.80.0.1:80"), 1, 1460);
    let seen = w.forward_frame(Frame::partial(again));
    assert_eq!(seen.packet.get16(42), 1360);
    // A smaller one stays.
    let small = Packet::syn_mss(at("172.17.0.2:40002"), at("10.80.0.1:80"), 1, 500);
    assert_eq!(w.forward(&small).get16(42), 500);
}

#[test]
fn mss_is_clamped_in_the_answer_too() {
    let mut w = World::new();
    w.change(|p| p.networks[0].clamp_mss = true);
    let tcp = w.syn(at("172.17.0.2:40000"), at("10.80.0.1:80"));
    let mut answer = Packet::syn_mss(tcp.seen_server, tcp.seen_client, 77, 1460);
    answer.0[33] = SYN | ACK;
    answer.0[28..32].copy_from_slice(&tcp.next_client.to_be_bytes());
    assert_eq!(w.forward(answer.fixed()).get16(42), 1360);
}
