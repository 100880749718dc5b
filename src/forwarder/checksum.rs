//! Internet checksums: incremental update (RFC 1624) and the full sum for packets we make.
//!
//! A checksum field is the complement of a ones'-complement sum. With `VIRTIO_NET_HDR_F_NEEDS_CSUM`
//! the transport field holds the *uncomplemented* sum of the pseudo header only; the sender's kernel
//! or NIC adds the rest later. Hence two ways to apply a [`Delta`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Difference between two versions of the octets under a checksum.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta(u64);

impl Delta {
    /// A 16-bit word at an even offset changes.
    pub(super) fn word(mut self, old: u16, new: u16) -> Self {
        self.0 += u64::from(!old) + u64::from(new);
        self
    }

    /// A 16-bit word at an odd offset changes.
    pub(super) fn odd_word(self, old: u16, new: u16) -> Self {
        self.word(old.swap_bytes(), new.swap_bytes())
    }

    /// An address at an even offset changes.
    pub(super) fn address(self, old: IpAddr, new: IpAddr) -> Self {
        match (old, new) {
            (IpAddr::V4(old), IpAddr::V4(new)) => self.ipv4(old, new),
            (IpAddr::V6(old), IpAddr::V6(new)) => self.ipv6(old, new),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                debug_assert!(false, "a rewritten packet keeps its family");
                self
            }
        }
    }

    /// A 16-bit word comes under the checksum.
    pub(super) fn added_word(mut self, word: u16) -> Self {
        self.0 += u64::from(word);
        self
    }

    /// A 16-bit word is no longer under the checksum.
    pub(super) fn removed_word(self, word: u16) -> Self {
        self.added_word(!word)
    }

    /// An address comes under the checksum.
    pub(super) fn added(self, address: IpAddr) -> Self {
        let sum = match address {
            IpAddr::V4(address) => sum(&address.octets(), 0),
            IpAddr::V6(address) => sum(&address.octets(), 0),
        };
        self.added_word(sum)
    }

    /// An address is no longer under the checksum.
    pub(super) fn removed(self, address: IpAddr) -> Self {
        let sum = match address {
            IpAddr::V4(address) => sum(&address.octets(), 0),
            IpAddr::V6(address) => sum(&address.octets(), 0),
        };
        self.removed_word(sum)
    }

    /// An IPv4 address changes. Modulo 0xffff a number is the sum of its digits to the base 2^16, so
    /// two words count as one of 32 bits.
    pub(super) fn ipv4(mut self, old: Ipv4Addr, new: Ipv4Addr) -> Self {
        self.0 += u64::from(!old.to_bits()) + u64::from(new.to_bits());
        self
    }

    /// An IPv6 address changes.
    pub(super) fn ipv6(mut self, old: Ipv6Addr, new: Ipv6Addr) -> Self {
        self.0 += digits(!old.to_bits()) + digits(new.to_bits());
        self
    }

    /// Both differences.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The new value of a complete checksum field (RFC 1624 equation 3).
    pub(super) fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }

    /// The new value of a UDP checksum field: none stays none, a computed zero becomes all ones
    /// (RFC 768).
    pub(super) fn apply_udp(self, checksum: u16) -> u16 {
        match checksum {
            0 => 0,
            checksum => match self.apply(checksum) {
                0 => 0xffff,
                updated => updated,
            },
        }
    }

    /// The new value of an ICMP checksum field. Without a pseudo header all that is summed may be
    /// zero, and then the field must be all ones; else all ones verify as well as zero does (RFC
    /// 1624 §3).
    pub(super) fn apply_icmp(self, checksum: u16) -> u16 {
        match self.apply(checksum) {
            0 => 0xffff,
            updated => updated,
        }
    }

    /// The new value of a pseudo header sum that is to be completed later.
    pub(super) fn apply_partial(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

/// Sum of the digits to the base 2^32.
fn digits(value: u128) -> u64 {
    let digit = |shift: u32| u64::try_from(value >> shift & 0xffff_ffff).unwrap_or(0);
    digit(0) + digit(32) + digit(64) + digit(96)
}

/// Folds a sum of 16-bit words.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Ones'-complement sum of `data` (an odd last octet is padded with zero), on top of `start`.
pub(super) fn sum(data: &[u8], start: u16) -> u16 {
    let mut chunks = data.chunks_exact(2);
    let mut total = u64::from(start);
    for word in &mut chunks {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = chunks.remainder() {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

/// Checksum field value for `data` whose own field is zero; zero if `data` includes a right one.
pub(super) fn checksum(data: &[u8]) -> u16 {
    !sum(data, 0)
}

/// [`checksum`] of an `ICMPv6` message, which the IPv6 packet `ip` carries: with the pseudo header of
/// RFC 8200 §8.1.
pub(super) fn icmpv6(ip: &[u8], message: &[u8]) -> u16 {
    !sum(message, pseudo_header_v6(ip, 58, message.len()))
}

/// Sum of the IPv6 pseudo header: addresses, length and protocol of what is behind the headers.
pub(super) fn pseudo_header_v6(ip: &[u8], protocol: u8, length: usize) -> u16 {
    let length = u64::try_from(length).unwrap_or(0);
    sum(&ip[8..40], fold(u64::from(protocol) + length))
}

/// Sum of the IPv4 pseudo header; the reference for tests.
#[cfg(test)]
pub(super) fn pseudo_header(ip: &[u8], transport_length: usize) -> u16 {
    let length = u16::try_from(transport_length).unwrap_or(u16::MAX);
    sum(&ip[12..20], fold(u64::from(ip[9]) + u64::from(length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn incremental_equals_full_recompute(
            mut data in proptest::collection::vec(any::<u8>(), 20..80),
            at in 0usize..9,
            new in any::<u16>(),
        ) {
            data[19] |= 1;
            data[10..12].fill(0);
            let before = checksum(&data);
            let at = if at == 5 { 12 } else { at * 2 };
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::default().word(old, new).apply(before), checksum(&data));
        }

        #[test]
        fn odd_words_equal_full_recompute(
            mut data in proptest::collection::vec(any::<u8>(), 20..80),
            at in 3usize..9,
            new in any::<u16>(),
        ) {
            data[19] |= 1;
            let before = checksum(&data);
            let at = at * 2 + 1;
            prop_assume!(at != 19 && at != 18);
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::default().odd_word(old, new).apply(before), checksum(&data));
        }

        #[test]
        fn partial_sums_follow_addresses(a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), rest in any::<u16>()) {
            prop_assume!(rest != 0 && rest != 0xffff);
            let delta = Delta::default().address(IpAddr::from(a), IpAddr::from(b));
            let updated = delta.apply_partial(sum(&a, rest));
            // 0 and 0xffff are the same number.
            prop_assert_eq!(updated % 0xffff, sum(&b, rest) % 0xffff);
        }
    }

    proptest! {
        #[test]
        fn long_addresses_equal_full_recompute(a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), rest in 1_u16..0xffff) {
            let delta = Delta::default().address(IpAddr::from(a), IpAddr::from(b));
            prop_assert_eq!(delta.apply(!sum(&a, rest)), !sum(&b, rest));
        }
    }

    #[test]
    fn udp_zero_rules() {
        // RFC 768: no checksum stays no checksum.
        assert_eq!(Delta::default().word(1, 2).apply_udp(0), 0);
        // A sum that complements to zero is sent as all ones.
        let delta = Delta::default().word(0x0001, 0x0002);
        assert_eq!(delta.apply(0x0001), 0x0000);
        assert_eq!(delta.apply_udp(0x0001), 0xffff);
    }

    #[test]
    fn odd_tail_is_padded() {
        assert_eq!(sum(&[0x12, 0x34, 0x56], 0), 0x1234 + 0x5600);
    }
}
