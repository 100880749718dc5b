//! What the plugin itself does in the container's namespace: routes that an IPAM section names beside the default one,
//! and, when no daemon runs, removing the interface.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::error::{CniError, code};
use super::result::Route;
use crate::api::types::AttachedEndpoint;
use crate::control::mac;
use crate::kernel::{ContainerRoute, Netlink, NetlinkError};

/// Adds routes by `interface`; after a failure those before are left, for the interface goes.
pub(super) fn add(
    namespace: &OwnedFd,
    interface: &str,
    routes: &[Route],
    attached: &AttachedEndpoint,
) -> Result<(), CniError> {
    if routes.is_empty() {
        return Ok(());
    }
    let routes = complete(routes, attached);
    run(async {
        let inside = Netlink::in_namespace(namespace.as_fd())?;
        for route in &routes {
            inside.add_route(interface, route).await?;
        }
        Ok(())
    })
}

/// Whether they are all there.
pub(super) fn check(
    namespace: &OwnedFd,
    interface: &str,
    routes: &[Route],
    attached: &AttachedEndpoint,
) -> Result<(), CniError> {
    if routes.is_empty() {
        return Ok(());
    }
    let routes = complete(routes, attached);
    let gone = run(async {
        let inside = Netlink::in_namespace(namespace.as_fd())?;
        inside.missing_route(interface, &routes).await
    })?;
    match gone {
        Some(route) => {
            let destination = route.destination;
            let message = format!("interface {interface}: the route to {destination} is gone");
            Err(CniError::new(code::CHECK, message))
        }
        None => Ok(()),
    }
}

/// Removes `interface` if it is a container's end of a pair, and, where that is known, has the Ethernet address.
pub(super) fn remove_interface(
    namespace: &OwnedFd,
    interface: &str,
    mac: Option<String>,
) -> Result<(), CniError> {
    run(async {
        let inside = Netlink::in_namespace(namespace.as_fd())?;
        let Some(link) = inside.link(interface).await? else {
            return Ok(());
        };
        let has_mac = link.mac.map(mac::text) == mac.as_deref().map(str::to_ascii_lowercase);
        if link.kind.as_deref() == Some("veth") && (mac.is_none() || has_mac) {
            inside.delete_link_index(link.index).await?;
        }
        Ok(())
    })
}

/// A route without router goes by the network's.
fn complete(routes: &[Route], attached: &AttachedEndpoint) -> Vec<ContainerRoute> {
    let of_network = |route: &Route| {
        let is_same = |gateway: &&IpAddr| gateway.is_ipv4() == route.destination.addr().is_ipv4();
        attached.routers.iter().find(is_same).copied()
    };
    let complete = |route: &Route| ContainerRoute {
        destination: route.destination,
        // Scope link (253): the destination is a neighbour.
        gateway: match route.scope {
            Some(253) => None,
            _ => route.gateway.or_else(|| of_network(route)),
        },
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
    };
    // That of the network itself comes with the address.
    let own = |route: &&Route| {
        attached
            .addresses
            .iter()
            .any(|own| own.trunc() == route.destination && route.table.is_none())
    };
    routes
        .iter()
        .filter(|route| !own(route))
        .map(complete)
        .collect()
}

fn run<T>(work: impl Future<Output = Result<T, NetlinkError>>) -> Result<T, CniError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CniError::new(code::IO, error.to_string()))?;
    runtime
        .block_on(work)
        .map_err(|error| CniError::new(code::REFUSED, error.to_string()))
}
