//! What the forwarder tells about itself: drop reasons, counters, flows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{EndpointId, Protocol, Verdict};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// Why a packet was not forwarded. The list is closed: every drop has exactly one reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name in `tunbridge stats` (snake_case).
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it means, for `tunbridge stats`: its documentation.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Bad ICMP checksum of an ICMP error (RFC 5508 REQ-3).
    BadIcmpChecksum = "bad_icmp_checksum",
    /// Bad IPv4 header checksum, of the packet or of the one embedded in an ICMP error.
    BadIpChecksum = "bad_ip_checksum",
    /// Destination is a broadcast or multicast address.
    Broadcast = "broadcast",
    /// From outside to a container's address and to a port that its network's gateway mode does not
    /// open: published ports of the host are the way in.
    DirectAccess = "direct_access",
    /// A masqueraded connection would leave by another interface now, with another source address.
    EgressChanged = "egress_changed",
    /// The container has as many flows as it may have.
    EndpointQuota = "endpoint_quota",
    /// Inbound packet to a mapping that did not send to that address before.
    Filtered = "filtered",
    /// Too many or too large held fragments.
    FragmentLimit = "fragment_limit",
    /// A fragment overlaps another one of its datagram.
    FragmentOverlap = "fragment_overlap",
    /// The first fragment did not come in time.
    FragmentTimeout = "fragment_timeout",
    /// A first fragment that does not hold the transport header, or one that rewrites it.
    FragmentTiny = "fragment_tiny",
    /// Larger than the next hop's MTU and not to be fragmented; the sender was told.
    FragmentationNeeded = "fragmentation_needed",
    /// Same network, but its containers may not talk to each other, and no link allows this.
    IccDisabled = "icc_disabled",
    /// ICMP error whose embedded packet belongs to no flow, or not to its destination.
    IcmpNoFlow = "icmp_no_flow",
    /// ICMP type that is neither a query nor an error that can be translated, or a query's
    /// answer without the query.
    IcmpUnsupported = "icmp_unsupported",
    /// To the subnet of another network, or to a port that its gateway mode does not open, or to a
    /// mapping of its containers.
    InterNetwork = "inter_network",
    /// From or to a container of an internal network: it reaches its neighbours and its gateway only.
    Internal = "internal",
    /// Source and destination address are the same.
    Land = "land",
    /// A packet that has been here before, or host traffic that steering should not divert.
    Loop = "loop",
    /// Too short, or lengths that contradict each other.
    Malformed = "malformed",
    /// Source or destination address that no packet on a wire may have.
    Martian = "martian",
    /// To a container that would have to see an address of the host instead of the caller's, but its
    /// network has no gateway address, or the one that the caller's is to use is not the host's.
    NoGateway = "no_gateway",
    /// A UDP datagram without checksum, which IPv6 does not allow, and of which none can be computed.
    NoUdpChecksum = "no_udp_checksum",
    /// Nothing routes to the destination, or the address to masquerade with is not the host's; the
    /// sender was told.
    NoRoute = "no_route",
    /// To an address of the container's own subnet that no container has.
    NoSuchEndpoint = "no_such_endpoint",
    /// To a published IPv4 port that leads to an IPv6 address; only the reverse is translated.
    OtherFamily = "other_family",
    /// No external port is left for the destination; the sender was told.
    OutOfPorts = "out_of_ports",
    /// Loose or strict source route option, or an IPv6 routing header with segments left.
    SourceRoute = "source_route",
    /// The flow table is full.
    TableFull = "table_full",
    /// TCP segment without SYN that belongs to no flow and may not start one.
    TcpNoFlow = "tcp_no_flow",
    /// Between two outside addresses: we are not their router.
    Transit = "transit",
    /// The time to live ended here; the sender was told.
    TtlExceeded = "ttl_exceeded",
    /// Source is in a container subnet but is no container's.
    UnknownSource = "unknown_source",
    /// Neither TCP, UDP nor ICMP (of the packet's own family).
    UnsupportedProtocol = "unsupported_protocol",
    /// Neither IPv4 nor IPv6.
    UnsupportedVersion = "unsupported_version",
    /// A field of the virtio header contradicts the packet.
    VirtioHeader = "virtio_header",
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
    /// Frames held or consumed: fragments waiting for their first one, unsolicited SYNs that wait
    /// for an outgoing one, packets that went on as fragments or in the other family.
    pub consumed: u64,
    /// Packets generated (ICMP errors, fragments) or released after having been held.
    pub generated: u64,
    /// ICMP errors not generated because of the rate limit.
    pub suppressed_errors: u64,
    /// Dropped packets by reason, zero counts included. A held fragment that is dropped later
    /// counts under [`Stats::consumed`] and here.
    pub dropped: Vec<(DropReason, u64)>,
    /// Flows created since the start.
    pub flows_created: u64,
    /// Live flows.
    pub flows: usize,
    /// Live mappings.
    pub mappings: usize,
}

/// The live counters behind [`Stats`].
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) to_host: AtomicU64,
    pub(super) consumed: AtomicU64,
    pub(super) generated: AtomicU64,
    pub(super) suppressed_errors: AtomicU64,
    pub(super) flows_created: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: AtomicU64::default(),
            forwarded: AtomicU64::default(),
            to_host: AtomicU64::default(),
            consumed: AtomicU64::default(),
            generated: AtomicU64::default(),
            suppressed_errors: AtomicU64::default(),
            flows_created: AtomicU64::default(),
            dropped: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what became of a frame.
    pub(super) fn count_verdict(&self, verdict: Verdict) {
        match verdict {
            Verdict::Forward => Self::count(&self.forwarded),
            Verdict::ToHost => Self::count(&self.to_host),
            Verdict::Consumed => Self::count(&self.consumed),
            Verdict::Drop(reason) => self.count_drop(reason),
        }
    }

    pub(super) fn count_drop(&self, reason: DropReason) {
        Self::count(&self.dropped[reason as usize]);
    }

    pub(super) fn snapshot(&self, flows: usize, mappings: usize) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            received: read(&self.received),
            forwarded: read(&self.forwarded),
            to_host: read(&self.to_host),
            consumed: read(&self.consumed),
            generated: read(&self.generated),
            suppressed_errors: read(&self.suppressed_errors),
            dropped: DropReason::ALL
                .iter()
                .map(|&reason| (reason, read(&self.dropped[reason as usize])))
                .collect(),
            flows_created: read(&self.flows_created),
            flows,
            mappings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_in_order() {
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
