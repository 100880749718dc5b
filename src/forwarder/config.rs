//! Settings of the forwarder and their documented defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Which outside hosts may send to a mapping (RFC 4787 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses that the inner endpoint has sent to.
    // RFC 4787 REQ-8, RFC 5382 REQ-3: address-dependent filtering by default.
    #[default]
    AddressDependent,
    /// Address and port that the inner endpoint has sent to.
    AddressAndPortDependent,
}

/// How long a flow lives without a packet.
///
/// | timer | default | floor |
/// |---|---|---|
/// | `udp_unreplied` | 120 s | RFC 4787 REQ-5: 120 s |
/// | `udp_well_known` | 30 s | RFC 4787 REQ-5a |
/// | `udp_replied` | 300 s | RFC 4787 REQ-5c |
/// | `tcp_established` | 7440 s | RFC 5382 REQ-5: 2 h 4 min |
/// | `tcp_opening`, `tcp_closing`, `tcp_time_wait`, `tcp_reset` | 240 s | RFC 5382 REQ-5, RFC 7857 §2 |
/// | `icmp_query` | 60 s | RFC 5508 REQ-2 |
/// | `fragment` | 15 s | |
/// | `unsolicited_syn` | 6 s | RFC 5382 REQ-4 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP, packets in one direction only.
    pub udp_unreplied: Duration,
    /// UDP to a port below 1024, until packets went there, back and there again.
    pub udp_well_known: Duration,
    /// UDP, packets both ways.
    pub udp_replied: Duration,
    /// TCP after the three-way handshake.
    pub tcp_established: Duration,
    /// TCP before the end of the handshake, or picked up in the middle.
    pub tcp_opening: Duration,
    /// TCP after the first FIN.
    pub tcp_closing: Duration,
    /// TCP after both FINs.
    pub tcp_time_wait: Duration,
    /// TCP after a RST.
    pub tcp_reset: Duration,
    /// ICMP queries.
    pub icmp_query: Duration,
    /// Fragments wait so long for the first one, and later ones are recognised so long.
    pub fragment: Duration,
    /// An unsolicited SYN to a mapping waits so long for an outgoing SYN.
    pub unsolicited_syn: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp_unreplied: Duration::from_secs(120),
            udp_well_known: Duration::from_secs(30),
            udp_replied: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            tcp_time_wait: Duration::from_secs(240),
            tcp_reset: Duration::from_secs(240),
            icmp_query: Duration::from_secs(60),
            fragment: Duration::from_secs(15),
            unsolicited_syn: Duration::from_secs(6),
        }
    }
}

/// Settings of a [`super::Forwarder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Idle times.
    pub timeouts: Timeouts,
    /// Who may send to a mapping.
    pub filtering: Filtering,
    /// External ports that nobody else uses; taken first.
    pub exclusive_ports: RangeInclusive<u16>,
    /// External ports shared with the host's sockets and with published ports, which win.
    pub shared_ports: RangeInclusive<u16>,
    /// Largest number of flows.
    pub max_flows: usize,
    /// Largest number of flows that one container opens; the flows that others open towards its
    /// published ports have the same limit of their own (RFC 6888 REQ-4, REQ-5).
    pub max_flows_per_endpoint: usize,
    /// Largest number of datagrams whose fragments are followed at a time.
    pub max_fragmented: usize,
    /// Largest number of datagrams of one source whose fragments are followed at a time.
    pub max_fragmented_per_source: usize,
    /// Largest number of octets of fragments held.
    pub max_held_bytes: usize,
    /// Largest number of octets of fragments held from one source.
    pub max_held_bytes_per_source: usize,
    /// Largest number of fragments held from one source.
    pub max_held_per_source: usize,
    /// Largest number of unsolicited SYNs held.
    pub max_held_syns: usize,
    /// ICMP errors per second and destination, after a burst of twice as many.
    pub icmp_errors_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            filtering: Filtering::default(),
            exclusive_ports: 61_000..=65_534,
            shared_ports: 5_000..=32_767,
            max_flows: 1 << 18,
            max_flows_per_endpoint: 1 << 16,
            max_fragmented: 16_384,
            max_fragmented_per_source: 2048,
            max_held_bytes: 4 << 20,
            max_held_bytes_per_source: 512 << 10,
            max_held_per_source: 256,
            max_held_syns: 1024,
            icmp_errors_per_second: 10,
        }
    }
}
