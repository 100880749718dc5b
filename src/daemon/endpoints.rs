//! Endpoints of other container runtimes.
//!
//! *Attached*: decided and stored by `control`, then namespace, veth pair, steering, names; if a step fails, all of it is
//! taken back. *Detached*: interface, namespace, then the record. Deleting an interface takes the kernel tens of
//! milliseconds in which nothing else needs to wait: the state's lock is free meanwhile, and the endpoint is noted as
//! *going*, so that nobody makes its interface again.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::core::Core;
use super::files::texts;
use super::interfaces::{networking_failed, open};
use super::limits::bandwidth;
use super::start::NETNS_DIR;
use crate::api::server::ApiError;
use crate::api::types::{
    AttachEndpoint, AttachedEndpoint, CollectEndpoints, EndpointReference, Interface, Placement,
};
use crate::control::records::{Attachment, Container, Endpoint, FamilyConfig, Kind, Network};
use crate::control::{ControlError, EndpointPlace, State, Timestamp, files, mac};
use crate::failpoint;
use crate::kernel::netns;

/// An endpoint that is to go: ids of its container and network, itself.
#[derive(Clone, Debug)]
struct Going {
    container: String,
    network: String,
    endpoint: Endpoint,
}

impl Core {
    pub(super) async fn attach_endpoint(
        self: &Arc<Self>,
        request: AttachEndpoint,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        let namespace = check_namespace(request.placement, namespace)?;
        let mut state = self.lock().await;
        let known = state.runtime_container(request.runtime, &request.container);
        if let (Some(known), Some(namespace)) = (known, &namespace) {
            refuse_other_namespace(known, namespace)?;
        }
        let made = self.ensure_network(&mut state, &request).await?;
        let attached = self
            .attach_locked(&mut state, &request, namespace.as_ref())
            .await;
        if attached.is_err()
            && let Some(network) = made
        {
            self.forget_network(&mut state, &network).await?;
            self.look(&state).await?;
            self.tell(&network, "destroy");
        }
        attached
    }

    async fn attach_locked(
        &self,
        state: &mut State,
        request: &AttachEndpoint,
        namespace: Option<&OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        let is_free = |name: &str| fs::symlink_metadata(Path::new(NETNS_DIR).join(name)).is_err();
        let mut place = tokio::task::block_in_place(|| {
            state.attach_endpoint(request, &is_free, Timestamp::now())
        })?;
        failpoint::reached("daemon.stored");
        if let Err(error) = self.make_endpoint(state, &mut place, namespace).await {
            let going = Going {
                container: place.container.id.clone(),
                network: place.network.id.clone(),
                endpoint: place.endpoint.clone(),
            };
            self.delete_interface(&going.endpoint).await?;
            self.forget(state, &going).await?;
            self.settle(state).await?;
            return Err(error);
        }
        let EndpointPlace {
            container, network, ..
        } = &place;
        tracing::info!(
            container = %container.name, network = %network.name,
            runtime = %container.runtime.as_ref().map(ToString::to_string).unwrap_or_default(),
            "attached"
        );
        if place.first {
            self.tell_container(container, "create", []);
        }
        self.tell_of(network, "connect", container);
        if place.first {
            self.tell_container(container, "start", []);
        }
        self.describe(state, &place)
    }

    /// Makes the network that is wanted if there is none of that name, and gives it then.
    async fn ensure_network(
        &self,
        state: &mut State,
        request: &AttachEndpoint,
    ) -> Result<Option<Network>, ApiError> {
        let Some(wanted) = &request.create_network else {
            return Ok(None);
        };
        if wanted.name != request.network {
            return Err(ApiError::bad_request(format!(
                "create_network: its name is \"{}\", but network is \"{}\": give the same name",
                wanted.name.escape_debug(),
                request.network.escape_debug()
            )));
        }
        let is_there =
            |network: &Network| network.name == request.network || network.id == request.network;
        if state.networks().any(is_there) {
            return Ok(None);
        }
        let made = self.create_network_locked(state, wanted).await?;
        failpoint::reached("daemon.bridged");
        Ok(state.network_by_id(&made.id).cloned())
    }

