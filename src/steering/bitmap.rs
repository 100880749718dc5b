//! The external ports in use, as memory shared with the programs.
//!
//! A port is taken into use and given back with each mapping, that is with each connection: a
//! system call per change would be felt. `BPF_F_MMAPABLE` (Linux 5.5) makes the array plain memory
//! on both sides. Bits are independent of each other, and a program that reads one a moment too
//! early or too late acts on a packet that could as well have come a moment earlier or later: so
//! relaxed atomics are enough.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::SteeringError;

/// ICMP identifiers, TCP ports and UDP ports, 65,536 of each.
const WORDS: usize = 3 * 65_536 / 64;
const BYTES: NonZeroUsize = NonZeroUsize::new(WORDS * size_of::<u64>()).expect("not zero");

/// Which ports of the host (for ICMP: query identifiers) belong to a mapping right now. Clones
/// share the same bits, and keep them alive after [`Steering`](super::Steering) is gone.
#[derive(Clone)]
pub struct ExternalPorts {
    shared: Arc<Shared>,
}

impl ExternalPorts {
    /// Maps the array into memory.
    pub(super) fn map(array: MapData) -> Result<Self, SteeringError> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is demanded, so the new mapping overlaps no existing object. It stays
        // valid after the descriptor is closed, because a mapping holds a reference on the map.
        let start = unsafe {
            mmap(
                None,
                BYTES,
                protection,
                MapFlags::MAP_SHARED,
                array.fd().as_fd(),
                0,
            )
        }
        .map_err(|errno| SteeringError::Mmap(io::Error::from(errno)))?;
        Ok(Self {
            shared: Arc::new(Shared {
                start: start.cast(),
            }),
        })
    }

    /// Says whether `port` of `protocol` (an IP protocol number: ICMP, ICMPv6, TCP or UDP; others
    /// have no ports and are ignored) is ours.
    pub fn set(&self, protocol: u8, port: u16, ours: bool) {
        let Some((word, bit)) = self.position(protocol, port) else {
            return;
        };
        if ours {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether `port` of `protocol` is ours.
    #[must_use]
    pub fn get(&self, protocol: u8, port: u16) -> bool {
        self.position(protocol, port)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Gives every port back.
    pub fn clear_all(&self) {
        for word in self.shared.words() {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn position(&self, protocol: u8, port: u16) -> Option<(&AtomicU64, u64)> {
        let section: usize = match i32::from(protocol) {
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => 0,
            libc::IPPROTO_TCP => 1,
            libc::IPPROTO_UDP => 2,
            _ => return None,
        };
        let index = section * 65_536 + usize::from(port);
        self.shared
            .words()
            .get(index / 64)
            .map(|word| (word, 1 << (index % 64)))
    }
}

impl fmt::Debug for ExternalPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_use: u32 = self
            .shared
            .words()
            .iter()
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .sum();
        f.debug_struct("ExternalPorts")
            .field("in_use", &in_use)
            .finish()
    }
}

struct Shared {
    start: NonNull<AtomicU64>,
}

// SAFETY: the memory is only ever accessed through atomics, and the mapping belongs to the process,
// not to a thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` points to BYTES mapped bytes, page-aligned, which stay mapped until
        // `self` is dropped; every bit pattern is a valid AtomicU64; the kernel side may change
        // the memory at any time, which atomics allow.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), WORDS) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` returned, and no reference to it outlives `self`.
        // The only possible failure is an invalid range.
        let _ = unsafe { munmap(self.start.cast(), BYTES.get()) };
    }
}
