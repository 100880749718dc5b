//! Whether a file is still as it was written.

use std::fmt;
use std::hash::Hasher as _;
use std::str::FromStr;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// Of the text of a file. It is kept beside the file, as Docker keeps `resolv.conf.hash`; whoever wants to change the
/// file without being noticed gains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// That of a text.
    pub fn of(text: &[u8]) -> Self {
        let mut hasher = SipHasher24::new();
        hasher.write(text);
        Self(hasher.finish128().as_u128())
    }

    /// True if the user has written something else into the file. `current` is what it contains now, `None` if it is
    /// gone; `written` is the fingerprint of what was written, `None` if nothing was.
    pub fn was_edited(current: Option<&[u8]>, written: Option<Self>) -> bool {
        match (current, written) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(text), Some(written)) => Self::of(text) != written,
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "siphash128:{:032x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let digits = text.trim_end().strip_prefix("siphash128:");
        digits
            .filter(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u128::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or(NoFingerprint)
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: remove the file, it will be written again")]
pub struct NoFingerprint;