    /// Namespace, interface, routes, names.
    async fn make_endpoint(
        &self,
        state: &mut State,
        place: &mut EndpointPlace,
        namespace: Option<&OwnedFd>,
    ) -> Result<(), ApiError> {
        let number = place.endpoint.number;
        if let Some(namespace) = namespace {
            if place.first {
                netns::bind_named(&place.container.name, namespace.as_fd())
                    .map_err(networking_failed)?;
                failpoint::reached("daemon.bound");
            }
            place.container = self
                .fit_into_namespace(state, &place.container, &[number])
                .await?;
            failpoint::reached("daemon.fitted");
            let mut endpoints = place.container.endpoints();
            if let Some((_, endpoint)) = endpoints.find(|(_, new)| new.number == number) {
                place.endpoint = endpoint.clone();
            }
        }
        self.replace_missing_bridge(state, &place.network.id)
            .await?;
        self.plug(&place.container, &place.network, &place.endpoint)
            .await?;
        failpoint::reached("daemon.plugged");
        self.route(state, &place.container, None).await?;
        failpoint::reached("daemon.routed");
        self.settle(state).await?;
        failpoint::reached("daemon.settled");
        self.require_names(&place.container.id)
    }

    pub(super) async fn detach_endpoint(
        &self,
        reference: &EndpointReference,
    ) -> Result<(), ApiError> {
        let going: Vec<Going> = {
            let state = self.lock().await;
            let going = state.referenced(reference).map(going).collect();
            with_others(&state, going)
        };
        self.detach(going).await?;
        self.forget_abandoned(reference).await
    }

    /// Whether there is a container that could use the network. A runtime that was killed deletes nothing, and the namespaces of
    /// its containers are there because we keep them: if no process is in one, nor in the host's but us, all are dead.
    pub(super) async fn is_needed(&self) -> bool {
        let mut namespaces = Vec::new();
        for container in self.lock().await.containers() {
            match netns::open_path(&container.netns).and_then(netns::id) {
                Ok(namespace) if container.kind == Kind::Adopted => namespaces.push(namespace),
                _ => return true,
            }
        }
        if namespaces.is_empty() {
            return false;
        }
        match netns::open_current().and_then(netns::id) {
            Ok(own) => namespaces.push(own),
            Err(_) => return true,
        }
        tokio::task::block_in_place(|| netns::have_processes(&namespaces))
    }

