//! Frames as they cross the TUN, and what a kernel does with them on the way to a wire.

use tunbridge::forwarder::VNET_HDR_LEN;

use super::packet::*;

pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_UDP: u8 = 3;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;

/// `struct virtio_net_hdr` in the machine's byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) hdr_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl Vnet {
    pub(crate) fn bytes(self) -> [u8; VNET_HDR_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }
}

/// A frame as it crosses the TUN: virtio header and packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) vnet: Vnet,
    pub(crate) packet: Packet,
}

impl From<Packet> for Frame {
    fn from(packet: Packet) -> Self {
        Self {
            vnet: Vnet::default(),
            packet,
        }
    }
}

impl From<&Packet> for Frame {
    fn from(packet: &Packet) -> Self {
        packet.clone().into()
    }
}

impl From<&Self> for Frame {
    fn from(frame: &Self) -> Self {
        frame.clone()
    }
}

impl Frame {
    /// As a local sender's kernel leaves a packet whose checksum the device shall complete
    /// (`CHECKSUM_PARTIAL`): the field holds the uncomplemented pseudo header sum.
    pub(crate) fn partial(mut packet: Packet) -> Self {
        let at = packet.checksum_at().expect("a transport with a checksum");
        let pseudo = packet.pseudo_sum();
        packet.set16(at, pseudo);
        let start = packet.header_len();
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            csum_start: u16::try_from(start).unwrap(),
            csum_offset: u16::try_from(at - start).unwrap(),
            ..Vnet::default()
        };
        Self { vnet, packet }
    }

    /// A super-packet of segments with at most `gso_size` octets of payload.
    pub(crate) fn super_packet(packet: Packet, gso_size: u16) -> Self {
        let gso_type = if packet.protocol() == TCP {
            GSO_TCPV4
        } else {
            GSO_UDP_L4
        };
        let hdr_len = packet.0.len() - packet.payload().len();
        let mut frame = Self::partial(packet);
        frame.vnet.gso_type = gso_type;
        frame.vnet.gso_size = gso_size;
        frame.vnet.hdr_len = u16::try_from(hdr_len).unwrap();
        frame
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.vnet.bytes().to_vec();
        bytes.extend(&self.packet.0);
        bytes
    }

    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            vnet: Vnet::parse(&bytes[..VNET_HDR_LEN]),
            packet: Packet(bytes[VNET_HDR_LEN..].to_vec()),
        }
    }

    /// What a kernel does with the frame on its way to a wire: completes the checksum exactly as
    /// `skb_checksum_help` would and cuts a super-packet into segments. Panics unless every packet
    /// that results is right in every checksum.
    #[track_caller]
    pub(crate) fn segments(&self) -> Vec<Packet> {
        let packet = &self.packet;
        if self.vnet.flags & NEEDS_CSUM == 0 {
            assert_eq!(self.vnet.gso_type, GSO_NONE, "GSO without NEEDS_CSUM");
            packet.assert_valid();
            return vec![packet.clone()];
        }
        let start = usize::from(self.vnet.csum_start);
        let at = start + usize::from(self.vnet.csum_offset);
        assert_eq!(start, packet.header_len());
        assert_eq!(Some(at), packet.checksum_at());
        assert_eq!(
            packet.get16(at),
            packet.pseudo_sum(),
            "partial checksum of {packet:?}"
        );
        if self.vnet.gso_type == GSO_NONE {
            let mut whole = packet.clone();
            let value = !sum(0, &packet.0[start..]);
            whole.set16(at, if value == 0 { 0xffff } else { value });
            whole.assert_valid();
            return vec![whole];
        }
        assert_eq!(
            sum(0, &packet.0[..packet.header_len()]),
            0xffff,
            "IP header checksum of {packet:?}"
        );
        let headers = packet.0.len() - packet.payload().len();
        let chunks: Vec<&[u8]> = packet
            .payload()
            .chunks(usize::from(self.vnet.gso_size))
            .collect();
        let last = chunks.len() - 1;
        let mut sequence = if packet.protocol() == TCP {
            packet.seq()
        } else {
            0
        };
        let mut result = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let mut bytes = packet.0[..headers].to_vec();
            bytes.extend(*chunk);
            let mut segment = Packet(bytes);
            let total = u16::try_from(segment.0.len()).unwrap();
            segment.set16(2, total);
            segment.set16(4, packet.ident().wrapping_add(u16::try_from(i).unwrap()));
            if packet.protocol() == TCP {
                segment.0[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
                if i < last {
                    segment.0[start + 13] &= !(FIN | PSH);
                }
                sequence = sequence.wrapping_add(u32::try_from(chunk.len()).unwrap());
            } else {
                segment.set16(start + 4, u16::try_from(8 + chunk.len()).unwrap());
            }
            // Only the length changes in the pseudo header: start from the sum that came in.
            segment.fix_ip();
            let old = u32::try_from(packet.l4().len()).unwrap();
            let new = u32::try_from(segment.l4().len()).unwrap();
            let old16 = u16::try_from((old & 0xffff) + (old >> 16)).unwrap();
            let adjusted = sum(u32::from(packet.get16(at)) + u32::from(!old16) + new, &[]);
            segment.set16(at, adjusted);
            let value = !sum(0, &segment.0[start..]);
            segment.set16(at, if value == 0 { 0xffff } else { value });
            segment.assert_valid();
            result.push(segment);
        }
        result
    }
}
