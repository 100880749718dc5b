//! What happened, for `GET /events`: Docker's actions and attributes.

use nix::sys::signal::Signal;

use super::core::Core;
use crate::api::events::EventKind;
use crate::control::State;
use crate::control::records::{Container, Network};

impl Core {
    /// Something happened to a network.
    pub(super) fn tell(&self, network: &Network, action: &'static str) {
        let attributes = [
            ("name", network.name.as_str()),
            ("type", network.driver.as_str()),
        ];
        self.events
            .publish(EventKind::Network, action, &network.id, attributes);
    }

    /// Something happened to a container's place on a network.
    pub(super) fn tell_of(&self, network: &Network, action: &'static str, container: &Container) {
        let attributes = [
            ("container", container.id.as_str()),
            ("name", network.name.as_str()),
            ("type", network.driver.as_str()),
        ];
        self.events
            .publish(EventKind::Network, action, &network.id, attributes);
    }

    /// Something happened to a container.
    pub(super) fn tell_container<const N: usize>(
        &self,
        container: &Container,
        action: &'static str,
        more: [(&str, &str); N],
    ) {
        let attributes = more.into_iter().chain([("name", container.name.as_str())]);
        let attributes = attributes
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        self.events
            .publish_with(EventKind::Container, action, &container.id, attributes);
    }

    /// A signal was sent to a container's process.
    pub(super) fn tell_signal(&self, container: &Container, signal: Signal) {
        let number = (signal as i32).to_string();
        self.tell_container(container, "kill", [("signal", number.as_str())]);
    }

    /// The same happened to all its places on networks.
    pub(super) fn tell_networks(&self, state: &State, container: &Container, action: &'static str) {
        for (attachment, _) in container.endpoints() {
            if let Some(network) = state.network_by_id(&attachment.network) {
                self.tell_of(network, action, container);
            }
        }
    }
}
