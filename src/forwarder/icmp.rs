//! ICMP errors about packets of a flow: translated outside and inside.
//!
//! An error goes the opposite way of the packet that it quotes. That packet was seen at this point
//! as the *mirror* of a key of its flow; so the mirror of the quoted tuple finds the flow and the
//! direction in which the error travels. Errors neither refresh nor end anything. Read RFC 5508
//! first.
// RFC 5508 REQ-10, RFC 4787 REQ-12b, RFC 5382 REQ-9: destination unreachable, time exceeded and
// parameter problem pass both ways. RFC 5508 REQ-11: other types are dropped or left to the host.
//!
//! ```text
//!  outer:  router ─► H          quoted:  H:ext ─► D:q     (mirror: D:q ─► H:ext, a reply key)
//!  becomes router ─► X                   X:p   ─► D:q
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use super::checksum::{self, Delta};
use super::flow::{Flow, Track};
use super::index::Place;
use super::judge::{Judged, judged};
use super::key::{Direction, FlowKey};
use super::packet::{ICMP, Packet, TCP, UDP, word};
use super::{DropReason, Forwarder, Instant, Outbox, Protocol, Verdict};

const ICMP_HEADER_LEN: usize = 8;

/// A quoted packet: its tuple and the length of its IP header.
#[derive(Clone, Copy, Debug)]
struct Quote {
    key: FlowKey,
    header_len: usize,
}

/// Reads the start of a packet in an ICMP error.
// RFC 5508 REQ-3b: IP options in it are skipped. REQ-3c: its transport checksum is not looked at.
fn parse_quote(quote: &[u8]) -> Option<Quote> {
    let header_len = usize::from(quote.first()? & 0xf) * 4;
    // RFC 792: 8 octets after the header are enough.
    if quote[0] >> 4 != 4 || header_len < 20 || quote.len() < header_len + 8 {
        return None;
    }
    if word(quote, 6) & 0x1fff != 0 {
        return None;
    }
    let transport = &quote[header_len..];
    let (protocol, src_port, dst_port) = match quote[9] {
        TCP => (Protocol::Tcp, word(transport, 0), word(transport, 2)),
        UDP => (Protocol::Udp, word(transport, 0), word(transport, 2)),
        ICMP => match transport[0] {
            kind @ (8 | 13) => (Protocol::Icmp, word(transport, 4), u16::from(kind)),
            0 => (Protocol::Icmp, 8, word(transport, 4)),
            14 => (Protocol::Icmp, 13, word(transport, 4)),
            _ => return None,
        },
        _ => return None,
    };
    let address =
        |at: usize| IpAddr::from([quote[at], quote[at + 1], quote[at + 2], quote[at + 3]]);
    Some(Quote {
        key: FlowKey {
            protocol,
            src: address(12),
            dst: address(16),
            src_port,
            dst_port,
        },
        header_len,
    })
}

/// Makes the quoted packet that of `to`, as far as it is there.
// RFC 5508 REQ-4b, REQ-5b
fn rewrite_quote(quote: &mut [u8], header_len: usize, from: &FlowKey, to: &FlowKey) {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (to.src, to.dst) else {
        return;
    };
    let addresses = Delta::default()
        .address(from.src, to.src)
        .address(from.dst, to.dst);
    let field = addresses.apply(word(quote, 10));
    quote[10..12].copy_from_slice(&field.to_be_bytes());
    quote[12..16].copy_from_slice(&src.octets());
    quote[16..20].copy_from_slice(&dst.octets());

    let transport = &mut quote[header_len..];
    if to.protocol == Protocol::Icmp {
        let ident = if transport[0] == 8 || transport[0] == 13 {
            to.src_port
        } else {
            to.dst_port
        };
        let field = Delta::default()
            .word(word(transport, 4), ident)
            .apply_icmp(word(transport, 2));
        transport[2..4].copy_from_slice(&field.to_be_bytes());
        transport[4..6].copy_from_slice(&ident.to_be_bytes());
        return;
    }
    transport[0..2].copy_from_slice(&to.src_port.to_be_bytes());
    transport[2..4].copy_from_slice(&to.dst_port.to_be_bytes());
    let all = addresses
        .word(from.src_port, to.src_port)
        .word(from.dst_port, to.dst_port);
    if to.protocol == Protocol::Udp {
        let field = all.apply_udp(word(transport, 6));
        transport[6..8].copy_from_slice(&field.to_be_bytes());
    } else if transport.len() >= 18 {
        let field = all.apply(word(transport, 16));
        transport[16..18].copy_from_slice(&field.to_be_bytes());
    }
}

