//! The slow state: mappings, external ports, quotas, and the life and death of flows.
//!
//! A mapping belongs to (protocol, inner address and port, external address) and has one external
//! port, whatever the destination. It lives as long as a flow that uses it. When ports are short,
//! in this order:
//!
//! 1. sessions that are over (TIME_WAIT, reset) give up their port, the container's own first;
//! 2. a flow overlaps: it takes a port that is in use towards other destinations, which makes it
//!    (and only it) endpoint-dependent (RFC 7857 §3);
//! 3. the packet is refused.
//!
//! A container that has 7/8 of the ports of an external address overlaps only on its own ones, so
//! that it never takes the last port towards a destination from its neighbours.
//!
//! [`Slow`] is behind the forwarder's slow lock; see the lock order in the forwarder's description.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::flow::{Flow, Grounds, Hot, Lease, MapKey, Owner, Track};
use super::fragment::FragmentTable;
use super::index::Index;
use super::key::FlowKey;
use super::ports::PortSpace;
use super::quota::Accounts;
use super::random::Random;
use super::ratelimit::Limiter;
use super::syn::HeldSyns;
use super::table::FlowTable;
use super::timer::Wheel;
use super::{Config, DropReason, Filtering, Host, HostPorts, Instant, Protocol};

/// A container may have this part of the ports of an external address.
const QUOTA_NUMERATOR: usize = 7;
const QUOTA_DENOMINATOR: usize = 8;

/// Tries to find another source port for a client that the container could not tell apart.
const SOURCE_TRIES: usize = 128;

/// A search that found no port is not repeated for so long.
const REFUSAL_MEMORY: Duration = Duration::from_millis(500);
const REFUSALS: usize = 1024;

/// An epoch that never is.
const NEVER: u64 = 0;

/// Sessions ended at a time to make room for one.
const RECYCLE_LIMIT: usize = 64;

/// How the source of a new flow is translated.
#[derive(Clone, Copy, Debug)]
pub(super) enum SourceRule {
    /// Not; but if the container already talks to that very source, the port changes.
    Keep,
    /// To `external` with a port of a mapping.
    Masquerade { external: IpAddr },
    /// To `external` with the port under which the container publishes its own.
    Published { external: IpAddr, port: u16 },
}

/// A flow to be opened.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) original: FlowKey,
    /// Destination after translation.
    pub(super) server: (IpAddr, u16),
    pub(super) source: SourceRule,
    pub(super) owner: Owner,
    pub(super) grounds: Grounds,
    pub(super) target: Option<MapKey>,
    pub(super) track: Track,
    pub(super) blocked: bool,
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    flows: u32,
    owner: Owner,
}

/// Why a search for a port was in vain.
type Refusal = (Owner, Protocol, IpAddr, (IpAddr, u16));

/// What the slow path works on besides [`Slow`].
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a dyn Host,
    pub(super) table: &'a FlowTable,
}

/// The slow state.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) random: Random,
    pub(super) index: Arc<Index>,
    pub(super) host_ports: HostPorts,
    pub(super) wheel: Wheel,
    pub(super) fragments: FragmentTable,
    pub(super) held_syns: HeldSyns,
    pub(super) limiter: Limiter,
    spaces: HashMap<(Protocol, IpAddr), PortSpace>,
    mappings: HashMap<MapKey, Mapping>,
    owned: HashMap<(Owner, Protocol, IpAddr), usize>,
    /// Number of address spaces in which a port is in use.
    bits: HashMap<(Protocol, u16), u32>,
    /// Flows of a mapping by remote address: whom the inner endpoint has sent to.
    permits: HashMap<(MapKey, IpAddr), u32>,
    accounts: Accounts,
    refusals: HashMap<Refusal, Instant>,
}

