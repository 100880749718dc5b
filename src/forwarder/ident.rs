//! IP identifications for packets whose source address several containers share.
//!
//! One counter per group of destinations, each starting at a secret number: packets to one
//! destination do not repeat an identification before all others were used, and one destination
//! learns nothing about the traffic to others.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::quality::FixedState;

use super::random::Random;

const COUNTERS: usize = 1024;

/// The counters.
#[derive(Debug)]
pub(super) struct Idents {
    counters: Box<[AtomicU32]>,
    hasher: FixedState,
}

impl Idents {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            counters: (0..COUNTERS)
                .map(|_| AtomicU32::new(random.double_word()))
                .collect(),
            hasher: FixedState::with_seed(random.next()),
        }
    }

    /// The first of `count` successive identifications for packets to `dst`. IPv4 takes the lower
    /// half of it, and has one sequence per protocol.
    pub(super) fn next(&self, dst: IpAddr, protocol: u8, count: u16) -> u32 {
        let hash = self.hasher.hash_one((dst, protocol));
        let index = usize::try_from(hash >> 32).unwrap_or(0) % COUNTERS;
        self.counters[index].fetch_add(u32::from(count), Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_repetition_towards_a_destination() {
        // RFC 6864 §5.3.1, RFC 7857 §6
        let idents = Idents::new(&mut Random::new(&[4; 32], 0));
        let to = IpAddr::from([192, 0, 2, 1]);
        let seen: std::collections::BTreeSet<_> = (0..65_536)
            .map(|_| idents.next(to, 17, 1) & 0xffff)
            .collect();
        assert_eq!(seen.len(), 65_536);
    }
}
