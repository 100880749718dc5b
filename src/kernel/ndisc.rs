//! Neighbour discovery (RFC 4861): reads the solicitations that may be answered, writes advertisements. Frames with their
//! Ethernet header. Reading never panics, whatever the frame.

use std::net::Ipv6Addr;

const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// The protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// What has crossed a router has less.
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// Of an Ethernet address: eight octets with type and length, which counts by eight.
const ADDRESS_OPTION_LEN: usize = 8;
/// Octets of Ethernet's header and of IPv6's.
const ETHERNET_LEN: usize = 14;
const IP_LEN: usize = 40;
/// Octets of a solicitation or an advertisement without options.
const MESSAGE_LEN: usize = 24;
/// Octets of an advertisement's frame.
pub(super) const ADVERTISEMENT_LEN: usize =
    ETHERNET_LEN + IP_LEN + MESSAGE_LEN + ADDRESS_OPTION_LEN;

/// `ff02::1`: all nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Somebody on the link wants to know who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Solicitation {
    /// Who asks: a unicast address.
    pub(super) source: Ipv6Addr,
    /// The Ethernet address that is to be answered.
    pub(super) mac: [u8; 6],
    /// Whose Ethernet address is wanted.
    pub(super) target: Ipv6Addr,
}

/// Why a frame is no solicitation to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is something else.
    Other,
    /// It has crossed a router, so its sender is not on the link (RFC 4861 section 7.1.1).
    HopLimit,
    /// Its checksum is wrong.
    Checksum,
    /// Lengths, code, options or addresses are not what RFC 4861 section 7.1.1 asks for.
    Malformed,
    /// Detection of duplicates: the sender wants the address for itself, and an answer would take it away.
    Probe(Ipv6Addr),
}

/// What a frame asks for.
///
/// # Errors
/// It is nothing that is to be answered.
pub(super) fn read_solicitation(frame: &[u8]) -> Result<Solicitation, Refusal> {
    let (ethernet, packet) = frame
        .split_first_chunk::<ETHERNET_LEN>()
        .ok_or(Refusal::Other)?;
    let (header, payload) = packet.split_first_chunk::<IP_LEN>().ok_or(Refusal::Other)?;
    // A solicitation has no extension headers: with one it may not even be a fragment's first (RFC 6980).
    if ethernet[12..] != ETHERTYPE_IPV6 || header[0] >> 4 != 6 || header[6] != ICMPV6 {
        return Err(Refusal::Other);
    }
    if payload.first() != Some(&SOLICITATION) {
        return Err(Refusal::Other);
    }
    if header[7] != HOP_LIMIT {
        return Err(Refusal::HopLimit);
    }
    // Behind a short packet Ethernet pads.
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = payload.get(..length).ok_or(Refusal::Malformed)?;
    let source = address_at(header, 8).ok_or(Refusal::Malformed)?;
    let destination = address_at(header, 24).ok_or(Refusal::Malformed)?;
    if checksum(source, destination, message) != 0 {
        return Err(Refusal::Checksum);
    }
    let (fixed, options) = message
        .split_first_chunk::<MESSAGE_LEN>()
        .ok_or(Refusal::Malformed)?;
    let target = address_at(fixed, 8).ok_or(Refusal::Malformed)?;
    let option = source_option(options)?;
    if fixed[1] != 0 || target.is_multicast() {
        return Err(Refusal::Malformed);
    }
    if source.is_unspecified() {
        let valid = option.is_none() && destination == solicited_node(target);
        return Err(if valid {
            Refusal::Probe(target)
        } else {
            Refusal::Malformed
        });
    }
    if source.is_multicast() || source.is_loopback() {
        return Err(Refusal::Malformed);
    }
    // A solicitation that everybody gets must say where the answer is to go; a unicast one need not.
    let sender = match option {
        Some(mac) => mac,
        None if destination.is_multicast() => return Err(Refusal::Malformed),
        None => ethernet_source(ethernet),
    };
    if sender[0] & 1 != 0 || sender == [0; 6] {
        return Err(Refusal::Malformed);
    }
    Ok(Solicitation {
        source,
        mac: sender,
        target,
    })
}

/// The answer: `target` is at `mac`, as a proxy says it: the owner itself would be believed rather (RFC 4389).
pub(super) fn answer(question: &Solicitation, mac: [u8; 6]) -> [u8; ADVERTISEMENT_LEN] {
    const SOLICITED: u8 = 0x40;
    advertisement(
        question.mac,
        mac,
        question.target,
        question.source,
        SOLICITED,
    )
}

