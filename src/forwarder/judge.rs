//! What happens to a packet, from arrival to verdict. The way of a packet is drawn in the
//! forwarder's description; this module is that picture as code.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::across;
use super::cut;
use super::decide::{Decision, Inbound, decide, to_mapping};
use super::flow::{Flow, Masquerade, Owner, Rule};
use super::fragment::{Admission, FragmentDecision, FragmentKey};
use super::generate::{self, IcmpError};
use super::index::{Index, Place};
use super::key::{Direction, FlowKey};
use super::napt::{Plan, Slow};
use super::packet::{FragmentRange, IPV6_FRAGMENT, Packet, Transport, Version};
use super::report::Counters;
use super::tcp::Segment;
use super::vnet::Gso;
use super::{DropReason, Forwarder, Instant, Outbox, VNET_HDR_LEN, Verdict};

/// Times that a packet is looked at again because the flow or the policy changed meanwhile.
const ATTEMPTS: usize = 8;

/// Largest packet of the host's own stack.
const LOCAL_MTU: u32 = 65_535;

/// A verdict, and what it means for later fragments of the same datagram.
pub(super) type Judged = (Verdict, FragmentDecision);

/// A verdict that later fragments share.
pub(super) const fn judged(verdict: Verdict) -> Judged {
    let follow = match verdict {
        Verdict::Drop(reason) => FragmentDecision::Drop(reason),
        Verdict::Forward | Verdict::ToHost | Verdict::Consumed => FragmentDecision::ToHost,
    };
    (verdict, follow)
}

/// How a packet gets through a smaller MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Whole,
    SmallerSegments,
    Fragments,
    Not,
}

impl Fit {
    /// `relaxed`: the packet comes from the host's own stack, where an MTU means nothing, so that
    /// its wish not to be fragmented is none (see `cut.rs`).
    fn of(packet: &Packet<'_>, mtu: u32, relaxed: bool) -> Self {
        if packet.wire_len() <= usize::try_from(mtu).unwrap_or(usize::MAX) {
            return Self::Whole;
        }
        if packet.dont_fragment() && !relaxed {
            return Self::Not;
        }
        match packet.vnet.gso {
            Gso::None => Self::Fragments,
            Gso::Tcp(_) => Self::SmallerSegments,
            Gso::Udp(_) => Self::Not,
        }
    }
}

impl Forwarder {
    pub(super) fn judge(&self, frame: &mut [u8], now: Instant, out: &mut Outbox) -> Verdict {
        let mut packet = match Packet::parse(frame) {
            Ok(packet) => packet,
            Err(reason) => return Verdict::Drop(reason),
        };
        match packet.fragment {
            None => self.judge_packet(&mut packet, now, out).0,
            Some(range) => self.judge_fragment(&mut packet, range, now, out),
        }
    }

    /// Judges a whole packet or a first fragment.
    fn judge_packet(&self, packet: &mut Packet<'_>, now: Instant, out: &mut Outbox) -> Judged {
        let key = packet.key();
        if let Some(key) = &key {
            for _ in 0..ATTEMPTS {
                let Some((flow, direction)) = self.table.find(key) else {
                    break;
                };
                if let Some(judged) = self.pass(packet, &flow, direction, now, out) {
                    return judged;
                }
            }
        } else if packet.transport == Transport::IcmpError
            && let Some(judged) = self.icmp_error(packet, now, out)
        {
            return judged;
        }
        self.judge_unknown(packet, key.as_ref(), now, out)
    }

