//! Sequences of (virtio header ‖ packet) and events through [`tunbridge::forwarder::Forwarder`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tunbridge::driver::play(input));
