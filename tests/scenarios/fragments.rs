//! IPv4 fragments: later ones follow their first, whatever the order, within bounds (RFC 4787 REQ-13, REQ-14).

use tunbridge::forwarder::{Protocol, Verdict};

use super::packet::*;
use super::world::*;

fn payload(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

/// Gives the fragments to the forwarder in this order and returns everything that came out.
#[track_caller]
fn pass(w: &mut World, fragments: &[Packet], order: &[usize]) -> Vec<Packet> {
    let mut out = Vec::new();
    for index in order {
        let step = w.step(&fragments[*index]);
        match step.verdict {
            Verdict::Forward => out.push(step.frame.packet),
            Verdict::Consumed => {}
            other => panic!("fragment {index}: {other:?}"),
        }
        out.extend(step.generated.into_iter().map(|f| f.packet));
    }
    out
}

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

#[test]
fn outgoing_fragments_in_every_order_make_one_right_datagram() {
    for order in ORDERS {
        let mut w = World::new();
        let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000));
        let out = pass(&mut w, &sent.fragments(1480), &order);
        let whole = reassemble(&out).unwrap_or_else(|| panic!("{order:?}: incomplete: {out:?}"));
        whole.assert_valid();
        assert_eq!(
            (*whole.source().ip(), whole.destination()),
            (HOST, at("10.20.0.1:9000")),
            "{order:?}"
        );
        assert_eq!(whole.payload(), sent.payload());
        assert!(out.iter().all(|f| f.ttl() == 63), "{out:?}");
        assert_eq!(w.tables(), (1, 1));
    }
}

#[test]
fn incoming_fragments_in_every_order_make_one_right_datagram() {
    for order in ORDERS {
        let mut w = World::new();
        let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
        let sent = Packet::udp(at("10.20.0.1:9000"), seen, &payload(4000));
        let out = pass(&mut w, &sent.fragments(1480), &order);
        let whole = reassemble(&out).unwrap_or_else(|| panic!("{order:?}: incomplete: {out:?}"));
        let mut expected =
            Packet::udp(at("10.20.0.1:9000"), at("172.17.0.2:40000"), &payload(4000)).with_ttl(63);
        expected.0[6] = 0;
        expected.fix_ip();
        assert_eq!(whole, expected, "{order:?}");
    }
}

#[test]
fn fragments_to_and_from_a_published_port() {
    for order in ORDERS {
        let mut w = World::new();
        w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.2:53"));
        let question = Packet::udp(at("10.9.0.50:5000"), at("10.9.0.10:5353"), &payload(4000));
        let whole = reassemble(&pass(&mut w, &question.fragments(1400), &order)).unwrap();
        whole.assert_valid();
        assert_eq!(
            (whole.source(), whole.destination()),
            (at("10.9.0.50:5000"), at("172.17.0.2:53"))
        );
        let answer =
            Packet::udp(at("172.17.0.2:53"), at("10.9.0.50:5000"), &payload(3500)).with_ident(9);
        let whole = reassemble(&pass(&mut w, &answer.fragments(1480), &order)).unwrap();
        whole.assert_valid();
        assert_eq!(
            (whole.source(), whole.destination()),
            (at("10.9.0.10:5353"), at("10.9.0.50:5000"))
        );
        assert_eq!(whole.payload(), answer.payload());
    }
}

#[test]
fn fragmented_pings_pass_both_ways() {
    for order in ORDERS {
        let mut w = World::new();
        let sent = Packet::echo_request(C1, S1, 7, 1, &payload(3000));
        let seen = reassemble(&pass(&mut w, &sent.fragments(1200), &order)).unwrap();
        seen.assert_valid();
        let reply =
            Packet::echo_reply(S1, HOST, seen.echo_ident(), 1, &payload(3000)).with_ident(0x4321);
        let got = reassemble(&pass(&mut w, &reply.fragments(1200), &order)).unwrap();
        got.assert_valid();
        assert_eq!(
            (got.dst(), got.echo_ident(), got.payload()),
            (C1, 7, &payload(3000)[..])
        );
    }
}

