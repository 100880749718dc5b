//! What holds for all packets.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// An answer to what left comes back as an answer to what was sent, and no two live flows share
    /// an external tuple.
    #[test]
    fn replies_restore_the_original(
        packets in proptest::collection::vec((0u8..2, 2u8..4, 1u16..40, 1u8..5, 1u16..6), 1..200),
        seed in any::<[u8; 32]>(),
        wide in any::<bool>(),
    ) {
        let mut lab = Lab::with(Config {
            exclusive_ports: 61_000..=61_031,
            shared_ports: 5_000..=5_007,
            ..Config::default()
        });
        lab.forwarder = Forwarder::new(lab.forwarder.config.clone(), seed, Arc::clone(&lab.host) as Arc<dyn Host>);
        lab.forwarder.set_policy(policy(), lab.now);
        let mut external = BTreeMap::new();
        let mut passed = 0;
        for (protocol, container, port, server, server_port) in packets {
            let (from, to) = if wide {
                (format!("[fd00:17::{container}]:{port}"), format!("[2001:db8:ff::{server}]:{server_port}"))
            } else {
                (format!("172.17.0.{container}:{port}"), format!("198.51.100.{server}:{server_port}"))
            };
            let build = |from: &str, to: &str, flags| match protocol {
                0 => udp(from, to),
                _ => tcp(from, to, flags, 1, 1, 3),
            };
            let mut frame = build(&from, &to, SYN);
            let verdict = lab.verdict(&mut frame);
            if verdict == Verdict::Drop(DropReason::OutOfPorts) {
                continue;
            }
            prop_assert_eq!(verdict, Verdict::Forward);
            passed += 1;
            let out = seen(&frame);
            let owner = external.entry((protocol, out.src.clone(), out.dst.clone())).or_insert_with(|| from.clone());
            prop_assert_eq!(&*owner, &from);
            lab.send(build(&to, &out.src, SYN | ACK)).is(&to, &from);
        }
        prop_assert!(passed > 0);
        let stats = lab.forwarder.stats();
        let dropped: u64 = stats.dropped.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(stats.received, stats.forwarded + stats.to_host + stats.consumed + dropped);
        lab.pass(1000);
        prop_assert!(lab.host.bits.lock().is_empty());
        prop_assert_eq!(lab.forwarder.stats().flows, 0);
    }

    /// No input makes it panic, and a packet that passes has right header checksums.
    #[test]
    fn garbage_is_judged(
        choice in 0usize..6,
        changes in proptest::collection::vec((0usize..120, any::<u8>()), 0..6),
        cut in 0usize..200,
        repair in any::<bool>(),
    ) {
        let mut lab = Lab::new();
        let sent = udp("172.17.0.2:1", "198.51.100.7:5000");
        let mut first = sent.clone();
        let _ = lab.verdict(&mut first);
        let mut frame = match choice {
            0 => sent,
            1 => tcp("172.17.0.2:1", "198.51.100.7:80", SYN, 1, 0, 40),
            2 => partial(tcp("198.51.100.7:1", "192.0.2.10:8080", SYN, 1, 0, 3000), 1, 1000),
            3 => icmp_error(3, 4, "198.51.100.7", "192.0.2.10", &first, 100),
            4 => fragments(&udp_bytes("172.17.0.2:1", "198.51.100.7:5000", &[1; 300]), 160)[1].clone(),
            _ => icmp_query(8, "172.17.0.2", "198.51.100.7", 1, 60),
        };
        for (at, value) in changes {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut.saturating_sub(150)));
        if repair && frame.len() >= VNET_HDR_LEN + 20 {
            let header_len = usize::from(frame[VNET_HDR_LEN] & 0xf) * 4;
            let end = (VNET_HDR_LEN + header_len).min(frame.len());
            if header_len >= 20 {
                frame[VNET_HDR_LEN + 10..VNET_HDR_LEN + 12].fill(0);
                let field = checksum::checksum(&frame[VNET_HDR_LEN..end]);
                frame[VNET_HDR_LEN + 10..VNET_HDR_LEN + 12].copy_from_slice(&field.to_be_bytes());
            }
        }
        if lab.verdict(&mut frame) == Verdict::Forward {
            let packet = Ipv4Packet::new_checked(&frame[VNET_HDR_LEN..]).unwrap();
            prop_assert!(packet.verify_checksum());
        }
        for generated in lab.out.drain() {
            let packet = Ipv4Packet::new_checked(&generated[VNET_HDR_LEN..]).unwrap();
            prop_assert!(packet.verify_checksum());
        }
    }

    /// Nor does any of IPv6, whatever its headers say, and what passes can be read again.
    #[test]
    fn garbage_of_ipv6_is_judged(
        choice in 0usize..7,
        changes in proptest::collection::vec((0usize..160, any::<u8>()), 0..6),
        cut in 0usize..300,
        length in any::<bool>(),
        extensions in proptest::collection::vec((0usize..5, any::<[u8; 6]>()), 0..4),
    ) {
        let mut lab = Lab::new();
        let sent = udp("[fd00:17::2]:1", "[2001:db8:ff::7]:5000");
        let mut first = sent.clone();
        let _ = lab.verdict(&mut first);
        let mut frame = match choice {
            0 => sent,
            1 => tcp("[fd00:17::2]:1", "[2001:db8:ff::7]:80", SYN, 1, 0, 40),
            2 => partial(tcp("[2001:db8:ff::7]:1", "[2001:db8::10]:8080", SYN, 1, 0, 3000), 4, 1000),
            3 => icmp_error(2, 0, "2001:db8:ff::7", "2001:db8::10", &first, 100),
            4 => tcp("[::1]:1", "[::1]:8080", SYN, 1, 0, 3000),
            5 => udp_bytes("[2001:db8:ff::7]:5", "[2001:db8::10]:8080", &[1; 300]),
            _ => icmp_query(128, "fd00:17::2", "2001:db8:ff::7", 1, 60),
        };
        let mut named_at = VNET_HDR_LEN + 6;
        let mut at = VNET_HDR_LEN + 40;
        for (kind, rest) in extensions {
            let next = std::mem::replace(&mut frame[named_at], [0, 43, 44, 60, 51][kind]);
            let header = [[next, 0].as_slice(), &rest].concat();
            frame.splice(at..at, header);
            named_at = at;
            at += 8;
        }
        for (at, value) in changes {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut.saturating_sub(250)));
        if length && frame.len() >= VNET_HDR_LEN + 40 {
            let length = u16::try_from(frame.len() - VNET_HDR_LEN - 40).unwrap();
            frame[VNET_HDR_LEN + 4..VNET_HDR_LEN + 6].copy_from_slice(&length.to_be_bytes());
        }
        if lab.verdict(&mut frame) == Verdict::Forward {
            prop_assert!(packet::Packet::parse(&mut frame).is_ok());
        }
        for mut generated in lab.out.drain() {
            prop_assert!(packet::Packet::parse(&mut generated).is_ok());
        }
    }
}