    /// A packet of a flow. `None` if the flow has ended.
    fn pass(
        &self,
        packet: &mut Packet<'_>,
        flow: &Arc<Flow>,
        direction: Direction,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<Judged> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let segment = packet.segment();
        let mut hot = flow.hot.lock();
        if hot.epoch != epoch {
            drop(hot);
            if !self.refresh(flow, epoch) {
                self.close(flow);
                let restarts = segment.is_none_or(|segment| segment.is_initial());
                return if restarts {
                    None
                } else {
                    Some(judged(Verdict::Drop(DropReason::EgressChanged)))
                };
            }
            hot = flow.hot.lock();
        }
        if now >= flow.expiry(&hot, &self.config.timeouts) {
            drop(hot);
            self.close(flow);
            return None;
        }
        if hot.blocked && direction == Direction::Original {
            return Some(judged(Verdict::Drop(DropReason::Filtered)));
        }
        let mtu = hot.mtu[direction.index()];
        let refusal = if packet.ttl() <= 1 {
            Some((DropReason::TtlExceeded, IcmpError::TimeExceeded))
        } else if mtu == 0 {
            Some((DropReason::NoRoute, IcmpError::NetworkUnreachable))
        } else {
            None
        };
        let relaxed = matches!(flow.owner, Owner::Host(_)) && direction == Direction::Original;
        let (fit, limit, told) = if flow.is_across() {
            let (fit, limit) = across::fit(packet, flow, mtu, relaxed);
            (fit, limit, across::told(packet, hot.mtu))
        } else {
            (Fit::of(packet, mtu, relaxed), mtu, mtu)
        };
        let refusal = refusal.or_else(|| (fit == Fit::Not).then(|| too_big_for(told)));
        if let Some((reason, error)) = refusal {
            drop(hot);
            self.tell(packet, error, &mut self.slow.lock(), now, out);
            return Some(judged(Verdict::Drop(reason)));
        }
        hot.blocked = false;
        let timeouts = &self.config.timeouts;
        let before = (flow.timeout(&hot, timeouts), hot.is_finished());
        hot.note(
            direction,
            segment.as_ref(),
            packet.segments(),
            packet.len(),
            now,
        );
        let shortened = flow.timeout(&hot, timeouts) < before.0 || (hot.is_finished() && !before.1);
        let mss = hot.mss;
        drop(hot);
        if shortened {
            self.slow.lock().flow_shortened(&self.around(), flow, now);
        }

        let to = flow.translated(direction);
        if let (Some(mss), Some(segment)) = (mss, segment)
            && segment.has(Segment::SYN)
        {
            packet.clamp_mss(mss);
        }
        if flow.is_across() {
            return Some(self.pass_across(packet, &to, (fit, limit), out));
        }
        if fit == Fit::SmallerSegments
            && !packet.lower_gso_size(usize::try_from(mtu).unwrap_or(usize::MAX))
        {
            return Some(judged(Verdict::Drop(DropReason::FragmentationNeeded)));
        }
        let to_be_cut = fit == Fit::Fragments;
        let ident = self.new_ident(packet, flow.shares_source(direction), to_be_cut, to.dst);
        packet.rewrite(&to);
        if let Some(ident) = ident {
            packet.set_ident(ident);
        }
        let follow = FragmentDecision::Translate {
            src: to.src,
            dst: to.dst,
            ident,
            mtu,
            relaxed,
        };
        if to_be_cut {
            let (verdict, _) = self.send_sized(packet, mtu, relaxed, out);
            return Some((verdict, follow));
        }
        Some((Verdict::Forward, follow))
    }

    /// An identification for a packet that leaves with an address that several containers share.
    // RFC 6864 §5.3.1, RFC 7857 §6: non-atomic packets must not collide; RFC 6946: nor need atomic
    // fragments of IPv6 differ.
    fn new_ident(
        &self,
        packet: &Packet<'_>,
        shared: bool,
        to_be_cut: bool,
        dst: IpAddr,
    ) -> Option<u32> {
        let atomic = packet.dont_fragment() && packet.fragment.is_none() && !to_be_cut;
        (shared && !atomic).then(|| self.next_ident(packet, dst))
    }

    fn next_ident(&self, packet: &Packet<'_>, dst: IpAddr) -> u32 {
        let protocol = match packet.version() {
            Version::V4 => packet.protocol_number(),
            Version::V6 => IPV6_FRAGMENT,
        };
        self.idents.next(dst, protocol, packet.segments())
    }

