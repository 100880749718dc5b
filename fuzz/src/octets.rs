//! Packets as octets: what the driver must know of them to put them right and to judge them.

use std::net::Ipv6Addr;

use tunbridge::forwarder::VNET_HDR_LEN;

/// Who reports errors in IPv6.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1);

/// What leaves must be a packet that a kernel accepts.
pub(super) fn check_emitted(frame: &[u8]) {
    let packet = &frame[VNET_HDR_LEN..];
    if is_wide(packet) {
        let length = packet
            .get(4..6)
            .map(|field| u16::from_be_bytes([field[0], field[1]]));
        assert!(
            length.is_some_and(|length| 40 + usize::from(length) <= packet.len()),
            "payload length of {packet:02x?}"
        );
        return;
    }
    assert!(
        packet.len() >= 20 && packet[0] >> 4 == 4,
        "not IPv4: {packet:02x?}"
    );
    let header = usize::from(packet[0] & 0x0f) * 4;
    assert!(
        (20..=packet.len()).contains(&header),
        "header length {header}"
    );
    assert_eq!(
        sum(0, &packet[..header]),
        0xffff,
        "IP header checksum of {packet:02x?}"
    );
    assert!(
        usize::from(u16::from_be_bytes([packet[2], packet[3]])) <= packet.len(),
        "total length"
    );
}

