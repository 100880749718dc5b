//! ICMP errors about packets of a flow: translated outside and inside.
//!
//! An error goes the opposite way of the packet that it quotes. That packet was seen at this point
//! as the *mirror* of a key of its flow; so the mirror of the quoted tuple finds the flow and the
//! direction in which the error travels. Errors neither refresh nor end anything. Read RFC 5508
//! first, and RFC 4443 for IPv6, whose checksum covers the addresses too.
// RFC 5508 REQ-10, RFC 4787 REQ-12b, RFC 5382 REQ-9: destination unreachable, time exceeded and
// parameter problem pass both ways. RFC 5508 REQ-11: other types are dropped or left to the host.
//!
//! ```text
//!  outer:  router ─► H          quoted:  H:ext ─► D:q     (mirror: D:q ─► H:ext, a reply key)
//!  becomes router ─► X                   X:p   ─► D:q
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::checksum::{self, Delta};
use super::flow::{Flow, Track};
use super::index::Place;
use super::judge::{Judged, judged};
use super::key::{Direction, FlowKey};
use super::packet::{
    ICMP, ICMPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Packet, TCP, Transport, UDP, Version, icmp,
    place, set_query_ident, walk, word,
};
use super::{DropReason, Forwarder, Instant, Outbox, Protocol, Verdict};

const ICMP_HEADER_LEN: usize = 8;

/// A quoted packet: its tuple and where its transport header starts.
#[derive(Clone, Copy, Debug)]
struct Quote {
    key: FlowKey,
    header_len: usize,
}

/// Protocol of a quoted packet's transport header, and where that starts; none in later fragments.
// RFC 5508 REQ-3b: IP options in it are skipped, and so are extension headers.
fn quoted_transport(quote: &[u8], version: Version) -> Option<(u8, usize)> {
    match version {
        Version::V4 => {
            let header_len = usize::from(quote.first()? & 0xf) * 4;
            let whole = quote[0] >> 4 == 4 && header_len >= IPV4_HEADER_LEN;
            let first = whole && quote.len() >= header_len && word(quote, 6) & 0x1fff == 0;
            first.then(|| (quote[9], header_len))
        }
        Version::V6 => {
            if quote.len() < IPV6_HEADER_LEN || quote[0] >> 4 != 6 {
                return None;
            }
            let chain = walk(quote).ok()?;
            let later = |at: usize| place(&quote[at..]).0 != 0;
            (!chain.fragment.is_some_and(later)).then_some((chain.protocol, chain.end))
        }
    }
}

fn quoted_addresses(quote: &[u8], version: Version) -> (IpAddr, IpAddr) {
    match version {
        Version::V4 => {
            let ip = Ipv4Packet::new_unchecked(quote);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
        Version::V6 => {
            let ip = Ipv6Packet::new_unchecked(quote);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
    }
}

/// Reads the start of a packet in an ICMP error.
// RFC 5508 REQ-3c: its transport checksum is not looked at.
fn parse_quote(quote: &[u8], version: Version) -> Option<Quote> {
    let (number, header_len) = quoted_transport(quote, version)?;
    // RFC 792: 8 octets after the header are enough.
    let transport = quote.get(header_len..).filter(|rest| rest.len() >= 8)?;
    let (protocol, src_port, dst_port) = match (number, version) {
        (TCP, _) => (Protocol::Tcp, word(transport, 0), word(transport, 2)),
        (UDP, _) => (Protocol::Udp, word(transport, 0), word(transport, 2)),
        (ICMP, Version::V4) | (ICMPV6, Version::V6) => {
            let ident = word(transport, 4);
            match icmp(version, transport[0]) {
                Transport::IcmpQuery(kind) => (Protocol::Icmp, ident, u16::from(kind)),
                Transport::IcmpAnswer(kind) => (Protocol::Icmp, u16::from(kind), ident),
                Transport::Tcp
                | Transport::Udp
                | Transport::IcmpError
                | Transport::IcmpOther
                | Transport::LaterFragment
                | Transport::Other => return None,
            }
        }
        _ => return None,
    };
    let (src, dst) = quoted_addresses(quote, version);
    Some(Quote {
        key: FlowKey {
            protocol,
            src,
            dst,
            src_port,
            dst_port,
        },
        header_len,
    })
}

/// Makes the quoted packet that of `to`, as far as it is there.
// RFC 5508 REQ-4b, REQ-5b
fn rewrite_quote(quote: &mut [u8], header_len: usize, from: &FlowKey, to: &FlowKey) {
    let addresses = Delta::default()
        .address(from.src, to.src)
        .address(from.dst, to.dst);
    let version = match (to.src, to.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4Packet::new_unchecked(&mut *quote);
            let field = addresses.apply(ip.checksum());
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.set_checksum(field);
            Version::V4
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = Ipv6Packet::new_unchecked(&mut *quote);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            Version::V6
        }
        _ => return,
    };
    let transport = &mut quote[header_len..];
    if to.protocol == Protocol::Icmp {
        let asks = matches!(icmp(version, transport[0]), Transport::IcmpQuery(_));
        let ident = if asks { to.src_port } else { to.dst_port };
        set_query_ident(version, transport, ident, addresses);
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
        let version = packet.version();
        let quote = parse_quote(&packet.payload()[ICMP_HEADER_LEN..], version)?;
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
        if packet.icmp_checksum() != 0 {
            return dropped(DropReason::BadIcmpChecksum);
        }
        // RFC 5508 REQ-3a: the quoted header's checksum, which IPv6 has not.
        let quoted_header = &packet.payload()[ICMP_HEADER_LEN..ICMP_HEADER_LEN + quote.header_len];
        if version == Version::V4 && checksum::checksum(quoted_header) != 0 {
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
        if flow.is_across() {
            return Some(self.error_across(packet, &flow, direction, out));
        }
        let to = flow.translated(direction);
        rewrite_quote(
            &mut packet.payload_mut()[ICMP_HEADER_LEN..],
            quote.header_len,
            &quote.key,
            &to.mirror(),
        );
        // RFC 5508 REQ-4c: outer destination. REQ-5c: the source of an error from inside becomes
        // the address that the peer knows. REQ-7, REQ-7a: both for hairpinned flows.
        let src = if speaks_for_itself {
            to.src
        } else {
            packet.src()
        };
        packet.readdress(src, to.dst);
        packet.fill_icmp_checksum();
        // RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10: the flow is neither refreshed nor ended.
        let mtu = flow.hot.lock().mtu[direction.index()];
        Some(self.send_sized(packet, mtu, false, out))
    }
}