    /// Sends a translated packet, in fragments if it must be and, `relaxed` or not, may be.
    pub(super) fn send_sized(
        &self,
        packet: &mut Packet<'_>,
        mtu: u32,
        relaxed: bool,
        out: &mut Outbox,
    ) -> Judged {
        let to = (packet.src(), packet.dst());
        let follow = FragmentDecision::Translate {
            src: to.0,
            dst: to.1,
            ident: None,
            mtu,
            relaxed,
        };
        let mtu = usize::try_from(mtu).unwrap_or(usize::MAX);
        if packet.len() <= mtu {
            return (Verdict::Forward, follow);
        }
        let done = match packet.version() {
            Version::V4 => cut::ipv4(packet, mtu, out),
            // RFC 8200 §5: who is not the source of an IPv6 packet does not cut it.
            Version::V6 => {
                let ident = self.next_ident(packet, to.1);
                relaxed && cut::ipv6(packet, mtu, ident, out).is_some()
            }
        };
        if done {
            (Verdict::Consumed, follow)
        } else {
            judged(Verdict::Drop(DropReason::FragmentationNeeded))
        }
    }

    /// Asks again where a flow's packets go. False if the flow cannot go on.
    fn refresh(&self, flow: &Arc<Flow>, epoch: u64) -> bool {
        let index = self.index.load();
        // As Linux masquerades: addresses come and go all the time, temporary ones of IPv6 and those of a
        // new prefix; a connection ends with its own, or with its way out.
        if let Rule::Egress {
            masquerade: Masquerade::Route,
            uplink,
        } = flow.grounds.rule
            && let Some(route) = self.host.route(flow.reply.src)
            && route.source != flow.reply.dst
            && (route.if_index != uplink || !index.is_local(flow.reply.dst))
        {
            return false;
        }
        let original = self.path_mtu(&index, flow.reply.src);
        let reply = self.path_mtu(&index, flow.original.src);
        let clamp = index
            .network_of(flow.grounds.endpoint.1)
            .is_some_and(|network| network.clamp_mss);
        let mut hot = flow.hot.lock();
        hot.mtu = [original, reply];
        // A segment that fits one family may be too long for the other.
        hot.mss = (clamp || flow.is_across()).then(|| {
            let original = largest_segment(original, flow.reply.src);
            original.min(largest_segment(reply, flow.original.src))
        });
        hot.epoch = epoch;
        true
    }

    /// Largest packet that may go to `address`; 0 if nothing may.
    fn path_mtu(&self, index: &Index, address: IpAddr) -> u32 {
        match index.place(address) {
            Place::Endpoint(_, network) => index.network(network).map_or(0, |network| network.mtu),
            Place::Local => LOCAL_MTU,
            Place::Vacant(_) => 0,
            Place::Outside => self.host.route(address).map_or(0, |route| route.mtu),
        }
    }

    /// A packet without a flow.
    fn judge_unknown(
        &self,
        packet: &mut Packet<'_>,
        key: Option<&FlowKey>,
        now: Instant,
        out: &mut Outbox,
    ) -> Judged {
        for _ in 0..ATTEMPTS {
            let index = self.index.load_full();
            let decision = decide(&index, &*self.host, packet, key);
            if let (
                Decision::Judged(Verdict::Drop(DropReason::IcmpUnsupported)),
                Transport::IcmpError,
            ) = (&decision, packet.transport)
            {
                return judged(Verdict::Drop(DropReason::IcmpNoFlow));
            }
            let (plan, mut slow) = match (decision, key) {
                (Decision::Judged(verdict), _) => return judged(verdict),
                (Decision::Refuse(reason, error), _) => {
                    self.tell(packet, error, &mut self.slow.lock(), now, out);
                    return judged(Verdict::Drop(reason));
                }
                (Decision::Neighbours { mtu }, _) => {
                    return self.pass_neighbours(packet, mtu, now, out);
                }
                (Decision::Open(plan), Some(_)) => (plan, self.slow.lock()),
                (Decision::AskMappings(caller), Some(key)) => {
                    let slow = self.slow.lock();
                    match to_mapping(&slow, &self.config, packet, key, caller) {
                        Inbound::Judged(verdict) => return judged(verdict),
                        Inbound::Unsolicited => return self.hold_syn(packet, key, slow, now),
                        Inbound::Open(plan) => (plan, slow),
                    }
                }
                (Decision::Open(_) | Decision::AskMappings(_), None) => {
                    return judged(Verdict::Drop(DropReason::UnsupportedProtocol));
                }
            };
            if !Arc::ptr_eq(&slow.index, &index) {
                continue;
            }
            if packet.ttl() <= 1 {
                self.tell(packet, IcmpError::TimeExceeded, &mut slow, now, out);
                return judged(Verdict::Drop(DropReason::TtlExceeded));
            }
            // Another worker may have opened the flow meanwhile.
            let (flow, direction) = match self.table.find(&plan.original) {
                Some(found) => found,
                None => match self.open(&mut slow, *plan, packet, now, out) {
                    Ok(flow) => (flow, Direction::Original),
                    Err(reason) => return judged(Verdict::Drop(reason)),
                },
            };
            drop(slow);
            if let Some(judged) = self.pass(packet, &flow, direction, now, out) {
                return judged;
            }
        }
        // Policies follow one another faster than packets.
        judged(Verdict::Drop(DropReason::EgressChanged))
    }

