//! Random octets from the kernel, for identifiers and generated MAC addresses.

use std::fs::File;
use std::io::{self, Read};

/// Random octets from `/dev/urandom`.
///
/// # Errors
/// Fails if the device cannot be opened or read, e.g. in a chroot without `/dev`.
pub(super) fn octets<const N: usize>() -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut octets)?;
    Ok(octets)
}

/// `2 * N` random lower-case hexadecimal digits.
///
/// # Errors
/// As [`octets`].
pub(super) fn hex<const N: usize>() -> io::Result<String> {
    Ok(octets::<N>()?
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_digits_per_octet_and_differs_each_time() {
        let one = hex::<32>().unwrap();
        assert_eq!(one.len(), 64);
        assert!(
            one.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_ne!(one, hex::<32>().unwrap());
    }
}
