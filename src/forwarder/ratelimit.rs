//! A limit on generated ICMP errors, per destination.
//!
//! Each destination has its own token bucket, and how large it is changes at random: a global or
//! predictable limit would tell an attacker which of many spoofed probes were answered
//! (CVE-2020-25705).

use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashMap;

use super::Instant;
use super::random::Random;

/// Destinations remembered; if there are more, the longest silent ones are forgotten.
const BUCKETS: usize = 4096;

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Limiter {
    per_second: u32,
    random: Random,
    buckets: HashMap<IpAddr, Bucket>,
}

impl Limiter {
    pub(super) fn new(per_second: u32, random: Random) -> Self {
        Self {
            per_second: per_second.max(1),
            random,
            buckets: HashMap::new(),
        }
    }

    /// One more error may go to `destination`.
    pub(super) fn allows(&mut self, destination: IpAddr, now: Instant) -> bool {
        let burst = self.burst();
        if self.buckets.len() >= BUCKETS && !self.buckets.contains_key(&destination) {
            self.forget(now);
        }
        let bucket = self.buckets.entry(destination).or_insert(Bucket {
            tokens: burst,
            filled: now,
        });
        let elapsed = now.saturating_since(bucket.filled);
        let earned = elapsed.as_secs_f64() * f64::from(self.per_second);
        if earned >= 1.0 {
            // At most the burst, so the cast below is exact enough.
            let earned = if elapsed > Duration::from_secs(10) {
                burst
            } else {
                whole(earned)
            };
            bucket.tokens = bucket.tokens.saturating_add(earned).min(burst);
            bucket.filled = now;
        }
        if bucket.tokens == 0 {
            return false;
        }
        bucket.tokens -= 1;
        true
    }

    /// Twice the rate, more or less a quarter.
    fn burst(&mut self) -> u32 {
        let base = self.per_second.saturating_mul(2);
        let spread = usize::try_from(base / 2 + 1).unwrap_or(1);
        base - base / 4 + u32::try_from(self.random.below(spread)).unwrap_or(0)
    }

    fn forget(&mut self, now: Instant) {
        self.buckets
            .retain(|_, bucket| now.saturating_since(bucket.filled) < Duration::from_secs(2));
        if self.buckets.len() >= BUCKETS {
            self.buckets.clear();
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; the value is positive"
)]
const fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_do_not_see_each_other() {
        // nat.md S8: a second prober learns nothing about the first one's errors.
        let mut limiter = Limiter::new(10, Random::new(&[1; 32], 0));
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = (0..1000)
            .filter(|_| limiter.allows(a, Instant::ZERO))
            .count();
        assert!((15..=25).contains(&first), "{first}");
        assert!(limiter.allows(b, Instant::ZERO));
        let later = Instant::from_origin(Duration::from_secs(1));
        let second = (0..1000).filter(|_| limiter.allows(a, later)).count();
        assert!((9..=10).contains(&second), "{second}");
    }

    #[test]
    fn bursts_are_unpredictable_and_memory_bounded() {
        let mut limiter = Limiter::new(10, Random::new(&[1; 32], 0));
        let bursts: std::collections::BTreeSet<_> = (0..50u8)
            .map(|n| {
                let to = IpAddr::from([192, 0, 2, n]);
                (0..1000)
                    .filter(|_| limiter.allows(to, Instant::ZERO))
                    .count()
            })
            .collect();
        assert!(bursts.len() > 3, "{bursts:?}");
        for n in 0..20_000u32 {
            let _ = limiter.allows(IpAddr::from(n.to_be_bytes()), Instant::ZERO);
        }
        assert!(limiter.buckets.len() <= BUCKETS);
    }
}