    fn open(
        &self,
        slow: &mut Slow,
        plan: Plan,
        packet: &Packet<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<Arc<Flow>, DropReason> {
        let from_container = matches!(plan.owner, Owner::Endpoint(_));
        match slow.open(&self.around(), plan, now) {
            Ok(flow) => {
                Counters::count(&self.counters.flows_created);
                slow.held_syns.solicited(&flow.reply);
                Ok(flow)
            }
            Err(reason) => {
                // RFC 5508 REQ-8: a container that gets no resources is told so.
                if from_container && reason != DropReason::Land {
                    self.tell(
                        packet,
                        IcmpError::AdministrativelyProhibited,
                        slow,
                        now,
                        out,
                    );
                }
                Err(reason)
            }
        }
    }

    // RFC 5382 REQ-4
    fn hold_syn(
        &self,
        packet: &Packet<'_>,
        key: &FlowKey,
        mut slow: impl std::ops::DerefMut<Target = Slow>,
        now: Instant,
    ) -> Judged {
        let due = now + self.config.timeouts.unsolicited_syn;
        let length = generate::max_quote_len(packet.version());
        let quote = &packet.octets()[..packet.len().min(length)];
        if slow.held_syns.hold(*key, quote, due) {
            judged(Verdict::Consumed)
        } else {
            judged(Verdict::Drop(DropReason::Filtered))
        }
    }

    /// Between two containers of one network, without a flow.
    fn pass_neighbours(
        &self,
        packet: &mut Packet<'_>,
        mtu: u32,
        now: Instant,
        out: &mut Outbox,
    ) -> Judged {
        let fit = Fit::of(packet, mtu, false);
        let refusal = if packet.ttl() <= 1 {
            Some((DropReason::TtlExceeded, IcmpError::TimeExceeded))
        } else {
            (fit == Fit::Not).then(|| too_big_for(mtu))
        };
        if let Some((reason, error)) = refusal {
            self.tell(packet, error, &mut self.slow.lock(), now, out);
            return judged(Verdict::Drop(reason));
        }
        packet.decrement_ttl();
        if fit == Fit::SmallerSegments {
            let lowered = packet.lower_gso_size(usize::try_from(mtu).unwrap_or(usize::MAX));
            let follow = FragmentDecision::Drop(DropReason::FragmentationNeeded);
            let verdict = if lowered {
                Verdict::Forward
            } else {
                Verdict::Drop(DropReason::FragmentationNeeded)
            };
            return (verdict, follow);
        }
        if fit == Fit::Whole {
            let (src, dst) = (packet.src(), packet.dst());
            return (
                Verdict::Forward,
                FragmentDecision::Translate {
                    src,
                    dst,
                    ident: None,
                    mtu,
                    relaxed: false,
                },
            );
        }
        self.send_sized(packet, mtu, false, out)
    }

    /// Tells the packet's sender what became of it, unless that is not done or too often.
    pub(super) fn tell(
        &self,
        packet: &Packet<'_>,
        error: IcmpError,
        slow: &mut Slow,
        now: Instant,
        out: &mut Outbox,
    ) {
        if !generate::may_answer(packet) {
            return;
        }
        let index = &slow.index;
        let source = match index.place(packet.src()) {
            Place::Endpoint(_, network) => index.gateway(network, packet.src()),
            Place::Vacant(_) | Place::Local | Place::Outside if index.is_local(packet.dst()) => {
                Some(packet.dst())
            }
            Place::Vacant(_) | Place::Local | Place::Outside => {
                self.host.route(packet.src()).map(|route| route.source)
            }
        };
        let Some(source) = source else {
            return;
        };
        let payer = index.payer(packet.src());
        if slow.limiter.allows(payer, now) {
            error.emit(packet.octets(), source, out);
        } else {
            Counters::count(&self.counters.suppressed_errors);
        }
    }

    fn judge_fragment(
        &self,
        packet: &mut Packet<'_>,
        range: FragmentRange,
        now: Instant,
        out: &mut Outbox,
    ) -> Verdict {
        let key = FragmentKey::of(packet);
        let mut slow = self.slow.lock();
        let payer = slow.index.payer(key.src);
        let admission = slow.fragments.admit(key, payer, range, packet.frame(), now);
        let overlapped = slow.fragments.take_overlapped();
        drop(slow);
        self.count_drops(DropReason::FragmentOverlap, overlapped);
        match admission {
            Admission::Drop(reason) => Verdict::Drop(reason),
            Admission::Held => Verdict::Consumed,
            Admission::Follow(decision) => self.follow(packet, decision, now, out),
            Admission::First => {
                let (verdict, decision) = self.judge_packet(packet, now, out);
                let held = self.slow.lock().fragments.decide(key, decision);
                for frame in held {
                    self.release(frame, decision, now, out);
                }
                verdict
            }
        }
    }

    /// A later fragment shares the fate of the first.
    fn follow(
        &self,
        packet: &mut Packet<'_>,
        decision: FragmentDecision,
        now: Instant,
        out: &mut Outbox,
    ) -> Verdict {
        match decision {
            FragmentDecision::ToHost => Verdict::ToHost,
            FragmentDecision::Drop(reason) => Verdict::Drop(reason),
            FragmentDecision::Translate {
                src,
                dst,
                ident,
                mtu,
                relaxed,
            } => {
                if packet.ttl() <= 1 {
                    return Verdict::Drop(DropReason::TtlExceeded);
                }
                if packet.src().is_ipv4() != src.is_ipv4() {
                    return across::follow(packet, (src, dst), ident, mtu, out);
                }
                let too_big = packet.len() > usize::try_from(mtu).unwrap_or(usize::MAX);
                if too_big && packet.dont_fragment() && !relaxed {
                    let (reason, error) = too_big_for(mtu);
                    self.tell(packet, error, &mut self.slow.lock(), now, out);
                    return Verdict::Drop(reason);
                }
                packet.readdress(src, dst);
                if let Some(ident) = ident {
                    packet.set_ident(ident);
                }
                self.send_sized(packet, mtu, relaxed, out).0
            }
        }
    }

    /// A held fragment goes on after the first.
    fn release(
        &self,
        mut frame: Vec<u8>,
        decision: FragmentDecision,
        now: Instant,
        out: &mut Outbox,
    ) {
        debug_assert!(frame.len() > VNET_HDR_LEN);
        let verdict = match Packet::parse(&mut frame) {
            Ok(mut packet) => self.follow(&mut packet, decision, now, out),
            Err(reason) => Verdict::Drop(reason),
        };
        match verdict {
            Verdict::Forward | Verdict::ToHost => out.push(frame),
            Verdict::Consumed => out.recycle(frame),
            Verdict::Drop(reason) => {
                self.counters.count_drop(reason);
                out.recycle(frame);
            }
        }
    }
}

/// Payload of the largest segment that fits, with IP and TCP headers without options.
fn largest_segment(mtu: u32, to: IpAddr) -> u16 {
    let headers = if to.is_ipv4() { 40 } else { 60 };
    u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

// RFC 4787 REQ-13: too big with DF set is answered, with the next hop's MTU (RFC 1191, RFC 8201).
const fn too_big_for(mtu: u32) -> (DropReason, IcmpError) {
    (
        DropReason::FragmentationNeeded,
        IcmpError::FragmentationNeeded { mtu },
    )
}
