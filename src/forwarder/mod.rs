//! The packet judge: what becomes of each packet that steering diverts. Pure: it has no clock, no
//! I/O, no threads; time comes in as a value, randomness from a seed, and the machine around it is
//! the [`Host`] trait.
//!
//! # Theory of operation
//!
//! Read RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP) and RFC 7857 (updates) first: the code cites
//! their requirements as `RFC 4787 REQ-5` where it meets them, and so do the tests. IPv6 obeys the
//! same rules; whether a network's IPv6 is translated at all, or routed with its own addresses, its
//! [`FamilyPolicy`] says.
//!
//! A *frame* is a virtio header and an IP packet. Nothing else comes with it, so addresses say who
//! speaks, and steering vouches for source addresses: a container's is that container, a local
//! address of the host is a process of the host, anything else is outside. `decide.rs` has the table
//! of who may speak to whom, `access.rs` what the policy says about it.
//!
//! A *flow* has two keys: `original`, as its initiator sends, and `reply`, as the responder does. A
//! packet that matches one leaves as the mirror image of the other; nothing more is needed, whether
//! the flow is NAPT, a published port, or both at once:
//!
//! ```text
//!                     original                            reply
//!  egress             X:p  ─► D:q                         D:q  ─► H:ext
//!  published          C:p  ─► H:8080                      X:80 ─► C:p        the client's own address
//!  from the host      127.0.0.1:p ─► 127.0.0.1:8080       X:80 ─► gateway:ext
//!  hairpin, published Y:p  ─► H:8080                      X:80 ─► gateway:ext
//!  hairpin, mapping   Y:p  ─► H:extX                      X:p  ─► H:extY
//!  ping               X:id ─► D:request                   D:request ─► H:extid
//!  direct, linked     C:p  ─► X:80                        X:80 ─► C:p
//!  other network      Y:p  ─► X:80                        X:80 ─► gateway:ext   masqueraded, if Y's are
//!  published, IPv6    C6:p ─► H6:8080                     X:80 ─► gateway:ext   X is reached over IPv4
//! ```
//!
//! The way of a packet:
//!
//! ```text
//!  frame ─► [packet] lengths, checksum, options, extensions, [vnet] header ──► Drop
//!             │
//!             ├─ fragment? ─► [fragment] later ones follow the first's decision, or wait for it
//!             ▼
//!           [table] a flow has this key?
//!             │yes                       │no
//!             │                          ├─ ICMP error ─► [icmp] flow of the quoted packet ─► Forward
//!             │                          ▼
//!             │                  [decide] martian, isolation, published?, route ─► ToHost / Drop
//!             │                          ▼
//!             │                  slow lock: [napt] quotas, mapping, [ports], both keys into [table]
//!             ◄──────────────────────────┘
//!             ▼
//!       expired? egress still the same? ──────────────────────► flow ends, look again
//!       TTL > 1, fits the next hop's MTU ─────────────────────► Drop, [generate] ICMP error to sender
//!       hot lock: [tcp] state, counters, last seen
//!       MSS, segment size, addresses, ports, TTL − 1, identification, checksums  (all in place)
//!             ▼
//!          Forward          or, too big and allowed to be cut: Consumed, [cut] into the [`Outbox`]
//!                           or, into the other family: Consumed, [across] a copy in the [`Outbox`]
//! ```
//!
//! # Mappings
//!
//! The external port of an inner endpoint does not depend on the destination; outsiders may use it
//! if the endpoint has sent to their address ([`Filtering`]). `napt.rs` says what happens when ports
//! are short. An external port is announced to steering ([`Host::set_external_port`]) exactly while
//! something uses it. A port that the host listens on or that is published is never used.
//!
//! # Time
//!
//! [`Timeouts`] has the idle times. A flow is over at the instant its time is up, whether or not
//! [`Forwarder::handle_timeout`] has cleared it away yet; the timer wheel (`timer.rs`) is lazy.
//!
//! # Locks
//!
//! In this order, never the other way round:
//!
//! 1. `slow`: mappings, ports, quotas, timers, fragments, limits. First packets, last packets,
//!    fragments and errors take it; packets of a live flow do not.
//! 2. one shard of the flow table: read to find, written (under `slow`) to insert or remove.
//! 3. one flow's `hot`: state and counters.
//!
//! No lock is held while another of its own rank is taken, and `hot` is never held while `slow` or a
//! shard is taken. [`Host::route`] may be slow and is not called under a flow's lock.
//!
//! # Limits
//!
//! * After a restart of the daemon the mappings are new: connections that containers opened do not
//!   survive it. Those to published ports do, because nothing about them was chosen, unless they are
//!   translated from IPv6 to IPv4: there the client's port is.
//! * Nothing is translated but calls of published IPv6 ports: a container with IPv4 alone reaches
//!   IPv4 alone, and no published IPv4 port leads to IPv6.
//! * UDP super-packets are not cut smaller: too large ones are answered with Fragmentation Needed
//!   even without DF.
//! * Of IPv6 extension headers no option is looked at but the jumbo payload; a home address among
//!   the destination options (RFC 6275) would have to be translated, too.
//! * When ports are short, behaviour changes (RFC 4787 REQ-11): flows then overlap.
//! * A container subnet hides outside hosts with the same addresses (RFC 4787 REQ-7); control
//!   refuses such subnets.
//! * A deallocated port may be used again before 120 s (RFC 6888 REQ-8), at random like any other.
//! * Port parity and the privileged port class are not preserved (RFC 4787 REQ-3a, REQ-4; RFC 7857
//!   §7 allows the latter).

