//! The external ports of one (protocol, external address): which are free, who has the others.
//!
//! A free port is drawn at random from a list with a secret generator, in constant time whatever
//! the load (RFC 6056 §3.3.1 without its retries): first from the range that is ours alone, then
//! from the one shared with the host. What the host uses or what is published is not in the lists.
// RFC 7857 §9 (port randomization), RFC 6888 REQ-15: hard to guess, and not related between
// containers.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use hashbrown::HashMap;

use super::random::Random;

/// Who has a port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PortUse {
    /// The inner endpoint whose mapping it is.
    pub(super) exclusive: Option<(IpAddr, u16)>,
    /// Number of flows of others that use it too, towards other destinations.
    pub(super) overlaps: u32,
}

/// The ports.
#[derive(Debug)]
pub(super) struct PortSpace {
    /// Free ports of the exclusive and of the shared range.
    free: [Vec<u16>; 2],
    ranges: [RangeInclusive<u16>; 2],
    used: HashMap<u16, PortUse>,
    /// Number of ports that are free or used, and not anybody else's.
    eligible: usize,
}

impl PortSpace {
    /// All ports of the ranges that `is_eligible`.
    pub(super) fn new(
        exclusive: RangeInclusive<u16>,
        shared: RangeInclusive<u16>,
        is_eligible: impl Fn(u16) -> bool,
    ) -> Self {
        let mut space = Self {
            free: [Vec::new(), Vec::new()],
            ranges: [exclusive, shared],
            used: HashMap::new(),
            eligible: 0,
        };
        space.reset(is_eligible);
        space
    }

    /// Draws up the lists anew after eligibility changed; ports in use stay so.
    pub(super) fn reset(&mut self, is_eligible: impl Fn(u16) -> bool) {
        let Self {
            free,
            ranges,
            used,
            eligible,
        } = self;
        *eligible = 0;
        for (free, range) in free.iter_mut().zip(ranges.iter()) {
            free.clear();
            let ports = range.clone().filter(|&port| is_eligible(port));
            free.extend(
                ports
                    .inspect(|_| *eligible += 1)
                    .filter(|port| !used.contains_key(port)),
            );
        }
    }

    /// Number of ports that mappings can have altogether.
    pub(super) const fn capacity(&self) -> usize {
        self.eligible
    }

    /// Nobody has any.
    pub(super) fn is_unused(&self) -> bool {
        self.used.is_empty()
    }

    pub(super) fn usage(&self, port: u16) -> Option<PortUse> {
        self.used.get(&port).copied()
    }

    /// Takes a free port for the mapping of `internal`.
    pub(super) fn take(&mut self, internal: (IpAddr, u16), random: &mut Random) -> Option<u16> {
        let port = self.draw(random)?;
        self.used.insert(
            port,
            PortUse {
                exclusive: Some(internal),
                overlaps: 0,
            },
        );
        Some(port)
    }

    /// Takes a free port for one flow alone.
    pub(super) fn take_for_flow(&mut self, random: &mut Random) -> Option<u16> {
        let port = self.draw(random)?;
        self.used.insert(
            port,
            PortUse {
                exclusive: None,
                overlaps: 1,
            },
        );
        Some(port)
    }

    fn draw(&mut self, random: &mut Random) -> Option<u16> {
        let free = self.free.iter_mut().find(|free| !free.is_empty())?;
        Some(free.swap_remove(random.below(free.len())))
    }

