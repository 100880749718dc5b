//! The engine carries packets: it reads frames from the TUN, asks the forwarder, and writes back.
//!
//! ```text
//!   TUN queue 0 ──read──► worker 0 ──handle_packet──► Forward / ToHost ──write──► TUN queue 0
//!   TUN queue 1 ──read──► worker 1        │                                       TUN queue 1
//!        …                                └──► Outbox (ICMP errors, fragments) ──write──►
//! ```
//!
//! One plain thread per queue runs to completion: no channel, no runtime and no allocation between
//! the `read` and the `write` of a packet that hits a flow. A frame is one `virtio_net_hdr` (10
//! octets) and one IP packet of up to 65,535 octets, which may be a super-packet that stands for
//! many segments; it is never split here. The kernel picks the queue by a symmetric flow hash that
//! it learns on write, so answering on the queue a packet was read from keeps both directions of a
//! flow on one worker, best effort.
//!
//! Worker 0 also turns the forwarder's timers. Every worker sleeps in `poll(2)` on its queue and on
//! an eventfd that [`Engine`] signals when it is dropped.
//!
//! Assumptions, each with a test in `tests/kernel_assumptions.rs`: a read from a TUN returns one
//! whole frame; writes do not block; `TUNSETOFFLOAD` is per device.

mod device;
mod worker;

pub use device::{Device, DeviceError, Offloads, TUN_MTU};
pub use worker::{Clock, Counters, Engine};
