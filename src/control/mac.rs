//! MAC addresses: parsing as Docker does, and the two kinds that are generated here.
//!
//! A container's interface gets `02:42:` + the four octets of its IPv4 address (Docker up to 27), so
//! that an address that is used again comes back with the same MAC and no neighbour cache is stale.
//! A bridge gets a random one, chosen once and kept in its record.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::random;

/// The address of an Ethernet interface: unicast and not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Why a text is not the MAC address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six hexadecimal octets.
    #[error(
        "{0} is not a valid mac address: give --mac-address six hexadecimal octets, as in 02:42:ac:11:00:02"
    )]
    Malformed(String),
    /// The group bit is set.
    #[error(
        "{0} is not a valid mac address: it is a multicast address; give --mac-address one whose first octet is even, as in 02:42:ac:11:00:02"
    )]
    Multicast(String),
    /// All octets are zero.
    #[error(
        "{0} is not a valid mac address: it is all zeros; give --mac-address one as in 02:42:ac:11:00:02"
    )]
    Zero(String),
}

impl MacAddress {
    /// The MAC of the container that has `address`: `02:42:` and its four octets.
    pub const fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// One for a container whose MAC follows from no IPv4 address: `02:42:` and four random octets.
    ///
    /// # Errors
    /// Fails if the kernel's random device cannot be read.
    pub fn random_container() -> io::Result<Self> {
        let [a, b, c, d] = random::octets::<4>()?;
        Ok(Self([0x02, 0x42, a, b, c, d]))
    }

    /// A random, locally administered unicast address.
    ///
    /// # Errors
    /// Fails if the kernel's random device cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut octets = random::octets::<6>()?;
        octets[0] = (octets[0] & 0xfe) | 0x02;
        Ok(Self(octets))
    }

    /// The address as the kernel reported it.
    ///
    /// # Errors
    /// Refuses multicast and zero.
    pub fn from_octets(octets: [u8; 6]) -> Result<Self, MacError> {
        let text = || Self(octets).to_string();
        if octets == [0; 6] {
            return Err(MacError::Zero(text()));
        }
        if octets[0] & 1 == 1 {
            return Err(MacError::Multicast(text()));
        }
        Ok(Self(octets))
    }

    /// The six octets in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

/// Any Ethernet address as text.
pub fn text(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// Six octets with `:` or `-` between them, or three groups of four digits with `.` (Go's `ParseMAC`).
impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let malformed = || MacError::Malformed(text.to_owned());
        let (separator, width) = match text.bytes().find(|b| matches!(b, b':' | b'-' | b'.')) {
            Some(b'.') => ('.', 4),
            Some(b'-') => ('-', 2),
            _ => (':', 2),
        };
        let groups: Vec<&str> = text.split(separator).collect();
        if groups.len() * width != 12
            || groups
                .iter()
                .any(|group| group.len() != width || !group.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(malformed());
        }
        let digits = groups.concat();
        let mut octets = [0; 6];
        for (octet, at) in octets.iter_mut().zip((0..12).step_by(2)) {
            *octet = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| malformed())?;
        }
        Self::from_octets(octets)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.0))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_from_the_ipv4_address_as_docker_does() {
        // Transcript 01: 172.17.0.2 has 02:42:ac:11:00:02; transcript 06: 192.168.77.128 has 02:42:c0:a8:4d:80.
        assert_eq!(
            MacAddress::from_ipv4([172, 17, 0, 2].into()).to_string(),
            "02:42:ac:11:00:02"
        );
        assert_eq!(
            MacAddress::from_ipv4([192, 168, 77, 128].into()).to_string(),
            "02:42:c0:a8:4d:80"
        );
    }

    #[test]
    fn accepts_the_three_notations() {
        for text in ["02:aa:bb:cc:dd:01", "02-AA-BB-CC-DD-01", "02aa.bbcc.dd01"] {
            assert_eq!(
                text.parse::<MacAddress>().unwrap().to_string(),
                "02:aa:bb:cc:dd:01"
            );
        }
    }

    #[test]
    fn refuses_what_no_interface_can_have() {
        for text in [
            "",
            "x",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:0g",
            "02-42:ac:11:00:02",
            "é2:42:ac:11:00:02",
        ] {
            let error = text.parse::<MacAddress>().unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{text} is not a valid mac address")),
                "{error}"
            );
        }
        assert_eq!(
            "01:00:5e:00:00:01".parse::<MacAddress>(),
            Err(MacError::Multicast("01:00:5e:00:00:01".into()))
        );
        assert_eq!(
            "00:00:00:00:00:00".parse::<MacAddress>(),
            Err(MacError::Zero("00:00:00:00:00:00".into()))
        );
    }

    #[test]
    fn random_ones_are_local_unicast_and_differ() {
        let one = MacAddress::random().unwrap();
        assert_eq!(one.octets()[0] & 0x03, 0x02);
        assert_ne!(one, MacAddress::random().unwrap());
    }

    #[test]
    fn serialises_as_text() {
        let mac = MacAddress::from_ipv4([10, 0, 0, 1].into());
        assert_eq!(
            serde_json::to_string(&mac).unwrap(),
            "\"02:42:0a:00:00:01\""
        );
        assert_eq!(
            serde_json::from_str::<MacAddress>("\"02:42:0a:00:00:01\"").unwrap(),
            mac
        );
        assert!(serde_json::from_str::<MacAddress>("\"ff:ff:ff:ff:ff:ff\"").is_err());
    }
}
