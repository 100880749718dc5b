//! Packets of flows of two families: an IPv6 client calls a published port, and the container behind
//! it is reached over IPv4. `translate.rs` says what such a packet becomes; here is how large it may
//! be, and what becomes of it then.
//!
//! A packet changes its length on the way, so it is not rewritten in place: it goes on in a buffer of
//! the [`Outbox`], and the verdict on the frame that came is [`Verdict::Consumed`].
//!
//! | from ╲ too large | for the next hop | what its sender is told |
//! |---|---|---|
//! | IPv6, more than 1280 octets | Packet Too Big | the IPv4 hop's MTU and 20, 1280 at least |
//! | IPv6, fewer, or a fragment | goes on in IPv4 fragments | |
//! | IPv4 with DF | Fragmentation Needed | the IPv6 hop's MTU less 20 |
//! | IPv4 without | goes on in IPv6 fragments, of 1280 octets towards the outside | |
//!
//! The last line is about what nobody could be told later: an error from further on would reach a
//! container that has not asked for it. Read RFC 7915 §4, §5 and RFC 6146 §3 first.

use std::net::IpAddr;

use super::cut;
use super::flow::{Flow, Owner};
use super::fragment::FragmentDecision;
use super::judge::{Fit, Judged, judged};
use super::key::{Direction, FlowKey};
use super::packet::{
    FRAGMENT_HEADER_LEN, ICMP, IPV4_HEADER_LEN, IPV6_FRAGMENT, IPV6_HEADER_LEN, Packet, Version,
};
use super::translate::{self, MIN_IPV6_MTU, Mtus};
use super::vnet::Gso;
use super::{DropReason, Forwarder, Outbox, Protocol, VNET_HDR_LEN, Verdict};

/// Octets before the transport header in the other family.
const fn header_len_across(packet: &Packet<'_>) -> usize {
    match (packet.version(), packet.fragment) {
        (Version::V6, _) => IPV4_HEADER_LEN,
        (Version::V4, None) => IPV6_HEADER_LEN,
        (Version::V4, Some(_)) => IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN,
    }
}

/// Length of the largest packet that this frame becomes on the other family's wire.
fn wire_len_across(packet: &Packet<'_>) -> usize {
    packet.wire_len() - packet.header_len() + header_len_across(packet)
}

fn octets(mtu: u32) -> usize {
    usize::try_from(mtu).unwrap_or(usize::MAX)
}

/// How the packet gets through, and the length that what it becomes may have. `relaxed`: it comes
/// from the host's own stack, which believes in no MTU (see `cut.rs`).
pub(super) fn fit(packet: &Packet<'_>, flow: &Flow, mtu: u32, relaxed: bool) -> (Fit, u32) {
    let wire = wire_len_across(packet);
    let may_be_cut = match packet.version() {
        Version::V4 => !packet.dont_fragment(),
        // RFC 7915 §5.1, §5.1.1: these are without DF.
        Version::V6 => {
            relaxed || packet.fragment_header().is_some() || translate::is_without_df(wire)
        }
    };
    // RFC 7915 §4.1
    let to_the_unknown = packet.version() == Version::V4 && matches!(flow.owner, Owner::Inbound(_));
    let limit = if to_the_unknown && may_be_cut {
        mtu.min(MIN_IPV6_MTU)
    } else {
        mtu
    };
    let fit = match packet.vnet.gso {
        _ if wire <= octets(limit) => Fit::Whole,
        _ if !may_be_cut => Fit::Not,
        Gso::None => Fit::Fragments,
        Gso::Tcp(_) => Fit::SmallerSegments,
        Gso::Udp(_) if wire <= octets(mtu) => Fit::Whole,
        Gso::Udp(_) => Fit::Not,
    };
    (fit, limit)
}

/// The MTU to tell the sender of a packet of `direction` that is too large.
pub(super) fn told(packet: &Packet<'_>, mtu: [u32; 2]) -> u32 {
    let mtus = mtus(mtu);
    match packet.version() {
        Version::V4 => mtus.told_to_v4(mtus.v6),
        Version::V6 => mtus.told_to_v6(mtus.v4),
    }
}

/// By direction: the flow leads from IPv6 to IPv4, never the other way.
const fn mtus([v4, v6]: [u32; 2]) -> Mtus {
    Mtus { v4, v6 }
}

