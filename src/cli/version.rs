//! `version`: of this program and of the daemon.

use clap::Args;
use serde_json::{Value, json};

use super::{Outcome, print, print_json};
use crate::api::client::Client;
use crate::api::types::API_VERSION;

/// `tunbridge version`.
#[derive(Args, Clone, Debug)]
pub(super) struct Version {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Version {
    /// The client's part is printed even if no daemon answers.
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let own = env!("CARGO_PKG_VERSION");
        let daemon = client.get::<Value>("/version");
        if self.json {
            let daemon = daemon?;
            return print_json(&json!({
                "Client": {"Version": own, "TunbridgeApiVersion": API_VERSION},
                "Server": daemon,
            }));
        }
        print(&format!("Client: tunbridge {own}, API {API_VERSION}\n"))?;
        let daemon = daemon?;
        let text = |key: &str| daemon[key].as_str().unwrap_or("unknown").to_owned();
        print(&format!(
            "Daemon: tunbridge {}, API {}, Docker API {}\n",
            text("Version"),
            daemon["TunbridgeApiVersion"],
            text("ApiVersion"),
        ))
    }
}
