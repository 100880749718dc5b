//! Versions of the specification.

use std::fmt;

use super::error::{CniError, code};

/// Those that are spoken here, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(super) const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    pub(super) const NEWEST: Self = Self::V1_1_0;

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// All of them, as `VERSION` answers.
    pub(super) fn texts() -> Vec<&'static str> {
        Self::ALL.map(Self::text).to_vec()
    }

    pub(super) fn known(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }

    /// The version of a configuration; before there were versions it was 0.1.0.
    pub(super) fn of_configuration(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::V0_1_0);
        }
        Self::known(text).ok_or_else(|| {
            let supported = Self::texts().join(" ");
            CniError::new(code::VERSION, "incompatible CNI versions")
                .details(format!("config is {text:?}, plugin supports [{supported}]"))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_known_and_ordered() {
        assert_eq!(Version::of_configuration("").unwrap(), Version::V0_1_0);
        assert!(Version::V0_3_1 < Version::V0_4_0 && Version::V1_0_0 < Version::V1_1_0);
        for version in Version::ALL {
            assert_eq!(Version::known(version.text()), Some(version));
        }
        let error = Version::of_configuration("7.0.0").unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (1, "incompatible CNI versions")
        );
        assert!(
            error
                .details
                .starts_with("config is \"7.0.0\", plugin supports [0.1.0 ")
        );
    }
}