/// Threads on both directions of many flows at once: nothing hangs, no tuple is given twice.
#[test]
fn workers_race() {
    let lab = Lab::new();
    let (forwarder, now) = (&lab.forwarder, lab.now);
    let external = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for worker in 0..4u16 {
            let external = &external;
            scope.spawn(move || {
                let mut out = Outbox::new();
                for n in 0..2000u16 {
                    // Every flow is opened by two workers.
                    let from = format!("172.17.0.{}:{}", 2 + worker % 2, 1000 + n);
                    let mut frame = udp(&from, "198.51.100.7:5000");
                    assert_eq!(
                        forwarder.handle_packet(&mut frame, now, &mut out),
                        Verdict::Forward
                    );
                    let out_src = seen(&frame).src;
                    let mut answer = udp("198.51.100.7:5000", &out_src);
                    assert_eq!(
                        forwarder.handle_packet(&mut answer, now, &mut out),
                        Verdict::Forward
                    );
                    assert_eq!(seen(&answer).dst, from);
                    let mut external = external.lock();
                    assert_eq!(
                        external.entry(out_src).or_insert_with(|| from.clone()),
                        &from
                    );
                    if n % 500 == 0 {
                        forwarder.routes_changed();
                        forwarder.set_policy(policy(), now);
                        let _ = forwarder.flows(now);
                    }
                }
            });
        }
    });
    assert_eq!(forwarder.stats().flows, 4000);
}
