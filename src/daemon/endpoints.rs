//! Endpoints of other container runtimes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::core::Core;
use crate::api::server::ApiError;
use crate::api::types::{AttachEndpoint, AttachedEndpoint, CollectEndpoints, EndpointReference};

impl Core {
    pub(super) async fn attach_endpoint(
        self: &Arc<Self>,
        request: AttachEndpoint,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        todo!("{request:?} {namespace:?}")
    }

    pub(super) async fn detach_endpoint(
        &self,
        reference: &EndpointReference,
    ) -> Result<(), ApiError> {
        todo!("{reference:?}")
    }

    pub(super) async fn check_endpoint(
        &self,
        reference: &EndpointReference,
        namespace: Option<OwnedFd>,
    ) -> Result<AttachedEndpoint, ApiError> {
        todo!("{reference:?} {namespace:?}")
    }

    pub(super) async fn collect_endpoints(
        &self,
        request: &CollectEndpoints,
    ) -> Result<(), ApiError> {
        todo!("{request:?}")
    }
}