#[test]
fn fragments_through_a_hairpin() {
    for order in ORDERS {
        let mut w = World::new();
        w.publish(Protocol::Udp, at("0.0.0.0:5353"), at("172.17.0.3:53"));
        let sent = Packet::udp(at("172.17.0.2:5000"), at("10.9.0.10:5353"), &payload(4000));
        let got = reassemble(&pass(&mut w, &sent.fragments(1480), &order)).unwrap();
        got.assert_valid();
        assert_eq!(
            (*got.source().ip(), got.destination()),
            (GATEWAY, at("172.17.0.3:53"))
        );
    }
}

#[test]
fn a_fragmented_udp_datagram_without_checksum_stays_without() {
    let mut w = World::new();
    let sent = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000))
        .without_udp_checksum();
    let out = pass(&mut w, &sent.fragments(1480), &[0, 1, 2]);
    assert_eq!(reassemble(&out).unwrap().get16(26), 0);
}

#[test]
fn fragments_for_the_host_itself_reach_it_even_out_of_order() {
    // Steering diverts every fragment to a local address; what is not ours goes back unchanged.
    for order in ORDERS {
        let mut w = World::new();
        let fragments =
            Packet::udp(at("10.9.0.50:5000"), at("10.9.0.10:2049"), &payload(4000)).fragments(1480);
        let mut out = Vec::new();
        for index in order {
            let step = w.step(&fragments[index]);
            match step.verdict {
                Verdict::ToHost => out.push(step.frame.packet),
                Verdict::Consumed => {}
                other => panic!("fragment {index}: {other:?}"),
            }
            out.extend(step.generated.into_iter().map(|f| f.packet));
        }
        out.sort_by_key(Packet::fragment_offset);
        assert_eq!(out, fragments, "{order:?}");
    }
}

#[test]
fn two_containers_with_one_identification_do_not_mix() {
    // RFC 6864 §5.3.1 by RFC 7857 §10: behind one address, two datagrams must not share an identification.
    let mut w = World::new();
    let server = at("10.20.0.1:9000");
    let a = Packet::udp(at("172.17.0.2:40000"), server, &payload(2000))
        .with_ident(42)
        .fragments(1480);
    let b = Packet::udp(at("172.17.0.3:40000"), server, &payload(2500))
        .with_ident(42)
        .fragments(1480);
    let a0 = w.forward(&a[0]);
    let b0 = w.forward(&b[0]);
    let a1 = w.forward(&a[1]);
    let b1 = w.forward(&b[1]);
    assert_ne!(a0.ident(), b0.ident());
    assert_eq!((a0.ident(), b0.ident()), (a1.ident(), b1.ident()));
    reassemble(&[a0, a1]).unwrap().assert_valid();
    reassemble(&[b0, b1]).unwrap().assert_valid();
}

#[test]
fn a_later_fragment_without_its_first_is_held_then_forgotten() {
    // nat.md §1.1: 15 to 30 s.
    let mut w = World::new();
    let fragments =
        Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000)).fragments(1480);
    assert!(w.consumes(&fragments[1]).is_empty());
    assert!(
        w.secs(31).is_empty(),
        "nothing is sent for what never became whole"
    );
    let out = pass(&mut w, &fragments, &[0]);
    assert_eq!(out.len(), 1, "the held fragment is gone");
}

#[test]
fn a_held_fragment_waits_fifteen_seconds() {
    let mut w = World::new();
    let fragments =
        Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(2000)).fragments(1480);
    assert!(w.consumes(&fragments[1]).is_empty());
    w.secs(14);
    assert_eq!(pass(&mut w, &fragments, &[0]).len(), 2);
}

#[test]
fn a_first_fragment_too_short_for_its_transport_header_is_dropped() {
    // RFC 1858, RFC 3128: tiny fragment attack.
    let mut w = World::new();
    let tcp = Packet::tcp(
        at("172.17.0.2:40000"),
        at("10.20.0.1:80"),
        SYN,
        1,
        0,
        &payload(64),
    )
    .without_df();
    let tiny = tcp.fragments(8);
    w.drops(&tiny[0]);
    // A TCP header continued at offset 8 must not get its flags past anyone either.
    let step = w.step(&tiny[1]);
    assert_ne!(step.verdict, Verdict::Forward);
    assert_eq!(w.tables(), (0, 0));
}

