//! Checksums left to the device and super-packets (`virtio_net_hdr`).

use tunbridge::forwarder::Protocol;

use super::packet::*;
use super::world::*;

#[test]
fn a_partial_checksum_stays_partial_and_right() {
    let mut w = World::new();
    for packet in [
        Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"abc"),
        Packet::tcp(at("172.17.0.2:40000"), at("10.20.0.1:80"), SYN, 1, 0, b""),
    ] {
        let frame = Frame::partial(packet.clone());
        let out = w.forward_frame(&frame);
        assert_eq!(out.vnet, frame.vnet);
        let whole = out.segments();
        assert_eq!((whole.len(), whole[0].payload()), (1, packet.payload()));
    }
}

#[test]
fn a_partial_checksum_stays_right_towards_a_container() {
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let out = w.forward_frame(Frame::partial(Packet::udp(
        at("10.20.0.1:9000"),
        seen,
        b"answer",
    )));
    assert_eq!(out.segments()[0].destination(), at("172.17.0.2:40000"));
}

#[test]
fn a_partial_checksum_stays_right_through_the_loopback_publication() {
    // Packets of host processes on lo always come so, both ways.
    let mut w = World::new();
    w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
    let out = w.forward_frame(Frame::partial(Packet::udp(
        at("127.0.0.1:5000"),
        at("127.0.0.1:5353"),
        b"q",
    )));
    let got = out.segments().remove(0);
    let back = w.forward_frame(Frame::partial(Packet::udp(
        got.destination(),
        got.source(),
        b"a",
    )));
    assert_eq!(back.segments()[0].destination(), at("127.0.0.1:5000"));
}

#[test]
fn a_tcp_super_packet_passes_whole_with_every_segment_right() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let data: Vec<u8> = (0..60_000_u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    let up = Frame::super_packet(tcp.packet(PSH | ACK, &data), 1448);
    let out = w.forward_frame(&up);
    assert_eq!(out.vnet, up.vnet);
    let segments = out.segments();
    assert_eq!(segments.len(), data.len().div_ceil(1448));
    assert!(segments.iter().all(|s| s.source() == tcp.seen_client));
    assert_eq!(
        segments
            .iter()
            .flat_map(|s| s.payload().to_vec())
            .collect::<Vec<_>>(),
        data
    );
    let down = Frame::super_packet(tcp.reply(PSH | ACK, &data), 1448);
    let out = w.forward_frame(&down);
    assert!(out.segments().iter().all(|s| s.destination() == tcp.client));
}

#[test]
fn a_super_packet_of_the_largest_size_passes() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let frame = Frame::super_packet(tcp.packet(PSH | ACK, &vec![3; 65_535 - 40]), 1460);
    assert_eq!(w.forward_frame(&frame).packet.0.len(), 65_535);
}

#[test]
fn a_udp_super_packet_passes_whole() {
    let mut w = World::new();
    let big = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &[8; 20_000]).with_df();
    let frame = Frame::super_packet(big, 1200);
    let out = w.forward_frame(&frame);
    assert_eq!(out.vnet, frame.vnet);
    assert_eq!(out.segments().len(), 17);
}

#[test]
fn a_super_packet_counts_as_its_segments() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    w.forward_frame(Frame::super_packet(
        tcp.packet(PSH | ACK, &[1; 14_480]),
        1448,
    ));
    let flows = w.forwarder.flows(w.now);
    assert_eq!(flows[0].packets_original, 2 + 10);
}

#[test]
fn gso_with_ecn_keeps_its_bit() {
    let mut w = World::new();
    let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
    let mut frame = Frame::super_packet(tcp.packet(PSH | ACK, &[1; 5_000]), 1448);
    frame.vnet.gso_type |= 0x80;
    assert_eq!(w.forward_frame(&frame).vnet.gso_type, GSO_TCPV4 | 0x80);
}

#[test]
fn hdr_len_is_never_trusted() {
    for lie in [0, 1, 40, 54, 1_000, u16::MAX] {
        let mut w = World::new();
        let mut tcp = w.connect(at("172.17.0.2:40000"), at("10.20.0.1:80"));
        let mut frame = Frame::super_packet(tcp.packet(PSH | ACK, &[1; 5_000]), 1448);
        frame.vnet.hdr_len = lie;
        let step = w.step(&frame);
        // Refused or passed, but never believed: `step` verified every segment.
        assert_ne!(step.verdict, tunbridge::forwarder::Verdict::ToHost);
    }
}

#[test]
fn data_valid_flag_passes() {
    // VIRTIO_NET_HDR_F_DATA_VALID: the checksum was verified; it is complete.
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let mut frame: Frame = Packet::udp(at("10.20.0.1:9000"), seen, b"answer").into();
    frame.vnet.flags = 2;
    assert_eq!(w.forward(&frame).destination(), at("172.17.0.2:40000"));
}

#[test]
fn udp_without_checksum_stays_without() {
    // RFC 768, and RFC 3022 §4.1: zero must not be adjusted.
    let mut w = World::new();
    let sent =
        Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), b"abc").without_udp_checksum();
    let seen = w.forward(sent);
    assert_eq!(seen.get16(26), 0);
    let back =
        w.forward(Packet::udp(seen.destination(), seen.source(), b"def").without_udp_checksum());
    assert_eq!(back.get16(26), 0);
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_ffff() {
    // RFC 768: zero means none. Try payloads until the translated sum would be zero.
    let mut w = World::new();
    let probe = w.forward(Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        &[0, 0],
    ));
    let missing = probe.get16(26);
    let sent = Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        &missing.to_be_bytes(),
    );
    let seen = w.forward(sent);
    assert_eq!(seen.get16(26), 0xffff);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    // The forwarder must not repair what was damaged before it: incremental update, RFC 1624.
    let w = World::new();
    let mut sent = Packet::udp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:9000"),
        b"damaged on its way",
    );
    sent.0[30] ^= 0x10;
    let mut buffer = Frame::from(&sent).bytes();
    let mut out = tunbridge::forwarder::Outbox::new();
    let verdict = w.forwarder.handle_packet(&mut buffer, w.now, &mut out);
    if verdict == tunbridge::forwarder::Verdict::Forward {
        let seen = Frame::parse(&buffer).packet;
        assert_ne!(seen.l4_sum(), 0xffff, "the damage was hidden");
    }
}

#[test]
fn ethernet_padding_after_the_packet_is_survived() {
    // Frames of less than 60 octets arrive padded; the padding is no part of the packet.
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let mut bytes = Frame::from(Packet::udp(at("10.20.0.1:9000"), seen, b"hi")).bytes();
    let length = bytes.len();
    bytes.resize(10 + 46, 0);
    let step = w.step_bytes(&bytes);
    assert_eq!(step.verdict, tunbridge::forwarder::Verdict::Forward);
    let mut got = step.frame.packet;
    got.0.truncate(length - 10);
    got.assert_valid();
    assert_eq!(
        (got.destination(), got.payload()),
        (at("172.17.0.2:40000"), &b"hi"[..])
    );
}

#[test]
fn an_icmp_reply_of_zeros_gets_a_right_checksum() {
    // RFC 1624 §3: when every word is zero only 0xffff is a right checksum, and an incremental update gives zero. Only
    // ICMP can come to this: it has no pseudo header.
    let mut w = World::new();
    let (_, ident) = w.ping(C1, S1, 0);
    let got = w.forward(Packet::echo_reply(S1, HOST, ident, 0, &[0; 8]));
    assert_eq!(
        (got.dst(), got.echo_ident(), got.get16(22)),
        (C1, 0, 0xffff)
    );
}
