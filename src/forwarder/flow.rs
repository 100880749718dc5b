//! A flow: two keys, what to do with packets of either direction, and how long it lives.
//!
//! As in conntrack the translation is symmetric: a packet that matches `original` becomes
//! `reply.mirror()`, one that matches `reply` becomes `original.mirror()`. The keys never change;
//! what changes with packets is behind one small lock, [`Hot`].

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::key::{Direction, FlowKey};
use super::tcp::{Segment, TcpState, TcpTrack};
use super::{EndpointId, Instant, Protocol, Timeouts};

/// Whose ports and flows are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// Flows that a container opens.
    Endpoint(EndpointId),
    /// Flows that others open towards a container.
    Inbound(EndpointId),
    /// Flows that processes of the host open; the container is the one they go to.
    Host(EndpointId),
}

/// Identity of an endpoint-independent mapping.
// RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1a: the remote address is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MapKey {
    pub(super) protocol: Protocol,
    pub(super) internal: (IpAddr, u16),
    pub(super) external: IpAddr,
}

/// What a flow holds of the external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    None,
    /// A share in a mapping.
    Mapping(MapKey),
    /// A port that serves several inner endpoints, told apart by the remote one.
    Overlap {
        external: IpAddr,
        port: u16,
    },
}

/// How the source of a container's packets to the outside is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masquerade {
    /// It is the container's own.
    No,
    /// It is the route's.
    Route,
    /// It is the network's.
    Configured(IpAddr),
}

/// Which sentence of the policy lets a flow in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Containers may call the outside.
    Egress {
        masquerade: Masquerade,
        /// Interface by which the flow's first packet left.
        uplink: u32,
    },
    /// Everybody may call published ports.
    Published,
    /// Whom a container has sent to may send to its mapping.
    Mapping,
    /// The network's containers may be addressed directly.
    Direct,
    /// Linked neighbours.
    Link,
}

/// What a flow depends on in the policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grounds {
    /// The container, with the address it has in the flow.
    pub(super) endpoint: (EndpointId, IpAddr),
    /// A second container.
    pub(super) peer: Option<(EndpointId, IpAddr)>,
    /// Address and port of the host that are published, and what they lead to.
    pub(super) publication: Option<((IpAddr, u16), (IpAddr, u16))>,
    /// Address of the host that the flow uses, if nothing else here tells that.
    pub(super) local: Option<IpAddr>,
    pub(super) rule: Rule,
}

/// State and idle time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Track {
    /// UDP and ICMP queries.
    Datagrams {
        /// A packet came back.
        replied: bool,
        /// And one went out after that.
        stream: bool,
    },
    Tcp(TcpTrack),
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What packets change.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) last_seen: Instant,
    pub(super) track: Track,
    pub(super) traffic: [Traffic; 2],
    /// Largest packet in octets that may go on, by direction.
    pub(super) mtu: [u32; 2],
    /// Largest MSS to let pass.
    pub(super) mss: Option<u16>,
    /// Value of the forwarder's epoch when `mtu` and `mss` were found.
    pub(super) epoch: u64,
    /// Packets of the original direction are filtered until one of the reply direction comes.
    pub(super) blocked: bool,
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) original: FlowKey,
    pub(super) reply: FlowKey,
    pub(super) owner: Owner,
    pub(super) grounds: Grounds,
    pub(super) lease: Lease,
    /// The mapping through which an outside host opened the flow.
    pub(super) target: Option<MapKey>,
    pub(super) created: Instant,
    pub(super) dead: AtomicBool,
    /// Tick of the timer wheel at which the flow is looked at; other entries of it are stale.
    pub(super) due: AtomicU64,
    pub(super) hot: Mutex<Hot>,
}

impl Flow {
    /// What a packet of `direction` becomes.
    pub(super) const fn translated(&self, direction: Direction) -> FlowKey {
        match direction {
            Direction::Original => self.reply.mirror(),
            Direction::Reply => self.original.mirror(),
        }
    }

