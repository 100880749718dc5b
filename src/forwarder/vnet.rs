//! `struct virtio_net_hdr` (legacy, 10 octets, native byte order) in front of each frame.
//!
//! The header is a claim, not a fact: [`VnetHeader::check`] compares every field with the packet
//! before anything uses it (a `csum_start` out of range has crashed other switches,
//! CVE-2024-11614). `hdr_len` is only bounded and never used.

use super::packet::Version;
use super::{DropReason, VNET_HDR_LEN};

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How a super-packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gso {
    /// It is one packet.
    None,
    /// TCP segments of that much payload.
    Tcp(u16),
    /// UDP datagrams of that much payload.
    Udp(u16),
}

/// What the header must agree with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) version: Version,
    /// Length of the frame without the virtio header.
    pub(super) frame_len: usize,
    /// Length of the IP packet.
    pub(super) packet_len: usize,
    /// Where the transport header starts, from the start of the IP packet.
    pub(super) transport: usize,
    /// Length of the transport header, if there is one that can have a checksum to complete.
    pub(super) transport_header: Option<TransportHeader>,
}

/// A whole TCP or UDP header in an unfragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransportHeader {
    Tcp(usize),
    Udp,
}

/// The checked header.
#[derive(Clone, Copy, Debug)]
pub(super) struct VnetHeader {
    /// The transport checksum field holds the pseudo header sum only.
    pub(super) needs_checksum: bool,
    pub(super) gso: Gso,
}

impl VnetHeader {
    /// Reads the header and checks it against the packet.
    pub(super) fn check(header: &[u8], shape: Shape) -> Result<Self, DropReason> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (flags, gso_type) = (header[0], header[1]);
        let (hdr_len, gso_size) = (usize::from(word(2)), word(4));
        let (csum_start, csum_offset) = (usize::from(word(6)), usize::from(word(8)));
        let fault = Err(DropReason::VirtioHeader);

        if flags & !(F_NEEDS_CSUM | F_DATA_VALID) != 0 || hdr_len > shape.frame_len {
            return fault;
        }
        let needs_checksum = flags & F_NEEDS_CSUM != 0;
        if needs_checksum {
            let expected_offset = match shape.transport_header {
                Some(TransportHeader::Tcp(_)) => 16,
                Some(TransportHeader::Udp) => 6,
                None => return fault,
            };
            // The kernel sums up to the end of the frame: padding would be summed too.
            if csum_start != shape.transport
                || csum_offset != expected_offset
                || shape.packet_len != shape.frame_len
            {
                return fault;
            }
        }
        let gso_tcp = match shape.version {
            Version::V4 => GSO_TCPV4,
            Version::V6 => GSO_TCPV6,
        };
        let gso = match (gso_type & !GSO_ECN, shape.transport_header) {
            (GSO_NONE, _) if gso_type & GSO_ECN == 0 => Gso::None,
            (kind, Some(TransportHeader::Tcp(_)))
                if kind == gso_tcp && gso_size > 0 && needs_checksum =>
            {
                Gso::Tcp(gso_size)
            }
            (GSO_UDP_L4, Some(TransportHeader::Udp))
                if gso_size > 0 && needs_checksum && gso_type & GSO_ECN == 0 =>
            {
                Gso::Udp(gso_size)
            }
            _ => return fault,
        };
        Ok(Self {
            needs_checksum,
            gso,
        })
    }
}

/// Drops the receiver's claim that the transport checksum was verified: a sender must not make it.
pub(super) fn clear_data_valid(header: &mut [u8]) {
    header[0] &= !F_DATA_VALID;
}

/// The transport checksum is complete now.
pub(super) fn clear_needs_checksum(header: &mut [u8]) {
    header[..VNET_HDR_LEN].fill(0);
}

/// Cuts a super-packet into smaller pieces.
pub(super) fn set_gso_size(header: &mut [u8], size: u16) {
    header[4..6].copy_from_slice(&size.to_ne_bytes());
}

/// The header of a packet that goes on in the other family, IPv6 if `v6`, with its transport header
/// at `transport` and its payload at `payload`.
pub(super) fn across(
    header: &[u8],
    transport: usize,
    payload: usize,
    v6: bool,
) -> [u8; VNET_HDR_LEN] {
    let mut across = [0; VNET_HDR_LEN];
    let offset = |at: usize| u16::try_from(at).unwrap_or(u16::MAX).to_ne_bytes();
    if header[0] & F_NEEDS_CSUM != 0 {
        across[0] = F_NEEDS_CSUM;
        across[6..8].copy_from_slice(&offset(transport));
        across[8..10].copy_from_slice(&header[8..10]);
    }
    let kind = match header[1] & !GSO_ECN {
        GSO_NONE => return across,
        GSO_UDP_L4 => GSO_UDP_L4,
        _ if v6 => GSO_TCPV6,
        _ => GSO_TCPV4,
    };
    across[1] = kind | header[1] & GSO_ECN;
    across[2..4].copy_from_slice(&offset(payload));
    across[4..6].copy_from_slice(&header[4..6]);
    across
}