impl Slow {
    pub(super) fn new(config: &Config, seed: &[u8; 32]) -> Self {
        Self {
            random: Random::new(seed, 1),
            index: Arc::default(),
            host_ports: HostPorts::new(),
            wheel: Wheel::new(),
            fragments: FragmentTable::new(config),
            held_syns: HeldSyns::new(config.max_held_syns),
            limiter: Limiter::new(config.icmp_errors_per_second, Random::new(seed, 2)),
            spaces: HashMap::new(),
            mappings: HashMap::new(),
            owned: HashMap::new(),
            bits: HashMap::new(),
            permits: HashMap::new(),
            accounts: Accounts::default(),
            refusals: HashMap::new(),
        }
    }

    pub(super) fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// The mapping that has `port` of the host's address `external`.
    pub(super) fn mapping_at(
        &self,
        protocol: Protocol,
        external: IpAddr,
        port: u16,
    ) -> Option<(MapKey, Owner)> {
        let internal = self
            .spaces
            .get(&(protocol, external))?
            .usage(port)?
            .exclusive?;
        let key = MapKey {
            protocol,
            internal,
            external,
        };
        Some((key, self.mappings.get(&key)?.owner))
    }

    /// `remote` may send to the mapping `key`.
    pub(super) fn is_permitted(&self, filtering: Filtering, key: MapKey, remote: IpAddr) -> bool {
        match filtering {
            // RFC 4787 REQ-8, RFC 5382 REQ-3
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.permits.contains_key(&(key, remote)),
            // Whoever was sent to by address and port has a flow already.
            Filtering::AddressAndPortDependent => false,
        }
    }

    /// Opens a flow.
    pub(super) fn open(
        &mut self,
        around: &Surroundings<'_>,
        plan: Plan,
        now: Instant,
    ) -> Result<Arc<Flow>, DropReason> {
        self.admit_flow(around, plan.owner)?;
        let ((address, port), lease) = self.choose_source(around, &plan, now)?;
        let reply = FlowKey {
            protocol: plan.original.protocol,
            src: plan.server.0,
            dst: address,
            src_port: plan.server.1,
            dst_port: port,
        };
        let flow = Arc::new(Flow {
            original: plan.original,
            reply,
            owner: plan.owner,
            grounds: plan.grounds,
            lease,
            target: plan.target,
            created: now,
            dead: AtomicBool::new(false),
            due: AtomicU64::new(0),
            hot: Mutex::new(Hot {
                last_seen: now,
                track: plan.track,
                traffic: Default::default(),
                mtu: [0; 2],
                mss: None,
                // Asks for the above before the first packet passes.
                epoch: NEVER,
                blocked: plan.blocked,
            }),
        });
        if let Lease::Mapping(key) = flow.lease {
            self.share(key);
            *self.permits.entry((key, flow.original.dst)).or_default() += 1;
        }
        if let Some(key) = flow.target {
            self.share(key);
        }
        self.accounts.opened(&flow);
        around.table.insert(&flow);
        self.plan_expiry(around, &flow, now);
        Ok(flow)
    }

    fn share(&mut self, key: MapKey) {
        if let Some(mapping) = self.mappings.get_mut(&key) {
            mapping.flows += 1;
        }
    }

    /// Puts the flow's end into the timer wheel.
    pub(super) fn plan_expiry(
        &mut self,
        around: &Surroundings<'_>,
        flow: &Arc<Flow>,
        now: Instant,
    ) {
        let expiry = flow.expiry(&flow.hot.lock(), &around.config.timeouts);
        self.wheel.start(now);
        self.wheel.insert(flow, expiry);
    }

    /// The flow's state changed for a shorter life.
    pub(super) fn flow_shortened(
        &mut self,
        around: &Surroundings<'_>,
        flow: &Arc<Flow>,
        now: Instant,
    ) {
        if flow.is_dead() {
            return;
        }
        self.plan_expiry(around, flow, now);
        if flow.hot.lock().is_finished() {
            self.accounts.finished(flow);
        }
    }

