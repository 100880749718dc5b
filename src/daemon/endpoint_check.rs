//! Whether an endpoint of another runtime is still as it was made.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::core::Core;
use super::interfaces::open;
use crate::control::EndpointPlace;
use crate::kernel::{ContainerInterface, Netlink, netns};

impl Core {
    /// Compares an endpoint with what the kernel has. `routers`: where the container's default routes should go.
    /// An error is what differs, the first thing that does, or why it is not to be found out.
    pub(super) async fn compare(
        &self,
        place: &EndpointPlace,
        routers: &[IpAddr],
        namespace: Option<&OwnedFd>,
    ) -> Result<(), String> {
        self.compare_host_end(place).await?;
        if place.container.is_delegated() {
            return match namespace {
                Some(namespace) => compare_delegated(place, namespace).await,
                None => Ok(()),
            };
        }
        let own = open(&place.container).map_err(|error| error.message)?;
        if let Some(namespace) = namespace {
            let id = |namespace: &OwnedFd| netns::id(namespace).map_err(|error| error.to_string());
            if id(namespace)? != id(&own)? {
                return Err("it is in another network namespace than the one given".to_owned());
            }
        }
        compare_inside(place, &own, routers).await?;
        self.compare_buckets(place, &own).await
    }

    async fn compare_host_end(&self, place: &EndpointPlace) -> Result<(), String> {
        let (name, bridge) = (&place.endpoint.host_interface, &place.network.config.bridge);
        let link = self.netlink.link(name).await.map_err(|e| e.to_string())?;
        let link = link.ok_or_else(|| format!("its host's end {name} is gone"))?;
        let port = self.facts.lock().bridges.get(&place.network.id).copied();
        if port.is_none_or(|port| link.master != Some(port.if_index)) {
            return Err(format!("its host's end {name} is not on bridge {bridge}"));
        }
        if !link.up {
            return Err(format!("its host's end {name} is down"));
        }
        Ok(())
    }
}

async fn compare_inside(
    place: &EndpointPlace,
    namespace: &OwnedFd,
    routers: &[IpAddr],
) -> Result<(), String> {
    let name = &place.endpoint.interface;
    let interfaces = interfaces(namespace).await?;
    let found = interfaces.iter().find(|found| found.link.name == *name);
    let found = found.ok_or_else(|| {
        format!("there is no interface {name} in the container's network namespace")
    })?;
    compare_link(place, found)?;
    if !found.link.up {
        return Err(format!("interface {name} is down"));
    }
    for address in &place.endpoint.addresses {
        if !found.addresses.contains(address) {
            return Err(format!("interface {name} does not have address {address}"));
        }
    }
    for router in routers {
        let there = Netlink::has_default_gateway(namespace.as_fd(), (name, *router)).await;
        if !there.map_err(|error| error.to_string())? {
            return Err(format!("there is no default route by {router} on {name}"));
        }
    }
    Ok(())
}

/// Name and addresses are the runtime's: it is known by its MAC.
async fn compare_delegated(place: &EndpointPlace, namespace: &OwnedFd) -> Result<(), String> {
    let mac = place.endpoint.mac;
    let interfaces = interfaces(namespace).await?;
    let mut same = interfaces.iter();
    match same.find(|found| found.link.mac == Some(mac.octets())) {
        Some(found) => compare_link(place, found),
        None => Err(format!(
            "no interface in the container's network namespace has MAC {mac}"
        )),
    }
}

fn compare_link(place: &EndpointPlace, found: &ContainerInterface) -> Result<(), String> {
    let (name, mac) = (&found.link.name, place.endpoint.mac);
    if found.link.mac != Some(mac.octets()) {
        return Err(format!("interface {name} has another MAC than {mac}"));
    }
    let (is, wanted) = (found.link.mtu, place.network.config.mtu);
    if is != wanted {
        return Err(format!("interface {name} has MTU {is} and not {wanted}"));
    }
    Ok(())
}

async fn interfaces(namespace: &OwnedFd) -> Result<Vec<ContainerInterface>, String> {
    let listed = Netlink::container_interfaces(namespace.as_fd()).await;
    listed.map_err(|error| error.to_string())
}
