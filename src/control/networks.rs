//! Making and removing networks.

use super::daemon_options::HostFacts;
use super::error::ControlError;
use super::records::Network;
use super::state::State;
use super::timestamp::Timestamp;
use crate::api::types::CreateNetwork;

impl State {
    /// Makes a network: number, name, subnet, bridge name, all stored. The caller then makes the
    /// bridge, and calls [`State::remove_network`] if it cannot. Also gives warnings, one sentence each.
    ///
    /// # Errors
    /// For the first thing that is wrong with the request or cannot be had; nothing is left then.
    pub fn create_network(
        &mut self,
        request: &CreateNetwork,
        host: &HostFacts,
        now: Timestamp,
    ) -> Result<(Network, Vec<String>), ControlError> {
        let _ = (request, host, now);
        Err(not_yet())
    }

    /// The network that [`State::remove_network`] would remove; the caller removes its bridge first.
    ///
    /// # Errors
    /// If there is no such network, it is predefined, or a container has an endpoint on it.
    pub fn removable_network(&self, query: &str) -> Result<&Network, ControlError> {
        let _ = self.network(query)?;
        Err(not_yet())
    }

    /// Forgets a network and gives its last record. Containers that have stopped may still name it; they
    /// cannot be started then.
    ///
    /// # Errors
    /// As [`State::removable_network`], or if the change cannot be stored.
    pub fn remove_network(&mut self, query: &str) -> Result<Network, ControlError> {
        Ok(self.removable_network(query)?.clone())
    }

    /// The networks that users made and no container has an endpoint on: what `network prune` removes.
    pub fn unused_networks(&self) -> impl Iterator<Item = &Network> {
        self.networks()
            .filter(|network| self.removable_network(&network.id).is_ok())
    }
}

fn not_yet() -> ControlError {
    ControlError::Invalid {
        flag: "network",
        value: String::new(),
        problem: "not yet",
    }
}
