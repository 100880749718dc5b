//! What dockerd's driver asks for besides endpoints: leased addresses, ports and names of its containers, labels.

use std::net::IpAddr;

use super::core::Core;
use super::host_facts::host_facts;
use crate::api::server::ApiError;
use crate::api::types::{
    ChangeLabels, LeasedAddress, LeasedPool, NameEndpoint, PublishEndpoint, RequestAddress,
    RequestLeasedPool,
};
use crate::control::ControlError;

impl Core {
    pub(super) async fn publish_endpoint(&self, request: &PublishEndpoint) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let known = state.runtime_container(request.runtime, &request.container);
        let known = known.ok_or_else(|| ControlError::NoSuchEndpoint(request.container.clone()))?;
        let (id, former) = (known.id.clone(), known.publish.clone());
        let container = tokio::task::block_in_place(|| state.publish_only(&id, &request.publish))?;
        if let Err(error) = self.settle(&state).await {
            tokio::task::block_in_place(|| state.publish_only(&id, &former))?;
            return Err(error);
        }
        tracing::info!(container = %container.name, ports = request.publish.join(" "), "published");
        Ok(())
    }

    pub(super) async fn name_endpoint(&self, request: &NameEndpoint) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let known = state.runtime_container(request.runtime, &request.container);
        let former = known.map_or_else(String::new, |container| container.name.clone());
        let named = tokio::task::block_in_place(|| state.name_endpoint(request))?;
        let Some(container) = named else {
            return Ok(());
        };
        self.settle(&state).await?;
        if container.name != former {
            self.tell_container(&container, "rename", [("oldName", former.as_str())]);
        }
        tracing::info!(container = %container.name, id = %container.id, "named");
        Ok(())
    }

    pub(super) async fn change_labels(
        &self,
        network: &str,
        change: &ChangeLabels,
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        Ok(tokio::task::block_in_place(|| {
            state.change_labels(network, &change.labels)
        })?)
    }

    pub(super) async fn request_pool(
        &self,
        request: &RequestLeasedPool,
    ) -> Result<LeasedPool, ApiError> {
        let mut state = self.lock().await;
        let host = host_facts(&self.netlink, None, state.networks())
            .await
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let pool = tokio::task::block_in_place(|| state.request_pool(request, &host))?;
        tracing::info!(pool = %pool.id, subnet = %pool.subnet, network = pool.network, "addresses to be leased");
        Ok(pool)
    }

    pub(super) async fn release_pool(&self, pool: &str) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        tokio::task::block_in_place(|| state.release_pool(pool))?;
        tracing::info!(pool, "pool given back");
        Ok(())
    }

    pub(super) async fn request_address(
        &self,
        pool: &str,
        request: RequestAddress,
    ) -> Result<LeasedAddress, ApiError> {
        let mut state = self.lock().await;
        Ok(tokio::task::block_in_place(|| {
            state.request_address(pool, request)
        })?)
    }

    pub(super) async fn release_address(
        &self,
        pool: &str,
        address: IpAddr,
    ) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        Ok(tokio::task::block_in_place(|| {
            state.release_address(pool, address)
        })?)
    }
}
