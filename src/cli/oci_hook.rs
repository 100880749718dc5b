//! `oci-hook`: see [`crate::oci`].

use std::path::{Path, PathBuf};

use clap::Args;

use super::{DEFAULT_SOCKET, Outcome, complain};
use crate::oci;

/// `tunbridge oci-hook`, or a link named `tunbridge-oci-hook`.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OciHook {}

impl OciHook {
    #[expect(clippy::unused_self, reason = "as the other commands")]
    pub(super) fn run(self, socket: Option<PathBuf>) -> Outcome {
        let stdin = std::io::stdin().lock();
        for warning in oci::run(socket, Path::new(DEFAULT_SOCKET), stdin)? {
            complain(&format!("warning: {warning}"));
        }
        Ok(0)
    }
}