/// The quoted segment, whose error travels in `direction`, may have been sent lately.
fn quotes_plausibly(flow: &Flow, direction: Direction, transport: &[u8]) -> bool {
    let seq = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
    match &flow.hot.lock().track {
        Track::Tcp(track) => track.may_have_sent(direction.reverse(), seq),
        Track::Datagrams { .. } => true,
    }
}

impl Forwarder {
    /// The flow that a quoted packet belongs to, and the direction of an error about it.
    fn find_quoted(&self, quote: &Quote, now: Instant) -> Option<(Arc<Flow>, Direction)> {
        let (flow, direction) = self.table.find(&quote.key.mirror())?;
        let live = now < flow.expiry(&flow.hot.lock(), &self.config.timeouts);
        live.then_some((flow, direction))
    }

    /// Judges an ICMP error; `None` if it is about no flow of ours.
    pub(super) fn icmp_error(
        &self,
        packet: &mut Packet<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<Judged> {
        let dropped = |reason| Some(judged(Verdict::Drop(reason)));
        let quote = parse_quote(&packet.payload()[ICMP_HEADER_LEN..])?;
        // RFC 5508 REQ-4a, REQ-5a: without a flow it is not translated.
        let (flow, direction) = self.find_quoted(&quote, now)?;
        let arriving = *flow.key(direction);
        // nat.md S7: the error must go to whom the quoted packet came from.
        if packet.dst() != arriving.dst {
            return dropped(DropReason::IcmpNoFlow);
        }
        if packet.fragment.is_some() {
            return dropped(DropReason::IcmpUnsupported);
        }
        let from = self.index.load().place(packet.src());
        let speaks_for_itself = packet.src() == arriving.src;
        match from {
            // A container may complain about packets that were sent to it only.
            Place::Endpoint(..) if !speaks_for_itself => return dropped(DropReason::IcmpNoFlow),
            Place::Vacant(_) => return dropped(DropReason::UnknownSource),
            // RFC 4787 REQ-12a: any router outside may report, but only inwards.
            Place::Outside if self.index.load().place(packet.dst()) == Place::Outside => {
                return dropped(DropReason::Transit);
            }
            Place::Endpoint(..) | Place::Local | Place::Outside => {}
        }
        // RFC 5508 REQ-3: the error's own checksum. REQ-3d: it covers all, extensions included.
        if checksum::checksum(packet.payload()) != 0 {
            return dropped(DropReason::BadIcmpChecksum);
        }
        // RFC 5508 REQ-3a: the quoted header's checksum.
        let quoted_header = &packet.payload()[ICMP_HEADER_LEN..ICMP_HEADER_LEN + quote.header_len];
        if checksum::checksum(quoted_header) != 0 {
            return dropped(DropReason::BadIpChecksum);
        }
        // nat.md S7: a forger who does not see the connection does not know its sequence numbers.
        if !quotes_plausibly(
            &flow,
            direction,
            &packet.payload()[ICMP_HEADER_LEN + quote.header_len..],
        ) {
            return dropped(DropReason::IcmpNoFlow);
        }
        if packet.ttl() <= 1 {
            return dropped(DropReason::TtlExceeded);
        }
        let to = flow.translated(direction);
        let payload = packet.payload_mut();
        rewrite_quote(
            &mut payload[ICMP_HEADER_LEN..],
            quote.header_len,
            &quote.key,
            &to.mirror(),
        );
        payload[2..4].fill(0);
        let field = checksum::checksum(payload);
        payload[2..4].copy_from_slice(&field.to_be_bytes());
        // RFC 5508 REQ-4c: outer destination. REQ-5c: the source of an error from inside becomes
        // the address that the peer knows. REQ-7, REQ-7a: both for hairpinned flows.
        let src = if speaks_for_itself {
            to.src
        } else {
            packet.src()
        };
        packet.readdress(src, to.dst);
        // RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10: the flow is neither refreshed nor ended.
        let mtu = flow.hot.lock().mtu[direction.index()];
        Some(self.send_sized(packet, mtu, out))
    }
}