    /// A container of which users have disconnected all that its runtime asked for: it lives on where they have connected
    /// it, if anywhere, until the runtime speaks of its end.
    async fn forget_abandoned(&self, reference: &EndpointReference) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        match state.abandoned(reference).cloned() {
            Some(abandoned) => self.remove_locked(&mut state, &abandoned).await,
            None => Ok(()),
        }
    }

    pub(super) async fn collect_endpoints(
        &self,
        request: &CollectEndpoints,
    ) -> Result<(), ApiError> {
        let going: Vec<Going> = {
            let state = self.lock().await;
            let going = state.collectable(request).map(going).collect();
            with_others(&state, going)
        };
        self.detach(going).await
    }

    async fn detach(&self, going: Vec<Going>) -> Result<(), ApiError> {
        if going.is_empty() {
            return Ok(());
        }
        self.going
            .lock()
            .extend(going.iter().map(|going| going.endpoint.number));
        failpoint::reached("daemon.going");
        let outcome = self.detach_marked(&going).await;
        let mut marks = self.going.lock();
        for going in &going {
            marks.remove(&going.endpoint.number);
        }
        outcome
    }

    async fn detach_marked(&self, going: &[Going]) -> Result<(), ApiError> {
        for going in going {
            self.delete_interface(&going.endpoint).await?;
        }
        failpoint::reached("daemon.unplugged");
        let mut state = self.lock().await;
        for going in going {
            let forgotten = self.forget(&mut state, going).await?;
            failpoint::reached("daemon.forgotten");
            if let Some((before, after)) = forgotten {
                self.tell_detached(&state, &before, after.as_ref(), going);
            }
        }
        self.settle(&state).await
    }

    /// Whether an endpoint's interface is being deleted.
    pub(super) fn is_going(&self, endpoint: &Endpoint) -> bool {
        self.going.lock().contains(&endpoint.number)
    }

    /// Deletes an endpoint's interface; it is gone from the container's namespace when this returns.
    async fn delete_interface(&self, endpoint: &Endpoint) -> Result<(), ApiError> {
        self.announcements.lock().remove(&endpoint.number);
        let deleted = self.netlink.delete_link(&endpoint.host_interface).await;
        deleted.map_err(|error| ApiError::internal(error.to_string()))?;
        let known = self.projected.lock().ports.remove(&endpoint.number);
        if let Some(port) = known {
            self.steering.lock().detach_container(port.if_index);
        }
        Ok(())
    }

    /// Forgets an endpoint whose interface is gone, and its container with the last one. The container before and after
    /// it, if it was there.
    async fn forget(
        &self,
        state: &mut State,
        going: &Going,
    ) -> Result<Option<(Container, Option<Container>)>, ApiError> {
        let Some(container) = state.container_by_id(&going.container).cloned() else {
            return Ok(None);
        };
        let mut endpoints = container.endpoints();
        if !endpoints.any(|(_, endpoint)| endpoint.number == going.endpoint.number) {
            return Ok(None);
        }
        drop(endpoints);
        let last = container.attachments.len() == 1;
        if last {
            self.silence(&container.id).await;
            super::containers::remove_name(&container);
            failpoint::reached("daemon.unbound");
        }
        let after =
            tokio::task::block_in_place(|| state.detach_endpoint(&container.id, &going.network))?;
        if let Some(after) = &after {
            self.route_if_possible(state, after, Some(&going.endpoint))
                .await;
        }
        Ok(Some((container, after)))
    }

    fn tell_detached(
        &self,
        state: &State,
        before: &Container,
        after: Option<&Container>,
        going: &Going,
    ) {
        let network = state.network_by_id(&going.network);
        if after.is_none() {
            self.tell_container(before, "die", [("exitCode", "0")]);
        }
        if let Some(network) = network {
            self.tell_of(network, "disconnect", before);
        }
        if after.is_none() {
            self.tell_container(before, "destroy", []);
        }
        let network = network.map(|network| network.name.as_str());
        tracing::info!(container = %before.name, network, "detached");
    }

    pub(super) async fn check_endpoint(
        &self,
        reference: &EndpointReference,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        let (place, described) = {
            let state = self.lock().await;
            let found = state.referenced(reference).next();
            let (container, attachment, endpoint) =
                found.ok_or_else(|| ControlError::NoSuchEndpoint(reference.container.clone()))?;
            let network = state
                .network_by_id(&attachment.network)
                .ok_or_else(|| ControlError::NoSuchNetwork(attachment.network_name.clone()))?;
            let place = EndpointPlace {
                container: container.clone(),
                network: network.clone(),
                endpoint: endpoint.clone(),
                first: false,
                warnings: Vec::new(),
            };
            let described = self.describe(&state, &place)?;
            (place, described)
        };
        match self
            .compare(&place, &described.gateways, namespace.as_ref())
            .await
        {
            Ok(()) => Ok(described),
            Err(difference) => Err(ApiError::new(
                409,
                format!(
                    "endpoint {} of container {} on network {} is not as it was made: {difference}: detach it and attach it again",
                    place.endpoint.interface, place.container.name, place.network.name
                ),
            )),
        }
    }

    fn describe(&self, state: &State, place: &EndpointPlace) -> Result<AttachedEndpoint, ApiError> {
        let EndpointPlace {
            container,
            network,
            endpoint,
            ..
        } = place;
        let bridge = self.facts.lock().bridges.get(&network.id).copied();
        let bridge = bridge
            .ok_or_else(|| networking_failed(format!("network {} has no bridge", network.name)))?;
        let interface = |name: &str, mac: [u8; 6]| Interface {
            name: name.to_owned(),
            mac: mac::text(mac),
            mtu: network.config.mtu,
        };
        let makes_route = |gateway: &&IpAddr| {
            let chosen = state.gateway_endpoint(container, gateway.is_ipv4());
            container.is_delegated()
                || chosen.is_some_and(|(_, _, chosen)| chosen.number == endpoint.number)
        };
        let families = network.config.families.iter();
        let routers = families
            .filter_map(FamilyConfig::default_gateway)
            .filter(|router| endpoint.address(router.is_ipv4()).is_some());
        let resolv_conf = texts(state, container, &self.host_files()).resolv_conf;
        let (nameservers, search, options) = files::words(&resolv_conf);
        Ok(AttachedEndpoint {
            container: container.id.clone(),
            name: container.name.clone(),
            first: place.first,
            network: network.name.clone(),
            network_id: network.id.clone(),
            bridge: interface(&network.config.bridge, bridge.mac),
            host: interface(&endpoint.host_interface, bridge.mac),
            inside: interface(&endpoint.interface, endpoint.mac.octets()),
            addresses: endpoint.addresses.clone(),
            gateways: endpoint
                .gateways
                .iter()
                .filter(makes_route)
                .copied()
                .collect(),
            routers: routers.collect(),
            nameservers,
            search,
            options,
            bandwidth: bandwidth(container, network),
            warnings: place.warnings.clone(),
        })
    }
}