/// A header for tests: flags, GSO type, `gso_size`, `csum_start`, `csum_offset`.
#[cfg(test)]
pub(super) fn build(flags: u8, gso_type: u8, gso_size: u16, start: u16, offset: u16) -> [u8; 10] {
    let mut header = [0; VNET_HDR_LEN];
    header[0] = flags;
    header[1] = gso_type;
    header[4..6].copy_from_slice(&gso_size.to_ne_bytes());
    header[6..8].copy_from_slice(&start.to_ne_bytes());
    header[8..10].copy_from_slice(&offset.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Shape = Shape {
        version: Version::V4,
        frame_len: 3000,
        packet_len: 3000,
        transport: 20,
        transport_header: Some(TransportHeader::Tcp(20)),
    };

    #[test]
    fn honest_headers_pass() {
        assert!(VnetHeader::check(&build(0, 0, 0, 0, 0), TCP).is_ok());
        assert!(VnetHeader::check(&build(2, 0, 0, 0, 0), TCP).is_ok());
        let super_packet = VnetHeader::check(&build(1, 1, 1448, 20, 16), TCP).unwrap();
        assert_eq!(super_packet.gso, Gso::Tcp(1448));
        assert!(VnetHeader::check(&build(1, 0x81, 1448, 20, 16), TCP).is_ok());
        let behind_options = Shape {
            version: Version::V6,
            transport: 48,
            ..TCP
        };
        let super_packet = VnetHeader::check(&build(1, 4, 1428, 48, 16), behind_options).unwrap();
        assert_eq!(super_packet.gso, Gso::Tcp(1428));
        let udp = Shape {
            transport_header: Some(TransportHeader::Udp),
            ..TCP
        };
        assert_eq!(
            VnetHeader::check(&build(1, 5, 1400, 20, 6), udp)
                .unwrap()
                .gso,
            Gso::Udp(1400)
        );
    }

    #[test]
    fn liars_are_dropped() {
        let udp = Shape {
            transport_header: Some(TransportHeader::Udp),
            ..TCP
        };
        let none = Shape {
            transport_header: None,
            ..TCP
        };
        let tcpv6 = Shape {
            version: Version::V6,
            transport: 40,
            ..TCP
        };
        let behind = Shape {
            transport: 48,
            ..tcpv6
        };
        let padded = Shape {
            packet_len: 2990,
            ..TCP
        };
        let mut long_header = build(0, 0, 0, 0, 0);
        long_header[2..4].copy_from_slice(&3001u16.to_ne_bytes());
        let cases = [
            ("unknown flag", build(8, 0, 0, 0, 0), TCP),
            ("coalescing info", build(4, 0, 0, 0, 0), TCP),
            ("hdr_len beyond the frame", long_header, TCP),
            ("csum_start out of range", build(1, 0, 0, 60_000, 16), TCP),
            (
                "csum_start inside the IP header",
                build(1, 0, 0, 10, 16),
                TCP,
            ),
            ("csum_offset of UDP in TCP", build(1, 0, 0, 20, 6), TCP),
            ("checksum of nothing", build(1, 0, 0, 20, 16), none),
            ("checksum over padding", build(1, 0, 0, 20, 16), padded),
            ("GSO without size", build(1, 1, 0, 20, 16), TCP),
            ("GSO without checksum", build(0, 1, 1448, 0, 0), TCP),
            ("TCP GSO of UDP", build(1, 1, 1448, 20, 6), udp),
            ("UDP GSO of TCP", build(1, 5, 1448, 20, 16), TCP),
            ("TCPv6 GSO of IPv4", build(1, 4, 1448, 20, 16), TCP),
            ("TCPv4 GSO of IPv6", build(1, 1, 1448, 40, 16), tcpv6),
            (
                "csum_start before the extensions",
                build(1, 4, 1448, 40, 16),
                behind,
            ),
            ("UFO", build(1, 3, 1448, 20, 6), udp),
            ("ECN alone", build(0, 0x80, 0, 0, 0), TCP),
            ("ECN of UDP", build(1, 0x85, 1448, 20, 6), udp),
        ];
        for (name, header, shape) in cases {
            assert_eq!(
                VnetHeader::check(&header, shape).err(),
                Some(DropReason::VirtioHeader),
                "{name}"
            );
        }
    }
}
