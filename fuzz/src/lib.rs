//! The forwarder alone, compiled from the main crate's sources: it is pure, so a fuzzer needs nothing else of it.

extern crate self as tunbridge;

#[path = "../../src/forwarder/mod.rs"]
pub mod forwarder;

pub mod driver;
pub mod seeds;