    /// What a packet of `direction` looks like on arrival.
    pub(super) const fn key(&self, direction: Direction) -> &FlowKey {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Its packets change from IPv6 to IPv4 and back.
    pub(super) const fn is_across(&self) -> bool {
        self.original.src.is_ipv4() != self.reply.src.is_ipv4()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The port of a mapping that the flow keeps alive.
    pub(super) fn external_port(&self) -> Option<u16> {
        if self.lease != Lease::None {
            Some(self.reply.dst_port)
        } else {
            self.target.map(|_| self.original.dst_port)
        }
    }

    /// Packets of `direction` leave with an address that several senders share.
    pub(super) fn shares_source(&self, direction: Direction) -> bool {
        self.translated(direction).src != self.key(direction).src
    }

    /// Idle time in the present state.
    pub(super) fn timeout(&self, hot: &Hot, timeouts: &Timeouts) -> Duration {
        match &hot.track {
            Track::Tcp(track) => match track.state() {
                // RFC 5382 REQ-5: established at least 2 h 4 min, transitory at least 4 min.
                TcpState::Established => timeouts.tcp_established,
                TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp => {
                    timeouts.tcp_opening
                }
                TcpState::Closing => timeouts.tcp_closing,
                TcpState::TimeWait => timeouts.tcp_time_wait,
                // RFC 7857 §2.2: the state is kept after a RST.
                TcpState::Reset => timeouts.tcp_reset,
            },
            // RFC 5508 REQ-2: at least 60 s.
            Track::Datagrams { .. } if self.original.protocol == Protocol::Icmp => {
                timeouts.icmp_query
            }
            // RFC 4787 REQ-5a: shorter for single exchanges with well-known ports.
            Track::Datagrams { stream: false, .. } if self.original.dst_port < 1024 => {
                timeouts.udp_well_known
            }
            // RFC 4787 REQ-5, REQ-5c: never below 2 min, 5 min by default.
            Track::Datagrams { replied: false, .. } => timeouts.udp_unreplied,
            Track::Datagrams { replied: true, .. } => timeouts.udp_replied,
        }
    }

    /// When the flow ends if no packet comes.
    pub(super) fn expiry(&self, hot: &Hot, timeouts: &Timeouts) -> Instant {
        hot.last_seen + self.timeout(hot, timeouts)
    }
}

impl Hot {
    /// A packet of `direction` passes.
    pub(super) fn note(
        &mut self,
        direction: Direction,
        segment: Option<&Segment>,
        packets: u16,
        bytes: usize,
        now: Instant,
    ) {
        // RFC 4787 REQ-6, REQ-6a: packets of both directions refresh.
        self.last_seen = self.last_seen.max(now);
        let traffic = &mut self.traffic[direction.index()];
        traffic.packets += u64::from(packets);
        traffic.bytes += u64::try_from(bytes).unwrap_or(0);
        match (&mut self.track, segment) {
            (Track::Datagrams { replied, stream }, _) => match direction {
                Direction::Original => *stream |= *replied,
                Direction::Reply => *replied = true,
            },
            (Track::Tcp(track), Some(segment)) => track.update(segment, direction),
            (Track::Tcp(_), None) => {}
        }
    }

    pub(super) const fn state_name(&self) -> &'static str {
        match &self.track {
            Track::Datagrams { replied: false, .. } => "unreplied",
            Track::Datagrams { replied: true, .. } => "replied",
            Track::Tcp(track) => track.state().name(),
        }
    }

    /// Both sides are done: the first to go when resources are short.
    pub(super) const fn is_finished(&self) -> bool {
        match &self.track {
            Track::Tcp(track) => matches!(track.state(), TcpState::TimeWait | TcpState::Reset),
            Track::Datagrams { .. } => false,
        }
    }

    /// The other side has not agreed yet.
    pub(super) const fn is_embryonic(&self) -> bool {
        match &self.track {
            Track::Tcp(track) => matches!(
                track.state(),
                TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp
            ),
            Track::Datagrams { replied, .. } => !*replied,
        }
    }
}

#[cfg(test)]
impl Flow {
    /// A flow for the tests of what holds flows.
    pub(super) fn sample(port: u16) -> std::sync::Arc<Self> {
        let (inner, outer) = (
            IpAddr::from([172, 17, 0, 2]),
            IpAddr::from([198, 51, 100, 7]),
        );
        let original = FlowKey {
            protocol: Protocol::Udp,
            src: inner,
            dst: outer,
            src_port: port,
            dst_port: 5000,
        };
        let reply = FlowKey {
            dst: IpAddr::from([192, 0, 2, 10]),
            ..original.mirror()
        };
        std::sync::Arc::new(Self {
            original,
            reply,
            owner: Owner::Endpoint(EndpointId(1)),
            grounds: Grounds {
                endpoint: (EndpointId(1), inner),
                peer: None,
                publication: None,
                local: None,
                rule: Rule::Egress {
                    masquerade: Masquerade::Route,
                    uplink: 2,
                },
            },
            lease: Lease::None,
            target: None,
            created: Instant::ZERO,
            dead: AtomicBool::new(false),
            due: AtomicU64::new(0),
            hot: Mutex::new(Hot {
                last_seen: Instant::ZERO,
                track: Track::Datagrams {
                    replied: false,
                    stream: false,
                },
                traffic: [Traffic::default(); 2],
                mtu: [1500; 2],
                mss: None,
                epoch: 0,
                blocked: false,
            }),
        })
    }
}