#[test]
fn overlapping_fragments_are_not_forwarded() {
    // nat.md S6. The first fragment is out already; a piece that would overwrite it must not follow.
    let mut w = World::new();
    let whole = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000));
    let fragments = whole.fragments(1480);
    w.forward(&fragments[0]);
    let mut overlap = fragments[1].clone();
    overlap.set16(6, 0x2000 | (8 / 8));
    overlap.fix_ip();
    assert_eq!(w.drops(&overlap), "fragment_overlap");
}

#[test]
fn a_fragment_past_64_kib_is_dropped() {
    // Ping of death.
    let mut w = World::new();
    let whole = Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000));
    let mut fragment = whole.fragments(1480)[2].clone();
    fragment.set16(6, 0x1fff);
    fragment.fix_ip();
    w.drops(&fragment);
}

#[test]
fn a_flood_of_orphans_does_not_hurt_whole_packets_nor_neighbours() {
    // RFC 4787 REQ-14a, nat.md S6.
    let mut w = World::new();
    let client = at("172.17.0.2:40000");
    let server = at("10.20.0.1:9000");
    let template = Packet::udp(client, server, &payload(3000)).fragments(1480);
    let mut held = 0_u32;
    let mut refused = 0_u32;
    for ident in 0..20_000_u16 {
        let step = w.step(template[1].clone().with_ident(ident));
        assert!(step.generated.is_empty());
        match step.verdict {
            Verdict::Consumed => held += 1,
            Verdict::Drop(_) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        refused > 10_000,
        "only {refused} of 20,000 orphans refused: memory is not bounded"
    );
    assert!(held > 0);
    w.udp_exchange(client, server);
    // The neighbour still gets its own fragments through, out of order too.
    let other = Packet::udp(at("172.17.0.3:40000"), server, &payload(4000))
        .with_ident(5)
        .fragments(1480);
    let out = pass(&mut w, &other, &[2, 0, 1]);
    reassemble(&out).expect("complete").assert_valid();
    w.secs(31);
    let again = Packet::udp(client, server, &payload(4000))
        .with_ident(6)
        .fragments(1480);
    reassemble(&pass(&mut w, &again, &[1, 0, 2]))
        .expect("the budget comes back with time")
        .assert_valid();
}

#[test]
fn a_flood_of_orphans_from_outside_does_not_hurt_containers() {
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let template =
        Packet::udp(at("10.20.0.2:1"), at("10.9.0.10:9"), &payload(3000)).fragments(1480);
    for ident in 0..20_000_u16 {
        w.step(template[1].clone().with_ident(ident));
    }
    w.forward(Packet::udp(at("10.20.0.1:9000"), seen, b"whole"));
    let own =
        Packet::udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"), &payload(4000)).fragments(1480);
    reassemble(&pass(&mut w, &own, &[1, 2, 0]))
        .expect("complete")
        .assert_valid();
}

#[test]
fn later_fragments_of_a_refused_datagram_are_refused() {
    let mut w = World::new();
    let seen = w.udp(at("172.17.0.2:40000"), at("10.20.0.1:9000"));
    let fragments = Packet::udp(at("10.20.0.2:7"), seen, &payload(3000)).fragments(1480);
    let before = w.counters().forwarded;
    for fragment in &fragments {
        w.step(fragment);
    }
    assert_eq!(w.counters().forwarded, before);
}

#[test]
fn a_fragment_is_not_forwarded_by_another_containers_first() {
    // Same identification and destination, other source: no association.
    let mut w = World::new();
    let server = at("10.20.0.1:9000");
    let a = Packet::udp(at("172.17.0.2:40000"), server, &payload(3000))
        .with_ident(1)
        .fragments(1480);
    let b = Packet::udp(at("172.17.0.3:40000"), server, &payload(3000))
        .with_ident(1)
        .fragments(1480);
    w.forward(&a[0]);
    assert!(w.consumes(&b[1]).is_empty());
}
