//! What a packet becomes in the other family: IPv6 for IPv4 and the reverse, in one copy.
//!
//! Pure functions of a packet and the key it is to have; which packet gets which key is the flow's
//! affair, as for any other. Read RFC 7915 first, then RFC 6146 §3.
//!
//! ```text
//!  IPv6 header, extensions, fragment header          IPv4 header, options
//!            │            header.rs                        ▲
//!            └──► addresses, class, hops, DF, fragment ────┘      either way
//!  TCP, UDP, echo ──► transport.rs: ports, checksum over the other pseudo header
//!  ICMP error ──────► icmp.rs: type, code, pointer, MTU, and what it quotes, by the same two
//! ```
//!
//! Not translated: ICMP in fragments, datagrams without checksum in fragments, source routes that
//! are not spent, neighbour and listener discovery, IGMP, errors that quote errors.
// RFC 7915 §1.2, §4.2, §5.2, RFC 6146 §3.4

mod header;
mod icmp;
mod transport;
#[cfg(test)]
mod vectors;

use super::key::FlowKey;
use super::packet::TCP;
use super::vnet::{self, Gso, VnetHeader};
use super::{DropReason, VNET_HDR_LEN};

use header::Header;

pub(super) use header::is_without_df;
pub(super) use icmp::{Mtus, error};

/// Every IPv6 link takes packets of that many octets (RFC 8200 §5).
pub(super) const MIN_IPV6_MTU: u32 = 1280;

/// Appends the packet in the other family to `into`: virtio header ‖ IP packet, with a hop less.
/// `frame` is a checked one, `to` its key after translation; `ident` replaces the identification.
pub(super) fn packet(
    frame: &[u8],
    vnet: VnetHeader,
    to: &FlowKey,
    ident: Option<u32>,
    into: &mut Vec<u8>,
) -> Result<(), DropReason> {
    let (claims, octets) = frame
        .split_at_checked(VNET_HDR_LEN)
        .ok_or(DropReason::Malformed)?;
    let old = Header::read(octets)?;
    let payload = octets
        .get(old.len..old.len + old.payload_len)
        .ok_or(DropReason::Malformed)?;
    let transport_len = match old.protocol {
        TCP if !old.is_later_part() => payload
            .get(12)
            .map_or(0, |offset| usize::from(offset >> 4) * 4),
        _ => 8,
    };
    let largest = match vnet.gso {
        Gso::None => payload.len(),
        Gso::Tcp(size) | Gso::Udp(size) => payload.len().min(transport_len + usize::from(size)),
    };
    let new = old.across(to.src, to.dst, ident, old.len_across() + largest);
    into.extend_from_slice(&vnet::across(
        claims,
        new.len,
        new.len + transport_len,
        !new.is_v4(),
    ));
    new.write(into)?;
    let at = into.len();
    into.extend_from_slice(payload);
    transport::rewrite(&mut into[at..], &old, &new, to, vnet.needs_checksum)
}