    /// A used port at which to start looking for one to overlap, and all others after it.
    pub(super) fn candidates(&self, random: &mut Random) -> impl Iterator<Item = u16> + '_ {
        let lengths = self.ranges.clone().map(|range| range.len());
        let total = lengths[0] + lengths[1];
        let start = random.below(total);
        // An odd step visits ports in an order that the last one does not tell.
        let step = 1 + 2 * random.below(total.max(2) / 2);
        let step = if gcd(step, total.max(1)) == 1 {
            step
        } else {
            1
        };
        (0..total).filter_map(move |n| {
            let at = (start + n * step) % total;
            let (range, at) = if at < lengths[0] {
                (&self.ranges[0], at)
            } else {
                (&self.ranges[1], at - lengths[0])
            };
            let port = range.start().checked_add(u16::try_from(at).ok()?)?;
            self.used.contains_key(&port).then_some(port)
        })
    }

    pub(super) fn overlap(&mut self, port: u16) {
        self.used.entry(port).or_default().overlaps += 1;
    }

    /// A flow that overlapped ends. True if nobody has the port any more.
    pub(super) fn release_overlap(&mut self, port: u16, is_eligible: bool) -> bool {
        if let Some(usage) = self.used.get_mut(&port) {
            usage.overlaps = usage.overlaps.saturating_sub(1);
        }
        self.free_if_unused(port, is_eligible)
    }

    /// A mapping ends. True if nobody has the port any more.
    pub(super) fn release(&mut self, port: u16, is_eligible: bool) -> bool {
        if let Some(usage) = self.used.get_mut(&port) {
            usage.exclusive = None;
        }
        self.free_if_unused(port, is_eligible)
    }

    fn free_if_unused(&mut self, port: u16, is_eligible: bool) -> bool {
        let unused = self
            .used
            .get(&port)
            .is_some_and(|usage| usage.exclusive.is_none() && usage.overlaps == 0);
        if unused {
            self.used.remove(&port);
            if is_eligible {
                for (free, range) in self.free.iter_mut().zip(&self.ranges) {
                    if range.contains(&port) {
                        free.push(port);
                        break;
                    }
                }
            }
        }
        unused
    }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 2)), 1);

    fn space() -> PortSpace {
        PortSpace::new(61_000..=61_009, 5_000..=5_019, |port| port != 5_007)
    }

    #[test]
    fn exclusive_range_first_and_all_ports_once() {
        let mut random = Random::new(&[3; 32], 0);
        let mut space = space();
        assert_eq!(space.capacity(), 29);
        let ports: Vec<_> = std::iter::from_fn(|| space.take(INNER, &mut random)).collect();
        assert!(
            ports[..10]
                .iter()
                .all(|port| (61_000..=61_009).contains(port))
        );
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 29);
        assert!(!sorted.contains(&5_007));
        assert_ne!(&ports[..10], &sorted[19..], "the order is random");
    }

    #[test]
    fn a_port_is_free_when_its_last_user_goes() {
        let mut random = Random::new(&[3; 32], 0);
        let mut space = PortSpace::new(61_000..=61_000, RangeInclusive::new(1, 0), |_| true);
        let port = space.take(INNER, &mut random).unwrap();
        space.overlap(port);
        assert!(!space.release(port, true));
        assert_eq!(space.take(INNER, &mut random), None);
        assert!(space.release_overlap(port, true));
        assert_eq!(space.take(INNER, &mut random), Some(port));
    }

    #[test]
    fn candidates_visit_every_used_port_once() {
        let mut random = Random::new(&[3; 32], 0);
        let mut space = space();
        while space.take(INNER, &mut random).is_some() {}
        for _ in 0..20 {
            let mut seen: Vec<_> = space.candidates(&mut random).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 29);
        }
    }

    #[test]
    fn choice_is_uniform() {
        // RFC 6056, RFC 7857 §9: chi-square of 10,000 draws over 100 ports, one at a time.
        let mut random = Random::new(&[9; 32], 0);
        let mut space = PortSpace::new(61_000..=61_099, RangeInclusive::new(1, 0), |_| true);
        let mut counts = [0f64; 100];
        for _ in 0..10_000 {
            let port = space.take(INNER, &mut random).unwrap();
            counts[usize::from(port - 61_000)] += 1.0;
            space.release(port, true);
        }
        let chi: f64 = counts
            .iter()
            .map(|count| (count - 100.0).powi(2) / 100.0)
            .sum();
        assert!(chi < 150.0, "{chi}");
    }
}
