//! What makes this host's own addresses its own: made once, and kept in the state file.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::random;

/// Two texts of random hexadecimal digits.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 32 digits. The host's own IPv6 prefix follows from them (see `address_pool`), as from Docker's engine id.
    pub host: String,
    /// 64 digits, 256 bit: `secret_key` of RFC 7217 § 5. Nobody who sees addresses may learn it.
    pub secret: String,
}

impl Identity {
    /// A new one.
    ///
    /// # Errors
    /// Fails if the kernel's random device cannot be read.
    pub fn random() -> io::Result<Self> {
        Ok(Self {
            host: random::hex::<16>()?,
            secret: random::hex::<32>()?,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_differ_and_the_secret_is_not_printed() {
        let one = Identity::random().unwrap();
        assert_eq!((one.host.len(), one.secret.len()), (32, 64));
        assert_ne!(one, Identity::random().unwrap());
        let shown = format!("{one:?}");
        assert!(
            shown.contains(&one.host) && !shown.contains(&one.secret),
            "{shown}"
        );
    }
}