fn going((container, attachment, endpoint): (&Container, &Attachment, &Endpoint)) -> Going {
    Going {
        container: container.id.clone(),
        network: attachment.network.clone(),
        endpoint: endpoint.clone(),
    }
}

/// And what users have connected these containers to besides, if nothing of the runtime's is left.
fn with_others(state: &State, mut all: Vec<Going>) -> Vec<Going> {
    let numbers: Vec<u32> = all.iter().map(|going| going.endpoint.number).collect();
    let containers: BTreeSet<String> = all.iter().map(|going| going.container.clone()).collect();
    for container in &containers {
        all.extend(state.others_of(container, &numbers).map(going));
    }
    all
}

/// The namespace that a placement needs, which must not be the host's own.
fn check_namespace(
    placement: Placement,
    namespace: Option<OwnedFd>,
) -> Result<Option<OwnedFd>, ApiError> {
    if placement == Placement::Host {
        return Ok(None);
    }
    let namespace = namespace.ok_or_else(|| {
        ApiError::bad_request(
            "placement namespace: no descriptor of a network namespace came with the request: send one with the connection"
                .to_owned(),
        )
    })?;
    let failed = |error: netns::NetnsError| ApiError::bad_request(format!("namespace: {error}"));
    netns::require(namespace.as_fd(), "the descriptor").map_err(failed)?;
    let own = netns::open_current().and_then(netns::id).map_err(failed)?;
    if netns::id(&namespace).map_err(failed)? == own {
        return Err(ApiError::bad_request(
            "namespace: that is the host's own network namespace: give a container's".to_owned(),
        ));
    }
    Ok(Some(namespace))
}

/// All endpoints of a container are in one namespace.
fn refuse_other_namespace(container: &Container, namespace: &OwnedFd) -> Result<(), ApiError> {
    if container.is_delegated() {
        return Ok(());
    }
    let known = netns::id(open(container)?);
    let same = known.is_ok_and(|known| netns::id(namespace).is_ok_and(|id| id == known));
    if same {
        return Ok(());
    }
    let id = container
        .runtime
        .as_ref()
        .map_or("", |known| known.id.as_str());
    Err(ApiError::new(
        409,
        format!(
            "container {id} is in another network namespace already ({}): detach it there first, or `tunbridge rm -f {}`",
            container.netns.display(),
            container.name
        ),
    ))
}