#![deny(unsafe_code)]

mod access;
mod across;
mod checksum;
mod config;
mod cut;
mod decide;
mod flow;
mod fragment;
mod generate;
mod host;
mod host_ports;
mod icmp;
mod ident;
mod index;
mod judge;
mod key;
mod napt;
mod outbox;
mod packet;
mod policy;
mod ports;
mod quota;
mod random;
mod ratelimit;
mod report;
mod syn;
mod table;
mod tcp;
mod time;
mod timer;
mod translate;
mod vnet;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use flow::Flow;
use generate::IcmpError;
use ident::Idents;
use index::Index;
use key::Direction;
use napt::{Slow, Surroundings};
use random::Random;
use report::Counters;
use table::FlowTable;

pub use config::{Config, Filtering, Timeouts};
pub use host::{Egress, Host};
pub use host_ports::HostPorts;
pub use outbox::Outbox;
pub use policy::{
    Access, EndpointId, EndpointPolicy, FamilyPolicy, LinkPolicy, NetworkId, NetworkPolicy,
    OpenPorts, Policy, Protocol, Published,
};
pub use report::{DropReason, FlowReport, Stats};
pub use time::Instant;

/// Length of `struct virtio_net_hdr` (legacy, `IFF_VNET_HDR` default): every frame starts with it.
pub const VNET_HDR_LEN: usize = 10;

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Write it, rewritten in place, to the TUN.
    Forward,
    /// Write it, unchanged, to the TUN: it is for the host's own stack.
    ToHost,
    /// Nothing to write; whatever follows from it is in the outbox or comes later.
    Consumed,
    /// Forget it.
    Drop(DropReason),
}

/// The packet judge; see the module's description.
#[derive(Debug)]
pub struct Forwarder {
    config: Config,
    host: Arc<dyn Host>,
    table: FlowTable,
    index: ArcSwap<Index>,
    /// Rises when routes or the policy change: what flows know about their egress is old then.
    epoch: AtomicU64,
    idents: Idents,
    slow: Mutex<Slow>,
    counters: Counters,
}

impl Forwarder {
    /// A forwarder without policy: nothing is forwarded until [`Forwarder::set_policy`]. `seed` must
    /// be secret and random; the same seed, calls and times give the same results.
    pub fn new(config: Config, seed: [u8; 32], host: Arc<dyn Host>) -> Self {
        let mut random = Random::new(&seed, 0);
        let slow = Slow::new(&config, &seed);
        Self {
            table: FlowTable::new(random.next()),
            index: ArcSwap::new(Arc::clone(&slow.index)),
            epoch: AtomicU64::new(1),
            idents: Idents::new(&mut random),
            slow: Mutex::new(slow),
            counters: Counters::default(),
            config,
            host,
        }
    }

    /// Judges `frame` (virtio header ‖ IP packet) and rewrites it in place; its length stays. What
    /// follows from it besides is put into `out`, to be written after it. `now` should not go back
    /// much between calls, on whichever thread.
    pub fn handle_packet(&self, frame: &mut [u8], now: Instant, out: &mut Outbox) -> Verdict {
        Counters::count(&self.counters.received);
        let waiting = out.len();
        let verdict = self.judge(frame, now, out);
        self.counters.count_verdict(verdict);
        self.count_generated(out.len().saturating_sub(waiting));
        verdict
    }

