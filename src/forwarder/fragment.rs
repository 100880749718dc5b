//! Fragments follow the first one of their datagram, which alone has ports.
//!
//! ```text
//!  later fragment, first one unknown ──► held (a copy) ──┐
//!  first fragment ──► judged like any packet ──► decision ├──► released in order, after the first
//!  later fragment, decision known ──────────────────────►─┘
//! ```
//!
//! Memory is bounded per source and altogether, in datagrams, fragments and octets, so that
//! fragments never hurt whole packets. Overlapping fragments end their datagram; exact duplicates
//! are dropped alone. Read RFC 791 §3.2, RFC 1858, RFC 3128, RFC 5722, RFC 6864 and RFC 8200 §4.5 first.
// RFC 4787 REQ-14: fragments in and out of order; REQ-14a: without harm to whole packets.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;

use super::packet::{FragmentRange, IPV6_FRAGMENT, Packet, Version};
use super::{Config, DropReason, Instant};

/// Fragments of one datagram: more than 65,535 octets in pieces of 256.
const MAX_RANGES: usize = 256;

/// Which datagram a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FragmentKey {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ident: u32,
    pub(super) protocol: u8,
}

impl FragmentKey {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        Self {
            src: packet.src(),
            dst: packet.dst(),
            ident: packet.ident(),
            // RFC 8200 §4.5: fragments of a datagram may name different next headers.
            protocol: match packet.version() {
                Version::V4 => packet.protocol_number(),
                Version::V6 => IPV6_FRAGMENT,
            },
        }
    }
}

/// What became of the first fragment, and becomes of the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FragmentDecision {
    /// They get these addresses and, if several containers share the source, identification.
    Translate {
        src: IpAddr,
        dst: IpAddr,
        ident: Option<u32>,
        mtu: u32,
        /// They come from the host's own stack and may be cut in any case.
        relaxed: bool,
    },
    /// They are the host's.
    ToHost,
    Drop(DropReason),
}

/// What to do with a fragment now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is the first one: judge it, then tell [`FragmentTable::decide`].
    First,
    /// Do as was done with the first.
    Follow(FragmentDecision),
    /// It was copied and waits for the first.
    Held,
    Drop(DropReason),
}

#[derive(Debug)]
struct Datagram {
    serial: u64,
    ranges: Vec<(u32, u32)>,
    /// Length, once the last fragment was seen.
    length: Option<u32>,
    octets: u32,
    decision: Option<FragmentDecision>,
    /// First octet and frame.
    held: Vec<(u32, Vec<u8>)>,
    payer: IpAddr,
}

/// What one source has here.
#[derive(Debug, Default)]
struct Share {
    datagrams: usize,
    fragments: usize,
    octets: usize,
}

/// The datagrams that are under way in pieces.
#[derive(Debug)]
pub(super) struct FragmentTable {
    datagrams: HashMap<FragmentKey, Datagram>,
    /// Ends of datagrams in time order; entries with another serial are stale.
    order: VecDeque<(Instant, FragmentKey, u64)>,
    shares: HashMap<IpAddr, Share>,
    held_octets: usize,
    overlapped: usize,
    serial: u64,
    timeout: Duration,
    max_datagrams: usize,
    max_datagrams_per_source: usize,
    max_octets: usize,
    max_octets_per_source: usize,
    max_held_per_source: usize,
}