    /// Ends a flow and gives back what it has.
    pub(super) fn close(&mut self, around: &Surroundings<'_>, flow: &Arc<Flow>) {
        if flow.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        around.table.remove(flow);
        self.accounts.closed(flow.owner);
        match flow.lease {
            Lease::None => {}
            Lease::Mapping(key) => {
                let permit = (key, flow.original.dst);
                if let Some(count) = self.permits.get_mut(&permit) {
                    *count -= 1;
                    if *count == 0 {
                        self.permits.remove(&permit);
                    }
                }
                self.unshare(around, key);
            }
            Lease::Overlap { external, port } => {
                self.release_overlap(around, flow.original.protocol, external, port);
            }
        }
        if let Some(key) = flow.target {
            self.unshare(around, key);
        }
    }

    fn release_overlap(
        &mut self,
        around: &Surroundings<'_>,
        protocol: Protocol,
        external: IpAddr,
        port: u16,
    ) {
        let eligible = self.is_eligible(protocol, port);
        let space = self.spaces.get_mut(&(protocol, external));
        if space.is_some_and(|space| space.release_overlap(port, eligible)) {
            self.port_unused(around, protocol, external, port);
        }
    }

    /// A flow leaves its mapping; the last one ends it.
    // RFC 7857 §8 (ICMP query mapping), and likewise for all: the mapping goes with its last session.
    fn unshare(&mut self, around: &Surroundings<'_>, key: MapKey) {
        let Some(mapping) = self.mappings.get_mut(&key) else {
            return;
        };
        mapping.flows -= 1;
        if mapping.flows > 0 {
            return;
        }
        let (port, owner) = (mapping.port, mapping.owner);
        self.mappings.remove(&key);
        let owned = (owner, key.protocol, key.external);
        if let Some(count) = self.owned.get_mut(&owned) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&owned);
            }
        }
        let eligible = self.is_eligible(key.protocol, port);
        let space = self.spaces.get_mut(&(key.protocol, key.external));
        if space.is_some_and(|space| space.release(port, eligible)) {
            self.port_unused(around, key.protocol, key.external, port);
        }
    }

    fn port_used(&mut self, around: &Surroundings<'_>, protocol: Protocol, port: u16) {
        let count = self.bits.entry((protocol, port)).or_default();
        *count += 1;
        if *count == 1 {
            around.host.set_external_port(protocol, port, true);
        }
    }

    fn port_unused(
        &mut self,
        around: &Surroundings<'_>,
        protocol: Protocol,
        external: IpAddr,
        port: u16,
    ) {
        if let Some(count) = self.bits.get_mut(&(protocol, port)) {
            *count -= 1;
            if *count == 0 {
                self.bits.remove(&(protocol, port));
                around.host.set_external_port(protocol, port, false);
            }
        }
        // An address that the host lost is not remembered.
        let gone = !self.index.is_local(external);
        if gone
            && self
                .spaces
                .get(&(protocol, external))
                .is_some_and(PortSpace::is_unused)
        {
            self.spaces.remove(&(protocol, external));
        }
    }

    /// A mapping may have the port: neither the host nor a publication has.
    // nat.md S2 (port shadow, CVE-2021-3773)
    fn is_eligible(&self, protocol: Protocol, port: u16) -> bool {
        !self.host_ports.contains(protocol, port)
            && !self.index.is_published_anywhere(protocol, port)
    }

    /// Eligibility changed.
    pub(super) fn reset_ports(&mut self) {
        let Self {
            spaces,
            host_ports,
            index,
            ..
        } = self;
        // There may be hundreds, one per gateway; those that nobody uses are made again when needed.
        spaces.retain(|_, space| !space.is_unused());
        for (&(protocol, _), space) in spaces.iter_mut() {
            space.reset(|port| {
                !host_ports.contains(protocol, port) && !index.is_published_anywhere(protocol, port)
            });
        }
        self.refusals.clear();
    }

    fn choose_source(
        &mut self,
        around: &Surroundings<'_>,
        plan: &Plan,
        now: Instant,
    ) -> Result<((IpAddr, u16), Lease), DropReason> {
        let original = &plan.original;
        let is_free = |address: IpAddr, port: u16| {
            let reply = FlowKey {
                protocol: original.protocol,
                src: plan.server.0,
                dst: address,
                src_port: plan.server.1,
                dst_port: port,
            };
            reply != *original && !around.table.contains(&reply)
        };
        match plan.source {
            SourceRule::Keep => {
                let own = (original.src, original.src_port);
                if is_free(own.0, own.1) {
                    return Ok((own, Lease::None));
                }
                if original.protocol == Protocol::Icmp || own == plan.server {
                    return Err(DropReason::Land);
                }
                // One client port towards two publications of the same container port.
                for _ in 0..SOURCE_TRIES {
                    let port = self.random.word() | 1024;
                    if is_free(own.0, port) {
                        return Ok(((own.0, port), Lease::None));
                    }
                }
                Err(DropReason::OutOfPorts)
            }
            SourceRule::Published { external, port } => {
                if is_free(external, port) {
                    return Ok(((external, port), Lease::None));
                }
                self.masquerade(around, plan, external, is_free, now)
            }
            SourceRule::Masquerade { external } => {
                self.masquerade(around, plan, external, is_free, now)
            }
        }
    }

    fn masquerade(
        &mut self,
        around: &Surroundings<'_>,
        plan: &Plan,
        external: IpAddr,
        is_free: impl Fn(IpAddr, u16) -> bool,
        now: Instant,
    ) -> Result<((IpAddr, u16), Lease), DropReason> {
        let protocol = plan.original.protocol;
        let internal = (plan.original.src, plan.original.src_port);
        let key = MapKey {
            protocol,
            internal,
            external,
        };
        // RFC 4787 REQ-1: the mapping of the inner endpoint serves every destination.
        // RFC 4787 REQ-3, RFC 5382 REQ-7: its port is its own, except as RFC 7857 §3 allows.
        if let Some(mapping) = self.mappings.get(&key) {
            let port = mapping.port;
            if is_free(external, port) {
                return Ok(((external, port), Lease::Mapping(key)));
            }
        } else if let Some(port) = self.take_port(around, key, plan.owner) {
            if is_free(external, port) {
                return Ok(((external, port), Lease::Mapping(key)));
            }
            self.share(key);
            self.unshare(around, key);
        }
        let port = self.port_for_flow(around, plan, external, is_free, now)?;
        Ok(((external, port), Lease::Overlap { external, port }))
    }

    /// Makes the mapping `key`, without a flow yet.
    fn take_port(&mut self, around: &Surroundings<'_>, key: MapKey, owner: Owner) -> Option<u16> {
        let MapKey {
            protocol,
            internal,
            external,
        } = key;
        let space_key = (protocol, external);
        if !self.spaces.contains_key(&space_key) {
            let config = around.config;
            let space = PortSpace::new(
                config.exclusive_ports.clone(),
                config.shared_ports.clone(),
                |port| self.is_eligible(protocol, port),
            );
            self.spaces.insert(space_key, space);
        }
        for _ in 0..RECYCLE_LIMIT {
            let over = self.is_over_quota(owner, protocol, external);
            let port = if over {
                None
            } else {
                self.spaces
                    .get_mut(&space_key)?
                    .take(internal, &mut self.random)
            };
            if let Some(port) = port {
                self.mappings.insert(
                    key,
                    Mapping {
                        port,
                        flows: 0,
                        owner,
                    },
                );
                *self.owned.entry((owner, protocol, external)).or_default() += 1;
                self.port_used(around, protocol, port);
                return Some(port);
            }
            if !self.recycle(around, owner) && (over || !self.recycle_anyone(around)) {
                return None;
            }
        }
        None
    }

    // RFC 6888 REQ-4: the number of external ports per subscriber is limited. RFC 6888 REQ-11: who is
    // over the limit is told so by ICMP 3/13 (RFC 5508 REQ-8).
    fn is_over_quota(&self, owner: Owner, protocol: Protocol, external: IpAddr) -> bool {
        let Some(space) = self.spaces.get(&(protocol, external)) else {
            return false;
        };
        let owned = self
            .owned
            .get(&(owner, protocol, external))
            .copied()
            .unwrap_or(0);
        owned * QUOTA_DENOMINATOR >= space.capacity() * QUOTA_NUMERATOR
    }

    /// A port for one flow, whose inner endpoint's mapping cannot serve it or could not be made: a
    /// free one, else one that is in use but not towards the plan's server.
    // RFC 7857 §3: ports may overlap towards different destinations. RFC 6888 REQ-13: so every port
    // is put to use before anybody is refused.
    fn port_for_flow(
        &mut self,
        around: &Surroundings<'_>,
        plan: &Plan,
        external: IpAddr,
        is_free: impl Fn(IpAddr, u16) -> bool,
        now: Instant,
    ) -> Result<u16, DropReason> {
        let protocol = plan.original.protocol;
        let refusal = (plan.owner, protocol, external, plan.server);
        if self
            .refusals
            .get(&refusal)
            .is_some_and(|&until| now < until)
        {
            return Err(DropReason::OutOfPorts);
        }
        let over = self.is_over_quota(plan.owner, protocol, external);
        let Some(space) = self.spaces.get_mut(&(protocol, external)) else {
            return Err(DropReason::OutOfPorts);
        };
        if !over && let Some(port) = space.take_for_flow(&mut self.random) {
            self.port_used(around, protocol, port);
            if is_free(external, port) {
                return Ok(port);
            }
            self.release_overlap(around, protocol, external, port);
        }
        let Some(space) = self.spaces.get(&(protocol, external)) else {
            return Err(DropReason::OutOfPorts);
        };
        let is_own = |port: u16| {
            let internal = space.usage(port).and_then(|usage| usage.exclusive);
            let mapping = internal.and_then(|internal| {
                self.mappings.get(&MapKey {
                    protocol,
                    internal,
                    external,
                })
            });
            mapping.is_some_and(|mapping| mapping.owner == plan.owner)
        };
        let found = space
            .candidates(&mut self.random)
            .find(|&port| is_free(external, port) && (!over || is_own(port)));
        let Some(port) = found else {
            if self.refusals.len() >= REFUSALS {
                self.refusals.clear();
            }
            self.refusals.insert(refusal, now + REFUSAL_MEMORY);
            return Err(DropReason::OutOfPorts);
        };
        if let Some(space) = self.spaces.get_mut(&(protocol, external)) {
            space.overlap(port);
        }
        Ok(port)
    }

    // RFC 6888 REQ-4, REQ-5: a container's flows are limited.
    fn admit_flow(&mut self, around: &Surroundings<'_>, owner: Owner) -> Result<(), DropReason> {
        if self.accounts.flows(owner) >= around.config.max_flows_per_endpoint
            && !self.make_room(around, owner)
        {
            return Err(DropReason::EndpointQuota);
        }
        if around.table.len() >= around.config.max_flows
            && !self.make_room(around, owner)
            && !self.make_room_anywhere(around)
        {
            return Err(DropReason::TableFull);
        }
        Ok(())
    }

    /// Ends one of the owner's finished sessions.
    fn recycle(&mut self, around: &Surroundings<'_>, owner: Owner) -> bool {
        let flow = self.accounts.take_finished(owner);
        self.close_if_any(around, flow)
    }

    /// Ends a finished session of whoever has most of them.
    fn recycle_anyone(&mut self, around: &Surroundings<'_>) -> bool {
        let most = self.accounts.most_finished();
        most.is_some_and(|owner| self.recycle(around, owner))
    }

    /// Ends one of the owner's flows that is over or, if others opened it, unanswered.
    fn make_room(&mut self, around: &Surroundings<'_>, owner: Owner) -> bool {
        if self.recycle(around, owner) {
            return true;
        }
        let flow = self.accounts.take_embryonic(owner);
        self.close_if_any(around, flow)
    }

    fn make_room_anywhere(&mut self, around: &Surroundings<'_>) -> bool {
        if self.recycle_anyone(around) {
            return true;
        }
        let most = self.accounts.most_embryonic();
        most.is_some_and(|owner| self.make_room(around, owner))
    }

    fn close_if_any(&mut self, around: &Surroundings<'_>, flow: Option<Arc<Flow>>) -> bool {
        let Some(flow) = flow else {
            return false;
        };
        self.close(around, &flow);
        true
    }
}