impl Forwarder {
    /// Sends a packet of a flow as one of `to`, in the other family.
    pub(super) fn pass_across(
        &self,
        packet: &mut Packet<'_>,
        to: &FlowKey,
        (fit, limit): (Fit, u32),
        out: &mut Outbox,
    ) -> Judged {
        if fit == Fit::SmallerSegments {
            let room =
                (octets(limit) + packet.header_len()).saturating_sub(header_len_across(packet));
            if !packet.lower_gso_size(room) {
                return judged(Verdict::Drop(DropReason::FragmentationNeeded));
            }
        }
        // RFC 7915 §5.1: only packets with DF go without an identification; it is chosen here, since
        // the source address is shared (RFC 6864 §5.3.1).
        let is_atomic = match packet.version() {
            Version::V4 => packet.fragment.is_none(),
            Version::V6 => {
                packet.fragment_header().is_none()
                    && !translate::is_without_df(wire_len_across(packet))
            }
        };
        let ident = (!is_atomic || fit == Fit::Fragments).then(|| {
            let protocol = match packet.version() {
                Version::V4 => IPV6_FRAGMENT,
                Version::V6 => packet.protocol_number(),
            };
            self.idents.next(to.dst, protocol, packet.segments())
        });
        let follow = FragmentDecision::Translate {
            src: to.src,
            dst: to.dst,
            ident,
            mtu: limit,
            relaxed: false,
        };
        match send(packet, to, ident, limit, out) {
            Verdict::Drop(reason) => judged(Verdict::Drop(reason)),
            verdict @ (Verdict::Forward | Verdict::ToHost | Verdict::Consumed) => (verdict, follow),
        }
    }

    /// Judges an ICMP error about a packet of the flow, found right: it goes on in the other family.
    pub(super) fn error_across(
        &self,
        packet: &Packet<'_>,
        flow: &Flow,
        direction: Direction,
        out: &mut Outbox,
    ) -> Judged {
        // RFC 6146 §3.6.1: whoever sent it, the other side knows one address for all that is there.
        let to = flow.translated(direction);
        let mtus = mtus(flow.hot.lock().mtu);
        let ident = self.idents.next(to.dst, ICMP, 1);
        let mut frame = out.buffer();
        frame.resize(VNET_HDR_LEN, 0);
        match translate::error(packet.octets(), &to, Some(ident), mtus, &mut frame) {
            // No longer than any link takes.
            Ok(()) => {
                out.push(frame);
                judged(Verdict::Consumed)
            }
            Err(reason) => {
                out.recycle(frame);
                judged(Verdict::Drop(reason))
            }
        }
    }
}

/// A later fragment shares the fate of the first.
pub(super) fn follow(
    packet: &Packet<'_>,
    (src, dst): (IpAddr, IpAddr),
    ident: Option<u32>,
    mtu: u32,
    out: &mut Outbox,
) -> Verdict {
    // It has no ports to be given.
    let to = FlowKey {
        protocol: Protocol::Udp,
        src,
        dst,
        src_port: 0,
        dst_port: 0,
    };
    send(packet, &to, ident, mtu, out)
}

/// Puts the translated packet into the outbox, in fragments if it is longer than `limit`.
fn send(
    packet: &Packet<'_>,
    to: &FlowKey,
    ident: Option<u32>,
    limit: u32,
    out: &mut Outbox,
) -> Verdict {
    let mut frame = out.buffer();
    if let Err(reason) = translate::packet(packet.frame(), packet.vnet, to, ident, &mut frame) {
        out.recycle(frame);
        return Verdict::Drop(reason);
    }
    if packet.vnet.gso != Gso::None || frame.len() - VNET_HDR_LEN <= octets(limit) {
        out.push(frame);
        return Verdict::Consumed;
    }
    let verdict = match Packet::parse(&mut frame) {
        Ok(mut packet) => cut_up(&mut packet, ident, octets(limit), out),
        Err(reason) => Verdict::Drop(reason),
    };
    out.recycle(frame);
    verdict
}

fn cut_up(packet: &mut Packet<'_>, ident: Option<u32>, limit: usize, out: &mut Outbox) -> Verdict {
    let done = match packet.version() {
        Version::V4 => cut::ipv4(packet, limit, out),
        Version::V6 => cut::ipv6(packet, limit, ident.unwrap_or(0), out).is_some(),
    };
    if done {
        Verdict::Consumed
    } else {
        Verdict::Drop(DropReason::FragmentationNeeded)
    }
}