impl FragmentTable {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            datagrams: HashMap::new(),
            order: VecDeque::new(),
            shares: HashMap::new(),
            held_octets: 0,
            overlapped: 0,
            serial: 0,
            timeout: config.timeouts.fragment,
            max_datagrams: config.max_fragmented,
            max_datagrams_per_source: config.max_fragmented_per_source,
            max_octets: config.max_held_bytes,
            max_octets_per_source: config.max_held_bytes_per_source,
            max_held_per_source: config.max_held_per_source,
        }
    }

    /// Takes note of a fragment, at the expense of `payer`; `frame` is copied if it must wait.
    pub(super) fn admit(
        &mut self,
        key: FragmentKey,
        payer: IpAddr,
        range: FragmentRange,
        frame: &[u8],
        now: Instant,
    ) -> Admission {
        if !self.datagrams.contains_key(&key) && !self.begin(key, payer, now) {
            return Admission::Drop(DropReason::FragmentLimit);
        }
        let Some(datagram) = self.datagrams.get_mut(&key) else {
            return Admission::Drop(DropReason::FragmentLimit);
        };
        if let Some(FragmentDecision::Drop(reason)) = datagram.decision {
            return Admission::Drop(reason);
        }
        if datagram.ranges.contains(&(range.start, range.end)) {
            return Admission::Drop(DropReason::FragmentOverlap);
        }
        let overlaps = datagram
            .ranges
            .iter()
            .any(|&(start, end)| range.start < end && start < range.end);
        let beyond = datagram
            .length
            .is_some_and(|length| range.last || range.end > length)
            || (range.last && datagram.ranges.iter().any(|&(_, end)| end > range.end));
        // nat.md S6, RFC 5722: an overlap ends the whole datagram.
        if overlaps || beyond || datagram.ranges.len() >= MAX_RANGES {
            datagram.decision = Some(FragmentDecision::Drop(DropReason::FragmentOverlap));
            let held = std::mem::take(&mut datagram.held);
            let payer = datagram.payer;
            self.account_released(payer, &held);
            self.overlapped += held.len();
            return Admission::Drop(DropReason::FragmentOverlap);
        }
        let first = range.start == 0;
        if !first && datagram.decision.is_none() {
            let share = self.shares.entry(datagram.payer).or_default();
            if self.held_octets + frame.len() > self.max_octets
                || share.octets + frame.len() > self.max_octets_per_source
                || share.fragments >= self.max_held_per_source
            {
                return Admission::Drop(DropReason::FragmentLimit);
            }
            share.octets += frame.len();
            share.fragments += 1;
            self.held_octets += frame.len();
            datagram.held.push((range.start, frame.to_vec()));
        }
        datagram.ranges.push((range.start, range.end));
        datagram.octets += range.end - range.start;
        if range.last {
            datagram.length = Some(range.end);
        }
        let complete = datagram.length == Some(datagram.octets);
        match datagram.decision {
            _ if first => Admission::First,
            Some(decision) => {
                if complete {
                    self.end(key);
                }
                Admission::Follow(decision)
            }
            None => Admission::Held,
        }
    }

    /// The first fragment was judged. Returns the later ones that waited, lowest offset first.
    pub(super) fn decide(&mut self, key: FragmentKey, decision: FragmentDecision) -> Vec<Vec<u8>> {
        let Some(datagram) = self.datagrams.get_mut(&key) else {
            return Vec::new();
        };
        datagram.decision = Some(decision);
        let mut held = std::mem::take(&mut datagram.held);
        let complete = datagram.length == Some(datagram.octets);
        let payer = datagram.payer;
        self.account_released(payer, &held);
        if complete {
            self.end(key);
        }
        held.sort_by_key(|&(start, _)| start);
        held.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Number of held fragments dropped because of overlaps since the last call.
    pub(super) fn take_overlapped(&mut self) -> usize {
        std::mem::take(&mut self.overlapped)
    }

    fn begin(&mut self, key: FragmentKey, payer: IpAddr, now: Instant) -> bool {
        let share = self.shares.entry(payer).or_default();
        let fits = self.datagrams.len() < self.max_datagrams
            && share.datagrams < self.max_datagrams_per_source;
        if !fits {
            self.forget_share(payer);
            return false;
        }
        share.datagrams += 1;
        self.serial += 1;
        let datagram = Datagram {
            serial: self.serial,
            ranges: Vec::new(),
            length: None,
            octets: 0,
            decision: None,
            held: Vec::new(),
            payer,
        };
        self.datagrams.insert(key, datagram);
        self.order.push_back((now + self.timeout, key, self.serial));
        true
    }

    /// Forgets a datagram; returns how many fragments waited.
    fn end(&mut self, key: FragmentKey) -> usize {
        let Some(datagram) = self.datagrams.remove(&key) else {
            return 0;
        };
        self.account_released(datagram.payer, &datagram.held);
        if let Some(share) = self.shares.get_mut(&datagram.payer) {
            share.datagrams -= 1;
        }
        self.forget_share(datagram.payer);
        while let Some(&(_, key, serial)) = self.order.front() {
            if self
                .datagrams
                .get(&key)
                .is_some_and(|datagram| datagram.serial == serial)
            {
                break;
            }
            self.order.pop_front();
        }
        datagram.held.len()
    }

    fn account_released(&mut self, payer: IpAddr, held: &[(u32, Vec<u8>)]) {
        let octets: usize = held.iter().map(|(_, frame)| frame.len()).sum();
        self.held_octets -= octets;
        if let Some(share) = self.shares.get_mut(&payer) {
            share.octets -= octets;
            share.fragments -= held.len();
        }
    }

    fn forget_share(&mut self, payer: IpAddr) {
        if self
            .shares
            .get(&payer)
            .is_some_and(|share| share.datagrams == 0)
        {
            self.shares.remove(&payer);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.front().map(|&(due, ..)| due)
    }

    /// Forgets what is due; returns how many fragments had waited in vain.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut dropped = 0;
        while let Some(&(due, key, serial)) = self.order.front() {
            let live = self
                .datagrams
                .get(&key)
                .is_some_and(|datagram| datagram.serial == serial);
            if live && due > now {
                break;
            }
            self.order.pop_front();
            if live {
                dropped += self.end(key);
            }
        }
        dropped
    }

    /// Forgets datagrams that have to do with an address of which `moved` is true, as they arrive
    /// or as they leave; returns how many fragments had waited.
    pub(super) fn forget(&mut self, moved: impl Fn(IpAddr) -> bool) -> usize {
        let concerns = |key: &FragmentKey, datagram: &Datagram| {
            let leaves = match datagram.decision {
                Some(FragmentDecision::Translate { src, dst, .. }) => moved(src) || moved(dst),
                Some(FragmentDecision::ToHost | FragmentDecision::Drop(_)) | None => false,
            };
            leaves || moved(key.src) || moved(key.dst)
        };
        let gone: Vec<FragmentKey> = self
            .datagrams
            .iter()
            .filter(|(key, datagram)| concerns(key, datagram))
            .map(|(key, _)| *key)
            .collect();
        gone.into_iter().map(|key| self.end(key)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO_HOST: FragmentDecision = FragmentDecision::ToHost;

    fn table() -> FragmentTable {
        FragmentTable::new(&Config::default())
    }

    fn admit(
        table: &mut FragmentTable,
        key: FragmentKey,
        range: FragmentRange,
        frame: &[u8],
    ) -> Admission {
        table.admit(key, key.src, range, frame, Instant::ZERO)
    }

    fn key(n: u32) -> FragmentKey {
        FragmentKey {
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            ident: n,
            protocol: 17,
        }
    }

    #[test]
    fn only_datagrams_of_moved_addresses_are_forgotten() {
        let mut table = table();
        let other = FragmentKey {
            dst: IpAddr::from([10, 0, 0, 3]),
            ..key(2)
        };
        for key in [key(1), other] {
            assert_eq!(
                admit(&mut table, key, range(8, 16, false), &[0; 40]),
                Admission::Held
            );
        }
        assert_eq!(table.forget(|address| address == other.dst), 1);
        assert_eq!(table.decide(other, TO_HOST).len(), 0);
        admit(&mut table, key(1), range(0, 8, false), &[0; 40]);
        assert_eq!(table.decide(key(1), TO_HOST).len(), 1);
    }

    fn range(start: u32, end: u32, last: bool) -> FragmentRange {
        FragmentRange { start, end, last }
    }

    /// A frame that is told from others.
    fn frame(start: u32) -> Vec<u8> {
        vec![u8::try_from(start).unwrap(); 100]
    }

    #[test]
    fn in_order_and_forgotten_when_complete() {
        // RFC 4787 REQ-14
        let mut table = table();
        assert_eq!(
            admit(&mut table, key(1), range(0, 80, false), &frame(0)),
            Admission::First
        );
        assert!(table.decide(key(1), TO_HOST).is_empty());
        assert_eq!(
            admit(&mut table, key(1), range(80, 160, false), &frame(80)),
            Admission::Follow(TO_HOST)
        );
        assert_eq!(
            admit(&mut table, key(1), range(160, 170, true), &frame(160)),
            Admission::Follow(TO_HOST)
        );
        assert!(table.datagrams.is_empty() && table.order.is_empty() && table.shares.is_empty());
    }

    #[test]
    fn out_of_order_ones_come_back_sorted() {
        // RFC 4787 REQ-14
        let mut table = table();
        for (start, end, last) in [(160, 170, true), (80, 160, false)] {
            let admission = admit(&mut table, key(1), range(start, end, last), &frame(start));
            assert_eq!(admission, Admission::Held);
        }
        assert_eq!(table.held_octets, 200);
        assert_eq!(
            admit(&mut table, key(1), range(0, 80, false), &frame(0)),
            Admission::First
        );
        assert_eq!(table.decide(key(1), TO_HOST), [frame(80), frame(160)]);
        assert_eq!((table.held_octets, table.datagrams.len()), (0, 0));
    }

    #[test]
    fn overlaps_end_the_datagram_and_duplicates_do_not() {
        let mut table = table();
        let overlap = Admission::Drop(DropReason::FragmentOverlap);
        admit(&mut table, key(1), range(80, 160, false), &frame(80));
        assert_eq!(
            admit(&mut table, key(1), range(80, 160, false), &frame(80)),
            overlap
        );
        assert_eq!(
            admit(&mut table, key(1), range(0, 80, false), &frame(0)),
            Admission::First
        );
        assert_eq!(table.decide(key(1), TO_HOST).len(), 1);
        assert_eq!(
            admit(&mut table, key(1), range(72, 200, false), &frame(72)),
            overlap
        );
        assert_eq!(
            admit(&mut table, key(1), range(200, 210, true), &frame(200)),
            overlap
        );
        // Beyond the end.
        assert_eq!(table.take_overlapped(), 0, "nothing waited");
        admit(&mut table, key(2), range(80, 160, true), &frame(80));
        assert_eq!(
            admit(&mut table, key(2), range(160, 200, false), &frame(160)),
            overlap
        );
        assert_eq!(table.take_overlapped(), 1);
        assert_eq!(table.held_octets, 0);
    }

    #[test]
    fn one_source_cannot_take_all() {
        // RFC 4787 REQ-14a
        let mut table = table();
        let limit = Admission::Drop(DropReason::FragmentLimit);
        let mut refused = 0;
        for n in 0..10_000 {
            if admit(&mut table, key(n), range(80, 160, false), &frame(80)) == limit {
                refused += 1;
            }
        }
        assert_eq!(10_000 - refused, 256);
        let other = FragmentKey {
            src: IpAddr::from([10, 0, 0, 9]),
            ..key(1)
        };
        assert_eq!(
            admit(&mut table, other, range(80, 160, false), &frame(80)),
            Admission::Held
        );
        assert_eq!(table.expire(Instant::ZERO + Duration::from_secs(14)), 0);
        assert_eq!(table.expire(Instant::ZERO + Duration::from_secs(15)), 257);
        assert!(table.datagrams.is_empty() && table.shares.is_empty() && table.held_octets == 0);
    }
}
