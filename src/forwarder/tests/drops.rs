//! Every drop reason, triggered by name.

use super::*;

/// A frame with something changed after its checksums were right.
fn spoiled(mut frame: Vec<u8>, spoil: impl FnOnce(&mut [u8])) -> Vec<u8> {
    spoil(&mut frame);
    frame
}

fn option(kind: u8) -> Vec<u8> {
    let mut frame = udp("172.17.0.2:1", "198.51.100.7:1");
    frame.splice(30..30, [kind, 3, 4, 0]);
    let length = u16::try_from(frame.len() - VNET_HDR_LEN).unwrap();
    with_ip(frame, |packet| {
        packet.set_header_len(24);
        packet.set_total_len(length);
    })
}

/// A frame that is dropped for `reason` in a fresh lab; `None` if that takes more than one frame.
fn example(reason: DropReason) -> Option<Vec<u8>> {
    let plain = udp("172.17.0.2:1", "198.51.100.7:1");
    let to = |dst: &str| udp("172.17.0.2:1", &format!("{dst}:1"));
    let first =
        || fragments(&udp_bytes("172.17.0.2:1", "198.51.100.7:1", &[0; 100]), 64)[0].clone();
    Some(match reason {
        DropReason::BadIpChecksum => spoiled(plain, |frame| frame[VNET_HDR_LEN + 10] ^= 1),
        DropReason::Broadcast => to("255.255.255.255"),
        DropReason::DirectAccess => udp("198.51.100.7:1", "172.17.0.2:80"),
        DropReason::FragmentTiny => with_ip(tcp("172.17.0.2:1", "198.51.100.7:1", SYN, 1, 0, 0), |packet| {
            packet.set_total_len(36);
            packet.set_more_frags(true);
        }),
        DropReason::FragmentationNeeded => udp_bytes("172.17.0.2:1", "198.51.100.7:1", &[0; 1600]),
        DropReason::IccDisabled => udp("172.19.0.2:1", "172.19.0.3:1"),
        DropReason::IcmpNoFlow => icmp_error(3, 3, "172.17.0.2", "198.51.100.7", &plain, 100),
        DropReason::IcmpUnsupported => icmp_query(5, "172.17.0.2", "198.51.100.7", 0, 0),
        DropReason::InterNetwork => to("172.18.0.2"),
        DropReason::Internal => udp("172.21.0.2:1", "198.51.100.7:1"),
        DropReason::NoGateway => tcp("172.17.0.2:1", "192.0.2.10:7070", SYN, 1, 0, 0),
        DropReason::Land => to("172.17.0.2"),
        DropReason::Loop => udp("192.0.2.10:1", "198.51.100.7:1"),
        DropReason::Malformed => plain[..VNET_HDR_LEN + 19].to_vec(),
        DropReason::Martian => to("240.0.0.1"),
        DropReason::NoRoute => to("203.0.113.1"),
        DropReason::NoSuchEndpoint => to("172.17.0.99"),
        DropReason::OtherFamily => tcp("198.51.100.7:1", "192.0.2.10:6061", SYN, 1, 0, 0),
        DropReason::SourceRoute => option(131),
        DropReason::TcpNoFlow => tcp("172.17.0.2:1", "198.51.100.7:1", RST, 1, 0, 0),
        DropReason::Transit => udp("198.51.100.7:1", "198.51.100.8:1"),
        DropReason::TtlExceeded => with_ttl(plain, 1),
        DropReason::UnknownSource => udp("172.17.0.99:1", "198.51.100.7:1"),
        DropReason::UnsupportedProtocol => with_ip(plain, |packet| packet.set_next_header(IpProtocol::Unknown(132))),
        DropReason::UnsupportedVersion => spoiled(plain, |frame| frame[VNET_HDR_LEN] = 0x55),
        DropReason::VirtioHeader => spoiled(plain, |frame| frame[0] = 0x80),
        DropReason::FragmentOverlap => with_ip(first(), |packet| packet.set_frag_offset(0)),
        // Triggered elsewhere, by more than one frame.
        DropReason::BadIcmpChecksum // tests::icmp::forged_errors_are_dropped
        | DropReason::EgressChanged // tests::mappings::another_uplink_ends_masqueraded_flows
        | DropReason::EndpointQuota // tests::limits::a_containers_flows_are_limited
        | DropReason::Filtered // tests::mappings::filtering_is_address_dependent_by_default
        | DropReason::FragmentLimit // tests::fragments::orphans_do_not_hurt_whole_packets
        | DropReason::FragmentTimeout // tests::fragments::waiting_ends
        | DropReason::NoUdpChecksum // translate::vectors
        | DropReason::OutOfPorts // tests::limits::live_connections_are_not_recycled
        | DropReason::TableFull => return None, // tests::limits::the_table_has_an_end
    })
}

#[test]
fn every_reason_is_counted_by_its_name() {
    for &reason in DropReason::ALL {
        let Some(frame) = example(reason) else {
            continue;
        };
        let mut lab = Lab::new();
        if reason == DropReason::FragmentOverlap {
            let _ = lab.verdict(&mut frame.clone());
        }
        lab.dropped(frame, reason);
    }
}

