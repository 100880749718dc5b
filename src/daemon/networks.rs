//! Networks as the daemon arranges them: made and removed, containers connected and disconnected.
//!
//! Control decides and stores first; if the kernel then refuses, the decision is taken back and nothing is left. What is
//! told to the user as done is stored.

use super::core::Core;
use super::host_facts::host_facts;
use crate::api::filters::Filters;
use crate::api::server::ApiError;
use crate::api::types::{
    ConnectNetwork, CreateNetwork, CreatedNetwork, DisconnectNetwork, PrunedNetworks,
};
use crate::control::filters::NetworkFilter;
use crate::control::records::{Container, Endpoint, Network};
use crate::control::{State, Timestamp, network_options};
use crate::failpoint;
use crate::kernel::Link;

impl Core {
    pub(super) async fn create_network(
        &self,
        request: CreateNetwork,
    ) -> Result<CreatedNetwork, ApiError> {
        let mut state = self.lock().await;
        self.create_network_locked(&mut state, &request).await
    }

    pub(super) async fn create_network_locked(
        &self,
        state: &mut State,
        request: &CreateNetwork,
    ) -> Result<CreatedNetwork, ApiError> {
        let host = host_facts(
            &self.netlink,
            network_options::wanted_bridge(request),
            state.networks(),
        )
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
        let (network, warnings) =
            tokio::task::block_in_place(|| state.create_network(request, &host, Timestamp::now()))?;
        failpoint::reached("daemon.network");
        let made = match self.make_bridge(state, &network).await {
            Ok(()) => self.look(state).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            self.forget_network(state, &network).await?;
            return Err(error);
        }
        tracing::info!(network = %network.name, id = %network.id, "network made");
        self.tell(&network, "create");
        Ok(CreatedNetwork {
            id: network.id,
            warning: warnings.join("\n"),
        })
    }

    /// Also says what is left of it.
    pub(super) async fn remove_network(
        &self,
        query: &str,
        force: bool,
    ) -> Result<Option<String>, ApiError> {
        let mut state = self.lock().await;
        let network = state.removable_network(query, force)?.clone();
        let left = self.forget_network(&mut state, &network).await?;
        self.look(&state).await?;
        tracing::info!(network = %network.name, id = %network.id, "network removed");
        self.tell(&network, "destroy");
        Ok(left)
    }

    /// Removes the networks that nobody uses and gives their names.
    pub(super) async fn prune_networks(
        &self,
        filters: &Filters,
    ) -> Result<PrunedNetworks, ApiError> {
        let mut state = self.lock().await;
        let unused = prunable(&state, filters)?;
        let links = self.all_links().await?;
        let mut warnings = Vec::new();
        for network in &unused {
            warnings.extend(self.forget_network_of(&mut state, network, &links).await?);
            self.tell(network, "destroy");
        }
        self.look(&state).await?;
        let names: Vec<String> = unused.into_iter().map(|network| network.name).collect();
        Ok(PrunedNetworks {
            networks_deleted: Some(names).filter(|names| !names.is_empty()),
            warnings,
        })
    }

    /// Takes bridge and record away, and says what is left.
    pub(super) async fn forget_network(
        &self,
        state: &mut State,
        network: &Network,
    ) -> Result<Option<String>, ApiError> {
        let links = self.all_links().await?;
        self.forget_network_of(state, network, &links).await
    }

    async fn all_links(&self) -> Result<Vec<Link>, ApiError> {
        let links = self.netlink.links().await;
        links.map_err(|error| ApiError::internal(error.to_string()))
    }

    /// The bridge goes first and the record after it, so that a daemon that is killed in between finds out.
    async fn forget_network_of(
        &self,
        state: &mut State,
        network: &Network,
        links: &[Link],
    ) -> Result<Option<String>, ApiError> {
        let deleted = self.delete_bridge(state, network, links).await;
        let left = deleted.map_err(|error| {
            ApiError::internal(format!(
                "error while removing network: cannot delete bridge {}: {error}",
                network.config.bridge
            ))
        })?;
        {
            let mut facts = self.facts.lock();
            facts.bridges.remove(&network.id);
            facts.broken.remove(&network.id);
        }
        tokio::task::block_in_place(|| state.remove_network(&network.id))?;
        Ok(left)
    }