/// Unasked, to everybody: `address` is at `mac` from now on, whatever you remember.
pub(super) fn announcement(mac: [u8; 6], address: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
    const OVERRIDE: u8 = 0x20;
    let everybody = [0x33, 0x33, 0, 0, 0, 1];
    advertisement(everybody, mac, address, ALL_NODES, OVERRIDE)
}

/// The group that solicitations for an address go to.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn advertisement(
    to: [u8; 6],
    mac: [u8; 6],
    target: Ipv6Addr,
    destination: Ipv6Addr,
    flags: u8,
) -> [u8; ADVERTISEMENT_LEN] {
    const LENGTH: u8 = 32;
    let put = |parts: &[&[u8]], into: &mut [u8]| {
        for (place, octet) in into.iter_mut().zip(parts.iter().copied().flatten()) {
            *place = *octet;
        }
    };
    let mut message = [0; MESSAGE_LEN + ADDRESS_OPTION_LEN];
    let target_octets = target.octets();
    put(
        &[
            &[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0],
            &target_octets,
            &[TARGET_ADDRESS, 1],
            &mac,
        ],
        &mut message,
    );
    let [high, low] = checksum(target, destination, &message).to_be_bytes();
    message[2] = high;
    message[3] = low;
    let mut frame = [0; ADVERTISEMENT_LEN];
    put(
        &[
            &to,
            &mac,
            &ETHERTYPE_IPV6,
            &[0x60, 0, 0, 0, 0, LENGTH, ICMPV6, HOP_LIMIT],
            &target_octets,
            &destination.octets(),
            &message,
        ],
        &mut frame,
    );
    frame
}

/// The source link-layer address. All options must be whole.
fn source_option(mut options: &[u8]) -> Result<Option<[u8; 6]>, Refusal> {
    let mut found = None;
    while let [kind, length, rest @ ..] = options {
        let whole = usize::from(*length) * 8;
        let value = rest.get(..whole.saturating_sub(2)).filter(|_| whole > 0);
        let value = value.ok_or(Refusal::Malformed)?;
        if *kind == SOURCE_ADDRESS {
            found = Some(value.try_into().map_err(|_| Refusal::Malformed)?);
        }
        options = options.get(whole..).unwrap_or_default();
    }
    if options.is_empty() {
        Ok(found)
    } else {
        Err(Refusal::Malformed)
    }
}

fn ethernet_source(header: &[u8; ETHERNET_LEN]) -> [u8; 6] {
    let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *header;
    [a, b, c, d, e, f]
}

fn address_at(octets: &[u8], offset: usize) -> Option<Ipv6Addr> {
    let octets: &[u8; 16] = octets.get(offset..)?.first_chunk()?;
    Some(Ipv6Addr::from(*octets))
}

