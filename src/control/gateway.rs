//! Which of a container's endpoints makes its default route, per address family, and with it carries its
//! published ports.
//!
//! Docker's order (libnetwork, `Sandbox.Less`): `gw-priority` descending, then networks that are not
//! internal, then those with gateways for more families, then the network's name. The first that has a
//! gateway of a family makes the route of that family.

use std::cmp::Reverse;

use super::records::{Attachment, Container, Endpoint, Network};
use super::state::State;

/// A container's attachment to a network, and what it has there.
pub type Place<'s, 'c> = (&'c Attachment, &'s Network, &'c Endpoint);

impl State {
    /// The endpoint that makes the default route of `ipv4` or IPv6; `None`: no route.
    pub fn gateway_endpoint<'s, 'c>(
        &'s self,
        container: &'c Container,
        ipv4: bool,
    ) -> Option<Place<'s, 'c>> {
        let mut ordered = self.gateway_order(container).into_iter();
        ordered.find(|(_, _, endpoint)| endpoint.gateway(ipv4).is_some())
    }

    /// Its endpoints in the order in which they may be default gateways: also that in which interfaces are
    /// named and names looked up.
    pub fn gateway_order<'s, 'c>(&'s self, container: &'c Container) -> Vec<Place<'s, 'c>> {
        let mut ordered: Vec<_> = container
            .endpoints()
            .filter_map(|(attachment, endpoint)| {
                let network = self.network_by_id(&attachment.network)?;
                Some((attachment, network, endpoint))
            })
            .collect();
        ordered.sort_by_key(|(attachment, network, endpoint)| {
            key(attachment, network, endpoint.gateways.len())
        });
        ordered
    }
}

/// Sorts attachments; `gateways` is for how many families the endpoint has one.
pub(super) fn key<'a>(
    attachment: &Attachment,
    network: &'a Network,
    gateways: usize,
) -> (Reverse<i64>, bool, Reverse<usize>, &'a str) {
    (
        Reverse(attachment.gw_priority),
        network.config.internal,
        Reverse(gateways),
        &network.name,
    )
}
