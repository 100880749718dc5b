//! What must hold for every packet and every sequence of events: invariants, a naive model of the whole translator to
//! compare with, and the inputs on which the fuzzer once found something.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

#[path = "../fuzz/src/driver.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate")]
mod driver;
#[path = "scenarios/frame.rs"]
#[allow(
    dead_code,
    reason = "shared by tests/scenarios.rs and tests/properties.rs"
)]
mod frame;
#[path = "properties/invariants.rs"]
mod invariants;
#[path = "properties/isolation.rs"]
mod isolation;
#[path = "properties/model.rs"]
mod model;
#[path = "scenarios/networks.rs"]
#[allow(dead_code, reason = "shared with tests/scenarios.rs")]
mod networks;
#[path = "scenarios/packet.rs"]
#[allow(dead_code, reason = "shared with tests/scenarios.rs")]
mod packet;
#[path = "properties/requirements.rs"]
mod requirements;
#[path = "../fuzz/src/seeds.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate")]
mod seeds;
#[path = "scenarios/world.rs"]
#[allow(dead_code, reason = "shared with tests/scenarios.rs")]
mod world;

/// Every input under `fuzz/regressions` once broke an invariant.
#[test]
fn fuzz_regressions_stay_fixed() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "bin") {
            driver::play(&std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn fuzz_seeds_hold_every_invariant() {
    for (name, input) in seeds::seeds() {
        let result = std::panic::catch_unwind(|| driver::play(&input));
        assert!(result.is_ok(), "seed {name}");
    }
}
