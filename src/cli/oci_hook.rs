//! `oci-hook`: see [`crate::oci`].

use clap::Args;

use super::{Outcome, complain};
use crate::api::client::Client;
use crate::oci;

/// `tunbridge oci-hook`, or a link named `tunbridge-oci-hook`.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OciHook {}

impl OciHook {
    #[expect(clippy::unused_self, reason = "as the other commands")]
    pub(super) fn run(self, client: &Client) -> Outcome {
        for warning in oci::run(client, std::io::stdin().lock())? {
            complain(&format!("warning: {warning}"));
        }
        Ok(0)
    }
}
