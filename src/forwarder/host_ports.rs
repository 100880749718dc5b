//! The ports that the host's own sockets use.

use super::Protocol;

const WORDS: usize = 65_536 / 64;

/// A set of TCP and UDP ports, as two bitmaps.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PortSet {
    words: Box<[[u64; WORDS]; 2]>,
}

impl Default for PortSet {
    fn default() -> Self {
        Self {
            words: Box::new([[0; WORDS]; 2]),
        }
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |protocol| {
            (0..=u16::MAX)
                .filter(|&port| self.contains(protocol, port))
                .collect::<Vec<_>>()
        };
        f.debug_struct("PortSet")
            .field("tcp", &list(Protocol::Tcp))
            .field("udp", &list(Protocol::Udp))
            .finish()
    }
}

impl PortSet {
    const fn index(protocol: Protocol) -> Option<usize> {
        match protocol {
            Protocol::Icmp => None,
            Protocol::Tcp => Some(0),
            Protocol::Udp => Some(1),
        }
    }

    pub(super) fn insert(&mut self, protocol: Protocol, port: u16) {
        if let Some(index) = Self::index(protocol) {
            self.words[index][usize::from(port / 64)] |= 1 << (port % 64);
        }
    }

    pub(super) fn contains(&self, protocol: Protocol, port: u16) -> bool {
        Self::index(protocol)
            .is_some_and(|index| self.words[index][usize::from(port / 64)] >> (port % 64) & 1 == 1)
    }
}

/// TCP and UDP ports that the host's own sockets use. Query identifiers of ICMP are not tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts {
    wanted: PortSet,
    connected: PortSet,
}

impl HostPorts {
    /// No port.
    pub fn new() -> Self {
        Self::default()
    }

    /// A socket listens on or is bound to `port`: no mapping may take it, and one that has it ends.
    pub fn insert(&mut self, protocol: Protocol, port: u16) {
        self.wanted.insert(protocol, port);
    }

    /// A connected socket uses `port` as its local one: no new mapping takes it, but one that has
    /// it goes on, because the two are told apart by their peers.
    pub fn insert_connected(&mut self, protocol: Protocol, port: u16) {
        self.connected.insert(protocol, port);
    }

    /// The host uses `port`.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.is_wanted(protocol, port) || self.connected.contains(protocol, port)
    }

    /// Packets to `port` that belong to no connection are the host's.
    pub(super) fn is_wanted(&self, protocol: Protocol, port: u16) -> bool {
        self.wanted.contains(protocol, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_kept_by_protocol() {
        let mut ports = HostPorts::new();
        ports.insert(Protocol::Tcp, 0);
        ports.insert(Protocol::Tcp, 65_535);
        ports.insert_connected(Protocol::Udp, 63);
        ports.insert(Protocol::Icmp, 7);
        assert!(ports.contains(Protocol::Tcp, 0) && ports.is_wanted(Protocol::Tcp, 65_535));
        assert!(ports.contains(Protocol::Udp, 63) && !ports.is_wanted(Protocol::Udp, 63));
        assert!(!ports.contains(Protocol::Tcp, 63) && !ports.contains(Protocol::Icmp, 7));
    }
}
