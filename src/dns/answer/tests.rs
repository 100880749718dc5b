use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use domain::base::ParsedName;
use domain::rdata::AllRecordData;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::dns::Zone;

fn zone(network: &str, names: &[(&str, &[&str])]) -> Zone {
    let parse = |list: &[&str]| -> Vec<IpAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    };
    let mut pointers = HashMap::new();
    for &(name, list) in names {
        for address in parse(list) {
            pointers.entry(address).or_insert_with(|| name.to_owned());
        }
    }
    Zone {
        network: network.to_owned(),
        names: names
            .iter()
            .map(|&(name, list)| (name.to_owned(), parse(list)))
            .collect(),
        pointers,
    }
}

fn view(names: &[(&str, &[&str])]) -> View {
    View {
        zones: vec![Arc::new(zone("Net1", names))],
        ..View::default()
    }
}

fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    query_with(name, rtype, None)
}

fn query_with(name: &str, rtype: Rtype, udp_size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0xbeef);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    let name = Name::<Vec<u8>>::from_chars(name.chars()).unwrap();
    builder.push((name, rtype)).unwrap();
    let mut builder = builder.additional();
    if let Some(size) = udp_size {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

fn reply_of(query: &[u8], view: &View) -> Message<Vec<u8>> {
    reply_over(query, view, Transport::Udp)
}

fn reply_over(query: &[u8], view: &View, transport: Transport) -> Message<Vec<u8>> {
    match answer(query, view, transport, 1) {
        Answer::Reply(reply) => Message::from_octets(reply).unwrap(),
        other @ (Answer::Forward | Answer::Drop) => panic!("{other:?}"),
    }
}

/// Each record as zone files have it: name, TTL, class, type, data.
fn records(reply: &Message<Vec<u8>>) -> Vec<String> {
    reply
        .answer()
        .unwrap()
        .limit_to::<AllRecordData<_, ParsedName<_>>>()
        .map(|record| {
            let record = record.unwrap();
            format!(
                "{} {} {} {} {}",
                record.owner().fmt_with_dot(),
                record.ttl().as_secs(),
                record.class(),
                record.rtype(),
                record.data()
            )
        })
        .collect()
}

/// The name as it is on the wire, with its case.
fn question_name(message: &[u8]) -> String {
    let message = Message::from_octets(message).unwrap();
    let question = message.sole_question().unwrap();
    question.qname().fmt_with_dot().to_string()
}

#[test]
fn test_dns_ip_query() {
    let view = view(&[("name1", &["192.168.0.1"]), ("svc1", &["192.168.0.1"])]);
    for name in ["name1.", "NaMe1."] {
        let query = query(name, Rtype::A);
        let reply = reply_of(&query, &view);
        let header = reply.header();
        assert_eq!(header.id(), 0xbeef);
        assert_eq!(header.rcode(), Rcode::NOERROR);
        assert!(header.qr() && header.ra() && header.rd() && !header.aa() && !header.tc());
        assert_eq!(question_name(reply.as_slice()), name);
        assert_eq!(records(&reply), [format!("{name} 600 IN A 192.168.0.1")]);
    }
    let mx = reply_of(&query("name1.", Rtype::MX), &view);
    assert_eq!(mx.header().rcode(), Rcode::NOERROR);
    assert_eq!(mx.header_counts().ancount(), 0);
    let unknown = query("nonexistent.", Rtype::MX);
    assert_eq!(
        answer(&unknown, &view, Transport::Udp, 1),
        Answer::Forward,
        "which ends in SERVFAIL without forwarding"
    );
}

#[test]
fn a_name_without_addresses_of_a_family_is_empty_and_not_forwarded() {
    let view = view(&[("v4", &["10.0.0.1"]), ("v6", &["fd00::1"])]);
    for (name, rtype, count) in [
        ("v4.", Rtype::A, 1),
        ("v4.", Rtype::AAAA, 0),
        ("v6.net1.", Rtype::A, 0),
        ("v6.NET1.", Rtype::AAAA, 1),
    ] {
        let reply = reply_of(&query(name, rtype), &view);
        assert_eq!(reply.header().rcode(), Rcode::NOERROR, "{name} {rtype}");
        assert_eq!(reply.header_counts().ancount(), count, "{name} {rtype}");
    }
}

#[test]
fn an_address_has_its_first_name_in_its_network() {
    let view = view(&[("Web_1", &["10.1.2.3"]), ("six", &["fd00::ab"])]);
    let four = reply_of(&query("3.2.1.10.in-addr.ARPA.", Rtype::PTR), &view);
    assert_eq!(
        records(&four),
        ["3.2.1.10.in-addr.ARPA. 600 IN PTR Web_1.Net1."]
    );
    let reversed = Name::<Vec<u8>>::reverse_from_addr("fd00::ab".parse().unwrap()).unwrap();
    let reversed = reversed.fmt_with_dot().to_string();
    let six = reply_of(&query(&reversed, Rtype::PTR), &view);
    assert_eq!(records(&six), [format!("{reversed} 600 IN PTR six.Net1.")]);
    for other in [
        "4.2.1.10.in-addr.arpa.",
        "2.1.10.in-addr.arpa.",
        "0.3.2.1.10.in-addr.arpa.",
        "+3.2.1.10.in-addr.arpa.x.",
        "256.2.1.10.in-addr.arpa.",
        "in-addr.arpa.",
        "b.a.ip6.arpa.",
        "web.",
        ".",
    ] {
        let query = query(other, Rtype::PTR);
        assert_eq!(
            answer(&query, &view, Transport::Udp, 1),
            Answer::Forward,
            "{other}"
        );
    }
}

#[test]
fn names_in_ip6_arpa_are_taken_nibble_by_nibble() {
    let view = view(&[("six", &["2001:db8:d::242:ac11:2"])]);
    let reversed = |address: &str| {
        let address: Ipv6Addr = address.parse().unwrap();
        let nibbles = address.octets().map(|octet| [octet >> 4, octet & 15]);
        let nibbles: Vec<String> = nibbles
            .concat()
            .iter()
            .rev()
            .map(|n| format!("{n:x}"))
            .collect();
        nibbles.join(".")
    };
    let own = reversed("2001:db8:d::242:ac11:2");
    assert_eq!(
        own,
        "2.0.0.0.1.1.c.a.2.4.2.0.0.0.0.0.0.0.0.0.d.0.0.0.8.b.d.0.1.0.0.2"
    );
    for name in [
        format!("{own}.ip6.arpa."),
        format!("{}.IP6.ArpA.", own.to_uppercase()),
    ] {
        let reply = reply_of(&query(&name, Rtype::PTR), &view);
        assert_eq!(records(&reply), [format!("{name} 600 IN PTR six.Net1.")]);
    }
    for other in [
        // Somebody else's, in part, too long, two nibbles in one label, no nibbles.
        format!("{}.ip6.arpa.", reversed("2001:db8:d::242:ac11:3")),
        format!("{}.ip6.arpa.", &own[2..]),
        format!("0.{own}.ip6.arpa."),
        format!("{}.ip6.arpa.", own.replacen("2.0", "20", 1)),
        format!("0{own}.ip6.arpa."),
        format!("{}.ip6.arpa.", own.replacen('2', "+", 1)),
        format!("{}.ip6.arpa.", own.replacen('2', "g", 1)),
        format!("{own}.ip6.int."),
        format!("{own}.ip6.arpa.example."),
        "ip6.arpa.".to_owned(),
    ] {
        let asked = query(&other, Rtype::PTR);
        assert_eq!(
            answer(&asked, &view, Transport::Udp, 1),
            Answer::Forward,
            "{other}"
        );
    }
}

#[test]
fn both_families_of_a_name_are_answered_apart() {
    let view = view(&[("web", &["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"])]);
    for (rtype, expected) in [
        (
            Rtype::A,
            ["web. 600 IN A 10.0.0.1", "web. 600 IN A 10.0.0.2"],
        ),
        (
            Rtype::AAAA,
            ["web. 600 IN AAAA fd00::1", "web. 600 IN AAAA fd00::2"],
        ),
    ] {
        let mut records = records(&reply_of(&query("web.", rtype), &view));
        records.sort();
        assert_eq!(records, expected);
    }
}

#[test]
fn test_invalid_reverse_dns() {
    let long = "sixtyfourcharslong9012345678901234567890123456789012345678901234";
    let view = view(&[(long, &["1.2.3.4"])]);
    let reply = reply_of(&query("4.3.2.1.in-addr.arpa.", Rtype::PTR), &view);
    assert_eq!(reply.header().rcode(), Rcode::SERVFAIL);
}

#[test]
fn test_reply_servfail() {
    for (name, rtype) in [
        ("_sip._tcp.example.com.", Rtype::SRV),
        ("example.com.", Rtype::A),
    ] {
        let query = query(name, rtype);
        assert_eq!(
            answer(&query, &View::default(), Transport::Udp, 1),
            Answer::Forward
        );
        let reply = failure(&query, Rcode::SERVFAIL).unwrap();
        assert!(is_reply_to(&reply, &query));
        assert!(is_failure(&reply));
    }
}

#[test]
fn other_types_and_classes_are_forwarded() {
    let view = view(&[("web", &["10.0.0.1"])]);
    for rtype in [Rtype::TXT, Rtype::SRV, Rtype::HTTPS, Rtype::ANY, Rtype::NS] {
        let query = query("web.", rtype);
        assert_eq!(answer(&query, &view, Transport::Udp, 1), Answer::Forward);
    }
    let mut chaos = query("web.", Rtype::A);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(answer(&chaos, &view, Transport::Udp, 1), Answer::Forward);
}

#[test]
fn single_labels_stay_here_if_ndots_is_set() {
    let mut view = view(&[("web", &["10.0.0.1"])]);
    let unknown = query("nobody.", Rtype::AAAA);
    assert_eq!(answer(&unknown, &view, Transport::Udp, 1), Answer::Forward);
    view.ndots_set = true;
    let reply = reply_of(&unknown, &view);
    assert_eq!(reply.header().rcode(), Rcode::NOERROR);
    assert_eq!(reply.header_counts().ancount(), 0);
    assert_eq!(records(&reply_of(&query("web.", Rtype::A), &view)).len(), 1);
    for (name, rtype) in [("a.b.", Rtype::A), ("nobody.", Rtype::TXT)] {
        let query = query(name, rtype);
        assert_eq!(answer(&query, &view, Transport::Udp, 1), Answer::Forward);
    }
}

#[test]
fn every_order_of_several_addresses_comes_up() {
    let view = view(&[("svc", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);
    let query = query("svc.", Rtype::A);
    let mut orders: HashMap<Vec<String>, u32> = HashMap::new();
    let random = crate::dns::upstream::Random::default();
    for _ in 0..6000 {
        let Answer::Reply(reply) = answer(&query, &view, Transport::Udp, random.number()) else {
            panic!("no reply");
        };
        let order = records(&Message::from_octets(reply).unwrap());
        *orders.entry(order).or_default() += 1;
    }
    assert_eq!(orders.len(), 6);
    assert!(orders.values().all(|&n| n > 800), "{orders:?}");
}

#[test]
fn long_replies_are_cut_to_what_the_client_takes() {
    let addresses: Vec<String> = (0..2000)
        .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let view = view(&[("many", &addresses)]);
    for (udp_size, most) in [
        (None, 512),
        (Some(0), 512),
        (Some(1232), 1232),
        (Some(4096), 4096),
    ] {
        let reply = reply_of(&query_with("many.", Rtype::A, udp_size), &view);
        assert!(reply.header().tc());
        let length = reply.as_slice().len();
        assert!(
            length <= most && length > most - 16,
            "{udp_size:?}: {length}"
        );
        assert_eq!(reply.opt().is_some(), udp_size.is_some());
        assert!(records(&reply).len() > 20);
    }
    for query in [
        query("many.", Rtype::A),
        query_with("many.", Rtype::A, Some(512)),
    ] {
        let reply = reply_over(&query, &view, Transport::Tcp);
        assert!(!reply.header().tc());
        let distinct: BTreeSet<String> = records(&reply).into_iter().collect();
        assert_eq!(distinct.len(), 2000);
    }
}

#[test]
fn what_is_no_query_gets_no_reply() {
    let view = view(&[("web", &["10.0.0.1"])]);
    let query = query("web.", Rtype::A);
    let drop = |octets: &[u8]| {
        assert_eq!(answer(octets, &view, Transport::Udp, 1), Answer::Drop);
    };
    drop(&[]);
    drop(&query[..11]);
    // No question.
    drop(&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // A response, however it looks: two servers could answer each other for ever.
    let mut response = query.clone();
    response[2] |= 0x80;
    drop(&response);
    let Answer::Reply(reply) = answer(&query, &view, Transport::Udp, 1) else {
        panic!("no reply");
    };
    drop(&reply);
}

#[test]
fn malformed_queries_are_refused_without_an_echo() {
    let view = view(&[("web", &["10.0.0.1"])]);
    let good = query("web.", Rtype::A);
    let cut = good[..good.len() - 1].to_vec();
    let mut two = good.clone();
    two[5] = 2;
    two.extend_from_slice(&good[12..]);
    // A name that is a pointer to itself, and one that points ahead.
    let header = &good[..12];
    let itself = [header, &[0xc0, 12, 0, 1, 0, 1]].concat();
    let ahead = [header, &[0xc0, 18, 0, 1, 0, 1, 0]].concat();
    let reserved = [header, &[0x80, 1, 0, 0, 1, 0, 1]].concat();
    for bad in [cut, two, itself, ahead, reserved] {
        let reply = reply_of(&bad, &view);
        assert_eq!(reply.header().rcode(), Rcode::FORMERR, "{bad:x?}");
        assert_eq!(reply.header().id(), 0xbeef);
        assert_eq!(reply.as_slice().len(), 12);
    }
    let mut update = good;
    update[2] |= 5 << 3;
    let reply = reply_of(&update, &view);
    assert_eq!(reply.header().rcode(), Rcode::NOTIMP);
    assert_eq!(reply.header().opcode(), Opcode::UPDATE);
}

#[test]
fn labels_that_only_look_like_our_names_are_forwarded() {
    let view = view(&[("web", &["10.0.0.1"]), ("a.b", &["10.0.0.2"])]);
    for name in ["web\\.net1.", "a\\.b.", "w\\255b."] {
        let query = query(name, Rtype::A);
        assert_eq!(
            answer(&query, &view, Transport::Udp, 1),
            Answer::Forward,
            "{name}"
        );
    }
    assert_eq!(records(&reply_of(&query("a.b.", Rtype::A), &view)).len(), 1);
}

#[test]
fn replies_must_fit_the_question() {
    let query = query("Example.com.", Rtype::A);
    let reply = failure(&query, Rcode::NXDOMAIN).unwrap();
    assert!(is_reply_to(&reply, &query));
    assert!(!is_failure(&reply));
    assert!(!is_reply_to(&query, &query), "an echo");
    let mut other_id = reply.clone();
    other_id[0] ^= 1;
    assert!(!is_reply_to(&other_id, &query));
    let mut other_name = reply.clone();
    other_name[13] ^= 1;
    assert!(!is_reply_to(&other_name, &query));
    let mut other_case = reply.clone();
    other_case[13] ^= 0x20;
    assert!(is_reply_to(&other_case, &query));
    let mut bare = reply[..12].to_vec();
    bare[5] = 0;
    assert!(!is_reply_to(&bare, &query), "NXDOMAIN of what?");
    bare[3] = 1;
    assert!(is_reply_to(&bare, &query), "FORMERR");
    assert!(!is_reply_to(&[], &query));
}

fn any_view() -> impl Strategy<Value = View> {
    let v4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
    Just(View {
        zones: vec![
            Arc::new(zone("net1", &[("a", &v4), ("b", &["fd00::1"])])),
            Arc::new(zone("c", &[("a.b", &["10.1.0.1"])])),
        ],
        links: HashMap::from([("l".to_owned(), "A".to_owned())]),
        ndots_set: true,
        ..View::default()
    })
}

/// A message with a proper header, and a question made of pieces that matter.
fn nearly_a_query() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        Just(b"\x01a".to_vec()),
        Just(b"\x01B".to_vec()),
        Just(b"\x04net1".to_vec()),
        Just(b"\x07in-addr\x04arpa".to_vec()),
        Just(b"\x03ip6\x04arpa".to_vec()),
        Just(b"\x0210".to_vec()),
        any::<[u8; 2]>().prop_map(|[_, low]| vec![0xc0, low]),
        vec(any::<u8>(), 0..70),
    ];
    let tail = prop_oneof![
        (0_u8..40, 0_u8..5).prop_map(|(rtype, class)| vec![0, 0, rtype, 0, class]),
        vec(any::<u8>(), 0..8),
    ];
    let opt = prop_oneof![
        Just(Vec::new()),
        any::<[u8; 2]>().prop_map(|[a, b]| vec![0, 0, 41, a, b, 0, 0, 0, 0, 0, 0]),
        vec(any::<u8>(), 0..40),
    ];
    (
        any::<[u8; 2]>(),
        prop_oneof![4 => Just([1, 0]), 1 => any::<[u8; 2]>()],
        prop_oneof![4 => Just([0, 1, 0, 0, 0, 0, 0, 1]), 1 => any::<[u8; 8]>()],
        vec(label, 0..6),
        tail,
        opt,
    )
        .prop_map(|(id, flags, counts, labels, tail, opt)| {
            [
                id.to_vec(),
                flags.to_vec(),
                counts.to_vec(),
                labels.concat(),
                tail,
                opt,
            ]
            .concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_comes_the_reply_is_a_reply(
        octets in prop_oneof![3 => nearly_a_query(), 1 => vec(any::<u8>(), 0..600)],
        view in any_view(),
        tcp in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let reply = match answer(&octets, &view, transport, seed) {
            Answer::Reply(reply) => Some(reply),
            Answer::Forward => failure(&octets, Rcode::SERVFAIL),
            Answer::Drop => None,
        };
        if let Some(reply) = reply {
            prop_assert!(octets.len() >= 12);
            prop_assert_eq!(&reply[..2], &octets[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
            prop_assert!(octets[2] & 0x80 == 0);
            prop_assert!(reply.len() <= 65_535);
            let message = Message::from_octets(&reply).unwrap();
            for section in [message.answer().unwrap(), message.additional().unwrap()] {
                for record in section {
                    prop_assert!(record.is_ok());
                }
            }
            prop_assert_eq!(answer(&reply, &view, transport, seed), Answer::Drop);
        }
    }

    #[test]
    fn nonsense_from_upstream_is_no_reply(octets in vec(any::<u8>(), 0..600)) {
        let query = query("a.example.", Rtype::A);
        let _ = is_failure(&octets);
        if is_reply_to(&octets, &query) {
            prop_assert_eq!(&octets[..2], &query[..2]);
        }
    }
}

/// Ten thousand records, each with a name of 255 pointers: reading the OPT record must not take
/// long.
#[test]
fn a_bomb_of_compression_pointers_is_cheap() {
    let mut bomb = query("web.", Rtype::A);
    bomb[10..12].copy_from_slice(&5000_u16.to_be_bytes());
    let mut target = 12_u16;
    for _ in 0..5000 {
        let at = u16::try_from(bomb.len()).unwrap();
        let pointer = 0xc000 | target.min(0x3fff);
        bomb.extend_from_slice(&pointer.to_be_bytes());
        bomb.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        target = at;
    }
    let started = std::time::Instant::now();
    let reply = reply_over(&bomb, &view(&[("web", &["10.0.0.1"])]), Transport::Tcp);
    assert_eq!(records(&reply).len(), 1);
    assert!(
        started.elapsed().as_millis() < 1000,
        "{:?}",
        started.elapsed()
    );
}