/// The Internet checksum of an ICMPv6 message and its pseudo-header; of a message that has its checksum: 0.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    // Both lengths are those of one packet: the sum does not overflow.
    let mut sum = u64::from(ICMPV6) + u64::try_from(message.len()).unwrap_or_default();
    for octets in [&source.octets()[..], &destination.octets()[..], message] {
        for pair in octets.chunks(2) {
            let high = pair.first().copied().unwrap_or_default();
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// A solicitation's frame with a right checksum, after `change`.
    fn solicitation(
        source: &str,
        destination: &str,
        target: &str,
        options: &[u8],
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let (source, destination) = (address(source), address(destination));
        let mut frame = [&[0x33, 0x33, 0xff, 0, 0, 5][..], &ROUTER, &ETHERTYPE_IPV6].concat();
        let length = u8::try_from(MESSAGE_LEN + options.len()).unwrap();
        frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend([SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(address(target).octets());
        frame.extend(options);
        change(&mut frame);
        let start = ETHERNET_LEN + IP_LEN;
        let sum = checksum(source, destination, &frame[start..]).to_be_bytes();
        frame[start + 2..start + 4].copy_from_slice(&sum);
        frame
    }

    const SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];

    #[test]
    fn questions_of_routers_are_read() {
        let expected = Solicitation {
            source: address("fe80::1"),
            mac: ROUTER,
            target: address("2001:db8::5"),
        };
        let frame = solicitation("fe80::1", "ff02::1:ff00:5", "2001:db8::5", &SOURCE, |_| {});
        assert_eq!(read_solicitation(&frame), Ok(expected));
        let padded = [&frame[..], &[7; 20]].concat();
        assert_eq!(read_solicitation(&padded), Ok(expected));
        // Is it still there? With an option that nobody knows, and without one.
        for options in [&[253, 1, 0, 0, 0, 0, 0, 0][..], &[]] {
            let frame = solicitation("fe80::1", "2001:db8::5", "2001:db8::5", options, |_| {});
            assert_eq!(read_solicitation(&frame), Ok(expected));
        }
    }

    #[test]
    fn what_section_7_1_1_forbids_is_not_answered() {
        let group = "ff02::1:ff00:5";
        let to_group = |source: &str, options: &[u8], change: fn(&mut Vec<u8>)| {
            read_solicitation(&solicitation(source, group, "2001:db8::5", options, change))
        };
        let ask = |change| to_group("fe80::1", &SOURCE, change);
        for (refused, reason) in [
            (ask(|f| f[21] = 254), Refusal::HopLimit),
            (ask(|f| f[14] = 0x40), Refusal::Other),
            (ask(|f| f[13] = 0), Refusal::Other),
            (ask(|f| f[20] = 44), Refusal::Other),
            (ask(|f| f[54] = 136), Refusal::Other),
            (ask(|f| f[55] = 1), Refusal::Malformed),
            (ask(|f| f[62] = 0xff), Refusal::Malformed),
            (ask(|f| f[79] = 0), Refusal::Malformed),
            (ask(|f| f[79] = 2), Refusal::Malformed),
            (ask(|f| f[19] = 40), Refusal::Malformed),
            (ask(|f| f[80] = 0xff), Refusal::Malformed),
            (to_group("fe80::1", &[], |_| {}), Refusal::Malformed),
            (to_group("ff02::1", &SOURCE, |_| {}), Refusal::Malformed),
            (to_group("::1", &SOURCE, |_| {}), Refusal::Malformed),
            (
                to_group("::", &[], |_| {}),
                Refusal::Probe(address("2001:db8::5")),
            ),
            (to_group("::", &SOURCE, |_| {}), Refusal::Malformed),
        ] {
            assert_eq!(refused, Err(reason));
        }
        let mut frame = solicitation("fe80::1", group, "2001:db8::5", &SOURCE, |_| {});
        frame[56] ^= 1;
        assert_eq!(read_solicitation(&frame), Err(Refusal::Checksum));
        for length in 0..frame.len() {
            assert!(read_solicitation(&frame[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_answer_and_an_announcement_as_they_are_on_the_wire() {
        let hex =
            |frame: &[u8]| -> String { frame.iter().map(|octet| format!("{octet:02x}")).collect() };
        let question = Solicitation {
            source: address("fe80::1"),
            mac: ROUTER,
            target: address("2001:db8::5"),
        };
        let frame = answer(&question, MAC);
        assert_eq!(
            hex(&frame),
            "020000000001020000000002\
             86dd6000000000203aff\
             20010db8000000000000000000000005\
             fe800000000000000000000000000001\
             8800d9a340000000\
             20010db8000000000000000000000005\
             0201020000000002"
        );
        let frame = announcement(MAC, address("2001:db8::5"));
        assert_eq!(hex(&frame[..14]), "33330000000102000000000286dd");
        assert_eq!(hex(&frame[38..54]), "ff020000000000000000000000000001");
        assert_eq!(frame[58], 0x20);
    }

    #[test]
    fn what_is_written_has_a_right_checksum() {
        for frame in [
            announcement(MAC, address("2001:db8::5")),
            answer(
                &Solicitation {
                    source: address("2001:db8::1"),
                    mac: ROUTER,
                    target: address("fd00::ffff:1"),
                },
                MAC,
            ),
        ] {
            let source = address_at(&frame, 22).unwrap();
            let destination = address_at(&frame, 38).unwrap();
            assert_eq!(checksum(source, destination, &frame[54..]), 0);
        }
    }

    proptest! {
        #[test]
        fn no_frame_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = read_solicitation(&bytes);
        }

        /// A damaged solicitation never asks for an address that nobody asked for.
        #[test]
        fn damage_is_noticed(
            place in 14..94usize,
            bit in 0..8u8,
            length in 0..94usize,
        ) {
            let whole = solicitation("fe80::1", "ff02::1:ff00:5", "2001:db8::5", &SOURCE, |_| {});
            let mut frame = whole.clone();
            if let Some(octet) = frame.get_mut(place) {
                *octet ^= 1 << bit;
            }
            if let Ok(read) = read_solicitation(&frame) {
                prop_assert_eq!(read.target, address("2001:db8::5"));
            }
            prop_assert!(read_solicitation(&whole[..length.min(whole.len() - 1)]).is_err());
        }
    }
}
