//! Connecting containers to networks and disconnecting them, running or not.

use super::error::ControlError;
use super::records::{Container, Endpoint, Network};
use super::state::State;
use super::timestamp::Timestamp;
use crate::api::types::EndpointSettings;

/// What [`State::connect`] decided.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The container's new record.
    pub container: Container,
    /// The network.
    pub network: Network,
    /// The interface to make; `None`: the container is not running, it will have one when it starts.
    pub endpoint: Option<Endpoint>,
    /// The default route goes another way now (see [`State::gateway_endpoint`]), and published ports
    /// have moved with it.
    pub changed_gateway: bool,
    /// For the user, one sentence each.
    pub warnings: Vec<String>,
}

/// What [`State::disconnect`] decided.
#[derive(Clone, Debug)]
pub struct Disconnection {
    /// The container's record as it was.
    pub before: Container,
    /// And as it is.
    pub after: Container,
    /// The network.
    pub network: Network,
    /// The interface to take down; `None`: the container was not running.
    pub endpoint: Option<Endpoint>,
    /// The default route goes another way now, or there is none any more.
    pub changed_gateway: bool,
    /// For the user, one sentence each: ports that could not be moved to another network.
    pub warnings: Vec<String>,
}

impl State {
    /// Puts a container on one more network. One that is running gets address, MAC and interface name
    /// there; the caller then makes the interface, and calls [`State::disconnect`] if it cannot.
    ///
    /// # Errors
    /// For the first thing that is wrong or cannot be had; nothing has changed then.
    pub fn connect(
        &mut self,
        container: &str,
        network: &str,
        settings: &EndpointSettings,
        now: Timestamp,
    ) -> Result<Connection, ControlError> {
        let _ = (container, network, settings, now);
        Err(not_yet())
    }

    /// Takes a container off a network. The caller then takes down the interface. `force`: also if the
    /// container or the network is gone already.
    ///
    /// # Errors
    /// If it is not on that network, or the change cannot be stored.
    pub fn disconnect(
        &mut self,
        container: &str,
        network: &str,
        force: bool,
    ) -> Result<Disconnection, ControlError> {
        let _ = (container, network, force);
        Err(not_yet())
    }

    /// Removes a link from a running or stopped container: `/web/db` or `web/db`. Gives the linking
    /// container's new record; its hosts file must be written again.
    ///
    /// # Errors
    /// If there is no such link, or the change cannot be stored.
    pub fn remove_link(&mut self, link: &str) -> Result<Container, ControlError> {
        let _ = link;
        Err(not_yet())
    }

    /// Running containers whose hosts file has the address of this one, because they link to it.
    pub fn linking_to<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers().filter(move |container| {
            let mut links = container
                .endpoints()
                .flat_map(|(attachment, _)| &attachment.links);
            links.any(|link| link.target == id)
        })
    }
}

fn not_yet() -> ControlError {
    ControlError::Invalid {
        flag: "network",
        value: String::new(),
        problem: "not yet",
    }
}
