//! What a container, a client and a host process see of the forwarder, one behaviour per test.
//!
//! No root, no kernel, no real time: a [`world::World`] holds one forwarder and a clock that the test moves; single
//! steps are compared octet by octet and counter by counter, and where whole conversations matter, smoltcp hosts
//! ([`net::Net`]) have them over a bad wire. Tests cite the requirement they prove; `docs/nat-requirements.md` is
//! the index.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

#[path = "scenarios/dual.rs"]
mod dual;
#[path = "scenarios/frame.rs"]
#[allow(
    dead_code,
    reason = "shared by tests/scenarios.rs and tests/properties.rs"
)]
mod frame;
#[path = "scenarios/net.rs"]
#[allow(
    dead_code,
    reason = "shared with tests/properties.rs, which needs less of it"
)]
mod net;
#[path = "scenarios/networks.rs"]
#[allow(
    dead_code,
    reason = "shared with tests/properties.rs, which needs less of it"
)]
mod networks;
#[path = "scenarios/packet.rs"]
#[allow(
    dead_code,
    reason = "shared with tests/properties.rs, which needs less of it"
)]
mod packet;
#[path = "scenarios/world.rs"]
#[allow(
    dead_code,
    reason = "shared with tests/properties.rs, which needs less of it"
)]
mod world;

#[path = "scenarios/access.rs"]
mod access;
#[path = "scenarios/across.rs"]
mod across;
#[path = "scenarios/corners.rs"]
mod corners;
#[path = "scenarios/filtering.rs"]
mod filtering;
#[path = "scenarios/fragments.rs"]
mod fragments;
#[path = "scenarios/hairpin.rs"]
mod hairpin;
#[path = "scenarios/hostile.rs"]
mod hostile;
#[path = "scenarios/icmp.rs"]
mod icmp;
#[path = "scenarios/ipv6.rs"]
mod ipv6;
#[path = "scenarios/links.rs"]
mod links;
#[path = "scenarios/mapping.rs"]
mod mapping;
#[path = "scenarios/mtu.rs"]
mod mtu;
#[path = "scenarios/offload.rs"]
mod offload;
#[path = "scenarios/policy.rs"]
mod policy;
#[path = "scenarios/publish.rs"]
mod publish;
#[path = "scenarios/regimes.rs"]
mod regimes;
#[path = "scenarios/scale.rs"]
mod scale;
#[path = "scenarios/tcp_states.rs"]
mod tcp_states;
#[path = "scenarios/threads.rs"]
mod threads;
#[path = "scenarios/timers.rs"]
mod timers;
#[path = "scenarios/transfer.rs"]
mod transfer;
#[path = "scenarios/translate.rs"]
mod translate;
#[path = "scenarios/ttl.rs"]
mod ttl;
