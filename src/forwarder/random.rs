//! Keyed pseudo-random numbers: SipHash over a counter. Whoever does not know the seed cannot
//! predict the next number from earlier ones.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// A generator.
#[derive(Debug)]
pub(super) struct Random {
    key: (u64, u64),
    counter: u64,
}

impl Random {
    /// One of several independent generators of a seed.
    pub(super) fn new(seed: &[u8; 32], stream: u64) -> Self {
        let word = |at: usize| {
            seed[at..at + 8]
                .iter()
                .fold(0u64, |word, &octet| word << 8 | u64::from(octet))
        };
        let derive = |salt: u64| {
            let mut hasher = SipHasher24::new_with_keys(word(0) ^ salt, word(8));
            hasher.write_u64(word(16));
            hasher.write_u64(word(24));
            hasher.write_u64(stream);
            hasher.finish()
        };
        Self {
            key: (derive(0), derive(u64::MAX)),
            counter: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        hasher.finish()
    }

    /// A number below `limit`, or 0 if that is 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let product = u128::from(self.next()) * limit as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    /// Any 32-bit number.
    pub(super) fn double_word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Any 16-bit number.
    pub(super) fn word(&mut self) -> u16 {
        let [high, low, ..] = self.next().to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_and_stream_and_fill_their_range() {
        let mut one = Random::new(&[1; 32], 0);
        let mut other_seed = Random::new(&[2; 32], 0);
        let mut other_stream = Random::new(&[1; 32], 1);
        let first = one.next();
        assert_ne!(first, other_seed.next());
        assert_ne!(first, other_stream.next());
        assert_eq!(first, Random::new(&[1; 32], 0).next());

        let mut counts = [0u32; 10];
        for _ in 0..10_000 {
            counts[one.below(10)] += 1;
        }
        assert!(
            counts.iter().all(|&count| (850..1150).contains(&count)),
            "{counts:?}"
        );
        assert_eq!(one.below(0), 0);
    }
}