    pub(super) async fn connect(
        &self,
        network: &str,
        request: ConnectNetwork,
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        refuse_delegated(&state, &request.container)?;
        let connection = tokio::task::block_in_place(|| {
            state.connect(&request.container, network, &request.endpoint_config)
        })?;
        let (container, network) = (&connection.container, &connection.network);
        if let Some(endpoint) = &connection.endpoint {
            let plugged = self.plug_new(&mut state, container, endpoint).await;
            if let Err(error) = plugged {
                self.unplug(endpoint).await;
                let undone = tokio::task::block_in_place(|| {
                    state.disconnect(&container.id, &network.id, true)
                })?;
                // The route that was there before may have been replaced already.
                self.route_if_possible(&state, &undone.after, Some(endpoint))
                    .await;
                self.settle(&state).await?;
                return Err(error);
            }
        }
        self.log_warnings(container, &connection.warnings);
        tracing::info!(container = %container.name, network = %network.name, "connected");
        self.tell_of(network, "connect", container);
        Ok(())
    }

    /// Makes the interface of a container's new endpoint, and whatever follows from it.
    async fn plug_new(
        &self,
        state: &mut State,
        container: &Container,
        endpoint: &Endpoint,
    ) -> Result<(), ApiError> {
        let container = self
            .fit_into_namespace(state, container, &[endpoint.number])
            .await?;
        if let Some(attachment) = container.attachments.iter().find(|a| {
            a.endpoint
                .as_ref()
                .is_some_and(|new| new.number == endpoint.number)
        }) {
            self.replace_missing_bridge(state, &attachment.network)
                .await?;
        }
        let place = state
            .gateway_order(&container)
            .into_iter()
            .find(|(_, _, new)| new.number == endpoint.number);
        if let Some((_, network, endpoint)) = place {
            self.plug(&container, network, endpoint).await?;
        }
        self.route(state, &container, None).await?;
        let nameless = self.require_names(&container.id).is_err();
        self.settle(state).await?;
        // Without names before, it loses none by this.
        if nameless {
            return Ok(());
        }
        self.require_names(&container.id)
    }

    pub(super) async fn disconnect(
        &self,
        network: &str,
        request: DisconnectNetwork,
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        if let Some(endpoint) = state.disconnectable(&request.container, network, request.force)? {
            self.unplug(&endpoint).await;
        }
        let done = tokio::task::block_in_place(|| {
            state.disconnect(&request.container, network, request.force)
        })?;
        if let Some(endpoint) = &done.endpoint {
            // As in Docker, a container that has spoilt its own routes is disconnected all the same.
            self.route_if_possible(&state, &done.after, Some(endpoint))
                .await;
            self.settle(&state).await?;
        }
        self.log_warnings(&done.after, &done.warnings);
        tracing::info!(container = %done.after.name, network, "disconnected");
        if let Some(network) = &done.network {
            self.tell_of(network, "disconnect", &done.after);
        }
        Ok(())
    }

    /// Removes a link, `PARENT/ALIAS`.
    pub(super) async fn remove_link(&self, link: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let container = tokio::task::block_in_place(|| state.remove_link(link))?;
        tracing::info!(container = %container.name, link, "link removed");
        self.settle(&state).await
    }

    fn log_warnings(&self, container: &Container, warnings: &[String]) {
        for warning in warnings {
            tracing::warn!(container = %container.name, "{warning}");
        }
    }
}

/// What its runtime did not ask for, it would not take.
fn refuse_delegated(state: &State, container: &str) -> Result<(), ApiError> {
    let container = state.container(container)?;
    if !container.is_delegated() {
        return Ok(());
    }
    Err(ApiError::new(
        409,
        format!(
            "container {} is another runtime's, which gives it its interfaces: connect it with that one",
            container.name
        ),
    ))
}

/// Networks that users made, nobody uses and the filters choose, by name.
fn prunable(state: &State, filters: &Filters) -> Result<Vec<Network>, ApiError> {
    let filter = NetworkFilter::prune(filters, Timestamp::now())?;
    let unused = state.unused_networks();
    let mut chosen: Vec<Network> = unused
        .filter(|network| filter.matches(network, false))
        .cloned()
        .collect();
    chosen.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(chosen)
}