    /// Replaces the policy as a whole. Flows of endpoints, publications and addresses of the host
    /// that are no more end at once, and so do mappings on ports that are published now.
    pub fn set_policy(&self, policy: Policy, _now: Instant) {
        let index = Arc::new(Index::new(&policy));
        let mut slow = self.slow.lock();
        let before = std::mem::replace(&mut slow.index, Arc::clone(&index));
        self.index.store(Arc::clone(&index));
        for flow in self.table.flows() {
            if !access::is_allowed(&flow, &index) {
                slow.close(&self.around(), &flow);
            }
        }
        if !before.publishes_the_ports_of(&index) {
            slow.reset_ports();
        }
        slow.held_syns.clear();
        let dropped = slow
            .fragments
            .forget(|address| before.place(address) != index.place(address));
        drop(slow);
        self.count_drops(DropReason::FragmentTimeout, dropped);
        self.routes_changed();
    }

    /// Routes changed: where a flow's packets go is asked for again at its next packet. A
    /// masqueraded flow that would leave by another interface, with another source address, ends
    /// then; one whose interface only prefers another address lives on while the host has its own.
    pub fn routes_changed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Replaces the set of ports that the host's sockets use. No mapping takes one of them; one that
    /// has a port that the host listens on or is bound to ends at once.
    // nat.md S2: a service of the host is reachable as soon as it listens.
    pub fn set_host_ports(&self, ports: HostPorts) {
        let mut slow = self.slow.lock();
        if slow.host_ports == ports {
            return;
        }
        for flow in self.table.flows() {
            let protocol = flow.original.protocol;
            if flow
                .external_port()
                .is_some_and(|port| ports.is_wanted(protocol, port))
            {
                slow.close(&self.around(), &flow);
            }
        }
        slow.host_ports = ports;
        slow.reset_ports();
    }

    /// When [`Forwarder::handle_timeout`] has something to do. May change with every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let slow = self.slow.lock();
        [
            slow.wheel.next(),
            slow.fragments.next(),
            slow.held_syns.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends what is due at `now`. Calls that are too early do nothing.
    pub fn handle_timeout(&self, now: Instant, out: &mut Outbox) {
        let waiting = out.len();
        let mut slow = self.slow.lock();
        for flow in slow.wheel.advance(now) {
            let expiry = flow.expiry(&flow.hot.lock(), &self.config.timeouts);
            if expiry <= now {
                slow.close(&self.around(), &flow);
            } else {
                slow.wheel.insert(&flow, expiry);
            }
        }
        // RFC 5382 REQ-4: if no outgoing SYN came, the sender learns that nobody is there.
        while let Some(held) = slow.held_syns.expire(now) {
            let payer = slow.index.payer(held.key.src);
            if slow.limiter.allows(payer, now) {
                IcmpError::PortUnreachable.emit(&held.quote, held.key.dst, out);
            } else {
                Counters::count(&self.counters.suppressed_errors);
            }
        }
        let dropped = slow.fragments.expire(now);
        drop(slow);
        self.count_drops(DropReason::FragmentTimeout, dropped);
        self.count_generated(out.len().saturating_sub(waiting));
    }

    /// Live flows, in no particular order.
    pub fn flows(&self, now: Instant) -> Vec<FlowReport> {
        let report = |flow: Arc<Flow>| {
            let hot = flow.hot.lock();
            let [original, reply] = hot.traffic;
            let expiry = flow.expiry(&hot, &self.config.timeouts);
            let translated = flow.translated(Direction::Original);
            (now < expiry).then(|| FlowReport {
                protocol: flow.original.protocol,
                endpoint: flow.grounds.endpoint.0,
                original: (flow.original.source(), flow.original.destination()),
                translated: (translated.source(), translated.destination()),
                state: hot.state_name(),
                packets_original: original.packets,
                bytes_original: original.bytes,
                packets_reply: reply.packets,
                bytes_reply: reply.bytes,
                age: now.saturating_since(flow.created),
                timeout: expiry.saturating_since(now),
            })
        };
        self.table.flows().into_iter().filter_map(report).collect()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let mappings = self.slow.lock().mappings();
        self.counters.snapshot(self.table.len(), mappings)
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings {
            config: &self.config,
            host: &*self.host,
            table: &self.table,
        }
    }

    fn close(&self, flow: &Arc<Flow>) {
        self.slow.lock().close(&self.around(), flow);
    }

    fn count_generated(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(0);
        if count > 0 {
            self.counters.generated.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn count_drops(&self, reason: DropReason, count: usize) {
        for _ in 0..count {
            self.counters.count_drop(reason);
        }
    }
}

#[cfg(test)]
mod tests;
