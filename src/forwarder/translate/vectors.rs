//! `vectors.txt`: packets and what they become, written from the RFCs' text, and random ones.
//!
//! The packets are built here from descriptions, with checksums from nothing: no line is shared with
//! the translation. A client, 2001:db8::c port 40000, talks to 2001:db8::1 port 8080; the container,
//! 172.17.0.2 port 80, sees 172.17.0.1 port 50000.

use std::fmt::Write as _;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::forwarder::Protocol;
use crate::forwarder::packet::UDP;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Client,
    Container,
}

impl From {
    fn key(self, v4: bool) -> FlowKey {
        let at = |address: &str, port| (address.parse::<IpAddr>().unwrap(), port);
        let (client, server) = if v4 {
            (at("172.17.0.1", 50_000), at("172.17.0.2", 80))
        } else {
            (at("2001:db8::c", 40_000), at("2001:db8::1", 8080))
        };
        let key = FlowKey {
            protocol: Protocol::Udp,
            src: client.0,
            dst: server.0,
            src_port: client.1,
            dst_port: server.1,
        };
        match self {
            Self::Client => key,
            Self::Container => key.mirror(),
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Container,
            Self::Container => Self::Client,
        }
    }
}

fn sum(start: u64, data: &[u8]) -> u64 {
    let words = data
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    words.fold(start, |total, word| {
        let total = total + word;
        (total & 0xffff) + (total >> 16)
    })
}