fn is_wide(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

/// Where the time to live is.
pub(super) fn hops_at(packet: &[u8]) -> usize {
    if is_wide(packet) { 7 } else { 8 }
}

/// Where source and destination are.
pub(super) fn addresses(packet: &[u8]) -> [std::ops::Range<usize>; 2] {
    if is_wide(packet) {
        [8..24, 24..40]
    } else {
        [12..16, 16..20]
    }
}

/// The packet without padding, if it is long enough for its header and not a fragment.
fn whole(packet: &[u8]) -> Option<&[u8]> {
    let field = |at| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    if is_wide(packet) {
        return packet.get(..40 + usize::from(field(4)?));
    }
    let total = usize::from(field(2)?);
    (field(6)? & 0x3fff == 0 && total >= 20).then(|| packet.get(..total))?
}

/// The transport checksum is complete and right, or partial and right. `None` if there is none to judge.
pub(super) fn is_transport_right(frame: &[u8]) -> Option<bool> {
    let packet = whole(frame.get(VNET_HDR_LEN..)?)?;
    let Transport {
        protocol,
        header,
        at,
    } = transport(packet)?;
    let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let pseudo = pseudo(packet, protocol, header);
    if frame[0] & 1 != 0 {
        return Some(field == pseudo);
    }
    let none = protocol == 17 && field == 0;
    Some(none || sum(pseudo.into(), &packet[header..]) == 0xffff)
}

fn sum(start: u32, data: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for pair in data.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// A transport header: its protocol, where it starts, and where its checksum is.
#[derive(Clone, Copy)]
struct Transport {
    protocol: u8,
    header: usize,
    at: usize,
}

/// The transport header, if the packet is long enough and, in IPv6, no fragment.
fn transport(packet: &[u8]) -> Option<Transport> {
    let (protocol, header) = if is_wide(packet) {
        behind_extensions(packet)?
    } else {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        (*packet.get(9)?, (header >= 20).then_some(header)?)
    };
    let offset = match (protocol, is_wide(packet)) {
        (1, false) | (58, true) => 2,
        (6, _) => 16,
        (17, _) => 6,
        _ => return None,
    };
    let at = header + offset;
    (packet.len() >= at + 2).then_some(Transport {
        protocol,
        header,
        at,
    })
}

fn behind_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (*packet.get(6)?, 40);
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let header = packet.get(at..at + 8)?;
        let length = match protocol {
            44 if header[2] != 0 || header[3] & 0xf9 != 0 => return None,
            44 => 8,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        (protocol, at) = (header[0], at + length);
    }
    Some((protocol, at))
}

fn pseudo(packet: &[u8], protocol: u8, header: usize) -> u16 {
    if protocol == 1 {
        return 0;
    }
    let length = u32::try_from(packet.len() - header).unwrap_or(u32::MAX) & 0xffff;
    let [src, dst] = addresses(packet);
    sum(u32::from(protocol) + length, &packet[src.start..dst.end])
}

/// Puts version, length and checksums right, so that the fuzzer need not find them.
pub(super) fn fix(packet: &mut [u8]) {
    if packet.len() < 20 {
        return;
    }
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    if is_wide(packet) {
        if packet.len() < 40 {
            return;
        }
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    } else {
        packet[0] = 0x40 | (packet[0] & 0x0f);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
    }
    if let Some(Transport {
        protocol,
        header,
        at,
    }) = transport(packet)
    {
        packet[at..at + 2].fill(0);
        let value = !sum(pseudo(packet, protocol, header).into(), &packet[header..]);
        packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    if is_wide(packet) {
        return;
    }
    let header = (usize::from(packet[0] & 0x0f) * 4).clamp(20, packet.len());
    packet[10..12].fill(0);
    let value = !sum(0, &packet[..header]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
}

/// Turns a complete checksum into a partial one.
pub(super) fn make_partial(frame: &mut [u8]) {
    let Some(Transport {
        protocol,
        header,
        at,
    }) = transport(&frame[VNET_HDR_LEN..])
    else {
        return;
    };
    let value = pseudo(&frame[VNET_HDR_LEN..], protocol, header);
    frame[VNET_HDR_LEN + at..VNET_HDR_LEN + at + 2].copy_from_slice(&value.to_be_bytes());
    frame[0] = 1;
    frame[6..8].copy_from_slice(&u16::try_from(header).unwrap_or(0).to_ne_bytes());
    frame[8..10].copy_from_slice(&u16::try_from(at - header).unwrap_or(0).to_ne_bytes());
}

/// Exchanges source and destination, so that a packet becomes its answer; `argument` becomes TCP's flags.
pub(super) fn exchange(packet: &mut [u8], argument: u8) {
    let [src, dst] = addresses(packet);
    let (a, b) = (packet[src.clone()].to_vec(), packet[dst.clone()].to_vec());
    packet[src].copy_from_slice(&b);
    packet[dst].copy_from_slice(&a);
    packet[hops_at(packet)] = 64;
    if let Some(Transport {
        protocol, header, ..
    }) = transport(packet)
    {
        if protocol == 1 || protocol == 58 {
            packet[header] ^= if protocol == 1 { 8 } else { 1 };
        } else {
            let ports = packet[header..header + 4].to_vec();
            packet[header..header + 2].copy_from_slice(&ports[2..]);
            packet[header + 2..header + 4].copy_from_slice(&ports[..2]);
        }
        if protocol == 6 && packet.len() >= header + 20 {
            let (sequence, ack) = (
                packet[header + 4..header + 8].to_vec(),
                packet[header + 8..header + 12].to_vec(),
            );
            packet[header + 4..header + 8].copy_from_slice(&ack);
            packet[header + 8..header + 12].copy_from_slice(&sequence);
            packet[header + 13] = argument & 0x1f;
        }
    }
    fix(packet);
}

/// An ICMP error to the sender of `packet` that quotes it.
pub(super) fn error_about(packet: &[u8], argument: u8) -> Vec<u8> {
    if is_wide(packet) {
        let quote = &packet[..packet.len().min(48 + usize::from(argument & 0x1f))];
        let mut frame = vec![0; VNET_HDR_LEN];
        frame.extend([0x60, 0, 0, 0, 0, 0, 58, 64]);
        frame.extend(ROUTER.octets());
        frame.extend(&packet[8..24]);
        let kind = [1, 2, 3, 4][usize::from(argument >> 6)];
        frame.extend([kind, argument >> 5 & 1, 0, 0, 0, 0, 5, 0]);
        frame.extend(quote);
        fix(&mut frame[VNET_HDR_LEN..]);
        return frame;
    }
    let quote = &packet[..packet.len().min(28 + usize::from(argument & 0x1f))];
    let mut frame = vec![0; VNET_HDR_LEN];
    frame.extend([0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0, 10, 20, 0, 1]);
    frame.extend(&packet[12..16]);
    let kind = [3, 11, 12, 5][usize::from(argument >> 6)];
    frame.extend([kind, argument >> 5 & 1, 0, 0, 0, 0, 2, 0]);
    frame.extend(quote);
    fix(&mut frame[VNET_HDR_LEN..]);
    frame
}