#[test]
fn martians() {
    // nat.md S14
    let mut lab = Lab::new();
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "172.17.255.255",
        "172.17.0.0",
    ] {
        lab.dropped(udp(&format!("{source}:1"), "192.0.2.10:8080"), {
            // The host's own loopback traffic is not from a wire.
            if source == "127.0.0.1" {
                continue;
            } else {
                DropReason::Martian
            }
        });
    }
    for destination in ["0.0.0.0", "127.0.0.1", "240.0.0.1", "254.1.1.1"] {
        lab.dropped(
            udp("172.17.0.2:1", &format!("{destination}:8080")),
            DropReason::Martian,
        );
        lab.dropped(
            udp("198.51.100.7:1", &format!("{destination}:8080")),
            DropReason::Martian,
        );
    }
    for destination in [
        "224.0.0.251",
        "239.1.1.1",
        "255.255.255.255",
        "172.17.255.255",
        "172.18.0.0",
    ] {
        lab.dropped(
            udp("172.17.0.2:1", &format!("{destination}:1")),
            DropReason::Broadcast,
        );
    }
    for same in ["198.51.100.7", "172.17.0.2"] {
        lab.dropped(
            udp(&format!("{same}:1"), &format!("{same}:1")),
            DropReason::Land,
        );
    }
    assert!(lab.out.is_empty());
    // Cloud metadata services are reached by containers.
    lab.send(tcp("172.17.0.2:1", "169.254.169.254:80", SYN, 1, 0, 0));
}

#[test]
fn lengths_that_lie() {
    // nat.md S10
    let plain = udp("172.17.0.2:1", "198.51.100.7:1");
    let segment = tcp("172.17.0.2:1", "198.51.100.7:1", SYN, 1, 0, 0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("virtio header only", vec![0; VNET_HDR_LEN]),
        ("half a virtio header", vec![0; 5]),
        (
            "total length beyond the frame",
            with_ip(plain.clone(), |packet| packet.set_total_len(34)),
        ),
        (
            "total length below the header",
            with_ip(plain.clone(), |packet| packet.set_total_len(19)),
        ),
        (
            "no UDP header",
            with_ip(plain.clone(), |packet| packet.set_total_len(27)),
        ),
        (
            "UDP length beyond the packet",
            spoiled(plain.clone(), |frame| frame[35] = 14),
        ),
        (
            "UDP length below the header",
            spoiled(plain.clone(), |frame| frame[35] = 7),
        ),
        (
            "no TCP header",
            with_ip(segment.clone(), |packet| packet.set_total_len(39)),
        ),
        (
            "TCP data offset beyond the packet",
            spoiled(segment.clone(), |frame| frame[42] = 0xf0),
        ),
        (
            "TCP data offset below the header",
            spoiled(segment, |frame| frame[42] = 0x40),
        ),
        (
            "IP option of no length",
            spoiled(option(7), |frame| frame[31] = 0),
        ),
        (
            "IP option beyond the header",
            spoiled(option(7), |frame| frame[31] = 9),
        ),
        (
            "short fragment in the middle",
            with_ip(plain.clone(), |packet| {
                packet.set_more_frags(true);
                packet.set_frag_offset(64);
            }),
        ),
        (
            "fragment beyond 65535",
            with_ip(plain, |packet| packet.set_frag_offset(65_528)),
        ),
    ];
    for (name, frame) in cases {
        let mut lab = Lab::new();
        let mut frame = if frame.len() > VNET_HDR_LEN + 20 {
            refreshed(frame)
        } else {
            frame
        };
        assert_eq!(
            lab.verdict(&mut frame),
            Verdict::Drop(DropReason::Malformed),
            "{name}"
        );
    }
}

/// With the IP header checksum right.
fn refreshed(mut frame: Vec<u8>) -> Vec<u8> {
    let header_len = usize::from(frame[VNET_HDR_LEN] & 0xf) * 4;
    let header = &mut frame[VNET_HDR_LEN..VNET_HDR_LEN + header_len];
    header[10..12].fill(0);
    let field = checksum::checksum(header);
    header[10..12].copy_from_slice(&field.to_be_bytes());
    frame
}

#[test]
fn options_pass_except_source_routes() {
    for kind in [131, 137] {
        Lab::new().dropped(option(kind), DropReason::SourceRoute);
    }
    let mut lab = Lab::new();
    let mut frame = option(7);
    assert_eq!(lab.verdict(&mut frame), Verdict::Forward);
    assert_eq!(frame[30..34], [7, 3, 4, 0]);
}

#[test]
fn nothing_is_forwarded_without_a_policy() {
    let egress = Egress {
        if_index: 2,
        source: ip("192.0.2.10"),
        mtu: 1500,
    };
    let host = Machine {
        egress: Mutex::new(egress),
        source6: Mutex::new(ip(H6)),
        bits: Mutex::default(),
    };
    let forwarder = Forwarder::new(Config::default(), [7; 32], Arc::new(host));
    let mut out = Outbox::new();
    let verdict = forwarder.handle_packet(
        &mut udp("172.17.0.2:1", "198.51.100.7:1"),
        Instant::ZERO,
        &mut out,
    );
    assert_eq!(verdict, Verdict::Drop(DropReason::Transit));
}