fn finish(total: u64) -> u16 {
    !u16::try_from((total & 0xffff) + (total >> 16)).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The value of `name=`, if it is among the words.
fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words
        .iter()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn number(words: &[&str], name: &str, default: usize) -> usize {
    value(words, name).map_or(default, |text| text.parse().unwrap())
}

/// A described packet: virtio header ‖ IP packet.
fn build(description: &str, from: From, ttl: usize) -> Vec<u8> {
    let (own, quoted) = match description.split_once(" quote ") {
        Some((own, quoted)) => (own, Some(quoted)),
        None => (description, None),
    };
    let words: Vec<&str> = own.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let v4 = has("v4");
    assert!(v4 || has("v6"), "{description}");
    let mut key = from.key(v4);
    if let Some(source) = value(&words, "src") {
        key.src = source.parse().unwrap();
    }
    let (protocol, l4) = transport(&words, key, v4, quoted.map(|text| (text, from)));
    let mut vnet = [0; VNET_HDR_LEN];
    let gso = number(&words, "gso", 0);
    if has("partial") {
        let start: u16 = if v4 { 20 } else { 40 };
        let (offset, kind): (u16, u8) = match (protocol, v4) {
            (UDP, _) => (6, 5),
            (_, true) => (16, 1),
            (_, false) => (16, 4),
        };
        vnet[0] = 1;
        vnet[6..8].copy_from_slice(&start.to_ne_bytes());
        vnet[8..10].copy_from_slice(&offset.to_ne_bytes());
        if gso > 0 {
            let header = start + if protocol == UDP { 8 } else { 20 };
            vnet[1] = kind | if has("ecn") { 0x80 } else { 0 };
            vnet[2..4].copy_from_slice(&header.to_ne_bytes());
            vnet[4..6].copy_from_slice(&u16::try_from(gso).unwrap().to_ne_bytes());
        }
    }
    let cut = value(&words, "cut").map(|cut| {
        let (offset, length) = cut.split_once(',').unwrap();
        let offset: usize = offset.parse().unwrap();
        (offset, offset + length.parse::<usize>().unwrap())
    });
    let (offset, end) = cut.unwrap_or((0, l4.len()));
    let l4 = &l4[offset..end];
    let ttl = u8::try_from(number(&words, "ttl", ttl)).unwrap();
    let tos = value(&words, "tos").map_or(0, |tos| u8::from_str_radix(tos, 16).unwrap());
    let ident = value(&words, "id").map_or(0, |id| u32::from_str_radix(id, 16).unwrap());
    let place = u16::try_from(offset / 8).unwrap();
    let mut packet = Vec::new();
    if v4 {
        let options = hex(value(&words, "opt").unwrap_or_default());
        let flags = u16::from(has("mf")) << 13 | u16::from(has("df")) << 14;
        packet.push(0x45 + u8::try_from(options.len() / 4).unwrap());
        packet.push(tos);
        packet.extend(
            u16::try_from(20 + options.len() + l4.len())
                .unwrap()
                .to_be_bytes(),
        );
        packet.extend(u16::try_from(ident).unwrap().to_be_bytes());
        packet.extend((flags | place).to_be_bytes());
        packet.extend([ttl, protocol, 0, 0]);
        packet.extend(octets(key.src));
        packet.extend(octets(key.dst));
        packet.extend(options);
        let field = finish(sum(0, &packet));
        packet[10..12].copy_from_slice(&field.to_be_bytes());
    } else {
        // From the last to the first.
        let mut next = protocol;
        let mut extensions = Vec::new();
        for word in words.iter().rev() {
            let (kind, mut extension) = match word.split('=').next().unwrap() {
                "hbh" => (HOP_BY_HOP, vec![0, 0, 1, 4, 0, 0, 0, 0]),
                "dopt" => (
                    DESTINATION,
                    vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
                "rh" => {
                    let left = number(&words, "rh", 0);
                    (
                        ROUTING,
                        vec![0, 0, 4, u8::try_from(left).unwrap(), 0, 0, 0, 0],
                    )
                }
                "frag" => {
                    let mut extension = vec![0, 0];
                    extension.extend((place << 3 | u16::from(has("mf"))).to_be_bytes());
                    extension.extend(ident.to_be_bytes());
                    (FRAGMENT, extension)
                }
                _ => continue,
            };
            extension[0] = next;
            next = kind;
            extensions.splice(0..0, extension);
        }
        let flow = value(&words, "flow").map_or(0, |flow| u32::from_str_radix(flow, 16).unwrap());
        packet.extend((6 << 28 | u32::from(tos) << 20 | flow).to_be_bytes());
        packet.extend(
            u16::try_from(extensions.len() + l4.len())
                .unwrap()
                .to_be_bytes(),
        );
        packet.extend([next, ttl]);
        packet.extend(octets(key.src));
        packet.extend(octets(key.dst));
        packet.extend(extensions);
    }
    packet.extend(l4);
    [&vnet[..], &packet].concat()
}

/// Protocol number and transport header ‖ payload, with its checksum.
fn transport(
    words: &[&str],
    key: FlowKey,
    v4: bool,
    quoted: Option<(&str, From)>,
) -> (u8, Vec<u8>) {
    let has = |word: &str| words.contains(&word);
    let payload = pattern(number(words, "len", 8));
    let icmp = if v4 { ICMP } else { ICMPV6 };
    let (protocol, mut l4, at) = if has("udp") {
        let mut l4 = Vec::new();
        l4.extend(key.src_port.to_be_bytes());
        l4.extend(key.dst_port.to_be_bytes());
        l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        l4.extend([0, 0]);
        (UDP, l4, 6)
    } else if has("tcp") {
        let mut l4 = Vec::new();
        l4.extend(key.src_port.to_be_bytes());
        l4.extend(key.dst_port.to_be_bytes());
        l4.extend([0, 0, 1, 2, 0, 0, 3, 4, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        (TCP, l4, 16)
    } else if has("echo") || has("reply") {
        let (kind, ident) = match (has("echo"), v4) {
            (true, true) => (8, key.src_port),
            (true, false) => (128, key.src_port),
            (false, true) => (0, key.dst_port),
            (false, false) => (129, key.dst_port),
        };
        let mut l4 = vec![kind, 0, 0, 0];
        l4.extend(ident.to_be_bytes());
        l4.extend([0, 9]);
        (icmp, l4, 2)
    } else if let Some(kind) = value(words, "icmp") {
        let (kind, code) = kind.split_once('/').unwrap();
        let mut l4 = vec![kind.parse().unwrap(), code.parse().unwrap(), 0, 0];
        l4.extend(hex(value(words, "rest").unwrap_or("00000000")));
        if let Some((text, from)) = quoted {
            let quote = build(text, from.other(), 60).split_off(VNET_HDR_LEN);
            let take = number(words, "take", quote.len()).min(quote.len());
            l4.extend(&quote[..take]);
            l4.resize((8 + number(words, "padto", 0)).max(l4.len()), 0);
            l4.extend(pattern(number(words, "ext", 0)));
            return (icmp, with_checksum(l4, 2, key, icmp, words));
        }
        (icmp, l4, 2)
    } else {
        return (u8::try_from(number(words, "proto", 132)).unwrap(), payload);
    };
    l4.extend(payload);
    let l4 = if has("nosum") {
        l4
    } else {
        with_checksum(l4, at, key, protocol, words)
    };
    (protocol, l4)
}

fn with_checksum(
    mut l4: Vec<u8>,
    at: usize,
    key: FlowKey,
    protocol: u8,
    words: &[&str],
) -> Vec<u8> {
    let mut pseudo = octets(key.src);
    pseudo.extend(octets(key.dst));
    pseudo.extend(u32::try_from(l4.len()).unwrap().to_be_bytes());
    pseudo.extend([0, protocol]);
    let pseudo = if protocol == ICMP { 0 } else { sum(0, &pseudo) };
    let field = if words.contains(&"partial") {
        !finish(pseudo)
    } else {
        match finish(sum(pseudo, &l4)) {
            0 if protocol == UDP => 0xffff,
            field => field,
        }
    };
    l4[at..at + 2].copy_from_slice(&field.to_be_bytes());
    l4
}

/// Translates as the forwarder does: errors by one way, all else by the other.
fn translate(
    frame: &[u8],
    to: &FlowKey,
    ident: Option<u32>,
    mtus: Mtus,
) -> Result<Vec<u8>, DropReason> {
    let octets = &frame[VNET_HDR_LEN..];
    let header = Header::read(octets)?;
    let kind = octets.get(header.len).copied().unwrap_or(0);
    let is_error = match (header.protocol, header.is_v4()) {
        (ICMP, true) => matches!(kind, 3..=5 | 11 | 12),
        (ICMPV6, false) => kind < 128,
        _ => false,
    };
    let mut into = Vec::new();
    if is_error && !header.is_later_part() {
        into.resize(VNET_HDR_LEN, 0);
        error(octets, to, ident, mtus, &mut into)?;
    } else {
        let size = u16::from_ne_bytes([frame[4], frame[5]]);
        let vnet = VnetHeader {
            needs_checksum: frame[0] & 1 != 0,
            gso: match frame[1] & 0x7f {
                0 => Gso::None,
                5 => Gso::Udp(size),
                _ => Gso::Tcp(size),
            },
        };
        packet(frame, vnet, to, ident, &mut into)?;
    }
    Ok(into)
}

/// The start, the length and a checksum of the rest.
fn dump(frame: &[u8]) -> String {
    let mut text = format!("{} octets, {:x}: ", frame.len(), sum(0, frame));
    for (n, octet) in frame.iter().take(200).enumerate() {
        let gap = match n {
            VNET_HDR_LEN => " | ",
            n if n % 4 == 2 => " ",
            _ => "",
        };
        write!(text, "{gap}{octet:02x}").unwrap();
    }
    text
}

/// Name, packet in, packet out or `drop REASON`.
fn table() -> Vec<(String, &'static str, &'static str)> {
    let mut rows = Vec::new();
    let mut section = "";
    let mut lines = include_str!("vectors.txt")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("== ") {
            section = title;
            continue;
        }
        rows.push((
            format!("{section}: {line}"),
            lines.next().unwrap().trim(),
            lines.next().unwrap().trim(),
        ));
    }
    rows
}

#[test]
fn packets_become_what_the_rfcs_say() {
    let rows = table();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = String::new();
    for (name, before, after) in rows {
        let words: Vec<&str> = before.split_whitespace().collect();
        let v4 = words.contains(&"v4") && !before.starts_with("v6");
        let from = if v4 { From::Container } else { From::Client };
        let mtus = Mtus {
            v4: u32::try_from(number(&words, "mtu4", 1500)).unwrap(),
            v6: u32::try_from(number(&words, "mtu6", 1500)).unwrap(),
        };
        let ident = value(&words, "ident").map(|id| u32::from_str_radix(id, 16).unwrap());
        let frame = build(before, from, 64);
        let found = match translate(&frame, &from.key(!v4), ident, mtus) {
            Ok(found) => dump(&found),
            Err(reason) => format!("drop {}", reason.name()),
        };
        let expected = if after.starts_with("drop ") {
            after.to_owned()
        } else {
            dump(&build(after, from, 63))
        };
        if found != expected {
            writeln!(
                wrong,
                "{name}\n  in       {}\n  found    {found}\n  expected {expected}",
                dump(&frame)
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

const MTUS: Mtus = Mtus { v4: 1500, v6: 1500 };

proptest! {
    #[test]
    fn nothing_panics(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(4u8), Just(6), 0u8..16],
        protocol in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(44), Just(0), Just(43), any::<u8>()],
        quoting in any::<bool>(),
        ident in any::<Option<u32>>(),
    ) {
        frame.resize(frame.len().max(VNET_HDR_LEN), 0);
        frame[..VNET_HDR_LEN].fill(0);
        if let Some(first) = frame.get_mut(VNET_HDR_LEN) {
            *first = version << 4 | *first & 0xf;
            let at = VNET_HDR_LEN + if version == 4 { 9 } else { 6 };
            if let Some(field) = frame.get_mut(at) {
                *field = protocol;
            }
            let (at, quote_at) = if version == 4 { (12, 38) } else { (14, 58) };
            let length = frame.len() - VNET_HDR_LEN - if version == 4 { 0 } else { 40.min(frame.len() - VNET_HDR_LEN) };
            if frame.len() > quote_at {
                frame[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                if quoting {
                    frame[VNET_HDR_LEN] = if version == 4 { 0x45 } else { 0x60 };
                    frame[quote_at - 8] = if version == 4 { 3 } else { 1 };
                    frame[quote_at - 7] &= 3;
                    frame[quote_at] = version << 4 | 5;
                }
            }
        }
        let from = if version == 4 { From::Container } else { From::Client };
        let _ = translate(&frame, &from.key(version != 4), ident, MTUS);
    }

    #[test]
    fn there_and_back_restores_all_that_counts(
        v4 in any::<bool>(),
        tcp in any::<bool>(),
        partial in any::<bool>(),
        length in 0usize..1400,
        tos in any::<u8>(),
        ttl in 3usize..256,
    ) {
        let describe = |family, ttl| {
            let kind = if tcp { "tcp" } else { "udp" };
            let mark = if partial { "partial" } else { "" };
            let df = if family == "v4" && !v4 && 20 + length + if tcp { 20 } else { 8 } > 1260 { "df" } else { "" };
            format!("{family} {df} tos={tos:02x} ttl={ttl} {kind} len={length} {mark}")
        };
        let (family, other) = if v4 { ("v4", "v6") } else { ("v6", "v4") };
        let from = if v4 { From::Container } else { From::Client };
        let frame = build(&describe(family, ttl), from, 0);
        let there = translate(&frame, &from.key(!v4), None, MTUS).unwrap();
        prop_assert_eq!(&there, &build(&describe(other, ttl - 1), from, 0));
        let back = translate(&there, &from.key(v4), None, MTUS).unwrap();
        prop_assert_eq!(back.len(), frame.len());
        if v4 {
            // What an IPv4 header says about fragments depends on the length then.
            prop_assert_eq!(&back[VNET_HDR_LEN + 20..], &frame[VNET_HDR_LEN + 20..]);
        } else {
            prop_assert_eq!(back, build(&describe(family, ttl - 2), from, 0));
        }
    }

    #[test]
    fn mtus_told_are_mtus_that_fit(reported in any::<u32>(), v4 in 68u32..70_000, v6 in 1280u32..70_000) {
        let mtus = Mtus { v4, v6 };
        let told = mtus.told_to_v4(reported);
        prop_assert!(told <= v4 && told + 20 <= v6 && told + 20 <= reported.max(1280));
        let told = mtus.told_to_v6(reported);
        prop_assert!(told >= 1280 && told <= v6 && (told == 1280 || told <= reported.saturating_add(20)));
    }
}
