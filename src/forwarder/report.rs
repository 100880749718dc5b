//! What the forwarder tells about itself: drop reasons, counters, flows.

use std::net::SocketAddr;
use std::time::Duration;

use super::{EndpointId, Protocol};

/// Why a packet was not forwarded. (To be completed.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Too short, lengths that contradict each other, not IPv4.
    Malformed,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: &'static [Self] = &[Self::Malformed];

    /// Name in `tunbridge stats` (snake_case).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
        }
    }
}

/// A live flow.
#[derive(Clone, Debug)]
pub struct FlowReport {
    /// Its protocol.
    pub protocol: Protocol,
    /// The container it belongs to.
    pub endpoint: EndpointId,
    /// Source and destination as the initiator sends them.
    pub original: (SocketAddr, SocketAddr),
    /// Source and destination as the responder receives them.
    pub translated: (SocketAddr, SocketAddr),
    /// State name: TCP `syn_sent`, `established`, …; else `unreplied`, `replied`.
    pub state: &'static str,
    /// Packets and octets in the original direction. A super-packet counts as its segments.
    pub packets_original: u64,
    /// Octets of IP packets in the original direction.
    pub bytes_original: u64,
    /// Packets in the reply direction.
    pub packets_reply: u64,
    /// Octets in the reply direction.
    pub bytes_reply: u64,
    /// Time since the first packet.
    pub age: Duration,
    /// Time until it expires if no packet comes.
    pub timeout: Duration,
}

/// Counters since the start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Frames given to [`super::Forwarder::handle_packet`].
    pub received: u64,
    /// Frames rewritten and forwarded.
    pub forwarded: u64,
    /// Frames handed to the host's own stack.
    pub to_host: u64,
    /// Frames held or consumed (fragments waiting for their first one).
    pub consumed: u64,
    /// Packets generated (ICMP errors, fragments).
    pub generated: u64,
    /// Dropped frames by reason.
    pub dropped: Vec<(DropReason, u64)>,
    /// Live flows.
    pub flows: usize,
    /// Live mappings.
    pub mappings: usize,
}
