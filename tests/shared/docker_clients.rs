//! Where the unmodified `docker` command lines are with which the tests speak to the daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Debian's client of `make setup` (20.10, API 1.41), and what is in PATH if that is another one.
///
/// # Panics
/// If there is none: tests that do nothing would look like tests that pass.
pub(crate) fn docker_clients() -> BTreeSet<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/docker-io/docker");
    let candidates = std::env::split_paths(&path).map(|directory| directory.join("docker"));
    let clients: BTreeSet<PathBuf> = candidates
        .chain([of_setup])
        .filter_map(|program| program.canonicalize().ok())
        .collect();
    assert!(
        !clients.is_empty(),
        "there is no docker client: `make setup` fetches one into target/docker-io"
    );
    clients
}
